"""munlock: pages of areas that are locked no more can be reclaimed again, unless somebody else locks them.

Linux: mm/mlock.c, try_to_munlock() of mm/rmap.c (5.3). Same: the last area that locks a page decides, found by a walk
    over the reverse map. Differs: pages are looked up one by one, without a pagevec.
Owns: nothing; PG_mlocked and NR_MLOCK with mm/swap.py, which has the other half (mlock_vma_page(), clear_page_mlock()).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.pgtable import PTE_MASK, PTE_PRESENT, PTE_SPECIAL, lookup_pte
from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import (
    NR_MLOCK,
    UNEVICTABLE_PGMUNLOCKED,
    UNEVICTABLE_PGSTRANDED,
    PG_lru,
    PG_mlocked,
    PG_unevictable,
)
from glasskernel.mm.rmap import RmapWalkControl, page_vma_mapped_walk, rmap_walk
from glasskernel.mm.swap import isolate_lru_page, mlock_vma_page, putback_lru_page
from glasskernel.mm.types import VM_LOCKED, VM_LOCKONFAULT

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.page_alloc import MemState
    from glasskernel.mm.types import VmAreaStruct


def munlock_vma_pages_range(vma: VmAreaStruct, start: int, end: int) -> None:
    """A part of an area is locked no more, or goes away."""
    vma.vm_flags &= ~(VM_LOCKED | VM_LOCKONFAULT)
    kernel = vma.vm_mm.kernel
    mem = kernel.mem
    for address in range(start, end, 4096):
        slot = lookup_pte(mem.ram64, vma.vm_mm.pgd, address)
        entry = mem.ram64[slot] if slot else 0
        if entry & PTE_PRESENT and not entry & PTE_SPECIAL:
            pfn = (entry & PTE_MASK) >> 12
            if mem.flags[pfn] & PG_mlocked:
                munlock_vma_page(kernel, pfn)


@notrace
def munlock_vma_pages_all(vma: VmAreaStruct) -> None:
    munlock_vma_pages_range(vma, vma.vm_start, vma.vm_end)


def munlock_vma_page(kernel: Kernel, pfn: int) -> None:
    """One area less locks the page; if it was the last, the page can be reclaimed again."""
    mem = kernel.mem
    mem.flags[pfn] &= ~PG_mlocked
    mem.vm_stat[NR_MLOCK] -= 1
    if mem.flags[pfn] & PG_lru:
        isolate_lru_page(kernel, pfn)
        __munlock_isolated_page(kernel, pfn)
    else:
        __munlock_isolation_failed(mem, pfn)


def __munlock_isolated_page(kernel: Kernel, pfn: int) -> None:
    """Back to a list, if no other area holds it to the unevictable one."""
    if kernel.mem.mapcount[pfn] > 1:
        try_to_munlock(kernel, pfn)
    if not kernel.mem.flags[pfn] & PG_mlocked:
        kernel.mem.vm_event[UNEVICTABLE_PGMUNLOCKED] += 1
    putback_lru_page(kernel, pfn)


def __munlock_isolation_failed(mem: MemState, pfn: int) -> None:
    """Somebody else has isolated it, and will find out."""
    mem.vm_event[UNEVICTABLE_PGSTRANDED if mem.flags[pfn] & PG_unevictable else UNEVICTABLE_PGMUNLOCKED] += 1


def try_to_munlock(kernel: Kernel, pfn: int) -> None:
    """Does another locked area map the page? Then it stays locked. (mm/rmap.c)"""
    rmap_walk(kernel, pfn, RmapWalkControl(try_to_munlock_one))


@notrace
def try_to_munlock_one(pfn: int, vma: VmAreaStruct, address: int, _arg: None) -> bool:
    """try_to_unmap_one() with TTU_MUNLOCK."""
    if vma.vm_flags & VM_LOCKED and page_vma_mapped_walk(vma, pfn, address):
        mlock_vma_page(vma.vm_mm.kernel, pfn)
        return False
    return True
