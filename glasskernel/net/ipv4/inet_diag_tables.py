"""Which socks each protocol of AF_INET has for ss(8).

Linux: net/ipv4/tcp_diag.c, udp_diag.c, raw_diag.c (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace
from glasskernel.net.core.sock_diag import sock_diag_register
from glasskernel.net.ipv4.inet_diag import InetDiagHandler, inet_diag_handler_cmd, inet_diag_register
from glasskernel.net.ipv4.inet_hashtables import hashinfo
from glasskernel.net.ipv4.tcp_sockopt import tcp_get_info
from glasskernel.net.ipv4.tcp_types import TcpSock
from glasskernel.net.ipv4.udp_table import UdpTable
from glasskernel.net.types import (
    AF_INET,
    AF_INET6,
    IPPROTO_RAW,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
    TCP_LISTEN,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.init.kernel import Kernel
    from glasskernel.net.types import Net, Sock


def tcp_diag_dump(net: Net) -> Iterator[Sock]:
    """Listeners, then connections, with those that end or begin."""
    info = hashinfo(net)
    for socks in info.listening_hash.values():
        yield from socks
    yield from info.ehash.values()


def tcp_diag_get_info(sk: Sock) -> tuple[int, int]:
    """Bytes that are not read, and not acknowledged; a listener's queue and its limit."""
    assert isinstance(sk, TcpSock)
    if sk.sk_state == TCP_LISTEN:
        return sk.sk_ack_backlog, sk.sk_max_ack_backlog
    return (sk.rcv_nxt - sk.copied_seq & 0xFFFFFFFF) % (1 << 31), sk.write_seq - sk.snd_una & 0xFFFFFFFF


@notrace
def tcp_info(sk: Sock) -> bytes:
    assert isinstance(sk, TcpSock)
    return tcp_get_info(sk)


def udp_dump(table: UdpTable) -> Iterator[Sock]:
    for socks in table.hash.values():
        yield from socks


def udp_diag_dump(net: Net) -> Iterator[Sock]:
    return udp_dump(net.ipv4.udp)


def udplite_diag_dump(net: Net) -> Iterator[Sock]:
    return udp_dump(net.ipv4.udplite)


def udp_diag_get_info(sk: Sock) -> tuple[int, int]:
    return sk.sk_rmem_alloc, sk.sk_wmem_alloc


def raw_diag_dump(net: Net) -> Iterator[Sock]:
    table = net.ipv4.raw
    if table is not None:
        for socks in table.ht.values():
            yield from socks


def inet_diag_init(kernel: Kernel) -> None:
    sock_diag_register(kernel, AF_INET, inet_diag_handler_cmd)
    sock_diag_register(kernel, AF_INET6, inet_diag_handler_cmd)
    inet_diag_register(kernel, IPPROTO_TCP, InetDiagHandler(tcp_diag_dump, tcp_diag_get_info, tcp_info))
    inet_diag_register(kernel, IPPROTO_UDP, InetDiagHandler(udp_diag_dump, udp_diag_get_info))
    inet_diag_register(kernel, IPPROTO_UDPLITE, InetDiagHandler(udplite_diag_dump, udp_diag_get_info))
    inet_diag_register(kernel, IPPROTO_RAW, InetDiagHandler(raw_diag_dump, udp_diag_get_info))
