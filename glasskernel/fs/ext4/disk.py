"""On-disk layouts of ext4: views of the bytes in RAM, one class a structure.

Linux: fs/ext4/ext4.h, ext4_extents.h, xattr.h (5.3). Same: names, offsets, sizes. Everything is little endian.
A view is (memory, offset); reading a field reads the buffer, storing one stores there: no copy can go stale.
Hot structures (directory entries, extents) are read with the struct objects below instead of views.
"""
from __future__ import annotations

from struct import Struct
from typing import Any

from glasskernel.lib.types import notrace

Memory = memoryview | bytearray

U16, U32 = Struct("<H"), Struct("<I")
EXTENT_HEADER = Struct("<HHHHI")           # eh_magic, eh_entries, eh_max, eh_depth, eh_generation
EXTENT = Struct("<IHHI")                   # ee_block, ee_len, ee_start_hi, ee_start_lo
EXTENT_IDX = Struct("<IIHH")               # ei_block, ei_leaf_lo, ei_leaf_hi, ei_unused
DIRENT = Struct("<IHBB")                   # inode, rec_len, name_len, file_type
XATTR_ENTRY = Struct("<BBHIII")            # e_name_len, e_name_index, e_value_offs, e_value_inum, e_value_size, e_hash


class Field:
    """One integer of a structure."""

    __slots__ = ("offset", "pack_into", "unpack_from")

    def __init__(self, offset: int, layout: str) -> None:
        self.offset = offset
        compiled = Struct("<" + layout)
        self.unpack_from = compiled.unpack_from
        self.pack_into = compiled.pack_into

    def __get__(self, view: View, _owner: object = None) -> int:
        return self.unpack_from(view.m, view.o + self.offset)[0]  # type: ignore[no-any-return]

    def __set__(self, view: View, value: int) -> None:
        self.pack_into(view.m, view.o + self.offset, value)


class Text:
    """Bytes of a structure; read up to its end, written zero padded."""

    __slots__ = ("offset", "size")

    def __init__(self, offset: int, size: int) -> None:
        self.offset = offset
        self.size = size

    def __get__(self, view: View, _owner: object = None) -> bytes:
        start = view.o + self.offset
        return bytes(view.m[start : start + self.size])

    def __set__(self, view: View, value: bytes) -> None:
        start = view.o + self.offset
        view.m[start : start + self.size] = value[: self.size].ljust(self.size, b"\0")


class View:
    """A structure at offset o of the memory m."""

    __slots__ = ("m", "o")

    def __init__(self, m: Memory, o: int = 0) -> None:
        self.m = m
        self.o = o

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, View) and self.o == other.o and self.m is other.m

    __hash__ = None  # type: ignore[assignment]


@notrace
def u8(offset: int) -> Field:
    return Field(offset, "B")


@notrace
def le16(offset: int) -> Field:
    return Field(offset, "H")


@notrace
def le32(offset: int) -> Field:
    return Field(offset, "I")


@notrace
def le64(offset: int) -> Field:
    return Field(offset, "Q")


class Ext4SuperBlock(View):
    """struct ext4_super_block, 1024 bytes at byte 1024 of the device."""

    __slots__ = ()
    SIZE = 1024
    s_inodes_count = le32(0x00)
    s_blocks_count_lo = le32(0x04)
    s_r_blocks_count_lo = le32(0x08)
    s_free_blocks_count_lo = le32(0x0C)
    s_free_inodes_count = le32(0x10)
    s_first_data_block = le32(0x14)
    s_log_block_size = le32(0x18)
    s_log_cluster_size = le32(0x1C)
    s_blocks_per_group = le32(0x20)
    s_clusters_per_group = le32(0x24)
    s_inodes_per_group = le32(0x28)
    s_mtime = le32(0x2C)
    s_wtime = le32(0x30)
    s_mnt_count = le16(0x34)
    s_max_mnt_count = le16(0x36)
    s_magic = le16(0x38)
    s_state = le16(0x3A)
    s_errors = le16(0x3C)
    s_minor_rev_level = le16(0x3E)
    s_lastcheck = le32(0x40)
    s_checkinterval = le32(0x44)
    s_creator_os = le32(0x48)
    s_rev_level = le32(0x4C)
    s_def_resuid = le16(0x50)
    s_def_resgid = le16(0x52)
    s_first_ino = le32(0x54)
    s_inode_size = le16(0x58)
    s_block_group_nr = le16(0x5A)
    s_feature_compat = le32(0x5C)
    s_feature_incompat = le32(0x60)
    s_feature_ro_compat = le32(0x64)
    s_uuid = Text(0x68, 16)
    s_volume_name = Text(0x78, 16)
    s_last_mounted = Text(0x88, 64)
    s_reserved_gdt_blocks = le16(0xCE)
    s_journal_uuid = Text(0xD0, 16)
    s_journal_inum = le32(0xE0)
    s_journal_dev = le32(0xE4)
    s_last_orphan = le32(0xE8)
    s_hash_seed = Text(0xEC, 16)
    s_def_hash_version = u8(0xFC)
    s_jnl_backup_type = u8(0xFD)
    s_desc_size = le16(0xFE)
    s_default_mount_opts = le32(0x100)
    s_first_meta_bg = le32(0x104)
    s_mkfs_time = le32(0x108)
    s_blocks_count_hi = le32(0x150)
    s_r_blocks_count_hi = le32(0x154)
    s_free_blocks_count_hi = le32(0x158)
    s_min_extra_isize = le16(0x15C)
    s_want_extra_isize = le16(0x15E)
    s_flags = le32(0x160)
    s_raid_stride = le16(0x164)
    s_mmp_update_interval = le16(0x166)
    s_mmp_block = le64(0x168)
    s_raid_stripe_width = le32(0x170)
    s_log_groups_per_flex = u8(0x174)
    s_checksum_type = u8(0x175)
    s_kbytes_written = le64(0x178)
    s_error_count = le32(0x194)
    s_first_error_time = le32(0x198)
    s_first_error_ino = le32(0x19C)
    s_first_error_block = le64(0x1A0)
    s_first_error_func = Text(0x1A8, 32)
    s_first_error_line = le32(0x1C8)
    s_last_error_time = le32(0x1CC)
    s_last_error_ino = le32(0x1D0)
    s_last_error_line = le32(0x1D4)
    s_last_error_block = le64(0x1D8)
    s_last_error_func = Text(0x1E0, 32)
    s_mount_opts = Text(0x200, 64)
    s_usr_quota_inum = le32(0x240)
    s_grp_quota_inum = le32(0x244)
    s_overhead_clusters = le32(0x248)
    s_backup_bgs_0 = le32(0x24C)
    s_backup_bgs_1 = le32(0x250)
    s_checksum_seed = le32(0x270)
    s_wtime_hi = u8(0x274)
    s_mtime_hi = u8(0x275)
    s_mkfs_time_hi = u8(0x276)
    s_lastcheck_hi = u8(0x277)
    s_checksum = le32(0x3FC)


class Ext4GroupDesc(View):
    """struct ext4_group_desc: 32 bytes, or 64 with the feature 64bit."""

    __slots__ = ()
    bg_block_bitmap_lo = le32(0x00)
    bg_inode_bitmap_lo = le32(0x04)
    bg_inode_table_lo = le32(0x08)
    bg_free_blocks_count_lo = le16(0x0C)
    bg_free_inodes_count_lo = le16(0x0E)
    bg_used_dirs_count_lo = le16(0x10)
    bg_flags = le16(0x12)
    bg_block_bitmap_csum_lo = le16(0x18)
    bg_inode_bitmap_csum_lo = le16(0x1A)
    bg_itable_unused_lo = le16(0x1C)
    bg_checksum = le16(0x1E)
    bg_block_bitmap_hi = le32(0x20)
    bg_inode_bitmap_hi = le32(0x24)
    bg_inode_table_hi = le32(0x28)
    bg_free_blocks_count_hi = le16(0x2C)
    bg_free_inodes_count_hi = le16(0x2E)
    bg_used_dirs_count_hi = le16(0x30)
    bg_itable_unused_hi = le16(0x32)
    bg_block_bitmap_csum_hi = le16(0x38)
    bg_inode_bitmap_csum_hi = le16(0x3A)


class Ext4Inode(View):
    """struct ext4_inode: 128 bytes, then i_extra_isize more, then extended attributes."""

    __slots__ = ()
    i_mode = le16(0x00)
    i_uid_low = le16(0x02)
    i_size_lo = le32(0x04)
    i_atime = le32(0x08)
    i_ctime = le32(0x0C)
    i_mtime = le32(0x10)
    i_dtime = le32(0x14)
    i_gid_low = le16(0x18)
    i_links_count = le16(0x1A)
    i_blocks_lo = le32(0x1C)
    i_flags = le32(0x20)
    i_version = le32(0x24)                 # osd1: l_i_version
    i_block = Text(0x28, 60)
    i_generation = le32(0x64)
    i_file_acl_lo = le32(0x68)
    i_size_high = le32(0x6C)
    i_blocks_high = le16(0x74)
    i_file_acl_high = le16(0x76)
    i_uid_high = le16(0x78)
    i_gid_high = le16(0x7A)
    i_checksum_lo = le16(0x7C)
    i_extra_isize = le16(0x80)
    i_checksum_hi = le16(0x82)
    i_ctime_extra = le32(0x84)
    i_mtime_extra = le32(0x88)
    i_atime_extra = le32(0x8C)
    i_crtime = le32(0x90)
    i_crtime_extra = le32(0x94)
    i_version_hi = le32(0x98)
    i_projid = le32(0x9C)


# offset and size of the checksummed holes of an inode
INODE_CHECKSUM_LO, INODE_CHECKSUM_HI, INODE_EXTRA = 0x7C, 0x82, 0x80


class XattrHeader(View):
    """struct ext4_xattr_header: the first 32 bytes of an attribute block."""

    __slots__ = ()
    SIZE = 32
    h_magic = le32(0)
    h_refcount = le32(4)
    h_blocks = le32(8)
    h_hash = le32(12)
    h_checksum = le32(16)
