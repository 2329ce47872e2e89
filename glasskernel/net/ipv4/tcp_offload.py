"""TCP's part of segmentation and of GRO.

Linux: net/ipv4/tcp_offload.c (5.3). Same: which segments continue which, and what ends a merged packet; segments but
the last lose FIN and PSH. Differs: checksums of segments stay with the device (CHECKSUM_PARTIAL), as
net/core/dev_xmit.py wants.
Context: softirqs off.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.checksum import csum_fold, csum_partial, csum_tcpudp_magic, csum_tcpudp_nofold
from glasskernel.lib.types import notrace
from glasskernel.net.core.gro import gro_cb, skb_gro_header, skb_gro_len, skb_gro_offset, skb_gro_pull, skb_gro_receive
from glasskernel.net.ipv4.types import NetOffload
from glasskernel.net.skbuff import (
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    SKB_GSO_TCPV4,
    SkBuff,
    pskb_may_pull,
    skb_copy_bits,
    skb_pull,
    skb_segment,
)
from glasskernel.net.types import IPPROTO_TCP

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

TCP_HLEN, TCP_CHECK = 20, 16
FIN, SYN, RST, PSH, URG, CWR = 0x01, 0x02, 0x04, 0x08, 0x20, 0x80


@notrace
def _addresses(skb: SkBuff) -> tuple[int, int]:
    """saddr and daddr of the IP header."""
    at = skb.network_header + 12
    return int.from_bytes(skb.head[at : at + 4], "big"), int.from_bytes(skb.head[at + 4 : at + 8], "big")


@notrace
def _pseudo(skb: SkBuff, length: int) -> bytes:
    """~tcp_v4_check(): what CHECKSUM_PARTIAL leaves in the header."""
    return (~csum_fold(csum_tcpudp_nofold(*_addresses(skb), length, IPPROTO_TCP, 0)) & 0xFFFF).to_bytes(2, "big")


# ---- segmentation -----------------------------------------------------------------------------------------------
def tcp4_gso_segment(skb: SkBuff, features: int) -> list[SkBuff]:
    """->gso_segment(): skb.data is at the TCP header. Nothing: it cannot be segmented."""
    if not skb.shinfo.gso_type & SKB_GSO_TCPV4 or not pskb_may_pull(skb, TCP_HLEN):
        return []
    if skb.ip_summed != CHECKSUM_PARTIAL:
        skb.ip_summed = CHECKSUM_PARTIAL
        skb.csum_start, skb.csum_offset = skb.transport_header, TCP_CHECK
    return tcp_gso_segment(skb, features)


def tcp_gso_segment(skb: SkBuff, features: int) -> list[SkBuff]:
    at = skb.transport_header
    thlen = (skb.head[at + 12] >> 4) * 4
    if thlen < TCP_HLEN or not pskb_may_pull(skb, thlen):
        return []
    mss = skb.shinfo.gso_size
    seq = int.from_bytes(skb.head[at + 4 : at + 8], "big")
    skb_pull(skb, thlen)
    if skb.len <= mss:
        return []
    segs = skb_segment(skb)
    for number, seg in enumerate(segs):
        at = seg.transport_header
        seg.head[at + 4 : at + 8] = (seq + number * mss & 0xFFFFFFFF).to_bytes(4, "big")
        if seg is not segs[-1]:
            seg.head[at + 13] &= ~(FIN | PSH)
        if number:
            seg.head[at + 13] &= ~CWR
        seg.head[at + TCP_CHECK : at + TCP_CHECK + 2] = _pseudo(seg, seg.tail - at)
    return segs


# ---- GRO -----------------------------------------------------------------------------------------------------------
def tcp4_gro_receive(held: list[SkBuff], skb: SkBuff) -> SkBuff | None:
    """->gro_receive(): a segment whose checksum is wrong goes up alone."""
    if not gro_cb(skb).flush and not _checksum_is_right(skb):
        gro_cb(skb).flush = 1
        return None
    return tcp_gro_receive(held, skb)


@notrace
def _checksum_is_right(skb: SkBuff) -> bool:
    """skb_gro_checksum_validate(): so that nobody has to look again."""
    if skb.ip_summed in (CHECKSUM_UNNECESSARY, CHECKSUM_PARTIAL):
        return True
    length = skb_gro_len(skb)
    csum = csum_partial(skb_copy_bits(skb, skb_gro_offset(skb), length))
    if csum_tcpudp_magic(*_addresses(skb), length, IPPROTO_TCP, csum):
        return False
    skb.ip_summed = CHECKSUM_UNNECESSARY
    return True


def tcp_gro_receive(held: list[SkBuff], skb: SkBuff) -> SkBuff | None:
    """Finds the packet that this one continues. Answers one that is complete now."""
    cb = gro_cb(skb)
    off = skb_gro_offset(skb)
    at = skb_gro_header(skb, TCP_HLEN)
    thlen = (skb.head[at + 12] >> 4) * 4 if at >= 0 else 0
    if thlen < TCP_HLEN or skb_gro_header(skb, thlen) < 0:
        cb.flush = 1
        return None
    at = skb_gro_header(skb, thlen)
    skb_gro_pull(skb, thlen)
    length = skb_gro_len(skb)
    head, flags = skb.head, skb.head[at + 13]
    mss, found = 1, None
    for p in held:
        if gro_cb(p).same_flow:
            other = p.data + off
            if p.head[other : other + 4] == head[at : at + 4]:         # the ports
                found = p
                break
            gro_cb(p).same_flow = False
    if found is not None:
        mss = found.shinfo.gso_size
        if _continues(found, skb, found.data + off, at, thlen, length) and skb_gro_receive(found, skb):
            found.head[found.data + off + 13] |= flags & (FIN | PSH)
        else:
            mss = 1
    flush = length < mss or bool(flags & (URG | PSH | RST | SYN | FIN))
    if not length or flags & (URG | RST | SYN):
        cb.flush = 1
    cb.flush |= flush
    return found if found is not None and (not cb.same_flow or flush) else None


@notrace
def _continues(p: SkBuff, skb: SkBuff, other: int, at: int, thlen: int, length: int) -> bool:
    """The headers agree but for what must differ, and the bytes follow."""
    pcb, head, phead = gro_cb(p), skb.head, p.head
    flags = head[at + 13]
    seq = int.from_bytes(phead[other + 4 : other + 8], "big") + skb_gro_len(p) & 0xFFFFFFFF
    if pcb.flush or flags & CWR or (flags ^ phead[other + 13]) & ~(CWR | FIN | PSH) & 0xFF:
        return False
    if head[at + 8 : at + 13] != phead[other + 8 : other + 13]:                 # ack_seq and the header's length
        return False
    if head[at + TCP_HLEN : at + thlen] != phead[other + TCP_HLEN : other + thlen]:
        return False
    if pcb.flush_id != 1 or pcb.count != 1 or not pcb.is_atomic:
        if pcb.flush_id:
            return False
    else:
        pcb.is_atomic = False                    # its ids are all the same: allowed with DF
    return 0 < length <= p.shinfo.gso_size and seq == int.from_bytes(head[at + 4 : at + 8], "big")


def tcp4_gro_complete(skb: SkBuff, thoff: int) -> None:
    """->gro_complete(): the packet looks as if it had been sent that big."""
    at = skb.data + thoff
    skb.transport_header = at
    skb.head[at + TCP_CHECK : at + TCP_CHECK + 2] = _pseudo(skb, skb.len - thoff)
    skb.shinfo.gso_type |= SKB_GSO_TCPV4
    tcp_gro_complete(skb)


def tcp_gro_complete(skb: SkBuff) -> None:
    skb.csum_start, skb.csum_offset = skb.transport_header, TCP_CHECK
    skb.ip_summed = CHECKSUM_PARTIAL
    skb.shinfo.gso_segs = gro_cb(skb).count


def tcpv4_offload_init(kernel: Kernel) -> None:
    assert kernel.inet is not None
    kernel.inet.offloads[IPPROTO_TCP] = NetOffload(tcp4_gso_segment, tcp4_gro_receive, tcp4_gro_complete)
