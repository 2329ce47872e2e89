"""TCP's objects, constants and sequence arithmetic.

Linux: include/linux/tcp.h, include/net/{tcp,inet_connection_sock,request_sock,inet_timewait_sock}.h (5.3). Only data
and what is inline there. Sequence numbers are ints 0..2**32-1. Times: jiffies for timers, us for tcp_mstamp, ns for
skb_mstamp_ns. Differs: struct inet_connection_sock's icsk_ack.* are fields icsk_ack_*; the retransmit
queue is a deque, the queue of what came out of order a sorted list (rb-trees in Linux).
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.time.types import HZ, TimerList
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.types import Flowi4, InetSock
from glasskernel.net.types import Sock

if TYPE_CHECKING:
    from glasskernel.net.ipv4.inet_hashtables import InetBindBucket
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net

MAX_TCP_HEADER, MAX_HEADER = 320, 128    # L1_CACHE_ALIGN(128 + MAX_HEADER), with Ethernet below
TCP_MAX_WSCALE, MAX_TCP_WINDOW = 14, 32767
TCP_MSS_DEFAULT, TCP_MIN_MSS = 536, 88
TCP_FASTRETRANS_THRESH, TCP_MAX_QUICKACKS, TCP_INIT_CWND = 3, 16, 10
TCP_URG_VALID, TCP_URG_NOTYET, TCP_URG_READ = 0x0100, 0x0200, 0x0400
TCP_TIMEWAIT_LEN = 60 * HZ
TCP_DELACK_MAX, TCP_DELACK_MIN, TCP_ATO_MIN = HZ // 5, HZ // 25, HZ // 25
TCP_RTO_MAX, TCP_RTO_MIN, TCP_TIMEOUT_MIN, TCP_TIMEOUT_INIT = 120 * HZ, HZ // 5, 2, HZ
TCP_RESOURCE_PROBE_INTERVAL = HZ // 2
MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL, MAX_TCP_KEEPCNT, MAX_TCP_SYNCNT = 32767, 32767, 127, 127
TCP_PAWS_24DAYS, TCP_PAWS_WINDOW = 60 * 60 * 24 * 24, 1
TCPOLEN_TSTAMP_ALIGNED, TCPOLEN_SACK_BASE_ALIGNED, TCPOLEN_SACK_PERBLOCK = 12, 4, 8
TCP_NUM_SACKS = 4
TCP_NAGLE_OFF, TCP_NAGLE_CORK, TCP_NAGLE_PUSH = 1, 2, 4
TCP_INFINITE_SSTHRESH = 0x7FFFFFFF
TCP_DSACK_SEEN, TCP_SACK_SEEN = 4, 1     # rx_opt.sack_ok

TCPHDR_FIN, TCPHDR_SYN, TCPHDR_RST, TCPHDR_PSH, TCPHDR_ACK, TCPHDR_URG = (1 << i for i in range(6))
# tcp_skb_cb.sacked
TCPCB_SACKED_ACKED, TCPCB_SACKED_RETRANS, TCPCB_LOST = 1, 2, 4
TCPCB_REPAIRED, TCPCB_EVER_RETRANS = 0x10, 0x80
TCPCB_RETRANS = TCPCB_SACKED_RETRANS | TCPCB_EVER_RETRANS | TCPCB_REPAIRED
TCP_CA_Open, TCP_CA_Disorder, TCP_CA_CWR, TCP_CA_Recovery, TCP_CA_Loss = range(5)
# enum tcp_ca_event, tcp_ca_ack_event_flags
CA_EVENT_TX_START, CA_EVENT_CWND_RESTART, CA_EVENT_COMPLETE_CWR, CA_EVENT_LOSS = range(4)
# icsk_pending
ICSK_TIME_RETRANS, ICSK_TIME_DACK, ICSK_TIME_PROBE0, ICSK_TIME_LOSS_PROBE, ICSK_TIME_REO_TIMEOUT = 1, 2, 3, 5, 6
# icsk_ack_pending
ICSK_ACK_SCHED, ICSK_ACK_TIMER, ICSK_ACK_PUSHED, ICSK_ACK_PUSHED2, ICSK_ACK_NOW = 1, 2, 4, 8, 16
# what one ACK did (tcp_input.c)
(FLAG_DATA, FLAG_WIN_UPDATE, FLAG_DATA_ACKED, FLAG_RETRANS_DATA_ACKED, FLAG_SYN_ACKED, FLAG_DATA_SACKED, FLAG_ECE,
 FLAG_LOST_RETRANS, FLAG_SLOWPATH, FLAG_ORIG_SACK_ACKED, FLAG_SND_UNA_ADVANCED, FLAG_DSACKING_ACK, FLAG_SET_XMIT_TIMER,
 FLAG_SACK_RENEGING, FLAG_UPDATE_TS_RECENT, FLAG_NO_CHALLENGE_ACK) = (1 << i for i in range(16))
FLAG_ACKED = FLAG_DATA_ACKED | FLAG_SYN_ACKED
FLAG_NOT_DUP = FLAG_DATA | FLAG_WIN_UPDATE | FLAG_ACKED
FLAG_CA_ALERT = FLAG_DATA_SACKED | FLAG_ECE | FLAG_DSACKING_ACK
FLAG_FORWARD_PROGRESS = FLAG_ACKED | FLAG_DATA_SACKED
REXMIT_NONE, REXMIT_LOST, REXMIT_NEW = range(3)
# tcp_sock.tsq_flags
(TSQ_THROTTLED, TSQ_QUEUED, TCP_TSQ_DEFERRED, TCP_WRITE_TIMER_DEFERRED, TCP_DELACK_TIMER_DEFERRED,
 TCP_MTU_REDUCED_DEFERRED) = (1 << i for i in range(6))
TCP_DEFERRED_ALL = TCP_TSQ_DEFERRED | TCP_WRITE_TIMER_DEFERRED | TCP_DELACK_TIMER_DEFERRED | TCP_MTU_REDUCED_DEFERRED
# tcp_sock.chrono_type
TCP_CHRONO_UNSPEC, TCP_CHRONO_BUSY, TCP_CHRONO_RWND_LIMITED, TCP_CHRONO_SNDBUF_LIMITED = range(4)


# ---- sequence numbers ---------------------------------------------------------------------------------
@notrace
def before(seq1: int, seq2: int) -> bool:
    """seq1 comes before seq2."""
    return seq1 - seq2 & 0xFFFFFFFF > 0x7FFFFFFF


@notrace
def after(seq1: int, seq2: int) -> bool:
    return seq2 - seq1 & 0xFFFFFFFF > 0x7FFFFFFF


@notrace
def between(seq1: int, seq2: int, seq3: int) -> bool:
    """seq2 <= seq1 <= seq3"""
    return (seq3 - seq2 & 0xFFFFFFFF) >= (seq1 - seq2 & 0xFFFFFFFF)


@notrace
def s32(value: int) -> int:
    """A difference of sequence numbers as a signed number."""
    value &= 0xFFFFFFFF
    return value - 0x100000000 if value > 0x7FFFFFFF else value


# ---- what goes with an skb ----------------------------------------------------------------------------
class TcpSkbCb:
    """struct tcp_skb_cb: skb.cb while TCP has the packet. skb_mstamp_ns (in Linux, of the skb): when it was sent."""

    __slots__ = ("ack_seq", "delivered", "delivered_mstamp", "end_seq", "eor", "first_tx_mstamp", "in_flight",
                 "is_app_limited", "sacked", "seq", "skb_mstamp_ns", "tcp_flags", "tcp_gso_segs", "tcp_gso_size", "th",
                 "tw_isn")

    def __init__(self) -> None:
        self.seq = self.end_seq = 0
        self.tcp_flags = 0
        self.sacked = 0
        self.ack_seq = 0
        self.tcp_gso_segs = self.tcp_gso_size = 0
        self.eor = False
        self.is_app_limited = False
        self.skb_mstamp_ns = 0
        self.in_flight = 0
        self.delivered = 0
        self.delivered_mstamp = self.first_tx_mstamp = 0
        self.th: TcpHdr = None  # type: ignore[assignment]               # of a received packet
        self.tw_isn = 0                  # tcp_tw_isn

    def copy(self) -> TcpSkbCb:
        """For the second half of a split skb."""
        new = TcpSkbCb()
        for name in TcpSkbCb.__slots__:
            setattr(new, name, getattr(self, name))
        return new


class TcpHdr:
    """struct tcphdr of a received packet, decoded once. doff: bytes."""

    __slots__ = ("ack_seq", "dest", "doff", "flags", "seq", "source", "urg_ptr", "window")

    def __init__(self, fields: tuple[int, ...]) -> None:
        self.source, self.dest, self.seq, self.ack_seq, doff, self.flags, self.window, _, self.urg_ptr = fields
        self.doff = doff >> 4 << 2


@slotted
class TcpOptionsReceived:
    """struct tcp_options_received."""

    ts_recent_stamp: int = 0             # seconds, when ts_recent was taken; 0: never
    ts_recent: int = 0
    rcv_tsval: int = 0
    rcv_tsecr: int = 0
    saw_tstamp: bool = False
    tstamp_ok: bool = False
    dsack: bool = False
    wscale_ok: bool = False
    sack_ok: int = 0
    snd_wscale: int = 0
    rcv_wscale: int = 0
    num_sacks: int = 0
    user_mss: int = 0
    mss_clamp: int = 0
    sacks: list[tuple[int, int]] = field(default_factory=list)           # SACK blocks of the packet in hand


@slotted
class TcpSacktagState:
    """struct tcp_sacktag_state. Times in us (0: none)."""

    reord: int = 0
    first_sackt: int = 0
    last_sackt: int = 0
    flag: int = 0
    rate: RateSample | None = None


@slotted
class RateSample:
    """struct rate_sample: what one ACK told of the delivery."""

    prior_mstamp: int = 0
    prior_delivered: int = 0
    delivered: int = 0
    interval_us: int = -1
    rtt_us: int = -1
    losses: int = 0
    acked_sacked: int = 0
    prior_in_flight: int = 0
    is_app_limited: bool = False
    is_retrans: bool = False


@slotted(frozen=True)
class TcpCongestionOps:
    """struct tcp_congestion_ops. None where Linux tests for the entry. make_priv: icsk_ca_priv, as if zeroed."""

    name: str
    ssthresh: Callable[[TcpSock], int]
    undo_cwnd: Callable[[TcpSock], int]
    cong_avoid: Callable[[TcpSock, int, int], None]
    init: Callable[[TcpSock], None] | None = None
    release: Callable[[TcpSock], None] | None = None
    set_state: Callable[[TcpSock, int], None] | None = None
    cwnd_event: Callable[[TcpSock, int], None] | None = None
    pkts_acked: Callable[[TcpSock, int, int, int], None] | None = None   # (sk, pkts_acked, rtt_us, in_flight)
    make_priv: Callable[[], Any] = lambda: None


# ---- request and timewait socks -----------------------------------------------------------------------
@slotted(frozen=True)
class RequestSockOps:
    """struct request_sock_ops."""

    family: int
    rtx_syn_ack: Callable[[Any, RequestSock], None]
    destructor: Callable[[RequestSock], None]
    syn_ack_timeout: Callable[[RequestSock], None]


@slotted
class RequestSock(Sock):
    """struct tcp_request_sock: a connection whose handshake is under way. It stands in the table of connections."""

    rsk_listener: TcpSock = None  # type: ignore[assignment]
    rsk_ops: RequestSockOps = None  # type: ignore[assignment]
    rsk_timer: TimerList = field(default_factory=TimerList)
    sk_hashed: bool = False
    child: TcpSock | None = None         # once the handshake is over
    mss: int = 0
    num_retrans: int = 0
    num_timeout: int = 0
    ts_recent: int = 0
    rsk_rcv_wnd: int = 0
    rsk_window_clamp: int = 0
    # struct inet_request_sock
    inet_daddr: int = 0                  # ir_rmt_addr, and so on
    inet_rcv_saddr: int = 0
    inet_dport: int = 0
    inet_num: int = 0
    ir_iif: int = 0
    ir_mark: int = 0
    snd_wscale: int = 0
    rcv_wscale: int = 0
    tstamp_ok: bool = False
    sack_ok: bool = False
    wscale_ok: bool = False
    acked: bool = False
    ireq_opt: bytes = b""
    # struct tcp_request_sock
    snt_synack: int = 0                  # us
    rcv_isn: int = 0
    snt_isn: int = 0
    ts_off: int = 0
    last_oow_ack_time: int = 0
    rcv_nxt: int = 0


@slotted
class RequestSockQueue:
    """struct request_sock_queue: a listener's. fifo: connections that accept() has not fetched."""

    rskq_defer_accept: int = 0
    qlen: int = 0
    young: int = 0
    fifo: list[RequestSock] = field(default_factory=list)


@slotted
class TimewaitSock(Sock):
    """struct tcp_timewait_sock: what stays of a connection for a minute, or of FIN_WAIT2 without an owner."""

    inet_daddr: int = 0
    inet_rcv_saddr: int = 0
    inet_dport: int = 0
    inet_num: int = 0
    tw_substate: int = 0
    tw_rcv_wscale: int = 0
    tw_tos: int = 0
    tw_mark: int = 0
    tw_timer: TimerList = field(default_factory=TimerList)
    sk_hashed: bool = False
    tw_tb: InetBindBucket | None = None
    tw_rcv_nxt: int = 0
    tw_snd_nxt: int = 0
    tw_rcv_wnd: int = 0
    tw_ts_offset: int = 0
    tw_last_oow_ack_time: int = 0
    tw_ts_recent_stamp: int = 0
    tw_ts_recent: int = 0


# ---- the connection -----------------------------------------------------------------------------------
@slotted
class InetConnectionSock(InetSock):
    """struct inet_connection_sock. icsk_rto, icsk_timeout ...: jiffies."""

    icsk_accept_queue: RequestSockQueue = field(default_factory=RequestSockQueue)
    sk_hashed: bool = False              # stands in a table of connections or listeners
    icsk_bind_hash: InetBindBucket | None = None
    icsk_timeout: int = 0
    icsk_retransmit_timer: TimerList = field(default_factory=TimerList)
    icsk_delack_timer: TimerList = field(default_factory=TimerList)
    icsk_rto: int = 0
    icsk_pmtu_cookie: int = 0
    icsk_ca_ops: TcpCongestionOps = None  # type: ignore[assignment]
    icsk_ca_priv: Any = None
    icsk_ca_state: int = TCP_CA_Open
    icsk_ca_initialized: bool = False
    icsk_ca_setsockopt: bool = False
    icsk_retransmits: int = 0
    icsk_pending: int = 0
    icsk_backoff: int = 0
    icsk_syn_retries: int = 0
    icsk_probes_out: int = 0
    icsk_ack_pending: int = 0
    icsk_ack_quick: int = 0
    icsk_ack_pingpong: int = 0
    icsk_ack_blocked: bool = False
    icsk_ack_ato: int = 0
    icsk_ack_timeout: int = 0
    icsk_ack_lrcvtime: int = 0
    icsk_ack_last_seg_size: int = 0
    icsk_ack_rcv_mss: int = 0
    icsk_user_timeout: int = 0           # ms


@slotted
class TcpSock(InetConnectionSock):
    """struct tcp_sock."""

    sk_pacing_rate: int = (1 << 64) - 1
    sk_max_pacing_rate: int = (1 << 64) - 1
    cork_fl4: Flowi4 = field(default_factory=Flowi4)                     # inet->cork.fl: the flow of the connection
    tcp_header_len: int = 20
    gso_segs: int = 0
    # receiving
    rcv_nxt: int = 0
    copied_seq: int = 0
    rcv_wup: int = 0
    rcv_wnd: int = 0
    rcv_ssthresh: int = 0
    rcv_tstamp: int = 0                  # jiffies, of the last ACK
    window_clamp: int = 0
    advmss: int = 0
    segs_in: int = 0
    data_segs_in: int = 0
    bytes_received: int = 0
    rx_opt: TcpOptionsReceived = field(default_factory=TcpOptionsReceived)
    out_of_order_queue: list[SkBuff] = field(default_factory=list)       # by seq, no overlaps inside
    duplicate_sack: tuple[int, int] | None = None
    selective_acks: list[tuple[int, int]] = field(default_factory=list)  # what we tell
    urg_data: int = 0
    urg_seq: int = 0
    rcv_rtt_est_rtt_us: int = 0          # << 3
    rcv_rtt_est_seq: int = 0
    rcv_rtt_est_time: int = 0            # us
    rcv_rtt_last_tsecr: int = 0
    rcvq_space: int = 0
    rcvq_space_seq: int = 0
    rcvq_space_time: int = 0             # us
    # sending
    snd_una: int = 0
    snd_nxt: int = 0
    snd_wl1: int = 0
    snd_wnd: int = 0
    max_window: int = 0
    snd_sml: int = 0
    snd_up: int = 0
    write_seq: int = 0
    pushed_seq: int = 0
    notsent_lowat: int = 0
    lsndtime: int = 0                    # jiffies
    mss_cache: int = TCP_MSS_DEFAULT
    nonagle: int = 0
    segs_out: int = 0
    data_segs_out: int = 0
    bytes_sent: int = 0
    bytes_retrans: int = 0
    bytes_acked: int = 0
    tcp_rtx_queue: deque[SkBuff] = field(default_factory=deque)          # sent, not acknowledged
    tsq_flags: int = 0
    mtu_info: int = 0
    tsoffset: int = 0
    tcp_mstamp: int = 0                  # us, of the packet in hand
    tcp_clock_cache: int = 0             # ns
    tlp_high_seq: int = 0
    # acknowledgements, congestion
    srtt_us: int = 0                     # << 3
    mdev_us: int = 0                     # << 2
    mdev_max_us: int = 0
    rttvar_us: int = 0
    rtt_seq: int = 0
    rtt_min: list[tuple[int, int]] = field(default_factory=list)         # (jiffies, us): minmax filter
    packets_out: int = 0
    retrans_out: int = 0
    sacked_out: int = 0
    lost_out: int = 0
    lost: int = 0
    max_packets_out: int = 0
    max_packets_seq: int = 0
    is_cwnd_limited: bool = False
    snd_ssthresh: int = TCP_INFINITE_SSTHRESH
    snd_cwnd: int = TCP_INIT_CWND
    snd_cwnd_cnt: int = 0
    snd_cwnd_clamp: int = 0xFFFFFFFF
    snd_cwnd_used: int = 0
    snd_cwnd_stamp: int = 0              # jiffies
    prior_cwnd: int = 0
    prr_delivered: int = 0
    prr_out: int = 0
    prior_ssthresh: int = 0
    high_seq: int = 0
    highest_sack_end: int = 0            # the end of the last segment that was SACKed
    undo_marker: int = 0
    undo_retrans: int = 0
    total_retrans: int = 0
    retrans_stamp: int = 0               # ms of the clock of timestamps; 0: none
    reordering: int = TCP_FASTRETRANS_THRESH
    reord_seen: int = 0
    delivered: int = 0
    delivered_mstamp: int = 0
    first_tx_mstamp: int = 0
    rate_delivered: int = 0
    rate_interval_us: int = 0
    rate_app_limited: bool = False
    app_limited: int = 0
    rack_mstamp: int = 0
    rack_rtt_us: int = 0
    rack_end_seq: int = 0
    rack_reo_wnd_steps: int = 1
    rack_reo_wnd_persist: int = 0
    rack_advanced: bool = False
    rack_dsack_seen: bool = False
    rack_last_delivered: int = 0
    frto: bool = False
    last_oow_ack_time: int = 0
    dsack_dups: int = 0
    chrono_type: int = 0
    chrono_start: int = 0                # jiffies
    chrono_stat: list[int] = field(default_factory=lambda: [0, 0, 0])
    # what the user set
    keepalive_time: int = 0              # jiffies
    keepalive_intvl: int = 0
    keepalive_probes: int = 0
    linger2: int = 0
    thin_lto: bool = False


@slotted
class TcpState:
    """kernel.inet.tcp: what is one for all namespaces. tsq: socks with something to send, for the tasklet."""

    orphan_count: int = 0
    max_orphans: int = 0
    cong_list: dict[str, TcpCongestionOps] = field(default_factory=dict)
    tsq: list[TcpSock] = field(default_factory=list)
    tsq_tasklet: Any = None
    challenge_timestamp: int = 0
    challenge_count: int = 0


# ---- inline functions ---------------------------------------------------------------------------------
@notrace
def tcp_packets_in_flight(tp: TcpSock) -> int:
    return tp.packets_out - tp.sacked_out - tp.lost_out + tp.retrans_out


@notrace
def tcp_in_slow_start(tp: TcpSock) -> bool:
    return tp.snd_cwnd < tp.snd_ssthresh


@notrace
def tcp_in_initial_slowstart(tp: TcpSock) -> bool:
    return tp.snd_ssthresh >= TCP_INFINITE_SSTHRESH


@notrace
def tcp_is_cwnd_limited(tp: TcpSock) -> bool:
    if tp.snd_cwnd < tp.snd_ssthresh:
        return tp.snd_cwnd < 2 * tp.max_packets_out
    return tp.is_cwnd_limited


@notrace
def tcp_wnd_end(tp: TcpSock) -> int:
    return tp.snd_una + tp.snd_wnd & 0xFFFFFFFF


@notrace
def tcp_receive_window(tp: TcpSock) -> int:
    """What is left of the window that we offered."""
    win = s32(tp.rcv_wup + tp.rcv_wnd - tp.rcv_nxt)
    return win if win > 0 else 0


@notrace
def tcp_win_from_space(sk: Sock, space: int) -> int:
    scale: int = sk.sk_net.ipv4.sysctl["tcp_adv_win_scale"]
    return space >> -scale if scale <= 0 else space - (space >> scale)


@notrace
def tcp_space(sk: Sock) -> int:
    """Room for data in the receive buffer."""
    return tcp_win_from_space(sk, sk.sk_rcvbuf - sk.sk_backlog_len - sk.sk_rmem_alloc)


@notrace
def tcp_full_space(sk: Sock) -> int:
    return tcp_win_from_space(sk, sk.sk_rcvbuf)


@notrace
def keepalive_intvl_when(tp: TcpSock) -> int:
    return tp.keepalive_intvl or tp.sk_net.ipv4.sysctl["tcp_keepalive_intvl"] * HZ


@notrace
def keepalive_time_when(tp: TcpSock) -> int:
    return tp.keepalive_time or tp.sk_net.ipv4.sysctl["tcp_keepalive_time"] * HZ


@notrace
def keepalive_probes(tp: TcpSock) -> int:
    return tp.keepalive_probes or tp.sk_net.ipv4.sysctl["tcp_keepalive_probes"]


@notrace
def tcp_fin_time(sk: TcpSock) -> int:
    """How long FIN_WAIT2 lasts without an owner (jiffies): at least 3.5 RTOs."""
    fin_timeout: int = sk.linger2 or sk.sk_net.ipv4.sysctl["tcp_fin_timeout"] * HZ
    return max(fin_timeout, (sk.icsk_rto << 2) - (sk.icsk_rto >> 1))


@notrace
def inet_csk_in_pingpong_mode(sk: InetConnectionSock) -> bool:
    return sk.icsk_ack_pingpong >= 3     # TCP_PINGPONG_THRESH


@notrace
def minmax_running_min(window: list[tuple[int, int]], win: int, now: int, meas: int) -> None:
    """The least value of the last `win` jiffies (lib/win_minmax.c keeps the three best as well)."""
    sample = (now, meas)
    if not window or meas <= window[0][1] or now - window[2][0] > win:
        window[:] = [sample, sample, sample]
        return
    if meas <= window[1][1]:
        window[1] = window[2] = sample
    elif meas <= window[2][1]:
        window[2] = sample
    age = now - window[0][0]
    if age > win:
        window[:] = [window[1], window[2], sample]
        if now - window[0][0] > win:
            window[:] = [window[1], window[2], sample]
    elif window[1][0] == window[0][0] and age > win // 4:
        window[1] = window[2] = sample
    elif window[2][0] == window[1][0] and age > win // 2:
        window[2] = sample


@notrace
def tcp_min_rtt(tp: TcpSock) -> int:
    """us; 0xFFFFFFFF: not known."""
    return tp.rtt_min[0][1] if tp.rtt_min else 0xFFFFFFFF


@notrace
def tcp_state_of(net: Net) -> TcpState:
    inet = net.kernel.inet
    assert inet is not None
    state: TcpState = inet.tcp
    return state


@notrace
def tcp_count_socket(sk: Sock, change: int) -> None:
    """sk_sockets_allocated_inc(), dec()"""
    state = sk.sk_net.kernel.net
    assert state is not None
    state.sockets_allocated[sk.sk_prot.name] = state.sockets_allocated.get(sk.sk_prot.name, 0) + change
