"""inotify(7).

Linux: fs/notify/inotify/inotify_user.c, inotify_fsnotify.c (5.3). Same: masks, equal events in a row are one,
overflow, IN_ONESHOT, watches end with their inode. Gaps: IN_EXCL_UNLINK (accepted, ignored).
Owns: InotifyGroup. Invariant: inode_marks[wd].wd == wd; queue holds at most max_queued_events events.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import put_user_u32
from glasskernel.fs.anon_inodes import anon_inode_getfd
from glasskernel.fs.file import fdget
from glasskernel.fs.fsnotify import (
    IN_IGNORED,
    IN_ISDIR,
    IN_Q_OVERFLOW,
    IN_UNMOUNT,
    FsnotifyMark,
    fsnotify_add_mark,
    fsnotify_detach_mark,
    fsnotify_recalc_mask,
)
from glasskernel.fs.inode import iput
from glasskernel.fs.mount import path_put
from glasskernel.fs.path_walk import AT_FDCWD, LOOKUP_DIRECTORY, LOOKUP_FOLLOW, user_path_at
from glasskernel.fs.permission import inode_permission
from glasskernel.fs.poll import poll_wait
from glasskernel.fs.read_write import noop_llseek
from glasskernel.fs.types import MAY_READ, O_CLOEXEC, O_NONBLOCK, O_RDONLY, POLLIN, POLLRDNORM, FileOperations
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.wait import WaitQueueHead, wait_event_interruptible, wake_up
from glasskernel.lib.errno import EAGAIN, EEXIST, EINVAL, EMFILE, ENOTTY, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, s32, u32

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, Kiocb, PollTable
    from glasskernel.mm.iov_iter import IovIter

IN_ALL_EVENTS = 0xFFF
IN_ONLYDIR, IN_DONT_FOLLOW, IN_EXCL_UNLINK, IN_MASK_CREATE = 0x01000000, 0x02000000, 0x04000000, 0x10000000
IN_MASK_ADD, IN_ONESHOT = 0x20000000, 0x80000000
ALL_INOTIFY_BITS = (IN_ALL_EVENTS | IN_UNMOUNT | IN_Q_OVERFLOW | IN_IGNORED | IN_ONLYDIR | IN_DONT_FOLLOW
                    | IN_EXCL_UNLINK | IN_MASK_ADD | IN_MASK_CREATE | IN_ISDIR | IN_ONESHOT)
INOTIFY_USER_MASK = IN_ALL_EVENTS | IN_UNMOUNT | IN_Q_OVERFLOW | IN_IGNORED | IN_ISDIR
MAX_QUEUED_EVENTS, MAX_USER_INSTANCES = 16384, 128
FIONREAD = 0x541B
_EVENT = struct.Struct("<iIII")


class InotifyGroup:
    """struct fsnotify_group of inotify. queue: (wd, mask, cookie, name)."""

    __slots__ = ("inode_marks", "last_wd", "queue", "user", "wait")

    def __init__(self, user: int) -> None:
        self.wait = WaitQueueHead()
        self.queue: list[tuple[int, int, int, bytes]] = []
        self.inode_marks: dict[int, FsnotifyMark] = {}
        self.last_wd = 0
        self.user = user


# ---- events ------------------------------------------------------------------------------------------------
@notrace
def fsnotify_add_event(group: InotifyGroup, event: tuple[int, int, int, bytes]) -> None:
    """Queues an event, unless it equals the last one or the queue is full."""
    queue = group.queue
    if queue and queue[-1] == event:
        return
    if len(queue) >= MAX_QUEUED_EVENTS:
        event = (-1, IN_Q_OVERFLOW, 0, b"")
        if queue[-1] == event:
            return
    queue.append(event)
    wake_up(group.wait)


def inotify_handle_event(mark: FsnotifyMark, mask: int, name: bytes, cookie: int) -> None:
    """Something happened to a watched inode."""
    group: InotifyGroup = mark.group
    oneshot = mark.mask & IN_ONESHOT
    fsnotify_add_event(group, (mark.wd, mask & INOTIFY_USER_MASK, cookie, name))
    if oneshot:
        inotify_remove_mark(mark)


def inotify_remove_mark(mark: FsnotifyMark) -> None:
    """Ends a watch: IN_IGNORED is its last event."""
    group: InotifyGroup = mark.group
    if group.inode_marks.pop(mark.wd, None) is not None:
        fsnotify_detach_mark(mark)
        fsnotify_add_event(group, (mark.wd, IN_IGNORED, 0, b""))
        iput(mark.inode)


# ---- the file ----------------------------------------------------------------------------------------------
def inotify_poll(file: File, wait: PollTable) -> int:
    """->poll()"""
    group: InotifyGroup = file.private_data
    poll_wait(file, group.wait, wait)
    return POLLIN | POLLRDNORM if group.queue else 0


@notrace
def round_event_name_len(name: bytes) -> int:
    """The name's bytes in a record: with its NUL, up to a multiple of 16; none for no name."""
    return (len(name) + 16) & ~15 if name else 0


@notrace
def copy_event(event: tuple[int, int, int, bytes]) -> bytes:
    """struct inotify_event with its name."""
    wd, mask, cookie, name = event
    size = round_event_name_len(name)
    return _EVENT.pack(wd, mask, cookie, size) + name.ljust(size, b"\0")


@may_sleep
def inotify_read(iocb: Kiocb, to: IovIter) -> int:
    """->read_iter(): as many events as fit. Raises EINVAL (not one fits), EAGAIN, Restart."""
    file = iocb.ki_filp
    group: InotifyGroup = file.private_data
    done = 0
    while True:
        while group.queue:
            record = copy_event(group.queue[0])
            if len(record) > to.count:
                if not done:
                    raise KernelError(EINVAL)
                return done
            del group.queue[0]
            to.copy_to_iter(record)
            done += len(record)
        if done:
            return done
        if file.f_flags & O_NONBLOCK:
            raise KernelError(EAGAIN)
        wait_event_interruptible(group.wait, lambda: group.queue)


def inotify_ioctl(file: File, cmd: int, arg: int) -> int:
    """->unlocked_ioctl(): FIONREAD. Raises ENOTTY."""
    group: InotifyGroup = file.private_data
    if cmd != FIONREAD:
        raise KernelError(ENOTTY)
    put_user_u32(arg, sum(16 + round_event_name_len(event[3]) for event in group.queue))
    return 0


def inotify_release(inode: Inode, file: File) -> None:
    """->release()"""
    group: InotifyGroup = file.private_data
    for mark in list(group.inode_marks.values()):
        del group.inode_marks[mark.wd]
        fsnotify_detach_mark(mark)
        iput(mark.inode)
    instances = inode.i_sb.kernel.vfs.inotify_user_instances
    instances[group.user] -= 1


def inotify_show_fdinfo(file: File) -> bytes:
    """->show_fdinfo()"""
    group: InotifyGroup = file.private_data
    return b"".join(
        b"inotify wd:%x ino:%x sdev:%x mask:%x ignored_mask:0 \n" % (
            mark.wd, mark.inode.i_ino, mark.inode.i_sb.s_dev, mark.mask & IN_ALL_EVENTS)
        for mark in group.inode_marks.values())


inotify_fops = FileOperations(
    poll=inotify_poll, read_iter=inotify_read, unlocked_ioctl=inotify_ioctl, release=inotify_release,
    llseek=noop_llseek, show_fdinfo=inotify_show_fdinfo)


# ---- system calls ------------------------------------------------------------------------------------------
@notrace
def do_inotify_init(flags: int) -> int:
    """inotify_init1(2). Raises EINVAL, EMFILE."""
    if flags & ~(O_CLOEXEC | O_NONBLOCK):
        raise KernelError(EINVAL)
    task = current()
    uid = task.cred.uid
    instances = task.kernel.vfs.inotify_user_instances
    if instances.get(uid, 0) >= MAX_USER_INSTANCES:
        raise KernelError(EMFILE)
    fd = anon_inode_getfd(b"inotify", inotify_fops, InotifyGroup(uid), O_RDONLY | flags)
    instances[uid] = instances.get(uid, 0) + 1
    return fd


@syscall
def sys_inotify_init1(flags: int) -> int:
    """inotify_init1(2)."""
    return do_inotify_init(flags)


@syscall
def sys_inotify_init() -> int:
    """inotify_init(2)."""
    return do_inotify_init(0)


@notrace
def inotify_update_watch(group: InotifyGroup, inode: Inode, arg: int) -> int:
    """Adds or changes a watch; answers its number. Raises EEXIST (IN_MASK_CREATE)."""
    mask = arg & (IN_ALL_EVENTS | IN_ONESHOT | IN_EXCL_UNLINK) | IN_UNMOUNT
    for mark in group.inode_marks.values():
        if mark.inode is inode:
            if arg & IN_MASK_CREATE:
                raise KernelError(EEXIST)
            mark.mask = mark.mask | mask if arg & IN_MASK_ADD else mask
            fsnotify_recalc_mask(inode)
            return mark.wd
    group.last_wd += 1
    mark = FsnotifyMark(inode, mask, inotify_handle_event, inotify_remove_mark, group, group.last_wd)
    inode.i_count += 1
    group.inode_marks[mark.wd] = mark
    fsnotify_add_mark(mark)
    return mark.wd


@syscall(gaps="IN_EXCL_UNLINK")
def sys_inotify_add_watch(fd: int, pathname: UserPtr, mask: u32) -> int:
    """inotify_add_watch(2). Errors: EINVAL, EBADF, EACCES, ENOENT, ENOTDIR, EEXIST, EFAULT."""
    if not mask & ALL_INOTIFY_BITS or (mask & IN_MASK_ADD and mask & IN_MASK_CREATE):
        raise KernelError(EINVAL)
    file = fdget(fd)
    if file.f_op is not inotify_fops:
        raise KernelError(EINVAL)
    lookup = (0 if mask & IN_DONT_FOLLOW else LOOKUP_FOLLOW) | (LOOKUP_DIRECTORY if mask & IN_ONLYDIR else 0)
    path = user_path_at(AT_FDCWD, pathname, lookup)
    try:
        inode = path.dentry.d_inode
        assert inode is not None
        inode_permission(inode, MAY_READ)
        return inotify_update_watch(file.private_data, inode, mask)
    finally:
        path_put(path)


@syscall
def sys_inotify_rm_watch(fd: int, wd: s32) -> int:
    """inotify_rm_watch(2). Errors: EBADF, EINVAL."""
    file = fdget(fd)
    if file.f_op is not inotify_fops:
        raise KernelError(EINVAL)
    mark = file.private_data.inode_marks.get(wd)
    if mark is None:
        raise KernelError(EINVAL)
    inotify_remove_mark(mark)
    return 0
