"""poll(2), ppoll(2), select(2), pselect6(2).

Linux: fs/select.c (5.3). Same: the queue is joined in the first pass only, POLLNVAL for closed descriptors,
restart of poll after a stop, remaining time written back by ppoll and pselect6.
Differs: select works on Python ints as bit sets. Gaps: busy polling.
Invariant: poll_freewait() runs for each poll_initwait().
"""
from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, get_user_u64
from glasskernel.fs.file import fdget
from glasskernel.fs.file_table import fput
from glasskernel.fs.poll import poll_wait, vfs_poll
from glasskernel.fs.types import (
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLNVAL,
    POLLOUT,
    POLLPRI,
    POLLRDBAND,
    POLLRDNORM,
    POLLWRBAND,
    POLLWRNORM,
    PollTable,
)
from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import signal_pending
from glasskernel.kernel.sched.wait import (
    WaitQueueEntry,
    WaitQueueHead,
    add_wait_queue,
    default_wake_function,
    remove_wait_queue,
)
from glasskernel.kernel.signal import restore_saved_sigmask_unless, set_user_sigmask
from glasskernel.kernel.task import RLIMIT_NOFILE, TASK_INTERRUPTIBLE, TASK_RUNNING
from glasskernel.kernel.time.hrtimer import HRTIMER_MODE_ABS, schedule_hrtimeout_range
from glasskernel.kernel.time.timekeeping import ktime_get_ts64, timespec64_add_safe
from glasskernel.lib.errno import (
    EBADF,
    EINTR,
    EINVAL,
    ERESTART_RESTARTBLOCK,
    ERESTARTNOHAND,
    KernelError,
    Restart,
)
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, size_t, u32

if TYPE_CHECKING:
    from glasskernel.fs.types import File

__all__ = ["PollWqueues", "do_select", "do_sys_poll", "poll_freewait", "poll_initwait", "poll_wait"]

POLLIN_SET = POLLRDNORM | POLLRDBAND | POLLIN | POLLHUP | POLLERR
POLLOUT_SET = POLLWRBAND | POLLWRNORM | POLLOUT | POLLERR
POLLEX_SET = POLLPRI
_POLLFD = struct.Struct("<ihH")
NSEC_PER_SEC = 1_000_000_000


class PollWqueues:
    """struct poll_wqueues: one poll under way. entries: (file, queue, entry) joined so far."""

    __slots__ = ("entries", "pt", "task", "triggered")

    def __init__(self) -> None:
        self.entries: list[tuple[File, WaitQueueHead, WaitQueueEntry]] = []
        self.pt = PollTable()                    # poll_initwait() adds __pollwait (in a class Python mangles it)
        self.task = register.task
        self.triggered = False


def __pollwait(pwq: PollWqueues, filp: File, wait_address: WaitQueueHead) -> None:
    """poll_wait()'s answer to poll and select: joins the queue, with a reference on the file."""
    filp.f_count += 1
    entry = WaitQueueEntry(pollwake, pwq.task, (pwq, pwq.pt.key))
    pwq.entries.append((filp, wait_address, entry))
    add_wait_queue(wait_address, entry)


def pollwake(wait: WaitQueueEntry, mode: int, sync: int, key: Any) -> int:
    """Wakes the poller, if it asked for one of these events."""
    pwq, wanted = wait.data
    if key and not key & wanted:
        return 0
    pwq.triggered = True
    return default_wake_function(wait, mode, sync, key)


@notrace
def poll_initwait() -> PollWqueues:
    """Begins a poll."""
    pwq = PollWqueues()
    pwq.pt.queue = partial(__pollwait, pwq)
    return pwq


@may_sleep
def poll_freewait(pwq: PollWqueues) -> None:
    """Ends a poll: leaves all queues."""
    for filp, queue, entry in pwq.entries:
        remove_wait_queue(queue, entry)
        fput(filp)


@may_sleep
@notrace
def poll_schedule_timeout(pwq: PollWqueues, state: int, expires: int | None, slack: int) -> bool:
    """Sleeps unless something triggered meanwhile. False: the time is over."""
    task = register.task
    awake = True
    task.state = state
    if not pwq.triggered:
        awake = bool(schedule_hrtimeout_range(expires, slack, HRTIMER_MODE_ABS))
    task.state = TASK_RUNNING
    pwq.triggered = False
    return awake


def select_estimate_accuracy(end_time: int) -> int:
    """How much later than asked a sleep may end, in ns: 0.1 % of it, at least the task's slack."""
    slack = (end_time - ktime_get_ts64()) // 1000
    return max(min(slack, 100_000_000), register.task.timer_slack_ns)


def poll_select_set_timeout(sec: int, nsec: int) -> int:
    """The moment a timeout is over, 0 for one that is over at once. Raises EINVAL."""
    if sec < 0 or not 0 <= nsec < NSEC_PER_SEC:
        raise KernelError(EINVAL)
    if not sec and not nsec:
        return 0
    return timespec64_add_safe(ktime_get_ts64(), sec * NSEC_PER_SEC + nsec)


@notrace
def poll_select_copy_remaining(end_time: int | None, address: UserPtr, unit: int) -> None:
    """Writes the time that is left to where the timeout came from (unit: ns per tv_usec or tv_nsec)."""
    if address and end_time:
        left = max(end_time - ktime_get_ts64(), 0)
        with suppress(KernelError):                # in read-only memory: the answer counts more
            copy_to_user(address, struct.pack("<qq", left // NSEC_PER_SEC, left % NSEC_PER_SEC // unit))


# ---- poll --------------------------------------------------------------------------------------------------
@notrace
def do_pollfd(fd: int, events: int, pt: PollTable) -> int:
    """The events of one descriptor."""
    if fd < 0:
        return 0
    try:
        file = fdget(fd)
    except KernelError:
        return POLLNVAL
    wanted = events | POLLERR | POLLHUP
    pt.key = wanted
    return file.f_op.poll(file, pt) & wanted


@may_sleep
def do_poll(fds: list[tuple[int, int]], revents: list[int], wait: PollWqueues, end_time: int | None) -> int:
    """Asks all, sleeps until one is ready; answers how many are. end_time: 0 only asks, None waits for ever."""
    pt = wait.pt
    timed_out = end_time == 0
    if timed_out:
        pt.queue = None
    slack = select_estimate_accuracy(end_time) if end_time else 0
    task = register.task
    while True:
        count = 0
        for index, (fd, events) in enumerate(fds):
            mask = do_pollfd(fd, events, pt)
            revents[index] = mask
            if mask:
                count += 1
                pt.queue = None
        pt.queue = None                            # all queues are joined now
        if not count and signal_pending(task):
            raise Restart(ERESTARTNOHAND)
        if count or timed_out:
            return count
        if not poll_schedule_timeout(wait, TASK_INTERRUPTIBLE, end_time, slack):
            timed_out = True


@may_sleep
def do_sys_poll(ufds: UserPtr, nfds: int, end_time: int | None) -> int:
    """poll(2) between copying in and out. Raises EINVAL, EFAULT, Restart."""
    if nfds > register.task.signal.rlim[RLIMIT_NOFILE][0]:
        raise KernelError(EINVAL)
    data = bytearray(copy_from_user(ufds, nfds * 8))
    fds = [(fd, events & 0xFFFF) for fd, events, _ in _POLLFD.iter_unpack(data)]
    revents = [0] * nfds
    table = poll_initwait()
    try:
        count = do_poll(fds, revents, table, end_time)
    finally:
        poll_freewait(table)
    for index, mask in enumerate(revents):
        struct.pack_into("<H", data, index * 8 + 6, mask & 0xFFFF)
    copy_to_user(ufds, data)
    return count


@syscall
def sys_poll(ufds: UserPtr, nfds: u32, timeout_msecs: int) -> int:
    """poll(2). Errors: EINVAL (more than RLIMIT_NOFILE), EFAULT, EINTR."""
    end_time = None
    if timeout_msecs >= 0:
        end_time = poll_select_set_timeout(timeout_msecs // 1000, timeout_msecs % 1000 * 1_000_000)
    try:
        return do_sys_poll(ufds, nfds, end_time)
    except Restart:
        register.task.restart_block = partial(do_restart_poll, ufds, nfds, end_time)
        raise Restart(ERESTART_RESTARTBLOCK) from None


@may_sleep
def do_restart_poll(ufds: UserPtr, nfds: int, end_time: int | None) -> int:
    """restart_syscall(2) of a poll."""
    try:
        return do_sys_poll(ufds, nfds, end_time)
    except Restart:
        register.task.restart_block = partial(do_restart_poll, ufds, nfds, end_time)
        raise Restart(ERESTART_RESTARTBLOCK) from None


@notrace
def set_mask_from_user(sigmask: UserPtr, sigsetsize: int) -> None:
    """The signal mask argument of ppoll and its kind; NULL is none. Raises EINVAL, EFAULT."""
    if sigmask:
        if sigsetsize != 8:
            raise KernelError(EINVAL)
        set_user_sigmask(get_user_u64(sigmask))


@notrace
def wait_with_sigmask(sigmask: UserPtr, sigsetsize: int, wait: Callable[[], int]) -> int:
    """wait() under the signal mask of epoll_pwait(2) and its kind. Raises EINVAL, EFAULT, and what wait() does."""
    set_mask_from_user(sigmask, sigsetsize)
    interrupted = False
    try:
        return wait()
    except KernelError as error:
        interrupted = error.errno == EINTR
        raise
    finally:
        restore_saved_sigmask_unless(interrupted)


@notrace
def get_timeout(address: UserPtr, unit: int) -> int | None:
    """A timespec (unit 1) or timeval (1000) as the moment it is over; None for NULL. Raises EFAULT, EINVAL."""
    if not address:
        return None
    sec, fraction = struct.unpack("<qq", copy_from_user(address, 16))
    if unit == 1000:
        if fraction < 0:
            raise KernelError(EINVAL)
        sec += fraction // 1_000_000
        fraction = fraction % 1_000_000 * 1000
    return poll_select_set_timeout(sec, fraction)


@syscall
def sys_ppoll(ufds: UserPtr, nfds: u32, tsp: UserPtr, sigmask: UserPtr, sigsetsize: size_t) -> int:
    """ppoll(2). Errors: EINVAL, EFAULT, EINTR."""
    end_time = get_timeout(tsp, 1)
    set_mask_from_user(sigmask, sigsetsize)
    interrupted = False
    try:
        return do_sys_poll(ufds, nfds, end_time)
    except Restart:
        interrupted = True
        if tsp and end_time:
            raise KernelError(EINTR) from None     # the time that was left is written back: no restart
        raise
    finally:
        restore_saved_sigmask_unless(interrupted)
        poll_select_copy_remaining(end_time, tsp, 1)


# ---- select ------------------------------------------------------------------------------------------------
@may_sleep
def do_select(n: int, sets: tuple[int, int, int], end_time: int | None) -> tuple[int, int, int, int]:
    """(count, readable, writable, exceptional) as bit sets. Raises EBADF, Restart."""
    ins, outs, exs = sets
    watched = ins | outs | exs
    fds = []
    opened = register.task.files.fd
    for fd in range(n):
        if watched >> fd & 1:
            if fd >= len(opened) or opened[fd] is None:
                raise KernelError(EBADF)
            fds.append(fd)
    table = poll_initwait()
    wait = table.pt
    timed_out = end_time == 0
    if timed_out:
        wait.queue = None
    slack = select_estimate_accuracy(end_time) if end_time else 0
    task = register.task
    try:
        while True:
            count = rin = rout = rex = 0
            for fd in fds:
                bit = 1 << fd
                try:
                    file = fdget(fd)
                except KernelError:
                    continue
                key = POLLEX_SET
                if ins & bit:
                    key |= POLLIN_SET
                if outs & bit:
                    key |= POLLOUT_SET
                wait.key = key
                mask = vfs_poll(file, wait)
                if mask & POLLIN_SET and ins & bit:
                    rin |= bit
                    count += 1
                    wait.queue = None
                if mask & POLLOUT_SET and outs & bit:
                    rout |= bit
                    count += 1
                    wait.queue = None
                if mask & POLLEX_SET and exs & bit:
                    rex |= bit
                    count += 1
                    wait.queue = None
            wait.queue = None
            if count or timed_out:
                return count, rin, rout, rex
            if signal_pending(task):
                raise Restart(ERESTARTNOHAND)
            if not poll_schedule_timeout(table, TASK_INTERRUPTIBLE, end_time, slack):
                timed_out = True
    finally:
        poll_freewait(table)


@may_sleep
def core_sys_select(n: int, inp: UserPtr, outp: UserPtr, exp: UserPtr, end_time: int | None) -> int:
    """select(2) between copying in and out. Raises EINVAL, EBADF, EFAULT, Restart."""
    if n < 0:
        raise KernelError(EINVAL)
    table_size = max(64, 1 << (len(register.task.files.fd) - 1).bit_length())
    n = min(n, table_size)
    size = (n + 63) // 64 * 8
    limit = (1 << n) - 1
    pointers = (inp, outp, exp)
    ins, outs, exs = (int.from_bytes(copy_from_user(p, size), "little") & limit if p else 0 for p in pointers)
    count, *results = do_select(n, (ins, outs, exs), end_time)
    for pointer, result in zip(pointers, results):
        if pointer:
            copy_to_user(pointer, result.to_bytes(size, "little"))
    return count


@may_sleep
def kern_select(n: int, inp: UserPtr, outp: UserPtr, exp: UserPtr, tvp: UserPtr) -> int:
    """select(2)."""
    end_time = get_timeout(tvp, 1000)
    try:
        return core_sys_select(n, inp, outp, exp, end_time)
    except Restart:
        if tvp and end_time:
            raise KernelError(EINTR) from None
        raise
    finally:
        poll_select_copy_remaining(end_time, tvp, 1000)


@syscall
def sys_select(n: int, inp: UserPtr, outp: UserPtr, exp: UserPtr, tvp: UserPtr) -> int:
    """select(2). Errors: EBADF, EINVAL, EFAULT, EINTR."""
    return kern_select(n, inp, outp, exp, tvp)


@syscall
def sys_pselect6(n: int, inp: UserPtr, outp: UserPtr, exp: UserPtr, tsp: UserPtr, sig: UserPtr) -> int:
    """pselect6(2). sig: a pointer to the mask's address and size."""
    end_time = get_timeout(tsp, 1)
    if sig:
        mask, size = struct.unpack("<QQ", copy_from_user(sig, 16))
        set_mask_from_user(mask, size)
    interrupted = False
    try:
        return core_sys_select(n, inp, outp, exp, end_time)
    except Restart:
        interrupted = True
        if tsp and end_time:
            raise KernelError(EINTR) from None
        raise
    finally:
        restore_saved_sigmask_unless(interrupted)
        poll_select_copy_remaining(end_time, tsp, 1)
