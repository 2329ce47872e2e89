"""Page-table entries and walks: four levels of 512 entries in guest RAM.

Linux: arch/x86/include/asm/pgtable_types.h, pgtable_64.h. Tables are physical addresses, entries are slots of
`ram64` (physical address / 8), so a "pte_t *" is an int and 0 means "no such table".
"""
from __future__ import annotations

from glasskernel.lib.types import notrace

PTE_PRESENT, PTE_WRITE, PTE_USER, PTE_ACCESSED, PTE_DIRTY, PTE_PSE = 0x1, 0x2, 0x4, 0x20, 0x40, 0x80
PTE_GLOBAL = 0x100
PTE_SPECIAL = 0x200                       # software bit: no reference is held (zero page, vvar)
PTE_PROTNONE = 0x100                      # in an entry that is not present: PROT_NONE (Linux's _PAGE_PROTNONE)
PTE_NX = 1 << 63
PTE_MASK = 0x000F_FFFF_FFFF_F000
TABLE = PTE_PRESENT | PTE_WRITE | PTE_USER | PTE_ACCESSED | PTE_DIRTY      # _PAGE_TABLE

HUGE = PTE_PRESENT | PTE_PSE              # these two in an entry of the second level: 2 MB, not a table
PMD_SIZE, PUD_SIZE, PGDIR_SIZE = 1 << 21, 1 << 30, 1 << 39


# A swap entry is an int as Linux's swp_entry_t: type << 58 | offset. In a PTE the type is in the five highest bits, the
# inverted offset in bits 9 to 58: what is not present should not name an address that a CPU may have in its caches.
SWP_TYPE_SHIFT = 58
_SWP_OFFSET = (1 << 50) - 1


@notrace
def swp_entry_to_pte(entry: int) -> int:
    """The PTE of a page that is in a swap area (__swp_entry)."""
    return (~entry & _SWP_OFFSET) << 9 | entry >> SWP_TYPE_SHIFT << 59


@notrace
def pte_to_swp_entry(pte: int) -> int:
    """Where the page of a PTE is, which is neither present nor empty."""
    return pte >> 59 << SWP_TYPE_SHIFT | (~pte >> 9 & _SWP_OFFSET)


@notrace
def pte_pfn(entry: int, address: int) -> int:
    """The frame that an entry has for an address: of 512 in a row, if it maps 2 MB."""
    pfn = (entry & PTE_MASK) >> 12
    return pfn + (address >> 12 & 511) if entry & PTE_PSE else pfn


@notrace
def lookup_pte(ram64: memoryview, pgd: int, address: int) -> int:
    """The slot of the PTE for a user address, or 0 if a table on the way is missing.

    That of the entry with PTE_PSE where 2 MB are mapped at once: pte_pfn() knows.
    """
    entry = ram64[(pgd >> 3) + (address >> 39)]
    if not entry & 1:
        return 0
    entry = ram64[((entry & PTE_MASK) >> 3) + (address >> 30 & 511)]
    if not entry & 1:
        return 0
    slot: int = ((entry & PTE_MASK) >> 3) + (address >> 21 & 511)
    entry = ram64[slot]
    if entry & HUGE != PTE_PRESENT:
        return slot if entry & PTE_PRESENT else 0
    return ((entry & PTE_MASK) >> 3) + (address >> 12 & 511)
