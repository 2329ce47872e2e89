"""SELinux's say about System V objects, messages and keys.

Linux: the IPC and key part of security/selinux/hooks.c (5.3). Same: permissions of each call, labels of messages.
Owns: IpcSecurityStruct, MsgSecurityStruct, KeySecurityStruct. Context: task.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.ipc.msg import MSG_STAT, MSG_STAT_ANY
from glasskernel.ipc.sem import (
    GETALL,
    GETNCNT,
    GETPID,
    GETVAL,
    GETZCNT,
    SEM_STAT,
    SEM_STAT_ANY,
    SETALL,
    SETVAL,
)
from glasskernel.ipc.shm import SHM_LOCK, SHM_RDONLY, SHM_STAT, SHM_STAT_ANY, SHM_UNLOCK
from glasskernel.ipc.util import IPC_RMID, IPC_SET, IPC_STAT, S_IRUGO, S_IWUGO
from glasskernel.lib.types import notrace
from glasskernel.security.lsm_audit import LSM_AUDIT_DATA_IPC, CommonAuditData
from glasskernel.security.selinux.av_permissions import (
    IPC__ASSOCIATE,
    IPC__CREATE,
    IPC__DESTROY,
    IPC__GETATTR,
    IPC__READ,
    IPC__SETATTR,
    IPC__UNIX_READ,
    IPC__UNIX_WRITE,
    IPC__WRITE,
    MSG__RECEIVE,
    MSG__SEND,
    MSGQ__ENQUEUE,
    SHM__LOCK,
    SYSTEM__IPC_INFO,
)
from glasskernel.security.selinux.avc import avc_has_perm
from glasskernel.security.selinux.flask import (
    SECCLASS_KEY,
    SECCLASS_MSG,
    SECCLASS_MSGQ,
    SECCLASS_SEM,
    SECCLASS_SHM,
    SECCLASS_SYSTEM,
    SECINITSID_KERNEL,
    SECINITSID_UNLABELED,
)
from glasskernel.security.selinux.objsec import (
    IpcSecurityStruct,
    KeySecurityStruct,
    MsgSecurityStruct,
    cred_sid,
    current_sid,
    selinux_cred,
    selinux_ipc,
    selinux_state,
    task_sid,
)
from glasskernel.security.selinux.ss.services import security_sid_to_context, security_transition_sid

if TYPE_CHECKING:
    from glasskernel.ipc.msg import MsgMsg
    from glasskernel.ipc.util import KernIpcPerm
    from glasskernel.kernel.task import Cred, TaskStruct
    from glasskernel.security.keys.types import Key

# What *ctl() asks for; the permissions of the three classes have the same bits.
_STAT = IPC__GETATTR | IPC__ASSOCIATE
_COMMON = {IPC_STAT: _STAT, IPC_SET: IPC__SETATTR, IPC_RMID: IPC__DESTROY}
_MSGCTL = _COMMON | {MSG_STAT: _STAT, MSG_STAT_ANY: _STAT}
_SHMCTL = _COMMON | {SHM_STAT: _STAT, SHM_STAT_ANY: _STAT, SHM_LOCK: SHM__LOCK, SHM_UNLOCK: SHM__LOCK}
_SEMCTL = _COMMON | {
    SEM_STAT: _STAT, SEM_STAT_ANY: _STAT, GETPID: IPC__GETATTR, GETNCNT: IPC__GETATTR, GETZCNT: IPC__GETATTR,
    GETVAL: IPC__READ, GETALL: IPC__READ, SETVAL: IPC__WRITE, SETALL: IPC__WRITE}


def ipc_init_security(perm: KernIpcPerm, sclass: int) -> None:
    """A new object has its maker's label."""
    perm.security = IpcSecurityStruct(sclass, current_sid())


def ipc_has_perm(perm: KernIpcPerm, perms: int) -> None:
    """May the caller do this to an object? Raises EACCES."""
    isec = selinux_ipc(perm)
    avc_has_perm(selinux_state(), current_sid(), isec.sid, isec.sclass, perms,
                 CommonAuditData(LSM_AUDIT_DATA_IPC, perm.key))


@notrace
def ipc_control(perm: KernIpcPerm | None, permissions: dict[int, int], cmd: int) -> None:
    """The check of *ctl(). perm None: the command asks about the whole system."""
    if perm is None:
        avc_has_perm(selinux_state(), current_sid(), SECINITSID_KERNEL, SECCLASS_SYSTEM, SYSTEM__IPC_INFO)
    elif cmd in permissions:
        ipc_has_perm(perm, permissions[cmd])


def selinux_ipc_permission(perm: KernIpcPerm, flag: int) -> None:
    av = (IPC__UNIX_READ if flag & S_IRUGO else 0) | (IPC__UNIX_WRITE if flag & S_IWUGO else 0)
    if av:
        ipc_has_perm(perm, av)


# ---- message queues ----------------------------------------------------------------------------------------------
def selinux_msg_msg_alloc_security(msg: MsgMsg) -> None:
    msg.security = MsgSecurityStruct()


def selinux_msg_queue_alloc_security(perm: KernIpcPerm) -> None:
    ipc_init_security(perm, SECCLASS_MSGQ)
    ipc_has_perm(perm, IPC__CREATE)


def selinux_msg_queue_associate(perm: KernIpcPerm, _flag: int) -> None:
    ipc_has_perm(perm, IPC__ASSOCIATE)


def selinux_msg_queue_msgctl(perm: KernIpcPerm | None, cmd: int) -> None:
    ipc_control(perm, _MSGCTL, cmd)


def selinux_msg_queue_msgsnd(perm: KernIpcPerm, msg: MsgMsg) -> None:
    """The message gets its label; may the caller write to the queue, send this, and may this be in the queue?"""
    state = selinux_state()
    sid = current_sid()
    isec, msec = selinux_ipc(perm), msg.security
    if msec.sid == SECINITSID_UNLABELED:
        msec.sid = security_transition_sid(state, sid, isec.sid, SECCLASS_MSG, None)
    ad = CommonAuditData(LSM_AUDIT_DATA_IPC, perm.key)
    avc_has_perm(state, sid, isec.sid, SECCLASS_MSGQ, IPC__WRITE, ad)
    avc_has_perm(state, sid, msec.sid, SECCLASS_MSG, MSG__SEND, ad)
    avc_has_perm(state, msec.sid, isec.sid, SECCLASS_MSGQ, MSGQ__ENQUEUE, ad)


def selinux_msg_queue_msgrcv(perm: KernIpcPerm, msg: MsgMsg, target: TaskStruct) -> None:
    """May `target`, who sleeps or is the caller, have it?"""
    state = selinux_state()
    sid = task_sid(target)
    ad = CommonAuditData(LSM_AUDIT_DATA_IPC, perm.key)
    avc_has_perm(state, sid, selinux_ipc(perm).sid, SECCLASS_MSGQ, IPC__READ, ad)
    avc_has_perm(state, sid, msg.security.sid, SECCLASS_MSG, MSG__RECEIVE, ad)


# ---- shared memory and semaphores ----------------------------------------------------------------------------------
def selinux_shm_alloc_security(perm: KernIpcPerm) -> None:
    ipc_init_security(perm, SECCLASS_SHM)
    ipc_has_perm(perm, IPC__CREATE)


def selinux_shm_associate(perm: KernIpcPerm, _flag: int) -> None:
    ipc_has_perm(perm, IPC__ASSOCIATE)


def selinux_shm_shmctl(perm: KernIpcPerm | None, cmd: int) -> None:
    ipc_control(perm, _SHMCTL, cmd)


def selinux_shm_shmat(perm: KernIpcPerm, flag: int) -> None:
    ipc_has_perm(perm, IPC__READ if flag & SHM_RDONLY else IPC__READ | IPC__WRITE)


def selinux_sem_alloc_security(perm: KernIpcPerm) -> None:
    ipc_init_security(perm, SECCLASS_SEM)
    ipc_has_perm(perm, IPC__CREATE)


def selinux_sem_associate(perm: KernIpcPerm, _flag: int) -> None:
    ipc_has_perm(perm, IPC__ASSOCIATE)


def selinux_sem_semctl(perm: KernIpcPerm | None, cmd: int) -> None:
    ipc_control(perm, _SEMCTL, cmd)


def selinux_sem_semop(perm: KernIpcPerm, alter: bool) -> None:
    ipc_has_perm(perm, IPC__READ | IPC__WRITE if alter else IPC__READ)


# ---- keys ------------------------------------------------------------------------------------------------------
def selinux_key_alloc(key: Key, cred: Cred) -> None:
    tsec = selinux_cred(cred)
    key.security = KeySecurityStruct(tsec.keycreate_sid or tsec.sid)


def selinux_key_permission(key: Key, cred: Cred, need: int) -> None:
    """need: KEY_NEED_*, whose bits are those of the permissions."""
    if need:
        avc_has_perm(selinux_state(), cred_sid(cred), key.security.sid, SECCLASS_KEY, need)


def selinux_key_getsecurity(key: Key) -> bytes:
    return security_sid_to_context(selinux_state(), key.security.sid) + b"\0"


IPC_HOOKS: dict[str, Callable[..., Any]] = {
    "ipc_permission": selinux_ipc_permission,
    "msg_msg_alloc_security": selinux_msg_msg_alloc_security,
    "msg_queue_alloc_security": selinux_msg_queue_alloc_security,
    "msg_queue_associate": selinux_msg_queue_associate,
    "msg_queue_msgctl": selinux_msg_queue_msgctl,
    "msg_queue_msgsnd": selinux_msg_queue_msgsnd,
    "msg_queue_msgrcv": selinux_msg_queue_msgrcv,
    "shm_alloc_security": selinux_shm_alloc_security,
    "shm_associate": selinux_shm_associate,
    "shm_shmctl": selinux_shm_shmctl,
    "shm_shmat": selinux_shm_shmat,
    "sem_alloc_security": selinux_sem_alloc_security,
    "sem_associate": selinux_sem_associate,
    "sem_semctl": selinux_sem_semctl,
    "sem_semop": selinux_sem_semop,
    "key_alloc": selinux_key_alloc,
    "key_permission": selinux_key_permission,
    "key_getsecurity": selinux_key_getsecurity,
}
