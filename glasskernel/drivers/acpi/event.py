"""ACPI's fixed events: the power button, through the SCI.

Linux: drivers/acpi/acpica/evsci.c, evevent.c, evxface.c, drivers/acpi/button.c, counters of sysfs.c (5.3). Same: the
    firmware hands over at acpi_enable(), events are enabled one by one, the SCI's handler looks at the status and
    enable registers and dispatches what is in both. Differs: taken into use by the first who looks or presses, not at
    boot.
Owns: Kernel.acpi. Gaps: general-purpose events, notifications of devices, netlink: a press is counted and logged;
    there is no input layer to carry KEY_POWER to a program, so nothing is switched off.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.drivers.acpi.tables import AcpiTables, acpi_table_init
from glasskernel.kernel.irq.irqdesc import IRQ_HANDLED, IRQ_NONE
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.machine.acpi import PM1_GLOBAL_LOCK, PM1_POWER_BUTTON, PM1_SLEEP_BUTTON, PM1_TIMER, AcpiRegisters

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.init.kernel import Kernel

ACPI_EVENT_PMTIMER, ACPI_EVENT_GLOBAL, ACPI_EVENT_POWER_BUTTON, ACPI_EVENT_SLEEP_BUTTON, ACPI_EVENT_RTC = range(5)
EVENT_NAMES = ("ff_pmtimer", "ff_gbl_lock", "ff_pwr_btn", "ff_slp_btn", "ff_rt_clk")
EVENT_BITS = (PM1_TIMER, PM1_GLOBAL_LOCK, PM1_POWER_BUTTON, PM1_SLEEP_BUTTON, 1 << 10)


@slotted
class AcpiState:
    """Kernel.acpi. handlers: by event. fixed_event_count, sci_count, sci_not_count: /sys/firmware/acpi/interrupts."""

    kernel: Kernel
    tables: AcpiTables
    registers: AcpiRegisters
    handlers: dict[int, Callable[[AcpiState], None]] = field(default_factory=dict)
    fixed_event_count: list[int] = field(default_factory=lambda: [0] * len(EVENT_NAMES))
    sci_count: int = 0
    sci_not_count: int = 0


@notrace
def acpi_create(kernel: Kernel) -> AcpiState:
    """Reads the tables and takes the events over."""
    acpi = AcpiState(kernel, acpi_table_init(kernel), AcpiRegisters(kernel.machine))
    acpi_enable(acpi)
    acpi_install_fixed_event_handler(acpi, ACPI_EVENT_POWER_BUTTON, acpi_button_event)
    return acpi


def acpi_enable(acpi: AcpiState) -> None:
    """From now on, events raise the SCI."""
    acpi.registers.smi(acpi.tables.acpi_enable)


def acpi_install_fixed_event_handler(acpi: AcpiState, event: int, handler: Callable[[AcpiState], None]) -> None:
    acpi.handlers[event] = handler
    acpi_enable_event(acpi, event)


def acpi_enable_event(acpi: AcpiState, event: int) -> None:
    """Sets its bit in the enable register."""
    port = acpi.tables.pm1_event_block + 2
    acpi.registers.outw(port, acpi.registers.inw(port) | EVENT_BITS[event])


@notrace
def acpi_event_enabled(acpi: AcpiState, event: int) -> bool:
    return bool(acpi.registers.inw(acpi.tables.pm1_event_block + 2) & EVENT_BITS[event])


# ---- the interrupt -----------------------------------------------------------------------------------------------
def acpi_irq(irq: int, dev_id: Any) -> int:
    """The handler of the SCI's line (drivers/acpi/osl.c)."""
    acpi: AcpiState = dev_id
    if acpi_ev_sci_xrupt_handler(acpi):
        acpi.sci_count += 1
        return IRQ_HANDLED
    acpi.sci_not_count += 1
    return IRQ_NONE


def acpi_ev_sci_xrupt_handler(acpi: AcpiState) -> bool:
    return acpi_ev_fixed_event_detect(acpi)


def acpi_ev_fixed_event_detect(acpi: AcpiState) -> bool:
    """Dispatches every event that has come and is enabled; was there one?"""
    block = acpi.tables.pm1_event_block
    coming = acpi.registers.inw(block) & acpi.registers.inw(block + 2)
    for event, bit in enumerate(EVENT_BITS):
        if coming & bit:
            acpi_ev_fixed_event_dispatch(acpi, event)
    return bool(coming)


def acpi_ev_fixed_event_dispatch(acpi: AcpiState, event: int) -> None:
    """Clears the status, and calls who wants the event; without one it is disabled."""
    acpi.registers.outw(acpi.tables.pm1_event_block, EVENT_BITS[event])
    acpi.fixed_event_count[event] += 1
    handler = acpi.handlers.get(event)
    if handler is not None:
        handler(acpi)
        return
    port = acpi.tables.pm1_event_block + 2
    acpi.registers.outw(port, acpi.registers.inw(port) & ~EVENT_BITS[event])


def acpi_button_event(acpi: AcpiState) -> None:
    """The power button was pressed."""
    acpi.kernel.printk("ACPI: Power Button [PWRF] pressed")
