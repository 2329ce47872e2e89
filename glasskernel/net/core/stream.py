"""Streams wait: for a connection, for room in the send buffer, for the other end to close.

Linux: net/core/stream.c (5.3). Same: who waits for memory sets SOCK_NOSPACE, and is woken when a third of the buffer is
free. Differs: each wait answers the jiffies that are left, and raises what Linux returns.
Locks: sk's owner, before and after.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.types import POLLOUT, POLLWRBAND, POLLWRNORM
from glasskernel.kernel.current import current
from glasskernel.kernel.sched.core import signal_pending
from glasskernel.kernel.sched.wait import (
    WaitQueueEntry,
    __wake_up,
    add_wait_queue,
    remove_wait_queue,
    woken_wake_function,
)
from glasskernel.kernel.signal import send_sig
from glasskernel.kernel.task import TASK_INTERRUPTIBLE
from glasskernel.lib.errno import EAGAIN, EPIPE, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.sock import (
    POLL_OUT,
    SOCK_WAKE_SPACE,
    sk_clear_bit,
    sk_set_bit,
    sk_wait_event,
    sk_wake_async,
    sock_error,
    sock_intr_errno,
)
from glasskernel.net.core.sock_memory import sk_mem_reclaim
from glasskernel.net.skbuff import skb_queue_purge
from glasskernel.net.types import (
    MSG_NOSIGNAL,
    SEND_SHUTDOWN,
    SOCK_NOSPACE,
    SOCKWQ_ASYNC_NOSPACE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_LAST_ACK,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
)

if TYPE_CHECKING:
    from glasskernel.net.types import Sock

SIGPIPE = 13


@notrace
def sk_stream_memory_free(sk: Sock) -> bool:
    """There is room in the send buffer."""
    if sk.sk_wmem_queued >= sk.sk_sndbuf:
        return False
    memory_free = sk.sk_prot.stream_memory_free
    return memory_free is None or memory_free(sk, 0)


@notrace
def sk_stream_is_writeable(sk: Sock) -> bool:
    """Enough room that polling for it pays."""
    if sk.sk_sndbuf - sk.sk_wmem_queued < sk.sk_wmem_queued >> 1:
        return False
    memory_free = sk.sk_prot.stream_memory_free
    return memory_free is None or memory_free(sk, 1)


def sk_stream_write_space(sk: Sock) -> None:
    """->sk_write_space(): wakes writers once there is room. Context: any."""
    sock = sk.sk_socket
    if sock is None or not sk_stream_is_writeable(sk):
        return
    sock.flags &= ~SOCK_NOSPACE
    wq = sk.sk_wq
    if wq is not None and wq.entries:
        __wake_up(wq, TASK_INTERRUPTIBLE, 1, POLLOUT | POLLWRNORM | POLLWRBAND)
    if wq is not None and sock.fasync_list and not sk.sk_shutdown & SEND_SHUTDOWN:
        sk_wake_async(sk, SOCK_WAKE_SPACE, POLL_OUT)


@may_sleep
def sk_stream_wait_connect(sk: Sock, timeo: int) -> int:
    """Sleeps until the handshake is over. Raises the sock's error, EPIPE, EAGAIN, EINTR."""
    while True:
        err = sock_error(sk)
        if err:
            raise KernelError(err)
        if sk.sk_state not in (TCP_SYN_SENT, TCP_SYN_RECV):
            raise KernelError(EPIPE)
        if not timeo:
            raise KernelError(EAGAIN)
        if signal_pending(current()):
            raise sock_intr_errno(timeo)
        assert sk.sk_wq is not None
        wait = WaitQueueEntry(woken_wake_function)
        add_wait_queue(sk.sk_wq, wait)
        done, timeo = sk_wait_event(
            sk, timeo, lambda: not sk.sk_err and sk.sk_state in (TCP_ESTABLISHED, TCP_CLOSE_WAIT), wait)
        remove_wait_queue(sk.sk_wq, wait)
        if done:
            return timeo


@notrace
def sk_stream_closing(sk: Sock) -> bool:
    return sk.sk_state in (TCP_FIN_WAIT1, TCP_CLOSING, TCP_LAST_ACK)


@may_sleep
def sk_stream_wait_close(sk: Sock, timeout: int) -> None:
    """SO_LINGER: sleeps until our FIN was acknowledged, or the time is over."""
    if not timeout or sk.sk_wq is None:
        return
    wq = sk.sk_wq
    wait = WaitQueueEntry(woken_wake_function)
    add_wait_queue(wq, wait)
    while not signal_pending(current()) and timeout:
        done, timeout = sk_wait_event(sk, timeout, lambda: not sk_stream_closing(sk), wait)
        if done:
            break
    remove_wait_queue(wq, wait)


@may_sleep
def sk_stream_wait_memory(sk: Sock, timeo: int) -> int:
    """Sleeps until there is room in the send buffer. Raises EPIPE, EAGAIN, EINTR."""
    assert sk.sk_wq is not None
    wq = sk.sk_wq
    wait = WaitQueueEntry(woken_wake_function)
    add_wait_queue(wq, wait)
    try:
        while True:
            sk_set_bit(SOCKWQ_ASYNC_NOSPACE, sk)
            if sk.sk_err or sk.sk_shutdown & SEND_SHUTDOWN:
                raise KernelError(EPIPE)
            if not timeo:
                sk_set_bit(SOCK_NOSPACE, sk)
                raise KernelError(EAGAIN)
            if signal_pending(current()):
                raise sock_intr_errno(timeo)
            sk_clear_bit(SOCKWQ_ASYNC_NOSPACE, sk)
            if sk_stream_memory_free(sk):
                return timeo
            sk_set_bit(SOCK_NOSPACE, sk)
            _, timeo = sk_wait_event(
                sk, timeo,
                lambda: bool(sk.sk_err) or bool(sk.sk_shutdown & SEND_SHUTDOWN) or sk_stream_memory_free(sk), wait)
    finally:
        remove_wait_queue(wq, wait)


def sk_stream_error(sk: Sock, flags: int, err: int) -> KernelError:
    """What a failed send answers: for EPIPE the pending error first, and SIGPIPE unless MSG_NOSIGNAL."""
    if err == EPIPE:
        err = sock_error(sk) or EPIPE
        if err == EPIPE and not flags & MSG_NOSIGNAL:
            send_sig(SIGPIPE, current(), 0)
    return KernelError(err)


def sk_stream_kill_queues(sk: Sock) -> None:
    """The end: frees what was received. What was to be sent is gone already."""
    skb_queue_purge(sk.sk_receive_queue)
    skb_queue_purge(sk.sk_error_queue)
    assert not sk.sk_write_queue.q
    sk_mem_reclaim(sk)
    assert not sk.sk_wmem_queued and not sk.sk_forward_alloc, (sk.sk_wmem_queued, sk.sk_forward_alloc)
