"""CFS: every task gets the share of the CPU that its weight says.

Linux: kernel/sched/fair.c (5.3). Same: vruntime and min_vruntime, weights, place_entity() with START_DEBIT
and GENTLE_FAIR_SLEEPERS, sched_slice(), check_preempt_tick(), wakeup preemption, the three buddies.
Differs: the timeline is a sorted list, not a red-black tree; divisions are exact where Linux multiplies by an
    inverse; vruntime does not wrap. Load balancing: balance.py.
Gaps: group scheduling, bandwidth control, PELT averages (se.avg), hrtick.
Owns: rq.cfs.
Invariants: an entity on the timeline lies there as (vruntime, sequence, entity) and neither changes
    meanwhile; cfs_rq.curr is not on the timeline; cfs_rq.load is the sum of the weights of queued entities
    and curr's.
Context of every function: any, with rq.clock up to date.
"""
from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

from glasskernel.kernel.sched.balance import idle_balance, select_task_rq_fair
from glasskernel.kernel.sched.idle_class import idle_sched_class
from glasskernel.kernel.sched.rq import check_preempt_curr, resched_curr, update_rq_clock
from glasskernel.kernel.sched.types import (
    DEQUEUE_MOVE,
    DEQUEUE_SAVE,
    DEQUEUE_SLEEP,
    ENQUEUE_MIGRATED,
    ENQUEUE_WAKEUP,
    HZ,
    NICE_0_LOAD,
    SCHED_IDLE,
    SCHED_NORMAL,
    TICK_NSEC,
    WF_FORK,
    SchedClass,
)
from glasskernel.kernel.task import TASK_INTERRUPTIBLE, TASK_UNINTERRUPTIBLE, TASK_WAKING, TIF_NEED_RESCHED
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.sched.types import CfsRq, Rq, SchedEntity
    from glasskernel.kernel.task import TaskStruct

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
    now = cfs_rq.rq.clock
    delta = now - curr.exec_start
    if delta <= 0:
        return
    curr.exec_start = now
    curr.sum_exec_runtime += delta
    cfs_rq.exec_clock += delta
    curr.vruntime += delta if curr.weight == NICE_0_LOAD else (delta << _NICE_0_SHIFT) * curr.inv_weight >> 32
    update_min_vruntime(cfs_rq)
    probe = cfs_rq.rq.kernel.tp.sched_stat_runtime
    if probe is not None:
        probe(curr.task, delta, curr.vruntime)


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


def update_curr_fair(rq: Rq) -> None:
    update_curr(rq.cfs)


@notrace
def __sched_period(kernel: Kernel, nr_running: int) -> int:
    sched = kernel.sched
    if nr_running > sched.sched_nr_latency:
        return nr_running * sched.sysctl_sched_min_granularity
    return sched.sysctl_sched_latency


def sched_slice(cfs_rq: CfsRq, se: SchedEntity) -> int:
    """How long the entity may run in each period, in ns."""
    load = cfs_rq.load
    nr_running = cfs_rq.nr_running
    if not se.on_rq:
        load += se.weight
        nr_running += 1
    return __calc_delta(__sched_period(cfs_rq.rq.kernel, nr_running), se.weight, load)


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
    if flags & ENQUEUE_WAKEUP:
        update_stats_enqueue_sleeper(cfs_rq, se)


@notrace
def update_stats_wait_end(cfs_rq: CfsRq, se: SchedEntity) -> None:
    """It gets the CPU, or stops waiting for it. wait_start is 0 if the statistics were switched on meanwhile."""
    if se.wait_start:
        delta = cfs_rq.rq.clock - se.wait_start
        se.wait_start = 0
        probe = cfs_rq.rq.kernel.tp.sched_stat_wait
        if probe is not None:
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
    if flags & DEQUEUE_SLEEP:
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
    cfs_rq.load += se.weight
    cfs_rq.nr_running += 1
    if flags & ENQUEUE_WAKEUP:
        place_entity(cfs_rq, se, 0)
    if cfs_rq.rq.kernel.sched.schedstats:
        update_stats_enqueue(cfs_rq, se, flags)
    if not curr:
        __enqueue_entity(cfs_rq, se)
    se.on_rq = 1


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
    if flags & (DEQUEUE_SAVE | DEQUEUE_MOVE) != DEQUEUE_SAVE:
        update_min_vruntime(cfs_rq)


def clear_buddies(cfs_rq: CfsRq, se: SchedEntity) -> None:
    if cfs_rq.last is se:
        cfs_rq.last = None
    if cfs_rq.next is se:
        cfs_rq.next = None
    if cfs_rq.skip is se:
        cfs_rq.skip = None


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
        if cfs_rq.rq.kernel.sched.schedstats:
            prev.wait_start = cfs_rq.rq.clock
        __enqueue_entity(cfs_rq, prev)
    cfs_rq.curr = None


@notrace
def wakeup_gran(se: SchedEntity) -> int:
    return calc_delta_fair(se.task.kernel.sched.sysctl_sched_wakeup_granularity, se)


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


# ---- the class --------------------------------------------------------------------------------------------
def enqueue_task_fair(rq: Rq, p: TaskStruct, flags: int) -> None:
    enqueue_entity(rq.cfs, p.se, flags)
    rq.nr_running += 1


def dequeue_task_fair(rq: Rq, p: TaskStruct, flags: int) -> None:
    dequeue_entity(rq.cfs, p.se, flags)
    rq.nr_running -= 1


def yield_task_fair(rq: Rq) -> None:
    """sched_yield(): the leftmost other task goes first, if that is not unfair."""
    curr = rq.curr
    cfs_rq = rq.cfs
    if rq.nr_running == 1:
        return
    clear_buddies(cfs_rq, curr.se)
    if curr.policy != 3:                         # SCHED_BATCH tasks have no slice to give up
        update_rq_clock(rq)
        update_curr(cfs_rq)
    cfs_rq.skip = curr.se


def check_preempt_wakeup(rq: Rq, p: TaskStruct, wake_flags: int) -> None:
    """p woke up on this CPU: preempt the running task if p is far enough behind."""
    curr = rq.curr
    se, pse = curr.se, p.se
    cfs_rq = rq.cfs
    if se is pse:
        return
    sched = rq.kernel.sched
    scale = cfs_rq.nr_running >= sched.sched_nr_latency
    next_buddy_marked = False
    if sched.features.NEXT_BUDDY and scale and not wake_flags & WF_FORK:
        set_next_buddy(cfs_rq, pse)
        next_buddy_marked = True
    if curr.ti_flags & TIF_NEED_RESCHED:
        return
    if not (curr.policy == SCHED_IDLE and p.policy != SCHED_IDLE):
        if p.policy != SCHED_NORMAL or not sched.features.WAKEUP_PREEMPTION:
            return
        update_curr(cfs_rq)
        if wakeup_preempt_entity(se, pse) != 1:
            return
        if not next_buddy_marked:
            set_next_buddy(cfs_rq, pse)
    resched_curr(rq)
    if not se.on_rq or curr is rq.idle:
        return
    if sched.features.LAST_BUDDY and scale and curr.policy != SCHED_IDLE:
        cfs_rq.last = se


@notrace
def set_next_buddy(cfs_rq: CfsRq, se: SchedEntity) -> None:
    if se.task.policy != SCHED_IDLE:
        cfs_rq.next = se


def pick_next_task_fair(rq: Rq, prev: TaskStruct) -> TaskStruct | None:
    """The fair task to run; when there is none, tries to pull one from another CPU."""
    cfs_rq = rq.cfs
    if not cfs_rq.nr_running:
        if not idle_balance(rq) or not cfs_rq.nr_running:
            return None
    curr = cfs_rq.curr
    if curr is not None:
        if curr.on_rq:
            update_curr(cfs_rq)
        else:
            curr = None
    se = pick_next_entity(cfs_rq, curr)
    p = se.task
    if prev is not p:
        if prev.sched_class is fair_sched_class:
            put_prev_entity(cfs_rq, prev.se)
        else:
            prev.sched_class.put_prev_task(rq, prev)
        set_next_entity(cfs_rq, se)
    return p


def put_prev_task_fair(rq: Rq, prev: TaskStruct) -> None:
    put_prev_entity(rq.cfs, prev.se)


def set_next_task_fair(rq: Rq, p: TaskStruct) -> None:
    """A running task changed class, group or CPU mask: it is this class's current one."""
    set_next_entity(rq.cfs, p.se)


def task_tick_fair(rq: Rq, curr: TaskStruct, queued: int) -> None:
    entity_tick(rq.cfs, curr.se, queued)


def entity_tick(cfs_rq: CfsRq, curr: SchedEntity, queued: int) -> None:
    update_curr(cfs_rq)
    if cfs_rq.nr_running > 1:
        check_preempt_tick(cfs_rq, curr)


def check_preempt_tick(cfs_rq: CfsRq, curr: SchedEntity) -> None:
    """Ends the running entity's turn when its slice is used up, or when it is a slice ahead of the next one.
    """
    ideal_runtime = sched_slice(cfs_rq, curr)
    delta_exec = curr.sum_exec_runtime - curr.prev_sum_exec_runtime
    if delta_exec > ideal_runtime:
        resched_curr(cfs_rq.rq)
        clear_buddies(cfs_rq, curr)
        return
    if delta_exec < cfs_rq.rq.kernel.sched.sysctl_sched_min_granularity:
        return
    delta = curr.vruntime - cfs_rq.timeline[0][0]
    if delta > ideal_runtime:
        resched_curr(cfs_rq.rq)


def task_fork_fair(p: TaskStruct) -> None:
    """A new task starts a slice behind its parent; its vruntime stays relative until it is enqueued."""
    rq = p.kernel.sched.rqs[p.cpu]
    cfs_rq = rq.cfs
    update_rq_clock(rq)
    curr = cfs_rq.curr
    se = p.se
    if curr is not None:
        update_curr(cfs_rq)
        se.vruntime = curr.vruntime
    else:
        se.vruntime = 0
    place_entity(cfs_rq, se, 1)
    if rq.kernel.sched.sysctl_sched_child_runs_first and curr is not None and curr.vruntime < se.vruntime:
        curr.vruntime, se.vruntime = se.vruntime, curr.vruntime
        resched_curr(rq)
    se.vruntime -= cfs_rq.min_vruntime


def migrate_task_rq_fair(p: TaskStruct, new_cpu: int) -> None:
    """Leaves for another CPU: vruntime becomes relative, and its cache is cold."""
    if p.state == TASK_WAKING:
        p.se.vruntime -= p.kernel.sched.rqs[p.cpu].cfs.min_vruntime
    p.se.exec_start = 0


def prio_changed_fair(rq: Rq, p: TaskStruct, oldprio: int) -> None:
    if not p.on_rq:
        return
    if rq.curr is p:
        if p.prio > oldprio:
            resched_curr(rq)
    else:
        check_preempt_curr(rq, p, 0)


@notrace
def vruntime_normalized(p: TaskStruct) -> bool:
    """True if se.vruntime is relative already: it is queued (dequeue did it), new, or just waking."""
    return bool(p.on_rq) or not p.se.sum_exec_runtime or p.state == TASK_WAKING


def switched_from_fair(rq: Rq, p: TaskStruct) -> None:
    """Leaves the class while asleep: make the vruntime relative, so that it is not boosted when it comes
    back.
    """
    if not vruntime_normalized(p):
        place_entity(rq.cfs, p.se, 0)
        p.se.vruntime -= rq.cfs.min_vruntime


def switched_to_fair(rq: Rq, p: TaskStruct) -> None:
    if not vruntime_normalized(p):
        p.se.vruntime += rq.cfs.min_vruntime
    if p.on_rq:
        if rq.curr is p:
            resched_curr(rq)
        else:
            check_preempt_curr(rq, p, 0)


def get_rr_interval_fair(rq: Rq, p: TaskStruct) -> int:
    """The slice, in ticks; 0 on an empty queue."""
    return sched_slice(rq.cfs, p.se) * HZ // (TICK_NSEC * HZ) if rq.cfs.load else 0


fair_sched_class = SchedClass(
    name="fair", next=idle_sched_class, enqueue_task=enqueue_task_fair, dequeue_task=dequeue_task_fair,
    yield_task=yield_task_fair, check_preempt_curr=check_preempt_wakeup, pick_next_task=pick_next_task_fair,
    put_prev_task=put_prev_task_fair, set_next_task=set_next_task_fair, select_task_rq=select_task_rq_fair,
    migrate_task_rq=migrate_task_rq_fair, task_tick=task_tick_fair, task_fork=task_fork_fair,
    prio_changed=prio_changed_fair, switched_from=switched_from_fair, switched_to=switched_to_fair,
    get_rr_interval=get_rr_interval_fair, update_curr=update_curr_fair,
)
