"""Revoking: a block of metadata is freed, and recovery must not put an older copy of it over what comes there next.

Linux: fs/jbd2/revoke.c (5.3); the tables are fs/jbd2/revoke_table.py, whose names this file re-exports.
Owns: revoke blocks of the log.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.blk_types import REQ_SYNC
from glasskernel.fs.buffer import __find_get_block
from glasskernel.fs.buffer_head import BH_Dirty, BH_JWrite, BH_Revoked, BH_RevokeValid, BufferHead
from glasskernel.fs.buffer_io import __brelse, write_dirty_buffer
from glasskernel.fs.jbd2.features import jbd2_journal_set_features
from glasskernel.fs.jbd2.log import jbd2_descriptor_block_csum_set
from glasskernel.fs.jbd2.log_blocks import jbd2_journal_get_descriptor_buffer
from glasskernel.fs.jbd2.revoke_table import (
    committing_table,
    insert_revoke_hash,
    jbd2_clear_buffer_revoked_flags,
    jbd2_journal_cancel_revoke,
    jbd2_journal_clear_revoke,
    jbd2_journal_destroy_revoke,
    jbd2_journal_init_revoke,
    jbd2_journal_set_revoke,
    jbd2_journal_switch_revoke_table,
    jbd2_journal_test_revoke,
)
from glasskernel.fs.jbd2.transaction_access import jbd2_journal_forget
from glasskernel.fs.jbd2.types import (
    BE32,
    BE64,
    HEADER_SIZE,
    JBD2_FEATURE_INCOMPAT_64BIT,
    JBD2_FEATURE_INCOMPAT_REVOKE,
    JBD2_REVOKE_BLOCK,
    REVOKE_HEADER_SIZE,
    TAIL_SIZE,
    is_journal_aborted,
    jbd2_has_feature_incompat,
    jbd2_journal_has_csum_v2or3,
)
from glasskernel.kernel.printk import printk
from glasskernel.lib.errno import EINVAL, EIO, KernelError
from glasskernel.lib.types import may_sleep

if TYPE_CHECKING:
    from glasskernel.fs.jbd2.types import Handle, Journal, Transaction

__all__ = [
    "jbd2_clear_buffer_revoked_flags", "jbd2_journal_cancel_revoke", "jbd2_journal_clear_revoke",
    "jbd2_journal_destroy_revoke", "jbd2_journal_init_revoke", "jbd2_journal_revoke", "jbd2_journal_set_revoke",
    "jbd2_journal_switch_revoke_table", "jbd2_journal_test_revoke", "jbd2_journal_write_revoke_records",
]


@may_sleep
def jbd2_journal_revoke(handle: Handle, blocknr: int, bh_in: BufferHead | None) -> None:
    """A block of metadata is freed in this transaction: recovery forgets older copies. Drops a reference of bh_in.

    Raises EIO (revoked already), EROFS.
    """
    assert handle.h_transaction is not None
    journal = handle.h_transaction.t_journal
    if not jbd2_journal_set_features(journal, 0, 0, JBD2_FEATURE_INCOMPAT_REVOKE):
        raise KernelError(EINVAL)
    bh = bh_in if bh_in is not None else __find_get_block(journal.j_fs_dev, blocknr, journal.j_blocksize)
    if bh is not None:
        if bh.b_state & BH_Revoked:
            printk(journal.kernel, "JBD2: inconsistent data on disk", 3)
            if bh_in is None:
                __brelse(bh)
            raise KernelError(EIO)
        bh.b_state |= BH_Revoked | BH_RevokeValid
        if bh_in is not None:
            jbd2_journal_forget(handle, bh_in)
        else:
            __brelse(bh)
    insert_revoke_hash(journal, blocknr, handle.h_transaction.t_tid)


@may_sleep
def jbd2_journal_write_revoke_records(transaction: Transaction, log_bufs: list[BufferHead]) -> None:
    """Writes the records of the committing transaction. log_bufs: gets the blocks, to be waited for."""
    journal = transaction.t_journal
    table = committing_table(journal)
    descriptor: BufferHead | None = None
    offset = 0
    for blocknr in list(table):
        descriptor, offset = write_one_revoke_record(transaction, log_bufs, descriptor, offset, blocknr)
    table.clear()
    if descriptor is not None:
        flush_descriptor(journal, descriptor, offset)


@may_sleep
def write_one_revoke_record(transaction: Transaction, log_bufs: list[BufferHead], descriptor: BufferHead | None,
                            offset: int, blocknr: int) -> tuple[BufferHead | None, int]:
    """Puts one record into a revoke block, a new one if that is full: the block, and where the next record goes."""
    journal = transaction.t_journal
    if is_journal_aborted(journal):
        return descriptor, offset
    csum_size = TAIL_SIZE if jbd2_journal_has_csum_v2or3(journal) else 0
    number = BE64 if jbd2_has_feature_incompat(journal, JBD2_FEATURE_INCOMPAT_64BIT) else BE32
    if descriptor is not None and offset + number.size > journal.j_blocksize - csum_size:
        flush_descriptor(journal, descriptor, offset)
        descriptor = None
    if descriptor is None:
        try:
            descriptor = jbd2_journal_get_descriptor_buffer(transaction, JBD2_REVOKE_BLOCK)
        except KernelError:
            return None, 0                             # the journal is aborted
        log_bufs.append(descriptor)
        offset = REVOKE_HEADER_SIZE
    number.pack_into(descriptor.b_data, offset, blocknr)
    return descriptor, offset + number.size


@may_sleep
def flush_descriptor(journal: Journal, descriptor: BufferHead, offset: int) -> None:
    """Starts to write a revoke block. offset: bytes used."""
    if is_journal_aborted(journal):
        return
    BE32.pack_into(descriptor.b_data, HEADER_SIZE, offset)
    jbd2_descriptor_block_csum_set(journal, descriptor)
    descriptor.b_state |= BH_JWrite | BH_Dirty
    write_dirty_buffer(descriptor, REQ_SYNC)
