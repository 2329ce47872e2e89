"""What ->poll() functions call.

Linux: include/linux/poll.h. A file of its own, because files are polled far below select(2) and epoll(7).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.types import _default_poll
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, PollTable
    from glasskernel.kernel.sched.wait import WaitQueueHead


@notrace
def poll_wait(filp: File, wait_address: WaitQueueHead, p: PollTable) -> None:
    """Called by ->poll(): whoever polls wants to be woken through this queue. Context: task."""
    queue = p.queue
    if queue is not None:
        queue(filp, wait_address)


@notrace
def poll_does_not_wait(p: PollTable) -> bool:
    """True if the caller only asks."""
    return p.queue is None


@notrace
def vfs_poll(file: File, pt: PollTable) -> int:
    """The file's events now. Files without ->poll() are always ready."""
    return file.f_op.poll(file, pt)


@notrace
def file_can_poll(file: File) -> bool:
    """True if the file has a ->poll() of its own."""
    return file.f_op.poll is not _default_poll
