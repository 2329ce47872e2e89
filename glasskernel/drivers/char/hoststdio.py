"""The host's standard streams as files of the guest, for those that are no terminals.

Not in Linux. fstat(2) says FIFO (a character device where the host has one), isatty(3) no.
Determinism: input counts as always there. poll(2) says POLLIN, and a read(2), O_NONBLOCK or not, freezes the whole
machine in a read of the host until bytes or the end come: virtual time does not pass, so the same input gives the
same run. Writes go straight out, and may freeze the machine as well. Only a host signal (Ctrl-C) gets through: it
is delivered at once, and ends the read if it is for the reader.
Owns: the hoststdio pseudo file system. Gaps: FIONREAD (ENOTTY); the size of a host file.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from glasskernel.drivers.tty.console import hvc_handle_interrupt
from glasskernel.fs.dentry_open import stream_open
from glasskernel.fs.file import fd_install, get_unused_fd_flags
from glasskernel.fs.file_table import alloc_file_pseudo, get_file
from glasskernel.fs.inode import get_next_ino, new_inode_pseudo
from glasskernel.fs.libfs import simple_statfs
from glasskernel.fs.namespace import kern_mount
from glasskernel.fs.open import filp_open
from glasskernel.fs.super import init_pseudo, kill_anon_super
from glasskernel.fs.types import (
    O_ACCMODE,
    O_RDONLY,
    O_RDWR,
    O_WRONLY,
    POLLIN,
    POLLOUT,
    POLLRDNORM,
    POLLWRNORM,
    S_IFCHR,
    S_IFIFO,
    Dentry,
    DentryOperations,
    FileOperations,
    FileSystemType,
    SuperOperations,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import task_pgrp
from glasskernel.kernel.sched.core import schedule_timeout_interruptible, signal_pending
from glasskernel.kernel.signal import send_sig
from glasskernel.kernel.signal_types import SIGPIPE
from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.lib.errno import EFAULT, EIO, EPIPE, KernelError, Restart
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.machine.console import IRQ

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, Kiocb, PollTable
    from glasskernel.init.kernel import Kernel
    from glasskernel.machine.console import HostStream
    from glasskernel.mm.iov_iter import IovIter

HOSTSTDIO_MAGIC: Final = 0x50495045            # PIPEFS_MAGIC: programs ask statfs() what kind of pipe it is
TTY_GID: Final = 5                             # the group "tty" of every distribution
READ_MAX: Final = 1 << 16                      # a pipe holds no more


def hoststdio_open(inode: Inode, file: File) -> None:
    """file_operations.open: also through /proc/self/fd/0."""
    stream_open(inode, file)


@may_sleep
@notrace
def host_signals() -> bool:
    """A host signal ended our call of the host: delivers it; True if it is for the caller."""
    kernel = current().kernel
    kernel.machine.console.poll_host()
    hvc_handle_interrupt(IRQ, kernel.tty.hvc)              # the interrupt itself would come too late for us
    if not signal_pending(current()):
        schedule_timeout_interruptible(1)                  # it was for somebody else: let them run
    return bool(signal_pending(current()))


@may_sleep
def hoststdio_read(iocb: Kiocb, to: IovIter) -> int:
    """file_operations.read_iter: the host's next bytes, 0 at their end. Errors: EIO; Restart on a signal."""
    file = iocb.ki_filp
    stream: HostStream = file.f_inode.i_private
    if not to.count:
        return 0
    while True:
        try:
            data = stream.read(min(to.count, READ_MAX))
        except OSError as e:
            raise KernelError(e.errno or EIO) from None
        if data is not None:
            break
        if host_signals():
            raise Restart
    file.f_inode.i_atime = ktime_get_real()
    return to.copy_to_iter(data) if data else 0


@may_sleep
def hoststdio_write(iocb: Kiocb, source: IovIter) -> int:
    """file_operations.write_iter: all of it. Errors: EPIPE, with SIGPIPE; what the host says."""
    stream: HostStream = iocb.ki_filp.f_inode.i_private
    done = 0
    while source.count:
        data = source.copy_from_iter(min(source.count, READ_MAX))
        if not data:
            if done:
                return done
            raise KernelError(EFAULT)
        try:
            sent = stream.write(data)
        except OSError as e:
            if done:
                return done
            if e.errno == EPIPE:
                send_sig(SIGPIPE, current(), 0)
            raise KernelError(e.errno or EIO) from None
        if sent is None:
            source.revert(len(data))
            if host_signals():
                if done:
                    return done
                raise Restart
            continue
        done += sent
        if sent < len(data):
            source.revert(len(data) - sent)
    iocb.ki_filp.f_inode.i_mtime = ktime_get_real()
    return done


def hoststdio_poll(file: File, _wait: PollTable) -> int:
    """file_operations.poll: always ready, see above."""
    mask = 0
    mode = file.f_flags & O_ACCMODE
    if mode != O_WRONLY:
        mask |= POLLIN | POLLRDNORM
    if mode != O_RDONLY:
        mask |= POLLOUT | POLLWRNORM
    return mask


hoststdio_fops = FileOperations(
    read_iter=hoststdio_read, write_iter=hoststdio_write, poll=hoststdio_poll, open=hoststdio_open)


@notrace
def hoststdio_dname(dentry: Dentry) -> bytes:
    """What readlink(2) of /proc/self/fd/0 says."""
    assert dentry.d_inode is not None
    return b"pipe:[%d]" % dentry.d_inode.i_ino


hoststdio_dops = DentryOperations(d_dname=hoststdio_dname)
hoststdio_sops = SuperOperations(statfs=simple_statfs)


@notrace
def hoststdio_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, _dev: bytes, _data: bytes) -> Dentry:
    return init_pseudo(kernel, fs_type, HOSTSTDIO_MAGIC, hoststdio_sops, hoststdio_dops)


hoststdio_fs_type = FileSystemType(b"hoststdio", hoststdio_mount, kill_anon_super)


def hoststdio_init(kernel: Kernel) -> None:
    """Mounts the pseudo file system. Context: boot."""
    kernel.tty.hoststdio_mnt = kern_mount(kernel, hoststdio_fs_type)


@notrace
def hoststdio_file(kernel: Kernel, stream: HostStream, flags: int, uid: int, gid: int) -> File:
    """An open file for a stream. flags: O_RDONLY or O_WRONLY. uid, gid: its owner. Context: task."""
    mnt = kernel.tty.hoststdio_mnt
    inode = new_inode_pseudo(mnt.mnt_sb)
    inode.i_ino = get_next_ino()
    kind = S_IFCHR if stream.kind() == "chr" else S_IFIFO
    inode.i_mode = kind | 0o600
    inode.i_rdev = 1 << 20 | 3 if kind == S_IFCHR else 0   # of the host's devices a pipe line has /dev/null
    inode.i_uid = uid
    inode.i_gid = gid
    inode.i_fop = hoststdio_fops
    inode.i_private = stream
    inode.i_atime = inode.i_mtime = inode.i_ctime = ktime_get_real()
    file = alloc_file_pseudo(inode, mnt, b"", flags, hoststdio_fops)
    stream_open(inode, file)
    return file


@notrace
def open_stdio(
    kernel: Kernel, streams: tuple[HostStream, HostStream, HostStream], uid: int = 0, gid: int = 0
) -> None:
    """Descriptors 0, 1, 2 of the caller, which has none open yet and leads a new session.

    A stream that is a terminal becomes the console line, and that the session's terminal. uid, gid: who will use
    them; the terminal is given to uid and the group tty, as login(1) does. Host signals are for
    the caller's process group from now on. Context: task. Errors: those of open(2).
    """
    kernel.tty.program = task_pgrp(current())
    console: File | None = None
    for fd, stream in enumerate(streams):
        if stream.isatty():
            if console is None:
                console = filp_open(b"/dev/hvc0", O_RDWR, 0)
                console.f_inode.i_uid = uid
                console.f_inode.i_gid = TTY_GID
                console.f_inode.i_mode = S_IFCHR | 0o620
            else:
                get_file(console)
            file = console
        else:
            file = hoststdio_file(kernel, stream, O_WRONLY if fd else O_RDONLY, uid, gid)
        new = get_unused_fd_flags(0)
        assert new == fd
        fd_install(new, file)
