"""The driver's objects.

Linux: drivers/net/ethernet/intel/e1000/e1000.h (5.3). Only data.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.slotted import field, slotted
from glasskernel.net.netdevice import NetDeviceStats

if TYPE_CHECKING:
    from glasskernel.kernel.workqueue import DelayedWork, WorkStruct
    from glasskernel.machine.nic import Nic
    from glasskernel.net.netdevice import NapiStruct, NetDevice
    from glasskernel.net.skbuff import SkBuff

# adapter.flags
E1000_RESETTING, E1000_DOWN = 2, 4
E1000_DEFAULT_TXD = E1000_DEFAULT_RXD = 256
DESCRIPTOR = 16
LOWEST_LATENCY, LOW_LATENCY, BULK_LATENCY = range(3)
BUFFER = 2048


@slotted
class E1000Ring:
    """struct e1000_tx_ring, e1000_rx_ring. desc, buffers: physical addresses. skbs: what a transmit descriptor ends."""

    count: int
    desc: int = 0
    buffers: int = 0
    next_to_use: int = 0
    next_to_clean: int = 0
    skbs: list[SkBuff | None] = field(default_factory=list)
    last_csum: tuple[int, int] | None = None                      # the context that the card has


@slotted
class E1000Adapter:
    """struct e1000_adapter. hw: the card."""

    netdev: NetDevice
    hw: Nic
    napi: NapiStruct = None  # type: ignore[assignment]
    tx_ring: E1000Ring = field(default_factory=lambda: E1000Ring(E1000_DEFAULT_TXD))
    rx_ring: E1000Ring = field(default_factory=lambda: E1000Ring(E1000_DEFAULT_RXD))
    flags: int = E1000_DOWN
    get_link_status: bool = True
    link_speed: int = 0
    hw_csum_err: int = 0
    hw_csum_good: int = 0
    tx_timeout_count: int = 0
    restart_queue: int = 0
    # interrupts a second, and what this poll has moved, from which e1000_set_itr() computes it
    itr: int = 20000
    rx_itr: int = LOW_LATENCY
    tx_itr: int = LOW_LATENCY
    total_rx_packets: int = 0
    total_rx_bytes: int = 0
    total_tx_packets: int = 0
    total_tx_bytes: int = 0
    watchdog_task: DelayedWork = None  # type: ignore[assignment]
    reset_task: WorkStruct = None  # type: ignore[assignment]
    stats: NetDeviceStats = field(default_factory=NetDeviceStats)
