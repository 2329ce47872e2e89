"""Errors that ICMP tells a socket of, and control messages of received packets.

Linux: net/ipv4/ip_sockglue.c: ip_icmp_error, ip_recv_error, ip_cmsg_recv; net/core/skbuff.c: sock_queue_err_skb (5.3).
Same: what IP_RECVERR's messages say, and IP_PKTINFO, IP_RECVTTL ... Differs: a file of its own, below ip_sockglue.py.
Owns: sk_error_queue.  Gaps: time stamps of what was sent, IP_PASSSEC, IP_RECVFRAGSIZE.
"""
from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from glasskernel.lib.errno import EAGAIN, EINVAL, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace
from glasskernel.net.ipv4.types import InetSkbParm, InetSock
from glasskernel.net.scm import put_cmsg, sock_recv_timestamp
from glasskernel.net.skbuff import (
    SkBuff,
    alloc_skb,
    consume_skb,
    kfree_skb,
    skb_clone,
    skb_copy_datagram_iter,
    skb_dequeue,
    skb_orphan,
    skb_queue_tail,
)
from glasskernel.net.types import AF_INET, MSG_ERRQUEUE, MSG_TRUNC, SOCK_DEAD, SOL_IP

if TYPE_CHECKING:
    from glasskernel.net.types import MsgHdr, Sock

SO_EE_ORIGIN_LOCAL, SO_EE_ORIGIN_ICMP = 1, 2
SOCKADDR_IN = Struct("<H2s4s8x")
SOCK_EXTENDED_ERR = Struct("<IBBBBII")   # errno, origin, type, code, pad, info, data
IP_TOS, IP_TTL, IP_RECVOPTS, IP_RETOPTS, IP_PKTINFO, IP_RECVERR = 1, 2, 6, 7, 8, 11
IP_ORIGDSTADDR = 20
IP_CMSG_PKTINFO, IP_CMSG_TTL, IP_CMSG_TOS, IP_CMSG_RECVOPTS, IP_CMSG_RETOPTS = 1, 2, 4, 8, 16
IP_CMSG_ORIGDSTADDR = 64


@notrace
def sockaddr_in(addr: int, port: int) -> bytes:
    """struct sockaddr_in of host-order numbers."""
    return SOCKADDR_IN.pack(AF_INET, port.to_bytes(2, "big"), addr.to_bytes(4, "big"))


@notrace
def read_sockaddr_in(uaddr: bytes) -> tuple[int, int, int]:
    """A user's struct sockaddr_in: (family, address, port), in host order. Raises EINVAL if it is too short."""
    if len(uaddr) < SOCKADDR_IN.size:
        raise KernelError(EINVAL)
    family, port, address = SOCKADDR_IN.unpack_from(uaddr)
    return family, int.from_bytes(address, "big"), int.from_bytes(port, "big")


@slotted
class SockExterrSkb:
    """struct sock_exterr_skb (SKB_EXT_ERR): skb.cb in the error queue. addr: where the packet was going; offender: who
    complained (0: nobody). parm: of the packet that told us."""

    ee_errno: int
    ee_origin: int
    ee_type: int
    ee_code: int
    ee_info: int
    addr: int
    port: int
    offender: int
    parm: InetSkbParm | None = None


# ---- the error queue ----------------------------------------------------------------------------------------------
def sock_rmem_free(skb: SkBuff) -> None:
    sk = skb.sk
    assert sk is not None
    sk.sk_rmem_alloc -= skb.truesize


def sock_queue_err_skb(sk: Sock, skb: SkBuff) -> bool:
    """False: no more room. Context: any."""
    if sk.sk_rmem_alloc + skb.truesize >= sk.sk_rcvbuf:
        return False
    skb_orphan(skb)
    skb.sk = sk
    skb.destructor = sock_rmem_free
    sk.sk_rmem_alloc += skb.truesize
    skb_queue_tail(sk.sk_error_queue, skb)
    if not sk.sk_flags & SOCK_DEAD:
        sk.sk_error_report(sk)
    return True


def sock_dequeue_err_skb(sk: Sock) -> SkBuff | None:
    """The oldest error; sk_err becomes that of the next one."""
    skb = skb_dequeue(sk.sk_error_queue)
    if skb is not None:
        following = sk.sk_error_queue.q[0] if sk.sk_error_queue.q else None
        is_icmp = skb.cb.ee_origin == SO_EE_ORIGIN_ICMP
        if following is not None and following.cb.ee_origin == SO_EE_ORIGIN_ICMP:
            sk.sk_err = following.cb.ee_errno
            sk.sk_error_report(sk)
        elif is_icmp:
            sk.sk_err = 0
    return skb


def ip_icmp_error(sk: InetSock, skb: SkBuff, err: int, port: int, info: int, payload: int) -> None:
    """An ICMP error for a packet of ours; skb is at the IP header that came back; its data is at `payload` in head."""
    clone = skb_clone(skb)
    at = clone.data
    icmp = clone.transport_header
    clone.cb = SockExterrSkb(err, SO_EE_ORIGIN_ICMP, clone.head[icmp], clone.head[icmp + 1], info,
                             int.from_bytes(clone.head[at + 16 : at + 20], "big"), port,
                             int.from_bytes(clone.head[clone.network_header + 12 : clone.network_header + 16], "big"),
                             skb.cb if isinstance(skb.cb, InetSkbParm) else None)
    skip = payload - clone.data
    if skip <= clone.len - clone.data_len:
        clone.data += skip
        clone.len -= skip
        clone.transport_header = clone.data
        if sock_queue_err_skb(sk, clone):
            return
    kfree_skb(clone)


def ip_local_error(sk: InetSock, err: int, daddr: int, port: int, info: int) -> None:
    """We ourselves refuse a packet (EMSGSIZE), as IP_RECVERR shows."""
    if not sk.recverr:
        return
    skb = alloc_skb(20)
    skb.network_header = skb.transport_header = skb.data
    skb.cb = SockExterrSkb(err, SO_EE_ORIGIN_LOCAL, 0, 0, info, daddr, port, 0)
    if not sock_queue_err_skb(sk, skb):
        kfree_skb(skb)


def ip_recv_error(sk: InetSock, msg: MsgHdr, length: int) -> int:
    """recvmsg(MSG_ERRQUEUE). Raises EAGAIN."""
    skb = sock_dequeue_err_skb(sk)
    if skb is None:
        raise KernelError(EAGAIN)
    copied = skb.len
    if copied > length:
        msg.msg_flags |= MSG_TRUNC
        copied = length
    try:
        skb_copy_datagram_iter(skb, 0, msg.msg_iter, copied)
        sock_recv_timestamp(msg, sk, skb)
        serr: SockExterrSkb = skb.cb
        msg.msg_name = sockaddr_in(serr.addr, serr.port)
        offender = bytes(16)
        if serr.ee_origin == SO_EE_ORIGIN_ICMP:
            offender = sockaddr_in(serr.offender, 0)
            if sk.cmsg_flags and serr.parm is not None:
                ip_cmsg_recv(msg, sk, skb, serr.parm)
        put_cmsg(msg, SOL_IP, IP_RECVERR, SOCK_EXTENDED_ERR.pack(serr.ee_errno, serr.ee_origin, serr.ee_type,
                                                                 serr.ee_code, 0, serr.ee_info, 0) + offender)
        msg.msg_flags |= MSG_ERRQUEUE
    finally:
        consume_skb(skb)
    return copied


# ---- control messages ---------------------------------------------------------------------------------------------
def ip_cmsg_recv(msg: MsgHdr, sk: InetSock, skb: SkBuff, parm: InetSkbParm) -> None:
    ip_cmsg_recv_offset(msg, sk, skb, parm, 0, 0)


def ip_cmsg_recv_offset(msg: MsgHdr, sk: InetSock, skb: SkBuff, parm: InetSkbParm, tlen: int, offset: int) -> None:
    """What the socket asked to know about a packet."""
    flags, at = sk.cmsg_flags, skb.network_header
    head = skb.head
    if flags & IP_CMSG_PKTINFO:
        ip_cmsg_recv_pktinfo(msg, skb, parm)
    if flags & IP_CMSG_TTL:
        put_cmsg(msg, SOL_IP, IP_TTL, int(head[at + 8]).to_bytes(4, "little"))
    if flags & IP_CMSG_TOS:
        put_cmsg(msg, SOL_IP, IP_TOS, bytes(head[at + 1 : at + 2]))
    if flags & IP_CMSG_RECVOPTS and parm.opt:
        put_cmsg(msg, SOL_IP, IP_RECVOPTS, parm.opt)
    if flags & IP_CMSG_RETOPTS and parm.opt:
        put_cmsg(msg, SOL_IP, IP_RETOPTS, parm.opt)
    if flags & IP_CMSG_ORIGDSTADDR:
        th = skb.transport_header
        put_cmsg(msg, SOL_IP, IP_ORIGDSTADDR, sockaddr_in(int.from_bytes(head[at + 16 : at + 20], "big"),
                                                          head[th + 2] << 8 | head[th + 3]))


def ip_cmsg_recv_pktinfo(msg: MsgHdr, skb: SkBuff, parm: InetSkbParm) -> None:
    """struct in_pktinfo: where it came in, the address of ours that it reached, and the one in its header."""
    at = skb.network_header
    put_cmsg(msg, SOL_IP, IP_PKTINFO, parm.iif.to_bytes(4, "little") + parm.spec_dst.to_bytes(4, "big")
             + bytes(skb.head[at + 16 : at + 20]))

