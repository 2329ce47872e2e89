"""ss -x: AF_UNIX's sockets over sock_diag.

Linux: net/unix/diag.c (5.3).
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.lib.errno import EINVAL, ENOENT, KernelError
from glasskernel.lib.types import may_sleep
from glasskernel.net.core.sock import sock_i_ino, sock_i_uid
from glasskernel.net.core.sock_diag import (
    SOCK_DIAG_BY_FAMILY,
    sock_diag_check_cookie,
    sock_diag_put_meminfo,
    sock_diag_register,
    sock_diag_save_cookie,
    sock_diag_start,
    wants_dump,
)
from glasskernel.net.init import request_family
from glasskernel.net.netlink.delivery import netlink_unicast
from glasskernel.net.netlink.nlmsg import nlmsg_dump, nlmsg_end, nlmsg_new, nlmsg_put
from glasskernel.net.netlink.types import NLM_F_MULTI, NetlinkCallback, Nlmsghdr
from glasskernel.net.nlattr import nla_put, nla_put_u8, nla_put_u32
from glasskernel.net.types import AF_UNIX, TCP_LISTEN, Sock
from glasskernel.net.unix.af_unix import unix_inq_len, unix_outq_len
from glasskernel.net.unix.types import SUN_PATH, UnixSock

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net

(UNIX_DIAG_NAME, UNIX_DIAG_VFS, UNIX_DIAG_PEER, UNIX_DIAG_ICONS, UNIX_DIAG_RQLEN, UNIX_DIAG_MEMINFO, UNIX_DIAG_SHUTDOWN,
 UNIX_DIAG_UID) = range(8)
(UDIAG_SHOW_NAME, UDIAG_SHOW_VFS, UDIAG_SHOW_PEER, UDIAG_SHOW_ICONS, UDIAG_SHOW_RQLEN, UDIAG_SHOW_MEMINFO,
 UDIAG_SHOW_UID) = (1 << i for i in range(7))
unix_diag_req = struct.Struct("<BBxxIIIQ")           # family, protocol, states, ino, show, cookie
unix_diag_msg = struct.Struct("<BBBxI8s")            # family, type, state, ino, cookie


def sk_diag_dump_vfs(sk: UnixSock, skb: SkBuff) -> None:
    """Inode and device of a name that is a file."""
    if sk.path is not None:
        inode = sk.path.dentry.d_inode
        if inode is not None:
            nla_put(skb, UNIX_DIAG_VFS, struct.pack("<II", inode.i_ino & 0xFFFFFFFF, inode.i_sb.s_dev & 0xFFFFFFFF))


def sk_diag_dump_icons(sk: UnixSock, skb: SkBuff) -> None:
    """Who wants to connect to a listener: the inodes of the sockets that wait for accept()."""
    if sk.sk_state == TCP_LISTEN:
        inos = []
        for waiting in sk.sk_receive_queue.q:
            req = waiting.sk
            peer = req.peer if isinstance(req, UnixSock) else None
            inos.append(sock_i_ino(peer) if peer is not None else 0)
        nla_put(skb, UNIX_DIAG_ICONS, struct.pack(f"<{len(inos)}I", *inos))


def sk_diag_show_rqlen(sk: UnixSock, skb: SkBuff) -> None:
    if sk.sk_state == TCP_LISTEN:
        queues = len(sk.sk_receive_queue.q), sk.sk_max_ack_backlog
    else:
        queues = unix_inq_len(sk), unix_outq_len(sk)
    nla_put(skb, UNIX_DIAG_RQLEN, struct.pack("<II", *queues))


def sk_diag_fill(sk: UnixSock, skb: SkBuff, show: int, portid: int, seq: int, flags: int, ino: int) -> None:
    """One socket. Raises EMSGSIZE."""
    start = nlmsg_put(skb, portid, seq, SOCK_DIAG_BY_FAMILY, unix_diag_msg.pack(
        AF_UNIX, sk.sk_type, sk.sk_state, ino, sock_diag_save_cookie(sk)), flags)
    if show & UDIAG_SHOW_NAME and sk.addr:
        nla_put(skb, UNIX_DIAG_NAME, sk.addr[SUN_PATH:])
    if show & UDIAG_SHOW_VFS:
        sk_diag_dump_vfs(sk, skb)
    if show & UDIAG_SHOW_PEER and sk.peer is not None:
        nla_put_u32(skb, UNIX_DIAG_PEER, sock_i_ino(sk.peer))
    if show & UDIAG_SHOW_ICONS:
        sk_diag_dump_icons(sk, skb)
    if show & UDIAG_SHOW_RQLEN:
        sk_diag_show_rqlen(sk, skb)
    if show & UDIAG_SHOW_MEMINFO:
        sock_diag_put_meminfo(sk, skb, UNIX_DIAG_MEMINFO)
    nla_put_u8(skb, UNIX_DIAG_SHUTDOWN, sk.sk_shutdown)
    if show & UDIAG_SHOW_UID:
        nla_put_u32(skb, UNIX_DIAG_UID, sock_i_uid(sk))
    nlmsg_end(skb, start)


def unix_diag_dump(skb: SkBuff, cb: NetlinkCallback) -> int:
    """All sockets in the wanted states that have a file."""
    _family, _protocol, states, _ino, show, _cookie = unix_diag_req.unpack_from(cb.nlh.data)
    assert cb.skb.sk is not None

    def fill(sk: Sock) -> None:
        ino = sock_i_ino(sk)
        if states >> sk.sk_state & 1 and ino:
            assert isinstance(sk, UnixSock)
            sk_diag_fill(sk, skb, show, cb.skb.cb.portid, cb.nlh.nlmsg_seq, NLM_F_MULTI, ino)

    return nlmsg_dump(skb, cb, list(cb.skb.sk.sk_net.unx.sockets), fill)


def unix_lookup_by_ino(net: Net, ino: int) -> UnixSock | None:
    sockets: list[UnixSock] = net.unx.sockets
    return next((sk for sk in sockets if sock_i_ino(sk) == ino), None)


def unix_diag_get_exact(in_skb: SkBuff, nlh: Nlmsghdr) -> None:
    """One socket, by its inode. Raises EINVAL, ENOENT, ESTALE."""
    _family, _protocol, _states, ino, show, cookie = unix_diag_req.unpack_from(nlh.data)
    if not ino:
        raise KernelError(EINVAL)
    assert in_skb.sk is not None
    net = in_skb.sk.sk_net
    sk = unix_lookup_by_ino(net, ino)
    if sk is None:
        raise KernelError(ENOENT)
    sock_diag_check_cookie(sk, cookie)
    rep = nlmsg_new(512)
    sk_diag_fill(sk, rep, show, in_skb.cb.portid, nlh.nlmsg_seq, 0, ino)
    netlink_unicast(net.diag_nlsk, rep, in_skb.cb.portid, 1)


@may_sleep
def unix_diag_handler_dump(skb: SkBuff, nlh: Nlmsghdr) -> bool:
    """Raises EINVAL for a request that is too short."""
    if len(nlh.data) < unix_diag_req.size:
        raise KernelError(EINVAL)
    if wants_dump(nlh):
        return sock_diag_start(skb, nlh, unix_diag_dump)
    unix_diag_get_exact(skb, nlh)
    return False


def unix_diag_init(kernel: Kernel) -> None:
    request_family(kernel, AF_UNIX)
    sock_diag_register(kernel, AF_UNIX, unix_diag_handler_dump)
