"""What sockets are asked about.

Linux: the CONFIG_SECURITY_NETWORK part of security/security.c (5.3). Same: which hook is called where. Differs: an
    objection is raised. Owns: nothing. Context: task, but for inet_csk_clone() and inet_conn_established(), which
    softirqs call.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import ENOPROTOOPT, KernelError
from glasskernel.security.security_fs import heads

if TYPE_CHECKING:
    from glasskernel.net.types import Sock, Socket


def security_netlink_send(sk: Sock, data: bytes) -> None:
    """A message to the kernel, or to another program. Raises EACCES, EINVAL."""
    for hook in heads().netlink_send:
        hook(sk, data)


def security_unix_stream_connect(sock: Sock, other: Sock, newsk: Sock) -> None:
    """connect(2) of a stream socket to the listener `other`. Raises EACCES, as the next ones."""
    for hook in heads().unix_stream_connect:
        hook(sock, other, newsk)


def security_unix_may_send(sock: Socket, other: Socket) -> None:
    """A datagram from one to the other."""
    for hook in heads().unix_may_send:
        hook(sock, other)


def security_socket_create(family: int, type: int, protocol: int, kern: bool) -> None:
    for hook in heads().socket_create:
        hook(family, type, protocol, kern)


def security_socket_post_create(sock: Socket, family: int, type: int, protocol: int, kern: bool) -> None:
    """The socket exists: it gets its label."""
    for hook in heads().socket_post_create:
        hook(sock, family, type, protocol, kern)


def security_socket_socketpair(socka: Socket, sockb: Socket) -> None:
    for hook in heads().socket_socketpair:
        hook(socka, sockb)


def security_socket_bind(sock: Socket, address: bytes) -> None:
    for hook in heads().socket_bind:
        hook(sock, address)


def security_socket_connect(sock: Socket, address: bytes) -> None:
    for hook in heads().socket_connect:
        hook(sock, address)


def security_socket_listen(sock: Socket) -> None:
    for hook in heads().socket_listen:
        hook(sock)


def security_socket_accept(sock: Socket, newsock: Socket) -> None:
    for hook in heads().socket_accept:
        hook(sock, newsock)


def security_socket_sendmsg(sock: Socket) -> None:
    for hook in heads().socket_sendmsg:
        hook(sock)


def security_socket_recvmsg(sock: Socket) -> None:
    for hook in heads().socket_recvmsg:
        hook(sock)


def security_socket_getsockname(sock: Socket) -> None:
    for hook in heads().socket_getsockname:
        hook(sock)


def security_socket_getpeername(sock: Socket) -> None:
    for hook in heads().socket_getpeername:
        hook(sock)


def security_socket_getsockopt(sock: Socket) -> None:
    for hook in heads().socket_getsockopt:
        hook(sock)


def security_socket_setsockopt(sock: Socket, level: int, optname: int) -> None:
    for hook in heads().socket_setsockopt:
        hook(sock, level, optname)


def security_socket_shutdown(sock: Socket) -> None:
    for hook in heads().socket_shutdown:
        hook(sock)


def security_socket_getpeersec_stream(sock: Socket) -> bytes:
    """SO_PEERSEC: the label of who is at the other end. Raises ENOPROTOOPT."""
    for hook in heads().socket_getpeersec_stream:
        context: bytes = hook(sock)
        return context
    raise KernelError(ENOPROTOOPT)


def security_sk_alloc(sk: Sock) -> None:
    for hook in heads().sk_alloc_security:
        hook(sk)


def security_sk_clone(sk: Sock, newsk: Sock) -> None:
    for hook in heads().sk_clone_security:
        hook(sk, newsk)


def security_sock_graft(sk: Sock, parent: Socket) -> None:
    """accept(2): a connection gets its file's side."""
    for hook in heads().sock_graft:
        hook(sk, parent)


def security_inet_csk_clone(newsk: Sock) -> None:
    """The handshake is over: the new socket's label."""
    for hook in heads().inet_csk_clone:
        hook(newsk)


def security_inet_conn_established(sk: Sock) -> None:
    """connect(2) has its answer."""
    for hook in heads().inet_conn_established:
        hook(sk)
