"""Random policies, compared with the security server of libsepol (checkpolicy -d): constraints, transitions, labels."""
from __future__ import annotations

import random
import re
import subprocess
from types import SimpleNamespace

import pytest

from glasskernel import Kernel
from glasskernel.kernel.audit import audit_init
from glasskernel.lib.errno import KernelError
from glasskernel.security.selinux.classmap import secclass_map
from glasskernel.security.selinux.ss import services as ss
from glasskernel.security.selinux.ss.services_load import security_load_policy, security_set_bools
from glasskernel.security.selinux.ss.services_net import security_port_sid
from tests.conftest import need
from tests.selinux.policies import policy

CLASSES = ("file", "dir", "process", "fd")
NUMBER = {name: number for number, name in enumerate(secclass_map, 1)}
TYPES = ["kernel_t", "user_t", "prog_t", "file_t", "secret_t", "prog_exec_t", *(f"x{i}_t" for i in range(5))]
ROLES = ["system_r", "user_r", "staff_r", "object_r"]
USERS = ["system_u", "user_u"]
LEVELS = ["s0", "s1", "s0:c0", "s0:c1.c3", "s1:c0.c9", "s0-s1", "s0-s0:c0.c4", "s0:c1-s0:c1,c2", "s0:c2-s1:c0.c9"]


def permissions(dice, tclass):
    names = secclass_map[tclass]
    return " ".join(dice.sample(names, dice.randint(1, min(5, len(names)))))


def expression(dice, mls, depth=2):
    """A constraint."""
    if depth and dice.random() < 0.6:
        kind = dice.choice(["and", "or", "not"])
        parts = [expression(dice, mls, depth - 1) for _ in range(1 if kind == "not" else 2)]
        return f"({kind} {' '.join(parts)})"
    if mls and dice.random() < 0.5:
        pair = dice.choice(["l1 l2", "l1 h2", "h1 l2", "h1 h2", "l1 h1", "l2 h2"])
        return f"({dice.choice(['eq', 'neq', 'dom', 'domby', 'incomp'])} {pair})"
    what = dice.choice("urt")
    equal = dice.choice(["eq", "neq"])
    if dice.random() < 0.5:
        return f"({equal} {what}1 {what}2)"
    names = {"u": USERS, "r": ROLES, "t": TYPES}[what]
    return f"({equal} {what}{dice.choice('12')} ({' '.join(dice.sample(names, 2))}))"


def random_policy(dice):
    """Rules, constraints, transitions of everything, defaults, labels of file systems and ports."""
    lines = [f"(type {name}) (roletype system_r {name}) (roletype staff_r {name})" for name in TYPES[6:]]
    lines += [f"(roletype object_r {name})" for name in TYPES]
    lines += ["(role staff_r)", "(userrole system_u staff_r)", "(roletype staff_r prog_t)", "(boolean b0 true)",
              "(boolean b1 false)"]
    for _ in range(60):
        tclass = dice.choice(CLASSES)
        lines.append(f"(allow {dice.choice([*TYPES, 'domain'])} {dice.choice([*TYPES, 'file_type', 'self'])} "
                     f"({tclass} ({permissions(dice, tclass)})))")
    lines.append("(allow domain domain (process (transition dyntransition fork)))")
    for _ in range(8):
        tclass = dice.choice(CLASSES)
        lines.append(f"(constrain ({tclass} ({permissions(dice, tclass)})) {expression(dice, False)})")
        lines.append(f"(mlsconstrain ({tclass} ({permissions(dice, tclass)})) {expression(dice, True)})")
    for kind in ("typetransition", "typemember", "typechange"):
        for source in dice.sample(TYPES, 4):
            lines.append(f"({kind} {source} {dice.choice(TYPES)} {dice.choice(CLASSES)} {dice.choice(TYPES)})")
    source, target = dice.sample(TYPES, 2)
    lines.append(f"(booleanif (xor b0 b1) (true (allow {source} {target} (file (read))))"
                 f"(false (allow {source} {target} (file (write)))))")
    for source, target in zip(dice.sample(TYPES, 5), dice.sample(TYPES, 5), strict=True):
        lines.append(f"(rangetransition {source} {target} {dice.choice(CLASSES)} ((s0) (s0 (range c0 c{dice.randint(1, 9)}))))")
    for target in dice.sample(TYPES, 3):
        role, new = dice.sample(ROLES[:3], 2)
        lines.append(f"(roletransition {role} {target} {dice.choice(CLASSES)} {new})")
        lines.append(f"(roleallow {role} {new})")
    for what, values in (("user", ("source", "target")), ("role", ("source", "target")), ("type", ("source", "target")),
                         ("range", ("source low", "source high", "target low-high", "target high"))):
        lines.append(f"(default{what} {dice.choice(CLASSES)} {dice.choice(values)})")
    for place in ("/", "/sys", "/sys/kernel", "/sys/kernel/debug"):
        lines.append(f"(genfscon proc {place} (system_u object_r {dice.choice(TYPES)} ((s0) (s0))))")
    for fstype, kind in (("ext4", "xattr"), ("tmpfs", "trans"), ("sockfs", "task")):
        lines.append(f"(fsuse {kind} {fstype} (system_u object_r {dice.choice(TYPES)} ((s0) (s0))))")
    for protocol, ports in (("tcp", "80"), ("tcp", "(100 200)"), ("udp", "(1 90)")):
        lines.append(f"(portcon {protocol} {ports} (system_u object_r {dice.choice(TYPES)} ((s0) (s0))))")
    return "\n".join(lines)


class Libsepol:
    """checkpolicy's menu."""

    def __init__(self, path):
        self.command = [need("checkpolicy", "checkpolicy"), "-b", "-M", "-d", str(path)]
        self.before = []                    # what was asked already: it gives SIDs their numbers

    def ask(self, questions):
        """The answers to `(option, argument ...)`."""
        lines = [line for question in [*self.before, *questions] for line in question]
        done = subprocess.run(self.command, input="\n".join([*map(str, lines), "q", ""]), capture_output=True, text=True,
                              check=True)
        answers = done.stdout.split("Choose:")[1:-1]
        assert len(answers) == len(self.before) + len(questions)
        return [re.sub(r"^.*\?\s*", "", answer, flags=re.DOTALL).strip() for answer in answers[len(self.before):]]

    def sids(self, contexts):
        """Context -> its SID; those that are valid."""
        questions = [("2", context) for context in contexts]
        answers = self.ask(questions)
        self.before += questions
        return {context: int(answer.split()[1]) for context, answer in zip(contexts, answers, strict=True)
                if answer.startswith("sid ")}

    def texts(self, questions):
        """The contexts that are the answers; None where there is none."""
        answers = self.ask(questions)
        self.before += questions
        sids = [re.search(r"sid (\d+)", answer) for answer in answers]
        texts = self.ask([("1", sid[1] if sid else 1) for sid in sids])
        return [text.partition(" ")[2] if sid else None for text, sid in zip(texts, sids, strict=True)]


def ours(state, ask, *arguments):
    try:
        return ss.security_sid_to_context(state, ask(*arguments)).decode()
    except KernelError:
        return None


@pytest.mark.parametrize("seed", range(5))
def test_answers_are_those_of_libsepol(seed, tmp_path):
    dice = random.Random(seed)
    data = policy(random_policy(dice))
    (tmp_path / "policy").write_bytes(data)
    libsepol = Libsepol(tmp_path / "policy")
    kernel = Kernel(home=False)
    audit_init(kernel)
    state = ss.selinux_ss_init(kernel)
    state.enforcing = True
    security_load_policy(state, data)
    wanted = sorted({":".join(map(dice.choice, (USERS, ROLES, TYPES, LEVELS))) for _ in range(150)})
    theirs = libsepol.sids(wanted)
    mine = {}
    for context in wanted:
        try:
            mine[context] = ss.security_context_to_sid(state, context.encode())
        except KernelError:
            assert context not in theirs
    assert list(mine) == list(theirs)
    assert 20 < len(mine) < len(wanted)
    assert [ss.security_sid_to_context(state, sid).decode() for sid in mine.values()] == list(mine)

    pairs = [(dice.choice(list(mine)), dice.choice(list(mine)), dice.choice(CLASSES)) for _ in range(300)]
    given = libsepol.ask([("0", theirs[s], theirs[t], tclass) for s, t, tclass in pairs])
    some = 0
    for (s, t, tclass), answer in zip(pairs, given, strict=True):
        names = re.fullmatch(r"allowed \{(.*)\}.*", answer, re.DOTALL)[1].split()
        allowed = ss.security_compute_av(state, mine[s], mine[t], NUMBER[tclass]).allowed
        assert {name for bit, name in enumerate(secclass_map[tclass]) if allowed >> bit & 1} == set(names), (s, t, tclass)
        some += bool(names)
    assert some > 20

    for option, ask in (("3", lambda *a: ss.security_transition_sid(state, *a, None)),
                        ("4", lambda *a: ss.security_member_sid(state, *a)),
                        ("5", lambda *a: ss.security_change_sid(state, *a))):
        given = libsepol.texts([(option, theirs[s], theirs[t], tclass) for s, t, tclass in pairs])
        for (s, t, tclass), answer in zip(pairs, given, strict=True):
            assert ours(state, ask, mine[s], mine[t], NUMBER[tclass]) == answer, (option, s, t, tclass)

    paths = ["/", "/uptime", "/sys", "/sys/vm/x", "/sys/kernel/x", "/sys/kernel/debug/y"]
    given = libsepol.texts([("d", "proc", path, "file") for path in paths])
    assert [ours(state, ss.security_genfs_sid, state, b"proc", path.encode(), NUMBER["file"]) for path in paths] == given
    types = ["ext4", "tmpfs", "sockfs"]
    given = libsepol.texts([("c", fstype) for fstype in types])
    assert [ours(state, lambda sb: ss.security_fs_use(state, sb)[1], SimpleNamespace(s_type=SimpleNamespace(
        name=fstype.encode()))) for fstype in types] == given
    ports = [("tcp", 80), ("tcp", 81), ("tcp", 150), ("udp", 80), ("udp", 91)]
    given = libsepol.texts([("9", protocol, port) for protocol, port in ports])
    assert [ours(state, security_port_sid, state, {"tcp": 6, "udp": 17}[protocol], port) for protocol, port in ports] == given

    security_set_bools(state, [True, True])
    switched = [(theirs[s], theirs[t], mine[s], mine[t]) for s, t, _ in pairs[:50]]
    given = libsepol.ask([("h", "b1", 1), *(("0", s, t, "file") for s, t, _, _ in switched)])[1:]
    for (_, _, s, t), answer in zip(switched, given, strict=True):
        allowed = ss.security_compute_av(state, s, t, NUMBER["file"]).allowed
        assert {name for bit, name in enumerate(secclass_map["file"]) if allowed >> bit & 1} == set(answer.split()[2:-1])
