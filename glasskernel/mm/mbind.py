"""set_mempolicy(2), get_mempolicy(2), mbind(2).

Linux: mm/mempolicy.c (5.3), the half with the system calls. Same: flags, errors, splitting of areas.
Gaps: see mm/mempolicy.py.
"""
from __future__ import annotations

from glasskernel.arch.x86.uaccess import copy_to_user, put_user_u32
from glasskernel.kernel.capability import CAP_SYS_NICE, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.rwsem import down_read, down_write, up_read, up_write
from glasskernel.lib.errno import EFAULT, EINVAL, EPERM, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, u32, ulong
from glasskernel.mm.memory import follow_page, get_user_page
from glasskernel.mm.mempolicy import (
    MPOL_DEFAULT,
    MPOL_F_LOCAL,
    MPOL_INTERLEAVE,
    MPOL_MODE_FLAGS,
    NODES_ONLINE,
    NR_NODE_IDS,
    Mempolicy,
    get_nodes,
    mpol_new,
    sanitize_mpol_flags,
)
from glasskernel.mm.mmap import find_vma, split_vma
from glasskernel.mm.types import MmStruct

MPOL_MF_STRICT, MPOL_MF_MOVE, MPOL_MF_MOVE_ALL = 1, 2, 4
MPOL_F_NODE, MPOL_F_ADDR, MPOL_F_MEMS_ALLOWED = 1, 2, 4


@syscall
def sys_set_mempolicy(mode: int, nmask: UserPtr, maxnode: ulong) -> int:
    """set_mempolicy(2)"""
    return kernel_set_mempolicy(mode, nmask, maxnode)


def kernel_set_mempolicy(mode: int, nmask: int, maxnode: int) -> int:
    mode, flags = sanitize_mpol_flags(mode)
    return do_set_mempolicy(mode, flags, get_nodes(nmask, maxnode))


def do_set_mempolicy(mode: int, flags: int, nodes: int) -> int:
    current().mempolicy = mpol_new(mode, flags, nodes)
    return 0


@syscall
def sys_get_mempolicy(policy: UserPtr, nmask: UserPtr, maxnode: ulong, addr: ulong, flags: ulong) -> int:
    """get_mempolicy(2)"""
    return kernel_get_mempolicy(policy, nmask, maxnode, addr, flags)


def kernel_get_mempolicy(policy: int, nmask: int, maxnode: int, address: int, flags: int) -> int:
    if nmask and maxnode < NR_NODE_IDS:
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
        return 0, NODES_ONLINE
    policy: Mempolicy | None = task.mempolicy
    if flags & MPOL_F_ADDR:
        mm = task.mm
        assert mm is not None
        down_read(mm.mmap_sem)
        try:
            vma = find_vma(mm, address)
            if vma is None or vma.vm_start > address:
                raise KernelError(EFAULT)
            policy = vma.vm_policy or policy
            if flags & MPOL_F_NODE:
                return lookup_node(mm, address), 0
        finally:
            up_read(mm.mmap_sem)
    elif address:
        raise KernelError(EINVAL)
    elif flags & MPOL_F_NODE:
        if policy is None or policy.mode != MPOL_INTERLEAVE:
            raise KernelError(EINVAL)
        return (policy.nodes & -policy.nodes).bit_length() - 1, 0
    if policy is None:
        return MPOL_DEFAULT, 0
    if policy.flags & MPOL_MODE_FLAGS:
        return policy.mode | policy.flags & MPOL_MODE_FLAGS, policy.user_nodes
    return policy.mode, 0 if policy.flags & MPOL_F_LOCAL else policy.nodes


@may_sleep
def lookup_node(mm: MmStruct, address: int) -> int:
    """The node of the page at an address, which is faulted in. Raises EFAULT."""
    if follow_page(mm, address) is None:
        get_user_page(mm, address, False)
    return 0                                             # page_to_nid(): there is one


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


def do_mbind(start: int, length: int, mode: int, mode_flags: int, nodes: int, flags: int) -> int:
    """Raises EINVAL, EFAULT (a hole), EPERM (MPOL_MF_MOVE_ALL)."""
    if flags & ~(MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
        raise KernelError(EINVAL)
    if flags & MPOL_MF_MOVE_ALL and not capable(CAP_SYS_NICE):
        raise KernelError(EPERM)
    if start & 0xFFF:
        raise KernelError(EINVAL)
    end = start + (length + 0xFFF & ~0xFFF)
    if end >> 64 or end < start:
        raise KernelError(EINVAL)
    if start == end:
        return 0
    policy = mpol_new(mode, mode_flags, nodes)
    mm = current().mm
    assert mm is not None
    down_write(mm.mmap_sem)
    try:
        _check_holes(mm, start, end)
        mbind_range(mm, start, end, policy)
    finally:
        up_write(mm.mmap_sem)
    return 0


@notrace
def _check_holes(mm: MmStruct, start: int, end: int) -> None:
    for vma in mm.vmas.overlapping(start, end):
        if vma.vm_start > start:
            raise KernelError(EFAULT)
        start = vma.vm_end
    if start < end:
        raise KernelError(EFAULT)


def mbind_range(mm: MmStruct, start: int, end: int, policy: Mempolicy | None) -> None:
    """Gives every area in a range the policy, splitting those that reach further. Raises ENOMEM."""
    for vma in mm.vmas.overlapping(start, end):
        if vma.vm_policy is policy:
            continue
        if vma.vm_start < start:
            vma = split_vma(mm, vma, start, False)
        if vma.vm_end > end:
            split_vma(mm, vma, end, False)
        vma.vm_policy = policy
