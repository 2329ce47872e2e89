"""A packet for a connection: is it valid, what does it change.

Linux: net/ipv4/tcp_input.c (5.3). Same: the fast path for what is expected, the checks of RFC 793, 5961 and 7323 for
the rest, the state machine. ACKs are worked off in tcp_ack.py, data in tcp_data.py.
Differs: the header is decoded once (skb.cb.th). Gaps: ECN, Fast Open, TCP metrics.
Locks: sk's owner, or softirq while nobody owns it. Whoever calls holds the sock.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.errno import ECONNREFUSED, ECONNRESET, EPIPE
from glasskernel.lib.types import notrace
from glasskernel.net.core.sock import POLL_OUT, SOCK_WAKE_IO, sk_wake_async
from glasskernel.net.ipv4.inet_connection_sock import inet_csk_reset_keepalive_timer, inet_csk_reset_xmit_timer
from glasskernel.net.ipv4.tcp_ack import (
    ktime_get_seconds,
    tcp_ack,
    tcp_oow_rate_limited,
    tcp_send_challenge_ack,
    tcp_store_ts_recent,
)
from glasskernel.net.ipv4.tcp_cong import tcp_init_congestion_control
from glasskernel.net.ipv4.tcp_control import tcp_initialize_rcv_mss, tcp_send_ack, tcp_send_synack
from glasskernel.net.ipv4.tcp_data import (
    tcp_data_queue,
    tcp_data_ready,
    tcp_drop,
    tcp_queue_rcv,
    tcp_send_dupack,
    tcp_urg,
)
from glasskernel.net.ipv4.tcp_output import tcp_push_pending_frames
from glasskernel.net.ipv4.tcp_parse import tcp_fast_parse_options, tcp_parse_options
from glasskernel.net.ipv4.tcp_rcv_window import (
    __tcp_ack_snd_check,
    tcp_ack_snd_check,
    tcp_check_space,
    tcp_enter_quickack_mode,
    tcp_event_data_recv,
    tcp_init_buffer_space,
    tcp_rcv_rtt_measure_ts,
)
from glasskernel.net.ipv4.tcp_request import tcp_v4_conn_request
from glasskernel.net.ipv4.tcp_rtt import tcp_ack_update_rtt, tcp_update_pacing_rate
from glasskernel.net.ipv4.tcp_state import tcp_done, tcp_set_state, tcp_write_queue_purge
from glasskernel.net.ipv4.tcp_timewait import tcp_paws_check, tcp_paws_reject, tcp_time_wait
from glasskernel.net.ipv4.tcp_types import (
    FLAG_DATA,
    FLAG_NO_CHALLENGE_ACK,
    FLAG_SLOWPATH,
    FLAG_SYN_ACKED,
    FLAG_UPDATE_TS_RECENT,
    ICSK_ACK_SCHED,
    ICSK_TIME_DACK,
    TCP_DELACK_MAX,
    TCP_MAX_QUICKACKS,
    TCP_PAWS_WINDOW,
    TCP_RTO_MAX,
    TCP_TIMEWAIT_LEN,
    TCPHDR_ACK,
    TCPHDR_FIN,
    TCPHDR_PSH,
    TCPHDR_RST,
    TCPHDR_SYN,
    RateSample,
    TcpSkbCb,
    after,
    before,
    between,
    inet_csk_in_pingpong_mode,
    keepalive_time_when,
    s32,
    tcp_fin_time,
    tcp_receive_window,
)
from glasskernel.net.ipv4.tcp_window import tcp_init_cwnd, tcp_mstamp_refresh, tcp_sync_mss, tcp_time_stamp
from glasskernel.net.skbuff import __kfree_skb, consume_skb, skb_checksum_complete, skb_pull
from glasskernel.net.types import (
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SOCK_DEAD,
    SOCK_KEEPOPEN,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_LAST_ACK,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
    TCP_TIME_WAIT,
)

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import RequestSock, TcpHdr, TcpSock
    from glasskernel.net.skbuff import SkBuff

_ANY = TCPHDR_ACK | TCPHDR_RST | TCPHDR_SYN


@notrace
def tcp_data_snd_check(sk: TcpSock) -> None:
    """After an ACK: sends what it allows, wakes who waits for room."""
    tcp_push_pending_frames(sk)
    tcp_check_space(sk)


# ---- is it valid? ------------------------------------------------------------------------------------------
def tcp_reset(sk: TcpSock) -> None:
    """A valid RST came: the connection is gone."""
    probe = sk.sk_net.kernel.tp.tcp_receive_reset
    if probe is not None:
        probe(sk)
    state = sk.sk_state
    if state == TCP_CLOSE:
        return
    sk.sk_err = ECONNREFUSED if state == TCP_SYN_SENT else EPIPE if state == TCP_CLOSE_WAIT else ECONNRESET
    tcp_write_queue_purge(sk)
    tcp_done(sk)
    if not sk.sk_flags & SOCK_DEAD:
        sk.sk_error_report(sk)


@notrace
def tcp_disordered_ack(sk: TcpSock, tcb: TcpSkbCb) -> bool:
    """A pure duplicate ACK that was overtaken: its old timestamp is harmless."""
    th = tcb.th
    return bool(th.flags & TCPHDR_ACK and tcb.seq == tcb.end_seq == sk.rcv_nxt and tcb.ack_seq == sk.snd_una
                and th.window << sk.rx_opt.snd_wscale <= sk.snd_wnd and tcb.seq == sk.snd_wl1
                and s32(sk.rx_opt.ts_recent - sk.rx_opt.rcv_tsval) <= sk.icsk_rto * 1024 // HZ)


@notrace
def tcp_paws_discard(sk: TcpSock, tcb: TcpSkbCb) -> bool:
    return (not tcp_paws_check(sk.rx_opt, TCP_PAWS_WINDOW, ktime_get_seconds(sk))
            and not tcp_disordered_ack(sk, tcb))


@notrace
def tcp_reset_check(sk: TcpSock, tcb: TcpSkbCb) -> bool:
    """Some send an RST with the number of their FIN."""
    return (tcb.seq == sk.rcv_nxt - 1 & 0xFFFFFFFF
            and sk.sk_state in (TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING))


def tcp_validate_incoming(sk: TcpSock, skb: SkBuff, th: TcpHdr, syn_inerr: bool) -> bool:
    """Old timestamps, numbers outside the window, RST, SYN. False: it was worked off, and dropped."""
    net = sk.sk_net
    tcb: TcpSkbCb = skb.cb
    flags = th.flags
    if tcp_fast_parse_options(net, skb, th, sk) and sk.rx_opt.saw_tstamp and tcp_paws_discard(sk, tcb) and (
            not flags & TCPHDR_RST):
        net.mib.net["PAWSEstab"] += 1
        if not tcp_oow_rate_limited(sk, "TCPACKSkippedPAWS"):
            tcp_send_dupack(sk, skb)
        tcp_drop(sk, skb)
        return False
    challenge = False
    if before(tcb.end_seq, sk.rcv_wup) or after(tcb.seq, sk.rcv_nxt + tcp_receive_window(sk) & 0xFFFFFFFF):
        if not flags & TCPHDR_RST:
            if flags & TCPHDR_SYN:
                challenge = True
            elif not tcp_oow_rate_limited(sk, "TCPACKSkippedSeq"):
                tcp_send_dupack(sk, skb)
        elif tcp_reset_check(sk, tcb):
            tcp_reset(sk)
        if not challenge:
            tcp_drop(sk, skb)
            return False
    elif flags & TCPHDR_RST:
        match = tcb.seq == sk.rcv_nxt or tcp_reset_check(sk, tcb)
        if not match and sk.rx_opt.sack_ok and sk.selective_acks:
            max_sack = sk.selective_acks[0][1]
            for _, end in sk.selective_acks[1:]:
                if after(end, max_sack):
                    max_sack = end
            match = tcb.seq == max_sack
        if match:
            tcp_reset(sk)
        else:
            tcp_send_challenge_ack(sk)
        tcp_drop(sk, skb)
        return False
    if challenge or flags & TCPHDR_SYN:  # RFC 5961, 4.2: whatever its number is
        if syn_inerr:
            net.mib.tcp["InErrs"] += 1
        net.mib.net["TCPSYNChallenge"] += 1
        tcp_send_challenge_ack(sk)
        tcp_drop(sk, skb)
        return False
    return True


@notrace
def tcp_csum_error(sk: TcpSock, skb: SkBuff) -> None:
    sk.sk_net.mib.tcp["InCsumErrors"] += 1
    sk.sk_net.mib.tcp["InErrs"] += 1
    tcp_drop(sk, skb)


# ---- the connection stands ---------------------------------------------------------------------------------
def tcp_rcv_established(sk: TcpSock, skb: SkBuff) -> None:
    """A packet in ESTABLISHED. What is expected takes a shorter way. Takes the packet."""
    tcp_mstamp_refresh(sk)
    tcb: TcpSkbCb = skb.cb
    th = tcb.th
    rx_opt = sk.rx_opt
    rx_opt.saw_tstamp = False
    net = sk.sk_net
    length = skb.len
    if (th.flags & ~TCPHDR_PSH == TCPHDR_ACK and tcb.seq == sk.rcv_nxt and not after(tcb.ack_seq, sk.snd_nxt)
            and th.window << rx_opt.snd_wscale == sk.snd_wnd and not sk.out_of_order_queue and sk.rcv_wnd
            and not sk.urg_data and sk.sk_rmem_alloc < sk.sk_rcvbuf and th.doff == sk.tcp_header_len):
        tcp_fast_parse_options(net, skb, th, sk)
        if (rx_opt.saw_tstamp == rx_opt.tstamp_ok and not rx_opt.sacks
                and (not rx_opt.saw_tstamp or s32(rx_opt.rcv_tsval - rx_opt.ts_recent) >= 0)):
            if length == th.doff:        # a pure ACK
                if rx_opt.saw_tstamp and sk.rcv_nxt == sk.rcv_wup:
                    tcp_store_ts_recent(sk)
                tcp_ack(sk, skb, th, 0)
                __kfree_skb(skb)
                tcp_data_snd_check(sk)
                sk.rcv_rtt_last_tsecr = rx_opt.rcv_tsecr
                return
            if skb.truesize <= sk.sk_forward_alloc:
                if skb_checksum_complete(skb):
                    tcp_csum_error(sk, skb)
                    return
                if rx_opt.saw_tstamp:
                    if sk.rcv_nxt == sk.rcv_wup:
                        tcp_store_ts_recent(sk)
                    tcp_rcv_rtt_measure_ts(sk, skb)
                net.mib.net["TCPHPHits"] += 1
                skb_pull(skb, th.doff)
                dst = skb.dst
                if dst is not None:
                    skb.dst = None
                    dst.release()
                tcp_queue_rcv(sk, skb)
                tcp_event_data_recv(sk, skb)
                if tcb.ack_seq != sk.snd_una:
                    tcp_ack(sk, skb, th, FLAG_DATA)
                    tcp_data_snd_check(sk)
                    if sk.icsk_ack_pending & ICSK_ACK_SCHED:
                        __tcp_ack_snd_check(sk, False)
                else:
                    __tcp_ack_snd_check(sk, False)
                tcp_data_ready(sk)
                return
    if length < th.doff or skb_checksum_complete(skb):
        tcp_csum_error(sk, skb)
        return
    if not th.flags & _ANY:
        tcp_drop(sk, skb)
        return
    if not tcp_validate_incoming(sk, skb, th, True):
        return
    if tcp_ack(sk, skb, th, FLAG_SLOWPATH | FLAG_UPDATE_TS_RECENT) < 0:
        tcp_drop(sk, skb)
        return
    if rx_opt.saw_tstamp:
        tcp_rcv_rtt_measure_ts(sk, skb)
    tcp_urg(sk, skb, th)
    tcp_data_queue(sk, skb)
    tcp_data_snd_check(sk)
    tcp_ack_snd_check(sk)


# ---- the handshake -----------------------------------------------------------------------------------------
def tcp_init_transfer(sk: TcpSock) -> None:
    """The handshake is over: windows, buffers, congestion control begin."""
    dst = sk.sk_dst_cache
    if sk.total_retrans > 1 and sk.undo_marker:
        sk.snd_cwnd = 1                  # the SYN was lost more than once
    else:
        sk.snd_cwnd = tcp_init_cwnd(sk, dst)
    sk.snd_cwnd_stamp = register.task.kernel.time.jiffies
    tcp_init_congestion_control(sk)
    tcp_init_buffer_space(sk)


def tcp_finish_connect(sk: TcpSock) -> None:
    tcp_set_state(sk, TCP_ESTABLISHED)
    now = register.task.kernel.time.jiffies
    sk.icsk_ack_lrcvtime = now
    if sk.sk_security is not None:
        sk.sk_net.kernel.lsm.security_inet_conn_established(sk)
    tcp_init_transfer(sk)
    sk.lsndtime = now                    # so that the first data is no restart after a pause
    if sk.sk_flags & SOCK_KEEPOPEN:
        inet_csk_reset_keepalive_timer(sk, keepalive_time_when(sk))


@notrace
def tcp_try_undo_spurious_syn(sk: TcpSock) -> None:
    """The timestamp says that the first SYN was answered: sending it again was needless."""
    syn_stamp = sk.retrans_stamp
    if sk.undo_marker and syn_stamp and sk.rx_opt.saw_tstamp and syn_stamp & 0xFFFFFFFF == sk.rx_opt.rcv_tsecr:
        sk.undo_marker = 0


@notrace
def _takes_timestamps(sk: TcpSock) -> None:
    if sk.rx_opt.saw_tstamp:
        sk.rx_opt.tstamp_ok = True
        sk.tcp_header_len = 32
        sk.advmss -= 12
        tcp_store_ts_recent(sk)
    else:
        sk.tcp_header_len = 20


@notrace
def tcp_rcv_synsent_state_process(sk: TcpSock, skb: SkBuff, th: TcpHdr) -> int:
    """An answer to our SYN. 1: send a reset, 0: the packet was taken, -1: go on with its data."""
    rx_opt = sk.rx_opt
    tcb: TcpSkbCb = skb.cb
    saved_clamp = rx_opt.mss_clamp
    tcp_parse_options(sk.sk_net, skb, th, rx_opt, False)
    if rx_opt.saw_tstamp and rx_opt.rcv_tsecr:
        rx_opt.rcv_tsecr = rx_opt.rcv_tsecr - sk.tsoffset & 0xFFFFFFFF
    flags = th.flags
    if flags & TCPHDR_ACK:
        if not after(tcb.ack_seq, sk.snd_una) or after(tcb.ack_seq, sk.snd_nxt):
            rx_opt.mss_clamp = saved_clamp
            rx_opt.tstamp_ok = rx_opt.wscale_ok = False
            return 1
        if rx_opt.saw_tstamp and rx_opt.rcv_tsecr and not between(
                rx_opt.rcv_tsecr, sk.retrans_stamp & 0xFFFFFFFF, tcp_time_stamp(sk) & 0xFFFFFFFF):
            sk.sk_net.mib.net["PAWSActive"] += 1
            rx_opt.mss_clamp = saved_clamp
            return 1
        if flags & TCPHDR_RST:
            tcp_reset(sk)
            tcp_drop(sk, skb)
            return 0
    if flags & TCPHDR_RST or not flags & TCPHDR_SYN:
        rx_opt.mss_clamp = saved_clamp
        tcp_drop(sk, skb)
        return 0
    if flags & TCPHDR_ACK:
        sk.snd_wl1 = tcb.seq
        tcp_try_undo_spurious_syn(sk)
        tcp_ack(sk, skb, th, FLAG_SLOWPATH)
        sk.rcv_nxt = sk.rcv_wup = tcb.seq + 1 & 0xFFFFFFFF
        sk.snd_wnd = th.window           # of a SYN: never scaled
        if not rx_opt.wscale_ok:
            rx_opt.snd_wscale = rx_opt.rcv_wscale = 0
            sk.window_clamp = min(sk.window_clamp, 65535)
        _takes_timestamps(sk)
        tcp_sync_mss(sk, sk.icsk_pmtu_cookie)
        tcp_initialize_rcv_mss(sk)
        sk.copied_seq = sk.rcv_nxt
        tcp_finish_connect(sk)
        if not sk.sk_flags & SOCK_DEAD:
            sk.sk_state_change(sk)
            sk_wake_async(sk, SOCK_WAKE_IO, POLL_OUT)
        if sk.icsk_accept_queue.rskq_defer_accept or inet_csk_in_pingpong_mode(sk):
            # Data will take the ACK along: that saves a packet.
            sk.icsk_ack_pending |= ICSK_ACK_SCHED
            tcp_enter_quickack_mode(sk, TCP_MAX_QUICKACKS)
            inet_csk_reset_xmit_timer(sk, ICSK_TIME_DACK, TCP_DELACK_MAX, TCP_RTO_MAX)
            tcp_drop(sk, skb)
            return 0
        tcp_send_ack(sk)
        return -1
    if rx_opt.ts_recent_stamp and rx_opt.saw_tstamp and tcp_paws_reject(rx_opt, 0, ktime_get_seconds(sk)):
        tcp_drop(sk, skb)
        return 0
    # Only a SYN: the other side has sent it at the same time.
    tcp_set_state(sk, TCP_SYN_RECV)
    _takes_timestamps(sk)
    sk.rcv_nxt = sk.copied_seq = sk.rcv_wup = tcb.seq + 1 & 0xFFFFFFFF
    sk.snd_wnd = sk.max_window = th.window
    sk.snd_wl1 = tcb.seq
    tcp_sync_mss(sk, sk.icsk_pmtu_cookie)
    tcp_initialize_rcv_mss(sk)
    tcp_send_synack(sk)
    tcp_drop(sk, skb)
    return 0


def tcp_synack_rtt_meas(sk: TcpSock, req: RequestSock) -> None:
    """The first round trip of who was called: from SYN-ACK to ACK."""
    rtt_us = -1
    if not req.num_retrans and req.snt_synack:
        rtt_us = sk.tcp_mstamp - req.snt_synack
    tcp_ack_update_rtt(sk, FLAG_SYN_ACKED, rtt_us, -1, rtt_us, RateSample())


@notrace
def _unread_data(tcb: TcpSkbCb, sk: TcpSock) -> bool:
    """Data for somebody who does not read any more."""
    fin = bool(tcb.th.flags & TCPHDR_FIN)
    return tcb.end_seq != tcb.seq and after(tcb.end_seq - fin & 0xFFFFFFFF, sk.rcv_nxt)


def tcp_rcv_state_process(sk: TcpSock, skb: SkBuff) -> int:
    """A packet in any state but ESTABLISHED and TIME_WAIT. 1: send a reset (the packet is still the caller's)."""
    tcb: TcpSkbCb = skb.cb
    th = tcb.th
    flags = th.flags
    state = sk.sk_state
    if state == TCP_CLOSE:
        tcp_drop(sk, skb)
        return 0
    if state == TCP_LISTEN:
        if flags & TCPHDR_ACK:
            return 1
        if flags & TCPHDR_RST or not flags & TCPHDR_SYN or flags & TCPHDR_FIN:
            tcp_drop(sk, skb)
            return 0
        tcp_v4_conn_request(sk, skb)
        consume_skb(skb)
        return 0
    tcp_mstamp_refresh(sk)
    sk.rx_opt.saw_tstamp = False
    if state == TCP_SYN_SENT:
        queued = tcp_rcv_synsent_state_process(sk, skb, th)
        if queued >= 0:
            return queued
        tcp_urg(sk, skb, th)
        __kfree_skb(skb)
        tcp_data_snd_check(sk)
        return 0
    if not flags & _ANY:
        tcp_drop(sk, skb)
        return 0
    if not tcp_validate_incoming(sk, skb, th, False):
        return 0
    if tcp_ack(sk, skb, th, FLAG_SLOWPATH | FLAG_UPDATE_TS_RECENT | FLAG_NO_CHALLENGE_ACK) <= 0:
        if state == TCP_SYN_RECV:
            return 1
        tcp_send_challenge_ack(sk)
        tcp_drop(sk, skb)
        return 0
    if state == TCP_SYN_RECV:
        sk.delivered += 1
        tcp_try_undo_spurious_syn(sk)
        sk.retrans_stamp = 0
        tcp_init_transfer(sk)
        sk.copied_seq = sk.rcv_nxt
        tcp_set_state(sk, TCP_ESTABLISHED)
        sk.sk_state_change(sk)
        sk_wake_async(sk, SOCK_WAKE_IO, POLL_OUT)
        sk.snd_una = tcb.ack_seq
        sk.snd_wnd = th.window << sk.rx_opt.snd_wscale
        sk.snd_wl1 = tcb.seq
        if sk.rx_opt.tstamp_ok:
            sk.advmss -= 12
        tcp_update_pacing_rate(sk)
        sk.lsndtime = register.task.kernel.time.jiffies
        tcp_initialize_rcv_mss(sk)
    elif state == TCP_FIN_WAIT1:
        if sk.snd_una == sk.write_seq:   # our FIN was acknowledged
            tcp_set_state(sk, TCP_FIN_WAIT2)
            sk.sk_shutdown |= SEND_SHUTDOWN
            if not sk.sk_flags & SOCK_DEAD:
                sk.sk_state_change(sk)
            else:
                if sk.linger2 < 0 or _unread_data(tcb, sk):
                    tcp_done(sk)
                    sk.sk_net.mib.net["TCPAbortOnData"] += 1
                    return 1
                tmo = tcp_fin_time(sk)
                if tmo > TCP_TIMEWAIT_LEN:
                    inet_csk_reset_keepalive_timer(sk, tmo - TCP_TIMEWAIT_LEN)
                elif flags & TCPHDR_FIN or sk.sk_lock_owned:
                    # Either the FIN turns it into TIME_WAIT in a moment, or its owner holds it.
                    inet_csk_reset_keepalive_timer(sk, tmo)
                else:
                    tcp_time_wait(sk, TCP_FIN_WAIT2, tmo)
                    tcp_drop(sk, skb)
                    return 0
    elif state == TCP_CLOSING:
        if sk.snd_una == sk.write_seq:
            tcp_time_wait(sk, TCP_TIME_WAIT, 0)
            tcp_drop(sk, skb)
            return 0
    elif state == TCP_LAST_ACK:
        if sk.snd_una == sk.write_seq:
            tcp_done(sk)
            tcp_drop(sk, skb)
            return 0
    tcp_urg(sk, skb, th)
    state = sk.sk_state
    queue = state == TCP_ESTABLISHED
    if state in (TCP_FIN_WAIT1, TCP_FIN_WAIT2) or (
            state in (TCP_CLOSE_WAIT, TCP_CLOSING, TCP_LAST_ACK) and before(tcb.seq, sk.rcv_nxt)):
        # RFC 793 says to take data here, RFC 1122 to reset if nobody reads it: so do BSD and Linux.
        if sk.sk_shutdown & RCV_SHUTDOWN and _unread_data(tcb, sk):
            sk.sk_net.mib.net["TCPAbortOnData"] += 1
            tcp_reset(sk)
            return 1
        queue = True
    if queue:
        tcp_data_queue(sk, skb)
    if sk.sk_state != TCP_CLOSE:
        tcp_data_snd_check(sk)
        tcp_ack_snd_check(sk)
    if not queue:
        tcp_drop(sk, skb)
    return 0
