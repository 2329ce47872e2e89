"""The parts of a file system that are not files: inode tables, bitmaps, group descriptors, super blocks.

Invariants: written last, when it is known what is in use. A group of which nothing but its own blocks is in use has no
    block bitmap (BLOCK_UNINIT), one without inodes no inode bitmap, where checksums let the kernel trust that; the
    tables are zero on a fresh device, so none needs to be zeroed by a mounted file system (INODE_ZEROED).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.ext4.disk import Ext4GroupDesc, Ext4SuperBlock
from glasskernel.lib.crc32c import crc32c
from glasskernel.tools.image.geometry import COMPAT, FIRST_INO, INCOMPAT, RO_COMPAT, Geometry, sparse_groups

if TYPE_CHECKING:
    from glasskernel.tools.image.writer import Ext4Writer

INODE_UNINIT, BLOCK_UNINIT, INODE_ZEROED = 1, 2, 4
_NO_SUM = 0xFFFFFFFF


def write_metadata(writer: Ext4Writer) -> None:
    """Writes them all."""
    geometry = writer.geometry
    _write_inodes(writer)
    used = _used_inodes(writer)
    descriptors = bytearray(geometry.desc_blocks * geometry.block_size)
    free_blocks = free_inodes = 0
    for group in range(geometry.groups):
        desc = Ext4GroupDesc(descriptors, group * geometry.desc_size)
        blocks, inodes = _describe(writer, group, desc, used.get(group, ()))
        free_blocks += blocks
        free_inodes += inodes
    block = _super_block(writer, free_blocks, free_inodes)
    copies = sparse_groups(geometry.groups) if geometry.has("sparse_super") else range(geometry.groups)
    for group in copies:
        start = geometry.group_start(group)
        view = Ext4SuperBlock(block)
        view.s_block_group_nr = group & 0xFFFF
        if writer.sums:
            view.s_checksum = crc32c(_NO_SUM, memoryview(block)[:0x3FC])
        writer.write(start * geometry.block_size + (1024 if not start else 0), bytes(block))
        writer.write((start + 1) * geometry.block_size, bytes(descriptors))


def _write_inodes(writer: Ext4Writer) -> None:
    """The blocks of the tables in which an inode is in use."""
    geometry = writer.geometry
    per_block = geometry.block_size // geometry.inode_size
    blocks: dict[int, bytearray] = {}
    for ino, data in writer.inodes.items():
        group, index = divmod(ino - 1, geometry.inodes_per_group)
        number = geometry.inode_tables[group] + index // per_block
        block = blocks.get(number)
        if block is None:
            block = blocks[number] = bytearray(geometry.block_size)
        at = index % per_block * geometry.inode_size
        block[at : at + len(data)] = data
    for number, block in blocks.items():
        writer.put_block(number, block)


def _used_inodes(writer: Ext4Writer) -> dict[int, list[int]]:
    """Group -> indices of the inodes in use. Those below 11 are reserved, written or not."""
    used: dict[int, list[int]] = {}
    for ino in [*range(1, FIRST_INO), *sorted(ino for ino in writer.inodes if ino >= FIRST_INO)]:
        group, index = divmod(ino - 1, writer.geometry.inodes_per_group)
        used.setdefault(group, []).append(index)
    return used


def _describe(writer: Ext4Writer, group: int, desc: Ext4GroupDesc, inodes: list[int] | tuple[()]) -> tuple[int, int]:
    """Fills one descriptor and writes its bitmaps. Returns the free blocks and inodes of the group."""
    geometry, size = writer.geometry, writer.block_size
    start, end = geometry.group_start(group), geometry.group_end(group)
    places = geometry.block_bitmaps[group], geometry.inode_bitmaps[group], geometry.inode_tables[group]
    for place, name in zip(places, ("block_bitmap", "inode_bitmap", "inode_table"), strict=True):
        setattr(desc, f"bg_{name}_lo", place & 0xFFFFFFFF)
        if geometry.desc_size > 32:
            setattr(desc, f"bg_{name}_hi", place >> 32)
    runs = geometry.free.within(start, end)
    free = sum(stop - first for first, stop in runs)
    free_inodes = geometry.inodes_per_group - len(inodes)
    directories = writer.directories.get(group, 0)
    flags = INODE_ZEROED if writer.sums else 0
    unused = 0
    if writer.sums:
        unused = geometry.inodes_per_group - (inodes[-1] + 1 if inodes else 0)
        if not inodes:
            flags |= INODE_UNINIT
        own = geometry.base_blocks(group) + _own(geometry, group)
        if 0 < group < geometry.groups - 1 and end - start - free == own:
            flags |= BLOCK_UNINIT
    counts = (("free_blocks_count", free), ("free_inodes_count", free_inodes), ("used_dirs_count", directories),
              ("itable_unused", unused))
    for name, value in counts:
        setattr(desc, f"bg_{name}_lo", value & 0xFFFF)
        if geometry.desc_size > 32:
            setattr(desc, f"bg_{name}_hi", value >> 16)
    desc.bg_flags = flags
    if not flags & BLOCK_UNINIT:
        bitmap = _bitmap(size, [(first - start, stop - start) for first, stop in runs])
        writer.put_block(places[0], bitmap)
        if writer.sums:
            total = crc32c(writer.seed, bitmap[: geometry.blocks_per_group // 8])
            desc.bg_block_bitmap_csum_lo = total & 0xFFFF
            if geometry.desc_size > 32:
                desc.bg_block_bitmap_csum_hi = total >> 16
    if not flags & INODE_UNINIT:
        bitmap = _bitmap(size, _gaps(inodes, geometry.inodes_per_group))
        writer.put_block(places[1], bitmap)
        if writer.sums:
            total = crc32c(writer.seed, bitmap[: geometry.inodes_per_group // 8])
            desc.bg_inode_bitmap_csum_lo = total & 0xFFFF
            if geometry.desc_size > 32:
                desc.bg_inode_bitmap_csum_hi = total >> 16
    if writer.sums:
        raw = memoryview(desc.m)[desc.o : desc.o + geometry.desc_size]
        desc.bg_checksum = crc32c(crc32c(writer.seed, group.to_bytes(4, "little")), raw) & 0xFFFF
    return free, free_inodes


def _own(geometry: Geometry, group: int) -> int:
    """Blocks of the group that hold its own bitmaps and table: these the kernel adds to a bitmap that is not there."""
    start, end = geometry.group_start(group), geometry.group_end(group)
    table = geometry.inode_tables[group]
    bitmaps = (geometry.block_bitmaps[group], geometry.inode_bitmaps[group])
    return sum(start <= block < end for block in bitmaps) + max(
        min(table + geometry.table_blocks, end) - max(table, start), 0)


def _gaps(used: list[int] | tuple[()], count: int) -> list[tuple[int, int]]:
    """What of range(count) is not in the sorted list: (start, end)."""
    gaps, at = [], 0
    for index in used:
        if index > at:
            gaps.append((at, index))
        at = index + 1
    return [*gaps, (at, count)] if at < count else gaps


def _bitmap(size: int, free: list[tuple[int, int]]) -> bytes:
    """A block of ones but for the free runs."""
    bits = (1 << size * 8) - 1
    for first, end in free:
        bits ^= ((1 << end - first) - 1) << first
    return bits.to_bytes(size, "little")


def _super_block(writer: Ext4Writer, free_blocks: int, free_inodes: int) -> bytearray:
    """Everything but what differs between the copies."""
    geometry, options = writer.geometry, writer.options
    block = bytearray(1024)
    es = Ext4SuperBlock(block)
    es.s_inodes_count = geometry.inodes_per_group * geometry.groups
    reserved = int(geometry.blocks_count * options.reserved_percent / 100)
    for name, value in (("blocks", geometry.blocks_count), ("r_blocks", reserved), ("free_blocks", free_blocks)):
        setattr(es, f"s_{name}_count_lo", value & 0xFFFFFFFF)
        setattr(es, f"s_{name}_count_hi", value >> 32)
    es.s_free_inodes_count = free_inodes
    es.s_first_data_block = geometry.first_data_block
    es.s_log_block_size = es.s_log_cluster_size = geometry.block_size.bit_length() - 11
    es.s_blocks_per_group = es.s_clusters_per_group = geometry.blocks_per_group
    es.s_inodes_per_group = geometry.inodes_per_group
    es.s_wtime = es.s_mkfs_time = es.s_lastcheck = options.now & 0xFFFFFFFF
    es.s_max_mnt_count = 0xFFFF
    es.s_magic, es.s_state, es.s_errors, es.s_rev_level = 0xEF53, 1, 1, 1
    es.s_first_ino, es.s_inode_size = FIRST_INO, geometry.inode_size
    es.s_feature_compat = geometry.word(COMPAT)
    es.s_feature_incompat = geometry.word(INCOMPAT)
    es.s_feature_ro_compat = geometry.word(RO_COMPAT)
    es.s_uuid, es.s_volume_name = options.uuid, options.label
    es.s_reserved_gdt_blocks = geometry.reserved_gdt
    if geometry.has("dir_index"):
        # A seed of its own, as good as any: it only has to differ between file systems.
        es.s_hash_seed = bytes(byte ^ 0x5A for byte in options.uuid)
        es.s_def_hash_version = 1
    es.s_flags = 1                                             # characters are signed in directory hashes
    es.s_default_mount_opts = 0xC                              # user_xattr, acl
    es.s_desc_size = geometry.desc_size if geometry.desc_size > 32 else 0
    if geometry.inode_size > 128:
        es.s_min_extra_isize = es.s_want_extra_isize = 32
    if geometry.has("flex_bg"):
        es.s_log_groups_per_flex = 4
    if geometry.journal_blocks:
        es.s_journal_inum, es.s_jnl_backup_type = 8, 1
        block[0x10C:0x148] = writer.journal_inode
        block[0x148:0x14C] = (writer.journal_size >> 32).to_bytes(4, "little")
        block[0x14C:0x150] = (writer.journal_size & 0xFFFFFFFF).to_bytes(4, "little")
    if writer.sums:
        es.s_checksum_type = 1
    if geometry.has("metadata_csum_seed"):
        es.s_checksum_seed = writer.seed
    es.s_kbytes_written = writer.written >> 10
    return block
