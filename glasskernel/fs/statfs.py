"""statfs(2), fstatfs(2), ustat(2).

Linux: fs/statfs.c (5.3). Same: f_flags is ST_VALID and the mount's flags.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_to_user
from glasskernel.fs.file import fdget_raw
from glasskernel.fs.mount import path_put
from glasskernel.fs.path_walk import AT_FDCWD, LOOKUP_AUTOMOUNT, LOOKUP_FOLLOW, user_path_at
from glasskernel.fs.super import user_get_super
from glasskernel.fs.types import (
    MNT_NOATIME,
    MNT_NODEV,
    MNT_NODIRATIME,
    MNT_NOEXEC,
    MNT_NOSUID,
    MNT_READONLY,
    MNT_RELATIME,
    SB_MANDLOCK,
    SB_RDONLY,
    SB_SYNCHRONOUS,
)
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, u32

if TYPE_CHECKING:
    from glasskernel.fs.types import Kstatfs, Mount, Path

ST_RDONLY, ST_NOSUID, ST_NODEV, ST_NOEXEC, ST_SYNCHRONOUS, ST_VALID = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20
ST_MANDLOCK, ST_NOATIME, ST_NODIRATIME, ST_RELATIME = 0x40, 0x400, 0x800, 0x1000
_FLAGS = ((MNT_READONLY, ST_RDONLY), (MNT_NOSUID, ST_NOSUID), (MNT_NODEV, ST_NODEV), (MNT_NOEXEC, ST_NOEXEC),
          (MNT_NOATIME, ST_NOATIME), (MNT_NODIRATIME, ST_NODIRATIME), (MNT_RELATIME, ST_RELATIME))
_STATFS = struct.Struct("<7q2i3q32x")           # struct statfs: 120 bytes


@notrace
def calculate_f_flags(mnt: Mount) -> int:
    """ST_* of a mount and its file system."""
    flags = ST_VALID
    for mnt_flag, st_flag in _FLAGS:
        if mnt.mnt_flags & mnt_flag:
            flags |= st_flag
    sb_flags = mnt.mnt_sb.s_flags
    if sb_flags & SB_RDONLY:
        flags |= ST_RDONLY
    if sb_flags & SB_SYNCHRONOUS:
        flags |= ST_SYNCHRONOUS
    if sb_flags & SB_MANDLOCK:
        flags |= ST_MANDLOCK
    return flags


@may_sleep
def statfs_by_dentry(path: Path) -> Kstatfs:
    """->statfs()"""
    dentry = path.dentry
    lsm = dentry.d_sb.kernel.lsm
    if lsm is not None:
        lsm.security_sb_statfs(dentry)
    buf = dentry.d_sb.s_op.statfs(dentry)
    if not buf.f_frsize:
        buf.f_frsize = buf.f_bsize
    return buf


@may_sleep
def vfs_statfs(path: Path) -> Kstatfs:
    """The numbers of the file system that `path` lies in."""
    buf = statfs_by_dentry(path)
    buf.f_flags = calculate_f_flags(path.mnt)
    return buf


@notrace
def do_statfs_native(st: Kstatfs, p: UserPtr) -> int:
    """Stores struct statfs. Raises EFAULT."""
    fsid = st.f_fsid
    m31 = 0x7FFFFFFF
    copy_to_user(p, _STATFS.pack(
        st.f_type, st.f_bsize, st.f_blocks, st.f_bfree, st.f_bavail, st.f_files, st.f_ffree, fsid & m31,
        fsid >> 32 & m31, st.f_namelen, st.f_frsize, st.f_flags))
    return 0


@may_sleep
def user_statfs(pathname: UserPtr) -> Kstatfs:
    """statfs(2) up to copying out."""
    path = user_path_at(AT_FDCWD, pathname, LOOKUP_FOLLOW | LOOKUP_AUTOMOUNT)
    try:
        return vfs_statfs(path)
    finally:
        path_put(path)


@syscall
def sys_statfs(pathname: UserPtr, buf: UserPtr) -> int:
    """statfs(2)."""
    return do_statfs_native(user_statfs(pathname), buf)


@syscall
def sys_fstatfs(fd: u32, buf: UserPtr) -> int:
    """fstatfs(2)."""
    return do_statfs_native(vfs_statfs(fdget_raw(fd).f_path), buf)


@syscall
def sys_ustat(dev: u32, ubuf: UserPtr) -> int:
    """ustat(2). Errors: EINVAL (no such device), EFAULT."""
    device = (dev & 0xFFF00) >> 8 << 20 | dev & 0xFF | dev >> 12 & 0xFFF00
    sb = user_get_super(current().kernel, device)
    if sb is None:
        raise KernelError(EINVAL)
    st = sb.s_op.statfs(sb.s_root)
    copy_to_user(ubuf, struct.pack("<i4xQ12x4x", st.f_bfree & 0x7FFFFFFF, st.f_ffree))
    return 0
