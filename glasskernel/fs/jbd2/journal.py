"""Journals: opening, loading, flushing and closing one, and the thread that commits.

Linux: fs/jbd2/journal.c (5.3); its other parts are fs/jbd2/log.py (commits, superblock, tail, abort),
    fs/jbd2/log_blocks.py, fs/jbd2/journal_head.py, fs/jbd2/features.py and fs/jbd2/stats.py; names are re-exported.
Same: the journal lies in an inode, or on a device of its own; jbd2/DEVICE-INODE commits every j_commit_interval or
    when it is asked to; /proc/fs/jbd2/DEVICE-INODE/info.
Differs: errors are raised. Gaps: freezing for suspend; the commit interval's timer is not deferred.
Owns: every Journal; j_task. Lock order: j_checkpoint_mutex, page lock, buffer lock.
Invariant: j_flags has JBD2_ABORT until jbd2_journal_load() succeeded.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.block.blk_types import REQ_FUA, REQ_OP_READ, REQ_PREFLUSH, REQ_SYNC
from glasskernel.block.genhd import disk_name
from glasskernel.fs.buffer import __getblk_gfp
from glasskernel.fs.buffer_head import BH_Uptodate, BH_Verified
from glasskernel.fs.buffer_io import brelse, ll_rw_block, wait_on_buffer
from glasskernel.fs.inode import bmap, iput
from glasskernel.fs.jbd2.checkpoint import (
    jbd2_cleanup_journal_tail,
    jbd2_journal_destroy_checkpoint,
    jbd2_log_do_checkpoint,
)
from glasskernel.fs.jbd2.commit import jbd2_journal_commit_transaction
from glasskernel.fs.jbd2.features import (
    jbd2_journal_check_available_features,
    jbd2_journal_check_used_features,
    jbd2_journal_clear_features,
    jbd2_journal_set_features,
    load_csum_driver,
)
from glasskernel.fs.jbd2.journal_head import (
    jbd2_journal_add_journal_head,
    jbd2_journal_grab_journal_head,
    jbd2_journal_put_journal_head,
)
from glasskernel.fs.jbd2.log import (
    __jbd2_log_start_commit,
    jbd2_complete_transaction,
    jbd2_journal_abort,
    jbd2_journal_force_commit,
    jbd2_journal_force_commit_nested,
    jbd2_journal_start_commit,
    jbd2_journal_update_sb_errno,
    jbd2_journal_update_sb_log_tail,
    jbd2_log_start_commit,
    jbd2_log_wait_commit,
    jbd2_mark_journal_empty,
    jbd2_superblock_csum,
    jbd2_trans_will_send_data_barrier,
    jbd2_transaction_committed,
)
from glasskernel.fs.jbd2.log_blocks import jbd2_journal_bmap
from glasskernel.fs.jbd2.recovery import jbd2_journal_recover, jbd2_journal_skip_recovery
from glasskernel.fs.jbd2.revoke import jbd2_journal_destroy_revoke, jbd2_journal_init_revoke
from glasskernel.fs.jbd2.stats import jbd2_stats_proc_exit, jbd2_stats_proc_init
from glasskernel.fs.jbd2.types import (
    JBD2_ABORT,
    JBD2_CRC32C_CHKSUM,
    JBD2_DEFAULT_MAX_COMMIT_AGE,
    JBD2_FEATURE_INCOMPAT_CSUM_V2,
    JBD2_FEATURE_INCOMPAT_CSUM_V3,
    JBD2_FLUSHED,
    JBD2_KNOWN_INCOMPAT_FEATURES,
    JBD2_KNOWN_ROCOMPAT_FEATURES,
    JBD2_LOADED,
    JBD2_MAGIC_NUMBER,
    JBD2_MIN_JOURNAL_BLOCKS,
    JBD2_SUPERBLOCK_V1,
    JBD2_SUPERBLOCK_V2,
    JBD2_UNMOUNT,
    JI_COMMIT_RUNNING,
    JbdInode,
    Journal,
    JournalSuperblock,
    is_journal_aborted,
    jbd2_has_csum_v2or3_feature,
    jbd2_has_feature_checksum,
    jbd2_has_feature_incompat,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.kthread import kthread_run
from glasskernel.kernel.locking.mutex import mutex_lock, mutex_unlock
from glasskernel.kernel.printk import printk
from glasskernel.kernel.sched.core import schedule, wake_up_process
from glasskernel.kernel.sched.wait import WaitQueueEntry, finish_wait, prepare_to_wait, wait_event, wake_up
from glasskernel.kernel.task import PF_MEMALLOC_NOFS, TASK_INTERRUPTIBLE
from glasskernel.kernel.time.timer import HZ, del_timer_sync, from_timer, timer_setup
from glasskernel.kernel.time.types import TimerList
from glasskernel.lib.errno import EBADMSG, EINVAL, EIO, ENOMEM, EROFS, EUCLEAN, KernelError
from glasskernel.lib.types import U32_MAX, may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.block.blk_types import BlockDevice
    from glasskernel.fs.types import Inode

SIZEOF_TAG = 12                                # sizeof(journal_block_tag_t)

__all__ = [
    "__jbd2_log_start_commit", "jbd2_complete_transaction", "jbd2_journal_abort",
    "jbd2_journal_add_journal_head", "jbd2_journal_blocks_per_page", "jbd2_journal_bmap",
    "jbd2_journal_check_available_features", "jbd2_journal_check_used_features", "jbd2_journal_clear_err",
    "jbd2_journal_clear_features", "jbd2_journal_destroy", "jbd2_journal_errno", "jbd2_journal_flush",
    "jbd2_journal_force_commit", "jbd2_journal_force_commit_nested", "jbd2_journal_grab_journal_head",
    "jbd2_journal_init_dev", "jbd2_journal_init_inode", "jbd2_journal_init_jbd_inode", "jbd2_journal_load",
    "jbd2_journal_put_journal_head", "jbd2_journal_release_jbd_inode", "jbd2_journal_set_features",
    "jbd2_journal_start_commit", "jbd2_journal_update_sb_errno", "jbd2_journal_wipe", "jbd2_log_start_commit",
    "jbd2_log_wait_commit", "jbd2_trans_will_send_data_barrier", "jbd2_transaction_committed",
]


# ---- the thread ------------------------------------------------------------------------------------------------
def commit_timeout(t: TimerList) -> None:
    """The running transaction is old enough. Context: softirq."""
    journal: Journal = from_timer(t)
    if journal.j_task is not None:
        wake_up_process(journal.j_task)


@may_sleep
def kjournald2(journal: Journal) -> int:
    """Commits the running transaction when it is old, or when somebody asks for it."""
    kernel = journal.kernel
    timer_setup(journal.j_commit_timer, commit_timeout)
    journal.j_task = current()
    current().flags |= PF_MEMALLOC_NOFS                  # memalloc_nofs_save(): reclaim must not wait for a commit
    wake_up(journal.j_wait_done_commit)
    while not journal.j_flags & JBD2_UNMOUNT:
        if journal.j_commit_sequence != journal.j_commit_request:
            del_timer_sync(journal.j_commit_timer)
            jbd2_journal_commit_transaction(journal)
            continue
        wake_up(journal.j_wait_done_commit)
        wait = WaitQueueEntry()
        prepare_to_wait(journal.j_wait_commit, wait, TASK_INTERRUPTIBLE)
        transaction = journal.j_running_transaction
        if not (journal.j_commit_sequence != journal.j_commit_request or journal.j_flags & JBD2_UNMOUNT
                or (transaction is not None and kernel.time.jiffies >= transaction.t_expires)):
            schedule()
        finish_wait(journal.j_wait_commit, wait)
        transaction = journal.j_running_transaction
        if transaction is not None and kernel.time.jiffies >= transaction.t_expires:
            journal.j_commit_request = transaction.t_tid
    del_timer_sync(journal.j_commit_timer)
    journal.j_task = None
    wake_up(journal.j_wait_done_commit)
    return 0


@may_sleep
def jbd2_journal_start_thread(journal: Journal) -> None:
    """Raises EAGAIN, ENOMEM."""
    kthread_run(kjournald2, journal, f"jbd2/{journal.j_devname}")
    wait_event(journal.j_wait_done_commit, lambda: journal.j_task is not None)


@may_sleep
def journal_kill_thread(journal: Journal) -> None:
    journal.j_flags |= JBD2_UNMOUNT
    while journal.j_task is not None:
        wake_up(journal.j_wait_commit)
        wait_event(journal.j_wait_done_commit, lambda: journal.j_task is None)


# ---- opening ---------------------------------------------------------------------------------------------------
@may_sleep
def journal_init_common(bdev: BlockDevice, fs_dev: BlockDevice, start: int, length: int, blocksize: int) -> Journal:
    """A journal of `length` blocks, not loaded yet. start: block of its superblock on bdev. Raises ENOMEM."""
    bh = __getblk_gfp(bdev, start, blocksize)
    if bh is None:
        printk(bdev.bd_inode.i_sb.kernel, "JBD2: Cannot get buffer for journal superblock", 3)
        raise KernelError(ENOMEM)
    journal = Journal(bdev.bd_inode.i_sb.kernel, bdev, fs_dev, blocksize, length)
    journal.j_commit_interval = HZ * JBD2_DEFAULT_MAX_COMMIT_AGE
    journal.j_max_batch_time = 15_000
    journal.j_commit_timer = TimerList(data=journal)
    jbd2_journal_init_revoke(journal)
    journal.j_blk_offset = start
    journal.j_wbufsize = blocksize // SIZEOF_TAG
    journal.j_sb_buffer = bh
    journal.j_superblock = JournalSuperblock(bh.b_data[: JournalSuperblock.SIZE])
    return journal


@notrace
def _device_name(bdev: BlockDevice) -> str:
    return disk_name(bdev.bd_disk, bdev.bd_partno).decode()


@may_sleep
def jbd2_journal_init_dev(bdev: BlockDevice, fs_dev: BlockDevice, start: int, length: int, blocksize: int) -> Journal:
    """A journal that lies at blocks of a device. Raises ENOMEM."""
    journal = journal_init_common(bdev, fs_dev, start, length, blocksize)
    journal.j_devname = _device_name(bdev).replace("/", "!")
    jbd2_stats_proc_init(journal)
    return journal


@may_sleep
def jbd2_journal_init_inode(inode: Inode) -> Journal:
    """A journal that lies in a file; takes the caller's reference of that. Raises EINVAL, ENOMEM."""
    kernel = inode.i_sb.kernel
    blocknr = bmap(inode, 0)
    if not blocknr:
        printk(kernel, "jbd2_journal_init_inode: Cannot locate journal superblock", 3)
        raise KernelError(EINVAL)
    bdev = inode.i_sb.s_bdev
    journal = journal_init_common(bdev, bdev, blocknr, inode.i_size >> inode.i_sb.s_blocksize_bits,
                                  inode.i_sb.s_blocksize)
    journal.j_inode = inode
    journal.j_devname = f"{_device_name(bdev)}-{inode.i_ino}".replace("/", "!")
    jbd2_stats_proc_init(journal)
    return journal


def journal_fail_superblock(journal: Journal) -> None:
    """It is not one: nobody may write it."""
    brelse(journal.j_sb_buffer)
    journal.j_sb_buffer = None  # type: ignore[assignment]


@may_sleep
def journal_get_superblock(journal: Journal) -> None:
    """Reads and checks the superblock. Raises EIO, EINVAL, EBADMSG."""
    bh = journal.j_sb_buffer
    if bh is None:
        raise KernelError(EIO)
    try:
        if not bh.b_state & BH_Uptodate:
            ll_rw_block(REQ_OP_READ, 0, [bh])
            wait_on_buffer(bh)
            if not bh.b_state & BH_Uptodate:
                raise _refused(journal, "IO error reading journal superblock", EIO)
        if bh.b_state & BH_Verified:
            return
        _check_superblock(journal)
        bh.b_state |= BH_Verified
    except KernelError:
        journal_fail_superblock(journal)
        raise


@notrace
def _refused(journal: Journal, text: str, errno: int = EINVAL) -> KernelError:
    printk(journal.kernel, f"JBD2: {text}", 3)
    return KernelError(errno)


@notrace
def _check_superblock(journal: Journal) -> None:
    sb = journal.j_superblock
    if sb.h_magic != JBD2_MAGIC_NUMBER or sb.s_blocksize != journal.j_blocksize:
        raise _refused(journal, "no valid journal superblock found")
    if sb.h_blocktype not in (JBD2_SUPERBLOCK_V1, JBD2_SUPERBLOCK_V2):
        raise _refused(journal, "unrecognised superblock format ID")
    journal.j_format_version = 1 if sb.h_blocktype == JBD2_SUPERBLOCK_V1 else 2
    if sb.s_maxlen < journal.j_maxlen:
        journal.j_maxlen = sb.s_maxlen
    elif sb.s_maxlen > journal.j_maxlen:
        raise _refused(journal, "journal file too short")
    if not sb.s_first or sb.s_first >= journal.j_maxlen:
        raise _refused(journal, f"Invalid start block of journal: {sb.s_first}")
    v2 = jbd2_has_feature_incompat(journal, JBD2_FEATURE_INCOMPAT_CSUM_V2)
    v3 = jbd2_has_feature_incompat(journal, JBD2_FEATURE_INCOMPAT_CSUM_V3)
    if v2 and v3:
        raise _refused(journal, "Can't enable checksumming v2 and v3 at the same time!")
    if jbd2_has_csum_v2or3_feature(journal):
        if jbd2_has_feature_checksum(journal):
            raise _refused(journal, "Can't enable checksumming v1 and v2/3 at the same time!")
        if sb.s_checksum_type != JBD2_CRC32C_CHKSUM:
            raise _refused(journal, "Unknown checksum type")
        if sb.s_checksum != jbd2_superblock_csum(sb):
            raise _refused(journal, "journal checksum error", EBADMSG)
        load_csum_driver(journal)


@may_sleep
def load_superblock(journal: Journal) -> None:
    """Takes over what the superblock says. Raises EIO, EINVAL, EBADMSG."""
    journal_get_superblock(journal)
    sb = journal.j_superblock
    journal.j_tail_sequence = sb.s_sequence
    journal.j_tail = sb.s_start
    journal.j_first = sb.s_first
    journal.j_last = sb.s_maxlen
    journal.j_errno = sb.s_errno
    journal.j_uuid = sb.s_uuid


@may_sleep
def journal_reset(journal: Journal) -> None:
    """The log is empty, and begins at its first block; its thread starts. Raises EINVAL, EIO."""
    sb = journal.j_superblock
    first, last = sb.s_first, sb.s_maxlen
    if first + JBD2_MIN_JOURNAL_BLOCKS > last + 1:
        printk(journal.kernel, f"JBD2: Journal too short (blocks {first}-{last}).", 3)
        journal_fail_superblock(journal)
        raise KernelError(EINVAL)
    journal.j_first, journal.j_last = first, last
    journal.j_head = journal.j_tail = first
    journal.j_free = last - first
    journal.j_tail_sequence = journal.j_transaction_sequence
    journal.j_commit_sequence = journal.j_transaction_sequence - 1 & U32_MAX
    journal.j_commit_request = journal.j_commit_sequence
    journal.j_max_transaction_buffers = journal.j_maxlen // 4
    if not sb.s_start:                                     # the first commit will write the superblock
        journal.j_flags |= JBD2_FLUSHED
    else:
        mutex_lock(journal.j_checkpoint_mutex)
        try:
            jbd2_journal_update_sb_log_tail(journal, journal.j_tail_sequence, journal.j_tail, REQ_SYNC | REQ_FUA)
        finally:
            mutex_unlock(journal.j_checkpoint_mutex)
    jbd2_journal_start_thread(journal)


@may_sleep
def jbd2_journal_load(journal: Journal) -> None:
    """Reads the journal, replays it, and makes it ready for use. Raises EIO, EINVAL, EUCLEAN, EBADMSG."""
    load_superblock(journal)
    sb = journal.j_superblock
    if journal.j_format_version >= 2 and (sb.s_feature_ro_compat & ~JBD2_KNOWN_ROCOMPAT_FEATURES
                                          or sb.s_feature_incompat & ~JBD2_KNOWN_INCOMPAT_FEATURES):
        raise _refused(journal, "Unrecognised features on journal")
    try:
        jbd2_journal_recover(journal)
    except KernelError:
        raise _refused(journal, "recovery failed", EIO) from None
    if journal.j_failed_commit:
        raise _refused(journal, f"journal transaction {journal.j_failed_commit} on {journal.j_devname} is corrupt.",
                       EUCLEAN)
    journal.j_flags &= ~JBD2_ABORT                         # journal_reset() writes the superblock
    try:
        journal_reset(journal)
    except KernelError:
        journal.j_flags |= JBD2_ABORT
        raise _refused(journal, "recovery failed", EIO) from None
    journal.j_flags |= JBD2_LOADED


# ---- closing ---------------------------------------------------------------------------------------------------
@may_sleep
def jbd2_journal_destroy(journal: Journal) -> None:
    """Commits and checkpoints everything, marks the log empty, and forgets the journal. Raises EIO."""
    failed = False
    journal_kill_thread(journal)
    if journal.j_running_transaction is not None:
        jbd2_journal_commit_transaction(journal)
    del_timer_sync(journal.j_commit_timer)                 # of a transaction that began after the thread had gone
    while journal.j_checkpoint_transactions:
        mutex_lock(journal.j_checkpoint_mutex)
        try:
            jbd2_log_do_checkpoint(journal)
        except KernelError:                                # the journal is aborted: they are of no use any more
            jbd2_journal_destroy_checkpoint(journal)
            break
        finally:
            mutex_unlock(journal.j_checkpoint_mutex)
    assert journal.j_running_transaction is None and journal.j_committing_transaction is None
    assert not journal.j_checkpoint_transactions
    if journal.j_sb_buffer is not None:
        if not is_journal_aborted(journal):
            mutex_lock(journal.j_checkpoint_mutex)
            journal.j_transaction_sequence = journal.j_transaction_sequence + 1 & U32_MAX
            journal.j_tail_sequence = journal.j_transaction_sequence
            jbd2_mark_journal_empty(journal, REQ_SYNC | REQ_PREFLUSH | REQ_FUA)
            mutex_unlock(journal.j_checkpoint_mutex)
        else:
            failed = True
        brelse(journal.j_sb_buffer)
        journal.j_sb_buffer = None  # type: ignore[assignment]
    jbd2_stats_proc_exit(journal)
    if journal.j_inode is not None:
        iput(journal.j_inode)
    jbd2_journal_destroy_revoke(journal)
    if failed:
        raise KernelError(EIO)


@may_sleep
def jbd2_journal_flush(journal: Journal) -> None:
    """Commits and checkpoints everything: afterwards the log is empty, on the disk too. Raises EIO.

    Context: task without a handle, updates locked out.
    """
    transaction = journal.j_running_transaction
    if transaction is not None:
        __jbd2_log_start_commit(journal, transaction.t_tid)
    else:
        transaction = journal.j_committing_transaction
    if transaction is not None:
        with suppress(KernelError):                        # the journal is aborted: seen below
            jbd2_log_wait_commit(journal, transaction.t_tid)
    while journal.j_checkpoint_transactions and not is_journal_aborted(journal):
        mutex_lock(journal.j_checkpoint_mutex)
        try:
            jbd2_log_do_checkpoint(journal)
        finally:
            mutex_unlock(journal.j_checkpoint_mutex)
    if is_journal_aborted(journal):
        raise KernelError(EIO)
    mutex_lock(journal.j_checkpoint_mutex)
    try:
        jbd2_cleanup_journal_tail(journal)
        jbd2_mark_journal_empty(journal, REQ_SYNC | REQ_FUA)
    finally:
        mutex_unlock(journal.j_checkpoint_mutex)
    assert journal.j_running_transaction is None and journal.j_committing_transaction is None
    assert not journal.j_checkpoint_transactions
    assert journal.j_head == journal.j_tail and journal.j_tail_sequence == journal.j_transaction_sequence


@may_sleep
def jbd2_journal_wipe(journal: Journal, write: bool) -> None:
    """Forgets what is in the log, without replaying it. Raises EIO, EINVAL, EBADMSG. Context: before it is loaded."""
    assert not journal.j_flags & JBD2_LOADED
    load_superblock(journal)
    if not journal.j_tail:
        return
    printk(journal.kernel, f"JBD2: {'Clearing' if write else 'Ignoring'} recovery information on journal", 4)
    jbd2_journal_skip_recovery(journal)
    if write:
        mutex_lock(journal.j_checkpoint_mutex)             # for the assertion
        jbd2_mark_journal_empty(journal, REQ_SYNC | REQ_FUA)
        mutex_unlock(journal.j_checkpoint_mutex)


# ---- the error ---------------------------------------------------------------------------------------------------
def jbd2_journal_errno(journal: Journal) -> int:
    """What stopped the journal, now or in its last life: 0 or -errno."""
    return -EROFS if is_journal_aborted(journal) else journal.j_errno


def jbd2_journal_clear_err(journal: Journal) -> None:
    """Raises EROFS: it is aborted for good."""
    if is_journal_aborted(journal):
        raise KernelError(EROFS)
    journal.j_errno = 0


# ---- files -------------------------------------------------------------------------------------------------------
def jbd2_journal_blocks_per_page(inode: Inode) -> int:
    return 1 << 12 - inode.i_sb.s_blocksize_bits


def jbd2_journal_init_jbd_inode(jinode: JbdInode, inode: Inode) -> None:
    """No transaction needs the data of this file."""
    jinode.i_transaction = None
    jinode.i_next_transaction = None
    jinode.i_vfs_inode = inode
    jinode.i_flags = 0
    jinode.i_dirty_start = jinode.i_dirty_end = 0


@may_sleep
def jbd2_journal_release_jbd_inode(journal: Journal, jinode: JbdInode) -> None:
    """The inode goes: no transaction may know it any more."""
    if jinode.i_flags & JI_COMMIT_RUNNING:
        wait_event(jinode.i_wait, lambda: not jinode.i_flags & JI_COMMIT_RUNNING)
    if jinode.i_transaction is not None:
        jinode.i_transaction.t_inode_list.pop(jinode, None)
        jinode.i_transaction = None
