"""Uevents over netlink: what udev listens to.

Linux: the netlink half of lib/kobject_uevent.c (5.3). Same: ACTION@DEVPATH and the variables, NUL after each; devices
    of the network are told of in their namespace only. Differs: the sockets exist from the first listener on: earlier
    events reach nobody in any case. Gaps: programs that send uevents (udevadm test), /sbin/hotplug.
Owns: Net.uevent_sock.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.drivers.base.core import Device
from glasskernel.fs.sysfs.kobject import kobject_path
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.core.dev_chain import net_of
from glasskernel.net.core.net_namespace import register_pernet_subsys
from glasskernel.net.netdevice import NetDevice
from glasskernel.net.netlink.af_netlink import __netlink_kernel_create, netlink_kernel_release
from glasskernel.net.netlink.delivery import netlink_broadcast, netlink_has_listeners
from glasskernel.net.netlink.types import (
    NETLINK_KOBJECT_UEVENT,
    NL_CFG_F_NONROOT_RECV,
    NetlinkKernelCfg,
    NetlinkSkbParms,
)
from glasskernel.net.skbuff import alloc_skb, skb_put_data
from glasskernel.net.types import PernetOperations

if TYPE_CHECKING:
    from glasskernel.fs.sysfs.kobject import Kobject
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.types import Net


@notrace
def uevent_env(kobj: Kobject, action: bytes, extra: tuple[bytes, ...], seqnum: int) -> list[bytes]:
    """The variables of an event."""
    device = kobj.data
    subsystem = b""
    if isinstance(device, Device):
        subsystem = device.bus.name if device.bus is not None else device.cls.name if device.cls is not None else b""
    env = [b"ACTION=" + action, b"DEVPATH=" + kobject_path(kobj)]
    if subsystem:
        env.append(b"SUBSYSTEM=" + subsystem)
    env += extra
    if kobj.uevent is not None:
        env += kobj.uevent(kobj)
    env.append(b"SEQNUM=%d" % seqnum)
    return env


@notrace
def kobject_uevent_net_broadcast(kobj: Kobject, action: bytes, env: tuple[bytes, ...], seqnum: int) -> None:
    """Tells the listeners of an event. Context: task."""
    device = kobj.data
    owner = device.data if isinstance(device, Device) else None
    nets = [owner.net] if isinstance(owner, NetDevice) else net_of(kobj.kernel).net_namespace_list
    text = b""
    for net in nets:
        sk = net.uevent_sock
        if sk is None or not netlink_has_listeners(sk, 1):
            continue
        text = text or (action + b"@" + kobject_path(kobj) + b"\0"
                        + b"".join(line + b"\0" for line in uevent_env(kobj, action, env, seqnum)))
        skb = alloc_skb(len(text))
        skb.cb = NetlinkSkbParms(dst_group=1)
        skb_put_data(skb, text)
        with suppress(KernelError):
            netlink_broadcast(sk, skb, 0, 1)


def uevent_net_init(net: Net) -> None:
    net.uevent_sock = __netlink_kernel_create(net, NETLINK_KOBJECT_UEVENT, NetlinkKernelCfg(
        groups=1, flags=NL_CFG_F_NONROOT_RECV))


def uevent_net_exit(net: Net) -> None:
    netlink_kernel_release(net.uevent_sock)
    net.uevent_sock = None


def kobject_uevent_init(kernel: Kernel) -> None:
    register_pernet_subsys(kernel, PernetOperations(uevent_net_init, uevent_net_exit))
    kernel.uevent_net_broadcast = kobject_uevent_net_broadcast
    kernel.netdev_kobject_init()         # interfaces have events, too
