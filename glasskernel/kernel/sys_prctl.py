"""prctl(2), and the two-line calls about a process's execution domain.

Linux: kernel/sys.c (prctl), kernel/exec_domain.c (5.3). Same: errors. Owns: nothing.
Gaps: PR_SET_MM (EINVAL), PR_MCE_KILL (EINVAL), MPX.
"""
from __future__ import annotations

from glasskernel.arch.x86.process import get_tsc_mode, set_tsc_mode
from glasskernel.arch.x86.uaccess import (
    copy_from_user,
    copy_to_user,
    put_user_u32,
    put_user_u64,
    strncpy_from_user,
)
from glasskernel.kernel.capability import CAP_SYS_RESOURCE, cap_task_prctl, capable
from glasskernel.kernel.cred import commit_creds, prepare_creds
from glasskernel.kernel.current import current
from glasskernel.kernel.seccomp import prctl_set_seccomp
from glasskernel.kernel.signal import valid_signal
from glasskernel.kernel.task import TaskStruct
from glasskernel.lib.errno import EINVAL, ENODEV, ENXIO, EPERM, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import notrace, u32, ulong

PR_SET_PDEATHSIG, PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_DUMPABLE = 1, 2, 3, 4
PR_GET_TIMING, PR_SET_TIMING, PR_SET_NAME, PR_GET_NAME = 13, 14, 15, 16
PR_GET_SECCOMP, PR_SET_SECCOMP, PR_GET_TSC, PR_SET_TSC = 21, 22, 25, 26
PR_SET_TIMERSLACK, PR_GET_TIMERSLACK, PR_SET_MM, PR_SET_CHILD_SUBREAPER = 29, 30, 35, 36
PR_GET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS, PR_GET_TID_ADDRESS = 37, 38, 39, 40
PR_SET_THP_DISABLE, PR_GET_THP_DISABLE = 41, 42
PR_GET_SPECULATION_CTRL, PR_SET_SPECULATION_CTRL = 52, 53
TASK_COMM_LEN = 16
DEFAULT_TIMER_SLACK_NS = 50_000
SUID_DUMP_DISABLE, SUID_DUMP_USER = 0, 1


def propagate_has_child_subreaper(task: TaskStruct) -> None:
    """walk_process_tree(): every descendant must look for a subreaper when it loses its parent."""
    todo = [c for t in task.signal.threads for c in t.children]
    while todo:
        p = todo.pop()
        if p.signal.has_child_subreaper or p.tgid == 1:
            continue
        p.signal.has_child_subreaper = True
        for t in p.signal.threads:
            todo.extend(t.children)


@notrace
def set_task_comm(task: TaskStruct, name: bytes) -> None:
    probe = task.kernel.tp.task_rename
    if probe is not None:
        probe(task, name)
    task.comm = name[: TASK_COMM_LEN - 1]
    if task.kernel.perf is not None:
        task.kernel.perf.event_comm(task, False)


@notrace
def _no_more(*arguments: int) -> None:
    """Arguments that must be zero. Raises EINVAL."""
    if any(arguments):
        raise KernelError(EINVAL)


@syscall(gaps="PR_SET_MM, PR_MCE_KILL are EINVAL")
def sys_prctl(option: int, arg2: ulong, arg3: ulong, arg4: ulong, arg5: ulong) -> int:
    """prctl(2). Errors: EINVAL, EFAULT, EPERM, ENODEV."""
    me = current()
    done = cap_task_prctl(option, arg2, arg3, arg4, arg5)
    if done is not None:
        return done
    if option == PR_SET_NAME:
        name = strncpy_from_user(arg2, TASK_COMM_LEN - 1)
        set_task_comm(me, name if name is not None else copy_from_user(arg2, TASK_COMM_LEN - 1))
    elif option == PR_GET_NAME:
        copy_to_user(arg2, me.comm.ljust(TASK_COMM_LEN, b"\0"))
    elif option == PR_SET_PDEATHSIG:
        if not valid_signal(arg2):
            raise KernelError(EINVAL)
        me.pdeath_signal = arg2
    elif option == PR_GET_PDEATHSIG:
        put_user_u32(arg2, me.pdeath_signal)
    elif option == PR_GET_DUMPABLE:
        return me.mm.dumpable if me.mm is not None else 0
    elif option == PR_SET_DUMPABLE:
        if arg2 not in (SUID_DUMP_DISABLE, SUID_DUMP_USER):
            raise KernelError(EINVAL)
        if me.mm is not None:
            me.mm.dumpable = arg2
    elif option == PR_GET_TIMING:
        return 0                                 # PR_TIMING_STATISTICAL
    elif option == PR_SET_TIMING:
        _no_more(arg2)
    elif option == PR_GET_SECCOMP:
        return me.seccomp_mode
    elif option == PR_SET_SECCOMP:
        return prctl_set_seccomp(arg2, arg3)
    elif option == PR_GET_TSC:
        return get_tsc_mode(arg2)
    elif option == PR_SET_TSC:
        return set_tsc_mode(arg2 & 0xFFFF_FFFF)
    elif option == PR_GET_TIMERSLACK:
        return me.timer_slack_ns
    elif option == PR_SET_TIMERSLACK:
        me.timer_slack_ns = arg2 if 0 < arg2 < 1 << 63 else DEFAULT_TIMER_SLACK_NS
    elif option == PR_SET_MM:
        raise KernelError(EINVAL if capable(CAP_SYS_RESOURCE) else EPERM)
    elif option == PR_GET_TID_ADDRESS:
        put_user_u64(arg2, me.clear_child_tid)
    elif option == PR_SET_CHILD_SUBREAPER:
        me.signal.is_child_subreaper = bool(arg2)
        if arg2:
            propagate_has_child_subreaper(me)
    elif option == PR_GET_CHILD_SUBREAPER:
        put_user_u32(arg2, int(me.signal.is_child_subreaper))
    elif option == PR_SET_NO_NEW_PRIVS:
        if arg2 != 1:
            raise KernelError(EINVAL)
        _no_more(arg3, arg4, arg5)
        if not me.cred.no_new_privs:
            new = prepare_creds()
            new.no_new_privs = True
            commit_creds(new)
    elif option == PR_GET_NO_NEW_PRIVS:
        _no_more(arg2, arg3, arg4, arg5)
        return int(me.cred.no_new_privs)
    elif option == PR_GET_THP_DISABLE:
        _no_more(arg2, arg3, arg4, arg5)
        return int(me.mm is not None and me.mm.thp_disabled)
    elif option == PR_SET_THP_DISABLE:
        _no_more(arg3, arg4, arg5)
        if me.mm is not None:
            me.mm.thp_disabled = bool(arg2)
    elif option == PR_GET_SPECULATION_CTRL:
        _no_more(arg3, arg4, arg5)
        if arg2 > 1:
            raise KernelError(ENODEV)
        return 0                                 # PR_SPEC_NOT_AFFECTED
    elif option == PR_SET_SPECULATION_CTRL:
        _no_more(arg4, arg5)
        raise KernelError(ENXIO if arg2 <= 1 else ENODEV)
    else:
        raise KernelError(EINVAL)
    return 0


@syscall
def sys_personality(personality: u32) -> int:
    """personality(2): answers the old one; 0xffffffff only asks."""
    task = current()
    old = task.personality
    if personality != 0xFFFF_FFFF:
        task.personality = personality
    return old
