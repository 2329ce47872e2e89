"""Flushes: making writes safe on devices with a volatile write cache.

Linux: block/blk-flush.c (5.3). Same: a request with PREFLUSH or FUA becomes a sequence (flush, data, flush) of what the
    device needs; one flush at a time is under way and serves all requests that came before it; two lists take turns.
Owns: BlkFlushQueue, Request.flush_seq. Context: any.
Invariant: while flush_pending_idx != flush_running_idx a flush request is under way.
"""
from __future__ import annotations

from glasskernel.block.blk_mq_dispatch import (
    blk_mq_add_to_requeue_list,
    blk_mq_end_request,
    blk_mq_put_driver_tag,
    blk_mq_request_bypass_insert,
    blk_mq_sched_restart,
)
from glasskernel.block.blk_types import (
    QUEUE_FLAG_FUA,
    QUEUE_FLAG_WC,
    REQ_FAILFAST_MASK,
    REQ_FUA,
    REQ_OP_FLUSH,
    REQ_PREFLUSH,
    REQ_SYNC,
    RQF_FLUSH_SEQ,
    BlkFlushQueue,
    Request,
)
from glasskernel.kernel.time.timekeeping import jiffies
from glasskernel.lib.types import notrace

REQ_FSEQ_PREFLUSH, REQ_FSEQ_DATA, REQ_FSEQ_POSTFLUSH, REQ_FSEQ_DONE = 1, 2, 4, 8
REQ_FSEQ_ACTIONS = REQ_FSEQ_PREFLUSH | REQ_FSEQ_DATA | REQ_FSEQ_POSTFLUSH
FLUSH_PENDING_TIMEOUT = 5 * 250                # jiffies


@notrace
def blk_flush_policy(fflags: int, rq: Request) -> int:
    """Which steps the request needs on a device with these queue flags."""
    policy = REQ_FSEQ_DATA if rq.data_len else 0
    if fflags & QUEUE_FLAG_WC:
        if rq.cmd_flags & REQ_PREFLUSH:
            policy |= REQ_FSEQ_PREFLUSH
        if not fflags & QUEUE_FLAG_FUA and rq.cmd_flags & REQ_FUA:
            policy |= REQ_FSEQ_POSTFLUSH
    return policy


@notrace
def blk_flush_cur_seq(rq: Request) -> int:
    """The step that comes next: the lowest bit that is not set."""
    return ~rq.flush_seq & (rq.flush_seq + 1)


@notrace
def blk_flush_restore_request(rq: Request) -> None:
    """An ordinary request again, with its bio, so that it can end."""
    rq.bio = rq.biotail
    rq.rq_flags &= ~RQF_FLUSH_SEQ
    rq.end_io = rq.flush_saved_end_io


@notrace
def blk_flush_queue_rq(rq: Request, add_front: bool) -> None:
    blk_mq_add_to_requeue_list(rq, add_front, True)


def blk_flush_complete_seq(rq: Request, fq: BlkFlushQueue, seq: int, error: int) -> None:
    """Step `seq` of a request is done: starts the next one."""
    rq.flush_seq |= seq
    cmd_flags = rq.cmd_flags
    for where in (*fq.flush_queue, fq.flush_data_in_flight):
        if rq in where:
            where.remove(rq)
    seq = REQ_FSEQ_DONE if error else blk_flush_cur_seq(rq)
    if seq in (REQ_FSEQ_PREFLUSH, REQ_FSEQ_POSTFLUSH):
        pending = fq.flush_queue[fq.flush_pending_idx]
        if not pending:
            fq.flush_pending_since = jiffies()
        pending.append(rq)
    elif seq == REQ_FSEQ_DATA:
        fq.flush_data_in_flight.append(rq)
        blk_flush_queue_rq(rq, True)
    else:
        blk_flush_restore_request(rq)
        blk_mq_end_request(rq, error)
    blk_kick_flush(fq, cmd_flags)


def flush_end_io(flush_rq: Request, error: int) -> None:
    """The device has flushed: everybody who waited for this flush goes on."""
    hctx = flush_rq.mq_hctx
    fq = hctx.fq
    if flush_rq.q.elevator is None:
        hctx.tags.rqs[flush_rq.tag] = flush_rq.end_io_data         # its owner's number again
        flush_rq.tag = -1
    else:
        blk_mq_put_driver_tag(flush_rq)
        flush_rq.internal_tag = -1
    running = list(fq.flush_queue[fq.flush_running_idx])
    fq.flush_running_idx ^= 1
    fq.flush_rq = None
    for rq in running:
        blk_flush_complete_seq(rq, fq, blk_flush_cur_seq(rq), error)


@notrace
def blk_kick_flush(fq: BlkFlushQueue, flags: int) -> None:
    """Starts a flush if somebody wants one and none is under way."""
    pending = fq.flush_queue[fq.flush_pending_idx]
    if fq.flush_pending_idx != fq.flush_running_idx or not pending:
        return
    if fq.flush_data_in_flight and jiffies() < fq.flush_pending_since + FLUSH_PENDING_TIMEOUT:
        return                                 # their POSTFLUSHes can share this one
    fq.flush_pending_idx ^= 1
    first_rq = pending[0]
    flush_rq = fq.flush_rq = Request(first_rq.q, first_rq.mq_ctx, first_rq.mq_hctx)
    if first_rq.q.elevator is None:            # it borrows the number of the first request
        flush_rq.tag = first_rq.tag
        flush_rq.end_io_data = first_rq
        first_rq.mq_hctx.tags.rqs[first_rq.tag] = flush_rq
    else:
        flush_rq.internal_tag = first_rq.internal_tag
    flush_rq.sector = -1
    flush_rq.cmd_flags = REQ_OP_FLUSH | REQ_PREFLUSH | flags & REQ_FAILFAST_MASK
    flush_rq.rq_flags |= RQF_FLUSH_SEQ
    flush_rq.rq_disk = first_rq.rq_disk
    flush_rq.end_io = flush_end_io
    blk_flush_queue_rq(flush_rq, False)


def mq_flush_data_end_io(rq: Request, error: int) -> None:
    """The data of a sequence is on the device."""
    hctx = rq.mq_hctx
    if rq.q.elevator is not None:
        blk_mq_put_driver_tag(rq)
    blk_flush_complete_seq(rq, hctx.fq, REQ_FSEQ_DATA, error)
    blk_mq_sched_restart(hctx)


def blk_insert_flush(rq: Request) -> None:
    """Takes a request with PREFLUSH or FUA; it ends when all its steps have."""
    fflags = rq.q.queue_flags
    policy = blk_flush_policy(fflags, rq)
    rq.cmd_flags &= ~REQ_PREFLUSH
    if not fflags & QUEUE_FLAG_FUA:
        rq.cmd_flags &= ~REQ_FUA
    rq.cmd_flags |= REQ_SYNC
    if not policy:
        blk_mq_end_request(rq, 0)
        return
    assert rq.bio is rq.biotail, "flushes are not merged"
    if policy & REQ_FSEQ_DATA and not policy & (REQ_FSEQ_PREFLUSH | REQ_FSEQ_POSTFLUSH):
        blk_mq_request_bypass_insert(rq, False)
        return
    rq.flush_seq = 0
    rq.rq_flags |= RQF_FLUSH_SEQ
    rq.flush_saved_end_io = rq.end_io
    rq.end_io = mq_flush_data_end_io
    blk_flush_complete_seq(rq, rq.mq_hctx.fq, REQ_FSEQ_ACTIONS & ~policy, 0)
