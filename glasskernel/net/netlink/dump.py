"""What the kernel's side of a netlink protocol does with messages: requests, acknowledgements, dumps in parts.

Linux: net/netlink/af_netlink.c (5.3). Same: each part of a dump is made when the reader has room for it; NLMSG_DONE and
    errors carry an extended acknowledgement for who asked (NETLINK_EXT_ACK).
Differs: a handler answers True where Linux returns -EINTR (no acknowledgement: a dump has begun), and raises its
    errors.
Owns: NetlinkSock.cb. Lock order: rtnl (dumps of NETLINK_ROUTE), or the socket's cb_mutex.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.kernel.locking.mutex import Mutex, mutex_lock, mutex_unlock
from glasskernel.lib.errno import EBUSY, ECONNREFUSED, EINVAL, ENOBUFS, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.filter import sk_filter
from glasskernel.net.netlink.delivery import (
    netlink_lookup,
    netlink_skb_set_owner_r,
    netlink_unicast,
    nlk_table,
)
from glasskernel.net.netlink.nlmsg import NLMSG_GOODSIZE, nlmsg_end, nlmsg_new, nlmsg_put, nlmsg_put_answer
from glasskernel.net.netlink.types import (
    NETLINK_F_CAP_ACK,
    NETLINK_F_EXT_ACK,
    NETLINK_F_STRICT_CHK,
    NLM_F_ACK,
    NLM_F_ACK_TLVS,
    NLM_F_CAPPED,
    NLM_F_MULTI,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_HDRLEN,
    NLMSG_MIN_TYPE,
    NLMSGERR_ATTR_MSG,
    NLMSGERR_ATTR_OFFS,
    NetlinkCallback,
    NetlinkSock,
    Nlmsghdr,
    nlmsghdr,
)
from glasskernel.net.nlattr import NetlinkExtAck, nla_put_string, nla_put_u32
from glasskernel.net.skbuff import alloc_skb, consume_skb, kfree_skb, skb_copy_bits, skb_get, skb_pull, skb_queue_tail

if TYPE_CHECKING:
    from glasskernel.net.skbuff import SkBuff

    Handler = Callable[[SkBuff, Nlmsghdr, NetlinkExtAck], bool]


# ---- requests --------------------------------------------------------------------------------------
@may_sleep
def netlink_rcv_skb(skb: SkBuff, cb: Handler) -> None:
    """Hands each message of an skb to cb(skb, nlh, extack), and acknowledges it. True: cb wants no acknowledgement."""
    while skb.len >= NLMSG_HDRLEN:
        size, type, flags, seq, pid = nlmsghdr.unpack(skb_copy_bits(skb, 0, NLMSG_HDRLEN))
        if size < NLMSG_HDRLEN or size > skb.len:
            return
        nlh = Nlmsghdr(size, type, flags, seq, pid, skb_copy_bits(skb, NLMSG_HDRLEN, size - NLMSG_HDRLEN))
        extack = NetlinkExtAck()
        errno = 0
        quiet = False
        if flags & NLM_F_REQUEST and type >= NLMSG_MIN_TYPE:
            try:
                quiet = cb(skb, nlh, extack)
            except KernelError as e:
                errno = e.errno
        if not quiet and (flags & NLM_F_ACK or errno):
            netlink_ack(skb, nlh, errno, extack)
        skb_pull(skb, min(size + 3 & ~3, skb.len))


@notrace
def _put_extack(skb: SkBuff, extack: NetlinkExtAck) -> None:
    if extack.msg:
        nla_put_string(skb, NLMSGERR_ATTR_MSG, extack.msg)
    if extack.bad_attr:
        nla_put_u32(skb, NLMSGERR_ATTR_OFFS, extack.bad_attr)


@may_sleep
def netlink_ack(in_skb: SkBuff, nlh: Nlmsghdr, err: int, extack: NetlinkExtAck) -> None:
    """Answers a request with its error, or 0: NLMSG_ERROR with its header, and with all of it after an error."""
    ssk: NetlinkSock = in_skb.cb.sk
    flags = 0
    body = b""
    if err and not ssk.nl_flags & NETLINK_F_CAP_ACK:
        body = nlh.data
    else:
        flags |= NLM_F_CAPPED
    with_tlvs = ssk.nl_flags & NETLINK_F_EXT_ACK and (extack.msg or extack.bad_attr)
    if with_tlvs and not err:
        with_tlvs = extack.msg
    if with_tlvs:
        flags |= NLM_F_ACK_TLVS
    payload = (-err).to_bytes(4, "little", signed=True) + nlmsghdr.pack(
        nlh.nlmsg_len, nlh.nlmsg_type, nlh.nlmsg_flags, nlh.nlmsg_seq, nlh.nlmsg_pid) + body
    skb = nlmsg_new(len(payload) + len(extack.msg) + 24)
    start = nlmsg_put(skb, in_skb.cb.portid, nlh.nlmsg_seq, NLMSG_ERROR, payload, flags)
    if with_tlvs:
        _put_extack(skb, extack if err else NetlinkExtAck(extack.msg))
    nlmsg_end(skb, start)
    kernel_sk = in_skb.sk
    assert isinstance(kernel_sk, NetlinkSock)
    try:
        netlink_unicast(kernel_sk, skb, in_skb.cb.portid, 1)
    except KernelError:
        return                           # the sender is gone, or does not read


# ---- dumps -----------------------------------------------------------------------------------------
@notrace
def cb_mutex_of(sk: NetlinkSock) -> Mutex:
    return nlk_table(sk).cb_mutex or sk.cb_mutex


@may_sleep
def __netlink_dump_start(ssk: NetlinkSock, skb: SkBuff, nlh: Nlmsghdr, control: NetlinkCallback) -> bool:
    """Begins a dump that answers a request, and makes its first part. True: no acknowledgement.

    Raises EBUSY while the socket's last dump is not over, ECONNREFUSED if the sender is gone.
    """
    kernel_sk = ssk
    sk = netlink_lookup(kernel_sk.sk_net, kernel_sk.sk_protocol, skb.cb.portid)
    if sk is None:
        raise KernelError(ECONNREFUSED)
    mutex = cb_mutex_of(sk)
    mutex_lock(mutex)
    try:
        if sk.cb_running:
            raise KernelError(EBUSY)
        control.strict_check = bool(sk.nl_flags & NETLINK_F_STRICT_CHK)
        skb_get(skb)
        sk.cb = control
        sk.cb_running = True
        sk.dump_done_errno = 2147483647
    finally:
        mutex_unlock(mutex)
    try:
        netlink_dump(sk)
    except KernelError:
        return True                      # the reader's next recvmsg() tries again
    return True


@may_sleep
def netlink_dump(sk: NetlinkSock) -> None:
    """Makes the next part of a dump, and the end of it when there is no more. Raises EINVAL, ENOBUFS."""
    mutex = cb_mutex_of(sk)
    mutex_lock(mutex)
    locked = True
    try:
        cb = sk.cb
        if not sk.cb_running or cb is None:
            raise KernelError(EINVAL)
        if sk.sk_rmem_alloc >= sk.sk_rcvbuf:
            raise KernelError(ENOBUFS)
        size = max(cb.min_dump_alloc, NLMSG_GOODSIZE, sk.max_recvmsg_len)
        skb = alloc_skb(size)
        skb.cb = cb.skb.cb.__class__()
        netlink_skb_set_owner_r(skb, sk)
        extack = cb.extack = NetlinkExtAck()
        if sk.dump_done_errno > 0:
            try:
                sk.dump_done_errno = cb.dump(skb, cb)
            except KernelError as e:
                sk.dump_done_errno = -e.errno
        if sk.dump_done_errno > 0 or size - skb.len < NLMSG_HDRLEN + 4:
            mutex_unlock(mutex)
            locked = False
            _deliver(sk, skb)
            return
        flags = NLM_F_MULTI | cb.answer_flags
        room = size - skb.len - NLMSG_HDRLEN - 24
        with_tlvs = sk.nl_flags & NETLINK_F_EXT_ACK and extack.msg and room >= len(extack.msg)
        start = nlmsg_put_answer(skb, cb, NLMSG_DONE, sk.dump_done_errno.to_bytes(4, "little", signed=True),
                                 flags | (NLM_F_ACK_TLVS if with_tlvs else 0))
        if with_tlvs:
            _put_extack(skb, extack)
        nlmsg_end(skb, start)
        _deliver(sk, skb)
        sk.cb_running = False
        sk.cb = None
    finally:
        if locked:
            mutex_unlock(mutex)
    consume_skb(cb.skb)


@notrace
def _deliver(sk: NetlinkSock, skb: SkBuff) -> None:
    if sk_filter(sk, skb):
        kfree_skb(skb)
        return
    skb_queue_tail(sk.sk_receive_queue, skb)
    sk.sk_data_ready(sk)
