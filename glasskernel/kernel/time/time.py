"""The system calls that read and set clocks, and sleep.

Linux: kernel/time/time.c, posix-timers.c, hrtimer.c, posix-cpu-timers.c; times(2) of kernel/sys.c (5.3).
Context: task. Gaps: adjtimex(2) and clock_adjtime(2) report, but adjust nothing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, put_user_u64
from glasskernel.kernel.capability import CAP_SYS_TIME, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.core import schedule, signal_pending, wake_up_process
from glasskernel.kernel.sched.cputime import thread_group_cputime_adjusted
from glasskernel.kernel.task import TASK_INTERRUPTIBLE, TASK_RUNNING
from glasskernel.kernel.time.hrtimer import clock_was_set, get_timespec64, hrtimer_nanosleep, put_timespec64
from glasskernel.kernel.time.posix_clocks import (
    ClockId,
    clockid_to_cpuclock,
    clockid_to_kclock,
    lookup_task,
    posix_cpu_clock_get,
)
from glasskernel.kernel.time.posix_cpu_timers import CPUCLOCK_SCHED, cpu_clock_sample, cpu_clock_sample_group
from glasskernel.kernel.time.timekeeping import (
    do_settimeofday64,
    ktime_get_real,
    ktime_get_real_seconds,
    nsec_to_clock_t,
)
from glasskernel.kernel.time.types import (
    CLOCK_MONOTONIC,
    CLOCK_REALTIME,
    HRTIMER_MODE_ABS,
    HRTIMER_MODE_REL,
    HZ,
    KTIME_MAX,
    NSEC_PER_SEC,
    TICK_NSEC,
    TIMER_ABSTIME,
)
from glasskernel.lib.errno import (
    EINVAL,
    EOPNOTSUPP,
    EPERM,
    ERESTART_RESTARTBLOCK,
    ERESTARTNOHAND,
    KernelError,
    Restart,
)
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, long, may_sleep, notrace, s32, s64, u32
from glasskernel.lib.uapi import Layout, uapi

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct

STA_UNSYNC, TIME_ERROR = 0x0040, 5
ADJ_OFFSET_SINGLESHOT = 0x8001
ADJ_OFFSET_SS_READ = 0xA001              # what adjtime() has still to do: nothing, here


@uapi("include/uapi/linux/time.h", size=16)
class Timeval(Layout):
    tv_sec: s64
    tv_usec: s64


@uapi("include/uapi/linux/time.h", size=8)
class Timezone(Layout):
    tz_minuteswest: s32
    tz_dsttime: s32


@uapi("include/uapi/linux/times.h", size=32)
class Tms(Layout):
    tms_utime: long
    tms_stime: long
    tms_cutime: long
    tms_cstime: long


@uapi("include/uapi/linux/timex.h", size=208)
class Timex(Layout):
    modes: u32
    pad0: u32
    offset: s64
    freq: s64
    maxerror: s64
    esterror: s64
    status: s32
    pad1: u32
    constant: s64
    precision: s64
    tolerance: s64
    time_sec: s64
    time_usec: s64
    tick: s64
    ppsfreq: s64
    jitter: s64
    shift: s32
    pad2: u32
    stabil: s64
    jitcnt: s64
    calcnt: s64
    errcnt: s64
    stbcnt: s64
    tai: s32
    pad3: Annotated[bytes, "char[44]"]


@notrace
def timespec_ns(seconds: int, nanoseconds: int) -> int:
    """As ns, at most KTIME_MAX. Raises EINVAL for what is no length of time."""
    if seconds < 0 or not 0 <= nanoseconds < NSEC_PER_SEC:
        raise KernelError(EINVAL)
    return min(seconds * NSEC_PER_SEC + nanoseconds, KTIME_MAX)


# ---- reading ----------------------------------------------------------------------------------------------
@syscall
def sys_clock_gettime(which_clock: s32, tp: UserPtr) -> int:
    """clock_gettime(2). Errors: EINVAL, EFAULT."""
    clock = clockid_to_kclock(which_clock)
    now = posix_cpu_clock_get(clock) if isinstance(clock, ClockId) else clock.get()
    put_timespec64(now, tp)
    return 0


@syscall
def sys_clock_getres(which_clock: s32, tp: UserPtr) -> int:
    """clock_getres(2). Errors: EINVAL, EFAULT."""
    clock = clockid_to_kclock(which_clock)
    if isinstance(clock, ClockId):
        if lookup_task(clock, False) is None:
            raise KernelError(EINVAL)
        resolution = 1 if clock.which == CPUCLOCK_SCHED else TICK_NSEC
    else:
        resolution = clock.resolution
    if tp:
        put_timespec64(resolution, tp)
    return 0


@syscall
def sys_gettimeofday(tv: UserPtr, tz: UserPtr) -> int:
    """gettimeofday(2). Errors: EFAULT."""
    if tv:
        now = ktime_get_real()
        copy_to_user(tv, Timeval.STRUCT.pack(now // NSEC_PER_SEC, now % NSEC_PER_SEC // 1000))
    if tz:
        time = current().kernel.time
        copy_to_user(tz, Timezone.STRUCT.pack(time.tz_minuteswest, time.tz_dsttime))
    return 0


@syscall
def sys_time(tloc: UserPtr) -> int:
    """time(2). Errors: EFAULT."""
    seconds = ktime_get_real_seconds()
    if tloc:
        put_user_u64(tloc, seconds)
    return seconds


@syscall
def sys_times(tbuf: UserPtr) -> int:
    """times(2): clock ticks (1/100 s) since some moment before boot. Errors: EFAULT."""
    task = current()
    if tbuf:
        do_sys_times(task, tbuf)
    return task.kernel.time.jiffies * 100 // HZ


def do_sys_times(task: TaskStruct, tbuf: int) -> None:
    utime, stime = thread_group_cputime_adjusted(task)
    sig = task.signal
    copy_to_user(tbuf, Tms.STRUCT.pack(
        nsec_to_clock_t(utime), nsec_to_clock_t(stime),
        nsec_to_clock_t(sig.cutime), nsec_to_clock_t(sig.cstime)))


# ---- setting ----------------------------------------------------------------------------------------------
@syscall
def sys_clock_settime(which_clock: s32, tp: UserPtr) -> int:
    """clock_settime(2): CLOCK_REALTIME only. Errors: EINVAL, EPERM, EFAULT."""
    clock = clockid_to_kclock(which_clock)
    if not isinstance(clock, ClockId) and which_clock != CLOCK_REALTIME:
        raise KernelError(EINVAL)
    seconds, nanoseconds = get_timespec64(tp)
    if isinstance(clock, ClockId):
        clockid_to_cpuclock(clock)
        raise KernelError(EPERM)
    return do_sys_settimeofday64(seconds, nanoseconds)


@syscall
def sys_settimeofday(tv: UserPtr, tz: UserPtr) -> int:
    """settimeofday(2). Errors: EINVAL, EPERM, EFAULT."""
    when = zone = None
    if tv:
        when = Timeval.STRUCT.unpack(copy_from_user(tv, 16))
        if not 0 <= when[1] <= 1_000_000:
            raise KernelError(EINVAL)
    if tz:
        zone = Timezone.STRUCT.unpack(copy_from_user(tz, 8))
    if when is not None and (when[0] < 0 or when[1] >= 1_000_000):
        raise KernelError(EINVAL)
    if not capable(CAP_SYS_TIME):
        raise KernelError(EPERM)
    if zone is not None:
        if not -15 * 60 <= zone[0] <= 15 * 60:
            raise KernelError(EINVAL)
        kernel = current().kernel
        kernel.time.tz_minuteswest, kernel.time.tz_dsttime = zone
        kernel.time.update_vsyscall(kernel)
    if when is not None:
        return do_sys_settimeofday64(when[0], when[1] * 1000)
    return 0


def do_sys_settimeofday64(seconds: int, nanoseconds: int) -> int:
    """Sets the wall clock. Raises EINVAL (no such time, or before boot), EPERM."""
    kernel = current().kernel
    if seconds < 0 or not 0 <= nanoseconds < NSEC_PER_SEC or seconds >= KTIME_MAX // NSEC_PER_SEC:
        raise KernelError(EINVAL)
    if not capable(CAP_SYS_TIME):
        raise KernelError(EPERM)
    now = seconds * NSEC_PER_SEC + nanoseconds
    if now < kernel.machine.now():
        raise KernelError(EINVAL)
    do_settimeofday64(kernel, now)
    clock_was_set(kernel)
    return 0


@syscall(gaps="adjusting is EOPNOTSUPP, reading works")
def sys_adjtimex(txc_p: UserPtr) -> int:
    """adjtimex(2). Errors: EPERM, EFAULT, EOPNOTSUPP."""
    return do_adjtimex(txc_p)


@syscall(gaps="adjusting is EOPNOTSUPP, reading works")
def sys_clock_adjtime(which_clock: s32, utx: UserPtr) -> int:
    """clock_adjtime(2). Errors: EINVAL, EPERM, EFAULT, EOPNOTSUPP."""
    clockid_to_kclock(which_clock)
    if which_clock != CLOCK_REALTIME:
        raise KernelError(EOPNOTSUPP)
    return do_adjtimex(utx)


def do_adjtimex(address: int) -> int:
    """The state of a clock that nobody has synchronized."""
    txc = Timex.unpack(copy_from_user(address, 208))
    if txc.modes and txc.modes != ADJ_OFFSET_SS_READ:
        if not capable(CAP_SYS_TIME):
            raise KernelError(EPERM)
        if txc.modes != ADJ_OFFSET_SINGLESHOT or txc.offset:
            raise KernelError(EOPNOTSUPP)
    now = ktime_get_real()
    txc = Timex.unpack(bytes(208))
    txc.maxerror = txc.esterror = 16_000_000
    txc.status = STA_UNSYNC
    txc.constant, txc.precision, txc.tolerance, txc.tick = 2, 1, 32_768_000, 10_000
    txc.time_sec, txc.time_usec = now // NSEC_PER_SEC, now % NSEC_PER_SEC // 1000
    txc.tai = current().kernel.time.tai_offset
    copy_to_user(address, txc.pack())
    return TIME_ERROR


# ---- sleeping ---------------------------------------------------------------------------------------------
@syscall
@may_sleep
def sys_nanosleep(rqtp: UserPtr, rmtp: UserPtr) -> int:
    """nanosleep(2). Errors: EINVAL, EFAULT, EINTR."""
    request = timespec_ns(*get_timespec64(rqtp))
    return hrtimer_nanosleep(request, rmtp, HRTIMER_MODE_REL, CLOCK_MONOTONIC)


@syscall(gaps="the ALARM clocks are EOPNOTSUPP")
@may_sleep
def sys_clock_nanosleep(which_clock: s32, flags: int, rqtp: UserPtr, rmtp: UserPtr) -> int:
    """clock_nanosleep(2). Errors: EINVAL, EFAULT, EINTR, EOPNOTSUPP."""
    clock = clockid_to_kclock(which_clock)
    if isinstance(clock, ClockId):
        if which_clock == 3:                       # CLOCK_THREAD_CPUTIME_ID
            raise KernelError(EOPNOTSUPP)
    elif not clock.hrtimer:
        raise KernelError(EOPNOTSUPP)
    request = timespec_ns(*get_timespec64(rqtp))
    if flags & TIMER_ABSTIME:
        rmtp = 0
    if isinstance(clock, ClockId):
        return posix_cpu_nsleep(clock, flags, request, rmtp)
    return common_nsleep(which_clock, flags, request, rmtp)


@may_sleep
def common_nsleep(which_clock: int, flags: int, request: int, rmtp: int) -> int:
    mode = HRTIMER_MODE_ABS if flags & TIMER_ABSTIME else HRTIMER_MODE_REL
    return hrtimer_nanosleep(request, rmtp, mode, which_clock)


class CpuSleeper:
    """Wakes a task when a CPU clock has reached a time; looked at by the tick, like a CPU timer."""

    __slots__ = ("clock", "target", "expires", "task")

    def __init__(self, clock: ClockId, target: TaskStruct, expires: int, task: TaskStruct) -> None:
        self.clock = clock
        self.target = target
        self.expires = expires
        self.task: TaskStruct | None = task

    @notrace
    def now(self) -> int:
        if self.clock.per_thread:
            return cpu_clock_sample(self.clock.which, self.target)
        return cpu_clock_sample_group(self.clock.which, self.target)

    @notrace
    def check(self, _self: object, tsk: TaskStruct) -> None:
        if tsk.signal is self.target.signal and self.task is not None and self.now() >= self.expires:
            task, self.task = self.task, None
            wake_up_process(task)


@may_sleep
def posix_cpu_nsleep(clock: ClockId, flags: int, request: int, rmtp: int) -> int:
    """Sleeps until a CPU clock has moved on. Raises EINVAL for the caller's own thread."""
    task = current()
    if clock.per_thread and clock.pid in (0, task.pid):
        raise KernelError(EINVAL)
    _, target = clockid_to_cpuclock(clock)
    sleeper = CpuSleeper(clock, target, request, task)
    if not flags & TIMER_ABSTIME:
        sleeper.expires += sleeper.now()
    return do_cpu_nanosleep(sleeper, flags, rmtp)


@may_sleep
def do_cpu_nanosleep(sleeper: CpuSleeper, flags: int, rmtp: int) -> int:
    task = current()
    timers = task.kernel.time.cpu_timers
    timers[sleeper] = None
    sleeper.task = task
    try:
        while sleeper.now() < sleeper.expires and sleeper.task is not None:
            task.state = TASK_INTERRUPTIBLE
            if signal_pending(task):
                break
            schedule()
        else:
            return 0
    finally:
        task.state = TASK_RUNNING
        timers.pop(sleeper, None)
    if flags & TIMER_ABSTIME:
        raise Restart(ERESTARTNOHAND)
    if rmtp:
        put_timespec64(max(sleeper.expires - sleeper.now(), 0), rmtp)
    task.restart_block = lambda: do_cpu_nanosleep(sleeper, flags, rmtp)
    raise Restart(ERESTART_RESTARTBLOCK)
