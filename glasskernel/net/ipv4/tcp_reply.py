"""Answers without a connection: RST for nobody, ACK for timewait socks and requests.

Linux: net/ipv4/tcp_ipv4.c (5.3): tcp_v4_send_reset(), tcp_v4_send_ack(). Same: they are built from the packet they
answer and sent by a control sock. Context: softirq. Gaps: MD5.
"""
from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from glasskernel.lib.checksum import csum_tcpudp_nofold
from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.inet_timewait_sock import inet_twsk_put
from glasskernel.net.ipv4.ip_append import IpReplyArg, ip_send_unicast_reply
from glasskernel.net.ipv4.tcp_request import ip_addresses
from glasskernel.net.ipv4.tcp_types import TCPHDR_ACK, TCPHDR_RST
from glasskernel.net.ipv4.types import RTN_LOCAL

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import RequestSock, TcpSock, TimewaitSock
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net, Sock

_HEADER = Struct(">HHIIBBHHH")


@notrace
def _send(net: Net, skb: SkBuff, segment: bytes, oif: int, tos: int) -> None:
    """Back to where the packet came from, from where it went to."""
    saddr, daddr = ip_addresses(skb)
    arg = IpReplyArg(segment, csum_tcpudp_nofold(daddr, saddr, len(segment), 6, 0), 16, oif, tos)
    ip_send_unicast_reply(net.ipv4.tcp_sk, skb, saddr, daddr, arg)
    net.mib.tcp["OutSegs"] += 1


def tcp_v4_send_reset(sk: Sock | None, skb: SkBuff) -> None:
    """Nobody wants this packet: its sender shall give up. Never answers an RST."""
    tcb = skb.cb
    th = tcb.th
    if th.flags & TCPHDR_RST:
        return
    dst = skb.dst
    if sk is None and (dst is None or dst.rt_type != RTN_LOCAL):
        return
    net = sk.sk_net if sk is not None else dst.dev.net
    if th.flags & TCPHDR_ACK:
        seq, ack, flags = th.ack_seq, 0, TCPHDR_RST
    else:
        syn_fin = (th.flags & 1) + (th.flags >> 1 & 1)
        seq, flags = 0, TCPHDR_RST | TCPHDR_ACK
        ack = th.seq + syn_fin + tcp_payload_len(skb, th.doff) & 0xFFFFFFFF
    segment = _HEADER.pack(th.dest, th.source, seq, ack, 5 << 4, flags, 0, 0, 0)
    probe = net.kernel.tp.tcp_send_reset
    if probe is not None and sk is not None:
        probe(sk, skb)
    _send(net, skb, segment, sk.sk_bound_dev_if if sk is not None else 0, 0)
    net.mib.tcp["OutRsts"] += 1


@notrace
def tcp_payload_len(skb: SkBuff, doff: int) -> int:
    """Bytes of data, from the IP header: skb.data may be behind the TCP header already."""
    at = skb.network_header
    total = int.from_bytes(skb.head[at + 2 : at + 4], "big")
    return total - (skb.head[at] & 15) * 4 - doff


def tcp_v4_send_ack(sk: Sock, skb: SkBuff, seq: int, ack: int, win: int, tsval: int, tsecr: int, oif: int,
                    tos: int) -> None:
    th = skb.cb.th
    options = b""
    if tsecr:
        options = b"\x01\x01\x08\x0a" + (tsval & 0xFFFFFFFF).to_bytes(4, "big") + tsecr.to_bytes(4, "big")
    segment = _HEADER.pack(th.dest, th.source, seq, ack, 20 + len(options) << 2, TCPHDR_ACK, min(win, 65535), 0, 0)
    _send(sk.sk_net, skb, segment + options, oif, tos)


@notrace
def _tcp_time_stamp_raw(sk: Sock) -> int:
    return sk.sk_net.kernel.machine.now() // 1000000


def tcp_v4_timewait_ack(tw: TimewaitSock, skb: SkBuff) -> None:
    """The reference is used up."""
    tcp_v4_send_ack(tw, skb, tw.tw_snd_nxt, tw.tw_rcv_nxt, tw.tw_rcv_wnd >> tw.tw_rcv_wscale,
                    _tcp_time_stamp_raw(tw) + tw.tw_ts_offset, tw.tw_ts_recent, tw.sk_bound_dev_if, tw.tw_tos)
    inet_twsk_put(tw)


def tcp_v4_reqsk_send_ack(sk: TcpSock, skb: SkBuff, req: RequestSock) -> None:
    seq = req.snt_isn + 1 & 0xFFFFFFFF
    tcp_v4_send_ack(sk, skb, seq, req.rcv_nxt, req.rsk_rcv_wnd >> req.rcv_wscale, _tcp_time_stamp_raw(sk) + req.ts_off,
                    req.ts_recent, 0, sk.tos)
