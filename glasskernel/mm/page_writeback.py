"""Dirty pages: marking them, and storing them through ->writepages and ->writepage.

Linux: mm/page-writeback.c (5.3); thresholds and throttling are in mm/dirty_limits.py.
Same: clear_page_dirty_for_io() write-protects every mapping before the page is stored, so a later store through a
    mapping marks it dirty again; PG_writeback from set_page_writeback() to end_page_writeback(), which the end of the
    I/O calls.
Differs: PAGECACHE_TAG_DIRTY is AddressSpace.dirty and goes with PG_dirty; where a walk with WB_SYNC_ALL tags pages
    TOWRITE first, it works on a copy of the sorted indices: pages dirtied later are not seen either.
Owns: AddressSpace.dirty and .writeback, PG_dirty and PG_writeback of cached frames, NR_FILE_DIRTY, NR_WRITEBACK.
Invariants: PG_dirty of a cached frame implies that its index is in mapping.dirty, except where the file system's
    set_page_dirty keeps no tag (tmpfs: the frames are the data); PG_writeback likewise with mapping.writeback.
"""
from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import current
from glasskernel.lib.errno import EIO, ENOSPC, KernelError
from glasskernel.lib.errseq import errseq_set
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.backing_dev import (
    WB_DIRTIED,
    WB_RECLAIMABLE,
    WB_WRITEBACK,
    WB_WRITTEN,
    bdi_cap_account_dirty,
    inode_to_bdi,
)
from glasskernel.mm.page_alloc import (
    NR_DIRTIED,
    NR_FILE_DIRTY,
    NR_WRITEBACK,
    NR_WRITTEN,
    PG_dirty,
    PG_reclaim,
    PG_writeback,
    put_page,
)
from glasskernel.mm.pagemap import (
    lock_page,
    unlock_page,
    wake_up_page,
)
from glasskernel.mm.pagemap import set_page_dirty as set_page_dirty  # Linux has them in this file
from glasskernel.mm.pagemap import wait_for_stable_page as wait_for_stable_page
from glasskernel.mm.pagemap import wait_on_page_writeback as wait_on_page_writeback
from glasskernel.mm.rmap import page_mkclean
from glasskernel.mm.swap import rotate_reclaimable_page
from glasskernel.mm.types import (
    AOP_WRITEPAGE_ACTIVATE,
    AS_EIO,
    AS_ENOSPC,
    AS_NO_WRITEBACK_TAGS,
    WB_SYNC_ALL,
    WB_SYNC_NONE,
    AddressSpace,
    WritebackControl,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

I_DIRTY_PAGES = 4              # include/linux/fs.h
LLONG_MAX = (1 << 63) - 1
LAST_INDEX = (1 << 52) - 1

WritepageFn = Callable[[AddressSpace, int, int, WritebackControl, Any], int]     # writepage_t


# ---- marking ---------------------------------------------------------------------------------------
def __set_page_dirty_no_writeback(mapping: AddressSpace, pfn: int) -> bool:
    """->set_page_dirty of what only reclaim writes (tmpfs, the swap cache): no tag, and no inode to be written."""
    flags = current().kernel.mem.flags
    if flags[pfn] & PG_dirty:
        return False
    flags[pfn] |= PG_dirty
    return True


def __set_page_dirty_nobuffers(mapping: AddressSpace, pfn: int) -> bool:
    """->set_page_dirty of file systems that store pages without buffers: tags the page and marks its inode dirty."""
    kernel = current().kernel
    mem = kernel.mem
    if mem.flags[pfn] & PG_dirty:
        return False
    mem.flags[pfn] |= PG_dirty
    account_page_dirtied(kernel, mapping, pfn)
    if mapping.host is not None:
        kernel.filemap.mark_inode_dirty(mapping.host, I_DIRTY_PAGES)
    return True


def account_page_dirtied(kernel: Kernel, mapping: AddressSpace, pfn: int) -> None:
    """Sets PAGECACHE_TAG_DIRTY and counts: for the machine, the device and the task's throttling."""
    probe = kernel.tp.writeback_dirty_page
    if probe is not None:
        probe(pfn, mapping)
    mem = kernel.mem
    index = mem.index[pfn]
    if index in mapping.dirty:
        return
    mapping.dirty[index] = None
    vm_stat = mem.vm_stat
    vm_stat[NR_FILE_DIRTY] += 1
    vm_stat[NR_DIRTIED] += 1
    bdi = inode_to_bdi(mapping.host)
    if bdi is not None:
        stat = bdi.wb.stat
        stat[WB_RECLAIMABLE] += 1
        stat[WB_DIRTIED] += 1
        task = current()
        task.nr_dirtied += 1
        task.write_bytes += 4096
        kernel.writeback.bdp_ratelimits[task.cpu] += 1


def account_page_cleaned(kernel: Kernel, mapping: AddressSpace, index: int) -> None:
    """A page that will never be stored is not dirty any more."""
    forget_dirty(kernel, mapping, index)


@notrace
def forget_dirty(kernel: Kernel, mapping: AddressSpace, index: int) -> None:
    """Takes the tag and the counts back (in Linux twice, in account_page_cleaned() and clear_page_dirty_for_io())."""
    if index in mapping.dirty:
        del mapping.dirty[index]
        kernel.mem.vm_stat[NR_FILE_DIRTY] -= 1
        bdi = inode_to_bdi(mapping.host)
        if bdi is not None:
            bdi.wb.stat[WB_RECLAIMABLE] -= 1


def account_page_redirty(kernel: Kernel, mapping: AddressSpace) -> None:
    """The page was dirty before: it must not count as dirtied twice."""
    bdi = inode_to_bdi(mapping.host)
    if bdi_cap_account_dirty(bdi):
        assert bdi is not None
        current().nr_dirtied -= 1
        kernel.mem.vm_stat[NR_DIRTIED] -= 1
        bdi.wb.stat[WB_DIRTIED] -= 1


def redirty_page_for_writepage(wbc: WritebackControl, mapping: AddressSpace, pfn: int) -> bool:
    """->writepage cannot store the page now: it is dirty again."""
    kernel = current().kernel
    wbc.pages_skipped += 1
    done = __set_page_dirty_nobuffers(mapping, pfn)
    account_page_redirty(kernel, mapping)
    return done


def mapping_set_error(mapping: AddressSpace, errno: int) -> None:
    """A page of the file could not be stored: fsync() of every open file will say so, once."""
    if not errno:
        return
    mapping.flags |= AS_ENOSPC if errno == ENOSPC else AS_EIO
    __filemap_set_wb_err(mapping, errno)


def __filemap_set_wb_err(mapping: AddressSpace, errno: int) -> None:
    mapping.wb_err = errseq_set(mapping.wb_err, errno)
    probe = current().kernel.tp.filemap_set_wb_err
    if probe is not None:
        probe(mapping, mapping.wb_err)


def __cancel_dirty_page(kernel: Kernel, pfn: int) -> None:
    """The page will never be stored: it is being truncated."""
    mem = kernel.mem
    mem.flags[pfn] &= ~PG_dirty
    mapping = mem.mapping.get(pfn)
    if mapping is not None:
        account_page_cleaned(kernel, mapping, mem.index[pfn])


@notrace
def cancel_dirty_page(kernel: Kernel, pfn: int) -> None:
    if kernel.mem.flags[pfn] & PG_dirty:
        __cancel_dirty_page(kernel, pfn)


def clear_page_dirty_for_io(kernel: Kernel, pfn: int) -> bool:
    """True if the page was dirty, and is clean from now on. Locks: page."""
    mem = kernel.mem
    mapping = mem.mapping.get(pfn)
    cached = mapping is not None and not mapping.flags & AS_NO_WRITEBACK_TAGS
    if cached and page_mkclean(kernel, pfn):
        set_page_dirty(kernel, pfn)
    was_dirty = bool(mem.flags[pfn] & PG_dirty)
    mem.flags[pfn] &= ~PG_dirty
    if cached:
        assert mapping is not None
        forget_dirty(kernel, mapping, mem.index[pfn])
    return was_dirty


# ---- on the way to the device -----------------------------------------------------------------------
@notrace
def set_page_writeback(kernel: Kernel, pfn: int) -> None:
    """The page is on its way to the device. Locks: page."""
    __test_set_page_writeback(kernel, pfn, False)


def __test_set_page_writeback(kernel: Kernel, pfn: int, keep_write: bool) -> bool:
    """Sets PG_writeback; answers what it was. keep_write: the page stays tagged as one to be stored."""
    mem = kernel.mem
    was = mem.flags[pfn]
    if was & PG_writeback:
        return True
    mem.flags[pfn] = was | PG_writeback
    mem.vm_stat[NR_WRITEBACK] += 1
    mapping = mem.mapping.get(pfn)
    if mapping is not None and not mapping.flags & AS_NO_WRITEBACK_TAGS:
        first = not mapping.writeback
        mapping.writeback[mem.index[pfn]] = None
        bdi = inode_to_bdi(mapping.host)
        if bdi is not None:
            bdi.wb.stat[WB_WRITEBACK] += 1
            if first:
                kernel.writeback.sb_mark_inode_writeback(mapping.host)
    return False


def end_page_writeback(kernel: Kernel, pfn: int) -> None:
    """The device has it. Context: any."""
    mem = kernel.mem
    if mem.flags[pfn] & PG_reclaim:
        mem.flags[pfn] &= ~PG_reclaim
        rotate_reclaimable_page(kernel, pfn)
    assert test_clear_page_writeback(kernel, pfn), "end_page_writeback() of a page that was not on its way"
    if pfn in kernel.filemap.waiters:
        wake_up_page(kernel, pfn)


def test_clear_page_writeback(kernel: Kernel, pfn: int) -> bool:
    """Clears PG_writeback; answers what it was."""
    mem = kernel.mem
    was = mem.flags[pfn]
    if not was & PG_writeback:
        return False
    mem.flags[pfn] = was & ~PG_writeback
    vm_stat = mem.vm_stat
    vm_stat[NR_WRITEBACK] -= 1
    vm_stat[NR_WRITTEN] += 1
    mapping = mem.mapping.get(pfn)
    if mapping is not None and not mapping.flags & AS_NO_WRITEBACK_TAGS:
        mapping.writeback.pop(mem.index[pfn], None)
        bdi = inode_to_bdi(mapping.host)
        if bdi is not None:
            bdi.wb.stat[WB_WRITEBACK] -= 1
            bdi.wb.stat[WB_WRITTEN] += 1
            if not mapping.writeback:
                kernel.writeback.sb_clear_inode_writeback(mapping.host)
    return True


# ---- storing ---------------------------------------------------------------------------------------
@may_sleep
def do_writepages(mapping: AddressSpace, wbc: WritebackControl) -> None:
    """Stores the dirty pages of wbc's range. Raises what the file system raises first (EIO, ENOSPC)."""
    if wbc.nr_to_write <= 0:
        return
    writepages = mapping.a_ops.writepages
    if writepages is not None:
        writepages(mapping, wbc)
    else:
        generic_writepages(mapping, wbc)


@may_sleep
def generic_writepages(mapping: AddressSpace, wbc: WritebackControl) -> None:
    """->writepages through ->writepage, page by page."""
    if mapping.a_ops.writepage is None:
        return
    hooks = current().kernel.filemap
    plug = hooks.blk_start_plug()
    try:
        write_cache_pages(mapping, wbc, __writepage, mapping)
    finally:
        hooks.blk_finish_plug(plug)


def __writepage(mapping: AddressSpace, index: int, pfn: int, wbc: WritebackControl, data: Any) -> int:
    writepage = mapping.a_ops.writepage
    assert writepage is not None
    try:
        return writepage(mapping, index, pfn, wbc)
    except KernelError as e:
        mapping_set_error(mapping, e.errno)
        raise


@notrace
def tagged_indices(tag: dict[int, None], start: int, end: int) -> list[int]:
    """The tagged pages of start..end in order (tag_pages_for_writeback() and pagevec_lookup_range_tag())."""
    if end - start < len(tag):
        return [index for index in range(start, end + 1) if index in tag]
    found = sorted(tag)
    return found[bisect_left(found, start) : bisect_right(found, end)]


@may_sleep
def write_cache_pages(mapping: AddressSpace, wbc: WritebackControl, writepage: WritepageFn, data: Any) -> None:
    """Locks, cleans and stores each dirty page of wbc's range, in order, until wbc.nr_to_write is used up.

    A failure ends it, but with WB_SYNC_ALL it goes on and the first one is raised at the end.
    """
    kernel = current().kernel
    mem = kernel.mem
    if wbc.range_cyclic:
        start, end = mapping.writeback_index, LAST_INDEX
        done_index = start
    else:
        start, end = wbc.range_start >> 12, wbc.range_end >> 12
        done_index = start
    range_whole = not wbc.range_cyclic and not wbc.range_start and wbc.range_end == LLONG_MAX
    errno = 0
    done = False
    for index in tagged_indices(mapping.dirty, start, end):
        pfn = mapping.pages.get(index, 0)
        if not pfn:
            continue
        done_index = index
        mem.refcount[pfn] += 1
        try:
            lock_page(kernel, pfn)
            if mem.mapping.get(pfn) is not mapping or not mem.flags[pfn] & PG_dirty:
                unlock_page(kernel, pfn)           # truncated, or stored by somebody else, while we slept
                continue
            if mem.flags[pfn] & PG_writeback:
                if wbc.sync_mode == WB_SYNC_NONE:
                    unlock_page(kernel, pfn)
                    continue
                wait_on_page_writeback(kernel, pfn)
            if not clear_page_dirty_for_io(kernel, pfn):
                unlock_page(kernel, pfn)
                continue
            probe = kernel.tp.wbc_writepage
            if probe is not None:
                probe(wbc, inode_to_bdi(mapping.host))
            try:
                if writepage(mapping, index, pfn, wbc, data) == AOP_WRITEPAGE_ACTIVATE:
                    unlock_page(kernel, pfn)
            except KernelError as e:
                errno = errno or e.errno
                if wbc.sync_mode != WB_SYNC_ALL:
                    done_index = index + 1
                    done = True
                    break
        finally:
            put_page(kernel, pfn)
        wbc.nr_to_write -= 1
        if wbc.nr_to_write <= 0 and wbc.sync_mode == WB_SYNC_NONE:
            done_index = index + 1
            done = True
            break
    if wbc.range_cyclic and not done:
        done_index = 0
    if wbc.range_cyclic or (range_whole and wbc.nr_to_write > 0):
        mapping.writeback_index = done_index
    if errno:
        raise KernelError(errno)


def filemap_check_errors(mapping: AddressSpace) -> None:
    """Raises the error that was noted since the last check, once for everybody: who has no file to ask for."""
    flags = mapping.flags
    if flags & (AS_EIO | AS_ENOSPC):
        mapping.flags = flags & ~(AS_EIO | AS_ENOSPC)
        raise KernelError(EIO if flags & AS_EIO else ENOSPC)


@notrace
@may_sleep
def wait_for_writeback_range(mapping: AddressSpace, start: int, end: int) -> None:
    """Waits for every page of the range that is on its way (__filemap_fdatawait_range)."""
    if not mapping.writeback:
        return
    kernel = current().kernel
    for index in tagged_indices(mapping.writeback, start, end):
        pfn = mapping.pages.get(index, 0)
        if pfn:
            kernel.mem.refcount[pfn] += 1
            wait_on_page_writeback(kernel, pfn)
            put_page(kernel, pfn)
