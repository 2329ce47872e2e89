"""Extent status is a cache: what can be read again goes when the shrinkers are asked.

Linux: the shrinker half of fs/ext4/extents_status.c (5.3). Same: delayed extents stay, referenced ones get a second
round, an inode is looked at from where the last round ended.
Differs: the inodes are those of the super block's list that have extents, in its order.
Owns: Ext4SbInfo.s_es_shrinker, Ext4InodeInfo.i_es_shrink_lblk.
"""
from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from glasskernel.fs.ext4.extents_status import ES_DELAYED, ES_REFERENCED, __es_tree_search
from glasskernel.fs.ext4.types import EXT4_SB, EXT_MAX_BLOCKS
from glasskernel.kernel.time.timekeeping import ktime_get
from glasskernel.lib.types import notrace
from glasskernel.mm.shrinker import ShrinkControl, Shrinker, register_shrinker, unregister_shrinker

if TYPE_CHECKING:
    from glasskernel.fs.ext4.types import Ext4InodeInfo
    from glasskernel.fs.types import SuperBlock


def ext4_es_register_shrinker(sb: SuperBlock) -> None:
    """Context: mount."""
    sbi = EXT4_SB(sb)
    sbi.s_es_shrinker = Shrinker(partial(ext4_es_count, sb), partial(ext4_es_scan, sb))
    register_shrinker(sb.kernel, sbi.s_es_shrinker)


def ext4_es_unregister_shrinker(sb: SuperBlock) -> None:
    """Context: umount."""
    sbi = EXT4_SB(sb)
    if sbi.s_es_shrinker is not None:
        unregister_shrinker(sb.kernel, sbi.s_es_shrinker)
        sbi.s_es_shrinker = None


@notrace
def inodes_with_extents(sb: SuperBlock) -> list[Ext4InodeInfo]:
    """sbi.s_es_list"""
    return [inode.i_private for inode in sb.s_inode_list if inode.i_private is not None and inode.i_private.i_es]


@notrace
def nr_reclaimable(sb: SuperBlock) -> int:
    """How many extents could be read again."""
    return sum([not es.es_status & ES_DELAYED for ei in inodes_with_extents(sb) for es in ei.i_es])


def ext4_es_count(sb: SuperBlock, sc: ShrinkControl) -> int:
    """->count_objects()"""
    nr = nr_reclaimable(sb)
    probe = sb.kernel.tp.ext4_es_shrink_count
    if probe is not None:
        probe(sb, 0, nr)
    return nr


def ext4_es_scan(sb: SuperBlock, sc: ShrinkControl) -> int:
    """->scan_objects()"""
    nr_to_scan = sc.nr_to_scan
    tp = sb.kernel.tp
    cache_cnt = nr_reclaimable(sb)
    probe = tp.ext4_es_shrink_scan_enter
    if probe is not None:
        probe(sb, nr_to_scan, cache_cnt)
    nr_shrunk = __es_shrink(sb, nr_to_scan)
    cache_cnt = nr_reclaimable(sb)
    probe = tp.ext4_es_shrink_scan_exit
    if probe is not None:
        probe(sb, nr_shrunk, cache_cnt)
    return nr_shrunk


def __es_shrink(sb: SuperBlock, nr_to_scan: int) -> int:
    start_time_ns = ktime_get()
    left = [nr_to_scan]
    nr_shrunk = 0
    for ei in inodes_with_extents(sb):
        nr_shrunk += es_reclaim_extents(ei, left)
        if left[0] < 0:
            break
    probe = sb.kernel.tp.ext4_es_shrink
    if probe is not None:
        probe(sb, nr_shrunk, ktime_get() - start_time_ns, 0, 0)
    return nr_shrunk


def es_reclaim_extents(ei: Ext4InodeInfo, left: list[int]) -> int:
    """From where the last round ended, then from the start. left[0]: how many extents may still be looked at."""
    start = ei.i_es_shrink_lblk
    done, nr_shrunk = es_do_reclaim_extents(ei, EXT_MAX_BLOCKS, left)
    if done and start:
        nr_shrunk += es_do_reclaim_extents(ei, start - 1, left)[1]
    return nr_shrunk


def es_do_reclaim_extents(ei: Ext4InodeInfo, end: int, left: list[int]) -> tuple[bool, int]:
    """(it came to the end, how many extents went)."""
    extents, keys = ei.i_es, ei.i_es_lblk
    nr_shrunk = 0
    index = __es_tree_search(ei, ei.i_es_shrink_lblk)
    while left[0] > 0:
        if index >= len(extents) or extents[index].es_lblk > end:
            ei.i_es_shrink_lblk = 0
            return True, nr_shrunk
        left[0] -= 1
        es = extents[index]
        if es.es_status & ES_DELAYED:                # nowhere else
            index += 1
        elif es.es_status & ES_REFERENCED:
            es.es_status &= ~ES_REFERENCED
            index += 1
        else:
            del extents[index], keys[index]
            nr_shrunk += 1
    left[0] -= 1
    ei.i_es_shrink_lblk = extents[index].es_lblk if index < len(extents) else 0
    return False, nr_shrunk
