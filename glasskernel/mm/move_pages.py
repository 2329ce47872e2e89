"""move_pages(2): where pages are, and moving them to nodes.

Linux: the last third of mm/migrate.c (5.3). Same: neighbours for the same node move together; what became of each page
    is told in its status; ENODEV ends the call, what a page cannot do does not.
Gaps: see mm/migrate.py.
"""
from __future__ import annotations

import struct

from glasskernel.arch.x86.uaccess import copy_from_user, put_user_u32
from glasskernel.kernel.capability import CAP_SYS_NICE, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.rwsem import down_read, up_read
from glasskernel.kernel.pid import find_task_by_vpid
from glasskernel.kernel.ptrace_access import PTRACE_MODE_READ_REALCREDS, ptrace_may_access
from glasskernel.kernel.task import TaskStruct
from glasskernel.lib.errno import EACCES, EFAULT, EINVAL, ENODEV, ENOENT, EPERM, ESRCH, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, ulong
from glasskernel.mm.memory import follow_page
from glasskernel.mm.mempolicy import cpuset_mems_allowed, vma_migratable
from glasskernel.mm.migrate import (
    MIGRATE_SYNC,
    MR_SYSCALL,
    alloc_new_node_page,
    migrate_pages,
    page_to_move,
    putback_movable_pages,
    queue_page,
)
from glasskernel.mm.mmap import find_vma, mmget, mmput
from glasskernel.mm.page_alloc import page_to_nid
from glasskernel.mm.types import MmStruct

MPOL_MF_MOVE, MPOL_MF_MOVE_ALL = 2, 4


@syscall
def sys_move_pages(pid: int, nr_pages: ulong, pages: UserPtr, nodes: UserPtr, status: UserPtr, flags: int) -> int:
    """move_pages(2)"""
    return kernel_move_pages(pid, nr_pages, pages, nodes, status, flags)


def kernel_move_pages(pid: int, nr_pages: int, pages: int, nodes: int, status: int, flags: int) -> int:
    """Raises EINVAL, EPERM, ESRCH, EFAULT, ENODEV, EACCES, ENOMEM."""
    if flags & ~(MPOL_MF_MOVE | MPOL_MF_MOVE_ALL):
        raise KernelError(EINVAL)
    if flags & MPOL_MF_MOVE_ALL and not capable(CAP_SYS_NICE):
        raise KernelError(EPERM)
    task = task_of(pid)
    mm = task.mm
    if mm is None:
        raise KernelError(EINVAL)
    mmget(mm)
    try:
        if nodes:
            return do_pages_move(mm, cpuset_mems_allowed(task), nr_pages, pages, nodes, status, flags)
        return do_pages_stat(mm, nr_pages, pages, status)
    finally:
        mmput(mm)


@notrace
def task_of(pid: int) -> TaskStruct:
    """The task whose pages shall move; 0: this one. Raises ESRCH, EPERM."""
    task = find_task_by_vpid(pid) if pid else current()
    if task is None:
        raise KernelError(ESRCH)
    if not ptrace_may_access(task, PTRACE_MODE_READ_REALCREDS):
        raise KernelError(EPERM)
    return task


@may_sleep
def do_pages_move(mm: MmStruct, task_nodes: int, nr_pages: int, pages: int, nodes: int, status: int, flags: int) -> int:
    """Answers how many of a batch could not be moved, which ends the call. task_nodes: a mask of those allowed.

    Raises EFAULT, ENODEV, EACCES, ENOMEM.
    """
    online = mm.kernel.mem.nodes_online
    queued: list[int] = []
    target = -1
    nr_failed = start = i = 0                            # start: the first one of those for this target
    try:
        for i in range(nr_pages):
            address, = struct.unpack("<Q", copy_from_user(pages + 8 * i, 8))
            node, = struct.unpack("<i", copy_from_user(nodes + 4 * i, 4))
            if node < 0 or not online >> node & 1:
                raise KernelError(ENODEV)
            if not task_nodes >> node & 1:
                raise KernelError(EACCES)
            if node != target:
                if target >= 0:
                    nr_failed = flush_target(mm, queued, target, status, start, i)
                start, target = i, node
                if nr_failed:
                    break
            try:
                add_page_for_migration(mm, address, node, queued, bool(flags & MPOL_MF_MOVE_ALL))
                continue
            except KernelError as error:
                put_user_u32(status + 4 * i, -error.errno & 0xFFFFFFFF)
            nr_failed = flush_target(mm, queued, target, status, start, i)
            target = -1
            if nr_failed:
                break
        else:
            i = nr_pages
    finally:
        if target >= 0:                                  # those before an error, too
            nr_failed += flush_target(mm, queued, target, status, start, i)
    return nr_failed


@notrace
@may_sleep
def flush_target(mm: MmStruct, queued: list[int], node: int, status: int, start: int, end: int) -> int:
    """Moves what is queued, and tells it, if all of it moved. Answers how many did not."""
    nr_failed = do_move_pages_to_node(mm, queued, node) if queued else 0
    if not nr_failed:
        store_status(status, start, node, end - start)
    return nr_failed


def store_status(status: int, start: int, value: int, nr: int) -> None:
    for i in range(start, start + nr):
        put_user_u32(status + 4 * i, value)


@may_sleep
def do_move_pages_to_node(mm: MmStruct, pages: list[int], node: int) -> int:
    """Answers how many could not. Raises ENOMEM."""
    kernel = mm.kernel
    try:
        return migrate_pages(kernel, pages, lambda _pfn: alloc_new_node_page(kernel, node), MIGRATE_SYNC, MR_SYSCALL)
    finally:
        putback_movable_pages(kernel, pages)


@may_sleep
def add_page_for_migration(mm: MmStruct, address: int, node: int, pages: list[int], migrate_all: bool) -> None:
    """Isolates the page at an address, unless it is where it should be. Raises EFAULT, ENOENT, EACCES, EBUSY."""
    down_read(mm.mmap_sem)
    try:
        vma = find_vma(mm, address)
        if vma is None or address < vma.vm_start or not vma_migratable(vma):
            raise KernelError(EFAULT)
        pfn = page_to_move(mm, address)
        if not pfn:
            raise KernelError(ENOENT)
        mem = mm.kernel.mem
        if page_to_nid(mem, pfn) == node:
            return
        if mem.mapcount[pfn] > 1 and not migrate_all:
            raise KernelError(EACCES)
        queue_page(mm.kernel, pfn, pages)
    finally:
        up_read(mm.mmap_sem)


def do_pages_stat(mm: MmStruct, nr_pages: int, pages: int, status: int) -> int:
    """The node of each page, or why it has none. Raises EFAULT."""
    for i in range(nr_pages):
        address, = struct.unpack("<Q", copy_from_user(pages + 8 * i, 8))
        put_user_u32(status + 4 * i, do_pages_stat_one(mm, address) & 0xFFFFFFFF)
    return 0


@notrace
@may_sleep
def do_pages_stat_one(mm: MmStruct, address: int) -> int:
    """A node, or a negative errno (do_pages_stat_array()'s loop)."""
    down_read(mm.mmap_sem)
    try:
        vma = find_vma(mm, address)
        if vma is None or address < vma.vm_start:
            return -EFAULT
        pfn = follow_page(mm, address)
        if pfn is None:
            return -ENOENT
        mem = mm.kernel.mem
        return page_to_nid(mem, pfn) if pfn != mem.zero_pfn else -EFAULT
    finally:
        up_read(mm.mmap_sem)
