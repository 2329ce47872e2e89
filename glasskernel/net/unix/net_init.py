"""AF_UNIX in each network namespace: its table of names, its files in /proc.

Linux: unix_net_init() of net/unix/af_unix.c (5.3). Differs: the first namespace has its table since the first socket;
the rest comes when the network starts, so that a program with a local socket imports nothing of devices and /proc.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.proc.proc_net import proc_create_net, proc_remove_net
from glasskernel.lib.types import notrace
from glasskernel.net.core.net_namespace import register_pernet_subsys
from glasskernel.net.types import PernetOperations
from glasskernel.net.unix.proc import unix_seq_show
from glasskernel.net.unix.sysctl_net_unix import unix_sysctl_register, unix_sysctl_unregister
from glasskernel.net.unix.types import UnixNet

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.types import Net


def unix_net_init(net: Net) -> None:
    """A namespace begins."""
    if net.unx is None:
        net.unx = UnixNet()
    unix_sysctl_register(net)
    proc_create_net(net, b"unix", unix_seq_show)


def unix_net_exit(net: Net) -> None:
    """A namespace ends; it has no sockets any more."""
    unix_sysctl_unregister(net)
    proc_remove_net(net, b"unix")


@notrace
def unix_pernet_init(kernel: Kernel) -> None:
    """For the namespaces that there are, and for new ones."""
    register_pernet_subsys(kernel, PernetOperations(unix_net_init, unix_net_exit))
