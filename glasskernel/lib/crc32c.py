"""CRC32c (Castagnoli), the checksum of ext4, jbd2 and iSCSI.

Linux: lib/libcrc32c.c, arch/x86/crypto/crc32c-intel. Same: crc32c(seed, data) neither inverts the seed nor the result.
Differs: the host's crc32 instruction does it (google-crc32c, imported at the first use), as the CPU's does in Linux.
Where that is not installed: four bytes a step through two tables of 65536 entries (Python steps cost more than table
space); arrays, not lists: these fit into the host's caches, and a step takes half as long.
"""
from __future__ import annotations

from array import array
from collections.abc import Callable
from functools import cache
from struct import unpack
from sys import byteorder

from glasskernel.lib.types import notrace

POLY = 0x82F63B78              # reflected


@notrace
@cache
def _slices() -> list[list[int]]:
    """[k][b]: what the byte b leaves behind after k + 1 bytes."""
    byte = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (POLY if value & 1 else 0)
        byte.append(value)
    slices = [byte]
    for _ in range(3):
        slices.append([value >> 8 ^ byte[value & 0xFF] for value in slices[-1]])
    return slices


@notrace
@cache
def _tables() -> tuple[array[int], array[int]]:
    """(low, high): what the low and the high half of a 32-bit word leave behind after four bytes."""
    t0, t1, t2, t3 = _slices()
    return _square(t2, t3), _square(t0, t1)


@notrace
def _square(outer: list[int], inner: list[int]) -> array[int]:
    """[a ^ b for a in outer for b in inner]: a row of 256 words is one number, so that 512 steps make both tables."""
    row = int.from_bytes(b"".join([value.to_bytes(4, "little") for value in inner]), "little")
    ones = int.from_bytes(b"\1\0\0\0" * 256, "little")
    rows = b"".join([(row ^ value * ones).to_bytes(1024, "little") for value in outer])
    table = array("I", rows)
    if byteorder == "big":
        table.byteswap()
    return table


@notrace
def crc32c_by_tables(crc: int, data: bytes | bytearray | memoryview) -> int:
    """crc32c() in Python."""
    size = len(data)
    words = size >> 2
    if words:
        low, high = _tables()
        for word in unpack(f"<{words}I", data if size == words << 2 else data[: words << 2]):
            crc ^= word
            crc = low[crc & 0xFFFF] ^ high[crc >> 16]
    if size & 3:
        table = _slices()[0]
        for byte in bytes(data[words << 2 :]):
            crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc


@notrace
@cache
def _native() -> Callable[[int, bytes], int] | None:
    """The library's function, if it has one that is not Python: it inverts the seed and the result."""
    try:
        from google_crc32c.cext import extend  # type: ignore[attr-defined, unused-ignore]
    except ImportError:
        return None
    return extend  # type: ignore[no-any-return, unused-ignore]


@notrace
def crc32c(crc: int, data: bytes | bytearray | memoryview) -> int:
    """Goes on with `crc` over `data`."""
    extend = _native()
    if extend is None:
        return crc32c_by_tables(crc, data)
    return extend(crc ^ 0xFFFFFFFF, bytes(data)) ^ 0xFFFFFFFF
