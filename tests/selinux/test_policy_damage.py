"""Policies with flaws, and large ones: a flaw is EINVAL (or EEXIST, a name that comes twice), never anything else."""
from __future__ import annotations

import contextlib
import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glasskernel import Kernel
from glasskernel.kernel.audit import audit_init
from glasskernel.lib.errno import EEXIST, EINVAL, KernelError
from glasskernel.security.selinux.flask import SECCLASS_FILE, SECCLASS_PROCESS, SECINITSID_NUM
from glasskernel.security.selinux.ss.avtab import AVTAB_ALLOWED, AvtabNode, avtab_insert
from glasskernel.security.selinux.ss.policydb_write import security_read_policy
from glasskernel.security.selinux.ss.services import (
    security_change_sid,
    security_compute_av,
    security_compute_xperms_decision,
    security_context_to_sid,
    security_genfs_sid,
    security_sid_to_context,
    security_transition_sid,
    security_validate_transition,
    selinux_ss_init,
)
from glasskernel.security.selinux.ss.services_load import security_load_policy, security_set_bools
from glasskernel.security.selinux.ss.services_user import security_get_user_sids
from glasskernel.security.selinux.ss.symtab import TypeDatum
from tests.selinux.policies import policy

EVERYTHING = """
(boolean share true) (boolean lock false)
(booleanif (or share (and lock (not share))) (true (allow user_t secret_t (file (read)))
    (typetransition user_t secret_t file file_t)) (false (allow user_t secret_t (file (getattr)))))
(booleanif (xor share lock) (true (dontaudit user_t secret_t (file (write)))))
(booleanif (neq share lock) (true (auditallow user_t secret_t (file (write)))))
(allow user_t file_type (file (ioctl read))) (allowx user_t file_t (ioctl file (range 0x5401 0x5403)))
(mlsconstrain (file (read)) (or (dom l1 l2) (and (eq t1 kernel_t) (incomp h1 h2))))
(constrain (process (transition)) (or (eq u1 u2) (and (eq r1 system_r) (not (eq t2 domain)))))
(mlsvalidatetrans file (or (eq l1 l2) (eq t3 kernel_t)))
(typetransition user_t file_t file secret_t) (typetransition user_t file_t dir "public" prog_exec_t)
(typemember user_t file_t dir secret_t) (typechange user_t file_t file prog_exec_t)
(roletransition system_r prog_exec_t process user_r) (roleallow system_r user_r)
(rangetransition kernel_t prog_exec_t process ((s0) (s0 (c3)))) (typebounds user_t prog_t)
(defaultuser file target) (defaultrange dir target low-high) (typepermissive prog_t) (policycap open_perms)
(genfscon proc / (system_u object_r file_t ((s0) (s0)))) (genfscon proc /sys (system_u object_r secret_t ((s0) (s0))))
(fsuse xattr ext4 (system_u object_r file_t ((s0) (s0)))) (fsuse trans tmpfs (system_u object_r file_t ((s0) (s0))))
(portcon tcp 80 (system_u object_r file_t ((s0) (s0)))) (portcon udp (1000 2000) (system_u object_r file_t ((s0) (s0))))
(netifcon eth0 (system_u object_r file_t ((s0) (s0))) (system_u object_r file_t ((s0) (s0))))
(nodecon (10.0.0.0) (255.0.0.0) (system_u object_r file_t ((s0) (s0))))
(nodecon (fe80::) (ffff::) (system_u object_r file_t ((s0) (s0))))
(ibpkeycon fe80:: (0 10) (system_u object_r file_t ((s0) (s0)))) (ibendportcon mlx4_0 1 (system_u object_r file_t ((s0) (s0))))
"""
POSSIBLE = (EINVAL, EEXIST)


def ask_everything(state):
    """Whatever a damaged policy says, the answers are answers."""
    p = state.ss.policydb
    sids = [*range(1, SECINITSID_NUM + 1)]
    for context in (b"user_u:user_r:user_t:s0-s0:c0.c2", b"system_u:object_r:file_t:s0:c1", b"system_u:object_r:secret_t:s1"):
        with contextlib.suppress(KernelError):
            sids.append(security_context_to_sid(state, context))
    for tsid in sids:
        security_sid_to_context(state, tsid)
        for ssid in (1, sids[-1]):
            for tclass in (SECCLASS_FILE, SECCLASS_PROCESS):
                security_compute_av(state, ssid, tsid, tclass)
                security_compute_xperms_decision(state, ssid, tsid, tclass, 0x54)
                security_transition_sid(state, ssid, tsid, tclass, b"public")
                security_change_sid(state, ssid, tsid, tclass)
                with contextlib.suppress(KernelError):          # the class may have lost its name
                    security_validate_transition(state, ssid, tsid, 1, tclass)
    for fstype in (b"proc", b"ext4"):
        with contextlib.suppress(KernelError):
            security_genfs_sid(state, fstype, b"/sys/kernel", SECCLASS_FILE)
    for user in p.p_users.table:
        security_get_user_sids(state, 1, user)
    security_set_bools(state, [True] * p.p_bools.nprim)
    try:
        security_load_policy(state, security_read_policy(state))
    except KernelError as error:            # a name that begins with NUL is empty when it is written
        assert error.errno in POSSIBLE


class Server:
    """One kernel for all examples: only the security server is new each time."""

    kernel = None

    @classmethod
    def state(cls):
        if cls.kernel is None or cls.kernel.audit is None:
            cls.kernel = Kernel(home=False)
            audit_init(cls.kernel)
        return selinux_ss_init(cls.kernel)


def try_policy(data):
    state = Server.state()
    try:
        security_load_policy(state, data)
    except KernelError as error:
        assert error.errno in POSSIBLE
        assert not state.initialized
        return False
    ask_everything(state)
    return True


def test_the_undamaged_policy_is_read_and_written_as_it_is():
    state = Server.state()
    data = policy(EVERYTHING)
    security_load_policy(state, data)
    assert sorted(security_read_policy(state)) == sorted(data)
    assert try_policy(data)


damage = st.lists(st.tuples(st.integers(0, 1 << 20), st.sampled_from(
    [0, 1, 2, 3, 4, 5, 7, 8, 0x10, 0x20, 0x40, 0x7F, 0x80, 0xFE, 0xFF])), min_size=1, max_size=3)


@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(damage)
def test_a_policy_with_wrong_bytes_is_refused_or_used(changes):
    data = bytearray(policy(EVERYTHING))
    for place, value in changes:
        data[place % len(data)] = value
    try_policy(bytes(data))


@settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 1 << 20), st.sampled_from([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x10000, 0xFFFF, 64, 33]))
def test_a_policy_with_a_wrong_number_is_refused_or_used(place, value):
    data = bytearray(policy(EVERYTHING))
    place = place * 4 % (len(data) - 4)
    data[place : place + 4] = value.to_bytes(4, "little")
    try_policy(bytes(data))


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 1 << 20), st.integers(1, 64), st.booleans())
def test_a_policy_with_bytes_missing_or_twice_is_refused_or_used(place, count, twice):
    data = policy(EVERYTHING)
    place %= len(data)
    cut = data[:place] + (data[place : place + count] * 2 if twice else b"") + data[place + count :]
    try_policy(cut)


def test_a_policy_of_a_distributions_size_is_read_in_two_seconds():
    """refpolicy has about 4,300 types and 107,000 rules."""
    state = Server.state()
    security_load_policy(state, policy(EVERYTHING))
    p = state.ss.policydb
    first = p.p_types.nprim + 1
    for value in range(first, 4300):
        p.p_types.table[b"type_%d_t" % value] = TypeDatum(value, 0, True, False)
        p.type_attr_map.append(1 << value - 1)
    p.p_types.nprim = 4299
    for source in range(first, first + 350):
        for target in range(first, first + 300):
            avtab_insert(p.te_avtab, AvtabNode(source, target, SECCLASS_FILE, AVTAB_ALLOWED, 3))
    data = security_read_policy(state)
    assert len(p.te_avtab.nodes) > 105_000
    before = time.process_time()
    security_load_policy(state, data)
    assert time.process_time() - before < 2
