"""khugepaged: a thread that makes huge pages of small ones, where an area may have them and got there too late.

Linux: mm/khugepaged.c (5.3). Same: address spaces are entered by faults and madvise(2), and scanned in turns,
    pages_to_scan at a time; which 2 MB qualify (max_ptes_none, one writable and one used page at least, nobody else has
    one); the files of /sys/kernel/mm/transparent_hugepage/khugepaged.
Differs: the thread begins with the first address space that is entered. A table with swapped pages is left alone.
Owns: Khugepaged (ThpState.khugepaged), MMF_VM_HUGEPAGE.
Locks: mmap_sem, for reading to look and for writing to collapse.
Invariants: each entered address space is held by one mm_count.
Gaps: huge pages of files, max_ptes_swap, nodes (the page comes from where the area's policy says).
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.pgtable import (
    HUGE,
    PTE_ACCESSED,
    PTE_MASK,
    PTE_PRESENT,
    PTE_SPECIAL,
    PTE_WRITE,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.kthread import kthread_run
from glasskernel.kernel.locking.rwsem import down_read_trylock, down_write, up_read, up_write
from glasskernel.kernel.sched.core import cond_resched
from glasskernel.kernel.sched.wait import WaitQueueHead, wait_event, wait_event_timeout, wake_up
from glasskernel.kernel.time.timekeeping import msecs_to_jiffies
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.machine.costs import COPY_PAGE
from glasskernel.mm.huge_memory import (
    GFP_TRANSHUGE_LIGHT,
    __split_huge_pmd,
    alloc_transhuge_page_vma,
    changer,
    copier,
    free_huge_frames,
    handle_huge_pmd,
    map_huge_page,
    whole_in,
    zapper,
)
from glasskernel.mm.huge_tables import free_pmd_range, huge_pte_offset
from glasskernel.mm.huge_types import (
    HPAGE_PMD_MASK,
    HPAGE_PMD_NR,
    HPAGE_PMD_ORDER,
    HPAGE_PMD_SIZE,
    THP_DEFAULT_FLAGS,
    TRANSPARENT_HUGEPAGE_DEFRAG_KHUGEPAGED_FLAG,
    ThpState,
    transparent_hugepage_enabled,
)
from glasskernel.mm.hugetlb_fault import clear_huge_page
from glasskernel.mm.mmap import find_vma, mmdrop, mmgrab
from glasskernel.mm.mmu_gather import free_pages_and_swap_cache
from glasskernel.mm.page_alloc import (
    __GFP_DIRECT_RECLAIM,
    __GFP_NORETRY,
    PG_anon,
    PG_locked,
    PG_lru,
    PG_swapcache,
    __free_pages,
)
from glasskernel.mm.rmap import page_remove_rmap
from glasskernel.mm.tlb import flush_tlb_range
from glasskernel.mm.types import MM_ANONPAGES, MMF_VM_HUGEPAGE, MmStruct, VmAreaStruct

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct


@slotted
class Khugepaged:
    """struct khugepaged_scan and its settings. mm, address: where the next scan goes on."""

    mm_slots: dict[MmStruct, None] = field(default_factory=dict)
    mm: MmStruct | None = None
    address: int = 0
    wait: WaitQueueHead = field(default_factory=WaitQueueHead)
    thread: TaskStruct | None = None
    pages_to_scan: int = HPAGE_PMD_NR * 8
    pages_collapsed: int = 0
    full_scans: int = 0
    scan_sleep_millisecs: int = 10000
    alloc_sleep_millisecs: int = 60000
    max_ptes_none: int = HPAGE_PMD_NR - 1
    expire_now: bool = False                         # a setting changed: it need not sleep on
    alloc_failed: bool = False                       # there was no huge page to be had: it need not try again soon


@notrace
def thp_init(kernel: Kernel) -> ThpState:
    """From now on page faults ask for huge pages."""
    if kernel.thp is None:
        kernel.thp = ThpState(
            handle_huge_pmd, __split_huge_pmd, zapper, copier, changer, free_huge_frames, free_pmd_range,
            __khugepaged_enter, __khugepaged_exit, THP_DEFAULT_FLAGS, khugepaged=Khugepaged())
    return kernel.thp


@notrace
def khugepaged_of(kernel: Kernel) -> Khugepaged:
    assert kernel.thp is not None
    state: Khugepaged = kernel.thp.khugepaged
    return state


# ---- who is scanned ---------------------------------------------------------------------------------------------
@may_sleep
def __khugepaged_enter(mm: MmStruct) -> None:
    """An address space may have huge pages: it is scanned from now on."""
    state = khugepaged_of(mm.kernel)
    mm.flags |= MMF_VM_HUGEPAGE
    wakeup = not state.mm_slots
    state.mm_slots[mm] = None
    mmgrab(mm)
    if state.thread is None:
        state.thread = kthread_run(khugepaged, state, "khugepaged")
    if wakeup:
        wake_up(state.wait)


@may_sleep
def __khugepaged_exit(mm: MmStruct) -> None:
    """The last user of an address space is gone."""
    state = khugepaged_of(mm.kernel)
    mm.flags &= ~MMF_VM_HUGEPAGE
    if state.mm is mm:                               # it is looked at: that is over when the lock can be had
        down_write(mm.mmap_sem)
        up_write(mm.mmap_sem)
    if mm in state.mm_slots:
        collect_mm_slot(state, mm)


def collect_mm_slot(state: Khugepaged, mm: MmStruct) -> None:
    """It is scanned no more."""
    del state.mm_slots[mm]
    if state.mm is mm:
        state.mm, state.address = None, 0
    mmdrop(mm)


# ---- the thread -------------------------------------------------------------------------------------------------
@may_sleep
def khugepaged(state: Khugepaged) -> int:
    kernel = current().kernel
    while True:
        khugepaged_do_scan(kernel, state)
        khugepaged_wait_work(state)


@may_sleep
def khugepaged_wait_work(state: Khugepaged) -> None:
    """Until there is something to scan, or the next scan is due."""
    if not state.mm_slots:
        wait_event(state.wait, lambda: state.mm_slots)
        return
    state.expire_now = False
    if state.scan_sleep_millisecs:
        wait_event_timeout(state.wait, lambda: state.expire_now, msecs_to_jiffies(state.scan_sleep_millisecs))


@may_sleep
def khugepaged_alloc_sleep(state: Khugepaged) -> None:
    """Perhaps memory is in larger pieces later."""
    state.expire_now = False
    wait_event_timeout(state.wait, lambda: state.expire_now, msecs_to_jiffies(state.alloc_sleep_millisecs))


@may_sleep
def khugepaged_do_scan(kernel: Kernel, state: Khugepaged) -> None:
    """pages_to_scan pages, at most everything twice."""
    progress, passes = 0, 0
    while True:
        cond_resched()                               # the last address space may go meanwhile
        if progress >= state.pages_to_scan or not state.mm_slots or passes == 2:
            return
        if state.mm is None:
            passes += 1
        progress += khugepaged_scan_mm_slot(state, state.pages_to_scan - progress)
        if state.alloc_failed:
            state.alloc_failed = False
            khugepaged_alloc_sleep(state)
            return


@may_sleep
def khugepaged_scan_mm_slot(state: Khugepaged, pages: int) -> int:
    """Goes on with one address space; how many pages it looked at, at least 1."""
    if state.mm is None:
        state.mm, state.address = next(iter(state.mm_slots)), 0
    mm, progress, done = state.mm, 1, True
    if down_read_trylock(mm.mmap_sem):
        locked = True
        while mm.mm_users:
            vma = find_vma(mm, state.address)
            if vma is None:
                break
            hstart = max(vma.vm_start + HPAGE_PMD_SIZE - 1 & HPAGE_PMD_MASK, state.address)
            if not hugepage_vma_check(vma) or hstart + HPAGE_PMD_SIZE > vma.vm_end:
                state.address = vma.vm_end
                progress += 1
                continue
            if progress >= pages:
                done = False
                break
            state.address = hstart + HPAGE_PMD_SIZE
            progress += HPAGE_PMD_NR
            if khugepaged_scan_pmd(mm, vma, hstart):
                up_read(mm.mmap_sem)
                locked = False
                collapse_huge_page(mm, hstart)
                done = False
                break                                # the areas may be others now
        if locked:
            up_read(mm.mmap_sem)
    if done and state.mm is mm:
        advance(state, mm)
    return progress


@notrace
def advance(state: Khugepaged, mm: MmStruct) -> None:
    """The next address space is next; after the last one, all have been seen."""
    slots = list(state.mm_slots)
    after = slots.index(mm) + 1
    state.address = 0
    if after == len(slots):
        state.mm = None
        state.full_scans += 1
    else:
        state.mm = slots[after]


def hugepage_vma_check(vma: VmAreaStruct) -> bool:
    """May its pages be collapsed?"""
    return transparent_hugepage_enabled(vma) and vma.anon_vma is not None


# ---- 2 MB -------------------------------------------------------------------------------------------------------
@notrace
def mm_find_pmd(mm: MmStruct, haddr: int) -> tuple[int, int]:
    """(slot, table) of the last-level table for 2 MB: its slot in ram64; (0, 0) if there is none."""
    slot = huge_pte_offset(mm, haddr)
    entry = mm.kernel.mem.ram64[slot] if slot else 0
    return (slot, (entry & PTE_MASK) >> 3) if entry & HUGE == PTE_PRESENT else (0, 0)


def khugepaged_scan_pmd(mm: MmStruct, vma: VmAreaStruct, haddr: int) -> bool:
    """Do 2 MB qualify?"""
    _slot, table = mm_find_pmd(mm, haddr)
    if not table:
        return False
    mem = mm.kernel.mem
    none = 0
    writable = referenced = False
    for entry in mem.ram64[table : table + HPAGE_PMD_NR]:
        if not entry or (entry & (PTE_PRESENT | PTE_SPECIAL) == PTE_PRESENT | PTE_SPECIAL
                         and (entry & PTE_MASK) >> 12 == mem.zero_pfn):
            none += 1
            continue
        pfn = (entry & PTE_MASK) >> 12
        if (not entry & PTE_PRESENT or entry & PTE_SPECIAL or mem.refcount[pfn] != 1 or mem.mapcount[pfn] != 1
                or mem.flags[pfn] & (PG_anon | PG_lru | PG_locked | PG_swapcache) != PG_anon | PG_lru):
            return False
        writable |= bool(entry & PTE_WRITE)
        referenced |= bool(entry & PTE_ACCESSED)
    return none <= khugepaged_of(mm.kernel).max_ptes_none and writable and referenced


@may_sleep
def collapse_huge_page(mm: MmStruct, haddr: int) -> bool:
    """The small pages of 2 MB are copied to a huge one. Locks: none held; mmap_sem is taken for writing."""
    thp = mm.kernel.thp
    assert thp is not None
    gfp = GFP_TRANSHUGE_LIGHT
    if thp.flags & TRANSPARENT_HUGEPAGE_DEFRAG_KHUGEPAGED_FLAG:
        gfp |= __GFP_DIRECT_RECLAIM | __GFP_NORETRY
    down_write(mm.mmap_sem)
    try:
        vma = hugepage_vma_revalidate(mm, haddr)
        if vma is None:
            return False
        new = alloc_transhuge_page_vma(gfp, vma, haddr)
        thp.events[b"thp_collapse_alloc" if new else b"thp_collapse_alloc_failed"] += 1
        if not new:
            khugepaged_of(mm.kernel).alloc_failed = True
            return False
        if not khugepaged_scan_pmd(mm, vma, haddr):  # the allocation may have slept: reclaim was there
            __free_pages(mm.kernel, new, HPAGE_PMD_ORDER)
            return False
        __collapse_huge_page(vma, haddr, new)
    finally:
        up_write(mm.mmap_sem)
    khugepaged_of(mm.kernel).pages_collapsed += 1
    return True


def hugepage_vma_revalidate(mm: MmStruct, haddr: int) -> VmAreaStruct | None:
    """The area, if it is still one that may have huge pages there."""
    if not mm.mm_users:
        return None
    vma = find_vma(mm, haddr)
    return vma if vma is not None and whole_in(vma, haddr) and hugepage_vma_check(vma) else None


@notrace
def __collapse_huge_page(vma: VmAreaStruct, haddr: int, new: int) -> None:
    """The end of collapse_huge_page(): nothing sleeps from here on."""
    mm = vma.vm_mm
    kernel = mm.kernel
    mem = kernel.mem
    slot, table = mm_find_pmd(mm, haddr)
    entries = mem.ram64[table : table + HPAGE_PMD_NR].tolist()
    mem.ram64[slot] = 0                              # pmdp_collapse_flush()
    flush_tlb_range(mm, haddr, haddr + HPAGE_PMD_SIZE)
    old = __collapse_huge_page_copy(kernel, entries, new)
    for pfn in old:
        mm.rss_stat[MM_ANONPAGES] -= 1
        page_remove_rmap(kernel, pfn)
    map_huge_page(vma, haddr, slot, new)
    assert kernel.thp is not None
    kernel.thp.deposits[slot] = table >> 9           # pgtable_trans_huge_deposit() of the table that was there
    free_pages_and_swap_cache(kernel, old)


def __collapse_huge_page_copy(kernel: Kernel, entries: list[int], new: int) -> list[int]:
    """Fills the huge page; the frames that were copied."""
    mem = kernel.mem
    clear_huge_page(kernel, new)
    old = []
    for i, entry in enumerate(entries):
        if entry and not entry & PTE_SPECIAL:
            pfn = (entry & PTE_MASK) >> 12
            mem.ram[new + i << 12 : new + i + 1 << 12] = mem.ram[pfn << 12 : pfn + 1 << 12]
            old.append(pfn)
    mem.machine.charge(COPY_PAGE * len(old))
    return old


@notrace
def khugepaged_setting(kernel: Kernel, name: str, value: int | None = None) -> Any:
    """A figure of khugepaged's, for its files; a new value wakes it."""
    state = khugepaged_of(kernel) if kernel.thp is not None else Khugepaged()
    if value is not None:
        setattr(state, name, value)
        state.expire_now = True
        wake_up(state.wait)
    return getattr(state, name)
