"""The clock event device: the local APIC timer that each CPU programs for its next event.

Linux: kernel/time/clockevents.c, tick-oneshot.c, arch/x86/kernel/apic/apic.c (5.3).
Differs: the device takes absolute ns, and any distance.
Owns: vcpu.timer_deadline_ns of the machine's CPUs.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.time.types import KTIME_MAX

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


def tick_program_event(kernel: Kernel, cpu: int, expires: int) -> None:
    """The CPU's timer interrupt shall come at `expires` (monotonic ns); KTIME_MAX: not at all."""
    if expires >= KTIME_MAX:
        kernel.machine.cpus[cpu].timer_deadline_ns = None      # clockevents_switch_state(ONESHOT_STOPPED)
    else:
        clockevents_program_event(kernel, cpu, expires)


def clockevents_program_event(kernel: Kernel, cpu: int, expires: int) -> None:
    lapic_next_event(kernel, cpu, expires)


def lapic_next_event(kernel: Kernel, cpu: int, expires: int) -> None:
    """Writes the timer's register."""
    kernel.machine.cpus[cpu].timer_deadline_ns = expires
