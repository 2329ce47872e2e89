"""The last steps of a packet before its driver: taps, segmentation, checksums.

Linux: net/core/dev.c (5.3), its transmit half below the queueing disciplines. Same: what the device cannot do
(checksums, segmentation) is done here, once, for each packet that is sent. Differs: segments keep CHECKSUM_PARTIAL,
so one place fills checksums in; a list of packets is a list.
Gaps: VLANs, encryption offload, encapsulation.
Context: softirqs off. The skb is given.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.lib.types import notrace
from glasskernel.machine.costs import PACKET_XMIT
from glasskernel.net.core.dev_chain import net_of
from glasskernel.net.core.dev_receive import deliver_skb
from glasskernel.net.netdevice import (
    NETDEV_TX_BUSY,
    NETDEV_TX_OK,
    NETIF_F_GSO,
    NETIF_F_HW_CSUM,
    NETIF_F_IP_CSUM,
    NETIF_F_SG,
    NETIF_F_TSO,
    NetDevice,
    NetdevQueue,
    PacketType,
)
from glasskernel.net.skbuff import (
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    PACKET_OUTGOING,
    SKB_GSO_TCPV4,
    SkBuff,
    consume_skb,
    kfree_skb,
    pskb_may_pull,
    skb_checksum_help,
    skb_clone,
    skb_cow_head,
    skb_pull,
    skb_push,
    skb_reset_mac_header,
    skb_reset_network_header,
)

if TYPE_CHECKING:
    from glasskernel.net.types import Sock

NETIF_F_CSUM_MASK = NETIF_F_IP_CSUM | NETIF_F_HW_CSUM
NETIF_F_GSO_MASK = NETIF_F_TSO
NETDEV_TX_MASK = 0xF0


@notrace
def dev_xmit_complete(rc: int) -> bool:
    """The packet was consumed."""
    return rc < NETDEV_TX_MASK and rc != NETDEV_TX_BUSY


# ---- taps -----------------------------------------------------------------------------------------------------------
@notrace
def skb_loop_sk(ptype: PacketType, sk: Sock | None) -> bool:
    """It is this tap's own packet."""
    return ptype.af_packet_priv is not None and sk is not None and ptype.af_packet_priv is sk


def dev_queue_xmit_nit(skb: SkBuff, dev: NetDevice) -> None:
    """Shows a packet that is sent to all taps."""
    state = net_of(dev.net.kernel)
    skb2: SkBuff | None = None
    pt_prev: PacketType | None = None
    for ptype in (*state.ptype_all, *dev.ptype_all):
        if ptype.ignore_outgoing or skb_loop_sk(ptype, skb.sk):
            continue
        if pt_prev is not None:
            assert skb2 is not None
            deliver_skb(skb2, pt_prev, dev)
        else:
            skb2 = skb_clone(skb)
            if not skb2.tstamp and state.netstamp_needed:
                skb2.tstamp = ktime_get_real()
            skb_reset_mac_header(skb2)
            if not skb2.data <= skb2.network_header <= skb2.tail:
                skb_reset_network_header(skb2)
            skb2.transport_header = skb2.network_header
            skb2.pkt_type = PACKET_OUTGOING
        pt_prev = ptype
    if pt_prev is not None:
        assert skb2 is not None
        pt_prev.func(skb2, dev, pt_prev, dev)


# ---- to the driver --------------------------------------------------------------------------------------------------
def dev_hard_start_xmit(skbs: list[SkBuff], dev: NetDevice, txq: NetdevQueue) -> tuple[list[SkBuff], int]:
    """Gives packets to the driver one by one; answers those that it did not take, and NETDEV_TX_*."""
    rc = NETDEV_TX_OK
    for i, skb in enumerate(skbs):
        rc = xmit_one(skb, dev, txq)
        if not dev_xmit_complete(rc):
            return skbs[i:], rc
        if txq.stopped and i + 1 < len(skbs):
            return skbs[i + 1 :], NETDEV_TX_BUSY
    return [], rc


@notrace
def xmit_one(skb: SkBuff, dev: NetDevice, txq: NetdevQueue) -> int:
    kernel = dev.net.kernel
    if dev.ptype_all or net_of(kernel).ptype_all:
        dev_queue_xmit_nit(skb, dev)
    length = skb.len
    tp = kernel.tp
    probe = tp.net_dev_start_xmit
    if probe is not None:
        probe(skb, dev)
    kernel.machine.charge(PACKET_XMIT)
    rc = dev.netdev_ops.ndo_start_xmit(skb, dev)
    if rc == NETDEV_TX_OK:
        txq.trans_start = kernel.time.jiffies
    probe = tp.net_dev_xmit
    if probe is not None:
        probe(skb, rc, dev, length)
    return rc


# ---- what the device cannot do --------------------------------------------------------------------------------------
def skb_network_protocol(skb: SkBuff) -> int:
    """The EtherType of what is inside."""
    return skb.protocol


def netif_skb_features(skb: SkBuff) -> int:
    """What this device can do for this packet: NETIF_F_*."""
    dev = skb.dev
    assert dev is not None
    features = dev.features
    info = skb.shinfo
    if info.gso_size and (info.gso_segs > dev.gso_max_segs or skb.len > dev.gso_max_size + dev.hard_header_len):
        features &= ~NETIF_F_GSO_MASK
    kind = skb_network_protocol(skb)
    if skb.ip_summed != CHECKSUM_NONE and not (
            features & NETIF_F_HW_CSUM or (features & NETIF_F_IP_CSUM and kind == 0x0800)):
        features &= ~(NETIF_F_CSUM_MASK | NETIF_F_GSO_MASK)
    return features


@notrace
def netif_needs_gso(skb: SkBuff, features: int) -> bool:
    """The packet is to be segmented here."""
    if not skb.shinfo.gso_size:
        return False
    can = skb.shinfo.gso_type & SKB_GSO_TCPV4 and features & NETIF_F_TSO
    return not can or skb.ip_summed != CHECKSUM_PARTIAL


def skb_csum_hwoffload_help(skb: SkBuff, features: int) -> None:
    """Fills the checksum in, if the device does not."""
    if not features & NETIF_F_CSUM_MASK:
        skb_checksum_help(skb)


def validate_xmit_skb(skb: SkBuff, dev: NetDevice) -> list[SkBuff]:
    """The packets that the device shall send for this one; none, if it cannot be sent."""
    features = netif_skb_features(skb)
    if netif_needs_gso(skb, features):
        segs = __skb_gso_segment(skb, features)
        if not segs:
            kfree_skb(skb)
            dev.stats.tx_dropped += 1
            return []
        last = segs[-1]
        if skb.destructor is not None:       # the sock's memory is given back with the last segment
            last.truesize, skb.truesize = skb.truesize, last.truesize
            last.destructor, skb.destructor = skb.destructor, None
            last.sk, skb.sk = skb.sk, None
        consume_skb(skb)
    else:
        segs = [skb]
        if skb.data_len and not features & NETIF_F_SG:
            pskb_may_pull(skb, skb.len)
    for seg in segs:
        if seg.ip_summed == CHECKSUM_PARTIAL:
            seg.transport_header = seg.csum_start
            skb_csum_hwoffload_help(seg, features)
    return segs


def validate_xmit_skb_list(skbs: list[SkBuff], dev: NetDevice) -> list[SkBuff]:
    return [seg for skb in skbs for seg in validate_xmit_skb(skb, dev)]


# ---- segmentation ---------------------------------------------------------------------------------------------------
def __skb_gso_segment(skb: SkBuff, features: int) -> list[SkBuff]:
    """Packets of gso_size bytes instead of a big one; none, if its protocol cannot do that. The skb stays."""
    skb_cow_head(skb, 0)
    skb_reset_mac_header(skb)
    skb.mac_len = skb.network_header - skb.mac_header
    return skb_mac_gso_segment(skb, features | NETIF_F_GSO)


def skb_mac_gso_segment(skb: SkBuff, features: int) -> list[SkBuff]:
    assert skb.dev is not None
    kind = skb_network_protocol(skb)
    skb_pull(skb, skb.mac_len)
    segs: list[SkBuff] = []
    for po in net_of(skb.dev.net.kernel).offload_base:
        if po.type == kind:
            segs = po.gso_segment(skb, features)
            break
    skb_push(skb, skb.data - skb.mac_header)
    return segs
