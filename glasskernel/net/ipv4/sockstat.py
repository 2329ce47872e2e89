"""/proc/net/sockstat: how many sockets there are, and what they hold.

Linux: sockstat_seq_show() of net/ipv4/proc.c, socket_seq_show() of net/socket.c (5.3). Gaps: UDP-Lite, of which there
are never any.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.proc.proc_net import proc_create_net, proc_remove_net
from glasskernel.lib.types import notrace
from glasskernel.net.core.net_namespace import register_pernet_subsys
from glasskernel.net.core.proto import sock_inuse_get, sock_prot_inuse_get
from glasskernel.net.ipv4.inet_hashtables import hashinfo
from glasskernel.net.ipv4.tcp_types import tcp_state_of
from glasskernel.net.types import PernetOperations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.init.kernel import Kernel
    from glasskernel.net.types import Net


def sockstat_seq_show(net: Net) -> Iterator[bytes]:
    """The file's lines. Memory in pages, of all namespaces; for fragments in bytes."""
    state = net.kernel.net
    assert state is not None
    yield b"sockets: used %d\n" % sock_inuse_get(net)
    yield b"TCP: inuse %d orphan %d tw %d alloc %d mem %d\n" % (
        sock_prot_inuse_get(net, "TCP"), tcp_state_of(net).orphan_count, hashinfo(net).tw_count,
        state.sockets_allocated.get("TCP", 0), state.memory_allocated.get("TCP", 0))
    yield b"UDP: inuse %d mem %d\n" % (sock_prot_inuse_get(net, "UDP"), state.memory_allocated.get("UDP", 0))
    yield b"UDPLITE: inuse %d\n" % sock_prot_inuse_get(net, "UDP-Lite")
    yield b"RAW: inuse %d\n" % sock_prot_inuse_get(net, "RAW")
    frags = net.ipv4.frags
    yield b"FRAG: inuse %d memory %d\n" % (len(frags.queues), frags.mem)


@notrace
def sockstat_net_init(net: Net) -> None:
    proc_create_net(net, b"sockstat", sockstat_seq_show)


@notrace
def sockstat_net_exit(net: Net) -> None:
    proc_remove_net(net, b"sockstat")


@notrace
def sockstat_init(kernel: Kernel) -> None:
    """The file exists from now on."""
    register_pernet_subsys(kernel, PernetOperations(sockstat_net_init, sockstat_net_exit))
