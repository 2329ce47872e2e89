"""What must hold for TCP between two programs. For tests: net/check.py."""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace
from glasskernel.mm.slub_check import count_objects
from glasskernel.net.ipv4.inet_hashtables import hashinfo, sk_ehashfn
from glasskernel.net.ipv4.tcp_types import TcpSock, tcp_state_of
from glasskernel.net.types import SOCK_DEAD, TCP_NEW_SYN_RECV, TCP_TIME_WAIT

if TYPE_CHECKING:
    from glasskernel.net.types import Net, NetState


@notrace
def check_tcp(state: NetState) -> list[str]:
    """Tables, queues and counters agree with each other; everything that is wrong, in words."""
    wrong: list[str] = []
    connections = 0
    for net in state.net_namespace_list:
        if net.ipv4 is not None and net.ipv4.tcp is not None:
            wrong += _check_tables(net)
            connections += sum(isinstance(sk, TcpSock) for sk in hashinfo(net).ehash.values())
    allocated = state.sockets_allocated.get("TCP", 0)
    if "TCP" in state.slabs and count_objects(state.slabs["TCP"]) != allocated:
        wrong.append(f"TCP: {count_objects(state.slabs['TCP'])} slots of socks, {allocated} counted")
    if not connections <= allocated:
        wrong.append(f"TCP: {connections} connections, {allocated} socks")
    if not allocated and state.memory_allocated.get("TCP", 0):
        wrong.append(f"TCP: no socks, but {state.memory_allocated['TCP']} pages")
    return wrong


@notrace
def _check_tables(net: Net) -> list[str]:
    wrong: list[str] = []
    info = hashinfo(net)
    timewaits = requests = orphans = 0
    for key, sk in info.ehash.items():
        if not sk.sk_hashed or sk_ehashfn(sk) != key:
            wrong.append(f"TCP: {key} leads to a sock that says {sk_ehashfn(sk)}")
        if sk.sk_state == TCP_TIME_WAIT:
            timewaits += 1
            if sk.tw_timer.base is None or sk.tw_tb is None or sk not in sk.tw_tb.owners:
                wrong.append(f"TCP: a timewait sock of {key} without timer or port")
        elif sk.sk_state == TCP_NEW_SYN_RECV:
            requests += 1
        else:
            orphans += bool(sk.sk_flags & SOCK_DEAD)
            wrong += _check_connection(sk)
    if timewaits != info.tw_count:
        wrong.append(f"TCP: {timewaits} timewait socks, {info.tw_count} counted")
    listeners = [sk for some in info.listening_hash.values() for sk in some]
    if requests < sum(sk.icsk_accept_queue.qlen for sk in listeners):    # more: their listeners have closed
        wrong.append(f"TCP: {requests} requests, fewer than listeners count")
    wrong += [f"TCP: port {port} without an owner" for port, tb in info.bhash.items() if not tb.owners]
    if orphans > tcp_state_of(net).orphan_count:
        wrong.append(f"TCP: {orphans} orphans, {tcp_state_of(net).orphan_count} counted")
    return wrong


@notrace
def _check_connection(sk: TcpSock) -> list[str]:
    """The invariants of tcp_output.py, of a sock that nobody uses now."""
    name = f"TCP {sk.inet_num}-{sk.inet_dport}"
    packets = sum(skb.cb.tcp_gso_segs for skb in sk.tcp_rtx_queue)
    queued = sum(skb.truesize for skb in (*sk.tcp_rtx_queue, *sk.sk_write_queue.q))
    read = sum(skb.truesize for skb in (*sk.sk_receive_queue.q, *sk.out_of_order_queue))
    wrong = []
    if packets != sk.packets_out:
        wrong.append(f"{name}: {packets} packets in flight, {sk.packets_out} counted")
    if queued != sk.sk_wmem_queued:
        wrong.append(f"{name}: {queued} bytes queued, {sk.sk_wmem_queued} counted")
    if read != sk.sk_rmem_alloc:
        wrong.append(f"{name}: {read} bytes to be read, {sk.sk_rmem_alloc} counted")
    if not 0 <= sk.sacked_out + sk.lost_out <= sk.packets_out or not 0 <= sk.retrans_out <= sk.packets_out:
        wrong.append(f"{name}: sacked {sk.sacked_out}, lost {sk.lost_out}, sent again {sk.retrans_out} of {packets}")
    return wrong
