"""ss -f netlink: netlink's own sockets over sock_diag.

Linux: net/netlink/diag.c (5.3). Gaps: rings.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.lib.errno import EINVAL, EOPNOTSUPP, KernelError
from glasskernel.lib.types import may_sleep
from glasskernel.net.core.sock import sock_i_ino
from glasskernel.net.core.sock_diag import (
    SOCK_DIAG_BY_FAMILY,
    sock_diag_put_meminfo,
    sock_diag_register,
    sock_diag_save_cookie,
    sock_diag_start,
    wants_dump,
)
from glasskernel.net.netlink.nlmsg import nlmsg_dump, nlmsg_end, nlmsg_put
from glasskernel.net.netlink.proc import netlink_sockets
from glasskernel.net.netlink.types import NLM_F_MULTI, NetlinkCallback, NetlinkSock, Nlmsghdr
from glasskernel.net.nlattr import nla_put, nla_put_u32
from glasskernel.net.types import AF_NETLINK, Sock

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.skbuff import SkBuff

NETLINK_DIAG_MEMINFO, NETLINK_DIAG_GROUPS, NETLINK_DIAG_FLAGS = 0, 1, 4
NDIAG_SHOW_MEMINFO, NDIAG_SHOW_GROUPS, NDIAG_SHOW_FLAGS, NDIAG_PROTO_ALL = 1, 2, 8, 255
NDIAG_FLAG_CB_RUNNING = 1
netlink_diag_req = struct.Struct("<BBxxIIQ")         # family, protocol, ino, show, cookie
netlink_diag_msg = struct.Struct("<4B4I8s")          # family, type, protocol, state, portid, dst ..., ino, cookie


def sk_diag_fill(sk: NetlinkSock, skb: SkBuff, show: int, portid: int, seq: int) -> None:
    """One socket. Raises EMSGSIZE."""
    start = nlmsg_put(skb, portid, seq, SOCK_DIAG_BY_FAMILY, netlink_diag_msg.pack(
        AF_NETLINK, sk.sk_type, sk.sk_protocol, sk.sk_state, sk.portid, sk.dst_portid, sk.dst_group, sock_i_ino(sk),
        sock_diag_save_cookie(sk)), NLM_F_MULTI)
    if show & NDIAG_SHOW_GROUPS and sk.groups:
        nla_put(skb, NETLINK_DIAG_GROUPS, sk.groups.to_bytes((sk.ngroups + 63) // 64 * 8, "little"))
    if show & NDIAG_SHOW_MEMINFO:
        sock_diag_put_meminfo(sk, skb, NETLINK_DIAG_MEMINFO)
    if show & NDIAG_SHOW_FLAGS:
        nla_put_u32(skb, NETLINK_DIAG_FLAGS, sk.nl_flags << 1 | (NDIAG_FLAG_CB_RUNNING if sk.cb_running else 0))
    nlmsg_end(skb, start)


def netlink_diag_dump(skb: SkBuff, cb: NetlinkCallback) -> int:
    """All sockets of a protocol, or of all."""
    _family, protocol, _ino, show, _cookie = netlink_diag_req.unpack_from(cb.nlh.data)
    assert cb.skb.sk is not None

    def fill(sk: Sock) -> None:
        if protocol in (NDIAG_PROTO_ALL, sk.sk_protocol):
            assert isinstance(sk, NetlinkSock)
            sk_diag_fill(sk, skb, show, cb.skb.cb.portid, cb.nlh.nlmsg_seq)

    return nlmsg_dump(skb, cb, list(netlink_sockets(cb.skb.sk.sk_net)), fill)


@may_sleep
def netlink_diag_handler_dump(skb: SkBuff, nlh: Nlmsghdr) -> bool:
    """Raises EINVAL, EOPNOTSUPP for one socket."""
    if len(nlh.data) < netlink_diag_req.size:
        raise KernelError(EINVAL)
    if not wants_dump(nlh):
        raise KernelError(EOPNOTSUPP)
    return sock_diag_start(skb, nlh, netlink_diag_dump)


def netlink_diag_init(kernel: Kernel) -> None:
    sock_diag_register(kernel, AF_NETLINK, netlink_diag_handler_dump)
