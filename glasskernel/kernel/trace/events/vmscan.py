"""Reclaim: kswapd, direct reclaim, the LRU lists, shrinkers.

Linux: include/trace/events/vmscan.h (5.3).
Gaps: reclaim of memory cgroups and of single nodes: neither exists here.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.trace.events.gfpflags import SHOW_GFP_FLAGS
from glasskernel.kernel.trace.events.values import HELPERS, function_address, kaddr_of
from glasskernel.kernel.trace.trace_events import Values, trace_system
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.mm.shrinker import ShrinkControl, Shrinker
    from glasskernel.mm.vmscan_pages import ReclaimStat

RECLAIM_WB_ANON, RECLAIM_WB_FILE, RECLAIM_WB_ASYNC = 0x1, 0x2, 0x8
_SHOW_RECLAIM_FLAGS = (
    '(REC->reclaim_flags) ? __print_flags(REC->reclaim_flags, "|", {0x0001u, "RECLAIM_WB_ANON"}, {0x0002u, '
    '"RECLAIM_WB_FILE"}, {0x0010u, "RECLAIM_WB_MIXED"}, {0x0004u, "RECLAIM_WB_SYNC"}, {0x0008u, "RECLAIM_WB_ASYNC"} ) '
    ': "RECLAIM_WB_NONE"'
)
_LRU_NAMES = (
    '{0, "inactive_anon"}, {1, "active_anon"}, {2, "inactive_file"}, {3, "active_file"}, {4, "unevictable"}'
)

vmscan = trace_system("vmscan")


@notrace
def trace_shrink_flags(file: bool) -> int:
    return (RECLAIM_WB_FILE if file else RECLAIM_WB_ANON) | RECLAIM_WB_ASYNC


@vmscan.event(fields="int nid", print_fmt='"nid=%d", REC->nid')
def mm_vmscan_kswapd_sleep(nid: int) -> Values:
    return (nid,)


@vmscan.event(fields="int nid; int zid; int order", print_fmt='"nid=%d order=%d", REC->nid, REC->order')
def mm_vmscan_kswapd_wake(nid: int, zid: int, order: int) -> Values:
    return (nid, zid, order)


@vmscan.event(
    fields="int nid; int zid; int order; gfp_t gfp_flags",
    print_fmt='"nid=%d order=%d gfp_flags=%s", REC->nid, REC->order, ' + SHOW_GFP_FLAGS,
)
def mm_vmscan_wakeup_kswapd(nid: int, zid: int, order: int, gfp_flags: int) -> Values:
    return (nid, zid, order, gfp_flags)


@vmscan.event(
    fields="int order; gfp_t gfp_flags",
    print_fmt='"order=%d gfp_flags=%s", REC->order, ' + SHOW_GFP_FLAGS,
)
def mm_vmscan_direct_reclaim_begin(order: int, gfp_flags: int) -> Values:
    return (order, gfp_flags)


@vmscan.event(fields="unsigned long nr_reclaimed", print_fmt='"nr_reclaimed=%lu", REC->nr_reclaimed')
def mm_vmscan_direct_reclaim_end(nr_reclaimed: int) -> Values:
    return (nr_reclaimed,)


@vmscan.event(
    fields=("struct shrinker * shr; void * shrink; int nid; long nr_objects_to_shrink; gfp_t gfp_flags; "
            "unsigned long cache_items; unsigned long long delta; unsigned long total_scan; int priority"),
    print_fmt=('"%pS %p: nid: %d objects to shrink %ld gfp_flags %s cache items %ld delta %lld total_scan %ld '
               'priority %d", REC->shrink, REC->shr, REC->nid, REC->nr_objects_to_shrink, ' + SHOW_GFP_FLAGS
               + ", REC->cache_items, REC->delta, REC->total_scan, REC->priority"),
    helpers=HELPERS,
)
def mm_shrink_slab_start(
    shr: Shrinker, sc: ShrinkControl, nr_objects_to_shrink: int, cache_items: int, delta: int, total_scan: int,
    priority: int,
) -> Values:
    return (kaddr_of(shr), function_address(shr.scan_objects), sc.nid, nr_objects_to_shrink, sc.gfp_mask, cache_items,
            delta, total_scan, priority)


@vmscan.event(
    fields=("struct shrinker * shr; int nid; void * shrink; long unused_scan; long new_scan; int retval; "
            "long total_scan"),
    print_fmt=('"%pS %p: nid: %d unused scan count %ld new scan count %ld total_scan %ld last shrinker return val %d", '
               "REC->shrink, REC->shr, REC->nid, REC->unused_scan, REC->new_scan, REC->total_scan, REC->retval"),
    helpers=HELPERS,
)
def mm_shrink_slab_end(
    shr: Shrinker, nid: int, shrinker_retval: int, unused_scan_cnt: int, new_scan_cnt: int, total_scan: int
) -> Values:
    return (kaddr_of(shr), nid, function_address(shr.scan_objects), unused_scan_cnt, new_scan_cnt, shrinker_retval,
            total_scan)


@vmscan.event(
    fields=("int classzone_idx; int order; unsigned long nr_requested; unsigned long nr_scanned; "
            "unsigned long nr_skipped; unsigned long nr_taken; unsigned int isolate_mode; int lru"),
    print_fmt=('"isolate_mode=%d classzone=%d order=%d nr_requested=%lu nr_scanned=%lu nr_skipped=%lu nr_taken=%lu '
               'lru=%s", REC->isolate_mode, REC->classzone_idx, REC->order, REC->nr_requested, REC->nr_scanned, '
               "REC->nr_skipped, REC->nr_taken, __print_symbolic(REC->lru, " + _LRU_NAMES + ")"),
)
def mm_vmscan_lru_isolate(
    classzone_idx: int, order: int, nr_requested: int, nr_scanned: int, nr_skipped: int, nr_taken: int,
    isolate_mode: int, lru: int,
) -> Values:
    return (classzone_idx, order, nr_requested, nr_scanned, nr_skipped, nr_taken, isolate_mode, lru)


@vmscan.event(
    fields="unsigned long pfn; int reclaim_flags",
    print_fmt=('"page=%p pfn=%lu flags=%s", (((struct page *)vmemmap_base) + (REC->pfn)), REC->pfn, '
               + _SHOW_RECLAIM_FLAGS),
    helpers=HELPERS,
)
def mm_vmscan_writepage(pfn: int, file: bool) -> Values:
    return (pfn, trace_shrink_flags(file))


@vmscan.event(
    fields=("int nid; unsigned long nr_scanned; unsigned long nr_reclaimed; unsigned long nr_dirty; "
            "unsigned long nr_writeback; unsigned long nr_congested; unsigned long nr_immediate; "
            "unsigned int nr_activate0; unsigned int nr_activate1; unsigned long nr_ref_keep; "
            "unsigned long nr_unmap_fail; int priority; int reclaim_flags"),
    print_fmt=('"nid=%d nr_scanned=%ld nr_reclaimed=%ld nr_dirty=%ld nr_writeback=%ld nr_congested=%ld '
               'nr_immediate=%ld nr_activate_anon=%d nr_activate_file=%d nr_ref_keep=%ld nr_unmap_fail=%ld '
               'priority=%d flags=%s", REC->nid, REC->nr_scanned, REC->nr_reclaimed, REC->nr_dirty, '
               "REC->nr_writeback, REC->nr_congested, REC->nr_immediate, REC->nr_activate0, REC->nr_activate1, "
               "REC->nr_ref_keep, REC->nr_unmap_fail, REC->priority, " + _SHOW_RECLAIM_FLAGS),
)
def mm_vmscan_lru_shrink_inactive(
    nid: int, nr_scanned: int, nr_reclaimed: int, stat: ReclaimStat, priority: int, file: bool
) -> Values:
    return (nid, nr_scanned, nr_reclaimed, stat.nr_dirty, stat.nr_writeback, stat.nr_congested, stat.nr_immediate,
            *stat.nr_activate, stat.nr_ref_keep, stat.nr_unmap_fail, priority, trace_shrink_flags(file))


@vmscan.event(
    fields=("int nid; unsigned long nr_taken; unsigned long nr_active; unsigned long nr_deactivated; "
            "unsigned long nr_referenced; int priority; int reclaim_flags"),
    print_fmt=('"nid=%d nr_taken=%ld nr_active=%ld nr_deactivated=%ld nr_referenced=%ld priority=%d flags=%s", '
               "REC->nid, REC->nr_taken, REC->nr_active, REC->nr_deactivated, REC->nr_referenced, REC->priority, "
               + _SHOW_RECLAIM_FLAGS),
)
def mm_vmscan_lru_shrink_active(
    nid: int, nr_taken: int, nr_active: int, nr_deactivated: int, nr_referenced: int, priority: int, file: bool
) -> Values:
    return (nid, nr_taken, nr_active, nr_deactivated, nr_referenced, priority, trace_shrink_flags(file))


@vmscan.event(
    fields=("int nid; int reclaim_idx; unsigned long total_inactive; unsigned long inactive; "
            "unsigned long total_active; unsigned long active; unsigned long ratio; int reclaim_flags"),
    print_fmt=('"nid=%d reclaim_idx=%d total_inactive=%ld inactive=%ld total_active=%ld active=%ld ratio=%ld flags=%s"'
               ", REC->nid, REC->reclaim_idx, REC->total_inactive, REC->inactive, REC->total_active, REC->active, "
               "REC->ratio, " + _SHOW_RECLAIM_FLAGS),
)
def mm_vmscan_inactive_list_is_low(
    nid: int, reclaim_idx: int, total_inactive: int, inactive: int, total_active: int, active: int, ratio: int,
    file: bool,
) -> Values:
    return (nid, reclaim_idx, total_inactive, inactive, total_active, active, ratio,
            trace_shrink_flags(file) & ~RECLAIM_WB_ASYNC)
