"""The objects of a journal, and what they look like on the disk.

Linux: include/linux/jbd2.h, include/linux/journal-head.h (5.3). Same: names, states, list types, on-disk layouts
    (big endian).
Differs: circular lists of journal heads and of transactions are dicts in insertion order; b_frozen_data and
    b_committed_data are frame numbers; atomic counters are ints; no spinlocks (nothing runs in parallel).
Owns: Journal, Transaction, Handle, JournalHead, JbdInode.
Invariants: a journal head is on the list of its b_transaction that b_jlist names, or on none; b_next_transaction is
    set only while b_transaction commits; b_cp_transaction: who has it on a checkpoint list. Every one of the three that
    is set holds a reference (b_jcount); a journal head holds one of its buffer (b_count).
Lock order: j_checkpoint_mutex, page lock, buffer lock; a handle is outside of a transaction's commit.
"""
from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.locking.mutex import Mutex
from glasskernel.kernel.sched.wait import WaitQueueHead
from glasskernel.kernel.time.types import TimerList
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.block.blk_types import BlockDevice
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.proc.internal import ProcDirEntry
    from glasskernel.fs.types import Inode
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

JBD2_DEFAULT_MAX_COMMIT_AGE = 5                # seconds
JBD2_MIN_JOURNAL_BLOCKS = 1024
JBD2_NR_BATCH = 64
JBD2_CONTROL_BLOCKS_SHIFT = 5                  # one descriptor or revoke block for 32 of metadata

# ---- on the disk -----------------------------------------------------------------------------------------
JBD2_MAGIC_NUMBER = 0xC03B3998
(JBD2_DESCRIPTOR_BLOCK, JBD2_COMMIT_BLOCK, JBD2_SUPERBLOCK_V1, JBD2_SUPERBLOCK_V2, JBD2_REVOKE_BLOCK) = range(1, 6)
JBD2_CRC32_CHKSUM, JBD2_MD5_CHKSUM, JBD2_SHA1_CHKSUM, JBD2_CRC32C_CHKSUM = 1, 2, 3, 4
JBD2_CRC32_CHKSUM_SIZE = 4
JBD2_FLAG_ESCAPE, JBD2_FLAG_SAME_UUID, JBD2_FLAG_DELETED, JBD2_FLAG_LAST_TAG = 1, 2, 4, 8
JBD2_FEATURE_COMPAT_CHECKSUM = 1
(JBD2_FEATURE_INCOMPAT_REVOKE, JBD2_FEATURE_INCOMPAT_64BIT, JBD2_FEATURE_INCOMPAT_ASYNC_COMMIT,
 JBD2_FEATURE_INCOMPAT_CSUM_V2, JBD2_FEATURE_INCOMPAT_CSUM_V3) = (1 << n for n in range(5))
JBD2_KNOWN_COMPAT_FEATURES = JBD2_FEATURE_COMPAT_CHECKSUM
JBD2_KNOWN_ROCOMPAT_FEATURES = 0
JBD2_KNOWN_INCOMPAT_FEATURES = 0x1F

HEADER = Struct(">III")                        # journal_header_t: h_magic, h_blocktype, h_sequence
COMMIT_CHKSUM = Struct(">BB2xI")               # struct commit_header at 12: h_chksum_type, h_chksum_size, h_chksum[0]
COMMIT_TIME = Struct(">QI")                    # ... at 48: h_commit_sec, h_commit_nsec
BE32, BE64 = Struct(">I"), Struct(">Q")
TAG = Struct(">IHH")                           # journal_block_tag_t: t_blocknr, t_checksum, t_flags (t_blocknr_high)
TAG3 = Struct(">IIII")                         # journal_block_tag3_t: t_blocknr, t_flags, t_blocknr_high, t_checksum
HEADER_SIZE, REVOKE_HEADER_SIZE, TAIL_SIZE, UUID_SIZE = 12, 16, 4, 16
COMMIT_CHKSUM_OFFSET, COMMIT_TIME_OFFSET = 12, 48


class Field:
    """One big-endian integer of a structure."""

    __slots__ = ("offset", "pack_into", "unpack_from")

    def __init__(self, offset: int, layout: str) -> None:
        self.offset = offset
        compiled = Struct(">" + layout)
        self.unpack_from = compiled.unpack_from
        self.pack_into = compiled.pack_into

    def __get__(self, view: JournalSuperblock, _owner: object = None) -> int:
        return self.unpack_from(view.m, self.offset)[0]  # type: ignore[no-any-return]

    def __set__(self, view: JournalSuperblock, value: int) -> None:
        self.pack_into(view.m, self.offset, value)


@notrace
def be32(offset: int) -> Any:
    return Field(offset, "I")


class JournalSuperblock:
    """struct journal_superblock_s, 1024 bytes: a view of the first block of the journal in RAM."""

    __slots__ = ("m",)
    SIZE = 1024
    CHECKSUM_OFFSET = 252
    h_magic = be32(0)
    h_blocktype = be32(4)
    h_sequence = be32(8)
    s_blocksize = be32(12)
    s_maxlen = be32(16)                        # blocks in the journal
    s_first = be32(20)                         # first block of log information
    s_sequence = be32(24)                      # first commit ID expected in the log
    s_start = be32(28)                         # block of the start of the log; 0: empty
    s_errno: Any = Field(32, "i")              # set by jbd2_journal_abort()
    s_feature_compat = be32(36)
    s_feature_incompat = be32(40)
    s_feature_ro_compat = be32(44)
    s_nr_users = be32(64)
    s_dynsuper = be32(68)
    s_max_transaction = be32(72)
    s_max_trans_data = be32(76)
    s_checksum_type: Any = Field(80, "B")
    s_checksum = be32(252)

    def __init__(self, memory: memoryview) -> None:
        self.m = memory

    @property
    def s_uuid(self) -> bytes:
        return bytes(self.m[48:64])


# ---- in RAM ----------------------------------------------------------------------------------------------
# journal_t.j_flags
(JBD2_UNMOUNT, JBD2_ABORT, JBD2_ACK_ERR, JBD2_FLUSHED, JBD2_LOADED, JBD2_BARRIER, JBD2_ABORT_ON_SYNCDATA_ERR,
 JBD2_REC_ERR) = (1 << n for n in range(8))
# journal_head.b_jlist
BJ_None, BJ_Metadata, BJ_Forget, BJ_Shadow, BJ_Reserved, BJ_Types = range(6)
# transaction_t.t_state
(T_RUNNING, T_LOCKED, T_SWITCH, T_FLUSH, T_COMMIT, T_COMMIT_DFLUSH, T_COMMIT_JFLUSH, T_COMMIT_CALLBACK,
 T_FINISHED) = range(9)
# jbd2_inode.i_flags
JI_COMMIT_RUNNING, JI_WRITE_DATA, JI_WAIT_DATA = 1, 2, 4


@slotted
class JournalHead:
    """struct journal_head: what the journal knows of a buffer. b_frozen_data, b_committed_data: frames, 0 for none."""

    b_bh: BufferHead
    b_jcount: int = 0                          # the last one frees it
    b_jlist: int = BJ_None
    b_modified: bool = False                   # by the running transaction: a credit was paid for it
    b_frozen_data: int = 0                     # the bytes that commit, while b_bh has newer ones
    b_committed_data: int = 0                  # the last committed bytes (jbd2_journal_get_undo_access())
    b_transaction: Transaction | None = None
    b_next_transaction: Transaction | None = None
    b_cp_transaction: Transaction | None = None
    b_triggers: BufferTriggers | None = None
    b_frozen_triggers: BufferTriggers | None = None


@slotted(frozen=True)
class BufferTriggers:
    """struct jbd2_buffer_trigger_type. t_frozen(bh, data) before it is logged; t_abort(bh) if it never is."""

    t_frozen: Callable[[BufferHead, memoryview], None] | None = None
    t_abort: Callable[[BufferHead], None] | None = None


@slotted
class JbdInode:
    """struct jbd2_inode: a file whose data has to be on the disk before its transaction."""

    i_vfs_inode: Inode
    i_transaction: Transaction | None = None
    i_next_transaction: Transaction | None = None
    i_flags: int = 0                           # JI_*
    i_dirty_start: int = 0                     # bytes to write before the commit
    i_dirty_end: int = 0
    i_wait: WaitQueueHead = field(default_factory=WaitQueueHead)      # for JI_COMMIT_RUNNING (Linux: a hashed one)


@slotted
class Handle:
    """handle_t: a part of a transaction, one task's."""

    h_buffer_credits: int
    h_transaction: Transaction | None = None
    h_journal: Journal | None = None           # while h_reserved
    h_rsv_handle: Handle | None = None
    h_ref: int = 1
    h_err: int = 0
    h_sync: int = 0
    h_jdata: int = 0
    h_reserved: int = 0
    h_type: int = 0
    h_line_no: int = 0
    h_start_jiffies: int = 0
    h_requested_credits: int = 0


@slotted
class TransactionChpStats:
    """struct transaction_chp_stats_s, jiffies and buffers"""

    cs_chp_time: int = 0
    cs_forced_to_close: int = 0
    cs_written: int = 0
    cs_dropped: int = 0


@slotted
class TransactionRunStats:
    """struct transaction_run_stats_s: times in jiffies"""

    rs_wait: int = 0
    rs_request_delay: int = 0
    rs_running: int = 0
    rs_locked: int = 0
    rs_flushing: int = 0
    rs_logging: int = 0
    rs_handle_count: int = 0
    rs_blocks: int = 0
    rs_blocks_logged: int = 0


@slotted
class TransactionStats:
    """struct transaction_stats_s"""

    ts_tid: int = 0
    ts_requested: int = 0
    run: TransactionRunStats = field(default_factory=TransactionRunStats)


@slotted
class Transaction:
    """transaction_t. The lists are dicts: the oldest member first."""

    t_journal: Journal
    t_tid: int = 0
    t_state: int = T_RUNNING
    t_log_start: int = 0                       # where it begins in the log
    t_nr_buffers: int = 0                      # on t_buffers
    t_reserved_list: dict[JournalHead, None] = field(default_factory=dict)    # got access, not modified yet
    t_buffers: dict[JournalHead, None] = field(default_factory=dict)          # metadata to be logged
    t_forget: dict[JournalHead, None] = field(default_factory=dict)           # to checkpoint or forget at the end
    t_shadow_list: dict[JournalHead, None] = field(default_factory=dict)      # being written to the log
    t_checkpoint_list: dict[JournalHead, None] = field(default_factory=dict)
    t_checkpoint_io_list: dict[JournalHead, None] = field(default_factory=dict)
    t_inode_list: dict[JbdInode, None] = field(default_factory=dict)
    t_max_wait: int = 0                        # jiffies
    t_start: int = 0                           # jiffies
    t_start_time_ns: int = 0
    t_requested: int = 0                       # jiffies: when its commit was asked for
    t_chp_stats: TransactionChpStats = field(default_factory=TransactionChpStats)
    t_updates: int = 0                         # running handles
    t_outstanding_credits: int = 0             # blocks it may still need, with those it has
    t_handle_count: int = 0
    t_expires: int = 0                         # jiffies
    t_synchronous_commit: int = 0
    t_need_data_flush: int = 0                 # data went to a device that is not the journal's
    t_private_list: list[Any] = field(default_factory=list)


@slotted
class RevokeRecord:
    """struct jbd2_revoke_record_s: replay no older copy of this block."""

    sequence: int                              # used while recovering
    blocknr: int


@slotted
class Journal:
    """journal_t. Block numbers are those of the journal, unless it says device."""

    kernel: Kernel
    j_dev: BlockDevice
    j_fs_dev: BlockDevice
    j_blocksize: int
    j_maxlen: int                              # blocks
    j_flags: int = JBD2_ABORT                  # JBD2_*; aborted until it is loaded
    j_errno: int = 0                           # 0 or -errno: what stopped it
    j_sb_buffer: BufferHead = None  # type: ignore[assignment]
    j_superblock: JournalSuperblock = None  # type: ignore[assignment]
    j_format_version: int = 0
    j_barrier_count: int = 0                   # jbd2_journal_lock_updates() that are in force
    j_barrier: Mutex = field(default_factory=Mutex)
    j_running_transaction: Transaction | None = None
    j_committing_transaction: Transaction | None = None
    j_checkpoint_transactions: dict[Transaction, None] = field(default_factory=dict)       # the oldest first
    j_wait_transaction_locked: WaitQueueHead = field(default_factory=WaitQueueHead)
    j_wait_done_commit: WaitQueueHead = field(default_factory=WaitQueueHead)
    j_wait_commit: WaitQueueHead = field(default_factory=WaitQueueHead)       # the thread sleeps here
    j_wait_updates: WaitQueueHead = field(default_factory=WaitQueueHead)
    j_wait_reserved: WaitQueueHead = field(default_factory=WaitQueueHead)
    j_wait_shadow: WaitQueueHead = field(default_factory=WaitQueueHead)       # for BH_Shadow (Linux: a hashed one)
    j_checkpoint_mutex: Mutex = field(default_factory=Mutex)
    j_head: int = 0                            # first unused block of the log
    j_tail: int = 0                            # oldest block that is still needed
    j_free: int = 0                            # free blocks between head and tail
    j_first: int = 0                           # first and one behind the last usable block
    j_last: int = 0
    j_blk_offset: int = 0                      # first block on the device; without j_inode
    j_devname: str = ""
    j_reserved_credits: int = 0
    j_inode: Inode | None = None
    j_tail_sequence: int = 0                   # oldest transaction in the log
    j_transaction_sequence: int = 0            # next one's
    j_commit_sequence: int = 0                 # last one that is on the disk
    j_commit_request: int = 0                  # last one whose commit was asked for
    j_uuid: bytes = bytes(16)
    j_task: TaskStruct | None = None           # kjournald2
    j_max_transaction_buffers: int = 0
    j_commit_interval: int = 0                 # jiffies
    j_commit_timer: TimerList = None  # type: ignore[assignment]
    j_revoke: dict[int, RevokeRecord] = None  # type: ignore[assignment]     # of the running transaction, by device block
    j_revoke_table: list[dict[int, RevokeRecord]] = field(default_factory=lambda: [{}, {}])
    j_wbufsize: int = 0                        # buffers written in one go
    j_last_sync_writer: int = 0                # pid
    j_average_commit_time: int = 0             # ns
    j_min_batch_time: int = 0                  # us
    j_max_batch_time: int = 0                  # us
    j_commit_callback: Callable[[Journal, Transaction], None] | None = None
    j_failed_commit: int = 0                   # tid, set by recovery
    j_stats: TransactionStats = field(default_factory=TransactionStats)
    j_private: Any = None                      # the file system's super block
    j_csum_seed: int = 0
    j_has_csum_driver: bool = False            # j_chksum_driver: checksum type 4 is in use
    j_proc_entry: ProcDirEntry | None = None


# ---- tids: serial numbers that wrap in 32 bits -------------------------------------------------------------
@notrace
def tid_gt(x: int, y: int) -> bool:
    return 0 < (x - y & 0xFFFF_FFFF) < 0x8000_0000


@notrace
def tid_geq(x: int, y: int) -> bool:
    return (x - y & 0xFFFF_FFFF) < 0x8000_0000


# ---- small questions (inline in Linux) -----------------------------------------------------------------------
@notrace
def is_journal_aborted(journal: Journal) -> bool:
    return bool(journal.j_flags & JBD2_ABORT)


@notrace
def is_handle_aborted(handle: Handle) -> bool:
    """True if nothing may be changed through it any more."""
    if handle.h_transaction is None:
        return True
    return bool(handle.h_transaction.t_journal.j_flags & JBD2_ABORT)


@notrace
def jbd2_has_feature_incompat(journal: Journal, mask: int) -> bool:
    """jbd2_has_feature_64bit() and the like: v1 superblocks have no features."""
    return journal.j_format_version >= 2 and bool(journal.j_superblock.s_feature_incompat & mask)


@notrace
def jbd2_has_feature_checksum(journal: Journal) -> bool:
    return (journal.j_format_version >= 2
            and bool(journal.j_superblock.s_feature_compat & JBD2_FEATURE_COMPAT_CHECKSUM))


@notrace
def jbd2_journal_has_csum_v2or3(journal: Journal) -> bool:
    return journal.j_has_csum_driver


@notrace
def jbd2_has_csum_v2or3_feature(journal: Journal) -> bool:
    return jbd2_has_feature_incompat(journal, JBD2_FEATURE_INCOMPAT_CSUM_V2 | JBD2_FEATURE_INCOMPAT_CSUM_V3)


@notrace
def bh2jh(bh: BufferHead) -> JournalHead:
    """The journal head of a buffer that has BH_JBD."""
    return bh.b_private  # type: ignore[no-any-return]


@notrace
def jbd2_space_needed(journal: Journal) -> int:
    """Blocks a transaction may take in the log: its buffers, and descriptors for them."""
    nblocks = journal.j_max_transaction_buffers
    return nblocks + (nblocks >> JBD2_CONTROL_BLOCKS_SHIFT)


@notrace
def jbd2_log_space_left(journal: Journal) -> int:
    """Blocks of the log that neither the log nor the committing transaction needs."""
    free = journal.j_free - 32                         # for rounding
    committing = journal.j_committing_transaction
    if committing is not None:
        credits = committing.t_outstanding_credits
        free -= credits + (credits >> JBD2_CONTROL_BLOCKS_SHIFT)
    return max(free, 0)
