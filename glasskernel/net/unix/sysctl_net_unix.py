"""/proc/sys/net/unix.

Linux: net/unix/sysctl_net_unix.c (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.net.sysctl_net import dointvec, register_net_sysctl, unregister_net_sysctl_table

if TYPE_CHECKING:
    from glasskernel.net.types import Net


def unix_sysctl_register(net: Net) -> None:
    """max_dgram_qlen: how many packets of strangers a new socket's queue takes."""
    register_net_sysctl(net, b"net/unix", [dointvec(b"max_dgram_qlen", net.unx, "sysctl_max_dgram_qlen")])


def unix_sysctl_unregister(net: Net) -> None:
    unregister_net_sysctl_table(net, b"net/unix")
