"""The verifier: accesses to memory.

Linux: kernel/bpf/verifier.c: check_mem_access() and what it calls (5.3). Same: which accesses are refused, in which
    words.
Gaps: flow keys, writable raw tracepoints' buffers, the masks against speculation (nothing speculates here).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.bpf import types as t
from glasskernel.kernel.bpf.insn import BPF_DW, BPF_W, SIZES
from glasskernel.kernel.bpf.tnum import tnum_add, tnum_const, tnum_is_aligned, tnum_strn
from glasskernel.kernel.bpf.types import BPF_F_RDONLY_PROG, BPF_F_WRONLY_PROG, BPF_READ, BPF_WRITE, MAX_BPF_STACK
from glasskernel.kernel.bpf.verifier_env import (
    BPF_LOG_LEVEL,
    SRC_OP,
    VerifierEnv,
    check_reg_arg,
    coerce_reg_to_size,
    cur_func,
    func,
    is_pointer_value,
    mark_reg_read,
    mark_reg_unknown,
    new_id,
)
from glasskernel.kernel.bpf.verifier_state import (
    NULL_TYPES,
    PACKET_POINTERS,
    REG_LIVE_WRITTEN,
    REG_TYPE_STR,
    S64_MIN,
    SOCKET_POINTERS,
    STACK_INVALID,
    STACK_MISC,
    STACK_SPILL,
    STACK_ZERO,
    FuncState,
    RegState,
    StackState,
    __mark_reg_known_zero,
    __mark_reg_unknown,
    print_verifier_state,
)
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from typing import NoReturn

    from glasskernel.kernel.bpf.types import Insn
    from glasskernel.kernel.bpf.verifier_helpers import CallArgMeta

BPF_MAX_VAR_OFF = 1 << 29
_SPILLABLE = frozenset((t.PTR_TO_MAP_VALUE, t.PTR_TO_MAP_VALUE_OR_NULL, t.PTR_TO_STACK, t.PTR_TO_CTX, t.PTR_TO_PACKET,
                        t.PTR_TO_PACKET_META, t.PTR_TO_PACKET_END, t.PTR_TO_FLOW_KEYS, t.CONST_PTR_TO_MAP,
                        t.PTR_TO_SOCKET, t.PTR_TO_SOCKET_OR_NULL, t.PTR_TO_SOCK_COMMON, t.PTR_TO_SOCK_COMMON_OR_NULL,
                        t.PTR_TO_TCP_SOCK, t.PTR_TO_TCP_SOCK_OR_NULL, t.PTR_TO_XDP_SOCK))
_NEGATIVE = "R{} min value is negative, either use unsigned index or do a if (index >=0) check.\n"
_POINTER_DESC = {t.PTR_TO_FLOW_KEYS: "flow keys ", t.PTR_TO_MAP_VALUE: "value ", t.PTR_TO_CTX: "context ",
                 t.PTR_TO_STACK: "stack ", t.PTR_TO_SOCKET: "sock ", t.PTR_TO_SOCK_COMMON: "sock_common ",
                 t.PTR_TO_TCP_SOCK: "tcp_sock ", t.PTR_TO_XDP_SOCK: "xdp_sock "}
_READ_ONLY_PACKET = (t.BPF_PROG_TYPE_LWT_IN, t.BPF_PROG_TYPE_LWT_OUT, t.BPF_PROG_TYPE_LWT_SEG6LOCAL,
                     t.BPF_PROG_TYPE_SK_REUSEPORT, t.BPF_PROG_TYPE_FLOW_DISSECTOR, t.BPF_PROG_TYPE_CGROUP_SKB)
_PACKET_PROGS = (t.BPF_PROG_TYPE_SCHED_CLS, t.BPF_PROG_TYPE_SCHED_ACT, t.BPF_PROG_TYPE_XDP, t.BPF_PROG_TYPE_LWT_XMIT,
                 t.BPF_PROG_TYPE_SK_SKB, t.BPF_PROG_TYPE_SK_MSG)


# ---- the stack ---------------------------------------------------------------------------------------------------
def check_stack_access(env: VerifierEnv, reg: RegState, off: int, size: int) -> None:
    """Stack slots are addressed by constants only."""
    if not reg.is_const:
        env.refuse(f"variable stack access var_off={tnum_strn(reg.var_off)} off={off} size={size}\n")
    if off >= 0 or off < -MAX_BPF_STACK:
        env.refuse(f"invalid stack off={off} size={size}\n")


def update_stack_depth(env: VerifierEnv, state: FuncState, off: int) -> None:
    info = env.subprogs[state.subprogno]
    info.stack_depth = max(info.stack_depth, -off)


def save_register_state(slot: StackState, reg: RegState) -> None:
    slot.spilled_ptr.assign(reg)
    slot.spilled_ptr.live |= REG_LIVE_WRITTEN
    slot.slot_type = [STACK_SPILL] * 8


def check_stack_write(env: VerifierEnv, state: FuncState, off: int, size: int, value_regno: int) -> None:
    """value_regno: -1 for a constant, or something unknown."""
    at = -off - 1
    while len(state.stack) <= at >> 3:
        state.stack.append(StackState())
    slot = state.stack[at >> 3]
    if not env.allow_ptr_leaks and slot.slot_type[0] == STACK_SPILL and size != 8:
        env.refuse("attempt to corrupt spilled pointer on stack\n")
    reg = env.regs[value_regno] if value_regno >= 0 else None
    constant = reg is not None and reg.type == t.SCALAR_VALUE and reg.is_const
    if reg is not None and constant and size == 8 and reg.var_off[0] and env.allow_ptr_leaks:
        save_register_state(slot, reg)
        return
    if reg is not None and reg.type in _SPILLABLE:
        if size != 8:
            env.refuse("invalid size of register spill\n")
        if state is not cur_func(env) and reg.type == t.PTR_TO_STACK:
            env.refuse("cannot spill pointers to stack into stack frame of the caller\n", EINVAL)
        save_register_state(slot, reg)
        return
    slot.spilled_ptr.type = t.NOT_INIT
    if slot.slot_type[0] == STACK_SPILL:
        slot.slot_type = [STACK_MISC] * 8
    if size == 8:
        slot.spilled_ptr.live |= REG_LIVE_WRITTEN
    kind = STACK_ZERO if reg is not None and constant and not reg.var_off[0] else STACK_MISC
    for i in range(size):
        slot.slot_type[at - i & 7] = kind


def check_stack_read(env: VerifierEnv, state: FuncState, off: int, size: int, value_regno: int) -> None:
    at = -off - 1
    if len(state.stack) <= at >> 3:
        env.refuse(f"invalid read from stack off {off}+0 size {size}\n")
    slot = state.stack[at >> 3]
    reg, kinds = slot.spilled_ptr, slot.slot_type
    if kinds[0] == STACK_SPILL:
        if size != 8 and reg.type != t.SCALAR_VALUE:
            env.refuse("invalid size of register fill\n")
        mark_reg_read(env, reg)
        if value_regno >= 0:
            if size != 8:
                mark_reg_unknown(env, env.regs, value_regno)
            else:
                env.regs[value_regno].assign(reg)
            env.regs[value_regno].live |= REG_LIVE_WRITTEN
        return
    zeros = 0
    for i in range(size):
        kind = kinds[at - i & 7]
        if kind == STACK_INVALID:
            env.refuse(f"invalid read from stack off {off}+{i} size {size}\n")
        zeros += kind == STACK_ZERO
    mark_reg_read(env, reg)
    if value_regno >= 0:
        mark_reg_unknown(env, env.regs, value_regno)
        if zeros == size:
            __mark_reg_known_zero(env.regs[value_regno])
        env.regs[value_regno].live |= REG_LIVE_WRITTEN


def check_stack_boundary(env: VerifierEnv, regno: int, access_size: int, zero_size_allowed: bool,
                         meta: CallArgMeta | None) -> None:
    """A helper reads (or, in raw mode, fills) bytes of the stack."""
    reg = env.regs[regno]
    if reg.type != t.PTR_TO_STACK:
        if zero_size_allowed and not access_size and reg.type == t.SCALAR_VALUE and reg.var_off == (0, 0):
            return
        env.refuse(f"R{regno} type={REG_TYPE_STR[reg.type]} expected={REG_TYPE_STR[t.PTR_TO_STACK]}\n")
    state = func(env, reg)
    if reg.is_const:
        low = high = _signed_offset(reg)
        __check_stack_boundary(env, regno, low, access_size, zero_size_allowed)
        if meta is not None and meta.raw_mode:
            meta.access_size, meta.regno = access_size, regno
            return
    else:
        if not env.allow_ptr_leaks:
            env.refuse(f"R{regno} indirect variable offset stack access prohibited for !root, "
                       f"var_off={tnum_strn(reg.var_off)}\n")
        if reg.smax_value >= BPF_MAX_VAR_OFF or reg.smin_value <= -BPF_MAX_VAR_OFF:
            env.refuse(f"R{regno} unbounded indirect variable offset stack access\n")
        low, high = reg.smin_value + reg.off, reg.smax_value + reg.off
        for bound, which in ((low, "min"), (high, "max")):
            try:
                __check_stack_boundary(env, regno, bound, access_size, zero_size_allowed)
            except KernelError:
                env.refuse(f"R{regno} {which} value is outside of stack bound\n")
    for i in range(low, high + access_size):
        at = -i - 1
        slot = state.stack[at >> 3] if len(state.stack) > at >> 3 else None
        kind = slot.slot_type[at & 7] if slot is not None else STACK_INVALID
        if slot is not None and kind == STACK_ZERO:
            slot.slot_type[at & 7] = STACK_MISC            # a helper may write here
        elif slot is not None and kind == STACK_SPILL and slot.spilled_ptr.type == t.SCALAR_VALUE:
            __mark_reg_unknown(slot.spilled_ptr)
            slot.slot_type = [STACK_MISC] * 8
        elif kind != STACK_MISC:
            if reg.is_const:
                env.refuse(f"invalid indirect read from stack off {low}+{i - low} size {access_size}\n")
            env.refuse(f"invalid indirect read from stack var_off {tnum_strn(reg.var_off)}+{i - low} "
                       f"size {access_size}\n")
        assert slot is not None
        mark_reg_read(env, slot.spilled_ptr)
    update_stack_depth(env, state, low)


def __check_stack_boundary(env: VerifierEnv, regno: int, off: int, access_size: int, zero_size_allowed: bool) -> None:
    reg = env.regs[regno]
    if off >= 0 or off < -MAX_BPF_STACK or off + access_size > 0 or access_size < 0 or (
            not access_size and not zero_size_allowed):
        if reg.is_const:
            env.refuse(f"invalid stack type R{regno} off={off} access_size={access_size}\n")
        env.refuse(f"invalid stack type R{regno} var_off={tnum_strn(reg.var_off)} access_size={access_size}\n")


@notrace
def _signed_offset(reg: RegState) -> int:
    """off + var_off of a pointer whose offset is constant."""
    value = reg.var_off[0]
    return reg.off + (value - (1 << 64) if value >> 63 else value)


# ---- values of maps, packets -------------------------------------------------------------------------------------
def check_map_access_type(env: VerifierEnv, regno: int, off: int, size: int, kind: int) -> None:
    map = env.regs[regno].map_ptr
    assert map is not None
    detail = f"value_size={map.value_size} off={off} size={size}\n"
    if kind == BPF_WRITE and map.map_flags & BPF_F_RDONLY_PROG:
        env.refuse(f"write into map forbidden, {detail}")
    if kind == BPF_READ and map.map_flags & BPF_F_WRONLY_PROG:
        env.refuse(f"read from map forbidden, {detail}")


def __check_map_access(env: VerifierEnv, regno: int, off: int, size: int, zero_size_allowed: bool) -> None:
    map = env.regs[regno].map_ptr
    assert map is not None
    if off < 0 or size < 0 or (not size and not zero_size_allowed) or off + size > map.value_size:
        env.refuse(f"invalid access to map value, value_size={map.value_size} off={off} size={size}\n")


def check_map_access(env: VerifierEnv, regno: int, off: int, size: int, zero_size_allowed: bool) -> None:
    """Both ends of what the offset may be lie in the value."""
    reg = env.regs[regno]
    if env.log.level & BPF_LOG_LEVEL:
        env.verbose(print_verifier_state(cur_func(env)))
    if reg.smin_value < 0 and (reg.smin_value == S64_MIN or reg.smin_value + off < 0
                               or not -(1 << 31) <= reg.smin_value + off < 1 << 31):
        env.refuse(_NEGATIVE.format(regno))
    _bounded(env, regno, reg.smin_value + off, size, zero_size_allowed, "min")
    if reg.umax_value >= BPF_MAX_VAR_OFF:
        env.refuse(f"R{regno} unbounded memory access, make sure to bounds check any array access into a map\n")
    _bounded(env, regno, reg.umax_value + off, size, zero_size_allowed, "max")
    assert reg.map_ptr is not None
    lock = reg.map_ptr.spin_lock_off
    if lock >= 0 and reg.smin_value + off < lock + 4 and lock < reg.umax_value + off + size:
        env.refuse("bpf_spin_lock cannot be accessed directly by load/store\n")


@notrace
def _bounded(env: VerifierEnv, regno: int, off: int, size: int, zero_size_allowed: bool, which: str) -> None:
    try:
        __check_map_access(env, regno, off, size, zero_size_allowed)
    except KernelError:
        env.refuse(f"R{regno} {which} value is outside of the array range\n")


def may_access_direct_pkt_data(env: VerifierEnv, meta: CallArgMeta | None, kind: int) -> bool:
    type = env.prog.type
    if type in _READ_ONLY_PACKET and kind == BPF_WRITE:
        return False
    if type not in _PACKET_PROGS and type not in _READ_ONLY_PACKET:
        return False
    if meta is not None:
        return meta.pkt_access
    if type in _PACKET_PROGS:
        env.seen_direct_write = True
    return True


def check_packet_access(env: VerifierEnv, regno: int, off: int, size: int, zero_size_allowed: bool) -> None:
    """The program has compared this pointer with the packet's end."""
    reg = env.regs[regno]
    if reg.smin_value < 0:
        env.refuse(_NEGATIVE.format(regno))
    if off < 0 or size < 0 or (not size and not zero_size_allowed) or off + size > reg.range:
        env.verbose(f"invalid access to packet, off={off} size={size}, R{regno}(id={reg.id},off={reg.off},"
                    f"r={reg.range})\n")
        env.refuse(f"R{regno} offset is outside of the packet\n")


# ---- contexts, sockets -------------------------------------------------------------------------------------------
def check_ctx_reg(env: VerifierEnv, reg: RegState, regno: int) -> None:
    """Only the context's own address may be used."""
    if reg.off:
        env.refuse(f"dereference of modified ctx ptr R{regno} off={reg.off} disallowed\n")
    if reg.var_off != (0, 0):
        env.refuse(f"variable ctx access var_off={tnum_strn(reg.var_off)} disallowed\n")


def check_ctx_access(env: VerifierEnv, insn_idx: int, off: int, size: int, kind: int) -> int:
    """The type of what is read there."""
    info = t.BpfInsnAccessAux()
    ops = env.prog.prog_type.verifier_ops
    if off < 0 or not ops.is_valid_access(off, size, kind, env.prog, info):
        env.refuse(f"invalid bpf_context access off={off} size={size}\n")
    env.aux[insn_idx].ctx_field_size = info.ctx_field_size
    env.prog.max_ctx_offset = max(env.prog.max_ctx_offset, off + size)
    return info.reg_type


def check_sock_access(env: VerifierEnv, insn_idx: int, regno: int, off: int, size: int) -> None:
    reg = env.regs[regno]
    if reg.smin_value < 0:
        env.refuse(_NEGATIVE.format(regno))
    valid = env.prog.prog_type.verifier_ops.sock_is_valid_access
    info = t.BpfInsnAccessAux()
    if valid is None or not valid(reg.type, off, size, info):
        env.refuse(f"R{regno} invalid {REG_TYPE_STR[reg.type]} access off={off} size={size}\n")
    env.aux[insn_idx].ctx_field_size = info.ctx_field_size


# ---- any access --------------------------------------------------------------------------------------------------
def check_ptr_alignment(env: VerifierEnv, reg: RegState, off: int, size: int, strict_alignment_once: bool) -> None:
    strict = env.strict_alignment or strict_alignment_once or reg.type == t.PTR_TO_STACK
    if not strict or size == 1:
        return
    if reg.type in PACKET_POINTERS:
        if not tnum_is_aligned(tnum_add(reg.var_off, tnum_const(2 + reg.off + off & 0xFFFF_FFFF_FFFF_FFFF)), size):
            env.refuse(f"misaligned packet access off 2+{tnum_strn(reg.var_off)}+{reg.off}+{off} size {size}\n")
    elif not tnum_is_aligned(tnum_add(reg.var_off, tnum_const(reg.off + off & 0xFFFF_FFFF_FFFF_FFFF)), size):
        env.refuse(f"misaligned {_POINTER_DESC.get(reg.type, '')}access off {tnum_strn(reg.var_off)}+{reg.off}+{off} "
                   f"size {size}\n")


def check_mem_access(env: VerifierEnv, insn_idx: int, regno: int, off: int, bpf_size: int, kind: int,
                     value_regno: int, strict_alignment_once: bool) -> None:
    """A load into value_regno (-1: of XADD), or a store from it (-1: of a constant). Raises EACCES, EINVAL."""
    regs = env.regs
    reg = regs[regno]
    size = SIZES[bpf_size]
    check_ptr_alignment(env, reg, off, size, strict_alignment_once)
    off += reg.off
    read = kind == BPF_READ and value_regno >= 0
    leaks = kind == BPF_WRITE and value_regno >= 0 and is_pointer_value(env, value_regno)
    if reg.type == t.PTR_TO_MAP_VALUE:
        if leaks:
            env.refuse(f"R{value_regno} leaks addr into map\n")
        check_map_access_type(env, regno, off, size, kind)
        check_map_access(env, regno, off, size, False)
        if read:
            mark_reg_unknown(env, regs, value_regno)
    elif reg.type == t.PTR_TO_CTX:
        if leaks:
            env.refuse(f"R{value_regno} leaks addr into ctx\n")
        check_ctx_reg(env, reg, regno)
        reg_type = check_ctx_access(env, insn_idx, off, size, kind)
        if read:
            mark_reg_unknown(env, regs, value_regno)
            if reg_type != t.SCALAR_VALUE:
                __mark_reg_known_zero(regs[value_regno])
                if reg_type in NULL_TYPES:
                    regs[value_regno].id = new_id(env)
            regs[value_regno].type = reg_type
    elif reg.type == t.PTR_TO_STACK:
        off += _signed_offset(reg) - reg.off
        check_stack_access(env, reg, off, size)
        state = func(env, reg)
        update_stack_depth(env, state, off)
        if kind == BPF_WRITE:
            check_stack_write(env, state, off, size, value_regno)
        else:
            check_stack_read(env, state, off, size, value_regno)
    elif reg.type in PACKET_POINTERS:
        if kind == BPF_WRITE and not may_access_direct_pkt_data(env, None, kind):
            env.refuse("cannot write into packet\n")
        if leaks:
            env.refuse(f"R{value_regno} leaks addr into packet\n")
        check_packet_access(env, regno, off, size, False)
        if read:
            mark_reg_unknown(env, regs, value_regno)
    elif reg.type in SOCKET_POINTERS:
        if kind == BPF_WRITE:
            env.refuse(f"R{regno} cannot write into {REG_TYPE_STR[reg.type]}\n")
        check_sock_access(env, insn_idx, regno, off, size)
        if read:
            mark_reg_unknown(env, regs, value_regno)
    else:
        bad_pointer(env, regno, reg)
    if size < 8 and read and regs[value_regno].type == t.SCALAR_VALUE:
        coerce_reg_to_size(regs[value_regno], size)


@notrace
def bad_pointer(env: VerifierEnv, regno: int, reg: RegState) -> NoReturn:
    env.refuse(f"R{regno} invalid mem access '{REG_TYPE_STR[reg.type]}'\n")


def check_xadd(env: VerifierEnv, insn_idx: int, insn: Insn) -> None:
    """*(dst + off) += src, atomically: a read and a write."""
    code, dst, src, off, imm = insn
    if code & 0x18 not in (BPF_W, BPF_DW) or imm:
        env.refuse("BPF_XADD uses reserved fields\n", EINVAL)
    check_reg_arg(env, src, SRC_OP)
    check_reg_arg(env, dst, SRC_OP)
    if is_pointer_value(env, src):
        env.refuse(f"R{src} leaks addr into mem\n")
    kind = env.regs[dst].type
    if kind in (t.PTR_TO_CTX, t.PTR_TO_FLOW_KEYS, *PACKET_POINTERS, *SOCKET_POINTERS):
        env.refuse(f"BPF_XADD stores into R{dst} {REG_TYPE_STR[kind]} is not allowed\n")
    check_mem_access(env, insn_idx, dst, off, code & 0x18, BPF_READ, -1, True)
    check_mem_access(env, insn_idx, dst, off, code & 0x18, BPF_WRITE, -1, True)
