"""Helpers that programs of every type may call.

Linux: kernel/bpf/helpers.c, bpf_base_func_proto() of net/core/filter.c (5.3). Same: arguments, errors as negative
    numbers.
Differs: nobody else runs while a program does, so a spin lock has nothing to wait for. Gaps: strtol(), strtoul(),
    get_current_cgroup_id(), get_local_storage(). Context: any.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from glasskernel.kernel.bpf import types as t
from glasskernel.kernel.bpf.insn import BPF_FUNC
from glasskernel.kernel.bpf.trace_hooks import bpf_get_trace_printk_proto
from glasskernel.kernel.bpf.types import BpfFuncProto
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.current import register
from glasskernel.kernel.time.timekeeping import ktime_get
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import U64_MAX, notrace

if TYPE_CHECKING:
    from glasskernel.kernel.bpf.types import BpfMap, BpfProg, BpfRun

TASK_COMM_LEN = 16


# ---- maps --------------------------------------------------------------------------------------------------------
def bpf_map_lookup_elem(run: BpfRun, map: BpfMap, key: bytes) -> int:
    """The value's address; 0: there is none."""
    address: int = map.ops.map_lookup_elem(map, key)
    return address


def bpf_map_update_elem(run: BpfRun, map: BpfMap, key: bytes, value: bytes, flags: int) -> int:
    try:
        map.ops.map_update_elem(map, key, value, flags)
    except KernelError as error:
        return -error.errno
    return 0


def bpf_map_delete_elem(run: BpfRun, map: BpfMap, key: bytes) -> int:
    try:
        map.ops.map_delete_elem(map, key)
    except KernelError as error:
        return -error.errno
    return 0


def bpf_map_push_elem(run: BpfRun, map: BpfMap, value: bytes, flags: int) -> int:
    try:
        map.ops.map_push_elem(map, value, flags)
    except KernelError as error:
        return -error.errno
    return 0


def bpf_map_pop_elem(run: BpfRun, map: BpfMap, value: int) -> int:
    return take(run, map.ops.map_pop_elem(map), map.value_size, value)


def bpf_map_peek_elem(run: BpfRun, map: BpfMap, value: int) -> int:
    return take(run, map.ops.map_peek_elem(map), map.value_size, value)


@notrace
def take(run: BpfRun, data: bytes | None, size: int, address: int) -> int:
    """What a queue answered goes where the program wants it: zeros and ENOENT if it was empty."""
    run.write(address, bytes(size) if data is None else data)
    return 0 if data is not None else -2


# ---- numbers -----------------------------------------------------------------------------------------------------
def bpf_user_rnd_u32(run: BpfRun) -> int:
    """xorshift, seeded with the machine's seed: a run is repeatable, and does not use up entropy."""
    state = run.kernel.bpf
    assert state is not None
    x = state.prandom
    x ^= x << 13 & U64_MAX
    x ^= x >> 7
    x ^= x << 17 & U64_MAX
    state.prandom = x
    return x >> 32


def bpf_get_smp_processor_id(run: BpfRun) -> int:
    return run.kernel.machine.this_cpu.id


def bpf_get_numa_node_id(run: BpfRun) -> int:
    """One node has them all."""
    return 0


def bpf_ktime_get_ns(run: BpfRun) -> int:
    return ktime_get()


# ---- the running task --------------------------------------------------------------------------------------------
def bpf_get_current_pid_tgid(run: BpfRun) -> int:
    task = register.task
    return task.tgid << 32 | task.pid


def bpf_get_current_uid_gid(run: BpfRun) -> int:
    cred = register.task.cred
    return cred.gid << 32 | cred.uid


def bpf_get_current_comm(run: BpfRun, buf: int, size: int) -> int:
    """The name, with a 0 behind it."""
    if not size:
        return -EINVAL
    comm = register.task.comm[: size - 1]
    run.write(buf, comm.ljust(min(size, TASK_COMM_LEN), b"\0"))
    return 0


def bpf_spin_lock(run: BpfRun, lock: int) -> None:
    """The word in memory says who holds it: Linux's arch_spinlock_t, locked."""
    run.write(lock, b"\1\0\0\0")


def bpf_spin_unlock(run: BpfRun, lock: int) -> None:
    run.write(lock, bytes(4))


def bpf_tail_call(run: BpfRun) -> int:
    """The translator makes a jump of it."""
    return 0


_KEY = (t.ARG_CONST_MAP_PTR, t.ARG_PTR_TO_MAP_KEY)
bpf_map_lookup_elem_proto = BpfFuncProto(bpf_map_lookup_elem, t.RET_PTR_TO_MAP_VALUE_OR_NULL, _KEY, pkt_access=True)
bpf_map_update_elem_proto = BpfFuncProto(bpf_map_update_elem, t.RET_INTEGER,
                                         (*_KEY, t.ARG_PTR_TO_MAP_VALUE, t.ARG_ANYTHING), pkt_access=True)
bpf_map_delete_elem_proto = BpfFuncProto(bpf_map_delete_elem, t.RET_INTEGER, _KEY, pkt_access=True)
bpf_map_push_elem_proto = BpfFuncProto(bpf_map_push_elem, t.RET_INTEGER,
                                       (t.ARG_CONST_MAP_PTR, t.ARG_PTR_TO_MAP_VALUE, t.ARG_ANYTHING), pkt_access=True)
bpf_map_pop_elem_proto = BpfFuncProto(bpf_map_pop_elem, t.RET_INTEGER,
                                      (t.ARG_CONST_MAP_PTR, t.ARG_PTR_TO_UNINIT_MAP_VALUE))
bpf_map_peek_elem_proto = BpfFuncProto(bpf_map_peek_elem, t.RET_INTEGER,
                                       (t.ARG_CONST_MAP_PTR, t.ARG_PTR_TO_UNINIT_MAP_VALUE))
bpf_get_prandom_u32_proto = BpfFuncProto(bpf_user_rnd_u32, t.RET_INTEGER)
bpf_get_smp_processor_id_proto = BpfFuncProto(bpf_get_smp_processor_id, t.RET_INTEGER)
bpf_get_numa_node_id_proto = BpfFuncProto(bpf_get_numa_node_id, t.RET_INTEGER)
bpf_tail_call_proto = BpfFuncProto(bpf_tail_call, t.RET_VOID, (t.ARG_PTR_TO_CTX, t.ARG_CONST_MAP_PTR, t.ARG_ANYTHING))
bpf_ktime_get_ns_proto = BpfFuncProto(bpf_ktime_get_ns, t.RET_INTEGER, gpl_only=True)
bpf_get_current_pid_tgid_proto = BpfFuncProto(bpf_get_current_pid_tgid, t.RET_INTEGER)
bpf_get_current_uid_gid_proto = BpfFuncProto(bpf_get_current_uid_gid, t.RET_INTEGER)
bpf_get_current_comm_proto = BpfFuncProto(bpf_get_current_comm, t.RET_INTEGER,
                                          (t.ARG_PTR_TO_UNINIT_MEM, t.ARG_CONST_SIZE))
bpf_spin_lock_proto = BpfFuncProto(bpf_spin_lock, t.RET_VOID, (t.ARG_PTR_TO_SPIN_LOCK,))
bpf_spin_unlock_proto = BpfFuncProto(bpf_spin_unlock, t.RET_VOID, (t.ARG_PTR_TO_SPIN_LOCK,))

_BASE: Final[dict[int, BpfFuncProto]] = {BPF_FUNC[name]: proto for name, proto in (
    ("map_lookup_elem", bpf_map_lookup_elem_proto), ("map_update_elem", bpf_map_update_elem_proto),
    ("map_delete_elem", bpf_map_delete_elem_proto), ("map_push_elem", bpf_map_push_elem_proto),
    ("map_pop_elem", bpf_map_pop_elem_proto), ("map_peek_elem", bpf_map_peek_elem_proto),
    ("get_prandom_u32", bpf_get_prandom_u32_proto), ("get_smp_processor_id", bpf_get_smp_processor_id_proto),
    ("get_numa_node_id", bpf_get_numa_node_id_proto), ("tail_call", bpf_tail_call_proto),
    ("ktime_get_ns", bpf_ktime_get_ns_proto))}
_PRIVILEGED: Final[dict[int, BpfFuncProto]] = {
    BPF_FUNC["spin_lock"]: bpf_spin_lock_proto, BPF_FUNC["spin_unlock"]: bpf_spin_unlock_proto}


def bpf_base_func_proto(func_id: int, prog: BpfProg | None = None) -> BpfFuncProto | None:
    """The table of these helpers; some for CAP_SYS_ADMIN only."""
    found = _BASE.get(func_id)
    if found is not None or not capable(CAP_SYS_ADMIN):
        return found
    if func_id == BPF_FUNC["trace_printk"]:
        return bpf_get_trace_printk_proto()
    return _PRIVILEGED.get(func_id)
