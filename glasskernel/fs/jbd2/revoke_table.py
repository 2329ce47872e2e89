"""Revoke records: blocks that recovery must not overwrite with older copies from the log.

Linux: the tables of fs/jbd2/revoke.c (5.3). Same: two tables, one of the running transaction, one of the committing
    one; BH_RevokeValid says that BH_Revoked is right, which saves most look-ups.
Differs: a table is a dict by block number (Linux: a hash table of JOURNAL_REVOKE_DEFAULT_HASH lists).
Owns: j_revoke_table. Invariant: a block that is in a transaction is not in that transaction's table.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.buffer import __find_get_block
from glasskernel.fs.buffer_head import BH_Revoked, test_clear_buffer_revoked, test_set_buffer_revokevalid
from glasskernel.fs.buffer_io import __brelse
from glasskernel.fs.jbd2.types import RevokeRecord, tid_gt
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.jbd2.types import Handle, Journal, JournalHead


def jbd2_journal_init_revoke(journal: Journal) -> None:
    """Makes both tables."""
    journal.j_revoke_table = [jbd2_journal_init_revoke_table(), jbd2_journal_init_revoke_table()]
    journal.j_revoke = journal.j_revoke_table[1]


def jbd2_journal_init_revoke_table() -> dict[int, RevokeRecord]:
    return {}


def jbd2_journal_destroy_revoke(journal: Journal) -> None:
    for table in journal.j_revoke_table:
        jbd2_journal_destroy_revoke_table(table)


def jbd2_journal_destroy_revoke_table(table: dict[int, RevokeRecord]) -> None:
    assert not table, "revoke records that no transaction wrote"


def insert_revoke_hash(journal: Journal, blocknr: int, seq: int) -> None:
    journal.j_revoke[blocknr] = RevokeRecord(seq, blocknr)


def find_revoke_record(journal: Journal, blocknr: int) -> RevokeRecord | None:
    return journal.j_revoke.get(blocknr)


def jbd2_journal_cancel_revoke(handle: Handle, jh: JournalHead) -> bool:
    """A block has new contents, which are worth replaying: its revoke record goes. Context: task."""
    assert handle.h_transaction is not None
    journal = handle.h_transaction.t_journal
    bh = jh.b_bh
    did_revoke = False
    if test_set_buffer_revokevalid(bh):
        need_cancel = test_clear_buffer_revoked(bh)
    else:
        need_cancel = True
        bh.b_state &= ~BH_Revoked
    if need_cancel:
        record = find_revoke_record(journal, bh.b_blocknr)
        if record is not None:
            del journal.j_revoke[bh.b_blocknr]
            did_revoke = True
        assert bh.b_bdev is not None
        bh2 = __find_get_block(bh.b_bdev, bh.b_blocknr, bh.b_size)     # data: the device's own cache may have one too
        if bh2 is not None:
            if bh2 is not bh:
                bh2.b_state &= ~BH_Revoked
            __brelse(bh2)
    return did_revoke


def jbd2_clear_buffer_revoked_flags(journal: Journal) -> None:
    """The transaction with these records is closed: its buffers may be revoked again."""
    for blocknr in journal.j_revoke:
        bh = __find_get_block(journal.j_fs_dev, blocknr, journal.j_blocksize)
        if bh is not None:
            bh.b_state &= ~BH_Revoked
            __brelse(bh)


def jbd2_journal_switch_revoke_table(journal: Journal) -> None:
    """A new transaction begins with an empty table; the other one is written by the commit."""
    tables = journal.j_revoke_table
    journal.j_revoke = tables[1] if journal.j_revoke is tables[0] else tables[0]
    journal.j_revoke.clear()


# ---- of recovery -----------------------------------------------------------------------------------------
def jbd2_journal_set_revoke(journal: Journal, blocknr: int, sequence: int) -> None:
    """A revoke record was found in the log: the newest one of a block counts."""
    record = find_revoke_record(journal, blocknr)
    if record is None:
        insert_revoke_hash(journal, blocknr, sequence)
    elif tid_gt(sequence, record.sequence):
        record.sequence = sequence


def jbd2_journal_test_revoke(journal: Journal, blocknr: int, sequence: int) -> bool:
    """True if the copy of a block that transaction `sequence` logged must not be replayed."""
    record = find_revoke_record(journal, blocknr)
    return record is not None and not tid_gt(sequence, record.sequence)


def jbd2_journal_clear_revoke(journal: Journal) -> None:
    for table in journal.j_revoke_table:
        table.clear()


@notrace
def committing_table(journal: Journal) -> dict[int, RevokeRecord]:
    """The records of the transaction that commits."""
    tables = journal.j_revoke_table
    return tables[1] if journal.j_revoke is tables[0] else tables[0]
