"""CFS: every task gets the share of the CPU that its weight says, within its group the share that the group gets.

Linux: kernel/sched/fair.c (5.3): the class. Same: the walk over the hierarchy of groups in each operation,
check_preempt_tick(), wakeup preemption. One queue and its entities: fair_entity.py. Load balancing: balance.py. Groups
themselves: group.py, autogroup.py. Quotas: bandwidth.py.
Owns: rq.cfs, cfs_rq.h_nr_running.
Invariants: h_nr_running counts the tasks in a queue and below, those of throttled groups only inside these;
    rq.nr_running counts rq.cfs.h_nr_running.
Context of every function: any, with rq.clock up to date. Most tasks are in the root group: se.parent is None, and each
loop below ends before it begins.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.sched.balance import idle_balance, select_task_rq_fair
from glasskernel.kernel.sched.fair_entity import (
    clear_buddies,
    dequeue_entity,
    enqueue_entity,
    pick_next_entity,
    place_entity,
    put_prev_entity,
    sched_slice,
    set_last_buddy,
    set_next_buddy,
    set_next_entity,
    set_skip_buddy,
    throttled_hierarchy,
    update_cfs_group,
    update_curr,
    wakeup_preempt_entity,
)
from glasskernel.kernel.sched.idle_class import idle_sched_class
from glasskernel.kernel.sched.rq import check_preempt_curr, resched_curr, set_task_rq, update_rq_clock
from glasskernel.kernel.sched.types import (
    DEQUEUE_SLEEP,
    ENQUEUE_WAKEUP,
    HZ,
    SCHED_IDLE,
    SCHED_NORMAL,
    TASK_MOVE_GROUP,
    TICK_NSEC,
    WF_FORK,
    SchedClass,
)
from glasskernel.kernel.task import TASK_WAKING, TIF_NEED_RESCHED
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.sched.types import CfsRq, Rq, SchedEntity
    from glasskernel.kernel.task import TaskStruct


# ---- the class --------------------------------------------------------------------------------------------
def enqueue_task_fair(rq: Rq, p: TaskStruct, flags: int) -> None:
    """p becomes runnable, and with it each group that had nobody runnable on this CPU."""
    se = p.se
    cfs_rq = se.cfs_rq
    enqueue_entity(cfs_rq, se, flags)
    cfs_rq.h_nr_running += 1
    above = se.parent
    if above is not None:
        if cfs_rq.throttled or not enqueue_groups(above):
            return                               # its group is throttled: nobody will run it now
    rq.nr_running += 1


@notrace
def enqueue_groups(se: SchedEntity | None) -> bool:
    """The groups around a task that was queued. False: one of them is throttled."""
    while se is not None:
        cfs_rq = se.cfs_rq
        if se.on_rq:
            update_cfs_group(se)
        else:
            enqueue_entity(cfs_rq, se, ENQUEUE_WAKEUP)
        cfs_rq.h_nr_running += 1
        if cfs_rq.throttled:
            return False
        se = se.parent
    return True


def dequeue_task_fair(rq: Rq, p: TaskStruct, flags: int) -> None:
    """p stops being runnable, and with it each group that has nobody else on this CPU."""
    se = p.se
    cfs_rq = se.cfs_rq
    dequeue_entity(cfs_rq, se, flags)
    cfs_rq.h_nr_running -= 1
    above = se.parent
    if above is not None:
        if cfs_rq.throttled or not dequeue_groups(cfs_rq, above, flags):
            return
    rq.nr_running -= 1


@notrace
def dequeue_groups(cfs_rq: CfsRq, se: SchedEntity | None, flags: int) -> bool:
    """The groups around a task that was taken off cfs_rq. False: one of them is throttled."""
    empty = not cfs_rq.load
    if not empty and flags & DEQUEUE_SLEEP and not throttled_hierarchy(cfs_rq):
        set_next_buddy(se)                       # it sleeps within its slice: its group goes on
    while se is not None:
        cfs_rq = se.cfs_rq
        if empty:
            dequeue_entity(cfs_rq, se, flags | DEQUEUE_SLEEP)
            if cfs_rq.load:
                empty = False
                if flags & DEQUEUE_SLEEP and not throttled_hierarchy(cfs_rq):
                    set_next_buddy(se.parent)
        else:
            update_cfs_group(se)
        cfs_rq.h_nr_running -= 1
        if cfs_rq.throttled:
            return False
        se = se.parent
    return True


def yield_task_fair(rq: Rq) -> None:
    """sched_yield(): the leftmost other task goes first, if that is not unfair."""
    curr = rq.curr
    cfs_rq = curr.se.cfs_rq
    if rq.nr_running == 1:
        return
    clear_buddies(cfs_rq, curr.se)
    if curr.policy != 3:                         # SCHED_BATCH tasks have no slice to give up
        update_rq_clock(rq)
        update_curr(cfs_rq)
    set_skip_buddy(curr.se)


def check_preempt_wakeup(rq: Rq, p: TaskStruct, wake_flags: int) -> None:
    """p woke up on this CPU: preempt the running task if p (or its group) is far enough behind."""
    curr = rq.curr
    se, pse = curr.se, p.se
    cfs_rq, pcfs_rq = se.cfs_rq, pse.cfs_rq
    if se is pse or pcfs_rq.throttle_count:
        return
    sched = rq.kernel.sched
    scale = cfs_rq.nr_running >= sched.sched_nr_latency
    next_buddy_marked = False
    if sched.features.NEXT_BUDDY and scale and not wake_flags & WF_FORK:
        set_next_buddy(pse)
        next_buddy_marked = True
    if curr.ti_flags & TIF_NEED_RESCHED:
        return
    if not (curr.policy == SCHED_IDLE and p.policy != SCHED_IDLE):
        if p.policy != SCHED_NORMAL or not sched.features.WAKEUP_PREEMPTION:
            return
        if cfs_rq is not pcfs_rq:
            se, pse = find_matching_se(se, pse)
            cfs_rq = se.cfs_rq
        update_curr(cfs_rq)
        if wakeup_preempt_entity(se, pse) != 1:
            return
        if not next_buddy_marked:
            if pse.parent is None:               # set_next_buddy(), for most
                cfs_rq.next = pse
            else:
                set_next_buddy(pse)
    resched_curr(rq)
    if not se.on_rq or curr is rq.idle:
        return
    if sched.features.LAST_BUDDY and scale and se.my_q is None:
        set_last_buddy(se)


@notrace
def find_matching_se(se: SchedEntity, pse: SchedEntity) -> tuple[SchedEntity, SchedEntity]:
    """The entities above the two (or themselves) that are in one queue, so that they can be compared."""
    while se.cfs_rq is not pse.cfs_rq:
        depth, pdepth = se.depth, pse.depth
        if depth >= pdepth:
            assert se.parent is not None
            se = se.parent
        if pdepth >= depth:
            assert pse.parent is not None
            pse = pse.parent
    return se, pse


def pick_next_task_fair(rq: Rq, prev: TaskStruct) -> TaskStruct | None:
    """The fair task to run; when there is none, tries to pull one from another CPU."""
    while True:
        cfs_rq = rq.cfs
        if not cfs_rq.nr_running:
            if not idle_balance(rq) or not cfs_rq.nr_running:
                return None
        if prev.sched_class is not fair_sched_class:
            return pick_next_task_simple(rq, prev)
        while True:                              # from the root group down to a task
            curr = cfs_rq.curr
            if curr is not None:
                if curr.on_rq:
                    update_curr(cfs_rq)
                else:
                    curr = None
                if cfs_rq.runtime_enabled and rq.kernel.sched.cfs_bandwidth.check_cfs_rq_runtime(cfs_rq):
                    break                        # throttled, and perhaps groups above are empty now
            se = pick_next_entity(cfs_rq, curr)
            if se.my_q is None:
                p = se.task
                if prev is not p:
                    pse = prev.se
                    if cfs_rq is not pse.cfs_rq:
                        se, pse = switch_groups(se, pse)
                        cfs_rq = se.cfs_rq
                    put_prev_entity(cfs_rq, pse)
                    set_next_entity(cfs_rq, se)
                return p
            cfs_rq = se.my_q
        if rq.cfs.nr_running:
            return pick_next_task_simple(rq, prev)


@notrace
def pick_next_task_simple(rq: Rq, prev: TaskStruct) -> TaskStruct:
    """pick_next_task_fair() when no fair task ran, or none that could run on."""
    prev.sched_class.put_prev_task(rq, prev)
    cfs_rq: CfsRq | None = rq.cfs
    while cfs_rq is not None:
        se = pick_next_entity(cfs_rq, None)
        set_next_entity(cfs_rq, se)
        cfs_rq = se.my_q
    return se.task


@notrace
def switch_groups(se: SchedEntity, pse: SchedEntity) -> tuple[SchedEntity, SchedEntity]:
    """From a task to one of another group: only what differs between them is put back and set.

    Answers the two entities that are in one queue.
    """
    while se.cfs_rq is not pse.cfs_rq:
        depth, pdepth = se.depth, pse.depth
        if depth <= pdepth:
            put_prev_entity(pse.cfs_rq, pse)
            assert pse.parent is not None
            pse = pse.parent
        if depth >= pdepth:
            set_next_entity(se.cfs_rq, se)
            assert se.parent is not None
            se = se.parent
    return se, pse


def put_prev_task_fair(rq: Rq, prev: TaskStruct) -> None:
    se: SchedEntity | None = prev.se
    while se is not None:
        put_prev_entity(se.cfs_rq, se)
        se = se.parent


def set_next_task_fair(rq: Rq, p: TaskStruct) -> None:
    """A running task changed class, group or CPU mask: it is this class's current one."""
    se: SchedEntity | None = p.se
    while se is not None:
        cfs_rq = se.cfs_rq
        set_next_entity(cfs_rq, se)
        if cfs_rq.runtime_enabled:               # make sure that it has some
            rq.kernel.sched.cfs_bandwidth.account_cfs_rq_runtime(cfs_rq, 0)
        se = se.parent


def update_curr_fair(rq: Rq) -> None:
    update_curr(rq.curr.se.cfs_rq)


def task_tick_fair(rq: Rq, curr: TaskStruct, queued: int) -> None:
    se: SchedEntity | None = curr.se
    while se is not None:
        entity_tick(se.cfs_rq, se, queued)
        se = se.parent


def entity_tick(cfs_rq: CfsRq, curr: SchedEntity, queued: int) -> None:
    update_curr(cfs_rq)
    if curr.my_q is not None:
        update_cfs_group(curr)
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
    se = p.se
    cfs_rq = se.cfs_rq
    rq = cfs_rq.rq
    update_rq_clock(rq)
    curr = cfs_rq.curr
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
        p.se.vruntime -= p.se.cfs_rq.min_vruntime
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


@notrace
def detach_task_cfs_rq(p: TaskStruct) -> None:
    """Leaves its queue while asleep: make the vruntime relative, so that it is not boosted when it comes back."""
    if not vruntime_normalized(p):
        cfs_rq = p.se.cfs_rq
        place_entity(cfs_rq, p.se, 0)
        p.se.vruntime -= cfs_rq.min_vruntime


@notrace
def attach_task_cfs_rq(p: TaskStruct) -> None:
    if not vruntime_normalized(p):
        p.se.vruntime += p.se.cfs_rq.min_vruntime


def switched_from_fair(rq: Rq, p: TaskStruct) -> None:
    detach_task_cfs_rq(p)


def switched_to_fair(rq: Rq, p: TaskStruct) -> None:
    attach_task_cfs_rq(p)
    if p.on_rq:
        if rq.curr is p:
            resched_curr(rq)
        else:
            check_preempt_curr(rq, p, 0)


def task_change_group_fair(p: TaskStruct, type_: int) -> None:
    """p.sched_task_group is another one now."""
    if type_ == TASK_MOVE_GROUP:
        task_move_group_fair(p)
    else:
        set_task_rq(p, p.cpu)                    # TASK_SET_GROUP: it has never run


@notrace
def task_move_group_fair(p: TaskStruct) -> None:
    detach_task_cfs_rq(p)
    set_task_rq(p, p.cpu)
    attach_task_cfs_rq(p)


def get_rr_interval_fair(rq: Rq, p: TaskStruct) -> int:
    """The slice, in ticks; 0 on an empty queue."""
    return sched_slice(p.se.cfs_rq, p.se) * HZ // (TICK_NSEC * HZ) if rq.cfs.load else 0


fair_sched_class = SchedClass(
    name="fair", next=idle_sched_class, enqueue_task=enqueue_task_fair, dequeue_task=dequeue_task_fair,
    yield_task=yield_task_fair, check_preempt_curr=check_preempt_wakeup, pick_next_task=pick_next_task_fair,
    put_prev_task=put_prev_task_fair, set_next_task=set_next_task_fair, select_task_rq=select_task_rq_fair,
    migrate_task_rq=migrate_task_rq_fair, task_tick=task_tick_fair, task_fork=task_fork_fair,
    prio_changed=prio_changed_fair, switched_from=switched_from_fair, switched_to=switched_to_fair,
    get_rr_interval=get_rr_interval_fair, update_curr=update_curr_fair, task_change_group=task_change_group_fair,
)
