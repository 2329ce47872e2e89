"""High-resolution timers: what must happen at a time, to the ns.

Linux: kernel/time/hrtimer.c (5.3). Same: four clock bases per CPU, a soft and a hard expiry (timer slack),
the interrupt runs what is due and programs the next event; nanosleep and its restart.
Differs: a base's tree is a sorted list. A timer that is cancelled on another CPU leaves its interrupt
    programmed (as in Linux). Gaps: soft-interrupt bases (HRTIMER_MODE_SOFT).
Owns: kernel.time.hrtimer_bases.
Invariants: timer.state is ENQUEUED exactly while (expires, sequence, timer) lies in timer.base.active; the
    device of a CPU is set to its earliest expiry, or earlier.
Context: any, unless noted.
"""
from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.kernel.current import current, register
from glasskernel.kernel.sched.core import schedule, signal_pending, wake_up_process
from glasskernel.kernel.sched.types import MAX_RT_PRIO
from glasskernel.kernel.task import TASK_INTERRUPTIBLE, TASK_RUNNING
from glasskernel.kernel.time.clockevents import tick_program_event
from glasskernel.kernel.time.timekeeping import ktime_get
from glasskernel.kernel.time.types import (
    CLOCK_BOOTTIME,
    CLOCK_BOOTTIME_ALARM,
    CLOCK_MONOTONIC,
    CLOCK_REALTIME,
    CLOCK_REALTIME_ALARM,
    CLOCK_TAI,
    HRTIMER_BASE_BOOTTIME,
    HRTIMER_BASE_MONOTONIC,
    HRTIMER_BASE_REALTIME,
    HRTIMER_BASE_TAI,
    HRTIMER_MODE_ABS,
    HRTIMER_MODE_REL,
    HRTIMER_NORESTART,
    HRTIMER_RESTART,
    HRTIMER_STATE_ENQUEUED,
    HRTIMER_STATE_INACTIVE,
    KTIME_MAX,
    NSEC_PER_SEC,
    Hrtimer,
    HrtimerClockBase,
    HrtimerCpuBase,
)
from glasskernel.lib.errno import ERESTART_RESTARTBLOCK, ERESTARTNOHAND, Restart
from glasskernel.lib.types import may_sleep, notrace, s64
from glasskernel.lib.uapi import Layout, uapi

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

__all__ = [
    "CLOCK_BOOTTIME", "CLOCK_MONOTONIC", "CLOCK_REALTIME", "CLOCK_TAI", "HRTIMER_MODE_ABS",
    "HRTIMER_MODE_REL", "HRTIMER_NORESTART", "HRTIMER_RESTART", "KTIME_MAX", "Hrtimer", "clock_was_set",
    "do_nanosleep", "hrtimer_active", "hrtimer_cancel", "hrtimer_forward", "hrtimer_forward_now",
    "hrtimer_get_next_event", "hrtimer_get_remaining", "hrtimer_init", "hrtimer_init_sleeper",
    "hrtimer_interrupt", "hrtimer_is_queued", "hrtimer_nanosleep", "hrtimer_restart", "hrtimer_start",
    "hrtimer_start_expires", "hrtimer_start_range_ns", "hrtimer_try_to_cancel", "schedule_hrtimeout",
    "schedule_hrtimeout_range", "schedule_hrtimeout_range_clock",
]

HRTIMER_EXPIRED_NS = 200           # what running one timer function costs in virtual time

_BASE_OF_CLOCK = {
    CLOCK_REALTIME: HRTIMER_BASE_REALTIME, CLOCK_MONOTONIC: HRTIMER_BASE_MONOTONIC,
    CLOCK_BOOTTIME: HRTIMER_BASE_BOOTTIME, CLOCK_TAI: HRTIMER_BASE_TAI,
    CLOCK_REALTIME_ALARM: HRTIMER_BASE_REALTIME, CLOCK_BOOTTIME_ALARM: HRTIMER_BASE_BOOTTIME,
}


@notrace
def base_offset(kernel: Kernel, index: int) -> int:
    """What to add to CLOCK_MONOTONIC for the clock of a base."""
    if index == HRTIMER_BASE_MONOTONIC:
        return 0
    time = kernel.time
    if index == HRTIMER_BASE_REALTIME:
        return time.offs_real
    if index == HRTIMER_BASE_BOOTTIME:
        return time.offs_boot
    return time.offs_real + time.tai_offset * NSEC_PER_SEC


@notrace
def base_time(base: HrtimerClockBase) -> int:
    """Now, on the clock of a base."""
    kernel = base.cpu_base.kernel
    return kernel.machine.now() + base_offset(kernel, base.index)


def hrtimer_init(timer: Hrtimer, clock_id: int, mode: int) -> None:
    """Prepares a timer on a clock; set timer.function afterwards."""
    __hrtimer_init(timer, clock_id, mode)


def __hrtimer_init(timer: Hrtimer, clock_id: int, mode: int) -> None:
    task = register.task
    base = task.kernel.time.hrtimer_bases[task.cpu]
    probe = task.kernel.tp.hrtimer_init
    if probe is not None:
        probe(timer, clock_id, mode)
    if clock_id == CLOCK_REALTIME and mode != HRTIMER_MODE_ABS:
        clock_id = CLOCK_MONOTONIC               # a distance does not depend on the time of day
    timer.base = base.clock_base[_BASE_OF_CLOCK[clock_id]]
    timer.state = HRTIMER_STATE_INACTIVE
    timer.key = None


@notrace
def hrtimer_start(timer: Hrtimer, tim: int, mode: int) -> None:
    """Arms a timer; rearms a pending one. tim: ns of its clock (MODE_ABS) or from now (MODE_REL)."""
    hrtimer_start_range_ns(timer, tim, 0, mode)


def hrtimer_start_range_ns(timer: Hrtimer, tim: int, delta_ns: int, mode: int) -> None:
    """Arms a timer that may fire up to delta_ns later, together with others."""
    task = register.task
    kernel = task.kernel
    if timer.state:
        remove_hrtimer(timer)
    index = timer.base.index
    base = kernel.time.hrtimer_bases[task.cpu].clock_base[index]       # switch_hrtimer_base()
    timer.base = base
    if mode & HRTIMER_MODE_REL:
        tim += kernel.machine.now() + base_offset(kernel, index)
        if tim > KTIME_MAX:
            tim = KTIME_MAX
    timer.softexpires = tim
    tim += delta_ns
    timer.expires = tim if tim < KTIME_MAX else KTIME_MAX
    if enqueue_hrtimer(timer, base, mode):
        hrtimer_reprogram(timer)


@notrace
def hrtimer_start_expires(timer: Hrtimer, mode: int) -> None:
    """Arms a timer with the expiry that it has."""
    hrtimer_start_range_ns(timer, timer.softexpires, timer.expires - timer.softexpires, mode)


@notrace
def hrtimer_restart(timer: Hrtimer) -> None:
    hrtimer_start_expires(timer, HRTIMER_MODE_ABS)


def enqueue_hrtimer(timer: Hrtimer, base: HrtimerClockBase, mode: int) -> int:
    """Queues the timer. Returns 1 if it is now the first of its base."""
    kernel = base.cpu_base.kernel
    probe = kernel.tp.hrtimer_start
    if probe is not None:
        probe(timer, mode)
    time = kernel.time
    time.hrtimer_sequence += 1
    key = (timer.expires, time.hrtimer_sequence, timer)
    timer.key = key
    timer.state = HRTIMER_STATE_ENQUEUED
    active = base.active
    if not active or key < active[0]:
        active.insert(0, key)
        return 1
    insort(active, key)
    return 0


def __remove_hrtimer(timer: Hrtimer) -> None:
    key = timer.key
    assert key is not None
    active = timer.base.active
    if active[0] is key:
        del active[0]
    else:
        del active[bisect_left(active, key[:2])]
    timer.key = None
    timer.state = HRTIMER_STATE_INACTIVE


@notrace
def remove_hrtimer(timer: Hrtimer) -> int:
    """Takes a timer off; the device of this CPU is set to what is first now."""
    if not timer.state:
        return 0
    base = timer.base
    cpu_base = base.cpu_base
    first = base.active[0][2] is timer
    probe = cpu_base.kernel.tp.hrtimer_cancel
    if probe is not None:
        probe(timer)
    __remove_hrtimer(timer)
    if first and cpu_base.cpu == register.task.cpu and not cpu_base.in_hrtirq:
        hrtimer_force_reprogram(cpu_base)
    return 1


def hrtimer_force_reprogram(cpu_base: HrtimerCpuBase) -> None:
    """Sets the device to the earliest expiry, if that changed."""
    expires = __hrtimer_get_next_event(cpu_base)
    if expires == cpu_base.expires_next:
        return
    cpu_base.expires_next = expires
    tick_program_event(cpu_base.kernel, cpu_base.cpu, expires)


@notrace
def hrtimer_reprogram(timer: Hrtimer) -> None:
    """A timer became the first of its base: the device may have to come earlier."""
    base = timer.base
    cpu_base = base.cpu_base
    expires = timer.expires - base_offset(cpu_base.kernel, base.index)
    if expires < 0:
        expires = 0
    if cpu_base.in_hrtirq or expires >= cpu_base.expires_next:
        return
    cpu_base.expires_next = expires
    tick_program_event(cpu_base.kernel, cpu_base.cpu, expires)


@notrace
def __hrtimer_get_next_event(cpu_base: HrtimerCpuBase, exclude: Hrtimer | None = None) -> int:
    """The earliest expiry of all bases, in monotonic ns. exclude: leave this timer out."""
    nearest = KTIME_MAX
    for base in cpu_base.clock_base:
        active = base.active
        if not active:
            continue
        key = active[0]
        if key[2] is exclude:
            if len(active) < 2:
                continue
            key = active[1]
        expires = key[0] - base_offset(cpu_base.kernel, base.index)
        if expires < nearest:
            nearest = expires
    return nearest if nearest > 0 else 0


def hrtimer_get_next_event(cpu_base: HrtimerCpuBase) -> int:
    return __hrtimer_get_next_event(cpu_base)


def hrtimer_next_event_without(cpu_base: HrtimerCpuBase, exclude: Hrtimer) -> int:
    """The earliest expiry but for one timer: the idle loop asks, without its tick."""
    return __hrtimer_get_next_event(cpu_base, exclude)


def hrtimer_try_to_cancel(timer: Hrtimer) -> int:
    """Disarms. 1: it was pending; 0: it was not; -1: its function runs right now."""
    if not hrtimer_active(timer):
        return 0
    if not timer.state:
        return -1
    return remove_hrtimer(timer)


def hrtimer_cancel(timer: Hrtimer) -> int:
    """Disarms. Returns 1 if it was pending. Not from the timer's own function."""
    ret = hrtimer_try_to_cancel(timer)
    assert ret >= 0, "hrtimer_cancel() from the timer's own function"
    return ret


def hrtimer_active(timer: Hrtimer) -> bool:
    """True if it is pending, or its function runs."""
    return bool(timer.state) or timer.base.cpu_base.running is timer


@notrace
def hrtimer_is_queued(timer: Hrtimer) -> bool:
    return bool(timer.state)


@notrace
def hrtimer_get_remaining(timer: Hrtimer) -> int:
    """ns until it fires; negative if it is late."""
    return timer.expires - base_time(timer.base)


@notrace
def hrtimer_expires_remaining(timer: Hrtimer) -> int:
    return timer.expires - base_time(timer.base)


def hrtimer_forward(timer: Hrtimer, now: int, interval: int) -> int:
    """Moves the expiry of a timer that is not queued past `now`, in whole intervals. Returns how many."""
    delta = now - timer.expires
    if delta < 0:
        return 0
    orun = delta // interval + 1
    timer.expires += orun * interval
    timer.softexpires += orun * interval
    if timer.expires > KTIME_MAX:
        timer.expires = timer.softexpires = KTIME_MAX
    return orun


@notrace
def hrtimer_forward_now(timer: Hrtimer, interval: int) -> int:
    return hrtimer_forward(timer, base_time(timer.base), interval)


# ---- the interrupt ----------------------------------------------------------------------------------------
def hrtimer_interrupt(kernel: Kernel, cpu: int) -> None:
    """The device fired: runs what is due, and programs what is next. Context: irq."""
    cpu_base = kernel.time.hrtimer_bases[cpu]
    cpu_base.nr_events += 1
    cpu_base.expires_next = KTIME_MAX
    for _ in range(3):                           # running timers takes time: more may be due then
        now = ktime_get()
        cpu_base.in_hrtirq = True
        __hrtimer_run_queues(cpu_base, now)
        cpu_base.in_hrtirq = False
        expires = __hrtimer_get_next_event(cpu_base)
        if expires > kernel.machine.now():
            break
    cpu_base.expires_next = expires
    tick_program_event(kernel, cpu, expires)


def __hrtimer_run_queues(cpu_base: HrtimerCpuBase, now: int) -> None:
    for base in cpu_base.clock_base:
        active = base.active
        if not active:
            continue
        basenow = now + base_offset(cpu_base.kernel, base.index)
        while active:
            timer = active[0][2]
            if basenow < timer.softexpires:
                break
            __run_hrtimer(cpu_base, base, timer, basenow)


@notrace
def __run_hrtimer(cpu_base: HrtimerCpuBase, base: HrtimerClockBase, timer: Hrtimer, now: int) -> None:
    kernel = cpu_base.kernel
    probe = kernel.tp.hrtimer_cancel
    if probe is not None:
        probe(timer)
    __remove_hrtimer(timer)
    cpu_base.running = timer
    function = timer.function
    assert function is not None
    kernel.machine.charge(HRTIMER_EXPIRED_NS)
    probe = kernel.tp.hrtimer_expire_entry
    if probe is not None:
        probe(timer, now)
    restart = function(timer)
    probe = kernel.tp.hrtimer_expire_exit
    if probe is not None:
        probe(timer)
    if restart != HRTIMER_NORESTART and not timer.state:
        enqueue_hrtimer(timer, base, HRTIMER_MODE_ABS)
    cpu_base.running = None


def clock_was_set(kernel: Kernel) -> None:
    """CLOCK_REALTIME jumped: absolute timers on it are due at other moments now."""
    for cpu_base in kernel.time.hrtimer_bases:
        cpu_base.expires_next = -1
        hrtimer_force_reprogram(cpu_base)
        if cpu_base.cpu != register.task.cpu:
            kernel.machine.kick(cpu_base.cpu)    # retrigger_next_event()


# ---- sleeping ---------------------------------------------------------------------------------------------
def hrtimer_wakeup(timer: Hrtimer) -> int:
    """Wakes the task of a sleeper."""
    task = timer.data
    timer.data = None
    if task is not None:
        wake_up_process(task)
    return HRTIMER_NORESTART


def hrtimer_init_sleeper(timer: Hrtimer, clock_id: int, mode: int, task: TaskStruct | None = None) -> None:
    """A timer that wakes a task (the current one): timer.data is the task until it fired."""
    __hrtimer_init(timer, clock_id, mode)
    timer.function = hrtimer_wakeup
    timer.data = task or register.task


@may_sleep
def schedule_hrtimeout_range_clock(expires: int | None, delta: int, mode: int, clock_id: int) -> int:
    """schedule() until a wakeup or a time; set task.state first. expires: None waits for ever.

    Returns 0 when the time was over, -EINTR (as in Linux) when something woke the task.
    """
    task = register.task
    if expires is not None and not expires:
        task.state = TASK_RUNNING
        return 0
    if expires is None:
        schedule()
        return -4
    t = Hrtimer()
    hrtimer_init_sleeper(t, clock_id, mode)
    hrtimer_start_range_ns(t, expires, delta, mode)
    try:
        if t.data is not None:
            schedule()
    finally:
        hrtimer_cancel(t)
        task.state = TASK_RUNNING
    return 0 if t.data is None else -4


@may_sleep
def schedule_hrtimeout_range(expires: int | None, delta: int, mode: int) -> int:
    """schedule_hrtimeout_range_clock() on CLOCK_MONOTONIC: poll, select and epoll sleep in it."""
    return schedule_hrtimeout_range_clock(expires, delta, mode, CLOCK_MONOTONIC)


@may_sleep
def schedule_hrtimeout(expires: int | None, mode: int) -> int:
    return schedule_hrtimeout_range(expires, 0, mode)


@may_sleep
def do_nanosleep(t: Hrtimer, mode: int) -> bool:
    """Sleeps until the sleeper fired (True) or a signal came (False)."""
    task = register.task
    try:
        while True:
            task.state = TASK_INTERRUPTIBLE
            hrtimer_start_range_ns(t, t.softexpires, t.expires - t.softexpires, mode)
            if t.data is not None:
                schedule()
            hrtimer_cancel(t)
            mode = HRTIMER_MODE_ABS
            if t.data is None or signal_pending(task):
                break
    finally:
        task.state = TASK_RUNNING
    return t.data is None


@uapi("include/uapi/linux/time.h", size=16)
class Timespec(Layout):
    tv_sec: s64
    tv_nsec: s64


def put_timespec64(ns: int, address: int) -> None:
    """Stores ns as a struct timespec. Raises EFAULT."""
    copy_to_user(address, Timespec.STRUCT.pack(ns // NSEC_PER_SEC, ns % NSEC_PER_SEC))


def get_timespec64(address: int) -> tuple[int, int]:
    """(tv_sec, tv_nsec) from user memory, not checked. Raises EFAULT."""
    seconds, nanoseconds = Timespec.STRUCT.unpack(copy_from_user(address, 16))
    return seconds, nanoseconds


@may_sleep
def hrtimer_nanosleep(rqtp: int, rmtp: int, mode: int, clockid: int) -> int:
    """Sleeps for (MODE_REL) or until (MODE_ABS) rqtp ns. rmtp: where the rest goes when a signal comes, or 0.

    Raises Restart: relative sleeps go on through restart_syscall(2). Context: task.
    """
    task = current()
    slack = 0 if task.prio < MAX_RT_PRIO else task.timer_slack_ns
    t = Hrtimer()
    hrtimer_init_sleeper(t, clockid, mode)
    t.softexpires = rqtp
    t.expires = min(rqtp + slack, KTIME_MAX)
    if do_nanosleep(t, mode):
        return 0
    if mode == HRTIMER_MODE_ABS:
        raise Restart(ERESTARTNOHAND)
    nanosleep_copyout(t, rmtp)
    task.restart_block = _restart(hrtimer_nanosleep_restart, t.base.clockid, t.softexpires, t.expires, rmtp)
    raise Restart(ERESTART_RESTARTBLOCK)


@notrace
def nanosleep_copyout(t: Hrtimer, rmtp: int) -> None:
    if rmtp:
        left = hrtimer_expires_remaining(t)
        put_timespec64(left if left > 0 else 0, rmtp)


@notrace
def _restart(function: Callable[..., int], *args: Any) -> Callable[[], int]:
    """A restart_block: a function and what it remembers."""
    return lambda: function(*args)


@may_sleep
def hrtimer_nanosleep_restart(clockid: int, softexpires: int, expires: int, rmtp: int) -> int:
    """restart_syscall(2) after a nanosleep: until the time that was meant."""
    t = Hrtimer()
    hrtimer_init_sleeper(t, clockid, HRTIMER_MODE_ABS)
    t.softexpires = softexpires
    t.expires = expires
    if do_nanosleep(t, HRTIMER_MODE_ABS):
        return 0
    nanosleep_copyout(t, rmtp)
    current().restart_block = _restart(hrtimer_nanosleep_restart, clockid, softexpires, expires, rmtp)
    raise Restart(ERESTART_RESTARTBLOCK)
