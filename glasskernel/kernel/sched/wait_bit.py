"""Sleeping until somebody lets go of a bit: buffers, and whatever has flags.

Linux: kernel/sched/wait_bit.c (5.3). Same: who waits and with which action (bit_wait_io() counts as waiting for I/O).
Differs: the queue is the owner's, not one of a hashed table; the bit is asked for by a function.
"""
from __future__ import annotations

from collections.abc import Callable

from glasskernel.kernel.sched.core import io_schedule
from glasskernel.kernel.sched.wait import WaitQueueEntry, WaitQueueHead, finish_wait, prepare_to_wait
from glasskernel.kernel.task import TASK_UNINTERRUPTIBLE
from glasskernel.lib.types import may_sleep


@may_sleep
def __wait_on_bit(
    bit_waitqueue: Callable[[], WaitQueueHead], is_set: Callable[[], int], action: Callable[[], None], mode: int
) -> None:
    """The loop of both. The queue is asked for in each round: it lasts until the next wakeup only."""
    wq_entry = WaitQueueEntry()
    while True:
        wq_head = bit_waitqueue()
        try:
            prepare_to_wait(wq_head, wq_entry, mode)
            if not is_set():
                return
            action()
            if not is_set():
                return
        finally:
            finish_wait(wq_head, wq_entry)


@may_sleep
def out_of_line_wait_on_bit(bit_waitqueue: Callable[[], WaitQueueHead], is_set: Callable[[], int],
                            action: Callable[[], None], mode: int = TASK_UNINTERRUPTIBLE) -> None:
    """Sleeps in action() until is_set() answers 0. Context: task."""
    __wait_on_bit(bit_waitqueue, is_set, action, mode)


@may_sleep
def out_of_line_wait_on_bit_lock(bit_waitqueue: Callable[[], WaitQueueHead], is_set: Callable[[], int],
                                 action: Callable[[], None], mode: int = TASK_UNINTERRUPTIBLE) -> None:
    """The same for who takes the bit next (nothing runs between this and that)."""
    __wait_on_bit(bit_waitqueue, is_set, action, mode)


@may_sleep
def bit_wait_io() -> None:
    """The action of who waits for a transfer."""
    io_schedule()
