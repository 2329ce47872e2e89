"""BPF programs of perf events: PERF_EVENT_IOC_SET_BPF, and what runs them.

Linux: perf_event_set_bpf_prog() and its neighbours in kernel/events/core.c, perf_event_attach_bpf_prog() and
trace_call_bpf() of kernel/trace/bpf_trace.c (5.3). Same: all programs of a tracepoint or probe run whoever's event
brought them, and if one answers 0 there is no record; a sample whose program answers 0 is not written.
Owns: TraceEventCall.prog_array, PerfEvent.prog (a reference). Context: attaching: task; running: any.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.uaccess import get_user_u32, put_user_u32
from glasskernel.kernel.bpf.objects import bpf_prog_get, bpf_prog_get_type, bpf_prog_put
from glasskernel.kernel.bpf.types import (
    BPF_PROG_TYPE_KPROBE,
    BPF_PROG_TYPE_PERF_EVENT,
    BPF_PROG_TYPE_TRACEPOINT,
    BpfProg,
)
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.events.core import perf_state
from glasskernel.kernel.events.output import perf_event_output
from glasskernel.kernel.events.types import PERF_TYPE_TRACEPOINT, PerfEvent, PerfRegs
from glasskernel.kernel.trace.bpf_context import PerfEventData, TracepointRecord, UserRegs
from glasskernel.kernel.trace.bpf_memory import KernelRegs
from glasskernel.kernel.trace.trace_uprobe import TraceUprobe
from glasskernel.lib.errno import E2BIG, EACCES, EEXIST, EINVAL, ENOENT, ENOSPC, EPERM, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from types import FrameType

    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.kernel.trace.trace_events import TraceEventCall
    from glasskernel.kernel.trace.trace_kprobe import KprobeContext

BPF_TRACE_MAX_PROGS = 64


# ---- attaching ---------------------------------------------------------------------------------------------------
@may_sleep
def perf_event_set_bpf_prog(event: PerfEvent, prog_fd: int) -> None:
    """Raises EBADF, EINVAL (not for such events), EACCES (it reads behind the record), EEXIST, E2BIG."""
    if event.attr.type != PERF_TYPE_TRACEPOINT and event.hw.tp_event is None:
        perf_event_set_bpf_handler(event, prog_fd)
        return
    call = event.hw.tp_event
    wanted = BPF_PROG_TYPE_TRACEPOINT if call.tracepoint else BPF_PROG_TYPE_KPROBE
    prog = bpf_prog_get(prog_fd)
    try:
        if prog.type != wanted:
            raise KernelError(EINVAL)
        if call.tracepoint and prog.max_ctx_offset > trace_event_get_offsets(call):
            raise KernelError(EACCES)
        perf_event_attach_bpf_prog(event, prog)
    except KernelError:
        bpf_prog_put(prog)
        raise


def trace_event_get_offsets(call: Any) -> int:
    """Where a record's last field ends. (kernel/trace/trace_events.c)"""
    tail = call.fields[-1]
    return int(tail.offset + tail.size)


def perf_event_attach_bpf_prog(event: PerfEvent, prog: BpfProg) -> None:
    """Takes over the reference. Raises EEXIST, E2BIG."""
    call = event.hw.tp_event
    if event.prog is not None:
        raise KernelError(EEXIST)
    if len(call.prog_array) >= BPF_TRACE_MAX_PROGS:
        raise KernelError(E2BIG)
    call.prog_array = (*call.prog_array, prog)
    call.call_bpf = (tracepoint_call_bpf if call.tracepoint else
                     uprobe_call_bpf if isinstance(call.data, TraceUprobe) else kprobe_call_bpf)
    _until_destroyed(event, prog)


def perf_event_detach_bpf_prog(event: PerfEvent) -> None:
    call, prog = event.hw.tp_event, event.prog
    assert prog is not None
    at = call.prog_array.index(prog)
    call.prog_array = call.prog_array[:at] + call.prog_array[at + 1 :]
    if not call.prog_array:
        call.call_bpf = None


def perf_event_set_bpf_handler(event: PerfEvent, prog_fd: int) -> None:
    """A program for each sample. Raises EBADF, EINVAL, EEXIST."""
    if event.overflow_handler is not None or event.parent is not None:
        raise KernelError(EINVAL)
    if event.prog is not None:
        raise KernelError(EEXIST)
    prog = bpf_prog_get_type(prog_fd, BPF_PROG_TYPE_PERF_EVENT)
    event.overflow_handler = bpf_overflow_handler
    _until_destroyed(event, prog)


@notrace
def _until_destroyed(event: PerfEvent, prog: BpfProg) -> None:
    event.prog, destroy = prog, event.destroy

    def destroyed(event: PerfEvent) -> None:
        perf_event_free_bpf_prog(event)
        if destroy is not None:
            destroy(event)

    event.destroy = destroyed


def perf_event_free_bpf_prog(event: PerfEvent) -> None:
    prog = event.prog
    assert prog is not None
    if event.overflow_handler is None:
        perf_event_detach_bpf_prog(event)
    event.prog = event.overflow_handler = None
    bpf_prog_put(prog)


@may_sleep
def perf_event_query_prog_array(event: PerfEvent, info: int) -> None:
    """PERF_EVENT_IOC_QUERY_BPF: the numbers of a tracepoint's programs. Raises EPERM, EINVAL, E2BIG, EFAULT, ENOENT,
    ENOSPC."""
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    if event.attr.type != PERF_TYPE_TRACEPOINT:
        raise KernelError(EINVAL)
    ids_len = get_user_u32(info)
    if ids_len > BPF_TRACE_MAX_PROGS:
        raise KernelError(E2BIG)
    programs = event.hw.tp_event.prog_array
    put_user_u32(info + 4, len(programs))
    if not programs:
        raise KernelError(ENOENT)
    for at, prog in enumerate(programs[:ids_len]):
        put_user_u32(info + 8 + 4 * at, prog.id)
    if len(programs) > ids_len:
        raise KernelError(ENOSPC)


# ---- running -----------------------------------------------------------------------------------------------------
def trace_call_bpf(kernel: Kernel, programs: tuple[BpfProg, ...], ctx: Any) -> int:
    """1 if every program of an event answers so. 0: no record shall be made; or a program is running already, whose
    helper raised this event."""
    state = perf_state(kernel)
    if state.bpf_prog_active:
        return 0
    state.bpf_prog_active = True
    try:
        ret = 1
        for prog in programs:
            ret &= prog.run(ctx)
        return ret
    finally:
        state.bpf_prog_active = False


@notrace
def tracepoint_call_bpf(kernel: Kernel, call: TraceEventCall, record: tuple[bytes, FrameType | None]) -> int:
    """perf_trace_run_bpf_submit(). record: with its common fields, and where it was made."""
    return trace_call_bpf(kernel, call.prog_array, TracepointRecord(*record))


@notrace
def kprobe_call_bpf(kernel: Kernel, call: TraceEventCall, context: KprobeContext) -> int:
    """kprobe_perf_func()"""
    return trace_call_bpf(kernel, call.prog_array, KernelRegs(context.frame, call.data.ip, context.returned))


@notrace
def uprobe_call_bpf(kernel: Kernel, call: TraceEventCall, task: TaskStruct) -> int:
    """__uprobe_perf_func()"""
    return trace_call_bpf(kernel, call.prog_array, UserRegs(task))


def bpf_overflow_handler(event: PerfEvent, regs: PerfRegs, addr: int, raw: bytes, period: int) -> None:
    """A sample: written if its program wants that."""
    owner = event.parent or event
    state = perf_state(event.kernel)
    if state.bpf_prog_active:
        return
    state.bpf_prog_active = True
    try:
        assert owner.prog is not None
        ret = owner.prog.run(PerfEventData(event, regs, period, addr, regs.frame))
    finally:
        state.bpf_prog_active = False
    if ret:
        perf_event_output(event, regs, addr, raw, period)
