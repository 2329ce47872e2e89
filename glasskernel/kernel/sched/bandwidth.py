"""CFS bandwidth: a group that has used up its quota of CPU time waits for the next period.

Linux: the CONFIG_CFS_BANDWIDTH part of kernel/sched/fair.c, tg_set_cfs_bandwidth() and what is around it in
    kernel/sched/core.c (5.3). Same: runtime is handed out in slices of sched_cfs_bandwidth_slice_us to the CPUs that
    run the group; a queue without runtime is taken out of the hierarchy with everything below it; the period timer
    refills, unthrottles, and stops when nobody asks; what a CPU has left when its last task sleeps is given back.
Differs: a slice does not expire with its period (as since 5.4); the quotas of the groups above are compared when one
    is set, not kept (hierarchical_quota); a period too short to be handled is not made longer.
Owns: TaskGroup.cfs_bandwidth; cfs_rq.runtime_*, throttled, throttle_count.
Invariants: a throttled queue's entity is not queued; throttle_count is the number of throttled queues at and above;
    cfs_b.throttled_cfs_rq are the group's throttled queues; while there is one, the period timer runs.
Context: any, with rq.clock up to date; the timers: irq.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from glasskernel.kernel.sched.fair_entity import dequeue_entity, enqueue_entity
from glasskernel.kernel.sched.rq import resched_curr, update_rq_clock
from glasskernel.kernel.sched.types import (
    DEQUEUE_SLEEP,
    ENQUEUE_WAKEUP,
    CfsBandwidth,
    CfsBandwidthOperations,
)
from glasskernel.kernel.time.hrtimer import (
    hrtimer_active,
    hrtimer_cancel,
    hrtimer_forward_now,
    hrtimer_get_remaining,
    hrtimer_init,
    hrtimer_start,
    hrtimer_start_expires,
)
from glasskernel.kernel.time.types import (
    CLOCK_MONOTONIC,
    HRTIMER_MODE_ABS,
    HRTIMER_MODE_REL,
    HRTIMER_NORESTART,
    HRTIMER_RESTART,
    Hrtimer,
)
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.sched.types import CfsRq, Rq, SchedEntity, SchedState, TaskGroup

RUNTIME_INF: Final = (1 << 64) - 1
NSEC_PER_USEC: Final = 1_000
min_cfs_quota_period: Final = 1_000_000                  # ns
max_cfs_quota_period: Final = 1_000_000_000
min_cfs_rq_runtime: Final = 1_000_000                    # what a CPU keeps when its last task of the group sleeps
min_bandwidth_expiration: Final = 2_000_000
cfs_bandwidth_slack_period: Final = 5_000_000
BW_SHIFT: Final = 20


@notrace
def sched_cfs_bandwidth_slice(sched: SchedState) -> int:
    return sched.sysctl_sched_cfs_bandwidth_slice * NSEC_PER_USEC


# ---- using runtime -------------------------------------------------------------------------------------------
def account_cfs_rq_runtime(cfs_rq: CfsRq, delta_exec: int) -> None:
    """So much was used. If nothing is left, asks for a slice; if there is none, the CPU reschedules, and throttles."""
    cfs_rq.runtime_remaining -= delta_exec
    if cfs_rq.runtime_remaining > 0 or cfs_rq.throttled:
        return
    if not assign_cfs_rq_runtime(cfs_rq) and cfs_rq.curr is not None:
        resched_curr(cfs_rq.rq)


@notrace
def assign_cfs_rq_runtime(cfs_rq: CfsRq) -> bool:
    """Takes a slice out of the group's pool. True if there is some runtime then."""
    cfs_b = tg_cfs_bandwidth(cfs_rq.tg)
    wanted = sched_cfs_bandwidth_slice(cfs_rq.rq.kernel.sched) - cfs_rq.runtime_remaining
    amount = 0
    if cfs_b.quota == RUNTIME_INF:
        amount = wanted
    else:
        start_cfs_bandwidth(cfs_b)
        if cfs_b.runtime > 0:
            amount = min(cfs_b.runtime, wanted)
            cfs_b.runtime -= amount
            cfs_b.idle = False
    cfs_rq.runtime_remaining += amount
    return cfs_rq.runtime_remaining > 0


def check_enqueue_throttle(cfs_rq: CfsRq) -> None:
    """The first task of a group that nobody of ran here: there may be nothing left for it."""
    if cfs_rq.curr is not None or cfs_rq.throttled:
        return
    account_cfs_rq_runtime(cfs_rq, 0)
    if cfs_rq.runtime_remaining <= 0:
        throttle_cfs_rq(cfs_rq)


def check_cfs_rq_runtime(cfs_rq: CfsRq) -> bool:
    """Throttles the queue if it has no runtime. True if it is throttled."""
    if cfs_rq.runtime_remaining > 0:
        return False
    if not cfs_rq.throttled:
        throttle_cfs_rq(cfs_rq)
    return True


def return_cfs_rq_runtime(cfs_rq: CfsRq) -> None:
    """The last task here slept: other CPUs can use what is left."""
    if cfs_rq.nr_running:
        return
    slack_runtime = cfs_rq.runtime_remaining - min_cfs_rq_runtime
    if slack_runtime <= 0:
        return
    cfs_b = tg_cfs_bandwidth(cfs_rq.tg)
    if cfs_b.quota != RUNTIME_INF:
        cfs_b.runtime += slack_runtime
        if cfs_b.runtime > sched_cfs_bandwidth_slice(cfs_rq.rq.kernel.sched) and cfs_b.throttled_cfs_rq:
            start_cfs_slack_bandwidth(cfs_b)
    cfs_rq.runtime_remaining -= slack_runtime


# ---- throttling ----------------------------------------------------------------------------------------------
def throttle_cfs_rq(cfs_rq: CfsRq) -> None:
    """Takes the group's entity out of the hierarchy; what it has queued stays in it."""
    rq = cfs_rq.rq
    se: SchedEntity | None = cfs_rq.tg.se[rq.cpu]
    walk_tg_throttle_count(cfs_rq.tg, rq.cpu, 1)                # tg_throttle_down
    task_delta = cfs_rq.h_nr_running
    dequeue = True
    while se is not None and se.on_rq:
        qcfs_rq = se.cfs_rq
        if dequeue:
            dequeue_entity(qcfs_rq, se, DEQUEUE_SLEEP)
        qcfs_rq.h_nr_running -= task_delta
        if qcfs_rq.load:
            dequeue = False
        se = se.parent
    if se is None:
        rq.nr_running -= task_delta
    cfs_rq.throttled = True
    cfs_rq.throttled_clock = rq.clock
    cfs_b = tg_cfs_bandwidth(cfs_rq.tg)
    cfs_b.throttled_cfs_rq.append(cfs_rq)
    start_cfs_bandwidth(cfs_b)                                  # who took the last runtime may have let it stop


def unthrottle_cfs_rq(cfs_rq: CfsRq) -> None:
    """There is runtime again."""
    rq = cfs_rq.rq
    cfs_b = tg_cfs_bandwidth(cfs_rq.tg)
    cfs_rq.throttled = False
    update_rq_clock(rq)
    cfs_b.throttled_time += rq.clock - cfs_rq.throttled_clock
    cfs_b.throttled_cfs_rq.remove(cfs_rq)
    walk_tg_throttle_count(cfs_rq.tg, rq.cpu, -1)               # tg_unthrottle_up
    if not cfs_rq.load:
        return
    unthrottle_groups(rq, cfs_rq.tg.se[rq.cpu], cfs_rq.h_nr_running)
    if rq.curr is rq.idle and rq.cfs.nr_running:
        resched_curr(rq)


@notrace
def unthrottle_groups(rq: Rq, se: SchedEntity | None, task_delta: int) -> None:
    """The groups above have so many runnable tasks more, up to one that is throttled itself."""
    while se is not None:
        cfs_rq = se.cfs_rq
        if not se.on_rq:
            enqueue_entity(cfs_rq, se, ENQUEUE_WAKEUP)
        cfs_rq.h_nr_running += task_delta
        if cfs_rq.throttled:
            return
        se = se.parent
    rq.nr_running += task_delta


@notrace
def walk_tg_throttle_count(tg: TaskGroup, cpu: int, delta: int) -> None:
    """walk_tg_tree_from(): the group and all below it."""
    tg.cfs_rq[cpu].throttle_count += delta
    for child in tg.children:
        walk_tg_throttle_count(child, cpu, delta)


@notrace
def distribute_cfs_runtime(cfs_b: CfsBandwidth, remaining: int) -> int:
    """To each throttled queue what it owes, and a ns more. Returns what that took."""
    starting_runtime = remaining
    for cfs_rq in list(cfs_b.throttled_cfs_rq):
        runtime = min(1 - cfs_rq.runtime_remaining, remaining)
        remaining -= runtime
        cfs_rq.runtime_remaining += runtime
        if cfs_rq.runtime_remaining > 0:
            unthrottle_cfs_rq(cfs_rq)
        if not remaining:
            break
    return starting_runtime - remaining


# ---- the timers ----------------------------------------------------------------------------------------------
def start_cfs_bandwidth(cfs_b: CfsBandwidth) -> None:
    """Somebody uses runtime: periods begin, at multiples of what they were before."""
    if cfs_b.period_active:
        return
    cfs_b.period_active = True
    hrtimer_forward_now(cfs_b.period_timer, cfs_b.period)
    hrtimer_start_expires(cfs_b.period_timer, HRTIMER_MODE_ABS)


def sched_cfs_period_timer(timer: Hrtimer) -> int:
    """A period is over."""
    cfs_b: CfsBandwidth = timer.data
    idle = False
    while True:
        overrun = hrtimer_forward_now(timer, cfs_b.period)
        if not overrun:
            break
        idle = do_sched_cfs_period_timer(cfs_b, overrun)
    if not idle:
        return HRTIMER_RESTART
    cfs_b.period_active = False
    return HRTIMER_NORESTART


@notrace
def do_sched_cfs_period_timer(cfs_b: CfsBandwidth, overrun: int) -> bool:
    """Refills the pool and gives to who is throttled. True if the timer may stop."""
    if cfs_b.quota == RUNTIME_INF:
        return True
    throttled = bool(cfs_b.throttled_cfs_rq)
    cfs_b.nr_periods += overrun
    if cfs_b.idle and not throttled:
        return True
    __refill_cfs_bandwidth_runtime(cfs_b)
    if not throttled:
        cfs_b.idle = True                        # until somebody takes a slice
        return False
    cfs_b.nr_throttled += overrun
    while cfs_b.throttled_cfs_rq and cfs_b.runtime > 0:
        cfs_b.runtime -= min(distribute_cfs_runtime(cfs_b, cfs_b.runtime), cfs_b.runtime)
    cfs_b.idle = False
    return False


@notrace
def __refill_cfs_bandwidth_runtime(cfs_b: CfsBandwidth) -> None:
    if cfs_b.quota != RUNTIME_INF:
        cfs_b.runtime = cfs_b.quota


@notrace
def runtime_refresh_within(cfs_b: CfsBandwidth, min_expire: int) -> bool:
    """The pool is refilled soon anyway."""
    return not hrtimer_active(cfs_b.period_timer) or hrtimer_get_remaining(cfs_b.period_timer) < min_expire


@notrace
def start_cfs_slack_bandwidth(cfs_b: CfsBandwidth) -> None:
    """Some runtime came back: it is handed out a little later, together with what others give back."""
    if runtime_refresh_within(cfs_b, cfs_bandwidth_slack_period + min_bandwidth_expiration):
        return
    if not cfs_b.slack_timer.state:
        hrtimer_start(cfs_b.slack_timer, cfs_bandwidth_slack_period, HRTIMER_MODE_REL)


def sched_cfs_slack_timer(timer: Hrtimer) -> int:
    """Hands out what came back (do_sched_cfs_slack_timer)."""
    cfs_b: CfsBandwidth = timer.data
    kernel_sched = cfs_b.tg.cfs_rq[0].rq.kernel.sched
    if runtime_refresh_within(cfs_b, min_bandwidth_expiration) or cfs_b.quota == RUNTIME_INF:
        return HRTIMER_NORESTART
    if cfs_b.runtime > sched_cfs_bandwidth_slice(kernel_sched):
        cfs_b.runtime -= min(distribute_cfs_runtime(cfs_b, cfs_b.runtime), cfs_b.runtime)
    return HRTIMER_NORESTART


# ---- setting a quota -----------------------------------------------------------------------------------------
@notrace
def tg_cfs_bandwidth(tg: TaskGroup) -> CfsBandwidth:
    """The group's, made for its first quota (init_cfs_bandwidth)."""
    cfs_b = tg.cfs_bandwidth
    if cfs_b is None:
        cfs_b = tg.cfs_bandwidth = CfsBandwidth(tg)
        cfs_b.period_timer = Hrtimer(sched_cfs_period_timer, cfs_b)
        hrtimer_init(cfs_b.period_timer, CLOCK_MONOTONIC, HRTIMER_MODE_ABS)
        cfs_b.slack_timer = Hrtimer(sched_cfs_slack_timer, cfs_b)
        hrtimer_init(cfs_b.slack_timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL)
        sched = tg.cfs_rq[0].rq.kernel.sched
        if sched.cfs_bandwidth is None:
            sched.cfs_bandwidth = CfsBandwidthOperations(
                account_cfs_rq_runtime, check_enqueue_throttle, check_cfs_rq_runtime, return_cfs_rq_runtime,
                destroy_cfs_bandwidth)
    return cfs_b


def destroy_cfs_bandwidth(cfs_b: CfsBandwidth) -> None:
    hrtimer_cancel(cfs_b.period_timer)
    hrtimer_cancel(cfs_b.slack_timer)


def tg_set_cfs_bandwidth(tg: TaskGroup, period: int, quota: int) -> int:
    """In ns. Raises EINVAL: the root group, out of range, more than a group above has or less than one below."""
    if tg.parent is None:
        raise KernelError(EINVAL)
    if quota < min_cfs_quota_period or not min_cfs_quota_period <= period <= max_cfs_quota_period:
        raise KernelError(EINVAL)
    root = tg
    while root.parent is not None:
        root = root.parent
    check_schedulable(root, RUNTIME_INF, tg, period, quota)
    cfs_b = tg_cfs_bandwidth(tg)
    runtime_enabled = quota != RUNTIME_INF
    cfs_b.period, cfs_b.quota = period, quota
    __refill_cfs_bandwidth_runtime(cfs_b)
    if runtime_enabled:
        start_cfs_bandwidth(cfs_b)
    for cfs_rq in tg.cfs_rq:
        update_rq_clock(cfs_rq.rq)
        cfs_rq.runtime_enabled = runtime_enabled
        cfs_rq.accounted = runtime_enabled or cfs_rq.rq.kernel.sched.cpuacct_charge is not None
        cfs_rq.runtime_remaining = 0
        if cfs_rq.throttled:
            unthrottle_cfs_rq(cfs_rq)
    return 0


@notrace
def check_schedulable(tg: TaskGroup, parent_quota: int, changed: TaskGroup, period: int, quota: int) -> None:
    """__cfs_schedulable(): no group may have more than those above it, if `changed` gets this quota. Raises EINVAL."""
    mine = RUNTIME_INF
    if tg is changed:
        mine = to_ratio(period, quota)
    elif tg.cfs_bandwidth is not None:
        mine = to_ratio(tg.cfs_bandwidth.period, tg.cfs_bandwidth.quota)
    if mine == RUNTIME_INF or (tg.css is not None and not tg.css.cgroup.root.hierarchy_id):
        mine = min(mine, parent_quota)           # cgroup2: whatever is set, what is above counts as well
    elif mine > parent_quota:
        raise KernelError(EINVAL)
    for child in tg.children:
        check_schedulable(child, mine, changed, period, quota)


@notrace
def to_ratio(period: int, runtime: int) -> int:
    return RUNTIME_INF if runtime == RUNTIME_INF else (runtime << BW_SHIFT) // period


def tg_set_cfs_quota(tg: TaskGroup, cfs_quota_us: int) -> int:
    """Negative: none. Raises EINVAL."""
    period = 100_000_000 if tg.cfs_bandwidth is None else tg.cfs_bandwidth.period
    return tg_set_cfs_bandwidth(tg, period, RUNTIME_INF if cfs_quota_us < 0 else cfs_quota_us * NSEC_PER_USEC)


def tg_get_cfs_quota(tg: TaskGroup) -> int:
    """In us; -1: none."""
    cfs_b = tg.cfs_bandwidth
    return -1 if cfs_b is None or cfs_b.quota == RUNTIME_INF else cfs_b.quota // NSEC_PER_USEC


def tg_set_cfs_period(tg: TaskGroup, cfs_period_us: int) -> int:
    """Raises EINVAL."""
    quota = RUNTIME_INF if tg.cfs_bandwidth is None else tg.cfs_bandwidth.quota
    return tg_set_cfs_bandwidth(tg, cfs_period_us * NSEC_PER_USEC, quota)


def tg_get_cfs_period(tg: TaskGroup) -> int:
    """In us."""
    return 100_000 if tg.cfs_bandwidth is None else tg.cfs_bandwidth.period // NSEC_PER_USEC
