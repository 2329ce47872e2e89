"""From the queues to the driver, and back: running hardware queues, dispatching, completing, freeing requests.

Linux: the lower half of block/blk-mq.c, the dispatching half of block/blk-mq-sched.c, block/blk-softirq.c,
    block/blk-timeout.c (5.3). Same: a queue runs on one of its CPUs, or in kblockd; what the driver cannot take stays
    in hctx.dispatch and goes first; a scheduler hands out one request at a time; completions end in the BLOCK softirq.
Differs: every CPU shares a cache with the others, so a completion stays on the CPU that took the interrupt.
Owns: hctx.dispatch, ctx.rq_list, hctx.ctx_map, the driver tags, q.requeue_list, kernel.block.blk_cpu_done.
Invariants: a request is in exactly one place: plug, scheduler, software queue, hctx.dispatch, requeue_list, or the
    driver.
Context: any, unless it says otherwise.
Gaps: polling, shared tag sets, BLK_MQ_F_BLOCKING runs in the caller's context.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.blk_core import blk_account_io_done, blk_queue_exit, blk_update_request
from glasskernel.block.blk_mq_tag import __blk_mq_get_tag, blk_mq_put_tag, blk_mq_tags_busy
from glasskernel.block.blk_types import (
    BLK_MQ_S_SCHED_RESTART,
    BLK_MQ_S_STOPPED,
    BLK_STS_DEV_RESOURCE,
    BLK_STS_IOERR,
    BLK_STS_OK,
    BLK_STS_RESOURCE,
    MQ_RQ_COMPLETE,
    MQ_RQ_IDLE,
    MQ_RQ_IN_FLIGHT,
    QUEUE_FLAG_QUIESCED,
    RQF_ELVPRIV,
    RQF_FLUSH_SEQ,
    RQF_SOFTBARRIER,
    RQF_SORTED,
    RQF_TIMED_OUT,
    BlkMqCtx,
    BlkMqHwCtx,
    Request,
    RequestQueue,
    op_is_sync,
)
from glasskernel.kernel.current import register
from glasskernel.kernel.irq.irqdesc import BLOCK_SOFTIRQ
from glasskernel.kernel.softirq import open_softirq, raise_softirq_irqoff
from glasskernel.kernel.time.timekeeping import jiffies, ktime_get, msecs_to_jiffies
from glasskernel.kernel.time.timer import mod_timer, timer_pending
from glasskernel.kernel.workqueue import WORK_CPU_UNBOUND, mod_delayed_work_on, queue_work_on
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.time.types import TimerList
    from glasskernel.kernel.workqueue import DelayedWork, WorkStruct

BLK_MQ_RESOURCE_DELAY = 3                      # ms
BLK_MQ_DISPATCH_BUSY_EWMA_WEIGHT, BLK_MQ_DISPATCH_BUSY_EWMA_FACTOR = 8, 4


# ---- kblockd ------------------------------------------------------------------------------------------------
def kblockd_schedule_work(q: RequestQueue, work: WorkStruct) -> bool:
    return queue_work_on(WORK_CPU_UNBOUND, q.kernel.block.kblockd_workqueue, work)


def kblockd_mod_delayed_work_on(q: RequestQueue, cpu: int, dwork: DelayedWork, delay: int) -> bool:
    return mod_delayed_work_on(cpu, q.kernel.block.kblockd_workqueue, dwork, delay)


# ---- running a hardware queue ---------------------------------------------------------------------------------
@notrace
def blk_mq_hctx_has_pending(hctx: BlkMqHwCtx) -> bool:
    if hctx.dispatch or hctx.ctx_map:
        return True
    return blk_mq_sched_has_work(hctx)


@notrace
def blk_mq_sched_has_work(hctx: BlkMqHwCtx) -> bool:
    e = hctx.queue.elevator
    return e is not None and e.type.has_work(hctx)


def blk_mq_run_hw_queue(hctx: BlkMqHwCtx, async_: bool) -> bool:
    """Dispatches what the queue has: now, or (async_, or from a foreign CPU) in kblockd. False: nothing to do."""
    if hctx.queue.queue_flags & QUEUE_FLAG_QUIESCED or not blk_mq_hctx_has_pending(hctx):
        return False
    __blk_mq_delay_run_hw_queue(hctx, async_, 0)
    return True


def __blk_mq_delay_run_hw_queue(hctx: BlkMqHwCtx, async_: bool, msecs: int) -> None:
    if hctx.state & BLK_MQ_S_STOPPED:
        return
    tag_set = hctx.queue.tag_set
    if not async_ and not (tag_set is not None and tag_set.blocking) and register.task.cpu in hctx.cpumask:
        __blk_mq_run_hw_queue(hctx)
        return
    kblockd_mod_delayed_work_on(hctx.queue, blk_mq_hctx_next_cpu(hctx), hctx.run_work, msecs_to_jiffies(msecs))


@notrace
def blk_mq_hctx_next_cpu(hctx: BlkMqHwCtx) -> int:
    """This CPU if it may, else the CPUs of the queue in turns."""
    if register.task.cpu in hctx.cpumask:
        return register.task.cpu
    hctx.next_cpu = (hctx.next_cpu + 1) % len(hctx.cpumask)
    return hctx.cpumask[hctx.next_cpu]


def blk_mq_delay_run_hw_queue(hctx: BlkMqHwCtx, msecs: int) -> None:
    __blk_mq_delay_run_hw_queue(hctx, True, msecs)


def blk_mq_run_hw_queues(q: RequestQueue, async_: bool) -> None:
    for hctx in q.queue_hw_ctx:
        if not hctx.state & BLK_MQ_S_STOPPED:
            blk_mq_run_hw_queue(hctx, async_)


def blk_mq_run_work_fn(work: WorkStruct) -> None:
    """hctx.run_work, in kblockd."""
    __blk_mq_run_hw_queue(work.data)


def __blk_mq_run_hw_queue(hctx: BlkMqHwCtx) -> None:
    if not hctx.queue.queue_flags & QUEUE_FLAG_QUIESCED:
        blk_mq_sched_dispatch_requests(hctx)


# ---- choosing (block/blk-mq-sched.c) ----------------------------------------------------------------------------
def blk_mq_sched_mark_restart_hctx(hctx: BlkMqHwCtx) -> None:
    """Whoever frees a request runs this queue again."""
    hctx.state |= BLK_MQ_S_SCHED_RESTART


def blk_mq_sched_restart(hctx: BlkMqHwCtx) -> None:
    if hctx.state & BLK_MQ_S_SCHED_RESTART:
        hctx.state &= ~BLK_MQ_S_SCHED_RESTART
        blk_mq_run_hw_queue(hctx, True)


def blk_mq_sched_dispatch_requests(hctx: BlkMqHwCtx) -> None:
    """Hands the driver what there is: left-overs first, then the scheduler's choice or the software queues."""
    q = hctx.queue
    e = q.elevator
    hctx.run += 1
    rq_list: list[Request] = []
    if hctx.dispatch:
        rq_list, hctx.dispatch = hctx.dispatch, []
    if rq_list:
        blk_mq_sched_mark_restart_hctx(hctx)
        if blk_mq_dispatch_rq_list(q, rq_list, False):
            if e is not None:
                blk_mq_do_dispatch_sched(hctx)
            else:
                blk_mq_do_dispatch_ctx(hctx)
    elif e is not None:
        blk_mq_do_dispatch_sched(hctx)
    elif hctx.dispatch_busy:
        blk_mq_do_dispatch_ctx(hctx)
    else:
        blk_mq_flush_busy_ctxs(hctx, rq_list)
        blk_mq_dispatch_rq_list(q, rq_list, False)


def blk_mq_do_dispatch_sched(hctx: BlkMqHwCtx) -> None:
    """One request after the other from the scheduler, as long as the device takes them."""
    q = hctx.queue
    e = q.elevator
    assert e is not None
    while True:
        if not e.type.has_work(hctx) or not blk_mq_get_dispatch_budget(hctx):
            return
        rq = e.type.dispatch_request(hctx)
        if rq is None:
            blk_mq_put_dispatch_budget(hctx)
            return
        if not blk_mq_dispatch_rq_list(q, [rq], True):
            return


def blk_mq_do_dispatch_ctx(hctx: BlkMqHwCtx) -> None:
    """The device is busy often: the software queues in turns, one request each, so that the others can merge."""
    ctx = hctx.dispatch_from or hctx.ctxs[0]
    while hctx.ctx_map and blk_mq_get_dispatch_budget(hctx):
        rq = blk_mq_dequeue_from_ctx(hctx, ctx)
        if rq is None:
            blk_mq_put_dispatch_budget(hctx)
            break
        ctx = hctx.ctxs[(rq.mq_ctx.index_hw + 1) % len(hctx.ctxs)]
        if not blk_mq_dispatch_rq_list(hctx.queue, [rq], True):
            break
    hctx.dispatch_from = ctx


def blk_mq_dequeue_from_ctx(hctx: BlkMqHwCtx, start: BlkMqCtx) -> Request | None:
    """The first request of the next software queue that has one."""
    count = len(hctx.ctxs)
    for step in range(count):
        ctx = hctx.ctxs[(start.index_hw + step) % count]
        if ctx.rq_list:
            rq = ctx.rq_list.popleft()
            if not ctx.rq_list:
                hctx.ctx_map &= ~(1 << ctx.index_hw)
            return rq
    return None


def blk_mq_flush_busy_ctxs(hctx: BlkMqHwCtx, rq_list: list[Request]) -> None:
    """Everything that the software queues have."""
    for ctx in hctx.ctxs:
        if hctx.ctx_map >> ctx.index_hw & 1:
            rq_list.extend(ctx.rq_list)
            ctx.rq_list.clear()
    hctx.ctx_map = 0


# ---- dispatching ------------------------------------------------------------------------------------------------
@notrace
def blk_mq_get_dispatch_budget(hctx: BlkMqHwCtx) -> bool:
    ops = hctx.queue.mq_ops
    assert ops is not None
    return ops.get_budget is None or ops.get_budget(hctx)


@notrace
def blk_mq_put_dispatch_budget(hctx: BlkMqHwCtx) -> None:
    ops = hctx.queue.mq_ops
    assert ops is not None
    if ops.put_budget is not None:
        ops.put_budget(hctx)


def blk_mq_get_driver_tag(rq: Request) -> bool:
    """The number under which the driver knows the request. False: all are in use."""
    if rq.tag < 0:
        tags = rq.mq_hctx.tags
        rq.tag = __blk_mq_get_tag(tags)
        if rq.tag < 0:
            return False
        tags.rqs[rq.tag] = rq
    return True


@notrace
def blk_mq_put_driver_tag(rq: Request) -> None:
    """Only with a scheduler: else the number belongs to the request for its whole life."""
    if rq.tag >= 0 and rq.internal_tag >= 0:
        blk_mq_put_tag(rq.mq_hctx.tags, rq.tag)
        rq.tag = -1


@notrace
def blk_mq_mark_tag_wait(hctx: BlkMqHwCtx, rq: Request) -> bool:
    """No driver tag is left: the next completion runs the queue again. True: there is one after all."""
    blk_mq_sched_mark_restart_hctx(hctx)
    return blk_mq_get_driver_tag(rq)


@notrace
def blk_mq_update_dispatch_busy(hctx: BlkMqHwCtx, busy: bool) -> None:
    """A moving average of how often the driver said that it is busy."""
    if hctx.queue.elevator is not None:
        return
    ewma = hctx.dispatch_busy
    if not ewma and not busy:
        return
    ewma *= BLK_MQ_DISPATCH_BUSY_EWMA_WEIGHT - 1
    if busy:
        ewma += 1 << BLK_MQ_DISPATCH_BUSY_EWMA_FACTOR
    hctx.dispatch_busy = ewma // BLK_MQ_DISPATCH_BUSY_EWMA_WEIGHT


def blk_mq_dispatch_rq_list(q: RequestQueue, rq_list: list[Request], got_budget: bool) -> bool:
    """Hands requests to the driver. False: it is busy now; the rest is in hctx.dispatch. True: something went out."""
    if not rq_list:
        return False
    ops = q.mq_ops
    assert ops is not None
    queued = errors = 0
    ret = BLK_STS_OK
    no_tag = False
    hctx = rq_list[0].mq_hctx
    while rq_list:
        rq = rq_list[0]
        hctx = rq.mq_hctx
        if not got_budget and not blk_mq_get_dispatch_budget(hctx):
            break
        if not blk_mq_get_driver_tag(rq) and not blk_mq_mark_tag_wait(hctx, rq):
            blk_mq_put_dispatch_budget(hctx)
            no_tag = True
            break
        got_budget = False
        rq_list.pop(0)
        ret = ops.queue_rq(hctx, rq, not rq_list)
        if ret in (BLK_STS_RESOURCE, BLK_STS_DEV_RESOURCE):
            if rq_list:
                blk_mq_put_driver_tag(rq_list[0])
            rq_list.insert(0, rq)
            __blk_mq_requeue_request(rq)
            break
        if ret != BLK_STS_OK:
            errors += 1
            blk_mq_end_request(rq, BLK_STS_IOERR)
            continue
        queued += 1
    if rq_list:
        if ops.commit_rqs is not None:
            ops.commit_rqs(hctx)
        hctx.dispatch[:0] = rq_list
        needs_restart = bool(hctx.state & BLK_MQ_S_SCHED_RESTART)
        if not needs_restart and not no_tag:
            blk_mq_run_hw_queue(hctx, True)
        elif needs_restart and ret == BLK_STS_RESOURCE:
            blk_mq_delay_run_hw_queue(hctx, BLK_MQ_RESOURCE_DELAY)
        blk_mq_update_dispatch_busy(hctx, True)
        return False
    blk_mq_update_dispatch_busy(hctx, False)
    if ret in (BLK_STS_RESOURCE, BLK_STS_DEV_RESOURCE):
        return False
    return queued + errors > 0


def blk_mq_start_request(rq: Request) -> None:
    """The driver begins with it. Called by queue_rq()."""
    probe = rq.q.kernel.tp.block_rq_issue
    if probe is not None:
        probe(rq.q, rq)
    rq.io_start_time_ns = ktime_get()
    assert rq.state == MQ_RQ_IDLE
    blk_add_timer(rq)
    rq.state = MQ_RQ_IN_FLIGHT


# ---- requeueing ---------------------------------------------------------------------------------------------------
def __blk_mq_requeue_request(rq: Request) -> None:
    blk_mq_put_driver_tag(rq)
    probe = rq.q.kernel.tp.block_rq_requeue
    if probe is not None:
        probe(rq.q, rq)
    if rq.state != MQ_RQ_IDLE:
        rq.state = MQ_RQ_IDLE
        rq.rq_flags &= ~RQF_TIMED_OUT


@notrace
def blk_mq_sched_requeue_request(rq: Request) -> None:
    e = rq.q.elevator
    if e is not None and e.type.requeue_request is not None:
        e.type.requeue_request(rq)


def blk_mq_requeue_request(rq: Request, kick_requeue_list: bool) -> None:
    """The driver gives a started request back: it shall be tried again."""
    __blk_mq_requeue_request(rq)
    blk_mq_sched_requeue_request(rq)
    blk_mq_add_to_requeue_list(rq, True, kick_requeue_list)


def blk_mq_add_to_requeue_list(rq: Request, at_head: bool, kick_requeue_list: bool) -> None:
    q = rq.q
    if at_head:
        rq.rq_flags |= RQF_SOFTBARRIER
        q.requeue_list.insert(0, (rq, True))
    else:
        q.requeue_list.append((rq, False))
    if kick_requeue_list:
        blk_mq_kick_requeue_list(q)


def blk_mq_kick_requeue_list(q: RequestQueue) -> None:
    kblockd_mod_delayed_work_on(q, WORK_CPU_UNBOUND, q.requeue_work, 0)


# ---- inserting into software queues --------------------------------------------------------------------------------
def __blk_mq_insert_request(hctx: BlkMqHwCtx, rq: Request, at_head: bool) -> None:
    __blk_mq_insert_req_list(hctx, rq, at_head)
    hctx.ctx_map |= 1 << rq.mq_ctx.index_hw    # blk_mq_hctx_mark_pending()


@notrace
def __blk_mq_insert_req_list(hctx: BlkMqHwCtx, rq: Request, at_head: bool) -> None:
    probe = hctx.queue.kernel.tp.block_rq_insert
    if probe is not None:
        probe(hctx.queue, rq)
    if at_head:
        rq.mq_ctx.rq_list.appendleft(rq)
    else:
        rq.mq_ctx.rq_list.append(rq)


def blk_mq_insert_requests(hctx: BlkMqHwCtx, ctx: BlkMqCtx, rq_list: list[Request]) -> None:
    probe = hctx.queue.kernel.tp.block_rq_insert
    if probe is not None:
        for rq in rq_list:
            probe(hctx.queue, rq)
    ctx.rq_list.extend(rq_list)
    hctx.ctx_map |= 1 << ctx.index_hw


def blk_mq_request_bypass_insert(rq: Request, run_queue: bool) -> None:
    """Straight to the dispatch list: flushes, and what the driver could not take directly."""
    hctx = rq.mq_hctx
    hctx.dispatch.append(rq)
    if run_queue:
        blk_mq_run_hw_queue(hctx, False)


@notrace
def blk_mq_sched_bypass_insert(hctx: BlkMqHwCtx, has_sched: bool, rq: Request) -> bool:
    """True if the request does not concern the scheduler: a part of a flush sequence."""
    if rq.rq_flags & RQF_FLUSH_SEQ:
        hctx.dispatch.insert(0, rq)
        return True
    if has_sched:
        rq.rq_flags |= RQF_SORTED
    return False


# ---- the end --------------------------------------------------------------------------------------------------------
def blk_mq_complete_request(rq: Request) -> None:
    """The driver is done with a request; its ->complete() runs in the BLOCK softirq. Context: irq."""
    if rq.state == MQ_RQ_IN_FLIGHT:
        __blk_mq_complete_request(rq)


def __blk_mq_complete_request(rq: Request) -> None:
    rq.state = MQ_RQ_COMPLETE
    __blk_complete_request(rq)


def __blk_complete_request(req: Request) -> None:
    task = register.task
    done = task.kernel.block.blk_cpu_done[task.cpu]
    done.append(req)
    if len(done) == 1:
        raise_softirq_irqoff(BLOCK_SOFTIRQ)


def blk_done_softirq(kernel: Kernel) -> None:
    """BLOCK_SOFTIRQ"""
    cpu = register.task.cpu
    done = kernel.block.blk_cpu_done[cpu]
    kernel.block.blk_cpu_done[cpu] = []
    for rq in done:
        ops = rq.q.mq_ops
        assert ops is not None and ops.complete is not None
        ops.complete(rq)


def blk_mq_hctx_notify_dead(kernel: Kernel, cpu: int) -> None:
    """A CPU is gone: what lies in its software queues is dispatched by others. Context: task, on another CPU."""
    for disk in kernel.block.disks:
        q = disk.queue
        if q is None or cpu >= len(q.queue_ctx):
            continue
        ctx = q.queue_ctx[cpu]
        if ctx.rq_list:
            hctx = ctx.hctx
            hctx.dispatch.extend(ctx.rq_list)
            ctx.rq_list.clear()
            hctx.ctx_map &= ~(1 << ctx.index_hw)
            blk_mq_run_hw_queue(hctx, True)


def blk_softirq_cpu_dead(kernel: Kernel, cpu: int) -> None:
    """A CPU is gone: what it has not completed yet is completed here. Context: task, on another CPU."""
    dead = kernel.block.blk_cpu_done[cpu]
    if dead:
        kernel.block.blk_cpu_done[register.task.cpu] += dead
        kernel.block.blk_cpu_done[cpu] = []
        raise_softirq_irqoff(BLOCK_SOFTIRQ)


@notrace
def blk_softirq_init(kernel: Kernel) -> None:
    open_softirq(kernel, BLOCK_SOFTIRQ, blk_done_softirq)


def blk_mq_end_request(rq: Request, error: int) -> None:
    """The whole request is done: its bios end, the request is free."""
    left = blk_update_request(rq, error, rq.data_len)
    assert not left
    __blk_mq_end_request(rq, error)


@notrace
def blk_mq_sched_completed_request(rq: Request, now_ns: int) -> None:
    e = rq.q.elevator
    if e is not None and e.type.completed_request is not None:
        e.type.completed_request(rq, now_ns)


def __blk_mq_end_request(rq: Request, error: int) -> None:
    now = ktime_get()
    if rq.internal_tag >= 0:
        blk_mq_sched_completed_request(rq, now)
    blk_account_io_done(rq, now)
    if rq.end_io is not None:
        rq.end_io(rq, error)
    else:
        blk_mq_free_request(rq)


def blk_mq_free_request(rq: Request) -> None:
    """The request's numbers are free for others."""
    q = rq.q
    e = q.elevator
    if rq.rq_flags & RQF_ELVPRIV and e is not None and e.type.finish_request is not None:
        e.type.finish_request(rq)
        rq.elv_icq = None
    rq.mq_ctx.rq_completed[op_is_sync(rq.cmd_flags)] += 1
    rq.state = MQ_RQ_IDLE
    __blk_mq_free_request(rq)


def __blk_mq_free_request(rq: Request) -> None:
    hctx = rq.mq_hctx
    if rq.tag >= 0:
        blk_mq_put_tag(hctx.tags, rq.tag)
    if rq.internal_tag >= 0:
        assert hctx.sched_tags is not None
        blk_mq_put_tag(hctx.sched_tags, rq.internal_tag)
    rq.tag = rq.internal_tag = -1
    blk_mq_sched_restart(hctx)
    blk_queue_exit(rq.q)


# ---- timeouts (block/blk-timeout.c) --------------------------------------------------------------------------------
def blk_add_timer(req: Request) -> None:
    """The driver has q.rq_timeout jiffies from now."""
    q = req.q
    if not req.timeout:
        req.timeout = q.rq_timeout
    req.rq_flags &= ~RQF_TIMED_OUT
    req.deadline = expiry = jiffies() + req.timeout
    if not timer_pending(q.timeout) or expiry < q.timeout.expires - 125:
        mod_timer(q.timeout, expiry)


def blk_rq_timed_out_timer(t: TimerList) -> None:
    q: RequestQueue = t.data
    kblockd_schedule_work(q, q.timeout_work)


@notrace
def blk_mq_rq_timed_out(req: Request) -> None:
    req.rq_flags |= RQF_TIMED_OUT
    ops = req.q.mq_ops
    assert ops is not None
    if ops.timeout is not None and ops.timeout(req):
        return
    blk_add_timer(req)


def blk_mq_timeout_work(work: WorkStruct) -> None:
    """Looks for requests that take too long. Context: kblockd."""
    q: RequestQueue = work.data
    now = jiffies()
    next_ = 0
    for hctx in q.queue_hw_ctx:
        for rq in blk_mq_tags_busy(hctx.tags):
            if rq.state != MQ_RQ_IN_FLIGHT or rq.rq_flags & RQF_TIMED_OUT:
                continue
            if rq.deadline <= now:
                blk_mq_rq_timed_out(rq)
            elif not next_ or rq.deadline < next_:
                next_ = rq.deadline
    if next_:
        mod_timer(q.timeout, next_)
