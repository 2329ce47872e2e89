"""The PC's real-time clock: reading, setting, its alarm, its interrupt.

Linux: drivers/rtc/rtc-cmos.c, rtc-mc146818-lib.c (5.3). Same: BCD or binary as the chip says, the wait for an update to
end, the alarm of at most a day, an interrupt for the alarm only. Differs: ports are method calls of machine.rtc.
Owns: the chip's registers. Context: task with rtc.ops_lock held; cmos_interrupt(): irq.
Gaps: NVRAM, wake-up from suspend, the HPET's emulation.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.rtc.interface import rtc_update_irq
from glasskernel.drivers.rtc.lib import RtcTime, RtcWkalrm, rtc_time64_to_tm, rtc_tm_to_time64
from glasskernel.drivers.rtc.types import RTC_AF, RTC_IRQF, RtcClassOps, RtcDevice
from glasskernel.kernel.irq.irqdesc import IRQ_HANDLED, IRQ_NONE
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace
from glasskernel.machine.rtc import (
    RTC_24H,
    RTC_AIE,
    RTC_CENTURY,
    RTC_DAY_OF_MONTH,
    RTC_DM_BINARY,
    RTC_DST_EN,
    RTC_HOURS,
    RTC_HOURS_ALARM,
    RTC_MINUTES,
    RTC_MINUTES_ALARM,
    RTC_MONTH,
    RTC_PIE,
    RTC_REG_A,
    RTC_REG_B,
    RTC_REG_C,
    RTC_REG_D,
    RTC_SECONDS,
    RTC_SECONDS_ALARM,
    RTC_SET,
    RTC_UIE,
    RTC_UIP,
    RTC_VRT,
    RTC_YEAR,
)

if TYPE_CHECKING:
    from glasskernel.machine.rtc import Rtc

_MDELAY_20 = 20_000_000
_DAY = 86400
_TIME_REGISTERS = (RTC_SECONDS, RTC_MINUTES, RTC_HOURS, RTC_DAY_OF_MONTH, RTC_MONTH, RTC_YEAR, RTC_CENTURY)


@notrace
def bcd2bin(value: int) -> int:
    return (value >> 4) * 10 + (value & 15)


@notrace
def bin2bcd(value: int) -> int:
    return value // 10 << 4 | value % 10


# ---- the time ----------------------------------------------------------------------------------------------
def mc146818_get_time(chip: Rtc) -> RtcTime:
    """Reads the registers while they do not change."""
    if chip.read(RTC_REG_A) & RTC_UIP:
        chip.machine.charge(_MDELAY_20)
    values = [chip.read(register) for register in _TIME_REGISTERS]
    if not chip.read(RTC_REG_B) & RTC_DM_BINARY:
        values = [bcd2bin(v) for v in values]
    second, minute, hour, day, month, year, century = values
    tm = RtcTime(tm_sec=second, tm_min=minute, tm_hour=hour, tm_mday=day, tm_mon=month - 1,
                 tm_year=century * 100 + year - 1900)
    return rtc_time64_to_tm(rtc_tm_to_time64(tm))  # the chip's day of the week is not to be trusted


def mc146818_set_time(chip: Rtc, tm: RtcTime) -> None:
    """Writes them while the clock stands. Errors: EINVAL for years that it cannot hold."""
    year = tm.tm_year + 1900
    if not 1970 <= year <= 9999:
        raise KernelError(EINVAL)
    control = chip.read(RTC_REG_B)
    values = [tm.tm_sec, tm.tm_min, tm.tm_hour, tm.tm_mday, tm.tm_mon + 1, year % 100, year // 100]
    if not control & RTC_DM_BINARY:
        values = [bin2bcd(v) for v in values]
    chip.write(RTC_REG_B, control | RTC_SET)
    for register, value in zip(_TIME_REGISTERS, values, strict=True):
        chip.write(register, value)
    chip.write(RTC_REG_B, control)


def cmos_read_time(rtc: RtcDevice) -> RtcTime:
    return mc146818_get_time(rtc.chip)


def cmos_set_time(rtc: RtcDevice, tm: RtcTime) -> None:
    mc146818_set_time(rtc.chip, tm)


# ---- the alarm ---------------------------------------------------------------------------------------------
def cmos_read_alarm(rtc: RtcDevice) -> RtcWkalrm:
    """What the alarm registers say: a time of day, -1 where anything matches."""
    chip = rtc.chip
    control = chip.read(RTC_REG_B)
    values = []
    for register in (RTC_SECONDS_ALARM, RTC_MINUTES_ALARM, RTC_HOURS_ALARM):
        value = chip.read(register)
        if not control & RTC_DM_BINARY and value < 0xC0:
            value = bcd2bin(value)
        values.append(value if value < 60 else -1)
    alarm = RtcTime(tm_sec=values[0], tm_min=values[1], tm_hour=values[2], tm_mday=-1, tm_mon=-1, tm_year=-1)
    return RtcWkalrm(bool(control & RTC_AIE), False, alarm)


def cmos_validate_alarm(rtc: RtcDevice, t: RtcWkalrm) -> None:
    """The chip has no date in its alarm: it can wait for a day. Errors: EINVAL."""
    now = rtc_tm_to_time64(cmos_read_time(rtc))
    if rtc_tm_to_time64(t.time) > now + _DAY - 1:
        raise KernelError(EINVAL)


def cmos_set_alarm(rtc: RtcDevice, t: RtcWkalrm) -> None:
    """Sets the time of day that the interrupt comes at. Errors: EINVAL."""
    cmos_validate_alarm(rtc, t)
    chip = rtc.chip
    values = [t.time.tm_sec, t.time.tm_min, t.time.tm_hour]
    if not chip.read(RTC_REG_B) & RTC_DM_BINARY:
        values = [bin2bcd(v) for v in values]
    cmos_irq_disable(rtc, RTC_AIE)
    for register, value in zip((RTC_SECONDS_ALARM, RTC_MINUTES_ALARM, RTC_HOURS_ALARM), values, strict=True):
        chip.write(register, value)
    if t.enabled:
        cmos_irq_enable(rtc, RTC_AIE)


def cmos_alarm_irq_enable(rtc: RtcDevice, enabled: bool) -> None:
    if enabled:
        cmos_irq_enable(rtc, RTC_AIE)
    else:
        cmos_irq_disable(rtc, RTC_AIE)


def cmos_irq_enable(rtc: RtcDevice, mask: int) -> None:
    """What came up before does not count."""
    chip = rtc.chip
    control = chip.read(RTC_REG_B)
    cmos_checkintr(rtc, control)
    chip.write(RTC_REG_B, control | mask)
    cmos_checkintr(rtc, control | mask)


def cmos_irq_disable(rtc: RtcDevice, mask: int) -> None:
    chip = rtc.chip
    control = chip.read(RTC_REG_B) & ~mask
    chip.write(RTC_REG_B, control)
    cmos_checkintr(rtc, control)


def cmos_checkintr(rtc: RtcDevice, rtc_control: int) -> None:
    """A flag that is up and enabled has its interrupt told now; reading takes the flag down."""
    intr = rtc.chip.read(RTC_REG_C)
    intr &= rtc_control & (RTC_PIE | RTC_AIE | RTC_UIE) | RTC_IRQF
    if intr & RTC_IRQF and intr & ~RTC_IRQF:
        rtc_update_irq(rtc, 1, intr)


def cmos_interrupt(irq: int, rtc: RtcDevice) -> int:
    """IRQ 8. One alarm is one interrupt: it is off afterwards."""
    chip = rtc.chip
    irqstat = chip.read(RTC_REG_C)
    control = chip.read(RTC_REG_B)
    irqstat &= control & (RTC_PIE | RTC_AIE | RTC_UIE) | RTC_IRQF
    if irqstat & RTC_AF:
        chip.write(RTC_REG_B, control & ~RTC_AIE)
        chip.read(RTC_REG_C)
    if irqstat & RTC_IRQF and irqstat & ~RTC_IRQF:
        rtc_update_irq(rtc, 1, irqstat)
        return IRQ_HANDLED
    return IRQ_NONE


def cmos_procfs(rtc: RtcDevice) -> bytes:
    """The chip's lines of /proc/driver/rtc."""
    control, valid = rtc.chip.read(RTC_REG_B), rtc.chip.read(RTC_REG_D)
    rate = rtc.chip.read(RTC_REG_A) & 15

    def yes(bit: int) -> bytes:
        return b"yes" if control & bit else b"no"

    return (b"periodic_IRQ\t: %b\nupdate_IRQ\t: %b\nHPET_emulated\t: no\nBCD\t\t: %b\nDST_enable\t: %b\n"
            b"periodic_freq\t: %d\nbatt_status\t: %b\n") % (
        yes(RTC_PIE), yes(RTC_UIE), b"no" if control & RTC_DM_BINARY else b"yes", yes(RTC_DST_EN),
        32768 >> rate - 1 if rate > 2 else 0, b"okay" if valid & RTC_VRT else b"dead")


cmos_rtc_ops = RtcClassOps(cmos_read_time, cmos_set_time, cmos_read_alarm, cmos_set_alarm, cmos_alarm_irq_enable,
                           cmos_procfs)


def cmos_do_probe(rtc: RtcDevice) -> None:
    """A clock of 24 hours, all its interrupts off."""
    control = rtc.chip.read(RTC_REG_B)
    assert control & RTC_24H
    cmos_irq_disable(rtc, RTC_PIE | RTC_AIE | RTC_UIE)
