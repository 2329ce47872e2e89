"""What ext4 keeps in memory for a super block, a group and an inode; its constants.

Linux: fs/ext4/ext4.h, ext4_extents.h, mballoc.h (5.3). Only data; fs/ext4/*.py works on it.
Differs: one cluster is one block (bigalloc is refused at mount); spin locks are absent where nothing sleeps.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.kernel.locking.mutex import Mutex
from glasskernel.kernel.locking.rwsem import RwSemaphore
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.ext4.disk import Ext4SuperBlock
    from glasskernel.fs.types import Inode, SuperBlock
    from glasskernel.mm.shrinker import Shrinker

EXT4_SUPER_MAGIC = 0xEF53
EXT4_ROOT_INO, EXT4_USR_QUOTA_INO, EXT4_GRP_QUOTA_INO, EXT4_BOOT_LOADER_INO, EXT4_JOURNAL_INO = 2, 3, 4, 5, 8
EXT4_GOOD_OLD_FIRST_INO, EXT4_GOOD_OLD_INODE_SIZE = 11, 128
EXT4_MIN_DESC_SIZE, EXT4_MIN_DESC_SIZE_64BIT, EXT4_MAX_DESC_SIZE = 32, 64, 1024
EXT4_NDIR_BLOCKS, EXT4_IND_BLOCK, EXT4_DIND_BLOCK, EXT4_TIND_BLOCK, EXT4_N_BLOCKS = 12, 12, 13, 14, 15
EXT4_LINK_MAX, EXT4_NAME_LEN, EXT4_DIR_PAD, EXT4_HTREE_EOF_32BIT, EXT4_HTREE_EOF_64BIT = (
    65000, 255, 4, 0x7FFFFFFF, 0x7FFFFFFFFFFFFFFF)
EXT4_VALID_FS, EXT4_ERROR_FS, EXT4_ORPHAN_FS = 1, 2, 4
EXT4_ERRORS_CONTINUE, EXT4_ERRORS_RO, EXT4_ERRORS_PANIC = 1, 2, 3
EXT2_FLAGS_SIGNED_HASH, EXT2_FLAGS_UNSIGNED_HASH = 1, 2
EXT4_BG_INODE_UNINIT, EXT4_BG_BLOCK_UNINIT, EXT4_BG_INODE_ZEROED = 1, 2, 4

# features
COMPAT_DIR_PREALLOC, COMPAT_HAS_JOURNAL, COMPAT_EXT_ATTR = 1, 4, 8
COMPAT_RESIZE_INODE, COMPAT_DIR_INDEX, COMPAT_SPARSE_SUPER2 = 0x10, 0x20, 0x200
RO_COMPAT_SPARSE_SUPER, RO_COMPAT_LARGE_FILE, RO_COMPAT_BTREE_DIR, RO_COMPAT_HUGE_FILE = 1, 2, 4, 8
RO_COMPAT_GDT_CSUM, RO_COMPAT_DIR_NLINK, RO_COMPAT_EXTRA_ISIZE, RO_COMPAT_QUOTA = 0x10, 0x20, 0x40, 0x100
RO_COMPAT_BIGALLOC, RO_COMPAT_METADATA_CSUM, RO_COMPAT_READONLY, RO_COMPAT_PROJECT, RO_COMPAT_VERITY = (
    0x200, 0x400, 0x1000, 0x2000, 0x8000)
INCOMPAT_COMPRESSION, INCOMPAT_FILETYPE, INCOMPAT_RECOVER, INCOMPAT_JOURNAL_DEV, INCOMPAT_META_BG = 1, 2, 4, 8, 0x10
INCOMPAT_EXTENTS, INCOMPAT_64BIT, INCOMPAT_MMP, INCOMPAT_FLEX_BG, INCOMPAT_EA_INODE = 0x40, 0x80, 0x100, 0x200, 0x400
INCOMPAT_CSUM_SEED, INCOMPAT_LARGEDIR, INCOMPAT_INLINE_DATA, INCOMPAT_ENCRYPT, INCOMPAT_CASEFOLD = (
    0x2000, 0x4000, 0x8000, 0x10000, 0x20000)
# What this driver understands (Linux's lists without what is refused at mount).
EXT2_INCOMPAT_SUPP = INCOMPAT_FILETYPE | INCOMPAT_META_BG
EXT2_RO_COMPAT_SUPP = RO_COMPAT_SPARSE_SUPER | RO_COMPAT_LARGE_FILE | RO_COMPAT_BTREE_DIR
EXT3_INCOMPAT_SUPP = EXT2_INCOMPAT_SUPP | INCOMPAT_RECOVER
EXT4_INCOMPAT_SUPP = (EXT3_INCOMPAT_SUPP | INCOMPAT_EXTENTS | INCOMPAT_64BIT | INCOMPAT_FLEX_BG | INCOMPAT_CSUM_SEED)
EXT4_RO_COMPAT_SUPP = (
    EXT2_RO_COMPAT_SUPP | RO_COMPAT_GDT_CSUM | RO_COMPAT_DIR_NLINK | RO_COMPAT_EXTRA_ISIZE | RO_COMPAT_HUGE_FILE
    | RO_COMPAT_METADATA_CSUM)

# i_flags on disk
EXT4_SECRM_FL, EXT4_UNRM_FL, EXT4_COMPR_FL, EXT4_SYNC_FL, EXT4_IMMUTABLE_FL, EXT4_APPEND_FL = 1, 2, 4, 8, 0x10, 0x20
EXT4_NODUMP_FL, EXT4_NOATIME_FL, EXT4_ENCRYPT_FL, EXT4_INDEX_FL = 0x40, 0x80, 0x800, 0x1000
EXT4_JOURNAL_DATA_FL, EXT4_NOTAIL_FL, EXT4_DIRSYNC_FL, EXT4_TOPDIR_FL = 0x4000, 0x8000, 0x10000, 0x20000
EXT4_HUGE_FILE_FL, EXT4_EXTENTS_FL, EXT4_VERITY_FL, EXT4_EA_INODE_FL = 0x40000, 0x80000, 0x100000, 0x200000
EXT4_EOFBLOCKS_FL, EXT4_INLINE_DATA_FL, EXT4_PROJINHERIT_FL, EXT4_CASEFOLD_FL = (
    0x400000,
    0x10000000,
    0x20000000,
    0x40000000,
)
EXT4_FL_USER_VISIBLE, EXT4_FL_USER_MODIFIABLE = 0x705BDFFF, 0x604BC0FF
EXT4_FL_INHERITED = (
    EXT4_SECRM_FL | EXT4_UNRM_FL | EXT4_COMPR_FL | EXT4_SYNC_FL | EXT4_NODUMP_FL | EXT4_NOATIME_FL | 0x400
    | EXT4_JOURNAL_DATA_FL | EXT4_NOTAIL_FL | EXT4_DIRSYNC_FL | EXT4_PROJINHERIT_FL | EXT4_CASEFOLD_FL)
EXT4_REG_FLMASK = ~(EXT4_DIRSYNC_FL | EXT4_TOPDIR_FL | EXT4_CASEFOLD_FL | EXT4_PROJINHERIT_FL)
EXT4_OTHER_FLMASK = EXT4_NODUMP_FL | EXT4_NOATIME_FL

# i_state_flags
EXT4_STATE_JDATA, EXT4_STATE_NEW, EXT4_STATE_XATTR, EXT4_STATE_NO_EXPAND = 1, 2, 4, 8
EXT4_STATE_DA_ALLOC_CLOSE, EXT4_STATE_EXT_MIGRATE, EXT4_STATE_EXT_PRECACHED, EXT4_STATE_LUSTRE_EA_INODE = (
    16,
    32,
    64,
    128,
)

# mount options (s_mount_opt)
EXT4_MOUNT_NO_MBCACHE, EXT4_MOUNT_GRPID, EXT4_MOUNT_DEBUG = 0x1, 0x4, 0x8
EXT4_MOUNT_ERRORS_CONT, EXT4_MOUNT_ERRORS_RO, EXT4_MOUNT_ERRORS_PANIC, EXT4_MOUNT_ERRORS_MASK = 0x10, 0x20, 0x40, 0x70
EXT4_MOUNT_MINIX_DF, EXT4_MOUNT_NOLOAD = 0x80, 0x100
EXT4_MOUNT_JOURNAL_DATA, EXT4_MOUNT_ORDERED_DATA, EXT4_MOUNT_WRITEBACK_DATA, EXT4_MOUNT_DATA_FLAGS = (
    0x400,
    0x800,
    0xC00,
    0xC00,
)
EXT4_MOUNT_UPDATE_JOURNAL, EXT4_MOUNT_NO_UID32, EXT4_MOUNT_XATTR_USER, EXT4_MOUNT_POSIX_ACL = (
    0x1000,
    0x2000,
    0x4000,
    0x8000,
)
EXT4_MOUNT_NO_AUTO_DA_ALLOC, EXT4_MOUNT_BARRIER, EXT4_MOUNT_QUOTA = 0x10000, 0x20000, 0x40000
EXT4_MOUNT_DIOREAD_NOLOCK, EXT4_MOUNT_JOURNAL_CHECKSUM, EXT4_MOUNT_JOURNAL_ASYNC_COMMIT = 0x400000, 0x800000, 0x1000000
(
    EXT4_MOUNT_DELALLOC,
    EXT4_MOUNT_DATA_ERR_ABORT,
    EXT4_MOUNT_BLOCK_VALIDITY,
    EXT4_MOUNT_DISCARD,
    EXT4_MOUNT_INIT_INODE_TABLE,
) = (0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x80000000)
EXT4_MOUNT2_EXPLICIT_DELALLOC, EXT4_MOUNT2_STD_GROUP_SIZE, EXT4_MOUNT2_EXPLICIT_JOURNAL_CHECKSUM = 1, 2, 8

EXT4_DEFM_DEBUG, EXT4_DEFM_BSDGROUPS, EXT4_DEFM_XATTR_USER, EXT4_DEFM_ACL, EXT4_DEFM_UID16 = 1, 2, 4, 8, 0x10
EXT4_DEFM_JMODE, EXT4_DEFM_JMODE_DATA, EXT4_DEFM_JMODE_ORDERED, EXT4_DEFM_JMODE_WBACK = 0x60, 0x20, 0x40, 0x60
EXT4_DEFM_NOBARRIER, EXT4_DEFM_BLOCK_VALIDITY, EXT4_DEFM_DISCARD, EXT4_DEFM_NODELALLOC = 0x100, 0x200, 0x400, 0x800
EXT4_DEF_RESUID = EXT4_DEF_RESGID = 0
EXT4_DEF_INODE_READAHEAD_BLKS, EXT4_DEF_LI_WAIT_MULT, EXT4_DEF_MIN_BATCH_TIME, EXT4_DEF_MAX_BATCH_TIME = (
    32,
    10,
    0,
    15000,
)

# s_mount_flags, s_ext4_flags
EXT4_MF_MNTDIR_SAMPLED, EXT4_MF_FS_ABORTED, EXT4_MF_TEST_DUMMY_ENCRYPTION = 1, 2, 4
EXT4_FLAGS_RESIZING, EXT4_FLAGS_SHUTDOWN = 1, 2

# struct ext4_map_blocks m_flags (buffer state bits of Linux's BH_New, BH_Mapped, BH_Unwritten)
EXT4_MAP_NEW, EXT4_MAP_MAPPED, EXT4_MAP_UNWRITTEN, EXT4_MAP_BOUNDARY = 0x20, 0x10, 0x800, 0x200
EXT4_MAP_FLAGS = EXT4_MAP_NEW | EXT4_MAP_MAPPED | EXT4_MAP_UNWRITTEN | EXT4_MAP_BOUNDARY
EXT4_GET_BLOCKS_CREATE, EXT4_GET_BLOCKS_UNWRIT_EXT, EXT4_GET_BLOCKS_CREATE_UNWRIT_EXT = 1, 2, 3
EXT4_GET_BLOCKS_DELALLOC_RESERVE, EXT4_GET_BLOCKS_PRE_IO, EXT4_GET_BLOCKS_CONVERT = 4, 8, 0x10
EXT4_GET_BLOCKS_IO_CREATE_EXT = EXT4_GET_BLOCKS_PRE_IO | EXT4_GET_BLOCKS_CREATE_UNWRIT_EXT
EXT4_GET_BLOCKS_IO_CONVERT_EXT = EXT4_GET_BLOCKS_CONVERT | EXT4_GET_BLOCKS_CREATE_UNWRIT_EXT
EXT4_GET_BLOCKS_METADATA_NOFAIL, EXT4_GET_BLOCKS_NO_NORMALIZE, EXT4_GET_BLOCKS_CONVERT_UNWRITTEN = 0x20, 0x40, 0x100
EXT4_GET_BLOCKS_ZERO, EXT4_GET_BLOCKS_CREATE_ZERO, EXT4_GET_BLOCKS_IO_SUBMIT = 0x200, 0x201, 0x400
EXT4_EX_NOCACHE, EXT4_EX_FORCE_CACHE = 0x40000000, 0x20000000
EXT4_FREE_BLOCKS_METADATA, EXT4_FREE_BLOCKS_FORGET, EXT4_FREE_BLOCKS_VALIDATED, EXT4_FREE_BLOCKS_NO_QUOT_UPDATE = (
    1,
    2,
    4,
    8,
)

EXT_MAX_BLOCKS = 0xFFFFFFFF
EXT_INIT_MAX_LEN, EXT_UNWRITTEN_MAX_LEN = 1 << 15, (1 << 15) - 1
EXT4_EXT_MAGIC = 0xF30A

# handle types (ext4_jbd2.h)
(EXT4_HT_MISC, EXT4_HT_INODE, EXT4_HT_WRITE_PAGE, EXT4_HT_MAP_BLOCKS, EXT4_HT_DIR, EXT4_HT_TRUNCATE, EXT4_HT_QUOTA,
 EXT4_HT_RESIZE, EXT4_HT_MIGRATE, EXT4_HT_MOVE_EXTENTS, EXT4_HT_XATTR, EXT4_HT_EXT_CONVERT) = range(12)

MAX_BLOCKS_PER_ALLOC = 1 << 31


@slotted
class Ext4MapBlocks:
    """struct ext4_map_blocks"""

    m_lblk: int
    m_len: int
    m_pblk: int = 0
    m_flags: int = 0


@slotted
class ExtentStatus:
    """struct extent_status: blocks es_lblk .. es_lblk + es_len - 1; es_status: ES_*; es_pblk of the first."""

    es_lblk: int
    es_len: int
    es_pblk: int
    es_status: int


@slotted
class Ext4InodeInfo:
    """struct ext4_inode_info: inode.i_private."""

    vfs_inode: Inode
    i_data: bytearray = field(default_factory=lambda: bytearray(60))         # as on disk: extents or block numbers
    i_dtime: int = 0
    i_file_acl: int = 0
    i_block_group: int = 0
    i_dir_start_lookup: int = 0
    i_dir_full: dict[int, int] | None = None           # a directory's block -> offset: no entry before it has room
    i_flags: int = 0                   # EXT4_*_FL
    i_state_flags: int = 0             # EXT4_STATE_*
    i_extra_isize: int = 0
    i_crtime: int = 0                  # ns
    i_projid: int = 0
    i_csum_seed: int = 0
    i_disksize: int = 0                # i_data_sem: the size on disk; i_size may run ahead of it
    i_orphan: bool = False             # in sbi.s_orphan
    i_data_sem: RwSemaphore = field(default_factory=RwSemaphore)             # the block mapping
    i_mmap_sem: RwSemaphore = field(default_factory=RwSemaphore)             # page faults against truncate
    xattr_sem: RwSemaphore = field(default_factory=RwSemaphore)
    i_es_lblk: list[int] = field(default_factory=list)                       # i_es_tree: the keys, sorted
    i_es: list[ExtentStatus] = field(default_factory=list)                   # ... and the extents
    i_es_shrink_lblk: int = 0                                                # where the shrinker goes on
    i_reserved_data_blocks: int = 0
    i_not_allocated: bool = False      # no number on disk was given to it: nothing to free
    i_prealloc_list: list[Any] = field(default_factory=list)                 # Ext4PreallocSpace
    i_last_alloc_group: int = -1       # EXT4: the group of the last allocation (i_last_alloc_group)
    i_allocated_meta_blocks: int = 0
    jinode: Any = None                 # fs.jbd2 JbdInode
    i_sync_tid: int = 0
    i_datasync_tid: int = 0
    i_rsv_conversion_list: list[Any] = field(default_factory=list)           # io ends whose extents become written
    i_rsv_conversion_work: Any = None
    i_unwritten: int = 0               # io ends that are not converted yet
    i_fall_back_to_nondelalloc: bool = False                                 # between write_begin and write_end
    i_acl: Any = False                 # False: not read; None: there is none
    i_default_acl: Any = False


@slotted
class Ext4GroupInfo:
    """struct ext4_group_info. runs: the free runs of the in-core bitmap (on disk minus preallocated minus just
    freed).
    """

    bb_group: int
    bb_state: int = 1                  # EXT4_GROUP_INFO_NEED_INIT
    bb_free: int = 0
    bb_fragments: int = 0
    bb_first_free: int = 0
    bb_largest_free_order: int = -1
    bb_last_trim_minblks: int = 0
    bb_counters: list[int] = field(default_factory=list)
    bb_prealloc_list: list[Any] = field(default_factory=list)
    bb_freed: list[Any] = field(default_factory=list)                        # Ext4FreeData: freed, not committed
    run_start: list[int] = field(default_factory=list)
    run_len: list[int] = field(default_factory=list)


EXT4_GROUP_INFO_NEED_INIT, EXT4_GROUP_INFO_WAS_TRIMMED = 1, 2
EXT4_GROUP_INFO_BBITMAP_CORRUPT, EXT4_GROUP_INFO_IBITMAP_CORRUPT = 4, 8


@slotted
class Ext4SbInfo:
    """struct ext4_sb_info: sb.s_fs_info."""

    s_sb: SuperBlock
    s_es: Ext4SuperBlock = None  # type: ignore[assignment]
    s_sbh: BufferHead = None  # type: ignore[assignment]
    s_desc_size: int = 32
    s_inodes_per_block: int = 0
    s_blocks_per_group: int = 0
    s_clusters_per_group: int = 0
    s_inodes_per_group: int = 0
    s_itb_per_group: int = 0
    s_gdb_count: int = 0
    s_desc_per_block: int = 0
    s_desc_per_block_bits: int = 0
    s_groups_count: int = 0
    s_blockfile_groups: int = 0
    s_overhead: int = 0
    s_group_desc: list[BufferHead] = field(default_factory=list)
    s_mount_opt: int = 0
    s_mount_opt2: int = 0
    s_def_mount_opt: int = 0
    s_mount_flags: int = 0
    s_ext4_flags: int = 0
    s_sb_block: int = 1
    s_resuid: int = 0
    s_resgid: int = 0
    s_resv_clusters: int = 0
    s_mount_state: int = 0
    s_inode_size: int = 128
    s_first_ino: int = 11
    s_want_extra_isize: int = 0
    s_inode_readahead_blks: int = EXT4_DEF_INODE_READAHEAD_BLKS
    s_inode_goal: int = 0
    s_hash_seed: tuple[int, int, int, int] = (0, 0, 0, 0)
    s_def_hash_version: int = 0
    s_hash_unsigned: int = 0
    s_csum_seed: int = 0
    s_addr_per_block: int = 0
    s_next_generation: int = 0
    s_freeclusters_counter: int = 0
    s_freeinodes_counter: int = 0
    s_dirs_counter: int = 0
    s_dirtyclusters_counter: int = 0   # reserved by delayed allocation, not allocated
    s_log_groups_per_flex: int = 0
    s_flex_groups: list[list[int]] = field(default_factory=list)             # [free_clusters, free_inodes, used_dirs]
    s_system_blks: list[tuple[int, int]] = field(default_factory=list)       # (first block, count), sorted
    s_journal: Any = None
    s_commit_interval: int = 5         # seconds
    s_orphan: dict[Inode, None] = field(default_factory=dict)                # newest last (Linux: newest first)
    s_orphan_lock: Mutex = field(default_factory=Mutex)
    s_writepages_rwsem: RwSemaphore = field(default_factory=RwSemaphore)
    s_max_dir_size_kb: int = 0
    s_max_batch_time: int = EXT4_DEF_MAX_BATCH_TIME
    s_min_batch_time: int = EXT4_DEF_MIN_BATCH_TIME
    s_li_wait_mult: int = EXT4_DEF_LI_WAIT_MULT
    s_li_request: Any = None
    s_bitmap_maxbytes: int = 0
    s_sectors_written_start: int = 0
    rsv_conversion_wq: Any = None
    s_proc: Any = None
    s_kobj: Any = None
    s_ea_block_cache: dict[int, list[int]] = field(default_factory=dict)     # hash of an attribute block -> blocks
    s_xattr_feature: bool = False
    s_journal_name: bytes = b""
    s_jquota: Any = None
    s_warning_count: int = 0
    s_msg_count: int = 0
    s_err_report: Any = None
    # mballoc
    s_group_info: list[Ext4GroupInfo] = field(default_factory=list)
    s_freed_data_list: list[Any] = field(default_factory=list)
    s_stripe: int = 0
    s_mb_stats: int = 0
    s_mb_max_to_scan: int = 200
    s_mb_min_to_scan: int = 10
    s_mb_stream_request: int = 16
    s_mb_order2_reqs: int = 2
    s_mb_group_prealloc: int = 512
    s_mb_last_group: int = 0
    s_mb_last_start: int = 0
    s_mb_generated: int = 0
    s_locality_groups: list[Any] = field(default_factory=list)
    s_mb_max_inode_prealloc: int = 512
    s_bal_reqs: int = 0
    s_bal_success: int = 0
    s_bal_allocated: int = 0
    s_bal_ex_scanned: int = 0
    s_bal_goals: int = 0
    s_bal_breaks: int = 0
    s_bal_2orders: int = 0
    s_mb_preallocated: int = 0
    s_mb_discarded: int = 0
    s_extent_max_zeroout_kb: int = 32
    s_es_nr_inode: int = 0
    s_es_shrinker: Shrinker | None = None
    s_es_cache_hits: int = 0
    s_es_cache_misses: int = 0
    s_tables: Any = None               # super.Ext4Tables: operations that ext4_iget() hands out


@notrace
def EXT4_I(inode: Inode) -> Ext4InodeInfo:
    return inode.i_private  # type: ignore[no-any-return]


@notrace
def EXT4_SB(sb: SuperBlock) -> Ext4SbInfo:
    return sb.s_fs_info  # type: ignore[no-any-return]


@notrace
def test_opt(sbi: Ext4SbInfo, option: int) -> bool:
    """For options of one bit; data= and errors= are compared under their masks."""
    return bool(sbi.s_mount_opt & option)


@notrace
def has_compat(sbi: Ext4SbInfo, feature: int) -> bool:
    return bool(sbi.s_es.s_feature_compat & feature)


@notrace
def has_incompat(sbi: Ext4SbInfo, feature: int) -> bool:
    return bool(sbi.s_es.s_feature_incompat & feature)


@notrace
def has_ro_compat(sbi: Ext4SbInfo, feature: int) -> bool:
    return bool(sbi.s_es.s_feature_ro_compat & feature)


@notrace
def ext4_has_metadata_csum(sb: SuperBlock) -> bool:
    """Decided at mount: the seed is never zero then."""
    return sb.s_fs_info.s_csum_seed != 0  # type: ignore[no-any-return]


@notrace
def ext4_blocks_count(es: Ext4SuperBlock) -> int:
    return es.s_blocks_count_hi << 32 | es.s_blocks_count_lo


@notrace
def ext4_r_blocks_count(es: Ext4SuperBlock) -> int:
    return es.s_r_blocks_count_hi << 32 | es.s_r_blocks_count_lo


@notrace
def ext4_free_blocks_count_set(es: Ext4SuperBlock, count: int) -> None:
    es.s_free_blocks_count_lo = count & 0xFFFFFFFF
    es.s_free_blocks_count_hi = count >> 32


@notrace
def ext4_forced_shutdown(sbi: Ext4SbInfo) -> bool:
    return bool(sbi.s_ext4_flags & EXT4_FLAGS_SHUTDOWN)
