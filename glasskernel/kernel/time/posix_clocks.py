"""Clock numbers: which clock a clockid_t means, and what it says.

Linux: the k_clock tables of kernel/time/posix-timers.c, posix-cpu-timers.c (5.3). Same: which clock can do
what, and the errno where it cannot. Gaps: clocks of descriptors (/dev/ptp*) are EINVAL: there are none.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.kernel.pid import find_task_by_vpid, thread_group_leader
from glasskernel.kernel.time.posix_cpu_timers import CPUCLOCK_SCHED, cpu_clock_sample, cpu_clock_sample_group
from glasskernel.kernel.time.timekeeping import (
    ktime_get,
    ktime_get_boottime,
    ktime_get_clocktai,
    ktime_get_coarse,
    ktime_get_coarse_real_ts64,
    ktime_get_raw,
    ktime_get_real,
)
from glasskernel.kernel.time.types import (
    CLOCK_BOOTTIME,
    CLOCK_BOOTTIME_ALARM,
    CLOCK_MONOTONIC,
    CLOCK_MONOTONIC_COARSE,
    CLOCK_MONOTONIC_RAW,
    CLOCK_PROCESS_CPUTIME_ID,
    CLOCK_REALTIME,
    CLOCK_REALTIME_ALARM,
    CLOCK_REALTIME_COARSE,
    CLOCK_TAI,
    CLOCK_THREAD_CPUTIME_ID,
    TICK_NSEC,
)
from glasskernel.lib.errno import EINVAL, EOPNOTSUPP, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct

CPUCLOCK_PERTHREAD_MASK, CPUCLOCK_CLOCK_MASK, CPUCLOCK_MAX, CLOCKFD = 4, 3, 3, 3


@slotted(frozen=True)
class ClockId:
    """A CPU clock: pid 0 is the caller."""

    pid: int
    per_thread: bool
    which: int


@slotted(frozen=True)
class KClock:
    """struct k_clock. get() -> ns. resolution in ns. hrtimer: timers and sleeps can use it."""

    get: Callable[[], int]
    resolution: int
    hrtimer: bool
    alarm: bool = False


_CLOCKS = {
    CLOCK_REALTIME: KClock(ktime_get_real, 1, True),
    CLOCK_MONOTONIC: KClock(ktime_get, 1, True),
    CLOCK_MONOTONIC_RAW: KClock(ktime_get_raw, 1, False),
    CLOCK_REALTIME_COARSE: KClock(ktime_get_coarse_real_ts64, TICK_NSEC, False),
    CLOCK_MONOTONIC_COARSE: KClock(ktime_get_coarse, TICK_NSEC, False),
    CLOCK_BOOTTIME: KClock(ktime_get_boottime, 1, True),
    CLOCK_REALTIME_ALARM: KClock(ktime_get_real, 1, False, True),
    CLOCK_BOOTTIME_ALARM: KClock(ktime_get_boottime, 1, False, True),
    CLOCK_TAI: KClock(ktime_get_clocktai, 1, True),
}


@notrace
def clockid_to_kclock(which: int) -> KClock | ClockId:
    """The clock of a number; a ClockId for clocks of CPU time. Raises EINVAL."""
    if which < 0:
        if which & 7 == CLOCKFD:
            raise KernelError(EINVAL)
        kind = which & CPUCLOCK_CLOCK_MASK
        if kind >= CPUCLOCK_MAX:
            raise KernelError(EINVAL)
        return ClockId(~(which >> 3), bool(which & CPUCLOCK_PERTHREAD_MASK), kind)
    if which == CLOCK_PROCESS_CPUTIME_ID:
        return ClockId(0, False, CPUCLOCK_SCHED)
    if which == CLOCK_THREAD_CPUTIME_ID:
        return ClockId(0, True, CPUCLOCK_SCHED)
    clock = _CLOCKS.get(which)
    if clock is None:
        raise KernelError(EINVAL)
    return clock


@notrace
def timer_clock_kind(which: int) -> ClockId | None:
    """For timer_create(2): the CPU clock, or None for a wall clock. Raises EINVAL, EOPNOTSUPP."""
    clock = clockid_to_kclock(which)
    if isinstance(clock, ClockId):
        return clock
    if not clock.hrtimer:
        raise KernelError(EOPNOTSUPP)
    return None


def lookup_task(clock: ClockId, gettime: bool) -> TaskStruct | None:
    """The task of a CPU clock; None if there is none that the caller may use."""
    task = current()
    if not clock.pid:
        return task if clock.per_thread else task.group_leader
    p = find_task_by_vpid(clock.pid)
    if p is None or p is task:
        return p
    if clock.per_thread:
        return p if p.signal is task.signal else None
    if gettime and p.signal is task.signal:
        return p
    return p if thread_group_leader(p) else None


@notrace
def clockid_to_cpuclock(clock: ClockId) -> tuple[ClockId, TaskStruct]:
    """A CPU clock with its task. Raises EINVAL."""
    p = lookup_task(clock, False)
    if p is None:
        raise KernelError(EINVAL)
    return clock, p


def posix_cpu_clock_get(clock: ClockId) -> int:
    """ns of CPU time. Raises EINVAL."""
    p = lookup_task(clock, True)
    if p is None:
        raise KernelError(EINVAL)
    return cpu_clock_sample(clock.which, p) if clock.per_thread else cpu_clock_sample_group(clock.which, p)
