"""Pages of the pool in page tables: faults, copy-on-write, fork, unmapping, other rights.

Linux: mm/hugetlb.c, the half that maps (5.3). Same: an entry of the second level maps 2 MB; SIGBUS where no page is
    left, or behind the file's end; a private page that is shared with a child is copied, and if there is none for the
    copy the child loses it (unmap_ref_private), so that who reserved never fails.
Differs: no hugetlb_fault_mutex: who slept looks again. Anonymous pages are in no reverse map: nothing reclaims them,
    and truncation finds areas through the file.
Owns: the entries of hugetlbfs's areas. Invariants: each holds a page_count and a mapcount of its page's first frame.
Gaps: sharing of page tables between processes (huge_pmd_share), userfaultfd, migration.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.pgtable import (
    PTE_ACCESSED,
    PTE_DIRTY,
    PTE_MASK,
    PTE_NX,
    PTE_PRESENT,
    PTE_PROTNONE,
    PTE_PSE,
    PTE_WRITE,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.printk import printk
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.machine.costs import CLEAR_PAGE, COPY_PAGE
from glasskernel.mm.huge_tables import huge_pte_alloc, huge_pte_offset
from glasskernel.mm.huge_types import (
    HPAGE_PMD_MASK,
    HPAGE_PMD_NR,
    HPAGE_PMD_ORDER,
    HPAGE_PMD_SHIFT,
    HPAGE_PMD_SIZE,
    HPAGE_RESV_OWNER,
    HPAGE_RESV_UNMAPPED,
    HugetlbState,
    HugetlbVma,
)
from glasskernel.mm.hugetlb import (
    alloc_huge_page,
    get_huge_page,
    is_vma_resv_set,
    put_huge_page,
    vma_hugecache_offset,
)
from glasskernel.mm.memory import FAULT_FLAG_WRITE, forget_access, note_executable
from glasskernel.mm.mmu_gather import __tlb_remove_page_size, tlb_finish_mmu, tlb_gather_mmu
from glasskernel.mm.page_alloc import PG_anon, PG_uptodate
from glasskernel.mm.tlb import flush_tlb_range
from glasskernel.mm.types import (
    VM_FAULT_OOM,
    VM_FAULT_SIGBUS,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_SHARED,
    VM_WRITE,
    AddressSpace,
    VmAreaStruct,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.mmu_gather import MmuGather

_MAPPED = PTE_PRESENT | PTE_PROTNONE


@notrace
def hugetlb_state(vma: VmAreaStruct) -> HugetlbState:
    h = vma.vm_mm.kernel.hugetlb
    assert h is not None
    return h


# ---- whole pages ------------------------------------------------------------------------------------------------
def clear_huge_page(kernel: Kernel, pfn: int) -> None:
    """2 MB of zeros. (mm/memory.c)"""
    mem = kernel.mem
    mem.machine.charge(CLEAR_PAGE * HPAGE_PMD_NR)
    mem.ram[pfn << 12 : (pfn << 12) + HPAGE_PMD_SIZE] = bytes(HPAGE_PMD_SIZE)


def copy_user_huge_page(kernel: Kernel, dst: int, src: int) -> None:
    """(mm/memory.c)"""
    mem = kernel.mem
    mem.machine.charge(COPY_PAGE * HPAGE_PMD_NR)
    mem.ram[dst << 12 : (dst << 12) + HPAGE_PMD_SIZE] = mem.ram[src << 12 : (src << 12) + HPAGE_PMD_SIZE]


@notrace
def note_huge_executable(kernel: Kernel, pfn: int) -> None:
    for frame in range(pfn, pfn + HPAGE_PMD_NR):
        note_executable(kernel, frame)


def make_huge_pte(vma: VmAreaStruct, pfn: int, writable: bool) -> int:
    """The entry for a page, with the area's rights."""
    prot = vma.vm_page_prot & ~PTE_WRITE
    if prot & PTE_PRESENT and not prot & PTE_NX:
        note_huge_executable(vma.vm_mm.kernel, pfn)
    entry = pfn << 12 | prot | PTE_PSE | PTE_ACCESSED
    return entry | PTE_WRITE | PTE_DIRTY if writable else entry


@notrace
def set_huge_pte_at(vma: VmAreaStruct, slot: int, entry: int) -> None:
    vma.vm_mm.kernel.mem.ram64[slot] = entry


def huge_add_to_page_cache(h: HugetlbState, pfn: int, mapping: AddressSpace, index: int) -> None:
    """The page is the file's; index: in huge pages."""
    get_huge_page(h, pfn)
    h.page_reserve.pop(pfn, None)                        # ClearPagePrivate(): the reservation is used
    h.kernel.mem.flags[pfn] |= PG_uptodate
    mapping.pages[index] = pfn
    assert mapping.host is not None
    mapping.host.i_blocks += 1 << HPAGE_PMD_ORDER + 3


# ---- faults -----------------------------------------------------------------------------------------------------
@may_sleep
def hugetlb_fault(vma: VmAreaStruct, address: int, flags: int) -> int:
    """A fault in an area of hugetlbfs. Answers VM_FAULT_*; raises ENOMEM without a frame for a table."""
    address &= HPAGE_PMD_MASK
    slot = huge_pte_alloc(vma.vm_mm, address)
    entry = vma.vm_mm.kernel.mem.ram64[slot]
    if not entry:
        return hugetlb_no_page(vma, address, slot, flags)
    if flags & FAULT_FLAG_WRITE:
        if not entry & PTE_WRITE:
            return hugetlb_cow(vma, address, slot)
        entry |= PTE_DIRTY
    huge_ptep_set_access_flags(vma, address, slot, entry | PTE_ACCESSED)
    return 0


@notrace
def huge_ptep_set_access_flags(vma: VmAreaStruct, address: int, slot: int, entry: int) -> None:
    set_huge_pte_at(vma, slot, entry)
    forget_access(vma, address)


@may_sleep
def hugetlb_no_page(vma: VmAreaStruct, address: int, slot: int, flags: int) -> int:
    """Nothing is mapped there: the file's page, or a new one."""
    kernel = vma.vm_mm.kernel
    h = hugetlb_state(vma)
    ram64 = kernel.mem.ram64
    assert vma.vm_file is not None
    if is_vma_resv_set(vma, HPAGE_RESV_UNMAPPED):
        printk(kernel, f"PID {current().pid} killed due to inadequate hugepage pool", 4)
        return VM_FAULT_SIGBUS
    mapping = vma.vm_file.f_mapping
    assert mapping.host is not None
    index = vma_hugecache_offset(vma, address)
    if index >= mapping.host.i_size >> HPAGE_PMD_SHIFT:
        return VM_FAULT_SIGBUS
    pfn = mapping.pages.get(index, 0)
    anon_rmap = False
    if pfn:
        get_huge_page(h, pfn)
    else:
        try:
            pfn = alloc_huge_page(vma, address, False)
        except KernelError:
            return VM_FAULT_SIGBUS
        if ram64[slot] or index in mapping.pages:        # the allocation slept
            put_huge_page(h, pfn)
            return 0
        clear_huge_page(kernel, pfn)
        if vma.vm_flags & VM_MAYSHARE:
            huge_add_to_page_cache(h, pfn, mapping, index)
        else:
            anon_rmap = True
    if anon_rmap:
        hugepage_add_new_anon_rmap(h, pfn)
    else:
        kernel.mem.mapcount[pfn] += 1                    # page_dup_rmap()
    shared = vma.vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE | VM_SHARED
    set_huge_pte_at(vma, slot, make_huge_pte(vma, pfn, shared))
    vma.vm_mm.hugetlb_usage += HPAGE_PMD_NR
    if flags & FAULT_FLAG_WRITE and not vma.vm_flags & VM_SHARED:
        return hugetlb_cow(vma, address, slot)
    return 0


def hugepage_add_new_anon_rmap(h: HugetlbState, pfn: int) -> None:
    """A page that only one area has. (mm/rmap.c)"""
    h.page_reserve.pop(pfn, None)
    h.kernel.mem.mapcount[pfn] = 1
    h.kernel.mem.flags[pfn] |= PG_anon | PG_uptodate


@may_sleep
def hugetlb_cow(vma: VmAreaStruct, address: int, slot: int) -> int:
    """A write to a private page: it is the writer's alone, or gets copied."""
    kernel = vma.vm_mm.kernel
    mem = kernel.mem
    h = hugetlb_state(vma)
    entry = mem.ram64[slot]
    old = (entry & PTE_MASK) >> 12
    if mem.mapcount[old] == 1 and mem.flags[old] & PG_anon:
        huge_ptep_set_access_flags(vma, address, slot, entry | PTE_WRITE | PTE_DIRTY | PTE_ACCESSED)
        return 0
    assert vma.vm_file is not None
    cached = vma.vm_file.f_mapping.pages.get(vma_hugecache_offset(vma, address), 0)
    # The parent used its reservation for the page that it shares with a child now.
    outside_reserve = is_vma_resv_set(vma, HPAGE_RESV_OWNER) and old != cached
    get_huge_page(h, old)
    try:
        new = alloc_huge_page(vma, address, outside_reserve)
    except KernelError:
        put_huge_page(h, old)
        if not outside_reserve:
            return VM_FAULT_SIGBUS
        unmap_ref_private(vma, old, address)
        return 0 if mem.mapcount[old] == 1 else VM_FAULT_OOM      # the access is made again
    if mem.ram64[slot] != entry:
        put_huge_page(h, new)
        put_huge_page(h, old)
        return 0
    copy_user_huge_page(kernel, new, old)
    mem.ram64[slot] = 0
    flush_tlb_range(vma.vm_mm, address, address + HPAGE_PMD_SIZE)
    hugepage_add_new_anon_rmap(h, new)
    set_huge_pte_at(vma, slot, make_huge_pte(vma, new, True))
    mem.mapcount[old] -= 1                               # page_remove_rmap()
    put_huge_page(h, old)                                # of the entry
    put_huge_page(h, old)
    return 0


@may_sleep
def unmap_ref_private(vma: VmAreaStruct, pfn: int, address: int) -> None:
    """There is no page for a copy: the others that have the page of a private area lose it, not who reserved it."""
    assert vma.vm_file is not None
    index = vma.vm_pgoff + (address - vma.vm_start >> 12)
    for other in list(vma.vm_file.f_mapping.i_mmap):
        if (other is vma or other.vm_flags & VM_MAYSHARE or is_vma_resv_set(other, HPAGE_RESV_OWNER)
                or not other.vm_pgoff <= index < other.vm_pgoff + (other.vm_end - other.vm_start >> 12)):
            continue
        start = other.vm_start + (index - other.vm_pgoff << 12)
        unmap_hugepage_range(other, start, start + HPAGE_PMD_SIZE, pfn)


# ---- unmapping, fork, mprotect ----------------------------------------------------------------------------------
def unmap_hugepage_range_final(tlb: MmuGather, vma: VmAreaStruct, start: int, end: int) -> None:
    """__unmap_hugepage_range_final()"""
    __unmap_hugepage_range(tlb, vma, start, end, 0)


def __unmap_hugepage_range(tlb: MmuGather, vma: VmAreaStruct, start: int, end: int, ref_page: int) -> None:
    """Empties the entries of [start, end). ref_page: only one with that page, which the area may not fault in again."""
    mm = vma.vm_mm
    mem = mm.kernel.mem
    for address in range(start, end, HPAGE_PMD_SIZE):
        slot = huge_pte_offset(mm, address)
        entry = mem.ram64[slot] if slot else 0
        if not entry:
            continue
        pfn = (entry & PTE_MASK) >> 12
        if ref_page:
            if pfn != ref_page:
                continue
            if vma.vm_private_data is None:
                vma.vm_private_data = HugetlbVma(None)
            vma.vm_private_data.flags |= HPAGE_RESV_UNMAPPED
        mem.ram64[slot] = 0
        mm.hugetlb_usage -= HPAGE_PMD_NR
        mem.mapcount[pfn] -= 1
        __tlb_remove_page_size(tlb, pfn, HPAGE_PMD_SIZE)


def unmap_hugepage_range(vma: VmAreaStruct, start: int, end: int, ref_page: int) -> None:
    tlb = tlb_gather_mmu(vma.vm_mm, start, end)
    __unmap_hugepage_range(tlb, vma, start, end, ref_page)
    tlb_finish_mmu(tlb)


@may_sleep
def copy_hugetlb_page_range(dst: VmAreaStruct, src: VmAreaStruct) -> None:
    """fork(2): the child has the pages, too; private ones become read-only in both. Raises ENOMEM."""
    mm, child = src.vm_mm, dst.vm_mm
    h = hugetlb_state(src)
    mem = mm.kernel.mem
    cow = src.vm_flags & (VM_SHARED | VM_MAYWRITE) == VM_MAYWRITE
    for address in range(src.vm_start, src.vm_end, HPAGE_PMD_SIZE):
        slot = huge_pte_offset(mm, address)
        if not slot or not mem.ram64[slot]:
            continue
        target = huge_pte_alloc(child, address)
        entry = mem.ram64[slot]
        if cow and entry & PTE_WRITE:
            entry &= ~PTE_WRITE
            mem.ram64[slot] = entry
        pfn = (entry & PTE_MASK) >> 12
        get_huge_page(h, pfn)
        mem.mapcount[pfn] += 1
        child.hugetlb_usage += HPAGE_PMD_NR
        mem.ram64[target] = entry


def hugetlb_change_protection(vma: VmAreaStruct, start: int, end: int) -> int:
    """Gives the entries of a range the area's rights; answers how many small pages that were."""
    mm = vma.vm_mm
    ram64 = mm.kernel.mem.ram64
    pages = 0
    for address in range(start, end, HPAGE_PMD_SIZE):
        slot = huge_pte_offset(mm, address)
        entry = ram64[slot] if slot else 0
        if not entry & _MAPPED:
            continue
        pfn = (entry & PTE_MASK) >> 12
        ram64[slot] = make_huge_pte(vma, pfn, bool(vma.vm_page_prot & PTE_WRITE)) | entry & PTE_DIRTY
        pages += HPAGE_PMD_NR
    if pages:
        flush_tlb_range(mm, start, end)
    return pages
