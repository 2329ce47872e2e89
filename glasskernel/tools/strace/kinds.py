"""Argument kinds: small functions that print one argument which needs no structure to be read.

Owns: numbers, descriptors, names, buffers, single constants and sets, and the combinators args() and out().
Invariants: a Kind has no state; one that needs a second argument is made by a factory which takes its index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from glasskernel.tools.strace import xlat
from glasskernel.tools.strace.call import (
    EXIT,
    EXIT_BARE,
    PATH_MAX,
    Call,
    Decoder,
    Kind,
    address,
    flags,
    hexadecimal,
    i32,
    i64,
    named,
    octal,
    quote,
)
from glasskernel.tools.strace.xlat import Xlat

AT_FDCWD: Final = -100
MAX_ENVIRONMENT: Final = 65536  # a broken program's list may have no end


class Out:
    """An argument the kernel fills: printed after the return, or as an address if the call failed."""

    __slots__ = ("kind",)

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def __call__(self, call: Call, value: int) -> str:
        return address(value) if call.failed else self.kind(call, value)


class Late(Out):
    """An argument which strace prints after the return whether or not the call failed."""

    __slots__ = ()

    def __call__(self, call: Call, value: int) -> str:
        return self.kind(call, value)


def args(*kinds: Kind, result: str = "decimal", note: Callable[[int], str] | None = None) -> Decoder:
    """The decoder of a call whose arguments do not depend on one another's meaning.

    result: decimal, hex or octal. note: what a successful result means, printed behind it.
    """
    first_out = next((i for i, kind in enumerate(kinds) if isinstance(kind, Out)), -1)
    hex_result, octal_result = result == "hex", result == "octal"

    def decode(call: Call) -> Iterator[str]:
        call.hex_result, call.octal_result = hex_result, octal_result
        for i, kind in enumerate(kinds):
            if i == first_out:
                yield EXIT
            yield kind(call, call.args[i])
        if note is not None:
            if first_out < 0:
                yield EXIT_BARE
            if call.ret is not None and call.ret >= 0:
                call.comment = note(call.ret)

    return decode


# --- numbers ----------------------------------------------------------------------------------------------


def int32(call: Call, value: int) -> str:
    return str(i32(value))


def uint32(call: Call, value: int) -> str:
    return str(value & 0xFFFFFFFF)


def int64(call: Call, value: int) -> str:
    return str(i64(value))


def uint64(call: Call, value: int) -> str:
    return str(value)


def hex32(call: Call, value: int) -> str:
    return hexadecimal(value & 0xFFFFFFFF)


def hex64(call: Call, value: int) -> str:
    return hexadecimal(value)


def ptr(call: Call, value: int) -> str:
    return address(value)


fd: Final[Kind] = int32
size: Final[Kind] = uint64


def owner(call: Call, value: int) -> str:
    """A uid or gid; -1 means leave it."""
    value &= 0xFFFFFFFF
    return "-1" if value == 0xFFFFFFFF else str(value)


def mode(call: Call, value: int) -> str:
    return octal(value & 0xFFFF)


def int_at(call: Call, value: int) -> str:
    """int *"""
    got = call.unpack("<i", value)
    return address(value) if got is None else f"[{got[0]}]"


def uint_at(call: Call, value: int) -> str:
    """unsigned int *"""
    got = call.unpack("<I", value)
    return address(value) if got is None else f"[{got[0]}]"


def int64_at(call: Call, value: int) -> str:
    """loff_t *"""
    got = call.unpack("<q", value)
    return address(value) if got is None else f"[{got[0]}]"


def hex64_at(call: Call, value: int) -> str:
    got = call.unpack("<Q", value)
    return address(value) if got is None else f"[{hexadecimal(got[0])}]"


def int_pair(call: Call, value: int) -> str:
    """int fds[2]"""
    got = call.unpack("<2i", value)
    return address(value) if got is None else f"[{got[0]}, {got[1]}]"


# --- descriptors, names, bytes ----------------------------------------------------------------------------


def dirfd(call: Call, value: int) -> str:
    number = i32(value)
    return "AT_FDCWD" if number == AT_FDCWD else str(number)


def path(call: Call, value: int) -> str:
    return call.string(value, PATH_MAX - 1)


def string(call: Call, value: int) -> str:
    return call.string(value)


def data(length_arg: int) -> Kind:
    """A buffer whose length another argument holds."""

    def show(call: Call, value: int) -> str:
        return call.buffer(value, call.args[length_arg])

    return show


def filled(call: Call, value: int) -> str:
    """A buffer of which the kernel filled as many bytes as it returned."""
    return call.buffer(value, call.ret or 0)


def random_bytes(call: Call, value: int) -> str:
    return call.buffer(value, call.ret or 0, hexadecimal=True)


def filled_path(call: Call, value: int) -> str:
    """getcwd: a name with its NUL counted in the result."""
    return path(call, value)


def vector(call: Call, value: int) -> str:
    """argv: an array of strings up to NULL."""
    if not value:
        return "NULL"
    shown: list[str] = []
    while True:
        got = call.unpack("<Q", value + 8 * len(shown))
        if got is None:
            return address(value) if not shown else f"[{', '.join(shown)}, ...]"
        if not got[0]:
            return f"[{', '.join(shown)}]"
        if len(shown) == 32:
            return f"[{', '.join(shown)}, ...]"
        shown.append(call.string(got[0]))


def environment(call: Call, value: int) -> str:
    """envp: only counted."""
    if not value:
        return "NULL"
    count = 0
    got: tuple[int, ...] | None = (1,)
    while count < MAX_ENVIRONMENT and (got := call.unpack("<Q", value + 8 * count)) is not None and got[0]:
        count += 1
    if got is None:
        return address(value)
    return f"{address(value)} /* {count} var{'' if count == 1 else 's'} */"


# --- constants --------------------------------------------------------------------------------------------


def one_of(table: Xlat, unknown: str, *, signed: bool = False) -> Kind:
    def show(call: Call, value: int) -> str:
        return named(table, i32(value) if signed else value & 0xFFFFFFFF, unknown)

    return show


def bits(table: Xlat, unknown: str) -> Kind:
    def show(call: Call, value: int) -> str:
        return flags(table, value & 0xFFFFFFFF, unknown)

    return show


def signal_name(number: int) -> str:
    return xlat.SIGNALS.names.get(number) or str(number)


def signo(call: Call, value: int) -> str:
    return signal_name(i32(value))


def open_flags(value: int) -> str:
    """The access mode is a number, not a bit, and comes first."""
    access = xlat.OPEN_ACCESS.names[value & 3]
    rest = value & ~3
    return access if not rest else f"{access}|{flags(xlat.OPEN_FLAGS, rest, None)}"


def symbolic_mode(value: int) -> str:
    """S_IFREG|S_ISUID|0755"""
    out: list[str] = []
    kind = value & 0o170000
    if kind:
        out.append(xlat.FILE_TYPE.names.get(kind, hexadecimal(kind)))
    out += [
        name for name, bit in (("S_ISUID", 0o4000), ("S_ISGID", 0o2000), ("S_ISVTX", 0o1000)) if value & bit
    ]
    out.append(octal(value & 0o777))
    return "|".join(out)


def makedev(value: int) -> str:
    major = (value >> 8 & 0xFFF) | (value >> 32 & ~0xFFF)
    minor = (value & 0xFF) | (value >> 12 & 0xFFFFFF00)
    return f"makedev({hexadecimal(major)}, {hexadecimal(minor)})"


def clock(call: Call, value: int) -> str:
    return named(xlat.CLOCK, value & 0xFFFFFFFF, "CLOCK_???")


def resource(call: Call, value: int) -> str:
    return named(xlat.RLIMIT, value & 0xFFFFFFFF, "RLIMIT_???")


def text(data: bytes) -> str:
    """A fixed char array inside a structure: up to its NUL."""
    return quote(data.split(b"\0", 1)[0])
