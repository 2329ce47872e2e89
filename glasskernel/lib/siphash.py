"""SipHash-2-4: a keyed hash that nobody can guess without the key.

Linux: lib/siphash.c. Same: the algorithm (Aumasson and Bernstein, 2012).
"""
from __future__ import annotations

from glasskernel.lib.types import notrace

_M = 0xFFFFFFFFFFFFFFFF


@notrace
def _rounds(v0: int, v1: int, v2: int, v3: int, count: int) -> tuple[int, int, int, int]:
    for _ in range(count):
        v0 = v0 + v1 & _M
        v1 = (v1 << 13 | v1 >> 51) & _M ^ v0
        v0 = (v0 << 32 | v0 >> 32) & _M
        v2 = v2 + v3 & _M
        v3 = (v3 << 16 | v3 >> 48) & _M ^ v2
        v0 = v0 + v3 & _M
        v3 = (v3 << 21 | v3 >> 43) & _M ^ v0
        v2 = v2 + v1 & _M
        v1 = (v1 << 17 | v1 >> 47) & _M ^ v2
        v2 = (v2 << 32 | v2 >> 32) & _M
    return v0, v1, v2, v3


@notrace
def siphash(data: bytes, key: bytes) -> int:
    """64 bits from any data and a key of 16 bytes."""
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:16], "little")
    v0, v1 = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D
    v2, v3 = k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573
    whole = len(data) & ~7
    for at in range(0, whole, 8):
        m = int.from_bytes(data[at : at + 8], "little")
        v0, v1, v2, v3 = _rounds(v0, v1, v2, v3 ^ m, 2)
        v0 ^= m
    m = (len(data) & 0xFF) << 56 | int.from_bytes(data[whole:], "little")
    v0, v1, v2, v3 = _rounds(v0, v1, v2, v3 ^ m, 2)
    v0, v1, v2, v3 = _rounds(v0 ^ m, v1, v2 ^ 0xFF, v3, 4)
    return v0 ^ v1 ^ v2 ^ v3
