"""Entries of a directory block, and its checksum.

Linux: ext4_dir_entry_2 in fs/ext4/ext4.h, ext4_check_dir_entry in dir.c, the checksums of namei.c (5.3).
Same: messages for malformed entries, the 12-byte tail, the tail of htree nodes.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.buffer_head import buffer_verified, set_buffer_verified
from glasskernel.fs.buffer_io import brelse
from glasskernel.fs.ext4.disk import DIRENT, U16, U32, Memory
from glasskernel.fs.ext4.errors import EFSBADCRC, EFSCORRUPTED, ext4_error_inode, ext4_warning_inode
from glasskernel.fs.ext4.ext4_jbd2 import Handle, ext4_handle_dirty_metadata
from glasskernel.fs.ext4.inode_map import ext4_bread
from glasskernel.fs.ext4.types import EXT4_I, EXT4_SB, ext4_has_metadata_csum
from glasskernel.lib.crc32c import crc32c
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.machine.costs import DIR_CHECKSUM

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.types import Inode

EXT4_FT_DIR_CSUM = 0xDE
EITHER, DIRENT_BLOCK, INDEX = 0, 1, 2              # what __ext4_read_dirblock() expects
FILE_TYPE = {0o100000: 1, 0o040000: 2, 0o020000: 3, 0o060000: 4, 0o010000: 5, 0o140000: 6, 0o120000: 7}
D_TYPE = (0, 8, 4, 2, 6, 1, 12, 10)            # EXT4_FT_* -> DT_*
unpack_dirent = DIRENT.unpack_from


@notrace
def EXT4_DIR_REC_LEN(name_len: int) -> int:
    return name_len + 8 + 3 & ~3


def __ext4_check_dir_entry(dir: Inode, bh: BufferHead, data: Memory, offset: int, size: int, lblk_offset: int) -> bool:
    """True if the entry at `offset` of a block is malformed; says so. lblk_offset: of the block in the directory."""
    ino, rlen, name_len, _ = unpack_dirent(data, offset)
    if rlen < 12:
        message = "rec_len is smaller than minimal"
    elif rlen & 3:
        message = "rec_len % 4 != 0"
    elif rlen < name_len + 8:
        message = "rec_len is too small for name_len"
    elif offset + rlen > size:
        message = "directory entry overrun"
    elif offset + rlen > size - 12 and offset + rlen != size:
        message = "directory entry too close to block end"
    elif ino > EXT4_SB(dir.i_sb).s_es.s_inodes_count:
        message = "inode out of bounds"
    else:
        return False
    ext4_error_inode(
        dir,
        f"bad entry in directory: {message} - offset={lblk_offset + offset}, inode={ino}, rec_len={rlen}, "
        f"name_len={name_len}, size={size}",
        bh.b_blocknr,
    )
    return True


@notrace
def entries(data: Memory, size: int) -> list[tuple[int, int, int, int, int]]:
    """(offset, inode, rec_len, name_len, file_type) of each entry, up to the first malformed one."""
    found = []
    offset = 0
    while offset + 8 <= size:
        ino, rlen, name_len, file_type = unpack_dirent(data, offset)
        if rlen < 8 or offset + rlen > size:
            break
        found.append((offset, ino, rlen, name_len, file_type))
        offset += rlen
    return found


# ---- checksums ---------------------------------------------------------------------------------------------
@notrace
def may_have_entry(block: bytes, name: bytes) -> bool:
    """Is a name of this length there, as an entry or by chance? Quicker than to look at each entry."""
    length = len(name)
    at = block.find(name, 8)
    while at >= 0:
        if block[at - 2] == length:
            return True
        at = block.find(name, at + 1)
    return False


@notrace
def forget_full(dir: Inode, bh: BufferHead) -> None:
    """Entries of this block get room: ext4_find_dest_de() has to look at all of it again."""
    full = EXT4_I(dir).i_dir_full
    if full is not None:
        full.pop(bh.b_blocknr, None)


def ext4_initialize_dirent_tail(data: Memory, blocksize: int) -> None:
    """An entry without a name at the end of the block, where the checksum lies."""
    DIRENT.pack_into(data, blocksize - 12, 0, 12, 0, EXT4_FT_DIR_CSUM)
    U32.pack_into(data, blocksize - 4, 0)


@notrace
def get_dirent_tail(data: Memory, blocksize: int) -> bool:
    return unpack_dirent(data, blocksize - 12) == (0, 12, 0, EXT4_FT_DIR_CSUM)


def ext4_dirblock_csum(inode: Inode, data: Memory, size: int) -> int:
    inode.i_sb.kernel.machine.charge(DIR_CHECKSUM)
    return crc32c(EXT4_I(inode).i_csum_seed, data[:size])


@notrace
def ext4_dirblock_csum_verify(inode: Inode, data: Memory) -> bool:
    if not ext4_has_metadata_csum(inode.i_sb):
        return True
    size = inode.i_sb.s_blocksize
    if not get_dirent_tail(data, size):
        ext4_warning_inode(inode, "No space for directory leaf checksum. Please run e2fsck -D.")
        return False
    return U32.unpack_from(data, size - 4)[0] == ext4_dirblock_csum(inode, data, size - 12)  # type: ignore[no-any-return]


def ext4_dirblock_csum_set(inode: Inode, data: Memory) -> None:
    if not ext4_has_metadata_csum(inode.i_sb):
        return
    size = inode.i_sb.s_blocksize
    if not get_dirent_tail(data, size):
        ext4_warning_inode(inode, "No space for directory leaf checksum. Please run e2fsck -D.")
        return
    U32.pack_into(data, size - 4, ext4_dirblock_csum(inode, data, size - 12))


@may_sleep
def ext4_handle_dirty_dirblock(handle: Handle, inode: Inode, bh: BufferHead) -> None:
    ext4_dirblock_csum_set(inode, bh.b_data)
    ext4_handle_dirty_metadata(handle, inode, bh)


@notrace
def get_dx_countlimit(inode: Inode, data: Memory) -> int:
    """Where count and limit of an htree node lie; 0: it is none."""
    size = inode.i_sb.s_blocksize
    ino, rlen, name_len, _ = unpack_dirent(data, 0)
    if rlen == size:
        return 8
    if rlen == 12:
        ino, rlen, _, _ = unpack_dirent(data, 12)
        if rlen == size - 12 and U32.unpack_from(data, 24)[0] == 0 and data[29] == 8:
            return 32
    return 0


def ext4_dx_csum(inode: Inode, data: Memory, count_offset: int, count: int, tail: int) -> int:
    size = count_offset + count * 8
    csum = crc32c(EXT4_I(inode).i_csum_seed, data[:size])
    csum = crc32c(csum, data[tail : tail + 4])
    return crc32c(csum, bytes(4))


@notrace
def ext4_dx_csum_verify(inode: Inode, data: Memory) -> bool:
    if not ext4_has_metadata_csum(inode.i_sb):
        return True
    at = get_dx_countlimit(inode, data)
    if not at:
        ext4_error_inode(inode, "dir seems corrupt?  Run e2fsck -D.")
        return False
    limit, count = U16.unpack_from(data, at)[0], U16.unpack_from(data, at + 2)[0]
    tail = at + limit * 8
    if tail + 8 > inode.i_sb.s_blocksize:
        ext4_warning_inode(inode, "No space for directory leaf checksum. Please run e2fsck -D.")
        return False
    return U32.unpack_from(data, tail + 4)[0] == ext4_dx_csum(inode, data, at, count, tail)  # type: ignore[no-any-return]


@may_sleep
def ext4_handle_dirty_dx_node(handle: Handle, inode: Inode, bh: BufferHead) -> None:
    data = bh.b_data
    if ext4_has_metadata_csum(inode.i_sb):
        at = get_dx_countlimit(inode, data)
        if at:
            limit, count = U16.unpack_from(data, at)[0], U16.unpack_from(data, at + 2)[0]
            tail = at + limit * 8
            if tail + 8 <= inode.i_sb.s_blocksize:
                U32.pack_into(data, tail + 4, ext4_dx_csum(inode, data, at, count, tail))
    ext4_handle_dirty_metadata(handle, inode, bh)


# ---- reading -----------------------------------------------------------------------------------------------
@may_sleep
def __ext4_read_dirblock(inode: Inode, block: int, type: int) -> BufferHead:
    """A directory's block with a reference, its checksum verified. Raises EIO, EFSCORRUPTED (a hole), EFSBADCRC."""
    bh = ext4_bread(None, inode, block, 0)
    if bh is None:
        ext4_error_inode(inode, "Directory hole found for htree index block" if type == INDEX else
                         f"Directory hole found for block {block}", block)
        raise KernelError(EFSCORRUPTED)
    data = bh.b_data
    index = EXT4_I(inode).i_flags & 0x1000
    rec_len = unpack_dirent(data, 0)[1]
    is_dx_block = bool(index) and (block == 0 or (unpack_dirent(data, 0)[0] == 0 and rec_len == inode.i_sb.s_blocksize))
    if type == INDEX and not is_dx_block:
        ext4_error_inode(inode, "directory leaf block found instead of index block", block)
        brelse(bh)
        raise KernelError(EFSCORRUPTED)
    if not ext4_has_metadata_csum(inode.i_sb) or buffer_verified(bh):
        return bh
    if is_dx_block and type == INDEX:
        valid = ext4_dx_csum_verify(inode, data)
        message = "Directory index failed checksum"
    elif not is_dx_block:
        valid = ext4_dirblock_csum_verify(inode, data)
        message = "Directory block failed checksum"
    else:
        return bh
    if not valid:
        ext4_error_inode(inode, message, block)
        brelse(bh)
        raise KernelError(EFSBADCRC)
    set_buffer_verified(bh)
    return bh


ext4_read_dirblock = __ext4_read_dirblock
