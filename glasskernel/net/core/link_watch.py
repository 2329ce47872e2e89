"""Carriers come and go: a worker tells everybody, not too often.

Linux: net/core/link_watch.c, netif_carrier_on() of net/sched/sch_generic.c (5.3). Same: drivers note a change in any
context; urgent ones (the carrier came, so the queue is to be started) are told at once, others once a second.
Owns: NetDevice.link_watch, operstate; NetState.lweventlist.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.workqueue import DelayedWork, WorkStruct, delayed_work_pending, mod_delayed_work
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dev_chain import net_of, netdev_state_change
from glasskernel.net.core.rtnl import rtnl_lock, rtnl_unlock
from glasskernel.net.netdevice import (
    __LINK_STATE_NOCARRIER,
    __LINK_STATE_PRESENT,
    IF_OPER_DORMANT,
    IF_OPER_DOWN,
    IF_OPER_UP,
    IFF_UP,
    NETREG_UNINITIALIZED,
    NetDevice,
    dev_hold,
    dev_put,
    netif_carrier_ok,
    netif_running,
)
from glasskernel.net.sched.sch_generic import __netdev_watchdog_up, dev_activate, dev_deactivate

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

HZ = 250


@notrace
def default_operstate(dev: NetDevice) -> int:
    return IF_OPER_UP if netif_carrier_ok(dev) else IF_OPER_DOWN


def rfc2863_policy(dev: NetDevice) -> None:
    """The operational state follows the carrier."""
    operstate = default_operstate(dev)
    if dev.link_mode == 1 and operstate == IF_OPER_UP:             # IF_LINK_MODE_DORMANT
        operstate = IF_OPER_DORMANT
    dev.operstate = operstate


def linkwatch_init_dev(dev: NetDevice) -> None:
    """A new device whose carrier is not certain has its state from the beginning."""
    if not netif_carrier_ok(dev):
        rfc2863_policy(dev)


@notrace
def linkwatch_urgent_event(dev: NetDevice) -> bool:
    return netif_running(dev) and netif_carrier_ok(dev) and dev.tx.qdisc is not dev.qdisc_sleeping


def linkwatch_fire_event(dev: NetDevice) -> None:
    """Something about the carrier changed. Context: any."""
    state = net_of(dev.net.kernel)
    urgent = linkwatch_urgent_event(dev)
    if not dev.link_watch:
        dev.link_watch = True
        dev_hold(dev)
        state.lweventlist.append(dev)
    elif not urgent:
        return
    linkwatch_schedule_work(dev.net.kernel, urgent)


@notrace
def linkwatch_schedule_work(kernel: Kernel, urgent: bool) -> None:
    state = net_of(kernel)
    if state.linkwatch_work is None:
        state.linkwatch_work = DelayedWork(linkwatch_event, kernel)
    dwork: DelayedWork = state.linkwatch_work
    if urgent or not delayed_work_pending(dwork):
        mod_delayed_work(kernel.workqueues.system_wq, dwork, 0 if urgent else HZ)


@may_sleep
def linkwatch_event(work: WorkStruct) -> None:
    """The worker."""
    kernel: Kernel = work.data
    rtnl_lock(kernel)
    __linkwatch_run_queue(kernel)
    rtnl_unlock(kernel)


def __linkwatch_run_queue(kernel: Kernel) -> None:
    state = net_of(kernel)
    devices, state.lweventlist = state.lweventlist, []
    for dev in devices:
        linkwatch_do_dev(dev)


def linkwatch_forget_dev(dev: NetDevice) -> None:
    """The device goes: its event is told now. Locks: rtnl."""
    state = net_of(dev.net.kernel)
    if dev in state.lweventlist:
        state.lweventlist.remove(dev)
        linkwatch_do_dev(dev)


def linkwatch_do_dev(dev: NetDevice) -> None:
    dev.link_watch = False
    rfc2863_policy(dev)
    if dev.flags & IFF_UP and dev.state & __LINK_STATE_PRESENT:
        if netif_carrier_ok(dev):
            dev_activate(dev)
        else:
            dev_deactivate(dev)
        netdev_state_change(dev)
    dev_put(dev)


# ---- for drivers ----------------------------------------------------------------------------------------------------
def netif_carrier_on(dev: NetDevice) -> None:
    """The link is there. Context: any."""
    if dev.state & __LINK_STATE_NOCARRIER:
        dev.state &= ~__LINK_STATE_NOCARRIER
        if dev.reg_state == NETREG_UNINITIALIZED:
            return
        dev.carrier_up_count += 1
        linkwatch_fire_event(dev)
        if netif_running(dev):
            __netdev_watchdog_up(dev)


def netif_carrier_off(dev: NetDevice) -> None:
    """The link is not there. Context: any."""
    if not dev.state & __LINK_STATE_NOCARRIER:
        dev.state |= __LINK_STATE_NOCARRIER
        if dev.reg_state == NETREG_UNINITIALIZED:
            return
        dev.carrier_down_count += 1
        linkwatch_fire_event(dev)
