"""The one place where the state of an IPv4 sock changes, so that a tracepoint can tell.

Linux: net/ipv4/af_inet.c (5.3): inet_sk_set_state(), inet_sk_state_store().
"""
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from glasskernel.net.types import Sock


def inet_sk_set_state(sk: Sock, state: int) -> None:
    """The tracepoint sock/inet_sock_set_state, and the new state (TCP_*)."""
    probe = sk.sk_net.kernel.tp.inet_sock_set_state
    if probe is not None:
        probe(sk, sk.sk_state, state)
    sk.sk_state = state


def inet_sk_state_store(sk: Sock, newstate: int) -> None:
    probe = sk.sk_net.kernel.tp.inet_sock_set_state
    if probe is not None:
        probe(sk, sk.sk_state, newstate)
    sk.sk_state = newstate
