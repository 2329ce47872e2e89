"""May one process look into another?

Linux: kernel/ptrace.c (ptrace_may_access). Same: same ids, or CAP_SYS_PTRACE; an undumpable process needs the
    capability.
A file of its own because /proc and futex, which stand below process life, ask too.
"""
from __future__ import annotations

from glasskernel.kernel.capability import CAP_SYS_PTRACE, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.task import TaskStruct
from glasskernel.lib.errno import EPERM, KernelError

PTRACE_MODE_READ, PTRACE_MODE_ATTACH, PTRACE_MODE_NOAUDIT = 1, 2, 4
PTRACE_MODE_FSCREDS, PTRACE_MODE_REALCREDS = 8, 16
PTRACE_MODE_READ_FSCREDS = PTRACE_MODE_READ | PTRACE_MODE_FSCREDS
PTRACE_MODE_READ_REALCREDS = PTRACE_MODE_READ | PTRACE_MODE_REALCREDS
PTRACE_MODE_ATTACH_FSCREDS = PTRACE_MODE_ATTACH | PTRACE_MODE_FSCREDS
PTRACE_MODE_ATTACH_REALCREDS = PTRACE_MODE_ATTACH | PTRACE_MODE_REALCREDS
SUID_DUMP_USER = 1


def ptrace_may_access(task: TaskStruct, mode: int) -> bool:
    """True if the current task may read (or attach to) `task`. mode: PTRACE_MODE_*, one of FSCREDS,
    REALCREDS.
    """
    return not __ptrace_may_access(task, mode)


def __ptrace_may_access(task: TaskStruct, mode: int) -> int:
    """0, or EPERM; EACCES from a security module."""
    me = current()
    if me.signal is task.signal:
        return 0
    cred, tcred = me.cred, task.real_cred
    uid, gid = (cred.fsuid, cred.fsgid) if mode & PTRACE_MODE_FSCREDS else (cred.uid, cred.gid)
    same = uid == tcred.euid == tcred.suid == tcred.uid and gid == tcred.egid == tcred.sgid == tcred.gid
    if not same and not capable(CAP_SYS_PTRACE):
        return EPERM
    mm = task.mm
    if mm is not None and mm.dumpable != SUID_DUMP_USER and not capable(CAP_SYS_PTRACE):
        return EPERM
    # cap_ptrace_access_check(): the target may not have capabilities that we lack
    if tcred.cap_permitted & ~cred.cap_permitted and not capable(CAP_SYS_PTRACE):
        return EPERM
    lsm = me.kernel.lsm
    if lsm is not None:
        try:
            lsm.security_ptrace_access_check(task, mode)
        except KernelError as error:
            return error.errno
    return 0
