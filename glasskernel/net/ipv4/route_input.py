"""Routes for packets that arrive: for us, to be forwarded, or not acceptable.

Linux: net/ipv4/route.c: ip_route_input_*, net/ipv4/fib_frontend.c: fib_validate_source (5.3). Same: martians, the
reverse path filter, broadcasts, groups. Differs: a file of its own. Gaps: multicast routing, redirects are not sent,
the table of peers that limits ip_error() (icmp_ratelimit does).
Context: softirq.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.printk import printk
from glasskernel.lib.errno import EACCES, EHOSTUNREACH, EINVAL, ENETUNREACH, EXDEV
from glasskernel.lib.types import notrace
from glasskernel.net.core.dst import dst_discard_out
from glasskernel.net.ipv4.fib_lookup import fib_lookup, ipv4_is_lbcast, ipv4_is_loopback, ipv4_is_multicast
from glasskernel.net.ipv4.fib_semantics import fib_select_path, inet_of
from glasskernel.net.ipv4.fib_types import FIB_LOOKUP_IGNORE_LINKSTATE, FibResult
from glasskernel.net.ipv4.in_device import (
    in_dev_forward,
    in_dev_get,
    in_dev_maxconf,
    in_dev_orconf,
    inet_lookup_ifaddr_rcu,
    ip_check_mc_rcu,
)
from glasskernel.net.ipv4.route import IPTOS_RT_MASK, rt_cache_route, rt_cache_valid, rt_dst_alloc, rt_set_nexthop
from glasskernel.net.ipv4.types import (
    LOOPBACK_IFINDEX,
    RT_SCOPE_HOST,
    RTCF_BROADCAST,
    RTCF_LOCAL,
    RTCF_MULTICAST,
    RTN_BROADCAST,
    RTN_LOCAL,
    RTN_MULTICAST,
    RTN_UNICAST,
    RTN_UNREACHABLE,
    Flowi4,
    InDevice,
    Rtable,
)
from glasskernel.net.netdevice import ETH_P_IP
from glasskernel.net.skbuff import SkBuff, kfree_skb, skb_dst_set

if TYPE_CHECKING:
    from glasskernel.net.ipv4.fib_types import FibInfo
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.types import Net, Sock

ICMP_DEST_UNREACH, ICMP_NET_UNREACH, ICMP_HOST_UNREACH, ICMP_PKT_FILTERED = 3, 0, 1, 13


def ip_route_input_noref(skb: SkBuff, daddr: int, saddr: int, tos: int, dev: NetDevice) -> int:
    """Sets skb.dst. 0, or why the packet is not acceptable: EINVAL, EXDEV (reverse path)."""
    return ip_route_input_rcu(skb, daddr, saddr, tos & IPTOS_RT_MASK, dev)


def ip_route_input_rcu(skb: SkBuff, daddr: int, saddr: int, tos: int, dev: NetDevice) -> int:
    if ipv4_is_multicast(daddr):
        in_dev = in_dev_get(dev)
        if in_dev is None or not ip_check_mc_rcu(in_dev, daddr, saddr, skb.head[skb.network_header + 9]):
            return EINVAL
        return ip_route_input_mc(skb, daddr, saddr, tos, dev, in_dev)
    return ip_route_input_slow(skb, daddr, saddr, tos, dev)


def ip_route_input_mc(skb: SkBuff, daddr: int, saddr: int, tos: int, dev: NetDevice, in_dev: InDevice) -> int:
    """A group that we listen to."""
    if ipv4_is_multicast(saddr) or ipv4_is_lbcast(saddr) or skb.protocol != ETH_P_IP:
        return EINVAL
    if ipv4_is_loopback(saddr) and not in_dev_orconf(in_dev, "route_localnet"):
        return EINVAL
    if not saddr:
        if daddr >> 8 != 0xE00000:
            return EINVAL
    else:
        err = fib_validate_source(skb, saddr, 0, tos, 0, dev, in_dev)
        if err < 0:
            return -err
    rth = rt_dst_alloc(dev.net.loopback_dev, RTCF_MULTICAST | RTCF_LOCAL, RTN_MULTICAST)
    rth.output = ip_rt_bug
    rth.rt_is_input = True
    inet_of(dev.net).rt_uncached[rth] = None
    skb_dst_set(skb, rth)
    return 0


def ip_route_input_slow(skb: SkBuff, daddr: int, saddr: int, tos: int, dev: NetDevice) -> int:
    in_dev = in_dev_get(dev)
    net = dev.net
    if in_dev is None:
        return EINVAL
    if ipv4_is_multicast(saddr) or ipv4_is_lbcast(saddr):
        return ip_handle_martian_source(dev, in_dev, skb, daddr, saddr)
    if ipv4_is_lbcast(daddr) or (not saddr and not daddr):
        return _brd_input(skb, saddr, tos, dev, in_dev)
    if not saddr:
        return ip_handle_martian_source(dev, in_dev, skb, daddr, saddr)
    if not daddr:
        return _martian_destination(in_dev, daddr, saddr)
    if ipv4_is_loopback(daddr) or ipv4_is_loopback(saddr):
        if not in_dev_orconf(in_dev, "route_localnet"):
            if ipv4_is_loopback(daddr):
                return _martian_destination(in_dev, daddr, saddr)
            return ip_handle_martian_source(dev, in_dev, skb, daddr, saddr)
    fl4 = Flowi4(0, dev.ifindex, skb.mark, tos, daddr=daddr, saddr=saddr)
    res = FibResult()
    err = fib_lookup(net, fl4, res, 0)
    if err:
        return _no_route(skb, dev, err if in_dev_forward(in_dev) else EHOSTUNREACH)
    if res.type == RTN_BROADCAST:
        return _brd_input(skb, saddr, tos, dev, in_dev)
    if res.type == RTN_LOCAL:
        valid = fib_validate_source(skb, saddr, daddr, tos, 0, dev, in_dev)
        if valid < 0:
            return _martian(valid, dev, in_dev, skb, daddr, saddr)
        return _local_input(skb, dev, res, 0, 0)
    if not in_dev_forward(in_dev):
        return _no_route(skb, dev, EHOSTUNREACH)
    if res.type != RTN_UNICAST:
        return _martian_destination(in_dev, daddr, saddr)
    return ip_mkroute_input(skb, res, in_dev, daddr, saddr, tos)


@notrace
def _brd_input(skb: SkBuff, saddr: int, tos: int, dev: NetDevice, in_dev: InDevice) -> int:
    if skb.protocol != ETH_P_IP:
        return EINVAL
    if saddr:
        valid = fib_validate_source(skb, saddr, 0, tos, 0, dev, in_dev)
        if valid < 0:
            return _martian(valid, dev, in_dev, skb, 0xFFFFFFFF, saddr)
    return _local_input(skb, dev, FibResult(type=RTN_BROADCAST), RTCF_BROADCAST, 0)


@notrace
def _no_route(skb: SkBuff, dev: NetDevice, err: int) -> int:
    dev.net.mib.ip_ext["InNoRoutes"] += 1
    return _local_input(skb, dev, FibResult(type=RTN_UNREACHABLE), 0, err)


@notrace
def _local_input(skb: SkBuff, dev: NetDevice, res: FibResult, flags: int, err: int) -> int:
    fi: FibInfo | None = res.fi
    if fi is not None and rt_cache_valid(res.nhc.nh_rth_input):
        cached = res.nhc.nh_rth_input
        assert cached is not None
        cached.hold()
        skb_dst_set(skb, cached)
        return 0
    rth = rt_dst_alloc(dev.net.loopback_dev, flags | RTCF_LOCAL, res.type)
    rth.output = ip_rt_bug
    rth.rt_is_input = True
    if res.type == RTN_UNREACHABLE:
        rth.input = ip_error
        rth.error = err
        rth.rt_flags &= ~RTCF_LOCAL
    if fi is not None:
        rt_cache_route(res.nhc, rth)
    else:
        inet_of(dev.net).rt_uncached[rth] = None
    skb_dst_set(skb, rth)
    return 0


# ---- packets that pass through ------------------------------------------------------------------------------------
def ip_mkroute_input(skb: SkBuff, res: FibResult, in_dev: InDevice, daddr: int, saddr: int, tos: int) -> int:
    fib_select_path(in_dev.dev.net, res, Flowi4(saddr=saddr, daddr=daddr))
    return __mkroute_input(skb, res, in_dev, daddr, saddr, tos)


@notrace
def __mkroute_input(skb: SkBuff, res: FibResult, in_dev: InDevice, daddr: int, saddr: int, tos: int) -> int:
    out_dev = res.nhc.nh_dev
    assert out_dev is not None
    if out_dev.ip_ptr is None:
        return EINVAL
    err = fib_validate_source(skb, saddr, daddr, tos, out_dev.ifindex, in_dev.dev, in_dev)
    if err < 0:
        return _martian(err, in_dev.dev, in_dev, skb, daddr, saddr)
    cached = res.nhc.nh_rth_input
    if rt_cache_valid(cached):
        assert cached is not None
        cached.hold()
        skb_dst_set(skb, cached)
        return 0
    rth = rt_dst_alloc(out_dev, 0, res.type)
    rth.rt_is_input = True
    rth.input = inet_of(out_dev.net).paths.ip_forward
    rt_set_nexthop(rth, daddr, res, None, res.fi, True)
    skb_dst_set(skb, rth)
    return 0


# ---- packets that should not be -----------------------------------------------------------------------------------
@notrace
def _martian(valid: int, dev: NetDevice, in_dev: InDevice, skb: SkBuff, daddr: int, saddr: int) -> int:
    ip_handle_martian_source(dev, in_dev, skb, daddr, saddr)
    return -valid


@notrace
def _martian_destination(in_dev: InDevice, daddr: int, saddr: int) -> int:
    if in_dev_orconf(in_dev, "log_martians"):
        dev = in_dev.dev
        where = f"{dotted(daddr)} from {dotted(saddr)}, dev {dev.name.decode()}"
        printk(dev.net.kernel, f"IPv4: martian destination {where}", 4)
    return EINVAL


def ip_handle_martian_source(dev: NetDevice, in_dev: InDevice, skb: SkBuff, daddr: int, saddr: int) -> int:
    """A source address that cannot be. Tells of it, if that is wanted (log_martians)."""
    if in_dev_orconf(in_dev, "log_martians"):
        where = f"{dotted(daddr)} from {dotted(saddr)}, on dev {dev.name.decode()}"
        printk(dev.net.kernel, f"IPv4: martian source {where}", 4)
    return EINVAL


@notrace
def dotted(addr: int) -> str:
    """%pI4"""
    return ".".join(map(str, addr.to_bytes(4, "big")))


def ip_error(skb: SkBuff) -> int:
    """The input of routes that lead nowhere: the sender is told, if we forward packets."""
    dev = skb.dev
    assert dev is not None
    net = dev.net
    in_dev = in_dev_get(dev)
    rt: Rtable = skb.dst
    if in_dev is not None:
        if not in_dev_forward(in_dev):
            if rt.error == EHOSTUNREACH:
                net.mib.ip["InAddrErrors"] += 1
            elif rt.error == ENETUNREACH:
                net.mib.ip_ext["InNoRoutes"] += 1
        else:
            codes = {EHOSTUNREACH: ICMP_HOST_UNREACH, ENETUNREACH: ICMP_NET_UNREACH, EACCES: ICMP_PKT_FILTERED}
            code = codes.get(rt.error)
            if code == ICMP_NET_UNREACH:
                net.mib.ip_ext["InNoRoutes"] += 1
            if code is not None:
                inet_of(net).paths.icmp_send(skb, ICMP_DEST_UNREACH, code, 0)
    kfree_skb(skb)
    return 0


def ip_rt_bug(net: Net, sk: Sock | None, skb: SkBuff) -> int:
    """The output of routes for packets that arrive: nobody may send there."""
    printk(net.kernel, "IPv4: ip_rt_bug", 7)
    return dst_discard_out(net, sk, skb)


# ---- the reverse path ---------------------------------------------------------------------------------------------
def fib_validate_source(skb: SkBuff, src: int, dst: int, tos: int, oif: int, dev: NetDevice, idev: InDevice) -> int:
    """Could such a packet come from there? Negative errno: no. 1: its sender is on the link."""
    rpf = in_dev_maxconf(idev, "rp_filter")
    if not rpf and (dev.ifindex != oif or not in_dev_orconf(idev, "send_redirects")):
        if in_dev_orconf(idev, "accept_local") or inet_lookup_ifaddr_rcu(dev.net, src) is None:
            return 0
        return -EINVAL
    return __fib_validate_source(skb, src, dst, tos, oif, dev, rpf, idev)


def __fib_validate_source(skb: SkBuff, src: int, dst: int, tos: int, oif: int, dev: NetDevice, rpf: int,
                          idev: InDevice) -> int:
    net = dev.net
    fl4 = Flowi4(0, oif or LOOPBACK_IFINDEX, flowi4_tos=tos, daddr=src, saddr=dst)
    res = FibResult()
    if fib_lookup(net, fl4, res, 0):
        return -EXDEV if rpf else 0
    if res.type != RTN_UNICAST and (res.type != RTN_LOCAL or not in_dev_orconf(idev, "accept_local")):
        return -EINVAL
    if any(nh.nh_dev is dev for nh in res.fi.fib_nh) or (res.type == RTN_LOCAL and dev is net.loopback_dev):
        return int(res.nhc.nh_scope >= RT_SCOPE_HOST)
    if not idev.ifa_list:
        return -EXDEV if rpf else 0
    if rpf == 1:
        return -EXDEV
    fl4.flowi4_oif = dev.ifindex
    if not fib_lookup(net, fl4, res, FIB_LOOKUP_IGNORE_LINKSTATE) and res.type == RTN_UNICAST:
        return int(res.nhc.nh_scope >= RT_SCOPE_HOST)
    return 0
