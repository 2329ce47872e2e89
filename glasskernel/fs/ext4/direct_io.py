"""Direct I/O.

Linux: ext4_direct_IO() and its get_block functions in fs/ext4/inode.c (5.3).
Same: writes into holes and behind the end make unwritten extents, converted when the data is on disk; the orphan list
    around a write that extends; block maps and journalled data fall back as in Linux.
Locks: i_rwsem held by the caller.
"""
from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from glasskernel.fs.buffer_head import BH_Defer_Completion, BH_Unwritten
from glasskernel.fs.direct_io import __blockdev_direct_IO
from glasskernel.fs.ext4.convert import ext4_chunk_trans_blocks, ext4_convert_unwritten_extents
from glasskernel.fs.ext4.ext4_jbd2 import (
    ext4_journal_start,
    ext4_journal_stop,
    ext4_should_journal_data,
)
from glasskernel.fs.ext4.inode_loc import ext4_mark_inode_dirty
from glasskernel.fs.ext4.inode_map import _ext4_get_block, ext4_get_block
from glasskernel.fs.ext4.orphan import ext4_orphan_add, ext4_orphan_del
from glasskernel.fs.ext4.page_io import (
    ext4_clear_io_unwritten_flag,
    ext4_init_io_end,
    ext4_put_io_end,
    ext4_set_io_unwritten_flag,
)
from glasskernel.fs.ext4.truncate import ext4_truncate
from glasskernel.fs.ext4.types import (
    EXT4_EXTENTS_FL,
    EXT4_GET_BLOCKS_CREATE,
    EXT4_GET_BLOCKS_IO_CREATE_EXT,
    EXT4_HT_INODE,
    EXT4_HT_MAP_BLOCKS,
    EXT4_I,
)
from glasskernel.fs.types import IOCB_WRITE, is_sync_kiocb
from glasskernel.kernel.locking.rwsem import down_write, up_write
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import may_sleep
from glasskernel.mm.filemap import filemap_write_and_wait_range

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.types import Inode, Kiocb
    from glasskernel.mm.iov_iter import IovIter

DIO_MAX_BLOCKS = 4096


@may_sleep
def ext4_get_block_trans(inode: Inode, iblock: int, bh_result: BufferHead, flags: int) -> None:
    """Allocates in a handle of its own."""
    blocks = min(bh_result.b_size >> inode.i_blkbits, DIO_MAX_BLOCKS)
    bh_result.b_size = blocks << inode.i_blkbits
    handle = ext4_journal_start(inode, EXT4_HT_MAP_BLOCKS, ext4_chunk_trans_blocks(inode, blocks))
    try:
        _ext4_get_block(inode, iblock, bh_result, flags)
    finally:
        ext4_journal_stop(handle)


@may_sleep
def ext4_dio_get_block_unwritten_async(inode: Inode, iblock: int, bh_result: BufferHead, create: int) -> None:
    """get_block_t of asynchronous writes: the io end that converts is made now, when memory may be waited for."""
    ext4_get_block_trans(inode, iblock, bh_result, EXT4_GET_BLOCKS_IO_CREATE_EXT)
    if bh_result.b_state & BH_Unwritten:
        if bh_result.b_private is None:
            io_end = bh_result.b_private = ext4_init_io_end(inode)
            ext4_set_io_unwritten_flag(inode, io_end)
        bh_result.b_state |= BH_Defer_Completion


@may_sleep
def ext4_dio_get_block_unwritten_sync(inode: Inode, iblock: int, bh_result: BufferHead, create: int) -> None:
    """get_block_t: new blocks are unwritten until the data is there."""
    ext4_get_block_trans(inode, iblock, bh_result, EXT4_GET_BLOCKS_IO_CREATE_EXT)
    if bh_result.b_state & BH_Unwritten:
        bh_result.b_private = True               # ext4_end_io_dio() has something to convert


@may_sleep
def ext4_dio_get_block(inode: Inode, iblock: int, bh_result: BufferHead, create: int) -> None:
    """get_block_t of block maps."""
    if not create:
        _ext4_get_block(inode, iblock, bh_result, 0)
    else:
        ext4_get_block_trans(inode, iblock, bh_result, EXT4_GET_BLOCKS_CREATE)


@may_sleep
def ext4_end_io_dio(iocb: Kiocb, offset: int, size: int, private: Any) -> None:
    """dio_iodone_t: what was unwritten is written."""
    if private is True:
        if size > 0:
            ext4_convert_unwritten_extents(None, iocb.ki_filp.f_inode, offset, size)
    elif private is not None:
        if size <= 0:
            ext4_clear_io_unwritten_flag(private)
            size = 0
        private.offset = offset
        private.size = size
        ext4_put_io_end(private)


@may_sleep
def ext4_direct_IO_write(iocb: Kiocb, source: IovIter) -> int:
    """Answers how many bytes were written. Raises EIO, ENOSPC, EINVAL (alignment)."""
    inode = iocb.ki_filp.f_mapping.host
    assert inode is not None
    ei = EXT4_I(inode)
    offset, count = iocb.ki_pos, source.count
    final_size = offset + count
    orphan = False
    if final_size > inode.i_size or final_size > ei.i_disksize:
        handle = ext4_journal_start(inode, EXT4_HT_INODE, 2)
        try:
            ext4_orphan_add(handle, inode)
            orphan = True
            down_write(ei.i_data_sem)
            ei.i_disksize = inode.i_size
            up_write(ei.i_data_sem)
        finally:
            ext4_journal_stop(handle)
    get_block, end_io = ext4_dio_get_block, None
    if ei.i_flags & EXT4_EXTENTS_FL:
        # A write that extends is waited for, like a synchronous one.
        wait = is_sync_kiocb(iocb) or final_size > inode.i_size
        get_block = ext4_dio_get_block_unwritten_sync if wait else ext4_dio_get_block_unwritten_async
        end_io = ext4_end_io_dio
    ret = 0
    try:
        ret = __blockdev_direct_IO(iocb, inode, inode.i_sb.s_bdev, source, get_block, end_io, 0)
    finally:
        if orphan:
            handle = ext4_journal_start(inode, EXT4_HT_INODE, 2)
            try:
                end = offset + max(ret, 0)
                if ret > 0 and end > inode.i_size:
                    inode.i_size = end
                if ret > 0 and end > ei.i_disksize:
                    down_write(ei.i_data_sem)
                    ei.i_disksize = end
                    up_write(ei.i_data_sem)
                    ext4_mark_inode_dirty(handle, inode)
                if inode.i_nlink:
                    ext4_orphan_del(handle, inode)
            finally:
                ext4_journal_stop(handle)
            if ret < count and final_size > inode.i_size:
                with contextlib.suppress(KernelError):
                    ext4_truncate(inode)
    return ret


@may_sleep
def ext4_direct_IO_read(iocb: Kiocb, to: IovIter) -> int:
    mapping = iocb.ki_filp.f_mapping
    inode = mapping.host
    assert inode is not None
    filemap_write_and_wait_range(mapping, iocb.ki_pos, iocb.ki_pos + to.count - 1)
    return __blockdev_direct_IO(iocb, inode, inode.i_sb.s_bdev, to, ext4_get_block, None, 0)


@may_sleep
def ext4_direct_IO(iocb: Kiocb, iter: IovIter) -> int:
    """->direct_IO: how many bytes; 0: do it through the page cache."""
    inode = iocb.ki_filp.f_mapping.host
    assert inode is not None
    if ext4_should_journal_data(inode):
        return 0
    tp = inode.i_sb.kernel.tp
    offset, count = iocb.ki_pos, iter.count
    write = bool(iocb.ki_flags & IOCB_WRITE)
    probe = tp.ext4_direct_IO_enter
    if probe is not None:
        probe(inode, offset, count, int(write))
    ret = ext4_direct_IO_write(iocb, iter) if write else ext4_direct_IO_read(iocb, iter)
    probe = tp.ext4_direct_IO_exit
    if probe is not None:
        probe(inode, offset, count, int(write), ret)
    return ret
