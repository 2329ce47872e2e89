"""Unmapping in three steps: entries go first, then the TLB is flushed, and only then are the frames given back.

Linux: mm/mmu_gather.c, free_pages_and_swap_cache() of mm/swap_state.c, release_pages() of mm/swap.c (5.3).
Same: tlb_gather_mmu(), tlb_flush_mmu(), tlb_finish_mmu() and what they call; batches are bounded.
Differs: frames are gathered in one list instead of linked batches, huge pages in another.
Owns: MmuGather. Invariants: a frame in `pages` or `huge` holds the reference of the entry that was cleared.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import PG_lru, PG_swapcache, free_unref_page_list
from glasskernel.mm.tlb import flush_tlb_mm, flush_tlb_range

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.types import MmStruct

MAX_GATHER_BATCH = 510                  # pointers in one page behind struct mmu_gather_batch


@slotted
class MmuGather:
    """struct mmu_gather: what one unmapping call has collected. fullmm: the whole address space goes."""

    mm: MmStruct
    start: int
    end: int
    fullmm: bool
    pages: list[int] = field(default_factory=list)
    cleared: bool = False               # some entry was: a flush is due
    huge: list[int] | None = None       # first frames of huge pages


def tlb_gather_mmu(mm: MmStruct, start: int, end: int) -> MmuGather:
    """Begins to unmap [start, end). start 0 and end -1: everything."""
    return MmuGather(mm, start, end, not start | end + 1)


def __tlb_remove_page_size(tlb: MmuGather, pfn: int, page_size: int = 4096) -> None:
    """One frame more to be freed, or one huge page."""
    tlb.cleared = True
    if page_size == 4096:
        tlb.pages.append(pfn)
    elif tlb.huge is None:
        tlb.huge = [pfn]
    else:
        tlb.huge.append(pfn)


@notrace
def free_huge_pages(kernel: Kernel, pages: list[int]) -> None:
    """Gives up the references of unmapped huge pages, of the pool or transparent ones."""
    hugetlb, thp = kernel.hugetlb, kernel.thp
    for pfn in pages:
        if hugetlb is not None and pfn in hugetlb.pages:
            hugetlb.put_huge_page(hugetlb, pfn)
        else:
            assert thp is not None
            thp.free_huge_frames(kernel, pfn)


@notrace
def tlb_flush(tlb: MmuGather) -> None:
    if tlb.cleared:
        tlb.cleared = False
        if tlb.fullmm:
            flush_tlb_mm(tlb.mm)
        else:
            flush_tlb_range(tlb.mm, tlb.start, tlb.end)


def tlb_flush_mmu(tlb: MmuGather) -> None:
    """The TLB forgets what was unmapped so far, and its frames are free."""
    tlb_flush(tlb)
    if tlb.pages:
        pages, tlb.pages = tlb.pages, []
        free_pages_and_swap_cache(tlb.mm.kernel, pages)
    if tlb.huge is not None:
        huge, tlb.huge = tlb.huge, None
        free_huge_pages(tlb.mm.kernel, huge)


def tlb_finish_mmu(tlb: MmuGather) -> None:
    """Ends what tlb_gather_mmu() began."""
    tlb_flush_mmu(tlb)


def free_pages_and_swap_cache(kernel: Kernel, pages: list[int]) -> None:
    """Gives up the references of unmapped frames. In the swap cache stay those whose slot others hold."""
    swap = kernel.swap
    if swap is not None:
        flags = kernel.mem.flags
        for pfn in pages:
            if flags[pfn] & PG_swapcache:
                swap.free_swap_cache(kernel, pfn)
    release_pages(kernel, pages)


def release_pages(kernel: Kernel, pages: list[int]) -> None:
    """put_page() for many frames; those nobody else holds are freed together."""
    mem = kernel.mem
    refcount, flags, lists = mem.refcount, mem.flags, mem.lru_by_flags
    free = []
    for pfn in pages:
        uses = refcount[pfn] - 1
        refcount[pfn] = uses
        if not uses:
            state = flags[pfn]
            if state & PG_lru:                       # free_pcp_prepare() clears the flags
                del lists[state >> 5 & 31][pfn]
            free.append(pfn)
    if free:
        free_unref_page_list(mem, free)
