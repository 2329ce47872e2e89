"""TCP's socket options, and struct tcp_info.

Linux: net/ipv4/tcp.c (5.3): do_tcp_setsockopt(), do_tcp_getsockopt(), tcp_get_info(). Same: limits, units, errors.
Gaps: TCP_REPAIR*, TCP_FASTOPEN*, TCP_ULP, TCP_MD5SIG, TCP_ZEROCOPY_RECEIVE, TCP_TIMESTAMP, TCP_INQ: ENOPROTOOPT, as
by a kernel without them. Context: task; the sock is locked here.
"""
from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, get_user_u32, put_user_u32
from glasskernel.kernel.capability import CAP_NET_ADMIN, capable
from glasskernel.kernel.current import register
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.errno import EINVAL, ENOPROTOOPT, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.sock import lock_sock_nested, release_sock
from glasskernel.net.ipv4.inet_connection_sock import inet_csk_reset_keepalive_timer
from glasskernel.net.ipv4.ip_sockglue import ip_getsockopt, ip_setsockopt
from glasskernel.net.ipv4.tcp import tcp_cleanup_rbuf
from glasskernel.net.ipv4.tcp_cong import tcp_set_congestion_control
from glasskernel.net.ipv4.tcp_output import tcp_push_pending_frames
from glasskernel.net.ipv4.tcp_timer import keepalive_time_elapsed
from glasskernel.net.ipv4.tcp_types import (
    ICSK_ACK_PUSHED,
    ICSK_ACK_SCHED,
    MAX_TCP_KEEPCNT,
    MAX_TCP_KEEPIDLE,
    MAX_TCP_KEEPINTVL,
    MAX_TCP_SYNCNT,
    TCP_CHRONO_BUSY,
    TCP_CHRONO_RWND_LIMITED,
    TCP_CHRONO_SNDBUF_LIMITED,
    TCP_MIN_MSS,
    TCP_NAGLE_CORK,
    TCP_NAGLE_OFF,
    TCP_NAGLE_PUSH,
    TCP_RTO_MAX,
    TCP_TIMEOUT_INIT,
    inet_csk_in_pingpong_mode,
    keepalive_intvl_when,
    keepalive_probes,
    keepalive_time_when,
    tcp_min_rtt,
)
from glasskernel.net.types import SOCK_KEEPOPEN, SOL_TCP, TCP_CLOSE, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_LISTEN

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import TcpSock
    from glasskernel.net.types import Sock

(TCP_NODELAY, TCP_MAXSEG, TCP_CORK, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_SYNCNT, TCP_LINGER2, TCP_DEFER_ACCEPT,
 TCP_WINDOW_CLAMP, TCP_INFO, TCP_QUICKACK, TCP_CONGESTION) = range(1, 14)
TCP_THIN_LINEAR_TIMEOUTS, TCP_USER_TIMEOUT, TCP_NOTSENT_LOWAT = 16, 18, 25
_INFO = Struct("<8B24I4Q6I4Q2I2Q2I")
_MAX_MSS = 32767
TCPI_OPT_TIMESTAMPS, TCPI_OPT_SACK, TCPI_OPT_WSCALE = 1, 2, 4


@notrace
def secs_to_retrans(seconds: int, timeout: int, rto_max: int) -> int:
    """How many doubled timeouts (seconds) last that long."""
    if seconds <= 0:
        return 0
    retrans, period = 1, timeout
    while seconds > period and retrans < 255:
        retrans += 1
        timeout = min(timeout << 1, rto_max)
        period += timeout
    return retrans


@notrace
def retrans_to_secs(retrans: int, timeout: int, rto_max: int) -> int:
    if not retrans:
        return 0
    period = timeout
    for _ in range(retrans - 1):
        timeout = min(timeout << 1, rto_max)
        period += timeout
    return period


@may_sleep
def tcp_setsockopt(sk: Sock, level: int, optname: int, optval: int, optlen: int) -> None:
    if level != SOL_TCP:
        ip_setsockopt(sk, level, optname, optval, optlen)  # type: ignore[arg-type]
    else:
        do_tcp_setsockopt(sk, optname, optval, optlen)  # type: ignore[arg-type]


def __tcp_sock_set_cork(sk: TcpSock, on: bool) -> None:
    """TCP_CORK: off sends what has waited."""
    if on:
        sk.nonagle |= TCP_NAGLE_CORK
    else:
        sk.nonagle &= ~TCP_NAGLE_CORK
        if sk.nonagle & TCP_NAGLE_OFF:
            sk.nonagle |= TCP_NAGLE_PUSH
        tcp_push_pending_frames(sk)


def __tcp_sock_set_nodelay(sk: TcpSock, on: bool) -> None:
    if on:
        sk.nonagle |= TCP_NAGLE_OFF | TCP_NAGLE_PUSH
        tcp_push_pending_frames(sk)
    else:
        sk.nonagle &= ~TCP_NAGLE_OFF


@notrace
def _limited(value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise KernelError(EINVAL)
    return value


@notrace
def _set_quickack(sk: TcpSock, value: int) -> None:
    if not value:
        sk.icsk_ack_pingpong = 3
        return
    sk.icsk_ack_pingpong = 0
    if sk.sk_state in (TCP_ESTABLISHED, TCP_CLOSE_WAIT) and sk.icsk_ack_pending & ICSK_ACK_SCHED:
        sk.icsk_ack_pending |= ICSK_ACK_PUSHED
        tcp_cleanup_rbuf(sk, 1)
        if not value & 1:
            sk.icsk_ack_pingpong = 3


@notrace
def _set_keepidle(sk: TcpSock, value: int) -> None:
    sk.keepalive_time = _limited(value, 1, MAX_TCP_KEEPIDLE) * HZ
    if sk.sk_flags & SOCK_KEEPOPEN and sk.sk_state not in (TCP_CLOSE, TCP_LISTEN):
        elapsed = keepalive_time_elapsed(sk)
        inet_csk_reset_keepalive_timer(sk, max(sk.keepalive_time - elapsed, 0))


@notrace
@may_sleep
def do_tcp_setsockopt(sk: TcpSock, optname: int, optval: int, optlen: int) -> None:
    """Raises ENOPROTOOPT, EINVAL, EFAULT, EDOM, ENOENT, EPERM."""
    if optname == TCP_CONGESTION:
        if optlen < 1:
            raise KernelError(EINVAL)
        name = copy_from_user(optval, min(optlen, 15)).split(b"\0")[0].decode("latin-1")
        lock_sock_nested(sk)
        try:
            tcp_set_congestion_control(sk, name, capable(CAP_NET_ADMIN))
        finally:
            release_sock(sk)
        return
    if optlen < 4:
        raise KernelError(EINVAL)
    value = get_user_u32(optval)
    value = value - (1 << 32) if value >> 31 else value
    lock_sock_nested(sk)
    try:
        _set(sk, optname, value)
    finally:
        release_sock(sk)


@notrace
def _set(sk: TcpSock, optname: int, value: int) -> None:
    if optname == TCP_MAXSEG:
        if value and not TCP_MIN_MSS <= value <= _MAX_MSS:
            raise KernelError(EINVAL)
        sk.rx_opt.user_mss = value
    elif optname == TCP_NODELAY:
        __tcp_sock_set_nodelay(sk, bool(value))
    elif optname == TCP_CORK:
        __tcp_sock_set_cork(sk, bool(value))
    elif optname == TCP_THIN_LINEAR_TIMEOUTS:
        sk.thin_lto = bool(_limited(value, 0, 1))
    elif optname == TCP_KEEPIDLE:
        _set_keepidle(sk, value)
    elif optname == TCP_KEEPINTVL:
        sk.keepalive_intvl = _limited(value, 1, MAX_TCP_KEEPINTVL) * HZ
    elif optname == TCP_KEEPCNT:
        sk.keepalive_probes = _limited(value, 1, MAX_TCP_KEEPCNT)
    elif optname == TCP_SYNCNT:
        sk.icsk_syn_retries = _limited(value, 1, MAX_TCP_SYNCNT)
    elif optname == TCP_LINGER2:
        sk.linger2 = -1 if value < 0 else 0 if value > sk.sk_net.ipv4.sysctl["tcp_fin_timeout"] else value * HZ
    elif optname == TCP_DEFER_ACCEPT:
        sk.icsk_accept_queue.rskq_defer_accept = secs_to_retrans(value, TCP_TIMEOUT_INIT // HZ, TCP_RTO_MAX // HZ)
    elif optname == TCP_WINDOW_CLAMP:
        if not value:
            if sk.sk_state != TCP_CLOSE:
                raise KernelError(EINVAL)
            sk.window_clamp = 0
        else:
            sk.window_clamp = max(value, 2304 // 2)
    elif optname == TCP_QUICKACK:
        _set_quickack(sk, value)
    elif optname == TCP_USER_TIMEOUT:
        if value < 0:
            raise KernelError(EINVAL)
        sk.icsk_user_timeout = value
    elif optname == TCP_NOTSENT_LOWAT:
        sk.notsent_lowat = value & 0xFFFFFFFF
        sk.sk_write_space(sk)
    else:
        raise KernelError(ENOPROTOOPT)


@may_sleep
def tcp_getsockopt(sk: Sock, level: int, optname: int, optval: int, optlen: int) -> None:
    if level != SOL_TCP:
        ip_getsockopt(sk, level, optname, optval, optlen)  # type: ignore[arg-type]
    else:
        do_tcp_getsockopt(sk, optname, optval, optlen)  # type: ignore[arg-type]


@may_sleep
def do_tcp_getsockopt(sk: TcpSock, optname: int, optval: int, optlen: int) -> None:
    """Raises ENOPROTOOPT, EINVAL, EFAULT."""
    length = get_user_u32(optlen)
    if length >> 31:
        raise KernelError(EINVAL)
    if optname == TCP_INFO:
        lock_sock_nested(sk)
        data = tcp_get_info(sk)
        release_sock(sk)
    elif optname == TCP_CONGESTION:
        data = sk.icsk_ca_ops.name.encode().ljust(16, b"\0")
    else:
        data = (_get(sk, optname) & 0xFFFFFFFF).to_bytes(4, "little")
    data = data[:length]
    put_user_u32(optlen, len(data))
    copy_to_user(optval, data)


@notrace
def _get(sk: TcpSock, optname: int) -> int:
    sysctl = sk.sk_net.ipv4.sysctl
    if optname == TCP_MAXSEG:
        mss = sk.mss_cache
        return sk.rx_opt.user_mss if sk.sk_state in (TCP_CLOSE, TCP_LISTEN) and sk.rx_opt.user_mss else mss
    if optname == TCP_NODELAY:
        return int(bool(sk.nonagle & TCP_NAGLE_OFF))
    if optname == TCP_CORK:
        return int(bool(sk.nonagle & TCP_NAGLE_CORK))
    if optname == TCP_KEEPIDLE:
        return keepalive_time_when(sk) // HZ
    if optname == TCP_KEEPINTVL:
        return keepalive_intvl_when(sk) // HZ
    if optname == TCP_KEEPCNT:
        return keepalive_probes(sk)
    if optname == TCP_SYNCNT:
        return sk.icsk_syn_retries or int(sysctl["tcp_syn_retries"])
    if optname == TCP_LINGER2:
        return -1 if sk.linger2 < 0 else sk.linger2 // HZ or int(sysctl["tcp_fin_timeout"])
    if optname == TCP_DEFER_ACCEPT:
        return retrans_to_secs(sk.icsk_accept_queue.rskq_defer_accept, TCP_TIMEOUT_INIT // HZ, TCP_RTO_MAX // HZ)
    if optname == TCP_WINDOW_CLAMP:
        return sk.window_clamp
    if optname == TCP_QUICKACK:
        return int(not inet_csk_in_pingpong_mode(sk))
    if optname == TCP_USER_TIMEOUT:
        return sk.icsk_user_timeout
    if optname == TCP_NOTSENT_LOWAT:
        return sk.notsent_lowat
    if optname == TCP_THIN_LINEAR_TIMEOUTS:
        return int(sk.thin_lto)
    raise KernelError(ENOPROTOOPT)


@notrace
def _ms(jiffies: int) -> int:
    return jiffies * 1000 // HZ & 0xFFFFFFFF


@notrace
def _chrono_us(sk: TcpSock) -> tuple[int, int, int]:
    """(busy, limited by the peer's window, by the send buffer), each including the more special ones."""
    now = register.task.kernel.time.jiffies
    stats = list(sk.chrono_stat)
    if sk.chrono_type:
        stats[sk.chrono_type - 1] += now - sk.chrono_start
    in_us = [value * (1000000 // HZ) for value in stats]
    rwnd, sndbuf = in_us[TCP_CHRONO_RWND_LIMITED - 1], in_us[TCP_CHRONO_SNDBUF_LIMITED - 1]
    return in_us[TCP_CHRONO_BUSY - 1] + rwnd + sndbuf, rwnd, sndbuf


def tcp_get_info(sk: TcpSock) -> bytes:
    """struct tcp_info. Locks: sk's owner."""
    if sk.sk_state == TCP_LISTEN:
        return _INFO.pack(sk.sk_state, *[0] * 11, sk.sk_ack_backlog, sk.sk_max_ack_backlog, *[0] * 12, sk.snd_cwnd, 0,
                          sk.reordering, 0, 0, 0, sk.sk_pacing_rate, sk.sk_max_pacing_rate, *[0] * 18)
    rx = sk.rx_opt
    now = register.task.kernel.time.jiffies
    options = (TCPI_OPT_TIMESTAMPS * rx.tstamp_ok | TCPI_OPT_SACK * bool(rx.sack_ok) | TCPI_OPT_WSCALE * rx.wscale_ok)
    busy, rwnd, sndbuf = _chrono_us(sk)
    rate = 0
    if sk.rate_interval_us:
        rate = sk.rate_delivered * sk.mss_cache * 1000000 // sk.rate_interval_us
    return _INFO.pack(
        sk.sk_state, sk.icsk_ca_state, sk.icsk_retransmits, sk.icsk_probes_out, sk.icsk_backoff, options,
        rx.snd_wscale | rx.rcv_wscale << 4, int(sk.rate_app_limited),
        sk.icsk_rto * (1000000 // HZ), sk.icsk_ack_ato * (1000000 // HZ), sk.mss_cache, sk.icsk_ack_rcv_mss,
        sk.packets_out, sk.sacked_out, sk.lost_out, sk.retrans_out, 0,
        _ms(now - sk.lsndtime), 0, _ms(now - sk.icsk_ack_lrcvtime), _ms(now - sk.rcv_tstamp),
        sk.icsk_pmtu_cookie, sk.rcv_ssthresh, sk.srtt_us >> 3, sk.mdev_us >> 2, sk.snd_ssthresh, sk.snd_cwnd, sk.advmss,
        sk.reordering, sk.rcv_rtt_est_rtt_us >> 3, sk.rcvq_space, sk.total_retrans,
        sk.sk_pacing_rate, sk.sk_max_pacing_rate, sk.bytes_acked, sk.bytes_received,
        sk.segs_out, sk.segs_in, sk.write_seq - sk.snd_nxt & 0xFFFFFFFF, tcp_min_rtt(sk), sk.data_segs_in,
        sk.data_segs_out, rate, busy, rwnd, sndbuf, sk.delivered, 0, sk.bytes_sent, sk.bytes_retrans, sk.dsack_dups,
        sk.reord_seen)
