"""mincore(2): which pages are in memory.

Linux: mm/mincore.c (5.3). Same: for a file that the caller could not write to, everything is "in memory"
    (page cache contents are a secret). Differs: that question is asked of the owner and the open mode, not
    of inode_permission().
Owns: nothing. Lock: mmap_sem for reading.
"""
from __future__ import annotations

from glasskernel.arch.x86.pgtable import PTE_PRESENT, PTE_PROTNONE, SWP_TYPE_SHIFT, lookup_pte, pte_to_swp_entry
from glasskernel.arch.x86.uaccess import access_ok, copy_to_user
from glasskernel.kernel.capability import CAP_FOWNER, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.rwsem import down_read, up_read
from glasskernel.lib.errno import EFAULT, EINVAL, ENOMEM, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, size_t, ulong
from glasskernel.mm.mmap import find_vma
from glasskernel.mm.page_alloc import PG_uptodate
from glasskernel.mm.types import VM_HUGETLB, AddressSpace, MmStruct, VmAreaStruct

FMODE_WRITE = 2


def mincore_page(mapping: AddressSpace, pgoff: int) -> int:
    """1 if the page is in the cache and up to date."""
    pfn = mapping.pages.get(pgoff, 0)
    return int(bool(pfn and current().kernel.mem.flags[pfn] & PG_uptodate))


def can_do_mincore(vma: VmAreaStruct) -> bool:
    """May the caller know? Anonymous memory, or a file that he owns or may write to."""
    if vma.vm_ops is None:
        return True
    file = vma.vm_file
    if file is None:
        return False
    owner = file.f_inode.i_uid == current().cred.fsuid
    return bool(file.f_mode & FMODE_WRITE) or owner or capable(CAP_FOWNER)


def do_mincore(mm: MmStruct, addr: int, pages: int) -> bytearray:
    """One byte a page, for at most `pages` pages of the area at addr.

    Raises ENOMEM if nothing is mapped there.
    """
    vma = find_vma(mm, addr)
    if vma is None or addr < vma.vm_start:
        raise KernelError(ENOMEM)
    pages = min(pages, (vma.vm_end - addr) >> 12)
    if not can_do_mincore(vma):
        return bytearray(b"\1" * pages)
    ram64 = mm.kernel.mem.ram64
    mapping = vma.vm_file.f_mapping if vma.vm_file is not None and vma.vm_ops is not None else None
    if vma.vm_flags & VM_HUGETLB:
        mapping = None                                     # mincore_hugetlb(): what is mapped
    vec = bytearray(pages)
    for i in range(pages):
        address = addr + (i << 12)
        slot = lookup_pte(ram64, mm.pgd, address)
        entry = ram64[slot] if slot else 0
        if entry & (PTE_PRESENT | PTE_PROTNONE):
            vec[i] = 1
        elif entry:                                        # in a swap area: in memory if the swap cache has it
            swap = mm.kernel.swap
            assert swap is not None
            swp_entry = pte_to_swp_entry(entry)
            vec[i] = mincore_page(swap.spaces[swp_entry >> SWP_TYPE_SHIFT], swp_entry & (1 << SWP_TYPE_SHIFT) - 1)
        elif mapping is not None:
            vec[i] = mincore_page(mapping, vma.vm_pgoff + ((address - vma.vm_start) >> 12))
    return vec


@syscall
@may_sleep
def sys_mincore(start: ulong, len: size_t, vec: UserPtr) -> int:
    """mincore(2)"""
    if start & 0xFFF:
        raise KernelError(EINVAL)
    if not access_ok(start, len):
        raise KernelError(ENOMEM)
    pages = (len + 0xFFF) >> 12
    if not access_ok(vec, pages):
        raise KernelError(EFAULT)
    mm = current().mm
    assert mm is not None
    while pages:
        down_read(mm.mmap_sem)
        try:
            part = do_mincore(mm, start, min(pages, 4096))
        finally:
            up_read(mm.mmap_sem)
        done = memoryview(part).nbytes
        copy_to_user(vec, part)
        pages -= done
        vec += done
        start += done << 12
    return 0
