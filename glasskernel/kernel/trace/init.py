"""Tracing wakes up: makes kernel.tracing, registers the tracers, and fills tracefs.

Linux: kernel/trace/trace.c tracer_alloc_buffers(), tracer_init_tracefs(), and the initcalls of its neighbours
    (5.3).
Differs: happens when somebody asks for the first time, not at boot.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.trace.blk_tracer import init_blk_tracer
from glasskernel.kernel.trace.ftrace_files import ftrace_init_tracefs, ftrace_init_tracefs_toplevel
from glasskernel.kernel.trace.trace import TraceState
from glasskernel.kernel.trace.trace_dump import init_dump_commands
from glasskernel.kernel.trace.trace_dynevent import init_dynamic_event
from glasskernel.kernel.trace.trace_events_filter import init_event_filters
from glasskernel.kernel.trace.trace_events_hist import init_hist_triggers
from glasskernel.kernel.trace.trace_events_synth import init_synth_events
from glasskernel.kernel.trace.trace_events_trigger import init_event_triggers
from glasskernel.kernel.trace.trace_functions import init_function_trace
from glasskernel.kernel.trace.trace_functions_graph import init_graph_trace
from glasskernel.kernel.trace.trace_kprobe import init_kprobe_trace
from glasskernel.kernel.trace.trace_sched_wakeup import init_wakeup_tracer
from glasskernel.kernel.trace.trace_uprobe import init_uprobe_trace
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


@notrace
def trace_init(kernel: Kernel) -> TraceState:
    """kernel.tracing. The tracers in the order of Linux's initcalls: available_tracers shows them backwards."""
    state = kernel.tracing = TraceState(kernel)
    init_function_trace(kernel)
    init_wakeup_tracer(kernel)
    init_graph_trace(kernel)
    init_blk_tracer(kernel)
    init_event_filters(state)
    init_event_triggers(state)
    init_hist_triggers(state)
    init_dump_commands(kernel)
    state.tracefs_inits += [
        (False, ftrace_init_tracefs),
        (True, ftrace_init_tracefs_toplevel),
        (True, init_kprobe_trace),
        (True, init_uprobe_trace),
        (True, init_synth_events),
        (True, init_dynamic_event),
    ]
    return state


@notrace
def tracer_init_tracefs(kernel: Kernel) -> None:
    """Fills /sys/kernel/tracing."""
    from glasskernel.kernel.trace.trace import trace_state
    from glasskernel.kernel.trace.trace_files import init_tracer_tracefs_toplevel

    init_tracer_tracefs_toplevel(trace_state(kernel), kernel.tracefs.root)
