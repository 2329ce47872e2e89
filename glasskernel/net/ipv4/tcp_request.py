"""A SYN arrives at a listener.

Linux: net/ipv4/tcp_input.c: tcp_conn_request(), net/ipv4/tcp_ipv4.c, tcp_minisocks.c (5.3). Same: what is dropped when
the queues are full; the SYN-ACK is sent before anything but a request exists. Context: softirq, or the owner.
Gaps: SYN cookies (a full queue drops), Fast Open, TCP metrics (tcp_peer_is_proven).
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.lib.errno import EHOSTUNREACH, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.core.secure_seq import secure_tcp_seq, secure_tcp_ts_off
from glasskernel.net.ipv4.inet_connection_sock import (
    inet_csk_reqsk_queue_hash_add,
    inet_csk_route_req,
    inet_reqsk_alloc,
    reqsk_free,
    reqsk_put,
)
from glasskernel.net.ipv4.ip_output import ip_build_and_send_pkt
from glasskernel.net.ipv4.tcp_control import tcp_make_synack, tcp_openreq_init_rwin
from glasskernel.net.ipv4.tcp_parse import tcp_parse_options
from glasskernel.net.ipv4.tcp_transmit import __tcp_v4_send_check
from glasskernel.net.ipv4.tcp_types import TCP_MSS_DEFAULT, TCP_TIMEOUT_INIT, RequestSockOps, TcpOptionsReceived
from glasskernel.net.ipv4.types import RTCF_BROADCAST, RTCF_MULTICAST, Flowi4

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import RequestSock, TcpHdr, TcpSock
    from glasskernel.net.ipv4.types import Rtable
    from glasskernel.net.skbuff import SkBuff


@notrace
def ip_addresses(skb: SkBuff) -> tuple[int, int]:
    """(source, destination) of an IPv4 packet."""
    at = skb.network_header + 12
    return int.from_bytes(skb.head[at : at + 4], "big"), int.from_bytes(skb.head[at + 4 : at + 8], "big")


def tcp_v4_init_req(req: RequestSock, sk_listener: TcpSock, skb: SkBuff) -> None:
    """The addresses: ours is the one that the SYN was sent to."""
    req.inet_daddr, req.inet_rcv_saddr = ip_addresses(skb)


def tcp_v4_route_req(sk: TcpSock, fl4: Flowi4, req: RequestSock) -> Rtable | None:
    return inet_csk_route_req(sk, fl4, req)


def tcp_v4_init_seq(sk: TcpSock, req: RequestSock) -> int:
    return secure_tcp_seq(sk.sk_net, req.inet_rcv_saddr, req.inet_daddr, req.inet_num, req.inet_dport)


def tcp_v4_init_ts_off(sk: TcpSock, req: RequestSock) -> int:
    return secure_tcp_ts_off(sk.sk_net, req.inet_rcv_saddr, req.inet_daddr)


def tcp_v4_send_synack(sk: TcpSock, dst: Rtable | None, req: RequestSock) -> None:
    """The answer to a SYN. dst: a reference, which is used up; None: looked up. Raises what sending raises."""
    if dst is None:
        dst = inet_csk_route_req(sk, Flowi4(), req)
        if dst is None:
            raise KernelError(EHOSTUNREACH)
    skb = tcp_make_synack(sk, dst, req)
    __tcp_v4_send_check(skb, req.inet_rcv_saddr, req.inet_daddr)
    ip_build_and_send_pkt(skb, sk, req.inet_rcv_saddr, req.inet_daddr, b"")


def tcp_rtx_synack(sk: TcpSock, req: RequestSock) -> None:
    """The answer goes out again."""
    tcp_v4_send_synack(sk, None, req)
    mib = sk.sk_net.mib
    mib.tcp["RetransSegs"] += 1
    mib.net["TCPSynRetrans"] += 1
    sk.total_retrans += 1
    probe = sk.sk_net.kernel.tp.tcp_retransmit_synack
    if probe is not None:
        probe(sk, req)


def tcp_v4_reqsk_destructor(req: RequestSock) -> None:
    req.ireq_opt = b""


def tcp_syn_ack_timeout(req: RequestSock) -> None:
    req.sk_net.mib.net["TCPTimeouts"] += 1


@notrace
def tcp_openreq_init(req: RequestSock, rx_opt: TcpOptionsReceived, skb: SkBuff, th: TcpHdr) -> None:
    """What the SYN said."""
    seq = skb.cb.seq
    req.rcv_isn = seq
    req.rcv_nxt = seq + 1 & 0xFFFFFFFF
    req.mss = rx_opt.mss_clamp
    req.ts_recent = rx_opt.rcv_tsval if rx_opt.saw_tstamp else 0
    req.tstamp_ok = rx_opt.tstamp_ok
    req.sack_ok = bool(rx_opt.sack_ok)
    req.snd_wscale = rx_opt.snd_wscale
    req.wscale_ok = rx_opt.wscale_ok
    req.inet_dport = th.source
    req.inet_num = th.dest
    req.ir_mark = skb.mark


@notrace
def tcp_listendrop(sk: TcpSock) -> None:
    sk.sk_drops += 1
    sk.sk_net.mib.net["ListenDrops"] += 1


def tcp_conn_request(sk: TcpSock, skb: SkBuff, tw_isn: int) -> None:
    """A SYN: makes a request and answers. tw_isn: the number to begin with, where a connection was before; 0: any."""
    net = sk.sk_net
    mib = net.mib.net
    th = skb.cb.th
    if sk.icsk_accept_queue.qlen >= sk.sk_max_ack_backlog and not tw_isn:
        mib["TCPReqQFullDrop"] += 1
        tcp_listendrop(sk)
        return
    if sk.sk_ack_backlog > sk.sk_max_ack_backlog:
        mib["ListenOverflows"] += 1
        tcp_listendrop(sk)
        return
    req = inet_reqsk_alloc(tcp_request_sock_ops, sk)
    tmp_opt = TcpOptionsReceived()
    tmp_opt.mss_clamp = TCP_MSS_DEFAULT
    tmp_opt.user_mss = sk.rx_opt.user_mss
    tcp_parse_options(net, skb, th, tmp_opt, False)
    tmp_opt.tstamp_ok = tmp_opt.saw_tstamp
    tcp_openreq_init(req, tmp_opt, skb, th)
    req.ir_iif = sk.sk_bound_dev_if
    tcp_v4_init_req(req, sk, skb)
    if tmp_opt.tstamp_ok:
        req.ts_off = tcp_v4_init_ts_off(sk, req)
    backlog = net.ipv4.sysctl["tcp_max_syn_backlog"]
    if not tw_isn and backlog - sk.icsk_accept_queue.qlen < backlog >> 2 and not net.ipv4.sysctl["tcp_syncookies"]:
        dst = None                       # the last quarter is for hosts we know
    else:
        req.snt_isn = tw_isn or tcp_v4_init_seq(sk, req)
        dst = tcp_v4_route_req(sk, Flowi4(), req)
    if dst is None:
        reqsk_free(req)
        tcp_listendrop(sk)
        return
    tcp_openreq_init_rwin(req, sk, dst)
    inet_csk_reqsk_queue_hash_add(sk, req, TCP_TIMEOUT_INIT)
    with suppress(KernelError):          # its timer will try again
        tcp_v4_send_synack(sk, dst, req)
    reqsk_put(req)


def tcp_v4_conn_request(sk: TcpSock, skb: SkBuff) -> None:
    """A SYN to a broadcast or multicast address is never answered."""
    dst = skb.dst
    if dst is not None and dst.rt_flags & (RTCF_BROADCAST | RTCF_MULTICAST):
        tcp_listendrop(sk)
        return
    tcp_conn_request(sk, skb, skb.cb.tw_isn)


tcp_request_sock_ops = RequestSockOps(2, tcp_rtx_synack, tcp_v4_reqsk_destructor, tcp_syn_ack_timeout)
