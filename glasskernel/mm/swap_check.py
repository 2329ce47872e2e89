"""What must hold for anonymous memory and swap areas, for tests.

Owns: nothing. Context: between two programs.
"""
from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from glasskernel.arch.x86.pgtable import PTE_MASK, PTE_PRESENT, PTE_PROTNONE, PTE_SPECIAL, pte_to_swp_entry
from glasskernel.lib.types import notrace
from glasskernel.mm.memory import pte_ranges
from glasskernel.mm.page_alloc import PG_anon, PG_swapcache
from glasskernel.mm.swap_types import SWAP_HAS_CACHE, SWAP_MAP_BAD, SwapInfoStruct, SwapState, swp_entry
from glasskernel.mm.types import MM_SWAPENTS, VM_HUGETLB, MmStruct

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


@notrace
def check_anon(kernel: Kernel) -> list[str]:
    """Reverse maps find every entry that maps an anonymous frame; each use of a swap slot is counted."""
    wrong: list[str] = []
    users: Counter[int] = Counter()
    for mm in kernel.mm_list:
        swapped = check_mm_anon(mm, wrong)
        if len(swapped) != mm.rss_stat[MM_SWAPENTS]:
            wrong.append(f"{len(swapped)} swapped pages are mapped, MM_SWAPENTS is {mm.rss_stat[MM_SWAPENTS]}")
        users.update(swapped)
    swap = kernel.swap
    if swap is None:
        return wrong + [f"swap entry {entry:#x}, but there is no swap" for entry in users]
    for inode in swap.shmem_swaplist:
        users.update(inode.i_private.swapped.values())
    for si in swap.info:
        if si.flags:
            check_area(swap, si, users, wrong)
    cached = sum(len(space.pages) for space in swap.spaces)
    flagged = sum(1 for pfn in swap.private if kernel.mem.flags[pfn] & PG_swapcache)
    if not cached == flagged == len(swap.private):
        wrong.append(f"{cached} pages in the swap cache, {len(swap.private)} with an entry, {flagged} with the flag")
    free = sum(si.pages for si in swap.active) - sum(si.inuse_pages for si in swap.info)
    if free != swap.nr_swap_pages:
        wrong.append(f"nr_swap_pages {swap.nr_swap_pages}, there are {free}")
    return wrong


@notrace
def check_mm_anon(mm: MmStruct, wrong: list[str]) -> list[int]:
    """The swap entries of an address space."""
    mem = mm.kernel.mem
    swapped = []
    for vma in mm.vmas:
        if vma.vm_flags & VM_HUGETLB:
            continue
        for address, first, count in pte_ranges(mm, vma.vm_start, vma.vm_end, lambda *_huge: True):
            for i, pte in enumerate(mem.ram64[first : first + count]):
                if not pte & (PTE_PRESENT | PTE_PROTNONE):
                    if pte:
                        swapped.append(pte_to_swp_entry(pte))
                    continue
                pfn = (pte & PTE_MASK) >> 12
                if pte & PTE_SPECIAL or not mem.flags[pfn] & PG_anon:
                    continue
                anon_vma = mem.anon_vmas.get(mem.anon_vma[pfn])
                index = vma.vm_pgoff + ((address + (i << 12) - vma.vm_start) >> 12)
                if anon_vma is None or vma not in anon_vma.rb_root or mem.index[pfn] != index:
                    wrong.append(f"frame {pfn:#x} at {address + (i << 12):#x} cannot be found by its reverse map")
    return swapped


@notrace
def check_area(swap: SwapState, si: SwapInfoStruct, users: Counter[int], wrong: list[str]) -> None:
    """The counts of one area."""
    used = 0
    for offset, count in enumerate(si.swap_map):
        if count == SWAP_MAP_BAD:
            continue
        entry = swp_entry(si.type, offset)
        counted = (count & ~SWAP_HAS_CACHE & 0x7F) + si.continuations.get(offset, 0)
        if counted != users[entry]:
            wrong.append(f"swap slot {offset} counts {counted} users, there are {users[entry]}")
        if bool(count & SWAP_HAS_CACHE) != (offset in swap.spaces[si.type].pages):
            wrong.append(f"swap slot {offset} (count {count:#x}) and the swap cache disagree")
        if count:
            used += 1
        elif not si.lowest_bit <= offset <= si.highest_bit:
            wrong.append(f"the free swap slot {offset} lies outside {si.lowest_bit}..{si.highest_bit}")
    if used != si.inuse_pages:
        wrong.append(f"{used} slots of swap area {si.type} are in use, inuse_pages is {si.inuse_pages}")
