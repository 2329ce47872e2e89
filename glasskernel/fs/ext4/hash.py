"""Hashes of file names for indexed directories.

Linux: fs/ext4/hash.c, lib/halfmd4.c (5.3). Same: legacy, half MD4 and TEA, each for signed and unsigned characters.
"""
from __future__ import annotations

from struct import unpack

from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

DX_HASH_LEGACY, DX_HASH_HALF_MD4, DX_HASH_TEA, DX_HASH_LEGACY_UNSIGNED, DX_HASH_HALF_MD4_UNSIGNED = 0, 1, 2, 3, 4
DX_HASH_TEA_UNSIGNED = 5
EXT4_HTREE_EOF = 0x7FFFFFFF
DEFAULT_SEED = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
M = 0xFFFFFFFF


@slotted
class DxHashInfo:
    """struct dx_hash_info. The lowest bit of hash is 0: it marks collisions in an index."""

    hash_version: int
    seed: tuple[int, int, int, int] = (0, 0, 0, 0)
    hash: int = 0
    minor_hash: int = 0


def TEA_transform(buf: list[int], words: list[int]) -> None:
    total, b0, b1 = 0, buf[0], buf[1]
    a, b, c, d = words[:4]
    for _ in range(16):
        total = total + 0x9E3779B9 & M
        b0 = b0 + (((b1 << 4) + a & M) ^ (b1 + total & M) ^ ((b1 >> 5) + b & M)) & M
        b1 = b1 + (((b0 << 4) + c & M) ^ (b0 + total & M) ^ ((b0 >> 5) + d & M)) & M
    buf[0] = buf[0] + b0 & M
    buf[1] = buf[1] + b1 & M


def half_md4_transform(buf: list[int], words: list[int]) -> int:
    """Written out, and so faster than a loop over a table of steps."""
    a0, b0, c0, d0 = a, b, c, d = buf
    w0, w1, w2, w3, w4, w5, w6, w7 = words
    # b chooses between c and d
    a = a + (d ^ b & (c ^ d)) + w0 & M
    a = (a << 3 | a >> 29) & M
    d = d + (c ^ a & (b ^ c)) + w1 & M
    d = (d << 7 | d >> 25) & M
    c = c + (b ^ d & (a ^ b)) + w2 & M
    c = (c << 11 | c >> 21) & M
    b = b + (a ^ c & (d ^ a)) + w3 & M
    b = (b << 19 | b >> 13) & M
    a = a + (d ^ b & (c ^ d)) + w4 & M
    a = (a << 3 | a >> 29) & M
    d = d + (c ^ a & (b ^ c)) + w5 & M
    d = (d << 7 | d >> 25) & M
    c = c + (b ^ d & (a ^ b)) + w6 & M
    c = (c << 11 | c >> 21) & M
    b = b + (a ^ c & (d ^ a)) + w7 & M
    b = (b << 19 | b >> 13) & M
    # the majority of b, c, d
    a = a + (b & c) + ((b ^ c) & d) + w1 + 0x5A827999 & M
    a = (a << 3 | a >> 29) & M
    d = d + (a & b) + ((a ^ b) & c) + w3 + 0x5A827999 & M
    d = (d << 5 | d >> 27) & M
    c = c + (d & a) + ((d ^ a) & b) + w5 + 0x5A827999 & M
    c = (c << 9 | c >> 23) & M
    b = b + (c & d) + ((c ^ d) & a) + w7 + 0x5A827999 & M
    b = (b << 13 | b >> 19) & M
    a = a + (b & c) + ((b ^ c) & d) + w0 + 0x5A827999 & M
    a = (a << 3 | a >> 29) & M
    d = d + (a & b) + ((a ^ b) & c) + w2 + 0x5A827999 & M
    d = (d << 5 | d >> 27) & M
    c = c + (d & a) + ((d ^ a) & b) + w4 + 0x5A827999 & M
    c = (c << 9 | c >> 23) & M
    b = b + (c & d) + ((c ^ d) & a) + w6 + 0x5A827999 & M
    b = (b << 13 | b >> 19) & M
    # the parity of b, c, d
    a = a + (b ^ c ^ d) + w3 + 0x6ED9EBA1 & M
    a = (a << 3 | a >> 29) & M
    d = d + (a ^ b ^ c) + w7 + 0x6ED9EBA1 & M
    d = (d << 9 | d >> 23) & M
    c = c + (d ^ a ^ b) + w2 + 0x6ED9EBA1 & M
    c = (c << 11 | c >> 21) & M
    b = b + (c ^ d ^ a) + w6 + 0x6ED9EBA1 & M
    b = (b << 15 | b >> 17) & M
    a = a + (b ^ c ^ d) + w1 + 0x6ED9EBA1 & M
    a = (a << 3 | a >> 29) & M
    d = d + (a ^ b ^ c) + w5 + 0x6ED9EBA1 & M
    d = (d << 9 | d >> 23) & M
    c = c + (d ^ a ^ b) + w0 + 0x6ED9EBA1 & M
    c = (c << 11 | c >> 21) & M
    b = b + (c ^ d ^ a) + w4 + 0x6ED9EBA1 & M
    b = (b << 15 | b >> 17) & M
    buf[0] = a0 + a & M
    buf[1] = b0 + b & M
    buf[2] = c0 + c & M
    buf[3] = d0 + d & M
    return buf[1]


@notrace
def _signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def dx_hack_hash(name: bytes, signed: bool) -> int:
    """The hash of the first indexed directories."""
    hash0, hash1 = 0x12A3FE2D, 0x37ABE8F9
    for byte in name:
        value = _signed(byte) if signed else byte
        hash_ = hash1 + (hash0 ^ value * 7152373) & M
        if hash_ & 0x80000000:
            hash_ -= 0x7FFFFFFF
        hash1, hash0 = hash0, hash_
    return hash0 << 1 & M


@notrace
def str2hashbuf(name: bytes, num: int, signed: bool) -> list[int]:
    """num words of four characters each, padded with the length."""
    length = len(name)
    pad = length | length << 8
    pad |= pad << 16
    pad &= M
    if not signed or name.isascii():
        name = name[: num * 4]
        full, rest = divmod(len(name), 4)
        words = list(unpack(f">{full}I", name[: full * 4]))
        if full < num:
            words.append((pad << 8 * rest | int.from_bytes(name[full * 4 :], "big")) & M)
            words += [pad] * (num - full - 1)
        return words
    words = []
    value = pad
    name = name[: num * 4]
    for i, byte in enumerate(name):
        value = (_signed(byte) if signed else byte) + (value << 8) & M
        if i % 4 == 3:
            words.append(value)
            value = pad
    if len(words) < num:
        words.append(value)
    words += [pad] * (num - len(words))
    return words


def ext4fs_dirhash(name: bytes, hinfo: DxHashInfo) -> None:
    """Fills hash and minor_hash. Raises EINVAL for an unknown version."""
    __ext4fs_dirhash(name, hinfo)


def __ext4fs_dirhash(name: bytes, hinfo: DxHashInfo) -> None:
    buf = list(hinfo.seed) if any(hinfo.seed) else list(DEFAULT_SEED)
    version = hinfo.hash_version
    minor = 0
    signed = version <= DX_HASH_TEA
    if version in (DX_HASH_LEGACY, DX_HASH_LEGACY_UNSIGNED):
        hash_ = dx_hack_hash(name, signed)
    elif version in (DX_HASH_HALF_MD4, DX_HASH_HALF_MD4_UNSIGNED):
        position = 0
        while position < len(name):
            half_md4_transform(buf, str2hashbuf(name[position:], 8, signed))
            position += 32
        minor = buf[2]
        hash_ = buf[1]
    elif version in (DX_HASH_TEA, DX_HASH_TEA_UNSIGNED):
        position = 0
        while position < len(name):
            TEA_transform(buf, str2hashbuf(name[position:], 4, signed))
            position += 16
        hash_ = buf[0]
        minor = buf[1]
    else:
        hinfo.hash = 0
        raise KernelError(EINVAL)
    hash_ &= ~1
    if hash_ == EXT4_HTREE_EOF << 1 & M:
        hash_ = EXT4_HTREE_EOF - 1 << 1 & M
    hinfo.hash = hash_
    hinfo.minor_hash = minor
