"""The swap cache: frames whose contents have a slot in a swap area, and reading ahead of it.

Linux: mm/swap_state.c (5.3). Same: a page that is written to a swap area stays in the cache while its slot is in use,
    so that others who have the entry find it; reading in takes an aligned cluster, whose size follows the hits.
Differs: an address_space for each area; delete_from_swap_cache() stands in mm/swapfile.py, swap_aops in mm/page_io.py.
Owns: the pages of SwapState.spaces, SwapState.private, PG_swapcache, SwapState.readahead.
Invariants: a frame with PG_swapcache has swap.private[pfn] its entry, mem.mapping[pfn] the area's space, one reference
    for being there, and its slot has SWAP_HAS_CACHE; mem.index[pfn] keeps the index in the area that maps it.
Gaps: reading ahead by virtual addresses (vma_ra_enabled).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import (
    NR_FILE_PAGES,
    PG_locked,
    PG_readahead,
    PG_swapbacked,
    PG_swapcache,
    PG_uptodate,
    alloc_page,
    alloc_pages_vma,
    put_page,
)
from glasskernel.mm.pagemap import find_get_page, set_page_dirty, trylock_page, unlock_page
from glasskernel.mm.swap import lru_cache_add
from glasskernel.mm.swap_types import swp_entry, swp_offset, swp_type
from glasskernel.mm.swapfile import delete_from_swap_cache as delete_from_swap_cache  # Linux has it in this file
from glasskernel.mm.swapfile import get_swap_page, swap_state, swapcache_prepare, swp_swap_info, try_to_free_swap

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.types import AddressSpace, VmAreaStruct


@notrace
def swap_address_space(kernel: Kernel, entry: int) -> AddressSpace:
    return swap_state(kernel).spaces[swp_type(entry)]


# ---- in ---------------------------------------------------------------------------------------------------------
def add_to_swap(kernel: Kernel, pfn: int) -> bool:
    """A page of anonymous memory gets a slot, and enters the swap cache, dirty. Locks: page. False: no slot is free."""
    entry = get_swap_page(kernel)
    if not entry:
        return False
    kernel.mem.flags[pfn] |= PG_uptodate                 # which page faults do not set here
    add_to_swap_cache(kernel, pfn, entry)
    set_page_dirty(kernel, pfn)
    return True


def add_to_swap_cache(kernel: Kernel, pfn: int, entry: int) -> None:
    """Puts a frame into the cache, for a slot that is marked with SWAP_HAS_CACHE. Locks: page."""
    mem = kernel.mem
    swap = swap_state(kernel)
    space = swap.spaces[swp_type(entry)]
    offset = swp_offset(entry)
    assert offset not in space.pages and not mem.flags[pfn] & PG_swapcache
    mem.refcount[pfn] += 1
    mem.flags[pfn] |= PG_swapcache
    swap.private[pfn] = entry
    mem.mapping[pfn] = space
    space.pages[offset] = pfn
    mem.vm_stat[NR_FILE_PAGES] += 1
    swap.add_total += 1


# ---- out --------------------------------------------------------------------------------------------------------
def free_swap_cache(kernel: Kernel, pfn: int) -> None:
    """A page of the cache was unmapped: if nobody has its slot, it goes. The caller has a reference."""
    mem = kernel.mem
    if mem.flags[pfn] & PG_swapcache and not mem.mapcount[pfn] and trylock_page(kernel, pfn):
        try_to_free_swap(kernel, pfn)
        unlock_page(kernel, pfn)


# ---- reading ----------------------------------------------------------------------------------------------------
def lookup_swap_cache(kernel: Kernel, entry: int) -> int:
    """The frame of an entry with a reference, or 0."""
    swap = swap_state(kernel)
    pfn = find_get_page(swap_address_space(kernel, entry), swp_offset(entry))
    swap.find_total += 1
    if pfn:
        swap.find_success += 1
        if kernel.mem.flags[pfn] & PG_readahead:
            kernel.mem.flags[pfn] &= ~PG_readahead
            swap.readahead.swapin_readahead_hits += 1
    return pfn


@may_sleep
def __read_swap_cache_async(kernel: Kernel, entry: int, gfp: int, vma: VmAreaStruct | None) -> tuple[int, bool]:
    """(the frame with a reference, True if it is new: locked, and to be read). (0, False): nobody has the slot.

    Raises ENOMEM.
    """
    space = swap_address_space(kernel, entry)
    offset = swp_offset(entry)
    found = find_get_page(space, offset)
    if found or not swp_swap_info(kernel, entry).swap_map[offset]:
        return found, False
    pfn = alloc_page(kernel, gfp) if vma is None else alloc_pages_vma(kernel, gfp, 0, vma, vma.vm_start)
    found = find_get_page(space, offset)                 # the allocation may have slept
    if found or not swapcache_prepare(kernel, entry):
        put_page(kernel, pfn)
        return found, False
    kernel.mem.flags[pfn] |= PG_locked | PG_swapbacked
    add_to_swap_cache(kernel, pfn, entry)
    lru_cache_add(kernel, pfn)
    return pfn, True


@may_sleep
def read_swap_cache_async(kernel: Kernel, entry: int, gfp: int, vma: VmAreaStruct | None) -> int:
    """The frame of an entry with a reference; if it was not there, it is being read. 0 as above. Raises ENOMEM."""
    pfn, new = __read_swap_cache_async(kernel, entry, gfp, vma)
    if new:
        space = swap_address_space(kernel, entry)
        space.a_ops.readpage(None, space, swp_offset(entry), pfn)
    return pfn


def swapin_nr_pages(kernel: Kernel, offset: int) -> int:
    """How many pages to read with this one: a power of two, up to 1 << vm.page-cluster."""
    swap = swap_state(kernel)
    max_pages = 1 << kernel.sysctl.page_cluster
    if max_pages <= 1:
        return 1
    stat = swap.readahead
    hits, stat.swapin_readahead_hits = stat.swapin_readahead_hits, 0
    pages = __swapin_nr_pages(stat.prev_offset, offset, hits, max_pages, stat.last_readahead_pages)
    if not hits:
        stat.prev_offset = offset
    stat.last_readahead_pages = pages
    return pages


def __swapin_nr_pages(prev_offset: int, offset: int, hits: int, max_pages: int, prev_win: int) -> int:
    if hits:
        pages = max(4, 1 << (hits + 1).bit_length())     # hits + 2, rounded up
    else:                                                # nothing to judge by, but for neighbours one after the other
        pages = 2 if abs(offset - prev_offset) == 1 else 1
    return max(min(pages, max_pages), prev_win // 2)     # it does not shrink too fast


@may_sleep
def swap_cluster_readahead(kernel: Kernel, entry: int, gfp: int, vma: VmAreaStruct | None) -> int:
    """read_swap_cache_async(), and the slots around it: what was written together is probably needed together."""
    mask = swapin_nr_pages(kernel, swp_offset(entry)) - 1
    if mask:
        wanted = swp_offset(entry)
        space = swap_address_space(kernel, entry)
        plug = kernel.filemap.blk_start_plug()
        try:
            for offset in range(max(wanted & ~mask, 1), min((wanted | mask) + 1, swp_swap_info(kernel, entry).max)):
                try:
                    pfn, new = __read_swap_cache_async(kernel, swp_entry(swp_type(entry), offset), gfp, vma)
                except KernelError:                      # no memory for pages that may not be needed
                    break
                if not pfn:
                    continue
                if new:
                    space.a_ops.readpage(None, space, offset, pfn)
                    if offset != wanted:
                        kernel.mem.flags[pfn] |= PG_readahead
                put_page(kernel, pfn)
        finally:
            kernel.filemap.blk_finish_plug(plug)
    return read_swap_cache_async(kernel, entry, gfp, vma)


@may_sleep
def swapin_readahead(kernel: Kernel, entry: int, gfp: int, vma: VmAreaStruct) -> int:
    """What a page fault calls. The frame with a reference, perhaps still locked; 0: the slot is free now."""
    return swap_cluster_readahead(kernel, entry, gfp, vma)
