"""fsync(2).

Linux: fs/ext4/fsync.c (5.3). Same: data first, then the transaction that has the inode; a flush of the device's cache
    if no commit will send one.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.buffer import sync_mapping_buffers
from glasskernel.fs.dcache import d_find_any_alias, dput
from glasskernel.fs.ext4.ext4_jbd2 import ext4_force_commit, ext4_should_journal_data
from glasskernel.fs.ext4.types import EXT4_I, EXT4_MOUNT_BARRIER, EXT4_SB, ext4_forced_shutdown, test_opt
from glasskernel.fs.fs_writeback import sync_inode_metadata
from glasskernel.fs.inode import inode_lock, inode_unlock
from glasskernel.fs.jbd2.log import jbd2_complete_transaction, jbd2_trans_will_send_data_barrier
from glasskernel.fs.types import I_DIRTY_ALL, I_DIRTY_DATASYNC, SB_RDONLY
from glasskernel.lib.errno import EIO, KernelError
from glasskernel.lib.types import may_sleep
from glasskernel.mm.filemap import file_write_and_wait_range

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode


@may_sleep
def __generic_file_fsync(file: File, start: int, end: int, datasync: int) -> None:
    """Data, the buffers listed with the file, the inode (fs/libfs.c). Raises EIO, ENOSPC."""
    inode = file.f_inode
    file_write_and_wait_range(file, start, end)
    inode_lock(inode)
    try:
        sync_mapping_buffers(inode.i_mapping)
        if inode.i_state & I_DIRTY_ALL and (not datasync or inode.i_state & I_DIRTY_DATASYNC):
            sync_inode_metadata(inode, 1)
    finally:
        inode_unlock(inode)


@may_sleep
def ext4_sync_parent(inode: Inode) -> None:
    """Without a journal a new file's directory is stored with it."""
    dentry = d_find_any_alias(inode)
    if dentry is None:
        return
    parent = dentry.d_parent.d_inode
    dput(dentry)
    if parent is not None and parent is not inode:
        sync_inode_metadata(parent, 1)


@may_sleep
def ext4_sync_file(file: File, start: int, end: int, datasync: int) -> None:
    """->fsync(). Raises EIO, ENOSPC, EROFS."""
    inode = file.f_inode
    sbi = EXT4_SB(inode.i_sb)
    if ext4_forced_shutdown(sbi):
        raise KernelError(EIO)
    tp = inode.i_sb.kernel.tp
    probe = tp.ext4_sync_file_enter
    if probe is not None:
        probe(file, datasync)
    if not inode.i_sb.s_flags & SB_RDONLY:
        journal = sbi.s_journal
        if journal is None:
            __generic_file_fsync(file, start, end, datasync)
            ext4_sync_parent(inode)
            if test_opt(sbi, EXT4_MOUNT_BARRIER):
                inode.i_sb.kernel.vfs.blkdev_issue_flush(inode.i_sb.s_bdev)
        else:
            file_write_and_wait_range(file, start, end)
            if ext4_should_journal_data(inode):
                ext4_force_commit(inode.i_sb)
            else:
                ei = EXT4_I(inode)
                commit_tid = ei.i_datasync_tid if datasync else ei.i_sync_tid
                needs_barrier = (test_opt(sbi, EXT4_MOUNT_BARRIER)
                                 and not jbd2_trans_will_send_data_barrier(journal, commit_tid))
                jbd2_complete_transaction(journal, commit_tid)
                if needs_barrier:
                    inode.i_sb.kernel.vfs.blkdev_issue_flush(inode.i_sb.s_bdev)
    probe = tp.ext4_sync_file_exit
    if probe is not None:
        probe(inode, 0)
