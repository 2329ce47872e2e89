"""C's integer types as names for annotations, and the conversions between them.

Everything is an int to Python; the name tells the reader, `@syscall` and `@uapi` the width and the sign.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

u8: TypeAlias = int
u16: TypeAlias = int
u32: TypeAlias = int
u64: TypeAlias = int
s8: TypeAlias = int
s16: TypeAlias = int
s32: TypeAlias = int
s64: TypeAlias = int
long: TypeAlias = int          # signed 64-bit
ulong: TypeAlias = int
size_t: TypeAlias = int
UserPtr: TypeAlias = int       # an address in user space: only uaccess may follow it

F = TypeVar("F", bound=Callable[..., object])

U32_MAX = 0xFFFF_FFFF
U64_MAX = 0xFFFF_FFFF_FFFF_FFFF


def to_s32(value: int) -> int:
    """The low 32 bits as a signed int."""
    return ((value & 0xFFFF_FFFF) ^ 0x8000_0000) - 0x8000_0000


def to_s64(value: int) -> int:
    """The low 64 bits as a signed int."""
    return ((value & U64_MAX) ^ 0x8000_0000_0000_0000) - 0x8000_0000_0000_0000


def notrace(function: F) -> F:
    """Marks a helper that Linux has not: traces never show it. Adds no frame."""
    function.__notrace__ = True  # type: ignore[attr-defined]
    return function


def may_sleep(function: F) -> F:
    """Marks a function that may call schedule(): no spinlock may be held around it. Adds no frame."""
    function.__may_sleep__ = True  # type: ignore[attr-defined]
    return function
