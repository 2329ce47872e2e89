"""What must hold for the network between two programs. For tests: tools/invariants.py."""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.mm.slub_check import count_objects
from glasskernel.net.core.check import check_devices
from glasskernel.net.ipv4.tcp_check import check_tcp
from glasskernel.net.types import TCP_ESTABLISHED

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.types import NetState, Sock
    from glasskernel.net.unix.types import UnixState


def check_net(kernel: Kernel) -> list[str]:
    """Everything that is wrong, in words."""
    state = kernel.net
    if state is None:
        return []
    wrong = [f"protocol {name}: {pages} pages" for name, pages in state.memory_allocated.items() if pages < 0]
    wrong += [f"namespace {net.inum} counts {net.sock_inuse} sockets" for net in state.net_namespace_list
              if net.sock_inuse < 0 or (not net.count and net not in state.cleanup_list)]
    wrong += check_devices(kernel)
    wrong += check_netlink(state)
    if kernel.inet is not None:
        wrong += check_tcp(state)
    if state.unix is not None:
        wrong += check_unix(state, state.unix)
    return wrong


def check_unix(state: NetState, unix: UnixState) -> list[str]:
    """AF_UNIX's tables agree with each other, and with the cache of its socks; sockets have files, or wait for one."""
    wrong: list[str] = []
    socks = [sk for net in state.net_namespace_list for sk in net.unx.sockets]
    slots = count_objects(state.slabs["UNIX"])
    if not len(socks) <= unix.nr_socks == slots:
        wrong.append(f"AF_UNIX: {len(socks)} sockets in tables, {unix.nr_socks} counted, {slots} slots")
    for sk in socks:
        if sk.sk_socket is None and sk.sk_state != TCP_ESTABLISHED:
            wrong.append("an AF_UNIX socket without a file is left")
        wrong += check_sock(sk)
    named = {sk for net in state.net_namespace_list for sk in net.unx.abstract.values()} | {*unix.by_inode.values()}
    if not named <= {*socks}:
        wrong.append("an AF_UNIX name outlived its socket")
    if unix.tot_inflight != sum(sk.inflight for sk in unix.gc_inflight_list):
        wrong.append(f"AF_UNIX counts {unix.tot_inflight} sockets in flight")
    return wrong


def check_netlink(state: NetState) -> list[str]:
    """AF_NETLINK's tables hold sockets that live, and those in groups are in the table."""
    wrong: list[str] = []
    for protocol, table in state.nl_table.items():
        for sk in table.hash.values():
            wrong += check_sock(sk)
            if sk.sk_socket is None:
                wrong.append(f"netlink protocol {protocol}: a socket without a file is left")
        if any(not sk.subscriptions or (sk.bound and sk not in table.hash.values()) for sk in table.mc_list):
            wrong.append(f"netlink protocol {protocol}: a member of no group is left")
    return wrong


def check_sock(sk: Sock) -> list[str]:
    """One sock's counts."""
    queued = sum(skb.truesize for skb in sk.sk_receive_queue.q if skb.sk is sk)
    wrong = [f"{sk.sk_prot.name}: a sock's {name} is negative" for name in (
        "sk_rmem_alloc", "sk_wmem_alloc", "sk_omem_alloc", "sk_backlog_len") if getattr(sk, name) < 0]
    if sk.sk_refcnt < 1:
        wrong.append(f"{sk.sk_prot.name}: a sock in a table has {sk.sk_refcnt} references")
    if sk.sk_lock_owned or sk.sk_backlog:
        wrong.append(f"{sk.sk_prot.name}: a sock is owned by nobody who runs")
    if queued > sk.sk_rmem_alloc:
        wrong.append(f"{sk.sk_prot.name}: {queued} bytes queued, {sk.sk_rmem_alloc} charged")
    return wrong
