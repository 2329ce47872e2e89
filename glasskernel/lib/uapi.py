"""A layout that user space sees is declared once, as a class of annotated fields.

    @uapi("include/uapi/linux/time.h", size=16)
    class Timespec(Layout):
        tv_sec: s64
        tv_nsec: s64

Instances are slotted and mutable, built with keywords, zero by default. `pack()` and `unpack()` convert.
Arrays: `Annotated[tuple[int, ...], "u64[4]"]`, `Annotated[bytes, "char[65]"]`. Padding is spelled out: the
layout is packed, and `size` must match.
"""
from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar

_FORMAT = {
    "u8": "B", "u16": "H", "u32": "I", "u64": "Q", "s8": "b", "s16": "h", "s32": "i", "s64": "q",
    "int": "i", "long": "q", "ulong": "Q", "size_t": "Q", "UserPtr": "Q", "bool": "B",
}
_ARRAY = re.compile(r"""['"](\w+)\[(\d+)\]['"]""")      # Annotated[tuple[int, ...], "u64[4]"]


class Layout:
    """Base of every @uapi class: what the decorator adds, for the type checker. Fields that are not given are zero."""

    __slots__ = ()
    SIZE: ClassVar[int]
    STRUCT: ClassVar[struct.Struct]
    HEADER: ClassVar[str]

    def __init__(self, **fields: Any) -> None:
        raise NotImplementedError("made by @uapi")

    def pack(self) -> bytes:
        raise NotImplementedError("made by @uapi")

    @classmethod
    def unpack(cls, data: bytes | memoryview, offset: int = 0) -> Self:
        raise NotImplementedError("made by @uapi")


T = TypeVar("T", bound=Layout)


def uapi(header: str, *, size: int) -> Callable[[type[T]], type[T]]:
    """Compiles the class's annotations into one little-endian struct.Struct of `size` bytes.

    header: the Linux header that defines the layout. Fields: the integer names of lib.types,
    arrays as Annotated. Methods pack(), unpack(data, offset=0); constants SIZE, STRUCT, HEADER.
    """

    def build(cls: type[T]) -> type[T]:
        fields: list[tuple[str, str, int]] = []       # name, struct format, element count (0: scalar, -1: bytes)
        for name, kind in cls.__annotations__.items():
            array = _ARRAY.search(kind)
            if array is None:
                fields.append((name, _FORMAT[kind], 0))
            elif array[1] == "char":
                fields.append((name, f"{array[2]}s", -1))
            else:
                fields.append((name, f"{array[2]}{_FORMAT[array[1]]}", int(array[2])))
        layout = struct.Struct("<" + "".join(f for _, f, _ in fields))
        assert layout.size == size, f"{cls.__name__}: {layout.size} bytes declared, {size} in {header}"
        names = [n for n, _, _ in fields]
        lines = ["def __init__(self, *, " + ", ".join(
            f"{n}=" + ("b''" if c < 0 else f"(0,)*{c}" if c else "0") for n, _, c in fields) + "):"]
        lines += [f"    self.{n} = {n}" for n in names]
        lines += ["def pack(self):", "    return STRUCT.pack(" + ", ".join(
            (f"*self.{n}" if c > 0 else f"self.{n}") for n, _, c in fields) + ")"]
        lines += ["@classmethod", "def unpack(cls, data, offset=0):",
                  "    words = STRUCT.unpack_from(data, offset)", "    return cls("]
        position = 0
        for n, _, c in fields:
            width = max(c, 1)
            words = f"{position}:{position + width}" if c > 0 else f"{position}"
            lines.append(f"        {n}=words[{words}],")
            position += width
        lines += ["    )", "def __repr__(self):",
                  "    return NAME + '(' + ', '.join(f'{n}={getattr(self, n)!r}' for n in FIELDS) + ')'",
                  "def __eq__(self, other):", "    return type(other) is type(self) and self.pack() == other.pack()"]
        scope: dict[str, Any] = {"STRUCT": layout, "NAME": cls.__name__, "FIELDS": names}
        exec("\n".join(lines), scope)
        body = {k: v for k, v in cls.__dict__.items() if k not in ("__dict__", "__weakref__")}
        for method in ("__init__", "pack", "unpack", "__repr__", "__eq__"):
            body.setdefault(method, scope[method])
        body["__init__"] = scope["__init__"]
        body["__hash__"] = None
        body.update(__slots__=tuple(names), SIZE=size, STRUCT=layout, HEADER=header)
        made: type[T] = type(cls.__name__, cls.__bases__, body)
        return made

    return build
