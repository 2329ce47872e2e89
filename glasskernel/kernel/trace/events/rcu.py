"""What RCU does.

Linux: include/trace/events/rcu.h (5.3). Gaps: the events of CONFIG_RCU_TRACE.
"""
from __future__ import annotations

from glasskernel.kernel.trace.trace_events import Values, trace_system
from glasskernel.kernel.trace.tracepoint_strings import tracepoint_strings

rcu = trace_system("rcu")


@rcu.event(
    fields="const char * s",
    print_fmt='"%s", REC->s',
)
def rcu_utilization(s: str) -> Values:
    return (tracepoint_strings[s],)
