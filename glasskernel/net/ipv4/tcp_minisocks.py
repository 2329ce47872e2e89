"""A request becomes a connection.

Linux: net/ipv4/tcp_minisocks.c, tcp_ipv4.c: tcp_v4_syn_recv_sock() (5.3). Same: the ACK of the handshake is checked
against the request; only then a whole sock is made, which takes the request's place in the table.
Context: softirq. Gaps: Fast Open, SYN cookies.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.time.timer import mod_timer, timer_pending
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.core.dst import dst_mtu
from glasskernel.net.core.sock import sock_put
from glasskernel.net.core.sock_dst import sk_setup_caps
from glasskernel.net.ipv4.inet_connection_sock import (
    inet_csk_clone_lock,
    inet_csk_complete_hashdance,
    inet_csk_prepare_forced_close,
    inet_csk_reqsk_queue_drop,
    inet_csk_reset_keepalive_timer,
    inet_csk_route_child_sock,
    inet_rtx_syn_ack,
)
from glasskernel.net.ipv4.inet_hashtables import __inet_inherit_port, inet_ehash_nolisten
from glasskernel.net.ipv4.tcp_cong import tcp_assign_congestion_control
from glasskernel.net.ipv4.tcp_control import tcp_initialize_rcv_mss
from glasskernel.net.ipv4.tcp_input import tcp_rcv_state_process, tcp_synack_rtt_meas
from glasskernel.net.ipv4.tcp_parse import tcp_parse_options
from glasskernel.net.ipv4.tcp_reply import tcp_v4_reqsk_send_ack, tcp_v4_send_reset
from glasskernel.net.ipv4.tcp_state import tcp_done
from glasskernel.net.ipv4.tcp_timer import tcp_init_xmit_timers
from glasskernel.net.ipv4.tcp_timewait import tcp_in_window, tcp_paws_reject
from glasskernel.net.ipv4.tcp_types import (
    TCP_INFINITE_SSTHRESH,
    TCP_INIT_CWND,
    TCP_RTO_MAX,
    TCP_SACK_SEEN,
    TCP_TIMEOUT_INIT,
    TCPHDR_ACK,
    TCPHDR_RST,
    TCPHDR_SYN,
    TCP_CA_Open,
    TcpOptionsReceived,
    after,
    keepalive_time_when,
    tcp_count_socket,
)
from glasskernel.net.ipv4.tcp_window import dst_metric_advmss, tcp_mss_clamp, tcp_sync_mss
from glasskernel.net.types import SOCK_KEEPOPEN, TCP_SYN_RECV

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import RequestSock, TcpSock
    from glasskernel.net.skbuff import SkBuff


def tcp_create_openreq_child(sk: TcpSock, req: RequestSock, skb: SkBuff) -> TcpSock:
    """A sock for a request whose handshake is over. What it shares with the listener is what the user set."""
    newsk = inet_csk_clone_lock(sk, req)
    tcp_count_socket(newsk, 1)
    now = register.task.kernel.time.jiffies
    tcb = skb.cb
    seq = req.rcv_isn + 1 & 0xFFFFFFFF
    newsk.rcv_wup = newsk.copied_seq = newsk.rcv_nxt = seq
    newsk.segs_in = 1
    newsk.data_segs_in = newsk.segs_out = newsk.data_segs_out = 0
    newsk.bytes_received = newsk.bytes_sent = newsk.bytes_acked = newsk.bytes_retrans = 0
    seq = req.snt_isn + 1 & 0xFFFFFFFF
    newsk.snd_sml = newsk.snd_una = newsk.snd_nxt = newsk.snd_up = seq
    newsk.write_seq = newsk.pushed_seq = seq
    newsk.snd_wl1 = tcb.seq
    newsk.srtt_us = 0
    newsk.mdev_us = TCP_TIMEOUT_INIT * (1000000 // HZ)
    newsk.icsk_rto = TCP_TIMEOUT_INIT
    newsk.icsk_ack_lrcvtime = now
    newsk.packets_out = newsk.retrans_out = newsk.sacked_out = newsk.lost_out = 0
    newsk.snd_ssthresh = TCP_INFINITE_SSTHRESH
    newsk.lsndtime = now
    newsk.total_retrans = req.num_retrans
    newsk.snd_cwnd = TCP_INIT_CWND
    newsk.snd_cwnd_cnt = 0
    newsk.icsk_ca_state = TCP_CA_Open
    newsk.urg_data = 0
    tcp_init_xmit_timers(newsk)
    if newsk.sk_flags & SOCK_KEEPOPEN:
        inet_csk_reset_keepalive_timer(newsk, keepalive_time_when(newsk))
    rx_opt = newsk.rx_opt
    rx_opt.user_mss = sk.rx_opt.user_mss
    rx_opt.tstamp_ok = req.tstamp_ok
    rx_opt.sack_ok = TCP_SACK_SEEN if req.sack_ok else 0
    newsk.window_clamp = req.rsk_window_clamp
    newsk.rcv_ssthresh = newsk.rcv_wnd = req.rsk_rcv_wnd
    rx_opt.wscale_ok = req.wscale_ok
    if req.wscale_ok:
        rx_opt.snd_wscale, rx_opt.rcv_wscale = req.snd_wscale, req.rcv_wscale
    else:
        newsk.window_clamp = min(newsk.window_clamp, 65535)
    newsk.snd_wnd = tcb.th.window << rx_opt.snd_wscale
    newsk.max_window = newsk.snd_wnd
    if req.tstamp_ok:
        rx_opt.ts_recent = req.ts_recent
        rx_opt.ts_recent_stamp = sk.sk_net.kernel.machine.now() // 1000000000
        newsk.tcp_header_len = 32
    else:
        rx_opt.ts_recent_stamp = 0
        newsk.tcp_header_len = 20
    if req.num_timeout:
        newsk.undo_marker = req.snt_isn
        newsk.retrans_stamp = req.snt_synack // 1000
    newsk.tsoffset = req.ts_off
    if skb.len >= 536 + newsk.tcp_header_len:
        newsk.icsk_ack_last_seg_size = skb.len - newsk.tcp_header_len
    rx_opt.mss_clamp = req.mss
    newsk.rack_mstamp = 0
    sk.sk_net.mib.tcp["PassiveOpens"] += 1
    return newsk


def tcp_ca_openreq_child(newsk: TcpSock, sk: TcpSock) -> None:
    """The listener's congestion control, if it was chosen there."""
    if not sk.icsk_ca_setsockopt:
        tcp_assign_congestion_control(newsk)
    else:
        newsk.icsk_ca_priv = newsk.icsk_ca_ops.make_priv()
    newsk.icsk_ca_initialized = False


def tcp_v4_syn_recv_sock(sk: TcpSock, skb: SkBuff, req: RequestSock) -> tuple[TcpSock | None, bool]:
    """(the connection, it took the request's place); None: the accept queue is full, or there is no way back."""
    mib = sk.sk_net.mib.net
    if sk.sk_ack_backlog > sk.sk_max_ack_backlog:
        mib["ListenOverflows"] += 1
        mib["ListenDrops"] += 1
        sk.sk_drops += 1
        return None, False
    newsk = tcp_create_openreq_child(sk, req, skb)
    newsk.inet_id = int.from_bytes(sk.sk_net.kernel.machine.random_bytes(2), "little")
    newsk.inet_opt = req.ireq_opt
    newsk.mc_index = 0
    newsk.sk_bound_dev_if = req.ir_iif
    newsk.tos = sk.tos
    dst = inet_csk_route_child_sock(sk, newsk, req)
    if dst is None:
        mib["ListenDrops"] += 1
        inet_csk_prepare_forced_close(newsk)
        tcp_done(newsk)
        return None, False
    sk_setup_caps(newsk, dst)
    tcp_ca_openreq_child(newsk, sk)
    tcp_sync_mss(newsk, dst_mtu(dst))
    newsk.advmss = tcp_mss_clamp(sk, dst_metric_advmss(dst))
    tcp_initialize_rcv_mss(newsk)
    __inet_inherit_port(sk, newsk)
    return newsk, inet_ehash_nolisten(newsk, req)


@notrace
def _oow_rate_limited(req: RequestSock) -> bool:
    now = register.task.kernel.time.jiffies
    limit = req.sk_net.ipv4.sysctl["tcp_invalid_ratelimit"] * HZ // 1000
    if req.last_oow_ack_time and now - req.last_oow_ack_time < limit:
        req.sk_net.mib.net["TCPACKSkippedSynRecv"] += 1
        return True
    req.last_oow_ack_time = now
    return False


def tcp_check_req(sk: TcpSock, skb: SkBuff, req: RequestSock) -> TcpSock | None:
    """A packet for a request. The listener: it deserves a reset; a new sock: the handshake is over; None: taken."""
    tcb = skb.cb
    th = tcb.th
    net = sk.sk_net
    mib = net.mib
    flg = th.flags & (TCPHDR_RST | TCPHDR_SYN | TCPHDR_ACK)
    tmp_opt = TcpOptionsReceived()
    paws_reject = False
    if th.doff > 20:
        tmp_opt.tstamp_ok = req.tstamp_ok
        tcp_parse_options(net, skb, th, tmp_opt, True)
        if tmp_opt.saw_tstamp:
            now_s = net.kernel.machine.now() // 1000000000
            tmp_opt.ts_recent = req.ts_recent
            tmp_opt.ts_recent_stamp = now_s - (1 << req.num_timeout)
            paws_reject = tcp_paws_reject(tmp_opt, flg & TCPHDR_RST, now_s)
    if tcb.seq == req.rcv_isn and flg == TCPHDR_SYN and not paws_reject:
        if not _oow_rate_limited(req):   # the SYN again: so goes the answer
            try:
                inet_rtx_syn_ack(sk, req)
            except KernelError:
                return None
            if timer_pending(req.rsk_timer):
                timeout = min(TCP_TIMEOUT_INIT << req.num_timeout, TCP_RTO_MAX)
                mod_timer(req.rsk_timer, register.task.kernel.time.jiffies + timeout)
        return None
    if flg & TCPHDR_ACK and tcb.ack_seq != req.snt_isn + 1 & 0xFFFFFFFF:
        return sk
    if paws_reject or not tcp_in_window(tcb.seq, tcb.end_seq, req.rcv_nxt, req.rcv_nxt + req.rsk_rcv_wnd & 0xFFFFFFFF):
        if not flg & TCPHDR_RST and not _oow_rate_limited(req):
            tcp_v4_reqsk_send_ack(sk, skb, req)
        if paws_reject:
            mib.net["PAWSEstab"] += 1
        return None
    if tmp_opt.saw_tstamp and not after(tcb.seq, req.rcv_nxt):
        req.ts_recent = tmp_opt.rcv_tsval
    if tcb.seq == req.rcv_isn:
        flg &= ~TCPHDR_SYN               # out of the window: cut off
    if flg & (TCPHDR_RST | TCPHDR_SYN):
        mib.tcp["AttemptFails"] += 1
        if not flg & TCPHDR_RST:
            tcp_v4_send_reset(sk, skb)
        if inet_csk_reqsk_queue_drop(sk, req):
            mib.net["EmbryonicRsts"] += 1
        return None
    if not flg & TCPHDR_ACK:
        return None
    defer = sk.icsk_accept_queue.rskq_defer_accept
    if req.num_timeout < defer and tcb.end_seq == req.rcv_isn + 1 & 0xFFFFFFFF:
        req.acked = True                 # TCP_DEFER_ACCEPT: only data makes a connection
        mib.net["TCPDeferAcceptDrop"] += 1
        return None
    child, own_req = tcp_v4_syn_recv_sock(sk, skb, req)
    if child is None:
        if net.ipv4.sysctl["tcp_abort_on_overflow"]:
            mib.tcp["AttemptFails"] += 1
            tcp_v4_send_reset(sk, skb)
            if inet_csk_reqsk_queue_drop(sk, req):
                mib.net["EmbryonicRsts"] += 1
        else:
            req.acked = True
        return None
    child.tcp_mstamp = sk.sk_net.kernel.machine.now() // 1000
    tcp_synack_rtt_meas(child, req)
    return inet_csk_complete_hashdance(sk, child, req, own_req)


def tcp_child_process(parent: TcpSock, child: TcpSock, skb: SkBuff) -> int:
    """The packet that ended the handshake goes on to the new connection. 1: send a reset."""
    child.segs_in = 1
    if child.sk_lock_owned:              # accept() was faster
        child.sk_backlog.append(skb)
        child.sk_backlog_len += skb.truesize
        ret = 0
    else:
        ret = tcp_rcv_state_process(child, skb)
        if child.sk_state != TCP_SYN_RECV:
            parent.sk_data_ready(parent)
    sock_put(child)
    return ret
