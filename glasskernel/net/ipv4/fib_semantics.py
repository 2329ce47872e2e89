"""What a route means: is it valid, which next hops has it, which are alive.

Linux: net/ipv4/fib_semantics.c (5.3). Same: the checks and their errno, sharing of equal fib_info, dead and link-down
next hops, source addresses. Differs: equal fib_info are found in a dict by their contents.
Owns: InetState.fib_info.  Gaps: nexthop objects, encapsulation, IPv6 gateways; the hash that chooses among several next
hops is not Linux's, so a flow may take another one.
Locks: rtnl for changes.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import EINVAL, ENETDOWN, ENODEV, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.core.dst import dst_dev_put
from glasskernel.net.ipv4.fib_lookup import (
    FIB_PROPS,
    RTN_MAX,
    fib_get_table,
    fib_lookup,
    fib_table_lookup,
    inet_addr_type,
    inet_addr_type_dev_table,
)
from glasskernel.net.ipv4.fib_types import (
    FIB_LOOKUP_IGNORE_LINKSTATE,
    RTNH_F_DEAD,
    RTNH_F_LINKDOWN,
    RTNH_F_ONLINK,
    RTNH_F_PERVASIVE,
    FibConfig,
    FibInfo,
    FibNh,
    FibResult,
)
from glasskernel.net.ipv4.in_device import in_dev_get, inet_select_addr, ipv4_of
from glasskernel.net.ipv4.types import (
    LOOPBACK_IFINDEX,
    RT_SCOPE_HOST,
    RT_SCOPE_LINK,
    RT_SCOPE_NOWHERE,
    RTN_LOCAL,
    RTN_UNICAST,
    Flowi4,
)
from glasskernel.net.netdevice import IFF_UP, NETDEV_CHANGE, dev_hold, dev_put, netif_carrier_ok

if TYPE_CHECKING:
    from glasskernel.net.ipv4.types import InetState, Rtable
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.types import Net

RTM_NEWROUTE, RTM_DELROUTE = 24, 25


@notrace
def inet_of(net: Net) -> InetState:
    """kernel.inet of a kernel whose IPv4 is up."""
    inet = net.kernel.inet
    assert inet is not None
    return inet


# ---- making -------------------------------------------------------------------------------------------------------
def fib_create_info(cfg: FibConfig, net: Net) -> FibInfo:
    """A fib_info for the route that cfg describes, with a reference for it. Raises EINVAL, ENODEV, ENETDOWN ..."""
    kind = cfg.fc_type
    if kind > RTN_MAX or FIB_PROPS[kind][1] > cfg.fc_scope or cfg.fc_flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN):
        raise KernelError(EINVAL)
    fi = FibInfo(net, cfg.fc_protocol, cfg.fc_scope, kind, cfg.fc_prefsrc, cfg.fc_priority, cfg.fc_table, cfg.fc_flags)
    fi.fib_metrics = dict(cfg.fc_mx)
    if cfg.fc_mp:
        fi.fib_nh = [FibNh(nh_oif=oif, nh_gw=gw, nh_weight=weight, nh_flags=flags)
                     for oif, gw, weight, flags in cfg.fc_mp]
    else:
        fi.fib_nh = [FibNh(nh_oif=cfg.fc_oif, nh_gw=cfg.fc_gw, nh_flags=cfg.fc_flags)]
    if FIB_PROPS[kind][0]:
        if cfg.fc_gw or cfg.fc_oif or cfg.fc_mp:
            raise KernelError(EINVAL)
    else:
        _check_next_hops(cfg, fi)
    if fi.fib_prefsrc and not fib_valid_prefsrc(cfg, net, fi.fib_prefsrc):
        raise KernelError(EINVAL)
    known = inet_of(net).fib_info
    key = _contents(fi)
    found: FibInfo | None = known.get(key)
    if found is not None:
        found.fib_treeref += 1
        return found
    fi.fib_treeref = 1
    known[key] = fi
    for nh in fi.fib_nh:
        if nh.nh_dev is not None:
            dev_hold(nh.nh_dev)
        fib_info_update_nhc_saddr(net, nh, fi.fib_scope)
    if len(fi.fib_nh) > 1:
        fib_rebalance(fi)
    return fi


@notrace
def _check_next_hops(cfg: FibConfig, fi: FibInfo) -> None:
    if not 0 < cfg.fc_type <= 5 or cfg.fc_scope > RT_SCOPE_HOST:
        raise KernelError(EINVAL)
    if cfg.fc_scope == RT_SCOPE_HOST:
        nh = fi.fib_nh[0]
        if len(fi.fib_nh) != 1 or nh.nh_gw:
            raise KernelError(EINVAL)
        nh.nh_scope = RT_SCOPE_NOWHERE
        nh.nh_dev = fi.fib_net.dev_by_index.get(nh.nh_oif)
        if nh.nh_dev is None:
            raise KernelError(ENODEV)
        return
    linkdown = 0
    for nh in fi.fib_nh:
        fib_check_nh(fi.fib_net, nh, cfg.fc_table, cfg.fc_scope)
        linkdown += bool(nh.nh_flags & RTNH_F_LINKDOWN)
    if linkdown == len(fi.fib_nh):
        fi.fib_flags |= RTNH_F_LINKDOWN


@notrace
def _contents(fi: FibInfo) -> tuple[object, ...]:
    """What makes two fib_info equal (fib_find_info(), nh_comp())."""
    return (fi.fib_net.inum, fi.fib_protocol, fi.fib_scope, fi.fib_prefsrc, fi.fib_priority, fi.fib_type, fi.fib_tb_id,
            fi.fib_flags & ~(RTNH_F_DEAD | RTNH_F_LINKDOWN), tuple(sorted(fi.fib_metrics.items())),
            tuple((nh.nh_oif, nh.nh_gw, nh.nh_weight, nh.nh_scope, nh.nh_flags & ~(RTNH_F_DEAD | RTNH_F_LINKDOWN))
                  for nh in fi.fib_nh))


def fib_check_nh(net: Net, nh: FibNh, table: int, scope: int) -> None:
    """Finds the next hop's device. Raises EINVAL, ENODEV, ENETDOWN, ENETUNREACH."""
    if nh.nh_gw:
        fib_check_nh_v4_gw(net, nh, table, scope)
    else:
        fib_check_nh_nongw(net, nh)


def fib_check_nh_v4_gw(net: Net, nh: FibNh, table: int, scope: int) -> None:
    """A gateway must be reachable directly: on the link, or through a route of a narrower scope."""
    if nh.nh_flags & RTNH_F_ONLINK:
        if scope >= RT_SCOPE_LINK:
            raise KernelError(EINVAL)
        dev = _up(net, nh.nh_oif)
        if inet_addr_type_dev_table(net, dev, nh.nh_gw) != RTN_UNICAST:
            raise KernelError(EINVAL)
        nh.nh_scope = RT_SCOPE_LINK
    else:
        fl4 = Flowi4(nh.nh_oif, LOOPBACK_IFINDEX, flowi4_scope=max(scope + 1, RT_SCOPE_LINK), daddr=nh.nh_gw)
        res = FibResult()
        tbl = fib_get_table(net, table) if table else None
        if tbl is None or fib_table_lookup(tbl, fl4, res, FIB_LOOKUP_IGNORE_LINKSTATE):
            err = fib_lookup(net, fl4, res, FIB_LOOKUP_IGNORE_LINKSTATE)
            if err:
                raise KernelError(err)
        if res.type not in (RTN_UNICAST, RTN_LOCAL) or res.nhc.nh_dev is None:
            raise KernelError(EINVAL)
        nh.nh_scope = res.scope
        nh.nh_oif = res.nhc.nh_oif
        dev = res.nhc.nh_dev
        if not dev.flags & IFF_UP:
            raise KernelError(ENETDOWN)
    _attach(nh, dev)


def fib_check_nh_nongw(net: Net, nh: FibNh) -> None:
    """Without a gateway the destination is on the device's link."""
    if nh.nh_flags & (RTNH_F_PERVASIVE | RTNH_F_ONLINK):
        raise KernelError(EINVAL)
    dev = _up(net, nh.nh_oif)
    nh.nh_scope = RT_SCOPE_HOST
    _attach(nh, dev)


@notrace
def _up(net: Net, oif: int) -> NetDevice:
    dev = net.dev_by_index.get(oif)
    if dev is None:
        raise KernelError(ENODEV)
    if not dev.flags & IFF_UP:
        raise KernelError(ENETDOWN)
    return dev


@notrace
def _attach(nh: FibNh, dev: NetDevice) -> None:
    nh.nh_dev = dev
    if not netif_carrier_ok(dev):
        nh.nh_flags |= RTNH_F_LINKDOWN


def fib_valid_prefsrc(cfg: FibConfig, net: Net, prefsrc: int) -> bool:
    """A source address must be ours; the route of an address may name the address itself."""
    if cfg.fc_type == RTN_LOCAL and cfg.fc_dst and prefsrc == cfg.fc_dst:
        return True
    return inet_addr_type(net, prefsrc) == RTN_LOCAL


# ---- freeing ------------------------------------------------------------------------------------------------------
def fib_release_info(fi: FibInfo) -> None:
    """One route less uses it."""
    fi.fib_treeref -= 1
    if not fi.fib_treeref:
        known = inet_of(fi.fib_net).fib_info
        key = _contents(fi)
        if known.get(key) is fi:
            del known[key]
        fi.fib_dead = True
        for nh in fi.fib_nh:
            fib_nh_release(nh)


def fib_nh_release(nh: FibNh) -> None:
    """Lets go of the device and of the routes that are remembered."""
    fib_nh_flush_routes(nh)
    if nh.nh_dev is not None:
        dev_put(nh.nh_dev)


@notrace
def fib_nh_flush_routes(nh: FibNh) -> None:
    """rt_fibinfo_free() and free_nh_exceptions()"""
    rt_fibinfo_free(nh.nh_rth_output)
    rt_fibinfo_free(nh.nh_rth_input)
    nh.nh_rth_output = nh.nh_rth_input = None
    for fnhe in nh.nh_exceptions.values():
        rt_fibinfo_free(fnhe.fnhe_rth_output)
        rt_fibinfo_free(fnhe.fnhe_rth_input)
    nh.nh_exceptions.clear()


@notrace
def rt_fibinfo_free(rt: Rtable | None) -> None:
    """Sockets that still hold the route see that it is dead."""
    if rt is not None:
        dst_dev_put(rt)
        rt.release()


# ---- answering ----------------------------------------------------------------------------------------------------
def fib_info_update_nhc_saddr(net: Net, nhc: FibNh, scope: int) -> int:
    nhc.nh_saddr = inet_select_addr(nhc.nh_dev, nhc.nh_gw, scope)
    nhc.nh_saddr_genid = ipv4_of(net).dev_addr_genid
    return nhc.nh_saddr


def fib_result_prefsrc(net: Net, res: FibResult) -> int:
    """The source address of the route; looked up again when addresses have changed."""
    if res.fi.fib_prefsrc:
        return res.fi.fib_prefsrc
    nhc = res.nhc
    if nhc.nh_saddr_genid == ipv4_of(net).dev_addr_genid:
        return nhc.nh_saddr
    return fib_info_update_nhc_saddr(net, nhc, res.fi.fib_scope)


def fib_select_path(net: Net, res: FibResult, fl4: Flowi4) -> None:
    """Chooses among several next hops and default routes; sets the flow's source address."""
    if not (fl4.flowi4_oif and fl4.flowi4_oif != LOOPBACK_IFINDEX):
        if len(res.fi.fib_nh) > 1:
            fib_select_multipath(res, fib_multipath_hash(fl4))
        elif not res.prefixlen and res.type == RTN_UNICAST:
            tb = fib_get_table(net, res.table)
            if tb is not None and tb.tb_num_default > 1:
                fib_select_default(fl4, res)
    if not fl4.saddr:
        fl4.saddr = fib_result_prefsrc(net, res)


@notrace
def fib_multipath_hash(fl4: Flowi4) -> int:
    """31 bits, the same for all packets from one address to another."""
    value = (fl4.saddr * 0x9E3779B1 ^ fl4.daddr * 0x85EBCA6B) & 0xFFFFFFFF
    return (value ^ value >> 15) & 0x7FFFFFFF


def fib_select_multipath(res: FibResult, value: int) -> None:
    """The next hop to whose share of the hash's range the value belongs."""
    first = None
    for nhsel, nh in enumerate(res.fi.fib_nh):
        if nh.nh_flags & RTNH_F_DEAD:
            continue
        first = first if first is not None else nhsel
        if value <= nh.nh_upper_bound:
            first = nhsel
            break
    if first is not None:
        res.nh_sel, res.nhc = first, res.fi.fib_nh[first]


def fib_select_default(fl4: Flowi4, res: FibResult) -> None:
    """The first default route with the result's TOS and priority whose gateway lives."""
    for fa in res.fa_head:
        fi = fa.fa_info
        if fa.fa_slen != 32 or (fa.fa_tos and fa.fa_tos != fl4.flowi4_tos) or fi.fib_dead:
            continue
        nh = fi.fib_nh[0]
        if fi.fib_scope == res.scope and fa.fa_type == RTN_UNICAST and nh.nh_gw and not nh.nh_flags & RTNH_F_DEAD:
            res.fi, res.nhc, res.nh_sel = fi, nh, 0
            return


def fib_rebalance(fi: FibInfo) -> None:
    """Shares the hash's range among the next hops that live, by weight."""
    alive = [nh for nh in fi.fib_nh if not nh.nh_flags & RTNH_F_DEAD]
    total = sum(nh.nh_weight for nh in alive)
    sum_of_weights = 0
    for nh in fi.fib_nh:
        nh.nh_upper_bound = -1
    for nh in alive:
        sum_of_weights += nh.nh_weight
        nh.nh_upper_bound = (sum_of_weights << 31) // total - 1


# ---- devices and addresses come and go ----------------------------------------------------------------------------
def fib_sync_down_addr(dev: NetDevice, local: int) -> int:
    """Routes that name a source address which is gone are dead. How many."""
    count = 0
    for fi in list(inet_of(dev.net).fib_info.values()):
        if fi.fib_net is dev.net and local and fi.fib_prefsrc == local and not fi.fib_flags & RTNH_F_DEAD:
            fi.fib_flags |= RTNH_F_DEAD
            count += 1
    return count


def fib_sync_down_dev(dev: NetDevice, event: int, force: bool) -> int:
    """Next hops over a device that went down are dead, those without a carrier link-down. How many routes died."""
    count = 0
    scope = -1 if force else RT_SCOPE_NOWHERE
    for fi in list(inet_of(dev.net).fib_info.values()):
        dead = 0
        for nh in fi.fib_nh:
            if nh.nh_flags & RTNH_F_DEAD:
                dead += 1
            elif nh.nh_dev is dev and nh.nh_scope != scope:
                nh.nh_flags |= RTNH_F_LINKDOWN if event == NETDEV_CHANGE else RTNH_F_DEAD | RTNH_F_LINKDOWN
                dead += 1
        if dead and dead == len(fi.fib_nh) and any(nh.nh_dev is dev for nh in fi.fib_nh):
            fi.fib_flags |= RTNH_F_LINKDOWN if event == NETDEV_CHANGE else RTNH_F_DEAD | RTNH_F_LINKDOWN
            count += event != NETDEV_CHANGE
        if len(fi.fib_nh) > 1:
            fib_rebalance(fi)
    return count


def fib_sync_up(dev: NetDevice, nh_flags: int) -> int:
    """Next hops over a device that is up again (RTNH_F_DEAD), or has a carrier again (RTNH_F_LINKDOWN), live."""
    if not dev.flags & IFF_UP:
        return 0
    if nh_flags & RTNH_F_DEAD and netif_carrier_ok(dev):
        nh_flags |= RTNH_F_LINKDOWN
    count = 0
    for fi in inet_of(dev.net).fib_info.values():
        alive = 0
        for nh in fi.fib_nh:
            if not nh.nh_flags & nh_flags:
                alive += 1
            elif nh.nh_dev is dev and in_dev_get(dev) is not None:
                nh.nh_flags &= ~nh_flags
                alive += 1
        if alive and fi.fib_flags & nh_flags:
            fi.fib_flags &= ~nh_flags
            count += 1
        if len(fi.fib_nh) > 1:
            fib_rebalance(fi)
    return count

