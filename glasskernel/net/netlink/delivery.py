"""Netlink messages on their way: to one socket, to the kernel, to all members of a group.

Linux: net/netlink/af_netlink.c (5.3). Same: a receiver whose buffer is full is congested: a unicast waits for it, a
    broadcast passes it by and leaves it ENOBUFS; a message to the kernel is handled before sendmsg() returns.
Differs: broadcast copies share their bytes (skb_clone); a socket that listens to all namespaces is told of none's
    number.
Owns: NetState.nl_table. Invariants: a socket is in its table's hash if and only if it is bound, or the kernel's
    (portid 0); it is in mc_list if and only if it has subscriptions.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.kernel.sched.core import schedule_timeout, set_current_state, signal_pending
from glasskernel.kernel.sched.wait import (
    WaitQueueEntry,
    add_wait_queue,
    default_wake_function,
    remove_wait_queue,
    wake_up_interruptible,
)
from glasskernel.kernel.task import TASK_INTERRUPTIBLE, TASK_RUNNING
from glasskernel.lib.errno import EADDRINUSE, EAGAIN, EBUSY, ECONNREFUSED, ENOBUFS, ESRCH, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.filter import sk_filter
from glasskernel.net.core.sock import lock_sock_nested, release_sock, sock_hold, sock_intr_errno, sock_sndtimeo
from glasskernel.net.netlink.types import (
    NETLINK_CONNECTED,
    NETLINK_F_BROADCAST_SEND_ERROR,
    NETLINK_F_KERNEL_SOCKET,
    NETLINK_F_LISTEN_ALL_NSID,
    NETLINK_F_RECV_NO_ENOBUFS,
    NETLINK_S_CONGESTED,
    NetlinkSkbParms,
    NetlinkSock,
    NetlinkTable,
)
from glasskernel.net.skbuff import consume_skb, kfree_skb, skb_clone, skb_orphan, skb_queue_tail
from glasskernel.net.types import SOCK_DEAD

if TYPE_CHECKING:
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net, Sock


@notrace
def netlink_table(net: Net, protocol: int) -> NetlinkTable | None:
    """nl_table[protocol]; None: nobody serves it."""
    state = net.kernel.net
    assert state is not None
    return state.nl_table.get(protocol)


@notrace
def nlk_table(sk: Sock) -> NetlinkTable:
    table = netlink_table(sk.sk_net, sk.sk_protocol)
    assert table is not None
    return table


# ---- who is who ------------------------------------------------------------------------------------
@notrace
def netlink_lookup(net: Net, protocol: int, portid: int) -> NetlinkSock | None:
    table = netlink_table(net, protocol)
    return None if table is None else __netlink_lookup(table, portid, net)


def __netlink_lookup(table: NetlinkTable, portid: int, net: Net) -> NetlinkSock | None:
    return table.hash.get((net.inum, portid))


@may_sleep
def netlink_insert(sk: NetlinkSock, portid: int) -> None:
    """Gives the socket its number. Raises EBUSY if it has another, EADDRINUSE."""
    lock_sock_nested(sk)
    try:
        if sk.bound:
            if sk.portid != portid:
                raise KernelError(EBUSY)
            return
        key = sk.sk_net.inum, portid
        hash = nlk_table(sk).hash
        if key in hash:
            raise KernelError(EADDRINUSE)
        hash[key] = sk
        sock_hold(sk)
        sk.portid = portid
        sk.bound = portid != 0
    finally:
        release_sock(sk)


def netlink_remove(sk: NetlinkSock) -> None:
    """The socket can no longer be found."""
    table = nlk_table(sk)
    key = sk.sk_net.inum, sk.portid
    if table.hash.get(key) is sk:
        del table.hash[key]
        sk.sk_refcnt -= 1
    if sk.subscriptions:
        sk.subscriptions = 0
        sk.groups = 0
        table.mc_list.remove(sk)


@notrace
def netlink_getsockbyportid(ssk: NetlinkSock, portid: int) -> NetlinkSock:
    """Whom a message goes to. Raises ECONNREFUSED: nobody, or one that is connected to somebody else."""
    sock = netlink_lookup(ssk.sk_net, ssk.sk_protocol, portid)
    if sock is None or (sock.nl_state == NETLINK_CONNECTED and sock.dst_portid != ssk.portid):
        raise KernelError(ECONNREFUSED)
    return sock


# ---- memory and congestion -------------------------------------------------------------------------
def netlink_skb_destructor(skb: SkBuff) -> None:
    sk = skb.sk
    if sk is not None:
        sk.sk_rmem_alloc -= skb.truesize


@notrace
def netlink_skb_set_owner_r(skb: SkBuff, sk: NetlinkSock) -> None:
    """The message counts for its receiver."""
    skb_orphan(skb)
    skb.sk = sk
    skb.destructor = netlink_skb_destructor
    sk.sk_rmem_alloc += skb.truesize


def netlink_overrun(sk: NetlinkSock) -> None:
    """A message is lost: the socket learns it from ENOBUFS, unless it asked not to."""
    if not sk.nl_flags & NETLINK_F_RECV_NO_ENOBUFS and not sk.state & NETLINK_S_CONGESTED:
        sk.state |= NETLINK_S_CONGESTED
        sk.sk_err = ENOBUFS
        sk.sk_error_report(sk)
    sk.sk_drops += 1


@notrace
def netlink_rcv_wake(sk: NetlinkSock) -> None:
    """The receiver has read everything: it is congested no more."""
    if not sk.sk_receive_queue.q:
        sk.state &= ~NETLINK_S_CONGESTED
    if not sk.state & NETLINK_S_CONGESTED:
        wake_up_interruptible(sk.wait)


@notrace
def _full(sk: NetlinkSock) -> bool:
    return sk.sk_rmem_alloc > sk.sk_rcvbuf or bool(sk.state & NETLINK_S_CONGESTED)


# ---- one receiver ----------------------------------------------------------------------------------
@may_sleep
def netlink_attachskb(sk: NetlinkSock, skb: SkBuff, timeo: int, ssk: NetlinkSock) -> int | None:
    """None: the message counts for sk. Else the jiffies that are left after waiting for room: look sk up again.

    Raises EAGAIN, or how a signal ends the wait; the message is gone then.
    """
    if not _full(sk):
        netlink_skb_set_owner_r(skb, sk)
        return None
    if not timeo:
        if ssk.nl_flags & NETLINK_F_KERNEL_SOCKET:
            netlink_overrun(sk)
        kfree_skb(skb)
        raise KernelError(EAGAIN)
    wait = WaitQueueEntry(default_wake_function)
    set_current_state(TASK_INTERRUPTIBLE)
    add_wait_queue(sk.wait, wait)
    if _full(sk) and not sk.sk_flags & SOCK_DEAD:
        timeo = schedule_timeout(timeo)
    set_current_state(TASK_RUNNING)
    remove_wait_queue(sk.wait, wait)
    if signal_pending(current()):
        kfree_skb(skb)
        raise sock_intr_errno(timeo)
    return timeo


@notrace
def __netlink_sendskb(sk: NetlinkSock, skb: SkBuff) -> int:
    length = skb.len
    skb_queue_tail(sk.sk_receive_queue, skb)
    sk.sk_data_ready(sk)
    return length


def netlink_sendskb(sk: NetlinkSock, skb: SkBuff) -> int:
    """Into the receiver's queue."""
    return __netlink_sendskb(sk, skb)


@notrace
@may_sleep
def netlink_unicast_kernel(sk: NetlinkSock, skb: SkBuff, ssk: NetlinkSock) -> int:
    """The kernel's side of the protocol gets the message. Raises ECONNREFUSED if it takes none."""
    if sk.netlink_rcv is None:
        kfree_skb(skb)
        raise KernelError(ECONNREFUSED)
    length = skb.len
    netlink_skb_set_owner_r(skb, sk)
    skb.cb.sk = ssk
    sk.netlink_rcv(skb)
    consume_skb(skb)
    return length


@may_sleep
def netlink_unicast(ssk: NetlinkSock, skb: SkBuff, portid: int, nonblock: int) -> int:
    """Sends a message to one socket; answers its length. The skb is gone afterwards.

    Raises ECONNREFUSED, EAGAIN, EPERM (the receiver's filter), EINTR.
    """
    timeo: int | None = sock_sndtimeo(ssk, nonblock)
    while timeo is not None:
        try:
            sk = netlink_getsockbyportid(ssk, portid)
        except KernelError:
            kfree_skb(skb)
            raise
        if sk.nl_flags & NETLINK_F_KERNEL_SOCKET:
            return netlink_unicast_kernel(sk, skb, ssk)
        if sk_filter(sk, skb):
            length = skb.len
            kfree_skb(skb)
            return length
        timeo = netlink_attachskb(sk, skb, timeo, ssk)
    return netlink_sendskb(sk, skb)


# ---- groups ----------------------------------------------------------------------------------------
def netlink_has_listeners(sk: NetlinkSock, group: int) -> bool:
    """Is anybody in a group of a kernel socket's protocol?"""
    bit = 1 << group - 1
    return any(member.groups & bit for member in nlk_table(sk).mc_list)


@notrace
def netlink_broadcast_deliver(sk: NetlinkSock, skb: SkBuff) -> bool:
    """False if the receiver has no room."""
    if _full(sk):
        return False
    netlink_skb_set_owner_r(skb, sk)
    __netlink_sendskb(sk, skb)
    return True


@notrace
def do_one_broadcast(sk: NetlinkSock, skb: SkBuff) -> bool:
    """A copy for one member; False if it could not have it."""
    copy = skb_clone(skb)
    if sk_filter(sk, copy):
        kfree_skb(copy)
        return True
    if netlink_broadcast_deliver(sk, copy):
        return True
    netlink_overrun(sk)
    kfree_skb(copy)
    return False


def netlink_broadcast(ssk: NetlinkSock, skb: SkBuff, portid: int, group: int) -> None:
    """netlink_broadcast_filtered() without a filter of the caller's."""
    netlink_broadcast_filtered(ssk, skb, portid, group)


def netlink_broadcast_filtered(ssk: NetlinkSock, skb: SkBuff, portid: int, group: int) -> None:
    """Sends to all members of a group but the sender and `portid`. The skb is gone afterwards.

    Raises ESRCH: nobody listens; ENOBUFS: a member that wants its failures known had no room. Context: any.
    """
    net = ssk.sk_net
    bit = 1 << group - 1
    delivered = failed = False
    skb_orphan(skb)
    for sk in list(nlk_table(ssk).mc_list):
        if sk is ssk or sk.portid == portid or not sk.groups & bit:
            continue
        if sk.sk_net is not net and not sk.nl_flags & NETLINK_F_LISTEN_ALL_NSID:
            continue
        if do_one_broadcast(sk, skb):
            delivered = True
        elif sk.nl_flags & NETLINK_F_BROADCAST_SEND_ERROR:
            failed = True
    consume_skb(skb)
    if failed:
        raise KernelError(ENOBUFS)
    if not delivered:
        raise KernelError(ESRCH)


def nlmsg_notify(sk: NetlinkSock, skb: SkBuff, portid: int, group: int, report: bool) -> None:
    """Tells a group, and the one that asked (report: it wants to see what it caused). Raises EAGAIN of the latter."""
    if group:
        if report:
            skb.users += 1
        try:
            netlink_broadcast(sk, skb, portid if report else 0, group)
        except KernelError as e:
            if e.errno != ESRCH and not report:
                raise
    if report:
        netlink_unicast(sk, skb, portid, 1)
    elif not group:
        consume_skb(skb)


@notrace
def netlink_cb(skb: SkBuff) -> NetlinkSkbParms:
    """NETLINK_CB()"""
    parms: NetlinkSkbParms = skb.cb
    return parms
