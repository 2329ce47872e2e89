"""SELinux's say about sockets.

Linux: the network part of security/selinux/hooks.c (5.3). Same: the class of each kind of socket, labels of ports and
    addresses at bind(2) and connect(2), labels that the two ends of a UNIX stream know of each other (SO_PEERSEC).
Owns: SkSecurityStruct. Context: task; those that say so, softirq too.
Gaps: labels of packets (NetLabel, IPsec, secmark, always_check_network), so that TCP has no peer labels, as in Linux
    without them; SCM_SECURITY.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import register
from glasskernel.lib.errno import EAFNOSUPPORT, EINVAL, ENOPROTOOPT, KernelError
from glasskernel.lib.types import notrace
from glasskernel.net.netlink.types import (
    NETLINK_AUDIT,
    NETLINK_CONNECTOR,
    NETLINK_DNRTMSG,
    NETLINK_FIB_LOOKUP,
    NETLINK_GENERIC,
    NETLINK_ISCSI,
    NETLINK_KOBJECT_UEVENT,
    NETLINK_NETFILTER,
    NETLINK_NFLOG,
    NETLINK_ROUTE,
    NETLINK_SELINUX,
    NETLINK_SOCK_DIAG,
    NETLINK_XFRM,
)
from glasskernel.net.types import (
    AF_INET,
    AF_NETLINK,
    AF_PACKET,
    AF_UNIX,
    AF_UNSPEC,
    IPPROTO_ICMP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    SOCK_DGRAM,
    SOCK_RAW,
    SOCK_SEQPACKET,
    SOCK_STREAM,
)
from glasskernel.security.lsm_audit import LSM_AUDIT_DATA_NET, CommonAuditData, LsmNetworkAudit
from glasskernel.security.selinux import flask
from glasskernel.security.selinux.av_permissions import (
    RAWIP_SOCKET__NODE_BIND,
    SOCKET__ACCEPT,
    SOCKET__BIND,
    SOCKET__CONNECT,
    SOCKET__CREATE,
    SOCKET__GETATTR,
    SOCKET__GETOPT,
    SOCKET__LISTEN,
    SOCKET__NAME_BIND,
    SOCKET__READ,
    SOCKET__SENDTO,
    SOCKET__SETOPT,
    SOCKET__SHUTDOWN,
    SOCKET__WRITE,
    TCP_SOCKET__NAME_CONNECT,
    UNIX_STREAM_SOCKET__CONNECTTO,
)
from glasskernel.security.selinux.avc import avc_has_perm
from glasskernel.security.selinux.classmap import secclass_map
from glasskernel.security.selinux.nlmsgtab import selinux_nlmsg_lookup
from glasskernel.security.selinux.objsec import (
    LABEL_INITIALIZED,
    SkSecurityStruct,
    TaskSecurityStruct,
    current_sid,
    selinux_cred,
    selinux_inode,
    selinux_sock,
    selinux_state,
)
from glasskernel.security.selinux.ss.services import security_sid_to_context, security_transition_sid
from glasskernel.security.selinux.ss.services_net import security_node_sid, security_port_sid, security_sid_mls_copy
from glasskernel.security.selinux.types import POLICYDB_CAPABILITY_EXTSOCKCLASS, SECSID_NULL

if TYPE_CHECKING:
    from glasskernel.net.types import Sock, Socket

SIZEOF_SOCKADDR_IN, NLMSG_HDRLEN = 16, 16
NETLINK_SCSITRANSPORT, NETLINK_RDMA, NETLINK_CRYPTO = 18, 20, 21         # protocols that this kernel has not
_NETLINK_CLASSES = {
    NETLINK_ROUTE: flask.SECCLASS_NETLINK_ROUTE_SOCKET, NETLINK_SOCK_DIAG: flask.SECCLASS_NETLINK_TCPDIAG_SOCKET,
    NETLINK_NFLOG: flask.SECCLASS_NETLINK_NFLOG_SOCKET, NETLINK_XFRM: flask.SECCLASS_NETLINK_XFRM_SOCKET,
    NETLINK_SELINUX: flask.SECCLASS_NETLINK_SELINUX_SOCKET, NETLINK_ISCSI: flask.SECCLASS_NETLINK_ISCSI_SOCKET,
    NETLINK_AUDIT: flask.SECCLASS_NETLINK_AUDIT_SOCKET, NETLINK_FIB_LOOKUP: flask.SECCLASS_NETLINK_FIB_LOOKUP_SOCKET,
    NETLINK_CONNECTOR: flask.SECCLASS_NETLINK_CONNECTOR_SOCKET,
    NETLINK_NETFILTER: flask.SECCLASS_NETLINK_NETFILTER_SOCKET, NETLINK_DNRTMSG: flask.SECCLASS_NETLINK_DNRT_SOCKET,
    NETLINK_KOBJECT_UEVENT: flask.SECCLASS_NETLINK_KOBJECT_UEVENT_SOCKET,
    NETLINK_GENERIC: flask.SECCLASS_NETLINK_GENERIC_SOCKET,
    NETLINK_SCSITRANSPORT: flask.SECCLASS_NETLINK_SCSITRANSPORT_SOCKET,
    NETLINK_RDMA: flask.SECCLASS_NETLINK_RDMA_SOCKET,
    NETLINK_CRYPTO: flask.SECCLASS_NETLINK_CRYPTO_SOCKET,
}


# ---- what the hooks are made of --------------------------------------------------------------------------------
@notrace
def socket_type_to_security_class(family: int, type: int, protocol: int) -> int:
    """SECCLASS_* of a kind of socket."""
    if family == AF_UNIX:
        return flask.SECCLASS_UNIX_STREAM_SOCKET if type in (SOCK_STREAM, SOCK_SEQPACKET) else (
            flask.SECCLASS_UNIX_DGRAM_SOCKET if type in (SOCK_DGRAM, SOCK_RAW) else flask.SECCLASS_SOCKET)
    if family == AF_INET:
        if type in (SOCK_STREAM, SOCK_SEQPACKET):
            return flask.SECCLASS_TCP_SOCKET if protocol in (0, IPPROTO_TCP) else flask.SECCLASS_RAWIP_SOCKET
        if type == SOCK_DGRAM and protocol in (0, IPPROTO_UDP):
            return flask.SECCLASS_UDP_SOCKET
        extended = selinux_state().policycap[POLICYDB_CAPABILITY_EXTSOCKCLASS]
        if type == SOCK_DGRAM and protocol == IPPROTO_ICMP and extended:
            return flask.SECCLASS_ICMP_SOCKET
        return flask.SECCLASS_RAWIP_SOCKET
    if family == AF_NETLINK:
        return _NETLINK_CLASSES.get(protocol, flask.SECCLASS_NETLINK_SOCKET)
    return flask.SECCLASS_PACKET_SOCKET if family == AF_PACKET else flask.SECCLASS_SOCKET


def socket_sockcreate_sid(tsec: TaskSecurityStruct, secclass: int) -> int:
    """The label of a new socket: what was asked for in /proc/self/attr/sockcreate, or the policy's."""
    return tsec.sockcreate_sid or security_transition_sid(selinux_state(), tsec.sid, tsec.sid, secclass, None)


def sock_has_perm(sk: Sock, perms: int) -> None:
    """May the caller do this to a socket? The kernel's own ones are nobody's business. Raises EACCES."""
    sksec = selinux_sock(sk)
    if sksec.sid != flask.SECINITSID_KERNEL:
        avc_has_perm(selinux_state(), current_sid(), sksec.sid, sksec.sclass, perms,
                     CommonAuditData(LSM_AUDIT_DATA_NET, LsmNetworkAudit(sk)))


# ---- making ----------------------------------------------------------------------------------------------------
def selinux_sk_alloc_security(sk: Sock) -> None:
    sk.sk_security = SkSecurityStruct(sclass=flask.SECCLASS_SOCKET)


def selinux_sk_clone_security(sk: Sock, newsk: Sock) -> None:
    """Context: softirq too."""
    old = selinux_sock(sk)
    newsk.sk_security = SkSecurityStruct(old.sid, old.peer_sid, old.sclass)


def selinux_socket_create(family: int, type: int, protocol: int, kern: bool) -> None:
    if kern:
        return
    tsec = selinux_cred(register.task.cred)
    secclass = socket_type_to_security_class(family, type, protocol)
    avc_has_perm(selinux_state(), tsec.sid, socket_sockcreate_sid(tsec, secclass), secclass, SOCKET__CREATE)


def selinux_socket_post_create(sock: Socket, family: int, type: int, protocol: int, kern: bool) -> None:
    sclass = socket_type_to_security_class(family, type, protocol)
    sid = flask.SECINITSID_KERNEL if kern else socket_sockcreate_sid(selinux_cred(register.task.cred), sclass)
    isec = selinux_inode(sock.inode)
    isec.sclass, isec.sid, isec.initialized = sclass, sid, LABEL_INITIALIZED
    if sock.sk is not None:
        sksec = selinux_sock(sock.sk)
        sksec.sclass, sksec.sid = sclass, sid


def selinux_socket_socketpair(socka: Socket, sockb: Socket) -> None:
    a, b = selinux_sock(socka.sk), selinux_sock(sockb.sk)
    a.peer_sid, b.peer_sid = b.sid, a.sid


def selinux_sock_graft(sk: Sock, parent: Socket) -> None:
    """accept(2): the file has the label of the connection."""
    isec, sksec = selinux_inode(parent.inode), selinux_sock(sk)
    if sk.sk_family in (AF_INET, AF_UNIX):
        isec.sid = sksec.sid
    sksec.sclass = isec.sclass


# ---- names -----------------------------------------------------------------------------------------------------
@notrace
def inet_address(address: bytes) -> tuple[int, bytes]:
    """(port, address) of a struct sockaddr_in. Raises EINVAL."""
    if len(address) < SIZEOF_SOCKADDR_IN:
        raise KernelError(EINVAL)
    return int.from_bytes(address[2:4], "big"), address[4:8]


def selinux_socket_bind(sock: Socket, address: bytes) -> None:
    """A port below the local range needs name_bind, the address node_bind. Raises EACCES, EINVAL, EAFNOSUPPORT."""
    sk: Any = sock.sk
    sock_has_perm(sk, SOCKET__BIND)
    if sk.sk_family != AF_INET:
        return
    if len(address) < 2:
        raise KernelError(EINVAL)
    family = int.from_bytes(address[:2], "little")
    if family not in (AF_INET, AF_UNSPEC):
        raise KernelError(EAFNOSUPPORT)
    port, addr = inet_address(address)
    if family == AF_UNSPEC and any(addr):
        raise KernelError(EAFNOSUPPORT)
    state, sksec = selinux_state(), selinux_sock(sk)
    ad = CommonAuditData(LSM_AUDIT_DATA_NET, LsmNetworkAudit(None, AF_INET, sport=port))
    if port:
        from glasskernel.net.ipv4.inet_hash_connect import inet_get_local_port_range  # not before TCP is there

        low, high = inet_get_local_port_range(sk.sk_net)
        if port < max(sk.sk_net.ipv4.sysctl["ip_unprivileged_port_start"], low) or port > high:
            avc_has_perm(state, sksec.sid, security_port_sid(state, sk.sk_protocol, port), sksec.sclass,
                         SOCKET__NAME_BIND, ad)
    ad.u.saddr = int.from_bytes(addr, "big")
    avc_has_perm(state, sksec.sid, security_node_sid(state, addr), sksec.sclass, RAWIP_SOCKET__NODE_BIND, ad)


def selinux_socket_connect(sock: Socket, address: bytes) -> None:
    """A TCP port needs name_connect. Raises EACCES, EINVAL."""
    sk = sock.sk
    sock_has_perm(sk, SOCKET__CONNECT)
    if len(address) < 2:
        raise KernelError(EINVAL)
    family = int.from_bytes(address[:2], "little")
    state, sksec = selinux_state(), selinux_sock(sk)
    if family == AF_UNSPEC or sksec.sclass != flask.SECCLASS_TCP_SOCKET:
        return
    port, _ = inet_address(address)
    ad = CommonAuditData(LSM_AUDIT_DATA_NET, LsmNetworkAudit(None, family, dport=port))
    avc_has_perm(state, sksec.sid, security_port_sid(state, sk.sk_protocol, port), sksec.sclass,
                 TCP_SOCKET__NAME_CONNECT, ad)


def selinux_socket_listen(sock: Socket) -> None:
    sock_has_perm(sock.sk, SOCKET__LISTEN)


def selinux_socket_accept(sock: Socket, newsock: Socket) -> None:
    sock_has_perm(sock.sk, SOCKET__ACCEPT)
    isec, newisec = selinux_inode(sock.inode), selinux_inode(newsock.inode)
    newisec.sclass, newisec.sid, newisec.initialized = isec.sclass, isec.sid, LABEL_INITIALIZED


def selinux_socket_unix_stream_connect(sock: Sock, other: Sock, newsk: Sock) -> None:
    """May `sock` connect to the listener `other`? newsk, the server's end, gets its label, and both the other's."""
    state = selinux_state()
    one, two, new = selinux_sock(sock), selinux_sock(other), selinux_sock(newsk)
    avc_has_perm(state, one.sid, two.sid, two.sclass, UNIX_STREAM_SOCKET__CONNECTTO,
                 CommonAuditData(LSM_AUDIT_DATA_NET, LsmNetworkAudit(other)))
    new.peer_sid = one.sid
    new.sid = security_sid_mls_copy(state, two.sid, one.sid)
    one.peer_sid = new.sid


def selinux_socket_unix_may_send(sock: Socket, other: Socket) -> None:
    ssec, osec = selinux_sock(sock.sk), selinux_sock(other.sk)
    avc_has_perm(selinux_state(), ssec.sid, osec.sid, osec.sclass, SOCKET__SENDTO,
                 CommonAuditData(LSM_AUDIT_DATA_NET, LsmNetworkAudit(other.sk)))


# ---- netlink -----------------------------------------------------------------------------------------------------
def selinux_netlink_send(sk: Sock, data: bytes) -> None:
    selinux_nlmsg_perm(sk, data)


def selinux_nlmsg_perm(sk: Sock, data: bytes) -> None:
    """A message that reads needs nlmsg_read, one that changes something nlmsg_write. Raises EACCES, EINVAL."""
    if len(data) < NLMSG_HDRLEN:
        raise KernelError(EINVAL)
    state, sclass = selinux_state(), selinux_sock(sk).sclass
    nlmsg_type = int.from_bytes(data[4:6], "little")
    try:
        perm = selinux_nlmsg_lookup(sclass, nlmsg_type)
    except KernelError as error:
        if error.errno != EINVAL:
            return
        task = register.task
        state.kernel.printk(
            f"SELinux: unrecognized netlink message: protocol={sk.sk_protocol} nlmsg_type={nlmsg_type} "
            f"sclass={list(secclass_map)[sclass - 1]} pid={task.pid} comm={task.comm.decode(errors='replace')}", 4)
        if state.enforcing and not state.ss.policydb.allow_unknown:
            raise
        return
    sock_has_perm(sk, perm)


# ---- use -------------------------------------------------------------------------------------------------------
def selinux_socket_sendmsg(sock: Socket) -> None:
    sock_has_perm(sock.sk, SOCKET__WRITE)


def selinux_socket_recvmsg(sock: Socket) -> None:
    sock_has_perm(sock.sk, SOCKET__READ)


def selinux_socket_getsockname(sock: Socket) -> None:
    sock_has_perm(sock.sk, SOCKET__GETATTR)


def selinux_socket_getpeername(sock: Socket) -> None:
    sock_has_perm(sock.sk, SOCKET__GETATTR)


def selinux_socket_getsockopt(sock: Socket) -> None:
    sock_has_perm(sock.sk, SOCKET__GETOPT)


def selinux_socket_setsockopt(sock: Socket, _level: int, _optname: int) -> None:
    sock_has_perm(sock.sk, SOCKET__SETOPT)


def selinux_socket_shutdown(sock: Socket) -> None:
    sock_has_perm(sock.sk, SOCKET__SHUTDOWN)


def selinux_socket_getpeersec_stream(sock: Socket) -> bytes:
    """The other end's context with its NUL. Raises ENOPROTOOPT: it has none."""
    sksec = selinux_sock(sock.sk)
    stream = sksec.sclass in (flask.SECCLASS_UNIX_STREAM_SOCKET, flask.SECCLASS_TCP_SOCKET)
    if not stream or sksec.peer_sid == SECSID_NULL:
        raise KernelError(ENOPROTOOPT)
    return security_sid_to_context(selinux_state(), sksec.peer_sid) + b"\0"


def selinux_inet_csk_clone(newsk: Sock) -> None:
    """A connection that was accepted: its packets had no label. Context: softirq."""
    selinux_sock(newsk).peer_sid = SECSID_NULL


def selinux_inet_conn_established(sk: Sock) -> None:
    """The same on the side that connected. Context: softirq."""
    selinux_sock(sk).peer_sid = SECSID_NULL


NET_HOOKS: dict[str, Callable[..., Any]] = {
    "netlink_send": selinux_netlink_send,
    "unix_stream_connect": selinux_socket_unix_stream_connect,
    "unix_may_send": selinux_socket_unix_may_send,
    "socket_create": selinux_socket_create,
    "socket_post_create": selinux_socket_post_create,
    "socket_socketpair": selinux_socket_socketpair,
    "socket_bind": selinux_socket_bind,
    "socket_connect": selinux_socket_connect,
    "socket_listen": selinux_socket_listen,
    "socket_accept": selinux_socket_accept,
    "socket_sendmsg": selinux_socket_sendmsg,
    "socket_recvmsg": selinux_socket_recvmsg,
    "socket_getsockname": selinux_socket_getsockname,
    "socket_getpeername": selinux_socket_getpeername,
    "socket_getsockopt": selinux_socket_getsockopt,
    "socket_setsockopt": selinux_socket_setsockopt,
    "socket_shutdown": selinux_socket_shutdown,
    "socket_getpeersec_stream": selinux_socket_getpeersec_stream,
    "sk_alloc_security": selinux_sk_alloc_security,
    "sk_clone_security": selinux_sk_clone_security,
    "sock_graft": selinux_sock_graft,
    "inet_csk_clone": selinux_inet_csk_clone,
    "inet_conn_established": selinux_inet_conn_established,
}
