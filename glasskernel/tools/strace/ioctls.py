"""ioctl(2): the request's name and what its argument points to.

Linux: include/uapi/asm-generic/ioctls.h, include/uapi/linux/{fs,sockios,if}.h, termios.
Owns: the table of requests. A request that is not in it is shown as _IOC(direction, type, number, size).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from glasskernel.tools.strace import xlat
from glasskernel.tools.strace.call import (
    EXIT_BARE,
    Call,
    Kind,
    address,
    fields,
    flags,
    hexadecimal,
    i32,
    named,
)
from glasskernel.tools.strace.kinds import int32, int_at, ptr, text, uint_at
from glasskernel.tools.strace.sockets import sockaddr_text


def _word(value: int, delays: bool) -> list[str]:
    """The c_oflag delay fields, of which even the zero values have names."""
    if not delays:
        return []
    tab = "XTABS" if value >> 11 & 3 == 3 else f"TAB{value >> 11 & 3}"
    return [
        f"NL{value >> 8 & 1}",
        f"CR{value >> 9 & 3}",
        tab,
        f"BS{value >> 13 & 1}",
        f"VT{value >> 14 & 1}",
        f"FF{value >> 15 & 1}",
    ]


def _join(names: list[str], rest: str) -> str:
    return "|".join(names + ([rest] if rest != "0" or not names else []))


def termios(call: Call, value: int) -> str:
    """struct termios, the kernel's (36 bytes)"""
    got = call.unpack("<4I20s", value)
    if got is None:
        return address(value)
    iflag, oflag, cflag, lflag = got[:4]
    names = [named(xlat.BAUD, cflag & 0o10017, "B???"), f"CS{5 + (cflag >> 4 & 3)}"]
    return fields(
        f"c_iflag={flags(xlat.C_IFLAG, iflag, None) if iflag else ''}",
        f"c_oflag={_join(_word(oflag, True), flags(xlat.C_OFLAG, oflag & 0xFF, None))}",
        f"c_cflag={_join(names, flags(xlat.C_CFLAG, cflag & ~0o10077, None))}",
        f"c_lflag={flags(xlat.C_LFLAG, lflag, None) if lflag else ''}",
        "...",
    )


def winsize(call: Call, value: int) -> str:
    got = call.unpack("<4H", value)
    if got is None:
        return address(value)
    names = ("ws_row", "ws_col", "ws_xpixel", "ws_ypixel")
    return fields(*(f"{name}={n}" for name, n in zip(names, got, strict=True)))


def uint64_at(call: Call, value: int) -> str:
    got = call.unpack("<Q", value)
    return address(value) if got is None else f"[{got[0]}]"


def tty_queue(call: Call, value: int) -> str:
    return {0: "TCIFLUSH", 1: "TCOFLUSH", 2: "TCIOFLUSH"}.get(value) or f"{hexadecimal(value)} /* TC?FLUSH */"


def tty_flow(call: Call, value: int) -> str:
    return {0: "TCOOFF", 1: "TCOON", 2: "TCIOFF", 3: "TCION"}.get(
        value
    ) or f"{hexadecimal(value)} /* TC??? */"


def char_at(call: Call, value: int) -> str:
    raw = call.read(value, 1)
    return address(value) if raw is None else f"[{call.quoted(raw)}]"


def ifreq(call: Call, value: int) -> str:
    """struct ifreq: the member in use depends on the request."""
    raw = call.read(value, 40)
    if raw is None:
        return address(value)
    request = call.args[1] & 0xFFFFFFFF
    parts = [f"ifr_name={text(raw[:16])}"]
    number = int.from_bytes(raw[16:20], "little", signed=True)
    if call.ret is None and request in _IFREQ_GETS:
        return fields(*parts)
    if request in (0x8913, 0x8914):
        parts.append(f"ifr_flags={flags(xlat.IFF, number & 0xFFFF, 'IFF_???')}")
    elif request in (0x8927, 0x8924):
        family = "ARPHRD_LOOPBACK" if number & 0xFFFF == 772 else "ARPHRD_ETHER"
        mac = ":".join(f"{byte:02x}" for byte in raw[18:24])
        parts.append(f"ifr_hwaddr={{sa_family={family}, sa_data={mac}}}")
    elif request in _IFREQ_ADDRESS:
        parts.append(f"{_IFREQ_ADDRESS[request]}={sockaddr_text(call, value + 16, 16)}")
    elif request in _IFREQ_NUMBER:
        parts.append(f"{_IFREQ_NUMBER[request]}={number}")
    return fields(*parts)


_IFREQ_ADDRESS: Final = {
    0x8915: "ifr_addr",
    0x8916: "ifr_addr",
    0x8917: "ifr_dstaddr",
    0x8918: "ifr_dstaddr",
    0x8919: "ifr_broadaddr",
    0x891A: "ifr_broadaddr",
    0x891B: "ifr_netmask",
    0x891C: "ifr_netmask",
}
_IFREQ_NUMBER: Final = {
    0x891D: "ifr_metric",
    0x8921: "ifr_mtu",
    0x8922: "ifr_mtu",
    0x8933: "ifr_ifindex",
    0x8942: "ifr_qlen",
    0x8943: "ifr_qlen",
}
_IFREQ_GETS: Final = frozenset(
    (0x8913, 0x8915, 0x8917, 0x8919, 0x891B, 0x891D, 0x8921, 0x8927, 0x8933, 0x8942)
)


def _request(code: int) -> str:
    """_IOC(direction, type, number, size)"""
    direction, size = code >> 30, code >> 16 & 0x3FFF
    names = ("_IOC_NONE", "_IOC_WRITE", "_IOC_READ", "_IOC_READ|_IOC_WRITE")
    kind, number = code >> 8 & 0xFF, code & 0xFF
    return f"_IOC({names[direction]}, {hexadecimal(kind)}, {hexadecimal(number)}, {hexadecimal(size)})"


IN: Final = "in"  # the argument is read by the kernel
OUT: Final = "out"  # filled by the kernel
NONE: Final = "none"  # there is no argument
LATE: Final = "late"  # printed after the return, as it is

REQUESTS: Final[dict[int, tuple[str, str, Kind]]] = {
    0x5401: ("TCGETS", OUT, termios),
    0x5402: ("SNDCTL_TMR_START or TCSETS", IN, termios),
    0x5403: ("SNDCTL_TMR_STOP or TCSETSW", IN, termios),
    0x5404: ("SNDCTL_TMR_CONTINUE or TCSETSF", IN, termios),
    0x5409: ("TCSBRK", IN, int32),
    0x540A: ("TCXONC", IN, tty_flow),
    0x540B: ("TCFLSH", IN, tty_queue),
    0x540C: ("TIOCEXCL", NONE, ptr),
    0x540D: ("TIOCNXCL", NONE, ptr),
    0x540E: ("TIOCSCTTY", IN, int32),
    0x540F: ("TIOCGPGRP", OUT, int_at),
    0x5410: ("TIOCSPGRP", IN, int_at),
    0x5411: ("TIOCOUTQ", OUT, int_at),
    0x5412: ("TIOCSTI", IN, char_at),
    0x5413: ("TIOCGWINSZ", OUT, winsize),
    0x5414: ("TIOCSWINSZ", IN, winsize),
    0x541B: ("FIONREAD", OUT, int_at),
    0x541D: ("TIOCCONS", NONE, ptr),
    0x5421: ("FIONBIO", IN, int_at),
    0x5422: ("TIOCNOTTY", NONE, ptr),
    0x5424: ("TIOCGETD", OUT, int_at),
    0x5429: ("TIOCGSID", OUT, int_at),
    0x5450: ("FIONCLEX", NONE, ptr),
    0x5451: ("FIOCLEX", NONE, ptr),
    0x5452: ("FIOASYNC", IN, int_at),
    0x80045430: ("TIOCGPTN", OUT, int_at),
    0x40045431: ("TIOCSPTLCK", IN, int_at),
    0x5441: ("TIOCGPTPEER", IN, ptr),
    0x125D: ("BLKROGET", OUT, int_at),
    0x125E: ("BLKROSET", IN, int_at),
    0x125F: ("BLKRRPART", NONE, ptr),
    0x1260: ("BLKGETSIZE", OUT, uint64_at),
    0x1261: ("BLKFLSBUF", NONE, ptr),
    0x1268: ("BLKSSZGET", OUT, int_at),
    0x127B: ("BLKPBSZGET", OUT, uint_at),
    0x127C: ("BLKDISCARDZEROES", OUT, uint_at),
    0x80081272: ("BLKGETSIZE64", OUT, uint64_at),
    0x1274: ("BLKTRACESTART", NONE, ptr),
    0x1275: ("BLKTRACESTOP", NONE, ptr),
    0x1276: ("BLKTRACETEARDOWN", NONE, ptr),
    0x40049409: ("BTRFS_IOC_CLONE or FICLONE", IN, int32),
    0xB701: ("NS_GET_USERNS", NONE, ptr),
    0xB702: ("NS_GET_PARENT", NONE, ptr),
    0x80086601: ("FS_IOC_GETFLAGS", LATE, ptr),
    0x8910: ("SIOCGIFNAME", OUT, ifreq),
    0x8912: ("SIOCGIFCONF", LATE, ptr),
    0x8913: ("SIOCGIFFLAGS", OUT, ifreq),
    0x8914: ("SIOCSIFFLAGS", IN, ifreq),
    0x8915: ("SIOCGIFADDR", OUT, ifreq),
    0x8916: ("SIOCSIFADDR", IN, ifreq),
    0x8917: ("SIOCGIFDSTADDR", OUT, ifreq),
    0x8919: ("SIOCGIFBRDADDR", OUT, ifreq),
    0x891B: ("SIOCGIFNETMASK", OUT, ifreq),
    0x891C: ("SIOCSIFNETMASK", IN, ifreq),
    0x891D: ("SIOCGIFMETRIC", OUT, ifreq),
    0x8921: ("SIOCGIFMTU", OUT, ifreq),
    0x8922: ("SIOCSIFMTU", IN, ifreq),
    0x8927: ("SIOCGIFHWADDR", OUT, ifreq),
    0x8933: ("SIOCGIFINDEX", OUT, ifreq),
    0x8942: ("SIOCGIFTXQLEN", OUT, ifreq),
}


def ioctl(call: Call) -> Iterator[str]:
    code, value = call.args[1] & 0xFFFFFFFF, call.args[2]
    name, direction, kind = REQUESTS.get(code, ("", LATE, ptr))
    yield str(i32(call.args[0]))
    yield name or _request(code)
    if direction == IN:
        yield kind(call, value)
    elif direction == OUT:
        yield EXIT_BARE
        yield address(value) if call.failed and kind is not ifreq else kind(call, value)
    elif direction == LATE:
        yield EXIT_BARE
        yield kind(call, value) if name else hexadecimal(value)
