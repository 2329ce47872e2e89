"""/sys/class/net: what there is to know, and to set, about each interface.

Linux: net/core/net-sysfs.c (5.3). Same: names, formats, errno; changes need CAP_NET_ADMIN. Differs: made when somebody
    first looks into /sys/class/net, or listens to uevents. Gaps: devices of other namespaces than the first have no
    directory; receive and transmit steering (rps_*, xps_*), byte queue limits, gro_flush_timeout.
Owns: NetDevice.kobj.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.drivers.base.core import Bus, Class, Device, device_add, device_del, get_device_parent
from glasskernel.fs.kernfs import kernfs_populate, kernfs_rename_ns
from glasskernel.fs.sysfs.kobject import (
    Attribute,
    Kobject,
    kobject_add,
    kobject_create_and_add,
    kobject_uevent,
    sysfs_create_group,
    sysfs_create_link,
    sysfs_remove_link,
)
from glasskernel.kernel.capability import CAP_NET_ADMIN, ns_capable
from glasskernel.lib.errno import EINVAL, EOPNOTSUPP, EPERM, ERANGE, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.core.dev_chain import for_each_netdev, net_of, netdev_state_change
from glasskernel.net.core.dev_open import dev_change_flags, dev_change_tx_queue_len, dev_get_stats, dev_set_mtu
from glasskernel.net.core.rtnl import rtnl_lock, rtnl_unlock
from glasskernel.net.core.rtnl_ifinfo import STATS, dev_get_iflink
from glasskernel.net.netdevice import (
    IF_OPER_DORMANT,
    IF_OPER_DOWN,
    NETREG_REGISTERED,
    NetDevice,
    netif_carrier_ok,
    netif_running,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

OPERSTATES = (b"unknown", b"notpresent", b"down", b"lowerlayerdown", b"testing", b"dormant", b"up")
DUPLEX = {0: b"half", 1: b"full"}


@notrace
def to_net_dev(kobj: Kobject) -> NetDevice:
    """The interface of a directory, of its queues too."""
    dev: NetDevice = kobj.data.data if isinstance(kobj.data, Device) else kobj.data
    return dev


@notrace
def netdev_show(kobj: Kobject, format: Callable[[NetDevice], bytes]) -> bytes:
    """Errors: EINVAL of one that is going."""
    dev = to_net_dev(kobj)
    if dev.reg_state > NETREG_REGISTERED:
        raise KernelError(EINVAL)
    return format(dev)


@notrace
def netdev_store(kobj: Kobject, text: bytes, set: Callable[[NetDevice, int], None]) -> None:
    """A number from user space. Errors: EPERM, EINVAL, and those of set(), which has rtnl."""
    if not ns_capable(None, CAP_NET_ADMIN):
        raise KernelError(EPERM)
    try:
        value = int(text.strip(), 0)
    except ValueError:
        raise KernelError(EINVAL) from None
    if value < 0:
        raise KernelError(ERANGE)
    dev = to_net_dev(kobj)
    rtnl_lock(dev.net.kernel)
    try:
        if dev.reg_state != NETREG_REGISTERED:
            raise KernelError(EINVAL)
        set(dev, value)
    finally:
        rtnl_unlock(dev.net.kernel)


# ---- attributes that are a field -------------------------------------------------------------------
@notrace
def _show(format: Callable[[NetDevice], bytes]) -> Callable[[Kobject], bytes]:
    return lambda kobj: netdev_show(kobj, format)


@notrace
def _number(field: str, fmt: bytes = b"%d\n") -> Callable[[Kobject], bytes]:
    return _show(lambda dev: fmt % getattr(dev, field))


@notrace
def _colons(address: bytes) -> bytes:
    return b":".join(b"%02x" % byte for byte in address) + b"\n"


# ---- attributes that need a function ---------------------------------------------------------------
@notrace
def _running(dev: NetDevice) -> NetDevice:
    if not netif_running(dev):
        raise KernelError(EINVAL)
    return dev


def carrier_show(kobj: Kobject) -> bytes:
    """Errors: EINVAL while the interface is down."""
    return b"%d\n" % netif_carrier_ok(_running(to_net_dev(kobj)))


def carrier_store(kobj: Kobject, text: bytes) -> None:
    """Errors: EOPNOTSUPP: no driver's carrier can be switched."""
    netdev_store(kobj, text, change_carrier)


def change_carrier(dev: NetDevice, value: int) -> None:
    raise KernelError(EOPNOTSUPP if netif_running(dev) else EINVAL)


def dormant_show(kobj: Kobject) -> bytes:
    """Errors: EINVAL while the interface is down."""
    return b"%d\n" % (_running(to_net_dev(kobj)).operstate == IF_OPER_DORMANT)


def operstate_show(kobj: Kobject) -> bytes:
    dev = to_net_dev(kobj)
    return OPERSTATES[dev.operstate if netif_running(dev) else IF_OPER_DOWN] + b"\n"


@notrace
def _ksettings(dev: NetDevice) -> dict[str, int]:
    ops = dev.ethtool_ops
    if not netif_running(dev) or ops is None or ops.get_link_ksettings is None:
        raise KernelError(EINVAL)
    return ops.get_link_ksettings(dev)


def speed_show(kobj: Kobject) -> bytes:
    """Mb/s. Errors: EINVAL for an interface without a speed."""
    return b"%d\n" % _ksettings(to_net_dev(kobj)).get("speed", -1)


def duplex_show(kobj: Kobject) -> bytes:
    """Errors: EINVAL for an interface without a link of that kind."""
    return DUPLEX.get(_ksettings(to_net_dev(kobj)).get("duplex", 0xFF), b"unknown") + b"\n"


def ifalias_show(kobj: Kobject) -> bytes:
    alias = to_net_dev(kobj).ifalias
    return alias + b"\n" if alias else b""


def ifalias_store(kobj: Kobject, text: bytes) -> None:
    """Errors: EPERM, EINVAL."""
    if not ns_capable(None, CAP_NET_ADMIN):
        raise KernelError(EPERM)
    if len(text) >= 256:
        raise KernelError(EINVAL)
    dev = to_net_dev(kobj)
    rtnl_lock(dev.net.kernel)
    dev.ifalias = text[:-1] if text.endswith(b"\n") else text
    netdev_state_change(dev)
    rtnl_unlock(dev.net.kernel)


def mtu_store(kobj: Kobject, text: bytes) -> None:
    netdev_store(kobj, text, dev_set_mtu)


def flags_store(kobj: Kobject, text: bytes) -> None:
    netdev_store(kobj, text, dev_change_flags)


def tx_queue_len_store(kobj: Kobject, text: bytes) -> None:
    netdev_store(kobj, text, dev_change_tx_queue_len)


def group_store(kobj: Kobject, text: bytes) -> None:
    netdev_store(kobj, text, dev_set_group)


def dev_set_group(dev: NetDevice, group: int) -> None:
    dev.group = group


def name_assign_type_show(kobj: Kobject) -> bytes:
    """Errors: EINVAL: who chose the name is not known."""
    raise KernelError(EINVAL)


def phys_show(kobj: Kobject) -> bytes:
    """Errors: EOPNOTSUPP: no driver says."""
    raise KernelError(EOPNOTSUPP)


def netstat_show(name: str) -> Callable[[Kobject], bytes]:
    """One counter."""
    return _show(lambda dev: b"%d\n" % getattr(dev_get_stats(dev), name))


def tx_timeout_show(kobj: Kobject) -> bytes:
    return b"%d\n" % to_net_dev(kobj).tx.trans_timeout


net_class_attrs = (
    Attribute(b"addr_assign_type", _number("addr_assign_type")),
    Attribute(b"addr_len", _number("addr_len")),
    Attribute(b"address", _show(lambda dev: _colons(dev.dev_addr[: dev.addr_len]))),
    Attribute(b"broadcast", _show(lambda dev: _colons(dev.broadcast[: dev.addr_len]))),
    Attribute(b"carrier", carrier_show, carrier_store, 0o644),
    Attribute(b"carrier_changes", _show(lambda dev: b"%d\n" % (dev.carrier_up_count + dev.carrier_down_count))),
    Attribute(b"carrier_down_count", _number("carrier_down_count")),
    Attribute(b"carrier_up_count", _number("carrier_up_count")),
    Attribute(b"dormant", dormant_show),
    Attribute(b"duplex", duplex_show),
    Attribute(b"flags", _number("flags", b"0x%x\n"), flags_store, 0o644),
    Attribute(b"ifalias", ifalias_show, ifalias_store, 0o644),
    Attribute(b"ifindex", _number("ifindex")),
    Attribute(b"iflink", _show(lambda dev: b"%d\n" % dev_get_iflink(dev))),
    Attribute(b"link_mode", _number("link_mode")),
    Attribute(b"mtu", _number("mtu"), mtu_store, 0o644),
    Attribute(b"name_assign_type", name_assign_type_show),
    Attribute(b"netdev_group", _number("group"), group_store, 0o644),
    Attribute(b"operstate", operstate_show),
    Attribute(b"phys_port_id", phys_show),
    Attribute(b"phys_port_name", phys_show),
    Attribute(b"phys_switch_id", phys_show),
    Attribute(b"speed", speed_show),
    Attribute(b"tx_queue_len", _number("tx_queue_len"), tx_queue_len_store, 0o644),
    Attribute(b"type", _number("type")),
)
netstat_attrs = tuple(Attribute(name.encode(), netstat_show(name)) for name in STATS)
tx_queue_attrs = (Attribute(b"tx_timeout", tx_timeout_show),)


# ---- objects ---------------------------------------------------------------------------------------
def netdev_uevent(device: Device) -> list[bytes]:
    """->dev_uevent() of the class"""
    dev: NetDevice = device.data
    return [b"INTERFACE=" + dev.name, b"IFINDEX=%d" % dev.ifindex]


@notrace
def net_class(kernel: Kernel) -> Class:
    cls: Class = kernel.sysfs.classes[b"net"]
    return cls


@notrace
def parent_device(dev: NetDevice) -> Device | None:
    """The device on the bus that the interface belongs to (SET_NETDEV_DEV())."""
    if not dev.parent:
        return None
    bus: Bus = dev.net.kernel.sysfs.buses[b"pci"]
    kernfs_populate(bus.devices_kobj.sd)
    return bus.devices.get(dev.parent)


def netdev_register_kobject(dev: NetDevice) -> None:
    """The directory of a new interface, and its event. Errors: EEXIST."""
    kernel = dev.net.kernel
    if dev.net is not net_of(kernel).init_net:
        return
    cls = net_class(kernel)
    parent = parent_device(dev)
    kobj = Kobject(kernel, dev.name, get_device_parent(kernel, cls, parent))
    device = Device(kobj, dev.name, cls=cls, data=dev, uevent=netdev_uevent)
    dev.kobj = device
    device_add(device)
    if parent is not None:
        sysfs_create_link(kobj, parent.kobj, b"device")
    sysfs_create_group(kobj, net_class_attrs)
    sysfs_create_group(kobj, netstat_attrs, b"statistics")
    register_queue_kobjects(dev, kobj)


def register_queue_kobjects(dev: NetDevice, kobj: Kobject) -> None:
    """queues/rx-0 and tx-0"""
    queues = kobject_create_and_add(b"queues", kobj)
    kobject_create_and_add(b"rx-0", queues)
    tx = Kobject(kobj.kernel, b"tx-0", queues, data=dev)
    kobject_add(tx)
    sysfs_create_group(tx, tx_queue_attrs)


def netdev_unregister_kobject(dev: NetDevice) -> None:
    """The interface is gone."""
    device: Device | None = dev.kobj
    if device is not None:
        dev.kobj = None
        device_del(device)


def netdev_rename_kobject(dev: NetDevice) -> None:
    """device_rename(): a new name for the directory and the links to it."""
    device: Device | None = dev.kobj
    if device is None:
        return
    cls = net_class(dev.net.kernel)
    sysfs_remove_link(cls.kobj, device.name)
    del cls.devices[device.name]
    device_rename(device, dev.name)
    sysfs_create_link(cls.kobj, device.kobj, dev.name)
    cls.devices[dev.name] = device
    kobject_uevent(device.kobj, b"move")


@notrace
def device_rename(device: Device, name: bytes) -> None:
    node = device.kobj.sd
    assert node.parent is not None
    kernfs_rename_ns(node, node.parent, name)
    device.name = device.kobj.name = name


def netdev_kobject_init(kernel: Kernel) -> None:
    """Directories for the interfaces that there are, and from now on for each that comes. Context: task."""
    state = kernel.start_network()
    if state.netdev_register_kobject is not None:
        return
    cls = net_class(kernel)
    cls.kobj.sd.populate = None
    if cls.virtual is not None:
        cls.virtual.sd.populate = None
    state.netdev_register_kobject = netdev_register_kobject
    state.netdev_unregister_kobject = netdev_unregister_kobject
    state.netdev_rename_kobject = netdev_rename_kobject
    for dev in for_each_netdev(state.init_net):
        netdev_register_kobject(dev)
