"""ACKs: what they free, what they tell, what they allow.

Linux: net/ipv4/tcp_input.c (5.3), tcp_ack(). Same: the order of its steps. Gaps: ECN.
Invariants: see tcp_output.py; here snd_una moves.
Locks: sk's owner, or softirq while nobody owns it.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.inet_connection_sock import inet_csk_reset_xmit_timer
from glasskernel.net.ipv4.tcp_control import tcp_send_ack
from glasskernel.net.ipv4.tcp_loss import (
    tcp_check_sack_reordering,
    tcp_cwnd_reduction,
    tcp_fastretrans_alert,
    tcp_highest_sack_seq,
    tcp_in_cwnd_reduction,
    tcp_process_tlp_ack,
    tcp_remove_reno_sacks,
    tcp_xmit_recovery,
)
from glasskernel.net.ipv4.tcp_output import (
    tcp_chrono_stop,
    tcp_probe0_when,
    tcp_rearm_rto,
    tcp_schedule_loss_probe,
    tcp_wmem_free_skb,
)
from glasskernel.net.ipv4.tcp_recovery import tcp_rack_advance, tcp_rack_update_reo_wnd
from glasskernel.net.ipv4.tcp_retransmit import tcp_trim_head
from glasskernel.net.ipv4.tcp_rtt import (
    tcp_ack_update_rtt,
    tcp_rate_gen,
    tcp_rate_skb_delivered,
    tcp_update_pacing_rate,
)
from glasskernel.net.ipv4.tcp_sack import tcp_sacktag_write_queue
from glasskernel.net.ipv4.tcp_types import (
    FLAG_ACKED,
    FLAG_CA_ALERT,
    FLAG_DATA,
    FLAG_DATA_ACKED,
    FLAG_DSACKING_ACK,
    FLAG_FORWARD_PROGRESS,
    FLAG_NO_CHALLENGE_ACK,
    FLAG_NOT_DUP,
    FLAG_ORIG_SACK_ACKED,
    FLAG_RETRANS_DATA_ACKED,
    FLAG_SACK_RENEGING,
    FLAG_SET_XMIT_TIMER,
    FLAG_SLOWPATH,
    FLAG_SND_UNA_ADVANCED,
    FLAG_SYN_ACKED,
    FLAG_UPDATE_TS_RECENT,
    FLAG_WIN_UPDATE,
    ICSK_TIME_PROBE0,
    TCP_CHRONO_BUSY,
    TCP_RTO_MAX,
    TCPCB_LOST,
    TCPCB_RETRANS,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    TCPHDR_SYN,
    RateSample,
    TCP_CA_Open,
    TcpSacktagState,
    TcpSkbCb,
    after,
    before,
    between,
    tcp_packets_in_flight,
    tcp_state_of,
    tcp_wnd_end,
)
from glasskernel.net.ipv4.tcp_window import tcp_slow_start_after_idle_check, tcp_sync_mss

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import TcpHdr, TcpSock
    from glasskernel.net.skbuff import SkBuff


@notrace
def tcp_replace_ts_recent(sk: TcpSock, seq: int) -> None:
    """The packet's timestamp is the one to echo, if it covers what was acknowledged last."""
    rx_opt = sk.rx_opt
    if rx_opt.saw_tstamp and not after(seq, sk.rcv_wup) and (
            (rx_opt.rcv_tsval - rx_opt.ts_recent & 0xFFFFFFFF) < 0x80000000
            or ktime_get_seconds(sk) >= rx_opt.ts_recent_stamp + 86400 * 24):
        tcp_store_ts_recent(sk)


@notrace
def ktime_get_seconds(sk: TcpSock) -> int:
    return sk.sk_net.kernel.machine.now() // 1000000000


@notrace
def tcp_store_ts_recent(sk: TcpSock) -> None:
    sk.rx_opt.ts_recent = sk.rx_opt.rcv_tsval
    sk.rx_opt.ts_recent_stamp = ktime_get_seconds(sk)


def tcp_send_challenge_ack(sk: TcpSock) -> None:
    """Somebody may be guessing (RFC 5961): says where we are, but not too often."""
    net = sk.sk_net
    now = register.task.kernel.time.jiffies
    if tcp_oow_rate_limited(sk, "TCPACKSkippedChallenge"):
        return
    state = tcp_state_of(net)
    if now // HZ != state.challenge_timestamp:
        half = (net.ipv4.sysctl["tcp_challenge_ack_limit"] + 1) >> 1
        state.challenge_timestamp = now // HZ
        state.challenge_count = half + int.from_bytes(net.kernel.machine.random_bytes(4), "little") % max(
            net.ipv4.sysctl["tcp_challenge_ack_limit"], 1)
    if state.challenge_count > 0:
        state.challenge_count -= 1
        net.mib.net["TCPChallengeACK"] += 1
        tcp_send_ack(sk)


@notrace
def tcp_oow_rate_limited(sk: TcpSock, mib: str) -> bool:
    """True: such an ACK was sent less than tcp_invalid_ratelimit ms ago."""
    now = register.task.kernel.time.jiffies
    if sk.last_oow_ack_time:
        elapsed = now - sk.last_oow_ack_time
        if 0 <= elapsed < sk.sk_net.ipv4.sysctl["tcp_invalid_ratelimit"] * HZ // 1000:
            sk.sk_net.mib.net[mib] += 1
            return True
    sk.last_oow_ack_time = now
    return False


# ---- what an ACK frees ------------------------------------------------------------------------------------------
@notrace
def tcp_tso_acked(sk: TcpSock, skb: SkBuff) -> int:
    """The first segments of a longer one were acknowledged: how many."""
    packets_acked: int = skb.cb.tcp_gso_segs
    tcp_trim_head(sk, skb, sk.snd_una - skb.cb.seq & 0xFFFFFFFF)
    left: int = skb.cb.tcp_gso_segs
    return packets_acked - left


def tcp_clean_rtx_queue(sk: TcpSock, prior_fack: int, prior_snd_una: int, sack: TcpSacktagState) -> int:
    """Frees the segments below snd_una and measures the round trip. Answers FLAG_*."""
    rs = sack.rate
    assert rs is not None
    queue = sk.tcp_rtx_queue
    snd_una = sk.snd_una
    is_sack = sk.rx_opt.sack_ok
    reord = sk.snd_nxt
    first_ackt = last_ackt = 0
    last_in_flight = pkts_acked = flag = 0
    while queue:
        skb = queue[0]
        tcb: TcpSkbCb = skb.cb
        start_seq, sacked = tcb.seq, tcb.sacked
        fully_acked = True
        if after(tcb.end_seq, snd_una):
            if tcb.tcp_gso_segs == 1 or not after(snd_una, tcb.seq):
                break
            acked_pcount = tcp_tso_acked(sk, skb)
            if not acked_pcount:
                break
            fully_acked = False
        else:
            acked_pcount = tcb.tcp_gso_segs
        if sacked & TCPCB_RETRANS:
            if sacked & TCPCB_SACKED_RETRANS:
                sk.retrans_out -= acked_pcount
            flag |= FLAG_RETRANS_DATA_ACKED
        elif not sacked & TCPCB_SACKED_ACKED:
            last_ackt = tcb.skb_mstamp_ns // 1000
            if not first_ackt:
                first_ackt = last_ackt
            last_in_flight = tcb.in_flight
            if before(start_seq, reord):
                reord = start_seq
            if not after(tcb.end_seq, sk.high_seq):
                flag |= FLAG_ORIG_SACK_ACKED
        if sacked & TCPCB_SACKED_ACKED:
            sk.sacked_out -= acked_pcount
        elif is_sack:
            sk.delivered += acked_pcount
            tcp_rack_advance(sk, sacked, tcb.end_seq, tcb.skb_mstamp_ns // 1000)
        if sacked & TCPCB_LOST:
            sk.lost_out -= acked_pcount
        sk.packets_out -= acked_pcount
        pkts_acked += acked_pcount
        tcp_rate_skb_delivered(sk, skb, rs)
        if tcb.tcp_flags & TCPHDR_SYN:
            flag |= FLAG_SYN_ACKED
            sk.retrans_stamp = 0
        else:
            flag |= FLAG_DATA_ACKED
        if not fully_acked:
            break
        queue.popleft()
        tcp_wmem_free_skb(sk, skb)
    left = queue[0] if queue else None
    if left is None:
        tcp_chrono_stop(sk, TCP_CHRONO_BUSY)
    if between(sk.snd_up, prior_snd_una, snd_una):
        sk.snd_up = snd_una
    if left is not None and left.cb.sacked & TCPCB_SACKED_ACKED:
        flag |= FLAG_SACK_RENEGING
    seq_rtt_us = sack_rtt_us = ca_rtt_us = -1
    if first_ackt and not flag & FLAG_RETRANS_DATA_ACKED:
        seq_rtt_us = sk.tcp_mstamp - first_ackt
        ca_rtt_us = sk.tcp_mstamp - last_ackt
    if sack.first_sackt:
        sack_rtt_us = sk.tcp_mstamp - sack.first_sackt
        ca_rtt_us = sk.tcp_mstamp - sack.last_sackt
    rtt_update = tcp_ack_update_rtt(sk, flag, seq_rtt_us, sack_rtt_us, ca_rtt_us, rs)
    if flag & FLAG_ACKED:
        flag |= FLAG_SET_XMIT_TIMER
        if not is_sack:
            tcp_remove_reno_sacks(sk, pkts_acked)
            # Without SACK nobody knows which of them arrived: F-RTO must not think it does.
            if flag & FLAG_RETRANS_DATA_ACKED:
                flag &= ~FLAG_ORIG_SACK_ACKED
        elif before(reord, prior_fack):
            tcp_check_sack_reordering(sk, reord, False)
    elif (left is not None and rtt_update and sack_rtt_us >= 0
            and sack_rtt_us > sk.tcp_mstamp - left.cb.skb_mstamp_ns // 1000):
        flag |= FLAG_SET_XMIT_TIMER      # the timer of the oldest one would fire too early
    pkts_acked_hook = sk.icsk_ca_ops.pkts_acked
    if pkts_acked_hook is not None:
        pkts_acked_hook(sk, pkts_acked, ca_rtt_us, last_in_flight)
    return flag


# ---- the window that the peer offers --------------------------------------------------------------------------------
@notrace
def tcp_snd_una_update(sk: TcpSock, ack: int) -> None:
    sk.bytes_acked += ack - sk.snd_una & 0xFFFFFFFF
    sk.snd_una = ack


@notrace
def tcp_ack_update_window(sk: TcpSock, th: TcpHdr, ack: int, ack_seq: int) -> int:
    """Takes the window over, unless the packet is older than the one that told it last. Answers FLAG_*."""
    nwin = th.window
    if not th.flags & TCPHDR_SYN:
        nwin <<= sk.rx_opt.snd_wscale
    flag = 0
    if after(ack, sk.snd_una) or after(ack_seq, sk.snd_wl1) or (ack_seq == sk.snd_wl1 and nwin > sk.snd_wnd):
        flag = FLAG_WIN_UPDATE
        sk.snd_wl1 = ack_seq
        if sk.snd_wnd != nwin:
            sk.snd_wnd = nwin
            if sk.sk_write_queue.q:
                tcp_slow_start_after_idle_check(sk)
            if nwin > sk.max_window:
                sk.max_window = nwin
                tcp_sync_mss(sk, sk.icsk_pmtu_cookie)
    tcp_snd_una_update(sk, ack)
    return flag


@notrace
def tcp_ack_probe(sk: TcpSock) -> None:
    """Nothing is in flight: does the window let the next segment go, or must we probe on?"""
    queue = sk.sk_write_queue.q
    if not queue:
        return
    if not after(queue[0].cb.end_seq, tcp_wnd_end(sk)):
        sk.icsk_backoff = 0
        sk.icsk_pending = 0
    else:
        inet_csk_reset_xmit_timer(sk, ICSK_TIME_PROBE0, tcp_probe0_when(sk, TCP_RTO_MAX), TCP_RTO_MAX)


@notrace
def tcp_cong_avoid(sk: TcpSock, ack: int, acked: int) -> None:
    sk.icsk_ca_ops.cong_avoid(sk, ack, acked)
    sk.snd_cwnd_stamp = register.task.kernel.time.jiffies


@notrace
def tcp_cong_control(sk: TcpSock, ack: int, acked_sacked: int, flag: int) -> None:
    if tcp_in_cwnd_reduction(sk):
        tcp_cwnd_reduction(sk, acked_sacked, flag)
    elif flag & (FLAG_FORWARD_PROGRESS if sk.reordering > sk.sk_net.ipv4.sysctl["tcp_reordering"]
                 else FLAG_DATA_ACKED):
        tcp_cong_avoid(sk, ack, acked_sacked)
    tcp_update_pacing_rate(sk)


def tcp_ack(sk: TcpSock, skb: SkBuff, th: TcpHdr, flag: int) -> int:
    """An acknowledgement. 1: fine, 0: an old one, -1: of something that we never sent, or too old."""
    tcb: TcpSkbCb = skb.cb
    prior_snd_una = sk.snd_una
    ack_seq, ack = tcb.seq, tcb.ack_seq
    sacks = sk.rx_opt.sacks if flag & FLAG_SLOWPATH else None
    if before(ack, prior_snd_una):
        if before(ack, prior_snd_una - sk.max_window & 0xFFFFFFFF):      # RFC 5961, 5.2
            if not flag & FLAG_NO_CHALLENGE_ACK:
                tcp_send_challenge_ack(sk)
            return -1
        if sacks:
            delivered = sk.delivered
            state = TcpSacktagState()
            state.rate = RateSample()
            tcp_sacktag_write_queue(sk, ack, prior_snd_una, state)
            flag, rexmit = tcp_fastretrans_alert(sk, prior_snd_una, 0, flag | state.flag)
            _newly_delivered(sk, delivered)
            tcp_xmit_recovery(sk, rexmit)
        return 0
    if after(ack, sk.snd_nxt):
        return -1
    if after(ack, prior_snd_una):
        flag |= FLAG_SND_UNA_ADVANCED
        sk.icsk_retransmits = 0
    prior_fack = tcp_highest_sack_seq(sk) if sk.rx_opt.sack_ok else sk.snd_una
    prior_packets, delivered, lost = sk.packets_out, sk.delivered, sk.lost
    rs = RateSample()
    rs.prior_in_flight = tcp_packets_in_flight(sk)
    state = TcpSacktagState()
    state.rate = rs
    if flag & FLAG_UPDATE_TS_RECENT:
        tcp_replace_ts_recent(sk, tcb.seq)
    if flag & (FLAG_SLOWPATH | FLAG_SND_UNA_ADVANCED) == FLAG_SND_UNA_ADVANCED:
        sk.snd_wl1 = ack_seq             # the window is as predicted
        tcp_snd_una_update(sk, ack)
        flag |= FLAG_WIN_UPDATE
        sk.sk_net.mib.net["TCPHPAcks"] += 1
    else:
        if ack_seq != tcb.end_seq:
            flag |= FLAG_DATA
        else:
            sk.sk_net.mib.net["TCPPureAcks"] += 1
        flag |= tcp_ack_update_window(sk, th, ack, ack_seq)
        if sacks:
            tcp_sacktag_write_queue(sk, ack, prior_snd_una, state)
            flag |= state.flag
    sk.sk_err_soft = 0
    sk.icsk_probes_out = 0
    sk.rcv_tstamp = register.task.kernel.time.jiffies
    if not prior_packets:
        if flag & FLAG_DSACKING_ACK:
            tcp_fastretrans_alert(sk, prior_snd_una, 0, flag)
            _newly_delivered(sk, delivered)
        tcp_ack_probe(sk)
        if sk.tlp_high_seq:
            tcp_process_tlp_ack(sk, ack, flag)
        return 1
    flag |= tcp_clean_rtx_queue(sk, prior_fack, prior_snd_una, state)
    tcp_rack_update_reo_wnd(sk, rs)
    if sk.tlp_high_seq:
        tcp_process_tlp_ack(sk, ack, flag)
    if flag & FLAG_SET_XMIT_TIMER and not tcp_schedule_loss_probe(sk, True):
        tcp_rearm_rto(sk)
    rexmit = 0
    if not flag & FLAG_NOT_DUP or flag & FLAG_CA_ALERT or sk.icsk_ca_state != TCP_CA_Open:               # dubious
        num_dupack = 0
        if not flag & (FLAG_SND_UNA_ADVANCED | FLAG_NOT_DUP):
            num_dupack = max(1, skb.shinfo.gso_segs)
        flag, rexmit = tcp_fastretrans_alert(sk, prior_snd_una, num_dupack, flag)
    newly = _newly_delivered(sk, delivered)
    tcp_rate_gen(sk, newly, sk.lost - lost, rs)
    tcp_cong_control(sk, ack, newly, flag)
    tcp_xmit_recovery(sk, rexmit)
    return 1


@notrace
def _newly_delivered(sk: TcpSock, prior_delivered: int) -> int:
    delivered = sk.delivered - prior_delivered
    sk.sk_net.mib.net["TCPDelivered"] += delivered
    return delivered
