"""Blocks of a file: ext4_map_blocks() and the ways to get at one block.

Linux: fs/ext4/inode.c (5.3): ext4_map_blocks, ext4_get_block, ext4_getblk, ext4_bread, ext4_bread_batch.
Same: the extent status tree is asked first; data=ordered files are listed with the transaction that allocates.
Lock order: i_data_sem inside a handle.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.blk_types import REQ_META, REQ_OP_READ, REQ_PRIO
from glasskernel.fs.buffer import sb_getblk, sb_issue_zeroout
from glasskernel.fs.buffer_head import (
    BH_Boundary,
    BH_Mapped,
    BH_New,
    BH_Unwritten,
    buffer_uptodate,
    map_bh,
    set_buffer_uptodate,
)
from glasskernel.fs.buffer_io import brelse, ll_rw_block, lock_buffer, unlock_buffer, wait_on_buffer
from glasskernel.fs.ext4.block_validity import ext4_data_block_valid
from glasskernel.fs.ext4.errors import EFSCORRUPTED, __ext4_error_inode
from glasskernel.fs.ext4.ext4_jbd2 import (
    Handle,
    ext4_handle_dirty_metadata,
    ext4_jbd2_inode_add_wait,
    ext4_jbd2_inode_add_write,
    ext4_journal_current_handle,
    ext4_journal_get_create_access,
    ext4_should_order_data,
)
from glasskernel.fs.ext4.extents_map import ext4_ext_map_blocks
from glasskernel.fs.ext4.extents_status import (
    ES_DELAYED,
    ES_UNWRITTEN,
    ES_WRITTEN,
    ext4_es_insert_extent,
    ext4_es_lookup_extent,
    ext4_es_scan_range,
)
from glasskernel.fs.ext4.indirect import ext4_ind_map_blocks
from glasskernel.fs.ext4.types import (
    EXT4_EXTENTS_FL,
    EXT4_GET_BLOCKS_CONVERT_UNWRITTEN,
    EXT4_GET_BLOCKS_CREATE,
    EXT4_GET_BLOCKS_DELALLOC_RESERVE,
    EXT4_GET_BLOCKS_IO_SUBMIT,
    EXT4_GET_BLOCKS_PRE_IO,
    EXT4_GET_BLOCKS_ZERO,
    EXT4_I,
    EXT4_MAP_BOUNDARY,
    EXT4_MAP_MAPPED,
    EXT4_MAP_NEW,
    EXT4_MAP_UNWRITTEN,
    EXT4_SB,
    EXT_MAX_BLOCKS,
    Ext4MapBlocks,
)
from glasskernel.kernel.locking.rwsem import down_read, down_write, up_read, up_write
from glasskernel.lib.errno import EFBIG, EIO, ENOMEM, ENOSPC, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.types import Inode


@may_sleep
def __check_block_validity(inode: Inode, function: str, map: Ext4MapBlocks) -> None:
    """Raises EFSCORRUPTED for blocks that no file may have."""
    sbi = EXT4_SB(inode.i_sb)
    if inode.i_ino == sbi.s_es.s_journal_inum and sbi.s_journal is not None:
        return
    if not ext4_data_block_valid(sbi, map.m_pblk, map.m_len):
        __ext4_error_inode(inode, function, 0, map.m_pblk,
                           f"lblock {map.m_lblk} mapped to illegal pblock {map.m_pblk} (length {map.m_len})")
        raise KernelError(EFSCORRUPTED)


@may_sleep
def ext4_issue_zeroout(inode: Inode, lblk: int, pblk: int, length: int) -> None:
    sb_issue_zeroout(inode.i_sb, pblk, length)


@notrace
@may_sleep
def _map_in_tree(handle: Handle, inode: Inode, map: Ext4MapBlocks, flags: int) -> int:
    if EXT4_I(inode).i_flags & EXT4_EXTENTS_FL:
        return ext4_ext_map_blocks(handle, inode, map, flags)
    return ext4_ind_map_blocks(handle, inode, map, flags)


@notrace
def _remember(inode: Inode, map: Ext4MapBlocks, flags: int) -> None:
    status = ES_UNWRITTEN if map.m_flags & EXT4_MAP_UNWRITTEN else ES_WRITTEN
    if (not flags & EXT4_GET_BLOCKS_DELALLOC_RESERVE and not status & ES_WRITTEN
            and ext4_es_scan_range(inode, ES_DELAYED, map.m_lblk, map.m_lblk + map.m_len - 1)):
        status |= ES_DELAYED
    ext4_es_insert_extent(inode, map.m_lblk, map.m_len, map.m_pblk, status)


@may_sleep
def ext4_map_blocks(handle: Handle, inode: Inode, map: Ext4MapBlocks, flags: int) -> int:
    """Maps up to map.m_len blocks from map.m_lblk; answers how many, 0: a hole of map.m_len blocks.

    m_flags says how: MAPPED, UNWRITTEN (reads as zeros), NEW (just allocated). Raises ENOSPC, EIO, EFSCORRUPTED, EFBIG.
    """
    ei = EXT4_I(inode)
    map.m_flags = 0
    if map.m_len > 0x7FFFFFFF:
        map.m_len = 0x7FFFFFFF
    if map.m_lblk >= EXT_MAX_BLOCKS:
        raise KernelError(EFBIG if flags & EXT4_GET_BLOCKS_CREATE else EFSCORRUPTED)
    retval = 0
    es = ext4_es_lookup_extent(inode, map.m_lblk)
    if es is not None:
        offset = map.m_lblk - es.es_lblk
        if es.es_status & (ES_WRITTEN | ES_UNWRITTEN):
            map.m_pblk = es.es_pblk + offset
            map.m_flags |= EXT4_MAP_MAPPED if es.es_status & ES_WRITTEN else EXT4_MAP_UNWRITTEN
            retval = map.m_len = min(es.es_len - offset, map.m_len)
        else:
            map.m_pblk = 0
            map.m_len = min(es.es_len - offset, map.m_len)
    else:
        down_read(ei.i_data_sem)
        try:
            retval = _map_in_tree(handle, inode, map, flags & 0)
            if retval > 0:
                _remember(inode, map, flags)
        finally:
            up_read(ei.i_data_sem)
    if retval > 0 and map.m_flags & EXT4_MAP_MAPPED:
        __check_block_validity(inode, "ext4_map_blocks", map)
    if not flags & EXT4_GET_BLOCKS_CREATE:
        return retval
    if retval > 0 and map.m_flags & EXT4_MAP_MAPPED and not flags & EXT4_GET_BLOCKS_CONVERT_UNWRITTEN:
        return retval
    map.m_flags = 0
    down_write(ei.i_data_sem)
    try:
        retval = _map_in_tree(handle, inode, map, flags)
        if retval > 0:
            if (flags & EXT4_GET_BLOCKS_ZERO and map.m_flags & EXT4_MAP_MAPPED and map.m_flags & EXT4_MAP_NEW):
                ext4_issue_zeroout(inode, map.m_lblk, map.m_pblk, map.m_len)
            known = ext4_es_lookup_extent(inode, map.m_lblk) if flags & EXT4_GET_BLOCKS_PRE_IO else None
            if known is None or not known.es_status & ES_WRITTEN:        # else it was zeroed
                _remember(inode, map, flags)
    finally:
        up_write(ei.i_data_sem)
    if retval > 0 and map.m_flags & EXT4_MAP_MAPPED:
        __check_block_validity(inode, "ext4_map_blocks", map)
        if (map.m_flags & EXT4_MAP_NEW and not map.m_flags & EXT4_MAP_UNWRITTEN and not flags & EXT4_GET_BLOCKS_ZERO
                and inode.i_ino != 8 and ext4_should_order_data(inode)):
            start = map.m_lblk << inode.i_blkbits
            length = map.m_len << inode.i_blkbits
            if flags & EXT4_GET_BLOCKS_IO_SUBMIT:
                ext4_jbd2_inode_add_wait(handle, inode, start, length)
            else:
                ext4_jbd2_inode_add_write(handle, inode, start, length)
    return retval


@notrace
def ext4_update_bh_state(bh: BufferHead, flags: int) -> None:
    """The BH_* bits that correspond to EXT4_MAP_* ones."""
    state = bh.b_state & ~(BH_New | BH_Mapped | BH_Unwritten | BH_Boundary)
    if flags & EXT4_MAP_NEW:
        state |= BH_New
    if flags & EXT4_MAP_MAPPED:
        state |= BH_Mapped
    if flags & EXT4_MAP_UNWRITTEN:
        state |= BH_Unwritten
    if flags & EXT4_MAP_BOUNDARY:
        state |= BH_Boundary
    bh.b_state = state


@may_sleep
def _ext4_get_block(inode: Inode, iblock: int, bh: BufferHead, flags: int) -> None:
    map = Ext4MapBlocks(iblock, max(bh.b_size >> inode.i_blkbits, 1))
    ret = ext4_map_blocks(ext4_journal_current_handle(), inode, map, flags)
    if ret > 0:
        map_bh(bh, inode.i_sb, map.m_pblk)
        ext4_update_bh_state(bh, map.m_flags)
        bh.b_size = inode.i_sb.s_blocksize * map.m_len
    elif not ret:
        bh.b_size = inode.i_sb.s_blocksize * map.m_len


@may_sleep
def ext4_get_block(inode: Inode, iblock: int, bh: BufferHead, create: int) -> None:
    """get_block_t: maps a block for the buffer layer; create: allocates (inside a handle)."""
    _ext4_get_block(inode, iblock, bh, EXT4_GET_BLOCKS_CREATE if create else 0)


@may_sleep
def ext4_getblk(handle: Handle, inode: Inode, block: int, map_flags: int) -> BufferHead | None:
    """The buffer of a file's block (of a directory, of a symlink), not read; None: a hole. Raises EIO, ENOSPC."""
    map = Ext4MapBlocks(block, 1)
    err = ext4_map_blocks(handle, inode, map, map_flags)
    if not err:
        if map_flags & EXT4_GET_BLOCKS_CREATE:
            raise KernelError(ENOSPC)
        return None
    bh = sb_getblk(inode.i_sb, map.m_pblk)
    if bh is None:
        raise KernelError(ENOMEM)
    if map.m_flags & EXT4_MAP_NEW:
        lock_buffer(bh)
        try:
            ext4_journal_get_create_access(handle, bh)
            if not buffer_uptodate(bh):
                bh.b_data[:] = bytes(bh.b_size)
                set_buffer_uptodate(bh)
        except KernelError:
            unlock_buffer(bh)
            brelse(bh)
            raise
        unlock_buffer(bh)
        ext4_handle_dirty_metadata(handle, inode, bh)
    return bh


@may_sleep
def ext4_bread(handle: Handle, inode: Inode, block: int, map_flags: int) -> BufferHead | None:
    """The same, read. Raises EIO too."""
    bh = ext4_getblk(handle, inode, block, map_flags)
    if bh is None or buffer_uptodate(bh):
        return bh
    ll_rw_block(REQ_OP_READ, REQ_META | REQ_PRIO, [bh])
    wait_on_buffer(bh)
    if buffer_uptodate(bh):
        return bh
    brelse(bh)
    raise KernelError(EIO)


@may_sleep
def ext4_bread_batch(inode: Inode, block: int, bh_count: int, wait: bool) -> list[BufferHead | None]:
    """Several blocks at once: read in parallel. Raises EIO."""
    bhs: list[BufferHead | None] = []
    try:
        for i in range(bh_count):
            bhs.append(ext4_getblk(None, inode, block + i, 0))
        for bh in bhs:
            if bh is not None and not buffer_uptodate(bh):
                ll_rw_block(REQ_OP_READ, REQ_META | REQ_PRIO, [bh])
        if not wait:
            return bhs
        for bh in bhs:
            if bh is not None:
                wait_on_buffer(bh)
        for bh in bhs:
            if bh is not None and not buffer_uptodate(bh):
                raise KernelError(EIO)
    except KernelError:
        for bh in bhs:
            brelse(bh)
        raise
    return bhs


@notrace
def hole_length(dir: Inode, block: int, most: int) -> int:
    """How many blocks of a damaged directory are not there, from this hole on: its size may say anything."""
    hole = Ext4MapBlocks(block, most)
    return max(hole.m_len, 1) if ext4_map_blocks(None, dir, hole, 0) == 0 else 1
