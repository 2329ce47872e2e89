"""A buffer's way into a transaction: access before it is changed, dirty after it, and forgetting it.

Linux: the middle of fs/jbd2/transaction.c (5.3). Same: a buffer that the committing transaction still has to write
    is copied before it is changed (b_frozen_data); one that is being written to the log is waited for.
Differs: errors are raised.
Owns: b_modified, b_next_transaction, b_frozen_data. Lock order: buffer lock.
Invariants: b_modified means that its transaction has paid a credit for it; b_frozen_data belongs to b_transaction.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.buffer import __bforget
from glasskernel.fs.buffer_head import (
    BH_JBD,
    BH_Dirty,
    BH_Freed,
    BH_JBDDirty,
    BH_Lock,
    BH_Shadow,
    BH_Uptodate,
    BufferHead,
)
from glasskernel.fs.buffer_io import __brelse, lock_buffer, unlock_buffer
from glasskernel.fs.jbd2.buffers import (
    __jbd2_journal_file_buffer,
    __jbd2_journal_temp_unlink_buffer,
    __jbd2_journal_unfile_buffer,
    warn_dirty_buffer,
)
from glasskernel.fs.jbd2.checkpoint import __jbd2_journal_remove_checkpoint
from glasskernel.fs.jbd2.journal_head import (
    frame_bytes,
    jbd2_alloc,
    jbd2_free,
    jbd2_journal_add_journal_head,
    jbd2_journal_put_journal_head,
)
from glasskernel.fs.jbd2.revoke_table import jbd2_journal_cancel_revoke
from glasskernel.fs.jbd2.types import BJ_Forget, BJ_Metadata, BJ_Reserved, bh2jh, is_handle_aborted
from glasskernel.kernel.printk import printk
from glasskernel.kernel.sched.wait import io_wait_event
from glasskernel.kernel.time.timer import HZ, jiffies_to_msecs
from glasskernel.lib.errno import EIO, ENOSPC, EROFS, EUCLEAN, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.machine.costs import JOURNAL_ACCESS

if TYPE_CHECKING:
    from glasskernel.fs.jbd2.types import BufferTriggers, Handle, JournalHead

GFP_NOFS = 0xC40


# ---- triggers ------------------------------------------------------------------------------------------------
def jbd2_journal_set_triggers(bh: BufferHead, triggers: BufferTriggers | None) -> None:
    """What to call when the contents of a buffer are fixed for the log."""
    jh = jbd2_journal_add_journal_head(bh)
    jh.b_triggers = triggers
    jbd2_journal_put_journal_head(jh)


def jbd2_buffer_frozen_trigger(jh: JournalHead, mapped_data: memoryview, triggers: BufferTriggers | None) -> None:
    if triggers is not None and triggers.t_frozen is not None:
        triggers.t_frozen(jh.b_bh, mapped_data)


def jbd2_buffer_abort_trigger(jh: JournalHead, triggers: BufferTriggers | None) -> None:
    if triggers is not None and triggers.t_abort is not None:
        triggers.t_abort(jh.b_bh)


# ---- access ----------------------------------------------------------------------------------------------------
def jbd2_freeze_jh_data(jh: JournalHead) -> None:
    """Copies the contents that commit into b_frozen_data."""
    bh = jh.b_bh
    if not bh.b_state & BH_Uptodate:
        printk(bh.kernel, "JBD2: Possible IO failure.", 3)
    data = bh.b_data
    jbd2_buffer_frozen_trigger(jh, data, jh.b_triggers)
    frame_bytes(bh.kernel, jh.b_frozen_data, bh.b_size)[:] = data
    jh.b_frozen_triggers = jh.b_triggers


@notrace
@may_sleep
def _lock_for_access(bh: BufferHead) -> None:
    """lock_buffer(), which shows in traces if it takes long."""
    if bh.b_state & BH_Lock:
        kernel = bh.kernel
        start_lock = kernel.time.jiffies
        lock_buffer(bh)
        time_lock = kernel.time.jiffies - start_lock
        probe = kernel.tp.jbd2_lock_buffer_stall
        if time_lock > HZ // 10 and probe is not None and bh.b_bdev is not None:
            probe(bh.b_bdev.bd_dev, jiffies_to_msecs(time_lock))
    else:
        lock_buffer(bh)


@may_sleep
def do_get_write_access(handle: Handle, jh: JournalHead, force_copy: bool) -> None:
    """Lets the handle's transaction change a buffer. Raises EROFS, ENOMEM. Context: task, a reference of jh held."""
    transaction = handle.h_transaction
    assert transaction is not None
    journal = transaction.t_journal
    kernel = journal.kernel
    bh = jh.b_bh
    frozen_buffer = 0
    try:
        while True:
            _lock_for_access(bh)
            # Write-back must not see it dirty any more: from now on the journal says when it is written. The buffer
            # lock keeps us from one that is just being written.
            if bh.b_state & BH_Dirty:
                if jh.b_transaction is not None:
                    assert jh.b_transaction in (transaction, journal.j_committing_transaction)
                    assert jh.b_next_transaction in (None, transaction)
                    warn_dirty_buffer(bh)
                bh.b_state = bh.b_state & ~BH_Dirty | BH_JBDDirty
            unlock_buffer(bh)
            if is_handle_aborted(handle):
                raise KernelError(EROFS)
            if jh.b_transaction is transaction or jh.b_next_transaction is transaction:
                break
            jh.b_modified = False
            if jh.b_transaction is None:
                assert jh.b_next_transaction is None
                __jbd2_journal_file_buffer(jh, transaction, BJ_Reserved)
                break
            if not jh.b_frozen_data:
                assert jh.b_transaction is journal.j_committing_transaction
                if bh.b_state & BH_Shadow:             # on its way into the log: the bytes may not change now
                    io_wait_event(journal.j_wait_shadow, lambda: not bh.b_state & BH_Shadow)
                    continue
                if jh.b_jlist == BJ_Metadata or force_copy:
                    if not frozen_buffer:
                        frozen_buffer = jbd2_alloc(kernel, bh.b_size, GFP_NOFS)
                        continue
                    jh.b_frozen_data = frozen_buffer
                    frozen_buffer = 0
                    jbd2_freeze_jh_data(jh)
            else:
                assert jh.b_next_transaction is None
            jh.b_next_transaction = transaction
            break
        jbd2_journal_cancel_revoke(handle, jh)
    finally:
        if frozen_buffer:
            jbd2_free(kernel, frozen_buffer)


def jbd2_write_access_granted(handle: Handle, bh: BufferHead, undo: bool) -> bool:
    """The usual case: the transaction has the buffer already."""
    if bh.b_state & (BH_Dirty | BH_JBD) != BH_JBD:
        return False
    jh = bh2jh(bh)
    if undo and not jh.b_committed_data:
        return False
    return jh.b_transaction is handle.h_transaction or jh.b_next_transaction is handle.h_transaction


@may_sleep
def jbd2_journal_get_write_access(handle: Handle, bh: BufferHead) -> None:
    """Has to be called before a buffer of metadata is changed. Raises EROFS, ENOMEM."""
    if is_handle_aborted(handle):
        raise KernelError(EROFS)
    transaction = handle.h_transaction
    assert transaction is not None
    transaction.t_journal.kernel.machine.charge(JOURNAL_ACCESS)
    if jbd2_write_access_granted(handle, bh, False):
        return
    jh = jbd2_journal_add_journal_head(bh)
    try:
        do_get_write_access(handle, jh, False)
    finally:
        jbd2_journal_put_journal_head(jh)


@may_sleep
def jbd2_journal_get_create_access(handle: Handle, bh: BufferHead) -> None:
    """The same for a buffer whose old contents are worth nothing: its block is new. Raises EROFS. Locks: buffer."""
    jh = jbd2_journal_add_journal_head(bh)
    try:
        if is_handle_aborted(handle):
            raise KernelError(EROFS)
        transaction = handle.h_transaction
        assert transaction is not None
        committing = transaction.t_journal.j_committing_transaction
        assert (jh.b_transaction is transaction or jh.b_transaction is None
                or (jh.b_transaction is committing and jh.b_jlist == BJ_Forget))
        assert jh.b_next_transaction is None and bh.b_state & BH_Lock
        if jh.b_transaction is None:
            bh.b_state &= ~BH_Dirty                    # a freed block that was to be checkpointed
            jh.b_modified = False
            __jbd2_journal_file_buffer(jh, transaction, BJ_Reserved)
        elif jh.b_transaction is committing:
            jh.b_modified = False
            jh.b_next_transaction = transaction
        jbd2_journal_cancel_revoke(handle, jh)
    finally:
        jbd2_journal_put_journal_head(jh)


@may_sleep
def jbd2_journal_get_undo_access(handle: Handle, bh: BufferHead) -> None:
    """The same, and b_committed_data keeps what is on the disk until the commit. Raises EROFS, ENOMEM."""
    if is_handle_aborted(handle):
        raise KernelError(EROFS)
    if jbd2_write_access_granted(handle, bh, True):
        return
    jh = jbd2_journal_add_journal_head(bh)
    try:
        do_get_write_access(handle, jh, True)
        if not jh.b_committed_data:
            jh.b_committed_data = jbd2_alloc(bh.kernel, bh.b_size, GFP_NOFS)
            frame_bytes(bh.kernel, jh.b_committed_data, bh.b_size)[:] = bh.b_data
    finally:
        jbd2_journal_put_journal_head(jh)


# ---- dirty -----------------------------------------------------------------------------------------------------
def jbd2_journal_dirty_metadata(handle: Handle, bh: BufferHead) -> None:
    """Has to be called after a buffer was changed: it goes into the log with this transaction.

    Raises EROFS, EUCLEAN (no access), ENOSPC (no credits left).
    """
    if is_handle_aborted(handle):
        raise KernelError(EROFS)
    if not bh.b_state & BH_JBD:
        raise KernelError(EUCLEAN)
    transaction = handle.h_transaction
    assert transaction is not None
    jh = bh2jh(bh)
    assert jh.b_transaction is transaction or jh.b_next_transaction is transaction, "no access to this buffer"
    if jh.b_modified:
        assert jh.b_transaction is not transaction or jh.b_jlist == BJ_Metadata
        return
    if handle.h_buffer_credits <= 0:
        raise KernelError(ENOSPC)
    jh.b_modified = True
    handle.h_buffer_credits -= 1
    if jh.b_transaction is transaction and jh.b_jlist == BJ_Metadata:
        return
    bh.b_state |= BH_JBDDirty
    if jh.b_transaction is not transaction:            # the one that commits; it hands the buffer on
        assert jh.b_transaction is transaction.t_journal.j_committing_transaction
        return
    assert not jh.b_frozen_data
    __jbd2_journal_file_buffer(jh, transaction, BJ_Metadata)


# ---- forgetting ------------------------------------------------------------------------------------------------
def jbd2_journal_forget(handle: Handle, bh: BufferHead) -> None:
    """bforget() of a buffer that may be in the journal: its block is freed in this transaction. Raises EROFS, EIO.

    Drops a reference of bh.
    """
    if is_handle_aborted(handle):
        raise KernelError(EROFS)
    transaction = handle.h_transaction
    assert transaction is not None
    if not bh.b_state & BH_JBD:
        __bforget(bh)
        return
    jh = bh2jh(bh)
    if jh.b_committed_data:
        printk(bh.kernel, "JBD2: inconsistent data on disk", 3)
        __bforget(bh)
        raise KernelError(EIO)
    was_modified = jh.b_modified
    jh.b_modified = False
    drop_reserve = False
    keep = True                                        # the buffer's contents still matter to somebody
    if jh.b_transaction is transaction:
        assert not jh.b_frozen_data
        bh.b_state &= ~(BH_Dirty | BH_JBDDirty)
        drop_reserve = was_modified
        if jh.b_cp_transaction is not None:            # this commit ends the checkpoint of the older copy
            __jbd2_journal_temp_unlink_buffer(jh)
            __jbd2_journal_file_buffer(jh, transaction, BJ_Forget)
        else:
            __jbd2_journal_unfile_buffer(jh)
            keep = bool(bh.b_state & BH_JBD)
    elif jh.b_transaction is not None:
        assert jh.b_transaction is transaction.t_journal.j_committing_transaction
        bh.b_state |= BH_Freed                         # the commit may not leave it dirty, only checkpoint it after us
        if jh.b_next_transaction is None:
            jh.b_next_transaction = transaction
        else:
            assert jh.b_next_transaction is transaction
            drop_reserve = was_modified
    elif jh.b_cp_transaction is None:
        keep = False
    elif not bh.b_state & BH_Dirty:
        __jbd2_journal_remove_checkpoint(jh)
        keep = False
    else:                                              # not in its place yet, and need not get there after this commit
        bh.b_state &= ~BH_Dirty
        __jbd2_journal_file_buffer(jh, transaction, BJ_Forget)
    if keep:
        __brelse(bh)
    else:
        __bforget(bh)
    if drop_reserve:
        handle.h_buffer_credits += 1
