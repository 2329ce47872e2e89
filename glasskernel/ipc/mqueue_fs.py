"""POSIX message queues as files: the file system mqueue.

Linux: ipc/mqueue.c (5.3), its inodes, files and mounts. Same: what a queue counts for against RLIMIT_MSGQUEUE, the
    limits in /proc/sys/fs/mqueue, the text of a queue's file, poll(2), one file system for all mounts.
Owns: MqueueInodeInfo, UserStruct.mq_bytes, IpcState.mq_*. Gaps: a slab of its own for inodes.
Invariants: UserStruct.mq_bytes is the sum of the mq_bytes of the queues that the user made and that still exist.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from glasskernel.fs.dcache import d_instantiate, d_make_root, dget, dput
from glasskernel.fs.inode import clear_inode, current_time, drop_nlink, get_next_ino, inc_nlink, new_inode
from glasskernel.fs.libfs import (
    simple_dir_operations,
    simple_lookup,
    simple_read_from_buffer,
    simple_statfs,
)
from glasskernel.fs.mount import kern_mount
from glasskernel.fs.poll import poll_wait
from glasskernel.fs.read_write import default_llseek
from glasskernel.fs.super import mount_keyed
from glasskernel.fs.types import (
    POLLIN,
    POLLOUT,
    POLLRDNORM,
    POLLWRNORM,
    S_IFDIR,
    S_IFMT,
    S_ISVTX,
    FileOperations,
    InodeOperations,
    SuperOperations,
)
from glasskernel.kernel.capability import CAP_SYS_RESOURCE, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import PIDTYPE_TGID, alloc_uid, pid_vnr, put_pid, task_pid_ptr
from glasskernel.kernel.sched.wait import WaitQueueHead
from glasskernel.kernel.task import RLIMIT_MSGQUEUE
from glasskernel.kernel.time.posix_timers import SIGEV_SIGNAL, Sigevent
from glasskernel.lib.errno import EINVAL, EMFILE, ENOSPC, EOVERFLOW, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import U64_MAX, may_sleep, notrace, s64
from glasskernel.lib.uapi import Layout, uapi

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, File, FileSystemType, Inode, Kiocb, Mount, PollTable, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.ipc.msg import MsgMsg
    from glasskernel.ipc.util import IpcState
    from glasskernel.kernel.pid import Pid, UserStruct
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.mm.iov_iter import IovIter

MQUEUE_MAGIC = 0x19800202
DIRENT_SIZE, FILENT_SIZE = 20, 80
MQ_PRIO_MAX = 32768
HARD_MSGMAX, HARD_MSGSIZEMAX = 65536, 16 << 20
SIZEOF_MSG_MSG, SIZEOF_TREE_NODE = 48, 48         # struct msg_msg, struct posix_msg_tree_node
SEND, RECV = 0, 1


@uapi("include/uapi/linux/mqueue.h", size=64)
class MqAttr(Layout):
    """struct mq_attr"""

    mq_flags: s64
    mq_maxmsg: s64
    mq_msgsize: s64
    mq_curmsgs: s64
    reserved: Annotated[bytes, "char[32]"]


@slotted
class ExtWaitQueue:
    """struct ext_wait_queue: a task that waits to send msg, or that msg is given to."""

    task: TaskStruct
    msg: MsgMsg | None = None
    ready: bool = False


@slotted
class MqueueInodeInfo:
    """struct mqueue_inode_info: inode.i_private.

    messages: those of the highest priority first, then the oldest. e_wait_q: who waits to send, who to receive.
    """

    attr: MqAttr
    user: UserStruct
    mq_bytes: int                                 # what it counts for
    messages: list[MsgMsg] = field(default_factory=list)
    qsize: int = 0                                # bytes of text in it
    e_wait_q: tuple[list[ExtWaitQueue], list[ExtWaitQueue]] = field(default_factory=lambda: ([], []))
    wait_q: WaitQueueHead = field(default_factory=WaitQueueHead)
    notify: Sigevent | None = None
    notify_owner: Pid | None = None


@notrace
def mqueue_i(inode: Inode) -> MqueueInodeInfo:
    """MQUEUE_I()"""
    info: MqueueInodeInfo = inode.i_private
    return info


# ---- inodes ------------------------------------------------------------------------------------------------------
@notrace
def mqueue_bytes(attr: MqAttr) -> int:
    """What a queue counts for against RLIMIT_MSGQUEUE, mq_overview(7)."""
    return (attr.mq_maxmsg * (SIZEOF_MSG_MSG + attr.mq_msgsize)
            + min(attr.mq_maxmsg, MQ_PRIO_MAX) * SIZEOF_TREE_NODE)


@notrace
def mqueue_info(state: IpcState, wanted: MqAttr | None) -> MqueueInodeInfo:
    """An empty queue, charged to its maker. Raises EINVAL, EOVERFLOW, EMFILE (RLIMIT_MSGQUEUE)."""
    task = current()
    if wanted is None:
        attr = MqAttr(mq_maxmsg=min(state.mq_msg_max, state.mq_msg_default),
                      mq_msgsize=min(state.mq_msgsize_max, state.mq_msgsize_default))
    else:
        attr = MqAttr(mq_maxmsg=wanted.mq_maxmsg, mq_msgsize=wanted.mq_msgsize)
    if attr.mq_maxmsg <= 0 or attr.mq_msgsize <= 0:
        raise KernelError(EINVAL)
    most = (HARD_MSGMAX, HARD_MSGSIZEMAX) if capable(CAP_SYS_RESOURCE) else (state.mq_msg_max, state.mq_msgsize_max)
    if attr.mq_maxmsg > most[0] or attr.mq_msgsize > most[1]:
        raise KernelError(EINVAL)
    mq_bytes = mqueue_bytes(attr)
    if mq_bytes > U64_MAX:
        raise KernelError(EOVERFLOW)
    user = alloc_uid(task.kernel, task.cred.uid)
    if user.mq_bytes + mq_bytes > task.signal.rlim[RLIMIT_MSGQUEUE][0]:
        raise KernelError(EMFILE)
    user.mq_bytes += mq_bytes
    return MqueueInodeInfo(attr, user, mq_bytes)


def mqueue_get_inode(sb: SuperBlock, mode: int, info: MqueueInodeInfo | None) -> Inode:
    """A queue, or (info is None) the directory."""
    inode = new_inode(sb)
    cred = current().cred
    inode.i_ino = get_next_ino()
    inode.i_mode, inode.i_uid, inode.i_gid = mode, cred.fsuid, cred.fsgid
    inode.i_atime = inode.i_mtime = inode.i_ctime = current_time(inode)
    if info is None:
        inc_nlink(inode)
        inode.i_size = 2 * DIRENT_SIZE
        inode.i_op, inode.i_fop = mqueue_dir_inode_operations, simple_dir_operations
    else:
        inode.i_private = info
        inode.i_size = FILENT_SIZE
        inode.i_fop = mqueue_file_operations
    return inode


def mqueue_evict_inode(inode: Inode) -> None:
    """The last name and the last file of a queue are gone."""
    clear_inode(inode)
    if inode.i_mode & S_IFMT == S_IFDIR:
        return
    info = mqueue_i(inode)
    info.messages.clear()
    info.user.mq_bytes -= info.mq_bytes
    inode.i_sb.kernel.ipc.mq_queues_count -= 1


def mqueue_create_attr(dir: Inode, dentry: Dentry, mode: int, attr: MqAttr | None) -> None:
    """Raises ENOSPC (queues_max), EINVAL, EMFILE."""
    state = dir.i_sb.kernel.ipc
    if state.mq_queues_count >= state.mq_queues_max and not capable(CAP_SYS_RESOURCE):
        raise KernelError(ENOSPC)
    inode = mqueue_get_inode(dir.i_sb, mode, mqueue_info(state, attr))
    state.mq_queues_count += 1
    dir.i_size += DIRENT_SIZE
    dir.i_ctime = dir.i_mtime = dir.i_atime = current_time(dir)
    d_instantiate(dentry, inode)
    dget(dentry)


def mqueue_create(dir: Inode, dentry: Dentry, mode: int) -> None:
    """->create(): open(2) makes a queue of the default size."""
    mqueue_create_attr(dir, dentry, mode, None)


def mqueue_unlink(dir: Inode, dentry: Dentry) -> None:
    inode = dentry.d_inode
    assert inode is not None
    dir.i_ctime = dir.i_mtime = dir.i_atime = current_time(dir)
    dir.i_size -= DIRENT_SIZE
    drop_nlink(inode)
    dput(dentry)


# ---- files -------------------------------------------------------------------------------------------------------
def mqueue_read_file(iocb: Kiocb, to: IovIter) -> int:
    """What is in it, and who waits for that to be more than nothing."""
    inode = iocb.ki_filp.f_inode
    info = mqueue_i(inode)
    notify = info.notify if info.notify_owner is not None else None
    text = b"QSIZE:%-10d NOTIFY:%-5d SIGNO:%-5d NOTIFY_PID:%-6d\n" % (
        info.qsize, 0 if notify is None else notify.sigev_notify,
        notify.sigev_signo if notify is not None and notify.sigev_notify == SIGEV_SIGNAL else 0,
        pid_vnr(info.notify_owner))
    done = simple_read_from_buffer(to, iocb, text)
    if done:
        inode.i_atime = inode.i_ctime = current_time(inode)
    return done


def mqueue_flush_file(filp: File) -> None:
    """A process that closes a descriptor is notified no more."""
    info = mqueue_i(filp.f_inode)
    if info.notify_owner is not None and info.notify_owner is task_pid_ptr(current(), PIDTYPE_TGID):
        remove_notification(info)


def remove_notification(info: MqueueInodeInfo) -> None:
    put_pid(info.notify_owner)
    info.notify_owner = info.notify = None


def mqueue_poll_file(filp: File, poll_tab: PollTable) -> int:
    info = mqueue_i(filp.f_inode)
    poll_wait(filp, info.wait_q, poll_tab)
    events = POLLIN | POLLRDNORM if info.messages else 0
    return events | (POLLOUT | POLLWRNORM if len(info.messages) < info.attr.mq_maxmsg else 0)


# ---- mounting ----------------------------------------------------------------------------------------------------
def mqueue_fill_super(sb: SuperBlock, data: bytes, silent: bool) -> None:
    sb.s_magic, sb.s_op = MQUEUE_MAGIC, mqueue_super_ops
    sb.s_root = d_make_root(mqueue_get_inode(sb, S_IFDIR | S_ISVTX | 0o777, None))


@may_sleep
def mqueue_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    """All mounts show the queues of the IPC namespace."""
    return mount_keyed(kernel, fs_type, flags, data, kernel.ipc, mqueue_fill_super)


@may_sleep
def mq_mount_of(state: IpcState) -> Mount:
    """ipc_ns.mq_mnt: the kernel's own mount, made by the first who asks (Linux: with the namespace)."""
    kernel = current().kernel
    if state.mq_mnt is None:
        state.mq_mnt = kern_mount(kernel, kernel.vfs.file_systems[b"mqueue"])
    mnt: Mount = state.mq_mnt
    return mnt


mqueue_dir_inode_operations = InodeOperations(lookup=simple_lookup, create=mqueue_create, unlink=mqueue_unlink)
mqueue_file_operations = FileOperations(
    flush=mqueue_flush_file, poll=mqueue_poll_file, read_iter=mqueue_read_file, llseek=default_llseek)
mqueue_super_ops = SuperOperations(
    evict_inode=mqueue_evict_inode, statfs=simple_statfs, drop_inode=lambda _inode: True)
