"""Packets that pass through.

Linux: net/ipv4/ip_forward.c (5.3). Same: TTL, MTU, what the sender is told. Gaps: redirects, router alert, options.
Context: softirq. The packet is given.
"""
from __future__ import annotations

from glasskernel.lib.types import notrace
from glasskernel.net.core.dst import dst_output
from glasskernel.net.ipv4.fib_semantics import inet_of
from glasskernel.net.ipv4.route import ipv4_mtu
from glasskernel.net.ipv4.types import Rtable
from glasskernel.net.netdevice import NET_RX_DROP
from glasskernel.net.skbuff import PACKET_HOST, SkBuff, kfree_skb, skb_cow_head

ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, ICMP_TIME_EXCEEDED, ICMP_EXC_TTL = 3, 4, 11, 0


def ip_forward(skb: SkBuff) -> int:
    """The input of routes that lead on."""
    rt: Rtable = skb.dst
    net = rt.dev.net
    if skb.pkt_type != PACKET_HOST or skb.sk is not None:
        return _drop(skb)
    at = skb.network_header
    if skb.head[at + 8] <= 1:
        net.mib.ip["InHdrErrors"] += 1
        inet_of(net).paths.icmp_send(skb, ICMP_TIME_EXCEEDED, ICMP_EXC_TTL, 0)
        return _drop(skb)
    mtu = ipv4_mtu(rt)
    if ip_exceeds_mtu(skb, mtu):
        net.mib.ip["FragFails"] += 1
        inet_of(net).paths.icmp_send(skb, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, mtu)
        return _drop(skb)
    skb_cow_head(skb, rt.dev.hard_header_len + 16)
    ip_decrease_ttl(skb)
    net.mib.ip["ForwDatagrams"] += 1
    return dst_output(net, None, skb)


@notrace
def _drop(skb: SkBuff) -> int:
    kfree_skb(skb)
    return NET_RX_DROP


@notrace
def ip_exceeds_mtu(skb: SkBuff, mtu: int) -> bool:
    """A packet that must not be cut does not fit."""
    if skb.len <= mtu or skb.ignore_df or skb.shinfo.gso_size:
        return False
    return bool(skb.head[skb.network_header + 6] & 0x40)


@notrace
def ip_decrease_ttl(skb: SkBuff) -> None:
    """The checksum follows (RFC 1624)."""
    head, at = skb.head, skb.network_header
    head[at + 8] -= 1
    check = (head[at + 10] << 8 | head[at + 11]) + 0x100
    head[at + 10 : at + 12] = (check + (check >= 0xFFFF) & 0xFFFF).to_bytes(2, "big")
