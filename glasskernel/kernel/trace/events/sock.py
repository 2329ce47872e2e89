"""Sockets: their memory, and the states of connections.

Linux: include/trace/events/sock.h (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.trace.events.values import kaddr_of
from glasskernel.kernel.trace.trace_events import Values, trace_system
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.net.ipv4.types import InetSock
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Proto, Sock

sock = trace_system("sock")


@sock.event(
    fields="char name[32]; long sysctl_mem[3]; long allocated; int sysctl_rmem; int rmem_alloc; int sysctl_wmem; "
           "int wmem_alloc; int wmem_queued; int kind",
    print_fmt='"proto:%s sysctl_mem=%ld,%ld,%ld allocated=%ld sysctl_rmem=%d rmem_alloc=%d sysctl_wmem=%d '
              'wmem_alloc=%d wmem_queued=%d kind=%s", REC->name, REC->sysctl_mem[0], REC->sysctl_mem[1], '
              'REC->sysctl_mem[2], REC->allocated, REC->sysctl_rmem, REC->rmem_alloc, REC->sysctl_wmem, '
              'REC->wmem_alloc, REC->wmem_queued, __print_symbolic(REC->kind, { 0, "SK_MEM_SEND" }, '
              '{ 1, "SK_MEM_RECV" })',
)
def sock_exceed_buf_limit(sk: Sock, prot: Proto, allocated: int, kind: int) -> Values:
    state = sk.sk_net.kernel.net
    assert state is not None
    rmem = prot.sysctl_rmem(sk.sk_net) if prot.sysctl_rmem is not None else 0
    wmem = prot.sysctl_wmem(sk.sk_net) if prot.sysctl_wmem is not None else 0
    return (prot.name.encode(), tuple(state.sysctl_mem[prot.name]), allocated, rmem, sk.sk_rmem_alloc, wmem,
            sk.sk_wmem_alloc, sk.sk_wmem_queued, kind)


@sock.event(
    fields="int rmem_alloc; unsigned int truesize; int sk_rcvbuf",
    print_fmt='"rmem_alloc=%d truesize=%u sk_rcvbuf=%d", REC->rmem_alloc, REC->truesize, REC->sk_rcvbuf',
)
def sock_rcvqueue_full(sk: Sock, skb: SkBuff) -> Values:
    return (sk.sk_rmem_alloc, skb.truesize, sk.sk_rcvbuf)


TCP_STATES = ("TCP_ESTABLISHED", "TCP_SYN_SENT", "TCP_SYN_RECV", "TCP_FIN_WAIT1", "TCP_FIN_WAIT2", "TCP_TIME_WAIT",
              "TCP_CLOSE", "TCP_CLOSE_WAIT", "TCP_LAST_ACK", "TCP_LISTEN", "TCP_CLOSING", "TCP_NEW_SYN_RECV")
_SHOWN = ", ".join(f'{{ {number}, "{name}" }}' for number, name in enumerate(TCP_STATES, 1))
FLOW_FIELDS = "__u8 saddr[4]; __u8 daddr[4]; __u8 saddr_v6[16]; __u8 daddr_v6[16]"
FLOW_FMT = "sport=%hu dport=%hu saddr=%pI4 daddr=%pI4 saddrv6=%pI6c daddrv6=%pI6c"
FLOW_ARGS = "REC->sport, REC->dport, REC->saddr, REC->daddr, REC->saddr_v6, REC->daddr_v6"


@notrace
def flow_values(saddr: int, daddr: int) -> tuple[bytes, bytes, bytes, bytes]:
    """The fields FLOW_FIELDS."""
    source, dest = saddr.to_bytes(4, "big"), daddr.to_bytes(4, "big")
    mapped = bytes(10) + b"\xff\xff"
    return source, dest, mapped + source, mapped + dest


@sock.event(
    fields="const void * skaddr; int oldstate; int newstate; __u16 sport; __u16 dport; __u16 family; __u16 protocol; "
           + FLOW_FIELDS,
    print_fmt=f'"family=%s protocol=%s {FLOW_FMT} oldstate=%s newstate=%s", '
              '__print_symbolic(REC->family, { 2, "AF_INET" }, { 10, "AF_INET6" }), '
              '__print_symbolic(REC->protocol, { 6, "IPPROTO_TCP" }, { 33, "IPPROTO_DCCP" }, { 132, "IPPROTO_SCTP" }, '
              f'{{ 262, "IPPROTO_MPTCP" }}), {FLOW_ARGS}, __print_symbolic(REC->oldstate, {_SHOWN}), '
              f'__print_symbolic(REC->newstate, {_SHOWN})',
)
def inet_sock_set_state(sk: InetSock, oldstate: int, newstate: int) -> Values:
    return (kaddr_of(sk), oldstate, newstate, sk.inet_sport, sk.inet_dport, sk.sk_family, sk.sk_protocol,
            *flow_values(sk.inet_saddr, sk.inet_daddr))
