"""What is sent again: lost segments, loss probes, window probes.

Linux: net/ipv4/tcp_output.c (5.3), retransmission. Same: what was lost goes first and as far as the congestion window
allows; TLP (RFC 8985) sends the last segment again; a closed window is probed with an old byte.
Locks: sk's owner, or softirq while nobody owns it. Gaps: collapsing small segments (tcp_retrans_collapse), MTU probes.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import EAGAIN
from glasskernel.lib.types import notrace
from glasskernel.net.core.sock_memory import sk_mem_uncharge
from glasskernel.net.ipv4.inet_connection_sock import inet_csk_reset_xmit_timer
from glasskernel.net.ipv4.tcp_output import (
    skb_unclone,
    tcp_adjust_pcount,
    tcp_event_new_data_sent,
    tcp_fragment,
    tcp_probe0_when,
    tcp_rearm_rto,
    tcp_send_head,
    tcp_set_skb_tso_segs,
    tcp_small_queue_check,
    tcp_snd_wnd_test,
    tcp_tso_segs,
    tcp_write_xmit,
)
from glasskernel.net.ipv4.tcp_transmit import alloc_nondata_skb, tcp_transmit_skb
from glasskernel.net.ipv4.tcp_types import (
    ICSK_TIME_PROBE0,
    ICSK_TIME_REO_TIMEOUT,
    ICSK_TIME_RETRANS,
    TCP_CA_CWR,
    TCP_NAGLE_OFF,
    TCP_RESOURCE_PROBE_INTERVAL,
    TCP_RTO_MAX,
    TCPCB_EVER_RETRANS,
    TCPCB_LOST,
    TCPCB_SACKED_ACKED,
    TCPCB_SACKED_RETRANS,
    TCPHDR_ACK,
    TCPHDR_PSH,
    TCPHDR_SYN,
    TCP_CA_Loss,
    TCP_CA_Recovery,
    TcpSkbCb,
    before,
    between,
    tcp_packets_in_flight,
    tcp_wnd_end,
)
from glasskernel.net.ipv4.tcp_window import tcp_current_mss, tcp_mstamp_refresh
from glasskernel.net.types import TCP_CLOSE

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import TcpSock
    from glasskernel.net.skbuff import SkBuff


@notrace
def __pskb_trim_head(skb: SkBuff, length: int) -> None:
    frags = skb.shinfo.frags
    left = length
    while left:
        size = len(frags[0])
        if left < size:
            frags[0] = memoryview(frags[0])[left:]
            break
        del frags[0]
        left -= size
    skb.len -= length
    skb.data_len -= length


def tcp_trim_head(sk: TcpSock, skb: SkBuff, length: int) -> None:
    """The first bytes of a segment were acknowledged."""
    skb_unclone(skb)
    __pskb_trim_head(skb, length)
    tcb: TcpSkbCb = skb.cb
    tcb.seq = tcb.seq + length & 0xFFFFFFFF
    skb.truesize -= length
    sk.sk_wmem_queued -= length
    sk_mem_uncharge(sk, length)
    if tcb.tcp_gso_segs > 1:
        tcp_set_skb_tso_segs(skb, tcb.tcp_gso_size)


# ---- retransmission ---------------------------------------------------------------------------------------------
def __tcp_retransmit_skb(sk: TcpSock, skb: SkBuff, segs: int) -> int:
    """Sends a segment again, at most `segs` MSS of it. 0, or a negative errno."""
    if sk.sk_wmem_alloc > min(sk.sk_wmem_queued + (sk.sk_wmem_queued >> 2), sk.sk_sndbuf):
        return -EAGAIN
    tcb: TcpSkbCb = skb.cb
    if before(tcb.seq, sk.snd_una):
        tcp_trim_head(sk, skb, sk.snd_una - tcb.seq & 0xFFFFFFFF)
    cur_mss = tcp_current_mss(sk)
    if not before(tcb.seq, tcp_wnd_end(sk)) and tcb.seq != sk.snd_una:
        return -EAGAIN                   # the window has shrunk; its first segment is sent to probe it
    length = cur_mss * segs
    if skb.len > length:
        tcp_fragment(sk, skb, length, cur_mss, True)
    else:
        skb_unclone(skb)
        diff = tcb.tcp_gso_segs
        tcp_set_skb_tso_segs(skb, cur_mss)
        diff -= tcb.tcp_gso_segs
        if diff:
            tcp_adjust_pcount(sk, tcb, diff)
    segs = tcb.tcp_gso_segs
    mib = sk.sk_net.mib
    mib.tcp["RetransSegs"] += segs
    if tcb.tcp_flags & TCPHDR_SYN:
        mib.net["TCPSynRetrans"] += 1
    sk.total_retrans += segs
    sk.bytes_retrans += skb.len
    err = tcp_transmit_skb(sk, skb, True)
    tcb.sacked |= TCPCB_EVER_RETRANS
    if not err:
        probe = sk.sk_net.kernel.tp.tcp_retransmit_skb
        if probe is not None:
            probe(sk, skb)
    else:
        mib.net["TCPRetransFail"] += segs
    return err


def tcp_retransmit_skb(sk: TcpSock, skb: SkBuff, segs: int) -> int:
    err = __tcp_retransmit_skb(sk, skb, segs)
    tcb: TcpSkbCb = skb.cb
    if not err:
        tcb.sacked |= TCPCB_SACKED_RETRANS | TCPCB_EVER_RETRANS
        sk.retrans_out += tcb.tcp_gso_segs
    if not sk.retrans_stamp:             # of the first retransmission: RTOs and undoing look at it
        sk.retrans_stamp = tcb.skb_mstamp_ns // 1000000
    sk.undo_retrans = max(sk.undo_retrans, 0) + tcb.tcp_gso_segs
    return err


def tcp_xmit_retransmit_queue(sk: TcpSock) -> None:
    """Sends what is marked as lost, oldest first."""
    if not sk.packets_out:
        return
    max_segs = tcp_tso_segs(sk, tcp_current_mss(sk))
    mib = sk.sk_net.mib.net
    head = sk.tcp_rtx_queue[0]
    for skb in tuple(sk.tcp_rtx_queue):
        segs = sk.snd_cwnd - tcp_packets_in_flight(sk)
        if segs <= 0 or sk.retrans_out >= sk.lost_out:
            return
        tcb: TcpSkbCb = skb.cb
        sacked = tcb.sacked
        if not sacked & TCPCB_LOST or sacked & (TCPCB_SACKED_ACKED | TCPCB_SACKED_RETRANS):
            continue
        mib["TCPFastRetrans" if sk.icsk_ca_state != TCP_CA_Loss else "TCPSlowStartRetrans"] += 1
        if tcp_small_queue_check(sk, skb, 1) or tcp_retransmit_skb(sk, skb, min(segs, max_segs)):
            return
        if sk.icsk_ca_state in (TCP_CA_CWR, TCP_CA_Recovery):
            sk.prr_out += tcb.tcp_gso_segs
        if skb is head and sk.icsk_pending != ICSK_TIME_REO_TIMEOUT:
            inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, sk.icsk_rto, TCP_RTO_MAX)


def tcp_send_loss_probe(sk: TcpSock) -> None:
    """No ACK for two round trips: new data, or the last segment again, so that the peer tells what is missing."""
    if not sk.tlp_high_seq:
        mss = tcp_current_mss(sk)
        sent = False
        skb = tcp_send_head(sk)
        if skb is not None and tcp_snd_wnd_test(sk, skb, mss):
            pcount = sk.packets_out
            tcp_write_xmit(sk, mss, TCP_NAGLE_OFF, 2)
            sent = sk.packets_out > pcount
        elif sk.tcp_rtx_queue:
            skb = sk.tcp_rtx_queue[-1]
            pcount = skb.cb.tcp_gso_segs
            if pcount > 1 and skb.len > (pcount - 1) * mss:
                tcp_fragment(sk, skb, (pcount - 1) * mss, mss, True)
                skb = sk.tcp_rtx_queue[-1]
            if not __tcp_retransmit_skb(sk, skb, 1):
                sk.tlp_high_seq = sk.snd_nxt
                sent = True
        else:
            sk.icsk_pending = 0
            return
        if sent:
            sk.sk_net.mib.net["TCPLossProbes"] += 1
            sk.icsk_pending = 0          # so that the timer below starts anew
    tcp_rearm_rto(sk)


# ---- probes of a closed window, and of the peer's life ------------------------------------------------------------
def tcp_xmit_probe_skb(sk: TcpSock, urgent: bool, mib: str) -> int:
    """An empty packet with a number that is acknowledged already: the peer has to answer."""
    skb = alloc_nondata_skb(sk.snd_una - (not urgent) & 0xFFFFFFFF, TCPHDR_ACK)
    sk.sk_net.mib.net[mib] += 1
    return tcp_transmit_skb(sk, skb, False)


def tcp_write_wakeup(sk: TcpSock, mib: str) -> int:
    """As much data as the window takes, or a probe. 0, or an error."""
    if sk.sk_state == TCP_CLOSE:
        return -1
    skb = tcp_send_head(sk)
    tcp_mstamp_refresh(sk)
    if skb is not None and before(skb.cb.seq, tcp_wnd_end(sk)):
        tcb: TcpSkbCb = skb.cb
        mss = tcp_current_mss(sk)
        seg_size = tcp_wnd_end(sk) - tcb.seq & 0xFFFFFFFF
        if before(sk.pushed_seq, tcb.end_seq):
            sk.pushed_seq = tcb.end_seq
        if seg_size < (tcb.end_seq - tcb.seq & 0xFFFFFFFF) or skb.len > mss:
            seg_size = min(seg_size, mss)
            tcb.tcp_flags |= TCPHDR_PSH
            tcp_fragment(sk, skb, seg_size, mss, False)
        elif not tcb.tcp_gso_segs:
            tcp_set_skb_tso_segs(skb, mss)
        tcb.tcp_flags |= TCPHDR_PSH
        err = tcp_transmit_skb(sk, skb, True)
        if not err:
            tcp_event_new_data_sent(sk, skb)
        return err
    if between(sk.snd_up, sk.snd_una + 1 & 0xFFFFFFFF, sk.snd_una + 0xFFFF & 0xFFFFFFFF):
        tcp_xmit_probe_skb(sk, True, mib)
    return tcp_xmit_probe_skb(sk, False, mib)


def tcp_send_probe0(sk: TcpSock) -> None:
    """The probe timer fired: asks whether the window is still closed, twice as late each time."""
    err = tcp_write_wakeup(sk, "TCPWinProbe")
    if sk.packets_out or not sk.sk_write_queue.q:
        sk.icsk_probes_out = sk.icsk_backoff = 0
        return
    sk.icsk_probes_out += 1
    if err <= 0:
        if sk.icsk_backoff < sk.sk_net.ipv4.sysctl["tcp_retries2"]:
            sk.icsk_backoff += 1
        timeout = tcp_probe0_when(sk, TCP_RTO_MAX)
    else:
        timeout = TCP_RESOURCE_PROBE_INTERVAL
    inet_csk_reset_xmit_timer(sk, ICSK_TIME_PROBE0, timeout, TCP_RTO_MAX)
