"""What every part of the tty layer asks of a terminal: room, flow control, wakeups, "is it hung up?".

Linux: the small functions of drivers/tty/tty_ioctl.c (tty_write_room ... tty_wait_until_sent) and of tty_io.c
(start_tty, stop_tty, tty_wakeup, tty_put_char, hung_up_tty_*). They have a file of their own because imports run
one way. Owns: tty.stopped, tty.flow_stopped, TTY_THROTTLED.
Locks: none; no function here sleeps but tty_wait_until_sent().
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.tty.types import (
    TIOCPKT_START,
    TIOCPKT_STOP,
    TTY_DO_WRITE_WAKEUP,
    TTY_THROTTLE_SAFE,
    TTY_THROTTLED,
    TTY_UNTHROTTLE_SAFE,
    TtyStruct,
)
from glasskernel.fs.types import (
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLRDNORM,
    POLLWRNORM,
    FileOperations,
)
from glasskernel.kernel.sched.wait import (
    wait_event_interruptible_timeout,
    wake_up_interruptible,
    wake_up_interruptible_poll,
)
from glasskernel.lib.errno import EIO, ENOTTY, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Kiocb, PollTable
    from glasskernel.mm.iov_iter import IovIter


# ---- output ---------------------------------------------------------------------------------------------------
def tty_write_room(tty: TtyStruct) -> int:
    """Bytes that the driver would take now."""
    return tty.ops.write_room(tty)


def tty_chars_in_buffer(tty: TtyStruct) -> int:
    """Bytes that the driver took and has not sent."""
    chars_in_buffer = tty.ops.chars_in_buffer
    return 0 if chars_in_buffer is None else chars_in_buffer(tty)


def tty_driver_flush_buffer(tty: TtyStruct) -> None:
    """Throws away what the driver has not sent."""
    if tty.ops.flush_buffer is not None:
        tty.ops.flush_buffer(tty)


def tty_put_char(tty: TtyStruct, ch: int) -> int:
    """Hands one byte to the driver; 1 if it was taken."""
    return tty.ops.write(tty, ch.to_bytes(1, "little"))


def tty_wakeup(tty: TtyStruct) -> None:
    """The driver has room again: wakes writers. Context: any."""
    if tty.flags & TTY_DO_WRITE_WAKEUP and tty.ldisc is not None and tty.ldisc.write_wakeup is not None:
        tty.ldisc.write_wakeup(tty)
    wake_up_interruptible_poll(tty.write_wait, POLLOUT)


@may_sleep
def tty_wait_until_sent(tty: TtyStruct, timeout: int) -> None:
    """Sleeps until the driver has sent everything, at most `timeout` jiffies. Raises Restart on a signal."""
    wait_event_interruptible_timeout(tty.write_wait, lambda: not tty_chars_in_buffer(tty), timeout)


# ---- flow control ---------------------------------------------------------------------------------------------
def __stop_tty(tty: TtyStruct) -> None:
    if tty.stopped:
        return
    tty.stopped = True
    if tty.ops.stop is not None:
        tty.ops.stop(tty)


def stop_tty(tty: TtyStruct) -> None:
    """^S: output stands still."""
    __stop_tty(tty)


def __start_tty(tty: TtyStruct) -> None:
    if not tty.stopped or tty.flow_stopped:
        return
    tty.stopped = False
    if tty.ops.start is not None:
        tty.ops.start(tty)
    tty_wakeup(tty)


def start_tty(tty: TtyStruct) -> None:
    """^Q: output goes on."""
    __start_tty(tty)


@notrace
def packet_status(tty: TtyStruct, clear: int, status: int) -> None:
    """Tells a master in packet mode of a change at its slave `tty`."""
    if tty.link is not None and tty.link.packet:
        tty.ctrl_status = tty.ctrl_status & ~clear | status
        wake_up_interruptible(tty.link.read_wait)


def pty_stop(tty: TtyStruct) -> None:
    """tty_operations.stop of a pty's slave: the master may want to know."""
    packet_status(tty, TIOCPKT_START, TIOCPKT_STOP)


def pty_start(tty: TtyStruct) -> None:
    packet_status(tty, TIOCPKT_STOP, TIOCPKT_START)


def tty_throttle(tty: TtyStruct) -> None:
    """The line discipline's buffer is full: the driver shall hold input back."""
    if not tty.flags & TTY_THROTTLED:
        tty.flags |= TTY_THROTTLED
        if tty.ops.throttle is not None:
            tty.ops.throttle(tty)
    tty.flow_change = 0


def tty_unthrottle(tty: TtyStruct) -> None:
    """There is room again."""
    if tty.flags & TTY_THROTTLED:
        tty.flags &= ~TTY_THROTTLED
        if tty.ops.unthrottle is not None:
            tty.ops.unthrottle(tty)
    tty.flow_change = 0


def tty_throttle_safe(tty: TtyStruct) -> bool:
    """tty_throttle(), unless the reason has gone meanwhile; True: nothing was to be done."""
    if tty.flags & TTY_THROTTLED:
        return False
    if tty.flow_change != TTY_THROTTLE_SAFE:
        return True
    tty.flags |= TTY_THROTTLED
    if tty.ops.throttle is not None:
        tty.ops.throttle(tty)
    return False


def tty_unthrottle_safe(tty: TtyStruct) -> bool:
    """tty_unthrottle(), unless the reason has gone meanwhile; True: nothing was to be done."""
    if not tty.flags & TTY_THROTTLED:
        return False
    if tty.flow_change != TTY_UNTHROTTLE_SAFE:
        return True
    tty.flags &= ~TTY_THROTTLED
    if tty.ops.unthrottle is not None:
        tty.ops.unthrottle(tty)
    return False


# ---- a file whose terminal was hung up --------------------------------------------------------------------------
def hung_up_tty_read(_iocb: Kiocb, _to: IovIter) -> int:
    return 0


def hung_up_tty_write(_iocb: Kiocb, _from: IovIter) -> int:
    raise KernelError(EIO)


def hung_up_tty_poll(_file: File, _wait: PollTable) -> int:
    return POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDNORM | POLLWRNORM


def hung_up_tty_ioctl(_file: File, cmd: int, _arg: int) -> int:
    raise KernelError(ENOTTY if cmd == 0x5410 else EIO)                # TIOCSPGRP


def tty_hung_up_p(file: File | None) -> bool:
    """True: the terminal behind this file is gone for it."""
    return file is not None and file.f_op.read_iter is hung_up_tty_read


@notrace
def hung_up_fops(tty_fops: FileOperations) -> FileOperations:
    """hung_up_tty_fops: what a hangup puts in the place of tty_fops."""
    return FileOperations(
        llseek=tty_fops.llseek, read_iter=hung_up_tty_read, write_iter=hung_up_tty_write, poll=hung_up_tty_poll,
        unlocked_ioctl=hung_up_tty_ioctl, release=tty_fops.release)
