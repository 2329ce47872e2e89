"""Round trips: how long they take, the timeout that follows from it, how fast data is delivered.

Linux: net/ipv4/tcp_input.c, tcp_rate.c (5.3). Same: RFC 6298 in fixed point (srtt << 3, mdev << 2 us), the least
of 5 minutes, delivery rate samples. Locks: sk's owner, or softirq while nobody owns it.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.time.timekeeping import usecs_to_jiffies
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.tcp_types import (
    FLAG_ACKED,
    TCP_RTO_MAX,
    TCP_RTO_MIN,
    after,
    minmax_running_min,
    tcp_packets_in_flight,
)
from glasskernel.net.ipv4.tcp_window import tcp_time_stamp

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import RateSample, TcpSock
    from glasskernel.net.skbuff import SkBuff

RTO_MIN_US = TCP_RTO_MIN * (1000000 // HZ)


@notrace
def tcp_rtt_estimator(sk: TcpSock, mrtt_us: int) -> None:
    """One more measurement: smoothed average, and how far measurements lie from it."""
    srtt = sk.srtt_us
    m = mrtt_us
    if srtt:
        m -= srtt >> 3
        srtt += m
        if m < 0:                        # a shorter time makes the deviation grow less
            m = -m - (sk.mdev_us >> 2)
            if m > 0:
                m >>= 3
        else:
            m -= sk.mdev_us >> 2
        sk.mdev_us += m
        if sk.mdev_us > sk.mdev_max_us:
            sk.mdev_max_us = sk.mdev_us
            if sk.mdev_max_us > sk.rttvar_us:
                sk.rttvar_us = sk.mdev_max_us
        if after(sk.snd_una, sk.rtt_seq):                # once per round trip
            if sk.mdev_max_us < sk.rttvar_us:
                sk.rttvar_us -= sk.rttvar_us - sk.mdev_max_us >> 2
            sk.rtt_seq = sk.snd_nxt
            sk.mdev_max_us = RTO_MIN_US
    else:
        srtt = m << 3
        sk.mdev_us = m << 1
        sk.rttvar_us = max(sk.mdev_us, RTO_MIN_US)
        sk.mdev_max_us = sk.rttvar_us
        sk.rtt_seq = sk.snd_nxt
    sk.srtt_us = max(srtt, 1)


@notrace
def tcp_set_rto(sk: TcpSock) -> None:
    sk.icsk_rto = min(usecs_to_jiffies((sk.srtt_us >> 3) + sk.rttvar_us), TCP_RTO_MAX)


@notrace
def tcp_update_rtt_min(sk: TcpSock, rtt_us: int) -> None:
    kernel = register.task.kernel
    minmax_running_min(sk.rtt_min, sk.sk_net.ipv4.sysctl["tcp_min_rtt_wlen"] * HZ, kernel.time.jiffies, rtt_us or 1)


def tcp_ack_update_rtt(sk: TcpSock, flag: int, seq_rtt_us: int, sack_rtt_us: int, ca_rtt_us: int,
                       rs: RateSample) -> bool:
    """What an ACK tells about the round trip (-1: nothing). True if it told something."""
    if seq_rtt_us < 0:
        seq_rtt_us = sack_rtt_us
    # Retransmitted data says nothing (Karn), but its timestamp does.
    if seq_rtt_us < 0 and sk.rx_opt.saw_tstamp and sk.rx_opt.rcv_tsecr and flag & FLAG_ACKED:
        delta = tcp_time_stamp(sk) - sk.rx_opt.rcv_tsecr & 0xFFFFFFFF
        if delta < 0x7FFFFFFF // 1000:
            seq_rtt_us = ca_rtt_us = (delta or 1) * 1000
    rs.rtt_us = ca_rtt_us
    if seq_rtt_us < 0:
        return False
    tcp_update_rtt_min(sk, ca_rtt_us)
    tcp_rtt_estimator(sk, seq_rtt_us)
    tcp_set_rto(sk)
    sk.icsk_backoff = 0
    return True


def tcp_update_pacing_rate(sk: TcpSock) -> None:
    """Bytes per second: a bit more than a window per round trip. Sizes segments, and the queues below."""
    sysctl = sk.sk_net.ipv4.sysctl
    slow_start = sk.snd_cwnd < sk.snd_ssthresh >> 1
    rate = sk.mss_cache * (1000000 // 100 << 3)
    rate *= sysctl["tcp_pacing_ss_ratio"] if slow_start else sysctl["tcp_pacing_ca_ratio"]
    rate *= max(sk.snd_cwnd, sk.packets_out)
    if sk.srtt_us:
        rate //= sk.srtt_us
    sk.sk_pacing_rate = min(rate, sk.sk_max_pacing_rate)


# ---- delivery rate (tcp_rate.c) ---------------------------------------------------------------------------------
def tcp_rate_skb_delivered(sk: TcpSock, skb: SkBuff, rs: RateSample) -> None:
    """A segment arrived: the newest one of an ACK tells the rate."""
    tcb = skb.cb
    if not tcb.delivered_mstamp:
        return
    if not rs.prior_delivered or after(tcb.delivered, rs.prior_delivered):
        rs.prior_delivered = tcb.delivered
        rs.prior_mstamp = tcb.delivered_mstamp
        rs.is_app_limited = tcb.is_app_limited
        rs.is_retrans = bool(tcb.sacked & 0x92)
        sk.first_tx_mstamp = tcb.skb_mstamp_ns // 1000
        rs.interval_us = sk.first_tx_mstamp - tcb.first_tx_mstamp
    if tcb.sacked & 1:
        tcb.delivered_mstamp = 0         # counted


def tcp_rate_gen(sk: TcpSock, delivered: int, lost: int, rs: RateSample) -> None:
    """The sample that an ACK makes."""
    if sk.app_limited and after(sk.delivered, sk.app_limited):
        sk.app_limited = 0
    if delivered:
        sk.delivered_mstamp = sk.tcp_mstamp
    rs.acked_sacked, rs.losses = delivered, lost
    if not rs.prior_mstamp:
        rs.delivered = rs.interval_us = -1
        return
    rs.delivered = sk.delivered - rs.prior_delivered
    rs.interval_us = max(rs.interval_us, sk.tcp_mstamp - rs.prior_mstamp)
    if rs.interval_us < (sk.rtt_min[0][1] if sk.rtt_min else 0):
        rs.interval_us = -1              # faster than a round trip: not to be believed
        return
    if (not rs.is_app_limited or not sk.rate_interval_us
            or rs.delivered * sk.rate_interval_us >= sk.rate_delivered * rs.interval_us):
        sk.rate_delivered = rs.delivered
        sk.rate_interval_us = rs.interval_us
        sk.rate_app_limited = rs.is_app_limited


def tcp_rate_check_app_limited(sk: TcpSock) -> None:
    """The program does not give us enough to fill the pipe."""
    if (sk.write_seq - sk.snd_nxt & 0xFFFFFFFF < sk.mss_cache and sk.sk_wmem_alloc < 552 + 1
            and tcp_packets_in_flight(sk) < sk.snd_cwnd and sk.lost_out <= sk.retrans_out):
        sk.app_limited = sk.delivered + tcp_packets_in_flight(sk) or 1
