"""Truncation.

Linux: ext4_truncate() and the block zeroing of fs/ext4/inode.c (5.3). Same: the orphan list around it, the last block
    zeroed in the cache before blocks go.
Lock order: i_rwsem, handle, page lock, i_data_sem.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.blk_types import REQ_OP_READ
from glasskernel.fs.buffer_head import (
    BH_Mapped,
    BH_Uptodate,
    buffers_of,
    get_bh,
    page_buffers,
    page_has_buffers,
    put_bh,
)
from glasskernel.fs.buffer_io import ll_rw_block, mark_buffer_dirty, wait_on_buffer
from glasskernel.fs.buffer_page import create_empty_buffers
from glasskernel.fs.ext4.convert import ext4_writepage_trans_blocks
from glasskernel.fs.ext4.ext4_jbd2 import (
    EXT4_DATA_TRANS_BLOCKS,
    EXT4_MAX_TRANS_DATA,
    Handle,
    ext4_handle_dirty_metadata,
    ext4_handle_sync,
    ext4_inode_attach_jinode,
    ext4_jbd2_inode_add_write,
    ext4_journal_get_write_access,
    ext4_journal_start,
    ext4_journal_stop,
    ext4_should_journal_data,
    ext4_should_order_data,
)
from glasskernel.fs.ext4.extents_remove import ext4_ext_truncate
from glasskernel.fs.ext4.extents_status import ext4_es_remove_extent
from glasskernel.fs.ext4.indirect import ext4_ind_truncate
from glasskernel.fs.ext4.inode_loc import ext4_mark_inode_dirty
from glasskernel.fs.ext4.inode_map import ext4_get_block
from glasskernel.fs.ext4.mballoc import ext4_discard_preallocations
from glasskernel.fs.ext4.orphan import ext4_orphan_add, ext4_orphan_del
from glasskernel.fs.ext4.types import (
    EXT4_EXTENTS_FL,
    EXT4_HT_TRUNCATE,
    EXT4_I,
    EXT4_MOUNT_NO_AUTO_DA_ALLOC,
    EXT4_SB,
    EXT4_STATE_DA_ALLOC_CLOSE,
    EXT_MAX_BLOCKS,
    test_opt,
)
from glasskernel.fs.inode import current_time
from glasskernel.fs.types import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_SYNC
from glasskernel.kernel.locking.rwsem import down_write, up_write
from glasskernel.lib.errno import EIO, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import PG_uptodate, put_page
from glasskernel.mm.pagemap import find_or_create_page, unlock_page, zero_user_segment

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.types import Inode
    from glasskernel.mm.types import AddressSpace


@notrace
def ext4_inode_is_fast_symlink(inode: Inode) -> bool:
    """The text lies in the inode."""
    return inode.i_mode & S_IFMT == S_IFLNK and 0 < inode.i_size < 60 and not EXT4_I(inode).i_flags & 0x200000


def ext4_can_truncate(inode: Inode) -> bool:
    kind = inode.i_mode & S_IFMT
    if kind in (S_IFREG, S_IFDIR):
        return True
    return kind == S_IFLNK and not ext4_inode_is_fast_symlink(inode)


@notrace
def ext4_blocks_for_truncate(inode: Inode) -> int:
    """Credits to start a truncation with."""
    needed = max(2, min(inode.i_blocks >> inode.i_blkbits - 9, EXT4_MAX_TRANS_DATA))
    return EXT4_DATA_TRANS_BLOCKS(inode.i_sb) + needed


@may_sleep
def do_journal_get_write_access(handle: Handle, bh: BufferHead) -> None:
    """A buffer of journalled data is about to be changed. The page keeps it; the journal wants a reference too."""
    if not bh.b_state & BH_Mapped:
        return
    get_bh(bh)
    try:
        ext4_journal_get_write_access(handle, bh)
    finally:
        put_bh(bh)


@may_sleep
def __ext4_block_zero_page_range(handle: Handle, mapping: AddressSpace, start: int, length: int) -> None:
    """Zeros bytes inside one block, through the cache. Raises EIO, ENOMEM."""
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    offset = start & 0xFFF
    pfn = find_or_create_page(mapping, start >> 12, mapping.gfp_mask)
    try:
        if not page_has_buffers(kernel, pfn):
            create_empty_buffers(kernel, pfn, inode.i_sb.s_blocksize, 0)
        bh = buffers_of(page_buffers(kernel, pfn))[offset >> inode.i_blkbits]
        if not bh.b_state & BH_Mapped:
            ext4_get_block(inode, start >> inode.i_blkbits, bh, 0)
            if not bh.b_state & BH_Mapped:
                return                               # a hole
        if kernel.mem.flags[pfn] & PG_uptodate:
            bh.b_state |= BH_Uptodate
        if not bh.b_state & BH_Uptodate:
            ll_rw_block(REQ_OP_READ, 0, [bh])
            wait_on_buffer(bh)
            if not bh.b_state & BH_Uptodate:
                raise KernelError(EIO)
        if ext4_should_journal_data(inode):
            do_journal_get_write_access(handle, bh)
        zero_user_segment(kernel, pfn, offset, offset + length)
        if ext4_should_journal_data(inode):
            ext4_handle_dirty_metadata(handle, inode, bh)
        else:
            mark_buffer_dirty(bh)
            if ext4_should_order_data(inode):
                ext4_jbd2_inode_add_write(handle, inode, start, length)
    finally:
        unlock_page(kernel, pfn)
        put_page(kernel, pfn)


@may_sleep
def ext4_block_zero_page_range(handle: Handle, mapping: AddressSpace, start: int, length: int) -> None:
    """The same, cut to the end of the block."""
    assert mapping.host is not None
    blocksize = mapping.host.i_sb.s_blocksize
    left = blocksize - (start & blocksize - 1)
    __ext4_block_zero_page_range(handle, mapping, start, min(length, left))


@may_sleep
def ext4_block_truncate_page(handle: Handle, mapping: AddressSpace, start: int) -> None:
    """Zeros from byte `start` to the end of its block."""
    assert mapping.host is not None
    blocksize = mapping.host.i_sb.s_blocksize
    ext4_block_zero_page_range(handle, mapping, start, blocksize - (start & blocksize - 1))


@may_sleep
def ext4_zero_partial_blocks(handle: Handle, inode: Inode, lstart: int, length: int) -> None:
    """Zeros the parts of blocks at both ends of a range."""
    blocksize = inode.i_sb.s_blocksize
    byte_end = lstart + length - 1
    start, end = lstart // blocksize, byte_end // blocksize
    mapping = inode.i_mapping
    partial_start = lstart & blocksize - 1
    partial_end = byte_end & blocksize - 1
    if start == end and (partial_start or partial_end != blocksize - 1):
        ext4_block_zero_page_range(handle, mapping, lstart, length)
        return
    if partial_start:
        ext4_block_zero_page_range(handle, mapping, lstart, blocksize)
    if partial_end != blocksize - 1:
        ext4_block_zero_page_range(handle, mapping, byte_end - partial_end, partial_end + 1)


@may_sleep
def ext4_truncate(inode: Inode) -> None:
    """Frees the blocks behind i_size. Locks: i_rwsem, or the inode is going away. Raises EIO, EROFS, ENOSPC."""
    if not ext4_can_truncate(inode):
        return
    tp = inode.i_sb.kernel.tp
    probe = tp.ext4_truncate_enter
    if probe is not None:
        probe(inode)
    ei = EXT4_I(inode)
    if not inode.i_size and not test_opt(EXT4_SB(inode.i_sb), EXT4_MOUNT_NO_AUTO_DA_ALLOC):
        ei.i_state_flags |= EXT4_STATE_DA_ALLOC_CLOSE
    if inode.i_size & inode.i_sb.s_blocksize - 1:
        ext4_inode_attach_jinode(inode)
    extents = ei.i_flags & EXT4_EXTENTS_FL
    credits = ext4_writepage_trans_blocks(inode) if extents else ext4_blocks_for_truncate(inode)
    handle = ext4_journal_start(inode, EXT4_HT_TRUNCATE, credits)
    try:
        if inode.i_size & inode.i_sb.s_blocksize - 1:
            ext4_block_truncate_page(handle, inode.i_mapping, inode.i_size)
        ext4_orphan_add(handle, inode)
        down_write(ei.i_data_sem)
        try:
            ext4_discard_preallocations(inode)
            if extents:
                ext4_ext_truncate(handle, inode)
            else:
                _ind_truncate(handle, inode)
        finally:
            up_write(ei.i_data_sem)
        if inode.i_flags & S_SYNC:
            ext4_handle_sync(handle)
    finally:
        try:
            if inode.i_nlink:
                ext4_orphan_del(handle, inode)
            inode.i_mtime = inode.i_ctime = current_time(inode)
            ext4_mark_inode_dirty(handle, inode)
        finally:
            ext4_journal_stop(handle)
    probe = tp.ext4_truncate_exit
    if probe is not None:
        probe(inode)


@notrace
@may_sleep
def _ind_truncate(handle: Handle, inode: Inode) -> None:
    last_block = inode.i_size + inode.i_sb.s_blocksize - 1 >> inode.i_sb.s_blocksize_bits
    ext4_es_remove_extent(inode, last_block, EXT_MAX_BLOCKS - last_block)
    ext4_ind_truncate(handle, inode)
