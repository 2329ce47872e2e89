"""Checkpoints: metadata of committed transactions goes to its place, so that the log has room again.

Linux: fs/jbd2/checkpoint.c (5.3). Same: transactions leave the log in the order in which they came; the device's
    write cache is flushed before the tail moves; a buffer that a newer transaction has is committed there first.
Differs: lists are dicts, oldest first. jbd2_cleanup_journal_tail() answers True when the tail moved (Linux: 0 or 1).
Owns: t_checkpoint_list, t_checkpoint_io_list, j_checkpoint_transactions.
Invariants: a transaction is in j_checkpoint_transactions until its last buffer is written; every jh on its two lists
    has b_cp_transaction and a reference for it. Lock order: j_checkpoint_mutex, buffer lock.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.block.blk_core import blkdev_issue_flush
from glasskernel.block.blk_types import REQ_SYNC
from glasskernel.fs.buffer_head import BH_Dirty, BH_JBDDirty, BH_JWrite, BH_Lock, BH_Write_EIO, BufferHead, get_bh
from glasskernel.fs.buffer_io import __brelse, wait_on_buffer, write_dirty_buffer
from glasskernel.fs.jbd2.journal_head import jbd2_journal_grab_journal_head, jbd2_journal_put_journal_head
from glasskernel.fs.jbd2.log import (
    __jbd2_update_log_tail,
    jbd2_journal_abort,
    jbd2_journal_get_log_tail,
    jbd2_log_start_commit,
    jbd2_log_wait_commit,
)
from glasskernel.fs.jbd2.types import (
    JBD2_ABORT,
    JBD2_BARRIER,
    JBD2_NR_BATCH,
    JBD2_UNMOUNT,
    T_FINISHED,
    is_journal_aborted,
    jbd2_log_space_left,
    jbd2_space_needed,
)
from glasskernel.kernel.locking.mutex import mutex_lock, mutex_unlock
from glasskernel.kernel.printk import printk
from glasskernel.lib.errno import EIO, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.jbd2.types import Journal, JournalHead, Transaction


@may_sleep
def __jbd2_log_wait_for_space(journal: Journal) -> None:
    """Makes room for one more transaction: checkpoints old ones until there is. Context: task without a handle."""
    while jbd2_log_space_left(journal) < jbd2_space_needed(journal):
        mutex_lock(journal.j_checkpoint_mutex)
        if journal.j_flags & JBD2_ABORT:
            mutex_unlock(journal.j_checkpoint_mutex)
            return
        nblocks = jbd2_space_needed(journal)
        space_left = jbd2_log_space_left(journal)
        if space_left < nblocks and not _make_room(journal):
            committing = journal.j_committing_transaction
            if committing is not None:                 # its end frees some
                tid = committing.t_tid
                mutex_unlock(journal.j_checkpoint_mutex)
                with suppress(KernelError):
                    jbd2_log_wait_commit(journal, tid)
                continue
            printk(journal.kernel, f"__jbd2_log_wait_for_space: needed {nblocks} blocks and only had {space_left} "
                                   "space available", 3)
            printk(journal.kernel, "__jbd2_log_wait_for_space: no way to get more journal space in "
                                   f"{journal.j_devname}", 3)
            jbd2_journal_abort(journal, 0)
        mutex_unlock(journal.j_checkpoint_mutex)


@notrace
@may_sleep
def _make_room(journal: Journal) -> bool:
    """Checkpoints the oldest transaction, or moves the tail. False: neither could be done."""
    try:
        if journal.j_checkpoint_transactions:
            jbd2_log_do_checkpoint(journal)
            return True
        return jbd2_cleanup_journal_tail(journal)
    except KernelError:
        return is_journal_aborted(journal)


@may_sleep
def jbd2_cleanup_journal_tail(journal: Journal) -> bool:
    """Frees the blocks of transactions that are checkpointed. False: there were none. Raises EIO.

    Locks: j_checkpoint_mutex.
    """
    if is_journal_aborted(journal):
        raise KernelError(EIO)
    moves, first_tid, blocknr = jbd2_journal_get_log_tail(journal)
    if not moves:
        return False
    assert blocknr
    if journal.j_flags & JBD2_BARRIER:
        with suppress(KernelError):               # a device without a cache has nothing to flush
            blkdev_issue_flush(journal.j_fs_dev)
    __jbd2_update_log_tail(journal, first_tid, blocknr)
    return True


# ---- writing -------------------------------------------------------------------------------------------------
@may_sleep
def __flush_batch(journal: Journal, batch: list[BufferHead]) -> None:
    """Starts to write buffers that were gathered, in one go."""
    hooks = journal.kernel.filemap
    plug = hooks.blk_start_plug()
    for bh in batch:
        write_dirty_buffer(bh, REQ_SYNC)
    hooks.blk_finish_plug(plug)
    for bh in batch:
        __brelse(bh)
    batch.clear()


@may_sleep
def jbd2_log_do_checkpoint(journal: Journal) -> None:
    """Writes the buffers of the oldest transaction and waits for them; then the tail moves. Raises EIO.

    Locks: j_checkpoint_mutex, dropped while waiting for a commit.
    """
    try:
        moved = jbd2_cleanup_journal_tail(journal)
    except KernelError:
        _trace_checkpoint(journal, -EIO)
        raise
    _trace_checkpoint(journal, 0 if moved else 1)
    if moved:
        return
    transaction = next(iter(journal.j_checkpoint_transactions), None)
    if transaction is not None:
        if not transaction.t_chp_stats.cs_chp_time:
            transaction.t_chp_stats.cs_chp_time = journal.kernel.time.jiffies
        failed = _submit_buffers(journal, transaction)
        failed |= _wait_for_buffers(journal, transaction)
        if failed:
            jbd2_journal_abort(journal, -EIO)
            raise KernelError(EIO)
    jbd2_cleanup_journal_tail(journal)


@notrace
def _trace_checkpoint(journal: Journal, result: int) -> None:
    probe = journal.kernel.tp.jbd2_checkpoint
    if probe is not None:
        probe(journal, result)


@notrace
def _is_oldest(journal: Journal, transaction: Transaction) -> bool:
    """False: somebody else finished the checkpoint of it while we slept."""
    return next(iter(journal.j_checkpoint_transactions), None) is transaction


@notrace
@may_sleep
def _submit_buffers(journal: Journal, transaction: Transaction) -> bool:
    """Submits every dirty buffer of the transaction. True if one could not be written."""
    batch: list[BufferHead] = []
    failed = False
    while _is_oldest(journal, transaction):
        if not transaction.t_checkpoint_list:
            if not batch:
                break
            __flush_batch(journal, batch)
            continue
        jh = next(iter(transaction.t_checkpoint_list))
        bh = jh.b_bh
        if bh.b_state & BH_Lock:
            get_bh(bh)
            wait_on_buffer(bh)
            __brelse(bh)                               # the journal head may be gone
            if batch:
                __flush_batch(journal, batch)
        elif jh.b_transaction is not None:
            _close_transaction(journal, transaction, jh, batch)
        elif not bh.b_state & BH_Dirty:
            failed |= bool(bh.b_state & BH_Write_EIO)
            if __jbd2_journal_remove_checkpoint(jh):
                break
        else:
            get_bh(bh)
            assert not bh.b_state & BH_JWrite
            batch.append(bh)
            del transaction.t_checkpoint_list[jh]      # __buffer_relink_io()
            transaction.t_checkpoint_io_list[jh] = None
            transaction.t_chp_stats.cs_written += 1
            if len(batch) == JBD2_NR_BATCH:
                __flush_batch(journal, batch)
    if batch:
        __flush_batch(journal, batch)
    return failed


@notrace
@may_sleep
def _close_transaction(journal: Journal, transaction: Transaction, jh: JournalHead, batch: list[BufferHead]) -> None:
    """A newer transaction has the buffer: its commit has to come first."""
    assert jh.b_transaction is not None
    tid = jh.b_transaction.t_tid
    transaction.t_chp_stats.cs_forced_to_close += 1
    if journal.j_flags & JBD2_UNMOUNT:                 # its thread is gone: this will take long
        printk(journal.kernel, f"JBD2: {journal.j_devname}: Waiting for Godot: block {jh.b_bh.b_blocknr}", 3)
    if batch:
        __flush_batch(journal, batch)
    jbd2_log_start_commit(journal, tid)
    mutex_unlock(journal.j_checkpoint_mutex)           # the commit may want it
    with suppress(KernelError):                   # aborted: its buffers are clean now
        jbd2_log_wait_commit(journal, tid)
    mutex_lock(journal.j_checkpoint_mutex)


@notrace
@may_sleep
def _wait_for_buffers(journal: Journal, transaction: Transaction) -> bool:
    """Waits for what was submitted. True if a write failed."""
    failed = False
    while _is_oldest(journal, transaction) and transaction.t_checkpoint_io_list:
        jh = next(iter(transaction.t_checkpoint_io_list))
        bh = jh.b_bh
        if bh.b_state & BH_Lock:
            get_bh(bh)
            wait_on_buffer(bh)
            __brelse(bh)
            continue
        failed |= bool(bh.b_state & BH_Write_EIO)
        if __jbd2_journal_remove_checkpoint(jh):
            break
    return failed


# ---- lists ---------------------------------------------------------------------------------------------------
def __try_to_free_cp_buf(jh: JournalHead) -> int:
    """0: the buffer is not written yet. 1: taken off its list. 2: and its transaction is gone with it."""
    bh = jh.b_bh
    if jh.b_transaction is None and not bh.b_state & (BH_Lock | BH_Dirty | BH_Write_EIO):
        return __jbd2_journal_remove_checkpoint(jh) + 1
    return 0


def journal_clean_one_cp_list(cp_list: dict[JournalHead, None], destroy: bool) -> bool:
    """Takes written buffers off a list, up to the first that is not written. True: the transaction is gone."""
    for jh in list(cp_list):
        ret = __jbd2_journal_remove_checkpoint(jh) + 1 if destroy else __try_to_free_cp_buf(jh)
        if not ret:
            return False
        if ret == 2:
            return True
    return False


def __jbd2_journal_clean_checkpoint_list(journal: Journal, destroy: bool) -> None:
    """Forgets buffers that write-back has written meanwhile. destroy: and all others, of an aborted journal."""
    for transaction in list(journal.j_checkpoint_transactions):
        if journal_clean_one_cp_list(transaction.t_checkpoint_list, destroy):
            continue
        if not journal_clean_one_cp_list(transaction.t_checkpoint_io_list, destroy):
            return


def jbd2_journal_destroy_checkpoint(journal: Journal) -> None:
    """Forgets all that was not checkpointed: the journal was aborted."""
    while journal.j_checkpoint_transactions:
        __jbd2_journal_clean_checkpoint_list(journal, True)


def __jbd2_journal_remove_checkpoint(jh: JournalHead) -> int:
    """A buffer is in its place, or never will be. 1: it was the last of its transaction, which is gone."""
    transaction = jh.b_cp_transaction
    if transaction is None:
        return 0
    journal = transaction.t_journal
    transaction.t_checkpoint_list.pop(jh, None)        # __buffer_unlink()
    transaction.t_checkpoint_io_list.pop(jh, None)
    jh.b_cp_transaction = None
    jbd2_journal_put_journal_head(jh)
    if transaction.t_checkpoint_list or transaction.t_checkpoint_io_list or transaction.t_state != T_FINISHED:
        return 0
    stats = transaction.t_chp_stats
    if stats.cs_chp_time:
        stats.cs_chp_time = journal.kernel.time.jiffies - stats.cs_chp_time
    probe = journal.kernel.tp.jbd2_checkpoint_stats
    if probe is not None:
        probe(journal.j_fs_dev.bd_dev, transaction.t_tid, stats)
    __jbd2_journal_drop_transaction(journal, transaction)
    return 1


def __jbd2_journal_insert_checkpoint(jh: JournalHead, transaction: Transaction) -> None:
    """A committed buffer has to be written to its place before its transaction leaves the log."""
    assert jh.b_bh.b_state & (BH_Dirty | BH_JBDDirty)
    assert jh.b_cp_transaction is None
    jbd2_journal_grab_journal_head(jh.b_bh)
    jh.b_cp_transaction = transaction
    transaction.t_checkpoint_list[jh] = None


def __jbd2_journal_drop_transaction(journal: Journal, transaction: Transaction) -> None:
    """The log does not need this transaction any more."""
    journal.j_checkpoint_transactions.pop(transaction, None)
    assert transaction.t_state == T_FINISHED and not transaction.t_buffers and not transaction.t_forget
    assert not transaction.t_shadow_list and not transaction.t_updates
    assert not transaction.t_checkpoint_list and not transaction.t_checkpoint_io_list
    assert journal.j_committing_transaction is not transaction and journal.j_running_transaction is not transaction
    probe = journal.kernel.tp.jbd2_drop_transaction
    if probe is not None:
        probe(journal, transaction)
