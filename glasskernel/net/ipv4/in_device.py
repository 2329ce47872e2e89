"""What devices' IPv4 answers: settings, and which address is whose.

Linux: include/linux/inetdevice.h and the lookups of net/ipv4/devinet.c (5.3). Same: source addresses are selected by
scope and subnet, primary ones first. Differs: a file of its own, below routes; devinet.py changes what these look at.
Owns: NetnsIpv4.inet_addr_lst (all addresses, by value), devconf_all, devconf_dflt.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.fib_lookup import fib_get_table, fib_table_lookup
from glasskernel.net.ipv4.fib_types import FibResult
from glasskernel.net.ipv4.types import (
    RT_SCOPE_LINK,
    RT_TABLE_LOCAL,
    RTN_LOCAL,
    Flowi4,
    InDevice,
    InIfaddr,
    NetnsIpv4,
)
from glasskernel.net.netdevice import dev_hold
from glasskernel.net.types import IPPROTO_IGMP

if TYPE_CHECKING:
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.types import Net

IFA_F_SECONDARY, IFA_F_PERMANENT = 0x01, 0x80
# /proc/sys/net/ipv4/conf/DEV/*: name -> what it starts with
IPV4_DEVCONF = {
    "accept_local": 0, "accept_redirects": 1, "accept_source_route": 0, "arp_accept": 0, "arp_announce": 0,
    "arp_filter": 0, "arp_ignore": 0, "arp_notify": 0, "bc_forwarding": 0, "bootp_relay": 0, "disable_policy": 0,
    "disable_xfrm": 0, "drop_gratuitous_arp": 0, "drop_unicast_in_l2_multicast": 0, "force_igmp_version": 0,
    "forwarding": 0, "igmpv2_unsolicited_report_interval": 10000, "igmpv3_unsolicited_report_interval": 1000,
    "ignore_routes_with_linkdown": 0, "log_martians": 0, "mc_forwarding": 0, "medium_id": 0, "promote_secondaries": 0,
    "proxy_arp": 0, "proxy_arp_pvlan": 0, "route_localnet": 0, "rp_filter": 0, "secure_redirects": 1,
    "send_redirects": 1, "shared_media": 1, "src_valid_mark": 0, "tag": 0,
}


# ---- settings -----------------------------------------------------------------------------------------------------
@notrace
def ipv4_of(net: Net) -> NetnsIpv4:
    """net.ipv4, typed."""
    ipv4: NetnsIpv4 = net.ipv4
    return ipv4


@notrace
def in_dev_get(dev: NetDevice) -> InDevice | None:
    """The device's IPv4, if it has one (__in_dev_get_rcu())."""
    in_dev: InDevice | None = dev.ip_ptr
    return in_dev


@notrace
def in_dev_orconf(in_dev: InDevice, name: str) -> int:
    """IN_DEV_ORCONF(): set for all or for the device."""
    return ipv4_of(in_dev.dev.net).devconf_all[name] or in_dev.cnf[name]


@notrace
def in_dev_maxconf(in_dev: InDevice, name: str) -> int:
    """IN_DEV_MAXCONF()"""
    return max(ipv4_of(in_dev.dev.net).devconf_all[name], in_dev.cnf[name])


@notrace
def in_dev_forward(in_dev: InDevice) -> bool:
    """IN_DEV_FORWARD()"""
    return bool(in_dev.cnf["forwarding"])


def ip_check_mc_rcu(in_dev: InDevice, mc_addr: int, src_addr: int, proto: int) -> bool:
    """Does this device listen to the group? (net/ipv4/igmp.c) IGMP itself always gets through."""
    return proto == IPPROTO_IGMP or any(im.multiaddr == mc_addr for im in in_dev.mc_list)


# ---- addresses ----------------------------------------------------------------------------------------------------
@notrace
def inet_make_mask(length: int) -> int:
    return 0xFFFFFFFF << (32 - length) & 0xFFFFFFFF


@notrace
def inet_mask_len(mask: int) -> int:
    return mask.bit_count()


@notrace
def bad_mask(mask: int, addr: int) -> bool:
    """True if the mask has holes, or the address bits behind it."""
    hole = ~mask & 0xFFFFFFFF
    return bool(addr & hole or hole & (hole + 1))


@notrace
def inet_ifa_match(addr: int, ifa: InIfaddr) -> bool:
    return not (addr ^ ifa.ifa_address) & ifa.ifa_mask


def inet_lookup_ifaddr_rcu(net: Net, addr: int) -> InIfaddr | None:
    """Who has this address, of all devices."""
    found = ipv4_of(net).inet_addr_lst.get(addr)
    return found[0] if found else None


def __ip_dev_find(net: Net, addr: int, devref: bool) -> NetDevice | None:
    """The device that has the address, or to which the local table leads it (127.0.0.2). devref: with a reference."""
    ifa = inet_lookup_ifaddr_rcu(net, addr)
    dev: NetDevice | None = None
    if ifa is not None:
        dev = ifa.ifa_dev.dev
    else:
        local = fib_get_table(net, RT_TABLE_LOCAL)
        res = FibResult()
        if local is not None and not fib_table_lookup(local, Flowi4(daddr=addr), res, 0) and res.type == RTN_LOCAL:
            dev = res.nhc.nh_dev
    if dev is not None and devref:
        dev_hold(dev)
    return dev


def inet_addr_onlink(in_dev: InDevice, a: int, b: int) -> bool:
    """True if a (and b, if it is not 0) are in the same subnet of the device."""
    return any(inet_ifa_match(a, ifa) and (not b or inet_ifa_match(b, ifa))
               for ifa in in_dev.ifa_list if not ifa.ifa_flags & IFA_F_SECONDARY)


def inet_select_addr(dev: NetDevice | None, dst: int, scope: int) -> int:
    """The address to send from: of the device, in dst's subnet if there is one, and not narrower than scope. 0: none.

    A device without one borrows it from another.
    """
    if dev is None:
        return 0
    in_dev = in_dev_get(dev)
    addr = 0
    if in_dev is not None:
        for ifa in in_dev.ifa_list:
            if ifa.ifa_flags & IFA_F_SECONDARY or ifa.ifa_scope > scope:
                continue
            if not dst or inet_ifa_match(dst, ifa):
                return ifa.ifa_local
            addr = addr or ifa.ifa_local
        if addr:
            return addr
    for other in dev.net.dev_by_index.values():
        in_dev = in_dev_get(other)
        if in_dev is not None and (addr := in_dev_select_addr(in_dev, scope)):
            return addr
    return 0


def in_dev_select_addr(in_dev: InDevice, scope: int) -> int:
    """The first primary address that is not for the link only and not narrower than scope."""
    for ifa in in_dev.ifa_list:
        if not ifa.ifa_flags & IFA_F_SECONDARY and ifa.ifa_scope != RT_SCOPE_LINK and ifa.ifa_scope <= scope:
            return ifa.ifa_local
    return 0


def confirm_addr_indev(in_dev: InDevice, dst: int, local: int, scope: int) -> int:
    """`local` (0: any) if the device has it, in a subnet with dst (0: any) and not narrower than scope; 0 if not."""
    addr, same = 0, False
    for ifa in in_dev.ifa_list:
        min_scope = min(ifa.ifa_scope, RT_SCOPE_LINK)
        if not addr and (local == ifa.ifa_local or not local) and min_scope <= scope:
            addr = ifa.ifa_local
            if same:
                break
        if not same:
            same = (not local or inet_ifa_match(local, ifa)) and (not dst or inet_ifa_match(dst, ifa))
            if same and addr:
                if local or not dst or inet_ifa_match(addr, ifa):
                    break                # both are in this subnet
                if min_scope <= scope:
                    addr = ifa.ifa_local
                    break
                same = False
    return addr if same else 0


def inet_confirm_addr(net: Net, in_dev: InDevice | None, dst: int, local: int, scope: int) -> int:
    """confirm_addr_indev() of one device, or of the first that has such an address."""
    if in_dev is not None:
        return confirm_addr_indev(in_dev, dst, local, scope)
    for dev in net.dev_by_index.values():
        in_dev = in_dev_get(dev)
        if in_dev is not None and (addr := confirm_addr_indev(in_dev, dst, local, scope)):
            return addr
    return 0
