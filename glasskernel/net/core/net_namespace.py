"""Network namespaces: devices, addresses, routes and sockets of their own.

Linux: net/core/net_namespace.c (5.3). /proc/PID/ns/net: fs/proc_ns.py.
Same: every room says with pernet_operations what it keeps for a namespace; a
new one is made by all of them in the order of their registration (devices last), and ended in the contrary order, by
a worker.
Gaps: ids of namespaces in each other (RTM_NEWNSID), limits per user.
Owns: Net, NetState.pernet_list, net_namespace_list. Invariant: every Net of the list has been through the same
operations.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.workqueue import WQ_MEM_RECLAIM, WorkStruct, alloc_ordered_workqueue, queue_work
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dev_chain import for_each_netdev, net_of
from glasskernel.net.core.dev_register import dev_change_net_namespace, unregister_netdevice
from glasskernel.net.core.rtnl import rtnl_lock, rtnl_unlock
from glasskernel.net.init import start_network
from glasskernel.net.netdevice import NETREG_REGISTERED
from glasskernel.net.types import Net, PernetOperations, get_net

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

CLONE_NEWNET = 0x40000000


# ---- what rooms keep for each namespace -----------------------------------------------------------------
def register_pernet_subsys(kernel: Kernel, ops: PernetOperations) -> None:
    """ops.init(net) for the namespaces that there are, and for every new one. Raises what it raises."""
    state = net_of(kernel)
    state.pernet_list.insert(state.first_device, ops)
    state.first_device += 1
    __register_pernet_operations(kernel, ops)


def register_pernet_device(kernel: Kernel, ops: PernetOperations) -> None:
    """The same for devices: made behind, and ended before what protocols keep."""
    net_of(kernel).pernet_list.append(ops)
    __register_pernet_operations(kernel, ops)


def __register_pernet_operations(kernel: Kernel, ops: PernetOperations) -> None:
    for net in net_of(kernel).net_namespace_list:
        ops_init(ops, net)


def ops_init(ops: PernetOperations, net: Net) -> None:
    if ops.init is not None:
        ops.init(net)


@notrace
def ops_exit(ops: PernetOperations, net: Net) -> None:
    if ops.exit is not None:
        ops.exit(net)


# ---- making one -----------------------------------------------------------------------------------------------
@may_sleep
def copy_net_ns(flags: int, old_net: Net | None, kernel: Kernel) -> Net | None:
    """The namespace of a new nsproxy, a reference: the old one (None: the initial), or (CLONE_NEWNET) a fresh one."""
    if not flags & CLONE_NEWNET:
        return None if old_net is None else get_net(old_net)
    start_network(kernel)
    kernel.vfs.last_ns_inum += 1
    net = Net(kernel, kernel.vfs.last_ns_inum)
    setup_net(net)
    return net


def setup_net(net: Net) -> None:
    """Runs everybody's init; if one fails, undoes those before it."""
    state = net_of(net.kernel)
    done: list[PernetOperations] = []
    try:
        for ops in state.pernet_list:
            ops_init(ops, net)
            done.append(ops)
    except KernelError:
        for ops in reversed(done):
            ops_exit(ops, net)
        raise
    state.net_namespace_list.append(net)


# ---- ending one -----------------------------------------------------------------------------------------------
def __put_net(net: Net) -> None:
    """The last reference went (put_net()): a worker ends the namespace. Context: any."""
    state = net_of(net.kernel)
    state.cleanup_list.append(net)
    queue_work(state.netns_wq, state.net_cleanup_work)


@may_sleep
def cleanup_net(work: WorkStruct) -> None:
    """The worker: devices leave, then everybody's exit runs, the last first."""
    kernel: Kernel = work.data
    state = net_of(kernel)
    nets, state.cleanup_list = state.cleanup_list, []
    for net in nets:
        state.net_namespace_list.remove(net)
    for ops in reversed(state.pernet_list):
        for net in nets:
            ops_exit(ops, net)


def default_device_exit(net: Net) -> None:
    """Devices of the hardware go back to the initial namespace, others end with theirs."""
    kernel = net.kernel
    rtnl_lock(kernel)
    for dev in for_each_netdev(net):
        if dev is net.loopback_dev or dev.reg_state != NETREG_REGISTERED:
            continue                             # ends behind all others; or went with its peer
        if dev.rtnl_link_ops is not None:
            (dev.rtnl_link_ops.dellink or unregister_netdevice)(dev)
        else:
            init_net = net_of(kernel).init_net
            taken = dev.name in init_net.dev_by_name
            dev_change_net_namespace(dev, init_net, b"dev%d" if taken else dev.name)
    rtnl_unlock(kernel)


default_device_ops = PernetOperations(exit=default_device_exit)


def net_ns_init(kernel: Kernel) -> None:
    """Called by net_dev_init(), before the first operations are registered."""
    state = net_of(kernel)
    state.netns_wq = alloc_ordered_workqueue(kernel, "netns", WQ_MEM_RECLAIM)
    state.net_cleanup_work = WorkStruct(cleanup_net, kernel)
    state.cleanup_net = __put_net
