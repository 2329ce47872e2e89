"""Which node memory comes from: the policies of tasks and areas.

Linux: mm/mempolicy.c (5.3). Same: modes and their flags, which policy wins (area, task, default), whose turn it is with
MPOL_INTERLEAVE (the task's next one, or by the page's place in its area); the system calls are in mm/mbind.py.
Gaps: tmpfs' mpol=.
Owns: Mempolicy objects; they never change once made, so tasks and areas share them. TaskStruct.il_prev.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from glasskernel.arch.x86.uaccess import copy_from_user
from glasskernel.kernel.current import register
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace
from glasskernel.mm.types import VM_HUGETLB, VM_IO, VM_PFNMAP

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.mm.types import VmAreaStruct

MPOL_DEFAULT, MPOL_PREFERRED, MPOL_BIND, MPOL_INTERLEAVE, MPOL_LOCAL, MPOL_MAX = range(6)
MPOL_F_STATIC_NODES, MPOL_F_RELATIVE_NODES = 1 << 15, 1 << 14
MPOL_MODE_FLAGS: Final = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES
MPOL_F_LOCAL: Final = 1 << 1              # internal: the node of the CPU that allocates
MAX_NUMNODES: Final = 1024


@slotted(frozen=True)
class Mempolicy:
    """struct mempolicy. nodes: a mask, as intersected with the nodes there are, of MPOL_PREFERRED one node or none;
    user_nodes: as asked for."""

    mode: int
    flags: int = 0
    nodes: int = 0
    user_nodes: int = 0
    cpuset_mems_allowed: int = 0              # what was allowed when it was made


default_policy: Final = Mempolicy(MPOL_PREFERRED, MPOL_F_LOCAL)


def get_task_policy(task: TaskStruct) -> Mempolicy:
    """The task's own, or the default."""
    policy: Mempolicy | None = task.mempolicy
    return default_policy if policy is None else policy


def __get_vma_policy(vma: VmAreaStruct) -> Mempolicy | None:
    """What mbind(2) set."""
    policy: Mempolicy | None = vma.vm_policy
    return policy


@notrace
def get_vma_policy(vma: VmAreaStruct, task: TaskStruct) -> Mempolicy:
    """The area's, else the task's."""
    policy = __get_vma_policy(vma)
    return get_task_policy(task) if policy is None else policy


def policy_node(policy: Mempolicy, node: int) -> int:
    """Where to look first."""
    if policy.mode == MPOL_PREFERRED and not policy.flags & MPOL_F_LOCAL:
        return (policy.nodes & -policy.nodes).bit_length() - 1
    return node


def policy_nodemask(policy: Mempolicy) -> int | None:
    """Which nodes will do; None: all."""
    return policy.nodes if policy.mode == MPOL_BIND else None


@notrace
def next_node_in(node: int, nodes: int) -> int:
    """The first node of a mask behind this one, or else the first of all."""
    behind = nodes >> node + 1 << node + 1 or nodes
    return (behind & -behind).bit_length() - 1


def interleave_nodes(task: TaskStruct, policy: Mempolicy) -> int:
    """The next one for the task."""
    node = next_node_in(task.il_prev, policy.nodes)
    task.il_prev = node
    return node


@notrace
def interleave_nid(policy: Mempolicy, vma: VmAreaStruct, address: int) -> int:
    """The one for a page of an area: whoever touches its pages, and when, they are spread evenly."""
    return offset_il_node(policy, vma.vm_pgoff + (address - vma.vm_start >> 12))


def offset_il_node(policy: Mempolicy, n: int) -> int:
    """The n-th of the nodes, counted round and round."""
    node = -1
    for _ in range(n % policy.nodes.bit_count() + 1):
        node = next_node_in(node, policy.nodes)
    return node


def vma_migratable(vma: VmAreaStruct) -> bool:
    """Has the area pages of memory, and not of a device? (Those of hugetlbfs do not move yet.)"""
    return not vma.vm_flags & (VM_IO | VM_PFNMAP | VM_HUGETLB)


def mempolicy_nodemask_intersects(task: TaskStruct, nodes: int) -> bool:
    """May the task's memory lie in these nodes? Only what it must not leave counts."""
    policy: Mempolicy | None = task.mempolicy
    return policy is None or policy.mode not in (MPOL_BIND, MPOL_INTERLEAVE) or bool(policy.nodes & nodes)


def vma_dup_policy(src: VmAreaStruct, dst: VmAreaStruct) -> None:
    """A copy of an area has its policy."""
    dst.vm_policy = src.vm_policy


def mpol_put_task_policy(task: TaskStruct) -> None:
    """The task exits: what it still allocates is allocated by default."""
    task.mempolicy = None


# ---- of shared memory: for whoever maps it ----------------------------------------------------------------------
SharedPolicy = list[tuple[int, int, Mempolicy]]
"""struct shared_policy: ranges of pages, first and behind the last, in order, that do not overlap."""


def mpol_set_shared_policy(shared: SharedPolicy, vma: VmAreaStruct, policy: Mempolicy | None) -> None:
    """The pages that an area maps get a policy, or lose theirs."""
    start, end = vma.vm_pgoff, vma.vm_pgoff + (vma.vm_end - vma.vm_start >> 12)
    kept = []
    for first, behind, other in shared:                  # shared_policy_replace()
        kept += [part for part in ((first, min(behind, start), other), (max(first, end), behind, other))
                 if part[0] < part[1]]
    if policy is not None:
        kept.append((start, end, policy))
    shared[:] = sorted(kept, key=lambda part: part[0])


def mpol_shared_policy_lookup(shared: SharedPolicy, index: int) -> Mempolicy | None:
    """That of a page."""
    return next((policy for start, end, policy in shared if start <= index < end), None)


@notrace
def vma_policy_at(vma: VmAreaStruct, address: int) -> Mempolicy | None:
    """__get_vma_policy() for who tells it: of shared memory, what any of its users set."""
    if vma.vm_ops is not None and vma.vm_ops.get_policy is not None:
        policy: Mempolicy | None = vma.vm_ops.get_policy(vma, address)
        return policy
    return __get_vma_policy(vma)


# ---- making one -------------------------------------------------------------------------------------------------
def mpol_new(mode: int, flags: int, nodes: int) -> Mempolicy | None:
    """A policy from what a system call was given; None for the default. Raises EINVAL."""
    if mode == MPOL_DEFAULT:
        if nodes:
            raise KernelError(EINVAL)
        return None
    if mode == MPOL_PREFERRED and not nodes:
        if flags & MPOL_MODE_FLAGS:
            raise KernelError(EINVAL)
        return Mempolicy(MPOL_PREFERRED, MPOL_F_LOCAL)
    if mode == MPOL_LOCAL:
        if nodes or flags & MPOL_MODE_FLAGS:
            raise KernelError(EINVAL)
        return Mempolicy(MPOL_PREFERRED, MPOL_F_LOCAL)
    if not nodes:
        raise KernelError(EINVAL)
    return mpol_set_nodemask(mode, flags, nodes)


def mpol_set_nodemask(mode: int, flags: int, nodes: int) -> Mempolicy:
    """Nodes that are not there do not count; relative numbers count the nodes that are. Raises EINVAL."""
    allowed = cpuset_mems_allowed(register.task)
    here = mpol_relative_nodemask(nodes, allowed) if flags & MPOL_F_RELATIVE_NODES else nodes & allowed
    if not here:
        raise KernelError(EINVAL)
    return Mempolicy(mode, flags, here & -here if mode == MPOL_PREFERRED else here, nodes, allowed)


@notrace
def cpuset_mems_allowed(task: TaskStruct) -> int:
    """The nodes that a task may have (kernel/cgroup/cpuset.c)."""
    allowed: int = task.mems_allowed & task.kernel.mem.nodes_online
    return allowed


def mpol_rebind_policy(policy: Mempolicy | None, allowed: int) -> Mempolicy | None:
    """The same policy for other nodes: static ones stay, relative ones are counted again, others go to counterparts."""
    if policy is None or not policy.nodes:
        return policy
    if policy.flags & MPOL_F_STATIC_NODES:
        here = policy.user_nodes & allowed
    elif policy.flags & MPOL_F_RELATIVE_NODES:
        here = mpol_relative_nodemask(policy.user_nodes, allowed)
    elif policy.cpuset_mems_allowed == allowed:
        return policy
    else:
        here = 0
        for node in range(policy.nodes.bit_length()):
            if policy.nodes >> node & 1:
                here |= 1 << node_remap(node, policy.cpuset_mems_allowed, allowed)
    here = here or allowed
    return Mempolicy(policy.mode, policy.flags, here & -here if policy.mode == MPOL_PREFERRED else here,
                     policy.user_nodes, allowed)


@notrace
def node_remap(node: int, old: int, new: int) -> int:
    """The node of `new` that stands where this one stands in `old`, round and round; itself if it is not in `old`."""
    if not old >> node & 1:
        return node
    order = [n for n in range(new.bit_length()) if new >> n & 1]
    return order[(old & (1 << node) - 1).bit_count() % len(order)]


@notrace
def mpol_relative_nodemask(nodes: int, rel: int) -> int:
    """nodes_fold() and nodes_onto(): bit n stands for the n-th node of `rel`, counted round and round."""
    order = [node for node in range(rel.bit_length()) if rel >> node & 1]
    here = 0
    for n in range(nodes.bit_length()):
        if nodes >> n & 1:
            here |= 1 << order[n % len(order)]
    return here


def get_nodes(address: int, maxnode: int) -> int:
    """A user's mask of nodes. Raises EINVAL (bits above the last node), EFAULT."""
    if maxnode <= 1 or not address:
        return 0
    if maxnode - 1 > 4096 * 8:
        raise KernelError(EINVAL)
    nr_bits = maxnode - 1
    data = copy_from_user(address, (nr_bits + 63) // 64 * 8)
    nodes = int.from_bytes(data, "little") & (1 << nr_bits) - 1
    if nodes >> MAX_NUMNODES:
        raise KernelError(EINVAL)
    return nodes


def sanitize_mpol_flags(mode: int) -> tuple[int, int]:
    """(mode, flags) of a mode word. Raises EINVAL."""
    flags = mode & MPOL_MODE_FLAGS
    mode &= ~MPOL_MODE_FLAGS
    if mode >= MPOL_MAX or flags == MPOL_MODE_FLAGS:
        raise KernelError(EINVAL)
    return mode, flags
