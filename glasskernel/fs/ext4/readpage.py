"""Reading pages: as few bios as the file's extents allow.

Linux: fs/ext4/readpage.c (5.3). Same: one ext4_map_blocks() for many pages, holes zeroed, pages whose blocks do not
    follow each other go through block_read_full_page().
Differs: a bio remembers its frames in bi_private (drivers may use up bi_io_vec).  Gaps: decryption, verity.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.bio import bio_add_page, bio_alloc, bio_put, bio_set_dev
from glasskernel.block.blk_core import submit_bio
from glasskernel.block.blk_types import REQ_OP_READ, REQ_RAHEAD
from glasskernel.fs.buffer_head import page_has_buffers
from glasskernel.fs.buffer_page import block_read_full_page
from glasskernel.fs.ext4.inode_map import ext4_get_block, ext4_map_blocks
from glasskernel.fs.ext4.types import EXT4_MAP_MAPPED, Ext4MapBlocks
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.machine.costs import READ_PAGE
from glasskernel.mm.page_alloc import PG_error, PG_uptodate, put_page
from glasskernel.mm.pagemap import add_to_page_cache_lru, unlock_page, zero_user_segment

if TYPE_CHECKING:
    from glasskernel.block.blk_types import Bio
    from glasskernel.fs.types import File, Inode
    from glasskernel.mm.types import AddressSpace


def mpage_end_io(bio: Bio) -> None:
    """bi_end_io. Context: softirq."""
    kernel = bio.kernel
    flags = kernel.mem.flags
    for pfn in bio.bi_private:
        if bio.bi_status:
            flags[pfn] = flags[pfn] & ~PG_uptodate | PG_error
        else:
            flags[pfn] |= PG_uptodate
        unlock_page(kernel, pfn)
    bio_put(bio)


@notrace
def _map_page(inode: Inode, index: int, map: Ext4MapBlocks, nr_pages: int) -> tuple[list[int], int] | None:
    """(blocks on the device, blocks from the start of the page up to the first hole); None: they do not follow each
    other.
    """
    blkbits = inode.i_blkbits
    blocks_per_page = 4096 >> blkbits
    block = index << 12 - blkbits
    last_block = min(block + nr_pages * blocks_per_page, inode.i_size + (1 << blkbits) - 1 >> blkbits)
    first_hole = blocks_per_page
    blocks: list[int] = []
    for page_block in range(blocks_per_page):
        lblk = block + page_block
        mapped = bool(map.m_flags & EXT4_MAP_MAPPED) and map.m_lblk <= lblk < map.m_lblk + map.m_len
        if not mapped and lblk < last_block:
            map.m_lblk = lblk
            map.m_len = last_block - lblk
            ext4_map_blocks(None, inode, map, 0)
            mapped = bool(map.m_flags & EXT4_MAP_MAPPED)
        if not mapped or lblk >= last_block:
            first_hole = min(first_hole, page_block)
            continue
        if first_hole != blocks_per_page:
            return None                              # a hole, then data
        pblk = map.m_pblk + lblk - map.m_lblk
        if blocks and blocks[-1] + 1 != pblk:
            return None
        blocks.append(pblk)
    return blocks, first_hole


@may_sleep
def ext4_mpage_readpages(mapping: AddressSpace, pages: list[tuple[int, int]], is_readahead: bool, fresh: bool) -> None:
    """Starts to read pages. fresh: they are not in the cache yet, and the caller's references are dropped."""
    inode = mapping.host
    assert inode is not None
    sb = inode.i_sb
    kernel = sb.kernel
    blkbits = inode.i_blkbits
    op = REQ_OP_READ | (REQ_RAHEAD if is_readahead else 0)
    map = Ext4MapBlocks(0, 0)
    bio: Bio | None = None
    last_block_in_bio = 0
    left = len(pages)
    for index, pfn in pages:
        kernel.machine.charge(READ_PAGE)
        if fresh and not add_to_page_cache_lru(kernel, pfn, mapping, index):
            put_page(kernel, pfn)
            left -= 1
            continue
        found = None
        try:
            if not page_has_buffers(kernel, pfn):
                found = _map_page(inode, index, map, left)
        except KernelError:
            kernel.mem.flags[pfn] |= PG_error
            zero_user_segment(kernel, pfn, 0, 4096)
            unlock_page(kernel, pfn)
        else:
            if found is None:
                if bio is not None:
                    submit_bio(bio)
                    bio = None
                if not kernel.mem.flags[pfn] & PG_uptodate:
                    block_read_full_page(mapping, index, pfn, ext4_get_block)
                else:
                    unlock_page(kernel, pfn)
            else:
                blocks, first_hole = found
                length = first_hole << blkbits
                if length < 4096:
                    zero_user_segment(kernel, pfn, length, 4096)
                if not length:
                    kernel.mem.flags[pfn] |= PG_uptodate
                    unlock_page(kernel, pfn)
                else:
                    if bio is not None and last_block_in_bio != blocks[0] - 1:
                        submit_bio(bio)
                        bio = None
                    while bio is None or bio_add_page(bio, pfn, length, 0) < length:
                        if bio is not None:
                            submit_bio(bio)
                        bio = bio_alloc(kernel, min(left, 256))
                        bio_set_dev(bio, sb.s_bdev)
                        bio.bi_sector = blocks[0] << blkbits - 9
                        bio.bi_end_io = mpage_end_io
                        bio.bi_private = []
                        bio.bi_opf = op
                    bio.bi_private.append(pfn)
                    if first_hole << blkbits < 4096:
                        submit_bio(bio)
                        bio = None
                    else:
                        last_block_in_bio = blocks[-1]
        if fresh:
            put_page(kernel, pfn)
        left -= 1
    if bio is not None:
        submit_bio(bio)


@may_sleep
def ext4_readpage(file: File | None, mapping: AddressSpace, index: int, pfn: int) -> None:
    """->readpage."""
    inode = mapping.host
    assert inode is not None
    probe = inode.i_sb.kernel.tp.ext4_readpage
    if probe is not None:
        probe(pfn)
    ext4_mpage_readpages(mapping, [(index, pfn)], False, False)


@may_sleep
def ext4_readpages(file: File | None, mapping: AddressSpace, pages: list[tuple[int, int]]) -> None:
    """->readpages."""
    ext4_mpage_readpages(mapping, pages, True, True)
