"""signalfd(2): signals read from a descriptor.

Linux: fs/signalfd.c (5.3). Same: who reads gets its own signals, several at once, SIGKILL and SIGSTOP never.
Owns: SighandStruct.signalfd_wqh (made here, woken by kernel/signal.py).
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import get_user_u64
from glasskernel.fs.anon_inodes import anon_inode_getfd
from glasskernel.fs.file import fdget
from glasskernel.fs.poll import poll_wait
from glasskernel.fs.read_write import noop_llseek
from glasskernel.fs.types import O_CLOEXEC, O_NONBLOCK, O_RDWR, POLLIN, FileOperations
from glasskernel.kernel.current import register
from glasskernel.kernel.sched.wait import WaitQueueHead, wait_event_interruptible, wake_up_all
from glasskernel.kernel.signal import dequeue_signal
from glasskernel.lib.errno import EAGAIN, EINVAL, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, size_t

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Kiocb, PollTable
    from glasskernel.kernel.signal_types import KernelSiginfo
    from glasskernel.kernel.task import SighandStruct
    from glasskernel.mm.iov_iter import IovIter

U64 = 0xFFFF_FFFF_FFFF_FFFF
UNBLOCKABLE = 1 << 9 - 1 | 1 << 19 - 1              # SIGKILL, SIGSTOP
_INFO = struct.Struct("<IiiIIiIIIIiiQQQQHHiQI28x")   # struct signalfd_siginfo, 128 bytes


class SignalfdCtx:
    """struct signalfd_ctx. sigmask: the signals that are NOT read (bit signo - 1)."""

    __slots__ = ("sigmask",)

    def __init__(self, sigmask: int) -> None:
        self.sigmask = sigmask


@notrace
def signalfd_wqh(sighand: SighandStruct) -> WaitQueueHead:
    """The queue that a new signal wakes, made at the first use."""
    if sighand.signalfd_wqh is None:
        sighand.signalfd_wqh = WaitQueueHead()
    return sighand.signalfd_wqh


@notrace
def pending_for(ctx: SignalfdCtx) -> int:
    """The signals that a read would find."""
    task = register.task
    return (task.pending.signal | task.signal.shared_pending.signal) & ~ctx.sigmask


def signalfd_poll(file: File, wait: PollTable) -> int:
    """->poll()"""
    poll_wait(file, signalfd_wqh(register.task.sighand), wait)
    return POLLIN if pending_for(file.private_data) else 0


def signalfd_copyinfo(info: KernelSiginfo) -> bytes:
    """struct signalfd_siginfo."""
    value = info.si_value
    return _INFO.pack(
        info.si_signo, info.si_errno, info.si_code, info.si_pid & 0xFFFFFFFF, info.si_uid & 0xFFFFFFFF, info.si_fd,
        info.si_tid & 0xFFFFFFFF, info.si_band & 0xFFFFFFFF, info.si_overrun & 0xFFFFFFFF, 0, info.si_status,
        ((value & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000, value & U64, info.si_utime, info.si_stime,
        info.si_addr & U64, info.si_addr_lsb, 0, info.si_syscall, info.si_call_addr & U64, info.si_arch)


@may_sleep
def signalfd_dequeue(ctx: SignalfdCtx, nonblock: bool) -> KernelSiginfo | None:
    """The next signal of the set; None if there is none and nonblock. Raises Restart."""
    task = register.task
    info = dequeue_signal(task, ctx.sigmask)
    if info is not None or nonblock:
        return info
    while info is None:
        wait_event_interruptible(signalfd_wqh(task.sighand), lambda: pending_for(ctx))
        info = dequeue_signal(task, ctx.sigmask)
    return info


@may_sleep
def signalfd_read(iocb: Kiocb, to: IovIter) -> int:
    """->read_iter(): as many records as fit and are there. Raises EINVAL, EAGAIN, Restart."""
    count = to.count // 128
    if not count:
        raise KernelError(EINVAL)
    file = iocb.ki_filp
    ctx: SignalfdCtx = file.private_data
    nonblock = bool(file.f_flags & O_NONBLOCK)
    total = 0
    for _ in range(count):
        info = signalfd_dequeue(ctx, nonblock)
        if info is None:
            break
        to.copy_to_iter(signalfd_copyinfo(info))
        total += 128
        nonblock = True
    if not total:
        raise KernelError(EAGAIN)
    return total


def signalfd_show_fdinfo(file: File) -> bytes:
    """->show_fdinfo()"""
    ctx: SignalfdCtx = file.private_data
    return b"sigmask:\t%016x\n" % (~ctx.sigmask & U64)


signalfd_fops = FileOperations(
    poll=signalfd_poll, read_iter=signalfd_read, llseek=noop_llseek, show_fdinfo=signalfd_show_fdinfo)


def do_signalfd4(ufd: int, mask: int, flags: int) -> int:
    """signalfd4(2)."""
    if flags & ~(O_CLOEXEC | O_NONBLOCK):
        raise KernelError(EINVAL)
    sigmask = ~(mask & ~UNBLOCKABLE) & U64
    if ufd == -1:
        return anon_inode_getfd(b"[signalfd]", signalfd_fops, SignalfdCtx(sigmask), O_RDWR | flags)
    file = fdget(ufd)
    if file.f_op is not signalfd_fops:
        raise KernelError(EINVAL)
    file.private_data.sigmask = sigmask
    wake_up_all(signalfd_wqh(register.task.sighand))
    return ufd


@syscall
def sys_signalfd4(ufd: int, user_mask: UserPtr, sizemask: size_t, flags: int) -> int:
    """signalfd4(2). Errors: EINVAL, EBADF, EFAULT, EMFILE, ENFILE."""
    if sizemask != 8:
        raise KernelError(EINVAL)
    return do_signalfd4(ufd, get_user_u64(user_mask), flags)


@syscall
def sys_signalfd(ufd: int, user_mask: UserPtr, sizemask: size_t) -> int:
    """signalfd(2)."""
    if sizemask != 8:
        raise KernelError(EINVAL)
    return do_signalfd4(ufd, get_user_u64(user_mask), 0)
