"""One system call being printed: its arguments, the memory they point to, and the primitives of the format.

Owns: Call, the text primitives (quoting, flags, addresses) and the marks a decoder yields.
Invariants: a decoder is a generator of argument texts. It yields EXIT (or EXIT_BARE) at most once, where the
    entry half ends; everything after that runs once `ret` is known and sees what the kernel wrote.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from glasskernel.tools.strace.xlat import Xlat

ReadMemory = Callable[[int, int, int], bytes | None]
PAGE_SIZE: Final = 4096
PATH_MAX: Final = 4096
MAX_ARRAY: Final = 32
"""strace's abbreviation: at most so many elements of an array are shown."""


class Mark(str):
    """A control word in a decoder's output, told apart by identity."""

    __slots__ = ()


EXIT: Final = Mark("exit")
"""The next argument can only be printed when the call returns; its comma is printed now."""
EXIT_BARE: Final = Mark("exit-bare")
"""As EXIT, but what has been printed is already complete (`poll`, `clone`)."""


class Glue(str):
    """Text that follows its predecessor without a comma."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class Call:
    """The state one decoder works on."""

    pid: int
    name: str
    args: tuple[int, int, int, int, int, int]
    read_memory: ReadMemory
    string_limit: int
    stack_pointer: int = 0  # only for rt_sigreturn
    ret: int | None = None  # None until the call has returned
    comment: str = ""  # printed in parentheses behind a successful result
    hex_result: bool = False
    octal_result: bool = False

    @property
    def failed(self) -> bool:
        return self.ret is not None and -4096 < self.ret < 0

    def read(self, addr: int, size: int) -> bytes | None:
        """User memory, or None if any byte of it is not mapped."""
        if size <= 0:
            return b""
        return self.read_memory(self.pid, addr, size) if addr else None

    def unpack(self, layout: str, addr: int) -> tuple[Any, ...] | None:
        data = self.read(addr, struct.calcsize(layout))
        return None if data is None else struct.unpack(layout, data)

    def cstring(self, addr: int, limit: int) -> tuple[bytes, bool] | None:
        """The bytes up to NUL (at most `limit`) and whether the NUL was seen; None if unreadable."""
        out = b""
        while len(out) < limit:
            step = min(PAGE_SIZE - (addr + len(out)) % PAGE_SIZE, limit - len(out), 256)
            data = self.read(addr + len(out), step)
            if data is None:
                return None
            end = data.find(b"\0")
            if end >= 0:
                return out + data[:end], True
            out += data
        return out, False

    def quoted(self, data: bytes, *, hexadecimal: bool = False) -> str:
        """A buffer, cut at the string limit."""
        shown = quote(data[: self.string_limit], hexadecimal=hexadecimal)
        return shown + ("..." if len(data) > self.string_limit else "")

    def buffer(self, addr: int, size: int, *, hexadecimal: bool = False) -> str:
        """`size` bytes at addr, read no further than they are shown."""
        if not addr:
            return "NULL"
        data = self.read(addr, min(size, self.string_limit + 1))
        return address(addr) if data is None else self.quoted(data, hexadecimal=hexadecimal)

    def string(self, addr: int, limit: int | None = None) -> str:
        """A NUL-terminated string."""
        if not addr:
            return "NULL"
        limit = self.string_limit if limit is None else limit
        got = self.cstring(addr, limit + 1)
        if got is None:
            return address(addr)
        data, ended = got
        cut = not ended or len(data) > limit
        return quote(data[:limit]) + ("..." if cut else "")

    def array(self, addr: int, count: int, layout: str, show: Callable[[tuple[Any, ...]], str]) -> str:
        """`count` packed elements as `[a, b, ...]`."""
        if not addr:
            return "NULL"
        size = struct.calcsize(layout)
        shown: list[str] = []
        for i in range(min(count, MAX_ARRAY)):
            data = self.read(addr + i * size, size)
            if data is None:
                if not shown:
                    return address(addr)
                shown.append(f"... /* {address(addr + i * size)} */")
                return f"[{', '.join(shown)}]"
            shown.append(show(struct.unpack(layout, data)))
        if count > MAX_ARRAY:
            shown.append("...")
        return f"[{', '.join(shown)}]"


Kind = Callable[[Call, int], str]
"""Prints one argument from its register value."""
Decoder = Callable[[Call], Iterator[str]]
"""Prints a whole argument list."""


def i32(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value & 0x80000000 else value


def i64(value: int) -> int:
    value &= 0xFFFFFFFFFFFFFFFF
    return value - (1 << 64) if value >> 63 else value


def address(value: int) -> str:
    return hex(value) if value else "NULL"


def hexadecimal(value: int) -> str:
    """C's %#x: zero has no prefix."""
    return hex(value) if value else "0"


def octal(value: int) -> str:
    """C's %#03o."""
    return (f"0{value:o}" if value else "0").zfill(3)


_ESCAPES: Final = {
    ord('"'): '\\"',
    ord("\\"): "\\\\",
    9: "\\t",
    10: "\\n",
    11: "\\v",
    12: "\\f",
    13: "\\r",
}
_DIGITS: Final = frozenset(b"0123456789")


def quote(data: bytes, *, hexadecimal: bool = False) -> str:
    if hexadecimal:
        return '"' + "".join(f"\\x{byte:02x}" for byte in data) + '"'
    out = ['"']
    for i, byte in enumerate(data):
        if byte in _ESCAPES:
            out.append(_ESCAPES[byte])
        elif 0x20 <= byte < 0x7F:
            out.append(chr(byte))
        elif i + 1 < len(data) and data[i + 1] in _DIGITS:
            out.append(f"\\{byte:03o}")
        else:
            out.append(f"\\{byte:o}")
    out.append('"')
    return "".join(out)


def named(table: Xlat, value: int, unknown: str, *, decimal: bool = False) -> str:
    """One constant out of a set: its name, or `0x5 /* X_??? */`."""
    name = table.names.get(value)
    if name is not None:
        return name
    return f"{value if decimal else hexadecimal(value)} /* {unknown} */"


def flags(table: Xlat, value: int, unknown: str | None) -> str:
    """A set of bits in the table's order; the rest as a hexadecimal number."""
    if not value:
        return table.names.get(0, "0")
    out: list[str] = []
    rest = value
    for name, bits in table.flags:
        if bits and rest & bits == bits:
            out.append(name)
            rest &= ~bits
    if rest and not out:
        return hex(rest) + (f" /* {unknown} */" if unknown else "")
    if rest:
        out.append(hex(rest))
    return "|".join(out)


def fields(*pairs: str) -> str:
    """`{a=1, b=2}`"""
    return "{" + ", ".join(pairs) + "}"
