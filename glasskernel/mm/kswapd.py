"""kswapd: the thread that reclaims before anybody has to wait for memory, and how it is woken.

Linux: the last third of mm/vmscan.c (5.3), but balance_pgdat(), which is in mm/vmscan.py: that is imported at the first
    shortage. Same: an allocation that finds every zone at its low watermark wakes kswapd; it stays awake until one zone
    has its high one, looks again after 100 ms and sleeps; it gives up after MAX_RECLAIM_RETRIES runs for nothing.
Gaps: kcompactd, boosted watermarks, CPU hotplug.
Owns: PglistData.kswapd, kswapd_order, kswapd_classzone_idx.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.kernel.kthread import kthread_run, kthread_should_stop
from glasskernel.kernel.sched.core import schedule, schedule_timeout
from glasskernel.kernel.sched.wait import (
    WaitQueueEntry,
    finish_wait,
    prepare_to_wait,
    waitqueue_active,
    wake_up_all,
    wake_up_interruptible,
)
from glasskernel.kernel.task import PF_KSWAPD, PF_MEMALLOC, TASK_INTERRUPTIBLE
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import (
    KSWAPD_HIGH_WMARK_HIT_QUICKLY,
    KSWAPD_LOW_WMARK_HIT_QUICKLY,
    LRU_ACTIVE_ANON,
    LRU_ACTIVE_FILE,
    LRU_INACTIVE_ANON,
    LRU_INACTIVE_FILE,
    WMARK_HIGH,
    zone_watermark_ok_safe,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.page_alloc import MemState, PglistData, Zone

MAX_RECLAIM_RETRIES = 16
PGDAT_DIRTY, PGDAT_WRITEBACK = 2, 4        # PglistData.flags


def kswapd_run(pgdat: PglistData) -> None:
    """Starts a node's thread. Context: boot, when kthreadd runs."""
    pgdat.kswapd = kthread_run(kswapd, pgdat, f"kswapd{pgdat.node_id}")


def kswapd_init(kernel: Kernel) -> None:
    """A thread for each node."""
    for pgdat in kernel.mem.node_data:
        kswapd_run(pgdat)


# ---- how much there is ------------------------------------------------------------------------------------------
def pgdat_balanced(pgdat: PglistData, order: int, classzone_idx: int) -> bool:
    """Has one of the node's zones its high watermark, for an allocation of this order? Or has it no such zone?"""
    zones = [zone for zone in pgdat.node_zones if zone.idx <= classzone_idx]
    return not zones or any(zone_watermark_ok_safe(zone, order, zone.watermark[WMARK_HIGH], classzone_idx)
                            for zone in zones)


def zone_reclaimable_pages(mem: MemState, zone: Zone) -> int:
    """Frames of a zone that reclaim might free: file pages, and anonymous ones if there is room to swap."""
    return sum([zone_lru_size(mem, zone, lru) for lru in reclaimable_lists(mem)])


@notrace
def zone_is_reclaimable(mem: MemState, zone: Zone) -> bool:
    """zone_reclaimable_pages() != 0, without counting."""
    inside = range(zone.start_pfn, zone.end_pfn).__contains__
    return any(any(map(inside, mem.lru[lru])) for lru in reclaimable_lists(mem))


@notrace
def reclaimable_lists(mem: MemState) -> tuple[int, ...]:
    """The lists that reclaim may take pages from: anonymous ones only if there is room to swap."""
    swap = mem.kernel.swap
    if swap is not None and swap.nr_swap_pages > 0:
        return LRU_INACTIVE_FILE, LRU_ACTIVE_FILE, LRU_INACTIVE_ANON, LRU_ACTIVE_ANON
    return LRU_INACTIVE_FILE, LRU_ACTIVE_FILE


@notrace
def zone_lru_size(mem: MemState, zone: Zone, lru: int) -> int:
    """zone_page_state(zone, NR_ZONE_LRU_BASE + lru): counted when it is wanted. mem.zones are in order of frames."""
    pages = mem.lru[lru]
    first = mem.zones.index(zone)
    end = len(pages) if first == len(mem.zones) - 1 else sum(map(zone.end_pfn.__gt__, pages))
    return end - sum(map(zone.start_pfn.__gt__, pages)) if first else end


# ---- waking -----------------------------------------------------------------------------------------------------
def wakeup_kswapd(kernel: Kernel, zone: Zone, gfp_flags: int, order: int, classzone_idx: int) -> None:
    """A zone is low on memory: wakes kswapd, unless it is awake, hopeless, or another zone would do. Context: any."""
    pgdat = kernel.mem.node_data[zone.node]
    if not zone.managed_pages:
        return
    pgdat.kswapd_classzone_idx = max(pgdat.kswapd_classzone_idx, classzone_idx)
    pgdat.kswapd_order = max(pgdat.kswapd_order, order)
    if not waitqueue_active(pgdat.kswapd_wait):
        return
    if pgdat.kswapd_failures >= MAX_RECLAIM_RETRIES or pgdat_balanced(pgdat, order, classzone_idx):
        return
    probe = kernel.tp.mm_vmscan_wakeup_kswapd
    if probe is not None:
        probe(pgdat.node_id, classzone_idx, order, gfp_flags)
    wake_up_interruptible(pgdat.kswapd_wait)


# ---- the thread -------------------------------------------------------------------------------------------------
@notrace
def kswapd_classzone_idx(pgdat: PglistData, prev_classzone_idx: int) -> int:
    """The highest zone that somebody wanted since the last run."""
    return prev_classzone_idx if pgdat.kswapd_classzone_idx < 0 else pgdat.kswapd_classzone_idx


def prepare_kswapd_sleep(pgdat: PglistData, order: int, classzone_idx: int) -> bool:
    """May kswapd sleep? It must not while somebody waits for it."""
    if waitqueue_active(pgdat.pfmemalloc_wait):
        wake_up_all(pgdat.pfmemalloc_wait)
    if pgdat.kswapd_failures >= MAX_RECLAIM_RETRIES:       # direct reclaim and the OOM killer do better
        return True
    if pgdat_balanced(pgdat, order, classzone_idx):
        pgdat.flags &= ~(PGDAT_DIRTY | PGDAT_WRITEBACK)
        return True
    return False


@may_sleep
def kswapd_try_to_sleep(pgdat: PglistData, alloc_order: int, reclaim_order: int, classzone_idx: int) -> None:
    """First for 100 ms: memory may be short again at once. Then until somebody wakes it."""
    kernel = current().kernel
    wait = WaitQueueEntry()
    remaining = 0
    prepare_to_wait(pgdat.kswapd_wait, wait, TASK_INTERRUPTIBLE)
    if prepare_kswapd_sleep(pgdat, reclaim_order, classzone_idx):
        remaining = schedule_timeout(HZ // 10)
        if remaining:                                      # too early: the order it could not serve counts on
            pgdat.kswapd_classzone_idx = kswapd_classzone_idx(pgdat, classzone_idx)
            pgdat.kswapd_order = max(pgdat.kswapd_order, reclaim_order)
        finish_wait(pgdat.kswapd_wait, wait)
        prepare_to_wait(pgdat.kswapd_wait, wait, TASK_INTERRUPTIBLE)
    if not remaining and prepare_kswapd_sleep(pgdat, reclaim_order, classzone_idx):
        probe = kernel.tp.mm_vmscan_kswapd_sleep
        if probe is not None:
            probe(pgdat.node_id)
        if not kthread_should_stop():
            schedule()
    else:
        kernel.mem.vm_event[KSWAPD_LOW_WMARK_HIT_QUICKLY if remaining else KSWAPD_HIGH_WMARK_HIT_QUICKLY] += 1
    finish_wait(pgdat.kswapd_wait, wait)


@may_sleep
def kswapd(pgdat: PglistData) -> int:
    """The thread. What it needs itself may come from the reserves: it is there to fill them."""
    task = current()
    kernel = task.kernel
    task.flags |= PF_MEMALLOC | PF_KSWAPD
    pgdat.kswapd_order = alloc_order = reclaim_order = 0
    pgdat.kswapd_classzone_idx = -1
    classzone_idx = kernel.mem.nr_zones - 1
    while True:
        if reclaim_order >= alloc_order:                   # else it fell back to single frames, and sleeps on that
            alloc_order = reclaim_order = pgdat.kswapd_order
            classzone_idx = kswapd_classzone_idx(pgdat, classzone_idx)
        kswapd_try_to_sleep(pgdat, alloc_order, reclaim_order, classzone_idx)
        alloc_order = reclaim_order = pgdat.kswapd_order
        classzone_idx = kswapd_classzone_idx(pgdat, 0)
        pgdat.kswapd_order = 0
        pgdat.kswapd_classzone_idx = -1
        if kthread_should_stop():
            break
        probe = kernel.tp.mm_vmscan_kswapd_wake
        if probe is not None:
            probe(pgdat.node_id, classzone_idx, alloc_order)
        reclaim_order = kernel.balance_pgdat(pgdat, alloc_order, classzone_idx)
    task.flags &= ~(PF_MEMALLOC | PF_KSWAPD)
    return 0
