"""Devices go up and down; their flags, MTU, addresses and what they listen to.

Linux: net/core/dev.c, dev_addr_lists.c (5.3). Same: the order of state changes and notifications, and who can veto
them (a notifier that raises). Promiscuity and multicast addresses are counted by their users.
Gaps: unicast filters, proto_down, carrier changes from user space.
Owns: NetDevice.flags, gflags, promiscuity, allmulti, mc. Locks: rtnl, for all of them. Context: task; may sleep.
"""
from __future__ import annotations

from glasskernel.lib.errno import EADDRNOTAVAIL, EINVAL, ENODEV, ENOENT, EOPNOTSUPP, EOVERFLOW, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dev_chain import call_netdevice_notifiers, rtmsg_ifinfo
from glasskernel.net.netdevice import (
    __LINK_STATE_PRESENT,
    __LINK_STATE_START,
    IF_OPER_UNKNOWN,
    IF_OPER_UP,
    IFF_ALLMULTI,
    IFF_AUTOMEDIA,
    IFF_BROADCAST,
    IFF_DEBUG,
    IFF_DORMANT,
    IFF_DYNAMIC,
    IFF_LOOPBACK,
    IFF_LOWER_UP,
    IFF_MASTER,
    IFF_MULTICAST,
    IFF_NOARP,
    IFF_NOTRAILERS,
    IFF_POINTOPOINT,
    IFF_PORTSEL,
    IFF_PROMISC,
    IFF_RUNNING,
    IFF_SLAVE,
    IFF_UP,
    NETDEV_CHANGE,
    NETDEV_CHANGEADDR,
    NETDEV_CHANGEMTU,
    NETDEV_DOWN,
    NETDEV_GOING_DOWN,
    NETDEV_PRE_CHANGEADDR,
    NETDEV_PRE_UP,
    NETDEV_PRECHANGEMTU,
    NETDEV_UP,
    NetDevice,
    NetDeviceStats,
    netif_carrier_ok,
    netif_running,
)
from glasskernel.net.sched.sch_generic import dev_activate, dev_deactivate, qdisc_reset

IFF_ECHO = 1 << 18
IFF_VOLATILE = (IFF_LOOPBACK | IFF_POINTOPOINT | IFF_BROADCAST | IFF_ECHO | IFF_MASTER | IFF_SLAVE | IFF_RUNNING
                | IFF_LOWER_UP | IFF_DORMANT)
_CHANGEABLE = (IFF_DEBUG | IFF_NOTRAILERS | IFF_NOARP | IFF_DYNAMIC | IFF_MULTICAST | IFF_PORTSEL | IFF_AUTOMEDIA)
NET_ADDR_PERM, NET_ADDR_RANDOM, NET_ADDR_SET = 0, 1, 3


@notrace
def netif_device_present(dev: NetDevice) -> bool:
    return bool(dev.state & __LINK_STATE_PRESENT)


# ---- up and down ------------------------------------------------------------------------------------------
@may_sleep
def dev_open(dev: NetDevice) -> None:
    """Brings the device up and tells everybody. Raises what its driver and the notifiers raise."""
    if dev.flags & IFF_UP:
        return
    __dev_open(dev)
    rtmsg_ifinfo(dev, IFF_UP | IFF_RUNNING)
    call_netdevice_notifiers(NETDEV_UP, dev)


@may_sleep
def __dev_open(dev: NetDevice) -> None:
    if not netif_device_present(dev):
        raise KernelError(ENODEV)
    call_netdevice_notifiers(NETDEV_PRE_UP, dev)
    ops = dev.netdev_ops
    dev.state |= __LINK_STATE_START
    try:
        if ops.ndo_validate_addr is not None:
            ops.ndo_validate_addr(dev)
        if ops.ndo_open is not None:
            ops.ndo_open(dev)
    except KernelError:
        dev.state &= ~__LINK_STATE_START
        raise
    dev.flags |= IFF_UP
    dev_set_rx_mode(dev)
    dev_activate(dev)


@may_sleep
def dev_close(dev: NetDevice) -> None:
    """Takes the device down and tells everybody."""
    if not dev.flags & IFF_UP:
        return
    __dev_close(dev)
    rtmsg_ifinfo(dev, IFF_UP | IFF_RUNNING)
    call_netdevice_notifiers(NETDEV_DOWN, dev)


@may_sleep
def __dev_close(dev: NetDevice) -> None:
    call_netdevice_notifiers(NETDEV_GOING_DOWN, dev)
    dev.state &= ~__LINK_STATE_START
    dev_deactivate(dev)
    if dev.netdev_ops.ndo_stop is not None:
        dev.netdev_ops.ndo_stop(dev)
    dev.flags &= ~IFF_UP


# ---- flags ------------------------------------------------------------------------------------------------
def dev_get_flags(dev: NetDevice) -> int:
    """The flags that users see."""
    flags = dev.flags & ~(IFF_PROMISC | IFF_ALLMULTI | IFF_RUNNING | IFF_LOWER_UP | IFF_DORMANT)
    flags |= dev.gflags & (IFF_PROMISC | IFF_ALLMULTI)
    if netif_running(dev):
        if dev.operstate in (IF_OPER_UP, IF_OPER_UNKNOWN):
            flags |= IFF_RUNNING
        if netif_carrier_ok(dev):
            flags |= IFF_LOWER_UP
    return flags


@may_sleep
def dev_change_flags(dev: NetDevice, flags: int) -> None:
    """Sets the flags that users may set: up and down, among others. Raises what __dev_open() raises."""
    old_flags, old_gflags = dev.flags, dev.gflags
    __dev_change_flags(dev, flags)
    __dev_notify_flags(dev, old_flags, (old_flags ^ dev.flags) | (old_gflags ^ dev.gflags))


@may_sleep
def __dev_change_flags(dev: NetDevice, flags: int) -> None:
    old = dev.flags
    dev.flags = flags & _CHANGEABLE | old & (IFF_UP | IFF_VOLATILE | IFF_PROMISC | IFF_ALLMULTI)
    dev_set_rx_mode(dev)
    if (old ^ flags) & IFF_UP:
        if old & IFF_UP:
            __dev_close(dev)
        else:
            __dev_open(dev)
    if (flags ^ dev.gflags) & IFF_PROMISC:
        dev.gflags ^= IFF_PROMISC
        before = dev.flags
        __dev_set_promiscuity(dev, 1 if flags & IFF_PROMISC else -1, False)
        if dev.flags != before:
            dev_set_rx_mode(dev)
    if (flags ^ dev.gflags) & IFF_ALLMULTI:
        dev.gflags ^= IFF_ALLMULTI
        __dev_set_allmulti(dev, 1 if flags & IFF_ALLMULTI else -1, False)


@may_sleep
def __dev_notify_flags(dev: NetDevice, old_flags: int, gchanges: int) -> None:
    changes = dev.flags ^ old_flags
    if gchanges:
        rtmsg_ifinfo(dev, gchanges)
    if changes & IFF_UP:
        call_netdevice_notifiers(NETDEV_UP if dev.flags & IFF_UP else NETDEV_DOWN, dev)
    if dev.flags & IFF_UP and changes & ~(IFF_UP | IFF_PROMISC | IFF_ALLMULTI | IFF_VOLATILE):
        call_netdevice_notifiers(NETDEV_CHANGE, dev)


# ---- what it listens to -------------------------------------------------------------------------------------
def dev_set_promiscuity(dev: NetDevice, inc: int) -> None:
    """One user more (1) or less (-1) wants all packets. Raises EOVERFLOW."""
    old_flags = dev.flags
    __dev_set_promiscuity(dev, inc, True)
    if dev.flags != old_flags:
        dev_set_rx_mode(dev)


def __dev_set_promiscuity(dev: NetDevice, inc: int, notify: bool) -> None:
    old_flags = dev.flags
    dev.promiscuity = _count(dev.promiscuity, inc)
    dev.flags = old_flags | IFF_PROMISC if dev.promiscuity else old_flags & ~IFF_PROMISC
    if dev.flags != old_flags:
        verb = "entered" if dev.flags & IFF_PROMISC else "left"
        dev.net.kernel.printk(f"device {dev.name.decode()} {verb} promiscuous mode")
    if notify:
        __dev_notify_flags(dev, old_flags, IFF_PROMISC)


def dev_set_allmulti(dev: NetDevice, inc: int) -> None:
    """One user more (1) or less (-1) wants all multicasts. Raises EOVERFLOW."""
    __dev_set_allmulti(dev, inc, True)


def __dev_set_allmulti(dev: NetDevice, inc: int, notify: bool) -> None:
    old_flags, old_gflags = dev.flags, dev.gflags
    dev.allmulti = _count(dev.allmulti, inc)
    dev.flags = old_flags | IFF_ALLMULTI if dev.allmulti else old_flags & ~IFF_ALLMULTI
    if dev.flags != old_flags:
        dev_set_rx_mode(dev)
        if notify:
            __dev_notify_flags(dev, old_flags, dev.gflags ^ old_gflags)


@notrace
def _count(users: int, inc: int) -> int:
    users += inc
    if users < 0 or users > 0xFFFFFFFF:
        raise KernelError(EOVERFLOW)
    return users


def dev_set_rx_mode(dev: NetDevice) -> None:
    """The driver is to listen to what its flags and lists say."""
    if dev.flags & IFF_UP and netif_device_present(dev) and dev.netdev_ops.ndo_set_rx_mode is not None:
        dev.netdev_ops.ndo_set_rx_mode(dev)


def dev_mc_add(dev: NetDevice, addr: bytes) -> None:
    """One more user of a multicast address of the link."""
    dev.mc[addr] = dev.mc.get(addr, 0) + 1
    dev_set_rx_mode(dev)


def dev_mc_del(dev: NetDevice, addr: bytes) -> None:
    """Raises ENOENT."""
    users = dev.mc.get(addr, 0)
    if not users:
        raise KernelError(ENOENT)
    if users == 1:
        del dev.mc[addr]
    else:
        dev.mc[addr] = users - 1
    dev_set_rx_mode(dev)


# ---- its properties -------------------------------------------------------------------------------------------
@may_sleep
def dev_set_mtu(dev: NetDevice, new_mtu: int) -> None:
    """Raises EINVAL for sizes that the device cannot have, ENODEV, and what notifiers raise: then it stays as it
    was."""
    if new_mtu == dev.mtu:
        return
    dev_validate_mtu(dev, new_mtu)
    if not netif_device_present(dev):
        raise KernelError(ENODEV)
    call_netdevice_notifiers(NETDEV_PRECHANGEMTU, dev)
    orig_mtu = dev.mtu
    __dev_set_mtu(dev, new_mtu)
    try:
        call_netdevice_notifiers(NETDEV_CHANGEMTU, dev)
    except KernelError:
        __dev_set_mtu(dev, orig_mtu)
        call_netdevice_notifiers(NETDEV_CHANGEMTU, dev)
        raise


@notrace
def dev_validate_mtu(dev: NetDevice, new_mtu: int) -> None:
    if new_mtu < 0 or new_mtu < dev.min_mtu or (dev.max_mtu > 0 and new_mtu > dev.max_mtu):
        raise KernelError(EINVAL)


@may_sleep
def __dev_set_mtu(dev: NetDevice, new_mtu: int) -> None:
    if dev.netdev_ops.ndo_change_mtu is not None:
        dev.netdev_ops.ndo_change_mtu(dev, new_mtu)
    else:
        dev.mtu = new_mtu


@may_sleep
def dev_set_mac_address(dev: NetDevice, family: int, address: bytes) -> None:
    """family: an ARPHRD_*. Raises EOPNOTSUPP, EINVAL, ENODEV, EADDRNOTAVAIL, and what the driver raises."""
    ops = dev.netdev_ops
    if ops.ndo_set_mac_address is None:
        raise KernelError(EOPNOTSUPP)
    if family != dev.type:
        raise KernelError(EINVAL)
    if not netif_device_present(dev):
        raise KernelError(ENODEV)
    if len(address) < dev.addr_len:
        raise KernelError(EADDRNOTAVAIL)
    call_netdevice_notifiers(NETDEV_PRE_CHANGEADDR, dev)
    ops.ndo_set_mac_address(dev, address[: dev.addr_len])
    dev.addr_assign_type = NET_ADDR_SET
    call_netdevice_notifiers(NETDEV_CHANGEADDR, dev)


@may_sleep
def dev_change_tx_queue_len(dev: NetDevice, new_len: int) -> None:
    """How many packets a queue takes; packets that wait in one that shrinks are dropped."""
    shrinks = new_len < dev.tx_queue_len
    dev.tx_queue_len = new_len
    if shrinks:
        qdisc_reset(dev.qdisc)


def dev_get_stats(dev: NetDevice) -> NetDeviceStats:
    """The driver's counters, or those that the core keeps."""
    if dev.netdev_ops.ndo_get_stats64 is not None:
        return dev.netdev_ops.ndo_get_stats64(dev)
    return dev.stats
