"""Blocks of the log: where the next one is, control blocks, and copies of metadata on their way into it.

Linux: the middle of fs/jbd2/journal.c (5.3). Same: metadata is written from where it lies, unless it was copied
    already or begins with the journal's magic number: then a copy with zeros there is written, and the tag says so.
Owns: j_head, BH_Shadow. Invariant: j_free counts the blocks from j_head to j_tail.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.buffer import __getblk_gfp
from glasskernel.fs.buffer_head import BH_Dirty, BH_JBDDirty, BH_Mapped, BH_Shadow, BH_Uptodate, BufferHead
from glasskernel.fs.buffer_io import lock_buffer, unlock_buffer
from glasskernel.fs.buffer_page import alloc_buffer_head, set_bh_page
from glasskernel.fs.inode import bmap
from glasskernel.fs.jbd2.buffers import __jbd2_journal_file_buffer
from glasskernel.fs.jbd2.journal_head import frame_bytes, jbd2_alloc
from glasskernel.fs.jbd2.log import __journal_abort_soft
from glasskernel.fs.jbd2.transaction_access import GFP_NOFS, jbd2_buffer_frozen_trigger
from glasskernel.fs.jbd2.types import (
    BE32,
    HEADER,
    JBD2_FEATURE_INCOMPAT_64BIT,
    JBD2_FEATURE_INCOMPAT_CSUM_V2,
    JBD2_FEATURE_INCOMPAT_CSUM_V3,
    JBD2_MAGIC_NUMBER,
    TAG3,
    BJ_Shadow,
    jbd2_has_feature_incompat,
)
from glasskernel.kernel.printk import printk
from glasskernel.lib.errno import EIO, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.jbd2.types import Journal, JournalHead, Transaction

MAGIC_BYTES = BE32.pack(JBD2_MAGIC_NUMBER)


def journal_tag_bytes(journal: Journal) -> int:
    """The size of a tag in a descriptor block."""
    if jbd2_has_feature_incompat(journal, JBD2_FEATURE_INCOMPAT_CSUM_V3):
        return TAG3.size
    size = 12
    if jbd2_has_feature_incompat(journal, JBD2_FEATURE_INCOMPAT_CSUM_V2):
        size += 2
    if jbd2_has_feature_incompat(journal, JBD2_FEATURE_INCOMPAT_64BIT):
        return size
    return size - 4


@may_sleep
def jbd2_journal_next_log_block(journal: Journal) -> int:
    """Takes the next free block of the log: its block on the device. Raises EIO."""
    assert journal.j_free > 1
    blocknr = journal.j_head
    journal.j_head += 1
    journal.j_free -= 1
    if journal.j_head == journal.j_last:
        journal.j_head = journal.j_first
    return jbd2_journal_bmap(journal, blocknr)


@may_sleep
def jbd2_journal_bmap(journal: Journal, blocknr: int) -> int:
    """The device's block of a block of the journal. Raises EIO, and then the journal is aborted."""
    if journal.j_inode is None:
        return blocknr
    found = bmap(journal.j_inode, blocknr)
    if not found:
        printk(journal.kernel, f"jbd2_journal_bmap: journal block not found at offset {blocknr} on "
                               f"{journal.j_devname}", 1)
        __journal_abort_soft(journal, -EIO)
        raise KernelError(EIO)
    return found


@may_sleep
def jbd2_journal_get_descriptor_buffer(transaction: Transaction, type: int) -> BufferHead:
    """A control block of a transaction, zero behind its header, with a reference. Raises EIO."""
    journal = transaction.t_journal
    blocknr = jbd2_journal_next_log_block(journal)
    bh = __getblk_gfp(journal.j_dev, blocknr, journal.j_blocksize)
    if bh is None:
        raise KernelError(EIO)
    lock_buffer(bh)
    data = bh.b_data
    data[:] = bytes(journal.j_blocksize)
    HEADER.pack_into(data, 0, JBD2_MAGIC_NUMBER, type, transaction.t_tid)
    bh.b_state |= BH_Uptodate
    unlock_buffer(bh)
    return bh


@may_sleep
def jbd2_journal_write_metadata_buffer(transaction: Transaction, jh_in: JournalHead,
                                       blocknr: int) -> tuple[BufferHead, bool]:
    """A temporary buffer that writes metadata to its place in the log, and whether its first word is escaped.

    jh_in goes to BJ_Shadow, and its buffer may not change until that is written. Raises ENOMEM.
    """
    kernel = transaction.t_journal.kernel
    bh_in = jh_in.b_bh
    assert bh_in.b_state & BH_JBDDirty
    pfn, offset = bh_in.b_pfn, bh_in.b_offset
    if jh_in.b_frozen_data:
        pfn, offset = jh_in.b_frozen_data, 0
    else:
        jbd2_buffer_frozen_trigger(jh_in, bh_in.b_data, jh_in.b_triggers)
    start = (pfn << 12) + offset
    do_escape = bytes(kernel.mem.ram[start : start + 4]) == MAGIC_BYTES
    if do_escape and not jh_in.b_frozen_data:
        jh_in.b_frozen_data = jbd2_alloc(kernel, bh_in.b_size, GFP_NOFS)
        frame_bytes(kernel, jh_in.b_frozen_data, bh_in.b_size)[:] = bh_in.b_data
        jh_in.b_frozen_triggers = jh_in.b_triggers
        pfn, offset = jh_in.b_frozen_data, 0
    if do_escape:
        frame_bytes(kernel, pfn, 4)[:] = bytes(4)
    new_bh = alloc_buffer_head(kernel)
    new_bh.b_count = 1
    set_bh_page(new_bh, pfn, offset)
    new_bh.b_size = bh_in.b_size
    new_bh.b_bdev = transaction.t_journal.j_dev
    new_bh.b_blocknr = blocknr
    new_bh.b_private = bh_in
    new_bh.b_state |= BH_Mapped | BH_Dirty
    __jbd2_journal_file_buffer(jh_in, transaction, BJ_Shadow)
    bh_in.b_state |= BH_Shadow
    return new_bh, do_escape


@notrace
def ring_distance(journal: Journal, block: int) -> int:
    """Blocks of the log from the tail to a block."""
    freed = block - journal.j_tail
    return freed + journal.j_last - journal.j_first if block < journal.j_tail else freed
