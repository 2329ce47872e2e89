"""Block maps of ext2 and ext3: direct, indirect, double and triple indirect blocks.

Linux: fs/ext4/indirect.c (5.3). Same: goals, branches that are allocated before they are linked, truncation and
    punching from the top of each tree.
Differs: truncation walks recursively; a branch is freed child first inside one extended or restarted handle.
Locks: i_data_sem, for writing where blocks come or go.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.buffer import sb_bread, sb_getblk
from glasskernel.fs.buffer_head import set_buffer_uptodate
from glasskernel.fs.buffer_io import brelse, lock_buffer, unlock_buffer
from glasskernel.fs.ext4.balloc import ext4_inode_to_goal_block
from glasskernel.fs.ext4.block_validity import ext4_check_blockref
from glasskernel.fs.ext4.disk import U32, Memory
from glasskernel.fs.ext4.errors import EFSCORRUPTED, ext4_error_inode
from glasskernel.fs.ext4.ext4_jbd2 import (
    Handle,
    ext4_handle_dirty_metadata,
    ext4_journal_get_create_access,
    ext4_journal_get_write_access,
    ext4_should_journal_data,
    ext4_update_inode_fsync_trans,
)
from glasskernel.fs.ext4.extents import ext4_ext_truncate_extend_restart
from glasskernel.fs.ext4.extents_status import ext4_da_update_reserve_space, ext4_es_delayed_clu
from glasskernel.fs.ext4.inode_loc import ext4_mark_inode_dirty
from glasskernel.fs.ext4.mballoc import (
    EXT4_MB_DELALLOC_RESERVED,
    EXT4_MB_HINT_DATA,
    EXT4_MB_HINT_NOPREALLOC,
    EXT4_MB_USE_RESERVED,
    Ext4AllocationRequest,
    ext4_free_blocks,
    ext4_mb_new_blocks,
    ext4_new_meta_blocks,
)
from glasskernel.fs.ext4.types import (
    EXT4_FREE_BLOCKS_FORGET,
    EXT4_FREE_BLOCKS_METADATA,
    EXT4_GET_BLOCKS_CREATE,
    EXT4_GET_BLOCKS_DELALLOC_RESERVE,
    EXT4_GET_BLOCKS_METADATA_NOFAIL,
    EXT4_GET_BLOCKS_NO_NORMALIZE,
    EXT4_I,
    EXT4_MAP_MAPPED,
    EXT4_MAP_NEW,
    EXT4_NDIR_BLOCKS,
    Ext4MapBlocks,
)
from glasskernel.fs.types import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG
from glasskernel.lib.errno import EFBIG, EIO, ENOMEM, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.types import Inode


@notrace
def slot(memory: Memory, index: int) -> int:
    return U32.unpack_from(memory, 4 * index)[0]  # type: ignore[no-any-return]


def ext4_block_to_path(inode: Inode, i_block: int) -> list[int]:
    """Where a block's number stands: index in the inode, then in each indirect block. Raises EFBIG."""
    ptrs = inode.i_sb.s_blocksize // 4
    if i_block < EXT4_NDIR_BLOCKS:
        return [i_block]
    i_block -= EXT4_NDIR_BLOCKS
    if i_block < ptrs:
        return [12, i_block]
    i_block -= ptrs
    if i_block < ptrs * ptrs:
        return [13, i_block // ptrs, i_block % ptrs]
    i_block -= ptrs * ptrs
    if i_block < ptrs * ptrs * ptrs:
        return [14, i_block // (ptrs * ptrs), i_block // ptrs % ptrs, i_block % ptrs]
    raise KernelError(EFBIG)


@may_sleep
def ext4_read_indirect(inode: Inode, block: int) -> BufferHead:
    """An indirect block, checked, with a reference. Raises EIO, EFSCORRUPTED."""
    bh = sb_bread(inode.i_sb, block)
    if bh is None:
        ext4_error_inode(inode, "unable to read indirect block", block)
        raise KernelError(EIO)
    data = bh.b_data
    if not ext4_check_blockref(inode, [slot(data, i) for i in range(len(data) // 4)]):
        brelse(bh)
        raise KernelError(EFSCORRUPTED)
    return bh


@may_sleep
def ext4_get_branch(inode: Inode, offsets: list[int]) -> tuple[list[BufferHead | None], list[int]]:
    """The blocks on the way to a data block: (buffers by level, numbers found); stops at the first 0."""
    numbers = [slot(EXT4_I(inode).i_data, offsets[0])]
    buffers: list[BufferHead | None] = [None]
    if not ext4_check_blockref(inode, numbers):
        raise KernelError(EFSCORRUPTED)
    try:
        for offset in offsets[1:]:
            if not numbers[-1]:
                break
            bh = ext4_read_indirect(inode, numbers[-1])
            buffers.append(bh)
            numbers.append(slot(bh.b_data, offset))
    except KernelError:
        for each in buffers:
            brelse(each)
        raise
    return buffers, numbers


@notrace
def _node(inode: Inode, bh: BufferHead | None) -> Memory:
    return EXT4_I(inode).i_data if bh is None else bh.b_data


@notrace
def ext4_find_near(inode: Inode, bh: BufferHead | None, offset: int) -> int:
    """A goal: the block before it in the same indirect block, or that block itself, or the inode's group."""
    node = _node(inode, bh)
    for index in range(min(offset, EXT4_NDIR_BLOCKS + 3) - 1 if bh is None else offset - 1, -1, -1):
        if slot(node, index):
            return slot(node, index)
    if bh is not None:
        return bh.b_blocknr
    return ext4_inode_to_goal_block(inode.i_sb, EXT4_I(inode), EXT4_I(inode).i_reserved_data_blocks > 0)


@notrace
def _run_length(node: Memory, offset: int, maximum: int, first: int) -> int:
    """How many numbers from `offset` on follow each other: mapped blocks, or zeros (first == 0)."""
    limit = min(maximum, (EXT4_NDIR_BLOCKS if len(node) == 60 else len(node) // 4) - offset)
    count = 1
    while count < limit and slot(node, offset + count) == (first + count if first else 0):
        count += 1
    return count


@may_sleep
def ext4_ind_map_blocks(handle: Handle, inode: Inode, map: Ext4MapBlocks, flags: int) -> int:
    """ext4_map_blocks() for block maps. Answers how many blocks; 0: a hole."""
    tp = inode.i_sb.kernel.tp
    probe = tp.ext4_ind_map_blocks_enter
    if probe is not None:
        probe(inode, map.m_lblk, map.m_len, flags)
    offsets = ext4_block_to_path(inode, map.m_lblk)
    buffers, numbers = ext4_get_branch(inode, offsets)
    try:
        if len(numbers) == len(offsets) and numbers[-1]:
            map.m_len = _run_length(_node(inode, buffers[-1]), offsets[-1], map.m_len, numbers[-1])
            map.m_pblk = numbers[-1]
            map.m_flags |= EXT4_MAP_MAPPED
        elif not flags & EXT4_GET_BLOCKS_CREATE:
            ptrs = inode.i_sb.s_blocksize // 4
            missing = len(offsets) - len(numbers)        # levels below the first hole
            span = ptrs ** missing
            inside = 0
            for offset in offsets[len(offsets) - missing :]:
                inside = inside * ptrs + offset
            map.m_pblk = 0
            map.m_len = min(map.m_len, span - inside)
            return 0
        else:
            ext4_alloc_branch(handle, inode, map, flags, offsets, buffers, numbers)
    finally:
        for bh in buffers:
            brelse(bh)
        probe = tp.ext4_ind_map_blocks_exit
        if probe is not None:
            probe(inode, flags, map, map.m_len)
    return map.m_len


@may_sleep
def ext4_alloc_branch(handle: Handle, inode: Inode, map: Ext4MapBlocks, flags: int, offsets: list[int],
                      buffers: list[BufferHead | None], numbers: list[int]) -> None:
    """Allocates what is missing on the way to a block, fills it, and links it last. Raises ENOSPC, EIO."""
    depth = len(numbers) - 1                             # the level that holds the first 0
    missing = len(offsets) - len(numbers)
    goal = ext4_find_near(inode, buffers[-1], offsets[depth])
    ar = Ext4AllocationRequest(inode, 1, map.m_lblk, goal)
    if inode.i_mode & S_IFMT == S_IFREG:
        ar.flags = EXT4_MB_HINT_DATA
    if flags & EXT4_GET_BLOCKS_NO_NORMALIZE:
        ar.flags |= EXT4_MB_HINT_NOPREALLOC
    if flags & EXT4_GET_BLOCKS_DELALLOC_RESERVE:
        ar.flags |= EXT4_MB_DELALLOC_RESERVED
    if flags & EXT4_GET_BLOCKS_METADATA_NOFAIL:
        ar.flags |= EXT4_MB_USE_RESERVED
    if missing:
        ar.len = min(map.m_len, inode.i_sb.s_blocksize // 4 - offsets[-1])
    else:
        ar.len = _run_length(_node(inode, buffers[-1]), offsets[-1], map.m_len, 0)
    meta: list[int] = []
    fresh: list[BufferHead] = []
    try:
        for _ in range(missing):
            meta.append(ext4_new_meta_blocks(handle, inode, ar.goal, ar.flags & EXT4_MB_DELALLOC_RESERVED)[0])
            ar.goal = meta[-1] + 1
        block = ext4_mb_new_blocks(handle, ar)
        for index, number in enumerate(meta):
            bh = sb_getblk(inode.i_sb, number)
            if bh is None:
                raise KernelError(ENOMEM)
            fresh.append(bh)
            lock_buffer(bh)
            ext4_journal_get_create_access(handle, bh)
            data = bh.b_data
            data[:] = bytes(len(data))
            at = offsets[depth + 1 + index]
            following = meta[index + 1 :]
            count = 1 if following else ar.len
            for i in range(count):
                U32.pack_into(data, 4 * (at + i), following[0] if following else block + i)
            set_buffer_uptodate(bh)
            unlock_buffer(bh)
            ext4_handle_dirty_metadata(handle, inode, bh)
        ext4_splice_branch(
            handle, inode, buffers[-1], offsets[depth], meta[0] if meta else block, 1 if meta else ar.len
        )
    except KernelError:
        for number in meta:
            ext4_free_blocks(handle, inode, None, number, 1, EXT4_FREE_BLOCKS_METADATA)
        raise
    finally:
        for bh in fresh:
            brelse(bh)
    if flags & EXT4_GET_BLOCKS_DELALLOC_RESERVE:
        ext4_da_update_reserve_space(inode, ar.len, 1)
    else:
        delayed = ext4_es_delayed_clu(inode, map.m_lblk, ar.len)
        if delayed:
            ext4_da_update_reserve_space(inode, delayed, 0)
    map.m_flags |= EXT4_MAP_NEW | EXT4_MAP_MAPPED
    ext4_update_inode_fsync_trans(handle, inode, 1)
    map.m_pblk = block
    map.m_len = ar.len


@may_sleep
def ext4_splice_branch(
    handle: Handle, inode: Inode, bh: BufferHead | None, offset: int, first: int, count: int
) -> None:
    """Links new blocks where the hole was."""
    if bh is not None:
        ext4_journal_get_write_access(handle, bh)
    node = _node(inode, bh)
    for i in range(count):
        U32.pack_into(node, 4 * (offset + i), first + i)
    if bh is not None:
        ext4_handle_dirty_metadata(handle, inode, bh)
    else:
        ext4_mark_inode_dirty(handle, inode)


# ---- truncation --------------------------------------------------------------------------------------------
@may_sleep
def ext4_free_data(handle: Handle, inode: Inode, bh: BufferHead | None, first: int, last: int) -> None:
    """Frees the data blocks in slots first..last of a node, run by run."""
    node = _node(inode, bh)
    flags = 0
    if inode.i_mode & S_IFMT in (S_IFDIR, S_IFLNK):
        flags = EXT4_FREE_BLOCKS_METADATA | EXT4_FREE_BLOCKS_FORGET
    elif ext4_should_journal_data(inode):
        flags = EXT4_FREE_BLOCKS_FORGET
    index = first
    while index <= last:
        number = slot(node, index)
        count = 1
        if number:
            while index + count <= last and slot(node, index + count) == number + count:
                count += 1
            ext4_ext_truncate_extend_restart(handle, inode, 16)
            if bh is not None:
                ext4_journal_get_write_access(handle, bh)
            for i in range(count):
                U32.pack_into(node, 4 * (index + i), 0)
            if bh is not None:
                ext4_handle_dirty_metadata(handle, inode, bh)
            else:
                ext4_mark_inode_dirty(handle, inode)
            ext4_free_blocks(handle, inode, None, number, count, flags)
        index += count


@may_sleep
def ext4_free_branches(handle: Handle, inode: Inode, parent: BufferHead | None, index: int, depth: int, base: int,
                       start: int, end: int) -> None:
    """Frees logical blocks start..end below one slot; the indirect block goes when it is empty. base: its first
    block.
    """
    node = _node(inode, parent)
    number = slot(node, index)
    if not number:
        return
    ptrs = inode.i_sb.s_blocksize // 4
    bh = ext4_read_indirect(inode, number)
    try:
        if depth == 1:
            ext4_free_data(handle, inode, bh, max(start - base, 0), min(end - base, ptrs - 1))
        else:
            span = ptrs ** (depth - 1)
            for i in range(ptrs):
                low = base + i * span
                if low + span - 1 >= start and low <= end:
                    ext4_free_branches(handle, inode, bh, i, depth - 1, low, start, end)
        empty = not any(bh.b_data)
    finally:
        brelse(bh)
    if empty:
        ext4_ext_truncate_extend_restart(handle, inode, 16)
        if parent is not None:
            ext4_journal_get_write_access(handle, parent)
        U32.pack_into(node, 4 * index, 0)
        if parent is not None:
            ext4_handle_dirty_metadata(handle, inode, parent)
        else:
            ext4_mark_inode_dirty(handle, inode)
        ext4_free_blocks(handle, inode, None, number, 1, EXT4_FREE_BLOCKS_METADATA | EXT4_FREE_BLOCKS_FORGET)


@may_sleep
def ext4_ind_remove_space(handle: Handle, inode: Inode, start: int, end: int) -> None:
    """Frees logical blocks start..end - 1. Locks: i_data_sem for writing."""
    last = end - 1
    if start < EXT4_NDIR_BLOCKS:
        ext4_free_data(handle, inode, None, start, min(last, EXT4_NDIR_BLOCKS - 1))
    ptrs = inode.i_sb.s_blocksize // 4
    base = EXT4_NDIR_BLOCKS
    for depth in (1, 2, 3):
        span = ptrs ** depth
        if base + span - 1 >= start and base <= last:
            ext4_free_branches(handle, inode, None, 11 + depth, depth, base, start, last)
        base += span


@may_sleep
def ext4_ind_truncate(handle: Handle, inode: Inode) -> None:
    """Frees what lies behind i_size."""
    ei = EXT4_I(inode)
    ei.i_disksize = inode.i_size
    blocksize = inode.i_sb.s_blocksize
    last_block = inode.i_size + blocksize - 1 >> inode.i_sb.s_blocksize_bits
    ptrs = blocksize // 4
    ext4_ind_remove_space(handle, inode, last_block, EXT4_NDIR_BLOCKS + ptrs + ptrs**2 + ptrs**3)
