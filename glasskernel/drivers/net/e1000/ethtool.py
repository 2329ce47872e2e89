"""What ethtool(8) can ask the driver.

Linux: drivers/net/ethernet/intel/e1000/e1000_ethtool.c (5.3). Gaps: everything that changes something, registers,
EEPROM, self-tests.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.net.netdevice import EthtoolOps, NetDevice, netif_carrier_ok

if TYPE_CHECKING:
    from glasskernel.drivers.net.e1000.types import E1000Adapter

_NET_STATS = (
    "rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_errors", "tx_errors", "tx_dropped", "multicast",
    "collisions", "rx_length_errors", "rx_over_errors", "rx_crc_errors", "rx_frame_errors", "rx_missed_errors",
    "tx_aborted_errors", "tx_carrier_errors", "tx_fifo_errors", "tx_heartbeat_errors", "tx_window_errors",
)
_OWN_STATS = (("tx_timeout_count", "tx_timeout_count"), ("tx_restart_queue", "restart_queue"),
              ("rx_csum_offload_good", "hw_csum_good"), ("rx_csum_offload_errors", "hw_csum_err"))
SPEED_UNKNOWN, DUPLEX_FULL, DUPLEX_UNKNOWN, AUTONEG_ENABLE = -1, 1, 0xFF, 1


def e1000_get_drvinfo(netdev: NetDevice) -> dict[str, bytes]:
    return {"driver": b"e1000", "version": b"7.3.21-k8-NAPI", "fw_version": b"N/A", "bus_info": b"0000:00:03.0"}


def e1000_get_link(netdev: NetDevice) -> int:
    adapter: E1000Adapter = netdev.priv
    if not netif_carrier_ok(netdev):
        adapter.get_link_status = True
    return int(netif_carrier_ok(netdev))


_MODES = 0xEF                # 10 and 100 Mb/s half and full, 1000 full, autonegotiation, twisted pair


def e1000_get_link_ksettings(netdev: NetDevice) -> dict[str, int]:
    adapter: E1000Adapter = netdev.priv
    up = netif_carrier_ok(netdev)
    return {"speed": adapter.link_speed if up else SPEED_UNKNOWN, "duplex": DUPLEX_FULL if up else DUPLEX_UNKNOWN,
            "autoneg": AUTONEG_ENABLE, "port": 0, "phy_address": 0, "supported": _MODES, "advertising": _MODES}


def e1000_get_strings(netdev: NetDevice) -> list[bytes]:
    return [name.encode() for name in (*_NET_STATS, *(name for name, _ in _OWN_STATS))]


def e1000_get_ethtool_stats(netdev: NetDevice) -> list[int]:
    get_stats = netdev.netdev_ops.ndo_get_stats64
    assert get_stats is not None
    stats = get_stats(netdev)
    return [*(getattr(stats, name) for name in _NET_STATS), *(getattr(netdev.priv, name) for _, name in _OWN_STATS)]


def e1000_get_ringparam(netdev: NetDevice) -> dict[str, int]:
    adapter: E1000Adapter = netdev.priv
    return {"rx_max_pending": 256, "tx_max_pending": 256, "rx_pending": adapter.rx_ring.count,
            "tx_pending": adapter.tx_ring.count}


e1000_ethtool_ops = EthtoolOps(
    get_drvinfo=e1000_get_drvinfo, get_link=e1000_get_link, get_link_ksettings=e1000_get_link_ksettings,
    get_strings=e1000_get_strings, get_ethtool_stats=e1000_get_ethtool_stats, get_ringparam=e1000_get_ringparam,
)
