"""The verifier: conditional jumps, and what each side learns.

Linux: kernel/bpf/verifier.c: check_cond_jmp_op() and what it calls (5.3). Same: a branch that is never taken is not
    looked at; bounds, NULL checks and comparisons with the packet's end narrow what is known on both sides.
"""
from __future__ import annotations

from glasskernel.kernel.bpf import types as t
from glasskernel.kernel.bpf.insn import (
    BPF_JA,
    BPF_JEQ,
    BPF_JGE,
    BPF_JGT,
    BPF_JLE,
    BPF_JLT,
    BPF_JMP32,
    BPF_JNE,
    BPF_JSET,
    BPF_JSGE,
    BPF_JSGT,
    BPF_JSLE,
    BPF_JSLT,
    BPF_X,
)
from glasskernel.kernel.bpf.tnum import tnum_and, tnum_const, tnum_intersect, tnum_or
from glasskernel.kernel.bpf.types import Insn
from glasskernel.kernel.bpf.verifier_env import (
    BPF_COMPLEXITY_LIMIT_JMP_SEQ,
    BPF_LOG_LEVEL,
    SRC_OP,
    VerifierEnv,
    check_reg_arg,
    coerce_reg_to_size,
    cur_func,
    is_pointer_value,
)
from glasskernel.kernel.bpf.verifier_state import (
    NULL_TYPES,
    S32_MAX,
    S32_MIN,
    STACK_SPILL,
    RegState,
    VerifierState,
    __mark_reg_known,
    __reg_bound_offset,
    __reg_deduce_bounds,
    __update_reg_bounds,
    print_verifier_state,
)
from glasskernel.lib.errno import EFAULT, EINVAL
from glasskernel.lib.types import U64_MAX, notrace

MAX_PACKET_OFF = 0xFFFF
_MIRROR = {BPF_JGT: BPF_JLT, BPF_JLT: BPF_JGT, BPF_JGE: BPF_JLE, BPF_JLE: BPF_JGE, BPF_JSGT: BPF_JSLT,
           BPF_JSLT: BPF_JSGT, BPF_JSGE: BPF_JSLE, BPF_JSLE: BPF_JSGE}
_HIGH = U64_MAX ^ 0xFFFF_FFFF


def push_stack(env: VerifierEnv, insn_idx: int, prev_insn_idx: int) -> VerifierState:
    """The state now, to go on with later from insn_idx. Raises EFAULT: too many."""
    state = env.cur_state.copy()
    env.stack.append((state, insn_idx, prev_insn_idx))
    if len(env.stack) > BPF_COMPLEXITY_LIMIT_JMP_SEQ:
        env.refuse(f"The sequence of {len(env.stack)} jumps is too complex.\n", EFAULT)
    if state.parent is not None:
        state.parent.branches += 1
    return state


@notrace
def _s32(value: int) -> int:
    return ((value & 0xFFFF_FFFF) ^ 1 << 31) - (1 << 31)


@notrace
def _s64(value: int) -> int:
    return (value ^ 1 << 63) - (1 << 63)


def is_branch_taken(reg: RegState, value: int, operation: int, is_jmp32: bool) -> int:
    """1: always, 0: never, -1: that depends. value: unsigned, 64 bits."""
    if reg.type != t.SCALAR_VALUE:
        return -1
    signed = _s64(value)
    if is_jmp32:
        reg = reg.copy()
        coerce_reg_to_size(reg, 4)
        if (reg.umax_value ^ reg.umin_value) >> 31:
            reg.smin_value, reg.smax_value = S32_MIN, S32_MAX
        else:
            reg.smin_value, reg.smax_value = _s32(reg.umin_value), _s32(reg.umax_value)
        value &= 0xFFFF_FFFF
        signed = _s32(value)
    bits, mask = reg.var_off
    if operation in (BPF_JEQ, BPF_JNE):
        return int((bits == value) == (operation == BPF_JEQ)) if not mask else -1
    if operation == BPF_JSET:
        return 1 if bits & value else -1 if (bits | mask) & value else 0
    low, high, number = ((reg.umin_value, reg.umax_value, value) if operation in (BPF_JGT, BPF_JGE, BPF_JLT, BPF_JLE)
                         else (reg.smin_value, reg.smax_value, signed))
    if operation in (BPF_JGT, BPF_JSGT):
        return 1 if low > number else 0 if high <= number else -1
    if operation in (BPF_JGE, BPF_JSGE):
        return 1 if low >= number else 0 if high < number else -1
    if operation in (BPF_JLT, BPF_JSLT):
        return 1 if high < number else 0 if low >= number else -1
    return 1 if high <= number else 0 if low > number else -1


# ---- numbers -----------------------------------------------------------------------------------------------------
def reg_set_min_max(true_reg: RegState, false_reg: RegState, value: int, operation: int, is_jmp32: bool) -> None:
    """What `reg <operation> value` says of the register where it holds, and where it does not."""
    if false_reg.type != t.SCALAR_VALUE:
        return
    signed = _s64(value)
    if is_jmp32:
        value &= 0xFFFF_FFFF
        signed = _s32(value)
    if operation in (BPF_JEQ, BPF_JNE):
        reg = true_reg if operation == BPF_JEQ else false_reg
        if is_jmp32:
            reg.var_off = reg.var_off[0] & _HIGH | value, reg.var_off[1] & _HIGH
        else:
            kind = reg.type
            __mark_reg_known(reg, value)
            reg.type = kind
    elif operation == BPF_JSET:
        false_reg.var_off = tnum_and(false_reg.var_off, tnum_const(~value & U64_MAX))
        if value and not value & value - 1:
            true_reg.var_off = tnum_or(true_reg.var_off, tnum_const(value))
    elif operation in (BPF_JGT, BPF_JGE):
        _set_upper(false_reg, value if operation == BPF_JGT else value - 1, is_jmp32)
        _set_lower(true_reg, value + 1 if operation == BPF_JGT else value, is_jmp32)
    elif operation in (BPF_JLT, BPF_JLE):
        _set_lower(false_reg, value if operation == BPF_JLT else value + 1, is_jmp32)
        _set_upper(true_reg, value - 1 if operation == BPF_JLT else value, is_jmp32)
    elif not is_jmp32 or cmp_val_with_extended_s64(signed, false_reg):
        below, above = (false_reg, true_reg) if operation in (BPF_JSGT, BPF_JSGE) else (true_reg, false_reg)
        inclusive_below = operation in (BPF_JSGT, BPF_JSLE)
        below.smax_value = min(below.smax_value, signed if inclusive_below else signed - 1)
        above.smin_value = max(above.smin_value, signed + 1 if inclusive_below else signed)
    for reg in (false_reg, true_reg):
        __reg_deduce_bounds(reg)
        __reg_bound_offset(reg)
        __update_reg_bounds(reg)


@notrace
def _set_upper(reg: RegState, value: int, is_jmp32: bool) -> None:
    if is_jmp32:
        value += (reg.var_off[0] | reg.var_off[1]) & _HIGH
    reg.umax_value = min(reg.umax_value, value)


@notrace
def _set_lower(reg: RegState, value: int, is_jmp32: bool) -> None:
    if is_jmp32:
        value += reg.var_off[0] & _HIGH
    reg.umin_value = max(reg.umin_value, value)


def cmp_val_with_extended_s64(signed: int, reg: RegState) -> bool:
    """A 32-bit comparison that says the same of all 64 bits."""
    if signed >= 0:
        return reg.smin_value >= 0 and reg.smax_value <= S32_MAX
    return reg.smax_value <= 0 and reg.smin_value >= S32_MIN


def __reg_combine_min_max(a: RegState, b: RegState) -> None:
    """The two are equal: each learns what the other knew."""
    a.umin_value = b.umin_value = max(a.umin_value, b.umin_value)
    a.umax_value = b.umax_value = min(a.umax_value, b.umax_value)
    a.smin_value = b.smin_value = max(a.smin_value, b.smin_value)
    a.smax_value = b.smax_value = min(a.smax_value, b.smax_value)
    a.var_off = b.var_off = tnum_intersect(a.var_off, b.var_off)
    for reg in (a, b):
        __update_reg_bounds(reg)
        __reg_deduce_bounds(reg)
        __reg_bound_offset(reg)
        __update_reg_bounds(reg)


# ---- pointers ----------------------------------------------------------------------------------------------------
def mark_ptr_or_null_regs(state: VerifierState, regno: int, is_null: bool) -> None:
    """Every copy of a pointer that was compared with NULL."""
    frame = state.frame[-1]
    number, ref_obj_id = frame.regs[regno].id, frame.regs[regno].ref_obj_id
    if ref_obj_id and ref_obj_id == number and is_null:
        frame.refs[:] = [entry for entry in frame.refs if entry[0] != number]
    for each in state.frame:
        for reg in each.regs:
            mark_ptr_or_null_reg(reg, number, is_null)
        for slot in each.stack:
            if slot.slot_type[0] == STACK_SPILL:
                mark_ptr_or_null_reg(slot.spilled_ptr, number, is_null)


def mark_ptr_or_null_reg(reg: RegState, number: int, is_null: bool) -> None:
    if reg.type not in NULL_TYPES or reg.id != number:
        return
    if is_null:
        __mark_reg_known(reg, 0)
        reg.type = t.SCALAR_VALUE
        return
    reg.type = NULL_TYPES[reg.type]
    map = reg.map_ptr
    if reg.type == t.PTR_TO_MAP_VALUE and map is not None:
        if map.inner_map_meta is not None:
            reg.type, reg.map_ptr = t.CONST_PTR_TO_MAP, map.inner_map_meta
        elif map.map_type == t.BPF_MAP_TYPE_XSKMAP:
            reg.type = t.PTR_TO_XDP_SOCK
        elif map.spin_lock_off >= 0:
            return
        reg.id = 0


def try_match_pkt_pointers(insn: Insn, dst: RegState, src: RegState, this: VerifierState, other: VerifierState) -> bool:
    """A comparison of a packet pointer with the packet's end (or of metadata with the packet's start)."""
    code = insn[0]
    operation = code & 0xF0
    if not code & BPF_X or code & 7 == BPF_JMP32 or operation not in (BPF_JGT, BPF_JLT, BPF_JGE, BPF_JLE):
        return False
    if not _ends(dst, src):
        if not _ends(src, dst):
            return False
        dst, operation = src, _MIRROR[operation]
    where = this if operation in (BPF_JGT, BPF_JGE) else other
    find_good_pkt_pointers(where, dst, operation in (BPF_JGE, BPF_JLT))
    return True


@notrace
def _ends(pointer: RegState, end: RegState) -> bool:
    if pointer.type == t.PTR_TO_PACKET:
        return end.type == t.PTR_TO_PACKET_END
    return pointer.type == t.PTR_TO_PACKET_META and end.type == t.PTR_TO_PACKET and not end.off and (
        end.var_off == (0, 0))


def find_good_pkt_pointers(state: VerifierState, pointer: RegState, range_right_open: bool) -> None:
    """Everything that was derived of the same pointer may go as far as this one."""
    if pointer.off < 0 or (not pointer.off and range_right_open) or (
            pointer.umax_value + max(pointer.off, 0) > MAX_PACKET_OFF):
        return
    new_range = pointer.off - range_right_open
    for frame in state.frame:
        for reg in [*frame.regs, *[slot.spilled_ptr for slot in frame.stack if slot.slot_type[0] == STACK_SPILL]]:
            if reg.type == pointer.type and reg.id == pointer.id:
                reg.range = max(reg.range, new_range)


# ---- the jump ----------------------------------------------------------------------------------------------------
def check_cond_jmp_op(env: VerifierEnv, insn: Insn, insn_idx: int) -> int:
    """Where to go on now: the other way is pushed if both are possible. Raises EINVAL, EACCES."""
    code, dst_regno, src_regno, off, imm = insn
    operation, is_jmp32, from_reg = code & 0xF0, code & 7 == BPF_JMP32, code & BPF_X
    if operation == BPF_JA or operation > BPF_JSLE:
        env.refuse(f"invalid BPF_JMP/JMP32 opcode {operation:x}\n", EINVAL)
    if imm if from_reg else src_regno:
        env.refuse("BPF_JMP/JMP32 uses reserved fields\n", EINVAL)
    if from_reg:
        check_reg_arg(env, src_regno, SRC_OP)
        if is_pointer_value(env, src_regno):
            env.refuse(f"R{src_regno} pointer comparison prohibited\n")
    check_reg_arg(env, dst_regno, SRC_OP)
    dst, src = env.regs[dst_regno], env.regs[src_regno]
    taken = -1
    constant = not from_reg or (src.type == t.SCALAR_VALUE and src.is_const)
    value = src.var_off[0] if from_reg else imm & U64_MAX
    if constant:
        taken = is_branch_taken(dst, value, operation, is_jmp32)
    if taken >= 0:
        return insn_idx + 1 + (off if taken else 0)
    other = push_stack(env, insn_idx + off + 1, insn_idx)
    other_regs = other.frame[-1].regs
    if dst.type == t.SCALAR_VALUE:
        if constant:
            reg_set_min_max(other_regs[dst_regno], dst, value, operation, is_jmp32)
        elif src.type == t.SCALAR_VALUE and dst.is_const and operation != BPF_JSET:
            reg_set_min_max(other_regs[src_regno], src, dst.var_off[0], _MIRROR.get(operation, operation), is_jmp32)
        elif src.type == t.SCALAR_VALUE and not is_jmp32 and operation in (BPF_JEQ, BPF_JNE):
            regs = other_regs if operation == BPF_JEQ else env.regs
            __reg_combine_min_max(regs[src_regno], regs[dst_regno])
    if not is_jmp32 and not from_reg and not imm and operation in (BPF_JEQ, BPF_JNE) and dst.type in NULL_TYPES:
        mark_ptr_or_null_regs(env.cur_state, dst_regno, operation == BPF_JNE)
        mark_ptr_or_null_regs(other, dst_regno, operation == BPF_JEQ)
    elif not try_match_pkt_pointers(insn, dst, src, env.cur_state, other) and is_pointer_value(env, dst_regno):
        env.refuse(f"R{dst_regno} pointer comparison prohibited\n")
    if env.log.level & BPF_LOG_LEVEL:
        env.verbose(print_verifier_state(cur_func(env)))
    return insn_idx + 1

