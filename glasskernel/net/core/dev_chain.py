"""Devices by name and number, and who wants to hear what happens to them.

Linux: net/core/dev.c (5.3): its lists and netdev_chain. Same: names and numbers are of one namespace; notifiers hear
of all namespaces, in the order they came, and of the devices that exist already when they register; one that raises
stops those behind it. Differs: a notifier is f(event, dev) that raises KernelError, not an object with a priority.
Owns: NetState.netdev_chain, Net.dev_by_name and dev_by_index. Lock: rtnl for changes.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace
from glasskernel.net.netdevice import (
    IFF_UP,
    IFNAMSIZ,
    NETDEV_CHANGE,
    NETDEV_REGISTER,
    NETDEV_UP,
    NetDevice,
    dev_hold,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from glasskernel.init.kernel import Kernel
    from glasskernel.net.types import Net, NetState

    Notifier = Callable[[int, NetDevice], None]


@notrace
def net_of(kernel: Kernel) -> NetState:
    """kernel.net of a kernel whose network is up."""
    state = kernel.net
    assert state is not None
    return state


@notrace
def for_each_netdev(net: Net) -> Iterator[NetDevice]:
    """In the order of their registration; the list may change meanwhile."""
    return iter(list(net.dev_by_index.values()))


# ---- names and numbers ----------------------------------------------------------------------------------------------
def __dev_get_by_name(net: Net, name: bytes) -> NetDevice | None:
    """The device, without a reference. Locks: rtnl."""
    return net.dev_by_name.get(name)


def __dev_get_by_index(net: Net, ifindex: int) -> NetDevice | None:
    return net.dev_by_index.get(ifindex)


def dev_get_by_index(net: Net, ifindex: int) -> NetDevice | None:
    """The device with a reference for the caller: dev_put()."""
    dev = dev_get_by_index_rcu(net, ifindex)
    if dev is not None:
        dev_hold(dev)
    return dev


def dev_get_by_index_rcu(net: Net, ifindex: int) -> NetDevice | None:
    return net.dev_by_index.get(ifindex)


def dev_valid_name(name: bytes) -> bool:
    """May an interface be called so? It becomes a file name, and an alias has a colon."""
    return (bool(name) and len(name) < IFNAMSIZ and name not in (b".", b"..")
            and not any(c in b"/:" or chr(c).isspace() for c in name))


def dev_new_index(net: Net) -> int:
    """The next free number."""
    index = net.ifindex
    while True:
        index = index + 1 if index < 0x7FFFFFFF else 1
        if index not in net.dev_by_index:
            net.ifindex = index
            return index


def list_netdevice(dev: NetDevice) -> None:
    net = dev.net
    net.dev_by_name[dev.name] = dev
    net.dev_by_index[dev.ifindex] = dev
    net.dev_base_seq += 1


def unlist_netdevice(dev: NetDevice) -> None:
    del dev.net.dev_by_name[dev.name]
    del dev.net.dev_by_index[dev.ifindex]
    dev.net.dev_base_seq += 1


# ---- the chain ------------------------------------------------------------------------------------------------------
def register_netdevice_notifier(kernel: Kernel, notifier: Notifier) -> None:
    """From now on notifier(NETDEV_*, dev) is called; at once, for the devices that exist. Raises what it raises.

    Locks: rtnl, once devices come and go (Linux takes it here, but it is above us).
    """
    state = net_of(kernel)
    state.netdev_chain.append(notifier)
    for net in state.net_namespace_list:
        for dev in for_each_netdev(net):
            notifier(NETDEV_REGISTER, dev)
            if dev.flags & IFF_UP:
                notifier(NETDEV_UP, dev)


@notrace
def call_netdevice_notifiers(event: int, dev: NetDevice) -> None:
    """Tells everybody. Raises what one of them raises: those behind it do not hear of it. Locks: rtnl."""
    call_netdevice_notifiers_info(event, dev)


def call_netdevice_notifiers_info(event: int, dev: NetDevice) -> None:
    raw_notifier_call_chain(net_of(dev.net.kernel).netdev_chain, event, dev)


def raw_notifier_call_chain(chain: list[Notifier], event: int, dev: NetDevice) -> None:
    for notifier in chain[:]:
        notifier(event, dev)


def netdev_state_change(dev: NetDevice) -> None:
    """Flags of a running device are others now."""
    if dev.flags & IFF_UP:
        call_netdevice_notifiers_info(NETDEV_CHANGE, dev)
        rtmsg_ifinfo(dev, 0)


@notrace
def rtmsg_ifinfo(dev: NetDevice, change: int, *, gone: bool = False) -> None:
    """rtmsg_ifinfo() of net/core/rtnetlink.c, which is above us: tells listeners of RTNLGRP_LINK."""
    hook = net_of(dev.net.kernel).rtmsg_ifinfo
    if hook is not None:
        hook(dev, change, gone)
