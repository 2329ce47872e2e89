"""The card's two rings: sending and receiving.

Linux: drivers/net/ethernet/intel/e1000/e1000_main.c (5.3). Same: names and order; the transmit queue stops while a
packet might not fit, and is woken when enough is free again. Differs: a descriptor has a buffer of its own of 2 KiB;
packets are copied (Linux copies small ones on receive, and maps the others).
Invariants: descriptors from next_to_clean to next_to_use belong to the card.
Context: e1000_xmit_frame(): softirqs off; e1000_clean_*(): softirq.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.net.e1000.types import BUFFER, DESCRIPTOR, E1000_DOWN
from glasskernel.lib.types import notrace
from glasskernel.machine.nic import (
    FCS,
    RDT,
    RXD_DD,
    RXD_EOP,
    RXD_ERR_TCPE,
    RXD_IXSM,
    RXD_TCPCS,
    TDT,
    TXD_DD,
    TXD_DEXT,
    TXD_DTYP_D,
    TXD_EOP,
    TXD_POPTS_TXSM,
    TXD_RS,
)
from glasskernel.mm.slab_common import kfree, kmalloc
from glasskernel.mm.slab_types import PAGE_OFFSET
from glasskernel.net.core.dev import dev_consume_skb_any, dev_kfree_skb_any
from glasskernel.net.core.gro import napi_gro_receive
from glasskernel.net.ethernet.eth import eth_type_trans
from glasskernel.net.netdevice import NETDEV_TX_BUSY, NETDEV_TX_OK, NETIF_F_RXCSUM, netif_carrier_ok
from glasskernel.net.sched.sch_generic import netif_stop_queue, netif_wake_queue
from glasskernel.net.skbuff import (
    CHECKSUM_PARTIAL,
    CHECKSUM_UNNECESSARY,
    SkBuff,
    __netdev_alloc_skb,
    skb_copy_bits,
    skb_put,
)

if TYPE_CHECKING:
    from glasskernel.drivers.net.e1000.types import E1000Adapter, E1000Ring
    from glasskernel.net.netdevice import NetDevice

GFP_KERNEL = 0xCC0
TX_WAKE_THRESHOLD = 32
DESC_NEEDED = 3                          # a context, the packet, and a gap


# ---- memory -----------------------------------------------------------------------------------------------
def e1000_setup_all_tx_resources(adapter: E1000Adapter) -> None:
    """Raises ENOMEM."""
    e1000_setup_tx_resources(adapter, adapter.tx_ring)


def e1000_setup_tx_resources(adapter: E1000Adapter, ring: E1000Ring) -> None:
    _alloc(adapter, ring)


def e1000_setup_all_rx_resources(adapter: E1000Adapter) -> None:
    """Raises ENOMEM."""
    e1000_setup_rx_resources(adapter, adapter.rx_ring)


def e1000_setup_rx_resources(adapter: E1000Adapter, ring: E1000Ring) -> None:
    _alloc(adapter, ring)


@notrace
def _alloc(adapter: E1000Adapter, ring: E1000Ring) -> None:
    kernel = adapter.netdev.net.kernel
    ring.desc = kmalloc(kernel, ring.count * DESCRIPTOR, GFP_KERNEL) - PAGE_OFFSET
    ring.buffers = kmalloc(kernel, ring.count * BUFFER, GFP_KERNEL) - PAGE_OFFSET
    kernel.machine.ram[ring.desc : ring.desc + ring.count * DESCRIPTOR] = bytes(ring.count * DESCRIPTOR)
    ring.next_to_use = ring.next_to_clean = 0
    ring.skbs = [None] * ring.count
    ring.last_csum = None


@notrace
def e1000_free_all_resources(adapter: E1000Adapter) -> None:
    """Both rings' memory, and packets that were never sent."""
    kernel = adapter.netdev.net.kernel
    for ring in (adapter.tx_ring, adapter.rx_ring):
        for skb in ring.skbs:
            if skb is not None:
                dev_kfree_skb_any(skb)
        ring.skbs = []
        for address in (ring.desc, ring.buffers):
            kfree(kernel, address + PAGE_OFFSET)
        ring.desc = ring.buffers = 0


@notrace
def e1000_desc_unused(ring: E1000Ring) -> int:
    return (ring.next_to_clean - ring.next_to_use - 1) % ring.count


# ---- sending ------------------------------------------------------------------------------------------------
def e1000_xmit_frame(skb: SkBuff, netdev: NetDevice) -> int:
    """->ndo_start_xmit()"""
    adapter: E1000Adapter = netdev.priv
    ring = adapter.tx_ring
    if skb.len <= 0 or skb.len > BUFFER:
        dev_kfree_skb_any(skb)
        return NETDEV_TX_OK
    if e1000_maybe_stop_tx(netdev, ring, DESC_NEEDED):
        return NETDEV_TX_BUSY
    options = TXD_POPTS_TXSM if e1000_tx_csum(adapter, ring, skb) else 0
    e1000_tx_map(adapter, ring, skb)
    e1000_tx_queue(adapter, ring, skb.len, options)
    netdev.stats.tx_packets += 1
    netdev.stats.tx_bytes += skb.len
    e1000_maybe_stop_tx(netdev, ring, DESC_NEEDED)
    adapter.hw.write32(TDT, ring.next_to_use)
    return NETDEV_TX_OK


def e1000_maybe_stop_tx(netdev: NetDevice, ring: E1000Ring, size: int) -> int:
    """Nonzero: fewer than `size` descriptors are free, and the queue is stopped."""
    if e1000_desc_unused(ring) >= size:
        return 0
    netif_stop_queue(netdev)
    return -NETDEV_TX_BUSY


def e1000_tx_csum(adapter: E1000Adapter, ring: E1000Ring, skb: SkBuff) -> bool:
    """A context descriptor, if the card is to fill in a checksum and does not know where from the packet before."""
    if skb.ip_summed != CHECKSUM_PARTIAL:
        return False
    start = skb.csum_start - skb.data
    where = (start, start + skb.csum_offset)
    if ring.last_csum != where:
        ring.last_csum = where
        at = ring.desc + ring.next_to_use * DESCRIPTOR
        command = TXD_DEXT | TXD_RS
        adapter.netdev.net.kernel.machine.ram[at : at + DESCRIPTOR] = (
            bytes(4) + bytes(where) + bytes(2) + command.to_bytes(4, "little") + bytes(4))
        ring.next_to_use = (ring.next_to_use + 1) % ring.count
    return True


def e1000_tx_map(adapter: E1000Adapter, ring: E1000Ring, skb: SkBuff) -> None:
    """The packet's bytes, where the card can reach them."""
    address = ring.buffers + ring.next_to_use * BUFFER
    adapter.netdev.net.kernel.machine.ram[address : address + skb.len] = skb_copy_bits(skb, 0, skb.len)
    ring.skbs[ring.next_to_use] = skb


def e1000_tx_queue(adapter: E1000Adapter, ring: E1000Ring, length: int, options: int) -> None:
    """The descriptor; the card sees it when the tail is written."""
    index = ring.next_to_use
    at = ring.desc + index * DESCRIPTOR
    command = TXD_DEXT | TXD_DTYP_D | TXD_EOP | TXD_RS | length
    adapter.netdev.net.kernel.machine.ram[at : at + DESCRIPTOR] = (
        (ring.buffers + index * BUFFER).to_bytes(8, "little") + command.to_bytes(4, "little")
        + options.to_bytes(4, "little"))
    ring.next_to_use = (index + 1) % ring.count


def e1000_clean_tx_irq(adapter: E1000Adapter, ring: E1000Ring) -> bool:
    """Frees what was sent. False: there was so much that it has to go on."""
    ram = adapter.netdev.net.kernel.machine.ram
    count = 0
    while ring.next_to_clean != ring.next_to_use:
        index = ring.next_to_clean
        at = ring.desc + index * DESCRIPTOR
        if not ram[at + 12] & TXD_DD:
            break
        skb = ring.skbs[index]
        if skb is not None:
            ring.skbs[index] = None
            adapter.total_tx_packets += 1
            adapter.total_tx_bytes += skb.len
            dev_consume_skb_any(skb)
        ring.next_to_clean = (index + 1) % ring.count
        count += 1
    netdev = adapter.netdev
    if (count and netif_carrier_ok(netdev) and netdev.tx.stopped and not adapter.flags & E1000_DOWN
            and e1000_desc_unused(ring) >= TX_WAKE_THRESHOLD):
        netif_wake_queue(netdev)
        adapter.restart_queue += 1
    return count < ring.count


# ---- receiving -------------------------------------------------------------------------------------------------
def e1000_clean_rx_irq(adapter: E1000Adapter, ring: E1000Ring, work_to_do: int) -> int:
    """Hands on what was received, at most work_to_do packets; answers how many."""
    ram = adapter.netdev.net.kernel.machine.ram
    stats = adapter.netdev.stats
    work_done = 0
    while work_done < work_to_do:
        index = ring.next_to_clean
        at = ring.desc + index * DESCRIPTOR
        status, errors = ram[at + 12], ram[at + 13]
        if not status & RXD_DD:
            break
        work_done += 1
        ram[at + 12] = 0
        ring.next_to_clean = (index + 1) % ring.count
        length = int.from_bytes(ram[at + 8 : at + 10], "little") - FCS
        if not status & RXD_EOP:
            continue                     # larger than a buffer: nothing that was asked for
        address = ring.buffers + index * BUFFER
        skb = __netdev_alloc_skb(adapter.netdev, length)
        start = skb_put(skb, length)
        skb.head[start : start + length] = ram[address : address + length]
        stats.rx_packets += 1
        stats.rx_bytes += length
        adapter.total_rx_packets += 1
        adapter.total_rx_bytes += length
        e1000_rx_checksum(adapter, status, errors, skb)
        e1000_receive_skb(adapter, skb)
    if work_done:
        e1000_alloc_rx_buffers(adapter, ring, work_done)
    return work_done


def e1000_rx_checksum(adapter: E1000Adapter, status: int, errors: int, skb: SkBuff) -> None:
    """What the card found out about TCP's or UDP's checksum."""
    if status & RXD_IXSM or not adapter.netdev.features & NETIF_F_RXCSUM:
        return
    if errors & RXD_ERR_TCPE:
        adapter.hw_csum_err += 1
    elif status & RXD_TCPCS:
        skb.ip_summed = CHECKSUM_UNNECESSARY
        adapter.hw_csum_good += 1


def e1000_receive_skb(adapter: E1000Adapter, skb: SkBuff) -> None:
    skb.protocol = eth_type_trans(skb, adapter.netdev)
    napi_gro_receive(adapter.napi, skb)


def e1000_alloc_rx_buffers(adapter: E1000Adapter, ring: E1000Ring, cleaned_count: int) -> None:
    """Gives the card that many buffers more."""
    ram = adapter.netdev.net.kernel.machine.ram
    for _ in range(cleaned_count):
        index = ring.next_to_use
        at = ring.desc + index * DESCRIPTOR
        ram[at : at + 8] = (ring.buffers + index * BUFFER).to_bytes(8, "little")
        ring.next_to_use = (index + 1) % ring.count
    adapter.hw.write32(RDT, ring.next_to_use)
