"""Streams of AF_UNIX: bytes go into the peer's receive queue.

Linux: net/unix/af_unix.c (5.3). Same: how a write is cut into packets, SIGPIPE before EPIPE, a read ends where other
credentials or files begin, SO_PEEK_OFF, SO_RCVLOWAT.
Differs: there is no sendpage: a packet does not grow.
"""
from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.locking.mutex import mutex_lock, mutex_unlock
from glasskernel.kernel.sched.core import schedule_timeout, signal_pending
from glasskernel.kernel.sched.wait import WaitQueueEntry, finish_wait, prepare_to_wait
from glasskernel.kernel.signal import send_sig
from glasskernel.kernel.task import TASK_INTERRUPTIBLE
from glasskernel.lib.errno import EAGAIN, EINVAL, EISCONN, ENOTCONN, EOPNOTSUPP, EPIPE, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.datagram import (
    sk_peek_offset,
    sk_peek_offset_bwd,
    sk_peek_offset_fwd,
    skb_copy_datagram_from_iter,
)
from glasskernel.net.core.sock import (
    sk_clear_bit,
    sk_set_bit,
    sock_error,
    sock_intr_errno,
    sock_rcvlowat,
    sock_rcvtimeo,
)
from glasskernel.net.core.sock_memory import sock_alloc_send_pskb
from glasskernel.net.scm import ScmCookie, scm_destroy, scm_fp_dup, scm_recv, scm_send
from glasskernel.net.skbuff import consume_skb, kfree_skb, skb_copy_datagram_iter, skb_queue_tail, skb_unlink
from glasskernel.net.types import (
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    MSG_OOB,
    MSG_PEEK,
    MSG_WAITALL,
    RCV_SHUTDOWN,
    SEND_SHUTDOWN,
    SOCK_DEAD,
    SOCK_PASSCRED,
    SOCKWQ_ASYNC_WAITDATA,
    TCP_ESTABLISHED,
)
from glasskernel.net.unix.garbage import wait_for_unix_gc
from glasskernel.net.unix.scm import maybe_add_creds, unix_detach_fds, unix_scm_to_skb
from glasskernel.net.unix.types import UnixSock, unix_cb, unix_copy_addr, unix_state

if TYPE_CHECKING:
    from collections import deque

    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import MsgHdr, Socket

SIGPIPE = 13
SKB_MAX_HEAD = 4096 - 320
UNIX_SKB_FRAGS_SZ = 32768


# ---- sending --------------------------------------------------------------------------------------------------
@may_sleep
def unix_stream_sendmsg(sock: Socket, msg: MsgHdr, length: int) -> int:
    """->sendmsg(). Raises EOPNOTSUPP, EISCONN, ENOTCONN, EPIPE (with SIGPIPE), EAGAIN, EINTR, ETOOMANYREFS, EFAULT."""
    sk = sock.sk
    assert isinstance(sk, UnixSock)
    state = unix_state(sk)
    if state.tot_inflight:
        wait_for_unix_gc(state)
    scm = ScmCookie()
    if msg.msg_control:
        scm_send(sock, msg, scm, False)
    sent = 0
    try:
        if msg.msg_flags & MSG_OOB:
            raise KernelError(EOPNOTSUPP)
        if msg.msg_name:
            raise KernelError(EISCONN if sk.sk_state == TCP_ESTABLISHED else EOPNOTSUPP)
        other = sk.peer
        if other is None:
            raise KernelError(ENOTCONN)
        if sk.sk_shutdown & SEND_SHUTDOWN:
            raise KernelError(EPIPE)
        while sent < length:
            size = min(length - sent, (sk.sk_sndbuf >> 1) - 64, SKB_MAX_HEAD + UNIX_SKB_FRAGS_SZ)
            data_len = min(size, size - SKB_MAX_HEAD + 4095 & ~4095) if size > SKB_MAX_HEAD else 0
            skb = sock_alloc_send_pskb(sk, size - data_len, data_len, msg.msg_flags & MSG_DONTWAIT)
            try:
                unix_scm_to_skb(scm, skb, not sent)
                skb_copy_datagram_from_iter(skb, msg.msg_iter, size)
            except KernelError:
                kfree_skb(skb)
                raise
            if other.sk_flags & SOCK_DEAD or other.sk_shutdown & RCV_SHUTDOWN:
                kfree_skb(skb)
                raise KernelError(EPIPE)
            maybe_add_creds(skb, sock, other)
            skb_queue_tail(other.sk_receive_queue, skb)
            other.sk_data_ready(other)
            sent += size
    except KernelError as error:
        if not sent:
            if error.errno == EPIPE and not msg.msg_flags & MSG_NOSIGNAL:
                send_sig(SIGPIPE, register.task, 0)
            raise
    finally:
        scm_destroy(scm)
    return sent


# ---- receiving ------------------------------------------------------------------------------------------------
@may_sleep
def unix_stream_data_wait(sk: UnixSock, timeo: int, last: SkBuff | None) -> int:
    """Sleeps until another packet than `last` ends the queue. Answers the jiffies left."""
    wq = sk.sk_wq
    assert wq is not None
    queue = sk.sk_receive_queue.q
    wait = WaitQueueEntry()
    while True:
        prepare_to_wait(wq, wait, TASK_INTERRUPTIBLE)
        if ((queue[-1] if queue else None) is not last or sk.sk_err or sk.sk_shutdown & RCV_SHUTDOWN
                or signal_pending(register.task) or not timeo):
            break
        sk_set_bit(SOCKWQ_ASYNC_WAITDATA, sk)
        timeo = schedule_timeout(timeo)
        if sk.sk_flags & SOCK_DEAD:
            break
        sk_clear_bit(SOCKWQ_ASYNC_WAITDATA, sk)
    finish_wait(wq, wait)
    return timeo


@notrace
def unix_skb_len(skb: SkBuff) -> int:
    """What is left of a packet."""
    return skb.len - unix_cb(skb).consumed


@may_sleep
def unix_stream_recvmsg(sock: Socket, msg: MsgHdr, size: int, flags: int) -> int:
    """->recvmsg(). Raises EINVAL (not connected), EOPNOTSUPP, EAGAIN, EINTR, Restart, ECONNRESET, EFAULT."""
    return unix_stream_read_generic(sock, msg, size, flags)


@may_sleep
def unix_stream_read_generic(sock: Socket, msg: MsgHdr, size: int, flags: int) -> int:
    sk = sock.sk
    assert isinstance(sk, UnixSock)
    if sk.sk_state != TCP_ESTABLISHED:
        raise KernelError(EINVAL)
    if flags & MSG_OOB:
        raise KernelError(EOPNOTSUPP)
    target = sock_rcvlowat(sk, flags & MSG_WAITALL, size)
    timeo = sock_rcvtimeo(sk, flags & MSG_DONTWAIT)
    scm = ScmCookie()
    mutex_lock(sk.iolock)
    try:
        copied = _read_packets(sock, sk, msg, size, flags, target, timeo, scm)
    except KernelError:
        scm_destroy(scm)
        raise
    scm_recv(sock, msg, scm, flags)
    return copied


@notrace
def _first_packet(queue: deque[SkBuff], skip: int) -> tuple[int, int]:
    """(which packet is the first of which something is to be read, how much of it to skip)."""
    at = 0
    for skb in queue:
        left = unix_skb_len(skb)
        if skip < left:
            break
        skip -= left
        at += 1
    return at, skip


@notrace
@may_sleep
def _read_packets(sock: Socket, sk: UnixSock, msg: MsgHdr, size: int, flags: int, target: int, timeo: int,
                  scm: ScmCookie) -> int:
    """Copies from one packet after the other. Drops iolock at the end. What was copied counts more than an error."""
    queue = sk.sk_receive_queue.q
    passcred = sock.flags & SOCK_PASSCRED
    copied = 0
    try:
        while True:
            at, skip = _first_packet(queue, sk_peek_offset(sk, flags)) if queue else (0, 0)
            if at == len(queue):
                if copied >= target:
                    break
                timeo = _wait_for_packet(sk, timeo)
                if timeo < 0:
                    break
                continue
            if flags & MSG_PEEK:
                return _peek_packets(sk, msg, size, at, skip, bool(passcred), scm)
            skb = queue[0]
            cb = unix_cb(skb)
            if passcred:
                if copied and cb.creds != scm.creds:
                    break
                scm.creds = cb.creds
            if not copied:
                unix_copy_addr(msg, skb.sk)
            chunk = min(skb.len - cb.consumed, size)
            skb_copy_datagram_iter(skb, cb.consumed, msg.msg_iter, chunk)
            copied += chunk
            size -= chunk
            cb.consumed += chunk
            sk_peek_offset_bwd(sk, chunk)
            if cb.fp is not None:
                unix_detach_fds(scm, skb)
            if cb.consumed < skb.len:
                break
            skb_unlink(skb, sk.sk_receive_queue)
            consume_skb(skb)
            if scm.fp is not None or not size:
                break
    except KernelError:
        if not copied:
            raise
    finally:
        mutex_unlock(sk.iolock)
    return copied


@notrace
@may_sleep
def _wait_for_packet(sk: UnixSock, timeo: int) -> int:
    """unix_stream_data_wait() without iolock. Answers the jiffies left; -1: no more will come. Raises the sock's error,
    EAGAIN, EINTR, Restart."""
    err = sock_error(sk)
    if err:
        raise KernelError(err)
    if sk.sk_shutdown & RCV_SHUTDOWN:
        return -1
    if not timeo:
        raise KernelError(EAGAIN)
    queue = sk.sk_receive_queue.q
    mutex_unlock(sk.iolock)
    timeo = unix_stream_data_wait(sk, timeo, queue[-1] if queue else None)
    interrupted = signal_pending(register.task)
    mutex_lock(sk.iolock)
    if interrupted:
        raise sock_intr_errno(timeo)
    return timeo


@notrace
@may_sleep
def _peek_packets(sk: UnixSock, msg: MsgHdr, size: int, at: int, skip: int, passcred: bool, scm: ScmCookie) -> int:
    """MSG_PEEK: copies what is there, and leaves it. Files are duplicated; behind a packet with files it ends."""
    copied = 0
    for number, skb in enumerate(islice(tuple(sk.sk_receive_queue.q), at, None)):
        cb = unix_cb(skb)
        if passcred:
            if number and cb.creds != scm.creds:
                break
            scm.creds = cb.creds
        if not number:
            unix_copy_addr(msg, skb.sk)
        chunk = min(unix_skb_len(skb) - skip, size)
        try:
            skb_copy_datagram_iter(skb, cb.consumed + skip, msg.msg_iter, chunk)
        except KernelError:
            if not copied:
                raise
            break
        skip = 0
        copied += chunk
        size -= chunk
        sk_peek_offset_fwd(sk, chunk)
        if cb.fp is not None:
            scm.fp = scm_fp_dup(cb.fp)
            break
    return copied
