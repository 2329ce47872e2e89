"""PCI devices in /sys.

Linux: drivers/pci/pci-sysfs.c (5.3). Same: the files that lspci reads. Gaps: writing (config, enable, remove, rescan),
resourceN to map, the directory of a device's network interface, links to drivers; /proc/bus/pci.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.base.core import Device, device_add
from glasskernel.fs.sysfs.kobject import Attribute, Kobject, sysfs_create_bin_file, sysfs_create_file
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.lib.types import notrace
from glasskernel.machine.pci import CONFIG_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.drivers.pci.types import PciDev, PciState

NR_RESOURCES = 13
PCI_STD_HEADER = 64                              # what everybody may read of the configuration


@notrace
def _pci_dev(kobj: Kobject) -> PciDev:
    dev: PciDev = kobj.data.data
    return dev


def resource_show(kobj: Kobject) -> bytes:
    resource = _pci_dev(kobj).resource
    return b"".join(b"0x%016x 0x%016x 0x%016x\n" % resource.get(number, (0, 0, 0)) for number in range(NR_RESOURCES))


def modalias_show(kobj: Kobject) -> bytes:
    return pci_modalias(_pci_dev(kobj)) + b"\n"


@notrace
def pci_modalias(dev: PciDev) -> bytes:
    """What modprobe looks a driver up by."""
    return b"pci:v%08Xd%08Xsv%08Xsd%08Xbc%02Xsc%02Xi%02x" % (
        dev.vendor, dev.device, dev.subsystem_vendor, dev.subsystem_device, dev.class_ >> 16, dev.class_ >> 8 & 0xFF,
        dev.class_ & 0xFF)


@notrace
def _number(text: bytes, value: Callable[[PciDev], int]) -> Callable[[Kobject], bytes]:
    return notrace(lambda kobj: text % value(_pci_dev(kobj)) + b"\n")


@notrace
def pci_uevent(device: Device) -> list[bytes]:
    """->uevent()"""
    dev: PciDev = device.data
    return [b"PCI_CLASS=%04X" % dev.class_, b"PCI_ID=%04X:%04X" % (dev.vendor, dev.device),
            b"PCI_SUBSYS_ID=%04X:%04X" % (dev.subsystem_vendor, dev.subsystem_device),
            b"PCI_SLOT_NAME=" + dev.name, b"MODALIAS=" + pci_modalias(dev)]


pci_dev_attrs = (
    Attribute(b"vendor", _number(b"0x%04x", lambda dev: dev.vendor)),
    Attribute(b"device", _number(b"0x%04x", lambda dev: dev.device)),
    Attribute(b"subsystem_vendor", _number(b"0x%04x", lambda dev: dev.subsystem_vendor)),
    Attribute(b"subsystem_device", _number(b"0x%04x", lambda dev: dev.subsystem_device)),
    Attribute(b"revision", _number(b"0x%02x", lambda dev: dev.revision)),
    Attribute(b"class", _number(b"0x%06x", lambda dev: dev.class_)),
    Attribute(b"irq", _number(b"%u", lambda dev: dev.irq)),
    Attribute(b"resource", resource_show),
    Attribute(b"modalias", modalias_show),
)


def pci_device_add(state: PciState, dev: PciDev) -> None:
    """Its directory in /sys/devices/pci0000:00, its link in /sys/bus/pci/devices, and its files."""
    kobj = Kobject(state.kernel, dev.name, state.root)
    device_add(Device(kobj, dev.name, bus=state.bus_type, data=dev, uevent=pci_uevent))
    for attr in pci_dev_attrs:
        sysfs_create_file(kobj, attr)

    @notrace
    def pci_read_config(kobj: Kobject) -> bytes:
        config = bytes(state.bus.read(dev.devfn, offset, 1) for offset in range(CONFIG_SIZE))
        return config if capable(CAP_SYS_ADMIN) else config[:PCI_STD_HEADER]

    sysfs_create_bin_file(kobj, Attribute(b"config", pci_read_config), CONFIG_SIZE)
