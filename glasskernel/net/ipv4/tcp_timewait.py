"""A connection turns into a timewait sock, and what that answers.

Linux: net/ipv4/tcp_minisocks.c (5.3). Same: TIME_WAIT lasts 60 s, FIN_WAIT2 without an owner until tcp_fin_timeout; a
new SYN may take the place of an old connection; RFC 1337 (tcp_rfc1337), late packets. Locks: softirq, or owner.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.softirq import local_bh_disable, local_bh_enable
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.inet_timewait_sock import (
    inet_twsk_alloc,
    inet_twsk_deschedule_put,
    inet_twsk_hashdance,
    inet_twsk_put,
    inet_twsk_reschedule,
    inet_twsk_schedule,
)
from glasskernel.net.ipv4.tcp_parse import tcp_parse_options
from glasskernel.net.ipv4.tcp_state import tcp_done
from glasskernel.net.ipv4.tcp_types import (
    TCP_PAWS_24DAYS,
    TCP_TIMEWAIT_LEN,
    TCPHDR_ACK,
    TCPHDR_FIN,
    TCPHDR_RST,
    TCPHDR_SYN,
    TcpOptionsReceived,
    after,
    before,
    s32,
    tcp_receive_window,
)
from glasskernel.net.types import TCP_FIN_WAIT2, TCP_TIME_WAIT

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import TcpHdr, TcpSock, TimewaitSock
    from glasskernel.net.skbuff import SkBuff

TCP_TW_SUCCESS, TCP_TW_RST, TCP_TW_ACK, TCP_TW_SYN = range(4)


def tcp_time_wait(sk: TcpSock, state: int, timeo: int) -> None:
    """The sock ends; a small one answers for it, for `timeo` jiffies at least."""
    tw = inet_twsk_alloc(sk, state)
    if tw is not None:
        rto = (sk.icsk_rto << 2) - (sk.icsk_rto >> 1)
        tw.tw_rcv_wscale = sk.rx_opt.rcv_wscale
        tw.tw_rcv_nxt, tw.tw_snd_nxt = sk.rcv_nxt, sk.snd_nxt
        tw.tw_rcv_wnd = tcp_receive_window(sk)
        tw.tw_ts_recent, tw.tw_ts_recent_stamp = sk.rx_opt.ts_recent, sk.rx_opt.ts_recent_stamp
        tw.tw_ts_offset = sk.tsoffset
        timeo = max(timeo, rto)
        if state == TCP_TIME_WAIT:
            timeo = TCP_TIMEWAIT_LEN
        # No softirq in between: the timer must not fire before all references exist.
        local_bh_disable()
        inet_twsk_schedule(tw, timeo)
        inet_twsk_hashdance(tw, sk)
        local_bh_enable()
    else:
        sk.sk_net.mib.net["TCPTimeWaitOverflow"] += 1
    tcp_done(sk)


@notrace
def tcp_in_window(seq: int, end_seq: int, s_win: int, e_win: int) -> bool:
    if seq == s_win or (after(end_seq, s_win) and before(seq, e_win)):
        return True
    return seq == e_win and seq == end_seq


@notrace
def tcp_paws_check(opt: TcpOptionsReceived, win: int, now_s: int) -> bool:
    """The timestamp is not older than the last one (PAWS)."""
    if s32(opt.ts_recent - opt.rcv_tsval) <= win:
        return True
    if now_s >= opt.ts_recent_stamp + TCP_PAWS_24DAYS:
        return True
    return not opt.ts_recent             # some stacks send 0 in a SYN


@notrace
def tcp_paws_reject(opt: TcpOptionsReceived, rst: int, now_s: int) -> bool:
    if tcp_paws_check(opt, 0, now_s):
        return False
    return not rst or now_s < opt.ts_recent_stamp + 60


@notrace
def tcp_timewait_check_oow_rate_limit(tw: TimewaitSock, mib: str) -> int:
    """A packet that does not fit: ACK it, but not too often."""
    now = register.task.kernel.time.jiffies
    last = tw.tw_last_oow_ack_time
    if last and now - last < tw.sk_net.ipv4.sysctl["tcp_invalid_ratelimit"] * HZ // 1000:
        tw.sk_net.mib.net[mib] += 1
        inet_twsk_put(tw)
        return TCP_TW_SUCCESS
    tw.tw_last_oow_ack_time = now
    return TCP_TW_ACK                    # which drops the reference


def tcp_timewait_state_process(tw: TimewaitSock, skb: SkBuff, th: TcpHdr) -> tuple[int, int]:
    """A packet for a timewait sock. Answers TCP_TW_*, and for SYN the first sequence number of the new connection.

    The reference is gone afterwards, unless the answer is ACK, RST or SYN.
    """
    tcb = skb.cb
    net = tw.sk_net
    now_s = net.kernel.machine.now() // 1000000000
    opt = TcpOptionsReceived()
    paws_reject = False
    if th.doff > 20 and tw.tw_ts_recent_stamp:
        tcp_parse_options(net, skb, th, opt, False)
        if opt.saw_tstamp:
            opt.ts_recent, opt.ts_recent_stamp = tw.tw_ts_recent, tw.tw_ts_recent_stamp
            paws_reject = tcp_paws_reject(opt, th.flags & TCPHDR_RST, now_s)
    flags = th.flags
    if tw.tw_substate == TCP_FIN_WAIT2:
        if paws_reject or not tcp_in_window(tcb.seq, tcb.end_seq, tw.tw_rcv_nxt,
                                            tw.tw_rcv_nxt + tw.tw_rcv_wnd & 0xFFFFFFFF):
            return tcp_timewait_check_oow_rate_limit(tw, "TCPACKSkippedFinWait2"), 0
        if flags & TCPHDR_RST:
            inet_twsk_deschedule_put(tw)
            return TCP_TW_SUCCESS, 0
        if flags & TCPHDR_SYN and not before(tcb.seq, tw.tw_rcv_nxt):
            return TCP_TW_RST, 0
        if not flags & TCPHDR_ACK or not after(tcb.end_seq, tw.tw_rcv_nxt) or tcb.end_seq == tcb.seq:
            inet_twsk_put(tw)            # a duplicate
            return TCP_TW_SUCCESS, 0
        if not flags & TCPHDR_FIN or tcb.end_seq != tw.tw_rcv_nxt + 1 & 0xFFFFFFFF:
            return TCP_TW_RST, 0         # data for somebody who has gone
        tw.tw_substate = TCP_TIME_WAIT
        tw.tw_rcv_nxt = tcb.end_seq
        if opt.saw_tstamp:
            tw.tw_ts_recent_stamp, tw.tw_ts_recent = now_s, opt.rcv_tsval
        inet_twsk_reschedule(tw, TCP_TIMEWAIT_LEN)
        return TCP_TW_ACK, 0
    if not paws_reject and tcb.seq == tw.tw_rcv_nxt and (tcb.seq == tcb.end_seq or flags & TCPHDR_RST):
        if flags & TCPHDR_RST:
            # An RST ends TIME_WAIT only if nobody asked for protection against it (RFC 1337).
            if not net.ipv4.sysctl["tcp_rfc1337"]:
                inet_twsk_deschedule_put(tw)
                return TCP_TW_SUCCESS, 0
        else:
            inet_twsk_reschedule(tw, TCP_TIMEWAIT_LEN)
        if opt.saw_tstamp:
            tw.tw_ts_recent, tw.tw_ts_recent_stamp = opt.rcv_tsval, now_s
        inet_twsk_put(tw)
        return TCP_TW_SUCCESS, 0
    if flags & TCPHDR_SYN and not flags & (TCPHDR_RST | TCPHDR_ACK) and not paws_reject and (
            after(tcb.seq, tw.tw_rcv_nxt) or (opt.saw_tstamp and s32(tw.tw_ts_recent - opt.rcv_tsval) < 0)):
        return TCP_TW_SYN, tw.tw_snd_nxt + 65535 + 2 & 0xFFFFFFFF or 1
    if paws_reject:
        net.mib.net["PAWSEstab"] += 1
    if not flags & TCPHDR_RST:
        # A FIN that came again starts the time anew.
        if paws_reject or flags & TCPHDR_ACK:
            inet_twsk_reschedule(tw, TCP_TIMEWAIT_LEN)
        return tcp_timewait_check_oow_rate_limit(tw, "TCPACKSkippedTimeWait"), 0
    inet_twsk_put(tw)
    return TCP_TW_SUCCESS, 0
