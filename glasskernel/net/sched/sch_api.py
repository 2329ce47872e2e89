"""Queueing disciplines over netlink: tc qdisc show.

Linux: net/sched/sch_api.c (5.3). Same: attributes of a dump. Gaps: everything that changes a discipline (RTM_NEWQDISC,
    RTM_DELQDISC: EOPNOTSUPP), classes and filters, size tables.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.net.core.rtnetlink import RTM_GETQDISC, RTM_NEWQDISC, rtnl_register, sock_net
from glasskernel.net.netlink.nlmsg import nlmsg_dump, nlmsg_end, nlmsg_parse_deprecated, nlmsg_put
from glasskernel.net.netlink.types import NLM_F_MULTI, NetlinkCallback
from glasskernel.net.nlattr import (
    nla_nest_end,
    nla_nest_start_noflag,
    nla_put,
    nla_put_string,
    nla_put_u8,
)
from glasskernel.net.sched.sch_generic import noop_qdisc_ops, pfifo_fast_ops, prio2band
from glasskernel.net.types import AF_UNSPEC

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.netdevice import Qdisc
    from glasskernel.net.skbuff import SkBuff

TCA_KIND, TCA_OPTIONS, TCA_STATS, TCA_STATS2, TCA_HW_OFFLOAD, TCA_MAX = 1, 2, 3, 7, 12, 15
TCA_STATS_BASIC, TCA_STATS_QUEUE = 1, 3
TC_H_ROOT = 0xFFFFFFFF
tcmsg = struct.Struct("<BxxxiIII")       # family, ifindex, handle, parent, info
tc_stats = struct.Struct("<QIIIIIII4x")  # bytes, packets, drops, overlimits, bps, pps, qlen, backlog
gnet_stats_basic = struct.Struct("<QI4x")
gnet_stats_queue = struct.Struct("<5I")  # qlen, backlog, drops, requeues, overlimits
tc_prio_qopt = struct.Struct("<i16B")


def tc_fill_qdisc(skb: SkBuff, q: Qdisc, portid: int, seq: int, flags: int) -> None:
    """One discipline. Raises EMSGSIZE."""
    start = nlmsg_put(skb, portid, seq, RTM_NEWQDISC, tcmsg.pack(
        AF_UNSPEC, q.dev.ifindex, q.handle, TC_H_ROOT, 2), flags)
    nla_put_string(skb, TCA_KIND, q.ops.id)
    if q.ops is pfifo_fast_ops:
        nla_put(skb, TCA_OPTIONS, tc_prio_qopt.pack(3, *prio2band))
    nla_put_u8(skb, TCA_HW_OFFLOAD, 0)
    stats = nla_nest_start_noflag(skb, TCA_STATS2)
    nla_put(skb, TCA_STATS_BASIC, gnet_stats_basic.pack(q.bytes, q.packets & 0xFFFFFFFF))
    nla_put(skb, TCA_STATS_QUEUE, gnet_stats_queue.pack(q.qlen, q.backlog, q.drops, q.requeues, 0))
    nla_nest_end(skb, stats)
    nla_put(skb, TCA_STATS, tc_stats.pack(q.bytes, q.packets & 0xFFFFFFFF, q.drops, 0, 0, 0, q.qlen, q.backlog))
    nlmsg_end(skb, start)


def tc_dump_qdisc(skb: SkBuff, cb: NetlinkCallback) -> int:
    """RTM_GETQDISC: the root discipline of every device."""
    net = sock_net(cb.skb)
    nlmsg_parse_deprecated(cb.nlh, tcmsg.size, TCA_MAX, None, cb.extack)
    wanted = tcmsg.unpack_from(cb.nlh.data)[1]

    def fill(index: int) -> None:
        q = net.dev_by_index[index].qdisc
        if wanted in (0, index) and q.ops is not noop_qdisc_ops:
            tc_fill_qdisc(skb, q, cb.skb.cb.portid, cb.nlh.nlmsg_seq, NLM_F_MULTI | cb.answer_flags)

    return nlmsg_dump(skb, cb, sorted(net.dev_by_index), fill)


def pktsched_init(kernel: Kernel) -> None:
    rtnl_register(kernel, AF_UNSPEC, RTM_GETQDISC, None, tc_dump_qdisc)
