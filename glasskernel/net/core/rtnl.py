"""The lock of all configuration of the network.

Linux: rtnl_lock() of net/core/rtnetlink.c, netdev_run_todo() of net/core/dev.c (5.3). Here, because devices are below
netlink. Same: whoever unlocks frees the devices that were unregistered under the lock, once nobody holds them.
Differs: a reference that is left is a bug of ours that no waiting repairs: it is told in the log, once, and stays.
Owns: NetState.rtnl_mutex. Lock order: rtnl before every socket's lock.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.locking.mutex import (
    Mutex,
    mutex_is_locked,
    mutex_lock,
    mutex_lock_killable,
    mutex_unlock,
)
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dev_chain import net_of
from glasskernel.net.netdevice import NETREG_RELEASED, NETREG_UNREGISTERED

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.netdevice import NetDevice


@notrace
def rtnl_mutex(kernel: Kernel) -> Mutex:
    state = net_of(kernel)
    if state.rtnl_mutex is None:
        state.rtnl_mutex = Mutex()
    mutex: Mutex = state.rtnl_mutex
    return mutex


@may_sleep
def rtnl_lock(kernel: Kernel) -> None:
    """Context: task."""
    mutex_lock(rtnl_mutex(kernel))


@may_sleep
def rtnl_lock_killable(kernel: Kernel) -> None:
    """Raises EINTR if a fatal signal comes first."""
    mutex_lock_killable(rtnl_mutex(kernel))


def rtnl_is_locked(kernel: Kernel) -> bool:
    return mutex_is_locked(rtnl_mutex(kernel))


def __rtnl_unlock(kernel: Kernel) -> None:
    mutex_unlock(rtnl_mutex(kernel))


def rtnl_unlock(kernel: Kernel) -> None:
    """Gives the lock back, and ends what was unregistered."""
    netdev_run_todo(kernel)


def netdev_run_todo(kernel: Kernel) -> None:
    state = net_of(kernel)
    todo, state.net_todo_list = state.net_todo_list, []
    __rtnl_unlock(kernel)
    for dev in todo:
        dev.reg_state = NETREG_UNREGISTERED
        netdev_wait_allrefs(dev)
        if dev.needs_free_netdev:
            free_netdev(dev)


def netdev_wait_allrefs(dev: NetDevice) -> None:
    """refcnt 1 is the registration's own, which ends here."""
    if dev.refcnt != 1:
        dev.net.kernel.printk(
            f"unregister_netdevice: waiting for {dev.name.decode()} to become free. Usage count = {dev.refcnt}", 0)
    dev.refcnt -= 1


def free_netdev(dev: NetDevice) -> None:
    """What a device owns goes. Never called for one that is registered."""
    dev.napi_list.clear()
    dev.reg_state = NETREG_RELEASED
