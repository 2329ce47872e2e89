"""Sets of numbers: the types of an attribute, the categories of a level.

Linux: security/selinux/ss/ebitmap.c (5.3). Same: the format in a policy (words of 64 bits, those that are 0 left out),
    what is damage there. Differs: a set is an int, bit n for member n, so union, intersection and inclusion are `|`,
    `&` and `a & ~b == 0`; a member above EBITMAP_MAX_BIT is damage (no policy has a millionth type).
"""
from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.security.selinux.ss.policyfile import PolicyFile

MAPSIZE = 64
EBITMAP_MAX_BIT = 1 << 20

_node = Struct("<IQ")


@notrace
def ebitmap_for_each_positive_bit(bits: int) -> Iterator[int]:
    """The members, in order."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def ebitmap_read(fp: PolicyFile) -> int:
    """A set of a policy. Raises EINVAL."""
    mapunit, highbit, count = fp.u32s(3)
    if mapunit != MAPSIZE:
        fp.bad(f"ebitmap: map size {mapunit} does not match my size {MAPSIZE} (high bit was {highbit})")
    highbit = (highbit + MAPSIZE - 1) // MAPSIZE * MAPSIZE
    if highbit == 0:
        return 0
    if count == 0 or highbit > EBITMAP_MAX_BIT:
        fp.bad("ebitmap: truncated map")
    bits, last = 0, -1
    for _ in range(count):
        startbit, word = fp.unpack(_node)
        if startbit & (MAPSIZE - 1):
            fp.bad(f"ebitmap start bit ({startbit}) is not a multiple of the map unit size ({MAPSIZE})")
        if startbit > highbit - MAPSIZE:
            fp.bad(f"ebitmap start bit ({startbit}) is beyond the end of the bitmap ({highbit})")
        if startbit <= last:
            fp.bad(f"ebitmap: start bit {startbit} comes after start bit {last}")
        if word == 0:
            fp.bad(f"ebitmap: null map in ebitmap (startbit {startbit})")
        bits |= word << startbit
        last = startbit
    return bits


def ebitmap_write(bits: int) -> bytes:
    """A set as a policy has it."""
    words = [(start, word) for start in range(0, bits.bit_length(), MAPSIZE)
             if (word := bits >> start & 0xFFFFFFFFFFFFFFFF)]
    highbit = (bits.bit_length() + MAPSIZE - 1) // MAPSIZE * MAPSIZE
    head = b"".join(number.to_bytes(4, "little") for number in (MAPSIZE, highbit, len(words)))
    return head + b"".join(_node.pack(start, word) for start, word in words)
