"""fallocate(2): reserving, punching, zeroing, collapsing and inserting ranges.

Linux: ext4_fallocate() and its kin in fs/ext4/extents.c, ext4_punch_hole() in inode.c (5.3). Same: what each mode
    demands of alignment and flags, unwritten extents, one handle for each piece.
Gaps: FALLOC_FL_UNSHARE_RANGE (as in Linux).
Lock order: i_rwsem, i_mmap_sem, handle, i_data_sem.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.attr import inode_newsize_ok
from glasskernel.fs.ext4.convert import ext4_chunk_trans_blocks, ext4_writepage_trans_blocks
from glasskernel.fs.ext4.disk import U32
from glasskernel.fs.ext4.errors import EFSCORRUPTED, ext4_error_inode
from glasskernel.fs.ext4.ext4_jbd2 import (
    Handle,
    ext4_force_commit,
    ext4_handle_sync,
    ext4_inode_attach_jinode,
    ext4_journal_start,
    ext4_journal_stop,
    ext4_should_journal_data,
    ext4_update_inode_fsync_trans,
)
from glasskernel.fs.ext4.extents import (
    EXT4_EXT_MARK_UNWRIT1,
    EXT4_EXT_MARK_UNWRIT2,
    eh_entries,
    ext4_ext_correct_indexes,
    ext4_ext_dirty,
    ext4_ext_drop_refs,
    ext4_ext_get_access,
    ext4_ext_next_leaf_block,
    ext4_ext_truncate_extend_restart,
    ext4_ext_try_to_merge,
    ext4_find_extent,
    ext_depth,
    get_extent,
    key_of,
)
from glasskernel.fs.ext4.extents_remove import ext4_ext_remove_space
from glasskernel.fs.ext4.extents_split import ext4_split_extent_at
from glasskernel.fs.ext4.extents_status import ext4_es_remove_extent
from glasskernel.fs.ext4.indirect import ext4_ind_remove_space
from glasskernel.fs.ext4.inode_aops import ext4_should_retry_alloc, ext4_update_inode_size
from glasskernel.fs.ext4.inode_loc import ext4_mark_inode_dirty
from glasskernel.fs.ext4.inode_map import ext4_map_blocks
from glasskernel.fs.ext4.mballoc import ext4_discard_preallocations
from glasskernel.fs.ext4.truncate import ext4_blocks_for_truncate, ext4_zero_partial_blocks
from glasskernel.fs.ext4.types import (
    EXT4_EX_NOCACHE,
    EXT4_EXTENTS_FL,
    EXT4_GET_BLOCKS_CONVERT_UNWRITTEN,
    EXT4_GET_BLOCKS_CREATE_UNWRIT_EXT,
    EXT4_GET_BLOCKS_METADATA_NOFAIL,
    EXT4_GET_BLOCKS_NO_NORMALIZE,
    EXT4_GET_BLOCKS_PRE_IO,
    EXT4_HT_MAP_BLOCKS,
    EXT4_HT_MISC,
    EXT4_HT_TRUNCATE,
    EXT4_I,
    EXT4_SB,
    EXT_MAX_BLOCKS,
    EXT_UNWRITTEN_MAX_LEN,
    Ext4MapBlocks,
)
from glasskernel.fs.inode import current_time, inode_dio_wait, inode_lock, inode_unlock
from glasskernel.fs.jbd2.journal import jbd2_journal_flush
from glasskernel.fs.jbd2.transaction import jbd2_journal_lock_updates, jbd2_journal_unlock_updates
from glasskernel.fs.types import S_IFMT, S_IFREG, S_SYNC
from glasskernel.kernel.locking.rwsem import down_write, up_write
from glasskernel.lib.errno import EFBIG, EINVAL, ENOSPC, EOPNOTSUPP, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.filemap import filemap_write_and_wait_range
from glasskernel.mm.truncate import truncate_pagecache, truncate_pagecache_range

if TYPE_CHECKING:
    from glasskernel.fs.ext4.extents import ExtPath
    from glasskernel.fs.types import File, Inode

(FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_ZERO_RANGE,
 FALLOC_FL_INSERT_RANGE) = 1, 2, 8, 0x10, 0x20
O_SYNC = 0o4010000


@may_sleep
def ext4_update_disksize_before_punch(inode: Inode, offset: int, length: int) -> None:
    """i_disksize reaches i_size before pages behind it are dropped: nothing else would move it."""
    ei = EXT4_I(inode)
    size = inode.i_size
    if offset > size or offset + length < size or ei.i_disksize >= size:
        return
    handle = ext4_journal_start(inode, EXT4_HT_MISC, 1)
    try:
        down_write(ei.i_data_sem)
        ei.i_disksize = size
        up_write(ei.i_data_sem)
        ext4_mark_inode_dirty(handle, inode)
    finally:
        ext4_journal_stop(handle)


@notrace
@may_sleep
def store_journalled_data(inode: Inode) -> None:
    """data=journal: what the journal has goes to its place before pages are dropped. Raises EIO.

    Differs: 5.3 only commits here, and may lose sight of blocks that wait for their checkpoint.
    """
    if ext4_should_journal_data(inode):
        ext4_force_commit(inode.i_sb)
        journal = EXT4_SB(inode.i_sb).s_journal
        if journal is not None:
            jbd2_journal_lock_updates(journal)
            try:
                jbd2_journal_flush(journal)
            finally:
                jbd2_journal_unlock_updates(journal)


@may_sleep
def ext4_alloc_file_blocks(file: File, offset: int, length: int, new_size: int, flags: int) -> None:
    """Allocates unwritten blocks offset..offset+length (in blocks). Raises ENOSPC, EIO."""
    inode = file.f_inode
    map = Ext4MapBlocks(offset, length)
    if length <= EXT_UNWRITTEN_MAX_LEN:
        flags |= EXT4_GET_BLOCKS_NO_NORMALIZE        # one extent: as long as it is
    credits = ext4_chunk_trans_blocks(inode, length)
    retries = 0
    while length > 0:
        handle = ext4_journal_start(inode, EXT4_HT_MAP_BLOCKS, credits)
        errno = 0
        ret = 0
        try:
            map.m_len = length
            ret = ext4_map_blocks(handle, inode, map, flags)
            map.m_lblk += ret
            length -= ret
            epos = map.m_lblk << inode.i_blkbits
            inode.i_ctime = current_time(inode)
            if new_size:
                if ext4_update_inode_size(inode, min(epos, new_size)):
                    inode.i_mtime = inode.i_ctime
            ext4_mark_inode_dirty(handle, inode)
            ext4_update_inode_fsync_trans(handle, inode, 1)
        except KernelError as e:
            errno = e.errno
            ext4_mark_inode_dirty(handle, inode)
        finally:
            ext4_journal_stop(handle)
        if errno == ENOSPC:
            retries += 1
            if ext4_should_retry_alloc(inode.i_sb, retries):
                continue
        if errno:
            raise KernelError(errno)
        assert ret > 0


@may_sleep
def ext4_zero_range(file: File, offset: int, length: int, mode: int) -> None:
    """FALLOC_FL_ZERO_RANGE: whole blocks become unwritten, the ends are zeroed."""
    inode = file.f_inode
    ei = EXT4_I(inode)
    probe = inode.i_sb.kernel.tp.ext4_zero_range
    if probe is not None:
        probe(inode, offset, length, mode)
    blkbits = inode.i_blkbits
    store_journalled_data(inode)
    if inode.i_mode & S_IFMT != S_IFREG:
        raise KernelError(EINVAL)
    size = 1 << blkbits
    start, end = offset + size - 1 & -size, offset + length & -size
    if start < offset or end > offset + length:
        raise KernelError(EINVAL)
    partial_begin, partial_end = offset & size - 1, offset + length & size - 1
    lblk = start >> blkbits
    max_blocks = max((end >> blkbits) - lblk, 0)
    inode_lock(inode)
    try:
        if not ei.i_flags & EXT4_EXTENTS_FL:
            raise KernelError(EOPNOTSUPP)
        new_size = 0
        if not mode & FALLOC_FL_KEEP_SIZE and (offset + length > inode.i_size or offset + length > ei.i_disksize):
            new_size = offset + length
            inode_newsize_ok(inode, new_size)
        flags = EXT4_GET_BLOCKS_CREATE_UNWRIT_EXT
        inode_dio_wait(inode)
        if partial_begin or partial_end:
            first = offset >> blkbits
            ext4_alloc_file_blocks(file, first, (offset + length + size - 1 >> blkbits) - first, new_size, flags)
        if max_blocks > 0:
            flags |= EXT4_GET_BLOCKS_CONVERT_UNWRITTEN
            down_write(ei.i_mmap_sem)
            try:
                ext4_update_disksize_before_punch(inode, offset, length)
                truncate_pagecache_range(inode, start, end - 1)
                inode.i_mtime = inode.i_ctime = current_time(inode)
                ext4_alloc_file_blocks(file, lblk, max_blocks, new_size, flags)
            finally:
                up_write(ei.i_mmap_sem)
        if not partial_begin and not partial_end:
            return
        handle = ext4_journal_start(inode, EXT4_HT_MISC, 2 * ext4_writepage_trans_blocks(inode) + 2)
        try:
            inode.i_mtime = inode.i_ctime = current_time(inode)
            if new_size:
                ext4_update_inode_size(inode, new_size)
            ext4_mark_inode_dirty(handle, inode)
            ext4_zero_partial_blocks(handle, inode, offset, length)
            ext4_update_inode_fsync_trans(handle, inode, 1)
            if file.f_flags & O_SYNC == O_SYNC:
                ext4_handle_sync(handle)
        finally:
            ext4_journal_stop(handle)
    finally:
        inode_unlock(inode)


@may_sleep
def ext4_punch_hole(inode: Inode, offset: int, length: int) -> None:
    """FALLOC_FL_PUNCH_HOLE: whole blocks go, the ends are zeroed."""
    if inode.i_mode & S_IFMT != S_IFREG:
        raise KernelError(EOPNOTSUPP)
    sb = inode.i_sb
    ei = EXT4_I(inode)
    probe = sb.kernel.tp.ext4_punch_hole
    if probe is not None:
        probe(inode, offset, length, 0)
    mapping = inode.i_mapping
    store_journalled_data(inode)
    if mapping.dirty:
        filemap_write_and_wait_range(mapping, offset, offset + length - 1)
    inode_lock(inode)
    try:
        if offset >= inode.i_size:
            return
        if offset + length > inode.i_size:
            length = (inode.i_size + 4095 & ~4095) - offset
        if (offset | length) & sb.s_blocksize - 1:
            ext4_inode_attach_jinode(inode)
        inode_dio_wait(inode)
        down_write(ei.i_mmap_sem)
        try:
            size = sb.s_blocksize
            first_off, last_off = offset + size - 1 & -size, (offset + length & -size) - 1
            if last_off > first_off:
                ext4_update_disksize_before_punch(inode, offset, length)
                truncate_pagecache_range(inode, first_off, last_off)
            extents = ei.i_flags & EXT4_EXTENTS_FL
            credits = ext4_writepage_trans_blocks(inode) if extents else ext4_blocks_for_truncate(inode)
            handle = ext4_journal_start(inode, EXT4_HT_TRUNCATE, credits)
            try:
                ext4_zero_partial_blocks(handle, inode, offset, length)
                first_block = offset + size - 1 >> sb.s_blocksize_bits
                stop_block = offset + length >> sb.s_blocksize_bits
                if stop_block > first_block:
                    down_write(ei.i_data_sem)
                    try:
                        ext4_discard_preallocations(inode)
                        ext4_es_remove_extent(inode, first_block, stop_block - first_block)
                        if extents:
                            ext4_ext_remove_space(inode, first_block, stop_block - 1)
                        else:
                            ext4_ind_remove_space(handle, inode, first_block, stop_block)
                    finally:
                        up_write(ei.i_data_sem)
                if inode.i_flags & S_SYNC:
                    ext4_handle_sync(handle)
                inode.i_mtime = inode.i_ctime = current_time(inode)
                ext4_mark_inode_dirty(handle, inode)
                ext4_update_inode_fsync_trans(handle, inode, 1)
            finally:
                ext4_journal_stop(handle)
        finally:
            up_write(ei.i_mmap_sem)
    finally:
        inode_unlock(inode)


# ---- shifting ----------------------------------------------------------------------------------------------
@may_sleep
def ext4_ext_shift_path_extents(
    handle: Handle, inode: Inode, path: list[ExtPath], shift: int, first: int, right: bool
) -> None:
    """Moves the extents of a leaf from position `first` on by `shift` blocks."""
    leaf = path[-1]
    ext4_ext_get_access(handle, inode, leaf)
    node = leaf.p_hdr
    for pos in range(first, eh_entries(node)):
        block = key_of(node, pos)
        U32.pack_into(node, 12 + 12 * pos, block + shift if right else block - shift)
    ext4_ext_dirty(handle, inode, leaf)
    if not first:
        leaf.p_pos = 0
        ext4_ext_correct_indexes(handle, inode, path)


@may_sleep
def ext4_ext_shift_extents(inode: Inode, handle: Handle, start: int, shift: int, right: bool) -> None:
    """Moves every extent from block `start` on. Locks: i_data_sem for writing. Raises EINVAL, EFSCORRUPTED, EIO."""
    leaves: list[int] = []
    block = start
    while block < EXT_MAX_BLOCKS:                    # the first block of each leaf, from left to right
        path = ext4_find_extent(inode, block, EXT4_EX_NOCACHE)
        try:
            if path[-1].p_pos < 0:
                break
            leaves.append(block)
            block = ext4_ext_next_leaf_block(path)
        finally:
            ext4_ext_drop_refs(path)
    if right:
        leaves.reverse()
    for block in leaves:
        ext4_ext_truncate_extend_restart(handle, inode, 8 + 2 * ext_depth(inode))
        path = ext4_find_extent(inode, block, EXT4_EX_NOCACHE)
        try:
            leaf = path[-1]
            node = leaf.p_hdr
            pos = leaf.p_pos
            while pos < eh_entries(node) and get_extent(node, pos)[0] < start:
                pos += 1
            if pos >= eh_entries(node):
                continue
            if not right and pos == 0 and block == start and key_of(node, 0) < shift:
                ext4_error_inode(inode, "shifting extents below zero")
                raise KernelError(EFSCORRUPTED)
            ext4_ext_shift_path_extents(handle, inode, path, shift, pos, right)
            if not right and pos:
                leaf.p_pos = pos
                ext4_ext_try_to_merge(handle, inode, path, pos)
                ext4_ext_dirty(handle, inode, path[-1])
        finally:
            ext4_ext_drop_refs(path)


@notrace
@may_sleep
def _shift(file: File, offset: int, length: int, insert: bool) -> None:
    inode = file.f_inode
    ei = EXT4_I(inode)
    sb = inode.i_sb
    size = sb.s_blocksize
    if not ei.i_flags & EXT4_EXTENTS_FL:
        raise KernelError(EOPNOTSUPP)
    if inode.i_mode & S_IFMT != S_IFREG or (offset | length) & size - 1:
        raise KernelError(EINVAL)
    store_journalled_data(inode)
    inode_lock(inode)
    try:
        if insert:
            if inode.i_size + length > sb.s_maxbytes:
                raise KernelError(EFBIG)
            if offset >= inode.i_size:
                raise KernelError(EINVAL)
        elif offset + length >= inode.i_size:
            raise KernelError(EINVAL)
        inode_dio_wait(inode)
        down_write(ei.i_mmap_sem)
        try:
            ioffset = offset & ~4095
            filemap_write_and_wait_range(inode.i_mapping, ioffset, (1 << 63) - 1)
            store_journalled_data(inode)           # what was changed through a mapping is in the journal now
            truncate_pagecache(inode, ioffset)
            if insert:
                _insert(inode, offset, length)
            else:
                _collapse(inode, offset, length)
        finally:
            up_write(ei.i_mmap_sem)
    finally:
        inode_unlock(inode)


@may_sleep
def ext4_collapse_range(file: File, offset: int, length: int) -> None:
    """FALLOC_FL_COLLAPSE_RANGE: what lies behind moves down."""
    probe = file.f_inode.i_sb.kernel.tp.ext4_collapse_range
    if probe is not None:
        probe(file.f_inode, offset, length)
    _shift(file, offset, length, False)


@may_sleep
def ext4_insert_range(file: File, offset: int, length: int) -> None:
    """FALLOC_FL_INSERT_RANGE: what lies behind moves up, a hole is left."""
    probe = file.f_inode.i_sb.kernel.tp.ext4_insert_range
    if probe is not None:
        probe(file.f_inode, offset, length)
    _shift(file, offset, length, True)


@notrace
@may_sleep
def _collapse(inode: Inode, offset: int, length: int) -> None:
    ei = EXT4_I(inode)
    bits = inode.i_blkbits
    start, stop = offset >> bits, offset + length >> bits
    handle = ext4_journal_start(inode, EXT4_HT_TRUNCATE, ext4_writepage_trans_blocks(inode))
    try:
        down_write(ei.i_data_sem)
        try:
            ext4_discard_preallocations(inode)
            ext4_es_remove_extent(inode, start, EXT_MAX_BLOCKS - start)
            ext4_ext_remove_space(inode, start, stop - 1)
            ext4_discard_preallocations(inode)
            ext4_ext_shift_extents(inode, handle, stop, stop - start, False)
            inode.i_size -= length
            ei.i_disksize = inode.i_size
        finally:
            up_write(ei.i_data_sem)
        inode.i_mtime = inode.i_ctime = current_time(inode)
        ext4_mark_inode_dirty(handle, inode)
        ext4_update_inode_fsync_trans(handle, inode, 1)
    finally:
        ext4_journal_stop(handle)


@notrace
@may_sleep
def _insert(inode: Inode, offset: int, length: int) -> None:
    ei = EXT4_I(inode)
    bits = inode.i_blkbits
    start, count = offset >> bits, length >> bits
    handle = ext4_journal_start(inode, EXT4_HT_TRUNCATE, ext4_writepage_trans_blocks(inode))
    try:
        inode.i_size += length
        ei.i_disksize += length
        inode.i_mtime = inode.i_ctime = current_time(inode)
        ext4_mark_inode_dirty(handle, inode)
        down_write(ei.i_data_sem)
        try:
            ext4_discard_preallocations(inode)
            path = ext4_find_extent(inode, start, EXT4_EX_NOCACHE)
            try:
                leaf = path[-1]
                if leaf.p_pos >= 0:
                    block, extent_len, _, unwritten = get_extent(leaf.p_hdr, leaf.p_pos)
                    if block < start < block + extent_len:
                        flag = EXT4_EXT_MARK_UNWRIT1 | EXT4_EXT_MARK_UNWRIT2 if unwritten else 0
                        path = ext4_split_extent_at(handle, inode, path, start, flag,
                                                    EXT4_EX_NOCACHE | EXT4_GET_BLOCKS_PRE_IO
                                                    | EXT4_GET_BLOCKS_METADATA_NOFAIL)
            finally:
                ext4_ext_drop_refs(path)
            ext4_es_remove_extent(inode, start, EXT_MAX_BLOCKS - start)
            ext4_ext_shift_extents(inode, handle, start, count, True)
        finally:
            up_write(ei.i_data_sem)
        ext4_update_inode_fsync_trans(handle, inode, 1)
    finally:
        ext4_journal_stop(handle)


@may_sleep
def ext4_fallocate(file: File, mode: int, offset: int, length: int) -> None:
    """->fallocate(). Raises EOPNOTSUPP, EINVAL, ENOSPC, EFBIG, EIO."""
    inode = file.f_inode
    ei = EXT4_I(inode)
    if mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_ZERO_RANGE
                | FALLOC_FL_INSERT_RANGE):
        raise KernelError(EOPNOTSUPP)
    if mode & FALLOC_FL_PUNCH_HOLE:
        ext4_punch_hole(inode, offset, length)
        return
    if mode & FALLOC_FL_COLLAPSE_RANGE:
        ext4_collapse_range(file, offset, length)
        return
    if mode & FALLOC_FL_INSERT_RANGE:
        ext4_insert_range(file, offset, length)
        return
    if mode & FALLOC_FL_ZERO_RANGE:
        ext4_zero_range(file, offset, length, mode)
        return
    tp = inode.i_sb.kernel.tp
    probe = tp.ext4_fallocate_enter
    if probe is not None:
        probe(inode, offset, length, mode)
    blkbits = inode.i_blkbits
    lblk = offset >> blkbits
    max_blocks = (offset + length + (1 << blkbits) - 1 >> blkbits) - lblk
    inode_lock(inode)
    try:
        if not ei.i_flags & EXT4_EXTENTS_FL:
            raise KernelError(EOPNOTSUPP)
        new_size = 0
        if not mode & FALLOC_FL_KEEP_SIZE and (offset + length > inode.i_size or offset + length > ei.i_disksize):
            new_size = offset + length
            inode_newsize_ok(inode, new_size)
        inode_dio_wait(inode)
        ext4_alloc_file_blocks(file, lblk, max_blocks, new_size, EXT4_GET_BLOCKS_CREATE_UNWRIT_EXT)
        if file.f_flags & O_SYNC == O_SYNC:
            ext4_force_commit(inode.i_sb)
    finally:
        inode_unlock(inode)
        probe = tp.ext4_fallocate_exit
        if probe is not None:
            probe(inode, offset, max_blocks, 0)
