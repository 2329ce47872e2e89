"""The deadline class: earliest deadline first, and no task takes more than it reserved.

Linux: kernel/sched/deadline.c (5.3). Same: EDF with a constant bandwidth server, throttling until the next
period, admission control against sched_rt_runtime_us, sched_yield() gives up the rest of the runtime.
Differs: the timeline is a sorted list; push and pull look at all CPUs. The replenishment timer is started
    through kernel.sched.start_dl_timer, because imports run downwards only (time/dl_timer.py sets it).
Gaps: GRUB reclaiming, the inactive timer (bandwidth is given back at once), inheritance, overrun signals.
Owns: rq.dl, task.dl, kernel.sched.dl_total_bw.
Invariants: task.dl.key is not None exactly while the task lies on rq.dl.timeline; a throttled task does not,
    and its timer is armed. A running task stays on the timeline.
"""
from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

from glasskernel.kernel.sched.idle_class import no_fork, no_migrate, no_rr_interval
from glasskernel.kernel.sched.rq import (
    activate_task,
    deactivate_task,
    resched_curr,
    set_task_cpu,
    update_rq_clock,
)
from glasskernel.kernel.sched.rt import rt_sched_class
from glasskernel.kernel.sched.types import (
    DEQUEUE_NOCLOCK,
    ENQUEUE_NOCLOCK,
    ENQUEUE_REPLENISH,
    ENQUEUE_RESTORE,
    ENQUEUE_WAKEUP,
    SD_BALANCE_WAKE,
    TASK_ON_RQ_MIGRATING,
    TASK_ON_RQ_QUEUED,
    SchedClass,
)
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.sched.types import Rq, SchedDlEntity
    from glasskernel.kernel.task import TaskStruct

BW_SHIFT = 20
DL_SCALE = 1 << 10                 # ns: the shortest runtime


@notrace
def to_ratio(period: int, runtime: int) -> int:
    """runtime / period in fixed point."""
    return (runtime << BW_SHIFT) // period if period else 0


@notrace
def checkparam_dl(runtime: int, deadline: int, period: int) -> bool:
    """runtime <= deadline <= period, none too small or too large (__checkparam_dl())."""
    period = period or deadline
    if not deadline or runtime < DL_SCALE or (deadline | period) >> 63:
        return False
    return runtime <= deadline <= period


@notrace
def dl_entity_preempt(a: TaskStruct, b: TaskStruct) -> bool:
    """True if a's deadline is the earlier one."""
    return a.dl.deadline < b.dl.deadline


# ---- the server -------------------------------------------------------------------------------------------
def replenish_dl_entity(rq: Rq, dl_se: SchedDlEntity) -> None:
    """A new period: deadline and runtime move on until there is runtime again."""
    if dl_se.dl_yielded and dl_se.runtime > 0:
        dl_se.runtime = 0
    while dl_se.runtime <= 0:
        dl_se.deadline += dl_se.dl_period
        dl_se.runtime += dl_se.dl_runtime
    if dl_se.deadline < rq.clock:                # it lagged too much
        setup_new_dl_entity(rq, dl_se)
    dl_se.dl_yielded = False
    dl_se.dl_throttled = False


@notrace
def setup_new_dl_entity(rq: Rq, dl_se: SchedDlEntity) -> None:
    dl_se.deadline = rq.clock + dl_se.dl_deadline
    dl_se.runtime = dl_se.dl_runtime


def update_dl_entity(rq: Rq, dl_se: SchedDlEntity) -> None:
    """At wakeup: keeps deadline and runtime only if using them up would not exceed the reserved share."""
    left = dl_se.deadline - rq.clock
    if left < 0 or dl_se.runtime * dl_se.dl_period > left * dl_se.dl_runtime:
        setup_new_dl_entity(rq, dl_se)


def update_curr_dl(rq: Rq) -> None:
    """Charges the running task; one that used up its runtime waits for its next period."""
    curr = rq.curr
    if curr.sched_class is not dl_sched_class:
        return
    dl_se = curr.dl
    delta = rq.clock - curr.se.exec_start
    if delta > 0:
        curr.se.sum_exec_runtime += delta
        curr.se.exec_start = rq.clock
        dl_se.runtime -= delta
        charge = rq.kernel.sched.cpuacct_charge  # cgroup_account_cputime()
        if charge is not None:
            charge(curr, delta)
    elif not dl_se.dl_yielded:
        return
    if dl_se.runtime <= 0 or dl_se.dl_yielded:
        dl_se.dl_throttled = True
        __dequeue_task_dl(rq, curr)
        start = rq.kernel.sched.start_dl_timer
        if start is None or not start(curr, dl_se.deadline - dl_se.dl_deadline + dl_se.dl_period):
            enqueue_task_dl(rq, curr, ENQUEUE_REPLENISH)
        if not rq.dl.timeline or rq.dl.timeline[0][2] is not curr:
            resched_curr(rq)


def dl_task_offline_migration(p: TaskStruct) -> Rq:
    """Its CPU went while it was throttled: it comes back on another one. Returns that one's queue."""
    sched = p.kernel.sched
    cpu = find_later_rq(p)
    if cpu < 0:
        usable = p.cpus_allowed & sched.cpu_active_mask or sched.cpu_active_mask
        cpu = (usable & -usable).bit_length() - 1
    set_task_cpu(p, cpu)
    rq = sched.rqs[cpu]
    update_rq_clock(rq)
    return rq


def dl_task_timer(p: TaskStruct) -> None:
    """The next period of a throttled task begins. Context: irq."""
    rq = p.kernel.sched.rqs[p.cpu]
    if p.sched_class is not dl_sched_class or not p.dl.dl_throttled:
        return
    update_rq_clock(rq)
    if not p.on_rq:
        replenish_dl_entity(rq, p.dl)
        return
    if not p.kernel.sched.cpu_active_mask >> rq.cpu & 1:
        rq = dl_task_offline_migration(p)
    enqueue_task_dl(rq, p, ENQUEUE_REPLENISH)
    if rq.curr.sched_class is dl_sched_class:
        check_preempt_curr_dl(rq, p, 0)
    else:
        resched_curr(rq)


# ---- the class --------------------------------------------------------------------------------------------
def enqueue_task_dl(rq: Rq, p: TaskStruct, flags: int) -> None:
    dl_se = p.dl
    if dl_se.dl_throttled and not flags & ENQUEUE_REPLENISH:
        return                                   # its timer will queue it
    if flags & ENQUEUE_WAKEUP:
        update_dl_entity(rq, dl_se)
    elif flags & ENQUEUE_REPLENISH:
        replenish_dl_entity(rq, dl_se)
    elif flags & ENQUEUE_RESTORE and dl_se.deadline < rq.clock:
        setup_new_dl_entity(rq, dl_se)
    dl = rq.dl
    dl.sequence += 1
    dl_se.key = (dl_se.deadline, dl.sequence, p)
    insort(dl.timeline, dl_se.key)
    rq.nr_running += 1


@notrace
def __dequeue_task_dl(rq: Rq, p: TaskStruct) -> None:
    key = p.dl.key
    if key is not None:
        del rq.dl.timeline[bisect_left(rq.dl.timeline, key[:2])]
        p.dl.key = None
        rq.nr_running -= 1


def dequeue_task_dl(rq: Rq, p: TaskStruct, flags: int) -> None:
    update_curr_dl(rq)
    __dequeue_task_dl(rq, p)


def yield_task_dl(rq: Rq) -> None:
    """The task is done for this period."""
    rq.curr.dl.dl_yielded = True
    update_rq_clock(rq)
    update_curr_dl(rq)


def check_preempt_curr_dl(rq: Rq, p: TaskStruct, flags: int) -> None:
    if p.dl.key is not None and dl_entity_preempt(p, rq.curr):
        resched_curr(rq)


def pick_next_task_dl(rq: Rq, prev: TaskStruct) -> TaskStruct | None:
    if prev.sched_class is dl_sched_class:       # need_pull_dl_task()
        pull_dl_task(rq)
    if not rq.dl.timeline:
        return None
    prev.sched_class.put_prev_task(rq, prev)
    if not rq.dl.timeline:                       # prev has just used up its runtime
        return None
    p = rq.dl.timeline[0][2]
    p.se.exec_start = rq.clock
    return p


def put_prev_task_dl(rq: Rq, p: TaskStruct) -> None:
    update_curr_dl(rq)


def set_next_task_dl(rq: Rq, p: TaskStruct) -> None:
    p.se.exec_start = rq.clock


def select_task_rq_dl(p: TaskStruct, cpu: int, sd_flag: int, flags: int) -> int:
    """Stays, unless a task with an earlier deadline runs there."""
    curr = p.kernel.sched.rqs[cpu].curr
    if sd_flag & SD_BALANCE_WAKE and curr.sched_class is dl_sched_class and not dl_entity_preempt(p, curr):
        later = find_later_rq(p)
        if later >= 0:
            return later
    return cpu


def find_later_rq(p: TaskStruct) -> int:
    """An allowed CPU whose earliest deadline is later than p's; one without any before all; -1: there is
    none.
    """
    best, latest = -1, p.dl.deadline
    allowed = p.cpus_allowed & p.kernel.sched.cpu_active_mask
    for rq in p.kernel.sched.rqs:
        if allowed >> rq.cpu & 1:
            if not rq.dl.timeline:
                return rq.cpu
            if rq.dl.timeline[0][0] > latest:
                best, latest = rq.cpu, rq.dl.timeline[0][0]
    return best


def pull_dl_task(this_rq: Rq) -> None:
    """Takes a waiting task with an earlier deadline than ours from another CPU."""
    sched = this_rq.kernel.sched
    if not sched.cpu_active_mask >> this_rq.cpu & 1:
        return
    for src in sched.rqs:
        if src is this_rq:
            continue
        for deadline, _, p in tuple(src.dl.timeline):
            if this_rq.dl.timeline and this_rq.dl.timeline[0][0] <= deadline:
                break
            if p is not src.curr and p.cpus_allowed >> this_rq.cpu & 1:
                p.on_rq = TASK_ON_RQ_MIGRATING
                deactivate_task(src, p, DEQUEUE_NOCLOCK)
                set_task_cpu(p, this_rq.cpu)
                activate_task(this_rq, p, ENQUEUE_NOCLOCK)
                p.on_rq = TASK_ON_RQ_QUEUED
                break


def task_tick_dl(rq: Rq, p: TaskStruct, queued: int) -> None:
    update_curr_dl(rq)


def task_dead_dl(p: TaskStruct) -> None:
    """Gives the reserved bandwidth back."""
    p.kernel.sched.dl_total_bw -= p.dl.dl_bw
    p.dl.dl_bw = 0
    p.dl.dl_throttled = False


def prio_changed_dl(rq: Rq, p: TaskStruct, oldprio: int) -> None:
    if p.on_rq or rq.curr is p:
        resched_curr(rq)


def switched_from_dl(rq: Rq, p: TaskStruct) -> None:
    task_dead_dl(p)


def switched_to_dl(rq: Rq, p: TaskStruct) -> None:
    if p.on_rq and rq.curr is not p:
        if rq.curr.sched_class is dl_sched_class:
            check_preempt_curr_dl(rq, p, 0)
        else:
            resched_curr(rq)


dl_sched_class = SchedClass(
    name="dl", next=rt_sched_class, enqueue_task=enqueue_task_dl, dequeue_task=dequeue_task_dl,
    yield_task=yield_task_dl, check_preempt_curr=check_preempt_curr_dl, pick_next_task=pick_next_task_dl,
    put_prev_task=put_prev_task_dl, set_next_task=set_next_task_dl, select_task_rq=select_task_rq_dl,
    migrate_task_rq=no_migrate, task_tick=task_tick_dl, task_fork=no_fork, prio_changed=prio_changed_dl,
    switched_from=switched_from_dl, switched_to=switched_to_dl, get_rr_interval=no_rr_interval,
    update_curr=update_curr_dl,
)
