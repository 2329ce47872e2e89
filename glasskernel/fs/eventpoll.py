"""epoll(7).

Linux: fs/eventpoll.c (5.3). Same: level and edge triggering, EPOLLONESHOT, EPOLLEXCLUSIVE, nested instances and
their loop check, an item ends with its open file, the newest waiter is woken first.
Differs: there is no overflow list: items that become ready while events are copied out go to the ready list,
which is a dict, so that no item is on it twice. Gaps: EPOLLWAKEUP (ignored), limit on wakeup paths.
Owns: EventPoll. Invariants: an item is in ep.items and in its file's f_ep_links, or gone; rdllist only holds
items of ep.items.
Lock order: ep.mtx (outer before nested), then wait queues.
"""
from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.fs.anon_inodes import anon_inode_getfile
from glasskernel.fs.file import fd_install, fdget, get_unused_fd_flags, put_unused_fd
from glasskernel.fs.file_table import fput
from glasskernel.fs.poll import file_can_poll, poll_wait, vfs_poll
from glasskernel.fs.read_write import noop_llseek
from glasskernel.fs.select import select_estimate_accuracy, wait_with_sigmask
from glasskernel.fs.types import O_CLOEXEC, O_RDWR, POLLERR, POLLHUP, POLLIN, POLLRDNORM, FileOperations, PollTable
from glasskernel.kernel.current import register
from glasskernel.kernel.locking.mutex import Mutex, mutex_lock, mutex_unlock
from glasskernel.kernel.sched.core import signal_pending
from glasskernel.kernel.sched.wait import (
    WQ_FLAG_EXCLUSIVE,
    WaitQueueEntry,
    WaitQueueHead,
    add_wait_queue,
    add_wait_queue_exclusive,
    default_wake_function,
    remove_wait_queue,
    wake_up,
    wake_up_poll,
)
from glasskernel.kernel.task import TASK_INTERRUPTIBLE, TASK_RUNNING
from glasskernel.kernel.time.hrtimer import HRTIMER_MODE_ABS, schedule_hrtimeout_range
from glasskernel.kernel.time.timekeeping import ktime_get_ts64, timespec64_add_safe
from glasskernel.lib.errno import EEXIST, EFAULT, EINTR, EINVAL, ELOOP, ENOENT, EPERM, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, size_t

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode

EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD = 1, 2, 3
EPOLLET, EPOLLONESHOT, EPOLLWAKEUP, EPOLLEXCLUSIVE = 1 << 31, 1 << 30, 1 << 29, 1 << 28
EP_PRIVATE_BITS = EPOLLWAKEUP | EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE
EPOLLINOUT_BITS = 0x1 | 0x4
EPOLLEXCLUSIVE_OK_BITS = EPOLLINOUT_BITS | POLLERR | POLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE
POLLFREE = 0x4000
EP_MAX_NESTS = 4
EP_MAX_EVENTS = 0x7FFFFFFF // 12
_EVENT = struct.Struct("<IQ")


class EpItem:
    """struct epitem: one file that an instance watches. pwqlist: the queues that it joined."""

    __slots__ = ("data", "ep", "events", "fd", "file", "file_gone", "pwqlist")

    def __init__(self, ep: EventPoll, file: File, fd: int, events: int, data: int) -> None:
        self.ep = ep
        self.file = file
        self.fd = fd
        self.events = events
        self.data = data
        self.pwqlist: list[tuple[WaitQueueHead, WaitQueueEntry]] = []
        self.file_gone = eventpoll_release_file


class EventPoll:
    """struct eventpoll."""

    __slots__ = ("file", "items", "mtx", "poll_wait", "rdllist", "wq")
    file: File

    def __init__(self) -> None:
        self.mtx = Mutex()
        self.wq = WaitQueueHead()                     # who sleeps in epoll_wait(2)
        self.poll_wait = WaitQueueHead()              # who polls this instance itself
        self.items: dict[tuple[File, int], EpItem] = {}
        self.rdllist: dict[EpItem, None] = {}


@notrace
def is_file_epoll(file: File) -> bool:
    return file.f_op is eventpoll_fops


# ---- events ------------------------------------------------------------------------------------------------
def ep_poll_callback(wait: WaitQueueEntry, mode: int, sync: int, key: Any) -> int:
    """A watched file's queue was woken: the item is ready, and so is the instance. Context: any."""
    epi: EpItem = wait.data
    ep = epi.ep
    pollflags = key or 0
    ewake = 0
    events = epi.events
    if events & ~EP_PRIVATE_BITS and not (pollflags and not pollflags & events):
        ep.rdllist[epi] = None
        if ep.wq.entries:
            if events & EPOLLEXCLUSIVE and not pollflags & POLLFREE:
                inout = pollflags & EPOLLINOUT_BITS
                if not inout or events & inout:
                    ewake = 1
            wake_up(ep.wq)
        if ep.poll_wait.entries:
            ep_poll_safewake(ep.poll_wait)
    if not events & EPOLLEXCLUSIVE:
        ewake = 1
    if pollflags & POLLFREE:
        remove_wait_queue(wait.head, wait)  # type: ignore[arg-type]
        epi.pwqlist = [(queue, entry) for queue, entry in epi.pwqlist if entry is not wait]
    return ewake


@notrace
def ep_poll_safewake(wq: WaitQueueHead) -> None:
    """Wakes who polls the instance: outer instances among them. The loop check bounds the depth."""
    wake_up_poll(wq, POLLIN)


def ep_ptable_queue_proc(epi: EpItem, file: File, whead: WaitQueueHead) -> None:
    """poll_wait()'s answer to epoll: joins the queue for as long as the item lives."""
    entry = WaitQueueEntry(ep_poll_callback, None, epi)
    epi.pwqlist.append((whead, entry))
    if epi.events & EPOLLEXCLUSIVE:
        add_wait_queue_exclusive(whead, entry)
    else:
        add_wait_queue(whead, entry)


@may_sleep
def ep_item_poll(epi: EpItem, pt: PollTable, depth: int) -> int:
    """The events of an item now, among those asked for."""
    pt.key = epi.events
    file = epi.file
    if not is_file_epoll(file):
        return vfs_poll(file, pt) & epi.events
    ep: EventPoll = file.private_data
    poll_wait(file, ep.poll_wait, pt)
    return ep_read_events(ep, depth) & epi.events


@may_sleep
def ep_read_events(ep: EventPoll, depth: int) -> int:
    """POLLIN if some item is ready. What turned out not to be is taken off the ready list."""
    if not ep.rdllist:
        return 0
    pt = PollTable()
    for epi in list(ep.rdllist):
        if ep_item_poll(epi, pt, depth + 1):
            return POLLIN | POLLRDNORM
        ep.rdllist.pop(epi, None)
    return 0


def ep_eventpoll_poll(file: File, wait: PollTable) -> int:
    """->poll() of an instance."""
    ep: EventPoll = file.private_data
    poll_wait(file, ep.poll_wait, wait)
    return ep_read_events(ep, 0)


# ---- items -------------------------------------------------------------------------------------------------
def ep_unregister_pollwait(epi: EpItem) -> None:
    """Leaves the queues of the file."""
    for queue, entry in epi.pwqlist:
        remove_wait_queue(queue, entry)
    epi.pwqlist = []


def ep_remove(ep: EventPoll, epi: EpItem) -> None:
    """Ends an item. Locks: ep.mtx."""
    ep_unregister_pollwait(epi)
    epi.file.f_ep_links.remove(epi)
    ep.items.pop((epi.file, epi.fd), None)
    ep.rdllist.pop(epi, None)


def eventpoll_release_file(epi: EpItem) -> None:
    """The last reference of a watched file went: the item goes too."""
    ep_remove(epi.ep, epi)


@may_sleep
def ep_insert(ep: EventPoll, events: int, data: int, tfile: File, fd: int) -> None:
    """EPOLL_CTL_ADD."""
    epi = EpItem(ep, tfile, fd, events, data)
    tfile.f_ep_links.append(epi)
    ep.items[(tfile, fd)] = epi
    revents = ep_item_poll(epi, PollTable(partial(ep_ptable_queue_proc, epi)), 1)
    if revents and epi not in ep.rdllist:
        ep.rdllist[epi] = None
        if ep.wq.entries:
            wake_up(ep.wq)
        if ep.poll_wait.entries:
            ep_poll_safewake(ep.poll_wait)


@may_sleep
def ep_modify(ep: EventPoll, epi: EpItem, events: int, data: int) -> None:
    """EPOLL_CTL_MOD."""
    epi.events = events
    epi.data = data
    if ep_item_poll(epi, PollTable(), 1) and epi not in ep.rdllist:
        ep.rdllist[epi] = None
        if ep.wq.entries:
            wake_up(ep.wq)
        if ep.poll_wait.entries:
            ep_poll_safewake(ep.poll_wait)


def ep_loop_check(ep: EventPoll, file: File) -> None:
    """Raises ELOOP if watching `file` would close a circle or nest more than 5 deep."""
    stack = [(file, 1)]
    while stack:
        inner, depth = stack.pop()
        inner_ep: EventPoll = inner.private_data
        if inner_ep is ep or depth > EP_MAX_NESTS:
            raise KernelError(ELOOP)
        stack += [(epi.file, depth + 1) for epi in inner_ep.items.values() if is_file_epoll(epi.file)]
    above = [(ep, 1)]
    while above:
        outer, depth = above.pop()
        if depth > EP_MAX_NESTS:
            raise KernelError(ELOOP)
        above += [(epi.ep, depth + 1) for epi in outer.file.f_ep_links]


@may_sleep
def do_epoll_ctl(epfd: int, op: int, fd: int, event: tuple[int, int]) -> int:
    """epoll_ctl(2). Raises EBADF, EPERM, EINVAL, EEXIST, ENOENT, ELOOP."""
    epfile = fdget(epfd)
    tfile = fdget(fd)
    if not file_can_poll(tfile):
        raise KernelError(EPERM)
    events, data = event
    events &= ~EPOLLWAKEUP
    if epfile is tfile or not is_file_epoll(epfile):
        raise KernelError(EINVAL)
    if op != EPOLL_CTL_DEL and events & EPOLLEXCLUSIVE:
        if op == EPOLL_CTL_MOD:
            raise KernelError(EINVAL)
        if op == EPOLL_CTL_ADD and (is_file_epoll(tfile) or events & ~EPOLLEXCLUSIVE_OK_BITS):
            raise KernelError(EINVAL)
    ep: EventPoll = epfile.private_data
    mutex_lock(ep.mtx)
    try:
        epi = ep.items.get((tfile, fd))
        if op == EPOLL_CTL_ADD:
            if epi is not None:
                raise KernelError(EEXIST)
            if is_file_epoll(tfile):
                ep_loop_check(ep, tfile)
            ep_insert(ep, events | POLLERR | POLLHUP, data, tfile, fd)
        elif op == EPOLL_CTL_DEL:
            if epi is None:
                raise KernelError(ENOENT)
            ep_remove(ep, epi)
        elif op == EPOLL_CTL_MOD:
            if epi is None:
                raise KernelError(ENOENT)
            if epi.events & EPOLLEXCLUSIVE:
                raise KernelError(EINVAL)
            ep_modify(ep, epi, events | POLLERR | POLLHUP, data)
        else:
            raise KernelError(EINVAL)
    finally:
        mutex_unlock(ep.mtx)
    return 0


@syscall(gaps="EPOLLWAKEUP, max_user_watches")
def sys_epoll_ctl(epfd: int, op: int, fd: int, event: UserPtr) -> int:
    """epoll_ctl(2). Errors: EBADF, EPERM, EINVAL, EEXIST, ENOENT, ELOOP, EFAULT."""
    words = (0, 0)
    if op != EPOLL_CTL_DEL:
        words = _EVENT.unpack(copy_from_user(event, 12))
    return do_epoll_ctl(epfd, op, fd, words)


# ---- waiting -----------------------------------------------------------------------------------------------
def ep_send_events(ep: EventPoll, events: UserPtr, maxevents: int) -> int:
    """Copies ready events out, at most maxevents; answers how many. Raises EFAULT before the first."""
    return ep_scan_ready_list(ep, partial(ep_send_events_proc, ep, events, maxevents))


@may_sleep
def ep_scan_ready_list(ep: EventPoll, sproc: Callable[[dict[EpItem, None]], int]) -> int:
    """Lends the ready list to `sproc`; what it leaves there comes first on the new list."""
    mutex_lock(ep.mtx)
    try:
        txlist = ep.rdllist
        ep.rdllist = {}
        try:
            return sproc(txlist)
        finally:
            for epi in ep.rdllist:
                txlist[epi] = None
            ep.rdllist = txlist
            if txlist and ep.wq.entries:
                wake_up(ep.wq)
    finally:
        mutex_unlock(ep.mtx)


@may_sleep
def ep_send_events_proc(ep: EventPoll, events: UserPtr, maxevents: int, head: dict[EpItem, None]) -> int:
    records = bytearray()
    pt = PollTable()
    ready: list[EpItem] = []
    limit = maxevents * 12
    for epi in list(head):
        if len(records) >= limit:
            break
        head.pop(epi, None)
        if epi.ep.items.get((epi.file, epi.fd)) is not epi:
            continue
        revents = ep_item_poll(epi, pt, 1)
        if revents:
            records += _EVENT.pack(revents, epi.data)
            ready.append(epi)
    try:
        copy_to_user(events, records)
    except KernelError:
        head.update(dict.fromkeys(ready))
        raise KernelError(EFAULT) from None
    for epi in ready:
        if epi.events & EPOLLONESHOT:
            epi.events &= EP_PRIVATE_BITS
        elif not epi.events & EPOLLET:
            head[epi] = None
    return len(ready)


@may_sleep
def ep_poll(ep: EventPoll, events: UserPtr, maxevents: int, timeout_ns: int | None) -> int:
    """Sleeps until something is ready. timeout_ns: 0 only asks, None waits for ever. Raises EINTR, EFAULT."""
    task = register.task
    timed_out = timeout_ns == 0
    end_time = timespec64_add_safe(ktime_get_ts64(), timeout_ns) if timeout_ns else None
    wait: WaitQueueEntry | None = None
    slack = select_estimate_accuracy(end_time) if end_time else 0
    try:
        while True:
            if ep.rdllist:
                count = ep_send_events(ep, events, maxevents)
                if count:
                    return count
            if timed_out:
                return 0
            if wait is None:
                wait = WaitQueueEntry(default_wake_function, task, None, WQ_FLAG_EXCLUSIVE)
                wait.head = ep.wq
                ep.wq.entries.insert(0, wait)         # __add_wait_queue_exclusive(): the newest is woken first
            while True:
                task.state = TASK_INTERRUPTIBLE
                if ep.rdllist:
                    break
                if signal_pending(task):
                    raise KernelError(EINTR)
                if not schedule_hrtimeout_range(end_time, slack, HRTIMER_MODE_ABS):
                    timed_out = True
                    break
            task.state = TASK_RUNNING
    finally:
        task.state = TASK_RUNNING
        if wait is not None:
            remove_wait_queue(ep.wq, wait)


@may_sleep
def do_epoll_wait(epfd: int, events: UserPtr, maxevents: int, timeout_ns: int | None) -> int:
    """epoll_wait(2). Raises EINVAL, EFAULT, EBADF, EINTR."""
    if not 0 < maxevents <= EP_MAX_EVENTS:
        raise KernelError(EINVAL)
    if events + maxevents * 12 > 0x7FFF_FFFF_F000:
        raise KernelError(EFAULT)
    file = fdget(epfd)
    shared = register.task.files.count > 1           # another thread may close it: fdget() takes a reference then
    if shared:
        file.f_count += 1
    try:
        if not is_file_epoll(file):
            raise KernelError(EINVAL)
        return ep_poll(file.private_data, events, maxevents, timeout_ns)
    finally:
        if shared:
            fput(file)


@notrace
def _timeout_ns(timeout: int) -> int | None:
    """A timeout in ms, negative for none."""
    return None if timeout < 0 else timeout * 1_000_000


@syscall
def sys_epoll_wait(epfd: int, events: UserPtr, maxevents: int, timeout: int) -> int:
    """epoll_wait(2). timeout in ms. Errors: EBADF, EINVAL, EFAULT, EINTR."""
    return do_epoll_wait(epfd, events, maxevents, _timeout_ns(timeout))


@syscall
def sys_epoll_pwait(epfd: int, events: UserPtr, maxevents: int, timeout: int, sigmask: UserPtr,
                    sigsetsize: size_t) -> int:
    """epoll_pwait(2)."""
    return wait_with_sigmask(
        sigmask, sigsetsize, partial(do_epoll_wait, epfd, events, maxevents, _timeout_ns(timeout)))


@notrace
def _timespec_ns(address: UserPtr) -> int | None:
    """A timespec as ns; None for NULL. Raises EFAULT, EINVAL."""
    if not address:
        return None
    sec, nsec = struct.unpack("<qq", copy_from_user(address, 16))
    if sec < 0 or not 0 <= nsec < 1_000_000_000:
        raise KernelError(EINVAL)
    return int(sec * 1_000_000_000 + nsec)


@syscall
def sys_epoll_pwait2(epfd: int, events: UserPtr, maxevents: int, timeout: UserPtr, sigmask: UserPtr,
                     sigsetsize: size_t) -> int:
    """epoll_pwait2(2), newer than 5.3: the timeout is a timespec."""
    return wait_with_sigmask(
        sigmask, sigsetsize, partial(do_epoll_wait, epfd, events, maxevents, _timespec_ns(timeout)))


# ---- the file ----------------------------------------------------------------------------------------------
def ep_eventpoll_release(inode: Inode, file: File) -> None:
    """->release(): all items end."""
    ep: EventPoll = file.private_data
    for epi in list(ep.items.values()):
        ep_remove(ep, epi)


def ep_show_fdinfo(file: File) -> bytes:
    """->show_fdinfo()"""
    ep: EventPoll = file.private_data
    lines = []
    for epi in ep.items.values():
        inode = epi.file.f_inode
        lines.append(b"tfd: %8d events: %8x data: %16x  pos:%d ino:%x sdev:%x\n" % (
            epi.fd, epi.events, epi.data, epi.file.f_pos, inode.i_ino, inode.i_sb.s_dev))
    return b"".join(lines)


eventpoll_fops = FileOperations(
    release=ep_eventpoll_release, poll=ep_eventpoll_poll, llseek=noop_llseek, show_fdinfo=ep_show_fdinfo)


def do_epoll_create(flags: int) -> int:
    """epoll_create1(2). Raises EINVAL, EMFILE, ENFILE."""
    if flags & ~O_CLOEXEC:
        raise KernelError(EINVAL)
    ep = EventPoll()
    fd = get_unused_fd_flags(O_RDWR | flags & O_CLOEXEC)
    try:
        ep.file = anon_inode_getfile(b"[eventpoll]", eventpoll_fops, ep, O_RDWR | flags & O_CLOEXEC)
    except KernelError:
        put_unused_fd(fd)
        raise
    fd_install(fd, ep.file)
    return fd


@syscall
def sys_epoll_create1(flags: int) -> int:
    """epoll_create1(2)."""
    return do_epoll_create(flags)


@syscall
def sys_epoll_create(size: int) -> int:
    """epoll_create(2). Errors: EINVAL for a size <= 0."""
    if size <= 0:
        raise KernelError(EINVAL)
    return do_epoll_create(0)
