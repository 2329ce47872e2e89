"""Writes an ext2, ext3 or ext4 file system to a device that holds only zeros.

Files come in the order in which they are added: an inode, its blocks, the next. What is not stored as files (bitmaps,
descriptors, super blocks, inode tables) is written by finish(). Checksums as of metadata_csum.
Owns: the device until finish(). Invariants: every block is either in `geometry.free` or in use by exactly one owner;
    nothing that is zero is written, so that images stay sparse.
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from glasskernel.fs.ext4.disk import EXTENT, EXTENT_HEADER, EXTENT_IDX, Ext4Inode
from glasskernel.lib.crc32c import crc32c
from glasskernel.tools.image.geometry import FIRST_INO, Geometry, ImageError, sparse_groups

Write = Callable[[int, bytes], None]           # (offset, data)
Run = tuple[int, int, int]                     # first block of the file, first block of the device, blocks

ROOT_INO, RESIZE_INO, JOURNAL_INO = 2, 7, 8
EXTENTS_FL = 0x80000
EXTENT_MAX = 32768
S_IFDIR, S_IFREG, S_IFLNK = 0o040000, 0o100000, 0o120000
_FILE_TYPES = {S_IFREG: 1, S_IFDIR: 2, 0o020000: 3, 0o060000: 4, 0o010000: 5, 0o140000: 6, S_IFLNK: 7}
_NO_SUM = 0xFFFFFFFF


@dataclass(slots=True)
class NewInode:
    """What an inode shall say. data: inside the inode (a short symlink, a device number). xattrs: full names.

    times: access, change, modification, in ns since 1970.
    """

    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    links: int = 1
    times: tuple[int, int, int] = (0, 0, 0)
    data: bytes = b""
    runs: list[Run] = field(default_factory=list)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class Ext4Writer:
    """geometry: of plan(). write: stores bytes of the device."""

    def __init__(self, geometry: Geometry, write: Write) -> None:
        self.geometry = geometry
        self.options = geometry.options
        self.block_size = geometry.block_size
        self.write = write
        self.sums = geometry.has("metadata_csum")
        self.seed = crc32c(_NO_SUM, self.options.uuid) if self.sums else 0
        self.inodes: dict[int, bytes] = {}             # number -> bytes on disk
        self.directories: dict[int, int] = {}          # group -> how many
        self.next_ino = FIRST_INO
        self.goal = geometry.first_data_block
        self.written = 0
        self.journal_inode = bytes(60)
        self.journal_size = 0

    # ---- blocks -----------------------------------------------------------------------------------------------
    def put_block(self, block: int, data: bytes | bytearray) -> None:
        """A block, or several in a row."""
        self.write(block * self.block_size, bytes(data))
        self.written += len(data)

    def allocate(self, blocks: int, goal: int | None = None, logical: int = 0) -> list[Run]:
        """Blocks for a file from its block `logical` on. Raises ImageError when the device is full."""
        runs: list[Run] = []
        for start, count in self.geometry.free.take(blocks, self.goal if goal is None else goal):
            runs.append((logical, start, count))
            logical += count
            if goal is None:
                self.goal = start + count
        return runs

    def new_ino(self) -> int:
        """The next inode number. Raises ImageError when there is none."""
        if self.next_ino > self.geometry.inodes_per_group * self.geometry.groups:
            raise ImageError("no inodes are left in the image: choose a smaller --inode-ratio")
        self.next_ino += 1
        return self.next_ino - 1

    # ---- inodes -----------------------------------------------------------------------------------------------
    def add_inode(self, ino: int, new: NewInode, *, extents: bool | None = None, blocks_512: int | None = None,
                  block_map: bytes | None = None) -> None:
        """Stores an inode. extents: map its blocks so; None: as the file system does."""
        if extents is None:
            extents = self.geometry.has("extent")
        area = bytearray(self.geometry.inode_size)
        inode = Ext4Inode(area)
        kind = new.mode & 0o170000
        inode.i_mode, inode.i_links_count = new.mode, new.links
        inode.i_uid_low, inode.i_uid_high = new.uid & 0xFFFF, new.uid >> 16 & 0xFFFF
        inode.i_gid_low, inode.i_gid_high = new.gid & 0xFFFF, new.gid >> 16 & 0xFFFF
        inode.i_size_lo = new.size & 0xFFFFFFFF
        inode.i_size_high = new.size >> 32
        self._times(inode, new.times)
        blocks = sum(run[2] for run in new.runs)
        if block_map is not None:
            inode.i_block = block_map
        elif new.data or kind not in (S_IFREG, S_IFDIR, S_IFLNK):
            inode.i_block = new.data
        elif extents:
            inode.i_flags = EXTENTS_FL
            tree, more = self._extent_tree(ino, new.runs)
            inode.i_block = tree
            blocks += more
        else:
            tree, more = self._block_map(new.runs)
            inode.i_block = tree
            blocks += more
        if new.xattrs:
            blocks += self._xattrs(ino, inode, area, new.xattrs)
        sectors = blocks * (self.block_size // 512) if blocks_512 is None else blocks_512
        inode.i_blocks_lo, inode.i_blocks_high = sectors & 0xFFFFFFFF, sectors >> 32
        if self.sums:
            total = crc32c(self.inode_seed(ino), area)
            inode.i_checksum_lo = total & 0xFFFF
            if self.geometry.inode_size > 128:
                inode.i_checksum_hi = total >> 16
        self.inodes[ino] = bytes(area)
        if kind == S_IFDIR:
            group = (ino - 1) // self.geometry.inodes_per_group
            self.directories[group] = self.directories.get(group, 0) + 1

    def inode_seed(self, ino: int) -> int:
        """Of the checksums of an inode and of its blocks; its generation is 0."""
        return crc32c(self.seed, struct.pack("<II", ino, 0)) if self.sums else 0

    def _times(self, inode: Ext4Inode, times: tuple[int, int, int]) -> None:
        atime, ctime, mtime = (divmod(time, 1_000_000_000) for time in times)
        for name, (seconds, nsec) in (("atime", atime), ("ctime", ctime), ("mtime", mtime)):
            setattr(inode, f"i_{name}", seconds & 0xFFFFFFFF)
            if self.geometry.inode_size > 128:
                epoch = seconds + (1 << 31) >> 32 & 3
                setattr(inode, f"i_{name}_extra", nsec << 2 | epoch)
        if self.geometry.inode_size > 128:
            inode.i_extra_isize = 32
            inode.i_crtime = self.options.now & 0xFFFFFFFF

    def _extent_tree(self, ino: int, runs: Sequence[Run]) -> tuple[bytes, int]:
        """i_block, and how many blocks the tree needs besides."""
        leaves = [(logical + at, start + at, min(count - at, EXTENT_MAX))
                  for logical, start, count in runs for at in range(0, count, EXTENT_MAX)]
        entries = [EXTENT.pack(logical, count, start >> 32, start & 0xFFFFFFFF) for logical, start, count in leaves]
        firsts = [leaf[0] for leaf in leaves]
        per_block = (self.block_size - 12) // 12
        depth = used = 0
        while len(entries) > 4:
            parents, parent_firsts = [], []
            for at in range(0, len(entries), per_block):
                part = entries[at : at + per_block]
                _, block, _ = self.allocate(1)[0]
                body = EXTENT_HEADER.pack(0xF30A, len(part), per_block, depth, 0) + b"".join(part)
                data = body.ljust(12 + 12 * per_block, b"\0")
                if self.sums:
                    data += struct.pack("<I", crc32c(self.inode_seed(ino), data))
                self.put_block(block, data.ljust(self.block_size, b"\0"))
                used += 1
                parents.append(EXTENT_IDX.pack(firsts[at], block & 0xFFFFFFFF, block >> 32, 0))
                parent_firsts.append(firsts[at])
            entries, firsts, depth = parents, parent_firsts, depth + 1
        return (EXTENT_HEADER.pack(0xF30A, len(entries), 4, depth, 0) + b"".join(entries)).ljust(60, b"\0"), used

    def _block_map(self, runs: Sequence[Run]) -> tuple[bytes, int]:
        """The same for ext2 and ext3: 12 direct pointers, then trees of one, two and three levels."""
        numbers = {logical + i: start + i for logical, start, count in runs for i in range(count)}
        pointers = [numbers.pop(i, 0) for i in range(12)] + [0, 0, 0]
        per_block = self.block_size // 4
        first, used = 12, 0
        for level in (1, 2, 3):
            span = per_block**level
            part = {number - first: block for number, block in numbers.items() if first <= number < first + span}
            first += span
            for _ in range(level):
                tables: dict[int, dict[int, int]] = {}
                for number, block in part.items():
                    tables.setdefault(number // per_block, {})[number % per_block] = block
                part = {}
                for index, table in tables.items():
                    _, block, _ = self.allocate(1)[0]
                    self.put_block(block, struct.pack(f"<{per_block}I", *(table.get(i, 0) for i in range(per_block))))
                    used += 1
                    part[index] = block
            pointers[11 + level] = part.get(0, 0)
        if numbers and max(numbers) >= first:
            raise ImageError("a file is too large for a file system without extents")
        return struct.pack("<15I", *pointers), used

    def _xattrs(self, ino: int, inode: Ext4Inode, area: bytearray, xattrs: dict[bytes, bytes]) -> int:
        from glasskernel.tools.image.xattrs import pack_block, pack_inode

        room = self.geometry.inode_size - 128 - 32
        packed = pack_inode(xattrs, room) if room > 0 else None
        if packed is not None:
            area[160:] = packed
            return 0
        if self.options.kind == "ext2" and not self.geometry.has("ext_attr"):
            return 0
        _, block, _ = self.allocate(1)[0]
        self.put_block(block, pack_block(xattrs, self.block_size, self.seed if self.sums else None, block))
        inode.i_file_acl_lo, inode.i_file_acl_high = block & 0xFFFFFFFF, block >> 32
        return 1

    # ---- directories ------------------------------------------------------------------------------------------
    def directory_blocks(self, ino: int, parent: int, entries: Iterable[tuple[bytes, int, int]], least: int = 1,
                         ) -> list[bytes]:
        """The blocks of a directory. entries: (name, inode, mode). least: so many blocks, if need be empty ones."""
        end = self.block_size - (12 if self.sums else 0)
        typed = self.geometry.has("filetype")
        blocks: list[list[tuple[int, bytes, int]]] = [[]]
        used = 0
        for name, number, mode in [(b".", ino, S_IFDIR), (b"..", parent, S_IFDIR), *entries]:
            size = 8 + len(name) + 3 & ~3
            if used + size > end:
                blocks.append([])
                used = 0
            blocks[-1].append((number, name, _FILE_TYPES[mode & 0o170000] if typed else 0))
            used += size
        while len(blocks) < least:
            blocks.append([])
        return [self._directory_block(ino, content, end) for content in blocks]

    def _directory_block(self, ino: int, content: list[tuple[int, bytes, int]], end: int) -> bytes:
        data = bytearray()
        for i, (number, name, kind) in enumerate(content):
            size = 8 + len(name) + 3 & ~3 if i + 1 < len(content) else end - len(data)
            data += struct.pack("<IHBB", number, size, len(name), kind) + name
            data += bytes(-len(data) % 4 if i + 1 < len(content) else end - len(data))
        if not content:
            data += struct.pack("<IHBB", 0, end, 0, 0) + bytes(end - 8)
        if self.sums:
            data += struct.pack("<IHBBI", 0, 12, 0, 0xDE, crc32c(self.inode_seed(ino), data))
        return bytes(data)

    def add_directory(self, ino: int, new: NewInode, blocks: list[bytes]) -> None:
        new.runs = self.allocate(len(blocks))
        for logical, start, count in new.runs:
            self.put_block(start, b"".join(blocks[logical : logical + count]))
        new.size = len(blocks) * self.block_size
        self.add_inode(ino, new)

    # ---- what every file system has -------------------------------------------------------------------------------
    def add_journal(self) -> None:
        """Inode 8: an empty journal in the middle of the device."""
        geometry = self.geometry
        blocks = geometry.journal_blocks
        if not blocks:
            return
        middle = geometry.group_start(geometry.groups // 2)
        runs = self.allocate(blocks, middle)
        header = struct.pack(">3I", 0xC03B3998, 4, 0) + struct.pack(">5I", self.block_size, blocks, 1, 1, 0)
        super_block = bytearray(header.ljust(self.block_size, b"\0"))
        super_block[0x40:0x44] = struct.pack(">I", 1)                      # s_nr_users
        self.put_block(runs[0][1], super_block)
        now = self.options.now * 1_000_000_000
        self.journal_size = blocks * self.block_size
        self.add_inode(JOURNAL_INO, NewInode(S_IFREG | 0o600, size=self.journal_size, times=(now,) * 3, runs=runs))
        self.journal_inode = bytes(Ext4Inode(bytearray(self.inodes[JOURNAL_INO])).i_block)

    def add_resize_inode(self) -> None:
        """Inode 7 owns the descriptor blocks in reserve: those of the first group, each pointing to its copies."""
        geometry = self.geometry
        if not geometry.reserved_gdt:
            if geometry.has("resize_inode"):
                self.add_inode(RESIZE_INO, NewInode(0, links=0), block_map=bytes(60), blocks_512=0)
            return
        per_block = self.block_size // 4
        _, top, _ = self.allocate(1)[0]
        pointers = [0] * per_block
        first = geometry.first_data_block + 1 + geometry.desc_blocks
        copies = [group for group in sparse_groups(geometry.groups) if group]
        for i in range(geometry.reserved_gdt):
            pointers[(geometry.desc_blocks + i) % per_block] = first + i
            if copies:
                backups = [first + i + group * geometry.blocks_per_group for group in copies]
                self.put_block(first + i, struct.pack(f"<{len(backups)}I", *backups).ljust(self.block_size, b"\0"))
        self.put_block(top, struct.pack(f"<{per_block}I", *pointers))
        size = (per_block * per_block + per_block + 12) * self.block_size
        sectors = (1 + geometry.reserved_gdt * (1 + len(copies))) * (self.block_size // 512)
        now = self.options.now * 1_000_000_000
        self.add_inode(RESIZE_INO, NewInode(S_IFREG | 0o600, size=size, times=(now,) * 3),
                       block_map=struct.pack("<15I", *[0] * 13, top, 0), blocks_512=sectors)

    def finish(self) -> None:
        """Writes inode tables, bitmaps, descriptors and super blocks."""
        from glasskernel.tools.image.metadata import write_metadata

        write_metadata(self)

