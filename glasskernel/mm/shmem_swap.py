"""tmpfs in swap areas: its pages are written there when memory runs short, and come back when they are touched.

Linux: shmem_writepage(), shmem_swapin_page(), shmem_unuse() of mm/shmem.c (5.3): imported by the first swapon(2).
Same: a page moves from the file's page cache to the swap cache and back; truncated files give their slots up.
Differs: the entries of swapped pages are in ShmemInodeInfo.swapped, by index, not in the tree of the page cache.
Owns: ShmemInodeInfo.swapped; SwapState.shmem_swaplist: the inodes that have any.
Invariants: an index is in `swapped` or in the page cache, never in both; each entry in `swapped` counts one use of its
    slot.
Gaps: reading ahead of a file's swapped pages (MADV_WILLNEED), memory policies.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.inode import ihold, iput
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.core import cond_resched, signal_pending
from glasskernel.lib.errno import EIO, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import (
    GFP_HIGHUSER_MOVABLE,
    NR_FILE_PAGES,
    NR_SHMEM,
    PG_swapbacked,
    PG_swapcache,
    PG_uptodate,
    put_page,
)
from glasskernel.mm.page_io import swap_writepage
from glasskernel.mm.pagemap import lock_page, set_page_dirty, unlock_page, wait_on_page_writeback
from glasskernel.mm.shmem import SHMEM_I, shmem_recalc_inode
from glasskernel.mm.swap_state import (
    add_to_swap_cache,
    delete_from_swap_cache,
    lookup_swap_cache,
    swap_cluster_readahead,
)
from glasskernel.mm.swap_types import swp_type
from glasskernel.mm.swapfile import get_swap_page, swap_free, swap_shmem_alloc, swap_state

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.types import AddressSpace, WritebackControl


@may_sleep
def shmem_swap_page_out(kernel: Kernel, mapping: AddressSpace, index: int, pfn: int, wbc: WritebackControl) -> bool:
    """The body of shmem_writepage(): the page goes to a swap area. Locks: page, dropped. False: no slot is free."""
    inode = mapping.host
    assert inode is not None and not kernel.mem.mapcount[pfn]
    entry = get_swap_page(kernel)
    if not entry:
        return False
    swap_state(kernel).shmem_swaplist[inode] = None
    shmem_delete_from_page_cache(kernel, mapping, index, pfn)
    add_to_swap_cache(kernel, pfn, entry)
    put_page(kernel, pfn)                                # the page cache's reference
    swap_shmem_alloc(kernel, entry)
    SHMEM_I(inode).swapped[index] = entry
    shmem_recalc_inode(inode)
    swap_writepage(mapping, index, pfn, wbc)
    return True


def shmem_delete_from_page_cache(kernel: Kernel, mapping: AddressSpace, index: int, pfn: int) -> None:
    """Out of the file's tree, but still dirty: it will be written. The caller drops the cache's reference."""
    mem = kernel.mem
    del mapping.pages[index]
    del mem.mapping[pfn]
    mem.vm_stat[NR_FILE_PAGES] -= 1
    mem.vm_stat[NR_SHMEM] -= 1


def shmem_add_to_page_cache(kernel: Kernel, mapping: AddressSpace, index: int, pfn: int) -> None:
    """Into the file's tree, where a swap entry was. Locks: page; it is in no cache."""
    mem = kernel.mem
    mem.refcount[pfn] += 1
    mem.mapping[pfn] = mapping
    mem.index[pfn] = index
    mem.flags[pfn] |= PG_swapbacked
    mapping.pages[index] = pfn
    mem.vm_stat[NR_FILE_PAGES] += 1
    mem.vm_stat[NR_SHMEM] += 1


@may_sleep
def shmem_swapin_page(inode: Inode, index: int, gfp: int) -> int:
    """Brings a swapped page back: its frame, with a reference; 0: it is not there any more. Raises EIO, ENOMEM."""
    kernel = inode.i_sb.kernel
    mem = kernel.mem
    swapped = SHMEM_I(inode).swapped
    entry = swapped[index]
    pfn = lookup_swap_cache(kernel, entry) or swap_cluster_readahead(kernel, entry, gfp, None)
    if not pfn:
        return 0
    lock_page(kernel, pfn)
    wait_on_page_writeback(kernel, pfn)
    try:
        # Somebody may have been faster, or the file was truncated.
        if (not mem.flags[pfn] & PG_swapcache or swap_state(kernel).private[pfn] != entry
                or swapped.get(index) != entry):
            put_page(kernel, pfn)
            return 0
        if not mem.flags[pfn] & PG_uptodate:
            put_page(kernel, pfn)
            raise KernelError(EIO)
        del swapped[index]
        delete_from_swap_cache(kernel, pfn)
        shmem_add_to_page_cache(kernel, inode.i_mapping, index, pfn)
        set_page_dirty(kernel, pfn)
        swap_free(kernel, entry)
        shmem_recalc_inode(inode)
        if not swapped:
            swap_state(kernel).shmem_swaplist.pop(inode, None)
        return pfn
    finally:
        unlock_page(kernel, pfn)


@notrace
def shmem_free_swap(inode: Inode, start: int, end: int) -> None:
    """Pages start <= index < end of a file are being truncated: their slots are free."""
    kernel = inode.i_sb.kernel
    swap = swap_state(kernel)
    swapped = SHMEM_I(inode).swapped
    for index in [i for i in swapped if start <= i < end]:
        swap.free_swap_and_cache(kernel, swapped.pop(index))
    if not swapped:
        swap.shmem_swaplist.pop(inode, None)


@may_sleep
def shmem_unuse(kernel: Kernel, type: int) -> None:
    """swapoff(2): every page of tmpfs that is in an area comes back. Raises EIO, ENOMEM."""
    for inode in tuple(swap_state(kernel).shmem_swaplist):
        if signal_pending(current()):
            return
        shmem_unuse_inode(inode, type)
        cond_resched()


@may_sleep
def shmem_unuse_inode(inode: Inode, type: int) -> None:
    swapped = SHMEM_I(inode).swapped
    kernel = inode.i_sb.kernel
    ihold(inode)                                         # the file may be unlinked while we read
    try:
        for index in [i for i, entry in swapped.items() if swp_type(entry) == type]:
            if index in swapped:
                pfn = shmem_swapin_page(inode, index, GFP_HIGHUSER_MOVABLE)
                if pfn:
                    put_page(kernel, pfn)
    finally:
        iput(inode)
