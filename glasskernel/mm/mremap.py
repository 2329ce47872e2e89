"""mremap(2): an area grows, shrinks or moves.

Linux: mm/mremap.c (5.3). Same: growing in place when there is room, MREMAP_FIXED, old_len 0 of a shared
    area makes a second mapping, limits and the errno of each refusal. Differs: the moved area is never
    merged with a neighbour.
Owns: nothing. Lock: mmap_sem for writing. Gaps: MREMAP_DONTUNMAP is newer (EINVAL).
"""
from __future__ import annotations

from glasskernel.kernel.capability import CAP_IPC_LOCK, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.rwsem import down_write, up_write
from glasskernel.kernel.task import RLIMIT_MEMLOCK
from glasskernel.lib.errno import EAGAIN, EFAULT, EINVAL, ENOMEM, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import may_sleep, notrace, ulong
from glasskernel.mm.memory import pte_alloc_map, pte_ranges
from glasskernel.mm.mmap import (
    MAP_FIXED,
    MAP_SHARED,
    do_munmap,
    find_vma,
    get_unmapped_area,
    may_expand_vm,
    mm_populate,
    rlimit,
    vm_area_dup,
    vm_stat_account,
    vma_adjust,
    vma_attach,
)
from glasskernel.mm.rmap import anon_vma_clone
from glasskernel.mm.tlb import flush_tlb_range
from glasskernel.mm.types import (
    TASK_SIZE,
    VM_ACCOUNT,
    VM_DONTEXPAND,
    VM_GROWSDOWN,
    VM_HUGETLB,
    VM_LOCKED,
    VM_MAYSHARE,
    VM_PFNMAP,
    VM_SHARED,
    MmStruct,
    VmAreaStruct,
)
from glasskernel.mm.util import security_vm_enough_memory_mm

MREMAP_MAYMOVE, MREMAP_FIXED = 1, 2
STACK_GUARD_GAP = 256 << 12


@may_sleep
def move_page_tables(
    vma: VmAreaStruct, old_addr: int, new_vma: VmAreaStruct, new_addr: int, length: int
) -> int:
    """Moves the entries of [old_addr, old_addr + length) to new_addr; answers how many bytes were moved.

    Less than length when no memory is left for tables. The ranges may overlap if new_addr is the lower one.
    """
    mm = vma.vm_mm
    ram64 = mm.kernel.mem.ram64
    moved = False
    done = length
    for address, slot, count in pte_ranges(mm, old_addr, old_addr + length):
        entries = ram64[slot : slot + count].tolist()
        for i, entry in enumerate(entries):
            if not entry:
                continue
            source = address + (i << 12)
            try:
                target = pte_alloc_map(mm, new_addr + source - old_addr)
            except KernelError:
                done = source - old_addr
                break
            entry = ram64[slot + i]                    # the allocation may have slept: reclaim may have been there
            ram64[target] = entry
            ram64[slot + i] = 0
            moved = True
        if done != length:
            break
    if moved:
        flush_tlb_range(mm, old_addr, old_addr + length)
    return done


@notrace
def vma_to_resize(mm: MmStruct, addr: int, old_len: int, new_len: int) -> tuple[VmAreaStruct, int]:
    """The area, and how many pages were charged for its growth. Raises EFAULT, EINVAL, EAGAIN, ENOMEM."""
    vma = find_vma(mm, addr)
    if vma is None or vma.vm_start > addr:
        raise KernelError(EFAULT)
    if not old_len and not vma.vm_flags & (VM_SHARED | VM_MAYSHARE):
        raise KernelError(EINVAL)
    if vma.vm_flags & VM_HUGETLB:
        raise KernelError(EINVAL)
    if old_len > vma.vm_end - addr:
        raise KernelError(EFAULT)
    if new_len == old_len:
        return vma, 0
    pgoff = (addr - vma.vm_start >> 12) + vma.vm_pgoff
    if pgoff + (new_len >> 12) >= 1 << 52:
        raise KernelError(EINVAL)
    if vma.vm_flags & (VM_DONTEXPAND | VM_PFNMAP):
        raise KernelError(EFAULT)
    growth = (new_len - old_len) >> 12
    if vma.vm_flags & VM_LOCKED:
        if mm.locked_vm + growth > rlimit(RLIMIT_MEMLOCK) >> 12 and not capable(CAP_IPC_LOCK):
            raise KernelError(EAGAIN)
    if not may_expand_vm(mm, vma.vm_flags, growth):
        raise KernelError(ENOMEM)
    if vma.vm_flags & VM_ACCOUNT:
        security_vm_enough_memory_mm(mm, growth)
        return vma, growth
    return vma, 0


@notrace
def vma_expandable(vma: VmAreaStruct, delta: int) -> bool:
    """True if nothing lies within delta bytes behind the area."""
    end = vma.vm_end + delta
    if end > TASK_SIZE:
        return False
    following = vma.vm_mm.vmas.after(vma)
    if following is None:
        return True
    gap = STACK_GUARD_GAP if following.vm_flags & VM_GROWSDOWN else 0
    return following.vm_start - gap >= end


@may_sleep
def copy_vma(vma: VmAreaStruct, addr: int, length: int, pgoff: int) -> VmAreaStruct:
    """A second area with the same backing at another place."""
    if vma.vm_ops is None and vma.anon_vma is None:
        pgoff = addr >> 12                             # never touched: it may as well have begun there
    new = vm_area_dup(vma)
    new.vm_start, new.vm_end, new.vm_pgoff = addr, addr + length, pgoff
    if vma.anon_vma is not None:
        anon_vma_clone(new, vma)
    vma_attach(new)
    return new


@may_sleep
def move_vma(vma: VmAreaStruct, old_addr: int, old_len: int, new_len: int, new_addr: int) -> int:
    """Moves a part of an area; answers new_addr. Raises ENOMEM."""
    mm = vma.vm_mm
    if len(mm.vmas) >= mm.kernel.sysctl.max_map_count - 3:
        raise KernelError(ENOMEM)
    vm_flags = vma.vm_flags
    new_vma = copy_vma(vma, new_addr, new_len, vma.vm_pgoff + ((old_addr - vma.vm_start) >> 12))
    vm_stat_account(mm, vm_flags, new_len >> 12)
    if vm_flags & VM_LOCKED:
        mm.locked_vm += new_len >> 12
    moved = move_page_tables(vma, old_addr, new_vma, new_addr, old_len)
    if moved < old_len:
        # Not enough memory for tables: what was moved goes back (its tables exist), and the copy goes away.
        move_page_tables(new_vma, new_addr, vma, old_addr, moved)
        new_vma.vm_flags &= ~VM_ACCOUNT                # the caller gives its charge back
        do_munmap(mm, new_addr, new_len)
        raise KernelError(ENOMEM)
    if mm.vdso == old_addr:
        mm.vdso = new_addr                             # vdso_mremap()
    if old_len:
        # The pages keep their charge: it belongs to the new area now.
        start, end = vma.vm_start, vma.vm_end
        vma.vm_flags &= ~VM_ACCOUNT
        do_munmap(mm, old_addr, old_len)
        if vm_flags & VM_ACCOUNT:
            for left in mm.vmas.overlapping(start, end):
                if left is not new_vma and (left.vm_start == start or left.vm_end == end):
                    left.vm_flags |= VM_ACCOUNT
    return new_addr


@may_sleep
def mremap_to(mm: MmStruct, addr: int, old_len: int, new_addr: int, new_len: int) -> int:
    """MREMAP_FIXED. Raises EINVAL, EFAULT, ENOMEM, EAGAIN."""
    if new_addr & 0xFFF or new_len > TASK_SIZE or new_addr > TASK_SIZE - new_len:
        raise KernelError(EINVAL)
    if addr + old_len > new_addr and new_addr + new_len > addr:
        raise KernelError(EINVAL)
    if len(mm.vmas) + 2 >= mm.kernel.sysctl.max_map_count - 3:
        raise KernelError(ENOMEM)
    do_munmap(mm, new_addr, new_len)
    if old_len >= new_len:
        if old_len != new_len:
            do_munmap(mm, addr + new_len, old_len - new_len)
        old_len = new_len
    vma, charged = vma_to_resize(mm, addr, old_len, new_len)
    try:
        flags = MAP_FIXED | (MAP_SHARED if vma.vm_flags & VM_MAYSHARE else 0)
        pgoff = vma.vm_pgoff + ((addr - vma.vm_start) >> 12)
        get_unmapped_area(vma.vm_file, new_addr, new_len, pgoff, flags)
        return move_vma(vma, addr, old_len, new_len, new_addr)
    except KernelError:
        mm.kernel.mem.vm_committed -= charged
        raise


@syscall
def sys_mremap(addr: ulong, old_len: ulong, new_len: ulong, flags: ulong, new_addr: ulong) -> int:
    """mremap(2)"""
    if flags & ~(MREMAP_FIXED | MREMAP_MAYMOVE) or flags & (MREMAP_FIXED | MREMAP_MAYMOVE) == MREMAP_FIXED:
        raise KernelError(EINVAL)
    if addr & 0xFFF:
        raise KernelError(EINVAL)
    mask = (1 << 64) - 4096
    old_len = (old_len + 0xFFF) & mask
    new_len = (new_len + 0xFFF) & mask
    if not new_len:
        raise KernelError(EINVAL)
    mm = current().mm
    assert mm is not None
    down_write(mm.mmap_sem)
    try:
        if flags & MREMAP_FIXED:
            where = mremap_to(mm, addr, old_len, new_addr, new_len)
        elif old_len >= new_len:
            if old_len > new_len:
                do_munmap(mm, addr + new_len, old_len - new_len)
            return addr
        else:
            where = _grow(mm, addr, old_len, new_len, flags)
        vma = find_vma(mm, where)
        locked = vma is not None and vma.vm_flags & VM_LOCKED
    finally:
        up_write(mm.mmap_sem)
    if locked and new_len > old_len:
        mm_populate(mm, where + old_len, new_len - old_len)
    return where


@notrace
@may_sleep
def _grow(mm: MmStruct, addr: int, old_len: int, new_len: int, flags: int) -> int:
    vma, charged = vma_to_resize(mm, addr, old_len, new_len)
    try:
        if old_len == vma.vm_end - addr and vma_expandable(vma, new_len - old_len):
            vma_adjust(vma, vma.vm_start, addr + new_len, vma.vm_pgoff)
            pages = (new_len - old_len) >> 12
            vm_stat_account(mm, vma.vm_flags, pages)
            if vma.vm_flags & VM_LOCKED:
                mm.locked_vm += pages
            return addr
        if not flags & MREMAP_MAYMOVE:
            raise KernelError(ENOMEM)
        map_flags = MAP_SHARED if vma.vm_flags & VM_MAYSHARE else 0
        pgoff = vma.vm_pgoff + ((addr - vma.vm_start) >> 12)
        new_addr = get_unmapped_area(vma.vm_file, 0, new_len, pgoff, map_flags)
        return move_vma(vma, addr, old_len, new_len, new_addr)
    except KernelError:
        mm.kernel.mem.vm_committed -= charged
        raise
