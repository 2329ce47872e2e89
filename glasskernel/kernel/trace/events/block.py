"""The block layer: bios and requests on their way.

Linux: include/trace/events/block.h (5.3).
Same: the device of a bio is its whole disk. Gaps: bounce buffers, commands of SCSI pass-through (cmd is empty).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.blk_types import (
    REQ_FUA,
    REQ_META,
    REQ_OP_DISCARD,
    REQ_OP_FLUSH,
    REQ_OP_MASK,
    REQ_OP_READ,
    REQ_OP_SECURE_ERASE,
    REQ_OP_WRITE,
    REQ_OP_WRITE_SAME,
    REQ_PREFLUSH,
    REQ_RAHEAD,
    REQ_SYNC,
)
from glasskernel.kernel.current import current
from glasskernel.kernel.trace.trace_events import Values, trace_system
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.block.blk_types import Bio, Request, RequestQueue
    from glasskernel.fs.buffer_head import BufferHead

_OP_LETTERS = {REQ_OP_READ: b"R", REQ_OP_WRITE: b"W", REQ_OP_WRITE_SAME: b"W", REQ_OP_FLUSH: b"F", REQ_OP_DISCARD: b"D",
               REQ_OP_SECURE_ERASE: b"DE"}


@notrace
def blk_fill_rwbs(op: int, bytes_: int) -> bytes:
    """What a request does, in letters: b"WS", b"FWFS" (kernel/trace/blktrace.c)."""
    letter = _OP_LETTERS.get(op & REQ_OP_MASK, b"N")
    return b"".join((b"F" if op & REQ_PREFLUSH else b"", letter, b"F" if op & REQ_FUA else b"",
                     b"A" if op & REQ_RAHEAD else b"", b"S" if op & REQ_SYNC else b"", b"M" if op & REQ_META else b""))


@notrace
def _rq_sector(rq: Request) -> int:
    """blk_rq_trace_sector(): a flush has no place."""
    return 0 if rq.sector == -1 else rq.sector


@notrace
def _rq_nr_sector(rq: Request) -> int:
    return rq.data_len >> 9


@notrace
def _rq_dev(rq: Request) -> int:
    disk = rq.rq_disk
    return disk.major << 20 | disk.first_minor if disk is not None else 0


@notrace
def _bio_dev(bio: Bio) -> int:
    disk = bio.bi_disk
    return disk.major << 20 | disk.first_minor if disk is not None else 0


@notrace
def _bio(bio: Bio) -> Values:
    return (_bio_dev(bio), bio.bi_sector, bio.bi_size >> 9, blk_fill_rwbs(bio.bi_opf, bio.bi_size), current().comm)


block = trace_system("block")


@block.event_class(
    fields="dev_t dev; sector_t sector; size_t size",
    print_fmt=(
        '"%d,%d sector=%llu size=%zu", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), (unsigned long long)REC->sector, REC->size'),
)
def block_buffer(bh: BufferHead) -> Values:
    return (bh.b_bdev.bd_dev if bh.b_bdev is not None else 0, bh.b_blocknr, bh.b_size)


block_touch_buffer = block_buffer.define("block_touch_buffer")
block_dirty_buffer = block_buffer.define("block_dirty_buffer")


@block.event(
    fields="dev_t dev; sector_t sector; unsigned int nr_sector; char rwbs[8]; __data_loc char[] cmd",
    print_fmt=(
        '"%d,%d %s (%s) %llu + %u [%d]", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->rwbs, __get_str(cmd), '
        '(unsigned long long)REC->sector, REC->nr_sector, 0'),
)
def block_rq_requeue(q: RequestQueue, rq: Request) -> Values:
    return (_rq_dev(rq), _rq_sector(rq), _rq_nr_sector(rq), blk_fill_rwbs(rq.cmd_flags, rq.data_len), b"")


@block.event(
    fields="dev_t dev; sector_t sector; unsigned int nr_sector; int error; char rwbs[8]; __data_loc char[] cmd",
    print_fmt=(
        '"%d,%d %s (%s) %llu + %u [%d]", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->rwbs, __get_str(cmd), '
        '(unsigned long long)REC->sector, REC->nr_sector, REC->error'),
    irqs_off=True,
)
def block_rq_complete(rq: Request, error: int, nr_bytes: int) -> Values:
    return (_rq_dev(rq), rq.sector, nr_bytes >> 9, error, blk_fill_rwbs(rq.cmd_flags, nr_bytes), b"")


@block.event_class(
    fields=(
        "dev_t dev; sector_t sector; unsigned int nr_sector; unsigned int bytes; char rwbs[8]; char comm[16]; "
        "__data_loc char[] cmd"),
    print_fmt=(
        '"%d,%d %s %u (%s) %llu + %u [%s]", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->rwbs, REC->bytes, __get_str(cmd), '
        '(unsigned long long)REC->sector, REC->nr_sector, REC->comm'),
)
def block_rq(q: RequestQueue, rq: Request) -> Values:
    return (_rq_dev(rq), _rq_sector(rq), _rq_nr_sector(rq), rq.data_len, blk_fill_rwbs(rq.cmd_flags, rq.data_len),
            current().comm, b"")


block_rq_insert = block_rq.define("block_rq_insert")
block_rq_issue = block_rq.define("block_rq_issue")


@block.event(
    fields="dev_t dev; sector_t sector; unsigned nr_sector; int error; char rwbs[8]",
    print_fmt=(
        '"%d,%d %s %llu + %u [%d]", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->rwbs, (unsigned long long)REC->sector, '
        'REC->nr_sector, REC->error'),
)
def block_bio_complete(q: RequestQueue, bio: Bio, error: int) -> Values:
    return (_bio_dev(bio), bio.bi_sector, bio.bi_size >> 9, error, blk_fill_rwbs(bio.bi_opf, bio.bi_size))


@block.event_class(
    fields="dev_t dev; sector_t sector; unsigned int nr_sector; char rwbs[8]; char comm[16]",
    print_fmt=(
        '"%d,%d %s %llu + %u [%s]", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->rwbs, (unsigned long long)REC->sector, '
        'REC->nr_sector, REC->comm'),
)
def block_bio_merge(q: RequestQueue, rq: Request, bio: Bio) -> Values:
    return _bio(bio)


block_bio_backmerge = block_bio_merge.define("block_bio_backmerge")
block_bio_frontmerge = block_bio_merge.define("block_bio_frontmerge")


@block.event(
    fields="dev_t dev; sector_t sector; unsigned int nr_sector; char rwbs[8]; char comm[16]",
    print_fmt=(
        '"%d,%d %s %llu + %u [%s]", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->rwbs, (unsigned long long)REC->sector, '
        'REC->nr_sector, REC->comm'),
)
def block_bio_queue(q: RequestQueue, bio: Bio) -> Values:
    return _bio(bio)


@block.event_class(
    fields="dev_t dev; sector_t sector; unsigned int nr_sector; char rwbs[8]; char comm[16]",
    print_fmt=(
        '"%d,%d %s %llu + %u [%s]", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->rwbs, (unsigned long long)REC->sector, '
        'REC->nr_sector, REC->comm'),
)
def block_get_rq(q: RequestQueue, bio: Bio | None, rw: int) -> Values:
    return _bio(bio) if bio is not None else (0, 0, 0, b"", current().comm)


block_getrq = block_get_rq.define("block_getrq")
block_sleeprq = block_get_rq.define("block_sleeprq")


@block.event(
    fields="char comm[16]",
    print_fmt='"[%s]", REC->comm',
)
def block_plug(q: RequestQueue) -> Values:
    return (current().comm,)


@block.event(
    fields="int nr_rq; char comm[16]",
    print_fmt='"[%s] %d", REC->comm, REC->nr_rq',
)
def block_unplug(q: RequestQueue, depth: int, explicit: bool) -> Values:
    return (depth, current().comm)


@block.event(
    fields="dev_t dev; sector_t sector; sector_t new_sector; char rwbs[8]; char comm[16]",
    print_fmt=(
        '"%d,%d %s %llu / %llu [%s]", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->rwbs, (unsigned long long)REC->sector, '
        '(unsigned long long)REC->new_sector, REC->comm'),
)
def block_split(q: RequestQueue, bio: Bio, new_sector: int) -> Values:
    return (_bio_dev(bio), bio.bi_sector, new_sector, blk_fill_rwbs(bio.bi_opf, bio.bi_size), current().comm)


@block.event(
    fields="dev_t dev; sector_t sector; unsigned int nr_sector; dev_t old_dev; sector_t old_sector; char rwbs[8]",
    print_fmt=(
        '"%d,%d %s %llu + %u <- (%d,%d) %llu", ((unsigned int) ((REC->dev) >> 20)), '
        '((unsigned int) ((REC->dev) & ((1U << 20) - 1))), REC->rwbs, (unsigned long long)REC->sector, '
        'REC->nr_sector, ((unsigned int) ((REC->old_dev) >> 20)), '
        '((unsigned int) ((REC->old_dev) & ((1U << 20) - 1))), (unsigned long long)REC->old_sector'),
)
def block_bio_remap(q: RequestQueue, bio: Bio, dev: int, from_: int) -> Values:
    return (_bio_dev(bio), bio.bi_sector, bio.bi_size >> 9, dev, from_,
            blk_fill_rwbs(bio.bi_opf, bio.bi_size))
