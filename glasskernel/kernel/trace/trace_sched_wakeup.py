"""The wakeup tracers: the longest time that the task of the highest priority waited between wakeup and running.

Linux: kernel/trace/trace_sched_wakeup.c (5.3). Same: wakeup looks at all tasks, wakeup_rt at real-time and deadline
    ones, wakeup_dl at deadline ones; the worst case is kept as the snapshot, with all functions called meanwhile
    (options/function-trace), or as a graph (options/display-graph); tracing_max_latency, tracing_thresh.
Differs: nothing measures interrupts off or preemption off: there are no irqsoff, preemptoff and preemptirqsoff tracers.
Owns: Wakeup (tr.data["wakeup"]). Context: the probes run in any; the rest: task.
Invariants: `task` is the task whose wakeup is being measured; only its records matter, so a new one empties the buffer.
"""
from __future__ import annotations

import sys
from collections.abc import Callable
from struct import Struct
from types import FrameType
from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.types import MAX_PRIO, MAX_RT_PRIO
from glasskernel.kernel.trace.fgraph import (
    FgraphOps,
    FtraceGraphEnt,
    FtraceGraphRet,
    register_ftrace_graph,
    unregister_ftrace_graph,
)
from glasskernel.kernel.trace.ftrace import (
    FTRACE_OPS_FL_ENABLED,
    FtraceOps,
    ftrace_init,
    register_ftrace_function,
    unregister_ftrace_function,
)
from glasskernel.kernel.trace.stacktrace import walk_frames
from glasskernel.kernel.trace.trace import (
    TRACE_ITER_DISPLAY_GRAPH,
    TRACE_ITER_FUNCTION,
    TRACE_ITER_LATENCY_FMT,
    TRACE_ITER_OVERWRITE,
    Tracer,
    TracerFlags,
    register_tracer,
    set_tracer_flag,
    trace_buffer_write,
    trace_save_cmdline,
    tracing_reset_online_cpus,
    update_max_tr,
)
from glasskernel.kernel.trace.trace_clock import trace_clock_peek
from glasskernel.kernel.trace.trace_functions import FN, TRACE_FN
from glasskernel.kernel.trace.trace_functions_graph import (
    TRACE_GRAPH_ENT,
    TRACE_GRAPH_RET,
    graph_trace_close,
    graph_trace_open,
    print_graph_function,
    print_graph_headers,
)
from glasskernel.kernel.trace.trace_graph_output import ENT, RET, TRACE_GRAPH_PRINT_ABS_TIME, TRACE_GRAPH_PRINT_PROC
from glasskernel.kernel.trace.trace_graph_output import GRAPH_DEFAULT as _GRAPH_DEFAULT
from glasskernel.kernel.trace.trace_output import trace_default_header
from glasskernel.kernel.tracepoint import tracepoint_probe_register, tracepoint_probe_unregister
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.kernel.trace.trace import TraceArray, TraceEntry, TraceIterator

TRACE_CTX, TRACE_WAKE = 2, 3
_SWITCH = Struct("<IIIBBBB")                      # context_switch, wakeup: pids, cpu, prio and state of both


@slotted
class Wakeup:
    """What lies in static variables of Linux's file. rt, dl: which of the three tracers it is. prio: of `task`."""

    tr: TraceArray
    rt: bool
    dl: bool
    enabled: bool = False                         # tracer_enabled
    task: TaskStruct | None = None
    cpu: int = -1
    prio: int = MAX_PRIO
    tracing_dl: bool = False
    preempt_timestamp: int = 0
    saved_flags: int = 0
    ops: FtraceOps | None = None
    gops: FgraphOps | None = None

    # ---- probes ----
    @notrace
    def probe_wakeup(self, p: TaskStruct) -> None:
        """sched_wakeup, sched_wakeup_new: measures p if it is more urgent than what runs and what is measured."""
        if not self.enabled or self.tracing_dl:
            return
        dl = p.prio < 0
        if not dl:
            if self.dl or (self.rt and p.prio >= MAX_RT_PRIO):
                return
            if p.prio >= self.prio or p.prio >= register.task.prio:
                return
        self.reset()
        self.cpu, self.prio, self.tracing_dl, self.task = p.cpu, p.prio, dl, p
        trace_save_cmdline(self.tr.state, p)
        task = register.task
        self.preempt_timestamp = trace_clock_peek(self.tr.kernel, task.cpu)
        self.record(TRACE_WAKE, task, p)
        self.function()

    @notrace
    def probe_wakeup_sched_switch(self, preempt: bool, prev: TaskStruct, next_: TaskStruct) -> None:
        """sched_switch: the task runs. Was that the longest wait?"""
        if not self.enabled or next_ is not self.task:
            return
        tr = self.tr
        self.function()
        self.record(TRACE_CTX, prev, next_)
        delta = max(trace_clock_peek(tr.kernel, register.task.cpu) - self.preempt_timestamp, 0)
        thresh = tr.state.tracing_thresh
        if (delta >= thresh if thresh else delta > tr.max_latency) and not tr.stop_count:
            tr.max_latency = delta
            update_max_tr(tr, next_, self.cpu)
        self.reset()

    @notrace
    def probe_wakeup_migrate_task(self, p: TaskStruct, dest_cpu: int) -> None:
        if p is self.task:
            self.cpu = dest_cpu

    # ---- records ----
    @notrace
    def reset(self) -> None:
        """__wakeup_reset()"""
        self.cpu, self.prio, self.tracing_dl, self.task = -1, MAX_PRIO, False, None
        tracing_reset_online_cpus(self.tr, self.tr.buffer)

    @notrace
    def record(self, kind: int, prev: TaskStruct, next_: TaskStruct) -> None:
        """tracing_sched_wakeup_trace(), tracing_sched_switch_trace()"""
        trace_buffer_write(self.tr, kind, _SWITCH.pack(
            prev.pid, next_.pid, next_.cpu, prev.prio & 0xFF, task_state_index(prev), next_.prio & 0xFF,
            task_state_index(next_)), True)

    @notrace
    def function(self) -> None:
        """Where it was woken, or switched to."""
        where = walk_frames(sys._getframe(2))
        if len(where) >= 2:
            trace_buffer_write(self.tr, TRACE_FN, FN.pack(where[0], where[1]), True)

    @notrace
    def wakeup_tracer_call(self, ip: int, parent_ip: int, op: FtraceOps, frame: FrameType) -> None:
        """Any function on the CPU where the task will run."""
        if self.task is not None and register.task.cpu == self.cpu:
            trace_buffer_write(self.tr, TRACE_FN, FN.pack(ip, parent_ip))

    @notrace
    def wakeup_graph_entry(self, trace: FtraceGraphEnt) -> bool:
        if self.task is None or register.task.cpu != self.cpu:
            return False
        return trace_buffer_write(self.tr, TRACE_GRAPH_ENT, ENT.pack(trace.func, trace.depth), stack=False)

    @notrace
    def wakeup_graph_return(self, trace: FtraceGraphRet) -> None:
        if self.task is not None and register.task.cpu == self.cpu:
            trace_buffer_write(self.tr, TRACE_GRAPH_RET, RET.pack(
                trace.func, trace.overrun, trace.calltime, trace.rettime, trace.depth), stack=False)


@notrace
def task_state_index(task: TaskStruct) -> int:
    """0 running, else the number of the state's bit, counted from 1."""
    state = (task.state | task.exit_state) & 0x7F
    return state.bit_length()


@notrace
def is_graph(tr: TraceArray) -> bool:
    return bool(tr.trace_flags & TRACE_ITER_DISPLAY_GRAPH)


def start_func_tracer(tr: TraceArray, graph: bool) -> None:
    """Errors: EBUSY, another graph tracer is on."""
    wakeup: Wakeup = tr.data["wakeup"]
    if graph:
        wakeup.gops = FgraphOps(wakeup.wakeup_graph_entry, wakeup.wakeup_graph_return)
        register_ftrace_graph(tr.kernel, wakeup.gops)
    elif tr.trace_flags & TRACE_ITER_FUNCTION:
        ops = wakeup.ops = FtraceOps(wakeup.wakeup_tracer_call)
        state = ftrace_init(tr.kernel)
        ops.filter_hash, ops.notrace_hash = state.global_ops.filter_hash, state.global_ops.notrace_hash
        register_ftrace_function(tr.kernel, ops)


def stop_func_tracer(tr: TraceArray) -> None:
    wakeup: Wakeup = tr.data["wakeup"]
    if wakeup.gops is not None:
        unregister_ftrace_graph(tr.kernel, wakeup.gops)
        wakeup.gops = None
    if wakeup.ops is not None:
        if wakeup.ops.flags & FTRACE_OPS_FL_ENABLED:
            unregister_ftrace_function(tr.kernel, wakeup.ops)
        wakeup.ops = None


def __wakeup_tracer_init(tr: TraceArray, rt: bool, dl: bool) -> None:
    """A wakeup tracer is chosen."""
    wakeup = tr.data["wakeup"] = Wakeup(tr, rt, dl, saved_flags=tr.trace_flags)
    set_tracer_flag(tr, TRACE_ITER_OVERWRITE, True)
    set_tracer_flag(tr, TRACE_ITER_LATENCY_FMT, True)
    tr.max_latency = 0
    start_func_tracer(tr, is_graph(tr))
    for name, probe in _probes(wakeup):
        tracepoint_probe_register(tr.kernel, name, probe)
    wakeup.reset()
    wakeup.enabled = True


@notrace
def _probes(wakeup: Wakeup) -> tuple[tuple[str, Callable[..., None]], ...]:
    return (("sched_wakeup", wakeup.probe_wakeup), ("sched_wakeup_new", wakeup.probe_wakeup),
            ("sched_switch", wakeup.probe_wakeup_sched_switch),
            ("sched_migrate_task", wakeup.probe_wakeup_migrate_task))


def wakeup_tracer_init(tr: TraceArray) -> None:
    __wakeup_tracer_init(tr, False, False)


def wakeup_rt_tracer_init(tr: TraceArray) -> None:
    __wakeup_tracer_init(tr, True, False)


def wakeup_dl_tracer_init(tr: TraceArray) -> None:
    __wakeup_tracer_init(tr, False, True)


def wakeup_tracer_reset(tr: TraceArray) -> None:
    """Another tracer is chosen: options are as they were."""
    wakeup: Wakeup = tr.data["wakeup"]
    wakeup.enabled = False
    for name, probe in _probes(wakeup):
        tracepoint_probe_unregister(tr.kernel, name, probe)
    stop_func_tracer(tr)
    wakeup.reset()
    for bit in (TRACE_ITER_LATENCY_FMT, TRACE_ITER_OVERWRITE):
        set_tracer_flag(tr, bit, bool(wakeup.saved_flags & bit))


def wakeup_tracer_start(tr: TraceArray) -> None:
    wakeup: Wakeup = tr.data["wakeup"]
    wakeup.reset()
    wakeup.enabled = True


def wakeup_tracer_stop(tr: TraceArray) -> None:
    wakeup: Wakeup = tr.data["wakeup"]
    wakeup.enabled = False


def wakeup_flag_changed(tr: TraceArray, mask: int, on: bool) -> None:
    """options/function-trace, options/display-graph"""
    if "wakeup" not in tr.data or not mask & (TRACE_ITER_FUNCTION | TRACE_ITER_DISPLAY_GRAPH):
        return
    stop_func_tracer(tr)
    flags = tr.trace_flags | mask if on else tr.trace_flags & ~mask
    if flags & (TRACE_ITER_FUNCTION | TRACE_ITER_DISPLAY_GRAPH):
        before, tr.trace_flags = tr.trace_flags, flags
        start_func_tracer(tr, is_graph(tr))
        tr.trace_flags = before


def wakeup_trace_open(iterator: TraceIterator) -> None:
    if is_graph(iterator.tr):
        graph_trace_open(iterator)


def wakeup_trace_close(iterator: TraceIterator) -> None:
    if iterator.private is not None:
        graph_trace_close(iterator)


def wakeup_print_header(iterator: TraceIterator) -> str:
    """In graph mode the graph's columns; else the usual header of latency-format."""
    if not is_graph(iterator.tr):
        return trace_default_header(iterator)
    return print_graph_headers(iterator)


def wakeup_print_line(iterator: TraceIterator, entry: TraceEntry) -> str | None:
    """In graph mode calls, returns, and what happens between them."""
    return print_graph_function(iterator, entry) if is_graph(iterator.tr) else None


def init_wakeup_tracer(kernel: Kernel) -> None:
    """Makes the three tracers known. Once a kernel, from trace_init()."""
    flags = _GRAPH_DEFAULT | TRACE_GRAPH_PRINT_ABS_TIME | TRACE_GRAPH_PRINT_PROC
    for name, init in (("wakeup", wakeup_tracer_init), ("wakeup_rt", wakeup_rt_tracer_init),
                       ("wakeup_dl", wakeup_dl_tracer_init)):
        register_tracer(kernel, Tracer(
            name, init=init, reset=wakeup_tracer_reset, start=wakeup_tracer_start, stop=wakeup_tracer_stop,
            open=wakeup_trace_open, close=wakeup_trace_close, pipe_open=wakeup_trace_open,
            pipe_close=wakeup_trace_close, print_header=wakeup_print_header, print_line=wakeup_print_line,
            flag_changed=wakeup_flag_changed, flags=TracerFlags((), flags), print_max=True,
            allow_instances=True, use_max_tr=True))
