"""The receiver's measurements: how big the peer's segments are, when to acknowledge, how big the buffer should be.

Linux: net/ipv4/tcp_input.c (5.3). Same: quick ACKs at the start, delayed ones in a dialogue; the receive buffer grows
with what the program reads in a round trip (DRS). Locks: sk's owner, or softirq while nobody owns it.
Gaps: compressed ACKs (each out-of-order segment is acknowledged), ECN.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.lib.types import notrace
from glasskernel.net.core.sock_memory import sk_mem_reclaim, sk_under_memory_pressure
from glasskernel.net.ipv4.tcp_control import tcp_send_ack, tcp_send_delayed_ack
from glasskernel.net.ipv4.tcp_output import tcp_chrono_stop
from glasskernel.net.ipv4.tcp_types import (
    ICSK_ACK_NOW,
    ICSK_ACK_PUSHED,
    ICSK_ACK_PUSHED2,
    ICSK_ACK_SCHED,
    MAX_TCP_HEADER,
    TCP_ATO_MIN,
    TCP_CHRONO_SNDBUF_LIMITED,
    TCP_INIT_CWND,
    TCP_MAX_QUICKACKS,
    before,
    inet_csk_in_pingpong_mode,
    tcp_full_space,
    tcp_packets_in_flight,
    tcp_space,
    tcp_win_from_space,
)
from glasskernel.net.ipv4.tcp_window import (
    __tcp_select_window,
    tcp_mstamp_refresh,
    tcp_sndbuf_expand,
    tcp_time_stamp,
)
from glasskernel.net.types import SOCK_NOSPACE, SOCK_RCVBUF_LOCK, SOCK_SNDBUF_LOCK

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import TcpSock
    from glasskernel.net.skbuff import SkBuff


# ---- ACKs -----------------------------------------------------------------------------------------------------
@notrace
def tcp_measure_rcv_mss(sk: TcpSock, skb: SkBuff) -> None:
    """The size of the peer's full segments: two of them make an ACK."""
    length = skb.shinfo.gso_size or skb.len
    lss, sk.icsk_ack_last_seg_size = sk.icsk_ack_last_seg_size, 0
    if length >= sk.icsk_ack_rcv_mss:
        sk.icsk_ack_rcv_mss = min(length, sk.advmss)
        return
    header = skb.data - skb.transport_header
    if length >= 536 or (length >= 88 and not skb.cb.tcp_flags & 0b1111):                # no FIN, SYN, RST, PSH
        length += header - sk.tcp_header_len
        sk.icsk_ack_last_seg_size = length
        if length == lss:
            sk.icsk_ack_rcv_mss = length
            return
    if sk.icsk_ack_pending & ICSK_ACK_PUSHED:
        sk.icsk_ack_pending |= ICSK_ACK_PUSHED2
    sk.icsk_ack_pending |= ICSK_ACK_PUSHED


@notrace
def tcp_incr_quickack(sk: TcpSock, max_quickacks: int) -> None:
    quickacks = sk.rcv_wnd // (2 * sk.icsk_ack_rcv_mss) if sk.icsk_ack_rcv_mss else 2
    quickacks = min(quickacks or 2, max_quickacks)
    if quickacks > sk.icsk_ack_quick:
        sk.icsk_ack_quick = quickacks


def tcp_enter_quickack_mode(sk: TcpSock, max_quickacks: int) -> None:
    """The next packets are acknowledged at once."""
    tcp_incr_quickack(sk, max_quickacks)
    sk.icsk_ack_pingpong = 0
    sk.icsk_ack_ato = TCP_ATO_MIN


@notrace
def tcp_in_quickack_mode(sk: TcpSock) -> bool:
    return bool(sk.icsk_ack_quick and not inet_csk_in_pingpong_mode(sk))


def __tcp_ack_snd_check(sk: TcpSock, ofo_possible: bool) -> None:
    """Data came: an ACK now, or in a while?"""
    if (((sk.rcv_nxt - sk.rcv_wup & 0xFFFFFFFF) > sk.icsk_ack_rcv_mss
            and ((sk.rcv_nxt - sk.copied_seq & 0xFFFFFFFF) < sk.sk_rcvlowat or __tcp_select_window(sk) >= sk.rcv_wnd))
            or tcp_in_quickack_mode(sk) or sk.icsk_ack_pending & ICSK_ACK_NOW
            or (ofo_possible and sk.out_of_order_queue)):
        tcp_send_ack(sk)
    else:
        tcp_send_delayed_ack(sk)


@notrace
def tcp_ack_snd_check(sk: TcpSock) -> None:
    if sk.icsk_ack_pending & ICSK_ACK_SCHED:
        __tcp_ack_snd_check(sk, True)


def tcp_event_data_recv(sk: TcpSock, skb: SkBuff) -> None:
    """A segment with data: measures, and estimates when the next one comes."""
    sk.icsk_ack_pending |= ICSK_ACK_SCHED
    tcp_measure_rcv_mss(sk, skb)
    tcp_rcv_rtt_measure(sk)
    now = register.task.kernel.time.jiffies
    if not sk.icsk_ack_ato:
        tcp_incr_quickack(sk, TCP_MAX_QUICKACKS)
        sk.icsk_ack_ato = TCP_ATO_MIN
    else:
        m = now - sk.icsk_ack_lrcvtime
        if m <= TCP_ATO_MIN // 2:
            sk.icsk_ack_ato = (sk.icsk_ack_ato >> 1) + TCP_ATO_MIN // 2
        elif m < sk.icsk_ack_ato:
            sk.icsk_ack_ato = min((sk.icsk_ack_ato >> 1) + m, sk.icsk_rto)
        elif m > sk.icsk_rto:            # a long pause: the peer starts slowly again, help it
            tcp_incr_quickack(sk, TCP_MAX_QUICKACKS)
            sk_mem_reclaim(sk)
    sk.icsk_ack_lrcvtime = now
    if skb.len >= 128:
        tcp_grow_window(sk, skb)


# ---- the receive buffer -----------------------------------------------------------------------------------------
@notrace
def __tcp_grow_window(sk: TcpSock, skb: SkBuff) -> int:
    truesize = tcp_win_from_space(sk, skb.truesize) >> 1
    window = tcp_win_from_space(sk, sk.sk_net.ipv4.sysctl["tcp_rmem"][2]) >> 1
    while sk.rcv_ssthresh <= window:
        if truesize <= skb.len:
            return 2 * sk.icsk_ack_rcv_mss
        truesize >>= 1
        window >>= 1
    return 0


def tcp_grow_window(sk: TcpSock, skb: SkBuff) -> None:
    """The window may open further, if packets do not waste memory."""
    if sk.rcv_ssthresh >= sk.window_clamp or sk.rcv_ssthresh >= tcp_space(sk) or sk_under_memory_pressure(sk):
        return
    incr = 2 * sk.advmss if tcp_win_from_space(sk, skb.truesize) <= skb.len else __tcp_grow_window(sk, skb)
    if incr:
        incr = max(incr, 2 * skb.len)
        sk.rcv_ssthresh = min(sk.rcv_ssthresh + incr, sk.window_clamp)
        sk.icsk_ack_quick |= 1


@notrace
def tcp_init_buffer_space(sk: TcpSock) -> None:
    """The connection stands: its buffers and windows."""
    if not sk.sk_userlocks & SOCK_SNDBUF_LOCK:
        tcp_sndbuf_expand(sk)
    sk.rcvq_space = min(sk.rcv_ssthresh, sk.rcv_wnd, TCP_INIT_CWND * sk.advmss)
    tcp_mstamp_refresh(sk)
    sk.rcvq_space_time = sk.tcp_mstamp
    sk.rcvq_space_seq = sk.copied_seq
    tcp_app_win = sk.sk_net.ipv4.sysctl["tcp_app_win"]
    maxwin = tcp_full_space(sk)
    if sk.window_clamp >= maxwin:
        sk.window_clamp = maxwin
        if tcp_app_win and maxwin > 4 * sk.advmss:
            sk.window_clamp = max(maxwin - (maxwin >> tcp_app_win), 4 * sk.advmss)
    if tcp_app_win and sk.window_clamp > 2 * sk.advmss and sk.window_clamp + sk.advmss > maxwin:
        sk.window_clamp = max(2 * sk.advmss, maxwin - sk.advmss)
    sk.rcv_ssthresh = min(sk.rcv_ssthresh, sk.window_clamp)
    sk.snd_cwnd_stamp = register.task.kernel.time.jiffies


def tcp_clamp_window(sk: TcpSock) -> None:
    """The receive buffer overflows: it grows if it may, else the window stops growing."""
    sk.icsk_ack_quick = 0
    rmem_max = sk.sk_net.ipv4.sysctl["tcp_rmem"][2]
    if sk.sk_rcvbuf < rmem_max and not sk.sk_userlocks & SOCK_RCVBUF_LOCK and not sk_under_memory_pressure(sk):
        sk.sk_rcvbuf = min(sk.sk_rmem_alloc, rmem_max)
    if sk.sk_rmem_alloc > sk.sk_rcvbuf:
        sk.rcv_ssthresh = min(sk.window_clamp, 2 * sk.advmss)


@notrace
def tcp_rcv_rtt_update(sk: TcpSock, sample: int, win_dep: bool) -> None:
    new_sample = sk.rcv_rtt_est_rtt_us
    m = sample
    if not new_sample:
        new_sample = m << 3
    elif not win_dep:
        new_sample += m - (new_sample >> 3)
    else:
        new_sample = min(new_sample, m << 3)
    sk.rcv_rtt_est_rtt_us = new_sample


@notrace
def tcp_rcv_rtt_measure(sk: TcpSock) -> None:
    """Without timestamps: a window of data takes a round trip."""
    if sk.rcv_rtt_est_time:
        if before(sk.rcv_nxt, sk.rcv_rtt_est_seq):
            return
        tcp_rcv_rtt_update(sk, max(sk.tcp_mstamp - sk.rcv_rtt_est_time, 1), True)
    sk.rcv_rtt_est_seq = sk.rcv_nxt + sk.rcv_wnd & 0xFFFFFFFF
    sk.rcv_rtt_est_time = sk.tcp_mstamp


@notrace
def tcp_rcv_rtt_measure_ts(sk: TcpSock, skb: SkBuff) -> None:
    rx_opt = sk.rx_opt
    if rx_opt.rcv_tsecr == sk.rcv_rtt_last_tsecr:
        return
    sk.rcv_rtt_last_tsecr = rx_opt.rcv_tsecr
    if (skb.cb.end_seq - skb.cb.seq & 0xFFFFFFFF) >= sk.icsk_ack_rcv_mss:
        delta = tcp_time_stamp(sk) - rx_opt.rcv_tsecr & 0xFFFFFFFF
        if delta < 0x7FFFFFFF // 1000:
            tcp_rcv_rtt_update(sk, (delta or 1) * 1000, False)


def tcp_rcv_space_adjust(sk: TcpSock) -> None:
    """The program read: the buffer should hold twice what it reads in a round trip."""
    probe = sk.sk_net.kernel.tp.tcp_rcv_space_adjust
    if probe is not None:
        probe(sk)
    tcp_mstamp_refresh(sk)
    rtt = sk.rcv_rtt_est_rtt_us
    if not rtt or sk.tcp_mstamp - sk.rcvq_space_time < rtt >> 3:
        return
    copied = sk.copied_seq - sk.rcvq_space_seq & 0xFFFFFFFF
    if copied > sk.rcvq_space:
        sysctl = sk.sk_net.ipv4.sysctl
        if sysctl["tcp_moderate_rcvbuf"] and not sk.sk_userlocks & SOCK_RCVBUF_LOCK:
            rcvwin = (copied << 1) + 16 * sk.advmss
            if sk.rcvq_space:
                rcvwin += rcvwin * (copied - sk.rcvq_space) // sk.rcvq_space << 1
            rcvmem = sk.advmss + MAX_TCP_HEADER + 552
            while tcp_win_from_space(sk, rcvmem) < sk.advmss:
                rcvmem += 128
            rcvbuf = min(rcvwin // sk.advmss * rcvmem, sysctl["tcp_rmem"][2])
            if rcvbuf > sk.sk_rcvbuf:
                sk.sk_rcvbuf = rcvbuf
                sk.window_clamp = tcp_win_from_space(sk, rcvbuf)
        sk.rcvq_space = copied
    sk.rcvq_space_seq = sk.copied_seq
    sk.rcvq_space_time = sk.tcp_mstamp


# ---- the send buffer --------------------------------------------------------------------------------------------
@notrace
def tcp_should_expand_sndbuf(sk: TcpSock) -> bool:
    if sk.sk_userlocks & SOCK_SNDBUF_LOCK or sk_under_memory_pressure(sk):
        return False
    return tcp_packets_in_flight(sk) < sk.snd_cwnd


@notrace
def tcp_new_space(sk: TcpSock) -> None:
    """There is room in the send buffer, which may grow, too."""
    if tcp_should_expand_sndbuf(sk):
        tcp_sndbuf_expand(sk)
        sk.snd_cwnd_stamp = register.task.kernel.time.jiffies
    sk.sk_write_space(sk)


def tcp_check_space(sk: TcpSock) -> None:
    """Somebody waits for room in the send buffer: wake him if there is some."""
    sock = sk.sk_socket
    if sock is not None and sock.flags & SOCK_NOSPACE:
        tcp_new_space(sk)
        if not sock.flags & SOCK_NOSPACE:
            tcp_chrono_stop(sk, TCP_CHRONO_SNDBUF_LIMITED)
