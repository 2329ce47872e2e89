"""Transparent huge pages: anonymous memory gets 2 MB at its first touch, where an area has room for them.

Linux: mm/huge_memory.c (5.3). Same: when there is one (enabled, madvise(2), aligned and inside the area), the huge zero
    page of reads, copy-on-write of the whole, a table deposited for the day an entry is split, what splits it (rights,
    unmapping or moving of a part), thp_* of /proc/vmstat. "madvise" is the default, as in Ubuntu's 5.3.
Differs: there is no compound page. A huge page is 512 frames in a row that are counted, and on the LRU lists, one by
    one: so only entries are ever split (__split_huge_pmd), never pages, and reclaim splits an entry to look at its
    frames. An mlock()ed area has small pages, and mremap(2) moves small ones.
Owns: ThpState, entries of the second level with PTE_PSE in anonymous areas, their deposited tables.
Invariants: such an entry has a deposit; it holds a reference and a mapcount of each of its frames, and counts once in
    compound_mapcount of the first; the huge zero page's has PTE_SPECIAL and holds nothing.
Gaps: huge pages of tmpfs and of DAX, compaction, giving the huge zero page back, deferred splitting.
"""
from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from glasskernel.arch.x86.pgtable import (
    HUGE,
    PTE_ACCESSED,
    PTE_DIRTY,
    PTE_MASK,
    PTE_NX,
    PTE_PRESENT,
    PTE_PSE,
    PTE_SPECIAL,
    PTE_WRITE,
    TABLE,
)
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.huge_tables import free_table, huge_pte_alloc, huge_pte_offset
from glasskernel.mm.huge_types import (
    HPAGE_PMD_MASK,
    HPAGE_PMD_NR,
    HPAGE_PMD_ORDER,
    HPAGE_PMD_SIZE,
    TRANSPARENT_HUGEPAGE_DEFRAG_DIRECT_FLAG,
    TRANSPARENT_HUGEPAGE_DEFRAG_KSWAPD_FLAG,
    TRANSPARENT_HUGEPAGE_DEFRAG_KSWAPD_OR_MADV_FLAG,
    TRANSPARENT_HUGEPAGE_DEFRAG_REQ_MADV_FLAG,
    TRANSPARENT_HUGEPAGE_USE_ZERO_PAGE_FLAG,
    HugePmd,
    ThpState,
    transparent_hugepage_enabled,
)
from glasskernel.mm.hugetlb_fault import clear_huge_page, copy_user_huge_page, note_huge_executable
from glasskernel.mm.memory import FAULT_FLAG_WRITE, forget_access, pte_alloc_one
from glasskernel.mm.mmu_gather import __tlb_remove_page_size, free_pages_and_swap_cache
from glasskernel.mm.page_alloc import (
    __GFP_DIRECT_RECLAIM,
    __GFP_KSWAPD_RECLAIM,
    __GFP_NOMEMALLOC,
    __GFP_NORETRY,
    __GFP_NOWARN,
    GFP_HIGHUSER_MOVABLE,
    NR_ANON_MAPPED,
    NR_PAGETABLE,
    PG_lru,
    PG_swapcache,
    PG_table,
    __free_pages,
    __free_pages_ok,
    alloc_pages,
    alloc_pages_vma,
    put_page,
)
from glasskernel.mm.rmap import anon_vma_prepare, page_add_new_anon_rmap
from glasskernel.mm.swap import lru_cache_add_active_or_unevictable
from glasskernel.mm.tlb import flush_tlb_range
from glasskernel.mm.types import (
    MM_ANONPAGES,
    MMF_VM_HUGEPAGE,
    VM_FAULT_SIGSEGV,
    VM_FAULT_WRITE,
    VM_HUGEPAGE,
    VM_WRITE,
    MmStruct,
    VmAreaStruct,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.mmu_gather import MmuGather
    from glasskernel.mm.page_alloc import MemState

VM_FAULT_FALLBACK = 0x800                            # no huge page: a small one will do
GFP_TRANSHUGE_LIGHT = (GFP_HIGHUSER_MOVABLE | __GFP_NOMEMALLOC | __GFP_NOWARN) & ~(
    __GFP_DIRECT_RECLAIM | __GFP_KSWAPD_RECLAIM)
_TAILS = HPAGE_PMD_NR - 1
_ONES = array("I", [1]) * HPAGE_PMD_NR
_KEPT = PTE_MASK | PTE_ACCESSED | PTE_DIRTY | PTE_SPECIAL | PTE_PSE


@notrace
def thp_of(vma: VmAreaStruct) -> ThpState:
    thp = vma.vm_mm.kernel.thp
    assert thp is not None
    return thp


@notrace
def whole_in(vma: VmAreaStruct, haddr: int) -> bool:
    """Does the area have all of the 2 MB?"""
    return vma.vm_start <= haddr and haddr + HPAGE_PMD_SIZE <= vma.vm_end


# ---- faults -----------------------------------------------------------------------------------------------------
@may_sleep
@notrace
def handle_huge_pmd(vma: VmAreaStruct, address: int, flags: int) -> int | None:
    """The part of __handle_mm_fault() that is about 2 MB at once. None: the fault is about a small page."""
    if vma.vm_ops is not None:
        return None
    mm = vma.vm_mm
    slot = huge_pte_offset(mm, address)
    entry = mm.kernel.mem.ram64[slot] if slot else 0
    if not entry:
        if not transparent_hugepage_enabled(vma) or not whole_in(vma, address & HPAGE_PMD_MASK):
            return None
        fault = create_huge_pmd(vma, address, huge_pte_alloc(mm, address), flags)
    elif entry & HUGE != HUGE:
        return None
    elif flags & FAULT_FLAG_WRITE and not entry & PTE_WRITE:
        fault = wp_huge_pmd(vma, address, slot, entry)
    else:
        huge_pmd_set_accessed(vma, address, slot, entry, bool(flags & FAULT_FLAG_WRITE))
        return 0
    return None if fault & VM_FAULT_FALLBACK else fault


@may_sleep
def create_huge_pmd(vma: VmAreaStruct, address: int, slot: int, flags: int) -> int:
    return do_huge_pmd_anonymous_page(vma, address, slot, flags)


@may_sleep
def wp_huge_pmd(vma: VmAreaStruct, address: int, slot: int, entry: int) -> int:
    if not vma.vm_flags & VM_WRITE:
        return VM_FAULT_SIGSEGV
    fault = do_huge_pmd_wp_page(vma, address, slot, entry)
    if fault & VM_FAULT_FALLBACK and vma.vm_mm.kernel.mem.ram64[slot] & HUGE == HUGE:
        __split_huge_pmd(vma.vm_mm, slot, address)
    return fault


def huge_pmd_set_accessed(vma: VmAreaStruct, address: int, slot: int, entry: int, write: bool) -> None:
    vma.vm_mm.kernel.mem.ram64[slot] = entry | PTE_ACCESSED | (PTE_DIRTY if write else 0)
    forget_access(vma, address)


@may_sleep
def do_huge_pmd_anonymous_page(vma: VmAreaStruct, address: int, slot: int, flags: int) -> int:
    """The first touch of 2 MB: the huge zero page for a read, a huge page for a write."""
    thp = thp_of(vma)
    haddr = address & HPAGE_PMD_MASK
    anon_vma_prepare(vma)
    if not vma.vm_mm.flags & MMF_VM_HUGEPAGE:                # khugepaged_enter()
        thp.khugepaged_enter(vma.vm_mm)
    if not flags & FAULT_FLAG_WRITE and thp.flags & TRANSPARENT_HUGEPAGE_USE_ZERO_PAGE_FLAG:
        pgtable = pte_alloc_one(vma.vm_mm)
        zero = mm_get_huge_zero_page(vma.vm_mm.kernel, thp)
        if not zero:
            put_page(vma.vm_mm.kernel, pgtable)
            thp.events[b"thp_fault_fallback"] += 1
            return VM_FAULT_FALLBACK
        set_huge_zero_page(vma, slot, pgtable, zero)
        return 0
    pfn = alloc_transhuge_page_vma(alloc_hugepage_direct_gfpmask(vma), vma, haddr)
    if not pfn:
        thp.events[b"thp_fault_fallback"] += 1
        return VM_FAULT_FALLBACK
    return __do_huge_pmd_anonymous_page(vma, haddr, slot, pfn)


def alloc_hugepage_direct_gfpmask(vma: VmAreaStruct) -> int:
    """How hard to try, as "defrag" says. Without compaction nobody tries very hard."""
    flags, madvised = thp_of(vma).flags, vma.vm_flags & VM_HUGEPAGE
    if flags & TRANSPARENT_HUGEPAGE_DEFRAG_KSWAPD_FLAG:
        return GFP_TRANSHUGE_LIGHT | __GFP_KSWAPD_RECLAIM
    if flags & TRANSPARENT_HUGEPAGE_DEFRAG_DIRECT_FLAG or (madvised and flags & (
            TRANSPARENT_HUGEPAGE_DEFRAG_KSWAPD_OR_MADV_FLAG | TRANSPARENT_HUGEPAGE_DEFRAG_REQ_MADV_FLAG)):
        return GFP_TRANSHUGE_LIGHT | __GFP_DIRECT_RECLAIM | __GFP_NORETRY
    if flags & TRANSPARENT_HUGEPAGE_DEFRAG_KSWAPD_OR_MADV_FLAG:
        return GFP_TRANSHUGE_LIGHT | __GFP_KSWAPD_RECLAIM
    return GFP_TRANSHUGE_LIGHT


@may_sleep
@notrace
def alloc_transhuge_page_vma(gfp: int, vma: VmAreaStruct, haddr: int) -> int:
    """512 frames with a reference each; 0 if there are none in a row."""
    kernel = vma.vm_mm.kernel
    try:
        pfn = alloc_pages_vma(kernel, gfp, HPAGE_PMD_ORDER, vma, haddr)
    except KernelError:
        return 0
    prep_transhuge_page(kernel.mem, pfn)
    return pfn


def prep_transhuge_page(mem: MemState, pfn: int) -> None:
    """Each frame is counted."""
    mem.refcount[pfn : pfn + HPAGE_PMD_NR] = _ONES


@may_sleep
def __do_huge_pmd_anonymous_page(vma: VmAreaStruct, haddr: int, slot: int, pfn: int) -> int:
    kernel = vma.vm_mm.kernel
    try:
        pgtable = pte_alloc_one(vma.vm_mm)
    except KernelError:
        __free_pages(kernel, pfn, HPAGE_PMD_ORDER)
        raise
    clear_huge_page(kernel, pfn)
    if kernel.mem.ram64[slot]:                           # an allocation slept, and another thread was quicker
        put_page(kernel, pgtable)
        __free_pages(kernel, pfn, HPAGE_PMD_ORDER)
        return 0
    map_huge_page(vma, haddr, slot, pfn)
    pgtable_trans_huge_deposit(vma.vm_mm, slot, pgtable)
    thp_of(vma).events[b"thp_fault_alloc"] += 1
    return 0


@notrace
def map_huge_page(vma: VmAreaStruct, haddr: int, slot: int, pfn: int) -> None:
    """An entry gets a new huge page, with the area's rights."""
    mm = vma.vm_mm
    kernel = mm.kernel
    mem = kernel.mem
    page_add_new_anon_rmap(vma, haddr, pfn)
    lru_cache_add_active_or_unevictable(kernel, pfn, vma)
    tails = slice(pfn + 1, pfn + HPAGE_PMD_NR)           # the same for the others, all at once
    index = mem.index[pfn]
    mem.mapcount[tails] = _ONES[1:]
    mem.flags[tails] = array("I", [mem.flags[pfn]]) * _TAILS
    mem.anon_vma[tails] = array("I", [mem.anon_vma[pfn]]) * _TAILS
    mem.index[tails] = array("Q", range(index + 1, index + HPAGE_PMD_NR))
    mem.lru_by_flags[mem.flags[pfn] >> 5 & 31].update(dict.fromkeys(range(pfn + 1, pfn + HPAGE_PMD_NR)))
    mem.vm_stat[NR_ANON_MAPPED] += _TAILS
    mm.rss_stat[MM_ANONPAGES] += _TAILS
    thp_of(vma).compound_mapcount[pfn] = 1
    prot = vma.vm_page_prot
    if not prot & PTE_NX:
        note_huge_executable(kernel, pfn)
    entry = pfn << 12 | prot | PTE_PSE | PTE_ACCESSED | PTE_DIRTY
    mem.ram64[slot] = entry | PTE_WRITE if vma.vm_flags & VM_WRITE else entry


def pgtable_trans_huge_deposit(mm: MmStruct, slot: int, pgtable: int) -> None:
    """The table that splitting the entry will need: then it cannot fail. (mm/pgtable-generic.c)"""
    thp = mm.kernel.thp
    assert thp is not None and slot not in thp.deposits
    thp.deposits[slot] = pgtable
    mm.kernel.mem.flags[pgtable] |= PG_table
    mm.kernel.mem.vm_stat[NR_PAGETABLE] += 1
    mm.pgtables_bytes += 4096
    mm.tables[0].append(pgtable)


def pgtable_trans_huge_withdraw(mm: MmStruct, slot: int) -> int:
    """The table that was deposited: it is needed now, or not any more. (mm/pgtable-generic.c)"""
    thp = mm.kernel.thp
    assert thp is not None
    return thp.deposits.pop(slot)


@notrace
def zap_deposited_table(mm: MmStruct, slot: int) -> None:
    """The entry goes without being split."""
    free_table(mm, pgtable_trans_huge_withdraw(mm, slot))


# ---- the huge zero page -----------------------------------------------------------------------------------------
@may_sleep
def mm_get_huge_zero_page(kernel: Kernel, thp: ThpState) -> int:
    """2 MB of zeros for whoever reads what was never written; 0 if there is none. It stays until the machine stops."""
    if not thp.huge_zero_page:
        try:
            pfn = alloc_pages(kernel, GFP_TRANSHUGE_LIGHT, HPAGE_PMD_ORDER)
        except KernelError:
            thp.events[b"thp_zero_page_alloc_failed"] += 1
            return 0
        clear_huge_page(kernel, pfn)
        thp.huge_zero_page = pfn
        thp.events[b"thp_zero_page_alloc"] += 1
    return thp.huge_zero_page


def set_huge_zero_page(vma: VmAreaStruct, slot: int, pgtable: int, zero: int) -> None:
    """Nobody counts who maps it."""
    mm = vma.vm_mm
    if mm.kernel.mem.ram64[slot]:                        # an allocation slept
        put_page(mm.kernel, pgtable)
        return
    pgtable_trans_huge_deposit(mm, slot, pgtable)
    if not vma.vm_page_prot & PTE_NX:
        note_huge_executable(mm.kernel, zero)
    mm.kernel.mem.ram64[slot] = zero << 12 | vma.vm_page_prot | PTE_PSE | PTE_SPECIAL | PTE_ACCESSED


# ---- copy-on-write ----------------------------------------------------------------------------------------------
@may_sleep
def do_huge_pmd_wp_page(vma: VmAreaStruct, address: int, slot: int, entry: int) -> int:
    """A write to what is shared with a child, or to the huge zero page. VM_FAULT_FALLBACK: small pages will do."""
    mm = vma.vm_mm
    kernel = mm.kernel
    mem = kernel.mem
    haddr = address & HPAGE_PMD_MASK
    if not whole_in(vma, haddr):
        return VM_FAULT_FALLBACK
    anon_vma_prepare(vma)
    old = (entry & PTE_MASK) >> 12
    frames = slice(old, old + HPAGE_PMD_NR)
    zero = entry & PTE_SPECIAL
    if not zero and mem.mapcount[frames] == _ONES and not any([state & PG_swapcache for state in mem.flags[frames]]):
        assert vma.anon_vma is not None
        mem.anon_vma[frames] = array("I", [vma.anon_vma.number]) * HPAGE_PMD_NR       # page_move_anon_rmap()
        mem.ram64[slot] = entry | PTE_WRITE | PTE_DIRTY | PTE_ACCESSED
        forget_access(vma, address)
        return VM_FAULT_WRITE
    if not transparent_hugepage_enabled(vma):
        return VM_FAULT_FALLBACK
    if not zero:
        mem.refcount[frames] = array("I", [count + 1 for count in mem.refcount[frames]])          # get_page()
    new = alloc_transhuge_page_vma(alloc_hugepage_direct_gfpmask(vma), vma, haddr)
    if new and mem.ram64[slot] == entry:
        if zero:
            clear_huge_page(kernel, new)
        else:
            copy_user_huge_page(kernel, new, old)
        replace_huge_page(vma, haddr, slot, old if not zero else 0, new)
        fault = VM_FAULT_WRITE
    else:
        if new:                                          # the allocation slept: the access is made again
            __free_pages(kernel, new, HPAGE_PMD_ORDER)
        else:
            thp_of(vma).events[b"thp_fault_fallback"] += 1
        fault = 0 if new else VM_FAULT_FALLBACK
    if not zero:
        free_huge_frames(kernel, old)
    return fault


@notrace
def replace_huge_page(vma: VmAreaStruct, haddr: int, slot: int, old: int, new: int) -> None:
    """The entry has the copy now. old 0: it had the huge zero page."""
    mm = vma.vm_mm
    mm.kernel.mem.ram64[slot] = 0                        # pmdp_huge_clear_flush()
    flush_tlb_range(mm, haddr, haddr + HPAGE_PMD_SIZE)
    map_huge_page(vma, haddr, slot, new)
    thp_of(vma).events[b"thp_fault_alloc"] += 1
    if old:
        page_remove_anon_compound_rmap(mm, old)
        free_huge_frames(mm.kernel, old)


def page_remove_anon_compound_rmap(mm: MmStruct, pfn: int) -> None:
    """One entry less maps the frames as one. (mm/rmap.c)"""
    mem = mm.kernel.mem
    frames = slice(pfn, pfn + HPAGE_PMD_NR)
    counts = array("I", [count - 1 for count in mem.mapcount[frames]])
    mem.mapcount[frames] = counts
    mem.vm_stat[NR_ANON_MAPPED] -= counts.count(0)
    mm.rss_stat[MM_ANONPAGES] -= HPAGE_PMD_NR
    put_compound_mapcount(mm.kernel, pfn)


@notrace
def put_compound_mapcount(kernel: Kernel, pfn: int) -> None:
    assert kernel.thp is not None
    counts = kernel.thp.compound_mapcount
    counts[pfn] -= 1
    if not counts[pfn]:
        del counts[pfn]


@notrace
def free_huge_frames(kernel: Kernel, pfn: int) -> None:
    """put_page() of 512 frames in a row: they go back as one block, if nobody else has one of them."""
    mem = kernel.mem
    frames = slice(pfn, pfn + HPAGE_PMD_NR)
    states = mem.flags[frames].tolist()
    if mem.refcount[frames] != _ONES or any([state & PG_swapcache for state in states]):
        free_pages_and_swap_cache(kernel, list(range(pfn, pfn + HPAGE_PMD_NR)))
        return
    for frame, state in enumerate(states, pfn):
        if state & PG_lru:
            del mem.lru_by_flags[state >> 5 & 31][frame]
    free_transhuge_page(mem, pfn)


def free_transhuge_page(mem: MemState, pfn: int) -> None:
    """Nobody holds a frame of it any more."""
    free_compound_page(mem, pfn)


def free_compound_page(mem: MemState, pfn: int) -> None:
    """(mm/page_alloc.c)"""
    __free_pages_ok(mem, pfn, HPAGE_PMD_ORDER)


# ---- splitting --------------------------------------------------------------------------------------------------
def __split_huge_pmd(mm: MmStruct, slot: int, address: int) -> int:
    """An entry that maps 2 MB becomes the table that was deposited for it; the new entry."""
    thp = mm.kernel.thp
    assert thp is not None
    thp.events[b"thp_split_pmd"] += 1
    return __split_huge_pmd_locked(mm, slot, address & HPAGE_PMD_MASK)


def __split_huge_pmd_locked(mm: MmStruct, slot: int, haddr: int) -> int:
    mem = mm.kernel.mem
    ram64 = mem.ram64
    entry = ram64[slot]
    table = pgtable_trans_huge_withdraw(mm, slot)
    first = entry & ~PTE_PSE
    if entry & PTE_SPECIAL:                              # __split_huge_zero_page_pmd()
        entries = array("Q", [first & ~PTE_MASK | mem.zero_pfn << 12]) * HPAGE_PMD_NR
    else:
        entries = array("Q", range(first, first + HPAGE_PMD_SIZE, 4096))
        put_compound_mapcount(mm.kernel, (entry & PTE_MASK) >> 12)
    ram64[table << 9 : (table << 9) + HPAGE_PMD_NR] = entries
    new: int = table << 12 | TABLE
    ram64[slot] = new
    flush_tlb_range(mm, haddr, haddr + HPAGE_PMD_SIZE)
    return new


# ---- unmapping, fork, mprotect: each entry that pte_ranges() meets ----------------------------------------------
@notrace
def zapper(tlb: MmuGather, vma: VmAreaStruct) -> HugePmd:
    return lambda slot, address, end: zap_huge_pmd(tlb, vma, slot, address, end)


def zap_huge_pmd(tlb: MmuGather, vma: VmAreaStruct, slot: int, address: int, end: int) -> bool:
    """Empties an entry, if all of it goes."""
    if end - address != HPAGE_PMD_SIZE:
        return False
    mm = vma.vm_mm
    ram64 = mm.kernel.mem.ram64
    entry = ram64[slot]
    ram64[slot] = 0
    tlb.cleared = True
    zap_deposited_table(mm, slot)
    if not entry & PTE_SPECIAL:
        pfn = (entry & PTE_MASK) >> 12
        page_remove_anon_compound_rmap(mm, pfn)
        __tlb_remove_page_size(tlb, pfn, HPAGE_PMD_SIZE)
    return True


@notrace
def copier(dst: VmAreaStruct, src: VmAreaStruct) -> HugePmd:
    return lambda slot, address, end: copy_huge_pmd(dst, src, slot, address, end)


@may_sleep
def copy_huge_pmd(dst: VmAreaStruct, src: VmAreaStruct, slot: int, address: int, end: int) -> bool:
    """fork(2): the child's entry, read-only in both; False: small ones will do. Raises ENOMEM."""
    if end - address != HPAGE_PMD_SIZE:
        return False
    mm, child = src.vm_mm, dst.vm_mm
    kernel = mm.kernel
    mem = kernel.mem
    target = huge_pte_alloc(child, address)
    pgtable = pte_alloc_one(child)
    entry = mem.ram64[slot]
    if entry & HUGE != HUGE:                             # an allocation slept
        put_page(kernel, pgtable)
        return False
    if not entry & PTE_SPECIAL:
        pfn = (entry & PTE_MASK) >> 12
        frames = slice(pfn, pfn + HPAGE_PMD_NR)
        mem.refcount[frames] = array("I", [count + 1 for count in mem.refcount[frames]])
        mem.mapcount[frames] = array("I", [count + 1 for count in mem.mapcount[frames]])
        thp_of(src).compound_mapcount[pfn] += 1
        child.rss_stat[MM_ANONPAGES] += HPAGE_PMD_NR
    entry &= ~PTE_WRITE
    mem.ram64[slot] = entry
    pgtable_trans_huge_deposit(child, target, pgtable)
    mem.ram64[target] = entry
    return True


@notrace
def changer(vma: VmAreaStruct) -> HugePmd:
    return lambda slot, address, end: change_huge_pmd(vma, slot, address, end)


def change_huge_pmd(vma: VmAreaStruct, slot: int, address: int, end: int) -> bool:
    """mprotect(2) of all of an entry. PROT_NONE splits it here: an entry that is not present maps no huge page."""
    prot = vma.vm_page_prot
    if end - address != HPAGE_PMD_SIZE or not prot & PTE_PRESENT:
        return False
    ram64 = vma.vm_mm.kernel.mem.ram64
    entry = ram64[slot]
    if not prot & PTE_NX:
        note_huge_executable(vma.vm_mm.kernel, (entry & PTE_MASK) >> 12)
    ram64[slot] = entry & _KEPT | prot & ~PTE_WRITE
    flush_tlb_range(vma.vm_mm, address, end)
    return True


@notrace
def check_thp(kernel: Kernel) -> list[str]:
    """Invariants for tests, when no program is left."""
    thp = kernel.thp
    if thp is None or (not thp.deposits and not thp.compound_mapcount):
        return []
    return [f"{len(thp.compound_mapcount)} huge pages are mapped by nobody, {len(thp.deposits)} tables wait"]
