"""poll_wait(): the rest of poll(2) and select(2) comes with the VFS room."""
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glasskernel.fs.types import File, PollTable
    from glasskernel.kernel.sched.wait import WaitQueueHead


def poll_wait(file: File, wait_address: WaitQueueHead, p: PollTable) -> None:
    """Asks to be woken when the queue is."""
    if p.queue is not None:
        p.queue(file, wait_address)
