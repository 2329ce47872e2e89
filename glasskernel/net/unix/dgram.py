"""Datagrams and packets of AF_UNIX.

Linux: net/unix/af_unix.c (5.3). Same: a receive queue takes sk_max_ack_backlog + 1 packets of strangers, any number of
the peer's; who polls for room in a full peer's queue waits on the peer's peer_wait.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.types import POLLOUT, POLLWRBAND, POLLWRNORM
from glasskernel.kernel.current import register
from glasskernel.kernel.locking.mutex import mutex_lock, mutex_unlock
from glasskernel.kernel.sched.core import schedule_timeout, signal_pending
from glasskernel.kernel.sched.wait import (
    WaitQueueEntry,
    add_wait_queue,
    finish_wait,
    prepare_to_wait_exclusive,
    remove_wait_queue,
    wake_up_interruptible_all,
    wake_up_interruptible_poll,
    wake_up_interruptible_sync_poll,
)
from glasskernel.kernel.task import TASK_INTERRUPTIBLE
from glasskernel.lib.errno import (
    EAGAIN,
    ECONNREFUSED,
    ECONNRESET,
    EMSGSIZE,
    ENOTCONN,
    EOPNOTSUPP,
    EPERM,
    EPIPE,
    KernelError,
)
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.datagram import (
    __skb_try_recv_datagram,
    __skb_wait_for_more_packets,
    sk_peek_offset,
    sk_peek_offset_bwd,
    sk_peek_offset_fwd,
    skb_copy_datagram_from_iter,
    skb_copy_datagram_msg,
    skb_free_datagram,
)
from glasskernel.net.core.filter import sk_filter
from glasskernel.net.core.sock import (
    __net_timestamp,
    sock_error,
    sock_intr_errno,
    sock_put,
    sock_rcvtimeo,
    sock_sndtimeo,
)
from glasskernel.net.core.sock_memory import sock_alloc_send_pskb
from glasskernel.net.scm import ScmCookie, scm_destroy, scm_fp_dup, scm_recv, scm_send, sock_recv_timestamp
from glasskernel.net.skbuff import kfree_skb, skb_dequeue, skb_queue_tail
from glasskernel.net.types import (
    MSG_DONTWAIT,
    MSG_OOB,
    MSG_PEEK,
    MSG_TRUNC,
    RCV_SHUTDOWN,
    SOCK_DEAD,
    SOCK_PASSCRED,
    SOCK_RCVTSTAMP,
    SOCK_SEQPACKET,
    TCP_ESTABLISHED,
)
from glasskernel.net.unix.garbage import wait_for_unix_gc
from glasskernel.net.unix.scm import maybe_add_creds, unix_detach_fds, unix_scm_to_skb
from glasskernel.net.unix.table import unix_autobind, unix_find_other, unix_mkname
from glasskernel.net.unix.types import UnixSock, unix_cb, unix_copy_addr, unix_state

if TYPE_CHECKING:
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import MsgHdr, Socket

SKB_MAX_ALLOC, MAX_FRAGMENTS = (4096 << 2) - 320, 17 << 12


# ---- a full queue ---------------------------------------------------------------------------------------------
@notrace
def unix_recvq_full(sk: UnixSock) -> bool:
    return len(sk.sk_receive_queue.q) > sk.sk_max_ack_backlog


@may_sleep
def unix_wait_for_peer(other: UnixSock, timeo: int) -> int:
    """Sleeps until the other's queue has room. Answers the jiffies left."""
    wait = WaitQueueEntry()
    prepare_to_wait_exclusive(other.peer_wait, wait, TASK_INTERRUPTIBLE)
    if not other.sk_flags & SOCK_DEAD and not other.sk_shutdown & RCV_SHUTDOWN and unix_recvq_full(other):
        timeo = schedule_timeout(timeo)
    finish_wait(other.peer_wait, wait)
    return timeo


def unix_dgram_peer_wake_relay(q: WaitQueueEntry, mode: int, flags: int, key: Any) -> int:
    """The peer's queue has room: wakes, once, who polls the sock."""
    u: UnixSock = q.data
    assert u.peer_wake_private is not None
    remove_wait_queue(u.peer_wake_private.peer_wait, q)
    u.peer_wake_private = None
    if u.sk_wq is not None:
        wake_up_interruptible_poll(u.sk_wq, key)
    return 0


def unix_dgram_peer_wake_connect(sk: UnixSock, other: UnixSock) -> bool:
    """The sock wants to hear of room in the other's queue. True: it did not wait already."""
    if sk.peer_wake_private is not None:
        return False
    if sk.peer_wake is None:
        sk.peer_wake = WaitQueueEntry(unix_dgram_peer_wake_relay, None, sk)
    sk.peer_wake_private = other
    add_wait_queue(other.peer_wait, sk.peer_wake)
    return True


def unix_dgram_peer_wake_disconnect(sk: UnixSock, other: UnixSock) -> None:
    if sk.peer_wake_private is other:
        assert sk.peer_wake is not None
        remove_wait_queue(other.peer_wait, sk.peer_wake)
        sk.peer_wake_private = None


def unix_dgram_peer_wake_disconnect_wakeup(sk: UnixSock, other: UnixSock) -> None:
    unix_dgram_peer_wake_disconnect(sk, other)
    if sk.sk_wq is not None:
        wake_up_interruptible_poll(sk.sk_wq, POLLOUT | POLLWRNORM | POLLWRBAND)


def unix_dgram_peer_wake_me(sk: UnixSock, other: UnixSock) -> bool:
    """True: the other's queue is full, and the sock hears when it is not any more."""
    connected = unix_dgram_peer_wake_connect(sk, other)
    if unix_recvq_full(other) and not other.sk_flags & SOCK_DEAD:
        return True
    if connected:
        unix_dgram_peer_wake_disconnect(sk, other)
    return False


@may_sleep
def unix_dgram_disconnected(sk: UnixSock, other: UnixSock) -> None:
    """The sock is no longer the other's peer: what was queued is lost, and the other hears of it."""
    if sk.sk_receive_queue.q:
        skb_queue_purge(sk)
        wake_up_interruptible_all(sk.peer_wait)
        if not other.sk_flags & SOCK_DEAD and other.peer is sk:
            other.sk_err = ECONNRESET
            other.sk_error_report(other)


@may_sleep
def skb_queue_purge(sk: UnixSock) -> None:
    """Frees the receive queue."""
    while True:
        skb = skb_dequeue(sk.sk_receive_queue)
        if skb is None:
            return
        kfree_skb(skb)


# ---- sending --------------------------------------------------------------------------------------------------
@notrace
def unix_may_send(sk: UnixSock, osk: UnixSock) -> bool:
    """A connected socket takes packets of its peer only."""
    return osk.peer is None or osk.peer is sk


@may_sleep
def unix_dgram_sendmsg(sock: Socket, msg: MsgHdr, length: int) -> int:
    """->sendmsg(). Raises EOPNOTSUPP, ENOTCONN, EMSGSIZE, ECONNREFUSED, EPERM, EPIPE, EAGAIN, EINTR, ETOOMANYREFS."""
    sk = sock.sk
    assert isinstance(sk, UnixSock)
    state = unix_state(sk)
    if state.tot_inflight:
        wait_for_unix_gc(state)
    scm = ScmCookie()
    if msg.msg_control:
        scm_send(sock, msg, scm, False)
    other: UnixSock | None = None
    try:
        if msg.msg_flags & MSG_OOB:
            raise KernelError(EOPNOTSUPP)
        name = unix_mkname(msg.msg_name) if msg.msg_name else None
        if name is None:
            other = sk.peer
            if other is None:
                raise KernelError(ENOTCONN)
            other.sk_refcnt += 1
        if sock.flags & SOCK_PASSCRED and not sk.addr:
            unix_autobind(sock)
        if length > sk.sk_sndbuf - 32:
            raise KernelError(EMSGSIZE)
        data_len = min(length - SKB_MAX_ALLOC, MAX_FRAGMENTS) + 4095 & ~4095 if length > SKB_MAX_ALLOC else 0
        skb = sock_alloc_send_pskb(sk, length - data_len, data_len, msg.msg_flags & MSG_DONTWAIT)
        try:
            unix_scm_to_skb(scm, skb, True)
            if length:
                skb_copy_datagram_from_iter(skb, msg.msg_iter, length)
            peer, other = other, None              # its reference goes along
            other = _deliver(sock, sk, peer, name, skb, sock_sndtimeo(sk, msg.msg_flags & MSG_DONTWAIT))
        except KernelError:
            kfree_skb(skb)
            raise
    finally:
        if other is not None:
            sock_put(other)
        scm_destroy(scm)
    return length


@notrace
@may_sleep
def _deliver(sock: Socket, sk: UnixSock, peer: UnixSock | None, name: bytes | None, skb: SkBuff,
             timeo: int) -> UnixSock:
    """Finds the receiver, waits for room in its queue, queues the packet. Uses up the reference on the peer, and
    answers one on the receiver."""
    while True:
        if peer is None:
            if name is None:
                raise KernelError(ECONNRESET)
            peer = unix_find_other(sk.sk_net, name, sk.sk_type)
        other = peer
        try:
            if sk_filter(other, skb):
                kfree_skb(skb)                     # silently, as if it had been received
                return other
            if not unix_may_send(sk, other):
                raise KernelError(EPERM)
            if other.sk_flags & SOCK_DEAD:
                if _forget_dead_peer(sk, other):
                    raise KernelError(ECONNREFUSED)
                sock_put(other)
                peer = None
                continue
            if other.sk_shutdown & RCV_SHUTDOWN:
                raise KernelError(EPIPE)
            if other.sk_security is not None and sk.sk_type != SOCK_SEQPACKET and other.sk_socket is not None:
                sk.sk_net.kernel.lsm.security_unix_may_send(sock, other.sk_socket)
            if other is not sk and other.peer is not sk and unix_recvq_full(other):
                if not timeo:
                    if sk.peer is not other or unix_dgram_peer_wake_me(sk, other):
                        raise KernelError(EAGAIN)
                else:
                    timeo = unix_wait_for_peer(other, timeo)
                    if signal_pending(register.task):
                        raise sock_intr_errno(timeo)
                    continue
        except KernelError:
            sock_put(other)
            raise
        if other.sk_flags & SOCK_RCVTSTAMP:
            __net_timestamp(skb)
        maybe_add_creds(skb, sock, other)
        skb_queue_tail(other.sk_receive_queue, skb)
        other.sk_data_ready(other)
        return other


@notrace
@may_sleep
def _forget_dead_peer(sk: UnixSock, other: UnixSock) -> bool:
    """The receiver was closed. True: it was the sock's peer, which is no more."""
    if sk.peer is not other:
        return False
    sk.peer = None
    unix_dgram_peer_wake_disconnect_wakeup(sk, other)
    unix_dgram_disconnected(sk, other)
    sock_put(other)
    return True


@may_sleep
def unix_seqpacket_sendmsg(sock: Socket, msg: MsgHdr, length: int) -> int:
    """->sendmsg(): to the peer, whatever address is given. Raises ENOTCONN besides."""
    sk = sock.sk
    err = sock_error(sk)
    if err:
        raise KernelError(err)
    if sk.sk_state != TCP_ESTABLISHED:
        raise KernelError(ENOTCONN)
    msg.msg_name = None
    return unix_dgram_sendmsg(sock, msg, length)


# ---- receiving ------------------------------------------------------------------------------------------------
@may_sleep
def unix_seqpacket_recvmsg(sock: Socket, msg: MsgHdr, size: int, flags: int) -> int:
    """->recvmsg(). Raises ENOTCONN besides."""
    if sock.sk.sk_state != TCP_ESTABLISHED:
        raise KernelError(ENOTCONN)
    return unix_dgram_recvmsg(sock, msg, size, flags)


@may_sleep
def unix_dgram_recvmsg(sock: Socket, msg: MsgHdr, size: int, flags: int) -> int:
    """->recvmsg(): one packet, or as much of it as there is room for. Raises EOPNOTSUPP, EAGAIN, EINTR, ECONNRESET."""
    sk = sock.sk
    assert isinstance(sk, UnixSock)
    if flags & MSG_OOB:
        raise KernelError(EOPNOTSUPP)
    found = _next_packet(sk, flags)
    if found is None:
        return 0
    skb, skip = found                              # with iolock
    scm = ScmCookie()
    try:
        if sk.peer_wait.entries:
            wake_up_interruptible_sync_poll(sk.peer_wait, POLLOUT | POLLWRNORM | POLLWRBAND)
        unix_copy_addr(msg, skb.sk)
        left = skb.len - skip
        if size > left:
            size = left
        elif size < left:
            msg.msg_flags |= MSG_TRUNC
        skb_copy_datagram_msg(skb, skip, msg, size)
        if sk.sk_flags & SOCK_RCVTSTAMP:
            sock_recv_timestamp(msg, sk, skb)
        cb = unix_cb(skb)
        scm.creds = cb.creds
        if flags & MSG_PEEK:
            sk_peek_offset_fwd(sk, size)
            scm.fp = scm_fp_dup(cb.fp)
        else:
            if cb.fp is not None:
                unix_detach_fds(scm, skb)
            sk_peek_offset_bwd(sk, skb.len)
        scm_recv(sock, msg, scm, flags)
        return left if flags & MSG_TRUNC else size
    finally:
        skb_free_datagram(sk, skb)
        mutex_unlock(sk.iolock)


@notrace
@may_sleep
def _next_packet(sk: UnixSock, flags: int) -> tuple[SkBuff, int] | None:
    """(a packet, where in it to begin), and iolock is held. None: no more will come. Raises as unix_dgram_recvmsg()."""
    timeo = sock_rcvtimeo(sk, flags & MSG_DONTWAIT)
    queue = sk.sk_receive_queue.q
    while True:
        mutex_lock(sk.iolock)
        try:
            skb, skip = __skb_try_recv_datagram(sk, flags, sk_peek_offset(sk, flags))
        except KernelError:
            mutex_unlock(sk.iolock)
            raise
        if skb is not None:
            return skb, skip
        mutex_unlock(sk.iolock)
        if not timeo:
            if sk.sk_type == SOCK_SEQPACKET and sk.sk_shutdown & RCV_SHUTDOWN:
                return None
            raise KernelError(EAGAIN)
        timeo = __skb_wait_for_more_packets(sk, timeo, queue[-1] if queue else None)
        if timeo < 0:
            return None
