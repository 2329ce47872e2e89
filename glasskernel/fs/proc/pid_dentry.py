"""Inodes and dentries below /proc/PID: made at lookup, forgotten when the process is gone.

Linux: the first half of fs/proc/base.c (5.3). Same: names; owners by task_dump_owner(); hidepid.
Owns: every ProcInode. Invariant: a dentry whose task was reaped is not found again (pid_revalidate).
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.attr import setattr_copy, setattr_prepare
from glasskernel.fs.dcache import d_alloc_parallel, d_lookup, d_splice_alias, dput
from glasskernel.fs.inode import get_next_ino, new_inode
from glasskernel.fs.permission import generic_permission
from glasskernel.fs.proc.internal import (
    HIDEPID_INVISIBLE,
    HIDEPID_NO_ACCESS,
    ProcFsInfo,
    ProcInode,
    get_proc_task,
)
from glasskernel.fs.stat import generic_fillattr
from glasskernel.fs.types import ATTR_MODE, S_IFDIR, S_IFMT, DentryOperations
from glasskernel.kernel.current import current
from glasskernel.kernel.ptrace_access import PTRACE_MODE_READ_FSCREDS, ptrace_may_access
from glasskernel.kernel.task import PF_KTHREAD
from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.lib.errno import ENOENT, EPERM, ESRCH, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, DirContext, File, Iattr, Inode, Kstat, SuperBlock
    from glasskernel.kernel.task import TaskStruct

    Instantiate = Callable[[Dentry, TaskStruct, Any], Dentry | None]


def task_dump_owner(task: TaskStruct, mode: int) -> tuple[int, int]:
    """(uid, gid) of a file of the task: its effective ids; root's for what an undumpable process hides."""
    if task.flags & PF_KTHREAD:
        return 0, 0
    cred = task.real_cred
    if mode != S_IFDIR | 0o555:
        mm = task.mm
        if mm is None or mm.dumpable != 1:
            return 0, 0
    return cred.euid, cred.egid


def proc_pid_make_inode(sb: SuperBlock, task: TaskStruct, mode: int) -> Inode:
    """An inode for one file of a task. Errors: ENOENT if the task is gone."""
    if task.thread_pid is None:
        raise KernelError(ENOENT)
    inode = new_inode(sb)
    inode.i_mode = mode
    inode.i_ino = get_next_ino()
    inode.i_atime = inode.i_mtime = inode.i_ctime = ktime_get_real()
    inode.i_private = ProcInode(task.thread_pid)
    inode.i_uid, inode.i_gid = task_dump_owner(task, mode)
    if inode.i_security is not None:
        sb.kernel.lsm.security_task_to_inode(task, inode)
    return inode


def pid_update_inode(task: TaskStruct, inode: Inode) -> None:
    inode.i_uid, inode.i_gid = task_dump_owner(task, inode.i_mode)
    inode.i_mode &= ~0o6000
    if inode.i_security is not None:
        inode.i_sb.kernel.lsm.security_task_to_inode(task, inode)


def pid_revalidate(dentry: Dentry) -> bool:
    """False once the task was reaped."""
    inode = dentry.d_inode
    if inode is None:
        return False
    task = get_proc_task(inode)
    if task is None:
        return False
    pid_update_inode(task, inode)
    return True


def pid_delete_dentry(dentry: Dentry) -> bool:
    """True: of a dead task, do not keep it."""
    inode = dentry.d_inode
    return inode is None or get_proc_task(inode) is None


@notrace
def has_pid_permissions(sb: SuperBlock, task: TaskStruct, hide_pid_min: int) -> bool:
    """May the caller see the process, as far as the mount option hidepid goes?"""
    info: ProcFsInfo = sb.s_fs_info
    if info.hide_pid < hide_pid_min:
        return True
    cred = current().cred
    if info.pid_gid and (info.pid_gid == cred.egid or info.pid_gid in cred.groups):
        return True
    return ptrace_may_access(task, PTRACE_MODE_READ_FSCREDS)


def proc_pid_permission(inode: Inode, mask: int) -> None:
    """Errors: ESRCH, ENOENT (hidepid=2), EPERM (hidepid=1), EACCES."""
    task = get_proc_task(inode)
    if task is None:
        raise KernelError(ESRCH)
    if not has_pid_permissions(inode.i_sb, task, HIDEPID_NO_ACCESS):
        raise KernelError(ENOENT if inode.i_sb.s_fs_info.hide_pid == HIDEPID_INVISIBLE else EPERM)
    generic_permission(inode, mask)


def pid_getattr(dentry: Dentry, inode: Inode) -> Kstat:
    """Errors: ENOENT for a process that hidepid=2 hides."""
    task = get_proc_task(inode)
    if task is not None:
        if not has_pid_permissions(inode.i_sb, task, HIDEPID_INVISIBLE):
            raise KernelError(ENOENT)
        inode.i_uid, inode.i_gid = task_dump_owner(task, inode.i_mode)
    return generic_fillattr(inode)


def proc_setattr(dentry: Dentry, iattr: Iattr) -> None:
    """Errors: EPERM for chmod."""
    if iattr.ia_valid & ATTR_MODE:
        raise KernelError(EPERM)
    inode = dentry.d_inode
    assert inode is not None
    setattr_prepare(dentry, iattr)
    setattr_copy(inode, iattr)


def proc_fill_cache(file: File, ctx: DirContext, name: bytes, instantiate: Instantiate, task: TaskStruct,
                    ptr: Any) -> bool:
    """Emits one name of a directory of /proc/PID, with the inode that a lookup of it finds."""
    dir = file.f_path.dentry
    child = d_lookup(dir, name)
    if child is None:
        child = d_alloc_parallel(dir, name)
        try:
            alias = instantiate(child, task, ptr)
        except KernelError:
            dput(child)
            return True
        if alias is not None:
            dput(child)
            child = alias
    inode = child.d_inode
    ino, kind = (inode.i_ino, inode.i_mode >> 12) if inode is not None else (1, 0)
    dput(child)
    return ctx.emit(name, ino, kind)


@notrace
def instantiated(dentry: Dentry, inode: Inode, ops: DentryOperations) -> Dentry | None:
    """d_splice_alias_ops()"""
    dentry.d_op = ops
    return d_splice_alias(inode, dentry)


@notrace
def name_to_int(name: bytes) -> int | None:
    """A number without leading zeros, below 2^31 - 1."""
    if not name.isdigit() or (name[:1] == b"0" and len(name) > 1) or len(name) > 10:
        return None
    number = int(name)
    return number if number < 0x7FFFFFFF else None


@notrace
def file_kind(inode: Inode) -> int:
    return inode.i_mode & S_IFMT


pid_dentry_operations = DentryOperations(d_revalidate=pid_revalidate, d_delete=pid_delete_dentry)
