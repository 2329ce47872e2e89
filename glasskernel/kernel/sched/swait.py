"""Simple wait queues: exclusive waiters of one kind, woken one at a time.

Linux: kernel/sched/swait.c, include/linux/swait.h (5.3). Same: names; idle waiters do not count as load.
Differs: the swait_event() macros are functions that take the condition as a callable.
Owns: every SwaitQueueHead. Invariant: as for wait.py: queued first, tested second.
"""
from __future__ import annotations

from collections.abc import Callable

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import schedule, schedule_timeout, wake_up_process
from glasskernel.kernel.task import TASK_IDLE, TASK_RUNNING, TaskStruct
from glasskernel.lib.types import may_sleep, notrace


class SwaitQueueHead:
    """struct swait_queue_head: the tasks that wait, oldest first."""

    __slots__ = ("task_list",)

    def __init__(self) -> None:
        self.task_list: list[TaskStruct] = []


def swake_up_locked(q: SwaitQueueHead) -> None:
    if q.task_list:
        wake_up_process(q.task_list.pop(0))


def swake_up_one(q: SwaitQueueHead) -> None:
    """Wakes the one that waits longest. Context: any."""
    swake_up_locked(q)


def prepare_to_swait_exclusive(q: SwaitQueueHead, state: int) -> None:
    """Queues the current task and announces a sleep."""
    task = register.task
    if task not in q.task_list:
        q.task_list.append(task)
    task.state = state


def finish_swait(q: SwaitQueueHead) -> None:
    task = register.task
    task.state = TASK_RUNNING
    if task in q.task_list:
        q.task_list.remove(task)


@may_sleep
@notrace
def swait_event_idle_exclusive(q: SwaitQueueHead, condition: Callable[[], object]) -> None:
    """Sleeps until the condition holds; no load. Context: kernel thread."""
    if condition():
        return
    try:
        while True:
            prepare_to_swait_exclusive(q, TASK_IDLE)
            if condition():
                return
            schedule()
    finally:
        finish_swait(q)


@may_sleep
@notrace
def swait_event_idle_timeout_exclusive(q: SwaitQueueHead, condition: Callable[[], object], timeout: int) -> int:
    """For at most so many jiffies. Returns what was left, at least 1; 0: the condition still does not hold."""
    if condition():
        return timeout or 1
    try:
        while True:
            prepare_to_swait_exclusive(q, TASK_IDLE)
            if condition():
                return timeout or 1
            if not timeout:
                return 0
            timeout = schedule_timeout(timeout)
    finally:
        finish_swait(q)
