"""Changing how a task is scheduled: policy, real-time priority, CPU mask.

Linux: __sched_setscheduler(), __set_cpus_allowed_ptr() and their helpers in kernel/sched/core.c (5.3).
Same: who may change what, the checks and their order, the moves between classes. Gaps: utilization clamping.
Context: task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.capability import CAP_SYS_NICE, capable
from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import (
    do_set_cpus_allowed,
    migration_cpu_stop,
    normal_prio,
    set_load_weight,
    task_nice,
)
from glasskernel.kernel.sched.deadline import checkparam_dl, dl_sched_class, to_ratio
from glasskernel.kernel.sched.fair import fair_sched_class
from glasskernel.kernel.sched.rq import (
    dequeue_task,
    enqueue_task,
    resched_curr,
    set_task_cpu,
    update_rq_clock,
)
from glasskernel.kernel.sched.rt import rt_sched_class
from glasskernel.kernel.sched.types import (
    DEFAULT_PRIO,
    DEQUEUE_MOVE,
    DEQUEUE_NOCLOCK,
    DEQUEUE_SAVE,
    ENQUEUE_HEAD,
    ENQUEUE_MOVE,
    ENQUEUE_NOCLOCK,
    ENQUEUE_RESTORE,
    MAX_RT_PRIO,
    MAX_USER_RT_PRIO,
    SCHED_BATCH,
    SCHED_DEADLINE,
    SCHED_FIFO,
    SCHED_IDLE,
    SCHED_NORMAL,
    SCHED_RR,
    SchedDlEntity,
)
from glasskernel.kernel.task import PF_KTHREAD, PF_NO_SETAFFINITY, RLIMIT_NICE, RLIMIT_RTPRIO
from glasskernel.lib.errno import EBUSY, EINVAL, EPERM, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.kernel.sched.types import Rq, SchedClass
    from glasskernel.kernel.task import TaskStruct

SCHED_FLAG_RESET_ON_FORK, SCHED_FLAG_KEEP_POLICY, SCHED_FLAG_KEEP_PARAMS = 0x01, 0x08, 0x10
SETPARAM_POLICY = -1


@slotted
class SchedAttr:
    """struct sched_attr, as far as it is used."""

    sched_policy: int = SCHED_NORMAL
    sched_flags: int = 0
    sched_nice: int = 0
    sched_priority: int = 0
    sched_runtime: int = 0
    sched_deadline: int = 0
    sched_period: int = 0


@notrace
def rt_policy(policy: int) -> bool:
    return policy in (SCHED_FIFO, SCHED_RR)


@notrace
def fair_policy(policy: int) -> bool:
    return policy in (SCHED_NORMAL, SCHED_BATCH)


@notrace
def valid_policy(policy: int) -> bool:
    return policy in (SCHED_NORMAL, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_IDLE, SCHED_DEADLINE)


def can_nice(p: TaskStruct, nice: int) -> bool:
    """True if the caller may give p this nice level."""
    return 20 - nice <= p.signal.rlim[RLIMIT_NICE][0] or capable(CAP_SYS_NICE)


@notrace
def check_same_owner(p: TaskStruct) -> bool:
    euid = register.task.cred.euid
    return euid in (p.real_cred.euid, p.real_cred.uid)


@may_sleep
def __sched_setscheduler(p: TaskStruct, attr: SchedAttr, user: bool) -> int:
    """Sets policy and priority. user: the caller must be allowed to. Raises EINVAL, EPERM. Returns 0."""
    policy = attr.sched_policy
    if policy < 0:
        reset_on_fork = p.sched_reset_on_fork
        policy = p.policy
    else:
        reset_on_fork = bool(attr.sched_flags & SCHED_FLAG_RESET_ON_FORK)
        if not valid_policy(policy):
            raise KernelError(EINVAL)
    if attr.sched_flags & ~(SCHED_FLAG_RESET_ON_FORK | SCHED_FLAG_KEEP_POLICY | SCHED_FLAG_KEEP_PARAMS):
        raise KernelError(EINVAL)
    if attr.sched_priority > MAX_USER_RT_PRIO - 1 or rt_policy(policy) != (attr.sched_priority != 0):
        raise KernelError(EINVAL)
    if policy == SCHED_DEADLINE:
        if not checkparam_dl(attr.sched_runtime, attr.sched_deadline, attr.sched_period):
            raise KernelError(EINVAL)
    if user and not capable(CAP_SYS_NICE):
        check_setscheduler_permission(p, attr, policy, reset_on_fork)
    if user and p.kernel.lsm is not None:
        p.kernel.lsm.security_task_setscheduler(p)
    if p is p.kernel.sched.rqs[p.cpu].stop:
        raise KernelError(EINVAL)
    rq = p.kernel.sched.rqs[p.cpu]
    update_rq_clock(rq)
    if policy == p.policy and policy != SCHED_DEADLINE and (
        (fair_policy(policy) and attr.sched_nice == task_nice(p))
        or (rt_policy(policy) and attr.sched_priority == p.rt_priority)
        or policy == SCHED_IDLE
    ):
        p.sched_reset_on_fork = reset_on_fork
        return 0
    if policy == SCHED_DEADLINE:
        sched_dl_overflow(p, attr)
    p.sched_reset_on_fork = reset_on_fork
    change_scheduler(rq, p, attr, policy)
    adjust = p.kernel.sched.rt_mutex_adjust_pi
    if adjust is not None and p.pi_blocked_on is not None:
        adjust(p)
    return 0


@notrace
def check_setscheduler_permission(p: TaskStruct, attr: SchedAttr, policy: int, reset_on_fork: bool) -> None:
    """What a caller without CAP_SYS_NICE may not do is EPERM."""
    if fair_policy(policy) and attr.sched_nice < task_nice(p) and not can_nice(p, attr.sched_nice):
        raise KernelError(EPERM)
    if policy == SCHED_DEADLINE:
        raise KernelError(EPERM)
    if rt_policy(policy):
        limit = p.signal.rlim[RLIMIT_RTPRIO][0]
        if policy != p.policy and not limit:
            raise KernelError(EPERM)
        if attr.sched_priority > p.rt_priority and attr.sched_priority > limit:
            raise KernelError(EPERM)
    if p.policy == SCHED_IDLE and policy != SCHED_IDLE and not can_nice(p, task_nice(p)):
        raise KernelError(EPERM)
    if not check_same_owner(p) or (p.sched_reset_on_fork and not reset_on_fork):
        raise KernelError(EPERM)


def sched_dl_overflow(p: TaskStruct, attr: SchedAttr) -> None:
    """Admission control: all reservations together must fit.

    Raises EBUSY, EPERM (p may not use every CPU).
    """
    sched = p.kernel.sched
    if p.cpus_allowed & sched.cpu_online_mask != sched.cpu_online_mask:
        raise KernelError(EPERM)
    old_bw = p.dl.dl_bw if p.dl is not None else 0
    new_bw = to_ratio(attr.sched_period or attr.sched_deadline, attr.sched_runtime)
    limit = to_ratio(sched.sysctl_sched_rt_period, sched.sysctl_sched_rt_runtime) * sched.cpu_active_mask.bit_count()
    if sched.sysctl_sched_rt_runtime >= 0 and sched.dl_total_bw - old_bw + new_bw > limit:
        raise KernelError(EBUSY)
    sched.dl_total_bw += new_bw - old_bw
    if p.dl is None:
        p.dl = SchedDlEntity()
    p.dl.dl_bw = new_bw


@notrace
def __setparam_dl(p: TaskStruct, attr: SchedAttr) -> None:
    dl_se = p.dl
    dl_se.dl_runtime = attr.sched_runtime
    dl_se.dl_deadline = attr.sched_deadline
    dl_se.dl_period = attr.sched_period or attr.sched_deadline
    if p.sched_class is not dl_sched_class:
        dl_se.runtime = dl_se.deadline = 0
        dl_se.dl_throttled = dl_se.dl_yielded = False


@notrace
def change_scheduler(rq: Rq, p: TaskStruct, attr: SchedAttr, policy: int) -> None:
    """Takes the task off its queue, changes it, and puts it back."""
    queued = p.on_rq
    running = rq.curr is p
    oldprio = p.prio
    prev_class = p.sched_class
    if queued:
        dequeue_task(rq, p, DEQUEUE_SAVE | DEQUEUE_MOVE | DEQUEUE_NOCLOCK)
    if running:
        prev_class.put_prev_task(rq, p)
    __setscheduler(p, attr, policy)
    if queued:
        flags = ENQUEUE_RESTORE | ENQUEUE_MOVE | ENQUEUE_NOCLOCK
        enqueue_task(rq, p, flags | ENQUEUE_HEAD if oldprio < p.prio else flags)
    if running:
        p.sched_class.set_next_task(rq, p)
    check_class_changed(rq, p, prev_class, oldprio)


def __setscheduler(p: TaskStruct, attr: SchedAttr, policy: int) -> None:
    p.policy = policy
    if policy == SCHED_DEADLINE:
        __setparam_dl(p, attr)
    elif fair_policy(policy):
        p.static_prio = DEFAULT_PRIO + attr.sched_nice
    p.rt_priority = attr.sched_priority
    p.prio = p.normal_prio = normal_prio(p)
    if p.pi_top_task is not None:                  # rt_effective_prio(): what it inherits stays
        p.prio = min(p.prio, max(p.pi_top_task.prio, 0))
    set_load_weight(p)
    if p.prio < 0:
        p.sched_class = dl_sched_class
    else:
        p.sched_class = rt_sched_class if p.prio < MAX_RT_PRIO else fair_sched_class


@notrace
def check_class_changed(rq: Rq, p: TaskStruct, prev_class: SchedClass, oldprio: int) -> None:
    if prev_class is not p.sched_class:
        prev_class.switched_from(rq, p)
        p.sched_class.switched_to(rq, p)
        if rq.curr is p and p.sched_class is fair_sched_class:
            resched_curr(rq)
    elif oldprio != p.prio:
        p.sched_class.prio_changed(rq, p, oldprio)


def rt_mutex_setprio(p: TaskStruct, pi_task: TaskStruct | None) -> None:
    """p runs with the priority of pi_task, if that is better than its own. None: with its own. Policy, nice level and
    weight stay.
    """
    prio = p.normal_prio if pi_task is None else min(p.normal_prio, max(pi_task.prio, 0))
    p.pi_top_task = pi_task
    if prio == p.prio:
        return
    probe = p.kernel.tp.sched_pi_setprio
    if probe is not None:
        probe(p, pi_task)
    rq = p.kernel.sched.rqs[p.cpu]
    update_rq_clock(rq)
    queued, running = p.on_rq, rq.curr is p
    oldprio, prev_class = p.prio, p.sched_class
    if queued:
        dequeue_task(rq, p, DEQUEUE_SAVE | DEQUEUE_MOVE | DEQUEUE_NOCLOCK)
    if running:
        prev_class.put_prev_task(rq, p)
    if prio >= 0:
        p.sched_class = rt_sched_class if prio < MAX_RT_PRIO else fair_sched_class
    else:
        p.sched_class = dl_sched_class
    p.prio = prio
    if queued:
        flags = ENQUEUE_RESTORE | ENQUEUE_MOVE | ENQUEUE_NOCLOCK
        enqueue_task(rq, p, flags | ENQUEUE_HEAD if oldprio < prio else flags)
    if running:
        p.sched_class.set_next_task(rq, p)
    check_class_changed(rq, p, prev_class, oldprio)


def sched_setscheduler_nocheck(p: TaskStruct, policy: int, priority: int) -> int:
    """For the kernel itself: no permission asked."""
    return __sched_setscheduler(p, SchedAttr(policy, 0, task_nice(p), priority), False)


@may_sleep
def sched_setaffinity(p: TaskStruct, mask: int) -> int:
    """Sets the CPUs that p may run on; moves it if it must. Raises EINVAL (none of them exists), EPERM."""
    if p.flags & PF_NO_SETAFFINITY:
        raise KernelError(EINVAL)
    if not check_same_owner(p) and not capable(CAP_SYS_NICE):
        raise KernelError(EPERM)
    if p.kernel.lsm is not None:
        p.kernel.lsm.security_task_setscheduler(p)
    sched = p.kernel.sched
    if sched.cpuset_cpus_allowed is None:
        return __set_cpus_allowed_ptr(p, mask & sched.cpu_online_mask, True)
    mask &= sched.cpuset_cpus_allowed(p)
    while True:
        __set_cpus_allowed_ptr(p, mask, True)
        allowed = sched.cpuset_cpus_allowed(p)
        if not mask & ~allowed:
            return 0
        mask = allowed                             # its cpuset changed while it moved


def set_cpus_allowed_ptr(p: TaskStruct, mask: int) -> int:
    """For the kernel itself. Raises EINVAL."""
    return __set_cpus_allowed_ptr(p, mask, False)


@may_sleep
def __set_cpus_allowed_ptr(p: TaskStruct, new_mask: int, check: bool) -> int:
    kernel = p.kernel
    sched = kernel.sched
    valid_mask = sched.cpu_online_mask if p.flags & PF_KTHREAD else sched.cpu_active_mask
    if not new_mask & valid_mask:
        raise KernelError(EINVAL)
    if check and p.flags & PF_NO_SETAFFINITY and p.flags & PF_KTHREAD:
        raise KernelError(EINVAL)
    if p.cpus_allowed == new_mask:
        return 0
    do_set_cpus_allowed(p, new_mask)
    if new_mask >> p.cpu & 1:
        return 0
    rq = sched.rqs[p.cpu]
    new_mask &= valid_mask
    dest_cpu = (new_mask & -new_mask).bit_length() - 1
    if rq.curr is p:                               # runs, here or there: only migration/N can take it off
        assert sched.stop_one_cpu is not None
        sched.stop_one_cpu(p.cpu, migration_cpu_stop, (p, dest_cpu))
    elif p.on_rq:
        move_queued_task(rq, p, dest_cpu)
    return 0


def move_queued_task(rq: Rq, p: TaskStruct, new_cpu: int) -> None:
    """Moves a task that waits on a run queue."""
    update_rq_clock(rq)
    dequeue_task(rq, p, DEQUEUE_NOCLOCK)
    set_task_cpu(p, new_cpu)
    target = p.kernel.sched.rqs[new_cpu]
    update_rq_clock(target)
    enqueue_task(target, p, ENQUEUE_NOCLOCK)
    resched_curr(target)


