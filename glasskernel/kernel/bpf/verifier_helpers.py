"""The verifier: calls of helpers.

Linux: kernel/bpf/verifier.c: check_helper_call(), check_func_arg(), references, spin locks (5.3). Same: which calls are
    refused, in which words; which map goes with which helper. Gaps: get_local_storage, flow keys.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from glasskernel.kernel.bpf import types as t
from glasskernel.kernel.bpf.insn import __BPF_FUNC_MAX_ID, BPF_B, BPF_FUNC, func_id_name
from glasskernel.kernel.bpf.types import BPF_READ, BPF_WRITE
from glasskernel.kernel.bpf.verifier_env import (
    DST_OP_NO_MARK,
    SRC_OP,
    VerifierEnv,
    check_reg_arg,
    cur_func,
    is_pointer_value,
    mark_reg_unknown,
    new_id,
)
from glasskernel.kernel.bpf.verifier_mem import (
    BPF_MAX_VAR_OFF,
    check_ctx_reg,
    check_map_access,
    check_map_access_type,
    check_mem_access,
    check_packet_access,
    check_ptr_alignment,
    check_stack_boundary,
    may_access_direct_pkt_data,
)
from glasskernel.kernel.bpf.verifier_state import (
    PACKET_POINTERS,
    REG_TYPE_STR,
    SOCKET_POINTERS,
    FuncState,
    __mark_reg_known_zero,
    __mark_reg_not_init,
    __mark_reg_unknown,
)
from glasskernel.lib.errno import EINVAL
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.bpf.types import BpfMap

_MAP_VALUES = (t.ARG_PTR_TO_MAP_VALUE, t.ARG_PTR_TO_UNINIT_MAP_VALUE, t.ARG_PTR_TO_MAP_VALUE_OR_NULL)
_MEMORY = (t.ARG_PTR_TO_MEM, t.ARG_PTR_TO_MEM_OR_NULL, t.ARG_PTR_TO_UNINIT_MEM)
_SIZES = (t.ARG_CONST_SIZE, t.ARG_CONST_SIZE_OR_ZERO)
_NUMBERS = (t.ARG_PTR_TO_INT, t.ARG_PTR_TO_LONG)
_SOCKET_RETURNS: Final = {t.RET_PTR_TO_SOCKET_OR_NULL: t.PTR_TO_SOCKET_OR_NULL,
                          t.RET_PTR_TO_SOCK_COMMON_OR_NULL: t.PTR_TO_SOCK_COMMON_OR_NULL,
                          t.RET_PTR_TO_TCP_SOCK_OR_NULL: t.PTR_TO_TCP_SOCK_OR_NULL}
ACQUIRE_FUNCTIONS: Final = tuple(BPF_FUNC[name] for name in ("sk_lookup_tcp", "sk_lookup_udp", "skc_lookup_tcp"))
_CASTS = (BPF_FUNC["tcp_sock"], BPF_FUNC["sk_fullsock"])
# What a map of these types may be given to ...
_MAP_FUNCS: Final[dict[int, tuple[str, ...]]] = {
    t.BPF_MAP_TYPE_PROG_ARRAY: ("tail_call",),
    t.BPF_MAP_TYPE_PERF_EVENT_ARRAY: ("perf_event_read", "perf_event_output", "perf_event_read_value"),
    t.BPF_MAP_TYPE_STACK_TRACE: ("get_stackid",),
    t.BPF_MAP_TYPE_CGROUP_ARRAY: ("skb_under_cgroup", "current_task_under_cgroup"),
    t.BPF_MAP_TYPE_CGROUP_STORAGE: ("get_local_storage",),
    t.BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE: ("get_local_storage",),
    t.BPF_MAP_TYPE_DEVMAP: ("redirect_map", "map_lookup_elem"),
    t.BPF_MAP_TYPE_CPUMAP: ("redirect_map",),
    t.BPF_MAP_TYPE_XSKMAP: ("redirect_map", "map_lookup_elem"),
    t.BPF_MAP_TYPE_ARRAY_OF_MAPS: ("map_lookup_elem",),
    t.BPF_MAP_TYPE_HASH_OF_MAPS: ("map_lookup_elem",),
    t.BPF_MAP_TYPE_SOCKMAP: ("sk_redirect_map", "sock_map_update", "map_delete_elem", "msg_redirect_map"),
    t.BPF_MAP_TYPE_SOCKHASH: ("sk_redirect_hash", "sock_hash_update", "map_delete_elem", "msg_redirect_hash"),
    t.BPF_MAP_TYPE_REUSEPORT_SOCKARRAY: ("sk_select_reuseport",),
    t.BPF_MAP_TYPE_QUEUE: ("map_peek_elem", "map_pop_elem", "map_push_elem"),
    t.BPF_MAP_TYPE_STACK: ("map_peek_elem", "map_pop_elem", "map_push_elem"),
    t.BPF_MAP_TYPE_SK_STORAGE: ("sk_storage_get", "sk_storage_delete"),
}
# ... and the maps that these helpers take.
_FUNC_MAPS: Final[dict[str, tuple[int, ...]]] = {
    "tail_call": (t.BPF_MAP_TYPE_PROG_ARRAY,),
    "perf_event_read": (t.BPF_MAP_TYPE_PERF_EVENT_ARRAY,), "perf_event_output": (t.BPF_MAP_TYPE_PERF_EVENT_ARRAY,),
    "perf_event_read_value": (t.BPF_MAP_TYPE_PERF_EVENT_ARRAY,), "get_stackid": (t.BPF_MAP_TYPE_STACK_TRACE,),
    "skb_under_cgroup": (t.BPF_MAP_TYPE_CGROUP_ARRAY,), "current_task_under_cgroup": (t.BPF_MAP_TYPE_CGROUP_ARRAY,),
    "redirect_map": (t.BPF_MAP_TYPE_DEVMAP, t.BPF_MAP_TYPE_CPUMAP, t.BPF_MAP_TYPE_XSKMAP),
    "sk_redirect_map": (t.BPF_MAP_TYPE_SOCKMAP,), "msg_redirect_map": (t.BPF_MAP_TYPE_SOCKMAP,),
    "sock_map_update": (t.BPF_MAP_TYPE_SOCKMAP,), "sk_redirect_hash": (t.BPF_MAP_TYPE_SOCKHASH,),
    "msg_redirect_hash": (t.BPF_MAP_TYPE_SOCKHASH,), "sock_hash_update": (t.BPF_MAP_TYPE_SOCKHASH,),
    "get_local_storage": (t.BPF_MAP_TYPE_CGROUP_STORAGE, t.BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE),
    "sk_select_reuseport": (t.BPF_MAP_TYPE_REUSEPORT_SOCKARRAY,),
    "map_peek_elem": (t.BPF_MAP_TYPE_QUEUE, t.BPF_MAP_TYPE_STACK),
    "map_pop_elem": (t.BPF_MAP_TYPE_QUEUE, t.BPF_MAP_TYPE_STACK),
    "map_push_elem": (t.BPF_MAP_TYPE_QUEUE, t.BPF_MAP_TYPE_STACK),
    "sk_storage_get": (t.BPF_MAP_TYPE_SK_STORAGE,), "sk_storage_delete": (t.BPF_MAP_TYPE_SK_STORAGE,),
}


class CallArgMeta:
    """struct bpf_call_arg_meta: what the arguments of a call say about each other."""

    __slots__ = ("access_size", "func_id", "map_ptr", "msize_max_value", "pkt_access", "raw_mode", "ref_obj_id",
                 "regno")

    def __init__(self, func_id: int, pkt_access: bool) -> None:
        self.func_id, self.pkt_access = func_id, pkt_access
        self.map_ptr: BpfMap | None = None
        self.raw_mode = False
        self.regno = self.access_size = self.ref_obj_id = self.msize_max_value = 0


# ---- references --------------------------------------------------------------------------------------------------
def acquire_reference_state(env: VerifierEnv, insn_idx: int) -> int:
    number = new_id(env)
    cur_func(env).refs.append((number, insn_idx))
    return number


def release_reference(env: VerifierEnv, ref_obj_id: int) -> bool:
    """The object is given back: no register has it any more. False: nobody had acquired it."""
    refs = cur_func(env).refs
    if not any(number == ref_obj_id for number, _ in refs):
        return False
    refs[:] = [entry for entry in refs if entry[0] != ref_obj_id]
    for frame in env.cur_state.frame:
        release_reg_references(env, frame, ref_obj_id)
    return True


def release_reg_references(env: VerifierEnv, state: FuncState, ref_obj_id: int) -> None:
    for reg in state.regs:
        if reg.ref_obj_id == ref_obj_id:
            __mark_reg_unknown(reg)
    for slot in state.stack:
        if slot.slot_type[0] == 1 and slot.spilled_ptr.ref_obj_id == ref_obj_id:
            __mark_reg_unknown(slot.spilled_ptr)


def check_reference_leak(env: VerifierEnv) -> bool:
    """True: something that was acquired was not released."""
    refs = cur_func(env).refs
    for number, insn_idx in refs:
        env.verbose(f"Unreleased reference id={number} alloc_insn={insn_idx}\n")
    return bool(refs)


def clear_all_pkt_pointers(env: VerifierEnv) -> None:
    """The packet may have moved."""
    for frame in env.cur_state.frame:
        for reg in [*frame.regs, *[slot.spilled_ptr for slot in frame.stack if slot.slot_type[0] == 1]]:
            if reg.type in PACKET_POINTERS or reg.type == t.PTR_TO_PACKET_END:
                __mark_reg_unknown(reg)


def process_spin_lock(env: VerifierEnv, regno: int, is_lock: bool) -> None:
    """Raises EINVAL: not a lock, a second one, or another than is held."""
    reg = env.regs[regno]
    map = reg.map_ptr
    state = env.cur_state
    if reg.type != t.PTR_TO_MAP_VALUE or map is None:
        env.refuse(f"R{regno} is not a pointer to map_value\n", EINVAL)
    if not reg.is_const:
        env.refuse(f"R{regno} doesn't have constant offset. bpf_spin_lock has to be at the constant offset\n", EINVAL)
    if map.btf is None:
        env.refuse(f"map '{map.name.decode()}' has to have BTF in order to use bpf_spin_lock\n", EINVAL)
    if map.spin_lock_off < 0:
        env.refuse(f"map '{map.name.decode()}' doesn't have 'struct bpf_spin_lock'\n", EINVAL)
    if map.spin_lock_off != reg.var_off[0] + reg.off:
        env.refuse(f"off {reg.var_off[0] + reg.off} doesn't point to 'struct bpf_spin_lock'\n", EINVAL)
    if is_lock:
        if state.active_spin_lock:
            env.refuse("Locking two bpf_spin_locks are not allowed\n", EINVAL)
        state.active_spin_lock = reg.id
    else:
        if not state.active_spin_lock:
            env.refuse("bpf_spin_unlock without taking a lock\n", EINVAL)
        if state.active_spin_lock != reg.id:
            env.refuse("bpf_spin_unlock of different lock\n", EINVAL)
        state.active_spin_lock = 0


# ---- arguments ---------------------------------------------------------------------------------------------------
def check_helper_mem_access(env: VerifierEnv, regno: int, access_size: int, zero_size_allowed: bool,
                            meta: CallArgMeta | None) -> None:
    reg = env.regs[regno]
    if reg.type in PACKET_POINTERS:
        check_packet_access(env, regno, reg.off, access_size, zero_size_allowed)
    elif reg.type == t.PTR_TO_MAP_VALUE:
        check_map_access_type(env, regno, reg.off, access_size,
                              BPF_WRITE if meta is not None and meta.raw_mode else BPF_READ)
        check_map_access(env, regno, reg.off, access_size, zero_size_allowed)
    else:
        check_stack_boundary(env, regno, access_size, zero_size_allowed, meta)


@notrace
def _expected_type(arg_type: int) -> int:
    if arg_type in _SIZES:
        return t.SCALAR_VALUE
    return {t.ARG_CONST_MAP_PTR: t.CONST_PTR_TO_MAP, t.ARG_PTR_TO_CTX: t.PTR_TO_CTX,
            t.ARG_PTR_TO_SOCK_COMMON: t.PTR_TO_SOCK_COMMON, t.ARG_PTR_TO_SOCKET: t.PTR_TO_SOCKET,
            t.ARG_PTR_TO_SPIN_LOCK: t.PTR_TO_MAP_VALUE}.get(arg_type, t.PTR_TO_STACK)


@notrace
def _type_fits(env: VerifierEnv, regno: int, arg_type: int, expected: int) -> bool:
    reg = env.regs[regno]
    if arg_type in (t.ARG_PTR_TO_MAP_VALUE_OR_NULL, t.ARG_PTR_TO_MEM_OR_NULL) and (
            reg.type == t.SCALAR_VALUE and reg.var_off == (0, 0)):
        return True
    if arg_type == t.ARG_PTR_TO_MAP_KEY or arg_type in _MAP_VALUES or arg_type in _MEMORY or arg_type in _NUMBERS:
        return reg.type in PACKET_POINTERS or reg.type in (t.PTR_TO_MAP_VALUE, expected)
    if arg_type == t.ARG_PTR_TO_SOCK_COMMON:
        return reg.type in SOCKET_POINTERS and reg.type != t.PTR_TO_XDP_SOCK
    return reg.type == expected or arg_type == t.ARG_PTR_TO_SPIN_LOCK


def check_func_arg(env: VerifierEnv, regno: int, arg_type: int, meta: CallArgMeta) -> None:
    """Raises EACCES, EINVAL."""
    if arg_type == t.ARG_DONTCARE:
        return
    reg = env.regs[regno]
    check_reg_arg(env, regno, SRC_OP)
    if arg_type == t.ARG_ANYTHING:
        if is_pointer_value(env, regno):
            env.refuse(f"R{regno} leaks addr into helper function\n")
        return
    if reg.type in PACKET_POINTERS and not may_access_direct_pkt_data(env, meta, BPF_READ):
        env.refuse("helper access to the packet is not allowed\n")
    expected = _expected_type(arg_type)
    if not _type_fits(env, regno, arg_type, expected):
        env.refuse(f"R{regno} type={REG_TYPE_STR[reg.type]} expected={REG_TYPE_STR[expected]}\n")
    if arg_type == t.ARG_PTR_TO_CTX:
        check_ctx_reg(env, reg, regno)
    elif arg_type == t.ARG_PTR_TO_SOCK_COMMON:
        if reg.ref_obj_id:
            meta.ref_obj_id = reg.ref_obj_id
    elif arg_type == t.ARG_PTR_TO_SPIN_LOCK:
        process_spin_lock(env, regno, meta.func_id == BPF_FUNC["spin_lock"])
    elif arg_type == t.ARG_CONST_MAP_PTR:
        meta.map_ptr = reg.map_ptr
    elif arg_type == t.ARG_PTR_TO_MAP_KEY:
        if meta.map_ptr is None:
            env.refuse("invalid map_ptr to access map->key\n")
        check_helper_mem_access(env, regno, meta.map_ptr.key_size, False, None)
    elif arg_type in _MAP_VALUES:
        if arg_type == t.ARG_PTR_TO_MAP_VALUE_OR_NULL and reg.type == t.SCALAR_VALUE:
            return
        if meta.map_ptr is None:
            env.refuse("invalid map_ptr to access map->value\n")
        meta.raw_mode = arg_type == t.ARG_PTR_TO_UNINIT_MAP_VALUE
        check_helper_mem_access(env, regno, meta.map_ptr.value_size, False, meta)
    elif arg_type in _MEMORY:
        meta.raw_mode = arg_type == t.ARG_PTR_TO_UNINIT_MEM
    elif arg_type in _SIZES:
        _check_size(env, regno, arg_type == t.ARG_CONST_SIZE_OR_ZERO, meta)
    elif arg_type in _NUMBERS:
        size = 4 if arg_type == t.ARG_PTR_TO_INT else 8
        check_helper_mem_access(env, regno, size, False, meta)
        check_ptr_alignment(env, reg, 0, size, True)


@notrace
def _check_size(env: VerifierEnv, regno: int, zero_size_allowed: bool, meta: CallArgMeta) -> None:
    reg = env.regs[regno]
    meta.msize_max_value = reg.umax_value
    filled = meta if reg.is_const else None          # what is filled must be known; otherwise it has to be there
    if reg.smin_value < 0:
        env.refuse(f"R{regno} min value is negative, either use unsigned or 'var &= const'\n")
    if not reg.umin_value:
        check_helper_mem_access(env, regno - 1, 0, zero_size_allowed, filled)
    if reg.umax_value >= BPF_MAX_VAR_OFF:
        env.refuse(f"R{regno} unbounded memory access, use 'var &= const' or 'if (var < const)'\n")
    check_helper_mem_access(env, regno - 1, reg.umax_value, zero_size_allowed, filled)


def check_map_func_compatibility(env: VerifierEnv, map: BpfMap | None, func_id: int) -> None:
    """Raises EINVAL."""
    if map is None:
        return
    name = func_id_name(func_id)[4:]
    allowed = _MAP_FUNCS.get(map.map_type)
    if (allowed is not None and name not in allowed) or (name in _FUNC_MAPS and map.map_type not in _FUNC_MAPS[name]):
        env.refuse(f"cannot pass map_type {map.map_type} into func {func_id_name(func_id)}#{func_id}\n", EINVAL)
    if name == "tail_call" and len(env.subprogs) > 1:
        env.refuse("tail_calls are not allowed in programs with bpf-to-bpf calls\n", EINVAL)


# ---- the call ----------------------------------------------------------------------------------------------------
def clear_caller_saved_regs(env: VerifierEnv) -> None:
    for regno in range(6):
        __mark_reg_not_init(env.regs[regno])
        check_reg_arg(env, regno, DST_OP_NO_MARK)


def check_helper_call(env: VerifierEnv, func_id: int, insn_idx: int) -> None:
    """Raises EINVAL, EACCES."""
    if not 0 < func_id < __BPF_FUNC_MAX_ID:
        env.refuse(f"invalid func {func_id_name(func_id)}#{func_id}\n", EINVAL)
    fn = env.prog.prog_type.verifier_ops.get_func_proto(func_id, env.prog)
    if fn is None:
        env.refuse(f"unknown func {func_id_name(func_id)}#{func_id}\n", EINVAL)
    if fn.gpl_only and not env.prog.gpl_compatible:
        env.refuse("cannot call GPL-restricted function from non-GPL compatible program\n", EINVAL)
    meta = CallArgMeta(func_id, fn.pkt_access)
    for number, arg_type in enumerate(fn.args):
        check_func_arg(env, number + 1, arg_type, meta)
    env.aux[insn_idx].proto = fn
    record_func_map(env, meta)
    if meta.raw_mode:
        for i in range(meta.access_size):
            check_mem_access(env, insn_idx, meta.regno, i, BPF_B, BPF_WRITE, -1, False)
    if func_id == BPF_FUNC["tail_call"] and check_reference_leak(env):
        env.refuse("tail_call would lead to reference leak\n", EINVAL)
    if func_id == BPF_FUNC["sk_release"] and not release_reference(env, meta.ref_obj_id):
        env.refuse(f"func {func_id_name(func_id)}#{func_id} reference has not been acquired before\n", EINVAL)
    clear_caller_saved_regs(env)
    regs = env.regs
    if fn.ret_type == t.RET_INTEGER:
        mark_reg_unknown(env, regs, 0)
    elif fn.ret_type in (t.RET_PTR_TO_MAP_VALUE, t.RET_PTR_TO_MAP_VALUE_OR_NULL):
        if meta.map_ptr is None:
            env.refuse("kernel subsystem misconfigured verifier\n", EINVAL)
        __mark_reg_known_zero(regs[0])
        regs[0].map_ptr = meta.map_ptr
        regs[0].type = t.PTR_TO_MAP_VALUE
        if fn.ret_type == t.RET_PTR_TO_MAP_VALUE_OR_NULL:
            regs[0].type = t.PTR_TO_MAP_VALUE_OR_NULL
            regs[0].id = new_id(env)
        elif meta.map_ptr.spin_lock_off >= 0:
            regs[0].id = new_id(env)
    elif fn.ret_type in _SOCKET_RETURNS:
        __mark_reg_known_zero(regs[0])
        regs[0].type = _SOCKET_RETURNS[fn.ret_type]
        if func_id in ACQUIRE_FUNCTIONS:
            regs[0].id = regs[0].ref_obj_id = acquire_reference_state(env, insn_idx)
        else:
            regs[0].id = new_id(env)
            if func_id in _CASTS:
                regs[0].ref_obj_id = meta.ref_obj_id
    if func_id == BPF_FUNC["get_stack"]:
        regs[0].smax_value = meta.msize_max_value  # do_refine_retval_range()
    check_map_func_compatibility(env, meta.map_ptr, func_id)
    if fn.changes_pkt_data:
        clear_all_pkt_pointers(env)


def record_func_map(env: VerifierEnv, meta: CallArgMeta) -> None:
    """Raises EACCES: writes to a map that programs may only read."""
    map = meta.map_ptr
    if map is not None and map.map_flags & t.BPF_F_RDONLY_PROG and func_id_name(meta.func_id) in (
            "bpf_map_delete_elem", "bpf_map_update_elem", "bpf_map_push_elem", "bpf_map_pop_elem"):
        env.refuse("write into map forbidden\n")
