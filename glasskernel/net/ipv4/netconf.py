"""Settings of devices over netlink: ip netconf show.

Linux: the RTM_GETNETCONF part of net/ipv4/devinet.c (5.3). Gaps: notifications (RTNLGRP_IPV4_NETCONF).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.rtnetlink import (
    RTM_GETNETCONF,
    RTM_NEWNETCONF,
    rtnl_dump_all,
    rtnl_register,
    rtnl_unicast,
    sock_net,
)
from glasskernel.net.ipv4.in_device import in_dev_get, ipv4_of
from glasskernel.net.netlink.nlmsg import nlmsg_dump, nlmsg_end, nlmsg_new, nlmsg_parse_deprecated, nlmsg_put
from glasskernel.net.netlink.types import NLM_F_MULTI, NetlinkCallback, Nlmsghdr
from glasskernel.net.nlattr import NetlinkExtAck, nla_error, nla_get_u32, nla_put_u32
from glasskernel.net.types import AF_INET, AF_UNSPEC

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net

NETCONFA_IFINDEX, NETCONFA_MAX = 1, 8
NETCONFA_IFINDEX_ALL, NETCONFA_IFINDEX_DEFAULT = -1, -2
# NETCONFA_*: (number, name below conf/), in the order of messages
_SETTINGS = ((2, "forwarding"), (3, "rp_filter"), (4, "mc_forwarding"), (8, "bc_forwarding"), (5, "proxy_arp"),
             (6, "ignore_routes_with_linkdown"))


@notrace
def netconf_of(net: Net, ifindex: int) -> dict[str, int] | None:
    """The settings of a device, of all, or those that new devices get."""
    if ifindex == NETCONFA_IFINDEX_ALL:
        return ipv4_of(net).devconf_all
    if ifindex == NETCONFA_IFINDEX_DEFAULT:
        return ipv4_of(net).devconf_dflt
    dev = net.dev_by_index.get(ifindex)
    in_dev = None if dev is None else in_dev_get(dev)
    return None if in_dev is None else in_dev.cnf


def inet_netconf_fill_devconf(skb: SkBuff, ifindex: int, devconf: dict[str, int], portid: int, seq: int,
                              flags: int) -> None:
    """One message. Raises EMSGSIZE."""
    start = nlmsg_put(skb, portid, seq, RTM_NEWNETCONF, bytes((AF_INET,)), flags)
    nla_put_u32(skb, NETCONFA_IFINDEX, ifindex)
    for number, name in _SETTINGS:
        nla_put_u32(skb, number, devconf[name])
    nlmsg_end(skb, start)


@may_sleep
def inet_netconf_get_devconf(in_skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> None:
    """RTM_GETNETCONF of one. Raises EINVAL."""
    net = sock_net(in_skb)
    tb = nlmsg_parse_deprecated(nlh, 1, NETCONFA_MAX, None, extack)
    if NETCONFA_IFINDEX not in tb:
        raise KernelError(EINVAL)
    ifindex = nla_get_u32(tb[NETCONFA_IFINDEX])
    ifindex -= (ifindex & 0x80000000) << 1
    devconf = netconf_of(net, ifindex)
    if devconf is None:
        raise KernelError(EINVAL)
    skb = nlmsg_new(128)
    inet_netconf_fill_devconf(skb, ifindex, devconf, in_skb.cb.portid, nlh.nlmsg_seq, 0)
    rtnl_unicast(skb, net, in_skb.cb.portid)


def inet_netconf_dump_devconf(skb: SkBuff, cb: NetlinkCallback) -> int:
    """RTM_GETNETCONF: the devices, then all and default. Raises EINVAL."""
    net = sock_net(cb.skb)
    if cb.strict_check and len(cb.nlh.data) > 4:
        raise nla_error(EINVAL, cb.extack, b"ipv4: Invalid data after header in netconf dump request")

    def fill(ifindex: int) -> None:
        devconf = netconf_of(net, ifindex)
        if devconf is not None:
            inet_netconf_fill_devconf(skb, ifindex, devconf, cb.skb.cb.portid, cb.nlh.nlmsg_seq,
                                      NLM_F_MULTI | cb.answer_flags)

    return nlmsg_dump(skb, cb, (*sorted(net.dev_by_index), NETCONFA_IFINDEX_ALL, NETCONFA_IFINDEX_DEFAULT), fill)


def netconf_init(kernel: Kernel) -> None:
    rtnl_register(kernel, AF_INET, RTM_GETNETCONF, inet_netconf_get_devconf, inet_netconf_dump_devconf)
    rtnl_register(kernel, AF_UNSPEC, RTM_GETNETCONF, None, rtnl_dump_all)
