"""Reclaim: which pages are looked at, how many, and by whom.

Linux: mm/vmscan.c (5.3) but for the thread (mm/kswapd.py), single pages (vmscan_pages.py), how many of each list
    (vmscan_count.py) and shrinkers (shrinker.py). Same: kswapd and direct reclaim walk the same way down: a node, its
    lists, 32 pages at a time; active pages are aged when the inactive ones get short; the priority rises round by round
    until enough was freed.
Differs: mem.lru is the lruvec of all nodes, so reclaim of one node passes over the others' pages.
Owns: recent_scanned, recent_rotated, kswapd_failures, NR_ISOLATED_*. Imported by the first shortage.
Gaps: compaction, memory cgroups, vmpressure, laptop_mode, zone_reclaim_mode, refaults, congested devices.
"""
from __future__ import annotations

from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.kernel.kthread import kthread_should_stop
from glasskernel.kernel.sched.core import cond_resched, fatal_signal_pending, msleep
from glasskernel.kernel.sched.wait import (
    wait_event_interruptible_timeout,
    wait_event_killable,
    waitqueue_active,
    wake_up_all,
    wake_up_interruptible,
)
from glasskernel.kernel.task import PF_KTHREAD
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.errno import Restart
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.machine.costs import SCAN_NODE
from glasskernel.mm.backing_dev import congestion_wait
from glasskernel.mm.kswapd import (
    MAX_RECLAIM_RETRIES,
    PGDAT_DIRTY,
    PGDAT_WRITEBACK,
    pgdat_balanced,
    zone_is_reclaimable,
)
from glasskernel.mm.page_alloc import (
    __GFP_FS,
    __GFP_IO,
    ALLOCSTALL_DMA,
    LRU_ACTIVE_ANON,
    LRU_ACTIVE_FILE,
    LRU_INACTIVE_ANON,
    LRU_INACTIVE_FILE,
    NR_ISOLATED_ANON,
    NR_SLAB_RECLAIMABLE,
    NR_SLAB_UNRECLAIMABLE,
    PAGEOUTRUN,
    PGDEACTIVATE,
    PGREFILL,
    PGSCAN_DIRECT,
    PGSCAN_DIRECT_THROTTLE,
    PGSCAN_KSWAPD,
    PGSTEAL_DIRECT,
    PGSTEAL_KSWAPD,
    WMARK_HIGH,
    WMARK_MIN,
    PG_active,
    PG_lru,
    free_unref_page_list,
    gfp_zone,
)
from glasskernel.mm.rmap import page_referenced
from glasskernel.mm.shrinker import shrink_slab
from glasskernel.mm.swap import add_page_to_lru_list, page_evictable, page_is_file_cache, putback_lru_page
from glasskernel.mm.types import VM_EXEC
from glasskernel.mm.vmscan_count import EVICTABLE_LRUS, get_scan_count, inactive_list_is_low
from glasskernel.mm.vmscan_pages import (
    DEF_PRIORITY,
    SWAP_CLUSTER_MAX,
    ReclaimStat,
    ScanControl,
    current_is_kswapd,
    shrink_page_list,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.page_alloc import MemState, PglistData, Zone

WB_REASON_VMSCAN = 1


# ---- lists ------------------------------------------------------------------------------------------------------
def isolate_lru_pages(kernel: Kernel, pgdat: PglistData, nr_to_scan: int, sc: ScanControl, lru: int
                      ) -> tuple[list[int], int]:
    """Takes up to nr_to_scan pages off the tail of a list, with a reference each. Also answers how many it looked at.

    Pages of other nodes, and of zones too high for sc, stay where they are and do not count.
    """
    mem = kernel.mem
    pages, flags, refcount = mem.lru[lru], mem.flags, mem.refcount
    skipped = 0
    if sc.reclaim_idx == mem.nr_zones - 1 and not mem.numa:
        taken = list(islice(pages, nr_to_scan))
    else:
        start_pfn, end_pfn = pgdat.node_start_pfn, pgdat.node_start_pfn
        for zone in pgdat.node_zones:
            if zone.idx <= sc.reclaim_idx:
                end_pfn = zone.end_pfn
        taken = []
        for pfn in pages:
            if not start_pfn <= pfn < end_pfn:
                skipped += 1
            elif len(taken) == nr_to_scan:
                break
            else:
                taken.append(pfn)
    for pfn in taken:                                      # __isolate_lru_page()
        refcount[pfn] += 1
        flags[pfn] &= ~PG_lru
        del pages[pfn]
    probe = kernel.tp.mm_vmscan_lru_isolate
    if probe is not None:
        probe(sc.reclaim_idx, sc.order, nr_to_scan, len(taken), skipped, len(taken), 0, lru)
    return taken, len(taken)


def move_pages_to_lru(kernel: Kernel, pages: list[int]) -> int:
    """Isolated pages go to the lists where they belong now. Answers how many; those nobody else holds are freed."""
    mem = kernel.mem
    flags, refcount = mem.flags, mem.refcount
    free: list[int] = []
    nr_moved = 0
    for pfn in pages:
        if not page_evictable(kernel, pfn):
            putback_lru_page(kernel, pfn)
            continue
        if refcount[pfn] == 1:                             # the last user left meanwhile
            refcount[pfn] = 0
            flags[pfn] &= ~PG_active
            free.append(pfn)
            continue
        refcount[pfn] -= 1
        add_page_to_lru_list(mem, pfn)
        nr_moved += 1
        if flags[pfn] & PG_active:
            mem.pgdat.recent_rotated[page_is_file_cache(flags[pfn])] += 1
    if free:
        free_unref_page_list(mem, free)
    return nr_moved


@notrace
def too_many_isolated(mem: MemState, file: bool, sc: ScanControl) -> bool:
    """So many that more tasks in reclaim would find nothing to reclaim?"""
    if current_is_kswapd():
        return False
    inactive = len(mem.lru[LRU_INACTIVE_FILE if file else LRU_INACTIVE_ANON])
    if sc.gfp_mask & (__GFP_IO | __GFP_FS) == __GFP_IO | __GFP_FS:     # who may do less shall not wait for others
        inactive >>= 3
    return mem.vm_stat[NR_ISOLATED_ANON + file] > inactive


@may_sleep
def shrink_inactive_list(kernel: Kernel, pgdat: PglistData, nr_to_scan: int, sc: ScanControl, lru: int) -> int:
    """Reclaims from up to nr_to_scan pages; answers how many are free now."""
    mem = kernel.mem
    learned = mem.pgdat                                    # zone_reclaim_stat
    file = lru >= LRU_INACTIVE_FILE
    stalled = False
    while too_many_isolated(mem, file, sc):
        if stalled:
            return 0
        msleep(100)
        stalled = True
        if fatal_signal_pending(current()):
            return SWAP_CLUSTER_MAX
    page_list, nr_scanned = isolate_lru_pages(kernel, pgdat, nr_to_scan, sc, lru)
    nr_taken = len(page_list)
    mem.vm_stat[NR_ISOLATED_ANON + file] += nr_taken
    learned.recent_scanned[file] += nr_taken
    kswapd = current_is_kswapd()
    mem.vm_event[PGSCAN_KSWAPD if kswapd else PGSCAN_DIRECT] += nr_scanned
    if not nr_taken:
        return 0
    stat = ReclaimStat()
    nr_reclaimed, page_list = shrink_page_list(kernel, page_list, sc, 0, stat)
    mem.vm_event[PGSTEAL_KSWAPD if kswapd else PGSTEAL_DIRECT] += nr_reclaimed
    learned.recent_rotated[0] += stat.nr_activate[0]
    learned.recent_rotated[1] += stat.nr_activate[1]
    move_pages_to_lru(kernel, page_list)
    mem.vm_stat[NR_ISOLATED_ANON + file] -= nr_taken
    if stat.nr_unqueued_dirty == nr_taken:                 # the flushers do not know how short memory is
        kernel.wakeup_flusher_threads(WB_REASON_VMSCAN)
    sc.unqueued_dirty += stat.nr_unqueued_dirty
    sc.writeback += stat.nr_writeback
    sc.immediate += stat.nr_immediate
    sc.taken += nr_taken
    if file:
        sc.file_taken += nr_taken
    probe = kernel.tp.mm_vmscan_lru_shrink_inactive
    if probe is not None:
        probe(pgdat.node_id, nr_scanned, nr_reclaimed, stat, sc.priority, file)
    return nr_reclaimed


@may_sleep
def shrink_active_list(kernel: Kernel, pgdat: PglistData, nr_to_scan: int, sc: ScanControl, lru: int) -> None:
    """Ages pages: to the inactive list, but for code that ran lately."""
    mem = kernel.mem
    learned = mem.pgdat
    file = lru >= LRU_INACTIVE_FILE
    l_hold, nr_scanned = isolate_lru_pages(kernel, pgdat, nr_to_scan, sc, lru)
    nr_taken = len(l_hold)
    mem.vm_stat[NR_ISOLATED_ANON + file] += nr_taken
    learned.recent_scanned[file] += nr_taken
    mem.vm_event[PGREFILL] += nr_scanned
    l_active: list[int] = []
    l_inactive: list[int] = []
    nr_rotated = 0
    for pfn in l_hold:
        cond_resched()
        if not page_evictable(kernel, pfn):
            putback_lru_page(kernel, pfn)
            continue
        referenced, vm_flags = page_referenced(kernel, pfn, False)
        if referenced:
            nr_rotated += 1
            if vm_flags & VM_EXEC and file:
                l_active.append(pfn)
                continue
        mem.flags[pfn] &= ~PG_active
        l_inactive.append(pfn)
    learned.recent_rotated[file] += nr_rotated
    nr_activate = move_pages_to_lru(kernel, l_active)
    nr_deactivate = move_pages_to_lru(kernel, l_inactive)
    mem.vm_event[PGDEACTIVATE] += nr_deactivate
    mem.vm_stat[NR_ISOLATED_ANON + file] -= nr_taken
    probe = kernel.tp.mm_vmscan_lru_shrink_active
    if probe is not None:
        probe(pgdat.node_id, nr_taken, nr_activate, nr_deactivate, nr_rotated, sc.priority, file)


@may_sleep
def shrink_list(kernel: Kernel, pgdat: PglistData, lru: int, nr_to_scan: int, sc: ScanControl) -> int:
    if lru in (LRU_ACTIVE_ANON, LRU_ACTIVE_FILE):
        if inactive_list_is_low(kernel, pgdat, lru == LRU_ACTIVE_FILE, sc, True):
            shrink_active_list(kernel, pgdat, nr_to_scan, sc, lru)
        return 0
    return shrink_inactive_list(kernel, pgdat, nr_to_scan, sc, lru)


@may_sleep
def shrink_node_memcg(kernel: Kernel, pgdat: PglistData, sc: ScanControl) -> None:
    """Scans the lists in turns, until enough was freed or each had its share."""
    nr = get_scan_count(kernel, pgdat, sc)
    targets = nr[:]
    # At the first try of direct reclaim all of it: one task shall not stop where another would go on for free.
    scan_adjusted = not current_is_kswapd() and sc.priority == DEF_PRIORITY
    nr_reclaimed = 0
    plug = kernel.filemap.blk_start_plug()
    while nr[LRU_INACTIVE_ANON] or nr[LRU_ACTIVE_FILE] or nr[LRU_INACTIVE_FILE]:
        for lru in EVICTABLE_LRUS:
            if nr[lru]:
                nr_to_scan = min(nr[lru], SWAP_CLUSTER_MAX)
                nr[lru] -= nr_to_scan
                nr_reclaimed += shrink_list(kernel, pgdat, lru, nr_to_scan, sc)
        cond_resched()
        if nr_reclaimed < sc.nr_to_reclaim or scan_adjusted:
            continue
        nr_file = nr[LRU_INACTIVE_FILE] + nr[LRU_ACTIVE_FILE]
        nr_anon = nr[LRU_INACTIVE_ANON] + nr[LRU_ACTIVE_ANON]
        if not nr_file or not nr_anon:
            break
        # Enough: the kind that has less left is done, the other one gets as much of its share as that had.
        done, other = (LRU_INACTIVE_ANON, LRU_INACTIVE_FILE) if nr_file > nr_anon else (
            LRU_INACTIVE_FILE, LRU_INACTIVE_ANON)
        scan_target = targets[done] + targets[done + 1] + 1
        percentage = min(nr_anon, nr_file) * 100 // scan_target
        nr[done] = nr[done + 1] = 0
        for lru in (other, other + 1):
            nr_scanned = targets[lru] - nr[lru]
            nr[lru] = max(targets[lru] * (100 - percentage) // 100 - nr_scanned, 0)
        scan_adjusted = True
    kernel.filemap.blk_finish_plug(plug)
    sc.nr_reclaimed += nr_reclaimed
    if inactive_list_is_low(kernel, pgdat, False, sc, True):      # age anonymous pages even if none were reclaimed
        shrink_active_list(kernel, pgdat, SWAP_CLUSTER_MAX, sc, LRU_ACTIVE_ANON)


@may_sleep
def shrink_node(kernel: Kernel, pgdat: PglistData, sc: ScanControl) -> bool:
    """One round over a node's lists and the shrinkers. True if something was freed."""
    sc.unqueued_dirty = sc.writeback = sc.immediate = sc.file_taken = sc.taken = 0
    nr_reclaimed = sc.nr_reclaimed
    kernel.machine.charge(SCAN_NODE)
    shrink_node_memcg(kernel, pgdat, sc)
    slab_pages = nr_slab_pages(kernel.mem)
    shrink_slab(kernel, sc.gfp_mask, pgdat.node_id, sc.priority)
    sc.nr_reclaimed += max(slab_pages - nr_slab_pages(kernel.mem), 0)
    reclaimable = sc.nr_reclaimed > nr_reclaimed
    if current_is_kswapd():
        if sc.writeback and sc.writeback == sc.taken:
            pgdat.flags |= PGDAT_WRITEBACK                 # the device cannot keep up: wait for it below
        if sc.unqueued_dirty and sc.unqueued_dirty == sc.file_taken:
            pgdat.flags |= PGDAT_DIRTY                     # write from here
        if sc.immediate:
            congestion_wait(HZ // 10)
    if reclaimable:
        pgdat.kswapd_failures = 0
    return reclaimable


@notrace
def nr_slab_pages(mem: MemState) -> int:
    """Frames of all slabs: what shrinkers freed shows here, as current->reclaim_state counts it in Linux."""
    return mem.vm_stat[NR_SLAB_RECLAIMABLE] + mem.vm_stat[NR_SLAB_UNRECLAIMABLE]


# ---- direct reclaim ---------------------------------------------------------------------------------------------
@may_sleep
def shrink_zones(kernel: Kernel, zonelist: list[Zone], sc: ScanControl) -> None:
    """The nodes of an allocation's zones, each once."""
    last_node = -1
    for zone in zonelist:
        if zone.idx <= sc.reclaim_idx and zone.node != last_node:
            last_node = zone.node
            shrink_node(kernel, kernel.mem.node_data[last_node], sc)


@may_sleep
def do_try_to_free_pages(kernel: Kernel, zonelist: list[Zone], sc: ScanControl) -> int:
    """Raises the priority round by round until enough is free; answers how many frames are."""
    kernel.mem.vm_event[ALLOCSTALL_DMA + sc.reclaim_idx] += 1
    while sc.priority >= 0:
        sc.nr_scanned = 0
        shrink_zones(kernel, zonelist, sc)
        if sc.nr_reclaimed >= sc.nr_to_reclaim:
            break
        if sc.priority < DEF_PRIORITY - 2:                 # getting into trouble
            sc.may_writepage = True
        sc.priority -= 1
    return sc.nr_reclaimed


def allow_direct_reclaim(kernel: Kernel, pgdat: PglistData) -> bool:
    """Is half of the reserve below the min watermarks left? If not, kswapd shall use the rest."""
    mem = kernel.mem
    if pgdat.kswapd_failures >= MAX_RECLAIM_RETRIES:
        return True
    zones = [zone for zone in pgdat.node_zones if zone.managed_pages and zone_is_reclaimable(mem, zone)]
    pfmemalloc_reserve = sum([zone.watermark[WMARK_MIN] for zone in zones])
    if not pfmemalloc_reserve:
        return True
    wmark_ok = sum([zone.nr_free for zone in zones]) > pfmemalloc_reserve // 2
    if not wmark_ok and waitqueue_active(pgdat.kswapd_wait):
        pgdat.kswapd_classzone_idx = max(pgdat.kswapd_classzone_idx, 0)
        wake_up_interruptible(pgdat.kswapd_wait)
    return wmark_ok


@may_sleep
def throttle_direct_reclaim(kernel: Kernel, gfp_mask: int, zonelist: list[Zone]) -> bool:
    """Waits for kswapd if the reserves run out. True: a fatal signal came, so give up and let the task die."""
    task = current()
    pgdat = kernel.mem.node_data[zonelist[0].node]
    if task.flags & PF_KTHREAD or fatal_signal_pending(task) or allow_direct_reclaim(kernel, pgdat):
        return False
    kernel.mem.vm_event[PGSCAN_DIRECT_THROTTLE] += 1
    with suppress(Restart):
        if gfp_mask & __GFP_FS:
            wait_event_killable(pgdat.pfmemalloc_wait, lambda: allow_direct_reclaim(kernel, pgdat))
        else:                                              # it may hold what kswapd waits for
            wait_event_interruptible_timeout(pgdat.pfmemalloc_wait, lambda: allow_direct_reclaim(kernel, pgdat), HZ)
    return fatal_signal_pending(task)


@may_sleep
def try_to_free_pages(kernel: Kernel, order: int, gfp_mask: int, zonelist: list[Zone]) -> int:
    """Direct reclaim: an allocation found all its zones at their min watermarks. Answers how many frames were freed.

    Context: task, with PF_MEMALLOC.
    """
    sc = ScanControl(gfp_mask=gfp_mask, order=order, reclaim_idx=gfp_zone(kernel.mem, gfp_mask), may_writepage=True)
    if throttle_direct_reclaim(kernel, gfp_mask, zonelist):
        return 1
    probe = kernel.tp.mm_vmscan_direct_reclaim_begin
    if probe is not None:
        probe(order, gfp_mask)
    nr_reclaimed = do_try_to_free_pages(kernel, zonelist, sc)
    probe = kernel.tp.mm_vmscan_direct_reclaim_end
    if probe is not None:
        probe(nr_reclaimed)
    return nr_reclaimed


# ---- kswapd's turn ----------------------------------------------------------------------------------------------
@may_sleep
def age_active_anon(kernel: Kernel, pgdat: PglistData, sc: ScanControl) -> None:
    """Some anonymous pages become inactive each round, so that reclaim knows their age when it needs it."""
    if inactive_list_is_low(kernel, pgdat, False, sc, True):
        shrink_active_list(kernel, pgdat, SWAP_CLUSTER_MAX, sc, LRU_ACTIVE_ANON)


@may_sleep
def kswapd_shrink_node(kernel: Kernel, pgdat: PglistData, sc: ScanControl) -> bool:
    """One round. True if it looked at as many pages as it should: this priority will do."""
    zones = [zone for zone in pgdat.node_zones if zone.idx <= sc.reclaim_idx]
    sc.nr_to_reclaim = sum([max(zone.watermark[WMARK_HIGH], SWAP_CLUSTER_MAX) for zone in zones if zone.managed_pages])
    shrink_node(kernel, pgdat, sc)
    if sc.order and sc.nr_reclaimed >= 2 << sc.order:      # compact_gap(): single frames are there; that has to do
        sc.order = 0
    return sc.nr_scanned >= sc.nr_to_reclaim


@may_sleep
def balance_pgdat(pgdat: PglistData, order: int, classzone_idx: int) -> int:
    """Reclaims until one zone has its high watermark; answers the order it managed. Context: kswapd."""
    kernel = current().kernel
    kernel.mem.vm_event[PAGEOUTRUN] += 1
    sc = ScanControl(order=order)
    while sc.priority >= 1:
        nr_reclaimed = sc.nr_reclaimed
        sc.reclaim_idx = classzone_idx
        if pgdat_balanced(pgdat, sc.order, classzone_idx):
            return sc.order
        sc.may_writepage = True
        age_active_anon(kernel, pgdat, sc)
        raise_priority = not kswapd_shrink_node(kernel, pgdat, sc)
        if waitqueue_active(pgdat.pfmemalloc_wait) and allow_direct_reclaim(kernel, pgdat):
            wake_up_all(pgdat.pfmemalloc_wait)
        if kthread_should_stop():
            break
        if raise_priority or sc.nr_reclaimed == nr_reclaimed:
            sc.priority -= 1
    if not sc.nr_reclaimed:
        pgdat.kswapd_failures += 1
    return sc.order
