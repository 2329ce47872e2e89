"""Ethernet's 14 bytes in front of a packet.

Linux: net/ethernet/eth.c, include/linux/etherdevice.h (5.3). Gaps: 802.3 with LLC and SNAP is recognised, not handled.
Context: any.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import EADDRNOTAVAIL, EBUSY, EINVAL, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.core.dev_open import NET_ADDR_RANDOM
from glasskernel.net.core.dev_register import alloc_netdev_mqs
from glasskernel.net.netdevice import (
    ARPHRD_ETHER,
    ETH_ALEN,
    ETH_DATA_LEN,
    ETH_HLEN,
    IFF_BROADCAST,
    IFF_LOOPBACK,
    IFF_MULTICAST,
    IFF_NOARP,
    HeaderOps,
    NetDevice,
    netif_running,
)
from glasskernel.net.skbuff import (
    PACKET_BROADCAST,
    PACKET_MULTICAST,
    PACKET_OTHERHOST,
    SkBuff,
    pskb_may_pull,
    skb_push,
    skb_reset_mac_header,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.net.types import Net

ETH_P_802_3_MIN, ETH_P_802_3, ETH_P_802_2 = 0x0600, 0x0001, 0x0004
ETH_MIN_MTU = 68


@notrace
def is_valid_ether_addr(addr: bytes) -> bool:
    """Of one station, and not zero."""
    return not addr[0] & 1 and any(addr)


def eth_header(skb: SkBuff, dev: NetDevice, kind: int, daddr: bytes | None, saddr: bytes | None, length: int) -> int:
    """->create(): pushes the header; kind: an EtherType, or ETH_P_802_2/3 for a length instead.

    Answers its length; negative: the destination is not known yet and stays empty.
    """
    at = skb_push(skb, ETH_HLEN)
    proto = length if kind in (ETH_P_802_3, ETH_P_802_2) else kind
    if daddr is None and dev.flags & (IFF_LOOPBACK | IFF_NOARP):
        daddr = bytes(ETH_ALEN)
    skb.head[at : at + ETH_HLEN] = (daddr or bytes(ETH_ALEN)) + (saddr or dev.dev_addr) + proto.to_bytes(2, "big")
    return ETH_HLEN if daddr is not None else -ETH_HLEN


def eth_header_parse(skb: SkBuff) -> bytes:
    """->parse(): who sent it."""
    return bytes(skb.head[skb.mac_header + ETH_ALEN : skb.mac_header + 2 * ETH_ALEN])


def eth_type_trans(skb: SkBuff, dev: NetDevice) -> int:
    """Takes the header off a received packet and says what is inside; whom it is for goes to skb.pkt_type."""
    skb.dev = dev
    skb_reset_mac_header(skb)
    pskb_may_pull(skb, ETH_HLEN)
    head, at = skb.head, skb.data
    skb.data = at + ETH_HLEN
    skb.len -= ETH_HLEN
    dest = head[at : at + ETH_ALEN]
    if dest != dev.dev_addr:
        if dest[0] & 1:
            skb.pkt_type = PACKET_BROADCAST if dest == dev.broadcast else PACKET_MULTICAST
        else:
            skb.pkt_type = PACKET_OTHERHOST
    proto = head[at + 12] << 8 | head[at + 13]
    if proto >= ETH_P_802_3_MIN:
        return proto
    if skb.len >= 2 and head[skb.data : skb.data + 2] == b"\xff\xff":
        return ETH_P_802_3
    return ETH_P_802_2


eth_header_ops = HeaderOps(eth_header, eth_header_parse)


# ---- devices ------------------------------------------------------------------------------------------
def eth_validate_addr(dev: NetDevice) -> None:
    """->ndo_validate_addr(). Raises EADDRNOTAVAIL."""
    if not is_valid_ether_addr(dev.dev_addr):
        raise KernelError(EADDRNOTAVAIL)


def eth_mac_addr(dev: NetDevice, addr: bytes) -> None:
    """->ndo_set_mac_address() of devices without hardware. Raises EBUSY while it is up, EADDRNOTAVAIL."""
    if netif_running(dev):
        raise KernelError(EBUSY)
    if not is_valid_ether_addr(addr):
        raise KernelError(EADDRNOTAVAIL)
    dev.dev_addr = addr


def ether_setup(dev: NetDevice) -> None:
    """What all Ethernet devices have in common."""
    dev.header_ops = eth_header_ops
    dev.type = ARPHRD_ETHER
    dev.hard_header_len = ETH_HLEN
    dev.mtu = dev.max_mtu = ETH_DATA_LEN
    dev.min_mtu = ETH_MIN_MTU
    dev.addr_len = ETH_ALEN
    dev.tx_queue_len = 1000
    dev.flags = IFF_BROADCAST | IFF_MULTICAST
    dev.broadcast = b"\xff" * ETH_ALEN


def alloc_etherdev_mqs(net: Net, setup: Callable[[NetDevice], None]) -> NetDevice:
    """An Ethernet device "eth%d", made complete by setup(dev)."""

    @notrace
    def both(dev: NetDevice) -> None:
        ether_setup(dev)
        setup(dev)

    return alloc_netdev_mqs(net, b"eth%d", both)


@notrace
def check_link_address(addr: bytes | None) -> None:
    """What every virtual device's ->validate() does. Raises EINVAL, EADDRNOTAVAIL: no device can have this address."""
    if addr is not None:
        if len(addr) != ETH_ALEN:
            raise KernelError(EINVAL)
        if not is_valid_ether_addr(addr):
            raise KernelError(EADDRNOTAVAIL)


def eth_hw_addr_random(dev: NetDevice) -> None:
    """A device without hardware gets an address that nobody else has: locally administered, of the seeded dice."""
    addr = bytearray(dev.net.kernel.machine.random_bytes(ETH_ALEN))
    addr[0] = addr[0] & 0xFE | 0x02
    dev.dev_addr = bytes(addr)
    dev.addr_assign_type = NET_ADDR_RANDOM
