"""Pages on their way to a swap area and back.

Linux: mm/page_io.c, and swap_aops of mm/swap_state.c (5.3). Same: a bio of one page each, which the block layer merges;
    errors are told once to the log: a page that could not be written stays dirty, one that could not be read raises
    SIGBUS where it is touched.
Differs: readpage of swap_aops is how lower files reach swap_readpage().
Owns: nothing. Gaps: swap files of file systems that do the I/O themselves (SWP_FS: NFS), polling, rw_page, frontswap.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.block.bio import bio_add_page, bio_alloc, bio_put, bio_set_dev
from glasskernel.block.blk_core import submit_bio
from glasskernel.block.blk_types import REQ_BACKGROUND, REQ_OP_READ, REQ_OP_WRITE, REQ_SWAP, REQ_SYNC
from glasskernel.kernel.current import current
from glasskernel.kernel.printk import printk
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import PSWPIN, PSWPOUT, PG_error, PG_reclaim, PG_uptodate
from glasskernel.mm.page_writeback import (
    __set_page_dirty_no_writeback,
    end_page_writeback,
    set_page_dirty,
    set_page_writeback,
)
from glasskernel.mm.pagemap import unlock_page
from glasskernel.mm.swapfile import map_swap_page, try_to_free_swap
from glasskernel.mm.types import WB_SYNC_NONE, AddressSpace, AddressSpaceOperations, WritebackControl

if TYPE_CHECKING:
    from glasskernel.block.blk_types import Bio
    from glasskernel.fs.types import File
    from glasskernel.init.kernel import Kernel


def get_swap_bio(kernel: Kernel, pfn: int, end_io: Callable[[Bio], None]) -> Bio:
    """A bio for the slot of a frame in the swap cache."""
    bio = bio_alloc(kernel, 1)
    si, page = map_swap_page(kernel, pfn)
    assert si.bdev is not None
    bio_set_dev(bio, si.bdev)
    bio.bi_sector = page << 3
    bio.bi_end_io = end_io
    bio_add_page(bio, pfn, 4096, 0)
    return bio


@notrace
def complain(bio: Bio, what: str) -> None:
    assert bio.bi_disk is not None
    number = bio.bi_disk.first_minor + bio.bi_partno
    printk(bio.kernel, f"{what}-error on swap-device ({bio.bi_disk.major}:{number}:{bio.bi_sector})", 1)


# ---- writing ----------------------------------------------------------------------------------------------------
@may_sleep
def swap_writepage(mapping: AddressSpace, index: int, pfn: int, wbc: WritebackControl) -> int:
    """->writepage of the swap cache. Locks: page, dropped. Nothing is written if nobody has the slot any more."""
    kernel = current().kernel
    if try_to_free_swap(kernel, pfn):
        unlock_page(kernel, pfn)
        return 0
    return __swap_writepage(kernel, pfn, wbc, end_swap_bio_write)


@may_sleep
def __swap_writepage(kernel: Kernel, pfn: int, wbc: WritebackControl, end_write: Callable[[Bio], None]) -> int:
    bio = get_swap_bio(kernel, pfn, end_write)
    bio.bi_opf = REQ_OP_WRITE | REQ_SWAP
    if wbc.sync_mode != WB_SYNC_NONE:                    # wbc_to_write_flags()
        bio.bi_opf |= REQ_SYNC
    elif wbc.for_kupdate or wbc.for_background:
        bio.bi_opf |= REQ_BACKGROUND
    kernel.mem.vm_event[PSWPOUT] += 1
    set_page_writeback(kernel, pfn)
    unlock_page(kernel, pfn)
    submit_bio(bio)
    return 0


def end_swap_bio_write(bio: Bio) -> None:
    """bi_end_io. A page that could not be written is dirty again, and not rotated to where it would be tried next."""
    kernel = bio.kernel
    pfn = bio.bi_io_vec[0][0]
    if bio.bi_status:
        kernel.mem.flags[pfn] |= PG_error
        set_page_dirty(kernel, pfn)
        complain(bio, "Write")
        kernel.mem.flags[pfn] &= ~PG_reclaim
    end_page_writeback(kernel, pfn)
    bio_put(bio)


# ---- reading ----------------------------------------------------------------------------------------------------
@may_sleep
def swap_readpage(file: File | None, mapping: AddressSpace, index: int, pfn: int) -> None:
    """Starts to read a frame that is in the swap cache, and locked until it is there."""
    kernel = current().kernel
    bio = get_swap_bio(kernel, pfn, end_swap_bio_read)
    bio.bi_opf = REQ_OP_READ
    kernel.mem.vm_event[PSWPIN] += 1
    submit_bio(bio)


def end_swap_bio_read(bio: Bio) -> None:
    """bi_end_io."""
    kernel = bio.kernel
    flags = kernel.mem.flags
    pfn = bio.bi_io_vec[0][0]
    if bio.bi_status:
        flags[pfn] = flags[pfn] & ~PG_uptodate | PG_error
        complain(bio, "Read")
    else:
        flags[pfn] |= PG_uptodate
    unlock_page(kernel, pfn)
    bio_put(bio)


def swap_set_page_dirty(mapping: AddressSpace, pfn: int) -> bool:
    """->set_page_dirty()"""
    return __set_page_dirty_no_writeback(mapping, pfn)


swap_aops = AddressSpaceOperations(
    readpage=swap_readpage, writepage=swap_writepage, set_page_dirty=swap_set_page_dirty)
