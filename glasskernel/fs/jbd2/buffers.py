"""Which list of which transaction a buffer is on.

Linux: the lists of fs/jbd2/transaction.c (5.3). Same: a buffer that is moved between lists is not marked dirty for
    write-back until its transaction is on the disk: BH_JBDDirty stands for BH_Dirty meanwhile.
Owns: b_jlist, b_transaction, the lists of a Transaction but the checkpoint ones.
Invariants: on every list but BJ_None the journal head holds one reference for its b_transaction.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.buffer_head import (
    BH_Dirty,
    BH_Freed,
    BH_JBDDirty,
    get_bh,
    test_clear_buffer_dirty,
    test_clear_buffer_jbddirty,
)
from glasskernel.fs.buffer_io import __brelse, mark_buffer_dirty
from glasskernel.fs.jbd2.journal_head import jbd2_journal_grab_journal_head, jbd2_journal_put_journal_head
from glasskernel.fs.jbd2.types import (
    BJ_Forget,
    BJ_Metadata,
    BJ_None,
    BJ_Reserved,
    BJ_Shadow,
    BJ_Types,
    is_journal_aborted,
)
from glasskernel.kernel.printk import printk
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.jbd2.types import Journal, JournalHead, Transaction


@notrace
def list_of(transaction: Transaction, jlist: int) -> dict[JournalHead, None] | None:
    """The list that a BJ_* names; None for BJ_None."""
    if jlist == BJ_Metadata:
        return transaction.t_buffers
    if jlist == BJ_Forget:
        return transaction.t_forget
    if jlist == BJ_Shadow:
        return transaction.t_shadow_list
    if jlist == BJ_Reserved:
        return transaction.t_reserved_list
    return None


@notrace
def warn_dirty_buffer(bh: BufferHead) -> None:
    """Somebody made a buffer of metadata dirty behind the journal's back."""
    disk = bh.b_bdev.bd_disk if bh.b_bdev is not None else None
    name = (disk.disk_name if disk is not None else b"?").decode()
    printk(bh.kernel, f"JBD2: Spotted dirty metadata buffer (dev = {name}, blocknr = {bh.b_blocknr}). "
                      "There's a risk of filesystem corruption in case of system crash.", 4)


def __jbd2_journal_temp_unlink_buffer(jh: JournalHead) -> None:
    """Takes a buffer off its list, for it to go to another one; what was dirty for the journal is dirty for all."""
    bh = jh.b_bh
    transaction = jh.b_transaction
    assert jh.b_jlist < BJ_Types
    assert not jh.b_jlist or transaction is not None
    if transaction is None:
        return
    head = list_of(transaction, jh.b_jlist)
    if head is None:
        return
    if jh.b_jlist == BJ_Metadata:
        transaction.t_nr_buffers -= 1
        assert transaction.t_nr_buffers >= 0
    del head[jh]
    jh.b_jlist = BJ_None
    if is_journal_aborted(transaction.t_journal):
        bh.b_state &= ~BH_JBDDirty
    elif test_clear_buffer_jbddirty(bh):
        mark_buffer_dirty(bh)                          # now write-back may have it


@notrace
def __jbd2_journal_unfile_buffer(jh: JournalHead) -> None:
    """Takes a buffer out of its transaction, with the reference of that: jh may be gone afterwards."""
    assert jh.b_transaction is not None and jh.b_next_transaction is None
    __jbd2_journal_temp_unlink_buffer(jh)
    jh.b_transaction = None
    jbd2_journal_put_journal_head(jh)


def jbd2_journal_unfile_buffer(journal: Journal, jh: JournalHead) -> None:
    bh = jh.b_bh
    get_bh(bh)                                         # the journal head may go, and its reference with it
    __jbd2_journal_unfile_buffer(jh)
    __brelse(bh)


def __jbd2_journal_file_buffer(jh: JournalHead, transaction: Transaction, jlist: int) -> None:
    """Puts a buffer on a list of a transaction."""
    bh = jh.b_bh
    assert jh.b_jlist < BJ_Types
    assert jh.b_transaction is transaction or jh.b_transaction is None
    if jh.b_transaction is not None and jh.b_jlist == jlist:
        return
    was_dirty = False
    if jlist in (BJ_Metadata, BJ_Reserved, BJ_Shadow, BJ_Forget):
        # Metadata that the file system has not given to the journal may be dirty: mkfs wrote it, or tune2fs. Now the
        # journal says when it is written.
        if bh.b_state & BH_Dirty:
            warn_dirty_buffer(bh)
        if test_clear_buffer_dirty(bh) or test_clear_buffer_jbddirty(bh):
            was_dirty = True
    if jh.b_transaction is not None:
        __jbd2_journal_temp_unlink_buffer(jh)
    else:
        jbd2_journal_grab_journal_head(bh)
    jh.b_transaction = transaction
    head = list_of(transaction, jlist)
    if head is None:
        assert jh.b_committed_data == 0 and jh.b_frozen_data == 0
        return
    if jlist == BJ_Metadata:
        transaction.t_nr_buffers += 1
    head[jh] = None
    jh.b_jlist = jlist
    if was_dirty:
        bh.b_state |= BH_JBDDirty


def jbd2_journal_file_buffer(jh: JournalHead, transaction: Transaction, jlist: int) -> None:
    __jbd2_journal_file_buffer(jh, transaction, jlist)


def __jbd2_journal_refile_buffer(jh: JournalHead) -> None:
    """The transaction of a buffer has committed: it goes to the next one, if there is one. jh may be gone then."""
    bh = jh.b_bh
    if jh.b_transaction is None:
        return
    if jh.b_next_transaction is None:
        __jbd2_journal_unfile_buffer(jh)
        return
    was_dirty = test_clear_buffer_jbddirty(bh)
    __jbd2_journal_temp_unlink_buffer(jh)
    jh.b_transaction = jh.b_next_transaction           # with its reference
    jh.b_next_transaction = None
    if bh.b_state & BH_Freed:
        jlist = BJ_Forget
    elif jh.b_modified:
        jlist = BJ_Metadata
    else:
        jlist = BJ_Reserved
    __jbd2_journal_file_buffer(jh, jh.b_transaction, jlist)
    if was_dirty:
        bh.b_state |= BH_JBDDirty


def jbd2_journal_refile_buffer(journal: Journal, jh: JournalHead) -> None:
    bh = jh.b_bh
    get_bh(bh)                                         # the journal head may go, and its reference with it
    __jbd2_journal_refile_buffer(jh)
    __brelse(bh)
