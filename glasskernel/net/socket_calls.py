"""System calls on sockets: making, naming, connecting.

Linux: net/socket.c (5.3). Messages are in socket_messages.py, options in socket_options.py.
Same: the order of checks (descriptor before address, address before family), which flags are refused.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, get_user_u32, put_user_u32
from glasskernel.fs.file import fd_install, get_unused_fd_flags, put_unused_fd
from glasskernel.fs.file_table import fput
from glasskernel.fs.types import O_CLOEXEC, O_NONBLOCK
from glasskernel.kernel.current import register
from glasskernel.lib.errno import ECONNABORTED, EINVAL, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, to_s32
from glasskernel.net.init import net_state
from glasskernel.net.socket import (
    fput_light,
    sock_alloc,
    sock_alloc_file,
    sock_create,
    sock_map_fd,
    sock_release,
    sockfd_lookup_light,
)
from glasskernel.net.types import SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_TYPE_MASK

if TYPE_CHECKING:
    from glasskernel.fs.types import File
    from glasskernel.net.types import Socket

SIZEOF_SOCKADDR_STORAGE = 128


# ---- addresses ------------------------------------------------------------------------------------------------
def move_addr_to_kernel(uaddr: int, ulen: int) -> bytes:
    """An address of user memory. Raises EINVAL (too long), EFAULT."""
    if not 0 <= ulen <= SIZEOF_SOCKADDR_STORAGE:
        raise KernelError(EINVAL)
    return copy_from_user(uaddr, ulen) if ulen else b""


def move_addr_to_user(address: bytes, uaddr: int, ulen: int) -> None:
    """Stores as much of the address as the user has room for, and its true length. ulen: where the length is.

    Raises EINVAL, EFAULT.
    """
    length = to_s32(get_user_u32(ulen))
    length = min(length, len(address))
    if length < 0:
        raise KernelError(EINVAL)
    if length:
        copy_to_user(uaddr, address[:length])
    put_user_u32(ulen, len(address))


@notrace
def _check_flags(flags: int) -> None:
    assert SOCK_CLOEXEC == O_CLOEXEC and SOCK_NONBLOCK == O_NONBLOCK
    if flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK):
        raise KernelError(EINVAL)


# ---- making ---------------------------------------------------------------------------------------------------
@may_sleep
def __sys_socket(family: int, type_: int, protocol: int) -> int:
    net_state(register.task.kernel)
    flags = type_ & ~SOCK_TYPE_MASK
    _check_flags(flags)
    sock = sock_create(family, type_ & SOCK_TYPE_MASK, protocol)
    return sock_map_fd(sock, flags)


@syscall
def sys_socket(family: int, type: int, protocol: int) -> int:
    """socket(2). Errors: EAFNOSUPPORT, EINVAL, EPROTONOSUPPORT, ESOCKTNOSUPPORT, EPERM, EMFILE, ENFILE."""
    return __sys_socket(family, type, protocol)


@may_sleep
def __sys_socketpair(family: int, type_: int, protocol: int, usockvec: int) -> int:
    net_state(register.task.kernel)
    flags = type_ & ~SOCK_TYPE_MASK
    _check_flags(flags)
    type_ &= SOCK_TYPE_MASK
    fd1 = get_unused_fd_flags(flags)
    fd2 = -1
    try:
        fd2 = get_unused_fd_flags(flags)
        # first, as nobody may see descriptors that are taken back
        copy_to_user(usockvec, fd1.to_bytes(4, "little") + fd2.to_bytes(4, "little"))
        newfile1, newfile2 = _connected_files(family, type_, protocol, flags)
    except KernelError:
        put_unused_fd(fd1)
        if fd2 >= 0:
            put_unused_fd(fd2)
        raise
    fd_install(fd1, newfile1)
    fd_install(fd2, newfile2)
    return 0


@notrace
@may_sleep
def _connected_files(family: int, type_: int, protocol: int, flags: int) -> tuple[File, File]:
    """Two open sockets that are each other's peer; on failure there is nothing left of them."""
    sock1 = sock_create(family, type_, protocol)
    try:
        sock2 = sock_create(family, type_, protocol)
    except KernelError:
        sock_release(sock1)
        raise
    try:
        lsm = register.task.kernel.lsm
        if lsm is not None:
            lsm.security_socket_socketpair(sock1, sock2)
        sock1.ops.socketpair(sock1, sock2)
    except KernelError:
        sock_release(sock2)
        sock_release(sock1)
        raise
    try:
        newfile1 = sock_alloc_file(sock1, flags, None)
    except KernelError:
        sock_release(sock2)
        raise
    try:
        return newfile1, sock_alloc_file(sock2, flags, None)
    except KernelError:
        fput(newfile1)
        raise


@syscall
def sys_socketpair(family: int, type: int, protocol: int, usockvec: UserPtr) -> int:
    """socketpair(2). Errors: those of socket(2), EOPNOTSUPP, EFAULT."""
    return __sys_socketpair(family, type, protocol, usockvec)


# ---- naming and connecting --------------------------------------------------------------------------------------
@may_sleep
def __sys_bind(fd: int, umyaddr: int, addrlen: int) -> int:
    sock, file = sockfd_lookup_light(fd)
    try:
        address = move_addr_to_kernel(umyaddr, addrlen)
        lsm = register.task.kernel.lsm
        if lsm is not None:
            lsm.security_socket_bind(sock, address)
        sock.ops.bind(sock, address)
    finally:
        fput_light(file)
    return 0


@syscall
def sys_bind(fd: int, umyaddr: UserPtr, addrlen: int) -> int:
    """bind(2). Errors: EBADF, ENOTSOCK, EINVAL, EFAULT, EADDRINUSE, EADDRNOTAVAIL, EACCES."""
    return __sys_bind(fd, umyaddr, addrlen)


@may_sleep
def __sys_listen(fd: int, backlog: int) -> int:
    sock, file = sockfd_lookup_light(fd)
    try:
        somaxconn = net_state(register.task.kernel).somaxconn
        backlog &= 0xFFFFFFFF                      # a negative one is a very large one
        lsm = register.task.kernel.lsm
        if lsm is not None:
            lsm.security_socket_listen(sock)
        sock.ops.listen(sock, min(backlog, somaxconn))
    finally:
        fput_light(file)
    return 0


@syscall
def sys_listen(fd: int, backlog: int) -> int:
    """listen(2). Errors: EBADF, ENOTSOCK, EADDRINUSE, EINVAL, EOPNOTSUPP."""
    return __sys_listen(fd, backlog)


@may_sleep
def __sys_accept4(fd: int, upeer_sockaddr: int, upeer_addrlen: int, flags: int) -> int:
    _check_flags(flags)
    sock, file = sockfd_lookup_light(fd)
    try:
        return _accept(sock, upeer_sockaddr, upeer_addrlen, flags)
    finally:
        fput_light(file)


@notrace
@may_sleep
def _accept(sock: Socket, upeer_sockaddr: int, upeer_addrlen: int, flags: int) -> int:
    newsock = sock_alloc()
    newsock.type = sock.type
    newsock.ops = sock.ops
    try:
        newfd = get_unused_fd_flags(flags)
    except KernelError:
        newsock.ops = None  # type: ignore[assignment]         # it has no sk to release yet
        sock_release(newsock)
        raise
    newfile: File | None = None
    try:
        newfile = sock_alloc_file(newsock, flags, sock.sk.sk_prot.name.encode())
        assert sock.file is not None
        lsm = register.task.kernel.lsm
        if lsm is not None:
            lsm.security_socket_accept(sock, newsock)
        sock.ops.accept(sock, newsock, sock.file.f_flags, False)
        if upeer_sockaddr:
            try:
                address = newsock.ops.getname(newsock, 2)
            except KernelError:
                raise KernelError(ECONNABORTED) from None
            move_addr_to_user(address, upeer_sockaddr, upeer_addrlen)
    except KernelError:
        if newfile is not None:
            fput(newfile)
        put_unused_fd(newfd)
        raise
    fd_install(newfd, newfile)
    return newfd


@syscall
def sys_accept4(fd: int, upeer_sockaddr: UserPtr, upeer_addrlen: UserPtr, flags: int) -> int:
    """accept4(2). Errors: EBADF, ENOTSOCK, EINVAL, EAGAIN, EINTR, EMFILE, ENFILE, ECONNABORTED, EOPNOTSUPP, EFAULT."""
    return __sys_accept4(fd, upeer_sockaddr, upeer_addrlen, flags)


@syscall
def sys_accept(fd: int, upeer_sockaddr: UserPtr, upeer_addrlen: UserPtr) -> int:
    """accept(2). Errors: those of accept4(2)."""
    return __sys_accept4(fd, upeer_sockaddr, upeer_addrlen, 0)


@may_sleep
def __sys_connect(fd: int, uservaddr: int, addrlen: int) -> int:
    sock, file = sockfd_lookup_light(fd)
    try:
        address = move_addr_to_kernel(uservaddr, addrlen)
        assert sock.file is not None
        lsm = register.task.kernel.lsm
        if lsm is not None:
            lsm.security_socket_connect(sock, address)
        sock.ops.connect(sock, address, sock.file.f_flags)
    finally:
        fput_light(file)
    return 0


@syscall
def sys_connect(fd: int, uservaddr: UserPtr, addrlen: int) -> int:
    """connect(2). Errors: EBADF, ENOTSOCK, ECONNREFUSED, EINPROGRESS, EALREADY, EISCONN, EAGAIN, EINTR."""
    return __sys_connect(fd, uservaddr, addrlen)


@may_sleep
def __sys_getsockname(fd: int, usockaddr: int, usockaddr_len: int) -> int:
    sock, file = sockfd_lookup_light(fd)
    try:
        lsm = register.task.kernel.lsm
        if lsm is not None:
            lsm.security_socket_getsockname(sock)
        move_addr_to_user(sock.ops.getname(sock, 0), usockaddr, usockaddr_len)
    finally:
        fput_light(file)
    return 0


@syscall
def sys_getsockname(fd: int, usockaddr: UserPtr, usockaddr_len: UserPtr) -> int:
    """getsockname(2). Errors: EBADF, ENOTSOCK, EINVAL, EFAULT."""
    return __sys_getsockname(fd, usockaddr, usockaddr_len)


@may_sleep
def __sys_getpeername(fd: int, usockaddr: int, usockaddr_len: int) -> int:
    sock, file = sockfd_lookup_light(fd)
    try:
        lsm = register.task.kernel.lsm
        if lsm is not None:
            lsm.security_socket_getpeername(sock)
        move_addr_to_user(sock.ops.getname(sock, 1), usockaddr, usockaddr_len)
    finally:
        fput_light(file)
    return 0


@syscall
def sys_getpeername(fd: int, usockaddr: UserPtr, usockaddr_len: UserPtr) -> int:
    """getpeername(2). Errors: EBADF, ENOTSOCK, ENOTCONN, EINVAL, EFAULT."""
    return __sys_getpeername(fd, usockaddr, usockaddr_len)


@may_sleep
def __sys_shutdown(fd: int, how: int) -> int:
    sock, file = sockfd_lookup_light(fd)
    try:
        lsm = register.task.kernel.lsm
        if lsm is not None:
            lsm.security_socket_shutdown(sock)
        sock.ops.shutdown(sock, how)
    finally:
        fput_light(file)
    return 0


@syscall
def sys_shutdown(fd: int, how: int) -> int:
    """shutdown(2). Errors: EBADF, ENOTSOCK, EINVAL, ENOTCONN."""
    return __sys_shutdown(fd, how)
