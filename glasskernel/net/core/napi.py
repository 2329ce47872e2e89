"""Polling of devices in the NET_RX softirq, and the queue of those that are not polled.

Linux: net/core/dev.c (5.3). Same: an interrupt only schedules the device's poll; a round of the softirq takes at most
netdev_budget packets and netdev_budget_usecs, what is left waits for the next one (and, after ten, for ksoftirqd);
netif_rx() queues to the backlog of its CPU, which is polled like a device.
Gaps: busy polling, RPS, netpoll.
Owns: NapiStruct.state; SoftnetData.poll_list, input_pkt_queue, process_queue.
Invariants: NAPI_STATE_SCHED is set as long as a napi is on a poll list or is polled. Context: any; polls: softirq.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.irq.irqdesc import NET_RX_SOFTIRQ
from glasskernel.kernel.sched.core import msleep
from glasskernel.kernel.softirq import __raise_softirq_irqoff, do_softirq, local_softirq_pending
from glasskernel.kernel.time.timekeeping import usecs_to_jiffies
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dev_chain import net_of
from glasskernel.net.core.dev_receive import __netif_receive_skb, net_timestamp_check
from glasskernel.net.core.gro import gro_normal_list, napi_gro_flush
from glasskernel.net.netdevice import (
    NAPI_STATE_DISABLE,
    NAPI_STATE_MISSED,
    NAPI_STATE_SCHED,
    NET_RX_DROP,
    NET_RX_SUCCESS,
    NapiStruct,
    SoftnetData,
    netif_running,
)
from glasskernel.net.skbuff import SkBuff, __skb_dequeue, kfree_skb

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.init.kernel import Kernel
    from glasskernel.net.netdevice import NetDevice

MIN_NAPI_ID = 8192 + 1                   # above NR_CPUS


# ---- napi -----------------------------------------------------------------------------------------------------------
def netif_napi_add(dev: NetDevice, poll: Callable[[NapiStruct, int], int], weight: int) -> NapiStruct:
    """A poller for the device, disabled: napi_enable()."""
    state = net_of(dev.net.kernel)
    napi = NapiStruct(dev, poll, weight, NAPI_STATE_SCHED | NAPI_STATE_DISABLE, MIN_NAPI_ID + state.napi_gen_id)
    state.napi_gen_id += 1
    dev.napi_list.append(napi)
    return napi


def netif_napi_del(napi: NapiStruct) -> None:
    """The device does without it; it is disabled."""
    napi.dev.napi_list.remove(napi)


@may_sleep
def napi_disable(napi: NapiStruct) -> None:
    """No poll any more; waits for the one that is scheduled. Context: task."""
    napi.state |= NAPI_STATE_DISABLE
    while napi.state & NAPI_STATE_SCHED:
        msleep(1)
    napi.state |= NAPI_STATE_SCHED


@notrace
def napi_enable(napi: NapiStruct) -> None:
    napi.state &= ~(NAPI_STATE_SCHED | NAPI_STATE_DISABLE | NAPI_STATE_MISSED)


def napi_schedule_prep(napi: NapiStruct) -> bool:
    """True: the caller shall __napi_schedule() it. Else it is scheduled already, and will be once more."""
    state = napi.state
    if state & NAPI_STATE_DISABLE:
        return False
    napi.state = state | NAPI_STATE_SCHED | (NAPI_STATE_MISSED if state & NAPI_STATE_SCHED else 0)
    return not state & NAPI_STATE_SCHED


def __napi_schedule(napi: NapiStruct) -> None:
    task = register.task
    _napi_schedule(net_of(task.kernel).softnet_data[task.cpu], napi)


@notrace
def _napi_schedule(sd: SoftnetData, napi: NapiStruct) -> None:
    """____napi_schedule(): inline in Linux."""
    sd.poll_list.append(napi)
    __raise_softirq_irqoff(NET_RX_SOFTIRQ)


def napi_complete_done(napi: NapiStruct, work_done: int) -> bool:
    """The poll found less than its budget. False: it is to be polled again, so interrupts stay off."""
    if napi.gro_count:
        napi_gro_flush(napi, False)
    gro_normal_list(napi)
    state = napi.state
    assert state & NAPI_STATE_SCHED
    napi.state = state & ~(NAPI_STATE_SCHED | NAPI_STATE_MISSED)
    if state & NAPI_STATE_MISSED:
        napi.state |= NAPI_STATE_SCHED
        __napi_schedule(napi)
        return False
    return True


@notrace
def napi_poll(napi: NapiStruct, repoll: list[NapiStruct]) -> int:
    """One round of one poller; inline in Linux. What has used up its weight goes to repoll."""
    weight = napi.weight
    work = napi.poll(napi, weight) if napi.state & NAPI_STATE_SCHED else 0
    probe = register.task.kernel.tp.napi_poll
    if probe is not None:
        probe(napi, work, weight)
    if work < weight:
        return work
    if napi.state & NAPI_STATE_DISABLE:
        napi_complete_done(napi, 0)
        return work
    if napi.gro_count:
        napi_gro_flush(napi, False)
    gro_normal_list(napi)
    repoll.append(napi)
    return work


def net_rx_action(kernel: Kernel) -> None:
    """NET_RX_SOFTIRQ"""
    state = net_of(kernel)
    sd = state.softnet_data[register.task.cpu]
    time_limit = kernel.time.jiffies + usecs_to_jiffies(state.netdev_budget_usecs)
    budget = state.netdev_budget
    pollers, sd.poll_list = sd.poll_list, []
    repoll: list[NapiStruct] = []
    while pollers:
        budget -= napi_poll(pollers.pop(0), repoll)
        if budget <= 0 or kernel.time.jiffies >= time_limit:
            sd.time_squeeze += 1
            break
    sd.poll_list = pollers + sd.poll_list + repoll
    if sd.poll_list:
        __raise_softirq_irqoff(NET_RX_SOFTIRQ)


# ---- the backlog ----------------------------------------------------------------------------------------------------
def netif_rx(skb: SkBuff) -> int:
    """A driver that is not polled received a packet: it goes up in the next softirq. Answers NET_RX_*. Context:
    softirqs off, or an interrupt."""
    tp = register.task.kernel.tp
    probe = tp.netif_rx_entry
    if probe is not None:
        probe(skb)
    ret = netif_rx_internal(skb)
    probe = tp.netif_rx_exit
    if probe is not None:
        probe(ret)
    return ret


def netif_rx_ni(skb: SkBuff) -> int:
    """netif_rx() outside interrupts: the softirq runs at once."""
    tp = register.task.kernel.tp
    probe = tp.netif_rx_ni_entry
    if probe is not None:
        probe(skb)
    ret = netif_rx_internal(skb)
    if local_softirq_pending():
        do_softirq()
    probe = tp.netif_rx_ni_exit
    if probe is not None:
        probe(ret)
    return ret


def netif_rx_internal(skb: SkBuff) -> int:
    task = register.task
    net_timestamp_check(task.kernel, skb)
    probe = task.kernel.tp.netif_rx
    if probe is not None:
        probe(skb)
    return enqueue_to_backlog(skb, task.cpu)


def enqueue_to_backlog(skb: SkBuff, cpu: int) -> int:
    """Queues it for this CPU's process_backlog(), or drops it: too many wait already."""
    dev = skb.dev
    assert dev is not None
    state = net_of(dev.net.kernel)
    sd = state.softnet_data[cpu]
    queue = sd.input_pkt_queue.q
    if netif_running(dev) and len(queue) <= state.netdev_max_backlog:
        if not queue and not sd.backlog.state & NAPI_STATE_SCHED:
            sd.backlog.state |= NAPI_STATE_SCHED
            _napi_schedule(sd, sd.backlog)
        queue.append(skb)
        return NET_RX_SUCCESS
    sd.dropped += 1
    dev.stats.rx_dropped += 1
    kfree_skb(skb)
    return NET_RX_DROP


def process_backlog(napi: NapiStruct, quota: int) -> int:
    """->poll() of a CPU's backlog."""
    task = register.task
    sd = net_of(task.kernel).softnet_data[task.cpu]
    work = 0
    while True:
        while (skb := __skb_dequeue(sd.process_queue)) is not None:
            __netif_receive_skb(skb)
            work += 1
            if work >= quota:
                return work
        if not sd.input_pkt_queue.q:
            napi.state = 0
            return work
        sd.process_queue.q.extend(sd.input_pkt_queue.q)
        sd.input_pkt_queue.q.clear()


def flush_backlog(kernel: Kernel, dev: NetDevice) -> None:
    """Packets of a device that goes are dropped wherever they wait."""
    for sd in net_of(kernel).softnet_data:
        for queue in (sd.input_pkt_queue.q, sd.process_queue.q):
            for skb in [s for s in queue if s.dev is dev]:
                queue.remove(skb)
                kfree_skb(skb)


@notrace
def softnet_init(kernel: Kernel) -> None:
    """A SoftnetData for each CPU."""
    state = net_of(kernel)
    for _ in kernel.machine.cpus:
        sd = SoftnetData()
        sd.backlog = NapiStruct(None, process_backlog, state.dev_weight)  # type: ignore[arg-type]
        state.softnet_data.append(sd)
