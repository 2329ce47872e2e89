"""Control messages: what travels beside the data of a message.

Linux: net/core/scm.c, include/net/scm.h, __sock_recv_timestamp() of net/socket.c (5.3). Same: credentials that are not
the sender's own need privileges, at most 253 files, files that find no room are closed and MSG_CTRUNC says so.
Differs: control messages for a receiver are collected in msg.control; sys_recvmsg() copies them to the user.
Credentials are numbers: there is one PID namespace.
Gaps: SCM_SECURITY, hardware stamps, MSG_ERRQUEUE's SCM_TIMESTAMPING.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_to_user
from glasskernel.fs.file import fd_install, fget_raw, get_unused_fd_flags
from glasskernel.fs.file_table import fput, get_file
from glasskernel.fs.types import O_CLOEXEC
from glasskernel.kernel.capability import CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN, capable
from glasskernel.kernel.current import register
from glasskernel.kernel.pid import find_vpid, task_tgid_vnr
from glasskernel.kernel.time.timekeeping import ktime_get_real
from glasskernel.lib.errno import EINVAL, ENOENT, EPERM, ESRCH, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.net.core.sock import SK_DEFAULT_STAMP, __net_timestamp, sock_enable_timestamp
from glasskernel.net.types import (
    AF_UNIX,
    MSG_CMSG_CLOEXEC,
    MSG_CTRUNC,
    SCM_CREDENTIALS,
    SCM_RIGHTS,
    SO_RXQ_OVFL,
    SO_TIMESTAMP,
    SO_TIMESTAMPNS,
    SOCK_PASSCRED,
    SOCK_RCVTSTAMP,
    SOCK_RCVTSTAMPNS,
    SOCK_RXQ_OVFL,
    SOCK_TIMESTAMP,
    SOL_SOCKET,
    MsgHdr,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from glasskernel.fs.types import File
    from glasskernel.kernel.pid import UserStruct
    from glasskernel.net.skbuff import SkBuff
    from glasskernel.net.types import Sock, Socket

SCM_MAX_FD = 253
CMSG_HEADER = 16
_HEADER = struct.Struct("<QII")


@slotted
class ScmFpList:
    """struct scm_fp_list: files on their way, each with a reference. user: whose RLIMIT_NOFILE they count for."""

    user: UserStruct | None
    fp: list[File] = field(default_factory=list)


@slotted
class ScmCookie:
    """struct scm_cookie: what one message carries. creds: (pid, uid, gid) of the sender; None: unknown."""

    creds: tuple[int, int, int] | None = None
    fp: ScmFpList | None = None


# ---- the layout -----------------------------------------------------------------------------------------------
@notrace
def for_each_cmsghdr(control: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(level, type, data) of each message. Raises EINVAL where one is longer than the rest (CMSG_OK)."""
    offset = 0
    while offset + CMSG_HEADER <= len(control):
        length, level, kind = _HEADER.unpack_from(control, offset)
        if not CMSG_HEADER <= length <= len(control) - offset:
            raise KernelError(EINVAL)
        yield level, kind, control[offset + CMSG_HEADER : offset + length]
        offset += length + 7 & ~7


def put_cmsg(msg: MsgHdr, level: int, kind: int, data: bytes) -> None:
    """A control message for the receiver; what does not fit is cut off, and MSG_CTRUNC set."""
    room = msg.msg_controllen
    if room < CMSG_HEADER:
        msg.msg_flags |= MSG_CTRUNC
        return
    length = CMSG_HEADER + len(data)
    if room < length:
        msg.msg_flags |= MSG_CTRUNC
        length = room
    space = min(CMSG_HEADER + len(data) + 7 & ~7, room)
    msg.control += (_HEADER.pack(length, level, kind) + data[: length - CMSG_HEADER]).ljust(space, b"\0")
    msg.msg_controllen = room - space


# ---- sending --------------------------------------------------------------------------------------------------
@notrace
@may_sleep
def scm_send(sock: Socket, msg: MsgHdr, scm: ScmCookie, forcecreds: bool) -> None:
    """Takes the control messages of a sender. Raises EINVAL, EBADF, EPERM, ESRCH."""
    if forcecreds:
        task = register.task
        scm.creds = (task_tgid_vnr(task), task.cred.uid, task.cred.gid)
    if msg.msg_control:
        __scm_send(sock, msg, scm)


@may_sleep
def __scm_send(sock: Socket, msg: MsgHdr, scm: ScmCookie) -> None:
    try:
        for level, kind, data in for_each_cmsghdr(msg.msg_control):
            if level != SOL_SOCKET:
                continue
            if kind == SCM_RIGHTS:
                if sock.ops is None or sock.ops.family != AF_UNIX:
                    raise KernelError(EINVAL)
                scm_fp_copy(data, scm)
            elif kind == SCM_CREDENTIALS:
                if len(data) != 12:
                    raise KernelError(EINVAL)
                pid, uid, gid = struct.unpack("<iII", data)
                scm_check_creds(pid, uid, gid)
                if find_vpid(pid) is None:
                    raise KernelError(ESRCH)
                scm.creds = (pid, uid, gid)
            else:
                raise KernelError(EINVAL)
    except KernelError:
        scm_destroy(scm)
        raise
    if scm.fp is not None and not scm.fp.fp:
        scm.fp = None


@notrace
def scm_check_creds(pid: int, uid: int, gid: int) -> None:
    """Raises EINVAL for an id that is none, EPERM for a stranger's without the capability to become him."""
    if uid == 0xFFFFFFFF or gid == 0xFFFFFFFF:
        raise KernelError(EINVAL)
    cred = register.task.cred
    if not ((pid == task_tgid_vnr(register.task) or capable(CAP_SYS_ADMIN))
            and (uid in (cred.uid, cred.euid, cred.suid) or capable(CAP_SETUID))
            and (gid in (cred.gid, cred.egid, cred.sgid) or capable(CAP_SETGID))):
        raise KernelError(EPERM)


def scm_fp_copy(data: bytes, scm: ScmCookie) -> None:
    """References on the files that SCM_RIGHTS names. Raises EINVAL (too many), EBADF."""
    count = len(data) // 4
    if not count:
        return
    if count > SCM_MAX_FD:
        raise KernelError(EINVAL)
    fpl = scm.fp
    if fpl is None:
        fpl = scm.fp = ScmFpList(None)
    if len(fpl.fp) + count > SCM_MAX_FD:
        raise KernelError(EINVAL)
    for fd in struct.unpack_from(f"<{count}i", data):
        fpl.fp.append(fget_raw(fd))
    if fpl.user is None:
        task = register.task
        fpl.user = task.kernel.pids.users[task.cred.uid]


def scm_fp_dup(fpl: ScmFpList | None) -> ScmFpList | None:
    """A second list of the same files: MSG_PEEK."""
    if fpl is None:
        return None
    for file in fpl.fp:
        get_file(file)
    return ScmFpList(fpl.user, fpl.fp[:])


@notrace
@may_sleep
def scm_destroy(scm: ScmCookie) -> None:
    """Drops what the message carried."""
    scm.creds = None
    if scm.fp is not None:
        __scm_destroy(scm)


@may_sleep
def __scm_destroy(scm: ScmCookie) -> None:
    fpl = scm.fp
    scm.fp = None
    if fpl is not None:
        for file in reversed(fpl.fp):
            fput(file)


# ---- receiving ------------------------------------------------------------------------------------------------
@notrace
@may_sleep
def scm_recv(sock: Socket, msg: MsgHdr, scm: ScmCookie, flags: int) -> None:
    """What a message carried, for a receiver: credentials if asked for, files. The cookie is used up."""
    if sock.flags & SOCK_PASSCRED:
        pid, uid, gid = scm.creds if scm.creds is not None else (0, 65534, 65534)
        put_cmsg(msg, SOL_SOCKET, SCM_CREDENTIALS, struct.pack("<iII", pid, uid, gid))
    scm.creds = None
    if scm.fp is not None:
        scm_detach_fds(msg, scm)


@may_sleep
def scm_detach_fds(msg: MsgHdr, scm: ScmCookie) -> None:
    """Descriptors for the files that arrived, as many as there is room for; the others are closed."""
    assert scm.fp is not None
    files = scm.fp.fp
    room = msg.msg_controllen - CMSG_HEADER
    flags = O_CLOEXEC if msg.msg_flags & MSG_CMSG_CLOEXEC else 0
    fds: list[int] = []
    for file in files[: max(room, 0) // 4]:
        try:
            if file.f_security is not None:
                file.f_inode.i_sb.kernel.lsm.security_file_receive(file)
            fd = get_unused_fd_flags(flags)
        except KernelError:
            break
        fd_install(fd, get_file(file))
        fds.append(fd)
    if fds:
        put_cmsg(msg, SOL_SOCKET, SCM_RIGHTS, struct.pack(f"<{len(fds)}i", *fds))
    if len(fds) < len(files):
        msg.msg_flags |= MSG_CTRUNC
    __scm_destroy(scm)


# ---- stamps ---------------------------------------------------------------------------------------------------
@notrace
def sock_recv_ts_and_drops(msg: MsgHdr, sk: Sock, skb: SkBuff) -> None:
    """SO_TIMESTAMP, SO_TIMESTAMPNS and SO_RXQ_OVFL of a packet that is being received."""
    if sk.sk_flags & (SOCK_RXQ_OVFL | SOCK_RCVTSTAMP):
        __sock_recv_ts_and_drops(msg, sk, skb)
    elif sk.sk_flags & SOCK_TIMESTAMP:
        sk.sk_stamp = skb.tstamp
    elif sk.sk_stamp == SK_DEFAULT_STAMP:
        sk.sk_stamp = 0


def __sock_recv_ts_and_drops(msg: MsgHdr, sk: Sock, skb: SkBuff) -> None:
    sock_recv_timestamp(msg, sk, skb)
    if sk.sk_flags & SOCK_RXQ_OVFL and sk.sk_drops:
        put_cmsg(msg, SOL_SOCKET, SO_RXQ_OVFL, (sk.sk_drops & 0xFFFFFFFF).to_bytes(4, "little"))


@notrace
def sock_recv_timestamp(msg: MsgHdr, sk: Sock, skb: SkBuff) -> None:
    if sk.sk_flags & SOCK_RCVTSTAMP:
        __sock_recv_timestamp(msg, sk, skb)
    else:
        sk.sk_stamp = skb.tstamp


def __sock_recv_timestamp(msg: MsgHdr, sk: Sock, skb: SkBuff) -> None:
    """The stamp, which is taken now if the packet came before anybody asked for stamps."""
    if not skb.tstamp:
        __net_timestamp(skb)
    seconds, ns = divmod(skb.tstamp, 1_000_000_000)
    if sk.sk_flags & SOCK_RCVTSTAMPNS:
        put_cmsg(msg, SOL_SOCKET, SO_TIMESTAMPNS, struct.pack("<qq", seconds, ns))
    else:
        put_cmsg(msg, SOL_SOCKET, SO_TIMESTAMP, struct.pack("<qq", seconds, ns // 1000))


def sock_gettstamp(sock: Socket, userstamp: int, timeval: bool) -> None:
    """->gettstamp(): when the last packet that was read came. Stamps are taken from now on. Raises ENOENT, EFAULT."""
    sk = sock.sk
    sock_enable_timestamp(sk)
    if sk.sk_stamp == SK_DEFAULT_STAMP:
        raise KernelError(ENOENT)                  # nothing was read yet
    if not sk.sk_stamp:
        sk.sk_stamp = ktime_get_real()
    seconds, ns = divmod(sk.sk_stamp, 1_000_000_000)
    copy_to_user(userstamp, struct.pack("<qq", seconds, ns // 1000 if timeval else ns))
