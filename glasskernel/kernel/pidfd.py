"""pidfds: a process as a file descriptor.

Linux: kernel/fork.c (pidfd_fops), kernel/pid.c (pidfd_open), kernel/signal.c (5.3); pidfd_getfd of 5.6.
Same: readable when the process has ended, fdinfo's Pid: line; for pidfd_send_signal() alone, a /proc/PID directory
    does as well.
Owns: files whose f_op is pidfd_fops; private_data is the Pid, on which the file holds a reference.
"""
from __future__ import annotations

from glasskernel.fs.anon_inodes import anon_inode_getfile
from glasskernel.fs.file import fd_install, fdget, get_unused_fd_flags, put_unused_fd
from glasskernel.fs.file_table import fput
from glasskernel.fs.poll import poll_wait
from glasskernel.fs.types import (
    O_CLOEXEC,
    O_NONBLOCK,
    O_RDWR,
    POLLIN,
    POLLRDNORM,
    File,
    FileOperations,
    Inode,
    PollTable,
)
from glasskernel.kernel.pid import (
    PIDTYPE_PID,
    PIDTYPE_TGID,
    Pid,
    find_get_pid,
    get_pid,
    pid_task,
    put_pid,
    thread_group_empty,
)
from glasskernel.kernel.ptrace_access import PTRACE_MODE_ATTACH_REALCREDS, ptrace_may_access
from glasskernel.lib.errno import EBADF, EINVAL, EPERM, ESRCH, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import notrace, u32

PIDFD_NONBLOCK = O_NONBLOCK


def pidfd_release(_inode: Inode, file: File) -> None:
    pid: Pid = file.private_data
    put_pid(pid)


def pidfd_show_fdinfo(file: File) -> bytes:
    """The line of /proc/PID/fdinfo/FD."""
    pid: Pid = file.private_data
    alive = pid_task(pid, PIDTYPE_PID) is not None
    return b"Pid:\t%d\nNSpid:\t%d\n" % ((pid.nr, pid.nr) if alive else (-1, -1))


def pidfd_poll(file: File, pts: PollTable) -> int:
    """Readable once the whole process has ended, reaped or not."""
    pid: Pid = file.private_data
    poll_wait(file, pid.wait_pidfd, pts)
    task = pid_task(pid, PIDTYPE_PID)
    if task is None or (task.exit_state and thread_group_empty(task)):
        return POLLIN | POLLRDNORM
    return 0


pidfd_fops = FileOperations(poll=pidfd_poll, release=pidfd_release, show_fdinfo=pidfd_show_fdinfo)


@notrace
def pidfd_create_file(pid: Pid, flags: int) -> File:
    """An open pidfd without a descriptor yet. Raises ENFILE."""
    return anon_inode_getfile(b"[pidfd]", pidfd_fops, get_pid(pid), flags)


def pidfd_get_pid(fd: int) -> tuple[Pid, bool]:
    """(the process behind a pidfd, is it O_NONBLOCK?). Raises EBADF."""
    file = fdget(fd)
    if file.f_op is not pidfd_fops:
        raise KernelError(EBADF)
    return file.private_data, bool(file.f_flags & O_NONBLOCK)


def pidfd_create(pid: Pid, flags: int) -> int:
    """A new descriptor for a process. Raises EMFILE, ENFILE."""
    fd = get_unused_fd_flags(O_CLOEXEC)
    try:
        file = pidfd_create_file(pid, O_RDWR | flags)
    except KernelError:
        put_unused_fd(fd)
        raise
    fd_install(fd, file)
    return fd


@syscall
def sys_pidfd_open(pid: int, flags: u32) -> int:
    """pidfd_open(2). Errors: EINVAL (no process's leader, flags), ESRCH, EMFILE."""
    if flags & ~PIDFD_NONBLOCK or pid <= 0:
        raise KernelError(EINVAL)
    p = find_get_pid(pid)
    if p is None:
        raise KernelError(ESRCH)
    try:
        if pid_task(p, PIDTYPE_TGID) is None:
            raise KernelError(EINVAL)
        return pidfd_create(p, flags)
    finally:
        put_pid(p)


@syscall
def sys_pidfd_getfd(pidfd: int, fd: int, flags: u32) -> int:
    """pidfd_getfd(2): a copy of another process's descriptor. Errors: EINVAL, EBADF, ESRCH, EPERM, EMFILE."""
    if flags:
        raise KernelError(EINVAL)
    pid, _ = pidfd_get_pid(pidfd)
    task = pid_task(pid, PIDTYPE_PID)
    if task is None or task.files is None:
        raise KernelError(ESRCH)
    if not ptrace_may_access(task, PTRACE_MODE_ATTACH_REALCREDS):
        raise KernelError(EPERM)
    table = task.files.fd
    file = table[fd] if 0 <= fd < len(table) else None
    if file is None:
        raise KernelError(EBADF)
    file.f_count += 1
    try:
        new = get_unused_fd_flags(O_CLOEXEC)
    except KernelError:
        fput(file)
        raise
    fd_install(new, file)
    return new
