"""The function_graph tracer: calls and returns of kernel functions, as C-like text.

Linux: kernel/trace/trace_functions_graph.c (5.3). Same: the records, every option, which calls are left out
    (set_graph_function, set_graph_notrace, max_graph_depth, set_ftrace_pid, funcgraph-irqs), the text byte for byte.
Differs: options are one flags word. Durations are virtual: see trace_clock.py.
Owns: GraphTracer (one a kernel); the text is made by trace_graph_output.py.
Context: trace_graph_entry() and trace_graph_return() in any; printing: task.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.softirq import in_irq
from glasskernel.kernel.trace.fgraph import (
    FgraphOps,
    FtraceGraphEnt,
    FtraceGraphRet,
    RetStack,
    register_ftrace_graph,
    unregister_ftrace_graph,
)
from glasskernel.kernel.trace.ftrace import ftrace_init
from glasskernel.kernel.trace.ftrace_filter import FtraceInstance, ftrace_instance
from glasskernel.kernel.trace.ftrace_profile import ftrace_profile
from glasskernel.kernel.trace.ring_buffer import (
    ring_buffer_consume,
    ring_buffer_iter_advance,
    ring_buffer_iter_peek,
    ring_buffer_read_start,
)
from glasskernel.kernel.trace.trace import (
    TRACE_ITER_CONTEXT_INFO,
    TRACE_ITER_LATENCY_FMT,
    Tracer,
    TracerFlags,
    register_tracer,
    trace_buffer_write,
    trace_entry_of,
    trace_find_cmdline,
    trace_state,
)
from glasskernel.kernel.trace.trace_clock import trace_clock_peek
from glasskernel.kernel.trace.trace_graph_output import (
    ENT,
    GRAPH_DEFAULT,
    GRAPH_OPTIONS,
    RET,
    TRACE_GRAPH_GRAPH_TIME,
    TRACE_GRAPH_PRINT_IRQS,
    TRACE_GRAPH_SLEEP_TIME,
    GraphPrinter,
)
from glasskernel.kernel.trace.trace_output import (
    get_total_entries,
    print_trace_header,
    trace_event_text,
    trace_print_lat_fmt,
)
from glasskernel.kernel.tracepoint import tracepoint_probe_register, tracepoint_probe_unregister
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.kernel.trace.trace import TraceArray, TraceEntry, TraceIterator

TRACE_GRAPH_BIT, TRACE_GRAPH_NOTRACE_BIT, TRACE_IRQ_BIT = 1 << 0, 1 << 1, 1 << 2      # RetStack.trace_recursion


# ---- recording ------------------------------------------------------------------------------------------------------
class GraphTracer:
    """Who writes the records. write(is_return, payload) puts one into the buffer (False: it is off). instance: has
    set_ftrace_pid.

    tracing_thresh: ns; only returns of calls that took as long are recorded. 0: everything is.
    """

    def __init__(self, kernel: Kernel, write: Callable[[bool, bytes], bool], instance: FtraceInstance) -> None:
        self.kernel = kernel
        self.state = ftrace_init(kernel)
        self.write = write
        self.instance = instance
        self.fgraph_max_depth = 0                 # max_graph_depth
        self.skip_irqs = False                    # nofuncgraph-irqs
        self.tracing_thresh = 0
        self.sleep_time = True
        self.ops: FgraphOps | None = None

    @notrace
    def start(self) -> None:
        """graph_trace_init(). Errors: EBUSY."""
        self.ops = FgraphOps(self.trace_graph_entry,
                             self.trace_graph_thresh_return if self.tracing_thresh else self.trace_graph_return)
        register_ftrace_graph(self.kernel, self.ops)

    @notrace
    def stop(self) -> None:
        """graph_trace_reset()"""
        if self.ops is not None:
            unregister_ftrace_graph(self.kernel, self.ops)
            self.ops = None

    @notrace
    def set_sleep_time(self, on: bool) -> None:
        """options/sleep-time: off, a call does not last while its task is switched away."""
        if on == self.sleep_time:
            return
        self.sleep_time = on
        change = tracepoint_probe_unregister if on else tracepoint_probe_register
        change(self.kernel, "sched_switch", self.probe_sched_switch)

    @notrace
    def probe_sched_switch(self, preempt: bool, prev: TaskStruct, next_: TaskStruct) -> None:
        """ftrace_graph_probe_sched_switch(): calls of `next_` begin later by what it slept."""
        now = trace_clock_peek(self.kernel, prev.cpu)
        if prev.ret_stack is not None:
            prev.ret_stack.ftrace_timestamp = now
        stack: RetStack | None = next_.ret_stack
        if stack is not None and stack.ftrace_timestamp:
            for call in stack.calls:
                call.calltime += now - stack.ftrace_timestamp

    @notrace
    def trace_graph_entry(self, trace: FtraceGraphEnt) -> bool:
        task = register.task
        stack: RetStack = task.ret_stack
        pids = self.instance.function_pids
        if stack.trace_recursion & TRACE_GRAPH_NOTRACE_BIT or (pids is not None and task.pid not in pids):
            return False                          # ftrace_trace_task()
        state = self.state
        if trace.func in state.graph_notrace_functions:
            stack.trace_recursion |= TRACE_GRAPH_NOTRACE_BIT
            return True                           # its return ends the silence
        if (state.graph_functions or self.fgraph_max_depth) and self.graph_ignore_func(stack, trace):
            return False
        if self.skip_irqs and not stack.trace_recursion & TRACE_IRQ_BIT and in_irq():
            return False
        if self.tracing_thresh or self.write(False, ENT.pack(trace.func, trace.depth)):
            return True
        if stack.recursion_depth == trace.depth:  # the buffer is off: what has no beginning gets no end
            stack.trace_recursion &= ~TRACE_GRAPH_BIT
        return False

    @notrace
    def graph_ignore_func(self, stack: RetStack, trace: FtraceGraphEnt) -> bool:
        """ftrace_graph_ignore_func(): not in or below a function of set_graph_function, or too deep."""
        only = self.state.graph_functions
        if only and not stack.trace_recursion & TRACE_GRAPH_BIT:
            if trace.func not in only:
                return True
            stack.trace_recursion |= TRACE_GRAPH_BIT
            stack.recursion_depth = trace.depth
            if in_irq():
                stack.trace_recursion |= TRACE_IRQ_BIT
            else:
                stack.trace_recursion &= ~TRACE_IRQ_BIT
        return bool(self.fgraph_max_depth) and trace.depth >= self.fgraph_max_depth

    @notrace
    def trace_graph_return(self, trace: FtraceGraphRet) -> None:
        if not register.task.ret_stack.trace_recursion or self.returns(trace):
            self.write(True, RET.pack(trace.func, trace.overrun, trace.calltime, trace.rettime, trace.depth))

    @notrace
    def trace_graph_thresh_return(self, trace: FtraceGraphRet) -> None:
        if self.returns(trace) and trace.rettime - trace.calltime >= self.tracing_thresh:
            self.write(True, RET.pack(trace.func, trace.overrun, trace.calltime, trace.rettime, trace.depth))

    @notrace
    def returns(self, trace: FtraceGraphRet) -> bool:
        """ftrace_graph_addr_finish(), and the end of set_graph_notrace. False: this return is not recorded."""
        stack: RetStack = register.task.ret_stack
        if stack.trace_recursion & TRACE_GRAPH_BIT and trace.depth == stack.recursion_depth:
            stack.trace_recursion &= ~TRACE_GRAPH_BIT
        if stack.trace_recursion & TRACE_GRAPH_NOTRACE_BIT:
            stack.trace_recursion &= ~TRACE_GRAPH_NOTRACE_BIT
            return False
        return True


# ---- the tracer -----------------------------------------------------------------------------------------------------
TRACE_GRAPH_RET, TRACE_GRAPH_ENT, TRACE_FN, TRACE_STACK, TRACE_PRINT = 10, 11, 1, 4, 5


@slotted
class LineRecord:
    """A GraphRecord made of what an iterator looks at, or of a record read from a ring."""

    cpu: int
    ts: int
    pid: int
    payload: bytes
    entry: TraceEntry | None


@notrace
def graph_tracer(kernel: Kernel) -> GraphTracer:
    """The recording half, made when the tracer is registered."""
    tracer: GraphTracer = trace_state(kernel).global_trace.data["function_graph"]
    return tracer


def graph_trace_init(tr: TraceArray) -> None:
    """Errors: EBUSY, the profiler is on."""
    tracer = graph_tracer(tr.kernel)
    tracer.tracing_thresh = tr.state.tracing_thresh
    tracer.start()


def graph_trace_reset(tr: TraceArray) -> None:
    graph_tracer(tr.kernel).stop()


def graph_trace_update_thresh(tr: TraceArray) -> None:
    """tracing_thresh changed."""
    graph_trace_reset(tr)
    graph_trace_init(tr)


def func_graph_set_flag(tr: TraceArray, bit: int, on: bool) -> None:
    """One of the options that recording looks at."""
    if bit == TRACE_GRAPH_PRINT_IRQS:
        graph_tracer(tr.kernel).skip_irqs = not on
    elif bit == TRACE_GRAPH_SLEEP_TIME:
        graph_tracer(tr.kernel).set_sleep_time(on)
    elif bit == TRACE_GRAPH_GRAPH_TIME:
        ftrace_profile(tr.kernel).graph_time = on


def graph_trace_open(iterator: TraceIterator) -> None:
    """A reader comes."""
    tr = iterator.tr
    printer = GraphPrinter(tr.kernel, lambda pid: trace_find_cmdline(tr.state, pid))
    if tr.trace_flags & TRACE_ITER_LATENCY_FMT or iterator.latency_format:
        printer.lat = trace_print_lat_fmt
    iterator.private = printer


def graph_trace_close(iterator: TraceIterator) -> None:
    iterator.private = None


@notrace
def _printer(iterator: TraceIterator) -> GraphPrinter:
    if not isinstance(iterator.private, GraphPrinter):
        graph_trace_open(iterator)
    printer: GraphPrinter = iterator.private
    printer.flags = iterator.trace.flags.val
    printer.context_info = bool(iterator.tr.trace_flags & TRACE_ITER_CONTEXT_INFO)
    return printer


def print_graph_headers(iterator: TraceIterator) -> str:
    """In latency format the header of all tracers comes first, and nothing above an empty buffer."""
    text = ""
    if iterator.latency_format or iterator.tr.trace_flags & TRACE_ITER_LATENCY_FMT:
        if not get_total_entries(iterator)[1]:
            return ""
        text = print_trace_header(iterator)
    return text + _printer(iterator).headers()


def print_graph_function(iterator: TraceIterator, entry: TraceEntry) -> str | None:
    """The text of any record under this tracer; None: the usual one (stacks, records of the function tracer)."""
    printer = _printer(iterator)
    record = LineRecord(iterator.cpu, iterator.ts, entry.pid, entry.payload, entry)
    if entry.type == TRACE_GRAPH_ENT:
        return printer.entry(record, get_return_for_leaf(iterator, printer, record))
    if entry.type == TRACE_GRAPH_RET:
        return printer.exit(record)
    if entry.type in (TRACE_STACK, TRACE_FN):
        return None
    if entry.type == TRACE_PRINT:
        return printer.comment(record, entry.payload[8:].partition(b"\0")[0].decode("latin-1"))
    return printer.comment(record, trace_event_text(iterator, entry))


def get_return_for_leaf(iterator: TraceIterator, printer: GraphPrinter, record: LineRecord) -> LineRecord | None:
    """The return behind a call of which nothing more is known: it is taken from the buffer together with the call."""
    ring_iter = iterator.buffer_iters[iterator.cpu] if iterator.buffer_iters else None
    cpu_buffer = iterator.buffer.buffers[iterator.cpu]
    if ring_iter is not None:
        event = ring_buffer_iter_peek(ring_iter)
    else:
        ahead = ring_buffer_read_start(cpu_buffer)
        ring_buffer_iter_advance(ahead)
        event = ring_buffer_iter_peek(ahead)
    if event is None:
        return None
    entry = trace_entry_of(event)
    following = LineRecord(iterator.cpu, event.ts, entry.pid, entry.payload, entry)
    if entry.type != TRACE_GRAPH_RET or not printer.is_leaf(record, following):
        return None
    if ring_iter is not None:
        ring_buffer_iter_advance(ring_iter)
    else:
        ring_buffer_consume(cpu_buffer)            # the call; whoever prints takes the return
    return following


def init_graph_trace(kernel: Kernel) -> None:
    """Makes the tracer known. Once a kernel, from trace_init()."""
    tr = trace_state(kernel).global_trace
    instance = ftrace_instance(tr)

    @notrace
    def write(is_return: bool, payload: bytes) -> bool:
        return trace_buffer_write(tr, TRACE_GRAPH_RET if is_return else TRACE_GRAPH_ENT, payload, stack=False)

    tr.data["function_graph"] = GraphTracer(kernel, write, instance)
    register_tracer(kernel, Tracer(
        "function_graph", init=graph_trace_init, reset=graph_trace_reset, open=graph_trace_open,
        close=graph_trace_close, pipe_open=graph_trace_open, pipe_close=graph_trace_close,
        print_header=print_graph_headers,
        print_line=print_graph_function, set_flag=func_graph_set_flag, update_thresh=graph_trace_update_thresh,
        flags=TracerFlags(tuple(GRAPH_OPTIONS.items()), GRAPH_DEFAULT)))
