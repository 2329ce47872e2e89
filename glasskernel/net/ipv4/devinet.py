"""IPv4 addresses of devices come and go.

Linux: net/ipv4/devinet.c (5.3). Same: primary and secondary addresses, their order by scope, promotion, what a device
that comes up, goes down, is renamed or disappears does to them; the loopback device gets 127.0.0.1/8 when it comes up
and has none. Differs: look-ups are in in_device.py, ioctls in devinet_ioctl.py, rtnetlink's half in devinet_netlink.py.
Owns: net_device.ip_ptr.  Gaps: lifetimes do not end (check_lifetime), arp_notify, IP_MULTICAST_AUTO_JOIN.
Locks: rtnl.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.lib.errno import EEXIST, EINVAL, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.core.neighbour import neigh_parms_alloc, neigh_parms_release
from glasskernel.net.ipv4.arp import ARPOP_REQUEST, arp_ifdown, arp_send
from glasskernel.net.ipv4.fib_semantics import inet_of
from glasskernel.net.ipv4.igmp import ip_mc_destroy_dev, ip_mc_down, ip_mc_init_dev, ip_mc_up
from glasskernel.net.ipv4.in_device import (
    IFA_F_PERMANENT,
    IFA_F_SECONDARY,
    IPV4_DEVCONF,
    in_dev_get,
    in_dev_orconf,
    inet_ifa_match,
    inet_make_mask,
    ipv4_of,
)
from glasskernel.net.ipv4.sysctl_net_ipv4 import devinet_sysctl_register, devinet_sysctl_unregister
from glasskernel.net.ipv4.types import INADDR_LOOPBACK, RT_SCOPE_HOST, InDevice, InIfaddr
from glasskernel.net.netdevice import (
    IFF_LOOPBACK,
    IFF_UP,
    NETDEV_CHANGEMTU,
    NETDEV_CHANGENAME,
    NETDEV_DOWN,
    NETDEV_NOTIFY_PEERS,
    NETDEV_REGISTER,
    NETDEV_UNREGISTER,
    NETDEV_UP,
    dev_hold,
    dev_put,
)

if TYPE_CHECKING:
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.types import Net

RTM_NEWADDR, RTM_DELADDR = 20, 21
INFINITY_LIFE_TIME = 0xFFFFFFFF
IPV4_MIN_MTU = 68


def devinet_init_net(net: Net) -> None:
    """What devices of the namespace start with."""
    ipv4 = ipv4_of(net)
    ipv4.devconf_all = dict(IPV4_DEVCONF)
    ipv4.devconf_dflt = IPV4_DEVCONF | {"accept_source_route": 1}


# ---- devices -------------------------------------------------------------------------------------------------------
def inetdev_init(dev: NetDevice) -> InDevice:
    """The device becomes one that can have addresses."""
    in_dev = InDevice(dev)
    in_dev.cnf = dict(ipv4_of(dev.net).devconf_dflt)
    dev_hold(dev)
    in_dev.arp_parms = neigh_parms_alloc(dev, inet_of(dev.net).arp_tbl)
    ip_mc_init_dev(in_dev)
    dev.ip_ptr = in_dev
    devinet_sysctl_register(in_dev)
    if dev.flags & IFF_UP:
        ip_mc_up(in_dev)
    return in_dev


def inetdev_destroy(in_dev: InDevice) -> None:
    """The device goes, so do its addresses."""
    dev = in_dev.dev
    in_dev.dead = True
    ip_mc_destroy_dev(in_dev)
    while in_dev.ifa_list:
        inet_del_ifa(in_dev, in_dev.ifa_list[0])
    dev.ip_ptr = None
    devinet_sysctl_unregister(dev.net, in_dev.sysctl_name)
    neigh_parms_release(inet_of(dev.net).arp_tbl, in_dev.arp_parms)
    arp_ifdown(dev)
    dev_put(dev)


def inetdev_valid_mtu(mtu: int) -> bool:
    return mtu >= IPV4_MIN_MTU


def inetdev_event(event: int, dev: NetDevice) -> None:
    """What happens to the device's IPv4 when something happens to the device."""
    in_dev = in_dev_get(dev)
    if in_dev is None:
        if event == NETDEV_REGISTER or (event == NETDEV_CHANGEMTU and inetdev_valid_mtu(dev.mtu)):
            in_dev = inetdev_init(dev)
            if dev.flags & IFF_LOOPBACK:
                in_dev.cnf["disable_xfrm"] = in_dev.cnf["disable_policy"] = 1
        return
    if event == NETDEV_UP:
        if not inetdev_valid_mtu(dev.mtu):
            return
        if dev.flags & IFF_LOOPBACK and not in_dev.ifa_list:
            ifa = inet_alloc_ifa(in_dev, INADDR_LOOPBACK, 8)
            ifa.ifa_scope = RT_SCOPE_HOST
            inet_insert_ifa(ifa)
        ip_mc_up(in_dev)
        if in_dev_orconf(in_dev, "arp_notify"):
            inetdev_send_gratuitous_arp(dev, in_dev)
    elif event == NETDEV_NOTIFY_PEERS:
        inetdev_send_gratuitous_arp(dev, in_dev)
    elif event == NETDEV_DOWN:
        ip_mc_down(in_dev)
    elif event == NETDEV_UNREGISTER or (event == NETDEV_CHANGEMTU and not inetdev_valid_mtu(dev.mtu)):
        inetdev_destroy(in_dev)
    elif event == NETDEV_CHANGENAME:
        inetdev_changename(dev, in_dev)


def inetdev_changename(dev: NetDevice, in_dev: InDevice) -> None:
    """Labels begin with the device's name: eth0:1 becomes lan0:1."""
    devinet_sysctl_unregister(dev.net, in_dev.sysctl_name)
    devinet_sysctl_register(in_dev)
    for ifa in in_dev.ifa_list:
        _, colon, alias = ifa.ifa_label.partition(b":")
        ifa.ifa_label = dev.name + colon + alias
        rtmsg_ifa(RTM_NEWADDR, ifa)


def inetdev_send_gratuitous_arp(dev: NetDevice, in_dev: InDevice) -> None:
    """Tells everybody on the link which addresses are here."""
    for ifa in in_dev.ifa_list:
        arp_send(ARPOP_REQUEST, ifa.ifa_local, dev, ifa.ifa_local, None, dev.dev_addr, None)


# ---- addresses -----------------------------------------------------------------------------------------------------
@notrace
def inet_alloc_ifa(in_dev: InDevice, local: int, prefixlen: int) -> InIfaddr:
    """An address for the device, not yet in its list."""
    return InIfaddr(local, local, inet_make_mask(prefixlen), prefixlen, ifa_flags=IFA_F_PERMANENT,
                    ifa_label=in_dev.dev.name, ifa_dev=in_dev)


def inet_insert_ifa(ifa: InIfaddr) -> None:
    __inet_insert_ifa(ifa)


def __inet_insert_ifa(ifa: InIfaddr) -> None:
    """Adds an address: secondary if its subnet is there already. Raises EEXIST, EINVAL."""
    in_dev = ifa.ifa_dev
    addresses = in_dev.ifa_list
    if not ifa.ifa_local:
        return
    ifa.ifa_flags &= ~IFA_F_SECONDARY
    last_primary = place = 0
    for i, other in enumerate(addresses):
        if not other.ifa_flags & IFA_F_SECONDARY and ifa.ifa_scope <= other.ifa_scope:
            last_primary = i + 1
        place = i + 1
        if other.ifa_mask == ifa.ifa_mask and inet_ifa_match(ifa.ifa_address, other):
            if other.ifa_local == ifa.ifa_local:
                raise KernelError(EEXIST)
            if other.ifa_scope != ifa.ifa_scope:
                raise KernelError(EINVAL)
            ifa.ifa_flags |= IFA_F_SECONDARY
    if not ifa.ifa_flags & IFA_F_SECONDARY:
        place = last_primary
    addresses.insert(place, ifa)
    ipv4_of(in_dev.dev.net).inet_addr_lst.setdefault(ifa.ifa_local, []).append(ifa)
    ifa.ifa_cstamp = ifa.ifa_tstamp = register.task.kernel.time.jiffies
    rtmsg_ifa(RTM_NEWADDR, ifa)
    _tell(NETDEV_UP, ifa)


def inet_del_ifa(in_dev: InDevice, ifa1: InIfaddr) -> None:
    __inet_del_ifa(in_dev, ifa1)


def __inet_del_ifa(in_dev: InDevice, ifa1: InIfaddr) -> None:
    """Removes an address; with a primary one go the secondary ones of its subnet, or the first becomes primary."""
    addresses = in_dev.ifa_list
    promote: InIfaddr | None = None
    gone: list[InIfaddr] = []
    if not ifa1.ifa_flags & IFA_F_SECONDARY:
        keep = in_dev_orconf(in_dev, "promote_secondaries") and not in_dev.dead
        for ifa in addresses[addresses.index(ifa1) + 1 :]:
            if (ifa.ifa_flags & IFA_F_SECONDARY and ifa.ifa_mask == ifa1.ifa_mask
                    and inet_ifa_match(ifa1.ifa_address, ifa)):
                if keep:
                    promote = ifa
                    break
                gone.append(ifa)
    for ifa in (*gone, ifa1):
        addresses.remove(ifa)
        _unhash(ifa)
    for ifa in (*gone, ifa1):
        rtmsg_ifa(RTM_DELADDR, ifa)
        _tell(NETDEV_DOWN, ifa)
    if promote is not None:
        addresses.remove(promote)
        promote.ifa_flags &= ~IFA_F_SECONDARY
        place = max((i + 1 for i, other in enumerate(addresses)
                     if not other.ifa_flags & IFA_F_SECONDARY and promote.ifa_scope <= other.ifa_scope), default=0)
        addresses.insert(place, promote)
        rtmsg_ifa(RTM_NEWADDR, promote)
        _tell(NETDEV_UP, promote)


@notrace
def _unhash(ifa: InIfaddr) -> None:
    table = ipv4_of(ifa.ifa_dev.dev.net).inet_addr_lst
    table[ifa.ifa_local].remove(ifa)
    if not table[ifa.ifa_local]:
        del table[ifa.ifa_local]


@notrace
def _tell(event: int, ifa: InIfaddr) -> None:
    """blocking_notifier_call_chain(&inetaddr_chain)"""
    for notifier in inet_of(ifa.ifa_dev.dev.net).inetaddr_chain:
        notifier(event, ifa)


@notrace
def rtmsg_ifa(event: int, ifa: InIfaddr) -> None:
    """rtmsg_ifa() of rtnetlink, which is above us."""
    hook = inet_of(ifa.ifa_dev.dev.net).rtmsg_ifa
    if hook is not None:
        hook(event, ifa)


def inet_set_ifa(dev: NetDevice, ifa: InIfaddr) -> None:
    """An address of class A, B or C from an ioctl."""
    if ifa.ifa_local >> 24 == 127:
        ifa.ifa_scope = RT_SCOPE_HOST
    inet_insert_ifa(ifa)

