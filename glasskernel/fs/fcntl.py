"""fcntl(2), flock(2).

Linux: fs/fcntl.c, and the system calls of fs/locks.c (5.3). Who is signalled is fcntl_signal.py, locks are locks.py.
Gaps: F_SETLEASE, F_SET_RW_HINT (EINVAL).
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, put_user_u64
from glasskernel.fs.fcntl_signal import F_OWNER_PGRP, __f_setown, f_getown, f_setown
from glasskernel.fs.file import f_dupfd, fdget, fdget_raw, get_close_on_exec, set_close_on_exec
from glasskernel.fs.file_table import fput
from glasskernel.fs.inode import inode_owner_or_capable
from glasskernel.fs.locks import (
    F_RDLCK,
    F_UNLCK,
    F_WRLCK,
    FL_FLOCK,
    FL_OFDLCK,
    FL_POSIX,
    OFFSET_MAX,
    FileLock,
    locks_lock_inode_wait,
    posix_test_lock,
)
from glasskernel.fs.pipe import F_GETPIPE_SZ, F_SETPIPE_SZ, pipe_fcntl
from glasskernel.fs.types import (
    FASYNC,
    FMODE_PATH,
    FMODE_READ,
    FMODE_WRITE,
    O_APPEND,
    O_CLOEXEC,
    O_DIRECT,
    O_NOATIME,
    O_NONBLOCK,
    S_APPEND,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import find_vpid
from glasskernel.lib.errno import EBADF, EINVAL, EOVERFLOW, EPERM, ESRCH, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import may_sleep, notrace, u32, ulong
from glasskernel.mm.shmem import shmem_add_seals, shmem_file_operations, shmem_get_seals

if TYPE_CHECKING:
    from glasskernel.fs.types import File

F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW = range(8)
F_SETOWN, F_GETOWN, F_SETSIG, F_GETSIG, F_SETOWN_EX, F_GETOWN_EX, F_GETOWNER_UIDS = 8, 9, 10, 11, 15, 16, 17
F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW = 36, 37, 38
F_NOTIFY, F_DUPFD_CLOEXEC, F_ADD_SEALS, F_GET_SEALS = 1026, 1030, 1033, 1034
SETFL_MASK = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME
FD_CLOEXEC = 1
LOCK_SH, LOCK_EX, LOCK_NB, LOCK_UN = 1, 2, 4, 8
_FLOCK = struct.Struct("<hh4xqqi4x")


# ---- flags -------------------------------------------------------------------------------------------------
@notrace
def setfl(fd: int, filp: File, arg: int) -> int:
    """F_SETFL. Raises EPERM, EINVAL."""
    inode = filp.f_inode
    if not arg & O_APPEND and filp.f_flags & O_APPEND and inode.i_flags & S_APPEND:
        raise KernelError(EPERM)
    if arg & O_NOATIME and not filp.f_flags & O_NOATIME and not inode_owner_or_capable(inode):
        raise KernelError(EPERM)
    if arg & O_DIRECT and (filp.f_mapping is None or filp.f_mapping.a_ops.direct_IO is None):
        raise KernelError(EINVAL)
    if (arg ^ filp.f_flags) & FASYNC:
        fasync = filp.f_op.fasync
        if fasync is not None:
            fasync(fd, filp, int(bool(arg & FASYNC)))
    mask = SETFL_MASK | FASYNC
    filp.f_flags = arg & mask | filp.f_flags & ~mask
    return 0


# ---- record locks ------------------------------------------------------------------------------------------
def flock_to_posix_lock(filp: File, words: tuple[int, ...], ofd: bool) -> FileLock:
    """A request from a struct flock. Raises EINVAL, EOVERFLOW."""
    l_type, whence, start, length, pid = words
    if whence == 1:
        start += filp.f_pos
    elif whence == 2:
        start += filp.f_inode.i_size
    elif whence != 0:
        raise KernelError(EINVAL)
    if start > OFFSET_MAX:
        raise KernelError(EOVERFLOW)
    if start < 0:
        raise KernelError(EINVAL)
    if length > 0:
        if start + length - 1 > OFFSET_MAX:
            raise KernelError(EOVERFLOW)
        end = start + length - 1
    elif length < 0:
        if start + length < 0:
            raise KernelError(EINVAL)
        end = start - 1
        start += length
    else:
        end = OFFSET_MAX
    if l_type not in (F_RDLCK, F_WRLCK, F_UNLCK):
        raise KernelError(EINVAL)
    task = current()
    if ofd:
        if pid:
            raise KernelError(EINVAL)
        return FileLock(filp, filp, FL_POSIX | FL_OFDLCK, l_type, start, end, -1)
    return FileLock(filp, task.files, FL_POSIX, l_type, start, end, task.tgid)


@may_sleep
def fcntl_setlk(filp: File, cmd: int, words: tuple[int, ...]) -> int:
    """F_SETLK, F_SETLKW and their OFD forms. Raises EBADF, EAGAIN, EDEADLK, EINVAL, Restart."""
    lock = flock_to_posix_lock(filp, words, cmd >= F_OFD_GETLK)
    if lock.type == F_RDLCK and not filp.f_mode & FMODE_READ:
        raise KernelError(EBADF)
    if lock.type == F_WRLCK and not filp.f_mode & FMODE_WRITE:
        raise KernelError(EBADF)
    if filp.f_security is not None:
        filp.f_inode.i_sb.kernel.lsm.security_file_lock(filp)
    filp.f_count += 1
    try:
        locks_lock_inode_wait(filp.f_inode, lock, cmd in (F_SETLKW, F_OFD_SETLKW))
    finally:
        fput(filp)
    return 0


def fcntl_getlk(filp: File, cmd: int, words: tuple[int, ...]) -> bytes:
    """F_GETLK: the lock in the way, or the request with F_UNLCK. Raises EINVAL."""
    if words[0] not in (F_RDLCK, F_WRLCK):
        raise KernelError(EINVAL)
    found = posix_test_lock(filp.f_inode, flock_to_posix_lock(filp, words, cmd >= F_OFD_GETLK))
    if found is None:
        return _FLOCK.pack(F_UNLCK, *words[1:])
    length = 0 if found.end == OFFSET_MAX else found.end - found.start + 1
    return _FLOCK.pack(found.type, 0, found.start, length, found.pid)


# ---- fcntl(2) ----------------------------------------------------------------------------------------------
@notrace
def memfd_fcntl(filp: File, cmd: int, arg: int) -> int:
    """F_ADD_SEALS, F_GET_SEALS. Raises EINVAL for other files, EPERM, EBUSY."""
    if filp.f_op is not shmem_file_operations:
        raise KernelError(EINVAL)
    if cmd == F_GET_SEALS:
        return shmem_get_seals(filp.f_inode)
    if not filp.f_mode & FMODE_WRITE:
        raise KernelError(EPERM)
    if arg >> 32:
        raise KernelError(EINVAL)
    shmem_add_seals(filp.f_inode, arg)
    return 0


@may_sleep
def do_fcntl(fd: int, cmd: int, arg: int, filp: File) -> int:
    """fcntl(2) of an open file."""
    if cmd == F_GETFD:
        return FD_CLOEXEC if get_close_on_exec(fd) else 0
    if cmd == F_SETFD:
        set_close_on_exec(fd, arg & FD_CLOEXEC)
        return 0
    if cmd == F_GETFL:
        return filp.f_flags & ~O_CLOEXEC
    if cmd == F_SETFL:
        return setfl(fd, filp, arg)
    if cmd == F_DUPFD:
        return f_dupfd(arg & 0xFFFFFFFF, filp, 0)
    if cmd == F_DUPFD_CLOEXEC:
        return f_dupfd(arg & 0xFFFFFFFF, filp, O_CLOEXEC)
    if cmd in (F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW):
        return fcntl_setlk(filp, cmd, _FLOCK.unpack(copy_from_user(arg, 32)))
    if cmd in (F_GETLK, F_OFD_GETLK):
        copy_to_user(arg, fcntl_getlk(filp, cmd, _FLOCK.unpack(copy_from_user(arg, 32))))
        return 0
    if cmd in (F_SETPIPE_SZ, F_GETPIPE_SZ):
        return pipe_fcntl(filp, cmd, arg & 0xFFFFFFFF)
    if cmd in (F_ADD_SEALS, F_GET_SEALS):
        return memfd_fcntl(filp, cmd, arg)
    if cmd == F_NOTIFY:
        from glasskernel.fs.dnotify import fcntl_dirnotify

        fcntl_dirnotify(fd, filp, arg)
        return 0
    return fcntl_owner(cmd, arg, filp)


@notrace
def fcntl_owner(cmd: int, arg: int, filp: File) -> int:
    """The commands about SIGIO. Raises EINVAL for anything else."""
    kind, who, signum = filp.f_owner
    if cmd == F_GETOWN:
        return f_getown(filp)
    if cmd == F_SETOWN:
        f_setown(filp, ((arg & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000)
        return 0
    if cmd == F_GETSIG:
        return signum
    if cmd == F_SETSIG:
        if arg > 64:
            raise KernelError(EINVAL)
        filp.f_owner = (kind, who, arg)
        return 0
    if cmd == F_GETOWN_EX:
        copy_to_user(arg, struct.pack("<ii", kind, who))
        return 0
    if cmd == F_SETOWN_EX:
        kind, who = struct.unpack("<ii", copy_from_user(arg, 8))
        if not 0 <= kind <= F_OWNER_PGRP:
            raise KernelError(EINVAL)
        if who and find_vpid(who) is None:
            raise KernelError(ESRCH)
        __f_setown(filp, (kind, who, signum))
        return 0
    if cmd == F_GETOWNER_UIDS:
        put_user_u64(arg, 0)
        return 0
    raise KernelError(EINVAL)


@syscall(gaps="F_SETLEASE, F_NOTIFY, F_SET_RW_HINT")
def sys_fcntl(fd: u32, cmd: u32, arg: ulong) -> int:
    """fcntl(2). Errors: EBADF, EINVAL, EAGAIN, EDEADLK, EMFILE, EPERM, EBUSY, ESRCH, EFAULT, EINTR."""
    filp = fdget_raw(fd)
    if filp.f_mode & FMODE_PATH and cmd not in (F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL):
        raise KernelError(EBADF)
    if filp.f_security is not None:
        filp.f_inode.i_sb.kernel.lsm.security_file_fcntl(filp, cmd, arg)
    return do_fcntl(fd, cmd, arg, filp)


# ---- flock(2) ----------------------------------------------------------------------------------------------
@syscall
def sys_flock(fd: u32, cmd: u32) -> int:
    """flock(2). Errors: EBADF, EINVAL, EWOULDBLOCK, EINTR."""
    filp = fdget(fd)
    wait = not cmd & LOCK_NB
    kind = {LOCK_SH: F_RDLCK, LOCK_EX: F_WRLCK, LOCK_UN: F_UNLCK}.get(cmd & ~LOCK_NB)
    if kind is None:
        raise KernelError(EINVAL)
    if kind != F_UNLCK and not filp.f_mode & (FMODE_READ | FMODE_WRITE):
        raise KernelError(EBADF)
    lock = FileLock(filp, filp, FL_FLOCK, kind, 0, OFFSET_MAX, current().tgid)
    if filp.f_security is not None:
        filp.f_inode.i_sb.kernel.lsm.security_file_lock(filp)
    filp.f_count += 1
    try:
        locks_lock_inode_wait(filp.f_inode, lock, wait)
    finally:
        fput(filp)
    return 0


