"""Cutting an extent in two or three, and turning unwritten blocks into written ones.

Linux: ext4_split_extent() and its users in fs/ext4/extents.c (5.3).
Gaps: zeroing short unwritten extents instead of splitting them (the split uses reserved blocks when space is out).
Locks: i_data_sem for writing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.ext4.ext4_jbd2 import Handle
from glasskernel.fs.ext4.extents import (
    EXT4_EXT_DATA_VALID1,
    EXT4_EXT_DATA_VALID2,
    EXT4_EXT_MARK_UNWRIT1,
    EXT4_EXT_MARK_UNWRIT2,
    EXT4_EXT_MAY_ZEROOUT,
    ExtPath,
    eh_entries,
    ext4_ext_correct_indexes,
    ext4_ext_dirty,
    ext4_ext_drop_refs,
    ext4_ext_get_access,
    ext4_ext_insert_extent,
    ext4_ext_try_to_merge,
    ext4_find_extent,
    get_extent,
    put_extent,
)
from glasskernel.fs.ext4.types import (
    EXT4_GET_BLOCKS_CONVERT,
    EXT4_GET_BLOCKS_CONVERT_UNWRITTEN,
    EXT4_GET_BLOCKS_PRE_IO,
    EXT_INIT_MAX_LEN,
    EXT_UNWRITTEN_MAX_LEN,
    Ext4MapBlocks,
)
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode

Path = list[ExtPath]


@notrace
@may_sleep
def _mark(handle: Handle, inode: Inode, path: Path, unwritten: bool, merge: bool = True) -> None:
    """The extent of the path becomes (un)written as a whole."""
    leaf = path[-1]
    ext4_ext_get_access(handle, inode, leaf)
    block, length, pblk, _ = get_extent(leaf.p_hdr, leaf.p_pos)
    put_extent(leaf.p_hdr, leaf.p_pos, block, length, pblk, unwritten)
    if merge:
        ext4_ext_try_to_merge(handle, inode, path, leaf.p_pos)
    ext4_ext_dirty(handle, inode, path[-1])


@may_sleep
def ext4_split_extent_at(handle: Handle, inode: Inode, path: Path, split: int, split_flag: int, flags: int) -> Path:
    """Cuts the extent of the path before block `split`; split_flag says what the halves become. Answers a path.

    On an error the path is gone.
    """
    leaf = path[-1]
    block, length, pblk, _ = get_extent(leaf.p_hdr, leaf.p_pos)
    assert block <= split < block + length
    unwrit1, unwrit2 = bool(split_flag & EXT4_EXT_MARK_UNWRIT1), bool(split_flag & EXT4_EXT_MARK_UNWRIT2)
    if split == block:
        _mark(handle, inode, path, unwrit2, not flags & EXT4_GET_BLOCKS_PRE_IO)
        return path
    original = get_extent(leaf.p_hdr, leaf.p_pos)
    ext4_ext_get_access(handle, inode, leaf)
    put_extent(leaf.p_hdr, leaf.p_pos, block, split - block, pblk, unwrit1)
    ext4_ext_dirty(handle, inode, leaf)
    try:
        return ext4_ext_insert_extent(handle, inode, path, split, length - (split - block), pblk + split - block,
                                      unwrit2, flags)
    except KernelError:
        again = ext4_find_extent(inode, block)
        leaf = again[-1]
        if leaf.p_pos >= 0 and get_extent(leaf.p_hdr, leaf.p_pos)[0] == block:
            put_extent(leaf.p_hdr, leaf.p_pos, *original)
            ext4_ext_correct_indexes(handle, inode, again)
            ext4_ext_dirty(handle, inode, leaf)
        ext4_ext_drop_refs(again)
        raise


@may_sleep
def ext4_split_extent(handle: Handle, inode: Inode, path: Path, map: Ext4MapBlocks, split_flag: int,
                      flags: int) -> tuple[Path, int]:
    """Makes the blocks of `map` an extent of their own. Answers the path and how many blocks that are."""
    leaf = path[-1]
    block, length, _, unwritten = get_extent(leaf.p_hdr, leaf.p_pos)
    allocated = map.m_len
    if map.m_lblk + map.m_len < block + length:
        split_flag1 = split_flag & EXT4_EXT_MAY_ZEROOUT
        if unwritten:
            split_flag1 |= EXT4_EXT_MARK_UNWRIT1 | EXT4_EXT_MARK_UNWRIT2
        if split_flag & EXT4_EXT_DATA_VALID2:
            split_flag1 |= EXT4_EXT_DATA_VALID1
        path = ext4_split_extent_at(handle, inode, path, map.m_lblk + map.m_len, split_flag1,
                                    flags | EXT4_GET_BLOCKS_PRE_IO)
        ext4_ext_drop_refs(path)
        path = ext4_find_extent(inode, map.m_lblk)
        leaf = path[-1]
        block, length, _, unwritten = get_extent(leaf.p_hdr, leaf.p_pos)
    else:
        allocated = length - (map.m_lblk - block)
    if map.m_lblk >= block:
        split_flag1 = split_flag & EXT4_EXT_DATA_VALID2
        if unwritten:
            split_flag1 |= EXT4_EXT_MARK_UNWRIT1 | split_flag & (EXT4_EXT_MAY_ZEROOUT | EXT4_EXT_MARK_UNWRIT2)
        path = ext4_split_extent_at(handle, inode, path, map.m_lblk, split_flag1, flags)
    return path, min(allocated, map.m_len)


@notrace
@may_sleep
def _find_again(inode: Inode, path: Path, block: int) -> Path:
    ext4_ext_drop_refs(path)
    return ext4_find_extent(inode, block)


@notrace
@may_sleep
def transfer_to_neighbour(handle: Handle, inode: Inode, map: Ext4MapBlocks, path: Path) -> bool:
    """True if the written extent beside it could take the blocks: the head of an unwritten extent, or its tail."""
    leaf = path[-1]
    node, pos = leaf.p_hdr, leaf.p_pos
    block, length, pblk, _ = ex = get_extent(node, pos)
    count = map.m_len
    if count >= length:
        return False
    if map.m_lblk == block and pos > 0:
        at = pos - 1
        near = get_extent(node, at)
        fits = near[0] + near[1] == block and near[2] + near[1] == pblk
        moved, grown = (block + count, pblk + count), (near[0], near[2])
    elif map.m_lblk + count == block + length and pos < eh_entries(node) - 1:
        at = pos + 1
        near = get_extent(node, at)
        fits = block + length == near[0] and pblk + length == near[2]
        moved, grown = (block, pblk), (near[0] - count, near[2] - count)
    else:
        return False
    if not fits or near[3] or near[1] >= EXT_INIT_MAX_LEN - count:
        return False
    ext4_ext_get_access(handle, inode, leaf)
    probe = inode.i_sb.kernel.tp.ext4_ext_convert_to_initialized_fastpath
    if probe is not None:
        probe(inode, map, ex, near)
    put_extent(node, pos, moved[0], length - count, moved[1], True)
    put_extent(node, at, grown[0], near[1] + count, grown[1], False)
    ext4_ext_dirty(handle, inode, leaf)
    leaf.p_pos = at
    return True


@may_sleep
def ext4_ext_convert_to_initialized(handle: Handle, inode: Inode, map: Ext4MapBlocks, path: Path,
                                    flags: int) -> tuple[Path, int]:
    """The blocks of `map` are about to be written: they become an extent of written ones."""
    probe = inode.i_sb.kernel.tp.ext4_ext_convert_to_initialized_enter
    if probe is not None:
        probe(inode, map, get_extent(path[-1].p_hdr, path[-1].p_pos))
    if transfer_to_neighbour(handle, inode, map, path):
        return path, map.m_len
    return ext4_split_extent(handle, inode, path, map, 0, flags)


@may_sleep
def ext4_split_convert_extents(handle: Handle, inode: Inode, map: Ext4MapBlocks, path: Path,
                               flags: int) -> tuple[Path, int]:
    """Splits before the I/O starts, so that its end needs no new blocks."""
    split_flag = 0
    if flags & EXT4_GET_BLOCKS_CONVERT_UNWRITTEN:
        split_flag |= EXT4_EXT_DATA_VALID1
    elif flags & EXT4_GET_BLOCKS_CONVERT:
        split_flag |= EXT4_EXT_MARK_UNWRIT2 | EXT4_EXT_DATA_VALID2
    return ext4_split_extent(handle, inode, path, map, split_flag, flags | EXT4_GET_BLOCKS_PRE_IO)


@may_sleep
def ext4_convert_unwritten_extents_endio(handle: Handle, inode: Inode, map: Ext4MapBlocks, path: Path) -> Path:
    """The I/O is done: the blocks are written."""
    leaf = path[-1]
    block, length, _, _ = get_extent(leaf.p_hdr, leaf.p_pos)
    if block != map.m_lblk or length > map.m_len:
        path, _ = ext4_split_convert_extents(handle, inode, map, path, EXT4_GET_BLOCKS_CONVERT)
        path = _find_again(inode, path, map.m_lblk)
    _mark(handle, inode, path, False)
    return path


@may_sleep
def convert_initialized_extent(handle: Handle, inode: Inode, map: Ext4MapBlocks, path: Path) -> Path:
    """FALLOC_FL_ZERO_RANGE: written blocks become unwritten ones."""
    map.m_len = min(map.m_len, EXT_UNWRITTEN_MAX_LEN // 2)
    leaf = path[-1]
    block, length, _, _ = get_extent(leaf.p_hdr, leaf.p_pos)
    if block != map.m_lblk or length > map.m_len:
        path, _ = ext4_split_convert_extents(handle, inode, map, path, EXT4_GET_BLOCKS_CONVERT_UNWRITTEN)
        path = _find_again(inode, path, map.m_lblk)
    _mark(handle, inode, path, True)
    return path
