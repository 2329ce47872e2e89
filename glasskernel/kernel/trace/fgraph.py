"""The shadow stack of every task: who is told when a traced function returns.

Linux: kernel/trace/fgraph.c (5.3). Same: register_ftrace_graph() with one pair of functions at a time, depth of a call
    counted among traced calls, 50 calls deep at most, `overrun` beyond that.
Differs: an entry is recognised by its Python frame instead of a changed return address; kretprobes lie on the same
    stack. A function left by an exception returns like any other.
Owns: task.ret_stack. Context: any, from the hooks of ftrace.py.
Invariants: entries lie in the order of their frames; those of frames that began before tracing are absent.
"""
from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import register
from glasskernel.kernel.trace.trace_clock import trace_clock_peek
from glasskernel.lib.errno import EBUSY, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.trace.ftrace import DynFtrace, FtraceState

FTRACE_RETFUNC_DEPTH = 50


@slotted
class FtraceGraphEnt:
    """struct ftrace_graph_ent"""

    func: int
    depth: int


@slotted
class FtraceGraphRet:
    """struct ftrace_graph_ret"""

    func: int
    overrun: int
    calltime: int
    rettime: int
    depth: int
    subtime: int = 0                              # spent in traced calls below it


@slotted
class FgraphOps:
    """struct fgraph_ops. entryfunc(trace) -> False: this call is of no interest, and its return neither."""

    entryfunc: Callable[[FtraceGraphEnt], bool]
    retfunc: Callable[[FtraceGraphRet], None]


@slotted
class FtraceRetStack:
    """struct ftrace_ret_stack: one call. returned(entry, value): instead of the graph's, for a kretprobe."""

    frame: FrameType
    func: int
    calltime: int
    depth: int
    subtime: int = 0                              # spent in calls below, for the profiler
    returned: Callable[[FtraceRetStack, Any], None] | None = None


@slotted
class RetStack:
    """task.ret_stack. curr_ret_depth: of the innermost traced call, -1: none. trace_recursion: TRACE_GRAPH_* bits."""

    calls: list[FtraceRetStack] = field(default_factory=list)
    curr_ret_depth: int = -1
    trace_overrun: int = 0
    trace_recursion: int = 0
    recursion_depth: int = 0                      # of the call that set TRACE_GRAPH_BIT
    ftrace_timestamp: int = 0                     # when the task was switched away


def register_ftrace_graph(kernel: Kernel, gops: FgraphOps) -> None:
    """From now on gops sees calls and returns. Errors: EBUSY, somebody else does."""
    state = ftrace_state(kernel)
    if state.graph_ops is not None:
        raise KernelError(EBUSY)
    ftrace_graph_forget(kernel)
    state.graph_ops = gops
    state.update()


def unregister_ftrace_graph(kernel: Kernel, gops: FgraphOps) -> None:
    """The contrary. What is not gops is left alone."""
    state = ftrace_state(kernel)
    if state.graph_ops is not gops:
        return
    state.graph_ops = None
    ftrace_graph_forget(kernel)
    state.update()


@notrace
def ftrace_state(kernel: Kernel) -> FtraceState:
    state: FtraceState | None = kernel.ftrace
    assert state is not None, "ftrace_init() has not run"
    return state


@notrace
def ftrace_graph_forget(kernel: Kernel) -> None:
    """Calls that began under the last graph tracer will return to nobody; kretprobes' stay."""
    for task in (*kernel.tasks, *kernel.pids.idle_tasks):
        stack: RetStack | None = task.ret_stack
        if stack is not None:
            stack.calls = [call for call in stack.calls if call.returned is not None]
            stack.curr_ret_depth = -1
            stack.trace_recursion = 0


def function_graph_enter(state: FtraceState, record: DynFtrace, frame: FrameType) -> None:
    """A function that the graph tracer wants begins."""
    task = register.task
    stack: RetStack | None = task.ret_stack
    if stack is None:
        stack = task.ret_stack = RetStack()
    depth = stack.curr_ret_depth + 1
    if depth >= FTRACE_RETFUNC_DEPTH:
        stack.trace_overrun += 1
        return
    gops = state.graph_ops
    assert gops is not None
    vcpu = state.cpus[task.cpu]
    calltime = vcpu.trace_ns if vcpu.trace_ns > vcpu.entry_ns else vcpu.entry_ns     # trace_clock_peek()
    stack.curr_ret_depth = depth
    call = FtraceRetStack(frame, record.ip, calltime, depth)
    stack.calls.append(call)
    if not gops.entryfunc(FtraceGraphEnt(record.ip, depth)):
        stack.calls.pop()
        stack.curr_ret_depth = depth - 1


def ftrace_push_return(frame: FrameType, ip: int, returned: Callable[[FtraceRetStack, Any], None]) -> FtraceRetStack:
    """A kretprobe: `returned(call, value)` runs when the function that just began in `frame` returns."""
    task = register.task
    stack: RetStack | None = task.ret_stack
    if stack is None:
        stack = task.ret_stack = RetStack()
    call = FtraceRetStack(frame, ip, trace_clock_peek(task.kernel, task.cpu), stack.curr_ret_depth, returned=returned)
    stack.calls.append(call)
    return call


def ftrace_return_to_handler(state: FtraceState, stack: RetStack, frame: FrameType, value: Any) -> None:
    """The function of a frame on the stack returns. value: what it answers; None after an exception."""
    calls = stack.calls
    while calls and calls[-1].frame is frame:
        call = calls.pop()
        if call.returned is not None:
            call.returned(call, value)
            continue
        stack.curr_ret_depth = call.depth - 1
        gops = state.graph_ops
        if gops is not None:
            task = register.task
            vcpu = state.cpus[task.cpu]
            rettime = vcpu.trace_ns if vcpu.trace_ns > vcpu.entry_ns else vcpu.entry_ns
            gops.retfunc(FtraceGraphRet(call.func, stack.trace_overrun, call.calltime, rettime, call.depth,
                                        call.subtime))
