"""Netlink messages: put into an skb, taken apart.

Linux: include/net/netlink.h, __nlmsg_put() and netlink_rcv_skb()'s neighbours (5.3). Same: names; what does not fit
    raises EMSGSIZE and leaves the skb as it was, so that a dump goes on in the next one.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from glasskernel.lib.errno import EINVAL, EMSGSIZE, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.netlink.types import (
    NLM_F_DUMP_INTR,
    NLMSG_HDRLEN,
    NetlinkCallback,
    NetlinkSkbParms,
    Nlmsghdr,
    nlmsghdr,
)
from glasskernel.net.nlattr import (
    NL_VALIDATE_DEPRECATED_STRICT,
    NL_VALIDATE_LIBERAL,
    __nla_parse,
    nla_error,
)
from glasskernel.net.skbuff import alloc_skb, skb_put

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from glasskernel.net.nlattr import Attributes, NetlinkExtAck, Policy
    from glasskernel.net.skbuff import SkBuff

T = TypeVar("T")
NLMSG_GOODSIZE = 4096 - 320              # SKB_WITH_OVERHEAD(PAGE_SIZE)


@notrace
def nlmsg_new(payload: int) -> SkBuff:
    """An skb for one message of `payload` bytes."""
    skb = alloc_skb(NLMSG_HDRLEN + (payload + 3 & ~3))
    skb.cb = NetlinkSkbParms()
    return skb


def __nlmsg_put(skb: SkBuff, portid: int, seq: int, type: int, payload: bytes, flags: int) -> int:
    size = NLMSG_HDRLEN + len(payload)
    start = skb_put(skb, size + 3 & ~3)
    head = skb.head
    nlmsghdr.pack_into(head, start, size, type, flags, seq, portid)
    head[start + NLMSG_HDRLEN : skb.tail] = payload + bytes(skb.tail - start - size)
    return start


@notrace
def nlmsg_put(skb: SkBuff, portid: int, seq: int, type: int, payload: bytes, flags: int) -> int:
    """Begins a message with its fixed part; answers what nlmsg_end() wants. Raises EMSGSIZE."""
    if len(skb.head) - skb.tail < NLMSG_HDRLEN + (len(payload) + 3 & ~3):
        raise KernelError(EMSGSIZE)
    return __nlmsg_put(skb, portid, seq, type, payload, flags)


@notrace
def nlmsg_put_answer(skb: SkBuff, cb: NetlinkCallback, type: int, payload: bytes, flags: int) -> int:
    """nlmsg_put() of a message that answers a dump's request. Raises EMSGSIZE."""
    parms: NetlinkSkbParms = cb.skb.cb
    return nlmsg_put(skb, parms.portid, cb.nlh.nlmsg_seq, type, payload, flags)


@notrace
def nlmsg_end(skb: SkBuff, start: int) -> None:
    """The message is complete: its length goes into its header."""
    skb.head[start : start + 4] = (skb.tail - start).to_bytes(4, "little")


@notrace
def nlmsg_cancel(skb: SkBuff, start: int) -> None:
    """Takes a message that did not fit back."""
    skb.len -= skb.tail - start
    skb.tail = start


# ---- reading ---------------------------------------------------------------------------------------
@notrace
def nlmsg_parse_deprecated(nlh: Nlmsghdr, hdrlen: int, maxtype: int, policy: Policy | None,
                           extack: NetlinkExtAck | None) -> Attributes:
    """The attributes behind a fixed part of hdrlen bytes. Raises EINVAL, ERANGE."""
    return _parse(nlh, hdrlen, maxtype, policy, NL_VALIDATE_LIBERAL, extack)


@notrace
def nlmsg_parse_deprecated_strict(nlh: Nlmsghdr, hdrlen: int, maxtype: int, policy: Policy | None,
                                  extack: NetlinkExtAck | None) -> Attributes:
    """The same for those who asked for strict checking."""
    return _parse(nlh, hdrlen, maxtype, policy, NL_VALIDATE_DEPRECATED_STRICT, extack)


@notrace
def _parse(nlh: Nlmsghdr, hdrlen: int, maxtype: int, policy: Policy | None, validate: int,
           extack: NetlinkExtAck | None) -> Attributes:
    data = nlh.data
    if len(data) < hdrlen:
        raise nla_error(EINVAL, extack, b"Invalid header length")
    if len(data) == hdrlen:
        return {}
    return __nla_parse(data, hdrlen + 3 & ~3, maxtype, policy, validate, extack, NLMSG_HDRLEN)


# ---- dumps -----------------------------------------------------------------------------------------
@notrace
def nlmsg_dump(skb: SkBuff, cb: NetlinkCallback, items: Iterable[T], fill: Callable[[T], None]) -> int:
    """The loop of most dumps: fill(item) adds a message, unless the item is not wanted. args[0]: how many are done.

    Answers skb.len if the skb is full, 0 at the end. Raises EMSGSIZE for a message that no skb has room for.
    """
    for at, item in enumerate(items):
        if at < cb.args[0]:
            continue
        start = skb.tail
        try:
            fill(item)
        except KernelError:
            nlmsg_cancel(skb, start)
            if not skb.len:
                raise
            cb.args[0] = at
            return skb.len
    return 0


@notrace
def nl_dump_check_consistent(cb: NetlinkCallback, skb: SkBuff, start: int) -> None:
    """Marks the message if what is dumped changed since the last part."""
    if cb.prev_seq and cb.seq != cb.prev_seq:
        flags = int.from_bytes(skb.head[start + 6 : start + 8], "little") | NLM_F_DUMP_INTR
        skb.head[start + 6 : start + 8] = flags.to_bytes(2, "little")
    cb.prev_seq = cb.seq
