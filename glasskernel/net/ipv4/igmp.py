"""Groups: which a device listens to, and which a socket wants.

Linux: net/ipv4/igmp.c (5.3). Same: groups of devices are counted, every device that is up listens to 224.0.0.1, limits
and errno of memberships, /proc/net/igmp.
Gaps: no reports are sent and queries are not answered (our cable has no multicast router); sources (IGMPv3's filters:
IP_ADD_SOURCE_MEMBERSHIP, IP_MSFILTER ... answer ENOPROTOOPT).
Owns: InDevice.mc_list, InetSock.mc_list.  Locks: rtnl.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import EADDRINUSE, EADDRNOTAVAIL, EINVAL, ENOBUFS, ENODEV, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dev_open import dev_mc_add, dev_mc_del
from glasskernel.net.core.rtnl import rtnl_lock, rtnl_unlock
from glasskernel.net.ipv4.fib_lookup import ipv4_is_multicast
from glasskernel.net.ipv4.in_device import __ip_dev_find, in_dev_get
from glasskernel.net.ipv4.route import ip_route_output_ports, ip_rt_put
from glasskernel.net.ipv4.types import Flowi4, InDevice, InetSock
from glasskernel.net.netdevice import IFF_LOOPBACK
from glasskernel.net.skbuff import SkBuff, consume_skb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.net.types import Net

IGMP_ALL_HOSTS = 0xE0000001


@slotted
class IpMcList:
    """struct ip_mc_list: a group of a device. users: how many sockets and others want it."""

    multiaddr: int
    interface: InDevice
    users: int = 1


@slotted
class IpMcSocklist:
    """struct ip_mc_socklist: a group of a socket. ifindex, address: of the device."""

    multiaddr: int
    ifindex: int
    address: int


# ---- devices -------------------------------------------------------------------------------------------------------
def ip_mc_init_dev(in_dev: InDevice) -> None:
    in_dev.mc_list = []


def ip_mc_up(in_dev: InDevice) -> None:
    """The device came up."""
    if not any(im.multiaddr == IGMP_ALL_HOSTS for im in in_dev.mc_list):
        ip_mc_inc_group(in_dev, IGMP_ALL_HOSTS)
    for im in in_dev.mc_list:
        if im.multiaddr != IGMP_ALL_HOSTS:
            igmp_group_added(im)


def ip_mc_down(in_dev: InDevice) -> None:
    for im in in_dev.mc_list:
        if im.multiaddr != IGMP_ALL_HOSTS:
            igmp_group_dropped(im)
    if any(im.multiaddr == IGMP_ALL_HOSTS for im in in_dev.mc_list):
        ip_mc_dec_group(in_dev, IGMP_ALL_HOSTS)


def ip_mc_destroy_dev(in_dev: InDevice) -> None:
    """The device goes: its groups are forgotten; sockets keep theirs, which then do nothing."""
    if in_dev.dev.flags & 1:
        ip_mc_down(in_dev)
    in_dev.mc_list.clear()


def ip_mc_inc_group(in_dev: InDevice, addr: int) -> None:
    """One more who wants this group on the device."""
    for im in in_dev.mc_list:
        if im.multiaddr == addr:
            im.users += 1
            return
    im = IpMcList(addr, in_dev)
    in_dev.mc_list.insert(0, im)
    igmp_group_added(im)


def ip_mc_dec_group(in_dev: InDevice, addr: int) -> None:
    for im in in_dev.mc_list:
        if im.multiaddr == addr:
            im.users -= 1
            if not im.users:
                in_dev.mc_list.remove(im)
                igmp_group_dropped(im)
            return


def igmp_group_added(im: IpMcList) -> None:
    """The device's filter lets the group through."""
    dev = im.interface.dev
    if not dev.flags & IFF_LOOPBACK:
        dev_mc_add(dev, ip_mc_map(im.multiaddr))


def igmp_group_dropped(im: IpMcList) -> None:
    dev = im.interface.dev
    if not dev.flags & IFF_LOOPBACK:
        dev_mc_del(dev, ip_mc_map(im.multiaddr))


@notrace
def ip_mc_map(addr: int) -> bytes:
    """ip_eth_mc_map(): the group's Ethernet address."""
    return b"\x01\x00\x5e" + (addr & 0x7FFFFF).to_bytes(3, "big")


# ---- sockets -------------------------------------------------------------------------------------------------------
@notrace
def ip_mc_find_dev(net: Net, group: int, address: int, ifindex: int) -> InDevice | None:
    """The device that a request means: by number, by an address of it, or the one the group's route leads to."""
    if ifindex:
        dev = net.dev_by_index.get(ifindex)
        return in_dev_get(dev) if dev is not None else None
    if address:
        dev = __ip_dev_find(net, address, False)
        if dev is None:
            return None
        return in_dev_get(dev)
    try:
        rt = ip_route_output_ports(net, Flowi4(), None, group, 0, 0, 0, 0, 0, 0)
    except KernelError:
        return None
    dev = rt.dev
    ip_rt_put(rt)
    return in_dev_get(dev)


@may_sleep
def ip_mc_join_group(sk: InetSock, group: int, address: int, ifindex: int) -> None:
    """IP_ADD_MEMBERSHIP. Raises EINVAL, ENODEV, EADDRINUSE, ENOBUFS. Locks: takes rtnl; the socket's owner."""
    net = sk.sk_net
    if not ipv4_is_multicast(group):
        raise KernelError(EINVAL)
    rtnl_lock(net.kernel)
    try:
        in_dev = ip_mc_find_dev(net, group, address, ifindex)
        if in_dev is None:
            raise KernelError(ENODEV)
        index = in_dev.dev.ifindex
        if any(m.multiaddr == group and m.ifindex == index for m in sk.mc_list):
            raise KernelError(EADDRINUSE)
        if len(sk.mc_list) >= net.ipv4.sysctl["igmp_max_memberships"]:
            raise KernelError(ENOBUFS)
        sk.mc_list.insert(0, IpMcSocklist(group, index, address))
        ip_mc_inc_group(in_dev, group)
    finally:
        rtnl_unlock(net.kernel)


@may_sleep
def ip_mc_leave_group(sk: InetSock, group: int, address: int, ifindex: int) -> None:
    """IP_DROP_MEMBERSHIP. Raises ENODEV, EADDRNOTAVAIL. Locks: takes rtnl; the socket's owner."""
    net = sk.sk_net
    rtnl_lock(net.kernel)
    try:
        in_dev = ip_mc_find_dev(net, group, address, ifindex)
        if in_dev is None and not address and not ifindex:
            raise KernelError(ENODEV)
        index = in_dev.dev.ifindex if in_dev is not None else ifindex
        for m in sk.mc_list:
            if m.multiaddr != group or (m.ifindex != index if index else address and address != m.address):
                continue
            sk.mc_list.remove(m)
            if in_dev is not None:
                ip_mc_dec_group(in_dev, group)
            return
        raise KernelError(ENODEV if in_dev is None else EADDRNOTAVAIL)
    finally:
        rtnl_unlock(net.kernel)


@may_sleep
def ip_mc_drop_socket(sk: InetSock) -> None:
    """The socket is closed: its groups are left."""
    if not sk.mc_list:
        return
    net = sk.sk_net
    rtnl_lock(net.kernel)
    try:
        while sk.mc_list:
            m = sk.mc_list.pop()
            dev = net.dev_by_index.get(m.ifindex)
            in_dev = in_dev_get(dev) if dev is not None else None
            if in_dev is not None:
                ip_mc_dec_group(in_dev, m.multiaddr)
    finally:
        rtnl_unlock(net.kernel)


def ip_mc_sf_allow(sk: InetSock, loc_addr: int, rmt_addr: int, dif: int) -> bool:
    """Does this socket take a packet to this group? Members do, and who did not say IP_MULTICAST_ALL=0."""
    if not ipv4_is_multicast(loc_addr):
        return True
    return sk.mc_all or any(m.multiaddr == loc_addr and m.ifindex == dif for m in sk.mc_list)


def igmp_rcv(skb: SkBuff) -> int:
    """Queries and reports of others."""
    consume_skb(skb)
    return 0


def igmp_mc_seq_show(net: Net) -> Iterator[bytes]:
    """/proc/net/igmp"""
    yield b"Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"
    for dev in net.dev_by_index.values():
        in_dev = in_dev_get(dev)
        if in_dev is None or not in_dev.mc_list:
            continue
        yield f"{dev.ifindex}\t{dev.name.decode():<10}: {len(in_dev.mc_list):5d}      V3\n".encode()
        for im in in_dev.mc_list:
            group = im.multiaddr.to_bytes(4, "big")[::-1].hex().upper()
            yield f"\t\t\t\t{group} {im.users:5d} 0:00000000\t\t0\n".encode()
