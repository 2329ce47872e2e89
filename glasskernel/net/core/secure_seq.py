"""Numbers that strangers cannot guess: initial sequence numbers, offsets of timestamps, ports.

Linux: net/core/secure_seq.c (5.3). Same: a keyed hash of the connection; the clock makes sequence numbers grow by one
every 64 ns. Owns: kernel.inet.net_secret and ts_secret, of the seeded generator.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.lib.siphash import siphash
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.net.types import Net


@notrace
def net_secret_init(net: Net) -> bytes:
    """The key, drawn at the first use."""
    inet = net.kernel.inet
    assert inet is not None
    if not inet.net_secret:
        inet.net_secret = net.kernel.machine.random_bytes(16)
    return inet.net_secret


@notrace
def _flow(saddr: int, daddr: int, ports: int) -> bytes:
    return saddr.to_bytes(4, "big") + daddr.to_bytes(4, "big") + ports.to_bytes(4, "big")


@notrace
def seq_scale(seq: int) -> int:
    """As fast as a 2.5 Gbit/s line sends."""
    return seq + (ktime_get_real() >> 6) & 0xFFFFFFFF


def secure_tcp_ts_off(net: Net, saddr: int, daddr: int) -> int:
    """Where a connection's timestamps begin; 0 unless tcp_timestamps is 1."""
    if net.ipv4.sysctl["tcp_timestamps"] != 1:
        return 0
    return siphash(_flow(saddr, daddr, 0), net_secret_init(net)[::-1]) & 0xFFFFFFFF


def secure_tcp_seq(net: Net, saddr: int, daddr: int, sport: int, dport: int) -> int:
    return seq_scale(siphash(_flow(saddr, daddr, sport << 16 | dport), net_secret_init(net)) & 0xFFFFFFFF)


def secure_ipv4_port_ephemeral(net: Net, saddr: int, daddr: int, dport: int) -> int:
    """Where the search for a free local port begins."""
    return siphash(_flow(saddr, daddr, dport), net_secret_init(net)) & 0xFFFFFFFF
