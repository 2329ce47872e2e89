"""The verifier: arithmetic on numbers and on pointers.

Linux: kernel/bpf/verifier.c: check_alu_op() and what it calls (5.3). Same: bounds and known bits after each operation,
    which arithmetic on pointers is refused, in which words. Gaps: sanitize_ptr_alu() (nothing speculates here).
"""
from __future__ import annotations

from glasskernel.kernel.bpf import types as t
from glasskernel.kernel.bpf.insn import (
    BPF_ADD,
    BPF_ALU64,
    BPF_AND,
    BPF_ARSH,
    BPF_DIV,
    BPF_END,
    BPF_LSH,
    BPF_MOD,
    BPF_MOV,
    BPF_MUL,
    BPF_NEG,
    BPF_OR,
    BPF_RSH,
    BPF_SUB,
    BPF_X,
    BPF_XOR,
)
from glasskernel.kernel.bpf.tnum import (
    tnum_add,
    tnum_and,
    tnum_arshift,
    tnum_lshift,
    tnum_mul,
    tnum_or,
    tnum_rshift,
    tnum_sub,
)
from glasskernel.kernel.bpf.types import Insn
from glasskernel.kernel.bpf.verifier_env import (
    DST_OP,
    DST_OP_NO_MARK,
    SRC_OP,
    VerifierEnv,
    check_reg_arg,
    coerce_reg_to_size,
    is_pointer_value,
    new_id,
)
from glasskernel.kernel.bpf.verifier_mem import BPF_MAX_VAR_OFF, check_map_access, check_stack_access
from glasskernel.kernel.bpf.verifier_state import (
    REG_LIVE_WRITTEN,
    REG_TYPE_STR,
    S64_MAX,
    S64_MIN,
    U32_MAX,
    RegState,
    __mark_reg_known,
    __mark_reg_unbounded,
    __mark_reg_unknown,
    __reg_bound_offset,
    __reg_deduce_bounds,
    __update_reg_bounds,
    reg_is_pkt_pointer,
)
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import U64_MAX, notrace

ALU_STRING = ("+=", "-=", "*=", "/=", "|=", "&=", "<<=", ">>=", "neg", "%=", "^=", "=", "s>>=", "endian", "", "")
_NO_ARITHMETIC = (t.CONST_PTR_TO_MAP, t.PTR_TO_PACKET_END, t.PTR_TO_SOCKET, t.PTR_TO_SOCKET_OR_NULL,
                  t.PTR_TO_SOCK_COMMON, t.PTR_TO_SOCK_COMMON_OR_NULL, t.PTR_TO_TCP_SOCK, t.PTR_TO_TCP_SOCK_OR_NULL,
                  t.PTR_TO_XDP_SOCK)


# ---- bounds ------------------------------------------------------------------------------------------------------
@notrace
def _contradicts(reg: RegState) -> bool:
    return ((reg.is_const and (reg.smin_value != reg.smax_value or reg.umin_value != reg.umax_value))
            or reg.smin_value > reg.smax_value or reg.umin_value > reg.umax_value)


@notrace
def _sum_of_bounds(dst: RegState, a: RegState, b: RegState, subtract: bool) -> None:
    """dst = a + b, or a - b; without bounds where that overflows."""
    if subtract:
        smin, smax = a.smin_value - b.smax_value, a.smax_value - b.smin_value
        umin, umax = a.umin_value - b.umax_value, a.umax_value - b.umin_value
        var_off = tnum_sub(a.var_off, b.var_off)
    else:
        smin, smax = a.smin_value + b.smin_value, a.smax_value + b.smax_value
        umin, umax = a.umin_value + b.umin_value, a.umax_value + b.umax_value
        var_off = tnum_add(a.var_off, b.var_off)
    if smin < S64_MIN or smax > S64_MAX:
        smin, smax = S64_MIN, S64_MAX
    if umin < 0 or umax > U64_MAX:
        umin, umax = 0, U64_MAX
    dst.smin_value, dst.smax_value, dst.umin_value, dst.umax_value, dst.var_off = smin, smax, umin, umax, var_off


@notrace
def _signed_from_unsigned(reg: RegState, negative: bool) -> None:
    """What the signed bounds are, if the unsigned ones were computed of numbers that were not negative."""
    reg.smin_value, reg.smax_value = (S64_MIN, S64_MAX) if negative else (reg.umin_value, reg.umax_value)


def adjust_scalar_min_max_vals(env: VerifierEnv, insn: Insn, dst: RegState, src: RegState) -> None:
    """dst <operation>= src, both numbers. src is a copy."""
    code = insn[0]
    operation, wide = code & 0xF0, code & 7 == BPF_ALU64
    bits = 64 if wide else 32
    if not wide:
        coerce_reg_to_size(dst, 4)
        coerce_reg_to_size(src, 4)
    known = src.is_const
    if _contradicts(src) or (not known and operation not in (BPF_ADD, BPF_SUB, BPF_AND)):
        __mark_reg_unknown(dst)
    elif operation in (BPF_ADD, BPF_SUB):
        _sum_of_bounds(dst, dst, src, operation == BPF_SUB)
    elif operation == BPF_MUL:
        _multiply(dst, src)
    elif operation in (BPF_AND, BPF_OR):
        _bitwise(dst, src, operation)
    elif operation in (BPF_LSH, BPF_RSH, BPF_ARSH) and src.umax_value < bits:
        _shift(dst, src.umin_value, operation, bits)
    else:
        __mark_reg_unknown(dst)
    if not wide:
        coerce_reg_to_size(dst, 4)
    __reg_deduce_bounds(dst)
    __reg_bound_offset(dst)


@notrace
def _multiply(dst: RegState, src: RegState) -> None:
    dst.var_off = tnum_mul(dst.var_off, src.var_off)
    if src.smin_value < 0 or dst.smin_value < 0 or src.umax_value > U32_MAX or dst.umax_value > U32_MAX:
        __mark_reg_unbounded(dst)
        __update_reg_bounds(dst)
        return
    dst.umin_value *= src.umin_value
    dst.umax_value *= src.umax_value
    _signed_from_unsigned(dst, dst.umax_value > S64_MAX)


@notrace
def _bitwise(dst: RegState, src: RegState, operation: int) -> None:
    negative = dst.smin_value < 0 or src.smin_value < 0
    if operation == BPF_AND:
        dst.var_off = tnum_and(dst.var_off, src.var_off)
        dst.umin_value = dst.var_off[0]
        dst.umax_value = min(dst.umax_value, src.umax_value)
    else:
        dst.var_off = tnum_or(dst.var_off, src.var_off)
        dst.umin_value = max(dst.umin_value, src.umin_value)
        dst.umax_value = dst.var_off[0] | dst.var_off[1]
    _signed_from_unsigned(dst, negative)
    __update_reg_bounds(dst)


@notrace
def _shift(dst: RegState, count: int, operation: int, bits: int) -> None:
    if operation == BPF_LSH:
        dst.smin_value, dst.smax_value = S64_MIN, S64_MAX
        if dst.umax_value > 1 << 63 - count:
            dst.umin_value, dst.umax_value = 0, U64_MAX
        else:
            dst.umin_value <<= count
            dst.umax_value = min(dst.umax_value << count, U64_MAX)
        dst.var_off = tnum_lshift(dst.var_off, count)
    elif operation == BPF_RSH:
        dst.smin_value, dst.smax_value = S64_MIN, S64_MAX
        dst.umin_value >>= count
        dst.umax_value >>= count
        dst.var_off = tnum_rshift(dst.var_off, count)
    elif bits == 32:
        value, mask = (word | (-(word >> 31) << 32) & U64_MAX for word in dst.var_off)
        dst.var_off = tnum_arshift((value, mask), count)
        __mark_reg_unbounded(dst)
    else:
        dst.smin_value >>= count
        dst.smax_value >>= count
        dst.umin_value, dst.umax_value = 0, U64_MAX
        dst.var_off = tnum_arshift(dst.var_off, count)
    __update_reg_bounds(dst)


# ---- pointers ----------------------------------------------------------------------------------------------------
def check_reg_sane_offset(env: VerifierEnv, reg: RegState, type: int) -> None:
    """Offsets that might overflow when more is added. Raises EINVAL."""
    name = REG_TYPE_STR[type]
    value = reg.var_off[0] - (1 << 64) if reg.var_off[0] >> 63 else reg.var_off[0]
    if reg.is_const and abs(value) >= BPF_MAX_VAR_OFF:
        env.refuse(f"math between {name} pointer and {value} is not allowed\n", EINVAL)
    if abs(reg.off) >= BPF_MAX_VAR_OFF:
        env.refuse(f"{name} pointer offset {reg.off} is not allowed\n", EINVAL)
    if reg.smin_value == S64_MIN:
        env.refuse(f"math between {name} pointer and register with unbounded min value is not allowed\n", EINVAL)
    if abs(reg.smin_value) >= BPF_MAX_VAR_OFF:
        env.refuse(f"value {reg.smin_value} makes {name} pointer be out of bounds\n", EINVAL)


def adjust_ptr_min_max_vals(env: VerifierEnv, insn: Insn, ptr: RegState, off: RegState) -> None:
    """dst = ptr +- off, where dst is one of the two. Raises EACCES, EINVAL."""
    code, dst_regno = insn[0], insn[1]
    dst = env.regs[dst_regno]
    operation = code & 0xF0
    known = off.is_const
    name = REG_TYPE_STR[ptr.type]
    if _contradicts(off):
        __mark_reg_unknown(dst)
        return
    if code & 7 != BPF_ALU64:
        env.refuse(f"R{dst_regno} 32-bit pointer arithmetic prohibited\n")
    if ptr.type == t.PTR_TO_MAP_VALUE_OR_NULL:
        env.refuse(f"R{dst_regno} pointer arithmetic on {name} prohibited, null-check it first\n")
    if ptr.type in _NO_ARITHMETIC:
        env.refuse(f"R{dst_regno} pointer arithmetic on {name} prohibited\n")
    if ptr.type == t.PTR_TO_MAP_VALUE and not env.allow_ptr_leaks and not known and (
            (off.smin_value < 0) != (off.smax_value < 0)):
        env.refuse(f"R{dst_regno} has unknown scalar with mixed signed bounds, pointer arithmetic with it prohibited "
                   "for !root\n")
    check_reg_sane_offset(env, off, ptr.type)
    check_reg_sane_offset(env, ptr, ptr.type)
    if operation == BPF_SUB:
        if dst is off:
            env.refuse(f"R{dst_regno} tried to subtract pointer from scalar\n")
        if ptr.type == t.PTR_TO_STACK:
            env.refuse(f"R{dst_regno} subtraction from stack pointer prohibited\n")
    elif operation in (BPF_AND, BPF_OR, BPF_XOR):
        env.refuse(f"R{dst_regno} bitwise operator {ALU_STRING[operation >> 4]} on pointer prohibited\n")
    elif operation != BPF_ADD:
        env.refuse(f"R{dst_regno} pointer arithmetic with {ALU_STRING[operation >> 4]} operator prohibited\n")
    ptr, off = ptr.copy(), off.copy()
    dst.assign(ptr)
    fixed = ptr.off + (off.smin_value if operation == BPF_ADD else -off.smin_value)
    if known and -(1 << 31) <= fixed < 1 << 31:
        dst.off = fixed
    else:
        _sum_of_bounds(dst, ptr, off, operation == BPF_SUB)
        if reg_is_pkt_pointer(ptr):
            dst.id = new_id(env)
            if operation == BPF_ADD or off.smin_value < 0:
                dst.range = 0
    check_reg_sane_offset(env, dst, ptr.type)
    __update_reg_bounds(dst)
    __reg_deduce_bounds(dst)
    __reg_bound_offset(dst)
    if not env.allow_ptr_leaks:
        check_unprivileged_range(env, dst_regno, dst)


@notrace
def check_unprivileged_range(env: VerifierEnv, regno: int, dst: RegState) -> None:
    """Without CAP_SYS_ADMIN a pointer must never even point elsewhere."""
    try:
        if dst.type == t.PTR_TO_MAP_VALUE:
            what = "pointer arithmetic of map value"
            check_map_access(env, regno, dst.off, 1, False)
        elif dst.type == t.PTR_TO_STACK:
            what = "stack pointer arithmetic"
            value = dst.var_off[0] - (1 << 64) if dst.var_off[0] >> 63 else dst.var_off[0]
            check_stack_access(env, dst, dst.off + value, 1)
    except KernelError:
        env.refuse(f"R{regno} {what} goes out of range, prohibited for !root\n")


def adjust_reg_min_max_vals(env: VerifierEnv, insn: Insn) -> None:
    """dst <operation>= src or constant. Raises EACCES, EINVAL."""
    code, dst_regno, src_regno, _off, imm = insn
    dst = env.regs[dst_regno]
    pointer = dst.type != t.SCALAR_VALUE
    if code & BPF_X:
        src = env.regs[src_regno]
        if src.type != t.SCALAR_VALUE:
            if not pointer:
                adjust_ptr_min_max_vals(env, insn, src, dst)
            elif code & 0xF0 == BPF_SUB and env.allow_ptr_leaks:
                __mark_reg_unknown(dst)
            else:
                env.refuse(f"R{dst_regno} pointer {ALU_STRING[(code & 0xF0) >> 4]} pointer prohibited\n")
            return
    else:
        src = RegState()
        src.type = t.SCALAR_VALUE
        __mark_reg_known(src, imm)
    if pointer:
        adjust_ptr_min_max_vals(env, insn, dst, src)
    else:
        adjust_scalar_min_max_vals(env, insn, dst, src.copy())
        dst.id = 0


def check_alu_op(env: VerifierEnv, insn: Insn) -> None:
    """An instruction of class ALU or ALU64. Raises EINVAL, EACCES."""
    code, dst, src, off, imm = insn
    operation, wide, from_reg = code & 0xF0, code & 7 == BPF_ALU64, code & BPF_X
    if operation == BPF_NEG:
        if from_reg or src or off or imm:
            env.refuse("BPF_NEG uses reserved fields\n", EINVAL)
    elif operation == BPF_END:
        if src or off or imm not in (16, 32, 64) or wide:
            env.refuse("BPF_END uses reserved fields\n", EINVAL)
    elif operation > BPF_END:
        env.refuse(f"invalid BPF_ALU opcode {operation:x}\n", EINVAL)
    elif off or (imm if from_reg else src):
        env.refuse(f"{'BPF_MOV' if operation == BPF_MOV else 'BPF_ALU'} uses reserved fields\n", EINVAL)
    if operation in (BPF_NEG, BPF_END):
        check_reg_arg(env, dst, SRC_OP)
        if is_pointer_value(env, dst):
            env.refuse(f"R{dst} pointer arithmetic prohibited\n")
        check_reg_arg(env, dst, DST_OP)
        return
    if from_reg:
        check_reg_arg(env, src, SRC_OP)
    if operation == BPF_MOV:
        check_reg_arg(env, dst, DST_OP_NO_MARK)
        _move(env, dst, src if from_reg else -1, imm, wide)
        return
    check_reg_arg(env, dst, SRC_OP)
    if operation in (BPF_MOD, BPF_DIV) and not from_reg and not imm:
        env.refuse("div by zero\n", EINVAL)
    if operation in (BPF_LSH, BPF_RSH, BPF_ARSH) and not from_reg and not 0 <= imm < (64 if wide else 32):
        env.refuse(f"invalid shift {imm}\n", EINVAL)
    check_reg_arg(env, dst, DST_OP_NO_MARK)
    adjust_reg_min_max_vals(env, insn)


@notrace
def _move(env: VerifierEnv, dst_regno: int, src_regno: int, imm: int, wide: bool) -> None:
    dst = env.regs[dst_regno]
    if src_regno < 0:
        __mark_reg_unknown(dst)
        __mark_reg_known(dst, imm if wide else imm & U32_MAX)
        return
    src = env.regs[src_regno]
    if wide:
        dst.assign(src)
    elif is_pointer_value(env, src_regno):
        env.refuse(f"R{src_regno} partial copy of pointer\n")
    else:
        if src.type == t.SCALAR_VALUE:
            dst.assign(src)
            dst.id = 0
        else:
            __mark_reg_unknown(dst)
        coerce_reg_to_size(dst, 4)
    dst.live |= REG_LIVE_WRITTEN


