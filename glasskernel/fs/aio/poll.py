"""IOCB_CMD_POLL: a request that is over when a file is ready. The only kind that io_cancel(2) can end.

Linux: fs/aio.c (5.3): aio_poll() and around. Differs: kernel code is never interrupted, so the wake function needs not
    leave anything to the workqueue but a wakeup that names no events.
Invariant: a request that waits is in ctx.active_reqs, and its entry is on the file's queue.
"""
from __future__ import annotations

from typing import Any

from glasskernel.fs.aio.complete import iocb_put
from glasskernel.fs.aio.types import AioKiocb, Iocb, PollIocb
from glasskernel.fs.poll import vfs_poll
from glasskernel.fs.types import POLLERR, POLLHUP, File, PollTable
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.wait import WaitQueueEntry, WaitQueueHead, add_wait_queue, remove_wait_queue
from glasskernel.kernel.workqueue import WorkStruct, schedule_work
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import may_sleep, notrace


@notrace
def _unqueue(req: PollIocb) -> None:
    if req.wait.head is not None:
        remove_wait_queue(req.wait.head, req.wait)


@may_sleep
def aio_poll_complete_work(work: WorkStruct) -> None:
    """Asks the file again, or ends a cancelled request. Context: kworker."""
    iocb: AioKiocb = work.data
    req = iocb.poll
    assert req is not None
    mask = 0
    if not req.cancelled:
        mask = vfs_poll(req.file, PollTable(None, req.events)) & req.events
        if not mask:
            assert req.head is not None
            add_wait_queue(req.head, req.wait)
            return
    iocb.ki_ctx.active_reqs.pop(iocb, None)
    iocb.res = mask
    req.done = True
    iocb_put(iocb)


def aio_poll_cancel(iocb: AioKiocb) -> None:
    """ki_cancel. Context: any."""
    req = iocb.poll
    assert req is not None
    req.cancelled = True
    if req.wait.head is not None:
        _unqueue(req)
        schedule_work(req.work)


def aio_poll_wake(wait: WaitQueueEntry, mode: int, sync: int, key: Any) -> int:
    """The function of the entry. Context: any."""
    iocb: AioKiocb = wait.data
    req = iocb.poll
    assert req is not None
    mask = key if isinstance(key, int) else 0
    if mask and not mask & req.events:
        return 0
    _unqueue(req)
    if mask:
        iocb.ki_ctx.active_reqs.pop(iocb, None)
        iocb.res = mask
        req.done = True
        iocb_put(iocb)
    else:
        schedule_work(req.work)
    return 1


@notrace
def aio_poll_queue_proc(req: PollIocb, head: WaitQueueHead) -> None:
    """The callback of poll_wait(). A file with several queues is refused."""
    if req.head is not None:
        raise KernelError(EINVAL)
    req.head = head
    add_wait_queue(head, req.wait)


@may_sleep
def aio_poll(iocb: AioKiocb, uiocb: Iocb, file: File) -> None:
    """Raises EINVAL: fields that must be 0, a file that cannot be polled."""
    if uiocb.aio_buf >> 16 or uiocb.aio_offset or uiocb.aio_nbytes or uiocb.aio_rw_flags:
        raise KernelError(EINVAL)
    req = iocb.poll = PollIocb(file, uiocb.aio_buf | POLLERR | POLLHUP)
    req.wait = WaitQueueEntry(aio_poll_wake, current(), iocb)
    req.work = WorkStruct(aio_poll_complete_work, iocb)
    try:
        mask = vfs_poll(file, PollTable(lambda _file, head: aio_poll_queue_proc(req, head), req.events)) & req.events
    except KernelError:
        _unqueue(req)
        raise
    if req.done:
        return
    if mask:
        _unqueue(req)
        iocb.res = mask
        iocb_put(iocb)
    elif req.head is None:
        raise KernelError(EINVAL)
    else:
        iocb.ki_ctx.active_reqs[iocb] = None
        iocb.ki_cancel = aio_poll_cancel
