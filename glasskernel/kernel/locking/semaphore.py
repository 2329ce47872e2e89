"""Counting semaphores.

Linux: kernel/locking/semaphore.c (5.3). Owns: every Semaphore.
Invariant: waiters are on wait_list only while count is 0; up() gives its unit to the first of them.
"""
from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import (
    MAX_SCHEDULE_TIMEOUT,
    schedule_timeout,
    signal_pending_state,
    wake_up_process,
)
from glasskernel.kernel.task import TASK_INTERRUPTIBLE, TASK_KILLABLE, TASK_RUNNING, TASK_UNINTERRUPTIBLE
from glasskernel.lib.errno import EINTR, ETIME, KernelError
from glasskernel.lib.types import may_sleep

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct


class Semaphore:
    """struct semaphore. wait_list: [task, got it] pairs."""

    __slots__ = ("count", "wait_list")

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self.wait_list: deque[tuple[TaskStruct, list[bool]]] = deque()


@may_sleep
def down(sem: Semaphore) -> None:
    """Takes a unit; sleeps until there is one. Context: task."""
    if sem.count > 0:
        sem.count -= 1
    else:
        __down_common(sem, TASK_UNINTERRUPTIBLE, MAX_SCHEDULE_TIMEOUT)


@may_sleep
def down_interruptible(sem: Semaphore) -> None:
    """Raises EINTR if a signal comes first."""
    if sem.count > 0:
        sem.count -= 1
    else:
        __down_common(sem, TASK_INTERRUPTIBLE, MAX_SCHEDULE_TIMEOUT)


@may_sleep
def down_killable(sem: Semaphore) -> None:
    """Raises EINTR if a fatal signal comes first."""
    if sem.count > 0:
        sem.count -= 1
    else:
        __down_common(sem, TASK_KILLABLE, MAX_SCHEDULE_TIMEOUT)


def down_trylock(sem: Semaphore) -> int:
    """0 if it is ours now, 1 if not (the other way round than mutex_trylock(), as in Linux)."""
    if sem.count > 0:
        sem.count -= 1
        return 0
    return 1


@may_sleep
def down_timeout(sem: Semaphore, timeout: int) -> None:
    """Waits at most `timeout` jiffies. Raises ETIME."""
    if sem.count > 0:
        sem.count -= 1
    else:
        __down_common(sem, TASK_UNINTERRUPTIBLE, timeout)


def up(sem: Semaphore) -> None:
    """Gives a unit back. Context: any; it need not be the task that took it."""
    if sem.wait_list:
        __up(sem)
    else:
        sem.count += 1


@may_sleep
def __down_common(sem: Semaphore, state: int, timeout: int) -> None:
    task = register.task
    got = [False]
    waiter = (task, got)
    sem.wait_list.append(waiter)
    try:
        while True:
            if signal_pending_state(state, task):
                raise KernelError(EINTR)
            if timeout <= 0:
                raise KernelError(ETIME)
            task.state = state
            timeout = schedule_timeout(timeout)
            if got[0]:
                return
    finally:
        task.state = TASK_RUNNING
        if not got[0]:
            sem.wait_list.remove(waiter)


def __up(sem: Semaphore) -> None:
    task, got = sem.wait_list.popleft()
    got[0] = True
    wake_up_process(task)
