"""Requests: their place in the ring, their references, the event at their end.

Linux: fs/aio.c (5.3). Context: any, but for aio_get_req().
"""
from __future__ import annotations

from glasskernel.fs.aio.context import ioctx_put_req
from glasskernel.fs.aio.types import (
    AIO_EVENT_SIZE,
    AIO_EVENTS_OFFSET,
    AIO_EVENTS_PER_PAGE,
    AIO_RING_HEAD,
    AIO_RING_TAIL,
    AioKiocb,
    IoEvent,
    Kioctx,
)
from glasskernel.fs.eventfd import eventfd_signal
from glasskernel.fs.file_table import fput
from glasskernel.kernel.sched.wait import wake_up
from glasskernel.lib.errno import EAGAIN, KernelError


def aio_complete(iocb: AioKiocb) -> None:
    """Puts the event into the ring."""
    ctx = iocb.ki_ctx
    ram = ctx.kernel.machine.ram
    tail = ctx.tail
    position = tail + AIO_EVENTS_OFFSET
    page = ctx.ring_pages[position // AIO_EVENTS_PER_PAGE]
    start = (page << 12) + position % AIO_EVENTS_PER_PAGE * AIO_EVENT_SIZE
    event = IoEvent(data=iocb.data, obj=iocb.obj, res=iocb.res, res2=iocb.res2)
    ram[start : start + AIO_EVENT_SIZE] = event.pack()
    tail = tail + 1 if tail + 1 < ctx.nr_events else 0
    ctx.tail = tail
    ring = ctx.ring_pages[0] << 12
    head = int.from_bytes(ram[ring + AIO_RING_HEAD : ring + AIO_RING_HEAD + 4], "little")
    ram[ring + AIO_RING_TAIL : ring + AIO_RING_TAIL + 4] = tail.to_bytes(4, "little")
    ctx.completed_events += 1
    if ctx.completed_events > 1:
        refill_reqs_available(ctx, head, tail)
    if iocb.ki_eventfd is not None:
        eventfd_signal(iocb.ki_eventfd, 1)
    if ctx.wait.entries:
        wake_up(ctx.wait)


def refill_reqs_available(ctx: Kioctx, head: int, tail: int) -> None:
    """Places whose events the program has taken are free. head comes from user memory: it may be anything."""
    head %= ctx.nr_events
    events_in_ring = tail - head if head <= tail else ctx.nr_events - (head - tail)
    completed = ctx.completed_events
    completed = completed - events_in_ring if events_in_ring < completed else 0
    if completed:
        ctx.completed_events -= completed
        ctx.reqs_available += completed


def user_refill_reqs_available(ctx: Kioctx) -> None:
    """Looks again when there is no free place."""
    if ctx.completed_events:
        ring = ctx.ring_pages[0] << 12
        head = int.from_bytes(ctx.kernel.machine.ram[ring + AIO_RING_HEAD : ring + AIO_RING_HEAD + 4], "little")
        refill_reqs_available(ctx, head, ctx.tail)


def aio_get_req(ctx: Kioctx) -> AioKiocb:
    """A request, with a place in the ring for its event. Raises EAGAIN."""
    if not ctx.reqs_available:
        user_refill_reqs_available(ctx)
        if not ctx.reqs_available:
            raise KernelError(EAGAIN)
    ctx.reqs_available -= 1
    ctx.reqs += 1
    return AioKiocb(ctx)


def iocb_destroy(iocb: AioKiocb) -> None:
    if iocb.ki_filp is not None:
        fput(iocb.ki_filp)
    iocb.ki_eventfd = None
    ioctx_put_req(iocb.ki_ctx)


def iocb_put(iocb: AioKiocb) -> None:
    """The last one tells the program."""
    iocb.ki_refcnt -= 1
    if not iocb.ki_refcnt:
        aio_complete(iocb)
        iocb_destroy(iocb)
