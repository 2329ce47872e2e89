"""A segment leaves: its header and options, and what happens when the device has sent it.

Linux: net/ipv4/tcp_output.c (5.3), __tcp_transmit_skb() and TCP small queues. Same: a clone goes down, the original
waits to be acknowledged; at most a millisecond of data waits below TCP (TSQ), a tasklet goes
on when the device has sent it. Differs: options are packed at once.
Locks: sk's owner, or softirq while nobody owns it. Gaps: MD5 signatures, ECN, Fast Open, pacing timer.
"""
from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.softirq import TaskletStruct, tasklet_init, tasklet_schedule
from glasskernel.lib.checksum import csum_tcpudp_nofold
from glasskernel.lib.errno import ENOBUFS, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.core.sock import __sk_free, sock_hold, sock_put
from glasskernel.net.ipv4.ip_output import ip_queue_xmit
from glasskernel.net.ipv4.tcp_types import (
    CA_EVENT_TX_START,
    MAX_TCP_HEADER,
    TCP_ATO_MIN,
    TCPHDR_ACK,
    TCPHDR_FIN,
    TCPHDR_SYN,
    TCPHDR_URG,
    TSQ_QUEUED,
    TSQ_THROTTLED,
    TcpSkbCb,
    after,
    before,
)
from glasskernel.net.ipv4.tcp_window import (
    tcp_advertise_mss,
    tcp_ca_event,
    tcp_enter_cwr,
    tcp_mss_clamp,
    tcp_select_window,
)
from glasskernel.net.skbuff import (
    CHECKSUM_PARTIAL,
    SKB_GSO_TCPV4,
    SkBuff,
    pskb_copy,
    skb_clone,
    skb_cloned,
    skb_orphan,
    skb_push,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.ipv4.tcp_types import TcpSock

_HEADER = Struct(">HHIIBBHHH")
_HEADER_TS = Struct(">HHIIBBHHHIII")
_TS_OPTION = 0x0101080A                  # NOP, NOP, timestamp, length 10


# ---- options --------------------------------------------------------------------------------------------------
@notrace
def tcp_skb_timestamp(skb: SkBuff) -> int:
    """ms"""
    ms: int = skb.cb.skb_mstamp_ns // 1000000
    return ms


@notrace
def _ts_option(tsval: int, tsecr: int) -> bytes:
    return b"\x01\x01\x08\x0a" + (tsval & 0xFFFFFFFF).to_bytes(4, "big") + tsecr.to_bytes(4, "big")


@notrace
def tcp_syn_options(sk: TcpSock, skb: SkBuff) -> bytes:
    """MSS, SACK permitted, timestamp, window scale: what we can do."""
    sysctl = sk.sk_net.ipv4.sysctl
    options = b"\x02\x04" + tcp_mss_clamp(sk, tcp_advertise_mss(sk)).to_bytes(2, "big")
    sack = sysctl["tcp_sack"]
    if sysctl["tcp_timestamps"]:
        stamp = (tcp_skb_timestamp(skb) + sk.tsoffset & 0xFFFFFFFF).to_bytes(4, "big")
        options += (b"\x04\x02" if sack else b"\x01\x01") + b"\x08\x0a" + stamp + sk.rx_opt.ts_recent.to_bytes(4, "big")
    elif sack:
        options += b"\x01\x01\x04\x02"
    if sysctl["tcp_window_scaling"]:
        options += b"\x01\x03\x03" + bytes([sk.rx_opt.rcv_wscale])
    return options


def tcp_established_options(sk: TcpSock, skb: SkBuff | None) -> bytes:
    """Timestamp and SACK blocks."""
    rx_opt = sk.rx_opt
    options = b""
    if rx_opt.tstamp_ok:
        tsval = (tcp_skb_timestamp(skb) if skb is not None else 0) + sk.tsoffset
        options = _ts_option(tsval, rx_opt.ts_recent)
    eff_sacks = rx_opt.num_sacks + rx_opt.dsack
    if eff_sacks:
        blocks = sk.selective_acks
        if rx_opt.dsack and sk.duplicate_sack is not None:
            blocks = [sk.duplicate_sack, *blocks]
        blocks = blocks[: min(eff_sacks, (36 - len(options)) // 8)]
        options += b"\x01\x01\x05" + bytes([2 + 8 * len(blocks)])
        for start, end in blocks:
            options += start.to_bytes(4, "big") + end.to_bytes(4, "big")
        rx_opt.dsack = False
    return options


# ---- sending --------------------------------------------------------------------------------------------------
@notrace
def tcp_dec_quickack_mode(sk: TcpSock, pkts: int) -> None:
    if sk.icsk_ack_quick:
        if pkts >= sk.icsk_ack_quick:
            sk.icsk_ack_quick = 0
            sk.icsk_ack_ato = TCP_ATO_MIN
        else:
            sk.icsk_ack_quick -= pkts


@notrace
def tcp_event_ack_sent(sk: TcpSock, pkts: int) -> None:
    tcp_dec_quickack_mode(sk, pkts)
    sk.icsk_ack_pending = 0              # inet_csk_clear_xmit_timer(sk, ICSK_TIME_DACK)
    sk.icsk_ack_blocked = False


@notrace
def tcp_event_data_sent(sk: TcpSock, in_flight: int) -> None:
    """Data goes out: a dialogue if the other side spoke just now."""
    now = register.task.kernel.time.jiffies
    if not in_flight:
        tcp_ca_event(sk, CA_EVENT_TX_START)
    # Answered within the delay of an ACK: our data carries the ACKs from now on.
    if sk.lsndtime < sk.icsk_ack_lrcvtime and now - sk.icsk_ack_lrcvtime < sk.icsk_ack_ato:
        sk.icsk_ack_pingpong = min(sk.icsk_ack_pingpong + 1, 255)
    sk.lsndtime = now


def tcp_v4_send_check(sk: TcpSock, skb: SkBuff) -> None:
    __tcp_v4_send_check(skb, sk.inet_saddr, sk.inet_daddr)


def __tcp_v4_send_check(skb: SkBuff, saddr: int, daddr: int) -> None:
    """The device shall fill in the checksum: only the pseudo header is in it now."""
    at = skb.transport_header
    pseudo = csum_tcpudp_nofold(saddr, daddr, skb.len, 6, 0) % 0xFFFF
    skb.head[at + 16] = pseudo >> 8
    skb.head[at + 17] = pseudo & 0xFF
    skb.csum_start = at
    skb.csum_offset = 16
    skb.ip_summed = CHECKSUM_PARTIAL


def __tcp_transmit_skb(sk: TcpSock, skb: SkBuff, clone_it: bool, rcv_nxt: int) -> int:
    """Builds the header and hands the segment to IP. clone_it: the caller keeps skb. 0, or a negative errno."""
    tcb: TcpSkbCb = skb.cb
    prior_wstamp = sk.tcp_clock_cache
    tcb.skb_mstamp_ns = prior_wstamp
    oskb = skb
    if clone_it:
        tcb.in_flight = sk.snd_nxt - sk.snd_una & 0xFFFFFFFF
        if skb_cloned(oskb):             # a device still has it: its header must stay as it is
            skb = pskb_copy(oskb)
        else:
            skb = skb_clone(oskb)
    flags = tcb.tcp_flags
    options = None
    if flags & TCPHDR_SYN:
        options = tcp_syn_options(sk, skb)
        header_size = 20 + len(options)
    elif sk.rx_opt.num_sacks or sk.rx_opt.dsack or not sk.rx_opt.tstamp_ok:
        options = tcp_established_options(sk, skb)
        header_size = 20 + len(options)
    else:
        header_size = 32
    in_flight = sk.packets_out - sk.sacked_out - sk.lost_out + sk.retrans_out
    at = skb_push(skb, header_size)
    skb.transport_header = at
    skb_orphan(skb)
    skb.sk = sk
    skb.destructor = tcp_wfree
    sk.sk_wmem_alloc += skb.truesize
    seq = tcb.seq
    window = min(sk.rcv_wnd, 65535) if flags & TCPHDR_SYN else tcp_select_window(sk)
    urg_ptr = 0
    if sk.snd_una != sk.snd_up and before(seq, sk.snd_up):               # tcp_urg_mode()
        if before(sk.snd_up, seq + 0x10000 & 0xFFFFFFFF):
            urg_ptr = sk.snd_up - seq & 0xFFFF
            flags |= TCPHDR_URG
        elif after(seq + 0xFFFF & 0xFFFFFFFF, sk.snd_nxt):
            urg_ptr = 0xFFFF
            flags |= TCPHDR_URG
    if options is None:
        tsval = tcb.skb_mstamp_ns // 1000000 + sk.tsoffset & 0xFFFFFFFF
        _HEADER_TS.pack_into(skb.head, at, sk.inet_sport, sk.inet_dport, seq, rcv_nxt, 0x80, flags, window, 0, urg_ptr,
                             _TS_OPTION, tsval, sk.rx_opt.ts_recent)
    else:
        _HEADER.pack_into(skb.head, at, sk.inet_sport, sk.inet_dport, seq, rcv_nxt if flags & TCPHDR_ACK else 0,
                          header_size << 2, flags, window, 0, urg_ptr)
        tcp_options_write(skb, at, options)
    shinfo = skb.shinfo
    shinfo.gso_type = SKB_GSO_TCPV4
    tcp_v4_send_check(sk, skb)
    if flags & TCPHDR_ACK:
        tcp_event_ack_sent(sk, tcb.tcp_gso_segs)
    data = skb.len != header_size
    if data:
        tcp_event_data_sent(sk, in_flight)
        sk.data_segs_out += tcb.tcp_gso_segs
        sk.bytes_sent += skb.len - header_size
    segs = tcb.tcp_gso_segs
    if after(tcb.end_seq, sk.snd_nxt) or tcb.seq == tcb.end_seq:
        sk.sk_net.mib.tcp["OutSegs"] += segs or 1
    sk.segs_out += segs
    shinfo.gso_segs = segs
    shinfo.gso_size = tcb.tcp_gso_size
    skb.cb = None
    try:
        err = ip_queue_xmit(sk, skb, sk.cork_fl4)
    except KernelError as e:
        err = -e.errno
    if err > 0:
        tcp_enter_cwr(sk)                # a queue is full: as good as a loss
        err = 0 if err == 2 else -ENOBUFS                                # NET_XMIT_CN: it goes nevertheless
    if not err and clone_it:
        tcp_rate_skb_sent(sk, oskb)
    return err


def tcp_options_write(skb: SkBuff, at: int, options: bytes) -> None:
    """Behind the fixed part of the header."""
    skb.head[at + 20 : at + 20 + len(options)] = options


@notrace
def tcp_transmit_skb(sk: TcpSock, skb: SkBuff, clone_it: bool) -> int:
    return __tcp_transmit_skb(sk, skb, clone_it, sk.rcv_nxt)


def tcp_rate_skb_sent(sk: TcpSock, skb: SkBuff) -> None:
    """Notes what was delivered when this was sent: the ACK will tell the rate."""
    tcb: TcpSkbCb = skb.cb
    if not sk.packets_out:
        sk.first_tx_mstamp = sk.delivered_mstamp = tcb.skb_mstamp_ns // 1000
    tcb.first_tx_mstamp = sk.first_tx_mstamp
    tcb.delivered_mstamp = sk.delivered_mstamp
    tcb.delivered = sk.delivered
    tcb.is_app_limited = bool(sk.app_limited)


# ---- small queues -----------------------------------------------------------------------------------------------
def tcp_wfree(skb: SkBuff) -> None:
    """The device has sent it. A sock that waited for that goes on in the tasklet. Context: any."""
    sk: TcpSock = skb.sk  # type: ignore[assignment]
    sk.sk_wmem_alloc -= skb.truesize
    if sk.tsq_flags & (TSQ_THROTTLED | TSQ_QUEUED) == TSQ_THROTTLED and sk.sk_refcnt:
        sk.tsq_flags = sk.tsq_flags & ~TSQ_THROTTLED | TSQ_QUEUED
        state = sk.sk_net.kernel.inet.tcp  # type: ignore[union-attr]
        sock_hold(sk)
        state.tsq.append(sk)
        tasklet_schedule(state.tsq_tasklet)
        return
    if not sk.sk_wmem_alloc and not sk.sk_refcnt:
        __sk_free(sk)


@notrace
def tcp_tasklet_init(kernel: Kernel, handler: object) -> TaskletStruct:
    """handler(sk): tcp_tsq_handler(), which stands above."""
    assert kernel.inet is not None
    tasklet = TaskletStruct(tcp_tasklet_func, (kernel.inet.tcp, handler))
    tasklet_init(tasklet, tcp_tasklet_func, (kernel.inet.tcp, handler))
    return tasklet


def tcp_tasklet_func(data: tuple) -> None:  # type: ignore[type-arg]
    """The socks whose packets have left. Context: softirq."""
    state, handler = data
    socks, state.tsq = state.tsq, []
    for sk in socks:
        sk.tsq_flags &= ~TSQ_QUEUED
        handler(sk)
        sock_put(sk)


# ---- empty packets -----------------------------------------------------------------------------------------------
@notrace
def tcp_init_nondata_skb(skb: SkBuff, seq: int, flags: int) -> None:
    """A packet without data; SYN and FIN take a number."""
    tcb = TcpSkbCb()
    tcb.tcp_flags = flags
    tcb.tcp_gso_segs = 1
    tcb.seq = seq
    tcb.end_seq = seq + 1 & 0xFFFFFFFF if flags & (TCPHDR_SYN | TCPHDR_FIN) else seq
    skb.cb = tcb
    skb.ip_summed = CHECKSUM_PARTIAL


@notrace
def alloc_nondata_skb(seq: int, flags: int) -> SkBuff:
    skb = SkBuff(MAX_TCP_HEADER)
    skb.data = skb.tail = MAX_TCP_HEADER
    tcp_init_nondata_skb(skb, seq, flags)
    return skb


@notrace
def tcp_acceptable_seq(sk: TcpSock) -> int:
    """A number inside the peer's window, even if it has shrunk."""
    wnd_end = sk.snd_una + sk.snd_wnd & 0xFFFFFFFF
    if not before(wnd_end, sk.snd_nxt):
        return sk.snd_nxt
    if sk.rx_opt.wscale_ok and sk.snd_nxt - wnd_end & 0xFFFFFFFF < 1 << sk.rx_opt.rcv_wscale:
        return sk.snd_nxt
    return wnd_end
