"""New tasks and new names.

Linux: include/trace/events/task.h (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.trace.trace_events import Values, trace_system

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct


task = trace_system("task")


@task.event(
    fields="pid_t pid; char comm[16]; unsigned long clone_flags; short oom_score_adj",
    print_fmt=(
        '"pid=%d comm=%s clone_flags=%lx oom_score_adj=%hd", REC->pid, REC->comm, REC->clone_flags, '
        'REC->oom_score_adj'),
)
def task_newtask(task: TaskStruct, clone_flags: int) -> Values:
    return (task.pid, task.comm, clone_flags, task.signal.oom_score_adj)


@task.event(
    fields="pid_t pid; char oldcomm[16]; char newcomm[16]; short oom_score_adj",
    print_fmt=(
        '"pid=%d oldcomm=%s newcomm=%s oom_score_adj=%hd", REC->pid, REC->oldcomm, REC->newcomm, '
        'REC->oom_score_adj'),
)
def task_rename(task: TaskStruct, comm: bytes) -> Values:
    return (task.pid, task.comm, comm[:15], task.signal.oom_score_adj if task.signal is not None else 0)
