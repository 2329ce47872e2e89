"""POSIX message queues: mq_open(2), mq_send, mq_receive, mq_notify.

Linux: ipc/mqueue.c (5.3). Same: order by priority and age, who of several waiting tasks is served first, absolute
    timeouts, notification of one process when an empty queue gets a message that nobody waits for.
Differs: messages of all priorities are one sorted list (Linux: a tree of lists). Owns: nothing; see mqueue_fs.py.
Gaps: SIGEV_THREAD (EINVAL): Linux tells the C library through a netlink socket.
Invariants: no task waits to receive while there is a message, nor to send while there is room.
Context of every function: task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, put_user_u32
from glasskernel.fs.dcache import dput
from glasskernel.fs.dentry_open import dentry_open
from glasskernel.fs.file import fd_install, fdget, get_unused_fd_flags, put_unused_fd
from glasskernel.fs.file_table import fput, get_file
from glasskernel.fs.inode import current_time, ihold, inode_lock, inode_unlock, iput
from glasskernel.fs.mnt_writers import mnt_drop_write, mnt_want_write
from glasskernel.fs.namei import lookup_one_len, vfs_unlink
from glasskernel.fs.path_walk import getname
from glasskernel.fs.permission import inode_permission, may_create
from glasskernel.fs.types import (
    FMODE_READ,
    FMODE_WRITE,
    MAY_READ,
    MAY_WRITE,
    O_ACCMODE,
    O_CLOEXEC,
    O_CREAT,
    O_EXCL,
    O_NONBLOCK,
    O_RDWR,
    O_WRONLY,
    S_IFREG,
    Path,
)
from glasskernel.ipc.mqueue_fs import (
    MQ_PRIO_MAX,
    RECV,
    SEND,
    ExtWaitQueue,
    MqAttr,
    MqueueInodeInfo,
    mq_mount_of,
    mqueue_create_attr,
    mqueue_file_operations,
    mqueue_i,
    remove_notification,
)
from glasskernel.ipc.msg import MsgMsg
from glasskernel.ipc.util import ipc_state
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import PIDTYPE_TGID, get_task_pid, task_pid_ptr, task_tgid_vnr
from glasskernel.kernel.sched.core import set_current_state, signal_pending, wake_up_process
from glasskernel.kernel.sched.wait import wake_up, wake_up_interruptible
from glasskernel.kernel.signal import kill_pid_info, valid_signal
from glasskernel.kernel.signal_types import SI_MESGQ, KernelSiginfo
from glasskernel.kernel.task import TASK_INTERRUPTIBLE
from glasskernel.kernel.time.hrtimer import HRTIMER_MODE_ABS, get_timespec64, schedule_hrtimeout_range_clock
from glasskernel.kernel.time.posix_timers import SIGEV_NONE, SIGEV_SIGNAL, Sigevent
from glasskernel.kernel.time.time import timespec_ns
from glasskernel.kernel.time.types import CLOCK_REALTIME
from glasskernel.lib.errno import (
    EAGAIN,
    EBADF,
    EBUSY,
    EEXIST,
    EINVAL,
    EMSGSIZE,
    ENOENT,
    ESRCH,
    ETIMEDOUT,
    KernelError,
    Restart,
)
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, size_t, u32

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, File, Inode, Mount


# ---- mq_open, mq_unlink ------------------------------------------------------------------------------------------
@may_sleep
def prepare_open(dentry: Dentry, oflag: int, read_only: int, mode: int, attr: MqAttr | None) -> None:
    """The queue is made, or the caller may open it so. Raises ENOENT, EEXIST, EINVAL, EACCES, EROFS, ..."""
    inode = dentry.d_inode
    if inode is None:
        if not oflag & O_CREAT:
            raise KernelError(ENOENT)
        if read_only:
            raise KernelError(read_only)
        dir = dentry.d_parent.d_inode
        assert dir is not None
        may_create(dir, dentry)                   # vfs_mkobj()
        mqueue_create_attr(dir, dentry, mode & ~current().fs.umask & 0o7777 | S_IFREG, attr)
        return
    if oflag & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL:
        raise KernelError(EEXIST)
    if oflag & O_ACCMODE == O_RDWR | O_WRONLY:
        raise KernelError(EINVAL)
    inode_permission(inode, (MAY_READ, MAY_WRITE, MAY_READ | MAY_WRITE)[oflag & O_ACCMODE])


@may_sleep
def do_mq_open(name: bytes, oflag: int, mode: int, attr: MqAttr | None) -> int:
    """Raises ENOENT, EEXIST, EACCES, EINVAL, EMFILE, ENOSPC."""
    mnt = mq_mount_of(ipc_state())
    root = mnt.mnt_root
    assert root.d_inode is not None
    fd = get_unused_fd_flags(O_CLOEXEC)
    read_only = _want_write(mnt)
    try:
        inode_lock(root.d_inode)
        try:
            dentry = lookup_one_len(name, root)
            try:
                prepare_open(dentry, oflag, read_only, mode, attr)
                file = dentry_open(Path(mnt, dentry), oflag)
            finally:
                dput(dentry)
        finally:
            inode_unlock(root.d_inode)
    except KernelError:
        put_unused_fd(fd)
        raise
    finally:
        if not read_only:
            mnt_drop_write(mnt)
    fd_install(fd, file)
    return fd


@notrace
def _want_write(mnt: Mount) -> int:
    """The errno of a mount that cannot be written, which counts only if a queue must be made."""
    try:
        mnt_want_write(mnt)
    except KernelError as error:
        return error.errno
    return 0


@syscall
def sys_mq_open(u_name: UserPtr, oflag: int, mode: u32, u_attr: UserPtr) -> int:
    """mq_open(2). Errors: EACCES, EEXIST, EFAULT, EINVAL, EMFILE, ENAMETOOLONG, ENOENT, ENOSPC."""
    attr = MqAttr.unpack(copy_from_user(u_attr, MqAttr.SIZE)) if u_attr else None
    return do_mq_open(getname(u_name), oflag, mode, attr)


@syscall
def sys_mq_unlink(u_name: UserPtr) -> int:
    """mq_unlink(2). Errors: EACCES, ENAMETOOLONG, ENOENT."""
    name = getname(u_name)
    mnt = mq_mount_of(ipc_state())
    root = mnt.mnt_root
    dir = root.d_inode
    assert dir is not None
    inode: Inode | None = None
    mnt_want_write(mnt)
    try:
        inode_lock(dir)
        try:
            dentry = lookup_one_len(name, root)
            try:
                inode = dentry.d_inode
                if inode is None:
                    raise KernelError(ENOENT)
                ihold(inode)                      # it shall not go while the directory is locked
                vfs_unlink(dir, dentry)
            finally:
                dput(dentry)
        finally:
            inode_unlock(dir)
            if inode is not None:
                iput(inode)
    finally:
        mnt_drop_write(mnt)
    return 0


# ---- waiting -----------------------------------------------------------------------------------------------------
@notrace
def wq_get_first_waiter(info: MqueueInodeInfo, sr: int) -> ExtWaitQueue | None:
    """The one with the best priority; of several the oldest."""
    return min(info.e_wait_q[sr], key=lambda ewp: ewp.task.prio, default=None)


@may_sleep
def wq_sleep(info: MqueueInodeInfo, sr: int, timeout_ns: int | None, ewp: ExtWaitQueue) -> None:
    """Until somebody serves it. Raises Restart, ETIMEDOUT."""
    info.e_wait_q[sr].append(ewp)
    while True:
        set_current_state(TASK_INTERRUPTIBLE)
        over = schedule_hrtimeout_range_clock(timeout_ns, 0, HRTIMER_MODE_ABS, CLOCK_REALTIME) == 0
        if ewp.ready:
            return
        if signal_pending(current()) or over:
            info.e_wait_q[sr].remove(ewp)
            raise KernelError(ETIMEDOUT) if over and not signal_pending(current()) else Restart()


@notrace
@may_sleep
def sleep_with_file(file: File, sr: int, timeout_ns: int | None, ewp: ExtWaitQueue) -> None:
    """wq_sleep(); another thread may close the descriptor meanwhile."""
    get_file(file)
    try:
        wq_sleep(mqueue_i(file.f_inode), sr, timeout_ns, ewp)
    finally:
        fput(file)


@notrace
def __pipelined_op(info: MqueueInodeInfo, sr: int, waiter: ExtWaitQueue) -> None:
    """It has what it waits for."""
    info.e_wait_q[sr].remove(waiter)
    waiter.ready = True
    wake_up_process(waiter.task)


@notrace
def pipelined_send(info: MqueueInodeInfo, message: MsgMsg, receiver: ExtWaitQueue) -> None:
    """Gives a message to one that waits, past the queue."""
    receiver.msg = message
    __pipelined_op(info, RECV, receiver)


@notrace
def pipelined_receive(info: MqueueInodeInfo) -> None:
    """There is room: the message of one that waits to send goes into the queue."""
    sender = wq_get_first_waiter(info, SEND)
    if sender is None:
        wake_up_interruptible(info.wait_q)        # for poll
        return
    assert sender.msg is not None
    msg_insert(sender.msg, info)
    __pipelined_op(info, SEND, sender)


# ---- messages ----------------------------------------------------------------------------------------------------
@notrace
def msg_insert(message: MsgMsg, info: MqueueInodeInfo) -> None:
    """Behind all of its priority."""
    at = len(info.messages)
    while at and info.messages[at - 1].m_type < message.m_type:
        at -= 1
    info.messages.insert(at, message)
    info.qsize += len(message.text)


@notrace
def msg_get(info: MqueueInodeInfo) -> MsgMsg:
    """The oldest of the highest priority."""
    message = info.messages.pop(0)
    info.qsize -= len(message.text)
    return message


@notrace
def _touch(inode: Inode) -> None:
    inode.i_atime = inode.i_mtime = inode.i_ctime = current_time(inode)


@notrace
def mqueue_file(mqdes: int, mode: int) -> File:
    """Raises EBADF if it is no queue, or not open so."""
    file = fdget(mqdes)
    if file.f_op is not mqueue_file_operations or file.f_mode & mode != mode:
        raise KernelError(EBADF)
    return file


@notrace
def prepare_timeout(address: int) -> int | None:
    """An absolute time as ns; None: for ever. Raises EFAULT, EINVAL."""
    return timespec_ns(*get_timespec64(address)) if address else None


@syscall
def sys_mq_timedsend(mqdes: int, u_msg_ptr: UserPtr, msg_len: size_t, msg_prio: u32, u_abs_timeout: UserPtr) -> int:
    """mq_timedsend(2). Errors: EAGAIN, EBADF, EFAULT, EINTR, EINVAL, EMSGSIZE, ETIMEDOUT."""
    return do_mq_timedsend(mqdes, u_msg_ptr, msg_len, msg_prio, prepare_timeout(u_abs_timeout))


@may_sleep
def do_mq_timedsend(mqdes: int, u_msg_ptr: int, msg_len: int, msg_prio: int, timeout_ns: int | None) -> int:
    if msg_prio >= MQ_PRIO_MAX:
        raise KernelError(EINVAL)
    file = mqueue_file(mqdes, FMODE_WRITE)
    inode = file.f_inode
    info = mqueue_i(inode)
    if msg_len > info.attr.mq_msgsize:
        raise KernelError(EMSGSIZE)
    message = MsgMsg(msg_prio, copy_from_user(u_msg_ptr, msg_len))
    if len(info.messages) == info.attr.mq_maxmsg:
        if file.f_flags & O_NONBLOCK:
            raise KernelError(EAGAIN)
        sleep_with_file(file, SEND, timeout_ns, ExtWaitQueue(current(), message))
        return 0
    receiver = wq_get_first_waiter(info, RECV)
    if receiver is not None:
        pipelined_send(info, message, receiver)
    else:
        msg_insert(message, info)
        __do_notify(info)
    _touch(inode)
    return 0


@syscall
def sys_mq_timedreceive(mqdes: int, u_msg_ptr: UserPtr, msg_len: size_t, u_msg_prio: UserPtr,
                        u_abs_timeout: UserPtr) -> int:
    """mq_timedreceive(2). Errors: EAGAIN, EBADF, EFAULT, EINTR, EINVAL, EMSGSIZE, ETIMEDOUT."""
    return do_mq_timedreceive(mqdes, u_msg_ptr, msg_len, u_msg_prio, prepare_timeout(u_abs_timeout))


@may_sleep
def do_mq_timedreceive(mqdes: int, u_msg_ptr: int, msg_len: int, u_msg_prio: int, timeout_ns: int | None) -> int:
    """The length of the message."""
    file = mqueue_file(mqdes, FMODE_READ)
    inode = file.f_inode
    info = mqueue_i(inode)
    if msg_len < info.attr.mq_msgsize:
        raise KernelError(EMSGSIZE)
    if info.messages:
        message = msg_get(info)
        _touch(inode)
        pipelined_receive(info)
    else:
        if file.f_flags & O_NONBLOCK:
            raise KernelError(EAGAIN)
        wait = ExtWaitQueue(current())
        sleep_with_file(file, RECV, timeout_ns, wait)
        assert wait.msg is not None
        message = wait.msg
    if u_msg_prio:
        put_user_u32(u_msg_prio, message.m_type)
    copy_to_user(u_msg_ptr, message.text)
    return len(message.text)


# ---- notification ------------------------------------------------------------------------------------------------
def __do_notify(info: MqueueInodeInfo) -> None:
    """An empty queue got a message that nobody waited for: whoever asked is told, once; and poll."""
    notify = info.notify
    if notify is not None and len(info.messages) == 1:
        if notify.sigev_notify == SIGEV_SIGNAL:
            sender = current()
            siginfo = KernelSiginfo(notify.sigev_signo, SI_MESGQ, si_pid=task_tgid_vnr(sender), si_uid=sender.cred.uid,
                                    si_value=notify.sigev_value)
            try:
                kill_pid_info(notify.sigev_signo, siginfo, info.notify_owner)
            except KernelError as error:
                assert error.errno in (EAGAIN, ESRCH), error
        remove_notification(info)
    wake_up(info.wait_q)


@syscall(gaps="SIGEV_THREAD")
def sys_mq_notify(mqdes: int, u_notification: UserPtr) -> int:
    """mq_notify(2). Errors: EBADF, EBUSY, EFAULT, EINVAL."""
    event = Sigevent.unpack(copy_from_user(u_notification, Sigevent.SIZE)) if u_notification else None
    return do_mq_notify(mqdes, event)


def do_mq_notify(mqdes: int, event: Sigevent | None) -> int:
    """None: the caller wants no more."""
    if event is not None:
        if event.sigev_notify not in (SIGEV_NONE, SIGEV_SIGNAL):
            raise KernelError(EINVAL)
        if event.sigev_notify == SIGEV_SIGNAL and not valid_signal(event.sigev_signo):
            raise KernelError(EINVAL)
    inode = mqueue_file(mqdes, 0).f_inode
    info = mqueue_i(inode)
    task = current()
    if event is None:
        if info.notify_owner is not None and info.notify_owner is task_pid_ptr(task, PIDTYPE_TGID):
            remove_notification(info)
            inode.i_atime = inode.i_ctime = current_time(inode)
    elif info.notify_owner is not None:
        raise KernelError(EBUSY)
    else:
        info.notify, info.notify_owner = event, get_task_pid(task, PIDTYPE_TGID)
        inode.i_atime = inode.i_ctime = current_time(inode)
    return 0


@syscall
def sys_mq_getsetattr(mqdes: int, u_mqstat: UserPtr, u_omqstat: UserPtr) -> int:
    """mq_getsetattr(2): only O_NONBLOCK can be changed. Errors: EBADF, EFAULT, EINVAL."""
    new = MqAttr.unpack(copy_from_user(u_mqstat, MqAttr.SIZE)) if u_mqstat else None
    if new is not None and new.mq_flags & ~O_NONBLOCK:
        raise KernelError(EINVAL)
    file = mqueue_file(mqdes, 0)
    info = mqueue_i(file.f_inode)
    old = MqAttr(mq_flags=file.f_flags & O_NONBLOCK, mq_maxmsg=info.attr.mq_maxmsg, mq_msgsize=info.attr.mq_msgsize,
                 mq_curmsgs=len(info.messages))
    if new is not None:
        file.f_flags = file.f_flags & ~O_NONBLOCK | new.mq_flags
        file.f_inode.i_atime = file.f_inode.i_ctime = current_time(file.f_inode)
    if u_omqstat:
        copy_to_user(u_omqstat, old.pack())
    return 0
