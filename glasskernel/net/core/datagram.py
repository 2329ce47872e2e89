"""Receiving datagrams: taking packets from a queue, waiting for them, copying them to users.

Linux: net/core/datagram.c (5.3). Same: MSG_PEEK leaves the packet, SO_PEEK_OFF looks behind what was peeked at
before; an error of the sock ends the wait; POLL* of connectionless socks.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.poll import poll_wait
from glasskernel.fs.types import (
    POLLERR,
    POLLHUP,
    POLLIN,
    POLLOUT,
    POLLPRI,
    POLLRDHUP,
    POLLRDNORM,
    POLLWRBAND,
    POLLWRNORM,
)
from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import schedule_timeout, signal_pending
from glasskernel.kernel.sched.wait import (
    WaitQueueEntry,
    autoremove_wake_function,
    finish_wait,
    prepare_to_wait_exclusive,
)
from glasskernel.kernel.task import TASK_INTERRUPTIBLE
from glasskernel.lib.checksum import csum_block_add, csum_fold, csum_partial
from glasskernel.lib.errno import EAGAIN, EFAULT, EINVAL, ENOTCONN, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.sock import (
    sk_set_bit,
    sock_error,
    sock_intr_errno,
    sock_rcvtimeo,
    sock_writeable,
)
from glasskernel.net.core.sock_memory import sk_mem_reclaim
from glasskernel.net.skbuff import (
    CHECKSUM_COMPLETE,
    __skb_checksum_complete,
    __skb_unlink,
    consume_skb,
    skb_checksum_complete,
    skb_copy_bits,
    skb_copy_datagram_iter,
)
from glasskernel.net.types import (
    MSG_PEEK,
    RCV_SHUTDOWN,
    SHUTDOWN_MASK,
    SOCK_SELECT_ERR_QUEUE,
    SOCK_SEQPACKET,
    SOCK_STREAM,
    SOCKWQ_ASYNC_NOSPACE,
    TCP_CLOSE,
    TCP_ESTABLISHED,
    TCP_LISTEN,
    TCP_SYN_SENT,
)

if TYPE_CHECKING:
    from typing import Any

    from glasskernel.fs.types import File, PollTable
    from glasskernel.mm.iov_iter import IovIter
    from glasskernel.net.skbuff import SkBuff, SkBuffHead
    from glasskernel.net.types import MsgHdr, Sock, Socket


# ---- waiting --------------------------------------------------------------------------------------------------
@notrace
def connection_based(sk: Sock) -> bool:
    return sk.sk_type in (SOCK_SEQPACKET, SOCK_STREAM)


def receiver_wake_function(wait: WaitQueueEntry, mode: int, sync: int, key: Any) -> int:
    """Wakes a receiver, unless the event is one of writing only."""
    if key is not None and not key & (POLLIN | POLLERR):
        return 0
    return autoremove_wake_function(wait, mode, sync, key)


@may_sleep
def __skb_wait_for_more_packets(sk: Sock, timeo: int, last: SkBuff | None) -> int:
    """Sleeps until the receive queue ends with another packet than `last`.

    Answers the jiffies left; -1: no more will come (shutdown). Raises the sock's error, ENOTCONN, EINTR, Restart.
    """
    wq = sk.sk_wq
    assert wq is not None
    queue = sk.sk_receive_queue.q
    wait = WaitQueueEntry(receiver_wake_function)
    prepare_to_wait_exclusive(wq, wait, TASK_INTERRUPTIBLE)
    try:
        if sk.sk_err:
            raise KernelError(sock_error(sk))
        if (queue[-1] if queue else None) is not last:
            return timeo
        if sk.sk_shutdown & RCV_SHUTDOWN:
            return -1
        if connection_based(sk) and sk.sk_state not in (TCP_ESTABLISHED, TCP_LISTEN):
            raise KernelError(ENOTCONN)
        if signal_pending(register.task):
            raise sock_intr_errno(timeo)
        return schedule_timeout(timeo)
    finally:
        finish_wait(wq, wait)


# ---- taking ---------------------------------------------------------------------------------------------------
def __skb_try_recv_from_queue(queue: SkBuffHead, flags: int, off: int) -> tuple[SkBuff | None, int]:
    """(the next packet, where in it to begin); (None, 0): there is none. off: bytes to skip, with MSG_PEEK only."""
    for skb in queue.q:
        if flags & MSG_PEEK:
            if off > 0 and off >= skb.len and (skb.len or off or skb.peeked):
                off -= skb.len
                continue
            if not skb.len:
                skb.peeked = True
            skb.users += 1
        else:
            __skb_unlink(skb, queue)
        return skb, max(off, 0)
    return None, 0


def __skb_try_recv_datagram(sk: Sock, flags: int, off: int) -> tuple[SkBuff | None, int]:
    """__skb_try_recv_from_queue() of the sock. Raises its error."""
    if sk.sk_err:
        raise KernelError(sock_error(sk))
    return __skb_try_recv_from_queue(sk.sk_receive_queue, flags, off)


@may_sleep
def __skb_recv_datagram(sk: Sock, flags: int, noblock: int, off: int = 0) -> tuple[SkBuff | None, int]:
    """Takes a packet, waiting for it unless noblock. Answers (packet, where in it to begin); None: shut down.

    Raises EAGAIN (also when SO_RCVTIMEO is over), the sock's error, ENOTCONN, EINTR, Restart. Context: task.
    """
    timeo = sock_rcvtimeo(sk, noblock)
    queue = sk.sk_receive_queue.q
    while True:
        skb, skip = __skb_try_recv_datagram(sk, flags, off)
        if skb is not None:
            return skb, skip
        if not timeo:
            raise KernelError(EAGAIN)
        timeo = __skb_wait_for_more_packets(sk, timeo, queue[-1] if queue else None)
        if timeo < 0:
            return None, 0


@may_sleep
def skb_recv_datagram(sk: Sock, flags: int, noblock: int) -> SkBuff | None:
    """__skb_recv_datagram() without SO_PEEK_OFF."""
    return __skb_recv_datagram(sk, flags, noblock)[0]


def skb_free_datagram(sk: Sock, skb: SkBuff) -> None:
    """Ends skb_recv_datagram(). Context: task."""
    consume_skb(skb)
    sk_mem_reclaim(sk)


# ---- SO_PEEK_OFF ----------------------------------------------------------------------------------------------
@notrace
def sk_peek_offset(sk: Sock, flags: int) -> int:
    """Where a MSG_PEEK begins."""
    return sk.sk_peek_off if flags & MSG_PEEK and sk.sk_peek_off > 0 else 0


@notrace
def sk_peek_offset_fwd(sk: Sock, val: int) -> None:
    """`val` bytes were peeked at."""
    if sk.sk_peek_off >= 0:
        sk.sk_peek_off += val


@notrace
def sk_peek_offset_bwd(sk: Sock, val: int) -> None:
    """`val` bytes were taken."""
    if sk.sk_peek_off >= 0:
        sk.sk_peek_off = max(sk.sk_peek_off - val, 0)


def sk_set_peek_off(sk: Sock, val: int) -> None:
    """->set_peek_off()"""
    sk.sk_peek_off = val


# ---- copying --------------------------------------------------------------------------------------------------
@notrace
@may_sleep
def skb_copy_datagram_msg(skb: SkBuff, offset: int, msg: MsgHdr, size: int) -> None:
    """A part of a packet to whoever receives. Raises EFAULT."""
    skb_copy_datagram_iter(skb, offset, msg.msg_iter, size)


@may_sleep
def skb_copy_and_csum_datagram_msg(skb: SkBuff, hlen: int, msg: MsgHdr) -> None:
    """What is behind `hlen` bytes of headers, if its checksum is right. Raises EINVAL if not, EFAULT."""
    chunk = skb.len - hlen
    if not chunk:
        return
    if msg.msg_iter.count < chunk:
        if skb_checksum_complete(skb):
            raise KernelError(EINVAL)
        skb_copy_datagram_iter(skb, hlen, msg.msg_iter, chunk)
        return
    skb_copy_and_csum_datagram(skb, hlen, msg.msg_iter, chunk)


@may_sleep
def skb_copy_and_csum_datagram(skb: SkBuff, offset: int, to: IovIter, length: int) -> None:
    """Copies and sums in one go. What was copied of a damaged packet is taken back. Raises EINVAL, EFAULT."""
    data = skb_copy_bits(skb, offset, length)
    csum = csum_block_add(csum_partial(skb_copy_bits(skb, 0, offset), skb.csum), csum_partial(data, 0), offset)
    copied = to.copy_to_iter(data)
    if copied != length:
        raise KernelError(EFAULT)
    if csum_fold(csum):
        to.revert(copied)
        raise KernelError(EINVAL)
    if skb.ip_summed == CHECKSUM_COMPLETE and __skb_checksum_complete(skb):
        raise AssertionError("netdev_rx_csum_fault")


@may_sleep
def skb_copy_datagram_from_iter(skb: SkBuff, from_: IovIter, length: int) -> None:
    """Fills an empty packet of sock_alloc_send_pskb(), whose memory is counted already. Raises EFAULT."""
    data = from_.copy_from_iter(length)
    if len(data) != length:
        raise KernelError(EFAULT)
    skb.shinfo.frags.append(data)
    skb.len += length
    skb.data_len += length


# ---- poll -----------------------------------------------------------------------------------------------------
@notrace
def datagram_events(sk: Sock) -> int:
    """POLL* but those of writing."""
    mask = 0
    if sk.sk_err or sk.sk_error_queue.q:
        mask |= POLLERR | (POLLPRI if sk.sk_flags & SOCK_SELECT_ERR_QUEUE else 0)
    if sk.sk_shutdown & RCV_SHUTDOWN:
        mask |= POLLRDHUP | POLLIN | POLLRDNORM
    if sk.sk_shutdown == SHUTDOWN_MASK:
        mask |= POLLHUP
    if sk.sk_receive_queue.q:
        mask |= POLLIN | POLLRDNORM
    if connection_based(sk) and sk.sk_state == TCP_CLOSE:
        mask |= POLLHUP
    return mask


def datagram_poll(file: File, sock: Socket, wait: PollTable) -> int:
    """->poll() of who sends and receives datagrams."""
    sk = sock.sk
    poll_wait(file, sock.wq, wait)
    mask = datagram_events(sk)
    if connection_based(sk) and sk.sk_state == TCP_SYN_SENT:
        return mask                                # not connected yet: not writable
    if sock_writeable(sk):
        mask |= POLLOUT | POLLWRNORM | POLLWRBAND
    else:
        sk_set_bit(SOCKWQ_ASYNC_NOSPACE, sk)
    return mask
