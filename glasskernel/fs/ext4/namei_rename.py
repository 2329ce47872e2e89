"""rename(2).

Linux: ext4_rename(), ext4_cross_rename() and the whiteouts of fs/ext4/namei.c (5.3). Same: the order of journalled
    steps, so that at no commit a file has no name; RENAME_NOREPLACE, EXCHANGE and WHITEOUT; auto_da_alloc.
Locks: both directories' i_rwsem, and the files' (VFS).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.buffer_io import brelse
from glasskernel.fs.ext4.dirent import (
    EITHER,
    ext4_handle_dirty_dirblock,
    ext4_handle_dirty_dx_node,
    ext4_read_dirblock,
    unpack_dirent,
)
from glasskernel.fs.ext4.disk import U32
from glasskernel.fs.ext4.errors import EFSCORRUPTED, ext4_error_inode, ext4_std_error
from glasskernel.fs.ext4.ext4_jbd2 import (
    EXT4_DATA_TRANS_BLOCKS,
    EXT4_INDEX_EXTRA_TRANS_BLOCKS,
    Handle,
    ext4_handle_sync,
    ext4_is_dir,
    ext4_journal_get_write_access,
    ext4_journal_start,
    ext4_journal_stop,
)
from glasskernel.fs.ext4.file import ext4_alloc_da_blocks
from glasskernel.fs.ext4.ialloc_new import ext4_new_inode_start_handle
from glasskernel.fs.ext4.inode_loc import ext4_mark_inode_dirty
from glasskernel.fs.ext4.namei import (
    EXT4_DIR_LINK_MAX,
    IS_DIRSYNC,
    Found,
    __ext4_find_entry,
    entry_ino,
    ext4_add_entry,
    ext4_dec_count,
    ext4_delete_entry,
    ext4_empty_dir,
    ext4_inc_count,
    ext4_update_dx_flag,
)
from glasskernel.fs.ext4.orphan import ext4_orphan_add
from glasskernel.fs.ext4.types import (
    EXT4_HT_DIR,
    EXT4_I,
    EXT4_INDEX_FL,
    EXT4_MOUNT_NO_AUTO_DA_ALLOC,
    EXT4_SB,
    ext4_forced_shutdown,
    test_opt,
)
from glasskernel.fs.inode import clear_nlink, current_time, drop_nlink, init_special_inode, iput, unlock_new_inode
from glasskernel.fs.types import S_IFCHR
from glasskernel.lib.errno import EINVAL, EIO, EMLINK, ENOENT, ENOTEMPTY, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.types import Dentry, Inode

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4


@slotted
class Ext4Renament:
    """struct ext4_renament: one side of a rename. dir_bh, dotdot: the entry ".." of a directory that moves."""

    dir: Inode
    dentry: Dentry
    inode: Inode | None
    found: Found | None = None
    is_dir: bool = False
    dir_nlink_delta: int = 0
    dir_bh: BufferHead | None = None
    dotdot: int = 0

    def release(self) -> None:
        if self.found is not None:
            brelse(self.found[0])
        brelse(self.dir_bh)


@may_sleep
def ext4_rename_dir_prepare(handle: Handle, ent: Ext4Renament) -> None:
    """Finds ".." of a directory that gets another parent. Raises EIO, EFSCORRUPTED."""
    inode = ent.inode
    assert inode is not None
    ent.dir_bh = ext4_get_first_dir_block(handle, inode)
    data = ent.dir_bh.b_data
    ent.dotdot = unpack_dirent(data, 0)[1]
    if unpack_dirent(data, ent.dotdot)[0] != ent.dir.i_ino:
        raise KernelError(EFSCORRUPTED)
    ext4_journal_get_write_access(handle, ent.dir_bh)


@notrace
@may_sleep
def ext4_get_first_dir_block(handle: Handle, inode: Inode) -> BufferHead:
    return ext4_read_dirblock(inode, 0, EITHER)


@may_sleep
def ext4_rename_dir_finish(handle: Handle, ent: Ext4Renament, dir_ino: int) -> None:
    """Writes the new parent into ".."."""
    assert ent.dir_bh is not None and ent.inode is not None
    U32.pack_into(ent.dir_bh.b_data, ent.dotdot, dir_ino)
    if EXT4_I(ent.inode).i_flags & EXT4_INDEX_FL:
        ext4_handle_dirty_dx_node(handle, ent.inode, ent.dir_bh)
    else:
        ext4_handle_dirty_dirblock(handle, ent.inode, ent.dir_bh)


@may_sleep
def ext4_setent(handle: Handle, ent: Ext4Renament, ino: int, file_type: int) -> None:
    """An entry points to another inode from now on."""
    assert ent.found is not None
    bh, offset = ent.found
    ext4_journal_get_write_access(handle, bh)
    data = bh.b_data
    U32.pack_into(data, offset, ino)
    if EXT4_SB(ent.dir.i_sb).s_es.s_feature_incompat & 2:
        data[offset + 7] = file_type
    ent.dir.i_version += 1
    ent.dir.i_ctime = ent.dir.i_mtime = current_time(ent.dir)
    ext4_mark_inode_dirty(handle, ent.dir)
    try:
        ext4_handle_dirty_dirblock(handle, ent.dir, bh)
    except KernelError as e:
        ext4_std_error(ent.dir.i_sb, e.errno)
        raise


@may_sleep
def ext4_rename_delete(handle: Handle, ent: Ext4Renament, force_reread: bool) -> None:
    """Removes the old name; adding the new one may have moved it to another block."""
    assert ent.found is not None and ent.inode is not None
    bh, offset = ent.found
    ino, _, name_len, _ = unpack_dirent(bh.b_data, offset)
    name = ent.dentry.d_name
    if (force_reread or ino != ent.inode.i_ino or name_len != len(name)
            or bh.b_data[offset + 8 : offset + 8 + name_len] != name):
        ext4_find_delete_entry(handle, ent.dir, name)
        return
    try:
        ext4_delete_entry(handle, ent.dir, ent.found)
    except KernelError as e:
        if e.errno != ENOENT:
            raise
        ext4_find_delete_entry(handle, ent.dir, name)


@may_sleep
def ext4_find_delete_entry(handle: Handle, dir: Inode, name: bytes) -> None:
    found = __ext4_find_entry(dir, name)
    if found is None:
        raise KernelError(ENOENT)
    try:
        ext4_delete_entry(handle, dir, found)
    finally:
        brelse(found[0])


def ext4_update_dir_count(handle: Handle, ent: Ext4Renament) -> None:
    if ent.dir_nlink_delta == -1:
        ext4_dec_count(handle, ent.dir)
    elif ent.dir_nlink_delta:
        ext4_inc_count(handle, ent.dir)
    if ent.dir_nlink_delta:
        ext4_mark_inode_dirty(handle, ent.dir)


@may_sleep
def ext4_whiteout_for_rename(ent: Ext4Renament, credits: int) -> tuple[Inode, Handle]:
    """A character device 0:0 that will take the old name."""
    inode, handle = ext4_new_inode_start_handle(ent.dir, S_IFCHR, ent.dentry.d_name, EXT4_HT_DIR, credits)
    init_special_inode(inode, S_IFCHR, 0)
    inode.i_op = EXT4_SB(ent.dir.i_sb).s_tables.special_iops
    return inode, handle


@may_sleep
def ext4_rename(old_dir: Inode, old_dentry: Dentry, new_dir: Inode, new_dentry: Dentry, flags: int) -> None:
    """Raises ENOENT, ENOTEMPTY, EMLINK, ENOSPC, EIO, EFSCORRUPTED."""
    old = Ext4Renament(old_dir, old_dentry, old_dentry.d_inode)
    new = Ext4Renament(new_dir, new_dentry, new_dentry.d_inode)
    assert old.inode is not None
    if new.inode is not None and not new.inode.i_nlink:
        ext4_error_inode(new.inode, "target of rename is already freed")
        raise KernelError(EFSCORRUPTED)
    whiteout: Inode | None = None
    try:
        old.found = __ext4_find_entry(old_dir, old_dentry.d_name)
        if old.found is None or entry_ino(old.found) != old.inode.i_ino:
            raise KernelError(ENOENT)
        new.found = __ext4_find_entry(new_dir, new_dentry.d_name)
        if new.found is not None and new.inode is None:
            brelse(new.found[0])
            new.found = None
        if new.inode is not None and not test_opt(EXT4_SB(new_dir.i_sb), EXT4_MOUNT_NO_AUTO_DA_ALLOC):
            ext4_alloc_da_blocks(old.inode)
        credits = 2 * EXT4_DATA_TRANS_BLOCKS(old_dir.i_sb) + EXT4_INDEX_EXTRA_TRANS_BLOCKS + 2
        if flags & RENAME_WHITEOUT:
            whiteout, handle = ext4_whiteout_for_rename(old, credits + 3)
        else:
            handle = ext4_journal_start(old_dir, EXT4_HT_DIR, credits)
        try:
            _rename(handle, old, new, whiteout)
        except KernelError:
            if whiteout is not None:
                drop_nlink(whiteout)
            raise
        finally:
            if whiteout is not None:
                unlock_new_inode(whiteout)
                iput(whiteout)
            ext4_journal_stop(handle)
    finally:
        old.release()
        new.release()


@notrace
@may_sleep
def _rename(handle: Handle, old: Ext4Renament, new: Ext4Renament, whiteout: Inode | None) -> None:
    assert old.inode is not None and old.found is not None
    if IS_DIRSYNC(old.dir) or IS_DIRSYNC(new.dir):
        ext4_handle_sync(handle)
    if ext4_is_dir(old.inode):
        if new.inode is not None:
            if not ext4_empty_dir(new.inode):
                raise KernelError(ENOTEMPTY)
        elif new.dir is not old.dir and EXT4_DIR_LINK_MAX(new.dir):
            raise KernelError(EMLINK)
        ext4_rename_dir_prepare(handle, old)
    old_file_type = unpack_dirent(old.found[0].b_data, old.found[1])[3]
    force_reread = new.dir is old.dir and bool(EXT4_I(new.dir).i_flags & 0x10000000)
    if whiteout is not None:
        ext4_setent(handle, old, whiteout.i_ino, 3)
        ext4_mark_inode_dirty(handle, whiteout)
    if new.found is None:
        ext4_add_entry(handle, new.dentry, old.inode)
    else:
        ext4_setent(handle, new, old.inode.i_ino, old_file_type)
    old.inode.i_ctime = current_time(old.inode)
    ext4_mark_inode_dirty(handle, old.inode)
    if whiteout is None:
        ext4_rename_delete(handle, old, force_reread)
    if new.inode is not None:
        ext4_dec_count(handle, new.inode)
        new.inode.i_ctime = current_time(new.inode)
    old.dir.i_ctime = old.dir.i_mtime = current_time(old.dir)
    ext4_update_dx_flag(old.dir)
    if old.dir_bh is not None:
        ext4_rename_dir_finish(handle, old, new.dir.i_ino)
        ext4_dec_count(handle, old.dir)
        if new.inode is not None:
            clear_nlink(new.inode)                   # ext4_dec_count() leaves a directory with two
        else:
            ext4_inc_count(handle, new.dir)
            ext4_update_dx_flag(new.dir)
            ext4_mark_inode_dirty(handle, new.dir)
    ext4_mark_inode_dirty(handle, old.dir)
    if new.inode is not None:
        ext4_mark_inode_dirty(handle, new.inode)
        if not new.inode.i_nlink:
            ext4_orphan_add(handle, new.inode)


@may_sleep
def ext4_cross_rename(old_dir: Inode, old_dentry: Dentry, new_dir: Inode, new_dentry: Dentry) -> None:
    """RENAME_EXCHANGE."""
    old = Ext4Renament(old_dir, old_dentry, old_dentry.d_inode)
    new = Ext4Renament(new_dir, new_dentry, new_dentry.d_inode)
    assert old.inode is not None
    try:
        old.found = __ext4_find_entry(old_dir, old_dentry.d_name)
        if old.found is None or entry_ino(old.found) != old.inode.i_ino:
            raise KernelError(ENOENT)
        new.found = __ext4_find_entry(new_dir, new_dentry.d_name)
        if new.found is None or new.inode is None or entry_ino(new.found) != new.inode.i_ino:
            raise KernelError(ENOENT)
        handle = ext4_journal_start(old_dir, EXT4_HT_DIR,
                                    2 * EXT4_DATA_TRANS_BLOCKS(old_dir.i_sb) + 2 * EXT4_INDEX_EXTRA_TRANS_BLOCKS + 2)
        try:
            if IS_DIRSYNC(old_dir) or IS_DIRSYNC(new_dir):
                ext4_handle_sync(handle)
            old.is_dir, new.is_dir = ext4_is_dir(old.inode), ext4_is_dir(new.inode)
            for ent in (old, new):
                if ent.is_dir:
                    ext4_rename_dir_prepare(handle, ent)
            if old.dir is not new.dir and old.is_dir != new.is_dir:
                old.dir_nlink_delta = -1 if old.is_dir else 1
                new.dir_nlink_delta = -old.dir_nlink_delta
                if ((old.dir_nlink_delta > 0 and EXT4_DIR_LINK_MAX(old_dir))
                        or (new.dir_nlink_delta > 0 and EXT4_DIR_LINK_MAX(new_dir))):
                    raise KernelError(EMLINK)
            new_file_type = unpack_dirent(new.found[0].b_data, new.found[1])[3]
            old_file_type = unpack_dirent(old.found[0].b_data, old.found[1])[3]
            ext4_setent(handle, new, old.inode.i_ino, old_file_type)
            ext4_setent(handle, old, new.inode.i_ino, new_file_type)
            old.inode.i_ctime = new.inode.i_ctime = current_time(old.inode)
            ext4_mark_inode_dirty(handle, old.inode)
            ext4_mark_inode_dirty(handle, new.inode)
            if old.dir_bh is not None:
                ext4_rename_dir_finish(handle, old, new_dir.i_ino)
            if new.dir_bh is not None:
                ext4_rename_dir_finish(handle, new, old_dir.i_ino)
            ext4_update_dir_count(handle, old)
            ext4_update_dir_count(handle, new)
        finally:
            ext4_journal_stop(handle)
    finally:
        old.release()
        new.release()


@may_sleep
def ext4_rename2(old_dir: Inode, old_dentry: Dentry, new_dir: Inode, new_dentry: Dentry, flags: int) -> None:
    """->rename()."""
    if ext4_forced_shutdown(EXT4_SB(old_dir.i_sb)):
        raise KernelError(EIO)
    if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT):
        raise KernelError(EINVAL)
    if flags & RENAME_EXCHANGE:
        ext4_cross_rename(old_dir, old_dentry, new_dir, new_dentry)
    else:
        ext4_rename(old_dir, old_dentry, new_dir, new_dentry, flags)
