"""utimensat(2) and its older forms.

Linux: fs/utimes.c (5.3). Same: UTIME_NOW, UTIME_OMIT, who may set which time.
"""
from __future__ import annotations

import struct

from glasskernel.arch.x86.uaccess import copy_from_user
from glasskernel.fs.attr import notify_change
from glasskernel.fs.file import fdget
from glasskernel.fs.inode import inode_lock, inode_unlock
from glasskernel.fs.mnt_writers import mnt_drop_write, mnt_want_write
from glasskernel.fs.mount import path_put
from glasskernel.fs.path_walk import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    LOOKUP_EMPTY,
    LOOKUP_FOLLOW,
    user_path_at,
)
from glasskernel.fs.types import (
    ATTR_ATIME,
    ATTR_ATIME_SET,
    ATTR_CTIME,
    ATTR_MTIME,
    ATTR_MTIME_SET,
    ATTR_TIMES_SET,
    ATTR_TOUCH,
    Iattr,
    Path,
)
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace

UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
NSEC_PER_SEC = 1_000_000_000
Times = tuple[tuple[int, int], tuple[int, int]]        # (seconds, ns) of atime and mtime


@may_sleep
def utimes_common(path: Path, times: Times | None) -> None:
    """Sets times of a path; None: both to now. Raises EROFS, EACCES, EPERM."""
    inode = path.dentry.d_inode
    assert inode is not None
    mnt_want_write(path.mnt)
    try:
        attr = Iattr(ATTR_CTIME | ATTR_MTIME | ATTR_ATIME)
        if times is None or times[0][1] == times[1][1] == UTIME_NOW:
            attr.ia_valid |= ATTR_TOUCH
        else:
            (asec, ansec), (msec, mnsec) = times
            if ansec == UTIME_OMIT:
                attr.ia_valid &= ~ATTR_ATIME
            elif ansec != UTIME_NOW:
                attr.ia_atime = asec * NSEC_PER_SEC + ansec
                attr.ia_valid |= ATTR_ATIME_SET
            if mnsec == UTIME_OMIT:
                attr.ia_valid &= ~ATTR_MTIME
            elif mnsec != UTIME_NOW:
                attr.ia_mtime = msec * NSEC_PER_SEC + mnsec
                attr.ia_valid |= ATTR_MTIME_SET
            # not the plain touch that write permission allows
            attr.ia_valid |= ATTR_TIMES_SET
        gran = inode.i_sb.s_time_gran
        attr.ia_atime -= attr.ia_atime % gran
        attr.ia_mtime -= attr.ia_mtime % gran
        inode_lock(inode)
        try:
            notify_change(path.dentry, attr)
        finally:
            inode_unlock(inode)
    finally:
        mnt_drop_write(path.mnt)


@notrace
def nsec_valid(nsec: int) -> bool:
    return nsec in (UTIME_OMIT, UTIME_NOW) or 0 <= nsec < NSEC_PER_SEC


@may_sleep
def do_utimes(dfd: int, filename: UserPtr, times: Times | None, flags: int) -> int:
    """utimensat(2). A NULL name means the descriptor itself. Raises EINVAL, EBADF, and what walks raise."""
    if times is not None and not (nsec_valid(times[0][1]) and nsec_valid(times[1][1])):
        raise KernelError(EINVAL)
    if flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH):
        raise KernelError(EINVAL)
    if not filename and dfd != AT_FDCWD:
        if flags & AT_SYMLINK_NOFOLLOW:
            raise KernelError(EINVAL)
        utimes_common(fdget(dfd).f_path, times)
        return 0
    lookup = 0 if flags & AT_SYMLINK_NOFOLLOW else LOOKUP_FOLLOW
    path = user_path_at(dfd, filename, lookup | (LOOKUP_EMPTY if flags & AT_EMPTY_PATH else 0))
    try:
        utimes_common(path, times)
    finally:
        path_put(path)
    return 0


@syscall
def sys_utimensat(dfd: int, filename: UserPtr, utimes: UserPtr, flags: int) -> int:
    """utimensat(2). Errors: EINVAL, EACCES, EPERM, EROFS, EBADF, ENOENT, EFAULT."""
    times = None
    if utimes:
        asec, ansec, msec, mnsec = struct.unpack("<4q", copy_from_user(utimes, 32))
        if ansec == UTIME_OMIT and mnsec == UTIME_OMIT:
            return 0
        times = ((asec, ansec), (msec, mnsec))
    return do_utimes(dfd, filename, times, flags)


@may_sleep
def do_futimesat(dfd: int, filename: UserPtr, utimes: UserPtr) -> int:
    """futimesat(2): microseconds."""
    times = None
    if utimes:
        asec, ausec, msec, musec = struct.unpack("<4q", copy_from_user(utimes, 32))
        if not 0 <= ausec < 1_000_000 or not 0 <= musec < 1_000_000:
            raise KernelError(EINVAL)
        times = ((asec, ausec * 1000), (msec, musec * 1000))
    return do_utimes(dfd, filename, times, 0)


@syscall
def sys_futimesat(dfd: int, filename: UserPtr, utimes: UserPtr) -> int:
    """futimesat(2)."""
    return do_futimesat(dfd, filename, utimes)


@syscall
def sys_utimes(filename: UserPtr, utimes: UserPtr) -> int:
    """utimes(2)."""
    return do_futimesat(AT_FDCWD, filename, utimes)


@syscall
def sys_utime(filename: UserPtr, times: UserPtr) -> int:
    """utime(2): seconds."""
    both = None
    if times:
        asec, msec = struct.unpack("<2q", copy_from_user(times, 16))
        both = ((asec, 0), (msec, 0))
    return do_utimes(AT_FDCWD, filename, both, 0)
