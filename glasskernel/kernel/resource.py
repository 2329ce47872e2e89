"""Resource limits of a process.

Linux: kernel/sys.c (prlimit), include/asm-generic/resource.h. Same: INIT_RLIMITS, who may raise what; NPROC
    and SIGPENDING start at half of max_threads. Owns: SignalStruct.rlim, a list of (soft, hard) by RLIMIT_*.
RLIMIT_CPU acts through kernel/time (update_rlimit_cpu), the others where the resource is taken.
"""
from __future__ import annotations

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.kernel.capability import CAP_SYS_RESOURCE, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import find_task_by_vpid
from glasskernel.kernel.task import (
    RLIM_INFINITY,
    RLIMIT_NOFILE,
    TaskStruct,
)
from glasskernel.lib.errno import EINVAL, EPERM, ESRCH, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, notrace, u32, u64
from glasskernel.lib.uapi import Layout, uapi

RLIM_NLIMITS = 16
LSM_PRLIMIT_READ, LSM_PRLIMIT_WRITE = 1, 2      # what security_task_prlimit() is told
RLIMIT_NAMES = ("cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile", "memlock", "as", "locks",
                "sigpending", "msgqueue", "nice", "rtprio", "rttime")


@uapi("include/uapi/linux/resource.h", size=16)
class Rlimit64(Layout):
    rlim_cur: u64
    rlim_max: u64


@notrace
def init_rlimits(max_threads: int) -> list[tuple[int, int]]:
    """INIT_RLIMITS, with what fork_init() makes of it."""
    free = (RLIM_INFINITY, RLIM_INFINITY)
    half = (max_threads // 2, max_threads // 2)
    return [
        free, free, free,                        # CPU, FSIZE, DATA
        (8 << 20, RLIM_INFINITY),                # STACK
        (0, RLIM_INFINITY),                      # CORE
        free, half, (1024, 4096),                # RSS, NPROC, NOFILE
        (65536, 65536), free, free,              # MEMLOCK, AS, LOCKS
        half, (819200, 819200),                  # SIGPENDING, MSGQUEUE
        (0, 0), (0, 0), free,                    # NICE, RTPRIO, RTTIME
    ]


@notrace
def rlimit(limit: int) -> int:
    """The current task's soft limit."""
    return current().signal.rlim[limit][0]


@notrace
def task_rlimit(task: TaskStruct, limit: int) -> int:
    return task.signal.rlim[limit][0]


@notrace
def task_rlimit_max(task: TaskStruct, limit: int) -> int:
    return task.signal.rlim[limit][1]


def do_prlimit(task: TaskStruct, resource: int, new: tuple[int, int] | None) -> tuple[int, int]:
    """Sets a limit if `new` is given; answers the old one.

    Raises EINVAL (soft > hard), EPERM (hard raised).
    """
    if resource >= RLIM_NLIMITS:
        raise KernelError(EINVAL)
    old = task.signal.rlim[resource]
    if new is not None:
        if new[0] > new[1]:
            raise KernelError(EINVAL)
        if resource == RLIMIT_NOFILE and new[1] > current().kernel.sysctl.nr_open:
            raise KernelError(EPERM)
        if new[1] > old[1] and not capable(CAP_SYS_RESOURCE):
            raise KernelError(EPERM)
        if task.kernel.lsm is not None:
            task.kernel.lsm.security_task_setrlimit(task, resource, new)
        task.signal.rlim[resource] = new
    return old


@syscall
def sys_getrlimit(resource: u32, rlim: UserPtr) -> int:
    """getrlimit(2). Errors: EINVAL, EFAULT."""
    soft, hard = do_prlimit(current(), resource, None)
    copy_to_user(rlim, Rlimit64.STRUCT.pack(soft, hard))
    return 0


@syscall
def sys_setrlimit(resource: u32, rlim: UserPtr) -> int:
    """setrlimit(2). Errors: EFAULT, EINVAL, EPERM."""
    soft, hard = Rlimit64.STRUCT.unpack(copy_from_user(rlim, 16))
    do_prlimit(current(), resource, (soft, hard))
    return 0


@notrace
def check_prlimit_permission(task: TaskStruct, flags: int) -> None:
    """Another process's limits: the same user in every respect, or CAP_SYS_RESOURCE."""
    if current() is task:
        return
    cred, tcred = current().cred, task.real_cred
    if (
        (cred.uid == tcred.euid == tcred.suid == tcred.uid
        and cred.gid == tcred.egid == tcred.sgid == tcred.gid)
        or capable(CAP_SYS_RESOURCE)
    ):
        if task.kernel.lsm is not None:
            task.kernel.lsm.security_task_prlimit(cred, tcred, flags)
        return
    raise KernelError(EPERM)


@syscall
def sys_prlimit64(pid: int, resource: u32, new_rlim: UserPtr, old_rlim: UserPtr) -> int:
    """prlimit(2). Errors: EFAULT, ESRCH, EPERM, EINVAL."""
    new = None
    if new_rlim:
        new = Rlimit64.STRUCT.unpack(copy_from_user(new_rlim, 16))
    task = find_task_by_vpid(pid) if pid else current()
    if task is None:
        raise KernelError(ESRCH)
    check_prlimit_permission(task, (LSM_PRLIMIT_READ if old_rlim else 0) | (LSM_PRLIMIT_WRITE if new_rlim else 0))
    old = do_prlimit(task, resource, new)
    if old_rlim:
        copy_to_user(old_rlim, Rlimit64.STRUCT.pack(*old))
    return 0
