"""Putting packets together that were cut on the way.

Linux: net/ipv4/ip_fragment.c, net/ipv4/inet_fragment.c (5.3). Same: what belongs together, the time limit and who
is told when it is over, the memory limit; overlapping pieces throw the whole packet away, one that came twice does not.
Differs: a sorted list instead of an rb-tree of runs; the whole packet gets the pieces as its fragments.
Owns: NetnsIpv4.frags.  Gaps: max_dist (pieces of many packets from one sender).
Invariant: a queue is in frags.queues until it is complete, thrown away or too old; its timer runs as long.
Context: softirq.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.time.timer import del_timer, mod_timer
from glasskernel.kernel.time.types import HZ, TimerList
from glasskernel.lib.checksum import ip_fast_csum
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.fib_semantics import inet_of
from glasskernel.net.ipv4.route_input import ip_route_input_noref
from glasskernel.net.ipv4.types import IP_MF, IP_OFFSET
from glasskernel.net.skbuff import (
    CHECKSUM_COMPLETE,
    CHECKSUM_NONE,
    SkBuff,
    ___pskb_trim,
    kfree_skb,
    pskb_expand_head,
    skb_add_data_frag,
    skb_copy_bits,
    skb_dst_drop,
)

if TYPE_CHECKING:
    from glasskernel.net.types import Net

INET_FRAG_FIRST_IN, INET_FRAG_LAST_IN, INET_FRAG_COMPLETE = 1, 2, 4
ICMP_TIME_EXCEEDED, ICMP_EXC_FRAGTIME = 11, 1

Key = tuple[int, int, int, int, int]     # saddr, daddr, id, protocol, user


@slotted
class Ipq:
    """struct ipq: the pieces of one packet, by offset. len: of the whole, once known; meat: bytes that are here."""

    key: Key
    net: Net
    timer: TimerList = None  # type: ignore[assignment]
    fragments: list[tuple[int, int, SkBuff]] = field(default_factory=list)       # (offset, end, piece)
    len: int = 0
    meat: int = 0
    flags: int = 0
    mem: int = 0
    iif: int = 0
    ecn: int = 0
    max_size: int = 0
    max_df_size: int = 0


@slotted
class IpFrags:
    """struct fqdir, of a namespace. mem: bytes in all queues. timeout in jiffies."""

    queues: dict[Key, Ipq] = field(default_factory=dict)
    mem: int = 0
    high_thresh: int = 4 << 20
    low_thresh: int = 3 << 20
    timeout: int = 30 * HZ
    max_dist: int = 64


def ip_defrag(net: Net, skb: SkBuff, user: int) -> SkBuff | None:
    """Takes a piece; answers the whole packet when this was the last one that was missing."""
    net.mib.ip["ReasmReqds"] += 1
    qp = ip_find(net, skb, user)
    if qp is None:
        net.mib.ip["ReasmFails"] += 1
        kfree_skb(skb)
        return None
    return ip_frag_queue(qp, skb)


@notrace
def ip_find(net: Net, skb: SkBuff, user: int) -> Ipq | None:
    """The queue of the packet that the piece belongs to; None: there is no more room."""
    frags: IpFrags = net.ipv4.frags
    head, at = skb.head, skb.network_header
    key = (int.from_bytes(head[at + 12 : at + 16], "big"), int.from_bytes(head[at + 16 : at + 20], "big"),
           head[at + 4] << 8 | head[at + 5], head[at + 9], user)
    qp = frags.queues.get(key)
    if qp is None:
        if not frags.high_thresh or frags.mem > frags.high_thresh:
            return None
        qp = frags.queues[key] = Ipq(key, net)
        qp.timer = TimerList(ip_expire, qp)
        mod_timer(qp.timer, register.task.kernel.time.jiffies + frags.timeout)
    return qp


def ip_frag_queue(qp: Ipq, skb: SkBuff) -> SkBuff | None:
    """Puts a piece into its place."""
    net = qp.net
    head, at = skb.head, skb.network_header
    frag_off = head[at + 6] << 8 | head[at + 7]
    ihl = (head[at] & 0xF) * 4
    offset = (frag_off & IP_OFFSET) << 3
    end = offset + skb.len - ihl
    if not frag_off & IP_MF:
        if end < qp.len or (qp.flags & INET_FRAG_LAST_IN and end != qp.len):
            return _discard(qp, skb)
        qp.flags |= INET_FRAG_LAST_IN
        qp.len = end
    else:
        if end & 7:
            end &= ~7
        if end > qp.len:
            if qp.flags & INET_FRAG_LAST_IN:
                return _discard(qp, skb)
            qp.len = end
    if end == offset:
        return _discard(qp, skb)
    ___pskb_trim(skb, ihl + end - offset)
    if skb.ip_summed == CHECKSUM_COMPLETE:
        skb.ip_summed = CHECKSUM_NONE
    place = inet_frag_queue_insert(qp, offset, end)
    if place is None:                    # we have it already
        kfree_skb(skb)
        return None
    if place < 0:
        net.mib.ip_ext["ReasmOverlaps"] += 1
        return _discard(qp, skb)
    qp.iif = skb.skb_iif
    qp.meat += end - offset
    qp.ecn |= 1 << (head[at + 1] & 3)
    qp.mem += skb.truesize
    net.ipv4.frags.mem += skb.truesize
    qp.max_size = max(qp.max_size, skb.len)
    if frag_off & 0x4000:
        qp.max_df_size = max(qp.max_df_size, skb.len)
    if not offset:
        qp.flags |= INET_FRAG_FIRST_IN
    qp.fragments.insert(place, (offset, end, skb))
    if qp.flags == INET_FRAG_FIRST_IN | INET_FRAG_LAST_IN and qp.meat == qp.len:
        return ip_frag_reasm(qp, skb)
    skb_dst_drop(skb)
    return None


def inet_frag_queue_insert(qp: Ipq, offset: int, end: int) -> int | None:
    """Where the piece belongs in the list. None: it is there already; -1: it overlaps others."""
    fragments = qp.fragments
    place = len(fragments)
    while place and fragments[place - 1][0] >= end:
        place -= 1
    if place and fragments[place - 1][1] > offset:
        first, last, _ = fragments[place - 1]
        return None if first <= offset and end <= last else -1
    return place


def ip_frag_reasm(qp: Ipq, last: SkBuff) -> SkBuff | None:
    """The whole packet: the first piece, with the bytes of the others behind it."""
    net = qp.net
    dst, last.dst = last.dst, None
    inet_frag_kill(qp)
    first = qp.fragments[0][2]
    at = first.network_header
    ihl = (first.head[at] & 0xF) * 4
    total = ihl + qp.len
    if total > 65535 or not ip_frag_ecn_ok(qp.ecn):
        net.mib.ip["ReasmFails"] += 1
        if dst is not None:
            dst.release()
        _free_fragments(qp)
        return None
    if first.shinfo.dataref != 1:
        pskb_expand_head(first, 0, 0)
    for _, _, skb in qp.fragments[1:]:
        skb_add_data_frag(first, skb_copy_bits(skb, (skb.head[skb.network_header] & 0xF) * 4,
                                               skb.len - (skb.head[skb.network_header] & 0xF) * 4))
        kfree_skb(skb)
    head = first.head
    head[at + 2 : at + 4] = total.to_bytes(2, "big")
    head[at + 6 : at + 8] = b"\x40\0" if qp.max_df_size == qp.max_size else b"\0\0"
    if qp.ecn & 8:
        head[at + 1] |= 3                # somebody on the way was congested
    head[at + 10 : at + 12] = b"\0\0"
    head[at + 10 : at + 12] = ip_fast_csum(memoryview(head)[at : at + ihl]).to_bytes(2, "big")
    first.ip_summed = CHECKSUM_NONE
    first.dev = last.dev
    first.dst = dst
    net.mib.ip["ReasmOKs"] += 1
    return first


@notrace
def ip_frag_ecn_ok(ecn: int) -> bool:
    """ip_frag_ecn_table[]: pieces without ECN do not mix with marked ones."""
    return not (ecn & 1 and ecn & 8)


def inet_frag_kill(qp: Ipq) -> None:
    """The queue gets no more pieces."""
    del_timer(qp.timer)
    qp.flags |= INET_FRAG_COMPLETE
    frags: IpFrags = qp.net.ipv4.frags
    if frags.queues.get(qp.key) is qp:
        del frags.queues[qp.key]
    frags.mem -= qp.mem
    qp.mem = 0


@notrace
def _free_fragments(qp: Ipq) -> None:
    for _, _, skb in qp.fragments:
        kfree_skb(skb)
    qp.fragments.clear()


@notrace
def _discard(qp: Ipq, skb: SkBuff) -> None:
    """Something is wrong with the whole packet."""
    inet_frag_kill(qp)
    qp.net.mib.ip["ReasmFails"] += 1
    _free_fragments(qp)
    kfree_skb(skb)


def ip_expire(timer: TimerList) -> None:
    """The rest did not come. The sender is told if we can show him the first piece."""
    qp: Ipq = timer.data
    net = qp.net
    inet_frag_kill(qp)
    net.mib.ip["ReasmFails"] += 1
    net.mib.ip["ReasmTimeout"] += 1
    dev = net.dev_by_index.get(qp.iif)
    if qp.flags & INET_FRAG_FIRST_IN and dev is not None:
        head = qp.fragments[0][2]
        head.dev = dev
        at = head.network_header
        err = ip_route_input_noref(head, int.from_bytes(head.head[at + 16 : at + 20], "big"),
                                   int.from_bytes(head.head[at + 12 : at + 16], "big"), head.head[at + 1], dev)
        if not err:
            inet_of(net).paths.icmp_send(head, ICMP_TIME_EXCEEDED, ICMP_EXC_FRAGTIME, 0)
    _free_fragments(qp)


@notrace
def ipv4_frags_init_net(net: Net) -> None:
    net.ipv4.frags = IpFrags()


@notrace
def ipv4_frags_exit_net(net: Net) -> None:
    """The namespace goes: so do the pieces that wait."""
    for qp in list(net.ipv4.frags.queues.values()):
        inet_frag_kill(qp)
        _free_fragments(qp)
