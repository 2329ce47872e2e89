"""Entries of the second level of page tables, where 2 MB can be mapped at once.

Linux: huge_pte_alloc(), huge_pte_offset() of mm/hugetlb.c, free_pmd_range() of mm/memory.c (5.3).
Differs: munmap(2) leaves empty tables behind (mm/memory.py), which stand where such an entry should: who may map huge
    pages takes them away first, and once some may, munmap(2) does.
Owns: nothing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.pgtable import HUGE, PTE_MASK, PTE_PRESENT
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.huge_types import HPAGE_PMD_MASK, HPAGE_PMD_SIZE
from glasskernel.mm.memory import __pmd_alloc, __pud_alloc
from glasskernel.mm.page_alloc import NR_PAGETABLE, put_page
from glasskernel.mm.tlb import flush_tlb_range

if TYPE_CHECKING:
    from glasskernel.mm.types import MmStruct

_EMPTY_TABLE = memoryview(bytes(4096)).cast("Q")


@may_sleep
def huge_pte_alloc(mm: MmStruct, address: int) -> int:
    """The slot of the second-level entry for an address; tables above are made. Raises ENOMEM."""
    ram64 = mm.kernel.mem.ram64
    slot = (mm.pgd >> 3) + (address >> 39)
    entry = ram64[slot]
    if not entry & PTE_PRESENT:
        entry = __pud_alloc(mm, slot)
    slot = ((entry & PTE_MASK) >> 3) + (address >> 30 & 511)
    entry = ram64[slot]
    if not entry & PTE_PRESENT:
        entry = __pmd_alloc(mm, slot)
    return ((entry & PTE_MASK) >> 3) + (address >> 21 & 511)


def huge_pte_offset(mm: MmStruct, address: int) -> int:
    """The same if the tables are there, else 0."""
    ram64 = mm.kernel.mem.ram64
    entry = ram64[(mm.pgd >> 3) + (address >> 39)]
    if not entry & PTE_PRESENT:
        return 0
    entry = ram64[((entry & PTE_MASK) >> 3) + (address >> 30 & 511)]
    if not entry & PTE_PRESENT:
        return 0
    return ((entry & PTE_MASK) >> 3) + (address >> 21 & 511)


def free_pmd_range(mm: MmStruct, start: int, end: int) -> None:
    """Empty last-level tables of whole 2 MB of [start, end) go. Locks: mmap_sem for writing, or no area is there."""
    gone = False
    for address in range(start + HPAGE_PMD_SIZE - 1 & HPAGE_PMD_MASK, end - HPAGE_PMD_SIZE + 1, HPAGE_PMD_SIZE):
        slot = huge_pte_offset(mm, address)
        if slot:
            gone |= free_pte_range(mm, slot)
    if gone:
        flush_tlb_range(mm, start, end)


@notrace
def free_pte_range(mm: MmStruct, slot: int) -> bool:
    """One of them, if it is empty."""
    mem = mm.kernel.mem
    entry = mem.ram64[slot]
    if entry & HUGE != PTE_PRESENT:
        return False
    table = (entry & PTE_MASK) >> 3
    if mem.ram64[table : table + 512] != _EMPTY_TABLE:
        return False
    mem.ram64[slot] = 0
    free_table(mm, table >> 9)
    return True


@notrace
def free_table(mm: MmStruct, pfn: int) -> None:
    """A last-level table that nothing points to any more."""
    mem = mm.kernel.mem
    mm.tables[0].remove(pfn)
    mm.pgtables_bytes -= 4096
    mem.vm_stat[NR_PAGETABLE] -= 1
    put_page(mm.kernel, pfn)
