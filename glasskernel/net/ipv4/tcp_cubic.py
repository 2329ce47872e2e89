"""CUBIC, the default congestion control: the window grows as a cubic function of the time since the last loss.

Linux: net/ipv4/tcp_cubic.c (5.3). Same: its integer arithmetic (BICTCP_HZ 10, beta 717/1024, C 0.4), TCP friendliness,
HyStart by trains and by delay. Locks: sk's owner.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.tcp_cong import tcp_cong_avoid_ai, tcp_reno_undo_cwnd, tcp_slow_start
from glasskernel.net.ipv4.tcp_types import (
    CA_EVENT_TX_START,
    TCP_CA_Loss,
    TcpCongestionOps,
    after,
    tcp_in_slow_start,
    tcp_is_cwnd_limited,
)

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import TcpSock

BICTCP_BETA_SCALE, BICTCP_HZ = 1024, 10
HYSTART_ACK_TRAIN, HYSTART_DELAY = 1, 2
HYSTART_MIN_SAMPLES, HYSTART_DELAY_MIN_MS, HYSTART_DELAY_MAX_MS = 8, 4, 16
HYSTART_LOW_WINDOW, HYSTART_ACK_DELTA_MS = 16, 2
BETA, BIC_SCALE = 717, 41                # = 717/1024 (0.7), 0.4 * 1024 / 10
CUBE_RTT_SCALE = BIC_SCALE * 10
BETA_SCALE = 8 * (BICTCP_BETA_SCALE + BETA) // 3 // (BICTCP_BETA_SCALE - BETA)
CUBE_FACTOR = (1 << 10 + 3 * BICTCP_HZ) // CUBE_RTT_SCALE


@slotted
class Bictcp:
    """struct bictcp. Delays: ms << 3."""

    cnt: int = 0
    last_max_cwnd: int = 0
    last_cwnd: int = 0
    last_time: int = 0
    bic_origin_point: int = 0
    bic_K: int = 0
    delay_min: int = 0
    epoch_start: int = 0
    ack_cnt: int = 0
    tcp_cwnd: int = 0
    sample_cnt: int = 0
    found: int = 0
    round_start: int = 0                 # ms
    end_seq: int = 0
    last_ack: int = 0                    # ms
    curr_rtt: int = 0


@notrace
def _jiffies(sk: TcpSock) -> int:
    return sk.sk_net.kernel.time.jiffies


@notrace
def bictcp_clock() -> int:
    """ms, as exact as jiffies"""
    return register.task.kernel.time.jiffies * 1000 // HZ


def bictcp_init(sk: TcpSock) -> None:
    sk.icsk_ca_priv = Bictcp()
    bictcp_hystart_reset(sk)


@notrace
def bictcp_hystart_reset(sk: TcpSock) -> None:
    ca: Bictcp = sk.icsk_ca_priv
    ca.round_start = ca.last_ack = bictcp_clock()
    ca.end_seq = sk.snd_nxt
    ca.curr_rtt = 0
    ca.sample_cnt = 0


def bictcp_cwnd_event(sk: TcpSock, event: int) -> None:
    """Sending begins again: the time without data does not count."""
    if event != CA_EVENT_TX_START:
        return
    ca: Bictcp = sk.icsk_ca_priv
    now = _jiffies(sk)
    delta = now - sk.lsndtime
    if ca.epoch_start and delta > 0:
        ca.epoch_start = min(ca.epoch_start + delta, now)


def cubic_root(a: int) -> int:
    """The integer cube root."""
    if a < 64:
        return round(a ** (1 / 3)) if a else 0
    x = 1 << (a.bit_length() + 2) // 3
    while True:                          # Newton's iteration, from above
        y = (2 * x + a // (x * x)) // 3
        if y >= x:
            return x
        x = y


@notrace
def bictcp_update(ca: Bictcp, cwnd: int, acked: int, now: int) -> None:
    """ca.cnt: after how many acknowledged segments the window grows by one."""
    ca.ack_cnt += acked
    if ca.last_cwnd == cwnd and now - ca.last_time <= HZ // 32:
        return
    if not (ca.epoch_start and now == ca.last_time):
        ca.last_cwnd = cwnd
        ca.last_time = now
        if not ca.epoch_start:
            ca.epoch_start = now
            ca.ack_cnt = acked
            ca.tcp_cwnd = cwnd
            if ca.last_max_cwnd <= cwnd:
                ca.bic_K = 0
                ca.bic_origin_point = cwnd
            else:
                ca.bic_K = cubic_root(CUBE_FACTOR * (ca.last_max_cwnd - cwnd))
                ca.bic_origin_point = ca.last_max_cwnd
        t = (now - ca.epoch_start) * 1000 // HZ + (ca.delay_min >> 3)
        t = (t << BICTCP_HZ) // 1000
        offs = abs(ca.bic_K - t)
        delta = CUBE_RTT_SCALE * offs * offs * offs >> 10 + 3 * BICTCP_HZ
        bic_target = ca.bic_origin_point - delta if t < ca.bic_K else ca.bic_origin_point + delta
        ca.cnt = cwnd // (bic_target - cwnd) if bic_target > cwnd else 100 * cwnd
        if not ca.last_max_cwnd and ca.cnt > 20:
            ca.cnt = 20
    # as fast as Reno at least
    delta = cwnd * BETA_SCALE >> 3
    while ca.ack_cnt > delta:
        ca.ack_cnt -= delta
        ca.tcp_cwnd += 1
    if ca.tcp_cwnd > cwnd:
        ca.cnt = min(ca.cnt, cwnd // (ca.tcp_cwnd - cwnd))
    ca.cnt = max(ca.cnt, 2)


def bictcp_cong_avoid(sk: TcpSock, ack: int, acked: int) -> None:
    if not tcp_is_cwnd_limited(sk):
        return
    ca: Bictcp = sk.icsk_ca_priv
    if tcp_in_slow_start(sk):
        if after(ack, ca.end_seq):
            bictcp_hystart_reset(sk)
        acked = tcp_slow_start(sk, acked)
        if not acked:
            return
    bictcp_update(ca, sk.snd_cwnd, acked, _jiffies(sk))
    tcp_cong_avoid_ai(sk, ca.cnt, acked)


def bictcp_recalc_ssthresh(sk: TcpSock) -> int:
    ca: Bictcp = sk.icsk_ca_priv
    ca.epoch_start = 0
    if sk.snd_cwnd < ca.last_max_cwnd:   # fast convergence: leave room for others
        ca.last_max_cwnd = sk.snd_cwnd * (BICTCP_BETA_SCALE + BETA) // (2 * BICTCP_BETA_SCALE)
    else:
        ca.last_max_cwnd = sk.snd_cwnd
    return max(sk.snd_cwnd * BETA // BICTCP_BETA_SCALE, 2)


def bictcp_state(sk: TcpSock, new_state: int) -> None:
    if new_state == TCP_CA_Loss:
        sk.icsk_ca_priv = Bictcp()
        bictcp_hystart_reset(sk)


@notrace
def hystart_delay_thresh(t: int) -> int:
    return min(max(t, HYSTART_DELAY_MIN_MS << 3), HYSTART_DELAY_MAX_MS << 3)


def hystart_update(sk: TcpSock, delay: int) -> None:
    """Ends slow start before it hurts: when ACKs come in a train of half the delay, or when the delay grows."""
    ca: Bictcp = sk.icsk_ca_priv
    if ca.found & (HYSTART_ACK_TRAIN | HYSTART_DELAY):
        return
    mib = sk.sk_net.mib.net
    now = bictcp_clock()
    if now - ca.last_ack <= HYSTART_ACK_DELTA_MS:
        ca.last_ack = now
        if now - ca.round_start > ca.delay_min >> 4:
            ca.found |= HYSTART_ACK_TRAIN
            mib["TCPHystartTrainDetect"] += 1
            mib["TCPHystartTrainCwnd"] += sk.snd_cwnd
            sk.snd_ssthresh = sk.snd_cwnd
    if ca.sample_cnt < HYSTART_MIN_SAMPLES:
        if not ca.curr_rtt or ca.curr_rtt > delay:
            ca.curr_rtt = delay
        ca.sample_cnt += 1
    elif ca.curr_rtt > ca.delay_min + hystart_delay_thresh(ca.delay_min >> 3):
        ca.found |= HYSTART_DELAY
        mib["TCPHystartDelayDetect"] += 1
        mib["TCPHystartDelayCwnd"] += sk.snd_cwnd
        sk.snd_ssthresh = sk.snd_cwnd


def bictcp_acked(sk: TcpSock, pkts_acked: int, rtt_us: int, in_flight: int) -> None:
    if rtt_us < 0:
        return
    ca: Bictcp = sk.icsk_ca_priv
    if ca.epoch_start and _jiffies(sk) - ca.epoch_start < HZ:            # right after a loss: too noisy
        return
    delay = (rtt_us << 3) // 1000 or 1
    if not ca.delay_min or ca.delay_min > delay:
        ca.delay_min = delay
    if tcp_in_slow_start(sk) and sk.snd_cwnd >= HYSTART_LOW_WINDOW:
        hystart_update(sk, delay)


cubictcp = TcpCongestionOps("cubic", bictcp_recalc_ssthresh, tcp_reno_undo_cwnd, bictcp_cong_avoid, init=bictcp_init,
                            set_state=bictcp_state, cwnd_event=bictcp_cwnd_event, pkts_acked=bictcp_acked,
                            make_priv=Bictcp)
