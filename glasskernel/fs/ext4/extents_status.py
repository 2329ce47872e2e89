"""What is known of a file's blocks in memory: written, unwritten, delayed, hole.

Linux: fs/ext4/extents_status.c, and the delayed allocation counts of inode.c (5.3).
Same: merging, delayed extents as the reservation's ground truth, release of a reservation when they are removed.
Differs: the red-black tree is two parallel sorted lists. The shrinker is in extents_shrinker.py.
Owns: Ext4InodeInfo.i_es, i_es_lblk, i_reserved_data_blocks. Invariants: extents are sorted and do not overlap;
    i_reserved_data_blocks == blocks that are delayed and have no block on disk.
Locks: none needed: nothing here sleeps but ext4_da_update_reserve_space().
"""
from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from glasskernel.fs.ext4.balloc import ext4_claim_free_clusters
from glasskernel.fs.ext4.mballoc import ext4_discard_preallocations
from glasskernel.fs.ext4.types import EXT4_I, EXT4_SB, ExtentStatus
from glasskernel.fs.fs_writeback import mark_inode_dirty_sync
from glasskernel.lib.errno import ENOSPC, KernelError
from glasskernel.lib.types import may_sleep

if TYPE_CHECKING:
    from glasskernel.fs.ext4.types import Ext4InodeInfo
    from glasskernel.fs.types import Inode

ES_WRITTEN, ES_UNWRITTEN, ES_DELAYED, ES_HOLE, ES_REFERENCED = 1, 2, 4, 8, 16
ES_TYPES = 15
MAX_LEN = 1 << 31


def __es_tree_search(ei: Ext4InodeInfo, lblk: int) -> int:
    """The index of the first extent that ends behind lblk."""
    index = bisect_right(ei.i_es_lblk, lblk) - 1
    if index >= 0 and lblk < ei.i_es[index].es_lblk + ei.i_es[index].es_len:
        return index
    return index + 1


def ext4_es_can_be_merged(a: ExtentStatus, b: ExtentStatus) -> bool:
    if a.es_status & ES_TYPES != b.es_status & ES_TYPES or a.es_lblk + a.es_len != b.es_lblk:
        return False
    if a.es_len + b.es_len >= 1 << 32:
        return False
    if a.es_status & (ES_WRITTEN | ES_UNWRITTEN):
        return a.es_pblk + a.es_len == b.es_pblk
    return True


def __es_insert_extent(inode: Inode, newes: ExtentStatus) -> None:
    """Locks: nothing overlaps: __es_remove_extent() ran."""
    ei = EXT4_I(inode)
    index = bisect_left(ei.i_es_lblk, newes.es_lblk)
    if index and ext4_es_can_be_merged(ei.i_es[index - 1], newes):
        index -= 1
        ei.i_es[index].es_len += newes.es_len
    else:
        ei.i_es_lblk.insert(index, newes.es_lblk)
        ei.i_es.insert(index, newes)
    es = ei.i_es[index]
    if index + 1 < len(ei.i_es) and ext4_es_can_be_merged(es, ei.i_es[index + 1]):
        es.es_len += ei.i_es[index + 1].es_len
        del ei.i_es[index + 1], ei.i_es_lblk[index + 1]


def __es_remove_extent(inode: Inode, lblk: int, end: int) -> int:
    """Cuts blocks lblk..end out. Answers how many of them were delayed without a block on disk."""
    ei = EXT4_I(inode)
    index = __es_tree_search(ei, lblk)
    extents, keys = ei.i_es, ei.i_es_lblk
    if index == len(extents) or extents[index].es_lblk > end:
        return 0
    reserved = 0
    first = index
    replacement: list[ExtentStatus] = []
    while index < len(extents) and extents[index].es_lblk <= end:
        es = extents[index]
        es_end = es.es_lblk + es.es_len - 1
        low, high = max(es.es_lblk, lblk), min(es_end, end)
        if es.es_status & (ES_DELAYED | ES_UNWRITTEN | ES_WRITTEN) == ES_DELAYED:
            reserved += high - low + 1
        if es.es_lblk < lblk:
            replacement.append(ExtentStatus(es.es_lblk, lblk - es.es_lblk, es.es_pblk, es.es_status))
        if es_end > end:
            pblk = es.es_pblk + end + 1 - es.es_lblk if es.es_status & (ES_WRITTEN | ES_UNWRITTEN) else es.es_pblk
            replacement.append(ExtentStatus(end + 1, es_end - end, pblk, es.es_status))
        index += 1
    extents[first:index] = replacement
    keys[first:index] = [es.es_lblk for es in replacement]
    return reserved


def ext4_es_insert_extent(inode: Inode, lblk: int, length: int, pblk: int, status: int) -> None:
    """From now on these blocks are as told, whatever was known before."""
    probe = inode.i_sb.kernel.tp.ext4_es_insert_extent
    if not length:
        return
    newes = ExtentStatus(lblk, length, pblk, status)
    if probe is not None:
        probe(inode, newes)
    __es_remove_extent(inode, lblk, lblk + length - 1)
    __es_insert_extent(inode, newes)


def ext4_es_cache_extent(inode: Inode, lblk: int, length: int, pblk: int, status: int) -> None:
    """The same for what was just read from disk: what is known already wins."""
    if not length:
        return
    ei = EXT4_I(inode)
    index = __es_tree_search(ei, lblk)
    if index < len(ei.i_es) and ei.i_es[index].es_lblk <= lblk + length - 1:
        return
    newes = ExtentStatus(lblk, length, pblk, status)
    probe = inode.i_sb.kernel.tp.ext4_es_cache_extent
    if probe is not None:
        probe(inode, newes)
    __es_insert_extent(inode, newes)


def ext4_es_insert_delayed_block(inode: Inode, lblk: int) -> None:
    """A block was written to memory; where it goes is decided later."""
    newes = ExtentStatus(lblk, 1, 0, ES_DELAYED)
    probe = inode.i_sb.kernel.tp.ext4_es_insert_delayed_block
    if probe is not None:
        probe(inode, newes, False)
    __es_remove_extent(inode, lblk, lblk)
    __es_insert_extent(inode, newes)


def ext4_es_lookup_extent(inode: Inode, lblk: int) -> ExtentStatus | None:
    """The extent that has block lblk, if it is known."""
    sb = inode.i_sb
    tp = sb.kernel.tp
    probe = tp.ext4_es_lookup_extent_enter
    if probe is not None:
        probe(inode, lblk)
    ei = EXT4_I(inode)
    index = bisect_right(ei.i_es_lblk, lblk) - 1
    found: ExtentStatus | None = None
    if index >= 0:
        es = ei.i_es[index]
        if lblk < es.es_lblk + es.es_len:
            found = es
    if found is not None:
        found.es_status |= ES_REFERENCED
        EXT4_SB(sb).s_es_cache_hits += 1
    else:
        EXT4_SB(sb).s_es_cache_misses += 1
    probe = tp.ext4_es_lookup_extent_exit
    if probe is not None:
        probe(inode, found or ExtentStatus(0, 0, 0, 0), int(found is not None))
    return found


@may_sleep
def ext4_es_remove_extent(inode: Inode, lblk: int, length: int) -> None:
    """Truncation: these blocks are forgotten, and what was reserved for them given back."""
    if not length:
        return
    probe = inode.i_sb.kernel.tp.ext4_es_remove_extent
    if probe is not None:
        probe(inode, lblk, length)
    reserved = __es_remove_extent(inode, lblk, lblk + length - 1)
    ext4_da_release_space(inode, reserved)


def __es_find_extent_range(inode: Inode, mask: int, lblk: int, end: int) -> ExtentStatus | None:
    ei = EXT4_I(inode)
    extents = ei.i_es
    for index in range(__es_tree_search(ei, lblk), len(extents)):
        es = extents[index]
        if es.es_lblk > end:
            return None
        if es.es_status & mask:
            return es
    return None


def ext4_es_find_extent_range(inode: Inode, mask: int, lblk: int, end: int) -> ExtentStatus | None:
    """The first extent of a type in mask (ES_DELAYED ...) that touches lblk..end."""
    tp = inode.i_sb.kernel.tp
    probe = tp.ext4_es_find_extent_range_enter
    if probe is not None:
        probe(inode, lblk)
    es = __es_find_extent_range(inode, mask, lblk, end)
    probe = tp.ext4_es_find_extent_range_exit
    if probe is not None:
        probe(inode, es or ExtentStatus(0, 0, 0, 0))
    return es


def ext4_es_scan_range(inode: Inode, mask: int, lblk: int, end: int) -> bool:
    """True if some block of lblk..end is of a type in mask."""
    ei = EXT4_I(inode)
    for es in ei.i_es[__es_tree_search(ei, lblk):]:
        if es.es_lblk > end:
            return False
        if es.es_status & mask:
            return True
    return False


def ext4_es_delayed_clu(inode: Inode, lblk: int, length: int) -> int:
    """How many blocks of the range are delayed without a block on disk."""
    ei = EXT4_I(inode)
    end = lblk + length - 1
    count = 0
    for es in ei.i_es[__es_tree_search(ei, lblk):]:
        if es.es_lblk > end:
            break
        if es.es_status & ES_TYPES == ES_DELAYED:
            count += min(end, es.es_lblk + es.es_len - 1) - max(lblk, es.es_lblk) + 1
    return count


# ---- reservations of delayed allocation ---------------------------------------------------------------------
def ext4_da_reserve_space(inode: Inode) -> None:
    """One more block will be allocated later. Raises ENOSPC."""
    ei = EXT4_I(inode)
    if not ext4_claim_free_clusters(EXT4_SB(inode.i_sb), 1, 0):
        raise KernelError(ENOSPC)
    ei.i_reserved_data_blocks += 1
    probe = inode.i_sb.kernel.tp.ext4_da_reserve_space
    if probe is not None:
        probe(inode)


def ext4_da_release_space(inode: Inode, to_free: int) -> None:
    """Reserved blocks that will not be allocated."""
    if not to_free:
        return
    ei = EXT4_I(inode)
    probe = inode.i_sb.kernel.tp.ext4_da_release_space
    if probe is not None:
        probe(inode, to_free)
    assert to_free <= ei.i_reserved_data_blocks, "released more than was reserved"
    ei.i_reserved_data_blocks -= to_free
    EXT4_SB(inode.i_sb).s_dirtyclusters_counter -= to_free


@may_sleep
def ext4_da_update_reserve_space(inode: Inode, used: int, quota_claim: int) -> None:
    """Reserved blocks were allocated."""
    ei = EXT4_I(inode)
    probe = inode.i_sb.kernel.tp.ext4_da_update_reserve_space
    if probe is not None:
        probe(inode, used, quota_claim)
    assert used <= ei.i_reserved_data_blocks, "allocated more than was reserved"
    ei.i_reserved_data_blocks -= used
    EXT4_SB(inode.i_sb).s_dirtyclusters_counter -= used
    if quota_claim:
        # dquot_claim_block()
        inode.i_blocks = (inode.i_blocks + (used << inode.i_blkbits - 9)) & 0xFFFF_FFFF_FFFF_FFFF
        mark_inode_dirty_sync(inode)
    if not ei.i_reserved_data_blocks and not inode.i_writecount > 0:
        ext4_discard_preallocations(inode)
