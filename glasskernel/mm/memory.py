"""Page faults, copy-on-write, and the page tables of processes.

Linux: mm/memory.c (5.3). Same: the paths and names from handle_mm_fault() down, the zero page for reads of
untouched anonymous memory, fault-around, rss counters, COW by reference count. Differs: a "struct page *" is a
pfn, a "pte_t *" a slot of ram64; tables below the top one are freed when the address space ends. Huge pages are in
mm/hugetlb.py and mm/huge_memory.py. Gaps: NUMA hinting.
Owns: the PTEs of user memory. Invariants: each present PTE without PTE_SPECIAL holds
one reference and one mapcount of its frame; a frame mapped without NX carries PG_exec; whoever takes a right away
flushes the TLB; an entry that is neither empty nor present is a swap entry (mm/swapfile.py), and counts one use
of its slot.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from glasskernel.arch.x86.pgtable import (
    HUGE,
    PTE_ACCESSED,
    PTE_DIRTY,
    PTE_MASK,
    PTE_NX,
    PTE_PRESENT,
    PTE_PROTNONE,
    PTE_PSE,
    PTE_SPECIAL,
    PTE_USER,
    PTE_WRITE,
    TABLE,
    lookup_pte,
    pte_pfn,
    pte_to_swp_entry,
)
from glasskernel.lib.errno import EFAULT, ENOMEM, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.machine.costs import COPY_PAGE
from glasskernel.mm.dirty_limits import balance_dirty_pages_ratelimited
from glasskernel.mm.mmu_gather import (
    MAX_GATHER_BATCH,
    MmuGather,
    __tlb_remove_page_size,
    tlb_finish_mmu,
    tlb_flush_mmu,
    tlb_gather_mmu,
)
from glasskernel.mm.page_alloc import (
    __GFP_ZERO,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL_ACCOUNT,
    NR_ANON_MAPPED,
    NR_FILE_MAPPED,
    NR_PAGETABLE,
    PGFAULT,
    PGMAJFAULT,
    PG_anon,
    PG_dirty,
    PG_exec,
    PG_mlocked,
    PG_swapbacked,
    PG_swapcache,
    PG_table,
    __get_free_pages,
    alloc_page,
    alloc_pages_vma,
    free_pages,
    get_zeroed_page,
    put_page,
)
from glasskernel.mm.page_writeback import set_page_dirty
from glasskernel.mm.pagemap import unlock_page
from glasskernel.mm.rmap import (
    anon_vma_prepare,
    mm_counter,
    page_add_file_rmap,
    page_add_new_anon_rmap,
    page_move_anon_rmap,
    page_remove_rmap,
    unlink_anon_vmas,
)
from glasskernel.mm.swap import clear_page_mlock, lru_cache_add_active_or_unevictable
from glasskernel.mm.tlb import flush_tlb_page, ptep_clear_flush
from glasskernel.mm.types import (
    MM_ANONPAGES,
    MM_FILEPAGES,
    MM_SHMEMPAGES,
    MM_SWAPENTS,
    VM_EXEC,
    VM_FAULT_ERROR,
    VM_FAULT_LOCKED,
    VM_FAULT_MAJOR,
    VM_FAULT_NOPAGE,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_FAULT_SIGSEGV,
    VM_FAULT_WRITE,
    VM_HUGETLB,
    VM_LOCKED,
    VM_PFNMAP,
    VM_READ,
    VM_SHARED,
    VM_WIPEONFORK,
    VM_WRITE,
    AddressSpace,
    MmStruct,
    VmAreaStruct,
    VmFault,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

FAULT_FLAG_WRITE, FAULT_FLAG_MKWRITE, FAULT_FLAG_ALLOW_RETRY, FAULT_FLAG_USER = 0x1, 0x2, 0x4, 0x40
FAULT_FLAG_KILLABLE, FAULT_FLAG_TRIED, FAULT_FLAG_REMOTE, FAULT_FLAG_INSTRUCTION = 0x10, 0x20, 0x80, 0x100
FAULT_AROUND_PAGES = 16

# A frame that may be written to directly is dirty and accessed already: no second fault, no A/D update needed.
_PRESENT_MASK = PTE_PRESENT | PTE_PROTNONE
_COUNTED = PTE_PRESENT | PTE_SPECIAL                     # of these only PTE_PRESENT: the usual entry, a counted frame
_EMPTY_HALF = memoryview(bytes(2048)).cast("Q")          # the entries of user addresses in a top table
_EMPTY_TABLE = memoryview(bytes(4096)).cast("Q")
S_SWAPFILE = 256                                         # inode.i_flags


def vm_get_page_prot(vm_flags: int) -> int:
    """The PTE bits for an area. Writable private pages start read-only: that is what makes copy-on-write."""
    if not vm_flags & (VM_READ | VM_WRITE | VM_EXEC):
        return PTE_PROTNONE | PTE_NX
    prot = PTE_PRESENT | PTE_USER
    if not vm_flags & VM_EXEC:
        prot |= PTE_NX
    if vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE | VM_SHARED:
        prot |= PTE_WRITE
    return prot


# ---- tables -----------------------------------------------------------------------------------------------------
def pgd_alloc(kernel: Kernel) -> int:
    """A top table with nothing in the half of users; its physical address. Raises ENOMEM. (arch/x86/mm/pgtable.c)"""
    pfn = __get_free_pages(kernel, GFP_KERNEL_ACCOUNT | __GFP_ZERO, 0)
    kernel.mem.flags[pfn] |= PG_table
    kernel.mem.vm_stat[NR_PAGETABLE] += 1
    pgd_ctor(kernel, pfn << 12)
    return pfn << 12


@notrace
def pgd_ctor(kernel: Kernel, pgd: int) -> None:
    """The half of the kernel, as init_mm has it now; vmalloc_fault() copies what comes later."""
    ram64, upper, init = kernel.mem.ram64, (pgd >> 3) + 256, (kernel.vmalloc.pgd >> 3) + 256
    ram64[upper : upper + 256] = ram64[init : init + 256]          # clone_pgd_range()


def __pud_alloc(mm: MmStruct, slot: int) -> int:
    """A table of the third level, for a slot of the top one; the entry. Raises ENOMEM."""
    return enter_table(mm, slot, 2, get_zeroed_page(mm.kernel, GFP_KERNEL_ACCOUNT))


def __pmd_alloc(mm: MmStruct, slot: int) -> int:
    """A table of the second level. Raises ENOMEM."""
    return enter_table(mm, slot, 1, alloc_page(mm.kernel, GFP_KERNEL_ACCOUNT | __GFP_ZERO))


def __pte_alloc(mm: MmStruct, slot: int) -> int:
    """A table of the last level. Raises ENOMEM."""
    return enter_table(mm, slot, 0, pte_alloc_one(mm))


def pte_alloc_one(mm: MmStruct) -> int:
    return alloc_page(mm.kernel, GFP_KERNEL_ACCOUNT | __GFP_ZERO)


@notrace
def enter_table(mm: MmStruct, slot: int, level: int, pfn: int) -> int:
    """Accounts a frame that becomes a table, and enters it; answers the entry.

    The allocation may have slept: if another thread was faster, its table stays.
    """
    mem = mm.kernel.mem
    entry = mem.ram64[slot]
    if entry & 1:
        put_page(mm.kernel, pfn)
        return entry
    mem.flags[pfn] |= PG_table
    mem.vm_stat[NR_PAGETABLE] += 1
    mm.pgtables_bytes += 4096
    mm.tables[level].append(pfn)
    entry = mem.ram64[slot] = pfn << 12 | TABLE
    return entry


@notrace
def pte_alloc_map(mm: MmStruct, address: int, fault: bool = False) -> int:
    """The slot of the PTE for an address; missing tables are made. May sleep then. Raises ENOMEM.

    fault: 0 where 2 MB are mapped at once, or could be.
    """
    ram64 = mm.kernel.mem.ram64
    slot = (mm.pgd >> 3) + (address >> 39)
    entry = ram64[slot]
    if not entry & 1:
        entry = __pud_alloc(mm, slot)
    slot = ((entry & PTE_MASK) >> 3) + (address >> 30 & 511)
    entry = ram64[slot]
    if not entry & 1:
        entry = __pmd_alloc(mm, slot)
    slot = ((entry & PTE_MASK) >> 3) + (address >> 21 & 511)
    entry = ram64[slot]
    if entry & 0x81 != 1:                                # HUGE != PTE_PRESENT
        if fault and mm.kernel.thp is not None:
            return 0
        entry = split_huge_pmd(mm, slot, address) if entry & 1 else __pte_alloc(mm, slot)
    return ((entry & PTE_MASK) >> 3) + (address >> 12 & 511)


@notrace
def split_huge_pmd(mm: MmStruct, slot: int, address: int) -> int:
    """An entry that maps 2 MB becomes a table that maps the same; the entry. (A macro in Linux.)"""
    thp = mm.kernel.thp
    assert thp is not None, "2 MB are mapped, and not by a transparent huge page"
    return thp.split_huge_pmd(mm, slot, address)


@notrace
def pte_ranges(mm: MmStruct, start: int, end: int,
               huge: Callable[[int, int, int], bool] | None = None) -> Iterator[tuple[int, int, int]]:
    """(address, first slot, count) for each last-level table that has a part of [start, end).

    huge(slot, address, end) is asked first where 2 MB are mapped at once. Unless it answers True, they get a table.
    """
    ram64 = mm.kernel.mem.ram64
    address = start
    while address < end:
        entry = ram64[(mm.pgd >> 3) + (address >> 39)]
        if not entry & 1:
            address = (address | (1 << 39) - 1) + 1
            continue
        entry = ram64[((entry & PTE_MASK) >> 3) + (address >> 30 & 511)]
        if not entry & 1:
            address = (address | (1 << 30) - 1) + 1
            continue
        slot = ((entry & PTE_MASK) >> 3) + (address >> 21 & 511)
        entry = ram64[slot]
        following = (address | (1 << 21) - 1) + 1
        if entry & HUGE == HUGE:
            if huge is not None and huge(slot, address, min(end, following)):
                address = following
                continue
            entry = split_huge_pmd(mm, slot, address)
        if entry & 1:
            count = (min(end, following) - address + 4095) >> 12
            yield address, ((entry & PTE_MASK) >> 3) + (address >> 12 & 511), count
        address = following


def free_pgtables(tlb: MmuGather, areas: list[VmAreaStruct]) -> None:
    """Areas leave the files they map; when everything goes, so do the tables. No PTE of theirs may hold a frame."""
    for vma in areas:
        unlink_anon_vmas(vma)
        if vma.vm_file is not None:
            unlink_file_vma(vma)
    if tlb.fullmm:
        free_pgd_range(tlb)
    elif tlb.mm.kernel.thp is not None:
        tlb.mm.kernel.thp.free_pmd_range(tlb.mm, tlb.start, tlb.end)       # or no huge page could be there again


def unlink_file_vma(vma: VmAreaStruct) -> None:
    """Truncation and write-back need not look here any more."""
    assert vma.vm_file is not None
    __remove_shared_vm_struct(vma, vma.vm_file.f_mapping)


def __remove_shared_vm_struct(vma: VmAreaStruct, mapping: AddressSpace) -> None:
    mapping.i_mmap.pop(vma, None)


def free_pgd_range(tlb: MmuGather) -> None:
    """Gives every table but the top one back."""
    mm = tlb.mm
    mem = mm.kernel.mem
    top = mm.pgd >> 3
    mem.ram64[top : top + 256] = _EMPTY_HALF
    for tables, free_table in zip(mm.tables, (___pte_free_tlb, ___pmd_free_tlb, ___pud_free_tlb), strict=True):
        mem.vm_stat[NR_PAGETABLE] -= len(tables)
        for pfn in tables:
            free_table(tlb, pfn)
        tables.clear()
    mm.pgtables_bytes = 4096


def ___pte_free_tlb(tlb: MmuGather, pfn: int) -> None:
    __tlb_remove_page_size(tlb, pfn)


def ___pmd_free_tlb(tlb: MmuGather, pfn: int) -> None:
    __tlb_remove_page_size(tlb, pfn)


def ___pud_free_tlb(tlb: MmuGather, pfn: int) -> None:
    __tlb_remove_page_size(tlb, pfn)


def pgd_free(mm: MmStruct) -> None:
    """Gives the top table back."""
    kernel = mm.kernel
    if kernel.machine.engine.loaded_tables == mm.pgd:
        kernel.machine.engine.loaded_tables = 0
    free_pages(kernel, mm.pgd >> 12, 0)
    kernel.mem.vm_stat[NR_PAGETABLE] -= 1
    mm.pgd = 0


# ---- one page in, one page out ----------------------------------------------------------------------------------
def alloc_set_pte(vma: VmAreaStruct, address: int, slot: int, pfn: int, write: bool) -> None:
    """Sets an empty PTE to a frame whose reference the caller gives away."""
    if write and not vma.vm_flags & VM_SHARED:
        page_add_new_anon_rmap(vma, address, pfn)        # the copy of do_cow_fault()
        lru_cache_add_active_or_unevictable(vma.vm_mm.kernel, pfn, vma)
    else:
        page_add_file_rmap(vma, pfn)
    set_pte_at(vma, slot, pfn, write)


@notrace
def set_pte_at(vma: VmAreaStruct, slot: int, pfn: int, write: bool) -> None:
    """The entry itself, with the area's rights."""
    mem = vma.vm_mm.kernel.mem
    prot = vma.vm_page_prot
    if not prot & PTE_NX and not mem.flags[pfn] & PG_exec:
        note_executable(vma.vm_mm.kernel, pfn)
    entry = pfn << 12 | prot | PTE_ACCESSED
    mem.ram64[slot] = entry | PTE_WRITE | PTE_DIRTY if write else entry


@notrace
def note_executable(kernel: Kernel, pfn: int) -> None:
    """A frame becomes executable somewhere: from now on every kernel write to it must drop translated code."""
    mem = kernel.mem
    mem.flags[pfn] |= PG_exec
    if mem.mapcount[pfn]:                            # only then can somebody have it in tlb_write
        for mm in kernel.mm_list:
            mm.tlb_write.clear()


# ---- faults -----------------------------------------------------------------------------------------------------
@may_sleep
def handle_mm_fault(vma: VmAreaStruct, address: int, flags: int) -> int:
    """Brings one page in, or makes it writable. Answers VM_FAULT_* bits.

    Context: task, mmap_sem held for reading; with VM_FAULT_RETRY it is held no more.
    """
    kernel = vma.vm_mm.kernel
    kernel.mem.vm_event[PGFAULT] += 1
    try:
        if vma.vm_flags & VM_HUGETLB:
            assert kernel.hugetlb is not None
            fault = kernel.hugetlb.hugetlb_fault(vma, address, flags)
        else:
            fault = __handle_mm_fault(vma, address, flags)
    except KernelError as error:
        fault = VM_FAULT_OOM if error.errno == ENOMEM else VM_FAULT_SIGBUS
    if fault & VM_FAULT_MAJOR:
        kernel.mem.vm_event[PGMAJFAULT] += 1
    return fault


def __handle_mm_fault(vma: VmAreaStruct, address: int, flags: int) -> int:
    address &= ~0xFFF
    slot = pte_alloc_map(vma.vm_mm, address, True)
    if not slot:
        thp = vma.vm_mm.kernel.thp
        assert thp is not None
        fault = thp.handle_huge_pmd(vma, address, flags)
        if fault is not None:
            return fault
        slot = pte_alloc_map(vma.vm_mm, address)
    return handle_pte_fault(vma, address, slot, flags)


@notrace
def vm_fault(vma: VmAreaStruct, address: int, flags: int) -> VmFault:
    return VmFault(vma, flags, address, vma.vm_pgoff + ((address - vma.vm_start) >> 12))


def handle_pte_fault(vma: VmAreaStruct, address: int, slot: int, flags: int) -> int:
    ram64 = vma.vm_mm.kernel.mem.ram64
    entry = ram64[slot]
    if not entry & _PRESENT_MASK:
        if entry:
            swap = vma.vm_mm.kernel.swap
            assert swap is not None
            return swap.do_swap_page(vma, address, slot, flags, entry)
        if vma.vm_ops is None or vma.vm_ops.fault is None:
            return do_anonymous_page(vma, address, slot, flags)
        return do_fault(vma, address, slot, flags)
    if not entry & PTE_PRESENT:
        return VM_FAULT_SIGSEGV                      # PROT_NONE: access_error() has let nobody here
    if flags & FAULT_FLAG_WRITE:
        if not entry & PTE_WRITE:
            return do_wp_page(vma, address, slot, entry, flags)
        entry |= PTE_DIRTY
    if not ptep_set_access_flags(vma, address, slot, entry | PTE_ACCESSED):
        flush_tlb_page(vma, address)                 # a spurious fault: the TLB was behind the table
    return 0


def do_anonymous_page(vma: VmAreaStruct, address: int, slot: int, flags: int) -> int:
    """The first touch of anonymous memory: the zero page for a read, a frame of its own for a write."""
    kernel = vma.vm_mm.kernel
    mem = kernel.mem
    if vma.vm_flags & VM_SHARED:
        return VM_FAULT_SIGBUS
    if not flags & FAULT_FLAG_WRITE:
        mem.ram64[slot] = mem.zero_pfn << 12 | vma.vm_page_prot | PTE_SPECIAL | PTE_ACCESSED
        if not vma.vm_page_prot & PTE_NX:
            mem.flags[mem.zero_pfn] |= PG_exec
        return 0
    anon_vma_prepare(vma)
    pfn = alloc_zeroed_user_highpage_movable(vma, address)
    if mem.ram64[slot]:                              # the allocation slept, and another thread was quicker
        put_page(kernel, pfn)
        return 0
    page_add_new_anon_rmap(vma, address, pfn)
    lru_cache_add_active_or_unevictable(kernel, pfn, vma)
    set_pte_at(vma, slot, pfn, bool(vma.vm_flags & VM_WRITE))
    return 0


@notrace
def alloc_zeroed_user_highpage_movable(vma: VmAreaStruct, address: int) -> int:
    return alloc_pages_vma(vma.vm_mm.kernel, GFP_HIGHUSER_MOVABLE | __GFP_ZERO, 0, vma, address)


def do_fault(vma: VmAreaStruct, address: int, slot: int, flags: int) -> int:
    """A page of a file, or of shared memory, that is not mapped yet."""
    if not flags & FAULT_FLAG_WRITE:
        return do_read_fault(vma, address, slot, flags)
    if not vma.vm_flags & VM_SHARED:
        return do_cow_fault(vma, address, slot, flags)
    return do_shared_fault(vma, address, slot, flags)


def do_read_fault(vma: VmAreaStruct, address: int, slot: int, flags: int) -> int:
    ops = vma.vm_ops
    assert ops is not None
    if ops.map_pages is not None and do_fault_around(vma, address, flags):
        entry = vma.vm_mm.kernel.mem.ram64[slot]
        if entry & PTE_PRESENT:
            return 0
    vmf = vm_fault(vma, address, flags)
    fault = __do_fault(vma, vmf)
    if fault & (VM_FAULT_ERROR | VM_FAULT_NOPAGE | VM_FAULT_RETRY):
        return fault
    return fault | finish_fault(vma, vmf, slot, False)


def do_fault_around(vma: VmAreaStruct, address: int, flags: int) -> bool:
    """Maps the pages of the 64 KB around the address that are in the page cache already."""
    start = max(address & ~(FAULT_AROUND_PAGES * 4096 - 1), vma.vm_start, address & ~((1 << 21) - 1))
    end = min(start + FAULT_AROUND_PAGES * 4096, vma.vm_end, (address | (1 << 21) - 1) + 1)
    base = vma.vm_pgoff - (vma.vm_start >> 12)
    assert vma.vm_ops is not None and vma.vm_ops.map_pages is not None
    vma.vm_ops.map_pages(vma, vm_fault(vma, address, flags), (start >> 12) + base, (end - 1 >> 12) + base)
    return True


@notrace
def map_cached_frames(vma: VmAreaStruct, address: int, frames: list[int]) -> int:
    """For map_pages (alloc_set_pte): maps a row of cached frames read-only where nothing is mapped yet.

    frames: pfns from `address` on, 0 for a gap; all in one page table. Takes its own references; answers how many.
    """
    mm = vma.vm_mm
    mem = mm.kernel.mem
    ram64, refcount, mapcount, flags = mem.ram64, mem.refcount, mem.mapcount, mem.flags
    prot = vma.vm_page_prot | PTE_ACCESSED
    if prot & PTE_WRITE and vma.vm_ops is not None and vma.vm_ops.page_mkwrite is not None:
        prot &= ~PTE_WRITE                               # the first write must tell the file
    executable = not prot & PTE_NX
    slot = pte_alloc_map(mm, address)
    fresh = mapped = 0
    counter = MM_FILEPAGES
    for pfn in frames:
        if pfn and not ram64[slot]:
            state = flags[pfn]
            if executable and not state & PG_exec:
                note_executable(mm.kernel, pfn)
            refcount[pfn] += 1
            count = mapcount[pfn]
            if not count:
                fresh += 1
            mapcount[pfn] = count + 1
            ram64[slot] = pfn << 12 | prot
            counter = mm_counter(state)
            mapped += 1
        slot += 1
    mem.vm_stat[NR_FILE_MAPPED] += fresh
    mm.rss_stat[counter] += mapped                       # one file: all of one kind
    return mapped


def do_cow_fault(vma: VmAreaStruct, address: int, slot: int, flags: int) -> int:
    """A write to a private file page: it is copied at once."""
    kernel = vma.vm_mm.kernel
    mem = kernel.mem
    anon_vma_prepare(vma)
    vmf = vm_fault(vma, address, flags)
    fault = __do_fault(vma, vmf)
    if fault & (VM_FAULT_ERROR | VM_FAULT_NOPAGE | VM_FAULT_RETRY):
        return fault
    try:
        copy = alloc_pages_vma(kernel, GFP_HIGHUSER_MOVABLE, 0, vma, address)
    except KernelError:
        put_page(kernel, vmf.pfn)
        raise
    mem.ram[copy << 12 : (copy + 1) << 12] = mem.ram[vmf.pfn << 12 : (vmf.pfn + 1) << 12]
    mem.machine.charge(COPY_PAGE)
    put_page(kernel, vmf.pfn)
    vmf.pfn = copy
    finish_fault(vma, vmf, slot, True)               # or another thread was quicker: the fault slept
    return fault


def do_shared_fault(vma: VmAreaStruct, address: int, slot: int, flags: int) -> int:
    """A write to a shared file page."""
    vmf = vm_fault(vma, address, flags)
    fault = __do_fault(vma, vmf)
    if fault & (VM_FAULT_ERROR | VM_FAULT_NOPAGE | VM_FAULT_RETRY):
        return fault
    assert vma.vm_ops is not None
    kernel = vma.vm_mm.kernel
    pfn = vmf.pfn
    mkwrite = 0
    if vma.vm_ops.page_mkwrite is not None:
        mkwrite = do_page_mkwrite(vma, vmf)
        if mkwrite & (VM_FAULT_ERROR | VM_FAULT_NOPAGE):
            put_page(kernel, pfn)
            return mkwrite
    kernel.mem.refcount[pfn] += 1
    fault |= finish_fault(vma, vmf, slot, True)
    if fault & VM_FAULT_NOPAGE:                      # another thread was quicker
        if mkwrite & VM_FAULT_LOCKED:
            unlock_page(kernel, pfn)
    else:
        fault_dirty_shared_page(vma, pfn, mkwrite)
    put_page(kernel, pfn)
    return fault


@may_sleep
def do_page_mkwrite(vma: VmAreaStruct, vmf: VmFault) -> int:
    """->page_mkwrite(): a shared page is about to become writable. Locks: none; VM_FAULT_LOCKED: the page's is ours."""
    assert vma.vm_ops is not None and vma.vm_ops.page_mkwrite is not None and vma.vm_file is not None
    inode = vma.vm_file.f_mapping.host
    if inode is not None and inode.i_flags & S_SWAPFILE:
        return VM_FAULT_SIGBUS
    return vma.vm_ops.page_mkwrite(vma, vmf)


@may_sleep
def fault_dirty_shared_page(vma: VmAreaStruct, pfn: int, mkwrite: int) -> None:
    """A shared page was made writable: it is dirty, and who dirties too much waits. The caller holds a reference.

    Locks: the page's if VM_FAULT_LOCKED is in mkwrite; dropped.
    """
    kernel = vma.vm_mm.kernel
    set_page_dirty(kernel, pfn)
    mapping = kernel.mem.mapping.get(pfn)
    if mkwrite & VM_FAULT_LOCKED:
        unlock_page(kernel, pfn)
    if mapping is not None and not mapping.unevictable:
        balance_dirty_pages_ratelimited(mapping)


def __do_fault(vma: VmAreaStruct, vmf: VmFault) -> int:
    assert vma.vm_ops is not None and vma.vm_ops.fault is not None
    return vma.vm_ops.fault(vma, vmf)


def finish_fault(vma: VmAreaStruct, vmf: VmFault, slot: int, write: bool) -> int:
    """Maps the frame that ->fault found."""
    kernel = vma.vm_mm.kernel
    if kernel.mem.ram64[slot]:
        put_page(kernel, vmf.pfn)
        return VM_FAULT_NOPAGE
    alloc_set_pte(vma, vmf.address, slot, vmf.pfn, write)
    if not write and vma.vm_page_prot & PTE_WRITE:
        assert vma.vm_ops is not None
        if vma.vm_ops.page_mkwrite is not None:
            kernel.mem.ram64[slot] &= ~PTE_WRITE
    return 0


def do_wp_page(vma: VmAreaStruct, address: int, slot: int, entry: int, flags: int) -> int:
    """A write to a page that is mapped read-only in a writable area."""
    kernel = vma.vm_mm.kernel
    mem = kernel.mem
    if not vma.vm_flags & VM_WRITE:
        return VM_FAULT_SIGSEGV                      # forced writes (ptrace) go through wp_page_copy
    pfn = vm_normal_page(vma, entry)
    if vma.vm_flags & VM_SHARED:
        return wp_page_shared(vma, address, slot, entry, flags)
    if pfn is not None and mem.flags[pfn] & PG_anon and mem.mapcount[pfn] == 1:
        if mem.flags[pfn] & PG_swapcache:
            swap = kernel.swap
            assert swap is not None
            return swap.do_wp_swap_cache_page(vma, address, slot, entry)
        page_move_anon_rmap(vma, pfn)
        wp_page_reuse(vma, address, slot, entry)
        return VM_FAULT_WRITE
    return wp_page_copy(vma, address, slot, entry)


def vm_normal_page(vma: VmAreaStruct, entry: int) -> int | None:
    """The frame of an entry; None if nobody counts its users (the zero page, device memory)."""
    return None if entry & PTE_SPECIAL else (entry & PTE_MASK) >> 12


def wp_page_reuse(vma: VmAreaStruct, address: int, slot: int, entry: int) -> None:
    """Nobody else has the frame: only the right is added."""
    ptep_set_access_flags(vma, address, slot, entry | PTE_WRITE | PTE_DIRTY | PTE_ACCESSED)


def ptep_set_access_flags(vma: VmAreaStruct, address: int, slot: int, entry: int) -> bool:
    """Gives an entry more rights; whether it had less (arch/x86/mm/pgtable.c)."""
    ram64 = vma.vm_mm.kernel.mem.ram64
    changed = ram64[slot] != entry
    ram64[slot] = entry
    forget_access(vma, address)
    return changed


@notrace
def forget_access(vma: VmAreaStruct, address: int) -> None:
    """What looked the entry up before it got more rights looks again: Linux lets the next fault find out."""
    mm = vma.vm_mm
    mm.tlb_read.pop(address >> 12, None)
    mm.tlb_write.pop(address >> 12, None)
    if mm.kernel.machine.engine.loaded_tables == mm.pgd:
        mm.kernel.machine.engine.loaded_tables = 0


def wp_page_shared(vma: VmAreaStruct, address: int, slot: int, entry: int, flags: int) -> int:
    kernel = vma.vm_mm.kernel
    vmf = vm_fault(vma, address, flags)
    vmf.pfn = pfn = (entry & PTE_MASK) >> 12
    if entry & PTE_SPECIAL:                          # no struct page behind it: nothing to hold or to store
        wp_page_reuse(vma, address, slot, entry)
        return VM_FAULT_WRITE
    mkwrite = 0
    kernel.mem.refcount[pfn] += 1
    if vma.vm_ops is not None and vma.vm_ops.page_mkwrite is not None:
        mkwrite = do_page_mkwrite(vma, vmf)
        if mkwrite & (VM_FAULT_ERROR | VM_FAULT_NOPAGE):
            put_page(kernel, pfn)
            return mkwrite
        now = kernel.mem.ram64[slot]
        if not now & PTE_PRESENT or (now & PTE_MASK) >> 12 != pfn:       # it slept, and the page was taken away
            if mkwrite & VM_FAULT_LOCKED:
                unlock_page(kernel, pfn)
            put_page(kernel, pfn)
            return VM_FAULT_WRITE
    wp_page_reuse(vma, address, slot, kernel.mem.ram64[slot])
    fault_dirty_shared_page(vma, pfn, mkwrite)
    put_page(kernel, pfn)
    return VM_FAULT_WRITE


def wp_page_copy(vma: VmAreaStruct, address: int, slot: int, entry: int) -> int:
    """Copy-on-write. 0: the entry changed while the allocation slept, the access is made again."""
    mm = vma.vm_mm
    kernel = mm.kernel
    mem = kernel.mem
    old = (entry & PTE_MASK) >> 12
    anon_vma_prepare(vma)
    if entry & PTE_SPECIAL:
        new = alloc_zeroed_user_highpage_movable(vma, address)
        if mem.ram64[slot] != entry:
            put_page(kernel, new)
            return 0
    else:
        mem.refcount[old] += 1                       # get_page(): reclaim may take it from us while we wait
        try:
            new = alloc_pages_vma(kernel, GFP_HIGHUSER_MOVABLE, 0, vma, address)
        except KernelError:
            put_page(kernel, old)
            raise
        mem.ram[new << 12 : (new + 1) << 12] = mem.ram[old << 12 : (old + 1) << 12]
        mem.machine.charge(COPY_PAGE)
        if mem.ram64[slot] != entry:
            put_page(kernel, new)
            put_page(kernel, old)
            return 0
    ptep_clear_flush(vma, address, slot)
    page_add_new_anon_rmap(vma, address, new)
    lru_cache_add_active_or_unevictable(kernel, new, vma)
    set_pte_at(vma, slot, new, True)
    if not entry & PTE_SPECIAL:
        mm.rss_stat[mm_counter(mem.flags[old])] -= 1
        page_remove_rmap(kernel, old)
        if vma.vm_flags & VM_LOCKED and mem.flags[old] & PG_mlocked:
            from glasskernel.mm.mlock_pages import munlock_vma_page  # late: start-up time

            munlock_vma_page(kernel, old)                # the copy is locked instead
        mem.refcount[old] -= 1
        put_page(kernel, old)
    return VM_FAULT_WRITE


# ---- unmapping --------------------------------------------------------------------------------------------------
def unmap_page_range(tlb: MmuGather, vma: VmAreaStruct, start: int, end: int, even_cows: bool = True) -> None:
    """Empties the PTEs of [start, end); the frames are gathered for tlb_finish_mmu()."""
    mm = vma.vm_mm
    kernel = mm.kernel
    mem = kernel.mem
    ram64, flags, mapcount = mem.ram64, mem.flags, mem.mapcount
    gone = anon = shmem = file = 0
    pages = tlb.pages
    thp = mm.kernel.thp
    zap_huge_pmd = None if thp is None else thp.zap_huge_pmd(tlb, vma)
    for _address, slot, count in pte_ranges(mm, start, end, zap_huge_pmd):
        entries = ram64[slot : slot + count].tolist()
        for i, entry in enumerate(entries):
            if not entry:
                continue
            if entry & _COUNTED != PTE_PRESENT:
                if not entry & _PRESENT_MASK:
                    if even_cows:
                        ram64[slot + i] = 0
                        zap_swap_entry(mm, entry)
                    continue
                if entry & PTE_SPECIAL:
                    ram64[slot + i] = 0
                    gone += 1
                    continue
            pfn = (entry & PTE_MASK) >> 12
            frame_flags = flags[pfn]
            if frame_flags & PG_anon:
                if not even_cows:
                    continue
                anon += 1
            elif frame_flags & PG_swapbacked:
                if entry & PTE_DIRTY and not frame_flags & PG_dirty:
                    set_page_dirty(kernel, pfn)
                shmem += 1
            else:
                if entry & PTE_DIRTY and entry & PTE_WRITE:
                    set_page_dirty(kernel, pfn)
                file += 1
            ram64[slot + i] = 0
            uses = mapcount[pfn] - 1                     # page_remove_rmap()
            mapcount[pfn] = uses
            if not uses:
                mem.vm_stat[NR_ANON_MAPPED if frame_flags & PG_anon else NR_FILE_MAPPED] -= 1
                if frame_flags & PG_mlocked:
                    clear_page_mlock(kernel, pfn)
            pages.append(pfn)                            # __tlb_remove_page()
        if len(pages) >= MAX_GATHER_BATCH:
            tlb.cleared = True
            tlb_flush_mmu(tlb)
            pages = tlb.pages
    rss = mm.rss_stat
    rss[MM_ANONPAGES] -= anon
    rss[MM_SHMEMPAGES] -= shmem
    rss[MM_FILEPAGES] -= file
    if gone or anon or shmem or file:
        tlb.cleared = True


@notrace
def zap_swap_entry(mm: MmStruct, entry: int) -> None:
    """zap_pte_range() of a page that is not in memory: one user less of its slot."""
    swap = mm.kernel.swap
    assert swap is not None
    swap.free_swap_and_cache(mm.kernel, pte_to_swp_entry(entry))
    mm.rss_stat[MM_SWAPENTS] -= 1


def unmap_single_vma(tlb: MmuGather, vma: VmAreaStruct, start: int, end: int) -> None:
    """The part of an area between two addresses."""
    start, end = max(vma.vm_start, start), min(vma.vm_end, end)
    if start < end:
        if vma.vm_mm.uprobes_state is not None and vma.vm_mm.kernel.uprobes is not None:
            vma.vm_mm.kernel.uprobes.uprobe_munmap(vma, start, end)
        if vma.vm_flags & VM_HUGETLB:
            assert vma.vm_mm.kernel.hugetlb is not None
            vma.vm_mm.kernel.hugetlb.unmap_hugepage_range_final(tlb, vma, start, end)
            return
        unmap_page_range(tlb, vma, start, end)


def unmap_vmas(tlb: MmuGather, areas: list[VmAreaStruct], start: int, end: int) -> None:
    """Empties the PTEs of some areas between two addresses."""
    for vma in areas:
        unmap_single_vma(tlb, vma, start, end)


def zap_page_range(vma: VmAreaStruct, start: int, size: int) -> None:
    """Drops what [start, start + size) maps: the next touch faults (MADV_DONTNEED)."""
    tlb = tlb_gather_mmu(vma.vm_mm, start, start + size)
    unmap_single_vma(tlb, vma, start, start + size)
    tlb_finish_mmu(tlb)


def zap_page_range_single(vma: VmAreaStruct, address: int, size: int, even_cows: bool) -> None:
    """Drops what a part of one area maps. even_cows: private copies, too."""
    tlb = tlb_gather_mmu(vma.vm_mm, address, address + size)
    unmap_page_range(tlb, vma, address, address + size, even_cows)
    tlb_finish_mmu(tlb)


def unmap_mapping_range(mapping: AddressSpace, holebegin: int, holelen: int, even_cows: bool) -> None:
    """A part of a file goes away: nobody may have it mapped any more.

    holebegin, holelen: bytes (holelen 0: to the end). even_cows: private copies too (truncation).
    """
    first = (holebegin + 4095) >> 12
    last = (holebegin + holelen - 1) >> 12 if holelen else 1 << 52
    for vma in list(mapping.i_mmap):
        low = max(first, vma.vm_pgoff)
        high = min(last + 1, vma.vm_pgoff + ((vma.vm_end - vma.vm_start) >> 12))
        if low < high:
            zap_page_range_single(vma, vma.vm_start + (low - vma.vm_pgoff << 12), high - low << 12, even_cows)


# ---- fork -------------------------------------------------------------------------------------------------------
def copy_page_range(dst: VmAreaStruct, src: VmAreaStruct) -> None:
    """Gives a child's area the parent's pages: shared ones as they are, private ones write-protected in both.

    The caller flushes the parent's TLB when it has copied every area.
    """
    if src.vm_flags & VM_WIPEONFORK:
        return
    if src.vm_flags & VM_HUGETLB:
        assert src.vm_mm.kernel.hugetlb is not None
        src.vm_mm.kernel.hugetlb.copy_hugetlb_page_range(dst, src)
        return
    # Pages of a file that nobody wrote to come back by faults: copying their entries would only cost time.
    if src.anon_vma is None and (src.vm_file is not None or src.vm_flags & VM_PFNMAP):
        return
    copy_pte_range(dst, src)


def copy_pte_range(dst: VmAreaStruct, src: VmAreaStruct) -> None:
    mm, child = src.vm_mm, dst.vm_mm
    mem = mm.kernel.mem
    ram64, refcount, mapcount, frame_flags = mem.ram64, mem.refcount, mem.mapcount, mem.flags
    cow = not src.vm_flags & VM_SHARED
    rss = child.rss_stat
    thp = mm.kernel.thp
    copy_huge_pmd = None if thp is None else thp.copy_huge_pmd(dst, src)
    for address, slot, count in pte_ranges(mm, src.vm_start, src.vm_end, copy_huge_pmd):
        if ram64[slot : slot + count] == _EMPTY_TABLE[:count]:
            continue
        target = pte_alloc_map(child, address)           # it may sleep: what is mapped is looked up after that
        entries = ram64[slot : slot + count].tolist()
        for i, entry in enumerate(entries):
            if not entry:
                continue
            if entry & _COUNTED != PTE_PRESENT and not entry & _PRESENT_MASK:
                copy_swap_entry(child, target + i, entry)
                continue
            if not entry & PTE_SPECIAL:
                pfn = (entry & PTE_MASK) >> 12
                if cow and entry & PTE_WRITE:
                    entry &= ~PTE_WRITE
                    ram64[slot + i] = entry
                refcount[pfn] += 1
                mapcount[pfn] += 1
                rss[mm_counter(frame_flags[pfn])] += 1
            ram64[target + i] = entry


@notrace
def copy_swap_entry(child: MmStruct, target: int, entry: int) -> None:
    """copy_one_pte() of a page that is not in memory: one user more of its slot."""
    swap = child.kernel.swap
    assert swap is not None
    swap.swap_duplicate(child.kernel, pte_to_swp_entry(entry))
    child.kernel.mem.ram64[target] = entry
    child.rss_stat[MM_SWAPENTS] += 1


# ---- looking at somebody's memory -------------------------------------------------------------------------------
@notrace
def follow_page(mm: MmStruct, address: int) -> int | None:
    """The frame that is mapped at an address now; None if none is."""
    slot = lookup_pte(mm.kernel.mem.ram64, mm.pgd, address)
    entry = mm.kernel.mem.ram64[slot] if slot else 0
    return pte_pfn(entry, address) if entry & _PRESENT_MASK else None


@may_sleep
@notrace
def get_user_page(mm: MmStruct, address: int, write: bool, force: bool = False) -> int:
    """get_user_pages_remote() for one page, without keeping a reference; its pfn."""
    return get_user_pages_remote(mm, address, write, force)


@may_sleep
def get_user_pages_remote(mm: MmStruct, address: int, write: bool, force: bool) -> int:
    """Faults a page of any address space in (mm/gup.c). Raises EFAULT.

    force: read what is not readable, or copy a read-only private page for writing (FOLL_FORCE).
    """
    return __get_user_pages(mm, address, write, force)


@may_sleep
def __get_user_pages(mm: MmStruct, address: int, write: bool, force: bool) -> int:
    mem = mm.kernel.mem
    for _ in range(8):
        vma = mm.vmas.first_ending_after(address)
        if vma is None or vma.vm_start > address:
            raise KernelError(EFAULT)
        allowed = vma.vm_flags & (VM_WRITE if write else VM_READ | VM_EXEC)
        if not allowed and not force:
            raise KernelError(EFAULT)
        pfn = follow_page_mask(mm, address, write)
        if pfn is not None:
            if write:
                mem.note_kernel_write(pfn)               # the caller is about to
            return pfn
        slot = lookup_pte(mem.ram64, mm.pgd, address) or 0
        entry = mem.ram64[slot] if slot else 0
        if write and not allowed and entry & PTE_PRESENT:
            if vma.vm_flags & (VM_SHARED | VM_HUGETLB):
                raise KernelError(EFAULT)
            if entry & PTE_PSE:
                split_huge_pmd(mm, slot, address)
                continue
            if not wp_page_copy(vma, address & ~0xFFF, slot, entry):
                continue
            mem.ram64[slot] &= ~PTE_WRITE
            pfn = (mem.ram64[slot] & PTE_MASK) >> 12
            mem.note_kernel_write(pfn)
            return pfn
        fault = handle_mm_fault(vma, address, FAULT_FLAG_REMOTE | (FAULT_FLAG_WRITE if allowed and write else 0))
        if fault & VM_FAULT_ERROR:
            raise KernelError(EFAULT if not fault & VM_FAULT_OOM else ENOMEM)
    raise KernelError(EFAULT)


def follow_page_mask(mm: MmStruct, address: int, write: bool) -> int | None:
    """The frame that is mapped at an address, and may be written if that is wanted (mm/gup.c)."""
    slot = lookup_pte(mm.kernel.mem.ram64, mm.pgd, address)
    entry = mm.kernel.mem.ram64[slot] if slot else 0
    if not entry & _PRESENT_MASK or (write and not entry & PTE_WRITE):
        return None
    if write and not entry & (PTE_DIRTY | PTE_SPECIAL | PTE_PSE):
        set_page_dirty(mm.kernel, (entry & PTE_MASK) >> 12)
    return pte_pfn(entry, address)


@may_sleep
def access_process_vm(task: TaskStruct, address: int, size: int) -> bytes:
    """Up to `size` bytes of another task's memory; shorter at the first page that cannot be had."""
    mm = task.mm
    if mm is None:
        return b""

    def fault_in(mm: MmStruct, address: int) -> int | None:
        try:
            return get_user_page(mm, address, False, True)
        except KernelError:
            return None

    return read_pages(mm, address, size, fault_in)


@notrace
def read_pages(mm: MmStruct, address: int, size: int, frame_at: Callable[[MmStruct, int], int | None]) -> bytes:
    """Bytes of an address space, up to the first page for which frame_at(mm, address) has no frame."""
    parts = []
    while size > 0:
        pfn = frame_at(mm, address)
        if pfn is None:
            break
        offset = address & 0xFFF
        chunk = min(4096 - offset, size)
        start = (pfn << 12) + offset
        parts.append(mm.kernel.mem.ram[start : start + chunk].tobytes())
        address += chunk
        size -= chunk
    return b"".join(parts)

