"""Mutexes: sleeping locks with an owner.

Linux: kernel/locking/mutex.c (5.3). Same: first come first served with stealing, and a hand-off to a waiter
that was woken in vain. Differs: no optimistic spinning (the owner cannot run meanwhile).
Owns: every Mutex. Invariant: a waiter on wait_list sleeps or is on its way to run; unlocking wakes the first.
"""
from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import schedule, signal_pending_state, wake_up_process
from glasskernel.kernel.sched.preempt import might_resched, preempt_check_resched
from glasskernel.kernel.task import TASK_INTERRUPTIBLE, TASK_KILLABLE, TASK_RUNNING, TASK_UNINTERRUPTIBLE
from glasskernel.lib.errno import EINTR, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct


class Mutex:
    """struct mutex. handoff: the first waiter gets it next, nobody may steal it."""

    __slots__ = ("owner", "wait_list", "handoff")

    def __init__(self) -> None:
        self.owner: TaskStruct | None = None
        self.wait_list: deque[TaskStruct] = deque()
        self.handoff = False


@may_sleep
def mutex_lock(lock: Mutex) -> None:
    """Takes the lock; sleeps until it is free. Context: task."""
    if register.preempt_points:
        might_resched()
    if lock.owner is None and not lock.handoff:
        lock.owner = register.task
    else:
        __mutex_lock_slowpath(lock)


def mutex_unlock(lock: Mutex) -> None:
    """Gives the lock back, and wakes the first waiter."""
    lock.owner = None
    if lock.wait_list:
        __mutex_unlock_slowpath(lock)
    if register.preempt_points > 1:
        preempt_check_resched()


@may_sleep
def mutex_lock_interruptible(lock: Mutex) -> None:
    """Raises EINTR if a signal comes first."""
    if register.preempt_points:
        might_resched()
    if lock.owner is None and not lock.handoff:
        lock.owner = register.task
    else:
        __mutex_lock(lock, TASK_INTERRUPTIBLE)


@may_sleep
def mutex_lock_killable(lock: Mutex) -> None:
    """Raises EINTR if a fatal signal comes first."""
    if register.preempt_points:
        might_resched()
    if lock.owner is None and not lock.handoff:
        lock.owner = register.task
    else:
        __mutex_lock(lock, TASK_KILLABLE)


def mutex_trylock(lock: Mutex) -> int:
    """1 if the lock was free and is ours now."""
    if lock.owner is None and not lock.handoff:
        lock.owner = register.task
        return 1
    return 0


@notrace
def mutex_is_locked(lock: Mutex) -> bool:
    return lock.owner is not None


@may_sleep
def __mutex_lock_slowpath(lock: Mutex) -> None:
    __mutex_lock(lock, TASK_UNINTERRUPTIBLE)


@may_sleep
def __mutex_lock(lock: Mutex, state: int) -> None:
    task = register.task
    assert lock.owner is not task, "mutex deadlock: the owner locks again"
    lock.wait_list.append(task)
    try:
        while True:
            first = lock.wait_list[0] is task
            if lock.owner is None and (first or not lock.handoff):
                lock.owner = task
                return
            if signal_pending_state(state, task):
                raise KernelError(EINTR)
            task.state = state
            schedule()
            if lock.wait_list[0] is task and lock.owner is not None:
                lock.handoff = True              # woken, and somebody was faster: not a second time
    finally:
        task.state = TASK_RUNNING
        if lock.wait_list[0] is task:
            lock.handoff = False
        lock.wait_list.remove(task)
        if lock.owner is None and lock.wait_list:      # the wakeup was for us, but a signal took us away
            wake_up_process(lock.wait_list[0])


def __mutex_unlock_slowpath(lock: Mutex) -> None:
    wake_up_process(lock.wait_list[0])
