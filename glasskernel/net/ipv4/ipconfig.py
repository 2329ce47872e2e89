"""The addresses that a machine starts with.

Linux: net/ipv4/ipconfig.c (5.3). Same: the kernel parameter ip=CLIENT:SERVER:GATEWAY:NETMASK:HOSTNAME:DEVICE, a mask
that it leaves out follows from the address's class, ip=off; it waits for a carrier. Differs: without the parameter the
machine gets what its network (machine/gateway.py) gives to everybody, as an init script would do it.
Gaps: DHCP, BOOTP and RARP; the host name; DNS and NTP servers.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.printk import printk
from glasskernel.kernel.sched.core import msleep
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.errno import KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dev_open import dev_open
from glasskernel.net.core.rtnl import rtnl_lock, rtnl_unlock
from glasskernel.net.ipv4.devinet import inet_alloc_ifa, inet_insert_ifa
from glasskernel.net.ipv4.devinet_ioctl import inet_abc_len
from glasskernel.net.ipv4.fib_trie import fib_new_table, fib_table_insert
from glasskernel.net.ipv4.fib_types import NLM_F_CREATE, FibConfig
from glasskernel.net.ipv4.in_device import in_dev_get, inet_mask_len
from glasskernel.net.ipv4.types import RT_SCOPE_UNIVERSE, RT_TABLE_MAIN, RTN_UNICAST, RTPROT_BOOT
from glasskernel.net.netdevice import IFF_LOOPBACK, IFF_UP, netif_carrier_ok

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.netdevice import NetDevice
    from glasskernel.net.types import Net

DEFAULT_CLIENT, DEFAULT_GATEWAY, DEFAULT_PREFIX = 0x0A00020F, 0x0A000202, 24     # 10.0.2.15/24 by 10.0.2.2

CARRIER_TIMEOUT = 2 * HZ                 # jiffies; Linux's 120 s would be a long socket()


@slotted
class IcConfig:
    """ic_myaddr, ic_gateway ... of ip=. prefixlen -1: by class. device: empty for the first. enabled: not "off"."""

    myaddr: int = DEFAULT_CLIENT
    gateway: int = DEFAULT_GATEWAY
    prefixlen: int = DEFAULT_PREFIX
    device: bytes = b""
    enabled: bool = True


@may_sleep
def ip_auto_config(kernel: Kernel) -> None:
    """The loopback device and the first other one come up, with their addresses and the default route."""
    assert kernel.net is not None
    net = kernel.net.init_net
    config = ip_auto_config_setup(kernel)
    rtnl_lock(kernel)
    dev_open(net.loopback_dev)
    dev = ic_open_devs(net, config) if config.enabled else None
    rtnl_unlock(kernel)
    if dev is None:
        return
    ic_wait_carrier(dev)
    rtnl_lock(kernel)
    ic_setup_if(dev, config)
    ic_setup_routes(net, dev, config)
    rtnl_unlock(kernel)


@notrace
def ip_auto_config_setup(kernel: Kernel) -> IcConfig:
    """ip= of the command line."""
    words = [word[3:] for word in kernel.params.cmdline.split() if word.startswith("ip=")]
    if not words:
        return IcConfig()
    if words[-1] in ("off", "none"):
        return IcConfig(enabled=False)
    parts = [*words[-1].split(":"), *[""] * 6][:6]
    client, _server, gateway, netmask, _hostname, device = parts
    return IcConfig(in_aton(client), in_aton(gateway), inet_mask_len(in_aton(netmask)) if netmask else -1,
                    device.encode(), bool(client))


@notrace
def in_aton(text: str) -> int:
    """a.b.c.d; 0 for what is none."""
    parts = text.split(".")
    if len(parts) != 4 or not all(part.isdigit() and int(part) < 256 for part in parts):
        return 0
    return int.from_bytes(bytes(map(int, parts)), "big")


def ic_open_devs(net: Net, config: IcConfig) -> NetDevice | None:
    """Brings the named device up, or the first that is not the loopback device."""
    for dev in net.dev_by_index.values():
        if dev.flags & IFF_LOOPBACK or (config.device and dev.name != config.device):
            continue
        try:
            if not dev.flags & IFF_UP:
                dev_open(dev)
        except KernelError:
            printk(net.kernel, f"IP-Config: Failed to open {dev.name.decode()}", 3)
            continue
        return dev
    return None


@notrace
@may_sleep
def ic_wait_carrier(dev: NetDevice) -> None:
    """The rest of ic_open_devs(): a link takes a while to come up; a cable that is not there is not waited for long."""
    time = dev.net.kernel.time
    end = time.jiffies + CARRIER_TIMEOUT
    while not netif_carrier_ok(dev) and time.jiffies < end:
        msleep(1)


def ic_setup_if(dev: NetDevice, config: IcConfig) -> None:
    in_dev = in_dev_get(dev)
    assert in_dev is not None
    prefixlen = config.prefixlen if config.prefixlen >= 0 else max(inet_abc_len(config.myaddr), 0)
    inet_insert_ifa(inet_alloc_ifa(in_dev, config.myaddr, prefixlen))


def ic_setup_routes(net: Net, dev: NetDevice, config: IcConfig) -> None:
    """The default route."""
    if config.gateway:
        table = fib_new_table(net, RT_TABLE_MAIN)
        fib_table_insert(net, table, FibConfig(
            0, 0, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST, RT_TABLE_MAIN, 0, config.gateway, dev.ifindex,
            fc_nlflags=NLM_F_CREATE))
