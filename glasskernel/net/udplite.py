"""UDP-Lite's header: what of a datagram its checksum covers.

Linux: include/net/udplite.h (5.3). Same: checks of a received header, the sum that is sent. Differs: the coverage is
read from the packet's header whenever it matters; Linux keeps a copy in the control buffer.
Context: any.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.lib.errno import EFAULT, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.skbuff import CHECKSUM_COMPLETE, CHECKSUM_NONE, skb_checksum
from glasskernel.net.types import IPPROTO_UDPLITE

if TYPE_CHECKING:
    from glasskernel.net.ipv4.udp_table import UdpSock
    from glasskernel.net.skbuff import SkBuff

UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV = 10, 11
# UdpSock.pcflag
UDPLITE_BIT, UDPLITE_SEND_CC, UDPLITE_RECV_CC = 1, 2, 4
UDP_HEADER = 8


@notrace
def is_udplite_skb(skb: SkBuff) -> bool:
    """Is the received packet one of UDP-Lite's? Its IP header says so."""
    return skb.head[skb.network_header + 9] == IPPROTO_UDPLITE


@notrace
def udplite_cscov(skb: SkBuff) -> int:
    """How many bytes of the datagram, from its header on, the checksum of a received one covers."""
    at = skb.transport_header
    whole = skb.len + skb.data - at
    return (skb.head[at + 4] << 8 | skb.head[at + 5]) or whole


@notrace
def udplite_partial_cov(skb: SkBuff) -> bool:
    """Is there something that the checksum does not cover?"""
    return udplite_cscov(skb) < skb.len + skb.data - skb.transport_header


def udplite_getfrag(msg: Any, offset: int, length: int, skb: SkBuff) -> bytes:
    """The next bytes of what the user sends; udplite_csum() sums up later. Raises EFAULT."""
    data: bytes = msg.msg_iter.copy_from_iter(length)
    if len(data) != length:
        raise KernelError(EFAULT)
    return data


def udplite_checksum_init(skb: SkBuff) -> bool:
    """Is the header wrong? Everybody has to send a checksum, which covers the header and no more than there is."""
    at = skb.transport_header
    if not skb.head[at + 6] | skb.head[at + 7]:
        return True
    cscov = udplite_cscov(skb)
    if cscov < UDP_HEADER or cscov > skb.len:
        return True
    if cscov < skb.len and skb.ip_summed == CHECKSUM_COMPLETE:
        skb.ip_summed = CHECKSUM_NONE            # the device's sum is of too much
    return False


def udplite_csum(sk: UdpSock, skb: SkBuff) -> int:
    """The sum of what the sender wants to be covered, which the header says then. No device can do it."""
    at = skb.transport_header
    off = at - skb.data
    length = skb.len - off
    if sk.pcflag & UDPLITE_SEND_CC and sk.pcslen < length:
        skb.head[at + 4 : at + 6] = sk.pcslen.to_bytes(2, "big")
        length = sk.pcslen or length
    skb.ip_summed = CHECKSUM_NONE
    return skb_checksum(skb, off, length, 0)
