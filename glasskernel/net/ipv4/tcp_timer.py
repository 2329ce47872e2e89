"""TCP's timers: retransmission, probes of a closed window, delayed ACKs, keepalive, the end of orphans.

Linux: net/ipv4/tcp_timer.c (5.3). Same: the RTO doubles up to 120 s; after tcp_retries2 of them, or TCP_USER_TIMEOUT,
the connection ends with ETIMEDOUT; a timer that finds the sock owned leaves its work to release_sock().
Context: softirq. Locks: none; sock_owned_by_user() is respected. Gaps: black hole detection (tcp_mtu_probing), pacing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.time.timekeeping import msecs_to_jiffies
from glasskernel.kernel.time.timer import from_timer
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.errno import ETIMEDOUT
from glasskernel.lib.types import notrace
from glasskernel.net.core.sock import sk_reset_timer, sock_hold, sock_put
from glasskernel.net.core.sock_dst import dst_negative_advice
from glasskernel.net.core.sock_memory import sk_mem_reclaim
from glasskernel.net.ipv4.inet_connection_sock import (
    inet_csk_delete_keepalive_timer,
    inet_csk_init_xmit_timers,
    inet_csk_reset_keepalive_timer,
    inet_csk_reset_xmit_timer,
)
from glasskernel.net.ipv4.tcp_control import tcp_send_ack, tcp_send_active_reset
from glasskernel.net.ipv4.tcp_loss import tcp_enter_loss, tcp_rack_reo_timeout
from glasskernel.net.ipv4.tcp_retransmit import (
    tcp_retransmit_skb,
    tcp_send_loss_probe,
    tcp_send_probe0,
    tcp_write_wakeup,
)
from glasskernel.net.ipv4.tcp_rtt import tcp_set_rto
from glasskernel.net.ipv4.tcp_state import tcp_done, tcp_write_queue_purge
from glasskernel.net.ipv4.tcp_timewait import tcp_time_wait
from glasskernel.net.ipv4.tcp_types import (
    ICSK_ACK_TIMER,
    ICSK_TIME_LOSS_PROBE,
    ICSK_TIME_PROBE0,
    ICSK_TIME_REO_TIMEOUT,
    ICSK_TIME_RETRANS,
    TCP_ATO_MIN,
    TCP_DELACK_TIMER_DEFERRED,
    TCP_RESOURCE_PROBE_INTERVAL,
    TCP_RTO_MAX,
    TCP_RTO_MIN,
    TCP_TIMEOUT_INIT,
    TCP_TIMEWAIT_LEN,
    TCP_WRITE_TIMER_DEFERRED,
    TCP_CA_Disorder,
    TCP_CA_Loss,
    TCP_CA_Recovery,
    inet_csk_in_pingpong_mode,
    keepalive_intvl_when,
    keepalive_probes,
    keepalive_time_when,
    tcp_fin_time,
    tcp_in_initial_slowstart,
    tcp_state_of,
)
from glasskernel.net.ipv4.tcp_window import tcp_mstamp_refresh, tcp_time_stamp
from glasskernel.net.types import (
    SOCK_DEAD,
    SOCK_KEEPOPEN,
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT2,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
)

if TYPE_CHECKING:
    from glasskernel.kernel.time.timer import TimerList
    from glasskernel.net.ipv4.tcp_types import TcpSock
    from glasskernel.net.types import Sock

TCP_THIN_LINEAR_RETRIES = 6


@notrace
def _jiffies() -> int:
    return register.task.kernel.time.jiffies


# ---- giving up ---------------------------------------------------------------------------------------------
def tcp_write_err(sk: TcpSock) -> None:
    """Nobody answers: ETIMEDOUT, or what ICMP said meanwhile."""
    sk.sk_err = sk.sk_err_soft or ETIMEDOUT
    sk.sk_error_report(sk)
    tcp_write_queue_purge(sk)
    tcp_done(sk)
    sk.sk_net.mib.net["TCPAbortOnTimeout"] += 1


@notrace
def tcp_too_many_orphans(sk: TcpSock, shift: int) -> bool:
    state = tcp_state_of(sk.sk_net)
    return state.orphan_count << shift > state.max_orphans


def tcp_out_of_resources(sk: TcpSock, do_reset: bool) -> bool:
    """Orphans are killed when there are too many. True: this one was."""
    shift = 0
    if _jiffies() - sk.lsndtime > 2 * TCP_RTO_MAX or not do_reset:       # it hangs for long already
        shift += 1
    if sk.sk_err_soft:
        shift += 1
    if not tcp_too_many_orphans(sk, shift):
        return False
    if _jiffies() - sk.lsndtime <= TCP_TIMEWAIT_LEN or (not sk.snd_wnd and not sk.packets_out):
        do_reset = True                  # the peer lives: tell it
    if do_reset:
        tcp_send_active_reset(sk)
    tcp_done(sk)
    sk.sk_net.mib.net["TCPAbortOnMemory"] += 1
    return True


@notrace
def tcp_orphan_retries(sk: TcpSock, alive: bool) -> int:
    retries: int = sk.sk_net.ipv4.sysctl["tcp_orphan_retries"]
    if sk.sk_err_soft and not alive:
        return 0
    return 8 if not retries and alive else retries


@notrace
def tcp_model_timeout(boundary: int, rto_base: int) -> int:
    """ms after which `boundary` doubled timeouts are over."""
    linear_backoff_thresh = (TCP_RTO_MAX // rto_base).bit_length() - 1
    if boundary <= linear_backoff_thresh:
        timeout = ((2 << boundary) - 1) * rto_base
    else:
        timeout = ((2 << linear_backoff_thresh) - 1) * rto_base + (boundary - linear_backoff_thresh) * TCP_RTO_MAX
    return timeout * 1000 // HZ


@notrace
def retransmits_timed_out(sk: TcpSock, boundary: int, timeout_ms: int) -> bool:
    """The first retransmission is longer ago than `boundary` doubled timeouts take, or than timeout_ms."""
    if not sk.icsk_retransmits:
        return False
    start_ts = sk.retrans_stamp
    if not start_ts:
        if not sk.tcp_rtx_queue:
            return False
        start_ts = sk.tcp_rtx_queue[0].cb.skb_mstamp_ns // 1000000
    if not timeout_ms:
        rto_base = TCP_TIMEOUT_INIT if sk.sk_state in (TCP_SYN_SENT, TCP_SYN_RECV) else TCP_RTO_MIN
        timeout_ms = tcp_model_timeout(boundary, rto_base)
    return tcp_time_stamp(sk) - start_ts >= timeout_ms


@notrace
def tcp_write_timeout(sk: TcpSock) -> bool:
    """One more timeout. True: it was the last, and the sock is closed."""
    sysctl = sk.sk_net.ipv4.sysctl
    if sk.sk_state in (TCP_SYN_SENT, TCP_SYN_RECV):
        if sk.icsk_retransmits:
            dst_negative_advice(sk)
        retry_until = sk.icsk_syn_retries or sysctl["tcp_syn_retries"]
        expired = sk.icsk_retransmits >= retry_until
    else:
        if retransmits_timed_out(sk, sysctl["tcp_retries1"], 0):
            dst_negative_advice(sk)
        retry_until = sysctl["tcp_retries2"]
        if sk.sk_flags & SOCK_DEAD:
            alive = sk.icsk_rto < TCP_RTO_MAX
            retry_until = tcp_orphan_retries(sk, alive)
            do_reset = alive or not retransmits_timed_out(sk, retry_until, 0)
            if tcp_out_of_resources(sk, do_reset):
                return True
        expired = retransmits_timed_out(sk, retry_until, sk.icsk_user_timeout)
    if expired:
        tcp_write_err(sk)
        return True
    return False


# ---- the retransmission timer ------------------------------------------------------------------------------
def tcp_retransmit_timer(sk: TcpSock) -> None:
    """No ACK came in time: the first segment goes out again, and the next timeout is twice as long."""
    if not sk.packets_out or not sk.tcp_rtx_queue:
        return
    mib = sk.sk_net.mib.net
    sk.tlp_high_seq = 0
    if not sk.snd_wnd and not sk.sk_flags & SOCK_DEAD and sk.sk_state not in (TCP_SYN_SENT, TCP_SYN_RECV):
        # The peer shrank its window to nothing: as long as it answers at all we wait.
        if _jiffies() - sk.rcv_tstamp > TCP_RTO_MAX:
            tcp_write_err(sk)
            return
        tcp_enter_loss(sk)
        tcp_retransmit_skb(sk, sk.tcp_rtx_queue[0], 1)
        _back_off(sk)
        return
    mib["TCPTimeouts"] += 1
    if tcp_write_timeout(sk):
        return
    if not sk.icsk_retransmits:
        state = sk.icsk_ca_state
        kind = "Sack" if sk.rx_opt.sack_ok else "Reno"
        if state == TCP_CA_Recovery:
            mib[f"TCP{kind}RecoveryFail"] += 1
        elif state == TCP_CA_Loss:
            mib["TCPLossFailures"] += 1
        elif state == TCP_CA_Disorder or sk.sacked_out:
            mib[f"TCP{kind}Failures"] += 1
    tcp_enter_loss(sk)
    if tcp_retransmit_skb(sk, sk.tcp_rtx_queue[0], 1) > 0:
        # Our own queue is full: try again soon, without backing off.
        sk.icsk_retransmits = sk.icsk_retransmits or 1
        inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, min(sk.icsk_rto, TCP_RESOURCE_PROBE_INTERVAL), TCP_RTO_MAX)
        return
    sk.icsk_backoff += 1
    sk.icsk_retransmits += 1
    thin = sk.packets_out < 4 and not tcp_in_initial_slowstart(sk)       # tcp_stream_is_thin()
    if sk.sk_state == TCP_ESTABLISHED and sk.thin_lto and thin and sk.icsk_retransmits <= TCP_THIN_LINEAR_RETRIES:
        sk.icsk_backoff = 0              # TCP_THIN_LINEAR_TIMEOUTS: the first six are not doubled
        tcp_set_rto(sk)
        inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, sk.icsk_rto, TCP_RTO_MAX)
    else:
        _back_off(sk)


@notrace
def _back_off(sk: TcpSock) -> None:
    sk.icsk_rto = min(sk.icsk_rto << 1, TCP_RTO_MAX)
    when = sk.icsk_rto
    if sk.icsk_user_timeout and sk.retrans_stamp:        # tcp_clamp_rto_to_user_timeout()
        remaining = sk.icsk_user_timeout - (tcp_time_stamp(sk) - sk.retrans_stamp)
        when = min(when, msecs_to_jiffies(remaining) or 1) if remaining > 0 else 1
    inet_csk_reset_xmit_timer(sk, ICSK_TIME_RETRANS, when, TCP_RTO_MAX)


def tcp_probe_timer(sk: TcpSock) -> None:
    """The window is closed: asks for it, or gives up after tcp_retries2 probes without any answer."""
    if sk.packets_out or not sk.sk_write_queue.q:
        sk.icsk_probes_out = 0
        return
    head_stamp = sk.sk_write_queue.q[0].cb.skb_mstamp_ns // 1000000
    if not head_stamp:
        sk.sk_write_queue.q[0].cb.skb_mstamp_ns = sk.tcp_clock_cache
    elif sk.icsk_user_timeout and tcp_time_stamp(sk) - head_stamp >= sk.icsk_user_timeout:
        tcp_write_err(sk)
        return
    max_probes = sk.sk_net.ipv4.sysctl["tcp_retries2"]
    if sk.sk_flags & SOCK_DEAD:
        alive = sk.icsk_rto << sk.icsk_backoff < TCP_RTO_MAX
        max_probes = tcp_orphan_retries(sk, alive)
        if not alive and sk.icsk_backoff >= max_probes:
            tcp_write_err(sk)
            return
        if tcp_out_of_resources(sk, True):
            return
    if sk.icsk_probes_out >= max_probes:
        tcp_write_err(sk)
    else:
        tcp_send_probe0(sk)


def tcp_write_timer_handler(sk: TcpSock) -> None:
    """The timer that is pending in icsk_pending: retransmission, probe, loss probe or reordering."""
    if sk.sk_state in (TCP_CLOSE, TCP_LISTEN) or not sk.icsk_pending:
        sk_mem_reclaim(sk)
        return
    if sk.icsk_timeout > _jiffies():     # it was set again meanwhile
        sk_reset_timer(sk, sk.icsk_retransmit_timer, sk.icsk_timeout)
        sk_mem_reclaim(sk)
        return
    tcp_mstamp_refresh(sk)
    event = sk.icsk_pending
    if event == ICSK_TIME_REO_TIMEOUT:
        tcp_rack_reo_timeout(sk)
    elif event == ICSK_TIME_LOSS_PROBE:
        tcp_send_loss_probe(sk)
    elif event == ICSK_TIME_RETRANS:
        sk.icsk_pending = 0
        tcp_retransmit_timer(sk)
    elif event == ICSK_TIME_PROBE0:
        sk.icsk_pending = 0
        tcp_probe_timer(sk)
    sk_mem_reclaim(sk)


def tcp_write_timer(timer: TimerList) -> None:
    sk: TcpSock = from_timer(timer)
    if not sk.sk_lock_owned:
        tcp_write_timer_handler(sk)
    elif not sk.tsq_flags & TCP_WRITE_TIMER_DEFERRED:    # release_sock() will do it
        sk.tsq_flags |= TCP_WRITE_TIMER_DEFERRED
        sock_hold(sk)
    sock_put(sk)


# ---- delayed ACKs ------------------------------------------------------------------------------------------
def tcp_delack_timer_handler(sk: TcpSock) -> None:
    """No data took the ACK along: it goes by itself."""
    if sk.sk_state in (TCP_CLOSE, TCP_LISTEN) or not sk.icsk_ack_pending & ICSK_ACK_TIMER:
        return
    if sk.icsk_ack_timeout > _jiffies():
        sk_reset_timer(sk, sk.icsk_delack_timer, sk.icsk_ack_timeout)
        return
    sk.icsk_ack_pending &= ~ICSK_ACK_TIMER
    if sk.icsk_ack_pending & 1:          # inet_csk_ack_scheduled()
        if not inet_csk_in_pingpong_mode(sk):
            sk.icsk_ack_ato = min(sk.icsk_ack_ato << 1, sk.icsk_rto)     # we were too early to expect data
        else:                            # the dialogue is over
            sk.icsk_ack_pingpong = 0
            sk.icsk_ack_ato = TCP_ATO_MIN
        tcp_mstamp_refresh(sk)
        tcp_send_ack(sk)
        sk.sk_net.mib.net["DelayedACKs"] += 1


def tcp_delack_timer(timer: TimerList) -> None:
    sk: TcpSock = from_timer(timer)
    if not sk.sk_lock_owned:
        tcp_delack_timer_handler(sk)
    else:
        sk.icsk_ack_blocked = True
        sk.sk_net.mib.net["DelayedACKLocked"] += 1
        if not sk.tsq_flags & TCP_DELACK_TIMER_DEFERRED:
            sk.tsq_flags |= TCP_DELACK_TIMER_DEFERRED
            sock_hold(sk)
    sock_put(sk)


# ---- keepalive, and the end of orphans ---------------------------------------------------------------------
def tcp_set_keepalive(sk: Sock, val: int) -> None:
    """SO_KEEPALIVE"""
    tp: TcpSock = sk  # type: ignore[assignment]
    if tp.sk_state in (TCP_CLOSE, TCP_LISTEN):
        return
    if val and not tp.sk_flags & SOCK_KEEPOPEN:
        inet_csk_reset_keepalive_timer(tp, keepalive_time_when(tp))
    elif not val:
        inet_csk_delete_keepalive_timer(tp)


@notrace
def keepalive_time_elapsed(sk: TcpSock) -> int:
    """jiffies since the peer was last heard of"""
    now = _jiffies()
    return min(now - sk.icsk_ack_lrcvtime, now - sk.rcv_tstamp)


def tcp_keepalive_timer(timer: TimerList) -> None:
    """Is the peer still there? For an orphan in FIN_WAIT2: its time is over."""
    sk: TcpSock = from_timer(timer)
    _keepalive(sk)
    sock_put(sk)


@notrace
def _keepalive(sk: TcpSock) -> None:
    if sk.sk_lock_owned:
        inet_csk_reset_keepalive_timer(sk, HZ // 20)
        return
    if sk.sk_state == TCP_LISTEN:
        return
    tcp_mstamp_refresh(sk)
    if sk.sk_state == TCP_FIN_WAIT2 and sk.sk_flags & SOCK_DEAD:
        if sk.linger2 >= 0:
            tmo = tcp_fin_time(sk) - TCP_TIMEWAIT_LEN
            if tmo > 0:
                tcp_time_wait(sk, TCP_FIN_WAIT2, tmo)
                return
        tcp_send_active_reset(sk)
        tcp_done(sk)
        return
    if not sk.sk_flags & SOCK_KEEPOPEN or sk.sk_state in (TCP_CLOSE, TCP_SYN_SENT):
        return
    elapsed = keepalive_time_when(sk)
    if not sk.packets_out and not sk.sk_write_queue.q:   # otherwise the other timers watch the peer
        since = keepalive_time_elapsed(sk)
        if since >= elapsed:
            if (sk.icsk_user_timeout and since >= msecs_to_jiffies(sk.icsk_user_timeout) and sk.icsk_probes_out) or (
                    not sk.icsk_user_timeout and sk.icsk_probes_out >= keepalive_probes(sk)):
                tcp_send_active_reset(sk)
                tcp_write_err(sk)
                return
            if tcp_write_wakeup(sk, "TCPKeepAlive") <= 0:
                sk.icsk_probes_out += 1
                elapsed = keepalive_intvl_when(sk)
            else:
                elapsed = TCP_RESOURCE_PROBE_INTERVAL
        else:
            elapsed -= since
    sk_mem_reclaim(sk)
    inet_csk_reset_keepalive_timer(sk, elapsed)


def tcp_init_xmit_timers(sk: TcpSock) -> None:
    inet_csk_init_xmit_timers(sk, tcp_write_timer, tcp_delack_timer, tcp_keepalive_timer)
