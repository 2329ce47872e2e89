"""veth: two devices with a cable between them, often in two namespaces.

Linux: drivers/net/veth.c (5.3). Same: both are made and deleted together; there is a carrier while both are up; what
one sends, the other receives through the backlog, or with an XDP program through a poller of its own (veth_xdp.py).
Gaps: several queues. Owns: NetDevice.priv: VethPriv.
"""
from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from glasskernel.lib.errno import ENOTCONN, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.net.core.dev_register import register_netdevice, unregister_netdevice
from glasskernel.net.core.link_watch import netif_carrier_off, netif_carrier_on
from glasskernel.net.core.napi import netif_rx
from glasskernel.net.core.rtnl_ifinfo import IFLA_ADDRESS, IFLA_IFNAME, IFLA_MAX, ifinfomsg
from glasskernel.net.core.rtnl_setlink import RtnlLinkOps, rtnl_configure_link, rtnl_create_link, rtnl_link_register
from glasskernel.net.core.xdp import XDP_QUERY_PROG, NetdevBpf
from glasskernel.net.ethernet.eth import (
    check_link_address,
    eth_hw_addr_random,
    eth_mac_addr,
    eth_type_trans,
    ether_setup,
)
from glasskernel.net.netdevice import (
    IFF_UP,
    NET_RX_SUCCESS,
    NETDEV_TX_OK,
    NETIF_F_HW_CSUM,
    NETIF_F_RXCSUM,
    NETIF_F_SG,
    NETIF_F_TSO,
    EthtoolOps,
    NetDevice,
    NetDeviceOps,
)
from glasskernel.net.nlattr import nla_parse_nested_deprecated, nla_str
from glasskernel.net.skbuff import PACKET_HOST, SKB_CAPACITY, SkBuff, kfree_skb, skb_dst_drop, skb_orphan

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.bpf.types import BpfProg
    from glasskernel.net.netdevice import NapiStruct
    from glasskernel.net.nlattr import Attributes, NetlinkExtAck
    from glasskernel.net.types import Net

VETH_INFO_PEER = 1


@slotted
class VethPriv:
    """struct veth_priv and its only veth_rq. xdp_napi: while the device is up and has a program."""

    peer: NetDevice | None = None
    xdp_prog: BpfProg | None = None
    xdp_ring: deque[SkBuff] = field(default_factory=deque)
    xdp_napi: NapiStruct | None = None


# ---- packets -------------------------------------------------------------------------------------------------
def veth_xmit(skb: SkBuff, dev: NetDevice) -> int:
    """->ndo_start_xmit()"""
    rcv: NetDevice | None = dev.priv.peer
    length = skb.len
    if rcv is not None and veth_forward_skb(rcv, skb) == NET_RX_SUCCESS:
        dev.stats.tx_packets += 1
        dev.stats.tx_bytes += length
        rcv.stats.rx_packets += 1
        rcv.stats.rx_bytes += length
    else:
        if rcv is None:
            kfree_skb(skb)
        dev.stats.tx_dropped += 1
    return NETDEV_TX_OK


def veth_forward_skb(dev: NetDevice, skb: SkBuff) -> int:
    """The other one receives it, if it is up and the packet fits."""
    if not dev.flags & IFF_UP or (skb.len > dev.mtu + dev.hard_header_len and not skb.shinfo.gso_size):
        dev.stats.rx_dropped += 1
        kfree_skb(skb)
        return 1
    skb_scrub_packet(skb)
    skb.protocol = eth_type_trans(skb, dev)
    priv: VethPriv = dev.priv
    if priv.xdp_napi is None:
        return netif_rx(skb)
    from glasskernel.drivers.net.veth_xdp import veth_xdp_rx  # imported by the first program

    return veth_xdp_rx(dev, skb)


def skb_scrub_packet(skb: SkBuff) -> None:
    """Forgets what the packet's past was in its old namespace."""
    skb.pkt_type = PACKET_HOST
    skb.skb_iif = 0
    skb.tstamp = 0
    skb.mark = 0
    skb.priority = 0
    skb.network_header = skb.transport_header = SKB_CAPACITY
    skb_dst_drop(skb)
    skb_orphan(skb)


# ---- up, down, made, deleted -----------------------------------------------------------------------------------
def veth_open(dev: NetDevice) -> None:
    """->ndo_open(). Raises ENOTCONN for one whose other end is gone."""
    priv: VethPriv = dev.priv
    peer = priv.peer
    if peer is None:
        raise KernelError(ENOTCONN)
    if priv.xdp_prog is not None:
        from glasskernel.drivers.net.veth_xdp import veth_enable_xdp

        veth_enable_xdp(dev)
    if peer.flags & IFF_UP:
        netif_carrier_on(dev)
        netif_carrier_on(peer)


def veth_close(dev: NetDevice) -> None:
    """->ndo_stop()"""
    priv: VethPriv = dev.priv
    netif_carrier_off(dev)
    if priv.peer is not None:
        netif_carrier_off(priv.peer)
    if priv.xdp_napi is not None:
        from glasskernel.drivers.net.veth_xdp import veth_disable_xdp

        veth_disable_xdp(dev)


def veth_get_iflink(dev: NetDevice) -> int:
    """->ndo_get_iflink(): the other end's number."""
    peer: NetDevice | None = dev.priv.peer
    return peer.ifindex if peer is not None else 0


def veth_get_drvinfo(dev: NetDevice) -> dict[str, bytes]:
    return {"driver": b"veth", "version": b"1.0", "fw_version": b"", "bus_info": b""}


def veth_xdp(dev: NetDevice, xdp: NetdevBpf) -> None:
    """->ndo_bpf()"""
    priv: VethPriv = dev.priv
    if xdp.command == XDP_QUERY_PROG:
        xdp.prog_id = priv.xdp_prog.id if priv.xdp_prog is not None else 0
        return
    from glasskernel.drivers.net.veth_xdp import veth_xdp_set

    veth_xdp_set(dev, xdp)


@notrace
def veth_xdp_xmit(dev: NetDevice, frame: bytes) -> int:
    """->ndo_xdp_xmit(): who gets here has imported BPF."""
    from glasskernel.drivers.net import veth_xdp

    return veth_xdp.veth_xdp_xmit(dev, frame)


veth_netdev_ops = NetDeviceOps(ndo_start_xmit=veth_xmit, ndo_open=veth_open, ndo_stop=veth_close,
                               ndo_set_mac_address=eth_mac_addr, ndo_get_iflink=veth_get_iflink,
                               ndo_bpf=veth_xdp, ndo_xdp_xmit=veth_xdp_xmit)
veth_ethtool_ops = EthtoolOps(get_drvinfo=veth_get_drvinfo)


def veth_setup(dev: NetDevice) -> None:
    ether_setup(dev)
    dev.priv = VethPriv()
    dev.no_queue = True
    dev.netdev_ops = veth_netdev_ops
    dev.ethtool_ops = veth_ethtool_ops
    dev.needs_free_netdev = True
    dev.max_mtu = 65535
    dev.features = dev.hw_features = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_RXCSUM | NETIF_F_TSO


def veth_validate(tb: Attributes, data: Attributes, extack: NetlinkExtAck) -> None:
    """Raises EINVAL, EADDRNOTAVAIL: no such address can be."""
    check_link_address(tb.get(IFLA_ADDRESS))


def veth_newlink(net: Net, dev: NetDevice, tb: Attributes, data: Attributes, extack: NetlinkExtAck) -> None:
    """->newlink(): the peer first, with what the message says of it; then the device. Locks: rtnl."""
    nested = data.get(VETH_INFO_PEER, b"")
    tbp: Attributes = {}
    flags = change = 0
    if len(nested) >= ifinfomsg.size:
        _family, _type, _index, flags, change = ifinfomsg.unpack_from(nested)
        tbp = nla_parse_nested_deprecated(nested[ifinfomsg.size :], IFLA_MAX)
        veth_validate(tbp, {}, extack)
    name = nla_str(tbp[IFLA_IFNAME]) if IFLA_IFNAME in tbp else b"veth%d"
    peer = rtnl_create_link(net, name, veth_link_ops, tbp)
    if IFLA_ADDRESS not in tbp:
        eth_hw_addr_random(peer)
    register_netdevice(peer)
    netif_carrier_off(peer)
    rtnl_configure_link(peer, flags, change)
    if IFLA_ADDRESS not in tb:
        eth_hw_addr_random(dev)
    try:
        register_netdevice(dev)
    except KernelError:
        unregister_netdevice(peer)
        raise
    netif_carrier_off(dev)
    dev.priv.peer, peer.priv.peer = peer, dev


def veth_dellink(dev: NetDevice) -> None:
    """->dellink(): both. Locks: rtnl."""
    peer: NetDevice | None = dev.priv.peer
    dev.priv.peer = None
    unregister_netdevice(dev)
    if peer is not None:
        peer.priv.peer = None
        unregister_netdevice(peer)


veth_link_ops = RtnlLinkOps(b"veth", setup=veth_setup, validate=veth_validate, newlink=veth_newlink,
                            dellink=veth_dellink)


def veth_init(kernel: Kernel) -> None:
    rtnl_link_register(kernel, veth_link_ops)
