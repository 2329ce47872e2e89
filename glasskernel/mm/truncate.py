"""Taking pages out of the page cache: truncation and invalidation.

Linux: mm/truncate.c (5.3). Same: partial pages at both ends are zeroed, mapped pages are unmapped first,
    dirty and mapped pages survive invalidate_mapping_pages().
Owns: nothing. Invariant: after truncate_setsize(inode, n) no page behind n is cached or mapped, and the
    bytes behind n in the last page are zero.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.kernel.sched.core import cond_resched
from glasskernel.lib.errno import EBUSY, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.memory import unmap_mapping_range
from glasskernel.mm.page_alloc import PG_dirty, PG_private, PG_writeback, put_page
from glasskernel.mm.page_writeback import (
    __cancel_dirty_page,
    set_page_dirty,
    wait_on_page_writeback,
)
from glasskernel.mm.pagemap import (
    delete_from_page_cache,
    find_get_pages_range,
    find_lock_page,
    lock_page,
    try_to_release_page,
    trylock_page,
    unlock_page,
    zero_user_segment,
)
from glasskernel.mm.rmap import page_mkclean
from glasskernel.mm.swap import deactivate_file_page
from glasskernel.mm.types import AddressSpace

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode
    from glasskernel.init.kernel import Kernel

_LAST_INDEX = (1 << 52) - 1


# ---- truncation ------------------------------------------------------------------------------------
@may_sleep
def truncate_inode_pages(mapping: AddressSpace, lstart: int) -> None:
    """Drops every page from byte lstart on. Locks: the inode's i_rwsem, or the inode is going away."""
    truncate_inode_pages_range(mapping, lstart, -1)


@may_sleep
def truncate_inode_pages_final(mapping: AddressSpace) -> None:
    """Drops every page before the inode is freed."""
    if mapping.pages:
        truncate_inode_pages(mapping, 0)


@may_sleep
def truncate_inode_pages_range(mapping: AddressSpace, lstart: int, lend: int) -> None:
    """Drops the pages of bytes lstart..lend (inclusive; -1: to the end); partial pages are zeroed."""
    if not mapping.pages:
        return
    kernel = current().kernel
    partial_start = lstart & 0xFFF
    partial_end = (lend + 1) & 0xFFF if lend != -1 else 0
    start = (lstart + 0xFFF) >> 12
    end = _LAST_INDEX + 1 if lend == -1 else (lend + 1) >> 12        # exclusive
    if start < end:
        for index, pfn in find_get_pages_range(mapping, start, end - 1):
            lock_page(kernel, pfn)
            wait_on_page_writeback(kernel, pfn)
            if kernel.mem.mapping.get(pfn) is mapping and kernel.mem.index[pfn] == index:
                truncate_inode_page(kernel, mapping, index, pfn)
            unlock_page(kernel, pfn)
            put_page(kernel, pfn)
        cond_resched()
    if partial_start:
        top = 4096
        if start > end:                                              # both ends lie in one page
            top = partial_end
            partial_end = 0
        _zero_partial(kernel, mapping, start - 1, partial_start, top)
    if partial_end:
        _zero_partial(kernel, mapping, end, 0, partial_end)


@notrace
@may_sleep
def _zero_partial(kernel: Kernel, mapping: AddressSpace, index: int, low: int, high: int) -> None:
    pfn = find_lock_page(mapping, index)
    if pfn:
        wait_on_page_writeback(kernel, pfn)
        zero_user_segment(kernel, pfn, low, high)      # a page of small blocks may be up to date in parts
        if kernel.mem.flags[pfn] & PG_private:
            do_invalidatepage(kernel, mapping, pfn, low, high - low)
        unlock_page(kernel, pfn)
        put_page(kernel, pfn)


def truncate_inode_page(kernel: Kernel, mapping: AddressSpace, index: int, pfn: int) -> None:
    """Drops one page: unmapped, its dirt forgotten. Locks: page."""
    truncate_cleanup_page(kernel, mapping, index, pfn)
    delete_from_page_cache(kernel, pfn)


def truncate_cleanup_page(kernel: Kernel, mapping: AddressSpace, index: int, pfn: int) -> None:
    if kernel.mem.mapcount[pfn]:
        unmap_mapping_range(mapping, index << 12, 4096, False)
    if kernel.mem.flags[pfn] & PG_private:
        do_invalidatepage(kernel, mapping, pfn, 0, 4096)
    __cancel_dirty_page(kernel, pfn)


def do_invalidatepage(kernel: Kernel, mapping: AddressSpace, pfn: int, offset: int, length: int) -> None:
    """->invalidatepage(): bytes offset .. offset + length of a page with buffers are being truncated. Locks: page."""
    invalidatepage = mapping.a_ops.invalidatepage
    if invalidatepage is None:
        invalidatepage = kernel.filemap.block_invalidatepage
    invalidatepage(pfn, offset, length)


@may_sleep
def truncate_pagecache(inode: Inode, newsize: int) -> None:
    """Unmaps and drops everything behind newsize. i_size is the new one already."""
    mapping = inode.i_mapping
    holebegin = (newsize + 0xFFF) & ~0xFFF
    unmap_mapping_range(mapping, holebegin, 0, True)
    truncate_inode_pages(mapping, newsize)
    unmap_mapping_range(mapping, holebegin, 0, True)         # private copies that were made in between


@may_sleep
def truncate_setsize(inode: Inode, newsize: int) -> None:
    """A new i_size, and a page cache that fits it. Locks: i_rwsem."""
    oldsize = inode.i_size
    inode.i_size = newsize
    if newsize > oldsize:
        pagecache_isize_extended(inode, oldsize, newsize)
    truncate_pagecache(inode, newsize)


@may_sleep
def pagecache_isize_extended(inode: Inode, start: int, end: int) -> None:
    """The file grew from start to end: the page that both share must fault again before its next store.

    Only needed where a block is smaller than a page (the new blocks must be allocated).
    """
    bsize = 1 << inode.i_blkbits
    if start >= end or bsize >= 4096:
        return
    rounded = (start + bsize - 1) & -bsize
    if end <= rounded or not rounded & 0xFFF:
        return
    pfn = find_lock_page(inode.i_mapping, start >> 12)
    if not pfn:
        return
    kernel = current().kernel
    if page_mkclean(kernel, pfn):
        set_page_dirty(kernel, pfn)
    unlock_page(kernel, pfn)
    put_page(kernel, pfn)


@may_sleep
def truncate_pagecache_range(inode: Inode, lstart: int, lend: int) -> None:
    """A hole of bytes lstart..lend (inclusive): its whole pages are unmapped and dropped, the ends zeroed."""
    mapping = inode.i_mapping
    unmap_start = (lstart + 0xFFF) & ~0xFFF
    unmap_end = ((lend + 1) & ~0xFFF) - 1
    if unmap_end > unmap_start:
        unmap_mapping_range(mapping, unmap_start, 1 + unmap_end - unmap_start, False)
    truncate_inode_pages_range(mapping, lstart, lend)


# ---- invalidation ----------------------------------------------------------------------------------
def invalidate_mapping_pages(mapping: AddressSpace, start: int, end: int) -> int:
    """Drops the clean, unused pages with start <= index <= end; answers how many went. Does not sleep."""
    kernel = current().kernel
    count = 0
    for _, pfn in find_get_pages_range(mapping, start, end):
        if trylock_page(kernel, pfn):
            invalidated = invalidate_inode_page(kernel, pfn)
            count += invalidated
            unlock_page(kernel, pfn)
            if not invalidated:
                deactivate_file_page(kernel, pfn)
        put_page(kernel, pfn)
    return count


def invalidate_inode_page(kernel: Kernel, pfn: int) -> bool:
    """Drops one clean page that nobody maps or holds. Locks: page; the caller has a reference."""
    mem = kernel.mem
    mapping = mem.mapping.get(pfn)
    if mapping is None or mapping.unevictable:
        return False
    if mem.flags[pfn] & (PG_dirty | PG_writeback) or mem.mapcount[pfn]:
        return False
    if mem.flags[pfn] & PG_private and not try_to_release_page(kernel, pfn, 0):
        return False
    if mem.refcount[pfn] > 2:
        return False
    delete_from_page_cache(kernel, pfn)
    return True


@may_sleep
def invalidate_inode_pages2(mapping: AddressSpace) -> None:
    """Drops every page, unmapping them. Raises EBUSY if a dirty one stays."""
    invalidate_inode_pages2_range(mapping, 0, _LAST_INDEX)


@may_sleep
def invalidate_inode_pages2_range(mapping: AddressSpace, start: int, end: int) -> None:
    """Drops the pages with start <= index <= end, unmapping them. EBUSY if a dirty or held one stays."""
    if not mapping.pages:
        return
    kernel = current().kernel
    busy = False
    for index, pfn in find_get_pages_range(mapping, start, end):
        lock_page(kernel, pfn)
        mem = kernel.mem
        if mem.mapping.get(pfn) is mapping:
            wait_on_page_writeback(kernel, pfn)
            if mem.mapcount[pfn]:
                unmap_mapping_range(mapping, index << 12, 4096, False)
            if mem.flags[pfn] & PG_private:
                try_to_release_page(kernel, pfn, 0)
            if mem.flags[pfn] & PG_dirty or mem.refcount[pfn] > 2:
                busy = True
            else:
                delete_from_page_cache(kernel, pfn)
        unlock_page(kernel, pfn)
        put_page(kernel, pfn)
    if busy:
        raise KernelError(EBUSY)
