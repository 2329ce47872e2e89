"""UDP: sockets that send and receive datagrams.

Linux: net/ipv4/udp.c (5.3). Same: the call order from sendto() to the device, corking, which errors come when, peeking,
truncation, checksums. Differs: what arrives is in udp_input.py, ports in udp_table.py.
Owns: udp_prot.  Gaps: UDP_SEGMENT, UDP_GRO, encapsulation (UDP_ENCAP).
Locks: the socket's owner while a packet is being collected.
"""
from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, put_user_u32
from glasskernel.fs.types import POLLIN, POLLRDNORM
from glasskernel.lib.checksum import csum_fold, csum_partial, csum_tcpudp_nofold
from glasskernel.lib.errno import (
    EAGAIN,
    EINVAL,
    EMSGSIZE,
    ENETUNREACH,
    ENOBUFS,
    ENOIOCTLCMD,
    ENOPROTOOPT,
    EOPNOTSUPP,
    KernelError,
)
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.datagram import (
    __skb_try_recv_from_queue,
    __skb_wait_for_more_packets,
    datagram_poll,
    sk_peek_offset,
    sk_peek_offset_bwd,
    sk_peek_offset_fwd,
    skb_copy_and_csum_datagram_msg,
)
from glasskernel.net.core.dst import dst_release
from glasskernel.net.core.sock import (
    lock_sock,
    lock_sock_fast,
    release_sock,
    sk_common_release,
    sock_error,
    sock_rcvtimeo,
    unlock_sock_fast,
)
from glasskernel.net.core.sock_dst import sk_dst_check, sk_dst_set
from glasskernel.net.ipv4.datagram import datagram_cookie, datagram_destination, datagram_route
from glasskernel.net.ipv4.inet_sock import inet_sock_destruct
from glasskernel.net.ipv4.ip_append import (
    IpcmCookie,
    ip_append_data,
    ip_finish_skb,
    ip_flush_pending_frames,
    ip_generic_getfrag,
    ip_make_skb,
)
from glasskernel.net.ipv4.ip_errqueue import ip_cmsg_recv_offset, ip_recv_error, sockaddr_in
from glasskernel.net.ipv4.ip_output import ip_send_skb
from glasskernel.net.ipv4.ip_sockglue import ip_getsockopt, ip_setsockopt
from glasskernel.net.ipv4.route import flowi4_init_output, inet_sk_flowi_flags
from glasskernel.net.ipv4.types import Flowi4, InetCork, InetSkbParm, Rtable
from glasskernel.net.ipv4.udp_input import udp_lib_checksum_complete, udp_rmem_release
from glasskernel.net.ipv4.udp_table import UdpSock
from glasskernel.net.scm import sock_recv_ts_and_drops
from glasskernel.net.skbuff import (
    CHECKSUM_NONE,
    CHECKSUM_PARTIAL,
    SkBuff,
    __consume_stateless_skb,
    kfree_skb,
    skb_copy_datagram_iter,
    skb_unlink,
)
from glasskernel.net.types import (
    AF_INET,
    AF_UNSPEC,
    IPPROTO_UDP,
    MSG_CONFIRM,
    MSG_DONTWAIT,
    MSG_ERRQUEUE,
    MSG_MORE,
    MSG_OOB,
    MSG_PEEK,
    MSG_PROBE,
    MSG_TRUNC,
    RCV_SHUTDOWN,
    SOL_UDP,
    SOL_UDPLITE,
)
from glasskernel.net.udplite import (
    UDPLITE_RECV_CC,
    UDPLITE_RECV_CSCOV,
    UDPLITE_SEND_CC,
    UDPLITE_SEND_CSCOV,
    udplite_csum,
    udplite_getfrag,
    udplite_partial_cov,
)

if TYPE_CHECKING:
    from glasskernel.fs.types import File, PollTable
    from glasskernel.net.types import MsgHdr, Socket

UDP_CORK, UDP_ENCAP, UDP_SEGMENT, UDP_GRO = 1, 100, 103, 104
SIOCINQ, SIOCOUTQ = 0x541B, 0x5411
UDP_HEADER = 8


def udp_init_sock(sk: UdpSock) -> None:
    sk.sk_destruct = udp_destruct_sock   # type: ignore[assignment]
    sk.udp_table = sk.sk_net.ipv4.udp
    sk.mib = sk.sk_net.mib.udp


# ---- sending -------------------------------------------------------------------------------------------------------
@may_sleep
def udp_sendmsg(sk: UdpSock, msg: MsgHdr, length: int) -> int:
    """Sends a datagram, or adds to the one that is being collected. Raises EMSGSIZE, EDESTADDRREQ, EINVAL ..."""
    if length > 0xFFFF:
        raise KernelError(EMSGSIZE)
    if msg.msg_flags & MSG_OOB:
        raise KernelError(EOPNOTSUPP)
    corkreq = sk.corkflag or bool(msg.msg_flags & MSG_MORE)
    if sk.pending:
        lock_sock(sk)
        if sk.pending:
            if sk.pending != AF_INET:
                release_sock(sk)
                raise KernelError(EINVAL)
            assert sk.cork is not None and sk.cork.fl4 is not None
            return _append(sk, msg, length, IpcmCookie(), None, sk.cork.fl4, corkreq)
        release_sock(sk)
    daddr, dport, connected = datagram_destination(sk, msg, (AF_INET, AF_UNSPEC))
    if not dport:
        raise KernelError(EINVAL)
    ipc, saddr, tos, usual = datagram_cookie(sk, msg, daddr)
    connected = connected and usual
    rt: Rtable | None = None
    if connected:
        rt = sk_dst_check(sk, 0)         # type: ignore[assignment]
    fl4 = Flowi4()
    if rt is None:
        flowi4_init_output(fl4, ipc.oif, ipc.mark, tos, sk.sk_protocol, inet_sk_flowi_flags(sk), daddr, saddr, dport,
                           sk.inet_sport, sk.sk_uid)
        try:
            rt = datagram_route(sk, fl4)
        except KernelError as e:
            if e.errno == ENETUNREACH:
                sk.sk_net.mib.ip["OutNoRoutes"] += 1
            raise
        if connected:
            rt.hold()
            sk_dst_set(sk, rt)
        saddr = fl4.saddr
        daddr = ipc.addr = ipc.addr or fl4.daddr
    if msg.msg_flags & MSG_CONFIRM:
        rt.ops.confirm_neigh(rt, fl4.daddr or daddr)
        if msg.msg_flags & MSG_PROBE and not length:
            dst_release(rt)
            return 0
    fl4.daddr, fl4.saddr, fl4.fl4_dport, fl4.fl4_sport = daddr, saddr or sk.inet_saddr, dport, sk.inet_sport
    if not corkreq:
        getfrag = udplite_getfrag if sk.pcflag else ip_generic_getfrag
        skb = ip_make_skb(sk, fl4, getfrag, msg, length + UDP_HEADER, UDP_HEADER, ipc, rt, InetCork(), deque(),
                          msg.msg_flags)
        dst_release(None)                # the packet has the route's reference now
        if skb is not None:
            _report(sk, udp_send_skb(skb, fl4))
        return length
    lock_sock(sk)
    if sk.pending:                       # somebody else began one meanwhile
        release_sock(sk)
        dst_release(rt)
        raise KernelError(EINVAL)
    sk.pending = AF_INET
    return _append(sk, msg, length, ipc, rt, fl4, corkreq)


@may_sleep
def _append(sk: UdpSock, msg: MsgHdr, length: int, ipc: IpcmCookie, rt: Rtable | None, fl4: Flowi4,
            corkreq: bool) -> int:
    """do_append_data: collects; sends when nothing more is to come. Locks: sk is owned; drops it."""
    err = 0
    getfrag = udplite_getfrag if sk.pcflag else ip_generic_getfrag
    try:
        sk.len += length + (UDP_HEADER if rt is not None else 0)
        try:
            if rt is not None:
                ip_append_data(sk, fl4, getfrag, msg, length + UDP_HEADER, UDP_HEADER, ipc, rt,
                               msg.msg_flags | MSG_MORE if corkreq else msg.msg_flags)
                assert sk.cork is not None
                sk.cork.fl4 = fl4
            else:
                ip_append_data(sk, fl4, getfrag, msg, length, 0, ipc, None, msg.msg_flags)
        except KernelError:
            if sk.pending:
                udp_flush_pending_frames(sk)
            raise
        if not corkreq:
            err = udp_push_pending_frames(sk)
        elif not sk.sk_write_queue.q:
            sk.pending = 0
    finally:
        release_sock(sk)
    _report(sk, err)
    return length


@notrace
def _report(sk: UdpSock, err: int) -> None:
    """Raises what sending answered; a full queue is told only to who asked for errors."""
    if err:
        if err == -ENOBUFS or (sk.sk_socket is not None and err == -EAGAIN):
            sk.mib["SndbufErrors"] += 1
        raise KernelError(-err)


def udp_send_skb(skb: SkBuff, fl4: Flowi4) -> int:
    """Fills in the UDP header. 0 or a negative errno."""
    sk = skb.sk
    assert isinstance(sk, UdpSock)
    at = skb.transport_header
    length = skb.len - (at - skb.data)
    head = skb.head
    head[at : at + 8] = (fl4.fl4_sport << 48 | fl4.fl4_dport << 32 | length << 16).to_bytes(8, "big")
    if sk.sk_no_check_tx and not sk.pcflag:
        skb.ip_summed = CHECKSUM_NONE
    elif not sk.pcflag and skb.ip_summed == CHECKSUM_PARTIAL:
        udp4_hwcsum(skb, fl4.saddr, fl4.daddr)
    else:
        csum = udplite_csum(sk, skb) if sk.pcflag else csum_partial(memoryview(head)[at : at + 8], skb.csum)
        folded = csum_fold(csum_tcpudp_nofold(fl4.saddr, fl4.daddr, length, sk.sk_protocol, csum)) or 0xFFFF
        head[at + 6 : at + 8] = folded.to_bytes(2, "big")
    mib = sk.mib
    err = ip_send_skb(sk.sk_net, skb)
    if err == -ENOBUFS and not sk.recverr:
        mib["SndbufErrors"] += 1
        err = 0
    if not err:
        mib["OutDatagrams"] += 1
    return err


def udp4_hwcsum(skb: SkBuff, src: int, dst: int) -> None:
    """The device sums up; the pseudo header stands in for the sum."""
    at = skb.transport_header
    length = skb.len - (at - skb.data)
    skb.csum_start = at
    skb.csum_offset = 6
    folded = ~csum_fold(csum_tcpudp_nofold(src, dst, length, IPPROTO_UDP, 0)) & 0xFFFF
    skb.head[at + 6 : at + 8] = folded.to_bytes(2, "big")


def udp_push_pending_frames(sk: UdpSock) -> int:
    """Sends what was collected."""
    assert sk.cork is not None
    fl4 = sk.cork.fl4
    sk.len = sk.pending = 0
    skb = ip_finish_skb(sk, fl4) if fl4 is not None else None
    return udp_send_skb(skb, fl4) if skb is not None and fl4 is not None else 0


def udp_flush_pending_frames(sk: UdpSock) -> None:
    """Forgets it."""
    sk.len = sk.pending = 0
    ip_flush_pending_frames(sk)


# ---- receiving -----------------------------------------------------------------------------------------------------
@may_sleep
def __skb_recv_udp(sk: UdpSock, flags: int, noblock: int, off: int) -> tuple[SkBuff | None, int]:
    """The next datagram, and where in it to begin; None: shut down while waiting.

    Raises EAGAIN, the socket's error, EINTR, Restart.
    """
    timeo = sock_rcvtimeo(sk, noblock | flags & MSG_DONTWAIT)
    queue = sk.sk_receive_queue
    while True:
        if sk.sk_err:
            raise KernelError(sock_error(sk))
        skb, skip = __skb_try_recv_from_queue(queue, flags, off)
        if skb is not None:
            if not flags & MSG_PEEK:
                udp_rmem_release(sk, skb.truesize, 1)
            return skb, skip
        if not timeo:
            raise KernelError(EAGAIN)
        timeo = __skb_wait_for_more_packets(sk, timeo, queue.q[-1] if queue.q else None)
        if timeo < 0:
            return None, 0


@may_sleep
def udp_recvmsg(sk: UdpSock, msg: MsgHdr, length: int, flags: int) -> int:
    """Takes a datagram; what does not fit is lost. A wrong checksum is found out here, and the next one taken."""
    if flags & MSG_ERRQUEUE:
        return ip_recv_error(sk, msg, length)
    noblock = flags & MSG_DONTWAIT
    while True:
        off = sk_peek_offset(sk, flags)
        skb, off = __skb_recv_udp(sk, flags, noblock, off)
        if skb is None:
            return 0
        ulen = skb.len
        copied = min(length, ulen - off)
        if copied < ulen - off:
            msg.msg_flags |= MSG_TRUNC
        peeking = flags & MSG_PEEK
        mib = sk.mib
        if copied < ulen or peeking or skb.data_len or (sk.pcflag and udplite_partial_cov(skb)):
            if _checksum_wrong(skb):
                _csum_copy_err(sk, skb, flags)
                noblock = flags & MSG_DONTWAIT
                msg.msg_flags &= ~MSG_TRUNC
                continue
        try:
            if skb.ip_summed == CHECKSUM_NONE and not copied < ulen:
                try:
                    skb_copy_and_csum_datagram_msg(skb, off, msg)
                except KernelError as e:
                    if e.errno != EINVAL:
                        raise
                    _csum_copy_err(sk, skb, flags)
                    msg.msg_flags &= ~MSG_TRUNC
                    continue
            else:
                skb_copy_datagram_iter(skb, off, msg.msg_iter, copied)
        except KernelError:
            if not peeking:
                sk.sk_drops += 1
                mib["InErrors"] += 1
            kfree_skb(skb)
            raise
        if not peeking:
            mib["InDatagrams"] += 1
        sock_recv_ts_and_drops(msg, sk, skb)
        at = skb.transport_header
        ip = skb.network_header
        msg.msg_name = sockaddr_in(int.from_bytes(skb.head[ip + 12 : ip + 16], "big"),
                                   skb.head[at] << 8 | skb.head[at + 1])
        if sk.cmsg_flags:
            parm: InetSkbParm = skb.cb
            ip_cmsg_recv_offset(msg, sk, skb, parm, UDP_HEADER, off)
        skb_consume_udp(sk, skb, -copied if peeking else copied)
        return ulen - off if flags & MSG_TRUNC else copied


@notrace
def _checksum_wrong(skb: SkBuff) -> bool:
    return skb.ip_summed == CHECKSUM_NONE and udp_lib_checksum_complete(skb)


@notrace
def _csum_copy_err(sk: UdpSock, skb: SkBuff, flags: int) -> None:
    """A damaged datagram was in the queue: it is thrown away, and not even peeked at."""
    if flags & MSG_PEEK and skb in sk.sk_receive_queue.q:
        skb_unlink(skb, sk.sk_receive_queue)
        udp_rmem_release(sk, skb.truesize, 0)
        skb.users -= 1
    sk.sk_drops += 1
    mib = sk.mib
    mib["InCsumErrors"] += 1
    mib["InErrors"] += 1
    kfree_skb(skb)


def skb_consume_udp(sk: UdpSock, skb: SkBuff, length: int) -> None:
    """Ends receiving: `length` bytes were taken, or (negative) peeked at."""
    if sk.sk_peek_off >= 0:
        if length < 0:
            sk_peek_offset_fwd(sk, -length)
        else:
            sk_peek_offset_bwd(sk, skb.len)
    if skb.users == 1:
        __consume_stateless_skb(skb)
    else:
        skb.users -= 1


def udp_poll(file: File, sock: Socket, wait: PollTable) -> int:
    """datagram_poll(); a datagram with a wrong checksum is none."""
    mask = datagram_poll(file, sock, wait)
    sk = sock.sk
    assert isinstance(sk, UdpSock)
    if mask & POLLRDNORM and not sk.sk_shutdown & RCV_SHUTDOWN and first_packet_length(sk) == -1:
        mask &= ~(POLLIN | POLLRDNORM)
    return mask


def first_packet_length(sk: UdpSock) -> int:
    """How long the next datagram is; damaged ones are thrown away. -1: there is none."""
    queue = sk.sk_receive_queue
    while queue.q:
        skb = queue.q[0]
        if not _checksum_wrong(skb):
            return skb.len
        mib = sk.mib
        mib["InCsumErrors"] += 1
        mib["InErrors"] += 1
        sk.sk_drops += 1
        skb_unlink(skb, queue)
        udp_rmem_release(sk, skb.truesize, 0)
        kfree_skb(skb)
    return -1


def udp_ioctl(sk: UdpSock, cmd: int, arg: int) -> int:
    """SIOCINQ: the next datagram's length; SIOCOUTQ: bytes that were not sent yet. Raises ENOIOCTLCMD, EFAULT."""
    if cmd == SIOCOUTQ:
        amount = sk.sk_wmem_alloc
    elif cmd == SIOCINQ:
        amount = max(0, first_packet_length(sk))
    else:
        raise KernelError(ENOIOCTLCMD)
    put_user_u32(arg, amount)
    return 0


# ---- connecting and closing ----------------------------------------------------------------------------------------
def udp_destroy_sock(sk: UdpSock) -> None:
    slow = lock_sock_fast(sk)
    if sk.pending:
        udp_flush_pending_frames(sk)
    unlock_sock_fast(sk, slow)


def udp_destruct_sock(sk: UdpSock) -> None:
    """Nobody can see the socket any more: the memory of what was never read goes back."""
    udp_destruct_common(sk)
    inet_sock_destruct(sk)


def udp_destruct_common(sk: UdpSock) -> None:
    total = 0
    while sk.sk_receive_queue.q:
        skb = sk.sk_receive_queue.q.popleft()
        total += skb.truesize
        kfree_skb(skb)
    udp_rmem_release(sk, total, 0)


@notrace
def udp_lib_close(sk: UdpSock, timeout: int) -> None:
    sk_common_release(sk)


# ---- options -------------------------------------------------------------------------------------------------------
def udp_setsockopt(sk: UdpSock, level: int, optname: int, optval: int, optlen: int) -> None:
    if level in (SOL_UDP, SOL_UDPLITE):
        udp_lib_setsockopt(sk, optname, optval, optlen)
    else:
        ip_setsockopt(sk, level, optname, optval, optlen)


def udp_lib_setsockopt(sk: UdpSock, optname: int, optval: int, optlen: int) -> None:
    if optlen < 4:
        raise KernelError(EINVAL)
    value = int.from_bytes(copy_from_user(optval, 4), "little", signed=True)
    if optname in (UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV) and sk.pcflag:
        # 0: everything; what is covered at least is the header
        coverage = value and min(max(value, UDP_HEADER), 0xFFFF)
        if optname == UDPLITE_SEND_CSCOV:
            sk.pcslen = coverage
            sk.pcflag |= UDPLITE_SEND_CC
        else:
            sk.pcrlen = coverage
            sk.pcflag |= UDPLITE_RECV_CC
        return
    if optname != UDP_CORK:
        raise KernelError(ENOPROTOOPT)
    sk.corkflag = bool(value)
    if not value:
        lock_sock(sk)
        try:
            err = udp_push_pending_frames(sk) if sk.pending else 0
        finally:
            release_sock(sk)
        _report(sk, err)


def udp_getsockopt(sk: UdpSock, level: int, optname: int, optval: int, optlen: int) -> None:
    if level in (SOL_UDP, SOL_UDPLITE):
        udp_lib_getsockopt(sk, optname, optval, optlen)
    else:
        ip_getsockopt(sk, level, optname, optval, optlen)


def udp_lib_getsockopt(sk: UdpSock, optname: int, optval: int, optlen: int) -> None:
    length = int.from_bytes(copy_from_user(optlen, 4), "little", signed=True)
    if length < 0:
        raise KernelError(EINVAL)
    length = min(length, 4)
    if optname == UDP_CORK:
        value = int(sk.corkflag)
    elif optname == UDPLITE_SEND_CSCOV:      # of a UDP socket, these are always 0: everything
        value = sk.pcslen
    elif optname == UDPLITE_RECV_CSCOV:
        value = sk.pcrlen
    else:
        raise KernelError(ENOPROTOOPT)
    put_user_u32(optlen, length)
    copy_to_user(optval, value.to_bytes(4, "little")[:length])
