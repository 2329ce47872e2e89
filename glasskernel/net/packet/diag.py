"""ss -0: AF_PACKET's sockets over sock_diag.

Linux: net/packet/diag.c (5.3). Gaps: fanout, filters.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.lib.errno import EINVAL, EOPNOTSUPP, KernelError
from glasskernel.lib.types import may_sleep
from glasskernel.net.core.sock import sock_i_ino, sock_i_uid
from glasskernel.net.core.sock_diag import (
    SOCK_DIAG_BY_FAMILY,
    sock_diag_put_meminfo,
    sock_diag_register,
    sock_diag_save_cookie,
    sock_diag_start,
    wants_dump,
)
from glasskernel.net.netlink.nlmsg import nlmsg_dump, nlmsg_end, nlmsg_put
from glasskernel.net.netlink.types import NLM_F_MULTI, NetlinkCallback, Nlmsghdr
from glasskernel.net.nlattr import nla_put, nla_put_u32
from glasskernel.net.packet.types import PacketSock
from glasskernel.net.types import AF_PACKET, Sock

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.skbuff import SkBuff

PACKET_DIAG_INFO, PACKET_DIAG_UID, PACKET_DIAG_MEMINFO = 0, 5, 6
PACKET_SHOW_INFO, PACKET_SHOW_MEMINFO = 1, 16
PDI_RUNNING, PDI_AUXDATA, PDI_ORIGDEV, PDI_LOSS = 1, 2, 4, 16
packet_diag_req = struct.Struct("<BBxxIIQ")          # family, protocol, ino, show, cookie
packet_diag_msg = struct.Struct("<BBHI8s")           # family, type, num, ino, cookie


def pdiag_put_info(sk: PacketSock, skb: SkBuff) -> None:
    flags = (PDI_RUNNING if sk.running else 0) | (PDI_AUXDATA if sk.auxdata else 0)
    flags |= (PDI_ORIGDEV if sk.origdev else 0) | (PDI_LOSS if sk.tp_loss else 0)
    nla_put(skb, PACKET_DIAG_INFO, struct.pack(
        "<6I", sk.ifindex, sk.tp_version, sk.tp_reserve, sk.copy_thresh, sk.tp_tstamp, flags))


def sk_diag_fill(sk: PacketSock, skb: SkBuff, show: int, portid: int, seq: int) -> None:
    """One socket. Raises EMSGSIZE."""
    start = nlmsg_put(skb, portid, seq, SOCK_DIAG_BY_FAMILY, packet_diag_msg.pack(
        AF_PACKET, sk.sk_type, sk.num, sock_i_ino(sk), sock_diag_save_cookie(sk)), NLM_F_MULTI)
    if show & PACKET_SHOW_INFO:
        pdiag_put_info(sk, skb)
        nla_put_u32(skb, PACKET_DIAG_UID, sock_i_uid(sk))
    if show & PACKET_SHOW_MEMINFO:
        sock_diag_put_meminfo(sk, skb, PACKET_DIAG_MEMINFO)
    nlmsg_end(skb, start)


def packet_diag_dump(skb: SkBuff, cb: NetlinkCallback) -> int:
    """All sockets."""
    _family, _protocol, _ino, show, _cookie = packet_diag_req.unpack_from(cb.nlh.data)
    assert cb.skb.sk is not None

    def fill(sk: Sock) -> None:
        assert isinstance(sk, PacketSock)
        sk_diag_fill(sk, skb, show, cb.skb.cb.portid, cb.nlh.nlmsg_seq)

    return nlmsg_dump(skb, cb, list(cb.skb.sk.sk_net.packet or ()), fill)


@may_sleep
def packet_diag_handler_dump(skb: SkBuff, nlh: Nlmsghdr) -> bool:
    """Raises EINVAL, EOPNOTSUPP for one socket."""
    if len(nlh.data) < packet_diag_req.size or nlh.data[1]:
        raise KernelError(EINVAL)
    if not wants_dump(nlh):
        raise KernelError(EOPNOTSUPP)
    return sock_diag_start(skb, nlh, packet_diag_dump)


def packet_diag_init(kernel: Kernel) -> None:
    sock_diag_register(kernel, AF_PACKET, packet_diag_handler_dump)
