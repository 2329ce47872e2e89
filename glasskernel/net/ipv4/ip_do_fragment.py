"""Cutting packets that are bigger than the link allows.

Linux: net/ipv4/ip_output.c: ip_do_fragment, ip_frag_next (5.3). Same: what each piece's header says, options that are
copied into all pieces or not. Differs: a file of its own; pieces are always new packets.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.lib.checksum import ip_fast_csum
from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.types import IP_MF, IP_OFFSET, Rtable
from glasskernel.net.skbuff import (
    CHECKSUM_PARTIAL,
    SkBuff,
    alloc_skb,
    consume_skb,
    skb_add_data_frag,
    skb_checksum_help,
    skb_copy_bits,
    skb_dst_set,
    skb_put_data,
    skb_reserve,
)

if TYPE_CHECKING:
    from glasskernel.net.types import Net, Sock


def ip_do_fragment(net: Net, sk: Sock | None, skb: SkBuff, output: Callable[[Net, Sock | None, SkBuff], int]) -> int:
    """Sends the packet in pieces through output(net, sk, piece); frees it. 0 or what the first failure answered."""
    rt: Rtable = skb.dst
    if skb.ip_summed == CHECKSUM_PARTIAL:
        skb_checksum_help(skb)
    at = skb.network_header
    hlen = (skb.head[at] & 0xF) * 4
    header = bytes(skb.head[at : at + hlen])
    room = rt.ops.mtu(rt) - hlen & ~7
    offset, left, err = 0, skb.len - hlen, 0
    while left and not err:
        size = left if left <= room else room
        piece = ip_frag_next(skb, header, offset, size, left > size)
        left -= size
        offset += size
        if offset == size:
            header = ip_options_fragment(header)
        err = output(net, sk, piece)
        if not err:
            net.mib.ip["FragCreates"] += 1
    net.mib.ip["FragFails" if err else "FragOKs"] += 1
    consume_skb(skb)
    return err


@notrace
def ip_frag_next(skb: SkBuff, header: bytes, offset: int, size: int, more: bool) -> SkBuff:
    """The piece of `size` bytes behind the header at `offset`."""
    hlen = len(header)
    rt: Rtable = skb.dst
    room = rt.dev.hard_header_len + 16
    piece = alloc_skb(room + hlen)
    skb_reserve(piece, room)
    piece.network_header = piece.data
    piece.transport_header = piece.data + hlen
    skb_put_data(piece, header)
    skb_add_data_frag(piece, skb_copy_bits(skb, hlen + offset, size))
    ip_copy_metadata(piece, skb)
    at = piece.network_header
    frag_off = header[6] << 8 | header[7]
    field = (frag_off & ~(IP_MF | IP_OFFSET)) | ((frag_off & IP_OFFSET) + (offset >> 3))
    if more or frag_off & IP_MF:
        field |= IP_MF
    piece.head[at + 6 : at + 8] = field.to_bytes(2, "big")
    piece.head[at + 2 : at + 4] = (hlen + size).to_bytes(2, "big")
    piece.head[at + 10 : at + 12] = b"\0\0"
    piece.head[at + 10 : at + 12] = _header_checksum(piece, at, hlen)
    return piece


@notrace
def _header_checksum(skb: SkBuff, at: int, hlen: int) -> bytes:
    return ip_fast_csum(memoryview(skb.head)[at : at + hlen]).to_bytes(2, "big")


@notrace
def ip_copy_metadata(to: SkBuff, skb: SkBuff) -> None:
    """What a piece has from the whole."""
    to.pkt_type, to.priority, to.protocol, to.dev, to.mark = skb.pkt_type, skb.priority, skb.protocol, skb.dev, skb.mark
    to.skb_iif = skb.skb_iif
    to.cb = skb.cb
    skb.dst.hold()
    skb_dst_set(to, skb.dst)


@notrace
def ip_options_fragment(header: bytes) -> bytes:
    """The header of all pieces but the first: options that are not to be copied become NOPs."""
    options, at = bytearray(header[20:]), 0
    while at < len(options) and options[at]:
        length = 1 if options[at] == 1 else options[at + 1]
        if not options[at] & 0x80:
            options[at : at + length] = b"\1" * length
        at += length
    return header[:20] + bytes(options)
