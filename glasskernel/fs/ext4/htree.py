"""Indexed directories: a tree over hashes of names, of one or two levels.

Linux: the dx_* functions of fs/ext4/namei.c (5.3). Same: hash collisions by the lowest bit of the next entry's hash,
    splits at half the bytes, a root that grows a level, ENOSPC with Linux's warning when two levels are full.
Gaps: the feature large_dir (three levels).
Locks: the directory's i_rwsem.
"""
from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from glasskernel.fs.buffer_io import brelse
from glasskernel.fs.ext4.dirent import (
    EXT4_DIR_REC_LEN,
    INDEX,
    ext4_handle_dirty_dirblock,
    ext4_handle_dirty_dx_node,
    ext4_initialize_dirent_tail,
    ext4_read_dirblock,
    forget_full,
    unpack_dirent,
)
from glasskernel.fs.ext4.disk import DIRENT, U16, U32, Memory
from glasskernel.fs.ext4.errors import EFSCORRUPTED, ext4_error_inode, ext4_warning_inode
from glasskernel.fs.ext4.ext4_jbd2 import Handle, ext4_journal_get_write_access
from glasskernel.fs.ext4.hash import DX_HASH_TEA, DxHashInfo, ext4fs_dirhash
from glasskernel.fs.ext4.inode_loc import ext4_mark_inode_dirty
from glasskernel.fs.ext4.inode_map import ext4_bread
from glasskernel.fs.ext4.types import (
    EXT4_GET_BLOCKS_CREATE,
    EXT4_I,
    EXT4_INDEX_FL,
    EXT4_SB,
    ext4_has_metadata_csum,
)
from glasskernel.lib.errno import EIO, ENOSPC, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.types import Inode

ERR_BAD_DX_DIR = 75000
ROOT_INFO = 24                         # offset of struct dx_root_info
BLOCK_MASK = 0x0FFFFFFF


@slotted
class DxFrame:
    """struct dx_frame: a node of the path; at: number of the entry taken."""

    bh: BufferHead
    data: Memory
    entries: int                       # offset of dx_entry[0] (its hash is limit and count)
    at: int = 0


@notrace
def dx_get_count(frame: DxFrame) -> int:
    return U16.unpack_from(frame.data, frame.entries + 2)[0]  # type: ignore[no-any-return]


@notrace
def dx_get_limit(frame: DxFrame) -> int:
    return U16.unpack_from(frame.data, frame.entries)[0]  # type: ignore[no-any-return]


@notrace
def dx_get_hash(frame: DxFrame, at: int) -> int:
    return U32.unpack_from(frame.data, frame.entries + 8 * at)[0]  # type: ignore[no-any-return]


@notrace
def dx_get_block(frame: DxFrame, at: int) -> int:
    return U32.unpack_from(frame.data, frame.entries + 8 * at + 4)[0] & BLOCK_MASK  # type: ignore[no-any-return]


@notrace
def dx_root_limit(dir: Inode, info_length: int) -> int:
    space = dir.i_sb.s_blocksize - 24 - info_length
    return (space - (8 if ext4_has_metadata_csum(dir.i_sb) else 0)) // 8


@notrace
def dx_node_limit(dir: Inode) -> int:
    return (dir.i_sb.s_blocksize - 8 - (8 if ext4_has_metadata_csum(dir.i_sb) else 0)) // 8


class BadDx(Exception):
    """ERR_BAD_DX_DIR: the index is not to be trusted, the directory is read as a list."""


@notrace
def is_dx(dir: Inode) -> bool:
    return bool(EXT4_SB(dir.i_sb).s_es.s_feature_compat & 0x20 and EXT4_I(dir).i_flags & EXT4_INDEX_FL)


@may_sleep
def dx_probe(name: bytes | None, dir: Inode, hinfo: DxHashInfo) -> list[DxFrame]:
    """The path to the leaf for a name (or for hinfo.hash). Raises BadDx, EIO."""
    sbi = EXT4_SB(dir.i_sb)
    try:
        bh = ext4_read_dirblock(dir, 0, INDEX)
    except KernelError as e:
        if e.errno == EIO:
            raise
        raise BadDx from None
    frames = [DxFrame(bh, bh.b_data, 0)]
    try:
        data = bh.b_data
        hash_version, info_length, indirect_levels, unused_flags = data[ROOT_INFO + 4 : ROOT_INFO + 8]
        if hash_version > DX_HASH_TEA:
            ext4_warning_inode(dir, f"Unrecognised inode hash code {hash_version}")
            raise BadDx
        hinfo.hash_version = hash_version
        if hash_version <= DX_HASH_TEA:
            hinfo.hash_version += sbi.s_hash_unsigned
        hinfo.seed = sbi.s_hash_seed
        if name is not None:
            ext4fs_dirhash(name, hinfo)
        if unused_flags & 1:
            ext4_warning_inode(dir, f"Unimplemented hash flags: {unused_flags:#06x}")
            raise BadDx
        if indirect_levels >= 2:
            ext4_warning_inode(dir, f"Directory (ino: {dir.i_ino}) htree depth {indirect_levels:#06x} exceed"
                               "supported value")
            raise BadDx
        frames[0].entries = ROOT_INFO + info_length
        if dx_get_limit(frames[0]) != dx_root_limit(dir, info_length):
            ext4_warning_inode(dir, f"dx entry: limit {dx_get_limit(frames[0])} != root limit "
                               f"{dx_root_limit(dir, info_length)}")
            raise BadDx
        for level in range(indirect_levels, -1, -1):
            frame = frames[-1]
            count = dx_get_count(frame)
            if not count or count > dx_get_limit(frame):
                ext4_warning_inode(dir, f"dx entry: count {count} beyond limit {dx_get_limit(frame)}")
                raise BadDx
            hashes = memoryview(frame.data)[frame.entries : frame.entries + 8 * count].cast("I")[::2]
            frame.at = bisect_right(hashes, hinfo.hash, 1) - 1
            if not level:
                return frames
            bh = ext4_read_dirblock(dir, dx_get_block(frame, frame.at), INDEX)
            frames.append(DxFrame(bh, bh.b_data, 8))
            if dx_get_limit(frames[-1]) != dx_node_limit(dir):
                ext4_warning_inode(
                    dir, f"dx entry: limit {dx_get_limit(frames[-1])} != node limit {dx_node_limit(dir)}"
                )
                raise BadDx
        return frames
    except KernelError as e:
        dx_release(frames)
        if e.errno == EIO:
            raise
        raise BadDx from None
    except BadDx:
        dx_release(frames)
        ext4_warning_inode(dir, "Corrupt directory, running e2fsck is recommended")
        raise


def dx_release(frames: list[DxFrame]) -> None:
    for frame in frames:
        brelse(frame.bh)
    frames.clear()


@may_sleep
def ext4_htree_next_block(dir: Inode, hash: int, frames: list[DxFrame], start_hash: list[int] | None) -> bool:
    """Moves the path to the next leaf. start_hash None: only if it goes on with the same hash. Raises EIO,
    EFSCORRUPTED.
    """
    level = len(frames) - 1
    steps = 0
    while True:
        frame = frames[level]
        frame.at += 1
        if frame.at < dx_get_count(frame):
            break
        if not level:
            return False
        level -= 1
        steps += 1
    bhash = dx_get_hash(frames[level], frames[level].at)
    if start_hash is not None:
        start_hash[0] = bhash
    if hash & 1 == 0 and start_hash is None and bhash & ~1 != hash:
        return False
    while steps:
        bh = ext4_read_dirblock(dir, dx_get_block(frames[level], frames[level].at), INDEX)
        level += 1
        brelse(frames[level].bh)
        frames[level] = DxFrame(bh, bh.b_data, 8)
        steps -= 1
    return True


@notrace
def leaf_entries(dir: Inode, data: Memory) -> list[tuple[int, int, int, int, int]]:
    """(offset, inode, rec_len, name_len, file type) of the entries in use, checked. Raises EFSCORRUPTED."""
    blocksize = dir.i_sb.s_blocksize
    limit = blocksize - 12 if ext4_has_metadata_csum(dir.i_sb) else blocksize
    found = []
    offset = 0
    while offset < limit:
        ino, rlen, name_len, file_type = unpack_dirent(data, offset)
        if rlen < 12 or rlen & 3 or offset + rlen > blocksize or rlen < name_len + 8:
            ext4_error_inode(dir, f"bad entry in directory: rec_len {rlen} - offset={offset}, inode={ino}")
            raise KernelError(EFSCORRUPTED)
        if ino and name_len:
            found.append((offset, ino, rlen, name_len, file_type))
        offset += rlen
    return found


# ---- growing -----------------------------------------------------------------------------------------------
@may_sleep
def ext4_append(handle: Handle, inode: Inode) -> tuple[BufferHead, int]:
    """A new block at the end of a directory: (buffer with write access, number). Raises ENOSPC, EIO."""
    sbi = EXT4_SB(inode.i_sb)
    if sbi.s_max_dir_size_kb and inode.i_size >> 10 >= sbi.s_max_dir_size_kb:
        raise KernelError(ENOSPC)
    block = inode.i_size >> inode.i_sb.s_blocksize_bits
    bh = ext4_bread(handle, inode, block, EXT4_GET_BLOCKS_CREATE)
    assert bh is not None
    inode.i_size += inode.i_sb.s_blocksize
    EXT4_I(inode).i_disksize = inode.i_size
    try:
        ext4_journal_get_write_access(handle, bh)
    except KernelError:
        brelse(bh)
        raise
    return bh, block


def dx_insert_block(frame: DxFrame, hash: int, block: int) -> None:
    """A new entry behind the one taken."""
    data, at = frame.data, frame.at + 1
    count = dx_get_count(frame)
    start, end = frame.entries + 8 * at, frame.entries + 8 * count
    data[start + 8 : end + 8] = bytes(data[start:end])
    U32.pack_into(data, start, hash)
    U32.pack_into(data, start + 4, block)
    U16.pack_into(data, frame.entries + 2, count + 1)


@notrace
def pack_entries(dir: Inode, bh: BufferHead, records: list[bytes], blocksize: int) -> None:
    """Fills a leaf with entries without gaps; the last one takes the rest of the block."""
    forget_full(dir, bh)
    data = bh.b_data
    csum_size = 12 if ext4_has_metadata_csum(dir.i_sb) else 0
    data[:blocksize] = bytes(blocksize)
    offset = 0
    for number, record in enumerate(records):
        size = len(record) if number < len(records) - 1 else blocksize - csum_size - offset
        data[offset : offset + len(record)] = record
        U16.pack_into(data, offset + 4, size)
        offset += size
    if not records:
        DIRENT.pack_into(data, 0, 0, blocksize - csum_size, 0, 0)
    if csum_size:
        ext4_initialize_dirent_tail(data, blocksize)


@may_sleep
def do_split(handle: Handle, dir: Inode, bh: BufferHead, frame: DxFrame, hinfo: DxHashInfo) -> BufferHead:
    """Moves half of a full leaf to a new block. Answers the buffer where hinfo.hash belongs; `bh` is dropped if
    other.
    """
    blocksize = dir.i_sb.s_blocksize
    try:
        bh2, newblock = ext4_append(handle, dir)
    except KernelError:
        brelse(bh)
        raise
    try:
        ext4_journal_get_write_access(handle, bh)
        ext4_journal_get_write_access(handle, frame.bh)
        data1 = bh.b_data
        map_: list[tuple[int, int, bytes]] = []
        h = DxHashInfo(hinfo.hash_version, hinfo.seed)
        for number, (offset, _ino, _rlen, name_len, _type) in enumerate(leaf_entries(dir, data1)):
            name = bytes(data1[offset + 8 : offset + 8 + name_len])
            ext4fs_dirhash(name, h)
            map_.append((h.hash, number, bytes(data1[offset : offset + EXT4_DIR_REC_LEN(name_len)])))
        map_.sort()
        size = move = 0
        for _hash, _number, record in reversed(map_):
            if size + len(record) // 2 > blocksize // 2:
                break
            size += len(record)
            move += 1
        split = len(map_) - move
        if split <= 0 or not move:
            split = len(map_) // 2
        hash2 = map_[split][0]
        continued = int(hash2 == map_[split - 1][0])
        pack_entries(dir, bh2, [record for _, _, record in map_[split:]], blocksize)
        pack_entries(dir, bh, [record for _, _, record in map_[:split]], blocksize)
        dx_insert_block(frame, hash2 + continued, newblock)
        if hinfo.hash >= hash2:
            bh, bh2 = bh2, bh
        ext4_handle_dirty_dirblock(handle, dir, bh)
        ext4_handle_dirty_dirblock(handle, dir, bh2)
        ext4_handle_dirty_dx_node(handle, dir, frame.bh)
    except KernelError:
        brelse(bh)
        brelse(bh2)
        raise
    brelse(bh2)
    return bh


@may_sleep
def make_room_in_index(handle: Handle, dir: Inode, frames: list[DxFrame]) -> bool:
    """The index node of the leaf is full: splits it, or gives the root a level. True: look the path up again.

    Raises ENOSPC when both levels are full.
    """
    frame = frames[-1]
    if dx_get_count(frame) < dx_get_limit(frame):
        return False
    if len(frames) > 1 and dx_get_count(frames[0]) >= dx_get_limit(frames[0]):
        ext4_warning_inode(dir, f"Directory (ino: {dir.i_ino}) index full, reach max htree level :2")
        ext4_warning_inode(dir, "Large directory feature is not enabled on this filesystem")
        raise KernelError(ENOSPC)
    icount = dx_get_count(frame)
    bh2, newblock = ext4_append(handle, dir)
    try:
        data2 = bh2.b_data
        blocksize = dir.i_sb.s_blocksize
        data2[:] = bytes(blocksize)
        DIRENT.pack_into(data2, 0, 0, blocksize, 0, 0)
        ext4_journal_get_write_access(handle, frame.bh)
        source = frame.data
        if len(frames) > 1:
            ext4_journal_get_write_access(handle, frames[0].bh)
            icount1 = icount // 2
            hash2 = dx_get_hash(frame, icount1)
            start = frame.entries + 8 * icount1
            data2[8 : 8 + 8 * (icount - icount1)] = bytes(source[start : frame.entries + 8 * icount])
            U16.pack_into(data2, 8, dx_node_limit(dir))
            U16.pack_into(data2, 10, icount - icount1)
            U16.pack_into(source, frame.entries + 2, icount1)
            dx_insert_block(frames[0], hash2, newblock)
            ext4_handle_dirty_dx_node(handle, dir, bh2)
            ext4_handle_dirty_dx_node(handle, dir, frame.bh)
            ext4_handle_dirty_dx_node(handle, dir, frames[0].bh)
        else:
            data2[8 : 8 + 8 * icount] = bytes(source[frame.entries : frame.entries + 8 * icount])
            U16.pack_into(data2, 8, dx_node_limit(dir))
            U16.pack_into(source, frame.entries + 2, 1)
            U32.pack_into(source, frame.entries + 4, newblock)
            source[ROOT_INFO + 6] += 1               # indirect_levels
            ext4_handle_dirty_dx_node(handle, dir, frame.bh)
            ext4_handle_dirty_dx_node(handle, dir, bh2)
    finally:
        brelse(bh2)
    return True


@may_sleep
def make_indexed_dir(handle: Handle, dir: Inode, name: bytes, bh: BufferHead) -> tuple[BufferHead, DxFrame]:
    """A directory of one full block becomes an indexed one. Answers the leaf for the name and the root; drops `bh`."""
    blocksize = dir.i_sb.s_blocksize
    sbi = EXT4_SB(dir.i_sb)
    ext4_journal_get_write_access(handle, bh)
    root = bh.b_data
    dot_ino = unpack_dirent(root, 0)[0]
    dotdot_ino, rlen, _, dotdot_type = unpack_dirent(root, 12)
    first = 12 + rlen
    if first >= blocksize:
        ext4_error_inode(dir, "invalid rec_len for '..'")
        brelse(bh)
        raise KernelError(EFSCORRUPTED)
    try:
        bh2, block = ext4_append(handle, dir)
    except KernelError:
        brelse(bh)
        raise
    EXT4_I(dir).i_flags |= EXT4_INDEX_FL
    records = []
    for offset, _ino, _rlen, name_len, _type in leaf_entries(dir, root):
        if offset >= first:
            records.append(bytes(root[offset : offset + EXT4_DIR_REC_LEN(name_len)]))
    pack_entries(dir, bh2, records, blocksize)
    forget_full(dir, bh)
    dot_type = root[7]
    root[:] = bytes(blocksize)
    DIRENT.pack_into(root, 0, dot_ino, 12, 1, dot_type)
    root[8:9] = b"."
    DIRENT.pack_into(root, 12, dotdot_ino, blocksize - 12, 2, dotdot_type)
    root[20:22] = b".."
    version = sbi.s_def_hash_version
    root[ROOT_INFO + 4] = version
    root[ROOT_INFO + 5] = 8
    frame = DxFrame(bh, root, ROOT_INFO + 8)
    U16.pack_into(root, frame.entries, dx_root_limit(dir, 8))
    U16.pack_into(root, frame.entries + 2, 1)
    U32.pack_into(root, frame.entries + 4, block)
    ext4_handle_dirty_dx_node(handle, dir, bh)
    ext4_handle_dirty_dirblock(handle, dir, bh2)
    hinfo = DxHashInfo(version + (sbi.s_hash_unsigned if version <= DX_HASH_TEA else 0), sbi.s_hash_seed)
    ext4fs_dirhash(name, hinfo)
    try:
        leaf = do_split(handle, dir, bh2, frame, hinfo)
    except KernelError:
        ext4_mark_inode_dirty(handle, dir)           # an index with one leaf is a good directory
        brelse(bh)
        raise
    ext4_mark_inode_dirty(handle, dir)
    return leaf, frame
