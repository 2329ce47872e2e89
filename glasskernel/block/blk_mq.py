"""The multi-queue block layer: from a bio to a request, plugging, and making queues.

Linux: the upper half of block/blk-mq.c, blk_mq_sched_insert_requests() of block/blk-mq-sched.c, plugs of
    block/blk-core.c (5.3). Same: a bio joins a request in the plug, then one in the scheduler; else it gets a request
    of its own, which waits in the plug, is issued at once (no scheduler, idle device), or goes into the scheduler.
Owns: BlkPlug (task.plug), the making of RequestQueue, BlkMqCtx and BlkMqHwCtx.
Invariant: who sleeps has no requests left in its plug (schedule() and io_schedule() flush it).
Gaps: CPU hotplug, updating the number of hardware queues.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.bio import bio_endio
from glasskernel.block.blk_core import (
    blk_account_io_start,
    blk_alloc_queue,
    blk_do_io_stat,
    blk_queue_enter_live,
)
from glasskernel.block.blk_flush import blk_insert_flush
from glasskernel.block.blk_merge import __blk_queue_split, blk_attempt_plug_merge, blk_queue_nomerges
from glasskernel.block.blk_mq_dispatch import (
    __blk_mq_requeue_request,
    blk_mq_end_request,
    blk_mq_get_dispatch_budget,
    blk_mq_get_driver_tag,
    blk_mq_insert_requests,
    blk_mq_put_dispatch_budget,
    blk_mq_request_bypass_insert,
    blk_mq_run_hw_queue,
    blk_mq_run_hw_queues,
    blk_mq_run_work_fn,
    blk_mq_timeout_work,
    blk_mq_update_dispatch_busy,
    blk_rq_timed_out_timer,
)
from glasskernel.block.blk_mq_sched import (
    blk_mq_sched_assign_ioc,
    blk_mq_sched_bio_merge,
    blk_mq_sched_insert_request,
)
from glasskernel.block.blk_mq_tag import blk_mq_get_tag, blk_mq_init_tags, blk_mq_tag_update_depth
from glasskernel.block.blk_types import (
    BLK_MAX_REQUEST_COUNT,
    BLK_MQ_S_STOPPED,
    BLK_PLUG_FLUSH_SIZE,
    BLK_STS_AGAIN,
    BLK_STS_DEV_RESOURCE,
    BLK_STS_OK,
    BLK_STS_RESOURCE,
    QUEUE_FLAG_MQ_DEFAULT,
    QUEUE_FLAG_QUIESCED,
    REQ_FAILFAST_MASK,
    REQ_RAHEAD,
    RQF_DONTPREP,
    RQF_ELVPRIV,
    RQF_IO_STAT,
    RQF_SOFTBARRIER,
    Bio,
    BlkFlushQueue,
    BlkMqCtx,
    BlkMqHwCtx,
    BlkMqTagSet,
    BlkPlug,
    Request,
    RequestQueue,
    op_is_flush,
    op_is_sync,
)
from glasskernel.block.elevator import blk_mq_freeze_queue, blk_mq_unfreeze_queue, elevator_init_mq
from glasskernel.kernel.current import register
from glasskernel.kernel.time.timekeeping import ktime_get
from glasskernel.kernel.time.types import HZ, TimerList
from glasskernel.kernel.workqueue import DelayedWork, WorkStruct
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct


# ---- requests -------------------------------------------------------------------------------------------------
@may_sleep
def blk_mq_get_request(q: RequestQueue, bio: Bio) -> Request | None:
    """A request for a bio; waits for a tag. None: none is free, and REQ_NOWAIT."""
    blk_queue_enter_live(q)
    op = bio.bi_opf
    ctx = q.queue_ctx[register.task.cpu]
    hctx = ctx.hctx
    e = q.elevator
    tags = hctx.tags
    depth = 0
    if e is not None:
        assert hctx.sched_tags is not None
        tags = hctx.sched_tags
        if not op_is_flush(op) and e.type.limit_depth is not None:
            depth = e.type.limit_depth(op, hctx)
    tag = blk_mq_get_tag(tags, op, depth, hctx, blk_mq_run_hw_queue)
    if tag < 0:
        q.q_usage_counter -= 1
        return None
    rq = blk_mq_rq_ctx_init(q, ctx, hctx, tag, op)
    tags.rqs[tag] = rq
    if not op_is_flush(op) and e is not None and e.type.prepare_request is not None:
        if e.type.uses_icq:
            blk_mq_sched_assign_ioc(rq)
        e.type.prepare_request(rq, bio)
        rq.rq_flags |= RQF_ELVPRIV
    hctx.queued += 1
    return rq


def blk_mq_rq_ctx_init(q: RequestQueue, ctx: BlkMqCtx, hctx: BlkMqHwCtx, tag: int, op: int) -> Request:
    rq = Request(q, ctx, hctx, op)
    if q.elevator is not None:
        rq.internal_tag = tag
    else:
        rq.tag = tag
    if blk_do_io_stat(q):
        rq.rq_flags |= RQF_IO_STAT
    rq.start_time_ns = ktime_get()
    ctx.rq_dispatched[op_is_sync(op)] += 1
    return rq


@notrace
def blk_mq_bio_to_request(rq: Request, bio: Bio, nr_segs: int) -> None:
    """The request is this bio's now."""
    if bio.bi_opf & REQ_RAHEAD:
        rq.cmd_flags |= REQ_FAILFAST_MASK
    rq.sector = bio.bi_sector
    blk_rq_bio_prep(rq, bio, nr_segs)
    blk_account_io_start(rq, True)


@notrace
def blk_rq_bio_prep(rq: Request, bio: Bio, nr_segs: int) -> None:
    rq.nr_phys_segments = nr_segs
    rq.data_len = bio.bi_size
    rq.bio = rq.biotail = bio
    rq.ioprio = bio.bi_ioprio
    rq.rq_disk = bio.bi_disk


# ---- submitting ------------------------------------------------------------------------------------------------
@may_sleep
def blk_mq_make_request(q: RequestQueue, bio: Bio) -> None:
    """make_request_fn of multi-queue devices. Context: task."""
    is_sync = op_is_sync(bio.bi_opf)
    is_flush_fua = op_is_flush(bio.bi_opf)
    bio, nr_segs = __blk_queue_split(q, bio)
    task = register.task
    plug: BlkPlug | None = task.plug
    if not is_flush_fua and plug is not None and not blk_queue_nomerges(q) \
            and blk_attempt_plug_merge(q, bio, nr_segs, plug.mq_list):
        return
    if blk_mq_sched_bio_merge(q, bio, nr_segs):
        return
    rq = blk_mq_get_request(q, bio)
    if rq is None:
        bio.bi_status = BLK_STS_AGAIN                      # bio_wouldblock_error()
        bio_endio(bio)
        return
    probe = q.kernel.tp.block_getrq
    if probe is not None:
        probe(q, bio, bio.bi_opf)
    blk_mq_bio_to_request(rq, bio, nr_segs)
    plug = task.plug
    hctx = rq.mq_hctx
    assert q.mq_ops is not None
    if is_flush_fua:
        blk_insert_flush(rq)
        blk_mq_run_hw_queue(hctx, True)
    elif plug is not None and (q.nr_hw_queues == 1 or q.mq_ops.commit_rqs is not None):
        if not plug.rq_count:
            probe = q.kernel.tp.block_plug
            if probe is not None:
                probe(q)
        elif plug.rq_count >= BLK_MAX_REQUEST_COUNT or plug.mq_list[-1].data_len >= BLK_PLUG_FLUSH_SIZE:
            blk_flush_plug_list(plug, False)
            probe = q.kernel.tp.block_plug
            if probe is not None:
                probe(q)
        blk_add_rq_to_plug(plug, rq)
    elif plug is not None and not blk_queue_nomerges(q):
        same = next((r for r in reversed(plug.mq_list) if r.q is q), None)
        if same is not None:                               # one request of a queue waits at most
            plug.mq_list.remove(same)
            plug.rq_count -= 1
        blk_add_rq_to_plug(plug, rq)
        probe = q.kernel.tp.block_plug
        if probe is not None:
            probe(q)
        if same is not None:
            probe = q.kernel.tp.block_unplug
            if probe is not None:
                probe(q, 1, True)
            blk_mq_try_issue_directly(same.mq_hctx, same)
    elif (q.nr_hw_queues > 1 and is_sync) or (q.elevator is None and not hctx.dispatch_busy):
        blk_mq_try_issue_directly(hctx, rq)
    else:
        blk_mq_sched_insert_request(rq, False, True, True)


@notrace
def __blk_mq_issue_directly(hctx: BlkMqHwCtx, rq: Request, last: bool) -> int:
    assert rq.q.mq_ops is not None
    ret = rq.q.mq_ops.queue_rq(hctx, rq, last)
    if ret == BLK_STS_OK:
        blk_mq_update_dispatch_busy(hctx, False)
    elif ret in (BLK_STS_RESOURCE, BLK_STS_DEV_RESOURCE):
        blk_mq_update_dispatch_busy(hctx, True)
        __blk_mq_requeue_request(rq)
    else:
        blk_mq_update_dispatch_busy(hctx, False)
    return ret


def __blk_mq_try_issue_directly(hctx: BlkMqHwCtx, rq: Request, bypass_insert: bool, last: bool) -> int:
    """Hands the request to the driver, if nothing speaks against it. BLK_STS_*."""
    q = rq.q
    run_queue = True
    if hctx.state & BLK_MQ_S_STOPPED or q.queue_flags & QUEUE_FLAG_QUIESCED:
        run_queue = False
        bypass_insert = False
    elif (q.elevator is None or bypass_insert) and blk_mq_get_dispatch_budget(hctx):
        if blk_mq_get_driver_tag(rq):
            return __blk_mq_issue_directly(hctx, rq, last)
        blk_mq_put_dispatch_budget(hctx)
    if bypass_insert:
        return BLK_STS_RESOURCE
    blk_mq_request_bypass_insert(rq, run_queue)
    return BLK_STS_OK


def blk_mq_try_issue_directly(hctx: BlkMqHwCtx, rq: Request) -> None:
    ret = __blk_mq_try_issue_directly(hctx, rq, False, True)
    if ret in (BLK_STS_RESOURCE, BLK_STS_DEV_RESOURCE):
        blk_mq_request_bypass_insert(rq, True)
    elif ret != BLK_STS_OK:
        blk_mq_end_request(rq, ret)


def blk_mq_request_issue_directly(rq: Request, last: bool) -> int:
    return __blk_mq_try_issue_directly(rq.mq_hctx, rq, True, last)


def blk_mq_try_issue_list_directly(hctx: BlkMqHwCtx, rq_list: list[Request]) -> None:
    """A plug's requests, without a scheduler and with an idle device. What is left stays in the list."""
    while rq_list:
        rq = rq_list.pop(0)
        ret = blk_mq_request_issue_directly(rq, not rq_list)
        if ret == BLK_STS_OK:
            continue
        if ret in (BLK_STS_RESOURCE, BLK_STS_DEV_RESOURCE):
            blk_mq_request_bypass_insert(rq, not rq_list)
            break
        blk_mq_end_request(rq, ret)
    if rq_list and hctx.queue.mq_ops is not None and hctx.queue.mq_ops.commit_rqs is not None:
        hctx.queue.mq_ops.commit_rqs(hctx)


def blk_mq_sched_insert_requests(
    hctx: BlkMqHwCtx, ctx: BlkMqCtx, rq_list: list[Request], run_queue_async: bool
) -> None:
    """A plug's requests for one hardware queue."""
    q = hctx.queue
    q.q_usage_counter += 1                     # the queue stays while they may all complete
    e = q.elevator
    if e is not None:
        e.type.insert_requests(hctx, rq_list, False)
    else:
        if not hctx.dispatch_busy and not run_queue_async:
            blk_mq_try_issue_list_directly(hctx, rq_list)
            if not rq_list:                    # the queue was tried: nothing waits for another turn
                q.q_usage_counter -= 1
                return
        blk_mq_insert_requests(hctx, ctx, rq_list)
    blk_mq_run_hw_queue(hctx, run_queue_async)
    q.q_usage_counter -= 1


# ---- plugging ----------------------------------------------------------------------------------------------------
def blk_start_plug(plug: BlkPlug) -> None:
    """From now on requests of this task are collected. Inside another plug it has no effect."""
    task = register.task
    if task.plug is None:
        task.plug = plug


def blk_finish_plug(plug: BlkPlug) -> None:
    """The end of blk_start_plug(): what was collected goes out."""
    task = register.task
    if task.plug is plug:
        blk_flush_plug_list(plug, False)
        task.plug = None


@notrace
def start_plug(kernel: Kernel) -> BlkPlug:
    """blk_start_plug() for those that have no room for a plug on their stack: rooms below the block layer."""
    plug = BlkPlug()
    blk_start_plug(plug)
    return plug


def blk_add_rq_to_plug(plug: BlkPlug, rq: Request) -> None:
    plug.mq_list.append(rq)
    plug.rq_count += 1
    if not plug.multiple_queues and plug.rq_count > 1 and plug.mq_list[0].q is not rq.q:
        plug.multiple_queues = True


def blk_flush_plug_list(plug: BlkPlug, from_schedule: bool) -> None:
    if plug.mq_list:
        blk_mq_flush_plug_list(plug, from_schedule)


@notrace
def blk_schedule_flush_plug(task: TaskStruct) -> None:
    """The task is about to sleep: what it has plugged goes out in kblockd."""
    plug: BlkPlug | None = task.plug
    if plug is not None and plug.mq_list:
        blk_flush_plug_list(plug, True)


def blk_mq_flush_plug_list(plug: BlkPlug, from_schedule: bool) -> None:
    """Hands the collected requests over, those of one software queue at a time."""
    rq_list, plug.mq_list = plug.mq_list, []
    if plug.rq_count > 2 and plug.multiple_queues:
        rq_list.sort(key=lambda rq: (rq.q.id, rq.mq_hctx.queue_num, rq.mq_ctx.cpu, rq.sector))
    plug.rq_count = 0
    plug.multiple_queues = False
    while rq_list:
        head = rq_list[0]
        count = 1
        while count < len(rq_list) and rq_list[count].mq_hctx is head.mq_hctx and rq_list[count].mq_ctx is head.mq_ctx:
            count += 1
        part = rq_list[:count]
        del rq_list[:count]
        probe = head.q.kernel.tp.block_unplug
        if probe is not None:
            probe(head.q, count, not from_schedule)
        blk_mq_sched_insert_requests(head.mq_hctx, head.mq_ctx, part, from_schedule)


# ---- requeueing --------------------------------------------------------------------------------------------------
def blk_mq_requeue_work(work: WorkStruct) -> None:
    """q.requeue_list, in kblockd."""
    q: RequestQueue = work.data
    requests, q.requeue_list = q.requeue_list, []
    rest = []
    for rq, _ in requests:
        if not rq.rq_flags & (RQF_SOFTBARRIER | RQF_DONTPREP):
            rest.append(rq)
            continue
        rq.rq_flags &= ~RQF_SOFTBARRIER
        if rq.rq_flags & RQF_DONTPREP:
            blk_mq_request_bypass_insert(rq, False)
        else:
            blk_mq_sched_insert_request(rq, True, False, False)
    for rq in rest:
        blk_mq_sched_insert_request(rq, False, False, False)
    blk_mq_run_hw_queues(q, False)


# ---- making queues -----------------------------------------------------------------------------------------------
def blk_mq_alloc_tag_set(kernel: Kernel, tag_set: BlkMqTagSet) -> None:
    """The numbers of a device's requests."""
    tag_set.nr_hw_queues = min(tag_set.nr_hw_queues, len(kernel.machine.cpus))
    tag_set.tags = [blk_mq_init_tags(tag_set.queue_depth) for _ in range(tag_set.nr_hw_queues)]


def blk_mq_init_queue(kernel: Kernel, tag_set: BlkMqTagSet) -> RequestQueue:
    """A queue for a driver with these operations."""
    q = blk_alloc_queue(kernel)
    return blk_mq_init_allocated_queue(tag_set, q)


def blk_mq_init_allocated_queue(tag_set: BlkMqTagSet, q: RequestQueue) -> RequestQueue:
    cpus = len(q.kernel.machine.cpus)
    q.mq_ops = tag_set.ops
    q.tag_set = tag_set
    q.queue_ctx = [BlkMqCtx(cpu, q) for cpu in range(cpus)]
    q.queue_hw_ctx = [BlkMqHwCtx(q, number, tag_set.tags[number]) for number in range(tag_set.nr_hw_queues)]
    q.nr_hw_queues = tag_set.nr_hw_queues
    for hctx in q.queue_hw_ctx:
        hctx.run_work = DelayedWork(blk_mq_run_work_fn, hctx)
        hctx.fq = BlkFlushQueue()
    blk_mq_map_swqueue(q)
    q.rq_timeout = tag_set.timeout or 30 * HZ
    q.timeout = TimerList(blk_rq_timed_out_timer, q)
    q.timeout_work = WorkStruct(blk_mq_timeout_work, q)
    q.requeue_work = DelayedWork(blk_mq_requeue_work, q)
    q.queue_flags |= QUEUE_FLAG_MQ_DEFAULT
    q.make_request_fn = blk_mq_make_request
    q.nr_requests = tag_set.queue_depth
    tag_set.tag_list.append(q)
    if not tag_set.no_sched:
        elevator_init_mq(q)
    return q


def blk_mq_map_swqueue(q: RequestQueue) -> None:
    """Which CPU's software queue feeds which hardware queue: neighbours share one."""
    cpus = len(q.queue_ctx)
    for ctx in q.queue_ctx:
        hctx = q.queue_hw_ctx[ctx.cpu * q.nr_hw_queues // cpus]
        ctx.hctx = hctx
        ctx.index_hw = len(hctx.ctxs)
        hctx.ctxs.append(ctx)
        hctx.cpumask.append(ctx.cpu)


@may_sleep
def blk_mq_update_nr_requests(q: RequestQueue, nr: int) -> None:
    """queue/nr_requests: how many requests may be allocated at once."""
    blk_mq_freeze_queue(q)
    for hctx in q.queue_hw_ctx:
        if hctx.sched_tags is not None:
            blk_mq_tag_update_depth(hctx.sched_tags, nr)
            e = q.elevator
            if e is not None and e.type.depth_updated is not None:
                e.type.depth_updated(hctx)
        else:
            blk_mq_tag_update_depth(hctx.tags, min(nr, hctx.tags.nr_tags))
    q.nr_requests = nr
    blk_mq_unfreeze_queue(q)


@may_sleep
def blk_cleanup_queue(q: RequestQueue) -> None:
    """The device is gone: who still submits gets an error."""
    q.queue_flags |= 2                         # QUEUE_FLAG_DYING
    blk_mq_freeze_queue(q)
    q.queue_flags |= 1 << 13                   # QUEUE_FLAG_DEAD
    if q.tag_set is not None and q in q.tag_set.tag_list:
        q.tag_set.tag_list.remove(q)
