"""Reclaim, page by page: what becomes of the pages that were taken off an inactive list.

Linux: the first half of mm/vmscan.c (5.3). Same: who used a page since the last time decides; anonymous pages get a
    swap entry, mapped ones are unmapped, dirty ones of files are left to the flushers unless kswapd finds nothing else.
Differs: lists of pages are lists of frame numbers, the head at the end.
Owns: PG_reclaim. Imported by the first shortage.
Gaps: huge pages, congested devices, lazily freed pages, workingset shadows.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.kernel.sched.core import cond_resched
from glasskernel.kernel.task import PF_KSWAPD
from glasskernel.lib.errno import KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.machine.costs import SCAN_PAGE
from glasskernel.mm.kswapd import PGDAT_DIRTY, PGDAT_WRITEBACK
from glasskernel.mm.page_alloc import (
    __GFP_FS,
    __GFP_IO,
    GFP_KERNEL,
    NR_VMSCAN_IMMEDIATE,
    NR_VMSCAN_WRITE,
    PGACTIVATE,
    PG_active,
    PG_anon,
    PG_dirty,
    PG_mlocked,
    PG_private,
    PG_reclaim,
    PG_referenced,
    PG_swapbacked,
    PG_swapcache,
    PG_writeback,
    free_unref_page_list,
    page_to_nid,
)
from glasskernel.mm.page_writeback import LLONG_MAX, clear_page_dirty_for_io, mapping_set_error
from glasskernel.mm.pagemap import (
    __delete_from_page_cache,
    lock_page,
    try_to_release_page,
    trylock_page,
    unlock_page,
)
from glasskernel.mm.rmap import TTU_BATCH_FLUSH, page_referenced, try_to_unmap
from glasskernel.mm.swap import page_evictable, page_is_file_cache
from glasskernel.mm.swap_types import vm_swap_full
from glasskernel.mm.types import (
    AOP_WRITEPAGE_ACTIVATE,
    VM_EXEC,
    VM_LOCKED,
    WB_SYNC_NONE,
    AddressSpace,
    WritebackControl,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

DEF_PRIORITY = 12
SWAP_CLUSTER_MAX = 32
PAGEREF_RECLAIM, PAGEREF_RECLAIM_CLEAN, PAGEREF_KEEP, PAGEREF_ACTIVATE = range(4)      # enum page_references
PAGE_KEEP, PAGE_ACTIVATE, PAGE_SUCCESS, PAGE_CLEAN = range(4)              # pageout_t


@slotted
class ReclaimStat:
    """struct reclaim_stat: what one batch of pages turned out to be. nr_activate: anonymous, file."""

    nr_dirty: int = 0
    nr_unqueued_dirty: int = 0             # and nobody writes them yet
    nr_congested: int = 0
    nr_writeback: int = 0
    nr_immediate: int = 0                  # they wait for the device since the last round
    nr_activate: list[int] = field(default_factory=lambda: [0, 0])
    nr_ref_keep: int = 0
    nr_unmap_fail: int = 0


@slotted
class ScanControl:
    """struct scan_control: one call of reclaim, what it may do, and how far it got."""

    nr_to_reclaim: int = SWAP_CLUSTER_MAX
    gfp_mask: int = GFP_KERNEL
    order: int = 0
    reclaim_idx: int = 0                   # the highest zone: ZONE_*
    priority: int = DEF_PRIORITY           # a scan looks at 1 / 2 ** priority of each list
    may_writepage: bool = False
    nr_scanned: int = 0
    nr_reclaimed: int = 0
    # sc->nr: sums of ReclaimStat over one shrink_node()
    unqueued_dirty: int = 0
    writeback: int = 0
    immediate: int = 0
    file_taken: int = 0
    taken: int = 0


@notrace
def current_is_kswapd() -> bool:
    return bool(current().flags & PF_KSWAPD)


@notrace
def page_mapping(kernel: Kernel, pfn: int) -> AddressSpace | None:
    """The address space that can write the page: its file's, or that of the swap cache."""
    return kernel.mem.mapping.get(pfn)


def page_check_references(kernel: Kernel, pfn: int) -> int:
    """PAGEREF_*: was it used since the last time? A page used once through a mapping gets another round."""
    mem = kernel.mem
    referenced_ptes, vm_flags = page_referenced(kernel, pfn, True)
    state = mem.flags[pfn]
    referenced_page = state & PG_referenced
    mem.flags[pfn] = state & ~PG_referenced
    if vm_flags & VM_LOCKED:               # try_to_unmap() finds out, and it goes to the unevictable list
        return PAGEREF_RECLAIM
    if referenced_ptes:
        if state & PG_swapbacked:
            return PAGEREF_ACTIVATE
        mem.flags[pfn] |= PG_referenced
        if referenced_page or referenced_ptes > 1 or vm_flags & VM_EXEC:
            return PAGEREF_ACTIVATE
        return PAGEREF_KEEP
    if referenced_page and not state & PG_swapbacked:      # read(2): free it if that costs nothing
        return PAGEREF_RECLAIM_CLEAN
    return PAGEREF_RECLAIM


@notrace
def is_page_cache_freeable(kernel: Kernel, pfn: int) -> bool:
    """Only the cache, the caller who isolated it and its buffers have references."""
    mem = kernel.mem
    return mem.refcount[pfn] == (3 if mem.flags[pfn] & PG_private else 2)


@may_sleep
def pageout(kernel: Kernel, pfn: int, mapping: AddressSpace | None) -> int:
    """Starts to write a dirty page. PAGE_KEEP: not now, locked; PAGE_SUCCESS: on its way, unlocked. Locks: page."""
    mem = kernel.mem
    if not is_page_cache_freeable(kernel, pfn) or mapping is None:
        return PAGE_KEEP
    writepage = mapping.a_ops.writepage
    if writepage is None:
        return PAGE_ACTIVATE
    if not clear_page_dirty_for_io(kernel, pfn):
        return PAGE_CLEAN
    wbc = WritebackControl(SWAP_CLUSTER_MAX, 0, 0, LLONG_MAX, WB_SYNC_NONE, for_reclaim=True)
    mem.flags[pfn] |= PG_reclaim
    try:
        res = writepage(mapping, mem.index[pfn], pfn, wbc)
    except KernelError as error:
        handle_write_error(kernel, mapping, pfn, error.errno)
        res = 0
    if res == AOP_WRITEPAGE_ACTIVATE:
        mem.flags[pfn] &= ~PG_reclaim
        return PAGE_ACTIVATE
    if not mem.flags[pfn] & PG_writeback:  # synchronous, or an error
        mem.flags[pfn] &= ~PG_reclaim
    probe = kernel.tp.mm_vmscan_writepage
    if probe is not None:
        probe(pfn, page_is_file_cache(mem.flags[pfn]))
    mem.vm_stat[NR_VMSCAN_WRITE] += 1
    return PAGE_SUCCESS


@may_sleep
def handle_write_error(kernel: Kernel, mapping: AddressSpace, pfn: int, errno: int) -> None:
    """Somebody who calls fsync() should hear of it."""
    lock_page(kernel, pfn)
    if page_mapping(kernel, pfn) is mapping:
        mapping_set_error(mapping, errno)
    unlock_page(kernel, pfn)


def __remove_mapping(kernel: Kernel, mapping: AddressSpace, pfn: int) -> bool:
    """Takes a page out of its cache, unless somebody else got hold of it. Then nobody refers to it. Locks: page."""
    mem = kernel.mem
    state = mem.flags[pfn]
    if mem.refcount[pfn] != 2 or state & PG_dirty:
        return False
    if state & PG_swapcache:
        from glasskernel.mm.swapfile import __delete_from_swap_cache, put_swap_page

        assert kernel.swap is not None
        entry = kernel.swap.private[pfn]
        __delete_from_swap_cache(kernel, pfn, entry)
        put_swap_page(kernel, entry)
    else:
        __delete_from_page_cache(kernel, mapping, mem.index[pfn], pfn)
    mem.refcount[pfn] = 0
    return True


@may_sleep
def shrink_page_list(kernel: Kernel, page_list: list[int], sc: ScanControl, ttu_flags: int, stat: ReclaimStat
                     ) -> tuple[int, list[int]]:
    """(how many of these isolated pages are free now, those that are not). Those keep the reference of isolation."""
    free_pages: list[int] = []
    ret_pages: list[int] = []
    mem = kernel.mem
    activated = 0
    for pfn in page_list:
        cond_resched()
        mem.machine.charge(SCAN_PAGE)
        if not trylock_page(kernel, pfn):
            ret_pages.append(pfn)
            continue
        sc.nr_scanned += 1
        verdict = shrink_page(kernel, pfn, sc, ttu_flags, stat)
        if verdict == PAGE_SUCCESS:                        # free_it
            free_pages.append(pfn)
            continue
        if verdict == PAGE_ACTIVATE:                       # activate_locked
            state = mem.flags[pfn]
            if state & PG_swapcache:
                give_swap_back(kernel, pfn, state)
            if not state & PG_mlocked:
                mem.flags[pfn] |= PG_active
                stat.nr_activate[page_is_file_cache(state)] += 1
                activated += 1
        if verdict != PAGE_CLEAN:                          # keep_locked; PAGE_CLEAN: keep, it is unlocked already
            unlock_page(kernel, pfn)
        ret_pages.append(pfn)
    mem.vm_event[PGACTIVATE] += activated
    free_unref_page_list(mem, free_pages)
    return len(free_pages), ret_pages


@notrace
def give_swap_back(kernel: Kernel, pfn: int, state: int) -> None:
    """A page that stays needs no swap entry, if these are short (mem_cgroup_swap_full()), or it is locked."""
    from glasskernel.mm.swapfile import try_to_free_swap

    assert kernel.swap is not None
    if vm_swap_full(kernel.swap) or state & PG_mlocked:
        try_to_free_swap(kernel, pfn)


@may_sleep
@notrace
def shrink_page(kernel: Kernel, pfn: int, sc: ScanControl, ttu_flags: int, stat: ReclaimStat) -> int:
    """The body of shrink_page_list()'s loop for one locked page.

    PAGE_SUCCESS: it is in no cache any more, unlocked, without references. PAGE_ACTIVATE, PAGE_KEEP: it stays, locked.
    PAGE_CLEAN: it stays, unlocked.
    """
    mem = kernel.mem
    flags = mem.flags
    kswapd = current_is_kswapd()
    if not page_evictable(kernel, pfn):
        return PAGE_ACTIVATE
    state = flags[pfn]
    may_enter_fs = sc.gfp_mask & __GFP_FS or (state & PG_swapcache and sc.gfp_mask & __GFP_IO)
    if state & (PG_dirty | PG_writeback) and page_is_file_cache(state):    # page_check_dirty_writeback()
        stat.nr_dirty += 1
        if not state & PG_writeback:
            stat.nr_unqueued_dirty += 1
        elif state & PG_reclaim:
            stat.nr_congested += 1
    if state & PG_writeback:
        if kswapd and state & PG_reclaim and mem.node_data[page_to_nid(mem, pfn)].flags & PGDAT_WRITEBACK:
            stat.nr_immediate += 1
            return PAGE_ACTIVATE
        # 5.3 waits here for pages of memory cgroups only: whoever reclaims for all leaves them to rotate.
        flags[pfn] |= PG_reclaim
        stat.nr_writeback += 1
        return PAGE_ACTIVATE
    references = page_check_references(kernel, pfn)
    if references == PAGEREF_ACTIVATE:
        return PAGE_ACTIVATE
    if references == PAGEREF_KEEP:
        stat.nr_ref_keep += 1
        return PAGE_KEEP
    mapping = page_mapping(kernel, pfn)
    if state & (PG_anon | PG_swapcache) == PG_anon:
        if not sc.gfp_mask & __GFP_IO:
            return PAGE_KEEP
        from glasskernel.mm.swap_state import add_to_swap  # there is swap: else nobody scans these lists

        if not add_to_swap(kernel, pfn):
            return PAGE_ACTIVATE
        may_enter_fs = True
        mapping = page_mapping(kernel, pfn)
    if mem.mapcount[pfn] and not try_to_unmap(kernel, pfn, ttu_flags | TTU_BATCH_FLUSH):
        stat.nr_unmap_fail += 1
        return PAGE_ACTIVATE
    state = flags[pfn]
    if state & PG_dirty:
        if page_is_file_cache(state) and not (kswapd and state & PG_reclaim
                                              and mem.node_data[page_to_nid(mem, pfn)].flags & PGDAT_DIRTY):
            # The flushers write it in better order; when they have, end_page_writeback() moves it to the tail.
            mem.vm_stat[NR_VMSCAN_IMMEDIATE] += 1
            flags[pfn] |= PG_reclaim
            return PAGE_ACTIVATE
        if references == PAGEREF_RECLAIM_CLEAN or not may_enter_fs or not sc.may_writepage:
            return PAGE_KEEP
        written = pageout(kernel, pfn, mapping)
        if written in (PAGE_KEEP, PAGE_ACTIVATE):
            return written
        if written == PAGE_SUCCESS:
            if flags[pfn] & (PG_writeback | PG_dirty) or not trylock_page(kernel, pfn):
                return PAGE_CLEAN
            if flags[pfn] & (PG_dirty | PG_writeback):
                return PAGE_KEEP
            mapping = page_mapping(kernel, pfn)            # a ram disk: it is there already, and can go at once
    if flags[pfn] & PG_private:
        if not try_to_release_page(kernel, pfn, sc.gfp_mask):
            return PAGE_ACTIVATE
        if mapping is None and mem.refcount[pfn] == 1:     # truncated before; its buffers were the last to hold it
            unlock_page(kernel, pfn)
            mem.refcount[pfn] = 0
            return PAGE_SUCCESS
    if mapping is None or not __remove_mapping(kernel, mapping, pfn):
        return PAGE_KEEP
    unlock_page(kernel, pfn)
    return PAGE_SUCCESS
