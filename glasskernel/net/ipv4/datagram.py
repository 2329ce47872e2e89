"""Sockets that send datagrams: connecting them, and what UDP, ping and raw sockets do alike.

Linux: net/ipv4/datagram.c, and what udp_sendmsg(), ping_v4_sendmsg() and raw_sendmsg() each spell out (5.3). Same: the
route that connect() finds is kept; when it is obsolete, releasing the socket looks for a new one.
Locks: the socket's owner.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import (
    EACCES,
    EAFNOSUPPORT,
    EDESTADDRREQ,
    ENETUNREACH,
    EOPNOTSUPP,
    KernelError,
)
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.datagram import skb_free_datagram, skb_recv_datagram
from glasskernel.net.core.dst import dst_release
from glasskernel.net.core.sock import lock_sock, release_sock
from glasskernel.net.core.sock_dst import __sk_dst_check, sk_dst_set
from glasskernel.net.ipv4.fib_lookup import ipv4_is_multicast
from glasskernel.net.ipv4.ip_append import IpcmCookie, get_rttos, ipcm_init_sk
from glasskernel.net.ipv4.ip_errqueue import ip_cmsg_recv, ip_recv_error, read_sockaddr_in, sockaddr_in
from glasskernel.net.ipv4.ip_sockglue import ip_cmsg_send
from glasskernel.net.ipv4.route import ip_route_connect, ip_route_output_flow, ip_route_output_ports, rt_tos
from glasskernel.net.ipv4.types import RTCF_BROADCAST, RTO_ONLINK, Flowi4, InetSock, Rtable
from glasskernel.net.scm import sock_recv_ts_and_drops
from glasskernel.net.skbuff import skb_copy_datagram_iter
from glasskernel.net.types import (
    AF_INET,
    MSG_DONTROUTE,
    MSG_DONTWAIT,
    MSG_ERRQUEUE,
    MSG_OOB,
    MSG_TRUNC,
    SOCK_BINDADDR_LOCK,
    SOCK_BINDPORT_LOCK,
    SOCK_BROADCAST,
    SOCK_LOCALROUTE,
    TCP_CLOSE,
    TCP_ESTABLISHED,
)

if TYPE_CHECKING:
    from glasskernel.net.types import MsgHdr


def __ip4_datagram_connect(sk: InetSock, uaddr: bytes) -> None:
    """Raises EINVAL, EAFNOSUPPORT, EACCES (broadcast), ENETUNREACH ..."""
    family, daddr, dport = read_sockaddr_in(uaddr)
    if family != AF_INET:
        raise KernelError(EAFNOSUPPORT)
    sk_dst_set(sk, None)
    oif, saddr = sk.sk_bound_dev_if, sk.inet_saddr
    if ipv4_is_multicast(daddr):
        oif = oif or sk.mc_index
        saddr = saddr or sk.mc_addr
    elif not oif:
        oif = sk.uc_index
    fl4 = Flowi4()
    try:
        rt = ip_route_connect(fl4, daddr, saddr, rt_tos(sk), oif, sk.sk_protocol, sk.inet_sport, dport, sk)
    except KernelError as e:
        if e.errno == ENETUNREACH:
            sk.sk_net.mib.ip["OutNoRoutes"] += 1
        raise
    if rt.rt_flags & RTCF_BROADCAST and not sk.sk_flags & SOCK_BROADCAST:
        dst_release(rt)
        raise KernelError(EACCES)
    if not sk.inet_saddr:
        sk.inet_saddr = fl4.saddr
    if not sk.inet_rcv_saddr:
        sk.inet_rcv_saddr = fl4.saddr
    sk.inet_daddr = fl4.daddr
    sk.inet_dport = dport
    sk.sk_state = TCP_ESTABLISHED
    sk.inet_id = int.from_bytes(sk.sk_net.kernel.machine.random_bytes(2), "little")
    sk_dst_set(sk, rt)


def ip4_datagram_connect(sk: InetSock, uaddr: bytes) -> None:
    lock_sock(sk)
    try:
        __ip4_datagram_connect(sk, uaddr)
    finally:
        release_sock(sk)


def ip4_datagram_release_cb(sk: InetSock) -> None:
    """Called when the owner lets go: is the route that the socket keeps still right?"""
    dst = sk.sk_dst_cache
    if dst is None or not dst.obsolete or __sk_dst_check(sk, 0) is not None:
        return
    try:
        rt = ip_route_output_ports(sk.sk_net, Flowi4(), sk, sk.inet_daddr, sk.inet_saddr, sk.inet_dport, sk.inet_sport,
                                   sk.sk_protocol, rt_tos(sk), sk.sk_bound_dev_if)
    except KernelError:
        return
    sk_dst_set(sk, rt)


# ---- what UDP, ping and raw sockets have in common -----------------------------------------------------------------
@may_sleep
def udp_disconnect(sk: InetSock, flags: int) -> None:
    lock_sock(sk)
    __udp_disconnect(sk, flags)
    release_sock(sk)


def __udp_disconnect(sk: InetSock, flags: int) -> None:
    """Forgets the peer; an address and a port that nobody asked for go with him (net/ipv4/udp.c). Locks: the owner."""
    sk.sk_state = TCP_CLOSE
    sk.inet_daddr = sk.inet_dport = 0
    sk.sk_bound_dev_if = 0
    if not sk.sk_userlocks & SOCK_BINDADDR_LOCK:
        sk.inet_rcv_saddr = sk.inet_saddr = 0
    if not sk.sk_userlocks & SOCK_BINDPORT_LOCK:
        assert sk.sk_prot.unhash is not None
        sk.sk_prot.unhash(sk)
        sk.inet_sport = 0
    sk_dst_set(sk, None)


@notrace
def datagram_destination(sk: InetSock, msg: MsgHdr, families: tuple[int, ...]) -> tuple[int, int, bool]:
    """Where a message goes: (address, port, the connected one).

    Raises EINVAL, EAFNOSUPPORT, EDESTADDRREQ.
    """
    name = msg.msg_name
    if not name:
        if sk.sk_state != TCP_ESTABLISHED:
            raise KernelError(EDESTADDRREQ)
        return sk.inet_daddr, sk.inet_dport, True
    family, addr, port = read_sockaddr_in(name)
    if family not in families:
        raise KernelError(EAFNOSUPPORT)
    return addr, port, False


@notrace
def datagram_cookie(sk: InetSock, msg: MsgHdr, daddr: int) -> tuple[IpcmCookie, int, int, bool]:
    """What the socket and control messages say about a message: (the cookie, source address, TOS, nothing unusual).

    The cookie's address is the destination.
    """
    ipc = IpcmCookie()
    ipcm_init_sk(ipc, sk)
    usual = True
    if msg.msg_control:
        ip_cmsg_send(sk, msg, ipc)
        usual = False
    ipc.opt = ipc.opt or sk.inet_opt
    saddr, ipc.addr = ipc.addr, daddr
    tos = get_rttos(ipc, sk)
    if sk.sk_flags & SOCK_LOCALROUTE or msg.msg_flags & MSG_DONTROUTE:
        tos |= RTO_ONLINK
        usual = False
    if ipv4_is_multicast(daddr):
        ipc.oif = ipc.oif or sk.mc_index
        saddr = saddr or sk.mc_addr
        usual = False
    elif not ipc.oif:
        ipc.oif = sk.uc_index
    return ipc, saddr, tos, usual


@notrace
def datagram_route(sk: InetSock, fl4: Flowi4) -> Rtable:
    """The flow's route, if it is not a broadcast that the socket may not send. Raises EACCES, ENETUNREACH ..."""
    rt = ip_route_output_flow(sk.sk_net, fl4, sk)
    if rt.rt_flags & RTCF_BROADCAST and not sk.sk_flags & SOCK_BROADCAST:
        dst_release(rt)
        raise KernelError(EACCES)
    return rt


@notrace
@may_sleep
def datagram_recvmsg(sk: InetSock, msg: MsgHdr, length: int, flags: int) -> int:
    """Receiving for ping and raw sockets. Raises EOPNOTSUPP, EAGAIN, the socket's error ..."""
    if flags & MSG_OOB:
        raise KernelError(EOPNOTSUPP)
    if flags & MSG_ERRQUEUE:
        return ip_recv_error(sk, msg, length)
    skb = skb_recv_datagram(sk, flags, flags & MSG_DONTWAIT)
    if skb is None:
        return 0
    try:
        copied = skb.len
        if length < copied:
            msg.msg_flags |= MSG_TRUNC
            copied = length
        skb_copy_datagram_iter(skb, 0, msg.msg_iter, copied)
        sock_recv_ts_and_drops(msg, sk, skb)
        at = skb.network_header
        msg.msg_name = sockaddr_in(int.from_bytes(skb.head[at + 12 : at + 16], "big"), 0)
        if sk.cmsg_flags:
            ip_cmsg_recv(msg, sk, skb, skb.cb)
        return skb.len if flags & MSG_TRUNC else copied
    finally:
        skb_free_datagram(sk, skb)
