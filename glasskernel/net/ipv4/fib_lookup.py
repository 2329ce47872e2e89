"""Looking up where an address leads.

Linux: net/ipv4/fib_trie.c: fib_table_lookup, include/net/ip_fib.h, net/ipv4/fib_frontend.c: inet_addr_type (5.3).
Same: the longest prefix wins, then the table, TOS and priority; as long as nobody adds rules, the tables local and main
share one trie. Differs: a dict of prefixes for each prefix length instead of a level-compressed trie
(/proc/net/fib_trie shows the trie that Linux has: fib_trie_show.py); these functions stand in a file of their own,
below those that change tables.
Owns: net.ipv4.fib_tables.  Gaps: rules.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import EACCES, EAGAIN, EHOSTUNREACH, EINVAL, ENETUNREACH
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.fib_types import FIB_LOOKUP_IGNORE_LINKSTATE, RTNH_F_DEAD, RTNH_F_LINKDOWN, FibResult
from glasskernel.net.ipv4.types import (
    INADDR_BROADCAST,
    RT_SCOPE_HOST,
    RT_SCOPE_LINK,
    RT_SCOPE_NOWHERE,
    RT_SCOPE_UNIVERSE,
    RT_TABLE_DEFAULT,
    RT_TABLE_LOCAL,
    RT_TABLE_MAIN,
    RTN_BROADCAST,
    RTN_MULTICAST,
    RTN_UNICAST,
    Flowi4,
)

if TYPE_CHECKING:
    from glasskernel.net.ipv4.fib_types import FibAlias, FibNh
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.types import Net

RTN_MAX = 11
# fib_props[]: (errno, scope) by RTN_*
FIB_PROPS = ((0, RT_SCOPE_NOWHERE), (0, RT_SCOPE_UNIVERSE), (0, RT_SCOPE_HOST), (0, RT_SCOPE_LINK), (0, RT_SCOPE_LINK),
             (0, RT_SCOPE_UNIVERSE), (EINVAL, RT_SCOPE_UNIVERSE), (EHOSTUNREACH, RT_SCOPE_UNIVERSE),
             (EACCES, RT_SCOPE_UNIVERSE), (EAGAIN, RT_SCOPE_UNIVERSE), (EINVAL, RT_SCOPE_NOWHERE),
             (EINVAL, RT_SCOPE_NOWHERE))


@slotted
class Trie:
    """struct trie. aliases: slen -> {first address of the prefix: its routes, the best first}. slens: its keys, sorted.

    gets, passed: what /proc/net/fib_triestat counts.
    """

    aliases: dict[int, dict[int, list[FibAlias]]] = field(default_factory=dict)
    slens: list[int] = field(default_factory=list)
    gets: int = 0
    semantic_match_passed: int = 0
    semantic_match_miss: int = 0


@slotted
class FibTable:
    """struct fib_table"""

    tb_id: int
    tb_data: Trie
    tb_num_default: int = 0


@notrace
def fib_get_table(net: Net, tb_id: int) -> FibTable | None:
    """The table, if it exists; 0 stands for main."""
    tb: FibTable | None = net.ipv4.fib_tables.get(tb_id or RT_TABLE_MAIN)
    return tb


def fib_table_lookup(tb: FibTable, flp: Flowi4, res: FibResult, fib_flags: int) -> int:
    """Fills in res with the best route to flp.daddr. Answers 0, or the errno of its type; EAGAIN: none here."""
    trie = tb.tb_data
    trie.gets += 1
    daddr, tos, scope = flp.daddr, flp.flowi4_tos, flp.flowi4_scope
    for slen in trie.slens:
        leaf = trie.aliases[slen].get(daddr >> slen << slen)
        if leaf is None:
            continue
        for fa in leaf:
            fi = fa.fa_info
            if (fa.fa_tos and fa.fa_tos != tos) or fi.fib_dead or fi.fib_scope < scope:
                continue
            fa.fa_accessed = True
            error = FIB_PROPS[fa.fa_type][0]
            if error:
                trie.semantic_match_passed += 1
                return error
            if fi.fib_flags & RTNH_F_DEAD:
                continue
            for nhsel, nhc in enumerate(fi.fib_nh):
                if not fib_lookup_good_nhc(nhc, fib_flags, flp):
                    continue
                res.prefix = daddr >> slen << slen
                res.prefixlen = 32 - slen
                res.nh_sel = nhsel
                res.nhc = nhc
                res.type = fa.fa_type
                res.scope = fi.fib_scope
                res.fi = fi
                res.table = tb.tb_id
                res.fa_head = leaf
                trie.semantic_match_passed += 1
                return 0
        trie.semantic_match_miss += 1
    return EAGAIN


def fib_lookup_good_nhc(nhc: FibNh, fib_flags: int, flp: Flowi4) -> bool:
    """True if packets can go this way now."""
    flags = nhc.nh_flags
    if flags & RTNH_F_DEAD:
        return False
    if flags & RTNH_F_LINKDOWN and not fib_flags & FIB_LOOKUP_IGNORE_LINKSTATE:
        in_dev = nhc.nh_dev.ip_ptr if nhc.nh_dev is not None else None
        if in_dev is not None and in_dev.cnf["ignore_routes_with_linkdown"]:
            return False
    oif = flp.flowi4_oif
    return not oif or oif == nhc.nh_oif


@notrace
def fib_lookup(net: Net, flp: Flowi4, res: FibResult, flags: int) -> int:
    """The route to flp.daddr by the three rules that always exist. 0 or an errno."""
    tables = net.ipv4.fib_tables
    err = ENETUNREACH
    tb = tables.get(RT_TABLE_MAIN)
    if tb is not None:
        err = fib_table_lookup(tb, flp, res, flags)
        if not err:
            return 0
    if err in (EAGAIN, ENETUNREACH):
        tb = tables.get(RT_TABLE_DEFAULT)
        if tb is not None:
            err = fib_table_lookup(tb, flp, res, flags)
    return ENETUNREACH if err == EAGAIN else err


# ---- what kind of address is it? ---------------------------------------------------------------------------------
@notrace
def ipv4_is_multicast(addr: int) -> bool:
    return addr >> 28 == 0xE


@notrace
def ipv4_is_local_multicast(addr: int) -> bool:
    """224.0.0.0/24: routers do not forward it."""
    return addr >> 8 == 0xE00000


@notrace
def ipv4_is_loopback(addr: int) -> bool:
    return addr >> 24 == 127


@notrace
def ipv4_is_lbcast(addr: int) -> bool:
    return addr == INADDR_BROADCAST


@notrace
def __inet_dev_addr_type(net: Net, dev: NetDevice | None, addr: int, tb_id: int) -> int:
    """RTN_*. With a device: RTN_LOCAL and RTN_BROADCAST only of that device's addresses."""
    if addr == 0 or addr == INADDR_BROADCAST:
        return RTN_BROADCAST
    if addr >> 28 == 0xE:
        return RTN_MULTICAST
    table = fib_get_table(net, tb_id)
    if table is None:
        return RTN_BROADCAST
    res = FibResult()
    if not fib_table_lookup(table, Flowi4(daddr=addr), res, 0) and (dev is None or dev is res.nhc.nh_dev):
        return res.type
    return RTN_UNICAST


def inet_addr_type_table(net: Net, addr: int, tb_id: int) -> int:
    return __inet_dev_addr_type(net, None, addr, tb_id)


def inet_addr_type(net: Net, addr: int) -> int:
    """RTN_LOCAL: ours; RTN_BROADCAST, RTN_MULTICAST; RTN_UNICAST: anything else."""
    return __inet_dev_addr_type(net, None, addr, RT_TABLE_LOCAL)


def inet_addr_type_dev_table(net: Net, dev: NetDevice | None, addr: int) -> int:
    return __inet_dev_addr_type(net, None, addr, RT_TABLE_LOCAL)
