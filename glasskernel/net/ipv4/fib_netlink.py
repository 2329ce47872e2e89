"""Routes over netlink: ip route show, add, del and get.

Linux: the rtnetlink halves of net/ipv4/fib_frontend.c, fib_semantics.c and route.c (5.3). Same: attributes and their
    order, filters of dumps, what the flags of a request mean, texts of errors.
Gaps: encapsulation, nexthop objects, RTA_VIA, RTA_FLOW, `ip route show cache`, RTM_F_FIB_MATCH.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.lib.errno import EINVAL, ENETDOWN, ENETUNREACH, ENODEV, ENOENT, ESRCH, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep
from glasskernel.net.core.dev_chain import net_of
from glasskernel.net.core.rtnetlink import (
    RTM_DELROUTE,
    RTM_GETROUTE,
    RTM_NEWROUTE,
    RTNLGRP_IPV4_ROUTE,
    rta_cacheinfo,
    rtnl_dump_all,
    rtnl_notify,
    rtnl_register,
    rtnl_unicast,
    sock_net,
)
from glasskernel.net.core.rtnl_link import is_strict
from glasskernel.net.ipv4.fib_lookup import RTN_MAX, fib_get_table
from glasskernel.net.ipv4.fib_semantics import inet_of
from glasskernel.net.ipv4.fib_trie import fib_new_table, fib_table_delete, fib_table_insert, fib_table_walk
from glasskernel.net.ipv4.fib_types import RTNH_F_DEAD, RTNH_F_LINKDOWN, RTNH_F_ONLINK, FibAlias, FibConfig, FibNh
from glasskernel.net.ipv4.route import ip_route_output_key_hash_rcu, ip_rt_put
from glasskernel.net.ipv4.route_input import ip_route_input_rcu
from glasskernel.net.ipv4.types import RT_TABLE_MAIN, RTCF_NOTIFY, RTPROT_UNSPEC, Flowi4, Rtable
from glasskernel.net.netlink.nlmsg import (
    nlmsg_cancel,
    nlmsg_end,
    nlmsg_new,
    nlmsg_parse_deprecated,
    nlmsg_parse_deprecated_strict,
    nlmsg_put,
)
from glasskernel.net.netlink.types import NLM_F_DUMP_FILTERED, NLM_F_MULTI, NetlinkCallback, Nlmsghdr
from glasskernel.net.nlattr import (
    NLA_NESTED,
    NLA_U8,
    NLA_U16,
    NLA_U32,
    Attributes,
    NetlinkExtAck,
    Policy,
    nla_error,
    nla_get_in_addr,
    nla_get_u32,
    nla_nest_end,
    nla_nest_start_noflag,
    nla_parse_nested_deprecated,
    nla_put,
    nla_put_in_addr,
    nla_put_u32,
)
from glasskernel.net.skbuff import alloc_skb, kfree_skb, skb_put, skb_reset_mac_header, skb_reset_network_header
from glasskernel.net.types import AF_INET, AF_UNSPEC, IPPROTO_UDP

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net

(RTA_DST, RTA_SRC, RTA_IIF, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS, RTA_MULTIPATH) = range(1, 10)
RTA_FLOW, RTA_CACHEINFO, RTA_TABLE, RTA_MARK, RTA_VIA = 11, 12, 15, 16, 18
RTA_UID, RTA_IP_PROTO, RTA_SPORT, RTA_DPORT, RTA_MAX = 25, 27, 28, 29, 30
RTM_F_NOTIFY, RTM_F_CLONED, RTM_F_PREFIX, RTM_F_LOOKUP_TABLE = 0x100, 0x200, 0x800, 0x1000
RT_TABLE_COMPAT = 252
RTAX_MAX = 17

rtmsg = struct.Struct("<8BI")            # family, dst_len, src_len, tos, table, protocol, scope, type, flags
rtnexthop = struct.Struct("<HBBi")
rtm_ipv4_policy: Policy = {
    RTA_DST: (NLA_U32, 0), RTA_SRC: (NLA_U32, 0), RTA_IIF: (NLA_U32, 0), RTA_OIF: (NLA_U32, 0),
    RTA_GATEWAY: (NLA_U32, 0), RTA_PRIORITY: (NLA_U32, 0), RTA_PREFSRC: (NLA_U32, 0), RTA_METRICS: (NLA_NESTED, 0),
    RTA_FLOW: (NLA_U32, 0), RTA_TABLE: (NLA_U32, 0), RTA_MARK: (NLA_U32, 0), RTA_UID: (NLA_U32, 0),
    RTA_IP_PROTO: (NLA_U8, 0), RTA_SPORT: (NLA_U16, 0), RTA_DPORT: (NLA_U16, 0),
}


# ---- showing ---------------------------------------------------------------------------------------
def fib_nexthop_info(skb: SkBuff, nh: FibNh) -> None:
    """Gateway and device of a route with one next hop."""
    if nh.nh_gw:
        nla_put_in_addr(skb, RTA_GATEWAY, nh.nh_gw)
    if nh.nh_dev is not None:
        nla_put_u32(skb, RTA_OIF, nh.nh_dev.ifindex)


def fib_add_nexthop(skb: SkBuff, nh: FibNh) -> None:
    """One of several next hops."""
    start = skb_put(skb, rtnexthop.size)
    if nh.nh_gw:
        nla_put_in_addr(skb, RTA_GATEWAY, nh.nh_gw)
    rtnexthop.pack_into(skb.head, start, skb.tail - start, nh.nh_flags & 0xFF, nh.nh_weight - 1, nh.nh_oif)


def fib_dump_info(skb: SkBuff, portid: int, seq: int, event: int, dst: int, fa: FibAlias, flags: int) -> None:
    """One message about one route. Raises EMSGSIZE: the caller takes back what was written."""
    fi = fa.fa_info
    rtm_flags = fi.fib_flags
    if len(fi.fib_nh) == 1:
        rtm_flags |= fi.fib_nh[0].nh_flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN | RTNH_F_ONLINK)
    table = fa.tb_id
    start = nlmsg_put(skb, portid, seq, event, rtmsg.pack(
        AF_INET, 32 - fa.fa_slen, 0, fa.fa_tos, table if table < 256 else RT_TABLE_COMPAT, fi.fib_protocol,
        fi.fib_scope, fa.fa_type, rtm_flags), flags)
    nla_put_u32(skb, RTA_TABLE, table)
    if fa.fa_slen != 32:
        nla_put_in_addr(skb, RTA_DST, dst)
    if fi.fib_priority:
        nla_put_u32(skb, RTA_PRIORITY, fi.fib_priority)
    rtnetlink_put_metrics(skb, fi.fib_metrics)
    if fi.fib_prefsrc:
        nla_put_in_addr(skb, RTA_PREFSRC, fi.fib_prefsrc)
    if len(fi.fib_nh) == 1:
        fib_nexthop_info(skb, fi.fib_nh[0])
    else:
        multipath = nla_nest_start_noflag(skb, RTA_MULTIPATH)
        for nh in fi.fib_nh:
            fib_add_nexthop(skb, nh)
        nla_nest_end(skb, multipath)
    nlmsg_end(skb, start)


def rtnetlink_put_metrics(skb: SkBuff, metrics: dict[int, int]) -> None:
    """RTA_METRICS, if there are any."""
    if metrics:
        nest = nla_nest_start_noflag(skb, RTA_METRICS)
        for number, value in sorted(metrics.items()):
            nla_put_u32(skb, number, value)
        nla_nest_end(skb, nest)


@slotted
class FibDumpFilter:
    """struct fib_dump_filter: which routes a dump is limited to."""

    flags: int = 0
    protocol: int = 0
    rt_type: int = 0
    table_id: int = 0
    dev: NetDevice | None = None


def ip_valid_fib_dump_req(net: Net, nlh: Nlmsghdr, filter: FibDumpFilter, cb: NetlinkCallback) -> None:
    """A strictly checked dump request. Raises EINVAL, ENODEV."""
    extack = cb.extack
    if len(nlh.data) < rtmsg.size:
        raise nla_error(EINVAL, extack, b"Invalid header for FIB dump request")
    _family, dst_len, src_len, tos, table, protocol, scope, kind, flags = rtmsg.unpack_from(nlh.data)
    if dst_len or src_len or tos or scope:
        raise nla_error(EINVAL, extack, b"Invalid values in header for FIB dump request")
    if flags & ~(RTM_F_CLONED | RTM_F_PREFIX):
        raise nla_error(EINVAL, extack, b"Invalid flags for FIB dump request")
    filter.flags, filter.protocol, filter.rt_type, filter.table_id = flags, protocol, kind, table
    tb = nlmsg_parse_deprecated_strict(nlh, rtmsg.size, RTA_MAX, rtm_ipv4_policy, extack)
    for number, value in tb.items():
        if number == RTA_TABLE:
            filter.table_id = nla_get_u32(value)
        elif number == RTA_OIF:
            filter.dev = net.dev_by_index.get(nla_get_u32(value))
            if filter.dev is None:
                raise KernelError(ENODEV)
        else:
            raise nla_error(EINVAL, extack, b"Unsupported attribute in dump request")
    if flags or protocol or kind or filter.table_id or filter.dev is not None:
        cb.answer_flags = NLM_F_DUMP_FILTERED


def inet_dump_fib(skb: SkBuff, cb: NetlinkCallback) -> int:
    """RTM_GETROUTE. args: the table that is under way, and how many of its routes were shown."""
    net = sock_net(cb.skb)
    nlh = cb.nlh
    filter = FibDumpFilter()
    if cb.strict_check:
        ip_valid_fib_dump_req(net, nlh, filter, cb)
    elif len(nlh.data) >= rtmsg.size:
        filter.flags = rtmsg.unpack_from(nlh.data)[8] & (RTM_F_PREFIX | RTM_F_CLONED)
    if filter.flags & (RTM_F_PREFIX | RTM_F_CLONED):
        return 0
    if filter.table_id:
        if fib_get_table(net, filter.table_id) is None:
            if nlh.data[0] != AF_INET:
                return 0
            raise nla_error(ENOENT, cb.extack, b"ipv4: FIB table does not exist")
        tables = [filter.table_id]
    else:
        tables = sorted(net.ipv4.fib_tables)
    for tb_id in tables:
        if tb_id < cb.args[0]:
            continue
        if tb_id > cb.args[0]:
            cb.args[0], cb.args[1] = tb_id, 0
        if not fib_table_dump(net, tb_id, skb, cb, filter):
            return skb.len
    return 0


def fib_table_dump(net: Net, tb_id: int, skb: SkBuff, cb: NetlinkCallback, filter: FibDumpFilter) -> bool:
    """The routes of a table from the args[1]-th on; False when the skb is full. Raises EMSGSIZE if it was empty."""
    table = fib_get_table(net, tb_id)
    assert table is not None
    flags = NLM_F_MULTI | cb.answer_flags
    for at, (key, fa) in enumerate(fib_table_walk(table)):
        if at < cb.args[1]:
            continue
        fi = fa.fa_info
        if (filter.rt_type and fa.fa_type != filter.rt_type) or (
                filter.protocol and fi.fib_protocol != filter.protocol) or (
                filter.dev is not None and all(nh.nh_dev is not filter.dev for nh in fi.fib_nh)):
            continue
        start = skb.tail
        try:
            fib_dump_info(skb, cb.skb.cb.portid, cb.nlh.nlmsg_seq, RTM_NEWROUTE, key, fa, flags)
        except KernelError:
            nlmsg_cancel(skb, start)
            if not skb.len:
                raise
            cb.args[1] = at
            return False
    return True


# ---- changing --------------------------------------------------------------------------------------
def fib_get_nhs(data: bytes, extack: NetlinkExtAck) -> list[tuple[int, int, int, int]]:
    """RTA_MULTIPATH. Raises EINVAL."""
    hops = []
    offset = 0
    while len(data) - offset >= rtnexthop.size:
        size, flags, weight, oif = rtnexthop.unpack_from(data, offset)
        if size < rtnexthop.size or offset + size > len(data):
            raise nla_error(EINVAL, extack, b"Invalid nexthop configuration - extra data after nexthops")
        if flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN):
            raise nla_error(EINVAL, extack, b"Invalid flags for nexthop - can not contain DEAD or LINKDOWN")
        tb = nla_parse_nested_deprecated(
            data[offset + rtnexthop.size : offset + size], RTA_MAX, rtm_ipv4_policy, extack)
        hops.append((oif, nla_get_in_addr(tb[RTA_GATEWAY]) if RTA_GATEWAY in tb else 0, weight + 1, flags))
        offset += size + 3 & ~3
    return hops


def rtm_to_fib_config(nlh: Nlmsghdr, extack: NetlinkExtAck) -> FibConfig:
    """The route that a request describes. Raises EINVAL."""
    tb = nlmsg_parse_deprecated(nlh, rtmsg.size, RTA_MAX, rtm_ipv4_policy, extack)
    _family, dst_len, _src_len, tos, table, protocol, scope, kind, flags = rtmsg.unpack_from(nlh.data)
    if kind > RTN_MAX:
        raise nla_error(EINVAL, extack, b"Invalid route type")
    if RTA_VIA in tb:
        raise nla_error(EINVAL, extack, b"Nexthop configuration can not contain both GATEWAY and VIA"
                        if RTA_GATEWAY in tb else b"IPv6 support not enabled in kernel")
    cfg = FibConfig(dst_len, tos, protocol, scope, kind, table, fc_flags=flags, fc_nlflags=nlh.nlmsg_flags)
    if RTA_DST in tb:
        cfg.fc_dst = nla_get_in_addr(tb[RTA_DST])
    if RTA_OIF in tb:
        cfg.fc_oif = nla_get_u32(tb[RTA_OIF])
    if RTA_GATEWAY in tb:
        cfg.fc_gw = nla_get_in_addr(tb[RTA_GATEWAY])
    if RTA_PRIORITY in tb:
        cfg.fc_priority = nla_get_u32(tb[RTA_PRIORITY])
    if RTA_PREFSRC in tb:
        cfg.fc_prefsrc = nla_get_in_addr(tb[RTA_PREFSRC])
    if RTA_METRICS in tb:
        metrics = nla_parse_nested_deprecated(tb[RTA_METRICS], RTAX_MAX)
        cfg.fc_mx = {number: nla_get_u32(value) for number, value in metrics.items()}
    if RTA_MULTIPATH in tb:
        cfg.fc_mp = fib_get_nhs(tb[RTA_MULTIPATH], extack)
    if RTA_TABLE in tb:
        cfg.fc_table = nla_get_u32(tb[RTA_TABLE])
    return cfg


@may_sleep
def inet_rtm_newroute(skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> None:
    """RTM_NEWROUTE. Raises what fib_table_insert() raises."""
    net = sock_net(skb)
    cfg = rtm_to_fib_config(nlh, extack)
    try:
        fib_table_insert(net, fib_new_table(net, cfg.fc_table), cfg)
    except KernelError as e:
        if e.errno == ENETUNREACH and cfg.fc_gw:
            raise nla_error(ENETUNREACH, extack, b"Nexthop has invalid gateway") from None
        if e.errno == ENETDOWN and not cfg.fc_gw:
            raise nla_error(ENETDOWN, extack, b"Device for nexthop is not up") from None
        raise


@may_sleep
def inet_rtm_delroute(skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> None:
    """RTM_DELROUTE. Raises ESRCH."""
    net = sock_net(skb)
    cfg = rtm_to_fib_config(nlh, extack)
    table = fib_get_table(net, cfg.fc_table)
    if table is None:
        raise nla_error(ESRCH, extack, b"FIB table does not exist")
    fib_table_delete(net, table, cfg)


def rtmsg_fib(event: int, net: Net, key: int, fa: FibAlias) -> None:
    """A route came or went."""
    skb = nlmsg_new(512 + 32 * len(fa.fa_info.fib_nh))
    fib_dump_info(skb, 0, 0, event, key, fa, 0)
    rtnl_notify(skb, net, 0, RTNLGRP_IPV4_ROUTE, None)


# ---- ip route get ----------------------------------------------------------------------------------
def rt_fill_info(net: Net, dst: int, src: int, rt: Rtable, table: int, fl4: Flowi4, skb: SkBuff, portid: int, seq: int,
                 uid: int | None) -> None:
    """What a lookup found."""
    flags = rt.rt_flags & ~0xFFFF & 0xFFFFFFFF | RTM_F_CLONED
    if rt.rt_flags & RTCF_NOTIFY:
        flags |= RTM_F_NOTIFY
    start = nlmsg_put(skb, portid, seq, RTM_NEWROUTE, rtmsg.pack(
        AF_INET, 32, 32 if src else 0, fl4.flowi4_tos, table if table < 256 else RT_TABLE_COMPAT, RTPROT_UNSPEC, 0,
        rt.rt_type, flags), 0)
    nla_put_u32(skb, RTA_TABLE, table)
    nla_put_in_addr(skb, RTA_DST, dst)
    if src:
        nla_put_in_addr(skb, RTA_SRC, src)
    if rt.dev is not None:
        nla_put_u32(skb, RTA_OIF, rt.dev.ifindex)
    if not rt.rt_is_input and fl4.saddr != src:
        nla_put_in_addr(skb, RTA_PREFSRC, fl4.saddr)
    if rt.rt_uses_gateway:
        nla_put_in_addr(skb, RTA_GATEWAY, rt.rt_gateway)
    rtnetlink_put_metrics(skb, rt.metrics)
    if fl4.flowi4_mark:
        nla_put_u32(skb, RTA_MARK, fl4.flowi4_mark)
    if uid is not None:
        nla_put_u32(skb, RTA_UID, uid)
    if rt.rt_is_input:
        nla_put_u32(skb, RTA_IIF, rt.rt_iif)
    nla_put(skb, RTA_CACHEINFO, rta_cacheinfo.pack(rt.refcnt - 1, 0, 0, rt.error, 0, 0, 0, 0))
    nlmsg_end(skb, start)


def inet_rtm_valid_getroute_req(skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> Attributes:
    """Raises EINVAL."""
    if len(nlh.data) < rtmsg.size:
        raise nla_error(EINVAL, extack, b"ipv4: Invalid header for route get request")
    if not is_strict(skb):
        return nlmsg_parse_deprecated(nlh, rtmsg.size, RTA_MAX, rtm_ipv4_policy, extack)
    _family, dst_len, src_len, _tos, table, protocol, scope, kind, _flags = rtmsg.unpack_from(nlh.data)
    if (src_len and src_len != 32) or (dst_len and dst_len != 32) or table or protocol or scope or kind:
        raise nla_error(EINVAL, extack, b"ipv4: Invalid values in header for route get request")
    return nlmsg_parse_deprecated_strict(nlh, rtmsg.size, RTA_MAX, rtm_ipv4_policy, extack)


def inet_rtm_getroute_build_skb(src: int, dst: int, ip_proto: int) -> SkBuff:
    """A packet that only looks like one, for a lookup as if it had been received."""
    skb = alloc_skb(256)
    skb_reset_mac_header(skb)
    skb_reset_network_header(skb)
    start = skb_put(skb, 20)
    skb.head[start] = 0x45
    skb.head[start + 9] = ip_proto
    skb.head[start + 12 : start + 20] = src.to_bytes(4, "big") + dst.to_bytes(4, "big")
    return skb


@may_sleep
def inet_rtm_getroute(in_skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> None:
    """RTM_GETROUTE of one destination: where would a packet go? Raises what the lookup raises, ENODEV, EINVAL."""
    net = sock_net(in_skb)
    tb = inet_rtm_valid_getroute_req(in_skb, nlh, extack)
    tos, flags = nlh.data[3], rtmsg.unpack_from(nlh.data)[8]
    src = nla_get_in_addr(tb[RTA_SRC]) if RTA_SRC in tb else 0
    dst = nla_get_in_addr(tb[RTA_DST]) if RTA_DST in tb else 0
    iif = nla_get_u32(tb[RTA_IIF]) if RTA_IIF in tb else 0
    ip_proto = tb[RTA_IP_PROTO][0] if RTA_IP_PROTO in tb else IPPROTO_UDP
    uid = nla_get_u32(tb[RTA_UID]) if RTA_UID in tb else None if iif else in_skb.cb.creds[1]
    fl4 = Flowi4(nla_get_u32(tb[RTA_OIF]) if RTA_OIF in tb else 0, daddr=dst, saddr=src, flowi4_tos=tos,
                 flowi4_mark=nla_get_u32(tb[RTA_MARK]) if RTA_MARK in tb else 0, flowi4_proto=ip_proto)
    skb: SkBuff | None = None
    if iif:
        dev = net.dev_by_index.get(iif)
        if dev is None:
            raise KernelError(ENODEV)
        skb = inet_rtm_getroute_build_skb(src, dst, ip_proto)
        skb.dev = dev
        skb.protocol = 0x0800
        err = ip_route_input_rcu(skb, dst, src, tos, dev)
        rt: Rtable = skb.dst
        if not err and rt is not None and rt.error:
            err = rt.error
        if err:
            kfree_skb(skb)
            raise KernelError(err)
    else:
        rt = ip_route_output_key_hash_rcu(net, fl4)
        rt.hold()
    try:
        answer = nlmsg_new(512)
        rt_fill_info(net, dst or fl4.daddr, src, rt, RT_TABLE_MAIN if flags & RTM_F_LOOKUP_TABLE else 0, fl4, answer,
                     in_skb.cb.portid, nlh.nlmsg_seq, uid)
    finally:
        if skb is not None:
            kfree_skb(skb)
        else:
            ip_rt_put(rt)
    rtnl_unicast(answer, net, in_skb.cb.portid)


def fib_netlink_init(kernel: Kernel) -> None:
    """The handlers, and notifications."""
    inet_of(net_of(kernel).init_net).rtmsg_fib = rtmsg_fib
    rtnl_register(kernel, AF_INET, RTM_NEWROUTE, inet_rtm_newroute, None)
    rtnl_register(kernel, AF_INET, RTM_DELROUTE, inet_rtm_delroute, None)
    rtnl_register(kernel, AF_INET, RTM_GETROUTE, inet_rtm_getroute, inet_dump_fib)
    rtnl_register(kernel, AF_UNSPEC, RTM_GETROUTE, None, rtnl_dump_all)
