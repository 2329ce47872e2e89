"""On which CPU a fair task runs: placement at wakeup, and pulling from busy CPUs.

Linux: the load-balancing half of kernel/sched/fair.c (5.3). Same: entry points and when they are called;
tasks that ran in the last half millisecond stay (task_hot); half of the imbalance is moved.
Differs: one domain of all CPUs, and below it one for each node if there are several; load is the weight that is
queued now, not a decayed average (PELT).
Gaps: wake_affine, active balancing, capacity, NUMA balancing.
Owns: nothing. Context: any (idle_balance: from schedule()).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.sched.rq import (
    activate_task,
    check_preempt_curr,
    deactivate_task,
    idle_cpu,
    set_task_cpu,
    update_rq_clock,
)
from glasskernel.kernel.sched.types import (
    DEQUEUE_NOCLOCK,
    ENQUEUE_NOCLOCK,
    SD_BALANCE_WAKE,
    TASK_ON_RQ_MIGRATING,
    TASK_ON_RQ_QUEUED,
)
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.sched.types import CfsRq, Rq, SchedEntity
    from glasskernel.kernel.task import TaskStruct

IMBALANCE_PCT = 117
BUSY_FACTOR = 32
MIN_INTERVAL_TICKS = 1
CPU_NOT_IDLE, CPU_IDLE, CPU_NEWLY_IDLE = 0, 1, 2


def select_task_rq_fair(p: TaskStruct, prev_cpu: int, sd_flag: int, wake_flags: int) -> int:
    """The CPU for a task that wakes up, was forked, or calls exec."""
    kernel = p.kernel
    rqs = kernel.sched.rqs
    allowed = p.cpus_allowed & kernel.sched.cpu_active_mask
    prev_allowed = allowed >> prev_cpu & 1
    if prev_allowed and available_idle_cpu(rqs[prev_cpu]):
        return prev_cpu
    near = kernel.sched.numa_rqs
    if near is not None:                         # memory is near: a task that wakes up does not leave its node for
        rqs = near[prev_cpu] if sd_flag & SD_BALANCE_WAKE else near[prev_cpu] + rqs        # an idle CPU, a new one may
    for rq in rqs:
        if allowed >> rq.cpu & 1 and available_idle_cpu(rq):
            return rq.cpu
    if sd_flag & SD_BALANCE_WAKE and prev_allowed:
        return prev_cpu
    return find_idlest_cpu(p, prev_cpu)


def available_idle_cpu(rq: Rq) -> bool:
    """Nothing runs there, nothing waits there, and no hypervisor has taken the CPU away."""
    return rq.curr is rq.idle and not rq.nr_running


def find_idlest_cpu(p: TaskStruct, this_cpu: int) -> int:
    """The allowed CPU with the fewest runnable tasks; this one, if it is among them; else the lowest number.
    """
    rqs = p.kernel.sched.rqs
    allowed = p.cpus_allowed & p.kernel.sched.cpu_active_mask
    best = -1
    best_running = 1 << 30
    for rq in rqs:
        if not allowed >> rq.cpu & 1:
            continue
        running = rq.nr_running
        if running < best_running or (running == best_running and rq.cpu == this_cpu):
            best, best_running = rq.cpu, running
    return best if best >= 0 else this_cpu


def idle_balance(this_rq: Rq) -> int:
    """This CPU is about to go idle: pulls a task from the busiest one. Returns how many tasks it got."""
    this_rq.idle_stamp = this_rq.clock
    sched = this_rq.kernel.sched
    for rq in sched.rqs:
        if rq.nr_running > 1:
            break
    else:
        return 0                                 # !rd->overload
    if not sched.cpu_active_mask >> this_rq.cpu & 1:
        return 0                                 # this CPU is about to go
    pulled = load_balance(this_rq, CPU_NEWLY_IDLE)
    if pulled:
        this_rq.idle_stamp = 0
    return pulled


def load_balance(this_rq: Rq, idle: int) -> int:
    """Moves tasks from the busiest CPU to this one. Returns how many."""
    this_rq.lb_count += 1
    busiest = find_busiest_queue(this_rq, idle)
    if busiest is None:
        return 0
    update_rq_clock(busiest)
    imbalance = (busiest.cfs.load - this_rq.cfs.load) // 2
    tasks = detach_tasks(busiest, this_rq, imbalance, idle)
    if tasks:
        # The clocks of CPUs differ a little. What was woken over there must not run here before its wakeup.
        vcpu = this_rq.vcpu
        if not vcpu.halted and vcpu.clock_ns < busiest.clock:
            vcpu.clock_ns = busiest.clock
        attach_tasks(this_rq, tasks)
        busiest.nr_balance_failed = 0
    elif idle != CPU_NEWLY_IDLE:
        busiest.nr_balance_failed += 1
    return len(tasks)


def find_busiest_queue(this_rq: Rq, idle: int) -> Rq | None:
    """The CPU with most load that could give a task away: one of this node, if there is one."""
    sched = this_rq.kernel.sched
    if sched.numa_rqs is not None:
        busiest = busiest_of(this_rq, sched.numa_rqs[this_rq.cpu], idle)
        if busiest is not None:
            return busiest
    return busiest_of(this_rq, sched.rqs, idle)


@notrace
def busiest_of(this_rq: Rq, rqs: list[Rq], idle: int) -> Rq | None:
    busiest: Rq | None = None
    load = this_rq.cfs.load * (IMBALANCE_PCT if idle == CPU_NOT_IDLE else 100)
    for rq in rqs:
        if rq is not this_rq and nr_waiting(rq) > 0 and rq.nr_running > 1 and rq.cfs.load * 100 > load:
            busiest, load = rq, rq.cfs.load * 100
    return busiest


@notrace
def nr_waiting(rq: Rq) -> int:
    """Fair tasks that wait for the CPU, whatever group they are in."""
    cfs_rq = rq.cfs
    return cfs_rq.h_nr_running - (cfs_rq.curr is not None and cfs_rq.curr.on_rq)


@notrace
def waiting_tasks(cfs_rq: CfsRq) -> list[SchedEntity]:
    """rq.cfs_tasks, without the running one: first who waited least."""
    found: list[SchedEntity] = []
    queued = [key[2] for key in cfs_rq.timeline]
    if cfs_rq.curr is not None and cfs_rq.curr.my_q is not None and cfs_rq.curr.on_rq:
        queued.insert(0, cfs_rq.curr)            # a group: others in it may wait
    for se in reversed(queued):
        if se.my_q is None:
            found.append(se)
        else:
            found += waiting_tasks(se.my_q)
    return found


@notrace
def task_h_load(p: TaskStruct) -> int:
    """What the task weighs at the root: its part of its group's part of ..."""
    se = p.se
    load = se.weight
    above = se.parent
    while above is not None:
        assert above.my_q is not None
        load = load * above.weight // max(above.my_q.load, 1)
        above = above.parent
    return load


@notrace
def throttled_lb_pair(p: TaskStruct, src_cpu: int, dest_cpu: int) -> bool:
    """Its group is throttled on one of the two CPUs."""
    cfs_rq = p.sched_task_group.cfs_rq
    return bool(cfs_rq[src_cpu].throttle_count or cfs_rq[dest_cpu].throttle_count)


def detach_tasks(src_rq: Rq, dst_rq: Rq, imbalance: int, idle: int) -> list[TaskStruct]:
    """Takes waiting tasks worth `imbalance` off a run queue, those that waited least first."""
    tasks: list[TaskStruct] = []
    budget = src_rq.kernel.sched.sysctl_sched_nr_migrate
    for se in waiting_tasks(src_rq.cfs):
        if imbalance <= 0 or not budget or src_rq.nr_running <= 1:
            break
        budget -= 1
        p = se.task
        if not can_migrate_task(p, src_rq, dst_rq.cpu):
            continue
        load = task_h_load(p)
        if load // 2 > imbalance and src_rq.nr_balance_failed < 2 and idle == CPU_NOT_IDLE:
            continue
        detach_task(p, src_rq, dst_rq.cpu)
        tasks.append(p)
        imbalance -= load
        if idle == CPU_NEWLY_IDLE:               # one is enough to stop being idle
            break
    return tasks


def can_migrate_task(p: TaskStruct, src_rq: Rq, dst_cpu: int) -> int:
    """1 if the task may, and should, move."""
    if throttled_lb_pair(p, src_rq.cpu, dst_cpu):
        return 0
    if not p.cpus_allowed >> dst_cpu & 1 or src_rq.curr is p:
        return 0
    if task_hot(p, src_rq) and src_rq.nr_balance_failed <= 1:
        return 0
    return 1


def task_hot(p: TaskStruct, src_rq: Rq) -> int:
    """1 if it ran so lately that its cache is warm."""
    cfs_rq = p.se.cfs_rq
    if cfs_rq.next is p.se or cfs_rq.last is p.se:
        return 1
    return int(src_rq.clock - p.se.exec_start < p.kernel.sched.sysctl_sched_migration_cost)


def detach_task(p: TaskStruct, src_rq: Rq, dst_cpu: int) -> None:
    p.on_rq = TASK_ON_RQ_MIGRATING
    deactivate_task(src_rq, p, DEQUEUE_NOCLOCK)
    set_task_cpu(p, dst_cpu)


def attach_tasks(rq: Rq, tasks: list[TaskStruct]) -> None:
    update_rq_clock(rq)
    for p in tasks:
        attach_task(rq, p)


def attach_task(rq: Rq, p: TaskStruct) -> None:
    activate_task(rq, p, ENQUEUE_NOCLOCK)
    p.on_rq = TASK_ON_RQ_QUEUED
    check_preempt_curr(rq, p, 0)


def rebalance_domains(rq: Rq, idle: int) -> None:
    """SCHED_SOFTIRQ of this CPU: balances when its interval is over."""
    now = rq.kernel.time.jiffies
    if now < rq.next_balance or not rq.kernel.sched.cpu_active_mask >> rq.cpu & 1:
        return
    if load_balance(rq, idle):
        idle = CPU_NOT_IDLE
    interval = MIN_INTERVAL_TICKS if idle == CPU_IDLE else MIN_INTERVAL_TICKS * BUSY_FACTOR
    rq.next_balance = now + interval + rq.cpu % 2      # CPUs do not all balance in the same tick


@notrace
def find_new_ilb(rq: Rq) -> int:
    """An idle CPU that could balance on behalf of the others; -1 if there is none."""
    kernel = rq.kernel
    for other in kernel.sched.rqs:
        if other is not rq and idle_cpu(kernel, other.cpu) and kernel.sched.cpu_active_mask >> other.cpu & 1:
            return other.cpu
    return -1
