"""How the kernel prints pointers.

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
