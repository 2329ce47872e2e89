"""/proc/net/tcp, and TCP's variables below /proc/sys/net/ipv4.

Linux: net/ipv4/tcp_ipv4.c: tcp4_seq_show(), net/ipv4/sysctl_net_ipv4.c (5.3). Same: columns, the order of listeners,
connections; names, limits and units of variables. A variable that nothing reads is absent.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.proc.proc_net import proc_create_net, proc_remove_net
from glasskernel.fs.proc.proc_sysctl import CtlTable
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.types import notrace
from glasskernel.net.core.sock import sock_i_ino, sock_i_uid
from glasskernel.net.ipv4.inet_hashtables import hashinfo
from glasskernel.net.ipv4.tcp_cong import (
    tcp_set_allowed_congestion_control,
    tcp_set_default_congestion_control,
)
from glasskernel.net.ipv4.tcp_types import (
    ICSK_TIME_LOSS_PROBE,
    ICSK_TIME_PROBE0,
    ICSK_TIME_REO_TIMEOUT,
    ICSK_TIME_RETRANS,
    inet_csk_in_pingpong_mode,
    tcp_state_of,
)
from glasskernel.net.sysctl_net import dointvec, dointvecs, register_net_sysctl
from glasskernel.net.types import TCP_LISTEN, TCP_NEW_SYN_RECV, TCP_SYN_RECV, TCP_TIME_WAIT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.init.kernel import Kernel
    from glasskernel.net.ipv4.tcp_types import RequestSock, TcpSock, TimewaitSock
    from glasskernel.net.types import Net

USER_HZ = 100
_WIDTH = 149
# name: low, high (None: no limit)
VARIABLES: dict[str, tuple[int, int] | None] = {
    "tcp_timestamps": None, "tcp_sack": None, "tcp_window_scaling": None, "tcp_reordering": None,
    "tcp_max_reordering": None, "tcp_retries1": (0, 255), "tcp_retries2": None, "tcp_syn_retries": (1, 127),
    "tcp_synack_retries": None, "tcp_orphan_retries": None, "tcp_fin_timeout": None, "tcp_keepalive_time": None,
    "tcp_keepalive_probes": None, "tcp_keepalive_intvl": None, "tcp_max_tw_buckets": None, "tcp_max_syn_backlog": None,
    "tcp_tw_reuse": (0, 2), "tcp_rfc1337": None, "tcp_stdurg": None, "tcp_abort_on_overflow": None, "tcp_dsack": None,
    "tcp_app_win": None, "tcp_adv_win_scale": (-31, 31), "tcp_frto": None, "tcp_moderate_rcvbuf": None,
    "tcp_tso_win_divisor": None, "tcp_limit_output_bytes": None, "tcp_challenge_ack_limit": None,
    "tcp_min_tso_segs": (1, 65535), "tcp_min_rtt_wlen": (0, 86400), "tcp_autocorking": (0, 1),
    "tcp_invalid_ratelimit": None, "tcp_pacing_ss_ratio": (0, 1000), "tcp_pacing_ca_ratio": (0, 1000),
    "tcp_early_retrans": (0, 4), "tcp_slow_start_after_idle": None, "tcp_notsent_lowat": (0, 0xFFFFFFFF),
    "tcp_min_snd_mss": (48, 65535), "tcp_workaround_signed_windows": None,
}


# ---- /proc/net/tcp ----------------------------------------------------------------------------------------------
@notrace
def _address(address: int, port: int) -> str:
    """As the bytes of the address read on this machine."""
    return f"{int.from_bytes(address.to_bytes(4, 'big'), 'little'):08X}:{port:04X}"


@notrace
def jiffies_delta_to_clock_t(delta: int) -> int:
    return max(delta, 0) * USER_HZ // HZ


@notrace
def get_tcp4_sock(sk: TcpSock, i: int) -> str:
    now = sk.sk_net.kernel.time.jiffies
    pending = sk.icsk_pending
    if pending in (ICSK_TIME_RETRANS, ICSK_TIME_REO_TIMEOUT, ICSK_TIME_LOSS_PROBE):
        active, expires = 1, sk.icsk_timeout
    elif pending == ICSK_TIME_PROBE0:
        active, expires = 4, sk.icsk_timeout
    elif sk.sk_timer is not None and sk.sk_timer.base is not None:
        active, expires = 2, sk.sk_timer.expires
    else:
        active, expires = 0, now
    if sk.sk_state == TCP_LISTEN:
        rx_queue, last = sk.sk_ack_backlog, 0
    else:
        rx_queue = max(sk.rcv_nxt - sk.copied_seq, 0)
        last = -1 if sk.snd_cwnd < sk.snd_ssthresh and sk.snd_ssthresh >= 0x7FFFFFFF else sk.snd_ssthresh
    tx_queue = sk.write_seq - sk.snd_una & 0xFFFFFFFF
    return (f"{i:4d}: {_address(sk.inet_rcv_saddr, sk.inet_num)} {_address(sk.inet_daddr, sk.inet_dport)} "
            f"{sk.sk_state:02X} {tx_queue:08X}:{rx_queue & 0xFFFFFFFF:08X} "
            f"{active:02X}:{jiffies_delta_to_clock_t(expires - now):08X} {sk.icsk_retransmits:08X} {sock_i_uid(sk):5d} "
            f"{sk.icsk_probes_out:8d} {sock_i_ino(sk)} {sk.sk_refcnt} {sk.slab_address:016x} "
            f"{jiffies_delta_to_clock_t(sk.icsk_rto)} {jiffies_delta_to_clock_t(sk.icsk_ack_ato)} "
            f"{sk.icsk_ack_quick << 1 | inet_csk_in_pingpong_mode(sk)} {sk.snd_cwnd} {last}")


@notrace
def get_openreq4(req: RequestSock, i: int) -> str:
    delta = req.rsk_timer.expires - req.sk_net.kernel.time.jiffies
    return (f"{i:4d}: {_address(req.inet_rcv_saddr, req.inet_num)} {_address(req.inet_daddr, req.inet_dport)} "
            f"{TCP_SYN_RECV:02X} {0:08X}:{0:08X} 01:{jiffies_delta_to_clock_t(delta):08X} {req.num_timeout:08X} "
            f"{sock_i_uid(req.rsk_listener):5d} {0:8d} 0 0 {req.slab_address:016x}")


@notrace
def get_timewait4_sock(tw: TimewaitSock, i: int) -> str:
    delta = tw.tw_timer.expires - tw.sk_net.kernel.time.jiffies
    return (f"{i:4d}: {_address(tw.inet_rcv_saddr, tw.inet_num)} {_address(tw.inet_daddr, tw.inet_dport)} "
            f"{tw.tw_substate:02X} {0:08X}:{0:08X} 03:{jiffies_delta_to_clock_t(delta):08X} {0:08X} {0:5d} {0:8d} 0 "
            f"{tw.sk_refcnt} {tw.slab_address:016x}")


def tcp4_seq_show(net: Net) -> Iterator[bytes]:
    """The lines: listeners first."""
    title = ("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode")
    yield title.ljust(_WIDTH).encode() + b"\n"
    info = hashinfo(net)
    socks: list[Any] = [sk for listeners in info.listening_hash.values() for sk in listeners]
    socks += info.ehash.values()
    for i, sk in enumerate(socks):
        if sk.sk_state == TCP_TIME_WAIT:
            line = get_timewait4_sock(sk, i)
        elif sk.sk_state == TCP_NEW_SYN_RECV:
            line = get_openreq4(sk, i)
        else:
            line = get_tcp4_sock(sk, i)
        yield line.ljust(_WIDTH).encode() + b"\n"


# ---- /proc/sys/net/ipv4 -------------------------------------------------------------------------------------------
@notrace
def _congestion(net: Net) -> list[CtlTable]:
    sysctl = net.ipv4.sysctl

    def names(_kernel: Kernel) -> bytes:
        return " ".join(sysctl["tcp_allowed_congestion_control"]).encode()

    return [
        CtlTable(b"tcp_congestion_control", 0o644, lambda _kernel: sysctl["tcp_congestion_control"].encode(),
                 lambda _kernel, text: tcp_set_default_congestion_control(net, text.decode("latin-1").strip())),
        CtlTable(b"tcp_available_congestion_control", 0o444,
                 lambda _kernel: " ".join(tcp_state_of(net).cong_list).encode()),
        CtlTable(b"tcp_allowed_congestion_control", 0o644, names,
                 lambda _kernel, text: tcp_set_allowed_congestion_control(net, text.decode("latin-1").split())),
    ]


@notrace
def tcp_proc_init(net: Net) -> None:
    """A namespace's files."""
    proc_create_net(net, b"tcp", tcp4_seq_show)
    sysctl = net.ipv4.sysctl
    table = [dointvec(name.encode(), sysctl, name, *(limits or ())) for name, limits in VARIABLES.items()]
    table += [dointvecs(b"tcp_wmem", sysctl, "tcp_wmem", 1), dointvecs(b"tcp_rmem", sysctl, "tcp_rmem", 1)]
    table += _congestion(net)
    state = net.kernel.net
    assert state is not None
    if net is state.init_net:
        table += [dointvecs(b"tcp_mem", state.sysctl_mem, "TCP"),
                  dointvec(b"tcp_max_orphans", tcp_state_of(net), "max_orphans")]
    register_net_sysctl(net, b"net/ipv4", table)


@notrace
def tcp_proc_exit(net: Net) -> None:
    proc_remove_net(net, b"tcp")
