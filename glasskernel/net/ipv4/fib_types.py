"""Routes as they are configured: tables, next hops, and what a lookup answers.

Linux: include/net/ip_fib.h, net/ipv4/fib_lookup.h (5.3). Only data and defaults; fib_semantics.py, fib_trie.py and
fib_frontend.py work on them.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.slotted import field, slotted
from glasskernel.net.ipv4.types import RT_SCOPE_UNIVERSE, RTN_UNICAST, RTPROT_UNSPEC, Rtable

if TYPE_CHECKING:
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.types import Net

RTNH_F_DEAD, RTNH_F_PERVASIVE, RTNH_F_ONLINK, RTNH_F_LINKDOWN = 1, 2, 4, 16
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
FIB_LOOKUP_NOREF, FIB_LOOKUP_IGNORE_LINKSTATE = 1, 2


@slotted
class FibConfig:
    """struct fib_config: a route as somebody asks for it. fc_mp: several next hops: (oif, gw, weight, flags)."""

    fc_dst_len: int = 0
    fc_tos: int = 0
    fc_protocol: int = RTPROT_UNSPEC
    fc_scope: int = RT_SCOPE_UNIVERSE
    fc_type: int = RTN_UNICAST
    fc_table: int = 0
    fc_dst: int = 0
    fc_gw: int = 0
    fc_oif: int = 0
    fc_flags: int = 0
    fc_priority: int = 0
    fc_prefsrc: int = 0
    fc_mx: dict[int, int] = field(default_factory=dict)          # RTAX_*
    fc_mp: list[tuple[int, int, int, int]] = field(default_factory=list)
    fc_nlflags: int = 0


@slotted
class FibNhException:
    """struct fib_nh_exception: what was learned about one destination behind a next hop."""

    fnhe_pmtu: int = 0
    fnhe_mtu_locked: bool = False
    fnhe_gw: int = 0
    fnhe_expires: int = 0                # jiffies
    fnhe_rth_input: Rtable | None = None
    fnhe_rth_output: Rtable | None = None


@slotted
class FibNh:
    """struct fib_nh. nh_rth_output, nh_rth_input: the routes of those who went this way, a reference each."""

    nh_dev: NetDevice | None = None
    nh_oif: int = 0
    nh_gw: int = 0
    nh_scope: int = 0
    nh_flags: int = 0
    nh_weight: int = 1
    nh_upper_bound: int = -1
    nh_saddr: int = 0
    nh_saddr_genid: int = -1
    nh_rth_output: Rtable | None = None
    nh_rth_input: Rtable | None = None
    nh_exceptions: dict[int, FibNhException] = field(default_factory=dict)


@slotted
class FibInfo:
    """struct fib_info: what routes have in common. fib_treeref: how many routes use it."""

    fib_net: Net
    fib_protocol: int
    fib_scope: int
    fib_type: int
    fib_prefsrc: int
    fib_priority: int
    fib_tb_id: int
    fib_flags: int = 0
    fib_dead: bool = False
    fib_treeref: int = 0
    fib_metrics: dict[int, int] = field(default_factory=dict)
    fib_nh: list[FibNh] = field(default_factory=list)


@slotted
class FibAlias:
    """struct fib_alias: one route of a prefix. fa_slen: 32 minus the prefix length."""

    fa_info: FibInfo
    fa_tos: int
    fa_type: int
    fa_slen: int
    tb_id: int
    fa_accessed: bool = False


@slotted
class FibResult:
    """struct fib_result"""

    prefix: int = 0
    prefixlen: int = 0
    nh_sel: int = 0
    type: int = 0
    scope: int = 0
    fi: FibInfo = None  # type: ignore[assignment]
    nhc: FibNh = None  # type: ignore[assignment]
    fa_head: list[FibAlias] = field(default_factory=list)
    table: int = 0
