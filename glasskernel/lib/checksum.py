"""The Internet checksum (RFC 1071).

Linux: lib/checksum.c, include/net/checksum.h. Same: partial sums are 32 bits that fold to 16. Differs: the sum of a
buffer is one remainder: 2**16 is 1 modulo 0xFFFF, so the ones' complement sum of all 16-bit words is the whole buffer,
read as one number, modulo 0xFFFF. Sums are of big-endian words: a folded checksum is written big-endian.
"""
from __future__ import annotations

from glasskernel.lib.types import notrace

Buffer = bytes | bytearray | memoryview


def csum_partial(buff: Buffer, wsum: int = 0) -> int:
    """The sum of a buffer's words and of wsum, 0..0xFFFF; an odd last byte counts as the high half of a word.

    0 only if everything is 0: a nonzero sum that vanishes modulo 0xFFFF is 0xFFFF.
    """
    value = int.from_bytes(buff, "big")
    if len(buff) & 1:
        value <<= 8
    value += wsum
    return value % 0xFFFF or (0xFFFF if value else 0)


@notrace
def csum_fold(wsum: int) -> int:
    """The complement: what stands in a header."""
    return ~(wsum % 0xFFFF or (0xFFFF if wsum else 0)) & 0xFFFF


@notrace
def csum_block_add(csum: int, csum2: int, offset: int) -> int:
    """The sum of two neighbours, the second of which begins at `offset`."""
    if offset & 1:
        csum2 = (csum2 & 0xFF) << 8 | csum2 >> 8
    value = csum + csum2
    return value % 0xFFFF or (0xFFFF if value else 0)


@notrace
def csum_tcpudp_nofold(saddr: int, daddr: int, length: int, proto: int, wsum: int) -> int:
    """wsum and the pseudo header of IPv4. Addresses are host-order ints."""
    return (saddr >> 16) + (saddr & 0xFFFF) + (daddr >> 16) + (daddr & 0xFFFF) + length + proto + wsum


@notrace
def csum_tcpudp_magic(saddr: int, daddr: int, length: int, proto: int, wsum: int) -> int:
    """The folded checksum with the pseudo header."""
    return csum_fold(csum_tcpudp_nofold(saddr, daddr, length, proto, wsum))


@notrace
def ip_fast_csum(header: Buffer) -> int:
    """The checksum of an IPv4 header; 0 over one that holds its own and is whole."""
    return csum_fold(csum_partial(header))
