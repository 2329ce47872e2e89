"""Sending packets; and how the devices' core comes up.

Linux: net/core/dev.c (5.3). That file is large; its parts are: names and notifiers in dev_chain.py, receiving in
dev_receive.py, napi.py and gro.py, the last steps before a driver in dev_xmit.py, opening, closing and flags in
dev_open.py, registration in dev_register.py. What others need of them can be imported from here, where Linux has it.
Same: a device with a queue sends through its discipline, one without (lo) at once, with a limit on recursion.
Gaps: several transmit queues, egress filters, XPS.
Context: dev_queue_xmit(): any but hard interrupts. The skb is given, whatever the answer is.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.irq.irqdesc import NET_RX_SOFTIRQ, NET_TX_SOFTIRQ
from glasskernel.kernel.softirq import local_bh_disable, local_bh_enable, open_softirq, raise_softirq_irqoff
from glasskernel.lib.errno import ENETDOWN
from glasskernel.lib.types import notrace
from glasskernel.net.core.dev_chain import (
    __dev_get_by_index,
    __dev_get_by_name,
    call_netdevice_notifiers,
    dev_get_by_index,
    dev_get_by_index_rcu,
    dev_valid_name,
    for_each_netdev,
    net_of,
    netdev_state_change,
    register_netdevice_notifier,
)
from glasskernel.net.core.dev_open import (
    dev_change_flags,
    dev_change_tx_queue_len,
    dev_close,
    dev_get_flags,
    dev_get_stats,
    dev_mc_add,
    dev_mc_del,
    dev_open,
    dev_set_allmulti,
    dev_set_mac_address,
    dev_set_mtu,
    dev_set_promiscuity,
)
from glasskernel.net.core.dev_receive import (
    dev_add_pack,
    dev_remove_pack,
    netif_receive_skb,
)
from glasskernel.net.core.dev_register import (
    alloc_netdev_mqs,
    dev_alloc_name,
    dev_change_name,
    dev_change_net_namespace,
    register_netdev,
    register_netdevice,
    unregister_netdevice,
)
from glasskernel.net.core.dev_xmit import (
    dev_hard_start_xmit,
    dev_xmit_complete,
    skb_network_protocol,
    validate_xmit_skb,
)
from glasskernel.net.core.gro import dev_add_offload, napi_gro_receive
from glasskernel.net.core.napi import _napi_schedule, net_rx_action, netif_rx, netif_rx_ni, softnet_init
from glasskernel.net.core.net_namespace import net_ns_init
from glasskernel.net.netdevice import IFF_UP, NET_XMIT_SUCCESS, NetDevice, NetdevQueue, Qdisc
from glasskernel.net.sched.sch_generic import (
    TCQ_F_CAN_BYPASS,
    __qdisc_run,
    bstats_update,
    qdisc_run,
    qdisc_run_begin,
    sch_direct_xmit,
)
from glasskernel.net.skbuff import (
    CHECKSUM_UNNECESSARY,
    PACKET_LOOPBACK,
    SKB_CAPACITY,
    SkBuff,
    __skb_dequeue,
    consume_skb,
    kfree_skb,
    skb_dst_drop,
    skb_pull,
    skb_reset_mac_header,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.types import Net, Sock

__all__ = [
    "__dev_get_by_index", "__dev_get_by_name", "alloc_netdev_mqs", "call_netdevice_notifiers", "dev_add_offload",
    "dev_add_pack", "dev_alloc_name", "dev_change_flags", "dev_change_name", "dev_change_net_namespace",
    "dev_change_tx_queue_len", "dev_close", "dev_get_by_index", "dev_get_by_index_rcu", "dev_get_flags",
    "dev_get_stats", "dev_loopback_xmit", "dev_mc_add", "dev_mc_del", "dev_open", "dev_queue_xmit",
    "dev_remove_pack", "dev_set_allmulti", "dev_set_mac_address", "dev_set_mtu", "dev_set_promiscuity",
    "dev_valid_name", "for_each_netdev", "napi_gro_receive", "net_dev_init", "net_of", "netdev_state_change",
    "netif_receive_skb", "netif_rx", "netif_rx_ni", "register_netdev", "register_netdevice",
    "register_netdevice_notifier", "skb_network_protocol", "unregister_netdevice",
]

XMIT_RECURSION_LIMIT = 8


def dev_queue_xmit(skb: SkBuff) -> int:
    """Sends a packet through skb.dev; the link's header is in front already. Answers NET_XMIT_*, or a negative
    errno."""
    return __dev_queue_xmit(skb)


def __dev_queue_xmit(skb: SkBuff) -> int:
    dev = skb.dev
    assert dev is not None
    skb_reset_mac_header(skb)
    local_bh_disable()                       # rcu_read_lock_bh()
    if not dev.keep_dst:
        skb_dst_drop(skb)
    txq = netdev_core_pick_tx(dev, skb)
    qdisc = txq.qdisc
    probe = dev.net.kernel.tp.net_dev_queue
    if probe is not None:
        probe(skb)
    if qdisc.ops.enqueue is not None:
        rc = __dev_xmit_skb(skb, qdisc, dev, txq)
        local_bh_enable()
        return rc
    rc = -ENETDOWN
    if dev.flags & IFF_UP:
        task = register.task
        sd = net_of(task.kernel).softnet_data[task.cpu]
        if sd.xmit_recursion > XMIT_RECURSION_LIMIT:
            task.kernel.printk(f"Dead loop on virtual device {dev.name.decode()}, fix it urgently!", 2)
        else:
            skbs = validate_xmit_skb(skb, dev)
            if not skbs:
                local_bh_enable()
                return rc
            if not txq.stopped:
                sd.xmit_recursion += 1
                skbs, rc = dev_hard_start_xmit(skbs, dev, txq)
                sd.xmit_recursion -= 1
                if dev_xmit_complete(rc):
                    local_bh_enable()
                    return rc
            rc = -ENETDOWN
            for left in skbs[1:]:
                kfree_skb(left)
            skb = skbs[0]
    local_bh_enable()
    dev.stats.tx_dropped += 1
    kfree_skb(skb)
    return rc


def netdev_core_pick_tx(dev: NetDevice, skb: SkBuff) -> NetdevQueue:
    """The transmit queue: every device has one."""
    skb.queue_mapping = 0
    return dev.tx


@notrace
def __dev_xmit_skb(skb: SkBuff, qdisc: Qdisc, dev: NetDevice, txq: NetdevQueue) -> int:
    """Past an empty queue, or into it; and the queue is run."""
    if qdisc.flags & TCQ_F_CAN_BYPASS and not qdisc.qlen and qdisc_run_begin(qdisc):
        bstats_update(qdisc, skb)
        if sch_direct_xmit(skb, qdisc, dev, txq, True):
            __qdisc_run(qdisc)
        qdisc.running = False
        return NET_XMIT_SUCCESS
    to_free: list[SkBuff] = []
    rc: int = qdisc.ops.enqueue(skb, qdisc, to_free)
    qdisc_run(qdisc)
    for dropped in to_free:
        kfree_skb(dropped)
    return rc


def dev_loopback_xmit(net: Net, sk: Sock | None, skb: SkBuff) -> int:
    """A copy of what is sent comes back at once (multicasts). Answers 0."""
    skb_reset_mac_header(skb)
    skb_pull(skb, skb.network_header - skb.data if skb.network_header != SKB_CAPACITY else 0)
    skb.pkt_type = PACKET_LOOPBACK
    skb.ip_summed = CHECKSUM_UNNECESSARY
    netif_rx_ni(skb)
    return 0


@notrace
def dev_kfree_skb_any(skb: SkBuff) -> None:
    """A driver is through with a packet that it dropped."""
    kfree_skb(skb)


@notrace
def dev_consume_skb_any(skb: SkBuff) -> None:
    """A driver is through with a packet that it sent."""
    consume_skb(skb)


def net_tx_action(kernel: Kernel) -> None:
    """NET_TX_SOFTIRQ: queues that were left over."""
    sd = net_of(kernel).softnet_data[register.task.cpu]
    queues, sd.output_queue = sd.output_queue, []
    for qdisc in queues:
        qdisc.scheduled = False
        qdisc_run(qdisc)


def dev_cpu_dead(kernel: Kernel, cpu: int) -> None:
    """A CPU is gone: its packets and pollers become ours. Context: task, on another CPU."""
    old, sd = net_of(kernel).softnet_data[cpu], net_of(kernel).softnet_data[register.task.cpu]
    if old.output_queue:
        sd.output_queue += old.output_queue
        old.output_queue = []
        raise_softirq_irqoff(NET_TX_SOFTIRQ)
    for napi in old.poll_list:
        if napi is old.backlog:
            napi.state = 0
        else:
            _napi_schedule(sd, napi)
    old.poll_list = []
    for queue in (old.process_queue, old.input_pkt_queue):
        while (skb := __skb_dequeue(queue)) is not None:
            netif_rx_ni(skb)
    if sd.poll_list:
        raise_softirq_irqoff(NET_RX_SOFTIRQ)


def net_dev_init(kernel: Kernel) -> None:
    """Softirqs and the CPUs' queues. Called by net/init.py before the first device."""
    net_ns_init(kernel)
    softnet_init(kernel)
    open_softirq(kernel, NET_TX_SOFTIRQ, net_tx_action)
    open_softirq(kernel, NET_RX_SOFTIRQ, net_rx_action)


