"""Pages made of buffers: reading, writing and truncating the pages of a file block by block.

Linux: the parts of fs/buffer.c (5.3) that work on the buffers of a page: block_read_full_page(),
    block_write_full_page(), __block_write_begin(), block_invalidatepage(), try_to_free_buffers() ...
Differs: functions take a mapping and a frame number where Linux takes a struct page; the frame's data is written after
    ->write_begin as in Linux, but never partly (no fault can happen in between).
Owns: kernel.mem.private of frames with buffers, BH_Async_*. Lock order: page lock, buffer lock.
Invariant: a frame with PG_private has one more reference for it.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.block.blk_types import REQ_BACKGROUND, REQ_OP_READ, REQ_OP_WRITE, REQ_SYNC
from glasskernel.fs.buffer_head import (
    BH_Async_Read,
    BH_Async_Write,
    BH_Delay,
    BH_Dirty,
    BH_Lock,
    BH_Mapped,
    BH_New,
    BH_Req,
    BH_Unwritten,
    BH_Uptodate,
    BufferHead,
    buffers_of,
    get_bh,
    page_buffers,
    page_has_buffers,
    put_bh,
)
from glasskernel.fs.buffer_io import (
    __set_page_dirty,
    buffer_io_error,
    ll_rw_block,
    lock_buffer,
    mark_buffer_dirty,
    mark_buffer_write_io_error,
    submit_bh,
    submit_bh_wbc,
    trylock_buffer,
    unlock_buffer,
    wait_on_buffer,
)
from glasskernel.fs.fs_writeback import __mark_inode_dirty
from glasskernel.fs.types import I_DIRTY_PAGES, I_DIRTY_SYNC
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EIO, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import PG_dirty, PG_error, PG_private, PG_uptodate, PG_writeback, put_page
from glasskernel.mm.page_writeback import (
    cancel_dirty_page,
    end_page_writeback,
    mapping_set_error,
    redirty_page_for_writepage,
    set_page_dirty,
    set_page_writeback,
    wait_for_stable_page,
)
from glasskernel.mm.pagemap import (
    find_or_create_page,
    grab_cache_page_write_begin,
    lock_page,
    try_to_release_page,
    unlock_page,
    zero_user_segment,
)
from glasskernel.mm.truncate import pagecache_isize_extended
from glasskernel.mm.types import VM_FAULT_LOCKED, VM_FAULT_NOPAGE, VM_FAULT_OOM, VM_FAULT_SIGBUS, WB_SYNC_NONE

if TYPE_CHECKING:
    from glasskernel.block.blk_types import BlockDevice
    from glasskernel.fs.types import File, Inode
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.types import AddressSpace, VmAreaStruct, VmFault, WritebackControl

# get_block_t: get_block(inode, iblock, bh_result, create) maps a block of the file. Sets b_blocknr, BH_Mapped, BH_New.
GetBlock = Callable[["Inode", int, BufferHead, int], None]
EndIo = Callable[[BufferHead, bool], None]
GFP_NOFS = 0xC40


# ---- rings -----------------------------------------------------------------------------------------
def alloc_buffer_head(kernel: Kernel) -> BufferHead:
    kernel.buffers.nr_buffer_heads += 1
    return BufferHead(kernel)


def free_buffer_head(bh: BufferHead) -> None:
    bh.kernel.buffers.nr_buffer_heads -= 1


def set_bh_page(bh: BufferHead, pfn: int, offset: int) -> None:
    bh.b_pfn = pfn
    bh.b_offset = offset


def alloc_page_buffers(kernel: Kernel, pfn: int, size: int) -> BufferHead:
    """The buffers of a page as a chain, not yet a ring: the first one. The last one's b_this_page is None."""
    head: BufferHead = None  # type: ignore[assignment]
    for offset in range(4096 - size, -1, -size):
        bh = alloc_buffer_head(kernel)
        bh.b_this_page = head
        bh.b_blocknr = -1
        bh.b_size = size
        set_bh_page(bh, pfn, offset)
        head = bh
    return head


@notrace
def close_ring(head: BufferHead) -> None:
    tail = head
    while tail.b_this_page is not None:
        tail = tail.b_this_page
    tail.b_this_page = head


@notrace
def attach_page_buffers(kernel: Kernel, pfn: int, head: BufferHead) -> None:
    mem = kernel.mem
    mem.refcount[pfn] += 1
    mem.flags[pfn] |= PG_private
    mem.private[pfn] = head


def create_empty_buffers(kernel: Kernel, pfn: int, blocksize: int, b_state: int) -> None:
    """A ring for a page that has none. Dirty and uptodate as the page is. Locks: page."""
    head = alloc_page_buffers(kernel, pfn, blocksize)
    close_ring(head)
    flags = kernel.mem.flags[pfn]
    if flags & PG_uptodate:
        b_state |= BH_Uptodate
    if flags & PG_dirty:
        b_state |= BH_Dirty
    for bh in buffers_of(head):
        bh.b_state |= b_state
    attach_page_buffers(kernel, pfn, head)


def create_page_buffers(inode: Inode, pfn: int, b_state: int) -> BufferHead:
    kernel = inode.i_sb.kernel
    if not page_has_buffers(kernel, pfn):
        create_empty_buffers(kernel, pfn, 1 << inode.i_blkbits, b_state)
    return page_buffers(kernel, pfn)


def __set_page_dirty_buffers(mapping: AddressSpace, pfn: int) -> bool:
    """->set_page_dirty of file systems with buffers: every buffer of the page, the page and its inode are dirty."""
    kernel = current().kernel
    mem = kernel.mem
    if page_has_buffers(kernel, pfn):
        for bh in buffers_of(page_buffers(kernel, pfn)):
            bh.b_state |= BH_Dirty
    newly_dirty = not mem.flags[pfn] & PG_dirty
    mem.flags[pfn] |= PG_dirty
    if newly_dirty:
        __set_page_dirty(kernel, pfn, mapping)
        if mapping.host is not None:
            __mark_inode_dirty(mapping.host, I_DIRTY_PAGES)
    return newly_dirty


# ---- the end of I/O of one buffer of a page. Context: any --------------------------------------------
def end_buffer_async_read(bh: BufferHead, uptodate: bool) -> None:
    """The last buffer unlocks the page, up to date if all are."""
    kernel = bh.kernel
    flags = kernel.mem.flags
    pfn = bh.b_pfn
    if uptodate:
        bh.b_state |= BH_Uptodate
    else:
        bh.b_state &= ~BH_Uptodate
        buffer_io_error(bh, ", async page read")
        flags[pfn] |= PG_error
    bh.b_state &= ~BH_Async_Read
    unlock_buffer(bh)
    page_uptodate = True
    for other in buffers_of(bh):
        if not other.b_state & BH_Uptodate:
            page_uptodate = False
        if other.b_state & BH_Async_Read:
            return
    if page_uptodate and not flags[pfn] & PG_error:
        flags[pfn] |= PG_uptodate
    unlock_page(kernel, pfn)


def end_buffer_async_write(bh: BufferHead, uptodate: bool) -> None:
    """The last buffer ends the page's write-back."""
    kernel = bh.kernel
    pfn = bh.b_pfn
    if uptodate:
        bh.b_state |= BH_Uptodate
    else:
        buffer_io_error(bh, ", lost async page write")
        mark_buffer_write_io_error(bh)
        bh.b_state &= ~BH_Uptodate
        kernel.mem.flags[pfn] |= PG_error
    bh.b_state &= ~BH_Async_Write
    unlock_buffer(bh)
    if any(other.b_state & BH_Async_Write for other in buffers_of(bh)):
        return
    end_page_writeback(kernel, pfn)


@notrace
def mark_buffer_async_read(bh: BufferHead) -> None:
    bh.b_end_io = end_buffer_async_read
    bh.b_state |= BH_Async_Read


@notrace
def mark_buffer_async_write_endio(bh: BufferHead, handler: EndIo) -> None:
    bh.b_end_io = handler
    bh.b_state |= BH_Async_Write


def mark_buffer_async_write(bh: BufferHead) -> None:
    mark_buffer_async_write_endio(bh, end_buffer_async_write)


# ---- reading ---------------------------------------------------------------------------------------
@may_sleep
def block_read_full_page(mapping: AddressSpace, index: int, pfn: int, get_block: GetBlock) -> None:
    """->readpage through buffers: holes are zeros, the rest is submitted. Locks: page, dropped at the end of I/O."""
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    flags = kernel.mem.flags
    head = create_page_buffers(inode, pfn, 0)
    bbits = inode.i_blkbits
    iblock = index << (12 - bbits)
    lblock = (inode.i_size + (1 << bbits) - 1) >> bbits
    read: list[BufferHead] = []
    for bh in buffers_of(head):
        if not bh.b_state & BH_Uptodate:
            if not bh.b_state & BH_Mapped:
                failed = False
                if iblock < lblock:
                    try:
                        get_block(inode, iblock, bh, 0)
                    except KernelError:
                        flags[pfn] |= PG_error
                        failed = True
                if not bh.b_state & BH_Mapped:
                    zero_user_segment(kernel, pfn, bh.b_offset, bh.b_offset + bh.b_size)
                    if not failed:
                        bh.b_state |= BH_Uptodate
            if bh.b_state & BH_Mapped and not bh.b_state & BH_Uptodate:    # get_block() may have read it
                read.append(bh)
        iblock += 1
    if not read:
        if not flags[pfn] & PG_error:
            flags[pfn] |= PG_uptodate
        unlock_page(kernel, pfn)
        return
    for bh in read:
        lock_buffer(bh)
        mark_buffer_async_read(bh)
    for bh in read:
        if bh.b_state & BH_Uptodate:
            end_buffer_async_read(bh, True)
        else:
            submit_bh(REQ_OP_READ, 0, bh)


def block_is_partially_uptodate(pfn: int, offset: int, count: int) -> bool:
    """->is_partially_uptodate: these bytes may be read though the page as a whole is not up to date."""
    kernel = current().kernel
    if not page_has_buffers(kernel, pfn):
        return False
    to = min(4096, offset + count)
    return all(bh.b_state & BH_Uptodate for bh in buffers_of(page_buffers(kernel, pfn))
               if bh.b_offset < to and bh.b_offset + bh.b_size > offset)


# ---- writing into a page ---------------------------------------------------------------------------
@notrace
def clean_bdev_bh_alias(bh: BufferHead) -> None:
    """Forgets what the device's own cache has of this block: it belongs to a file now."""
    assert bh.b_bdev is not None
    clean_bdev_aliases(bh.b_bdev, bh.b_blocknr, 1)


@may_sleep
def clean_bdev_aliases(bdev: BlockDevice, block: int, length: int) -> None:
    """Cleans buffers of the device's cache for blocks that a file has just got: their contents must not be written."""
    inode = bdev.bd_inode
    kernel = inode.i_sb.kernel
    bits = 12 - inode.i_blkbits
    mapping = inode.i_mapping
    if not mapping.pages:
        return
    for index in range(block >> bits, (block + length - 1 >> bits) + 1):
        pfn = mapping.pages.get(index, 0)
        if not pfn or not page_has_buffers(kernel, pfn):
            continue
        kernel.mem.refcount[pfn] += 1
        lock_page(kernel, pfn)
        if page_has_buffers(kernel, pfn):
            for bh in buffers_of(page_buffers(kernel, pfn)):
                if bh.b_state & BH_Mapped and block <= bh.b_blocknr < block + length:
                    bh.b_state &= ~BH_Dirty
                    wait_on_buffer(bh)
                    bh.b_state &= ~BH_Req
        unlock_page(kernel, pfn)
        put_page(kernel, pfn)


@may_sleep
def __block_write_begin_int(mapping: AddressSpace, pfn: int, pos: int, length: int, get_block: GetBlock) -> None:
    """Maps the blocks of the part that will be written, and reads those that are written only partly. Raises EIO ..."""
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    start = pos & 0xFFF
    to = start + length
    head = create_page_buffers(inode, pfn, 0)
    block = (pos & ~0xFFF) >> inode.i_blkbits
    page_uptodate = kernel.mem.flags[pfn] & PG_uptodate
    wait: list[BufferHead] = []
    for bh in buffers_of(head):
        block_start = bh.b_offset
        block_end = block_start + bh.b_size
        if block_end <= start or block_start >= to:
            if page_uptodate:
                bh.b_state |= BH_Uptodate
            block += 1
            continue
        bh.b_state &= ~BH_New
        if not bh.b_state & BH_Mapped:
            get_block(inode, block, bh, 1)
            if bh.b_state & BH_New:
                clean_bdev_bh_alias(bh)
                if page_uptodate:
                    bh.b_state = bh.b_state & ~BH_New | BH_Uptodate
                    mark_buffer_dirty(bh)
                    block += 1
                    continue
                if block_end > to:
                    zero_user_segment(kernel, pfn, to, block_end)
                if block_start < start:
                    zero_user_segment(kernel, pfn, block_start, start)
                block += 1
                continue
        if page_uptodate:
            bh.b_state |= BH_Uptodate
        elif not bh.b_state & (BH_Uptodate | BH_Delay | BH_Unwritten) and (block_start < start or block_end > to):
            ll_rw_block(REQ_OP_READ, 0, [bh])
            wait.append(bh)
        block += 1
    failed = False
    for bh in wait:
        wait_on_buffer(bh)
        failed |= not bh.b_state & BH_Uptodate
    if failed:
        page_zero_new_buffers(kernel, pfn, start, to)
        raise KernelError(EIO)


@may_sleep
def __block_write_begin(mapping: AddressSpace, pfn: int, pos: int, length: int, get_block: GetBlock) -> None:
    """What ->write_begin does with a locked page. Raises EIO, ENOSPC."""
    try:
        __block_write_begin_int(mapping, pfn, pos, length, get_block)
    except KernelError:
        start = pos & 0xFFF
        page_zero_new_buffers(current().kernel, pfn, start, start + length)
        raise


def page_zero_new_buffers(kernel: Kernel, pfn: int, start: int, to: int) -> None:
    """New blocks that will not be written after all must not show what the device had there."""
    if not page_has_buffers(kernel, pfn):
        return
    for bh in buffers_of(page_buffers(kernel, pfn)):
        block_start = bh.b_offset
        block_end = block_start + bh.b_size
        if bh.b_state & BH_New and block_end > start and block_start < to:
            if not kernel.mem.flags[pfn] & PG_uptodate:
                zero_user_segment(kernel, pfn, max(start, block_start), min(to, block_end))
                bh.b_state |= BH_Uptodate
            bh.b_state &= ~BH_New
            mark_buffer_dirty(bh)


@may_sleep
def block_write_begin(mapping: AddressSpace, pos: int, length: int, get_block: GetBlock) -> int:
    """->write_begin: the page, locked and referenced, ready for `length` bytes at pos. Raises EIO, ENOSPC, ENOMEM."""
    pfn = grab_cache_page_write_begin(mapping, pos >> 12)
    kernel = current().kernel
    try:
        __block_write_begin(mapping, pfn, pos, length, get_block)
    except KernelError:
        unlock_page(kernel, pfn)
        put_page(kernel, pfn)
        raise
    return pfn


def __block_commit_write(inode: Inode, pfn: int, start: int, to: int) -> None:
    """The written buffers are up to date and dirty."""
    kernel = inode.i_sb.kernel
    partial = False
    for bh in buffers_of(page_buffers(kernel, pfn)):
        if bh.b_offset + bh.b_size <= start or bh.b_offset >= to:
            if not bh.b_state & BH_Uptodate:
                partial = True
        else:
            bh.b_state |= BH_Uptodate
            mark_buffer_dirty(bh)
        bh.b_state &= ~BH_New
    if not partial:
        kernel.mem.flags[pfn] |= PG_uptodate


def block_commit_write(mapping: AddressSpace, pfn: int, start: int, to: int) -> None:
    assert mapping.host is not None
    __block_commit_write(mapping.host, pfn, start, to)


def block_write_end(mapping: AddressSpace, pos: int, length: int, copied: int, pfn: int) -> int:
    """->write_end as far as the page goes: its buffers; the page stays locked. Answers what counts as written."""
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    start = pos & 0xFFF
    if copied < length:
        if not kernel.mem.flags[pfn] & PG_uptodate:
            copied = 0                             # it must be done again: half a block is unknown
        page_zero_new_buffers(kernel, pfn, start + copied, start + length)
    __block_commit_write(inode, pfn, start, start + copied)
    return copied


@may_sleep
def generic_write_end(file: File | None, mapping: AddressSpace, pos: int, length: int, copied: int, pfn: int) -> int:
    """->write_end: block_write_end(), i_size, unlocks and drops the page, marks the inode dirty if it grew."""
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    old_size = inode.i_size
    copied = block_write_end(mapping, pos, length, copied, pfn)
    grown = pos + copied > inode.i_size
    if grown:
        inode.i_size = pos + copied
    unlock_page(kernel, pfn)
    put_page(kernel, pfn)
    if old_size < pos:
        pagecache_isize_extended(inode, old_size, pos)
    if grown:
        __mark_inode_dirty(inode, I_DIRTY_SYNC)    # mark_inode_dirty(): the times may be new too
    return copied


@may_sleep
def block_page_mkwrite(vma: VmAreaStruct, vmf: VmFault, get_block: GetBlock) -> int:
    """->page_mkwrite: VM_FAULT_LOCKED and the page locked and dirty, with blocks for all of it; or why not."""
    file = vma.vm_file
    assert file is not None
    mapping = file.f_mapping
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    pfn = vmf.pfn
    lock_page(kernel, pfn)
    size = inode.i_size
    if kernel.mem.mapping.get(pfn) is not mapping or vmf.pgoff << 12 >= size:
        unlock_page(kernel, pfn)
        return VM_FAULT_NOPAGE
    end = min(4096, size - (vmf.pgoff << 12))
    try:
        __block_write_begin(mapping, pfn, vmf.pgoff << 12, end, get_block)
        block_commit_write(mapping, pfn, 0, end)
    except KernelError as e:
        unlock_page(kernel, pfn)
        return block_page_mkwrite_return(e.errno)
    set_page_dirty(kernel, pfn)
    wait_for_stable_page(kernel, pfn)
    return VM_FAULT_LOCKED


@notrace
def block_page_mkwrite_return(errno: int) -> int:
    """The VM_FAULT_* for an errno of a page_mkwrite."""
    return VM_FAULT_OOM if errno == 12 else VM_FAULT_SIGBUS


# ---- storing ---------------------------------------------------------------------------------------
@notrace
def wbc_to_write_flags(wbc: WritebackControl) -> int:
    if wbc.sync_mode != WB_SYNC_NONE:
        return REQ_SYNC
    return REQ_BACKGROUND if wbc.for_kupdate or wbc.for_background else 0


@may_sleep
def __block_write_full_page(inode: Inode, index: int, pfn: int, get_block: GetBlock, wbc: WritebackControl,
                            handler: EndIo) -> None:
    """Submits the dirty buffers of a page. Locks: page, dropped. Raises EIO, ENOSPC of get_block()."""
    kernel = inode.i_sb.kernel
    write_flags = wbc_to_write_flags(wbc)
    blocksize = 1 << inode.i_blkbits
    head = create_page_buffers(inode, pfn, BH_Dirty | BH_Uptodate)
    buffers = buffers_of(head)
    block = index << (12 - inode.i_blkbits)
    last_block = (inode.i_size - 1) >> inode.i_blkbits
    errno = 0
    for bh in buffers:
        if block > last_block:
            bh.b_state = bh.b_state & ~BH_Dirty | BH_Uptodate      # behind the end: it was zeroed
        elif (not bh.b_state & BH_Mapped or bh.b_state & BH_Delay) and bh.b_state & BH_Dirty:
            assert bh.b_size == blocksize
            try:
                get_block(inode, block, bh, 1)
            except KernelError as e:
                errno = e.errno
                break
            bh.b_state &= ~BH_Delay
            if bh.b_state & BH_New:
                bh.b_state &= ~BH_New
                clean_bdev_bh_alias(bh)
        block += 1
    submit: list[BufferHead] = []
    for bh in buffers:
        if not bh.b_state & BH_Mapped or (errno and bh.b_state & BH_Delay):
            continue
        if not errno:
            if wbc.sync_mode != WB_SYNC_NONE:
                lock_buffer(bh)
            elif not trylock_buffer(bh):
                redirty_page_for_writepage(wbc, kernel.mem.mapping[pfn], pfn)
                continue
        elif bh.b_state & BH_Dirty:                # what is mapped is still stored
            lock_buffer(bh)
        else:
            continue
        if bh.b_state & BH_Dirty:
            bh.b_state &= ~BH_Dirty
            mark_buffer_async_write_endio(bh, handler)
            submit.append(bh)
        else:
            unlock_buffer(bh)
    mapping = kernel.mem.mapping[pfn]
    if errno:
        kernel.mem.flags[pfn] |= PG_error
        mapping_set_error(mapping, errno)
    set_page_writeback(kernel, pfn)
    if errno:
        unlock_page(kernel, pfn)
    for bh in submit:
        submit_bh_wbc(REQ_OP_WRITE, write_flags, bh)
    if not errno:
        unlock_page(kernel, pfn)
    if not submit:
        end_page_writeback(kernel, pfn)            # all buffers were clean: written one by one
    if errno:
        raise KernelError(errno)


@may_sleep
def block_write_full_page(mapping: AddressSpace, index: int, pfn: int, get_block: GetBlock,
                          wbc: WritebackControl) -> None:
    """->writepage through buffers; what lies behind the end of the file is zeroed first, or left alone."""
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    size = inode.i_size
    end_index = size >> 12
    if index >= end_index:
        offset = size & 0xFFF
        if index >= end_index + 1 or not offset:
            unlock_page(kernel, pfn)               # truncated: whoever did it will drop it
            return
        zero_user_segment(kernel, pfn, offset, 4096)
    __block_write_full_page(inode, index, pfn, get_block, wbc, end_buffer_async_write)


# ---- truncation and reclaim ------------------------------------------------------------------------
@may_sleep
def block_truncate_page(mapping: AddressSpace, start: int, get_block: GetBlock) -> None:
    """Zeros from byte `start` to the end of its block, in the cache, reading the block first. Raises EIO, ENOMEM."""
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    blocksize = 1 << inode.i_blkbits
    length = start & (blocksize - 1)
    if not length:
        return
    length = blocksize - length
    offset = start & 0xFFF
    iblock = (start & ~0xFFF) >> inode.i_blkbits
    pfn = find_or_create_page(mapping, start >> 12, inode.i_mapping.gfp_mask)
    try:
        if not page_has_buffers(kernel, pfn):
            create_empty_buffers(kernel, pfn, blocksize, 0)
        buffers = buffers_of(page_buffers(kernel, pfn))
        bh = buffers[offset // blocksize]
        iblock += offset // blocksize
        if not bh.b_state & BH_Mapped:
            get_block(inode, iblock, bh, 0)
            if not bh.b_state & BH_Mapped:
                return                             # a hole
        if kernel.mem.flags[pfn] & PG_uptodate:
            bh.b_state |= BH_Uptodate
        if not bh.b_state & (BH_Uptodate | BH_Delay | BH_Unwritten):
            ll_rw_block(REQ_OP_READ, 0, [bh])
            wait_on_buffer(bh)
            if not bh.b_state & BH_Uptodate:
                raise KernelError(EIO)
        zero_user_segment(kernel, pfn, offset, offset + length)
        mark_buffer_dirty(bh)
    finally:
        unlock_page(kernel, pfn)
        put_page(kernel, pfn)


@may_sleep
def discard_buffer(bh: BufferHead) -> None:
    """The block is no longer the file's."""
    lock_buffer(bh)
    bh.b_state &= ~(BH_Mapped | BH_Req | BH_New | BH_Delay | BH_Unwritten | BH_Dirty)
    bh.b_bdev = None
    unlock_buffer(bh)


@may_sleep
def block_invalidatepage(pfn: int, offset: int, length: int) -> None:
    """->invalidatepage: discards the buffers that lie wholly in the truncated part. Locks: page."""
    kernel = current().kernel
    if not page_has_buffers(kernel, pfn):
        return
    stop = offset + length
    for bh in buffers_of(page_buffers(kernel, pfn)):
        if bh.b_offset + bh.b_size > stop:
            break
        if bh.b_offset >= offset:
            discard_buffer(bh)
    if length == 4096:
        try_to_release_page(kernel, pfn, 0)


@notrace
def buffer_busy(bh: BufferHead) -> bool:
    return bool(bh.b_count or bh.b_state & (BH_Dirty | BH_Lock))


def drop_buffers(kernel: Kernel, pfn: int) -> list[BufferHead] | None:
    """Takes the ring off a page, if no buffer is in use."""
    buffers = buffers_of(page_buffers(kernel, pfn))
    if any(buffer_busy(bh) for bh in buffers):
        return None
    for bh in buffers:
        if bh.b_assoc_map is not None:
            if bh.b_assoc_map.private_list:
                bh.b_assoc_map.private_list.pop(bh, None)
            bh.b_assoc_map = None
    mem = kernel.mem
    del mem.private[pfn]
    mem.flags[pfn] &= ~PG_private
    put_page(kernel, pfn)
    return buffers


def try_to_free_buffers(pfn: int) -> bool:
    """Frees the buffers of a page; False if one is in use. A page whose buffers are all clean is clean. Locks: page."""
    kernel = current().kernel
    mem = kernel.mem
    if mem.flags[pfn] & PG_writeback:
        return False
    if not page_has_buffers(kernel, pfn):
        return True
    buffers = drop_buffers(kernel, pfn)
    if buffers is None:
        return False
    if mem.mapping.get(pfn) is not None:
        cancel_dirty_page(kernel, pfn)
    for bh in buffers:
        free_buffer_head(bh)
    return True


@may_sleep
def generic_block_bmap(mapping: AddressSpace, block: int, get_block: GetBlock) -> int:
    """->bmap: the device's block of a file's block, 0 for a hole."""
    inode = mapping.host
    assert inode is not None
    tmp = BufferHead(inode.i_sb.kernel, b_size=1 << inode.i_blkbits)
    get_block(inode, block, tmp, 0)
    return tmp.b_blocknr if tmp.b_state & BH_Mapped else 0


__all__ = [
    "GetBlock", "__block_commit_write", "__block_write_begin", "__block_write_begin_int", "__block_write_full_page",
    "__set_page_dirty_buffers", "alloc_buffer_head", "alloc_page_buffers", "attach_page_buffers",
    "block_commit_write", "block_invalidatepage", "block_is_partially_uptodate", "block_page_mkwrite",
    "block_page_mkwrite_return", "block_read_full_page", "block_truncate_page", "block_write_begin", "block_write_end",
    "block_write_full_page", "clean_bdev_aliases", "clean_bdev_bh_alias", "create_empty_buffers", "create_page_buffers",
    "discard_buffer", "drop_buffers", "end_buffer_async_read", "end_buffer_async_write", "free_buffer_head",
    "generic_block_bmap", "generic_write_end", "get_bh", "mark_buffer_async_write", "page_zero_new_buffers", "put_bh",
    "set_bh_page", "try_to_free_buffers", "try_to_release_page", "wbc_to_write_flags",
]
