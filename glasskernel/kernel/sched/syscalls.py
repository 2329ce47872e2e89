"""The scheduler's system calls.

Linux: kernel/sched/core.c, getpriority(2) and setpriority(2) of kernel/sys.c (5.3). Same: checks, their
order, errno.
Gaps: utilization clamps of sched_setattr(2) are EINVAL. Context: task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import (
    copy_from_user,
    copy_to_user,
    get_user_u32,
    put_user_u32,
)
from glasskernel.kernel.capability import CAP_SYS_NICE, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import (
    PIDTYPE_PGID,
    do_each_pid_task,
    find_task_by_vpid,
    find_vpid,
    for_each_thread,
    task_pgrp,
)
from glasskernel.kernel.sched.core import do_sched_yield, set_user_nice, task_nice
from glasskernel.kernel.sched.policy import (
    SCHED_FLAG_KEEP_PARAMS,
    SCHED_FLAG_KEEP_POLICY,
    SCHED_FLAG_RESET_ON_FORK,
    SETPARAM_POLICY,
    SchedAttr,
    __sched_setscheduler,
    can_nice,
    rt_policy,
    sched_setaffinity,
    valid_policy,
)
from glasskernel.kernel.sched.types import (
    MAX_NICE,
    MAX_USER_RT_PRIO,
    MIN_NICE,
    SCHED_DEADLINE,
    SCHED_RESET_ON_FORK,
    TICK_NSEC,
)
from glasskernel.kernel.time.hrtimer import put_timespec64
from glasskernel.lib.errno import E2BIG, EACCES, EINVAL, EPERM, ESRCH, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, notrace, s32, to_s32, u32, u64
from glasskernel.lib.uapi import Layout, uapi

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct

PRIO_PROCESS, PRIO_PGRP, PRIO_USER = 0, 1, 2
SCHED_ATTR_SIZE_VER0, SCHED_ATTR_SIZE_VER1 = 48, 56


@uapi("include/uapi/linux/sched/types.h", size=56)
class SchedAttrUapi(Layout):
    size: u32
    sched_policy: u32
    sched_flags: u64
    sched_nice: s32
    sched_priority: u32
    sched_runtime: u64
    sched_deadline: u64
    sched_period: u64
    sched_util_min: u32
    sched_util_max: u32


def find_process_by_pid(pid: int) -> TaskStruct:
    """The task; 0: the caller. Raises ESRCH."""
    p = find_task_by_vpid(pid) if pid else current()
    if p is None:
        raise KernelError(ESRCH)
    return p


@notrace
def clamp_nice(nice: int) -> int:
    return max(MIN_NICE, min(MAX_NICE, nice))


# ---- yield, nice ------------------------------------------------------------------------------------------
@syscall
def sys_sched_yield() -> int:
    """sched_yield(2)"""
    do_sched_yield()
    return 0


@syscall
def sys_nice(increment: int) -> int:
    """nice(2). Errors: EPERM."""
    increment = max(-40, min(40, increment))
    task = current()
    nice = clamp_nice(task_nice(task) + increment)
    if increment < 0 and not can_nice(task, nice):
        raise KernelError(EPERM)
    if task.kernel.lsm is not None:
        task.kernel.lsm.security_task_setnice(task)
    set_user_nice(task, nice)
    return 0


@notrace
def priority_targets(which: int, who: int) -> list[TaskStruct]:
    """The tasks that getpriority(2) and setpriority(2) mean. Raises EINVAL."""
    task = current()
    if which == PRIO_PROCESS:
        p = find_task_by_vpid(who) if who else task
        return [p] if p is not None else []
    if which == PRIO_PGRP:
        pgrp = find_vpid(who) if who else task_pgrp(task)
        return [t for leader in do_each_pid_task(pgrp, PIDTYPE_PGID) for t in leader.signal.threads]
    if which == PRIO_USER:
        uid = who & 0xFFFF_FFFF if who else task.cred.uid
        return [t for t in for_each_thread(task.kernel) if t.real_cred.uid == uid]
    raise KernelError(EINVAL)


@syscall
def sys_setpriority(which: int, who: int, niceval: int) -> int:
    """setpriority(2). Errors: EINVAL, ESRCH, EPERM, EACCES."""
    targets = priority_targets(which, who)
    niceval = clamp_nice(niceval)
    if not targets:
        raise KernelError(ESRCH)
    error = 0
    for p in targets:
        error = set_one_prio(p, niceval, error)
    if error:
        raise KernelError(error)
    return 0


def set_one_prio(p: TaskStruct, niceval: int, error: int) -> int:
    """Sets one task's nice level. Returns the errno so far, or its own."""
    euid = current().cred.euid
    if euid not in (p.real_cred.uid, p.real_cred.euid) and not capable(CAP_SYS_NICE):
        return EPERM
    if niceval < task_nice(p) and not can_nice(p, niceval):
        return EACCES
    if p.kernel.lsm is not None:
        try:
            p.kernel.lsm.security_task_setnice(p)
        except KernelError as refused:
            return refused.errno
    set_user_nice(p, niceval)
    return error


@syscall
def sys_getpriority(which: int, who: int) -> int:
    """getpriority(2): 20 - nice, so that no answer is negative. Errors: EINVAL, ESRCH."""
    targets = priority_targets(which, who)
    if not targets:
        raise KernelError(ESRCH)
    return max(20 - task_nice(p) for p in targets)


# ---- policy -----------------------------------------------------------------------------------------------
@notrace
def do_sched_setscheduler(pid: int, policy: int, param: int) -> int:
    if not param or pid < 0:
        raise KernelError(EINVAL)
    priority = to_s32(get_user_u32(param))
    return _sched_setscheduler(find_process_by_pid(pid), policy, priority)


def _sched_setscheduler(p: TaskStruct, policy: int, priority: int) -> int:
    attr = SchedAttr(policy, 0, task_nice(p), priority & 0xFFFF_FFFF)
    if policy != SETPARAM_POLICY and policy & SCHED_RESET_ON_FORK:
        attr.sched_flags |= SCHED_FLAG_RESET_ON_FORK
        attr.sched_policy = policy & ~SCHED_RESET_ON_FORK
    return __sched_setscheduler(p, attr, True)


@syscall
def sys_sched_setscheduler(pid: int, policy: int, param: UserPtr) -> int:
    """sched_setscheduler(2). Errors: EINVAL, EPERM, ESRCH, EFAULT."""
    if policy < 0:
        raise KernelError(EINVAL)
    return do_sched_setscheduler(pid, policy, param)


@syscall
def sys_sched_setparam(pid: int, param: UserPtr) -> int:
    """sched_setparam(2). Errors: EINVAL, EPERM, ESRCH, EFAULT."""
    return do_sched_setscheduler(pid, SETPARAM_POLICY, param)


@syscall
def sys_sched_getscheduler(pid: int) -> int:
    """sched_getscheduler(2). Errors: EINVAL, ESRCH."""
    if pid < 0:
        raise KernelError(EINVAL)
    p = find_process_by_pid(pid)
    if p.kernel.lsm is not None:
        p.kernel.lsm.security_task_getscheduler(p)
    return p.policy | (SCHED_RESET_ON_FORK if p.sched_reset_on_fork else 0)


@syscall
def sys_sched_getparam(pid: int, param: UserPtr) -> int:
    """sched_getparam(2). Errors: EINVAL, ESRCH, EFAULT."""
    if not param or pid < 0:
        raise KernelError(EINVAL)
    p = find_process_by_pid(pid)
    if p.kernel.lsm is not None:
        p.kernel.lsm.security_task_getscheduler(p)
    put_user_u32(param, p.rt_priority if rt_policy(p.policy) else 0)
    return 0


def sched_copy_attr(uattr: int) -> SchedAttrUapi:
    """Reads a struct sched_attr of any size; bytes that we do not know must be 0.

    Raises E2BIG, EINVAL, EFAULT.
    """
    size = get_user_u32(uattr) or SCHED_ATTR_SIZE_VER0
    if not SCHED_ATTR_SIZE_VER0 <= size <= 4096:
        put_user_u32(uattr, SCHED_ATTR_SIZE_VER1)
        raise KernelError(E2BIG)
    data = copy_from_user(uattr, size)
    if any(data[SCHED_ATTR_SIZE_VER1:]):
        put_user_u32(uattr, SCHED_ATTR_SIZE_VER1)
        raise KernelError(E2BIG)
    attr: SchedAttrUapi = SchedAttrUapi.unpack(data.ljust(SCHED_ATTR_SIZE_VER1, b"\0"))
    attr.sched_nice = clamp_nice(attr.sched_nice)
    return attr


@syscall(gaps="utilization clamps are EINVAL")
def sys_sched_setattr(pid: int, uattr: UserPtr, flags: u32) -> int:
    """sched_setattr(2). Errors: EINVAL, E2BIG, EPERM, ESRCH, EFAULT."""
    if not uattr or pid < 0 or flags:
        raise KernelError(EINVAL)
    user = sched_copy_attr(uattr)
    policy = to_s32(user.sched_policy)
    if policy < 0:
        raise KernelError(EINVAL)
    if user.sched_flags & SCHED_FLAG_KEEP_POLICY:
        policy = SETPARAM_POLICY
    p = find_process_by_pid(pid)
    if p.kernel.lsm is not None:
        p.kernel.lsm.security_task_getscheduler(p)
    attr = SchedAttr(policy, user.sched_flags, user.sched_nice, user.sched_priority,
                     user.sched_runtime, user.sched_deadline, user.sched_period)
    if user.sched_flags & SCHED_FLAG_KEEP_PARAMS:
        attr.sched_priority, attr.sched_nice = p.rt_priority, task_nice(p)
    return __sched_setscheduler(p, attr, True)


@syscall
def sys_sched_getattr(pid: int, uattr: UserPtr, usize: u32, flags: u32) -> int:
    """sched_getattr(2). Errors: EINVAL, ESRCH, EFAULT."""
    if not uattr or pid < 0 or not SCHED_ATTR_SIZE_VER0 <= usize <= 4096 or flags:
        raise KernelError(EINVAL)
    p = find_process_by_pid(pid)
    if p.kernel.lsm is not None:
        p.kernel.lsm.security_task_getscheduler(p)
    attr = SchedAttrUapi.unpack(bytes(SCHED_ATTR_SIZE_VER1))
    attr.size, attr.sched_policy = min(usize, SCHED_ATTR_SIZE_VER1), p.policy
    if p.sched_reset_on_fork:
        attr.sched_flags |= SCHED_FLAG_RESET_ON_FORK
    if p.policy == SCHED_DEADLINE:
        dl_se = p.dl
        attr.sched_runtime, attr.sched_deadline = dl_se.dl_runtime, dl_se.dl_deadline
        attr.sched_period = dl_se.dl_period
    elif rt_policy(p.policy):
        attr.sched_priority = p.rt_priority
    else:
        attr.sched_nice = task_nice(p)
    if usize >= SCHED_ATTR_SIZE_VER1:
        attr.sched_util_max = 1024
    copy_to_user(uattr, attr.pack()[:attr.size])
    return 0


@syscall
def sys_sched_get_priority_max(policy: int) -> int:
    """sched_get_priority_max(2). Errors: EINVAL."""
    if rt_policy(policy):
        return MAX_USER_RT_PRIO - 1
    if valid_policy(policy):
        return 0
    raise KernelError(EINVAL)


@syscall
def sys_sched_get_priority_min(policy: int) -> int:
    """sched_get_priority_min(2). Errors: EINVAL."""
    if rt_policy(policy):
        return 1
    if valid_policy(policy):
        return 0
    raise KernelError(EINVAL)


@syscall
def sys_sched_rr_get_interval(pid: int, interval: UserPtr) -> int:
    """sched_rr_get_interval(2). Errors: EINVAL, ESRCH, EFAULT."""
    if pid < 0:
        raise KernelError(EINVAL)
    p = find_process_by_pid(pid)
    if p.kernel.lsm is not None:
        p.kernel.lsm.security_task_getscheduler(p)
    ticks = p.sched_class.get_rr_interval(p.kernel.sched.rqs[p.cpu], p)
    put_timespec64(ticks * TICK_NSEC, interval)
    return 0


# ---- CPUs -------------------------------------------------------------------------------------------------
@syscall
def sys_sched_setaffinity(pid: int, length: u32, user_mask_ptr: UserPtr) -> int:
    """sched_setaffinity(2). Errors: EINVAL, EPERM, ESRCH, EFAULT."""
    mask = int.from_bytes(copy_from_user(user_mask_ptr, min(length, 8)), "little")
    return sched_setaffinity(find_process_by_pid(pid), mask)


@syscall
def sys_sched_getaffinity(pid: int, length: u32, user_mask_ptr: UserPtr) -> int:
    """sched_getaffinity(2): the size of the kernel's mask. Errors: EINVAL, ESRCH, EFAULT."""
    cpus = len(current().kernel.sched.rqs)
    if length * 8 < cpus or length & 7:
        raise KernelError(EINVAL)
    p = find_process_by_pid(pid)
    if p.kernel.lsm is not None:
        p.kernel.lsm.security_task_getscheduler(p)
    mask = p.cpus_allowed & p.kernel.sched.cpu_active_mask
    copy_to_user(user_mask_ptr, mask.to_bytes(8, "little"))
    return 8


@syscall
def sys_getcpu(cpup: UserPtr, nodep: UserPtr, unused: UserPtr) -> int:
    """getcpu(2). Errors: EFAULT."""
    if cpup:
        put_user_u32(cpup, current().cpu)
    if nodep:
        put_user_u32(nodep, current().kernel.machine.cpus[current().cpu].node)
    return 0
