"""Bios and requests on their way into a scheduler or a software queue.

Linux: the inserting half of block/blk-mq-sched.c, icqs of block/blk-ioc.c (5.3).
Same: a bio is first offered to the scheduler, or to this CPU's software queue, for merging; flushes go past the
    scheduler.
Owns: IoContext.icqs. Context: any.
"""
from __future__ import annotations

from typing import Any

from glasskernel.block.blk_core import create_task_io_context
from glasskernel.block.blk_flush import blk_insert_flush
from glasskernel.block.blk_merge import (
    ELEVATOR_BACK_MERGE,
    ELEVATOR_FRONT_MERGE,
    bio_attempt_back_merge,
    bio_attempt_front_merge,
    bio_mergeable,
    blk_rq_merge_ok,
    blk_try_merge,
    rq_mergeable,
)
from glasskernel.block.blk_mq_dispatch import (
    __blk_mq_insert_request,
    blk_mq_free_request,
    blk_mq_run_hw_queue,
    blk_mq_sched_bypass_insert,
)
from glasskernel.block.blk_types import (
    RQF_FLUSH_SEQ,
    Bio,
    BlkMqCtx,
    BlkMqHwCtx,
    IoContext,
    Request,
    RequestQueue,
    op_is_flush,
)
from glasskernel.block.elevator import (
    attempt_back_merge,
    attempt_front_merge,
    elv_attempt_insert_merge,
    elv_merge,
    elv_merged_request,
)
from glasskernel.kernel.current import register
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace


@slotted
class IoCq:
    """struct io_cq: what a scheduler knows of a task. data: the scheduler's part."""

    q: RequestQueue
    ioc: IoContext
    data: Any = None


def blk_mq_sched_assign_ioc(rq: Request) -> None:
    """The request remembers who asked for it, for schedulers that want to know."""
    ioc = create_task_io_context()
    icq = ioc.icqs.get(rq.q)
    if icq is None:
        icq = ioc.icqs[rq.q] = IoCq(rq.q, ioc)             # ioc_create_icq()
    rq.elv_icq = icq


# ---- merging -------------------------------------------------------------------------------------------------
def blk_mq_sched_try_merge(q: RequestQueue, bio: Bio, nr_segs: int) -> tuple[bool, Request | None]:
    """(whether the bio is in a request of the scheduler now, a request that became superfluous)"""
    side, rq = elv_merge(q, bio)
    merged = None
    if side == ELEVATOR_BACK_MERGE and rq is not None:
        if not bio_attempt_back_merge(rq, bio, nr_segs):
            return False, None
        merged = attempt_back_merge(q, rq)
        if merged is None:
            elv_merged_request(q, rq, ELEVATOR_BACK_MERGE)
        return True, merged
    if side == ELEVATOR_FRONT_MERGE and rq is not None:
        if not bio_attempt_front_merge(rq, bio, nr_segs):
            return False, None
        merged = attempt_front_merge(q, rq)
        if merged is None:
            elv_merged_request(q, rq, ELEVATOR_FRONT_MERGE)
        return True, merged
    return False, None


def blk_mq_bio_list_merge(q: RequestQueue, ctx: BlkMqCtx, bio: Bio, nr_segs: int) -> bool:
    """Tries the eight youngest requests of a list."""
    checked = 8
    for rq in reversed(ctx.rq_list):
        checked -= 1
        if checked < 0:
            break
        if not blk_rq_merge_ok(rq, bio):
            continue
        side = blk_try_merge(rq, bio)
        if side == ELEVATOR_BACK_MERGE:
            return bio_attempt_back_merge(rq, bio, nr_segs)
        if side == ELEVATOR_FRONT_MERGE:
            return bio_attempt_front_merge(rq, bio, nr_segs)
    return False


def blk_mq_attempt_merge(q: RequestQueue, hctx: BlkMqHwCtx, ctx: BlkMqCtx, bio: Bio, nr_segs: int) -> bool:
    """The same without a scheduler: only this CPU's software queue."""
    if blk_mq_bio_list_merge(q, ctx, bio, nr_segs):
        ctx.rq_merged += 1
        return True
    return False


def __blk_mq_sched_bio_merge(q: RequestQueue, bio: Bio, nr_segs: int) -> bool:
    ctx = q.queue_ctx[register.task.cpu]
    hctx = ctx.hctx
    e = q.elevator
    if e is not None and e.type.bio_merge is not None:
        return e.type.bio_merge(hctx, bio, nr_segs)
    if ctx.rq_list:
        return blk_mq_attempt_merge(q, hctx, ctx, bio, nr_segs)
    return False


@notrace
def blk_mq_sched_bio_merge(q: RequestQueue, bio: Bio, nr_segs: int) -> bool:
    """True if the bio found a request to join."""
    if q.queue_flags & 8 or not bio_mergeable(bio):        # QUEUE_FLAG_NOMERGES
        return False
    return __blk_mq_sched_bio_merge(q, bio, nr_segs)


def blk_mq_sched_try_insert_merge(q: RequestQueue, rq: Request) -> bool:
    """A request on its way into the scheduler continues one that is there. True: it is gone."""
    if not rq_mergeable(rq):
        return False
    merged = elv_attempt_insert_merge(q, rq)
    if merged is None:
        return False
    blk_mq_free_request(merged)
    return True


# ---- inserting -------------------------------------------------------------------------------------------------
def blk_mq_sched_insert_request(rq: Request, at_head: bool, run_queue: bool, async_: bool) -> None:
    """One request into the scheduler or software queue; run_queue: and dispatch."""
    q = rq.q
    e = q.elevator
    hctx = rq.mq_hctx
    if not rq.rq_flags & RQF_FLUSH_SEQ and op_is_flush(rq.cmd_flags):
        blk_insert_flush(rq)
    elif not blk_mq_sched_bypass_insert(hctx, e is not None, rq):
        if e is not None:
            e.type.insert_requests(hctx, [rq], at_head)
        else:
            __blk_mq_insert_request(hctx, rq, at_head)
    if run_queue:
        blk_mq_run_hw_queue(hctx, async_)
