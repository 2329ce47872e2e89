"""A device as a message: RTM_NEWLINK.

Linux: rtnl_fill_ifinfo() and its parts in net/core/rtnetlink.c, inet_fill_link_af() of net/ipv4/devinet.c (5.3). Same:
    attributes and their order. Gaps: IFLA_PHYS_*, IFLA_VFINFO_LIST, IFLA_PROP_LIST, statistics of AF_SPECs.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace
from glasskernel.net.core.dev_open import dev_get_flags, dev_get_stats
from glasskernel.net.core.xdp import (
    XDP_ATTACHED_DRV,
    XDP_ATTACHED_MULTI,
    XDP_ATTACHED_NONE,
    XDP_ATTACHED_SKB,
    __dev_xdp_query,
)
from glasskernel.net.netdevice import IF_OPER_DOWN, NetDeviceStats, netif_carrier_ok, netif_running
from glasskernel.net.netlink.nlmsg import nlmsg_end, nlmsg_put
from glasskernel.net.nlattr import (
    nla_nest_end,
    nla_nest_start_noflag,
    nla_put,
    nla_put_string,
    nla_put_u8,
    nla_put_u32,
)
from glasskernel.net.types import AF_INET

if TYPE_CHECKING:
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.skbuff import SkBuff

(IFLA_ADDRESS, IFLA_BROADCAST, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_QDISC, IFLA_STATS) = range(1, 8)
IFLA_MASTER, IFLA_TXQLEN, IFLA_MAP, IFLA_OPERSTATE, IFLA_LINKMODE = 10, 13, 14, 16, 17
IFLA_LINKINFO, IFLA_NET_NS_PID, IFLA_IFALIAS, IFLA_STATS64 = 18, 19, 20, 23
(IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD, IFLA_EXT_MASK, IFLA_PROMISCUITY, IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES,
 IFLA_CARRIER, IFLA_PHYS_PORT_ID, IFLA_CARRIER_CHANGES) = range(26, 36)
IFLA_PROTO_DOWN, IFLA_GSO_MAX_SEGS, IFLA_GSO_MAX_SIZE, IFLA_PAD, IFLA_XDP, IFLA_EVENT = 39, 40, 41, 42, 43, 44
IFLA_TARGET_NETNSID, IFLA_CARRIER_UP_COUNT, IFLA_CARRIER_DOWN_COUNT, IFLA_MIN_MTU, IFLA_MAX_MTU = 46, 47, 48, 50, 51
IFLA_MAX = 51
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INET_CONF = 1, 2, 1
(IFLA_XDP_FD, IFLA_XDP_ATTACHED, IFLA_XDP_FLAGS, IFLA_XDP_PROG_ID, IFLA_XDP_DRV_PROG_ID,
 IFLA_XDP_SKB_PROG_ID) = range(1, 7)
IFLA_XDP_MAX = 7
RTEXT_FILTER_SKIP_STATS = 8

ifinfomsg = struct.Struct("<BxHiII")
STATS = tuple(NetDeviceStats.__annotations__)
_stats64 = struct.Struct(f"<{len(STATS)}Q")
_stats32 = struct.Struct(f"<{len(STATS)}I")
_ifmap = struct.Struct("<QQQHBB4x")

# in the order of IPV4_DEVCONF_*: what InDevice.cnf calls them
IPV4_DEVCONF = (
    "forwarding", "mc_forwarding", "proxy_arp", "accept_redirects", "secure_redirects", "send_redirects",
    "shared_media", "rp_filter",
    "accept_source_route", "bootp_relay", "log_martians", "tag", "arp_filter", "medium_id", "disable_xfrm",
    "disable_policy", "force_igmp_version", "arp_announce", "arp_ignore", "promote_secondaries", "arp_accept",
    "arp_notify", "accept_local", "src_valid_mark", "proxy_arp_pvlan", "route_localnet",
    "igmpv2_unsolicited_report_interval", "igmpv3_unsolicited_report_interval", "ignore_routes_with_linkdown",
    "drop_unicast_in_l2_multicast", "drop_gratuitous_arp", "bc_forwarding",
)


def rtnl_fill_stats(skb: SkBuff, dev: NetDevice) -> None:
    """Both widths of the counters."""
    stats = dev_get_stats(dev)
    values = [getattr(stats, name) for name in STATS]
    nla_put(skb, IFLA_STATS64, _stats64.pack(*values))
    nla_put(skb, IFLA_STATS, _stats32.pack(*[value & 0xFFFFFFFF for value in values]))


def rtnl_fill_link_ifmap(skb: SkBuff, dev: NetDevice) -> None:
    nla_put(skb, IFLA_MAP, _ifmap.pack(dev.mem_start, dev.mem_end, dev.base_addr, dev.irq, 0, 0))


def rtnl_xdp_prog_skb(dev: NetDevice) -> int:
    return dev.xdp_prog.id if dev.xdp_prog is not None else 0


def rtnl_xdp_prog_drv(dev: NetDevice) -> int:
    ndo_bpf = dev.netdev_ops.ndo_bpf
    return __dev_xdp_query(dev, ndo_bpf) if ndo_bpf is not None else 0


def rtnl_xdp_fill(skb: SkBuff, dev: NetDevice) -> None:
    """Which XDP programs are attached, and how."""
    xdp = nla_nest_start_noflag(skb, IFLA_XDP)
    prog_id, mode = 0, XDP_ATTACHED_NONE
    for attr, attached, query in ((IFLA_XDP_SKB_PROG_ID, XDP_ATTACHED_SKB, rtnl_xdp_prog_skb),
                                  (IFLA_XDP_DRV_PROG_ID, XDP_ATTACHED_DRV, rtnl_xdp_prog_drv)):
        curr_id = query(dev)
        if curr_id:
            prog_id = curr_id
            nla_put_u32(skb, attr, curr_id)
            mode = XDP_ATTACHED_MULTI if mode else attached
    nla_put_u8(skb, IFLA_XDP_ATTACHED, mode)
    if prog_id and mode != XDP_ATTACHED_MULTI:
        nla_put_u32(skb, IFLA_XDP_PROG_ID, prog_id)
    nla_nest_end(skb, xdp)


def rtnl_link_fill(skb: SkBuff, dev: NetDevice) -> None:
    """What kind of virtual device this is."""
    ops = dev.rtnl_link_ops
    linkinfo = nla_nest_start_noflag(skb, IFLA_LINKINFO)
    nla_put_string(skb, IFLA_INFO_KIND, ops.kind)
    if ops.fill_info is not None:
        data = nla_nest_start_noflag(skb, IFLA_INFO_DATA)
        ops.fill_info(skb, dev)
        nla_nest_end(skb, data)
    nla_nest_end(skb, linkinfo)


def inet_fill_link_af(skb: SkBuff, dev: NetDevice) -> None:
    """The device's /proc/sys/net/ipv4/conf, as IFLA_INET_CONF."""
    cnf = dev.ip_ptr.cnf
    nla_put(skb, IFLA_INET_CONF, struct.pack(
        f"<{len(IPV4_DEVCONF)}I", *[cnf.get(name, 0) & 0xFFFFFFFF for name in IPV4_DEVCONF]))


def rtnl_fill_link_af(skb: SkBuff, dev: NetDevice) -> None:
    spec = nla_nest_start_noflag(skb, IFLA_AF_SPEC)
    if dev.ip_ptr is not None:
        inet = nla_nest_start_noflag(skb, AF_INET)
        inet_fill_link_af(skb, dev)
        nla_nest_end(skb, inet)
    nla_nest_end(skb, spec)


def rtnl_fill_ifinfo(skb: SkBuff, dev: NetDevice, type: int, pid: int, seq: int, change: int, flags: int,
                     ext_filter_mask: int, family: int = 0) -> None:
    """One message about one device. Raises EMSGSIZE: the caller takes back what was written. Locks: rtnl."""
    start = nlmsg_put(skb, pid, seq, type, ifinfomsg.pack(
        family, dev.type, dev.ifindex, dev_get_flags(dev), change), flags)
    nla_put_string(skb, IFLA_IFNAME, dev.name)
    nla_put_u32(skb, IFLA_TXQLEN, dev.tx_queue_len)
    nla_put_u8(skb, IFLA_OPERSTATE, dev.operstate if netif_running(dev) else IF_OPER_DOWN)
    nla_put_u8(skb, IFLA_LINKMODE, dev.link_mode)
    nla_put_u32(skb, IFLA_MTU, dev.mtu)
    nla_put_u32(skb, IFLA_MIN_MTU, dev.min_mtu)
    nla_put_u32(skb, IFLA_MAX_MTU, dev.max_mtu)
    nla_put_u32(skb, IFLA_GROUP, dev.group)
    nla_put_u32(skb, IFLA_PROMISCUITY, dev.promiscuity)
    nla_put_u32(skb, IFLA_NUM_TX_QUEUES, 1)
    nla_put_u32(skb, IFLA_GSO_MAX_SEGS, dev.gso_max_segs)
    nla_put_u32(skb, IFLA_GSO_MAX_SIZE, dev.gso_max_size)
    nla_put_u32(skb, IFLA_NUM_RX_QUEUES, 1)
    iflink = dev_get_iflink(dev)
    if iflink != dev.ifindex:
        nla_put_u32(skb, IFLA_LINK, iflink)
    nla_put_u8(skb, IFLA_CARRIER, int(netif_carrier_ok(dev)))
    nla_put_string(skb, IFLA_QDISC, dev.qdisc.ops.id)
    if dev.ifalias:
        nla_put_string(skb, IFLA_IFALIAS, dev.ifalias)
    nla_put_u32(skb, IFLA_CARRIER_CHANGES, dev.carrier_up_count + dev.carrier_down_count)
    nla_put_u8(skb, IFLA_PROTO_DOWN, 0)
    nla_put_u32(skb, IFLA_CARRIER_UP_COUNT, dev.carrier_up_count)
    nla_put_u32(skb, IFLA_CARRIER_DOWN_COUNT, dev.carrier_down_count)
    rtnl_fill_link_ifmap(skb, dev)
    if dev.addr_len:
        nla_put(skb, IFLA_ADDRESS, dev.dev_addr)
        nla_put(skb, IFLA_BROADCAST, dev.broadcast)
    if not ext_filter_mask & RTEXT_FILTER_SKIP_STATS:
        rtnl_fill_stats(skb, dev)
    rtnl_xdp_fill(skb, dev)
    if dev.rtnl_link_ops is not None:
        rtnl_link_fill(skb, dev)
    rtnl_fill_link_af(skb, dev)
    nlmsg_end(skb, start)


@notrace
def dev_get_iflink(dev: NetDevice) -> int:
    """The device below a virtual one; itself for others."""
    ops = dev.netdev_ops
    return ops.ndo_get_iflink(dev) if ops.ndo_get_iflink is not None else dev.ifindex


def if_nlmsg_size(dev: NetDevice) -> int:
    """How much room a message about the device needs, generously."""
    return 1280 + len(dev.ifalias)
