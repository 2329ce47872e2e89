"""Dirty pages: marking them and storing them through ->writepage.

Linux: mm/page-writeback.c (5.3), page_mkclean() of mm/rmap.c. Same: clear_page_dirty_for_io()
    write-protects every mapping before the page is stored, so a later store through a mapping marks it
    dirty again.
Differs: ->writepage is synchronous; when it returns, the page is stored.
Owns: AddressSpace.dirty, PG_dirty and PG_writeback of cached frames, NR_FILE_DIRTY.
Invariant: PG_dirty of a cached frame implies that its index is in mapping.dirty, except where the file
    system's set_page_dirty keeps no tag (tmpfs: the frames are the data).
Gaps: no dirty thresholds, no flusher threads (the file systems of today are write-through or in memory).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.pgtable import PTE_DIRTY, PTE_MASK, PTE_PRESENT, PTE_WRITE, lookup_pte
from glasskernel.kernel.current import current
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import NR_FILE_DIRTY, NR_WRITEBACK, PG_dirty, PG_writeback, put_page
from glasskernel.mm.pagemap import (
    _wait_on_page_bit,
    find_get_pages_range,
    lock_page,
    unlock_page,
    wake_up_page,
)
from glasskernel.mm.tlb import flush_tlb_page
from glasskernel.mm.types import VM_SHARED, AddressSpace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

I_DIRTY_PAGES = 4              # include/linux/fs.h


def set_page_dirty(kernel: Kernel, pfn: int) -> None:
    """The frame was changed: the file system takes note. Context: any; the page cannot go away."""
    mapping = kernel.mem.mapping.get(pfn)
    if mapping is not None:
        mapping.a_ops.set_page_dirty(mapping, pfn)
    else:
        kernel.mem.flags[pfn] |= PG_dirty


def __set_page_dirty_nobuffers(mapping: AddressSpace, pfn: int) -> None:
    """->set_page_dirty of file systems that store pages: tags the page and marks its inode dirty."""
    kernel = current().kernel
    mem = kernel.mem
    if mem.flags[pfn] & PG_dirty:
        return
    mem.flags[pfn] |= PG_dirty
    account_page_dirtied(kernel, mapping, mem.index[pfn])
    if mapping.host is not None:
        kernel.filemap.mark_inode_dirty(mapping.host, I_DIRTY_PAGES)


def account_page_dirtied(kernel: Kernel, mapping: AddressSpace, index: int) -> None:
    """Sets PAGECACHE_TAG_DIRTY and counts."""
    if index not in mapping.dirty:
        mapping.dirty[index] = None
        kernel.mem.vm_stat[NR_FILE_DIRTY] += 1


@notrace
def _clear_dirty_tag(kernel: Kernel, mapping: AddressSpace, index: int) -> None:
    if index in mapping.dirty:
        del mapping.dirty[index]
        kernel.mem.vm_stat[NR_FILE_DIRTY] -= 1


def __cancel_dirty_page(kernel: Kernel, pfn: int) -> None:
    """The page will never be stored: it is being truncated."""
    mem = kernel.mem
    mem.flags[pfn] &= ~PG_dirty
    mapping = mem.mapping.get(pfn)
    if mapping is not None:
        _clear_dirty_tag(kernel, mapping, mem.index[pfn])


def clear_page_dirty_for_io(kernel: Kernel, pfn: int) -> bool:
    """True if the page was dirty, and is clean from now on. Locks: page."""
    mem = kernel.mem
    mapping = mem.mapping.get(pfn)
    if mapping is not None and page_mkclean(kernel, pfn):
        set_page_dirty(kernel, pfn)
    was_dirty = bool(mem.flags[pfn] & PG_dirty)
    mem.flags[pfn] &= ~PG_dirty
    if mapping is not None:
        _clear_dirty_tag(kernel, mapping, mem.index[pfn])
    return was_dirty


def page_mkclean(kernel: Kernel, pfn: int) -> int:
    """Write-protects and cleans every shared mapping of a page; answers how many entries needed it."""
    mem = kernel.mem
    if not mem.mapcount[pfn]:
        return 0
    index = mem.index[pfn]
    ram64 = mem.ram64
    cleaned = 0
    for vma in mem.mapping[pfn].i_mmap:
        if not vma.vm_flags & VM_SHARED:
            continue
        address = vma.vm_start + ((index - vma.vm_pgoff) << 12)
        if not vma.vm_start <= address < vma.vm_end:
            continue
        slot = lookup_pte(ram64, vma.vm_mm.pgd, address)
        if not slot:
            continue
        entry = ram64[slot]
        if entry & PTE_PRESENT and (entry & PTE_MASK) >> 12 == pfn and entry & (PTE_DIRTY | PTE_WRITE):
            ram64[slot] = entry & ~(PTE_DIRTY | PTE_WRITE)
            flush_tlb_page(vma, address)
            cleaned += 1
    return cleaned


# ---- storing ---------------------------------------------------------------------------------------
def set_page_writeback(kernel: Kernel, pfn: int) -> None:
    """The page is on its way to the device."""
    kernel.mem.flags[pfn] |= PG_writeback
    kernel.mem.vm_stat[NR_WRITEBACK] += 1


def end_page_writeback(kernel: Kernel, pfn: int) -> None:
    """The device has it. Context: any."""
    mem = kernel.mem
    mem.flags[pfn] &= ~PG_writeback
    mem.vm_stat[NR_WRITEBACK] -= 1
    wake_up_page(kernel, pfn)


@notrace
@may_sleep
def wait_on_page_writeback(kernel: Kernel, pfn: int) -> None:
    """Waits until the device has the page."""
    if kernel.mem.flags[pfn] & PG_writeback:
        _wait_on_page_bit(kernel, pfn, PG_writeback, False)


@may_sleep
def do_writepages(mapping: AddressSpace, start: int, end: int) -> None:
    """Stores the dirty pages with start <= index <= end.

    Raises what ->writepage raised first (EIO, ENOSPC).
    """
    if mapping.a_ops.writepage is not None:
        generic_writepages(mapping, start, end)


@may_sleep
def generic_writepages(mapping: AddressSpace, start: int, end: int) -> None:
    """do_writepages() for file systems without ->writepages of their own: all of ours."""
    write_cache_pages(mapping, start, end)


@may_sleep
def write_cache_pages(mapping: AddressSpace, start: int, end: int) -> None:
    """Locks, cleans and stores each tagged page in order; goes on after a failure, raises it at the end."""
    kernel = current().kernel
    writepage = mapping.a_ops.writepage
    assert writepage is not None
    errno = 0
    for index in sorted(i for i in mapping.dirty if start <= i <= end):
        pfn = mapping.pages.get(index, 0)
        if not pfn:
            continue
        kernel.mem.refcount[pfn] += 1
        lock_page(kernel, pfn)
        try:
            if kernel.mem.mapping.get(pfn) is not mapping:         # truncated while we slept
                continue
            wait_on_page_writeback(kernel, pfn)
            if not clear_page_dirty_for_io(kernel, pfn):
                continue
            set_page_writeback(kernel, pfn)
            try:
                writepage(mapping, index, pfn)
            except KernelError as e:
                errno = errno or e.errno
                set_page_dirty(kernel, pfn)        # nothing is lost: redirty_page_for_writepage()
            finally:
                end_page_writeback(kernel, pfn)
        finally:
            unlock_page(kernel, pfn)
            put_page(kernel, pfn)
    if errno:
        raise KernelError(errno)


@notrace
@may_sleep
def wait_for_writeback_range(mapping: AddressSpace, start: int, end: int) -> None:
    """Waits for every page of the range that is on its way."""
    kernel = current().kernel
    if not kernel.mem.vm_stat[NR_WRITEBACK]:
        return
    for _, pfn in find_get_pages_range(mapping, start, end):
        wait_on_page_writeback(kernel, pfn)
        put_page(kernel, pfn)
