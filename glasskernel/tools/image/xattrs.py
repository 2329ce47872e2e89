"""Extended attributes as ext4 stores them: behind the inode, or in a block of their own.

Invariants: what pack_*() makes is what fs/ext4/xattr.py reads; POSIX ACLs are stored in ext4's own short form.
"""
from __future__ import annotations

import struct

from glasskernel.fs.ext4.disk import XATTR_ENTRY
from glasskernel.lib.crc32c import crc32c
from glasskernel.tools.image.geometry import ImageError

MAGIC = 0xEA020000
_ACLS = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}
_PREFIXES = ((b"user.", 1), (b"trusted.", 4), (b"security.", 6), (b"system.", 7))
_ACL_USER, _ACL_GROUP = 0x02, 0x08
Packed = tuple[int, bytes, bytes]              # index, name, value


def pack_inode(xattrs: dict[bytes, bytes], room: int) -> bytes | None:
    """What stands behind the inode's own fields; None if `room` bytes are too few."""
    area = _pack(_entries(xattrs), room - 4, hashed=False)
    return None if area is None else struct.pack("<I", MAGIC) + area[0]


def pack_block(xattrs: dict[bytes, bytes], size: int, seed: int | None, number: int) -> bytes:
    """Block `number`. seed: of checksums, if there are any. Raises ImageError."""
    packed = _pack(_entries(xattrs), size - 32, hashed=True, base=32)
    if packed is None:
        raise ImageError(f"extended attributes do not fit into a block of {size} bytes")
    area, total = packed
    head = struct.pack("<5I", MAGIC, 1, 1, total, 0)
    if seed is not None:
        whole = head.ljust(32, b"\0") + area
        head = struct.pack("<5I", MAGIC, 1, 1, total, crc32c(crc32c(seed, struct.pack("<Q", number)), whole))
    return head.ljust(32, b"\0") + area


def _entries(xattrs: dict[bytes, bytes]) -> list[Packed]:
    found = []
    for full, value in xattrs.items():
        if full in _ACLS:
            found.append((_ACLS[full], b"", _short_acl(value)))
            continue
        for prefix, index in _PREFIXES:
            if full.startswith(prefix):
                found.append((index, full[len(prefix) :], value))
                break
    return sorted(found, key=lambda entry: (entry[0], len(entry[1]), entry[1]))


def _short_acl(value: bytes) -> bytes:
    """Version 2 of the system call, to version 1 of the disk: only named users and groups have an id."""
    parts = [struct.pack("<I", 1)]
    for at in range(4, len(value) - 7, 8):
        tag, permission, number = struct.unpack_from("<HHI", value, at)
        parts.append(struct.pack("<HH", tag, permission))
        if tag in (_ACL_USER, _ACL_GROUP):
            parts.append(struct.pack("<I", number))
    return b"".join(parts)


def _pack(entries: list[Packed], size: int, *, hashed: bool, base: int = 0) -> tuple[bytes, int] | None:
    """(entries from the start, values from the end; the hash of all); None if that is more than `size` bytes."""
    heads = []
    area = bytearray(size)
    end, total = size, 0
    for index, name, value in entries:
        end -= len(value) + 3 & ~3
        if end < 0:
            return None
        area[end : end + len(value)] = value
        digest = _hash(name, value) if hashed else 0
        total = (total << 16 ^ total >> 16 ^ digest) & 0xFFFFFFFF
        offset = end + base if value else 0
        heads.append((XATTR_ENTRY.pack(len(name), index, offset, 0, len(value), digest) + name).ljust(
            16 + len(name) + 3 & ~3, b"\0"))
    table = b"".join(heads)
    if len(table) + 4 > end:
        return None
    area[: len(table)] = table
    return bytes(area), total


def _hash(name: bytes, value: bytes) -> int:
    """ext4_xattr_hash_entry()"""
    digest = 0
    for byte in name:
        digest = (digest << 5 ^ digest >> 27 ^ byte) & 0xFFFFFFFF
    padded = value.ljust(len(value) + 3 & ~3, b"\0")
    for (word,) in struct.iter_unpack("<I", padded):
        digest = (digest << 16 ^ digest >> 16 ^ word) & 0xFFFFFFFF
    return digest
