"""IPv4 addresses over netlink: ip addr show, add, del.

Linux: the rtnetlink half of net/ipv4/devinet.c (5.3). Same: attributes, lifetimes, filters, texts of errors.
Gaps: IFA_TARGET_NETNSID, IFA_F_MCAUTOJOIN.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.errno import EADDRNOTAVAIL, EEXIST, EINVAL, ENOBUFS, ENODEV, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.rtnetlink import (
    RTM_DELADDR,
    RTM_GETADDR,
    RTM_NEWADDR,
    RTNLGRP_IPV4_IFADDR,
    rtnl_dump_all,
    rtnl_notify,
    rtnl_register,
    sock_net,
)
from glasskernel.net.ipv4.devinet import inet_del_ifa, inet_insert_ifa
from glasskernel.net.ipv4.in_device import IFA_F_PERMANENT, in_dev_get, inet_ifa_match, inet_make_mask
from glasskernel.net.ipv4.types import InIfaddr
from glasskernel.net.netlink.nlmsg import (
    nl_dump_check_consistent,
    nlmsg_cancel,
    nlmsg_end,
    nlmsg_new,
    nlmsg_parse_deprecated,
    nlmsg_parse_deprecated_strict,
    nlmsg_put,
)
from glasskernel.net.netlink.types import (
    NLM_F_DUMP_FILTERED,
    NLM_F_EXCL,
    NLM_F_MULTI,
    NLM_F_REPLACE,
    NetlinkCallback,
    Nlmsghdr,
)
from glasskernel.net.nlattr import (
    NLA_STRING,
    NLA_U32,
    Attributes,
    NetlinkExtAck,
    Policy,
    nla_error,
    nla_get_in_addr,
    nla_get_u32,
    nla_put,
    nla_put_in_addr,
    nla_put_string,
    nla_put_u32,
    nla_str,
)
from glasskernel.net.types import AF_INET, AF_UNSPEC

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net

IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_BROADCAST, IFA_CACHEINFO, IFA_FLAGS, IFA_RT_PRIORITY = 1, 2, 3, 4, 6, 8, 9
IFA_MAX = 10
IFA_F_DEPRECATED = 0x20
INFINITY_LIFE_TIME = 0xFFFFFFFF
ifaddrmsg = struct.Struct("<BBBBI")      # family, prefixlen, flags, scope, index
ifa_cacheinfo = struct.Struct("<4I")     # preferred, valid, cstamp, tstamp
ifa_ipv4_policy: Policy = {
    IFA_LOCAL: (NLA_U32, 0), IFA_ADDRESS: (NLA_U32, 0), IFA_BROADCAST: (NLA_U32, 0), IFA_LABEL: (NLA_STRING, 15),
    IFA_CACHEINFO: (0, ifa_cacheinfo.size), IFA_FLAGS: (NLA_U32, 0), IFA_RT_PRIORITY: (NLA_U32, 0),
}


# ---- showing ---------------------------------------------------------------------------------------
@notrace
def _lifetimes(ifa: InIfaddr) -> tuple[int, int]:
    """(preferred, valid) in seconds from now."""
    if ifa.ifa_flags & IFA_F_PERMANENT:
        return INFINITY_LIFE_TIME, INFINITY_LIFE_TIME
    preferred, valid = ifa.ifa_preferred_lft, ifa.ifa_valid_lft
    if preferred != INFINITY_LIFE_TIME:
        age = (current().kernel.time.jiffies - ifa.ifa_tstamp) // HZ
        preferred = max(preferred - age, 0)
        if valid != INFINITY_LIFE_TIME:
            valid = max(valid - age, 0)
    return preferred, valid


def inet_fill_ifaddr(skb: SkBuff, ifa: InIfaddr, portid: int, seq: int, event: int, flags: int) -> None:
    """One message about one address. Raises EMSGSIZE."""
    start = nlmsg_put(skb, portid, seq, event, ifaddrmsg.pack(
        AF_INET, ifa.ifa_prefixlen, ifa.ifa_flags & 0xFF, ifa.ifa_scope, ifa.ifa_dev.dev.ifindex), flags)
    if ifa.ifa_address:
        nla_put_in_addr(skb, IFA_ADDRESS, ifa.ifa_address)
    if ifa.ifa_local:
        nla_put_in_addr(skb, IFA_LOCAL, ifa.ifa_local)
    if ifa.ifa_broadcast:
        nla_put_in_addr(skb, IFA_BROADCAST, ifa.ifa_broadcast)
    if ifa.ifa_label:
        nla_put_string(skb, IFA_LABEL, ifa.ifa_label)
    nla_put_u32(skb, IFA_FLAGS, ifa.ifa_flags)
    nla_put(skb, IFA_CACHEINFO, ifa_cacheinfo.pack(
        *_lifetimes(ifa), ifa.ifa_cstamp * 100 // HZ & 0xFFFFFFFF, ifa.ifa_tstamp * 100 // HZ & 0xFFFFFFFF))
    nlmsg_end(skb, start)


def inet_valid_dump_ifaddr_req(nlh: Nlmsghdr, cb: NetlinkCallback) -> int:
    """The device that a strictly checked dump is limited to, or 0. Raises EINVAL."""
    extack = cb.extack
    if len(nlh.data) < ifaddrmsg.size:
        raise nla_error(EINVAL, extack, b"ipv4: Invalid header for address dump request")
    _family, prefixlen, flags, scope, index = ifaddrmsg.unpack_from(nlh.data)
    if prefixlen or flags or scope:
        raise nla_error(EINVAL, extack, b"ipv4: Invalid values in header for address dump request")
    if index:
        cb.answer_flags |= NLM_F_DUMP_FILTERED
    if nlmsg_parse_deprecated_strict(nlh, ifaddrmsg.size, IFA_MAX, ifa_ipv4_policy, extack):
        raise nla_error(EINVAL, extack, b"ipv4: Unsupported attribute in dump request")
    return int(index)


def inet_dump_ifaddr(skb: SkBuff, cb: NetlinkCallback) -> int:
    """RTM_GETADDR. args: the device that is under way, and how many of its addresses were shown."""
    net = sock_net(cb.skb)
    wanted = inet_valid_dump_ifaddr_req(cb.nlh, cb) if cb.strict_check else 0
    if wanted and wanted not in net.dev_by_index:
        raise KernelError(ENODEV)
    cb.seq = net.ipv4.dev_addr_genid ^ net.dev_base_seq
    for index in sorted(net.dev_by_index):
        if index < cb.args[0] or (wanted and index != wanted):
            continue
        in_dev = in_dev_get(net.dev_by_index[index])
        if in_dev is None:
            continue
        if index > cb.args[0]:
            cb.args[0], cb.args[1] = index, 0
        for at, ifa in enumerate(in_dev.ifa_list):
            if at < cb.args[1]:
                continue
            start = skb.tail
            try:
                inet_fill_ifaddr(skb, ifa, cb.skb.cb.portid, cb.nlh.nlmsg_seq, RTM_NEWADDR,
                                 NLM_F_MULTI | cb.answer_flags)
                nl_dump_check_consistent(cb, skb, start)
            except KernelError:
                nlmsg_cancel(skb, start)
                if not skb.len:
                    raise
                cb.args[1] = at
                return skb.len
    return 0


# ---- changing --------------------------------------------------------------------------------------
@notrace
def set_ifa_lifetime(ifa: InIfaddr, valid: int, preferred: int) -> None:
    """How long the address is valid, and how long new connections may use it, in seconds."""
    ifa.ifa_flags &= ~(IFA_F_PERMANENT | IFA_F_DEPRECATED)
    ifa.ifa_valid_lft, ifa.ifa_preferred_lft = valid, preferred
    if valid == INFINITY_LIFE_TIME:
        ifa.ifa_flags |= IFA_F_PERMANENT
    if not preferred:
        ifa.ifa_flags |= IFA_F_DEPRECATED
    ifa.ifa_tstamp = current().kernel.time.jiffies
    ifa.ifa_cstamp = ifa.ifa_cstamp or ifa.ifa_tstamp


def rtm_to_ifaddr(net: Net, nlh: Nlmsghdr, extack: NetlinkExtAck) -> tuple[InIfaddr, int, int]:
    """The address that a request describes, and its lifetimes. Raises EINVAL, ENODEV, ENOBUFS."""
    tb = nlmsg_parse_deprecated(nlh, ifaddrmsg.size, IFA_MAX, ifa_ipv4_policy, extack)
    _family, prefixlen, flags, scope, index = ifaddrmsg.unpack_from(nlh.data)
    if prefixlen > 32 or IFA_LOCAL not in tb:
        raise KernelError(EINVAL)
    dev = net.dev_by_index.get(index)
    if dev is None:
        raise KernelError(ENODEV)
    in_dev = in_dev_get(dev)
    if in_dev is None:
        raise KernelError(ENOBUFS)
    local = nla_get_in_addr(tb[IFA_LOCAL])
    ifa = InIfaddr(
        local, nla_get_in_addr(tb[IFA_ADDRESS]) if IFA_ADDRESS in tb else local, inet_make_mask(prefixlen), prefixlen,
        ifa_broadcast=nla_get_in_addr(tb[IFA_BROADCAST]) if IFA_BROADCAST in tb else 0, ifa_scope=scope,
        ifa_flags=nla_get_u32(tb[IFA_FLAGS]) if IFA_FLAGS in tb else flags,
        ifa_label=nla_str(tb[IFA_LABEL]) if IFA_LABEL in tb else dev.name, ifa_dev=in_dev)
    valid = preferred = INFINITY_LIFE_TIME
    if IFA_CACHEINFO in tb:
        preferred, valid = ifa_cacheinfo.unpack_from(tb[IFA_CACHEINFO])[:2]
        if not valid or preferred > valid:
            raise KernelError(EINVAL)
    return ifa, valid, preferred


def find_matching_ifa(ifa: InIfaddr) -> InIfaddr | None:
    """The same address in the same subnet, if the device has it."""
    return next((old for old in ifa.ifa_dev.ifa_list if old.ifa_mask == ifa.ifa_mask
                 and inet_ifa_match(old.ifa_address, ifa) and old.ifa_local == ifa.ifa_local), None)


@may_sleep
def inet_rtm_newaddr(skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> None:
    """RTM_NEWADDR. Raises EEXIST, EINVAL, ENODEV, ENOBUFS."""
    ifa, valid, preferred = rtm_to_ifaddr(sock_net(skb), nlh, extack)
    old = find_matching_ifa(ifa)
    if old is None:
        set_ifa_lifetime(ifa, valid, preferred)
        inet_insert_ifa(ifa)
        return
    if nlh.nlmsg_flags & NLM_F_EXCL or not nlh.nlmsg_flags & NLM_F_REPLACE:
        raise KernelError(EEXIST)
    set_ifa_lifetime(old, valid, preferred)
    rtmsg_ifa(RTM_NEWADDR, old)


@notrace
def _is_meant(ifa: InIfaddr, tb: Attributes, prefixlen: int) -> bool:
    if IFA_LOCAL in tb and ifa.ifa_local != nla_get_in_addr(tb[IFA_LOCAL]):
        return False
    if IFA_LABEL in tb and nla_str(tb[IFA_LABEL]) != ifa.ifa_label:
        return False
    return IFA_ADDRESS not in tb or (
        prefixlen == ifa.ifa_prefixlen and inet_ifa_match(nla_get_in_addr(tb[IFA_ADDRESS]), ifa))


@may_sleep
def inet_rtm_deladdr(skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> None:
    """RTM_DELADDR. Raises EADDRNOTAVAIL, ENODEV, EINVAL."""
    net = sock_net(skb)
    tb = nlmsg_parse_deprecated(nlh, ifaddrmsg.size, IFA_MAX, ifa_ipv4_policy, extack)
    _family, prefixlen, _flags, _scope, index = ifaddrmsg.unpack_from(nlh.data)
    dev = net.dev_by_index.get(index)
    in_dev = None if dev is None else in_dev_get(dev)
    if in_dev is None:
        raise KernelError(ENODEV)
    for ifa in in_dev.ifa_list:
        if _is_meant(ifa, tb, prefixlen):
            inet_del_ifa(in_dev, ifa)
            return
    raise KernelError(EADDRNOTAVAIL)


# ---- telling ---------------------------------------------------------------------------------------
def rtmsg_ifa(event: int, ifa: InIfaddr) -> None:
    """An address came or went. Locks: rtnl."""
    net = ifa.ifa_dev.dev.net
    skb = nlmsg_new(160)
    inet_fill_ifaddr(skb, ifa, 0, 0, event, 0)
    rtnl_notify(skb, net, 0, RTNLGRP_IPV4_IFADDR, None)


def devinet_netlink_init(kernel: Kernel) -> None:
    """The handlers, and notifications."""
    inet = kernel.inet
    assert inet is not None
    inet.rtmsg_ifa = rtmsg_ifa
    rtnl_register(kernel, AF_INET, RTM_NEWADDR, inet_rtm_newaddr, None)
    rtnl_register(kernel, AF_INET, RTM_DELADDR, inet_rtm_deladdr, None)
    rtnl_register(kernel, AF_INET, RTM_GETADDR, None, inet_dump_ifaddr)
    rtnl_register(kernel, AF_UNSPEC, RTM_GETADDR, None, rtnl_dump_all)
