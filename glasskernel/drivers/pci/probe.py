"""Finding what is on the PCI bus.

Linux: drivers/pci/probe.c (5.3). Same: slots are scanned in their order; base addresses tell what they decode.
Differs: scanned when somebody looks into /sys/bus/pci (drivers/pnp.py); how long windows are is known, as the
firmware's settings cannot be moved. Gaps: bridges, capabilities, drivers bound by ids.
Owns: PciState.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.pci.pci_sysfs import pci_device_add
from glasskernel.drivers.pci.types import (
    IORESOURCE_IO,
    IORESOURCE_MEM,
    PCI_BASE_ADDRESS_0,
    PCI_CLASS_REVISION,
    PCI_HEADER_TYPE,
    PCI_INTERRUPT_LINE,
    PCI_INTERRUPT_PIN,
    PCI_SUBSYSTEM_VENDOR_ID,
    PCI_VENDOR_ID,
    PciDev,
    PciState,
)
from glasskernel.machine.pci import NIC_PORTS_SIZE, NIC_WINDOW_SIZE, PciBus

if TYPE_CHECKING:
    from glasskernel.drivers.base.core import Bus
    from glasskernel.fs.sysfs.kobject import Kobject
    from glasskernel.init.kernel import Kernel


def pci_scan_root_bus(kernel: Kernel, bus_type: Bus, root: Kobject) -> PciState:
    """Everything on bus 0. Context: task."""
    state = PciState(kernel, PciBus(kernel.machine), bus_type, root)
    for slot in range(32):
        pci_scan_slot(state, slot << 3)
    return state


def pci_scan_slot(state: PciState, devfn: int) -> None:
    """Function 0, and the others if the device has several."""
    dev = pci_scan_single_device(state, devfn)
    if dev is not None and state.bus.read(devfn, PCI_HEADER_TYPE, 1) & 0x80:
        for function in range(1, 8):
            pci_scan_single_device(state, devfn | function)


def pci_scan_single_device(state: PciState, devfn: int) -> PciDev | None:
    """A function that answers. None: nobody does."""
    ids = state.bus.read(devfn, PCI_VENDOR_ID, 4)
    if ids in (0, 0xFFFFFFFF):
        return None
    dev = PciDev(devfn, ids & 0xFFFF, ids >> 16)
    pci_setup_device(state, dev)
    pci_device_add(state, dev)
    return dev


def pci_setup_device(state: PciState, dev: PciDev) -> None:
    """What its configuration says of it."""
    bus, devfn = state.bus, dev.devfn
    value = bus.read(devfn, PCI_CLASS_REVISION, 4)
    dev.class_, dev.revision = value >> 8, value & 0xFF
    subsystem = bus.read(devfn, PCI_SUBSYSTEM_VENDOR_ID, 4)
    dev.subsystem_vendor, dev.subsystem_device = subsystem & 0xFFFF, subsystem >> 16
    dev.irq = bus.read(devfn, PCI_INTERRUPT_LINE, 1) if bus.read(devfn, PCI_INTERRUPT_PIN, 1) else 0
    pci_read_bases(state, dev)


def pci_read_bases(state: PciState, dev: PciDev) -> None:
    """Its windows: (first, last, IORESOURCE_*)."""
    for number in range(6):
        base = state.bus.read(dev.devfn, PCI_BASE_ADDRESS_0 + 4 * number, 4)
        if base & 1:
            dev.resource[number] = (base & ~3, (base & ~3) + NIC_PORTS_SIZE - 1, IORESOURCE_IO)
        elif base:
            dev.resource[number] = (base & ~15, (base & ~15) + NIC_WINDOW_SIZE - 1, IORESOURCE_MEM)
