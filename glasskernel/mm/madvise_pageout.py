"""madvise(2): pages that are not needed soon, and swapped pages that are.

Linux: mm/madvise.c and reclaim_pages() of mm/vmscan.c; MADV_COLD and MADV_PAGEOUT came with 5.4, MADV_WILLNEED of
    swapped pages is that of 5.3. Same: MADV_PAGEOUT reclaims pages that nobody else maps, used or not; of a
    file only if the caller could write it, for others may use it.
Differs: found by walking the last-level tables, without the callbacks of walk_page_range().
Owns: nothing. Lock: mmap_sem for reading. Imported by the first such advice.
"""
from __future__ import annotations

from contextlib import suppress

from glasskernel.arch.x86.pgtable import PTE_ACCESSED, PTE_PRESENT, PTE_PROTNONE, pte_to_swp_entry
from glasskernel.kernel.sched.core import cond_resched
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.memory import pte_ranges, vm_normal_page
from glasskernel.mm.mincore import can_do_mincore
from glasskernel.mm.mmu_gather import MmuGather, tlb_finish_mmu, tlb_gather_mmu
from glasskernel.mm.page_alloc import GFP_HIGHUSER_MOVABLE, PG_active, PG_referenced, PG_unevictable, put_page
from glasskernel.mm.swap import add_page_to_lru_list, isolate_lru_page, putback_lru_page
from glasskernel.mm.swap_state import read_swap_cache_async
from glasskernel.mm.types import VM_HUGETLB, VM_LOCKED, VM_PFNMAP, VmAreaStruct
from glasskernel.mm.vmscan_pages import ReclaimStat, ScanControl, shrink_page_list


@may_sleep
def madvise_cold(vma: VmAreaStruct, start: int, end: int) -> None:
    """MADV_COLD: the next to be reclaimed when memory runs short. Raises EINVAL."""
    madvise_cold_or_pageout(vma, start, end, False)


@may_sleep
def madvise_pageout(vma: VmAreaStruct, start: int, end: int) -> None:
    """MADV_PAGEOUT: reclaimed now. Raises EINVAL."""
    if can_do_mincore(vma):                              # can_do_pageout() asks the same
        madvise_cold_or_pageout(vma, start, end, True)


@notrace
@may_sleep
def madvise_cold_or_pageout(vma: VmAreaStruct, start: int, end: int, pageout: bool) -> None:
    if vma.vm_flags & (VM_LOCKED | VM_HUGETLB | VM_PFNMAP):           # can_madv_lru_vma()
        raise KernelError(EINVAL)
    kernel = vma.vm_mm.kernel
    plug = kernel.filemap.blk_start_plug()
    tlb = tlb_gather_mmu(vma.vm_mm, start, end)
    try:
        for _address, slot, count in pte_ranges(vma.vm_mm, start, end):
            madvise_cold_or_pageout_pte_range(tlb, vma, slot, count, pageout)
            cond_resched()
    finally:
        tlb_finish_mmu(tlb)
        kernel.filemap.blk_finish_plug(plug)


@may_sleep
def madvise_cold_or_pageout_pte_range(tlb: MmuGather, vma: VmAreaStruct, slot: int, count: int, pageout: bool) -> None:
    """The pages of one last-level table lose their marks of use, and their place on the active list."""
    kernel = vma.vm_mm.kernel
    mem = kernel.mem
    ram64 = mem.ram64
    page_list = []
    for at in range(slot, slot + count):
        entry = ram64[at]
        if not entry & (PTE_PRESENT | PTE_PROTNONE):
            continue
        pfn = vm_normal_page(vma, entry)
        if pfn is None or mem.mapcount[pfn] != 1:        # others may use it
            continue
        if entry & PTE_ACCESSED:
            ram64[at] = entry & ~PTE_ACCESSED
            tlb.cleared = True
        mem.flags[pfn] &= ~PG_referenced
        if not pageout:
            deactivate_page(vma, pfn)
            continue
        with suppress(KernelError):                      # EBUSY: it is on no list
            isolate_lru_page(kernel, pfn)
            if mem.flags[pfn] & PG_unevictable:
                putback_lru_page(kernel, pfn)
            else:
                page_list.append(pfn)
    if page_list:
        reclaim_pages(vma, page_list)


def deactivate_page(vma: VmAreaStruct, pfn: int) -> None:
    """From the active list to the inactive one (mm/swap.c)."""
    kernel = vma.vm_mm.kernel
    mem = kernel.mem
    if mem.flags[pfn] & PG_active and not mem.flags[pfn] & PG_unevictable:
        with suppress(KernelError):
            isolate_lru_page(kernel, pfn)
            mem.flags[pfn] &= ~(PG_active | PG_referenced)
            add_page_to_lru_list(mem, pfn)
            put_page(kernel, pfn)


@may_sleep
def reclaim_pages(vma: VmAreaStruct, page_list: list[int]) -> int:
    """Reclaims isolated pages; how many are free now. The others are back on their lists."""
    kernel = vma.vm_mm.kernel
    sc = ScanControl(may_writepage=True)
    nr_reclaimed, kept = shrink_page_list(kernel, page_list, sc, 0, ReclaimStat())
    for pfn in kept:
        kernel.mem.flags[pfn] &= ~PG_active
        putback_lru_page(kernel, pfn)
    return nr_reclaimed


@may_sleep
def force_swapin_readahead(vma: VmAreaStruct, start: int, end: int) -> None:
    """MADV_WILLNEED of anonymous memory: what is in a swap area comes back, into the swap cache at first."""
    kernel = vma.vm_mm.kernel
    ram64 = kernel.mem.ram64
    plug = kernel.filemap.blk_start_plug()
    try:
        for _address, slot, count in pte_ranges(vma.vm_mm, start, end):
            for at in range(slot, slot + count):
                entry = ram64[at]
                if not entry or entry & (PTE_PRESENT | PTE_PROTNONE):
                    continue
                with suppress(KernelError):
                    pfn = read_swap_cache_async(kernel, pte_to_swp_entry(entry), GFP_HIGHUSER_MOVABLE, vma)
                    if pfn:
                        put_page(kernel, pfn)
    finally:
        kernel.filemap.blk_finish_plug(plug)
