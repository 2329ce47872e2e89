"""Socket arguments: addresses, options, messages.

Linux: include/uapi/linux/{socket,in,in6,un,netlink,if_packet}.h.
Owns: sockaddr_text() for every family we serve, msghdr, setsockopt/getsockopt values.
Differs: strace learns from /proc which protocol a descriptor has and decodes netlink; here that is a string.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Final

from glasskernel.tools.strace import xlat
from glasskernel.tools.strace.call import EXIT, Call, address, fields, flags, hexadecimal, i32, named, quote
from glasskernel.tools.strace.kinds import text
from glasskernel.tools.strace.structs import iovec_text

SOCKADDR_MAX: Final = 128
SOL_SOCKET: Final = 1
_OPTIONS: Final = {0: xlat.SO_IP, 1: xlat.SO, 6: xlat.SO_TCP, 41: xlat.SO_IPV6, 270: xlat.SO_NETLINK}
_UNKNOWN_OPTION: Final = {0: "IP_???", 1: "SO_???", 6: "TCP_???", 41: "IPV6_???", 270: "NETLINK_???"}


def sockaddr_text(call: Call, value: int, length: int) -> str:
    if not value:
        return "NULL"
    raw = call.read(value, min(length, SOCKADDR_MAX)) if length >= 2 else None
    if raw is None:
        return address(value)
    (family,) = struct.unpack_from("<H", raw)
    head = f"sa_family={named(xlat.AF, family, 'AF_???')}"
    if family == 1:
        if len(raw) == 2:
            return fields(head)
        name = raw[2:110]
        if name[0]:
            return fields(head, f"sun_path={text(name)}")
        return fields(head, f"sun_path=@{quote(name[1:])}")
    if family == 2 and len(raw) >= 16:
        port = int.from_bytes(raw[2:4], "big")
        host = ".".join(str(byte) for byte in raw[4:8])
        return fields(head, f"sin_port=htons({port})", f'sin_addr=inet_addr("{host}")')
    if family == 10 and len(raw) >= 24:
        port, flow = int.from_bytes(raw[2:4], "big"), int.from_bytes(raw[4:8], "big")
        host = socket.inet_ntop(socket.AF_INET6, raw[8:24])
        parts = [head, f"sin6_port=htons({port})", f"sin6_flowinfo=htonl({flow})"]
        parts.append(f'inet_pton(AF_INET6, "{host}", &sin6_addr)')
        if len(raw) >= 28:
            parts.append(f"sin6_scope_id={int.from_bytes(raw[24:28], 'little')}")
        return fields(*parts)
    if family == 16 and len(raw) >= 12:
        port_id, groups = struct.unpack_from("<iI", raw, 4)
        return fields(head, f"nl_pid={port_id}", f"nl_groups={groups:08x}")
    return fields(head, f"sa_data={quote(raw[2:])}") if len(raw) > 2 else fields(head)


def sockaddr_with_length(call: Call, value: int) -> str:
    """connect, bind, sendto: the length is the argument behind the address."""
    return sockaddr_text(call, value, i32(call.args[5] if call.name == "sendto" else call.args[2]))


def socket_protocol(call: Call, value: int) -> str:
    family, protocol = call.args[0] & 0xFFFFFFFF, value & 0xFFFFFFFF
    if family in (2, 10):
        return named(xlat.IPPROTO, protocol, "IPPROTO_???")
    if family == 16:
        return named(xlat.NETLINK_PROTO, protocol, "NETLINK_???")
    return str(protocol)


def socket_type(call: Call, value: int) -> str:
    kind = named(xlat.SOCK_TYPE, value & 0xF, "SOCK_???")
    rest = value & 0xFFFFFFF0
    return kind if not rest else f"{kind}|{flags(xlat.SOCK_FLAGS, rest, None)}"


def address_out(call: Call, at: int, room: int | None) -> Iterator[str]:
    """`{sockaddr}, [room => length]`, after the return."""
    addr, length_at = call.args[at], call.args[at + 1]
    got = call.unpack("<i", length_at)
    if got is None:
        yield address(addr)
        yield address(length_at)
    elif call.failed or not addr:
        yield address(addr)
        yield f"[{room if room is not None else got[0]}]"
    else:
        length = got[0] if room is None else min(got[0], room)
        yield sockaddr_text(call, addr, length)
        yield f"[{got[0]}]" if room in (None, got[0]) else f"[{room} => {got[0]}]"


def length_at(call: Call, value: int) -> int | None:
    """socklen_t *, read at entry."""
    got = call.unpack("<i", value)
    return None if got is None else int(got[0])


def accept(call: Call) -> Iterator[str]:
    """accept, accept4, getsockname, getpeername"""
    yield str(i32(call.args[0]))
    room = length_at(call, call.args[2])
    yield EXIT
    yield from address_out(call, 1, room)
    if call.name == "accept4":
        yield flags(xlat.SOCK_FLAGS, call.args[3] & 0xFFFFFFFF, "SOCK_???")


def recvfrom(call: Call) -> Iterator[str]:
    yield str(i32(call.args[0]))
    room = length_at(call, call.args[5])
    yield EXIT
    yield address(call.args[1]) if call.failed else call.buffer(call.args[1], call.ret or 0)
    yield str(call.args[2])
    yield flags(xlat.MSG, call.args[3] & 0xFFFFFFFF, "MSG_???")
    yield from address_out(call, 4, room)


# --- options ----------------------------------------------------------------------------------------------


def _option_value(call: Call, level: int, option: int, addr: int, length: int) -> str:
    if not addr:
        return "NULL"
    if level == SOL_SOCKET and option == 13 and length >= 8:
        got = call.unpack("<2i", addr)
        return address(addr) if got is None else f"{{l_onoff={got[0]}, l_linger={got[1]}}}"
    if level == SOL_SOCKET and option == 17 and length >= 12:
        got = call.unpack("<3i", addr)
        return address(addr) if got is None else f"{{pid={got[0]}, uid={got[1]}, gid={got[2]}}}"
    if length == 4 and (level, option) != (SOL_SOCKET, 25):
        got = call.unpack("<i", addr)
        return address(addr) if got is None else f"[{got[0]}]"
    return call.buffer(addr, length)


def _option_names(call: Call) -> Iterator[str]:
    level, option = call.args[1] & 0xFFFFFFFF, call.args[2] & 0xFFFFFFFF
    yield str(i32(call.args[0]))
    yield named(xlat.SOL, level, "SOL_???")
    table = _OPTIONS.get(level)
    yield named(table, option, _UNKNOWN_OPTION[level]) if table else hexadecimal(option)


def setsockopt(call: Call) -> Iterator[str]:
    yield from _option_names(call)
    yield _option_value(
        call, call.args[1] & 0xFFFFFFFF, call.args[2] & 0xFFFFFFFF, call.args[3], i32(call.args[4])
    )
    yield str(i32(call.args[4]))


def getsockopt(call: Call) -> Iterator[str]:
    yield from _option_names(call)
    room = length_at(call, call.args[4])
    yield EXIT
    got = length_at(call, call.args[4])
    if call.failed or got is None or room is None:
        yield address(call.args[3])
        yield address(call.args[4]) if got is None else f"[{room}]"
        return
    yield _option_value(call, call.args[1] & 0xFFFFFFFF, call.args[2] & 0xFFFFFFFF, call.args[3], got)
    yield f"[{got}]" if got == room else f"[{room} => {got}]"


# --- messages ---------------------------------------------------------------------------------------------


def _control(call: Call, addr: int, length: int) -> str:
    """struct cmsghdr[]"""
    raw = call.read(addr, min(length, 4096))
    if raw is None:
        return address(addr)
    shown: list[str] = []
    offset = 0
    while offset + 16 <= len(raw):
        size, level, kind = struct.unpack_from("<Qii", raw, offset)
        parts = [f"cmsg_len={size}", f"cmsg_level={named(xlat.SOL, level, 'SOL_???')}"]
        known = level == SOL_SOCKET
        parts.append(f"cmsg_type={named(xlat.SCM, kind, 'SCM_???') if known else hexadecimal(kind)}")
        if size < 16:
            shown.append(fields(*parts))
            break
        payload = raw[offset + 16 : offset + size]
        if known and kind == 1:
            count = len(payload) // 4
            parts.append(f"cmsg_data=[{', '.join(map(str, struct.unpack_from(f'<{count}i', payload)))}]")
        elif known and kind == 2 and len(payload) >= 12:
            pid, uid, gid = struct.unpack_from("<3i", payload)
            parts.append(f"cmsg_data={{pid={pid}, uid={uid}, gid={gid}}}")
        elif payload:
            parts.append(f"cmsg_data={quote(payload, hexadecimal=True)}")
        shown.append(fields(*parts))
        offset += (size + 7) & ~7
    return f"[{', '.join(shown)}]"


def _msghdr(call: Call, value: int, room: int | None, received: int | None = None) -> str:
    got = call.unpack("<QI4xQQQQI", value)
    if got is None:
        return address(value)
    name, name_length, iov, iov_count, control, control_length, msg_flags = got
    shown_length = str(name_length) if room in (None, name_length) else f"{room} => {name_length}"
    parts = [
        f"msg_name={sockaddr_text(call, name, name_length)}",
        f"msg_namelen={shown_length}",
        f"msg_iov={iovec_text(call, iov, iov_count, received)}",
        f"msg_iovlen={iov_count}",
    ]
    if control_length:
        parts.append(f"msg_control={_control(call, control, control_length)}")
    parts.append(f"msg_controllen={control_length}")
    parts.append(f"msg_flags={flags(xlat.MSG, msg_flags, 'MSG_???')}")
    return fields(*parts)


def sendmsg(call: Call) -> Iterator[str]:
    yield str(i32(call.args[0]))
    yield _msghdr(call, call.args[1], None)
    yield flags(xlat.MSG, call.args[2] & 0xFFFFFFFF, "MSG_???")


def recvmsg(call: Call) -> Iterator[str]:
    yield str(i32(call.args[0]))
    got = call.unpack("<QI", call.args[1])
    yield EXIT
    if call.failed and got is not None:
        yield fields(f"msg_namelen={got[1]}")
    else:
        yield _msghdr(call, call.args[1], None if got is None or not got[0] else int(got[1]), call.ret)
    yield flags(xlat.MSG, call.args[2] & 0xFFFFFFFF, "MSG_???")


def _mmsghdr(call: Call, value: int, count: int, receiving: bool) -> str:
    """struct mmsghdr[], after the return."""
    shown: list[str] = []
    for at in range(value, value + count * 64, 64):
        got = call.unpack("<I", at + 56)
        if got is None:
            return address(value)
        parts = [f"msg_hdr={_msghdr(call, at, None, int(got[0]) if receiving else None)}"]
        if not call.failed:
            parts.append(f"msg_len={got[0]}")
        shown.append(fields(*parts))
    return f"[{', '.join(shown)}]"


def sendmmsg(call: Call) -> Iterator[str]:
    yield str(i32(call.args[0]))
    yield EXIT
    yield _mmsghdr(call, call.args[1], call.args[2] if call.failed else call.ret or 0, False)
    yield str(call.args[2] & 0xFFFFFFFF)
    yield flags(xlat.MSG, call.args[3] & 0xFFFFFFFF, "MSG_???")


def recvmmsg(call: Call) -> Iterator[str]:
    yield str(i32(call.args[0]))
    timeout = call.unpack("<2q", call.args[4]) if call.args[4] else None
    yield EXIT
    yield address(call.args[1]) if call.failed else _mmsghdr(call, call.args[1], call.ret or 0, True)
    yield str(call.args[2] & 0xFFFFFFFF)
    yield flags(xlat.MSG, call.args[3] & 0xFFFFFFFF, "MSG_???")
    yield address(call.args[4]) if timeout is None else f"{{tv_sec={timeout[0]}, tv_nsec={timeout[1]}}}"
