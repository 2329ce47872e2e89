"""set_mempolicy(2), get_mempolicy(2), mbind(2), migrate_pages(2).

Linux: mm/mempolicy.c (5.3), the half with the system calls. Same: flags, errors, splitting of areas, which pages move.
Gaps: see mm/mempolicy.py and mm/migrate.py; MPOL_MF_LAZY.
"""
from __future__ import annotations

from glasskernel.arch.x86.pgtable import PTE_MASK, PTE_PRESENT, PTE_PROTNONE, PTE_SPECIAL
from glasskernel.arch.x86.uaccess import copy_to_user, put_user_u32
from glasskernel.kernel.capability import CAP_SYS_NICE, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.rwsem import down_read, down_write, up_read, up_write
from glasskernel.kernel.pid import find_task_by_vpid
from glasskernel.kernel.ptrace_access import PTRACE_MODE_READ_REALCREDS, ptrace_may_access
from glasskernel.kernel.sched.core import cond_resched
from glasskernel.lib.errno import EFAULT, EINVAL, EIO, EPERM, ESRCH, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, u32, ulong
from glasskernel.mm.memory import follow_page, get_user_page, pte_ranges
from glasskernel.mm.mempolicy import (
    MAX_NUMNODES,
    MPOL_DEFAULT,
    MPOL_F_LOCAL,
    MPOL_INTERLEAVE,
    MPOL_MODE_FLAGS,
    Mempolicy,
    cpuset_mems_allowed,
    get_nodes,
    mpol_new,
    next_node_in,
    node_remap,
    sanitize_mpol_flags,
    vma_migratable,
    vma_policy_at,
)
from glasskernel.mm.migrate import (
    MIGRATE_SYNC,
    MR_MEMPOLICY_MBIND,
    MR_SYSCALL,
    alloc_new_node_page,
    migrate_pages,
    putback_movable_pages,
    queue_page,
)
from glasskernel.mm.mmap import find_vma, mmget, mmput, split_vma
from glasskernel.mm.page_alloc import (
    __GFP_RETRY_MAYFAIL,
    GFP_HIGHUSER_MOVABLE,
    alloc_page,
    alloc_pages_vma,
    page_to_nid,
)
from glasskernel.mm.types import TASK_SIZE, VM_HUGETLB, MmStruct, VmAreaStruct

MPOL_MF_STRICT, MPOL_MF_MOVE, MPOL_MF_MOVE_ALL = 1, 2, 4
MPOL_MF_DISCONTIG_OK = 1 << 4                            # internal: holes are no error
MPOL_F_NODE, MPOL_F_ADDR, MPOL_F_MEMS_ALLOWED = 1, 2, 4


@syscall
def sys_set_mempolicy(mode: int, nmask: UserPtr, maxnode: ulong) -> int:
    """set_mempolicy(2)"""
    return kernel_set_mempolicy(mode, nmask, maxnode)


def kernel_set_mempolicy(mode: int, nmask: int, maxnode: int) -> int:
    mode, flags = sanitize_mpol_flags(mode)
    return do_set_mempolicy(mode, flags, get_nodes(nmask, maxnode))


def do_set_mempolicy(mode: int, flags: int, nodes: int) -> int:
    task = current()
    task.mempolicy = mpol_new(mode, flags, nodes)
    task.il_prev = MAX_NUMNODES - 1                      # interleaving begins with the first one
    return 0


@syscall
def sys_get_mempolicy(policy: UserPtr, nmask: UserPtr, maxnode: ulong, addr: ulong, flags: ulong) -> int:
    """get_mempolicy(2)"""
    return kernel_get_mempolicy(policy, nmask, maxnode, addr, flags)


def kernel_get_mempolicy(policy: int, nmask: int, maxnode: int, address: int, flags: int) -> int:
    if nmask and maxnode < current().kernel.mem.nodes_online.bit_length():
        raise KernelError(EINVAL)
    value, nodes = do_get_mempolicy(address, flags)
    if policy:
        put_user_u32(policy, value)
    if nmask:
        copy_nodes_to_user(nmask, maxnode, nodes)
    return 0


@may_sleep
def do_get_mempolicy(address: int, flags: int) -> tuple[int, int]:
    """(mode or node, mask of nodes). Raises EINVAL, EFAULT."""
    if flags & ~(MPOL_F_NODE | MPOL_F_ADDR | MPOL_F_MEMS_ALLOWED):
        raise KernelError(EINVAL)
    task = current()
    if flags & MPOL_F_MEMS_ALLOWED:
        if flags & (MPOL_F_NODE | MPOL_F_ADDR):
            raise KernelError(EINVAL)
        return 0, cpuset_mems_allowed(task)
    policy: Mempolicy | None = task.mempolicy
    if flags & MPOL_F_ADDR:
        mm = task.mm
        assert mm is not None
        down_read(mm.mmap_sem)
        try:
            vma = find_vma(mm, address)
            if vma is None or vma.vm_start > address:
                raise KernelError(EFAULT)
            policy = vma_policy_at(vma, address) or policy
            if flags & MPOL_F_NODE:
                return lookup_node(mm, address), 0
        finally:
            up_read(mm.mmap_sem)
    elif address:
        raise KernelError(EINVAL)
    elif flags & MPOL_F_NODE:
        if policy is None or policy.mode != MPOL_INTERLEAVE:
            raise KernelError(EINVAL)
        return next_node_in(task.il_prev, policy.nodes), 0
    if policy is None:
        return MPOL_DEFAULT, 0
    if policy.flags & MPOL_MODE_FLAGS:
        return policy.mode | policy.flags & MPOL_MODE_FLAGS, policy.user_nodes
    return policy.mode, 0 if policy.flags & MPOL_F_LOCAL else policy.nodes


@may_sleep
def lookup_node(mm: MmStruct, address: int) -> int:
    """The node of the page at an address, which is faulted in. Raises EFAULT."""
    pfn = follow_page(mm, address)
    if pfn is None:
        pfn = get_user_page(mm, address, False)
    return page_to_nid(mm.kernel.mem, pfn)


def copy_nodes_to_user(address: int, maxnode: int, nodes: int) -> None:
    """A mask for the user, with zeros up to the end he names."""
    nr_bytes = (maxnode - 1 + 63) // 64 * 8
    if nr_bytes > 4096:
        raise KernelError(EINVAL)
    copy_to_user(address, nodes.to_bytes(max(nr_bytes, 8), "little")[:nr_bytes])


@syscall
def sys_mbind(start: ulong, len: ulong, mode: ulong, nmask: UserPtr, maxnode: ulong, flags: u32) -> int:
    """mbind(2)"""
    return kernel_mbind(start, len, mode, nmask, maxnode, flags)


def kernel_mbind(start: int, length: int, mode: int, nmask: int, maxnode: int, flags: int) -> int:
    mode, mode_flags = sanitize_mpol_flags(mode)
    return do_mbind(start, length, mode, mode_flags, get_nodes(nmask, maxnode), flags)


@may_sleep
def do_mbind(start: int, length: int, mode: int, mode_flags: int, nodes: int, flags: int) -> int:
    """Raises EINVAL, EFAULT (a hole), EPERM (MPOL_MF_MOVE_ALL), EIO (MPOL_MF_STRICT: a page is elsewhere), ENOMEM."""
    if flags & ~(MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
        raise KernelError(EINVAL)
    if flags & MPOL_MF_MOVE_ALL and not capable(CAP_SYS_NICE):
        raise KernelError(EPERM)
    if start & 0xFFF:
        raise KernelError(EINVAL)
    if mode == MPOL_DEFAULT:
        flags &= ~MPOL_MF_STRICT
    end = start + (length + 0xFFF & ~0xFFF)
    if end >> 64 or end < start:
        raise KernelError(EINVAL)
    if start == end:
        return 0
    policy = mpol_new(mode, mode_flags, nodes)
    if policy is None:
        flags |= MPOL_MF_DISCONTIG_OK
    mm = current().mm
    assert mm is not None
    kernel = mm.kernel
    pages: list[int] = []
    down_write(mm.mmap_sem)
    try:
        wanted = cpuset_mems_allowed(current()) if policy is None or policy.flags & MPOL_F_LOCAL else policy.nodes
        nr_failed = queue_pages_range(mm, start, end, ~wanted, flags, pages)
        mbind_range(mm, start, end, policy)
        if pages:
            nr_failed += migrate_pages(kernel, pages, lambda pfn: new_page(mm, pfn, start), MIGRATE_SYNC,
                                       MR_MEMPOLICY_MBIND)
        if nr_failed and flags & MPOL_MF_STRICT:
            raise KernelError(EIO)
    finally:
        putback_movable_pages(kernel, pages)
        up_write(mm.mmap_sem)
    return 0


@may_sleep
def new_page(mm: MmStruct, pfn: int, start: int) -> int:
    """A frame for a page that moves to where its area's policy wants it; it is mapped behind `start`. Raises ENOMEM."""
    index = mm.kernel.mem.index[pfn]
    for vma in mm.vmas.overlapping(start, TASK_SIZE):
        address = vma.vm_start + (index - vma.vm_pgoff << 12)
        if vma.vm_start <= address < vma.vm_end and follow_page(mm, address) == pfn:
            return alloc_pages_vma(mm.kernel, GFP_HIGHUSER_MOVABLE | __GFP_RETRY_MAYFAIL, 0, vma, address)
    return alloc_page(mm.kernel, GFP_HIGHUSER_MOVABLE | __GFP_RETRY_MAYFAIL)


@may_sleep
def queue_pages_range(mm: MmStruct, start: int, end: int, nodes: int, flags: int, pages: list[int]) -> int:
    """Isolates the pages of a range that lie in the nodes of a mask. Answers how many it must leave there.

    Raises EFAULT for a hole, unless flags have MPOL_MF_DISCONTIG_OK; EIO: with MPOL_MF_STRICT alone, for such a page.
    """
    at = start
    nr_failed = 0
    for vma in mm.vmas.overlapping(start, end):
        if vma.vm_start > at and not flags & MPOL_MF_DISCONTIG_OK:
            raise KernelError(EFAULT)
        at = vma.vm_end
        if flags & (MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL) and not vma.vm_flags & VM_HUGETLB:
            nr_failed += queue_pages_pte_range(vma, max(start, vma.vm_start), min(end, vma.vm_end), nodes, flags, pages)
        cond_resched()
    if at < end and not flags & MPOL_MF_DISCONTIG_OK:
        raise KernelError(EFAULT)
    return nr_failed


def queue_pages_pte_range(vma: VmAreaStruct, start: int, end: int, nodes: int, flags: int, pages: list[int]) -> int:
    """The same for a part of an area."""
    mm = vma.vm_mm
    mem = mm.kernel.mem
    nr_failed = 0
    for _address, slot, count in pte_ranges(mm, start, end):
        for entry in mem.ram64[slot : slot + count].tolist():
            if not entry & (PTE_PRESENT | PTE_PROTNONE) or entry & PTE_SPECIAL:
                continue                                 # the zero page, a device's
            pfn = (entry & PTE_MASK) >> 12
            if not nodes >> page_to_nid(mem, pfn) & 1:
                continue
            if not flags & (MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
                raise KernelError(EIO)
            nr_failed += not vma_migratable(vma) or not migrate_page_add(mm, pfn, flags, pages)
    return nr_failed


def migrate_page_add(mm: MmStruct, pfn: int, flags: int, pages: list[int]) -> bool:
    """Isolates a page, unless others use it and it shall stay for that. False: it stays where it is."""
    if mm.kernel.mem.mapcount[pfn] != 1 and not flags & MPOL_MF_MOVE_ALL:
        return True                                      # shared: left alone, which is no failure
    try:
        queue_page(mm.kernel, pfn, pages)
    except KernelError:
        return False
    return True


def mbind_range(mm: MmStruct, start: int, end: int, policy: Mempolicy | None) -> None:
    """Gives every area in a range the policy, splitting those that reach further. Raises EFAULT, ENOMEM."""
    if (first := find_vma(mm, start)) is None or first.vm_start > start:
        raise KernelError(EFAULT)
    for vma in mm.vmas.overlapping(start, end):
        if vma.vm_policy is policy:
            continue
        if vma.vm_start < start:
            vma = split_vma(mm, vma, start, False)
        if vma.vm_end > end:
            split_vma(mm, vma, end, False)
        vma_replace_policy(vma, policy)


def vma_replace_policy(vma: VmAreaStruct, policy: Mempolicy | None) -> None:
    """The area's, and of shared memory the object's."""
    if vma.vm_ops is not None and vma.vm_ops.set_policy is not None:
        vma.vm_ops.set_policy(vma, policy)
    vma.vm_policy = policy


# ---- migrate_pages(2) -------------------------------------------------------------------------------------------
@syscall
def sys_migrate_pages(pid: int, maxnode: ulong, old_nodes: UserPtr, new_nodes: UserPtr) -> int:
    """migrate_pages(2)"""
    return kernel_migrate_pages(pid, maxnode, old_nodes, new_nodes)


def kernel_migrate_pages(pid: int, maxnode: int, old_nodes: int, new_nodes: int) -> int:
    """Raises EINVAL, EFAULT, ESRCH, EPERM, ENOMEM."""
    old = get_nodes(old_nodes, maxnode)
    new = get_nodes(new_nodes, maxnode)
    task = find_task_by_vpid(pid) if pid else current()
    if task is None:
        raise KernelError(ESRCH)
    if not ptrace_may_access(task, PTRACE_MODE_READ_REALCREDS):
        raise KernelError(EPERM)
    if new & ~cpuset_mems_allowed(task) and not capable(CAP_SYS_NICE):
        raise KernelError(EPERM)
    mm = task.mm
    new &= cpuset_mems_allowed(current())
    if not new or mm is None:
        raise KernelError(EINVAL)
    mmget(mm)
    try:
        return do_migrate_pages(mm, old, new, MPOL_MF_MOVE_ALL if capable(CAP_SYS_NICE) else MPOL_MF_MOVE)
    finally:
        mmput(mm)


@may_sleep
def do_migrate_pages(mm: MmStruct, old: int, new: int, flags: int) -> int:
    """Pages of each node of one mask go to its counterpart of the other. Answers how many could not."""
    busy = 0
    left = old & mm.kernel.mem.nodes_online              # the others have no pages
    down_read(mm.mmap_sem)
    try:
        while left:
            # First those whose counterpart is not one of the sources to come: nothing moves twice.
            source = dest = -1
            for s in range(left.bit_length()):
                if not left >> s & 1 or (old.bit_count() != new.bit_count() and new >> s & 1):
                    continue
                d = node_remap(s, old, new)
                if s == d:
                    continue
                source, dest = s, d
                if not left >> d & 1:
                    break
            if source < 0:
                break
            left &= ~(1 << source)
            busy += migrate_to_node(mm, source, dest, flags)
    finally:
        up_read(mm.mmap_sem)
    return busy


@may_sleep
def migrate_to_node(mm: MmStruct, source: int, dest: int, flags: int) -> int:
    """All pages of one node that a process maps. Answers how many could not be moved. Raises ENOMEM."""
    kernel = mm.kernel
    pages: list[int] = []
    queue_pages_range(mm, 0, TASK_SIZE, 1 << source, flags | MPOL_MF_DISCONTIG_OK, pages)
    try:
        return migrate_pages(kernel, pages, lambda _pfn: alloc_new_node_page(kernel, dest), MIGRATE_SYNC, MR_SYSCALL)
    finally:
        putback_movable_pages(kernel, pages)
