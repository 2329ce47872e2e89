"""The real-time class: SCHED_FIFO and SCHED_RR. The highest priority runs, always and first.

Linux: kernel/sched/rt.c (5.3). Same: one queue per priority, round-robin slices of 100 ms, RT throttling (an
RT hog leaves 5 % of each second to others), pushing and pulling tasks so that the N highest run on N CPUs.
Differs: a throttled queue starts again at a tick instead of a period timer's; throttling waits for a task of
    a lower class to exist; push and pull look at all CPUs instead of a priority map.
Gaps: group scheduling, priority inheritance.
Owns: rq.rt.
Invariants: task.rt.on_list says whether the task lies in queue[task.prio]; a running RT task stays in its
queue.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.sched.fair import fair_sched_class
from glasskernel.kernel.sched.idle_class import no_fork, no_migrate
from glasskernel.kernel.sched.rq import (
    activate_task,
    deactivate_task,
    resched_curr,
    set_task_cpu,
    update_rq_clock,
)
from glasskernel.kernel.sched.types import (
    DEQUEUE_NOCLOCK,
    ENQUEUE_HEAD,
    ENQUEUE_NOCLOCK,
    MAX_RT_PRIO,
    SCHED_RR,
    SD_BALANCE_FORK,
    SD_BALANCE_WAKE,
    TASK_ON_RQ_MIGRATING,
    TASK_ON_RQ_QUEUED,
    SchedClass,
)
from glasskernel.kernel.task import RLIM_INFINITY, RLIMIT_RTTIME, TIF_NEED_RESCHED
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.sched.types import Rq
    from glasskernel.kernel.task import TaskStruct


def update_curr_rt(rq: Rq) -> None:
    """Charges the running RT task, and throttles the class when it used up its share."""
    curr = rq.curr
    if curr.sched_class is not rt_sched_class:
        return
    now = rq.clock
    delta = now - curr.se.exec_start
    if delta <= 0:
        return
    curr.se.sum_exec_runtime += delta
    curr.se.exec_start = now
    sched = rq.kernel.sched
    if sched.cpuacct_charge is not None:         # cgroup_account_cputime()
        sched.cpuacct_charge(curr, delta)
    if sched.sysctl_sched_rt_runtime < 0:
        return
    rq.rt.rt_time += delta
    if sched_rt_runtime_exceeded(rq):
        resched_curr(rq)


def sched_rt_runtime_exceeded(rq: Rq) -> int:
    """1 if the class must pause because others wait and its runtime in this period is used up."""
    rt = rq.rt
    sched = rq.kernel.sched
    if rt.rt_throttled:
        return 1
    if rt.rt_time > sched.sysctl_sched_rt_runtime * 1000 and rq.nr_running > rt.nr_running:
        rt.rt_throttled = True
        return 1
    return 0


def sched_rt_period_timer(rq: Rq) -> None:
    """At each tick: a new period gives the class its runtime back."""
    rt = rq.rt
    period = rq.kernel.sched.sysctl_sched_rt_period * 1000
    if rq.clock - rt.rt_period_start < period:
        return
    periods = (rq.clock - rt.rt_period_start) // period
    rt.rt_period_start += periods * period
    rt.rt_time -= min(rt.rt_time, periods * max(rq.kernel.sched.sysctl_sched_rt_runtime, 0) * 1000)
    if rt.rt_throttled and rt.rt_time <= rq.kernel.sched.sysctl_sched_rt_runtime * 1000:
        rt.rt_throttled = False
        if rt.nr_running and rq.curr.sched_class is not rt_sched_class:
            resched_curr(rq)


def enqueue_task_rt(rq: Rq, p: TaskStruct, flags: int) -> None:
    rt = rq.rt
    queue = rt.queue[p.prio]
    if flags & ENQUEUE_HEAD:
        queue.appendleft(p)
    else:
        queue.append(p)
    rt.bitmap |= 1 << p.prio
    p.rt.on_list = True
    rt.nr_running += 1
    rq.nr_running += 1


def dequeue_task_rt(rq: Rq, p: TaskStruct, flags: int) -> None:
    update_curr_rt(rq)
    rt = rq.rt
    queue = rt.queue[p.prio]
    queue.remove(p)
    if not queue:
        rt.bitmap &= ~(1 << p.prio)
    p.rt.on_list = False
    rt.nr_running -= 1
    rq.nr_running -= 1


def requeue_task_rt(rq: Rq, p: TaskStruct, head: int) -> None:
    """To the other end of its priority's queue."""
    queue = rq.rt.queue[p.prio]
    queue.remove(p)
    if head:
        queue.appendleft(p)
    else:
        queue.append(p)


def yield_task_rt(rq: Rq) -> None:
    requeue_task_rt(rq, rq.curr, 0)


def check_preempt_curr_rt(rq: Rq, p: TaskStruct, flags: int) -> None:
    if p.prio < rq.curr.prio:
        resched_curr(rq)


@notrace
def highest_prio(rq: Rq) -> int:
    """The priority number of the best queued RT task; MAX_RT_PRIO if there is none."""
    bitmap = rq.rt.bitmap
    return (bitmap & -bitmap).bit_length() - 1 if bitmap else MAX_RT_PRIO


def pick_next_task_rt(rq: Rq, prev: TaskStruct) -> TaskStruct | None:
    rt = rq.rt
    if prev.sched_class is rt_sched_class and highest_prio(rq) > prev.prio:      # need_pull_rt_task()
        pull_rt_task(rq)
    if not rt.nr_running or rt.rt_throttled:
        return None
    prev.sched_class.put_prev_task(rq, prev)
    p = rt.queue[highest_prio(rq)][0]
    p.se.exec_start = rq.clock
    return p


def put_prev_task_rt(rq: Rq, p: TaskStruct) -> None:
    update_curr_rt(rq)


def set_next_task_rt(rq: Rq, p: TaskStruct) -> None:
    p.se.exec_start = rq.clock


def select_task_rq_rt(p: TaskStruct, cpu: int, sd_flag: int, flags: int) -> int:
    """Stays, unless a task that must not make way runs there."""
    rqs = p.kernel.sched.rqs
    if sd_flag & (SD_BALANCE_WAKE | SD_BALANCE_FORK) and p.cpus_allowed & (p.cpus_allowed - 1):
        curr = rqs[cpu].curr
        pinned = not curr.cpus_allowed & (curr.cpus_allowed - 1)
        if curr.prio < MAX_RT_PRIO and (curr.prio <= p.prio or pinned):
            target = find_lowest_rq(p)
            if target >= 0 and p.prio < rqs[target].curr.prio:
                return target
    if not p.cpus_allowed >> cpu & 1:
        return (p.cpus_allowed & -p.cpus_allowed).bit_length() - 1
    return cpu


def find_lowest_rq(p: TaskStruct) -> int:
    """The allowed CPU that runs what matters least; -1 if none runs less than p."""
    best, lowest = -1, p.prio
    allowed = p.cpus_allowed & p.kernel.sched.cpu_active_mask
    for rq in p.kernel.sched.rqs:
        if allowed >> rq.cpu & 1:
            prio = 140 if rq.curr is rq.idle and not rq.nr_running else min(rq.curr.prio, highest_prio(rq))
            if prio > lowest:
                best, lowest = rq.cpu, prio
    return best


def pull_rt_task(this_rq: Rq) -> None:
    """Takes waiting RT tasks that would win here from other CPUs."""
    sched = this_rq.kernel.sched
    if not sched.cpu_active_mask >> this_rq.cpu & 1:
        return
    for src in sched.rqs:
        if src is this_rq or src.rt.nr_running < 2:
            continue
        this_prio = highest_prio(this_rq)
        for prio in range(highest_prio(src), this_prio):
            queue = src.rt.queue[prio]
            p = next((t for t in queue if t is not src.curr and t.cpus_allowed >> this_rq.cpu & 1), None)
            if p is not None:
                p.on_rq = TASK_ON_RQ_MIGRATING
                deactivate_task(src, p, DEQUEUE_NOCLOCK)
                set_task_cpu(p, this_rq.cpu)
                activate_task(this_rq, p, ENQUEUE_NOCLOCK)
                p.on_rq = TASK_ON_RQ_QUEUED
                break


def push_rt_tasks(rq: Rq) -> None:
    """Gives waiting RT tasks to CPUs that run something less important."""
    if rq.rt.nr_running < 2:
        return
    for prio in range(highest_prio(rq), MAX_RT_PRIO):
        for p in tuple(rq.rt.queue[prio]):
            if p is rq.curr or not p.cpus_allowed & (p.cpus_allowed - 1):
                continue
            cpu = find_lowest_rq(p)
            if cpu < 0 or cpu == rq.cpu:
                continue
            target = rq.kernel.sched.rqs[cpu]
            p.on_rq = TASK_ON_RQ_MIGRATING
            deactivate_task(rq, p, DEQUEUE_NOCLOCK)
            set_task_cpu(p, cpu)
            update_rq_clock(target)
            activate_task(target, p, ENQUEUE_NOCLOCK)
            p.on_rq = TASK_ON_RQ_QUEUED
            resched_curr(target)


def task_woken_rt(rq: Rq, p: TaskStruct) -> None:
    """p woke up but does not preempt: another CPU may run it at once."""
    if rq.curr is not p and not rq.curr.ti_flags & TIF_NEED_RESCHED and rq.curr.prio <= p.prio:
        push_rt_tasks(rq)


def task_tick_rt(rq: Rq, p: TaskStruct, queued: int) -> None:
    """A tick of the running RT task: its limit, and for SCHED_RR its slice."""
    update_curr_rt(rq)
    watchdog(rq, p)
    if p.policy != SCHED_RR:
        return
    p.rt.time_slice -= 1
    if p.rt.time_slice > 0:
        return
    p.rt.time_slice = rq.kernel.sched.sched_rr_timeslice
    if len(rq.rt.queue[p.prio]) > 1:
        requeue_task_rt(rq, p, 0)
        resched_curr(rq)


def watchdog(rq: Rq, p: TaskStruct) -> None:
    """RLIMIT_RTTIME: how long an RT task may run without sleeping.

    run_posix_cpu_timers() sends the signals.
    """
    if p.signal is not None and p.signal.rlim and p.signal.rlim[RLIMIT_RTTIME][0] != RLIM_INFINITY:
        p.rt.timeout += 1


def prio_changed_rt(rq: Rq, p: TaskStruct, oldprio: int) -> None:
    if not p.on_rq:
        return
    if rq.curr is p:
        if p.prio > highest_prio(rq) or p.prio > oldprio:
            resched_curr(rq)
    elif p.prio < rq.curr.prio:
        resched_curr(rq)


def switched_from_rt(rq: Rq, p: TaskStruct) -> None:
    """The last RT task here left the class: others may come."""
    if p.on_rq and not rq.rt.nr_running:
        pull_rt_task(rq)


def switched_to_rt(rq: Rq, p: TaskStruct) -> None:
    if p.on_rq and rq.curr is not p:
        if p.prio < rq.curr.prio:
            resched_curr(rq)
        else:
            push_rt_tasks(rq)


def get_rr_interval_rt(rq: Rq, p: TaskStruct) -> int:
    return rq.kernel.sched.sched_rr_timeslice if p.policy == SCHED_RR else 0


rt_sched_class = SchedClass(
    name="rt", next=fair_sched_class, enqueue_task=enqueue_task_rt, dequeue_task=dequeue_task_rt,
    yield_task=yield_task_rt, check_preempt_curr=check_preempt_curr_rt, pick_next_task=pick_next_task_rt,
    put_prev_task=put_prev_task_rt, set_next_task=set_next_task_rt, select_task_rq=select_task_rq_rt,
    migrate_task_rq=no_migrate, task_tick=task_tick_rt, task_fork=no_fork, prio_changed=prio_changed_rt,
    switched_from=switched_from_rt, switched_to=switched_to_rt, get_rr_interval=get_rr_interval_rt,
    update_curr=update_curr_rt,
)
