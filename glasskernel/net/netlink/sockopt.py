"""Netlink sockets' options, rights and group memberships.

Linux: net/netlink/af_netlink.c (5.3). Owns: NetlinkSock.groups, subscriptions, nl_flags.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import get_user_u32, put_user_u32
from glasskernel.kernel.capability import CAP_NET_ADMIN, CAP_NET_BROADCAST, ns_capable
from glasskernel.kernel.sched.wait import wake_up_interruptible
from glasskernel.lib.errno import EINVAL, ENOPROTOOPT, EPERM, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.netlink.delivery import netlink_cb, nlk_table
from glasskernel.net.netlink.types import (
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_BROADCAST_ERROR,
    NETLINK_CAP_ACK,
    NETLINK_DROP_MEMBERSHIP,
    NETLINK_EXT_ACK,
    NETLINK_F_BROADCAST_SEND_ERROR,
    NETLINK_F_CAP_ACK,
    NETLINK_F_EXT_ACK,
    NETLINK_F_LISTEN_ALL_NSID,
    NETLINK_F_RECV_NO_ENOBUFS,
    NETLINK_F_RECV_PKTINFO,
    NETLINK_F_STRICT_CHK,
    NETLINK_GET_STRICT_CHK,
    NETLINK_LIST_MEMBERSHIPS,
    NETLINK_LISTEN_ALL_NSID,
    NETLINK_NO_ENOBUFS,
    NETLINK_PKTINFO,
    NETLINK_S_CONGESTED,
    NL_CFG_F_NONROOT_RECV,
    NetlinkSock,
)
from glasskernel.net.scm import put_cmsg
from glasskernel.net.types import SOL_NETLINK

if TYPE_CHECKING:
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import MsgHdr, Socket

_FLAGS = {
    NETLINK_PKTINFO: NETLINK_F_RECV_PKTINFO, NETLINK_BROADCAST_ERROR: NETLINK_F_BROADCAST_SEND_ERROR,
    NETLINK_NO_ENOBUFS: NETLINK_F_RECV_NO_ENOBUFS, NETLINK_LISTEN_ALL_NSID: NETLINK_F_LISTEN_ALL_NSID,
    NETLINK_CAP_ACK: NETLINK_F_CAP_ACK, NETLINK_EXT_ACK: NETLINK_F_EXT_ACK,
    NETLINK_GET_STRICT_CHK: NETLINK_F_STRICT_CHK,
}
_READABLE = _FLAGS.keys() - {NETLINK_LISTEN_ALL_NSID}


# ---- rights ----------------------------------------------------------------------------------------
def netlink_net_capable(skb: SkBuff, cap: int) -> bool:
    """May the sender of a request do this, then and now?"""
    cred = netlink_cb(skb).cred
    return cred is None or (bool(cred.cap_effective >> cap & 1) and ns_capable(None, cap))


@notrace
def netlink_allowed(sk: NetlinkSock, flag: int) -> bool:
    """Programs without CAP_NET_ADMIN may join groups of some protocols, and send through some."""
    return bool(nlk_table(sk).flags & flag) or ns_capable(None, CAP_NET_ADMIN)


# ---- groups ----------------------------------------------------------------------------------------
def netlink_update_subscriptions(sk: NetlinkSock, groups: int) -> None:
    """The socket is in exactly these groups from now on."""
    table = nlk_table(sk)
    subscriptions = groups.bit_count()
    if sk.subscriptions and not subscriptions:
        table.mc_list.remove(sk)
    elif not sk.subscriptions and subscriptions:
        table.mc_list.append(sk)
    sk.subscriptions = subscriptions
    sk.groups = groups


@notrace
def _membership(sk: NetlinkSock, optname: int, group: int) -> None:
    table = nlk_table(sk)
    if not netlink_allowed(sk, NL_CFG_F_NONROOT_RECV):
        raise KernelError(EPERM)
    sk.ngroups = table.groups
    if not 1 <= group <= sk.ngroups:
        raise KernelError(EINVAL)
    bit = 1 << group - 1
    if optname == NETLINK_ADD_MEMBERSHIP:
        if table.bind is not None:
            table.bind(sk.sk_net, group)
        netlink_update_subscriptions(sk, sk.groups | bit)
    else:
        netlink_update_subscriptions(sk, sk.groups & ~bit)
        if table.unbind is not None:
            table.unbind(sk.sk_net, group)


# ---- setsockopt(2), getsockopt(2) ------------------------------------------------------------------
def netlink_setsockopt(sock: Socket, level: int, optname: int, optval: int, optlen: int) -> None:
    """Raises ENOPROTOOPT, EFAULT, EPERM, EINVAL."""
    sk = sock.sk
    assert isinstance(sk, NetlinkSock)
    if level != SOL_NETLINK:
        raise KernelError(ENOPROTOOPT)
    value = get_user_u32(optval) if optlen >= 4 else 0
    if optname in (NETLINK_ADD_MEMBERSHIP, NETLINK_DROP_MEMBERSHIP):
        _membership(sk, optname, value)
        return
    flag = _FLAGS.get(optname)
    if flag is None:
        raise KernelError(ENOPROTOOPT)
    if optname == NETLINK_LISTEN_ALL_NSID and not ns_capable(None, CAP_NET_BROADCAST):
        raise KernelError(EPERM)
    if value:
        sk.nl_flags |= flag
    else:
        sk.nl_flags &= ~flag
    if optname == NETLINK_NO_ENOBUFS and value:
        sk.state &= ~NETLINK_S_CONGESTED
        wake_up_interruptible(sk.wait)


def netlink_getsockopt(sock: Socket, level: int, optname: int, optval: int, optlen: int) -> None:
    """Raises ENOPROTOOPT, EFAULT, EINVAL."""
    sk = sock.sk
    assert isinstance(sk, NetlinkSock)
    if level != SOL_NETLINK:
        raise KernelError(ENOPROTOOPT)
    size = get_user_u32(optlen)
    if size >= 1 << 31:
        raise KernelError(EINVAL)
    if optname == NETLINK_LIST_MEMBERSHIPS:
        words = -(-sk.ngroups // 32)
        for i in range(min(words, size // 4)):
            put_user_u32(optval + 4 * i, sk.groups >> 32 * i & 0xFFFFFFFF)
        put_user_u32(optlen, words * 4)
        return
    if optname not in _READABLE:
        raise KernelError(ENOPROTOOPT)
    if size < 4:
        raise KernelError(EINVAL)
    put_user_u32(optlen, 4)
    put_user_u32(optval, int(bool(sk.nl_flags & _FLAGS[optname])))


def netlink_cmsg_recv_pktinfo(msg: MsgHdr, skb: SkBuff) -> None:
    """struct nl_pktinfo: the group a message came through."""
    put_cmsg(msg, SOL_NETLINK, NETLINK_PKTINFO, netlink_cb(skb).dst_group.to_bytes(4, "little"))
