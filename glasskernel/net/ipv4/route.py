"""Routes for packets that leave: which device, which next hop, which source address.

Linux: net/ipv4/route.c (5.3). Same: the order of checks and their errno, routes that are remembered at their next hop,
learned MTUs (exceptions), the check of routes that sockets keep. Differs: packets that arrive are in route_input.py;
what a route's input and output do is in InetState.paths, as those functions are above us.
Owns: Rtable, InetState.rt_uncached, NetnsIpv4.rt_genid.  Gaps: redirects change nothing, rt_cache statistics, xfrm.
Invariant: a route that is remembered has rt_gateway 0 if its destination is on the link.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import register
from glasskernel.lib.errno import EINVAL, ENETUNREACH, ENODEV, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.core.dst import DST_OBSOLETE_FORCE_CHK, DST_OBSOLETE_KILL, dst_alloc, dst_release
from glasskernel.net.core.neighbour import Neighbour, neigh_confirm, neigh_create, neigh_lookup
from glasskernel.net.ipv4.fib_lookup import (
    fib_lookup,
    ipv4_is_lbcast,
    ipv4_is_local_multicast,
    ipv4_is_loopback,
    ipv4_is_multicast,
)
from glasskernel.net.ipv4.fib_semantics import fib_select_path, inet_of
from glasskernel.net.ipv4.fib_types import FibInfo, FibNh, FibNhException, FibResult
from glasskernel.net.ipv4.in_device import (
    __ip_dev_find,
    in_dev_get,
    in_dev_orconf,
    inet_select_addr,
    ip_check_mc_rcu,
    ipv4_of,
)
from glasskernel.net.ipv4.route_cache import rt_is_expired
from glasskernel.net.ipv4.types import (
    FLOWI_FLAG_ANYSRC,
    FLOWI_FLAG_KNOWN_NH,
    INADDR_LOOPBACK,
    IP_MAX_MTU,
    LOOPBACK_IFINDEX,
    RT_SCOPE_HOST,
    RT_SCOPE_LINK,
    RT_SCOPE_UNIVERSE,
    RTAX_ADVMSS,
    RTAX_LOCK,
    RTAX_MTU,
    RTCF_BROADCAST,
    RTCF_LOCAL,
    RTCF_MULTICAST,
    RTN_BROADCAST,
    RTN_LOCAL,
    RTN_MULTICAST,
    RTN_UNICAST,
    RTO_ONLINK,
    DstOps,
    Flowi4,
    InetSock,
    Rtable,
)
from glasskernel.net.netdevice import IFF_LOOPBACK, IFF_POINTOPOINT, IFF_UP
from glasskernel.net.types import AF_INET, IPPROTO_IGMP

if TYPE_CHECKING:
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net, Sock

IPTOS_RT_MASK = 0x1C
ICMP_DEST_UNREACH, ICMP_HOST_UNREACH = 3, 1


@notrace
def _jiffies() -> int:
    return register.task.kernel.time.jiffies


# ---- the door -----------------------------------------------------------------------------------------------------
def ip_route_output_flow(net: Net, flp4: Flowi4, sk: Sock | None) -> Rtable:
    """A route for the flow, with a reference; fills in the flow's addresses and device.

    Raises ENETUNREACH, EHOSTUNREACH, EACCES, EINVAL, ENODEV. Context: any.
    """
    return __ip_route_output_key(net, flp4)


@notrace
def __ip_route_output_key(net: Net, fl4: Flowi4) -> Rtable:
    tos = fl4.flowi4_tos & (IPTOS_RT_MASK | RTO_ONLINK)
    fl4.flowi4_iif = LOOPBACK_IFINDEX
    fl4.flowi4_tos = tos & IPTOS_RT_MASK
    fl4.flowi4_scope = RT_SCOPE_LINK if tos & RTO_ONLINK else RT_SCOPE_UNIVERSE
    return ip_route_output_key_hash_rcu(net, fl4)


@notrace
def ip_route_output_key(net: Net, flp: Flowi4) -> Rtable:
    return ip_route_output_flow(net, flp, None)


@notrace
def ip_route_output_ports(net: Net, fl4: Flowi4, sk: InetSock | None, daddr: int, saddr: int, dport: int, sport: int,
                          proto: int, tos: int, oif: int) -> Rtable:
    """ip_route_output_flow() for addresses and ports, with the socket's mark and owner."""
    flowi4_init_output(fl4, oif, sk.sk_mark if sk is not None else 0, tos, proto,
                       inet_sk_flowi_flags(sk) if sk is not None else 0, daddr, saddr, dport, sport,
                       sk.sk_uid if sk is not None else 0)
    return ip_route_output_flow(net, fl4, sk)


@notrace
def flowi4_init_output(fl4: Flowi4, oif: int, mark: int, tos: int, proto: int, flags: int, daddr: int, saddr: int,
                       dport: int, sport: int, uid: int) -> None:
    fl4.flowi4_oif, fl4.flowi4_mark, fl4.flowi4_tos, fl4.flowi4_proto = oif, mark, tos, proto
    fl4.flowi4_scope, fl4.flowi4_flags, fl4.flowi4_uid = RT_SCOPE_UNIVERSE, flags, uid
    fl4.daddr, fl4.saddr, fl4.fl4_dport, fl4.fl4_sport = daddr, saddr, dport, sport


@notrace
def inet_sk_flowi_flags(sk: InetSock) -> int:
    return FLOWI_FLAG_ANYSRC if sk.transparent or sk.hdrincl else 0


@notrace
def rt_tos(sk: InetSock) -> int:
    """RT_CONN_FLAGS()"""
    return (sk.tos & 0x1E & IPTOS_RT_MASK) | bool(sk.sk_flags & 1 << 13)         # SOCK_LOCALROUTE


@notrace
def ip_route_connect(fl4: Flowi4, dst: int, src: int, tos: int, oif: int, protocol: int, sport: int, dport: int,
                     sk: InetSock) -> Rtable:
    """The route to connect over. A missing address is looked up first, as ports may decide about the rest."""
    net = sk.sk_net
    flowi4_init_output(fl4, oif, sk.sk_mark, tos, protocol, FLOWI_FLAG_ANYSRC if sk.transparent else 0, dst, src, dport,
                       sport, sk.sk_uid)
    if not dst or not src:
        rt = __ip_route_output_key(net, fl4)
        dst_release(rt)
        flowi4_update_output(fl4, oif, tos, fl4.daddr, fl4.saddr)
    return ip_route_output_flow(net, fl4, sk)


@notrace
def flowi4_update_output(fl4: Flowi4, oif: int, tos: int, daddr: int, saddr: int) -> None:
    fl4.flowi4_oif, fl4.flowi4_tos, fl4.daddr, fl4.saddr = oif, tos, daddr, saddr


@notrace
def ip_route_newports(fl4: Flowi4, rt: Rtable, orig_sport: int, orig_dport: int, sport: int, dport: int,
                      sk: InetSock) -> Rtable:
    """The ports became others: the route for them; the old one's reference is given back."""
    if sport == orig_sport and dport == orig_dport:
        return rt
    fl4.fl4_dport, fl4.fl4_sport = dport, sport
    dst_release(rt)
    flowi4_update_output(fl4, sk.sk_bound_dev_if, rt_tos(sk), fl4.daddr, fl4.saddr)
    return ip_route_output_flow(sk.sk_net, fl4, sk)


# ---- looking up ---------------------------------------------------------------------------------------------------
def ip_route_output_key_hash_rcu(net: Net, fl4: Flowi4) -> Rtable:
    orig_oif = fl4.flowi4_oif
    res = FibResult()
    daddr, saddr = fl4.daddr, fl4.saddr
    dev_out: NetDevice | None = None
    if saddr:
        if ipv4_is_multicast(saddr) or ipv4_is_lbcast(saddr):
            raise KernelError(EINVAL)
        if not orig_oif and (ipv4_is_multicast(daddr) or ipv4_is_lbcast(daddr)):
            # whoever binds to an address and sends to all means the device with that address
            dev_out = __ip_dev_find(net, saddr, False)
            if dev_out is None:
                raise KernelError(EINVAL)
            fl4.flowi4_oif = dev_out.ifindex
            return __mkroute_output(net, res, fl4, orig_oif, dev_out, 0)
        if not fl4.flowi4_flags & FLOWI_FLAG_ANYSRC and __ip_dev_find(net, saddr, False) is None:
            raise KernelError(EINVAL)
    if orig_oif:
        dev_out = net.dev_by_index.get(orig_oif)
        if dev_out is None:
            raise KernelError(ENODEV)
        if not dev_out.flags & IFF_UP or dev_out.ip_ptr is None:
            raise KernelError(ENETUNREACH)
        if ipv4_is_local_multicast(daddr) or ipv4_is_lbcast(daddr) or fl4.flowi4_proto == IPPROTO_IGMP:
            fl4.saddr = saddr or inet_select_addr(dev_out, 0, RT_SCOPE_LINK)
            return __mkroute_output(net, res, fl4, orig_oif, dev_out, 0)
        if not saddr:
            if ipv4_is_multicast(daddr):
                fl4.saddr = inet_select_addr(dev_out, 0, fl4.flowi4_scope)
            elif not daddr:
                fl4.saddr = inet_select_addr(dev_out, 0, RT_SCOPE_HOST)
    if not daddr:
        fl4.daddr = fl4.saddr
        if not fl4.daddr:
            fl4.daddr = fl4.saddr = INADDR_LOOPBACK
        res.type = RTN_LOCAL
        fl4.flowi4_oif = LOOPBACK_IFINDEX
        return __mkroute_output(net, res, fl4, orig_oif, net.loopback_dev, RTCF_LOCAL)
    err = fib_lookup(net, fl4, res, 0)
    if err:
        if dev_out is None:
            raise KernelError(err)
        # the tables know nothing of it, but the caller named the device: the destination is on its link
        fl4.saddr = fl4.saddr or inet_select_addr(dev_out, 0, RT_SCOPE_LINK)
        res.type = RTN_UNICAST
        return __mkroute_output(net, res, fl4, orig_oif, dev_out, 0)
    if res.type == RTN_LOCAL:
        fl4.saddr = fl4.saddr or res.fi.fib_prefsrc or fl4.daddr
        dev_out = net.loopback_dev
        fl4.flowi4_oif = dev_out.ifindex
        return __mkroute_output(net, res, fl4, res.nhc.nh_oif, dev_out, RTCF_LOCAL)
    fib_select_path(net, res, fl4)
    dev_out = res.nhc.nh_dev
    assert dev_out is not None
    return __mkroute_output(net, res, fl4, orig_oif, dev_out, 0)


@notrace
def __mkroute_output(net: Net, res: FibResult, fl4: Flowi4, orig_oif: int, dev_out: NetDevice, flags: int) -> Rtable:
    """The route for what was found: the one that is remembered at the next hop, or a new one."""
    in_dev = in_dev_get(dev_out)
    if in_dev is None:
        raise KernelError(EINVAL)
    daddr, kind = fl4.daddr, res.type
    if ipv4_is_loopback(fl4.saddr) and not (dev_out.flags & IFF_LOOPBACK or in_dev_orconf(in_dev, "route_localnet")):
        raise KernelError(EINVAL)
    if ipv4_is_lbcast(daddr):
        kind = RTN_BROADCAST
    elif ipv4_is_multicast(daddr):
        kind = RTN_MULTICAST
    elif not daddr:
        raise KernelError(EINVAL)
    if dev_out.flags & IFF_LOOPBACK:
        flags |= RTCF_LOCAL
    fi: FibInfo | None = res.fi
    do_cache = True
    if kind == RTN_BROADCAST:
        flags |= RTCF_BROADCAST | RTCF_LOCAL
        fi = None
    elif kind == RTN_MULTICAST:
        flags |= RTCF_MULTICAST | RTCF_LOCAL
        if ip_check_mc_rcu(in_dev, daddr, fl4.saddr, fl4.flowi4_proto):
            do_cache = False
        else:
            flags &= ~RTCF_LOCAL
        if fi is not None and res.prefixlen < 4:
            fi = None
    elif kind == RTN_LOCAL and orig_oif and orig_oif != dev_out.ifindex:
        do_cache = False                 # packets to an address of ours by another device carry that device's number
    fnhe = None
    do_cache = do_cache and fi is not None
    if fi is not None:
        nhc = res.nhc
        fnhe = find_exception(nhc, daddr)
        if fl4.flowi4_flags & FLOWI_FLAG_KNOWN_NH and not (nhc.nh_gw and nhc.nh_scope == RT_SCOPE_LINK):
            do_cache = False
        if do_cache:
            rth = fnhe.fnhe_rth_output if fnhe is not None else nhc.nh_rth_output
            if rt_cache_valid(rth):
                assert rth is not None
                rth.hold()
                return rth
    rth = rt_dst_alloc(dev_out, flags, kind)
    rth.rt_iif = orig_oif
    if flags & (RTCF_BROADCAST | RTCF_MULTICAST) and flags & RTCF_LOCAL and not dev_out.flags & IFF_LOOPBACK:
        rth.output = inet_of(net).paths.ip_mc_output
    rt_set_nexthop(rth, daddr, res, fnhe, fi, do_cache)
    return rth


def rt_dst_alloc(dev: NetDevice, flags: int, kind: int) -> Rtable:
    """A route with the caller's reference."""
    rt = dst_alloc(Rtable, ipv4_dst_ops, dev)
    paths = inet_of(dev.net).paths
    rt.obsolete = DST_OBSOLETE_FORCE_CHK
    rt.rt_genid = ipv4_of(dev.net).rt_genid
    rt.rt_flags = flags
    rt.rt_type = kind
    rt.output = paths.ip_output
    if flags & RTCF_LOCAL:
        rt.input = paths.ip_local_deliver
    return rt


def rt_set_nexthop(rt: Rtable, daddr: int, res: FibResult, fnhe: FibNhException | None, fi: FibInfo | None,
                   do_cache: bool) -> None:
    """Gateway and metrics; then the route is remembered, or put on the list of those that are not."""
    cached = False
    if fi is not None:
        nhc = res.nhc
        if nhc.nh_gw and nhc.nh_scope == RT_SCOPE_LINK:
            rt.rt_uses_gateway = True
            rt.rt_gateway = nhc.nh_gw
        rt.metrics = fi.fib_metrics
        if fnhe is not None:
            cached = rt_bind_exception(rt, fnhe, daddr, do_cache)
        elif do_cache:
            cached = rt_cache_route(nhc, rt)
    if not cached:
        rt.rt_gateway = rt.rt_gateway or daddr
        inet_of(rt.dev.net).rt_uncached[rt] = None


# ---- remembering --------------------------------------------------------------------------------------------------
@notrace
def rt_cache_valid(rt: Rtable | None) -> bool:
    return rt is not None and rt.obsolete == DST_OBSOLETE_FORCE_CHK and not rt_is_expired(rt)


def rt_cache_route(nhc: FibNh, rt: Rtable) -> bool:
    """The next hop keeps the route, instead of the one that it had."""
    rt.hold()
    if rt.rt_is_input:
        old, nhc.nh_rth_input = nhc.nh_rth_input, rt
    else:
        old, nhc.nh_rth_output = nhc.nh_rth_output, rt
    if old is not None:
        inet_of(rt.dev.net).rt_uncached[old] = None
        old.release()
    return True


def rt_flush_dev(dev: NetDevice) -> None:
    """A device goes: routes that nobody remembers let go of it."""
    for rt in list(inet_of(dev.net).rt_uncached):
        if rt.dev is dev:
            rt.dev = dev.net.loopback_dev
            rt.dev.refcnt += 1
            dev.refcnt -= 1


def ipv4_dst_destroy(dst: Rtable) -> None:
    inet_of(dst.dev.net).rt_uncached.pop(dst, None)


# ---- exceptions ---------------------------------------------------------------------------------------------------
def find_exception(nhc: FibNh, daddr: int) -> FibNhException | None:
    """What was learned about the destination, if that is not too old."""
    fnhe = nhc.nh_exceptions.get(daddr)
    if fnhe is not None and fnhe.fnhe_expires and _jiffies() > fnhe.fnhe_expires:
        ip_del_fnhe(nhc, daddr)
        return None
    return fnhe


def ip_del_fnhe(nhc: FibNh, daddr: int) -> None:
    fnhe_flush_routes(nhc.nh_exceptions.pop(daddr))


def fnhe_flush_routes(fnhe: FibNhException) -> None:
    for rt in (fnhe.fnhe_rth_input, fnhe.fnhe_rth_output):
        if rt is not None:
            rt.obsolete = DST_OBSOLETE_KILL
            rt.release()
    fnhe.fnhe_rth_input = fnhe.fnhe_rth_output = None


def update_or_create_fnhe(nhc: FibNh, daddr: int, gw: int, pmtu: int, lock: bool, expires: int) -> None:
    """Something was learned: routes that are remembered are looked up again."""
    fnhe = nhc.nh_exceptions.get(daddr)
    if fnhe is None:
        fnhe = nhc.nh_exceptions[daddr] = FibNhException()
        for rt in (nhc.nh_rth_input, nhc.nh_rth_output):
            if rt is not None:
                rt.obsolete = DST_OBSOLETE_KILL
    fnhe.fnhe_gw = gw or fnhe.fnhe_gw
    if pmtu:
        fnhe.fnhe_pmtu, fnhe.fnhe_mtu_locked = pmtu, lock
    fnhe.fnhe_expires = max(1, expires)
    fnhe_flush_routes(fnhe)


def rt_bind_exception(rt: Rtable, fnhe: FibNhException, daddr: int, do_cache: bool) -> bool:
    """The route gets what was learned; True: the exception keeps it."""
    if fnhe.fnhe_pmtu and _jiffies() < fnhe.fnhe_expires:
        rt.rt_pmtu, rt.rt_mtu_locked, rt.expires = fnhe.fnhe_pmtu, fnhe.fnhe_mtu_locked, fnhe.fnhe_expires
    if fnhe.fnhe_gw:
        rt.rt_uses_gateway, rt.rt_gateway = True, fnhe.fnhe_gw
    if not do_cache:
        return False
    rt.hold()
    if rt.rt_is_input:
        old, fnhe.fnhe_rth_input = fnhe.fnhe_rth_input, rt
    else:
        old, fnhe.fnhe_rth_output = fnhe.fnhe_rth_output, rt
    if old is not None:
        old.release()
    return True


# ---- the MTU of the path ------------------------------------------------------------------------------------------
def ipv4_mtu(dst: Rtable) -> int:
    """The biggest packet for this route: learned, configured, or the device's."""
    mtu = dst.rt_pmtu
    if not mtu or _jiffies() >= dst.expires:
        mtu = dst.metrics.get(RTAX_MTU, 0)
    if mtu:
        return mtu
    mtu = dst.dev.mtu
    if dst.metrics.get(RTAX_LOCK, 0) & 1 << RTAX_MTU and dst.rt_uses_gateway and mtu > 576:
        mtu = 576
    return min(mtu, IP_MAX_MTU)


def ipv4_default_advmss(dst: Rtable) -> int:
    """What we tell peers that we can take in a segment."""
    advmss = max(ipv4_mtu(dst) - 40, inet_of(dst.dev.net).ip_rt_min_advmss)
    return min(advmss, 65535 - 40)


@notrace
def dst_metric_advmss(dst: Rtable) -> int:
    return dst.metrics.get(RTAX_ADVMSS, 0) or dst.ops.default_advmss(dst)


@notrace
def ip_mtu_locked(rt: Rtable) -> bool:
    return rt.rt_mtu_locked or bool(rt.metrics.get(RTAX_LOCK, 0) & 1 << RTAX_MTU)


def ip_rt_update_pmtu(dst: Rtable, sk: Sock | None, skb: SkBuff | None, mtu: int) -> None:
    """Somebody on the way needs smaller packets. The flow is the socket's, or the packet's (which we sent)."""
    fl4 = Flowi4(dst.dev.ifindex)
    if isinstance(sk, InetSock):
        flowi4_update_output(fl4, sk.sk_bound_dev_if, rt_tos(sk), sk.inet_daddr, sk.inet_saddr)
    elif skb is not None:
        at = skb.network_header
        fl4.flowi4_tos = skb.head[at + 1] & IPTOS_RT_MASK
        fl4.saddr = int.from_bytes(skb.head[at + 12 : at + 16], "big")
        fl4.daddr = int.from_bytes(skb.head[at + 16 : at + 20], "big")
    __ip_rt_update_pmtu(dst, fl4, mtu)


def __ip_rt_update_pmtu(rt: Rtable, fl4: Flowi4, mtu: int) -> None:
    if ip_mtu_locked(rt):
        return
    old_mtu = ipv4_mtu(rt)
    if old_mtu < mtu:
        return
    net = rt.dev.net
    inet, now, lock = inet_of(net), _jiffies(), False
    if mtu < inet.ip_rt_min_pmtu:
        lock = True
        mtu = min(old_mtu, inet.ip_rt_min_pmtu)
    if rt.rt_pmtu == mtu and not lock and now < rt.expires - inet.ip_rt_mtu_expires // 2:
        return
    res = FibResult()
    if not fib_lookup(net, fl4, res, 0):
        update_or_create_fnhe(res.nhc, fl4.daddr, 0, mtu, lock, now + inet.ip_rt_mtu_expires)


def ipv4_update_pmtu(skb: SkBuff, net: Net, mtu: int, oif: int, protocol: int) -> None:
    """An ICMP error says so; skb.data is at the IP header that came back."""
    fl4 = _flow_of_header(skb, oif, protocol)
    try:
        rt = __ip_route_output_key(net, fl4)
    except KernelError:
        return
    __ip_rt_update_pmtu(rt, fl4, mtu)
    dst_release(rt)


def ipv4_sk_update_pmtu(skb: SkBuff, sk: InetSock, mtu: int) -> None:
    """The same for a socket that is bound to a device, or not."""
    ipv4_update_pmtu(skb, sk.sk_net, mtu, sk.sk_bound_dev_if, sk.sk_protocol)


@notrace
def _flow_of_header(skb: SkBuff, oif: int, protocol: int) -> Flowi4:
    at = skb.data
    return Flowi4(oif, flowi4_tos=skb.head[at + 1] & IPTOS_RT_MASK, flowi4_proto=protocol,
                  saddr=int.from_bytes(skb.head[at + 12 : at + 16], "big"),
                  daddr=int.from_bytes(skb.head[at + 16 : at + 20], "big"))


# ---- what the core asks of a route --------------------------------------------------------------------------------
def ipv4_dst_check(dst: Rtable, cookie: int) -> Rtable | None:
    """The route, if it is still right."""
    if dst.obsolete != DST_OBSOLETE_FORCE_CHK or rt_is_expired(dst):
        return None
    return dst


def ipv4_negative_advice(dst: Rtable) -> Rtable | None:
    """Whoever sends gets no answer: learned routes are given up. Takes the reference when it answers None."""
    if dst.obsolete > 0 or dst.rt_flags & 0x40000 or dst.expires:        # RTCF_REDIRECTED
        dst_release(dst)
        return None
    return dst


def ipv4_link_failure(skb: SkBuff) -> None:
    """The next hop does not answer: tell the sender."""
    rt: Rtable = skb.dst
    inet_of(rt.dev.net).paths.icmp_send(skb, ICMP_DEST_UNREACH, ICMP_HOST_UNREACH, 0)
    if rt.expires:
        rt.expires = _jiffies()


def ip_do_redirect(dst: Rtable, sk: Sock | None, skb: SkBuff) -> None:
    """A router knows a better way. We do not follow (accept_redirects acts as if it were 0)."""


def ipv4_neigh_lookup(dst: Rtable, skb: SkBuff | None, daddr: int) -> Neighbour:
    """The neighbour that packets of this route go to, with a reference."""
    key = dst.rt_gateway or (int.from_bytes(skb.head[skb.network_header + 16 : skb.network_header + 20], "big")
                             if skb is not None else daddr)
    tbl: Any = inet_of(dst.dev.net).arp_tbl
    if dst.dev.flags & (IFF_LOOPBACK | IFF_POINTOPOINT):
        key = 0
    return neigh_lookup(tbl, key, dst.dev) or neigh_create(tbl, key, dst.dev)


def ipv4_confirm_neigh(dst: Rtable, daddr: int) -> None:
    """An answer came over this route: its next hop lives."""
    key = dst.rt_gateway or daddr
    n = inet_of(dst.dev.net).arp_tbl.nht.get((dst.dev, key))
    if n is not None:
        neigh_confirm(n)


ipv4_dst_ops = DstOps(
    AF_INET, check=ipv4_dst_check, default_advmss=ipv4_default_advmss, mtu=ipv4_mtu,
    negative_advice=ipv4_negative_advice, link_failure=ipv4_link_failure, update_pmtu=ip_rt_update_pmtu,
    redirect=ip_do_redirect, neigh_lookup=ipv4_neigh_lookup, confirm_neigh=ipv4_confirm_neigh, destroy=ipv4_dst_destroy)


@notrace
def rt_nexthop(rt: Rtable, daddr: int) -> int:
    """The address of the next hop."""
    return rt.rt_gateway or daddr


@notrace
def ip_rt_put(rt: Rtable) -> None:
    dst_release(rt)

