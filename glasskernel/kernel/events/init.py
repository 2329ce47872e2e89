"""perf wakes up: makes kernel.perf_state when the first event is opened.

Linux: perf_event_init() of kernel/events/core.c, init_hw_breakpoint() (5.3). Differs: not at boot.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.events.core import (
    perf_event_disable,
    perf_event_init_task,
    perf_event_task_tick,
    perf_event_update_time,
    update_context_time,
)
from glasskernel.kernel.events.hw_breakpoint import perf_breakpoint
from glasskernel.kernel.events.sideband import (
    __perf_event_task_sched_in,
    __perf_event_task_sched_out,
    perf_event_comm,
    perf_event_exec,
    perf_event_exit_task,
    perf_event_fork,
    perf_event_mmap,
)
from glasskernel.kernel.events.software import perf_sw_event, perf_swevent, perf_tracepoint
from glasskernel.kernel.events.types import PERF_TYPE_BREAKPOINT, PERF_TYPE_SOFTWARE, PERF_TYPE_TRACEPOINT, PerfState
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


@notrace
def perf_event_init(kernel: Kernel) -> None:
    """Registers the PMUs and connects the hooks, once."""
    if kernel.perf_state is not None:
        return
    state = kernel.perf_state = PerfState(kernel)
    state.pmus = {PERF_TYPE_SOFTWARE: perf_swevent, PERF_TYPE_TRACEPOINT: perf_tracepoint,
                  PERF_TYPE_BREAKPOINT: perf_breakpoint}
    state.task_sched_out, state.task_sched_in = __perf_event_task_sched_out, __perf_event_task_sched_in
    state.task_tick, state.sw_event = perf_event_task_tick, perf_sw_event
    state.event_mmap, state.event_comm, state.event_exec = perf_event_mmap, perf_event_comm, perf_event_exec
    state.event_init_task, state.event_fork = perf_event_init_task, perf_event_fork
    state.event_exit_task, state.event_disable = perf_event_exit_task, perf_event_disable
    state.update_context_time, state.update_event_time = update_context_time, perf_event_update_time
