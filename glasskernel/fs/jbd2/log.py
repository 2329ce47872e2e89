"""The log as a whole: asking for commits, waiting for them, the superblock, its tail, and the abort.

Linux: fs/jbd2/journal.c (5.3). Same: the tail moves only after the superblock that says so is on the disk; the
    first error stops the journal, and is recorded in the superblock.
Differs: errors are raised; j_errno keeps Linux's negative numbers.
Owns: j_flags, j_errno, j_tail, j_tail_sequence, j_commit_request. Lock order: j_checkpoint_mutex, buffer lock.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.block.blk_types import REQ_FUA, REQ_OP_WRITE, REQ_PREFLUSH, REQ_SYNC
from glasskernel.fs.buffer_head import BH_Mapped, BH_Uptodate, BH_Write_EIO, get_bh
from glasskernel.fs.buffer_io import end_buffer_write_sync, lock_buffer, submit_bh, wait_on_buffer
from glasskernel.fs.jbd2.types import (
    BE32,
    JBD2_ABORT,
    JBD2_BARRIER,
    JBD2_FLUSHED,
    JBD2_REC_ERR,
    T_COMMIT_DFLUSH,
    T_COMMIT_JFLUSH,
    TAIL_SIZE,
    JournalSuperblock,
    is_journal_aborted,
    jbd2_journal_has_csum_v2or3,
    tid_geq,
    tid_gt,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.locking.mutex import mutex_is_locked, mutex_lock, mutex_unlock
from glasskernel.kernel.printk import printk
from glasskernel.kernel.sched.wait import wait_event, wake_up
from glasskernel.lib.crc32c import crc32c
from glasskernel.lib.errno import EIO, ESHUTDOWN, KernelError
from glasskernel.lib.types import U32_MAX, may_sleep

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.jbd2.types import Journal


# ---- asking for a commit -----------------------------------------------------------------------------------
def __jbd2_log_start_commit(journal: Journal, target: int) -> bool:
    """Asks for the commit of the running transaction, if that is `target`. True if nobody had. Context: any."""
    if journal.j_commit_request == target:
        return False
    running = journal.j_running_transaction
    if running is not None and running.t_tid == target:
        journal.j_commit_request = target
        running.t_requested = journal.kernel.time.jiffies
        wake_up(journal.j_wait_commit)
        return True
    if not tid_geq(journal.j_commit_request, target):
        printk(journal.kernel, f"JBD2: bad log_start_commit: {journal.j_commit_request} {journal.j_commit_sequence} "
                               f"{target} {running.t_tid if running is not None else 0}", 4)
    return False


def jbd2_log_start_commit(journal: Journal, tid: int) -> bool:
    return __jbd2_log_start_commit(journal, tid)


def jbd2_journal_start_commit(journal: Journal) -> int | None:
    """Asks for the commit of what runs; the tid to wait for, or None if there is nothing to commit."""
    if journal.j_running_transaction is not None:
        tid = journal.j_running_transaction.t_tid
        __jbd2_log_start_commit(journal, tid)
        return tid
    if journal.j_committing_transaction is not None:
        return journal.j_committing_transaction.t_tid
    return None


@may_sleep
def __jbd2_journal_force_commit(journal: Journal) -> bool:
    """Commits what can be committed by this task, and waits. False: there was nothing. Raises EIO."""
    transaction = None
    need_to_start = False
    if journal.j_running_transaction is not None and current().journal_info is None:
        transaction = journal.j_running_transaction
        need_to_start = not tid_geq(journal.j_commit_request, transaction.t_tid)
    elif journal.j_committing_transaction is not None:
        transaction = journal.j_committing_transaction
    if transaction is None:
        return False
    tid = transaction.t_tid
    if need_to_start:
        jbd2_log_start_commit(journal, tid)
    jbd2_log_wait_commit(journal, tid)
    return True


@may_sleep
def jbd2_journal_force_commit_nested(journal: Journal) -> bool:
    """Frees blocks that wait for a commit; may be called with a running handle. True if it did something."""
    try:
        return __jbd2_journal_force_commit(journal)
    except KernelError:
        return False


@may_sleep
def jbd2_journal_force_commit(journal: Journal) -> None:
    """Commits what runs, and waits. Raises EIO. Context: task without a running handle."""
    assert current().journal_info is None
    __jbd2_journal_force_commit(journal)


def jbd2_trans_will_send_data_barrier(journal: Journal, tid: int) -> bool:
    """True if the commit of a transaction will still flush the write cache of the file system's device."""
    if not journal.j_flags & JBD2_BARRIER or tid_geq(journal.j_commit_sequence, tid):
        return False
    commit_trans = journal.j_committing_transaction
    if commit_trans is None or commit_trans.t_tid != tid:
        return True
    if journal.j_fs_dev is not journal.j_dev:
        return bool(commit_trans.t_need_data_flush) and commit_trans.t_state < T_COMMIT_DFLUSH
    return commit_trans.t_state < T_COMMIT_JFLUSH


@may_sleep
def jbd2_log_wait_commit(journal: Journal, tid: int) -> None:
    """Waits until a transaction is on the disk. Raises EIO if the journal was aborted."""
    while tid_gt(tid, journal.j_commit_sequence):
        wake_up(journal.j_wait_commit)
        wait_event(journal.j_wait_done_commit, lambda: not tid_gt(tid, journal.j_commit_sequence))
    if is_journal_aborted(journal):
        raise KernelError(EIO)


def jbd2_transaction_committed(journal: Journal, tid: int) -> bool:
    """True if the transaction neither runs nor commits."""
    return not any(transaction is not None and transaction.t_tid == tid
                   for transaction in (journal.j_running_transaction, journal.j_committing_transaction))


@may_sleep
def jbd2_complete_transaction(journal: Journal, tid: int) -> None:
    """Starts the commit of a transaction if nobody did, and waits for it. Raises EIO."""
    running, committing = journal.j_running_transaction, journal.j_committing_transaction
    if running is not None and running.t_tid == tid:
        if journal.j_commit_request != tid:
            jbd2_log_start_commit(journal, tid)
    elif committing is None or committing.t_tid != tid:
        return
    jbd2_log_wait_commit(journal, tid)


# ---- checksums -----------------------------------------------------------------------------------------------
def jbd2_superblock_csum(sb: JournalSuperblock) -> int:
    at = JournalSuperblock.CHECKSUM_OFFSET
    data = bytes(sb.m[:at]) + bytes(4) + bytes(sb.m[at + 4 : JournalSuperblock.SIZE])
    return crc32c(U32_MAX, data)


def jbd2_descriptor_block_csum_set(j: Journal, bh: BufferHead) -> None:
    """The checksum at the end of a descriptor or revoke block."""
    if not jbd2_journal_has_csum_v2or3(j):
        return
    data = bh.b_data
    at = j.j_blocksize - TAIL_SIZE
    BE32.pack_into(data, at, 0)
    BE32.pack_into(data, at, crc32c(j.j_csum_seed, data[: j.j_blocksize]))


# ---- the superblock, and the tail -----------------------------------------------------------------------------
@may_sleep
def jbd2_write_superblock(journal: Journal, write_flags: int) -> None:
    """Writes the superblock and waits. Raises EIO, and then the journal is aborted."""
    kernel = journal.kernel
    bh = journal.j_sb_buffer
    if not bh.b_state & BH_Mapped:
        raise KernelError(EIO)                         # the device was taken away
    probe = kernel.tp.jbd2_write_superblock
    if probe is not None:
        probe(journal, write_flags)
    if not journal.j_flags & JBD2_BARRIER:
        write_flags &= ~(REQ_FUA | REQ_PREFLUSH)
    lock_buffer(bh)
    if bh.b_state & BH_Write_EIO:
        printk(kernel, "JBD2: previous I/O error detected for journal superblock update for "
                       f"{journal.j_devname}.", 3)
        bh.b_state = bh.b_state & ~BH_Write_EIO | BH_Uptodate
    if jbd2_journal_has_csum_v2or3(journal):
        journal.j_superblock.s_checksum = jbd2_superblock_csum(journal.j_superblock)
    get_bh(bh)
    bh.b_end_io = end_buffer_write_sync
    submit_bh(REQ_OP_WRITE, write_flags, bh)
    wait_on_buffer(bh)
    if bh.b_state & BH_Write_EIO:
        bh.b_state = bh.b_state & ~BH_Write_EIO | BH_Uptodate
        printk(kernel, f"JBD2: Error {-EIO} detected when updating journal superblock for {journal.j_devname}.", 3)
        jbd2_journal_abort(journal, -EIO)
        raise KernelError(EIO)


@may_sleep
def jbd2_journal_update_sb_log_tail(journal: Journal, tail_tid: int, tail_block: int, write_op: int) -> None:
    """Tells the disk where recovery has to begin. Raises EIO. Locks: j_checkpoint_mutex."""
    if is_journal_aborted(journal):
        raise KernelError(EIO)
    assert mutex_is_locked(journal.j_checkpoint_mutex)
    sb = journal.j_superblock
    sb.s_sequence = tail_tid
    sb.s_start = tail_block
    jbd2_write_superblock(journal, write_op)
    journal.j_flags &= ~JBD2_FLUSHED


@may_sleep
def jbd2_mark_journal_empty(journal: Journal, write_op: int) -> None:
    """Nothing in the log needs recovery. Locks: j_checkpoint_mutex."""
    sb = journal.j_superblock
    if not sb.s_start:
        return
    sb.s_sequence = journal.j_tail_sequence
    sb.s_start = 0
    with suppress(KernelError):                   # the journal is aborted now: that is what the caller looks at
        jbd2_write_superblock(journal, write_op)
    journal.j_flags |= JBD2_FLUSHED


@may_sleep
def jbd2_journal_update_sb_errno(journal: Journal) -> None:
    """Records the error that stopped the journal, for e2fsck and the next mount."""
    errcode = journal.j_errno
    journal.j_superblock.s_errno = 0 if errcode == -ESHUTDOWN else errcode
    with suppress(KernelError):                   # nothing more can be done
        jbd2_write_superblock(journal, REQ_SYNC | REQ_FUA)


def jbd2_journal_get_log_tail(journal: Journal) -> tuple[bool, int, int]:
    """(True if the tail can move, tid, block): the oldest transaction whose blocks are still needed."""
    transaction = next(iter(journal.j_checkpoint_transactions), None) or journal.j_committing_transaction
    if transaction is not None:
        tid, block = transaction.t_tid, transaction.t_log_start
    elif journal.j_running_transaction is not None:
        tid, block = journal.j_running_transaction.t_tid, journal.j_head
    else:
        tid, block = journal.j_transaction_sequence, journal.j_head
    return tid_gt(tid, journal.j_tail_sequence), tid, block


@may_sleep
def __jbd2_update_log_tail(journal: Journal, tid: int, block: int) -> None:
    """Moves the tail. FUA: the space is used again at once. Raises EIO."""
    assert mutex_is_locked(journal.j_checkpoint_mutex)
    jbd2_journal_update_sb_log_tail(journal, tid, block, REQ_SYNC | REQ_FUA)
    freed = block - journal.j_tail
    if block < journal.j_tail:
        freed += journal.j_last - journal.j_first
    probe = journal.kernel.tp.jbd2_update_log_tail
    if probe is not None:
        probe(journal, tid, block, freed)
    journal.j_free += freed
    journal.j_tail_sequence = tid
    journal.j_tail = block


@may_sleep
def jbd2_update_log_tail(journal: Journal, tid: int, block: int) -> None:
    """Moves the tail unless somebody else moved it further. Errors abort the journal."""
    mutex_lock(journal.j_checkpoint_mutex)
    try:
        if tid_gt(tid, journal.j_tail_sequence):
            __jbd2_update_log_tail(journal, tid, block)
    except KernelError:
        pass
    finally:
        mutex_unlock(journal.j_checkpoint_mutex)


# ---- the abort -------------------------------------------------------------------------------------------------
def __jbd2_journal_abort_hard(journal: Journal) -> None:
    if journal.j_flags & JBD2_ABORT:
        return
    printk(journal.kernel, f"Aborting journal on device {journal.j_devname}.", 3)
    journal.j_flags |= JBD2_ABORT
    if journal.j_running_transaction is not None:
        __jbd2_log_start_commit(journal, journal.j_running_transaction.t_tid)


@may_sleep
def __journal_abort_soft(journal: Journal, errno: int) -> None:
    old_errno = journal.j_errno
    if not old_errno or errno == -ESHUTDOWN:
        journal.j_errno = errno
    if journal.j_flags & JBD2_ABORT:
        if old_errno and old_errno != -ESHUTDOWN and errno == -ESHUTDOWN:
            jbd2_journal_update_sb_errno(journal)
        return
    __jbd2_journal_abort_hard(journal)
    if errno:
        jbd2_journal_update_sb_errno(journal)
        journal.j_flags |= JBD2_REC_ERR


@may_sleep
def jbd2_journal_abort(journal: Journal, errno: int) -> None:
    """Stops the journal for good: nothing is written to the log or to the file system any more.

    errno: negative, recorded in the superblock; 0 records nothing.
    """
    __journal_abort_soft(journal, errno)
