"""Interface requests of ioctl(2): SIOCGIFCONF, SIOCGIFFLAGS, SIOCSIFMTU and their relatives.

Linux: net/core/dev_ioctl.c, inet_gifconf() of net/ipv4/devinet.c (5.3). Same: layout of struct ifreq, alias labels
    (eth0:1) mean their device, changes need CAP_NET_ADMIN, errno. Those about addresses belong to AF_INET
    (devinet_ioctl).
Owns: nothing. Gaps: SIOCSIFMAP, bonding, MII registers, wireless.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.kernel.capability import CAP_NET_ADMIN, ns_capable
from glasskernel.lib.errno import EINVAL, ENODEV, ENOTTY, EOPNOTSUPP, EPERM, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dev_chain import (
    __dev_get_by_index,
    __dev_get_by_name,
    call_netdevice_notifiers,
    for_each_netdev,
)
from glasskernel.net.core.dev_open import (
    dev_change_flags,
    dev_change_tx_queue_len,
    dev_get_flags,
    dev_mc_add,
    dev_mc_del,
    dev_set_mac_address,
    dev_set_mtu,
)
from glasskernel.net.core.dev_register import dev_change_name
from glasskernel.net.core.ethtool import SIOCETHTOOL, dev_ethtool
from glasskernel.net.core.rtnl import rtnl_lock, rtnl_unlock
from glasskernel.net.ipv4.in_device import in_dev_get
from glasskernel.net.netdevice import IFNAMSIZ, NETDEV_CHANGEADDR
from glasskernel.net.types import AF_INET, AF_UNSPEC

if TYPE_CHECKING:
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.types import Net

SIOCGIFNAME, SIOCGIFCONF, SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8910, 0x8912, 0x8913, 0x8914
SIOCGIFMETRIC, SIOCSIFMETRIC, SIOCGIFMTU, SIOCSIFMTU, SIOCSIFNAME = 0x891D, 0x891E, 0x8921, 0x8922, 0x8923
SIOCSIFHWADDR, SIOCGIFHWADDR, SIOCGIFSLAVE, SIOCADDMULTI, SIOCDELMULTI = 0x8924, 0x8927, 0x8929, 0x8931, 0x8932
SIOCGIFINDEX, SIOCSIFHWBROADCAST, SIOCGIFTXQLEN, SIOCSIFTXQLEN = 0x8933, 0x8937, 0x8942, 0x8943
SIOCGMIIPHY, SIOCGMIIREG, SIOCSMIIREG, SIOCGIFMAP, SIOCSIFMAP = 0x8947, 0x8948, 0x8949, 0x8970, 0x8971
SIZEOF_IFREQ = 40
ifmap = struct.Struct("<QQHBBB3x")
_GETTERS = (SIOCGIFFLAGS, SIOCGIFMETRIC, SIOCGIFMTU, SIOCGIFHWADDR, SIOCGIFSLAVE, SIOCGIFMAP, SIOCGIFINDEX,
            SIOCGIFTXQLEN)
_SETTERS = (SIOCSIFFLAGS, SIOCSIFMETRIC, SIOCSIFMTU, SIOCSIFHWADDR, SIOCSIFHWBROADCAST, SIOCSIFMAP, SIOCADDMULTI,
            SIOCDELMULTI, SIOCSIFTXQLEN, SIOCSIFNAME)
# what only drivers know; those without privileges may try
_MII = (SIOCGMIIPHY, SIOCGMIIREG, SIOCSMIIREG)
_DRIVERS = (*_MII, *range(0x89F0, 0x8A00))


@notrace
def ifr_name(ifr: bytearray) -> bytes:
    return bytes(ifr[: IFNAMSIZ - 1]).partition(b"\0")[0]


# ---- lists -----------------------------------------------------------------------------------------
@notrace
def dev_ifname(net: Net, ifr: bytearray) -> None:
    """SIOCGIFNAME: number to name. Errors: ENODEV."""
    dev = __dev_get_by_index(net, int.from_bytes(ifr[16:20], "little", signed=True))
    if dev is None:
        raise KernelError(ENODEV)
    ifr[:IFNAMSIZ] = dev.name.ljust(IFNAMSIZ, b"\0")


def inet_gifconf(dev: NetDevice) -> list[bytes]:
    """One struct ifreq for each IPv4 address of a device."""
    in_dev = in_dev_get(dev)
    if in_dev is None:
        return []
    return [(ifa.ifa_label or dev.name).ljust(IFNAMSIZ, b"\0") + struct.pack("<HH", AF_INET, 0)
            + ifa.ifa_local.to_bytes(4, "big") + bytes(16) for ifa in in_dev.ifa_list]


@may_sleep
def dev_ifconf(net: Net, arg: int) -> None:
    """SIOCGIFCONF: as many as fit into struct ifconf's buffer; without a buffer, how much room all need."""
    size, buffer = struct.unpack("<i4xQ", copy_from_user(arg, 16))
    total = 0
    for dev in for_each_netdev(net):
        for ifreq in inet_gifconf(dev):
            if buffer:
                if size - total < SIZEOF_IFREQ:
                    break
                copy_to_user(buffer + total, ifreq)
            total += SIZEOF_IFREQ
    copy_to_user(arg, struct.pack("<i", total))


# ---- one interface ---------------------------------------------------------------------------------
def dev_ifsioc_locked(net: Net, ifr: bytearray, cmd: int) -> None:
    """Requests that only look. Errors: ENODEV, EINVAL."""
    dev = __dev_get_by_name(net, ifr_name(ifr).partition(b":")[0])
    if dev is None:
        raise KernelError(ENODEV)
    if cmd == SIOCGIFFLAGS:
        ifr[16:18] = (dev_get_flags(dev) & 0xFFFF).to_bytes(2, "little")
    elif cmd == SIOCGIFMETRIC:
        ifr[16:20] = bytes(4)
    elif cmd == SIOCGIFMTU:
        ifr[16:20] = dev.mtu.to_bytes(4, "little")
    elif cmd == SIOCGIFHWADDR:
        ifr[16:32] = dev.type.to_bytes(2, "little") + dev.dev_addr[:14].ljust(14, b"\0")
    elif cmd == SIOCGIFMAP:
        ifr[16:40] = ifmap.pack(dev.mem_start, dev.mem_end, dev.base_addr, dev.irq & 0xFF, 0, 0)
    elif cmd == SIOCGIFINDEX:
        ifr[16:20] = dev.ifindex.to_bytes(4, "little")
    elif cmd == SIOCGIFTXQLEN:
        ifr[16:20] = dev.tx_queue_len.to_bytes(4, "little")
    else:
        raise KernelError(EINVAL)        # SIOCGIFSLAVE


@may_sleep
def dev_ifsioc(net: Net, ifr: bytearray, cmd: int) -> None:
    """Requests that change something. Errors: ENODEV, EINVAL, EOPNOTSUPP, and those of the change. Locks: rtnl."""
    dev = __dev_get_by_name(net, ifr_name(ifr).partition(b":")[0])
    if dev is None:
        raise KernelError(ENODEV)
    value = int.from_bytes(ifr[16:20], "little", signed=True)
    family = int.from_bytes(ifr[16:18], "little")
    address = bytes(ifr[18 : 18 + dev.addr_len])
    if cmd == SIOCSIFFLAGS:
        dev_change_flags(dev, int.from_bytes(ifr[16:18], "little"))
    elif cmd == SIOCSIFMTU:
        dev_set_mtu(dev, value)
    elif cmd == SIOCSIFHWADDR:
        dev_set_mac_address(dev, family, address)
    elif cmd == SIOCSIFHWBROADCAST:
        if family != dev.type:
            raise KernelError(EINVAL)
        dev.broadcast = address
        call_netdevice_notifiers(NETDEV_CHANGEADDR, dev)
    elif cmd in (SIOCADDMULTI, SIOCDELMULTI):
        if dev.netdev_ops.ndo_set_rx_mode is None or family != AF_UNSPEC:
            raise KernelError(EINVAL)
        (dev_mc_add if cmd == SIOCADDMULTI else dev_mc_del)(dev, address)
    elif cmd == SIOCSIFTXQLEN:
        if value < 0:
            raise KernelError(EINVAL)
        dev_change_tx_queue_len(dev, value)
    elif cmd == SIOCSIFNAME:
        dev_change_name(dev, bytes(ifr[16:31]).partition(b"\0")[0])
    elif cmd in _DRIVERS:
        dev.netdev_ops.ndo_do_ioctl(dev, ifr, cmd)
    else:
        raise KernelError(EOPNOTSUPP)    # SIOCSIFMETRIC, SIOCSIFMAP


@may_sleep
def dev_ioctl(net: Net, cmd: int, arg: int) -> int:
    """What sockets of every family know about interfaces. arg: a user's struct ifreq or ifconf.

    Errors: ENOTTY for a request that is none, EFAULT, EPERM, ENODEV, EINVAL, EOPNOTSUPP.
    """
    kernel = net.kernel
    if cmd == SIOCGIFCONF:
        rtnl_lock(kernel)
        try:
            dev_ifconf(net, arg)
        finally:
            rtnl_unlock(kernel)
        return 0
    if cmd != SIOCGIFNAME and cmd != SIOCETHTOOL and cmd not in (*_GETTERS, *_SETTERS, *_DRIVERS):
        raise KernelError(ENOTTY)
    ifr = bytearray(copy_from_user(arg, SIZEOF_IFREQ))
    if cmd == SIOCGIFNAME:
        dev_ifname(net, ifr)
    elif cmd in _GETTERS:
        dev_ifsioc_locked(net, ifr, cmd)
    else:
        if (cmd in _SETTERS or cmd in _MII) and not ns_capable(None, CAP_NET_ADMIN):
            raise KernelError(EPERM)
        rtnl_lock(kernel)
        try:
            if cmd == SIOCETHTOOL:
                dev_ethtool(net, ifr_name(ifr), int.from_bytes(ifr[16:24], "little"))
            else:
                dev_ifsioc(net, ifr, cmd)
        finally:
            rtnl_unlock(kernel)
        if cmd not in _DRIVERS:
            return 0
    copy_to_user(arg, ifr)
    return 0
