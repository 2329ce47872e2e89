"""System calls that send and receive: sendto, recvfrom, sendmsg, recvmsg, sendmmsg, recvmmsg.

Linux: net/socket.c (5.3). Same: O_NONBLOCK is MSG_DONTWAIT, what is checked before the family is asked, how the answer
is split between struct msghdr and the return value.
Differs: control messages go to the user in one piece, when the family has put them together.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, put_user_u32, put_user_u64
from glasskernel.fs.read_write import LONG_COPY, MAX_RW_COUNT, copy_iovec
from glasskernel.fs.types import O_NONBLOCK
from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import cond_resched
from glasskernel.kernel.sched.preempt import busy_for
from glasskernel.kernel.time.timekeeping import ktime_get
from glasskernel.lib.errno import EAGAIN, EFAULT, EINVAL, EMSGSIZE, ENOBUFS, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, size_t, to_s32, u32
from glasskernel.machine.costs import COPY_SHIFT
from glasskernel.mm.iov_iter import UserIter
from glasskernel.net.core.sock import sock_error
from glasskernel.net.init import net_state
from glasskernel.net.socket import fput_light, sock_recvmsg, sock_sendmsg, sockfd_lookup_light
from glasskernel.net.socket_calls import SIZEOF_SOCKADDR_STORAGE, move_addr_to_kernel, move_addr_to_user
from glasskernel.net.types import (
    MSG_BATCH,
    MSG_CMSG_CLOEXEC,
    MSG_DONTWAIT,
    MSG_EOR,
    MSG_OOB,
    MSG_WAITFORONE,
    MsgHdr,
)

if TYPE_CHECKING:
    from glasskernel.net.types import Socket

TASK_SIZE = 0x7FFF_FFFF_F000
UIO_MAXIOV = 1024
SIZEOF_MSGHDR, SIZEOF_MMSGHDR = 56, 64
_MSGHDR = struct.Struct("<QIxxxxQQQQIxxxx")          # name, namelen, iov, iovlen, control, controllen, flags
_CONTROLLEN, _FLAGS = 40, 48                         # offsets
_NAMELEN = 8
INT_MAX = 0x7FFFFFFF


@notrace
def import_single_range(buf: int, length: int) -> UserIter:
    """One user buffer, at most MAX_RW_COUNT of it. Raises EFAULT."""
    if length > MAX_RW_COUNT:
        length = MAX_RW_COUNT
    if buf + length > TASK_SIZE:
        raise KernelError(EFAULT)
    return UserIter([(buf, length)])


@notrace
def _charge_copy(size: int) -> None:
    """The time that copying takes, as vfs_read() counts it."""
    if size < LONG_COPY:
        register.task.kernel.machine.this_cpu.clock_ns += size >> COPY_SHIFT
    else:
        busy_for(size >> COPY_SHIFT)


# ---- one buffer -----------------------------------------------------------------------------------------------
@may_sleep
def __sys_sendto(fd: int, buff: int, length: int, flags: int, addr: int, addr_len: int) -> int:
    msg = MsgHdr(import_single_range(buff, length))
    sock, file = sockfd_lookup_light(fd)
    try:
        if addr:
            msg.msg_name = move_addr_to_kernel(addr, addr_len)
        assert sock.file is not None
        if sock.file.f_flags & O_NONBLOCK:
            flags |= MSG_DONTWAIT
        msg.msg_flags = flags
        sent = sock_sendmsg(sock, msg)
        _charge_copy(sent)
        return sent
    finally:
        fput_light(file)


@syscall
def sys_sendto(fd: int, buff: UserPtr, len: size_t, flags: u32, addr: UserPtr, addr_len: int) -> int:
    """sendto(2). Errors: EBADF, ENOTSOCK, EFAULT, EAGAIN, EPIPE, EMSGSIZE, ENOTCONN, EISCONN, EDESTADDRREQ, ..."""
    return __sys_sendto(fd, buff, len, flags, addr, addr_len)


@may_sleep
def __sys_recvfrom(fd: int, ubuf: int, size: int, flags: int, addr: int, addr_len: int) -> int:
    msg = MsgHdr(import_single_range(ubuf, size))
    sock, file = sockfd_lookup_light(fd)
    try:
        assert sock.file is not None
        if sock.file.f_flags & O_NONBLOCK:
            flags |= MSG_DONTWAIT
        received = sock_recvmsg(sock, msg, flags)
        if addr:
            move_addr_to_user(msg.msg_name or b"", addr, addr_len)
        _charge_copy(received)
        return received
    finally:
        fput_light(file)


@syscall
def sys_recvfrom(fd: int, ubuf: UserPtr, size: size_t, flags: u32, addr: UserPtr, addr_len: UserPtr) -> int:
    """recvfrom(2). Errors: EBADF, ENOTSOCK, EFAULT, EAGAIN, EINTR, ENOTCONN, ECONNREFUSED, EINVAL."""
    return __sys_recvfrom(fd, ubuf, size, flags, addr, addr_len)


# ---- struct msghdr --------------------------------------------------------------------------------------------
@notrace
def copy_msghdr_from_user(umsg: int, sending: bool) -> tuple[MsgHdr, int, int, int]:
    """(the message, where its control messages are, the user's msg_flags, his address's buffer).

    Raises EFAULT, EINVAL, EMSGSIZE (too many buffers).
    """
    name, namelen, iov, iovlen, control, controllen, flags = _MSGHDR.unpack(copy_from_user(umsg, SIZEOF_MSGHDR))
    namelen = to_s32(namelen) if name else 0
    if namelen < 0:
        raise KernelError(EINVAL)
    address = None
    if sending and namelen:
        address = move_addr_to_kernel(name, min(namelen, SIZEOF_SOCKADDR_STORAGE))
    if iovlen > UIO_MAXIOV:
        raise KernelError(EMSGSIZE)
    msg = MsgHdr(copy_iovec(iov, iovlen), address)
    msg.msg_controllen = controllen
    return msg, control, flags, name


@may_sleep
def ___sys_sendmsg(sock: Socket, umsg: int, flags: int, allowed_msghdr_flags: int) -> tuple[int, MsgHdr]:
    """(how many bytes went, the message)."""
    msg, control, uflags, _name = copy_msghdr_from_user(umsg, True)
    length = msg.msg_controllen
    if length > INT_MAX or length > net_state(register.task.kernel).optmem_max:
        raise KernelError(ENOBUFS)
    if length:
        msg.msg_control = copy_from_user(control, length)
    msg.msg_flags = flags | uflags & allowed_msghdr_flags
    assert sock.file is not None
    if sock.file.f_flags & O_NONBLOCK:
        msg.msg_flags |= MSG_DONTWAIT
    sent = sock_sendmsg(sock, msg)
    _charge_copy(sent)
    return sent, msg


@may_sleep
def __sys_sendmsg(fd: int, umsg: int, flags: int) -> int:
    sock, file = sockfd_lookup_light(fd)
    try:
        return ___sys_sendmsg(sock, umsg, flags, 0)[0]
    finally:
        fput_light(file)


@syscall
def sys_sendmsg(fd: int, msg: UserPtr, flags: u32) -> int:
    """sendmsg(2). Errors: those of sendto(2), EMSGSIZE, ENOBUFS, and of control messages EINVAL, EPERM, EBADF."""
    return __sys_sendmsg(fd, msg, flags)


@may_sleep
def ___sys_recvmsg(sock: Socket, umsg: int, flags: int) -> tuple[int, MsgHdr]:
    """(how many bytes came, the message)."""
    msg, control, _uflags, name = copy_msghdr_from_user(umsg, False)
    if not control:
        msg.msg_controllen = 0
    msg.msg_flags = flags & MSG_CMSG_CLOEXEC
    assert sock.file is not None
    if sock.file.f_flags & O_NONBLOCK:
        flags |= MSG_DONTWAIT
    received = sock_recvmsg(sock, msg, flags)
    _charge_copy(received)
    if name:
        move_addr_to_user(msg.msg_name or b"", name, umsg + _NAMELEN)
    if msg.control:
        copy_to_user(control, msg.control)
    put_user_u32(umsg + _FLAGS, msg.msg_flags)
    put_user_u64(umsg + _CONTROLLEN, len(msg.control))
    return received, msg


@may_sleep
def __sys_recvmsg(fd: int, umsg: int, flags: int) -> int:
    sock, file = sockfd_lookup_light(fd)
    try:
        return ___sys_recvmsg(sock, umsg, flags)[0]
    finally:
        fput_light(file)


@syscall
def sys_recvmsg(fd: int, msg: UserPtr, flags: u32) -> int:
    """recvmsg(2). Errors: those of recvfrom(2), EMSGSIZE."""
    return __sys_recvmsg(fd, msg, flags)


# ---- several at once ------------------------------------------------------------------------------------------
@may_sleep
def __sys_sendmmsg(fd: int, mmsg: int, vlen: int, flags: int) -> int:
    """Sends until one message does not go completely. An error counts only if it is the first message's."""
    vlen = min(vlen, UIO_MAXIOV)
    sock, file = sockfd_lookup_light(fd)
    datagrams = 0
    try:
        while datagrams < vlen:
            batch = MSG_BATCH if datagrams != vlen - 1 else 0
            entry = mmsg + datagrams * SIZEOF_MMSGHDR
            try:
                sent, msg = ___sys_sendmsg(sock, entry, flags | batch, MSG_EOR)
                put_user_u32(entry + SIZEOF_MSGHDR, sent)
            except KernelError:
                if not datagrams:
                    raise
                break
            datagrams += 1
            if msg.msg_iter.count:
                break
            cond_resched()
        return datagrams
    finally:
        fput_light(file)


@syscall
def sys_sendmmsg(fd: int, mmsg: UserPtr, vlen: u32, flags: u32) -> int:
    """sendmmsg(2). Errors: those of sendmsg(2), for the first message."""
    return __sys_sendmmsg(fd, mmsg, vlen, flags)


@may_sleep
def do_recvmmsg(fd: int, mmsg: int, vlen: int, flags: int, deadline_ns: int | None) -> int:
    """Receives until all are there, the deadline (looked at between messages only) is over, or one fails."""
    sock, file = sockfd_lookup_light(fd)
    datagrams = 0
    try:
        err = sock_error(sock.sk)
        if err:
            raise KernelError(err)
        while datagrams < vlen:
            entry = mmsg + datagrams * SIZEOF_MMSGHDR
            try:
                received, msg = ___sys_recvmsg(sock, entry, flags & ~MSG_WAITFORONE)
                put_user_u32(entry + SIZEOF_MSGHDR, received)
            except KernelError as error:
                if not datagrams:
                    raise
                if error.errno != EAGAIN:
                    sock.sk.sk_err = error.errno       # the next call reports it
                break
            datagrams += 1
            if flags & MSG_WAITFORONE:
                flags |= MSG_DONTWAIT
            if (deadline_ns is not None and ktime_get() >= deadline_ns) or msg.msg_flags & MSG_OOB:
                break
            cond_resched()
        return datagrams
    finally:
        fput_light(file)


@may_sleep
def __sys_recvmmsg(fd: int, mmsg: int, vlen: int, flags: int, timeout: int) -> int:
    if not timeout:
        return do_recvmmsg(fd, mmsg, vlen, flags, None)
    seconds, ns = struct.unpack("<qq", copy_from_user(timeout, 16))
    if seconds < 0 or not 0 <= ns < 1_000_000_000:
        raise KernelError(EINVAL)
    deadline_ns = ktime_get() + seconds * 1_000_000_000 + ns
    datagrams = do_recvmmsg(fd, mmsg, vlen, flags, deadline_ns)
    if datagrams > 0:
        copy_to_user(timeout, struct.pack("<qq", *divmod(max(deadline_ns - ktime_get(), 0), 1_000_000_000)))
    return datagrams


@syscall
def sys_recvmmsg(fd: int, mmsg: UserPtr, vlen: u32, flags: u32, timeout: UserPtr) -> int:
    """recvmmsg(2). Errors: those of recvmsg(2), for the first message; EINVAL for the timeout."""
    return __sys_recvmmsg(fd, mmsg, vlen, flags, timeout)
