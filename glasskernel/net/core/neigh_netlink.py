"""Neighbours over netlink: ip neigh show, add, del; ip ntable.

Linux: the rtnetlink half of net/core/neighbour.c (5.3). Same: attributes, filters, what flags of a request mean, texts.
    Differs: only IPv4's table exists. Gaps: RTM_SETNEIGHTBL, NDA_PROTOCOL, statistics of RTM_GETNEIGHTBL per CPU.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.errno import EAFNOSUPPORT, EEXIST, EINVAL, ENODEV, ENOENT, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.neighbour import (
    NEIGH_UPDATE_F_ADMIN,
    NEIGH_UPDATE_F_OVERRIDE,
    NTF_PROXY,
    NUD_FAILED,
    NUD_NONE,
    NUD_VALID,
    Neighbour,
    NeighParms,
    NeighTable,
    __neigh_lookup_noref,
    neigh_create,
    neigh_event_send,
    neigh_lookup,
    neigh_release,
    neigh_remove_one,
    neigh_update,
    pneigh_delete,
    pneigh_lookup,
)
from glasskernel.net.core.rtnetlink import (
    RTM_DELNEIGH,
    RTM_GETNEIGH,
    RTM_GETNEIGHTBL,
    RTM_NEWNEIGH,
    RTM_NEWNEIGHTBL,
    RTNLGRP_NEIGH,
    rtnl_notify,
    rtnl_register,
    rtnl_unicast,
    sock_net,
)
from glasskernel.net.netlink.nlmsg import (
    nlmsg_dump,
    nlmsg_end,
    nlmsg_new,
    nlmsg_parse_deprecated,
    nlmsg_parse_deprecated_strict,
    nlmsg_put,
)
from glasskernel.net.netlink.types import (
    NLM_F_CREATE,
    NLM_F_DUMP_FILTERED,
    NLM_F_EXCL,
    NLM_F_MULTI,
    NLM_F_REPLACE,
    NetlinkCallback,
    Nlmsghdr,
)
from glasskernel.net.nlattr import (
    NLA_BINARY,
    NLA_U8,
    NLA_U32,
    NetlinkExtAck,
    Policy,
    nla_error,
    nla_get_in_addr,
    nla_get_u32,
    nla_nest_end,
    nla_nest_start_noflag,
    nla_put,
    nla_put_in_addr,
    nla_put_string,
    nla_put_u32,
    nla_put_u64_64bit,
)
from glasskernel.net.types import AF_INET, AF_UNSPEC

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net

NDA_DST, NDA_LLADDR, NDA_CACHEINFO, NDA_PROBES, NDA_IFINDEX, NDA_MASTER, NDA_MAX = 1, 2, 3, 4, 8, 9, 12
NTF_USE = 1
SKB_TRUESIZE_ETH = 2304                  # SKB_TRUESIZE(ETH_FRAME_LEN): what unres_qlen counts in
(NDTA_NAME, NDTA_THRESH1, NDTA_THRESH2, NDTA_THRESH3, NDTA_CONFIG, NDTA_PARMS, NDTA_STATS,
 NDTA_GC_INTERVAL) = range(1, 9)
ndmsg = struct.Struct("<BxxxiHBB")       # family, ifindex, state, flags, type
ndtmsg = struct.Struct("<Bxxx")
_cacheinfo = struct.Struct("<4I")
_config = struct.Struct("<HHIIIIIIII")
_stats = struct.Struct("<11Q")
nda_policy: Policy = {
    NDA_DST: (NLA_BINARY, 32), NDA_LLADDR: (NLA_BINARY, 32), NDA_PROBES: (NLA_U32, 0), NDA_IFINDEX: (NLA_U32, 0),
    NDA_MASTER: (NLA_U32, 0), 12: (NLA_U8, 0),
}


@notrace
def neigh_find_table(net: Net, family: int) -> NeighTable | None:
    inet = net.kernel.inet
    table: NeighTable | None = inet.arp_tbl if family == AF_INET and inet is not None else None
    return table


@notrace
def _key(skb_key: bytes) -> int:
    return nla_get_in_addr(skb_key)


# ---- showing ---------------------------------------------------------------------------------------
@notrace
def _clock(jiffies: int) -> int:
    """jiffies_to_clock_t()"""
    return max(current().kernel.time.jiffies - jiffies, 0) * 100 // HZ


def neigh_fill_info(skb: SkBuff, neigh: Neighbour, pid: int, seq: int, type: int, flags: int) -> None:
    """One message about one neighbour. Raises EMSGSIZE."""
    start = nlmsg_put(skb, pid, seq, type, ndmsg.pack(
        neigh.tbl.family, neigh.dev.ifindex, neigh.nud_state, neigh.flags, neigh.type), flags)
    nla_put_in_addr(skb, NDA_DST, neigh.primary_key)
    if neigh.nud_state & NUD_VALID:
        nla_put(skb, NDA_LLADDR, neigh.ha[: neigh.dev.addr_len])
    nla_put_u32(skb, NDA_PROBES, neigh.probes)
    nla_put(skb, NDA_CACHEINFO, _cacheinfo.pack(
        _clock(neigh.confirmed), _clock(neigh.used), _clock(neigh.updated), neigh.refcnt - 1))
    nlmsg_end(skb, start)


def pneigh_fill_info(skb: SkBuff, dev: NetDevice | None, key: int, pid: int, seq: int, flags: int) -> None:
    """One message about an address that we answer for."""
    start = nlmsg_put(skb, pid, seq, RTM_NEWNEIGH, ndmsg.pack(
        AF_INET, dev.ifindex if dev is not None else 0, NUD_NONE, NTF_PROXY, 0), flags)
    nla_put_in_addr(skb, NDA_DST, key)
    nlmsg_end(skb, start)


def neigh_valid_dump_req(nlh: Nlmsghdr, cb: NetlinkCallback) -> tuple[int, int]:
    """(device, master) that a dump is limited to. Raises EINVAL."""
    extack = cb.extack
    if not cb.strict_check:
        if len(nlh.data) < ndmsg.size:
            return 0, 0
        tb = nlmsg_parse_deprecated(nlh, ndmsg.size, NDA_MAX, nda_policy, extack)
    else:
        if len(nlh.data) < ndmsg.size:
            raise nla_error(EINVAL, extack, b"Invalid header for neighbor dump request")
        _family, index, state, flags, kind = ndmsg.unpack_from(nlh.data)
        if index or state or kind:
            raise nla_error(EINVAL, extack, b"Invalid values in header for neighbor dump request")
        if flags & ~NTF_PROXY:
            raise nla_error(EINVAL, extack, b"Invalid flags in header for neighbor dump request")
        tb = nlmsg_parse_deprecated_strict(nlh, ndmsg.size, NDA_MAX, nda_policy, extack)
        if tb.keys() - {NDA_IFINDEX, NDA_MASTER}:
            raise nla_error(EINVAL, extack, b"Unsupported attribute in neighbor dump request")
    return (nla_get_u32(tb[NDA_IFINDEX]) if NDA_IFINDEX in tb else 0,
            nla_get_u32(tb[NDA_MASTER]) if NDA_MASTER in tb else 0)


def neigh_dump_info(skb: SkBuff, cb: NetlinkCallback) -> int:
    """RTM_GETNEIGH. Raises EINVAL."""
    net = sock_net(cb.skb)
    nlh = cb.nlh
    index, master = neigh_valid_dump_req(nlh, cb)
    table = neigh_find_table(net, AF_INET)
    if table is None or nlh.data[0] not in (AF_UNSPEC, AF_INET) or master:
        return 0
    proxies = len(nlh.data) >= ndmsg.size and ndmsg.unpack_from(nlh.data)[3] & NTF_PROXY
    if index:
        cb.answer_flags |= NLM_F_DUMP_FILTERED
    dump = pneigh_dump_table if proxies else neigh_dump_table
    return dump(net, table, skb, cb, index)


def neigh_dump_table(net: Net, table: NeighTable, skb: SkBuff, cb: NetlinkCallback, index: int) -> int:
    entries = [n for n in table.nht.values() if n.dev.net is net and (not index or n.dev.ifindex == index)]
    return nlmsg_dump(skb, cb, entries, lambda neigh: neigh_fill_info(
        skb, neigh, cb.skb.cb.portid, cb.nlh.nlmsg_seq, RTM_NEWNEIGH, NLM_F_MULTI | cb.answer_flags))


def pneigh_dump_table(net: Net, table: NeighTable, skb: SkBuff, cb: NetlinkCallback, index: int) -> int:
    """The same for addresses that we answer for, on one device or (None) on all."""
    proxies = [(None if where is net else where, key) for where, key in table.phash
               if where is net or getattr(where, "net", None) is net]
    wanted = [(dev, key) for dev, key in proxies if not index or (dev is not None and dev.ifindex == index)]
    return nlmsg_dump(skb, cb, wanted, lambda entry: pneigh_fill_info(
        skb, *entry, cb.skb.cb.portid, cb.nlh.nlmsg_seq, NLM_F_MULTI | cb.answer_flags))


@may_sleep
def neigh_get(in_skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> None:
    """RTM_GETNEIGH of one. Raises EINVAL, ENOENT, EAFNOSUPPORT, ENODEV."""
    net = sock_net(in_skb)
    tb = nlmsg_parse_deprecated(nlh, ndmsg.size, NDA_MAX, nda_policy, extack)
    family, index, _state, _flags, _kind = ndmsg.unpack_from(nlh.data)
    table = neigh_find_table(net, family)
    if table is None:
        raise nla_error(EAFNOSUPPORT, extack, b"Unsupported family in header for neighbor get request")
    if NDA_DST not in tb:
        raise nla_error(EINVAL, extack, b"Network address not specified")
    if len(tb[NDA_DST]) != table.key_len:
        raise nla_error(EINVAL, extack, b"Invalid network address in neighbor get request")
    dev = net.dev_by_index.get(index)
    if dev is None:
        raise nla_error(ENODEV if index else EINVAL, extack,
                        b"Unknown device ifindex" if index else b"No device specified")
    neigh = neigh_lookup(table, _key(tb[NDA_DST]), dev)
    if neigh is None:
        raise nla_error(ENOENT, extack, b"Neighbour entry not found")
    skb = nlmsg_new(128)
    neigh_fill_info(skb, neigh, in_skb.cb.portid, nlh.nlmsg_seq, RTM_NEWNEIGH, 0)
    neigh_release(neigh)
    rtnl_unicast(skb, net, in_skb.cb.portid)


# ---- changing --------------------------------------------------------------------------------------
@notrace
def _request(skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> tuple[NeighTable, int, NetDevice | None, int, int,
                                                                       bytes | None]:
    """(table, key, device, state, flags, hardware address). Raises EINVAL, ENODEV, EAFNOSUPPORT."""
    net = sock_net(skb)
    tb = nlmsg_parse_deprecated(nlh, ndmsg.size, NDA_MAX, nda_policy, extack)
    family, index, state, flags, _kind = ndmsg.unpack_from(nlh.data)
    if NDA_DST not in tb:
        raise nla_error(EINVAL, extack, b"Network address not specified")
    dev = None
    if index:
        dev = net.dev_by_index.get(index)
        if dev is None:
            raise KernelError(ENODEV)
        if NDA_LLADDR in tb and len(tb[NDA_LLADDR]) < dev.addr_len:
            raise nla_error(EINVAL, extack, b"Invalid link address")
    table = neigh_find_table(net, family)
    if table is None:
        raise KernelError(EAFNOSUPPORT)
    if len(tb[NDA_DST]) < table.key_len:
        raise nla_error(EINVAL, extack, b"Invalid network address")
    return table, _key(tb[NDA_DST]), dev, state, flags, tb.get(NDA_LLADDR)


@may_sleep
def neigh_add(skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> None:
    """RTM_NEWNEIGH. Raises ENOENT, EEXIST, EINVAL, ENODEV."""
    table, key, dev, state, flags, lladdr = _request(skb, nlh, extack)
    if flags & NTF_PROXY:
        pneigh_lookup(table, sock_net(skb), key, dev, True)
        return
    if dev is None:
        raise nla_error(EINVAL, extack, b"Device not specified")
    if lladdr is not None:
        lladdr = lladdr[: dev.addr_len]
    update = NEIGH_UPDATE_F_ADMIN | NEIGH_UPDATE_F_OVERRIDE
    neigh = neigh_lookup(table, key, dev)
    if neigh is None:
        if not nlh.nlmsg_flags & NLM_F_CREATE:
            raise KernelError(ENOENT)
        neigh = neigh_create(table, key, dev)
    else:
        if nlh.nlmsg_flags & NLM_F_EXCL:
            neigh_release(neigh)
            raise KernelError(EEXIST)
        if not nlh.nlmsg_flags & NLM_F_REPLACE:
            update &= ~NEIGH_UPDATE_F_OVERRIDE
    try:
        if flags & NTF_USE:
            neigh_event_send(neigh, None)
        else:
            neigh_update(neigh, lladdr, state, update)
    finally:
        neigh_release(neigh)


@may_sleep
def neigh_delete(skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> None:
    """RTM_DELNEIGH. Raises ENOENT, EINVAL, ENODEV."""
    table, key, dev, _state, flags, _lladdr = _request(skb, nlh, extack)
    if flags & NTF_PROXY:
        if not pneigh_delete(table, sock_net(skb), key, dev):
            raise KernelError(ENOENT)
        return
    if dev is None:
        raise KernelError(EINVAL)
    neigh = neigh_lookup(table, key, dev)
    if neigh is None:
        raise KernelError(ENOENT)
    try:
        neigh_update(neigh, None, NUD_FAILED, NEIGH_UPDATE_F_OVERRIDE | NEIGH_UPDATE_F_ADMIN)
    finally:
        neigh_release(neigh)
    left = __neigh_lookup_noref(table, key, dev)
    if left is neigh:
        neigh_remove_one(neigh)


# ---- telling ---------------------------------------------------------------------------------------
def __neigh_notify(neigh: Neighbour, type: int) -> None:
    """A neighbour changed or is gone. Context: any."""
    net = neigh.dev.net
    skb = nlmsg_new(128)
    neigh_fill_info(skb, neigh, 0, 0, type, 0)
    rtnl_notify(skb, net, 0, RTNLGRP_NEIGH, None)


# ---- tables ----------------------------------------------------------------------------------------
# NDTPA_*: (number, name in NeighParms.data, is it a time)
_PARMS = ((4, "base_reachable_time", True), (5, "retrans_time", True), (6, "gc_stale_time", True),
          (7, "delay_first_probe_time", True), (9, "app_solicit", False), (10, "ucast_solicit", False),
          (11, "mcast_solicit", False), (12, "anycast_delay", True), (13, "proxy_delay", True),
          (14, "proxy_qlen", False), (15, "locktime", True), (16, "unres_qlen_bytes", False))


def neightbl_fill_parms(skb: SkBuff, parms: NeighParms) -> None:
    nest = nla_nest_start_noflag(skb, NDTA_PARMS)
    if parms.dev is not None:
        nla_put_u32(skb, 1, parms.dev.ifindex)
    nla_put_u64_64bit(skb, 3, parms.reachable_time * 1000 // HZ)
    nla_put_u32(skb, 8, parms.data["unres_qlen_bytes"] // SKB_TRUESIZE_ETH)
    for number, name, time in _PARMS:
        value = parms.data[name]
        if time:
            nla_put_u64_64bit(skb, number, value * 1000 // HZ)
        else:
            nla_put_u32(skb, number, value)
    nla_nest_end(skb, nest)


def neightbl_fill_info(skb: SkBuff, table: NeighTable, parms: NeighParms, pid: int, seq: int, flags: int) -> None:
    """A table's defaults, or its parameters for one device."""
    start = nlmsg_put(skb, pid, seq, RTM_NEWNEIGHTBL, ndtmsg.pack(table.family), flags)
    nla_put_string(skb, NDTA_NAME, table.id)
    if parms is table.parms:
        nla_put_u64_64bit(skb, NDTA_GC_INTERVAL, table.gc_interval * 1000 // HZ)
        nla_put_u32(skb, NDTA_THRESH1, table.gc_thresh1)
        nla_put_u32(skb, NDTA_THRESH2, table.gc_thresh2)
        nla_put_u32(skb, NDTA_THRESH3, table.gc_thresh3)
        since = current().kernel.time.jiffies
        nla_put(skb, NDTA_CONFIG, _config.pack(
            table.key_len, 0, table.entries, (since - table.last_flush) * 1000 // HZ,
            (since - table.last_rand) * 1000 // HZ, 0, 0, 0, 0, 0))
        nla_put(skb, NDTA_STATS, _stats.pack(*[table.stats.get(name, 0) for name in (
            "allocs", "destroys", "hash_grows", "res_failed", "lookups", "hits", "rcv_probes_mcast", "rcv_probes_ucast",
            "periodic_gc_runs", "forced_gc_runs", "table_fulls")]))
    neightbl_fill_parms(skb, parms)
    nlmsg_end(skb, start)


def neightbl_dump_info(skb: SkBuff, cb: NetlinkCallback) -> int:
    """RTM_GETNEIGHTBL"""
    net = sock_net(cb.skb)
    table = neigh_find_table(net, AF_INET)
    if table is None or cb.nlh.data[0] not in (AF_UNSPEC, AF_INET):
        return 0
    shown = [p for p in table.parms_list if p is table.parms or (p.dev is not None and p.dev.net is net)]
    return nlmsg_dump(skb, cb, shown, lambda parms: neightbl_fill_info(
        skb, table, parms, cb.skb.cb.portid, cb.nlh.nlmsg_seq, NLM_F_MULTI))


def neigh_netlink_init(kernel: Kernel) -> None:
    """The handlers, and notifications."""
    inet = kernel.inet
    assert inet is not None
    inet.neigh_notify = __neigh_notify
    rtnl_register(kernel, AF_UNSPEC, RTM_NEWNEIGH, neigh_add, None)
    rtnl_register(kernel, AF_UNSPEC, RTM_DELNEIGH, neigh_delete, None)
    rtnl_register(kernel, AF_UNSPEC, RTM_GETNEIGH, neigh_get, neigh_dump_info)
    rtnl_register(kernel, AF_UNSPEC, RTM_GETNEIGHTBL, None, neightbl_dump_info)
