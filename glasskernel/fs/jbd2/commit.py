"""The commit: a transaction goes into the log.

Linux: fs/jbd2/commit.c (5.3). Same: data of ordered files, then revoke records and metadata, then, behind a flush of
    the device's cache, the commit block; only then may the metadata go to its place (it is on the checkpoint list from
    then on).
Differs: split into functions at its phases.
Owns: t_state, j_committing_transaction, j_commit_sequence, BH_JWrite. Context: the thread of the journal.
Invariants: a transaction that is T_SWITCH has no handles; from T_FLUSH on it is the committing one; its buffers
    leave it for j_running_transaction only in the last phase. Lock order: j_checkpoint_mutex, page lock, buffer lock.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from glasskernel.block.blk_core import blkdev_issue_flush
from glasskernel.block.blk_types import REQ_OP_WRITE, REQ_SYNC
from glasskernel.fs.block_dev import blockdev_superblock
from glasskernel.fs.buffer_head import (
    BH_Dirty,
    BH_Freed,
    BH_JBDDirty,
    BH_JWrite,
    BH_Mapped,
    BH_New,
    BH_Req,
    BH_Shadow,
    BH_Uptodate,
    BufferHead,
    get_bh,
)
from glasskernel.fs.buffer_io import __brelse, lock_buffer, submit_bh, wait_on_buffer
from glasskernel.fs.buffer_page import free_buffer_head
from glasskernel.fs.jbd2.buffers import (
    __jbd2_journal_refile_buffer,
    jbd2_journal_file_buffer,
    jbd2_journal_refile_buffer,
)
from glasskernel.fs.jbd2.checkpoint import (
    __jbd2_journal_clean_checkpoint_list,
    __jbd2_journal_drop_transaction,
    __jbd2_journal_insert_checkpoint,
    __jbd2_journal_remove_checkpoint,
)
from glasskernel.fs.jbd2.commit_io import (
    crc32_be,
    journal_end_buffer_io_sync,
    journal_finish_inode_data_buffers,
    journal_submit_commit_record,
    journal_submit_data_buffers,
    journal_wait_on_commit_record,
    release_buffer_page,
    write_tag,
)
from glasskernel.fs.jbd2.journal_head import jbd2_free
from glasskernel.fs.jbd2.log import (
    __jbd2_journal_abort_hard,
    jbd2_descriptor_block_csum_set,
    jbd2_journal_abort,
    jbd2_journal_get_log_tail,
    jbd2_journal_update_sb_log_tail,
    jbd2_update_log_tail,
)
from glasskernel.fs.jbd2.log_blocks import (
    jbd2_journal_get_descriptor_buffer,
    jbd2_journal_next_log_block,
    jbd2_journal_write_metadata_buffer,
    journal_tag_bytes,
    ring_distance,
)
from glasskernel.fs.jbd2.revoke import (
    jbd2_clear_buffer_revoked_flags,
    jbd2_journal_switch_revoke_table,
    jbd2_journal_write_revoke_records,
)
from glasskernel.fs.jbd2.transaction_access import jbd2_buffer_abort_trigger
from glasskernel.fs.jbd2.types import (
    HEADER_SIZE,
    JBD2_ABORT_ON_SYNCDATA_ERR,
    JBD2_BARRIER,
    JBD2_DESCRIPTOR_BLOCK,
    JBD2_FEATURE_INCOMPAT_ASYNC_COMMIT,
    JBD2_FLAG_ESCAPE,
    JBD2_FLAG_LAST_TAG,
    JBD2_FLAG_SAME_UUID,
    JBD2_FLUSHED,
    T_COMMIT,
    T_COMMIT_CALLBACK,
    T_COMMIT_DFLUSH,
    T_COMMIT_JFLUSH,
    T_FINISHED,
    T_FLUSH,
    T_LOCKED,
    T_RUNNING,
    T_SWITCH,
    TAIL_SIZE,
    UUID_SIZE,
    BJ_Forget,
    TransactionRunStats,
    TransactionStats,
    is_journal_aborted,
    jbd2_has_feature_checksum,
    jbd2_has_feature_incompat,
    jbd2_journal_has_csum_v2or3,
)
from glasskernel.kernel.locking.mutex import mutex_lock, mutex_unlock
from glasskernel.kernel.printk import printk
from glasskernel.kernel.sched.core import cond_resched, schedule
from glasskernel.kernel.sched.wait import WaitQueueEntry, finish_wait, prepare_to_wait, wake_up
from glasskernel.kernel.task import TASK_UNINTERRUPTIBLE
from glasskernel.kernel.time.timekeeping import ktime_get
from glasskernel.lib.errno import EIO, KernelError
from glasskernel.lib.types import U32_MAX, may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.block.blk_types import BlockDevice
    from glasskernel.fs.jbd2.types import Journal, JournalHead, Transaction
    from glasskernel.kernel.tracepoint import Probe


@may_sleep
def jbd2_journal_commit_transaction(journal: Journal) -> None:
    """Commits the running transaction. Context: the thread of the journal, or the last user of it."""
    kernel = journal.kernel
    if journal.j_flags & JBD2_FLUSHED:                 # the superblock says that the log is empty: no longer
        mutex_lock(journal.j_checkpoint_mutex)
        with suppress(KernelError):               # the journal is aborted: the rest only cleans up
            jbd2_journal_update_sb_log_tail(journal, journal.j_tail_sequence, journal.j_tail, REQ_SYNC)
        mutex_unlock(journal.j_checkpoint_mutex)
    commit_transaction = journal.j_running_transaction
    assert commit_transaction is not None and journal.j_committing_transaction is None
    stats = TransactionStats()
    _lock_down(journal, commit_transaction, stats.run)
    start_time = ktime_get()
    error = journal_submit_data_buffers(journal, commit_transaction)
    if error:
        jbd2_journal_abort(journal, -error)
    plug = kernel.filemap.blk_start_plug()
    log_bufs: list[BufferHead] = []
    io_bufs: list[BufferHead] = []
    jbd2_journal_write_revoke_records(commit_transaction, log_bufs)
    commit_transaction.t_state = T_COMMIT
    _trace(kernel.tp.jbd2_commit_logging, journal, commit_transaction)
    run = stats.run
    run.rs_logging = kernel.time.jiffies
    run.rs_flushing = run.rs_logging - run.rs_flushing
    run.rs_blocks = commit_transaction.t_outstanding_credits
    assert commit_transaction.t_nr_buffers <= commit_transaction.t_outstanding_credits
    crc32_sum = _write_metadata(journal, commit_transaction, log_bufs, io_bufs)
    error = journal_finish_inode_data_buffers(journal, commit_transaction)
    if error:
        printk(kernel, f"JBD2: Detected IO errors while flushing file data on {journal.j_devname}", 4)
        if journal.j_flags & JBD2_ABORT_ON_SYNCDATA_ERR:
            jbd2_journal_abort(journal, -error)
    # Taken before the flush of the device's cache: what is checkpointed now is safe after it.
    update_tail, first_tid, first_block = jbd2_journal_get_log_tail(journal)
    if update_tail and ring_distance(journal, first_block) < journal.j_maxlen // 4:
        update_tail = False                            # not worth a write
    assert commit_transaction.t_state == T_COMMIT
    commit_transaction.t_state = T_COMMIT_DFLUSH
    _write_commit_block(journal, commit_transaction, crc32_sum, plug, log_bufs, io_bufs, run)
    if update_tail:
        jbd2_update_log_tail(journal, first_tid, first_block)
    assert not commit_transaction.t_inode_list and not commit_transaction.t_buffers
    assert not commit_transaction.t_checkpoint_list and not commit_transaction.t_shadow_list
    _file_for_checkpoint(journal, commit_transaction)
    _finish(journal, commit_transaction, stats, start_time)


@notrace
def _trace(probe: Probe, journal: Journal, transaction: Transaction) -> None:
    if probe is not None:
        probe(journal, transaction)


# ---- phase 0 and 1: no handle any more ---------------------------------------------------------------------------
@notrace
@may_sleep
def _lock_down(journal: Journal, commit_transaction: Transaction, run: TransactionRunStats) -> None:
    """Waits for the handles of the transaction; then it is the committing one, and a new one may run."""
    kernel = journal.kernel
    tp = kernel.tp
    _trace(tp.jbd2_start_commit, journal, commit_transaction)
    assert commit_transaction.t_state == T_RUNNING
    commit_transaction.t_state = T_LOCKED
    _trace(tp.jbd2_commit_locking, journal, commit_transaction)
    run.rs_wait = commit_transaction.t_max_wait
    run.rs_locked = kernel.time.jiffies
    if commit_transaction.t_requested:
        run.rs_request_delay = run.rs_locked - commit_transaction.t_requested
    run.rs_running = run.rs_locked - commit_transaction.t_start
    while commit_transaction.t_updates:
        wait = WaitQueueEntry()
        prepare_to_wait(journal.j_wait_updates, wait, TASK_UNINTERRUPTIBLE)
        if commit_transaction.t_updates:
            schedule()
        finish_wait(journal.j_wait_updates, wait)
    commit_transaction.t_state = T_SWITCH
    assert commit_transaction.t_outstanding_credits <= journal.j_max_transaction_buffers
    while commit_transaction.t_reserved_list:          # got access, but were not changed
        jh = next(iter(commit_transaction.t_reserved_list))
        if jh.b_committed_data:
            jbd2_free(kernel, jh.b_committed_data)
            jh.b_committed_data = 0
        jbd2_journal_refile_buffer(journal, jh)
    __jbd2_journal_clean_checkpoint_list(journal, False)
    jbd2_clear_buffer_revoked_flags(journal)
    jbd2_journal_switch_revoke_table(journal)
    commit_transaction.t_outstanding_credits -= journal.j_reserved_credits
    _trace(tp.jbd2_commit_flushing, journal, commit_transaction)
    run.rs_flushing = kernel.time.jiffies
    run.rs_locked = run.rs_flushing - run.rs_locked
    commit_transaction.t_state = T_FLUSH
    journal.j_committing_transaction = commit_transaction
    journal.j_running_transaction = None
    commit_transaction.t_log_start = journal.j_head
    wake_up(journal.j_wait_transaction_locked)


# ---- phase 2: metadata goes into the log -------------------------------------------------------------------------
@notrace
@may_sleep
def _write_metadata(journal: Journal, commit_transaction: Transaction, log_bufs: list[BufferHead],
                    io_bufs: list[BufferHead]) -> int:
    """Submits descriptors and copies of all buffers. Answers the old kind of checksum over them."""
    tag_bytes = journal_tag_bytes(journal)
    csum_size = TAIL_SIZE if jbd2_journal_has_csum_v2or3(journal) else 0
    crc32_sum = U32_MAX
    descriptor: BufferHead | None = None
    wbuf: list[BufferHead] = []
    offset = 0
    first_tag = True
    while commit_transaction.t_buffers:
        jh = next(iter(commit_transaction.t_buffers))
        bh = jh.b_bh
        if is_journal_aborted(journal):
            bh.b_state &= ~BH_JBDDirty
            jbd2_buffer_abort_trigger(jh, jh.b_frozen_triggers if jh.b_frozen_data else jh.b_triggers)
            jbd2_journal_refile_buffer(journal, jh)
            if commit_transaction.t_buffers:
                continue
        else:
            try:
                if descriptor is None:
                    descriptor = jbd2_journal_get_descriptor_buffer(commit_transaction, JBD2_DESCRIPTOR_BLOCK)
                    offset = HEADER_SIZE
                    descriptor.b_state |= BH_JWrite | BH_Dirty
                    wbuf.append(descriptor)
                    log_bufs.append(descriptor)
                new_bh, escaped = _copy_out(journal, commit_transaction, jh)
            except KernelError as e:
                jbd2_journal_abort(journal, -e.errno)
                continue                               # the branch above gives the buffers back
            wbuf.append(new_bh)
            io_bufs.append(new_bh)
            tag_flags = (JBD2_FLAG_ESCAPE if escaped else 0) | (0 if first_tag else JBD2_FLAG_SAME_UUID)
            end = offset + tag_bytes + (UUID_SIZE if first_tag else 0)
            full = (len(wbuf) >= journal.j_wbufsize or not commit_transaction.t_buffers
                    or descriptor.b_size - end < tag_bytes + UUID_SIZE + csum_size)
            write_tag(journal, descriptor.b_data, offset, bh, new_bh, tag_flags | (JBD2_FLAG_LAST_TAG if full else 0),
                      commit_transaction.t_tid)
            if first_tag:
                descriptor.b_data[end - UUID_SIZE : end] = journal.j_uuid
            first_tag = False
            offset = end
            if not full:
                continue
        if descriptor is not None:
            jbd2_descriptor_block_csum_set(journal, descriptor)
        crc32_sum = _submit_to_log(journal, wbuf, crc32_sum)
        cond_resched()
        descriptor = None
        first_tag = True
        wbuf = []
    return crc32_sum


@notrace
@may_sleep
def _copy_out(journal: Journal, commit_transaction: Transaction, jh: JournalHead) -> tuple[BufferHead, bool]:
    """The buffer that writes a block of metadata into the log. Raises EIO, ENOMEM."""
    blocknr = jbd2_journal_next_log_block(journal)
    commit_transaction.t_outstanding_credits -= 1
    new_bh, escaped = jbd2_journal_write_metadata_buffer(commit_transaction, jh, blocknr)
    get_bh(jh.b_bh)                                    # truncation must not take it while it is in the shadow
    jh.b_bh.b_state |= BH_JWrite
    return new_bh, escaped


@notrace
@may_sleep
def _submit_to_log(journal: Journal, wbuf: list[BufferHead], crc32_sum: int) -> int:
    checksum = jbd2_has_feature_checksum(journal)
    for bh in wbuf:
        if checksum:
            crc32_sum = crc32_be(crc32_sum, bytes(bh.b_data))
        lock_buffer(bh)
        bh.b_state = bh.b_state & ~BH_Dirty | BH_Uptodate
        bh.b_end_io = journal_end_buffer_io_sync
        submit_bh(REQ_OP_WRITE, REQ_SYNC, bh)
    return crc32_sum


# ---- phase 3 to 5: wait, then the commit block -------------------------------------------------------------------
@notrace
@may_sleep
def _write_commit_block(journal: Journal, commit_transaction: Transaction, crc32_sum: int, plug: Any,
                        log_bufs: list[BufferHead], io_bufs: list[BufferHead], run: TransactionRunStats) -> None:
    """Waits for what was submitted, and writes the commit block behind it."""
    async_commit = jbd2_has_feature_incompat(journal, JBD2_FEATURE_INCOMPAT_ASYNC_COMMIT)
    barrier = journal.j_flags & JBD2_BARRIER
    if commit_transaction.t_need_data_flush and journal.j_fs_dev is not journal.j_dev and barrier:
        _flush(journal.j_fs_dev)
    cbh: BufferHead | None = None
    if async_commit:
        cbh = _submit_commit_block(journal, commit_transaction, crc32_sum)
    journal.kernel.filemap.blk_finish_plug(plug)
    if not _wait_for_log(commit_transaction, log_bufs, io_bufs, run):
        jbd2_journal_abort(journal, -EIO)
    assert commit_transaction.t_state == T_COMMIT_DFLUSH
    commit_transaction.t_state = T_COMMIT_JFLUSH
    if not async_commit:
        cbh = _submit_commit_block(journal, commit_transaction, crc32_sum)
    written = cbh is None or journal_wait_on_commit_record(journal, cbh)
    run.rs_blocks_logged += 1
    if async_commit and barrier:
        _flush(journal.j_dev)
    if not written:
        jbd2_journal_abort(journal, -EIO)


@notrace
@may_sleep
def _flush(bdev: BlockDevice) -> None:
    with suppress(KernelError):                   # Linux ignores it too; writes that fail are seen themselves
        blkdev_issue_flush(bdev)


@notrace
@may_sleep
def _submit_commit_block(journal: Journal, commit_transaction: Transaction, crc32_sum: int) -> BufferHead | None:
    try:
        return journal_submit_commit_record(journal, commit_transaction, crc32_sum)
    except KernelError:
        __jbd2_journal_abort_hard(journal)
        return None


@notrace
@may_sleep
def _wait_for_log(commit_transaction: Transaction, log_bufs: list[BufferHead], io_bufs: list[BufferHead],
                  run: TransactionRunStats) -> bool:
    """Waits for copies and control blocks, the last first: that wakes us less often. True if all are on the disk."""
    journal = commit_transaction.t_journal
    written = True
    while io_bufs:
        bh = io_bufs.pop()
        wait_on_buffer(bh)
        cond_resched()
        written = written and bool(bh.b_state & BH_Uptodate)
        run.rs_blocks_logged += 1
        __brelse(bh)
        assert not bh.b_count
        free_buffer_head(bh)
        jh = next(reversed(commit_transaction.t_shadow_list))
        bh = jh.b_bh
        bh.b_state &= ~BH_JWrite
        assert bh.b_state & (BH_JBDDirty | BH_Shadow) == BH_JBDDirty or is_journal_aborted(journal)
        jbd2_journal_file_buffer(jh, commit_transaction, BJ_Forget)
        __brelse(bh)
    assert not commit_transaction.t_shadow_list
    while log_bufs:
        bh = log_bufs.pop()
        wait_on_buffer(bh)
        cond_resched()
        written = written and bool(bh.b_state & BH_Uptodate)
        bh.b_state &= ~BH_JWrite
        run.rs_blocks_logged += 1
        __brelse(bh)
    return written


# ---- phase 6: what happens to the buffers ------------------------------------------------------------------------
@notrace
@may_sleep
def _file_for_checkpoint(journal: Journal, commit_transaction: Transaction) -> None:
    """Every buffer leaves the transaction: for its checkpoint list and for write-back, or for the next transaction."""
    kernel = journal.kernel
    bdev_sb = blockdev_superblock(kernel)
    while commit_transaction.t_forget:
        jh = next(iter(commit_transaction.t_forget))
        bh = jh.b_bh
        get_bh(bh)
        assert jh.b_transaction is commit_transaction
        if jh.b_committed_data:
            jbd2_free(kernel, jh.b_committed_data)
            jh.b_committed_data = jh.b_frozen_data     # with undo access, that is what is committed now
            jh.b_frozen_data = 0
            jh.b_frozen_triggers = None
        elif jh.b_frozen_data:
            jbd2_free(kernel, jh.b_frozen_data)
            jh.b_frozen_data = 0
            jh.b_frozen_triggers = None
        cp_transaction = jh.b_cp_transaction
        if cp_transaction is not None:                 # the copy in this transaction is newer
            cp_transaction.t_chp_stats.cs_dropped += 1
            __jbd2_journal_remove_checkpoint(jh)
        if bh.b_state & BH_Freed and jh.b_next_transaction is None:
            bh.b_state &= ~(BH_Freed | BH_JBDDirty)
            mapping = kernel.mem.mapping.get(bh.b_pfn)
            if mapping is not None and mapping.host is not None and mapping.host.i_sb is not bdev_sb:
                bh.b_state &= ~(BH_Mapped | BH_New | BH_Req)         # data of a file, in a page that stays
                bh.b_bdev = None
        try_to_free = False
        if bh.b_state & BH_JBDDirty:
            __jbd2_journal_insert_checkpoint(jh, commit_transaction)
            if is_journal_aborted(journal):
                bh.b_state &= ~BH_JBDDirty
        else:
            assert not bh.b_state & BH_Dirty
            try_to_free = jh.b_next_transaction is None
        __jbd2_journal_refile_buffer(jh)
        if try_to_free:
            release_buffer_page(bh)
        else:
            __brelse(bh)
        cond_resched()


# ---- phase 7 -----------------------------------------------------------------------------------------------------
@notrace
def _finish(journal: Journal, commit_transaction: Transaction, stats: TransactionStats, start_time: int) -> None:
    """The transaction is on the disk: whoever waits for it may go on."""
    kernel = journal.kernel
    journal.j_checkpoint_transactions[commit_transaction] = None
    assert commit_transaction.t_state == T_COMMIT_JFLUSH
    commit_transaction.t_start = kernel.time.jiffies
    run = stats.run
    run.rs_logging = commit_transaction.t_start - run.rs_logging
    stats.ts_tid = commit_transaction.t_tid
    run.rs_handle_count = commit_transaction.t_handle_count
    probe = kernel.tp.jbd2_run_stats
    if probe is not None:
        probe(journal.j_fs_dev.bd_dev, commit_transaction.t_tid, run)
    stats.ts_requested = 1 if commit_transaction.t_requested else 0
    commit_transaction.t_state = T_COMMIT_CALLBACK
    assert commit_transaction is journal.j_committing_transaction
    journal.j_commit_sequence = commit_transaction.t_tid
    journal.j_committing_transaction = None
    commit_time = ktime_get() - start_time
    average = journal.j_average_commit_time
    journal.j_average_commit_time = (commit_time + average * 3) // 4 if average else commit_time
    if journal.j_commit_callback is not None:
        journal.j_commit_callback(journal, commit_transaction)
    _trace(kernel.tp.jbd2_end_commit, journal, commit_transaction)
    commit_transaction.t_state = T_FINISHED
    if not commit_transaction.t_checkpoint_list and not commit_transaction.t_checkpoint_io_list:
        __jbd2_journal_drop_transaction(journal, commit_transaction)
    wake_up(journal.j_wait_done_commit)
    journal.j_stats.ts_tid += 1
    journal.j_stats.ts_requested += stats.ts_requested
    for name in TransactionRunStats.__annotations__:
        setattr(journal.j_stats.run, name, getattr(journal.j_stats.run, name) + getattr(run, name))
