"""System calls on sockets: setsockopt, getsockopt.

Linux: net/socket.c (5.3). Same: options of level SOL_SOCKET are everybody's, the others the family's.
"""
from __future__ import annotations

from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep
from glasskernel.net.core.sock_options import sock_getsockopt, sock_setsockopt
from glasskernel.net.socket import fput_light, sockfd_lookup_light
from glasskernel.net.types import SOL_SOCKET


@may_sleep
def __sys_setsockopt(fd: int, level: int, optname: int, optval: int, optlen: int) -> int:
    if optlen < 0:
        raise KernelError(EINVAL)
    sock, file = sockfd_lookup_light(fd)
    try:
        if sock.inode.i_security is not None:
            sock.inode.i_sb.kernel.lsm.security_socket_setsockopt(sock, level, optname)
        if level == SOL_SOCKET:
            sock_setsockopt(sock, level, optname, optval, optlen)
        else:
            sock.ops.setsockopt(sock, level, optname, optval, optlen)
    finally:
        fput_light(file)
    return 0


@syscall
def sys_setsockopt(fd: int, level: int, optname: int, optval: UserPtr, optlen: int) -> int:
    """setsockopt(2). Errors: EBADF, ENOTSOCK, ENOPROTOOPT, EINVAL, EFAULT, EPERM, EDOM."""
    return __sys_setsockopt(fd, level, optname, optval, optlen)


@may_sleep
def __sys_getsockopt(fd: int, level: int, optname: int, optval: int, optlen: int) -> int:
    sock, file = sockfd_lookup_light(fd)
    try:
        if sock.inode.i_security is not None:
            sock.inode.i_sb.kernel.lsm.security_socket_getsockopt(sock)
        if level == SOL_SOCKET:
            sock_getsockopt(sock, level, optname, optval, optlen)
        else:
            sock.ops.getsockopt(sock, level, optname, optval, optlen)
    finally:
        fput_light(file)
    return 0


@syscall
def sys_getsockopt(fd: int, level: int, optname: int, optval: UserPtr, optlen: UserPtr) -> int:
    """getsockopt(2). Errors: EBADF, ENOTSOCK, ENOPROTOOPT, EINVAL, EFAULT."""
    return __sys_getsockopt(fd, level, optname, optval, optlen)
