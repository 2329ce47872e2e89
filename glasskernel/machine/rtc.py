"""The real-time clock chip: an MC146818 with its registers, as a PC has at ports 0x70 and 0x71.

It runs on the machine's clock: at power-on it says when the run begins. Registers are BCD and 24 hours, as PC
firmware leaves them. The alarm matches hour, minute and second; 0xC0 and above match anything.
Owns: the offset between its time and the machine's. Gaps: periodic and update-ended interrupts, the square wave,
    daylight saving (Linux uses none of them).
Invariant: the line (IRQ 8) is raised when a flag that is enabled comes up, and not again before register C was read.
"""
from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glasskernel.machine.machine import Machine

(RTC_SECONDS, RTC_SECONDS_ALARM, RTC_MINUTES, RTC_MINUTES_ALARM, RTC_HOURS, RTC_HOURS_ALARM, RTC_DAY_OF_WEEK,
 RTC_DAY_OF_MONTH, RTC_MONTH, RTC_YEAR, RTC_REG_A, RTC_REG_B, RTC_REG_C, RTC_REG_D) = range(14)
RTC_CENTURY = 0x32
RTC_UIP = 0x80                                     # A: an update comes within 244 us
RTC_SET, RTC_PIE, RTC_AIE, RTC_UIE, RTC_SQWE, RTC_DM_BINARY, RTC_24H, RTC_DST_EN = 128, 64, 32, 16, 8, 4, 2, 1    # B
RTC_IRQF, RTC_PF, RTC_AF, RTC_UF = 128, 64, 32, 16                                                                # C
RTC_VRT = 0x80                                     # D: the battery is good
RTC_IRQ = 8
SECOND_NS = 1_000_000_000
UPDATE_NS = 244_000
DONT_CARE = 0xC0


class Rtc:
    """The chip. base_ns: what it says at power-on, in ns since 1970."""

    def __init__(self, machine: Machine, base_ns: int) -> None:
        self.machine = machine
        self._offset_ns = base_ns
        self._ram = bytearray(128)
        self._ram[RTC_REG_A] = 0x26                # 32 kHz, 1024 Hz
        self._ram[RTC_REG_B] = RTC_24H
        self._ram[RTC_REG_D] = RTC_VRT
        self._frozen: list[int] | None = None      # the time registers while SET is on
        self._alarm_generation = 0

    # ---- ports --------------------------------------------------------------------------------------------------
    def read(self, register: int) -> int:
        """Port 0x71 with this index in port 0x70."""
        if register in _TIME:
            return self._time()[_TIME.index(register)]
        value = self._ram[register]
        if register == RTC_REG_A and self._now_ns() % SECOND_NS >= SECOND_NS - UPDATE_NS and self._frozen is None:
            value |= RTC_UIP
        elif register == RTC_REG_C:
            self._ram[RTC_REG_C] = 0
        return value

    def write(self, register: int, value: int) -> None:
        """The same in the other direction. C and D cannot be written."""
        if register in _TIME:
            registers = self._time()
            registers[_TIME.index(register)] = value
            self._set_time(registers)
            return
        if register in (RTC_REG_C, RTC_REG_D):
            return
        if register == RTC_REG_B:
            self._write_b(value)
            return
        self._ram[register] = value
        if register in (RTC_SECONDS_ALARM, RTC_MINUTES_ALARM, RTC_HOURS_ALARM):
            self._arm()

    def _write_b(self, value: int) -> None:
        was = self._ram[RTC_REG_B]
        if value & RTC_SET and not was & RTC_SET:
            self._frozen = self._time()
        self._ram[RTC_REG_B] = value
        if was & RTC_SET and not value & RTC_SET and self._frozen is not None:
            registers, self._frozen = self._frozen, None
            self._set_time(registers)
        self._arm()

    # ---- the time -----------------------------------------------------------------------------------------------
    def _now_ns(self) -> int:
        return self._offset_ns + self.machine.now()

    def _time(self) -> list[int]:
        """The time registers, in the order of _TIME."""
        if self._frozen is not None:
            return self._frozen
        t = time.gmtime(self._now_ns() // SECOND_NS)
        fields = (t.tm_sec, t.tm_min, t.tm_hour, (t.tm_wday + 1) % 7 + 1, t.tm_mday, t.tm_mon, t.tm_year % 100,
                  t.tm_year // 100)
        return [self._out(value) for value in fields]

    def _set_time(self, registers: list[int]) -> None:
        if self._frozen is not None:
            self._frozen = registers
            return
        second, minute, hour, _, day, month, year, century = [self._in(value) for value in registers]
        days = _days_from_civil(century * 100 + year, month, day)
        wanted = ((days * 24 + hour) * 60 + minute) * 60 + second
        self._offset_ns = wanted * SECOND_NS - self.machine.now()
        self._arm()

    def _out(self, value: int) -> int:
        return value if self._ram[RTC_REG_B] & RTC_DM_BINARY else value // 10 << 4 | value % 10

    def _in(self, value: int) -> int:
        return value if self._ram[RTC_REG_B] & RTC_DM_BINARY else (value >> 4) * 10 + (value & 15)

    # ---- the alarm ----------------------------------------------------------------------------------------------
    def _arm(self) -> None:
        """Plans the next match, if alarms are enabled."""
        self._alarm_generation += 1
        if not self._ram[RTC_REG_B] & RTC_AIE or self._frozen is not None:
            return
        now = self._now_ns()
        seconds = self._next_match(now // SECOND_NS)
        generation = self._alarm_generation
        if seconds is not None:
            self.machine.at(self.machine.now() + seconds * SECOND_NS - now, lambda: self._alarm(generation))

    def _next_match(self, second: int) -> int | None:
        """The first second after this one whose registers match; None: none does within a day."""
        wanted = [None if self._ram[r] >= DONT_CARE else self._in(self._ram[r])
                  for r in (RTC_HOURS_ALARM, RTC_MINUTES_ALARM, RTC_SECONDS_ALARM)]
        start = second + 1
        midnight = start - start % 86400
        for day in (midnight, midnight + 86400):
            for hour in range(24) if wanted[0] is None else [wanted[0]]:
                if day + hour * 3600 + 3599 < start:
                    continue
                for minute in range(60) if wanted[1] is None else [wanted[1]]:
                    first = day + hour * 3600 + minute * 60
                    if first + 59 < start:
                        continue
                    match = max(first, start) if wanted[2] is None else first + wanted[2]
                    if match >= start:
                        return match
        return None

    def _alarm(self, generation: int) -> None:
        if generation != self._alarm_generation:
            return                                 # the registers were written meanwhile
        raised = self._ram[RTC_REG_C] & RTC_IRQF
        self._ram[RTC_REG_C] |= RTC_AF | RTC_IRQF
        if not raised:
            self.machine.post_irq(RTC_IRQ)
        self._arm()


_TIME = (RTC_SECONDS, RTC_MINUTES, RTC_HOURS, RTC_DAY_OF_WEEK, RTC_DAY_OF_MONTH, RTC_MONTH, RTC_YEAR, RTC_CENTURY)


def _days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the Gregorian calendar; whatever nonsense the registers hold."""
    if month <= 2:
        year -= 1
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468
