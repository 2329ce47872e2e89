"""Tracked numbers: which bits of a 64-bit value are known.

Linux: kernel/bpf/tnum.c (5.3). A tnum is (value, mask): a bit of mask is unknown, and 0 in value. Pure functions.
"""
from __future__ import annotations

from typing import Final

from glasskernel.lib.types import U64_MAX, notrace

Tnum = tuple[int, int]
TNUM_UNKNOWN: Final[Tnum] = (0, U64_MAX)


@notrace
def tnum_const(value: int) -> Tnum:
    return value, 0


@notrace
def tnum_range(low: int, high: int) -> Tnum:
    """The smallest tnum that has all of low..high (unsigned): the bits above the highest that differs are known."""
    bits = (low ^ high).bit_length()
    if bits > 63:
        return TNUM_UNKNOWN
    delta = (1 << bits) - 1
    return low & ~delta, delta


@notrace
def tnum_lshift(a: Tnum, shift: int) -> Tnum:
    return a[0] << shift & U64_MAX, a[1] << shift & U64_MAX


@notrace
def tnum_rshift(a: Tnum, shift: int) -> Tnum:
    return a[0] >> shift, a[1] >> shift


@notrace
def tnum_arshift(a: Tnum, shift: int) -> Tnum:
    """Both halves are shifted with their sign: an unknown sign makes unknown bits."""
    return _arshift(a[0], shift), _arshift(a[1], shift)


@notrace
def _arshift(word: int, shift: int) -> int:
    return ((word ^ 1 << 63) - (1 << 63) >> shift) & U64_MAX


@notrace
def tnum_add(a: Tnum, b: Tnum) -> Tnum:
    """A carry may come wherever adding all unknown bits changes something."""
    value = a[0] + b[0] & U64_MAX
    changed = (a[1] + b[1] + value ^ value) & U64_MAX
    mask = changed | a[1] | b[1]
    return value & ~mask, mask


@notrace
def tnum_sub(a: Tnum, b: Tnum) -> Tnum:
    value = a[0] - b[0]
    mask = (value + a[1] ^ value - b[1]) & U64_MAX | a[1] | b[1]
    return value & U64_MAX & ~mask, mask


@notrace
def tnum_and(a: Tnum, b: Tnum) -> Tnum:
    value = a[0] & b[0]
    return value, (a[0] | a[1]) & (b[0] | b[1]) & ~value


@notrace
def tnum_or(a: Tnum, b: Tnum) -> Tnum:
    value = a[0] | b[0]
    return value, (a[1] | b[1]) & ~value


@notrace
def tnum_xor(a: Tnum, b: Tnum) -> Tnum:
    mask = a[1] | b[1]
    return (a[0] ^ b[0]) & ~mask, mask


@notrace
def tnum_mul(a: Tnum, b: Tnum) -> Tnum:
    """Long multiplication: what is known at once, then the unknown bits of each factor times all the other may be."""
    total: Tnum = (a[0] * b[0] & U64_MAX, 0)
    total = _half_multiply(total, a[1], b[0] | b[1])
    return _half_multiply(total, b[1], a[0])


@notrace
def _half_multiply(total: Tnum, unknown: int, factor: int) -> Tnum:
    while factor:
        if factor & 1:
            total = tnum_add(total, (0, unknown))
        factor >>= 1
        unknown = unknown << 1 & U64_MAX
    return total


@notrace
def tnum_intersect(a: Tnum, b: Tnum) -> Tnum:
    """What both say of one number."""
    mask = a[1] & b[1]
    return (a[0] | b[0]) & ~mask, mask


@notrace
def tnum_cast(a: Tnum, size: int) -> Tnum:
    """The lowest `size` bytes."""
    keep = (1 << size * 8) - 1
    return a[0] & keep, a[1] & keep


@notrace
def tnum_is_aligned(a: Tnum, size: int) -> bool:
    return not (a[0] | a[1]) & size - 1


@notrace
def tnum_in(a: Tnum, b: Tnum) -> bool:
    """Every number of b is one of a's."""
    return not b[1] & ~a[1] and a[0] == b[0] & ~a[1]


@notrace
def tnum_strn(a: Tnum) -> str:
    """In the verifier's log."""
    return f"({a[0]:#x}; {a[1]:#x})"
