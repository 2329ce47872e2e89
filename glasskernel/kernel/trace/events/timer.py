"""The timer wheel, high-resolution timers, interval timers, the tick.

Linux: include/trace/events/timer.h (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.pid import pid_nr
from glasskernel.kernel.time.types import NSEC_PER_SEC, NSEC_PER_USEC
from glasskernel.kernel.trace.events.values import HELPERS, function_address, kaddr_of
from glasskernel.kernel.trace.trace_events import Values, trace_system

if TYPE_CHECKING:
    from glasskernel.kernel.pid import Pid
    from glasskernel.kernel.time.types import Hrtimer, TimerList

TIMER_ARRAYSHIFT = 22

timer = trace_system("timer")


@timer.event_class(
    fields="void * timer",
    print_fmt='"timer=%p", REC->timer',
)
def timer_class(timer: TimerList) -> Values:
    return (kaddr_of(timer),)


timer_init = timer_class.define("timer_init")


@timer.event(
    fields="void * timer; void * function; unsigned long expires; unsigned long now; unsigned int flags",
    print_fmt=(
        '"timer=%p function=%ps expires=%lu [timeout=%ld] cpu=%u idx=%u flags=%s", REC->timer, REC->function, '
        'REC->expires, (long)REC->expires - REC->now, REC->flags & 0x0003FFFF, REC->flags >> 22, '
        '__print_flags(REC->flags & (0x00040000 | 0x00080000 | 0x00100000 | 0x00200000), "|", { 0x00040000, '
        '"M" }, { 0x00080000, "D" }, { 0x00100000, "P" }, { 0x00200000, "I" })'),
    irqs_off=True,
)
def timer_start(timer: TimerList, expires: int, flags: int) -> Values:
    """Linux keeps the CPU and the wheel's bucket among the timer's flags."""
    base = timer.base
    cpu = base.cpu if base is not None else 0
    return (kaddr_of(timer), function_address(timer.function), expires, register.task.kernel.time.jiffies,
            flags | cpu | timer.idx << TIMER_ARRAYSHIFT)


@timer.event(
    fields="void * timer; unsigned long now; void * function; unsigned long baseclk",
    print_fmt='"timer=%p function=%ps now=%lu baseclk=%lu", REC->timer, REC->function, REC->now, REC->baseclk',
)
def timer_expire_entry(timer: TimerList, baseclk: int) -> Values:
    return (kaddr_of(timer), register.task.kernel.time.jiffies, function_address(timer.function), baseclk)


timer_expire_exit = timer_class.define("timer_expire_exit")
timer_cancel = timer_class.define("timer_cancel", irqs_off=True)


@timer.event(
    fields="void * hrtimer; clockid_t clockid; enum hrtimer_mode mode",
    print_fmt=(
        '"hrtimer=%p clockid=%s mode=%s", REC->hrtimer, __print_symbolic(REC->clockid, { 0, "CLOCK_REALTIME" }, '
        '{ 1, "CLOCK_MONOTONIC" }, { 7, "CLOCK_BOOTTIME" }, { 11, "CLOCK_TAI" }), __print_symbolic(REC->mode, '
        '{ HRTIMER_MODE_ABS, "ABS" }, { HRTIMER_MODE_REL, "REL" }, { HRTIMER_MODE_ABS_PINNED, "ABS|PINNED" }, '
        '{ HRTIMER_MODE_REL_PINNED, "REL|PINNED" }, { HRTIMER_MODE_ABS_SOFT, "ABS|SOFT" }, '
        '{ HRTIMER_MODE_REL_SOFT, "REL|SOFT" }, { HRTIMER_MODE_ABS_PINNED_SOFT, "ABS|PINNED|SOFT" }, '
        '{ HRTIMER_MODE_REL_PINNED_SOFT, "REL|PINNED|SOFT" })'),
    helpers=HELPERS,
)
def hrtimer_init(hrtimer: Hrtimer, clockid: int, mode: int) -> Values:
    return (kaddr_of(hrtimer), clockid, mode)


@timer.event(
    fields="void * hrtimer; void * function; s64 expires; s64 softexpires; enum hrtimer_mode mode",
    print_fmt=(
        '"hrtimer=%p function=%ps expires=%llu softexpires=%llu mode=%s", REC->hrtimer, REC->function, '
        '(unsigned long long) REC->expires, (unsigned long long) REC->softexpires, __print_symbolic(REC->mode, '
        '{ HRTIMER_MODE_ABS, "ABS" }, { HRTIMER_MODE_REL, "REL" }, { HRTIMER_MODE_ABS_PINNED, "ABS|PINNED" }, '
        '{ HRTIMER_MODE_REL_PINNED, "REL|PINNED" }, { HRTIMER_MODE_ABS_SOFT, "ABS|SOFT" }, '
        '{ HRTIMER_MODE_REL_SOFT, "REL|SOFT" }, { HRTIMER_MODE_ABS_PINNED_SOFT, "ABS|PINNED|SOFT" }, '
        '{ HRTIMER_MODE_REL_PINNED_SOFT, "REL|PINNED|SOFT" })'),
    irqs_off=True, helpers=HELPERS,
)
def hrtimer_start(hrtimer: Hrtimer, mode: int) -> Values:
    return (kaddr_of(hrtimer), function_address(hrtimer.function), hrtimer.expires, hrtimer.softexpires, mode)


@timer.event(
    fields="void * hrtimer; s64 now; void * function",
    print_fmt='"hrtimer=%p function=%ps now=%llu", REC->hrtimer, REC->function, (unsigned long long) REC->now',
    irqs_off=True,
)
def hrtimer_expire_entry(hrtimer: Hrtimer, now: int) -> Values:
    return (kaddr_of(hrtimer), now, function_address(hrtimer.function))


@timer.event_class(
    fields="void * hrtimer",
    print_fmt='"hrtimer=%p", REC->hrtimer',
    irqs_off=True,
)
def hrtimer_class(hrtimer: Hrtimer) -> Values:
    return (kaddr_of(hrtimer),)


hrtimer_expire_exit = hrtimer_class.define("hrtimer_expire_exit")
hrtimer_cancel = hrtimer_class.define("hrtimer_cancel")


@timer.event(
    fields=(
        "int which; unsigned long long expires; long value_sec; long value_usec; long interval_sec; "
        "long interval_usec"),
    print_fmt=(
        '"which=%d expires=%llu it_value=%ld.%ld it_interval=%ld.%ld", REC->which, REC->expires, REC->value_sec, '
        'REC->value_usec, REC->interval_sec, REC->interval_usec'),
)
def itimer_state(which: int, value: int, interval: int, expires: int) -> Values:
    return (which, expires, value // NSEC_PER_SEC, value % NSEC_PER_SEC // NSEC_PER_USEC, interval // NSEC_PER_SEC,
            interval % NSEC_PER_SEC // NSEC_PER_USEC)


@timer.event(
    fields="int which; pid_t pid; unsigned long long now",
    print_fmt='"which=%d pid=%d now=%llu", REC->which, (int) REC->pid, REC->now',
    irqs_off=True,
)
def itimer_expire(which: int, pid: Pid, now: int) -> Values:
    return (which, pid_nr(pid), now)


@timer.event(
    fields="int success; int dependency",
    print_fmt=(
        '"success=%d dependency=%s", REC->success, __print_symbolic(REC->dependency, { 0, "NONE" }, { (1 << 0), '
        '"POSIX_TIMER" }, { (1 << 1), "PERF_EVENTS" }, { (1 << 2), "SCHED" }, { (1 << 3), "CLOCK_UNSTABLE" }, '
        '{ (1 << 4), "RCU" }, { (1 << 5), "RCU_EXP" })'),
    irqs_off=True,
)
def tick_stop(success: int, dependency: int) -> Values:
    return (success, dependency)
