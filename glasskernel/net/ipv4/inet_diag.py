"""ss -t, -u, -w: AF_INET's sockets over sock_diag.

Linux: net/ipv4/inet_diag.c (5.3), with the handlers of tcp_diag.c, udp_diag.c, raw_diag.c in inet_diag_tables.py. Same:
    filters by state, port and by a program (ss 'sport = :22'), timers, attributes asked for by idiag_ext.
Gaps: INET_DIAG_VEGASINFO and other congestion controls' states, IPv6, cgroups, ULPs, requests of the old format.
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from glasskernel.kernel.capability import CAP_NET_ADMIN
from glasskernel.kernel.time.types import HZ, TimerList
from glasskernel.lib.errno import EINVAL, ENOENT, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.dev_chain import net_of
from glasskernel.net.core.sock import sock_i_ino, sock_i_uid
from glasskernel.net.core.sock_diag import (
    SOCK_DIAG_BY_FAMILY,
    sock_diag_check_cookie,
    sock_diag_put_meminfo,
    sock_diag_save_cookie,
    sock_diag_start,
    wants_dump,
)
from glasskernel.net.ipv4.inet_diag_bc import INET_DIAG_REQ_BYTECODE, inet_diag_bc_audit, inet_diag_bc_run
from glasskernel.net.ipv4.tcp_types import (
    ICSK_TIME_LOSS_PROBE,
    ICSK_TIME_PROBE0,
    ICSK_TIME_REO_TIMEOUT,
    ICSK_TIME_RETRANS,
    InetConnectionSock,
    RequestSock,
    TimewaitSock,
)
from glasskernel.net.ipv4.types import InetSock
from glasskernel.net.netlink.delivery import netlink_unicast
from glasskernel.net.netlink.nlmsg import nlmsg_dump, nlmsg_end, nlmsg_new, nlmsg_parse_deprecated, nlmsg_put
from glasskernel.net.netlink.sockopt import netlink_net_capable
from glasskernel.net.netlink.types import NLM_F_MULTI, NetlinkCallback, Nlmsghdr
from glasskernel.net.nlattr import nla_put, nla_put_string, nla_put_u8, nla_put_u32
from glasskernel.net.types import AF_INET, TCP_SYN_RECV, Sock

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Net

INET_DIAG_MEMINFO, INET_DIAG_INFO, INET_DIAG_CONG, INET_DIAG_TOS, INET_DIAG_SKMEMINFO = 1, 2, 4, 5, 7
INET_DIAG_SHUTDOWN, INET_DIAG_MARK = 8, 15
inet_diag_req = struct.Struct("<BBBxI")              # family, protocol, ext, states; then struct inet_diag_sockid
inet_diag_sockid = struct.Struct(">HH16s16s8x4x")    # sport, dport, src, dst, if, cookie
SIZEOF_REQ_V2 = 56
inet_diag_msg = struct.Struct("<BBBB48sIIIII")       # family, state, timer, retrans, id, expires, queues, uid, inode


@slotted(frozen=True)
class InetDiagHandler:
    """struct inet_diag_handler: a protocol. socks(net): all its socks; queues(sk): (receive, send); info(sk): struct
    tcp_info, None: it has none."""

    socks: Callable[[Net], Iterable[Sock]]
    queues: Callable[[Sock], tuple[int, int]]
    info: Callable[[Sock], bytes] | None = None


@notrace
def inet_diag_register(kernel: Kernel, protocol: int, handler: InetDiagHandler) -> None:
    """ss(8) is told of the socks of a protocol from now on."""
    net_of(kernel).inet_diag_table[protocol] = handler


# ---- one sock --------------------------------------------------------------------------------------
@notrace
def inet_diag_addresses(sk: Sock) -> tuple[int, int, int, int]:
    """(local port, remote port, local address, remote address), of timewait and request socks too."""
    assert isinstance(sk, InetSock | TimewaitSock | RequestSock)
    return sk.inet_num, sk.inet_dport, sk.inet_rcv_saddr, sk.inet_daddr


@notrace
def inet_diag_state(sk: Sock) -> int:
    """What state filters see."""
    if isinstance(sk, TimewaitSock):
        return sk.tw_substate
    return TCP_SYN_RECV if isinstance(sk, RequestSock) else sk.sk_state


def inet_diag_msg_common_fill(sk: Sock) -> bytes:
    """struct inet_diag_sockid"""
    sport, dport, src, dst = inet_diag_addresses(sk)
    return (struct.pack(">HHI12xI12x", sport, dport, src, dst) + sk.sk_bound_dev_if.to_bytes(4, "little")
            + sock_diag_save_cookie(sk))


def inet_diag_msg_attrs_fill(sk: Sock, skb: SkBuff, ext: int, net_admin: bool) -> None:
    nla_put_u8(skb, INET_DIAG_SHUTDOWN, sk.sk_shutdown)
    if ext & 1 << INET_DIAG_TOS - 1 and isinstance(sk, InetSock):
        nla_put_u8(skb, INET_DIAG_TOS, sk.tos)
    if net_admin and ext & 1 << INET_DIAG_MARK - 1:
        nla_put_u32(skb, INET_DIAG_MARK, sk.sk_mark)


@notrace
def _left(kernel: Kernel, expires: int) -> int:
    """Milliseconds until a time in jiffies."""
    return max(expires - kernel.time.jiffies, 0) * 1000 // HZ


@notrace
def _timer_left(kernel: Kernel, timer: TimerList) -> int:
    return _left(kernel, timer.expires) if timer.base is not None else 0


@notrace
def inet_csk_diag_timer(sk: InetConnectionSock) -> tuple[int, int, int]:
    """(timer, retransmissions, milliseconds): 1 retransmission, 2 keepalive, 4 zero window probe."""
    kernel = sk.sk_net.kernel
    if sk.icsk_pending in (ICSK_TIME_RETRANS, ICSK_TIME_REO_TIMEOUT, ICSK_TIME_LOSS_PROBE):
        return 1, sk.icsk_retransmits, _left(kernel, sk.icsk_timeout)
    if sk.icsk_pending == ICSK_TIME_PROBE0:
        return 4, sk.icsk_probes_out, _left(kernel, sk.icsk_timeout)
    if sk.sk_timer is not None and sk.sk_timer.base is not None:
        return 2, sk.icsk_probes_out, _left(kernel, sk.sk_timer.expires)
    return 0, 0, 0


def inet_sk_diag_fill(sk: InetSock, handler: InetDiagHandler, skb: SkBuff, ext: int, portid: int, seq: int, flags: int,
                      net_admin: bool) -> None:
    """One sock that has a file, or had one. Raises EMSGSIZE."""
    timer = inet_csk_diag_timer(sk) if isinstance(sk, InetConnectionSock) else (0, 0, 0)
    start = nlmsg_put(skb, portid, seq, SOCK_DIAG_BY_FAMILY, inet_diag_msg.pack(
        AF_INET, sk.sk_state, timer[0], timer[1] & 0xFF, inet_diag_msg_common_fill(sk), timer[2], *handler.queues(sk),
        sock_i_uid(sk), sock_i_ino(sk)), flags)
    inet_diag_msg_attrs_fill(sk, skb, ext, net_admin)
    if ext & 1 << INET_DIAG_MEMINFO - 1:
        nla_put(skb, INET_DIAG_MEMINFO, struct.pack(
            "<4I", sk.sk_rmem_alloc, sk.sk_wmem_queued, max(sk.sk_forward_alloc, 0), sk.sk_wmem_alloc))
    if ext & 1 << INET_DIAG_SKMEMINFO - 1:
        sock_diag_put_meminfo(sk, skb, INET_DIAG_SKMEMINFO)
    if handler.info is not None and ext & 1 << INET_DIAG_INFO - 1:
        nla_put(skb, INET_DIAG_INFO, handler.info(sk))
    if isinstance(sk, InetConnectionSock) and ext & 1 << INET_DIAG_CONG - 1 and sk.icsk_ca_ops is not None:
        nla_put_string(skb, INET_DIAG_CONG, sk.icsk_ca_ops.name.encode())
    nlmsg_end(skb, start)


def inet_twsk_diag_fill(sk: TimewaitSock, skb: SkBuff, portid: int, seq: int, flags: int) -> None:
    """What stays of a connection for a minute. Raises EMSGSIZE."""
    start = nlmsg_put(skb, portid, seq, SOCK_DIAG_BY_FAMILY, inet_diag_msg.pack(
        AF_INET, sk.tw_substate, 3, 0, inet_diag_msg_common_fill(sk), _timer_left(sk.sk_net.kernel, sk.tw_timer),
        0, 0, 0, 0), flags)
    nlmsg_end(skb, start)


def inet_req_diag_fill(sk: RequestSock, skb: SkBuff, portid: int, seq: int, flags: int) -> None:
    """A connection whose handshake is under way. Raises EMSGSIZE."""
    start = nlmsg_put(skb, portid, seq, SOCK_DIAG_BY_FAMILY, inet_diag_msg.pack(
        AF_INET, TCP_SYN_RECV, 1, sk.num_retrans & 0xFF, inet_diag_msg_common_fill(sk),
        _timer_left(sk.sk_net.kernel, sk.rsk_timer), 0, 0, 0, 0), flags)
    nlmsg_end(skb, start)


def sk_diag_fill(sk: Sock, handler: InetDiagHandler, skb: SkBuff, ext: int, portid: int, seq: int, flags: int,
                 net_admin: bool) -> None:
    if isinstance(sk, TimewaitSock):
        inet_twsk_diag_fill(sk, skb, portid, seq, flags)
    elif isinstance(sk, RequestSock):
        inet_req_diag_fill(sk, skb, portid, seq, flags)
    else:
        assert isinstance(sk, InetSock)
        inet_sk_diag_fill(sk, handler, skb, ext, portid, seq, flags, net_admin)


# ---- requests --------------------------------------------------------------------------------------
@notrace
def _handler(net: Net, protocol: int) -> InetDiagHandler:
    handler: InetDiagHandler | None = net_of(net.kernel).inet_diag_table.get(protocol)
    if handler is None:
        raise KernelError(ENOENT)
    return handler


def inet_diag_dump(skb: SkBuff, cb: NetlinkCallback) -> int:
    """All socks of a protocol in the wanted states, with the wanted ports, that the program lets through."""
    nlh = cb.nlh
    assert cb.skb.sk is not None
    net = cb.skb.sk.sk_net
    family, protocol, ext, states = inet_diag_req.unpack_from(nlh.data)
    sport, dport = inet_diag_sockid.unpack_from(nlh.data, inet_diag_req.size)[:2]
    handler = _handler(net, protocol)
    net_admin = netlink_net_capable(cb.skb, CAP_NET_ADMIN)
    program: bytes = cb.data
    portid, seq = cb.skb.cb.portid, nlh.nlmsg_seq

    def fill(sk: Sock) -> None:
        local, remote, _src, _dst = addresses = inet_diag_addresses(sk)
        if (sk.sk_family != family or not states >> inet_diag_state(sk) & 1 or (sport and sport != local)
                or (dport and dport != remote)
                or (program and not inet_diag_bc_run(program, sk, addresses))):
            return
        sk_diag_fill(sk, handler, skb, ext, portid, seq, NLM_F_MULTI, net_admin)

    return nlmsg_dump(skb, cb, list(handler.socks(net)), fill)


def inet_diag_get_exact(in_skb: SkBuff, nlh: Nlmsghdr) -> None:
    """One sock, by addresses and ports, and its cookie. Raises ENOENT, ESTALE."""
    assert in_skb.sk is not None
    net = in_skb.sk.sk_net
    _family, protocol, ext, _states = inet_diag_req.unpack_from(nlh.data)
    sport, dport, src, dst = inet_diag_sockid.unpack_from(nlh.data, inet_diag_req.size)
    cookie = int.from_bytes(nlh.data[48:56], "little")
    wanted = sport, dport, int.from_bytes(src[:4], "big"), int.from_bytes(dst[:4], "big")
    handler = _handler(net, protocol)
    sk = next((sk for sk in handler.socks(net) if inet_diag_addresses(sk) == wanted), None)
    if sk is None:
        raise KernelError(ENOENT)
    sock_diag_check_cookie(sk, cookie)
    rep = nlmsg_new(1024)
    sk_diag_fill(sk, handler, rep, ext, in_skb.cb.portid, nlh.nlmsg_seq, 0, netlink_net_capable(in_skb, CAP_NET_ADMIN))
    netlink_unicast(net.diag_nlsk, rep, in_skb.cb.portid, 1)


@may_sleep
def inet_diag_handler_cmd(skb: SkBuff, nlh: Nlmsghdr) -> bool:
    """Raises EINVAL for a request that is too short, or whose program is bad; ENOENT for an unknown protocol."""
    if len(nlh.data) < SIZEOF_REQ_V2:
        raise KernelError(EINVAL)
    if not wants_dump(nlh):
        inet_diag_get_exact(skb, nlh)
        return False
    assert skb.sk is not None
    _handler(skb.sk.sk_net, nlh.data[1])
    program = nlmsg_parse_deprecated(nlh, SIZEOF_REQ_V2, INET_DIAG_REQ_BYTECODE, None, None).get(
        INET_DIAG_REQ_BYTECODE, b"")
    inet_diag_bc_audit(program)
    return sock_diag_start(skb, nlh, inet_diag_dump, program)
