"""The security server: policies of secilc, what they allow and what new objects become (security/selinux/ss)."""
from __future__ import annotations

import subprocess
import types

import pytest

from glasskernel import Kernel
from glasskernel.kernel.audit import audit_init
from glasskernel.lib.errno import EACCES, EINVAL, ENOENT, EPERM, KernelError
from glasskernel.security.selinux import av_permissions, flask
from glasskernel.security.selinux.av_permissions import (
    FILE__EXECUTE,
    FILE__GETATTR,
    FILE__IOCTL,
    FILE__READ,
    FILE__WRITE,
    PROCESS__DYNTRANSITION,
    PROCESS__FORK,
    PROCESS__TRANSITION,
)
from glasskernel.security.selinux.classmap import secclass_map
from glasskernel.security.selinux.flask import (
    SECCLASS_BPF,
    SECCLASS_DIR,
    SECCLASS_FILE,
    SECCLASS_PROCESS,
    SECCLASS_TCP_SOCKET,
    SECINITSID_KERNEL,
    SECINITSID_UNLABELED,
)
from glasskernel.security.selinux.ss import services as ss
from glasskernel.security.selinux.ss import services_load as load
from glasskernel.security.selinux.ss.policydb_write import security_read_policy
from glasskernel.security.selinux.ss.services_net import security_node_sid, security_port_sid, security_sid_mls_copy
from glasskernel.security.selinux.types import (
    AVD_FLAGS_PERMISSIVE,
    SECURITY_FS_USE_GENFS,
    SECURITY_FS_USE_NONE,
    SECURITY_FS_USE_TASK,
    SECURITY_FS_USE_TRANS,
    SECURITY_FS_USE_XATTR,
)
from tests.conftest import need
from tests.selinux.policies import policy

KERNEL, USER = b"system_u:system_r:kernel_t:s0", b"user_u:user_r:user_t:s0"
FILE, SECRET = b"system_u:object_r:file_t:s0", b"system_u:object_r:secret_t:s0"


def empty_server():
    """A security server before the first policy."""
    kernel = Kernel(home=False)
    audit_init(kernel)
    state = ss.selinux_ss_init(kernel)
    kernel.selinux = state
    return state


def server(extra="", **options):
    """A security server with a policy of policies.py."""
    state = empty_server()
    load.security_load_policy(state, policy(extra, **options))
    return state


def allowed(state, scontext, tcontext, tclass):
    sids = [ss.security_context_to_sid(state, context) for context in (scontext, tcontext)]
    return ss.security_compute_av(state, *sids, tclass)


def fails(errno, function, *arguments):
    with pytest.raises(KernelError) as error:
        function(*arguments)
    assert error.value.errno == errno


def log(state):
    return state.kernel.dmesg()


# ---- numbers -----------------------------------------------------------------------------------------------
def test_numbers_are_those_that_linux_makes_of_the_class_map():
    """scripts/selinux/genheaders"""
    classes = {name: value for name, value in vars(flask).items() if name.startswith("SECCLASS_")}
    assert classes == {f"SECCLASS_{name.upper()}": number for number, name in enumerate(secclass_map, 1)}
    bits = {name: value for name, value in vars(av_permissions).items() if "__" in name and name[0] != "_"}
    for name, value in bits.items():
        tclass, _, permission = name.lower().partition("__")
        assert 1 << secclass_map[tclass].index(permission) == value, name


# ---- without a policy --------------------------------------------------------------------------------------
def test_without_a_policy_everything_is_allowed_and_contexts_are_the_names_of_initial_sids():
    state = empty_server()
    assert ss.security_compute_av(state, 1, 2, SECCLASS_FILE).allowed == 0xFFFFFFFF
    assert ss.security_sid_to_context(state, SECINITSID_KERNEL) == b"kernel"
    assert ss.security_context_to_sid(state, b"unlabeled") == SECINITSID_UNLABELED
    assert ss.security_context_to_sid(state, b"whatever") == SECINITSID_KERNEL
    assert ss.security_transition_sid(state, 1, 3, SECCLASS_PROCESS, None) == 1
    assert ss.security_transition_sid(state, 1, 3, SECCLASS_FILE, b"x") == 3
    fails(EINVAL, ss.security_context_to_sid, state, b"")
    fails(EINVAL, ss.security_sid_to_context, state, 28)
    fails(EINVAL, security_read_policy, state)


# ---- reading -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("version", range(15, 32))
def test_every_version_of_the_format_is_read(version):
    """policydb.c: versions 15 (2.6.0) to 31 (4.13). From 20 on it can be written again, byte for byte."""
    rule = "(allow user_t file_t (file (read))) (typetransition user_t prog_exec_t process prog_t)"
    mls = version >= 19
    state = empty_server()
    data = policy(rule, version=version, mls=mls)
    load.security_load_policy(state, data)
    level = b":s0" if mls else b""
    user, file = b"user_u:user_r:user_t" + level, b"system_u:object_r:file_t" + level
    assert allowed(state, user, file, SECCLASS_FILE).allowed == FILE__READ
    new = ss.security_transition_sid(state, ss.security_context_to_sid(state, user), ss.security_context_to_sid(
        state, b"system_u:object_r:prog_exec_t" + level), SECCLASS_PROCESS, None)
    assert ss.security_sid_to_context(state, new) == b"user_u:user_r:prog_t" + level
    if version >= 20:
        assert security_read_policy(state) == data
    else:
        fails(EINVAL, security_read_policy, state)


def test_policies_of_checkpolicy_are_read_too(tmp_path):
    """checkpolicy(8) writes some things otherwise than secilc: aliases count as values there."""
    rule = "(allow user_t file_t (file (read))) (mlsconstrain (file (write)) (dom l1 l2)) (roleallow user_r system_r)"
    (tmp_path / "policy").write_bytes(policy(rule))
    tool = need("checkpolicy", "checkpolicy")
    for arguments in (["-b", "-F", "-o", "policy.conf", "policy"], ["-c", "31", "-o", "policy.again", "policy.conf"]):
        subprocess.run([tool, "-M", *arguments], cwd=tmp_path, check=True, capture_output=True)
    state = empty_server()
    data = (tmp_path / "policy.again").read_bytes()
    load.security_load_policy(state, data)
    assert data != policy(rule)
    assert security_read_policy(state) == data
    assert allowed(state, USER, FILE, SECCLASS_FILE).allowed == FILE__READ
    assert ss.security_sid_to_context(state, ss.security_context_to_sid(state, FILE + b":last")) == FILE + b":c9"


def test_a_newer_policy_is_refused_with_a_message():
    state = empty_server()
    fails(EINVAL, load.security_load_policy, state, policy(version=32))
    assert "SELinux:  policydb version 32 does not match my version range 15-31" in log(state)
    assert not state.initialized


def test_what_is_no_policy_is_refused_with_a_message():
    state = empty_server()
    fails(EINVAL, load.security_load_policy, state, b"#!/bin/sh\necho hello\n")
    assert "policydb magic number 0x622f2123 does not match expected magic number 0xf97cff8c" in log(state)
    fails(EINVAL, load.security_load_policy, state, b"")
    data = policy()
    for length in range(0, len(data) - 1, 97):
        fails(EINVAL, load.security_load_policy, state, data[:length])
    assert not state.initialized


# ---- rules -------------------------------------------------------------------------------------------------
def test_rules_of_attributes_hold_for_their_types():
    state = server("(allow domain file_type (file (getattr))) (allow user_t file_t (file (read write)))")
    assert allowed(state, USER, FILE, SECCLASS_FILE).allowed == FILE__GETATTR | FILE__READ | FILE__WRITE
    assert allowed(state, USER, SECRET, SECCLASS_FILE).allowed == FILE__GETATTR
    assert allowed(state, USER, SECRET, SECCLASS_DIR).allowed == 0


def test_dontaudit_and_auditallow():
    state = server("(dontaudit user_t secret_t (file (read))) (auditallow user_t file_t (file (write)))"
                   "(allow user_t file_t (file (read)))")
    avd = allowed(state, USER, SECRET, SECCLASS_FILE)
    assert (avd.allowed, avd.auditallow, avd.auditdeny) == (0, 0, 0xFFFFFFFF & ~FILE__READ)
    assert allowed(state, USER, FILE, SECCLASS_FILE).auditallow == FILE__WRITE


def test_permissive_types_are_marked():
    state = server("(typepermissive user_t)")
    assert allowed(state, USER, FILE, SECCLASS_FILE).flags == AVD_FLAGS_PERMISSIVE
    assert allowed(state, KERNEL, FILE, SECCLASS_FILE).flags == 0


BOOLEANS = """(boolean share true) (boolean lock false)
(booleanif (and share (not lock)) (true (allow user_t secret_t (file (read)))) (false (allow user_t secret_t (file (getattr)))))
"""


def test_conditional_rules_follow_their_booleans():
    state = server(BOOLEANS)
    assert load.security_get_bools(state.ss.policydb) == [(b"share", True), (b"lock", False)]
    assert allowed(state, USER, SECRET, SECCLASS_FILE).allowed == FILE__READ
    load.security_set_bools(state, [True, True])
    assert allowed(state, USER, SECRET, SECCLASS_FILE).allowed == FILE__GETATTR
    assert "bool=lock val=1 old_val=0 auid=4294967295 ses=4294967295" in log(state)
    fails(EINVAL, load.security_set_bools, state, [True])


def test_booleans_keep_their_values_when_a_policy_is_loaded():
    state = server(BOOLEANS)
    load.security_set_bools(state, [True, True])
    load.security_load_policy(state, policy("(boolean other true)" + BOOLEANS))
    assert load.security_get_bools(state.ss.policydb) == [(b"other", True), (b"share", True), (b"lock", True)]
    assert allowed(state, USER, SECRET, SECCLASS_FILE).allowed == FILE__GETATTR


def test_a_policy_in_force_shows_the_booleans_of_now():
    state = server(BOOLEANS)
    load.security_set_bools(state, [False, False])
    again = empty_server()
    load.security_load_policy(again, security_read_policy(state))
    assert load.security_get_bools(again.ss.policydb) == [(b"share", False), (b"lock", False)]
    assert allowed(again, USER, SECRET, SECCLASS_FILE).allowed == FILE__GETATTR


@pytest.mark.parametrize(("handling", "expected"), [("allow", 0xFFFFFFFF), ("deny", 0)])
def test_classes_that_the_policy_does_not_know(handling, expected):
    """handleunknown"""
    state = server(leave_out=("bpf",), handle_unknown=handling)
    assert allowed(state, KERNEL, KERNEL, SECCLASS_BPF).allowed == expected
    assert "SELinux:  Class bpf not defined in policy." in log(state)
    assert f"SELinux: the above unknown classes and permissions will be {'allowed' if expected else 'denied'}" in log(state)


def test_a_policy_that_wants_to_know_all_classes_is_refused():
    state = empty_server()
    fails(EINVAL, load.security_load_policy, state, policy(leave_out=("bpf",), handle_unknown="reject"))
    assert not state.initialized


# ---- constraints, roles, bounds ----------------------------------------------------------------------------
def test_constraints_take_away_what_rules_gave():
    state = server("(allow user_t file_type (file (read write getattr)))"
                   "(mlsconstrain (file (read)) (dom l1 l2)) (mlsconstrain (file (write)) (and (eq l1 l2) (eq h1 h2)))"
                   "(constrain (file (getattr)) (or (eq u1 u2) (neq t2 secret_t)))")
    low, high = b"system_u:object_r:file_t:s0", b"system_u:object_r:file_t:s0:c1"
    assert allowed(state, USER, low, SECCLASS_FILE).allowed == FILE__READ | FILE__GETATTR | FILE__WRITE
    assert allowed(state, USER, high, SECCLASS_FILE).allowed == FILE__GETATTR
    clear = b"user_u:user_r:user_t:s0:c0.c2"
    assert allowed(state, clear, high, SECCLASS_FILE).allowed == FILE__GETATTR | FILE__READ
    assert allowed(state, USER, SECRET, SECCLASS_FILE).allowed == FILE__READ | FILE__WRITE
    assert allowed(state, USER, b"user_u:object_r:secret_t:s0", SECCLASS_FILE).allowed & FILE__GETATTR


def test_changing_the_role_needs_a_rule():
    rule = "(allow domain domain (process (transition dyntransition fork)))"
    state = server(rule)
    other = b"system_u:user_r:user_t:s0"
    assert allowed(state, KERNEL, other, SECCLASS_PROCESS).allowed & (PROCESS__TRANSITION | PROCESS__DYNTRANSITION) == 0
    assert allowed(state, KERNEL, other, SECCLASS_PROCESS).allowed & PROCESS__FORK
    state = server(rule + "(roleallow system_r user_r)")
    assert allowed(state, KERNEL, other, SECCLASS_PROCESS).allowed & PROCESS__TRANSITION


def test_a_bounded_type_has_no_more_than_its_bound():
    state = server("(typebounds user_t prog_t) (allow user_t file_t (file (read))) (allow prog_t file_t (file (read)))")
    user = ss.security_context_to_sid(state, USER)
    prog = ss.security_context_to_sid(state, b"user_u:user_r:prog_t:s0")
    assert allowed(state, b"user_u:user_r:prog_t:s0", FILE, SECCLASS_FILE).allowed == FILE__READ
    ss.security_bounded_transition(state, user, prog)
    fails(EPERM, ss.security_bounded_transition, state, prog, user)
    assert ("op=security_bounded_transition seresult=denied oldcontext=user_u:user_r:prog_t:s0 "
            "newcontext=user_u:user_r:user_t:s0") in log(state)


def test_validatetrans_is_asked_about_changes_of_labels():
    state = server("(mlsvalidatetrans file (or (eq l1 l2) (eq t3 kernel_t)))")
    old, new = FILE, b"system_u:object_r:file_t:s0:c1"
    sids = [ss.security_context_to_sid(state, context) for context in (old, new, USER, KERNEL)]
    ss.security_validate_transition(state, sids[0], sids[1], sids[3], SECCLASS_FILE)
    ss.security_validate_transition(state, sids[0], sids[1], sids[2], SECCLASS_FILE)         # permissive: a record only
    assert "op=security_validate_transition seresult=denied" in log(state)
    state.enforcing = True
    fails(EPERM, ss.security_validate_transition, state, sids[0], sids[1], sids[2], SECCLASS_FILE)


def test_rules_about_ioctl_numbers():
    """avtab: extended permissions"""
    state = server("(allow user_t file_type (file (ioctl)))"
                   "(allowx user_t file_t (ioctl file (range 0x5401 0x5403)))"
                   "(allowx user_t file_t (ioctl file (range 0x6600 0x66ff)))")
    user, file, secret = (ss.security_context_to_sid(state, context) for context in (USER, FILE, SECRET))
    assert allowed(state, USER, FILE, SECCLASS_FILE).allowed == FILE__IOCTL
    assert ss.security_compute_xperms_decision(state, user, file, SECCLASS_FILE, 0x54).allowed == 0b1110
    assert ss.security_compute_xperms_decision(state, user, file, SECCLASS_FILE, 0x66).allowed == (1 << 256) - 1
    assert ss.security_compute_xperms_decision(state, user, file, SECCLASS_FILE, 0x12).allowed == 0
    assert ss.security_compute_xperms_decision(state, user, secret, SECCLASS_FILE, 0x12).allowed == (1 << 256) - 1


# ---- contexts ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("context", [
    b"system_u:system_r:kernel_t:s0", b"system_u:system_r:kernel_t:s0-s1:c0.c9", b"system_u:object_r:file_t:s1:c0,c2,c4.c7",
    b"system_u:object_r:file_t:s0:c1,c2-s1:c1.c3", b"user_u:user_r:user_t:s0:c0.c4", b"system_u:object_r:file_t:s0:c8,c9"])
def test_a_context_keeps_its_text(context):
    state = server()
    assert ss.security_sid_to_context(state, ss.security_context_to_sid(state, context)) == context


@pytest.mark.parametrize(("context", "text"), [
    (b"system_u:object_r:file_t:s0:c0,c1,c2,c5", b"system_u:object_r:file_t:s0:c0.c2,c5"),
    (b"system_u:object_r:file_t:s0-s0\0", b"system_u:object_r:file_t:s0"),
    (b"system_u:object_r:file_t:lowest:last", b"system_u:object_r:file_t:s0:c9")])
def test_a_context_is_said_in_the_shortest_way(context, text):
    state = server()
    assert ss.security_sid_to_context(state, ss.security_context_to_sid(state, context)) == text


@pytest.mark.parametrize("context", [
    b"", b"kernel", b"system_u:system_r", b"system_u:system_r:kernel_t", b"nobody:system_r:kernel_t:s0",
    b"system_u:user_r:kernel_t:s0", b"user_u:system_r:kernel_t:s0", b"system_u:system_r:kernel_t:s1-s0",
    b"system_u:system_r:kernel_t:s0:c10", b"user_u:user_r:user_t:s0-s1", b"user_u:user_r:user_t:s0:c5",
    b"system_u:system_r:kernel_t:s0:c3.c1", b"system_u:system_r:kernel_t:s0:", b"system_u:system_r:domain:s0"])
def test_what_cannot_be_is_no_context(context):
    state = server()
    fails(EINVAL, ss.security_context_to_sid, state, context)


def test_a_context_without_a_range_gets_that_of_the_default():
    """security_context_to_sid_default(): attributes of files from before MLS"""
    state = server()
    sid = ss.security_context_to_sid_default(state, b"system_u:object_r:secret_t", ss.security_context_to_sid(state, FILE))
    assert ss.security_sid_to_context(state, sid) == SECRET


def test_without_mls_a_context_has_no_range():
    state = server(mls=False)
    fails(EINVAL, ss.security_context_to_sid, state, SECRET)
    sid = ss.security_context_to_sid_default(state, SECRET, SECINITSID_UNLABELED)
    assert ss.security_sid_to_context(state, sid) == b"system_u:object_r:secret_t"


def test_an_unknown_context_keeps_its_text_and_is_treated_as_unlabeled_until_a_policy_knows_it():
    state = server("(allow user_t unlabeled_t (file (read)))")
    sid = ss.security_context_to_sid_force(state, b"system_u:object_r:new_t:s0")
    assert ss.security_sid_to_context(state, sid) == b"system_u:object_r:unlabeled_t:s0"
    assert ss.security_sid_to_context_force(state, sid) == b"system_u:object_r:new_t:s0"
    assert ss.security_sid_to_context_inval(state, sid) == b"system_u:object_r:new_t:s0"
    user = ss.security_context_to_sid(state, USER)
    assert ss.security_compute_av(state, user, sid, SECCLASS_FILE).allowed == FILE__READ
    load.security_load_policy(state, policy("(type new_t) (roletype object_r new_t) (allow user_t new_t (file (write)))"))
    assert "SELinux:  Context system_u:object_r:new_t:s0 became valid (mapped)." in log(state)
    assert ss.security_sid_to_context(state, sid) == b"system_u:object_r:new_t:s0"
    assert ss.security_compute_av(state, user, sid, SECCLASS_FILE).allowed == FILE__WRITE
    load.security_load_policy(state, policy())
    assert "SELinux:  Context system_u:object_r:new_t:s0 became invalid (unmapped)." in log(state)
    assert ss.security_sid_to_context_inval(state, sid) == b"system_u:object_r:new_t:s0"


def test_sids_stay_when_types_get_other_numbers():
    state = server()
    sid = ss.security_context_to_sid(state, b"system_u:object_r:secret_t:s0:c1,c3")
    load.security_load_policy(state, policy("(type a_t) (type b_t) (user a_u) (userlevel a_u (s0)) (userrange a_u ((s0) (s0)))"
                                            "(userrole a_u object_r)"))
    assert ss.security_sid_to_context(state, sid) == b"system_u:object_r:secret_t:s0:c1,c3"
    load.security_load_policy(state, policy(mls=False))
    assert "SELinux: Disabling MLS support..." in log(state)
    assert ss.security_sid_to_context(state, sid) == b"system_u:object_r:secret_t"
    load.security_load_policy(state, policy())
    assert ss.security_sid_to_context(state, sid) == SECRET


# ---- new objects -------------------------------------------------------------------------------------------
def new(state, scontext, tcontext, tclass, name=None, ask=ss.security_transition_sid):
    sids = [ss.security_context_to_sid(state, context) for context in (scontext, tcontext)]
    arguments = (*sids, tclass) if name is None and ask is not ss.security_transition_sid else (*sids, tclass, name)
    return ss.security_sid_to_context(state, ask(state, *arguments))


def test_a_new_object_is_of_its_makers_user_and_its_directorys_type():
    state = server()
    assert new(state, b"user_u:user_r:user_t:s0-s0:c1", SECRET, SECCLASS_FILE) == b"user_u:object_r:secret_t:s0"
    assert new(state, b"user_u:user_r:user_t:s0-s0:c1", SECRET, SECCLASS_PROCESS) == b"user_u:user_r:user_t:s0-s0:c1"
    assert new(state, USER, USER, SECCLASS_TCP_SOCKET) == USER


def test_type_transitions_by_class_and_by_name():
    state = server("(typetransition user_t file_t file secret_t)"
                   "(typetransition user_t file_t dir \"public\" prog_exec_t)"
                   "(typemember user_t file_t dir secret_t) (typechange user_t file_t file prog_exec_t)")
    assert new(state, USER, FILE, SECCLASS_FILE, b"x") == b"user_u:object_r:secret_t:s0"
    assert new(state, USER, FILE, SECCLASS_DIR, b"x") == b"user_u:object_r:file_t:s0"
    assert new(state, USER, FILE, SECCLASS_DIR, b"public") == b"user_u:object_r:prog_exec_t:s0"
    # these two speak the policy's numbers of classes, which are the kernel's here
    assert new(state, USER, FILE, SECCLASS_DIR, ask=ss.security_member_sid) == b"system_u:object_r:secret_t:s0"
    assert new(state, USER, FILE, SECCLASS_FILE, ask=ss.security_change_sid) == b"user_u:object_r:prog_exec_t:s0"


def test_conditional_type_transitions():
    state = server("(boolean private true) (booleanif private (true (typetransition user_t file_t file secret_t)))")
    assert new(state, USER, FILE, SECCLASS_FILE) == b"user_u:object_r:secret_t:s0"
    load.security_set_bools(state, [False])
    assert new(state, USER, FILE, SECCLASS_FILE) == b"user_u:object_r:file_t:s0"


def test_role_and_range_transitions():
    state = server("(roletransition system_r prog_exec_t process user_r)"
                   "(typetransition kernel_t prog_exec_t process prog_t)"
                   "(rangetransition kernel_t prog_exec_t process ((s0) (s0 (c3))))")
    assert new(state, KERNEL, b"system_u:object_r:prog_exec_t:s0", SECCLASS_PROCESS) == (
        b"system_u:user_r:prog_t:s0-s0:c3")


def test_defaults_of_a_class():
    state = server("(defaultuser file target) (defaulttype dir source) (defaultrole dir source)"
                   "(defaultrange file target low-high)")
    target = b"system_u:object_r:file_t:s0-s0:c7"
    assert new(state, USER, target, SECCLASS_FILE) == target
    assert new(state, USER, FILE, SECCLASS_DIR) == USER


def test_a_transition_to_what_cannot_be_is_refused_when_enforcing():
    state = server("(typetransition user_t prog_exec_t process kernel_t)")
    text = b"system_u:object_r:prog_exec_t:s0"
    assert new(state, USER, text, SECCLASS_PROCESS) == b"user_u:user_r:kernel_t:s0"          # permissive
    assert ('op=security_compute_sid invalid_context="user_u:user_r:kernel_t:s0" scontext=user_u:user_r:user_t:s0 '
            "tcontext=system_u:object_r:prog_exec_t:s0 tclass=process") in log(state)
    state.enforcing = True
    fails(EACCES, new, state, USER, text, SECCLASS_PROCESS)


# ---- file systems ------------------------------------------------------------------------------------------
def test_labels_of_file_systems_and_their_paths():
    state = server("(genfscon proc / (system_u object_r file_t ((s0) (s0))))"
                   "(genfscon proc /sys (system_u object_r secret_t ((s0) (s0))))"
                   "(genfscon proc /sys/kernel (system_u object_r prog_exec_t ((s0) (s0))))"
                   "(genfscon sysfs / dir (system_u object_r secret_t ((s0) (s0))))")

    def label(fstype, path, tclass=SECCLASS_FILE):
        return ss.security_sid_to_context(state, ss.security_genfs_sid(state, fstype, path, tclass)).split(b":")[2]

    assert label(b"proc", b"/uptime") == b"file_t"
    assert label(b"proc", b"/sys/vm") == b"secret_t"
    assert label(b"proc", b"//sys/kernel/x") == b"prog_exec_t"
    assert label(b"sysfs", b"/x", SECCLASS_DIR) == b"secret_t"
    fails(ENOENT, ss.security_genfs_sid, state, b"sysfs", b"/x", SECCLASS_FILE)
    fails(ENOENT, ss.security_genfs_sid, state, b"ext4", b"/", SECCLASS_FILE)


def test_how_a_file_system_is_labelled():
    """fs_use_xattr, fs_use_trans, fs_use_task, genfscon, or nothing"""
    context = "(system_u object_r secret_t ((s0) (s0)))"
    state = server(f"(fsuse xattr ext4 {context}) (fsuse trans tmpfs {context}) (fsuse task pipefs {context})"
                   f"(genfscon proc / {context})")

    def use(fstype):
        sb = types.SimpleNamespace(s_type=types.SimpleNamespace(name=fstype))
        behavior, sid = ss.security_fs_use(state, sb)
        return behavior, ss.security_sid_to_context(state, sid).split(b":")[2]

    assert [use(fstype) for fstype in (b"ext4", b"tmpfs", b"pipefs", b"proc", b"vfat")] == [
        (SECURITY_FS_USE_XATTR, b"secret_t"), (SECURITY_FS_USE_TRANS, b"secret_t"), (SECURITY_FS_USE_TASK, b"secret_t"),
        (SECURITY_FS_USE_GENFS, b"secret_t"), (SECURITY_FS_USE_NONE, b"unlabeled_t")]


def test_execute_is_not_read():
    """A bit of a class's own, after those of its common."""
    state = server("(allow user_t prog_exec_t (file (execute entrypoint)))")
    avd = allowed(state, USER, b"system_u:object_r:prog_exec_t:s0", SECCLASS_FILE)
    assert avd.allowed == FILE__EXECUTE | av_permissions.FILE__ENTRYPOINT


# ---- network -----------------------------------------------------------------------------------------------
def test_labels_of_ports_and_addresses():
    def entry(what, type):
        return f"({what} (system_u object_r {type} ((s0) (s0))))"

    state = server(entry("portcon tcp 80", "secret_t") + entry("portcon tcp (1 1023)", "file_t") +
                   entry("portcon udp 80", "prog_exec_t") + entry("nodecon (10.0.0.0) (255.0.0.0)", "file_t") +
                   entry("nodecon (10.1.0.0) (255.255.0.0)", "secret_t") + entry("nodecon (fe80::) (ffff::)", "secret_t"))

    def text(sid):
        return ss.security_sid_to_context(state, sid).split(b":")[2]

    tcp, udp = 6, 17
    assert [text(security_port_sid(state, tcp, port)) for port in (80, 81, 1023)] == [b"secret_t", b"file_t", b"file_t"]
    assert text(security_port_sid(state, udp, 80)) == b"prog_exec_t"
    assert security_port_sid(state, udp, 81) == flask.SECINITSID_PORT
    assert text(security_node_sid(state, bytes([10, 2, 3, 4]))) == b"file_t"
    assert text(security_node_sid(state, bytes([10, 1, 3, 4]))) == b"secret_t"
    assert text(security_node_sid(state, bytes.fromhex("fe80" + "00" * 13 + "01"))) == b"secret_t"
    assert security_node_sid(state, bytes([192, 168, 0, 1])) == flask.SECINITSID_NODE


def test_a_context_with_the_range_of_another():
    """security_sid_mls_copy(): what a server's end of a connection is labelled"""
    state = server()
    sids = [ss.security_context_to_sid(state, context) for context in (
        b"user_u:user_r:user_t:s0", b"system_u:system_r:kernel_t:s0:c1-s0:c1.c3", b"system_u:system_r:kernel_t:s1")]
    copied = security_sid_mls_copy(state, sids[0], sids[1])
    assert ss.security_sid_to_context(state, copied) == b"user_u:user_r:user_t:s0:c1-s0:c1.c3"
    state.enforcing = True
    fails(EACCES, security_sid_mls_copy, state, sids[0], sids[2])
