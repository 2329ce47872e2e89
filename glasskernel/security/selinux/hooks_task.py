"""SELinux's say about programs and tasks.

Linux: the task and program part of security/selinux/hooks.c (5.3). Same: the label of a new program, what it loses
    when the label changes (descriptors, limits, timers, signals, its parent-death signal), /proc/PID/attr,
    permissions of each call.
Owns: TaskSecurityStruct. Context: task; may sleep. Gaps: kernel_act_as and kernel_create_files_as (nobody calls them).
"""
from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from glasskernel.drivers.tty.tty_jobctrl import get_current_tty, no_tty
from glasskernel.fs.dentry_open import dentry_open
from glasskernel.fs.file import __close_fd, do_dup2, iterate_fd
from glasskernel.fs.file_table import fput
from glasskernel.fs.types import O_RDWR
from glasskernel.kernel.capability import CAP_SYS_ADMIN
from glasskernel.kernel.cred import commit_creds, prepare_creds
from glasskernel.kernel.current import register
from glasskernel.kernel.printk import (
    SYSLOG_ACTION_CONSOLE_LEVEL,
    SYSLOG_ACTION_CONSOLE_OFF,
    SYSLOG_ACTION_CONSOLE_ON,
    SYSLOG_ACTION_READ_ALL,
    SYSLOG_ACTION_SIZE_BUFFER,
)
from glasskernel.kernel.ptrace_access import PTRACE_MODE_READ
from glasskernel.kernel.resource import LSM_PRLIMIT_READ, LSM_PRLIMIT_WRITE
from glasskernel.kernel.sched.core import fatal_signal_pending
from glasskernel.kernel.signal import __wake_up_parent, flush_signal_handlers, flush_sigqueue, recalc_sigpending
from glasskernel.kernel.signal_types import SIGCHLD, SIGKILL, SIGSTOP
from glasskernel.kernel.time.itimer import ITIMER_PROF, ITIMER_REAL, ITIMER_VIRTUAL, do_setitimer
from glasskernel.lib.errno import EACCES, EINVAL, EPERM, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.security.commoncap import (
    LSM_UNSAFE_NO_NEW_PRIVS,
    LSM_UNSAFE_PTRACE,
    LSM_UNSAFE_SHARE,
    PER_CLEAR_ON_SETID,
    mnt_may_suid,
)
from glasskernel.security.lsm_audit import LSM_AUDIT_DATA_FILE, CommonAuditData
from glasskernel.security.selinux.av_permissions import (
    FILE__ENTRYPOINT,
    FILE__EXECUTE_NO_TRANS,
    FILE__READ,
    FILE__WRITE,
    KEY__CREATE,
    PROCESS2__NNP_TRANSITION,
    PROCESS2__NOSUID_TRANSITION,
    PROCESS__DYNTRANSITION,
    PROCESS__FORK,
    PROCESS__GETATTR,
    PROCESS__GETCAP,
    PROCESS__GETPGID,
    PROCESS__GETRLIMIT,
    PROCESS__GETSCHED,
    PROCESS__GETSESSION,
    PROCESS__NOATSECURE,
    PROCESS__PTRACE,
    PROCESS__RLIMITINH,
    PROCESS__SETCAP,
    PROCESS__SETCURRENT,
    PROCESS__SETEXEC,
    PROCESS__SETFSCREATE,
    PROCESS__SETKEYCREATE,
    PROCESS__SETPGID,
    PROCESS__SETRLIMIT,
    PROCESS__SETSCHED,
    PROCESS__SETSOCKCREATE,
    PROCESS__SHARE,
    PROCESS__SIGCHLD,
    PROCESS__SIGINH,
    PROCESS__SIGKILL,
    PROCESS__SIGNAL,
    PROCESS__SIGNULL,
    PROCESS__SIGSTOP,
    PROCESS__TRANSITION,
    SYSTEM__SYSLOG_CONSOLE,
    SYSTEM__SYSLOG_MOD,
    SYSTEM__SYSLOG_READ,
)
from glasskernel.security.selinux.avc import avc_has_perm
from glasskernel.security.selinux.flask import (
    SECCLASS_FILE,
    SECCLASS_KEY,
    SECCLASS_PROCESS,
    SECCLASS_PROCESS2,
    SECCLASS_SYSTEM,
    SECINITSID_KERNEL,
)
from glasskernel.security.selinux.has_perm import (
    context_of_caller,
    cred_has_capability,
    file_has_perm,
    file_to_av,
    inode_has_perm,
    set_label,
)
from glasskernel.security.selinux.inode_label import inode_security
from glasskernel.security.selinux.objsec import (
    TaskSecurityStruct,
    copy_tsec,
    cred_sid,
    current_sid,
    selinux_cred,
    selinux_state,
    task_sid,
)
from glasskernel.security.selinux.ss.services import (
    security_bounded_transition,
    security_context_to_sid,
    security_sid_to_context,
    security_transition_sid,
)
from glasskernel.security.selinux.types import POLICYDB_CAPABILITY_NNP_NOSUID_TRANSITION

if TYPE_CHECKING:
    from glasskernel.fs.exec import LinuxBinprm
    from glasskernel.fs.types import File, Inode
    from glasskernel.kernel.task import Cred, TaskStruct

_SIGNAL_AV = {SIGCHLD: PROCESS__SIGCHLD, SIGKILL: PROCESS__SIGKILL, SIGSTOP: PROCESS__SIGSTOP}
# /proc/PID/attr: file -> (field of the task's blob, permission to set it)
_ATTRIBUTES = {
    b"current": ("sid", PROCESS__SETCURRENT), b"prev": ("osid", 0), b"exec": ("exec_sid", PROCESS__SETEXEC),
    b"fscreate": ("create_sid", PROCESS__SETFSCREATE), b"keycreate": ("keycreate_sid", PROCESS__SETKEYCREATE),
    b"sockcreate": ("sockcreate_sid", PROCESS__SETSOCKCREATE),
}


@notrace
def signal_to_av(sig: int) -> int:
    """The permission to send a signal."""
    return _SIGNAL_AV.get(sig, PROCESS__SIGNAL)


@notrace
def current_has_perm(task: TaskStruct, perms: int) -> None:
    """May the caller do this to another process? Raises EACCES."""
    avc_has_perm(selinux_state(), current_sid(), task_sid(task), SECCLASS_PROCESS, perms)


@notrace
def allowed(ssid: int, tsid: int, tclass: int, perms: int) -> bool:
    """avc_has_perm() as an answer."""
    try:
        avc_has_perm(selinux_state(), ssid, tsid, tclass, perms)
    except KernelError:
        return False
    return True


def ptrace_parent_sid() -> int:
    """The label of who traces the caller; 0: nobody."""
    task = register.task
    return task_sid(task.parent) if task.ptrace else 0


# ---- programs ------------------------------------------------------------------------------------------------
def selinux_cred_prepare(new: Cred, old: Cred) -> None:
    new.security = copy_tsec(selinux_cred(old))


@may_sleep
def selinux_bprm_set_creds(bprm: LinuxBinprm) -> None:
    """The label of the program that execve(2) is about to start. Raises EACCES, EPERM."""
    if bprm.called_set_creds:
        return                                             # a script's label counts, not its interpreter's
    state = selinux_state()
    old_tsec, new_tsec = selinux_cred(register.task.cred), selinux_cred(bprm.cred)
    isec = inode_security(bprm.file.f_inode)
    new_tsec.sid = new_tsec.osid = old_tsec.sid
    new_tsec.create_sid = new_tsec.keycreate_sid = new_tsec.sockcreate_sid = 0
    if old_tsec.exec_sid:
        new_tsec.sid = old_tsec.exec_sid
        new_tsec.exec_sid = 0
        check_nnp_nosuid(bprm, old_tsec, new_tsec)
    else:
        new_tsec.sid = security_transition_sid(state, old_tsec.sid, isec.sid, SECCLASS_PROCESS, None)
        try:
            check_nnp_nosuid(bprm, old_tsec, new_tsec)
        except KernelError:
            new_tsec.sid = old_tsec.sid
    ad = CommonAuditData(LSM_AUDIT_DATA_FILE, bprm.file)
    if new_tsec.sid == old_tsec.sid:
        avc_has_perm(state, old_tsec.sid, isec.sid, SECCLASS_FILE, FILE__EXECUTE_NO_TRANS, ad)
        return
    avc_has_perm(state, old_tsec.sid, new_tsec.sid, SECCLASS_PROCESS, PROCESS__TRANSITION, ad)
    avc_has_perm(state, new_tsec.sid, isec.sid, SECCLASS_FILE, FILE__ENTRYPOINT, ad)
    if bprm.unsafe & LSM_UNSAFE_SHARE and not allowed(old_tsec.sid, new_tsec.sid, SECCLASS_PROCESS, PROCESS__SHARE):
        raise KernelError(EPERM)
    if bprm.unsafe & LSM_UNSAFE_PTRACE:
        ptsid = ptrace_parent_sid()
        if ptsid and not allowed(ptsid, new_tsec.sid, SECCLASS_PROCESS, PROCESS__PTRACE):
            raise KernelError(EPERM)
    bprm.per_clear |= PER_CLEAR_ON_SETID
    if not allowed(old_tsec.sid, new_tsec.sid, SECCLASS_PROCESS, PROCESS__NOATSECURE):
        bprm.secureexec = True                             # AT_SECURE


def check_nnp_nosuid(bprm: LinuxBinprm, old_tsec: TaskSecurityStruct, new_tsec: TaskSecurityStruct) -> None:
    """no_new_privs and nosuid mounts: only transitions that the policy says are harmless. Raises EPERM, EACCES."""
    nnp = bprm.unsafe & LSM_UNSAFE_NO_NEW_PRIVS
    nosuid = not mnt_may_suid(bprm.file)
    if (not nnp and not nosuid) or new_tsec.sid == old_tsec.sid:
        return
    state = selinux_state()
    if state.policycap[POLICYDB_CAPABILITY_NNP_NOSUID_TRANSITION]:
        av = (PROCESS2__NNP_TRANSITION if nnp else 0) | (PROCESS2__NOSUID_TRANSITION if nosuid else 0)
        if allowed(old_tsec.sid, new_tsec.sid, SECCLASS_PROCESS2, av):
            return
    try:
        security_bounded_transition(state, old_tsec.sid, new_tsec.sid)
    except KernelError:
        raise KernelError(EPERM if nnp else EACCES) from None


@may_sleep
def selinux_bprm_committing_creds(bprm: LinuxBinprm) -> None:
    """The program gets another label: descriptors, the parent-death signal and limits that it may not inherit go."""
    new_tsec = selinux_cred(bprm.cred)
    if new_tsec.sid == new_tsec.osid:
        return
    task = register.task
    flush_unauthorized_files(bprm.cred, task)
    task.pdeath_signal = 0
    if not allowed(new_tsec.osid, new_tsec.sid, SECCLASS_PROCESS, PROCESS__RLIMITINH):
        init = task.kernel.pids.idle_tasks[0].signal.rlim  # init_task's
        rlim = task.signal.rlim
        for index, (soft, _hard) in enumerate(init[: len(rlim)]):
            rlim[index] = (min(rlim[index][1], soft), rlim[index][1])


@may_sleep
def flush_unauthorized_files(cred: Cred, task: TaskStruct) -> None:
    """Descriptors that `cred` may not use show /sys/fs/selinux/null from now on."""
    tty = get_current_tty()
    if tty is not None:
        refused = bool(tty.tty_files) and not file_path_has_perm(cred, tty.tty_files[0])
        if refused:
            no_tty()

    @notrace
    def match_file(file: File, fd: int) -> int:
        try:
            file_has_perm(cred, file, file_to_av(file))
        except KernelError:
            return fd + 1
        return 0

    files = task.files
    n = iterate_fd(files, 0, match_file)
    if not n:
        return
    devnull = None                                         # not to be had: the descriptors are closed
    with suppress(KernelError):
        devnull = dentry_open(selinux_state().fs_info.selinux_null, O_RDWR, cred)
    while n:
        if devnull is None:
            __close_fd(files, n - 1)
        else:
            do_dup2(files, devnull, n - 1, 0)
        n = iterate_fd(files, n, match_file)
    if devnull is not None:
        fput(devnull)


@notrace
def file_path_has_perm(cred: Cred, file: File) -> bool:
    """May `cred` read and write what the file is open on?"""
    try:
        inode_has_perm(cred, file.f_inode, FILE__READ | FILE__WRITE, CommonAuditData(LSM_AUDIT_DATA_FILE, file))
    except KernelError:
        return False
    return True


@may_sleep
def selinux_bprm_committed_creds(bprm: LinuxBinprm) -> None:
    """The program has another label: timers and signals that it may not inherit go; its parent asks about it again."""
    task = register.task
    tsec = selinux_cred(task.cred)
    if tsec.sid == tsec.osid:
        return
    if not allowed(tsec.osid, tsec.sid, SECCLASS_PROCESS, PROCESS__SIGINH):
        for which in (ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF):         # clear_itimer()
            do_setitimer(which, 0, 0)
        if not fatal_signal_pending(task):
            flush_sigqueue(task.pending)
            flush_sigqueue(task.signal.shared_pending)
            flush_signal_handlers(task, True)
            task.blocked = 0
            recalc_sigpending()
    __wake_up_parent(task, task.real_parent)


# ---- capabilities and others' data -----------------------------------------------------------------------------
def selinux_ptrace_access_check(child: TaskStruct, mode: int) -> None:
    state, sid, csid = selinux_state(), current_sid(), task_sid(child)
    if mode & PTRACE_MODE_READ:
        avc_has_perm(state, sid, csid, SECCLASS_FILE, FILE__READ)
    else:
        avc_has_perm(state, sid, csid, SECCLASS_PROCESS, PROCESS__PTRACE)


def selinux_ptrace_traceme(parent: TaskStruct) -> None:
    avc_has_perm(selinux_state(), task_sid(parent), current_sid(), SECCLASS_PROCESS, PROCESS__PTRACE)


def selinux_capget(target: TaskStruct) -> None:
    current_has_perm(target, PROCESS__GETCAP)


def selinux_capset(new: Cred, old: Cred) -> None:
    avc_has_perm(selinux_state(), cred_sid(old), cred_sid(new), SECCLASS_PROCESS, PROCESS__SETCAP)


def selinux_capable(cred: Cred, cap: int, audit: bool) -> bool:
    return cred_has_capability(cred, cap, audit)


def selinux_syslog(type: int) -> None:
    if type in (SYSLOG_ACTION_READ_ALL, SYSLOG_ACTION_SIZE_BUFFER):
        av = SYSTEM__SYSLOG_READ
    elif type in (SYSLOG_ACTION_CONSOLE_OFF, SYSLOG_ACTION_CONSOLE_ON, SYSLOG_ACTION_CONSOLE_LEVEL):
        av = SYSTEM__SYSLOG_CONSOLE
    else:
        av = SYSTEM__SYSLOG_MOD
    avc_has_perm(selinux_state(), current_sid(), SECINITSID_KERNEL, SECCLASS_SYSTEM, av)


def selinux_vm_enough_memory() -> bool:
    """Not recorded: every mmap(2) asks."""
    return cred_has_capability(register.task.cred, CAP_SYS_ADMIN, False)


# ---- tasks -----------------------------------------------------------------------------------------------------
def selinux_task_alloc(_task: TaskStruct) -> None:
    sid = current_sid()
    avc_has_perm(selinux_state(), sid, sid, SECCLASS_PROCESS, PROCESS__FORK)


def selinux_task_setpgid(task: TaskStruct) -> None:
    current_has_perm(task, PROCESS__SETPGID)


def selinux_task_getpgid(task: TaskStruct) -> None:
    current_has_perm(task, PROCESS__GETPGID)


def selinux_task_getsid(task: TaskStruct) -> None:
    current_has_perm(task, PROCESS__GETSESSION)


def selinux_task_setnice(task: TaskStruct) -> None:
    current_has_perm(task, PROCESS__SETSCHED)


def selinux_task_setioprio(task: TaskStruct) -> None:
    current_has_perm(task, PROCESS__SETSCHED)


def selinux_task_getioprio(task: TaskStruct) -> None:
    current_has_perm(task, PROCESS__GETSCHED)


def selinux_task_prlimit(cred: Cred, tcred: Cred, flags: int) -> None:
    av = PROCESS__SETRLIMIT if flags & LSM_PRLIMIT_WRITE else 0
    if flags & LSM_PRLIMIT_READ:
        av |= PROCESS__GETRLIMIT
    if av:
        avc_has_perm(selinux_state(), cred_sid(cred), cred_sid(tcred), SECCLASS_PROCESS, av)


def selinux_task_setrlimit(task: TaskStruct, resource: int, new: tuple[int, int]) -> None:
    if task.signal.rlim[resource][1] != new[1]:            # the hard limit
        current_has_perm(task, PROCESS__SETRLIMIT)


def selinux_task_setscheduler(task: TaskStruct) -> None:
    current_has_perm(task, PROCESS__SETSCHED)


def selinux_task_getscheduler(task: TaskStruct) -> None:
    current_has_perm(task, PROCESS__GETSCHED)


def selinux_task_kill(task: TaskStruct, sig: int) -> None:
    current_has_perm(task, signal_to_av(sig) if sig else PROCESS__SIGNULL)


def selinux_task_to_inode(task: TaskStruct, inode: Inode) -> None:
    set_label(inode, task_sid(task))


# ---- /proc/PID/attr --------------------------------------------------------------------------------------------
def selinux_getprocattr(task: TaskStruct, name: bytes) -> bytes:
    """A context with its NUL, b"" where none is set. Raises EINVAL, EACCES."""
    if task is not register.task:
        current_has_perm(task, PROCESS__GETATTR)
    if name not in _ATTRIBUTES:
        raise KernelError(EINVAL)
    sid: int = getattr(selinux_cred(task.real_cred), _ATTRIBUTES[name][0])
    return security_sid_to_context(selinux_state(), sid) + b"\0" if sid else b""


@may_sleep
def selinux_setprocattr(name: bytes, value: bytes) -> None:
    """Sets a label of the caller; an empty line takes back what was set. Raises EINVAL, EACCES, EPERM."""
    state = selinux_state()
    mysid = current_sid()
    where, permission = _ATTRIBUTES.get(name, ("", 0))
    if not permission:
        raise KernelError(EINVAL)
    avc_has_perm(state, mysid, mysid, SECCLASS_PROCESS, permission)
    sid = 0
    if value and value[:1] not in (b"\0", b"\n"):
        if value[-1:] == b"\n":
            value = value[:-1] + b"\0"
        sid = (context_of_caller(value, b"op=fscreate invalid_context=") if name == b"fscreate"
               else security_context_to_sid(state, value))
    new = prepare_creds()
    tsec = selinux_cred(new)
    if name == b"keycreate" and sid:
        avc_has_perm(state, mysid, sid, SECCLASS_KEY, KEY__CREATE)
    elif name == b"current":
        check_current(tsec, sid)
    setattr(tsec, where, sid)
    commit_creds(new)


@notrace
def check_current(tsec: TaskSecurityStruct, sid: int) -> None:
    """May the caller become `sid` without execve(2)? Raises EINVAL, EPERM, EACCES."""
    state = selinux_state()
    if not sid:
        raise KernelError(EINVAL)
    if not current_is_single_threaded():
        security_bounded_transition(state, tsec.sid, sid)
    avc_has_perm(state, tsec.sid, sid, SECCLASS_PROCESS, PROCESS__DYNTRANSITION)
    ptsid = ptrace_parent_sid()
    if ptsid:
        avc_has_perm(state, ptsid, sid, SECCLASS_PROCESS, PROCESS__PTRACE)


def current_is_single_threaded() -> bool:
    """Nobody shares the caller's memory (lib/is_single_threaded.c)."""
    task = register.task
    return len(task.signal.threads) == 1 and (task.mm is None or task.mm.mm_users == 1)


TASK_HOOKS: dict[str, Callable[..., Any]] = {
    "ptrace_access_check": selinux_ptrace_access_check,
    "ptrace_traceme": selinux_ptrace_traceme,
    "capset": selinux_capset,
    "capget": selinux_capget,
    "capable": selinux_capable,
    "syslog": selinux_syslog,
    "vm_enough_memory": selinux_vm_enough_memory,
    "bprm_set_creds": selinux_bprm_set_creds,
    "bprm_committing_creds": selinux_bprm_committing_creds,
    "bprm_committed_creds": selinux_bprm_committed_creds,
    "cred_prepare": selinux_cred_prepare,
    "task_alloc": selinux_task_alloc,
    "task_setpgid": selinux_task_setpgid,
    "task_getpgid": selinux_task_getpgid,
    "task_getsid": selinux_task_getsid,
    "task_setnice": selinux_task_setnice,
    "task_setioprio": selinux_task_setioprio,
    "task_getioprio": selinux_task_getioprio,
    "task_prlimit": selinux_task_prlimit,
    "task_setrlimit": selinux_task_setrlimit,
    "task_setscheduler": selinux_task_setscheduler,
    "task_getscheduler": selinux_task_getscheduler,
    "task_kill": selinux_task_kill,
    "task_to_inode": selinux_task_to_inode,
    "getprocattr": selinux_getprocattr,
    "setprocattr": selinux_setprocattr,
}
