"""Inodes: reading one from disk, letting it go, changing attributes.

Linux: fs/ext4/inode.c (5.3): ext4_iget, ext4_evict_inode, ext4_setattr, ext4_getattr; ext4_alloc_inode of super.c.
Same: every check of a raw inode with its message, the credits and order of eviction, i_disksize before i_size.
Lock order: i_rwsem, i_mmap_sem, handle, i_data_sem.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.fs.attr import setattr_copy, setattr_prepare
from glasskernel.fs.buffer_io import brelse
from glasskernel.fs.ext4.acl import posix_acl_chmod
from glasskernel.fs.ext4.block_validity import ext4_check_blockref, ext4_data_block_valid
from glasskernel.fs.ext4.errors import (
    EFSBADCRC,
    EFSCORRUPTED,
    __ext4_error_inode,
    ext4_error,
    ext4_std_error,
    ext4_warning_inode,
)
from glasskernel.fs.ext4.ext4_jbd2 import (
    ext4_handle_sync,
    ext4_handle_valid,
    ext4_journal_extend,
    ext4_journal_start,
    ext4_journal_stop,
    ext4_journal_stop_quiet,
    ext4_should_journal_data,
    ext4_should_order_data,
)
from glasskernel.fs.ext4.extents import ext4_ext_check_inode
from glasskernel.fs.ext4.ialloc import ext4_clear_inode, ext4_free_inode
from glasskernel.fs.ext4.indirect import slot
from glasskernel.fs.ext4.inode_aops import ext4_set_aops, ext4_wait_for_tail_page_commit
from glasskernel.fs.ext4.inode_loc import (
    __ext4_get_inode_loc,
    decode_dev,
    decode_time,
    ext4_inode_blocks,
    ext4_inode_csum_verify,
    ext4_mark_inode_dirty,
    ext4_raw_inode,
)
from glasskernel.fs.ext4.orphan import ext4_orphan_add, ext4_orphan_del
from glasskernel.fs.ext4.truncate import ext4_blocks_for_truncate, ext4_inode_is_fast_symlink, ext4_truncate
from glasskernel.fs.ext4.types import (
    EXT4_APPEND_FL,
    EXT4_DIRSYNC_FL,
    EXT4_EXTENTS_FL,
    EXT4_HT_INODE,
    EXT4_HT_QUOTA,
    EXT4_HT_TRUNCATE,
    EXT4_I,
    EXT4_IMMUTABLE_FL,
    EXT4_INLINE_DATA_FL,
    EXT4_NOATIME_FL,
    EXT4_ORPHAN_FS,
    EXT4_ROOT_INO,
    EXT4_SB,
    EXT4_STATE_XATTR,
    EXT4_SYNC_FL,
    INCOMPAT_64BIT,
    Ext4InodeInfo,
    ext4_forced_shutdown,
    ext4_has_metadata_csum,
    has_incompat,
)
from glasskernel.fs.ext4.xattr import ext4_xattr_delete_inode
from glasskernel.fs.fs_writeback import mark_inode_dirty
from glasskernel.fs.inode import (
    current_time,
    generic_drop_inode,
    iget_failed,
    iget_locked,
    init_special_inode,
    inode_dio_wait,
    inode_from,
    unlock_new_inode,
)
from glasskernel.fs.jbd2.transaction_page import jbd2_journal_begin_ordered_truncate
from glasskernel.fs.stat import generic_fillattr
from glasskernel.fs.types import (
    ATTR_GID,
    ATTR_MODE,
    ATTR_SIZE,
    ATTR_UID,
    I_NEW,
    S_APPEND,
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    S_IMMUTABLE,
    S_NOATIME,
    S_SYNC,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.rwsem import down_read, down_write, up_read, up_write
from glasskernel.kernel.time.timekeeping import ktime_get_real_seconds
from glasskernel.lib.crc32c import crc32c
from glasskernel.lib.errno import EFBIG, EINVAL, EIO, EPERM, ESTALE, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.filemap import filemap_fault
from glasskernel.mm.slub import kmem_cache_free
from glasskernel.mm.truncate import pagecache_isize_extended, truncate_inode_pages_final, truncate_pagecache

if TYPE_CHECKING:
    from glasskernel.fs.ext4.disk import Ext4Inode
    from glasskernel.fs.types import Dentry, Iattr, Inode, Kstat, SuperBlock
    from glasskernel.mm.types import VmAreaStruct, VmFault

EXT4_IGET_NORMAL, EXT4_IGET_SPECIAL, EXT4_IGET_HANDLE = 0, 1, 2
S_DIRSYNC = 64
EXT4_XATTR_MAGIC = 0xEA020000


def ext4_alloc_inode(sb: SuperBlock) -> Inode:
    """->alloc_inode(): the inode and ext4's half of it."""
    inode = inode_from(sb, sb.kernel.slab.ext4_inode_cachep)
    inode.i_private = Ext4InodeInfo(inode)
    inode.i_blkbits = sb.s_blocksize_bits
    return inode


def ext4_free_in_core_inode(inode: Inode) -> None:
    """->free_inode()"""
    kmem_cache_free(inode.i_sb.kernel.slab.ext4_inode_cachep, inode.slab_address)


def ext4_set_inode_flags(inode: Inode) -> None:
    """S_* flags of EXT4_*_FL ones."""
    flags = EXT4_I(inode).i_flags
    new = 0
    if flags & EXT4_SYNC_FL:
        new |= S_SYNC
    if flags & EXT4_APPEND_FL:
        new |= S_APPEND
    if flags & EXT4_IMMUTABLE_FL:
        new |= S_IMMUTABLE
    if flags & EXT4_NOATIME_FL:
        new |= S_NOATIME
    if flags & EXT4_DIRSYNC_FL:
        new |= S_DIRSYNC
    inode.i_flags = inode.i_flags & ~(S_SYNC | S_APPEND | S_IMMUTABLE | S_NOATIME | S_DIRSYNC) | new


# ---- reading -----------------------------------------------------------------------------------------------
@notrace
@may_sleep
def ext4_iget(sb: SuperBlock, ino: int, flags: int) -> Inode:       # a macro there
    """Inode `ino` with a reference. Raises ESTALE (deleted), EFSCORRUPTED, EFSBADCRC, EIO."""
    return __ext4_iget(sb, ino, flags)


@may_sleep
def __ext4_iget(sb: SuperBlock, ino: int, flags: int) -> Inode:
    sbi = EXT4_SB(sb)
    if ((not flags & EXT4_IGET_SPECIAL and ino < sbi.s_first_ino and ino != EXT4_ROOT_INO)
            or ino < EXT4_ROOT_INO or ino > sbi.s_es.s_inodes_count):
        if flags & EXT4_IGET_HANDLE:
            raise KernelError(ESTALE)
        ext4_error(sb, f"inode #{ino}: comm {current().comm.decode(errors='replace')}: iget: illegal inode #")
        raise KernelError(EFSCORRUPTED)
    inode = iget_locked(sb, ino)
    if not inode.i_state & I_NEW:
        return inode
    ei = EXT4_I(inode)
    bh = None
    try:
        iloc = __ext4_get_inode_loc(inode, False)
        bh = iloc.bh
        raw = ext4_raw_inode(iloc)
        if ino == EXT4_ROOT_INO and not raw.i_links_count:
            _iget_error(inode, "iget: root inode unallocated")
        if flags & EXT4_IGET_HANDLE and (not raw.i_links_count or not raw.i_mode):
            raise KernelError(ESTALE)
        if sbi.s_inode_size > 128:
            ei.i_extra_isize = raw.i_extra_isize
            if 128 + ei.i_extra_isize > sbi.s_inode_size or ei.i_extra_isize & 3:
                _iget_error(inode, f"iget: bad extra_isize {ei.i_extra_isize} (inode size {sbi.s_inode_size})")
        inode.i_generation = raw.i_generation
        if ext4_has_metadata_csum(sb):
            csum = crc32c(sbi.s_csum_seed, ino.to_bytes(4, "little"))
            ei.i_csum_seed = crc32c(csum, raw.i_generation.to_bytes(4, "little"))
        if not ext4_inode_csum_verify(inode, raw, ei):
            _iget_error(inode, "iget: checksum invalid", EFSBADCRC)
        _fill(inode, ei, raw, iloc.block_group)
        _check(inode, ei)
        _set_operations(inode, ei)
    except KernelError:
        brelse(bh)
        ei.i_not_allocated = True
        iget_failed(inode)
        raise
    brelse(bh)
    unlock_new_inode(inode)
    return inode


@notrace
@may_sleep
def _iget_error(inode: Inode, text: str, errno: int = EFSCORRUPTED) -> None:
    __ext4_error_inode(inode, "ext4_iget", 0, 0, text)
    raise KernelError(errno)


@notrace
@may_sleep
def _fill(inode: Inode, ei: Ext4InodeInfo, raw: Ext4Inode, group: int) -> None:
    """The raw inode's fields."""
    sb = inode.i_sb
    sbi = EXT4_SB(sb)
    inode.i_mode = raw.i_mode
    inode.i_uid = raw.i_uid_low | raw.i_uid_high << 16
    inode.i_gid = raw.i_gid_low | raw.i_gid_high << 16
    inode.i_nlink = raw.i_links_count
    ei.i_dtime = raw.i_dtime
    if not inode.i_nlink and (not inode.i_mode or not sbi.s_mount_state & EXT4_ORPHAN_FS) and inode.i_ino != 5:
        raise KernelError(ESTALE)                    # deleted: the name that led here is stale
    ei.i_flags = raw.i_flags
    ext4_set_inode_flags(inode)
    inode.i_blocks = ext4_inode_blocks(raw, ei)
    ei.i_file_acl = raw.i_file_acl_lo
    if has_incompat(sbi, INCOMPAT_64BIT):
        ei.i_file_acl |= raw.i_file_acl_high << 32
    size = raw.i_size_lo
    if inode.i_mode & S_IFMT in (S_IFREG, S_IFDIR) and not (inode.i_mode & S_IFMT == S_IFDIR and not
                                                            sbi.s_es.s_feature_incompat & 0x4000):
        size |= raw.i_size_high << 32
    if size >> 63:
        _iget_error(inode, f"iget: bad i_size value: {size - (1 << 64)}")
    inode.i_size = ei.i_disksize = size
    ei.i_block_group = group
    ei.i_last_alloc_group = -1
    ei.i_data[:] = raw.i_block
    journal = sbi.s_journal
    if journal is not None:
        transaction = journal.j_running_transaction or journal.j_committing_transaction
        tid = transaction.t_tid if transaction is not None else journal.j_commit_sequence
        ei.i_sync_tid = ei.i_datasync_tid = tid
    atime_extra = mtime_extra = ctime_extra = 0
    if sbi.s_inode_size > 128:
        if not ei.i_extra_isize:
            ei.i_extra_isize = 32                    # the space is unused: use it
        else:
            magic = int.from_bytes(raw.m[raw.o + 128 + ei.i_extra_isize : raw.o + 132 + ei.i_extra_isize], "little")
            if 128 + ei.i_extra_isize + 4 <= sbi.s_inode_size and magic == EXT4_XATTR_MAGIC:
                ei.i_state_flags |= EXT4_STATE_XATTR
        if ei.i_extra_isize >= 16:
            ctime_extra, mtime_extra, atime_extra = raw.i_ctime_extra, raw.i_mtime_extra, raw.i_atime_extra
        if ei.i_extra_isize >= 24:
            ei.i_crtime = decode_time(raw.i_crtime, raw.i_crtime_extra)
    inode.i_ctime = decode_time(raw.i_ctime, ctime_extra)
    inode.i_mtime = decode_time(raw.i_mtime, mtime_extra)
    inode.i_atime = decode_time(raw.i_atime, atime_extra)
    inode.i_version = raw.i_version
    if ei.i_extra_isize >= 28:
        inode.i_version |= raw.i_version_hi << 32
    if ei.i_extra_isize >= 32:
        ei.i_projid = raw.i_projid


@notrace
@may_sleep
def _check(inode: Inode, ei: Ext4InodeInfo) -> None:
    """Block numbers that lead nowhere must not be followed."""
    sbi = EXT4_SB(inode.i_sb)
    if ei.i_flags & EXT4_INLINE_DATA_FL:
        _iget_error(inode, "iget: inline data without the feature")
    if ei.i_file_acl and not ext4_data_block_valid(sbi, ei.i_file_acl, 1):
        _iget_error(inode, f"iget: bad extended attribute block {ei.i_file_acl}")
    kind = inode.i_mode & S_IFMT
    if kind in (S_IFREG, S_IFDIR) or (kind == S_IFLNK and not ext4_inode_is_fast_symlink(inode)):
        if ei.i_flags & EXT4_EXTENTS_FL:
            ext4_ext_check_inode(inode)
        elif not ext4_check_blockref(inode, [slot(ei.i_data, i) for i in range(15)]):
            raise KernelError(EFSCORRUPTED)


@notrace
@may_sleep
def _set_operations(inode: Inode, ei: Ext4InodeInfo) -> None:
    tables = EXT4_SB(inode.i_sb).s_tables
    kind = inode.i_mode & S_IFMT
    if kind == S_IFREG:
        inode.i_op, inode.i_fop = tables.file_iops, tables.file_fops
        ext4_set_aops(inode)
    elif kind == S_IFDIR:
        inode.i_op, inode.i_fop = tables.dir_iops, tables.dir_fops
    elif kind == S_IFLNK:
        if inode.i_flags & (S_APPEND | S_IMMUTABLE):
            _iget_error(inode, "iget: immutable or append flags not allowed on symlinks")
        if ext4_inode_is_fast_symlink(inode):
            inode.i_op = tables.fast_symlink_iops
            inode.i_link = bytes(ei.i_data[: inode.i_size])
        else:
            inode.i_op = tables.symlink_iops
            ext4_set_aops(inode)
    elif kind in (0o020000, 0o060000, 0o010000, 0o140000):
        inode.i_op = tables.special_iops
        init_special_inode(inode, inode.i_mode, decode_dev(ei.i_data))
    else:
        _iget_error(inode, f"iget: bogus i_mode ({inode.i_mode:o})")


# ---- letting go --------------------------------------------------------------------------------------------
@notrace
@may_sleep
def ext4_begin_ordered_truncate(inode: Inode, new_size: int) -> None:
    """Data that a committing transaction has promised, and that is about to be cut off, is stored first."""
    probe = inode.i_sb.kernel.tp.ext4_begin_ordered_truncate
    if probe is not None:
        probe(inode, new_size)
    jinode = EXT4_I(inode).jinode
    if jinode is not None:                           # else no page of it was ever written out
        jbd2_journal_begin_ordered_truncate(EXT4_SB(inode.i_sb).s_journal, jinode, new_size)


def ext4_drop_inode(inode: Inode) -> bool:
    """->drop_inode()"""
    drop = generic_drop_inode(inode)
    probe = inode.i_sb.kernel.tp.ext4_drop_inode
    if probe is not None:
        probe(inode, int(drop))
    return drop


@may_sleep
def ext4_evict_inode(inode: Inode) -> None:
    """->evict_inode(): nobody uses it any more; if it has no name, its blocks and its number become free."""
    sb = inode.i_sb
    tp = sb.kernel.tp
    probe = tp.ext4_evict_inode
    if probe is not None:
        probe(inode)
    ei: Ext4InodeInfo | None = inode.i_private
    if ei is None:
        return
    if inode.i_nlink or ei.i_not_allocated:
        truncate_inode_pages_final(inode.i_data)
        ext4_clear_inode(inode)
        return
    if ext4_should_order_data(inode):
        with suppress(KernelError):                  # the journal is aborted then, and says so
            ext4_begin_ordered_truncate(inode, 0)
    truncate_inode_pages_final(inode.i_data)
    extra_credits = 6
    try:
        handle = ext4_journal_start(inode, EXT4_HT_TRUNCATE, ext4_blocks_for_truncate(inode) + extra_credits)
    except KernelError as e:
        ext4_std_error(sb, e.errno)
        ext4_orphan_del(None, inode)
        ext4_clear_inode(inode)
        return
    try:
        if inode.i_flags & S_SYNC:
            ext4_handle_sync(handle)
        if ext4_inode_is_fast_symlink(inode):
            ei.i_data[:] = bytes(60)
        inode.i_size = 0
        ext4_mark_inode_dirty(handle, inode)
        if inode.i_blocks:
            try:
                ext4_truncate(inode)
            except KernelError as e:
                ext4_error(sb, f"couldn't truncate inode {inode.i_ino} (err {-e.errno})")
                raise
        ext4_xattr_delete_inode(handle, inode)
        if ext4_handle_valid(handle):
            ext4_journal_extend(handle, 3)
        ext4_orphan_del(handle, inode)
        ei.i_dtime = ktime_get_real_seconds() & 0xFFFFFFFF
        try:
            ext4_mark_inode_dirty(handle, inode)
        except KernelError:
            ext4_clear_inode(inode)
        else:
            ext4_free_inode(handle, inode)
    except KernelError as e:
        ext4_warning_inode(inode, f"couldn't mark inode dirty (err {-e.errno})")
        ext4_orphan_del(None, inode)
        ext4_clear_inode(inode)
    finally:
        ext4_journal_stop_quiet(handle)


# ---- attributes --------------------------------------------------------------------------------------------
@may_sleep
def ext4_setattr(dentry: Dentry, attr: Iattr) -> None:
    """->setattr(). Raises EPERM, EFBIG, EIO, EROFS, ENOSPC."""
    inode = dentry.d_inode
    assert inode is not None
    ei = EXT4_I(inode)
    valid = attr.ia_valid
    if ext4_forced_shutdown(EXT4_SB(inode.i_sb)):
        raise KernelError(EIO)
    if inode.i_flags & S_IMMUTABLE:
        raise KernelError(EPERM)
    setattr_prepare(dentry, attr)
    if (valid & ATTR_UID and attr.ia_uid != inode.i_uid) or (valid & ATTR_GID and attr.ia_gid != inode.i_gid):
        handle = ext4_journal_start(inode, EXT4_HT_QUOTA, 3)
        try:
            if valid & ATTR_UID:
                inode.i_uid = attr.ia_uid
            if valid & ATTR_GID:
                inode.i_gid = attr.ia_gid
            ext4_mark_inode_dirty(handle, inode)
        finally:
            ext4_journal_stop(handle)
    orphan = False
    if valid & ATTR_SIZE:
        orphan = _set_size(inode, ei, attr)
    setattr_copy(inode, attr)
    mark_inode_dirty(inode)
    if orphan and inode.i_nlink:
        ext4_orphan_del(None, inode)
    if valid & ATTR_MODE:
        posix_acl_chmod(inode, inode.i_mode)


@notrace
@may_sleep
def _set_size(inode: Inode, ei: Ext4InodeInfo, attr: Iattr) -> bool:
    """True: the inode may still be on the orphan list in memory."""
    size = attr.ia_size
    shrink = size <= inode.i_size
    if not ei.i_flags & EXT4_EXTENTS_FL and size > EXT4_SB(inode.i_sb).s_bitmap_maxbytes:
        raise KernelError(EFBIG)
    if inode.i_mode & S_IFMT != S_IFREG:
        raise KernelError(EINVAL)
    oldsize = inode.i_size
    orphan = False
    if shrink and ext4_should_order_data(inode):
        ext4_begin_ordered_truncate(inode, size)
    if size != oldsize:
        handle = ext4_journal_start(inode, EXT4_HT_INODE, 3)
        try:
            if ext4_handle_valid(handle) and shrink:
                ext4_orphan_add(handle, inode)
                orphan = True
            if not shrink:
                inode.i_mtime = inode.i_ctime = current_time(inode)
            down_write(ei.i_data_sem)
            try:
                ei.i_disksize = size
                ext4_mark_inode_dirty(handle, inode)
                inode.i_size = size
            finally:
                up_write(ei.i_data_sem)
        finally:
            ext4_journal_stop(handle)
        if not shrink:
            pagecache_isize_extended(inode, oldsize, inode.i_size)
        elif not ext4_should_journal_data(inode):
            inode_dio_wait(inode)                  # blocks are about to go: transfers to them must be over
        else:
            ext4_wait_for_tail_page_commit(inode)
    down_write(ei.i_mmap_sem)
    try:
        truncate_pagecache(inode, inode.i_size)
        if shrink:
            ext4_truncate(inode)
            orphan = False if not ei.i_orphan else orphan
    finally:
        up_write(ei.i_mmap_sem)
    return orphan


def ext4_getattr(dentry: Dentry, inode: Inode) -> Kstat:
    """->getattr(): with the birth time."""
    ei = EXT4_I(inode)
    stat = generic_fillattr(inode)
    if ei.i_extra_isize >= 24:
        stat.btime = ei.i_crtime
    stat.blksize = inode.i_sb.s_blocksize
    return stat


def ext4_file_getattr(dentry: Dentry, inode: Inode) -> Kstat:
    """The same for files: blocks that delayed allocation owes count as there."""
    stat = ext4_getattr(dentry, inode)
    stat.blocks += EXT4_I(inode).i_reserved_data_blocks << inode.i_blkbits - 9
    return stat


@may_sleep
def ext4_filemap_fault(vma: VmAreaStruct, vmf: VmFault) -> int:
    """->fault."""
    assert vma.vm_file is not None
    ei = EXT4_I(vma.vm_file.f_inode)
    down_read(ei.i_mmap_sem)
    try:
        return filemap_fault(vma, vmf)
    finally:
        up_read(ei.i_mmap_sem)
