"""SIOCETHTOOL: what ethtool(8) asks.

Linux: net/core/ethtool.c (5.3). Same: layouts, who may ask what; a question that a driver does not answer is
    EOPNOTSUPP.
Gaps: everything that changes something except feature bits; coalescing, EEPROM, registers, self-tests, flow
    classification. Linux 5.3 has no netlink for it either.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, get_user_u32
from glasskernel.kernel.capability import CAP_NET_ADMIN, ns_capable
from glasskernel.lib.errno import EINVAL, ENODEV, EOPNOTSUPP, EPERM, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dev_chain import __dev_get_by_name, call_netdevice_notifiers
from glasskernel.net.netdevice import (
    NETDEV_FEAT_CHANGE,
    NETIF_F_GRO,
    NETIF_F_GSO,
    NETIF_F_HW_CSUM,
    NETIF_F_IP_CSUM,
    NETIF_F_RXCSUM,
    NETIF_F_SG,
    NETIF_F_TSO,
    EthtoolOps,
    NetDevice,
    netif_running,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.net.types import Net

SIOCETHTOOL = 0x8946
(ETHTOOL_GSET, ETHTOOL_SSET, ETHTOOL_GDRVINFO, ETHTOOL_GREGS, ETHTOOL_GWOL, ETHTOOL_SWOL, ETHTOOL_GMSGLVL,
 ETHTOOL_SMSGLVL, ETHTOOL_NWAY_RST, ETHTOOL_GLINK) = range(1, 11)
ETHTOOL_GRINGPARAM, ETHTOOL_GSTRINGS, ETHTOOL_GSTATS, ETHTOOL_GPERMADDR = 0x10, 0x1B, 0x1D, 0x20
ETHTOOL_GRXCSUM, ETHTOOL_GTXCSUM, ETHTOOL_GSG, ETHTOOL_GTSO = 0x14, 0x16, 0x18, 0x1E
ETHTOOL_GGSO, ETHTOOL_GGRO = 0x23, 0x2B
ETHTOOL_GFLAGS, ETHTOOL_GSSET_INFO, ETHTOOL_GFEATURES, ETHTOOL_SFEATURES = 0x25, 0x37, 0x3A, 0x3B
ETHTOOL_GLINKSETTINGS = 0x4C
ETH_SS_STATS, ETH_SS_FEATURES, ETH_GSTRING_LEN = 1, 4, 32
PORT_OTHER, SPEED_UNKNOWN, DUPLEX_UNKNOWN = 0xFF, 0xFFFFFFFF, 0xFF
LINK_MODE_WORDS = 3                      # __ETHTOOL_LINK_MODE_MASK_NBITS, in words
_UNPRIVILEGED = (ETHTOOL_GSET, ETHTOOL_GDRVINFO, ETHTOOL_GMSGLVL, ETHTOOL_GLINK, ETHTOOL_GRINGPARAM, ETHTOOL_GSTRINGS,
                 ETHTOOL_GSTATS, ETHTOOL_GPERMADDR, ETHTOOL_GRXCSUM, ETHTOOL_GTXCSUM, ETHTOOL_GSG, ETHTOOL_GTSO,
                 ETHTOOL_GGSO, ETHTOOL_GGRO, ETHTOOL_GFLAGS, ETHTOOL_GSSET_INFO, ETHTOOL_GFEATURES,
                 ETHTOOL_GLINKSETTINGS)

# the names of NETIF_F_*_BIT, by bit
NETDEV_FEATURES = (
    "tx-scatter-gather", "tx-checksum-ipv4", "", "tx-checksum-ip-generic", "tx-checksum-ipv6", "highdma",
    "tx-scatter-gather-fraglist", "tx-vlan-hw-insert", "rx-vlan-hw-parse", "rx-vlan-filter", "vlan-challenged",
    "tx-generic-segmentation", "tx-lockless", "netns-local", "rx-gro", "rx-lro", "tx-tcp-segmentation", "tx-gso-robust",
    "tx-tcp-ecn-segmentation", "tx-tcp-mangleid-segmentation", "tx-tcp6-segmentation", "tx-fcoe-segmentation",
    "tx-gre-segmentation", "tx-gre-csum-segmentation", "tx-ipxip4-segmentation", "tx-ipxip6-segmentation",
    "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation", "tx-gso-partial", "", "tx-sctp-segmentation",
    "tx-esp-segmentation", "tx-udp-segmentation", "tx-checksum-fcoe-crc", "tx-checksum-sctp", "fcoe-mtu",
    "rx-ntuple-filter", "rx-hashing", "", "", "rx-checksum", "tx-nocache-copy", "loopback", "rx-fcs", "rx-all",
    "tx-vlan-stag-hw-insert", "rx-vlan-stag-hw-parse", "rx-vlan-stag-filter", "l2-fwd-offload", "hw-tc-offload",
    "esp-hw-offload", "esp-tx-csum-hw-offload", "rx-udp_tunnel-port-offload", "tls-hw-tx-offload", "tls-hw-rx-offload",
    "rx-gro-hw", "tls-hw-record",
)
NETDEV_FEATURE_COUNT = len(NETDEV_FEATURES)
NETIF_F_NEVER_CHANGE = 1 << 10 | 1 << 12 | 1 << 13
_ONE_BIT = {ETHTOOL_GRXCSUM: NETIF_F_RXCSUM, ETHTOOL_GTXCSUM: NETIF_F_IP_CSUM | NETIF_F_HW_CSUM,
            ETHTOOL_GSG: NETIF_F_SG, ETHTOOL_GTSO: NETIF_F_TSO, ETHTOOL_GGSO: NETIF_F_GSO, ETHTOOL_GGRO: NETIF_F_GRO}


@notrace
def _ops(dev: NetDevice) -> EthtoolOps:
    ops = dev.ethtool_ops
    if ops is None:
        raise KernelError(EOPNOTSUPP)
    return ops


# ---- answers ---------------------------------------------------------------------------------------
def ethtool_get_drvinfo(dev: NetDevice, useraddr: int) -> None:
    """struct ethtool_drvinfo. Errors: EOPNOTSUPP."""
    ops = _ops(dev)
    if ops.get_drvinfo is None:
        raise KernelError(EOPNOTSUPP)
    info = ops.get_drvinfo(dev)
    n_stats = len(ops.get_strings(dev)) if ops.get_strings is not None else 0
    copy_to_user(useraddr, struct.pack(
        "<I32s32s32s32s32s12sIIIII", ETHTOOL_GDRVINFO, info.get("driver", b""), info.get("version", b""),
        info.get("fw_version", b""), info.get("bus_info", b""), b"", b"", 0, n_stats, 0, 0, 0))


def ethtool_get_link(dev: NetDevice, useraddr: int) -> None:
    """ETHTOOL_GLINK. Errors: EOPNOTSUPP."""
    ops = _ops(dev)
    if ops.get_link is None:
        raise KernelError(EOPNOTSUPP)
    copy_to_user(useraddr, struct.pack("<II", ETHTOOL_GLINK, netif_running(dev) and ops.get_link(dev)))


@notrace
def __ethtool_get_link_ksettings(dev: NetDevice) -> dict[str, int]:
    ops = _ops(dev)
    if ops.get_link_ksettings is None:
        raise KernelError(EOPNOTSUPP)
    return ops.get_link_ksettings(dev)


def ethtool_get_settings(dev: NetDevice, useraddr: int) -> None:
    """ETHTOOL_GSET: struct ethtool_cmd. Errors: EOPNOTSUPP."""
    link = __ethtool_get_link_ksettings(dev)
    speed = link.get("speed", SPEED_UNKNOWN) & SPEED_UNKNOWN
    copy_to_user(useraddr, struct.pack(
        "<IIIHBBBBBBIIHBBIII", ETHTOOL_GSET, link.get("supported", 0), link.get("advertising", 0), speed & 0xFFFF,
        link.get("duplex", DUPLEX_UNKNOWN), link.get("port", PORT_OTHER), link.get("phy_address", 0), 0,
        link.get("autoneg", 0), 0, 0, 0, speed >> 16, 0, 0, link.get("lp_advertising", 0), 0, 0))


def ethtool_get_link_ksettings(dev: NetDevice, useraddr: int) -> None:
    """ETHTOOL_GLINKSETTINGS: struct ethtool_link_settings and three masks. Errors: EINVAL, EOPNOTSUPP.

    A caller that does not know how long the masks are is told: the negative number of words.
    """
    link = __ethtool_get_link_ksettings(dev)
    asked = struct.unpack("<b", copy_from_user(useraddr + 18, 1))[0]
    if asked < 0:
        raise KernelError(EINVAL)
    known = asked == LINK_MODE_WORDS
    words = LINK_MODE_WORDS if known else -LINK_MODE_WORDS
    settings = struct.pack(
        "<IIBBBBBBbBBB26x", ETHTOOL_GLINKSETTINGS, link.get("speed", SPEED_UNKNOWN) & SPEED_UNKNOWN if known else 0,
        link.get("duplex", DUPLEX_UNKNOWN) if known else 0, link.get("port", PORT_OTHER) if known else 0,
        link.get("phy_address", 0), link.get("autoneg", 0) if known else 0, 0, 0, words, 0, 0, 0)
    if known:
        settings += b"".join(link.get(name, 0).to_bytes(4 * LINK_MODE_WORDS, "little")
                             for name in ("supported", "advertising", "lp_advertising"))
    copy_to_user(useraddr, settings)


def ethtool_get_ringparam(dev: NetDevice, useraddr: int) -> None:
    """struct ethtool_ringparam. Errors: EOPNOTSUPP."""
    ops = _ops(dev)
    if ops.get_ringparam is None:
        raise KernelError(EOPNOTSUPP)
    ring = ops.get_ringparam(dev)
    names = ("rx_max_pending", "rx_mini_max_pending", "rx_jumbo_max_pending", "tx_max_pending",
             "rx_pending", "rx_mini_pending", "rx_jumbo_pending", "tx_pending")
    copy_to_user(useraddr, struct.pack("<9I", ETHTOOL_GRINGPARAM, *[ring.get(name, 0) for name in names]))


@notrace
def _strings(dev: NetDevice, set: int) -> list[bytes]:
    if set == ETH_SS_FEATURES:
        return [name.encode() for name in NETDEV_FEATURES]
    ops = _ops(dev)
    if set != ETH_SS_STATS or ops.get_strings is None:
        raise KernelError(EOPNOTSUPP)
    return ops.get_strings(dev)


def ethtool_get_sset_info(dev: NetDevice, useraddr: int) -> None:
    """struct ethtool_sset_info: how many strings each set of a mask has."""
    mask = int.from_bytes(copy_from_user(useraddr + 8, 8), "little")
    counts = []
    found = 0
    for set in range(64):
        if not mask >> set & 1:
            continue
        try:
            counts.append(len(_strings(dev, set)))
        except KernelError:
            continue
        found |= 1 << set
    copy_to_user(useraddr, struct.pack(f"<IIQ{len(counts)}I", ETHTOOL_GSSET_INFO, 0, found, *counts))


def ethtool_get_strings(dev: NetDevice, useraddr: int) -> None:
    """struct ethtool_gstrings. Errors: EOPNOTSUPP."""
    set = get_user_u32(useraddr + 4)
    strings = _strings(dev, set)
    copy_to_user(useraddr, struct.pack("<III", ETHTOOL_GSTRINGS, set, len(strings))
                 + b"".join(name.ljust(ETH_GSTRING_LEN, b"\0") for name in strings))


def ethtool_get_stats(dev: NetDevice, useraddr: int) -> None:
    """struct ethtool_stats. Errors: EOPNOTSUPP."""
    ops = _ops(dev)
    if ops.get_ethtool_stats is None:
        raise KernelError(EOPNOTSUPP)
    stats = ops.get_ethtool_stats(dev)
    copy_to_user(useraddr, struct.pack(f"<II{len(stats)}Q", ETHTOOL_GSTATS, len(stats), *stats))


def ethtool_get_perm_addr(dev: NetDevice, useraddr: int) -> None:
    """The address that the hardware was made with. Errors: EINVAL if there is no room for it."""
    if get_user_u32(useraddr + 4) < dev.addr_len:
        raise KernelError(EINVAL)
    copy_to_user(useraddr, struct.pack("<II", ETHTOOL_GPERMADDR, dev.addr_len) + dev.perm_addr[: dev.addr_len])


# ---- features --------------------------------------------------------------------------------------
def ethtool_get_one_feature(dev: NetDevice, useraddr: int, ethcmd: int) -> None:
    copy_to_user(useraddr, struct.pack("<II", ethcmd, bool(dev.features & _ONE_BIT[ethcmd])))


def ethtool_get_flags(dev: NetDevice, useraddr: int) -> None:
    """The features of long ago: LRO, VLAN, n-tuple filters, hashing. No device has them."""
    copy_to_user(useraddr, struct.pack("<II", ETHTOOL_GFLAGS, 0))


def ethtool_get_features(dev: NetDevice, useraddr: int) -> None:
    """struct ethtool_gfeatures: available, requested, active, never changed; by blocks of 32."""
    blocks = (NETDEV_FEATURE_COUNT + 31) // 32
    size = get_user_u32(useraddr + 4)
    words: list[int] = []
    for block in range(min(size, blocks)):
        words += [value >> 32 * block & 0xFFFFFFFF for value in (
            dev.hw_features, dev.features, dev.features, NETIF_F_NEVER_CHANGE)]
    copy_to_user(useraddr, struct.pack(f"<II{len(words)}I", ETHTOOL_GFEATURES, blocks, *words))


@may_sleep
def ethtool_set_features(dev: NetDevice, useraddr: int) -> None:
    """struct ethtool_sfeatures: (valid, requested) by blocks. Errors: EINVAL for a bit that cannot be changed."""
    size = get_user_u32(useraddr + 4)
    if size != (NETDEV_FEATURE_COUNT + 31) // 32:
        raise KernelError(EINVAL)
    raw = struct.unpack(f"<{2 * size}I", copy_from_user(useraddr + 8, 8 * size))
    valid = sum(word << 32 * i for i, word in enumerate(raw[::2]))
    requested = sum(word << 32 * i for i, word in enumerate(raw[1::2]))
    if valid & ~((1 << NETDEV_FEATURE_COUNT) - 1) or valid & NETIF_F_NEVER_CHANGE:
        raise KernelError(EINVAL)
    valid &= dev.hw_features
    features = dev.features & ~valid | requested & valid
    if features != dev.features:
        dev.features = features
        call_netdevice_notifiers(NETDEV_FEAT_CHANGE, dev)


_commands: dict[int, Callable[[NetDevice, int], None]] = {
    ETHTOOL_GSET: ethtool_get_settings, ETHTOOL_GDRVINFO: ethtool_get_drvinfo, ETHTOOL_GLINK: ethtool_get_link,
    ETHTOOL_GRINGPARAM: ethtool_get_ringparam, ETHTOOL_GSTRINGS: ethtool_get_strings, ETHTOOL_GSTATS: ethtool_get_stats,
    ETHTOOL_GPERMADDR: ethtool_get_perm_addr, ETHTOOL_GFLAGS: ethtool_get_flags,
    ETHTOOL_GSSET_INFO: ethtool_get_sset_info, ETHTOOL_GFEATURES: ethtool_get_features,
    ETHTOOL_SFEATURES: ethtool_set_features, ETHTOOL_GLINKSETTINGS: ethtool_get_link_ksettings,
}


@may_sleep
def dev_ethtool(net: Net, name: bytes, useraddr: int) -> None:
    """One request; its first word says which. Errors: ENODEV, EPERM, EOPNOTSUPP, EFAULT, EINVAL. Locks: rtnl."""
    dev = __dev_get_by_name(net, name)
    if dev is None:
        raise KernelError(ENODEV)
    ethcmd = get_user_u32(useraddr)
    if ethcmd not in _UNPRIVILEGED and not ns_capable(None, CAP_NET_ADMIN):
        raise KernelError(EPERM)
    if ethcmd in _ONE_BIT:
        ethtool_get_one_feature(dev, useraddr, ethcmd)
        return
    command = _commands.get(ethcmd)
    if command is None:
        raise KernelError(EOPNOTSUPP)
    command(dev, useraddr)
