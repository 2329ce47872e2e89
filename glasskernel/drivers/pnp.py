"""What every PC's board has: the interval timer, the keyboard controller, ACPI, PCI. Their lines are taken at boot.

Linux: setup_default_timer_irq() of arch/x86/kernel/time.c, i8042_pnp_init() of drivers/input/serio/i8042-x86ia64io.h,
    acpi_os_install_interrupt_handler() of drivers/acpi/osl.c (5.3). Same: which lines, names and kinds of lines.
Differs: the drivers are imported, and look for their hardware, when somebody uses it first: start-up time counts here.
Owns: Kernel.i8253, i8042, acpi. Context: boot; then any.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.base.core import bus_register
from glasskernel.fs.kernfs import KernfsNode, kernfs_find_and_get
from glasskernel.fs.sysfs.kobject import kobject_create_and_add
from glasskernel.kernel.irq.irqdesc import IRQ_NONE, IRQF_SHARED
from glasskernel.kernel.irq.manage import request_irq
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.drivers.acpi.event import AcpiState
    from glasskernel.drivers.base.core import Bus
    from glasskernel.drivers.clocksource.i8253 import I8253State
    from glasskernel.drivers.input.serio.i8042 import I8042State
    from glasskernel.init.kernel import Kernel

TIMER_IRQ, KEYBOARD_IRQ, SCI_IRQ, MOUSE_IRQ = 0, 1, 9, 12


# ---- the interval timer ------------------------------------------------------------------------------------------
@notrace
def i8253_device(kernel: Kernel) -> I8253State:
    """The timer, set up if nobody has used it yet."""
    if kernel.i8253 is None:
        from glasskernel.drivers.clocksource.i8253 import clockevent_i8253_init

        kernel.i8253 = clockevent_i8253_init(kernel)
    return kernel.i8253


@notrace
def _timer(irq: int, kernel: Kernel) -> int:
    if kernel.i8253 is None:
        return IRQ_NONE
    from glasskernel.drivers.clocksource.i8253 import timer_interrupt

    return timer_interrupt(irq, kernel.i8253)


# ---- the keyboard controller -------------------------------------------------------------------------------------
@notrace
def i8042_device(kernel: Kernel) -> I8042State:
    """The controller, probed if nobody has touched it yet. Raises ENODEV, EIO."""
    if kernel.i8042 is None:
        from glasskernel.drivers.input.serio.i8042 import i8042_create

        kernel.i8042 = i8042_create(kernel)
    return kernel.i8042


@notrace
def _keyboard(irq: int, kernel: Kernel) -> int:
    if kernel.i8042 is None:
        return IRQ_NONE
    from glasskernel.drivers.input.serio.i8042 import i8042_interrupt

    return i8042_interrupt(irq, kernel.i8042)


# ---- ACPI --------------------------------------------------------------------------------------------------------
@notrace
def acpi_device(kernel: Kernel) -> AcpiState:
    """ACPI, with its tables read and its events taken over."""
    if kernel.acpi is None:
        from glasskernel.drivers.acpi.event import acpi_create

        kernel.acpi = acpi_create(kernel)
    return kernel.acpi


@notrace
def _sci(irq: int, kernel: Kernel) -> int:
    if kernel.acpi is None:
        return IRQ_NONE
    from glasskernel.drivers.acpi.event import acpi_irq

    return acpi_irq(irq, kernel.acpi)


@notrace
def _fill_acpi(kn: KernfsNode) -> None:
    """Somebody looks into /sys/firmware/acpi."""
    from glasskernel.drivers.acpi.sysfs import acpi_sysfs_init

    acpi_sysfs_init(acpi_device(kn.root.kernel), kn.priv)


# ---- PCI ---------------------------------------------------------------------------------------------------------
@notrace
def _fill_pci(kn: KernfsNode) -> None:
    """Somebody looks for devices on the bus."""
    from glasskernel.drivers.pci.probe import pci_scan_root_bus

    bus: Bus = kn.root.kernel.sysfs.buses[b"pci"]
    root = bus.dev_root
    assert root is not None
    bus.devices_kobj.sd.populate = root.sd.populate = None
    pci_scan_root_bus(kn.root.kernel, bus, root)


def pci_driver_init(kernel: Kernel) -> None:
    """/sys/bus/pci and /sys/devices/pci0000:00, empty until somebody looks."""
    bus = bus_register(kernel, b"pci")
    root = bus.dev_root = kobject_create_and_add(b"pci0000:00", kernel.sysfs.devices)
    bus.devices_kobj.sd.populate = root.sd.populate = _fill_pci


# ---- boot --------------------------------------------------------------------------------------------------------
def pnp_init(kernel: Kernel) -> None:
    """Takes the lines, and makes /sys/firmware/acpi. After driver_init()."""
    request_irq(kernel, TIMER_IRQ, _timer, 0, "timer", kernel)
    if not kernel.machine.legacy_pic:
        kernel.irq.descs[TIMER_IRQ].hwirq = 2    # where PCs wire it to the I/O APIC; the MADT says so
    request_irq(kernel, KEYBOARD_IRQ, _keyboard, 0, "i8042", kernel)
    request_irq(kernel, SCI_IRQ, _sci, IRQF_SHARED, "acpi", kernel)
    request_irq(kernel, MOUSE_IRQ, _keyboard, 0, "i8042", kernel)
    pci_driver_init(kernel)
    firmware = kernfs_find_and_get(kernel.sysfs.top.sd, b"firmware")
    assert firmware is not None
    kobject_create_and_add(b"acpi", firmware.priv).sd.populate = _fill_acpi
