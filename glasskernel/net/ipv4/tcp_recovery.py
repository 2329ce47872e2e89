"""RACK: a segment is lost when one that was sent later has arrived, and a bit of time for reordering is over.

Linux: net/ipv4/tcp_recovery.c (5.3), RFC 8985. Same: the reordering window, which DSACKs widen; NewReno without SACK.
Differs: looks at the whole retransmit queue (Linux: a list by time of sending).
Locks: sk's owner, or softirq while nobody owns it. Gaps: tcp_recovery=0 (losses by counting duplicate ACKs).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.time.timekeeping import usecs_to_jiffies
from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.inet_connection_sock import inet_csk_reset_xmit_timer
from glasskernel.net.ipv4.tcp_output import tcp_fragment
from glasskernel.net.ipv4.tcp_types import (
    ICSK_TIME_REO_TIMEOUT,
    TCP_TIMEOUT_MIN,
    TCPCB_LOST,
    TCPCB_RETRANS,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    TCP_CA_Recovery,
    after,
    tcp_min_rtt,
)

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import RateSample, TcpSock
    from glasskernel.net.skbuff import SkBuff

TCP_RACK_RECOVERY_THRESH = 16


def tcp_mark_skb_lost(sk: TcpSock, skb: SkBuff) -> None:
    """A segment, or its retransmission, is lost."""
    tcb = skb.cb
    if not tcb.sacked & (TCPCB_LOST | TCPCB_SACKED_ACKED):
        sk.lost_out += tcb.tcp_gso_segs
        sk.lost += tcb.tcp_gso_segs
        tcb.sacked |= TCPCB_LOST
    elif tcb.sacked & TCPCB_SACKED_RETRANS:
        sk.lost += tcb.tcp_gso_segs
    if tcb.sacked & TCPCB_SACKED_RETRANS:
        tcb.sacked &= ~TCPCB_SACKED_RETRANS
        sk.retrans_out -= tcb.tcp_gso_segs
        sk.sk_net.mib.net["TCPLostRetransmit"] += tcb.tcp_gso_segs


@notrace
def tcp_rack_sent_after(t1: int, t2: int, seq1: int, seq2: int) -> bool:
    return t1 > t2 or (t1 == t2 and after(seq1, seq2))


@notrace
def tcp_rack_reo_wnd(sk: TcpSock) -> int:
    """us"""
    if not sk.reord_seen and (sk.icsk_ca_state >= TCP_CA_Recovery or sk.sacked_out >= sk.reordering):
        return 0                         # no reordering was ever seen: three duplicates are enough
    return min((tcp_min_rtt(sk) >> 2) * sk.rack_reo_wnd_steps, sk.srtt_us >> 3)


def tcp_rack_skb_timeout(sk: TcpSock, skb: SkBuff, reo_wnd: int) -> int:
    """us until the segment counts as lost"""
    sent: int = skb.cb.skb_mstamp_ns // 1000
    return sk.rack_rtt_us + reo_wnd - (sk.tcp_mstamp - sent)


def tcp_rack_detect_loss(sk: TcpSock) -> int:
    """Marks what is lost. Answers the us until more may be."""
    reo_wnd = tcp_rack_reo_wnd(sk)
    reo_timeout = 0
    for skb in sk.tcp_rtx_queue:
        tcb = skb.cb
        if tcb.sacked & TCPCB_SACKED_ACKED or (tcb.sacked & TCPCB_LOST and not tcb.sacked & TCPCB_SACKED_RETRANS):
            continue
        if not tcp_rack_sent_after(sk.rack_mstamp, tcb.skb_mstamp_ns // 1000, sk.rack_end_seq, tcb.end_seq):
            continue
        remaining = tcp_rack_skb_timeout(sk, skb, reo_wnd)
        if remaining <= 0:
            tcp_mark_skb_lost(sk, skb)
        else:
            reo_timeout = max(reo_timeout, remaining)
    return reo_timeout


def tcp_rack_mark_lost(sk: TcpSock) -> None:
    """An ACK has told what arrived."""
    if not sk.rack_advanced:
        return
    sk.rack_advanced = False
    timeout = tcp_rack_detect_loss(sk)
    if timeout:
        inet_csk_reset_xmit_timer(sk, ICSK_TIME_REO_TIMEOUT, usecs_to_jiffies(timeout) + TCP_TIMEOUT_MIN, sk.icsk_rto)


def tcp_rack_advance(sk: TcpSock, sacked: int, end_seq: int, xmit_time: int) -> None:
    """A segment arrived that was sent at xmit_time (us)."""
    rtt_us = sk.tcp_mstamp - xmit_time
    if rtt_us < tcp_min_rtt(sk) and sacked & TCPCB_RETRANS:
        return                           # too fast: the ACK is for the original
    sk.rack_advanced = True
    sk.rack_rtt_us = rtt_us
    if tcp_rack_sent_after(xmit_time, sk.rack_mstamp, end_seq, sk.rack_end_seq):
        sk.rack_mstamp = xmit_time
        sk.rack_end_seq = end_seq


def tcp_rack_update_reo_wnd(sk: TcpSock, rs: RateSample) -> None:
    """DSACKs say that we were too fast: wait longer, for 16 recoveries."""
    if not rs.prior_delivered:
        return
    if rs.prior_delivered < sk.rack_last_delivered:
        sk.rack_dsack_seen = False
    if sk.rack_dsack_seen:
        sk.rack_reo_wnd_steps = min(sk.rack_reo_wnd_steps + 1, 0xFF)
        sk.rack_dsack_seen = False
        sk.rack_last_delivered = sk.delivered
        sk.rack_reo_wnd_persist = TCP_RACK_RECOVERY_THRESH
    elif not sk.rack_reo_wnd_persist:
        sk.rack_reo_wnd_steps = 1


def tcp_newreno_mark_lost(sk: TcpSock, snd_una_advanced: bool) -> None:
    """Without SACK: the first segment is lost after three duplicates, and at each partial ACK."""
    state = sk.icsk_ca_state
    if (state < TCP_CA_Recovery and sk.sacked_out >= sk.reordering) or (state == TCP_CA_Recovery and snd_una_advanced):
        skb = sk.tcp_rtx_queue[0]
        if skb.cb.sacked & TCPCB_LOST:
            return
        mss = sk.mss_cache
        if skb.cb.tcp_gso_segs > 1 and skb.len > mss:
            tcp_fragment(sk, skb, mss, mss, True)
        tcp_mark_skb_lost(sk, skb)
