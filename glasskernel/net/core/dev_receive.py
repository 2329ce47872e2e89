"""Packets from devices to protocols and taps.

Linux: net/core/dev.c (5.3), its receive half. Same: taps see a packet before its protocol does, each but the last
with a reference of its own; packets of a list that go to the same protocol are handed on together.
Gaps: RPS, rx_handler (bridges, bonds), VLANs, ingress filters.
Owns: NetState.ptype_all, ptype_base; NetDevice.ptype_*. Context: softirq. The skb is given.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.lib.types import notrace
from glasskernel.machine.costs import PACKET_RECEIVE
from glasskernel.net.core.dev_chain import net_of
from glasskernel.net.core.xdp import XDP_PASS
from glasskernel.net.netdevice import ETH_P_ALL, NET_RX_DROP, NetDevice, PacketType
from glasskernel.net.skbuff import (
    SKB_CAPACITY,
    SkBuff,
    kfree_skb,
    skb_get,
    skb_reset_network_header,
    skb_reset_transport_header,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


# ---- who wants which packets ----------------------------------------------------------------------------------------
@notrace
def _ptype_head(kernel: Kernel, pt: PacketType) -> list[PacketType]:
    """ptype_head(): the list it belongs to."""
    dev = pt.dev
    if pt.type == ETH_P_ALL:
        return dev.ptype_all if dev is not None else net_of(kernel).ptype_all
    return (dev.ptype_specific if dev is not None else net_of(kernel).ptype_base).setdefault(pt.type, [])


def dev_add_pack(kernel: Kernel, pt: PacketType) -> None:
    """From now on pt.func gets packets of pt.type (ETH_P_ALL: all, those that are sent, too). Context: any."""
    _ptype_head(kernel, pt).insert(0, pt)


def __dev_remove_pack(kernel: Kernel, pt: PacketType) -> None:
    _ptype_head(kernel, pt).remove(pt)


def dev_remove_pack(kernel: Kernel, pt: PacketType) -> None:
    """The contrary. Nobody is in pt.func any more afterwards: that runs without sleeping here."""
    __dev_remove_pack(kernel, pt)


@notrace
def net_timestamp_check(kernel: Kernel, skb: SkBuff) -> None:
    if not skb.tstamp and net_of(kernel).netstamp_needed:
        skb.tstamp = ktime_get_real()


# ---- one packet -----------------------------------------------------------------------------------------------------
def netif_receive_skb(skb: SkBuff) -> int:
    """A driver received a packet: skb.data is behind the link's header, skb.protocol is set. Answers NET_RX_*."""
    tp = register.task.kernel.tp
    probe = tp.netif_receive_skb_entry
    if probe is not None:
        probe(skb)
    ret = netif_receive_skb_internal(skb)
    probe = tp.netif_receive_skb_exit
    if probe is not None:
        probe(ret)
    return ret


def netif_receive_skb_internal(skb: SkBuff) -> int:
    net_timestamp_check(register.task.kernel, skb)
    return __netif_receive_skb(skb)


def __netif_receive_skb(skb: SkBuff) -> int:
    return __netif_receive_skb_one_core(skb)


def __netif_receive_skb_one_core(skb: SkBuff) -> int:
    orig_dev = skb.dev
    assert orig_dev is not None
    ret, pt_prev = __netif_receive_skb_core(skb)
    if pt_prev is not None:
        assert skb.dev is not None
        return pt_prev.func(skb, skb.dev, pt_prev, orig_dev)
    return ret


def __netif_receive_skb_core(skb: SkBuff) -> tuple[int, PacketType | None]:
    """Gives the packet to everybody who wants it but the last, whom it answers. None: nobody did, and it is freed."""
    orig_dev = skb.dev
    assert orig_dev is not None
    kernel = orig_dev.net.kernel
    state = net_of(kernel)
    net_timestamp_check(kernel, skb)
    probe = kernel.tp.netif_receive_skb
    if probe is not None:
        probe(skb)
    skb_reset_network_header(skb)
    if skb.transport_header == SKB_CAPACITY:
        skb_reset_transport_header(skb)
    skb.mac_len = skb.network_header - skb.mac_header if skb.mac_header != SKB_CAPACITY else 0
    skb.skb_iif = orig_dev.ifindex
    state.softnet_data[register.task.cpu].processed += 1
    kernel.machine.charge(PACKET_RECEIVE)
    do_xdp_generic = state.do_xdp_generic
    if do_xdp_generic is not None:
        if do_xdp_generic(orig_dev.xdp_prog, skb) != XDP_PASS:
            return NET_RX_DROP, None
        skb.mac_len = skb.network_header - skb.mac_header if skb.mac_header != SKB_CAPACITY else 0
    ret = NET_RX_DROP
    pt_prev: PacketType | None = None
    kind = skb.protocol
    for ptypes in (state.ptype_all, orig_dev.ptype_all, state.ptype_base.get(kind, ()),
                   orig_dev.ptype_specific.get(kind, ())):
        for ptype in tuple(ptypes):
            if pt_prev is not None:
                ret = deliver_skb(skb, pt_prev, orig_dev)
            pt_prev = ptype
    if pt_prev is None:
        orig_dev.stats.rx_dropped += 1
        kfree_skb(skb)
    return ret, pt_prev


@notrace
def deliver_skb(skb: SkBuff, pt_prev: PacketType, orig_dev: NetDevice) -> int:
    assert skb.dev is not None
    return pt_prev.func(skb_get(skb), skb.dev, pt_prev, orig_dev)


# ---- many packets ---------------------------------------------------------------------------------------------------
def netif_receive_skb_list(skbs: list[SkBuff]) -> None:
    """netif_receive_skb() of several at once."""
    tp = register.task.kernel.tp
    if not skbs:
        return
    probe = tp.netif_receive_skb_list_entry
    if probe is not None:
        for skb in skbs:
            probe(skb)
    netif_receive_skb_list_internal(skbs)
    probe = tp.netif_receive_skb_list_exit
    if probe is not None:
        probe(0)


def netif_receive_skb_list_internal(skbs: list[SkBuff]) -> None:
    kernel = register.task.kernel
    for skb in skbs:
        net_timestamp_check(kernel, skb)
    __netif_receive_skb_list_core(skbs)


def __netif_receive_skb_list_core(skbs: list[SkBuff]) -> None:
    """Neighbours with the same protocol and device make sublists."""
    sublist: list[SkBuff] = []
    pt_curr: PacketType | None = None
    od_curr: NetDevice | None = None
    for skb in skbs:
        orig_dev = skb.dev
        _, pt_prev = __netif_receive_skb_core(skb)
        if pt_prev is None:
            continue
        if pt_curr is not pt_prev or od_curr is not orig_dev:
            __netif_receive_skb_list_ptype(sublist, pt_curr, od_curr)
            sublist = []
            pt_curr, od_curr = pt_prev, orig_dev
        sublist.append(skb)
    __netif_receive_skb_list_ptype(sublist, pt_curr, od_curr)


@notrace
def __netif_receive_skb_list_ptype(skbs: list[SkBuff], pt_prev: PacketType | None, orig_dev: NetDevice | None) -> None:
    if not skbs:
        return
    assert pt_prev is not None
    assert orig_dev is not None
    if pt_prev.list_func is not None:
        pt_prev.list_func(skbs, pt_prev, orig_dev)
        return
    for skb in skbs:
        assert skb.dev is not None
        pt_prev.func(skb, skb.dev, pt_prev, orig_dev)
