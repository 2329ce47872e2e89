"""eventfd(2): a 64-bit counter behind a descriptor.

Linux: fs/eventfd.c (5.3). Same: semaphore mode, blocking at both ends. Owns: EventfdCtx.
Invariant: 0 <= count <= 2**64 - 2.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.anon_inodes import anon_inode_getfile
from glasskernel.fs.file import anon_fd, fget
from glasskernel.fs.file_table import fput
from glasskernel.fs.poll import poll_wait
from glasskernel.fs.read_write import noop_llseek
from glasskernel.fs.types import O_CLOEXEC, O_NONBLOCK, O_RDWR, POLLERR, POLLIN, POLLOUT, FileOperations
from glasskernel.kernel.sched.wait import WaitQueueHead, wait_event_interruptible, wake_up_poll
from glasskernel.lib.errno import EAGAIN, EINVAL, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import U64_MAX, may_sleep, notrace, u32

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Kiocb, PollTable
    from glasskernel.mm.iov_iter import IovIter

EFD_SEMAPHORE = 1


class EventfdCtx:
    """struct eventfd_ctx."""

    __slots__ = ("count", "flags", "wqh")

    def __init__(self, count: int, flags: int) -> None:
        self.count = count
        self.flags = flags
        self.wqh = WaitQueueHead()


def eventfd_poll(file: File, wait: PollTable) -> int:
    """->poll()"""
    ctx: EventfdCtx = file.private_data
    poll_wait(file, ctx.wqh, wait)
    events = 0
    if ctx.count > 0:
        events |= POLLIN
    if ctx.count == U64_MAX:
        events |= POLLERR
    if ctx.count < U64_MAX - 1:
        events |= POLLOUT
    return events


@may_sleep
def eventfd_read(iocb: Kiocb, to: IovIter) -> int:
    """->read_iter(): the counter, which becomes 0; or 1, and the counter falls by 1. Raises EINVAL, EAGAIN, Restart."""
    if to.count < 8:
        raise KernelError(EINVAL)
    file = iocb.ki_filp
    ctx: EventfdCtx = file.private_data
    if not ctx.count:
        if file.f_flags & O_NONBLOCK:
            raise KernelError(EAGAIN)
        wait_event_interruptible(ctx.wqh, lambda: ctx.count)
    value = 1 if ctx.flags & EFD_SEMAPHORE else ctx.count
    ctx.count -= value
    wake_up_poll(ctx.wqh, POLLOUT)
    to.copy_to_iter(value.to_bytes(8, "little"))
    return 8


@may_sleep
def eventfd_write(iocb: Kiocb, source: IovIter) -> int:
    """->write_iter(): adds to the counter. Raises EINVAL, EAGAIN, Restart."""
    if source.count < 8:
        raise KernelError(EINVAL)
    value = int.from_bytes(source.copy_from_iter(8), "little")
    if value == U64_MAX:
        raise KernelError(EINVAL)
    file = iocb.ki_filp
    ctx: EventfdCtx = file.private_data
    if U64_MAX - ctx.count <= value:
        if file.f_flags & O_NONBLOCK:
            raise KernelError(EAGAIN)
        wait_event_interruptible(ctx.wqh, lambda: U64_MAX - ctx.count > value)
    ctx.count += value
    wake_up_poll(ctx.wqh, POLLIN)
    return 8


def eventfd_signal(ctx: EventfdCtx, n: int) -> int:
    """Adds to the counter from inside the kernel, never sleeping; answers how much went. Context: any."""
    n = min(n, U64_MAX - ctx.count)
    ctx.count += n
    wake_up_poll(ctx.wqh, POLLIN)
    return n


def eventfd_ctx_fdget(fd: int) -> EventfdCtx:
    """The counter behind a descriptor. Raises EBADF, EINVAL."""
    file = fget(fd)
    try:
        if file.f_op is not eventfd_fops:
            raise KernelError(EINVAL)
        ctx: EventfdCtx = file.private_data
        return ctx
    finally:
        fput(file)


def eventfd_show_fdinfo(file: File) -> bytes:
    """->show_fdinfo()"""
    ctx: EventfdCtx = file.private_data
    return b"eventfd-count: %16x\n" % ctx.count


eventfd_fops = FileOperations(
    poll=eventfd_poll, read_iter=eventfd_read, write_iter=eventfd_write, llseek=noop_llseek,
    show_fdinfo=eventfd_show_fdinfo)


@notrace
def do_eventfd(count: int, flags: int) -> int:
    """eventfd2(2)."""
    if flags & ~(EFD_SEMAPHORE | O_CLOEXEC | O_NONBLOCK):
        raise KernelError(EINVAL)
    file = anon_inode_getfile(b"[eventfd]", eventfd_fops, EventfdCtx(count, flags), O_RDWR | flags & O_NONBLOCK)
    return anon_fd(file, flags)


@syscall
def sys_eventfd2(count: u32, flags: int) -> int:
    """eventfd2(2). Errors: EINVAL, EMFILE, ENFILE."""
    return do_eventfd(count, flags)


@syscall
def sys_eventfd(count: u32) -> int:
    """eventfd(2)."""
    return do_eventfd(count, 0)
