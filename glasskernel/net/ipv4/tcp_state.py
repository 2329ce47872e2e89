"""States of a connection, and its end.

Linux: net/ipv4/tcp.c (5.3): tcp_set_state(), tcp_done(), tcp_write_queue_purge(). Same: a sock leaves the tables when
it is closed, its port too unless bind() chose it. Locks: sk's owner, or softirq while nobody owns it.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace
from glasskernel.net.core.sock_memory import sk_mem_reclaim
from glasskernel.net.ipv4.inet_connection_sock import inet_csk_clear_xmit_timers, inet_csk_destroy_sock
from glasskernel.net.ipv4.inet_hashtables import inet_put_port
from glasskernel.net.ipv4.inet_sk_state import inet_sk_state_store
from glasskernel.net.ipv4.tcp_output import tcp_chrono_stop, tcp_wmem_free_skb
from glasskernel.net.ipv4.tcp_types import TCP_CHRONO_BUSY
from glasskernel.net.types import (
    SHUTDOWN_MASK,
    SOCK_BINDPORT_LOCK,
    SOCK_DEAD,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
)

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import TcpSock


def tcp_set_state(sk: TcpSock, state: int) -> None:
    """A new TCP_*; CLOSE takes the sock out of its tables."""
    oldstate = sk.sk_state
    mib = sk.sk_net.mib.tcp
    if state == TCP_ESTABLISHED:
        if oldstate != TCP_ESTABLISHED:
            mib["CurrEstab"] += 1
    else:
        if state == TCP_CLOSE:
            if oldstate in (TCP_CLOSE_WAIT, TCP_ESTABLISHED):
                mib["EstabResets"] += 1
            unhash = sk.sk_prot.unhash
            assert unhash is not None
            unhash(sk)
            if sk.icsk_bind_hash is not None and not sk.sk_userlocks & SOCK_BINDPORT_LOCK:
                inet_put_port(sk)
        if oldstate == TCP_ESTABLISHED:
            mib["CurrEstab"] -= 1
    inet_sk_state_store(sk, state)


@notrace
def tcp_clear_xmit_timers(sk: TcpSock) -> None:
    inet_csk_clear_xmit_timers(sk)


def tcp_done(sk: TcpSock) -> None:
    """The connection is over: whoever waits hears of it; without an owner the sock goes at once."""
    if sk.sk_state in (TCP_SYN_SENT, TCP_SYN_RECV):
        sk.sk_net.mib.tcp["AttemptFails"] += 1
    tcp_set_state(sk, TCP_CLOSE)
    tcp_clear_xmit_timers(sk)
    sk.sk_shutdown = SHUTDOWN_MASK
    if not sk.sk_flags & SOCK_DEAD:
        sk.sk_state_change(sk)
    else:
        inet_csk_destroy_sock(sk)


def tcp_write_queue_purge(sk: TcpSock) -> None:
    """Frees what was to be sent, and what waited for its ACK."""
    tcp_chrono_stop(sk, TCP_CHRONO_BUSY)
    queue = sk.sk_write_queue.q
    while queue:
        tcp_wmem_free_skb(sk, queue.popleft())
    rtx = sk.tcp_rtx_queue
    while rtx:
        tcp_wmem_free_skb(sk, rtx.popleft())
    sk_mem_reclaim(sk)
    sk.packets_out = 0
    sk.icsk_backoff = 0
