"""How the kernel prints pointers and masks.

Linux: lib/vsprintf.c (5.3).
"""
from __future__ import annotations

from glasskernel.lib.types import U64_MAX, notrace


@notrace
def hash_pointer(address: int) -> int:
    """What %p shows: 32 bits that say nothing but stay the same for an address (Linux: siphash with a random key)."""
    x = (address ^ address >> 33) * 0xFF51AFD7ED558CCD & U64_MAX
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53 & U64_MAX
    return (x ^ x >> 33) & 0xFFFF_FFFF


@notrace
def cpumask_hex(mask: int, bits: int) -> bytes:
    """%*pb: groups of 32 bits, the first as wide as the bits that are left."""
    words = (bits + 31) // 32
    parts = [b"%0*x" % (((bits - 1) % 32) // 4 + 1 if i == words - 1 else 8, mask >> 32 * i & 0xFFFFFFFF)
             for i in range(words)]
    return b",".join(reversed(parts))


@notrace
def cpumask_list(mask: int) -> bytes:
    """%*pbl: b"0-2,5"."""
    parts = []
    bit = 0
    while mask >> bit:
        if mask >> bit & 1:
            first = bit
            while mask >> bit & 1:
                bit += 1
            parts.append(b"%d" % first if bit - 1 == first else b"%d-%d" % (first, bit - 1))
        bit += 1
    return b",".join(parts)
