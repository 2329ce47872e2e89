"""Spinlocks.

Linux: include/linux/spinlock_api_up.h, kernel/locking/spinlock.c, spinlock_debug.c (5.3, !SMP with DEBUG_SPINLOCK).
Same: who holds one cannot be preempted and must not sleep (__schedule_bug()); taking one twice, or giving back what is
    another's, is a BUG; with preempt=full the end of the outermost one is where a task that was woken gets the CPU;
    the _bh form keeps softirqs out, and its end runs those that came meanwhile.
Differs: nobody ever spins. One host thread runs all CPUs, and kernel code gives its turn away only where preempt_count
    is 0: a lock that is held is held by the running task. So most sections of Linux need no code here, and have none;
    these functions stand where preemption or softirqs would come in between.
Owns: SpinLock.owner. Invariant: a lock's owner has preempt_count > 0.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.preempt import preempt_check_resched
from glasskernel.kernel.sched.types import PREEMPT_OFFSET, SOFTIRQ_DISABLE_OFFSET
from glasskernel.kernel.softirq import __local_bh_enable_ip
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct


class SpinLock:
    """spinlock_t"""

    __slots__ = ("owner",)

    def __init__(self) -> None:
        self.owner: TaskStruct | None = None


def _raw_spin_lock(lock: SpinLock) -> None:
    """Until _raw_spin_unlock() the caller is not preempted. Context: any."""
    task = register.task
    task.preempt_count += PREEMPT_OFFSET
    _acquire(lock, task)


def _raw_spin_unlock(lock: SpinLock) -> None:
    """Gives the lock back; with preempt=full, others may run now."""
    task = register.task
    _release(lock, task)
    task.preempt_count -= PREEMPT_OFFSET
    if register.preempt_points > 1:
        preempt_check_resched()


def _raw_spin_lock_bh(lock: SpinLock) -> None:
    """_raw_spin_lock() against softirqs of this CPU, too. Context: task, softirq."""
    task = register.task
    task.preempt_count += SOFTIRQ_DISABLE_OFFSET + PREEMPT_OFFSET
    _acquire(lock, task)


def _raw_spin_unlock_bh(lock: SpinLock) -> None:
    """Gives the lock back; softirqs that were raised meanwhile run now."""
    task = register.task
    _release(lock, task)
    task.preempt_count -= PREEMPT_OFFSET
    __local_bh_enable_ip()


@notrace
def _acquire(lock: SpinLock, task: TaskStruct) -> None:
    assert lock.owner is None, f"BUG: spinlock recursion on CPU#{task.cpu}, {task} (the lock is {lock.owner}'s)"
    lock.owner = task


@notrace
def _release(lock: SpinLock, task: TaskStruct) -> None:
    assert lock.owner is task, f"BUG: spinlock wrong owner on CPU#{task.cpu}, {task} (the lock is {lock.owner}'s)"
    lock.owner = None
