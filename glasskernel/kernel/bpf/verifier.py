"""The verifier: every path through a program is walked, before it may run.

Linux: kernel/bpf/verifier.c: bpf_check(), do_check(), check_cfg(), calls between subprograms (5.3). Same: order of the
    checks, their words, limits (a million instructions, 512 bytes of stack, eight frames).
Differs: nothing is rewritten: kernel/bpf/core.py uses what was learned (InsnAux). Instructions that no path reaches are
    not translated. Gaps: programs for devices (offload).
Context: task. May sleep: other tasks run while a long program is checked.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.bpf import types as t
from glasskernel.kernel.bpf.insn import (
    BPF_ABS,
    BPF_ALU,
    BPF_ALU64,
    BPF_CALL,
    BPF_CALL_CODE,
    BPF_DW,
    BPF_EXIT,
    BPF_EXIT_CODE,
    BPF_FUNC,
    BPF_IMM,
    BPF_IND,
    BPF_JA,
    BPF_JMP,
    BPF_JMP32,
    BPF_LD,
    BPF_LD_IMM64,
    BPF_LDX,
    BPF_MEM,
    BPF_PSEUDO_CALL,
    BPF_REG_FP,
    BPF_ST,
    BPF_STX,
    BPF_X,
    BPF_XADD,
    print_bpf_insn,
)
from glasskernel.kernel.bpf.tnum import tnum_strn
from glasskernel.kernel.bpf.types import BPF_READ, BPF_WRITE, MAX_BPF_STACK
from glasskernel.kernel.bpf.verifier_alu import check_alu_op
from glasskernel.kernel.bpf.verifier_env import (
    BPF_COMPLEXITY_LIMIT_INSNS,
    BPF_LOG_LEVEL,
    BPF_LOG_LEVEL2,
    DST_OP,
    DST_OP_NO_MARK,
    SRC_OP,
    SubprogInfo,
    VerifierEnv,
    check_reg_arg,
    cur_func,
    is_pointer_value,
    mark_reg_unknown,
    new_id,
)
from glasskernel.kernel.bpf.verifier_helpers import (
    check_helper_call,
    check_reference_leak,
    clear_caller_saved_regs,
)
from glasskernel.kernel.bpf.verifier_jmp import check_cond_jmp_op
from glasskernel.kernel.bpf.verifier_mem import check_mem_access, check_xadd
from glasskernel.kernel.bpf.verifier_state import (
    REG_TYPE_STR,
    SOCKET_POINTERS,
    FuncState,
    __mark_reg_known,
    __mark_reg_known_zero,
    print_verifier_state,
)
from glasskernel.kernel.bpf.verifier_states import is_state_visited, update_branch_counts
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.core import cond_resched, signal_pending
from glasskernel.lib.errno import E2BIG, EACCES, EAGAIN, EFAULT, EINVAL, EPERM, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.kernel.bpf.types import Insn

MAX_CALL_FRAMES = 8
BPF_REG_6 = 6
_MISMATCH = (t.PTR_TO_CTX, *SOCKET_POINTERS, t.PTR_TO_SOCKET_OR_NULL, t.PTR_TO_SOCK_COMMON_OR_NULL,
             t.PTR_TO_TCP_SOCK_OR_NULL)
_LD_ABS_TYPES = (t.BPF_PROG_TYPE_SOCKET_FILTER, t.BPF_PROG_TYPE_SCHED_CLS, t.BPF_PROG_TYPE_SCHED_ACT)
_RETURN_RANGE = {t.BPF_PROG_TYPE_CGROUP_SKB: (0, 1), t.BPF_PROG_TYPE_CGROUP_SOCK: (0, 1),
                 t.BPF_PROG_TYPE_CGROUP_SOCK_ADDR: (0, 1), t.BPF_PROG_TYPE_SOCK_OPS: (0, 1),
                 t.BPF_PROG_TYPE_CGROUP_DEVICE: (0, 1), t.BPF_PROG_TYPE_CGROUP_SYSCTL: (0, 1),
                 t.BPF_PROG_TYPE_CGROUP_SOCKOPT: (0, 1)}
_CGROUP_INET_EGRESS = 1


# ---- subprograms, the graph --------------------------------------------------------------------------------------
def check_subprogs(env: VerifierEnv) -> None:
    """Where functions start; jumps stay in them. Raises EINVAL, EPERM."""
    insns = env.insns
    starts = {0}
    for at, (code, _dst, src, _off, imm) in enumerate(insns):
        if code == BPF_CALL_CODE and src == BPF_PSEUDO_CALL:
            if not env.allow_ptr_leaks:
                env.refuse("function calls to other bpf functions are allowed for root only\n", EPERM)
            if not 0 <= at + imm + 1 < len(insns):
                env.refuse("call to invalid destination\n", EINVAL)
            starts.add(at + imm + 1)
    ordered = sorted(starts)
    env.subprogs = [SubprogInfo(start) for start in ordered]
    for start, end in zip(ordered, [*ordered[1:], len(insns)], strict=True):
        for at in range(start, end):
            code, _dst, _src, off, _imm = insns[at]
            if code & 7 in (BPF_JMP, BPF_JMP32) and code & 0xF0 not in (BPF_EXIT, BPF_CALL):
                if not start <= at + off + 1 < end:
                    env.refuse(f"jump out of range from insn {at} to {at + off + 1}\n", EINVAL)
        if insns[end - 1][0] not in (BPF_EXIT_CODE, BPF_JMP | BPF_JA):
            env.refuse("last insn is not an exit or jmp\n", EINVAL)


@notrace
def find_subprog(env: VerifierEnv, at: int) -> int:
    return [info.start for info in env.subprogs].index(at)


@notrace
def successors(env: VerifierEnv, at: int) -> list[int]:
    """Where an instruction may go; marks places to prune at."""
    code, _dst, src, off, imm = env.insns[at]
    if code & 7 not in (BPF_JMP, BPF_JMP32):
        return [at + 1]
    operation = code & 0xF0
    if operation == BPF_EXIT:
        return []
    if operation == BPF_CALL:
        marks, edges = [at + 1], [at + 1]
        if src == BPF_PSEUDO_CALL:
            marks.append(at)
            edges.append(at + imm + 1)
    elif operation == BPF_JA:
        marks, edges = [at + off + 1, at + 1], [at + off + 1]
    else:
        marks, edges = [at, at + off + 1], [at + 1, at + off + 1]
    for mark in marks:
        if 0 <= mark < len(env.insns):
            env.aux[mark].prune_point = True
    return edges


def check_cfg(env: VerifierEnv) -> None:
    """Every instruction can be reached, and only root may jump back. Raises EINVAL."""
    count = len(env.insns)
    exploring, done = [False] * count, [False] * count
    exploring[0] = True
    path = [(0, iter(successors(env, 0)))]
    while path:
        at, edges = path[-1]
        for to in edges:
            if not 0 <= to < count:
                env.refuse(f"jump out of range from insn {at} to {to}\n", EINVAL)
            if not exploring[to] and not done[to]:
                exploring[to] = True
                path.append((to, iter(successors(env, to))))
                break
            if exploring[to] and not (env.allow_ptr_leaks and env.insns[at][0] != BPF_CALL_CODE):
                env.refuse(f"back-edge from insn {at} to {to}\n", EINVAL)
        else:
            exploring[at], done[at] = False, True
            path.pop()
    for at in range(count):
        if not done[at] and not (at and env.insns[at - 1][0] == BPF_LD_IMM64):
            env.refuse(f"unreachable insn {at}\n", EINVAL)


def check_max_stack_depth(env: VerifierEnv) -> int:
    """The frames of any chain of calls fit into 512 bytes. How many frames there may be. Raises EACCES, E2BIG."""
    ends = [info.start for info in env.subprogs[1:]] + [len(env.insns)]
    most = 1

    def visit(number: int, depth: int, frame: int) -> None:
        nonlocal most
        most = max(most, frame)
        depth += max(env.subprogs[number].stack_depth, 1) + 31 & ~31
        if depth > MAX_BPF_STACK:
            env.refuse(f"combined stack size of {frame} calls is {depth}. Too large\n")
        for at in range(env.subprogs[number].start, ends[number]):
            code, _dst, src, _off, imm = env.insns[at]
            if code == BPF_CALL_CODE and src == BPF_PSEUDO_CALL:
                if frame >= MAX_CALL_FRAMES:
                    env.refuse(f"the call stack of {frame} frames is too deep !\n", E2BIG)
                visit(find_subprog(env, at + imm + 1), depth, frame + 1)

    visit(0, 0, 1)
    return most


# ---- frames ------------------------------------------------------------------------------------------------------
@notrace
def init_func_state(env: VerifierEnv, callsite: int, frameno: int, subprogno: int) -> FuncState:
    state = FuncState(callsite, frameno, subprogno)
    fp = state.regs[BPF_REG_FP]
    __mark_reg_known_zero(fp)
    fp.type, fp.frameno = t.PTR_TO_STACK, frameno
    return state


@notrace
def set_frame(env: VerifierEnv) -> None:
    env.regs = env.cur_state.frame[-1].regs


def check_func_call(env: VerifierEnv, insn: Insn, insn_idx: int) -> int:
    """A call of a subprogram; its first instruction. Raises E2BIG."""
    state = env.cur_state
    if len(state.frame) >= MAX_CALL_FRAMES:
        env.refuse(f"the call stack of {len(state.frame) + 1} frames is too deep\n", E2BIG)
    target = insn_idx + insn[4] + 1
    caller = cur_func(env)
    callee = init_func_state(env, insn_idx, len(state.frame), find_subprog(env, target))
    callee.refs = caller.refs[:]
    for regno in range(1, 6):
        callee.regs[regno] = caller.regs[regno].copy()
    clear_caller_saved_regs(env)
    state.frame.append(callee)
    set_frame(env)
    if env.log.level & BPF_LOG_LEVEL:
        env.verbose("caller:\n" + print_verifier_state(caller) + "callee:\n" + print_verifier_state(callee))
    return target


def prepare_func_exit(env: VerifierEnv) -> int:
    """Back to the caller: the instruction behind the call. Raises EINVAL."""
    callee = cur_func(env)
    if callee.regs[0].type == t.PTR_TO_STACK:
        env.refuse("cannot return stack pointer to the caller\n", EINVAL)
    env.cur_state.frame.pop()
    set_frame(env)
    caller = cur_func(env)
    caller.regs[0] = callee.regs[0].copy()
    caller.refs = callee.refs
    if env.log.level & BPF_LOG_LEVEL:
        env.verbose("returning from callee:\n" + print_verifier_state(callee)
                    + f"to caller at {callee.callsite + 1}:\n" + print_verifier_state(caller))
    return callee.callsite + 1


# ---- instructions ------------------------------------------------------------------------------------------------
def check_ld_imm(env: VerifierEnv, insn: Insn, insn_idx: int) -> None:
    """BPF_LD_IMM64: a number, a map, or an address in a map's value. Raises EINVAL."""
    code, dst, src, off, imm = insn
    if code & 0x18 != BPF_DW:
        env.refuse("invalid BPF_LD_IMM insn\n", EINVAL)
    if off:
        env.refuse("BPF_LD_IMM64 uses reserved fields\n", EINVAL)
    check_reg_arg(env, dst, DST_OP)
    reg = env.regs[dst]
    aux = env.aux[insn_idx]
    if not src:
        __mark_reg_known(reg, imm & 0xFFFF_FFFF | (env.insns[insn_idx + 1][4] & 0xFFFF_FFFF) << 32)
        return
    __mark_reg_known_zero(reg)
    reg.map_ptr = aux.map
    if aux.map_off < 0:
        reg.type = t.CONST_PTR_TO_MAP
        return
    reg.type, reg.off = t.PTR_TO_MAP_VALUE, aux.map_off
    if aux.map is not None and aux.map.spin_lock_off >= 0:
        reg.id = new_id(env)


def check_ld_abs(env: VerifierEnv, insn: Insn) -> None:
    """BPF_LD_ABS and BPF_LD_IND, as classic filters have them. Raises EINVAL, EACCES."""
    code, dst, src, off, _imm = insn
    if env.prog.type not in _LD_ABS_TYPES:
        env.refuse("BPF_LD_[ABS|IND] instructions not allowed for this program type\n", EINVAL)
    if env.prog.prog_type.verifier_ops.gen_ld_abs is None:
        env.refuse("bpf verifier is misconfigured\n", EINVAL)
    if len(env.subprogs) > 1:
        env.refuse("BPF_LD_[ABS|IND] instructions cannot be mixed with bpf-to-bpf calls\n", EINVAL)
    if dst or off or code & 0x18 == BPF_DW or (code & 0xE0 == BPF_ABS and src):
        env.refuse("BPF_LD_[ABS|IND] uses reserved fields\n", EINVAL)
    check_reg_arg(env, BPF_REG_6, SRC_OP)
    if check_reference_leak(env):
        env.refuse("BPF_LD_[ABS|IND] cannot be mixed with socket references\n", EINVAL)
    if env.cur_state.active_spin_lock:
        env.refuse("BPF_LD_[ABS|IND] cannot be used inside bpf_spin_lock-ed region\n", EINVAL)
    if env.regs[BPF_REG_6].type != t.PTR_TO_CTX:
        env.refuse("at the time of BPF_LD_ABS|IND R6 != pointer to skb\n", EINVAL)
    if code & 0xE0 == BPF_IND:
        check_reg_arg(env, src, SRC_OP)
    clear_caller_saved_regs(env)
    mark_reg_unknown(env, env.regs, 0)


def check_return_code(env: VerifierEnv) -> None:
    """Raises EINVAL: the answer may be a number that means nothing here."""
    if env.prog.type not in _RETURN_RANGE:
        return
    low, high = _RETURN_RANGE[env.prog.type]
    if env.prog.type == t.BPF_PROG_TYPE_CGROUP_SKB and env.prog.expected_attach_type == _CGROUP_INET_EGRESS:
        high = 3
    reg = env.regs[0]
    if reg.type != t.SCALAR_VALUE:
        env.refuse(f"At program exit the register R0 is not a known value ({REG_TYPE_STR[reg.type]})\n", EINVAL)
    if not low <= reg.var_off[0] <= reg.var_off[0] | reg.var_off[1] <= high:
        has = f"has value {tnum_strn(reg.var_off)}" if reg.var_off != (0, (1 << 64) - 1) else "has unknown scalar value"
        env.refuse(f"At program exit the register R0 {has} should have been in "
                   f"{tnum_strn((0, high))}\n", EINVAL)


@notrace
def note_pointer(env: VerifierEnv, insn_idx: int, kind: int) -> None:
    """An instruction goes through one type of pointer on all paths, unless all of them are plain memory."""
    aux = env.aux[insn_idx]
    if not aux.ptr_type:
        aux.ptr_type = kind
    elif aux.ptr_type != kind:
        if kind in _MISMATCH or aux.ptr_type in _MISMATCH:
            env.refuse("same insn cannot be used with different pointers\n", EINVAL)
        aux.ptr_type = -1


def check_jump(env: VerifierEnv, insn: Insn, at: int) -> int:
    """An instruction of class JMP or JMP32 that is no exit of the program: where it goes. Raises EINVAL, EACCES."""
    code, dst, src, off, imm = insn
    operation, small = code & 0xF0, code & 7 == BPF_JMP32
    if operation == BPF_CALL:
        if code & BPF_X or off or src not in (0, BPF_PSEUDO_CALL) or dst or small:
            env.refuse("BPF_CALL uses reserved fields\n", EINVAL)
        if env.cur_state.active_spin_lock and (src == BPF_PSEUDO_CALL or imm != BPF_FUNC["spin_unlock"]):
            env.refuse("function calls are not allowed while holding a lock\n", EINVAL)
        if src == BPF_PSEUDO_CALL:
            return check_func_call(env, insn, at)
        check_helper_call(env, imm, at)
        return at + 1
    if operation == BPF_JA:
        if code & BPF_X or imm or src or dst or small:
            env.refuse("BPF_JA uses reserved fields\n", EINVAL)
        return at + off + 1
    return check_cond_jmp_op(env, insn, at)


def check_exit(env: VerifierEnv, insn: Insn) -> None:
    """The end of a function. Raises EINVAL, EACCES."""
    code, dst, src, _off, imm = insn
    if code & BPF_X or imm or src or dst or code & 7 == BPF_JMP32:
        env.refuse("BPF_EXIT uses reserved fields\n", EINVAL)
    if env.cur_state.active_spin_lock:
        env.refuse("bpf_spin_unlock is missing\n", EINVAL)
    if len(env.cur_state.frame) > 1:
        return
    if check_reference_leak(env):
        raise KernelError(EINVAL)
    check_reg_arg(env, 0, SRC_OP)
    if is_pointer_value(env, 0):
        env.refuse("R0 leaks addr as return value\n", EACCES)
    check_return_code(env)


def check_store_or_load(env: VerifierEnv, insn: Insn, at: int) -> None:
    """An instruction of class LDX, ST or STX. Raises EINVAL, EACCES."""
    code, dst, src, off, _imm = insn
    kind = code & 7
    regs = env.regs
    if kind == BPF_LDX:
        check_reg_arg(env, src, SRC_OP)
        check_reg_arg(env, dst, DST_OP_NO_MARK)
        through = regs[src].type
        check_mem_access(env, at, src, off, code & 0x18, BPF_READ, dst, False)
    elif kind == BPF_STX:
        if code & 0xE0 == BPF_XADD:
            through = regs[dst].type if dst <= BPF_REG_FP else 0
            check_xadd(env, at, insn)
        else:
            check_reg_arg(env, src, SRC_OP)
            check_reg_arg(env, dst, SRC_OP)
            through = regs[dst].type
            check_mem_access(env, at, dst, off, code & 0x18, BPF_WRITE, src, False)
    else:
        if code & 0xE0 != BPF_MEM or src:
            env.refuse("BPF_ST uses reserved fields\n", EINVAL)
        check_reg_arg(env, dst, SRC_OP)
        through = regs[dst].type
        if through == t.PTR_TO_CTX:
            env.refuse(f"BPF_ST stores into R{dst} {REG_TYPE_STR[through]} is not allowed\n")
        check_mem_access(env, at, dst, off, code & 0x18, BPF_WRITE, -1, False)
    note_pointer(env, at, through)


# ---- all paths ---------------------------------------------------------------------------------------------------
@notrace
def log_insn(env: VerifierEnv, at: int, print_state: bool) -> None:
    if env.log.level & BPF_LOG_LEVEL2 or print_state:
        head = f"{at}:" if env.log.level & BPF_LOG_LEVEL2 else f"\nfrom {env.prev_insn_idx} to {at}:"
        env.verbose(head + print_verifier_state(cur_func(env)))
    source = env.linfo_at.get(at)
    if source is not None and source != env.prev_linfo:
        env.prev_linfo = source
        env.verbose(f"; {source}\n")
    env.verbose(f"{at}: " + print_bpf_insn(env.insns, at, env.allow_ptr_leaks))


@may_sleep
def do_check(env: VerifierEnv) -> None:
    """Walks every path. Raises what is wrong with the program; E2BIG: too long to tell; EAGAIN: a signal."""
    task = current()
    env.cur_state.branches = 1
    env.cur_state.frame.append(init_func_state(env, -1, 0, 0))
    set_frame(env)
    ctx = env.regs[1]
    __mark_reg_known_zero(ctx)
    ctx.type = t.PTR_TO_CTX
    insns, aux = env.insns, env.aux
    at, print_state = 0, False
    while True:
        if at >= len(insns):
            env.refuse(f"invalid insn idx {at} insn_cnt {len(insns)}\n", EFAULT)
        insn = insns[at]
        env.insn_processed += 1
        if env.insn_processed > BPF_COMPLEXITY_LIMIT_INSNS:
            env.refuse(f"BPF program is too large. Processed {env.insn_processed} insn\n", E2BIG)
        finished = is_state_visited(env, at)
        if finished:
            if env.log.level & BPF_LOG_LEVEL:
                env.verbose(f"\nfrom {env.prev_insn_idx} to {at}: safe\n" if print_state else f"{at}: safe\n")
        else:
            if not env.insn_processed & 1023:
                if signal_pending(task):
                    raise KernelError(EAGAIN)
                cond_resched()
            if env.log.level & BPF_LOG_LEVEL:
                log_insn(env, at, print_state)
                print_state = False
            aux[at].seen = True
            env.prev_insn_idx = at
            kind = insn[0] & 7
            if kind in (BPF_ALU, BPF_ALU64):
                check_alu_op(env, insn)
                at += 1
            elif kind in (BPF_LDX, BPF_ST, BPF_STX):
                check_store_or_load(env, insn, at)
                at += 1
            elif kind == BPF_LD:
                at = check_load(env, insn, at)
            else:
                env.jmps_processed += 1
                if insn[0] & 0xF0 != BPF_EXIT:
                    at = check_jump(env, insn, at)
                else:
                    check_exit(env, insn)
                    if len(env.cur_state.frame) > 1:
                        at = prepare_func_exit(env)
                        print_state = True
                    else:
                        finished = True
        if finished:
            update_branch_counts(env.cur_state)
            if not env.stack:
                return
            env.cur_state, at, env.prev_insn_idx = env.stack.pop()
            set_frame(env)
            print_state = True


def check_load(env: VerifierEnv, insn: Insn, at: int) -> int:
    """An instruction of class LD; the next one. Raises EINVAL, EACCES."""
    mode = insn[0] & 0xE0
    if mode in (BPF_ABS, BPF_IND):
        check_ld_abs(env, insn)
        return at + 1
    if mode != BPF_IMM:
        env.refuse("invalid BPF_LD mode\n", EINVAL)
    check_ld_imm(env, insn, at)
    return at + 2


def print_verification_stats(env: VerifierEnv) -> None:
    env.verbose(f"processed {env.insn_processed} insns (limit {BPF_COMPLEXITY_LIMIT_INSNS}) max_states_per_insn "
                f"{env.max_states_per_insn} total_states {env.total_states} peak_states {env.peak_states} mark_read "
                f"{env.longest_mark_read_walk}\n")
