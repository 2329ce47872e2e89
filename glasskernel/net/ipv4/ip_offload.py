"""IPv4's part of segmentation and of GRO.

Linux: net/ipv4/af_inet.c (5.3): inet_gso_segment(), inet_gro_receive(), inet_gro_complete(). Same: what is held back
and what flushes; segments get ids that count up. Gaps: tunnels, fragments of UDP (UFO), options in merged headers.
Context: softirqs off. Headers lie in skb.head, at the offsets that the callers of packet_offload describe.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.checksum import ip_fast_csum
from glasskernel.lib.types import notrace
from glasskernel.net.core.gro import dev_add_offload, gro_cb, skb_gro_header, skb_gro_len, skb_gro_offset, skb_gro_pull
from glasskernel.net.ipv4.tcp_offload import tcpv4_offload_init
from glasskernel.net.ipv4.types import IP_DF, NetOffload
from glasskernel.net.netdevice import ETH_P_IP, PacketOffload
from glasskernel.net.skbuff import SkBuff, pskb_may_pull, skb_pull, skb_reset_network_header, skb_reset_transport_header

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

IP_HLEN = 20


@notrace
def _offload(skb: SkBuff, proto: int) -> NetOffload | None:
    assert skb.dev is not None
    inet = skb.dev.net.kernel.inet
    return inet.offloads.get(proto) if inet is not None else None


@notrace
def _set_length(skb: SkBuff, at: int, length: int) -> None:
    """The header at `at` gets a new total length, and its checksum."""
    head = skb.head
    head[at + 2 : at + 4] = length.to_bytes(2, "big")
    head[at + 10 : at + 12] = b"\0\0"
    ihl = (head[at] & 15) * 4
    head[at + 10 : at + 12] = ip_fast_csum(head[at : at + ihl]).to_bytes(2, "big")


def inet_gso_segment(skb: SkBuff, features: int) -> list[SkBuff]:
    """->gso_segment(): skb.data is at the IP header. Nothing: it cannot be segmented."""
    skb_reset_network_header(skb)
    nhoff = skb.network_header - skb.mac_header
    if not pskb_may_pull(skb, IP_HLEN):
        return []
    at = skb.data
    ihl = (skb.head[at] & 15) * 4
    ident = int.from_bytes(skb.head[at + 4 : at + 6], "big")
    ops = _offload(skb, skb.head[at + 9])
    if ihl < IP_HLEN or ops is None or ops.gso_segment is None or not pskb_may_pull(skb, ihl):
        return []
    skb_pull(skb, ihl)
    skb_reset_transport_header(skb)
    segs = ops.gso_segment(skb, features)
    for number, seg in enumerate(segs):
        at = seg.network_header = seg.mac_header + nhoff
        seg.head[at + 4 : at + 6] = (ident + number & 0xFFFF).to_bytes(2, "big")
        _set_length(seg, at, seg.len - nhoff)
    return segs


def inet_gro_receive(held: list[SkBuff], skb: SkBuff) -> SkBuff | None:
    """->gro_receive()"""
    cb = gro_cb(skb)
    off = skb_gro_offset(skb)
    at = skb_gro_header(skb, IP_HLEN)
    head = skb.head
    if at < 0 or head[at] != 0x45 or ip_fast_csum(head[at : at + IP_HLEN]):
        cb.flush = 1
        return None
    ops = _offload(skb, head[at + 9])
    fragment = int.from_bytes(head[at + 6 : at + 8], "big")
    if ops is None or ops.gro_receive is None or fragment & ~IP_DF:
        cb.flush = 1
        return None
    if int.from_bytes(head[at + 2 : at + 4], "big") != skb_gro_len(skb):
        cb.flush = 1
    ident = int.from_bytes(head[at + 4 : at + 6], "big")
    for p in held:
        pcb = gro_cb(p)
        if not pcb.same_flow:
            continue
        other = p.data + off
        if p.head[other + 12 : other + 20] != head[at + 12 : at + 20] or p.head[other + 9] != head[at + 9]:
            pcb.same_flow = False
            continue
        df = (p.head[other + 6] << 8 | p.head[other + 7]) & IP_DF
        pcb.flush |= (p.head[other + 8] ^ head[at + 8]) | (p.head[other + 1] ^ head[at + 1]) | (df ^ (fragment & IP_DF))
        expected = int.from_bytes(p.head[other + 4 : other + 6], "big") + pcb.count & 0xFFFF
        pcb.flush_id = expected ^ ident
    cb.is_atomic = bool(fragment & IP_DF)
    skb.network_header = at
    skb_gro_pull(skb, IP_HLEN)
    skb.transport_header = at + IP_HLEN
    return ops.gro_receive(held, skb)


def inet_gro_complete(skb: SkBuff, nhoff: int) -> None:
    """->gro_complete(): the header says how long the packet has become."""
    at = skb.data + nhoff
    ops = _offload(skb, skb.head[at + 9])
    _set_length(skb, at, skb.len - nhoff)
    assert ops is not None
    assert ops.gro_complete is not None
    ops.gro_complete(skb, nhoff + IP_HLEN)


def ipv4_offload_init(kernel: Kernel) -> None:
    """After inet_init()."""
    tcpv4_offload_init(kernel)
    dev_add_offload(kernel, PacketOffload(ETH_P_IP, inet_gso_segment, inet_gro_receive, inet_gro_complete))
