"""Idle CPUs.

Linux: include/trace/events/power.h (5.3).
Gaps: frequencies, suspend, clocks, QoS: this machine has none.
"""
from __future__ import annotations

from glasskernel.kernel.trace.trace_events import Values, trace_system

power = trace_system("power")


@power.event(
    fields="u32 state; u32 cpu_id",
    print_fmt='"state=%lu cpu_id=%lu", (unsigned long)REC->state, (unsigned long)REC->cpu_id',
)
def cpu_idle(state: int, cpu_id: int) -> Values:
    return (state, cpu_id)
