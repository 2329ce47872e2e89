"""POSIX timers: timer_create(2) and its family.

Linux: kernel/time/posix-timers.c, and the timers of posix-cpu-timers.c (5.3). Same: one queue entry per
timer, overruns counted while it waits, a periodic timer is armed again when its signal is taken.
Differs: ids are handed out per process, as in Linux; CPU-clock timers are looked at by the tick of the
target.
Owns: signal.posix_timers.
Invariants: a timer's signal is queued at most once; it_active is true exactly while it will fire.
Context: task, unless noted. Gaps: SIGEV_THREAD's attribute is glibc's business; the ALARM clocks
(EOPNOTSUPP).
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, put_user_u32
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import PIDTYPE_PID, PIDTYPE_TGID, find_task_by_vpid, get_task_pid, put_pid
from glasskernel.kernel.signal import send_sigqueue, sigqueue_alloc, sigqueue_free
from glasskernel.kernel.signal_types import SI_TIMER, SIGALRM, KernelSiginfo
from glasskernel.kernel.time.hrtimer import (
    base_time,
    hrtimer_cancel,
    hrtimer_forward,
    hrtimer_get_remaining,
    hrtimer_init,
    hrtimer_restart,
    hrtimer_start,
)
from glasskernel.kernel.time.posix_clocks import ClockId, clockid_to_cpuclock, timer_clock_kind
from glasskernel.kernel.time.posix_cpu_timers import cpu_clock_sample, cpu_clock_sample_group
from glasskernel.kernel.time.types import (
    HRTIMER_MODE_ABS,
    HRTIMER_MODE_REL,
    HRTIMER_NORESTART,
    HRTIMER_RESTART,
    KTIME_MAX,
    NSEC_PER_SEC,
    TICK_NSEC,
    TIMER_ABSTIME,
    Hrtimer,
)
from glasskernel.lib.errno import EAGAIN, EINVAL, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, notrace, s32, s64, u64
from glasskernel.lib.uapi import Layout, uapi

if TYPE_CHECKING:
    from glasskernel.kernel.pid import Pid
    from glasskernel.kernel.task import SignalStruct, TaskStruct

SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD, SIGEV_THREAD_ID = 0, 1, 2, 4
SIGRTMAX = 64
INT_MAX = 0x7FFF_FFFF


@uapi("include/uapi/asm-generic/siginfo.h", size=64)
class Sigevent(Layout):
    sigev_value: u64
    sigev_signo: s32
    sigev_notify: s32
    sigev_notify_thread_id: s32
    pad: Annotated[bytes, "char[44]"]


@uapi("include/uapi/linux/time.h", size=32)
class Itimerspec(Layout):
    interval_sec: s64
    interval_nsec: s64
    value_sec: s64
    value_nsec: s64


class KItimer:
    """struct k_itimer. cpu: (clock of CPU time, its task), or None for a timer on a wall clock."""

    __slots__ = (
        "it_id", "it_clock", "it_interval", "it_active", "it_overrun", "it_overrun_last",
        "it_requeue_pending", "si_sys_private", "it_sigev_notify", "it_pid", "it_signal", "sigq", "timer",
        "cpu", "cpu_expires",
    )

    def __init__(self, it_id: int, it_clock: int, it_signal: SignalStruct) -> None:
        self.it_id = it_id
        self.it_clock = it_clock
        self.it_interval = 0
        self.it_active = False
        self.it_overrun = -1
        self.it_overrun_last = 0
        self.it_requeue_pending = 0
        self.si_sys_private = 0
        self.it_sigev_notify = SIGEV_SIGNAL
        self.it_pid: Pid | None = None
        self.it_signal = it_signal
        self.sigq: KernelSiginfo | None = None
        self.timer = Hrtimer(posix_timer_fn, self)
        self.cpu: tuple[ClockId, TaskStruct] | None = None
        self.cpu_expires = 0

    @notrace
    def check(self, timer: KItimer, tsk: TaskStruct) -> None:
        """The tick of `tsk`: is this CPU timer due?"""
        assert self.cpu is not None
        clock, target = self.cpu
        if target is tsk or (not clock.per_thread and target.signal is tsk.signal):
            if cpu_timer_sample(clock, target) >= self.cpu_expires:
                cpu_timer_fire(self)


# ---- firing -----------------------------------------------------------------------------------------------
def posix_timer_event(timr: KItimer, si_private: int) -> int:
    """Sends the timer's signal. Nonzero: it is ignored, so nobody will rearm the timer."""
    timr.si_sys_private = si_private
    assert timr.sigq is not None
    pid_type = PIDTYPE_PID if timr.it_sigev_notify & SIGEV_THREAD_ID else PIDTYPE_TGID
    return int(send_sigqueue(timr.sigq, timr.it_pid, pid_type) > 0)


def posix_timer_fn(timer: Hrtimer) -> int:
    """The hrtimer fired. Context: irq."""
    timr: KItimer = timer.data
    timr.it_active = False
    si_private = 0
    if timr.it_interval:
        timr.it_requeue_pending += 1
        si_private = timr.it_requeue_pending
    if posix_timer_event(timr, si_private) and timr.it_interval:
        # Ignored: goes on by itself, but not faster than a tick, so that a short interval cannot hog the CPU.
        now = base_time(timer.base)
        if timr.it_interval < TICK_NSEC:
            now += TICK_NSEC
        timr.it_overrun += hrtimer_forward(timer, now, timr.it_interval)
        timr.it_requeue_pending += 1
        timr.it_active = True
        return HRTIMER_RESTART
    return HRTIMER_NORESTART


def posixtimer_rearm(info: KernelSiginfo) -> None:
    """The signal is being taken: a periodic timer is armed again, and tells how many expiries were lost."""
    timr: KItimer = info.timer
    if timr.it_signal.posix_timers.get(timr.it_id) is not timr:
        return
    if timr.it_interval and timr.it_requeue_pending == timr.si_sys_private:
        if timr.cpu is None:
            common_hrtimer_rearm(timr)
        else:
            posix_cpu_timer_rearm(timr)
        timr.it_active = True
        timr.it_overrun_last = timr.it_overrun
        timr.it_overrun = -1
        timr.it_requeue_pending += 1
        info.si_overrun = timer_overrun_to_int(timr, info.si_overrun)


def common_hrtimer_rearm(timr: KItimer) -> None:
    timr.it_overrun += hrtimer_forward(timr.timer, base_time(timr.timer.base), timr.it_interval)
    hrtimer_restart(timr.timer)


@notrace
def timer_overrun_to_int(timr: KItimer, baseval: int) -> int:
    return min(timr.it_overrun_last + baseval, INT_MAX)


# ---- CPU clocks -------------------------------------------------------------------------------------------
@notrace
def cpu_timer_sample(clock: ClockId, p: TaskStruct) -> int:
    return cpu_clock_sample(clock.which, p) if clock.per_thread else cpu_clock_sample_group(clock.which, p)


@notrace
def cpu_timer_fire(timr: KItimer) -> None:
    """A CPU timer is due. Context: irq."""
    timers = current().kernel.time.cpu_timers
    del timers[timr]
    timr.it_active = False
    if timr.it_sigev_notify == SIGEV_NONE:
        timr.cpu_expires = 0
    elif not timr.it_interval:
        posix_timer_event(timr, 0)
        timr.cpu_expires = 0
    else:
        timr.it_requeue_pending += 1
        if posix_timer_event(timr, timr.it_requeue_pending):
            posix_cpu_timer_rearm(timr)
            timr.it_active = True
            timr.it_requeue_pending += 1


def posix_cpu_timer_rearm(timr: KItimer) -> None:
    assert timr.cpu is not None
    clock, target = timr.cpu
    if target.exit_state:
        return
    late = cpu_timer_sample(clock, target) - timr.cpu_expires
    if late >= 0:
        periods = late // timr.it_interval + 1
        timr.cpu_expires += periods * timr.it_interval
        timr.it_overrun += periods
    current().kernel.time.cpu_timers[timr] = None


# ---- system calls -----------------------------------------------------------------------------------------
def good_sigevent(event: Sigevent) -> Pid:
    """Who gets the signal. Raises EINVAL."""
    task = current()
    notify = event.sigev_notify
    if notify == SIGEV_SIGNAL | SIGEV_THREAD_ID:
        target = find_task_by_vpid(event.sigev_notify_thread_id)
        if target is None or target.signal is not task.signal:
            raise KernelError(EINVAL)
        pid = get_task_pid(target, PIDTYPE_PID)
    elif notify in (SIGEV_SIGNAL, SIGEV_THREAD, SIGEV_NONE):
        pid = get_task_pid(task, PIDTYPE_TGID)
    else:
        raise KernelError(EINVAL)
    if notify != SIGEV_NONE and not 1 <= event.sigev_signo <= SIGRTMAX:
        put_pid(pid)
        raise KernelError(EINVAL)
    assert pid is not None
    return pid


@syscall(gaps="CLOCK_REALTIME_ALARM and CLOCK_BOOTTIME_ALARM are EOPNOTSUPP, as on a machine without an RTC")
def sys_timer_create(which_clock: s32, timer_event_spec: UserPtr, created_timer_id: UserPtr) -> int:
    """timer_create(2). Errors: EAGAIN, EFAULT, EINVAL, EOPNOTSUPP."""
    event = None
    if timer_event_spec:
        event = Sigevent.unpack(copy_from_user(timer_event_spec, 64))
    return do_timer_create(which_clock, event, created_timer_id)


def do_timer_create(which_clock: int, event: Sigevent | None, created_timer_id: int) -> int:
    task = current()
    sig = task.signal
    cpu = timer_clock_kind(which_clock)
    number = posix_timer_add(sig)
    timr = KItimer(number, which_clock, sig)
    info = sigqueue_alloc(SIGALRM, SI_TIMER)
    if info is None:
        raise KernelError(EAGAIN)
    try:
        if event is None:
            timr.it_pid = get_task_pid(task, PIDTYPE_TGID)
            info.si_value = number
        else:
            timr.it_pid = good_sigevent(event)
            timr.it_sigev_notify = event.sigev_notify
            info.si_signo = event.sigev_signo
            info.si_value = event.sigev_value
        info.si_tid = number
        info.timer = timr
        info.rearm = posixtimer_rearm
        timr.sigq = info
        put_user_u32(created_timer_id, number)
        if cpu is not None:
            timr.cpu = clockid_to_cpuclock(cpu)
        else:
            hrtimer_init(timr.timer, which_clock, HRTIMER_MODE_REL)
            timr.timer.function = posix_timer_fn
    except KernelError:
        sigqueue_free(info)
        put_pid(timr.it_pid)
        raise
    sig.posix_timers[number] = timr
    return 0


@notrace
def posix_timer_add(sig: SignalStruct) -> int:
    """A free id of this process. Raises EAGAIN."""
    start = sig.posix_timer_id
    while True:
        number = sig.posix_timer_id
        sig.posix_timer_id = number + 1 & INT_MAX
        if number not in sig.posix_timers:
            return number
        if sig.posix_timer_id == start:
            raise KernelError(EAGAIN)


@notrace
def lock_timer(timer_id: int) -> KItimer:
    """The timer. Raises EINVAL."""
    timr: KItimer | None = current().signal.posix_timers.get(timer_id)
    if timr is None:
        raise KernelError(EINVAL)
    return timr


def common_timer_get(timr: KItimer) -> tuple[int, int]:
    """(value, interval) in ns."""
    interval = timr.it_interval
    sigev_none = timr.it_sigev_notify == SIGEV_NONE
    if not interval and not timr.it_active and not sigev_none:
        return 0, interval
    if timr.cpu is not None:
        return posix_cpu_timer_get(timr), interval
    if not timr.timer.expires:
        return 0, interval
    if interval and (timr.it_requeue_pending & 1 or sigev_none):
        timr.it_overrun += hrtimer_forward(timr.timer, base_time(timr.timer.base), interval)
    remaining = hrtimer_get_remaining(timr.timer)
    if remaining <= 0:
        return (0 if sigev_none else 1), interval      # due, and its signal is on the way
    return remaining, interval


def posix_cpu_timer_get(timr: KItimer) -> int:
    assert timr.cpu is not None
    if not timr.cpu_expires:
        return 0
    left = timr.cpu_expires - cpu_timer_sample(*timr.cpu)
    return left if left > 0 else 1


def common_timer_set(timr: KItimer, flags: int, value: int, interval: int) -> None:
    """Arms the timer; value 0: disarms it."""
    timr.it_interval = 0
    common_timer_del(timr)
    timr.it_requeue_pending = timr.it_requeue_pending + 2 & ~1
    timr.it_overrun_last = 0
    timr.it_overrun = -1
    if not value:
        timr.timer.expires = 0
        return
    timr.it_interval = interval
    sigev_none = timr.it_sigev_notify == SIGEV_NONE
    if timr.cpu is not None:
        posix_cpu_timer_set(timr, value, flags & TIMER_ABSTIME)
    else:
        common_hrtimer_arm(timr, value, flags & TIMER_ABSTIME, sigev_none)
    timr.it_active = not sigev_none


@notrace
def common_hrtimer_arm(timr: KItimer, expires: int, absolute: int, sigev_none: bool) -> None:
    mode = HRTIMER_MODE_ABS if absolute else HRTIMER_MODE_REL
    hrtimer_init(timr.timer, timr.it_clock, mode)
    timr.timer.function = posix_timer_fn
    if not sigev_none:
        hrtimer_start(timr.timer, expires, mode)
        return
    if not absolute:
        expires = min(expires + base_time(timr.timer.base), KTIME_MAX)
    timr.timer.expires = timr.timer.softexpires = expires


@notrace
def posix_cpu_timer_set(timr: KItimer, expires: int, absolute: int) -> None:
    assert timr.cpu is not None
    now = cpu_timer_sample(*timr.cpu)
    timr.cpu_expires = expires if absolute else expires + now
    if timr.it_sigev_notify == SIGEV_NONE:
        return
    current().kernel.time.cpu_timers[timr] = None


def common_timer_del(timr: KItimer) -> None:
    """Disarms."""
    if timr.cpu is not None:
        current().kernel.time.cpu_timers.pop(timr, None)
        timr.cpu_expires = 0
    else:
        hrtimer_cancel(timr.timer)
    timr.it_active = False


@syscall
def sys_timer_gettime(timer_id: s32, setting: UserPtr) -> int:
    """timer_gettime(2). Errors: EINVAL, EFAULT."""
    put_itimerspec64(common_timer_get(lock_timer(timer_id)), setting)
    return 0


@syscall
def sys_timer_settime(timer_id: s32, flags: int, new_setting: UserPtr, old_setting: UserPtr) -> int:
    """timer_settime(2). Errors: EINVAL, EFAULT."""
    if not new_setting:
        raise KernelError(EINVAL)
    value, interval = get_itimerspec64(new_setting)
    timr = lock_timer(timer_id)
    old = common_timer_get(timr) if old_setting else (0, 0)
    common_timer_set(timr, flags, value, interval)
    if old_setting:
        put_itimerspec64(old, old_setting)
    return 0


@syscall
def sys_timer_getoverrun(timer_id: s32) -> int:
    """timer_getoverrun(2). Errors: EINVAL."""
    return timer_overrun_to_int(lock_timer(timer_id), 0)


@syscall
def sys_timer_delete(timer_id: s32) -> int:
    """timer_delete(2). Errors: EINVAL."""
    itimer_delete(lock_timer(timer_id))
    return 0


def itimer_delete(timr: KItimer) -> None:
    """Disarms and frees a timer."""
    common_timer_del(timr)
    del timr.it_signal.posix_timers[timr.it_id]
    if timr.sigq is not None:
        sigqueue_free(timr.sigq)
    put_pid(timr.it_pid)


@notrace
def delete_posix_timers(sig: SignalStruct) -> None:
    """All timers of a process."""
    for timr in tuple(sig.posix_timers.values()):
        itimer_delete(timr)


@notrace
def get_itimerspec64(address: int) -> tuple[int, int]:
    """(value, interval) in ns. Raises EFAULT, EINVAL."""
    words = Itimerspec.STRUCT.unpack(copy_from_user(address, 32))
    i_sec, i_nsec, v_sec, v_nsec = words
    for sec, nsec in ((i_sec, i_nsec), (v_sec, v_nsec)):
        if sec < 0 or not 0 <= nsec < NSEC_PER_SEC:
            raise KernelError(EINVAL)
    return min(v_sec * NSEC_PER_SEC + v_nsec, KTIME_MAX), min(i_sec * NSEC_PER_SEC + i_nsec, KTIME_MAX)


@notrace
def put_itimerspec64(setting: tuple[int, int], address: int) -> None:
    value, interval = setting
    copy_to_user(address, Itimerspec.STRUCT.pack(
        interval // NSEC_PER_SEC, interval % NSEC_PER_SEC, value // NSEC_PER_SEC, value % NSEC_PER_SEC))
