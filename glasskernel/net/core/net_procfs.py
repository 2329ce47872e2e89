"""/proc/net: dev, softnet_stat, ptype, dev_mcast, psched.

Linux: net/core/net-procfs.c, and the /proc file of net/sched/sch_api.c (5.3). Same: formats.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.proc.proc_net import proc_create_net, proc_net_ns_exit, proc_net_ns_init
from glasskernel.lib.types import notrace
from glasskernel.net.core.dev_chain import for_each_netdev, net_of
from glasskernel.net.core.dev_open import dev_get_stats
from glasskernel.net.core.net_namespace import register_pernet_subsys
from glasskernel.net.netdevice import ETH_P_ALL
from glasskernel.net.types import PernetOperations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.init.kernel import Kernel
    from glasskernel.net.netdevice import NetDevice, PacketType
    from glasskernel.net.types import Net


def dev_seq_printf_stats(dev: NetDevice) -> bytes:
    """One line of /proc/net/dev."""
    s = dev_get_stats(dev)
    return b"%6b: %7d %7d %4d %4d %4d %5d %10d %9d %8d %7d %4d %4d %4d %5d %7d %10d\n" % (
        dev.name, s.rx_bytes, s.rx_packets, s.rx_errors, s.rx_dropped + s.rx_missed_errors, s.rx_fifo_errors,
        s.rx_length_errors + s.rx_over_errors + s.rx_crc_errors + s.rx_frame_errors, s.rx_compressed, s.multicast,
        s.tx_bytes, s.tx_packets, s.tx_errors, s.tx_dropped, s.tx_fifo_errors, s.collisions,
        s.tx_carrier_errors + s.tx_aborted_errors + s.tx_window_errors + s.tx_heartbeat_errors, s.tx_compressed)


def dev_seq_show(net: Net) -> Iterator[bytes]:
    yield (b"Inter-|   Receive                                                |  Transmit\n"
           b" face |bytes    packets errs drop fifo frame compressed multicast|"
           b"bytes    packets errs drop fifo colls carrier compressed\n")
    for dev in for_each_netdev(net):
        yield dev_seq_printf_stats(dev)


def softnet_seq_show(net: Net) -> Iterator[bytes]:
    """One line a CPU; what is always 0 are counters of features that Linux lost, and of receive steering."""
    for sd in net_of(net.kernel).softnet_data:
        yield b"%08x %08x %08x %08x %08x %08x %08x %08x %08x %08x %08x\n" % (
            sd.processed, sd.dropped, sd.time_squeeze, 0, 0, 0, 0, 0, 0, sd.received_rps, 0)


@notrace
def _ptype_line(pt: PacketType) -> bytes:
    kind = b"ALL " if pt.type == ETH_P_ALL else b"%04x" % pt.type
    return kind + b" %-8b %b\n" % (pt.dev.name if pt.dev is not None else b"", pt.func.__name__.encode())


def ptype_seq_show(net: Net) -> Iterator[bytes]:
    """Who gets packets: taps first, then by EtherType."""
    state = net_of(net.kernel)
    yield b"Type Device      Function\n"
    for dev in for_each_netdev(net):
        for pt in dev.ptype_all:
            yield _ptype_line(pt)
    for pt in state.ptype_all:
        yield _ptype_line(pt)
    for kind in sorted(state.ptype_base, key=lambda kind: (kind & 15, kind)):
        for pt in state.ptype_base[kind]:
            if pt.dev is None or pt.dev.net is net:
                yield _ptype_line(pt)


def dev_mc_seq_show(net: Net) -> Iterator[bytes]:
    """The multicast addresses of each link, and how many users they have."""
    for dev in for_each_netdev(net):
        for address, users in dev.mc.items():
            yield b"%-4d %-15b %-5d %-5d %b\n" % (dev.ifindex, dev.name, users, 0, address.hex().encode())


def psched_show(net: Net) -> Iterator[bytes]:
    """Resolutions of the packet schedulers: ns a tick, ticks, us a second, Hz."""
    yield b"%08x %08x %08x %08x\n" % (1000, 64, 1_000_000, 1_000_000_000)


def dev_proc_net_init(net: Net) -> None:
    proc_create_net(net, b"dev", dev_seq_show)
    proc_create_net(net, b"softnet_stat", softnet_seq_show)
    proc_create_net(net, b"ptype", ptype_seq_show)


def dev_mc_net_init(net: Net) -> None:
    proc_create_net(net, b"dev_mcast", dev_mc_seq_show)


def psched_net_init(net: Net) -> None:
    proc_create_net(net, b"psched", psched_show)


def dev_proc_init(kernel: Kernel) -> None:
    """The files of every namespace."""
    register_pernet_subsys(kernel, PernetOperations(proc_net_ns_init, proc_net_ns_exit))
    register_pernet_subsys(kernel, PernetOperations(dev_proc_net_init))
    register_pernet_subsys(kernel, PernetOperations(dev_mc_net_init))
    register_pernet_subsys(kernel, PernetOperations(psched_net_init))
