"""swapoff(2): everything comes back from a swap area.

Linux: mm/swapfile.c (5.3). Same: try_to_unuse() walks tmpfs, then every address space, then the swap cache, until no
    slot is in use; a signal ends it, and the area is taken up again.
Differs: a page that cannot be read ends it with EIO; Linux maps what is there.
Owns: the end of a SwapInfoStruct. Lock order: mmap_sem of any process, page lock.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.pgtable import PTE_ACCESSED, PTE_PRESENT, PTE_PROTNONE, pte_to_swp_entry
from glasskernel.fs.file_table import fput
from glasskernel.fs.inode import inode_lock, inode_unlock
from glasskernel.fs.open import filp_open
from glasskernel.fs.path_walk import getname
from glasskernel.fs.types import O_RDWR, S_SWAPFILE
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.mutex import mutex_lock, mutex_unlock
from glasskernel.kernel.locking.rwsem import down_read, up_read
from glasskernel.kernel.sched.core import cond_resched, signal_pending
from glasskernel.lib.errno import EINTR, EINVAL, EIO, EPERM, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep
from glasskernel.mm.memory import pte_ranges, set_pte_at
from glasskernel.mm.mmap import mmget, mmput
from glasskernel.mm.page_alloc import GFP_HIGHUSER_MOVABLE, PG_uptodate, put_page
from glasskernel.mm.pagemap import find_get_page, lock_page, unlock_page, wait_on_page_writeback
from glasskernel.mm.rmap import do_page_add_anon_rmap
from glasskernel.mm.shmem_swap import shmem_unuse
from glasskernel.mm.swap import activate_page
from glasskernel.mm.swap_state import lookup_swap_cache, swapin_readahead
from glasskernel.mm.swap_types import (
    SWAP_MAP_BAD,
    SWP_WRITEOK,
    SwapInfoStruct,
    SwapState,
    swp_offset,
    swp_type,
)
from glasskernel.mm.swapfile import swap_free, swap_state, try_to_free_swap
from glasskernel.mm.swapon import O_LARGEFILE, enable_swap_info, release_bdev
from glasskernel.mm.types import MM_SWAPENTS, MmStruct, VmAreaStruct
from glasskernel.mm.util import security_vm_enough_memory_mm, vm_unacct_memory

if TYPE_CHECKING:
    from glasskernel.fs.types import File
    from glasskernel.init.kernel import Kernel


@syscall
@may_sleep
def sys_swapoff(specialfile: UserPtr) -> int:
    """swapoff(2). Errors: EPERM, EINVAL (not in use), ENOMEM (it would not fit into memory), EINTR."""
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    kernel = current().kernel
    victim = filp_open(getname(specialfile), O_RDWR | O_LARGEFILE, 0)
    try:
        swap = kernel.swap
        mapping = victim.f_mapping
        p = None
        if swap is not None:
            p = next((si for si in swap.active if si.swap_file and si.swap_file.f_mapping is mapping), None)
        if swap is None or p is None:
            raise KernelError(EINVAL)
        mm = current().mm
        assert mm is not None
        security_vm_enough_memory_mm(mm, p.pages)
        vm_unacct_memory(kernel, p.pages)
        disable_swap_info(swap, p)
        try:
            try_to_unuse(kernel, p)
        except KernelError:
            enable_swap_info(swap, p, p.prio)            # reinsert_swap_info(): it goes on
            raise
        destroy_swap_info(swap, p)
    finally:
        fput(victim)
    return 0


def disable_swap_info(swap: SwapState, p: SwapInfoStruct) -> None:
    """Nothing more is written there. Areas without a priority of their own that come later move up."""
    position = swap.active.index(p)
    if p.prio < 0:
        for si in swap.active[position + 1 :]:
            si.prio += 1
        swap.least_priority += 1
    del swap.active[position]
    swap.nr_swap_pages -= p.pages
    swap.total_swap_pages -= p.pages
    p.flags &= ~SWP_WRITEOK


@may_sleep
def destroy_swap_info(swap: SwapState, p: SwapInfoStruct) -> None:
    """Nobody has a slot any more: the disk or file is free."""
    mutex_lock(swap.swapon_mutex)
    swap_file: File | None = p.swap_file
    assert swap_file is not None and not swap.spaces[p.type].pages
    inode = swap_file.f_mapping.host
    assert inode is not None
    p.swap_file = None
    p.max = p.pages = p.highest_bit = 0
    p.swap_map = bytearray()
    p.swap_extents.clear()
    mutex_unlock(swap.swapon_mutex)
    release_bdev(p)
    inode_lock(inode)
    inode.i_flags &= ~S_SWAPFILE
    inode_unlock(inode)
    fput(swap_file)
    p.flags = 0


# ---- bringing everything back -----------------------------------------------------------------------------------
@may_sleep
def try_to_unuse(kernel: Kernel, si: SwapInfoStruct) -> None:
    """Empties an area that nothing is written to any more. Raises EINTR, ENOMEM, EIO."""
    while si.inuse_pages:
        shmem_unuse(kernel, si.type)
        for mm in tuple(kernel.mm_list):
            if not si.inuse_pages or signal_pending(current()):
                break
            if mm.mm_users and mm.rss_stat[MM_SWAPENTS]:
                mmget(mm)
                try:
                    unuse_mm(mm, si.type)
                finally:
                    mmput(mm)
                cond_resched()
        offset = 0
        while si.inuse_pages and not signal_pending(current()):
            offset = find_next_to_unuse(si, offset)
            if not offset:
                break
            pfn = find_get_page(swap_state(kernel).spaces[si.type], offset)
            if pfn:                                      # it was swapped in, or nobody but the cache has it
                lock_page(kernel, pfn)
                wait_on_page_writeback(kernel, pfn)
                try_to_free_swap(kernel, pfn)
                unlock_page(kernel, pfn)
                put_page(kernel, pfn)
        if si.inuse_pages and signal_pending(current()):
            raise KernelError(EINTR)


def find_next_to_unuse(si: SwapInfoStruct, previous: int) -> int:
    """The next slot that is in use; 0: there is none."""
    cond_resched()
    swap_map = si.swap_map
    return next((offset for offset in range(previous + 1, si.max)
                 if swap_map[offset] and swap_map[offset] != SWAP_MAP_BAD), 0)


@may_sleep
def unuse_mm(mm: MmStruct, type: int) -> None:
    """Every page of an address space that is in the area is read, and mapped."""
    down_read(mm.mmap_sem)
    try:
        for vma in mm.vmas.values():
            if vma.anon_vma is not None:
                unuse_vma(vma, type)
            cond_resched()
    finally:
        up_read(mm.mmap_sem)


@may_sleep
def unuse_vma(vma: VmAreaStruct, type: int) -> None:
    ram64 = vma.vm_mm.kernel.mem.ram64
    for address, first, count in pte_ranges(vma.vm_mm, vma.vm_start, vma.vm_end, lambda *_huge: True):
        for i in range(count):
            pte = ram64[first + i]
            if pte and not pte & (PTE_PRESENT | PTE_PROTNONE) and swp_type(pte_to_swp_entry(pte)) == type:
                unuse_pte_range(vma, address + (i << 12), first + i, pte_to_swp_entry(pte))


@may_sleep
def unuse_pte_range(vma: VmAreaStruct, address: int, slot: int, entry: int) -> None:
    """One page (Linux: all of a table). Raises ENOMEM, EIO."""
    kernel = vma.vm_mm.kernel
    pfn = lookup_swap_cache(kernel, entry) or swapin_readahead(kernel, entry, GFP_HIGHUSER_MOVABLE, vma)
    if not pfn:
        assert not swap_state(kernel).info[swp_type(entry)].swap_map[swp_offset(entry)]
        return                                           # nobody has the slot any more
    lock_page(kernel, pfn)
    wait_on_page_writeback(kernel, pfn)
    try:
        if not kernel.mem.flags[pfn] & PG_uptodate:
            raise KernelError(EIO)
        unuse_pte(vma, address, slot, entry, pfn)
        try_to_free_swap(kernel, pfn)
    finally:
        unlock_page(kernel, pfn)
        put_page(kernel, pfn)


def unuse_pte(vma: VmAreaStruct, address: int, slot: int, entry: int, pfn: int) -> None:
    """Maps a page that came back, old and read-only. Locks: page."""
    mm = vma.vm_mm
    kernel = mm.kernel
    mem = kernel.mem
    pte = mem.ram64[slot]
    if not pte or pte & (PTE_PRESENT | PTE_PROTNONE) or pte_to_swp_entry(pte) != entry:
        return                                           # a page fault was faster
    mm.rss_stat[MM_SWAPENTS] -= 1
    mem.refcount[pfn] += 1
    do_page_add_anon_rmap(vma, address, pfn, False)
    set_pte_at(vma, slot, pfn, False)
    mem.ram64[slot] &= ~PTE_ACCESSED
    swap_free(kernel, entry)
    activate_page(kernel, pfn)
