"""One verification: the program, the state it is in, what was found out for each instruction, the log.

Linux: include/linux/bpf_verifier.h, kernel/bpf/verifier.c (5.3). Same: fields of struct bpf_verifier_env, who marks
    what.
Context: task, in bpf(2).
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from glasskernel.arch.x86.uaccess import copy_to_user
from glasskernel.kernel.bpf import types as t
from glasskernel.kernel.bpf.insn import BPF_REG_FP, MAX_BPF_REG
from glasskernel.kernel.bpf.verifier_state import (
    REG_LIVE_READ,
    REG_LIVE_WRITTEN,
    FuncState,
    RegState,
    VerifierState,
    __mark_reg_unknown,
)
from glasskernel.lib.errno import EACCES, EFAULT, EINVAL, ENOSPC, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.bpf.types import BpfFuncProto, BpfMap, BpfProg, Insn

BPF_LOG_LEVEL1, BPF_LOG_LEVEL2, BPF_LOG_STATS = 1, 2, 4
BPF_LOG_LEVEL, BPF_LOG_MASK = 3, 7
SRC_OP, DST_OP, DST_OP_NO_MARK = range(3)
BPF_COMPLEXITY_LIMIT_INSNS, BPF_COMPLEXITY_LIMIT_JMP_SEQ = 1_000_000, 8192


class BpfVerifierLog:
    """struct bpf_verifier_log: text for the user's buffer. What does not fit is lost, and told by ENOSPC."""

    __slots__ = ("len_total", "len_used", "level", "ubuf")

    def __init__(self, level: int, ubuf: int, len_total: int) -> None:
        self.level, self.ubuf, self.len_total = level, ubuf, len_total
        self.len_used = 0
        if (level or ubuf or len_total) and (
                len_total < 128 or len_total > 0xFFFF_FFFF >> 2 or not level or not ubuf or level & ~BPF_LOG_MASK):
            raise KernelError(EINVAL)

    @property
    def full(self) -> bool:
        return self.len_used >= self.len_total - 1


def bpf_verifier_vlog(log: BpfVerifierLog, text: str) -> None:
    """Adds text, with its 0. A buffer that cannot be written ends the log."""
    if not log.ubuf or log.full:
        return
    data = text.encode()[: log.len_total - log.len_used - 1]
    try:
        copy_to_user(log.ubuf + log.len_used, data + b"\0")
        log.len_used += len(data)
    except KernelError:
        log.ubuf = 0


@notrace
def log_error(log: BpfVerifierLog) -> int:
    """What the log itself makes of an outcome: an errno, or 0."""
    if not log.level:
        return 0
    return EFAULT if not log.ubuf else ENOSPC if log.full else 0


class InsnAux:
    """struct bpf_insn_aux_data: what was learned of one instruction. ptr_type: of the pointer it goes through (0: none;
    -1: several that may be). map, map_off: what a BPF_LD_IMM64 loads. proto: the helper. prune_point: check_cfg()."""

    __slots__ = ("ctx_field_size", "map", "map_off", "proto", "prune_point", "ptr_type", "seen")

    def __init__(self) -> None:
        self.seen = False
        self.ptr_type = self.ctx_field_size = 0
        self.map: BpfMap | None = None
        self.map_off = -1                          # -1: the map's own address, BPF_PSEUDO_MAP_FD
        self.prune_point = False
        self.proto: BpfFuncProto | None = None


class SubprogInfo:
    """struct bpf_subprog_info"""

    __slots__ = ("stack_depth", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.stack_depth = 0


class VerifierEnv:
    """struct bpf_verifier_env. regs: cur_regs(). explored_states: by instruction. linfo_at: source lines."""

    __slots__ = ("allow_ptr_leaks", "aux", "cur_state", "explored_states", "id_gen", "insn_processed",
                 "jmps_processed", "linfo_at", "log", "longest_mark_read_walk", "max_states_per_insn", "peak_states",
                 "prev_insn_idx", "prev_insn_processed", "prev_jmps_processed", "prev_linfo", "prog", "regs",
                 "seen_direct_write", "stack", "strict_alignment", "subprogs", "test_state_freq", "total_states",
                 "used_maps")

    def __init__(self, prog: BpfProg, log: BpfVerifierLog) -> None:
        self.prog = prog
        self.log = log
        self.aux = [InsnAux() for _ in prog.insns]
        self.cur_state = VerifierState()
        self.regs: list[RegState] = []
        self.explored_states: dict[int, list[Any]] = {}
        self.stack: list[tuple[VerifierState, int, int]] = []          # (state, insn_idx, prev_insn_idx)
        self.used_maps: list[BpfMap] = []
        self.subprogs: list[SubprogInfo] = [SubprogInfo(0)]
        self.allow_ptr_leaks = self.strict_alignment = self.seen_direct_write = self.test_state_freq = False
        self.id_gen = self.prev_insn_idx = 0
        self.insn_processed = self.prev_insn_processed = self.jmps_processed = self.prev_jmps_processed = 0
        self.total_states = self.peak_states = self.max_states_per_insn = self.longest_mark_read_walk = 0
        self.linfo_at: dict[int, str] = {}
        self.prev_linfo = ""

    @property
    def insns(self) -> list[Insn]:
        return self.prog.insns

    @notrace
    def verbose(self, text: str) -> None:
        if self.log.level:
            bpf_verifier_vlog(self.log, text)

    @notrace
    def refuse(self, text: str, errno: int = EACCES) -> NoReturn:
        """verbose(), return -errno."""
        self.verbose(text)
        raise KernelError(errno)


# ---- small things that everybody needs ---------------------------------------------------------------------------
@notrace
def cur_func(env: VerifierEnv) -> FuncState:
    return env.cur_state.frame[-1]


@notrace
def func(env: VerifierEnv, reg: RegState) -> FuncState:
    """The frame a stack pointer points into."""
    return env.cur_state.frame[reg.frameno]


@notrace
def new_id(env: VerifierEnv) -> int:
    env.id_gen += 1
    return env.id_gen


def mark_reg_unknown(env: VerifierEnv, regs: list[RegState], regno: int) -> None:
    __mark_reg_unknown(regs[regno])


def is_pointer_value(env: VerifierEnv, regno: int) -> bool:
    """A pointer that the user may not learn."""
    return not env.allow_ptr_leaks and env.regs[regno].type != t.SCALAR_VALUE


def mark_reg_read(env: VerifierEnv, state: RegState) -> None:
    """Every state on the way here, up to the one that wrote the register, needs its value."""
    parent = state.parent
    walk = 0
    while parent is not None:
        if state.live & REG_LIVE_WRITTEN or parent.live & REG_LIVE_READ:
            break
        parent.live |= REG_LIVE_READ
        state = parent
        parent = state.parent
        walk += 1
    env.longest_mark_read_walk = max(env.longest_mark_read_walk, walk)


def check_reg_arg(env: VerifierEnv, regno: int, how: int) -> None:
    """The register may be read (SRC_OP), or is written. Raises EINVAL, EACCES."""
    if regno >= MAX_BPF_REG:
        env.refuse(f"R{regno} is invalid\n", EINVAL)
    reg = env.regs[regno]
    if how == SRC_OP:
        if reg.type == t.NOT_INIT:
            env.refuse(f"R{regno} !read_ok\n")
        if regno != BPF_REG_FP:
            mark_reg_read(env, reg)
        return
    if regno == BPF_REG_FP:
        env.refuse("frame pointer is read only\n")
    reg.live |= REG_LIVE_WRITTEN
    if how == DST_OP:
        __mark_reg_unknown(reg)


def coerce_reg_to_size(reg: RegState, size: int) -> None:
    """Truncates to `size` (1 to 4) bytes, zero-extended."""
    keep = (1 << size * 8) - 1
    reg.var_off = reg.var_off[0] & keep, reg.var_off[1] & keep
    if reg.umin_value & ~keep == reg.umax_value & ~keep:
        reg.umin_value &= keep
        reg.umax_value &= keep
    else:
        reg.umin_value, reg.umax_value = 0, keep
    reg.smin_value, reg.smax_value = reg.umin_value, reg.umax_value
