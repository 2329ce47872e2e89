"""dummy: a device that throws everything away.

Linux: drivers/net/dummy.c (5.3). Differs: none is made when the module is loaded (numdummies=0).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.net.core.rtnl_ifinfo import IFLA_ADDRESS
from glasskernel.net.core.rtnl_setlink import RtnlLinkOps, rtnl_link_register
from glasskernel.net.ethernet.eth import check_link_address, eth_hw_addr_random, eth_mac_addr, ether_setup
from glasskernel.net.netdevice import (
    IFF_MULTICAST,
    IFF_NOARP,
    NETDEV_TX_OK,
    NETIF_F_HW_CSUM,
    NETIF_F_SG,
    NETIF_F_TSO,
    NetDevice,
    NetDeviceOps,
)
from glasskernel.net.skbuff import SkBuff, kfree_skb

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.nlattr import Attributes, NetlinkExtAck


def dummy_xmit(skb: SkBuff, dev: NetDevice) -> int:
    """->ndo_start_xmit()"""
    dev.stats.tx_packets += 1
    dev.stats.tx_bytes += skb.len
    kfree_skb(skb)
    return NETDEV_TX_OK


def set_multicast_list(dev: NetDevice) -> None:
    """->ndo_set_rx_mode(): there is nothing to listen to."""


dummy_netdev_ops = NetDeviceOps(ndo_start_xmit=dummy_xmit, ndo_set_rx_mode=set_multicast_list,
                                ndo_set_mac_address=eth_mac_addr)


def dummy_setup(dev: NetDevice) -> None:
    ether_setup(dev)
    dev.netdev_ops = dummy_netdev_ops
    dev.needs_free_netdev = True
    dev.flags = (dev.flags | IFF_NOARP) & ~IFF_MULTICAST
    dev.no_queue = True
    dev.features = dev.hw_features = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_TSO
    dev.min_mtu = dev.max_mtu = 0
    eth_hw_addr_random(dev)


def dummy_validate(tb: Attributes, data: Attributes, extack: NetlinkExtAck) -> None:
    """Raises EINVAL, EADDRNOTAVAIL: no such address can be."""
    check_link_address(tb.get(IFLA_ADDRESS))


dummy_link_ops = RtnlLinkOps(b"dummy", setup=dummy_setup, validate=dummy_validate)


def dummy_init_module(kernel: Kernel) -> None:
    rtnl_link_register(kernel, dummy_link_ops)
