"""Devices are made, named, registered, moved between namespaces, and removed.

Linux: net/core/dev.c (5.3). Same: names with %d get the lowest free number; a device is seen by others when all its
parts are ready, and NETDEV_REGISTER can be vetoed; what is unregistered is freed when rtnl is given back.
Gaps: feature negotiation (features are what the driver says and software adds), adjacent devices (bonds, bridges).
Owns: NetDevice.reg_state, name, ifindex, net. Locks: rtnl. Context: task; may sleep.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import EBUSY, EEXIST, EINVAL, ENFILE, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dev_chain import (
    __dev_get_by_name,
    call_netdevice_notifiers,
    dev_new_index,
    dev_valid_name,
    list_netdevice,
    net_of,
    rtmsg_ifinfo,
    unlist_netdevice,
)
from glasskernel.net.core.dev_open import NET_ADDR_PERM, dev_close
from glasskernel.net.core.link_watch import linkwatch_forget_dev, linkwatch_init_dev
from glasskernel.net.core.napi import flush_backlog
from glasskernel.net.core.rtnl import rtnl_is_locked, rtnl_lock_killable, rtnl_unlock
from glasskernel.net.netdevice import (
    __LINK_STATE_PRESENT,
    IFF_UP,
    NETDEV_CHANGENAME,
    NETDEV_POST_INIT,
    NETDEV_REGISTER,
    NETDEV_UNREGISTER,
    NETIF_F_GRO,
    NETIF_F_GSO,
    NETREG_REGISTERED,
    NETREG_UNINITIALIZED,
    NETREG_UNREGISTERING,
    NetDevice,
    NetdevQueue,
)
from glasskernel.net.sched.sch_generic import dev_init_scheduler, dev_shutdown

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.net.types import Net

NETIF_F_SOFT_FEATURES = NETIF_F_GSO | NETIF_F_GRO
_ALL_CHANGED = 0xFFFFFFFF


def alloc_netdev_mqs(net: Net, name: bytes, setup: Callable[[NetDevice], None]) -> NetDevice:
    """A device that nobody knows yet. setup(dev) sets netdev_ops and what the kind of link says."""
    dev = NetDevice(name, net, None)  # type: ignore[arg-type]
    dev.tx = NetdevQueue(dev)
    setup(dev)
    return dev


# ---- names ----------------------------------------------------------------------------------------------
def dev_alloc_name(net: Net, name: bytes) -> bytes:
    """The name with the lowest free number for its %d. Raises EINVAL, ENFILE."""
    return __dev_alloc_name(net, name)


def __dev_alloc_name(net: Net, name: bytes) -> bytes:
    if not dev_valid_name(name):
        raise KernelError(EINVAL)
    before, percent, behind = name.partition(b"%")
    if percent:
        if not behind.startswith(b"d") or b"%" in behind:
            raise KernelError(EINVAL)
        for unit in range(1 << 15):
            candidate = before + b"%d" % unit + behind[1:]
            if candidate not in net.dev_by_name:
                if not dev_valid_name(candidate):
                    raise KernelError(EINVAL)
                return candidate
        raise KernelError(ENFILE)
    if name in net.dev_by_name:
        raise KernelError(ENFILE)
    return name


def dev_get_valid_name(net: Net, dev: NetDevice, name: bytes) -> None:
    """Gives the device its name. Raises EINVAL, EEXIST, ENFILE."""
    if not dev_valid_name(name):
        raise KernelError(EINVAL)
    if b"%" in name:
        dev.name = dev_alloc_name(net, name)
    elif __dev_get_by_name(net, name) is not None:
        raise KernelError(EEXIST)
    else:
        dev.name = name


@may_sleep
def dev_change_name(dev: NetDevice, newname: bytes) -> None:
    """ip link set dev OLD name NEW. Raises EBUSY while it is up, EINVAL, EEXIST."""
    if dev.flags & IFF_UP:
        raise KernelError(EBUSY)
    if newname == dev.name:
        return
    net, oldname = dev.net, dev.name
    dev_get_valid_name(net, dev, newname)
    _rename(dev, oldname)
    if not oldname.startswith(dev.name.rstrip(b"0123456789")):
        net.kernel.printk(f"{dev.name.decode()}: renamed from {oldname.decode()}")
    try:
        call_netdevice_notifiers(NETDEV_CHANGENAME, dev)
    except KernelError:
        newname, dev.name = dev.name, oldname
        _rename(dev, newname)
        call_netdevice_notifiers(NETDEV_CHANGENAME, dev)
        raise


@notrace
def _rename(dev: NetDevice, oldname: bytes) -> None:
    """The lists and sysfs know it by its new name."""
    del dev.net.dev_by_name[oldname]
    dev.net.dev_by_name[dev.name] = dev
    hook = net_of(dev.net.kernel).netdev_rename_kobject
    if hook is not None:
        hook(dev)


# ---- registration ---------------------------------------------------------------------------------------
@may_sleep
def register_netdev(dev: NetDevice) -> None:
    """register_netdevice() for who does not hold rtnl. Raises EINTR too."""
    kernel = dev.net.kernel
    rtnl_lock_killable(kernel)
    try:
        register_netdevice(dev)
    finally:
        rtnl_unlock(kernel)


@may_sleep
def register_netdevice(dev: NetDevice) -> None:
    """From now on others know the device. Raises EINVAL, EEXIST, ENFILE, and what its driver and notifiers raise."""
    net = dev.net
    state = net_of(net.kernel)
    assert rtnl_is_locked(net.kernel)
    assert dev.reg_state == NETREG_UNINITIALIZED
    dev_get_valid_name(net, dev, dev.name)
    if dev.netdev_ops.ndo_init is not None:
        dev.netdev_ops.ndo_init(dev)
    if not dev.ifindex:
        dev.ifindex = dev_new_index(net)
    elif dev.ifindex in net.dev_by_index:
        raise KernelError(EBUSY)
    dev.hw_features |= NETIF_F_SOFT_FEATURES
    dev.features |= NETIF_F_SOFT_FEATURES
    call_netdevice_notifiers(NETDEV_POST_INIT, dev)
    if state.netdev_register_kobject is not None:
        state.netdev_register_kobject(dev)
    dev.reg_state = NETREG_REGISTERED
    dev.state |= __LINK_STATE_PRESENT
    linkwatch_init_dev(dev)
    dev_init_scheduler(dev)
    list_netdevice(dev)
    if dev.addr_assign_type == NET_ADDR_PERM:
        dev.perm_addr = dev.dev_addr
    try:
        call_netdevice_notifiers(NETDEV_REGISTER, dev)
    except KernelError:
        rollback_registered(dev)
        raise
    rtmsg_ifinfo(dev, _ALL_CHANGED)


@notrace
def unregister_netdevice(dev: NetDevice) -> None:
    unregister_netdevice_queue(dev)


@may_sleep
def unregister_netdevice_queue(dev: NetDevice) -> None:
    """Nobody knows the device any more; rtnl_unlock() ends it."""
    rollback_registered(dev)
    net_of(dev.net.kernel).net_todo_list.append(dev)


@may_sleep
def rollback_registered(dev: NetDevice) -> None:
    kernel = dev.net.kernel
    state = net_of(kernel)
    if dev.flags & IFF_UP:
        dev_close(dev)
    unlist_netdevice(dev)
    dev.reg_state = NETREG_UNREGISTERING
    flush_backlog(kernel, dev)
    dev_shutdown(dev)
    if state.dev_xdp_uninstall is not None:
        state.dev_xdp_uninstall(dev)
    call_netdevice_notifiers(NETDEV_UNREGISTER, dev)
    rtmsg_ifinfo(dev, _ALL_CHANGED, gone=True)
    linkwatch_forget_dev(dev)
    dev.mc.clear()
    if dev.netdev_ops.ndo_uninit is not None:
        dev.netdev_ops.ndo_uninit(dev)
    if state.netdev_unregister_kobject is not None:
        state.netdev_unregister_kobject(dev)


@may_sleep
def dev_change_net_namespace(dev: NetDevice, net: Net, pat: bytes) -> None:
    """Moves a device, which goes down for it; its name is made from `pat` if the old one is taken there.

    Raises EEXIST. To those of the old namespace it is gone.
    """
    if dev.net is net:
        return
    state = net_of(net.kernel)
    name = dev.name
    if __dev_get_by_name(net, name) is not None:
        if not pat:
            raise KernelError(EEXIST)
        name = dev_alloc_name(net, pat)
    dev_close(dev)
    unlist_netdevice(dev)
    flush_backlog(net.kernel, dev)
    dev_shutdown(dev)
    call_netdevice_notifiers(NETDEV_UNREGISTER, dev)
    rtmsg_ifinfo(dev, _ALL_CHANGED, gone=True)
    linkwatch_forget_dev(dev)
    dev.mc.clear()
    if state.netdev_unregister_kobject is not None:
        state.netdev_unregister_kobject(dev)
    dev.net = net
    dev.name = name
    if dev.ifindex in net.dev_by_index:
        dev.ifindex = dev_new_index(net)
    if state.netdev_register_kobject is not None:
        state.netdev_register_kobject(dev)
    list_netdevice(dev)
    call_netdevice_notifiers(NETDEV_REGISTER, dev)
    rtmsg_ifinfo(dev, _ALL_CHANGED)
