"""Reading and writing runs of pages with few, large bios.

Linux: fs/mpage.c (5.3). Same: a bio grows while the blocks of the next page follow on the device; a page with a hole in
    the middle, with buffers, or with blocks that do not follow one another goes through block_read_full_page() or
    ->writepage.
Differs: mpage_bio_submit() sets bi_end_io there; pages are frame numbers. Owns: nothing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.block.bio import bio_add_page, bio_alloc, bio_put, bio_set_dev
from glasskernel.block.blk_core import submit_bio
from glasskernel.block.blk_types import REQ_OP_READ, REQ_OP_WRITE, REQ_RAHEAD
from glasskernel.fs.buffer_head import (
    BH_Dirty,
    BH_Mapped,
    BH_New,
    BH_Uptodate,
    BufferHead,
    buffers_of,
    page_buffers,
    page_has_buffers,
)
from glasskernel.fs.buffer_page import (
    GetBlock,
    block_read_full_page,
    clean_bdev_aliases,
    try_to_free_buffers,
    wbc_to_write_flags,
)
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EIO, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import PG_error, PG_uptodate, put_page
from glasskernel.mm.page_writeback import (
    end_page_writeback,
    generic_writepages,
    mapping_set_error,
    set_page_writeback,
    write_cache_pages,
)
from glasskernel.mm.pagemap import add_to_page_cache_lru, unlock_page, zero_user_segment

if TYPE_CHECKING:
    from glasskernel.block.blk_types import Bio, BlockDevice
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.types import AddressSpace, WritebackControl


@notrace
def page_endio(kernel: Kernel, pfn: int, is_write: bool, errno: int) -> None:
    """One page of a bio is done. Context: any. (mm/filemap.c)"""
    flags = kernel.mem.flags
    if not is_write:
        if not errno:
            flags[pfn] |= PG_uptodate
        else:
            flags[pfn] = flags[pfn] & ~PG_uptodate | PG_error
        unlock_page(kernel, pfn)
        return
    if errno:
        flags[pfn] |= PG_error
        mapping = kernel.mem.mapping.get(pfn)
        if mapping is not None:
            mapping_set_error(mapping, errno)
    end_page_writeback(kernel, pfn)


def mpage_end_io(bio: Bio) -> None:
    """bi_end_io: every page of the bio. Context: softirq."""
    kernel = bio.kernel
    errno = EIO if bio.bi_status else 0
    is_write = bio.bi_opf & 0xFF == REQ_OP_WRITE
    for pfn in bio.bi_private:
        page_endio(kernel, pfn, is_write, errno)
    bio_put(bio)


def mpage_bio_submit(op: int, op_flags: int, bio: Bio) -> None:
    bio.bi_end_io = mpage_end_io
    bio.bi_opf = op | op_flags
    submit_bio(bio)


def mpage_alloc(kernel: Kernel, bdev: BlockDevice, first_sector: int, nr_vecs: int) -> Bio:
    """A bio at a place on the device. bi_private: the frames it carries (drivers may use up bi_io_vec)."""
    bio = bio_alloc(kernel, nr_vecs)
    bio_set_dev(bio, bdev)
    bio.bi_sector = first_sector
    bio.bi_private = []
    return bio


class MpageReadpageArgs:
    """struct mpage_readpage_args: what a run of pages shares."""

    __slots__ = ("bio", "get_block", "is_readahead", "last_block_in_bio", "map_bh", "nr_pages")

    def __init__(self, get_block: GetBlock, nr_pages: int, is_readahead: bool) -> None:
        self.bio: Bio | None = None
        self.get_block = get_block
        self.nr_pages = nr_pages
        self.is_readahead = is_readahead
        self.last_block_in_bio = 0
        self.map_bh: BufferHead | None = None


@may_sleep
def do_mpage_readpage(args: MpageReadpageArgs, mapping: AddressSpace, index: int, pfn: int) -> None:
    """Adds one locked page to the bio under construction, or reads it by itself."""
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    blkbits = inode.i_blkbits
    blocks_per_page = 4096 >> blkbits
    op_flags = REQ_RAHEAD if args.is_readahead else 0
    confused = page_has_buffers(kernel, pfn)
    block = index << (12 - blkbits)
    last_block = (inode.i_size + (1 << blkbits) - 1) >> blkbits
    blocks: list[int] = []
    first_hole = blocks_per_page
    bdev = None
    if not confused:
        for page_block in range(blocks_per_page):
            bh = BufferHead(kernel, b_size=1 << blkbits)
            bh.b_pfn = pfn
            bh.b_offset = page_block << blkbits
            if block + page_block < last_block:
                try:
                    args.get_block(inode, block + page_block, bh, 0)
                except KernelError:
                    kernel.mem.flags[pfn] |= PG_error
                    zero_user_segment(kernel, pfn, 0, 4096)
                    unlock_page(kernel, pfn)
                    return
            if not bh.b_state & BH_Mapped:
                first_hole = min(first_hole, page_block)
                continue
            if bh.b_state & BH_Uptodate or first_hole != blocks_per_page:
                confused = True                    # get_block() read it into the page; a hole before data
                break
            if blocks and bh.b_blocknr != blocks[-1] + 1:
                confused = True
                break
            blocks.append(bh.b_blocknr)
            bdev = bh.b_bdev
    if confused:
        if args.bio is not None:
            mpage_bio_submit(REQ_OP_READ, op_flags, args.bio)
            args.bio = None
        if not kernel.mem.flags[pfn] & PG_uptodate:
            block_read_full_page(mapping, index, pfn, args.get_block)
        else:
            unlock_page(kernel, pfn)
        return
    if first_hole != blocks_per_page:
        zero_user_segment(kernel, pfn, first_hole << blkbits, 4096)
        if first_hole == 0:
            kernel.mem.flags[pfn] |= PG_uptodate
            unlock_page(kernel, pfn)
            return
    if args.bio is not None and args.last_block_in_bio != blocks[0] - 1:
        mpage_bio_submit(REQ_OP_READ, op_flags, args.bio)
        args.bio = None
    length = first_hole << blkbits
    assert bdev is not None
    while True:
        if args.bio is None:
            args.bio = mpage_alloc(kernel, bdev, blocks[0] << (blkbits - 9), min(args.nr_pages, 256))
        if bio_add_page(args.bio, pfn, length, 0) >= length:
            break
        mpage_bio_submit(REQ_OP_READ, op_flags, args.bio)
        args.bio = None
    args.bio.bi_private.append(pfn)
    if first_hole != blocks_per_page:
        mpage_bio_submit(REQ_OP_READ, op_flags, args.bio)
        args.bio = None
    else:
        args.last_block_in_bio = blocks[-1]


@may_sleep
def mpage_readpages(mapping: AddressSpace, pages: list[tuple[int, int]], get_block: GetBlock) -> None:
    """->readpages: fresh frames go into the cache and are read with as few bios as their blocks allow."""
    kernel = current().kernel
    args = MpageReadpageArgs(get_block, len(pages), True)
    for index, pfn in pages:
        if add_to_page_cache_lru(kernel, pfn, mapping, index):
            do_mpage_readpage(args, mapping, index, pfn)
            args.nr_pages -= 1
        put_page(kernel, pfn)
    if args.bio is not None:
        mpage_bio_submit(REQ_OP_READ, REQ_RAHEAD, args.bio)


@may_sleep
def mpage_readpage(mapping: AddressSpace, index: int, pfn: int, get_block: GetBlock) -> None:
    """->readpage. Locks: page, dropped at the end of the I/O."""
    args = MpageReadpageArgs(get_block, 1, False)
    do_mpage_readpage(args, mapping, index, pfn)
    if args.bio is not None:
        mpage_bio_submit(REQ_OP_READ, 0, args.bio)


# ---- writing ---------------------------------------------------------------------------------------
class MpageData:
    """struct mpage_data: the bio under construction of a mpage_writepages()."""

    __slots__ = ("bio", "get_block", "last_block_in_bio")

    def __init__(self, get_block: GetBlock) -> None:
        self.bio: Bio | None = None
        self.get_block = get_block
        self.last_block_in_bio = 0


@may_sleep
def __mpage_writepage(mapping: AddressSpace, index: int, pfn: int, wbc: WritebackControl, data: Any) -> int:
    """Adds a page to the bio under construction, or leaves it to ->writepage. Locks: page, dropped."""
    mpd: MpageData = data
    inode = mapping.host
    assert inode is not None
    kernel = inode.i_sb.kernel
    blkbits = inode.i_blkbits
    blocks_per_page = 4096 >> blkbits
    op_flags = wbc_to_write_flags(wbc)
    i_size = inode.i_size
    end_index = i_size >> 12
    blocks: list[int] = []
    bdev = None
    confused = False
    if page_has_buffers(kernel, pfn):
        for bh in buffers_of(page_buffers(kernel, pfn)):
            if not bh.b_state & BH_Mapped:
                if bh.b_state & BH_Dirty:
                    confused = True
                    break
                continue                           # a hole behind the data
            if bh.b_state & (BH_Dirty | BH_Uptodate) != BH_Dirty | BH_Uptodate:
                confused = True
                break
            if len(blocks) != bh.b_offset >> blkbits or (blocks and bh.b_blocknr != blocks[-1] + 1):
                confused = True
                break
            blocks.append(bh.b_blocknr)
            bdev = bh.b_bdev
        confused = confused or not blocks
    else:
        block = index << (12 - blkbits)
        last_block = (i_size - 1) >> blkbits
        for page_block in range(blocks_per_page):
            if block + page_block > last_block:
                break
            bh = BufferHead(kernel, b_size=1 << blkbits)
            try:
                mpd.get_block(inode, block + page_block, bh, 1)
            except KernelError:
                confused = True
                break
            if bh.b_state & BH_New and bh.b_bdev is not None:
                clean_bdev_aliases(bh.b_bdev, bh.b_blocknr, 1)
            if blocks and bh.b_blocknr != blocks[-1] + 1:
                confused = True
                break
            blocks.append(bh.b_blocknr)
            bdev = bh.b_bdev
        confused = confused or not blocks
    if not confused and index >= end_index:
        offset = i_size & 0xFFF
        if index > end_index or not offset:
            confused = True
        else:
            zero_user_segment(kernel, pfn, offset, 4096)
    if mpd.bio is not None and (confused or mpd.last_block_in_bio != blocks[0] - 1):
        mpage_bio_submit(REQ_OP_WRITE, op_flags, mpd.bio)
        mpd.bio = None
    if confused:
        writepage = mapping.a_ops.writepage
        assert writepage is not None
        try:
            return writepage(mapping, index, pfn, wbc)
        except KernelError as e:
            mapping_set_error(mapping, e.errno)
            raise
    length = len(blocks) << blkbits
    assert bdev is not None
    while True:
        if mpd.bio is None:
            mpd.bio = mpage_alloc(kernel, bdev, blocks[0] << (blkbits - 9), 256)
        if bio_add_page(mpd.bio, pfn, length, 0) >= length:
            break
        mpage_bio_submit(REQ_OP_WRITE, op_flags, mpd.bio)
        mpd.bio = None
    mpd.bio.bi_private.append(pfn)
    if page_has_buffers(kernel, pfn):
        for bh in buffers_of(page_buffers(kernel, pfn)):
            bh.b_state &= ~BH_Dirty
        if kernel.buffers.nr_buffer_heads > kernel.buffers.max_buffer_heads:
            try_to_free_buffers(pfn)
    set_page_writeback(kernel, pfn)
    unlock_page(kernel, pfn)
    if len(blocks) != blocks_per_page:
        mpage_bio_submit(REQ_OP_WRITE, op_flags, mpd.bio)
        mpd.bio = None
    else:
        mpd.last_block_in_bio = blocks[-1]
    return 0


@may_sleep
def mpage_writepages(mapping: AddressSpace, wbc: WritebackControl, get_block: GetBlock | None) -> None:
    """->writepages: dirty pages with as few bios as their blocks allow. Raises EIO, ENOSPC."""
    if get_block is None:
        generic_writepages(mapping, wbc)
        return
    hooks = current().kernel.filemap
    plug = hooks.blk_start_plug()
    mpd = MpageData(get_block)
    try:
        write_cache_pages(mapping, wbc, __mpage_writepage, mpd)
    finally:
        if mpd.bio is not None:
            mpage_bio_submit(REQ_OP_WRITE, wbc_to_write_flags(wbc), mpd.bio)
        hooks.blk_finish_plug(plug)
