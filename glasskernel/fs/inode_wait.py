"""Waiting for a bit of an inode: that another task has read it (I_NEW), written it (I_SYNC) or let it go (I_FREEING).

Linux: wait_on_bit() and wake_up_bit() on inode->i_state (fs/inode.c, fs/fs-writeback.c, 5.3), which hash all bits of
the kernel into 256 queues. Differs: a queue exists for an inode only while somebody waits; direct I/O and exclusive
opens of devices wait in it, too.
Owns: kernel.writeback.inode_waiters.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.kernel.sched.wait import WaitQueueHead, wait_event, wake_up_all
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode


@may_sleep
@notrace
def wait_while_inode(inode: Inode, busy: Callable[[], bool]) -> None:
    """Sleeps as long as busy(); asked again at every wake_up_inode()."""
    while busy():
        _wait_for_wakeup(inode, inode.i_sb.kernel.writeback.inode_waiters)


@may_sleep
@notrace
def _wait_for_wakeup(inode: Inode, waiters: dict[Inode, WaitQueueHead]) -> None:
    queue = waiters.setdefault(inode, WaitQueueHead())
    wait_event(queue, lambda: waiters.get(inode) is not queue)


@notrace
def wake_up_inode(inode: Inode) -> None:
    """Something that somebody may wait for has changed. Context: any."""
    queue = inode.i_sb.kernel.writeback.inode_waiters.pop(inode, None)
    if queue is not None:
        wake_up_all(queue)
