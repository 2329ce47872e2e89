"""The doors to asynchronous I/O; what is behind them (fs/aio/) is imported by the first io_setup(2).

Linux: fs/aio.c (5.3). Same: errors and their order. Owns: nothing.
"""
from __future__ import annotations

import struct

from glasskernel.arch.x86.uaccess import copy_from_user, get_user_u64, put_user_u64
from glasskernel.fs.select import set_mask_from_user
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.core import signal_pending
from glasskernel.kernel.signal import restore_saved_sigmask_unless
from glasskernel.lib.errno import EINTR, EINVAL, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, long, may_sleep, notrace, u32, ulong


@syscall
def sys_io_setup(nr_events: u32, ctxp: UserPtr) -> int:
    """io_setup(2). Errors: EFAULT, EINVAL, EAGAIN (aio-max-nr), ENOMEM."""
    from glasskernel.fs.aio.context import aio_setup, ioctx_alloc, ioctx_put, kill_ioctx

    kernel = current().kernel
    if get_user_u64(ctxp) or not nr_events:
        raise KernelError(EINVAL)
    if kernel.aio_mnt is None:
        aio_setup(kernel)
    ctx = ioctx_alloc(nr_events)
    try:
        put_user_u64(ctxp, ctx.user_id)
    except KernelError:
        kill_ioctx(ctx.mm, ctx, None)
        raise
    finally:
        ioctx_put(ctx)
    return 0


@syscall
def sys_io_destroy(ctx: ulong) -> int:
    """io_destroy(2): waits for all requests. Errors: EINVAL."""
    from glasskernel.fs.aio.events import io_destroy

    return io_destroy(ctx)


@syscall(gaps="IOCB_FLAG_IOPRIO is checked, but the request has its submitter's priority; RWF_NOWAIT")
def sys_io_submit(ctx_id: ulong, nr: long, iocbpp: UserPtr) -> int:
    """io_submit(2). Errors: EINVAL, EFAULT, EAGAIN, EBADF, EOPNOTSUPP; the number that went, if one did."""
    from glasskernel.fs.aio.request import io_submit

    return io_submit(ctx_id, nr, iocbpp)


@syscall
def sys_io_cancel(ctx_id: ulong, iocb: UserPtr, result: UserPtr) -> int:
    """io_cancel(2). Errors: EINPROGRESS (its event comes), EINVAL (it cannot be cancelled), EFAULT."""
    from glasskernel.fs.aio.events import io_cancel

    return io_cancel(ctx_id, iocb)


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
    from glasskernel.fs.aio.events import read_events

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
    set_mask_from_user(sigmask, sigsetsize)
    interrupted = False
    try:
        return do_io_getevents(ctx_id, min_nr, nr, events, timeout_ns)
    except KernelError as error:
        interrupted = error.errno == EINTR
        raise
    finally:
        restore_saved_sigmask_unless(interrupted)
