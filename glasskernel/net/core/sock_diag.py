"""NETLINK_SOCK_DIAG: what ss(8) asks about sockets.

Linux: net/core/sock_diag.c (5.3). Same: families have handlers, found as modules; SOCK_DESTROY needs CAP_NET_ADMIN.
Gaps: SOCK_DESTROY (EOPNOTSUPP), TCPDIAG_GETSOCK of long ago (EINVAL), groups that tell of closed sockets.
Owns: NetState.sock_diag_handlers, Net.diag_nlsk. Lock: sock_diag_mutex.
"""
from __future__ import annotations

import struct
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from glasskernel.kernel.capability import CAP_NET_ADMIN
from glasskernel.kernel.locking.mutex import Mutex, mutex_lock, mutex_unlock
from glasskernel.lib.errno import EINVAL, ENOENT, EOPNOTSUPP, EPERM, ESTALE, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dev_chain import net_of
from glasskernel.net.core.net_namespace import register_pernet_subsys
from glasskernel.net.core.sock import sock_gen_cookie
from glasskernel.net.core.sock_options import sk_get_meminfo
from glasskernel.net.netlink.af_netlink import __netlink_kernel_create, netlink_kernel_release
from glasskernel.net.netlink.dump import __netlink_dump_start, netlink_rcv_skb
from glasskernel.net.netlink.sockopt import netlink_net_capable
from glasskernel.net.netlink.types import (
    NETLINK_SOCK_DIAG,
    NLM_F_DUMP,
    NetlinkCallback,
    NetlinkKernelCfg,
    Nlmsghdr,
)
from glasskernel.net.nlattr import NetlinkExtAck, nla_put
from glasskernel.net.types import AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_UNIX, NPROTO, PernetOperations, Sock

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net

    Dump = Callable[[SkBuff, Nlmsghdr], bool]

SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21
INET_DIAG_NOCOOKIE = (1 << 64) - 1
# families whose handlers are built as modules
MODULES = {
    AF_UNIX: ("net.unix.diag", "unix_diag_init"),
    AF_INET: ("net.ipv4.inet_diag_tables", "inet_diag_init"),
    AF_INET6: ("net.ipv4.inet_diag_tables", "inet_diag_init"),           # there are none, which is no error
    AF_NETLINK: ("net.netlink.diag", "netlink_diag_init"),
    AF_PACKET: ("net.packet.diag", "packet_diag_init"),
}


# ---- for the families ------------------------------------------------------------------------------
@notrace
def sock_diag_register(kernel: Kernel, family: int, dump: Dump) -> None:
    """dump(skb, nlh) answers a request for a family's sockets; True: a dump has begun."""
    net_of(kernel).sock_diag_handlers[family] = dump


def sock_diag_save_cookie(sk: Sock) -> bytes:
    """What names the sock in later requests: __u32[2]."""
    return sock_gen_cookie(sk).to_bytes(8, "little")


def sock_diag_check_cookie(sk: Sock, cookie: int) -> None:
    """Raises ESTALE: another sock has that name now."""
    if cookie not in (INET_DIAG_NOCOOKIE, sock_gen_cookie(sk)):
        raise KernelError(ESTALE)


def sock_diag_put_meminfo(sk: Sock, skb: SkBuff, attrtype: int) -> None:
    values = sk_get_meminfo(sk)
    nla_put(skb, attrtype, struct.pack(f"<{len(values)}I", *values))


@notrace
def sock_diag_start(skb: SkBuff, nlh: Nlmsghdr, dump: Callable[[SkBuff, NetlinkCallback], int],
                    data: bytes = b"") -> bool:
    """A dump of many sockets; data: for dump(), in cb.data."""
    assert skb.sk is not None
    return __netlink_dump_start(skb.sk.sk_net.diag_nlsk, skb, nlh, NetlinkCallback(skb, nlh, dump, data=data))


# ---- requests --------------------------------------------------------------------------------------
@may_sleep
def __sock_diag_cmd(skb: SkBuff, nlh: Nlmsghdr) -> bool:
    """Hands a request to its family. Raises EINVAL, ENOENT, EPERM, EOPNOTSUPP."""
    if len(nlh.data) < 2 or nlh.data[0] >= NPROTO:
        raise KernelError(EINVAL)
    assert skb.sk is not None
    net = skb.sk.sk_net
    handlers = net_of(net.kernel).sock_diag_handlers
    family = nlh.data[0]
    if family not in handlers and family in MODULES:
        module, name = MODULES[family]
        getattr(import_module(f"glasskernel.{module}"), name)(net.kernel)
    dump: Dump | None = handlers.get(family)
    if dump is None:
        raise KernelError(ENOENT)
    if nlh.nlmsg_type == SOCK_DESTROY:
        raise KernelError(EOPNOTSUPP if netlink_net_capable(skb, CAP_NET_ADMIN) else EPERM)
    return dump(skb, nlh)


@may_sleep
def sock_diag_rcv_msg(skb: SkBuff, nlh: Nlmsghdr, extack: NetlinkExtAck) -> bool:
    """Raises EINVAL for a message that is none."""
    if nlh.nlmsg_type not in (SOCK_DIAG_BY_FAMILY, SOCK_DESTROY):
        raise KernelError(EINVAL)
    return __sock_diag_cmd(skb, nlh)


@may_sleep
def sock_diag_rcv(skb: SkBuff) -> None:
    assert skb.sk is not None
    mutex: Mutex = net_of(skb.sk.sk_net.kernel).sock_diag_mutex
    mutex_lock(mutex)
    try:
        netlink_rcv_skb(skb, sock_diag_rcv_msg)
    finally:
        mutex_unlock(mutex)


@notrace
def wants_dump(nlh: Nlmsghdr) -> bool:
    return bool(nlh.nlmsg_flags & NLM_F_DUMP)


def diag_net_init(net: Net) -> None:
    net.diag_nlsk = __netlink_kernel_create(net, NETLINK_SOCK_DIAG, NetlinkKernelCfg(groups=4, input=sock_diag_rcv))


def diag_net_exit(net: Net) -> None:
    netlink_kernel_release(net.diag_nlsk)
    net.diag_nlsk = None


def sock_diag_init(kernel: Kernel) -> None:
    net_of(kernel).sock_diag_mutex = Mutex()
    register_pernet_subsys(kernel, PernetOperations(diag_net_init, diag_net_exit))
