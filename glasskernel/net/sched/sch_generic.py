"""Queues in front of devices: the default disciplines, and moving packets from them to the driver.

Linux: net/sched/sch_generic.c, include/net/sch_generic.h (5.3). Same: pfifo_fast has three bands by priority and lets a
packet pass by when it is empty; a device without queue (lo) has noqueue, one that is down noop; what a driver does not
take waits in gso_skb; the watchdog tells a driver that its queue has stood still for too long.
Differs: the watchdog does not wake an idle CPU, so that a machine in which nothing happens stands still.
Gaps: other disciplines and classes, filters (tc qdisc), byte queue limits.
Owns: Qdisc, NetdevQueue, NetDevice.watchdog_timer. Invariant: one CPU at a time runs a queue (q.running).
Context: softirqs off, unless a function says so.
"""
from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.irq.irqdesc import NET_TX_SOFTIRQ
from glasskernel.kernel.sched.core import msleep
from glasskernel.kernel.softirq import raise_softirq_irqoff
from glasskernel.kernel.task import TIF_NEED_RESCHED
from glasskernel.kernel.time.timer import (
    TimerList,
    del_timer,
    from_timer,
    mod_timer,
    round_jiffies,
    timer_pending,
    timer_setup,
)
from glasskernel.kernel.time.types import TIMER_DEFERRABLE
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dev_chain import net_of
from glasskernel.net.core.dev_xmit import (
    dev_hard_start_xmit,
    dev_xmit_complete,
    validate_xmit_skb_list,
)
from glasskernel.net.netdevice import (
    NET_XMIT_CN,
    NET_XMIT_DROP,
    NET_XMIT_SUCCESS,
    NETDEV_TX_BUSY,
    NetDevice,
    NetdevQueue,
    Qdisc,
    dev_hold,
    dev_put,
    netif_carrier_ok,
    netif_running,
)
from glasskernel.net.skbuff import SkBuff, kfree_skb

if TYPE_CHECKING:
    from collections.abc import Callable

TCQ_F_CAN_BYPASS, TCQ_F_NOLOCK = 4, 0x100
DEV_TX_WEIGHT = 64
PFIFO_FAST_BANDS = 3
TC_PRIO_MAX = 15
prio2band = (1, 2, 2, 2, 1, 2, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1)
WATCHDOG_TIMEO = 5 * 250                 # jiffies


@slotted(frozen=True)
class QdiscOps:
    """struct Qdisc_ops. enqueue(skb, q, to_free) -> NET_XMIT_*: what it drops, it appends to to_free; None (noqueue):
    packets go to the driver at once. dequeue(q): the next one."""

    id: bytes
    enqueue: Callable[[SkBuff, Qdisc, list[SkBuff]], int] | None
    dequeue: Callable[[Qdisc], SkBuff | None]
    init: Callable[[Qdisc], None] | None = None


# ---- disciplines ----------------------------------------------------------------------------------------------------
def noop_enqueue(skb: SkBuff, qdisc: Qdisc, to_free: list[SkBuff]) -> int:
    to_free.append(skb)
    return NET_XMIT_CN


def noop_dequeue(qdisc: Qdisc) -> SkBuff | None:
    return None


noop_qdisc_ops = QdiscOps(b"noop", noop_enqueue, noop_dequeue)
noqueue_qdisc_ops = QdiscOps(b"noqueue", None, noop_dequeue)


def pfifo_fast_enqueue(skb: SkBuff, qdisc: Qdisc, to_free: list[SkBuff]) -> int:
    """Behind the others of its band; a band takes tx_queue_len packets."""
    band = qdisc.bands[prio2band[skb.priority & TC_PRIO_MAX]]
    if len(band) >= qdisc.dev.tx_queue_len:
        qdisc.drops += 1
        to_free.append(skb)
        return NET_XMIT_DROP
    band.append(skb)
    qdisc.qlen += 1
    qdisc.backlog += skb.len
    return NET_XMIT_SUCCESS


def pfifo_fast_dequeue(qdisc: Qdisc) -> SkBuff | None:
    """The first of the first band that has one."""
    for band in qdisc.bands:
        if band:
            skb = band.popleft()
            qdisc.qlen -= 1
            qdisc.backlog -= skb.len
            bstats_update(qdisc, skb)
            return skb
    return None


def pfifo_fast_init(qdisc: Qdisc) -> None:
    qdisc.bands.extend(deque() for _ in range(PFIFO_FAST_BANDS))
    qdisc.flags |= TCQ_F_CAN_BYPASS | TCQ_F_NOLOCK


pfifo_fast_ops = QdiscOps(b"pfifo_fast", pfifo_fast_enqueue, pfifo_fast_dequeue, pfifo_fast_init)


@notrace
def bstats_update(qdisc: Qdisc, skb: SkBuff) -> None:
    qdisc.packets += skb.shinfo.gso_segs or 1
    qdisc.bytes += skb.len


def qdisc_create_dflt(dev: NetDevice, ops: QdiscOps) -> Qdisc:
    """A discipline for the device, not attached yet."""
    qdisc = Qdisc(ops, dev)
    if ops.init is not None:
        ops.init(qdisc)
    return qdisc


def qdisc_reset(qdisc: Qdisc) -> None:
    """Drops all that waits."""
    for band in (*qdisc.bands, qdisc.gso_skb):
        while band:
            kfree_skb(band.popleft())
    qdisc.qlen = qdisc.backlog = 0


# ---- from the queue to the driver -----------------------------------------------------------------------------------
def dev_requeue_skb(skbs: list[SkBuff], qdisc: Qdisc) -> None:
    """The driver did not take these: they come first next time."""
    for skb in reversed(skbs):
        qdisc.gso_skb.appendleft(skb)
        qdisc.qlen += 1
        qdisc.backlog += skb.len
        qdisc.requeues += 1
    __netif_schedule(qdisc)


@notrace
def dequeue_skb(qdisc: Qdisc) -> tuple[SkBuff | None, bool]:
    """The next packet, and whether it is still to be validated."""
    txq = qdisc.dev.tx
    if qdisc.gso_skb:
        if txq.stopped:
            return None, False
        skb = qdisc.gso_skb.popleft()
        qdisc.qlen -= 1
        qdisc.backlog -= skb.len
        return skb, False
    if txq.stopped:
        return None, True
    return qdisc.ops.dequeue(qdisc), True


def sch_direct_xmit(skb: SkBuff, qdisc: Qdisc, dev: NetDevice, txq: NetdevQueue, validate: bool) -> bool:
    """Gives one packet (or its segments) to the driver. False: it does not take any more."""
    skbs = validate_xmit_skb_list([skb], dev) if validate else [skb]
    if not skbs:
        return True
    ret = NETDEV_TX_BUSY
    if not txq.stopped:
        skbs, ret = dev_hard_start_xmit(skbs, dev, txq)
    if not dev_xmit_complete(ret):
        dev_requeue_skb(skbs, qdisc)
        return False
    return True


@notrace
def qdisc_restart(qdisc: Qdisc) -> bool:
    skb, validate = dequeue_skb(qdisc)
    if skb is None:
        return False
    return sch_direct_xmit(skb, qdisc, qdisc.dev, qdisc.dev.tx, validate)


def __qdisc_run(qdisc: Qdisc) -> None:
    """Sends until nothing is left, the driver is full, or it was enough for this time."""
    quota = DEV_TX_WEIGHT
    while qdisc_restart(qdisc):
        quota -= 1
        if quota <= 0 or register.task.ti_flags & TIF_NEED_RESCHED:
            __netif_schedule(qdisc)
            break


@notrace
def qdisc_run_begin(qdisc: Qdisc) -> bool:
    if qdisc.running:
        return False
    qdisc.running = True
    return True


@notrace
def qdisc_run(qdisc: Qdisc) -> None:
    if qdisc_run_begin(qdisc):
        __qdisc_run(qdisc)
        qdisc.running = False


def __netif_schedule(qdisc: Qdisc) -> None:
    """The NET_TX softirq of this CPU shall run it. Context: any."""
    if not qdisc.scheduled:
        qdisc.scheduled = True
        task = register.task
        net_of(task.kernel).softnet_data[task.cpu].output_queue.append(qdisc)
        raise_softirq_irqoff(NET_TX_SOFTIRQ)


# ---- drivers say whether they take more -----------------------------------------------------------------------------
@notrace
def netif_start_queue(dev: NetDevice) -> None:
    dev.tx.stopped = False


@notrace
def netif_stop_queue(dev: NetDevice) -> None:
    """No more packets, until netif_wake_queue()."""
    dev.tx.stopped = True


@notrace
def netif_wake_queue(dev: NetDevice) -> None:
    netif_tx_wake_queue(dev.tx)


def netif_tx_wake_queue(txq: NetdevQueue) -> None:
    if txq.stopped:
        txq.stopped = False
        __netif_schedule(txq.qdisc)


# ---- the watchdog ---------------------------------------------------------------------------------------------------
def dev_watchdog(timer: TimerList) -> None:
    """Looks whether the queue has stood still for too long."""
    dev: NetDevice = from_timer(timer)
    kernel = dev.net.kernel
    txq = dev.tx
    if dev.tx.qdisc.ops is not noop_qdisc_ops and netif_running(dev) and netif_carrier_ok(dev):
        if txq.stopped and kernel.time.jiffies > txq.trans_start + dev.watchdog_timeo:
            txq.trans_timeout += 1
            probe = kernel.tp.net_dev_xmit_timeout
            driver = netdev_drivername(dev)
            if probe is not None:
                probe(dev, 0, driver)
            kernel.printk(f"NETDEV WATCHDOG: {dev.name.decode()} ({driver.decode()}): transmit queue 0 timed out", 4)
            assert dev.netdev_ops.ndo_tx_timeout is not None
            dev.netdev_ops.ndo_tx_timeout(dev)
        if not mod_timer(timer, round_jiffies(kernel.time.jiffies + dev.watchdog_timeo)):
            dev_hold(dev)
    dev_put(dev)


@notrace
def netdev_drivername(dev: NetDevice) -> bytes:
    ops = dev.ethtool_ops
    return ops.get_drvinfo(dev)["driver"] if ops is not None and ops.get_drvinfo is not None else b""


def __netdev_watchdog_up(dev: NetDevice) -> None:
    if dev.netdev_ops.ndo_tx_timeout is not None:
        if dev.watchdog_timeo <= 0:
            dev.watchdog_timeo = WATCHDOG_TIMEO
        if not mod_timer(dev.watchdog_timer, round_jiffies(dev.net.kernel.time.jiffies + dev.watchdog_timeo)):
            dev_hold(dev)


@notrace
def dev_watchdog_down(dev: NetDevice) -> None:
    if del_timer(dev.watchdog_timer):
        dev_put(dev)


# ---- devices come up and go down ------------------------------------------------------------------------------------
def dev_init_scheduler(dev: NetDevice) -> None:
    """A new device sends nothing."""
    dev.noop_qdisc = qdisc_create_dflt(dev, noop_qdisc_ops)
    dev.qdisc = dev.qdisc_sleeping = dev.tx.qdisc = dev.noop_qdisc
    dev.watchdog_timer = TimerList(data=dev)
    timer_setup(dev.watchdog_timer, dev_watchdog, TIMER_DEFERRABLE)


@notrace
def attach_default_qdiscs(dev: NetDevice) -> None:
    ops = noqueue_qdisc_ops if dev.no_queue else pfifo_fast_ops
    dev.qdisc = dev.qdisc_sleeping = qdisc_create_dflt(dev, ops)


def dev_activate(dev: NetDevice) -> None:
    """The device is up: packets go through its discipline, as soon as there is a carrier. Locks: rtnl."""
    if dev.qdisc.ops is noop_qdisc_ops:
        attach_default_qdiscs(dev)
    if not netif_carrier_ok(dev):
        return
    dev.tx.qdisc = dev.qdisc_sleeping
    if dev.qdisc_sleeping.ops is not noqueue_qdisc_ops:
        dev.tx.trans_start = dev.net.kernel.time.jiffies
        __netdev_watchdog_up(dev)


@may_sleep
def dev_deactivate(dev: NetDevice) -> None:
    """Packets are dropped from now on, and those that wait. Context: task. Locks: rtnl."""
    qdisc = dev.tx.qdisc
    dev.tx.qdisc = dev.noop_qdisc
    qdisc_reset(qdisc)
    dev_watchdog_down(dev)
    while some_qdisc_is_busy(dev):
        msleep(1)


@notrace
def some_qdisc_is_busy(dev: NetDevice) -> bool:
    return dev.qdisc_sleeping.running or dev.qdisc_sleeping.scheduled


def dev_shutdown(dev: NetDevice) -> None:
    """The device goes for good."""
    qdisc_reset(dev.qdisc)
    dev.qdisc = dev.qdisc_sleeping = dev.tx.qdisc = dev.noop_qdisc
    assert not timer_pending(dev.watchdog_timer)
