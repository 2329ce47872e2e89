"""What time it is.

Linux: kernel/time/timekeeping.c, kernel/time/jiffies.c, kernel/time/time.c (5.3). Same: names, which clock is
which.
Differs: the machine's clock counts ns, so there is no clocksource arithmetic; times are plain ns, not
timespec64.
Gaps: no leap seconds, no NTP slewing, no suspend (CLOCK_BOOTTIME equals CLOCK_MONOTONIC).
Context of every function: any. Locks: none.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.loadavg import calc_global_load
from glasskernel.kernel.time.types import (
    HZ,
    KTIME_MAX,
    NSEC_PER_SEC,
    HrtimerCpuBase,
    TimerBase,
    TimeState,
)
from glasskernel.lib.types import notrace

TK_OFFS_REAL, TK_OFFS_BOOT, TK_OFFS_TAI = range(3)           # enum tk_offsets

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


def ktime_get() -> int:
    """CLOCK_MONOTONIC in ns."""
    return register.task.kernel.machine.now()


def ktime_get_ts64() -> int:
    """CLOCK_MONOTONIC in ns, where Linux has a struct timespec64."""
    return register.task.kernel.machine.now()


def timespec64_add_safe(lhs: int, rhs: int) -> int:
    """The sum of two times; the end of time where there is none. (kernel/time/time.c; both in ns.)"""
    return min(lhs + rhs, KTIME_MAX)


@notrace
def ktime_get_real() -> int:
    """CLOCK_REALTIME in ns since the Epoch."""
    return ktime_get_with_offset(TK_OFFS_REAL)


@notrace
def ktime_get_boottime() -> int:
    """CLOCK_BOOTTIME in ns."""
    return ktime_get_with_offset(TK_OFFS_BOOT)


@notrace
def ktime_get_clocktai() -> int:
    """CLOCK_TAI in ns."""
    return ktime_get_with_offset(TK_OFFS_TAI)


def ktime_get_with_offset(offs: int) -> int:
    """CLOCK_MONOTONIC plus what another clock is ahead."""
    kernel = register.task.kernel
    time = kernel.time
    now = kernel.machine.now()
    if offs == TK_OFFS_REAL:
        return now + time.offs_real
    if offs == TK_OFFS_BOOT:
        return now + time.offs_boot
    return now + time.offs_real + time.tai_offset * NSEC_PER_SEC


def ktime_get_raw() -> int:
    """CLOCK_MONOTONIC_RAW in ns."""
    return register.task.kernel.machine.now()


@notrace
def ktime_get_coarse() -> int:
    """CLOCK_MONOTONIC at the last tick, in ns."""
    return register.task.kernel.time.last_jiffies_update


def ktime_get_coarse_real_ts64() -> int:
    """CLOCK_REALTIME at the last tick, in ns since the Epoch: what file times are made of."""
    time = register.task.kernel.time
    return time.last_jiffies_update + time.offs_real


def ktime_get_real_seconds() -> int:
    """CLOCK_REALTIME at the last tick, in seconds."""
    time = register.task.kernel.time
    return (time.last_jiffies_update + time.offs_real) // NSEC_PER_SEC


def getboottime64(kernel: Kernel) -> int:
    """When the machine was switched on, in ns since the Epoch (btime of /proc/stat)."""
    return kernel.time.offs_real - kernel.time.offs_boot


def do_timer(kernel: Kernel, ticks: int) -> None:
    """Counts jiffies. Called by whichever CPU has that duty."""
    kernel.time.jiffies += ticks
    calc_global_load(kernel)


def do_settimeofday64(kernel: Kernel, now_ns: int) -> None:
    """Sets CLOCK_REALTIME. The caller has checked the value, and calls clock_was_set() afterwards."""
    time = kernel.time
    time.offs_real = now_ns - kernel.machine.now()
    time.clock_was_set_seq += 1
    time.update_vsyscall(kernel)


def time_init(kernel: Kernel) -> None:
    """Makes kernel.time, with the wheels and the timer bases. Needs kernel.machine and kernel.params."""
    time = kernel.time = TimeState()
    timekeeping_init(kernel)
    for vcpu in kernel.machine.cpus:
        time.wheel.append((TimerBase(vcpu.id), TimerBase(vcpu.id)))
        time.hrtimer_bases.append(HrtimerCpuBase(kernel, vcpu.id))


def timekeeping_init(kernel: Kernel) -> None:
    """Reads the "hardware clock": the run begins at kernel.params.boot_time_ns."""
    kernel.time.offs_real = kernel.params.boot_time_ns
    kernel.realtime_offset = lambda: kernel.time.offs_real


@notrace
def jiffies() -> int:
    """The tick counter; starts at INITIAL_JIFFIES."""
    return register.task.kernel.time.jiffies


@notrace
def msecs_to_jiffies(ms: int) -> int:
    """Rounded up: never earlier than asked for."""
    return (ms * HZ + 999) // 1000


@notrace
def usecs_to_jiffies(us: int) -> int:
    return (us * HZ + 999_999) // 1_000_000


@notrace
def nsecs_to_jiffies(ns: int) -> int:
    """Rounded down, as in Linux."""
    return ns * HZ // NSEC_PER_SEC


@notrace
def jiffies_to_msecs(count: int) -> int:
    return count * (1000 // HZ)


@notrace
def jiffies_to_nsecs(count: int) -> int:
    return count * (NSEC_PER_SEC // HZ)


def nsec_to_clock_t(ns: int) -> int:
    """In units of 1/100 s (USER_HZ): times(2), /proc."""
    return ns // 10_000_000
