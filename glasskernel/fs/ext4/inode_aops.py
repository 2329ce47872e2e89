"""Writing into the page cache: with blocks at once (nodelalloc, data=journal), or with blocks later (delalloc).

Linux: the write half of fs/ext4/inode.c (5.3). Same: a handle from write_begin to write_end, i_disksize against i_size,
    the orphan list for writes that fail behind the end, journalled data.
Lock order: page lock inside the handle; i_data_sem inside both.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.fs.buffer_head import (
    BH_Delay,
    BH_Mapped,
    BH_New,
    BH_Unwritten,
    BH_Uptodate,
    buffers_of,
    map_bh,
    page_buffers,
    page_has_buffers,
)
from glasskernel.fs.buffer_page import (
    __block_write_begin,
    __set_page_dirty_buffers,
    block_invalidatepage,
    block_is_partially_uptodate,
    block_write_end,
    generic_block_bmap,
    generic_write_end,
    page_zero_new_buffers,
    try_to_free_buffers,
)
from glasskernel.fs.ext4.convert import ext4_writepage_trans_blocks
from glasskernel.fs.ext4.direct_io import ext4_direct_IO
from glasskernel.fs.ext4.ext4_jbd2 import (
    EXT4_JOURNAL_DATA_MODE,
    Handle,
    ext4_handle_dirty_metadata,
    ext4_inode_journal_mode,
    ext4_journal_current_handle,
    ext4_journal_start,
    ext4_journal_stop,
    ext4_journal_stop_quiet,
    ext4_should_journal_data,
)
from glasskernel.fs.ext4.extents_map import ext4_ext_map_blocks
from glasskernel.fs.ext4.extents_status import (
    ES_DELAYED,
    ES_HOLE,
    ES_UNWRITTEN,
    ES_WRITTEN,
    ext4_da_reserve_space,
    ext4_es_find_extent_range,
    ext4_es_insert_delayed_block,
    ext4_es_insert_extent,
    ext4_es_lookup_extent,
    ext4_es_remove_extent,
)
from glasskernel.fs.ext4.indirect import ext4_ind_map_blocks
from glasskernel.fs.ext4.inode_loc import ext4_mark_inode_dirty
from glasskernel.fs.ext4.inode_map import ext4_get_block, ext4_update_bh_state
from glasskernel.fs.ext4.orphan import ext4_orphan_add, ext4_orphan_del
from glasskernel.fs.ext4.readpage import ext4_readpage, ext4_readpages
from glasskernel.fs.ext4.truncate import do_journal_get_write_access, ext4_can_truncate, ext4_truncate
from glasskernel.fs.ext4.types import (
    EXT4_EXTENTS_FL,
    EXT4_HT_WRITE_PAGE,
    EXT4_I,
    EXT4_MAP_MAPPED,
    EXT4_MAP_UNWRITTEN,
    EXT4_MOUNT_DELALLOC,
    EXT4_SB,
    EXT4_STATE_JDATA,
    Ext4MapBlocks,
    ext4_forced_shutdown,
    test_opt,
)
from glasskernel.fs.ext4.writepages import ext4_writepage, ext4_writepages
from glasskernel.fs.fs_writeback import try_to_writeback_inodes_sb
from glasskernel.fs.jbd2.log import jbd2_journal_force_commit_nested, jbd2_log_wait_commit
from glasskernel.fs.jbd2.transaction_page import jbd2_journal_invalidatepage, jbd2_journal_try_to_free_buffers
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.rwsem import down_read, down_write, up_read, up_write
from glasskernel.lib.errno import EIO, ENOSPC, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.machine.costs import DELAYED_BLOCK
from glasskernel.mm.filemap import filemap_write_and_wait
from glasskernel.mm.page_alloc import PG_checked, put_page
from glasskernel.mm.page_writeback import __set_page_dirty_nobuffers, wait_for_stable_page
from glasskernel.mm.pagemap import FGP_LOCK, grab_cache_page_write_begin, lock_page, pagecache_get_page, unlock_page
from glasskernel.mm.truncate import pagecache_isize_extended, truncate_inode_pages
from glasskernel.mm.types import AddressSpaceOperations

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.types import File, Inode, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.types import AddressSpace

INVALID_BLOCK = (1 << 48) - 1


# ---- common ------------------------------------------------------------------------------------------------
@may_sleep
def ext4_should_retry_alloc(sb: SuperBlock, retries: int) -> bool:
    """No space: a commit may free some. True: try again."""
    sbi = EXT4_SB(sb)
    if retries > 2 or not sbi.s_freed_data_list or sbi.s_journal is None:
        return False
    return bool(jbd2_journal_force_commit_nested(sbi.s_journal))


@notrace
@may_sleep
def _grab(mapping: AddressSpace, index: int, credits: int) -> tuple[int, Handle]:
    """(locked page, running handle): the handle comes first in the lock order."""
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    while True:
        pfn = grab_cache_page_write_begin(mapping, index)
        unlock_page(kernel, pfn)
        try:
            handle = ext4_journal_start(inode, EXT4_HT_WRITE_PAGE, credits)
        except KernelError:
            put_page(kernel, pfn)
            raise
        lock_page(kernel, pfn)
        if kernel.mem.mapping.get(pfn) is mapping:
            wait_for_stable_page(kernel, pfn)
            return pfn, handle
        unlock_page(kernel, pfn)                     # truncated meanwhile
        put_page(kernel, pfn)
        ext4_journal_stop(handle)


@may_sleep
def ext4_truncate_failed_write(inode: Inode) -> None:
    """Drops pages behind i_size that a failed write left."""
    down_write(EXT4_I(inode).i_mmap_sem)
    truncate_inode_pages(inode.i_mapping, inode.i_size)
    ext4_truncate(inode)
    up_write(EXT4_I(inode).i_mmap_sem)


@notrace
def ext4_update_inode_size(inode: Inode, newsize: int) -> bool:
    """Moves i_size and i_disksize up. True: the inode changed."""
    changed = False
    if newsize > inode.i_size:
        inode.i_size = newsize
        changed = True
    ei = EXT4_I(inode)
    if newsize > ei.i_disksize:
        ext4_update_i_disksize(inode, newsize)
        changed = True
    return changed


@may_sleep
def ext4_update_i_disksize(inode: Inode, newsize: int) -> None:
    ei = EXT4_I(inode)
    down_write(ei.i_data_sem)
    if newsize > ei.i_disksize:
        ei.i_disksize = newsize
    up_write(ei.i_data_sem)


# ---- blocks at once ----------------------------------------------------------------------------------------
@notrace
def _touched(kernel: Kernel, pfn: int, start: int, to: int) -> list[BufferHead]:
    return [bh for bh in buffers_of(page_buffers(kernel, pfn)) if bh.b_offset < to and bh.b_offset + bh.b_size > start]


@may_sleep
def ext4_write_begin(file: File | None, mapping: AddressSpace, pos: int, length: int) -> int:
    """->write_begin with blocks. Raises ENOSPC, EIO, EROFS."""
    inode = mapping.host
    assert inode is not None
    sb = inode.i_sb
    kernel = sb.kernel
    if ext4_forced_shutdown(EXT4_SB(sb)):
        raise KernelError(EIO)
    probe = kernel.tp.ext4_write_begin
    if probe is not None:
        probe(inode, pos, length, 0)
    retries = 0
    while True:
        pfn, handle = _grab(mapping, pos >> 12, ext4_writepage_trans_blocks(inode) + 1)
        try:
            __block_write_begin(mapping, pfn, pos, length, ext4_get_block)
            if ext4_should_journal_data(inode):
                start = pos & 0xFFF
                for bh in _touched(kernel, pfn, start, start + length):
                    do_journal_get_write_access(handle, bh)
            return pfn
        except KernelError as e:
            unlock_page(kernel, pfn)
            extended = pos + length > inode.i_size
            if extended and ext4_can_truncate(inode):
                ext4_orphan_add(handle, inode)
            ext4_journal_stop_quiet(handle)
            if extended:
                ext4_truncate_failed_write(inode)
                if inode.i_nlink:
                    ext4_orphan_del(None, inode)
            put_page(kernel, pfn)
            retries += 1
            if e.errno != ENOSPC or not ext4_should_retry_alloc(sb, retries):
                raise


@may_sleep
def ext4_write_end(file: File | None, mapping: AddressSpace, pos: int, length: int, copied: int, pfn: int) -> int:
    """->write_end with blocks."""
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    handle = ext4_journal_current_handle()
    assert handle is not None
    probe = kernel.tp.ext4_write_end
    if probe is not None:
        probe(inode, pos, length, copied)
    old_size = inode.i_size
    copied = block_write_end(mapping, pos, length, copied, pfn)
    return _end_write(handle, mapping, pos, length, copied, pfn, old_size)


@notrace
@may_sleep
def _end_write(
    handle: Handle, mapping: AddressSpace, pos: int, length: int, copied: int, pfn: int, old_size: int
) -> int:
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    changed = ext4_update_inode_size(inode, pos + copied)
    unlock_page(kernel, pfn)
    put_page(kernel, pfn)
    if old_size < pos:
        pagecache_isize_extended(inode, old_size, pos)
    try:
        if changed:
            ext4_mark_inode_dirty(handle, inode)
        if pos + length > inode.i_size and ext4_can_truncate(inode):
            ext4_orphan_add(handle, inode)           # copied less than begun: blocks behind the end
    finally:
        ext4_journal_stop(handle)
    if pos + length > inode.i_size:
        ext4_truncate_failed_write(inode)
        if inode.i_nlink:
            ext4_orphan_del(None, inode)
    return copied


@may_sleep
def write_end_fn(handle: Handle, bh: BufferHead) -> None:
    """A buffer of journalled data was changed."""
    if not bh.b_state & BH_Mapped:
        return
    bh.b_state |= BH_Uptodate
    ext4_handle_dirty_metadata(handle, None, bh)
    bh.b_state &= ~BH_New


@may_sleep
def ext4_journalled_write_end(
    file: File | None, mapping: AddressSpace, pos: int, length: int, copied: int, pfn: int
) -> int:
    """->write_end of data=journal: the data goes through the journal."""
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    handle = ext4_journal_current_handle()
    assert handle is not None
    probe = kernel.tp.ext4_journalled_write_end
    if probe is not None:
        probe(inode, pos, length, copied)
    old_size = inode.i_size
    start = pos & 0xFFF
    if copied < length and not kernel.mem.flags[pfn] & 4:
        copied = 0
    if copied < length:
        page_zero_new_buffers(kernel, pfn, start + copied, start + length)
    for bh in _touched(kernel, pfn, start, start + copied):
        write_end_fn(handle, bh)
    if all(bh.b_state & BH_Uptodate for bh in buffers_of(page_buffers(kernel, pfn))):
        kernel.mem.flags[pfn] |= 4                   # PG_uptodate
    ei = EXT4_I(inode)
    ei.i_state_flags |= EXT4_STATE_JDATA
    if getattr(handle, "h_transaction", None) is not None:
        ei.i_datasync_tid = handle.h_transaction.t_tid
    return _end_write(handle, mapping, pos, length, copied, pfn, old_size)


# ---- blocks later ------------------------------------------------------------------------------------------
@may_sleep
def ext4_nonda_switch(sb: SuperBlock) -> bool:
    """Little space is left: allocate at once, so that ENOSPC comes where write(2) can tell."""
    sbi = EXT4_SB(sb)
    free, dirty = sbi.s_freeclusters_counter, sbi.s_dirtyclusters_counter
    if dirty and free < 2 * dirty:
        try_to_writeback_inodes_sb(sb, 3)            # WB_REASON_FS_FREE_SPACE
    return 2 * free < 3 * dirty or free < dirty + 4 * 128


@may_sleep
def ext4_insert_delayed_block(inode: Inode, lblk: int) -> None:
    """Reserves space for a block. Raises ENOSPC."""
    ext4_da_reserve_space(inode)
    ext4_es_insert_delayed_block(inode, lblk)


@may_sleep
def ext4_da_map_blocks(inode: Inode, iblock: int, map: Ext4MapBlocks, bh: BufferHead) -> int:
    """Looks a block up; a hole becomes a delayed block. Answers 0 for those. Raises ENOSPC, EIO."""
    ei = EXT4_I(inode)
    map.m_flags = 0
    es = ext4_es_lookup_extent(inode, iblock)
    hole = False
    if es is not None:
        if es.es_status & ES_HOLE:
            hole = True
        elif es.es_status & ES_DELAYED and not es.es_status & ES_UNWRITTEN:
            map_bh(bh, inode.i_sb, INVALID_BLOCK)
            bh.b_state |= BH_New | BH_Delay
            return 0
        else:
            map.m_pblk = es.es_pblk + iblock - es.es_lblk
            map.m_flags |= EXT4_MAP_MAPPED if es.es_status & ES_WRITTEN else EXT4_MAP_UNWRITTEN
            map.m_len = min(es.es_len - (iblock - es.es_lblk), map.m_len)
            return map.m_len
    down_read(ei.i_data_sem)
    try:
        retval = 0
        if not hole:
            if ei.i_flags & EXT4_EXTENTS_FL:
                retval = ext4_ext_map_blocks(None, inode, map, 0)
            else:
                retval = ext4_ind_map_blocks(None, inode, map, 0)
        if not retval:
            inode.i_sb.kernel.machine.charge(DELAYED_BLOCK)
            ext4_insert_delayed_block(inode, map.m_lblk)
            map_bh(bh, inode.i_sb, INVALID_BLOCK)
            bh.b_state |= BH_New | BH_Delay
        else:
            status = ES_UNWRITTEN if map.m_flags & EXT4_MAP_UNWRITTEN else ES_WRITTEN
            ext4_es_insert_extent(inode, map.m_lblk, map.m_len, map.m_pblk, status)
    finally:
        up_read(ei.i_data_sem)
    return retval


@may_sleep
def ext4_da_get_block_prep(inode: Inode, iblock: int, bh: BufferHead, create: int) -> None:
    """get_block_t of delayed allocation."""
    map = Ext4MapBlocks(iblock, 1)
    if ext4_da_map_blocks(inode, iblock, map, bh) <= 0:
        return
    map_bh(bh, inode.i_sb, map.m_pblk)
    ext4_update_bh_state(bh, map.m_flags)
    if bh.b_state & BH_Unwritten:
        bh.b_state |= BH_New | BH_Mapped             # reads as zeros: must be zeroed around the write


@may_sleep
def ext4_da_write_begin(file: File | None, mapping: AddressSpace, pos: int, length: int) -> int:
    """->write_begin of delayed allocation. Raises ENOSPC, EIO, EROFS."""
    inode = mapping.host
    assert inode is not None
    sb = inode.i_sb
    kernel = sb.kernel
    if ext4_forced_shutdown(EXT4_SB(sb)):
        raise KernelError(EIO)
    ei = EXT4_I(inode)
    if ext4_nonda_switch(sb):
        ei.i_fall_back_to_nondelalloc = True
        return ext4_write_begin(file, mapping, pos, length)
    ei.i_fall_back_to_nondelalloc = False
    probe = kernel.tp.ext4_da_write_begin
    if probe is not None:
        probe(inode, pos, length, 0)
    retries = 0
    while True:
        pfn, handle = _grab(mapping, pos >> 12, ext4_da_write_credits(inode, pos, length))
        try:
            __block_write_begin(mapping, pfn, pos, length, ext4_da_get_block_prep)
            return pfn
        except KernelError as e:
            unlock_page(kernel, pfn)
            ext4_journal_stop_quiet(handle)
            if pos + length > inode.i_size:
                ext4_truncate_failed_write(inode)
            put_page(kernel, pfn)
            retries += 1
            if e.errno != ENOSPC or not ext4_should_retry_alloc(sb, retries):
                raise


@notrace
def ext4_da_write_credits(inode: Inode, pos: int, length: int) -> int:
    """One for the inode; two if the super block must say large_file."""
    if EXT4_SB(inode.i_sb).s_es.s_feature_ro_compat & 2 or pos + length <= 0x7FFFFFFF:
        return 1
    return 2


@notrace
def ext4_da_should_update_i_disksize(kernel: Kernel, pfn: int, offset: int) -> bool:
    """True if the last block written has a block on disk already: nothing else will move i_disksize."""
    for bh in buffers_of(page_buffers(kernel, pfn)):
        if bh.b_offset <= offset < bh.b_offset + bh.b_size:
            return bh.b_state & (BH_Mapped | BH_Delay | BH_Unwritten) == BH_Mapped
    return False


@may_sleep
def ext4_da_write_end(file: File | None, mapping: AddressSpace, pos: int, length: int, copied: int, pfn: int) -> int:
    """->write_end of delayed allocation."""
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    ei = EXT4_I(inode)
    if ei.i_fall_back_to_nondelalloc:
        return ext4_write_end(file, mapping, pos, length, copied, pfn)
    handle = ext4_journal_current_handle()
    assert handle is not None
    probe = kernel.tp.ext4_da_write_end
    if probe is not None:
        probe(inode, pos, length, copied)
    try:
        new_i_size = pos + copied
        if copied and new_i_size > ei.i_disksize and ext4_da_should_update_i_disksize(
                kernel, pfn, (pos & 0xFFF) + copied - 1):
            ext4_update_i_disksize(inode, new_i_size)
            ext4_mark_inode_dirty(handle, inode)
        copied = generic_write_end(file, mapping, pos, length, copied, pfn)
    finally:
        ext4_journal_stop(handle)
    return copied


# ---- pages that go -----------------------------------------------------------------------------------------
def ext4_invalidatepage(pfn: int, offset: int, length: int) -> None:
    """->invalidatepage."""
    probe = current().kernel.tp.ext4_invalidatepage
    if probe is not None:
        probe(pfn, offset, length)
    block_invalidatepage(pfn, offset, length)


def ext4_da_invalidatepage(pfn: int, offset: int, length: int) -> None:
    """->invalidatepage of delayed allocation: reservations go too."""
    kernel = current().kernel
    mapping = kernel.mem.mapping.get(pfn)
    if mapping is not None and mapping.host is not None and page_has_buffers(kernel, pfn):
        ext4_da_page_release_reservation(mapping.host, pfn, offset, length)
    ext4_invalidatepage(pfn, offset, length)


def ext4_da_page_release_reservation(inode: Inode, pfn: int, offset: int, length: int) -> None:
    kernel = inode.i_sb.kernel
    stop = offset + length
    first = kernel.mem.index[pfn] << 12 - inode.i_blkbits
    for i, bh in enumerate(buffers_of(page_buffers(kernel, pfn))):
        if bh.b_offset + bh.b_size > stop:
            break
        if bh.b_offset >= offset and bh.b_state & BH_Delay:
            bh.b_state &= ~BH_Delay
            if ext4_es_find_extent_range(inode, ES_DELAYED, first + i, first + i) is not None:
                ext4_es_remove_extent(inode, first + i, 1)


def __ext4_journalled_invalidatepage(pfn: int, offset: int, length: int) -> None:
    """Raises EBUSY: a commit has a block of a page that stays. Locks: page."""
    kernel = current().kernel
    mapping = kernel.mem.mapping.get(pfn)
    assert mapping is not None and mapping.host is not None
    probe = kernel.tp.ext4_journalled_invalidatepage
    if probe is not None:
        probe(pfn, offset, length)
    if not offset and length == 4096:
        kernel.mem.flags[pfn] &= ~PG_checked
    jbd2_journal_invalidatepage(EXT4_SB(mapping.host.i_sb).s_journal, pfn, offset, length)


def ext4_journalled_invalidatepage(pfn: int, offset: int, length: int) -> None:
    """->invalidatepage of data=journal: buffers may belong to a transaction. What a commit has stays in the page."""
    with suppress(KernelError):
        __ext4_journalled_invalidatepage(pfn, offset, length)


@may_sleep
def ext4_wait_for_tail_page_commit(inode: Inode) -> None:
    """Before a journalled file shrinks: no commit may have a block of its last page beyond the new end."""
    kernel = current().kernel
    offset = inode.i_size & 4095
    if not offset or offset > 4096 - (1 << inode.i_blkbits):
        return                                       # the page goes as a whole, or its last block stays
    journal = EXT4_SB(inode.i_sb).s_journal
    while True:
        pfn = pagecache_get_page(inode.i_mapping, inode.i_size >> 12, FGP_LOCK, 0)
        if not pfn:
            return
        busy = False
        try:
            __ext4_journalled_invalidatepage(pfn, offset, 4096 - offset)
        except KernelError:
            busy = True
        finally:
            unlock_page(kernel, pfn)
            put_page(kernel, pfn)
        if not busy:
            return
        committing = journal.j_committing_transaction
        if committing is not None:
            jbd2_log_wait_commit(journal, committing.t_tid)


def ext4_releasepage(pfn: int, gfp: int) -> bool:
    """->releasepage."""
    kernel = current().kernel
    mapping = kernel.mem.mapping.get(pfn)
    if kernel.mem.flags[pfn] & PG_checked or mapping is None or mapping.host is None:
        return False                                 # journalled data that waits
    probe = kernel.tp.ext4_releasepage
    if probe is not None:
        probe(pfn)
    journal = EXT4_SB(mapping.host.i_sb).s_journal
    if journal is not None:
        return bool(jbd2_journal_try_to_free_buffers(journal, pfn, gfp))
    return try_to_free_buffers(pfn)


def ext4_set_page_dirty(mapping: AddressSpace, pfn: int) -> bool:
    """->set_page_dirty."""
    return __set_page_dirty_buffers(mapping, pfn)


def ext4_journalled_set_page_dirty(mapping: AddressSpace, pfn: int) -> bool:
    """->set_page_dirty of data=journal: writepage will journal what was changed behind its back."""
    current().kernel.mem.flags[pfn] |= PG_checked
    return __set_page_dirty_nobuffers(mapping, pfn)


@may_sleep
def ext4_bmap(mapping: AddressSpace, block: int) -> int:
    """->bmap."""
    inode = mapping.host
    assert inode is not None
    if mapping.dirty and test_opt(EXT4_SB(inode.i_sb), EXT4_MOUNT_DELALLOC):
        filemap_write_and_wait(mapping)              # delayed blocks have no place yet
    return generic_block_bmap(mapping, block, ext4_get_block)


ext4_aops = AddressSpaceOperations(
    readpage=ext4_readpage, readpages=ext4_readpages, writepage=ext4_writepage, writepages=ext4_writepages,
    write_begin=ext4_write_begin, write_end=ext4_write_end, set_page_dirty=ext4_set_page_dirty, bmap=ext4_bmap,
    invalidatepage=ext4_invalidatepage, releasepage=ext4_releasepage, direct_IO=ext4_direct_IO,
    is_partially_uptodate=block_is_partially_uptodate)
ext4_journalled_aops = AddressSpaceOperations(
    readpage=ext4_readpage, readpages=ext4_readpages, writepage=ext4_writepage, writepages=ext4_writepages,
    write_begin=ext4_write_begin, write_end=ext4_journalled_write_end, set_page_dirty=ext4_journalled_set_page_dirty,
    bmap=ext4_bmap, invalidatepage=ext4_journalled_invalidatepage, releasepage=ext4_releasepage,
    direct_IO=ext4_direct_IO,                      # answers 0: the page cache does it
    is_partially_uptodate=block_is_partially_uptodate)
ext4_da_aops = AddressSpaceOperations(
    readpage=ext4_readpage, readpages=ext4_readpages, writepage=ext4_writepage, writepages=ext4_writepages,
    write_begin=ext4_da_write_begin, write_end=ext4_da_write_end, set_page_dirty=ext4_set_page_dirty, bmap=ext4_bmap,
    invalidatepage=ext4_da_invalidatepage, releasepage=ext4_releasepage, direct_IO=ext4_direct_IO,
    is_partially_uptodate=block_is_partially_uptodate)


def ext4_set_aops(inode: Inode) -> None:
    """The address space operations that fit the mode of the file's data."""
    if ext4_inode_journal_mode(inode) == EXT4_JOURNAL_DATA_MODE:
        inode.i_mapping.a_ops = ext4_journalled_aops
    elif test_opt(EXT4_SB(inode.i_sb), EXT4_MOUNT_DELALLOC):
        inode.i_mapping.a_ops = ext4_da_aops
    else:
        inode.i_mapping.a_ops = ext4_aops
