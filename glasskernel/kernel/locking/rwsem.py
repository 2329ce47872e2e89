"""Reader-writer semaphores: many readers or one writer, across sleeps.

Linux: kernel/locking/rwsem.c (5.3). Same: a waiting writer holds back later readers; readers at the front of
the queue are let in together. Differs: the releasing task hands the lock over, nobody steals it; no spinning.
Owns: every RwSemaphore.
Invariants: `readers` and `writer` are never both in use; a queue is only non-empty while the lock is held.
"""
from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import schedule, signal_pending_state, wake_up_process
from glasskernel.kernel.sched.preempt import might_resched, preempt_check_resched
from glasskernel.kernel.task import TASK_KILLABLE, TASK_RUNNING, TASK_UNINTERRUPTIBLE
from glasskernel.lib.errno import EINTR, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct


class RwsemWaiter:
    """struct rwsem_waiter. granted: the lock is ours."""

    __slots__ = ("task", "write", "granted")

    def __init__(self, task: TaskStruct, write: bool) -> None:
        self.task = task
        self.write = write
        self.granted = False


class RwSemaphore:
    """struct rw_semaphore. readers: how many hold it. writer: who holds it alone."""

    __slots__ = ("readers", "writer", "wait_list")

    def __init__(self) -> None:
        self.readers = 0
        self.writer: TaskStruct | None = None
        self.wait_list: deque[RwsemWaiter] = deque()


@may_sleep
def down_read(sem: RwSemaphore) -> None:
    """Locks for reading. Context: task."""
    if register.preempt_points:
        might_resched()
    if sem.writer is None and not sem.wait_list:
        sem.readers += 1
    else:
        rwsem_down_slowpath(sem, False, TASK_UNINTERRUPTIBLE)


@may_sleep
def down_read_killable(sem: RwSemaphore) -> None:
    """Raises EINTR if a fatal signal comes first."""
    if register.preempt_points:
        might_resched()
    if sem.writer is None and not sem.wait_list:
        sem.readers += 1
    else:
        rwsem_down_slowpath(sem, False, TASK_KILLABLE)


def down_read_trylock(sem: RwSemaphore) -> int:
    """1 if it is ours now."""
    if sem.writer is None and not sem.wait_list:
        sem.readers += 1
        return 1
    return 0


@may_sleep
def down_write(sem: RwSemaphore) -> None:
    """Locks for writing. Context: task."""
    if register.preempt_points:
        might_resched()
    if sem.writer is None and not sem.readers:
        sem.writer = register.task
    else:
        rwsem_down_slowpath(sem, True, TASK_UNINTERRUPTIBLE)


@may_sleep
def down_write_killable(sem: RwSemaphore) -> None:
    """Raises EINTR if a fatal signal comes first."""
    if register.preempt_points:
        might_resched()
    if sem.writer is None and not sem.readers:
        sem.writer = register.task
    else:
        rwsem_down_slowpath(sem, True, TASK_KILLABLE)


def down_write_trylock(sem: RwSemaphore) -> int:
    """1 if it is ours now."""
    if sem.writer is None and not sem.readers:
        sem.writer = register.task
        return 1
    return 0


def up_read(sem: RwSemaphore) -> None:
    """Unlocks what down_read() locked."""
    assert sem.readers > 0
    sem.readers -= 1
    if sem.wait_list:
        rwsem_wake(sem)
    if register.preempt_points > 1:
        preempt_check_resched()


def up_write(sem: RwSemaphore) -> None:
    """Unlocks what down_write() locked."""
    assert sem.writer is not None
    sem.writer = None
    if sem.wait_list:
        rwsem_wake(sem)
    if register.preempt_points > 1:
        preempt_check_resched()


def downgrade_write(sem: RwSemaphore) -> None:
    """The writer becomes a reader, without letting go in between."""
    assert sem.writer is not None
    sem.writer = None
    sem.readers = 1
    if sem.wait_list:
        rwsem_wake(sem)


@notrace
def rwsem_is_locked(sem: RwSemaphore) -> bool:
    return sem.writer is not None or sem.readers > 0


def rwsem_wake(sem: RwSemaphore) -> None:
    """Hands the lock to those at the front of the queue who can have it now."""
    queue = sem.wait_list
    while queue and sem.writer is None:
        waiter = queue[0]
        if waiter.write:
            if sem.readers:
                return
            sem.writer = waiter.task
        else:
            sem.readers += 1
        queue.popleft()
        waiter.granted = True
        wake_up_process(waiter.task)


@may_sleep
def rwsem_down_slowpath(sem: RwSemaphore, write: bool, state: int) -> None:
    task = register.task
    waiter = RwsemWaiter(task, write)
    sem.wait_list.append(waiter)
    try:
        while not waiter.granted:
            task.state = state
            if signal_pending_state(state, task):
                sem.wait_list.remove(waiter)
                rwsem_wake(sem)                  # those behind us may be able to go
                raise KernelError(EINTR)
            schedule()
    finally:
        task.state = TASK_RUNNING
