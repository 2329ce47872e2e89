"""Pseudo terminals: /dev/ptmx and the slaves in /dev/pts.

Linux: drivers/tty/pty.c (5.3), the Unix98 half. Same: what one end writes is input of the other through its flip
buffer (flush_to_ldisc in a worker), 8192 bytes of it; TIOCPKT, the lock, what a close does to the other end, pts
numbers lowest first. Differs: no BSD ptys. Owns: the ptm and pts drivers.
Invariants: ptm.driver_data is the PtsFsInfo that gave the number, pts.driver_data its dentry there;
    TTY_OTHER_CLOSED on one end means that the other is closed (for the master: that no slave is open any more).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import get_user_u32, put_user_u32
from glasskernel.drivers.base.core import device_create
from glasskernel.drivers.tty.tty_buffer import (
    tty_buffer_flush,
    tty_buffer_set_limit,
    tty_buffer_space_avail,
    tty_flip_buffer_push,
    tty_insert_flip_string_fixed_flag,
    tty_port_init,
)
from glasskernel.drivers.tty.tty_flow import packet_status, pty_start, pty_stop, tty_wakeup
from glasskernel.drivers.tty.tty_hangup import tty_vhangup
from glasskernel.drivers.tty.tty_io import (
    alloc_tty_struct,
    file_tty,
    tty_add_file,
    tty_fops,
    tty_init_dev,
    tty_init_termios,
    tty_register_driver,
    tty_release,
)
from glasskernel.drivers.tty.tty_jobctrl import tty_get_pgrp
from glasskernel.drivers.tty.types import (
    CREAD,
    CS8,
    CSIZE,
    EXTPROC,
    IXON,
    PARENB,
    PTY_TYPE_MASTER,
    PTY_TYPE_SLAVE,
    TIOCGPKT,
    TIOCGPTLCK,
    TIOCGPTN,
    TIOCGPTPEER,
    TIOCPKT,
    TIOCPKT_DOSTOP,
    TIOCPKT_FLUSHWRITE,
    TIOCPKT_IOCTL,
    TIOCPKT_NOSTOP,
    TIOCSIG,
    TIOCSPTLCK,
    TTY_DRIVER_DEVPTS_MEM,
    TTY_DRIVER_DYNAMIC_DEV,
    TTY_DRIVER_REAL_RAW,
    TTY_DRIVER_RESET_TERMIOS,
    TTY_DRIVER_TYPE_PTY,
    TTY_IO_ERROR,
    TTY_OTHER_CLOSED,
    TTY_PTY_LOCK,
    TTY_THROTTLED,
    TTYAUX_MAJOR,
    UNIX98_PTY_MASTER_MAJOR,
    UNIX98_PTY_SLAVE_MAJOR,
    VSTART,
    VSTOP,
    Ktermios,
    TtyDriver,
    TtyOperations,
    TtyStruct,
    Winsize,
)
from glasskernel.fs.char_dev import Cdev, cdev_add, register_chrdev_region
from glasskernel.fs.dentry_open import dentry_open, nonseekable_open
from glasskernel.fs.devpts import (
    PtsFsInfo,
    devpts_acquire,
    devpts_get_priv,
    devpts_kill_index,
    devpts_mntget,
    devpts_new_index,
    devpts_pty_kill,
    devpts_pty_new,
    devpts_release,
)
from glasskernel.fs.file import fd_install, get_unused_fd_flags, put_unused_fd
from glasskernel.fs.mount import mntput
from glasskernel.fs.types import MKDEV, FileOperations, Path
from glasskernel.kernel.sched.wait import wake_up_interruptible
from glasskernel.kernel.signal import kill_pgrp
from glasskernel.kernel.signal_types import SIGINT, SIGQUIT, SIGTSTP, SIGWINCH
from glasskernel.lib.errno import EINVAL, EIO, ENODEV, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode
    from glasskernel.init.kernel import Kernel

NR_UNIX98_PTY_MAX = 1 << 20
PTY_BUF_LIMIT = 8192


# ---- both ends --------------------------------------------------------------------------------------------------
def pty_close(tty: TtyStruct, _file: File) -> None:
    """tty_operations.close: tells the other end; a closing master hangs its slave up."""
    if tty.driver.subtype == PTY_TYPE_SLAVE:
        if tty.flags & TTY_IO_ERROR or tty.count > 2:
            return                             # not the last open of the slave
    tty.flags |= TTY_IO_ERROR
    wake_up_interruptible(tty.read_wait)
    wake_up_interruptible(tty.write_wait)
    tty.packet = False
    link = tty.link
    if link is None:
        return
    link.flags |= TTY_OTHER_CLOSED
    wake_up_interruptible(link.read_wait)
    wake_up_interruptible(link.write_wait)
    if tty.driver.subtype == PTY_TYPE_MASTER:
        tty.flags |= TTY_OTHER_CLOSED
        if link.driver_data is not None:
            devpts_pty_kill(link.driver_data)
            link.driver_data = None
        tty_vhangup(link)


def pty_unthrottle(tty: TtyStruct) -> None:
    """tty_operations.unthrottle: this end reads again, the other may write."""
    if tty.link is not None:
        tty_wakeup(tty.link)
    tty.flags |= TTY_THROTTLED                 # so that the next unthrottle comes here again


def pty_write(tty: TtyStruct, data: bytes) -> int:
    """tty_operations.write: input for the other end; answers how many bytes found room."""
    to = tty.link
    if tty.stopped or to is None:
        return 0
    count = tty_insert_flip_string_fixed_flag(to.port, data)
    if count:
        tty_flip_buffer_push(to.port)
    return count


def pty_write_room(tty: TtyStruct) -> int:
    """tty_operations.write_room"""
    if tty.stopped or tty.link is None:
        return 0
    return tty_buffer_space_avail(tty.link.port)


def pty_flush_buffer(tty: TtyStruct) -> None:
    """tty_operations.flush_buffer: forgets what the other end has not received."""
    to = tty.link
    if to is None:
        return
    tty_buffer_flush(to.port)
    if to.packet:
        tty.ctrl_status |= TIOCPKT_FLUSHWRITE
        wake_up_interruptible(to.read_wait)


def pty_open(tty: TtyStruct, _file: File) -> None:
    """tty_operations.open. Errors: EIO while the slave is locked or the other end is closed."""
    link = tty.link
    if link is None:
        raise KernelError(ENODEV)
    if tty.flags & TTY_OTHER_CLOSED or link.flags & TTY_PTY_LOCK \
            or (tty.driver.subtype == PTY_TYPE_SLAVE and link.count != 1):
        tty.flags |= TTY_IO_ERROR
        raise KernelError(EIO)
    tty.flags = tty.flags & ~TTY_IO_ERROR | TTY_THROTTLED
    link.flags &= ~TTY_OTHER_CLOSED


def pty_set_termios(tty: TtyStruct, old: Ktermios) -> None:
    """tty_operations.set_termios: a master in packet mode wants to know some changes."""
    new = tty.termios
    if tty.link is not None and tty.link.packet:
        extproc = (old.c_lflag | new.c_lflag) & EXTPROC
        old_flow = bool(old.c_iflag & IXON) and old.c_cc[VSTOP] == 0o23 and old.c_cc[VSTART] == 0o21
        new_flow = bool(new.c_iflag & IXON) and new.c_cc[VSTOP] == 0o23 and new.c_cc[VSTART] == 0o21
        if old_flow != new_flow:
            packet_status(tty, TIOCPKT_DOSTOP | TIOCPKT_NOSTOP, TIOCPKT_DOSTOP if new_flow else TIOCPKT_NOSTOP)
        if extproc:
            packet_status(tty, 0, TIOCPKT_IOCTL)
    new.c_cflag = new.c_cflag & ~(CSIZE | PARENB) | CS8 | CREAD


def pty_resize(tty: TtyStruct, ws: Winsize) -> None:
    """tty_operations.resize: both ends have one size; SIGWINCH for both foregrounds."""
    if ws == tty.winsize:
        return
    link = tty.link
    assert link is not None
    pgrp = tty_get_pgrp(tty)
    rpgrp = tty_get_pgrp(link)
    if pgrp is not None:
        kill_pgrp(pgrp, SIGWINCH, 1)
    if rpgrp is not None and rpgrp is not pgrp:
        kill_pgrp(rpgrp, SIGWINCH, 1)
    tty.winsize = link.winsize = ws


# ---- ioctls of the master -----------------------------------------------------------------------------------------
@notrace
def pty_set_lock(tty: TtyStruct, arg: int) -> int:
    """TIOCSPTLCK: nonzero: the slave cannot be opened."""
    if get_user_u32(arg):
        tty.flags |= TTY_PTY_LOCK
    else:
        tty.flags &= ~TTY_PTY_LOCK
    return 0


@notrace
def pty_get_lock(tty: TtyStruct, arg: int) -> int:
    put_user_u32(arg, 1 if tty.flags & TTY_PTY_LOCK else 0)
    return 0


@notrace
def pty_set_pktmode(tty: TtyStruct, arg: int) -> int:
    """TIOCPKT: each read begins with a byte that says what happened."""
    if get_user_u32(arg):
        if not tty.packet:
            if tty.link is not None:
                tty.link.ctrl_status = 0
            tty.packet = True
    else:
        tty.packet = False
    return 0


@notrace
def pty_get_pktmode(tty: TtyStruct, arg: int) -> int:
    put_user_u32(arg, 1 if tty.packet else 0)
    return 0


@notrace
def pty_signal(tty: TtyStruct, sig: int) -> int:
    """TIOCSIG: a terminal signal for the slave's foreground. Errors: EINVAL."""
    if sig not in (SIGINT, SIGQUIT, SIGTSTP):
        raise KernelError(EINVAL)
    if tty.link is not None:
        pgrp = tty_get_pgrp(tty.link)
        if pgrp is not None:
            kill_pgrp(pgrp, sig, 1)
    return 0


def pty_unix98_ioctl(tty: TtyStruct, cmd: int, arg: int) -> int | None:
    """tty_operations.ioctl of the master"""
    if cmd == TIOCSPTLCK:
        return pty_set_lock(tty, arg)
    if cmd == TIOCGPTLCK:
        return pty_get_lock(tty, arg)
    if cmd == TIOCPKT:
        return pty_set_pktmode(tty, arg)
    if cmd == TIOCGPKT:
        return pty_get_pktmode(tty, arg)
    if cmd == TIOCGPTN:
        put_user_u32(arg, tty.index)
        return 0
    if cmd == TIOCSIG:
        return pty_signal(tty, arg)
    return None


@may_sleep
def ptm_open_peer(master: File, tty: TtyStruct, flags: int) -> int:
    """TIOCGPTPEER: opens the slave without a path. Errors: EIO, and those of open(2)."""
    if tty.driver.subtype != PTY_TYPE_MASTER or tty.link is None or tty.link.driver_data is None:
        raise KernelError(EIO)
    fd = get_unused_fd_flags(flags)
    mnt = None
    try:
        mnt = devpts_mntget(master, tty.driver_data)
        file = dentry_open(Path(mnt, tty.link.driver_data), flags)
    except KernelError:
        put_unused_fd(fd)
        raise
    finally:
        if mnt is not None:
            mntput(mnt)
    fd_install(fd, file)
    return fd


@notrace
@may_sleep
def ptmx_ioctl(file: File, cmd: int, arg: int) -> int:
    """tty_ioctl() and TIOCGPTPEER, which needs the file."""
    if cmd == TIOCGPTPEER:
        return ptm_open_peer(file, file_tty(file), arg)
    return tty_fops.unlocked_ioctl(file, cmd, arg)


# ---- lookup, install ------------------------------------------------------------------------------------------------
def ptm_unix98_lookup(_driver: TtyDriver, _file: File | None, _idx: int) -> TtyStruct | None:
    """A master is made by /dev/ptmx only. Errors: EIO."""
    raise KernelError(EIO)


def pts_unix98_lookup(_driver: TtyDriver, file: File | None, _idx: int) -> TtyStruct | None:
    """The slave behind a node of devpts. Errors: EIO for a node elsewhere, or whose master is gone."""
    assert file is not None
    tty: TtyStruct | None = devpts_get_priv(file.f_path.dentry)
    if tty is None:
        raise KernelError(EIO)
    return tty


def pty_unix98_install(driver: TtyDriver, tty: TtyStruct) -> None:
    """tty_operations.install of the master: makes the slave, too."""
    assert driver.other is not None
    idx = tty.index
    o_tty = alloc_tty_struct(driver.other, idx)
    tty_init_termios(tty)
    tty_init_termios(o_tty)
    tty.link = o_tty
    o_tty.link = tty
    for end in (o_tty, tty):
        end.port = tty_port_init(driver.kernel)
        tty_buffer_set_limit(end.port, PTY_BUF_LIMIT)
        end.port.itty = end
        end.count += 1


def pty_unix98_remove(_driver: TtyDriver, tty: TtyStruct) -> None:
    """tty_operations.remove: the number is free again."""
    fsi: PtsFsInfo | None = tty.driver_data if tty.driver.subtype == PTY_TYPE_MASTER else None
    if fsi is None and tty.link is not None:
        fsi = tty.link.driver_data
    if fsi is not None:
        devpts_kill_index(fsi, tty.index)
        devpts_release(fsi)


def pty_show_fdinfo(tty: TtyStruct) -> bytes:
    """tty_operations.show_fdinfo of the master"""
    return b"tty-index:\t%d\n" % tty.index


ptm_unix98_ops = TtyOperations(
    write=pty_write, write_room=pty_write_room, lookup=ptm_unix98_lookup, install=pty_unix98_install,
    remove=pty_unix98_remove, open=pty_open, close=pty_close, flush_buffer=pty_flush_buffer,
    unthrottle=pty_unthrottle, ioctl=pty_unix98_ioctl, resize=pty_resize, show_fdinfo=pty_show_fdinfo)
pty_unix98_ops = TtyOperations(
    write=pty_write, write_room=pty_write_room, lookup=pts_unix98_lookup, install=pty_unix98_install,
    remove=pty_unix98_remove, open=pty_open, close=pty_close, flush_buffer=pty_flush_buffer,
    unthrottle=pty_unthrottle, set_termios=pty_set_termios, start=pty_start, stop=pty_stop, resize=pty_resize)


# ---- /dev/ptmx --------------------------------------------------------------------------------------------------
@may_sleep
def ptmx_open(inode: Inode, file: File) -> None:
    """open("/dev/ptmx"): a new pair; the slave's node appears in the devpts that belongs to this ptmx.

    Errors: ENODEV (no devpts there), ENOSPC (too many), ENOMEM.
    """
    kernel = inode.i_sb.kernel
    nonseekable_open(inode, file)
    fsi = devpts_acquire(file)
    try:
        index = devpts_new_index(fsi)
    except KernelError:
        devpts_release(fsi)
        raise
    try:
        tty = tty_init_dev(kernel.tty.ptm_driver, index)
    except KernelError:
        devpts_kill_index(fsi, index)
        devpts_release(fsi)
        raise
    tty.flags |= TTY_PTY_LOCK                  # the slave is locked until unlockpt(3)
    tty.driver_data = fsi
    tty_add_file(tty, file)
    assert tty.link is not None
    try:
        tty.link.driver_data = devpts_pty_new(fsi, index, tty.link)
        tty.ops.open(tty, file)
    except KernelError:
        tty_release(inode, file)
        raise


ptmx_fops = FileOperations(
    read_iter=tty_fops.read_iter, write_iter=tty_fops.write_iter, poll=tty_fops.poll, unlocked_ioctl=ptmx_ioctl,
    open=ptmx_open, release=tty_release, show_fdinfo=tty_fops.show_fdinfo,
    fasync=tty_fops.fasync)


def unix98_pty_init(kernel: Kernel) -> None:
    """Registers the drivers and /dev/ptmx."""
    ptm = TtyDriver(
        driver_name=b"pty_master", name=b"ptm", major=UNIX98_PTY_MASTER_MAJOR, minor_start=0,
        num=NR_UNIX98_PTY_MAX, type=TTY_DRIVER_TYPE_PTY, subtype=PTY_TYPE_MASTER, ops=ptm_unix98_ops, kernel=kernel,
        flags=TTY_DRIVER_RESET_TERMIOS | TTY_DRIVER_REAL_RAW | TTY_DRIVER_DYNAMIC_DEV | TTY_DRIVER_DEVPTS_MEM,
        init_termios=Ktermios(c_iflag=0, c_oflag=0, c_cflag=0o17 | CS8 | CREAD, c_lflag=0))
    pts = TtyDriver(
        driver_name=b"pty_slave", name=b"pts", major=UNIX98_PTY_SLAVE_MAJOR, minor_start=0,
        num=NR_UNIX98_PTY_MAX, type=TTY_DRIVER_TYPE_PTY, subtype=PTY_TYPE_SLAVE, ops=pty_unix98_ops, kernel=kernel,
        flags=TTY_DRIVER_RESET_TERMIOS | TTY_DRIVER_REAL_RAW | TTY_DRIVER_DYNAMIC_DEV | TTY_DRIVER_DEVPTS_MEM,
        init_termios=Ktermios(c_cflag=0o17 | CS8 | CREAD))
    ptm.other = pts
    pts.other = ptm
    kernel.tty.ptm_driver = ptm
    kernel.tty.pts_driver = pts
    tty_register_driver(ptm)
    tty_register_driver(pts)
    device = MKDEV(TTYAUX_MAJOR, 2)
    register_chrdev_region(kernel, device, 1, b"/dev/ptmx")
    cdev_add(kernel, Cdev(ptmx_fops), device, 1)
    device_create(kernel, kernel.tty.tty_class, None, device, b"ptmx", 0o666)


def pty_init(kernel: Kernel) -> None:
    unix98_pty_init(kernel)
