"""Handles: the parts that transactions are made of, and a buffer's way into a transaction.

Linux: fs/jbd2/transaction.c (5.3); its other parts are fs/jbd2/buffers.py (lists), fs/jbd2/transaction_page.py
    (truncation, reclaim, files) and fs/jbd2/transaction_access.py (buffers); this file re-exports their names.
Same: a handle reserves credits (blocks) before it begins; a transaction that is locked, too large, or has no room in
    the log makes new handles wait; a handle that is sync lets others join for a moment before it commits.
Differs: errors are raised. jbd2_journal_extend() answers 0 (done) or 1 (no room) as Linux.
Gaps: /sys/module/jbd2/parameters (jbd2_debug), t_max_wait (only counted with it).
Owns: t_updates, t_outstanding_credits, j_reserved_credits, j_barrier_count, current().journal_info.
Invariant: t_outstanding_credits = credits of running handles + blocks that are in the transaction + j_reserved_credits.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.jbd2.buffers import (
    __jbd2_journal_file_buffer,
    __jbd2_journal_refile_buffer,
    jbd2_journal_file_buffer,
    jbd2_journal_refile_buffer,
    jbd2_journal_unfile_buffer,
)
from glasskernel.fs.jbd2.checkpoint import __jbd2_log_wait_for_space
from glasskernel.fs.jbd2.log import jbd2_log_start_commit, jbd2_log_wait_commit
from glasskernel.fs.jbd2.transaction_access import (
    jbd2_journal_dirty_metadata,
    jbd2_journal_forget,
    jbd2_journal_get_create_access,
    jbd2_journal_get_undo_access,
    jbd2_journal_get_write_access,
    jbd2_journal_set_triggers,
)
from glasskernel.fs.jbd2.transaction_page import (
    jbd2_journal_begin_ordered_truncate,
    jbd2_journal_inode_add_wait,
    jbd2_journal_inode_add_write,
    jbd2_journal_inode_ranged_wait,
    jbd2_journal_inode_ranged_write,
    jbd2_journal_invalidatepage,
    jbd2_journal_try_to_free_buffers,
)
from glasskernel.fs.jbd2.types import (
    JBD2_CONTROL_BLOCKS_SHIFT,
    T_FLUSH,
    T_RUNNING,
    T_SWITCH,
    Handle,
    Transaction,
    is_handle_aborted,
    is_journal_aborted,
    jbd2_log_space_left,
    jbd2_space_needed,
    tid_geq,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.mutex import mutex_lock, mutex_unlock
from glasskernel.kernel.printk import printk
from glasskernel.kernel.sched.core import schedule
from glasskernel.kernel.sched.wait import WaitQueueEntry, finish_wait, prepare_to_wait, wait_event, wake_up
from glasskernel.kernel.task import PF_MEMALLOC, TASK_UNINTERRUPTIBLE
from glasskernel.kernel.time.hrtimer import schedule_hrtimeout
from glasskernel.kernel.time.timekeeping import ktime_get
from glasskernel.kernel.time.timer import HZ, add_timer
from glasskernel.kernel.time.types import HRTIMER_MODE_ABS
from glasskernel.lib.errno import EIO, ENOSPC, EROFS, KernelError
from glasskernel.lib.types import U32_MAX, may_sleep, notrace
from glasskernel.machine.costs import JOURNAL_HANDLE

if TYPE_CHECKING:
    from glasskernel.fs.jbd2.types import Journal

GFP_NOFS = 0xC40

__all__ = [
    "__jbd2_journal_file_buffer", "__jbd2_journal_refile_buffer", "jbd2__journal_restart", "jbd2__journal_start",
    "jbd2_journal_begin_ordered_truncate", "jbd2_journal_dirty_metadata", "jbd2_journal_extend",
    "jbd2_journal_file_buffer", "jbd2_journal_forget", "jbd2_journal_free_reserved", "jbd2_journal_get_create_access",
    "jbd2_journal_get_undo_access", "jbd2_journal_get_write_access", "jbd2_journal_inode_add_wait",
    "jbd2_journal_inode_add_write", "jbd2_journal_inode_ranged_wait", "jbd2_journal_inode_ranged_write",
    "jbd2_journal_invalidatepage", "jbd2_journal_lock_updates", "jbd2_journal_refile_buffer", "jbd2_journal_restart",
    "jbd2_journal_set_triggers", "jbd2_journal_start", "jbd2_journal_start_reserved", "jbd2_journal_stop",
    "jbd2_journal_try_to_free_buffers", "jbd2_journal_unfile_buffer", "jbd2_journal_unlock_updates",
]


@notrace
def round_jiffies_up(when: int, now: int) -> int:
    """The next full second, so that timers of no precision fall together."""
    rounded = -(-when // HZ) * HZ
    return rounded if rounded > now else when


def jbd2_get_transaction(journal: Journal, transaction: Transaction) -> Transaction:
    """A new transaction runs; its timer will commit it."""
    assert journal.j_running_transaction is None
    now = journal.kernel.time.jiffies
    transaction.t_start_time_ns = ktime_get()
    transaction.t_tid = journal.j_transaction_sequence
    journal.j_transaction_sequence = journal.j_transaction_sequence + 1 & U32_MAX
    transaction.t_expires = now + journal.j_commit_interval
    transaction.t_outstanding_credits = journal.j_reserved_credits
    journal.j_commit_timer.expires = round_jiffies_up(transaction.t_expires, now)
    add_timer(journal.j_commit_timer)
    journal.j_running_transaction = transaction
    transaction.t_start = now
    return transaction


# ---- starting ------------------------------------------------------------------------------------------------
@may_sleep
def wait_transaction_locked(journal: Journal) -> None:
    """Waits until the running transaction is another one, and asks for its commit if nobody did."""
    assert journal.j_running_transaction is not None
    tid = journal.j_running_transaction.t_tid
    wait = WaitQueueEntry()
    prepare_to_wait(journal.j_wait_transaction_locked, wait, TASK_UNINTERRUPTIBLE)
    if not tid_geq(journal.j_commit_request, tid):
        jbd2_log_start_commit(journal, tid)
    schedule()
    finish_wait(journal.j_wait_transaction_locked, wait)


@may_sleep
def wait_transaction_switching(journal: Journal) -> None:
    """Waits until the transaction that waits for no handle any more has become the committing one."""
    running = journal.j_running_transaction
    assert running is not None and running.t_state == T_SWITCH
    wait = WaitQueueEntry()
    prepare_to_wait(journal.j_wait_transaction_locked, wait, TASK_UNINTERRUPTIBLE)
    schedule()
    finish_wait(journal.j_wait_transaction_locked, wait)


@notrace
def sub_reserved_credits(journal: Journal, blocks: int) -> None:
    journal.j_reserved_credits -= blocks
    wake_up(journal.j_wait_reserved)


@may_sleep
def add_transaction_credits(journal: Journal, blocks: int, rsv_blocks: int) -> bool:
    """Takes credits of the running transaction. False: had to wait, try again."""
    t = journal.j_running_transaction
    assert t is not None
    total = blocks + rsv_blocks
    limit = journal.j_max_transaction_buffers
    if t.t_state != T_RUNNING:
        assert t.t_state < T_FLUSH
        wait_transaction_locked(journal)
        return False
    if t.t_outstanding_credits + total > limit:
        if journal.j_reserved_credits + total > limit:
            wait_event(journal.j_wait_reserved, lambda: journal.j_reserved_credits + total <= limit)
        else:
            wait_transaction_locked(journal)           # this one is full
        return False
    # A commit cannot wait for a checkpoint (of buffers that it has itself), so the room it will need has to be there
    # before the first buffer is dirtied.
    t.t_outstanding_credits += total
    if jbd2_log_space_left(journal) < jbd2_space_needed(journal):
        t.t_outstanding_credits -= total
        __jbd2_log_wait_for_space(journal)
        return False
    if not rsv_blocks:
        return True
    journal.j_reserved_credits += rsv_blocks
    if journal.j_reserved_credits > limit // 2:
        sub_reserved_credits(journal, rsv_blocks)
        t.t_outstanding_credits -= total
        wait_event(journal.j_wait_reserved, lambda: journal.j_reserved_credits + rsv_blocks <= limit // 2)
        return False
    return True


@may_sleep
def start_this_handle(journal: Journal, handle: Handle, gfp_mask: int) -> None:
    """Makes a handle part of the running transaction, which is made if there is none. Raises EROFS, ENOSPC."""
    kernel = journal.kernel
    kernel.machine.charge(JOURNAL_HANDLE)
    blocks = handle.h_buffer_credits
    rsv_blocks = handle.h_rsv_handle.h_buffer_credits if handle.h_rsv_handle is not None else 0
    limit = journal.j_max_transaction_buffers
    if rsv_blocks > limit // 2 or rsv_blocks + blocks > limit:
        printk(kernel, f"JBD2: {current().comm.decode(errors='replace')} wants too many credits credits:{blocks} "
                       f"rsv_credits:{rsv_blocks} max:{limit}", 3)
        raise KernelError(ENOSPC)
    while True:
        if is_journal_aborted(journal) or journal.j_errno:
            raise KernelError(EROFS)
        if not handle.h_reserved and journal.j_barrier_count:
            # a reserved handle ends write-back, for which the owner of the barrier may wait
            wait_event(journal.j_wait_transaction_locked, lambda: not journal.j_barrier_count)
            continue
        transaction = journal.j_running_transaction
        if transaction is None:
            transaction = jbd2_get_transaction(journal, Transaction(journal))
        if not handle.h_reserved:
            if add_transaction_credits(journal, blocks, rsv_blocks):
                break
        elif transaction.t_state == T_SWITCH:
            wait_transaction_switching(journal)
        else:                                          # joins a locked one too: its credits are there
            sub_reserved_credits(journal, blocks)
            handle.h_reserved = 0
            break
    handle.h_transaction = transaction
    handle.h_requested_credits = blocks
    handle.h_start_jiffies = kernel.time.jiffies
    transaction.t_updates += 1
    transaction.t_handle_count += 1
    current().journal_info = handle


@may_sleep
def jbd2__journal_start(journal: Journal | None, nblocks: int, rsv_blocks: int, gfp_mask: int, type: int,
                        line_no: int) -> Handle:
    """Begins an atomic change of at most nblocks buffers; inside of another handle of this task: joins that.

    rsv_blocks: credits for a second handle, h_rsv_handle, to be started later without waiting.
    Raises EROFS (aborted), ENOSPC (larger than the log allows). Context: task, no page locked.
    """
    if journal is None:
        raise KernelError(EROFS)
    handle: Handle | None = current().journal_info
    if handle is not None:
        assert handle.h_transaction is not None and handle.h_transaction.t_journal is journal
        handle.h_ref += 1
        return handle
    handle = Handle(nblocks)
    if rsv_blocks:
        handle.h_rsv_handle = Handle(rsv_blocks, h_reserved=1, h_journal=journal)
    start_this_handle(journal, handle, gfp_mask)
    assert handle.h_transaction is not None
    handle.h_type = type
    handle.h_line_no = line_no
    probe = journal.kernel.tp.jbd2_handle_start
    if probe is not None:
        probe(journal.j_fs_dev.bd_dev, handle.h_transaction.t_tid, type, line_no, nblocks)
    return handle


@may_sleep
def jbd2_journal_start(journal: Journal, nblocks: int) -> Handle:
    return jbd2__journal_start(journal, nblocks, 0, GFP_NOFS, 0, 0)


def jbd2_journal_free_reserved(handle: Handle) -> None:
    """Gives back the credits of a reserved handle that was not started."""
    assert handle.h_reserved and handle.h_journal is not None
    sub_reserved_credits(handle.h_journal, handle.h_buffer_credits)


@may_sleep
def jbd2_journal_start_reserved(handle: Handle, type: int, line_no: int) -> None:
    """Begins the change that credits were reserved for. Raises EROFS; the reservation is gone then."""
    assert handle.h_reserved, "the handle is not a reserved one"
    journal = handle.h_journal
    assert journal is not None
    if current().journal_info is not None:
        jbd2_journal_free_reserved(handle)
        raise KernelError(EIO)
    handle.h_journal = None
    try:
        start_this_handle(journal, handle, GFP_NOFS)
    except KernelError:
        handle.h_journal = journal
        jbd2_journal_free_reserved(handle)
        raise
    assert handle.h_transaction is not None
    handle.h_type = type
    handle.h_line_no = line_no
    probe = journal.kernel.tp.jbd2_handle_start
    if probe is not None:
        probe(journal.j_fs_dev.bd_dev, handle.h_transaction.t_tid, type, line_no, handle.h_buffer_credits)


# ---- more credits --------------------------------------------------------------------------------------------
def jbd2_journal_extend(handle: Handle, nblocks: int) -> int:
    """0: the handle has nblocks credits more. 1: the transaction has no room, restart the handle. Raises EROFS."""
    if is_handle_aborted(handle):
        raise KernelError(EROFS)
    transaction = handle.h_transaction
    assert transaction is not None
    journal = transaction.t_journal
    if transaction.t_state != T_RUNNING:
        return 1
    wanted = transaction.t_outstanding_credits + nblocks
    if wanted > journal.j_max_transaction_buffers:
        return 1
    if wanted + (wanted >> JBD2_CONTROL_BLOCKS_SHIFT) > jbd2_log_space_left(journal):
        return 1
    transaction.t_outstanding_credits = wanted
    probe = journal.kernel.tp.jbd2_handle_extend
    if probe is not None:
        probe(journal.j_fs_dev.bd_dev, transaction.t_tid, handle.h_type, handle.h_line_no, handle.h_buffer_credits,
              nblocks)
    handle.h_buffer_credits += nblocks
    handle.h_requested_credits += nblocks
    return 0


@may_sleep
def jbd2__journal_restart(handle: Handle, nblocks: int, gfp_mask: int) -> None:
    """Ends the handle's part of this transaction, and goes on in the next one with nblocks credits. Raises EROFS."""
    if is_handle_aborted(handle):
        return
    transaction = handle.h_transaction
    assert transaction is not None and transaction.t_updates > 0 and current().journal_info is handle
    journal = transaction.t_journal
    transaction.t_outstanding_credits -= handle.h_buffer_credits
    if handle.h_rsv_handle is not None:
        sub_reserved_credits(journal, handle.h_rsv_handle.h_buffer_credits)
    transaction.t_updates -= 1
    if not transaction.t_updates:
        wake_up(journal.j_wait_updates)
    tid = transaction.t_tid
    handle.h_transaction = None
    current().journal_info = None
    if not tid_geq(journal.j_commit_request, tid):
        jbd2_log_start_commit(journal, tid)
    handle.h_buffer_credits = nblocks
    start_this_handle(journal, handle, gfp_mask)


@may_sleep
def jbd2_journal_restart(handle: Handle, nblocks: int) -> None:
    jbd2__journal_restart(handle, nblocks, GFP_NOFS)


# ---- stopping ------------------------------------------------------------------------------------------------
@notrace
@may_sleep
def _let_others_join(journal: Journal, transaction: Transaction) -> None:
    """Another task synced last: wait about as long as a commit takes, so that one commit serves both."""
    journal.j_last_sync_writer = current().pid
    commit_time = max(journal.j_average_commit_time, 1000 * journal.j_min_batch_time)
    commit_time = min(commit_time, 1000 * journal.j_max_batch_time)
    now = ktime_get()
    if now - transaction.t_start_time_ns < commit_time:
        current().state = TASK_UNINTERRUPTIBLE
        schedule_hrtimeout(now + commit_time, HRTIMER_MODE_ABS)


@may_sleep
def jbd2_journal_stop(handle: Handle) -> None:
    """Ends an atomic change. h_sync: and waits for its commit. Raises EIO if the journal was aborted."""
    transaction = handle.h_transaction
    task = current()
    if transaction is None:                            # a restart failed
        handle.h_ref -= 1
        if not handle.h_ref:
            task.journal_info = None
        return
    journal = transaction.t_journal
    kernel = journal.kernel
    assert task.journal_info is handle
    aborted = is_handle_aborted(handle)
    assert aborted or transaction.t_updates > 0
    handle.h_ref -= 1
    if handle.h_ref > 0:
        if aborted:
            raise KernelError(EIO)
        return
    probe = kernel.tp.jbd2_handle_stats
    if probe is not None:
        probe(journal.j_fs_dev.bd_dev, transaction.t_tid, handle.h_type, handle.h_line_no,
              kernel.time.jiffies - handle.h_start_jiffies, handle.h_sync, handle.h_requested_credits,
              handle.h_requested_credits - handle.h_buffer_credits)
    if handle.h_sync and journal.j_last_sync_writer != task.pid and journal.j_max_batch_time:
        _let_others_join(journal, transaction)
    if handle.h_sync:
        transaction.t_synchronous_commit = 1
    task.journal_info = None
    transaction.t_outstanding_credits -= handle.h_buffer_credits
    wait_for_commit = False
    if (handle.h_sync or transaction.t_outstanding_credits > journal.j_max_transaction_buffers
            or kernel.time.jiffies >= transaction.t_expires):
        jbd2_log_start_commit(journal, transaction.t_tid)
        wait_for_commit = bool(handle.h_sync and not task.flags & PF_MEMALLOC)
    tid = transaction.t_tid
    transaction.t_updates -= 1
    if not transaction.t_updates:
        wake_up(journal.j_wait_updates)
        if journal.j_barrier_count:
            wake_up(journal.j_wait_transaction_locked)
    if handle.h_rsv_handle is not None:
        jbd2_journal_free_reserved(handle.h_rsv_handle)
    if wait_for_commit:
        jbd2_log_wait_commit(journal, tid)
    if aborted:
        raise KernelError(EIO)


# ---- a barrier against handles -------------------------------------------------------------------------------
@may_sleep
def jbd2_journal_lock_updates(journal: Journal) -> None:
    """Waits until no handle runs; new ones wait for jbd2_journal_unlock_updates()."""
    journal.j_barrier_count += 1
    if journal.j_reserved_credits:
        wait_event(journal.j_wait_reserved, lambda: not journal.j_reserved_credits)
    while True:
        transaction = journal.j_running_transaction
        if transaction is None:
            break
        wait = WaitQueueEntry()
        prepare_to_wait(journal.j_wait_updates, wait, TASK_UNINTERRUPTIBLE)
        if not transaction.t_updates:
            finish_wait(journal.j_wait_updates, wait)
            break
        schedule()
        finish_wait(journal.j_wait_updates, wait)
    mutex_lock(journal.j_barrier)


def jbd2_journal_unlock_updates(journal: Journal) -> None:
    assert journal.j_barrier_count
    mutex_unlock(journal.j_barrier)
    journal.j_barrier_count -= 1
    wake_up(journal.j_wait_transaction_locked)
