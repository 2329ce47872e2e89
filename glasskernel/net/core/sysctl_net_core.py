"""/proc/sys/net/core.

Linux: net/core/sysctl_net_core.c (5.3). Same: names, limits; only somaxconn shows in every namespace. Differs: all
    namespaces share its value. A variable that nothing reads is absent.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.proc.proc_sysctl import CtlTable
from glasskernel.net.core.dev_chain import net_of
from glasskernel.net.core.net_namespace import register_pernet_subsys
from glasskernel.net.sched.sch_generic import pfifo_fast_ops
from glasskernel.net.sysctl_net import INT_MAX, dointvec, register_net_sysctl
from glasskernel.net.types import PernetOperations

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.types import Net

SOCK_MIN_SNDBUF, SOCK_MIN_RCVBUF = 4608, 2304


def sysctl_core_net_init(net: Net) -> None:
    """Limits of buffers and of softirqs are the kernel's: only the first namespace shows them."""
    state = net_of(net.kernel)
    register_net_sysctl(net, b"net/core", [dointvec(b"somaxconn", state, "somaxconn", 0)])
    if net is state.init_net:
        register_net_sysctl(net, b"net/core", [
            dointvec(b"wmem_max", state, "wmem_max", SOCK_MIN_SNDBUF),
            dointvec(b"rmem_max", state, "rmem_max", SOCK_MIN_RCVBUF),
            dointvec(b"wmem_default", state, "wmem_default", SOCK_MIN_SNDBUF),
            dointvec(b"rmem_default", state, "rmem_default", SOCK_MIN_RCVBUF),
            dointvec(b"optmem_max", state, "optmem_max", 0),
            dointvec(b"dev_weight", state, "dev_weight", 0),
            dointvec(b"netdev_max_backlog", state, "netdev_max_backlog", 0),
            dointvec(b"netdev_budget", state, "netdev_budget", 0),
            dointvec(b"netdev_budget_usecs", state, "netdev_budget_usecs", 0, INT_MAX),
            CtlTable(b"default_qdisc", 0o444, lambda _kernel: pfifo_fast_ops.id),
        ])


def sysctl_core_init(kernel: Kernel) -> None:
    register_pernet_subsys(kernel, PernetOperations(sysctl_core_net_init))
