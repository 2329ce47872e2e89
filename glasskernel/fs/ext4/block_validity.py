"""Blocks that no file may have: super blocks, descriptors, bitmaps, inode tables, the journal.

Linux: fs/ext4/block_validity.c (5.3). Same: built at mount with block_validity, wild block numbers are refused always.
Differs: the red-black tree is a sorted list.
Owns: sbi.s_system_blks. Invariant: sorted, no overlaps.
"""
from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from glasskernel.fs.ext4.balloc import (
    ext4_bg_has_super,
    ext4_bg_num_gdb,
    ext4_block_bitmap,
    ext4_get_group_desc,
    ext4_group_first_block_no,
    ext4_inode_bitmap,
    ext4_inode_table,
)
from glasskernel.fs.ext4.errors import ext4_error_inode
from glasskernel.fs.ext4.types import EXT4_MOUNT_BLOCK_VALIDITY, EXT4_SB, ext4_blocks_count, test_opt
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.ext4.types import Ext4SbInfo
    from glasskernel.fs.types import Inode, SuperBlock


def add_system_zone(sbi: Ext4SbInfo, start_blk: int, count: int) -> None:
    sbi.s_system_blks.append((start_blk, count))


@may_sleep
def ext4_setup_system_zone(sb: SuperBlock) -> None:
    """Collects the metadata of every group, merged. Context: mount, remount."""
    sbi = EXT4_SB(sb)
    if not test_opt(sbi, EXT4_MOUNT_BLOCK_VALIDITY):
        sbi.s_system_blks = []
        return
    if sbi.s_system_blks:
        return
    flex_size = 1 << sbi.s_log_groups_per_flex
    for i in range(sbi.s_groups_count):
        if ext4_bg_has_super(sb, i) and (i < 5 or i % flex_size == 0):
            add_system_zone(sbi, ext4_group_first_block_no(sb, i), ext4_bg_num_gdb(sb, i) + 1)
        gdp, _ = ext4_get_group_desc(sb, i)
        add_system_zone(sbi, ext4_block_bitmap(sb, gdp), 1)
        add_system_zone(sbi, ext4_inode_bitmap(sb, gdp), 1)
        add_system_zone(sbi, ext4_inode_table(sb, gdp), sbi.s_itb_per_group)
    merge_system_zones(sbi)


@notrace
def merge_system_zones(sbi: Ext4SbInfo) -> None:
    merged: list[tuple[int, int]] = []
    for start, count in sorted(sbi.s_system_blks):
        if merged and start <= merged[-1][0] + merged[-1][1]:
            first, length = merged[-1]
            merged[-1] = (first, max(length, start + count - first))
        else:
            merged.append((start, count))
    sbi.s_system_blks = merged


def ext4_release_system_zone(sb: SuperBlock) -> None:
    EXT4_SB(sb).s_system_blks = []


def ext4_data_block_valid(sbi: Ext4SbInfo, start_blk: int, count: int) -> bool:
    """True if a file may have these blocks."""
    if (start_blk <= sbi.s_es.s_first_data_block or start_blk + count < start_blk
            or start_blk + count > ext4_blocks_count(sbi.s_es)):
        sbi.s_es.s_last_error_block = start_blk
        return False
    zones = sbi.s_system_blks
    if zones:
        index = bisect_right(zones, (start_blk + count - 1, 1 << 62)) - 1
        if index >= 0 and zones[index][0] + zones[index][1] > start_blk:
            sbi.s_es.s_last_error_block = start_blk
            return False
    return True


@may_sleep
def ext4_check_blockref(inode: Inode, blocks: list[int]) -> bool:
    """True if the block numbers of an indirect block are sane; if not, says so."""
    sbi = EXT4_SB(inode.i_sb)
    journal_inum = sbi.s_es.s_journal_inum
    if sbi.s_journal is not None and inode.i_ino == journal_inum:
        return True
    for blk in blocks:
        if blk and not ext4_data_block_valid(sbi, blk, 1):
            ext4_error_inode(inode, "invalid block", blk)
            return False
    return True
