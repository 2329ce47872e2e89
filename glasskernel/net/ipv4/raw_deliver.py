"""Raw sockets get a copy of every packet of their protocol.

Linux: net/ipv4/raw.c: raw_local_deliver, raw_v4_input (5.3). Differs: a file of its own, below IP's input; the rest of
raw.c is above it (raw.py), which gives the functions that copies and errors go to: RawTable.rcv, err.
Owns: NetnsIpv4.raw.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.fib_lookup import ipv4_is_multicast
from glasskernel.net.skbuff import SkBuff, skb_clone

if TYPE_CHECKING:
    from glasskernel.net.ipv4.types import InetSock


@slotted
class RawTable:
    """struct raw_hashinfo of a namespace. ht: protocol -> its sockets, the newest first. rcv: raw_rcv()."""

    rcv: Callable[[InetSock, SkBuff], int]
    err: Callable[[InetSock, SkBuff, int], None]
    icmp_filter: Callable[[InetSock, SkBuff], bool]
    ht: dict[int, list[InetSock]] = field(default_factory=dict)


def raw_local_deliver(skb: SkBuff, protocol: int) -> bool:
    """True if there was somebody. The packet stays the caller's."""
    dev = skb.dev
    assert dev is not None
    table: RawTable | None = dev.net.ipv4.raw
    if table is None or not table.ht.get(protocol):
        return False
    return raw_v4_input(table, skb, protocol)


def raw_v4_input(table: RawTable, skb: SkBuff, protocol: int) -> bool:
    """A clone for every socket whose addresses fit and whose filter lets it through."""
    at = skb.network_header
    saddr = int.from_bytes(skb.head[at + 12 : at + 16], "big")
    daddr = int.from_bytes(skb.head[at + 16 : at + 20], "big")
    delivered = False
    for sk in list(table.ht[protocol]):
        if raw_v4_match(sk, daddr, saddr, skb.skb_iif):
            delivered = True
            if not table.icmp_filter(sk, skb) and _wants_group(sk, daddr):
                table.rcv(sk, skb_clone(skb))
    return delivered


def raw_icmp_error(skb: SkBuff, protocol: int, info: int) -> None:
    """An ICMP error about a packet that a raw socket may have sent; skb.data is at its IP header."""
    dev = skb.dev
    assert dev is not None
    table: RawTable | None = dev.net.ipv4.raw
    if table is None:
        return
    at = skb.data
    saddr = int.from_bytes(skb.head[at + 12 : at + 16], "big")
    daddr = int.from_bytes(skb.head[at + 16 : at + 20], "big")
    for sk in list(table.ht.get(protocol, ())):
        if raw_v4_match(sk, saddr, daddr, skb.skb_iif):
            table.err(sk, skb, info)


@notrace
def raw_v4_match(sk: InetSock, raddr: int, laddr: int, dif: int) -> bool:
    """raddr: the packet's destination; laddr: its source."""
    return ((not sk.inet_daddr or sk.inet_daddr == laddr) and (not sk.inet_rcv_saddr or sk.inet_rcv_saddr == raddr)
            and (not sk.sk_bound_dev_if or sk.sk_bound_dev_if == dif))


@notrace
def _wants_group(sk: InetSock, daddr: int) -> bool:
    """ip_mc_sf_allow(), without sources: a member, or one who takes all groups."""
    return not ipv4_is_multicast(daddr) or sk.mc_all or any(mc.multiaddr == daddr for mc in sk.mc_list)
