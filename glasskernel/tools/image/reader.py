"""Reads files of an ext2, ext3 or ext4 file system in an image, without a kernel.

Invariants: nothing is written; what the journal holds is not replayed, so an image that was not unmounted may show an
    older state. Damaged images raise ImageError: no loop, no read without limits.
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from glasskernel.fs.ext4.disk import EXTENT, EXTENT_HEADER, EXTENT_IDX, Ext4GroupDesc, Ext4Inode, Ext4SuperBlock
from glasskernel.tools.image.geometry import ImageError

Read = Callable[[int, int], bytes]             # (offset, length)
S_IFMT, S_IFDIR, S_IFREG, S_IFLNK = 0o170000, 0o040000, 0o100000, 0o120000
EXTENTS_FL, INLINE_FL, ENCRYPT_FL = 0x80000, 0x10000000, 0x800
_KNOWN_INCOMPAT = 0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x200 | 0x2000      # ... recover, meta_bg, ..., csum_seed
MAX_LINKS = 40
CHUNK = 1 << 20


@dataclass(slots=True, frozen=True)
class Node:
    """An inode."""

    ino: int
    mode: int
    uid: int
    gid: int
    size: int
    links: int
    mtime_ns: int
    flags: int
    block: bytes                               # i_block
    rdev: tuple[int, int]                      # major, minor

    @property
    def kind(self) -> int:
        return self.mode & S_IFMT


class Ext4Image:
    """read: of the whole image. start: where the file system begins in it. Raises ImageError."""

    def __init__(self, read: Read, start: int = 0) -> None:
        self._read = read
        self._start = start
        es = Ext4SuperBlock(bytearray(read(start + 1024, 1024)))
        if es.s_magic != 0xEF53:
            raise ImageError("no ext2, ext3 or ext4 file system")
        if es.s_feature_incompat & ~_KNOWN_INCOMPAT:
            raise ImageError(f"the file system has features that are not known: {es.s_feature_incompat:#x}")
        if es.s_log_block_size > 2 or not es.s_inodes_per_group or not es.s_blocks_per_group:
            raise ImageError("the super block is damaged")
        self.es = es
        self.block_size = 1024 << es.s_log_block_size
        self._inode_size = es.s_inode_size if es.s_rev_level else 128
        self._desc_size = es.s_desc_size if es.s_feature_incompat & 0x80 else 32
        if self._inode_size < 128 or self._desc_size < 32:
            raise ImageError("the super block is damaged")

    def _at(self, block: int, offset: int, length: int) -> bytes:
        data = self._read(self._start + block * self.block_size + offset, length)
        if len(data) < length:
            raise ImageError("the image ends too early")
        return data

    def node(self, ino: int) -> Node:
        """Raises ImageError."""
        if not 0 < ino <= self.es.s_inodes_count:
            raise ImageError(f"inode {ino} does not exist: the image is damaged")
        group, index = divmod(ino - 1, self.es.s_inodes_per_group)
        per_block = self.block_size // self._desc_size
        if self.es.s_feature_incompat & 0x10 and group // per_block >= self.es.s_first_meta_bg:
            raise ImageError("meta_bg is not supported")
        where, slot = divmod(group, per_block)
        raw = bytearray(self._at(self.es.s_first_data_block + 1 + where, slot * self._desc_size, self._desc_size))
        desc = Ext4GroupDesc(raw)
        table = desc.bg_inode_table_lo | (desc.bg_inode_table_hi << 32 if self._desc_size > 32 else 0)
        inode = Ext4Inode(bytearray(self._at(table, index * self._inode_size, self._inode_size).ljust(160, b"\0")))
        seconds, nsec = inode.i_mtime, 0
        if self._inode_size > 128 and inode.i_extra_isize >= 12:
            nsec = inode.i_mtime_extra >> 2
            seconds += (inode.i_mtime_extra & 3) << 32
        block = inode.i_block
        old, new = struct.unpack_from("<II", block)
        rdev = (old >> 8 & 0xFF, old & 0xFF) if old else (new >> 8 & 0xFFF, new & 0xFF | new >> 12 & 0xFFF00)
        return Node(ino, inode.i_mode, inode.i_uid_low | inode.i_uid_high << 16,
                    inode.i_gid_low | inode.i_gid_high << 16, inode.i_size_lo | inode.i_size_high << 32,
                    inode.i_links_count, seconds * 1_000_000_000 + nsec, inode.i_flags, block, rdev)

    # ---- contents -----------------------------------------------------------------------------------------------
    def runs(self, node: Node) -> Iterator[tuple[int, int, int]]:
        """(first block of the file, first block of the device, blocks), in order; holes are left out."""
        if node.flags & (INLINE_FL | ENCRYPT_FL):
            raise ImageError("inline or encrypted contents are not supported")
        if node.flags & EXTENTS_FL:
            yield from self._extents(node.block, 5)
        else:
            yield from self._pointers(node)

    def _extents(self, data: bytes, depth_left: int) -> Iterator[tuple[int, int, int]]:
        magic, entries, _, depth, _ = EXTENT_HEADER.unpack_from(data)
        if magic != 0xF30A or 12 + entries * 12 > len(data) or depth >= depth_left + 1:
            raise ImageError("an extent tree is damaged")
        for i in range(entries):
            if depth:
                _, low, high, _ = EXTENT_IDX.unpack_from(data, 12 + 12 * i)
                yield from self._extents(self._at(high << 32 | low, 0, self.block_size), depth - 1)
            else:
                logical, length, high, low = EXTENT.unpack_from(data, 12 + 12 * i)
                if length <= 32768:                                # longer: preallocated, reads as zeros
                    yield logical, high << 32 | low, length

    def _pointers(self, node: Node) -> Iterator[tuple[int, int, int]]:
        per_block = self.block_size // 4
        pointers = struct.unpack("<15I", node.block)

        def walk(block: int, level: int, first: int) -> Iterator[tuple[int, int, int]]:
            if not block:
                return
            if not level:
                yield first, block, 1
                return
            for i, number in enumerate(struct.unpack(f"<{per_block}I", self._at(block, 0, self.block_size))):
                if number:
                    yield from walk(number, level - 1, first + i * per_block ** (level - 1))

        first = 0
        for i, block in enumerate(pointers):
            level = max(i - 11, 0)
            yield from walk(block, level, first)
            first += per_block**level

    def chunks(self, node: Node, limit: int | None = None) -> Iterator[tuple[int, bytes]]:
        """(offset, data) of what is not a hole, in order."""
        size = node.size if limit is None else min(node.size, limit)
        for logical, start, count in self.runs(node):
            at = 0
            while at < count * self.block_size and logical * self.block_size + at < size:
                offset = logical * self.block_size + at
                length = min(count * self.block_size - at, size - offset, CHUNK)
                yield offset, self._at(start, at, length)
                at += length

    def contents(self, node: Node, limit: int) -> bytes:
        """The first bytes of a file."""
        data = bytearray(min(node.size, limit))
        for offset, part in self.chunks(node, limit):
            data[offset : offset + len(part)] = part
        return bytes(data)

    def target(self, node: Node) -> bytes:
        """Of a symlink."""
        if node.size < 60 and not node.flags & EXTENTS_FL:
            return node.block[: node.size]
        return self.contents(node, 4096)

    def entries(self, node: Node) -> Iterator[tuple[bytes, int]]:
        """(name, inode) of a directory, without "." and ".."."""
        if node.kind != S_IFDIR:
            raise ImageError("not a directory")
        if node.size > 1 << 30 or node.size % self.block_size:
            raise ImageError("a directory is damaged")
        for _, data in self.chunks(node):
            for base in range(0, len(data), self.block_size):
                at = base
                while at < base + self.block_size:
                    ino, length, name_length, _ = struct.unpack_from("<IHBB", data, at)
                    if length < 8 or length % 4 or at + length > base + self.block_size or name_length > length - 8:
                        raise ImageError("a directory is damaged")
                    name = data[at + 8 : at + 8 + name_length]
                    if ino and name_length and name not in (b".", b".."):
                        yield name, ino
                    at += length

    # ---- paths ----------------------------------------------------------------------------------------------------
    def child(self, node: Node, name: bytes) -> Node:
        """Raises FileNotFoundError, NotADirectoryError."""
        if node.kind != S_IFDIR:
            raise NotADirectoryError(20, "Not a directory")
        for entry, ino in self.entries(node):
            if entry == name:
                return self.node(ino)
        raise FileNotFoundError(2, "No such file or directory")

    def lookup(self, path: bytes, follow: bool = True) -> Node:
        """The file at an absolute path; symlinks stay inside the image. Raises OSError, ImageError."""
        todo = [name for name in path.split(b"/") if name not in (b"", b".")]
        stack = [self.node(2)]
        links = 0
        while todo:
            name = todo.pop(0)
            if name == b"..":
                stack[1:] = stack[1:-1]
                continue
            node = self.child(stack[-1], name)
            if node.kind == S_IFLNK and (todo or follow):
                links += 1
                if links > MAX_LINKS:
                    raise OSError(40, "Too many levels of symbolic links")
                target = self.target(node)
                if target.startswith(b"/"):
                    del stack[1:]
                todo[:0] = [part for part in target.split(b"/") if part not in (b"", b".")]
                continue
            stack.append(node)
        return stack[-1]
