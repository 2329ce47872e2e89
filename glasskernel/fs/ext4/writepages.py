"""Writing dirty pages: blocks are allocated for as long runs of delayed pages as can be.

Linux: ext4_writepages() and mpage_* of fs/ext4/inode.c (5.3). Same: pages that have their blocks go first, without a
    handle; then one extent a handle; i_disksize follows what was submitted; journalled data page by page.
Lock order: page locks outside the handle's credits but after its start; i_data_sem last.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.buffer_head import (
    BH_Delay,
    BH_Dirty,
    BH_Mapped,
    BH_Unwritten,
    BH_Uptodate,
    buffers_of,
    page_buffers,
    page_has_buffers,
)
from glasskernel.fs.buffer_page import __block_write_begin, block_commit_write, block_invalidatepage, clean_bdev_aliases
from glasskernel.fs.ext4.convert import ext4_chunk_trans_blocks, ext4_writepage_trans_blocks
from glasskernel.fs.ext4.errors import KERN_CRIT, ext4_msg
from glasskernel.fs.ext4.ext4_jbd2 import (
    Handle,
    ext4_handle_dirty_metadata,
    ext4_handle_valid,
    ext4_journal_start,
    ext4_journal_stop,
    ext4_should_dioread_nolock,
    ext4_should_journal_data,
)
from glasskernel.fs.ext4.inode_loc import ext4_mark_inode_dirty
from glasskernel.fs.ext4.inode_map import ext4_get_block, ext4_map_blocks
from glasskernel.fs.ext4.page_io import (
    Ext4IoSubmit,
    ext4_bio_write_page,
    ext4_init_io_end,
    ext4_io_submit,
    ext4_put_io_end,
    ext4_put_io_end_defer,
    ext4_set_io_unwritten_flag,
)
from glasskernel.fs.ext4.truncate import do_journal_get_write_access
from glasskernel.fs.ext4.types import (
    EXT4_GET_BLOCKS_CREATE,
    EXT4_GET_BLOCKS_DELALLOC_RESERVE,
    EXT4_GET_BLOCKS_IO_CREATE_EXT,
    EXT4_GET_BLOCKS_IO_SUBMIT,
    EXT4_GET_BLOCKS_METADATA_NOFAIL,
    EXT4_HT_WRITE_PAGE,
    EXT4_I,
    EXT4_MAP_NEW,
    EXT4_MAP_UNWRITTEN,
    EXT4_MF_FS_ABORTED,
    EXT4_SB,
    EXT4_STATE_JDATA,
    Ext4MapBlocks,
    ext4_forced_shutdown,
)
from glasskernel.fs.jbd2.log import jbd2_journal_force_commit_nested
from glasskernel.kernel.locking.percpu_rwsem import percpu_down_read, percpu_up_read
from glasskernel.kernel.locking.rwsem import down_write, up_write
from glasskernel.kernel.sched.core import cond_resched
from glasskernel.lib.errno import EIO, ENOSPC, EROFS, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import PG_checked, PG_dirty, PG_uptodate, PG_writeback, put_page
from glasskernel.mm.page_writeback import (
    clear_page_dirty_for_io,
    generic_writepages,
    redirty_page_for_writepage,
    tagged_indices,
    wait_on_page_writeback,
)
from glasskernel.mm.pagemap import lock_page, unlock_page, zero_user_segment
from glasskernel.mm.types import WB_SYNC_ALL, WB_SYNC_NONE

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.types import Inode
    from glasskernel.mm.types import AddressSpace, WritebackControl

MAX_WRITEPAGES_EXTENT_LEN = 2048
BH_FLAGS = BH_Unwritten | BH_Delay


@slotted
class MpageDaData:
    """struct mpage_da_data. first_page: to write; next_page: to examine; map: the extent that needs blocks."""

    inode: Inode
    wbc: WritebackControl
    io_submit: Ext4IoSubmit
    map: Ext4MapBlocks
    first_page: int = 0
    next_page: int = 0
    last_page: int = 0
    do_map: bool = False


# ---- one page ----------------------------------------------------------------------------------------------
@may_sleep
def mpage_submit_page(mpd: MpageDaData, index: int, pfn: int) -> None:
    """Writes a page whose buffers all have blocks. Locks: page, dropped."""
    inode = mpd.inode
    kernel = inode.i_sb.kernel
    assert index == mpd.first_page
    clear_page_dirty_for_io(kernel, pfn)
    size = inode.i_size                              # after the dirty bit: a page that grows gets dirty again
    length = size & 0xFFF if index == size >> 12 else 4096
    ext4_bio_write_page(mpd.io_submit, pfn, length, inode)
    mpd.wbc.nr_to_write -= 1
    mpd.first_page += 1


def mpage_add_bh_to_extent(mpd: MpageDaData, lblk: int, bh: BufferHead) -> bool:
    """True if the buffer needs no block, or was added to the extent."""
    map = mpd.map
    state = bh.b_state
    if not state & BH_Dirty or not state & BH_Mapped or not state & BH_FLAGS:
        return not map.m_len
    if not map.m_len:
        if not mpd.do_map:
            return False
        map.m_lblk, map.m_len, map.m_flags = lblk, 1, state & BH_FLAGS
        return True
    if map.m_len >= MAX_WRITEPAGES_EXTENT_LEN:
        return False
    if lblk == map.m_lblk + map.m_len and state & BH_FLAGS == map.m_flags:
        map.m_len += 1
        return True
    return False


@may_sleep
def mpage_process_page_bufs(mpd: MpageDaData, index: int, pfn: int, first: int) -> bool:
    """Adds the buffers of a page from number `first` on to the extent; a page that needs no block is written.

    True: go on with the next page.
    """
    inode = mpd.inode
    blocks = inode.i_size + (1 << inode.i_blkbits) - 1 >> inode.i_blkbits
    lblk = (index << 12 - inode.i_blkbits) + first
    for bh in buffers_of(page_buffers(inode.i_sb.kernel, pfn))[first:]:
        if lblk >= blocks or not mpage_add_bh_to_extent(mpd, lblk, bh):
            if mpd.map.m_len:
                return False
            if not mpd.do_map:
                return False
            break
        lblk += 1
    if not mpd.map.m_len:
        mpage_submit_page(mpd, index, pfn)
    return lblk < blocks


@may_sleep
def mpage_prepare_extent_to_map(mpd: MpageDaData) -> None:
    """Locks dirty pages and gathers the next extent that needs blocks; pages that need none are written on the way."""
    mapping = mpd.inode.i_mapping
    kernel = mpd.inode.i_sb.kernel
    wbc = mpd.wbc
    left = max(wbc.nr_to_write, 1) if wbc.sync_mode == WB_SYNC_NONE else 1 << 60
    mpd.map.m_len = 0
    mpd.next_page = mpd.first_page
    flags = kernel.mem.flags
    for index in tagged_indices(mapping.dirty, mpd.first_page, mpd.last_page):
        pfn = mapping.pages.get(index, 0)
        if not pfn:
            continue                                 # truncated while we slept
        if (wbc.sync_mode == WB_SYNC_NONE and left <= 0) or (mpd.map.m_len > 0 and mpd.next_page != index):
            break
        kernel.mem.refcount[pfn] += 1
        lock_page(kernel, pfn)
        if (not flags[pfn] & PG_dirty or (flags[pfn] & PG_writeback and wbc.sync_mode == WB_SYNC_NONE)
                or kernel.mem.mapping.get(pfn) is not mapping):
            unlock_page(kernel, pfn)
            put_page(kernel, pfn)
            continue
        wait_on_page_writeback(kernel, pfn)
        if not mpd.map.m_len:
            mpd.first_page = index
        mpd.next_page = index + 1
        more = mpage_process_page_bufs(mpd, index, pfn, 0)
        put_page(kernel, pfn)
        if not more:
            break
        left -= 1
        cond_resched()


# ---- one extent --------------------------------------------------------------------------------------------
@may_sleep
def mpage_map_one_extent(handle: Handle, mpd: MpageDaData) -> None:
    """Allocates blocks for (the start of) the extent. Raises ENOSPC, EIO."""
    inode, map = mpd.inode, mpd.map
    probe = inode.i_sb.kernel.tp.ext4_da_write_pages_extent
    if probe is not None:
        probe(inode, map)
    flags = EXT4_GET_BLOCKS_CREATE | EXT4_GET_BLOCKS_METADATA_NOFAIL | EXT4_GET_BLOCKS_IO_SUBMIT
    nolock = ext4_should_dioread_nolock(inode)
    if nolock:
        flags |= EXT4_GET_BLOCKS_IO_CREATE_EXT
    if map.m_flags & BH_Delay:
        flags |= EXT4_GET_BLOCKS_DELALLOC_RESERVE
    ext4_map_blocks(handle, inode, map, flags)
    if nolock and map.m_flags & EXT4_MAP_UNWRITTEN:
        io_end = mpd.io_submit.io_end
        if io_end.handle is None and ext4_handle_valid(handle):
            io_end.handle, handle.h_rsv_handle = handle.h_rsv_handle, None
        ext4_set_io_unwritten_flag(inode, io_end)
    assert map.m_len
    if map.m_flags & EXT4_MAP_NEW:
        clean_bdev_aliases(inode.i_sb.s_bdev, map.m_pblk, map.m_len)


@may_sleep
def mpage_map_and_submit_buffers(mpd: MpageDaData) -> None:
    """The extent has blocks: its buffers learn theirs, and complete pages are written."""
    inode, map = mpd.inode, mpd.map
    kernel = inode.i_sb.kernel
    bpp_bits = 12 - inode.i_blkbits
    pblock = map.m_pblk
    start_lblk, end_lblk = map.m_lblk, map.m_lblk + map.m_len
    for index in range(map.m_lblk >> bpp_bits, (end_lblk - 1 >> bpp_bits) + 1):
        pfn = inode.i_mapping.pages[index]
        lblk = index << bpp_bits
        for number, bh in enumerate(buffers_of(page_buffers(kernel, pfn))):
            if lblk + number < start_lblk:
                continue
            if lblk + number >= end_lblk:
                map.m_len = 0
                map.m_flags = 0
                mpage_process_page_bufs(mpd, index, pfn, number)
                return
            if bh.b_state & BH_Delay:
                bh.b_state &= ~BH_Delay
                bh.b_blocknr = pblock
            bh.b_state &= ~BH_Unwritten
            pblock += 1
        mpd.io_submit.io_end.size += 4096
        mpage_submit_page(mpd, index, pfn)
    map.m_len = 0
    map.m_flags = 0


@may_sleep
def mpage_map_and_submit_extent(handle: Handle, mpd: MpageDaData) -> bool:
    """Maps and writes the gathered extent, however many pieces it takes. True: give up, the data is lost (and said so).

    Raises ENOSPC (nothing was done), EIO.
    """
    inode, map = mpd.inode, mpd.map
    sb = inode.i_sb
    sbi = EXT4_SB(sb)
    progress = False
    give_up = False
    errno = 0
    mpd.io_submit.io_end.offset = map.m_lblk << inode.i_blkbits
    while map.m_len:
        try:
            mpage_map_one_extent(handle, mpd)
        except KernelError as e:
            errno = e.errno
            if ext4_forced_shutdown(sbi) or sbi.s_mount_flags & EXT4_MF_FS_ABORTED:
                give_up = True
            elif errno == ENOSPC and sbi.s_freed_data_list:
                if progress:
                    errno = 0
            else:
                ext4_msg(sb, KERN_CRIT, f"Delayed block allocation failed for inode {inode.i_ino} at logical offset "
                         f"{map.m_lblk} with max blocks {map.m_len} with error {errno}")
                ext4_msg(sb, KERN_CRIT, "This should not happen!! Data will be lost\n")
                give_up = True
            break
        progress = True
        mpage_map_and_submit_buffers(mpd)
    disksize = min(mpd.first_page << 12, inode.i_size)
    ei = EXT4_I(inode)
    if disksize > ei.i_disksize:
        down_write(ei.i_data_sem)
        disksize = min(disksize, inode.i_size)
        if disksize > ei.i_disksize:
            ei.i_disksize = disksize
        up_write(ei.i_data_sem)
        ext4_mark_inode_dirty(handle, inode)
    if give_up:
        mpage_release_unused_pages(mpd, True)
    if errno:
        raise KernelError(errno)
    return give_up


@may_sleep
def mpage_release_unused_pages(mpd: MpageDaData, invalidate: bool) -> None:
    """Unlocks pages that were gathered and not written; invalidate: their data is given up."""
    if mpd.first_page >= mpd.next_page:
        return
    inode = mpd.inode
    kernel = inode.i_sb.kernel
    mapping = inode.i_mapping
    for index in range(mpd.first_page, mpd.next_page):
        pfn = mapping.pages.get(index, 0)
        if not pfn:
            continue
        if invalidate:
            clear_page_dirty_for_io(kernel, pfn)
            invalidatepage = mapping.a_ops.invalidatepage or block_invalidatepage
            invalidatepage(pfn, 0, 4096)
            kernel.mem.flags[pfn] &= ~PG_uptodate
        unlock_page(kernel, pfn)
    mpd.next_page = mpd.first_page


@notrace
def ext4_da_writepages_trans_blocks(inode: Inode) -> int:
    return ext4_chunk_trans_blocks(inode, MAX_WRITEPAGES_EXTENT_LEN + (4096 >> inode.i_blkbits) - 1)


@may_sleep
def ext4_writepages(mapping: AddressSpace, wbc: WritebackControl) -> None:
    """->writepages. Raises EIO, ENOSPC, EROFS."""
    inode = mapping.host
    assert inode is not None
    sb = inode.i_sb
    sbi = EXT4_SB(sb)
    if ext4_forced_shutdown(sbi):
        raise KernelError(EIO)
    percpu_down_read(sbi.s_writepages_rwsem)
    tp = sb.kernel.tp
    probe = tp.ext4_writepages
    if probe is not None:
        probe(inode, wbc)
    before = wbc.nr_to_write
    errno = 0
    try:
        if not mapping.pages or not mapping.dirty:
            return
        if ext4_should_journal_data(inode):
            generic_writepages(mapping, wbc)
            return
        if sbi.s_mount_flags & EXT4_MF_FS_ABORTED:
            raise KernelError(EROFS)
        _writepages(mapping, inode, wbc)
    except KernelError as e:
        errno = e.errno
        raise
    finally:
        percpu_up_read(sbi.s_writepages_rwsem)
        probe = tp.ext4_writepages_result
        if probe is not None:
            probe(inode, wbc, -errno, before - wbc.nr_to_write)


@notrace
@may_sleep
def _writepages(mapping: AddressSpace, inode: Inode, wbc: WritebackControl) -> None:
    sb = inode.i_sb
    hooks = sb.kernel.filemap
    first, last = wbc.range_start >> 12, wbc.range_end >> 12
    cycled = True
    if wbc.range_cyclic:
        first, last = mapping.writeback_index, (1 << 52) - 1
        cycled = not first
    plug = hooks.blk_start_plug()
    try:
        while True:
            done_index = _write_range(mapping, inode, wbc, first, last)
            if cycled or wbc.nr_to_write <= 0:
                break
            cycled = True
            first, last = 0, mapping.writeback_index - 1
    finally:
        hooks.blk_finish_plug(plug)
    if wbc.range_cyclic:
        mapping.writeback_index = done_index


@notrace
@may_sleep
def _write_range(mapping: AddressSpace, inode: Inode, wbc: WritebackControl, first: int, last: int) -> int:
    """Answers where to go on next time."""
    mpd = MpageDaData(inode, wbc, Ext4IoSubmit(wbc), Ext4MapBlocks(0, 0), first, first, last)
    mpd.io_submit.io_end = ext4_init_io_end(inode)
    try:
        mpage_prepare_extent_to_map(mpd)             # what has its blocks needs no handle
    finally:
        ext4_io_submit(mpd.io_submit)
        mpage_release_unused_pages(mpd, False)
        ext4_put_io_end_defer(mpd.io_submit.io_end)
    mpd.first_page = mpd.next_page = first
    journal = EXT4_SB(inode.i_sb).s_journal
    # For the handle that converts one extent: there may be one block of it in each page.
    rsv_blocks = 1 + (4096 >> inode.i_blkbits) if ext4_should_dioread_nolock(inode) else 0
    while mpd.first_page <= last:
        mpd.io_submit.io_end = ext4_init_io_end(inode)
        handle = ext4_journal_start(inode, EXT4_HT_WRITE_PAGE, ext4_da_writepages_trans_blocks(inode), rsv_blocks)
        mpd.do_map = True
        errno = 0
        done = False
        try:
            probe = inode.i_sb.kernel.tp.ext4_da_write_pages
            if probe is not None:
                probe(inode, mpd.first_page, wbc)
            mpage_prepare_extent_to_map(mpd)
            if mpd.map.m_len:
                mpage_map_and_submit_extent(handle, mpd)
            else:
                done = True
        except KernelError as e:
            errno = e.errno
        stopped = False
        if not ext4_handle_valid(handle) or not handle.h_sync:
            ext4_journal_stop(handle)
            stopped = True
        mpd.do_map = False
        ext4_io_submit(mpd.io_submit)
        mpage_release_unused_pages(mpd, False)
        if not stopped:
            ext4_put_io_end_defer(mpd.io_submit.io_end)
            ext4_journal_stop(handle)
        else:
            ext4_put_io_end(mpd.io_submit.io_end)
        if errno == ENOSPC and journal is not None and EXT4_SB(inode.i_sb).s_freed_data_list:
            jbd2_journal_force_commit_nested(journal)    # what was freed can be had after a commit
            continue
        if errno:
            raise KernelError(errno)
        if done:
            break
        if wbc.sync_mode == WB_SYNC_NONE and wbc.nr_to_write <= 0:
            return mpd.first_page
    return 0


# ---- page by page ------------------------------------------------------------------------------------------
@may_sleep
def __ext4_journalled_writepage(inode: Inode, index: int, pfn: int, length: int) -> None:
    """A page of journalled data that was dirtied through a mapping: it goes into a transaction. Locks: page,
    dropped.
    """
    kernel = inode.i_sb.kernel
    mapping = inode.i_mapping
    kernel.mem.flags[pfn] &= ~PG_checked
    kernel.mem.refcount[pfn] += 1
    unlock_page(kernel, pfn)
    try:
        handle = ext4_journal_start(inode, EXT4_HT_WRITE_PAGE, ext4_writepage_trans_blocks(inode))
        try:
            lock_page(kernel, pfn)
            if kernel.mem.mapping.get(pfn) is not mapping:
                unlock_page(kernel, pfn)
                return
            try:
                for bh in buffers_of(page_buffers(kernel, pfn)):
                    if bh.b_offset < length:
                        do_journal_get_write_access(handle, bh)
                for bh in buffers_of(page_buffers(kernel, pfn)):
                    if bh.b_offset < length and bh.b_state & BH_Mapped:      # the rest is a hole: nobody stored there
                        bh.b_state |= BH_Uptodate
                        ext4_handle_dirty_metadata(handle, None, bh)
            finally:
                unlock_page(kernel, pfn)
            ei = EXT4_I(inode)
            if handle.h_transaction is not None:
                ei.i_datasync_tid = handle.h_transaction.t_tid
            ei.i_state_flags |= EXT4_STATE_JDATA
        finally:
            ext4_journal_stop(handle)
    finally:
        put_page(kernel, pfn)


@may_sleep
def ext4_writepage(mapping: AddressSpace, index: int, pfn: int, wbc: WritebackControl) -> int:
    """->writepage: pages that have their blocks (reclaim), and journalled data."""
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    if ext4_forced_shutdown(EXT4_SB(inode.i_sb)):
        unlock_page(kernel, pfn)
        raise KernelError(EIO)
    probe = kernel.tp.ext4_writepage
    if probe is not None:
        probe(pfn)
    size = inode.i_size
    length = size & 0xFFF if index == size >> 12 else 4096
    if not page_has_buffers(kernel, pfn):
        __block_write_begin(mapping, pfn, index << 12, length, ext4_get_block)
        block_commit_write(mapping, pfn, 0, length)
    if any(bh.b_offset < length and (not bh.b_state & BH_Mapped or bh.b_state & (BH_Delay | BH_Unwritten))
           and bh.b_state & BH_Dirty for bh in buffers_of(page_buffers(kernel, pfn))):
        redirty_page_for_writepage(wbc, mapping, pfn)
        if inode.i_sb.s_blocksize == 4096 or wbc.sync_mode != WB_SYNC_ALL:
            unlock_page(kernel, pfn)
            return 0
    if kernel.mem.flags[pfn] & PG_checked and ext4_should_journal_data(inode):
        if length < 4096:
            zero_user_segment(kernel, pfn, length, 4096)
        __ext4_journalled_writepage(inode, index, pfn, length)
        return 0
    io_submit = Ext4IoSubmit(wbc, None, ext4_init_io_end(inode))
    ext4_bio_write_page(io_submit, pfn, length, inode)
    ext4_io_submit(io_submit)
    ext4_put_io_end_defer(io_submit.io_end)
    return 0


