"""lo: what is sent comes back.

Linux: drivers/net/loopback.c (5.3). Same: every namespace has one; packets keep their route and their unfinished
checksum, and go up through the backlog of the CPU that sent them; big TCP packets are not segmented.
Owns: Net.loopback_dev.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace
from glasskernel.net.core.dev_register import alloc_netdev_mqs, register_netdev, unregister_netdevice
from glasskernel.net.core.napi import netif_rx
from glasskernel.net.core.net_namespace import default_device_ops, register_pernet_device
from glasskernel.net.core.rtnl import rtnl_lock, rtnl_unlock
from glasskernel.net.ethernet.eth import eth_header_ops, eth_mac_addr, eth_type_trans
from glasskernel.net.netdevice import (
    ARPHRD_LOOPBACK,
    ETH_HLEN,
    IFF_LOOPBACK,
    NET_RX_SUCCESS,
    NETDEV_TX_OK,
    NETIF_F_HW_CSUM,
    NETIF_F_LOOPBACK,
    NETIF_F_RXCSUM,
    NETIF_F_SG,
    NETIF_F_TSO,
    EthtoolOps,
    NetDevice,
    NetDeviceOps,
    NetDeviceStats,
)
from glasskernel.net.skbuff import SkBuff, skb_orphan
from glasskernel.net.types import PernetOperations

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.types import Net


def loopback_xmit(skb: SkBuff, dev: NetDevice) -> int:
    """->ndo_start_xmit()"""
    skb.tstamp = 0
    skb_orphan(skb)                      # before the receiver: it may block the sender's buffer
    skb.protocol = eth_type_trans(skb, dev)
    length = skb.len
    if netif_rx(skb) == NET_RX_SUCCESS:
        stats = dev.stats
        stats.rx_packets += 1
        stats.tx_packets += 1
        stats.rx_bytes += length
        stats.tx_bytes += length
    return NETDEV_TX_OK


def loopback_get_stats64(dev: NetDevice) -> NetDeviceStats:
    """->ndo_get_stats64()"""
    return dev.stats


def loopback_dev_init(dev: NetDevice) -> None:
    """->ndo_init()"""
    dev.stats = NetDeviceStats()


loopback_ops = NetDeviceOps(
    ndo_start_xmit=loopback_xmit, ndo_init=loopback_dev_init, ndo_get_stats64=loopback_get_stats64,
    ndo_set_mac_address=eth_mac_addr,
)


def always_on(dev: NetDevice) -> int:
    return 1


loopback_ethtool_ops = EthtoolOps(get_link=always_on)


def loopback_setup(dev: NetDevice) -> None:
    dev.mtu = 64 * 1024
    dev.min_mtu = dev.max_mtu = 0        # any
    dev.hard_header_len = ETH_HLEN
    dev.tx_queue_len = 1000
    dev.type = ARPHRD_LOOPBACK
    dev.flags = IFF_LOOPBACK
    dev.broadcast = bytes(6)
    dev.no_queue = True
    dev.keep_dst = True
    dev.hw_features = NETIF_F_TSO
    dev.features = (NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_RXCSUM | NETIF_F_TSO | NETIF_F_LOOPBACK)
    dev.ethtool_ops = loopback_ethtool_ops
    dev.header_ops = eth_header_ops
    dev.netdev_ops = loopback_ops
    dev.needs_free_netdev = True


def loopback_net_init(net: Net) -> None:
    dev = alloc_netdev_mqs(net, b"lo", loopback_setup)
    register_netdev(dev)
    assert dev.ifindex == 1
    net.loopback_dev = dev


@notrace
def loopback_net_exit(net: Net) -> None:
    rtnl_lock(net.kernel)
    unregister_netdevice(net.loopback_dev)
    rtnl_unlock(net.kernel)


loopback_net_ops = PernetOperations(loopback_net_init, loopback_net_exit)


@notrace
def loopback_init(kernel: Kernel) -> None:
    register_pernet_device(kernel, loopback_net_ops)
    register_pernet_device(kernel, default_device_ops)       # other devices go before lo
