"""Groups of blocks: their descriptors, their block bitmaps, who may still allocate.

Linux: fs/ext4/balloc.c, bitmap.c, the descriptor accessors of super.c (5.3).
Same: BLOCK_UNINIT groups get their bitmap from the layout, checksums, EFSCORRUPTED for bitmaps that miss metadata.
Owns: nothing; the buffers of descriptors are pinned by the super block.
"""
from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from glasskernel.block.blk_types import REQ_META, REQ_OP_READ, REQ_PRIO
from glasskernel.fs.buffer import sb_getblk
from glasskernel.fs.buffer_head import (
    BH_BITMAP_UPTODATE,
    buffer_uptodate,
    buffer_verified,
    get_bh,
    put_bh,
    set_buffer_uptodate,
    set_buffer_verified,
)
from glasskernel.fs.buffer_io import end_buffer_read_sync, lock_buffer, submit_bh, unlock_buffer, wait_on_buffer
from glasskernel.fs.ext4.disk import Ext4GroupDesc
from glasskernel.fs.ext4.errors import (
    EFSBADCRC,
    EFSCORRUPTED,
    ext4_error,
    ext4_mark_group_bitmap_corrupted,
)
from glasskernel.fs.ext4.types import (
    COMPAT_SPARSE_SUPER2,
    EXT4_BG_BLOCK_UNINIT,
    EXT4_GROUP_INFO_BBITMAP_CORRUPT,
    EXT4_SB,
    INCOMPAT_FLEX_BG,
    INCOMPAT_META_BG,
    RO_COMPAT_GDT_CSUM,
    RO_COMPAT_SPARSE_SUPER,
    ext4_blocks_count,
    ext4_has_metadata_csum,
    has_compat,
    has_incompat,
    has_ro_compat,
)
from glasskernel.kernel.capability import CAP_SYS_RESOURCE, capable
from glasskernel.kernel.current import current
from glasskernel.lib.crc16 import crc16
from glasskernel.lib.crc32c import crc32c
from glasskernel.lib.errno import EIO, ENOMEM, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.ext4.types import Ext4SbInfo
    from glasskernel.fs.types import SuperBlock

EXT4_MB_USE_ROOT_BLOCKS, EXT4_MB_USE_RESERVED = 0x1000, 0x2000


# ---- descriptors -------------------------------------------------------------------------------------------
@notrace
def ext4_group_first_block_no(sb: SuperBlock, group: int) -> int:
    sbi = sb.s_fs_info
    return group * sbi.s_blocks_per_group + sbi.s_es.s_first_data_block  # type: ignore[no-any-return]


@notrace
def ext4_get_group_no_and_offset(sb: SuperBlock, block: int) -> tuple[int, int]:
    sbi = sb.s_fs_info
    group, offset = divmod(block - sbi.s_es.s_first_data_block, sbi.s_blocks_per_group)
    return group, offset


@notrace
def ext4_num_clusters_in_group(sb: SuperBlock, group: int) -> int:
    """Blocks of a group: fewer in the last one."""
    sbi = EXT4_SB(sb)
    if group == sbi.s_groups_count - 1:
        return ext4_blocks_count(sbi.s_es) - ext4_group_first_block_no(sb, group)
    return sbi.s_blocks_per_group


@may_sleep
def ext4_get_group_desc(sb: SuperBlock, block_group: int) -> tuple[Ext4GroupDesc, BufferHead]:
    """A group's descriptor and the buffer it lies in (no reference). Raises EFSCORRUPTED for a wild number."""
    sbi: Ext4SbInfo = sb.s_fs_info
    if block_group >= sbi.s_groups_count:
        ext4_error(
            sb, f"block_group >= groups_count - block_group = {block_group}, groups_count = {sbi.s_groups_count}"
        )
        raise KernelError(EFSCORRUPTED)
    bh = sbi.s_group_desc[block_group >> sbi.s_desc_per_block_bits]
    return Ext4GroupDesc(bh.b_data, (block_group & sbi.s_desc_per_block - 1) * sbi.s_desc_size), bh


# The halves of these fields lie 32 bytes apart: one step for both.
LO_HI32 = Struct("<I28xI").unpack_from             # bg_block_bitmap, bg_inode_bitmap, bg_inode_table
LO_HI16 = Struct("<H30xH").unpack_from             # bg_free_blocks_count, bg_free_inodes_count, bg_used_dirs_count


@notrace
def _hi(sb: SuperBlock) -> bool:
    return sb.s_fs_info.s_desc_size >= 64  # type: ignore[no-any-return]


def ext4_block_bitmap(sb: SuperBlock, bg: Ext4GroupDesc) -> int:
    if not _hi(sb):
        return bg.bg_block_bitmap_lo
    lo, hi = LO_HI32(bg.m, bg.o)
    return lo | hi << 32  # type: ignore[no-any-return]


def ext4_inode_bitmap(sb: SuperBlock, bg: Ext4GroupDesc) -> int:
    if not _hi(sb):
        return bg.bg_inode_bitmap_lo
    lo, hi = LO_HI32(bg.m, bg.o + 4)
    return lo | hi << 32  # type: ignore[no-any-return]


def ext4_inode_table(sb: SuperBlock, bg: Ext4GroupDesc) -> int:
    if not _hi(sb):
        return bg.bg_inode_table_lo
    lo, hi = LO_HI32(bg.m, bg.o + 8)
    return lo | hi << 32  # type: ignore[no-any-return]


def ext4_free_group_clusters(sb: SuperBlock, bg: Ext4GroupDesc) -> int:
    if not _hi(sb):
        return bg.bg_free_blocks_count_lo
    lo, hi = LO_HI16(bg.m, bg.o + 0xc)
    return lo | hi << 16  # type: ignore[no-any-return]


def ext4_free_group_clusters_set(sb: SuperBlock, bg: Ext4GroupDesc, count: int) -> None:
    bg.bg_free_blocks_count_lo = count & 0xFFFF
    if _hi(sb):
        bg.bg_free_blocks_count_hi = count >> 16


def ext4_free_inodes_count(sb: SuperBlock, bg: Ext4GroupDesc) -> int:
    if not _hi(sb):
        return bg.bg_free_inodes_count_lo
    lo, hi = LO_HI16(bg.m, bg.o + 0xe)
    return lo | hi << 16  # type: ignore[no-any-return]


def ext4_free_inodes_set(sb: SuperBlock, bg: Ext4GroupDesc, count: int) -> None:
    bg.bg_free_inodes_count_lo = count & 0xFFFF
    if _hi(sb):
        bg.bg_free_inodes_count_hi = count >> 16


def ext4_used_dirs_count(sb: SuperBlock, bg: Ext4GroupDesc) -> int:
    if not _hi(sb):
        return bg.bg_used_dirs_count_lo
    lo, hi = LO_HI16(bg.m, bg.o + 0x10)
    return lo | hi << 16  # type: ignore[no-any-return]


def ext4_used_dirs_set(sb: SuperBlock, bg: Ext4GroupDesc, count: int) -> None:
    bg.bg_used_dirs_count_lo = count & 0xFFFF
    if _hi(sb):
        bg.bg_used_dirs_count_hi = count >> 16


def ext4_itable_unused_count(sb: SuperBlock, bg: Ext4GroupDesc) -> int:
    return bg.bg_itable_unused_lo | (bg.bg_itable_unused_hi << 16 if _hi(sb) else 0)


def ext4_itable_unused_set(sb: SuperBlock, bg: Ext4GroupDesc, count: int) -> None:
    bg.bg_itable_unused_lo = count & 0xFFFF
    if _hi(sb):
        bg.bg_itable_unused_hi = count >> 16


@notrace
def ext4_has_group_desc_csum(sb: SuperBlock) -> bool:
    return has_ro_compat(EXT4_SB(sb), RO_COMPAT_GDT_CSUM) or ext4_has_metadata_csum(sb)


def ext4_group_desc_csum(sb: SuperBlock, block_group: int, gdp: Ext4GroupDesc) -> int:
    """A descriptor's checksum: crc32c cut to 16 bits, or crc16 with the feature uninit_bg."""
    sbi = EXT4_SB(sb)
    size = sbi.s_desc_size
    data = bytes(gdp.m[gdp.o : gdp.o + size])
    group = block_group.to_bytes(4, "little")
    if ext4_has_metadata_csum(sb):
        crc = crc32c(sbi.s_csum_seed, group)
        return crc32c(crc, data[:0x1E] + b"\0\0" + data[0x20:]) & 0xFFFF
    if not has_ro_compat(sbi, RO_COMPAT_GDT_CSUM):
        return 0
    crc = crc16(0xFFFF, sbi.s_es.s_uuid)
    crc = crc16(crc, group)
    crc = crc16(crc, data[:0x1E])
    if size > 0x20 and _hi(sb):
        crc = crc16(crc, data[0x20:])
    return crc


def ext4_group_desc_csum_verify(sb: SuperBlock, block_group: int, gdp: Ext4GroupDesc) -> bool:
    return not ext4_has_group_desc_csum(sb) or gdp.bg_checksum == ext4_group_desc_csum(sb, block_group, gdp)


def ext4_group_desc_csum_set(sb: SuperBlock, block_group: int, gdp: Ext4GroupDesc) -> None:
    if ext4_has_group_desc_csum(sb):
        gdp.bg_checksum = ext4_group_desc_csum(sb, block_group, gdp)


# ---- where the copies of the super block are -----------------------------------------------------------------
@notrace
def _power_of(a: int, b: int) -> bool:
    while a > 1:
        if a % b:
            return False
        a //= b
    return a == 1


def ext4_bg_has_super(sb: SuperBlock, group: int) -> bool:
    """True if the group starts with a copy of the super block."""
    sbi = EXT4_SB(sb)
    if not group:
        return True
    if has_compat(sbi, COMPAT_SPARSE_SUPER2):
        return group in (sbi.s_es.s_backup_bgs_0, sbi.s_es.s_backup_bgs_1)
    if group <= 1 or not has_ro_compat(sbi, RO_COMPAT_SPARSE_SUPER):
        return True
    return group & 1 == 1 and (_power_of(group, 3) or _power_of(group, 5) or _power_of(group, 7))


def ext4_bg_num_gdb(sb: SuperBlock, group: int) -> int:
    """Blocks of descriptors at the start of the group."""
    sbi = EXT4_SB(sb)
    first_meta_bg = sbi.s_es.s_first_meta_bg
    if not has_incompat(sbi, INCOMPAT_META_BG) or group // sbi.s_desc_per_block < first_meta_bg:
        if not ext4_bg_has_super(sb, group):
            return 0
        return first_meta_bg if has_incompat(sbi, INCOMPAT_META_BG) else sbi.s_gdb_count
    first = group // sbi.s_desc_per_block * sbi.s_desc_per_block
    return int(group in (first, first + 1, first + sbi.s_desc_per_block - 1))


@notrace
def ext4_num_base_meta_clusters(sb: SuperBlock, group: int) -> int:
    """Blocks at the start of a group: super block, descriptors, room for more of them."""
    sbi = EXT4_SB(sb)
    num = int(ext4_bg_has_super(sb, group))
    if not has_incompat(sbi, INCOMPAT_META_BG) or group < sbi.s_es.s_first_meta_bg * sbi.s_desc_per_block:
        if num:
            num += ext4_bg_num_gdb(sb, group) + sbi.s_es.s_reserved_gdt_blocks
    else:
        num += ext4_bg_num_gdb(sb, group)
    return num


# ---- bitmaps -----------------------------------------------------------------------------------------------
@notrace
def set_bit(bitmap: memoryview, bit: int) -> None:
    bitmap[bit >> 3] |= 1 << (bit & 7)


@notrace
def clear_bit(bitmap: memoryview, bit: int) -> None:
    bitmap[bit >> 3] &= ~(1 << (bit & 7)) & 0xFF


@notrace
def test_bit(bitmap: memoryview, bit: int) -> bool:
    return bool(bitmap[bit >> 3] >> (bit & 7) & 1)


@notrace
def set_bits(bitmap: memoryview, start: int, count: int) -> None:
    """ext4_set_bits(): whole bytes at once."""
    _fill(bitmap, start, count, True)


@notrace
def clear_bits(bitmap: memoryview, start: int, count: int) -> None:
    _fill(bitmap, start, count, False)


@notrace
def _fill(bitmap: memoryview, start: int, count: int, value: bool) -> None:
    if not count:
        return
    first, last = start >> 3, start + count - 1 >> 3
    old = int.from_bytes(bitmap[first : last + 1], "little")
    mask = (1 << count) - 1 << (start & 7)
    new = old | mask if value else old & ~mask
    bitmap[first : last + 1] = new.to_bytes(last + 1 - first, "little")


def ext4_mark_bitmap_end(start_bit: int, end_bit: int, bitmap: memoryview) -> None:
    """Marks the bits behind the end of a group, up to the end of the block, as used."""
    if start_bit < end_bit:
        set_bits(bitmap, start_bit, end_bit - start_bit)


@notrace
def _bitmap_csum_set(gdp: Ext4GroupDesc, name: str, crc: int, hi: bool) -> None:
    setattr(gdp, name + "_lo", crc & 0xFFFF)
    if hi:
        setattr(gdp, name + "_hi", crc >> 16)


def ext4_block_bitmap_csum_set(sb: SuperBlock, group: int, gdp: Ext4GroupDesc, bh: BufferHead) -> None:
    if ext4_has_metadata_csum(sb):
        sbi = EXT4_SB(sb)
        crc = crc32c(sbi.s_csum_seed, bh.b_data[: sbi.s_clusters_per_group // 8])
        _bitmap_csum_set(gdp, "bg_block_bitmap_csum", crc, _hi(sb))


def ext4_block_bitmap_csum_verify(sb: SuperBlock, group: int, gdp: Ext4GroupDesc, bh: BufferHead) -> bool:
    if not ext4_has_metadata_csum(sb):
        return True
    sbi = EXT4_SB(sb)
    crc = crc32c(sbi.s_csum_seed, bh.b_data[: sbi.s_clusters_per_group // 8])
    provided = gdp.bg_block_bitmap_csum_lo
    if _hi(sb):
        return (gdp.bg_block_bitmap_csum_hi << 16 | provided) == crc
    return provided == crc & 0xFFFF


def ext4_inode_bitmap_csum_set(sb: SuperBlock, group: int, gdp: Ext4GroupDesc, bh: BufferHead, sz: int) -> None:
    if ext4_has_metadata_csum(sb):
        crc = crc32c(EXT4_SB(sb).s_csum_seed, bh.b_data[:sz])
        _bitmap_csum_set(gdp, "bg_inode_bitmap_csum", crc, _hi(sb))


def ext4_inode_bitmap_csum_verify(sb: SuperBlock, group: int, gdp: Ext4GroupDesc, bh: BufferHead, sz: int) -> bool:
    if not ext4_has_metadata_csum(sb):
        return True
    crc = crc32c(EXT4_SB(sb).s_csum_seed, bh.b_data[:sz])
    provided = gdp.bg_inode_bitmap_csum_lo
    if _hi(sb):
        return (gdp.bg_inode_bitmap_csum_hi << 16 | provided) == crc
    return provided == crc & 0xFFFF


@may_sleep
def ext4_init_block_bitmap(sb: SuperBlock, bh: BufferHead, block_group: int, gdp: Ext4GroupDesc) -> None:
    """Makes the bitmap of a group that nobody has allocated from. Locks: buffer. Raises EFSBADCRC."""
    sbi = EXT4_SB(sb)
    if not ext4_group_desc_csum_verify(sb, block_group, gdp):
        ext4_mark_group_bitmap_corrupted(sb, block_group, EXT4_GROUP_INFO_BBITMAP_CORRUPT)
        raise KernelError(EFSBADCRC)
    data = bh.b_data
    data[:] = bytes(len(data))
    set_bits(data, 0, ext4_num_base_meta_clusters(sb, block_group))
    flex_bg = has_incompat(sbi, INCOMPAT_FLEX_BG)
    start = ext4_group_first_block_no(sb, block_group)
    per_group = sbi.s_blocks_per_group
    table = ext4_inode_table(sb, gdp)
    for block in (ext4_block_bitmap(sb, gdp), ext4_inode_bitmap(sb, gdp), *range(table, table + sbi.s_itb_per_group)):
        if not flex_bg or 0 <= block - start < per_group:
            set_bit(data, block - start)
    ext4_mark_bitmap_end(ext4_num_clusters_in_group(sb, block_group), sb.s_blocksize * 8, data)


@notrace
def ext4_valid_block_bitmap(sb: SuperBlock, desc: Ext4GroupDesc, block_group: int, bh: BufferHead) -> int:
    """0, or the block of metadata that the bitmap says is free."""
    sbi = EXT4_SB(sb)
    if has_incompat(sbi, INCOMPAT_FLEX_BG):
        return 0
    group_first_block = ext4_group_first_block_no(sb, block_group)
    data = bh.b_data
    limit = sbi.s_clusters_per_group
    blocks = [ext4_block_bitmap(sb, desc), ext4_inode_bitmap(sb, desc)]
    table = ext4_inode_table(sb, desc)
    blocks += range(table, table + sbi.s_itb_per_group)
    for block in blocks:
        offset = block - group_first_block
        if not 0 <= offset < limit or not test_bit(data, offset):
            return block
    return 0


@may_sleep
def ext4_validate_block_bitmap(sb: SuperBlock, desc: Ext4GroupDesc, block_group: int, bh: BufferHead) -> None:
    """Raises EFSBADCRC, EFSCORRUPTED."""
    if buffer_verified(bh):
        return
    if EXT4_SB(sb).s_group_info[block_group].bb_state & EXT4_GROUP_INFO_BBITMAP_CORRUPT:
        raise KernelError(EFSCORRUPTED)
    if not ext4_block_bitmap_csum_verify(sb, block_group, desc, bh):
        ext4_error(sb, f"bg {block_group}: bad block bitmap checksum")
        ext4_mark_group_bitmap_corrupted(sb, block_group, EXT4_GROUP_INFO_BBITMAP_CORRUPT)
        raise KernelError(EFSBADCRC)
    block = ext4_valid_block_bitmap(sb, desc, block_group, bh)
    if block:
        ext4_error(sb, f"bg {block_group}: block {block}: invalid block bitmap")
        ext4_mark_group_bitmap_corrupted(sb, block_group, EXT4_GROUP_INFO_BBITMAP_CORRUPT)
        raise KernelError(EFSCORRUPTED)
    set_buffer_verified(bh)


@notrace
def bitmap_uptodate(bh: BufferHead) -> bool:
    return bool(bh.b_state & BH_BITMAP_UPTODATE)


@notrace
def set_bitmap_uptodate(bh: BufferHead) -> None:
    bh.b_state |= BH_BITMAP_UPTODATE


def ext4_end_bitmap_read(bh: BufferHead, uptodate: bool) -> None:
    """b_end_io of a bitmap. Context: softirq."""
    if uptodate:
        set_bitmap_uptodate(bh)
    end_buffer_read_sync(bh, uptodate)


@may_sleep
def ext4_read_block_bitmap_nowait(sb: SuperBlock, block_group: int) -> BufferHead:
    """Starts to read a group's block bitmap; with a reference. Raises EFSCORRUPTED, EFSBADCRC."""
    sbi = EXT4_SB(sb)
    desc, _ = ext4_get_group_desc(sb, block_group)
    bitmap_blk = ext4_block_bitmap(sb, desc)
    if bitmap_blk <= sbi.s_es.s_first_data_block or bitmap_blk >= ext4_blocks_count(sbi.s_es):
        ext4_error(sb, f"Invalid block bitmap block {bitmap_blk} in block_group {block_group}")
        ext4_mark_group_bitmap_corrupted(sb, block_group, EXT4_GROUP_INFO_BBITMAP_CORRUPT)
        raise KernelError(EFSCORRUPTED)
    bh = sb_getblk(sb, bitmap_blk)
    if bh is None:
        raise KernelError(ENOMEM)
    try:
        if not bitmap_uptodate(bh):
            lock_buffer(bh)
            if bitmap_uptodate(bh):
                unlock_buffer(bh)
            elif desc.bg_flags & EXT4_BG_BLOCK_UNINIT and ext4_has_group_desc_csum(sb):
                try:
                    if not block_group:
                        ext4_error(sb, "Block bitmap for bg 0 marked uninitialized")
                        raise KernelError(EFSCORRUPTED)
                    ext4_init_block_bitmap(sb, bh, block_group, desc)
                    set_bitmap_uptodate(bh)
                    set_buffer_uptodate(bh)
                    set_buffer_verified(bh)
                finally:
                    unlock_buffer(bh)
                return bh
            elif buffer_uptodate(bh):              # somebody has read the device
                set_bitmap_uptodate(bh)
                unlock_buffer(bh)
            else:
                probe = sb.kernel.tp.ext4_read_block_bitmap_load
                if probe is not None:
                    probe(sb, block_group)
                bh.b_end_io = ext4_end_bitmap_read
                get_bh(bh)
                submit_bh(REQ_OP_READ, REQ_META | REQ_PRIO, bh)
                return bh
        ext4_validate_block_bitmap(sb, desc, block_group, bh)
    except KernelError:
        put_bh(bh)
        raise
    return bh


@may_sleep
def ext4_wait_block_bitmap(sb: SuperBlock, block_group: int, bh: BufferHead) -> None:
    """Waits for what ext4_read_block_bitmap_nowait() started. Raises EIO, EFSCORRUPTED, EFSBADCRC."""
    wait_on_buffer(bh)
    desc, _ = ext4_get_group_desc(sb, block_group)
    if not buffer_uptodate(bh):
        ext4_error(sb, f"Cannot read block bitmap - block_group = {block_group}, block_bitmap = {bh.b_blocknr}")
        ext4_mark_group_bitmap_corrupted(sb, block_group, EXT4_GROUP_INFO_BBITMAP_CORRUPT)
        raise KernelError(EIO)
    ext4_validate_block_bitmap(sb, desc, block_group, bh)


@may_sleep
def ext4_read_block_bitmap(sb: SuperBlock, block_group: int) -> BufferHead:
    """A group's block bitmap, with a reference. Raises EIO, EFSCORRUPTED, EFSBADCRC."""
    bh = ext4_read_block_bitmap_nowait(sb, block_group)
    try:
        ext4_wait_block_bitmap(sb, block_group, bh)
    except KernelError:
        put_bh(bh)
        raise
    return bh


# ---- who may allocate --------------------------------------------------------------------------------------
@notrace
def ext4_has_free_clusters(sbi: Ext4SbInfo, nclusters: int, flags: int) -> bool:
    """True if the caller may have this many blocks: the reserved ones are root's, the last ones ext4's own."""
    free = sbi.s_freeclusters_counter
    dirty = sbi.s_dirtyclusters_counter
    es = sbi.s_es
    rsv = (es.s_r_blocks_count_hi << 32 | es.s_r_blocks_count_lo) + sbi.s_resv_clusters
    if free >= rsv + nclusters + dirty:
        return True
    task = current()
    cred = task.cred
    if (cred.fsuid == sbi.s_resuid or (sbi.s_resgid and (cred.fsgid == sbi.s_resgid or sbi.s_resgid in cred.groups))
            or capable(CAP_SYS_RESOURCE) or flags & EXT4_MB_USE_ROOT_BLOCKS):
        if free >= nclusters + dirty + sbi.s_resv_clusters:
            return True
    return bool(flags & EXT4_MB_USE_RESERVED) and free >= nclusters + dirty


def ext4_claim_free_clusters(sbi: Ext4SbInfo, nclusters: int, flags: int) -> bool:
    """Reserves blocks for delayed allocation. False: ENOSPC."""
    if not ext4_has_free_clusters(sbi, nclusters, flags):
        return False
    sbi.s_dirtyclusters_counter += nclusters
    return True


@may_sleep
def ext4_count_free_clusters(sb: SuperBlock) -> int:
    """The sum over the groups."""
    return sum(
        ext4_free_group_clusters(sb, ext4_get_group_desc(sb, i)[0])
        for i in range(EXT4_SB(sb).s_groups_count)
        if not EXT4_SB(sb).s_group_info or not EXT4_SB(sb).s_group_info[i].bb_state & EXT4_GROUP_INFO_BBITMAP_CORRUPT
    )


@notrace
def ext4_inode_to_goal_block(sb: SuperBlock, ei: object, delalloc: bool) -> int:
    """Where the first block of a file should lie: in its inode's group, or behind the directories of its flex group."""
    sbi = EXT4_SB(sb)
    block_group: int = ei.i_block_group  # type: ignore[attr-defined]
    flex_size = 1 << sbi.s_log_groups_per_flex
    if flex_size >= 4:                               # EXT4_FLEX_SIZE_DIR_ALLOC_SCHEME
        block_group &= ~(flex_size - 1)
        if ei.vfs_inode.i_mode & 0o170000 == 0o100000:  # type: ignore[attr-defined]
            block_group += 1
    bg_start = ext4_group_first_block_no(sb, block_group)
    last_block = ext4_blocks_count(sbi.s_es) - 1
    if delalloc:
        return bg_start
    if bg_start + sbi.s_blocks_per_group <= last_block:
        colour = current().pid % 16 * (sbi.s_blocks_per_group // 16)
    else:
        colour = current().pid % 16 * ((last_block - bg_start) // 16)
    return bg_start + colour


