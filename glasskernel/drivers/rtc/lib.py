"""Dates of real-time clocks.

Linux: drivers/rtc/lib.c, include/uapi/linux/rtc.h (5.3). Owns: nothing. Context: any.
"""
from __future__ import annotations

from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace, s32
from glasskernel.lib.uapi import Layout, uapi


@uapi("include/uapi/linux/rtc.h", size=36)
class RtcTime(Layout):
    """struct rtc_time. tm_mon: 0-11; tm_year: since 1900. -1: not known (alarms)."""

    tm_sec: s32
    tm_min: s32
    tm_hour: s32
    tm_mday: s32
    tm_mon: s32
    tm_year: s32
    tm_wday: s32
    tm_yday: s32
    tm_isdst: s32


@slotted
class RtcWkalrm:
    """struct rtc_wkalrm."""

    enabled: bool = False
    pending: bool = False
    time: RtcTime = field(default_factory=lambda: RtcTime(tm_mday=1, tm_year=70))


_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@notrace
def is_leap_year(year: int) -> bool:
    return not year % 4 and (bool(year % 100) or not year % 400)


def rtc_month_days(month: int, year: int) -> int:
    """Days of a month (0-11)."""
    return _DAYS[month] + (month == 1 and is_leap_year(year))


def rtc_time64_to_tm(seconds: int) -> RtcTime:
    """Seconds since 1970 as a date."""
    days, second = divmod(seconds, 86400)
    year = 1970 + days // 366                      # never too late
    while days >= _days_before(year + 1):
        year += 1
    yday = days - _days_before(year)
    month, day = 0, yday
    while day >= rtc_month_days(month, year):
        day -= rtc_month_days(month, year)
        month += 1
    return RtcTime(tm_sec=second % 60, tm_min=second // 60 % 60, tm_hour=second // 3600, tm_mday=day + 1, tm_mon=month,
                   tm_year=year - 1900, tm_wday=(days + 4) % 7, tm_yday=yday)


@notrace
def _days_before(year: int) -> int:
    """Days from 1970 to the beginning of a year."""
    year -= 1
    return year * 365 + year // 4 - year // 100 + year // 400 - 719162


def rtc_tm_to_time64(tm: RtcTime) -> int:
    """And back."""
    year, month = tm.tm_year + 1900, tm.tm_mon + 1
    if month <= 2:
        month, year = month + 12, year - 1
    days = year // 4 - year // 100 + year // 400 + 367 * (month - 2) // 12 + tm.tm_mday + year * 365 - 719499
    return ((days * 24 + tm.tm_hour) * 60 + tm.tm_min) * 60 + tm.tm_sec


def rtc_valid_tm(tm: RtcTime) -> None:
    """Errors: EINVAL for what is no date."""
    if (not 70 <= tm.tm_year <= 0x7FFF_FFFF - 1900 or not 0 <= tm.tm_mon < 12
            or not 1 <= tm.tm_mday <= rtc_month_days(tm.tm_mon, tm.tm_year + 1900)
            or not 0 <= tm.tm_hour < 24 or not 0 <= tm.tm_min < 60 or not 0 <= tm.tm_sec < 60):
        raise KernelError(EINVAL)
