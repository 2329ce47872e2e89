"""The interval timer as a clock event device.

Linux: drivers/clocksource/i8253.c, timer_interrupt() of arch/x86/kernel/time.c (5.3). Same: how the chip is
    programmed for one interrupt, for one at each tick, and stopped; the handler passes the interrupt on to the
    device's event_handler.
Differs: no CPU of this machine sleeps so deeply that its own timer stops, and how fast that one runs is known: nobody
    needs the chip before the local timers, or instead of them, so it is set up by who uses it first.
Owns: Kernel.i8253. Gaps: the clock source (i8253_read).
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.kernel.irq.irqdesc import IRQ_HANDLED
from glasskernel.kernel.sched.types import HZ
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace
from glasskernel.machine.pit import PIT_CH0, PIT_MODE, PIT_TICK_RATE, Pit

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.init.kernel import Kernel

PIT_LATCH = (PIT_TICK_RATE + HZ // 2) // HZ
CLOCK_EVT_STATE_DETACHED, CLOCK_EVT_STATE_SHUTDOWN, CLOCK_EVT_STATE_PERIODIC, CLOCK_EVT_STATE_ONESHOT = range(4)


@notrace
def no_event() -> None:
    """clockevents_handle_noop()"""


@slotted
class I8253State:
    """Kernel.i8253: i8253_clockevent, a struct clock_event_device, and the chip."""

    kernel: Kernel
    hardware: Pit
    state: int = CLOCK_EVT_STATE_DETACHED
    event_handler: Callable[[], None] = no_event


def clockevent_i8253_init(kernel: Kernel) -> I8253State:
    """The device, stopped."""
    device = I8253State(kernel, Pit(kernel.machine))
    pit_shutdown(device)
    return device


def pit_shutdown(device: I8253State) -> None:
    """Mode 0 and no count: it waits for one for ever."""
    device.hardware.outb(0x30, PIT_MODE)
    device.hardware.outb(0, PIT_CH0)
    device.state = CLOCK_EVT_STATE_SHUTDOWN


def pit_set_oneshot(device: I8253State) -> None:
    """One interrupt for each pit_next_event()."""
    device.hardware.outb(0x30, PIT_MODE)
    device.state = CLOCK_EVT_STATE_ONESHOT


def pit_set_periodic(device: I8253State) -> None:
    """An interrupt at each tick."""
    device.hardware.outb(0x34, PIT_MODE)
    device.hardware.outb(PIT_LATCH & 0xFF, PIT_CH0)
    device.hardware.outb(PIT_LATCH >> 8, PIT_CH0)
    device.state = CLOCK_EVT_STATE_PERIODIC


def pit_next_event(device: I8253State, delta: int) -> None:
    """The interrupt shall come after so many of the chip's ticks, 1 to 0x7FFF."""
    device.hardware.outb(delta & 0xFF, PIT_CH0)
    device.hardware.outb(delta >> 8, PIT_CH0)


def timer_interrupt(irq: int, dev_id: Any) -> int:
    """Line 0."""
    device: I8253State = dev_id
    device.event_handler()
    return IRQ_HANDLED
