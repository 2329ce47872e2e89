"""Routing rules over netlink: there are the three that every kernel starts with, and they stay.

Linux: net/core/fib_rules.c, net/ipv4/fib_rules.c (5.3). Same: what `ip rule` shows. Gaps: RTM_NEWRULE, RTM_DELRULE
    (EOPNOTSUPP): lookups ask local, main and default, in this order.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.lib.errno import EINVAL
from glasskernel.net.core.rtnetlink import RTM_GETRULE, RTM_NEWRULE, rtnl_dump_all, rtnl_register
from glasskernel.net.ipv4.types import RT_TABLE_DEFAULT, RT_TABLE_LOCAL, RT_TABLE_MAIN, RTPROT_KERNEL
from glasskernel.net.netlink.nlmsg import nlmsg_dump, nlmsg_end, nlmsg_put
from glasskernel.net.netlink.types import NLM_F_MULTI, NetlinkCallback
from glasskernel.net.nlattr import nla_error, nla_put_u8, nla_put_u32
from glasskernel.net.types import AF_INET, AF_UNSPEC

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.skbuff import SkBuff

FRA_PRIORITY, FRA_SUPPRESS_PREFIXLEN, FRA_TABLE, FRA_PROTOCOL = 6, 14, 15, 21
FR_ACT_TO_TBL = 1
fib_rule_hdr = struct.Struct("<8BI")     # family, dst_len, src_len, tos, table, res1, res2, action, flags
fib_default_rules = ((0, RT_TABLE_LOCAL), (0x7FFE, RT_TABLE_MAIN), (0x7FFF, RT_TABLE_DEFAULT))


def fib_nl_fill_rule(skb: SkBuff, pref: int, table: int, pid: int, seq: int, flags: int) -> None:
    """One rule. Raises EMSGSIZE."""
    start = nlmsg_put(skb, pid, seq, RTM_NEWRULE, fib_rule_hdr.pack(
        AF_INET, 0, 0, 0, table, 0, 0, FR_ACT_TO_TBL, 0), flags)
    nla_put_u32(skb, FRA_TABLE, table)
    nla_put_u32(skb, FRA_SUPPRESS_PREFIXLEN, -1)
    nla_put_u8(skb, FRA_PROTOCOL, RTPROT_KERNEL)
    if pref:
        nla_put_u32(skb, FRA_PRIORITY, pref)
    nlmsg_end(skb, start)


def fib_nl_dumprule(skb: SkBuff, cb: NetlinkCallback) -> int:
    """RTM_GETRULE. Raises EINVAL."""
    data = cb.nlh.data
    if cb.strict_check:
        if len(data) < fib_rule_hdr.size:
            raise nla_error(EINVAL, cb.extack, b"Invalid header for fib rule dump request")
        if any(data[1:12]):
            raise nla_error(EINVAL, cb.extack, b"Invalid values in header for fib rule dump request")
    return nlmsg_dump(skb, cb, fib_default_rules, lambda rule: fib_nl_fill_rule(
        skb, *rule, cb.skb.cb.portid, cb.nlh.nlmsg_seq, NLM_F_MULTI | cb.answer_flags))


def fib_rules_init(kernel: Kernel) -> None:
    rtnl_register(kernel, AF_INET, RTM_GETRULE, None, fib_nl_dumprule)
    rtnl_register(kernel, AF_UNSPEC, RTM_GETRULE, None, rtnl_dump_all)
