"""Task groups: their making and end, which one a task is in, and how much they weigh.

Linux: sched_create_group() ... sched_move_task() of kernel/sched/core.c, alloc_fair_sched_group() ...
    sched_group_set_shares() of kernel/sched/fair.c (5.3).
Differs: a task's group in the cpu hierarchy is asked for through kernel.sched.task_css_group, since cgroups are above.
Owns: SchedState.task_groups; task.sched_task_group after the fork.
Invariants: a group in task_groups has an entity and a queue for each CPU; its parent is in the list before it, and
    leaves it after it.
Gaps: groups of real-time tasks (RT_GROUP_SCHED is off in the reference, too).
Context: any. No locks: no other CPU runs kernel code meanwhile.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.sched.fair_entity import update_cfs_group, update_load_set
from glasskernel.kernel.sched.rq import dequeue_task, enqueue_task, resched_curr, set_task_rq, update_rq_clock
from glasskernel.kernel.sched.types import (
    DEQUEUE_MOVE,
    DEQUEUE_NOCLOCK,
    DEQUEUE_SAVE,
    ENQUEUE_MOVE,
    ENQUEUE_NOCLOCK,
    ENQUEUE_RESTORE,
    MAX_SHARES,
    MIN_SHARES,
    NICE_0_LOAD,
    SCHED_FIXEDPOINT_SHIFT,
    TASK_MOVE_GROUP,
    TASK_ON_RQ_QUEUED,
    TASK_SET_GROUP,
    CfsRq,
    SchedEntity,
    TaskGroup,
)
from glasskernel.lib.errno import EINVAL, KernelError

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.sched.types import SchedState
    from glasskernel.kernel.task import TaskStruct


# ---- making and freeing -------------------------------------------------------------------------------------
def sched_create_group(kernel: Kernel, parent: TaskGroup) -> TaskGroup:
    """A group below another one. Nobody is in it, and it is not in task_groups yet."""
    tg = TaskGroup(parent)
    alloc_fair_sched_group(kernel.sched, tg, parent)
    return tg


def alloc_fair_sched_group(sched: SchedState, tg: TaskGroup, parent: TaskGroup) -> None:
    """Its queue and its entity on each CPU."""
    tg.shares = NICE_0_LOAD
    for rq in sched.rqs:
        cfs_rq = CfsRq(rq)
        cfs_rq.accounted = sched.cpuacct_charge is not None
        se = SchedEntity(None)  # type: ignore[arg-type]
        tg.cfs_rq.append(cfs_rq)
        tg.se.append(se)
        init_tg_cfs_entry(tg, cfs_rq, se, rq.cpu, parent.se[rq.cpu])


def init_tg_cfs_entry(tg: TaskGroup, cfs_rq: CfsRq, se: SchedEntity, cpu: int, parent: SchedEntity | None) -> None:
    """The entity stands for the queue in its parent's queue."""
    cfs_rq.tg = tg
    if parent is None:
        se.cfs_rq = cfs_rq.rq.cfs
    else:
        assert parent.my_q is not None
        se.cfs_rq = parent.my_q
        se.depth = parent.depth + 1
    se.my_q = cfs_rq
    se.parent = parent
    update_load_set(se, NICE_0_LOAD)


def sched_online_group(kernel: Kernel, tg: TaskGroup, parent: TaskGroup) -> None:
    """From now on tasks may come."""
    kernel.sched.task_groups.append(tg)
    tg.parent = parent
    parent.children.append(tg)
    online_fair_sched_group(tg)


def online_fair_sched_group(tg: TaskGroup) -> None:
    """Below a throttled group it is throttled, too (sync_throttle)."""
    for cfs_rq, se in zip(tg.cfs_rq, tg.se, strict=True):
        assert se is not None
        update_rq_clock(cfs_rq.rq)
        cfs_rq.throttle_count = se.cfs_rq.throttle_count


def sched_offline_group(kernel: Kernel, tg: TaskGroup) -> None:
    """Nobody is in it any more, and nobody will come."""
    assert not any(cfs_rq.nr_running for cfs_rq in tg.cfs_rq)
    kernel.sched.task_groups.remove(tg)
    if tg.parent is not None:
        tg.parent.children.remove(tg)


def sched_destroy_group(kernel: Kernel, tg: TaskGroup) -> None:
    """What it had goes: also the timers of its quota."""
    if tg.cfs_bandwidth is not None:
        kernel.sched.cfs_bandwidth.destroy_cfs_bandwidth(tg.cfs_bandwidth)
    tg.autogroup = None


# ---- which group a task is in -------------------------------------------------------------------------------
def sched_change_group(tsk: TaskStruct, type_: int) -> None:
    """Takes up the group that the task belongs to, while it is on no queue."""
    sched = tsk.kernel.sched
    css_group = sched.task_css_group
    tg = sched.root_task_group if css_group is None else css_group(tsk)
    autogroup_task_group = sched.autogroup_task_group
    tsk.sched_task_group = tg if autogroup_task_group is None else autogroup_task_group(tsk, tg)
    if tsk.sched_class.task_change_group is not None:
        tsk.sched_class.task_change_group(tsk, type_)
    else:
        set_task_rq(tsk, tsk.cpu)


def sched_move_task(tsk: TaskStruct) -> None:
    """The task's cgroup or session changed: it goes to its group's queue, whether it sleeps, waits or runs."""
    rq = tsk.kernel.sched.rqs[tsk.cpu]
    update_rq_clock(rq)
    running = rq.curr is tsk
    queued = tsk.on_rq == TASK_ON_RQ_QUEUED
    if queued:
        dequeue_task(rq, tsk, DEQUEUE_SAVE | DEQUEUE_MOVE | DEQUEUE_NOCLOCK)
    if running:
        tsk.sched_class.put_prev_task(rq, tsk)
    sched_change_group(tsk, TASK_MOVE_GROUP)
    if queued:
        enqueue_task(rq, tsk, ENQUEUE_RESTORE | ENQUEUE_MOVE | ENQUEUE_NOCLOCK)
    if running:
        tsk.sched_class.set_next_task(rq, tsk)
        resched_curr(rq)                         # its new group may be throttled


def cpu_cgroup_fork(task: TaskStruct) -> None:
    """A new task goes to its group before it runs: sched_fork() gave it its parent's."""
    update_rq_clock(task.kernel.sched.rqs[task.cpu])
    sched_change_group(task, TASK_SET_GROUP)


# ---- shares -------------------------------------------------------------------------------------------------
def sched_group_set_shares(tg: TaskGroup, shares: int) -> int:
    """Sets the weight of the group; scaled, as tg.shares. Raises EINVAL for the root group. Returns 0."""
    if tg.parent is None:
        raise KernelError(EINVAL)
    low, high = MIN_SHARES << SCHED_FIXEDPOINT_SHIFT, MAX_SHARES << SCHED_FIXEDPOINT_SHIFT
    shares = min(max(shares, low), high)
    if tg.shares == shares:
        return 0
    tg.shares = shares
    for entity in tg.se:
        se: SchedEntity | None = entity
        if se is not None:
            update_rq_clock(se.cfs_rq.rq)
        while se is not None:
            update_cfs_group(se)
            se = se.parent
    return 0
