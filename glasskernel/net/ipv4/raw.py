"""Raw sockets: IP packets of a protocol, with or without their header.

Linux: net/ipv4/raw.c (5.3). Same: who may send what (IP_HDRINCL), what the kernel fills in, ICMP_FILTER, which errors
come. Differs: finding sockets is in raw_deliver.py.
Owns: raw_prot's functions.  Gaps: multicast routing's ioctls.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, put_user_u32
from glasskernel.lib.errno import (
    EADDRNOTAVAIL,
    EHOSTUNREACH,
    EINVAL,
    EMSGSIZE,
    ENOBUFS,
    ENOIOCTLCMD,
    ENOPROTOOPT,
    EOPNOTSUPP,
    EPROTO,
    KernelError,
)
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dst import dst_output, dst_release
from glasskernel.net.core.proto import sock_prot_inuse_add
from glasskernel.net.core.sock import lock_sock, release_sock, sk_common_release, sk_dst_reset
from glasskernel.net.core.sock_memory import sock_alloc_send_skb, sock_queue_rcv_skb
from glasskernel.net.ipv4.datagram import datagram_cookie, datagram_destination, datagram_recvmsg, datagram_route
from glasskernel.net.ipv4.fib_lookup import inet_addr_type
from glasskernel.net.ipv4.icmp_convert import ICMP_ERR_CONVERT
from glasskernel.net.ipv4.ip_append import (
    ip_append_data,
    ip_flush_pending_frames,
    ip_generic_getfrag,
    ip_push_pending_frames,
)
from glasskernel.net.ipv4.ip_errqueue import ip_icmp_error, ip_local_error
from glasskernel.net.ipv4.ip_output import ip_select_ident_segs, ip_send_check
from glasskernel.net.ipv4.ip_sockglue import ip_getsockopt, ip_setsockopt
from glasskernel.net.ipv4.ip_sockglue_rcv import ipv4_pktinfo_prepare
from glasskernel.net.ipv4.raw_deliver import RawTable
from glasskernel.net.ipv4.route import (
    flowi4_init_output,
    inet_sk_flowi_flags,
    ipv4_sk_update_pmtu,
)
from glasskernel.net.ipv4.types import (
    FLOWI_FLAG_KNOWN_NH,
    IP_PMTUDISC_DONT,
    RTN_BROADCAST,
    RTN_LOCAL,
    RTN_MULTICAST,
    Flowi4,
    InetSock,
    Rtable,
)
from glasskernel.net.netdevice import ETH_P_IP, NET_XMIT_CN
from glasskernel.net.skbuff import (
    SkBuff,
    kfree_skb,
    skb_dst_set,
    skb_push,
    skb_put_data,
    skb_reserve,
)
from glasskernel.net.snmp import icmp_out_count
from glasskernel.net.types import (
    AF_INET,
    AF_UNSPEC,
    IPPROTO_ICMP,
    IPPROTO_RAW,
    MSG_DONTWAIT,
    MSG_MORE,
    MSG_OOB,
    SOL_RAW,
    TCP_CLOSE,
    TCP_ESTABLISHED,
)

if TYPE_CHECKING:
    from glasskernel.net.types import MsgHdr

ICMP_FILTER = 1
SIOCINQ, SIOCOUTQ = 0x541B, 0x5411
ICMP_DEST_UNREACH, ICMP_SOURCE_QUENCH, ICMP_TIME_EXCEEDED, ICMP_PARAMETERPROB, ICMP_FRAG_NEEDED = 3, 4, 11, 12, 4


@slotted
class RawSock(InetSock):
    """struct raw_sock. filter: types of ICMP that it does not want, as bits."""

    filter: int = 0


@notrace
def raw_table_init() -> RawTable:
    """raw_v4_hashinfo of a namespace."""
    return RawTable(raw_rcv, raw_err, icmp_filter)  # type: ignore[arg-type]


@notrace
def _table(sk: InetSock) -> RawTable:
    table: RawTable = sk.sk_net.ipv4.raw
    return table


def raw_hash_sk(sk: RawSock) -> None:
    _table(sk).ht.setdefault(sk.inet_num, []).insert(0, sk)
    sock_prot_inuse_add(sk.sk_net, sk.sk_prot, 1)


def raw_unhash_sk(sk: RawSock) -> None:
    table = _table(sk).ht
    slot = table.get(sk.inet_num, [])
    if sk in slot:
        slot.remove(sk)
        if not slot:
            del table[sk.inet_num]
        sock_prot_inuse_add(sk.sk_net, sk.sk_prot, -1)


def raw_sk_init(sk: RawSock) -> None:
    sk.filter = 0


def raw_close(sk: RawSock, timeout: int) -> None:
    sk_common_release(sk)


def raw_destroy(sk: RawSock) -> None:
    lock_sock(sk)
    ip_flush_pending_frames(sk)
    release_sock(sk)


@may_sleep
def raw_bind(sk: RawSock, uaddr: bytes) -> None:
    """Only packets to this address. Raises EINVAL, EADDRNOTAVAIL."""
    lock_sock(sk)
    try:
        if sk.sk_state != TCP_CLOSE or len(uaddr) < 16:
            raise KernelError(EINVAL)
        addr = int.from_bytes(uaddr[4:8], "big")
        kind = inet_addr_type(sk.sk_net, addr)
        if addr and kind not in (RTN_LOCAL, RTN_MULTICAST, RTN_BROADCAST) and not sk.freebind:
            raise KernelError(EADDRNOTAVAIL)
        sk.inet_rcv_saddr = sk.inet_saddr = addr
        if kind in (RTN_MULTICAST, RTN_BROADCAST):
            sk.inet_saddr = 0
        sk_dst_reset(sk)
    finally:
        release_sock(sk)


# ---- receiving -----------------------------------------------------------------------------------------------------
def icmp_filter(sk: InetSock, skb: SkBuff) -> bool:
    """True: the socket does not want this type of ICMP."""
    if sk.inet_num != IPPROTO_ICMP or not isinstance(sk, RawSock) or not skb.len:
        return False
    kind = skb.head[skb.data]
    return kind < 32 and bool(sk.filter & 1 << kind)


def raw_rcv(sk: RawSock, skb: SkBuff) -> int:
    """A copy for the socket, from the IP header on."""
    skb_push(skb, skb.data - skb.network_header)
    return raw_rcv_skb(sk, skb)


@notrace
def raw_rcv_skb(sk: RawSock, skb: SkBuff) -> int:
    ipv4_pktinfo_prepare(sk, skb)
    if sock_queue_rcv_skb(sk, skb):
        kfree_skb(skb)
        return -1
    return 0


@may_sleep
def raw_recvmsg(sk: RawSock, msg: MsgHdr, length: int, flags: int) -> int:
    return datagram_recvmsg(sk, msg, length, flags)


def raw_err(sk: RawSock, skb: SkBuff, info: int) -> None:
    """An ICMP error; skb.data is at the IP header that came back."""
    icmp = skb.transport_header
    kind, code = skb.head[icmp], skb.head[icmp + 1]
    if not sk.recverr and sk.sk_state != TCP_ESTABLISHED:
        return
    err, harderr = EHOSTUNREACH, False
    if kind == ICMP_SOURCE_QUENCH:
        return
    if kind == ICMP_PARAMETERPROB:
        err, harderr = EPROTO, True
    elif kind == ICMP_DEST_UNREACH:
        if code < len(ICMP_ERR_CONVERT):
            err, harderr = ICMP_ERR_CONVERT[code]
        if code == ICMP_FRAG_NEEDED:
            ipv4_sk_update_pmtu(skb, sk, info)
            harderr = sk.pmtudisc != IP_PMTUDISC_DONT
            err = EMSGSIZE
    if sk.recverr:
        at = skb.data
        ip_icmp_error(sk, skb, err, 0, info, at if sk.hdrincl else at + (skb.head[at] & 0xF) * 4)
    if sk.recverr or harderr:
        sk.sk_err = err
        sk.sk_error_report(sk)


# ---- sending -------------------------------------------------------------------------------------------------------
@may_sleep
def raw_sendmsg(sk: RawSock, msg: MsgHdr, length: int) -> int:
    """Raises EMSGSIZE, EOPNOTSUPP, EINVAL, EAFNOSUPPORT, EDESTADDRREQ, EACCES ..."""
    if length > 0xFFFF:
        raise KernelError(EMSGSIZE)
    if msg.msg_flags & MSG_OOB:
        raise KernelError(EOPNOTSUPP)
    hdrincl = sk.hdrincl
    daddr = datagram_destination(sk, msg, (AF_INET, AF_UNSPEC))[0]
    ipc, saddr, tos, _ = datagram_cookie(sk, msg, daddr)
    if hdrincl:
        ipc.opt = b""
    fl4 = Flowi4()
    flags = inet_sk_flowi_flags(sk) | (FLOWI_FLAG_KNOWN_NH if hdrincl else 0)
    protocol = IPPROTO_RAW if hdrincl else sk.sk_protocol
    flowi4_init_output(fl4, ipc.oif, ipc.mark, tos, protocol, flags, daddr, saddr, 0, 0, sk.sk_uid)
    rt = datagram_route(sk, fl4)
    if hdrincl:
        err = raw_send_hdrinc(sk, fl4, msg, length, rt, msg.msg_flags)
    else:
        ipc.addr = ipc.addr or fl4.daddr
        lock_sock(sk)
        try:
            ip_append_data(sk, fl4, ip_generic_getfrag, msg, length, 0, ipc, rt, msg.msg_flags)
            err = 0 if msg.msg_flags & MSG_MORE else ip_push_pending_frames(sk, fl4)
        except KernelError:
            ip_flush_pending_frames(sk)
            raise
        finally:
            release_sock(sk)
    if err and not (err == -ENOBUFS and not sk.recverr):
        raise KernelError(-err)
    return length


@may_sleep
def raw_send_hdrinc(sk: RawSock, fl4: Flowi4, msg: MsgHdr, length: int, rt: Rtable, flags: int) -> int:
    """The user wrote the IP header; total length and checksum are ours, an address and a number that he left out too.

    Takes over the reference to the route. 0 or a negative errno.
    """
    net = sk.sk_net
    try:
        if length > rt.dev.mtu:
            ip_local_error(sk, EMSGSIZE, fl4.daddr, sk.inet_dport, rt.dev.mtu)
            raise KernelError(EMSGSIZE)
        if length < 20:
            raise KernelError(EINVAL)
        room = rt.dev.hard_header_len + 16
        skb = sock_alloc_send_skb(sk, room + length, flags & MSG_DONTWAIT)
        skb_reserve(skb, room)
        data = msg.msg_iter.copy_from_iter(length)
        if len(data) != length or (data[0] & 0xF) * 4 > length:
            kfree_skb(skb)
            raise KernelError(EINVAL)
    except KernelError:
        dst_release(rt)
        raise
    skb.protocol = ETH_P_IP
    skb.priority, skb.mark = sk.sk_priority, sk.sk_mark
    skb_dst_set(skb, rt)
    skb.network_header = skb.data
    skb_put_data(skb, data)
    head, at = skb.head, skb.network_header
    ihl = (data[0] & 0xF) * 4
    skb.transport_header = at + ihl
    if ihl >= 20:
        if not any(data[12:16]):
            head[at + 12 : at + 16] = fl4.saddr.to_bytes(4, "big")
        head[at + 2 : at + 4] = length.to_bytes(2, "big")
        if not any(data[4:6]):
            ident = ip_select_ident_segs(net, None, fl4.saddr, fl4.daddr, data[9], 0, False, 1)
            head[at + 4 : at + 6] = ident.to_bytes(2, "big")
        ip_send_check(skb)
        if data[9] == IPPROTO_ICMP and length > ihl:
            icmp_out_count(net, data[ihl])
    err = dst_output(net, sk, skb)
    return 0 if err == NET_XMIT_CN else -ENOBUFS if err > 0 else err


# ---- options -------------------------------------------------------------------------------------------------------
def raw_setsockopt(sk: RawSock, level: int, optname: int, optval: int, optlen: int) -> None:
    if level != SOL_RAW:
        ip_setsockopt(sk, level, optname, optval, optlen)
        return
    if optname != ICMP_FILTER:
        raise KernelError(ENOPROTOOPT)
    if sk.inet_num != IPPROTO_ICMP:
        raise KernelError(EOPNOTSUPP)
    raw = copy_from_user(optval, min(max(optlen, 0), 4))
    sk.filter = int.from_bytes(raw, "little")


def raw_getsockopt(sk: RawSock, level: int, optname: int, optval: int, optlen: int) -> None:
    if level != SOL_RAW:
        ip_getsockopt(sk, level, optname, optval, optlen)
        return
    if optname != ICMP_FILTER:
        raise KernelError(ENOPROTOOPT)
    if sk.inet_num != IPPROTO_ICMP:
        raise KernelError(EOPNOTSUPP)
    length = int.from_bytes(copy_from_user(optlen, 4), "little", signed=True)
    if length < 0:
        raise KernelError(EINVAL)
    length = min(length, 4)
    put_user_u32(optlen, length)
    copy_to_user(optval, sk.filter.to_bytes(4, "little")[:length])


def raw_ioctl(sk: RawSock, cmd: int, arg: int) -> int:
    """SIOCINQ, SIOCOUTQ. Raises ENOIOCTLCMD, EFAULT."""
    if cmd == SIOCOUTQ:
        amount = sk.sk_wmem_alloc
    elif cmd == SIOCINQ:
        queue = sk.sk_receive_queue.q
        amount = queue[0].len if queue else 0
    else:
        raise KernelError(ENOIOCTLCMD)
    put_user_u32(arg, amount)
    return 0
