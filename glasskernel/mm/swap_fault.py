"""Page faults on what is in a swap area.

Linux: do_swap_page() and a branch of do_wp_page() of mm/memory.c (5.3): imported by the first swapon(2). Same: the page
    is looked up in the swap cache, or read with its neighbours (a major fault); who is the only user of its slot gets
    it writable at once, others share it until one of them writes.
Owns: nothing. Lock order: mmap_sem, page lock; with VM_FAULT_RETRY mmap_sem is held no more.
Gaps: KSM, device memory, migration entries, skipping the swap cache for synchronous devices.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.arch.x86.pgtable import PTE_MASK, pte_to_swp_entry
from glasskernel.kernel.locking.rwsem import up_read
from glasskernel.lib.errno import KernelError, Restart
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.memory import (
    FAULT_FLAG_ALLOW_RETRY,
    FAULT_FLAG_KILLABLE,
    FAULT_FLAG_WRITE,
    do_wp_page,
    set_pte_at,
    wp_page_copy,
    wp_page_reuse,
)
from glasskernel.mm.page_alloc import GFP_HIGHUSER_MOVABLE, PG_mlocked, PG_swapcache, PG_uptodate, put_page
from glasskernel.mm.pagemap import (
    lock_page,
    lock_page_killable,
    trylock_page,
    unlock_page,
    wait_on_page_locked,
    wait_on_page_locked_killable,
)
from glasskernel.mm.rmap import anon_vma_prepare, do_page_add_anon_rmap, page_move_anon_rmap
from glasskernel.mm.swap import activate_page
from glasskernel.mm.swap_state import lookup_swap_cache, swapin_readahead
from glasskernel.mm.swap_types import vm_swap_full
from glasskernel.mm.swapfile import reuse_swap_page, swap_free, swap_state, try_to_free_swap
from glasskernel.mm.types import (
    MM_SWAPENTS,
    VM_FAULT_ERROR,
    VM_FAULT_MAJOR,
    VM_FAULT_OOM,
    VM_FAULT_RETRY,
    VM_FAULT_SIGBUS,
    VM_FAULT_WRITE,
    VM_LOCKED,
    VM_WRITE,
    VmAreaStruct,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


@may_sleep
def do_swap_page(vma: VmAreaStruct, address: int, slot: int, flags: int, orig_pte: int) -> int:
    """A page that is in a swap area is touched. Answers VM_FAULT_*; 0 also if the entry changed meanwhile."""
    mm = vma.vm_mm
    kernel = mm.kernel
    mem = kernel.mem
    entry = pte_to_swp_entry(orig_pte)
    fault = 0
    pfn = lookup_swap_cache(kernel, entry)
    if not pfn:
        try:
            pfn = swapin_readahead(kernel, entry, GFP_HIGHUSER_MOVABLE, vma)
        except KernelError:
            pfn = 0
        if not pfn:                                      # somebody else may have been here, or there is no memory
            return VM_FAULT_OOM if mem.ram64[slot] == orig_pte else 0
        fault = VM_FAULT_MAJOR
    if not lock_page_or_retry(vma, pfn, flags):
        put_page(kernel, pfn)
        return fault | VM_FAULT_RETRY
    swap = swap_state(kernel)
    # It may have left the cache while we waited: then the entry is stale, too, or will be read again.
    if not mem.flags[pfn] & PG_swapcache or swap.private[pfn] != entry or mem.ram64[slot] != orig_pte:
        return give_up(kernel, pfn, fault)
    if not mem.flags[pfn] & PG_uptodate:
        return give_up(kernel, pfn, VM_FAULT_SIGBUS)
    anon_vma_prepare(vma)
    mm.rss_stat[MM_SWAPENTS] -= 1
    exclusive = bool(flags & FAULT_FLAG_WRITE) and reuse_swap_page(kernel, pfn)
    writable = exclusive and bool(vma.vm_flags & VM_WRITE)
    if exclusive:
        flags &= ~FAULT_FLAG_WRITE
        fault |= VM_FAULT_WRITE
    do_page_add_anon_rmap(vma, address, pfn, exclusive)
    set_pte_at(vma, slot, pfn, writable)
    activate_page(kernel, pfn)
    swap_free(kernel, entry)
    if vm_swap_full(swap) or vma.vm_flags & VM_LOCKED or mem.flags[pfn] & PG_mlocked:
        try_to_free_swap(kernel, pfn)
    unlock_page(kernel, pfn)
    if flags & FAULT_FLAG_WRITE:
        fault |= do_wp_page(vma, address, slot, mem.ram64[slot], flags)
        if fault & VM_FAULT_ERROR:
            fault &= VM_FAULT_ERROR
    return fault


@notrace
def give_up(kernel: Kernel, pfn: int, fault: int) -> int:
    unlock_page(kernel, pfn)
    put_page(kernel, pfn)
    return fault


@notrace
@may_sleep
def lock_page_or_retry(vma: VmAreaStruct, pfn: int, flags: int) -> bool:
    """Locks the page. False: it was locked, mmap_sem was dropped for the wait, and the fault starts again."""
    if trylock_page(vma.vm_mm.kernel, pfn):
        return True
    return __lock_page_or_retry(vma, pfn, flags)


@may_sleep
def __lock_page_or_retry(vma: VmAreaStruct, pfn: int, flags: int) -> bool:
    """The slow half (mm/filemap.c)."""
    kernel = vma.vm_mm.kernel
    killable = bool(flags & FAULT_FLAG_KILLABLE)
    if flags & FAULT_FLAG_ALLOW_RETRY:
        up_read(vma.vm_mm.mmap_sem)
        with suppress(Restart):                          # a fatal signal: the caller looks for it
            (wait_on_page_locked_killable if killable else wait_on_page_locked)(kernel, pfn)
        return False
    if not killable:
        lock_page(kernel, pfn)
        return True
    try:
        lock_page_killable(kernel, pfn)
    except Restart:
        up_read(vma.vm_mm.mmap_sem)
        return False
    return True


@may_sleep
def do_wp_swap_cache_page(vma: VmAreaStruct, address: int, slot: int, entry: int) -> int:
    """do_wp_page() of a page in the swap cache that only this entry maps. If nobody else has its slot, it is ours."""
    kernel = vma.vm_mm.kernel
    mem = kernel.mem
    pfn = (entry & PTE_MASK) >> 12
    if not trylock_page(kernel, pfn):
        mem.refcount[pfn] += 1
        lock_page(kernel, pfn)
        put_page(kernel, pfn)
        if mem.ram64[slot] != entry:
            unlock_page(kernel, pfn)
            return 0
    mine = reuse_swap_page(kernel, pfn)
    if mine:
        page_move_anon_rmap(vma, pfn)
    unlock_page(kernel, pfn)
    if not mine:
        return wp_page_copy(vma, address, slot, entry)
    wp_page_reuse(vma, address, slot, entry)
    return VM_FAULT_WRITE
