"""Running out of memory.

Linux: include/trace/events/oom.h (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.trace.trace_events import Values, trace_system

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct


oom = trace_system("oom")


@oom.event(
    fields="pid_t pid; char comm[16]; short oom_score_adj",
    print_fmt='"pid=%d comm=%s oom_score_adj=%hd", REC->pid, REC->comm, REC->oom_score_adj',
)
def oom_score_adj_update(task: TaskStruct) -> Values:
    return (task.pid, task.comm, task.signal.oom_score_adj)
