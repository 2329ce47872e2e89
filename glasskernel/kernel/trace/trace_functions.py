"""The function tracer, and the commands that set_ftrace_filter knows.

Linux: kernel/trace/trace_functions.c (5.3), the snapshot and event commands of trace.c and trace_events.c. Same: a
    record for each call of a function that set_ftrace_filter names, in instances too; options func_stack_trace and
    function-fork; traceon, traceoff, stacktrace, snapshot, enable_event, disable_event with their counts.
Differs: enable_event switches the event itself, there is no soft mode behind it.
    The commands dump and cpudump are trace_dump.py's.
Owns: nothing. Context: function_trace_call() and the probes run in any; the rest: task.
"""
from __future__ import annotations

from struct import Struct
from types import FrameType
from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.trace.ftrace import (
    FTRACE_OPS_FL_ENABLED,
    FtraceHash,
    FtraceOps,
    ftrace_init,
    register_ftrace_command,
    register_ftrace_function,
    unregister_ftrace_function,
)
from glasskernel.kernel.trace.ftrace_filter import FtraceInstance, ftrace_ignores_task, ftrace_instance
from glasskernel.kernel.trace.ftrace_probes import FtraceProbeOps, ftrace_trace_probe_callback, register_probe_command
from glasskernel.kernel.trace.trace import (
    Tracer,
    TracerFlags,
    register_tracer,
    trace_buffer_write,
    trace_stack,
    tracer_tracing_off,
    tracer_tracing_on,
    tracing_alloc_snapshot_instance,
    tracing_snapshot_instance,
)
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.trace.trace import TraceArray

TRACE_FN = 1
TRACE_FUNC_OPT_STACK = 1
FN = Struct("<QQ")                                # function: ip, parent_ip


def function_trace_call(ip: int, parent_ip: int, op: FtraceOps, frame: FrameType) -> None:
    """A hooked function begins."""
    instance: FtraceInstance = op.private
    if not ftrace_ignores_task(instance, register.task.pid):
        trace_buffer_write(instance.tr, TRACE_FN, FN.pack(ip, parent_ip))


def function_stack_trace_call(ip: int, parent_ip: int, op: FtraceOps, frame: FrameType) -> None:
    """The same with the stack behind it."""
    instance: FtraceInstance = op.private
    if not ftrace_ignores_task(instance, register.task.pid):
        trace_buffer_write(instance.tr, TRACE_FN, FN.pack(ip, parent_ip), stack=False)
        trace_stack(instance.tr)


def function_trace_init(tr: TraceArray) -> None:
    instance = ftrace_instance(tr)
    tracer = next(t for t in tr.state.tracers if t.name == "function")
    instance.ops.private = instance
    func_set_flag(tr, TRACE_FUNC_OPT_STACK, bool(tracer.flags.val & TRACE_FUNC_OPT_STACK))
    register_ftrace_function(tr.kernel, instance.ops)


def function_trace_reset(tr: TraceArray) -> None:
    instance = ftrace_instance(tr)
    if instance.ops.flags & FTRACE_OPS_FL_ENABLED:
        unregister_ftrace_function(tr.kernel, instance.ops)


def func_set_flag(tr: TraceArray, bit: int, on: bool) -> None:
    """options/func_stack_trace"""
    if bit == TRACE_FUNC_OPT_STACK:
        ftrace_instance(tr).ops.func = function_stack_trace_call if on else function_trace_call


# ---- commands -------------------------------------------------------------------------------------------------------
def ftrace_traceon(instance: FtraceInstance, ip: int, frame: FrameType) -> bool:
    if not instance.tr.buffer_disabled:
        return False
    tracer_tracing_on(instance.tr)
    return True


def ftrace_traceoff(instance: FtraceInstance, ip: int, frame: FrameType) -> bool:
    if instance.tr.buffer_disabled:
        return False
    tracer_tracing_off(instance.tr)
    return True


def ftrace_stacktrace(instance: FtraceInstance, ip: int, frame: FrameType) -> bool:
    if instance.tr.buffer_disabled:
        return False
    trace_stack(instance.tr)
    return True


def ftrace_snapshot(instance: FtraceInstance, ip: int, frame: FrameType) -> bool:
    tracing_snapshot_instance(instance.tr)
    return True


def ftrace_trace_snapshot_callback(instance: FtraceInstance, functions: FtraceHash, glob: str, cmd: str,
                                   param: str | None, enable: bool) -> None:
    """snapshot[:count]: makes room for one, too."""
    ftrace_trace_probe_callback(instance, FtraceProbeOps("snapshot", ftrace_snapshot), glob, param, enable)
    if not glob.startswith("!"):
        tracing_alloc_snapshot_instance(instance.tr)


def event_enable_func(instance: FtraceInstance, functions: FtraceHash, glob: str, cmd: str, param: str | None,
                      enable: bool) -> None:
    """enable_event:SYSTEM:EVENT[:count], disable_event. Errors: EINVAL."""
    from glasskernel.kernel.trace.trace_events_files import ftrace_event_enable_disable

    system, _, rest = (param or "").partition(":")
    event, _, count = rest.partition(":")
    file = instance.tr.events.get(system, {}).get(event)
    if not enable or file is None:
        raise KernelError(EINVAL)
    wanted = cmd == "enable_event"

    @notrace
    def event_enable_probe(instance: FtraceInstance, ip: int, frame: FrameType) -> bool:
        ftrace_event_enable_disable(file, wanted)
        return True

    ops = FtraceProbeOps(f"{cmd}:{system}:{event}", event_enable_probe)
    ftrace_trace_probe_callback(instance, ops, glob, count or None, enable)


def init_func_cmd_traceon(kernel: Kernel) -> None:
    """Makes the commands known."""
    for name, function in (("traceon", ftrace_traceon), ("traceoff", ftrace_traceoff),
                           ("stacktrace", ftrace_stacktrace)):
        register_probe_command(kernel, FtraceProbeOps(name, function))
    register_ftrace_command(kernel, "snapshot", ftrace_trace_snapshot_callback)
    for name in ("enable_event", "disable_event"):
        register_ftrace_command(kernel, name, event_enable_func)


def init_function_trace(kernel: Kernel) -> None:
    """Makes the tracer and its commands known. Once a kernel, from trace_init()."""
    ftrace_init(kernel)
    init_func_cmd_traceon(kernel)
    register_tracer(kernel, Tracer(
        "function", init=function_trace_init, reset=function_trace_reset, set_flag=func_set_flag,
        flags=TracerFlags((("func_stack_trace", TRACE_FUNC_OPT_STACK),)), allow_instances=True))
