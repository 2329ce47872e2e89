"""mlock(2) and its relatives: memory that is never paged out.

Linux: mm/mlock.c (5.3). Same: RLIMIT_MEMLOCK, EPERM with a limit of 0, splitting and merging, MCL_FUTURE
    through mm.def_flags, MLOCK_ONFAULT; locked pages are unevictable until the last area that locks them is gone.
Owns: VM_LOCKED, mm.locked_vm. Lock: mmap_sem for writing. What becomes of the pages: mm/mlock_pages.py, mm/swap.py.
"""
from __future__ import annotations

from contextlib import suppress

from glasskernel.arch.x86.pgtable import PTE_MASK, PTE_PRESENT, PTE_PSE, PTE_SPECIAL, lookup_pte
from glasskernel.kernel.capability import CAP_IPC_LOCK, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.rwsem import down_read, down_write, up_read, up_write
from glasskernel.kernel.sched.core import cond_resched
from glasskernel.kernel.task import RLIMIT_MEMLOCK
from glasskernel.lib.errno import EAGAIN, EINVAL, ENOMEM, EPERM, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import may_sleep, notrace, size_t, ulong
from glasskernel.mm.memory import handle_mm_fault, split_huge_pmd
from glasskernel.mm.mlock_pages import munlock_vma_pages_range
from glasskernel.mm.mmap import find_vma, mm_populate, rlimit, split_vma, vma_merge
from glasskernel.mm.page_alloc import PG_mlocked
from glasskernel.mm.pagemap import trylock_page, unlock_page
from glasskernel.mm.swap import mlock_vma_page
from glasskernel.mm.types import (
    TASK_SIZE,
    VM_EXEC,
    VM_FAULT_ERROR,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_READ,
    VM_SHARED,
    VM_SPECIAL,
    VM_WRITE,
    MmStruct,
    VmAreaStruct,
)

MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
MLOCK_ONFAULT = 1
_LOCK_FLAGS = VM_LOCKED | VM_LOCKONFAULT


def can_do_mlock() -> bool:
    """True if the caller may lock anything at all."""
    return bool(rlimit(RLIMIT_MEMLOCK)) or capable(CAP_IPC_LOCK)


@may_sleep
def mlock_fixup(vma: VmAreaStruct, start: int, end: int, newflags: int) -> VmAreaStruct:
    """Locks or unlocks [start, end) of one area; answers the area that has it. Raises ENOMEM."""
    mm = vma.vm_mm
    old = vma.vm_flags
    if newflags == old or old & VM_SPECIAL:
        return vma
    if start != vma.vm_start:
        split_vma(mm, vma, start, True)
    if end != vma.vm_end:
        split_vma(mm, vma, end, False)
    merged = vma_merge(mm, start, end, newflags, vma.anon_vma, vma.vm_file, vma.vm_pgoff)
    if merged is not None:
        vma = merged
    pages = (end - start) >> 12
    if not newflags & VM_LOCKED:
        mm.locked_vm -= pages
        munlock_vma_pages_range(vma, start, end)
        vma.vm_flags = newflags
        return vma
    if not old & VM_LOCKED:
        mm.locked_vm += pages
    vma.vm_flags = newflags
    return vma


@notrace
def mlock_mapped_page(mm: MmStruct, address: int) -> None:
    """follow_page_pte() with FOLL_MLOCK: what a fault brought in is locked."""
    kernel = mm.kernel
    slot = lookup_pte(kernel.mem.ram64, mm.pgd, address)
    entry = kernel.mem.ram64[slot] if slot else 0
    if entry & PTE_PSE:                                # mlocked pages are small
        split_huge_pmd(mm, slot, address)
        slot = lookup_pte(kernel.mem.ram64, mm.pgd, address)
        entry = kernel.mem.ram64[slot]
    if entry & PTE_PRESENT and not entry & PTE_SPECIAL:
        pfn = (entry & PTE_MASK) >> 12
        if not kernel.mem.flags[pfn] & PG_mlocked and trylock_page(kernel, pfn):
            mlock_vma_page(kernel, pfn)
            unlock_page(kernel, pfn)


@may_sleep
def apply_vma_lock_flags(mm: MmStruct, start: int, length: int, flags: int) -> None:
    """Gives every area of a range the lock flags. Raises ENOMEM at a hole, EINVAL."""
    end = start + length
    if end >> 64:
        raise KernelError(EINVAL)
    if end == start:
        return
    vma = find_vma(mm, start)
    if vma is None or vma.vm_start > start:
        raise KernelError(ENOMEM)
    while True:
        part_end = min(vma.vm_end, end)
        vma = mlock_fixup(vma, start, part_end, vma.vm_flags & ~_LOCK_FLAGS | flags)
        start = max(part_end, min(vma.vm_end, end))
        if start >= end:
            return
        following = mm.vmas.after(vma)
        if following is None or following.vm_start != start:
            raise KernelError(ENOMEM)
        vma = following


@notrace
def count_mm_mlocked_page_nr(mm: MmStruct, start: int, length: int) -> int:
    """Pages of the range that are locked already: they do not count twice."""
    end = start + length
    return sum((min(v.vm_end, end) - max(v.vm_start, start)) >> 12
               for v in mm.vmas.overlapping(start, end) if v.vm_flags & VM_LOCKED)


@may_sleep
def do_mlock(start: int, length: int, flags: int) -> int:
    """mlock(2). Raises EPERM, ENOMEM (limit, hole), EAGAIN."""
    if not can_do_mlock():
        raise KernelError(EPERM)
    length = (length + (start & 0xFFF) + 0xFFF) & ~0xFFF
    start &= ~0xFFF
    if length >> 64:
        raise KernelError(EINVAL)
    mm = current().mm
    assert mm is not None
    limit = rlimit(RLIMIT_MEMLOCK) >> 12
    down_write(mm.mmap_sem)
    try:
        locked = (length >> 12) + mm.locked_vm
        if locked > limit and not capable(CAP_IPC_LOCK):
            locked -= count_mm_mlocked_page_nr(mm, start, length)
            if locked > limit:
                raise KernelError(ENOMEM)
        apply_vma_lock_flags(mm, start, length, flags)
    finally:
        up_write(mm.mmap_sem)
    __mm_populate(mm, start, length)
    return 0


@may_sleep
def __mm_populate(mm: MmStruct, start: int, length: int) -> None:
    """Faults the locked areas of a range in.

    Raises ENOMEM (no rights, no memory: as POSIX wants it), EAGAIN.
    """
    end = start + length
    down_read(mm.mmap_sem)
    try:
        for vma in mm.vmas.overlapping(start, end):
            if vma.vm_flags & VM_SPECIAL or vma.vm_flags & _LOCK_FLAGS != VM_LOCKED:
                continue
            if not vma.vm_flags & (VM_READ | VM_WRITE | VM_EXEC):
                raise KernelError(ENOMEM)
            write = int(vma.vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE)
            for address in range(max(vma.vm_start, start), min(vma.vm_end, end), 4096):
                fault = handle_mm_fault(vma, address, write)
                if fault & VM_FAULT_ERROR:
                    raise KernelError(EAGAIN if fault & 1 else ENOMEM)
                mlock_mapped_page(mm, address)
                cond_resched()                     # __get_user_pages()
    finally:
        up_read(mm.mmap_sem)


@syscall
def sys_mlock(start: ulong, len: size_t) -> int:
    """mlock(2)"""
    return do_mlock(start, len, VM_LOCKED)


@syscall
def sys_mlock2(start: ulong, len: size_t, flags: int) -> int:
    """mlock2(2)"""
    if flags & ~MLOCK_ONFAULT:
        raise KernelError(EINVAL)
    return do_mlock(start, len, VM_LOCKED | (VM_LOCKONFAULT if flags & MLOCK_ONFAULT else 0))


@syscall
def sys_munlock(start: ulong, len: size_t) -> int:
    """munlock(2)"""
    length = (len + (start & 0xFFF) + 0xFFF) & ~0xFFF
    start &= ~0xFFF
    if length >> 64:
        raise KernelError(EINVAL)
    mm = current().mm
    assert mm is not None
    down_write(mm.mmap_sem)
    try:
        apply_vma_lock_flags(mm, start, length, 0)
    finally:
        up_write(mm.mmap_sem)
    return 0


@may_sleep
def apply_mlockall_flags(mm: MmStruct, flags: int) -> None:
    """MCL_*: for areas to come in mm.def_flags, for those of now one by one (failures do not count)."""
    mm.def_flags &= ~_LOCK_FLAGS
    if flags & MCL_FUTURE:
        mm.def_flags |= VM_LOCKED | (VM_LOCKONFAULT if flags & MCL_ONFAULT else 0)
        if not flags & MCL_CURRENT:
            return
    to_add = 0
    if flags & MCL_CURRENT:
        to_add = VM_LOCKED | (VM_LOCKONFAULT if flags & MCL_ONFAULT else 0)
    start = 0
    while True:
        vma = mm.vmas.first_ending_after(start)
        if vma is None:
            return
        start = vma.vm_end
        with suppress(KernelError):
            mlock_fixup(vma, vma.vm_start, vma.vm_end, vma.vm_flags & ~_LOCK_FLAGS | to_add)


@syscall
def sys_mlockall(flags: int) -> int:
    """mlockall(2)"""
    if not flags or flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) or flags == MCL_ONFAULT:
        raise KernelError(EINVAL)
    if not can_do_mlock():
        raise KernelError(EPERM)
    mm = current().mm
    assert mm is not None
    down_write(mm.mmap_sem)
    try:
        if flags & MCL_CURRENT and mm.total_vm > rlimit(RLIMIT_MEMLOCK) >> 12 and not capable(CAP_IPC_LOCK):
            raise KernelError(ENOMEM)
        apply_mlockall_flags(mm, flags)
    finally:
        up_write(mm.mmap_sem)
    if flags & MCL_CURRENT and not flags & MCL_ONFAULT:
        mm_populate(mm, 0, TASK_SIZE)
    return 0


@syscall
def sys_munlockall() -> int:
    """munlockall(2)"""
    mm = current().mm
    assert mm is not None
    down_write(mm.mmap_sem)
    try:
        apply_mlockall_flags(mm, 0)
    finally:
        up_write(mm.mmap_sem)
    return 0
