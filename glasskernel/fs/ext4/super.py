"""Mounting and unmounting.

Linux: fs/ext4/super.c (5.3). Same: every check of the super block and its message, order of fill_super, recovery, the
    states of s_state, statfs with the overhead subtracted, what a remount may do.
Owns: Ext4SbInfo.  Lock order: s_umount (VFS), then everything else.
Gaps: external journal devices, MMP, quota, encryption, casefolding, verity, inline data, bigalloc (refused with the
    message for unsupported features), resize, freezing.
"""
from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from glasskernel.fs.block_dev import bdev_read_only, invalidate_bdev, sb_min_blocksize, sb_set_blocksize, sync_blockdev
from glasskernel.fs.buffer import sb_bread
from glasskernel.fs.buffer_io import brelse
from glasskernel.fs.dcache import d_make_root, dput
from glasskernel.fs.ext4.balloc import (
    ext4_bg_has_super,
    ext4_bg_num_gdb,
    ext4_block_bitmap,
    ext4_count_free_clusters,
    ext4_free_group_clusters,
    ext4_free_inodes_count,
    ext4_get_group_desc,
    ext4_group_desc_csum,
    ext4_group_desc_csum_verify,
    ext4_group_first_block_no,
    ext4_inode_bitmap,
    ext4_inode_table,
    ext4_used_dirs_count,
)
from glasskernel.fs.ext4.block_validity import ext4_release_system_zone, ext4_setup_system_zone
from glasskernel.fs.ext4.disk import Ext4SuperBlock
from glasskernel.fs.ext4.errors import (
    EFSBADCRC,
    EFSCORRUPTED,
    KERN_ERR,
    KERN_INFO,
    KERN_WARNING,
    ext4_commit_super,
    ext4_decode_error,
    ext4_error,
    ext4_msg,
    ext4_superblock_csum_verify,
    ext4_update_tstamp,
    ext4_warning,
)
from glasskernel.fs.ext4.extents_shrinker import ext4_es_register_shrinker, ext4_es_unregister_shrinker
from glasskernel.fs.ext4.ialloc import ext4_count_dirs, ext4_count_free_inodes
from glasskernel.fs.ext4.inode import (
    EXT4_IGET_SPECIAL,
    ext4_alloc_inode,
    ext4_drop_inode,
    ext4_evict_inode,
    ext4_free_in_core_inode,
    ext4_iget,
)
from glasskernel.fs.ext4.inode_loc import ext4_dirty_inode, ext4_write_inode
from glasskernel.fs.ext4.lazyinit import ext4_register_li_request, ext4_unregister_li_request
from glasskernel.fs.ext4.mballoc import ext4_mb_init, ext4_mb_release, ext4_process_freed_data
from glasskernel.fs.ext4.orphan_cleanup import ext4_orphan_cleanup
from glasskernel.fs.ext4.super_options import ext4_show_options, parse_options
from glasskernel.fs.ext4.sysfs import ext4_register_sysfs, ext4_unregister_sysfs
from glasskernel.fs.ext4.tables import ext4_tables
from glasskernel.fs.ext4.types import (
    COMPAT_DIR_INDEX,
    COMPAT_EXT_ATTR,
    COMPAT_HAS_JOURNAL,
    EXT2_FLAGS_SIGNED_HASH,
    EXT2_FLAGS_UNSIGNED_HASH,
    EXT2_INCOMPAT_SUPP,
    EXT2_RO_COMPAT_SUPP,
    EXT3_INCOMPAT_SUPP,
    EXT4_DEFM_BSDGROUPS,
    EXT4_DEFM_DEBUG,
    EXT4_DEFM_DISCARD,
    EXT4_DEFM_JMODE,
    EXT4_DEFM_JMODE_DATA,
    EXT4_DEFM_JMODE_ORDERED,
    EXT4_DEFM_JMODE_WBACK,
    EXT4_DEFM_NOBARRIER,
    EXT4_DEFM_NODELALLOC,
    EXT4_DEFM_UID16,
    EXT4_ERROR_FS,
    EXT4_ERRORS_CONTINUE,
    EXT4_ERRORS_PANIC,
    EXT4_INCOMPAT_SUPP,
    EXT4_MF_FS_ABORTED,
    EXT4_MOUNT_BARRIER,
    EXT4_MOUNT_BLOCK_VALIDITY,
    EXT4_MOUNT_DATA_ERR_ABORT,
    EXT4_MOUNT_DATA_FLAGS,
    EXT4_MOUNT_DEBUG,
    EXT4_MOUNT_DELALLOC,
    EXT4_MOUNT_DIOREAD_NOLOCK,
    EXT4_MOUNT_DISCARD,
    EXT4_MOUNT_ERRORS_CONT,
    EXT4_MOUNT_ERRORS_PANIC,
    EXT4_MOUNT_ERRORS_RO,
    EXT4_MOUNT_GRPID,
    EXT4_MOUNT_INIT_INODE_TABLE,
    EXT4_MOUNT_JOURNAL_ASYNC_COMMIT,
    EXT4_MOUNT_JOURNAL_CHECKSUM,
    EXT4_MOUNT_JOURNAL_DATA,
    EXT4_MOUNT_MINIX_DF,
    EXT4_MOUNT_NO_UID32,
    EXT4_MOUNT_NOLOAD,
    EXT4_MOUNT_ORDERED_DATA,
    EXT4_MOUNT_POSIX_ACL,
    EXT4_MOUNT_WRITEBACK_DATA,
    EXT4_MOUNT_XATTR_USER,
    EXT4_ORPHAN_FS,
    EXT4_RO_COMPAT_SUPP,
    EXT4_ROOT_INO,
    EXT4_SB,
    EXT4_SUPER_MAGIC,
    EXT4_VALID_FS,
    INCOMPAT_64BIT,
    INCOMPAT_CSUM_SEED,
    INCOMPAT_EXTENTS,
    INCOMPAT_FLEX_BG,
    INCOMPAT_META_BG,
    INCOMPAT_RECOVER,
    RO_COMPAT_HUGE_FILE,
    RO_COMPAT_METADATA_CSUM,
    RO_COMPAT_PROJECT,
    RO_COMPAT_QUOTA,
    RO_COMPAT_READONLY,
    Ext4SbInfo,
    ext4_blocks_count,
    ext4_forced_shutdown,
    ext4_r_blocks_count,
    has_compat,
    has_incompat,
    has_ro_compat,
    test_opt,
)
from glasskernel.fs.inode import evict, iput
from glasskernel.fs.jbd2.features import jbd2_journal_clear_features, jbd2_journal_set_features
from glasskernel.fs.jbd2.journal import (
    jbd2_journal_clear_err,
    jbd2_journal_destroy,
    jbd2_journal_errno,
    jbd2_journal_flush,
    jbd2_journal_init_inode,
    jbd2_journal_load,
    jbd2_journal_update_sb_errno,
    jbd2_journal_wipe,
)
from glasskernel.fs.jbd2.log import jbd2_journal_start_commit, jbd2_log_wait_commit
from glasskernel.fs.jbd2.transaction import jbd2_journal_lock_updates, jbd2_journal_unlock_updates
from glasskernel.fs.super import sync_filesystem
from glasskernel.fs.types import (
    S_IFDIR,
    S_IFMT,
    S_IFREG,
    SB_POSIXACL,
    SB_RDONLY,
    Kstatfs,
    SuperOperations,
)
from glasskernel.kernel.time.timekeeping import ktime_get_real_seconds
from glasskernel.kernel.time.types import HZ
from glasskernel.kernel.workqueue import WQ_MEM_RECLAIM, WQ_UNBOUND, alloc_workqueue, destroy_workqueue, flush_workqueue
from glasskernel.lib.crc32c import crc32c
from glasskernel.lib.errno import EINVAL, EROFS, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, SuperBlock

JBD2_FEATURE_COMPAT_CHECKSUM, JBD2_FEATURE_INCOMPAT_64BIT = 1, 2
JBD2_FEATURE_INCOMPAT_ASYNC_COMMIT, JBD2_FEATURE_INCOMPAT_CSUM_V2, JBD2_FEATURE_INCOMPAT_CSUM_V3 = 4, 8, 16
JBD2_BARRIER, JBD2_ABORT_ON_SYNCDATA_ERR, JBD2_ABORT = 0x20, 0x40, 2


# ---- the super block on disk -------------------------------------------------------------------------------
@notrace
def is_ext2(sb: SuperBlock) -> bool:
    return sb.s_type.name == b"ext2"


@notrace
def is_ext3(sb: SuperBlock) -> bool:
    return sb.s_type.name == b"ext3"


def ext4_feature_set_ok(sb: SuperBlock, readonly: bool) -> bool:
    """May a file system with these features be mounted? Says why not."""
    es = EXT4_SB(sb).s_es
    unknown = es.s_feature_incompat & ~EXT4_INCOMPAT_SUPP
    if unknown:
        ext4_msg(sb, KERN_ERR, f"Couldn't mount because of unsupported optional features ({unknown:x})")
        return False
    if readonly:
        return True
    if es.s_feature_ro_compat & RO_COMPAT_READONLY:
        ext4_msg(sb, KERN_INFO, "filesystem is read-only")
        sb.s_flags |= SB_RDONLY
        return True
    if es.s_feature_ro_compat & RO_COMPAT_QUOTA:
        ext4_msg(sb, KERN_ERR, "Filesystem with quota feature cannot be mounted RDWR without CONFIG_QUOTA")
        return False
    if es.s_feature_ro_compat & RO_COMPAT_PROJECT:
        ext4_msg(sb, KERN_ERR, "Filesystem with project quota feature cannot be mounted RDWR without CONFIG_QUOTA")
        return False
    unknown = es.s_feature_ro_compat & ~(EXT4_RO_COMPAT_SUPP | RO_COMPAT_READONLY)
    if unknown:
        ext4_msg(sb, KERN_ERR, f"Couldn't mount RDWR because of unsupported optional features ({unknown:x})")
        return False
    return True


@notrace
def _default_options(sb: SuperBlock, sbi: Ext4SbInfo) -> None:
    """Options as the super block's s_default_mount_opts and s_errors have them."""
    es = sbi.s_es
    defm = es.s_default_mount_opts
    opt = EXT4_MOUNT_INIT_INODE_TABLE | EXT4_MOUNT_XATTR_USER | EXT4_MOUNT_POSIX_ACL | EXT4_MOUNT_BLOCK_VALIDITY
    if defm & EXT4_DEFM_DEBUG:
        opt |= EXT4_MOUNT_DEBUG
    if defm & EXT4_DEFM_BSDGROUPS:
        opt |= EXT4_MOUNT_GRPID
    if defm & EXT4_DEFM_UID16:
        opt |= EXT4_MOUNT_NO_UID32
    if has_ro_compat(sbi, RO_COMPAT_METADATA_CSUM):
        opt |= EXT4_MOUNT_JOURNAL_CHECKSUM
    mode = defm & EXT4_DEFM_JMODE
    opt |= {EXT4_DEFM_JMODE_DATA: EXT4_MOUNT_JOURNAL_DATA, EXT4_DEFM_JMODE_ORDERED: EXT4_MOUNT_ORDERED_DATA,
            EXT4_DEFM_JMODE_WBACK: EXT4_MOUNT_WRITEBACK_DATA}.get(mode, 0)
    opt |= {EXT4_ERRORS_PANIC: EXT4_MOUNT_ERRORS_PANIC, EXT4_ERRORS_CONTINUE: EXT4_MOUNT_ERRORS_CONT}.get(
        es.s_errors, EXT4_MOUNT_ERRORS_RO)
    if defm & EXT4_DEFM_DISCARD:
        opt |= EXT4_MOUNT_DISCARD
    sbi.s_resuid, sbi.s_resgid = es.s_def_resuid, es.s_def_resgid
    if not defm & EXT4_DEFM_NOBARRIER:
        opt |= EXT4_MOUNT_BARRIER
    if not is_ext2(sb) and not is_ext3(sb) and not defm & EXT4_DEFM_NODELALLOC:
        opt |= EXT4_MOUNT_DELALLOC
    sbi.s_mount_opt = opt


@may_sleep
def ext4_check_descriptors(sb: SuperBlock, sb_block: int) -> bool:
    """Do the descriptors point where they may?"""
    sbi = EXT4_SB(sb)
    first_block = sbi.s_es.s_first_data_block
    blocks_count = ext4_blocks_count(sbi.s_es)
    last_bg_block = sb_block + ext4_bg_num_gdb(sb, 0)
    flex = has_incompat(sbi, INCOMPAT_FLEX_BG)
    for i in range(sbi.s_groups_count):
        gdp, _ = ext4_get_group_desc(sb, i)
        if i == sbi.s_groups_count - 1 or flex:
            last_block = blocks_count - 1
        else:
            last_block = first_block + sbi.s_blocks_per_group - 1
        for what, block, length in (("Block bitmap", ext4_block_bitmap(sb, gdp), 1),
                                    ("Inode bitmap", ext4_inode_bitmap(sb, gdp), 1),
                                    ("Inode table", ext4_inode_table(sb, gdp), sbi.s_itb_per_group)):
            if block == sb_block:
                ext4_msg(sb, KERN_ERR, f"ext4_check_descriptors: {what} for group {i} overlaps superblock")
                if not sb.s_flags & SB_RDONLY:
                    return False
            if sb_block + 1 <= block <= last_bg_block:
                ext4_msg(sb, KERN_ERR, f"ext4_check_descriptors: {what} for group {i} overlaps block group descriptors")
                if not sb.s_flags & SB_RDONLY:
                    return False
            if block < first_block or block + length - 1 > last_block:
                ext4_msg(sb, KERN_ERR, f"ext4_check_descriptors: {what} for group {i} not in group (block {block})!")
                return False
        if not ext4_group_desc_csum_verify(sb, i, gdp):
            ext4_msg(sb, KERN_ERR, f"ext4_check_descriptors: Checksum for group {i} failed "
                     f"({ext4_group_desc_csum(sb, i, gdp)}!={gdp.bg_checksum})")
            if not sb.s_flags & SB_RDONLY:
                return False
        if not flex:
            first_block += sbi.s_blocks_per_group
    return True


@notrace
def descriptor_loc(sb: SuperBlock, logical_sb_block: int, nr: int) -> int:
    """The block of descriptor block `nr`."""
    sbi = EXT4_SB(sb)
    first_meta_bg = sbi.s_es.s_first_meta_bg
    if not has_incompat(sbi, INCOMPAT_META_BG) or nr < first_meta_bg:
        return logical_sb_block + nr + 1
    bg = sbi.s_desc_per_block * nr
    has_super = int(ext4_bg_has_super(sb, bg))
    if sb.s_blocksize == 1024 and nr == 0 and sbi.s_es.s_first_data_block == 0:
        has_super += 1
    return has_super + ext4_group_first_block_no(sb, bg)


@notrace
def ext4_max_size(blkbits: int, has_huge_files: bool) -> int:
    """The largest file of extents, in bytes."""
    limit = (1 << 32) - 1 << blkbits
    upper = (1 << 63) - 1 if has_huge_files else ((1 << 32) - 1 >> blkbits - 9) << blkbits
    return min(limit, upper)


@notrace
def ext4_max_bitmap_size(bits: int, has_huge_files: bool) -> int:
    """The largest file of a block map, in bytes."""
    ptrs = 1 << bits - 2
    upper = ((1 << 48) - 1 if has_huge_files else (1 << 32) - 1 >> bits - 9)
    meta = 1 + 1 + ptrs + 1 + ptrs + ptrs * ptrs
    blocks = 12 + ptrs + ptrs * ptrs + ptrs * ptrs * ptrs
    return min(blocks << bits, max(upper - meta, 0) << bits, (1 << 63) - 1)


@may_sleep
def ext4_calculate_overhead(sb: SuperBlock) -> None:
    """Blocks that hold no files, for statfs(2)."""
    sbi = EXT4_SB(sb)
    overhead = sbi.s_es.s_first_data_block
    for i in range(sbi.s_groups_count):
        overhead += int(ext4_bg_has_super(sb, i)) + ext4_bg_num_gdb(sb, i) + sbi.s_itb_per_group + 2
    if sbi.s_journal is not None:
        overhead += sbi.s_journal.j_maxlen
    sbi.s_overhead = overhead


@may_sleep
def ext4_fill_flex_info(sb: SuperBlock) -> None:
    """Sums over each flex group."""
    sbi = EXT4_SB(sb)
    log = sbi.s_es.s_log_groups_per_flex
    if log < 1 or log > 31 or not has_incompat(sbi, INCOMPAT_FLEX_BG):
        sbi.s_log_groups_per_flex = 0
        return
    sbi.s_log_groups_per_flex = log
    sbi.s_flex_groups = [[0, 0, 0] for _ in range((sbi.s_groups_count - 1 >> log) + 1)]
    for i in range(sbi.s_groups_count):
        gdp, _ = ext4_get_group_desc(sb, i)
        flex = sbi.s_flex_groups[i >> log]
        flex[0] += ext4_free_group_clusters(sb, gdp)
        flex[1] += ext4_free_inodes_count(sb, gdp)
        flex[2] += ext4_used_dirs_count(sb, gdp)


@may_sleep
def ext4_setup_super(sb: SuperBlock, es: Ext4SuperBlock, read_only: bool) -> None:
    """Marks the file system as mounted. Raises EROFS."""
    sbi = EXT4_SB(sb)
    if es.s_rev_level > 1:
        ext4_msg(sb, KERN_ERR, "revision level too high, forcing read-only mode")
        raise KernelError(EROFS)
    if read_only:
        return
    if not sbi.s_mount_state & EXT4_VALID_FS:
        ext4_msg(sb, KERN_WARNING, "warning: mounting unchecked fs, running e2fsck is recommended")
    elif sbi.s_mount_state & EXT4_ERROR_FS:
        ext4_msg(sb, KERN_WARNING, "warning: mounting fs with errors, running e2fsck is recommended")
    elif 0 < es.s_max_mnt_count < 0x8000 and es.s_mnt_count >= es.s_max_mnt_count:
        ext4_msg(sb, KERN_WARNING, "warning: maximal mount count reached, running e2fsck is recommended")
    elif es.s_checkinterval and es.s_lastcheck + es.s_checkinterval <= ktime_get_real_seconds():
        ext4_msg(sb, KERN_WARNING, "warning: checktime reached, running e2fsck is recommended")
    if sbi.s_journal is None:
        es.s_state &= ~EXT4_VALID_FS
    if not es.s_max_mnt_count:
        es.s_max_mnt_count = 20
    es.s_mnt_count = es.s_mnt_count + 1 & 0xFFFF
    ext4_update_tstamp(es, "s_mtime", "s_mtime_hi")
    if sbi.s_journal is not None:
        es.s_feature_incompat |= INCOMPAT_RECOVER
    ext4_commit_super(sb, 1)


# ---- the journal -------------------------------------------------------------------------------------------
def ext4_journal_commit_callback(journal: Any, txn: Any) -> None:
    """j_commit_callback: a transaction is on disk. Context: jbd2 thread."""
    ext4_process_freed_data(journal.j_private, txn.t_tid)


def ext4_init_journal_params(sb: SuperBlock, journal: Any) -> None:
    sbi = EXT4_SB(sb)
    journal.j_commit_interval = sbi.s_commit_interval * HZ
    journal.j_min_batch_time = sbi.s_min_batch_time
    journal.j_max_batch_time = sbi.s_max_batch_time
    flags = journal.j_flags & ~(JBD2_BARRIER | JBD2_ABORT_ON_SYNCDATA_ERR)
    if test_opt(sbi, EXT4_MOUNT_BARRIER):
        flags |= JBD2_BARRIER
    if test_opt(sbi, EXT4_MOUNT_DATA_ERR_ABORT):
        flags |= JBD2_ABORT_ON_SYNCDATA_ERR
    journal.j_flags = flags


@may_sleep
def ext4_get_journal(sb: SuperBlock, journal_inum: int) -> Any:
    """The journal in an inode. Raises EINVAL."""
    try:
        inode = ext4_iget(sb, journal_inum, EXT4_IGET_SPECIAL)
    except KernelError:
        ext4_msg(sb, KERN_ERR, "no journal found")
        raise KernelError(EINVAL) from None
    if not inode.i_nlink or inode.i_mode & S_IFMT != S_IFREG:
        ext4_msg(sb, KERN_ERR, "journal inode is deleted" if not inode.i_nlink else "invalid journal inode")
        iput(inode)
        raise KernelError(EINVAL)
    journal = jbd2_journal_init_inode(inode)
    if journal is None:
        ext4_msg(sb, KERN_ERR, "Could not load journal inode")
        iput(inode)
        raise KernelError(EINVAL)
    journal.j_private = sb
    ext4_init_journal_params(sb, journal)
    return journal


@may_sleep
def ext4_load_journal(sb: SuperBlock, es: Ext4SuperBlock) -> None:
    """Opens the journal and replays it if it must be. Raises EINVAL, EROFS, EIO, EFSCORRUPTED."""
    sbi = EXT4_SB(sb)
    if es.s_journal_dev and not es.s_journal_inum:
        ext4_msg(sb, KERN_ERR, "external journal devices are not supported")
        raise KernelError(EINVAL)
    really_read_only = bdev_read_only(sb.s_bdev)
    if has_incompat(sbi, INCOMPAT_RECOVER) and sb.s_flags & SB_RDONLY:
        ext4_msg(sb, KERN_INFO, "INFO: recovery required on readonly filesystem")
        if really_read_only:
            ext4_msg(sb, KERN_ERR, "write access unavailable, cannot proceed (try mounting with noload)")
            raise KernelError(EROFS)
        ext4_msg(sb, KERN_INFO, "write access will be enabled during recovery")
    journal = ext4_get_journal(sb, es.s_journal_inum)
    try:
        if not journal.j_flags & JBD2_BARRIER:
            ext4_msg(sb, KERN_INFO, "barriers disabled")
        if not has_incompat(sbi, INCOMPAT_RECOVER):
            jbd2_journal_wipe(journal, not really_read_only)
        saved = bytes(es.m[es.o + 0x194 : es.o + 0x200])         # the error fields: recovery may replay old ones
        jbd2_journal_load(journal)
        es.m[es.o + 0x194 : es.o + 0x200] = saved
    except KernelError:
        ext4_msg(sb, KERN_ERR, "error loading journal")
        with contextlib.suppress(KernelError):   # what loading raised says more
            jbd2_journal_destroy(journal)
        raise
    sbi.s_journal = journal
    journal.j_commit_callback = ext4_journal_commit_callback
    ext4_clear_journal_err(sb, es)


@may_sleep
def ext4_clear_journal_err(sb: SuperBlock, es: Ext4SuperBlock) -> None:
    """An error that the last mount left in the journal becomes one of the file system."""
    journal = EXT4_SB(sb).s_journal
    errno = jbd2_journal_errno(journal)
    if errno:
        ext4_warning(sb, f"Filesystem error recorded from previous mount: {ext4_decode_error(sb, -errno)}")
        ext4_warning(sb, "Marking fs in need of filesystem check.")
        EXT4_SB(sb).s_mount_state |= EXT4_ERROR_FS
        es.s_state |= EXT4_ERROR_FS
        ext4_commit_super(sb, 1)
        jbd2_journal_clear_err(journal)
        jbd2_journal_update_sb_errno(journal)


@may_sleep
def ext4_mark_recovery_complete(sb: SuperBlock, es: Ext4SuperBlock) -> None:
    """Read-only now: everything is in place, the journal is empty."""
    sbi = EXT4_SB(sb)
    journal = sbi.s_journal
    if journal is None:
        return
    jbd2_journal_lock_updates(journal)
    try:
        jbd2_journal_flush(journal)
        if has_incompat(sbi, INCOMPAT_RECOVER) and sb.s_flags & SB_RDONLY:
            es.s_feature_incompat &= ~INCOMPAT_RECOVER
            ext4_commit_super(sb, 1)
    except KernelError:
        pass
    finally:
        jbd2_journal_unlock_updates(journal)


def set_journal_csum_feature_set(sb: SuperBlock) -> bool:
    """Checksums in the journal, as the file system has them."""
    sbi = EXT4_SB(sb)
    journal = sbi.s_journal
    if has_ro_compat(sbi, RO_COMPAT_METADATA_CSUM):
        compat, incompat = 0, JBD2_FEATURE_INCOMPAT_CSUM_V3
    else:
        compat, incompat = JBD2_FEATURE_COMPAT_CHECKSUM, 0
    jbd2_journal_clear_features(journal, JBD2_FEATURE_COMPAT_CHECKSUM, 0,
                                JBD2_FEATURE_INCOMPAT_CSUM_V3 | JBD2_FEATURE_INCOMPAT_CSUM_V2)
    if test_opt(sbi, EXT4_MOUNT_JOURNAL_ASYNC_COMMIT):
        return bool(jbd2_journal_set_features(journal, compat, 0, JBD2_FEATURE_INCOMPAT_ASYNC_COMMIT | incompat))
    if test_opt(sbi, EXT4_MOUNT_JOURNAL_CHECKSUM):
        ok = jbd2_journal_set_features(journal, compat, 0, incompat)
    else:
        ok = True
    jbd2_journal_clear_features(journal, 0, 0, JBD2_FEATURE_INCOMPAT_ASYNC_COMMIT)
    return bool(ok)


@may_sleep
def ext4_start_journal(sb: SuperBlock, sbi: Ext4SbInfo) -> None:
    """Loads the journal and settles the data mode. Raises EINVAL, EIO."""
    es = sbi.s_es
    if not has_compat(sbi, COMPAT_HAS_JOURNAL) or test_opt(sbi, EXT4_MOUNT_NOLOAD):
        if test_opt(sbi, EXT4_MOUNT_NOLOAD) and not sb.s_flags & SB_RDONLY and has_incompat(sbi, INCOMPAT_RECOVER):
            ext4_msg(sb, KERN_ERR, "required journal recovery suppressed and not mounted read-only")
            raise KernelError(EINVAL)
        if not has_compat(sbi, COMPAT_HAS_JOURNAL) and sbi.s_mount_opt & EXT4_MOUNT_DATA_FLAGS:
            ext4_msg(sb, KERN_ERR, "can't mount with data=, fs mounted w/o journal")
            raise KernelError(EINVAL)
        sbi.s_def_mount_opt &= ~EXT4_MOUNT_JOURNAL_CHECKSUM
        sbi.s_mount_opt &= ~(EXT4_MOUNT_JOURNAL_CHECKSUM | EXT4_MOUNT_DATA_FLAGS)
        return
    ext4_load_journal(sb, es)
    if has_incompat(sbi, INCOMPAT_64BIT) and not jbd2_journal_set_features(
            sbi.s_journal, 0, 0, JBD2_FEATURE_INCOMPAT_64BIT):
        ext4_msg(sb, KERN_ERR, "Failed to set 64-bit journal feature")
        raise KernelError(EINVAL)
    if not set_journal_csum_feature_set(sb):
        ext4_msg(sb, KERN_ERR, "Failed to set journal checksum feature set")
        raise KernelError(EINVAL)
    if not sbi.s_mount_opt & EXT4_MOUNT_DATA_FLAGS:
        sbi.s_mount_opt |= EXT4_MOUNT_ORDERED_DATA
        sbi.s_def_mount_opt |= EXT4_MOUNT_ORDERED_DATA
    ordered = sbi.s_mount_opt & EXT4_MOUNT_DATA_FLAGS == EXT4_MOUNT_ORDERED_DATA
    if ordered and test_opt(sbi, EXT4_MOUNT_JOURNAL_ASYNC_COMMIT):
        ext4_msg(sb, KERN_ERR, "can't mount with journal_async_commit in data=ordered mode")
        raise KernelError(EINVAL)


# ---- mounting ----------------------------------------------------------------------------------------------
@may_sleep
def ext4_fill_super(sb: SuperBlock, data: bytes, silent: bool) -> None:
    """Fills a super block from the device. Raises EINVAL, EIO, EFSCORRUPTED, EFSBADCRC, EROFS, ENOMEM."""
    sbi = sb.s_fs_info = Ext4SbInfo(sb)
    sbi.s_tables = ext4_tables
    try:
        ext4_read_super(sb, sbi, data, silent)
        ext4_start(sb, sbi)
    except KernelError:
        ext4_give_up(sb, sbi)
        raise
    es = sbi.s_es
    if has_compat(sbi, COMPAT_HAS_JOURNAL) and sbi.s_journal is not None:
        mode = {EXT4_MOUNT_JOURNAL_DATA: " journalled data mode", EXT4_MOUNT_ORDERED_DATA: " ordered data mode"}.get(
            sbi.s_mount_opt & EXT4_MOUNT_DATA_FLAGS, " writeback data mode")
    else:
        mode = "out journal"
    ext4_msg(sb, KERN_INFO, f"mounted filesystem with{mode}. Opts: {data.decode(errors='replace') or '(null)'}")
    if es.s_error_count:
        ext4_msg(sb, 5, f"error count since last fsck: {es.s_error_count}")


@notrace
@may_sleep
def ext4_read_super(sb: SuperBlock, sbi: Ext4SbInfo, data: bytes, silent: bool) -> None:
    """The first half of ext4_fill_super(): the super block and the descriptors."""
    blocksize = sb_min_blocksize(sb, 1024)
    if not blocksize:
        ext4_msg(sb, KERN_ERR, "unable to set blocksize")
        raise KernelError(EINVAL)
    logical_sb_block, offset = divmod(1024, blocksize)
    bh = sb_bread(sb, logical_sb_block)
    if bh is None:
        ext4_msg(sb, KERN_ERR, "unable to read superblock")
        raise KernelError(EINVAL)
    sbi.s_sbh = bh
    es = sbi.s_es = Ext4SuperBlock(bh.b_data, offset)
    sb.s_magic = es.s_magic
    if sb.s_magic != EXT4_SUPER_MAGIC:
        if not silent:
            ext4_msg(sb, KERN_ERR, "VFS: Can't find ext4 filesystem")
        raise KernelError(EINVAL)
    if has_ro_compat(sbi, RO_COMPAT_METADATA_CSUM) and has_ro_compat(sbi, 0x10):
        ext4_warning(sb, "metadata_csum and uninit_bg are redundant flags; please run fsck.")
    if has_ro_compat(sbi, RO_COMPAT_METADATA_CSUM) and es.s_checksum_type != 1:
        ext4_msg(sb, KERN_ERR, "VFS: Found ext4 filesystem with unknown checksum algorithm.")
        raise KernelError(EINVAL)
    if not ext4_superblock_csum_verify(sb, es):
        ext4_msg(sb, KERN_ERR, "VFS: Found ext4 filesystem with invalid superblock checksum.  Run e2fsck?")
        raise KernelError(EFSBADCRC)
    if has_incompat(sbi, INCOMPAT_CSUM_SEED):
        sbi.s_csum_seed = es.s_checksum_seed
    elif has_ro_compat(sbi, RO_COMPAT_METADATA_CSUM):
        sbi.s_csum_seed = crc32c(0xFFFFFFFF, es.s_uuid)
    _default_options(sb, sbi)
    blocksize = 1024 << es.s_log_block_size if es.s_log_block_size < 16 else 0
    if not 1024 <= blocksize <= 4096:
        ext4_msg(sb, KERN_ERR, f"Unsupported filesystem blocksize {blocksize} ({es.s_log_block_size} log_block_size)")
        raise KernelError(EINVAL)
    sbi.s_def_mount_opt = sbi.s_mount_opt
    parse_options(data, sb, False)
    check_dioread_nolock(sb, sbi)
    if sbi.s_mount_opt & EXT4_MOUNT_DATA_FLAGS == EXT4_MOUNT_JOURNAL_DATA:
        ext4_msg(
            sb, KERN_WARNING, "Warning: mounting with data=journal disables delayed allocation and O_DIRECT support!"
        )
        sbi.s_mount_opt &= ~EXT4_MOUNT_DELALLOC
    if test_opt(sbi, EXT4_MOUNT_POSIX_ACL):
        sb.s_flags |= SB_POSIXACL
    if is_ext2(sb) or is_ext3(sb):
        name = sb.s_type.name.decode()
        supported = EXT2_INCOMPAT_SUPP if is_ext2(sb) else EXT3_INCOMPAT_SUPP
        if (
            es.s_feature_incompat & ~supported
            or (not sb.s_flags & SB_RDONLY and es.s_feature_ro_compat & ~EXT2_RO_COMPAT_SUPP)
            or (is_ext3(sb) and not has_compat(sbi, COMPAT_HAS_JOURNAL))
            or (is_ext2(sb) and has_compat(sbi, COMPAT_HAS_JOURNAL) and es.s_feature_incompat & ~supported)
        ):
            ext4_msg(sb, KERN_ERR, f"couldn't mount as {name} due to feature incompatibilities")
            raise KernelError(EINVAL)
        ext4_msg(sb, KERN_INFO, f"mounting {name} file system using the ext4 subsystem")
    if not ext4_feature_set_ok(sb, bool(sb.s_flags & SB_RDONLY)):
        raise KernelError(EINVAL)
    if es.s_reserved_gdt_blocks > blocksize // 4:
        ext4_msg(sb, KERN_ERR, f"Number of reserved GDT blocks insanely large: {es.s_reserved_gdt_blocks}")
        raise KernelError(EINVAL)
    if sb.s_blocksize != blocksize:
        brelse(bh)
        sbi.s_sbh = None  # type: ignore[assignment]
        if not sb_set_blocksize(sb, blocksize):
            ext4_msg(sb, KERN_ERR, f"bad block size {blocksize}")
            raise KernelError(EINVAL)
        logical_sb_block, offset = divmod(1024, blocksize)
        bh = sb_bread(sb, logical_sb_block)
        if bh is None:
            ext4_msg(sb, KERN_ERR, "Can't read superblock on 2nd try")
            raise KernelError(EINVAL)
        sbi.s_sbh = bh
        es = sbi.s_es = Ext4SuperBlock(bh.b_data, offset)
        if es.s_magic != EXT4_SUPER_MAGIC:
            ext4_msg(sb, KERN_ERR, "Magic mismatch, very weird!")
            raise KernelError(EINVAL)
    _geometry(sb, sbi, es, blocksize)
    for i in range(sbi.s_gdb_count):
        gdb = sb_bread(sb, descriptor_loc(sb, logical_sb_block, i))
        if gdb is None:
            ext4_msg(sb, KERN_ERR, f"can't read group descriptor {i}")
            raise KernelError(EINVAL)
        sbi.s_group_desc.append(gdb)
    if not ext4_check_descriptors(sb, logical_sb_block):
        ext4_msg(sb, KERN_ERR, "group descriptors corrupted!")
        raise KernelError(EFSCORRUPTED)


@notrace
def _geometry(sb: SuperBlock, sbi: Ext4SbInfo, es: Ext4SuperBlock, blocksize: int) -> None:
    """Sizes and counts. Raises EINVAL."""

    def refuse(text: str) -> None:
        ext4_msg(sb, KERN_ERR, text)
        raise KernelError(EINVAL)

    huge = has_ro_compat(sbi, RO_COMPAT_HUGE_FILE)
    bits = sb.s_blocksize_bits
    sbi.s_bitmap_maxbytes = ext4_max_bitmap_size(bits, huge)
    sb.s_maxbytes = ext4_max_size(bits, huge) if has_incompat(sbi, INCOMPAT_EXTENTS) else sbi.s_bitmap_maxbytes
    if es.s_rev_level == 0:
        sbi.s_inode_size, sbi.s_first_ino = 128, 11
    else:
        sbi.s_inode_size, sbi.s_first_ino = es.s_inode_size, es.s_first_ino
        if sbi.s_first_ino < 11:
            refuse(f"invalid first ino: {sbi.s_first_ino}")
        if sbi.s_inode_size < 128 or sbi.s_inode_size & sbi.s_inode_size - 1 or sbi.s_inode_size > blocksize:
            refuse(f"unsupported inode size: {sbi.s_inode_size}")
        if sbi.s_inode_size > 128:
            sb.s_time_gran = 1
    if sbi.s_inode_size == 128:
        sb.s_time_gran = 1_000_000_000
    sbi.s_desc_size = es.s_desc_size
    if has_incompat(sbi, INCOMPAT_64BIT):
        if not 64 <= sbi.s_desc_size <= 1024 or sbi.s_desc_size & sbi.s_desc_size - 1:
            refuse(f"unsupported descriptor size {sbi.s_desc_size}")
    else:
        sbi.s_desc_size = 32
    sbi.s_blocks_per_group, sbi.s_inodes_per_group = es.s_blocks_per_group, es.s_inodes_per_group
    sbi.s_inodes_per_block = blocksize // sbi.s_inode_size
    if not sbi.s_inodes_per_block or not sbi.s_blocks_per_group:
        refuse("VFS: Can't find ext4 filesystem")
    if not sbi.s_inodes_per_block <= sbi.s_inodes_per_group <= blocksize * 8:
        refuse(f"invalid inodes per group: {sbi.s_inodes_per_group}")
    sbi.s_itb_per_group = sbi.s_inodes_per_group // sbi.s_inodes_per_block
    sbi.s_desc_per_block = blocksize // sbi.s_desc_size
    sbi.s_desc_per_block_bits = sbi.s_desc_per_block.bit_length() - 1
    sbi.s_addr_per_block = blocksize // 4
    sbi.s_mount_state = es.s_state
    seed = es.s_hash_seed
    sbi.s_hash_seed = tuple(int.from_bytes(seed[i : i + 4], "little") for i in (0, 4, 8, 12))  # type: ignore[assignment]
    sbi.s_def_hash_version = es.s_def_hash_version
    if has_compat(sbi, COMPAT_DIR_INDEX):
        flags = es.s_flags
        if flags & EXT2_FLAGS_UNSIGNED_HASH:
            sbi.s_hash_unsigned = 3
        elif not flags & EXT2_FLAGS_SIGNED_HASH and not sb.s_flags & SB_RDONLY:
            es.s_flags |= EXT2_FLAGS_SIGNED_HASH     # x86: characters are signed
    if es.s_log_cluster_size != es.s_log_block_size and has_ro_compat(sbi, 0x200):
        refuse("bigalloc is not supported")
    sbi.s_clusters_per_group = sbi.s_blocks_per_group
    if sbi.s_blocks_per_group > blocksize * 8:
        refuse(f"#blocks per group too big: {sbi.s_blocks_per_group}")
    blocks_count = ext4_blocks_count(es)
    device_blocks = sb.s_bdev.bd_inode.i_size >> bits
    if device_blocks and blocks_count > device_blocks:
        refuse(f"bad geometry: block count {blocks_count} exceeds size of device ({device_blocks} blocks)")
    if es.s_first_data_block >= blocks_count:
        refuse(f"bad geometry: first data block {es.s_first_data_block} is beyond end of filesystem ({blocks_count})")
    if es.s_first_data_block == 0 and es.s_log_block_size == 0:
        refuse("bad geometry: first data block is 0 with a 1k block and cluster size")
    if es.s_first_data_block > 1:
        refuse(f"bad geometry: first data block {es.s_first_data_block} is beyond end of filesystem ({blocks_count})")
    groups = -(-(blocks_count - es.s_first_data_block) // sbi.s_blocks_per_group)
    if groups > 1 << 32 or groups * sbi.s_inodes_per_group != es.s_inodes_count:
        refuse(f"inodes count not valid: {es.s_inodes_count} vs {groups * sbi.s_inodes_per_group}")
    sbi.s_groups_count = groups
    sbi.s_blockfile_groups = min(groups, (1 << 32) // sbi.s_blocks_per_group)
    sbi.s_gdb_count = -(-groups // sbi.s_desc_per_block)
    if has_incompat(sbi, INCOMPAT_META_BG) and es.s_first_meta_bg > sbi.s_gdb_count:
        refuse(
            f"first meta block group too large: {es.s_first_meta_bg} (group descriptor block count {sbi.s_gdb_count})"
        )
    if sbi.s_inode_size > 128:
        sbi.s_want_extra_isize = 32
        if has_ro_compat(sbi, 0x40):
            sbi.s_want_extra_isize = max(32, es.s_want_extra_isize, es.s_min_extra_isize)
        if 128 + sbi.s_want_extra_isize > sbi.s_inode_size:
            sbi.s_want_extra_isize = 32
    sbi.s_xattr_feature = has_compat(sbi, COMPAT_EXT_ATTR)
    sb.s_uuid = es.s_uuid


@notrace
@may_sleep
def ext4_start(sb: SuperBlock, sbi: Ext4SbInfo) -> None:
    """The second half of ext4_fill_super(): journal, counters, root, recovery."""
    es = sbi.s_es
    sb.s_op = ext4_sops
    needs_recovery = bool(es.s_last_orphan) or has_incompat(sbi, INCOMPAT_RECOVER)
    ext4_mb_init(sb)
    ext4_start_journal(sb, sbi)
    # Recovery may have replaced what was read: count afterwards.
    ext4_mb_release(sb)
    ext4_calculate_overhead(sb)
    ext4_es_register_shrinker(sb)
    sbi.rsv_conversion_wq = alloc_workqueue(sb.kernel, "ext4-rsv-conversion", WQ_MEM_RECLAIM | WQ_UNBOUND, 1)
    ext4_mb_init(sb)
    sbi.s_freeclusters_counter = ext4_count_free_clusters(sb)
    sbi.s_freeinodes_counter = ext4_count_free_inodes(sb)
    sbi.s_dirs_counter = ext4_count_dirs(sb)
    ext4_fill_flex_info(sb)
    if has_incompat(sbi, INCOMPAT_EXTENTS):          # ext4_set_resv_clusters()
        sbi.s_resv_clusters = min(ext4_blocks_count(es) // 50, 4096)
    root = ext4_iget(sb, EXT4_ROOT_INO, EXT4_IGET_SPECIAL)
    if root.i_mode & S_IFMT != S_IFDIR or not root.i_blocks or not root.i_size:
        ext4_msg(sb, KERN_ERR, "corrupt root inode, run e2fsck")
        iput(root)
        raise KernelError(EFSCORRUPTED)
    sb.s_root = d_make_root(root)
    try:
        ext4_setup_super(sb, es, bool(sb.s_flags & SB_RDONLY))
    except KernelError as e:
        if e.errno != EROFS:
            raise
        sb.s_flags |= SB_RDONLY
    ext4_setup_system_zone(sb)
    ext4_register_li_request(sb, 0)
    ext4_register_sysfs(sb)
    sbi.s_mount_state |= EXT4_ORPHAN_FS
    ext4_orphan_cleanup(sb, es)
    sbi.s_mount_state &= ~EXT4_ORPHAN_FS
    if needs_recovery:
        ext4_msg(sb, KERN_INFO, "recovery complete")
        ext4_mark_recovery_complete(sb, es)


@notrace
@may_sleep
def ext4_give_up(sb: SuperBlock, sbi: Ext4SbInfo) -> None:
    """What a failed mount leaves behind goes."""
    if sb.s_root is not None:
        root, sb.s_root = sb.s_root, None  # type: ignore[assignment]
        dput(root)
    for inode in list(sb.s_inode_list):
        if not inode.i_count:
            evict(inode)
    if sbi.s_journal is not None:
        jbd2_journal_destroy(sbi.s_journal)
        sbi.s_journal = None
    ext4_es_unregister_shrinker(sb)
    if sbi.rsv_conversion_wq is not None:
        destroy_workqueue(sbi.rsv_conversion_wq)
        sbi.rsv_conversion_wq = None
    ext4_mb_release(sb)
    for bh in sbi.s_group_desc:
        brelse(bh)
    sbi.s_group_desc = []
    if sbi.s_sbh is not None:
        brelse(sbi.s_sbh)
        sbi.s_sbh = None  # type: ignore[assignment]


@notrace
def check_dioread_nolock(sb: SuperBlock, sbi: Ext4SbInfo) -> None:
    """Raises EINVAL where the option cannot be."""
    if not test_opt(sbi, EXT4_MOUNT_DIOREAD_NOLOCK):
        return
    if sbi.s_mount_opt & EXT4_MOUNT_DATA_FLAGS == EXT4_MOUNT_JOURNAL_DATA:
        ext4_msg(sb, KERN_ERR, "can't mount with both data=journal and dioread_nolock")
        raise KernelError(EINVAL)
    if 1024 << sbi.s_es.s_log_block_size < 4096:
        ext4_msg(sb, KERN_ERR, "can't mount with dioread_nolock if block size != PAGE_SIZE")
        raise KernelError(EINVAL)


@may_sleep
def ext4_put_super(sb: SuperBlock) -> None:
    """->put_super(): everything is written; the file system is marked clean."""
    sbi = EXT4_SB(sb)
    if sbi.s_sbh is None:
        return
    es = sbi.s_es
    ext4_unregister_li_request(sb)
    ext4_es_unregister_shrinker(sb)
    destroy_workqueue(sbi.rsv_conversion_wq)
    aborted = False
    if sbi.s_journal is not None:
        aborted = bool(sbi.s_journal.j_flags & JBD2_ABORT)
        journal, sbi.s_journal = sbi.s_journal, None
        try:
            jbd2_journal_destroy(journal)
        except KernelError as e:
            if not aborted:
                ext4_error(sb, f"Couldn't clean up the journal ({-e.errno})")
    ext4_unregister_sysfs(sb)
    ext4_release_system_zone(sb)
    ext4_mb_release(sb)
    if not sb.s_flags & SB_RDONLY and not aborted:
        es.s_feature_incompat &= ~INCOMPAT_RECOVER
        es.s_state = sbi.s_mount_state & 0xFFFF
    if not sb.s_flags & SB_RDONLY:
        with contextlib.suppress(KernelError):
            ext4_commit_super(sb, 1)
    for bh in sbi.s_group_desc:
        brelse(bh)
    sbi.s_group_desc = []
    brelse(sbi.s_sbh)
    sbi.s_sbh = None  # type: ignore[assignment]
    with contextlib.suppress(KernelError):
        sync_blockdev(sb.s_bdev)
    invalidate_bdev(sb.s_bdev)


# ---- while mounted -----------------------------------------------------------------------------------------
@may_sleep
def ext4_sync_fs(sb: SuperBlock, wait: int) -> None:
    """->sync_fs(): commits the running transaction; wait: until it is on disk. Raises EIO."""
    sbi = EXT4_SB(sb)
    if ext4_forced_shutdown(sbi) or sbi.s_sbh is None:
        return
    probe = sb.kernel.tp.ext4_sync_fs
    if probe is not None:
        probe(sb, wait)
    flush_workqueue(sbi.rsv_conversion_wq)
    if sbi.s_journal is not None:
        target = jbd2_journal_start_commit(sbi.s_journal)
        if target is not None and wait:
            jbd2_log_wait_commit(sbi.s_journal, target)
    elif wait and test_opt(sbi, EXT4_MOUNT_BARRIER):
        sb.kernel.vfs.blkdev_issue_flush(sb.s_bdev)


@may_sleep
def ext4_statfs(dentry: Dentry) -> Kstatfs:
    """->statfs()."""
    sb = dentry.d_sb
    sbi = EXT4_SB(sb)
    es = sbi.s_es
    overhead = 0 if test_opt(sbi, EXT4_MOUNT_MINIX_DF) else sbi.s_overhead
    bfree = max(sbi.s_freeclusters_counter - sbi.s_dirtyclusters_counter, 0)
    reserved = ext4_r_blocks_count(es) + sbi.s_resv_clusters
    uuid = es.s_uuid
    return Kstatfs(
        EXT4_SUPER_MAGIC, sb.s_blocksize, ext4_blocks_count(es) - overhead, bfree, max(bfree - reserved, 0),
        es.s_inodes_count, sbi.s_freeinodes_counter,
        int.from_bytes(uuid[:8], "little") ^ int.from_bytes(uuid[8:], "little"), 255, sb.s_blocksize)


@may_sleep
def ext4_remount(sb: SuperBlock, flags: int, data: bytes) -> int:
    """->remount_fs(): the new SB_* flags. Raises EINVAL, EROFS."""
    sbi = EXT4_SB(sb)
    es = sbi.s_es
    saved = (sb.s_flags, sbi.s_mount_opt, sbi.s_mount_opt2, sbi.s_resuid, sbi.s_resgid, sbi.s_commit_interval,
             sbi.s_min_batch_time, sbi.s_max_batch_time)
    try:
        parse_options(data, sb, True)
        check_dioread_nolock(sb, sbi)
        if sbi.s_mount_flags & EXT4_MF_FS_ABORTED:
            if not flags & SB_RDONLY:
                raise KernelError(EROFS)
        if sbi.s_journal is not None:
            ext4_init_journal_params(sb, sbi.s_journal)
        if (flags ^ sb.s_flags) & SB_RDONLY:
            if flags & SB_RDONLY:
                sync_filesystem(sb)
                sb.s_flags |= SB_RDONLY
                ext4_unregister_li_request(sb)
                if not es.s_state & EXT4_VALID_FS and sbi.s_mount_state & EXT4_VALID_FS:
                    es.s_state = sbi.s_mount_state & 0xFFFF
                if sbi.s_journal is not None:
                    ext4_mark_recovery_complete(sb, es)
            else:
                if es.s_feature_ro_compat & RO_COMPAT_READONLY or not ext4_feature_set_ok(sb, False):
                    raise KernelError(EROFS)
                for g in range(sbi.s_groups_count):
                    gdp, _ = ext4_get_group_desc(sb, g)
                    if not ext4_group_desc_csum_verify(sb, g, gdp):
                        ext4_msg(sb, KERN_ERR, f"ext4_remount: Checksum for group {g} failed "
                                 f"({ext4_group_desc_csum(sb, g, gdp)}!={gdp.bg_checksum})")
                        raise KernelError(EFSBADCRC)
                if es.s_last_orphan:
                    ext4_warning(sb, "Couldn't remount RDWR because of unprocessed orphan inode list.  Please "
                                 "umount/remount instead")
                    raise KernelError(EINVAL)
                if sbi.s_journal is not None:
                    ext4_clear_journal_err(sb, es)
                sbi.s_mount_state = es.s_state
                sb.s_flags &= ~SB_RDONLY
                ext4_setup_super(sb, es, False)
        if sb.s_flags & SB_RDONLY or not test_opt(sbi, EXT4_MOUNT_INIT_INODE_TABLE):
            ext4_unregister_li_request(sb)
        else:
            ext4_register_li_request(sb, 0)
        sbi.s_system_blks = [] if not test_opt(sbi, EXT4_MOUNT_BLOCK_VALIDITY) else sbi.s_system_blks
        ext4_setup_system_zone(sb)
        if sbi.s_journal is None and not sb.s_flags & SB_RDONLY:
            ext4_commit_super(sb, 1)
    except KernelError:
        (sb.s_flags, sbi.s_mount_opt, sbi.s_mount_opt2, sbi.s_resuid, sbi.s_resgid, sbi.s_commit_interval,
         sbi.s_min_batch_time, sbi.s_max_batch_time) = saved
        raise
    ext4_msg(sb, KERN_INFO, f"re-mounted. Opts: {data.decode(errors='replace') or '(null)'}")
    return sb.s_flags & ~SB_RDONLY | flags & SB_RDONLY


ext4_sops = SuperOperations(
    alloc_inode=ext4_alloc_inode, free_inode=ext4_free_in_core_inode, statfs=ext4_statfs,
    drop_inode=ext4_drop_inode, evict_inode=ext4_evict_inode, put_super=ext4_put_super, sync_fs=ext4_sync_fs,
    write_inode=ext4_write_inode, dirty_inode=ext4_dirty_inode, show_options=ext4_show_options, remount_fs=ext4_remount)
