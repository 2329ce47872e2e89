"""An inode on disk: where it lies, its checksum, and storing the one in memory there.

Linux: the middle of fs/ext4/inode.c (5.3). Same: times with 34 bits of seconds and nanoseconds, huge_file block
    counts, the trick not to read a table block whose other inodes are free, table readahead.
Gaps: growing i_extra_isize of old inodes (they keep what they have).
Locks: none that outlive a call; the journal keeps two writers of a buffer apart.
"""
from __future__ import annotations

import contextlib
from struct import Struct
from typing import TYPE_CHECKING

from glasskernel.block.blk_types import REQ_META, REQ_OP_READ, REQ_PRIO
from glasskernel.fs.buffer import sb_breadahead, sb_find_get_block, sb_getblk
from glasskernel.fs.buffer_head import buffer_uptodate, get_bh, set_buffer_uptodate
from glasskernel.fs.buffer_io import (
    brelse,
    end_buffer_read_sync,
    lock_buffer,
    submit_bh,
    sync_dirty_buffer,
    unlock_buffer,
    wait_on_buffer,
)
from glasskernel.fs.ext4.balloc import ext4_get_group_desc, ext4_inode_bitmap, ext4_inode_table, test_bit
from glasskernel.fs.ext4.disk import INODE_CHECKSUM_HI, INODE_CHECKSUM_LO, Ext4Inode
from glasskernel.fs.ext4.errors import (
    EFSCORRUPTED,
    ext4_error_inode,
    ext4_std_error,
    ext4_superblock_csum_set,
)
from glasskernel.fs.ext4.ext4_jbd2 import (
    Handle,
    ext4_handle_dirty_metadata,
    ext4_handle_dirty_super,
    ext4_handle_sync,
    ext4_journal_current_handle,
    ext4_journal_get_write_access,
    ext4_journal_start,
    ext4_journal_stop,
    ext4_update_inode_fsync_trans,
)
from glasskernel.fs.ext4.types import (
    EXT4_HT_INODE,
    EXT4_HUGE_FILE_FL,
    EXT4_I,
    EXT4_ROOT_INO,
    EXT4_SB,
    EXT4_STATE_NEW,
    EXT4_STATE_XATTR,
    RO_COMPAT_HUGE_FILE,
    RO_COMPAT_LARGE_FILE,
    ext4_forced_shutdown,
    ext4_has_metadata_csum,
    has_ro_compat,
)
from glasskernel.fs.jbd2.log import jbd2_complete_transaction
from glasskernel.fs.types import (
    I_DIRTY_INODE,
    I_DIRTY_TIME,
    I_DIRTY_TIME_EXPIRED,
    I_FREEING,
    I_NEW,
    I_WILL_FREE,
    S_IFBLK,
    S_IFCHR,
    S_IFMT,
    SB_LAZYTIME,
    SB_RDONLY,
)
from glasskernel.lib.crc32c import crc32c
from glasskernel.lib.errno import EFBIG, EIO, ENOMEM, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace, to_s32
from glasskernel.machine.costs import INODE_UPDATE
from glasskernel.mm.types import WB_SYNC_ALL

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.ext4.types import Ext4InodeInfo
    from glasskernel.fs.types import Inode, SuperBlock
    from glasskernel.mm.types import WritebackControl

# The whole fixed part at once: i_mode .. i_version; i_generation .. i_obso_faddr; osd2; i_extra_isize .. i_projid
FRONT = Struct("<HHIIIIIHHIII")
MIDDLE = Struct("<IIII")
OSD2 = Struct("<HHHHHH")
EXTRA = Struct("<HHIIIIIII")
SIZES = Struct("<4xI100xI").unpack_from    # i_size_lo, i_size_high
FRONT_OFFSET, BLOCK_OFFSET, MIDDLE_OFFSET, OSD2_OFFSET, EXTRA_OFFSET = 0, 0x28, 0x64, 0x74, 0x80


@slotted
class Ext4Iloc:
    """struct ext4_iloc: the buffer (with a reference) and where the inode lies in it."""

    bh: BufferHead
    offset: int
    block_group: int


@notrace
def ext4_raw_inode(iloc: Ext4Iloc) -> Ext4Inode:
    return Ext4Inode(iloc.bh.b_data, iloc.offset)


# ---- checksum ----------------------------------------------------------------------------------------------
def ext4_inode_csum(inode: Inode, raw: Ext4Inode, ei: Ext4InodeInfo) -> int:
    size = EXT4_SB(inode.i_sb).s_inode_size
    data = bytearray(raw.m[raw.o : raw.o + size])
    data[INODE_CHECKSUM_LO : INODE_CHECKSUM_LO + 2] = b"\0\0"
    if size > 128 and int.from_bytes(data[0x80:0x82], "little") >= 4:
        data[INODE_CHECKSUM_HI : INODE_CHECKSUM_HI + 2] = b"\0\0"
    return crc32c(ei.i_csum_seed, data)


@notrace
def ext4_inode_csum_verify(inode: Inode, raw: Ext4Inode, ei: Ext4InodeInfo) -> bool:
    sb = inode.i_sb
    if not ext4_has_metadata_csum(sb):
        return True
    provided = raw.i_checksum_lo
    calculated = ext4_inode_csum(inode, raw, ei)
    if EXT4_SB(sb).s_inode_size > 128 and raw.i_extra_isize >= 4:
        provided |= raw.i_checksum_hi << 16
    else:
        calculated &= 0xFFFF
    return provided == calculated


def ext4_inode_csum_set(inode: Inode, raw: Ext4Inode, ei: Ext4InodeInfo) -> None:
    sb = inode.i_sb
    if not ext4_has_metadata_csum(sb):
        return
    csum = ext4_inode_csum(inode, raw, ei)
    raw.i_checksum_lo = csum & 0xFFFF
    if EXT4_SB(sb).s_inode_size > 128 and raw.i_extra_isize >= 4:
        raw.i_checksum_hi = csum >> 16


# ---- times -------------------------------------------------------------------------------------------------
@notrace
def encode_time(time_ns: int) -> tuple[int, int]:
    """(seconds, extra): 34 bits of seconds, 30 of nanoseconds."""
    seconds, nsec = divmod(time_ns, 1_000_000_000)
    if 0 <= seconds <= 0x7FFFFFFF:
        return seconds, nsec << 2
    low = seconds & 0xFFFFFFFF
    return low, (seconds - to_s32(low) >> 32 & 3) | nsec << 2


@notrace
def decode_time(low: int, extra: int) -> int:
    return (to_s32(low) + ((extra & 3) << 32)) * 1_000_000_000 + (extra >> 2)


# ---- where -------------------------------------------------------------------------------------------------
@may_sleep
def __ext4_get_inode_loc(inode: Inode, in_mem: bool) -> Ext4Iloc:
    """The table block of an inode. in_mem: all of it is in memory, so a block with no other inode is not read.

    Raises EFSCORRUPTED, EIO.
    """
    sb = inode.i_sb
    sbi = EXT4_SB(sb)
    ino = inode.i_ino
    if ino < EXT4_ROOT_INO or ino > sbi.s_groups_count * sbi.s_inodes_per_group:
        raise KernelError(EFSCORRUPTED)
    group, inode_offset = divmod(ino - 1, sbi.s_inodes_per_group)
    gdp, _ = ext4_get_group_desc(sb, group)
    per_block = sbi.s_inodes_per_block
    table = ext4_inode_table(sb, gdp)
    block = table + inode_offset // per_block
    iloc_offset = inode_offset % per_block * sbi.s_inode_size
    bh = sb_getblk(sb, block)
    if bh is None:
        raise KernelError(ENOMEM)
    if not buffer_uptodate(bh):
        lock_buffer(bh)
        if buffer_uptodate(bh):
            unlock_buffer(bh)
            return Ext4Iloc(bh, iloc_offset, group)
        if in_mem and _alone_in_block(sb, ext4_inode_bitmap(sb, gdp), inode_offset, per_block):
            bh.b_data[:] = bytes(bh.b_size)
            set_buffer_uptodate(bh)
            unlock_buffer(bh)
            return Ext4Iloc(bh, iloc_offset, group)
        if sbi.s_inode_readahead_blks:
            ra_blks = sbi.s_inode_readahead_blks
            start = max(table, block & ~(ra_blks - 1))
            last = table + sbi.s_itb_per_group
            for number in range(start, min(start + ra_blks, last + 1)):
                if number != block:
                    sb_breadahead(sb, number)
        probe = sb.kernel.tp.ext4_load_inode
        if probe is not None:
            probe(inode)
        get_bh(bh)
        bh.b_end_io = end_buffer_read_sync
        submit_bh(REQ_OP_READ, REQ_META | REQ_PRIO, bh)
        wait_on_buffer(bh)
        if not buffer_uptodate(bh):
            ext4_error_inode(inode, "unable to read itable block", block)
            brelse(bh)
            raise KernelError(EIO)
    return Ext4Iloc(bh, iloc_offset, group)


@notrace
def _alone_in_block(sb: SuperBlock, bitmap_blk: int, inode_offset: int, per_block: int) -> bool:
    """True if the inode bitmap is at hand and says that every other inode of the block is free."""
    bitmap_bh = sb_find_get_block(sb, bitmap_blk)
    if bitmap_bh is None:
        return False
    try:
        if not buffer_uptodate(bitmap_bh):
            return False
        data = bitmap_bh.b_data
        start = inode_offset & ~(per_block - 1)
        return not any(i != inode_offset and test_bit(data, i) for i in range(start, start + per_block))
    finally:
        brelse(bitmap_bh)


@may_sleep
def ext4_get_inode_loc(inode: Inode) -> Ext4Iloc:
    """Where an inode that is in memory lies."""
    return __ext4_get_inode_loc(inode, not EXT4_I(inode).i_state_flags & EXT4_STATE_XATTR)


# ---- storing -----------------------------------------------------------------------------------------------
@notrace
def ext4_inode_blocks(raw: Ext4Inode, ei: Ext4InodeInfo) -> int:
    """i_blocks in 512-byte units."""
    inode = ei.vfs_inode
    if has_ro_compat(EXT4_SB(inode.i_sb), RO_COMPAT_HUGE_FILE):
        blocks = raw.i_blocks_high << 32 | raw.i_blocks_lo
        if ei.i_flags & EXT4_HUGE_FILE_FL:
            return blocks << inode.i_blkbits - 9
        return blocks
    return raw.i_blocks_lo


@notrace
def ext4_inode_blocks_set(inode: Inode, ei: Ext4InodeInfo) -> tuple[int, int]:
    """(i_blocks_lo, i_blocks_high); sets or clears EXT4_HUGE_FILE_FL. Raises EFBIG."""
    blocks = inode.i_blocks
    if blocks <= 0xFFFFFFFF:
        ei.i_flags &= ~EXT4_HUGE_FILE_FL
        return blocks, 0
    if not has_ro_compat(EXT4_SB(inode.i_sb), RO_COMPAT_HUGE_FILE):
        raise KernelError(EFBIG)
    if blocks <= 0xFFFF_FFFF_FFFF:
        ei.i_flags &= ~EXT4_HUGE_FILE_FL
    else:
        ei.i_flags |= EXT4_HUGE_FILE_FL
        blocks >>= inode.i_blkbits - 9
    return blocks & 0xFFFFFFFF, blocks >> 32 & 0xFFFF


@may_sleep
def ext4_do_update_inode(handle: Handle, inode: Inode, iloc: Ext4Iloc) -> None:
    """Stores the inode in its table block. Locks: write access to the buffer. Raises EIO, EFBIG."""
    sb = inode.i_sb
    sbi = EXT4_SB(sb)
    ei = EXT4_I(inode)
    bh = iloc.bh
    data = bh.b_data
    at = iloc.offset
    sb.kernel.machine.charge(INODE_UPDATE)
    if ei.i_state_flags & EXT4_STATE_NEW:
        data[at : at + sbi.s_inode_size] = bytes(sbi.s_inode_size)
    kind = inode.i_mode & S_IFMT
    if kind in (S_IFCHR, S_IFBLK):
        _encode_dev(ei, inode.i_rdev)
    blocks_lo, blocks_high = ext4_inode_blocks_set(inode, ei)
    uid, gid = inode.i_uid, inode.i_gid
    atime, atime_extra = encode_time(inode.i_atime)
    ctime, ctime_extra = encode_time(inode.i_ctime)
    mtime, mtime_extra = encode_time(inode.i_mtime)
    size = ei.i_disksize
    version = inode.i_version
    dead = bool(ei.i_dtime) and not ei.i_orphan and not inode.i_nlink        # keep the high halves zero: old e2fsck
    need_datasync = SIZES(data, at) != (size & 0xFFFFFFFF, size >> 32)        # fdatasync(2) has to wait for a new size
    FRONT.pack_into(data, at, inode.i_mode, uid & 0xFFFF, size & 0xFFFFFFFF, atime, ctime, mtime, ei.i_dtime,
                    gid & 0xFFFF, inode.i_nlink & 0xFFFF, blocks_lo, ei.i_flags & 0xFFFFFFFF, version & 0xFFFFFFFF)
    data[at + BLOCK_OFFSET : at + BLOCK_OFFSET + 60] = ei.i_data
    MIDDLE.pack_into(data, at + MIDDLE_OFFSET, inode.i_generation, ei.i_file_acl & 0xFFFFFFFF, size >> 32, 0)
    OSD2.pack_into(data, at + OSD2_OFFSET, blocks_high, ei.i_file_acl >> 32, 0 if dead else uid >> 16,
                   0 if dead else gid >> 16, 0, 0)
    need_super = size > 0x7FFFFFFF and not has_ro_compat(sbi, RO_COMPAT_LARGE_FILE)
    if ei.i_extra_isize:
        crtime, crtime_extra = encode_time(ei.i_crtime)
        extra = (ei.i_extra_isize, 0, ctime_extra, mtime_extra, atime_extra, crtime, crtime_extra,
                 version >> 32 & 0xFFFFFFFF, ei.i_projid)
        if ei.i_extra_isize >= EXTRA.size:
            EXTRA.pack_into(data, at + EXTRA_OFFSET, *extra)
        else:
            room = ei.i_extra_isize
            data[at + EXTRA_OFFSET : at + EXTRA_OFFSET + room] = EXTRA.pack(*extra)[:room]
    if sb.s_flags & SB_LAZYTIME:
        ext4_update_other_inodes_time(sb, inode.i_ino, data)
    ext4_inode_csum_set(inode, Ext4Inode(data, at), ei)
    ext4_handle_dirty_metadata(handle, None, bh)
    ei.i_state_flags &= ~EXT4_STATE_NEW
    if need_super:
        ext4_journal_get_write_access(handle, sbi.s_sbh)
        sbi.s_es.s_feature_ro_compat |= RO_COMPAT_LARGE_FILE
        ext4_superblock_csum_set(sb)
        ext4_handle_sync(handle)
        ext4_handle_dirty_super(handle, sb)
    ext4_update_inode_fsync_trans(handle, inode, int(need_datasync))


@notrace
def ext4_update_other_inodes_time(sb: SuperBlock, orig_ino: int, data: memoryview) -> None:
    """With lazytime: the block is about to be written, so the times of the other inodes in it go along for nothing."""
    sbi = EXT4_SB(sb)
    first = (orig_ino - 1) & -sbi.s_inodes_per_block
    for i in range(sbi.s_inodes_per_block):
        other = sb.s_inodes.get(first + i + 1)       # find_inode_nowait()
        if other is not None and other.i_ino != orig_ino:
            other_inode_match(other, data, i * sbi.s_inode_size, orig_ino)


@notrace
def other_inode_match(inode: Inode, data: memoryview, at: int, orig_ino: int) -> None:
    """Stores an inode's times if nothing else of it has to be stored."""
    busy = I_FREEING | I_WILL_FREE | I_NEW | I_DIRTY_INODE
    if inode.i_state & busy or not inode.i_state & I_DIRTY_TIME:
        return
    inode.i_state &= ~(I_DIRTY_TIME | I_DIRTY_TIME_EXPIRED)
    ei = EXT4_I(inode)
    raw = Ext4Inode(data, at)
    raw.i_ctime, ctime_extra = encode_time(inode.i_ctime)
    raw.i_mtime, mtime_extra = encode_time(inode.i_mtime)
    raw.i_atime, atime_extra = encode_time(inode.i_atime)
    if ei.i_extra_isize >= 16:                       # EXT4_FITS_IN_INODE(i_atime_extra)
        raw.i_ctime_extra, raw.i_mtime_extra, raw.i_atime_extra = ctime_extra, mtime_extra, atime_extra
    ext4_inode_csum_set(inode, raw, ei)
    probe = inode.i_sb.kernel.tp.ext4_other_inode_update_time
    if probe is not None:
        probe(inode, orig_ino)


@notrace
def _encode_dev(ei: Ext4InodeInfo, rdev: int) -> None:
    """Device numbers: the old format where it fits, else the new one in the second word."""
    major, minor = rdev >> 20, rdev & 0xFFFFF
    if major < 256 and minor < 256:
        words = (major << 8 | minor, 0)
    else:
        words = (0, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12)
    ei.i_data[0:12] = words[0].to_bytes(4, "little") + (words[1] & 0xFFFFFFFF).to_bytes(4, "little") + bytes(4)


@notrace
def decode_dev(i_data: bytes | bytearray) -> int:
    old = int.from_bytes(i_data[0:4], "little")
    if old:
        return (old >> 8 & 0xFF) << 20 | old & 0xFF
    new = int.from_bytes(i_data[4:8], "little")
    return (new >> 8 & 0xFFF) << 20 | new & 0xFF | new >> 12 & 0xFFF00


@may_sleep
def ext4_reserve_inode_write(handle: Handle, inode: Inode) -> Ext4Iloc:
    """The inode's table block, with write access. Raises EIO, EFSCORRUPTED."""
    sb = inode.i_sb
    if ext4_forced_shutdown(EXT4_SB(sb)):
        raise KernelError(EIO)
    try:
        iloc = ext4_get_inode_loc(inode)
        try:
            ext4_journal_get_write_access(handle, iloc.bh)
        except KernelError:
            brelse(iloc.bh)
            raise
    except KernelError as e:
        ext4_std_error(sb, e.errno)
        raise
    return iloc


@may_sleep
def ext4_mark_iloc_dirty(handle: Handle, inode: Inode, iloc: Ext4Iloc) -> None:
    """Stores the inode and drops the reference of iloc."""
    try:
        if ext4_forced_shutdown(EXT4_SB(inode.i_sb)):
            raise KernelError(EIO)
        ext4_do_update_inode(handle, inode, iloc)
    finally:
        brelse(iloc.bh)


@may_sleep
def ext4_mark_inode_dirty(handle: Handle, inode: Inode) -> None:
    """Makes the inode part of the transaction. Raises EIO, EFSCORRUPTED."""
    probe = inode.i_sb.kernel.tp.ext4_mark_inode_dirty
    if probe is not None:
        probe(inode, 0)
    ext4_mark_iloc_dirty(handle, inode, ext4_reserve_inode_write(handle, inode))


@may_sleep
def ext4_dirty_inode(inode: Inode, flags: int) -> None:
    """->dirty_inode(): the VFS changed something (times, mode): stored in the journal at once."""
    if flags == I_DIRTY_TIME:
        return
    if inode.i_sb.s_flags & SB_RDONLY:
        return
    try:
        handle = ext4_journal_start(inode, EXT4_HT_INODE, 2)
    except KernelError:
        return
    try:
        ext4_mark_inode_dirty(handle, inode)
    except KernelError:
        pass                                     # said by whoever found it
    finally:
        _stop(handle)


@notrace
@may_sleep
def _stop(handle: Handle) -> None:
    with contextlib.suppress(KernelError):
        ext4_journal_stop(handle)


@may_sleep
def ext4_write_inode(inode: Inode, wbc: WritebackControl) -> None:
    """->write_inode(): with a journal, waits for the transaction that has it. Raises EIO."""
    sb = inode.i_sb
    sbi = EXT4_SB(sb)
    if ext4_forced_shutdown(sbi):
        raise KernelError(EIO)
    if sbi.s_journal is not None:
        if ext4_journal_current_handle() is not None:
            raise KernelError(EIO)
        if wbc.sync_mode != WB_SYNC_ALL or wbc.for_sync:
            return
        jbd2_complete_transaction(sbi.s_journal, EXT4_I(inode).i_sync_tid)
        return
    iloc = __ext4_get_inode_loc(inode, False)
    try:
        if wbc.sync_mode == WB_SYNC_ALL and not wbc.for_sync:
            try:
                sync_dirty_buffer(iloc.bh)
            except KernelError:
                ext4_error_inode(inode, "IO error syncing inode", iloc.bh.b_blocknr)
                raise KernelError(EIO) from None
    finally:
        brelse(iloc.bh)


