"""Where everything of an ext2, ext3 or ext4 file system lies: what mke2fs decides before it writes.

The rules are those of Debian 12's mke2fs (1.47) and its mke2fs.conf: block and inode sizes by the size of the device,
features by the type, inode counts, reserved descriptor blocks, journal sizes. Placement differs where the format leaves
it free: the bitmaps and tables of a flexible group lie together at its start.
Invariants: nothing is written here; what cannot be made raises ImageError before a byte is touched.
"""
from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import chain

KINDS = ("ext2", "ext3", "ext4")
BLOCK_SIZES = (1024, 2048, 4096)
FIRST_INO = 11
FLEX_GROUPS = 16
# name -> (word of the super block, bit)
COMPAT, INCOMPAT, RO_COMPAT = range(3)
FEATURES = {
    "has_journal": (COMPAT, 0x4), "ext_attr": (COMPAT, 0x8), "resize_inode": (COMPAT, 0x10), "dir_index": (COMPAT, 32),
    "filetype": (INCOMPAT, 0x2), "extent": (INCOMPAT, 0x40), "64bit": (INCOMPAT, 0x80), "flex_bg": (INCOMPAT, 0x200),
    "metadata_csum_seed": (INCOMPAT, 0x2000),
    "sparse_super": (RO_COMPAT, 0x1), "large_file": (RO_COMPAT, 0x2), "huge_file": (RO_COMPAT, 0x8),
    "dir_nlink": (RO_COMPAT, 0x20), "extra_isize": (RO_COMPAT, 0x40), "metadata_csum": (RO_COMPAT, 0x400),
}
_BASE = ("sparse_super", "large_file", "filetype", "resize_inode", "dir_index", "ext_attr")
_MORE = {
    "ext2": (), "ext3": ("has_journal",),
    "ext4": ("has_journal", "extent", "huge_file", "flex_bg", "metadata_csum", "64bit", "dir_nlink", "extra_isize"),
}


class ImageError(ValueError):
    """An image that cannot be made or read; the text says why, in one line."""


@dataclass(slots=True, frozen=True)
class MkfsOptions:
    """What a file system shall be. None: what mke2fs would choose for its size.

    features: words of -O, "^name" takes one away. root_mode: of the root directory. lost_found: have one.
    now: seconds since 1970, the time on everything that is made.
    """

    kind: str = "ext4"
    block_size: int | None = None
    inode_size: int | None = None
    inode_ratio: int | None = None
    inodes: int | None = None
    reserved_percent: float = 5.0
    journal_mb: int | None = None
    label: bytes = b""
    uuid: bytes = bytes(16)
    features: tuple[str, ...] = ()
    root_mode: int = 0o755
    root_owner: tuple[int, int] = (0, 0)
    lost_found: bool = True
    now: int = 0


class FreeBlocks:
    """The free blocks as sorted runs; everything else of the device is in use."""

    __slots__ = ("ends", "starts")

    def __init__(self, first: int, end: int) -> None:
        self.starts = [first]
        self.ends = [end]

    def carve(self, start: int, count: int) -> None:
        """Takes exactly these blocks. Raises ImageError if one is not free."""
        at = bisect_right(self.starts, start) - 1
        if at < 0 or start + count > self.ends[at]:
            raise ImageError("the file system would be too small")
        first, end = self.starts[at], self.ends[at]
        left = [(first, start)] if start > first else []
        right = [(start + count, end)] if end > start + count else []
        self.starts[at : at + 1] = [run[0] for run in left + right]
        self.ends[at : at + 1] = [run[1] for run in left + right]

    def run_of(self, count: int, goal: int) -> int:
        """Takes `count` blocks in a row, from `goal` on if possible; its first. Raises ImageError."""
        at = max(bisect_right(self.starts, goal) - 1, 0)
        for i in chain(range(at, len(self.starts)), range(at)):
            start: int = max(self.starts[i], goal) if i == at else self.starts[i]
            if self.ends[i] - start >= count:
                self.carve(start, count)
                return start
        raise ImageError("the file system would be too small")

    def take(self, count: int, goal: int) -> list[tuple[int, int]]:
        """Takes `count` blocks in as few runs as come next. Raises ImageError when the device is full."""
        runs = []
        while count:
            if not self.starts:
                raise ImageError("no space is left in the image")
            at = bisect_right(self.starts, goal) - 1
            if at < 0 or self.ends[at] <= goal:
                at = (at + 1) % len(self.starts)
            start = max(self.starts[at], goal) if self.starts[at] <= goal < self.ends[at] else self.starts[at]
            length = min(count, self.ends[at] - start)
            self.carve(start, length)
            runs.append((start, length))
            count -= length
            goal = start + length
        return runs

    def within(self, first: int, end: int) -> list[tuple[int, int]]:
        """The free runs of a group: (start, end)."""
        found = []
        at = max(bisect_right(self.starts, first) - 1, 0)
        while at < len(self.starts) and self.starts[at] < end:
            start, stop = max(self.starts[at], first), min(self.ends[at], end)
            if start < stop:
                found.append((start, stop))
            at += 1
        return found


@dataclass(slots=True)
class Geometry:
    """struct ext4_super_block's view of the device, and where each group's own blocks are."""

    options: MkfsOptions
    features: tuple[str, ...]
    block_size: int
    inode_size: int
    blocks_count: int
    first_data_block: int
    blocks_per_group: int
    groups: int
    inodes_per_group: int
    desc_size: int
    desc_blocks: int
    reserved_gdt: int
    journal_blocks: int
    free: FreeBlocks = field(default_factory=lambda: FreeBlocks(0, 0))
    block_bitmaps: list[int] = field(default_factory=list)
    inode_bitmaps: list[int] = field(default_factory=list)
    inode_tables: list[int] = field(default_factory=list)

    def has(self, feature: str) -> bool:
        return feature in self.features

    def word(self, which: int) -> int:
        """COMPAT, INCOMPAT or RO_COMPAT as a number."""
        return sum(bit for name, (word, bit) in FEATURES.items() if word == which and name in self.features)

    @property
    def table_blocks(self) -> int:
        return -(-self.inodes_per_group * self.inode_size // self.block_size)

    def group_start(self, group: int) -> int:
        return self.first_data_block + group * self.blocks_per_group

    def group_end(self, group: int) -> int:
        return min(self.group_start(group + 1), self.blocks_count)

    def has_super(self, group: int) -> bool:
        """ext4_bg_has_super()"""
        return group <= 1 or not self.has("sparse_super") or group in sparse_groups(self.groups)

    def base_blocks(self, group: int) -> int:
        """Blocks at the start of a group for the super block, the descriptors and those that resizing may need."""
        return 1 + self.desc_blocks + self.reserved_gdt if self.has_super(group) else 0


def sparse_groups(groups: int) -> list[int]:
    """Groups with a copy of the super block under sparse_super: 0, 1 and the powers of 3, 5 and 7."""
    found = [0, 1]
    for base in (3, 5, 7):
        power = base
        while power < groups:
            found.append(power)
            power *= base
    return sorted(group for group in found if group < groups)


def plan(size: int, options: MkfsOptions) -> Geometry:
    """The geometry for a device of `size` bytes. Raises ImageError."""
    if options.kind not in KINDS:
        raise ImageError(f"{options.kind!r} is none of {', '.join(KINDS)}")
    small = size < 512 << 20
    block_size = options.block_size or (1024 if small else 4096)
    if block_size not in BLOCK_SIZES:
        raise ImageError(f"a block has 1024, 2048 or 4096 bytes, not {block_size}")
    inode_size = options.inode_size or 256
    if inode_size & inode_size - 1 or not 128 <= inode_size <= block_size:
        raise ImageError(f"an inode has 128, 256, 512 ... up to {block_size} bytes, not {inode_size}")
    features = _features(options, inode_size)
    blocks = size // block_size
    if blocks >= 1 << 32 and "64bit" not in features:
        blocks = (1 << 32) - 1
    if blocks < 64:
        raise ImageError(f"{size} bytes are too few for a file system")
    ratio = options.inode_ratio or (8192 if size < 3 << 20 else 4096 if small else 16384 if size < 4 << 40 else 32768)
    inodes = options.inodes or max(blocks * block_size // ratio, 16)
    if inodes >= 1 << 32:
        raise ImageError("too many inodes: choose a greater --inode-ratio")
    return _fit(blocks, block_size, inode_size, inodes, features, options)


def _features(options: MkfsOptions, inode_size: int) -> tuple[str, ...]:
    wanted = dict.fromkeys(_BASE + _MORE[options.kind])
    for word in options.features:
        name = word.removeprefix("^")
        if name not in FEATURES:
            raise ImageError(f"feature {name!r}: known are {', '.join(FEATURES)}")
        if word.startswith("^"):
            wanted.pop(name, None)
        else:
            wanted[name] = None
    if inode_size == 128:
        wanted.pop("extra_isize", None)
    if "64bit" in wanted and "extent" not in wanted:
        raise ImageError("64bit needs the feature extent")
    if "metadata_csum_seed" in wanted and "metadata_csum" not in wanted:
        raise ImageError("metadata_csum_seed needs the feature metadata_csum")
    if "sparse_super" not in wanted:
        wanted.pop("resize_inode", None)
    if "resize_inode" in wanted:
        wanted["large_file"] = None                    # that inode is one
    return tuple(wanted)


def _fit(blocks: int, block_size: int, inode_size: int, inodes: int, features: tuple[str, ...],
         options: MkfsOptions) -> Geometry:
    """Cuts off a last group that would be too small to be useful, then places everything."""
    first = 1 if block_size == 1024 else 0
    per_group = block_size * 8
    desc_size = 64 if "64bit" in features else 32
    while True:
        groups = -(-(blocks - first) // per_group)
        desc_blocks = -(-groups * desc_size // block_size)
        inodes_per_group = min(-(-inodes // groups), block_size * 8)
        inodes_per_group = -(-inodes_per_group * inode_size // block_size) * (block_size // inode_size)
        inodes_per_group = max(inodes_per_group & ~7, 16 if groups == 1 else 8)
        reserved_gdt = _reserved_gdt(blocks, block_size, desc_size, desc_blocks) if "resize_inode" in features else 0
        geometry = Geometry(options, features, block_size, inode_size, blocks, first, per_group, groups,
                            inodes_per_group, desc_size, desc_blocks, reserved_gdt, 0)
        overhead = 2 + geometry.table_blocks + geometry.base_blocks(groups - 1)
        rest = (blocks - first) % per_group
        if not rest or rest >= overhead + 50:
            break
        if groups == 1:
            raise ImageError(f"{blocks * block_size} bytes are too few for a file system of this kind")
        blocks -= rest
    _place(geometry)
    if "has_journal" in features:
        geometry.journal_blocks = _journal(geometry)
        if not geometry.journal_blocks:
            geometry.features = tuple(name for name in features if name != "has_journal")
    return geometry


def _reserved_gdt(blocks: int, block_size: int, desc_size: int, desc_blocks: int) -> int:
    """So that the file system can grow by a factor of 1024 while it is mounted."""
    most = min(blocks * 1024, 0xFFFFFFFF)
    groups = -(-(most - (block_size == 1024)) // (block_size * 8))
    return max(min(-(-groups // (block_size // desc_size)) - desc_blocks, block_size // 4), 0)


def _journal(geometry: Geometry) -> int:
    """Blocks of the journal, 0 if the device is too small for one. Raises ImageError."""
    megabytes = geometry.options.journal_mb
    if megabytes is not None:
        blocks = (megabytes << 20) // geometry.block_size
        if blocks < 1024:
            raise ImageError(f"a journal has at least 1024 blocks: {1024 * geometry.block_size >> 20} MB")
        return blocks
    count = geometry.blocks_count
    for limit, blocks in ((32768, 1024), (256 << 10, 4096), (512 << 10, 8192), (4096 << 10, 16384), (8192 << 10, 32768),
                          (16384 << 10, 65536), (32768 << 10, 131072)):
        if count < limit:
            return blocks if count >= 2048 else 0
    return 262144


def _place(geometry: Geometry) -> None:
    """Super block copies, descriptors, bitmaps, inode tables."""
    free = geometry.free = FreeBlocks(geometry.first_data_block, geometry.blocks_count)
    for group in range(geometry.groups) if not geometry.has("sparse_super") else sparse_groups(geometry.groups):
        free.carve(geometry.group_start(group), geometry.base_blocks(group))
    table = geometry.table_blocks
    step = FLEX_GROUPS if geometry.has("flex_bg") else 1
    for first in range(0, geometry.groups, step):
        count = min(step, geometry.groups - first)
        goal = geometry.group_start(first)
        for place in (geometry.block_bitmaps, geometry.inode_bitmaps):
            for _ in range(count):
                place.append(free.run_of(1, goal))
        for _ in range(count):
            geometry.inode_tables.append(free.run_of(table, goal))
