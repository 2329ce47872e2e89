"""Interval timers: setitimer(2), getitimer(2), alarm(2).

Linux: kernel/time/itimer.c (5.3). Same: ITIMER_REAL is an hrtimer of the process; VIRTUAL and PROF are looked
at by the tick. Differs: ITIMER_REAL rearms itself when it fires, not when its signal is taken.
Owns: signal.real_timer (its data: (signal, interval)), signal.it.
Context: task, unless noted.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.cputime import thread_group_cputime
from glasskernel.kernel.signal import kill_pid_info
from glasskernel.kernel.signal_types import SEND_SIG_PRIV, SIGALRM
from glasskernel.kernel.time.hrtimer import (
    base_time,
    hrtimer_active,
    hrtimer_cancel,
    hrtimer_forward,
    hrtimer_get_remaining,
    hrtimer_init,
    hrtimer_start,
)
from glasskernel.kernel.time.posix_timers import delete_posix_timers
from glasskernel.kernel.time.types import (
    CLOCK_MONOTONIC,
    HRTIMER_MODE_REL,
    HRTIMER_NORESTART,
    HRTIMER_RESTART,
    KTIME_MAX,
    NSEC_PER_SEC,
    NSEC_PER_USEC,
    TICK_NSEC,
    Hrtimer,
)
from glasskernel.lib.errno import EFAULT, EINVAL, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, notrace, s64, u32
from glasskernel.lib.uapi import Layout, uapi

if TYPE_CHECKING:
    from glasskernel.kernel.task import SignalStruct, TaskStruct

ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF = 0, 1, 2


@uapi("include/uapi/linux/time.h", size=32)
class Itimerval(Layout):
    interval_sec: s64
    interval_usec: s64
    value_sec: s64
    value_usec: s64


def it_real_fn(timer: Hrtimer) -> int:
    """ITIMER_REAL fires. Context: irq."""
    sig, incr = timer.data
    probe = sig.group_leader.kernel.tp.itimer_expire
    if probe is not None:
        probe(ITIMER_REAL, sig.group_leader.thread_pid, 0)
    with suppress(KernelError):                  # the process may just have been released
        kill_pid_info(SIGALRM, SEND_SIG_PRIV, sig.group_leader.thread_pid)
    if not incr:
        return HRTIMER_NORESTART
    hrtimer_forward(timer, base_time(timer.base), incr)
    return HRTIMER_RESTART


def itimer_get_remtime(timer: Hrtimer) -> int:
    """ns until it fires; 0: it is not armed. An armed one that is just due has 1 us left."""
    if not hrtimer_active(timer):
        return 0
    rem = hrtimer_get_remaining(timer)
    return rem if rem > 0 else NSEC_PER_USEC


@notrace
def sample(task: TaskStruct, which: int) -> int:
    utime, stime, _ = thread_group_cputime(task)
    return utime if which == ITIMER_VIRTUAL else utime + stime


def do_getitimer(which: int) -> tuple[int, int]:
    """(value, interval) in ns. Raises EINVAL."""
    task = current()
    sig = task.signal
    if which == ITIMER_REAL:
        timer = sig.real_timer
        return (0, 0) if timer is None else (itimer_get_remtime(timer), timer.data[1])
    if which in (ITIMER_VIRTUAL, ITIMER_PROF):
        return get_cpu_itimer(task, which)
    raise KernelError(EINVAL)


def get_cpu_itimer(task: TaskStruct, which: int) -> tuple[int, int]:
    expires, incr = task.signal.it[which - 1]
    if not expires:
        return 0, incr
    left = expires - sample(task, which)
    return (left if left > 0 else TICK_NSEC), incr


def do_setitimer(which: int, value: int, interval: int) -> tuple[int, int]:
    """Sets a timer, in ns (value 0: off). Returns what it was before. Raises EINVAL."""
    task = current()
    sig = task.signal
    old = do_getitimer(which)
    if which == ITIMER_REAL:
        timer = sig.real_timer
        if timer is None:
            if not value:
                return old
            timer = sig.real_timer = Hrtimer(it_real_fn)
            hrtimer_init(timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL)
        hrtimer_cancel(timer)
        if value:
            timer.data = (sig, interval)
            hrtimer_start(timer, value, HRTIMER_MODE_REL)
        else:
            timer.data = (sig, 0)
        probe = task.kernel.tp.itimer_state
        if probe is not None:
            probe(ITIMER_REAL, value, interval, 0)
    else:
        set_cpu_itimer(task, which, value, interval)
    return old


def set_cpu_itimer(task: TaskStruct, which: int, value: int, interval: int) -> None:
    """A tick later than asked for: the current tick is not used up from its beginning."""
    expires = sample(task, which) + value + TICK_NSEC if value else 0
    task.signal.it[which - 1] = (expires, interval)
    probe = task.kernel.tp.itimer_state
    if probe is not None:
        probe(which, value, interval, value and value + TICK_NSEC)


def exit_itimers(sig: SignalStruct) -> None:
    """exec, or the end of the process: its POSIX timers go; at the end also ITIMER_REAL."""
    delete_posix_timers(sig)
    if not sig.live and sig.real_timer is not None:
        hrtimer_cancel(sig.real_timer)
        sig.real_timer = None


# ---- system calls -----------------------------------------------------------------------------------------
@notrace
def put_itimerval(value: int, interval: int, address: int) -> None:
    copy_to_user(address, Itimerval.STRUCT.pack(
        interval // NSEC_PER_SEC, interval % NSEC_PER_SEC // NSEC_PER_USEC,
        value // NSEC_PER_SEC, value % NSEC_PER_SEC // NSEC_PER_USEC))


@notrace
def get_itimerval(address: int) -> tuple[int, int]:
    """(value, interval) in ns. Raises EFAULT, EINVAL."""
    i_sec, i_usec, v_sec, v_usec = Itimerval.STRUCT.unpack(copy_from_user(address, 32))
    for sec, usec in ((i_sec, i_usec), (v_sec, v_usec)):
        if sec < 0 or not 0 <= usec < 1_000_000:
            raise KernelError(EINVAL)
    value = v_sec * NSEC_PER_SEC + v_usec * NSEC_PER_USEC
    return min(value, KTIME_MAX), min(i_sec * NSEC_PER_SEC + i_usec * NSEC_PER_USEC, KTIME_MAX)


@syscall
def sys_getitimer(which: int, value: UserPtr) -> int:
    """getitimer(2). Errors: EINVAL, EFAULT."""
    if not value:
        raise KernelError(EFAULT)
    left, interval = do_getitimer(which)
    put_itimerval(left, interval, value)
    return 0


@syscall
def sys_setitimer(which: int, value: UserPtr, ovalue: UserPtr) -> int:
    """setitimer(2); a NULL value switches the timer off. Errors: EINVAL, EFAULT."""
    new, interval = get_itimerval(value) if value else (0, 0)
    left, old_interval = do_setitimer(which, new, interval)
    if ovalue:
        put_itimerval(left, old_interval, ovalue)
    return 0


@syscall
def sys_alarm(seconds: u32) -> int:
    """alarm(2): the seconds that were left, rounded, at least 1."""
    return alarm_setitimer(seconds)


def alarm_setitimer(seconds: int) -> int:
    left, _ = do_setitimer(ITIMER_REAL, seconds * NSEC_PER_SEC, 0)
    usec = left % NSEC_PER_SEC // NSEC_PER_USEC
    result = left // NSEC_PER_SEC
    if (not result and usec) or usec >= 500_000:
        result += 1
    return result
