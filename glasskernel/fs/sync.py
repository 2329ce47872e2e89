"""sync(2), fsync(2) and relatives.

Linux: fs/sync.c (5.3).
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.fs.block_dev import iterate_bdevs
from glasskernel.fs.file import fdget
from glasskernel.fs.fs_writeback import (
    WB_REASON_SYNC,
    mark_inode_dirty_sync,
    sync_inodes_sb,
    wakeup_flusher_threads,
)
from glasskernel.fs.super import iterate_supers, sync_filesystem
from glasskernel.fs.types import I_DIRTY_TIME, S_IFBLK, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, SB_RDONLY
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EINVAL, ESPIPE, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import may_sleep, s64, u32
from glasskernel.mm.filemap import (
    __filemap_fdatawrite_range,
    file_fdatawait_range,
    filemap_fdatawait_keep_errors,
    filemap_fdatawrite,
)
from glasskernel.mm.types import WB_SYNC_ALL, WB_SYNC_NONE

if TYPE_CHECKING:
    from glasskernel.block.blk_types import BlockDevice
    from glasskernel.fs.types import File, SuperBlock

SYNC_FILE_RANGE_WAIT_BEFORE, SYNC_FILE_RANGE_WRITE, SYNC_FILE_RANGE_WAIT_AFTER = 1, 2, 4
LLONG_MAX = (1 << 63) - 1


def sync_fs_one_sb(sb: SuperBlock, wait: int) -> None:
    """->sync_fs() of one file system that can be written; wait 0: only started."""
    if not sb.s_flags & SB_RDONLY:
        sb.s_op.sync_fs(sb, wait)


@may_sleep
def sync_inodes_one_sb(sb: SuperBlock) -> None:
    if not sb.s_flags & SB_RDONLY:
        sync_inodes_sb(sb)


@may_sleep
def fdatawrite_one_bdev(bdev: BlockDevice, arg: object) -> None:
    with suppress(KernelError):                    # fsync() will tell
        filemap_fdatawrite(bdev.bd_inode.i_mapping)


@may_sleep
def fdatawait_one_bdev(bdev: BlockDevice, arg: object) -> None:
    filemap_fdatawait_keep_errors(bdev.bd_inode.i_mapping)


@may_sleep
def ksys_sync() -> None:
    """Writes everything that is dirty."""
    kernel = current().kernel
    wakeup_flusher_threads(kernel, WB_REASON_SYNC)
    iterate_supers(kernel, sync_inodes_one_sb)
    iterate_supers(kernel, lambda sb: sync_fs_one_sb(sb, 0))
    iterate_supers(kernel, lambda sb: sync_fs_one_sb(sb, 1))
    iterate_bdevs(kernel, fdatawrite_one_bdev, None)
    iterate_bdevs(kernel, fdatawait_one_bdev, None)


@syscall
def sys_sync() -> int:
    """sync(2)."""
    ksys_sync()
    return 0


@syscall
def sys_syncfs(fd: int) -> int:
    """syncfs(2)."""
    sync_filesystem(fdget(fd).f_path.dentry.d_sb)
    return 0


@may_sleep
def vfs_fsync_range(file: File, start: int, end: int, datasync: int) -> None:
    """->fsync(). Raises EINVAL where there is none, EIO."""
    inode = file.f_inode
    if not datasync and inode.i_state & I_DIRTY_TIME:
        mark_inode_dirty_sync(inode)
    file.f_op.fsync(file, start, end, datasync)


@may_sleep
def vfs_fsync(file: File, datasync: int) -> None:
    """vfs_fsync_range() of everything."""
    vfs_fsync_range(file, 0, LLONG_MAX, datasync)


@may_sleep
def do_fsync(fd: int, datasync: int) -> int:
    """fsync(2)."""
    vfs_fsync(fdget(fd), datasync)
    return 0


@syscall
def sys_fsync(fd: u32) -> int:
    """fsync(2). Errors: EBADF, EINVAL, EIO."""
    return do_fsync(fd, 0)


@syscall
def sys_fdatasync(fd: u32) -> int:
    """fdatasync(2)."""
    return do_fsync(fd, 1)


@may_sleep
def ksys_sync_file_range(fd: int, offset: int, nbytes: int, flags: int) -> int:
    """sync_file_range(2)."""
    if flags & ~7 or offset < 0 or nbytes < 0 or offset + nbytes > LLONG_MAX:
        raise KernelError(EINVAL)
    end = offset + nbytes - 1 if nbytes else LLONG_MAX
    file = fdget(fd)
    if file.f_inode.i_mode & S_IFMT not in (S_IFREG, S_IFBLK, S_IFDIR, S_IFLNK):
        raise KernelError(ESPIPE)
    mapping = file.f_mapping
    if flags & SYNC_FILE_RANGE_WAIT_BEFORE:
        file_fdatawait_range(file, offset, end)
    if flags & SYNC_FILE_RANGE_WRITE:
        all_three = flags & 7 == 7
        __filemap_fdatawrite_range(mapping, offset, end, WB_SYNC_ALL if all_three else WB_SYNC_NONE)
    if flags & SYNC_FILE_RANGE_WAIT_AFTER:
        file_fdatawait_range(file, offset, end)
    return 0


@syscall
def sys_sync_file_range(fd: int, offset: s64, nbytes: s64, flags: u32) -> int:
    """sync_file_range(2). Errors: EBADF, EINVAL, ESPIPE, EIO."""
    return ksys_sync_file_range(fd, offset, nbytes, flags)
