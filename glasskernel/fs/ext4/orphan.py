"""Files that are deleted but open, or being truncated: a list on disk, so that a crash loses no blocks.

Linux: ext4_orphan_add/del in fs/ext4/namei.c, ext4_orphan_cleanup in super.c (5.3). Same: the list through i_dtime,
    s_last_orphan as its head, newest first.
Owns: sbi.s_orphan, ei.i_orphan. Locks: s_orphan_lock.
Invariant: the on-disk list is s_orphan read backwards.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.buffer_io import brelse
from glasskernel.fs.ext4.errors import ext4_std_error
from glasskernel.fs.ext4.ext4_jbd2 import (
    Handle,
    ext4_handle_dirty_super,
    ext4_handle_valid,
    ext4_journal_get_write_access,
)
from glasskernel.fs.ext4.inode_loc import ext4_mark_iloc_dirty, ext4_reserve_inode_write
from glasskernel.fs.ext4.types import EXT4_I, EXT4_MF_FS_ABORTED, EXT4_SB
from glasskernel.kernel.locking.mutex import mutex_lock, mutex_unlock
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import may_sleep

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode


@may_sleep
def ext4_orphan_add(handle: Handle, inode: Inode) -> None:
    """Puts an inode on the list. Raises EIO."""
    sb = inode.i_sb
    sbi = EXT4_SB(sb)
    ei = EXT4_I(inode)
    if sbi.s_journal is None or ei.i_orphan:
        return
    ext4_journal_get_write_access(handle, sbi.s_sbh)
    iloc = ext4_reserve_inode_write(handle, inode)
    mutex_lock(sbi.s_orphan_lock)
    dirty = False
    if not ei.i_dtime or ei.i_dtime > sbi.s_es.s_inodes_count:
        ei.i_dtime = sbi.s_es.s_last_orphan
        sbi.s_es.s_last_orphan = inode.i_ino
        dirty = True
    sbi.s_orphan[inode] = None
    ei.i_orphan = True
    mutex_unlock(sbi.s_orphan_lock)
    if dirty:
        try:
            ext4_handle_dirty_super(handle, sb)
            ext4_mark_iloc_dirty(handle, inode, iloc)
        except KernelError:
            sbi.s_orphan.pop(inode, None)
            ei.i_orphan = False
            raise
    else:
        brelse(iloc.bh)


@may_sleep
def ext4_orphan_del(handle: Handle | None, inode: Inode) -> None:
    """Takes an inode off the list. handle None: only in memory (the file system is broken)."""
    sb = inode.i_sb
    sbi = EXT4_SB(sb)
    ei = EXT4_I(inode)
    if not ei.i_orphan:
        return
    iloc = None
    failed: KernelError | None = None
    if handle is not None and ext4_handle_valid(handle):
        try:
            iloc = ext4_reserve_inode_write(handle, inode)
        except KernelError as e:
            failed = e
    mutex_lock(sbi.s_orphan_lock)
    try:
        order = list(sbi.s_orphan)
        index = order.index(inode)
        del sbi.s_orphan[inode]
        ei.i_orphan = False
        if iloc is None:
            if failed is not None:
                raise KernelError(failed.errno)
            return
        ino_next = ei.i_dtime
        if index == len(order) - 1:
            ext4_journal_get_write_access(handle, sbi.s_sbh)
            sbi.s_es.s_last_orphan = ino_next
            ext4_handle_dirty_super(handle, sb)
        else:
            previous = order[index + 1]
            iloc2 = ext4_reserve_inode_write(handle, previous)
            EXT4_I(previous).i_dtime = ino_next
            ext4_mark_iloc_dirty(handle, previous, iloc2)
        ei.i_dtime = 0
        done, iloc = iloc, None
        ext4_mark_iloc_dirty(handle, inode, done)
    except KernelError as e:
        if not sbi.s_mount_flags & EXT4_MF_FS_ABORTED:
            ext4_std_error(sb, e.errno)
        raise
    finally:
        mutex_unlock(sbi.s_orphan_lock)
        if iloc is not None:
            brelse(iloc.bh)


