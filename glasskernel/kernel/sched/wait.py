"""Wait queues: tasks that sleep until something happens.

Linux: kernel/sched/wait.c, wait_bit.c, include/linux/wait.h (5.3). Same: names, exclusive waiters at the
tail, a function per entry (poll and epoll bring their own), keys.
Differs: the wait_event() macros are functions that take the condition as a callable, and raise Restart where
    the macro's value would be -ERESTARTSYS. Times are jiffies, as in Linux.
Owns: every WaitQueueHead.
Invariants: an entry is on at most one queue, that is `entry.head`; a waiter queues itself first and tests its
    condition second, so a wakeup in between finds it. No wakeup is lost, some are spurious.

    entry = WaitQueueEntry()                     # DEFINE_WAIT
    try:
        while True:
            prepare_to_wait(wq, entry, TASK_INTERRUPTIBLE)
            if ready():
                break
            if signal_pending(current()):
                raise Restart
            schedule()
    finally:
        finish_wait(wq, entry)
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import (
    MAX_SCHEDULE_TIMEOUT,
    io_schedule,
    schedule,
    schedule_timeout,
    signal_pending_state,
    try_to_wake_up,
)
from glasskernel.kernel.sched.types import WF_SYNC
from glasskernel.kernel.task import (
    TASK_INTERRUPTIBLE,
    TASK_KILLABLE,
    TASK_NORMAL,
    TASK_RUNNING,
    TASK_UNINTERRUPTIBLE,
)
from glasskernel.lib.errno import Restart
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct

WQ_FLAG_EXCLUSIVE, WQ_FLAG_WOKEN, WQ_FLAG_BOOKMARK = 0x01, 0x02, 0x04

WaitFunc = Callable[["WaitQueueEntry", int, int, Any], int]


class WaitQueueHead:
    """struct wait_queue_head."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: list[WaitQueueEntry] = []


class WaitQueueEntry:
    """struct wait_queue_entry: one waiter. private: the task to wake. data: whatever `func` wants to find.

    func(entry, mode, flags, key) -> 1 if it woke somebody, 0 if not, negative to stop waking.
    """

    __slots__ = ("flags", "private", "func", "head", "data")

    def __init__(self, func: WaitFunc | None = None, private: TaskStruct | None = None, data: Any = None,
                 flags: int = 0) -> None:
        self.flags = flags
        self.private: TaskStruct = private or register.task
        self.func: WaitFunc = func or autoremove_wake_function
        self.head: WaitQueueHead | None = None      # the queue it is on
        self.data = data


@notrace
def waitqueue_active(wq_head: WaitQueueHead) -> bool:
    """True if somebody waits."""
    return bool(wq_head.entries)


wq_has_sleeper = waitqueue_active


@notrace
def init_waitqueue_entry(wq_entry: WaitQueueEntry, p: TaskStruct) -> None:
    """Makes it an entry that stays queued when it is woken."""
    wq_entry.flags = 0
    wq_entry.private = p
    wq_entry.func = default_wake_function


def add_wait_queue(wq_head: WaitQueueHead, wq_entry: WaitQueueEntry) -> None:
    """Queues an entry at the head: it is woken before those that wait exclusively."""
    wq_entry.flags &= ~WQ_FLAG_EXCLUSIVE
    __add_wait_queue(wq_head, wq_entry)


def add_wait_queue_exclusive(wq_head: WaitQueueHead, wq_entry: WaitQueueEntry) -> None:
    """Queues an entry at the tail: a wakeup wakes one of these only."""
    wq_entry.flags |= WQ_FLAG_EXCLUSIVE
    __add_wait_queue_entry_tail(wq_head, wq_entry)


def remove_wait_queue(wq_head: WaitQueueHead, wq_entry: WaitQueueEntry) -> None:
    """Takes an entry off the queue; harmless if it is off already."""
    if wq_entry.head is not None:
        __remove_wait_queue(wq_head, wq_entry)


@notrace
def __remove_wait_queue(wq_head: WaitQueueHead, wq_entry: WaitQueueEntry) -> None:
    wq_head.entries.remove(wq_entry)
    wq_entry.head = None


@notrace
def __add_wait_queue(wq_head: WaitQueueHead, wq_entry: WaitQueueEntry) -> None:
    assert wq_entry.head is None
    wq_entry.head = wq_head
    wq_head.entries.insert(0, wq_entry)


@notrace
def __add_wait_queue_entry_tail(wq_head: WaitQueueHead, wq_entry: WaitQueueEntry) -> None:
    assert wq_entry.head is None
    wq_entry.head = wq_head
    wq_head.entries.append(wq_entry)


# ---- waking -----------------------------------------------------------------------------------------------
def __wake_up_common(wq_head: WaitQueueHead, mode: int, nr_exclusive: int, wake_flags: int, key: Any) -> int:
    """Calls the waiters' functions until nr_exclusive exclusive ones were woken (0: all).

    Returns what is left.
    """
    for curr in tuple(wq_head.entries):
        if curr.head is not wq_head:             # taken off by the function of another
            continue
        flags = curr.flags
        ret = curr.func(curr, mode, wake_flags, key)
        if ret < 0:
            break
        if ret and flags & WQ_FLAG_EXCLUSIVE:
            nr_exclusive -= 1
            if not nr_exclusive:
                break
    return nr_exclusive


def __wake_up_common_lock(wq_head: WaitQueueHead, mode: int, nr_exclusive: int, wake_flags: int,
                          key: Any) -> None:
    __wake_up_common(wq_head, mode, nr_exclusive, wake_flags, key)


def __wake_up(wq_head: WaitQueueHead, mode: int, nr_exclusive: int, key: Any = None) -> None:
    """Wakes all non-exclusive waiters and nr_exclusive others (0: all). mode: which sleeps. Context: any."""
    __wake_up_common_lock(wq_head, mode, nr_exclusive, 0, key)


def __wake_up_sync_key(wq_head: WaitQueueHead, mode: int, nr_exclusive: int, key: Any) -> None:
    """As __wake_up(); the waker is about to sleep itself."""
    __wake_up_common_lock(wq_head, mode, nr_exclusive, WF_SYNC, key)


def __wake_up_locked_key_bookmark(wq_head: WaitQueueHead, mode: int, key: Any) -> None:
    """Wakes who waits for a page. (Linux does it in portions, and marks where it was.)"""
    __wake_up_common(wq_head, mode, 1, 0, key)


def __wake_up_locked(wq_head: WaitQueueHead, mode: int, nr: int) -> None:
    __wake_up_common(wq_head, mode, nr, 0, None)


def __wake_up_locked_key(wq_head: WaitQueueHead, mode: int, key: Any) -> None:
    __wake_up_common(wq_head, mode, 1, 0, key)


@notrace
def wake_up(wq_head: WaitQueueHead) -> None:
    """Wakes the non-exclusive waiters and one exclusive one."""
    __wake_up(wq_head, TASK_NORMAL, 1, None)


@notrace
def wake_up_nr(wq_head: WaitQueueHead, nr: int) -> None:
    __wake_up(wq_head, TASK_NORMAL, nr, None)


@notrace
def wake_up_all(wq_head: WaitQueueHead) -> None:
    """Wakes everybody."""
    __wake_up(wq_head, TASK_NORMAL, 0, None)


@notrace
def wake_up_interruptible(wq_head: WaitQueueHead) -> None:
    """wake_up(), only those in interruptible sleep."""
    __wake_up(wq_head, TASK_INTERRUPTIBLE, 1, None)


@notrace
def wake_up_interruptible_all(wq_head: WaitQueueHead) -> None:
    __wake_up(wq_head, TASK_INTERRUPTIBLE, 0, None)


@notrace
def wake_up_interruptible_sync(wq_head: WaitQueueHead) -> None:
    __wake_up_sync_key(wq_head, TASK_INTERRUPTIBLE, 1, None)


@notrace
def wake_up_poll(wq_head: WaitQueueHead, key: int) -> None:
    """wake_up(); key: the POLL* events that happened."""
    __wake_up(wq_head, TASK_NORMAL, 1, key)


@notrace
def wake_up_interruptible_poll(wq_head: WaitQueueHead, key: int) -> None:
    __wake_up(wq_head, TASK_INTERRUPTIBLE, 1, key)


@notrace
def wake_up_interruptible_sync_poll(wq_head: WaitQueueHead, key: int) -> None:
    __wake_up_sync_key(wq_head, TASK_INTERRUPTIBLE, 1, key)


def default_wake_function(curr: WaitQueueEntry, mode: int, wake_flags: int, key: Any) -> int:
    """Wakes entry.private."""
    return try_to_wake_up(curr.private, mode, wake_flags)


def autoremove_wake_function(wq_entry: WaitQueueEntry, mode: int, sync: int, key: Any) -> int:
    """Wakes the task, and takes the entry off the queue if that did wake it."""
    ret = default_wake_function(wq_entry, mode, sync, key)
    if ret and wq_entry.head is not None:
        wq_entry.head.entries.remove(wq_entry)
        wq_entry.head = None
    return ret


def woken_wake_function(wq_entry: WaitQueueEntry, mode: int, sync: int, key: Any) -> int:
    """For wait_woken(): remembers the wakeup in the entry."""
    wq_entry.flags |= WQ_FLAG_WOKEN
    return default_wake_function(wq_entry, mode, sync, key)


# ---- waiting ----------------------------------------------------------------------------------------------
def prepare_to_wait(wq_head: WaitQueueHead, wq_entry: WaitQueueEntry, state: int) -> None:
    """Queues the entry, if it is not, and sets the sleep state. Test the condition after this."""
    wq_entry.flags &= ~WQ_FLAG_EXCLUSIVE
    if wq_entry.head is None:
        wq_entry.head = wq_head
        wq_head.entries.insert(0, wq_entry)
    register.task.state = state


def prepare_to_wait_exclusive(wq_head: WaitQueueHead, wq_entry: WaitQueueEntry, state: int) -> None:
    wq_entry.flags |= WQ_FLAG_EXCLUSIVE
    if wq_entry.head is None:
        wq_entry.head = wq_head
        wq_head.entries.append(wq_entry)
    register.task.state = state


def prepare_to_wait_event(wq_head: WaitQueueHead, wq_entry: WaitQueueEntry, state: int) -> int:
    """As prepare_to_wait(); nonzero, with the entry off the queue, if a signal forbids this sleep."""
    task = register.task
    if task.ti_flags and signal_pending_state(state, task):
        if wq_entry.head is not None:
            wq_entry.head.entries.remove(wq_entry)
            wq_entry.head = None
        return 1
    if wq_entry.head is None:
        wq_entry.head = wq_head
        if wq_entry.flags & WQ_FLAG_EXCLUSIVE:
            wq_head.entries.append(wq_entry)
        else:
            wq_head.entries.insert(0, wq_entry)
    task.state = state
    return 0


def finish_wait(wq_head: WaitQueueHead, wq_entry: WaitQueueEntry) -> None:
    """Ends what prepare_to_wait() began: running, and off the queue."""
    register.task.state = TASK_RUNNING
    if wq_entry.head is not None:
        wq_entry.head.entries.remove(wq_entry)
        wq_entry.head = None


@may_sleep
def wait_woken(wq_entry: WaitQueueEntry, mode: int, timeout: int) -> int:
    """Sleeps unless woken_wake_function() ran since the last call. Returns the jiffies left."""
    task = register.task
    task.state = mode
    if not wq_entry.flags & WQ_FLAG_WOKEN:
        timeout = schedule_timeout(timeout)
    task.state = TASK_RUNNING
    wq_entry.flags &= ~WQ_FLAG_WOKEN
    return timeout


@notrace
@may_sleep
def ___wait_event(wq_head: WaitQueueHead, ready: Callable[[], Any], state: int, exclusive: int,
                  sleep: Callable[[], None]) -> None:
    """The loop of every wait_event(). Raises Restart if a signal forbids the sleep."""
    wq_entry = WaitQueueEntry(None, None, None, exclusive)
    try:
        while True:
            interrupted = prepare_to_wait_event(wq_head, wq_entry, state)
            if ready():
                return
            if interrupted:
                raise Restart
            sleep()
    finally:
        finish_wait(wq_head, wq_entry)


@notrace
@may_sleep
def ___wait_event_timeout(wq_head: WaitQueueHead, ready: Callable[[], Any], state: int, timeout: int) -> int:
    wq_entry = WaitQueueEntry(None, None, None, 0)
    try:
        while True:
            interrupted = prepare_to_wait_event(wq_head, wq_entry, state)
            if ready():
                return timeout or 1
            if not timeout:
                return 0
            if interrupted:
                raise Restart
            timeout = schedule_timeout(timeout)
    finally:
        finish_wait(wq_head, wq_entry)


@notrace
@may_sleep
def wait_event(wq_head: WaitQueueHead, ready: Callable[[], Any]) -> None:
    """Sleeps until ready(); signals do not end it. Context: task."""
    if not ready():
        ___wait_event(wq_head, ready, TASK_UNINTERRUPTIBLE, 0, schedule)


@notrace
@may_sleep
def io_wait_event(wq_head: WaitQueueHead, ready: Callable[[], Any]) -> None:
    """wait_event() that counts as waiting for I/O."""
    if not ready():
        ___wait_event(wq_head, ready, TASK_UNINTERRUPTIBLE, 0, io_schedule)


@notrace
@may_sleep
def wait_event_interruptible(wq_head: WaitQueueHead, ready: Callable[[], Any]) -> None:
    """Sleeps until ready(). Raises Restart (ERESTARTSYS) if a signal comes first. Context: task."""
    if not ready():
        ___wait_event(wq_head, ready, TASK_INTERRUPTIBLE, 0, schedule)


@notrace
@may_sleep
def wait_event_interruptible_exclusive(wq_head: WaitQueueHead, ready: Callable[[], Any]) -> None:
    """As wait_event_interruptible(); a wakeup wakes one such waiter only."""
    if not ready():
        ___wait_event(wq_head, ready, TASK_INTERRUPTIBLE, WQ_FLAG_EXCLUSIVE, schedule)


@notrace
@may_sleep
def wait_event_killable(wq_head: WaitQueueHead, ready: Callable[[], Any]) -> None:
    """As wait_event_interruptible(), but only a fatal signal ends it."""
    if not ready():
        ___wait_event(wq_head, ready, TASK_KILLABLE, 0, schedule)


@notrace
@may_sleep
def wait_event_timeout(wq_head: WaitQueueHead, ready: Callable[[], Any], timeout: int) -> int:
    """Sleeps until ready(), at most `timeout` jiffies.

    Returns the jiffies left, at least 1; 0: not ready in time.
    """
    if ready():
        return timeout or 1
    return ___wait_event_timeout(wq_head, ready, TASK_UNINTERRUPTIBLE, timeout)


@notrace
@may_sleep
def wait_event_interruptible_timeout(wq_head: WaitQueueHead, ready: Callable[[], Any], timeout: int) -> int:
    """As wait_event_timeout(). Raises Restart if a signal comes first."""
    if ready():
        return timeout or 1
    return ___wait_event_timeout(wq_head, ready, TASK_INTERRUPTIBLE, timeout)


@notrace
@may_sleep
def wait_event_killable_timeout(wq_head: WaitQueueHead, ready: Callable[[], Any], timeout: int) -> int:
    if ready():
        return timeout or 1
    return ___wait_event_timeout(wq_head, ready, TASK_KILLABLE, timeout)


@notrace
@may_sleep
def wait_event_idle(wq_head: WaitQueueHead, ready: Callable[[], Any]) -> None:
    """wait_event() that does not count as load: kernel threads with nothing to do."""
    if not ready():
        ___wait_event(wq_head, ready, 0x402, 0, schedule)       # TASK_IDLE


__all__ = [
    "MAX_SCHEDULE_TIMEOUT", "WQ_FLAG_EXCLUSIVE", "WQ_FLAG_WOKEN", "WaitQueueEntry", "WaitQueueHead",
    "__wake_up", "__wake_up_locked", "__wake_up_locked_key", "__wake_up_sync_key", "add_wait_queue",
    "add_wait_queue_exclusive", "autoremove_wake_function", "default_wake_function", "finish_wait",
    "init_waitqueue_entry", "io_wait_event", "prepare_to_wait", "prepare_to_wait_event",
    "prepare_to_wait_exclusive", "remove_wait_queue", "wait_event", "wait_event_idle",
    "wait_event_interruptible", "wait_event_interruptible_exclusive", "wait_event_interruptible_timeout",
    "wait_event_killable", "wait_event_killable_timeout", "wait_event_timeout", "wait_woken",
    "waitqueue_active", "wake_up", "wake_up_all", "wake_up_interruptible", "wake_up_interruptible_all",
    "wake_up_interruptible_poll", "wake_up_interruptible_sync", "wake_up_interruptible_sync_poll",
    "wake_up_nr", "wake_up_poll", "woken_wake_function", "wq_has_sleeper",
]
