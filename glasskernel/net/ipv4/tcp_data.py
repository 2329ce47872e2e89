"""Data arrives: in order, out of order, twice, urgent, and its end.

Linux: net/ipv4/tcp_input.c (5.3), tcp_data_queue(). Same: what is acknowledged and how; SACK and DSACK blocks; when
memory is short what came out of order goes first. Differs: the out-of-order queue is a list; segments are not joined.
Invariants: out_of_order_queue is sorted by sequence number and no segment in it covers another; sk_receive_queue ends
    at rcv_nxt.
Locks: sk's owner, or softirq while nobody owns it.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace
from glasskernel.net.core.sock import POLL_IN, SOCK_WAKE_WAITD, sk_send_sigurg, sk_wake_async
from glasskernel.net.core.sock_memory import (
    sk_mem_reclaim,
    sk_rmem_schedule,
    sk_under_memory_pressure,
    skb_set_owner_r,
)
from glasskernel.net.ipv4.tcp_control import sk_forced_mem_schedule, tcp_send_ack
from glasskernel.net.ipv4.tcp_rcv_window import (
    tcp_clamp_window,
    tcp_enter_quickack_mode,
    tcp_event_data_recv,
    tcp_grow_window,
)
from glasskernel.net.ipv4.tcp_state import tcp_set_state
from glasskernel.net.ipv4.tcp_timewait import tcp_time_wait
from glasskernel.net.ipv4.tcp_types import (
    ICSK_ACK_NOW,
    ICSK_ACK_SCHED,
    TCP_MAX_QUICKACKS,
    TCP_NUM_SACKS,
    TCP_URG_NOTYET,
    TCP_URG_VALID,
    TCPHDR_FIN,
    TCPHDR_SYN,
    TCPHDR_URG,
    TcpSkbCb,
    after,
    before,
    tcp_receive_window,
)
from glasskernel.net.skbuff import __kfree_skb, kfree_skb, skb_copy_bits, skb_dst_drop, skb_pull
from glasskernel.net.types import (
    RCV_SHUTDOWN,
    SOCK_DEAD,
    SOCK_DONE,
    SOCK_URGINLINE,
    TCP_CLOSE_WAIT,
    TCP_CLOSING,
    TCP_ESTABLISHED,
    TCP_FIN_WAIT1,
    TCP_FIN_WAIT2,
    TCP_SYN_RECV,
    TCP_TIME_WAIT,
)

if TYPE_CHECKING:
    from glasskernel.net.ipv4.tcp_types import TcpHdr, TcpSock
    from glasskernel.net.skbuff import SkBuff


@notrace
def tcp_drop(sk: TcpSock, skb: SkBuff) -> None:
    sk.sk_drops += 1
    kfree_skb(skb)


# ---- SACK blocks that we send -----------------------------------------------------------------------------------
@notrace
def tcp_dsack_set(sk: TcpSock, seq: int, end_seq: int) -> None:
    """The next ACK tells that this came twice."""
    if sk.rx_opt.sack_ok and sk.sk_net.ipv4.sysctl["tcp_dsack"]:
        sk.sk_net.mib.net["TCPDSACKOldSent" if before(seq, sk.rcv_nxt) else "TCPDSACKOfoSent"] += 1
        sk.rx_opt.dsack = True
        sk.duplicate_sack = (seq, end_seq)


def tcp_dsack_extend(sk: TcpSock, seq: int, end_seq: int) -> None:
    if not sk.rx_opt.dsack or sk.duplicate_sack is None:
        tcp_dsack_set(sk, seq, end_seq)
        return
    start, end = sk.duplicate_sack
    if not after(seq, end) and not after(start, end_seq):
        sk.duplicate_sack = (seq if before(seq, start) else start, end_seq if after(end_seq, end) else end)


def tcp_sack_new_ofo_skb(sk: TcpSock, seq: int, end_seq: int) -> None:
    """The newest block stands first; blocks that touch it join."""
    blocks = sk.selective_acks
    rest = []
    for start, end in blocks:
        if not after(seq, end) and not after(start, end_seq):
            seq = start if before(start, seq) else seq
            end_seq = end if after(end, end_seq) else end_seq
        else:
            rest.append((start, end))
    sk.selective_acks = [(seq, end_seq), *rest[: TCP_NUM_SACKS - 1]]
    sk.rx_opt.num_sacks = len(sk.selective_acks)


@notrace
def tcp_sack_remove(sk: TcpSock) -> None:
    """What is in order by now is no longer told."""
    if not sk.out_of_order_queue:
        sk.selective_acks = []
    else:
        sk.selective_acks = [block for block in sk.selective_acks if before(sk.rcv_nxt, block[0])]
    sk.rx_opt.num_sacks = len(sk.selective_acks)


def tcp_send_dupack(sk: TcpSock, skb: SkBuff) -> None:
    """A packet that does not fit: says where we are."""
    tcb: TcpSkbCb = skb.cb
    if tcb.end_seq != tcb.seq and before(tcb.seq, sk.rcv_nxt):
        sk.sk_net.mib.net["DelayedACKLost"] += 1
        tcp_enter_quickack_mode(sk, TCP_MAX_QUICKACKS)
        end_seq = sk.rcv_nxt if after(tcb.end_seq, sk.rcv_nxt) else tcb.end_seq
        tcp_dsack_set(sk, tcb.seq, end_seq)
    tcp_send_ack(sk)


# ---- memory -------------------------------------------------------------------------------------------------------
def tcp_prune_ofo_queue(sk: TcpSock) -> bool:
    """Throws away what came out of order, the furthest first, an eighth of the buffer at a time."""
    queue = sk.out_of_order_queue
    if not queue:
        return False
    sk.sk_net.mib.net["OfoPruned"] += 1
    goal = sk.sk_rcvbuf >> 3
    while queue:
        skb = queue.pop()
        goal -= skb.truesize
        tcp_drop(sk, skb)
        if goal <= 0:
            sk_mem_reclaim(sk)
            if sk.sk_rmem_alloc <= sk.sk_rcvbuf and not sk_under_memory_pressure(sk):
                break
            goal = sk.sk_rcvbuf >> 3
    sk.selective_acks = []               # it was told, but is gone: the sender must not rely on it
    sk.rx_opt.num_sacks = 0
    return True


def tcp_prune_queue(sk: TcpSock) -> bool:
    """Makes room in the receive buffer. False: there is none, the packet is dropped."""
    mib = sk.sk_net.mib.net
    mib["PruneCalled"] += 1
    if sk.sk_rmem_alloc >= sk.sk_rcvbuf:
        tcp_clamp_window(sk)
    elif sk_under_memory_pressure(sk):
        sk.rcv_ssthresh = min(sk.rcv_ssthresh, 4 * sk.advmss)
    if sk.sk_rmem_alloc <= sk.sk_rcvbuf:
        return True
    sk_mem_reclaim(sk)
    if tcp_prune_ofo_queue(sk) and sk.sk_rmem_alloc <= sk.sk_rcvbuf:
        return True
    mib["RcvPruned"] += 1
    return False


def tcp_try_rmem_schedule(sk: TcpSock, size: int) -> bool:
    """True if a packet of that size may stay."""
    if sk.sk_rmem_alloc > sk.sk_rcvbuf or not sk_rmem_schedule(sk, size):
        if not tcp_prune_queue(sk):
            return False
        while not sk_rmem_schedule(sk, size):
            if not tcp_prune_ofo_queue(sk):
                return False
    return True


# ---- queues -------------------------------------------------------------------------------------------------------
@notrace
def tcp_rcv_nxt_update(sk: TcpSock, seq: int) -> None:
    sk.bytes_received += seq - sk.rcv_nxt & 0xFFFFFFFF
    sk.rcv_nxt = seq


def tcp_queue_rcv(sk: TcpSock, skb: SkBuff) -> None:
    """The next data in order, for the program."""
    tcp_rcv_nxt_update(sk, skb.cb.end_seq)
    sk.sk_receive_queue.q.append(skb)
    skb_set_owner_r(skb, sk)


def tcp_data_ready(sk: TcpSock) -> None:
    """Wakes the reader, if there is as much as SO_RCVLOWAT wants."""
    if (sk.rcv_nxt - sk.copied_seq & 0xFFFFFFFF) < sk.sk_rcvlowat and not sk.sk_flags & SOCK_DONE:
        return
    sk.sk_data_ready(sk)


def tcp_ofo_queue(sk: TcpSock) -> None:
    """A gap was filled: what waited behind it is in order now."""
    queue = sk.out_of_order_queue
    dsack_high = sk.rcv_nxt
    while queue:
        skb = queue[0]
        tcb: TcpSkbCb = skb.cb
        if after(tcb.seq, sk.rcv_nxt):
            break
        if before(tcb.seq, dsack_high):
            dsack, end = dsack_high, tcb.end_seq
            if before(dsack_high, end):
                dsack_high = end
            tcp_dsack_extend(sk, tcb.seq, dsack)
        del queue[0]
        if not after(tcb.end_seq, sk.rcv_nxt):
            tcp_drop(sk, skb)
            continue
        tcp_rcv_nxt_update(sk, tcb.end_seq)
        sk.sk_receive_queue.q.append(skb)
        if tcb.tcp_flags & TCPHDR_FIN:
            tcp_fin(sk)
            break


def tcp_data_queue_ofo(sk: TcpSock, skb: SkBuff) -> None:
    """Something before it is missing."""
    mib = sk.sk_net.mib.net
    if not tcp_try_rmem_schedule(sk, skb.truesize):
        mib["TCPOFODrop"] += 1
        tcp_drop(sk, skb)
        return
    sk.icsk_ack_pending |= ICSK_ACK_SCHED
    mib["TCPOFOQueue"] += 1
    tcb: TcpSkbCb = skb.cb
    seq, end_seq = tcb.seq, tcb.end_seq
    queue = sk.out_of_order_queue
    at = len(queue)
    while at and before(seq, queue[at - 1].cb.seq):      # usually the last one
        at -= 1
    if at:
        prior = queue[at - 1].cb
        if before(seq, prior.end_seq):
            if not after(end_seq, prior.end_seq):        # nothing new
                mib["TCPOFOMerge"] += 1
                tcp_drop(sk, skb)
                tcp_dsack_set(sk, seq, end_seq)
                tcp_sack_new_ofo_skb(sk, seq, end_seq)
                return
            if after(seq, prior.seq):
                tcp_dsack_set(sk, seq, prior.end_seq)
            else:                                        # it covers the other one
                mib["TCPOFOMerge"] += 1
                tcp_dsack_extend(sk, prior.seq, prior.end_seq)
                at -= 1
                tcp_drop(sk, queue.pop(at))
    queue.insert(at, skb)
    while at + 1 < len(queue):
        following = queue[at + 1].cb
        if not after(end_seq, following.seq):
            break
        if before(end_seq, following.end_seq):
            tcp_dsack_extend(sk, following.seq, end_seq)
            break
        tcp_dsack_extend(sk, following.seq, following.end_seq)
        mib["TCPOFOMerge"] += 1
        tcp_drop(sk, queue.pop(at + 1))
    if sk.rx_opt.sack_ok:
        tcp_sack_new_ofo_skb(sk, seq, end_seq)
    tcp_grow_window(sk, skb)
    skb_set_owner_r(skb, sk)


def tcp_data_queue(sk: TcpSock, skb: SkBuff) -> None:
    """A segment, whose ACK was worked off. Takes the packet."""
    tcb: TcpSkbCb = skb.cb
    if tcb.seq == tcb.end_seq:
        __kfree_skb(skb)
        return
    skb_dst_drop(skb)
    skb_pull(skb, tcb.th.doff)
    sk.rx_opt.dsack = False
    mib = sk.sk_net.mib.net
    partly_old = before(tcb.seq, sk.rcv_nxt) and after(tcb.end_seq, sk.rcv_nxt)
    if tcb.seq == sk.rcv_nxt or partly_old:
        if partly_old:
            tcp_dsack_set(sk, tcb.seq, sk.rcv_nxt)
        if not tcp_receive_window(sk):
            mib["TCPZeroWindowDrop"] += 1
            tcp_out_of_window(sk, skb)
            return
        if not sk.sk_receive_queue.q:
            sk_forced_mem_schedule(sk, skb.truesize)     # there is always room for one
        elif not tcp_try_rmem_schedule(sk, skb.truesize):
            mib["TCPRcvQDrop"] += 1
            sk.sk_data_ready(sk)
            tcp_drop(sk, skb)
            return
        tcp_queue_rcv(sk, skb)
        if skb.len:
            tcp_event_data_recv(sk, skb)
        if tcb.tcp_flags & TCPHDR_FIN:
            tcp_fin(sk)
        if sk.out_of_order_queue:
            tcp_ofo_queue(sk)
            if not sk.out_of_order_queue:                # the gap is closed: tell at once
                sk.icsk_ack_pending |= ICSK_ACK_NOW
        if sk.rx_opt.num_sacks:
            tcp_sack_remove(sk)
        if not sk.sk_flags & SOCK_DEAD:
            tcp_data_ready(sk)
        return
    if not after(tcb.end_seq, sk.rcv_nxt):               # all of it is old: our ACK was lost
        mib["DelayedACKLost"] += 1
        tcp_dsack_set(sk, tcb.seq, tcb.end_seq)
        tcp_out_of_window(sk, skb)
    elif not before(tcb.seq, sk.rcv_nxt + tcp_receive_window(sk) & 0xFFFFFFFF):
        tcp_out_of_window(sk, skb)
    else:
        tcp_data_queue_ofo(sk, skb)


@notrace
def tcp_out_of_window(sk: TcpSock, skb: SkBuff) -> None:
    tcp_enter_quickack_mode(sk, TCP_MAX_QUICKACKS)
    sk.icsk_ack_pending |= ICSK_ACK_SCHED
    tcp_drop(sk, skb)


def tcp_fin(sk: TcpSock) -> None:
    """The other side has written its last byte, and it is in order."""
    sk.icsk_ack_pending |= ICSK_ACK_SCHED
    sk.sk_shutdown |= RCV_SHUTDOWN
    sk.sk_flags |= SOCK_DONE
    state = sk.sk_state
    if state in (TCP_SYN_RECV, TCP_ESTABLISHED):
        tcp_set_state(sk, TCP_CLOSE_WAIT)
        sk.icsk_ack_pingpong = 3
    elif state == TCP_FIN_WAIT1:         # both closed at once
        tcp_send_ack(sk)
        tcp_set_state(sk, TCP_CLOSING)
    elif state == TCP_FIN_WAIT2:
        tcp_send_ack(sk)
        tcp_time_wait(sk, TCP_TIME_WAIT, 0)
    for skb in sk.out_of_order_queue:    # beyond the end there is nothing
        kfree_skb(skb)
    sk.out_of_order_queue.clear()
    if sk.rx_opt.sack_ok:
        sk.rx_opt.dsack = False
        sk.rx_opt.num_sacks = 0
        sk.selective_acks = []
    sk_mem_reclaim(sk)
    if not sk.sk_flags & SOCK_DEAD:
        sk.sk_state_change(sk)
        sk_wake_async(sk, SOCK_WAKE_WAITD, POLL_IN)


# ---- urgent data ----------------------------------------------------------------------------------------------------
def tcp_check_urg(sk: TcpSock, th: TcpHdr) -> None:
    """A pointer to an urgent byte came."""
    ptr = th.urg_ptr
    if ptr and not sk.sk_net.ipv4.sysctl["tcp_stdurg"]:
        ptr -= 1
    ptr = ptr + th.seq & 0xFFFFFFFF
    if after(sk.copied_seq, ptr) or before(ptr, sk.rcv_nxt):
        return
    if sk.urg_data and not after(ptr, sk.urg_seq):
        return
    sk_send_sigurg(sk)
    # An older urgent byte that nobody read: it is skipped, unless it shall be read in line.
    if (sk.urg_seq == sk.copied_seq and sk.urg_data and not sk.sk_flags & SOCK_URGINLINE
            and sk.copied_seq != sk.rcv_nxt):
        sk.copied_seq = sk.copied_seq + 1 & 0xFFFFFFFF
        queue = sk.sk_receive_queue.q
        if queue and not before(sk.copied_seq, queue[0].cb.end_seq):
            __kfree_skb(queue.popleft())
    sk.urg_data = TCP_URG_NOTYET
    sk.urg_seq = ptr


def tcp_urg(sk: TcpSock, skb: SkBuff, th: TcpHdr) -> None:
    """Looks for the urgent byte in a segment; skb.data is at the header."""
    if th.flags & TCPHDR_URG:
        tcp_check_urg(sk, th)
    if sk.urg_data == TCP_URG_NOTYET:
        ptr = (sk.urg_seq - th.seq & 0xFFFFFFFF) + th.doff - bool(th.flags & TCPHDR_SYN)
        if ptr < skb.len:
            sk.urg_data = TCP_URG_VALID | skb_copy_bits(skb, ptr, 1)[0]
            if not sk.sk_flags & SOCK_DEAD:
                sk.sk_data_ready(sk)
