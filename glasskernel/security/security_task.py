"""What programs, tasks, System V objects and keys are asked about.

Linux: the credential, task, IPC and key part of security/security.c (5.3). Same: which hook is called where. Differs:
    an objection is raised; the capability module's answer is taken before, by the callers in kernel/capability.py.
Owns: nothing. Context: task; what the call site holds.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.security.security_fs import heads

if TYPE_CHECKING:
    from glasskernel.fs.exec import LinuxBinprm
    from glasskernel.fs.types import Inode
    from glasskernel.ipc.msg import MsgMsg
    from glasskernel.ipc.util import KernIpcPerm
    from glasskernel.kernel.task import Cred, TaskStruct
    from glasskernel.security.keys.types import Key


def security_ptrace_access_check(child: TaskStruct, mode: int) -> None:
    """PTRACE_MODE_* of a task. Raises EACCES, as the next ones."""
    for hook in heads().ptrace_access_check:
        hook(child, mode)


def security_ptrace_traceme(parent: TaskStruct) -> None:
    for hook in heads().ptrace_traceme:
        hook(parent)


def security_capget(target: TaskStruct) -> None:
    for hook in heads().capget:
        hook(target)


def security_capset(new: Cred, old: Cred) -> None:
    for hook in heads().capset:
        hook(new, old)


def security_capable(cred: Cred, cap: int, audit: bool = True) -> bool:
    """The modules' say about a capability that `cred` has. Context: any."""
    return all(hook(cred, cap, audit) for hook in heads().capable)


def security_syslog(type: int) -> None:
    """syslog(2) and /dev/kmsg: SYSLOG_ACTION_*."""
    for hook in heads().syslog:
        hook(type)


def security_vm_enough_memory_mm() -> bool:
    """True if the caller may use the memory that is kept for administrators."""
    return all(hook() for hook in heads().vm_enough_memory)


def security_bprm_set_creds(bprm: LinuxBinprm) -> None:
    """execve(2): the new program's label. Raises EACCES, EPERM."""
    for hook in heads().bprm_set_creds:
        hook(bprm)


def security_bprm_committing_creds(bprm: LinuxBinprm) -> None:
    """The label is about to be the task's: what it may not keep goes."""
    for hook in heads().bprm_committing_creds:
        hook(bprm)


def security_bprm_committed_creds(bprm: LinuxBinprm) -> None:
    """The label is the task's: signals and timers of the old one go."""
    for hook in heads().bprm_committed_creds:
        hook(bprm)


def security_prepare_creds(new: Cred, old: Cred) -> None:
    """A copy of credentials is made."""
    for hook in heads().cred_prepare:
        hook(new, old)


def security_task_alloc(task: TaskStruct) -> None:
    """fork(2)."""
    for hook in heads().task_alloc:
        hook(task)


def security_task_setpgid(task: TaskStruct) -> None:
    for hook in heads().task_setpgid:
        hook(task)


def security_task_getpgid(task: TaskStruct) -> None:
    for hook in heads().task_getpgid:
        hook(task)


def security_task_getsid(task: TaskStruct) -> None:
    for hook in heads().task_getsid:
        hook(task)


def security_task_setnice(task: TaskStruct) -> None:
    for hook in heads().task_setnice:
        hook(task)


def security_task_setioprio(task: TaskStruct) -> None:
    for hook in heads().task_setioprio:
        hook(task)


def security_task_getioprio(task: TaskStruct) -> None:
    for hook in heads().task_getioprio:
        hook(task)


def security_task_prlimit(cred: Cred, tcred: Cred, flags: int) -> None:
    for hook in heads().task_prlimit:
        hook(cred, tcred, flags)


def security_task_setrlimit(task: TaskStruct, resource: int, new: tuple[int, int]) -> None:
    for hook in heads().task_setrlimit:
        hook(task, resource, new)


def security_task_setscheduler(task: TaskStruct) -> None:
    for hook in heads().task_setscheduler:
        hook(task)


def security_task_getscheduler(task: TaskStruct) -> None:
    for hook in heads().task_getscheduler:
        hook(task)


def security_task_kill(task: TaskStruct, sig: int) -> None:
    for hook in heads().task_kill:
        hook(task, sig)


def security_task_to_inode(task: TaskStruct, inode: Inode) -> None:
    """A file of /proc/PID has the label of its task."""
    for hook in heads().task_to_inode:
        hook(task, inode)


def security_getprocattr(task: TaskStruct, name: bytes) -> bytes:
    """/proc/PID/attr/NAME. Raises EINVAL."""
    for hook in heads().getprocattr:
        value: bytes = hook(task, name)
        return value
    raise KernelError(EINVAL)


def security_setprocattr(name: bytes, value: bytes) -> None:
    """A write to it. Raises EINVAL, EACCES, EPERM."""
    for hook in heads().setprocattr:
        hook(name, value)


# ---- System V IPC ------------------------------------------------------------------------------------------
def security_ipc_permission(perm: KernIpcPerm, flag: int) -> None:
    for hook in heads().ipc_permission:
        hook(perm, flag)


def security_msg_msg_alloc(msg: MsgMsg) -> None:
    for hook in heads().msg_msg_alloc_security:
        hook(msg)


def security_msg_queue_alloc(perm: KernIpcPerm) -> None:
    for hook in heads().msg_queue_alloc_security:
        hook(perm)


def security_msg_queue_associate(perm: KernIpcPerm, flag: int) -> None:
    for hook in heads().msg_queue_associate:
        hook(perm, flag)


def security_msg_queue_msgctl(perm: KernIpcPerm | None, cmd: int) -> None:
    for hook in heads().msg_queue_msgctl:
        hook(perm, cmd)


def security_msg_queue_msgsnd(perm: KernIpcPerm, msg: MsgMsg) -> None:
    for hook in heads().msg_queue_msgsnd:
        hook(perm, msg)


def security_msg_queue_msgrcv(perm: KernIpcPerm, msg: MsgMsg, task: TaskStruct) -> None:
    for hook in heads().msg_queue_msgrcv:
        hook(perm, msg, task)


def security_shm_alloc(perm: KernIpcPerm) -> None:
    for hook in heads().shm_alloc_security:
        hook(perm)


def security_shm_associate(perm: KernIpcPerm, flag: int) -> None:
    for hook in heads().shm_associate:
        hook(perm, flag)


def security_shm_shmctl(perm: KernIpcPerm | None, cmd: int) -> None:
    for hook in heads().shm_shmctl:
        hook(perm, cmd)


def security_shm_shmat(perm: KernIpcPerm, flag: int) -> None:
    for hook in heads().shm_shmat:
        hook(perm, flag)


def security_sem_alloc(perm: KernIpcPerm) -> None:
    for hook in heads().sem_alloc_security:
        hook(perm)


def security_sem_associate(perm: KernIpcPerm, flag: int) -> None:
    for hook in heads().sem_associate:
        hook(perm, flag)


def security_sem_semctl(perm: KernIpcPerm | None, cmd: int) -> None:
    for hook in heads().sem_semctl:
        hook(perm, cmd)


def security_sem_semop(perm: KernIpcPerm, alter: bool) -> None:
    for hook in heads().sem_semop:
        hook(perm, alter)


# ---- keys --------------------------------------------------------------------------------------------------
def security_key_alloc(key: Key, cred: Cred) -> None:
    for hook in heads().key_alloc:
        hook(key, cred)


def security_key_permission(key: Key, cred: Cred, need: int) -> None:
    for hook in heads().key_permission:
        hook(key, cred, need)


def security_key_getsecurity(key: Key) -> bytes:
    """A key's label, as keyctl(KEYCTL_GET_SECURITY) shows it."""
    return b"".join(hook(key) for hook in heads().key_getsecurity)
