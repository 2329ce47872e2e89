"""What one request may hold: cutting bios that are too large, and judging whether a bio fits to a request.

Linux: block/blk-merge.c (5.3), half of it; merging two requests is in elevator.py.
Same: a bio is cut at max_sectors, max_segments and chunk borders, the front is chained to the rest; neighbouring memory
    counts as one segment up to max_segment_size.
Owns: Request.nr_phys_segments. Context: any.
Gaps: discard merges with several ranges (max_discard_segments is 1), integrity, virt boundaries.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.bio import bio_chain, bio_for_each_segment, bio_split
from glasskernel.block.blk_core import blk_account_io_start, generic_make_request
from glasskernel.block.blk_types import (
    QUEUE_FLAG_NOMERGES,
    REQ_NOMERGE,
    REQ_NOMERGE_FLAGS,
    REQ_OP_DISCARD,
    REQ_OP_FLUSH,
    REQ_OP_MASK,
    REQ_OP_SECURE_ERASE,
    REQ_OP_WRITE_SAME,
    REQ_OP_WRITE_ZEROES,
    RQF_NOMERGE_FLAGS,
    Bio,
    Request,
    RequestQueue,
)
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from collections.abc import Iterable

ELEVATOR_NO_MERGE, ELEVATOR_FRONT_MERGE, ELEVATOR_BACK_MERGE, ELEVATOR_DISCARD_MERGE = range(4)


# ---- cutting ----------------------------------------------------------------------------------------------
@notrace
def blk_bio_discard_split(q: RequestQueue, bio: Bio) -> tuple[Bio | None, int]:
    """(the front of a discard that is too long or None, segments)"""
    limits = q.limits
    granularity = max(limits.discard_granularity >> 9, 1)
    most = min(limits.max_discard_sectors, 0xFFFFFFFF >> 9)
    most -= most % granularity
    if not most or bio.bi_size >> 9 <= most:
        return None, 1
    split = most
    over = (bio.bi_sector + split - ((limits.discard_alignment >> 9) % granularity)) % granularity
    if split > over:
        split -= over
    return bio_split(bio, split), 1


@notrace
def blk_bio_write_zeroes_split(q: RequestQueue, bio: Bio) -> tuple[Bio | None, int]:
    most = q.limits.max_write_zeroes_sectors
    if not most or bio.bi_size >> 9 <= most:
        return None, 0
    return bio_split(bio, most), 0


@notrace
def get_max_io_size(q: RequestQueue, sector: int) -> int:
    """Sectors that one request may have that begins here."""
    limits = q.limits
    sectors = limits.max_sectors
    if limits.chunk_sectors:
        sectors = min(sectors, limits.chunk_sectors - sector % limits.chunk_sectors)
    blocks = limits.logical_block_size >> 9
    return sectors - sectors % blocks


@notrace
def blk_bio_segment_split(q: RequestQueue, bio: Bio) -> tuple[Bio | None, int]:
    """(the front that fits in one request, or None if all does; its segments)"""
    limits = q.limits
    max_sectors = get_max_io_size(q, bio.bi_sector)
    if len(bio.bi_io_vec) - bio.bi_idx == 1 and bio.bi_size <= min(max_sectors << 9, 4096, limits.max_segment_size):
        return None, 1
    max_bytes = max_sectors << 9
    max_segs, max_size = limits.max_segments, limits.max_segment_size
    nsegs = total = 0
    for _, offset, length in bio_for_each_segment(bio):
        assert not offset & 511, "segments begin at sectors"
        pieces = -(-length // max_size)
        if nsegs + pieces > max_segs or total + length > max_bytes:
            room = min(max_bytes - total, (max_segs - nsegs) * max_size) & -limits.logical_block_size
            if room > 0:
                take = min(room, length)
                total += take
                nsegs += -(-take // max_size)
            break
        nsegs += pieces
        total += length
    if total >= bio.bi_size:
        return None, nsegs
    total &= -limits.logical_block_size
    return bio_split(bio, total >> 9), nsegs


@may_sleep
def __blk_queue_split(q: RequestQueue, bio: Bio) -> tuple[Bio, int]:
    """(what of the bio fits in one request, its segments); the rest is submitted again behind it."""
    op = bio.bi_opf & REQ_OP_MASK
    if op in (REQ_OP_DISCARD, REQ_OP_SECURE_ERASE):
        split, nsegs = blk_bio_discard_split(q, bio)
    elif op == REQ_OP_WRITE_ZEROES:
        split, nsegs = blk_bio_write_zeroes_split(q, bio)
    elif not bio.bi_io_vec:
        return bio, 0
    else:
        split, nsegs = blk_bio_segment_split(q, bio)
    if split is None:
        return bio, nsegs
    split.bi_opf |= REQ_NOMERGE                # it was as long as possible
    bio_chain(split, bio)
    probe = q.kernel.tp.block_split
    if probe is not None:
        probe(q, split, bio.bi_sector)
    generic_make_request(bio)
    return split, nsegs


@may_sleep
def blk_queue_split(q: RequestQueue, bio: Bio) -> Bio:
    """For drivers that take bios: one that obeys the queue's limits."""
    return __blk_queue_split(q, bio)[0]


def blk_rq_map_sg(q: RequestQueue, rq: Request) -> list[tuple[int, int]]:
    """(physical address, length) of a request's memory, neighbours joined."""
    return __blk_bios_map_sg(q, rq)


@notrace
def rq_for_each_bio(rq: Request) -> Iterable[Bio]:
    bio = rq.bio
    while bio is not None:
        yield bio
        bio = bio.bi_next


@notrace
def __blk_bios_map_sg(q: RequestQueue, rq: Request) -> list[tuple[int, int]]:
    sg: list[tuple[int, int]] = []
    end = -1
    most = q.limits.max_segment_size
    for bio in rq_for_each_bio(rq):
        for pfn, offset, length in bio_for_each_segment(bio):
            address = (pfn << 12) + offset
            if address == end and sg[-1][1] + length <= most:
                sg[-1] = (sg[-1][0], sg[-1][1] + length)
            else:
                sg.append((address, length))
            end = address + length
    return sg


# ---- may they be one? -----------------------------------------------------------------------------------------
@notrace
def rq_end_sector(rq: Request) -> int:
    return rq.sector + (rq.data_len >> 9)


@notrace
def rq_mergeable(rq: Request) -> bool:
    """False for requests that stay as they are."""
    op = rq.cmd_flags & REQ_OP_MASK
    if op >= 32 or op in (REQ_OP_FLUSH, REQ_OP_WRITE_ZEROES):
        return False
    return not (rq.cmd_flags & REQ_NOMERGE_FLAGS or rq.rq_flags & RQF_NOMERGE_FLAGS)


@notrace
def bio_mergeable(bio: Bio) -> bool:
    return not bio.bi_opf & REQ_NOMERGE_FLAGS


def blk_rq_merge_ok(rq: Request, bio: Bio) -> bool:
    """True if nothing but place and size could keep the bio out of the request."""
    if not rq_mergeable(rq) or not bio_mergeable(bio):
        return False
    op = rq.cmd_flags & REQ_OP_MASK
    if op != bio.bi_opf & REQ_OP_MASK or (rq.cmd_flags ^ bio.bi_opf) & 1 or rq.rq_disk is not bio.bi_disk:
        return False
    if op == REQ_OP_WRITE_SAME:
        return False
    return rq.ioprio == bio.bi_ioprio


def blk_try_merge(rq: Request, bio: Bio) -> int:
    """ELEVATOR_*: on which side of the request the bio lies."""
    if rq.sector + (rq.data_len >> 9) == bio.bi_sector:
        return ELEVATOR_BACK_MERGE
    if rq.sector - (bio.bi_size >> 9) == bio.bi_sector:
        return ELEVATOR_FRONT_MERGE
    return ELEVATOR_NO_MERGE


@notrace
def blk_rq_get_max_sectors(rq: Request, offset: int) -> int:
    q = rq.q
    op = rq.cmd_flags & REQ_OP_MASK
    if op in (REQ_OP_DISCARD, REQ_OP_SECURE_ERASE):
        return min(q.limits.max_discard_sectors, 0xFFFFFFFF >> 9)
    most = q.limits.max_sectors
    if q.limits.chunk_sectors:
        most = min(most, q.limits.chunk_sectors - offset % q.limits.chunk_sectors)
    return most


@notrace
def ll_new_hw_segment(q: RequestQueue, req: Request, bio: Bio, nr_phys_segs: int) -> bool:
    """Adds a bio's segments to a request; False if there would be too many."""
    if req.nr_phys_segments + nr_phys_segs > q.limits.max_segments:
        req.cmd_flags |= REQ_NOMERGE
        if req is q.last_merge:
            q.last_merge = None
        return False
    req.nr_phys_segments += nr_phys_segs
    return True


def ll_back_merge_fn(q: RequestQueue, req: Request, bio: Bio, nr_segs: int) -> bool:
    """True if the request may grow by this bio at its end."""
    if (req.data_len + bio.bi_size) >> 9 > blk_rq_get_max_sectors(req, req.sector):
        req.cmd_flags |= REQ_NOMERGE
        if req is q.last_merge:
            q.last_merge = None
        return False
    return ll_new_hw_segment(q, req, bio, nr_segs)


def ll_front_merge_fn(q: RequestQueue, req: Request, bio: Bio, nr_segs: int) -> bool:
    if (req.data_len + bio.bi_size) >> 9 > blk_rq_get_max_sectors(req, bio.bi_sector):
        req.cmd_flags |= REQ_NOMERGE
        if req is q.last_merge:
            q.last_merge = None
        return False
    return ll_new_hw_segment(q, req, bio, nr_segs)


# ---- bios into requests (block/blk-core.c: bio_attempt_*) ---------------------------------------------------
def bio_attempt_back_merge(req: Request, bio: Bio, nr_segs: int) -> bool:
    """Puts the bio behind the request's last one. False if it does not fit."""
    q = req.q
    if not ll_back_merge_fn(q, req, bio, nr_segs):
        return False
    probe = q.kernel.tp.block_bio_backmerge
    if probe is not None:
        probe(q, req, bio)
    assert req.biotail is not None
    req.biotail.bi_next = bio
    req.biotail = bio
    req.data_len += bio.bi_size
    blk_account_io_start(req, False)
    return True


def bio_attempt_front_merge(req: Request, bio: Bio, nr_segs: int) -> bool:
    """Puts the bio before the request's first one. False if it does not fit."""
    q = req.q
    if not ll_front_merge_fn(q, req, bio, nr_segs):
        return False
    probe = q.kernel.tp.block_bio_frontmerge
    if probe is not None:
        probe(q, req, bio)
    bio.bi_next = req.bio
    req.bio = bio
    req.sector = bio.bi_sector
    req.data_len += bio.bi_size
    blk_account_io_start(req, False)
    return True


def blk_attempt_plug_merge(q: RequestQueue, bio: Bio, nr_segs: int, plug_list: list[Request]) -> bool:
    """Tries the requests in the task's plug, the youngest first. True if the bio is in one of them now."""
    for rq in reversed(plug_list):
        if rq.q is not q or not blk_rq_merge_ok(rq, bio):
            continue
        side = blk_try_merge(rq, bio)
        if side == ELEVATOR_BACK_MERGE:
            merged = bio_attempt_back_merge(rq, bio, nr_segs)
        elif side == ELEVATOR_FRONT_MERGE:
            merged = bio_attempt_front_merge(rq, bio, nr_segs)
        else:
            merged = False
        if merged:
            return True
    return False


@notrace
def blk_queue_nomerges(q: RequestQueue) -> bool:
    return bool(q.queue_flags & QUEUE_FLAG_NOMERGES)

