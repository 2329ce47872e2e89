"""/dev/rtc0, and what /sys/class/rtc/rtc0 and /proc/driver/rtc say.

Linux: drivers/rtc/dev.c, sysfs.c, proc.c (5.3). Same: one opener at a time; read(2) gives the kind of interrupt and
their number; unprivileged users get at most max_user_freq interrupts a second. Owns: RtcDevice.busy.
Context: task.
"""
from __future__ import annotations

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, put_user_u64
from glasskernel.drivers.rtc.interface import (
    rtc_alarm_irq_enable,
    rtc_irq_set_freq,
    rtc_irq_set_state,
    rtc_read_alarm,
    rtc_read_time,
    rtc_set_alarm,
    rtc_set_time,
    rtc_update_irq_enable,
)
from glasskernel.drivers.rtc.lib import RtcTime, RtcWkalrm, rtc_time64_to_tm, rtc_tm_to_time64
from glasskernel.drivers.rtc.types import (
    RTC_AIE_OFF,
    RTC_AIE_ON,
    RTC_ALM_READ,
    RTC_ALM_SET,
    RTC_EPOCH_READ,
    RTC_IRQP_READ,
    RTC_IRQP_SET,
    RTC_PIE_OFF,
    RTC_PIE_ON,
    RTC_RD_TIME,
    RTC_SET_TIME,
    RTC_UIE_OFF,
    RTC_UIE_ON,
    RTC_WKALM_RD,
    RTC_WKALM_SET,
    RtcDevice,
)
from glasskernel.fs.poll import poll_wait
from glasskernel.fs.read_write import no_llseek
from glasskernel.fs.types import O_NONBLOCK, POLLIN, POLLRDNORM, File, FileOperations, Inode, Kiocb, PollTable
from glasskernel.kernel.capability import CAP_SYS_RESOURCE, CAP_SYS_TIME, capable
from glasskernel.kernel.sched.wait import wait_event_interruptible
from glasskernel.lib.errno import EACCES, EAGAIN, EBUSY, EINVAL, ENOTTY, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.iov_iter import IovIter

_MIDNIGHT = 86400


def rtc_dev_open(inode: Inode, file: File) -> None:
    """Errors: EBUSY while somebody else has it."""
    rtc: RtcDevice = file.private_data
    if rtc.busy:
        raise KernelError(EBUSY)
    rtc.busy = True
    rtc.irq_data = 0


@may_sleep
def rtc_dev_read(iocb: Kiocb, to: IovIter) -> int:
    """Waits for an interrupt. Errors: EINVAL (less than 4 bytes), EAGAIN, Restart."""
    file = iocb.ki_filp
    rtc: RtcDevice = file.private_data
    if to.count < 4:
        raise KernelError(EINVAL)
    if not rtc.irq_data:
        if file.f_flags & O_NONBLOCK:
            raise KernelError(EAGAIN)
        wait_event_interruptible(rtc.irq_queue, lambda: rtc.irq_data)
    data, rtc.irq_data = rtc.irq_data, 0
    return to.copy_to_iter(data.to_bytes(8, "little")[: 8 if to.count >= 8 else 4])


def rtc_dev_poll(file: File, wait: PollTable) -> int:
    rtc: RtcDevice = file.private_data
    poll_wait(file, rtc.irq_queue, wait)
    return POLLIN | POLLRDNORM if rtc.irq_data else 0


@may_sleep
def rtc_dev_ioctl(file: File, cmd: int, arg: int) -> int:
    """rtc(4). Errors: EACCES (no CAP_SYS_TIME, too many interrupts), EFAULT, EINVAL, ENOTTY."""
    rtc: RtcDevice = file.private_data
    if cmd in (RTC_SET_TIME,) and not capable(CAP_SYS_TIME):
        raise KernelError(EACCES)
    if cmd in (RTC_IRQP_SET, RTC_PIE_ON):
        wanted = arg if cmd == RTC_IRQP_SET else rtc.irq_freq
        if wanted > rtc.max_user_freq and not capable(CAP_SYS_RESOURCE):
            raise KernelError(EACCES)
    if cmd == RTC_RD_TIME:
        copy_to_user(arg, rtc_read_time(rtc).pack())
    elif cmd == RTC_SET_TIME:
        rtc_set_time(rtc, RtcTime.unpack(copy_from_user(arg, RtcTime.SIZE)))
    elif cmd == RTC_ALM_READ:
        copy_to_user(arg, rtc_read_alarm(rtc).time.pack())
    elif cmd == RTC_ALM_SET:
        rtc_set_alarm(rtc, _alarm_of_today(rtc, RtcTime.unpack(copy_from_user(arg, RtcTime.SIZE))))
    elif cmd == RTC_WKALM_RD:
        alarm = rtc_read_alarm(rtc)
        copy_to_user(arg, bytes((alarm.enabled, alarm.pending, 0, 0)) + alarm.time.pack())
    elif cmd == RTC_WKALM_SET:
        data = copy_from_user(arg, 4 + RtcTime.SIZE)
        rtc_set_alarm(rtc, RtcWkalrm(bool(data[0]), False, RtcTime.unpack(data, 4)))
    elif cmd in (RTC_AIE_ON, RTC_AIE_OFF):
        rtc_alarm_irq_enable(rtc, cmd == RTC_AIE_ON)
    elif cmd in (RTC_UIE_ON, RTC_UIE_OFF):
        rtc_update_irq_enable(rtc, cmd == RTC_UIE_ON)
    elif cmd in (RTC_PIE_ON, RTC_PIE_OFF):
        rtc_irq_set_state(rtc, cmd == RTC_PIE_ON)
    elif cmd == RTC_IRQP_SET:
        rtc_irq_set_freq(rtc, arg)
    elif cmd == RTC_IRQP_READ:
        put_user_u64(arg, rtc.irq_freq)
    elif cmd == RTC_EPOCH_READ:
        put_user_u64(arg, 1900)
    else:
        raise KernelError(ENOTTY)
    return 0


@notrace
def _alarm_of_today(rtc: RtcDevice, wanted: RtcTime) -> RtcWkalrm:
    """RTC_ALM_SET has a time of day only: today's, or tomorrow's if that is over. It is not on until RTC_AIE_ON."""
    now = rtc_read_time(rtc)
    seconds = rtc_tm_to_time64(now)
    time = seconds - seconds % _MIDNIGHT + (wanted.tm_hour * 60 + wanted.tm_min) * 60 + wanted.tm_sec
    return RtcWkalrm(False, False, rtc_time64_to_tm(time if time > seconds else time + _MIDNIGHT))


def rtc_dev_release(inode: Inode, file: File) -> None:
    """Interrupts that only read(2) tells of end; the alarm stays."""
    rtc: RtcDevice = file.private_data
    rtc_update_irq_enable(rtc, False)
    rtc_irq_set_state(rtc, False)
    rtc.busy = False


rtc_dev_fops = FileOperations(llseek=no_llseek, read_iter=rtc_dev_read, poll=rtc_dev_poll,
                              unlocked_ioctl=rtc_dev_ioctl, open=rtc_dev_open, release=rtc_dev_release)


# ---- /proc and /sys ----------------------------------------------------------------------------------------
@notrace
def _date(tm: RtcTime) -> bytes:
    return b"%04d-%02d-%02d" % (tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday)


@notrace
def _time(tm: RtcTime) -> bytes:
    return b"%02d:%02d:%02d" % (tm.tm_hour, tm.tm_min, tm.tm_sec)


def rtc_proc_show(rtc: RtcDevice) -> bytes:
    """/proc/driver/rtc"""
    now, alarm = rtc_read_time(rtc), rtc_read_alarm(rtc)

    def yes(value: object) -> bytes:
        return b"yes" if value else b"no"

    return (b"rtc_time\t: %b\nrtc_date\t: %b\nalrm_time\t: %b\nalrm_date\t: %b\nalarm_IRQ\t: %b\nalrm_pending\t: %b\n"
            b"update IRQ enabled\t: %b\nperiodic IRQ enabled\t: %b\nperiodic IRQ frequency\t: %d\n"
            b"max user IRQ frequency\t: %d\n24hr\t\t: yes\n") % (
        _time(now), _date(now), _time(alarm.time), _date(alarm.time), yes(alarm.enabled), yes(alarm.pending),
        yes(rtc.uie_rtctimer.enabled), yes(rtc.pie_enabled), rtc.irq_freq, rtc.max_user_freq) + rtc.ops.proc(rtc)


@notrace
def rtc_attribute_show(rtc: RtcDevice, name: bytes) -> bytes:
    """An attribute of /sys/class/rtc/rtc0."""
    if name == b"date":
        return _date(rtc_read_time(rtc)) + b"\n"
    if name == b"time":
        return _time(rtc_read_time(rtc)) + b"\n"
    if name == b"since_epoch":
        return b"%d\n" % rtc_tm_to_time64(rtc_read_time(rtc))
    if name == b"max_user_freq":
        return b"%d\n" % rtc.max_user_freq
    if name == b"hctosys":
        return b"0\n"                              # the system's clock was set by the boot loader's time
    assert name == b"wakealarm"
    return b"%d\n" % rtc.aie_timer.expires if rtc.aie_timer.enabled else b"\n"


def max_user_freq_store(rtc: RtcDevice, text: bytes) -> None:
    """Errors: EINVAL."""
    value = _number(text)
    if not 0 < value < 4096:
        raise KernelError(EINVAL)
    rtc.max_user_freq = value


def wakealarm_store(rtc: RtcDevice, text: bytes) -> None:
    """Seconds since 1970; "+N": from now; "+=N": after the alarm that is set; the past turns it off. Errors: EBUSY."""
    now = rtc_tm_to_time64(rtc_read_time(rtc))
    text = text.strip()
    push = text.startswith(b"+=")
    alarm = _number(text.lstrip(b"+="))
    if text.startswith(b"+") and not push:
        alarm += now
    if alarm > now or push:
        old = rtc_read_alarm(rtc)
        if old.enabled:
            if not push:
                raise KernelError(EBUSY)
            alarm += rtc_tm_to_time64(old.time)
        elif push:
            raise KernelError(EINVAL)
        rtc_set_alarm(rtc, RtcWkalrm(True, False, rtc_time64_to_tm(alarm)))
    else:
        rtc_alarm_irq_enable(rtc, False)


@notrace
def _number(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        raise KernelError(EINVAL) from None
