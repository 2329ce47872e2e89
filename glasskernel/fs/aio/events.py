"""io_getevents(2), io_cancel(2), io_destroy(2): what a program does with requests under way.

Linux: fs/aio.c (5.3). Context: task.
"""
from __future__ import annotations

import struct
from contextlib import suppress
from functools import partial

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, get_user_u32
from glasskernel.fs.aio.context import ioctx_put, kill_ioctx, lookup_ioctx
from glasskernel.fs.aio.types import (
    AIO_EVENT_SIZE,
    AIO_EVENTS_OFFSET,
    AIO_EVENTS_PER_PAGE,
    AIO_RING_HEAD,
    AIO_RING_TAIL,
    KIOCB_KEY,
    CtxRqWait,
    Kioctx,
)
from glasskernel.fs.select import wait_with_sigmask
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.completion import Completion, wait_for_completion
from glasskernel.kernel.sched.core import signal_pending
from glasskernel.kernel.sched.wait import (
    WaitQueueEntry,
    finish_wait,
    prepare_to_wait_event,
    wait_event_interruptible,
)
from glasskernel.kernel.task import TASK_INTERRUPTIBLE
from glasskernel.kernel.time.hrtimer import schedule_hrtimeout_range
from glasskernel.kernel.time.timekeeping import ktime_get
from glasskernel.lib.errno import EINPROGRESS, EINTR, EINVAL, KernelError, Restart
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, long, may_sleep, notrace, ulong

HRTIMER_MODE_REL = 1


@may_sleep
def aio_read_events_ring(ctx: Kioctx, event: int, nr: int) -> int:
    """Copies events out of the ring. Raises EFAULT if not one could be copied."""
    ram = ctx.kernel.machine.ram
    ring = ctx.ring_pages[0] << 12
    head = int.from_bytes(ram[ring + AIO_RING_HEAD : ring + AIO_RING_HEAD + 4], "little") % ctx.nr_events
    tail = int.from_bytes(ram[ring + AIO_RING_TAIL : ring + AIO_RING_TAIL + 4], "little") % ctx.nr_events
    done = 0
    while done < nr and head != tail:
        avail = (tail if head <= tail else ctx.nr_events) - head
        position = head + AIO_EVENTS_OFFSET
        page, offset = divmod(position, AIO_EVENTS_PER_PAGE)
        avail = min(avail, nr - done, AIO_EVENTS_PER_PAGE - offset)
        start = (ctx.ring_pages[page] << 12) + offset * AIO_EVENT_SIZE
        copy_to_user(event + done * AIO_EVENT_SIZE, bytes(ram[start : start + avail * AIO_EVENT_SIZE]))
        done += avail
        head = (head + avail) % ctx.nr_events
    ram[ring + AIO_RING_HEAD : ring + AIO_RING_HEAD + 4] = head.to_bytes(4, "little")
    return done


@may_sleep
def aio_read_events(ctx: Kioctx, min_nr: int, nr: int, event: int, got: list[int]) -> bool:
    """True if it need not wait: got[0] is how many events went, or what is wrong, negative."""
    try:
        done = aio_read_events_ring(ctx, event + got[0] * AIO_EVENT_SIZE, nr - got[0])
    except KernelError as e:
        done = -e.errno
    if done > 0:
        got[0] += done
    if ctx.dead:
        done = -EINVAL
    if not got[0]:
        got[0] = min(done, 0)
    return done < 0 or got[0] >= min_nr


@notrace
@may_sleep
def _wait_hrtimeout(ctx: Kioctx, until_ns: int, min_nr: int, nr: int, event: int, got: list[int]) -> None:
    """wait_event_interruptible_hrtimeout()"""
    entry = WaitQueueEntry()
    try:
        while True:
            interrupted = prepare_to_wait_event(ctx.wait, entry, TASK_INTERRUPTIBLE)
            left = until_ns - ktime_get()
            if aio_read_events(ctx, min_nr, nr, event, got) or interrupted or left <= 0:
                return
            schedule_hrtimeout_range(left, current().timer_slack_ns, HRTIMER_MODE_REL)
    finally:
        finish_wait(ctx.wait, entry)


@may_sleep
def read_events(ctx_id: int, min_nr: int, nr: int, event: int, timeout_ns: int | None) -> int:
    """How many events went: at least min_nr, unless time or a signal came first. Raises EINVAL, EFAULT."""
    ctx = lookup_ioctx(ctx_id)
    try:
        if not 0 <= min_nr <= nr:
            raise KernelError(EINVAL)
        got = [0]
        if timeout_ns is None:
            with suppress(Restart):        # what went counts; io_getevents() looks for the signal
                wait_event_interruptible(ctx.wait, lambda: aio_read_events(ctx, min_nr, nr, event, got))
        elif aio_read_events(ctx, min_nr, nr, event, got) or timeout_ns <= 0:
            pass
        else:
            _wait_hrtimeout(ctx, ktime_get() + timeout_ns, min_nr, nr, event, got)
    finally:
        ioctx_put(ctx)
    if got[0] < 0:
        raise KernelError(-got[0])
    return got[0]


@notrace
def _timeout_ns(address: UserPtr) -> int | None:
    """A timespec as ns; None for NULL. Raises EFAULT."""
    if not address:
        return None
    sec, nsec = struct.unpack("<qq", copy_from_user(address, 16))
    return int(sec * 1_000_000_000 + nsec)


@may_sleep
def do_io_getevents(ctx_id: int, min_nr: int, nr: int, events: int, timeout_ns: int | None) -> int:
    """Raises EINVAL, EFAULT; EINTR if a signal comes before an event."""
    ret = read_events(ctx_id, min_nr, nr, events, timeout_ns)
    if not ret and signal_pending(current()):
        raise KernelError(EINTR)
    return ret


@syscall
def sys_io_getevents(ctx_id: ulong, min_nr: long, nr: long, events: UserPtr, timeout: UserPtr) -> int:
    """io_getevents(2). Errors: EINVAL, EFAULT, EINTR."""
    return do_io_getevents(ctx_id, min_nr, nr, events, _timeout_ns(timeout))


@syscall
def sys_io_pgetevents(ctx_id: ulong, min_nr: long, nr: long, events: UserPtr, timeout: UserPtr, usig: UserPtr) -> int:
    """io_pgetevents(2): with a signal mask while it waits. Errors: EINVAL, EFAULT, EINTR."""
    timeout_ns = _timeout_ns(timeout)
    sigmask, sigsetsize = struct.unpack("<QQ", copy_from_user(usig, 16)) if usig else (0, 0)
    return wait_with_sigmask(sigmask, sigsetsize, partial(do_io_getevents, ctx_id, min_nr, nr, events, timeout_ns))


@syscall
def sys_io_cancel(ctx_id: ulong, iocb: UserPtr, result: UserPtr) -> int:
    """io_cancel(2). Errors: EINPROGRESS (its event comes), EINVAL (it cannot be cancelled), EFAULT."""
    if get_user_u32(iocb + 8) != KIOCB_KEY:
        raise KernelError(EINVAL)
    ctx = lookup_ioctx(ctx_id)
    try:
        for req in ctx.active_reqs:
            if req.obj == iocb:
                break
        else:
            raise KernelError(EINVAL)
        assert req.ki_cancel is not None
        req.ki_cancel(req)
        ctx.active_reqs.pop(req, None)
    finally:
        ioctx_put(ctx)
    raise KernelError(EINPROGRESS)         # its event comes through the ring


@syscall
def sys_io_destroy(ctx: ulong) -> int:
    """io_destroy(2): waits for all requests. Errors: EINVAL."""
    ioctx = lookup_ioctx(ctx)
    wait = CtxRqWait(Completion(), 1)
    try:
        kill_ioctx(ioctx.mm, ioctx, wait)
    finally:
        ioctx_put(ioctx)
    wait_for_completion(wait.comp)
    return 0
