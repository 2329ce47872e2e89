"""Semaphores that nearly everybody takes for reading.

Linux: kernel/locking/percpu-rwsem.c (5.3). Same: readers that meet no writer pass without a function call that could be
traced. Differs: one count, as one host thread runs all CPUs.
"""
from __future__ import annotations

from glasskernel.kernel.locking.rwsem import RwSemaphore, down_read, up_read
from glasskernel.lib.types import may_sleep, notrace


@notrace
@may_sleep
def percpu_down_read(sem: RwSemaphore) -> None:
    """Locks for reading. Context: task. Inline there, too."""
    if sem.writer is None and not sem.wait_list:
        sem.readers += 1
    else:
        __percpu_down_read(sem)


@may_sleep
def __percpu_down_read(sem: RwSemaphore) -> None:
    """There is a writer, or one that waits."""
    down_read(sem)


@notrace
def percpu_up_read(sem: RwSemaphore) -> None:
    """Ends percpu_down_read()."""
    if sem.wait_list:
        __percpu_up_read(sem)
    else:
        sem.readers -= 1


def __percpu_up_read(sem: RwSemaphore) -> None:
    """Somebody waits."""
    up_read(sem)
