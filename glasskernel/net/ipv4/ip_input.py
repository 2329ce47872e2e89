"""IP packets that arrive.

Linux: net/ipv4/ip_input.c (5.3). Same: the checks of a header and what they count, the way to the protocols, lists of
packets that go the same way. Gaps: source routes and record route are parsed, not obeyed (ip_options.py).
Context: softirq. The packet is given: every path frees or queues it.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.checksum import ip_fast_csum
from glasskernel.lib.errno import EXDEV
from glasskernel.lib.types import notrace
from glasskernel.net.core.dst import dst_input
from glasskernel.net.ipv4.fib_semantics import inet_of
from glasskernel.net.ipv4.ip_fragment import ip_defrag
from glasskernel.net.ipv4.ip_options import ip_rcv_options
from glasskernel.net.ipv4.raw_deliver import raw_local_deliver
from glasskernel.net.ipv4.route_input import ip_route_input_noref
from glasskernel.net.ipv4.types import RTN_BROADCAST, RTN_MULTICAST, InetSkbParm
from glasskernel.net.netdevice import NET_RX_DROP
from glasskernel.net.skbuff import (
    PACKET_BROADCAST,
    PACKET_MULTICAST,
    PACKET_OTHERHOST,
    SkBuff,
    consume_skb,
    kfree_skb,
    pskb_may_pull,
    pskb_trim_rcsum,
    skb_clone,
    skb_orphan,
    skb_shared,
)

if TYPE_CHECKING:
    from glasskernel.net.netdevice import NetDevice, PacketType
    from glasskernel.net.types import Net

IP_MF_OR_OFFSET = 0x3FFF
ICMP_DEST_UNREACH, ICMP_PROT_UNREACH = 3, 2
_ECN_COUNTERS = ("InNoECTPkts", "InECT1Pkts", "InECT0Pkts", "InCEPkts")


def ip_rcv(skb: SkBuff, dev: NetDevice, pt: PacketType, orig_dev: NetDevice) -> int:
    """The entry of one packet."""
    net = dev.net
    received = ip_rcv_core(skb, net)
    if received is None:
        return NET_RX_DROP
    return ip_rcv_finish(net, received)


def ip_list_rcv(skbs: list[SkBuff], pt: PacketType, orig_dev: NetDevice) -> None:
    """The entry of many packets: neighbours of one device go on together."""
    sublist: list[SkBuff] = []
    curr_dev: NetDevice | None = None
    for skb in skbs:
        dev = skb.dev
        assert dev is not None
        received = ip_rcv_core(skb, dev.net)
        if received is None:
            continue
        if dev is not curr_dev:
            if sublist:
                assert curr_dev is not None
                ip_sublist_rcv(sublist, curr_dev)
            sublist, curr_dev = [], dev
        sublist.append(received)
    if sublist:
        assert curr_dev is not None
        ip_sublist_rcv(sublist, curr_dev)


def ip_rcv_core(skb: SkBuff, net: Net) -> SkBuff | None:
    """Is this an IP packet for us, whole and right? None: it is freed."""
    mib = net.mib
    if skb.pkt_type == PACKET_OTHERHOST:
        kfree_skb(skb)
        return None
    mib.ip["InReceives"] += 1
    mib.ip_ext["InOctets"] += skb.len
    if skb_shared(skb):
        clone = skb_clone(skb)
        consume_skb(skb)
        skb = clone
    if not pskb_may_pull(skb, 20):
        return _inhdr_error(skb, net)
    head, at = skb.head, skb.data
    ihl = (head[at] & 0xF) * 4
    if ihl < 20 or head[at] >> 4 != 4:
        return _inhdr_error(skb, net)
    mib.ip_ext[_ECN_COUNTERS[head[at + 1] & 3]] += max(1, skb.shinfo.gso_segs)
    if not pskb_may_pull(skb, ihl):
        return _inhdr_error(skb, net)
    head, at = skb.head, skb.data
    if ip_fast_csum(memoryview(head)[at : at + ihl]):
        mib.ip_ext["InCsumErrors"] += 1
        return _inhdr_error(skb, net)
    length = head[at + 2] << 8 | head[at + 3]
    if skb.len < length:
        mib.ip_ext["InTruncatedPkts"] += 1
        kfree_skb(skb)
        return None
    if length < ihl:
        return _inhdr_error(skb, net)
    pskb_trim_rcsum(skb, length)
    skb.network_header = skb.data
    skb.transport_header = skb.data + ihl
    skb.cb = InetSkbParm(skb.skb_iif)
    skb_orphan(skb)
    return skb


@notrace
def _inhdr_error(skb: SkBuff, net: Net) -> None:
    net.mib.ip["InHdrErrors"] += 1
    kfree_skb(skb)


@notrace
def ip_rcv_finish(net: Net, skb: SkBuff) -> int:
    dev = skb.dev
    assert dev is not None
    if ip_rcv_finish_core(net, skb, dev):
        return NET_RX_DROP
    return dst_input(skb)


def ip_rcv_finish_core(net: Net, skb: SkBuff, dev: NetDevice) -> bool:
    """Finds where the packet goes. True: nowhere, it is freed."""
    head, at = skb.head, skb.network_header
    if skb.dst is None:
        inet = inet_of(net)
        if net.ipv4.sysctl["ip_early_demux"] and not (head[at + 6] << 8 | head[at + 7]) & IP_MF_OR_OFFSET:
            protocol = inet.protos.get(head[at + 9])
            if protocol is not None and protocol.early_demux is not None and skb.sk is None:
                protocol.early_demux(skb)
                head, at = skb.head, skb.network_header
    if skb.dst is None:
        err = ip_route_input_noref(skb, int.from_bytes(head[at + 16 : at + 20], "big"),
                                   int.from_bytes(head[at + 12 : at + 16], "big"), head[at + 1], dev)
        if err:
            if err == EXDEV:
                net.mib.net["IPReversePathFilter"] += 1
            kfree_skb(skb)
            return True
    if head[at] & 0xF > 5 and ip_rcv_options(skb, dev):
        return True
    kind = skb.dst.rt_type
    if kind == RTN_MULTICAST:
        net.mib.ip_ext["InMcastPkts"] += 1
        net.mib.ip_ext["InMcastOctets"] += skb.len
    elif kind == RTN_BROADCAST:
        net.mib.ip_ext["InBcastPkts"] += 1
        net.mib.ip_ext["InBcastOctets"] += skb.len
    elif skb.pkt_type in (PACKET_BROADCAST, PACKET_MULTICAST):
        # RFC 1122 3.3.6: a unicast packet in a broadcast frame is somebody's mistake; only who asked drops it
        in_dev = dev.ip_ptr
        if in_dev is not None and in_dev.cnf["drop_unicast_in_l2_multicast"]:
            kfree_skb(skb)
            return True
    return False


def ip_sublist_rcv(skbs: list[SkBuff], dev: NetDevice) -> None:
    """Packets of one device: those with the same route are delivered together."""
    net = dev.net
    sublist: list[SkBuff] = []
    curr_dst = None
    for skb in skbs:
        if ip_rcv_finish_core(net, skb, dev):
            continue
        if skb.dst is not curr_dst and sublist:
            ip_sublist_rcv_finish(sublist)
            sublist = []
        curr_dst = skb.dst
        sublist.append(skb)
    if sublist:
        ip_sublist_rcv_finish(sublist)


def ip_sublist_rcv_finish(skbs: list[SkBuff]) -> None:
    for skb in skbs:
        dst_input(skb)


# ---- to the protocols ---------------------------------------------------------------------------------------------
def ip_local_deliver(skb: SkBuff) -> int:
    """The packet is for us: fragments wait for each other here."""
    dev = skb.dev
    assert dev is not None
    head, at = skb.head, skb.network_header
    if (head[at + 6] << 8 | head[at + 7]) & IP_MF_OR_OFFSET:
        whole = ip_defrag(dev.net, skb, 0)
        if whole is None:
            return 0
        skb = whole
    return ip_local_deliver_finish(dev.net, skb)


def ip_local_deliver_finish(net: Net, skb: SkBuff) -> int:
    length = skb.transport_header - skb.data
    skb.data += length
    skb.len -= length
    ip_protocol_deliver_rcu(net, skb, skb.head[skb.network_header + 9])
    return 0


def ip_protocol_deliver_rcu(net: Net, skb: SkBuff, protocol: int) -> None:
    """Raw sockets first, then the protocol; who neither has is told by ICMP."""
    raw = raw_local_deliver(skb, protocol)
    ipprot = inet_of(net).protos.get(protocol)
    if ipprot is not None:
        ipprot.handler(skb)
        net.mib.ip["InDelivers"] += 1
    elif not raw:
        net.mib.ip["InUnknownProtos"] += 1
        inet_of(net).paths.icmp_send(skb, ICMP_DEST_UNREACH, ICMP_PROT_UNREACH, 0)
        kfree_skb(skb)
    else:
        net.mib.ip["InDelivers"] += 1
        consume_skb(skb)

