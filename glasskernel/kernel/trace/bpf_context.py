"""What tracing programs see as their context, and the four types of them.

Linux: *_is_valid_access() and *_convert_ctx_access() of kernel/trace/bpf_trace.c, struct bpf_perf_event_data,
struct bpf_raw_tracepoint_args (5.3). Same: which bytes may be read, in which sizes; nothing may be written.
Differs: a context is an object; a field is fetched when the program reads it.
Context: any.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.regset import getreg
from glasskernel.kernel.bpf.types import (
    BPF_READ,
    BpfInsnAccessAux,
    BpfProg,
    BpfProgOps,
    BpfProgType,
    BpfRun,
    BpfVerifierOps,
)
from glasskernel.kernel.events.callchain import perf_instruction_pointer
from glasskernel.kernel.trace.bpf_memory import PT_REGS_SIZE, KernelRegs, pointer_to
from glasskernel.kernel.trace.bpf_trace import kprobe_prog_func_proto, pe_prog_func_proto, tp_prog_func_proto
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from glasskernel.kernel.events.types import PerfEvent, PerfRegs
    from glasskernel.kernel.task import TaskStruct

_RECORD_MAX = 2048                       # PERF_MAX_TRACE_SIZE
_RAW_ARGUMENTS = 12                      # MAX_BPF_FUNC_ARGS
_SAMPLE_PERIOD, _ADDR = PT_REGS_SIZE, PT_REGS_SIZE + 8


# ---- contexts ----------------------------------------------------------------------------------------------------
@slotted
class UserRegs:
    """struct pt_regs of a program in user mode."""

    task: TaskStruct
    frame: FrameType | None = None       # none in the kernel

    @notrace
    def word(self, run: BpfRun, offset: int) -> int:
        return getreg(self.task, offset >> 3)


@slotted
class TracepointRecord:
    """A tracepoint's record as perf would write it; the first 8 bytes are the kernel's."""

    raw: bytes
    frame: FrameType | None


@slotted
class RawTracepointArgs:
    """struct bpf_raw_tracepoint_args: a tracepoint's arguments as they are."""

    args: tuple[Any, ...]
    frame: FrameType | None

    @notrace
    def word(self, run: BpfRun, offset: int) -> int:
        index = offset >> 3
        return pointer_to(run, self.args[index]) if index < len(self.args) else 0


@slotted
class PerfEventData:
    """struct bpf_perf_event_data_kern: a sample."""

    event: PerfEvent
    sample: PerfRegs
    period: int
    addr: int
    frame: FrameType | None

    @notrace
    def word(self, run: BpfRun, offset: int) -> int:
        if offset == _SAMPLE_PERIOD:
            return self.period
        if offset == _ADDR:
            return self.addr
        return perf_regs(self.sample).word(run, offset)


@notrace
def perf_regs(sample: PerfRegs) -> KernelRegs | UserRegs:
    if sample.user_mode:
        return UserRegs(sample.task)
    return KernelRegs(None, perf_instruction_pointer(sample))


# ---- access ------------------------------------------------------------------------------------------------------
@notrace
def _part(off: int, size: int) -> Callable[[BpfRun], int]:
    """Reads bytes of one of the context's words."""
    word, shift, mask = off & ~7, (off & 7) * 8, (1 << 8 * size) - 1
    return lambda run: run.ctx.word(run, word) >> shift & mask


def words_convert_ctx_access(type: int, off: int, size: int, prog: BpfProg) -> Callable[[BpfRun], int]:
    """->convert_ctx_access() of contexts that are made of words"""
    return _part(off, size)


def kprobe_prog_is_valid_access(off: int, size: int, type: int, prog: BpfProg, info: BpfInsnAccessAux) -> bool:
    """->is_valid_access() of KPROBE"""
    return off >= 0 and off + size <= PT_REGS_SIZE and type == BPF_READ and not off % size


def tp_prog_is_valid_access(off: int, size: int, type: int, prog: BpfProg, info: BpfInsnAccessAux) -> bool:
    """->is_valid_access() of TRACEPOINT"""
    return off >= 8 and off + size <= _RECORD_MAX and type == BPF_READ and not off % size


def tp_prog_convert_ctx_access(type: int, off: int, size: int, prog: BpfProg) -> Callable[[BpfRun], int]:
    return lambda run: int.from_bytes(run.ctx.raw[off : off + size], "little")


def raw_tp_prog_is_valid_access(off: int, size: int, type: int, prog: BpfProg, info: BpfInsnAccessAux) -> bool:
    """->is_valid_access() of RAW_TRACEPOINT"""
    return 0 <= off < 8 * _RAW_ARGUMENTS and type == BPF_READ and not off % size


def pe_prog_is_valid_access(off: int, size: int, type: int, prog: BpfProg, info: BpfInsnAccessAux) -> bool:
    """->is_valid_access() of PERF_EVENT"""
    if not 0 <= off < _ADDR + 8 or type != BPF_READ or off % size:
        return False
    return size == 8 or off >= _SAMPLE_PERIOD


kprobe_prog_type = BpfProgType(
    b"kprobe", BpfVerifierOps(kprobe_prog_func_proto, kprobe_prog_is_valid_access, words_convert_ctx_access),
    BpfProgOps())
tracepoint_prog_type = BpfProgType(
    b"tracepoint", BpfVerifierOps(tp_prog_func_proto, tp_prog_is_valid_access, tp_prog_convert_ctx_access),
    BpfProgOps())
raw_tracepoint_prog_type = BpfProgType(
    b"raw_tracepoint", BpfVerifierOps(tp_prog_func_proto, raw_tp_prog_is_valid_access, words_convert_ctx_access),
    BpfProgOps())
perf_event_prog_type = BpfProgType(
    b"perf_event", BpfVerifierOps(pe_prog_func_proto, pe_prog_is_valid_access, words_convert_ctx_access), BpfProgOps())
