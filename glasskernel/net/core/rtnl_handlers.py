"""NETLINK_ROUTE's handlers for what IPv4 and its neighbours configure.

Linux: the rtnl_register() calls of devinet_init(), ip_fib_init(), neigh_init() and others (5.3). Here together, because
    those files are below netlink; they tell of changes through hooks that are set here. After inet_init().
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace
from glasskernel.net.core.fib_rules_netlink import fib_rules_init
from glasskernel.net.core.neigh_netlink import neigh_netlink_init
from glasskernel.net.core.rtnl_bridge import rtnl_bridge_init
from glasskernel.net.ipv4.devinet_netlink import devinet_netlink_init
from glasskernel.net.ipv4.fib_netlink import fib_netlink_init
from glasskernel.net.ipv4.netconf import netconf_init
from glasskernel.net.sched.sch_api import pktsched_init

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


@notrace
def rtnl_handlers_init(kernel: Kernel) -> None:
    neigh_netlink_init(kernel)
    fib_rules_init(kernel)
    pktsched_init(kernel)
    devinet_netlink_init(kernel)
    fib_netlink_init(kernel)
    netconf_init(kernel)
    rtnl_bridge_init(kernel)
