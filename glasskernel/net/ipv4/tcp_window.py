"""How much may be sent: segment sizes, the window that we offer, how the congestion window ages.

Linux: net/ipv4/tcp_output.c (5.3), the parts about MSS and windows. Same: the MSS follows the route's MTU; a window
never shrinks, is a multiple of what can be told, and stays closed until it is worth opening (silly window avoidance).
Gaps: MTU probing (tcp_mtu_probing), shrinking the window.
Locks: sk's owner, or softirq while nobody owns it.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.time.timekeeping import ktime_get
from glasskernel.lib.types import notrace
from glasskernel.net.core.dst import dst_mtu
from glasskernel.net.ipv4.tcp_types import (
    CA_EVENT_CWND_RESTART,
    MAX_TCP_WINDOW,
    TCP_CA_CWR,
    TCP_INIT_CWND,
    TCP_MAX_WSCALE,
    TCPOLEN_SACK_BASE_ALIGNED,
    TCPOLEN_SACK_PERBLOCK,
    TCPOLEN_TSTAMP_ALIGNED,
    TCP_CA_Open,
    before,
    tcp_full_space,
    tcp_in_slow_start,
    tcp_receive_window,
    tcp_space,
    tcp_win_from_space,
)
from glasskernel.net.types import SOCK_NOSPACE, SOCK_RCVBUF_LOCK

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import TcpSock
    from glasskernel.net.ipv4.types import DstEntry
    from glasskernel.net.types import Net, Sock

TCP_HEADERS = 40                         # of IP and TCP, without options


def tcp_mstamp_refresh(tp: TcpSock) -> None:
    """What the clock says to the packet in hand."""
    val = ktime_get()
    tp.tcp_clock_cache = val
    tp.tcp_mstamp = val // 1000


@notrace
def tcp_time_stamp(tp: TcpSock) -> int:
    """ms"""
    return tp.tcp_mstamp // 1000


# ---- segment sizes ------------------------------------------------------------------------------------------
@notrace
def dst_metric_advmss(dst: DstEntry) -> int:
    advmss = dst.metrics.get(8, 0)       # RTAX_ADVMSS
    return advmss or dst.ops.default_advmss(dst)


@notrace
def tcp_mss_clamp(tp: TcpSock, mss: int) -> int:
    user_mss = tp.rx_opt.user_mss
    return user_mss if user_mss and user_mss < mss else mss


@notrace
def tcp_advertise_mss(sk: TcpSock) -> int:
    """The MSS that a SYN tells."""
    mss = sk.advmss
    dst = sk.sk_dst_cache
    if dst is not None:
        metric = dst_metric_advmss(dst)
        if metric < mss:
            mss = sk.advmss = metric
    return mss


def tcp_mtu_to_mss(sk: TcpSock, pmtu: int) -> int:
    """Bytes of data in a packet of that size, with the options that every packet has."""
    mss_now = min(pmtu - TCP_HEADERS, sk.rx_opt.mss_clamp)
    least: int = sk.sk_net.ipv4.sysctl["tcp_min_snd_mss"]
    mss_now = max(mss_now, least)
    return mss_now - (sk.tcp_header_len - 20)


@notrace
def tcp_bound_to_half_wnd(tp: TcpSock, pktsize: int) -> int:
    """A peer with a tiny window gets segments of half of it."""
    cutoff = tp.max_window >> 1 if tp.max_window > 536 else tp.max_window
    if cutoff and pktsize > cutoff:
        return max(cutoff, 68 - tp.tcp_header_len)
    return pktsize


def tcp_sync_mss(sk: TcpSock, pmtu: int) -> int:
    """The path's MTU is known, or has changed."""
    mss_now = tcp_bound_to_half_wnd(sk, tcp_mtu_to_mss(sk, pmtu))
    sk.icsk_pmtu_cookie = pmtu
    sk.mss_cache = mss_now
    return mss_now


@notrace
def tcp_options_size(tp: TcpSock) -> int:
    """Bytes of options in the next packet of an established connection."""
    size = TCPOLEN_TSTAMP_ALIGNED if tp.rx_opt.tstamp_ok else 0
    eff_sacks = tp.rx_opt.num_sacks + tp.rx_opt.dsack
    if eff_sacks:
        size += TCPOLEN_SACK_BASE_ALIGNED + min(eff_sacks, (36 - size) // 8) * TCPOLEN_SACK_PERBLOCK
    return size


def tcp_current_mss(sk: TcpSock) -> int:
    """Bytes of data in the next segment."""
    mss_now = sk.mss_cache
    dst = sk.sk_dst_cache
    if dst is not None:
        mtu = dst_mtu(dst)
        if mtu != sk.icsk_pmtu_cookie:
            mss_now = tcp_sync_mss(sk, mtu)
    header_len = 20 + tcp_options_size(sk)
    return mss_now - (header_len - sk.tcp_header_len)


# ---- the window that we offer -------------------------------------------------------------------------------
def tcp_select_initial_window(net: Net, space: int, mss: int, window_clamp: int, wscale_ok: bool,
                              init_rcv_wnd: int) -> tuple[int, int, int]:
    """(window, clamp, scale) for a SYN. space: bytes of receive buffer."""
    clamp = window_clamp or 65535 << TCP_MAX_WSCALE
    space = min(clamp, space)
    if space > mss:
        space = space // mss * mss
    rcv_wnd = min(space, MAX_TCP_WINDOW) if net.ipv4.sysctl["tcp_workaround_signed_windows"] else space
    if init_rcv_wnd:
        rcv_wnd = min(rcv_wnd, init_rcv_wnd * mss)
    scale = 0
    if wscale_ok:
        assert net.kernel.net is not None
        space = min(max(space, net.ipv4.sysctl["tcp_rmem"][2], net.kernel.net.rmem_max), clamp)
        scale = min(max(space.bit_length() - 16, 0), TCP_MAX_WSCALE)
    return min(rcv_wnd, 65535), min(65535 << scale, clamp), scale


def __tcp_select_window(sk: TcpSock) -> int:
    """The window that suits the room in the receive buffer."""
    mss = sk.icsk_ack_rcv_mss
    free_space = tcp_space(sk)
    allowed_space = tcp_full_space(sk)
    full_space = min(sk.window_clamp, allowed_space)
    if mss > full_space:
        mss = full_space
        if mss <= 0:
            return 0
    if free_space < full_space >> 1:
        sk.icsk_ack_quick = 0
        # No longer a whole segment, or nearly nothing: close it, rather than shrink it bit by bit.
        if free_space < allowed_space >> 4 or free_space < mss:
            return 0
    if free_space > sk.rcv_ssthresh:
        free_space = sk.rcv_ssthresh
    if sk.rx_opt.rcv_wscale:
        unit = 1 << sk.rx_opt.rcv_wscale
        return (free_space + unit - 1) & -unit
    window = sk.rcv_wnd
    if window <= free_space - mss or window > free_space:
        window = free_space // mss * mss if mss else 0
    elif mss == full_space and free_space > window + (full_space >> 1):
        window = free_space
    return window


@notrace
def tcp_select_window(sk: TcpSock) -> int:
    """The window of the next packet, as it stands in the header."""
    old_win = sk.rcv_wnd
    cur_win = tcp_receive_window(sk)
    new_win = __tcp_select_window(sk)
    mib = sk.sk_net.mib.net
    wscale = sk.rx_opt.rcv_wscale
    if new_win < cur_win:                # never take back what was offered
        if not new_win:
            mib["TCPWantZeroWindowAdv"] += 1
        unit = 1 << wscale
        new_win = (cur_win + unit - 1) & -unit
    sk.rcv_wnd = new_win
    sk.rcv_wup = sk.rcv_nxt
    new_win = min(new_win, 65535 << wscale) >> wscale
    if not new_win:
        if old_win:
            mib["TCPToZeroWindowAdv"] += 1
    elif not old_win:
        mib["TCPFromZeroWindowAdv"] += 1
    return new_win


# ---- the congestion window ----------------------------------------------------------------------------------
@notrace
def tcp_init_cwnd(tp: TcpSock, dst: DstEntry | None) -> int:
    cwnd = dst.metrics.get(11, 0) if dst is not None else 0              # RTAX_INITCWND
    return min(cwnd or TCP_INIT_CWND, tp.snd_cwnd_clamp)


@notrace
def tcp_current_ssthresh(sk: TcpSock) -> int:
    if 1 << sk.icsk_ca_state & 0b1100:   # CWR, Recovery
        return sk.snd_ssthresh
    return max(sk.snd_ssthresh, (sk.snd_cwnd >> 1) + (sk.snd_cwnd >> 2))


@notrace
def tcp_ca_event(sk: TcpSock, event: int) -> None:
    cwnd_event = sk.icsk_ca_ops.cwnd_event
    if cwnd_event is not None:
        cwnd_event(sk, event)


def tcp_cwnd_restart(sk: TcpSock, delta: int) -> None:
    """Nothing was sent for `delta` jiffies: each RTO of them halves the window (RFC 2861)."""
    restart_cwnd = tcp_init_cwnd(sk, sk.sk_dst_cache)
    cwnd = sk.snd_cwnd
    tcp_ca_event(sk, CA_EVENT_CWND_RESTART)
    sk.snd_ssthresh = tcp_current_ssthresh(sk)
    restart_cwnd = min(restart_cwnd, cwnd)
    while (delta := delta - sk.icsk_rto) > 0 and cwnd > restart_cwnd:
        cwnd >>= 1
    sk.snd_cwnd = max(cwnd, restart_cwnd)
    sk.snd_cwnd_stamp = register.task.kernel.time.jiffies
    sk.snd_cwnd_used = 0


@notrace
def tcp_slow_start_after_idle_check(sk: TcpSock) -> None:
    if not sk.sk_net.ipv4.sysctl["tcp_slow_start_after_idle"] or sk.packets_out:
        return
    delta = register.task.kernel.time.jiffies - sk.lsndtime
    if delta > sk.icsk_rto:
        tcp_cwnd_restart(sk, delta)


@notrace
def tcp_cwnd_application_limited(sk: TcpSock) -> None:
    """The program did not use the window for an RTO: what it does not use shrinks."""
    sock = sk.sk_socket
    if sk.icsk_ca_state == TCP_CA_Open and sock is not None and not sock.flags & SOCK_NOSPACE:
        win_used = max(sk.snd_cwnd_used, tcp_init_cwnd(sk, sk.sk_dst_cache))
        if win_used < sk.snd_cwnd:
            sk.snd_ssthresh = tcp_current_ssthresh(sk)
            sk.snd_cwnd = sk.snd_cwnd + win_used >> 1
        sk.snd_cwnd_used = 0
    sk.snd_cwnd_stamp = register.task.kernel.time.jiffies


@notrace
def tcp_cwnd_validate(sk: TcpSock, is_cwnd_limited: bool) -> None:
    """Notes whether the congestion window was what stopped us."""
    if not before(sk.snd_una, sk.max_packets_seq) or is_cwnd_limited or sk.packets_out > sk.max_packets_out:
        sk.is_cwnd_limited = is_cwnd_limited
        sk.max_packets_out = sk.packets_out
        sk.max_packets_seq = sk.snd_nxt
    if (tcp_in_slow_start(sk) and sk.snd_cwnd < 2 * sk.max_packets_out) or sk.is_cwnd_limited:
        sk.snd_cwnd_used = 0
        sk.snd_cwnd_stamp = register.task.kernel.time.jiffies
        return
    if sk.packets_out > sk.snd_cwnd_used:
        sk.snd_cwnd_used = sk.packets_out
    if (sk.sk_net.ipv4.sysctl["tcp_slow_start_after_idle"]
            and register.task.kernel.time.jiffies - sk.snd_cwnd_stamp >= sk.icsk_rto):
        tcp_cwnd_application_limited(sk)


@notrace
def tcp_set_ca_state(sk: TcpSock, ca_state: int) -> None:
    set_state = sk.icsk_ca_ops.set_state
    if set_state is not None:
        set_state(sk, ca_state)
    sk.icsk_ca_state = ca_state


def tcp_init_cwnd_reduction(sk: TcpSock) -> None:
    sk.high_seq = sk.snd_nxt
    sk.tlp_high_seq = 0
    sk.snd_cwnd_cnt = 0
    sk.prior_cwnd = sk.snd_cwnd
    sk.prr_delivered = sk.prr_out = 0
    sk.snd_ssthresh = sk.icsk_ca_ops.ssthresh(sk)


def tcp_enter_cwr(sk: TcpSock) -> None:
    """A queue of our own is full."""
    sk.prior_ssthresh = 0
    if sk.icsk_ca_state < TCP_CA_CWR:
        sk.undo_marker = 0
        tcp_init_cwnd_reduction(sk)
        tcp_set_ca_state(sk, TCP_CA_CWR)


# ---- buffers that grow --------------------------------------------------------------------------------------
def tcp_sndbuf_expand(sk: TcpSock) -> None:
    """The send buffer follows the congestion window: two of them."""
    per_mss = max(sk.rx_opt.mss_clamp, sk.mss_cache) + 320 + 320
    per_mss = (1 << (per_mss - 1).bit_length()) + 232
    nr_segs = max(TCP_INIT_CWND, sk.snd_cwnd, sk.reordering + 1)
    sndmem = 2 * nr_segs * per_mss
    if sk.sk_sndbuf < sndmem:
        sk.sk_sndbuf = min(sndmem, sk.sk_net.ipv4.sysctl["tcp_wmem"][2])


def tcp_set_rcvlowat(sock: Sock, val: int) -> None:
    """SO_RCVLOWAT: the receive buffer must be able to hold that much."""
    sk: TcpSock = sock  # type: ignore[assignment]
    net = sk.sk_net
    cap = sk.sk_rcvbuf >> 1 if sk.sk_userlocks & SOCK_RCVBUF_LOCK else net.ipv4.sysctl["tcp_rmem"][2] >> 1
    sk.sk_rcvlowat = min(val, cap) or 1
    if sk.sk_userlocks & SOCK_RCVBUF_LOCK:
        return
    val <<= 1
    if val > sk.sk_rcvbuf:
        sk.sk_rcvbuf = val
        sk.window_clamp = tcp_win_from_space(sk, val)
