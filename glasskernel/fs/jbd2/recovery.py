"""Recovery: what the last mount committed, but did not get to its place, is written there.

Linux: fs/jbd2/recovery.c (5.3). Same: three passes over the log: find its end, gather revoke records, copy blocks; a
    commit with a wrong checksum is the end of the log if it may have been written early (async commit), else an error.
Differs: errors are raised. A log that holds more blocks than fit into it is an error: here a descriptor block that
    follows itself around the ring cannot hang the mount.
Owns: nothing after it is done. Context: the mount, alone with the journal.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from glasskernel.block.blk_core import blkdev_issue_flush
from glasskernel.block.blk_types import REQ_OP_READ
from glasskernel.fs.block_dev import sync_blockdev
from glasskernel.fs.buffer import __getblk_gfp
from glasskernel.fs.buffer_head import BH_Lock, BH_Req, BH_Uptodate, BufferHead
from glasskernel.fs.buffer_io import brelse, ll_rw_block, lock_buffer, mark_buffer_dirty, unlock_buffer, wait_on_buffer
from glasskernel.fs.jbd2.commit_io import crc32_be
from glasskernel.fs.jbd2.log_blocks import jbd2_journal_bmap, journal_tag_bytes
from glasskernel.fs.jbd2.revoke import jbd2_journal_clear_revoke, jbd2_journal_set_revoke, jbd2_journal_test_revoke
from glasskernel.fs.jbd2.types import (
    BE32,
    BE64,
    COMMIT_CHKSUM,
    COMMIT_CHKSUM_OFFSET,
    HEADER,
    HEADER_SIZE,
    JBD2_BARRIER,
    JBD2_COMMIT_BLOCK,
    JBD2_CRC32_CHKSUM,
    JBD2_CRC32_CHKSUM_SIZE,
    JBD2_DESCRIPTOR_BLOCK,
    JBD2_FEATURE_INCOMPAT_64BIT,
    JBD2_FEATURE_INCOMPAT_ASYNC_COMMIT,
    JBD2_FEATURE_INCOMPAT_CSUM_V3,
    JBD2_FLAG_ESCAPE,
    JBD2_FLAG_LAST_TAG,
    JBD2_FLAG_SAME_UUID,
    JBD2_MAGIC_NUMBER,
    JBD2_REVOKE_BLOCK,
    REVOKE_HEADER_SIZE,
    TAG,
    TAG3,
    TAIL_SIZE,
    UUID_SIZE,
    jbd2_has_feature_checksum,
    jbd2_has_feature_incompat,
    jbd2_journal_has_csum_v2or3,
    tid_geq,
)
from glasskernel.kernel.printk import printk
from glasskernel.kernel.sched.core import cond_resched
from glasskernel.lib.crc32c import crc32c
from glasskernel.lib.errno import EBADMSG, EINVAL, EIO, ENOMEM, EUCLEAN, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import U32_MAX, may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.jbd2.types import Journal

PASS_SCAN, PASS_REVOKE, PASS_REPLAY = range(3)
READAHEAD_BYTES = 128 * 1024
MAXBUF = 8


@slotted
class RecoveryInfo:
    """struct recovery_info"""

    start_transaction: int = 0
    end_transaction: int = 0                   # the first that is not in the log
    nr_replays: int = 0
    nr_revokes: int = 0
    nr_revoke_hits: int = 0


# ---- reading ---------------------------------------------------------------------------------------------------
@may_sleep
def do_readahead(journal: Journal, start: int) -> None:
    """Starts to read a part of the log. Raises EIO."""
    bhs: list[BufferHead] = []
    for block in range(start, min(start + READAHEAD_BYTES // journal.j_blocksize, journal.j_maxlen)):
        bh = __getblk_gfp(journal.j_dev, jbd2_journal_bmap(journal, block), journal.j_blocksize)
        if bh is None:
            break
        if bh.b_state & (BH_Uptodate | BH_Lock):
            brelse(bh)
            continue
        bhs.append(bh)
        if len(bhs) == MAXBUF:
            _read_and_release(bhs)
    _read_and_release(bhs)


@notrace
@may_sleep
def _read_and_release(bhs: list[BufferHead]) -> None:
    ll_rw_block(REQ_OP_READ, 0, bhs)
    for bh in bhs:
        brelse(bh)
    bhs.clear()


@may_sleep
def jread(journal: Journal, offset: int) -> BufferHead:
    """A block of the log, with a reference. Raises EUCLEAN (not in the log), EIO, ENOMEM."""
    kernel = journal.kernel
    if offset >= journal.j_maxlen:
        printk(kernel, "JBD2: corrupted journal superblock", 3)
        raise KernelError(EUCLEAN)
    bh = __getblk_gfp(journal.j_dev, jbd2_journal_bmap(journal, offset), journal.j_blocksize)
    if bh is None:
        raise KernelError(ENOMEM)
    if not bh.b_state & BH_Uptodate:
        if not bh.b_state & BH_Req:
            do_readahead(journal, offset)
        wait_on_buffer(bh)
    if not bh.b_state & BH_Uptodate:
        printk(kernel, f"JBD2: Failed to read block at offset {offset}", 3)
        brelse(bh)
        raise KernelError(EIO)
    return bh


@notrace
def _wrap(journal: Journal, block: int) -> int:
    return block if block < journal.j_last else block - (journal.j_last - journal.j_first)


# ---- checksums and tags ----------------------------------------------------------------------------------------
def jbd2_descriptor_block_csum_verify(j: Journal, data: memoryview) -> bool:
    """Of a descriptor or revoke block."""
    if not jbd2_journal_has_csum_v2or3(j):
        return True
    at = j.j_blocksize - TAIL_SIZE
    return bool(BE32.unpack_from(data, at)[0] == crc32c(j.j_csum_seed, bytes(data[:at]) + bytes(TAIL_SIZE)))


def jbd2_commit_block_csum_verify(j: Journal, data: memoryview) -> bool:
    if not jbd2_journal_has_csum_v2or3(j):
        return True
    at = COMMIT_CHKSUM_OFFSET + COMMIT_CHKSUM.size - 4                 # h_chksum[0]
    provided = BE32.unpack_from(data, at)[0]
    return bool(provided == crc32c(j.j_csum_seed, bytes(data[:at]) + bytes(4) + bytes(data[at + 4 :])))


def jbd2_block_tag_csum_verify(j: Journal, tag: Tag, data: memoryview, sequence: int) -> bool:
    if not jbd2_journal_has_csum_v2or3(j):
        return True
    csum = crc32c(crc32c(j.j_csum_seed, BE32.pack(sequence)), data)
    if jbd2_has_feature_incompat(j, JBD2_FEATURE_INCOMPAT_CSUM_V3):
        return tag.checksum == csum
    return tag.checksum == csum & 0xFFFF


class Tag(NamedTuple):
    """journal_block_tag_t or journal_block_tag3_t, read."""

    blocknr: int
    flags: int
    checksum: int


@notrace
def tags_of(journal: Journal, data: memoryview) -> list[Tag]:
    """The tags of a descriptor block, in the order of the blocks behind it (read_tag_block(), count_tags())."""
    tag_bytes = journal_tag_bytes(journal)
    v3 = jbd2_has_feature_incompat(journal, JBD2_FEATURE_INCOMPAT_CSUM_V3)
    wide = jbd2_has_feature_incompat(journal, JBD2_FEATURE_INCOMPAT_64BIT)
    size = journal.j_blocksize - (TAIL_SIZE if jbd2_journal_has_csum_v2or3(journal) else 0)
    tags = []
    at = HEADER_SIZE
    while at + tag_bytes <= size:
        if v3:
            low, flags, high, checksum = TAG3.unpack_from(data, at)
        else:
            low, checksum, flags = TAG.unpack_from(data, at)
            high = BE32.unpack_from(data, at + TAG.size)[0] if wide else 0
        tags.append(Tag(low | high << 32 if wide else low, flags, checksum))
        at += tag_bytes
        if not flags & JBD2_FLAG_SAME_UUID:
            at += UUID_SIZE
        if flags & JBD2_FLAG_LAST_TAG:
            break
    return tags


@may_sleep
def calc_chksums(journal: Journal, bh: BufferHead, next_log_block: int, crc32_sum: int) -> tuple[int, int]:
    """The old kind of checksum, over a descriptor and its blocks: the next block, and the sum. Raises EIO."""
    crc32_sum = crc32_be(crc32_sum, bytes(bh.b_data))
    for _tag in tags_of(journal, bh.b_data):
        try:
            obh = jread(journal, next_log_block)
        except KernelError as e:
            printk(journal.kernel, f"JBD2: IO error {-e.errno} recovering block {next_log_block} in log", 3)
            raise
        next_log_block = _wrap(journal, next_log_block + 1)
        crc32_sum = crc32_be(crc32_sum, bytes(obh.b_data))
        brelse(obh)
    return next_log_block, crc32_sum


# ---- the whole -------------------------------------------------------------------------------------------------
@may_sleep
def jbd2_journal_recover(journal: Journal) -> None:
    """Replays the log, if something is in it. Raises EIO, EUCLEAN, EBADMSG. Context: before the journal is used."""
    sb = journal.j_superblock
    if not sb.s_start:
        journal.j_transaction_sequence = sb.s_sequence + 1 & U32_MAX
        return
    info = RecoveryInfo()
    failure = 0
    try:
        for recovery_pass in (PASS_SCAN, PASS_REVOKE, PASS_REPLAY):
            do_one_pass(journal, info, recovery_pass)
    except KernelError as e:
        failure = e.errno
    info.end_transaction = info.end_transaction + 1 & U32_MAX         # the numbers of a lost commit are not used again
    journal.j_transaction_sequence = info.end_transaction
    jbd2_journal_clear_revoke(journal)
    try:
        sync_blockdev(journal.j_fs_dev)
    except KernelError as e:
        failure = failure or e.errno
    if journal.j_flags & JBD2_BARRIER:
        try:
            blkdev_issue_flush(journal.j_fs_dev)
        except KernelError as e:
            failure = failure or e.errno
    if failure:
        raise KernelError(failure)


@may_sleep
def jbd2_journal_skip_recovery(journal: Journal) -> None:
    """Forgets what is in the log, and goes on behind it. Raises EIO, EUCLEAN."""
    info = RecoveryInfo()
    try:
        do_one_pass(journal, info, PASS_SCAN)
    except KernelError as e:
        printk(journal.kernel, f"JBD2: error {-e.errno} scanning journal", 3)
        journal.j_transaction_sequence = journal.j_transaction_sequence + 1 & U32_MAX
        raise
    finally:
        journal.j_tail = 0
    info.end_transaction = info.end_transaction + 1 & U32_MAX
    journal.j_transaction_sequence = info.end_transaction


@may_sleep
def do_one_pass(journal: Journal, info: RecoveryInfo, recovery_pass: int) -> None:
    """Goes through the log once. Raises EIO, EUCLEAN, EBADMSG, EINVAL, ENOMEM."""
    kernel = journal.kernel
    sb = journal.j_superblock
    next_commit_id = sb.s_sequence
    next_log_block = sb.s_start
    if recovery_pass == PASS_SCAN:
        info.start_transaction = next_commit_id
    crc32_sum = U32_MAX
    failure = 0
    passed = 0                                             # blocks of the log
    while recovery_pass == PASS_SCAN or not tid_geq(next_commit_id, info.end_transaction):
        cond_resched()
        if passed > journal.j_last - journal.j_first:
            printk(kernel, "JBD2: journal log runs around in a circle", 3)
            raise KernelError(EUCLEAN)
        bh = jread(journal, next_log_block)
        try:
            next_log_block = _wrap(journal, next_log_block + 1)
            passed += 1
            magic, blocktype, sequence = HEADER.unpack_from(bh.b_data, 0)
            if magic != JBD2_MAGIC_NUMBER or sequence != next_commit_id:
                break
            if blocktype == JBD2_DESCRIPTOR_BLOCK:
                if not jbd2_descriptor_block_csum_verify(journal, bh.b_data):
                    printk(kernel, f"JBD2: Invalid checksum recovering block {next_log_block} in log", 3)
                    raise KernelError(EBADMSG)
                tags = tags_of(journal, bh.b_data)
                passed += len(tags)
                if recovery_pass == PASS_REPLAY:
                    next_log_block, errno = _replay(journal, info, tags, next_log_block, next_commit_id)
                    failure = failure or errno
                elif (recovery_pass == PASS_SCAN and jbd2_has_feature_checksum(journal)
                        and not info.end_transaction):
                    next_log_block, crc32_sum = calc_chksums(journal, bh, next_log_block, crc32_sum)
                else:
                    next_log_block = _wrap(journal, next_log_block + len(tags))
            elif blocktype == JBD2_COMMIT_BLOCK:
                if recovery_pass == PASS_SCAN:
                    if not _commit_is_good(journal, info, bh, next_commit_id, crc32_sum):
                        break
                    crc32_sum = U32_MAX
                next_commit_id = next_commit_id + 1 & U32_MAX
            elif blocktype == JBD2_REVOKE_BLOCK:
                if recovery_pass == PASS_REVOKE:
                    scan_revoke_records(journal, bh, next_commit_id, info)
            else:
                break
        finally:
            brelse(bh)
    if recovery_pass == PASS_SCAN:
        info.end_transaction = info.end_transaction or next_commit_id
    elif info.end_transaction != next_commit_id:
        printk(kernel, f"JBD2: recovery pass {recovery_pass} ended at transaction {next_commit_id}, expected "
                       f"{info.end_transaction}", 3)
        failure = failure or EIO
    if failure:
        raise KernelError(failure)


@notrace
def _commit_is_good(journal: Journal, info: RecoveryInfo, bh: BufferHead, tid: int, crc32_sum: int) -> bool:
    """False: the log ends before this commit block, its checksum is wrong."""
    if jbd2_has_feature_checksum(journal):
        kind, size, found = COMMIT_CHKSUM.unpack_from(bh.b_data, COMMIT_CHKSUM_OFFSET)
        if info.end_transaction:
            journal.j_failed_commit = info.end_transaction
            return False
        matches = crc32_sum == found and kind == JBD2_CRC32_CHKSUM and size == JBD2_CRC32_CHKSUM_SIZE
        good = matches or not (kind or size or found)
    else:
        good = jbd2_commit_block_csum_verify(journal, bh.b_data)
    if not good:
        info.end_transaction = tid
        if jbd2_has_feature_incompat(journal, JBD2_FEATURE_INCOMPAT_ASYNC_COMMIT):
            return True                                    # just not complete, unless another commit follows it
        journal.j_failed_commit = tid
    return good


@notrace
@may_sleep
def _replay(journal: Journal, info: RecoveryInfo, tags: list[Tag], next_log_block: int, tid: int) -> tuple[int, int]:
    """Copies the blocks of a descriptor to their places: the next block of the log, and 0 or an errno."""
    kernel = journal.kernel
    failure = 0
    for tag in tags:
        io_block = next_log_block
        next_log_block = _wrap(journal, next_log_block + 1)
        try:
            obh = jread(journal, io_block)
        except KernelError as e:                           # goes on: the others can be saved
            failure = e.errno
            printk(kernel, f"JBD2: IO error {-e.errno} recovering block {io_block} in log", 3)
            continue
        try:
            if jbd2_journal_test_revoke(journal, tag.blocknr, tid):
                info.nr_revoke_hits += 1
                continue
            if not jbd2_block_tag_csum_verify(journal, tag, obh.b_data, tid):
                failure = EBADMSG
                printk(kernel, f"JBD2: Invalid checksum recovering data block {tag.blocknr} in log", 3)
                continue
            nbh = __getblk_gfp(journal.j_fs_dev, tag.blocknr, journal.j_blocksize)
            if nbh is None:
                printk(kernel, "JBD2: Out of memory during recovery.", 3)
                raise KernelError(ENOMEM)
            lock_buffer(nbh)
            data = nbh.b_data
            data[:] = obh.b_data
            if tag.flags & JBD2_FLAG_ESCAPE:
                BE32.pack_into(data, 0, JBD2_MAGIC_NUMBER)
            nbh.b_state |= BH_Uptodate
            mark_buffer_dirty(nbh)
            info.nr_replays += 1
            unlock_buffer(nbh)
            brelse(nbh)
        finally:
            brelse(obh)
    return next_log_block, failure


def scan_revoke_records(journal: Journal, bh: BufferHead, sequence: int, info: RecoveryInfo) -> None:
    """Remembers the records of a revoke block. Raises EBADMSG, EINVAL."""
    data = bh.b_data
    if not jbd2_descriptor_block_csum_verify(journal, data):
        raise KernelError(EBADMSG)
    used = BE32.unpack_from(data, HEADER_SIZE)[0]
    if used > journal.j_blocksize - (TAIL_SIZE if jbd2_journal_has_csum_v2or3(journal) else 0):
        raise KernelError(EINVAL)
    number = BE64 if jbd2_has_feature_incompat(journal, JBD2_FEATURE_INCOMPAT_64BIT) else BE32
    for offset in range(REVOKE_HEADER_SIZE, used - number.size + 1, number.size):
        jbd2_journal_set_revoke(journal, number.unpack_from(data, offset)[0], sequence)
        info.nr_revokes += 1
