"""Steps of CPU hotplug.

Linux: include/trace/events/cpuhp.h (5.3). Differs: no multi-instance states, so no cpuhp_multi_enter.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.trace.events.values import function_address
from glasskernel.kernel.trace.trace_events import Values, trace_system

if TYPE_CHECKING:
    from collections.abc import Callable

cpuhp = trace_system("cpuhp")


@cpuhp.event(
    fields="unsigned int cpu; int target; int idx; void * fun",
    print_fmt='"cpu: %04u target: %3d step: %3d (%ps)", REC->cpu, REC->target, REC->idx, REC->fun',
)
def cpuhp_enter(cpu: int, target: int, idx: int, fun: Callable[..., object]) -> Values:
    return (cpu, target, idx, function_address(fun))


@cpuhp.event(
    fields="unsigned int cpu; int state; int idx; int ret",
    print_fmt='" cpu: %04u  state: %3d step: %3d ret: %d", REC->cpu, REC->state, REC->idx,  REC->ret',
)
def cpuhp_exit(cpu: int, state: int, idx: int, ret: int) -> Values:
    return (cpu, state, idx, ret)
