"""IP packets that leave.

Linux: net/ipv4/ip_output.c (5.3). Same: the call order from a protocol to the device, identification, fragmentation.
Differs: building packets from what users write is in ip_append.py. Functions answer 0, NET_XMIT_* (positive) or a
negative errno, as Linux's do: a packet that is lost is not an error of the caller's.
Gaps: segmentation of what is bigger than the MTU is the device's or dev_queue_xmit()'s; egress BPF programs.
Context: any; bottom halves are off below ip_finish_output2().
"""
from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from glasskernel.kernel.softirq import __local_bh_enable_ip, local_bh_disable
from glasskernel.lib.checksum import ip_fast_csum
from glasskernel.lib.errno import EHOSTUNREACH, EINVAL, EMSGSIZE, ENOBUFS, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.core.dev import dev_loopback_xmit
from glasskernel.net.core.dst import dst_output
from glasskernel.net.core.neighbour import __neigh_create, neigh_output
from glasskernel.net.core.sock_dst import __sk_dst_check, sk_mc_loop, sk_setup_caps
from glasskernel.net.ipv4.fib_semantics import inet_of
from glasskernel.net.ipv4.ip_do_fragment import ip_do_fragment
from glasskernel.net.ipv4.route import ip_mtu_locked, ip_route_output_ports, ipv4_mtu, rt_nexthop, rt_tos
from glasskernel.net.ipv4.types import (
    IP_DF,
    IP_PMTUDISC_DO,
    IP_PMTUDISC_PROBE,
    IP_PMTUDISC_WANT,
    RTAX_HOPLIMIT,
    RTCF_BROADCAST,
    RTCF_LOCAL,
    RTCF_MULTICAST,
    RTN_BROADCAST,
    RTN_MULTICAST,
    Flowi4,
    InetSock,
    Rtable,
)
from glasskernel.net.netdevice import ETH_P_IP, IFF_LOOPBACK, IFF_POINTOPOINT, NET_XMIT_CN
from glasskernel.net.skbuff import SkBuff, kfree_skb, skb_clone, skb_cow_head, skb_dst_set, skb_push

if TYPE_CHECKING:
    from glasskernel.net.core.neighbour import Neighbour
    from glasskernel.net.types import Net, Sock

# version and header length, tos, tot_len, id, frag_off, ttl, protocol, check, addresses
IPHDR = Struct(">BBHHHBBHII")
ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED = 3, 4


# ---- the header ---------------------------------------------------------------------------------------------------
def ip_send_check(skb: SkBuff) -> None:
    """Fills in the header's checksum."""
    head, at = skb.head, skb.network_header
    end = at + (head[at] & 0xF) * 4
    head[at + 10 : at + 12] = b"\0\0"
    head[at + 10 : at + 12] = ip_fast_csum(memoryview(head)[at:end]).to_bytes(2, "big")


@notrace
def ip_dont_fragment(sk: InetSock, dst: Rtable) -> bool:
    """Routers shall tell us the MTU instead of cutting."""
    return sk.pmtudisc == IP_PMTUDISC_DO or (sk.pmtudisc == IP_PMTUDISC_WANT and not ip_mtu_locked(dst))


@notrace
def ip_sk_use_pmtu(sk: InetSock) -> bool:
    return sk.pmtudisc < IP_PMTUDISC_PROBE


@notrace
def ip_sk_ignore_df(sk: InetSock) -> bool:
    """We cut even what others may not."""
    return sk.pmtudisc < IP_PMTUDISC_DO or sk.pmtudisc == 5              # IP_PMTUDISC_OMIT


@notrace
def ip4_dst_hoplimit(dst: Rtable) -> int:
    hoplimit: int = dst.metrics.get(RTAX_HOPLIMIT, 0) or dst.dev.net.ipv4.sysctl["ip_default_ttl"]
    return hoplimit


@notrace
def ip_select_ttl(sk: InetSock, dst: Rtable) -> int:
    return sk.uc_ttl if sk.uc_ttl >= 0 else ip4_dst_hoplimit(dst)


@notrace
def ip_select_ident_segs(net: Net, sk: InetSock | None, saddr: int, daddr: int, protocol: int, frag_off: int,
                         ignore_df: bool, segs: int) -> int:
    """A packet that nobody cuts needs no identification; a connection counts its own."""
    if frag_off & IP_DF and not ignore_df:
        if sk is not None and sk.inet_daddr:
            ident = sk.inet_id
            sk.inet_id = ident + segs & 0xFFFF
            return ident
        return 0
    return __ip_select_ident(net, saddr, daddr, protocol, segs)


def __ip_select_ident(net: Net, saddr: int, daddr: int, protocol: int, segs: int) -> int:
    """Numbers for packets between two addresses; nobody else can tell how many others were sent."""
    inet = inet_of(net)
    if not inet.ip_id_key:
        inet.ip_id_key = int.from_bytes(net.kernel.machine.random_bytes(8), "little") | 1
    mixed = (saddr << 40 ^ daddr << 8 ^ protocol) * inet.ip_id_key & 0xFFFFFFFFFFFFFFFF
    return ip_idents_reserve(net, mixed >> 48, segs)


def ip_idents_reserve(net: Net, hash: int, segs: int) -> int:
    """The next `segs` numbers of a counter."""
    idents = inet_of(net).ip_idents
    bucket = hash % 2048
    ident = idents.get(bucket)
    if ident is None:
        ident = int.from_bytes(net.kernel.machine.random_bytes(2), "little")
    idents[bucket] = ident + segs & 0xFFFF
    return ident


# ---- out ----------------------------------------------------------------------------------------------------------
def __ip_local_out(net: Net, sk: Sock | None, skb: SkBuff) -> int:
    """Completes the header of a packet of ours. 1: it may go."""
    at = skb.network_header
    skb.head[at + 2 : at + 4] = skb.len.to_bytes(2, "big")
    ip_send_check(skb)
    skb.protocol = ETH_P_IP
    return 1


def ip_local_out(net: Net, sk: Sock | None, skb: SkBuff) -> int:
    err = __ip_local_out(net, sk, skb)
    return dst_output(net, sk, skb) if err == 1 else err


def ip_output(net: Net, sk: Sock | None, skb: SkBuff) -> int:
    """The output of most routes."""
    net.mib.ip["OutRequests"] += 1
    net.mib.ip_ext["OutOctets"] += skb.len
    skb.dev = skb.dst.dev
    skb.protocol = ETH_P_IP
    return ip_finish_output(net, sk, skb)


def ip_mc_output(net: Net, sk: Sock | None, skb: SkBuff) -> int:
    """The output of routes to groups and to all: if we are among them, a copy comes back."""
    rt: Rtable = skb.dst
    net.mib.ip["OutRequests"] += 1
    net.mib.ip_ext["OutOctets"] += skb.len
    skb.dev = rt.dev
    skb.protocol = ETH_P_IP
    if rt.rt_flags & RTCF_MULTICAST:
        if sk_mc_loop(sk) and rt.rt_flags & RTCF_LOCAL:
            ip_mc_finish_output(net, sk, skb_clone(skb))
        if not skb.head[skb.network_header + 8]:         # ttl 0 stays on this machine
            kfree_skb(skb)
            return 0
    if rt.rt_flags & RTCF_BROADCAST:
        ip_mc_finish_output(net, sk, skb_clone(skb))
    return ip_finish_output(net, sk, skb)


def ip_mc_finish_output(net: Net, sk: Sock | None, skb: SkBuff) -> int:
    return dev_loopback_xmit(net, sk, skb)


def ip_finish_output(net: Net, sk: Sock | None, skb: SkBuff) -> int:
    return __ip_finish_output(net, sk, skb)


def __ip_finish_output(net: Net, sk: Sock | None, skb: SkBuff) -> int:
    mtu = ip_skb_dst_mtu(sk, skb)
    if skb.len > mtu and not skb.shinfo.gso_size:
        return ip_fragment(net, sk, skb, mtu)
    return ip_finish_output2(net, sk, skb)


@notrace
def ip_skb_dst_mtu(sk: Sock | None, skb: SkBuff) -> int:
    rt: Rtable = skb.dst
    if isinstance(sk, InetSock) and not ip_sk_use_pmtu(sk):
        return min(rt.dev.mtu, 0xFFFF)
    return ipv4_mtu(rt)


def ip_finish_output2(net: Net, sk: Sock | None, skb: SkBuff) -> int:
    """Finds the next hop's hardware address; the device gets the packet."""
    rt: Rtable = skb.dst
    dev = rt.dev
    if rt.rt_type == RTN_MULTICAST:
        net.mib.ip_ext["OutMcastPkts"] += 1
        net.mib.ip_ext["OutMcastOctets"] += skb.len
    elif rt.rt_type == RTN_BROADCAST:
        net.mib.ip_ext["OutBcastPkts"] += 1
        net.mib.ip_ext["OutBcastOctets"] += skb.len
    if dev.header_ops is not None:
        skb_cow_head(skb, dev.hard_header_len)
    local_bh_disable()
    try:
        neigh = ip_neigh_for_gw(rt, skb)
        if neigh is None:
            kfree_skb(skb)
            return -EINVAL
        return neigh_output(neigh, skb)
    finally:
        __local_bh_enable_ip()


@notrace
def ip_neigh_for_gw(rt: Rtable, skb: SkBuff) -> Neighbour | None:
    """The next hop, without a reference. Links with two ends or none share one neighbour."""
    dev = rt.dev
    if dev.flags & (IFF_LOOPBACK | IFF_POINTOPOINT):
        key = 0
    else:
        at = skb.network_header + 16
        key = rt_nexthop(rt, int.from_bytes(skb.head[at : at + 4], "big"))
    tbl = inet_of(dev.net).arp_tbl
    neigh: Neighbour | None = tbl.nht.get((dev, key))
    if neigh is None:
        try:
            neigh = __neigh_create(tbl, key, dev, False)
        except KernelError:
            return None
    return neigh


def ip_fragment(net: Net, sk: Sock | None, skb: SkBuff, mtu: int) -> int:
    """A packet that is too big: cut, or if that is forbidden, its sender is told."""
    at = skb.network_header
    if not skb.head[at + 6] & 0x40 or skb.ignore_df:
        return ip_do_fragment(net, sk, skb, ip_finish_output2)
    net.mib.ip["FragFails"] += 1
    inet_of(net).paths.icmp_send(skb, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, mtu)
    kfree_skb(skb)
    return -EMSGSIZE


# ---- whole packets of protocols ----------------------------------------------------------------------------------
def ip_queue_xmit(sk: InetSock, skb: SkBuff, fl: Flowi4) -> int:
    """A segment of a connection; fl is the connection's flow and is looked up again if its route is no longer right."""
    return __ip_queue_xmit(sk, skb, fl, sk.tos)


def __ip_queue_xmit(sk: InetSock, skb: SkBuff, fl4: Flowi4, tos: int) -> int:
    net = sk.sk_net
    rt: Rtable | None = skb.dst
    if rt is None:
        rt = __sk_dst_check(sk, 0)       # type: ignore[assignment]
        if rt is None:
            try:
                rt = ip_route_output_ports(net, fl4, sk, sk.inet_daddr, sk.inet_saddr, sk.inet_dport, sk.inet_sport,
                                           sk.sk_protocol, rt_tos(sk), sk.sk_bound_dev_if)
            except KernelError:
                net.mib.ip["OutNoRoutes"] += 1
                kfree_skb(skb)
                return -EHOSTUNREACH
            sk_setup_caps(sk, rt)
        rt.hold()
        skb_dst_set(skb, rt)
    ignore_df = skb.ignore_df
    frag_off = IP_DF if ip_dont_fragment(sk, rt) and not ignore_df else 0
    segs = skb.shinfo.gso_segs or 1
    ident = ip_select_ident_segs(net, sk, fl4.saddr, fl4.daddr, sk.sk_protocol, frag_off, ignore_df, segs)
    _push_header(skb, tos, ident, frag_off, ip_select_ttl(sk, rt), sk.sk_protocol, fl4.saddr, fl4.daddr, sk.inet_opt)
    skb.priority = sk.sk_priority
    skb.mark = sk.sk_mark
    return ip_local_out(net, sk, skb)


@notrace
def _push_header(skb: SkBuff, tos: int, ident: int, frag_off: int, ttl: int, protocol: int, saddr: int, daddr: int,
                 opt: bytes) -> None:
    """The IP header in front of data; length and checksum come with __ip_local_out()."""
    at = skb_push(skb, 20 + len(opt))
    skb.network_header = at
    IPHDR.pack_into(skb.head, at, 0x45 + (len(opt) >> 2), tos, 0, ident, frag_off, ttl, protocol, 0, saddr, daddr)
    if opt:
        skb.head[at + 20 : at + 20 + len(opt)] = opt


def ip_build_and_send_pkt(skb: SkBuff, sk: InetSock, saddr: int, daddr: int, opt: bytes) -> int:
    """A packet whose route is known already (skb.dst) and that belongs to no full socket yet: SYN ACK."""
    rt: Rtable = skb.dst
    net = sk.sk_net
    if ip_dont_fragment(sk, rt):
        frag_off, ident = IP_DF, 0
    else:
        frag_off, ident = 0, __ip_select_ident(net, saddr, daddr, sk.sk_protocol, 1)
    _push_header(skb, sk.tos, ident, frag_off, ip_select_ttl(sk, rt), sk.sk_protocol, saddr, daddr, opt)
    skb.priority = sk.sk_priority
    skb.mark = skb.mark or sk.sk_mark
    __ip_local_out(net, sk, skb)
    return dst_output(net, sk, skb)


def ip_send_skb(net: Net, skb: SkBuff) -> int:
    """A finished packet; 0 or a negative errno (a queue that is only getting full is no error)."""
    sk = skb.sk
    __ip_local_out(net, sk, skb)
    err = dst_output(net, sk, skb)
    if err > 0:
        err = 0 if err == NET_XMIT_CN else -ENOBUFS
    if err:
        net.mib.ip["OutDiscards"] += 1
    return err
