"""timerfd: a timer that counts its expiries behind a descriptor.

Linux: fs/timerfd.c (5.3). Same: counts, intervals that catch up when read.
Gaps: TFD_TIMER_CANCEL_ON_SET never cancels; alarm clocks do not wake a suspended machine.
Owns: TimerfdCtx. Invariant: ticks > 0 whenever expired is set and nobody has read since.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, get_user_u64
from glasskernel.fs.anon_inodes import anon_inode_getfd
from glasskernel.fs.file import fdget
from glasskernel.fs.poll import poll_wait
from glasskernel.fs.read_write import noop_llseek
from glasskernel.fs.types import O_CLOEXEC, O_NONBLOCK, O_RDWR, POLLIN, FileOperations
from glasskernel.kernel.capability import CAP_WAKE_ALARM, capable
from glasskernel.kernel.sched.wait import WaitQueueHead, wait_event_interruptible, wake_up_poll
from glasskernel.kernel.time.hrtimer import (
    HRTIMER_MODE_ABS,
    HRTIMER_MODE_REL,
    HRTIMER_NORESTART,
    hrtimer_cancel,
    hrtimer_forward_now,
    hrtimer_get_remaining,
    hrtimer_init,
    hrtimer_restart,
    hrtimer_start,
)
from glasskernel.kernel.time.types import (
    CLOCK_BOOTTIME,
    CLOCK_BOOTTIME_ALARM,
    CLOCK_MONOTONIC,
    CLOCK_REALTIME,
    CLOCK_REALTIME_ALARM,
    Hrtimer,
)
from glasskernel.lib.errno import EAGAIN, EINVAL, ENOTTY, EPERM, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, Kiocb, PollTable
    from glasskernel.mm.iov_iter import IovIter

TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET = 1, 2
TFD_IOC_SET_TICKS = 0x40085400
NSEC_PER_SEC = 1_000_000_000
KTIME_MAX = (1 << 63) - 1
_CLOCK_OF_ALARM = {CLOCK_REALTIME_ALARM: CLOCK_REALTIME, CLOCK_BOOTTIME_ALARM: CLOCK_BOOTTIME}


class TimerfdCtx:
    """struct timerfd_ctx. tintv: the interval in ns."""

    __slots__ = ("clockid", "expired", "settime_flags", "ticks", "tintv", "tmr", "wqh")

    def __init__(self, clockid: int) -> None:
        self.clockid = clockid
        self.tintv = 0
        self.ticks = 0
        self.expired = False
        self.settime_flags = 0
        self.wqh = WaitQueueHead()
        self.tmr = Hrtimer(timerfd_tmrproc, self)
        hrtimer_init(self.tmr, _CLOCK_OF_ALARM.get(clockid, clockid), HRTIMER_MODE_ABS)
        self.tmr.function = timerfd_tmrproc


def timerfd_tmrproc(htmr: Hrtimer) -> int:
    """The timer fired. Context: irq."""
    ctx: TimerfdCtx = htmr.data
    timerfd_triggered(ctx)
    return HRTIMER_NORESTART


def timerfd_triggered(ctx: TimerfdCtx) -> None:
    """Counts one expiry."""
    ctx.expired = True
    ctx.ticks += 1
    wake_up_poll(ctx.wqh, POLLIN)


@notrace
def timerfd_get_remaining(ctx: TimerfdCtx) -> int:
    """ns until the next expiry, 0 if none comes."""
    return max(hrtimer_get_remaining(ctx.tmr), 0) if ctx.tmr.expires else 0


def timerfd_setup(ctx: TimerfdCtx, flags: int, interval: int, value: int) -> None:
    """Arms the timer: value in ns, absolute or from now; 0 leaves it off."""
    mode = HRTIMER_MODE_ABS if flags & TFD_TIMER_ABSTIME else HRTIMER_MODE_REL
    ctx.expired = False
    ctx.ticks = 0
    ctx.tintv = interval
    hrtimer_init(ctx.tmr, _CLOCK_OF_ALARM.get(ctx.clockid, ctx.clockid), mode)
    ctx.tmr.function = timerfd_tmrproc
    ctx.tmr.expires = ctx.tmr.softexpires = 0
    if value:
        hrtimer_start(ctx.tmr, value, mode)
    ctx.settime_flags = flags & (TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET)


def timerfd_release(inode: Inode, file: File) -> None:
    """->release()"""
    ctx: TimerfdCtx = file.private_data
    hrtimer_cancel(ctx.tmr)


def timerfd_poll(file: File, wait: PollTable) -> int:
    """->poll()"""
    ctx: TimerfdCtx = file.private_data
    poll_wait(file, ctx.wqh, wait)
    return POLLIN if ctx.ticks else 0


@may_sleep
def timerfd_read(iocb: Kiocb, to: IovIter) -> int:
    """->read_iter(): how often it expired since the last read. Raises EINVAL, EAGAIN, Restart."""
    if to.count < 8:
        raise KernelError(EINVAL)
    file = iocb.ki_filp
    ctx: TimerfdCtx = file.private_data
    if not ctx.ticks:
        if file.f_flags & O_NONBLOCK:
            raise KernelError(EAGAIN)
        wait_event_interruptible(ctx.wqh, lambda: ctx.ticks)
    ticks = ctx.ticks
    if ctx.expired and ctx.tintv:
        # a timer with an interval goes on from when it should have fired
        ticks += hrtimer_forward_now(ctx.tmr, ctx.tintv) - 1
        hrtimer_restart(ctx.tmr)
    ctx.expired = False
    ctx.ticks = 0
    to.copy_to_iter(ticks.to_bytes(8, "little"))
    return 8


def timerfd_ioctl(file: File, cmd: int, arg: int) -> int:
    """->unlocked_ioctl(): TFD_IOC_SET_TICKS. Raises ENOTTY, EINVAL."""
    ctx: TimerfdCtx = file.private_data
    if cmd != TFD_IOC_SET_TICKS:
        raise KernelError(ENOTTY)
    ticks = get_user_u64(arg)
    if not ticks:
        raise KernelError(EINVAL)
    ctx.ticks = ticks
    wake_up_poll(ctx.wqh, POLLIN)
    return 0


def timerfd_show(file: File) -> bytes:
    """->show_fdinfo()"""
    ctx: TimerfdCtx = file.private_data
    value, interval = timerfd_get_remaining(ctx), ctx.tintv
    return b"clockid: %d\nticks: %d\nsettime flags: 0%o\nit_value: (%d, %d)\nit_interval: (%d, %d)\n" % (
        ctx.clockid, ctx.ticks, ctx.settime_flags, *divmod(value, NSEC_PER_SEC), *divmod(interval, NSEC_PER_SEC))


timerfd_fops = FileOperations(
    release=timerfd_release, poll=timerfd_poll, read_iter=timerfd_read, llseek=noop_llseek,
    unlocked_ioctl=timerfd_ioctl, show_fdinfo=timerfd_show)


@notrace
def timerfd_fget(fd: int) -> TimerfdCtx:
    """The timer behind a descriptor. Raises EBADF, EINVAL."""
    file = fdget(fd)
    if file.f_op is not timerfd_fops:
        raise KernelError(EINVAL)
    ctx: TimerfdCtx = file.private_data
    return ctx


@syscall
def sys_timerfd_create(clockid: int, flags: int) -> int:
    """timerfd_create(2). Errors: EINVAL, EPERM (alarm clocks), EMFILE, ENFILE."""
    if flags & ~(O_CLOEXEC | O_NONBLOCK) or clockid not in (
            CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_REALTIME_ALARM, CLOCK_BOOTTIME, CLOCK_BOOTTIME_ALARM):
        raise KernelError(EINVAL)
    if clockid in _CLOCK_OF_ALARM and not capable(CAP_WAKE_ALARM):
        raise KernelError(EPERM)
    return anon_inode_getfd(b"[timerfd]", timerfd_fops, TimerfdCtx(clockid), O_RDWR | flags)


@notrace
def timespec_to_ns(sec: int, nsec: int) -> int:
    """Raises EINVAL."""
    if sec < 0 or not 0 <= nsec < NSEC_PER_SEC:
        raise KernelError(EINVAL)
    return min(sec * NSEC_PER_SEC + nsec, KTIME_MAX)


@notrace
def pack_itimerspec(interval: int, value: int) -> bytes:
    """struct itimerspec."""
    return struct.pack("<4q", *divmod(interval, NSEC_PER_SEC), *divmod(value, NSEC_PER_SEC))


@notrace
def current_setting(ctx: TimerfdCtx) -> bytes:
    """What timerfd_gettime(2) answers; an expired interval timer is moved on first."""
    if ctx.expired and ctx.tintv:
        ctx.expired = False
        ctx.ticks += hrtimer_forward_now(ctx.tmr, ctx.tintv) - 1
        hrtimer_restart(ctx.tmr)
    return pack_itimerspec(ctx.tintv, timerfd_get_remaining(ctx))


@syscall(gaps="TFD_TIMER_CANCEL_ON_SET")
def sys_timerfd_settime(ufd: int, flags: int, utmr: UserPtr, otmr: UserPtr) -> int:
    """timerfd_settime(2). Errors: EBADF, EINVAL, EFAULT."""
    words = struct.unpack("<4q", copy_from_user(utmr, 32))
    if flags & ~(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET):
        raise KernelError(EINVAL)
    interval, value = timespec_to_ns(*words[:2]), timespec_to_ns(*words[2:])
    ctx = timerfd_fget(ufd)
    hrtimer_cancel(ctx.tmr)
    if ctx.expired and ctx.tintv:
        hrtimer_forward_now(ctx.tmr, ctx.tintv)
    old = pack_itimerspec(ctx.tintv, timerfd_get_remaining(ctx))
    timerfd_setup(ctx, flags, interval, value)
    if otmr:
        copy_to_user(otmr, old)
    return 0


@syscall
def sys_timerfd_gettime(ufd: int, otmr: UserPtr) -> int:
    """timerfd_gettime(2). Errors: EBADF, EINVAL, EFAULT."""
    copy_to_user(otmr, current_setting(timerfd_fget(ufd)))
    return 0
