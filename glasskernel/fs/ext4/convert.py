"""Unwritten extents become written ones after their I/O.

Linux: ext4_convert_unwritten_extents() in fs/ext4/extents.c (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.ext4.ext4_jbd2 import (
    EXT4_DATA_TRANS_BLOCKS,
    Handle,
    __ext4_journal_start_reserved,
    ext4_journal_start,
    ext4_journal_stop,
)
from glasskernel.fs.ext4.extents import ext_depth
from glasskernel.fs.ext4.inode_loc import ext4_mark_inode_dirty
from glasskernel.fs.ext4.inode_map import ext4_map_blocks
from glasskernel.fs.ext4.types import (
    EXT4_EXTENTS_FL,
    EXT4_GET_BLOCKS_IO_CONVERT_EXT,
    EXT4_HT_EXT_CONVERT,
    EXT4_HT_MAP_BLOCKS,
    EXT4_I,
    EXT4_SB,
    Ext4MapBlocks,
)
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode


@notrace
def ext4_chunk_trans_blocks(inode: Inode, nrblocks: int) -> int:
    """Credits for allocating one extent of nrblocks."""
    if EXT4_I(inode).i_flags & EXT4_EXTENTS_FL:
        idxblocks = ext_depth(inode) * 2
    else:
        idxblocks = nrblocks * 2 // (inode.i_sb.s_blocksize // 4) + 8
    sbi = EXT4_SB(inode.i_sb)
    groups = min(idxblocks + 1, sbi.s_groups_count)
    return idxblocks + groups + min(groups, sbi.s_gdb_count) + 1 + 2


@notrace
def ext4_writepage_trans_blocks(inode: Inode) -> int:
    """Credits for writing one page."""
    bpp = max(4096 >> inode.i_blkbits, 1)
    if EXT4_I(inode).i_flags & EXT4_EXTENTS_FL:
        idxblocks = ext_depth(inode) * 3
    else:
        idxblocks = bpp * 2 // (inode.i_sb.s_blocksize // 4) + 8
    sbi = EXT4_SB(inode.i_sb)
    groups = min(idxblocks + bpp, sbi.s_groups_count)
    credits = idxblocks + groups + min(groups, sbi.s_gdb_count) + 1 + 2
    if sbi.s_mount_opt & 0xC00 == 0x400:                 # data=journal
        credits += bpp
    return min(credits, EXT4_DATA_TRANS_BLOCKS(inode.i_sb) + credits)


@may_sleep
def ext4_convert_unwritten_extents(handle: Handle, inode: Inode, offset: int, length: int) -> None:
    """Bytes offset..offset+length are on disk. handle: a reserved one, or None. Raises EIO, ENOSPC."""
    blkbits = inode.i_blkbits
    map = Ext4MapBlocks(offset >> blkbits, 0)
    max_blocks = (offset + length + (1 << blkbits) - 1 >> blkbits) - map.m_lblk
    if handle is not None:
        handle = __ext4_journal_start_reserved(handle, EXT4_HT_EXT_CONVERT)
    while max_blocks > 0:
        map.m_len = max_blocks
        mine = handle
        if mine is None:
            mine = ext4_journal_start(inode, EXT4_HT_MAP_BLOCKS, ext4_chunk_trans_blocks(inode, max_blocks))
        try:
            ret = ext4_map_blocks(mine, inode, map, EXT4_GET_BLOCKS_IO_CONVERT_EXT)
            ext4_mark_inode_dirty(mine, inode)
        finally:
            if handle is None:
                ext4_journal_stop(mine)
        if ret <= 0:
            break
        map.m_lblk += ret
        max_blocks -= ret
    if handle is not None:
        ext4_journal_stop(handle)
