"""PCI devices.

Linux: include/linux/pci.h, include/uapi/linux/pci_regs.h, linux/ioport.h (5.3). Only data.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.slotted import field, slotted

if TYPE_CHECKING:
    from glasskernel.drivers.base.core import Bus
    from glasskernel.fs.sysfs.kobject import Kobject
    from glasskernel.init.kernel import Kernel
    from glasskernel.machine.pci import PciBus

PCI_VENDOR_ID, PCI_CLASS_REVISION, PCI_HEADER_TYPE, PCI_BASE_ADDRESS_0 = 0x00, 0x08, 0x0E, 0x10
PCI_SUBSYSTEM_VENDOR_ID, PCI_INTERRUPT_LINE, PCI_INTERRUPT_PIN = 0x2C, 0x3C, 0x3D
IORESOURCE_IO, IORESOURCE_MEM = 0x40101, 0x40200             # as pci_read_bases() leaves them


@slotted
class PciDev:
    """struct pci_dev. resource: its windows, (first, last, flags), by number of the base address."""

    devfn: int
    vendor: int
    device: int
    class_: int = 0
    revision: int = 0
    subsystem_vendor: int = 0
    subsystem_device: int = 0
    irq: int = 0
    resource: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    @property
    def name(self) -> bytes:
        """As sysfs calls it: domain:bus:slot.function"""
        return b"0000:00:%02x.%d" % (self.devfn >> 3, self.devfn & 7)


@slotted
class PciState:
    """A host bridge and the bus behind it. root: /sys/devices/pci0000:00."""

    kernel: Kernel
    bus: PciBus
    bus_type: Bus
    root: Kobject
