"""Terminals as files: open, read, write, poll, ioctl, release, and the registry of drivers.

Linux: drivers/tty/tty_io.c (5.3); hanging up is in tty_hangup.py, flow control in tty_flow.py. Same: /dev/tty,
/dev/console and O_NOCTTY, when a terminal is made and freed, one write(2) at a time.
Differs: no tty_mutex, tty_lock and krefs: nothing sleeps between the steps of an open or a release, and Python
keeps a terminal alive while somebody has it. Reads and writes come through read_iter and write_iter.
Owns: kernel.tty (TtyState), TtyDriver.ttys, tty.count, tty.tty_files.
Gaps: TIOCLINUX, TIOCGSERIAL, SAK, modem lines (ENOTTY or EINVAL, as for a driver without them).
Invariants: tty.count is the number of open files (plus one for the master on a pty's slave); at 0 (both ends of a
    pty) the terminal is freed.
Boot: core.tty_init() calls tty_io_init(), then the drivers.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, get_user_u32, put_user_u32
from glasskernel.drivers.base.core import class_create, device_create
from glasskernel.drivers.tty.tty_buffer import tty_buffer_cancel_work, tty_buffer_flush_work
from glasskernel.drivers.tty.tty_flow import (
    hung_up_fops,
    hung_up_tty_ioctl,
    hung_up_tty_poll,
    hung_up_tty_read,
    hung_up_tty_write,
    tty_hung_up_p,
    tty_wait_until_sent,
)
from glasskernel.drivers.tty.tty_hangup import session_clear_tty, tty_vhangup
from glasskernel.drivers.tty.tty_jobctrl import (
    get_current_tty,
    tty_check_change,
    tty_get_pgrp,
    tty_jobctrl_ioctl,
    tty_open_proc_set_tty,
)
from glasskernel.drivers.tty.tty_ldisc import (
    tty_ldisc_init,
    tty_ldisc_ref_wait,
    tty_ldisc_reinit,
    tty_ldisc_release,
    tty_ldisc_setup,
    tty_set_ldisc,
)
from glasskernel.drivers.tty.types import (
    PTY_TYPE_MASTER,
    TCSBRK,
    TCSBRKP,
    TIOCCBRK,
    TIOCCONS,
    TIOCEXCL,
    TIOCGDEV,
    TIOCGETD,
    TIOCGEXCL,
    TIOCGPTPEER,
    TIOCGWINSZ,
    TIOCNXCL,
    TIOCSBRK,
    TIOCSETD,
    TIOCSTI,
    TIOCSWINSZ,
    TIOCVHANGUP,
    TTY_DRIVER_DYNAMIC_DEV,
    TTY_DRIVER_RESET_TERMIOS,
    TTY_DRIVER_TYPE_PTY,
    TTY_EXCLUSIVE,
    TTY_HUPPED,
    TTY_HUPPING,
    TTY_NO_WRITE_SPLIT,
    TTYAUX_MAJOR,
    TtyDriver,
    TtyFilePrivate,
    TtyState,
    TtyStruct,
    Winsize,
    tty_io_error,
)
from glasskernel.fs.char_dev import Cdev, cdev_add, register_chrdev_region
from glasskernel.fs.dentry_open import nonseekable_open
from glasskernel.fs.fcntl_signal import f_setown, fasync_helper
from glasskernel.fs.types import MKDEV, O_NOCTTY, O_NONBLOCK, POLLIN, POLLOUT, FileOperations, Inode
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.mutex import (
    Mutex,
    mutex_is_locked,
    mutex_lock_interruptible,
    mutex_trylock,
    mutex_unlock,
)
from glasskernel.kernel.pid import task_tgid_vnr
from glasskernel.kernel.sched.core import cond_resched, signal_pending
from glasskernel.kernel.sched.wait import wake_up_interruptible_poll
from glasskernel.kernel.signal import kill_pgrp
from glasskernel.kernel.signal_types import SIGWINCH
from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.kernel.time.types import MAX_SCHEDULE_TIMEOUT
from glasskernel.lib.errno import (
    EAGAIN,
    EBUSY,
    EFAULT,
    EINVAL,
    EIO,
    ENODEV,
    ENXIO,
    EPERM,
    KernelError,
    Restart,
)
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Kiocb, PollTable
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter

_EIGHT_SECONDS = 8_000_000_000


# ---- files ----------------------------------------------------------------------------------------------------
@notrace
def file_tty(file: File) -> TtyStruct:
    """The terminal behind an open file."""
    tty: TtyStruct = file.private_data.tty
    return tty


def tty_add_file(tty: TtyStruct, file: File) -> None:
    """The file is an open file of tty."""
    file.private_data = TtyFilePrivate(tty, file)
    tty.tty_files.append(file)


@notrace
def tty_del_file(file: File) -> None:
    tty = file_tty(file)
    tty.tty_files.remove(file)
    file.private_data = None


def tty_name(tty: TtyStruct | None) -> str:
    """For messages."""
    return tty.name.decode() if tty is not None else "NULL tty"


@notrace
def check_tty_count(tty: TtyStruct) -> None:
    """The invariant at the top of the file."""
    slave = tty.driver.type == TTY_DRIVER_TYPE_PTY and tty.driver.subtype != PTY_TYPE_MASTER
    extra = 1 if slave and tty.link is not None and tty.link.count else 0
    assert tty.count == len(tty.tty_files) + extra, f"{tty}: {tty.count} opens, {len(tty.tty_files)} files"


@notrace
def tty_update_time(now: int, then: int) -> int:
    """Times of a terminal's inode change every eight seconds: nobody shall learn when keys were hit."""
    return now - now % 1_000_000_000 if now // _EIGHT_SECONDS != then // _EIGHT_SECONDS else then


# ---- making and freeing ----------------------------------------------------------------------------------------
def alloc_tty_struct(driver: TtyDriver, idx: int) -> TtyStruct:
    """A terminal nobody has opened yet."""
    if driver.type == TTY_DRIVER_TYPE_PTY and driver.subtype == PTY_TYPE_MASTER:
        name = b"ptm%d" % idx
    else:
        name = tty_line_name(driver, idx)
    tty = TtyStruct(driver.kernel, driver, driver.ops, idx, name, MKDEV(driver.major, driver.minor_start) + idx)
    tty.atomic_write_lock = Mutex()
    tty_ldisc_init(tty)
    return tty


@notrace
def tty_line_name(driver: TtyDriver, index: int) -> bytes:
    """"hvc0", "pts/3" """
    if driver.type == TTY_DRIVER_TYPE_PTY:
        return b"pts/%d" % index
    return b"%b%d" % (driver.name, index + driver.name_base)


def tty_init_termios(tty: TtyStruct) -> None:
    """The driver's settings, or those of the last time."""
    driver = tty.driver
    saved = None if driver.flags & TTY_DRIVER_RESET_TERMIOS else driver.termios.get(tty.index)
    tty.termios = (saved or driver.init_termios).copy()
    tty.termios.c_line = driver.init_termios.c_line


def tty_save_termios(tty: TtyStruct) -> None:
    """Keeps the settings for the next open."""
    if not tty.driver.flags & TTY_DRIVER_RESET_TERMIOS:
        tty.driver.termios[tty.index] = tty.termios.copy()


def tty_standard_install(driver: TtyDriver, tty: TtyStruct) -> None:
    """tty_operations.install of a driver with a table of terminals."""
    tty_init_termios(tty)
    tty.count += 1
    driver.ttys[tty.index] = tty


@notrace
def tty_driver_install_tty(driver: TtyDriver, tty: TtyStruct) -> None:
    if driver.ops.install is not None:
        driver.ops.install(driver, tty)
    else:
        tty_standard_install(driver, tty)


@notrace
def tty_driver_remove_tty(driver: TtyDriver, tty: TtyStruct) -> None:
    if driver.ops.remove is not None:
        driver.ops.remove(driver, tty)
    else:
        driver.ttys.pop(tty.index, None)


def tty_init_dev(driver: TtyDriver, idx: int) -> TtyStruct:
    """First open: makes the terminal and its line discipline. Errors: the driver's."""
    tty = alloc_tty_struct(driver, idx)
    tty_driver_install_tty(driver, tty)
    tty.port.itty = tty
    tty_ldisc_setup(tty, tty.link)
    return tty


def release_tty(tty: TtyStruct, idx: int) -> None:
    """Frees the terminal, and the other end with it."""
    if tty.ops.shutdown is not None:
        tty.ops.shutdown(tty)
    tty_save_termios(tty)
    tty_driver_remove_tty(tty.driver, tty)
    tty.port.itty = None
    link = tty.link
    if link is not None:
        link.port.itty = None
    tty_buffer_cancel_work(tty.port)
    if link is not None:
        tty_buffer_cancel_work(link.port)
        if link.ops.cleanup is not None:
            link.ops.cleanup(link)
    if tty.ops.cleanup is not None:
        tty.ops.cleanup(tty)


def tty_release_struct(tty: TtyStruct, idx: int) -> None:
    """Last close."""
    tty_ldisc_release(tty)
    tty_buffer_flush_work(tty.port)
    if tty.link is not None:
        tty_buffer_flush_work(tty.link.port)
    release_tty(tty, idx)


# ---- open, release ---------------------------------------------------------------------------------------------
def tty_reopen(tty: TtyStruct) -> None:
    """One more open of a terminal that is there. Errors: EIO (a pty's master), EBUSY (TIOCEXCL), EAGAIN."""
    driver = tty.driver
    if driver.type == TTY_DRIVER_TYPE_PTY and driver.subtype == PTY_TYPE_MASTER:
        raise KernelError(EIO)
    if not tty.count:
        raise KernelError(EAGAIN)
    if tty.flags & TTY_EXCLUSIVE and not capable(CAP_SYS_ADMIN):
        raise KernelError(EBUSY)
    if tty.ldisc is None:
        tty_ldisc_reinit(tty, tty.termios.c_line)
    tty.count += 1


@notrace
def get_tty_driver(kernel: Kernel, device: int) -> tuple[TtyDriver, int] | None:
    """The driver of a device number and the index in it."""
    for driver in kernel.tty.drivers:
        base = MKDEV(driver.major, driver.minor_start)
        if base <= device < base + driver.num:
            return driver, device - base
    return None


def tty_lookup_driver(kernel: Kernel, device: int, file: File) -> tuple[TtyDriver, int]:
    """Driver and index; /dev/console: the console's. Errors: ENODEV."""
    if device == MKDEV(TTYAUX_MAJOR, 1):
        console = kernel.tty.console
        if console is None:
            raise KernelError(ENODEV)
        file.f_flags |= O_NONBLOCK             # opening the console never waits for a carrier
        return console
    found = get_tty_driver(kernel, device)
    if found is None:
        raise KernelError(ENODEV)
    return found


@notrace
def tty_driver_lookup_tty(driver: TtyDriver, file: File, idx: int) -> TtyStruct | None:
    """The open terminal, or None. Errors: EIO (a pty's end that cannot be opened by number)."""
    if driver.ops.lookup is not None:
        return driver.ops.lookup(driver, file, idx)
    return driver.ttys.get(idx)


@notrace
def tty_open_current_tty(kernel: Kernel, device: int, file: File) -> TtyStruct | None:
    """/dev/tty: the caller's terminal. Errors: ENXIO without one."""
    if device != MKDEV(TTYAUX_MAJOR, 0):
        return None
    tty = get_current_tty()
    if tty is None:
        raise KernelError(ENXIO)
    file.f_flags |= O_NONBLOCK
    tty_reopen(tty)
    return tty


@notrace
def tty_open_by_driver(kernel: Kernel, device: int, file: File) -> TtyStruct:
    driver, index = tty_lookup_driver(kernel, device, file)
    tty = tty_driver_lookup_tty(driver, file, index)
    if tty is None:
        return tty_init_dev(driver, index)
    tty_reopen(tty)
    return tty


@may_sleep
def tty_open(inode: Inode, file: File) -> None:
    """file_operations.open of every terminal but /dev/ptmx.

    Errors: ENXIO, ENODEV, EIO, EBUSY. A session leader without a terminal gets this one (not with O_NOCTTY, not
    through /dev/console).
    """
    device = inode.i_rdev
    kernel = inode.i_sb.kernel
    saved_flags = file.f_flags
    nonseekable_open(inode, file)
    tty = tty_open_current_tty(kernel, device, file)
    if tty is None:
        tty = tty_open_by_driver(kernel, device, file)
    if device == MKDEV(TTYAUX_MAJOR, 1):
        file.f_op = kernel.tty.console_fops
    tty_add_file(tty, file)
    check_tty_count(tty)
    try:
        tty.ops.open(tty, file)
    except KernelError:
        file.f_flags = saved_flags
        tty_release(inode, file)
        raise
    file.f_flags = saved_flags
    tty.flags &= ~(TTY_HUPPED | TTY_HUPPING)
    noctty = (file.f_flags & O_NOCTTY or device == MKDEV(TTYAUX_MAJOR, 1)
              or (tty.driver.type == TTY_DRIVER_TYPE_PTY and tty.driver.subtype == PTY_TYPE_MASTER))
    if not noctty:
        tty_open_proc_set_tty(file, tty)


@may_sleep
def tty_release(_inode: Inode, file: File) -> None:
    """file_operations.release: the last reference to this open file is gone."""
    if file.private_data is None:              # the open failed before it had a terminal
        return
    tty = file_tty(file)
    check_tty_count(tty)
    idx = tty.index
    o_tty = None
    if tty.driver.type == TTY_DRIVER_TYPE_PTY and tty.driver.subtype == PTY_TYPE_MASTER:
        o_tty = tty.link
    tty.ops.close(tty, file)
    if o_tty is not None:
        o_tty.count -= 1
    tty.count -= 1
    tty_del_file(file)
    if not tty.count:
        session_clear_tty(tty.session)
        if o_tty is not None:
            session_clear_tty(o_tty.session)
    if not tty.count and (o_tty is None or not o_tty.count):
        tty_release_struct(tty, idx)


# ---- read, write, poll -----------------------------------------------------------------------------------------
@may_sleep
def tty_read(iocb: Kiocb, to: IovIter) -> int:
    """file_operations.read_iter. Errors: EIO, and the line discipline's."""
    file = iocb.ki_filp
    tty = file_tty(file)
    if tty_io_error(tty):
        raise KernelError(EIO)
    ld = tty_ldisc_ref_wait(tty)
    if ld is None:
        return hung_up_tty_read(iocb, to)
    if tty.ops.claim is not None:
        tty.ops.claim(tty)
    count = ld.read(tty, file, to)
    if count > 0:
        inode = file.f_inode
        inode.i_atime = tty_update_time(ktime_get_real(), inode.i_atime)
    return count


def tty_write_unlock(tty: TtyStruct) -> None:
    mutex_unlock(tty.atomic_write_lock)
    wake_up_interruptible_poll(tty.write_wait, POLLOUT)


def tty_write_lock(tty: TtyStruct, ndelay: int) -> None:
    """One writer at a time. Errors: EAGAIN; Restart."""
    if not mutex_trylock(tty.atomic_write_lock):
        if ndelay:
            raise KernelError(EAGAIN)
        try:
            mutex_lock_interruptible(tty.atomic_write_lock)
        except KernelError:
            raise Restart from None


@notrace
def tty_is_writelocked(tty: TtyStruct) -> bool:
    return bool(mutex_is_locked(tty.atomic_write_lock))


@notrace
@may_sleep
def do_tty_write(tty: TtyStruct, file: File, source: IovIter) -> int:
    """Copies in pieces of 2 KB, so that a long write can be interrupted. Errors: EFAULT and the discipline's."""
    ld = tty.ldisc
    assert ld is not None
    tty_write_lock(tty, file.f_flags & O_NONBLOCK)
    written = 0
    try:
        chunk = 65536 if tty.flags & TTY_NO_WRITE_SPLIT else 2048
        count = source.count
        while count:
            data = source.copy_from_iter(count if count < chunk else chunk)
            if not data:
                raise KernelError(EFAULT)
            ret = ld.write(tty, file, data)
            if ret < len(data):
                source.revert(len(data) - ret)
            if not ret:
                break
            written += ret
            count -= ret
            if not count:
                break
            if signal_pending(current()):
                raise Restart
            cond_resched()
    except KernelError:
        if not written:
            raise
    finally:
        if written:
            inode = file.f_inode
            inode.i_mtime = tty_update_time(ktime_get_real(), inode.i_mtime)
        tty_write_unlock(tty)
    return written


@may_sleep
def tty_write(iocb: Kiocb, source: IovIter) -> int:
    """file_operations.write_iter. Errors: EIO, and the line discipline's."""
    file = iocb.ki_filp
    tty = file_tty(file)
    if tty_io_error(tty):
        raise KernelError(EIO)
    ld = tty_ldisc_ref_wait(tty)
    if ld is None:
        return hung_up_tty_write(iocb, source)
    return do_tty_write(tty, file, source)


@may_sleep
def redirected_tty_write(iocb: Kiocb, source: IovIter) -> int:
    """write_iter of /dev/console: goes to where TIOCCONS says, if it was used."""
    redirect = current().kernel.tty.redirect
    if redirect is not None:
        iocb.ki_filp = redirect
    return tty_write(iocb, source)


def tty_fasync(fd: int, file: File, on: int) -> None:
    """file_operations.fasync: SIGIO for the foreground, or the caller if there is none, unless F_SETOWN said who."""
    if file.private_data is None:
        return
    tty = file_tty(file)
    fasync_helper(fd, file, on, tty.fasync)
    if on and not file.f_owner[1]:
        if tty.pgrp is not None:
            f_setown(file, -tty.pgrp.nr)
        else:
            f_setown(file, task_tgid_vnr(current()))


def tty_poll(file: File, wait: PollTable) -> int:
    """file_operations.poll"""
    tty = file_tty(file)
    ld = tty_ldisc_ref_wait(tty)
    if ld is None:
        return hung_up_tty_poll(file, wait)
    if tty.ops.claim is not None and wait.key & POLLIN:
        tty.ops.claim(tty)
    return ld.poll(tty, file, wait)


# ---- ioctl -----------------------------------------------------------------------------------------------------
@notrace
def tiocsti(tty: TtyStruct, arg: int) -> int:
    """TIOCSTI: as if the byte had been typed. Errors: EPERM, EFAULT."""
    if current().signal.tty is not tty and not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    ch = copy_from_user(arg, 1)
    ld = tty_ldisc_ref_wait(tty)
    if ld is None:
        raise KernelError(EIO)
    ld.receive_buf(tty, ch)
    return 0


@notrace
def tiocgwinsz(tty: TtyStruct, arg: int) -> int:
    """TIOCGWINSZ"""
    copy_to_user(arg, tty.winsize.pack())
    return 0


def tty_do_resize(tty: TtyStruct, ws: Winsize) -> None:
    """The window changed: SIGWINCH for the foreground."""
    if ws == tty.winsize:
        return
    pgrp = tty_get_pgrp(tty)
    if pgrp is not None:
        kill_pgrp(pgrp, SIGWINCH, 1)
    tty.winsize = ws


@notrace
def tiocswinsz(tty: TtyStruct, arg: int) -> int:
    """TIOCSWINSZ"""
    ws = Winsize.unpack(copy_from_user(arg, 8))
    if tty.ops.resize is not None:
        tty.ops.resize(tty, ws)
    else:
        tty_do_resize(tty, ws)
    return 0


@notrace
def tioccons(file: File) -> int:
    """TIOCCONS: console output goes to this terminal; on /dev/console itself: no more. Errors: EPERM, EBUSY."""
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    state = current().kernel.tty
    if file.f_op is state.console_fops:
        state.redirect = None
        return 0
    if state.redirect is not None:
        raise KernelError(EBUSY)
    state.redirect = file
    return 0


@notrace
def tiocsetd(tty: TtyStruct, arg: int) -> int:
    """TIOCSETD. Errors: EINVAL."""
    tty_set_ldisc(tty, get_user_u32(arg))
    return 0


@notrace
def tiocgetd(tty: TtyStruct, arg: int) -> int:
    """TIOCGETD"""
    if tty.ldisc is None:
        raise KernelError(EIO)
    put_user_u32(arg, tty.ldisc.num)
    return 0


@may_sleep
def tty_ioctl(file: File, cmd: int, arg: int) -> int:
    """file_operations.unlocked_ioctl. Errors: ENOTTY for an unknown request."""
    tty = file_tty(file)
    real_tty = tty
    if tty.driver.type == TTY_DRIVER_TYPE_PTY and tty.driver.subtype == PTY_TYPE_MASTER and tty.link is not None:
        real_tty = tty.link
    if cmd in (TIOCSETD, TIOCSBRK, TIOCCBRK, TCSBRK, TCSBRKP):
        tty_check_change(tty)
        if cmd != TIOCCBRK:
            tty_wait_until_sent(tty, MAX_SCHEDULE_TIMEOUT)
    if cmd == TIOCGWINSZ:
        return tiocgwinsz(real_tty, arg)
    if cmd == TIOCSWINSZ:
        return tiocswinsz(real_tty, arg)
    if cmd == TIOCSTI:
        return tiocsti(tty, arg)
    if cmd == TIOCCONS:
        if real_tty is not tty:
            raise KernelError(EINVAL)
        return tioccons(file)
    if cmd == TIOCEXCL:
        tty.flags |= TTY_EXCLUSIVE
        return 0
    if cmd == TIOCNXCL:
        tty.flags &= ~TTY_EXCLUSIVE
        return 0
    if cmd == TIOCGEXCL:
        put_user_u32(arg, 1 if tty.flags & TTY_EXCLUSIVE else 0)
        return 0
    if cmd == TIOCGETD:
        return tiocgetd(tty, arg)
    if cmd == TIOCSETD:
        return tiocsetd(tty, arg)
    if cmd == TIOCVHANGUP:
        if not capable(CAP_SYS_ADMIN):
            raise KernelError(EPERM)
        tty_vhangup(tty)
        return 0
    if cmd == TIOCGDEV:
        put_user_u32(arg, real_tty.devt & 0xFF | real_tty.devt >> 20 << 8 | (real_tty.devt & 0xFFF00) << 12)
        return 0
    if cmd == TIOCGPTPEER:
        raise KernelError(EIO)                 # a master's is in pty.ptmx_ioctl()
    if cmd in (TIOCSBRK, TIOCCBRK, TCSBRK, TCSBRKP):
        return 0                               # no device here has a break to send
    ret = tty_jobctrl_ioctl(tty, real_tty, file, cmd, arg)
    if ret is not None:
        return ret
    if tty.ops.ioctl is not None:
        ret = tty.ops.ioctl(tty, cmd, arg)
        if ret is not None:
            return ret
    ld = tty_ldisc_ref_wait(tty)
    if ld is None:
        return hung_up_tty_ioctl(file, cmd, arg)
    return ld.ioctl(tty, file, cmd, arg)


def tty_show_fdinfo(file: File) -> bytes:
    """/proc/PID/fdinfo: what the driver adds."""
    if tty_hung_up_p(file):
        return b""
    tty = file_tty(file)
    return tty.ops.show_fdinfo(tty) if tty.ops.show_fdinfo is not None else b""


tty_fops = FileOperations(
    read_iter=tty_read, write_iter=tty_write, poll=tty_poll, unlocked_ioctl=tty_ioctl, open=tty_open,
    release=tty_release, show_fdinfo=tty_show_fdinfo, fasync=tty_fasync)
console_fops = FileOperations(
    read_iter=tty_read, write_iter=redirected_tty_write, poll=tty_poll, unlocked_ioctl=tty_ioctl, open=tty_open,
    release=tty_release, fasync=tty_fasync)
hung_up_tty_fops = hung_up_fops(tty_fops)


# ---- registry --------------------------------------------------------------------------------------------------
def tty_register_driver(driver: TtyDriver) -> None:
    """Takes the driver's device numbers; its terminals get nodes in /dev unless they are dynamic."""
    kernel = driver.kernel
    device = MKDEV(driver.major, driver.minor_start)
    register_chrdev_region(kernel, device, driver.num, driver.name)
    cdev_add(kernel, Cdev(tty_fops), device, driver.num)
    kernel.tty.drivers.append(driver)
    if not driver.flags & TTY_DRIVER_DYNAMIC_DEV:
        for index in range(driver.num):
            tty_register_device(driver, index)


def tty_register_device(driver: TtyDriver, index: int) -> None:
    """The node of one terminal."""
    device_create(driver.kernel, driver.kernel.tty.tty_class, None,
                  MKDEV(driver.major, driver.minor_start) + index, tty_line_name(driver, index), 0o600)


@notrace
def tty_io_init(kernel: Kernel) -> None:
    """Makes kernel.tty, /dev/tty and /dev/console. Context: boot, once sysfs and devtmpfs are there."""
    kernel.tty = state = TtyState(kernel)
    state.tty_fops = tty_fops
    state.console_fops = console_fops
    state.hung_up_tty_fops = hung_up_tty_fops
    state.tty_class = class_create(kernel, b"tty")
    for minor, name, mode in ((0, b"tty", 0o666), (1, b"console", 0o600)):
        register_chrdev_region(kernel, MKDEV(TTYAUX_MAJOR, minor), 1, b"/dev/" + name)
        cdev_add(kernel, Cdev(tty_fops if minor == 0 else console_fops), MKDEV(TTYAUX_MAJOR, minor), 1)
        device_create(kernel, state.tty_class, None, MKDEV(TTYAUX_MAJOR, minor), name, mode)
