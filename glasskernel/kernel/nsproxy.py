"""The namespaces of a task.

Linux: kernel/nsproxy.c, include/linux/nsproxy.h, kernel/utsname.c (5.3). Same: shared until a task unshares.
The data types are in fs/types.py, because the boot task's are made with the root file system.
Gaps: IPC, cgroup, time and user namespaces (EINVAL).
Owns: Nsproxy.count. Invariant: a task's nsproxy is immutable except for its count: changes make a new one.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.file_table import fput
from glasskernel.fs.namespace import copy_mnt_ns, put_mnt_ns
from glasskernel.fs.proc_ns import netns_operations
from glasskernel.fs.types import MntNamespace, Nsproxy, UtsNamespace
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import put_pid_ns
from glasskernel.lib.errno import EINVAL, EPERM, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.kernel.task import FsStruct, TaskStruct

__all__ = ["MntNamespace", "Nsproxy", "UserNamespace", "UtsNamespace", "copy_namespaces", "exit_task_namespaces",
           "switch_task_namespaces", "unshare_nsproxy_namespaces"]

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_FS = 0x10000000, 0x20000000, 0x40000000, 0x00000200
CLONE_NEWTIME = 0x00000080
_KNOWN = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWPID
_ALL = (CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWCGROUP)


@slotted
class UserNamespace:
    """struct user_namespace: the initial one maps every id to itself."""

    level: int = 0
    owner: int = 0
    inum: int = 4026531837


def copy_utsname(clone: bool, old: UtsNamespace) -> UtsNamespace:
    """The UTS namespace of a new task: shared or (CLONE_NEWUTS) a copy."""
    if not clone:
        old.count += 1
        return old
    vfs = current().kernel.vfs
    vfs.last_ns_inum += 1
    return UtsNamespace(old.sysname, old.nodename, old.release, old.version, old.machine, old.domainname,
                        vfs.last_ns_inum)


@may_sleep
def create_new_namespaces(flags: int, old: Nsproxy, new_fs: FsStruct | None) -> Nsproxy:
    """A new nsproxy with the namespaces of `flags` copied. Raises EINVAL for kinds there are not."""
    if flags & _ALL & ~_KNOWN:
        raise KernelError(EINVAL)
    mnt_ns = copy_mnt_ns(bool(flags & CLONE_NEWNS), old.mnt_ns, new_fs)
    new = Nsproxy(copy_utsname(bool(flags & CLONE_NEWUTS), old.uts_ns), mnt_ns)
    if flags & CLONE_NEWPID:
        from glasskernel.kernel.pid_namespace import copy_pid_ns  # late: start-up time

        try:
            new.pid_ns = copy_pid_ns(old.pid_ns)
        except KernelError:
            free_nsproxy(new)
            raise
    elif old.pid_ns is not None:
        new.pid_ns = old.pid_ns
        new.pid_ns.count += 1
    if flags & CLONE_NEWNET or old.net_ns is not None:
        from glasskernel.net.core.net_namespace import copy_net_ns  # late: start-up time

        try:
            new.net_ns = copy_net_ns(flags, old.net_ns, current().kernel)
        except KernelError:
            free_nsproxy(new)
            raise
    return new


@may_sleep
def copy_namespaces(flags: int, task: TaskStruct) -> None:
    """fork: task.nsproxy is the parent's; shared, or new ones after CLONE_NEW*. Raises EPERM, EINVAL."""
    old = task.nsproxy
    if not flags & _ALL:
        old.count += 1
        return
    if flags & CLONE_NEWUSER:
        raise KernelError(EINVAL)
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    task.nsproxy = create_new_namespaces(flags, old, task.fs)


@may_sleep
def unshare_nsproxy_namespaces(flags: int) -> None:
    """unshare(2): the caller gets new namespaces. Its fs_struct is its own already. Raises EPERM, EINVAL."""
    if not flags & _ALL:
        return
    if flags & CLONE_NEWUSER:
        raise KernelError(EINVAL)
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    task = current()
    switch_task_namespaces(task, create_new_namespaces(flags, task.nsproxy, task.fs))


@may_sleep
def switch_task_namespaces(task: TaskStruct, new: Nsproxy | None) -> None:
    """Installs another nsproxy (its reference is the task's) and drops the old one."""
    old = task.nsproxy
    task.nsproxy = new  # type: ignore[assignment]
    if old is not None:
        put_nsproxy(old)


@notrace
def put_nsproxy(ns: Nsproxy) -> None:
    """Drops a user; the last one frees the namespaces."""
    ns.count -= 1
    if not ns.count:
        free_nsproxy(ns)


@may_sleep
def free_nsproxy(ns: Nsproxy) -> None:
    """Drops the namespaces of an nsproxy without users."""
    put_mnt_ns(ns.mnt_ns)
    ns.uts_ns.count -= 1
    put_pid_ns(ns.pid_ns)
    if ns.net_ns is not None:
        netns_operations.put(ns.net_ns)


@may_sleep
def exit_task_namespaces(task: TaskStruct) -> None:
    """exit(2): the task gives its namespaces up."""
    if task.nsproxy is not None:
        switch_task_namespaces(task, None)


@syscall
def sys_setns(fd: int, nstype: int) -> int:
    """setns(2). Errors: EBADF, EINVAL, EPERM."""
    from glasskernel.fs.nsfs import proc_ns_fget  # late: start-up time

    file = proc_ns_fget(fd)
    try:
        common = file.f_inode.i_private
        if nstype and nstype != common.ops.type:
            raise KernelError(EINVAL)
        task = current()
        new = create_new_namespaces(0, task.nsproxy, task.fs)
        try:
            common.ops.install(new, common.ns)
        except KernelError:
            free_nsproxy(new)
            raise
        switch_task_namespaces(task, new)
    finally:
        fput(file)
    return 0
