"""The free space of a group in memory.

Linux: the buddy half of fs/ext4/mballoc.c (5.3). Same: what the in-core bitmap holds back (preallocated blocks, blocks
    freed by a transaction that has not committed), bb_counters, bb_fragments, bb_largest_free_order, corrupt bitmaps.
Differs: Linux keeps a buddy bitmap in pages of an inode; here the free runs of a group are two sorted lists, and the
    buddies of a run follow from its start and length. Bitmaps become runs through one big integer.
Owns: Ext4GroupInfo.run_start, run_len, bb_*. Invariants: runs are sorted, do not touch, and sum up to bb_free.
"""
from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from glasskernel.fs.buffer_io import brelse
from glasskernel.fs.ext4.balloc import (
    ext4_free_group_clusters,
    ext4_get_group_desc,
    ext4_group_first_block_no,
    ext4_num_clusters_in_group,
    ext4_read_block_bitmap,
)
from glasskernel.fs.ext4.errors import ext4_grp_locked_error, ext4_mark_group_bitmap_corrupted
from glasskernel.fs.ext4.types import (
    EXT4_GROUP_INFO_BBITMAP_CORRUPT,
    EXT4_GROUP_INFO_NEED_INIT,
    EXT4_SB,
    Ext4GroupInfo,
)
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode, SuperBlock

MB_INODE_PA, MB_GROUP_PA = 0, 1


@slotted
class Ext4FreeExtent:
    """struct ext4_free_extent"""

    fe_logical: int = 0
    fe_group: int = 0
    fe_start: int = 0
    fe_len: int = 0

    def copy(self) -> Ext4FreeExtent:
        return Ext4FreeExtent(self.fe_logical, self.fe_group, self.fe_start, self.fe_len)


@slotted
class Ext4PreallocSpace:
    """struct ext4_prealloc_space: blocks that are taken in the in-core bitmap and free on disk."""

    pa_pstart: int
    pa_lstart: int
    pa_len: int
    pa_free: int
    pa_type: int                       # MB_INODE_PA, MB_GROUP_PA
    pa_inode: Inode | None = None
    pa_count: int = 1
    pa_deleted: bool = False
    pa_lg: Any = None                  # the list of a locality group that has it


@slotted
class Ext4FreeData:
    """struct ext4_free_data: blocks that become free when transaction efd_tid is on disk."""

    efd_group: int
    efd_start_cluster: int
    efd_count: int
    efd_tid: int


# ---- runs and buddies --------------------------------------------------------------------------------------
@notrace
def free_runs(used: int, size: int) -> tuple[list[int], list[int]]:
    """The runs of zero bits of a bitmap of `size` bits: (starts, lengths)."""
    free = ~used & (1 << size) - 1
    starts: list[int] = []
    lengths: list[int] = []
    position = 0
    while free:
        skip = (free & -free).bit_length() - 1
        free >>= skip
        position += skip
        length = (free ^ free + 1).bit_length() - 1
        starts.append(position)
        lengths.append(length)
        free >>= length
        position += length
    return starts, lengths


@notrace
def buddies(start: int, length: int, max_order: int) -> list[tuple[int, int]]:
    """The aligned power-of-two pieces of a run: (start, order)."""
    found = []
    while length:
        order = min(length.bit_length() - 1, max_order)
        if start:
            order = min(order, (start & -start).bit_length() - 1)
        found.append((start, order))
        start += 1 << order
        length -= 1 << order
    return found


@notrace
def max_order(sb: SuperBlock) -> int:
    """The order of the largest buddy."""
    return sb.s_blocksize_bits + 1


@notrace
def _count(sb: SuperBlock, grp: Ext4GroupInfo, start: int, length: int, sign: int) -> None:
    counters = grp.bb_counters
    for _, order in buddies(start, length, max_order(sb)):
        counters[order] += sign


def mb_set_largest_free_order(sb: SuperBlock, grp: Ext4GroupInfo) -> None:
    grp.bb_largest_free_order = -1
    for order in range(max_order(sb), -1, -1):
        if grp.bb_counters[order]:
            grp.bb_largest_free_order = order
            break


@notrace
def run_of(grp: Ext4GroupInfo, block: int) -> int:
    """The index of the run that has `block`, or -1."""
    index = bisect_right(grp.run_start, block) - 1
    if index >= 0 and block < grp.run_start[index] + grp.run_len[index]:
        return index
    return -1


def ext4_mb_generate_buddy(sb: SuperBlock, grp: Ext4GroupInfo, bitmap: int) -> None:
    """Fills a group's runs and counters. A sum that differs from the descriptor's means damage."""
    size = ext4_num_clusters_in_group(sb, grp.bb_group)
    grp.run_start, grp.run_len = free_runs(bitmap, size)
    grp.bb_counters = [0] * (max_order(sb) + 1)
    for start, length in zip(grp.run_start, grp.run_len):
        _count(sb, grp, start, length, 1)
    grp.bb_fragments = len(grp.run_start)
    grp.bb_first_free = grp.run_start[0] if grp.run_start else size
    mb_set_largest_free_order(sb, grp)


@notrace
def ext4_mb_generate_from_pa(sb: SuperBlock, grp: Ext4GroupInfo) -> int:
    """Blocks that are preallocated, as bits."""
    bits = 0
    first = ext4_group_first_block_no(sb, grp.bb_group)
    for pa in grp.bb_prealloc_list:
        bits |= (1 << pa.pa_len) - 1 << pa.pa_pstart - first
    return bits


@notrace
def ext4_mb_generate_from_freelist(grp: Ext4GroupInfo) -> int:
    """Blocks that were freed by a transaction that has not committed, as bits."""
    bits = 0
    for entry in grp.bb_freed:
        bits |= (1 << entry.efd_count) - 1 << entry.efd_start_cluster
    return bits


@may_sleep
def ext4_mb_init_cache(sb: SuperBlock, group: int) -> None:
    """Reads a group's bitmap and makes its runs. Raises EIO, EFSCORRUPTED, EFSBADCRC."""
    grp = EXT4_SB(sb).s_group_info[group]
    bh = ext4_read_block_bitmap(sb, group)
    on_disk = int.from_bytes(bh.b_data, "little")
    brelse(bh)
    if not grp.bb_state & EXT4_GROUP_INFO_NEED_INIT:
        return                                       # somebody was faster
    size = ext4_num_clusters_in_group(sb, group)
    free = size - (on_disk & (1 << size) - 1).bit_count()
    if free != grp.bb_free:
        ext4_grp_locked_error(sb, group, 0, 0, "block bitmap and bg descriptor inconsistent: "
                              f"{free} vs {grp.bb_free} free clusters")
        grp.bb_free = free
        ext4_mark_group_bitmap_corrupted(sb, group, EXT4_GROUP_INFO_BBITMAP_CORRUPT)
    probe = sb.kernel.tp.ext4_mb_bitmap_load
    if probe is not None:
        probe(sb, group)
    in_core = on_disk | ext4_mb_generate_from_pa(sb, grp) | ext4_mb_generate_from_freelist(grp)
    probe = sb.kernel.tp.ext4_mb_buddy_bitmap_load
    if probe is not None:
        probe(sb, group)
    ext4_mb_generate_buddy(sb, grp, in_core)
    grp.bb_free = sum(grp.run_len)
    grp.bb_state &= ~EXT4_GROUP_INFO_NEED_INIT
    EXT4_SB(sb).s_mb_generated += 1


@may_sleep
def ext4_mb_init_group(sb: SuperBlock, group: int) -> None:
    if EXT4_SB(sb).s_group_info[group].bb_state & EXT4_GROUP_INFO_NEED_INIT:
        ext4_mb_init_cache(sb, group)


@may_sleep
def ext4_mb_load_buddy(sb: SuperBlock, group: int) -> Ext4GroupInfo:
    """A group with its runs. Raises EIO, EFSCORRUPTED, EFSBADCRC."""
    grp = EXT4_SB(sb).s_group_info[group]
    if grp.bb_state & EXT4_GROUP_INFO_NEED_INIT:
        ext4_mb_init_group(sb, group)
    return grp


def ext4_mb_add_groupinfo(sb: SuperBlock, group: int) -> Ext4GroupInfo:
    """What is known of a group before its bitmap was read."""
    gdp, _ = ext4_get_group_desc(sb, group)
    return Ext4GroupInfo(group, EXT4_GROUP_INFO_NEED_INIT, ext4_free_group_clusters(sb, gdp))


# ---- taking and giving -------------------------------------------------------------------------------------
def mb_find_extent(grp: Ext4GroupInfo, block: int, needed: int) -> Ext4FreeExtent:
    """The free blocks from `block` on; fe_len 0: it is not free."""
    index = run_of(grp, block)
    if index < 0:
        return Ext4FreeExtent(0, grp.bb_group, block, 0)
    return Ext4FreeExtent(0, grp.bb_group, block, grp.run_start[index] + grp.run_len[index] - block)


def mb_mark_used(sb: SuperBlock, grp: Ext4GroupInfo, ex: Ext4FreeExtent) -> None:
    """Takes free blocks out of the runs."""
    start, length = ex.fe_start, ex.fe_len
    index = run_of(grp, start)
    assert index >= 0 and start + length <= grp.run_start[index] + grp.run_len[index], "mb_mark_used() of used blocks"
    first, size = grp.run_start[index], grp.run_len[index]
    _count(sb, grp, first, size, -1)
    pieces = [(first, start - first), (start + length, first + size - start - length)]
    pieces = [piece for piece in pieces if piece[1]]
    for piece in pieces:
        _count(sb, grp, *piece, 1)
    grp.run_start[index : index + 1] = [piece[0] for piece in pieces]
    grp.run_len[index : index + 1] = [piece[1] for piece in pieces]
    grp.bb_free -= length
    grp.bb_fragments = len(grp.run_start)
    grp.bb_first_free = grp.run_start[0] if grp.run_start else ext4_num_clusters_in_group(sb, grp.bb_group)
    mb_set_largest_free_order(sb, grp)


@may_sleep
def mb_free_blocks(inode: Inode | None, sb: SuperBlock, grp: Ext4GroupInfo, first: int, count: int) -> None:
    """Gives blocks back to the runs. Blocks that are free already mean damage: the group is left alone from now on."""
    if grp.bb_state & EXT4_GROUP_INFO_BBITMAP_CORRUPT:
        return
    starts, lengths = grp.run_start, grp.run_len
    index = bisect_right(starts, first)
    before = index - 1
    if (before >= 0 and starts[before] + lengths[before] > first) or (
        index < len(starts) and starts[index] < first + count
    ):
        bit = first if before >= 0 and starts[before] + lengths[before] > first else starts[index]
        ext4_grp_locked_error(sb, grp.bb_group, inode.i_ino if inode is not None else 0,
                              ext4_group_first_block_no(sb, grp.bb_group) + bit,
                              f"freeing already freed block (bit {bit}); block bitmap corrupt.")
        ext4_mark_group_bitmap_corrupted(sb, grp.bb_group, EXT4_GROUP_INFO_BBITMAP_CORRUPT)
        return
    low, high = index, index
    start, end = first, first + count
    if before >= 0 and starts[before] + lengths[before] == first:
        low = before
        start = starts[before]
        _count(sb, grp, starts[before], lengths[before], -1)
    if index < len(starts) and starts[index] == first + count:
        high = index + 1
        end = starts[index] + lengths[index]
        _count(sb, grp, starts[index], lengths[index], -1)
    starts[low:high] = [start]
    lengths[low:high] = [end - start]
    _count(sb, grp, start, end - start, 1)
    grp.bb_free += count
    grp.bb_fragments = len(starts)
    grp.bb_first_free = starts[0]
    mb_set_largest_free_order(sb, grp)


