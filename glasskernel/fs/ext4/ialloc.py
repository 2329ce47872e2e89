"""Inodes on disk: their bitmaps, freeing one, choosing the group of a new one.

Linux: fs/ext4/ialloc.c (5.3), ext4_clear_inode() of super.c; making a new inode is ialloc_new.py.
Same: the Orlov allocator for directories, hashed group search, itable_unused with checksums, uninit groups.
Gaps: the recently-deleted rule (an inode number is reused at once), lazy zeroing while inodes are allocated.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.blk_types import REQ_META, REQ_OP_READ, REQ_PRIO
from glasskernel.fs.buffer import invalidate_inode_buffers, sb_getblk
from glasskernel.fs.buffer_head import (
    buffer_uptodate,
    buffer_verified,
    get_bh,
    put_bh,
    set_buffer_uptodate,
    set_buffer_verified,
)
from glasskernel.fs.buffer_io import lock_buffer, submit_bh, unlock_buffer, wait_on_buffer
from glasskernel.fs.ext4.balloc import (
    bitmap_uptodate,
    clear_bit,
    ext4_end_bitmap_read,
    ext4_free_group_clusters,
    ext4_free_inodes_count,
    ext4_free_inodes_set,
    ext4_get_group_desc,
    ext4_group_desc_csum_set,
    ext4_has_group_desc_csum,
    ext4_inode_bitmap,
    ext4_inode_bitmap_csum_set,
    ext4_inode_bitmap_csum_verify,
    ext4_mark_bitmap_end,
    ext4_used_dirs_count,
    ext4_used_dirs_set,
    set_bitmap_uptodate,
    test_bit,
)
from glasskernel.fs.ext4.errors import (
    EFSBADCRC,
    EFSCORRUPTED,
    ext4_error,
    ext4_mark_group_bitmap_corrupted,
    ext4_std_error,
)
from glasskernel.fs.ext4.ext4_jbd2 import Handle, ext4_handle_dirty_metadata, ext4_journal_get_write_access
from glasskernel.fs.ext4.extents_status import ext4_es_remove_extent
from glasskernel.fs.ext4.hash import DxHashInfo, ext4fs_dirhash
from glasskernel.fs.ext4.mballoc import ext4_discard_preallocations
from glasskernel.fs.ext4.types import (
    EXT4_BG_INODE_UNINIT,
    EXT4_GROUP_INFO_IBITMAP_CORRUPT,
    EXT4_I,
    EXT4_SB,
    EXT4_TOPDIR_FL,
    EXT_MAX_BLOCKS,
    ext4_blocks_count,
)
from glasskernel.fs.jbd2.journal import jbd2_journal_release_jbd_inode
from glasskernel.fs.types import S_IFDIR, S_IFMT
from glasskernel.lib.errno import EIO, ENOMEM, ENOSPC, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.types import Inode, SuperBlock


# ---- bitmaps -----------------------------------------------------------------------------------------------
@may_sleep
def ext4_validate_inode_bitmap(sb: SuperBlock, desc: object, block_group: int, bh: BufferHead) -> None:
    """Raises EFSBADCRC, EFSCORRUPTED."""
    if buffer_verified(bh):
        return
    sbi = EXT4_SB(sb)
    if sbi.s_group_info and sbi.s_group_info[block_group].bb_state & EXT4_GROUP_INFO_IBITMAP_CORRUPT:
        raise KernelError(EFSCORRUPTED)
    if not ext4_inode_bitmap_csum_verify(sb, block_group, desc, bh, sbi.s_inodes_per_group // 8):  # type: ignore[arg-type]
        ext4_error(sb, f"Corrupt inode bitmap - block_group = {block_group}, inode_bitmap = {bh.b_blocknr}")
        ext4_mark_group_bitmap_corrupted(sb, block_group, EXT4_GROUP_INFO_IBITMAP_CORRUPT)
        raise KernelError(EFSBADCRC)
    set_buffer_verified(bh)


@may_sleep
def ext4_read_inode_bitmap(sb: SuperBlock, block_group: int) -> BufferHead:
    """A group's inode bitmap, with a reference. Raises EIO, EFSCORRUPTED, EFSBADCRC."""
    sbi = EXT4_SB(sb)
    desc, _ = ext4_get_group_desc(sb, block_group)
    bitmap_blk = ext4_inode_bitmap(sb, desc)
    if bitmap_blk <= sbi.s_es.s_first_data_block or bitmap_blk >= ext4_blocks_count(sbi.s_es):
        ext4_error(sb, f"Invalid inode bitmap blk {bitmap_blk} in block_group {block_group}")
        ext4_mark_group_bitmap_corrupted(sb, block_group, EXT4_GROUP_INFO_IBITMAP_CORRUPT)
        raise KernelError(EFSCORRUPTED)
    bh = sb_getblk(sb, bitmap_blk)
    if bh is None:
        raise KernelError(ENOMEM)
    try:
        if not bitmap_uptodate(bh):
            lock_buffer(bh)
            if bitmap_uptodate(bh):
                unlock_buffer(bh)
            elif desc.bg_flags & EXT4_BG_INODE_UNINIT and ext4_has_group_desc_csum(sb):
                data = bh.b_data
                data[:] = bytes(len(data))
                ext4_mark_bitmap_end(sbi.s_inodes_per_group, sb.s_blocksize * 8, data)
                set_bitmap_uptodate(bh)
                set_buffer_uptodate(bh)
                set_buffer_verified(bh)
                unlock_buffer(bh)
                return bh
            elif buffer_uptodate(bh):              # somebody has read the device
                set_bitmap_uptodate(bh)
                unlock_buffer(bh)
            else:
                probe = sb.kernel.tp.ext4_load_inode_bitmap
                if probe is not None:
                    probe(sb, block_group)
                bh.b_end_io = ext4_end_bitmap_read
                get_bh(bh)
                submit_bh(REQ_OP_READ, REQ_META | REQ_PRIO, bh)
                wait_on_buffer(bh)
                if not buffer_uptodate(bh):
                    ext4_error(
                        sb, f"Cannot read inode bitmap - block_group = {block_group}, inode_bitmap = {bitmap_blk}"
                    )
                    ext4_mark_group_bitmap_corrupted(sb, block_group, EXT4_GROUP_INFO_IBITMAP_CORRUPT)
                    raise KernelError(EIO)
        ext4_validate_inode_bitmap(sb, desc, block_group, bh)
    except KernelError:
        put_bh(bh)
        raise
    return bh


@notrace
def find_next_zero_bit(bitmap: memoryview, size: int, start: int) -> int:
    """The first 0 bit from `start` on, or `size`."""
    if start >= size:
        return size
    at = start >> 3
    used = bitmap[at] | (1 << (start & 7)) - 1
    if used == 0xFF:
        rest = bytes(bitmap[at + 1 : size + 7 >> 3])
        free = rest.lstrip(b"\xff")
        if not free:
            return size
        at += 1 + len(rest) - len(free)
        used = free[0]
    return min(at * 8 + (~used & used + 1).bit_length() - 1, size)


@may_sleep
def ext4_count_free_inodes(sb: SuperBlock) -> int:
    return sum(ext4_free_inodes_count(sb, ext4_get_group_desc(sb, i)[0]) for i in range(EXT4_SB(sb).s_groups_count))


@may_sleep
def ext4_count_dirs(sb: SuperBlock) -> int:
    return sum(ext4_used_dirs_count(sb, ext4_get_group_desc(sb, i)[0]) for i in range(EXT4_SB(sb).s_groups_count))


# ---- freeing -----------------------------------------------------------------------------------------------
@may_sleep
def ext4_clear_inode(inode: Inode) -> None:
    """Drops what hangs off an inode in memory."""
    invalidate_inode_buffers(inode)
    ext4_discard_preallocations(inode)
    ext4_es_remove_extent(inode, 0, EXT_MAX_BLOCKS)
    ei = EXT4_I(inode)
    if ei.jinode is not None:
        jbd2_journal_release_jbd_inode(EXT4_SB(inode.i_sb).s_journal, ei.jinode)
        ei.jinode = None


@may_sleep
def ext4_free_inode(handle: Handle, inode: Inode) -> None:
    """The last user of a deleted inode is gone: its number is free. Never raises."""
    sb = inode.i_sb
    sbi = EXT4_SB(sb)
    ino = inode.i_ino
    probe = sb.kernel.tp.ext4_free_inode
    if probe is not None:
        probe(inode)
    is_directory = inode.i_mode & S_IFMT == S_IFDIR
    ext4_clear_inode(inode)
    if ino < sbi.s_first_ino or ino > sbi.s_es.s_inodes_count:
        ext4_error(sb, f"reserved or nonexistent inode {ino}")
        return
    block_group, bit = divmod(ino - 1, sbi.s_inodes_per_group)
    try:
        bitmap_bh = ext4_read_inode_bitmap(sb, block_group)
    except KernelError as e:
        ext4_std_error(sb, e.errno)
        return
    try:
        ext4_journal_get_write_access(handle, bitmap_bh)
        gdp, bh2 = ext4_get_group_desc(sb, block_group)
        ext4_journal_get_write_access(handle, bh2)
        data = bitmap_bh.b_data
        if not test_bit(data, bit):
            ext4_error(sb, f"bit already cleared for inode {ino}")
            ext4_mark_group_bitmap_corrupted(sb, block_group, EXT4_GROUP_INFO_IBITMAP_CORRUPT)
            return
        clear_bit(data, bit)
        ext4_free_inodes_set(sb, gdp, ext4_free_inodes_count(sb, gdp) + 1)
        if is_directory:
            ext4_used_dirs_set(sb, gdp, ext4_used_dirs_count(sb, gdp) - 1)
            sbi.s_dirs_counter -= 1
        ext4_inode_bitmap_csum_set(sb, block_group, gdp, bitmap_bh, sbi.s_inodes_per_group // 8)
        ext4_group_desc_csum_set(sb, block_group, gdp)
        sbi.s_freeinodes_counter += 1
        if sbi.s_log_groups_per_flex:
            flex = sbi.s_flex_groups[block_group >> sbi.s_log_groups_per_flex]
            flex[1] += 1
            if is_directory:
                flex[2] -= 1
        ext4_handle_dirty_metadata(handle, None, bh2)
        ext4_handle_dirty_metadata(handle, None, bitmap_bh)
    except KernelError as e:
        ext4_std_error(sb, e.errno)
    finally:
        put_bh(bitmap_bh)


# ---- choosing a group --------------------------------------------------------------------------------------
@notrace
def get_orlov_stats(sb: SuperBlock, g: int, flex_size: int) -> tuple[int, int, int]:
    """(free inodes, free clusters, directories) of a flex group or group."""
    sbi = EXT4_SB(sb)
    if flex_size > 1:
        clusters, inodes, dirs = sbi.s_flex_groups[g]
        return inodes, clusters, dirs
    desc, _ = ext4_get_group_desc(sb, g)
    return ext4_free_inodes_count(sb, desc), ext4_free_group_clusters(sb, desc), ext4_used_dirs_count(sb, desc)


@may_sleep
def find_group_orlov(sb: SuperBlock, parent: Inode, mode: int, qstr: bytes | None) -> int:
    """The group of a new directory: top level ones are spread, others stay near their parent. Raises ENOSPC."""
    sbi = EXT4_SB(sb)
    parent_group = EXT4_I(parent).i_block_group
    real_ngroups = ngroups = sbi.s_groups_count
    flex_size = 1 << sbi.s_log_groups_per_flex
    if flex_size > 1:
        ngroups = real_ngroups + flex_size - 1 >> sbi.s_log_groups_per_flex
        parent_group >>= sbi.s_log_groups_per_flex
    avefreei = sbi.s_freeinodes_counter // ngroups
    avefreec = sbi.s_freeclusters_counter // ngroups
    ndirs = sbi.s_dirs_counter
    found = -1
    root = sb.s_root.d_inode if sb.s_root is not None else None
    if mode & S_IFMT == S_IFDIR and (parent is root or EXT4_I(parent).i_flags & EXT4_TOPDIR_FL):
        best_ndir = sbi.s_inodes_per_group * flex_size
        if qstr is not None:
            hinfo = DxHashInfo(1, sbi.s_hash_seed)           # DX_HASH_HALF_MD4
            ext4fs_dirhash(qstr, hinfo)
            group = hinfo.hash
        else:
            group = sbi.s_next_generation
        parent_group = group % ngroups
        for i in range(ngroups):
            g = (parent_group + i) % ngroups
            inodes, clusters, dirs = get_orlov_stats(sb, g, flex_size)
            if inodes and dirs < best_ndir and inodes >= avefreei and clusters >= avefreec:
                found, best_ndir = g, dirs
    else:
        max_dirs = ndirs // ngroups + sbi.s_inodes_per_group * flex_size // 16
        min_inodes = max(avefreei - sbi.s_inodes_per_group * flex_size // 4, 1)
        min_clusters = avefreec - sbi.s_clusters_per_group * flex_size // 4
        last = EXT4_I(parent).i_last_alloc_group
        if last >= 0:
            parent_group = last >> sbi.s_log_groups_per_flex if flex_size > 1 else last
        for i in range(ngroups):
            g = (parent_group + i) % ngroups
            inodes, clusters, dirs = get_orlov_stats(sb, g, flex_size)
            if dirs < max_dirs and inodes >= min_inodes and clusters >= min_clusters:
                found = g
                break
    if found >= 0:
        for group in range(found * flex_size, min((found + 1) * flex_size, real_ngroups)):
            if ext4_free_inodes_count(sb, ext4_get_group_desc(sb, group)[0]):
                return group
    parent_group = EXT4_I(parent).i_block_group
    for wanted in (avefreei * ngroups // real_ngroups, 0):
        for i in range(real_ngroups):
            group = (parent_group + i) % real_ngroups
            inodes = ext4_free_inodes_count(sb, ext4_get_group_desc(sb, group)[0])
            if inodes and inodes >= wanted:
                return group
    raise KernelError(ENOSPC)


@may_sleep
def find_group_other(sb: SuperBlock, parent: Inode, mode: int) -> int:
    """The group of a new file: its directory's, or one near it. Raises ENOSPC."""
    sbi = EXT4_SB(sb)
    parent_group = EXT4_I(parent).i_block_group
    ngroups = sbi.s_groups_count
    flex_size = 1 << sbi.s_log_groups_per_flex
    if flex_size > 1:
        parent_group &= ~(flex_size - 1)
        last = min(parent_group + flex_size, ngroups)
        for group in range(parent_group, last):
            if ext4_free_inodes_count(sb, ext4_get_group_desc(sb, group)[0]):
                return group
        parent_group = EXT4_I(parent).i_block_group
    desc, _ = ext4_get_group_desc(sb, parent_group)
    if ext4_free_inodes_count(sb, desc) and ext4_free_group_clusters(sb, desc):
        return parent_group
    group = (parent_group + parent.i_ino) % ngroups
    step = 1
    while step < ngroups:
        group = (group + step) % ngroups
        desc, _ = ext4_get_group_desc(sb, group)
        if ext4_free_inodes_count(sb, desc) and ext4_free_group_clusters(sb, desc):
            return group
        step <<= 1
    for i in range(ngroups):
        group = (parent_group + i) % ngroups
        if ext4_free_inodes_count(sb, ext4_get_group_desc(sb, group)[0]):
            return group
    raise KernelError(ENOSPC)
