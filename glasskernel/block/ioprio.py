"""I/O priorities: ioprio_set(2), ioprio_get(2).

Linux: block/ioprio.c (5.3). Same: classes, who may set what, the best priority of a group. A child inherits its
parent's (copy_io). bfq gives weights by them (block/bfq_iosched.py).
"""
from __future__ import annotations

from glasskernel.block.blk_types import IoContext
from glasskernel.kernel.capability import CAP_SYS_ADMIN, CAP_SYS_NICE, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import (
    PIDTYPE_PGID,
    do_each_pid_task,
    find_task_by_vpid,
    find_vpid,
    for_each_thread,
    task_pgrp,
)
from glasskernel.kernel.task import TaskStruct
from glasskernel.lib.errno import EINVAL, EPERM, ESRCH, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import notrace

IOPRIO_CLASS_NONE, IOPRIO_CLASS_RT, IOPRIO_CLASS_BE, IOPRIO_CLASS_IDLE = range(4)
IOPRIO_CLASS_SHIFT, IOPRIO_BE_NR, IOPRIO_NORM = 13, 8, 4
IOPRIO_WHO_PROCESS, IOPRIO_WHO_PGRP, IOPRIO_WHO_USER = 1, 2, 3


def set_task_ioprio(task: TaskStruct, ioprio: int) -> None:
    """Raises EPERM unless the task is the caller's own (or CAP_SYS_NICE)."""
    cred, theirs = current().cred, task.cred
    if theirs.uid not in (cred.euid, cred.uid) and not capable(CAP_SYS_NICE):
        raise KernelError(EPERM)
    if task.kernel.lsm is not None:
        task.kernel.lsm.security_task_setioprio(task)
    if task.io_context is None:
        task.io_context = IoContext()
    task.io_context.ioprio = task.ioprio = ioprio


def get_task_ioprio(task: TaskStruct) -> int:
    """A task that has no io_context yet has no class, and says the middle level."""
    if task.kernel.lsm is not None:
        task.kernel.lsm.security_task_getioprio(task)
    if task.io_context is None and not task.ioprio:
        return IOPRIO_CLASS_NONE << IOPRIO_CLASS_SHIFT | IOPRIO_NORM
    return task.ioprio


def ioprio_best(a: int, b: int) -> int:
    """The higher of two priorities: a lower class or level is better; no class counts as the middle of best effort."""
    middle = IOPRIO_CLASS_BE << IOPRIO_CLASS_SHIFT | IOPRIO_NORM
    return min(ioprio if ioprio >> IOPRIO_CLASS_SHIFT else middle for ioprio in (a, b))


@notrace
def tasks_of(which: int, who: int) -> list[TaskStruct]:
    """Whom the call is about. Raises EINVAL, ESRCH."""
    task = current()
    if which == IOPRIO_WHO_PROCESS:
        found = task if not who else find_task_by_vpid(who)
        tasks = [] if found is None else [found]
    elif which == IOPRIO_WHO_PGRP:
        pgrp = task_pgrp(task) if not who else find_vpid(who)
        tasks = [thread for leader in do_each_pid_task(pgrp, PIDTYPE_PGID) for thread in leader.signal.threads]
    elif which == IOPRIO_WHO_USER:
        uid = who or task.cred.uid
        tasks = [p for p in for_each_thread(task.kernel) if p.cred.uid == uid]
    else:
        raise KernelError(EINVAL)
    if not tasks:
        raise KernelError(ESRCH)
    return tasks


def ioprio_check_cap(ioprio: int) -> None:
    """Whether a priority exists and the caller may ask for it. Raises EINVAL, EPERM."""
    kind, level = ioprio >> IOPRIO_CLASS_SHIFT, ioprio & (1 << IOPRIO_CLASS_SHIFT) - 1
    if kind == IOPRIO_CLASS_RT and not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    if kind in (IOPRIO_CLASS_RT, IOPRIO_CLASS_BE):
        if level >= IOPRIO_BE_NR:
            raise KernelError(EINVAL)
    elif kind == IOPRIO_CLASS_NONE:
        if level:
            raise KernelError(EINVAL)
    elif kind != IOPRIO_CLASS_IDLE:
        raise KernelError(EINVAL)


@syscall
def sys_ioprio_set(which: int, who: int, ioprio: int) -> int:
    """ioprio_set(2). Errors: EINVAL, EPERM, ESRCH."""
    ioprio_check_cap(ioprio)
    for task in tasks_of(which, who):
        set_task_ioprio(task, ioprio)
    return 0


@syscall
def sys_ioprio_get(which: int, who: int) -> int:
    """ioprio_get(2): of several tasks the best one. Errors: EINVAL, ESRCH."""
    best = -1
    for task in tasks_of(which, who):
        own = get_task_ioprio(task)
        best = own if best < 0 else ioprio_best(best, own)
    return best
