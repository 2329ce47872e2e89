"""The kinds of namespaces: how /proc/PID/ns finds a task's, and what setns(2) does with one.

Linux: include/linux/proc_ns.h, fs/proc_ns.h; the operations of fs/namespace.c, kernel/utsname.c, ipc/namespace.c,
    kernel/pid_namespace.c, kernel/user_namespace.c, kernel/cgroup/namespace.c (5.3). Same: who may enter what, and the
    errors. Differs: where there is only the initial namespace, it is no object: None.
Owns: nothing. Context: task.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.fs_struct import set_fs_pwd, set_fs_root
from glasskernel.fs.mount import path_put
from glasskernel.fs.namespace import PROC_MNT_INIT_INO, put_mnt_ns
from glasskernel.fs.path_walk import LOOKUP_FOLLOW, follow_down, vfs_path_lookup
from glasskernel.kernel.capability import CAP_SYS_ADMIN, CAP_SYS_CHROOT, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import put_pid_ns
from glasskernel.lib.errno import EINVAL, ENOENT, EPERM, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import MntNamespace, Nsproxy, UtsNamespace
    from glasskernel.kernel.task import TaskStruct

PROC_UTS_INIT_INO, PROC_IPC_INIT_INO, PROC_USER_INIT_INO = 4026531838, 4026531839, 4026531837
PROC_PID_INIT_INO, PROC_CGROUP_INIT_INO = 4026531836, 4026531835
INIT_NET_INUM = 4026531992


@notrace
def no_parent(_ns: Any) -> Any:
    raise KernelError(EINVAL)


@slotted(frozen=True)
class ProcNsOperations:
    """struct proc_ns_operations. type: CLONE_NEW*. inum: of the initial one.

    get(task): its namespace, without a reference. Raises ENOENT for a task that has none any more. put(ns): drops a
    reference. install(nsproxy, ns): into an nsproxy that is being made. Raises EPERM, EINVAL. get_parent(ns): raises
    EPERM; EINVAL where namespaces are not in one another.
    """

    name: bytes
    type: int
    inum: int
    get: Callable[[TaskStruct], Any]
    put: Callable[[Any], None]
    install: Callable[[Nsproxy, Any], None]
    get_parent: Callable[[Any], Any] = no_parent


@notrace
def ns_inum(ops: ProcNsOperations, ns: Any) -> int:
    return ops.inum if ns is None else int(ns.inum)


@notrace
def _nsproxy(task: TaskStruct) -> Nsproxy:
    if task.nsproxy is None:
        raise KernelError(ENOENT)
    return task.nsproxy


@notrace
def _nothing_to_put(_ns: Any) -> None:
    raise AssertionError("the initial namespace has no references")


# ---- mount namespaces --------------------------------------------------------------------------------------------
def mntns_get(task: TaskStruct) -> MntNamespace:
    return _nsproxy(task).mnt_ns


@may_sleep
def mntns_install(nsproxy: Nsproxy, ns: MntNamespace) -> None:
    """The caller's root and working directory become the top of the tree."""
    fs = current().fs
    if not capable(CAP_SYS_ADMIN) or not capable(CAP_SYS_CHROOT):
        raise KernelError(EPERM)
    if fs.users != 1:
        raise KernelError(EINVAL)
    ns.count += 1
    put_mnt_ns(nsproxy.mnt_ns)
    nsproxy.mnt_ns = ns
    root = vfs_path_lookup(ns.root.mnt_root, ns.root, b"/", LOOKUP_FOLLOW)
    follow_down(root)                             # LOOKUP_DOWN
    set_fs_pwd(fs, root)
    set_fs_root(fs, root)
    path_put(root)


# ---- UTS namespaces ----------------------------------------------------------------------------------------------
def utsns_get(task: TaskStruct) -> UtsNamespace:
    return _nsproxy(task).uts_ns


@notrace
def put_uts_ns(ns: UtsNamespace) -> None:
    ns.count -= 1


def utsns_install(nsproxy: Nsproxy, ns: UtsNamespace) -> None:
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    ns.count += 1
    put_uts_ns(nsproxy.uts_ns)
    nsproxy.uts_ns = ns


# ---- network namespaces ------------------------------------------------------------------------------------------
def netns_get(task: TaskStruct) -> Any:
    """A net.types.Net; None: the initial one, which may not be there yet."""
    return _nsproxy(task).net_ns


def netns_put(ns: Any) -> None:
    """The last reference ends it (put_net())."""
    ns.count -= 1
    if not ns.count:
        ns.kernel.net.cleanup_net(ns)


def netns_install(nsproxy: Nsproxy, ns: Any) -> None:
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    if ns is not None:
        ns.count += 1
    if nsproxy.net_ns is not None:
        netns_put(nsproxy.net_ns)
    nsproxy.net_ns = ns


# ---- PID namespaces ----------------------------------------------------------------------------------------------
def pidns_get(task: TaskStruct) -> Any:
    """A PidNamespace; None: the initial one."""
    return task.thread_pid.ns


def pidns_for_children_get(task: TaskStruct) -> Any:
    """Raises ENOENT, too, before it has an init."""
    ns = _nsproxy(task).pid_ns
    if ns is not None and ns.child_reaper is None:
        raise KernelError(ENOENT)
    return ns


@notrace
def _is_inside(ns: Any, active: Any) -> bool:
    """True if ns is `active`, or one in it."""
    while ns is not active and ns is not None:
        ns = ns.parent
    return ns is active


def pidns_install(nsproxy: Nsproxy, ns: Any) -> None:
    """For the caller's children, from now on: the one that it is in, or one inside."""
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    if not _is_inside(ns, current().thread_pid.ns):
        raise KernelError(EINVAL)
    if ns is not None:
        ns.count += 1
    put_pid_ns(nsproxy.pid_ns)
    nsproxy.pid_ns = ns


def pidns_get_parent(ns: Any) -> Any:
    """Raises EPERM if there is none that the caller is in, or has inside its own."""
    if ns is None or not _is_inside(ns.parent, current().thread_pid.ns):
        raise KernelError(EPERM)
    return ns.parent


# ---- those that are only one -------------------------------------------------------------------------------------
@notrace
def _of_nsproxy(task: TaskStruct) -> None:
    _nsproxy(task)


@notrace
def _of_task(_task: TaskStruct) -> None:
    return None


@notrace
def _enter(_nsproxy: Nsproxy, _ns: None) -> None:
    """One is in it already, and may say so."""
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)


def userns_install(_nsproxy: Nsproxy, _ns: None) -> None:
    """Nobody gains capabilities by entering the one that he is in."""
    raise KernelError(EINVAL)


def userns_get_parent(_ns: None) -> Any:
    raise KernelError(EPERM)


mntns_operations = ProcNsOperations(b"mnt", 0x00020000, PROC_MNT_INIT_INO, mntns_get, put_mnt_ns, mntns_install)
utsns_operations = ProcNsOperations(b"uts", 0x04000000, PROC_UTS_INIT_INO, utsns_get, put_uts_ns, utsns_install)
cgroupns_operations = ProcNsOperations(b"cgroup", 0x02000000, PROC_CGROUP_INIT_INO, _of_nsproxy, _nothing_to_put,
                                       _enter)
ipcns_operations = ProcNsOperations(b"ipc", 0x08000000, PROC_IPC_INIT_INO, _of_nsproxy, _nothing_to_put, _enter)
netns_operations = ProcNsOperations(b"net", 0x40000000, INIT_NET_INUM, netns_get, netns_put, netns_install)
pidns_operations = ProcNsOperations(b"pid", 0x20000000, PROC_PID_INIT_INO, pidns_get, put_pid_ns, pidns_install,
                                    pidns_get_parent)
pidns_for_children_operations = ProcNsOperations(b"pid", 0x20000000, PROC_PID_INIT_INO, pidns_for_children_get,
                                                 put_pid_ns, pidns_install, pidns_get_parent)
userns_operations = ProcNsOperations(b"user", 0x10000000, PROC_USER_INIT_INO, _of_task, _nothing_to_put,
                                     userns_install, get_parent=userns_get_parent)
