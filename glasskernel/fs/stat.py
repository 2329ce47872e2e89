"""stat(2), statx(2), readlink(2).

Linux: fs/stat.c (5.3). Same: dev_t encoding, AT_* flags, EINVAL of readlink for what is no link.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Annotated

from glasskernel.arch.x86.uaccess import copy_to_user, strncpy_from_user
from glasskernel.fs.file import fdget_raw
from glasskernel.fs.inode import touch_atime
from glasskernel.fs.mount import path_put
from glasskernel.fs.namei import vfs_readlink
from glasskernel.fs.path_walk import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_NO_AUTOMOUNT,
    AT_SYMLINK_NOFOLLOW,
    LOOKUP_EMPTY,
    LOOKUP_FOLLOW,
    user_path_at_empty,
)
from glasskernel.fs.types import S_IFLNK, S_IFMT, Kstat, Path
from glasskernel.lib.errno import EINVAL, ENOENT, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, s64, u16, u32, u64
from glasskernel.lib.uapi import Layout, uapi

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode

KSTAT_QUERY_FLAGS = 0x6000                 # AT_STATX_SYNC_TYPE
STATX_BASIC_STATS, STATX_BTIME, STATX_MNT_ID, STATX__RESERVED = 0x7FF, 0x800, 0x1000, 0x80000000


@uapi("arch/x86/include/uapi/asm/stat.h", size=144)
class Stat(Layout):
    """struct stat."""

    st_dev: u64
    st_ino: u64
    st_nlink: u64
    st_mode: u32
    st_uid: u32
    st_gid: u32
    pad0: u32
    st_rdev: u64
    st_size: s64
    st_blksize: s64
    st_blocks: s64
    st_atime: u64
    st_atime_nsec: u64
    st_mtime: u64
    st_mtime_nsec: u64
    st_ctime: u64
    st_ctime_nsec: u64
    unused: Annotated[tuple[int, ...], "s64[3]"]


@uapi("include/uapi/linux/stat.h", size=256)
class Statx(Layout):
    """struct statx. Each time is two words: seconds, then nanoseconds in the low half."""

    stx_mask: u32
    stx_blksize: u32
    stx_attributes: u64
    stx_nlink: u32
    stx_uid: u32
    stx_gid: u32
    stx_mode: u16
    spare0: u16
    stx_ino: u64
    stx_size: u64
    stx_blocks: u64
    stx_attributes_mask: u64
    stx_atime: Annotated[tuple[int, ...], "s64[2]"]
    stx_btime: Annotated[tuple[int, ...], "s64[2]"]
    stx_ctime: Annotated[tuple[int, ...], "s64[2]"]
    stx_mtime: Annotated[tuple[int, ...], "s64[2]"]
    stx_rdev_major: u32
    stx_rdev_minor: u32
    stx_dev_major: u32
    stx_dev_minor: u32
    stx_mnt_id: u64
    spare3: Annotated[tuple[int, ...], "u64[13]"]


_STAT: struct.Struct = Stat.STRUCT
_STATX: struct.Struct = Statx.STRUCT
_SPARE = (0,) * 13


@notrace
def new_encode_dev(dev: int) -> int:
    """A dev_t as user space sees it."""
    minor = dev & 0xFFFFF
    return minor & 0xFF | dev >> 20 << 8 | (minor & ~0xFF) << 12


def generic_fillattr(inode: Inode) -> Kstat:
    """What the inode itself says."""
    return Kstat(inode.i_sb.s_dev, inode.i_ino, inode.i_mode, inode.i_nlink, inode.i_uid, inode.i_gid, inode.i_rdev,
                 inode.i_size, inode.i_atime, inode.i_mtime, inode.i_ctime, 0, 1 << inode.i_blkbits, inode.i_blocks)


@may_sleep
def vfs_getattr_nosec(path: Path) -> Kstat:
    """Attributes of a path: ->getattr() or generic_fillattr()."""
    inode = path.dentry.d_inode
    assert inode is not None
    getattr = inode.i_op.getattr
    return generic_fillattr(inode) if getattr is None else getattr(path.dentry, inode)


@may_sleep
@notrace
def vfs_getattr(path: Path) -> Kstat:
    """vfs_getattr_nosec() where a security module has a say. Raises EACCES."""
    path.mnt.mnt_sb.kernel.lsm.security_inode_getattr(path)
    return vfs_getattr_nosec(path)


@may_sleep
def vfs_statx_fd(fd: int) -> Kstat:
    """fstat(2). Raises EBADF."""
    file = fdget_raw(fd)
    return (vfs_getattr_nosec if file.f_security is None else vfs_getattr)(file.f_path)


@may_sleep
def vfs_statx(dfd: int, filename: UserPtr, flags: int) -> tuple[Kstat, int]:
    """(attributes, mount id) of a name in user memory. Raises EINVAL (flags), and what walks raise."""
    if flags & ~(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | KSTAT_QUERY_FLAGS):
        raise KernelError(EINVAL)
    lookup_flags = LOOKUP_FOLLOW
    if flags & AT_SYMLINK_NOFOLLOW:
        lookup_flags = 0
    if flags & AT_EMPTY_PATH:
        lookup_flags |= LOOKUP_EMPTY
    path = user_path_at_empty(dfd, filename, lookup_flags)
    try:
        inode = path.dentry.d_inode
        assert inode is not None
        return (vfs_getattr_nosec if inode.i_security is None else vfs_getattr)(path), path.mnt.mnt_id
    finally:
        path_put(path)


def cp_new_stat(stat: Kstat, statbuf: UserPtr) -> int:
    """Stores struct stat. Raises EFAULT."""
    atime, atime_ns = divmod(stat.atime, 1_000_000_000)
    mtime, mtime_ns = divmod(stat.mtime, 1_000_000_000)
    ctime, ctime_ns = divmod(stat.ctime, 1_000_000_000)
    m64 = 0xFFFF_FFFF_FFFF_FFFF
    copy_to_user(statbuf, _STAT.pack(
        new_encode_dev(stat.dev), stat.ino & m64, stat.nlink, stat.mode, stat.uid & 0xFFFFFFFF,
        stat.gid & 0xFFFFFFFF, 0, new_encode_dev(stat.rdev), stat.size, stat.blksize, stat.blocks,
        atime & m64, atime_ns, mtime & m64, mtime_ns, ctime & m64, ctime_ns, 0, 0, 0))
    return 0


@syscall
def sys_stat(filename: UserPtr, statbuf: UserPtr) -> int:
    """stat(2)."""
    return cp_new_stat(vfs_statx(AT_FDCWD, filename, AT_NO_AUTOMOUNT)[0], statbuf)


@syscall
def sys_lstat(filename: UserPtr, statbuf: UserPtr) -> int:
    """lstat(2)."""
    return cp_new_stat(vfs_statx(AT_FDCWD, filename, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT)[0], statbuf)


@syscall
def sys_fstat(fd: u32, statbuf: UserPtr) -> int:
    """fstat(2)."""
    return cp_new_stat(vfs_statx_fd(fd), statbuf)


@syscall
def sys_newfstatat(dfd: int, filename: UserPtr, statbuf: UserPtr, flag: int) -> int:
    """newfstatat(2). Errors: EINVAL, EBADF, ENOENT, ENOTDIR, EACCES, ELOOP, EFAULT."""
    return cp_new_stat(vfs_statx(dfd, filename, flag | AT_NO_AUTOMOUNT)[0], statbuf)


@syscall
def sys_statx(dfd: int, filename: UserPtr, flags: u32, mask: u32, buffer: UserPtr) -> int:
    """statx(2). Errors: EINVAL (reserved mask bit, both sync flags) and those of newfstatat(2)."""
    if mask & STATX__RESERVED or flags & KSTAT_QUERY_FLAGS == KSTAT_QUERY_FLAGS:
        raise KernelError(EINVAL)
    stat, mnt_id = vfs_statx(dfd, filename, flags)
    return cp_statx(stat, mnt_id, buffer)


def cp_statx(stat: Kstat, mnt_id: int, buffer: UserPtr) -> int:
    """Stores struct statx. Raises EFAULT."""
    mask = STATX_BASIC_STATS | STATX_MNT_ID | (STATX_BTIME if stat.btime else 0)
    copy_to_user(buffer, _STATX.pack(
        mask, stat.blksize, 0, stat.nlink, stat.uid & 0xFFFFFFFF, stat.gid & 0xFFFFFFFF, stat.mode, 0,
        stat.ino & 0xFFFF_FFFF_FFFF_FFFF, stat.size, stat.blocks, 0,
        *divmod(stat.atime, 1_000_000_000), *divmod(stat.btime, 1_000_000_000),
        *divmod(stat.ctime, 1_000_000_000), *divmod(stat.mtime, 1_000_000_000),
        stat.rdev >> 20, stat.rdev & 0xFFFFF, stat.dev >> 20, stat.dev & 0xFFFFF, mnt_id, *_SPARE))
    return 0


@may_sleep
def do_readlinkat(dfd: int, pathname: UserPtr, buf: UserPtr, bufsiz: int) -> int:
    """readlinkat(2). Errors: EINVAL (no link, bufsiz <= 0), ENOENT, and what walks raise."""
    if bufsiz <= 0:
        raise KernelError(EINVAL)
    path = user_path_at_empty(dfd, pathname, LOOKUP_EMPTY)
    try:
        inode = path.dentry.d_inode
        assert inode is not None
        if inode.i_mode & S_IFMT != S_IFLNK:
            raise KernelError(EINVAL if strncpy_from_user(pathname, 1) != b"" else ENOENT)
        touch_atime(path)
        inode = path.dentry.d_inode
        if inode is not None and inode.i_security is not None and (inode.i_op.readlink or inode.i_op.get_link):
            inode.i_sb.kernel.lsm.security_inode_readlink(path.dentry)
        return vfs_readlink(path.dentry, buf, bufsiz)
    finally:
        path_put(path)


@syscall
def sys_readlinkat(dfd: int, pathname: UserPtr, buf: UserPtr, bufsiz: int) -> int:
    """readlinkat(2)."""
    return do_readlinkat(dfd, pathname, buf, bufsiz)


@syscall
def sys_readlink(path: UserPtr, buf: UserPtr, bufsiz: int) -> int:
    """readlink(2)."""
    return do_readlinkat(AT_FDCWD, path, buf, bufsiz)
