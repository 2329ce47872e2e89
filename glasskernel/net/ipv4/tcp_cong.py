"""Congestion controls: their register, and Reno, which each of them falls back to.

Linux: net/ipv4/tcp_cong.c (5.3). Same: slow start and congestion avoidance (RFC 5681), the sysctls' lists; only root
may choose what is not in tcp_allowed_congestion_control. Differs: controls are not modules: reno and cubic are there.
Owns: TcpState.cong_list, icsk_ca_ops. Locks: sk's owner.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import ENOENT, EPERM, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.tcp_types import TcpCongestionOps, tcp_in_slow_start, tcp_is_cwnd_limited, tcp_state_of
from glasskernel.net.types import TCP_CLOSE, TCP_LISTEN

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import TcpSock, TcpState
    from glasskernel.net.types import Net


def tcp_register_congestion_control(state: TcpState, ca: TcpCongestionOps) -> None:
    state.cong_list[ca.name] = ca


@notrace
def tcp_ca_find(net: Net, name: str) -> TcpCongestionOps | None:
    return tcp_state_of(net).cong_list.get(name)


def tcp_assign_congestion_control(sk: TcpSock) -> None:
    """A new sock gets the namespace's default."""
    sk.icsk_ca_ops = tcp_ca_find(sk.sk_net, sk.sk_net.ipv4.sysctl["tcp_congestion_control"]) or tcp_reno
    sk.icsk_ca_priv = sk.icsk_ca_ops.make_priv()


def tcp_init_congestion_control(sk: TcpSock) -> None:
    """The connection begins."""
    sk.prior_ssthresh = 0
    if sk.icsk_ca_ops.init is not None:
        sk.icsk_ca_ops.init(sk)
    sk.icsk_ca_initialized = True


@notrace
def tcp_reinit_congestion_control(sk: TcpSock, ca: TcpCongestionOps) -> None:
    tcp_cleanup_congestion_control(sk)
    sk.icsk_ca_ops = ca
    sk.icsk_ca_setsockopt = True
    sk.icsk_ca_priv = ca.make_priv()
    if sk.sk_state not in (TCP_CLOSE, TCP_LISTEN):
        tcp_init_congestion_control(sk)


def tcp_cleanup_congestion_control(sk: TcpSock) -> None:
    if sk.icsk_ca_ops.release is not None:
        sk.icsk_ca_ops.release(sk)


def tcp_set_default_congestion_control(net: Net, name: str) -> None:
    """sysctl tcp_congestion_control. Raises ENOENT."""
    if tcp_ca_find(net, name) is None:
        raise KernelError(ENOENT)
    net.ipv4.sysctl["tcp_congestion_control"] = name
    allowed = net.ipv4.sysctl["tcp_allowed_congestion_control"]
    if name not in allowed:
        net.ipv4.sysctl["tcp_allowed_congestion_control"] = [*allowed, name]


def tcp_set_allowed_congestion_control(net: Net, names: list[str]) -> None:
    """sysctl tcp_allowed_congestion_control. Raises ENOENT."""
    for name in names:
        if tcp_ca_find(net, name) is None:
            raise KernelError(ENOENT)
    net.ipv4.sysctl["tcp_allowed_congestion_control"] = names


def tcp_set_congestion_control(sk: TcpSock, name: str, cap_net_admin: bool) -> None:
    """TCP_CONGESTION. Raises ENOENT, EPERM."""
    ca = tcp_ca_find(sk.sk_net, name)
    if ca is None:
        raise KernelError(ENOENT)
    if ca is sk.icsk_ca_ops:
        sk.icsk_ca_setsockopt = True
        return
    if name not in sk.sk_net.ipv4.sysctl["tcp_allowed_congestion_control"] and not cap_net_admin:
        raise KernelError(EPERM)
    tcp_reinit_congestion_control(sk, ca)


def tcp_slow_start(tp: TcpSock, acked: int) -> int:
    """One segment more for each that was acknowledged, up to ssthresh; answers what is left of `acked`."""
    cwnd = min(tp.snd_cwnd + acked, tp.snd_ssthresh)
    acked -= cwnd - tp.snd_cwnd
    tp.snd_cwnd = min(cwnd, tp.snd_cwnd_clamp)
    return acked


def tcp_cong_avoid_ai(tp: TcpSock, w: int, acked: int) -> None:
    """One segment more after `w` acknowledged ones."""
    if tp.snd_cwnd_cnt >= w:
        tp.snd_cwnd_cnt = 0
        tp.snd_cwnd += 1
    tp.snd_cwnd_cnt += acked
    if tp.snd_cwnd_cnt >= w:
        delta = tp.snd_cwnd_cnt // w
        tp.snd_cwnd_cnt -= delta * w
        tp.snd_cwnd += delta
    tp.snd_cwnd = min(tp.snd_cwnd, tp.snd_cwnd_clamp)


def tcp_reno_cong_avoid(sk: TcpSock, ack: int, acked: int) -> None:
    if not tcp_is_cwnd_limited(sk):
        return
    if tcp_in_slow_start(sk):
        acked = tcp_slow_start(sk, acked)
        if not acked:
            return
    tcp_cong_avoid_ai(sk, sk.snd_cwnd, acked)


def tcp_reno_ssthresh(sk: TcpSock) -> int:
    """Half the window, at least 2."""
    return max(sk.snd_cwnd >> 1, 2)


def tcp_reno_undo_cwnd(sk: TcpSock) -> int:
    return max(sk.snd_cwnd, sk.prior_cwnd)


tcp_reno = TcpCongestionOps("reno", tcp_reno_ssthresh, tcp_reno_undo_cwnd, tcp_reno_cong_avoid)
