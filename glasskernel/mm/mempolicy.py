"""Which node memory comes from: the policies of tasks and areas.

Linux: mm/mempolicy.c (5.3). Same: modes and their flags, which policy wins (area, task, default), the checks of the
system calls (mm/mbind.py).
Differs: this machine has node 0 only, so every policy that can be set leads there. Gaps: MPOL_INTERLEAVE's counters,
moving pages (MPOL_MF_MOVE finds all of them where they should be), policies of shared memory objects, cpusets.
Owns: Mempolicy objects; they never change once made, so tasks and areas share them.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from glasskernel.arch.x86.uaccess import copy_from_user
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.mm.types import VmAreaStruct

MPOL_DEFAULT, MPOL_PREFERRED, MPOL_BIND, MPOL_INTERLEAVE, MPOL_LOCAL, MPOL_MAX = range(6)
MPOL_F_STATIC_NODES, MPOL_F_RELATIVE_NODES = 1 << 15, 1 << 14
MPOL_MODE_FLAGS: Final = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES
MPOL_F_LOCAL: Final = 1 << 1              # internal: the node of the CPU that allocates
NODES_ONLINE: Final = 1                   # mask
MAX_NUMNODES: Final = 1024
NR_NODE_IDS: Final = 1                    # the highest possible node and one


@slotted(frozen=True)
class Mempolicy:
    """struct mempolicy. nodes: a mask, as intersected with the nodes there are; user_nodes: as asked for."""

    mode: int
    flags: int = 0
    nodes: int = 0
    user_nodes: int = 0


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


def vma_dup_policy(src: VmAreaStruct, dst: VmAreaStruct) -> None:
    """A copy of an area has its policy."""
    dst.vm_policy = src.vm_policy


def mpol_put_task_policy(task: TaskStruct) -> None:
    """The task exits: what it still allocates is allocated by default."""
    task.mempolicy = None


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
    """Nodes that are not there do not count; numbers relative to the allowed ones all mean node 0. Raises EINVAL."""
    here = NODES_ONLINE if flags & MPOL_F_RELATIVE_NODES else nodes & NODES_ONLINE
    if not here:
        raise KernelError(EINVAL)
    return Mempolicy(mode, flags, here, nodes)


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
