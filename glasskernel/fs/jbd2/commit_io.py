"""What a commit writes: the commit block, data of ordered files, tags.

Linux: the first half of fs/jbd2/commit.c (5.3). Owns: the formats of commit blocks and tags, JI_COMMIT_RUNNING,
    t_inode_list while it commits. Context: the thread of the journal.
"""
from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from glasskernel.block.blk_types import REQ_FUA, REQ_OP_WRITE, REQ_PREFLUSH, REQ_SYNC
from glasskernel.fs.buffer_head import (
    BH_Dirty,
    BH_Shadow,
    BH_Uptodate,
    BufferHead,
)
from glasskernel.fs.buffer_io import __brelse, lock_buffer, submit_bh, unlock_buffer, wait_on_buffer
from glasskernel.fs.buffer_page import try_to_free_buffers
from glasskernel.fs.jbd2.log_blocks import (
    jbd2_journal_get_descriptor_buffer,
)
from glasskernel.fs.jbd2.types import (
    BE32,
    COMMIT_CHKSUM,
    COMMIT_CHKSUM_OFFSET,
    COMMIT_TIME,
    COMMIT_TIME_OFFSET,
    JBD2_BARRIER,
    JBD2_COMMIT_BLOCK,
    JBD2_CRC32_CHKSUM,
    JBD2_CRC32_CHKSUM_SIZE,
    JBD2_FEATURE_INCOMPAT_64BIT,
    JBD2_FEATURE_INCOMPAT_ASYNC_COMMIT,
    JBD2_FEATURE_INCOMPAT_CSUM_V3,
    JI_COMMIT_RUNNING,
    JI_WAIT_DATA,
    JI_WRITE_DATA,
    TAG,
    TAG3,
    bh2jh,
    is_journal_aborted,
    jbd2_has_feature_checksum,
    jbd2_has_feature_incompat,
    jbd2_journal_has_csum_v2or3,
)
from glasskernel.kernel.sched.wait import wake_up_all
from glasskernel.kernel.time.timekeeping import ktime_get_coarse_real_ts64
from glasskernel.lib.crc32c import crc32c
from glasskernel.lib.errno import EIO, ENOSPC, KernelError
from glasskernel.lib.types import U32_MAX, may_sleep, notrace
from glasskernel.mm.filemap import __filemap_fdatawait_range
from glasskernel.mm.page_alloc import put_page
from glasskernel.mm.page_writeback import generic_writepages
from glasskernel.mm.pagemap import trylock_page, unlock_page
from glasskernel.mm.types import AS_EIO, AS_ENOSPC, WB_SYNC_ALL, WritebackControl

if TYPE_CHECKING:
    from glasskernel.fs.jbd2.types import JbdInode, Journal, Transaction

_REVERSED = bytes(int(f"{n:08b}"[::-1], 2) for n in range(256))


@notrace
def crc32_be(crc: int, data: bytes) -> int:
    """The checksum of JBD2_FEATURE_COMPAT_CHECKSUM: CRC-32 with the highest bit first (zlib's has the lowest)."""
    seed = int(f"{crc:032b}"[::-1], 2) ^ U32_MAX
    return int(f"{crc32(data.translate(_REVERSED), seed) ^ U32_MAX:032b}"[::-1], 2)


# ---- the end of I/O. Context: any --------------------------------------------------------------------------------
def journal_end_buffer_io_sync(bh: BufferHead, uptodate: bool) -> None:
    """A block of the log is written; what it was copied from may change again."""
    orig_bh: BufferHead | None = bh.b_private
    if uptodate:
        bh.b_state |= BH_Uptodate
    else:
        bh.b_state &= ~BH_Uptodate
    if orig_bh is not None:
        orig_bh.b_state &= ~BH_Shadow
        transaction = bh2jh(orig_bh).b_transaction
        assert transaction is not None
        wake_up_all(transaction.t_journal.j_wait_shadow)
    unlock_buffer(bh)


@may_sleep
def release_buffer_page(bh: BufferHead) -> None:
    """Drops a reference; a page that was truncated meanwhile loses its buffers."""
    kernel = bh.kernel
    pfn = bh.b_pfn
    if (not bh.b_state & BH_Dirty and bh.b_count == 1 and kernel.mem.mapping.get(pfn) is None
            and trylock_page(kernel, pfn)):
        kernel.mem.refcount[pfn] += 1
        __brelse(bh)
        try_to_free_buffers(pfn)
        unlock_page(kernel, pfn)
        put_page(kernel, pfn)
    else:
        __brelse(bh)


# ---- the commit block ------------------------------------------------------------------------------------------
def jbd2_commit_block_csum_set(j: Journal, bh: BufferHead) -> None:
    if not jbd2_journal_has_csum_v2or3(j):
        return
    data = bh.b_data
    COMMIT_CHKSUM.pack_into(data, COMMIT_CHKSUM_OFFSET, 0, 0, 0)
    COMMIT_CHKSUM.pack_into(data, COMMIT_CHKSUM_OFFSET, 0, 0, crc32c(j.j_csum_seed, data[: j.j_blocksize]))


@may_sleep
def journal_submit_commit_record(journal: Journal, commit_transaction: Transaction,
                                 crc32_sum: int) -> BufferHead | None:
    """Starts to write the commit block, behind everything before it. None: the journal is aborted. Raises EIO."""
    if is_journal_aborted(journal):
        return None
    bh = jbd2_journal_get_descriptor_buffer(commit_transaction, JBD2_COMMIT_BLOCK)
    COMMIT_TIME.pack_into(bh.b_data, COMMIT_TIME_OFFSET, *divmod(ktime_get_coarse_real_ts64(), 1_000_000_000))
    if jbd2_has_feature_checksum(journal):
        COMMIT_CHKSUM.pack_into(bh.b_data, COMMIT_CHKSUM_OFFSET, JBD2_CRC32_CHKSUM, JBD2_CRC32_CHKSUM_SIZE, crc32_sum)
    jbd2_commit_block_csum_set(journal, bh)
    lock_buffer(bh)
    bh.b_state = bh.b_state & ~BH_Dirty | BH_Uptodate
    bh.b_end_io = journal_end_buffer_io_sync
    flags = REQ_SYNC
    if journal.j_flags & JBD2_BARRIER and not jbd2_has_feature_incompat(journal, JBD2_FEATURE_INCOMPAT_ASYNC_COMMIT):
        flags |= REQ_PREFLUSH | REQ_FUA
    submit_bh(REQ_OP_WRITE, flags, bh)
    return bh


@may_sleep
def journal_wait_on_commit_record(journal: Journal, bh: BufferHead) -> bool:
    """True if the commit block is on the disk. Drops its reference."""
    bh.b_state &= ~BH_Dirty
    wait_on_buffer(bh)
    __brelse(bh)
    return bool(bh.b_state & BH_Uptodate)


# ---- data of ordered files ---------------------------------------------------------------------------------------
@may_sleep
def journal_submit_inode_data_buffers(jinode: JbdInode) -> None:
    """Starts to write data. Through ->writepage: ->writepages may allocate blocks, which would need a handle."""
    mapping = jinode.i_vfs_inode.i_mapping
    wbc = WritebackControl(len(mapping.pages) * 2, 0, jinode.i_dirty_start, jinode.i_dirty_end, WB_SYNC_ALL)
    generic_writepages(mapping, wbc)


@notrace
def _commit_of_inode_done(jinode: JbdInode) -> None:
    jinode.i_flags &= ~JI_COMMIT_RUNNING
    wake_up_all(jinode.i_wait)


@may_sleep
def journal_submit_data_buffers(journal: Journal, commit_transaction: Transaction) -> int:
    """Starts to write the data that has to be on the disk before this transaction: 0 or an errno."""
    error = 0
    for jinode in list(commit_transaction.t_inode_list):
        if jinode not in commit_transaction.t_inode_list or not jinode.i_flags & JI_WRITE_DATA:
            continue
        jinode.i_flags |= JI_COMMIT_RUNNING
        probe = journal.kernel.tp.jbd2_submit_inode_data
        if probe is not None:
            probe(jinode.i_vfs_inode)
        try:
            journal_submit_inode_data_buffers(jinode)
        except KernelError as e:
            error = error or e.errno
        assert jinode.i_transaction is commit_transaction
        _commit_of_inode_done(jinode)
    return error


@may_sleep
def journal_finish_inode_data_buffers(journal: Journal, commit_transaction: Transaction) -> int:
    """Waits for it, and gives the files to the next transaction that wants them: 0 or an errno."""
    error = 0
    for jinode in list(commit_transaction.t_inode_list):
        if jinode not in commit_transaction.t_inode_list or not jinode.i_flags & JI_WAIT_DATA:
            continue
        jinode.i_flags |= JI_COMMIT_RUNNING
        mapping = jinode.i_vfs_inode.i_mapping
        __filemap_fdatawait_range(mapping, jinode.i_dirty_start, jinode.i_dirty_end)
        error = error or (EIO if mapping.flags & AS_EIO else ENOSPC if mapping.flags & AS_ENOSPC else 0)
        _commit_of_inode_done(jinode)
    for jinode in commit_transaction.t_inode_list:
        following = jinode.i_next_transaction
        jinode.i_transaction = following
        jinode.i_next_transaction = None
        if following is not None:
            following.t_inode_list[jinode] = None
        else:
            jinode.i_dirty_start = jinode.i_dirty_end = 0
    commit_transaction.t_inode_list.clear()
    return error


# ---- tags ------------------------------------------------------------------------------------------------------
@notrace
def write_tag(journal: Journal, data: memoryview, offset: int, bh: BufferHead, logged: BufferHead, flags: int,
              sequence: int) -> None:
    """Describes a block of metadata (write_tag_block(), jbd2_block_tag_csum_set()). logged: the bytes in the log."""
    checksum = 0
    if jbd2_journal_has_csum_v2or3(journal):
        checksum = crc32c(crc32c(journal.j_csum_seed, BE32.pack(sequence)), logged.b_data)
    high = bh.b_blocknr >> 32 if jbd2_has_feature_incompat(journal, JBD2_FEATURE_INCOMPAT_64BIT) else 0
    if jbd2_has_feature_incompat(journal, JBD2_FEATURE_INCOMPAT_CSUM_V3):
        TAG3.pack_into(data, offset, bh.b_blocknr & U32_MAX, flags, high, checksum)
        return
    TAG.pack_into(data, offset, bh.b_blocknr & U32_MAX, checksum & 0xFFFF, flags)
    if jbd2_has_feature_incompat(journal, JBD2_FEATURE_INCOMPAT_64BIT):
        BE32.pack_into(data, offset + TAG.size, high)
