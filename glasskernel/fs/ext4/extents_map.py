"""Logical blocks to physical ones through the extent tree, allocating what is missing.

Linux: ext4_ext_map_blocks() in fs/ext4/extents.c (5.3). Same: goals and neighbours for the allocator, unwritten
    extents, holes noted in the extent status tree, reservations settled.
Locks: i_data_sem, for writing if EXT4_GET_BLOCKS_CREATE.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.ext4.errors import EFSCORRUPTED, ext4_error_inode
from glasskernel.fs.ext4.ext4_jbd2 import Handle, ext4_update_inode_fsync_trans
from glasskernel.fs.ext4.extents import (
    ExtPath,
    ext4_ext_drop_refs,
    ext4_ext_find_goal,
    ext4_ext_insert_extent,
    ext4_ext_next_allocated_block,
    ext4_ext_search_left,
    ext4_ext_search_right,
    ext4_find_extent,
    get_extent,
)
from glasskernel.fs.ext4.extents_split import (
    convert_initialized_extent,
    ext4_convert_unwritten_extents_endio,
    ext4_ext_convert_to_initialized,
    ext4_split_convert_extents,
)
from glasskernel.fs.ext4.extents_status import (
    ES_DELAYED,
    ES_HOLE,
    ext4_da_update_reserve_space,
    ext4_es_delayed_clu,
    ext4_es_find_extent_range,
    ext4_es_insert_extent,
)
from glasskernel.fs.ext4.mballoc import (
    EXT4_MB_DELALLOC_RESERVED,
    EXT4_MB_HINT_DATA,
    EXT4_MB_HINT_NOPREALLOC,
    EXT4_MB_USE_RESERVED,
    Ext4AllocationRequest,
    ext4_discard_preallocations,
    ext4_free_blocks,
    ext4_mb_new_blocks,
)
from glasskernel.fs.ext4.types import (
    EXT4_GET_BLOCKS_CONVERT,
    EXT4_GET_BLOCKS_CONVERT_UNWRITTEN,
    EXT4_GET_BLOCKS_CREATE,
    EXT4_GET_BLOCKS_DELALLOC_RESERVE,
    EXT4_GET_BLOCKS_METADATA_NOFAIL,
    EXT4_GET_BLOCKS_NO_NORMALIZE,
    EXT4_GET_BLOCKS_PRE_IO,
    EXT4_GET_BLOCKS_UNWRIT_EXT,
    EXT4_MAP_MAPPED,
    EXT4_MAP_NEW,
    EXT4_MAP_UNWRITTEN,
    EXT_INIT_MAX_LEN,
    EXT_MAX_BLOCKS,
    EXT_UNWRITTEN_MAX_LEN,
    Ext4MapBlocks,
)
from glasskernel.fs.types import S_IFMT, S_IFREG
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode


@notrace
def ext4_ext_determine_hole(path: list[ExtPath], lblk: int) -> tuple[int, int]:
    """(first block, length) of the hole around lblk."""
    leaf = path[-1]
    if leaf.p_pos < 0:
        return 0, EXT_MAX_BLOCKS
    block, length, _, _ = get_extent(leaf.p_hdr, leaf.p_pos)
    if lblk < block:
        return 0, block
    start = block + length
    return start, ext4_ext_next_allocated_block(path) - start


def ext4_ext_put_gap_in_cache(inode: Inode, hole_start: int, hole_len: int) -> None:
    """Notes a hole, up to the next delayed block."""
    es = ext4_es_find_extent_range(inode, ES_DELAYED, hole_start, hole_start + hole_len - 1)
    if es is not None:
        if es.es_lblk <= hole_start:
            return
        hole_len = min(es.es_lblk - hole_start, hole_len)
    ext4_es_insert_extent(inode, hole_start, hole_len, 0, ES_HOLE)


@may_sleep
def ext4_ext_handle_unwritten_extents(handle: Handle, inode: Inode, map: Ext4MapBlocks, path: list[ExtPath], flags: int,
                                      allocated: int, newblock: int) -> tuple[list[ExtPath], int]:
    """Block map.m_lblk is allocated and was never written. Answers the path and how many blocks `map` got."""
    flags |= EXT4_GET_BLOCKS_METADATA_NOFAIL
    probe = inode.i_sb.kernel.tp.ext4_ext_handle_unwritten_extents
    if probe is not None:
        probe(inode, map, flags, allocated, newblock)
    if flags & EXT4_GET_BLOCKS_PRE_IO:
        path, allocated = ext4_split_convert_extents(handle, inode, map, path, flags | EXT4_GET_BLOCKS_CONVERT)
        map.m_flags |= EXT4_MAP_UNWRITTEN | EXT4_MAP_NEW | EXT4_MAP_MAPPED
    elif flags & EXT4_GET_BLOCKS_CONVERT:
        path = ext4_convert_unwritten_extents_endio(handle, inode, map, path)
        ext4_update_inode_fsync_trans(handle, inode, 1)
        map.m_flags |= EXT4_MAP_MAPPED
    elif flags & EXT4_GET_BLOCKS_UNWRIT_EXT:
        map.m_flags |= EXT4_MAP_UNWRITTEN | EXT4_MAP_MAPPED
    elif not flags & EXT4_GET_BLOCKS_CREATE:
        map.m_flags |= EXT4_MAP_UNWRITTEN
    else:
        path, allocated = ext4_ext_convert_to_initialized(handle, inode, map, path, flags)
        ext4_update_inode_fsync_trans(handle, inode, 1)
        map.m_flags |= EXT4_MAP_NEW | EXT4_MAP_MAPPED
    map.m_pblk = newblock
    map.m_len = min(allocated, map.m_len)
    return path, map.m_len


@may_sleep
def ext4_ext_map_blocks(handle: Handle, inode: Inode, map: Ext4MapBlocks, flags: int) -> int:
    """Maps map.m_lblk and what follows. Answers how many blocks are mapped or unwritten; 0: a hole of map.m_len blocks.

    Raises ENOSPC, EIO, EFSCORRUPTED.
    """
    tp = inode.i_sb.kernel.tp
    probe = tp.ext4_ext_map_blocks_enter
    if probe is not None:
        probe(inode, map.m_lblk, map.m_len, flags)
    ret = 0
    try:
        ret = _map(handle, inode, map, flags)
    finally:
        probe = tp.ext4_ext_map_blocks_exit
        if probe is not None:
            probe(inode, flags, map, ret)
    return ret


@notrace
@may_sleep
def _map(handle: Handle, inode: Inode, map: Ext4MapBlocks, flags: int) -> int:
    path = ext4_find_extent(inode, map.m_lblk)
    try:
        leaf = path[-1]
        if leaf.p_pos < 0 and len(path) > 1:
            ext4_error_inode(inode, f"bad extent address lblock: {map.m_lblk}, depth: {len(path) - 1} pblock 0")
            raise KernelError(EFSCORRUPTED)
        if leaf.p_pos >= 0:
            block, length, pblk, unwritten = get_extent(leaf.p_hdr, leaf.p_pos)
            probe = inode.i_sb.kernel.tp.ext4_ext_show_extent
            if probe is not None:
                probe(inode, block, pblk, length)
            if block <= map.m_lblk < block + length:
                newblock = map.m_lblk - block + pblk
                allocated = length - (map.m_lblk - block)
                if unwritten:
                    path, allocated = ext4_ext_handle_unwritten_extents(
                        handle, inode, map, path, flags, allocated, newblock)
                    return allocated
                if flags & EXT4_GET_BLOCKS_CONVERT_UNWRITTEN:
                    map.m_len = min(map.m_len, allocated)
                    path = convert_initialized_extent(handle, inode, map, path)
                    ext4_update_inode_fsync_trans(handle, inode, 1)
                    map.m_flags |= EXT4_MAP_UNWRITTEN
                    allocated = min(allocated, map.m_len)
                map.m_flags |= EXT4_MAP_MAPPED
                map.m_pblk = newblock
                map.m_len = min(allocated, map.m_len)
                return map.m_len
        if not flags & EXT4_GET_BLOCKS_CREATE:
            hole_start, hole_len = ext4_ext_determine_hole(path, map.m_lblk)
            ext4_ext_put_gap_in_cache(inode, hole_start, hole_len)
            map.m_pblk = 0
            map.m_len = min(map.m_len, hole_len - (map.m_lblk - hole_start))
            return 0
        path = _allocate(handle, inode, map, flags, path)
        return map.m_len
    finally:
        ext4_ext_drop_refs(path)


@notrace
@may_sleep
def _allocate(handle: Handle, inode: Inode, map: Ext4MapBlocks, flags: int, path: list[ExtPath]) -> list[ExtPath]:
    """A hole, and blocks are wanted."""
    ar = Ext4AllocationRequest(inode)
    ar.lleft, ar.pleft = ext4_ext_search_left(path, map.m_lblk)
    ar.lright, ar.pright = ext4_ext_search_right(inode, path, map.m_lblk)
    unwritten = bool(flags & EXT4_GET_BLOCKS_UNWRIT_EXT)
    map.m_len = min(map.m_len, EXT_UNWRITTEN_MAX_LEN if unwritten else EXT_INIT_MAX_LEN)
    if ar.pright and map.m_lblk + map.m_len > ar.lright:         # ext4_ext_check_overlap()
        map.m_len = ar.lright - map.m_lblk
    ar.goal = ext4_ext_find_goal(inode, path, map.m_lblk)
    ar.logical = map.m_lblk
    ar.len = map.m_len
    ar.flags = EXT4_MB_HINT_DATA if inode.i_mode & S_IFMT == S_IFREG else 0
    if flags & EXT4_GET_BLOCKS_NO_NORMALIZE:
        ar.flags |= EXT4_MB_HINT_NOPREALLOC
    if flags & EXT4_GET_BLOCKS_DELALLOC_RESERVE:
        ar.flags |= EXT4_MB_DELALLOC_RESERVED
    if flags & EXT4_GET_BLOCKS_METADATA_NOFAIL:
        ar.flags |= EXT4_MB_USE_RESERVED
    newblock = ext4_mb_new_blocks(handle, ar)
    try:
        path = ext4_ext_insert_extent(handle, inode, path, map.m_lblk, ar.len, newblock, unwritten, flags)
    except KernelError:
        ext4_discard_preallocations(inode)
        ext4_free_blocks(handle, inode, None, newblock, ar.len, 0)
        raise
    if flags & EXT4_GET_BLOCKS_DELALLOC_RESERVE:
        ext4_da_update_reserve_space(inode, ar.len, 1)
    else:
        delayed = ext4_es_delayed_clu(inode, map.m_lblk, ar.len)
        if delayed:
            ext4_da_update_reserve_space(inode, delayed, 0)
    ext4_update_inode_fsync_trans(handle, inode, int(not unwritten))
    map.m_flags |= EXT4_MAP_NEW | EXT4_MAP_MAPPED | (EXT4_MAP_UNWRITTEN if unwritten else 0)
    map.m_pblk = newblock
    map.m_len = min(ar.len, map.m_len)
    return path
