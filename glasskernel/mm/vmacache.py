"""Each task remembers the areas it hit last.

Linux: mm/vmacache.c (5.3). Same: four slots a task, hashed by the address's 2 MB; one number in the mm invalidates them
in all of its threads. Owns: TaskStruct.vmacache. Invariants: what a slot holds is an area of the task's mm, as long as
the two sequence numbers are equal; whoever changes where areas are calls vmacache_invalidate().
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.mm.types import MmStruct, VmAreaStruct

VMACACHE_SIZE, VMACACHE_SHIFT = 4, 21


@notrace
def vmacache_flush(task: TaskStruct) -> None:
    """Forgets all: the task has another mm, or is new."""
    task.vmacache_seqnum = -1


@notrace
def vmacache_invalidate(mm: MmStruct) -> None:
    """An area moved, shrank or went."""
    mm.vmacache_seqnum += 1


def vmacache_update(address: int, new: VmAreaStruct) -> None:
    """find_vma() had to search: the next time it need not."""
    task = register.task
    if task.mm is new.vm_mm and task.vmacache_seqnum == new.vm_mm.vmacache_seqnum:
        task.vmacache[address >> VMACACHE_SHIFT & VMACACHE_SIZE - 1] = new


def vmacache_find(mm: MmStruct, address: int) -> VmAreaStruct | None:
    """The area that has an address, if this task met it lately."""
    task = register.task
    if task.mm is not mm:
        return None
    if task.vmacache_seqnum != mm.vmacache_seqnum:
        task.vmacache_seqnum = mm.vmacache_seqnum
        task.vmacache = [None] * VMACACHE_SIZE
        return None
    vma: VmAreaStruct | None
    for vma in task.vmacache:
        if vma is not None and vma.vm_start <= address < vma.vm_end:
            return vma if vma.vm_mm is mm else None
    return None
