"""Real-time clocks in general: time, alarms, and the interrupts that programs ask for.

Linux: drivers/rtc/interface.c (5.3). Same: all timers share the chip's one alarm; update interrupts are an alarm a
second later; periodic ones are an hrtimer. Differs: a timer's expiry is in seconds.
Owns: RtcDevice.timerqueue, .irq_data. Locks: ops_lock; the *_irq functions: irq or worker.
"""
from __future__ import annotations

from bisect import insort

from glasskernel.drivers.rtc.lib import RtcTime, RtcWkalrm, rtc_time64_to_tm, rtc_tm_to_time64, rtc_valid_tm
from glasskernel.drivers.rtc.types import (
    RTC_AF,
    RTC_IRQF,
    RTC_MAX_FREQ,
    RTC_PF,
    RTC_UF,
    RtcDevice,
    RtcTimer,
)
from glasskernel.kernel.locking.mutex import mutex_lock_interruptible, mutex_unlock
from glasskernel.kernel.sched.wait import wake_up_interruptible
from glasskernel.kernel.time.hrtimer import hrtimer_cancel, hrtimer_forward_now, hrtimer_start
from glasskernel.kernel.time.types import HRTIMER_MODE_REL, HRTIMER_RESTART, Hrtimer
from glasskernel.kernel.workqueue import WorkStruct, schedule_work
from glasskernel.lib.errno import EINVAL, ETIME, KernelError
from glasskernel.lib.types import may_sleep, notrace

_SECOND_NS = 1_000_000_000


# ---- the time ----------------------------------------------------------------------------------------------
@notrace
def __rtc_read_time(rtc: RtcDevice) -> RtcTime:
    tm = rtc.ops.read_time(rtc)
    rtc_valid_tm(tm)
    return tm


@may_sleep
def rtc_read_time(rtc: RtcDevice) -> RtcTime:
    """What the clock shows. Errors: EINVAL, EINTR."""
    mutex_lock_interruptible(rtc.ops_lock)
    try:
        return __rtc_read_time(rtc)
    finally:
        mutex_unlock(rtc.ops_lock)


@may_sleep
def rtc_set_time(rtc: RtcDevice, tm: RtcTime) -> None:
    """Sets it; update interrupts go on from the new time. Errors: EINVAL, EINTR."""
    rtc_valid_tm(tm)
    uie = rtc.uie_rtctimer.enabled
    if uie:
        rtc_update_irq_enable(rtc, False)
    mutex_lock_interruptible(rtc.ops_lock)
    try:
        rtc.ops.set_time(rtc, tm)
    finally:
        mutex_unlock(rtc.ops_lock)
    schedule_work(rtc.irqwork)                     # a timer might have expired
    if uie:
        rtc_update_irq_enable(rtc, True)


# ---- alarms ------------------------------------------------------------------------------------------------
@may_sleep
def rtc_read_alarm(rtc: RtcDevice) -> RtcWkalrm:
    """The alarm that a program has set last."""
    mutex_lock_interruptible(rtc.ops_lock)
    try:
        return RtcWkalrm(rtc.aie_timer.enabled, False, rtc_time64_to_tm(rtc.aie_timer.expires))
    finally:
        mutex_unlock(rtc.ops_lock)


def __rtc_set_alarm(rtc: RtcDevice, alarm: RtcWkalrm) -> None:
    """Programs the chip. Errors: ETIME for the past, EINVAL for what it cannot do."""
    if rtc_tm_to_time64(alarm.time) <= rtc_tm_to_time64(__rtc_read_time(rtc)):
        raise KernelError(ETIME)
    rtc.ops.set_alarm(rtc, alarm)


@may_sleep
def rtc_set_alarm(rtc: RtcDevice, alarm: RtcWkalrm) -> None:
    """Errors: EINVAL, ETIME, EINTR."""
    rtc_valid_tm(alarm.time)
    mutex_lock_interruptible(rtc.ops_lock)
    try:
        if rtc.aie_timer.enabled:
            rtc_timer_remove(rtc, rtc.aie_timer)
        rtc.aie_timer.expires = rtc_tm_to_time64(alarm.time)
        if alarm.enabled:
            rtc_timer_enqueue(rtc, rtc.aie_timer)
    finally:
        mutex_unlock(rtc.ops_lock)


@may_sleep
def rtc_alarm_irq_enable(rtc: RtcDevice, enabled: bool) -> None:
    """Turns the alarm on or off; its time stays."""
    mutex_lock_interruptible(rtc.ops_lock)
    try:
        if rtc.aie_timer.enabled != enabled:
            if enabled:
                rtc_timer_enqueue(rtc, rtc.aie_timer)
            else:
                rtc_timer_remove(rtc, rtc.aie_timer)
        rtc.ops.alarm_irq_enable(rtc, bool(rtc.timerqueue))
    finally:
        mutex_unlock(rtc.ops_lock)


@may_sleep
def rtc_update_irq_enable(rtc: RtcDevice, enabled: bool) -> None:
    """An interrupt each time that the clock shows a new second."""
    mutex_lock_interruptible(rtc.ops_lock)
    try:
        timer = rtc.uie_rtctimer
        if timer.enabled == enabled:
            return
        if enabled:
            timer.expires = rtc_tm_to_time64(__rtc_read_time(rtc)) + 1
            timer.period = 1
            rtc_timer_enqueue(rtc, timer)
        else:
            rtc_timer_remove(rtc, timer)
    finally:
        mutex_unlock(rtc.ops_lock)


# ---- interrupts --------------------------------------------------------------------------------------------
def rtc_handle_legacy_irq(rtc: RtcDevice, num: int, mode: int) -> None:
    """Tells whoever reads or polls the device."""
    rtc.irq_data = rtc.irq_data + (num << 8) | RTC_IRQF | mode
    wake_up_interruptible(rtc.irq_queue)


def rtc_aie_update_irq(rtc: RtcDevice) -> None:
    rtc_handle_legacy_irq(rtc, 1, RTC_AF)


def rtc_uie_update_irq(rtc: RtcDevice) -> None:
    rtc_handle_legacy_irq(rtc, 1, RTC_UF)


def rtc_pie_update_irq(timer: Hrtimer) -> int:
    """The hrtimer of periodic interrupts. Context: irq."""
    rtc: RtcDevice = timer.data
    count = hrtimer_forward_now(timer, _SECOND_NS // rtc.irq_freq)
    rtc_handle_legacy_irq(rtc, count, RTC_PF)
    return HRTIMER_RESTART


def rtc_update_irq(rtc: RtcDevice, num: int, events: int) -> None:
    """The driver's interrupt came: the rest needs a task. Context: any."""
    schedule_work(rtc.irqwork)


def rtc_irq_set_state(rtc: RtcDevice, enabled: bool) -> None:
    """Periodic interrupts on or off."""
    hrtimer_cancel(rtc.pie_timer)
    if enabled:
        hrtimer_start(rtc.pie_timer, _SECOND_NS // rtc.irq_freq, HRTIMER_MODE_REL)
    rtc.pie_enabled = enabled


def rtc_irq_set_freq(rtc: RtcDevice, freq: int) -> None:
    """How many a second. Errors: EINVAL."""
    if not 0 < freq <= RTC_MAX_FREQ:
        raise KernelError(EINVAL)
    rtc.irq_freq = freq
    if rtc.pie_enabled:
        rtc_irq_set_state(rtc, True)


# ---- timers on the one alarm -------------------------------------------------------------------------------
def rtc_timer_enqueue(rtc: RtcDevice, timer: RtcTimer) -> None:
    """Arms a timer. Errors: as __rtc_set_alarm(), but what has expired already is done at once. Locks: ops_lock."""
    now = rtc_tm_to_time64(__rtc_read_time(rtc))
    while timer.period and timer.expires < now:
        timer.expires += timer.period
    timer.enabled = True
    insort(rtc.timerqueue, timer, key=lambda t: t.expires)
    if rtc.timerqueue[0] is timer:
        try:
            __rtc_set_alarm(rtc, RtcWkalrm(True, False, rtc_time64_to_tm(timer.expires)))
        except KernelError as error:
            if error.errno == ETIME:
                schedule_work(rtc.irqwork)
                return
            rtc.timerqueue.remove(timer)
            timer.enabled = False
            raise


@notrace
def rtc_alarm_disable(rtc: RtcDevice) -> None:
    rtc.ops.alarm_irq_enable(rtc, False)


def rtc_timer_remove(rtc: RtcDevice, timer: RtcTimer) -> None:
    """Disarms it; the chip then waits for the next one. Locks: ops_lock."""
    first = rtc.timerqueue[0] is timer
    rtc.timerqueue.remove(timer)
    timer.enabled = False
    if not first:
        return
    if not rtc.timerqueue:
        rtc_alarm_disable(rtc)
        return
    try:
        __rtc_set_alarm(rtc, RtcWkalrm(True, False, rtc_time64_to_tm(rtc.timerqueue[0].expires)))
    except KernelError as error:
        if error.errno == ETIME:
            schedule_work(rtc.irqwork)


@may_sleep
def rtc_timer_do_work(work: WorkStruct) -> None:
    """Expires what is due, and sets the alarm for what comes next. Context: worker."""
    rtc: RtcDevice = work.data
    mutex_lock_interruptible(rtc.ops_lock)
    try:
        while True:
            now = rtc_tm_to_time64(__rtc_read_time(rtc))
            while rtc.timerqueue and rtc.timerqueue[0].expires <= now:
                timer = rtc.timerqueue.pop(0)
                timer.enabled = False
                timer.func(rtc)
                if timer.period:
                    timer.expires += timer.period
                    timer.enabled = True
                    insort(rtc.timerqueue, timer, key=lambda t: t.expires)
            if not rtc.timerqueue:
                rtc_alarm_disable(rtc)
                return
            try:
                __rtc_set_alarm(rtc, RtcWkalrm(True, False, rtc_time64_to_tm(rtc.timerqueue[0].expires)))
                return
            except KernelError as error:
                if error.errno != ETIME:
                    raise
    finally:
        mutex_unlock(rtc.ops_lock)
