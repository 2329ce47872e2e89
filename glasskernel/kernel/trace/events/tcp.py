"""Connections: retransmissions, resets, ends.

Linux: include/trace/events/tcp.h (5.3). Gaps: tcp_probe.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.trace.events.sock import FLOW_ARGS, FLOW_FIELDS, FLOW_FMT, TCP_STATES, flow_values
from glasskernel.kernel.trace.events.values import kaddr_of
from glasskernel.kernel.trace.trace_events import Values, trace_system
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import RequestSock, TcpSock
    from glasskernel.net.skbuff import SkBuff

tcp = trace_system("tcp")

_SHOWN = ", ".join(f'{{ {name}, "{name}" }}' for name in TCP_STATES)
_NUMBERS = {name: number for number, name in enumerate(TCP_STATES, 1)}
_OF_SK = f"const void * skaddr; __u16 sport; __u16 dport; {FLOW_FIELDS}; __u64 sock_cookie"
_OF_SK_FMT = f'"{FLOW_FMT} sock_cookie=%llx", {FLOW_ARGS}, REC->sock_cookie'
_OF_SK_SKB = f"const void * skbaddr; const void * skaddr; int state; __u16 sport; __u16 dport; {FLOW_FIELDS}"
_OF_SK_SKB_FMT = f'"{FLOW_FMT} state=%s", {FLOW_ARGS}, __print_symbolic(REC->state, {_SHOWN})'


@notrace
def _of_sk(sk: TcpSock) -> Values:
    return (kaddr_of(sk), sk.inet_sport, sk.inet_dport, *flow_values(sk.inet_saddr, sk.inet_daddr), sk.sk_cookie)


@notrace
def _of_sk_skb(sk: TcpSock, skb: SkBuff | None) -> Values:
    return (kaddr_of(skb), kaddr_of(sk), sk.sk_state, sk.inet_num, sk.inet_dport,
            *flow_values(sk.inet_rcv_saddr, sk.inet_daddr))


@tcp.event(fields=_OF_SK_SKB, print_fmt=_OF_SK_SKB_FMT, helpers=_NUMBERS)
def tcp_retransmit_skb(sk: TcpSock, skb: SkBuff | None) -> Values:
    return _of_sk_skb(sk, skb)


@tcp.event(fields=_OF_SK_SKB, print_fmt=_OF_SK_SKB_FMT, helpers=_NUMBERS)
def tcp_send_reset(sk: TcpSock, skb: SkBuff | None) -> Values:
    return _of_sk_skb(sk, skb)


@tcp.event(fields=_OF_SK, print_fmt=_OF_SK_FMT)
def tcp_receive_reset(sk: TcpSock) -> Values:
    return _of_sk(sk)


@tcp.event(fields=_OF_SK, print_fmt=_OF_SK_FMT)
def tcp_destroy_sock(sk: TcpSock) -> Values:
    return _of_sk(sk)


@tcp.event(fields=_OF_SK, print_fmt=_OF_SK_FMT)
def tcp_rcv_space_adjust(sk: TcpSock) -> Values:
    return _of_sk(sk)


@tcp.event(
    fields=f"const void * skaddr; const void * req; __u16 sport; __u16 dport; {FLOW_FIELDS}",
    print_fmt=f'"{FLOW_FMT}", {FLOW_ARGS}',
)
def tcp_retransmit_synack(sk: TcpSock, req: RequestSock) -> Values:
    return (kaddr_of(sk), kaddr_of(req), req.inet_num, req.inet_dport,
            *flow_values(req.inet_rcv_saddr, req.inet_daddr))
