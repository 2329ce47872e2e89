"""Routes that follow from addresses and devices, and those that users ask for.

Linux: net/ipv4/fib_frontend.c (5.3). Same: which routes an address brings (local, broadcast, the subnet's), what
happens when devices go down and up, route(8)'s ioctls. Differs: rtnetlink's half is fib_netlink.py.
Gaps: rules, prefix metrics (IFA_RT_PRIORITY).  Locks: rtnl.
"""
from __future__ import annotations

from contextlib import suppress
from struct import unpack_from
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, strncpy_from_user
from glasskernel.kernel.capability import CAP_NET_ADMIN, capable
from glasskernel.lib.errno import EAFNOSUPPORT, EINVAL, ENODEV, EPERM, ESRCH, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.core.rtnl import rtnl_lock, rtnl_unlock
from glasskernel.net.ipv4.arp import arp_ifdown
from glasskernel.net.ipv4.fib_lookup import FibTable, fib_get_table, inet_addr_type
from glasskernel.net.ipv4.fib_semantics import fib_sync_down_addr, fib_sync_down_dev, fib_sync_up
from glasskernel.net.ipv4.fib_trie import fib_new_table, fib_table_delete, fib_table_flush, fib_table_insert
from glasskernel.net.ipv4.fib_types import NLM_F_APPEND, NLM_F_CREATE, RTNH_F_DEAD, RTNH_F_LINKDOWN, FibConfig
from glasskernel.net.ipv4.in_device import (
    IFA_F_SECONDARY,
    bad_mask,
    in_dev_get,
    inet_ifa_match,
    inet_mask_len,
    ipv4_of,
)
from glasskernel.net.ipv4.route import rt_flush_dev
from glasskernel.net.ipv4.route_cache import rt_cache_flush
from glasskernel.net.ipv4.types import (
    INADDR_BROADCAST,
    RT_SCOPE_HOST,
    RT_SCOPE_LINK,
    RT_SCOPE_NOWHERE,
    RT_SCOPE_UNIVERSE,
    RT_TABLE_LOCAL,
    RT_TABLE_MAIN,
    RTAX_ADVMSS,
    RTAX_MTU,
    RTAX_WINDOW,
    RTN_BROADCAST,
    RTN_LOCAL,
    RTN_UNICAST,
    RTN_UNREACHABLE,
    RTPROT_BOOT,
    RTPROT_KERNEL,
    InDevice,
    InIfaddr,
)
from glasskernel.net.netdevice import (
    IFF_LOOPBACK,
    IFF_UP,
    IFNAMSIZ,
    NETDEV_CHANGE,
    NETDEV_CHANGEMTU,
    NETDEV_DOWN,
    NETDEV_UNREGISTER,
    NETDEV_UP,
    netif_carrier_ok,
)
from glasskernel.net.types import AF_INET

if TYPE_CHECKING:
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.types import Net

SIOCADDRT, SIOCDELRT = 0x890B, 0x890C
IFA_F_NOPREFIXROUTE = 0x200
RTF_UP, RTF_GATEWAY, RTF_HOST, RTF_MTU, RTF_WINDOW, RTF_REJECT = 1, 2, 4, 0x40, 0x80, 0x200
RTENTRY_SIZE = 120


# ---- addresses ----------------------------------------------------------------------------------------------------
def fib_magic(add: bool, kind: int, dst: int, dst_len: int, ifa: InIfaddr) -> None:
    """A route that the kernel itself adds or removes for an address."""
    net = ifa.ifa_dev.dev.net
    tb = fib_new_table(net, RT_TABLE_MAIN if kind == RTN_UNICAST else RT_TABLE_LOCAL)
    scope = RT_SCOPE_HOST if kind == RTN_LOCAL else RT_SCOPE_LINK
    cfg = FibConfig(dst_len, 0, RTPROT_KERNEL, scope, kind, tb.tb_id, dst, fc_oif=ifa.ifa_dev.dev.ifindex,
                    fc_prefsrc=ifa.ifa_local, fc_nlflags=NLM_F_CREATE | NLM_F_APPEND)
    with suppress(KernelError):          # nobody could be told: the route is there already, or gone
        if add:
            fib_table_insert(net, tb, cfg)
        else:
            fib_table_delete(net, tb, cfg)


def inet_ifa_byprefix(in_dev: InDevice, prefix: int, mask: int) -> InIfaddr | None:
    """The primary address of a subnet."""
    for ifa in in_dev.ifa_list:
        if ifa.ifa_mask == mask and inet_ifa_match(prefix, ifa):
            return ifa
    return None


def fib_add_ifaddr(ifa: InIfaddr) -> None:
    """An address came."""
    in_dev, mask, addr = ifa.ifa_dev, ifa.ifa_mask, ifa.ifa_local
    dev = in_dev.dev
    prefix = ifa.ifa_address & mask
    prim = ifa
    if ifa.ifa_flags & IFA_F_SECONDARY:
        found = inet_ifa_byprefix(in_dev, prefix, mask)
        if found is None:
            return
        prim = found
    fib_magic(True, RTN_LOCAL, addr, 32, prim)
    if not dev.flags & IFF_UP:
        return
    if ifa.ifa_broadcast and ifa.ifa_broadcast != INADDR_BROADCAST:
        fib_magic(True, RTN_BROADCAST, ifa.ifa_broadcast, 32, prim)
    if prefix and not ifa.ifa_flags & IFA_F_SECONDARY and (prefix != addr or ifa.ifa_prefixlen < 32):
        if not ifa.ifa_flags & IFA_F_NOPREFIXROUTE:
            fib_magic(True, RTN_LOCAL if dev.flags & IFF_LOOPBACK else RTN_UNICAST, prefix, ifa.ifa_prefixlen, prim)
        if ifa.ifa_prefixlen < 31:
            fib_magic(True, RTN_BROADCAST, prefix, 32, prim)
            fib_magic(True, RTN_BROADCAST, prefix | ~mask & 0xFFFFFFFF, 32, prim)


def fib_del_ifaddr(ifa: InIfaddr, iprim: InIfaddr | None) -> None:
    """An address is gone from its device's list; iprim: it was the only one of its subnet that was primary."""
    in_dev = ifa.ifa_dev
    dev = in_dev.dev
    mask, addr = ifa.ifa_mask, ifa.ifa_local
    prefix = ifa.ifa_address & mask
    brd, broadcasts = prefix | ~mask & 0xFFFFFFFF, ifa.ifa_broadcast
    subnet_left = False
    prim = ifa
    if not ifa.ifa_flags & IFA_F_SECONDARY:
        subnet_left = any(inet_ifa_match(prefix, other) and other.ifa_mask == mask for other in in_dev.ifa_list)
        if prefix and (prefix != addr or ifa.ifa_prefixlen < 32) and (iprim is None or not subnet_left):
            if not ifa.ifa_flags & IFA_F_NOPREFIXROUTE:
                kind = RTN_LOCAL if dev.flags & IFF_LOOPBACK else RTN_UNICAST
                fib_magic(False, kind, prefix, ifa.ifa_prefixlen, prim)
    else:
        found = inet_ifa_byprefix(in_dev, prefix, mask)
        if found is None:
            return
        prim = found
        subnet_left = True
    # broadcast addresses that another address of the device needs stay
    needed: set[int] = set()
    for other in in_dev.ifa_list:
        first = other.ifa_address & other.ifa_mask
        needed.add(other.ifa_broadcast)
        if not other.ifa_flags & IFA_F_SECONDARY and other.ifa_prefixlen < 31:
            needed.update((first, first | ~other.ifa_mask & 0xFFFFFFFF))
    for address in dict.fromkeys((broadcasts, brd, prefix)):
        wanted = (address == broadcasts and broadcasts != INADDR_BROADCAST) or ifa.ifa_prefixlen < 31
        if address and wanted and address not in needed:
            fib_magic(False, RTN_BROADCAST, address, 32, prim)
    if not any(other.ifa_local == addr for other in in_dev.ifa_list):
        fib_magic(False, RTN_LOCAL, addr, 32, prim)
        net = dev.net
        if addr not in ipv4_of(net).inet_addr_lst and fib_sync_down_addr(dev, addr):
            fib_flush(net)


def fib_flush(net: Net) -> int:
    """Removes the dead routes of all tables; how many."""
    tables: dict[int, FibTable] = net.ipv4.fib_tables
    flushed = sum(fib_table_flush(net, tb, False) for tb in list(tables.values()))
    if flushed:
        rt_cache_flush(net)
    return flushed


def fib_disable_ip(dev: NetDevice, event: int, force: bool) -> None:
    """Nothing goes over this device any more."""
    if fib_sync_down_dev(dev, event, force):
        fib_flush(dev.net)
    else:
        rt_cache_flush(dev.net)
    arp_ifdown(dev)


# ---- what happens to addresses and devices ------------------------------------------------------------------------
def fib_inetaddr_event(event: int, ifa: InIfaddr) -> None:
    dev = ifa.ifa_dev.dev
    ipv4 = ipv4_of(dev.net)
    if event == NETDEV_UP:
        fib_add_ifaddr(ifa)
        fib_sync_up(dev, RTNH_F_DEAD)
        ipv4.dev_addr_genid += 1
        rt_cache_flush(dev.net)
    elif event == NETDEV_DOWN:
        fib_del_ifaddr(ifa, None)
        ipv4.dev_addr_genid += 1
        if not ifa.ifa_dev.ifa_list:
            fib_disable_ip(dev, event, True)
        else:
            rt_cache_flush(dev.net)


def fib_netdev_event(event: int, dev: NetDevice) -> None:
    net = dev.net
    if event == NETDEV_UNREGISTER:
        fib_disable_ip(dev, event, True)
        rt_flush_dev(dev)
        return
    in_dev = in_dev_get(dev)
    if in_dev is None:
        return
    if event == NETDEV_UP:
        for ifa in in_dev.ifa_list:
            fib_add_ifaddr(ifa)
        fib_sync_up(dev, RTNH_F_DEAD)
        ipv4_of(net).dev_addr_genid += 1
        rt_cache_flush(net)
    elif event == NETDEV_DOWN:
        fib_disable_ip(dev, event, False)
    elif event == NETDEV_CHANGE:
        if netif_carrier_ok(dev):
            fib_sync_up(dev, RTNH_F_LINKDOWN)
        else:
            fib_sync_down_dev(dev, event, False)
        rt_cache_flush(net)
    elif event == NETDEV_CHANGEMTU:
        rt_cache_flush(net)


# ---- route(8) -----------------------------------------------------------------------------------------------------
def ip_rt_ioctl(net: Net, cmd: int, arg: int) -> int:
    """SIOCADDRT, SIOCDELRT. Raises EPERM, EFAULT, EINVAL, ENODEV, ESRCH, EEXIST, ENETUNREACH ..."""
    if not capable(CAP_NET_ADMIN):
        raise KernelError(EPERM)
    raw = copy_from_user(arg, RTENTRY_SIZE)
    rtnl_lock(net.kernel)
    try:
        cfg = rtentry_to_fib_config(net, cmd, raw)
        if cmd == SIOCDELRT:
            tb = fib_get_table(net, cfg.fc_table)
            if tb is None:
                raise KernelError(ESRCH)
            fib_table_delete(net, tb, cfg)
        else:
            fib_table_insert(net, fib_new_table(net, cfg.fc_table), cfg)
    finally:
        rtnl_unlock(net.kernel)
    return 0


@notrace
def _address(raw: bytes, offset: int) -> tuple[int, int]:
    """(family, address) of a struct sockaddr_in."""
    family, = unpack_from("<H", raw, offset)
    address, = unpack_from(">I", raw, offset + 4)
    return family, address


def rtentry_to_fib_config(net: Net, cmd: int, raw: bytes) -> FibConfig:
    """struct rtentry (include/uapi/linux/route.h)."""
    family, addr = _address(raw, 8)
    if family != AF_INET:
        raise KernelError(EAFNOSUPPORT)
    flags, = unpack_from("<H", raw, 56)
    metric, dev_ptr, mtu, window = unpack_from("<h6xQQQ", raw, 80)
    plen = 32
    if not flags & RTF_HOST:
        mask_family, mask = _address(raw, 40)
        if mask_family != AF_INET and (mask or mask_family):
            raise KernelError(EAFNOSUPPORT)
        if bad_mask(mask, addr):
            raise KernelError(EINVAL)
        plen = inet_mask_len(mask)
    cfg = FibConfig(plen, fc_dst=addr)
    if cmd != SIOCDELRT:
        cfg.fc_nlflags = NLM_F_CREATE
        cfg.fc_protocol = RTPROT_BOOT
    if metric:
        cfg.fc_priority = metric - 1
    if flags & RTF_REJECT:
        cfg.fc_scope = RT_SCOPE_HOST
        cfg.fc_type = RTN_UNREACHABLE
        return cfg
    cfg.fc_scope = RT_SCOPE_NOWHERE
    cfg.fc_type = RTN_UNICAST
    if dev_ptr:
        name, _, label = (strncpy_from_user(dev_ptr, IFNAMSIZ - 1) or b"").partition(b":")
        dev = net.dev_by_name.get(name)
        if dev is None:
            raise KernelError(ENODEV)
        cfg.fc_oif = dev.ifindex
        cfg.fc_table = RT_TABLE_MAIN
        if label:
            _prefer_labelled(cfg, in_dev_get(dev), name + b":" + label)
    gw_family, gw = _address(raw, 24)
    if gw_family == AF_INET and gw:
        cfg.fc_gw = gw
        if flags & RTF_GATEWAY and inet_addr_type(net, gw) == RTN_UNICAST:
            cfg.fc_scope = RT_SCOPE_UNIVERSE
    cfg.fc_table = cfg.fc_table or RT_TABLE_MAIN
    if cmd == SIOCDELRT:
        return cfg
    if flags & RTF_GATEWAY and not cfg.fc_gw:
        raise KernelError(EINVAL)
    if cfg.fc_scope == RT_SCOPE_NOWHERE:
        cfg.fc_scope = RT_SCOPE_LINK
    if flags & RTF_MTU:
        cfg.fc_mx[RTAX_ADVMSS] = mtu - 40
        cfg.fc_mx[RTAX_MTU] = mtu
    if flags & RTF_WINDOW:
        cfg.fc_mx[RTAX_WINDOW] = window
    return cfg


@notrace
def _prefer_labelled(cfg: FibConfig, in_dev: InDevice | None, label: bytes) -> None:
    """route add ... dev eth0:1 names an address of the device."""
    for ifa in in_dev.ifa_list if in_dev is not None else ():
        if ifa.ifa_label == label:
            cfg.fc_prefsrc = ifa.ifa_local
            return
    raise KernelError(ENODEV)


@notrace
def ip_fib_net_exit(net: Net) -> None:
    """The namespace goes."""
    for tb in list(net.ipv4.fib_tables.values()):
        fib_table_flush(net, tb, True)
    net.ipv4.fib_tables.clear()
