"""/proc/net/netlink.

Linux: netlink_seq_show() and netlink_net_init() of net/netlink/af_netlink.c (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.proc.proc_net import proc_create_net
from glasskernel.lib.types import notrace
from glasskernel.lib.vsprintf import hash_pointer
from glasskernel.net.core.sock import sock_i_ino

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.net.netlink.types import NetlinkSock
    from glasskernel.net.types import Net


@notrace
def netlink_sockets(net: Net) -> Iterator[NetlinkSock]:
    """All sockets of a namespace, by protocol."""
    state = net.kernel.net
    assert state is not None
    for _, table in sorted(state.nl_table.items()):
        for sk in list(table.hash.values()):
            if sk.sk_net is net:
                yield sk


def netlink_seq_show(net: Net) -> Iterator[bytes]:
    yield b"sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n"
    for sk in netlink_sockets(net):
        yield b"%016x %-3d %-10d %08x %-8d %-8d %-5d %-8d %-8d %-8d\n" % (
            hash_pointer(sk.slab_address), sk.sk_protocol, sk.portid, sk.groups & 0xFFFFFFFF, sk.sk_rmem_alloc,
            sk.sk_wmem_alloc, sk.cb_running, sk.sk_refcnt, sk.sk_drops, sock_i_ino(sk))


def netlink_net_init(net: Net) -> None:
    proc_create_net(net, b"netlink", netlink_seq_show)
