"""The buffer cache: blocks of a device by number.

Linux: fs/buffer.c (5.3); its other parts are fs/buffer_io.py (one buffer) and fs/buffer_page.py (pages of buffers);
    this file re-exports their names. Same: a block's buffer lies in a page of the device's own page cache, found by
    __find_get_block() in a list of the last 16 of each CPU, then in the page cache; __getblk() makes what is missing.
Owns: buffers of block devices' pages, kernel.buffers.bh_lrus (each entry holds a reference).
Invariant: a buffer of a device's page is mapped to block index << (12 - blkbits) + its place in the page.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.blk_types import REQ_OP_READ, REQ_RAHEAD, REQ_SYNC
from glasskernel.fs.buffer_head import (
    BH_Dirty,
    BH_Lock,
    BH_Mapped,
    BH_Uptodate,
    BufferHead,
    buffers_of,
    get_bh,
    map_bh,
    page_buffers,
    page_has_buffers,
)
from glasskernel.fs.buffer_io import (
    BufferState,
    __brelse,
    __lock_buffer,
    __sync_dirty_buffer,
    __wait_on_buffer,
    bh_submit_read,
    bh_uptodate_or_lock,
    brelse,
    end_buffer_read_sync,
    end_buffer_write_sync,
    ll_rw_block,
    lock_buffer,
    mark_buffer_dirty,
    mark_buffer_write_io_error,
    submit_bh,
    sync_dirty_buffer,
    touch_buffer,
    trylock_buffer,
    unlock_buffer,
    wait_on_buffer,
    write_dirty_buffer,
)
from glasskernel.fs.buffer_page import (
    GetBlock,
    __block_write_begin,
    __block_write_full_page,
    __set_page_dirty_buffers,
    alloc_page_buffers,
    attach_page_buffers,
    block_commit_write,
    block_invalidatepage,
    block_is_partially_uptodate,
    block_page_mkwrite,
    block_page_mkwrite_return,
    block_read_full_page,
    block_truncate_page,
    block_write_begin,
    block_write_end,
    block_write_full_page,
    clean_bdev_aliases,
    clean_bdev_bh_alias,
    close_ring,
    create_empty_buffers,
    create_page_buffers,
    discard_buffer,
    end_buffer_async_read,
    end_buffer_async_write,
    free_buffer_head,
    generic_block_bmap,
    generic_write_end,
    mark_buffer_async_write,
    page_zero_new_buffers,
    set_bh_page,
    try_to_free_buffers,
    wbc_to_write_flags,
)
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EIO, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import PG_uptodate, put_page
from glasskernel.mm.pagemap import find_get_page, find_or_create_page, unlock_page

if TYPE_CHECKING:
    from glasskernel.block.blk_types import BlockDevice
    from glasskernel.fs.types import Inode, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.types import AddressSpace

BH_LRU_SIZE = 16

__all__ = [
    "BufferHead", "GetBlock", "__bforget", "__block_write_begin", "__block_write_full_page", "__bread_gfp",
    "__brelse", "__find_get_block", "__getblk_gfp", "__lock_buffer", "__set_page_dirty_buffers",
    "__sync_dirty_buffer", "__wait_on_buffer", "alloc_page_buffers", "attach_page_buffers", "bforget",
    "bh_submit_read", "bh_uptodate_or_lock", "block_commit_write", "block_invalidatepage",
    "block_is_partially_uptodate", "block_page_mkwrite", "block_page_mkwrite_return", "block_read_full_page",
    "block_truncate_page", "block_write_begin", "block_write_end", "block_write_full_page", "brelse", "buffer_init",
    "clean_bdev_aliases", "clean_bdev_bh_alias", "create_empty_buffers", "create_page_buffers", "discard_buffer",
    "end_buffer_async_read", "end_buffer_async_write", "end_buffer_read_sync", "end_buffer_write_sync",
    "free_buffer_head", "generic_block_bmap", "generic_write_end", "get_bh", "invalidate_bh_lrus",
    "invalidate_inode_buffers", "ll_rw_block", "lock_buffer", "map_bh", "mark_buffer_async_write",
    "mark_buffer_dirty", "mark_buffer_dirty_inode", "mark_buffer_write_io_error", "page_buffers", "page_has_buffers",
    "page_zero_new_buffers", "remove_inode_buffers", "sb_bread", "sb_breadahead", "sb_find_get_block", "sb_getblk",
    "sb_issue_discard", "sb_issue_zeroout", "set_bh_page", "submit_bh", "sync_dirty_buffer", "sync_mapping_buffers",
    "touch_buffer", "try_to_free_buffers", "trylock_buffer", "unlock_buffer", "wait_on_buffer", "wbc_to_write_flags",
    "write_dirty_buffer",
]


@notrace
def buffer_init(kernel: Kernel) -> None:
    """Makes kernel.buffers and plugs buffers into the page cache. Context: boot."""
    kernel.buffers = BufferState(bh_lrus=[[] for _ in kernel.machine.cpus],
                                 max_buffer_heads=kernel.mem.totalram_pages // 10 * (4096 // 104))
    kernel.filemap.try_to_free_buffers = try_to_free_buffers
    kernel.filemap.block_invalidatepage = block_invalidatepage
    kernel.filemap.invalidate_bh_lrus = lambda: invalidate_bh_lrus(kernel)


# ---- the last buffers of each CPU --------------------------------------------------------------------
def buffer_exit_cpu_dead(kernel: Kernel, cpu: int) -> None:
    """A CPU is gone: nobody looks into its list any more."""
    lru = kernel.buffers.bh_lrus[cpu]
    while lru:
        __brelse(lru.pop())


@notrace
def bh_lru_install(bh: BufferHead) -> None:
    """Remembers a buffer as the last one used on this CPU, with a reference."""
    lru = bh.kernel.buffers.bh_lrus[current().cpu]
    if bh in lru:
        lru.remove(bh)
    else:
        get_bh(bh)
    lru.insert(0, bh)
    if len(lru) > BH_LRU_SIZE:
        __brelse(lru.pop())


@notrace
def lookup_bh_lru(kernel: Kernel, bdev: BlockDevice, block: int, size: int) -> BufferHead | None:
    lru = kernel.buffers.bh_lrus[current().cpu]
    for bh in lru:
        if bh.b_blocknr == block and bh.b_bdev is bdev and bh.b_size == size:
            if bh is not lru[0]:
                lru.remove(bh)
                lru.insert(0, bh)
            get_bh(bh)
            return bh
    return None


def invalidate_bh_lrus(kernel: Kernel) -> None:
    """Drops every CPU's references: pages of buffers can be freed again."""
    for lru in kernel.buffers.bh_lrus:
        for bh in lru:
            __brelse(bh)
        lru.clear()


# ---- lookup ----------------------------------------------------------------------------------------
def __find_get_block_slow(bdev: BlockDevice, block: int) -> BufferHead | None:
    """The buffer of a block in the device's page cache, with a reference."""
    inode = bdev.bd_inode
    kernel = inode.i_sb.kernel
    pfn = find_get_page(inode.i_mapping, block >> (12 - inode.i_blkbits))
    if not pfn:
        return None
    found = None
    if page_has_buffers(kernel, pfn):
        for bh in buffers_of(page_buffers(kernel, pfn)):
            if bh.b_state & BH_Mapped and bh.b_blocknr == block:
                found = bh
                get_bh(bh)
                break
    put_page(kernel, pfn)
    return found


def __find_get_block(bdev: BlockDevice, block: int, size: int) -> BufferHead | None:
    """The buffer of a block if it is in RAM, with a reference; else None. Does not sleep."""
    kernel = bdev.bd_inode.i_sb.kernel
    bh = lookup_bh_lru(kernel, bdev, block, size)
    if bh is None:
        bh = __find_get_block_slow(bdev, block)
        if bh is not None:
            bh_lru_install(bh)
    else:
        touch_buffer(bh)
    return bh


def init_page_buffers(bdev: BlockDevice, pfn: int, block: int, size: int) -> int:
    """Maps the buffers of a device's page; answers the first block behind the device."""
    inode = bdev.bd_inode
    kernel = inode.i_sb.kernel
    uptodate = kernel.mem.flags[pfn] & PG_uptodate
    end_block = inode.i_size >> inode.i_blkbits
    for bh in buffers_of(page_buffers(kernel, pfn)):
        if not bh.b_state & BH_Mapped:
            bh.b_end_io = None
            bh.b_private = None
            bh.b_bdev = bdev
            bh.b_blocknr = block
            if uptodate:
                bh.b_state |= BH_Uptodate
            if block < end_block:
                bh.b_state |= BH_Mapped
        block += 1
    return end_block


@may_sleep
def grow_dev_page(bdev: BlockDevice, block: int, index: int, size: int, sizebits: int) -> bool:
    """A page of the device with buffers of this size. False: try again; raises EIO behind the device, ENOMEM."""
    inode = bdev.bd_inode
    kernel = inode.i_sb.kernel
    mapping = inode.i_mapping
    pfn = find_or_create_page(mapping, index, mapping.gfp_mask & ~0x80)
    try:
        if page_has_buffers(kernel, pfn):
            if page_buffers(kernel, pfn).b_size == size:
                return block < init_page_buffers(bdev, pfn, index << sizebits, size) or _behind(block)
            if not try_to_free_buffers(pfn):
                return False
        head = alloc_page_buffers(kernel, pfn, size)
        close_ring(head)
        attach_page_buffers(kernel, pfn, head)
        return block < init_page_buffers(bdev, pfn, index << sizebits, size) or _behind(block)
    finally:
        unlock_page(kernel, pfn)
        put_page(kernel, pfn)


@notrace
def _behind(_block: int) -> bool:
    raise KernelError(EIO)


@may_sleep
def grow_buffers(bdev: BlockDevice, block: int, size: int) -> bool:
    sizebits = 12 - (size.bit_length() - 1)
    return grow_dev_page(bdev, block, block >> sizebits, size, sizebits)


@may_sleep
def __getblk_slow(bdev: BlockDevice, block: int, size: int) -> BufferHead | None:
    while True:
        bh = __find_get_block(bdev, block, size)
        if bh is not None:
            return bh
        try:
            if not grow_buffers(bdev, block, size):
                invalidate_bh_lrus(bdev.bd_inode.i_sb.kernel)
        except KernelError as e:
            if e.errno == EIO:
                return None
            raise


@may_sleep
def __getblk_gfp(bdev: BlockDevice, block: int, size: int, gfp: int = 0) -> BufferHead | None:
    """The buffer of a block, with a reference; its contents may not be read yet. None behind the end. Raises ENOMEM."""
    bh = __find_get_block(bdev, block, size)
    if bh is None:
        bh = __getblk_slow(bdev, block, size)
    return bh


@may_sleep
def __breadahead(bdev: BlockDevice, block: int, size: int) -> None:
    """Starts to read a block."""
    bh = __getblk_gfp(bdev, block, size)
    if bh is not None:
        ll_rw_block(REQ_OP_READ, REQ_RAHEAD, [bh])
        brelse(bh)


@may_sleep
def __bread_slow(bh: BufferHead) -> BufferHead | None:
    lock_buffer(bh)
    if bh.b_state & BH_Uptodate:
        unlock_buffer(bh)
        return bh
    get_bh(bh)
    bh.b_end_io = end_buffer_read_sync
    submit_bh(REQ_OP_READ, 0, bh)
    wait_on_buffer(bh)
    if bh.b_state & BH_Uptodate:
        return bh
    brelse(bh)
    return None


@may_sleep
def __bread_gfp(bdev: BlockDevice, block: int, size: int, gfp: int = 0) -> BufferHead | None:
    """The buffer of a block, read, with a reference; None when it cannot be read."""
    bh = __getblk_gfp(bdev, block, size, gfp)
    if bh is not None and not bh.b_state & BH_Uptodate:
        bh = __bread_slow(bh)
    return bh


@notrace
@may_sleep
def sb_bread(sb: SuperBlock, block: int) -> BufferHead | None:
    """__bread() on the device of a file system, in its blocks."""
    return __bread_gfp(sb.s_bdev, block, sb.s_blocksize)


@notrace
@may_sleep
def sb_breadahead(sb: SuperBlock, block: int) -> None:
    __breadahead(sb.s_bdev, block, sb.s_blocksize)


@notrace
@may_sleep
def sb_getblk(sb: SuperBlock, block: int) -> BufferHead | None:
    return __getblk_gfp(sb.s_bdev, block, sb.s_blocksize)


@notrace
def sb_find_get_block(sb: SuperBlock, block: int) -> BufferHead | None:
    return __find_get_block(sb.s_bdev, block, sb.s_blocksize)


@may_sleep
def sb_issue_zeroout(sb: SuperBlock, block: int, nr_blocks: int) -> None:
    """Zeros blocks of a file system on its device. Raises EIO. (include/linux/blkdev.h)"""
    shift = sb.s_blocksize_bits - 9
    sb.kernel.vfs.blkdev_issue_zeroout(sb.s_bdev, block << shift, nr_blocks << shift)


@may_sleep
def sb_issue_discard(sb: SuperBlock, block: int, nr_blocks: int) -> None:
    """Tells the device that blocks hold nothing. Raises EOPNOTSUPP, EIO. (include/linux/blkdev.h)"""
    shift = sb.s_blocksize_bits - 9
    sb.kernel.vfs.blkdev_issue_discard(sb.s_bdev, block << shift, nr_blocks << shift)


# ---- forgetting ------------------------------------------------------------------------------------
@notrace
def bforget(bh: BufferHead | None) -> None:
    """Drops a reference, and what was written to the buffer: the block was freed."""
    if bh is not None:
        __bforget(bh)


def __bforget(bh: BufferHead) -> None:
    bh.b_state &= ~BH_Dirty
    __remove_assoc_queue(bh)
    __brelse(bh)


# ---- buffers that belong to a file: its indirect blocks, its directory blocks -------------------------
def mark_buffer_dirty_inode(bh: BufferHead, inode: Inode) -> None:
    """mark_buffer_dirty(); fsync() of the file writes it too."""
    mapping = inode.i_mapping
    mark_buffer_dirty(bh)
    if bh.b_assoc_map is None:
        if mapping.private_list is None:
            mapping.private_list = {}
        mapping.private_list[bh] = None
        bh.b_assoc_map = mapping


def __remove_assoc_queue(bh: BufferHead) -> None:
    if bh.b_assoc_map is not None:
        if bh.b_assoc_map.private_list:
            bh.b_assoc_map.private_list.pop(bh, None)
        bh.b_assoc_map = None


def inode_has_buffers(inode: Inode) -> bool:
    return bool(inode.i_data is not None and inode.i_data.private_list)


@may_sleep
def fsync_buffers_list(mapping: AddressSpace) -> None:
    """Writes the buffers of a file and waits. Raises EIO."""
    waiting: list[BufferHead] = []
    while mapping.private_list:
        bh = next(iter(mapping.private_list))
        __remove_assoc_queue(bh)
        if bh.b_state & (BH_Dirty | BH_Lock):
            bh.b_assoc_map = mapping               # a failure is the mapping's
            get_bh(bh)
            waiting.append(bh)
            if bh.b_state & BH_Dirty:
                write_dirty_buffer(bh, REQ_SYNC)
    failed = False
    for bh in waiting:
        wait_on_buffer(bh)
        bh.b_assoc_map = None
        if bh.b_state & BH_Dirty:                  # dirtied again: next time
            if mapping.private_list is None:
                mapping.private_list = {}
            mapping.private_list[bh] = None
            bh.b_assoc_map = mapping
        failed |= not bh.b_state & BH_Uptodate
        brelse(bh)
    if failed:
        raise KernelError(EIO)


@may_sleep
def sync_mapping_buffers(mapping: AddressSpace) -> None:
    """Writes the buffers that mark_buffer_dirty_inode() gave the file, and waits. Raises EIO."""
    if mapping.private_list:
        fsync_buffers_list(mapping)


def invalidate_inode_buffers(inode: Inode) -> None:
    """Forgets them."""
    if inode_has_buffers(inode):
        for bh in list(inode.i_data.private_list or ()):
            __remove_assoc_queue(bh)


def remove_inode_buffers(inode: Inode) -> bool:
    """Forgets them if none is dirty."""
    private = inode.i_data.private_list
    for bh in list(private or ()):
        if bh.b_state & BH_Dirty:
            return False
        __remove_assoc_queue(bh)
    return True
