"""AF_NETLINK: sockets that talk to the kernel, and through which it talks to programs.

Linux: net/netlink/af_netlink.c (5.3). Same: a port number of one's own (the process id, or a negative one), groups,
    who may join and send, credentials, reading goes on with a dump. delivery.py moves messages, dump.py answers
    requests, sockopt.py has the options.
Owns: the entries of NetState.nl_table (netlink_kernel_create). Lock: none is held across a sleep but cb_mutex.
Gaps: mapped rings (5.3 has none either), modules that bring a protocol.
"""
from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.kernel.sched.wait import wake_up_interruptible_all
from glasskernel.lib.errno import (
    EADDRINUSE,
    EINVAL,
    EMSGSIZE,
    ENOIOCTLCMD,
    EOPNOTSUPP,
    EPERM,
    EPROTONOSUPPORT,
    ESOCKTNOSUPPORT,
    KernelError,
)
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.datagram import datagram_poll, skb_copy_datagram_msg, skb_free_datagram, skb_recv_datagram
from glasskernel.net.core.net_namespace import register_pernet_subsys
from glasskernel.net.core.proto import proto_register, sock_prot_inuse_add
from glasskernel.net.core.sock import sk_alloc, sock_init_data, sock_orphan, sock_put
from glasskernel.net.netlink.delivery import (
    netlink_broadcast,
    netlink_cb,
    netlink_insert,
    netlink_lookup,
    netlink_rcv_wake,
    netlink_remove,
    netlink_table,
    netlink_unicast,
    nlk_table,
)
from glasskernel.net.netlink.dump import netlink_dump
from glasskernel.net.netlink.proc import netlink_net_init
from glasskernel.net.netlink.sockopt import (
    netlink_allowed,
    netlink_cmsg_recv_pktinfo,
    netlink_getsockopt,
    netlink_setsockopt,
    netlink_update_subscriptions,
)
from glasskernel.net.netlink.types import (
    MAX_LINKS,
    NETLINK_CONNECTED,
    NETLINK_F_KERNEL_SOCKET,
    NETLINK_F_RECV_PKTINFO,
    NETLINK_GENERIC,
    NETLINK_KOBJECT_UEVENT,
    NETLINK_SELINUX,
    NETLINK_SOCK_DIAG,
    NETLINK_UNCONNECTED,
    NETLINK_USERSOCK,
    NL_CFG_F_NONROOT_RECV,
    NL_CFG_F_NONROOT_SEND,
    NetlinkKernelCfg,
    NetlinkSkbParms,
    NetlinkSock,
    NetlinkTable,
    sockaddr_nl,
)
from glasskernel.net.scm import ScmCookie, scm_recv, scm_send
from glasskernel.net.skbuff import alloc_skb, consume_skb, skb_get, skb_put_data, skb_queue_purge
from glasskernel.net.socket import sock_create_lite, sock_register, sock_release
from glasskernel.net.types import (
    AF_NETLINK,
    AF_UNSPEC,
    MSG_DONTWAIT,
    MSG_OOB,
    MSG_TRUNC,
    SOCK_DGRAM,
    SOCK_RAW,
    SS_UNCONNECTED,
    NetProtoFamily,
    PernetOperations,
    Proto,
    ProtoOps,
    no_close,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.net.types import MsgHdr, Net, Sock, Socket

# protocols that are built as modules
MODULES = {
    NETLINK_KOBJECT_UEVENT: ("net.core.kobject_uevent", "kobject_uevent_init"),
    NETLINK_SOCK_DIAG: ("net.core.sock_diag", "sock_diag_init"),
    NETLINK_GENERIC: ("net.netlink.genetlink", "genl_init"),
    NETLINK_SELINUX: ("security.selinux.netlink", "selnl_init"),
}
SKB_MAX_RECVMSG = 32768 - 320            # SKB_WITH_OVERHEAD(32768)


@notrace
def nlk_sk(sock: Socket) -> NetlinkSock:
    sk = sock.sk
    assert isinstance(sk, NetlinkSock)
    return sk


@notrace
def request_protocol(kernel: Kernel, protocol: int) -> None:
    """request_module("net-pf-16-proto-N")"""
    if protocol in MODULES:
        module, name = MODULES[protocol]
        getattr(import_module(f"glasskernel.{module}"), name)(kernel)


# ---- making and releasing --------------------------------------------------------------------------
def netlink_sock_destruct(sk: Sock) -> None:
    """->sk_destruct()"""
    assert isinstance(sk, NetlinkSock)
    if sk.cb_running and sk.cb is not None:
        consume_skb(sk.cb.skb)
        sk.cb = None
    skb_queue_purge(sk.sk_receive_queue)
    assert not sk.sk_rmem_alloc


def __netlink_create(net: Net, sock: Socket, protocol: int, kern: bool) -> NetlinkSock:
    sock.ops = netlink_ops
    sk = sk_alloc(net, AF_NETLINK, netlink_proto, kern)
    assert isinstance(sk, NetlinkSock)
    sock_init_data(sock, sk)
    sk.sk_destruct = netlink_sock_destruct
    sk.sk_protocol = protocol
    return sk


def netlink_create(net: Net, sock: Socket, protocol: int, kern: bool) -> None:
    """socket(AF_NETLINK, ...). Raises ESOCKTNOSUPPORT, EPROTONOSUPPORT."""
    sock.state = SS_UNCONNECTED
    if sock.type not in (SOCK_RAW, SOCK_DGRAM):
        raise KernelError(ESOCKTNOSUPPORT)
    if not 0 <= protocol < MAX_LINKS:
        raise KernelError(EPROTONOSUPPORT)
    table = netlink_table(net, protocol)
    if table is None or not table.loaded:
        request_protocol(net.kernel, protocol)
        table = netlink_table(net, protocol)
        if table is None:
            raise KernelError(EPROTONOSUPPORT)
        table.loaded = True
    __netlink_create(net, sock, protocol, kern)
    sock_prot_inuse_add(net, netlink_proto, 1)


def netlink_release(sock: Socket) -> None:
    """The last close: nobody finds the socket any more, and what it has not read is dropped."""
    if sock.sk is None:
        return
    sk = nlk_sk(sock)
    groups = sk.groups
    netlink_remove(sk)
    sock_orphan(sk)
    table = nlk_table(sk)
    if table.unbind is not None:
        for group in range(1, sk.ngroups + 1):
            if groups >> group - 1 & 1:
                table.unbind(sk.sk_net, group)
    sock.sk = None  # type: ignore[assignment]
    wake_up_interruptible_all(sk.wait)
    skb_queue_purge(sk.sk_write_queue)
    if not sk.nl_flags & NETLINK_F_KERNEL_SOCKET:
        sock_prot_inuse_add(sk.sk_net, netlink_proto, -1)
    sock_put(sk)


def __netlink_kernel_create(net: Net, unit: int, cfg: NetlinkKernelCfg) -> NetlinkSock:
    """The kernel's socket of a protocol in a namespace; the first one makes the protocol available."""
    state = net.kernel.net
    assert state is not None
    table = state.nl_table.get(unit)
    if table is None:
        table = state.nl_table[unit] = NetlinkTable(
            flags=cfg.flags, groups=max(cfg.groups, 32), bind=cfg.bind, unbind=cfg.unbind,
            cb_mutex=cfg.cb_mutex)
    sk = __netlink_create(net, sock_create_lite(AF_NETLINK, SOCK_DGRAM, unit), unit, True)
    sk.nl_flags |= NETLINK_F_KERNEL_SOCKET
    sk.netlink_rcv = cfg.input
    netlink_insert(sk, 0)
    return sk


def netlink_kernel_release(sk: NetlinkSock) -> None:
    """The namespace goes."""
    if sk.sk_socket is not None:
        sock_release(sk.sk_socket)


# ---- addresses -------------------------------------------------------------------------------------
def netlink_autobind(sk: NetlinkSock) -> None:
    """A free port number: the process id, or one below -4096."""
    portid = current().tgid
    rover = -4096
    while netlink_lookup(sk.sk_net, sk.sk_protocol, portid & 0xFFFFFFFF) is not None:
        if rover == -4096:
            rover = int.from_bytes(sk.sk_net.kernel.machine.random_bytes(4), "little") % ((1 << 31) - 4096) - (1 << 31)
        elif rover >= -4096:
            rover = -4097
        portid = rover
        rover -= 1
    try:
        netlink_insert(sk, portid & 0xFFFFFFFF)
    except KernelError as e:
        if e.errno == EADDRINUSE:
            raise
        return                           # bound meanwhile


@notrace
def _address(addr: bytes) -> tuple[int, int]:
    """(port, groups) of a struct sockaddr_nl. Raises EINVAL."""
    if len(addr) < sockaddr_nl.size:
        raise KernelError(EINVAL)
    family, _, portid, groups = sockaddr_nl.unpack_from(addr)
    if family != AF_NETLINK:
        raise KernelError(EINVAL)
    return portid, groups


def netlink_bind(sock: Socket, addr: bytes) -> None:
    """bind(2): a port number (0: any), and the first 32 groups. Raises EINVAL, EPERM, EADDRINUSE."""
    sk = nlk_sk(sock)
    portid, groups = _address(addr)
    table = nlk_table(sk)
    if groups:
        if not netlink_allowed(sk, NL_CFG_F_NONROOT_RECV):
            raise KernelError(EPERM)
        sk.ngroups = table.groups
    if sk.ngroups < 32:
        groups &= (1 << sk.ngroups) - 1
    if sk.bound and portid != sk.portid:
        raise KernelError(EINVAL)
    if table.bind is not None:
        for group in range(1, 33):
            if groups >> group - 1 & 1:
                table.bind(sk.sk_net, group)
    if not sk.bound:
        if portid:
            netlink_insert(sk, portid)
        else:
            netlink_autobind(sk)
    if groups or sk.groups & 0xFFFFFFFF:
        netlink_update_subscriptions(sk, sk.groups & ~0xFFFFFFFF | groups)


def netlink_connect(sock: Socket, addr: bytes, flags: int) -> None:
    """connect(2): where messages without an address go. Raises EINVAL, EPERM."""
    sk = nlk_sk(sock)
    if len(addr) < 2:
        raise KernelError(EINVAL)
    if int.from_bytes(addr[:2], "little") == AF_UNSPEC:
        sk.nl_state = NETLINK_UNCONNECTED
        sk.dst_portid = sk.dst_group = 0
        return
    portid, groups = _address(addr)
    if (groups or portid) and not netlink_allowed(sk, NL_CFG_F_NONROOT_SEND):
        raise KernelError(EPERM)
    if not sk.bound:
        netlink_autobind(sk)
    sk.nl_state = NETLINK_CONNECTED
    sk.dst_portid = portid
    sk.dst_group = (groups & -groups).bit_length()


def netlink_getname(sock: Socket, peer: int) -> bytes:
    """getsockname(2), getpeername(2)"""
    sk = nlk_sk(sock)
    if peer:
        return sockaddr_nl.pack(AF_NETLINK, 0, sk.dst_portid, 1 << sk.dst_group - 1 & 0xFFFFFFFF if sk.dst_group else 0)
    return sockaddr_nl.pack(AF_NETLINK, 0, sk.portid, sk.groups & 0xFFFFFFFF)


def netlink_ioctl(sock: Socket, cmd: int, arg: int) -> int:
    """Raises ENOIOCTLCMD: devices may know it."""
    raise KernelError(ENOIOCTLCMD)


# ---- sending and receiving -------------------------------------------------------------------------
@may_sleep
def netlink_sendmsg(sock: Socket, msg: MsgHdr, length: int) -> int:
    """sendmsg(2). Raises EOPNOTSUPP, EINVAL, EPERM, EMSGSIZE, ECONNREFUSED ..."""
    sk = nlk_sk(sock)
    if msg.msg_flags & MSG_OOB:
        raise KernelError(EOPNOTSUPP)
    scm = ScmCookie()
    scm_send(sock, msg, scm, True)
    if msg.msg_name is not None:
        dst_portid, groups = _address(msg.msg_name)
        dst_group = (groups & -groups).bit_length()
        if (dst_group or dst_portid) and not netlink_allowed(sk, NL_CFG_F_NONROOT_SEND):
            raise KernelError(EPERM)
    else:
        dst_portid, dst_group = sk.dst_portid, sk.dst_group
    if not sk.bound:
        netlink_autobind(sk)
    if length > sk.sk_sndbuf - 32:
        raise KernelError(EMSGSIZE)
    data = msg.msg_iter.copy_from_iter(length)
    if sk.sk_security is not None:
        sk.sk_net.kernel.lsm.security_netlink_send(sk, data)
    skb = alloc_skb(length)
    skb.cb = NetlinkSkbParms(sk.portid, dst_group, scm.creds or (0, 0, 0), cred=current().cred)
    skb_put_data(skb, data)
    if dst_group:
        skb_get(skb)
        with suppress(KernelError):      # as in Linux: only the unicast's answer counts
            netlink_broadcast(sk, skb, dst_portid, dst_group)
    return netlink_unicast(sk, skb, dst_portid, msg.msg_flags & MSG_DONTWAIT)


@may_sleep
def netlink_recvmsg(sock: Socket, msg: MsgHdr, length: int, flags: int) -> int:
    """recvmsg(2): one message, or as many parts as one skb has. Raises EOPNOTSUPP, EAGAIN, ENOBUFS, EINTR."""
    sk = nlk_sk(sock)
    if flags & MSG_OOB:
        raise KernelError(EOPNOTSUPP)
    skb = skb_recv_datagram(sk, flags, flags & MSG_DONTWAIT)
    if skb is None:
        return 0
    sk.max_recvmsg_len = min(max(sk.max_recvmsg_len, length), SKB_MAX_RECVMSG)
    copied = skb.len
    if length < copied:
        msg.msg_flags |= MSG_TRUNC
        copied = length
    try:
        skb_copy_datagram_msg(skb, 0, msg, copied)
        parms = netlink_cb(skb)
        msg.msg_name = sockaddr_nl.pack(
            AF_NETLINK, 0, parms.portid, 1 << parms.dst_group - 1 & 0xFFFFFFFF if parms.dst_group else 0)
        if sk.nl_flags & NETLINK_F_RECV_PKTINFO:
            netlink_cmsg_recv_pktinfo(msg, skb)
        scm = ScmCookie()
        scm.creds = parms.creds
        if flags & MSG_TRUNC:
            copied = skb.len
    finally:
        skb_free_datagram(sk, skb)
    if sk.cb_running and sk.sk_rmem_alloc <= sk.sk_rcvbuf // 2:
        try:
            netlink_dump(sk)
        except KernelError as e:
            sk.sk_err = e.errno
            sk.sk_error_report(sk)
    scm_recv(sock, msg, scm, flags)
    netlink_rcv_wake(sk)
    return copied


netlink_ops = ProtoOps(
    AF_NETLINK, netlink_release, datagram_poll, bind=netlink_bind, connect=netlink_connect, getname=netlink_getname,
    ioctl=netlink_ioctl, setsockopt=netlink_setsockopt,
    getsockopt=netlink_getsockopt, sendmsg=netlink_sendmsg, recvmsg=netlink_recvmsg,
)


netlink_proto = Proto("NETLINK", no_close, NetlinkSock, obj_size=1072)
netlink_family_ops = NetProtoFamily(AF_NETLINK, netlink_create)


def netlink_add_usersock_entry(kernel: Kernel) -> None:
    """NETLINK_USERSOCK: programs among themselves."""
    state = kernel.net
    assert state is not None
    state.nl_table[NETLINK_USERSOCK] = NetlinkTable(flags=NL_CFG_F_NONROOT_SEND, groups=32)


def netlink_proto_init(kernel: Kernel) -> None:
    """The family, once."""
    state = kernel.net
    assert state is not None
    if AF_NETLINK in state.net_families:
        return
    proto_register(kernel, netlink_proto, False)
    sock_register(kernel, netlink_family_ops)
    netlink_add_usersock_entry(kernel)
    register_pernet_subsys(kernel, PernetOperations(netlink_net_init))
