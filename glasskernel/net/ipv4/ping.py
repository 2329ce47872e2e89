"""Ping sockets: echo requests without CAP_NET_RAW.

Linux: net/ipv4/ping.c (5.3). Same: who may have one (ping_group_range), the identifier is the port, only echo requests
leave and only their answers and errors arrive. Gaps: ICMPv6.
Owns: NetnsIpv4.ping.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.lib.checksum import csum_fold, csum_partial
from glasskernel.lib.errno import (
    EACCES,
    EADDRINUSE,
    EADDRNOTAVAIL,
    EAFNOSUPPORT,
    EFAULT,
    EHOSTUNREACH,
    EINVAL,
    EMSGSIZE,
    EOPNOTSUPP,
    EPROTO,
    KernelError,
)
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.proto import sock_prot_inuse_add
from glasskernel.net.core.sock import lock_sock, release_sock, sk_common_release, sk_dst_reset
from glasskernel.net.core.sock_memory import sock_queue_rcv_skb
from glasskernel.net.ipv4.datagram import datagram_cookie, datagram_destination, datagram_recvmsg, datagram_route
from glasskernel.net.ipv4.fib_lookup import inet_addr_type
from glasskernel.net.ipv4.icmp_convert import ICMP_ERR_CONVERT
from glasskernel.net.ipv4.ip_append import (
    ip_append_data,
    ip_flush_pending_frames,
    ip_generic_getfrag,
    ip_push_pending_frames,
)
from glasskernel.net.ipv4.ip_errqueue import ip_icmp_error, read_sockaddr_in
from glasskernel.net.ipv4.ip_sockglue_rcv import ipv4_pktinfo_prepare
from glasskernel.net.ipv4.route import (
    flowi4_init_output,
    inet_sk_flowi_flags,
    ipv4_sk_update_pmtu,
)
from glasskernel.net.ipv4.types import (
    IP_PMTUDISC_DONT,
    RTN_BROADCAST,
    RTN_LOCAL,
    RTN_MULTICAST,
    Flowi4,
    InetSock,
)
from glasskernel.net.skbuff import CHECKSUM_NONE, SkBuff, kfree_skb, skb_clone, skb_push
from glasskernel.net.types import (
    AF_INET,
    AF_UNSPEC,
    MSG_OOB,
    SOCK_BINDADDR_LOCK,
    SOCK_BINDPORT_LOCK,
    TCP_ESTABLISHED,
)

if TYPE_CHECKING:
    from glasskernel.net.types import MsgHdr

ICMP_ECHO, HEADER = 8, 8
ICMP_DEST_UNREACH, ICMP_SOURCE_QUENCH, ICMP_TIME_EXCEEDED, ICMP_PARAMETERPROB, ICMP_FRAG_NEEDED = 3, 4, 11, 12, 4


@slotted
class PingTable:
    """struct ping_table of a namespace: identifier -> its sockets. ping_port_rover: the last that was chosen."""

    hash: dict[int, list[InetSock]] = field(default_factory=dict)
    ping_port_rover: int = 0


@notrace
def _table(sk: InetSock) -> PingTable:
    table: PingTable = sk.sk_net.ipv4.ping
    return table


# ---- identifiers ---------------------------------------------------------------------------------------------------
def ping_get_port(sk: InetSock, ident: int) -> bool:
    """Takes an identifier; 0: the next one that is free. True: it could not."""
    table = _table(sk)
    if not ident:
        for step in range(1, 1 << 16):
            ident = table.ping_port_rover + step & 0xFFFF
            if ident and ident not in table.hash:
                break
        else:
            return True
        table.ping_port_rover = ident
    elif not sk.sk_reuse and any(not other.sk_reuse for other in table.hash.get(ident, ()) if other is not sk):
        return True
    sk.inet_num = ident
    if sk not in table.hash.get(ident, ()):
        table.hash.setdefault(ident, []).insert(0, sk)
        sock_prot_inuse_add(sk.sk_net, sk.sk_prot, 1)
    return False


def ping_hash(sk: InetSock) -> None:
    raise AssertionError("ping sockets have no protocol of their own")


def ping_unhash(sk: InetSock) -> None:
    table = _table(sk).hash
    slot = table.get(sk.inet_num, [])
    if sk in slot:
        slot.remove(sk)
        if not slot:
            del table[sk.inet_num]
        sk.inet_num = sk.inet_sport = 0
        sock_prot_inuse_add(sk.sk_net, sk.sk_prot, -1)


def ping_lookup(skb: SkBuff, ident: int) -> InetSock | None:
    """The socket that an answer is for."""
    dev = skb.dev
    assert dev is not None
    table: PingTable = dev.net.ipv4.ping
    at = skb.network_header
    daddr = int.from_bytes(skb.head[at + 16 : at + 20], "big")
    for sk in table.hash.get(ident, ()):
        if sk.inet_rcv_saddr in (0, daddr) and sk.sk_bound_dev_if in (0, skb.skb_iif):
            return sk
    return None


# ---- the socket ----------------------------------------------------------------------------------------------------
def ping_init_sock(sk: InetSock) -> None:
    """Raises EACCES if no group of the task is in ping_group_range."""
    low, high = sk.sk_net.ipv4.sysctl["ping_group_range"]
    cred = current().cred
    if not any(low <= gid <= high for gid in (cred.egid, *cred.groups)):
        raise KernelError(EACCES)


def ping_close(sk: InetSock, timeout: int) -> None:
    sk_common_release(sk)


@may_sleep
def ping_bind(sk: InetSock, uaddr: bytes) -> None:
    """Raises EINVAL, EAFNOSUPPORT, EADDRNOTAVAIL, EADDRINUSE."""
    family, addr, snum = read_sockaddr_in(uaddr)
    if family != AF_INET and (family != AF_UNSPEC or addr):
        raise KernelError(EAFNOSUPPORT)
    kind = inet_addr_type(sk.sk_net, addr) if addr else RTN_LOCAL
    if kind != RTN_LOCAL and not sk.freebind:
        raise KernelError(EADDRNOTAVAIL)
    lock_sock(sk)
    try:
        if sk.inet_num:
            raise KernelError(EINVAL)
        sk.inet_rcv_saddr = sk.inet_saddr = addr
        if kind in (RTN_MULTICAST, RTN_BROADCAST):
            sk.inet_saddr = 0
        if ping_get_port(sk, snum):
            sk.inet_saddr = sk.inet_rcv_saddr = 0
            raise KernelError(EADDRINUSE)
        if sk.inet_rcv_saddr:
            sk.sk_userlocks |= SOCK_BINDADDR_LOCK
        if snum:
            sk.sk_userlocks |= SOCK_BINDPORT_LOCK
        sk.inet_sport = sk.inet_num
        sk.inet_daddr = sk.inet_dport = 0
        sk_dst_reset(sk)
    finally:
        release_sock(sk)


# ---- sending -------------------------------------------------------------------------------------------------------
@may_sleep
def ping_v4_sendmsg(sk: InetSock, msg: MsgHdr, length: int) -> int:
    """Sends an echo request. Raises EMSGSIZE, EINVAL, EDESTADDRREQ, EACCES ..."""
    if length > 0xFFFF:
        raise KernelError(EMSGSIZE)
    if length < HEADER:
        raise KernelError(EINVAL)
    if msg.msg_flags & MSG_OOB:
        raise KernelError(EOPNOTSUPP)
    header = msg.msg_iter.copy_from_iter(HEADER)
    if len(header) != HEADER:
        raise KernelError(EFAULT)
    if header[0] != ICMP_ECHO or header[1]:
        raise KernelError(EINVAL)
    daddr = datagram_destination(sk, msg, (AF_INET,))[0]
    ipc, saddr, tos, _ = datagram_cookie(sk, msg, daddr)
    fl4 = Flowi4()
    flowi4_init_output(fl4, ipc.oif, ipc.mark, tos, sk.sk_protocol, inet_sk_flowi_flags(sk), daddr, saddr, 0, 0,
                       sk.sk_uid)
    rt = datagram_route(sk, fl4)
    lock_sock(sk)
    try:
        ip_append_data(sk, fl4, ip_generic_getfrag, msg, length, HEADER, ipc, rt, msg.msg_flags)
        skb = sk.sk_write_queue.q[0]
        skb.ip_summed = CHECKSUM_NONE
        at = skb.transport_header
        skb.head[at : at + HEADER] = header[:2] + b"\0\0" + sk.inet_sport.to_bytes(2, "big") + header[6:]
        data = csum_partial(skb_data(skb, at + HEADER))
        csum = csum_fold(csum_partial(memoryview(skb.head)[at : at + HEADER], data))
        skb.head[at + 2 : at + 4] = csum.to_bytes(2, "big")
        err = ip_push_pending_frames(sk, fl4)
    except KernelError:
        ip_flush_pending_frames(sk)
        raise
    finally:
        release_sock(sk)
    if err:
        raise KernelError(-err)
    return length


@notrace
def skb_data(skb: SkBuff, at: int) -> bytes:
    """What is behind an offset in head, fragments included."""
    return bytes(skb.head[at : skb.tail]) + b"".join(bytes(f) for f in skb.shinfo.frags)


# ---- receiving -----------------------------------------------------------------------------------------------------
@may_sleep
def ping_recvmsg(sk: InetSock, msg: MsgHdr, length: int, flags: int) -> int:
    return datagram_recvmsg(sk, msg, length, flags)


def ping_queue_rcv_skb(sk: InetSock, skb: SkBuff) -> int:
    ipv4_pktinfo_prepare(sk, skb)
    if sock_queue_rcv_skb(sk, skb):
        kfree_skb(skb)
        return -1
    return 0


def ping_rcv(skb: SkBuff) -> bool:
    """An echo reply: for the socket with its identifier. The packet stays the caller's."""
    at = skb.transport_header
    sk = ping_lookup(skb, skb.head[at + 4] << 8 | skb.head[at + 5])
    if sk is None:
        return False
    clone = skb_clone(skb)
    skb_push(clone, clone.data - at)
    ping_queue_rcv_skb(sk, clone)
    return True


def ping_err(skb: SkBuff, offset: int, info: int) -> None:
    """An error about an echo request, whose ICMP header is at `offset` in head."""
    if skb.head[offset] != ICMP_ECHO:
        return
    dev = skb.dev
    assert dev is not None
    table: PingTable = dev.net.ipv4.ping
    ident = skb.head[offset + 4] << 8 | skb.head[offset + 5]
    sk = next(iter(table.hash.get(ident, ())), None)
    if sk is None:
        return
    icmp = skb.transport_header
    kind, code = skb.head[icmp], skb.head[icmp + 1]
    err, harderr = EHOSTUNREACH, False
    if kind == ICMP_SOURCE_QUENCH:
        return
    if kind == ICMP_PARAMETERPROB:
        err, harderr = EPROTO, True
    elif kind == ICMP_DEST_UNREACH:
        if code == ICMP_FRAG_NEEDED:
            ipv4_sk_update_pmtu(skb, sk, info)
            if sk.pmtudisc == IP_PMTUDISC_DONT:
                return
            err, harderr = EMSGSIZE, True
        elif code < len(ICMP_ERR_CONVERT):
            err, harderr = ICMP_ERR_CONVERT[code]
    if not sk.recverr and (not harderr or sk.sk_state != TCP_ESTABLISHED):
        return
    if sk.recverr:
        ip_icmp_error(sk, skb, err, 0, info, offset)
    sk.sk_err = err
    sk.sk_error_report(sk)

