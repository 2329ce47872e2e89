"""Reading directories.

Linux: fs/readdir.c (5.3). Same: record layouts and alignment, EINVAL when not one entry fits, f_pos as the cookie
(d_off: where to go on behind the entry).
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_to_user
from glasskernel.fs.file import fdget_pos, fdput_pos
from glasskernel.fs.fsnotify import IN_ACCESS, fsnotify_dentry
from glasskernel.fs.inode import file_accessed, inode_lock_shared_killable, inode_unlock_shared
from glasskernel.fs.types import MAY_READ, S_DEAD, DirContext, _enotdir
from glasskernel.lib.errno import EFAULT, EINVAL, ENOENT, ENOTDIR, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, u32

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.fs.types import File

_HEAD = struct.Struct("<QqH")              # d_ino, d_off, d_reclen


@may_sleep
def iterate_dir(file: File, ctx: DirContext) -> None:
    """Calls ->iterate() from file.f_pos and stores where it stopped. Raises ENOTDIR, ENOENT (removed)."""
    iterate = file.f_op.iterate
    if iterate is _enotdir:
        raise KernelError(ENOTDIR)
    inode = file.f_inode
    if file.f_security is not None:
        inode.i_sb.kernel.lsm.security_file_permission(file, MAY_READ)
    inode_lock_shared_killable(inode)
    try:
        if inode.i_flags & S_DEAD:
            raise KernelError(ENOENT)
        ctx.pos = file.f_pos
        iterate(file, ctx)
        file.f_pos = ctx.pos
        if inode.i_sb.kernel.vfs.nr_marks:
            fsnotify_dentry(file.f_path.dentry, IN_ACCESS)
        file_accessed(file)
    finally:
        inode_unlock_shared(inode)


class GetdentsCallback:
    """struct getdents_callback: the records gathered so far. The last one's d_off is filled when the next comes."""

    __slots__ = ("count", "ctx", "error", "last", "old_layout", "records")

    def __init__(self, count: int, old_layout: bool) -> None:
        self.count = count
        self.records = bytearray()
        self.last = -1
        self.error = 0
        self.old_layout = old_layout
        emit: Callable[[bytes, int, int], bool] = self.filldir if old_layout else self.filldir64
        self.ctx = DirContext(emit)

    def filldir64(self, name: bytes, ino: int, d_type: int) -> bool:
        """One struct linux_dirent64. False: no room."""
        length = len(name)
        reclen = length + 27 & ~7               # 19 bytes of header, the NUL, up to a multiple of 8
        records = self.records
        if reclen > self.count - len(records):
            self.error = EINVAL
            return False
        if self.last >= 0:
            struct.pack_into("<q", records, self.last + 8, self.ctx.pos)
        self.last = len(records)
        records += _HEAD.pack(ino & 0xFFFF_FFFF_FFFF_FFFF, 0, reclen) + bytes((d_type,)) + name
        records += bytes(self.last + reclen - len(records))
        return True

    def filldir(self, name: bytes, ino: int, d_type: int) -> bool:
        """One struct linux_dirent: d_type in the record's last byte."""
        length = len(name)
        reclen = length + 27 & ~7
        records = self.records
        if reclen > self.count - len(records):
            self.error = EINVAL
            return False
        if self.last >= 0:
            struct.pack_into("<q", records, self.last + 8, self.ctx.pos)
        self.last = len(records)
        records += _HEAD.pack(ino & 0xFFFF_FFFF_FFFF_FFFF, 0, reclen) + name
        records += bytes(self.last + reclen - len(records))
        records[-1] = d_type
        return True


@notrace
def _getdents(fd: int, dirent: UserPtr, count: int, old_layout: bool) -> int:
    file, locked = fdget_pos(fd)
    try:
        if dirent + count > 0x7FFF_FFFF_F000:
            raise KernelError(EFAULT)
        buf = GetdentsCallback(min(count, 0x7FFF_FFFF), old_layout)
        start = file.f_pos
        iterate_dir(file, buf.ctx)
        if buf.last >= 0:
            struct.pack_into("<q", buf.records, buf.last + 8, buf.ctx.pos)
            try:
                copy_to_user(dirent, buf.records)
            except KernelError:
                file.f_pos = start
                raise
            return len(buf.records)
        if buf.error:
            raise KernelError(buf.error)
        return 0
    finally:
        if locked:
            fdput_pos(file, locked)


@may_sleep
def ksys_getdents64(fd: int, dirent: UserPtr, count: int) -> int:
    """getdents64(2)."""
    return _getdents(fd, dirent, count, False)


@syscall
def sys_getdents64(fd: u32, dirent: UserPtr, count: u32) -> int:
    """getdents64(2). Errors: EBADF, ENOTDIR, ENOENT, EINVAL (too small), EFAULT."""
    return ksys_getdents64(fd, dirent, count)


@syscall
def sys_getdents(fd: u32, dirent: UserPtr, count: u32) -> int:
    """getdents(2), the layout without d_type in front."""
    return _getdents(fd, dirent, count, True)
