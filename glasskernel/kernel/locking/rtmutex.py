"""Priority inheritance: who holds a lock that a more important task waits for runs with that task's priority.

Linux: kernel/locking/rtmutex.c (5.3), for the locks that FUTEX_LOCK_PI makes. Same: the boost passes on along a chain
of owners that wait themselves; waiters are sorted by priority; a chain that comes back to the caller is a deadlock.
Differs: a lock's waiters are those of its futex (kernel.futex.hash), a task's locks those in kernel.futex.pi_owned.
Owns: TaskStruct.pi_blocked_on, .pi_top_task. Context: task; no lock is needed between two calls of schedule().
Gaps: kernel rt_mutexes; inheriting a SCHED_DEADLINE reservation (the owner runs above every FIFO task instead).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.sched.policy import rt_mutex_setprio
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.futex import FutexQ
    from glasskernel.kernel.task import TaskStruct

MAX_LOCK_DEPTH = 1024


@notrace
def task_top_pi_waiter(task: TaskStruct) -> FutexQ | None:
    """The most important of all who wait for a lock of this task."""
    futex = task.kernel.futex
    top: FutexQ | None = None
    for state in futex.pi_owned.get(task, ()):
        waiters = futex.hash.get(state.key)
        if waiters and (top is None or waiters[0].prio < top.prio):
            top = waiters[0]
    return top


def rt_mutex_adjust_prio(task: TaskStruct) -> None:
    """The priority that its waiters give a task, or its own."""
    top = task_top_pi_waiter(task)
    rt_mutex_setprio(task, None if top is None else top.task)


def rt_mutex_adjust_prio_chain(task: TaskStruct | None) -> None:
    """A waiter came, went or changed: adjusts the owner, whoever that waits for, and so on."""
    for _ in range(MAX_LOCK_DEPTH):
        if task is None:
            return
        rt_mutex_adjust_prio(task)
        waiter = task.pi_blocked_on
        if waiter is None or not waiter.queued or waiter.prio == task.prio:
            return
        waiter.prio = task.prio
        waiters = task.kernel.futex.hash[waiter.key]
        waiters.sort(key=lambda q: q.prio)         # stable: equals stay in the order they came
        task = waiter.pi_state.owner


def rt_mutex_adjust_pi(task: TaskStruct) -> None:
    """The priority of a task was set: if it waits, its place and the owner's priority may change."""
    waiter = task.pi_blocked_on
    if waiter is not None and waiter.queued and waiter.prio != task.prio:
        waiter.prio = task.prio
        task.kernel.futex.hash[waiter.key].sort(key=lambda q: q.prio)
        rt_mutex_adjust_prio_chain(waiter.pi_state.owner)


@notrace
def rt_mutex_deadlock(task: TaskStruct, owner: TaskStruct | None) -> bool:
    """True if the owner waits, directly or along the chain, for a lock that `task` holds."""
    for _ in range(MAX_LOCK_DEPTH):
        if owner is None:
            return False
        if owner is task:
            return True
        waiter = owner.pi_blocked_on
        owner = waiter.pi_state.owner if waiter is not None and waiter.queued else None
    return True
