"""mprotect(2): other rights for a range.

Linux: mm/mprotect.c (5.3). Same: splitting and merging, VM_MAY* (EACCES), ENOMEM at a hole with what lies
    before it changed, PROT_GROWSDOWN, commit accounting of private memory that becomes writable.
Differs: the area is cut to the range first and merged with its neighbours then (vma_merge() wants it so).
Owns: nothing. Lock: mmap_sem for writing. Gaps: pkey_mprotect(2) and its relatives (ENOSYS).
"""
from __future__ import annotations

from glasskernel.arch.x86.pgtable import (
    PTE_ACCESSED,
    PTE_DIRTY,
    PTE_MASK,
    PTE_NX,
    PTE_PRESENT,
    PTE_PROTNONE,
    PTE_SPECIAL,
    PTE_WRITE,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.rwsem import down_write_killable, up_write
from glasskernel.lib.errno import EACCES, EINVAL, ENOMEM, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import may_sleep, notrace, size_t, ulong
from glasskernel.mm.memory import handle_mm_fault, note_executable, pte_ranges
from glasskernel.mm.mmap import (
    PROT_EXEC,
    PROT_GROWSDOWN,
    PROT_GROWSUP,
    PROT_READ,
    find_vma,
    may_expand_vm,
    split_vma,
    vm_stat_account,
    vma_merge,
    vma_set_page_prot,
)
from glasskernel.mm.tlb import flush_tlb_range
from glasskernel.mm.types import (
    VM_ACCOUNT,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_HUGETLB,
    VM_LOCKED,
    VM_MAYEXEC,
    VM_NORESERVE,
    VM_READ,
    VM_SHARED,
    VM_WRITE,
    VmAreaStruct,
)
from glasskernel.mm.util import security_vm_enough_memory_mm

PROT_SEM = 0x8
READ_IMPLIES_EXEC = 0x0400000
_KEPT = PTE_MASK | PTE_ACCESSED | PTE_DIRTY | PTE_SPECIAL


@notrace
def vma_wants_writenotify(vma: VmAreaStruct) -> bool:
    """True if the file must hear of the first write to each page of a shared area."""
    return (vma.vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE | VM_SHARED
            and vma.vm_ops is not None and vma.vm_ops.page_mkwrite is not None)


def change_protection(vma: VmAreaStruct, start: int, end: int) -> int:
    """Gives the present pages of a range the rights of vma.vm_page_prot; answers how many there were.

    Private pages become read-only and are made writable again one by one, when they are written to.
    """
    mm = vma.vm_mm
    kernel = mm.kernel
    if vma.vm_flags & VM_HUGETLB:
        assert kernel.hugetlb is not None
        return kernel.hugetlb.hugetlb_change_protection(vma, start, end)
    ram64 = kernel.mem.ram64
    prot = vma.vm_page_prot
    keep_dirty_writable = prot & PTE_WRITE and vma_wants_writenotify(vma)
    executable = prot & PTE_PRESENT and not prot & PTE_NX
    pages = 0
    change_huge_pmd = None if kernel.thp is None else kernel.thp.change_huge_pmd(vma)
    for _, slot, count in pte_ranges(mm, start, end, change_huge_pmd):
        entries = ram64[slot : slot + count].tolist()
        for i, entry in enumerate(entries):
            if not entry & (PTE_PRESENT | PTE_PROTNONE):
                continue                               # empty, or in a swap area
            new = entry & _KEPT | prot
            if entry & PTE_SPECIAL or (keep_dirty_writable and not entry & PTE_DIRTY):
                new &= ~PTE_WRITE
            if new == entry:
                continue
            if executable:
                note_executable(kernel, (entry & PTE_MASK) >> 12)
            ram64[slot + i] = new
            pages += 1
    if pages:
        flush_tlb_range(mm, start, end)
    return pages


@may_sleep
def mprotect_fixup(vma: VmAreaStruct, start: int, end: int, newflags: int) -> VmAreaStruct:
    """Gives [start, end), a part of one area, new flags; answers the area that has it now. Raises ENOMEM."""
    mm = vma.vm_mm
    oldflags = vma.vm_flags
    if newflags == oldflags:
        return vma
    nr_pages = (end - start) >> 12
    charged = 0
    if newflags & VM_WRITE:
        if not may_expand_vm(mm, newflags, nr_pages) and may_expand_vm(mm, oldflags, nr_pages):
            raise KernelError(ENOMEM)
        if not oldflags & (VM_ACCOUNT | VM_WRITE | VM_HUGETLB | VM_SHARED | VM_NORESERVE):
            security_vm_enough_memory_mm(mm, nr_pages)
            charged = nr_pages
            newflags |= VM_ACCOUNT
    try:
        if start != vma.vm_start:
            split_vma(mm, vma, start, True)
        if end != vma.vm_end:
            split_vma(mm, vma, end, False)
    except KernelError:
        mm.kernel.mem.vm_committed -= charged
        raise
    merged = vma_merge(mm, start, end, newflags, vma.anon_vma, vma.vm_file, vma.vm_pgoff)
    if merged is not None:
        vma = merged
    vma.vm_flags = newflags
    vma_set_page_prot(vma)
    change_protection(vma, start, end)
    if oldflags & (VM_WRITE | VM_SHARED | VM_LOCKED) == VM_LOCKED and newflags & VM_WRITE:
        for address in range(start, end, 4096):        # locked memory must not fault later: copy now
            handle_mm_fault(vma, address, 1)
    vm_stat_account(mm, oldflags, -nr_pages)
    vm_stat_account(mm, newflags, nr_pages)
    if mm.kernel.perf is not None:
        mm.kernel.perf.event_mmap(vma)
    return vma


@may_sleep
def do_mprotect_pkey(start: int, length: int, prot: int) -> int:
    """mprotect(2). Raises EINVAL, ENOMEM (a hole), EACCES."""
    task = current()
    mm = task.mm
    assert mm is not None
    grows = prot & (PROT_GROWSDOWN | PROT_GROWSUP)
    implies_exec = bool(task.personality & READ_IMPLIES_EXEC and prot & PROT_READ)
    prot &= ~(PROT_GROWSDOWN | PROT_GROWSUP)
    if grows == PROT_GROWSDOWN | PROT_GROWSUP or start & 0xFFF:
        raise KernelError(EINVAL)
    if not length:
        return 0
    end = start + (length + 0xFFF & ~0xFFF)
    if end >= 1 << 64 or end <= start:
        raise KernelError(ENOMEM)
    if prot & ~(VM_READ | VM_WRITE | VM_EXEC | PROT_SEM):
        raise KernelError(EINVAL)
    prot &= ~PROT_SEM
    lsm = task.kernel.lsm
    down_write_killable(mm.mmap_sem)
    try:
        vma = find_vma(mm, start)
        if vma is None:
            raise KernelError(ENOMEM)
        if grows & PROT_GROWSDOWN:
            if vma.vm_start >= end:
                raise KernelError(ENOMEM)
            start = vma.vm_start
            if not vma.vm_flags & VM_GROWSDOWN:
                raise KernelError(EINVAL)
        else:
            if vma.vm_start > start:
                raise KernelError(ENOMEM)
            if grows:
                raise KernelError(EINVAL)              # nothing grows upwards on x86
        while True:
            wanted = prot | (PROT_EXEC if implies_exec and vma.vm_flags & VM_MAYEXEC else 0)
            newflags = wanted | (vma.vm_flags & ~(VM_READ | VM_WRITE | VM_EXEC))
            if newflags & ~(newflags >> 4) & (VM_READ | VM_WRITE | VM_EXEC):
                raise KernelError(EACCES)
            if lsm is not None:
                lsm.security_file_mprotect(vma, prot, wanted)
            part_end = min(vma.vm_end, end)
            vma = mprotect_fixup(vma, start, part_end, newflags)
            start = max(part_end, vma.vm_end)
            if start >= end:
                return 0
            following = mm.vmas.after(vma)
            if following is None or following.vm_start != start:
                raise KernelError(ENOMEM)
            vma = following
    finally:
        up_write(mm.mmap_sem)


@syscall
def sys_mprotect(start: ulong, len: size_t, prot: ulong) -> int:
    """mprotect(2)"""
    return do_mprotect_pkey(start, len, prot)


