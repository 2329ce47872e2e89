"""Names: looking up, adding and removing entries; create, mkdir, unlink and their kin.

Linux: fs/ext4/namei.c (5.3); rename is namei_rename.py, indexed directories htree.py, the orphan list orphan.py.
Same: search from i_dir_start_lookup with block readahead, the credits of each operation, what a failure undoes,
    EXT4_LINK_MAX with dir_nlink, one block becomes an index.
Locks: the directory's i_rwsem is the VFS's.  Gaps: encryption, casefolding, project quota.
"""
from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from glasskernel.fs.buffer_head import buffer_uptodate, buffer_verified, set_buffer_verified
from glasskernel.fs.buffer_io import brelse, wait_on_buffer
from glasskernel.fs.dcache import d_instantiate, d_instantiate_new, d_splice_alias, d_tmpfile
from glasskernel.fs.ext4.dirent import (
    DIRENT_BLOCK,
    EXT4_DIR_REC_LEN,
    FILE_TYPE,
    __ext4_check_dir_entry,
    ext4_dirblock_csum_verify,
    ext4_handle_dirty_dirblock,
    ext4_initialize_dirent_tail,
    ext4_read_dirblock,
    forget_full,
    may_have_entry,
    unpack_dirent,
)
from glasskernel.fs.ext4.disk import DIRENT, U16
from glasskernel.fs.ext4.errors import (
    EFSBADCRC,
    EFSCORRUPTED,
    ext4_error_inode,
    ext4_std_error,
    ext4_warning_inode,
)
from glasskernel.fs.ext4.ext4_jbd2 import (
    EXT4_DATA_TRANS_BLOCKS,
    EXT4_INDEX_EXTRA_TRANS_BLOCKS,
    Handle,
    ext4_handle_sync,
    ext4_journal_get_write_access,
    ext4_journal_start,
    ext4_journal_stop,
    ext4_journal_stop_quiet,
)
from glasskernel.fs.ext4.hash import DxHashInfo
from glasskernel.fs.ext4.htree import (
    BadDx,
    do_split,
    dx_get_block,
    dx_probe,
    dx_release,
    ext4_append,
    ext4_htree_next_block,
    is_dx,
    make_indexed_dir,
    make_room_in_index,
)
from glasskernel.fs.ext4.ialloc_new import ext4_new_inode_start_handle
from glasskernel.fs.ext4.inode import ext4_iget
from glasskernel.fs.ext4.inode_aops import ext4_set_aops, ext4_should_retry_alloc
from glasskernel.fs.ext4.inode_loc import ext4_mark_inode_dirty
from glasskernel.fs.ext4.inode_map import ext4_bread_batch, hole_length
from glasskernel.fs.ext4.orphan import ext4_orphan_add, ext4_orphan_del
from glasskernel.fs.ext4.types import (
    EXT4_HT_DIR,
    EXT4_I,
    EXT4_INDEX_FL,
    EXT4_LINK_MAX,
    EXT4_NAME_LEN,
    EXT4_SB,
    RO_COMPAT_DIR_NLINK,
    ext4_forced_shutdown,
    ext4_has_metadata_csum,
    has_ro_compat,
)
from glasskernel.fs.inode import (
    clear_nlink,
    current_time,
    drop_nlink,
    inc_nlink,
    init_special_inode,
    iput,
    unlock_new_inode,
)
from glasskernel.fs.types import S_IFDIR, S_IFMT, S_SYNC, SB_DIRSYNC, SB_SYNCHRONOUS
from glasskernel.lib.errno import (
    EEXIST,
    EINVAL,
    EIO,
    EMLINK,
    ENAMETOOLONG,
    ENOENT,
    ENOSPC,
    ENOTEMPTY,
    ESTALE,
    KernelError,
)
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.machine.costs import DIR_SEARCH

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.types import Dentry, Inode

NAMEI_RA_SIZE = 8
S_DIRSYNC = 64
Found = tuple["BufferHead", int]           # a buffer with a reference, and the offset of an entry in it


@notrace
def IS_DIRSYNC(inode: Inode) -> bool:
    return bool(inode.i_sb.s_flags & (SB_SYNCHRONOUS | SB_DIRSYNC) or inode.i_flags & (S_SYNC | S_DIRSYNC))


# ---- searching ---------------------------------------------------------------------------------------------
@may_sleep
def ext4_search_dir(bh: BufferHead, dir: Inode, name: bytes, lblk_offset: int) -> int:
    """The offset of the entry with this name in a block, or -1. Raises EFSCORRUPTED for a malformed block."""
    data = bh.b_data
    size = dir.i_sb.s_blocksize
    length = len(name)
    offset = 0
    dir.i_sb.kernel.machine.charge(DIR_SEARCH)
    if buffer_verified(bh) and not may_have_entry(bytes(data), name):
        return -1
    while offset <= size - 12:
        ino, rlen, name_len, _ = unpack_dirent(data, offset)
        if name_len == length and ino and data[offset + 8 : offset + 8 + length] == name:
            if __ext4_check_dir_entry(dir, bh, data, offset, size, lblk_offset):
                raise KernelError(EFSCORRUPTED)
            return offset
        if rlen < 12 or rlen & 3 or offset + rlen > size:
            __ext4_check_dir_entry(dir, bh, data, offset, size, lblk_offset)
            raise KernelError(EFSCORRUPTED)
        offset += rlen
    return -1


@may_sleep
def __ext4_find_entry(dir: Inode, name: bytes) -> Found | None:
    """The entry with this name, or None. Raises EIO, EFSCORRUPTED, EFSBADCRC."""
    sb = dir.i_sb
    if len(name) > EXT4_NAME_LEN:
        return None
    nblocks = dir.i_size >> sb.s_blocksize_bits
    if len(name) <= 2 and name in (b".", b".."):
        nblocks = 1                                  # they are in the first block, index or not
    elif is_dx(dir):
        try:
            return ext4_dx_find_entry(dir, name)
        except BadDx:
            pass                                     # read it as a list
    if not nblocks:
        return None
    ei = EXT4_I(dir)
    start = ei.i_dir_start_lookup
    if start >= nblocks:
        start = 0
    block = start
    ahead: list[BufferHead | None] = []
    try:
        while True:
            if not ahead:
                limit = start if block < start else nblocks
                ahead = ext4_bread_batch(dir, block, min(limit - block, NAMEI_RA_SIZE), False)
                if not any(ahead):
                    block += hole_length(dir, block, limit - block) - 1
                    ahead = [None]
            bh = ahead.pop(0)
            if bh is not None:
                from_disk = _wait_read(dir, bh, block)
                offset = ext4_search_dir(from_disk, dir, name, block << sb.s_blocksize_bits)
                if offset >= 0:
                    ei.i_dir_start_lookup = block
                    return from_disk, offset
                brelse(bh)
            block += 1
            if block >= nblocks:
                block = 0
                for each in ahead:
                    brelse(each)
                ahead = []
            if block == start:
                return None
    finally:
        for each in ahead:
            brelse(each)


@notrace
@may_sleep
def _wait_read(dir: Inode, bh: BufferHead, block: int) -> BufferHead:
    """Waits for a block of the batch and verifies its checksum. Drops the reference if it raises."""
    wait_on_buffer(bh)
    if not buffer_uptodate(bh):
        ext4_error_inode(dir, f"reading directory lblock {block}")
        brelse(bh)
        raise KernelError(EIO)
    if not buffer_verified(bh):
        index = EXT4_I(dir).i_flags & EXT4_INDEX_FL
        rec_len = unpack_dirent(bh.b_data, 0)[1]
        if not (index and (block == 0 or rec_len == dir.i_sb.s_blocksize)):
            if not ext4_dirblock_csum_verify(dir, bh.b_data):
                ext4_error_inode(dir, "checksumming directory block", block)
                brelse(bh)
                raise KernelError(EFSBADCRC)
            set_buffer_verified(bh)
    return bh


@may_sleep
def ext4_dx_find_entry(dir: Inode, name: bytes) -> Found | None:
    """The same through the index. Raises BadDx."""
    hinfo = DxHashInfo(0)
    frames = dx_probe(name, dir, hinfo)
    try:
        while True:
            block = dx_get_block(frames[-1], frames[-1].at)
            bh = ext4_read_dirblock(dir, block, DIRENT_BLOCK)
            offset = ext4_search_dir(bh, dir, name, block << dir.i_sb.s_blocksize_bits)
            if offset >= 0:
                return bh, offset
            brelse(bh)
            if not ext4_htree_next_block(dir, hinfo.hash, frames, None):
                return None
    finally:
        dx_release(frames)


@notrace
def entry_ino(found: Found) -> int:
    return unpack_dirent(found[0].b_data, found[1])[0]  # type: ignore[no-any-return]


@may_sleep
def ext4_lookup(dir: Inode, dentry: Dentry) -> Dentry | None:
    """->lookup(). Raises ENAMETOOLONG, EIO, EFSCORRUPTED."""
    if len(dentry.d_name) > EXT4_NAME_LEN:
        raise KernelError(ENAMETOOLONG)
    found = __ext4_find_entry(dir, dentry.d_name)
    inode = None
    if found is not None:
        ino = entry_ino(found)
        brelse(found[0])
        sbi = EXT4_SB(dir.i_sb)
        if (ino < sbi.s_first_ino and ino != 2) or ino > sbi.s_es.s_inodes_count:
            ext4_error_inode(dir, f"bad inode number: {ino}")
            raise KernelError(EFSCORRUPTED)
        if ino == dir.i_ino:
            ext4_error_inode(dir, f"'{dentry.d_name.decode(errors='replace')}' linked to parent dir")
            raise KernelError(EFSCORRUPTED)
        try:
            inode = ext4_iget(dir.i_sb, ino, 0)
        except KernelError as e:
            if e.errno == ESTALE:
                ext4_error_inode(dir, f"deleted inode referenced: {ino}")
                raise KernelError(EFSCORRUPTED) from None
            raise
    return d_splice_alias(inode, dentry)


# ---- adding ------------------------------------------------------------------------------------------------
@may_sleep
def ext4_find_dest_de(dir: Inode, bh: BufferHead, data: memoryview, size: int, name: bytes) -> int:
    """The offset of an entry with room for a new one behind it. Raises EEXIST, ENOSPC, EFSCORRUPTED."""
    length = len(name)
    wanted = EXT4_DIR_REC_LEN(length)
    limit = size - wanted
    block = bytes(data)                      # a copy: unpacking bytes is faster than unpacking a view
    unpack = unpack_dirent
    offset = 0
    if not may_have_entry(block, name):      # only room counts
        ei = EXT4_I(dir)
        full = ei.i_dir_full
        if full is None:
            full = ei.i_dir_full = {}
        offset = full.get(bh.b_blocknr, 0)
        while offset <= limit:
            ino, rlen, name_len, _ = unpack(block, offset)
            if rlen != (name_len + 11 & ~3) or not ino or not name_len or offset + rlen > size:
                break
            offset += rlen
        full[bh.b_blocknr] = offset
    while offset <= limit:
        ino, rlen, name_len, _ = unpack(block, offset)
        if rlen < 12 or rlen & 3 or (offset + rlen > size and offset + rlen != dir.i_sb.s_blocksize):
            __ext4_check_dir_entry(dir, bh, data, offset, size, offset)
            raise KernelError(EFSCORRUPTED)
        if ino:
            if name_len == length and block[offset + 8 : offset + 8 + length] == name:
                raise KernelError(EEXIST)
            if rlen - (name_len + 11 & ~3) >= wanted:
                return offset
        elif rlen >= wanted:
            return offset
        offset += rlen
    raise KernelError(ENOSPC)


def ext4_insert_dentry(inode: Inode, data: memoryview, offset: int, name: bytes) -> None:
    """Writes an entry at (behind the entry of) `offset`."""
    ino, rlen, name_len, _ = unpack_dirent(data, offset)
    if ino:
        used = EXT4_DIR_REC_LEN(name_len)
        U16.pack_into(data, offset + 4, used)
        offset += used
        rlen -= used
    DIRENT.pack_into(data, offset, inode.i_ino, rlen, len(name), ext4_file_type(inode))
    data[offset + 8 : offset + 8 + len(name)] = name


@notrace
def ext4_file_type(inode: Inode) -> int:
    """The entry's type byte; 0 without the feature filetype."""
    if EXT4_SB(inode.i_sb).s_es.s_feature_incompat & 2:
        return FILE_TYPE[inode.i_mode & S_IFMT]
    return 0


@may_sleep
def add_dirent_to_buf(handle: Handle, dir: Inode, inode: Inode, name: bytes, bh: BufferHead, offset: int = -1) -> None:
    """Adds an entry to a block. Raises ENOSPC (try the next block), EEXIST, EFSCORRUPTED, EIO."""
    blocksize = dir.i_sb.s_blocksize
    data = bh.b_data
    if offset < 0:
        csum_size = 12 if ext4_has_metadata_csum(dir.i_sb) else 0
        offset = ext4_find_dest_de(dir, bh, data, blocksize - csum_size, name)
    try:
        ext4_journal_get_write_access(handle, bh)
    except KernelError as e:
        ext4_std_error(dir.i_sb, e.errno)
        raise
    ext4_insert_dentry(inode, data, offset, name)
    dir.i_mtime = dir.i_ctime = current_time(dir)
    ext4_update_dx_flag(dir)
    dir.i_version += 1
    ext4_mark_inode_dirty(handle, dir)
    try:
        ext4_handle_dirty_dirblock(handle, dir, bh)
    except KernelError as e:
        ext4_std_error(dir.i_sb, e.errno)


@notrace
def ext4_update_dx_flag(inode: Inode) -> None:
    if not EXT4_SB(inode.i_sb).s_es.s_feature_compat & 0x20:
        EXT4_I(inode).i_flags &= ~EXT4_INDEX_FL


@may_sleep
def ext4_add_entry(handle: Handle, dentry: Dentry, inode: Inode) -> None:
    """Adds dentry's name to its parent. Raises EEXIST, ENOSPC, EIO, EFSCORRUPTED."""
    dir = dentry.d_parent.d_inode
    assert dir is not None
    sb = dir.i_sb
    name = dentry.d_name
    if not name:
        raise KernelError(EINVAL)
    blocksize = sb.s_blocksize
    if is_dx(dir):
        try:
            ext4_dx_add_entry(handle, name, dir, inode)
            return
        except BadDx:
            EXT4_I(dir).i_flags &= ~EXT4_INDEX_FL
            ext4_mark_inode_dirty(handle, dir)
    blocks = dir.i_size >> sb.s_blocksize_bits
    for block in range(blocks):
        bh = ext4_read_dirblock(dir, block, DIRENT_BLOCK)
        try:
            add_dirent_to_buf(handle, dir, inode, name, bh)
            brelse(bh)
            return
        except KernelError as e:
            if e.errno != ENOSPC:
                brelse(bh)
                raise
        if blocks == 1 and EXT4_SB(sb).s_es.s_feature_compat & 0x20:
            leaf, frame = make_indexed_dir(handle, dir, name, bh)
            try:
                add_dirent_to_buf(handle, dir, inode, name, leaf)
            finally:
                brelse(leaf)
                brelse(frame.bh)
            return
        brelse(bh)
    bh, _ = ext4_append(handle, dir)
    try:
        data = bh.b_data
        csum_size = 12 if ext4_has_metadata_csum(sb) else 0
        DIRENT.pack_into(data, 0, 0, blocksize - csum_size, 0, 0)
        if csum_size:
            ext4_initialize_dirent_tail(data, blocksize)
        set_buffer_verified(bh)
        add_dirent_to_buf(handle, dir, inode, name, bh, 0)
    finally:
        brelse(bh)


@may_sleep
def ext4_dx_add_entry(handle: Handle, name: bytes, dir: Inode, inode: Inode) -> None:
    """The same through the index; splits a full leaf, and full index nodes. Raises BadDx."""
    while True:
        hinfo = DxHashInfo(0)
        frames = dx_probe(name, dir, hinfo)
        bh = None
        try:
            bh = ext4_read_dirblock(dir, dx_get_block(frames[-1], frames[-1].at), DIRENT_BLOCK)
            ext4_journal_get_write_access(handle, bh)
            try:
                add_dirent_to_buf(handle, dir, inode, name, bh)
                return
            except KernelError as e:
                if e.errno != ENOSPC:
                    raise
            if make_room_in_index(handle, dir, frames):
                continue
            full, bh = bh, None
            bh = do_split(handle, dir, full, frames[-1], hinfo)
            add_dirent_to_buf(handle, dir, inode, name, bh)
            return
        finally:
            brelse(bh)
            dx_release(frames)


# ---- removing ----------------------------------------------------------------------------------------------
@may_sleep
def ext4_generic_delete_entry(dir: Inode, bh: BufferHead, offset: int) -> None:
    """Takes the entry at `offset` out of its block: the one before grows over it. Raises EFSCORRUPTED, ENOENT."""
    data = bh.b_data
    size = dir.i_sb.s_blocksize
    csum_size = 12 if ext4_has_metadata_csum(dir.i_sb) else 0
    forget_full(dir, bh)
    previous = -1
    i = 0
    while i < size - csum_size:
        if __ext4_check_dir_entry(dir, bh, data, i, size, i):
            raise KernelError(EFSCORRUPTED)
        rlen = unpack_dirent(data, i)[1]
        if i == offset:
            if previous >= 0:
                U16.pack_into(data, previous + 4, unpack_dirent(data, previous)[1] + rlen)
            else:
                data[i : i + 4] = bytes(4)
            dir.i_version += 1
            return
        previous = i
        i += rlen
    raise KernelError(ENOENT)


@may_sleep
def ext4_delete_entry(handle: Handle, dir: Inode, found: Found) -> None:
    """Removes an entry that was found. Raises EIO, EFSCORRUPTED."""
    bh, offset = found
    try:
        ext4_journal_get_write_access(handle, bh)
        ext4_generic_delete_entry(dir, bh, offset)
        ext4_handle_dirty_dirblock(handle, dir, bh)
    except KernelError as e:
        if e.errno != ENOENT:
            ext4_std_error(dir.i_sb, e.errno)
        raise


# ---- link counts -------------------------------------------------------------------------------------------
def ext4_inc_count(handle: Handle, inode: Inode) -> None:
    """A subdirectory more; with dir_nlink, 1 means "too many to count"."""
    inc_nlink(inode)
    if is_dx(inode) and (inode.i_nlink > EXT4_LINK_MAX or inode.i_nlink == 2):
        inode.i_nlink = 1


def ext4_dec_count(handle: Handle, inode: Inode) -> None:
    if inode.i_mode & S_IFMT != S_IFDIR or inode.i_nlink > 2:
        drop_nlink(inode)


@notrace
def EXT4_DIR_LINK_MAX(dir: Inode) -> bool:
    if has_ro_compat(EXT4_SB(dir.i_sb), RO_COMPAT_DIR_NLINK) and is_dx(dir):
        return False
    return dir.i_nlink >= EXT4_LINK_MAX


# ---- making ------------------------------------------------------------------------------------------------
@notrace
def create_credits(dir: Inode) -> int:
    return EXT4_DATA_TRANS_BLOCKS(dir.i_sb) + EXT4_INDEX_EXTRA_TRANS_BLOCKS + 3


@may_sleep
def ext4_add_nondir(handle: Handle, dentry: Dentry, inode: Inode) -> None:
    """Names a new inode; without a name it goes again."""
    try:
        ext4_add_entry(handle, dentry, inode)
        ext4_mark_inode_dirty(handle, inode)
    except KernelError:
        drop_nlink(inode)
        unlock_new_inode(inode)
        iput(inode)
        raise
    d_instantiate_new(dentry, inode)


@notrace
@may_sleep
def _make(dir: Inode, dentry: Dentry, mode: int, fill: object) -> None:
    """What create, mknod and mkdir have in common: an inode, filled, named, in one handle; a second try after a
    commit.
    """
    retries = 0
    while True:
        try:
            inode, handle = ext4_new_inode_start_handle(dir, mode, dentry.d_name, EXT4_HT_DIR, create_credits(dir))
            try:
                fill(handle, inode)  # type: ignore[operator]
                if IS_DIRSYNC(dir):
                    ext4_handle_sync(handle)
            finally:
                ext4_journal_stop_quiet(handle)
            return
        except KernelError as e:
            retries += 1
            if e.errno != ENOSPC or not ext4_should_retry_alloc(dir.i_sb, retries):
                raise


@may_sleep
def ext4_create(dir: Inode, dentry: Dentry, mode: int) -> None:
    """->create(). Raises ENOSPC, EIO, EROFS, EDQUOT."""

    def fill(handle: Handle, inode: Inode) -> None:
        tables = EXT4_SB(dir.i_sb).s_tables
        inode.i_op, inode.i_fop = tables.file_iops, tables.file_fops
        ext4_set_aops(inode)
        ext4_add_nondir(handle, dentry, inode)

    _make(dir, dentry, mode, notrace(fill))


@may_sleep
def ext4_mknod(dir: Inode, dentry: Dentry, mode: int, rdev: int) -> None:
    """->mknod()."""

    def fill(handle: Handle, inode: Inode) -> None:
        init_special_inode(inode, inode.i_mode, rdev)
        inode.i_op = EXT4_SB(dir.i_sb).s_tables.special_iops
        ext4_add_nondir(handle, dentry, inode)

    _make(dir, dentry, mode, notrace(fill))


@may_sleep
def ext4_tmpfile(dir: Inode, dentry: Dentry, mode: int) -> None:
    """->tmpfile(): an inode without a name, on the orphan list until it gets one."""
    inode, handle = ext4_new_inode_start_handle(dir, mode, None, EXT4_HT_DIR, 4 + 3 + EXT4_DATA_TRANS_BLOCKS(dir.i_sb))
    try:
        tables = EXT4_SB(dir.i_sb).s_tables
        inode.i_op, inode.i_fop = tables.file_iops, tables.file_fops
        ext4_set_aops(inode)
        d_tmpfile(dentry, inode)
        try:
            ext4_orphan_add(handle, inode)
        finally:
            unlock_new_inode(inode)
    finally:
        ext4_journal_stop_quiet(handle)


def ext4_init_dot_dotdot(inode: Inode, data: memoryview, blocksize: int, csum_size: int, parent_ino: int) -> None:
    """The first two entries of a directory."""
    file_type = ext4_file_type(inode)
    DIRENT.pack_into(data, 0, inode.i_ino, 12, 1, file_type)
    data[8:12] = b".\0\0\0"
    DIRENT.pack_into(data, 12, parent_ino, blocksize - csum_size - 12, 2, file_type)
    data[20:24] = b"..\0\0"
    inode.i_nlink = 2


@may_sleep
def ext4_init_new_dir(handle: Handle, dir: Inode, inode: Inode) -> None:
    """The first block of a new directory. Raises ENOSPC, EIO."""
    blocksize = dir.i_sb.s_blocksize
    csum_size = 12 if ext4_has_metadata_csum(dir.i_sb) else 0
    inode.i_size = 0
    bh, _ = ext4_append(handle, inode)
    try:
        data = bh.b_data
        ext4_init_dot_dotdot(inode, data, blocksize, csum_size, dir.i_ino)
        if csum_size:
            ext4_initialize_dirent_tail(data, blocksize)
        ext4_handle_dirty_dirblock(handle, inode, bh)
        set_buffer_verified(bh)
    finally:
        brelse(bh)


@may_sleep
def ext4_mkdir(dir: Inode, dentry: Dentry, mode: int) -> None:
    """->mkdir(). Raises EMLINK, ENOSPC, EIO."""
    if EXT4_DIR_LINK_MAX(dir):
        raise KernelError(EMLINK)

    def fill(handle: Handle, inode: Inode) -> None:
        tables = EXT4_SB(dir.i_sb).s_tables
        inode.i_op, inode.i_fop = tables.dir_iops, tables.dir_fops
        try:
            ext4_init_new_dir(handle, dir, inode)
            ext4_mark_inode_dirty(handle, inode)
            ext4_add_entry(handle, dentry, inode)
        except KernelError:
            clear_nlink(inode)
            unlock_new_inode(inode)
            with contextlib.suppress(KernelError):
                ext4_mark_inode_dirty(handle, inode)
            iput(inode)
            raise
        ext4_inc_count(handle, dir)
        ext4_update_dx_flag(dir)
        ext4_mark_inode_dirty(handle, dir)
        d_instantiate_new(dentry, inode)

    _make(dir, dentry, S_IFDIR | mode, notrace(fill))


# ---- unlinking ---------------------------------------------------------------------------------------------
@may_sleep
def ext4_empty_dir(inode: Inode) -> bool:
    """True if a directory has no entries but . and .. (or is too broken to keep)."""
    sb = inode.i_sb
    if inode.i_size < EXT4_DIR_REC_LEN(1) + EXT4_DIR_REC_LEN(2):
        ext4_error_inode(inode, "invalid size")
        return True
    size = sb.s_blocksize
    for block in range(inode.i_size >> sb.s_blocksize_bits):
        try:
            bh = ext4_read_dirblock(inode, block, 0)
        except KernelError:
            if not block:
                return True
            continue
        try:
            data = bh.b_data
            offset = 0
            if not block:
                if unpack_dirent(data, 0)[0] != inode.i_ino or bytes(data[8:9]) != b"." or bytes(data[20:22]) != b"..":
                    ext4_warning_inode(inode, "directory missing '.' or '..'")
                    return True
                offset = 12 + unpack_dirent(data, 12)[1]
            while offset < size:
                if __ext4_check_dir_entry(inode, bh, data, offset, size, block << sb.s_blocksize_bits):
                    break
                ino, rlen, _, _ = unpack_dirent(data, offset)
                if ino:
                    return False
                offset += rlen
        finally:
            brelse(bh)
    return True


@may_sleep
def ext4_rmdir(dir: Inode, dentry: Dentry) -> None:
    """->rmdir(). Raises ENOTEMPTY, ENOENT, EFSCORRUPTED, EIO."""
    inode = dentry.d_inode
    assert inode is not None
    if ext4_forced_shutdown(EXT4_SB(dir.i_sb)):
        raise KernelError(EIO)
    found = __ext4_find_entry(dir, dentry.d_name)
    if found is None:
        raise KernelError(ENOENT)
    try:
        if entry_ino(found) != inode.i_ino:
            raise KernelError(EFSCORRUPTED)
        if not ext4_empty_dir(inode):
            raise KernelError(ENOTEMPTY)
        handle = ext4_journal_start(dir, EXT4_HT_DIR, EXT4_DATA_TRANS_BLOCKS(dir.i_sb))
        try:
            if IS_DIRSYNC(dir):
                ext4_handle_sync(handle)
            ext4_delete_entry(handle, dir, found)
            if inode.i_nlink != 2 and not (inode.i_nlink == 1 and is_dx(inode)):
                ext4_warning_inode(inode, f"empty directory '{dentry.d_name.decode(errors='replace')}' has too many "
                                   f"links ({inode.i_nlink})")
            inode.i_version += 1
            clear_nlink(inode)
            inode.i_size = 0
            ext4_orphan_add(handle, inode)
            inode.i_ctime = dir.i_ctime = dir.i_mtime = current_time(inode)
            ext4_mark_inode_dirty(handle, inode)
            ext4_dec_count(handle, dir)
            ext4_update_dx_flag(dir)
            ext4_mark_inode_dirty(handle, dir)
        finally:
            ext4_journal_stop(handle)
    finally:
        brelse(found[0])


@may_sleep
def ext4_unlink(dir: Inode, dentry: Dentry) -> None:
    """->unlink(). Raises ENOENT, EFSCORRUPTED, EIO."""
    if ext4_forced_shutdown(EXT4_SB(dir.i_sb)):
        raise KernelError(EIO)
    tp = dir.i_sb.kernel.tp
    probe = tp.ext4_unlink_enter
    if probe is not None:
        probe(dir, dentry)
    inode = dentry.d_inode
    assert inode is not None
    found = __ext4_find_entry(dir, dentry.d_name)
    if found is None:
        raise KernelError(ENOENT)
    try:
        if entry_ino(found) != inode.i_ino:
            raise KernelError(EFSCORRUPTED)
        handle = ext4_journal_start(dir, EXT4_HT_DIR, EXT4_DATA_TRANS_BLOCKS(dir.i_sb))
        try:
            if IS_DIRSYNC(dir):
                ext4_handle_sync(handle)
            ext4_delete_entry(handle, dir, found)
            dir.i_ctime = dir.i_mtime = current_time(dir)
            ext4_update_dx_flag(dir)
            ext4_mark_inode_dirty(handle, dir)
            if not inode.i_nlink:
                ext4_warning_inode(inode, f"Deleting file '{dentry.d_name.decode(errors='replace')}' with no links")
            else:
                drop_nlink(inode)
            if not inode.i_nlink:
                ext4_orphan_add(handle, inode)
            inode.i_ctime = current_time(inode)
            ext4_mark_inode_dirty(handle, inode)
        finally:
            ext4_journal_stop(handle)
    finally:
        brelse(found[0])
    probe = tp.ext4_unlink_exit
    if probe is not None:
        probe(dentry, 0)


# ---- links -------------------------------------------------------------------------------------------------
@may_sleep
def ext4_link(old_dentry: Dentry, dir: Inode, dentry: Dentry) -> None:
    """->link(). Raises EMLINK, ENOSPC, EIO, EXDEV."""
    inode = old_dentry.d_inode
    assert inode is not None
    if inode.i_nlink >= EXT4_LINK_MAX:
        raise KernelError(EMLINK)
    __ext4_link(dir, inode, dentry)


@may_sleep
def __ext4_link(dir: Inode, inode: Inode, dentry: Dentry) -> None:
    handle = ext4_journal_start(dir, EXT4_HT_DIR, EXT4_DATA_TRANS_BLOCKS(dir.i_sb) + EXT4_INDEX_EXTRA_TRANS_BLOCKS + 1)
    try:
        if IS_DIRSYNC(dir):
            ext4_handle_sync(handle)
        inode.i_ctime = current_time(inode)
        ext4_inc_count(handle, inode)
        inode.i_count += 1
        try:
            ext4_add_entry(handle, dentry, inode)
        except KernelError:
            drop_nlink(inode)
            iput(inode)
            raise
        ext4_mark_inode_dirty(handle, inode)
        if inode.i_nlink == 1:
            ext4_orphan_del(handle, inode)           # it was a tmpfile
        d_instantiate(dentry, inode)
    finally:
        ext4_journal_stop(handle)
