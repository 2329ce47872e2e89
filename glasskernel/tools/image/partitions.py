"""Partition tables of image files, as seen from the host: MBR with logical partitions, and GPT."""
from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

SECTOR = 512
_EXTENDED = (0x05, 0x0F, 0x85)
_LINUX = 0x83
Read = Callable[[int, int], bytes]


def mbr(parts: Sequence[tuple[int, int]], signature: int) -> bytes:
    """Sector 0 with up to four partitions (first sector, sectors)."""
    table = bytearray(SECTOR)
    struct.pack_into("<I", table, 440, signature)
    for index, (start, count) in enumerate(parts):
        none = b"\xfe\xff\xff"                                     # cylinder, head, sector: nobody uses them
        struct.pack_into("<B3sB3sII", table, 446 + 16 * index, 0, none, _LINUX, none, start, count)
    table[510:] = b"\x55\xaa"
    return bytes(table)


def partitions(read: Read, size: int) -> list[tuple[int, int, int]]:
    """(number, first byte, bytes), by number; [] if there is no table. read(offset, length) reads the image."""
    if size < 2 * SECTOR:
        return []
    sector = read(0, SECTOR)
    if sector[510:512] != b"\x55\xaa" or any(sector[446 + 16 * i] & 0x7F for i in range(4)):
        return []
    header = read(SECTOR, SECTOR)
    found = _gpt(read, header) if header[:8] == b"EFI PART" else _msdos(read, sector)
    return [(number, start * SECTOR, count * SECTOR) for number, start, count in found
            if count and (start + count) * SECTOR <= size]


def _gpt(read: Read, header: bytes) -> list[tuple[int, int, int]]:
    where, count, length = struct.unpack_from("<QII", header, 72)
    if not 128 <= length <= 4096 or count > 1024:
        return []
    found = []
    for index in range(count):
        entry = read(where * SECTOR + index * length, 56)
        first, last = struct.unpack_from("<QQ", entry, 32)
        if any(entry[:16]) and last >= first:
            found.append((index + 1, first, last - first + 1))
    return found


def _msdos(read: Read, sector: bytes) -> list[tuple[int, int, int]]:
    found = []
    for index in range(4):
        kind = sector[446 + 16 * index + 4]
        start, count = struct.unpack_from("<II", sector, 446 + 16 * index + 8)
        if kind in _EXTENDED:
            found += _logical(read, start)
        elif count:
            found.append((index + 1, start, count))
    return sorted(found)


def _logical(read: Read, base: int) -> list[tuple[int, int, int]]:
    found: list[tuple[int, int, int]] = []
    at = base
    for number in range(5, 69):
        sector = read(at * SECTOR, SECTOR)
        if sector[510:512] != b"\x55\xaa":
            break
        start, count = struct.unpack_from("<II", sector, 446 + 8)
        found.append((number, at + start, count))
        offset, more = struct.unpack_from("<II", sector, 462 + 8)
        if sector[462 + 4] not in _EXTENDED or not more:
            break
        at = base + offset
    return found
