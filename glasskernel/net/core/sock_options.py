"""setsockopt(2) and getsockopt(2) at level SOL_SOCKET, and options that travel with one message.

Linux: net/core/sock.c (5.3). Same: buffer sizes are doubled, order of the checks, which options need a capability.
Gaps: SO_ATTACH_REUSEPORT_*, SO_TIMESTAMPING, SO_BUSY_POLL, SO_ZEROCOPY, SO_TXTIME (all ENOPROTOOPT).
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, get_user_u32, put_user_u32
from glasskernel.kernel.capability import CAP_NET_ADMIN, CAP_NET_RAW, capable
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.errno import (
    EACCES,
    EDOM,
    EINVAL,
    ENODATA,
    ENODEV,
    ENOPROTOOPT,
    ENOTCONN,
    EOPNOTSUPP,
    EPERM,
    ERANGE,
    KernelError,
)
from glasskernel.lib.types import may_sleep, notrace, to_s32
from glasskernel.net.core.filter import SKF_AD_MAX, sk_attach_filter, sk_detach_filter, sk_get_filter
from glasskernel.net.core.sock import (
    lock_sock,
    release_sock,
    sk_dst_reset,
    sock_enable_timestamp,
    sock_error,
    sock_gen_cookie,
)
from glasskernel.net.core.sock_memory import SOCK_MIN_RCVBUF, SOCK_MIN_SNDBUF
from glasskernel.net.init import start_network
from glasskernel.net.netdevice import IFNAMSIZ
from glasskernel.net.types import (
    MAX_SCHEDULE_TIMEOUT,
    SO_ACCEPTCONN,
    SO_ATTACH_BPF,
    SO_ATTACH_FILTER,
    SO_BINDTODEVICE,
    SO_BROADCAST,
    SO_BSDCOMPAT,
    SO_COOKIE,
    SO_DEBUG,
    SO_DETACH_FILTER,
    SO_DOMAIN,
    SO_DONTROUTE,
    SO_ERROR,
    SO_INCOMING_CPU,
    SO_KEEPALIVE,
    SO_LINGER,
    SO_LOCK_FILTER,
    SO_MARK,
    SO_MAX_PACING_RATE,
    SO_MEMINFO,
    SO_NO_CHECK,
    SO_OOBINLINE,
    SO_PASSCRED,
    SO_PASSSEC,
    SO_PEEK_OFF,
    SO_PEERCRED,
    SO_PEERNAME,
    SO_PEERSEC,
    SO_PRIORITY,
    SO_PROTOCOL,
    SO_RCVBUF,
    SO_RCVBUFFORCE,
    SO_RCVLOWAT,
    SO_RCVTIMEO,
    SO_REUSEADDR,
    SO_REUSEPORT,
    SO_RXQ_OVFL,
    SO_SNDBUF,
    SO_SNDBUFFORCE,
    SO_SNDLOWAT,
    SO_SNDTIMEO,
    SO_TIMESTAMP,
    SO_TIMESTAMPNS,
    SO_TYPE,
    SOCK_BROADCAST,
    SOCK_DBG,
    SOCK_FILTER_LOCKED,
    SOCK_KEEPOPEN,
    SOCK_LINGER,
    SOCK_LOCALROUTE,
    SOCK_PASSCRED,
    SOCK_PASSSEC,
    SOCK_RCVBUF_LOCK,
    SOCK_RCVTSTAMP,
    SOCK_RCVTSTAMPNS,
    SOCK_RXQ_OVFL,
    SOCK_SELECT_ERR_QUEUE,
    SOCK_SNDBUF_LOCK,
    SOCK_URGINLINE,
    TCP_LISTEN,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.net.types import Sock, Socket

INT_MAX = 0x7FFFFFFF
SO_GET_FILTER, SO_SELECT_ERR_QUEUE, SO_BPF_EXTENSIONS, SO_PEERGROUPS, SO_BINDTOIFINDEX = 26, 45, 48, 59, 62
SO_TIMESTAMP_NEW, SO_TIMESTAMPNS_NEW, SO_RCVTIMEO_NEW, SO_SNDTIMEO_NEW = 63, 64, 66, 67
# options that are a flag of the sock, or of the socket
_SOCK_FLAGS = {SO_DEBUG: SOCK_DBG, SO_DONTROUTE: SOCK_LOCALROUTE, SO_BROADCAST: SOCK_BROADCAST,
               SO_KEEPALIVE: SOCK_KEEPOPEN, SO_OOBINLINE: SOCK_URGINLINE, SO_RXQ_OVFL: SOCK_RXQ_OVFL,
               SO_SELECT_ERR_QUEUE: SOCK_SELECT_ERR_QUEUE, SO_LOCK_FILTER: SOCK_FILTER_LOCKED}
_SOCKET_FLAGS = {SO_PASSCRED: SOCK_PASSCRED, SO_PASSSEC: SOCK_PASSSEC}
_STAMPS = {SO_TIMESTAMP: 0, SO_TIMESTAMPNS: SOCK_RCVTSTAMPNS, SO_TIMESTAMP_NEW: 0, SO_TIMESTAMPNS_NEW: SOCK_RCVTSTAMPNS}


@notrace
def sock_valbool_flag(sk: Sock, bit: int, valbool: bool) -> None:
    if valbool:
        sk.sk_flags |= bit
    else:
        sk.sk_flags &= ~bit


# ---- setting --------------------------------------------------------------------------------------------------
@may_sleep
def sock_setsockopt(sock: Socket, level: int, optname: int, optval: int, optlen: int) -> None:
    """setsockopt(SOL_SOCKET). Raises ENOPROTOOPT, EINVAL, EFAULT, EPERM, EACCES, EDOM, ENODEV, EOPNOTSUPP."""
    sk = sock.sk
    if optname == SO_BINDTODEVICE:
        sock_setbindtodevice(sk, optval, optlen)
        return
    if optlen < 4:
        raise KernelError(EINVAL)
    val = to_s32(get_user_u32(optval))
    lock_sock(sk)
    try:
        bit = _SOCK_FLAGS.get(optname)
        if bit is not None:
            _set_flag(sk, optname, bit, bool(val))
        elif optname in _SOCKET_FLAGS:
            sock.flags = sock.flags & ~_SOCKET_FLAGS[optname] | (_SOCKET_FLAGS[optname] if val else 0)
        elif optname in _STAMPS:
            _set_timestamp(sk, _STAMPS[optname], bool(val))
        else:
            setter = _SETTERS.get(optname)
            if setter is None:
                raise KernelError(ENOPROTOOPT)
            setter(sock, val, optval, optlen)
    finally:
        release_sock(sk)


@notrace
def _set_flag(sk: Sock, optname: int, bit: int, on: bool) -> None:
    if optname == SO_DEBUG and on and not capable(CAP_NET_ADMIN):
        raise KernelError(EACCES)
    if optname == SO_LOCK_FILTER and sk.sk_flags & SOCK_FILTER_LOCKED and not on:
        raise KernelError(EPERM)
    if optname == SO_KEEPALIVE and sk.sk_prot.keepalive is not None:
        sk.sk_prot.keepalive(sk, on)
    sock_valbool_flag(sk, bit, on)
    if optname == SO_DONTROUTE:
        sk_dst_reset(sk)


@notrace
def _set_timestamp(sk: Sock, nanoseconds: int, on: bool) -> None:
    sk.sk_flags &= ~(SOCK_RCVTSTAMP | SOCK_RCVTSTAMPNS)
    if on:
        sk.sk_flags |= SOCK_RCVTSTAMP | nanoseconds
        sock_enable_timestamp(sk)


def sock_setbindtodevice(sk: Sock, optval: int, optlen: int) -> None:
    """SO_BINDTODEVICE: only packets of this device; an empty name: of all. Raises EPERM, EINVAL, EFAULT, ENODEV."""
    if not capable(CAP_NET_RAW):
        raise KernelError(EPERM)
    if optlen < 0:
        raise KernelError(EINVAL)
    name = copy_from_user(optval, min(optlen, IFNAMSIZ - 1)).split(b"\0")[0]
    index = 0
    if name:
        start_network(sk.sk_net.kernel)
        dev = sk.sk_net.dev_by_name.get(name)
        if dev is None:
            raise KernelError(ENODEV)
        index = dev.ifindex
    lock_sock(sk)
    sock_setbindtodevice_locked(sk, index)
    release_sock(sk)


def sock_setbindtodevice_locked(sk: Sock, ifindex: int) -> None:
    """The same by number. Raises EPERM, EINVAL. Locks: sk's owner."""
    if not capable(CAP_NET_RAW):
        raise KernelError(EPERM)
    if ifindex < 0:
        raise KernelError(EINVAL)
    sk.sk_bound_dev_if = ifindex
    sk_dst_reset(sk)


@notrace
def _set_reuse(sock: Socket, val: int, optval: int, optlen: int) -> None:
    sock.sk.sk_reuse = 1 if val else 0


@notrace
def _set_reuseport(sock: Socket, val: int, optval: int, optlen: int) -> None:
    sock.sk.sk_reuseport = 1 if val else 0


@notrace
def _read_only(sock: Socket, val: int, optval: int, optlen: int) -> None:
    raise KernelError(ENOPROTOOPT)


@notrace
def _set_sndbuf(sk: Sock, val: int) -> None:
    sk.sk_userlocks |= SOCK_SNDBUF_LOCK
    sk.sk_sndbuf = max(min(val, INT_MAX // 2) * 2, SOCK_MIN_SNDBUF)
    sk.sk_write_space(sk)


@notrace
def __sock_set_rcvbuf(sk: Sock, val: int) -> None:
    sk.sk_userlocks |= SOCK_RCVBUF_LOCK
    sk.sk_rcvbuf = max(min(val, INT_MAX // 2) * 2, SOCK_MIN_RCVBUF)


@notrace
def _sndbuf(sock: Socket, val: int, optval: int, optlen: int) -> None:
    state = sock.sk.sk_net.kernel.net
    assert state is not None
    _set_sndbuf(sock.sk, min(val & 0xFFFFFFFF, state.wmem_max))


@notrace
def _rcvbuf(sock: Socket, val: int, optval: int, optlen: int) -> None:
    state = sock.sk.sk_net.kernel.net
    assert state is not None
    __sock_set_rcvbuf(sock.sk, min(val & 0xFFFFFFFF, state.rmem_max))


@notrace
def _sndbufforce(sock: Socket, val: int, optval: int, optlen: int) -> None:
    _need_net_admin()
    _set_sndbuf(sock.sk, max(val, 0))


@notrace
def _rcvbufforce(sock: Socket, val: int, optval: int, optlen: int) -> None:
    _need_net_admin()
    __sock_set_rcvbuf(sock.sk, max(val, 0))


@notrace
def _need_net_admin() -> None:
    if not capable(CAP_NET_ADMIN):
        raise KernelError(EPERM)


@notrace
def _set_no_check(sock: Socket, val: int, optval: int, optlen: int) -> None:
    sock.sk.sk_no_check_tx = bool(val)


@notrace
def _set_priority(sock: Socket, val: int, optval: int, optlen: int) -> None:
    if not 0 <= val <= 6:
        _need_net_admin()
    sock.sk.sk_priority = val & 0xFFFFFFFF


@notrace
def _set_linger(sock: Socket, val: int, optval: int, optlen: int) -> None:
    if optlen < 8:
        raise KernelError(EINVAL)
    onoff, seconds = struct.unpack("<II", copy_from_user(optval, 8))
    if onoff:
        sock.sk.sk_lingertime = seconds * HZ
    sock_valbool_flag(sock.sk, SOCK_LINGER, bool(onoff))


@notrace
def _nothing(sock: Socket, val: int, optval: int, optlen: int) -> None:
    """SO_BSDCOMPAT: obsolete; Linux only warns."""


@notrace
def _set_rcvlowat(sock: Socket, val: int, optval: int, optlen: int) -> None:
    if val < 0:
        val = INT_MAX
    if sock.ops.set_rcvlowat is not None:
        sock.ops.set_rcvlowat(sock.sk, val)
    else:
        sock.sk.sk_rcvlowat = val or 1


def sock_set_timeout(optval: int, optlen: int) -> int:
    """A struct timeval as jiffies; zero: for ever. Raises EINVAL, EFAULT, EDOM."""
    if optlen < 16:
        raise KernelError(EINVAL)
    seconds, microseconds = struct.unpack("<qq", copy_from_user(optval, 16))
    if not 0 <= microseconds < 1_000_000:
        raise KernelError(EDOM)
    if seconds < 0:
        return 0
    if (not seconds and not microseconds) or seconds >= MAX_SCHEDULE_TIMEOUT // HZ - 1:
        return MAX_SCHEDULE_TIMEOUT
    step = 1_000_000 // HZ
    return int(seconds * HZ + (microseconds + step - 1) // step)


@notrace
def _set_rcvtimeo(sock: Socket, val: int, optval: int, optlen: int) -> None:
    sock.sk.sk_rcvtimeo = sock_set_timeout(optval, optlen)


@notrace
def _set_sndtimeo(sock: Socket, val: int, optval: int, optlen: int) -> None:
    sock.sk.sk_sndtimeo = sock_set_timeout(optval, optlen)


@notrace
def _attach_filter(sock: Socket, val: int, optval: int, optlen: int) -> None:
    if optlen != 16:
        raise KernelError(EINVAL)
    sk_attach_filter(optval, sock.sk)


@notrace
def _attach_bpf(sock: Socket, val: int, optval: int, optlen: int) -> None:
    from glasskernel.net.core.filter_skb import sk_attach_bpf  # imported by the first who wants it

    if optlen != 4:
        raise KernelError(EINVAL)
    sk_attach_bpf(val, sock.sk)


@notrace
def _detach_filter(sock: Socket, val: int, optval: int, optlen: int) -> None:
    sk_detach_filter(sock.sk)


@notrace
def _set_mark(sock: Socket, val: int, optval: int, optlen: int) -> None:
    _need_net_admin()
    if val & 0xFFFFFFFF != sock.sk.sk_mark:
        sock.sk.sk_mark = val & 0xFFFFFFFF
        sk_dst_reset(sock.sk)


@notrace
def _set_peek_off(sock: Socket, val: int, optval: int, optlen: int) -> None:
    if sock.ops.set_peek_off is None:
        raise KernelError(EOPNOTSUPP)
    sock.ops.set_peek_off(sock.sk, val)


@notrace
def _set_pacing(sock: Socket, val: int, optval: int, optlen: int) -> None:
    if optlen >= 8:
        rate = int.from_bytes(copy_from_user(optval, 8), "little")
    else:
        rate = (1 << 64) - 1 if val == -1 else val & 0xFFFFFFFF
    sock.sk.sk_max_pacing_rate = rate


@notrace
def _set_incoming_cpu(sock: Socket, val: int, optval: int, optlen: int) -> None:
    sock.sk.sk_incoming_cpu = val


@notrace
def _bind_to_index(sock: Socket, val: int, optval: int, optlen: int) -> None:
    sock_setbindtodevice_locked(sock.sk, val)


_SETTERS: dict[int, Callable[[Socket, int, int, int], None]] = {
    SO_REUSEADDR: _set_reuse, SO_REUSEPORT: _set_reuseport, SO_TYPE: _read_only, SO_PROTOCOL: _read_only,
    SO_DOMAIN: _read_only, SO_ERROR: _read_only, SO_SNDBUF: _sndbuf, SO_RCVBUF: _rcvbuf, SO_SNDBUFFORCE: _sndbufforce,
    SO_RCVBUFFORCE: _rcvbufforce, SO_NO_CHECK: _set_no_check, SO_PRIORITY: _set_priority, SO_LINGER: _set_linger,
    SO_BSDCOMPAT: _nothing, SO_RCVLOWAT: _set_rcvlowat, SO_RCVTIMEO: _set_rcvtimeo, SO_SNDTIMEO: _set_sndtimeo,
    SO_RCVTIMEO_NEW: _set_rcvtimeo, SO_SNDTIMEO_NEW: _set_sndtimeo, SO_ATTACH_FILTER: _attach_filter,
    SO_ATTACH_BPF: _attach_bpf,
    SO_DETACH_FILTER: _detach_filter, SO_MARK: _set_mark, SO_PEEK_OFF: _set_peek_off, SO_MAX_PACING_RATE: _set_pacing,
    SO_INCOMING_CPU: _set_incoming_cpu, SO_BINDTOIFINDEX: _bind_to_index,
}


# ---- getting --------------------------------------------------------------------------------------------------
@may_sleep
def sock_getsockopt(sock: Socket, level: int, optname: int, optval: int, optlen: int) -> None:
    """getsockopt(SOL_SOCKET). Raises ENOPROTOOPT, EINVAL, EFAULT, ENOTCONN, ENODATA, ERANGE."""
    length = to_s32(get_user_u32(optlen))
    if length < 0:
        raise KernelError(EINVAL)
    getter = _GETTERS.get(optname)
    if getter is not None:
        value = getter(sock, length)
    else:
        special = _SPECIAL.get(optname)
        if special is not None:
            put_user_u32(optlen, special(sock, optval, length, optlen))
            return
        value = _value(sock, optname).to_bytes(4, "little")
    value = value[:length]
    copy_to_user(optval, value)
    put_user_u32(optlen, len(value))


@notrace
def _value(sock: Socket, optname: int) -> int:
    """An option that is an int, as the u32 it is stored as."""
    sk = sock.sk
    if optname in _SOCK_FLAGS:
        return int(bool(sk.sk_flags & _SOCK_FLAGS[optname]))
    if optname in _SOCKET_FLAGS:
        return int(bool(sock.flags & _SOCKET_FLAGS[optname]))
    if optname in _STAMPS:
        return int(bool(sk.sk_flags & SOCK_RCVTSTAMP) and sk.sk_flags & SOCK_RCVTSTAMPNS == _STAMPS[optname])
    if optname == SO_ERROR:
        err = sock_error(sk)
        if not err:
            err, sk.sk_err_soft = sk.sk_err_soft, 0
        return err
    if optname == SO_PEEK_OFF and sock.ops.set_peek_off is None:
        raise KernelError(EOPNOTSUPP)
    values = {SO_SNDBUF: sk.sk_sndbuf, SO_RCVBUF: sk.sk_rcvbuf, SO_REUSEADDR: sk.sk_reuse, SO_TYPE: sk.sk_type,
              SO_REUSEPORT: sk.sk_reuseport, SO_PROTOCOL: sk.sk_protocol, SO_DOMAIN: sk.sk_family, SO_SNDLOWAT: 1,
              SO_NO_CHECK: int(sk.sk_no_check_tx), SO_PRIORITY: sk.sk_priority, SO_RCVLOWAT: sk.sk_rcvlowat,
              SO_ACCEPTCONN: int(sk.sk_state == TCP_LISTEN), SO_MARK: sk.sk_mark, SO_PEEK_OFF: sk.sk_peek_off,
              SO_BPF_EXTENSIONS: SKF_AD_MAX, SO_INCOMING_CPU: sk.sk_incoming_cpu, SO_BSDCOMPAT: 0,
              SO_BINDTOIFINDEX: sk.sk_bound_dev_if}
    if optname not in values:
        raise KernelError(ENOPROTOOPT)
    return values[optname] & 0xFFFFFFFF


@notrace
def _get_linger(sock: Socket, length: int) -> bytes:
    return struct.pack("<II", int(bool(sock.sk.sk_flags & SOCK_LINGER)), sock.sk.sk_lingertime // HZ)


def sock_get_timeout(timeo: int) -> bytes:
    """Jiffies as a struct timeval."""
    if timeo == MAX_SCHEDULE_TIMEOUT:
        return bytes(16)
    seconds, rest = divmod(timeo, HZ)
    return struct.pack("<qq", seconds, rest * 1_000_000 // HZ)


@notrace
def _get_rcvtimeo(sock: Socket, length: int) -> bytes:
    return sock_get_timeout(sock.sk.sk_rcvtimeo)


@notrace
def _get_sndtimeo(sock: Socket, length: int) -> bytes:
    return sock_get_timeout(sock.sk.sk_sndtimeo)


def cred_to_ucred(sk: Sock) -> bytes:
    """struct ucred of who made the other end, or called listen() on it."""
    cred = sk.sk_peer_cred
    if cred is None:
        return struct.pack("<iii", 0, -1, -1)
    return struct.pack("<iII", sk.sk_peer_pid.nr if sk.sk_peer_pid is not None else 0, cred.euid, cred.egid)


@notrace
def sock_getpeersec(sock: Socket, optval: int, length: int, optlen: int) -> int:
    """SO_PEERSEC: the other end's label. Raises ENOPROTOOPT (no security module, none), ERANGE (too long)."""
    if sock.sk.sk_security is None:
        raise KernelError(ENOPROTOOPT)
    context = sock.sk.sk_net.kernel.lsm.security_socket_getpeersec_stream(sock)
    if len(context) > length:
        put_user_u32(optlen, len(context))
        raise KernelError(ERANGE)
    copy_to_user(optval, context)
    return len(context)


@notrace
def _get_peercred(sock: Socket, length: int) -> bytes:
    return cred_to_ucred(sock.sk)


@notrace
def _get_pacing(sock: Socket, length: int) -> bytes:
    rate = sock.sk.sk_max_pacing_rate
    return rate.to_bytes(8, "little") if length >= 8 else min(rate, 0xFFFFFFFF).to_bytes(4, "little")


def sk_get_meminfo(sk: Sock) -> tuple[int, ...]:
    """SK_MEMINFO_*, also for sock_diag."""
    state = sk.sk_net.kernel.net
    assert state is not None
    return (sk.sk_rmem_alloc, sk.sk_rcvbuf, sk.sk_wmem_alloc, sk.sk_sndbuf, sk.sk_forward_alloc, sk.sk_wmem_queued,
            sk.sk_omem_alloc, sk.sk_backlog_len, sk.sk_drops)


@notrace
def _get_meminfo(sock: Socket, length: int) -> bytes:
    return struct.pack("<9i", *sk_get_meminfo(sock.sk))


@notrace
def _get_cookie(sock: Socket, length: int) -> bytes:
    if length < 8:
        raise KernelError(EINVAL)
    return sock_gen_cookie(sock.sk).to_bytes(8, "little")


@notrace
def _get_peername(sock: Socket, length: int) -> bytes:
    try:
        address = sock.ops.getname(sock, 1)
    except KernelError:
        raise KernelError(ENOTCONN) from None
    if len(address) < length:
        raise KernelError(EINVAL)
    return address


@notrace
def _get_filter(sock: Socket, optval: int, length: int, optlen: int) -> int:
    return sk_get_filter(sock.sk, optval, length)


@notrace
def _get_peergroups(sock: Socket, optval: int, length: int, optlen: int) -> int:
    cred = sock.sk.sk_peer_cred
    if cred is None:
        raise KernelError(ENODATA)
    groups = struct.pack(f"<{len(cred.groups)}I", *cred.groups)
    if length < len(groups):
        put_user_u32(optlen, len(groups))
        raise KernelError(ERANGE)
    copy_to_user(optval, groups)
    return len(groups)


def sock_getbindtodevice(sock: Socket, optval: int, length: int, optlen: int) -> int:
    """SO_BINDTODEVICE: the device's name with its NUL; answers its length."""
    index = sock.sk.sk_bound_dev_if
    if not index:
        return 0
    if length < IFNAMSIZ:
        raise KernelError(EINVAL)
    dev = sock.sk.sk_net.dev_by_index.get(index)
    if dev is None:
        raise KernelError(ENODEV)
    copy_to_user(optval, dev.name + b"\0")
    return len(dev.name) + 1


_GETTERS: dict[int, Callable[[Socket, int], bytes]] = {
    SO_LINGER: _get_linger, SO_RCVTIMEO: _get_rcvtimeo, SO_SNDTIMEO: _get_sndtimeo, SO_RCVTIMEO_NEW: _get_rcvtimeo,
    SO_SNDTIMEO_NEW: _get_sndtimeo, SO_PEERCRED: _get_peercred, SO_MAX_PACING_RATE: _get_pacing,
    SO_MEMINFO: _get_meminfo, SO_COOKIE: _get_cookie, SO_PEERNAME: _get_peername,
}
_SPECIAL: dict[int, Callable[[Socket, int, int, int], int]] = {
    SO_PEERSEC: sock_getpeersec,
    SO_GET_FILTER: _get_filter, SO_PEERGROUPS: _get_peergroups, SO_BINDTODEVICE: sock_getbindtodevice,
}


# ---- with one message -----------------------------------------------------------------------------------------
def __sock_cmsg_send(sk: Sock, kind: int, data: bytes) -> int | None:
    """A control message of level SOL_SOCKET: answers the mark of SO_MARK, None for others. Raises EPERM, EINVAL."""
    if kind == SO_MARK:
        _need_net_admin()
        if len(data) != 4:
            raise KernelError(EINVAL)
        return int.from_bytes(data, "little")
    if kind in (1, 2):                             # SCM_RIGHTS, SCM_CREDENTIALS: for AF_UNIX, and ignored by others
        return None
    raise KernelError(EINVAL)



