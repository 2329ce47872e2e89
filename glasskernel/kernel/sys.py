"""Who a process is: its numbers, ids, process group and session.

Linux: kernel/sys.c (5.3); uname, sysinfo and getrusage are in sys_info.py, prctl in sys_prctl.py. Same:
    errors and their order, what set*id does to the saved and the file-system id and to capabilities. Owns:
    nothing.
Context: task. Gaps: none known.
"""
from __future__ import annotations

from glasskernel.arch.x86.uaccess import put_user_u32
from glasskernel.kernel.capability import (
    CAP_SETGID,
    CAP_SETUID,
    LSM_SETID_FS,
    LSM_SETID_ID,
    LSM_SETID_RE,
    LSM_SETID_RES,
    cap_task_fix_setuid,
    capable,
)
from glasskernel.kernel.cred import commit_creds, prepare_creds, set_user_nproc_check
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import (
    PIDTYPE_PGID,
    PIDTYPE_SID,
    Pid,
    change_pid,
    find_task_by_vpid,
    find_vpid,
    pid_task,
    pid_vnr,
    task_pgrp_vnr,
    task_pid_vnr,
    task_session_vnr,
    task_tgid_vnr,
    thread_group_leader,
)
from glasskernel.kernel.sched.autogroup import sched_autogroup_create_attach
from glasskernel.kernel.task import PF_FORKNOEXEC, Cred, TaskStruct
from glasskernel.lib.errno import EACCES, EINVAL, EPERM, ESRCH, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, notrace, u32

INVALID_ID = 0xFFFF_FFFF


# ---- numbers -----------------------------------------------------------------------------------------------
@syscall
def sys_getpid() -> int:
    """getpid(2)"""
    task = current()
    return task.tgid if task.thread_pid.ns is None else task_tgid_vnr(task)


@syscall
def sys_gettid() -> int:
    """gettid(2)"""
    task = current()
    return task.pid if task.thread_pid.ns is None else task_pid_vnr(task)


@syscall
def sys_getppid() -> int:
    """getppid(2)"""
    task = current()
    return task.real_parent.tgid if task.thread_pid.ns is None else task_tgid_vnr(task.real_parent)


# ---- ids ---------------------------------------------------------------------------------------------------
@syscall
def sys_getuid() -> int:
    """getuid(2)"""
    return current().cred.uid


@syscall
def sys_geteuid() -> int:
    """geteuid(2)"""
    return current().cred.euid


@syscall
def sys_getgid() -> int:
    """getgid(2)"""
    return current().cred.gid


@syscall
def sys_getegid() -> int:
    """getegid(2)"""
    return current().cred.egid


@notrace
def _check_id(number: int) -> None:
    if number == INVALID_ID:
        raise KernelError(EINVAL)


@notrace
def _install_uids(new: Cred, old: Cred, how: int) -> int:
    """set_user() where the real uid changes, then the capabilities follow, then the credentials are
    installed.
    """
    if new.uid != old.uid:
        set_user_nproc_check(current(), new)
    cap_task_fix_setuid(new, old, how)
    commit_creds(new)
    return 0


def __sys_setuid(uid: int) -> int:
    _check_id(uid)
    new, old = prepare_creds(), current().cred
    if capable(CAP_SETUID):
        new.suid = new.uid = uid
    elif uid != old.uid and uid != new.suid:
        raise KernelError(EPERM)
    new.fsuid = new.euid = uid
    return _install_uids(new, old, LSM_SETID_ID)


@syscall
def sys_setuid(uid: u32) -> int:
    """setuid(2). Errors: EPERM, EINVAL."""
    return __sys_setuid(uid)


def __sys_setgid(gid: int) -> int:
    _check_id(gid)
    new, old = prepare_creds(), current().cred
    if capable(CAP_SETGID):
        new.gid = new.egid = new.sgid = new.fsgid = gid
    elif gid in (old.gid, old.sgid):
        new.egid = new.fsgid = gid
    else:
        raise KernelError(EPERM)
    commit_creds(new)
    return 0


@syscall
def sys_setgid(gid: u32) -> int:
    """setgid(2). Errors: EPERM, EINVAL."""
    return __sys_setgid(gid)


def __sys_setreuid(ruid: int, euid: int) -> int:
    new, old = prepare_creds(), current().cred
    if ruid != INVALID_ID:
        new.uid = ruid
        if ruid not in (old.uid, old.euid) and not capable(CAP_SETUID):
            raise KernelError(EPERM)
    if euid != INVALID_ID:
        new.euid = euid
        if euid not in (old.uid, old.euid, old.suid) and not capable(CAP_SETUID):
            raise KernelError(EPERM)
    if ruid != INVALID_ID or (euid != INVALID_ID and euid != old.uid):
        new.suid = new.euid
    new.fsuid = new.euid
    return _install_uids(new, old, LSM_SETID_RE)


@syscall
def sys_setreuid(ruid: u32, euid: u32) -> int:
    """setreuid(2). Errors: EPERM."""
    return __sys_setreuid(ruid, euid)


def __sys_setregid(rgid: int, egid: int) -> int:
    new, old = prepare_creds(), current().cred
    if rgid != INVALID_ID:
        if rgid not in (old.gid, old.egid) and not capable(CAP_SETGID):
            raise KernelError(EPERM)
        new.gid = rgid
    if egid != INVALID_ID:
        if egid not in (old.gid, old.egid, old.sgid) and not capable(CAP_SETGID):
            raise KernelError(EPERM)
        new.egid = egid
    if rgid != INVALID_ID or (egid != INVALID_ID and egid != old.gid):
        new.sgid = new.egid
    new.fsgid = new.egid
    commit_creds(new)
    return 0


@syscall
def sys_setregid(rgid: u32, egid: u32) -> int:
    """setregid(2). Errors: EPERM."""
    return __sys_setregid(rgid, egid)


def __sys_setresuid(ruid: int, euid: int, suid: int) -> int:
    new, old = prepare_creds(), current().cred
    if not capable(CAP_SETUID):
        mine = (old.uid, old.euid, old.suid, INVALID_ID)
        if ruid not in mine or euid not in mine or suid not in mine:
            raise KernelError(EPERM)
    if ruid != INVALID_ID:
        new.uid = ruid
    if euid != INVALID_ID:
        new.euid = euid
    if suid != INVALID_ID:
        new.suid = suid
    new.fsuid = new.euid
    return _install_uids(new, old, LSM_SETID_RES)


@syscall
def sys_setresuid(ruid: u32, euid: u32, suid: u32) -> int:
    """setresuid(2). Errors: EPERM."""
    return __sys_setresuid(ruid, euid, suid)


@syscall
def sys_getresuid(ruidp: UserPtr, euidp: UserPtr, suidp: UserPtr) -> int:
    """getresuid(2). Errors: EFAULT."""
    cred = current().cred
    put_user_u32(ruidp, cred.uid)
    put_user_u32(euidp, cred.euid)
    put_user_u32(suidp, cred.suid)
    return 0


def __sys_setresgid(rgid: int, egid: int, sgid: int) -> int:
    new, old = prepare_creds(), current().cred
    if not capable(CAP_SETGID):
        mine = (old.gid, old.egid, old.sgid, INVALID_ID)
        if rgid not in mine or egid not in mine or sgid not in mine:
            raise KernelError(EPERM)
    if rgid != INVALID_ID:
        new.gid = rgid
    if egid != INVALID_ID:
        new.egid = egid
    if sgid != INVALID_ID:
        new.sgid = sgid
    new.fsgid = new.egid
    commit_creds(new)
    return 0


@syscall
def sys_setresgid(rgid: u32, egid: u32, sgid: u32) -> int:
    """setresgid(2). Errors: EPERM."""
    return __sys_setresgid(rgid, egid, sgid)


@syscall
def sys_getresgid(rgidp: UserPtr, egidp: UserPtr, sgidp: UserPtr) -> int:
    """getresgid(2). Errors: EFAULT."""
    cred = current().cred
    put_user_u32(rgidp, cred.gid)
    put_user_u32(egidp, cred.egid)
    put_user_u32(sgidp, cred.sgid)
    return 0


def __sys_setfsuid(uid: int) -> int:
    old = current().cred
    if (
        uid != INVALID_ID
        and uid != old.fsuid
        and (uid in (old.uid, old.euid, old.suid) or capable(CAP_SETUID))
    ):
        new = prepare_creds()
        new.fsuid = uid
        cap_task_fix_setuid(new, old, LSM_SETID_FS)
        commit_creds(new)
    return old.fsuid


@syscall
def sys_setfsuid(uid: u32) -> int:
    """setfsuid(2): answers the old one, whatever happens."""
    return __sys_setfsuid(uid)


def __sys_setfsgid(gid: int) -> int:
    old = current().cred
    if (
        gid != INVALID_ID
        and gid != old.fsgid
        and (gid in (old.gid, old.egid, old.sgid) or capable(CAP_SETGID))
    ):
        new = prepare_creds()
        new.fsgid = gid
        commit_creds(new)
    return old.fsgid


@syscall
def sys_setfsgid(gid: u32) -> int:
    """setfsgid(2): answers the old one, whatever happens."""
    return __sys_setfsgid(gid)


# ---- process groups and sessions ---------------------------------------------------------------------------
@syscall
def sys_setpgid(pid: int, pgid: int) -> int:
    """setpgid(2): moves oneself, or a child that has not called exec, to a group of the session.

    Errors: EINVAL, ESRCH, EPERM, EACCES.
    """
    leader = current().group_leader
    if not pid:
        pid = task_pid_vnr(leader)
    if not pgid:
        pgid = pid
    if pgid < 0:
        raise KernelError(EINVAL)
    p = find_task_by_vpid(pid)
    if p is None:
        raise KernelError(ESRCH)
    if not thread_group_leader(p):
        raise KernelError(EINVAL)
    if p.real_parent.signal is leader.signal:
        if p.signal.session is not leader.signal.session:
            raise KernelError(EPERM)
        if not p.flags & PF_FORKNOEXEC:
            raise KernelError(EACCES)
    elif p is not leader:
        raise KernelError(ESRCH)
    if p.signal.leader:
        raise KernelError(EPERM)
    pgrp: Pid | None = p.thread_pid
    if pgid != pid:
        pgrp = find_vpid(pgid)
        g = pid_task(pgrp, PIDTYPE_PGID)
        if g is None or g.signal.session is not leader.signal.session:
            raise KernelError(EPERM)
    if p.kernel.lsm is not None:
        p.kernel.lsm.security_task_setpgid(p)
    if p.signal.pgrp is not pgrp:
        assert pgrp is not None
        change_pid(p, PIDTYPE_PGID, pgrp)
    return 0


def do_getpgid(pid: int) -> int:
    if not pid:
        return task_pgrp_vnr(current())
    p = find_task_by_vpid(pid)
    if p is None or p.signal.pgrp is None:
        raise KernelError(ESRCH)
    if p.kernel.lsm is not None:
        p.kernel.lsm.security_task_getpgid(p)
    return pid_vnr(p.signal.pgrp)


@syscall
def sys_getpgid(pid: int) -> int:
    """getpgid(2). Errors: ESRCH."""
    return do_getpgid(pid)


@syscall
def sys_getpgrp() -> int:
    """getpgrp(2)"""
    return do_getpgid(0)


@syscall
def sys_getsid(pid: int) -> int:
    """getsid(2). Errors: ESRCH."""
    p: TaskStruct | None = current() if not pid else find_task_by_vpid(pid)
    if p is None or (pid and p.signal.session is None):
        raise KernelError(ESRCH)
    if pid and p.kernel.lsm is not None:
        p.kernel.lsm.security_task_getsid(p)
    return task_session_vnr(p)


@notrace
def set_special_pids(leader: TaskStruct, pid: Pid) -> None:
    if leader.signal.session is not pid:
        change_pid(leader, PIDTYPE_SID, pid)
    if leader.signal.pgrp is not pid:
        change_pid(leader, PIDTYPE_PGID, pid)


def ksys_setsid() -> int:
    """Makes the current process the leader of a new session and group, without a terminal. Raises EPERM."""
    leader = current().group_leader
    sid = leader.thread_pid
    if leader.signal.leader or pid_task(sid, PIDTYPE_PGID) is not None:
        raise KernelError(EPERM)
    leader.signal.leader = True
    set_special_pids(leader, sid)
    leader.signal.tty = None                     # proc_clear_tty()
    sched_autogroup_create_attach(leader)
    return pid_vnr(sid)


@syscall
def sys_setsid() -> int:
    """setsid(2). Errors: EPERM."""
    return ksys_setsid()
