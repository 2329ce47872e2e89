"""The page allocator's slow path: kswapd is woken, the caller reclaims, somebody is killed.

Linux: the second half of mm/page_alloc.c (5.3). Same: who may go below which watermark, when it is worth to reclaim
    again, when the OOM killer is called.
Differs: a task with a journal handle counts as in a memalloc_nofs scope, which jbd2 opens there. What shrinkers freed
    is free only after a grace period; before anybody is killed for memory that is on its way, the caller waits for that
    (in Linux rcu_oom_notify() does about this, with RCU_FAST_NO_HZ; reclaim takes no time here, so it matters more).
Owns: nothing. Imported by the first allocation that finds every zone at its low watermark.
Gaps: compaction, warn_alloc(), reserves of high-order atomic blocks.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.kernel.rcu.rcu import rcu_segcblist_empty
from glasskernel.kernel.rcu.update import rcu_barrier
from glasskernel.kernel.sched.core import cond_resched, schedule_timeout_uninterruptible
from glasskernel.kernel.task import PF_DUMPCORE, PF_MEMALLOC, PF_MEMALLOC_NOFS, PF_WQ_WORKER
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.errno import ENOMEM, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.backing_dev import congestion_wait
from glasskernel.mm.kswapd import MAX_RECLAIM_RETRIES, wakeup_kswapd, zone_reclaimable_pages
from glasskernel.mm.page_alloc import (
    __GFP_ATOMIC,
    __GFP_DIRECT_RECLAIM,
    __GFP_FS,
    __GFP_HARDWALL,
    __GFP_HIGH,
    __GFP_KSWAPD_RECLAIM,
    __GFP_MEMALLOC,
    __GFP_NOFAIL,
    __GFP_NOMEMALLOC,
    __GFP_NORETRY,
    __GFP_RETRY_MAYFAIL,
    __GFP_THISNODE,
    ALLOC_HARDER,
    ALLOC_NO_WATERMARKS,
    ALLOC_OOM,
    ALLOC_WMARK_HIGH,
    ALLOC_WMARK_MIN,
    NR_FILE_DIRTY,
    NR_WRITEBACK,
    WMARK_MIN,
    __zone_watermark_ok,
    drain_all_pages,
    get_page_from_freelist,
    gfp_zone,
    prepare_alloc_pages,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.mm.page_alloc import Zone

PAGE_ALLOC_COSTLY_ORDER = 3


@may_sleep
def __alloc_pages_slowpath(kernel: Kernel, gfp: int, order: int, preferred_nid: int, nodemask: int | None) -> int:
    """Every zone is at its low watermark: frames all the same, by what gfp allows. Raises ENOMEM."""
    mem = kernel.mem
    task = current()
    can_direct_reclaim = bool(gfp & __GFP_DIRECT_RECLAIM)
    alloc_flags = gfp_to_alloc_flags(gfp)
    no_progress_loops = 0
    # What the kernel needs for itself may lie outside of the cpuset; who is being killed may have it anywhere.
    hardwall = bool(gfp & __GFP_HARDWALL) and not tsk_is_oom_victim(task)
    zonelist = prepare_alloc_pages(mem, preferred_nid, nodemask, hardwall)
    if gfp & __GFP_KSWAPD_RECLAIM:
        wake_all_kswapds(kernel, order, gfp, zonelist)
    pfn = get_page_from_freelist(mem, gfp, order, alloc_flags, zonelist)
    while pfn is None:
        if gfp & __GFP_KSWAPD_RECLAIM:
            wake_all_kswapds(kernel, order, gfp, zonelist)           # it may have gone to sleep while we looked
        reserve_flags = __gfp_pfmemalloc_flags(task, gfp)
        if reserve_flags:
            alloc_flags = reserve_flags
            nodemask = None
            zonelist = prepare_alloc_pages(mem, preferred_nid, None, False)
        pfn = get_page_from_freelist(mem, gfp, order, alloc_flags, zonelist)
        if pfn is not None:
            break
        if not can_direct_reclaim or task.flags & PF_MEMALLOC:
            raise KernelError(ENOMEM)
        pfn, progress = __alloc_pages_direct_reclaim(kernel, gfp, order, alloc_flags, zonelist)
        if pfn is not None:
            break
        if gfp & __GFP_NORETRY or (order > PAGE_ALLOC_COSTLY_ORDER and not gfp & __GFP_RETRY_MAYFAIL):
            raise KernelError(ENOMEM)
        no_progress_loops = 0 if progress and order <= PAGE_ALLOC_COSTLY_ORDER else no_progress_loops + 1
        if should_reclaim_retry(kernel, gfp, order, alloc_flags, zonelist, progress > 0, no_progress_loops):
            continue
        pfn, progress = __alloc_pages_may_oom(kernel, gfp, order, zonelist, nodemask)
        if pfn is not None:
            break
        if tsk_is_oom_victim(task) and (alloc_flags == ALLOC_OOM or gfp & __GFP_NOMEMALLOC):
            raise KernelError(ENOMEM)
        if not progress and not gfp & __GFP_NOFAIL:
            raise KernelError(ENOMEM)
        no_progress_loops = 0
    return pfn


def gfp_to_alloc_flags(gfp: int) -> int:
    """How far down an allocation may go at first."""
    alloc_flags = ALLOC_WMARK_MIN | gfp & __GFP_HIGH        # which is ALLOC_HIGH
    if gfp & __GFP_ATOMIC:
        if not gfp & __GFP_NOMEMALLOC:
            alloc_flags |= ALLOC_HARDER
    elif current().prio < 100:                             # rt_task()
        alloc_flags |= ALLOC_HARDER
    return alloc_flags


def __gfp_pfmemalloc_flags(task: TaskStruct, gfp: int) -> int:
    """Who frees memory, or is being killed for it, may have the reserves. 0: nobody of these."""
    if gfp & __GFP_NOMEMALLOC:
        return 0
    if gfp & __GFP_MEMALLOC or task.flags & PF_MEMALLOC:
        return ALLOC_NO_WATERMARKS
    return ALLOC_OOM if tsk_is_oom_victim(task) else 0


@notrace
def tsk_is_oom_victim(task: TaskStruct) -> bool:
    """The OOM killer chose it."""
    return task.signal.oom_mm is not None


def wake_all_kswapds(kernel: Kernel, order: int, gfp: int, zonelist: list[Zone]) -> None:
    """That of each node whose zones would do."""
    classzone_idx = gfp_zone(kernel.mem, gfp)
    last_node = -1
    for zone in zonelist:
        if zone.idx <= classzone_idx and zone.node != last_node:
            wakeup_kswapd(kernel, zone, gfp, order, classzone_idx)
            last_node = zone.node


@notrace
def current_gfp_context(gfp: int) -> int:
    """Without what the task must not do now: who holds a journal handle does not enter file systems."""
    task = current()
    return gfp & ~__GFP_FS if task.flags & PF_MEMALLOC_NOFS or task.journal_info is not None else gfp


@may_sleep
def __alloc_pages_direct_reclaim(kernel: Kernel, gfp: int, order: int, alloc_flags: int,
                                 zonelist: list[Zone]) -> tuple[int | None, int]:
    """(a frame or None, how many were reclaimed)."""
    progress = __perform_reclaim(kernel, gfp, order, zonelist)
    if not progress:
        return None, 0
    pfn = get_page_from_freelist(kernel.mem, gfp, order, alloc_flags, zonelist)
    if pfn is None:                                        # what was freed may lie on other CPUs' lists
        drain_all_pages(kernel.mem)
        pfn = get_page_from_freelist(kernel.mem, gfp, order, alloc_flags, zonelist)
    return pfn, progress


@may_sleep
def __perform_reclaim(kernel: Kernel, gfp: int, order: int, zonelist: list[Zone]) -> int:
    """Reclaims for the caller, who must not come back here: PF_MEMALLOC. Answers how many frames."""
    from glasskernel.mm.vmscan import try_to_free_pages

    cond_resched()
    task = current()
    noreclaim_flag = task.flags & PF_MEMALLOC
    task.flags |= PF_MEMALLOC
    try:
        progress = try_to_free_pages(kernel, order, current_gfp_context(gfp), zonelist)
    finally:
        task.flags = task.flags & ~PF_MEMALLOC | noreclaim_flag
    cond_resched()
    return progress


@may_sleep
def should_reclaim_retry(kernel: Kernel, gfp: int, order: int, alloc_flags: int, zonelist: list[Zone],
                         did_some_progress: bool, no_progress_loops: int) -> bool:
    """Would it do if everything reclaimable were reclaimed? Gives up after MAX_RECLAIM_RETRIES without progress."""
    mem = kernel.mem
    if no_progress_loops > MAX_RECLAIM_RETRIES:
        return False
    retry = False
    classzone_idx = gfp_zone(mem, gfp)
    for zone in zonelist:
        if zone.idx > classzone_idx:
            continue
        reclaimable = zone_reclaimable_pages(mem, zone)
        available = reclaimable + zone.nr_free
        min_wmark = zone.watermark[WMARK_MIN]
        wmark = __zone_watermark_ok(zone, order, min_wmark, classzone_idx, alloc_flags, available)
        probe = kernel.tp.reclaim_retry_zone
        if probe is not None:
            probe(zone, classzone_idx, order, reclaimable, available, min_wmark, no_progress_loops, wmark)
        if wmark:
            write_pending = mem.vm_stat[NR_FILE_DIRTY] + mem.vm_stat[NR_WRITEBACK]
            if not did_some_progress and 2 * write_pending > reclaimable:
                congestion_wait(HZ // 10)
                return True
            retry = True
            break
    if current().flags & PF_WQ_WORKER:                     # let other works run, too
        schedule_timeout_uninterruptible(1)
    else:
        cond_resched()
    return retry


@may_sleep
def __alloc_pages_may_oom(kernel: Kernel, gfp: int, order: int, zonelist: list[Zone],
                          nodemask: int | None) -> tuple[int | None, int]:
    """(a frame or None, 1 if it is worth to try again): the last means."""
    mem = kernel.mem
    if mem.oom_lock:                                       # somebody is at it
        schedule_timeout_uninterruptible(1)
        return None, 1
    mem.oom_lock = True
    try:
        # With the high watermark: only what somebody else freed meanwhile.
        pfn = get_page_from_freelist(mem, (gfp | __GFP_HARDWALL) & ~__GFP_DIRECT_RECLAIM, order,
                                     ALLOC_WMARK_HIGH, zonelist)
        if pfn is not None:
            return pfn, 0
        if (current().flags & PF_DUMPCORE or order > PAGE_ALLOC_COSTLY_ORDER
                or gfp & (__GFP_RETRY_MAYFAIL | __GFP_THISNODE)
                or gfp_zone(mem, gfp) < mem.nr_zones - 1):
            return None, 0
        if rcu_oom_notify(kernel):
            return None, 1
        if not kernel.out_of_memory(current_gfp_context(gfp), order, nodemask):
            return None, 0
        if gfp & __GFP_NOFAIL:
            return get_page_from_freelist(mem, gfp, order, ALLOC_NO_WATERMARKS, mem.zonelist), 1
        return None, 1
    finally:
        mem.oom_lock = False


@may_sleep
def rcu_oom_notify(kernel: Kernel) -> bool:
    """Waits until all objects that were freed through RCU are free. False: there were none."""
    if all(rcu_segcblist_empty(rdp.cblist) for rdp in kernel.rcu.data):
        return False
    rcu_barrier()
    return True
