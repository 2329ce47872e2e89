"""Options of IPv4 sockets, and control messages of what they send.

Linux: net/ipv4/ip_sockglue.c (5.3). Same: which values are allowed and their errno, options of one byte or four.
Differs: what is received is in ip_errqueue.py.
Gaps: sources of groups (IP_ADD_SOURCE_MEMBERSHIP, IP_MSFILTER, MCAST_*), IPsec policies, netfilter's options.
Locks: takes the socket's; rtnl first for memberships.
"""
from __future__ import annotations

from struct import pack, unpack_from
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, put_user_u32
from glasskernel.kernel.capability import CAP_NET_ADMIN, CAP_NET_RAW, capable
from glasskernel.lib.errno import EADDRNOTAVAIL, EINVAL, ENOPROTOOPT, ENOTCONN, EPERM, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.sock import lock_sock, release_sock, sk_dst_reset
from glasskernel.net.ipv4.igmp import ip_mc_join_group, ip_mc_leave_group
from glasskernel.net.ipv4.in_device import __ip_dev_find
from glasskernel.net.ipv4.ip_errqueue import (
    IP_CMSG_ORIGDSTADDR,
    IP_CMSG_PKTINFO,
    IP_CMSG_RECVOPTS,
    IP_CMSG_RETOPTS,
    IP_CMSG_TOS,
    IP_CMSG_TTL,
    IP_ORIGDSTADDR,
    IP_PKTINFO,
    IP_RECVERR,
    IP_RECVOPTS,
    IP_RETOPTS,
    IP_TOS,
    IP_TTL,
)
from glasskernel.net.ipv4.ip_options import ip_options_get
from glasskernel.net.ipv4.route import ipv4_mtu
from glasskernel.net.ipv4.types import IP_PMTUDISC_DONT, InetSock
from glasskernel.net.scm import for_each_cmsghdr
from glasskernel.net.skbuff import skb_queue_purge
from glasskernel.net.types import SOCK_RAW, SOCK_STREAM, SOL_IP, SOL_SOCKET

if TYPE_CHECKING:
    from glasskernel.net.ipv4.ip_append import IpcmCookie

IP_HDRINCL, IP_OPTIONS, IP_ROUTER_ALERT, IP_PKTOPTIONS, IP_MTU_DISCOVER = 3, 4, 5, 9, 10
IP_RECVTTL, IP_RECVTOS, IP_MTU, IP_FREEBIND, IP_TRANSPARENT, IP_MINTTL, IP_NODEFRAG = 12, 13, 14, 15, 19, 21, 22
IP_BIND_ADDRESS_NO_PORT, IP_RECVFRAGSIZE = 24, 25
IP_MULTICAST_IF, IP_MULTICAST_TTL, IP_MULTICAST_LOOP, IP_ADD_MEMBERSHIP, IP_DROP_MEMBERSHIP = 32, 33, 34, 35, 36
IP_MULTICAST_ALL, IP_UNICAST_IF = 49, 50
_CMSG_FLAGS = {IP_PKTINFO: IP_CMSG_PKTINFO, IP_RECVTTL: IP_CMSG_TTL, IP_RECVOPTS: IP_CMSG_RECVOPTS,
               IP_RETOPTS: IP_CMSG_RETOPTS, IP_RECVTOS: IP_CMSG_TOS, IP_ORIGDSTADDR: IP_CMSG_ORIGDSTADDR}
# bools that are fields
_FIELDS = {IP_RECVERR: "recverr", IP_FREEBIND: "freebind", IP_NODEFRAG: "nodefrag", IP_HDRINCL: "hdrincl",
           IP_BIND_ADDRESS_NO_PORT: "bind_address_no_port", IP_MULTICAST_ALL: "mc_all", IP_MULTICAST_LOOP: "mc_loop",
           IP_TRANSPARENT: "transparent"}
_RAW_ONLY = (IP_HDRINCL, IP_NODEFRAG)


# ---- control messages of a sender ----------------------------------------------------------------------------------
def ip_cmsg_send(sk: InetSock, msg: object, ipc: IpcmCookie) -> None:
    """IP_PKTINFO, IP_RETOPTS, IP_TTL, IP_TOS, SO_MARK. Raises EINVAL, EPERM."""
    control: bytes = msg.msg_control     # type: ignore[attr-defined]
    for level, kind, data in for_each_cmsghdr(control):
        if level == SOL_SOCKET:
            _sock_cmsg_send(kind, data, ipc)
        if level != SOL_IP:
            continue
        if kind == IP_RETOPTS:
            ipc.opt = ip_options_get(data[:40])
        elif kind == IP_PKTINFO:
            if len(data) != 12:
                raise KernelError(EINVAL)
            index, spec = unpack_from("<i4s", data)
            ipc.oif = index or ipc.oif
            ipc.addr = int.from_bytes(spec, "big")
        elif kind == IP_TTL:
            value = _int(data)
            if not 1 <= value <= 255:
                raise KernelError(EINVAL)
            ipc.ttl = value
        elif kind == IP_TOS:
            value = data[0] if len(data) == 1 else _int(data)
            if not 0 <= value <= 255:
                raise KernelError(EINVAL)
            ipc.tos = value
            ipc.priority = _TOS2PRIO[value >> 1 & 15]
        else:
            raise KernelError(EINVAL)


@notrace
def _int(data: bytes) -> int:
    if len(data) != 4:
        raise KernelError(EINVAL)
    return int.from_bytes(data, "little", signed=True)


@notrace
def _sock_cmsg_send(kind: int, data: bytes, ipc: IpcmCookie) -> None:
    """__sock_cmsg_send(): SO_MARK; descriptors and credentials belong to AF_UNIX."""
    if kind == 36:                       # SO_MARK
        if not capable(CAP_NET_ADMIN):
            raise KernelError(EPERM)
        ipc.mark = _int(data) & 0xFFFFFFFF
    elif kind not in (1, 2):
        raise KernelError(EINVAL)


_TOS2PRIO = (0, 1, 0, 0, 2, 2, 2, 2, 6, 6, 6, 6, 4, 4, 4, 4)             # ip_tos2prio[]


# ---- setsockopt ----------------------------------------------------------------------------------------------------
@may_sleep
def ip_setsockopt(sk: InetSock, level: int, optname: int, optval: int, optlen: int) -> None:
    if level != SOL_IP:
        raise KernelError(ENOPROTOOPT)
    do_ip_setsockopt(sk, optname, optval, optlen)


@may_sleep
def do_ip_setsockopt(sk: InetSock, optname: int, optval: int, optlen: int) -> None:
    """Raises EINVAL, ENOPROTOOPT, EPERM, EFAULT, EADDRNOTAVAIL ..."""
    value = 0
    if optlen >= 4:
        value = int.from_bytes(copy_from_user(optval, 4), "little", signed=True)
    elif optlen >= 1:
        value = copy_from_user(optval, 1)[0]
    if optname in (IP_ADD_MEMBERSHIP, IP_DROP_MEMBERSHIP):
        _membership(sk, optname, optval, optlen)
        return
    lock_sock(sk)
    try:
        if optname in _CMSG_FLAGS:
            flag = _CMSG_FLAGS[optname]
            sk.cmsg_flags = sk.cmsg_flags | flag if value else sk.cmsg_flags & ~flag
        elif optname in _FIELDS:
            _set_bool(sk, optname, value, optlen)
        elif optname == IP_OPTIONS:
            if not 0 <= optlen <= 40:
                raise KernelError(EINVAL)
            sk.inet_opt = ip_options_get(copy_from_user(optval, optlen))
        elif optname == IP_TOS:
            __ip_sock_set_tos(sk, value)
        elif optname == IP_TTL:
            if optlen < 1 or (value != -1 and not 1 <= value <= 255):
                raise KernelError(EINVAL)
            sk.uc_ttl = value
        elif optname == IP_MTU_DISCOVER:
            if not IP_PMTUDISC_DONT <= value <= 5:
                raise KernelError(EINVAL)
            sk.pmtudisc = value
        elif optname == IP_MINTTL:
            if optlen < 1 or not 0 <= value <= 255:
                raise KernelError(EINVAL)
            sk.min_ttl = value
        elif optname in (IP_MULTICAST_TTL, IP_MULTICAST_IF, IP_UNICAST_IF):
            _set_sender(sk, optname, value, optval, optlen)
        else:
            raise KernelError(ENOPROTOOPT)
    finally:
        release_sock(sk)


@notrace
def _set_bool(sk: InetSock, optname: int, value: int, optlen: int) -> None:
    if optname in _RAW_ONLY and sk.sk_type != SOCK_RAW:
        raise KernelError(ENOPROTOOPT)
    if optname == IP_TRANSPARENT and value and not capable(CAP_NET_RAW) and not capable(CAP_NET_ADMIN):
        raise KernelError(EPERM)
    if optname in (IP_FREEBIND, IP_MULTICAST_LOOP, IP_MULTICAST_ALL, IP_TRANSPARENT) and optlen < 1:
        raise KernelError(EINVAL)
    if optname == IP_MULTICAST_ALL and value not in (0, 1):
        raise KernelError(EINVAL)
    setattr(sk, _FIELDS[optname], bool(value))
    if optname == IP_RECVERR and not value:
        skb_queue_purge(sk.sk_error_queue)


def __ip_sock_set_tos(sk: InetSock, value: int) -> None:
    """The ECN bits of a stream are TCP's."""
    value &= 0xFF
    if sk.sk_type == SOCK_STREAM:
        value = value & ~3 | sk.tos & 3
    if sk.tos != value:
        sk.tos = value
        sk.sk_priority = _TOS2PRIO[value >> 1 & 15]
        sk_dst_reset(sk)


@notrace
def _set_sender(sk: InetSock, optname: int, value: int, optval: int, optlen: int) -> None:
    """Which device, address and TTL groups are sent with."""
    net = sk.sk_net
    if optname == IP_MULTICAST_TTL:
        if sk.sk_type == SOCK_STREAM or optlen < 1 or not -1 <= value <= 255:
            raise KernelError(EINVAL)
        sk.mc_ttl = 1 if value == -1 else value
        return
    if optname == IP_UNICAST_IF:
        if optlen != 4:
            raise KernelError(EINVAL)
        index = int.from_bytes(value.to_bytes(4, "little", signed=True), "big")
        if index and index not in net.dev_by_index:
            raise KernelError(EADDRNOTAVAIL)
        if sk.sk_bound_dev_if and index != sk.sk_bound_dev_if:
            raise KernelError(EINVAL)
        sk.uc_index = index
        return
    if sk.sk_type == SOCK_STREAM or optlen < 4:
        raise KernelError(EINVAL)
    address, index = _interface(optval, optlen, has_group=optlen >= 8)
    if not index:
        if not address:
            sk.mc_index = sk.mc_addr = 0
            return
        dev = __ip_dev_find(net, address, False)
    else:
        dev = net.dev_by_index.get(index)
    if dev is None:
        raise KernelError(EADDRNOTAVAIL)
    if sk.sk_bound_dev_if and dev.ifindex != sk.sk_bound_dev_if:
        raise KernelError(EINVAL)
    sk.mc_index, sk.mc_addr = dev.ifindex, address


@notrace
def _interface(optval: int, optlen: int, has_group: bool) -> tuple[int, int]:
    """(address, number) of a struct in_addr, ip_mreq or ip_mreqn."""
    raw = copy_from_user(optval, min(optlen, 12))
    at = 4 if has_group else 0
    index = int.from_bytes(raw[8:12], "little") if len(raw) == 12 else 0
    return int.from_bytes(raw[at : at + 4], "big"), index


@notrace
def _membership(sk: InetSock, optname: int, optval: int, optlen: int) -> None:
    if sk.is_icsk:
        raise KernelError(EINVAL if sk.sk_type == SOCK_STREAM else ENOPROTOOPT)
    if optlen < 8:
        raise KernelError(EINVAL)
    group = int.from_bytes(copy_from_user(optval, 4), "big")
    address, index = _interface(optval, optlen, has_group=True)
    if optname == IP_ADD_MEMBERSHIP:
        ip_mc_join_group(sk, group, address, index)
    else:
        ip_mc_leave_group(sk, group, address, index)


# ---- getsockopt ----------------------------------------------------------------------------------------------------
@may_sleep
def ip_getsockopt(sk: InetSock, level: int, optname: int, optval: int, optlen: int) -> None:
    if level != SOL_IP:
        raise KernelError(ENOPROTOOPT)
    do_ip_getsockopt(sk, optname, optval, optlen)


@may_sleep
def do_ip_getsockopt(sk: InetSock, optname: int, optval: int, optlen: int) -> None:
    """A value between 0 and 255 goes into one byte if there is room for no more."""
    length = int.from_bytes(copy_from_user(optlen, 4), "little", signed=True)
    if length < 0:
        raise KernelError(EINVAL)
    if optname == IP_OPTIONS:
        options = sk.inet_opt[:length]
        put_user_u32(optlen, len(options))
        copy_to_user(optval, options)
        return
    if optname == IP_MULTICAST_IF:
        length = min(length, 4)
        put_user_u32(optlen, length)
        copy_to_user(optval, sk.mc_addr.to_bytes(4, "big")[:length])
        return
    value = _get_int(sk, optname)
    if 0 < length < 4 and 0 <= value <= 255:
        put_user_u32(optlen, 1)
        copy_to_user(optval, bytes([value]))
        return
    length = min(length, 4)
    put_user_u32(optlen, length)
    copy_to_user(optval, pack("<i", value)[:length])


@notrace
def _get_int(sk: InetSock, optname: int) -> int:
    if optname in _CMSG_FLAGS:
        return int(bool(sk.cmsg_flags & _CMSG_FLAGS[optname]))
    if optname in _FIELDS:
        if optname in _RAW_ONLY and sk.sk_type != SOCK_RAW:
            return 0
        return int(getattr(sk, _FIELDS[optname]))
    if optname == IP_TOS:
        return sk.tos
    if optname == IP_TTL:
        return sk.uc_ttl if sk.uc_ttl != -1 else int(sk.sk_net.ipv4.sysctl["ip_default_ttl"])
    if optname == IP_MTU_DISCOVER:
        return sk.pmtudisc
    if optname == IP_MTU:
        dst = sk.sk_dst_cache
        if dst is None:
            raise KernelError(ENOTCONN)
        return ipv4_mtu(dst)
    if optname == IP_MULTICAST_TTL:
        return sk.mc_ttl
    if optname == IP_UNICAST_IF:
        return int.from_bytes(sk.uc_index.to_bytes(4, "big"), "little", signed=True)
    if optname == IP_MINTTL:
        return sk.min_ttl
    raise KernelError(ENOPROTOOPT)
