"""The driver of the machine's network card, an Intel 82540EM: eth0.

Linux: drivers/net/ethernet/intel/e1000/e1000_main.c, e1000_hw.c (5.3). Same: an interrupt masks the card and
schedules its poll, which takes what was sent and received until nothing is left, and turns the interrupts on again;
the watchdog follows the link. Differs: packets are copied between skbs and buffers that the card can reach, which are
allocated once; the watchdog's period does not wake an idle CPU, so that a machine in which nothing happens stands
still.
Gaps: transmit segmentation (net/core/dev_xmit.py does it), jumbo frames, VLANs, wake on LAN,
other cards of the family, PCI.
Owns: E1000Adapter (netdev.priv), the line NIC_IRQ while the device is up. Sending and receiving: rings.py.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.net.e1000.ethtool import e1000_ethtool_ops
from glasskernel.drivers.net.e1000.rings import (
    e1000_alloc_rx_buffers,
    e1000_clean_rx_irq,
    e1000_clean_tx_irq,
    e1000_free_all_resources,
    e1000_setup_all_rx_resources,
    e1000_setup_all_tx_resources,
    e1000_xmit_frame,
)
from glasskernel.drivers.net.e1000.types import (
    BULK_LATENCY,
    E1000_DOWN,
    E1000_RESETTING,
    LOW_LATENCY,
    LOWEST_LATENCY,
    E1000Adapter,
)
from glasskernel.kernel.irq.irqdesc import IRQ_HANDLED, IRQ_NONE, IRQF_SHARED
from glasskernel.kernel.irq.manage import free_irq, request_irq
from glasskernel.kernel.sched.core import msleep
from glasskernel.kernel.time.timer import round_jiffies_relative
from glasskernel.kernel.time.types import HZ, TIMER_DEFERRABLE
from glasskernel.kernel.workqueue import (
    DelayedWork,
    WorkStruct,
    cancel_delayed_work_sync,
    mod_delayed_work,
    schedule_work,
)
from glasskernel.lib.errno import EADDRNOTAVAIL, EIO, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.machine.nic import (
    BPRC,
    CRCERRS,
    CTRL,
    CTRL_RST,
    CTRL_SLU,
    EERD,
    EERD_DONE,
    EERD_START,
    GPRC,
    GPTC,
    ICR,
    ICR_LSC,
    ICR_RXDMT0,
    ICR_RXSEQ,
    ICR_RXT0,
    ICR_TXDW,
    ICS,
    IMC,
    IMS,
    ITR,
    MPC,
    MPRC,
    MTA,
    NIC_IRQ,
    RAH,
    RAH_AV,
    RAL,
    RCTL,
    RCTL_BAM,
    RCTL_EN,
    RCTL_MPE,
    RCTL_UPE,
    RDBAH,
    RDBAL,
    RDH,
    RDLEN,
    RDT,
    RXCSUM,
    RXCSUM_TUOFL,
    STATUS,
    STATUS_LU,
    TCTL,
    TCTL_EN,
    TDBAH,
    TDBAL,
    TDH,
    TDLEN,
    TDT,
)
from glasskernel.net.core.dev_chain import net_of
from glasskernel.net.core.dev_register import register_netdev
from glasskernel.net.core.link_watch import netif_carrier_off, netif_carrier_on
from glasskernel.net.core.napi import (
    __napi_schedule,
    napi_complete_done,
    napi_disable,
    napi_enable,
    napi_schedule_prep,
    netif_napi_add,
)
from glasskernel.net.core.rtnl import rtnl_lock, rtnl_unlock
from glasskernel.net.ethernet.eth import alloc_etherdev_mqs, eth_validate_addr, is_valid_ether_addr
from glasskernel.net.netdevice import (
    ETH_DATA_LEN,
    IFF_ALLMULTI,
    IFF_PROMISC,
    NETIF_F_HW_CSUM,
    NETIF_F_RXCSUM,
    NETIF_F_SG,
    NetDevice,
    NetDeviceOps,
    NetDeviceStats,
    netif_carrier_ok,
    netif_running,
)
from glasskernel.net.sched.sch_generic import netif_start_queue, netif_stop_queue

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.netdevice import NapiStruct

IMS_ENABLE_MASK = ICR_RXT0 | ICR_TXDW | ICR_RXDMT0 | ICR_RXSEQ | ICR_LSC
WATCHDOG_PERIOD = 2 * HZ


# ---- finding the card ----------------------------------------------------------------------------------------
def e1000_init_module(kernel: Kernel) -> None:
    """The machine's card, if it has one, becomes eth0. Context: task; may sleep."""
    if kernel.machine.nic is not None:
        e1000_probe(kernel)


@may_sleep
def e1000_probe(kernel: Kernel) -> None:
    """Raises EIO if the card has no usable address."""
    netdev = alloc_etherdev_mqs(net_of(kernel).init_net, e1000_setup)
    adapter: E1000Adapter = netdev.priv
    adapter.napi = netif_napi_add(netdev, e1000_clean, 64)
    e1000_reset_hw(adapter)
    netdev.dev_addr = e1000_read_mac_addr(adapter)
    if not is_valid_ether_addr(netdev.dev_addr):
        raise KernelError(EIO)
    adapter.watchdog_task = DelayedWork(e1000_watchdog, adapter)
    adapter.reset_task = WorkStruct(e1000_reset_task, adapter)
    e1000_reset(adapter)
    register_netdev(netdev)
    netif_carrier_off(netdev)
    kernel.printk(f"e1000 0000:00:03.0 {netdev.name.decode()}: Intel(R) PRO/1000 Network Connection")


@notrace
def e1000_setup(netdev: NetDevice) -> None:
    nic = netdev.net.kernel.machine.nic
    assert nic is not None
    netdev.priv = E1000Adapter(netdev, nic)
    netdev.netdev_ops = e1000_netdev_ops
    netdev.ethtool_ops = e1000_ethtool_ops
    netdev.watchdog_timeo = 5 * HZ
    netdev.irq = NIC_IRQ
    netdev.parent = b"0000:00:03.0"
    netdev.max_mtu = ETH_DATA_LEN
    netdev.hw_features = netdev.features = NETIF_F_SG | NETIF_F_HW_CSUM | NETIF_F_RXCSUM


def e1000_reset_hw(adapter: E1000Adapter) -> None:
    hw = adapter.hw
    hw.write32(IMC, 0xFFFFFFFF)
    hw.write32(RCTL, 0)
    hw.write32(TCTL, 0)
    hw.write32(CTRL, CTRL_RST)
    hw.write32(IMC, 0xFFFFFFFF)
    hw.read32(ICR)


def e1000_read_eeprom(adapter: E1000Adapter, offset: int) -> int:
    """A word. Raises EIO."""
    adapter.hw.write32(EERD, EERD_START | offset << 8)
    value = adapter.hw.read32(EERD)
    if not value & EERD_DONE:
        raise KernelError(EIO)
    return value >> 16


def e1000_read_mac_addr(adapter: E1000Adapter) -> bytes:
    return b"".join(e1000_read_eeprom(adapter, word).to_bytes(2, "little") for word in range(3))


# ---- up and down -----------------------------------------------------------------------------------------------
@may_sleep
def e1000_open(netdev: NetDevice) -> None:
    """->ndo_open(). Raises ENOMEM, EBUSY (the line)."""
    adapter: E1000Adapter = netdev.priv
    netif_carrier_off(netdev)
    e1000_setup_all_tx_resources(adapter)
    e1000_setup_all_rx_resources(adapter)
    e1000_configure(adapter)
    try:
        e1000_request_irq(adapter)
    except KernelError:
        e1000_free_all_resources(adapter)
        raise
    adapter.flags &= ~E1000_DOWN
    napi_enable(adapter.napi)
    e1000_irq_enable(adapter)
    netif_start_queue(netdev)
    adapter.hw.write32(ICS, ICR_LSC)                 # the watchdog shall look at the link


@may_sleep
def e1000_close(netdev: NetDevice) -> None:
    """->ndo_stop()"""
    adapter: E1000Adapter = netdev.priv
    e1000_down(adapter)
    e1000_free_irq(adapter)
    e1000_free_all_resources(adapter)


def e1000_request_irq(adapter: E1000Adapter) -> None:
    netdev = adapter.netdev
    kernel = netdev.net.kernel
    request_irq(kernel, kernel.machine.line_of(NIC_IRQ), e1000_intr, IRQF_SHARED, netdev.name.decode(), netdev)


def e1000_free_irq(adapter: E1000Adapter) -> None:
    kernel = adapter.netdev.net.kernel
    free_irq(kernel, kernel.machine.line_of(NIC_IRQ), adapter.netdev)


def e1000_irq_disable(adapter: E1000Adapter) -> None:
    adapter.hw.write32(IMC, 0xFFFFFFFF)


def e1000_irq_enable(adapter: E1000Adapter) -> None:
    adapter.hw.write32(IMS, IMS_ENABLE_MASK)


def e1000_configure(adapter: E1000Adapter) -> None:
    """Tells the card everything that a reset made it forget."""
    e1000_set_rx_mode(adapter.netdev)
    e1000_configure_tx(adapter)
    e1000_configure_rx(adapter)
    e1000_alloc_rx_buffers(adapter, adapter.rx_ring, adapter.rx_ring.count - 1)


def e1000_configure_tx(adapter: E1000Adapter) -> None:
    hw, ring = adapter.hw, adapter.tx_ring
    hw.write32(TDBAL, ring.desc & 0xFFFFFFFF)
    hw.write32(TDBAH, ring.desc >> 32)
    hw.write32(TDLEN, ring.count * 16)
    hw.write32(TDH, 0)
    hw.write32(TDT, 0)
    hw.write32(TCTL, TCTL_EN)
    hw.write32(ITR, 1_000_000_000 // (adapter.itr * 256))


def e1000_configure_rx(adapter: E1000Adapter) -> None:
    hw, ring = adapter.hw, adapter.rx_ring
    hw.write32(RDBAL, ring.desc & 0xFFFFFFFF)
    hw.write32(RDBAH, ring.desc >> 32)
    hw.write32(RDLEN, ring.count * 16)
    hw.write32(RDT, 0)
    hw.write32(RDH, 0)
    hw.write32(RXCSUM, RXCSUM_TUOFL if adapter.netdev.features & NETIF_F_RXCSUM else 0)
    hw.write32(RCTL, hw.read32(RCTL) | RCTL_EN | RCTL_BAM)


def e1000_reset(adapter: E1000Adapter) -> None:
    """The card as new, with the device's address and its link set up."""
    hw = adapter.hw
    e1000_reset_hw(adapter)
    e1000_rar_set(adapter, adapter.netdev.dev_addr)
    hw.write32(CTRL, hw.read32(CTRL) | CTRL_SLU)


def e1000_rar_set(adapter: E1000Adapter, addr: bytes) -> None:
    """Its own address, in the filter."""
    adapter.hw.write32(RAL, int.from_bytes(addr[:4], "little"))
    adapter.hw.write32(RAH, int.from_bytes(addr[4:], "little") | RAH_AV)


@may_sleep
def e1000_down(adapter: E1000Adapter) -> None:
    """Stops everything: no interrupt, poll or work is left."""
    hw, netdev = adapter.hw, adapter.netdev
    hw.write32(RCTL, hw.read32(RCTL) & ~RCTL_EN)
    netif_carrier_off(netdev)
    netif_stop_queue(netdev)
    hw.write32(TCTL, hw.read32(TCTL) & ~TCTL_EN)
    napi_disable(adapter.napi)
    e1000_irq_disable(adapter)
    adapter.flags |= E1000_DOWN
    cancel_delayed_work_sync(adapter.watchdog_task)
    e1000_update_stats(adapter)
    adapter.link_speed = 0
    adapter.get_link_status = True
    e1000_reset(adapter)


@may_sleep
def e1000_reinit_locked(adapter: E1000Adapter) -> None:
    """Down and up, as after a transmit that hangs. Locks: rtnl."""
    while adapter.flags & E1000_RESETTING:
        msleep(1)
    adapter.flags |= E1000_RESETTING
    if not adapter.flags & E1000_DOWN:
        e1000_down(adapter)
        e1000_free_all_resources(adapter)
        e1000_setup_all_tx_resources(adapter)
        e1000_setup_all_rx_resources(adapter)
        e1000_configure(adapter)
        adapter.flags &= ~E1000_DOWN
        napi_enable(adapter.napi)
        netif_start_queue(adapter.netdev)
        e1000_irq_enable(adapter)
        adapter.hw.write32(ICS, ICR_LSC)
    adapter.flags &= ~E1000_RESETTING


def e1000_tx_timeout(netdev: NetDevice) -> None:
    """->ndo_tx_timeout(). Context: softirq."""
    adapter: E1000Adapter = netdev.priv
    adapter.tx_timeout_count += 1
    schedule_work(adapter.reset_task)


@may_sleep
def e1000_reset_task(work: WorkStruct) -> None:
    adapter: E1000Adapter = work.data
    kernel = adapter.netdev.net.kernel
    kernel.printk(f"e1000 0000:00:03.0 {adapter.netdev.name.decode()}: Reset adapter", 3)
    rtnl_lock(kernel)
    e1000_reinit_locked(adapter)
    rtnl_unlock(kernel)


# ---- interrupts ---------------------------------------------------------------------------------------------------
def e1000_intr(irq: int, netdev: NetDevice) -> int:
    """The card has something to say. Context: irq."""
    adapter: E1000Adapter = netdev.priv
    hw = adapter.hw
    icr = hw.read32(ICR)
    if not icr:
        return IRQ_NONE
    if adapter.flags & E1000_DOWN:
        return IRQ_HANDLED
    if icr & (ICR_RXSEQ | ICR_LSC):
        adapter.get_link_status = True
        adapter.watchdog_task.timer.flags &= ~TIMER_DEFERRABLE
        mod_delayed_work(netdev.net.kernel.workqueues.system_wq, adapter.watchdog_task, 1)
    hw.write32(IMC, 0xFFFFFFFF)
    if napi_schedule_prep(adapter.napi):
        adapter.total_tx_packets = adapter.total_tx_bytes = adapter.total_rx_packets = adapter.total_rx_bytes = 0
        __napi_schedule(adapter.napi)
    else:
        e1000_irq_enable(adapter)
    return IRQ_HANDLED


def e1000_clean(napi: NapiStruct, budget: int) -> int:
    """->poll(). Context: softirq."""
    adapter: E1000Adapter = napi.dev.priv
    tx_clean_complete = e1000_clean_tx_irq(adapter, adapter.tx_ring)
    work_done = e1000_clean_rx_irq(adapter, adapter.rx_ring, budget)
    if not tx_clean_complete or work_done == budget:
        return budget
    if napi_complete_done(napi, work_done):
        e1000_set_itr(adapter)
        if not adapter.flags & E1000_DOWN:
            e1000_irq_enable(adapter)
    return work_done


def e1000_update_itr(itr_setting: int, packets: int, nr_bytes: int) -> int:
    """How urgent this kind of traffic is, after what the last poll has moved: LOWEST_LATENCY ... BULK_LATENCY."""
    if not packets:
        return itr_setting
    size = nr_bytes // packets
    if itr_setting == LOWEST_LATENCY:
        if size > 8000:
            return BULK_LATENCY
        if packets < 5 and nr_bytes > 512:
            return LOW_LATENCY
    elif itr_setting == LOW_LATENCY:
        if nr_bytes > 10000:
            if size > 8000 or packets < 10 or size > 1200:
                return BULK_LATENCY
            if packets > 35:
                return LOWEST_LATENCY
        elif size > 2000:
            return BULK_LATENCY
        elif packets <= 2 and nr_bytes < 512:
            return LOWEST_LATENCY
    elif (nr_bytes > 25000 and packets > 35) or nr_bytes < 6000:
        return LOW_LATENCY
    return itr_setting


def e1000_set_itr(adapter: E1000Adapter) -> None:
    """How many interrupts a second the card may raise: few for bulk, more for what waits for answers."""
    if adapter.link_speed != 1000:
        new_itr = 4000
    else:
        adapter.tx_itr = max(e1000_update_itr(adapter.tx_itr, adapter.total_tx_packets, adapter.total_tx_bytes),
                             LOW_LATENCY)
        adapter.rx_itr = max(e1000_update_itr(adapter.rx_itr, adapter.total_rx_packets, adapter.total_rx_bytes),
                             LOW_LATENCY)
        new_itr = 4000 if BULK_LATENCY in (adapter.tx_itr, adapter.rx_itr) else 20000
    if new_itr != adapter.itr:
        if new_itr > adapter.itr:
            new_itr = min(adapter.itr + (new_itr >> 2), new_itr)
        adapter.itr = new_itr
        adapter.hw.write32(ITR, 1_000_000_000 // (new_itr * 256))


# ---- the link -------------------------------------------------------------------------------------------------------
def e1000_has_link(adapter: E1000Adapter) -> bool:
    if adapter.get_link_status and adapter.hw.read32(STATUS) & STATUS_LU:
        adapter.get_link_status = False
    return not adapter.get_link_status


@may_sleep
def e1000_watchdog(work: WorkStruct) -> None:
    """Follows the link, and collects statistics."""
    adapter: E1000Adapter = work.data
    netdev = adapter.netdev
    kernel = netdev.net.kernel
    name = netdev.name.decode()
    link = e1000_has_link(adapter)
    if link and not netif_carrier_ok(netdev):
        adapter.link_speed = 1000
        kernel.printk(f"e1000: {name} NIC Link is Up 1000 Mbps Full Duplex, Flow Control: RX")
        netif_carrier_on(netdev)
    elif not link and netif_carrier_ok(netdev):
        adapter.link_speed = 0
        kernel.printk(f"e1000: {name} NIC Link is Down")
        netif_carrier_off(netdev)
    e1000_update_stats(adapter)
    if not adapter.flags & E1000_DOWN:
        adapter.watchdog_task.timer.flags |= TIMER_DEFERRABLE
        mod_delayed_work(kernel.workqueues.system_wq, adapter.watchdog_task, round_jiffies_relative(WATCHDOG_PERIOD))


def e1000_update_stats(adapter: E1000Adapter) -> None:
    """What the card has counted. Packets and bytes are counted by the rings."""
    hw, stats = adapter.hw, adapter.netdev.stats
    stats.multicast += hw.read32(MPRC)
    missed = hw.read32(MPC)
    stats.rx_missed_errors += missed
    crc = hw.read32(CRCERRS)
    stats.rx_crc_errors += crc
    stats.rx_errors += crc
    for register in (BPRC, GPRC, GPTC):
        hw.read32(register)


@notrace
def e1000_get_stats64(netdev: NetDevice) -> NetDeviceStats:
    """->ndo_get_stats64(): up to date even if the watchdog has slept."""
    adapter: E1000Adapter = netdev.priv
    e1000_update_stats(adapter)
    return netdev.stats


# ---- what it listens to ---------------------------------------------------------------------------------------------
def e1000_set_rx_mode(netdev: NetDevice) -> None:
    """->ndo_set_rx_mode()"""
    adapter: E1000Adapter = netdev.priv
    hw = adapter.hw
    rctl = hw.read32(RCTL) & ~(RCTL_UPE | RCTL_MPE)
    if netdev.flags & IFF_PROMISC:
        rctl |= RCTL_UPE | RCTL_MPE
    elif netdev.flags & IFF_ALLMULTI:
        rctl |= RCTL_MPE
    hw.write32(RCTL, rctl)
    table: dict[int, int] = {}
    for addr in netdev.mc:
        index = e1000_hash_mc_addr(addr)
        table[index >> 5] = table.get(index >> 5, 0) | 1 << (index & 31)
    for word in range(128):
        hw.write32(MTA + word * 4, table.get(word, 0))


def e1000_hash_mc_addr(addr: bytes) -> int:
    """A multicast address's bit in the card's table of 4096."""
    return (addr[4] >> 4 | addr[5] << 4) & 0xFFF


def e1000_set_mac(netdev: NetDevice, addr: bytes) -> None:
    """->ndo_set_mac_address(). Raises EADDRNOTAVAIL."""
    if not is_valid_ether_addr(addr):
        raise KernelError(EADDRNOTAVAIL)
    netdev.dev_addr = addr
    e1000_rar_set(netdev.priv, addr)


def e1000_change_mtu(netdev: NetDevice, new_mtu: int) -> None:
    """->ndo_change_mtu()"""
    netdev.net.kernel.printk(f"e1000 0000:00:03.0 {netdev.name.decode()}: changing MTU from {netdev.mtu} to {new_mtu}")
    netdev.mtu = new_mtu
    if not netif_running(netdev):
        e1000_reset(netdev.priv)


e1000_netdev_ops = NetDeviceOps(
    ndo_start_xmit=e1000_xmit_frame, ndo_open=e1000_open, ndo_stop=e1000_close, ndo_set_rx_mode=e1000_set_rx_mode,
    ndo_set_mac_address=e1000_set_mac, ndo_validate_addr=eth_validate_addr, ndo_change_mtu=e1000_change_mtu,
    ndo_get_stats64=e1000_get_stats64, ndo_tx_timeout=e1000_tx_timeout,
)
