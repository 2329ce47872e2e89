"""Making a new inode.

Linux: __ext4_new_inode() in fs/ext4/ialloc.c (5.3). Same: group search, the handle started once a free bit is known,
    the bitmap and descriptor in it, inherited flags, ACLs from the directory's default, i_extra_isize of the super
    block.
Gaps: see ialloc.py.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.buffer_io import brelse
from glasskernel.fs.ext4.acl import ACL_TYPE_DEFAULT, ext4_init_acl, get_acl
from glasskernel.fs.ext4.balloc import (
    ext4_block_bitmap_csum_set,
    ext4_free_group_clusters_set,
    ext4_free_inodes_count,
    ext4_free_inodes_set,
    ext4_get_group_desc,
    ext4_group_desc_csum_set,
    ext4_has_group_desc_csum,
    ext4_inode_bitmap_csum_set,
    ext4_itable_unused_count,
    ext4_itable_unused_set,
    ext4_num_clusters_in_group,
    ext4_read_block_bitmap,
    ext4_used_dirs_count,
    ext4_used_dirs_set,
    set_bit,
    test_bit,
)
from glasskernel.fs.ext4.errors import ext4_error, ext4_std_error
from glasskernel.fs.ext4.ext4_jbd2 import (
    Handle,
    __ext4_journal_start_sb,
    ext4_handle_dirty_metadata,
    ext4_handle_sync,
    ext4_journal_get_write_access,
    ext4_journal_stop_quiet,
)
from glasskernel.fs.ext4.extents import ext4_ext_tree_init
from glasskernel.fs.ext4.ialloc import (
    ext4_read_inode_bitmap,
    find_group_orlov,
    find_group_other,
    find_next_zero_bit,
)
from glasskernel.fs.ext4.inode import ext4_set_inode_flags
from glasskernel.fs.ext4.inode_loc import ext4_mark_inode_dirty
from glasskernel.fs.ext4.types import (
    EXT4_BG_BLOCK_UNINIT,
    EXT4_BG_INODE_UNINIT,
    EXT4_EXTENTS_FL,
    EXT4_FL_INHERITED,
    EXT4_GROUP_INFO_IBITMAP_CORRUPT,
    EXT4_HT_DIR,
    EXT4_I,
    EXT4_MOUNT_GRPID,
    EXT4_OTHER_FLMASK,
    EXT4_REG_FLMASK,
    EXT4_SB,
    EXT4_STATE_NEW,
    INCOMPAT_EXTENTS,
    ext4_forced_shutdown,
    ext4_has_metadata_csum,
    has_incompat,
    test_opt,
)
from glasskernel.fs.ext4.xattr import __ext4_xattr_set_credits
from glasskernel.fs.inode import current_time, inode_init_owner, insert_inode_locked, iput, new_inode
from glasskernel.fs.types import I_CREATING, I_NEW, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_SYNC
from glasskernel.kernel.current import current
from glasskernel.lib.crc32c import crc32c
from glasskernel.lib.errno import EIO, ENOSPC, EPERM, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.machine.costs import NEW_INODE

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode, SuperBlock


@notrace
def ext4_mask_flags(mode: int, flags: int) -> int:
    """The inherited flags that make sense for a kind of file."""
    if mode & S_IFMT == S_IFDIR:
        return flags
    if mode & S_IFMT == S_IFREG:
        return flags & EXT4_REG_FLMASK
    return flags & EXT4_OTHER_FLMASK


@notrace
@may_sleep
def ext4_new_inode_start_handle(dir: Inode, mode: int, qstr: bytes | None, handle_type: int, nblocks: int,
                                i_flags: int = 0) -> tuple[Inode, Handle]:
    return __ext4_new_inode(None, dir, mode, qstr, 0, i_flags, handle_type, nblocks)


@may_sleep
def __ext4_new_inode(handle: Handle, dir: Inode, mode: int, qstr: bytes | None, goal: int, i_flags: int,
                     handle_type: int = EXT4_HT_DIR, nblocks: int = 0) -> tuple[Inode, Handle]:
    """(new inode marked I_NEW with one reference, running handle). Raises ENOSPC, EIO, EROFS, EPERM."""
    if not dir.i_nlink:
        raise KernelError(EPERM)
    sb = dir.i_sb
    sbi = EXT4_SB(sb)
    if ext4_forced_shutdown(sbi):
        raise KernelError(EIO)
    probe = sb.kernel.tp.ext4_request_inode
    if probe is not None:
        probe(dir, mode)
    if handle is None and sbi.s_journal is not None and get_acl(dir, ACL_TYPE_DEFAULT) is not None:
        nblocks += (1 + (mode & S_IFMT == S_IFDIR)) * __ext4_xattr_set_credits()
    lsm = sb.kernel.lsm
    if lsm is not None and handle is None and sbi.s_journal is not None:
        nblocks += __ext4_xattr_set_credits()
    sb.kernel.machine.charge(NEW_INODE)
    inode = new_inode(sb)
    ei = EXT4_I(inode)
    started = handle is None
    try:
        if test_opt(sbi, EXT4_MOUNT_GRPID):
            inode.i_mode = mode
            inode.i_uid = current().cred.fsuid
            inode.i_gid = dir.i_gid
        else:
            inode_init_owner(inode, dir, mode)
        if mode & S_IFMT == S_IFDIR:
            group = find_group_orlov(sb, dir, mode, qstr)
        else:
            group = find_group_other(sb, dir, mode)
        EXT4_I(dir).i_last_alloc_group = group
        handle, group, ino = _claim(handle, sb, inode, group, handle_type, nblocks)
        inode.i_ino = ino + group * sbi.s_inodes_per_group + 1
        inode.i_blocks = 0
        now = current_time(inode)
        inode.i_mtime = inode.i_atime = inode.i_ctime = ei.i_crtime = now
        ei.i_dir_start_lookup = 0
        ei.i_disksize = 0
        ei.i_flags = ext4_mask_flags(mode, EXT4_I(dir).i_flags & EXT4_FL_INHERITED) | i_flags
        ei.i_file_acl = 0
        ei.i_dtime = 0
        ei.i_block_group = group
        ei.i_last_alloc_group = -1
        ext4_set_inode_flags(inode)
        if inode.i_flags & (S_SYNC | 64 * (mode & S_IFMT == S_IFDIR)):
            ext4_handle_sync(handle)
        try:
            insert_inode_locked(inode)
        except KernelError:
            ext4_error(sb, f"failed to insert inode {inode.i_ino}: doubly allocated?")
            inode.i_nlink = 0
            raise KernelError(EIO) from None
        inode.i_generation = int.from_bytes(sb.kernel.machine.random_bytes(4), "little")
        if ext4_has_metadata_csum(sb):
            csum = crc32c(sbi.s_csum_seed, inode.i_ino.to_bytes(4, "little"))
            ei.i_csum_seed = crc32c(csum, inode.i_generation.to_bytes(4, "little"))
        ei.i_state_flags = EXT4_STATE_NEW
        ei.i_extra_isize = sbi.s_want_extra_isize
        try:
            ext4_init_acl(handle, inode, dir)
            if lsm is not None:
                from glasskernel.fs.ext4.xattr_security import ext4_init_security

                ext4_init_security(handle, inode, dir, qstr)
            if has_incompat(sbi, INCOMPAT_EXTENTS) and mode & S_IFMT in (S_IFDIR, S_IFREG, S_IFLNK):
                ei.i_flags |= EXT4_EXTENTS_FL
                ext4_ext_tree_init(handle, inode)
            if handle is not None and getattr(handle, "h_transaction", None) is not None:
                ei.i_sync_tid = ei.i_datasync_tid = handle.h_transaction.t_tid
            ext4_mark_inode_dirty(handle, inode)
        except KernelError as e:
            ext4_std_error(sb, e.errno)
            inode.i_nlink = 0
            inode.i_state &= ~(I_NEW | I_CREATING)
            raise
    except KernelError:
        if inode.i_ino == 0:
            inode.i_nlink = 0
            ei.i_not_allocated = True
        iput(inode)
        if started and handle is not None:
            ext4_journal_stop_quiet(handle)
        raise
    probe = sb.kernel.tp.ext4_allocate_inode
    if probe is not None:
        probe(inode, dir, mode)
    return inode, handle


def find_inode_bit(sb: SuperBlock, bitmap: memoryview, first: int) -> int:
    """The first free inode of a group's bitmap from `first` on; s_inodes_per_group: there is none."""
    return find_next_zero_bit(bitmap, EXT4_SB(sb).s_inodes_per_group, first)


@notrace
@may_sleep
def _claim(handle: Handle, sb: SuperBlock, inode: Inode, group: int, handle_type: int,
           nblocks: int) -> tuple[Handle, int, int]:
    """Takes the first free inode from a group on: (handle, group, bit)."""
    sbi = EXT4_SB(sb)
    ngroups = sbi.s_groups_count
    per_group = sbi.s_inodes_per_group
    for _ in range(ngroups):
        gdp, gd_bh = ext4_get_group_desc(sb, group)
        if not ext4_free_inodes_count(sb, gdp) or sbi.s_group_info[group].bb_state & EXT4_GROUP_INFO_IBITMAP_CORRUPT:
            group = (group + 1) % ngroups
            continue
        try:
            bitmap_bh = ext4_read_inode_bitmap(sb, group)
        except KernelError:
            group = (group + 1) % ngroups
            continue
        try:
            data = bitmap_bh.b_data
            ino = find_inode_bit(sb, data, sbi.s_first_ino - 1 if not group else 0)
            if ino >= per_group:
                group = (group + 1) % ngroups
                continue
            if handle is None:
                handle = __ext4_journal_start_sb(sb, handle_type, nblocks, 0)
            ext4_journal_get_write_access(handle, bitmap_bh)
            if test_bit(data, ino):                  # somebody was faster while we slept
                ino = find_inode_bit(sb, data, ino)
                if ino >= per_group:
                    group = (group + 1) % ngroups
                    continue
            set_bit(data, ino)
            ext4_handle_dirty_metadata(handle, None, bitmap_bh)
            ext4_journal_get_write_access(handle, gd_bh)
            _init_block_bitmap(handle, sb, group)
            if ext4_has_group_desc_csum(sb):
                free = ext4_itable_unused_count(sb, gdp)
                if gdp.bg_flags & EXT4_BG_INODE_UNINIT:
                    gdp.bg_flags &= ~EXT4_BG_INODE_UNINIT
                    free = per_group
                if ino + 1 > per_group - free:
                    ext4_itable_unused_set(sb, gdp, per_group - ino - 1)
            ext4_free_inodes_set(sb, gdp, ext4_free_inodes_count(sb, gdp) - 1)
            is_directory = inode.i_mode & S_IFMT == S_IFDIR
            if is_directory:
                ext4_used_dirs_set(sb, gdp, ext4_used_dirs_count(sb, gdp) + 1)
            ext4_inode_bitmap_csum_set(sb, group, gdp, bitmap_bh, per_group // 8)
            ext4_group_desc_csum_set(sb, group, gdp)
            ext4_handle_dirty_metadata(handle, None, gd_bh)
            sbi.s_freeinodes_counter -= 1
            sbi.s_dirs_counter += is_directory
            if sbi.s_log_groups_per_flex:
                flex = sbi.s_flex_groups[group >> sbi.s_log_groups_per_flex]
                flex[1] -= 1
                flex[2] += is_directory
            return handle, group, ino
        except KernelError as e:
            ext4_std_error(sb, e.errno)
            if handle is not None:
                ext4_journal_stop_quiet(handle)
            raise
        finally:
            brelse(bitmap_bh)
    if handle is not None:
        ext4_journal_stop_quiet(handle)
    raise KernelError(ENOSPC)


@notrace
@may_sleep
def _init_block_bitmap(handle: Handle, sb: SuperBlock, group: int) -> None:
    """The first inode of a group whose block bitmap was never written: it is written now."""
    gdp, _ = ext4_get_group_desc(sb, group)
    if not ext4_has_group_desc_csum(sb) or not gdp.bg_flags & EXT4_BG_BLOCK_UNINIT:
        return
    bh = ext4_read_block_bitmap(sb, group)
    try:
        ext4_journal_get_write_access(handle, bh)
        ext4_handle_dirty_metadata(handle, None, bh)
        if gdp.bg_flags & EXT4_BG_BLOCK_UNINIT:
            gdp.bg_flags &= ~EXT4_BG_BLOCK_UNINIT
            size = ext4_num_clusters_in_group(sb, group)
            used = int.from_bytes(bh.b_data, "little") & (1 << size) - 1
            ext4_free_group_clusters_set(sb, gdp, size - used.bit_count())
            ext4_block_bitmap_csum_set(sb, group, gdp, bh)
            ext4_group_desc_csum_set(sb, group, gdp)
    finally:
        brelse(bh)


