"""CFS, one queue: virtual time, the timeline, and what an entity weighs. Tasks and task groups are both entities.

Linux: the lower half of kernel/sched/fair.c (5.3); the class itself: fair.py. Same: vruntime and min_vruntime, weights,
place_entity() with START_DEBIT and GENTLE_FAIR_SLEEPERS, sched_slice(), the three buddies, shares of groups.
Differs: the timeline is a sorted list, not a red-black tree; vruntime does not wrap; a group's shares go to its
    entities by the weight that is queued on each CPU now, not by a decayed average (PELT).
Gaps: PELT averages (se.avg), hrtick.
Owns: every CfsRq.
Invariants: an entity on the timeline lies there as (vruntime, sequence, entity) and neither changes
    meanwhile; cfs_rq.curr is not on the timeline; cfs_rq.load is the sum of the weights of queued entities
    and curr's; a group's entity is queued as long as its my_q has entities and is not throttled.
Context of every function: any, with rq.clock up to date.
"""
from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

from glasskernel.kernel.sched.types import (
    DEQUEUE_MOVE,
    DEQUEUE_SAVE,
    DEQUEUE_SLEEP,
    ENQUEUE_MIGRATED,
    ENQUEUE_WAKEUP,
    MIN_SHARES,
    NICE_0_LOAD,
    SCHED_FIXEDPOINT_SHIFT,
    SCHED_IDLE,
)
from glasskernel.kernel.task import TASK_INTERRUPTIBLE, TASK_UNINTERRUPTIBLE
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.sched.types import CfsRq, SchedEntity

_NICE_0_SHIFT = 10


# ---- virtual time -----------------------------------------------------------------------------------------
@notrace
def calc_delta_fair(delta: int, se: SchedEntity) -> int:
    """Real ns as virtual ns: delta * 1024 / weight."""
    if se.weight == NICE_0_LOAD:
        return delta
    return (delta << _NICE_0_SHIFT) * se.inv_weight >> 32


def update_curr(cfs_rq: CfsRq) -> None:
    """Charges the running entity for the time since the last call."""
    curr = cfs_rq.curr
    if curr is None:
        return
    rq = cfs_rq.rq
    now = rq.clock
    delta = now - curr.exec_start
    if delta <= 0:
        return
    curr.exec_start = now
    curr.sum_exec_runtime += delta
    cfs_rq.exec_clock += delta
    curr.vruntime += delta if curr.weight == NICE_0_LOAD else (delta << _NICE_0_SHIFT) * curr.inv_weight >> 32
    update_min_vruntime(cfs_rq)
    probe = rq.kernel.tp.sched_stat_runtime
    if probe is not None and curr.my_q is None:
        probe(curr.task, delta, curr.vruntime)
    if cfs_rq.accounted:
        account_runtime(cfs_rq, curr, delta)


@notrace
def account_runtime(cfs_rq: CfsRq, curr: SchedEntity, delta: int) -> None:
    """What groups keep count of: cpuacct the time of their tasks, the cpu controller what is left of a quota."""
    sched = cfs_rq.rq.kernel.sched
    if curr.my_q is None and sched.cpuacct_charge is not None:
        sched.cpuacct_charge(curr.task, delta)
    if cfs_rq.runtime_enabled:
        sched.cfs_bandwidth.account_cfs_rq_runtime(cfs_rq, delta)


def update_min_vruntime(cfs_rq: CfsRq) -> None:
    """min_vruntime follows the smallest vruntime, and never goes back."""
    curr = cfs_rq.curr
    timeline = cfs_rq.timeline
    if curr is not None and curr.on_rq:
        vruntime = curr.vruntime
        if timeline and timeline[0][0] < vruntime:
            vruntime = timeline[0][0]
    elif timeline:
        vruntime = timeline[0][0]
    else:
        return
    if vruntime > cfs_rq.min_vruntime:
        cfs_rq.min_vruntime = vruntime


@notrace
def __sched_period(kernel: Kernel, nr_running: int) -> int:
    sched = kernel.sched
    if nr_running > sched.sched_nr_latency:
        return nr_running * sched.sysctl_sched_min_granularity
    return sched.sysctl_sched_latency


def sched_slice(cfs_rq: CfsRq, se: SchedEntity) -> int:
    """How long the entity may run in each period, in ns: its part of its group's part of ..."""
    load = cfs_rq.load
    nr_running = cfs_rq.nr_running
    if not se.on_rq:
        load += se.weight
        nr_running += 1
    slice_ns = __calc_delta(__sched_period(cfs_rq.rq.kernel, nr_running), se.weight, load)
    above = se.parent
    while above is not None:
        load = above.cfs_rq.load
        if not above.on_rq:
            load += above.weight
        slice_ns = __calc_delta(slice_ns, above.weight, load)
        above = above.parent
    return slice_ns


def __calc_delta(delta_exec: int, weight: int, load: int) -> int:
    """delta_exec * weight / load"""
    return delta_exec * weight // load


def place_entity(cfs_rq: CfsRq, se: SchedEntity, initial: int) -> None:
    """Where a new or a woken entity joins: new ones a slice late, sleepers half a latency early."""
    sched = cfs_rq.rq.kernel.sched
    vruntime = cfs_rq.min_vruntime
    if initial:
        if sched.features.START_DEBIT:
            vruntime += calc_delta_fair(sched_slice(cfs_rq, se), se)
    else:
        thresh = sched.sysctl_sched_latency
        if sched.features.GENTLE_FAIR_SLEEPERS:
            thresh >>= 1
        vruntime -= thresh
    if vruntime > se.vruntime:
        se.vruntime = vruntime


# ---- statistics (kernel.sched_schedstats) ------------------------------------------------------------------
@notrace
def update_stats_enqueue(cfs_rq: CfsRq, se: SchedEntity, flags: int) -> None:
    if se is not cfs_rq.curr:
        se.wait_start = cfs_rq.rq.clock
    if flags & ENQUEUE_WAKEUP and se.my_q is None:
        update_stats_enqueue_sleeper(cfs_rq, se)


@notrace
def update_stats_wait_end(cfs_rq: CfsRq, se: SchedEntity) -> None:
    """It gets the CPU, or stops waiting for it. wait_start is 0 if the statistics were switched on meanwhile."""
    if se.wait_start:
        delta = cfs_rq.rq.clock - se.wait_start
        se.wait_start = 0
        probe = cfs_rq.rq.kernel.tp.sched_stat_wait
        if probe is not None and se.my_q is None:
            probe(se.task, max(delta, 0))


@notrace
def update_stats_enqueue_sleeper(cfs_rq: CfsRq, se: SchedEntity) -> None:
    """It was woken: how long it slept, or was blocked."""
    kernel = cfs_rq.rq.kernel
    if se.sleep_start:
        delta = max(cfs_rq.rq.clock - se.sleep_start, 0)
        se.sleep_start = 0
        probe = kernel.tp.sched_stat_sleep
        if probe is not None:
            probe(se.task, delta)
    if se.block_start:
        delta = max(cfs_rq.rq.clock - se.block_start, 0)
        se.block_start = 0
        if se.task.in_iowait:
            probe = kernel.tp.sched_stat_iowait
            if probe is not None:
                probe(se.task, delta)
        probe = kernel.tp.sched_stat_blocked
        if probe is not None:
            probe(se.task, delta)


@notrace
def update_stats_dequeue(cfs_rq: CfsRq, se: SchedEntity, flags: int) -> None:
    if se is not cfs_rq.curr:
        update_stats_wait_end(cfs_rq, se)
    if flags & DEQUEUE_SLEEP and se.my_q is None:
        if se.task.state & TASK_INTERRUPTIBLE:
            se.sleep_start = cfs_rq.rq.clock
        if se.task.state & TASK_UNINTERRUPTIBLE:
            se.block_start = cfs_rq.rq.clock


# ---- the timeline -----------------------------------------------------------------------------------------
@notrace
def __enqueue_entity(cfs_rq: CfsRq, se: SchedEntity) -> None:
    cfs_rq.sequence += 1
    se.sequence = cfs_rq.sequence
    insort(cfs_rq.timeline, (se.vruntime, se.sequence, se))


@notrace
def __dequeue_entity(cfs_rq: CfsRq, se: SchedEntity) -> None:
    timeline = cfs_rq.timeline
    if timeline[0][2] is se:
        del timeline[0]
    else:
        index = bisect_left(timeline, (se.vruntime, se.sequence))
        assert timeline[index][2] is se
        del timeline[index]


def enqueue_entity(cfs_rq: CfsRq, se: SchedEntity, flags: int) -> None:
    """The entity becomes runnable.

    Unless it just woke on its old CPU its vruntime is relative: make it absolute.
    """
    renorm = not flags & ENQUEUE_WAKEUP or flags & ENQUEUE_MIGRATED
    curr = cfs_rq.curr is se
    if renorm and curr:
        se.vruntime += cfs_rq.min_vruntime
    update_curr(cfs_rq)
    if renorm and not curr:
        se.vruntime += cfs_rq.min_vruntime
    if se.my_q is not None:
        update_cfs_group(se)
    cfs_rq.load += se.weight
    cfs_rq.nr_running += 1
    if flags & ENQUEUE_WAKEUP:
        place_entity(cfs_rq, se, 0)
    if cfs_rq.rq.kernel.sched.schedstats:
        update_stats_enqueue(cfs_rq, se, flags)
    if not curr:
        __enqueue_entity(cfs_rq, se)
    se.on_rq = 1
    if cfs_rq.runtime_enabled and cfs_rq.nr_running == 1:
        cfs_rq.rq.kernel.sched.cfs_bandwidth.check_enqueue_throttle(cfs_rq)


def dequeue_entity(cfs_rq: CfsRq, se: SchedEntity, flags: int) -> None:
    """The entity stops being runnable. If it does not sleep, its vruntime becomes relative to this queue."""
    update_curr(cfs_rq)
    if cfs_rq.rq.kernel.sched.schedstats:
        update_stats_dequeue(cfs_rq, se, flags)
    clear_buddies(cfs_rq, se)
    if se is not cfs_rq.curr:
        __dequeue_entity(cfs_rq, se)
    se.on_rq = 0
    cfs_rq.load -= se.weight
    cfs_rq.nr_running -= 1
    if not flags & DEQUEUE_SLEEP:
        se.vruntime -= cfs_rq.min_vruntime
    if cfs_rq.runtime_enabled:
        cfs_rq.rq.kernel.sched.cfs_bandwidth.return_cfs_rq_runtime(cfs_rq)
    if se.my_q is not None:
        update_cfs_group(se)
    if flags & (DEQUEUE_SAVE | DEQUEUE_MOVE) != DEQUEUE_SAVE:
        update_min_vruntime(cfs_rq)


def clear_buddies(cfs_rq: CfsRq, se: SchedEntity) -> None:
    """The entity is nobody's favourite any more, nor are the groups that were because of it."""
    if cfs_rq.last is se:
        cfs_rq.last = None
        above = se.parent
        while above is not None and above.cfs_rq.last is above:
            above.cfs_rq.last = None
            above = above.parent
    if cfs_rq.next is se:
        cfs_rq.next = None
        above = se.parent
        while above is not None and above.cfs_rq.next is above:
            above.cfs_rq.next = None
            above = above.parent
    if cfs_rq.skip is se:
        cfs_rq.skip = None
        above = se.parent
        while above is not None and above.cfs_rq.skip is above:
            above.cfs_rq.skip = None
            above = above.parent


@notrace
def set_next_buddy(se: SchedEntity | None) -> None:
    """Wants it to run next, and the groups that it is in."""
    if se is not None and se.my_q is None and se.task.policy == SCHED_IDLE:
        return
    while se is not None and se.on_rq:
        se.cfs_rq.next = se
        se = se.parent


@notrace
def set_last_buddy(se: SchedEntity | None) -> None:
    """It was preempted: wants it back afterwards, while its cache is warm."""
    if se is not None and se.my_q is None and se.task.policy == SCHED_IDLE:
        return
    while se is not None and se.on_rq:
        se.cfs_rq.last = se
        se = se.parent


@notrace
def set_skip_buddy(se: SchedEntity | None) -> None:
    while se is not None:
        se.cfs_rq.skip = se
        se = se.parent


def set_next_entity(cfs_rq: CfsRq, se: SchedEntity) -> None:
    """The entity runs from now on."""
    if se.on_rq:
        if se.wait_start:
            update_stats_wait_end(cfs_rq, se)
        __dequeue_entity(cfs_rq, se)
    se.exec_start = cfs_rq.rq.clock
    cfs_rq.curr = se
    se.prev_sum_exec_runtime = se.sum_exec_runtime


def put_prev_entity(cfs_rq: CfsRq, prev: SchedEntity) -> None:
    """The entity does not run any more; if still runnable it waits on the timeline."""
    if prev.on_rq:
        update_curr(cfs_rq)
        if cfs_rq.runtime_enabled:
            cfs_rq.rq.kernel.sched.cfs_bandwidth.check_cfs_rq_runtime(cfs_rq)
        if cfs_rq.rq.kernel.sched.schedstats:
            prev.wait_start = cfs_rq.rq.clock
        __enqueue_entity(cfs_rq, prev)
    elif cfs_rq.runtime_enabled:
        cfs_rq.rq.kernel.sched.cfs_bandwidth.check_cfs_rq_runtime(cfs_rq)
    cfs_rq.curr = None


@notrace
def wakeup_gran(se: SchedEntity) -> int:
    return calc_delta_fair(se.cfs_rq.rq.kernel.sched.sysctl_sched_wakeup_granularity, se)


@notrace
def wakeup_preempt_entity(curr: SchedEntity, se: SchedEntity) -> int:
    """1: se should preempt curr; 0: se is ahead, but not by enough; -1: it is not ahead."""
    vdiff = curr.vruntime - se.vruntime
    if vdiff <= 0:
        return -1
    return 1 if vdiff > wakeup_gran(se) else 0


def pick_next_entity(cfs_rq: CfsRq, curr: SchedEntity | None) -> SchedEntity:
    """The leftmost entity (curr counts, too); a buddy instead where that is not too unfair."""
    timeline = cfs_rq.timeline
    if not timeline:
        assert curr is not None
        left = curr
    else:
        left = timeline[0][2]
        if curr is not None and curr.vruntime < left.vruntime:
            left = curr
    se = left
    if cfs_rq.skip is se:
        second: SchedEntity | None
        if se is curr:
            second = timeline[0][2] if timeline else None
        else:
            second = timeline[1][2] if len(timeline) > 1 else None
            if second is None or (curr is not None and curr.vruntime < second.vruntime):
                second = curr
        if second is not None and wakeup_preempt_entity(second, left) < 1:
            se = second
    if cfs_rq.last is not None and wakeup_preempt_entity(cfs_rq.last, left) < 1:
        se = cfs_rq.last
    if cfs_rq.next is not None and wakeup_preempt_entity(cfs_rq.next, left) < 1:
        se = cfs_rq.next
    clear_buddies(cfs_rq, se)
    return se


# ---- what a group's entity weighs --------------------------------------------------------------------------
def update_cfs_group(se: SchedEntity) -> None:
    """A group's entity on one CPU weighs that part of the group's shares that its tasks there are of all its tasks."""
    gcfs_rq = se.my_q
    if gcfs_rq is None or throttled_hierarchy(gcfs_rq):
        return
    update_tg_load_avg(gcfs_rq)
    shares = calc_group_shares(gcfs_rq)
    if shares != se.weight:
        reweight_entity(se.cfs_rq, se, shares)


@notrace
def update_tg_load_avg(cfs_rq: CfsRq) -> None:
    """Tells the group what is queued on this CPU."""
    delta = cfs_rq.load - cfs_rq.tg_load_avg_contrib
    cfs_rq.tg.load_avg += delta
    cfs_rq.tg_load_avg_contrib = cfs_rq.load


@notrace
def calc_group_shares(cfs_rq: CfsRq) -> int:
    """shares * load / load of all CPUs, within MIN_SHARES..shares"""
    tg = cfs_rq.tg
    if not tg.load_avg:
        return max(tg.shares, MIN_SHARES)
    return max(min(tg.shares * cfs_rq.load // tg.load_avg, tg.shares), MIN_SHARES)


def reweight_entity(cfs_rq: CfsRq, se: SchedEntity, weight: int) -> None:
    """The entity weighs that much from now on; what it ran until now counts with the old weight."""
    if se.on_rq:
        if cfs_rq.curr is se:
            update_curr(cfs_rq)
        cfs_rq.load += weight - se.weight
    update_load_set(se, weight)


@notrace
def update_load_set(se: SchedEntity, weight: int) -> None:
    se.weight = weight
    se.inv_weight = (1 << 32 + SCHED_FIXEDPOINT_SHIFT) // weight


@notrace
def throttled_hierarchy(cfs_rq: CfsRq) -> bool:
    """It, or a group above it, has used up its quota."""
    return cfs_rq.throttle_count > 0
