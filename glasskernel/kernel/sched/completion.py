"""Completions: one side waits until the other says that something is done.

Linux: kernel/sched/completion.c (5.3). Same: `done` counts, complete_all() is for ever, waiters are
exclusive.
Differs: where Linux returns -ERESTARTSYS we raise Restart.
Owns: every Completion. Invariant: done > 0 means the next waiter does not sleep.
"""
from __future__ import annotations

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import (
    MAX_SCHEDULE_TIMEOUT,
    io_schedule_timeout,
    schedule_timeout,
    signal_pending_state,
)
from glasskernel.kernel.sched.wait import (
    WQ_FLAG_EXCLUSIVE,
    WaitQueueEntry,
    WaitQueueHead,
    __remove_wait_queue,
    __wake_up_locked,
    default_wake_function,
)
from glasskernel.kernel.task import (
    TASK_INTERRUPTIBLE,
    TASK_KILLABLE,
    TASK_NORMAL,
    TASK_RUNNING,
    TASK_UNINTERRUPTIBLE,
)
from glasskernel.lib.errno import Restart
from glasskernel.lib.types import may_sleep, notrace

UINT_MAX = 0xFFFF_FFFF


class Completion:
    """struct completion."""

    __slots__ = ("done", "wait")

    def __init__(self) -> None:
        self.done = 0
        self.wait = WaitQueueHead()


@notrace
def reinit_completion(x: Completion) -> None:
    """Ready to be used again."""
    x.done = 0


def complete(x: Completion) -> None:
    """Lets one waiter go on. Context: any."""
    if x.done != UINT_MAX:
        x.done += 1
    __wake_up_locked(x.wait, TASK_NORMAL, 1)


def complete_all(x: Completion) -> None:
    """Lets every waiter go on, now and for ever. Context: any."""
    x.done = UINT_MAX
    __wake_up_locked(x.wait, TASK_NORMAL, 0)


@notrace
@may_sleep
def do_wait_for_common(x: Completion, timeout: int, state: int, io: bool) -> int:
    if not x.done:
        task = register.task
        wait = WaitQueueEntry(default_wake_function, task, None, WQ_FLAG_EXCLUSIVE)
        wait.head = x.wait
        x.wait.entries.append(wait)
        try:
            while True:
                if signal_pending_state(state, task):
                    raise Restart
                task.state = state
                timeout = io_schedule_timeout(timeout) if io else schedule_timeout(timeout)
                if x.done or not timeout:
                    break
        finally:
            task.state = TASK_RUNNING
            if wait.head is not None:
                __remove_wait_queue(x.wait, wait)
        if not x.done:
            return timeout
    if x.done != UINT_MAX:
        x.done -= 1
    return timeout or 1


@may_sleep
def wait_for_completion(x: Completion) -> None:
    """Sleeps until complete(); signals do not end it. Context: task."""
    do_wait_for_common(x, MAX_SCHEDULE_TIMEOUT, TASK_UNINTERRUPTIBLE, False)


@may_sleep
def wait_for_completion_io(x: Completion) -> None:
    """wait_for_completion() that counts as waiting for I/O."""
    do_wait_for_common(x, MAX_SCHEDULE_TIMEOUT, TASK_UNINTERRUPTIBLE, True)


@may_sleep
def wait_for_completion_timeout(x: Completion, timeout: int) -> int:
    """At most `timeout` jiffies. Returns the jiffies left, at least 1; 0: not completed in time."""
    return do_wait_for_common(x, timeout, TASK_UNINTERRUPTIBLE, False)


@may_sleep
def wait_for_completion_interruptible(x: Completion) -> None:
    """Raises Restart if a signal comes first."""
    do_wait_for_common(x, MAX_SCHEDULE_TIMEOUT, TASK_INTERRUPTIBLE, False)


@may_sleep
def wait_for_completion_killable(x: Completion) -> None:
    """Raises Restart if a fatal signal comes first."""
    do_wait_for_common(x, MAX_SCHEDULE_TIMEOUT, TASK_KILLABLE, False)


def try_wait_for_completion(x: Completion) -> bool:
    """Takes one completion without sleeping; False if there is none."""
    if not x.done:
        return False
    if x.done != UINT_MAX:
        x.done -= 1
    return True


def completion_done(x: Completion) -> bool:
    """True if a waiter would not sleep."""
    return bool(x.done)
