"""The other files of /proc: version, cmdline, filesystems, devices, kmsg, locks, consoles, tty/*.

Linux: fs/proc/version.c, cmdline.c, devices.c, kmsg.c, consoles.c, proc_tty.c, fs/filesystems.c,
    fs/locks.c (5.3).
Owns: nothing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.block.genhd import blkdev_show
from glasskernel.fs.char_dev import chrdev_show
from glasskernel.fs.filesystems import filesystems_proc_show
from glasskernel.fs.locks import F_WRLCK, FL_OFDLCK, FL_POSIX, OFFSET_MAX
from glasskernel.fs.proc.cpuinfo import proc_cpuinfo_init
from glasskernel.fs.proc.generic import (
    proc_create_data,
    proc_create_seq_data,
    proc_create_single_data,
)
from glasskernel.fs.proc.kallsyms import kallsyms_init
from glasskernel.fs.proc.meminfo import proc_meminfo_init
from glasskernel.fs.proc.slabinfo import proc_slabinfo_init
from glasskernel.fs.proc.stat import proc_stat_init
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.seq_file import SeqFile, SeqOperations, seq_printf, seq_puts
from glasskernel.fs.types import O_NONBLOCK, POLLIN, POLLRDNORM, FileOperations
from glasskernel.kernel.current import current
from glasskernel.kernel.printk import (
    SYSLOG_ACTION_CLOSE,
    SYSLOG_ACTION_OPEN,
    SYSLOG_ACTION_SIZE_UNREAD,
    check_syslog_permissions,
    do_syslog,
    syslog_print,
)
from glasskernel.kernel.sched.wait import wait_event_interruptible
from glasskernel.lib.errno import EAGAIN, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.locks import FileLock
    from glasskernel.fs.types import File, Inode, Kiocb, PollTable
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter


def version_proc_show(m: SeqFile, v: Any) -> int | None:
    uts = current().nsproxy.uts_ns
    seq_printf(m, b"%b version %b (glasskernel@localhost) (Python) %b\n", uts.sysname, uts.release, uts.version)
    return None


def cmdline_proc_show(m: SeqFile, v: Any) -> int | None:
    seq_puts(m, current().kernel.params.cmdline.encode(errors="surrogateescape") + b"\n")
    return None


@notrace
def filesystems_show(m: SeqFile, v: Any) -> int | None:
    seq_puts(m, filesystems_proc_show(current().kernel))
    return None


def devinfo_show(m: SeqFile, v: Any) -> int | None:
    """Character devices, then block devices, by major."""
    seq_puts(m, b"Character devices:\n")
    for major, name in chrdev_show(current().kernel):
        seq_printf(m, b"%3d %b\n", major, name)
    seq_puts(m, b"\nBlock devices:\n")
    for major, name in blkdev_show(current().kernel):
        seq_printf(m, b"%3d %b\n", major, name)
    return None


# ---- kmsg ----------------------------------------------------------------------------------------
def kmsg_open(inode: Inode, file: File) -> None:
    """Errors: EPERM without CAP_SYSLOG."""
    do_syslog(SYSLOG_ACTION_OPEN, 0, 0, True)


@may_sleep
def kmsg_read(iocb: Kiocb, to: IovIter) -> int:
    """Takes what was logged since the last read; waits for more. Errors: EAGAIN with O_NONBLOCK."""
    kernel = current().kernel
    if iocb.ki_filp.f_flags & O_NONBLOCK and not do_syslog(SYSLOG_ACTION_SIZE_UNREAD, 0, 0, True):
        raise KernelError(EAGAIN)
    check_syslog_permissions(kernel, SYSLOG_ACTION_CLOSE, True)
    if not to.count:
        return 0
    log = kernel.log
    wait_event_interruptible(log.log_wait, lambda: log.syslog_seq != log.next_seq)
    return to.copy_to_iter(syslog_print(kernel, to.count))


def kmsg_poll(file: File, table: PollTable) -> int:
    if table.queue is not None:
        table.queue(file, current().kernel.log.log_wait)
    return POLLIN | POLLRDNORM if do_syslog(SYSLOG_ACTION_SIZE_UNREAD, 0, 0, True) else 0


proc_kmsg_operations = FileOperations(open=kmsg_open, read_iter=kmsg_read, poll=kmsg_poll, llseek=generic_file_llseek)


# ---- locks ---------------------------------------------------------------------------------------
def locks_start(m: SeqFile) -> Any:
    locks = current().kernel.vfs.file_locks
    return (m.index + 1, locks[m.index]) if m.index < len(locks) else None


def locks_next(m: SeqFile, v: Any) -> Any:
    m.index += 1
    return locks_start(m)


@notrace
def _lock_line(number: int, fl: FileLock, pointer: bytes) -> bytes:
    """lock_get_status()"""
    inode = fl.file.f_inode
    ofd = bool(fl.flags & FL_OFDLCK)
    kind = b"OFDLCK" if ofd else b"POSIX " if fl.flags & FL_POSIX else b"FLOCK "
    end = b"EOF" if fl.end == OFFSET_MAX else b"%d" % fl.end
    dev = inode.i_sb.s_dev
    return b"%d:%b %b ADVISORY  %b %d %02x:%02x:%d %d %b\n" % (
        number, pointer, kind, b"WRITE" if fl.type == F_WRLCK else b"READ ", fl.pid, dev >> 20,
        dev & 0xFFFFF, inode.i_ino, fl.start, end)


def locks_show(m: SeqFile, v: Any) -> int | None:
    """A lock and those who wait for it, proc(5)."""
    number, fl = v
    seq_puts(m, _lock_line(number, fl, b""))
    for waiter in current().kernel.vfs.blocked_locks:
        if waiter.blocker is fl:
            seq_puts(m, _lock_line(number, waiter, b" ->"))
    return None


locks_seq_operations = SeqOperations(locks_start, locks_next, locks_show)


# ---- terminals -----------------------------------------------------------------------------------
def show_console_dev(m: SeqFile, v: Any) -> int | None:
    """The console that /dev/console leads to."""
    tty = getattr(current().kernel, "tty", None)
    if tty is None or tty.console is None:
        return None
    driver, index = tty.console
    name = b"%b%d" % (driver.name, index + driver.name_base)
    seq_printf(m, b"%-21b-W- (EC p  ) %4d:%d\n", name, driver.major, driver.minor_start + index)
    return None


_DRIVER_TYPES = {1: b"system", 2: b"console", 3: b"serial", 4: b"pty"}
_SYSTEM_SUBTYPES = {1: b"/dev/tty", 2: b"console", 3: b"console", 4: b"console"}


def show_tty_driver(m: SeqFile, v: Any) -> int | None:
    """The special ones first, as Linux has them, then the drivers, youngest first."""
    tty = getattr(current().kernel, "tty", None)
    if tty is None:
        return None
    for name, minor, kind in ((b"tty", 0, b"system:/dev/tty"), (b"console", 1, b"system:console"),
                              (b"ptmx", 2, b"system")):
        seq_printf(m, b"%-20b /dev/%-8b %3d %7d %b\n", b"/dev/" + name, name, 5, minor, kind)
    for driver in reversed(tty.drivers):
        last = driver.minor_start + driver.num - 1
        minors = b"%d-%d" % (driver.minor_start, last) if driver.num > 1 else b"%7d" % driver.minor_start
        kind = _DRIVER_TYPES.get(driver.type, b"type:%d" % driver.type)
        if driver.type == 1 and driver.subtype in _SYSTEM_SUBTYPES:
            kind += b":" + _SYSTEM_SUBTYPES[driver.subtype]
        elif driver.type == 4:
            kind += b":master" if driver.subtype == 1 else b":slave"
        seq_printf(m, b"%-20b /dev/%-8b %3d %b %b\n", driver.driver_name, driver.name, driver.major, minors, kind)
    return None


@notrace
def tty_ldiscs_show(m: SeqFile, v: Any) -> int | None:
    tty = getattr(current().kernel, "tty", None)
    if tty is not None:
        for number in sorted(tty.ldiscs):
            seq_printf(m, b"%-10b  %2d\n", tty.ldiscs[number].name, number)
    return None


def execdomains_proc_show(m: SeqFile, v: Any) -> int | None:
    seq_puts(m, b"0-0\tLinux           \t[kernel]\n")
    return None


@notrace
def proc_files_init(kernel: Kernel) -> None:
    """Everything of this file and its neighbours."""
    proc_cpuinfo_init(kernel)
    proc_meminfo_init(kernel)
    proc_slabinfo_init(kernel)
    proc_stat_init(kernel)
    kallsyms_init(kernel)
    for name, show in ((b"version", version_proc_show), (b"cmdline", cmdline_proc_show),
                       (b"filesystems", filesystems_show), (b"devices", devinfo_show),
                       (b"consoles", show_console_dev), (b"execdomains", execdomains_proc_show),
                       (b"tty/drivers", show_tty_driver), (b"tty/ldiscs", tty_ldiscs_show)):
        proc_create_single_data(kernel, name, 0, None, show)
    proc_create_seq_data(kernel, b"locks", 0, None, locks_seq_operations)
    proc_create_data(kernel, b"kmsg", 0o400, None, proc_kmsg_operations, None)
