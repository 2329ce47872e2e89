"""What ICMP tells about a connection.

Linux: net/ipv4/tcp_ipv4.c, tcp_input.c: tcp_simple_retransmit() (5.3). Same: soft errors are remembered until the
connection times out, except while it is being opened; a smaller MTU sends again what was too big; RFC 6069.
Context: softirq; tcp_v4_mtu_reduced also as the owner.
"""
from __future__ import annotations

from struct import unpack_from
from typing import TYPE_CHECKING

from glasskernel.kernel.time.types import HZ
from glasskernel.lib.errno import EHOSTUNREACH, EMSGSIZE, EPROTO
from glasskernel.lib.types import notrace
from glasskernel.net.core.dst import dst_mtu
from glasskernel.net.core.sock import sock_hold, sock_put
from glasskernel.net.core.sock_dst import __sk_dst_check
from glasskernel.net.ipv4.icmp_convert import ICMP_ERR_CONVERT
from glasskernel.net.ipv4.inet_connection_sock import (
    inet_csk_reqsk_queue_drop,
    inet_csk_reset_xmit_timer,
    reqsk_put,
)
from glasskernel.net.ipv4.inet_hashtables import __inet_lookup_established
from glasskernel.net.ipv4.inet_timewait_sock import inet_twsk_put
from glasskernel.net.ipv4.tcp_output import tcp_rto_delta_us
from glasskernel.net.ipv4.tcp_recovery import tcp_mark_skb_lost
from glasskernel.net.ipv4.tcp_retransmit import tcp_xmit_retransmit_queue
from glasskernel.net.ipv4.tcp_state import tcp_done
from glasskernel.net.ipv4.tcp_types import (
    ICSK_TIME_RETRANS,
    TCP_MTU_REDUCED_DEFERRED,
    TCP_RTO_MAX,
    TCP_TIMEOUT_INIT,
    between,
)
from glasskernel.net.ipv4.tcp_window import tcp_current_mss, tcp_mstamp_refresh, tcp_sync_mss
from glasskernel.net.types import (
    TCP_CLOSE,
    TCP_LISTEN,
    TCP_NEW_SYN_RECV,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCP_TIME_WAIT,
)

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import TcpSock
    from glasskernel.net.skbuff import SkBuff

ICMP_DEST_UNREACH, ICMP_SOURCE_QUENCH, ICMP_REDIRECT, ICMP_TIME_EXCEEDED, ICMP_PARAMETERPROB = 3, 4, 5, 11, 12
ICMP_FRAG_NEEDED, ICMP_NET_UNREACH, ICMP_HOST_UNREACH = 4, 0, 1
IP_PMTUDISC_DONT, IP_PMTUDISC_INTERFACE = 0, 4

def tcp_v4_mtu_reduced(sk: TcpSock) -> None:
    """A router told a smaller MTU: what was too big is sent again."""
    mtu = sk.mtu_info
    dst = sk.sk_dst_cache
    if dst is None or sk.sk_state == TCP_CLOSE:
        return
    dst.ops.update_pmtu(dst, sk, None, mtu)
    if __sk_dst_check(sk, 0) is None:
        return
    if mtu < dst_mtu(dst) and sk.pmtudisc != IP_PMTUDISC_DONT:
        sk.sk_err_soft = EMSGSIZE
    mtu = dst_mtu(dst)
    if sk.pmtudisc not in (IP_PMTUDISC_DONT, IP_PMTUDISC_INTERFACE) and sk.icsk_pmtu_cookie > mtu:
        tcp_sync_mss(sk, mtu)
        tcp_simple_retransmit(sk)


def tcp_simple_retransmit(sk: TcpSock) -> None:
    """Segments that are longer than the MSS now count as lost."""
    mss = tcp_current_mss(sk)
    prior_lost = sk.lost_out
    for skb in sk.tcp_rtx_queue:
        if skb.len > mss and not skb.cb.sacked & 1:
            tcp_mark_skb_lost(sk, skb)
    if sk.lost_out != prior_lost:
        tcp_xmit_retransmit_queue(sk)


def tcp_v4_err(skb: SkBuff, info: int) -> None:
    """->err_handler(): ICMP about a segment of ours. Soft errors are remembered until the connection times out."""
    dev = skb.dev
    assert dev is not None
    net = dev.net
    head, at = skb.head, skb.data
    th = at + (head[at] & 15) * 4
    saddr, daddr = unpack_from(">II", head, at + 12)
    sport, dport, seq = unpack_from(">HHI", head, th)
    kind, code = head[skb.transport_header], head[skb.transport_header + 1]
    sk = __inet_lookup_established(net, daddr, dport, saddr, sport, skb.skb_iif)
    if sk is None:
        net.mib.icmp["InErrors"] += 1
        return
    if sk.sk_state == TCP_TIME_WAIT:
        inet_twsk_put(sk)
        return
    err = _icmp_errno(kind, code)
    if sk.sk_state == TCP_NEW_SYN_RECV:  # tcp_req_err(): the host of a SYN is not there
        if seq == sk.snt_isn and err and kind in (ICMP_PARAMETERPROB, ICMP_TIME_EXCEEDED, ICMP_DEST_UNREACH):
            inet_csk_reqsk_queue_drop(sk.rsk_listener, sk)
        reqsk_put(sk)
        return
    _icmp_for_sock(sk, kind, code, err, seq, info)
    sock_put(sk)


@notrace
def _icmp_errno(kind: int, code: int) -> int:
    if kind == ICMP_PARAMETERPROB:
        return EPROTO
    if kind == ICMP_DEST_UNREACH:
        return ICMP_ERR_CONVERT[code][0] if code < len(ICMP_ERR_CONVERT) else EHOSTUNREACH
    return EHOSTUNREACH if kind == ICMP_TIME_EXCEEDED else 0


@notrace
def _icmp_for_sock(sk: TcpSock, kind: int, code: int, err: int, seq: int, info: int) -> None:
    if sk.sk_state == TCP_CLOSE or not err:
        return
    mib = sk.sk_net.mib.net
    if sk.sk_lock_owned and not (kind == ICMP_DEST_UNREACH and code == ICMP_FRAG_NEEDED):
        mib["LockDroppedIcmps"] += 1
    if sk.sk_state != TCP_LISTEN and not between(seq, sk.snd_una, sk.snd_nxt):
        mib["OutOfWindowIcmps"] += 1
        return
    if kind == ICMP_DEST_UNREACH:
        if code == ICMP_FRAG_NEEDED:
            if sk.sk_state == TCP_LISTEN:
                return
            sk.mtu_info = info
            if not sk.sk_lock_owned:
                tcp_v4_mtu_reduced(sk)
            elif not sk.tsq_flags & TCP_MTU_REDUCED_DEFERRED:
                sk.tsq_flags |= TCP_MTU_REDUCED_DEFERRED
                sock_hold(sk)
            return
        if code in (ICMP_NET_UNREACH, ICMP_HOST_UNREACH) and not sk.sk_lock_owned:
            _revert_backoff(sk, seq)
    if sk.sk_state in (TCP_SYN_SENT, TCP_SYN_RECV):
        if not sk.sk_lock_owned:
            sk.sk_err = err
            sk.sk_error_report(sk)
            tcp_done(sk)
        else:
            sk.sk_err_soft = err
        return
    if not sk.sk_lock_owned and sk.recverr:              # a program that wants to know gets to know
        sk.sk_err = err
        sk.sk_error_report(sk)
    else:
        sk.sk_err_soft = err


@notrace
def _revert_backoff(sk: TcpSock, seq: int) -> None:
    """The timeout was for want of a way, not congestion (RFC 6069): the RTO doubles one time less."""
    if seq != sk.snd_una or not sk.icsk_retransmits or not sk.icsk_backoff or not sk.tcp_rtx_queue:
        return
    sk.icsk_backoff -= 1
    rto = (sk.srtt_us >> 3) + sk.rttvar_us
    sk.icsk_rto = min((rto * HZ // 1000000 if sk.srtt_us else TCP_TIMEOUT_INIT) << sk.icsk_backoff, TCP_RTO_MAX)
    tcp_mstamp_refresh(sk)
    remaining = tcp_rto_delta_us(sk)
    if remaining > 0:
        inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, remaining * HZ // 1000000 or 1, TCP_RTO_MAX)
