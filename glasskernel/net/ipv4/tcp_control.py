"""Packets without data: SYN, SYN-ACK, ACK, FIN, RST.

Linux: net/ipv4/tcp_output.c (5.3). Same: what a SYN offers, how long an ACK may wait, that FIN rides on the last data.
Locks: sk's owner, or softirq while nobody owns it. Gaps: Fast Open, SYN cookies.
"""
from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.time.timekeeping import ktime_get, usecs_to_jiffies
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.errno import ECONNREFUSED, EFAULT, EHOSTUNREACH, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.core.dst import dst_mtu
from glasskernel.net.core.sock import sk_reset_timer
from glasskernel.net.core.sock_memory import sk_mem_charge, skb_set_owner_w
from glasskernel.net.ipv4.inet_connection_sock import inet_csk_reset_xmit_timer
from glasskernel.net.ipv4.tcp_output import (
    __tcp_push_pending_frames,
    skb_unclone,
    tcp_queue_skb,
    tcp_rtx_queue_head,
    tcp_send_head,
)
from glasskernel.net.ipv4.tcp_transmit import (
    __tcp_transmit_skb,
    alloc_nondata_skb,
    tcp_acceptable_seq,
    tcp_transmit_skb,
)
from glasskernel.net.ipv4.tcp_types import (
    ICSK_ACK_PUSHED,
    ICSK_ACK_SCHED,
    ICSK_ACK_TIMER,
    ICSK_TIME_RETRANS,
    MAX_TCP_HEADER,
    TCP_DELACK_MAX,
    TCP_DELACK_MIN,
    TCP_NAGLE_OFF,
    TCP_RTO_MAX,
    TCP_TIMEOUT_INIT,
    TCPHDR_ACK,
    TCPHDR_FIN,
    TCPHDR_RST,
    TCPHDR_SYN,
    TcpSkbCb,
    inet_csk_in_pingpong_mode,
    tcp_full_space,
    tcp_win_from_space,
)
from glasskernel.net.ipv4.tcp_window import (
    dst_metric_advmss,
    tcp_current_mss,
    tcp_mss_clamp,
    tcp_mstamp_refresh,
    tcp_select_initial_window,
    tcp_sync_mss,
    tcp_time_stamp,
)
from glasskernel.net.skbuff import CHECKSUM_PARTIAL, SkBuff, skb_dst_set, skb_push
from glasskernel.net.types import SOCK_DONE, SOCK_RCVBUF_LOCK, TCP_CLOSE

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import RequestSock, TcpSock
    from glasskernel.net.ipv4.types import DstEntry

_HEADER = Struct(">HHIIBBHHH")


# ---- the end --------------------------------------------------------------------------------------------------
def tcp_send_fin(sk: TcpSock) -> None:
    """Nothing more will be written: FIN goes with the last data that waits, or by itself."""
    tskb = sk.sk_write_queue.q[-1] if sk.sk_write_queue.q else None
    if tskb is not None:
        tcb: TcpSkbCb = tskb.cb
        tcb.tcp_flags |= TCPHDR_FIN
        tcb.end_seq = tcb.end_seq + 1 & 0xFFFFFFFF
        sk.write_seq = sk.write_seq + 1 & 0xFFFFFFFF
    else:
        skb = alloc_nondata_skb(sk.write_seq, TCPHDR_ACK | TCPHDR_FIN)
        sk_forced_mem_schedule(sk, skb.truesize)
        tcp_queue_skb(sk, skb)
    __tcp_push_pending_frames(sk, tcp_current_mss(sk), TCP_NAGLE_OFF)


def sk_forced_mem_schedule(sk: TcpSock, size: int) -> None:
    """Memory for what must be sent, whatever the limits say."""
    if size <= sk.sk_forward_alloc:
        return
    pages = size + 4095 >> 12
    sk.sk_forward_alloc += pages << 12
    state = sk.sk_net.kernel.net
    assert state is not None
    state.memory_allocated[sk.sk_prot.name] = state.memory_allocated.get(sk.sk_prot.name, 0) + pages


def tcp_send_active_reset(sk: TcpSock) -> None:
    """We end the connection at once."""
    mib = sk.sk_net.mib
    mib.tcp["OutRsts"] += 1
    skb = alloc_nondata_skb(tcp_acceptable_seq(sk), TCPHDR_ACK | TCPHDR_RST)
    tcp_mstamp_refresh(sk)
    if tcp_transmit_skb(sk, skb, False):
        mib.net["TCPAbortFailed"] += 1
    probe = sk.sk_net.kernel.tp.tcp_send_reset
    if probe is not None:
        probe(sk, None)


# ---- the handshake ----------------------------------------------------------------------------------------------
def tcp_send_synack(sk: TcpSock) -> None:
    """Both sides sent a SYN (simultaneous open): ours goes out again, with an ACK. Raises EFAULT."""
    skb = tcp_rtx_queue_head(sk)
    if skb is None or not skb.cb.tcp_flags & TCPHDR_SYN:
        raise KernelError(EFAULT)
    if not skb.cb.tcp_flags & TCPHDR_ACK:
        skb_unclone(skb)
        skb.cb.tcp_flags |= TCPHDR_ACK
    tcp_transmit_skb(sk, skb, True)


def tcp_make_synack(sk: TcpSock, dst: DstEntry, req: RequestSock) -> SkBuff:
    """The answer to a SYN, from a listener. dst: a reference, which the packet takes."""
    skb = SkBuff(MAX_TCP_HEADER)
    skb.data = skb.tail = MAX_TCP_HEADER
    skb_set_owner_w(skb, sk)
    skb_dst_set(skb, dst)
    sysctl = sk.sk_net.ipv4.sysctl
    mss = tcp_mss_clamp(sk, dst_metric_advmss(dst))
    now_ns = ktime_get()
    if not req.snt_synack:
        req.snt_synack = now_ns // 1000
    options = b"\x02\x04" + mss.to_bytes(2, "big")
    if req.tstamp_ok:
        stamp = now_ns // 1000000 + req.ts_off & 0xFFFFFFFF
        options += b"\x04\x02" if req.sack_ok else b"\x01\x01"
        options += b"\x08\x0a" + stamp.to_bytes(4, "big") + req.ts_recent.to_bytes(4, "big")
    elif req.sack_ok and sysctl["tcp_sack"]:
        options += b"\x01\x01\x04\x02"
    if req.wscale_ok:
        options += b"\x01\x03\x03" + bytes([req.rcv_wscale])
    at = skb_push(skb, 20 + len(options))
    skb.transport_header = at
    _HEADER.pack_into(skb.head, at, req.inet_num, req.inet_dport, req.snt_isn, req.rcv_nxt, 20 + len(options) << 2,
                      TCPHDR_SYN | TCPHDR_ACK, min(req.rsk_rcv_wnd, 65535), 0, 0)
    skb.head[at + 20 : at + 20 + len(options)] = options
    skb.mark = req.ir_mark
    skb.ip_summed = CHECKSUM_PARTIAL
    sk.sk_net.mib.tcp["OutSegs"] += 1
    return skb


@notrace
def tcp_connect_init(sk: TcpSock) -> None:
    """What our SYN will say, and where the numbers begin."""
    dst = sk.sk_dst_cache
    sysctl = sk.sk_net.ipv4.sysctl
    sk.tcp_header_len = 32 if sysctl["tcp_timestamps"] else 20
    if sk.rx_opt.user_mss:
        sk.rx_opt.mss_clamp = sk.rx_opt.user_mss
    sk.max_window = 0
    tcp_sync_mss(sk, dst_mtu(dst))
    if not sk.window_clamp:
        sk.window_clamp = dst.metrics.get(3, 0)          # RTAX_WINDOW
    sk.advmss = tcp_mss_clamp(sk, dst_metric_advmss(dst))
    tcp_initialize_rcv_mss(sk)
    if sk.sk_userlocks & SOCK_RCVBUF_LOCK and (sk.window_clamp > tcp_full_space(sk) or not sk.window_clamp):
        sk.window_clamp = tcp_full_space(sk)
    mss = sk.advmss - (sk.tcp_header_len - 20 if sk.rx_opt.ts_recent_stamp else 0)
    sk.rcv_wnd, sk.window_clamp, sk.rx_opt.rcv_wscale = tcp_select_initial_window(
        sk.sk_net, tcp_full_space(sk), mss, sk.window_clamp, bool(sysctl["tcp_window_scaling"]), dst.metrics.get(14, 0))
    sk.rcv_ssthresh = sk.rcv_wnd
    sk.sk_err = 0
    sk.sk_flags &= ~SOCK_DONE
    sk.snd_wnd = 0
    sk.snd_wl1 = 0                       # tcp_init_wl()
    sk.snd_una = sk.snd_sml = sk.snd_up = sk.snd_nxt = sk.write_seq
    sk.rcv_nxt = 0
    sk.rcv_wup = sk.copied_seq = sk.rcv_nxt
    sk.icsk_rto = TCP_TIMEOUT_INIT
    sk.icsk_retransmits = 0
    tcp_clear_retrans(sk)


def tcp_clear_retrans(sk: TcpSock) -> None:
    sk.retrans_out = sk.lost_out = sk.undo_retrans = 0
    sk.undo_marker = 0
    sk.sacked_out = 0


def tcp_initialize_rcv_mss(sk: TcpSock) -> None:
    """A guess at the size of the peer's segments."""
    hint = min(sk.advmss, sk.mss_cache, sk.rcv_wnd // 2 or sk.advmss)
    sk.icsk_ack_rcv_mss = max(min(hint, 536), 88)


def tcp_connect(sk: TcpSock) -> None:
    """Sends a SYN. Raises EHOSTUNREACH, ECONNREFUSED."""
    if sk.sk_dst_cache is None:
        raise KernelError(EHOSTUNREACH)
    tcp_connect_init(sk)
    buff = alloc_nondata_skb(sk.write_seq, TCPHDR_SYN)
    tcp_mstamp_refresh(sk)
    sk.retrans_stamp = tcp_time_stamp(sk)
    sk.write_seq = sk.write_seq + 1 & 0xFFFFFFFF         # tcp_connect_queue_skb()
    sk.sk_wmem_queued += buff.truesize
    sk_forced_mem_schedule(sk, buff.truesize)
    sk_mem_charge(sk, buff.truesize)
    sk.packets_out += 1
    sk.tcp_rtx_queue.append(buff)
    err = tcp_transmit_skb(sk, buff, True)
    if err == -ECONNREFUSED:
        raise KernelError(ECONNREFUSED)
    # snd_nxt moves after the packet: a SYN that could not be sent is not an old one.
    sk.snd_nxt = sk.write_seq
    sk.pushed_seq = sk.write_seq
    head = tcp_send_head(sk)
    if head is not None:
        sk.snd_nxt = sk.pushed_seq = head.cb.seq
    sk.sk_net.mib.tcp["ActiveOpens"] += 1
    inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, sk.icsk_rto, TCP_RTO_MAX)


# ---- ACKs -------------------------------------------------------------------------------------------------------
def tcp_send_delayed_ack(sk: TcpSock) -> None:
    """An ACK, unless data takes it along before: 40 ms, or as long as the peer usually leaves between packets."""
    now = register.task.kernel.time.jiffies
    ato = sk.icsk_ack_ato
    if ato > TCP_DELACK_MIN:
        max_ato = HZ // 2
        if inet_csk_in_pingpong_mode(sk) or sk.icsk_ack_pending & ICSK_ACK_PUSHED:
            max_ato = TCP_DELACK_MAX
        if sk.srtt_us:
            rtt = max(usecs_to_jiffies(sk.srtt_us >> 3), TCP_DELACK_MIN)
            max_ato = min(max_ato, rtt)
        ato = min(ato, max_ato)
    timeout = now + ato
    if sk.icsk_ack_pending & ICSK_ACK_TIMER:
        if sk.icsk_ack_blocked or sk.icsk_ack_timeout <= now + (ato >> 2):
            tcp_send_ack(sk)             # it was due, or will be in a moment
            return
        timeout = min(timeout, sk.icsk_ack_timeout)
    sk.icsk_ack_pending |= ICSK_ACK_SCHED | ICSK_ACK_TIMER
    sk.icsk_ack_timeout = timeout
    sk_reset_timer(sk, sk.icsk_delack_timer, timeout)


def __tcp_send_ack(sk: TcpSock, rcv_nxt: int) -> None:
    if sk.sk_state == TCP_CLOSE:
        return
    buff = alloc_nondata_skb(tcp_acceptable_seq(sk), TCPHDR_ACK)
    __tcp_transmit_skb(sk, buff, False, rcv_nxt)


def tcp_send_ack(sk: TcpSock) -> None:
    """An ACK, at once."""
    __tcp_send_ack(sk, sk.rcv_nxt)


def tcp_openreq_init_rwin(req: RequestSock, sk_listener: TcpSock, dst: DstEntry) -> None:
    """The window that the answer to a SYN offers."""
    mss = tcp_mss_clamp(sk_listener, dst_metric_advmss(dst))
    full_space = tcp_win_from_space(sk_listener, sk_listener.sk_rcvbuf)
    clamp = sk_listener.window_clamp or dst.metrics.get(3, 0)
    if sk_listener.sk_userlocks & SOCK_RCVBUF_LOCK and (clamp > full_space or not clamp):
        clamp = full_space
    rcv_wnd, clamp, req.rcv_wscale = tcp_select_initial_window(
        sk_listener.sk_net, full_space, mss - (12 if req.tstamp_ok else 0), clamp, req.wscale_ok,
        dst.metrics.get(14, 0))
    req.rsk_rcv_wnd = rcv_wnd
    req.rsk_window_clamp = clamp
