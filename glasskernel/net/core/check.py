"""What must always hold for devices, napi and queues: tests look after every run.

No file of Linux. Every function answers texts about what is wrong.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace
from glasskernel.net.netdevice import (
    __LINK_STATE_START,
    IFF_UP,
    NAPI_STATE_DISABLE,
    NAPI_STATE_SCHED,
    NETREG_REGISTERED,
    NetDevice,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


@notrace
def check_devices(kernel: Kernel) -> list[str]:
    """The lists agree, counts are what is there, and nothing waits where nobody will come."""
    state = kernel.net
    if state is None:
        return []
    wrong = []
    scheduled = [napi for sd in state.softnet_data for napi in sd.poll_list]
    if len(scheduled) != len(set(scheduled)):
        wrong.append("a napi is on two poll lists")
    for net in state.net_namespace_list:
        if list(net.dev_by_name) != [dev.name for dev in net.dev_by_name.values()]:
            wrong.append("a device is listed by another name than its own")
        if {*net.dev_by_name.values()} != {*net.dev_by_index.values()}:
            wrong.append("devices by name and by number are not the same")
        for dev in net.dev_by_index.values():
            wrong += [f"{dev.name.decode()}: {text}" for text in _check_device(dev, net is dev.net)]
            wrong += [f"{dev.name.decode()}: a napi is scheduled and on no list" for napi in dev.napi_list
                      if napi.state & NAPI_STATE_SCHED and not napi.state & NAPI_STATE_DISABLE
                      and napi not in scheduled]
    for message in kernel.dmesg().splitlines():
        if "to become free. Usage count" in message:
            wrong.append(message)
    return wrong


@notrace
def _check_device(dev: NetDevice, at_home: bool) -> list[str]:
    wrong = []
    if not at_home or dev.reg_state != NETREG_REGISTERED:
        wrong.append("it is listed where it does not belong")
    if dev.refcnt < 1:
        wrong.append(f"{dev.refcnt} references")
    if bool(dev.flags & IFF_UP) != bool(dev.state & __LINK_STATE_START):
        wrong.append("IFF_UP and the state disagree")
    waiting = sum(map(len, dev.qdisc.bands)) + len(dev.qdisc.gso_skb)
    if dev.qdisc.qlen != waiting:
        wrong.append(f"its queue says {dev.qdisc.qlen} packets and has {waiting}")
    if dev.qdisc.running:
        wrong.append("its queue runs for ever")
    if any(users < 1 for users in dev.mc.values()) or dev.promiscuity < 0 or dev.allmulti < 0:
        wrong.append("somebody gave back what he did not take")
    return wrong
