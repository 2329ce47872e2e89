"""What socks may hold in memory: packets that are charged to one, and a protocol's share of all memory.

Linux: net/core/sock.c, include/net/sock.h (5.3). Same: truesize counts; senders wait for room in the send buffer; the
three thresholds of a protocol (tcp_mem, udp_mem) in pages.
Owns: sk_wmem_alloc, sk_rmem_alloc, sk_forward_alloc, NetState.memory_allocated, memory_pressure.
Invariants: memory_allocated[protocol] * 4096 == the sum over its socks of what they have charged plus sk_forward_alloc.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import schedule_timeout, signal_pending
from glasskernel.kernel.sched.wait import WaitQueueEntry, finish_wait, prepare_to_wait
from glasskernel.kernel.task import TASK_INTERRUPTIBLE
from glasskernel.lib.errno import EAGAIN, ENOBUFS, ENOMEM, EPIPE, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.filter import sk_filter
from glasskernel.net.core.sock import (
    __sk_free,
    sk_clear_bit,
    sk_set_bit,
    sock_error,
    sock_intr_errno,
    sock_sndtimeo,
)
from glasskernel.net.skbuff import alloc_skb, alloc_skb_with_frags, skb_orphan, skb_queue_tail
from glasskernel.net.types import (
    SEND_SHUTDOWN,
    SOCK_DEAD,
    SOCK_NOSPACE,
    SOCK_SNDBUF_LOCK,
    SOCK_STREAM,
    SOCK_USE_WRITE_QUEUE,
    SOCKWQ_ASYNC_NOSPACE,
)

if TYPE_CHECKING:
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import NetState, Sock

SK_MEM_QUANTUM = 4096
SK_MEM_SEND, SK_MEM_RECV = 0, 1
SK_RECLAIM_THRESHOLD, SK_RECLAIM_CHUNK = 1 << 21, 1 << 20
SOCK_MIN_SNDBUF, SOCK_MIN_RCVBUF = 4608, 2304        # two small packets, one


# ---- packets that count for a sock -------------------------------------------------------------------------------
def sock_wfree(skb: SkBuff) -> None:
    """The destructor of a packet that was sent: its memory, and perhaps the sock. Context: any."""
    sk = skb.sk
    assert sk is not None
    sk.sk_wmem_alloc -= skb.truesize
    if not sk.sk_flags & SOCK_USE_WRITE_QUEUE:
        sk.sk_write_space(sk)
    if not sk.sk_wmem_alloc and not sk.sk_refcnt:
        __sk_free(sk)


def sock_rfree(skb: SkBuff) -> None:
    """The destructor of a packet in a receive queue."""
    sk = skb.sk
    assert sk is not None
    sk.sk_rmem_alloc -= skb.truesize
    sk_mem_uncharge(sk, skb.truesize)


def skb_set_owner_w(skb: SkBuff, sk: Sock) -> None:
    """The packet counts for the sender."""
    skb_orphan(skb)
    skb.sk = sk
    skb.destructor = sock_wfree
    sk.sk_wmem_alloc += skb.truesize


@notrace
def skb_set_owner_r(skb: SkBuff, sk: Sock) -> None:
    """The packet counts for the receiver."""
    skb_orphan(skb)
    skb.sk = sk
    skb.destructor = sock_rfree
    sk.sk_rmem_alloc += skb.truesize
    sk_mem_charge(sk, skb.truesize)


def sock_wmalloc(sk: Sock, size: int, force: bool) -> SkBuff | None:
    """A packet that counts for the sender; None when the send buffer is full, unless forced."""
    if not force and sk.sk_wmem_alloc >= sk.sk_sndbuf:
        return None
    skb = alloc_skb(size)
    skb_set_owner_w(skb, sk)
    return skb


@may_sleep
def sock_wait_for_wmem(sk: Sock, timeo: int) -> int:
    """Sleeps until there is room in the send buffer, or an error, or a signal. Answers the jiffies left."""
    sk_clear_bit(SOCKWQ_ASYNC_NOSPACE, sk)
    wq = sk.sk_wq
    assert wq is not None
    wait = WaitQueueEntry()
    while timeo:
        if signal_pending(register.task):
            break
        sk_set_bit(SOCK_NOSPACE, sk)
        prepare_to_wait(wq, wait, TASK_INTERRUPTIBLE)
        if sk.sk_wmem_alloc < sk.sk_sndbuf or sk.sk_shutdown & SEND_SHUTDOWN or sk.sk_err:
            break
        timeo = schedule_timeout(timeo)
    finish_wait(wq, wait)
    return timeo


@may_sleep
def sock_alloc_send_pskb(sk: Sock, header_len: int, data_len: int, noblock: int) -> SkBuff:
    """A packet for a sender, who may have to wait for room in the send buffer.

    data_len: bytes that will come as fragments. Raises the sock's error, EPIPE, EAGAIN, EINTR or Restart.
    """
    timeo = sock_sndtimeo(sk, noblock)
    while True:
        if sk.sk_err:
            raise KernelError(sock_error(sk))
        if sk.sk_shutdown & SEND_SHUTDOWN:
            raise KernelError(EPIPE)
        if sk.sk_wmem_alloc < sk.sk_sndbuf:
            break
        sk_set_bit(SOCKWQ_ASYNC_NOSPACE | SOCK_NOSPACE, sk)
        if not timeo:
            raise KernelError(EAGAIN)
        if signal_pending(register.task):
            raise sock_intr_errno(timeo)
        timeo = sock_wait_for_wmem(sk, timeo)
    skb = alloc_skb_with_frags(header_len, data_len)
    skb_set_owner_w(skb, sk)
    return skb


@may_sleep
def sock_alloc_send_skb(sk: Sock, size: int, noblock: int) -> SkBuff:
    return sock_alloc_send_pskb(sk, size, 0, noblock)


# ---- receiving ---------------------------------------------------------------------------------------------------
def sock_queue_rcv_skb(sk: Sock, skb: SkBuff) -> int:
    """A packet for the receive queue. Answers 0, or the errno why it is not taken: the caller frees it then."""
    err = sk_filter(sk, skb)
    if err:
        return err
    return __sock_queue_rcv_skb(sk, skb)


def __sock_queue_rcv_skb(sk: Sock, skb: SkBuff) -> int:
    """sock_queue_rcv_skb() behind the filter. Errors: ENOMEM (the queue is full), ENOBUFS."""
    if sk.sk_rmem_alloc >= sk.sk_rcvbuf:
        sk.sk_drops += 1
        probe = sk.sk_net.kernel.tp.sock_rcvqueue_full
        if probe is not None:
            probe(sk, skb)
        return ENOMEM
    if not sk_rmem_schedule(sk, skb.truesize):
        sk.sk_drops += 1
        return ENOBUFS
    skb.dev = None
    skb_set_owner_r(skb, sk)
    skb_queue_tail(sk.sk_receive_queue, skb)
    if not sk.sk_flags & SOCK_DEAD:
        sk.sk_data_ready(sk)
    return 0


# ---- a protocol's share of memory --------------------------------------------------------------------------------
@notrace
def _state(sk: Sock) -> NetState:
    state = sk.sk_net.kernel.net
    assert state is not None
    return state


@notrace
def sk_mem_pages(amount: int) -> int:
    return amount + SK_MEM_QUANTUM - 1 >> 12


@notrace
def sk_mem_charge(sk: Sock, size: int) -> None:
    if sk.sk_prot.memory_allocated:
        sk.sk_forward_alloc -= size


@notrace
def sk_mem_uncharge(sk: Sock, size: int) -> None:
    """Gives a packet's bytes back to the sock, and what is too much of them to the protocol."""
    if sk.sk_prot.memory_allocated:
        sk.sk_forward_alloc += size
        if sk.sk_forward_alloc >= SK_RECLAIM_THRESHOLD:
            __sk_mem_reclaim(sk, SK_RECLAIM_CHUNK)


@notrace
def sk_wmem_schedule(sk: Sock, size: int) -> bool:
    """True if `size` bytes may be charged for sending."""
    return not sk.sk_prot.memory_allocated or size <= sk.sk_forward_alloc or __sk_mem_schedule(sk, size, SK_MEM_SEND)


@notrace
def sk_rmem_schedule(sk: Sock, size: int) -> bool:
    return not sk.sk_prot.memory_allocated or size <= sk.sk_forward_alloc or __sk_mem_schedule(sk, size, SK_MEM_RECV)


@notrace
def sk_mem_reclaim(sk: Sock) -> None:
    """Gives whole pages that are not charged back to the protocol."""
    if sk.sk_prot.memory_allocated and sk.sk_forward_alloc >= SK_MEM_QUANTUM:
        __sk_mem_reclaim(sk, sk.sk_forward_alloc)


def __sk_mem_schedule(sk: Sock, size: int, kind: int) -> bool:
    """Takes pages for `size` bytes from the protocol's share; False: there are none."""
    amt = sk_mem_pages(size)
    sk.sk_forward_alloc += amt << 12
    if __sk_mem_raise_allocated(sk, size, amt, kind):
        return True
    sk.sk_forward_alloc -= amt << 12
    return False


@notrace
def sk_under_memory_pressure(sk: Sock) -> bool:
    return _state(sk).memory_pressure.get(sk.sk_prot.name, False)


@notrace
def sk_enter_memory_pressure(sk: Sock) -> None:
    prot = sk.sk_prot
    if prot.memory_pressure and not sk_under_memory_pressure(sk):
        _state(sk).memory_pressure[prot.name] = True
        if prot.enter_memory_pressure is not None:
            prot.enter_memory_pressure(sk)


@notrace
def sk_leave_memory_pressure(sk: Sock) -> None:
    prot = sk.sk_prot
    if prot.memory_pressure and sk_under_memory_pressure(sk):
        _state(sk).memory_pressure[prot.name] = False
        if prot.leave_memory_pressure is not None:
            prot.leave_memory_pressure(sk)


def __sk_mem_raise_allocated(sk: Sock, size: int, amt: int, kind: int) -> bool:
    """Counts `amt` pages more for the protocol, if its limits and the sock's needs allow. Context: any."""
    prot = sk.sk_prot
    state = _state(sk)
    allocated = state.memory_allocated.get(prot.name, 0) + amt
    state.memory_allocated[prot.name] = allocated
    limits = state.sysctl_mem.get(prot.name)
    if limits is None or allocated <= limits[0]:
        sk_leave_memory_pressure(sk)
        return True
    if allocated > limits[1]:
        sk_enter_memory_pressure(sk)
    if allocated <= limits[2] and _may_have_more(sk, state, limits[2], kind):
        return True
    if kind == SK_MEM_SEND and sk.sk_type == SOCK_STREAM:
        sk_stream_moderate_sndbuf(sk)
        if sk.sk_wmem_queued + size >= sk.sk_sndbuf:
            return True                  # a stream waits for memory of its own, not for others
    probe = sk.sk_net.kernel.tp.sock_exceed_buf_limit
    if probe is not None:
        probe(sk, prot, allocated, kind)
    state.memory_allocated[prot.name] -= amt
    return False


@notrace
def _may_have_more(sk: Sock, state: NetState, hard_limit: int, kind: int) -> bool:
    """Between the lowest and the highest limit: every sock its minimum; nobody too much under pressure."""
    prot = sk.sk_prot
    minimum = prot.sysctl_rmem if kind == SK_MEM_RECV else prot.sysctl_wmem
    least = minimum(sk.sk_net) if minimum is not None else SK_MEM_QUANTUM
    if kind == SK_MEM_RECV:
        used = sk.sk_rmem_alloc
    else:
        used = sk.sk_wmem_queued if sk.sk_type == SOCK_STREAM else sk.sk_wmem_alloc
    if used < least:
        return True
    if not prot.memory_pressure:
        return False
    if not sk_under_memory_pressure(sk):
        return True
    pages = sk_mem_pages(sk.sk_wmem_queued + sk.sk_rmem_alloc + sk.sk_forward_alloc)
    return hard_limit > state.sockets_allocated.get(prot.name, 0) * pages


@notrace
def sk_stream_moderate_sndbuf(sk: Sock) -> None:
    """Under pressure a send buffer shrinks to what is queued."""
    if not sk.sk_userlocks & SOCK_SNDBUF_LOCK:
        sk.sk_sndbuf = max(min(sk.sk_sndbuf, sk.sk_wmem_queued >> 1), SOCK_MIN_SNDBUF)


def __sk_mem_reduce_allocated(sk: Sock, amount: int) -> None:
    """`amount` pages less for the protocol."""
    state = _state(sk)
    name = sk.sk_prot.name
    state.memory_allocated[name] -= amount
    limits = state.sysctl_mem.get(name)
    if limits is not None and sk_under_memory_pressure(sk) and state.memory_allocated[name] < limits[0]:
        sk_leave_memory_pressure(sk)


def __sk_mem_reclaim(sk: Sock, amount: int) -> None:
    """Gives `amount` bytes, in whole pages, back to the protocol."""
    pages = amount >> 12
    sk.sk_forward_alloc -= pages << 12
    __sk_mem_reduce_allocated(sk, pages)
