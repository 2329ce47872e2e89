"""XDP of veth: packets from the other end go through a ring and a poller to the program.

Linux: drivers/net/veth.c (5.3), its XDP part. Same: what is refused; the other end stops segmenting large packets
itself; XDP_TX and redirected frames need a program at both ends.
Differs: a frame is bytes, and becomes an skb before its program runs; there are no bulks.
Owns: VethPriv.xdp_prog (a reference), xdp_ring, xdp_napi. Locks: rtnl, where programs are changed.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.bpf.objects import bpf_prog_put
from glasskernel.lib.errno import ENETDOWN, ENOSPC, ENOTCONN, ENXIO, ERANGE
from glasskernel.lib.types import may_sleep
from glasskernel.net.core.dev_xdp import run_xdp_on_skb, xdp_dropped
from glasskernel.net.core.gro import napi_gro_receive
from glasskernel.net.core.napi import (
    __napi_schedule,
    napi_complete_done,
    napi_disable,
    napi_enable,
    napi_schedule_prep,
    netif_napi_add,
    netif_napi_del,
)
from glasskernel.net.core.xdp import XDP_PACKET_HEADROOM, XDP_PASS, XDP_REDIRECT, XDP_TX, NetdevBpf, XdpBuff, XdpRxqInfo
from glasskernel.net.core.xdp_redirect import trace_xdp_exception, xdp_do_redirect
from glasskernel.net.ethernet.eth import eth_type_trans
from glasskernel.net.netdevice import IFF_UP, NET_RX_DROP, NET_RX_SUCCESS, NETIF_F_TSO
from glasskernel.net.nlattr import nla_error
from glasskernel.net.skbuff import SkBuff, consume_skb, kfree_skb, skb_orphan, skb_put_data, skb_reserve

if TYPE_CHECKING:
    from glasskernel.drivers.net.veth import VethPriv
    from glasskernel.net.netdevice import NapiStruct, NetDevice

VETH_RING_SIZE = 256
VETH_XDP_HEADROOM = XDP_PACKET_HEADROOM
_SHARED_INFO = 320                       # SKB_DATA_ALIGN(sizeof(struct skb_shared_info))
_ETH_MAX_MTU = 65535


# ---- attaching -------------------------------------------------------------------------------------------------
@may_sleep
def veth_xdp_set(dev: NetDevice, xdp: NetdevBpf) -> None:
    """XDP_SETUP_PROG. Raises ENOTCONN, ERANGE. Locks: rtnl."""
    priv: VethPriv = dev.priv
    prog, old, peer = xdp.prog, priv.xdp_prog, priv.peer
    if prog is not None:
        if peer is None:
            raise nla_error(ENOTCONN, xdp.extack, b"Cannot set XDP when peer is detached")
        max_mtu = 4096 - VETH_XDP_HEADROOM - peer.hard_header_len - _SHARED_INFO
        if peer.mtu > max_mtu:
            raise nla_error(ERANGE, xdp.extack, b"Peer MTU is too large to set XDP")
        priv.xdp_prog = prog
        if dev.flags & IFF_UP:
            veth_enable_xdp(dev)
        if old is None:
            peer.hw_features &= ~NETIF_F_TSO
            peer.features &= ~NETIF_F_TSO
            peer.max_mtu = max_mtu
    if old is not None:
        if prog is None:
            if dev.flags & IFF_UP:
                veth_disable_xdp(dev)
            if peer is not None:
                peer.hw_features |= NETIF_F_TSO
                peer.features |= NETIF_F_TSO
                peer.max_mtu = _ETH_MAX_MTU
            priv.xdp_prog = None
        bpf_prog_put(old)


def veth_enable_xdp(dev: NetDevice) -> None:
    """The device is up and has a program: its poller works."""
    priv: VethPriv = dev.priv
    if priv.xdp_napi is None:
        priv.xdp_napi = netif_napi_add(dev, veth_poll, 64)
        napi_enable(priv.xdp_napi)


@may_sleep
def veth_disable_xdp(dev: NetDevice) -> None:
    """What waits in the ring is lost."""
    priv: VethPriv = dev.priv
    napi = priv.xdp_napi
    if napi is None:
        return
    napi_disable(napi)
    netif_napi_del(napi)
    priv.xdp_napi = None
    while priv.xdp_ring:
        kfree_skb(priv.xdp_ring.popleft())


# ---- packets ---------------------------------------------------------------------------------------------------
def veth_xdp_rx(dev: NetDevice, skb: SkBuff) -> int:
    """Into the ring of a device with a program. Answers NET_RX_*."""
    priv: VethPriv = dev.priv
    if len(priv.xdp_ring) >= VETH_RING_SIZE:
        kfree_skb(skb)
        return NET_RX_DROP
    priv.xdp_ring.append(skb)
    __veth_xdp_flush(priv)
    return NET_RX_SUCCESS


def __veth_xdp_flush(priv: VethPriv) -> None:
    """Wakes the poller."""
    napi = priv.xdp_napi
    if napi is not None and napi_schedule_prep(napi):
        __napi_schedule(napi)


def veth_poll(napi: NapiStruct, budget: int) -> int:
    """->poll()"""
    done = veth_xdp_rcv(napi, budget)
    if done < budget:
        napi_complete_done(napi, done)
    return done


def veth_xdp_rcv(napi: NapiStruct, budget: int) -> int:
    """Takes packets from the ring through the program; answers how many."""
    ring = napi.dev.priv.xdp_ring
    done = 0
    while done < budget and ring:
        skb = veth_xdp_rcv_skb(napi.dev, ring.popleft())
        if skb is not None:
            napi_gro_receive(napi, skb)
        done += 1
    return done


def veth_xdp_rcv_skb(dev: NetDevice, skb: SkBuff) -> SkBuff | None:
    """The packet, if the program lets it through. The skb is given."""
    prog = dev.priv.xdp_prog
    skb_orphan(skb)
    if prog is None:
        return skb
    xdp = XdpBuff(bytearray(), 0, 0, 0, 0, XdpRxqInfo(dev))
    act = run_xdp_on_skb(skb, xdp, prog)
    if act == XDP_PASS:
        return skb
    if act == XDP_TX:
        if not veth_xdp_xmit(dev, bytes(xdp.memory[xdp.data : xdp.data_end])):
            consume_skb(skb)
            return None
        trace_xdp_exception(dev, prog, act)
    elif act == XDP_REDIRECT:
        if not xdp_do_redirect(dev, xdp, prog):
            consume_skb(skb)
            return None
    else:
        xdp_dropped(dev, prog, act)
    kfree_skb(skb)
    return None


def veth_xdp_xmit(dev: NetDevice, frame: bytes) -> int:
    """->ndo_xdp_xmit(): to the other end, which must have a program. 0 or a negative errno."""
    rcv: NetDevice | None = dev.priv.peer
    if rcv is None or rcv.priv.xdp_napi is None:
        return -ENXIO
    if not rcv.flags & IFF_UP:
        return -ENETDOWN
    if len(frame) > rcv.mtu + rcv.hard_header_len + 4 or len(rcv.priv.xdp_ring) >= VETH_RING_SIZE:
        return -ENOSPC
    skb = SkBuff(VETH_XDP_HEADROOM + len(frame))
    skb_reserve(skb, VETH_XDP_HEADROOM)
    skb_put_data(skb, frame)
    skb.protocol = eth_type_trans(skb, rcv)
    rcv.priv.xdp_ring.append(skb)
    __veth_xdp_flush(rcv.priv)
    return 0
