"""The tree of the page cache: which frame holds which page of which file, and the page lock.

Linux: include/linux/pagemap.h and the first half of mm/filemap.c (5.3), where both halves are one file;
    here readahead, write-back and faults stand between them. mm/filemap.py re-exports everything.
Differs: a page is its frame number, 0 is "no page"; the XArray is a dict by index.
Owns: AddressSpace.pages, FilemapState (kernel.filemap); PG_locked, PG_uptodate of its frames.
Invariants: a frame in mapping.pages has mem.mapping[pfn] is mapping, mem.index[pfn] its index, and one
    reference for being there.
Lock order: inode.i_rwsem, mm.mmap_sem, page lock.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import current, register
from glasskernel.kernel.sched.core import io_schedule, signal_pending_state
from glasskernel.kernel.sched.wait import (
    WaitQueueEntry,
    WaitQueueHead,
    __add_wait_queue_entry_tail,
    __wake_up_locked_key_bookmark,
    finish_wait,
)
from glasskernel.kernel.task import TASK_KILLABLE, TASK_NORMAL, TASK_UNINTERRUPTIBLE
from glasskernel.lib.errno import Restart
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.machine.costs import CACHE_PAGE
from glasskernel.mm.backing_dev import BDI_CAP_STABLE_WRITES, WB_RECLAIMABLE, inode_to_bdi
from glasskernel.mm.page_alloc import (
    __GFP_FS,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    NR_FILE_DIRTY,
    NR_FILE_PAGES,
    NR_SHMEM,
    PG_dirty,
    PG_locked,
    PG_readahead,
    PG_reclaim,
    PG_referenced,
    PG_swapbacked,
    PG_uptodate,
    PG_writeback,
    alloc_page,
    put_page,
)
from glasskernel.mm.swap import lru_cache_add, mark_page_accessed
from glasskernel.mm.types import AS_UNEVICTABLE, AddressSpace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, Path
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.shrinker import Shrinker

FGP_ACCESSED, FGP_LOCK, FGP_CREAT, FGP_WRITE = 0x1, 0x2, 0x4, 0x8
FGP_NOFS, FGP_NOWAIT, FGP_FOR_MMAP = 0x10, 0x20, 0x40


@notrace
def _no_path(_path: Path) -> None:
    return None


@notrace
def _no_file(_file: File) -> None:
    return None


@notrace
def _no_inode(_inode: Inode, _flags: int) -> None:
    return None


@notrace
def _no_plug() -> None:
    return None


@notrace
def _no_plugged(_plug: Any) -> None:
    return None


@notrace
def _no_buffers(_pfn: int) -> bool:
    return True


@notrace
def _no_invalidate(_pfn: int, _offset: int, _length: int) -> None:
    return None


@slotted
class FilemapState:
    """What the page cache keeps for one kernel (kernel.filemap). Made by pagecache_init().

    waiters: tasks that wait for a page lock or for write-back, by pfn. The callables belong to the VFS, which
    lies above: it plugs them in when it starts.
    """

    waiters: dict[int, WaitQueueHead] = field(default_factory=dict)
    shrinkers: list[Shrinker] = field(default_factory=list)            # shrinker_list: mm/shrinker.py
    touch_atime: Callable[[Path], None] = _no_path
    file_update_time: Callable[[File], None] = _no_file
    file_remove_privs: Callable[[File], None] = _no_file
    mark_inode_dirty: Callable[[Inode, int], None] = _no_inode
    # of the block layer, and of fs/buffer.c
    blk_start_plug: Callable[[], Any] = _no_plug
    blk_finish_plug: Callable[[Any], None] = _no_plugged
    try_to_free_buffers: Callable[[int], bool] = _no_buffers
    block_invalidatepage: Callable[[int, int, int], None] = _no_invalidate
    invalidate_bh_lrus: Callable[[], None] = _no_plug


def pagecache_init(kernel: Kernel) -> None:
    """Makes kernel.filemap. Context: boot, after the page allocator."""
    kernel.filemap = FilemapState()


# ---- the page lock ---------------------------------------------------------------------------------
@notrace
def trylock_page(kernel: Kernel, pfn: int) -> bool:
    """PG_locked for the caller if it was free."""
    flags = kernel.mem.flags
    if flags[pfn] & PG_locked:
        return False
    flags[pfn] |= PG_locked
    return True


@notrace
@may_sleep
def lock_page(kernel: Kernel, pfn: int) -> None:
    """Takes PG_locked. Context: task, a reference to the page held. Inline in Linux too."""
    if kernel.mem.flags[pfn] & PG_locked:
        __lock_page(kernel, pfn)
    kernel.mem.flags[pfn] |= PG_locked


@may_sleep
def __lock_page(kernel: Kernel, pfn: int) -> None:
    """Sleeps until the page lock is free (it is not taken yet: nothing runs between the two)."""
    _wait_on_page_bit(kernel, pfn, PG_locked, False)


@notrace
@may_sleep
def lock_page_killable(kernel: Kernel, pfn: int) -> None:
    """The same; a fatal signal ends the sleep with Restart."""
    if kernel.mem.flags[pfn] & PG_locked:
        __lock_page_killable(kernel, pfn)
    kernel.mem.flags[pfn] |= PG_locked


@may_sleep
def __lock_page_killable(kernel: Kernel, pfn: int) -> None:
    _wait_on_page_bit(kernel, pfn, PG_locked, True)


@notrace
@may_sleep
def wait_on_page_locked(kernel: Kernel, pfn: int) -> None:
    """Waits until nobody holds the page lock."""
    if kernel.mem.flags[pfn] & PG_locked:
        wait_on_page_bit(kernel, pfn, PG_locked)


@may_sleep
def wait_on_page_bit(kernel: Kernel, pfn: int, bit: int) -> None:
    """Sleeps until PG_locked or PG_writeback is clear; counts as waiting for I/O."""
    _wait_on_page_bit(kernel, pfn, bit, False)


@may_sleep
def wait_on_page_bit_killable(kernel: Kernel, pfn: int, bit: int) -> None:
    """The same; a fatal signal ends the sleep with Restart."""
    _wait_on_page_bit(kernel, pfn, bit, True)


@notrace
@may_sleep
def wait_on_page_locked_killable(kernel: Kernel, pfn: int) -> None:
    """wait_on_page_locked(); a fatal signal ends the wait with Restart."""
    if kernel.mem.flags[pfn] & PG_locked:
        wait_on_page_bit_killable(kernel, pfn, PG_locked)


@notrace
@may_sleep
def _wait_on_page_bit(kernel: Kernel, pfn: int, bit: int, killable: bool) -> None:
    """wait_on_page_bit_common(), inline there: first come, first served. Raises Restart if killed."""
    waiters = kernel.filemap.waiters
    queue = WaitQueueHead()
    flags = kernel.mem.flags
    task = register.task
    state = TASK_KILLABLE if killable else TASK_UNINTERRUPTIBLE
    wait = WaitQueueEntry()
    try:
        while flags[pfn] & bit:
            if killable and task.ti_flags and signal_pending_state(state, task):
                raise Restart
            if wait.head is None:                    # a queue lasts until the next wakeup only
                queue = waiters.setdefault(pfn, queue)
                __add_wait_queue_entry_tail(queue, wait)
            task.state = state
            io_schedule()
    finally:
        finish_wait(queue, wait)


@notrace
def wake_up_page(kernel: Kernel, pfn: int) -> None:
    """Wakes who waits for a bit of the page. Context: any."""
    if pfn in kernel.filemap.waiters:
        wake_up_page_bit(kernel, pfn)


def wake_up_page_bit(kernel: Kernel, pfn: int) -> None:
    """Somebody waits: all that do look again."""
    __wake_up_locked_key_bookmark(kernel.filemap.waiters.pop(pfn), TASK_NORMAL, pfn)


def unlock_page(kernel: Kernel, pfn: int) -> None:
    """Drops PG_locked. Context: any."""
    kernel.mem.flags[pfn] &= ~PG_locked
    if pfn in kernel.filemap.waiters:
        wake_up_page(kernel, pfn)


@may_sleep
def wait_on_page_writeback(kernel: Kernel, pfn: int) -> None:
    """Waits until the device has the page."""
    mem = kernel.mem
    if mem.flags[pfn] & PG_writeback:
        probe = kernel.tp.wait_on_page_writeback
        if probe is not None:
            probe(pfn, mem.mapping.get(pfn))
        wait_on_page_bit(kernel, pfn, PG_writeback)


@may_sleep
def wait_for_stable_page(kernel: Kernel, pfn: int) -> None:
    """Waits for the device only if it must not see the page change under it."""
    mapping = kernel.mem.mapping.get(pfn)
    if mapping is not None:
        bdi = inode_to_bdi(mapping.host)
        if bdi is not None and bdi.capabilities & BDI_CAP_STABLE_WRITES:
            wait_on_page_writeback(kernel, pfn)


def set_page_dirty(kernel: Kernel, pfn: int) -> bool:
    """The frame was changed: the file system takes note. True if it was clean. Context: any; the page stays."""
    mem = kernel.mem
    mapping = mem.mapping.get(pfn)
    if mapping is not None:
        if mem.flags[pfn] & PG_reclaim:
            mem.flags[pfn] &= ~PG_reclaim
        return mapping.a_ops.set_page_dirty(mapping, pfn)
    was = mem.flags[pfn]
    mem.flags[pfn] = was | PG_dirty
    return not was & PG_dirty


# ---- lookup ----------------------------------------------------------------------------------------
def find_get_entry(mapping: AddressSpace, index: int) -> int:
    """The frame of page `index` with one more reference, or 0."""
    pfn = mapping.pages.get(index, 0)
    if pfn:
        register.task.kernel.mem.refcount[pfn] += 1
    return pfn


@notrace
def find_get_page(mapping: AddressSpace, index: int) -> int:
    """The same; the name callers use. Errors: none."""
    return pagecache_get_page(mapping, index, 0, 0)


@notrace
def find_lock_page(mapping: AddressSpace, index: int) -> int:
    """The frame, locked and referenced, or 0."""
    return pagecache_get_page(mapping, index, FGP_LOCK, 0)


@notrace
def find_or_create_page(mapping: AddressSpace, index: int, gfp: int) -> int:
    """The frame, locked and referenced; a new one is not up to date. Raises ENOMEM."""
    return pagecache_get_page(mapping, index, FGP_LOCK | FGP_ACCESSED | FGP_CREAT, gfp)


@may_sleep
def pagecache_get_page(mapping: AddressSpace, index: int, fgp_flags: int, gfp: int) -> int:
    """The frame of page `index` with a reference, as fgp_flags (FGP_*) ask; 0 if it is not there.

    FGP_LOCK locks it, FGP_CREAT makes a missing one (not up to date), FGP_NOWAIT answers 0 if it is locked.
    Raises ENOMEM.
    """
    while True:
        pfn = find_get_entry(mapping, index)
        if not fgp_flags:
            return pfn
        kernel = current().kernel
        if pfn:
            if fgp_flags & FGP_LOCK:
                if fgp_flags & FGP_NOWAIT:
                    if not trylock_page(kernel, pfn):
                        put_page(kernel, pfn)
                        return 0
                else:
                    lock_page(kernel, pfn)
                if kernel.mem.mapping.get(pfn) is not mapping:        # truncated while we slept
                    unlock_page(kernel, pfn)
                    put_page(kernel, pfn)
                    continue
            if fgp_flags & FGP_ACCESSED:
                mark_page_accessed(kernel, pfn)
            return pfn
        if not fgp_flags & FGP_CREAT:
            return 0
        pfn = __page_cache_alloc(kernel, gfp & ~__GFP_FS if fgp_flags & FGP_NOFS else gfp)
        if fgp_flags & FGP_ACCESSED:
            kernel.mem.flags[pfn] |= PG_referenced
        if not add_to_page_cache_lru(kernel, pfn, mapping, index):
            put_page(kernel, pfn)                                    # somebody was faster
            continue
        if fgp_flags & FGP_FOR_MMAP and not fgp_flags & FGP_LOCK:
            unlock_page(kernel, pfn)
        return pfn


@notrace
def grab_cache_page_nowait(mapping: AddressSpace, index: int) -> int:
    """A locked page, made if it is missing; 0 if it could not be had at once."""
    return pagecache_get_page(mapping, index, FGP_LOCK | FGP_CREAT | FGP_NOFS | FGP_NOWAIT, GFP_KERNEL)


@may_sleep
def grab_cache_page_write_begin(mapping: AddressSpace, index: int) -> int:
    """What ->write_begin starts with: the page, locked and referenced. Raises ENOMEM."""
    pfn = pagecache_get_page(mapping, index, FGP_LOCK | FGP_WRITE | FGP_CREAT, GFP_HIGHUSER_MOVABLE)
    if not mapping.unevictable:
        wait_for_stable_page(current().kernel, pfn)
    return pfn


def find_get_pages_range(mapping: AddressSpace, start: int, end: int) -> list[tuple[int, int]]:
    """The cached pages with start <= index <= end as (index, pfn), in order, each with a reference."""
    pages = mapping.pages
    if end - start < len(pages):
        found = [(index, pages[index]) for index in range(start, end + 1) if index in pages]
    else:
        found = [(index, pages[index]) for index in sorted(pages) if start <= index <= end]
    refcount = current().kernel.mem.refcount
    for _, pfn in found:
        refcount[pfn] += 1
    return found


# ---- in and out ------------------------------------------------------------------------------------
def __page_cache_alloc(kernel: Kernel, gfp: int) -> int:
    """A frame for the page cache: one reference, contents undefined. Raises ENOMEM."""
    return alloc_page(kernel, gfp)


def add_to_page_cache_lru(kernel: Kernel, pfn: int, mapping: AddressSpace, index: int) -> bool:
    """Puts a fresh frame into the cache, locked. False if the index is taken (EEXIST in Linux)."""
    if index in mapping.pages:
        return False
    kernel.machine.charge(CACHE_PAGE)
    kernel.mem.flags[pfn] |= PG_locked
    __add_to_page_cache_locked(kernel, pfn, mapping, index)
    lru_cache_add(kernel, pfn)
    return True


def __add_to_page_cache_locked(kernel: Kernel, pfn: int, mapping: AddressSpace, index: int) -> None:
    mem = kernel.mem
    mem.refcount[pfn] += 1
    mem.mapping[pfn] = mapping
    mem.index[pfn] = index
    mapping.pages[index] = pfn
    mem.vm_stat[NR_FILE_PAGES] += 1
    if mapping.unevictable and not mapping.flags & AS_UNEVICTABLE:
        mem.flags[pfn] |= PG_swapbacked            # what shmem_add_to_page_cache() does
        mem.vm_stat[NR_SHMEM] += 1
    probe = kernel.tp.mm_filemap_add_to_page_cache
    if probe is not None:
        probe(pfn, mapping, index)


def __delete_from_page_cache(kernel: Kernel, mapping: AddressSpace, index: int, pfn: int) -> None:
    """Takes the frame out of the tree; the caller drops the cache's reference. Locks: page."""
    mem = kernel.mem
    del mapping.pages[index]
    del mem.mapping[pfn]
    flags = mem.flags
    vm_stat = mem.vm_stat
    if index in mapping.dirty:                     # who invalidated it did not store it first
        del mapping.dirty[index]
        vm_stat[NR_FILE_DIRTY] -= 1
        bdi = inode_to_bdi(mapping.host)
        if bdi is not None:
            bdi.wb.stat[WB_RECLAIMABLE] -= 1
    probe = kernel.tp.mm_filemap_delete_from_page_cache
    if probe is not None:
        probe(pfn, mapping, index)
    flags[pfn] &= ~(PG_dirty | PG_readahead | PG_referenced)
    vm_stat[NR_FILE_PAGES] -= 1
    if flags[pfn] & PG_swapbacked:
        vm_stat[NR_SHMEM] -= 1


def delete_from_page_cache(kernel: Kernel, pfn: int) -> None:
    """Takes a frame out of the cache and drops the cache's reference. Locks: page. The bytes are lost."""
    mem = kernel.mem
    mapping = mem.mapping[pfn]
    __delete_from_page_cache(kernel, mapping, mem.index[pfn], pfn)
    put_page(kernel, pfn)


def try_to_release_page(kernel: Kernel, pfn: int, gfp: int) -> bool:
    """Drops what hangs off page->private, if the file system lets go. Locks: page."""
    mem = kernel.mem
    if mem.flags[pfn] & PG_writeback:
        return False
    mapping = mem.mapping.get(pfn)
    if mapping is not None and mapping.a_ops.releasepage is not None:
        return mapping.a_ops.releasepage(pfn, gfp)
    return kernel.filemap.try_to_free_buffers(pfn)


# ---- use -------------------------------------------------------------------------------------------
@notrace
def SetPageUptodate(kernel: Kernel, pfn: int) -> None:
    """The frame holds the file's bytes."""
    kernel.mem.flags[pfn] |= PG_uptodate


@notrace
def PageUptodate(kernel: Kernel, pfn: int) -> bool:
    return bool(kernel.mem.flags[pfn] & PG_uptodate)


@notrace
def zero_user_segment(kernel: Kernel, pfn: int, start: int, end: int) -> None:
    """Zeros bytes [start, end) of a frame."""
    kernel.mem.note_kernel_write(pfn)
    base = pfn << 12
    kernel.machine.ram[base + start : base + end] = bytes(end - start)
