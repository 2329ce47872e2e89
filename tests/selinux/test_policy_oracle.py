"""Random policies: what they allow, compared with what setools reads in them."""
from __future__ import annotations

import collections
import json
import random
import re
import shutil
import subprocess

import pytest

from glasskernel import Kernel
from glasskernel.kernel.audit import audit_init
from glasskernel.security.selinux.classmap import secclass_map
from glasskernel.security.selinux.ss.services import security_compute_av, security_context_to_sid, selinux_ss_init
from glasskernel.security.selinux.ss.services_load import security_get_bools, security_load_policy, security_set_bools
from tests.selinux.policies import policy

# Run by Debian's python3, for which setools is installed: the rules of a policy with their attributes, as JSON.
SETOOLS = """
import json, sys, setools
p = setools.SELinuxPolicy(sys.argv[1])
rules = []
for rule in p.terules():
    if str(rule.ruletype) in ("allow", "auditallow", "dontaudit"):
        try:
            condition = [str(rule.conditional), bool(rule.conditional_block)]
        except setools.exception.RuleNotConditional:
            condition = None
        rules.append([str(rule.ruletype), str(rule.source), str(rule.target), str(rule.tclass), sorted(rule.perms), condition])
attributes = {str(a): [str(t) for t in a.expand()] for a in p.typeattributes()}
json.dump([rules, attributes], sys.stdout)
"""
CLASSES = ("file", "dir", "process", "fd", "tcp_socket")


def random_rules(dice):
    """Types, attributes, booleans, rules."""
    types = [f"r{i}_t" for i in range(12)]
    attributes = [f"a{i}" for i in range(5)]
    lines = [f"(type {name}) (roletype system_r {name})" for name in types]
    lines += [f"(typeattribute {name}) (typeattributeset {name} ({' '.join(dice.sample(types, 4))}))" for name in attributes]
    lines += [f"(boolean b{i} {dice.choice(['true', 'false'])})" for i in range(3)]

    def rule():
        kind = dice.choice(["allow", "allow", "allow", "auditallow", "dontaudit"])
        tclass = dice.choice(CLASSES)
        permissions = " ".join(dice.sample(secclass_map[tclass], dice.randint(1, min(4, len(secclass_map[tclass])))))
        source, target = dice.choice(types + attributes), dice.choice([*types, *attributes, "self"])
        return f"({kind} {source} {target} ({tclass} ({permissions})))"

    lines += [rule() for _ in range(150)]
    for _ in range(15):
        first, second = dice.sample(["b0", "b1", "b2"], 2)
        expression = f"({dice.choice(['and', 'or', 'xor', 'eq', 'neq'])} {first} (not {second}))"
        branches = " ".join(f"({branch} {rule()} {rule()})" for branch in ("true", "false"))
        lines.append(f"(booleanif {expression} {branches})")
    return types, "\n".join(lines)


def holds(condition, values):
    """`b0 && !b1`: a condition of ours as setools prints it, for the states of the booleans."""
    condition = re.sub(r"!(?!=)\s*(\w+)", lambda name: str(not values[name[1]]), condition)
    condition = re.sub(r"\bb\d\b", lambda name: str(values[name[0]]), condition)
    return eval(condition.replace("&&", "and").replace("||", "or").replace("^", "!="))


@pytest.mark.parametrize("seed", range(4))
def test_decisions_are_those_of_setools(seed, tmp_path):
    """Every pair of types, five classes, two states of the booleans."""
    assert shutil.which("sesearch"), "apt-get install setools (or: make test)"
    dice = random.Random(seed)
    types, text = random_rules(dice)
    data = policy(text)
    (tmp_path / "policy").write_bytes(data)
    read = subprocess.run(["/usr/bin/python3", "-c", SETOOLS, str(tmp_path / "policy")], capture_output=True, check=True)
    rules, attributes = json.loads(read.stdout)
    kernel = Kernel(home=False)
    audit_init(kernel)
    state = selinux_ss_init(kernel)
    security_load_policy(state, data)
    sid_of = {name: security_context_to_sid(state, f"system_u:system_r:{name}:s0".encode()) for name in types}
    compared = 0
    for _ in range(2):
        values = {name.decode(): value for name, value in security_get_bools(state.ss.policydb)}
        expected = collections.defaultdict(lambda: [0, 0, 0xFFFFFFFF])
        for kind, source, target, tclass, permissions, condition in rules:
            if tclass not in CLASSES or (condition is not None and holds(condition[0], values) != condition[1]):
                continue
            bits = sum(1 << secclass_map[tclass].index(permission) for permission in permissions)
            for s in attributes.get(source, [source]):
                for t in [s] if target == "self" else attributes.get(target, [target]):
                    vector = expected[s, t, tclass]
                    if kind == "allow":
                        vector[0] |= bits
                    elif kind == "auditallow":
                        vector[1] |= bits
                    else:
                        vector[2] &= ~bits
        for number, tclass in enumerate(secclass_map, 1):
            for s in types if tclass in CLASSES else ():
                for t in types:
                    avd = security_compute_av(state, sid_of[s], sid_of[t], number)
                    assert [avd.allowed, avd.auditallow, avd.auditdeny] == expected[s, t, tclass], (s, t, tclass)
                    compared += 1
        security_set_bools(state, [not value for _, value in security_get_bools(state.ss.policydb)])
    assert compared == 2 * len(CLASSES) * len(types) ** 2
