"""NETLINK_ROUTE: configuration and state of the network as messages.

Linux: net/core/rtnetlink.c (5.3). Same: handlers by family and message type, with those of PF_UNSPEC for families that
    have none; changes need CAP_NET_ADMIN and run under rtnl; dumps go in parts. Links are in rtnl_link.py.
Owns: NetState.rtnl_msg_handlers, Net.rtnl.
Gaps: RTM_GETSTATS, namespace ids, bridges, SR-IOV, XDP.
"""
from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.kernel.capability import CAP_NET_ADMIN
from glasskernel.lib.errno import EOPNOTSUPP, EPERM, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dev_chain import net_of
from glasskernel.net.core.net_namespace import register_pernet_subsys
from glasskernel.net.core.rtnl import rtnl_lock, rtnl_mutex, rtnl_unlock
from glasskernel.net.netlink.af_netlink import __netlink_kernel_create, netlink_kernel_release
from glasskernel.net.netlink.delivery import netlink_unicast, nlmsg_notify
from glasskernel.net.netlink.dump import __netlink_dump_start, netlink_rcv_skb
from glasskernel.net.netlink.nlmsg import NLMSG_GOODSIZE
from glasskernel.net.netlink.sockopt import netlink_net_capable
from glasskernel.net.netlink.types import (
    NETLINK_ROUTE,
    NL_CFG_F_NONROOT_RECV,
    NLM_F_DUMP,
    NLM_F_ECHO,
    NetlinkCallback,
    NetlinkKernelCfg,
    Nlmsghdr,
)
from glasskernel.net.types import AF_UNSPEC, PernetOperations

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.nlattr import NetlinkExtAck
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net

    DoIt = Callable[[SkBuff, Nlmsghdr, NetlinkExtAck], None]
    DumpIt = Callable[[SkBuff, NetlinkCallback], int]

(RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK, RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR) = range(16, 23)
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE, RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 24, 25, 26, 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE, RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 32, 33, 34, 36, 37, 38
RTM_NEWNEIGHTBL, RTM_GETNEIGHTBL, RTM_NEWNETCONF, RTM_GETNETCONF = 64, 66, 80, 82
RTM_MAX = 107
RTNLGRP_LINK, RTNLGRP_NEIGH, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE = 1, 3, 5, 7
RTNLGRP_MAX = 32
RTNL_FLAG_DOIT_UNLOCKED = 1
_GET = 2                                 # of a message type's two low bits

rta_cacheinfo = struct.Struct("<IIiIIIII")


@slotted(frozen=True)
class RtnlLink:
    """struct rtnl_link: who handles a message type of a family. doit raises its errors."""

    doit: DoIt | None
    dumpit: DumpIt | None
    flags: int = 0


def rtnl_register(kernel: Kernel, protocol: int, msgtype: int, doit: DoIt | None, dumpit: DumpIt | None,
                  flags: int = 0) -> None:
    """Messages of a type, addressed to a family, are handled from now on."""
    net_of(kernel).rtnl_msg_handlers[protocol, msgtype] = RtnlLink(doit, dumpit, flags)


@notrace
def rtnl_get_link(kernel: Kernel, protocol: int, msgtype: int) -> RtnlLink | None:
    link: RtnlLink | None = net_of(kernel).rtnl_msg_handlers.get((protocol, msgtype))
    return link


@notrace
def sock_net(skb: SkBuff) -> Net:
    """The namespace of a request: that of the kernel's socket it came to."""
    assert skb.sk is not None
    return skb.sk.sk_net


# ---- requests --------------------------------------------------------------------------------------
@may_sleep
def rtnetlink_rcv_msg(skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> bool:
    """One request; True: a dump has begun. Raises EOPNOTSUPP, EPERM, and the handler's errors."""
    type = nlh.nlmsg_type
    if type > RTM_MAX:
        raise KernelError(EOPNOTSUPP)
    if not nlh.data:
        return False
    family = nlh.data[0]
    get = type & 3 == _GET
    if not get and not netlink_net_capable(skb, CAP_NET_ADMIN):
        raise KernelError(EPERM)
    net = sock_net(skb)
    kernel = net.kernel
    link = rtnl_get_link(kernel, family, type)
    if get and nlh.nlmsg_flags & NLM_F_DUMP:
        if link is None or link.dumpit is None:
            family = AF_UNSPEC
            link = rtnl_get_link(kernel, AF_UNSPEC, type)
            if link is None or link.dumpit is None:
                raise KernelError(EOPNOTSUPP)
        control = NetlinkCallback(skb, nlh, link.dumpit, family=family)
        if type == RTM_GETLINK:
            control.min_dump_alloc = NLMSG_GOODSIZE
        return __netlink_dump_start(net.rtnl, skb, nlh, control)
    if link is None or link.doit is None:
        link = rtnl_get_link(kernel, AF_UNSPEC, type)
        if link is None or link.doit is None:
            raise KernelError(EOPNOTSUPP)
    if link.flags & RTNL_FLAG_DOIT_UNLOCKED:
        link.doit(skb, nlh, extack)
        return False
    rtnl_lock(kernel)
    try:
        link.doit(skb, nlh, extack)
    finally:
        rtnl_unlock(kernel)
    return False


@may_sleep
def rtnetlink_rcv(skb: SkBuff) -> None:
    netlink_rcv_skb(skb, rtnetlink_rcv_msg)


def rtnl_dump_all(skb: SkBuff, cb: NetlinkCallback) -> int:
    """A dump of AF_UNSPEC: that of one family after the other. args[0]: the family that is under way."""
    kernel = sock_net(cb.skb).kernel
    type = cb.nlh.nlmsg_type
    families = sorted(f for f, t in net_of(kernel).rtnl_msg_handlers if t == type and f != AF_UNSPEC)
    first = cb.family
    for family in families:
        if family < first:
            continue
        link = rtnl_get_link(kernel, family, type)
        if link is None or link.dumpit is None:
            continue
        if family > first:
            cb.args = [0] * 6
            cb.prev_seq = cb.seq = 0
        cb.family = family
        if link.dumpit(skb, cb) > 0:
            return skb.len
        first = family
    cb.family = 1 << 16                  # all done
    return skb.len


# ---- answers ---------------------------------------------------------------------------------------
def rtnl_unicast(skb: SkBuff, net: Net, pid: int) -> None:
    """Answers one who asked. Raises EAGAIN, ECONNREFUSED."""
    netlink_unicast(net.rtnl, skb, pid, 1)


def rtnl_notify(skb: SkBuff, net: Net, pid: int, group: int, nlh: Nlmsghdr | None) -> None:
    """Tells a group; and pid too, if it asked with NLM_F_ECHO. A full reader's loss is its own (ENOBUFS)."""
    report = nlh is not None and bool(nlh.nlmsg_flags & NLM_F_ECHO)
    try:
        nlmsg_notify(net.rtnl, skb, pid, group, report)
    except KernelError:
        return


def rtnetlink_net_init(net: Net) -> None:
    """The kernel's socket of a namespace."""
    net.rtnl = __netlink_kernel_create(net, NETLINK_ROUTE, NetlinkKernelCfg(
        groups=RTNLGRP_MAX, flags=NL_CFG_F_NONROOT_RECV, input=rtnetlink_rcv, cb_mutex=rtnl_mutex(net.kernel)))


def rtnetlink_net_exit(net: Net) -> None:
    netlink_kernel_release(net.rtnl)
    net.rtnl = None


def rtnetlink_init(kernel: Kernel) -> None:
    """Before the first device is registered: the notifications of its life need it."""
    register_pernet_subsys(kernel, PernetOperations(rtnetlink_net_init, rtnetlink_net_exit))
