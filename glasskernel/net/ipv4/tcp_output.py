"""What is sent now: as much of the write queue as both windows allow.

Linux: net/ipv4/tcp_output.c (5.3), the write queue. Same: Nagle and Minshall, TSO deferral and sizes, small queues, the
timers that sending starts. Differs: the retransmit queue is a deque. Retransmissions are in tcp_retransmit.py, packets
without data in tcp_control.py.
Invariants: snd_una <= snd_nxt <= write_seq; packets_out is the number of segments in tcp_rtx_queue; sk_write_queue
    begins at snd_nxt; sk_wmem_queued is the truesize of both.
Locks: sk's owner, or softirq while nobody owns it.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.time.timekeeping import usecs_to_jiffies
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.types import notrace
from glasskernel.net.core.sock_memory import sk_mem_charge, sk_mem_uncharge
from glasskernel.net.ipv4.inet_connection_sock import inet_csk_reset_xmit_timer
from glasskernel.net.ipv4.tcp_transmit import tcp_transmit_skb
from glasskernel.net.ipv4.tcp_types import (
    ICSK_TIME_LOSS_PROBE,
    ICSK_TIME_PROBE0,
    ICSK_TIME_REO_TIMEOUT,
    ICSK_TIME_RETRANS,
    MAX_TCP_HEADER,
    TCP_CA_CWR,
    TCP_CHRONO_BUSY,
    TCP_CHRONO_RWND_LIMITED,
    TCP_CHRONO_UNSPEC,
    TCP_NAGLE_CORK,
    TCP_NAGLE_OFF,
    TCP_NAGLE_PUSH,
    TCP_RTO_MAX,
    TCP_RTO_MIN,
    TCP_TIMEOUT_INIT,
    TCP_TIMEOUT_MIN,
    TCPHDR_FIN,
    TCPHDR_PSH,
    TSQ_THROTTLED,
    TCP_CA_Open,
    TCP_CA_Recovery,
    TcpSkbCb,
    after,
    tcp_wnd_end,
)
from glasskernel.net.ipv4.tcp_window import tcp_current_mss, tcp_cwnd_validate, tcp_mstamp_refresh
from glasskernel.net.skbuff import CHECKSUM_PARTIAL, SkBuff, pskb_expand_head
from glasskernel.net.types import TCP_CLOSE

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import TcpSock


# ---- queues ---------------------------------------------------------------------------------------------------
@notrace
def tcp_send_head(sk: TcpSock) -> SkBuff | None:
    """The first segment that was not sent."""
    queue = sk.sk_write_queue.q
    return queue[0] if queue else None


@notrace
def tcp_rtx_queue_head(sk: TcpSock) -> SkBuff | None:
    return sk.tcp_rtx_queue[0] if sk.tcp_rtx_queue else None


@notrace
def tcp_wmem_free_skb(sk: TcpSock, skb: SkBuff) -> None:
    """A segment that nobody needs any more leaves the send buffer."""
    sk.sk_wmem_queued -= skb.truesize
    sk_mem_uncharge(sk, skb.truesize)
    skb.users -= 1
    if not skb.users:
        skb.shinfo.dataref -= 1          # __kfree_skb(): it has neither route nor owner


@notrace
def tcp_add_write_queue_tail(sk: TcpSock, skb: SkBuff) -> None:
    sk.sk_write_queue.q.append(skb)
    if len(sk.sk_write_queue.q) == 1:
        tcp_chrono_start(sk, TCP_CHRONO_BUSY)


@notrace
def tcp_queue_skb(sk: TcpSock, skb: SkBuff) -> None:
    """A packet without data (FIN) waits for its turn behind all data."""
    tcb: TcpSkbCb = skb.cb
    sk.write_seq = tcb.end_seq
    tcp_add_write_queue_tail(sk, skb)
    sk.sk_wmem_queued += skb.truesize
    sk_mem_charge(sk, skb.truesize)


def tcp_chrono_start(sk: TcpSock, kind: int) -> None:
    """Counts the time in which we are busy, or limited by something; the more special reason wins."""
    if kind > sk.chrono_type:
        tcp_chrono_set(sk, kind)


def tcp_chrono_stop(sk: TcpSock, kind: int) -> None:
    if not sk.tcp_rtx_queue and not sk.sk_write_queue.q:
        tcp_chrono_set(sk, TCP_CHRONO_UNSPEC)
    elif kind == sk.chrono_type:
        tcp_chrono_set(sk, TCP_CHRONO_BUSY)


@notrace
def tcp_chrono_set(sk: TcpSock, new: int) -> None:
    now = register.task.kernel.time.jiffies
    old = sk.chrono_type
    if old > TCP_CHRONO_UNSPEC:
        sk.chrono_stat[old - 1] += now - sk.chrono_start
    sk.chrono_start = now
    sk.chrono_type = new


@notrace
def tcp_set_skb_tso_segs(skb: SkBuff, mss_now: int) -> None:
    tcb: TcpSkbCb = skb.cb
    if skb.len <= mss_now:
        tcb.tcp_gso_segs = 1
        tcb.tcp_gso_size = 0
    else:
        tcb.tcp_gso_segs = -(-skb.len // mss_now)
        tcb.tcp_gso_size = mss_now


@notrace
def skb_unclone(skb: SkBuff) -> None:
    """The fragments become the skb's own, so that it may be cut; what it is charged for stays."""
    if skb.shinfo.dataref != 1:
        pskb_expand_head(skb, 0, 0)


@notrace
def skb_split(skb: SkBuff, skb1: SkBuff, length: int) -> None:
    """The data behind `length` moves to skb1. TCP's data is all in fragments."""
    frags = skb.shinfo.frags
    moved = []
    room = length
    for i, frag in enumerate(frags):
        if room < len(frag):
            if room:
                view = memoryview(frag)
                moved = [view[room:], *frags[i + 1 :]]
                frags[i] = view[:room]
                del frags[i + 1 :]
            else:
                moved = frags[i:]
                del frags[i:]
            break
        room -= len(frag)
    skb1.shinfo.frags = moved
    skb1.len = skb1.data_len = skb.len - length
    skb.len = skb.data_len = length


def tcp_fragment(sk: TcpSock, skb: SkBuff, length: int, mss_now: int, rtx: bool) -> None:
    """Cuts a segment in two, behind `length` bytes. rtx: it is in the retransmit queue."""
    assert 0 < length < skb.len
    skb_unclone(skb)
    buff = SkBuff(MAX_TCP_HEADER)
    buff.data = buff.tail = MAX_TCP_HEADER
    tcb: TcpSkbCb = skb.cb
    nlen = skb.len - length
    sk.sk_wmem_queued += buff.truesize
    sk_mem_charge(sk, buff.truesize)
    buff.truesize += nlen                # what moves is charged already
    skb.truesize -= nlen
    new = tcb.copy()
    buff.cb = new
    new.seq = tcb.seq + length & 0xFFFFFFFF
    tcb.end_seq = new.seq
    tcb.tcp_flags &= ~(TCPHDR_FIN | TCPHDR_PSH)
    tcb.eor = False
    skb_split(skb, buff, length)
    buff.ip_summed = CHECKSUM_PARTIAL
    old_factor = tcb.tcp_gso_segs
    tcp_set_skb_tso_segs(skb, mss_now)
    tcp_set_skb_tso_segs(buff, mss_now)
    if rtx:
        diff = old_factor - tcb.tcp_gso_segs - new.tcp_gso_segs
        if diff and not after(new.end_seq, sk.snd_nxt):
            tcp_adjust_pcount(sk, tcb, diff)
        queue = sk.tcp_rtx_queue
    else:
        queue = sk.sk_write_queue.q
    queue.insert(queue.index(skb) + 1, buff)


@notrace
def tcp_adjust_pcount(sk: TcpSock, tcb: TcpSkbCb, decr: int) -> None:
    """A segment in flight counts for `decr` packets less."""
    sk.packets_out -= decr
    if tcb.sacked & 1:
        sk.sacked_out -= decr
    if tcb.sacked & 2:
        sk.retrans_out -= decr
    if tcb.sacked & 4:
        sk.lost_out -= decr


# ---- may it go? -------------------------------------------------------------------------------------------------
@notrace
def tcp_tso_segs(sk: TcpSock, mss_now: int) -> int:
    """How many segments an skb should have: a millisecond's worth."""
    size = min(sk.sk_pacing_rate >> 10, sk.sk_gso_max_size - 1 - MAX_TCP_HEADER)
    least: int = sk.sk_net.ipv4.sysctl["tcp_min_tso_segs"]
    return min(max(size // mss_now, least), sk.sk_gso_max_segs)


@notrace
def tcp_snd_wnd_test(sk: TcpSock, skb: SkBuff, cur_mss: int) -> bool:
    """The next segment fits into the peer's window."""
    tcb: TcpSkbCb = skb.cb
    end_seq = tcb.seq + cur_mss & 0xFFFFFFFF if skb.len > cur_mss else tcb.end_seq
    return not after(end_seq, tcp_wnd_end(sk))


@notrace
def tcp_nagle_test(sk: TcpSock, skb: SkBuff, cur_mss: int, nonagle: int) -> bool:
    """False: a short segment waits until more data or an ACK comes."""
    if nonagle & TCP_NAGLE_PUSH:
        return True
    tcb: TcpSkbCb = skb.cb
    if (sk.snd_una != sk.snd_up) or tcb.tcp_flags & TCPHDR_FIN:
        return True
    if skb.len >= cur_mss:
        return True
    if nonagle & TCP_NAGLE_CORK:
        return False
    if nonagle or not sk.packets_out:
        return True
    # Minshall: wait only while another short segment is out
    return not (after(sk.snd_sml, sk.snd_una) and not after(sk.snd_sml, sk.snd_nxt))


@notrace
def tcp_mss_split_point(sk: TcpSock, skb: SkBuff, mss_now: int, max_segs: int, nonagle: int) -> int:
    """How many bytes of the segment to send."""
    window: int = tcp_wnd_end(sk) - skb.cb.seq & 0xFFFFFFFF
    max_len = mss_now * max_segs
    if max_len <= window and skb is not sk.sk_write_queue.q[-1]:
        return max_len
    needed = min(skb.len, window)
    if max_len <= needed:
        return max_len
    partial = needed % mss_now
    # Do not send a short end now if Nagle would keep it back.
    if partial and skb.len > partial and not nonagle & TCP_NAGLE_OFF and not (
            nonagle & TCP_NAGLE_PUSH) and (nonagle & TCP_NAGLE_CORK or (
                sk.packets_out and after(sk.snd_sml, sk.snd_una) and not after(sk.snd_sml, sk.snd_nxt))):
        return needed - partial
    return needed


def tcp_tso_should_defer(sk: TcpSock, skb: SkBuff, in_flight: int, max_segs: int) -> tuple[bool, bool, bool]:
    """(wait for a bigger segment, the congestion window is why, the receive window is why)"""
    if sk.icsk_ca_state >= TCP_CA_Recovery or register.task.kernel.time.jiffies - sk.lsndtime > 1:
        return False, False, False
    send_win = tcp_wnd_end(sk) - skb.cb.seq & 0xFFFFFFFF
    cong_win = (sk.snd_cwnd - in_flight) * sk.mss_cache
    limit = min(send_win, cong_win)
    if limit >= max_segs * sk.mss_cache:
        return False, False, False
    if skb is not sk.sk_write_queue.q[-1] and limit >= skb.len:
        return False, False, False
    win_divisor = sk.sk_net.ipv4.sysctl["tcp_tso_win_divisor"]
    if win_divisor:
        if limit >= min(sk.snd_wnd, sk.snd_cwnd * sk.mss_cache) // win_divisor:
            return False, False, False
    elif limit > 3 * sk.mss_cache:
        return False, False, False
    head = tcp_rtx_queue_head(sk)
    if head is None or sk.tcp_clock_cache - head.cb.skb_mstamp_ns < 1000 * (sk.srtt_us >> 4):
        return False, False, False       # the next ACK is far away
    if cong_win < send_win:
        if cong_win <= skb.len:
            return True, True, False
    elif send_win <= skb.len:
        return True, False, True
    if skb.cb.tcp_flags & TCPHDR_FIN or skb.cb.eor:
        return False, False, False
    return True, False, False


def tcp_small_queue_check(sk: TcpSock, skb: SkBuff, factor: int) -> bool:
    """True: enough of ours waits below already; tcp_wfree() will go on."""
    most: int = sk.sk_net.ipv4.sysctl["tcp_limit_output_bytes"]
    limit = min(max(2 * skb.truesize, sk.sk_pacing_rate >> 10), most) << factor
    if sk.sk_wmem_alloc <= limit:
        return False
    # The first one always goes: its ACK starts the clock.
    if not sk.tcp_rtx_queue:
        return False
    sk.tsq_flags |= TSQ_THROTTLED
    return sk.sk_wmem_alloc > limit


# ---- sending ------------------------------------------------------------------------------------------------------
def tcp_event_new_data_sent(sk: TcpSock, skb: SkBuff) -> None:
    """The first of the write queue was sent: it waits for its ACK now, and the timer runs."""
    prior_packets = sk.packets_out
    tcb: TcpSkbCb = skb.cb
    sk.snd_nxt = tcb.end_seq
    sk.sk_write_queue.q.popleft()
    sk.tcp_rtx_queue.append(skb)
    sk.packets_out += tcb.tcp_gso_segs
    if not prior_packets or sk.icsk_pending == ICSK_TIME_LOSS_PROBE:
        tcp_rearm_rto(sk)
    sk.sk_net.mib.net["TCPOrigDataSent"] += tcb.tcp_gso_segs


def tcp_write_xmit(sk: TcpSock, mss_now: int, nonagle: int, push_one: int) -> bool:
    """Sends from the write queue. push_one: 1 one segment, 2 one segment as a loss probe.

    True: nothing is in flight, although there is data (the peer's window is closed): a probe timer has to run.
    """
    sent_pkts = 0
    is_cwnd_limited = is_rwnd_limited = False
    queue = sk.sk_write_queue.q
    tcp_mstamp_refresh(sk)
    max_segs = tcp_tso_segs(sk, mss_now)
    while queue:
        skb = queue[0]
        tcb: TcpSkbCb = skb.cb
        tso_segs = tcb.tcp_gso_segs
        if not tso_segs or (tso_segs > 1 and tcb.tcp_gso_size != mss_now):
            tcp_set_skb_tso_segs(skb, mss_now)
            tso_segs = tcb.tcp_gso_segs
        in_flight = sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out
        cwnd = sk.snd_cwnd               # tcp_cwnd_test()
        if in_flight >= cwnd:
            is_cwnd_limited = True
            if push_one != 2:
                break
            cwnd_quota = 1               # a loss probe goes anyway
        else:
            cwnd_quota = min(max(cwnd >> 1, 1), cwnd - in_flight)
        if not tcp_snd_wnd_test(sk, skb, mss_now):
            is_rwnd_limited = True
            break
        if tso_segs == 1:
            is_last = len(queue) == 1
            if not tcp_nagle_test(sk, skb, mss_now, nonagle if is_last else TCP_NAGLE_PUSH):
                break
        elif not push_one:
            defer, cwnd_limits, rwnd_limits = tcp_tso_should_defer(sk, skb, in_flight, max_segs)
            if defer:
                is_cwnd_limited |= cwnd_limits
                is_rwnd_limited |= rwnd_limits
                break
        limit = mss_now
        if tso_segs > 1 and sk.snd_una == sk.snd_up:
            limit = tcp_mss_split_point(sk, skb, mss_now, min(cwnd_quota, max_segs), nonagle)
        if skb.len > limit:
            tcp_fragment(sk, skb, limit, mss_now, False)
        if tcp_small_queue_check(sk, skb, 0):
            break
        # Two more of these may fail; then the ACKs and the timer will try again.
        if tcp_transmit_skb(sk, skb, True):
            break
        tcp_event_new_data_sent(sk, skb)
        if skb.len < mss_now:            # tcp_minshall_update()
            sk.snd_sml = tcb.end_seq
        sent_pkts += tcb.tcp_gso_segs
        if push_one:
            break
    if is_rwnd_limited:
        tcp_chrono_start(sk, TCP_CHRONO_RWND_LIMITED)
    else:
        tcp_chrono_stop(sk, TCP_CHRONO_RWND_LIMITED)
    if sent_pkts:
        if sk.icsk_ca_state in (TCP_CA_CWR, TCP_CA_Recovery):
            sk.prr_out += sent_pkts
        if push_one != 2:
            tcp_schedule_loss_probe(sk, False)
        in_flight = sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out
        tcp_cwnd_validate(sk, is_cwnd_limited or in_flight >= sk.snd_cwnd)
        return False
    return not sk.packets_out and bool(queue)


def __tcp_push_pending_frames(sk: TcpSock, cur_mss: int, nonagle: int) -> None:
    """Sends what may be sent; starts the probe timer if nothing may."""
    if sk.sk_state == TCP_CLOSE:
        return
    if tcp_write_xmit(sk, cur_mss, nonagle, 0):
        tcp_check_probe_timer(sk)


@notrace
def tcp_push_pending_frames(sk: TcpSock) -> None:
    if sk.sk_write_queue.q:
        __tcp_push_pending_frames(sk, tcp_current_mss(sk), sk.nonagle)


@notrace
def tcp_probe0_base(sk: TcpSock) -> int:
    return max(sk.icsk_rto, TCP_RTO_MIN)


@notrace
def tcp_probe0_when(sk: TcpSock, max_when: int) -> int:
    return min(tcp_probe0_base(sk) << sk.icsk_backoff, max_when)


@notrace
def tcp_check_probe_timer(sk: TcpSock) -> None:
    if not sk.packets_out and not sk.icsk_pending:
        inet_csk_reset_xmit_timer(sk, ICSK_TIME_PROBE0, tcp_probe0_base(sk), TCP_RTO_MAX)


def tcp_push_one(sk: TcpSock, mss_now: int) -> None:
    """Sends one full segment, while the program still writes."""
    assert sk.sk_write_queue.q[0].len >= mss_now
    tcp_write_xmit(sk, mss_now, TCP_NAGLE_PUSH, 1)


# ---- the timers that sending starts -------------------------------------------------------------------------------
@notrace
def tcp_rto_delta_us(sk: TcpSock) -> int:
    """us until the first segment in flight is overdue."""
    skb = sk.tcp_rtx_queue[0]
    stamp: int = skb.cb.skb_mstamp_ns // 1000
    return stamp + sk.icsk_rto * (1000000 // HZ) - sk.tcp_mstamp


def tcp_rearm_rto(sk: TcpSock) -> None:
    """The retransmission timer follows the oldest segment in flight; off if there is none."""
    if not sk.packets_out:
        sk.icsk_pending = 0
        return
    rto = sk.icsk_rto
    if sk.icsk_pending in (ICSK_TIME_REO_TIMEOUT, ICSK_TIME_LOSS_PROBE):
        rto = usecs_to_jiffies(max(tcp_rto_delta_us(sk), 1)) or 1
    inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, rto, TCP_RTO_MAX)


def tcp_schedule_loss_probe(sk: TcpSock, advancing_rto: bool) -> bool:
    """After two round trips without an ACK the last segment is sent again, long before the RTO (RFC 8985's TLP)."""
    if (sk.sk_net.ipv4.sysctl["tcp_early_retrans"] not in (3, 4) or not sk.packets_out or not sk.rx_opt.sack_ok
            or sk.icsk_ca_state not in (TCP_CA_Open, TCP_CA_CWR)):
        return False
    if sk.srtt_us:
        timeout = usecs_to_jiffies(sk.srtt_us >> 2)
        timeout += TCP_RTO_MIN if sk.packets_out == 1 else TCP_TIMEOUT_MIN
    else:
        timeout = TCP_TIMEOUT_INIT
    rto_delta_us = sk.icsk_rto * (1000000 // HZ) if advancing_rto else tcp_rto_delta_us(sk)
    if rto_delta_us > 0:
        timeout = min(timeout, usecs_to_jiffies(rto_delta_us))
    inet_csk_reset_xmit_timer(sk, ICSK_TIME_LOSS_PROBE, timeout, TCP_RTO_MAX)
    return True
