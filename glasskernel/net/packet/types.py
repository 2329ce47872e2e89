"""AF_PACKET's objects and layouts.

Linux: net/packet/internal.h, include/uapi/linux/if_packet.h (5.3). Only data.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.net.types import AF_PACKET, Sock

if TYPE_CHECKING:
    from glasskernel.net.netdevice import NetDevice, PacketType

(PACKET_ADD_MEMBERSHIP, PACKET_DROP_MEMBERSHIP, PACKET_RECV_OUTPUT, _, PACKET_RX_RING, PACKET_STATISTICS,
 PACKET_COPY_THRESH, PACKET_AUXDATA, PACKET_ORIGDEV, PACKET_VERSION, PACKET_HDRLEN, PACKET_RESERVE, PACKET_TX_RING,
 PACKET_LOSS) = range(1, 15)
PACKET_TIMESTAMP, PACKET_IGNORE_OUTGOING = 17, 23
PACKET_MR_MULTICAST, PACKET_MR_PROMISC, PACKET_MR_ALLMULTI, PACKET_MR_UNICAST = range(4)
TPACKET_V1, TPACKET_V2, TPACKET_V3 = range(3)
TP_STATUS_KERNEL, TP_STATUS_USER, TP_STATUS_COPY, TP_STATUS_LOSING, TP_STATUS_CSUMNOTREADY = 0, 1, 2, 4, 8
TP_STATUS_CSUM_VALID, TP_STATUS_TS_SOFTWARE = 1 << 7, 1 << 29

SOCKADDR_LL = struct.Struct("<HHiHBB8s")       # the protocol is big-endian: swapped by who packs
SOCKADDR_LL_ADDR = 12                          # offsetof(struct sockaddr_ll, sll_addr)
TPACKET_AUXDATA = struct.Struct("<IIIHHHH")
PACKET_MREQ = struct.Struct("<iHH8s")


@slotted
class PacketSkbCb:
    """struct packet_skb_cb: what a received packet's reader is told. origlen: before the filter cut it off."""

    ll: bytes
    origlen: int


@slotted
class PacketMclist:
    """struct packet_mclist: one membership of a socket."""

    ifindex: int
    type: int
    addr: bytes
    count: int = 1


@slotted
class PacketRing:
    """struct packet_ring_buffer, TPACKET_V2. pages: frame numbers, in the order in which they are mapped; frame_max:
    the last frame's number; head: the frame that is filled next."""

    pages: list[int]
    block_size: int
    frame_size: int
    frames_per_block: int
    frame_max: int
    head: int = 0


@slotted
class PacketSock(Sock):
    """struct packet_sock. num: the EtherType it is bound to, host order. running: its prot_hook gets packets."""

    prot_hook: PacketType = None  # type: ignore[assignment]
    num: int = 0
    ifindex: int = 0
    running: bool = False
    cached_dev: NetDevice | None = None        # where it sends to if nobody says
    auxdata: bool = False
    origdev: bool = False
    tp_packets: int = 0
    tp_drops: int = 0
    tp_version: int = TPACKET_V1
    tp_reserve: int = 0
    tp_loss: bool = False
    tp_tstamp: int = 0
    copy_thresh: int = 0
    mclist: list[PacketMclist] = field(default_factory=list)
    rx_ring: PacketRing | None = None
    mapped: int = 0


@notrace
def sockaddr_ll(protocol: int, ifindex: int, hatype: int = 0, pkttype: int = 0, addr: bytes = b"") -> bytes:
    """struct sockaddr_ll, all 20 bytes."""
    swapped = protocol >> 8 | (protocol & 0xFF) << 8
    return SOCKADDR_LL.pack(AF_PACKET, swapped, ifindex, hatype, pkttype, len(addr), addr)
