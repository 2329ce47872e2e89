"""The device model: devices, classes and buses, their directories in /sys and their nodes in /dev.

Linux: drivers/base/core.c, class.c, bus.c (5.3). Same: /sys/devices/.../NAME with dev, uevent, subsystem;
    links in /sys/class, /sys/bus/*/devices and /sys/dev/{char,block}. Differs: a device has no driver to
    bind.
Owns: every Class, Bus and Device. Invariants: a device with a number has its node in devtmpfs and its link in
    /sys/dev as long as it is registered.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from glasskernel.fs.devtmpfs import devtmpfs_create_node, devtmpfs_delete_node
from glasskernel.fs.sysfs.kobject import (
    Attribute,
    Kobject,
    kobject_add,
    kobject_create_and_add,
    kobject_del,
    kobject_uevent,
    sysfs_create_file,
    sysfs_create_link,
    sysfs_remove_link,
)
from glasskernel.fs.types import MAJOR, MINOR
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


@slotted
class Class:
    """struct class: devices of one kind, /sys/class/NAME. block: its numbers are block devices'."""

    name: bytes
    kobj: Kobject
    devices: dict[bytes, Device] = field(default_factory=dict)
    block: bool = False
    virtual: Kobject | None = None           # /sys/devices/virtual/NAME, made for the first device without a parent


@slotted
class Bus:
    """struct bus_type and its private half: /sys/bus/NAME."""

    name: bytes
    kobj: Kobject
    devices_kobj: Kobject
    dev_root: Kobject | None = None          # subsys_system_register: /sys/devices/system/NAME
    devices: dict[bytes, Device] = field(default_factory=dict)


@slotted
class Device:
    """struct device. devt: 0 or its number. nodename: its path in /dev; mode: of the node."""

    kobj: Kobject
    name: bytes
    devt: int = 0
    cls: Class | None = None
    bus: Bus | None = None
    mode: int = 0o600
    nodename: bytes = b""
    data: Any = None
    uevent: Callable[[Device], list[bytes]] | None = None


# ---- classes and buses ---------------------------------------------------------------------------
@notrace
def class_create(kernel: Kernel, name: bytes, block: bool = False) -> Class:
    """/sys/class/NAME"""
    classes: dict[bytes, Class] = kernel.sysfs.classes
    cls = classes[name] = Class(name, kobject_create_and_add(name, kernel.sysfs.class_), block=block)
    return cls


def bus_register(kernel: Kernel, name: bytes) -> Bus:
    """/sys/bus/NAME with devices/ and drivers/"""
    kobj = kobject_create_and_add(name, kernel.sysfs.bus)
    devices = kobject_create_and_add(b"devices", kobj)
    kobject_create_and_add(b"drivers", kobj)
    bus = Bus(name, kobj, devices)
    kernel.sysfs.buses[name] = bus
    return bus


def subsys_system_register(kernel: Kernel, name: bytes, attrs: Sequence[Attribute] = ()) -> Bus:
    """A bus whose devices live in /sys/devices/system/NAME."""
    bus = bus_register(kernel, name)
    bus.dev_root = kobject_create_and_add(name, kernel.sysfs.system)
    for attr in attrs:
        sysfs_create_file(bus.dev_root, attr)
    return bus


# ---- devices -------------------------------------------------------------------------------------
def dev_show(kobj: Kobject) -> bytes:
    device: Device = kobj.data
    return b"%d:%d\n" % (MAJOR(device.devt), MINOR(device.devt))


dev_attr = Attribute(b"dev", dev_show)


def dev_uevent(kobj: Kobject) -> list[bytes]:
    """The lines of the `uevent` file."""
    device: Device = kobj.data
    lines = []
    if device.devt:
        lines += [b"MAJOR=%d" % MAJOR(device.devt), b"MINOR=%d" % MINOR(device.devt),
                  b"DEVNAME=%b" % (device.nodename or device.name)]
        if device.mode & 0o777 != 0o600:
            lines.append(b"DEVMODE=0%o" % (device.mode & 0o777))
    if device.uevent is not None:
        lines += device.uevent(device)
    return lines


def device_add(device: Device) -> None:
    """Directory, links, node and an event. Errors: EEXIST."""
    kobj = device.kobj
    kernel = kobj.kernel
    kobj.data = device
    kobj.uevent = dev_uevent
    kobject_add(kobj)
    if device.devt:
        sysfs_create_file(kobj, dev_attr)
    cls = device.cls
    if cls is not None:
        sysfs_create_link(kobj, cls.kobj, b"subsystem")
        sysfs_create_link(cls.kobj, kobj, device.name)
        cls.devices[device.name] = device
    bus = device.bus
    if bus is not None:
        sysfs_create_link(kobj, bus.kobj, b"subsystem")
        sysfs_create_link(bus.devices_kobj, kobj, device.name)
        bus.devices[device.name] = device
    if device.devt:
        block = cls is not None and cls.block
        numbers = kernel.sysfs.dev_block if block else kernel.sysfs.dev_char
        sysfs_create_link(numbers, kobj, b"%d:%d" % (MAJOR(device.devt), MINOR(device.devt)))
        devtmpfs_create_node(kernel, device.nodename or device.name, device.mode, device.devt, block)
    kobject_uevent(kobj, b"add")


def device_del(device: Device) -> None:
    """Takes everything of device_add() away."""
    kobj = device.kobj
    kernel = kobj.kernel
    cls = device.cls
    if device.devt:
        devtmpfs_delete_node(kernel, device.nodename or device.name)
        numbers = kernel.sysfs.dev_block if cls is not None and cls.block else kernel.sysfs.dev_char
        sysfs_remove_link(numbers, b"%d:%d" % (MAJOR(device.devt), MINOR(device.devt)))
    if cls is not None:
        sysfs_remove_link(cls.kobj, device.name)
        del cls.devices[device.name]
    if device.bus is not None:
        sysfs_remove_link(device.bus.devices_kobj, device.name)
        del device.bus.devices[device.name]
    kobject_uevent(kobj, b"remove")
    kobject_del(kobj)


@notrace
def get_device_parent(kernel: Kernel, cls: Class, parent: Device | None) -> Kobject:
    """Where a class device's directory goes: below its parent, or in /sys/devices/virtual/CLASS."""
    if parent is not None:
        existing = parent.kobj.sd.children or {}
        glue = existing.get(cls.name)
        if glue is not None:
            kobj: Kobject = glue.priv
            return kobj
        return kobject_create_and_add(cls.name, parent.kobj)
    if cls.virtual is None:
        cls.virtual = kobject_create_and_add(cls.name, kernel.sysfs.virtual)
    return cls.virtual


def device_create(kernel: Kernel, cls: Class, parent: Device | None, devt: int, name: bytes, mode: int = 0o600,
                  nodename: bytes = b"", data: Any = None) -> Device:
    """A device of a class. devt: MKDEV() or 0; mode and nodename: of its node in /dev. Errors: EEXIST."""
    kobj = Kobject(kernel, name.replace(b"/", b"!"), get_device_parent(kernel, cls, parent))
    device = Device(kobj, name.replace(b"/", b"!"), devt, cls, None, mode, nodename or name, data)
    device_add(device)
    return device


def device_destroy(kernel: Kernel, cls: Class, devt: int) -> None:
    """Removes the device of a class with that number."""
    for device in cls.devices.values():
        if device.devt == devt:
            device_del(device)
            return
