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

from glasskernel.lib.slotted import slotted

_FORMAT = {
    "u8": "B", "u16": "H", "u32": "I", "u64": "Q", "s8": "b", "s16": "h", "s32": "i", "s64": "q",
    "int": "i", "long": "q", "ulong": "Q", "size_t": "Q", "UserPtr": "Q", "bool": "B",
}


@slotted(frozen=True)
class _Field:
    name: str
    format: str        # of struct
    count: int         # of elements; 0: scalar, -1: bytes


_ARRAY = re.compile(r"""['"](\w+)\[(\d+)\]['"]""")      # Annotated[tuple[int, ...], "u64[4]"]


class Layout:
    """Base of every @uapi class. Fields that are not given are zero.

    The three methods are compiled for a class when one of them is first called: most classes never are in a run.
    """

    __slots__ = ()
    SIZE: ClassVar[int]
    STRUCT: ClassVar[struct.Struct]
    HEADER: ClassVar[str]
    FIELDS: ClassVar[tuple[_Field, ...]]

    def __init__(self, **fields: Any) -> None:
        _compile_methods(type(self))
        self.__init__(**fields)                       # type: ignore[misc]

    def pack(self) -> bytes:
        _compile_methods(type(self))
        return self.pack()

    @classmethod
    def unpack(cls, data: bytes | memoryview, offset: int = 0) -> Self:
        _compile_methods(cls)
        return cls.unpack(data, offset)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in self.FIELDS)})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.pack() == other.pack()

    __hash__ = None                                   # type: ignore[assignment]


T = TypeVar("T", bound=Layout)


def uapi(header: str, *, size: int) -> Callable[[type[T]], type[T]]:
    """Lays the class's annotations out as one little-endian struct.Struct of `size` bytes.

    header: the Linux header that defines the layout. Fields: the integer names of lib.types,
    arrays as Annotated. Methods pack(), unpack(data, offset=0); constants SIZE, STRUCT, HEADER.
    """

    def build(cls: type[T]) -> type[T]:
        fields = tuple(_field(name, kind) for name, kind in cls.__annotations__.items())
        layout = struct.Struct("<" + "".join(f.format for f in fields))
        assert layout.size == size, f"{cls.__name__}: {layout.size} bytes declared, {size} in {header}"
        body = {k: v for k, v in cls.__dict__.items() if k not in ("__dict__", "__weakref__")}
        body.update(__slots__=tuple(f.name for f in fields), SIZE=size, STRUCT=layout, HEADER=header, FIELDS=fields)
        made: type[T] = type(cls.__name__, cls.__bases__, body)
        return made

    return build


def _field(name: str, kind: str) -> _Field:
    array = _ARRAY.search(kind)
    if array is None:
        return _Field(name, _FORMAT[kind], 0)
    if array[1] == "char":
        return _Field(name, f"{array[2]}s", -1)
    return _Field(name, f"{array[2]}{_FORMAT[array[1]]}", int(array[2]))


def _compile_methods(cls: type[Layout]) -> None:
    """Straight-line code for one class: these run for every stat() and every directory entry."""
    defaults = (f"{f.name}=" + ("b''" if f.count < 0 else f"(0,)*{f.count}" if f.count else "0") for f in cls.FIELDS)
    lines = [f"def __init__(self, *, {', '.join(defaults)}):"]
    lines += [f"    self.{f.name} = {f.name}" for f in cls.FIELDS]
    packed = ", ".join(f"*self.{f.name}" if f.count > 0 else f"self.{f.name}" for f in cls.FIELDS)
    lines += ["def pack(self):", f"    return STRUCT.pack({packed})", "@classmethod",
              "def unpack(cls, data, offset=0):", "    words = STRUCT.unpack_from(data, offset)", "    return cls("]
    position = 0
    for f in cls.FIELDS:
        width = max(f.count, 1)
        words = f"{position}:{position + width}" if f.count > 0 else f"{position}"
        lines.append(f"        {f.name}=words[{words}],")
        position += width
    lines.append("    )")
    scope: dict[str, Any] = {"STRUCT": cls.STRUCT}
    exec("\n".join(lines), scope)
    for method in ("__init__", "pack", "unpack"):
        if method not in cls.__dict__:
            setattr(cls, method, scope[method])
