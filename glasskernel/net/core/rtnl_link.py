"""Links over netlink: showing them, and telling who listens.

Linux: net/core/rtnetlink.c (5.3). Same: filters of dumps; which events of the device chain are told of.
Gaps: IFLA_TARGET_NETNSID.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import EINVAL, EMSGSIZE, ENODEV, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.core.dev_chain import __dev_get_by_index, __dev_get_by_name
from glasskernel.net.core.rtnetlink import (
    RTM_DELLINK,
    RTM_NEWLINK,
    RTNLGRP_LINK,
    rtnl_notify,
    rtnl_unicast,
    sock_net,
)
from glasskernel.net.core.rtnl_ifinfo import (
    IFLA_EXT_MASK,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MAX,
    IFLA_MTU,
    IFLA_TXQLEN,
    if_nlmsg_size,
    ifinfomsg,
    rtnl_fill_ifinfo,
)
from glasskernel.net.netdevice import (
    IFNAMSIZ,
    NETDEV_CHANGEADDR,
    NETDEV_CHANGEMTU,
    NETDEV_CHANGENAME,
    NETDEV_FEAT_CHANGE,
    NETDEV_NOTIFY_PEERS,
    NETDEV_REBOOT,
    NETREG_REGISTERED,
    NetDevice,
)
from glasskernel.net.netlink.nlmsg import (
    nl_dump_check_consistent,
    nlmsg_cancel,
    nlmsg_new,
    nlmsg_parse_deprecated,
    nlmsg_parse_deprecated_strict,
)
from glasskernel.net.netlink.types import NETLINK_F_STRICT_CHK as STRICT
from glasskernel.net.netlink.types import NLM_F_DUMP_FILTERED, NLM_F_MULTI, NetlinkCallback, NetlinkSock, Nlmsghdr
from glasskernel.net.nlattr import (
    NLA_NESTED,
    NLA_STRING,
    NLA_U32,
    Attributes,
    NetlinkExtAck,
    Policy,
    nla_error,
    nla_get_u32,
    nla_parse_nested_deprecated,
    nla_str,
)

if TYPE_CHECKING:
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net

IFNAME = (NLA_STRING, IFNAMSIZ - 1)
ifla_policy: Policy = {
    IFLA_IFNAME: IFNAME, IFLA_MTU: (NLA_U32, 0), IFLA_MASTER: (NLA_U32, 0), IFLA_TXQLEN: (NLA_U32, 0),
    IFLA_LINKINFO: (NLA_NESTED, 0), IFLA_EXT_MASK: (NLA_U32, 0), IFLA_IFALIAS: (NLA_STRING, 255),
}
# told of as IFLA_EVENT-less RTM_NEWLINK
_EVENTS = (NETDEV_REBOOT, NETDEV_CHANGEMTU, NETDEV_CHANGEADDR, NETDEV_CHANGENAME, NETDEV_FEAT_CHANGE,
           NETDEV_NOTIFY_PEERS)


@notrace
def is_strict(skb: SkBuff) -> bool:
    """netlink_strict_get_check(): the sender wants its request checked to the last bit."""
    sk = skb.cb.sk
    return isinstance(sk, NetlinkSock) and bool(sk.nl_flags & STRICT)


# ---- showing ---------------------------------------------------------------------------------------
def rtnl_valid_dump_ifinfo_req(nlh: Nlmsghdr, strict_check: bool, extack: NetlinkExtAck | None) -> Attributes:
    """The attributes of a dump request. Raises EINVAL."""
    if not strict_check:
        hdrlen = 1 if nlh.nlmsg_len < 16 + ifinfomsg.size else ifinfomsg.size
        return nlmsg_parse_deprecated(nlh, hdrlen, IFLA_MAX, ifla_policy, extack) if hdrlen > 1 else {}
    if len(nlh.data) < ifinfomsg.size:
        raise nla_error(EINVAL, extack, b"Invalid header for link dump")
    _family, kind, index, flags, change = ifinfomsg.unpack_from(nlh.data)
    if nlh.data[1] or kind or flags or change:
        raise nla_error(EINVAL, extack, b"Invalid values in header for link dump request")
    if index:
        raise nla_error(EINVAL, extack, b"Filter by device index not supported for link dumps")
    return nlmsg_parse_deprecated_strict(nlh, ifinfomsg.size, IFLA_MAX, ifla_policy, extack)


@notrace
def linkinfo_to_kind(tb: Attributes) -> bytes | None:
    """The kind of device that a dump is limited to."""
    linkinfo = tb.get(IFLA_LINKINFO)
    if linkinfo is None:
        return None
    kind = nla_parse_nested_deprecated(linkinfo, IFLA_INFO_KIND).get(IFLA_INFO_KIND)
    return None if kind is None else nla_str(kind)


def link_dump_filtered(dev: NetDevice, master: int, kind: bytes | None) -> bool:
    """Is the device not wanted?"""
    if master:                           # no device has one
        return True
    return kind is not None and (dev.rtnl_link_ops is None or dev.rtnl_link_ops.kind != kind)


def rtnl_dump_ifinfo(skb: SkBuff, cb: NetlinkCallback) -> int:
    """RTM_GETLINK: all devices. args[0]: the first number that was not shown yet."""
    net = sock_net(cb.skb)
    nlh = cb.nlh
    tb = rtnl_valid_dump_ifinfo_req(nlh, cb.strict_check, cb.extack)
    mask = nla_get_u32(tb[IFLA_EXT_MASK]) if IFLA_EXT_MASK in tb else 0
    master = nla_get_u32(tb[IFLA_MASTER]) if IFLA_MASTER in tb else 0
    kind = linkinfo_to_kind(tb)
    if master or kind is not None:
        cb.answer_flags |= NLM_F_DUMP_FILTERED
    flags = NLM_F_MULTI | cb.answer_flags
    cb.seq = net.dev_base_seq
    for index in sorted(net.dev_by_index):
        if index < cb.args[0]:
            continue
        dev = net.dev_by_index[index]
        if link_dump_filtered(dev, master, kind):
            continue
        start = skb.tail
        try:
            rtnl_fill_ifinfo(skb, dev, RTM_NEWLINK, cb.skb.cb.portid, nlh.nlmsg_seq, 0, flags, mask)
        except KernelError:
            nlmsg_cancel(skb, start)
            if not skb.len:
                raise
            cb.args[0] = index
            return skb.len
        nl_dump_check_consistent(cb, skb, start)
    return 0


@notrace
def rtnl_get_dev(net: Net, index: int, tb: Attributes) -> NetDevice | None:
    """The device that a request means, by number or name. Raises EINVAL if it says neither."""
    if index > 0:
        return __dev_get_by_index(net, index)
    if IFLA_IFNAME in tb:
        return __dev_get_by_name(net, nla_str(tb[IFLA_IFNAME]))
    raise KernelError(EINVAL)


def rtnl_valid_getlink_req(skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> Attributes:
    """Raises EINVAL."""
    if len(nlh.data) < ifinfomsg.size:
        raise nla_error(EINVAL, extack, b"Invalid header for get link")
    if not is_strict(skb):
        return nlmsg_parse_deprecated(nlh, ifinfomsg.size, IFLA_MAX, ifla_policy, extack)
    _family, kind, _index, flags, change = ifinfomsg.unpack_from(nlh.data)
    if nlh.data[1] or kind or flags or change:
        raise nla_error(EINVAL, extack, b"Invalid values in header for get link request")
    return nlmsg_parse_deprecated_strict(nlh, ifinfomsg.size, IFLA_MAX, ifla_policy, extack)


def rtnl_getlink(skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> None:
    """RTM_GETLINK: one device. Raises ENODEV, EINVAL."""
    net = sock_net(skb)
    tb = rtnl_valid_getlink_req(skb, nlh, extack)
    dev = rtnl_get_dev(net, ifinfomsg.unpack_from(nlh.data)[2], tb)
    if dev is None:
        raise KernelError(ENODEV)
    mask = nla_get_u32(tb[IFLA_EXT_MASK]) if IFLA_EXT_MASK in tb else 0
    nskb = nlmsg_new(if_nlmsg_size(dev))
    try:
        rtnl_fill_ifinfo(nskb, dev, RTM_NEWLINK, skb.cb.portid, nlh.nlmsg_seq, 0, 0, mask)
    except KernelError as e:
        assert e.errno != EMSGSIZE, "if_nlmsg_size() is too small"
        raise
    rtnl_unicast(nskb, net, skb.cb.portid)


# ---- telling ---------------------------------------------------------------------------------------
def rtmsg_ifinfo_build_skb(type: int, dev: NetDevice, change: int) -> SkBuff:
    skb = nlmsg_new(if_nlmsg_size(dev))
    rtnl_fill_ifinfo(skb, dev, type, 0, 0, change, 0, 0)
    return skb


def rtmsg_ifinfo(dev: NetDevice, change: int, gone: bool) -> None:
    """Tells RTNLGRP_LINK of a device. change: the flags that are others now. Locks: rtnl."""
    if dev.reg_state != NETREG_REGISTERED and not gone:
        return
    skb = rtmsg_ifinfo_build_skb(RTM_DELLINK if gone else RTM_NEWLINK, dev, change)
    rtnl_notify(skb, dev.net, 0, RTNLGRP_LINK, None)


def rtnetlink_event(event: int, dev: NetDevice) -> None:
    """Of the device chain."""
    if event in _EVENTS:
        rtmsg_ifinfo(dev, 0, False)
