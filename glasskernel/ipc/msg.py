"""System V message queues.

Linux: ipc/msg.c, ipc/msgutil.c (5.3). Same: the types of msgrcv() (any, one, all but one, up to), MSG_NOERROR,
    MSG_COPY, limits in bytes and messages, senders and receivers in the order in which they came.
Owns: MsgQueue.
Invariants: cbytes is the sum of the messages' lengths; no receiver sleeps while a message for it is there.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.ipc.util import (
    IPC_INFO,
    IPC_NOWAIT,
    IPC_RMID,
    IPC_SET,
    IPC_STAT,
    S_IRUGO,
    S_IWUGO,
    KernIpcPerm,
    highest,
    ipc_addid,
    ipc_obtain_object_check,
    ipc_obtain_object_idr,
    ipc_rmid,
    ipc_state,
    ipc_update_perm,
    ipcctl_obtain_check,
    ipcget_public,
    ipcperms,
    kernel_to_ipc64_perm,
    new_perm,
    seconds,
)
from glasskernel.kernel.capability import CAP_SYS_RESOURCE, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.wait import WaitQueueHead, wait_event_interruptible, wake_up
from glasskernel.lib.errno import E2BIG, EAGAIN, EIDRM, EINTR, EINVAL, ENOMSG, EPERM, KernelError, Restart
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.ipc.util import IpcState
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.lib.types import UserPtr, s32, s64, size_t

MSG_STAT, MSG_INFO, MSG_STAT_ANY = 11, 12, 13
MSG_NOERROR, MSG_EXCEPT, MSG_COPY = 0o10000, 0o20000, 0o40000
MSGPOOL_KB, MSGSSZ, MSGSEG = 512000, 16, 0xFFFF


@slotted
class MsgMsg:
    """struct msg_msg"""

    m_type: int
    text: bytes
    security: Any = None


@slotted
class MsgReceiver:
    """struct msg_receiver: one that sleeps. message: what it was given."""

    wants: Callable[[MsgMsg], bool]
    maxsize: int                                   # longest message that it takes
    task: TaskStruct
    message: MsgMsg | None = None
    error: int = 0
    wait: WaitQueueHead = field(default_factory=WaitQueueHead)


@slotted
class MsgQueue(KernIpcPerm):
    """struct msg_queue"""

    stime: int = 0
    rtime: int = 0
    ctime: int = 0
    cbytes: int = 0
    qbytes: int = 0
    lspid: int = 0
    lrpid: int = 0
    messages: list[MsgMsg] = field(default_factory=list)
    receivers: list[MsgReceiver] = field(default_factory=list)
    senders: list[WaitQueueHead] = field(default_factory=list)


@syscall
def sys_msgget(key: s32, msgflg: int) -> int:
    """msgget(2). Errors: EACCES, EEXIST, ENOENT, ENOSPC."""
    state = ipc_state()
    msq: MsgQueue | None = ipcget_public(state.msg, key, msgflg)
    if msq is None:
        return newque(state, key, msgflg)
    ipcperms(msq, msgflg)
    if msq.security is not None:
        current().kernel.lsm.security_msg_queue_associate(msq, msgflg)
    return msq.id


def newque(state: IpcState, key: int, msgflg: int) -> int:
    """A new queue. Raises ENOSPC, EACCES."""
    msq = MsgQueue(*new_perm(key, msgflg), ctime=seconds(), qbytes=state.msg_mnb)
    lsm = current().kernel.lsm
    if lsm is not None:
        lsm.security_msg_queue_alloc(msq)
    return ipc_addid(state.msg, msq, state.msg_mni)


def freeque(state: IpcState, msq: MsgQueue) -> None:
    """The queue goes: whoever sleeps gets EIDRM."""
    ipc_rmid(state.msg, msq)
    for receiver in msq.receivers:
        receiver.error = EIDRM
        wake_up(receiver.wait)
    for sender in msq.senders:
        wake_up(sender)
    state.msg_hdrs -= len(msq.messages)
    state.msg_bytes -= msq.cbytes


# ---- sending ------------------------------------------------------------------------------------------------------
def msg_fits_inqueue(msq: MsgQueue, size: int) -> bool:
    return size + msq.cbytes <= msq.qbytes and 1 + len(msq.messages) <= msq.qbytes


def pipelined_send(msq: MsgQueue, message: MsgMsg) -> bool:
    """Gives a message to the first sleeping receiver that wants it."""
    for receiver in list(msq.receivers):
        if not receiver.wants(message) or not may_receive(msq, message, receiver.task):
            continue
        msq.receivers.remove(receiver)
        if receiver.maxsize < len(message.text):
            receiver.error = E2BIG
        else:
            receiver.message = message
            msq.lrpid = receiver.task.tgid
            msq.rtime = seconds()
        wake_up(receiver.wait)
        if receiver.message is not None:
            return True
    return False


@syscall
def sys_msgsnd(msqid: int, msgp: UserPtr, msgsz: size_t, msgflg: int) -> int:
    """msgsnd(2). Errors: EACCES, EAGAIN, EFAULT, EIDRM, EINTR, EINVAL."""
    (mtype,) = struct.unpack("<q", copy_from_user(msgp, 8))
    return do_msgsnd(msqid, mtype, msgp + 8, msgsz, msgflg)


@may_sleep
def do_msgsnd(msqid: int, mtype: int, mtext: int, msgsz: int, msgflg: int) -> int:
    state = ipc_state()
    if msgsz > state.msg_max or msqid < 0 or mtype < 1:
        raise KernelError(EINVAL)
    message = MsgMsg(mtype, bytes(copy_from_user(mtext, msgsz)))
    lsm = current().kernel.lsm
    if lsm is not None:
        lsm.security_msg_msg_alloc(message)
    msq: MsgQueue = ipc_obtain_object_check(state.msg, msqid)
    while True:
        ipcperms(msq, S_IWUGO)
        if lsm is not None:
            lsm.security_msg_queue_msgsnd(msq, message)
        if msg_fits_inqueue(msq, msgsz):
            break
        if msgflg & IPC_NOWAIT:
            raise KernelError(EAGAIN)
        wait = WaitQueueHead()
        msq.senders.append(wait)
        try:
            wait_event_interruptible(wait, lambda: msq.deleted or msg_fits_inqueue(msq, msgsz))
        except Restart:
            raise KernelError(EINTR) from None
        finally:
            msq.senders.remove(wait)
        if msq.deleted:
            raise KernelError(EIDRM)
    msq.lspid = current().tgid
    msq.stime = seconds()
    if not pipelined_send(msq, message):
        msq.messages.append(message)
        msq.cbytes += msgsz
        state.msg_bytes += msgsz
        state.msg_hdrs += 1
    return 0


# ---- receiving ----------------------------------------------------------------------------------------------------
@notrace
def _wanted(msgtyp: int, msgflg: int) -> Callable[[MsgMsg], bool]:
    """convert_mode() and testmsg(): which messages a receiver takes."""
    if msgtyp == 0:
        return lambda message: True
    if msgtyp < 0:
        return lambda message: message.m_type <= -msgtyp
    if msgflg & MSG_EXCEPT:
        return lambda message: message.m_type != msgtyp
    return lambda message: message.m_type == msgtyp


@notrace
def may_receive(msq: MsgQueue, message: MsgMsg, task: TaskStruct) -> bool:
    """A security module may hide a message from a receiver."""
    if msq.security is None:
        return True
    try:
        task.kernel.lsm.security_msg_queue_msgrcv(msq, message, task)
    except KernelError:
        return False
    return True


def find_msg(msq: MsgQueue, msgtyp: int, wants: Callable[[MsgMsg], bool]) -> MsgMsg | None:
    """The first that is wanted; for a negative type the one with the lowest."""
    candidates = [message for message in msq.messages if wants(message) and may_receive(msq, message, current())]
    if not candidates:
        return None
    return min(candidates, key=lambda message: message.m_type) if msgtyp < 0 else candidates[0]


@syscall
def sys_msgrcv(msqid: int, msgp: UserPtr, msgsz: size_t, msgtyp: s64, msgflg: int) -> int:
    """msgrcv(2). Errors: E2BIG, EACCES, EFAULT, EIDRM, EINTR, EINVAL, ENOMSG."""
    message = do_msgrcv(msqid, msgsz, msgtyp, msgflg)
    size = min(msgsz, len(message.text))
    copy_to_user(msgp, struct.pack("<q", message.m_type) + message.text[:size])
    return size


@may_sleep
def do_msgrcv(msqid: int, bufsz: int, msgtyp: int, msgflg: int) -> MsgMsg:
    state = ipc_state()
    if msqid < 0 or bufsz >= 1 << 63:
        raise KernelError(EINVAL)
    if msgflg & MSG_COPY and (msgflg & MSG_EXCEPT or not msgflg & IPC_NOWAIT):
        raise KernelError(EINVAL)
    msq: MsgQueue = ipc_obtain_object_check(state.msg, msqid)
    ipcperms(msq, S_IRUGO)
    if msgflg & MSG_COPY:
        if not 0 <= msgtyp < len(msq.messages):
            raise KernelError(ENOMSG)
        message: MsgMsg | None = msq.messages[msgtyp]
    else:
        message = find_msg(msq, msgtyp, _wanted(msgtyp, msgflg))
    if message is not None:
        if bufsz < len(message.text) and not msgflg & MSG_NOERROR:
            raise KernelError(E2BIG)
        if not msgflg & MSG_COPY:
            take(state, msq, message)
        return message
    if msgflg & IPC_NOWAIT:
        raise KernelError(ENOMSG)
    unlimited = 1 << 63
    receiver = MsgReceiver(_wanted(msgtyp, msgflg), unlimited if msgflg & MSG_NOERROR else bufsz, current())
    msq.receivers.append(receiver)
    try:
        wait_event_interruptible(receiver.wait, lambda: receiver.message is not None or receiver.error)
    except Restart:
        if receiver.message is None:
            if receiver in msq.receivers:
                msq.receivers.remove(receiver)
            raise KernelError(receiver.error or EINTR) from None
    if receiver.message is None:
        raise KernelError(receiver.error)
    return receiver.message


@notrace
def take(state: IpcState, msq: MsgQueue, message: MsgMsg) -> None:
    """A message leaves the queue: senders may go on."""
    msq.messages.remove(message)
    msq.rtime = seconds()
    msq.lrpid = current().tgid
    msq.cbytes -= len(message.text)
    state.msg_bytes -= len(message.text)
    state.msg_hdrs -= 1
    for sender in msq.senders:
        wake_up(sender)


# ---- controlling --------------------------------------------------------------------------------------------------
@syscall
def sys_msgctl(msqid: int, cmd: int, buf: UserPtr) -> int:
    """msgctl(2). Errors: EACCES, EFAULT, EIDRM, EINVAL, EPERM."""
    state = ipc_state()
    if msqid < 0 or cmd < 0:
        raise KernelError(EINVAL)
    if cmd in (IPC_INFO, MSG_INFO):
        return msgctl_info(state, cmd, buf)
    if cmd in (IPC_STAT, MSG_STAT, MSG_STAT_ANY):
        return msgctl_stat(state, msqid, cmd, buf)
    if cmd in (IPC_RMID, IPC_SET):
        return msgctl_down(state, msqid, cmd, buf)
    raise KernelError(EINVAL)


def msgctl_info(state: IpcState, cmd: int, buf: int) -> int:
    """struct msginfo"""
    lsm = current().kernel.lsm
    if lsm is not None:
        lsm.security_msg_queue_msgctl(None, cmd)
    pool, entries, total = MSGPOOL_KB, state.msg_mnb, state.msg_mnb
    if cmd == MSG_INFO:
        pool, entries, total = len(state.msg.objects), state.msg_hdrs, state.msg_bytes
    copy_to_user(buf, struct.pack(
        "<7iH2x", pool, entries, state.msg_max, state.msg_mnb, state.msg_mni, MSGSSZ, total, MSGSEG))
    return highest(state.msg)


def msgctl_stat(state: IpcState, msqid: int, cmd: int, buf: int) -> int:
    """struct msqid64_ds"""
    msq: MsgQueue = (ipc_obtain_object_check if cmd == IPC_STAT else ipc_obtain_object_idr)(state.msg, msqid)
    if cmd != MSG_STAT_ANY:
        ipcperms(msq, S_IRUGO)
    if msq.security is not None:
        current().kernel.lsm.security_msg_queue_msgctl(msq, cmd)
    copy_to_user(buf, kernel_to_ipc64_perm(msq) + struct.pack(
        "<6Q2i2Q", msq.stime, msq.rtime, msq.ctime, msq.cbytes, len(msq.messages), msq.qbytes, msq.lspid, msq.lrpid,
        0, 0))
    return 0 if cmd == IPC_STAT else msq.id


def msgctl_down(state: IpcState, msqid: int, cmd: int, buf: int) -> int:
    """IPC_RMID and IPC_SET; more than kernel.msgmnb bytes needs CAP_SYS_RESOURCE."""
    data = copy_from_user(buf, 120) if cmd == IPC_SET else b""
    msq: MsgQueue = ipcctl_obtain_check(state.msg, msqid)
    if msq.security is not None:
        current().kernel.lsm.security_msg_queue_msgctl(msq, cmd)
    if cmd == IPC_RMID:
        freeque(state, msq)
        return 0
    (qbytes,) = struct.unpack_from("<Q", data, 88)
    if qbytes > state.msg_mnb and not capable(CAP_SYS_RESOURCE):
        raise KernelError(EPERM)
    ipc_update_perm(data, msq)
    msq.qbytes = qbytes
    msq.ctime = seconds()
    for sender in msq.senders:
        wake_up(sender)
    return 0


@notrace
def sysvipc_msg_lines(state: IpcState) -> list[bytes]:
    """/proc/sysvipc/msg"""
    lines = [b"       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid"
             b"      stime      rtime      ctime\n"]
    for q in sorted(state.msg.objects.values(), key=lambda q: int(q.id)):
        lines.append(b"%10d %10d  %4o  %10u %10u %5u %5u %5u %5u %5u %5u %10u %10u %10u\n" % (
            q.key, q.id, q.mode, q.cbytes, len(q.messages), q.lspid, q.lrpid, q.uid, q.gid, q.cuid, q.cgid, q.stime,
            q.rtime, q.ctime))
    return lines
