"""The programmable interval timer of a PC: an Intel 8254 at ports 0x40 to 0x43, whose counter 0 drives line 0.

Source: Intel's data sheet. Modes 0 (one interrupt at the end of the count) and 2 (one every so often) of counter 0;
    counters are latched and read in two bytes. Owns: the count. Gaps: counters 1 and 2 (refresh, speaker), the other
    modes, BCD.
Invariant: with a count in it and a mode set, line 0 is raised when the count has run down in the machine's time.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glasskernel.machine.machine import Machine

PIT_TICK_RATE = 1_193_182          # Hz
PIT_CH0, PIT_MODE = 0x40, 0x43
TIMER_IRQ = 0


class Pit:
    """The chip. outb and inb: its ports."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.mode: int | None = None
        self.reload = 0
        self._low: int | None = None               # the first byte of a count, while the second is awaited
        self._latched: list[int] = []
        self._started_ns = 0
        self._generation = 0                       # events of counts that were overwritten are void

    def outb(self, value: int, port: int) -> None:
        if port == PIT_MODE:
            self._control(value)
        elif port == PIT_CH0 and self.mode is not None:
            if self._low is None:
                self._low = value
                self._generation += 1              # mode 0 stops counting here
            else:
                self.reload, self._low = (value << 8 | self._low) or 0x10000, None
                self._start()

    def inb(self, port: int) -> int:
        """The count, low byte first."""
        if port != PIT_CH0:
            return 0xFF
        if not self._latched:
            count = self.count()
            self._latched = [count & 0xFF, count >> 8 & 0xFF]
        return self._latched.pop(0)

    def count(self) -> int:
        """How far counter 0 has run down."""
        ticks = (self.machine.now() - self._started_ns) * PIT_TICK_RATE // 1_000_000_000
        if self.mode == 2 and self.reload:
            return self.reload - ticks % self.reload
        return self.reload - ticks & 0xFFFF

    def _control(self, value: int) -> None:
        if value >> 6:
            return                                 # another counter
        if value >> 4 & 3 == 0:
            count = self.count()
            self._latched = [count & 0xFF, count >> 8 & 0xFF]
            return
        self.mode = {0: 0, 2: 2, 6: 2}.get(value >> 1 & 7)
        self._generation += 1
        self._low, self.reload, self._latched = None, 0, []

    def _start(self) -> None:
        self._started_ns = self.machine.now()
        self._generation += 1
        self._plan(self._generation, 1)

    def _plan(self, generation: int, number: int) -> None:
        due = self._started_ns + -(-number * self.reload * 1_000_000_000 // PIT_TICK_RATE)
        self.machine.at(due, lambda: self._expire(generation, number))

    def _expire(self, generation: int, number: int) -> None:
        if generation != self._generation:
            return
        self.machine.post_irq(TIMER_IRQ)
        if self.mode == 2:
            self._plan(generation, number + 1)
