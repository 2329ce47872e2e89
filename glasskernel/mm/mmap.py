"""The memory map: areas, mmap(2), munmap(2), brk(2), stack growth, and the life of an mm.

Linux: mm/mmap.c, kernel/fork.c (dup_mmap, mm_init, mmput) (5.3). Same: merging rules, top-down search, guard gap,
accounting. Differs: VmaTree instead of an rb-tree with gaps. Gaps: userfaultfd, pkeys.
Owns: MmStruct.vmas and its counters. Lock: mmap_sem, for writing here.
Invariants: areas never overlap, are page aligned and not empty; total_vm is their sum in pages; an area with a
    file holds one reference of it and is in its mapping's i_mmap.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.capability import CAP_IPC_LOCK, CAP_SYS_RAWIO, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.rwsem import (
    RwSemaphore,
    down_read,
    down_write,
    down_write_killable,
    downgrade_write,
    up_read,
    up_write,
)
from glasskernel.kernel.task import (
    PF_RANDOMIZE,
    RLIM_INFINITY,
    RLIMIT_AS,
    RLIMIT_DATA,
    RLIMIT_MEMLOCK,
    RLIMIT_STACK,
    TaskStruct,
)
from glasskernel.lib.errno import (
    EACCES,
    EAGAIN,
    EBADF,
    EEXIST,
    EINVAL,
    ENOMEM,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
    ETXTBSY,
    KernelError,
)
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import notrace, size_t, ulong
from glasskernel.machine.costs import FORK_AREA, FORK_PAGE
from glasskernel.mm.memory import (
    copy_page_range,
    free_pgtables,
    handle_mm_fault,
    pgd_alloc,
    pgd_free,
    unmap_vmas,
    vm_get_page_prot,
)
from glasskernel.mm.mempolicy import vma_dup_policy
from glasskernel.mm.mmu_gather import tlb_finish_mmu, tlb_gather_mmu
from glasskernel.mm.page_alloc import GFP_KERNEL
from glasskernel.mm.rmap import anon_vma_clone, anon_vma_fork, unlink_anon_vmas
from glasskernel.mm.slub import kmem_cache_alloc, kmem_cache_free
from glasskernel.mm.tlb import flush_tlb_mm
from glasskernel.mm.types import (
    MMF_OOM_SKIP,
    MMF_OOM_VICTIM,
    MMF_VM_HUGEPAGE,
    TASK_SIZE,
    VM_ACCOUNT,
    VM_DONTCOPY,
    VM_DONTEXPAND,
    VM_EXEC,
    VM_GROWSDOWN,
    VM_HUGETLB,
    VM_IO,
    VM_LOCKED,
    VM_LOCKONFAULT,
    VM_MAYEXEC,
    VM_MAYREAD,
    VM_MAYSHARE,
    VM_MAYWRITE,
    VM_MIXEDMAP,
    VM_NORESERVE,
    VM_PFNMAP,
    VM_READ,
    VM_SHARED,
    VM_WIPEONFORK,
    VM_WRITE,
    MmStruct,
    VmAreaStruct,
    VmOperations,
)
from glasskernel.mm.util import security_vm_enough_memory_mm
from glasskernel.mm.vmacache import vmacache_find, vmacache_invalidate, vmacache_update

if TYPE_CHECKING:
    from glasskernel.fs.types import File
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.huge_types import HugetlbState
    from glasskernel.mm.rmap import AnonVma

PROT_READ, PROT_WRITE, PROT_EXEC, PROT_GROWSDOWN, PROT_GROWSUP = 0x1, 0x2, 0x4, 0x01000000, 0x02000000
MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE, MAP_TYPE = 0x1, 0x2, 0x3, 0xF
MAP_FIXED, MAP_ANONYMOUS, MAP_32BIT, MAP_GROWSDOWN = 0x10, 0x20, 0x40, 0x100
MAP_DENYWRITE, MAP_EXECUTABLE, MAP_LOCKED, MAP_NORESERVE = 0x800, 0x1000, 0x2000, 0x4000
MAP_POPULATE, MAP_NONBLOCK, MAP_STACK, MAP_HUGETLB, MAP_SYNC = 0x8000, 0x10000, 0x20000, 0x40000, 0x80000
MAP_FIXED_NOREPLACE = 0x100000
MAP_HUGE_SHIFT, MAP_HUGE_MASK = 26, 0x3F
HUGE_PAGE = 1 << 21
HUGETLB_ANONHUGE_INODE = 2             # hugetlb_file_setup(): for a mapping, which reserves for itself
_LEGACY_MAP_MASK = (
    MAP_SHARED | MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_DENYWRITE | MAP_EXECUTABLE | MAP_GROWSDOWN | MAP_LOCKED
    | MAP_NORESERVE | MAP_POPULATE | MAP_NONBLOCK | MAP_STACK | MAP_HUGETLB | MAP_32BIT
)

STACK_GUARD_GAP = 256 << 12
STACK_RND_SIZE = 0x3FFFFF << 12        # __STACK_RND_MASK: how far the stack's top is moved at most
ADDR_COMPAT_LAYOUT = 0x0200000         # personality(2)
_SPECIAL = VM_IO | VM_DONTEXPAND | VM_PFNMAP | VM_MIXEDMAP


@notrace
def page_align(size: int) -> int:
    return (size + 4095) & ~4095


@notrace
def rlimit(which: int) -> int:
    """The caller's soft limit."""
    return current().signal.rlim[which][0]


# ---- life of an mm ----------------------------------------------------------------------------------------------
def mm_alloc(kernel: Kernel) -> MmStruct:
    """An empty address space with one user. Raises ENOMEM."""
    return mm_init(kernel, kmem_cache_alloc(kernel.slab.mm_cachep, GFP_KERNEL))


def mm_init(kernel: Kernel, address: int) -> MmStruct:
    """A new address space with its top table. Raises ENOMEM."""
    mm = MmStruct(kernel, 0, RwSemaphore())
    mm.slab_address = address
    try:
        mm.pgd = pgd_alloc(kernel)
    except KernelError:
        kmem_cache_free(kernel.slab.mm_cachep, address)
        raise
    mm.pgtables_bytes = 4096
    kernel.mm_list[mm] = None
    return mm


@notrace
def mmget(mm: MmStruct) -> None:
    """One more user."""
    mm.mm_users += 1


@notrace
def mmgrab(mm: MmStruct) -> None:
    """One more holder of the structure itself."""
    mm.mm_count += 1


def mmput(mm: MmStruct) -> None:
    """One user less; the last one unmaps everything. May sleep."""
    mm.mm_users -= 1
    if not mm.mm_users:
        if mm.uprobes_state is not None and mm.kernel.uprobes is not None:
            mm.kernel.uprobes.uprobe_clear_state(mm)
        if mm.ioctx_table is not None:
            mm.kernel.exit_aio(mm)
        if mm.flags & MMF_VM_HUGEPAGE:
            assert mm.kernel.thp is not None
            mm.kernel.thp.khugepaged_exit(mm)
        exit_mmap(mm)
        exe, mm.exe_file = mm.exe_file, None
        if exe is not None:
            mm.kernel.fput(exe)
        mmdrop(mm)


@notrace
def mmdrop(mm: MmStruct) -> None:
    """One holder less; the last one frees the tables."""
    mm.mm_count -= 1
    if not mm.mm_count:
        __mmdrop(mm)


def __mmdrop(mm: MmStruct) -> None:
    """Nobody knows the address space any more."""
    pgd_free(mm)
    del mm.kernel.mm_list[mm]
    kmem_cache_free(mm.kernel.slab.mm_cachep, mm.slab_address)


def exit_mmap(mm: MmStruct) -> None:
    """Unmaps every area and lets its file go."""
    areas = mm.vmas.values()
    if mm.locked_vm:
        munlock_areas(areas)
    tlb = tlb_gather_mmu(mm, 0, -1)
    unmap_vmas(tlb, areas, 0, TASK_SIZE)
    free_pgtables(tlb, areas)
    tlb_finish_mmu(tlb)
    for vma in areas:
        mm.vmas.remove(vma)
        remove_vma(vma)
    mm.total_vm = mm.locked_vm = mm.data_vm = mm.exec_vm = mm.stack_vm = 0
    if mm.flags & MMF_OOM_VICTIM:
        mm.flags |= MMF_OOM_SKIP                             # the next shortage needs another victim
    assert not any(mm.rss_stat), f"rss {mm.rss_stat} left after exit_mmap"


@notrace
def munlock_areas(areas: list[VmAreaStruct]) -> None:
    """Before locked areas go: their pages can be reclaimed, if nobody else locks them."""
    from glasskernel.mm.mlock_pages import munlock_vma_pages_all  # late: start-up time

    for vma in areas:
        if vma.vm_flags & VM_LOCKED:
            vma.vm_mm.locked_vm -= vma_pages(vma)
            munlock_vma_pages_all(vma)


def dup_mm(task: TaskStruct, oldmm: MmStruct) -> MmStruct:
    """A copy of an address space for fork(2): private pages become copy-on-write. Raises ENOMEM."""
    mm = mm_init(oldmm.kernel, kmem_cache_alloc(oldmm.kernel.slab.mm_cachep, GFP_KERNEL))
    for name in ("mmap_base", "mmap_legacy", "def_flags", "start_code", "end_code", "start_data", "end_data",
                 "start_brk", "brk", "start_stack", "arg_start", "arg_end", "env_start", "env_end", "saved_auxv",
                 "vdso", "dumpable", "binfmt"):
        setattr(mm, name, getattr(oldmm, name))
    mm.def_flags &= ~(VM_LOCKED | VM_LOCKONFAULT)
    try:
        dup_mmap(mm, oldmm)
    except KernelError:
        mmput(mm)
        raise
    mm.kernel.machine.charge(FORK_AREA * len(mm.vmas) + FORK_PAGE * sum(mm.rss_stat))
    return mm


def dup_mmap(mm: MmStruct, oldmm: MmStruct) -> None:
    uprobes = mm.kernel.uprobes
    if uprobes is not None:
        uprobes.uprobe_start_dup_mmap(uprobes)
    down_write(oldmm.mmap_sem)
    try:
        if uprobes is not None:
            uprobes.uprobe_dup_mmap(oldmm, mm)
        mm.exe_file = get_mm_exe_file(oldmm)
        if oldmm.flags & MMF_VM_HUGEPAGE:                    # khugepaged_fork()
            assert mm.kernel.thp is not None
            mm.kernel.thp.khugepaged_enter(mm)
        mm.total_vm, mm.data_vm, mm.exec_vm, mm.stack_vm = oldmm.total_vm, oldmm.data_vm, oldmm.exec_vm, oldmm.stack_vm
        for old in oldmm.vmas:
            if old.vm_flags & VM_DONTCOPY:
                vm_stat_account(mm, old.vm_flags, -vma_pages(old))
                continue
            if old.vm_flags & VM_ACCOUNT:
                security_vm_enough_memory_mm(oldmm, vma_pages(old))
            vma = vm_area_dup(old)
            vma_dup_policy(old, vma)
            if vma.vm_flags & VM_HUGETLB:
                hugetlb_hooks(mm).reset_vma_resv_huge_pages(vma)
            vma.vm_mm = mm
            vma.vm_flags &= ~(VM_LOCKED | VM_LOCKONFAULT)
            if old.vm_flags & VM_WIPEONFORK:
                vma.anon_vma = None
            elif old.anon_vma is not None:
                anon_vma_fork(vma, old)
            vma_attach(vma)
            copy_page_range(vma, old)
    finally:
        flush_tlb_mm(oldmm)
        up_write(oldmm.mmap_sem)
        if uprobes is not None:
            uprobes.uprobe_end_dup_mmap(uprobes)


# ---- areas ------------------------------------------------------------------------------------------------------
@notrace
def vma_pages(vma: VmAreaStruct) -> int:
    return (vma.vm_end - vma.vm_start) >> 12


def vm_area_alloc(mm: MmStruct, start: int, end: int, vm_flags: int) -> VmAreaStruct:
    """A new area that is in no tree yet. Raises ENOMEM. (kernel/fork.c)"""
    address = kmem_cache_alloc(mm.kernel.slab.vm_area_cachep, GFP_KERNEL)
    vma = VmAreaStruct(mm, start, end, vm_flags)
    vma.slab_address = address
    return vma


def vm_area_free(vma: VmAreaStruct) -> None:
    """The end of an area that is in no tree any more. (kernel/fork.c)"""
    kmem_cache_free(vma.vm_mm.kernel.slab.vm_area_cachep, vma.slab_address)


def vm_area_dup(vma: VmAreaStruct) -> VmAreaStruct:
    """A copy that is in no tree yet and holds no reference yet."""
    address = kmem_cache_alloc(vma.vm_mm.kernel.slab.vm_area_cachep, GFP_KERNEL)
    return VmAreaStruct(vma.vm_mm, vma.vm_start, vma.vm_end, vma.vm_flags, vma.vm_page_prot, vma.vm_pgoff,
                        vma.vm_file, vma.vm_ops, vma.anon_vma, vma.vm_private_data, None, address)


def get_mm_exe_file(mm: MmStruct) -> File | None:
    """The program an address space runs, with a reference (kernel/fork.c)."""
    file = mm.exe_file
    if file is not None:
        file.f_count += 1
    return file


@notrace
def vma_attach(vma: VmAreaStruct) -> None:
    """A copy of an area, or a new one, takes its place, with a reference of the file of its own."""
    __vma_link_rb(vma.vm_mm, vma)
    if vma.vm_file is not None:
        vma.vm_file.f_count += 1
        vma.vm_file.f_mapping.i_mmap[vma] = None
    if vma.vm_ops is not None and vma.vm_ops.open is not None:
        vma.vm_ops.open(vma)


def vma_link(mm: MmStruct, vma: VmAreaStruct) -> None:
    """Into the tree, and into the file's i_mmap."""
    __vma_link_rb(mm, vma)
    if vma.vm_file is not None:                              # __vma_link_file()
        vma.vm_file.f_mapping.i_mmap[vma] = None


def __vma_link_rb(mm: MmStruct, vma: VmAreaStruct) -> None:
    mm.vmas.insert(vma)


def vma_set_page_prot(vma: VmAreaStruct) -> None:
    """vm_page_prot from vm_flags."""
    vma.vm_page_prot = vm_get_page_prot(vma.vm_flags)


def remove_vma(vma: VmAreaStruct) -> None:
    """The area is out of the tree: lets its file go."""
    if vma.vm_flags & VM_ACCOUNT:
        vma.vm_mm.kernel.mem.vm_committed -= vma_pages(vma)
    if vma.vm_ops is not None and vma.vm_ops.close is not None:
        vma.vm_ops.close(vma)
    if vma.vm_file is not None:
        vma.vm_mm.kernel.fput(vma.vm_file)
    vm_area_free(vma)


def find_vma(mm: MmStruct, address: int) -> VmAreaStruct | None:
    """The lowest area with address < vm_end; it need not contain the address."""
    vma = vmacache_find(mm, address)
    if vma is not None:
        return vma
    vma = mm.vmas.first_ending_after(address)
    if vma is not None:
        vmacache_update(address, vma)
    return vma


def insert_vm_struct(mm: MmStruct, vma: VmAreaStruct) -> None:
    """Adds an area that nothing overlaps. Raises ENOMEM."""
    if mm.vmas.overlapping(vma.vm_start, vma.vm_end):
        raise KernelError(ENOMEM)
    if vma.vm_flags & VM_ACCOUNT:
        security_vm_enough_memory_mm(mm, vma_pages(vma))
    if not vma.vm_page_prot:
        vma.vm_page_prot = vm_get_page_prot(vma.vm_flags)
    vma_link(mm, vma)
    vm_stat_account(mm, vma.vm_flags, vma_pages(vma))


@notrace
def vma_adjust(vma: VmAreaStruct, start: int, end: int, pgoff: int) -> None:
    """New bounds for an area."""
    __vma_adjust(vma, start, end, pgoff, None)


def __vma_adjust(vma: VmAreaStruct, start: int, end: int, pgoff: int, insert: VmAreaStruct | None) -> None:
    """New bounds for an area; `insert` takes what it loses."""
    set_bounds(vma, start, end, pgoff)
    if insert is not None:
        vma_attach(insert)


@notrace
def set_bounds(vma: VmAreaStruct, start: int, end: int, pgoff: int) -> None:
    tree = vma.vm_mm.vmas
    if start != vma.vm_start:
        tree.remove(vma)
        vma.vm_start, vma.vm_end, vma.vm_pgoff = start, end, pgoff
        tree.insert(vma)
    else:
        shorter = end < vma.vm_end
        vma.vm_end = end
        if shorter:
            tree.note_gap_at(end)
    vmacache_invalidate(vma.vm_mm)


def __split_vma(mm: MmStruct, vma: VmAreaStruct, address: int, new_below: bool) -> VmAreaStruct:
    """Cuts an area in two at an address; answers the new half. Raises what ->split() raises."""
    if vma.vm_ops is not None and vma.vm_ops.split is not None:
        vma.vm_ops.split(vma, address)
    new = vm_area_dup(vma)
    vma_dup_policy(vma, new)
    if vma.anon_vma is not None:
        anon_vma_clone(new, vma)
    offset = (address - vma.vm_start) >> 12
    if new_below:
        new.vm_end = address
        __vma_adjust(vma, address, vma.vm_end, vma.vm_pgoff + offset, new)
    else:
        new.vm_start = address
        new.vm_pgoff = vma.vm_pgoff + offset
        __vma_adjust(vma, vma.vm_start, address, vma.vm_pgoff, new)
    return new


def split_vma(mm: MmStruct, vma: VmAreaStruct, address: int, new_below: bool) -> VmAreaStruct:
    """__split_vma() within the limit on the number of areas. Raises ENOMEM."""
    if len(mm.vmas) >= mm.kernel.sysctl.max_map_count:
        raise KernelError(ENOMEM)
    return __split_vma(mm, vma, address, new_below)


@notrace
def can_merge(left: VmAreaStruct, right_flags: int, right_file: File | None, right_pgoff: int,
              right_ops: VmOperations | None, right_private: object) -> bool:
    """Could what begins where `left` ends be a part of it? Anonymous pages are another question."""
    if (left.vm_flags != right_flags or left.vm_file is not right_file or left.vm_flags & _SPECIAL
            or left.vm_private_data is not right_private):
        return False
    if left.vm_ops is not None and left.vm_ops.close is not None:
        return False
    if left.vm_policy is not None:
        return False
    return left.vm_pgoff + vma_pages(left) == right_pgoff


@notrace
def is_mergeable_anon_vma(anon_vma1: AnonVma | None, anon_vma2: AnonVma | None, vma: VmAreaStruct | None) -> bool:
    """`vma` is the area that has anon_vma2. One cloned from a parent's stays alone: its chain would get longer."""
    if (anon_vma1 is None or anon_vma2 is None) and (vma is None or len(vma.anon_vma_chain) == 1):
        return True
    return anon_vma1 is anon_vma2


def vma_merge(mm: MmStruct, start: int, end: int, vm_flags: int, anon_vma: AnonVma | None, file: File | None,
              pgoff: int) -> VmAreaStruct | None:
    """Lets a neighbour take [start, end) over; None if none can.

    The range is either empty, or exactly covered by one area that is to get vm_flags (mprotect).
    """
    if vm_flags & _SPECIAL:
        return None
    tree = mm.vmas
    inside = tree.overlapping(start, end)
    own = inside[0] if inside else None
    if own is not None and own.vm_policy is not None:
        return None
    ops = own.vm_ops if own is not None else (file_vm_ops(mm, file, start, end) if file is not None else None)
    private = own.vm_private_data if own is not None else None
    previous = tree.before(start)
    following = tree.first_ending_after(end) if own is None else tree.after(own)
    merge_left = (previous is not None and previous.vm_end == start
                  and can_merge(previous, vm_flags, file, pgoff, ops, private)
                  and is_mergeable_anon_vma(anon_vma, previous.anon_vma, previous))
    merge_right = False
    if (following is not None and following.vm_start == end and following.vm_flags == vm_flags
            and following.vm_policy is None):
        probe = VmAreaStruct(mm, start, end, vm_flags, 0, pgoff, file, following.vm_ops if own is None else ops,
                             anon_vma, private)
        merge_right = (can_merge(probe, following.vm_flags, following.vm_file, following.vm_pgoff, following.vm_ops,
                                 following.vm_private_data)
                       and is_mergeable_anon_vma(anon_vma, following.anon_vma, following))
        if merge_left and merge_right:
            assert previous is not None
            merge_right = is_mergeable_anon_vma(previous.anon_vma, following.anon_vma, None)
    if not merge_left and not merge_right:
        return None
    if merge_left:
        assert previous is not None
        new_end = end
        if own is not None:
            take_over(previous, own)
        if merge_right:
            assert following is not None
            new_end = following.vm_end
            take_over(previous, following)
        vma_adjust(previous, previous.vm_start, new_end, previous.vm_pgoff)
        return previous
    assert following is not None
    if own is not None:
        take_over(following, own)
    vma_adjust(following, start, following.vm_end, pgoff)
    return following


@notrace
def file_vm_ops(mm: MmStruct, file: File, start: int, end: int) -> VmOperations | None:
    """The table a new area of this file would get: that of a neighbour which maps the same file."""
    for near in (mm.vmas.before(start), mm.vmas.first_ending_after(end)):
        if near is not None and near.vm_file is file:
            return near.vm_ops
    return None


@notrace
def take_over(importer: VmAreaStruct, exporter: VmAreaStruct) -> None:
    """A merged area has the pages of the one that goes (__vma_adjust)."""
    if importer.anon_vma is None and exporter.anon_vma is not None:
        importer.anon_vma = exporter.anon_vma
        anon_vma_clone(importer, exporter)
    vma_detach(exporter)


@notrace
def vma_detach(vma: VmAreaStruct) -> None:
    """Out of the tree without unmapping: another area has taken its range over."""
    vma.vm_mm.vmas.remove(vma)
    vmacache_invalidate(vma.vm_mm)
    unlink_anon_vmas(vma)
    if vma.vm_file is not None:
        vma.vm_file.f_mapping.i_mmap.pop(vma, None)
        vma.vm_mm.kernel.fput(vma.vm_file)
    vm_area_free(vma)


# ---- limits and figures -----------------------------------------------------------------------------------------
def vm_stat_account(mm: MmStruct, vm_flags: int, pages: int) -> None:
    """Adds pages (or takes them away) to the counters of /proc/PID/status."""
    mm.total_vm += pages
    if vm_flags & (VM_EXEC | VM_WRITE | VM_GROWSDOWN) == VM_EXEC:
        mm.exec_vm += pages
    elif vm_flags & VM_GROWSDOWN:
        mm.stack_vm += pages
    elif vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE:
        mm.data_vm += pages


def may_expand_vm(mm: MmStruct, vm_flags: int, pages: int) -> bool:
    """RLIMIT_AS and RLIMIT_DATA."""
    if mm.total_vm + pages > rlimit(RLIMIT_AS) >> 12:
        return False
    if vm_flags & (VM_WRITE | VM_SHARED | VM_GROWSDOWN) == VM_WRITE:
        return mm.data_vm + pages <= rlimit(RLIMIT_DATA) >> 12
    return True


# ---- where to put it --------------------------------------------------------------------------------------------
def get_unmapped_area(file: File | None, address: int, length: int, pgoff: int, flags: int) -> int:
    """Where a new mapping goes: the hint if it is free, else the highest gap below mmap_base.

    Raises ENOMEM, EINVAL (MAP_FIXED with an unaligned address).
    """
    if length > TASK_SIZE:
        raise KernelError(ENOMEM)
    if flags & MAP_FIXED:
        if address > TASK_SIZE - length:
            raise KernelError(ENOMEM)
        if address & 0xFFF:
            raise KernelError(EINVAL)
    if file is not None and file.f_op.get_unmapped_area is not None:
        address = file.f_op.get_unmapped_area(file, address, length, pgoff, flags)
    elif not flags & MAP_FIXED:
        mm = current().mm
        assert mm is not None
        if mm.mmap_legacy:
            address = arch_get_unmapped_area(file, address, length, pgoff, flags)
        else:
            address = arch_get_unmapped_area_topdown(file, address, length, pgoff, flags)
    lsm = current().kernel.lsm
    if lsm is not None:
        lsm.security_mmap_addr(address)
    return address


def arch_get_unmapped_area(file: File | None, address: int, length: int, pgoff: int, flags: int) -> int:
    """The old layout: the lowest gap from mmap_base on."""
    mm = current().mm
    assert mm is not None
    if address:
        address = page_align(address)
        if mmap_min_addr(mm) <= address <= TASK_SIZE - length:
            following = mm.vmas.first_ending_after(address)
            if following is None or address + length <= vm_start_gap(following):
                return address
    low, high = (0x4000_0000, 0x8000_0000) if flags & MAP_32BIT else (mm.mmap_base, TASK_SIZE)
    while low + length <= high:
        following = mm.vmas.first_ending_after(low)
        if following is None or low + length <= vm_start_gap(following):
            return low
        low = following.vm_end
    raise KernelError(ENOMEM)


def arch_get_unmapped_area_topdown(file: File | None, address: int, length: int, pgoff: int, flags: int) -> int:
    mm = current().mm
    assert mm is not None
    tree = mm.vmas
    if address:
        address = page_align(address)
        if mmap_min_addr(mm) <= address <= TASK_SIZE - length:
            following = tree.first_ending_after(address)
            if following is None or address + length <= vm_start_gap(following):
                return address
    high = 0x4000_0000 + 0x4000_0000 if flags & MAP_32BIT else mm.mmap_base
    found = vm_unmapped_area(mm, length, mmap_min_addr(mm), high)
    if found is None and not flags & MAP_32BIT:
        found = vm_unmapped_area(mm, length, mm.mmap_base, TASK_SIZE)
    if found is None:
        raise KernelError(ENOMEM)
    return found


def vm_unmapped_area(mm: MmStruct, length: int, low: int, high: int) -> int | None:
    """The highest gap of `length` bytes in [low, high)."""
    tree = mm.vmas
    end = high
    hole = 0
    following = None
    remember = high == mm.mmap_base
    if remember and 0 < tree.free_area_cache < high and length > tree.cached_hole_size:
        end = tree.free_area_cache       # all above is too small
        hole = tree.cached_hole_size
        following = tree.first_ending_after(end)
    vma = tree.before(end)
    if following is not None:
        end = min(end, vm_start_gap(following))
    while True:
        bottom = vma.vm_end if vma is not None else low
        if bottom < low:
            bottom = low
        size = end - bottom
        if size >= length:
            if remember:
                tree.free_area_cache, tree.cached_hole_size = end, hole
            return end - length
        if size > hole:
            hole = size
        if vma is None or vma.vm_start <= low:
            return None
        end = vm_start_gap(vma)          # of this one only, as in Linux: a guard gap does not reach past an area
        vma = tree.before(vma.vm_start)


@notrace
def vm_start_gap(vma: VmAreaStruct) -> int:
    """Where an area begins for its neighbours: a stack keeps its guard gap free."""
    return max(vma.vm_start - STACK_GUARD_GAP, 0) if vma.vm_flags & VM_GROWSDOWN else vma.vm_start


@notrace
def mmap_min_addr(mm: MmStruct) -> int:
    return mm.kernel.sysctl.mmap_min_addr


# ---- mmap -------------------------------------------------------------------------------------------------------
def do_mmap(file: File | None, address: int, length: int, prot: int, flags: int, pgoff: int) -> int:
    """mmap(2) with mmap_sem held for writing; the address. pgoff in pages."""
    task = current()
    mm = task.mm
    assert mm is not None
    if not length:
        raise KernelError(EINVAL)
    if prot & PROT_READ and task.personality & 0x0400000:                    # READ_IMPLIES_EXEC
        prot |= PROT_EXEC
    if flags & MAP_FIXED_NOREPLACE:
        flags |= MAP_FIXED
    if not flags & MAP_FIXED and address and address & ~0xFFF < mmap_min_addr(mm):
        address = mmap_min_addr(mm)
    length = page_align(length)
    if not length or length > TASK_SIZE:
        raise KernelError(ENOMEM)
    if pgoff + (length >> 12) > 1 << 52:
        raise KernelError(EOVERFLOW)
    if len(mm.vmas) > mm.kernel.sysctl.max_map_count:
        raise KernelError(ENOMEM)
    address = get_unmapped_area(file, address, length, pgoff, flags)
    if flags & MAP_FIXED and address < mmap_min_addr(mm) and not capable(CAP_SYS_RAWIO):
        raise KernelError(EPERM)
    if flags & MAP_FIXED_NOREPLACE and mm.vmas.overlapping(address, address + length):
        raise KernelError(EEXIST)
    vm_flags = (prot & 7) | mm.def_flags | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC
    if flags & MAP_GROWSDOWN:
        vm_flags |= VM_GROWSDOWN
    if flags & MAP_LOCKED:
        if not capable(CAP_IPC_LOCK) and not rlimit(RLIMIT_MEMLOCK):
            raise KernelError(EPERM)
        vm_flags |= VM_LOCKED
    if vm_flags & VM_LOCKED:
        limit = rlimit(RLIMIT_MEMLOCK)
        if mm.locked_vm + (length >> 12) > limit >> 12 and not capable(CAP_IPC_LOCK):
            raise KernelError(EAGAIN)
    kind = flags & MAP_TYPE
    if file is not None:
        mode = file.f_mode
        if kind == MAP_SHARED_VALIDATE and flags & ~_LEGACY_MAP_MASK:
            raise KernelError(EOPNOTSUPP)
        if kind in (MAP_SHARED, MAP_SHARED_VALIDATE):
            if prot & PROT_WRITE and not mode & 2:
                raise KernelError(EACCES)
            vm_flags |= VM_SHARED | VM_MAYSHARE
            if not mode & 2:
                vm_flags &= ~(VM_MAYWRITE | VM_SHARED)
        elif kind != MAP_PRIVATE:
            raise KernelError(EINVAL)
        if not mode & 1:
            raise KernelError(EACCES)
        if file.f_path.mnt is not None and file.f_path.mnt.mnt_flags & 4:     # MNT_NOEXEC
            if vm_flags & VM_EXEC:
                raise KernelError(EPERM)
            vm_flags &= ~VM_MAYEXEC
        if vm_flags & VM_GROWSDOWN:
            raise KernelError(EINVAL)
        if flags & MAP_DENYWRITE and file.f_inode.i_writecount > 0:
            raise KernelError(ETXTBSY)
    elif kind == MAP_SHARED:
        if vm_flags & VM_GROWSDOWN:
            raise KernelError(EINVAL)
        pgoff = 0
        vm_flags |= VM_SHARED | VM_MAYSHARE
    elif kind == MAP_PRIVATE:
        pgoff = address >> 12
    else:
        raise KernelError(EINVAL)
    if flags & MAP_NORESERVE and (
            mm.kernel.sysctl.overcommit_memory != 2 or (file is not None and is_file_hugepages(file))):
        vm_flags |= VM_NORESERVE
    return mmap_region(file, address, length, vm_flags, pgoff)


def mmap_region(file: File | None, address: int, length: int, vm_flags: int, pgoff: int) -> int:
    """Makes the area, over whatever was there. Raises ENOMEM and what file->mmap raises."""
    mm = current().mm
    assert mm is not None
    kernel = mm.kernel
    pages = length >> 12
    end = address + length
    old = mm.vmas.overlapping(address, end)
    if not may_expand_vm(mm, vm_flags, pages):
        covered = sum(min(v.vm_end, end) - max(v.vm_start, address) for v in old) >> 12
        if not may_expand_vm(mm, vm_flags, pages - covered):
            raise KernelError(ENOMEM)
    if old:
        do_munmap(mm, address, length)
    if accountable_mapping(file, vm_flags):
        security_vm_enough_memory_mm(mm, pages)
        vm_flags |= VM_ACCOUNT
    if file is None or not vm_flags & VM_SHARED:
        merged = vma_merge(mm, address, end, vm_flags, None, file, pgoff)
        if merged is not None:
            vm_stat_account(mm, vm_flags, pages)
            if vm_flags & VM_LOCKED:
                mm.locked_vm += pages
            if kernel.uprobes is not None and file is not None:
                kernel.uprobes.uprobe_mmap(merged)
            if kernel.perf is not None:
                kernel.perf.event_mmap(merged)
            return address
    vma = vm_area_alloc(mm, address, end, vm_flags)
    vma.vm_page_prot = vm_get_page_prot(vm_flags)
    vma.vm_pgoff = pgoff
    try:
        # The area owns a reference of its file. /dev/zero's ->mmap puts another file in its place.
        if file is not None:
            file.f_count += 1
            vma.vm_file = file
            file.f_op.mmap(file, vma)
        elif vm_flags & VM_SHARED:
            kernel.shmem_zero_setup(vma)
    except KernelError:
        if vma.vm_file is not None:
            kernel.fput(vma.vm_file)
        if vm_flags & VM_ACCOUNT:
            kernel.mem.vm_committed -= pages
        vm_area_free(vma)
        raise
    if vma.vm_flags & VM_HUGETLB:                        # always in memory: not counted as locked
        vma.vm_flags &= ~(VM_LOCKED | VM_LOCKONFAULT)
        vm_flags &= ~(VM_LOCKED | VM_LOCKONFAULT)
    vma_link(mm, vma)
    vm_stat_account(mm, vm_flags, pages)
    if vm_flags & VM_LOCKED:
        mm.locked_vm += pages
    if kernel.mmap_listeners and file is not None and vm_flags & VM_EXEC:
        for listener in tuple(kernel.mmap_listeners):    # perf_event_mmap()
            listener(vma)
    if kernel.uprobes is not None and file is not None:
        kernel.uprobes.uprobe_mmap(vma)
    if kernel.perf is not None:
        kernel.perf.event_mmap(vma)
    vma_set_page_prot(vma)
    return address


@notrace
def hugetlb_hooks(mm: MmStruct) -> HugetlbState:
    """What asks for huge pages of an address space that has some."""
    assert mm.kernel.hugetlb is not None
    return mm.kernel.hugetlb


@notrace
def is_file_hugepages(file: File) -> bool:
    """A file of hugetlbfs."""
    hugetlb = current().kernel.hugetlb
    return hugetlb is not None and hugetlb.is_file_hugepages(file)


@notrace
def accountable_mapping(file: File | None, vm_flags: int) -> bool:
    """Private writable memory counts against the commit limit. Huge pages are reserved in another way."""
    if file is not None and file.f_op.get_unmapped_area is not None and is_file_hugepages(file):
        return False
    return vm_flags & (VM_NORESERVE | VM_SHARED | VM_WRITE) == VM_WRITE


@notrace
def mm_populate(mm: MmStruct, address: int, length: int) -> None:
    """MAP_POPULATE, mlock: faults a range in; errors do not count."""
    end = address + length
    down_read(mm.mmap_sem)
    try:
        for vma in mm.vmas.overlapping(address, end):
            if not vma.vm_flags & (VM_READ | VM_WRITE | VM_EXEC):
                continue
            write = vma.vm_flags & (VM_WRITE | VM_SHARED) == VM_WRITE
            step = HUGE_PAGE if vma.vm_flags & VM_HUGETLB else 4096
            for page in range(max(vma.vm_start, address), min(vma.vm_end, end), step):
                handle_mm_fault(vma, page, 1 if write else 0)
    finally:
        up_read(mm.mmap_sem)


def vm_mmap_pgoff(file: File | None, address: int, length: int, prot: int, flags: int, pgoff: int) -> int:
    """do_mmap() with the lock, then MAP_POPULATE."""
    mm = current().mm
    assert mm is not None
    lsm = mm.kernel.lsm
    if lsm is not None:
        lsm.security_mmap_file(file, prot, flags)
    down_write_killable(mm.mmap_sem)
    try:
        address = do_mmap(file, address, length, prot, flags, pgoff)
    finally:
        up_write(mm.mmap_sem)
    if flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE or flags & MAP_LOCKED or mm.def_flags & VM_LOCKED:
        mm_populate(mm, address, page_align(length))
    return address


def vm_mmap(file: File | None, address: int, length: int, prot: int, flags: int, offset: int) -> int:
    """vm_mmap_pgoff() with an offset in bytes. Raises EINVAL if it is not page aligned, or wraps around."""
    if offset & 0xFFF or offset + page_align(length) >= 1 << 64:
        raise KernelError(EINVAL)
    return vm_mmap_pgoff(file, address, length, prot, flags, offset >> 12)


def ksys_mmap_pgoff(address: int, length: int, prot: int, flags: int, fd: int, pgoff: int) -> int:
    kernel = current().kernel
    file = None
    if not flags & MAP_ANONYMOUS:
        file = kernel.fget(fd)
        if file is None:
            raise KernelError(EBADF)
        if file.f_op.get_unmapped_area is not None and is_file_hugepages(file):
            length = length + HUGE_PAGE - 1 & -HUGE_PAGE
        elif flags & MAP_HUGETLB:
            kernel.fput(file)
            raise KernelError(EINVAL)
    elif flags & MAP_HUGETLB:
        length = length + HUGE_PAGE - 1 & -HUGE_PAGE
        file = kernel.hugetlb_file_setup(b"anon_hugepage", length, VM_NORESERVE, HUGETLB_ANONHUGE_INODE,
                                         flags >> MAP_HUGE_SHIFT & MAP_HUGE_MASK)
    flags &= ~(MAP_EXECUTABLE | MAP_DENYWRITE)
    try:
        return vm_mmap_pgoff(file, address, length, prot, flags, pgoff)
    finally:
        if file is not None:
            kernel.fput(file)


@syscall
def sys_mmap(addr: ulong, len: size_t, prot: ulong, flags: ulong, fd: int, off: ulong) -> int:
    """mmap(2)"""
    if off & 0xFFF:
        raise KernelError(EINVAL)
    return ksys_mmap_pgoff(addr, len, prot, flags, fd, off >> 12)


# ---- munmap -----------------------------------------------------------------------------------------------------
def do_munmap(mm: MmStruct, start: int, length: int) -> None:
    """Unmaps a range. mmap_sem held for writing, before and after. Raises EINVAL, ENOMEM."""
    __do_munmap(mm, start, length, False)


def __do_munmap(mm: MmStruct, start: int, length: int, downgrade: bool) -> bool:
    """Unmaps a range, splitting areas at its ends. mmap_sem held for writing. Raises EINVAL, ENOMEM.

    downgrade: pages are given back under the lock for reading; the answer says whether that is how it is held now.
    """
    if start & 0xFFF or start > TASK_SIZE or length > TASK_SIZE - start:
        raise KernelError(EINVAL)
    length = page_align(length)
    if not length:
        raise KernelError(EINVAL)
    end = start + length
    areas = mm.vmas.overlapping(start, end)
    if not areas:
        return False
    first, last = areas[0], areas[-1]
    if start > first.vm_start:
        if end < last.vm_end and len(mm.vmas) >= mm.kernel.sysctl.max_map_count:
            raise KernelError(ENOMEM)
        __split_vma(mm, first, start, False)
        areas = mm.vmas.overlapping(start, end)
        last = areas[-1]
    if end < last.vm_end:
        __split_vma(mm, last, end, True)
        areas = mm.vmas.overlapping(start, end)
    if mm.locked_vm:
        munlock_areas(areas)
    for vma in areas:                                    # detach_vmas_to_be_unmapped()
        mm.vmas.remove(vma)
    vmacache_invalidate(mm)
    if downgrade:
        downgrade_write(mm.mmap_sem)
    unmap_region(mm, areas, start, end)
    for vma in areas:                                    # remove_vma_list()
        vm_stat_account(mm, vma.vm_flags, -vma_pages(vma))
        remove_vma(vma)
    return downgrade


def unmap_region(mm: MmStruct, areas: list[VmAreaStruct], start: int, end: int) -> None:
    """Takes the pages of areas that are out of the tree already."""
    tlb = tlb_gather_mmu(mm, start, end)
    unmap_vmas(tlb, areas, start, end)
    free_pgtables(tlb, areas)
    tlb_finish_mmu(tlb)


def __vm_munmap(start: int, length: int, downgrade: bool) -> int:
    mm = current().mm
    assert mm is not None
    down_write_killable(mm.mmap_sem)
    downgraded = False
    try:
        downgraded = __do_munmap(mm, start, length, downgrade)
    finally:
        (up_read if downgraded else up_write)(mm.mmap_sem)
    return 0


def vm_munmap(start: int, length: int) -> int:
    """munmap(2) for the kernel's own use."""
    return __vm_munmap(start, length, False)


@syscall
def sys_munmap(addr: ulong, len: size_t) -> int:
    """munmap(2)"""
    return __vm_munmap(addr, len, True)


# ---- brk --------------------------------------------------------------------------------------------------------
@syscall
def sys_brk(brk: ulong) -> int:
    """brk(2): the system call answers the new break, or the old one on failure."""
    mm = current().mm
    assert mm is not None
    down_write_killable(mm.mmap_sem)
    try:
        if brk < mm.start_brk:
            return mm.brk
        limit = rlimit(RLIMIT_DATA)
        if limit != RLIM_INFINITY and brk - mm.start_brk + mm.end_data - mm.start_data > limit:
            return mm.brk
        new, old = page_align(brk), page_align(mm.brk)
        if new < old:
            do_munmap(mm, new, old - new)
        elif new > old:
            following = mm.vmas.first_ending_after(old)
            if following is not None and new + 4096 > vm_start_gap(following):
                return mm.brk
            try:
                do_brk_flags(old, new - old, 0)
            except KernelError:
                return mm.brk
        mm.brk = brk
    finally:
        up_write(mm.mmap_sem)
    if mm.def_flags & VM_LOCKED and new > old:
        mm_populate(mm, old, new - old)
    return brk


def do_brk_flags(address: int, length: int, vm_flags: int) -> None:
    """Anonymous private memory at a fixed place. mmap_sem held for writing. Raises ENOMEM."""
    mm = current().mm
    assert mm is not None
    vm_flags |= VM_READ | VM_WRITE | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | VM_ACCOUNT | mm.def_flags
    if mm.vmas.overlapping(address, address + length):
        do_munmap(mm, address, length)
    pages = length >> 12
    if not may_expand_vm(mm, vm_flags, pages) or len(mm.vmas) > mm.kernel.sysctl.max_map_count:
        raise KernelError(ENOMEM)
    security_vm_enough_memory_mm(mm, pages)
    vma = vma_merge(mm, address, address + length, vm_flags, None, None, address >> 12)
    if vma is None:
        vma = vm_area_alloc(mm, address, address + length, vm_flags)
        vma.vm_page_prot = vm_get_page_prot(vm_flags)
        vma.vm_pgoff = address >> 12
        vma_link(mm, vma)
    if mm.kernel.perf is not None:
        mm.kernel.perf.event_mmap(vma)
    vm_stat_account(mm, vm_flags, pages)
    if vm_flags & VM_LOCKED:
        mm.locked_vm += pages


def vm_brk_flags(address: int, length: int, vm_flags: int) -> None:
    """do_brk_flags() with the lock; the length is rounded up. Raises ENOMEM, EINVAL."""
    mm = current().mm
    assert mm is not None
    length = page_align(length)
    if not length:
        return
    if vm_flags & ~VM_EXEC:
        raise KernelError(EINVAL)
    down_write_killable(mm.mmap_sem)
    try:
        if address + length > TASK_SIZE:
            raise KernelError(ENOMEM)
        do_brk_flags(address, length, vm_flags)
    finally:
        up_write(mm.mmap_sem)


# ---- stack ------------------------------------------------------------------------------------------------------
def expand_stack(vma: VmAreaStruct, address: int) -> None:
    """Grows a VM_GROWSDOWN area down to an address. Raises ENOMEM, EPERM (mmap_min_addr)."""
    expand_downwards(vma, address)


def expand_downwards(vma: VmAreaStruct, address: int) -> None:
    mm = vma.vm_mm
    address &= ~0xFFF
    if address < mmap_min_addr(mm):
        raise KernelError(EPERM)
    if mm.kernel.lsm is not None:
        mm.kernel.lsm.security_mmap_addr(address)
    below = mm.vmas.before(vma.vm_start)
    if (below is not None and not below.vm_flags & VM_GROWSDOWN and below.vm_flags & (VM_READ | VM_WRITE | VM_EXEC)
            and address - below.vm_end < STACK_GUARD_GAP):
        raise KernelError(ENOMEM)
    if below is not None and address < below.vm_end:
        raise KernelError(ENOMEM)
    if address >= vma.vm_start:
        return
    size, grow = vma.vm_end - address, (vma.vm_start - address) >> 12
    acct_stack_growth(vma, size, grow)
    set_bounds(vma, address, vma.vm_end, vma.vm_pgoff - grow)
    vm_stat_account(mm, vma.vm_flags, grow)


def acct_stack_growth(vma: VmAreaStruct, size: int, grow: int) -> None:
    """The limits on a growing stack. Raises ENOMEM."""
    mm = vma.vm_mm
    if not may_expand_vm(mm, vma.vm_flags, grow) or size > rlimit(RLIMIT_STACK):
        raise KernelError(ENOMEM)
    if vma.vm_flags & VM_LOCKED and mm.locked_vm + grow > rlimit(RLIMIT_MEMLOCK) >> 12 and not capable(CAP_IPC_LOCK):
        raise KernelError(ENOMEM)
    security_vm_enough_memory_mm(mm, grow)


def find_extend_vma(mm: MmStruct, address: int) -> VmAreaStruct | None:
    """The area of an address; a stack above it is grown."""
    address &= ~0xFFF
    vma = find_vma(mm, address)
    if vma is None or vma.vm_start <= address:
        return vma
    if not vma.vm_flags & VM_GROWSDOWN:
        return None
    try:
        expand_stack(vma, address)
    except KernelError:
        return None
    return vma


def arch_pick_mmap_layout(mm: MmStruct, task: TaskStruct, stack_limit: int) -> None:
    """mmap_base: below the stack's limit, at least 128 MB and at most 5/6 of the space, shifted at random.

    With an unlimited stack, or ADDR_COMPAT_LAYOUT, mappings grow upwards from a third of the space.
    """
    randomize = task.flags & PF_RANDOMIZE
    mm.mmap_rnd = arch_mmap_rnd(mm.kernel) if randomize else 0
    mm.mmap_legacy = stack_limit == RLIM_INFINITY or task.personality & ADDR_COMPAT_LAYOUT != 0
    if mm.mmap_legacy:
        mm.mmap_base = page_align(TASK_SIZE // 3) + mm.mmap_rnd
        return
    gap = stack_limit + STACK_GUARD_GAP + (STACK_RND_SIZE if randomize else 0)
    gap = min(max(gap, 128 << 20), TASK_SIZE // 6 * 5)
    mm.mmap_base = page_align(TASK_SIZE - gap - mm.mmap_rnd)


def arch_mmap_rnd(kernel: Kernel) -> int:
    """A shift of 28 random bits of pages (vm.mmap_rnd_bits).

    Differs from Linux: a kernel draws two shifts and hands them out in turn. The CPU engine translates code for
    one virtual address: with a new shift every time, each run of a program would pay 15 ms for its libraries again.
    """
    slides = kernel.mmap_slides
    if not slides:
        for _ in range(2):
            slides.append((int.from_bytes(kernel.machine.random_bytes(8), "little") & (1 << 28) - 1) << 12)
    slides.reverse()
    return slides[0]


def _install_special_mapping(mm: MmStruct, address: int, length: int, vm_flags: int, ops: VmOperations,
                             private: object) -> VmAreaStruct:
    """An area of the kernel's own making (vDSO, vvar). Raises ENOMEM."""
    return __install_special_mapping(mm, address, length, vm_flags, ops, private)


def __install_special_mapping(mm: MmStruct, address: int, length: int, vm_flags: int, ops: VmOperations,
                              private: object) -> VmAreaStruct:
    vma = vm_area_alloc(mm, address, address + length, vm_flags | mm.def_flags | VM_DONTEXPAND)
    vma.vm_ops = ops
    vma.vm_private_data = private
    try:
        insert_vm_struct(mm, vma)
    except KernelError:
        vm_area_free(vma)
        raise
    if mm.kernel.perf is not None:
        mm.kernel.perf.event_mmap(vma)
    return vma


@notrace
def check_mm(mm: MmStruct) -> list[str]:
    """Invariants for tests."""
    wrong, previous = [], 0
    total = 0
    for vma in mm.vmas:
        if vma.vm_start >= vma.vm_end or (vma.vm_start | vma.vm_end) & 0xFFF:
            wrong.append(f"area {vma.vm_start:#x}-{vma.vm_end:#x} is empty or not aligned")
        if vma.vm_start < previous:
            wrong.append(f"area at {vma.vm_start:#x} overlaps the one before it")
        previous = vma.vm_end
        total += vma_pages(vma)
        chain = vma.anon_vma_chain
        if (vma.anon_vma is not None and vma.anon_vma not in chain) or any(vma not in a.rb_root for a in chain):
            wrong.append(f"area at {vma.vm_start:#x} is not in its anon_vmas")
        if vma.vm_file is not None and vma not in vma.vm_file.f_mapping.i_mmap:
            wrong.append(f"area at {vma.vm_start:#x} is not in its file's i_mmap")
    if total != mm.total_vm:
        wrong.append(f"total_vm {mm.total_vm}, the areas have {total} pages")
    return wrong
