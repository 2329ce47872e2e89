"""Pages whose buffers the journal has: truncation and reclaim. And files whose data has to be written before a commit.

Linux: the end of fs/jbd2/transaction.c (5.3). Same: a buffer that a commit still needs stays though its page is
    truncated, and is marked with BH_Freed.
Differs: functions take frame numbers; errors are raised.
Owns: BH_Freed, t_inode_list. Lock order: page lock, buffer lock.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.buffer_head import (
    BH_JBD,
    BH_Delay,
    BH_Dirty,
    BH_Freed,
    BH_JBDDirty,
    BH_Lock,
    BH_Mapped,
    BH_New,
    BH_Req,
    BH_Unwritten,
    buffers_of,
    page_buffers,
    page_has_buffers,
)
from glasskernel.fs.buffer_io import lock_buffer, unlock_buffer
from glasskernel.fs.buffer_page import try_to_free_buffers
from glasskernel.fs.jbd2.buffers import (
    __jbd2_journal_file_buffer,
    __jbd2_journal_temp_unlink_buffer,
    __jbd2_journal_unfile_buffer,
)
from glasskernel.fs.jbd2.checkpoint import __jbd2_journal_remove_checkpoint
from glasskernel.fs.jbd2.journal_head import jbd2_journal_grab_journal_head, jbd2_journal_put_journal_head
from glasskernel.fs.jbd2.log import jbd2_journal_abort
from glasskernel.fs.jbd2.types import JI_WAIT_DATA, JI_WRITE_DATA, BJ_Forget, bh2jh, is_handle_aborted
from glasskernel.lib.errno import EBUSY, EROFS, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.filemap import filemap_fdatawrite_range

if TYPE_CHECKING:
    from glasskernel.fs.buffer_head import BufferHead
    from glasskernel.fs.jbd2.types import Handle, JbdInode, Journal, JournalHead, Transaction

LLONG_MAX = (1 << 63) - 1


# ---- reclaim -------------------------------------------------------------------------------------------------
def __journal_try_to_free_buffer(journal: Journal, bh: BufferHead) -> None:
    jh = bh2jh(bh)
    if bh.b_state & (BH_Lock | BH_Dirty):
        return
    if jh.b_next_transaction is not None or jh.b_transaction is not None:
        return
    if jh.b_cp_transaction is not None:
        __jbd2_journal_remove_checkpoint(jh)           # write-back has written it


def jbd2_journal_try_to_free_buffers(journal: Journal, pfn: int, gfp: int) -> bool:
    """->releasepage: frees the buffers of a page unless the journal needs one. Locks: page."""
    for bh in buffers_of(page_buffers(journal.kernel, pfn)):
        jh = jbd2_journal_grab_journal_head(bh)
        if jh is None:
            continue
        __journal_try_to_free_buffer(journal, bh)
        jbd2_journal_put_journal_head(jh)
        if bh.b_state & BH_JBD:
            return False
    return try_to_free_buffers(pfn)


# ---- truncation ----------------------------------------------------------------------------------------------
def __dispose_buffer(jh: JournalHead, transaction: Transaction) -> bool:
    """A truncated buffer leaves a transaction; False if its old checkpoint has to wait for the commit of that."""
    if jh.b_cp_transaction is not None:
        if jh.b_transaction is not None:
            __jbd2_journal_temp_unlink_buffer(jh)
        jh.b_bh.b_state &= ~BH_Dirty                   # nobody wants it written any more
        __jbd2_journal_file_buffer(jh, transaction, BJ_Forget)
        return False
    __jbd2_journal_unfile_buffer(jh)
    return True


@notrace
def _drop_from_journal(journal: Journal, bh: BufferHead, jh: JournalHead, partial_page: bool) -> bool | None:
    """What the journal does with a truncated buffer: may it be freed? None: a commit has it. Raises EBUSY."""
    transaction = jh.b_transaction
    if transaction is None:
        if jh.b_cp_transaction is None:
            return True
        if not bh.b_state & BH_Dirty:
            __jbd2_journal_remove_checkpoint(jh)
            return True
        # Not in its place yet. The truncation commits with the running transaction, or with the one that commits now.
        owner = journal.j_running_transaction or journal.j_committing_transaction
        if owner is not None:
            return __dispose_buffer(jh, owner)
        bh.b_state &= ~BH_JBDDirty
        __jbd2_journal_remove_checkpoint(jh)
        return True
    if transaction is journal.j_committing_transaction:
        if partial_page:
            raise KernelError(EBUSY)                   # the page stays: wait for the commit, then again
        bh.b_state |= BH_Freed
        if journal.j_running_transaction is not None and bh.b_state & BH_JBDDirty:
            jh.b_next_transaction = journal.j_running_transaction
        return None
    assert transaction is journal.j_running_transaction
    return __dispose_buffer(jh, transaction)


def journal_unmap_buffer(journal: Journal, bh: BufferHead, partial_page: bool) -> bool:
    """A buffer is truncated. True if it may be freed. Raises EBUSY. Locks: page, buffer."""
    may_free = True
    jh = jbd2_journal_grab_journal_head(bh)
    if jh is not None:
        try:
            freed = _drop_from_journal(journal, bh, jh, partial_page)
            if freed is None:
                return False
            may_free = freed
            jh.b_modified = False                      # the block may be used again before the commit
        finally:
            jbd2_journal_put_journal_head(jh)
    bh.b_state &= ~BH_Dirty
    assert not bh.b_state & BH_JBDDirty
    bh.b_state &= ~(BH_Mapped | BH_Req | BH_New | BH_Delay | BH_Unwritten)
    bh.b_bdev = None
    return may_free


@may_sleep
def jbd2_journal_invalidatepage(journal: Journal, pfn: int, offset: int, length: int) -> None:
    """->invalidatepage of files whose data is journalled. Raises EBUSY: a commit has a block of a page that stays.

    Locks: page.
    """
    kernel = journal.kernel
    if not page_has_buffers(kernel, pfn):
        return
    stop = offset + length
    partial_page = bool(offset or length < 4096)
    may_free = True
    for bh in buffers_of(page_buffers(kernel, pfn)):
        if bh.b_offset + bh.b_size > stop:
            return
        if bh.b_offset >= offset:
            lock_buffer(bh)
            try:
                may_free &= journal_unmap_buffer(journal, bh, partial_page)
            finally:
                unlock_buffer(bh)
    if not partial_page and may_free:
        try_to_free_buffers(pfn)


# ---- files -----------------------------------------------------------------------------------------------------
def jbd2_journal_file_inode(handle: Handle, jinode: JbdInode, flags: int, start_byte: int, end_byte: int) -> None:
    """The commit of this transaction has to write data of a file first. Raises EROFS."""
    if is_handle_aborted(handle):
        raise KernelError(EROFS)
    transaction = handle.h_transaction
    assert transaction is not None
    jinode.i_flags |= flags
    if jinode.i_dirty_end:
        jinode.i_dirty_start = min(jinode.i_dirty_start, start_byte)
        jinode.i_dirty_end = max(jinode.i_dirty_end, end_byte)
    else:
        jinode.i_dirty_start = start_byte
        jinode.i_dirty_end = end_byte
    if jinode.i_transaction is transaction or jinode.i_next_transaction is transaction:
        return
    transaction.t_need_data_flush = 1
    if jinode.i_transaction is not None:               # the one that commits
        assert jinode.i_next_transaction is None
        assert jinode.i_transaction is transaction.t_journal.j_committing_transaction
        jinode.i_next_transaction = transaction
        return
    jinode.i_transaction = transaction
    transaction.t_inode_list[jinode] = None


def jbd2_journal_inode_add_write(handle: Handle, jinode: JbdInode) -> None:
    jbd2_journal_file_inode(handle, jinode, JI_WRITE_DATA | JI_WAIT_DATA, 0, LLONG_MAX)


def jbd2_journal_inode_add_wait(handle: Handle, jinode: JbdInode) -> None:
    jbd2_journal_file_inode(handle, jinode, JI_WAIT_DATA, 0, LLONG_MAX)


def jbd2_journal_inode_ranged_write(handle: Handle, jinode: JbdInode, start_byte: int, length: int) -> None:
    """The commit writes these bytes, and waits for them."""
    jbd2_journal_file_inode(handle, jinode, JI_WRITE_DATA | JI_WAIT_DATA, start_byte, start_byte + length - 1)


def jbd2_journal_inode_ranged_wait(handle: Handle, jinode: JbdInode, start_byte: int, length: int) -> None:
    """These bytes are being written already: the commit only waits."""
    jbd2_journal_file_inode(handle, jinode, JI_WAIT_DATA, start_byte, start_byte + length - 1)


@may_sleep
def jbd2_journal_begin_ordered_truncate(journal: Journal, jinode: JbdInode, new_size: int) -> None:
    """A file of a committing transaction gets shorter: its data goes out first, the commit cannot find it later.

    Raises EIO, ENOSPC.
    """
    if jinode.i_transaction is None or jinode.i_transaction is not journal.j_committing_transaction:
        return
    try:
        filemap_fdatawrite_range(jinode.i_vfs_inode.i_mapping, new_size, LLONG_MAX)
    except KernelError as e:
        jbd2_journal_abort(journal, -e.errno)
        raise
