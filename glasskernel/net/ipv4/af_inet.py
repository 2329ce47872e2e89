"""Sockets of AF_INET: what all its protocols have in common.

Linux: net/ipv4/af_inet.c (5.3). Same: order of checks and their errno in socket(), bind(), connect(), listen(),
accept(), shutdown(); ports are chosen when a socket first sends. Differs: tables, protocols and the start are in
inet_init.py, above TCP.
Owns: InetState.inetsw, protos.  Gaps: TCP fast open's connect, AF_INET6.
Locks: each function says whether the socket's owner calls it.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.capability import CAP_NET_BIND_SERVICE, CAP_NET_RAW, capable
from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import signal_pending
from glasskernel.kernel.sched.wait import (
    WaitQueueEntry,
    add_wait_queue,
    remove_wait_queue,
    wait_woken,
    woken_wake_function,
)
from glasskernel.kernel.task import PF_EXITING, TASK_INTERRUPTIBLE
from glasskernel.lib.errno import (
    EACCES,
    EADDRINUSE,
    EADDRNOTAVAIL,
    EAFNOSUPPORT,
    EAGAIN,
    EALREADY,
    ECONNABORTED,
    EINPROGRESS,
    EINVAL,
    EISCONN,
    ENOIOCTLCMD,
    ENOTCONN,
    EOPNOTSUPP,
    EPERM,
    EPROTONOSUPPORT,
    ESOCKTNOSUPPORT,
    KernelError,
)
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.sock import (
    lock_sock,
    release_sock,
    sk_alloc,
    sk_common_release,
    sock_error,
    sock_graft,
    sock_init_data,
    sock_intr_errno,
    sock_sndtimeo,
)
from glasskernel.net.core.sock_dst import sk_dst_set
from glasskernel.net.ipv4.arp import SIOCDARP, SIOCGARP, SIOCSARP, arp_ioctl
from glasskernel.net.ipv4.devinet_ioctl import DEVINET_IOCTLS, devinet_ioctl
from glasskernel.net.ipv4.fib_frontend import SIOCADDRT, SIOCDELRT, ip_rt_ioctl
from glasskernel.net.ipv4.fib_lookup import inet_addr_type_table
from glasskernel.net.ipv4.fib_semantics import inet_of
from glasskernel.net.ipv4.igmp import ip_mc_drop_socket
from glasskernel.net.ipv4.inet_connection_sock import inet_csk_listen_start
from glasskernel.net.ipv4.inet_sock import inet_sock_destruct
from glasskernel.net.ipv4.ip_errqueue import read_sockaddr_in, sockaddr_in
from glasskernel.net.ipv4.types import (
    INET_PROTOSW_ICSK,
    INET_PROTOSW_PERMANENT,
    INET_PROTOSW_REUSE,
    IP_PMTUDISC_DONT,
    IP_PMTUDISC_WANT,
    RT_TABLE_LOCAL,
    RTN_BROADCAST,
    RTN_LOCAL,
    RTN_MULTICAST,
    InetProtosw,
    InetSock,
    NetProtocol,
)
from glasskernel.net.socket import sock_create_kern, sock_release
from glasskernel.net.types import (
    AF_INET,
    AF_UNSPEC,
    IPPROTO_IP,
    IPPROTO_RAW,
    RCV_SHUTDOWN,
    SHUTDOWN_MASK,
    SOCK_BINDADDR_LOCK,
    SOCK_BINDPORT_LOCK,
    SOCK_LINGER,
    SOCK_RAW,
    SOCK_STREAM,
    SS_CONNECTED,
    SS_CONNECTING,
    SS_DISCONNECTING,
    SS_UNCONNECTED,
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    TCP_ESTABLISHED,
    TCP_LISTEN,
    TCP_SYN_RECV,
    TCP_SYN_SENT,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.types import MsgHdr, Net, Socket

IPPROTO_MAX = 256
O_NONBLOCK = 0o4000


@notrace
def inet_sk(sock: Socket) -> InetSock:
    """The socket's sock, as one of AF_INET."""
    sk = sock.sk
    assert isinstance(sk, InetSock)
    return sk


# ---- protocols -----------------------------------------------------------------------------------------------------
def inet_add_protocol(kernel: Kernel, prot: NetProtocol, protocol: int) -> None:
    """From now on prot gets the IP packets of this number. Raises EPERM if there is one."""
    protos = inet_of(kernel.net.init_net).protos  # type: ignore[union-attr]
    if protocol in protos:
        raise KernelError(EPERM)
    protos[protocol] = prot


def inet_register_protosw(kernel: Kernel, p: InetProtosw) -> None:
    """Makes socket(AF_INET, p.type, p.protocol) possible; permanent ones cannot be replaced."""
    chosen = inet_of(kernel.net.init_net).inetsw.setdefault(p.type, [])  # type: ignore[union-attr]
    at = 0
    for at, answer in enumerate(chosen):
        if not answer.flags & INET_PROTOSW_PERMANENT:
            break
        if answer.protocol == p.protocol:
            return
        at += 1
    chosen.insert(at, p)


# ---- socket() and close() ------------------------------------------------------------------------------------------
def inet_create(net: Net, sock: Socket, protocol: int, kern: bool) -> None:
    """->create(). Raises EINVAL, ESOCKTNOSUPPORT, EPROTONOSUPPORT, EPERM. Context: task."""
    if not 0 <= protocol < IPPROTO_MAX:
        raise KernelError(EINVAL)
    sock.state = SS_UNCONNECTED
    answer, protocol = _find_protosw(net, sock.type, protocol)
    if sock.type == SOCK_RAW and not kern and not capable(CAP_NET_RAW):
        raise KernelError(EPERM)
    sock.ops = answer.ops
    sk = sk_alloc(net, AF_INET, answer.prot, kern)
    assert isinstance(sk, InetSock)
    if answer.flags & INET_PROTOSW_REUSE:
        sk.sk_reuse = 1
    sk.is_icsk = bool(answer.flags & INET_PROTOSW_ICSK)
    if sock.type == SOCK_RAW:
        sk.inet_num = protocol
        if protocol == IPPROTO_RAW:
            sk.hdrincl = True
    sk.pmtudisc = IP_PMTUDISC_DONT if net.ipv4.sysctl["ip_no_pmtu_disc"] else IP_PMTUDISC_WANT
    sock_init_data(sock, sk)
    sk.sk_destruct = inet_sock_destruct  # type: ignore[assignment]
    sk.sk_protocol = protocol
    prot = sk.sk_prot
    if sk.inet_num:
        sk.inet_sport = sk.inet_num
        assert prot.hash is not None
        try:
            prot.hash(sk)
        except KernelError:
            sk_common_release(sk)
            raise
    if prot.init is not None:
        try:
            prot.init(sk)
        except KernelError:
            sk_common_release(sk)
            raise


@notrace
def _find_protosw(net: Net, kind: int, protocol: int) -> tuple[InetProtosw, int]:
    """The entry for a socket's type, and the protocol's real number."""
    entries = inet_of(net).inetsw.get(kind)
    if not entries:
        raise KernelError(ESOCKTNOSUPPORT)
    for answer in entries:
        if protocol == answer.protocol:
            if protocol != IPPROTO_IP:
                return answer, protocol
        elif protocol == IPPROTO_IP:
            return answer, answer.protocol
        elif answer.protocol == IPPROTO_IP:
            return answer, protocol
    raise KernelError(EPROTONOSUPPORT)


@may_sleep
def inet_release(sock: Socket) -> None:
    """->release(): the file is closed."""
    if sock.sk is None:
        return
    sk = inet_sk(sock)
    ip_mc_drop_socket(sk)
    timeout = 0
    if sk.sk_flags & SOCK_LINGER and not register.task.flags & PF_EXITING:
        timeout = sk.sk_lingertime
    sk.sk_prot.close(sk, timeout)
    sock.sk = None  # type: ignore[assignment]


# ---- the kernel's own sockets --------------------------------------------------------------------------------------
def inet_ctl_sock_create(net: Net, family: int, kind: int, protocol: int) -> InetSock:
    """A socket that sends for the kernel; it is in no table, so nothing arrives."""
    sock = sock_create_kern(net, family, kind, protocol)
    sk = inet_sk(sock)
    assert sk.sk_prot.unhash is not None
    sk.sk_prot.unhash(sk)
    return sk


def inet_ctl_sock_destroy(sk: InetSock) -> None:
    assert sk.sk_socket is not None
    sock_release(sk.sk_socket)


# ---- bind() --------------------------------------------------------------------------------------------------------
@may_sleep
def inet_bind(sock: Socket, uaddr: bytes) -> None:
    """->bind(). Raises EINVAL, EAFNOSUPPORT, EADDRNOTAVAIL, EACCES, EADDRINUSE."""
    sk = inet_sk(sock)
    if sk.sk_prot.bind is not None:
        sk.sk_prot.bind(sk, uaddr)
        return
    __inet_bind(sk, uaddr)


@may_sleep
def __inet_bind(sk: InetSock, uaddr: bytes) -> None:
    family, addr, snum = read_sockaddr_in(uaddr)
    if family != AF_INET and (family != AF_UNSPEC or addr):
        raise KernelError(EAFNOSUPPORT)
    net = sk.sk_net
    sysctl = net.ipv4.sysctl
    chk_addr_ret = inet_addr_type_table(net, addr, RT_TABLE_LOCAL)
    if (addr and chk_addr_ret not in (RTN_LOCAL, RTN_MULTICAST, RTN_BROADCAST)
            and not (sysctl["ip_nonlocal_bind"] or sk.freebind or sk.transparent)):
        raise KernelError(EADDRNOTAVAIL)
    if snum and snum < sysctl["ip_unprivileged_port_start"] and not capable(CAP_NET_BIND_SERVICE):
        raise KernelError(EACCES)
    lock_sock(sk)
    try:
        if sk.sk_state != TCP_CLOSE or sk.inet_num:
            raise KernelError(EINVAL)
        sk.inet_rcv_saddr = sk.inet_saddr = addr
        if chk_addr_ret in (RTN_MULTICAST, RTN_BROADCAST):
            sk.inet_saddr = 0            # packets leave with the device's address
        if snum or not sk.bind_address_no_port:
            assert sk.sk_prot.get_port is not None
            if sk.sk_prot.get_port(sk, snum):
                sk.inet_saddr = sk.inet_rcv_saddr = 0
                raise KernelError(EADDRINUSE)
        if sk.inet_rcv_saddr:
            sk.sk_userlocks |= SOCK_BINDADDR_LOCK
        if snum:
            sk.sk_userlocks |= SOCK_BINDPORT_LOCK
        sk.inet_sport = sk.inet_num
        sk.inet_daddr = sk.inet_dport = 0
        sk_dst_set(sk, None)
    finally:
        release_sock(sk)


@may_sleep
def inet_autobind(sk: InetSock) -> bool:
    """Chooses a port for a socket that has none. True: there is no free one."""
    lock_sock(sk)
    try:
        if not sk.inet_num:
            assert sk.sk_prot.get_port is not None
            if sk.sk_prot.get_port(sk, 0):
                return True
            sk.inet_sport = sk.inet_num
        return False
    finally:
        release_sock(sk)


# ---- connect() -----------------------------------------------------------------------------------------------------
@notrace
def _family(uaddr: bytes) -> int:
    if len(uaddr) < 2:
        raise KernelError(EINVAL)
    return int.from_bytes(uaddr[:2], "little")


@may_sleep
def inet_dgram_connect(sock: Socket, uaddr: bytes, flags: int) -> None:
    """->connect() of datagram sockets; AF_UNSPEC takes the connection back."""
    sk = inet_sk(sock)
    prot = sk.sk_prot
    if _family(uaddr) == AF_UNSPEC:
        assert prot.disconnect is not None
        prot.disconnect(sk, flags)
        return
    if not sk.inet_num and inet_autobind(sk):
        raise KernelError(EAGAIN)
    assert prot.connect is not None
    prot.connect(sk, uaddr)


@may_sleep
def inet_stream_connect(sock: Socket, uaddr: bytes, flags: int) -> None:
    """->connect() of streams."""
    sk = inet_sk(sock)
    lock_sock(sk)
    try:
        __inet_stream_connect(sock, uaddr, flags)
    finally:
        release_sock(sk)


@may_sleep
def __inet_stream_connect(sock: Socket, uaddr: bytes, flags: int) -> None:
    """Begins the connection, unless it has begun, and waits for it. Locks: the owner; sleeps without.

    Raises EISCONN, EALREADY, EINPROGRESS, ECONNABORTED, EINTR, Restart, and the connection's error.
    """
    sk = inet_sk(sock)
    prot = sk.sk_prot
    if _family(uaddr) == AF_UNSPEC:
        assert prot.disconnect is not None
        try:
            prot.disconnect(sk, flags)
        except KernelError:
            sock.state = SS_DISCONNECTING
            raise
        sock.state = SS_UNCONNECTED
        return
    pending = EINPROGRESS
    if sock.state == SS_CONNECTED:
        raise KernelError(EISCONN)
    if sock.state == SS_CONNECTING:
        pending = EALREADY
    elif sock.state == SS_UNCONNECTED:
        if sk.sk_state != TCP_CLOSE:
            raise KernelError(EISCONN)
        assert prot.connect is not None
        prot.connect(sk, uaddr)
        sock.state = SS_CONNECTING
        if sk.sk_err == 0 and sk.sk_state == TCP_CLOSE:
            raise _connect_failed(sock, sk)
    else:
        raise KernelError(EINVAL)
    timeo = sock_sndtimeo(sk, flags & O_NONBLOCK)
    if sk.sk_state in (TCP_SYN_SENT, TCP_SYN_RECV):
        if not timeo or not inet_wait_for_connect(sk, timeo):
            raise KernelError(pending)
        if signal_pending(register.task) and sk.sk_state in (TCP_SYN_SENT, TCP_SYN_RECV):
            raise sock_intr_errno(timeo)
    if sk.sk_state == TCP_CLOSE:         # refused, timed out, reset ...
        raise _connect_failed(sock, sk)
    sock.state = SS_CONNECTED


@notrace
def _connect_failed(sock: Socket, sk: InetSock) -> KernelError:
    error = KernelError(sock_error(sk) or ECONNABORTED)
    sock.state = SS_UNCONNECTED
    assert sk.sk_prot.disconnect is not None
    try:
        sk.sk_prot.disconnect(sk, 0)
    except KernelError:
        sock.state = SS_DISCONNECTING
    return error


@notrace
@may_sleep
def inet_wait_for_connect(sk: InetSock, timeo: int) -> int:
    """Sleeps while the handshake goes on; the jiffies left. Locks: the owner, dropped meanwhile."""
    wait = WaitQueueEntry(woken_wake_function, register.task)
    assert sk.sk_wq is not None
    add_wait_queue(sk.sk_wq, wait)
    while sk.sk_state in (TCP_SYN_SENT, TCP_SYN_RECV):
        release_sock(sk)
        timeo = wait_woken(wait, TASK_INTERRUPTIBLE, timeo)
        lock_sock(sk)
        if signal_pending(register.task) or not timeo:
            break
    remove_wait_queue(sk.sk_wq, wait)
    return timeo


# ---- listen() and accept() -----------------------------------------------------------------------------------------
@may_sleep
def inet_listen(sock: Socket, backlog: int) -> None:
    """->listen(). Raises EINVAL, EADDRINUSE."""
    sk = inet_sk(sock)
    lock_sock(sk)
    try:
        if sock.state != SS_UNCONNECTED or sock.type != SOCK_STREAM or sk.sk_state not in (TCP_CLOSE, TCP_LISTEN):
            raise KernelError(EINVAL)
        sk.sk_max_ack_backlog = backlog
        if sk.sk_state != TCP_LISTEN:
            inet_csk_listen_start(sk, backlog)  # type: ignore[arg-type]
    finally:
        release_sock(sk)


@may_sleep
def inet_accept(sock: Socket, newsock: Socket, flags: int, kern: bool) -> None:
    """->accept(): the next connection becomes newsock's."""
    sk1 = inet_sk(sock)
    assert sk1.sk_prot.accept is not None
    sk2 = sk1.sk_prot.accept(sk1, flags, kern)
    lock_sock(sk2)
    assert sk2.sk_state in (TCP_ESTABLISHED, TCP_SYN_RECV, TCP_CLOSE_WAIT, TCP_CLOSE)
    sock_graft(sk2, newsock)
    newsock.state = SS_CONNECTED
    release_sock(sk2)


# ---- names, data ---------------------------------------------------------------------------------------------------
def inet_getname(sock: Socket, peer: int) -> bytes:
    """->getname(). Raises ENOTCONN. peer 2: also of a connection that is over (accept())."""
    sk = inet_sk(sock)
    if peer:
        if not sk.inet_dport or (sk.sk_state in (TCP_CLOSE, TCP_SYN_SENT) and peer == 1):
            raise KernelError(ENOTCONN)
        return sockaddr_in(sk.inet_daddr, sk.inet_dport)
    return sockaddr_in(sk.inet_rcv_saddr or sk.inet_saddr, sk.inet_sport)


@may_sleep
def inet_send_prepare(sk: InetSock) -> None:
    """A socket that sends has a port. Raises EAGAIN."""
    if not sk.inet_num and not sk.sk_prot.no_autobind and inet_autobind(sk):
        raise KernelError(EAGAIN)


@may_sleep
def inet_sendmsg(sock: Socket, msg: MsgHdr, size: int) -> int:
    """->sendmsg()"""
    sk = inet_sk(sock)
    inet_send_prepare(sk)
    assert sk.sk_prot.sendmsg is not None
    return sk.sk_prot.sendmsg(sk, msg, size)


@may_sleep
def inet_recvmsg(sock: Socket, msg: MsgHdr, size: int, flags: int) -> int:
    """->recvmsg()"""
    sk = inet_sk(sock)
    assert sk.sk_prot.recvmsg is not None
    return sk.sk_prot.recvmsg(sk, msg, size, flags)


@may_sleep
def inet_shutdown(sock: Socket, how: int) -> None:
    """->shutdown(). Raises EINVAL, ENOTCONN."""
    sk = inet_sk(sock)
    prot = sk.sk_prot
    how += 1
    if how & ~SHUTDOWN_MASK or not how:
        raise KernelError(EINVAL)
    lock_sock(sk)
    try:
        if sock.state == SS_CONNECTING:
            early = sk.sk_state in (TCP_SYN_SENT, TCP_SYN_RECV, TCP_CLOSE)
            sock.state = SS_DISCONNECTING if early else SS_CONNECTED
        error = ENOTCONN if sk.sk_state == TCP_CLOSE else 0
        if sk.sk_state == TCP_SYN_SENT or (sk.sk_state == TCP_LISTEN and how & RCV_SHUTDOWN):
            assert prot.disconnect is not None
            try:
                prot.disconnect(sk, O_NONBLOCK)
                sock.state = SS_UNCONNECTED
            except KernelError as e:
                error = e.errno
                sock.state = SS_DISCONNECTING
        elif sk.sk_state != TCP_LISTEN:
            sk.sk_shutdown |= how
            if prot.shutdown is not None:
                prot.shutdown(sk, how)
        sk.sk_state_change(sk)
    finally:
        release_sock(sk)
    if error:
        raise KernelError(error)


@may_sleep
def inet_ioctl(sock: Socket, cmd: int, arg: int) -> int:
    """->ioctl(), AF_PACKET's too: routes, neighbours, addresses; the protocol has the rest. Raises ENOIOCTLCMD."""
    sk = sock.sk
    net = sk.sk_net
    if cmd in (SIOCADDRT, SIOCDELRT):
        return ip_rt_ioctl(net, cmd, arg)
    if cmd in (SIOCDARP, SIOCGARP, SIOCSARP):
        return arp_ioctl(net, cmd, arg)
    if cmd in DEVINET_IOCTLS:
        return devinet_ioctl(net, cmd, arg)
    if sk.sk_prot.ioctl is None:
        raise KernelError(ENOIOCTLCMD)
    return sk.sk_prot.ioctl(sk, cmd, arg)


# ---- options -------------------------------------------------------------------------------------------------------
@may_sleep
def sock_common_setsockopt(sock: Socket, level: int, optname: int, optval: int, optlen: int) -> None:
    """->setsockopt() of families whose protocols do it all (net/core/sock.c)."""
    prot = sock.sk.sk_prot
    if prot.setsockopt is None:
        raise KernelError(EOPNOTSUPP)
    prot.setsockopt(sock.sk, level, optname, optval, optlen)


@may_sleep
def sock_common_getsockopt(sock: Socket, level: int, optname: int, optval: int, optlen: int) -> None:
    prot = sock.sk.sk_prot
    if prot.getsockopt is None:
        raise KernelError(EOPNOTSUPP)
    prot.getsockopt(sock.sk, level, optname, optval, optlen)

