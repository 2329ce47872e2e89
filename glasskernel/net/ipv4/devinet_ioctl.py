"""ifconfig(8): addresses of devices through ioctls.

Linux: net/ipv4/devinet.c: devinet_ioctl (5.3). Same: aliases (eth0:1) are labels of addresses; masks and broadcasts
follow from the class of an address; errno. Differs: a file of its own.
Locks: takes rtnl.
"""
from __future__ import annotations

from struct import unpack_from
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.kernel.capability import CAP_NET_ADMIN, capable
from glasskernel.lib.errno import EADDRNOTAVAIL, EINVAL, ENODEV, EPERM, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.core.dev_open import dev_change_flags
from glasskernel.net.core.rtnl import rtnl_lock, rtnl_unlock
from glasskernel.net.ipv4.devinet import inet_alloc_ifa, inet_del_ifa, inet_insert_ifa, inet_set_ifa
from glasskernel.net.ipv4.in_device import bad_mask, in_dev_get, inet_make_mask, inet_mask_len
from glasskernel.net.ipv4.ip_errqueue import sockaddr_in
from glasskernel.net.netdevice import IFF_BROADCAST, IFF_POINTOPOINT, IFF_UP
from glasskernel.net.types import AF_INET

if TYPE_CHECKING:
    from glasskernel.net.ipv4.types import InIfaddr
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.types import Net

(SIOCSIFFLAGS, SIOCGIFADDR, SIOCSIFADDR, SIOCGIFDSTADDR, SIOCSIFDSTADDR, SIOCGIFBRDADDR, SIOCSIFBRDADDR, SIOCGIFNETMASK,
 SIOCSIFNETMASK) = range(0x8914, 0x891D)
DEVINET_IOCTLS = range(SIOCSIFFLAGS, SIOCSIFNETMASK + 1)
_GET = (SIOCGIFADDR, SIOCGIFBRDADDR, SIOCGIFDSTADDR, SIOCGIFNETMASK)
IFREQ_SIZE = 40


def devinet_ioctl(net: Net, cmd: int, arg: int) -> int:
    """Raises EPERM, EFAULT, EINVAL, ENODEV, EADDRNOTAVAIL, EEXIST."""
    raw = copy_from_user(arg, IFREQ_SIZE)
    label = raw[:15].split(b"\0")[0]
    name = label.partition(b":")[0]
    family, address = unpack_from("<H2x4s", raw, 16)
    addr = int.from_bytes(address, "big")
    if cmd not in _GET:
        if not capable(CAP_NET_ADMIN):
            raise KernelError(EPERM)
        if cmd != SIOCSIFFLAGS and family != AF_INET:
            raise KernelError(EINVAL)
    rtnl_lock(net.kernel)
    try:
        dev = net.dev_by_name.get(name)
        if dev is None:
            raise KernelError(ENODEV)
        ifa = _find(dev, label, addr if cmd in _GET and family == AF_INET else None)
        if ifa is None and cmd not in (SIOCSIFADDR, SIOCSIFFLAGS):
            raise KernelError(EADDRNOTAVAIL)
        if cmd == SIOCSIFFLAGS:
            _set_flags(dev, ifa, label, unpack_from("<h", raw, 16)[0])
        elif cmd == SIOCSIFADDR:
            _set_address(dev, ifa, label, addr)
        else:
            assert ifa is not None
            if cmd in _GET:
                value = {SIOCGIFADDR: ifa.ifa_local, SIOCGIFBRDADDR: ifa.ifa_broadcast, SIOCGIFDSTADDR: ifa.ifa_address,
                         SIOCGIFNETMASK: ifa.ifa_mask}[cmd]
                copy_to_user(arg + 16, sockaddr_in(value, 0))
            else:
                _change(dev, ifa, cmd, addr)
    finally:
        rtnl_unlock(net.kernel)
    return 0


@notrace
def _find(dev: NetDevice, label: bytes, addr: int | None) -> InIfaddr | None:
    """The address with this label; of several, the one that the caller wrote into his request."""
    in_dev = in_dev_get(dev)
    if in_dev is None:
        return None
    labelled = [ifa for ifa in in_dev.ifa_list if ifa.ifa_label == label]
    for ifa in labelled:
        if addr is not None and ifa.ifa_local == addr:
            return ifa
    return labelled[0] if labelled else None


@notrace
def _set_flags(dev: NetDevice, ifa: InIfaddr | None, label: bytes, flags: int) -> None:
    if b":" in label:
        if ifa is None:
            raise KernelError(EADDRNOTAVAIL)
        if not flags & IFF_UP:
            inet_del_ifa(ifa.ifa_dev, ifa)
        return
    dev_change_flags(dev, flags & 0xFFFF)


@notrace
def inet_abc_len(addr: int) -> int:
    """The prefix of an address's class; -1: it has none."""
    if not addr or addr == 0xFFFFFFFF:
        return 0
    if not addr >> 31:
        return 8
    if addr >> 30 == 2:
        return 16
    return 24 if addr >> 29 == 6 else -1


@notrace
def _set_address(dev: NetDevice, ifa: InIfaddr | None, label: bytes, addr: int) -> None:
    prefixlen = inet_abc_len(addr)
    in_dev = in_dev_get(dev)
    if prefixlen < 0 or in_dev is None:
        raise KernelError(EINVAL)
    if ifa is not None:
        if ifa.ifa_local == addr:
            return
        inet_del_ifa(in_dev, ifa)
    if dev.flags & IFF_POINTOPOINT:
        prefixlen = 32
    new = inet_alloc_ifa(in_dev, addr, prefixlen)
    new.ifa_label = label
    if dev.flags & IFF_BROADCAST and prefixlen < 31:
        new.ifa_broadcast = addr | ~new.ifa_mask & 0xFFFFFFFF
    inet_set_ifa(dev, new)


@notrace
def _change(dev: NetDevice, ifa: InIfaddr, cmd: int, addr: int) -> None:
    """Another mask, broadcast or peer: the address goes and comes back."""
    in_dev = ifa.ifa_dev
    if cmd == SIOCSIFBRDADDR:
        if ifa.ifa_broadcast == addr:
            return
        inet_del_ifa(in_dev, ifa)
        ifa.ifa_broadcast = addr
    elif cmd == SIOCSIFDSTADDR:
        if ifa.ifa_address == addr:
            return
        if inet_abc_len(addr) < 0:
            raise KernelError(EINVAL)
        inet_del_ifa(in_dev, ifa)
        ifa.ifa_address = addr
    else:
        if bad_mask(addr, 0):
            raise KernelError(EINVAL)
        if ifa.ifa_mask == addr:
            return
        old = ifa.ifa_mask
        inet_del_ifa(in_dev, ifa)
        ifa.ifa_mask, ifa.ifa_prefixlen = addr, inet_mask_len(addr)
        if (dev.flags & IFF_BROADCAST and ifa.ifa_prefixlen < 31
                and ifa.ifa_broadcast == ifa.ifa_local | ~old & 0xFFFFFFFF):
            ifa.ifa_broadcast = ifa.ifa_local | ~inet_make_mask(ifa.ifa_prefixlen) & 0xFFFFFFFF
    inet_insert_ifa(ifa)
