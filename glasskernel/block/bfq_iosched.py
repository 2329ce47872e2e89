"""BFQ: every process gets its share of the device, and interactive ones get it soon.

Linux: block/bfq-iosched.c (5.3). Same: one queue for each process (synchronous) and one for each priority
    (asynchronous); a queue in service is served alone until its budget or its time is used up, and the device is kept
    idle for a moment when it might send the next request; budgets adapt; weights come from I/O priorities, and are
    raised thirty times for processes that have just begun or rarely read.
Gaps: cgroups, merging of cooperating queues, bursts, soft real-time detection, injection, peak-rate estimation (budgets
    grow and shrink between fixed bounds).
Owns: BfqData (e.elevator_data), IoCq.data. Context: any.
Invariants: in_service_queue is in no tree; a queue with requests is active or in service.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.bfq_wf2q import (
    BfqQueue,
    BfqServiceTree,
    bfq_activate_entity,
    bfq_bfqq_charge_time,
    bfq_bfqq_served,
    bfq_deactivate_entity,
    bfq_entity_service_tree,
    bfq_get_next_queue,
    bfq_ioprio_to_weight,
    bfq_requeue_entity,
)
from glasskernel.block.blk_merge import ELEVATOR_FRONT_MERGE, ELEVATOR_NO_MERGE, rq_mergeable
from glasskernel.block.blk_mq_dispatch import blk_mq_free_request, blk_mq_run_hw_queues
from glasskernel.block.blk_mq_sched import blk_mq_sched_try_insert_merge, blk_mq_sched_try_merge
from glasskernel.block.blk_types import (
    QUEUE_FLAG_NONROT,
    REQ_META,
    RQF_STARTED,
    Bio,
    BlkMqHwCtx,
    ElevatorQueue,
    ElevatorType,
    ElvFsEntry,
    Request,
    RequestQueue,
    op_is_sync,
)
from glasskernel.block.elevator import (
    elv_bio_merge_ok,
    elv_rb_add,
    elv_rb_del,
    elv_rb_find,
    elv_rb_from,
    elv_rb_neighbour,
    elv_rqhash_add,
    elv_rqhash_del,
)
from glasskernel.block.mq_deadline import parse_int
from glasskernel.kernel.current import register
from glasskernel.kernel.time.hrtimer import hrtimer_init, hrtimer_start, hrtimer_try_to_cancel
from glasskernel.kernel.time.timekeeping import jiffies, ktime_get
from glasskernel.kernel.time.types import CLOCK_MONOTONIC, HRTIMER_MODE_REL, HRTIMER_NORESTART, HZ, Hrtimer
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from collections.abc import Callable

    from glasskernel.block.blk_mq_sched import IoCq

BFQ_SLICE_IDLE_NS = 8_000_000
BFQ_DEFAULT_MAX_BUDGET = 16 * 1024             # sectors
BFQ_MIN_TT = 2_000_000                         # ns
BFQQ_SEEK_THR = 8 * 100                        # sectors
BFQ_RATE_MIN_BUDGET = 32
(BFQQE_TOO_IDLE, BFQQE_BUDGET_TIMEOUT, BFQQE_BUDGET_EXHAUSTED, BFQQE_NO_MORE_REQUESTS, BFQQE_PREEMPTED) = range(5)
IOPRIO_CLASS_RT, IOPRIO_CLASS_BE, IOPRIO_CLASS_IDLE, IOPRIO_NORM = 1, 2, 3, 4


@slotted
class BfqData:
    """struct bfq_data"""

    queue: RequestQueue
    trees: list[BfqServiceTree] = field(default_factory=lambda: [BfqServiceTree() for _ in range(3)])
    async_bfqq: dict[tuple[int, int], BfqQueue] = field(default_factory=dict)    # by (class, ioprio)
    in_service_queue: BfqQueue | None = None
    queued: int = 0
    rq_in_driver: int = 0
    dispatch: list[Request] = field(default_factory=list)
    last_position: int = 0
    idle_slice_timer: Hrtimer = field(default_factory=Hrtimer)
    busy_queues: int = 0
    # tunables
    bfq_fifo_expire: list[int] = field(default_factory=lambda: [HZ // 4, HZ // 8])          # async, sync; jiffies
    bfq_back_max: int = 16 * 1024              # KB
    bfq_back_penalty: int = 2
    bfq_slice_idle: int = BFQ_SLICE_IDLE_NS
    bfq_max_budget: int = BFQ_DEFAULT_MAX_BUDGET
    bfq_user_max_budget: int = 0
    bfq_timeout: int = HZ // 8
    strict_guarantees: bool = False
    low_latency: bool = True
    bfq_wr_coeff: int = 30
    bfq_wr_min_idle_time: int = 2 * HZ
    bfq_wr_max_time: int = 6 * HZ


@notrace
def _bfqd(q: RequestQueue) -> BfqData:
    assert q.elevator is not None
    bfqd: BfqData = q.elevator.elevator_data
    return bfqd


@notrace
def _bfqq(rq: Request) -> BfqQueue:
    bfqq: BfqQueue = rq.elv_priv
    return bfqq


@notrace
def bfq_bfqq_seeky(bfqq: BfqQueue) -> bool:
    return bfqq.seek_history.bit_count() > 19


# ---- which request of a queue ---------------------------------------------------------------------------------
def bfq_choose_req(bfqd: BfqData, rq1: Request | None, rq2: Request | None, last: int) -> Request | None:
    """The nearer one to the head; synchronous and metadata first, and a step back costs more."""
    if rq1 is None or rq1 is rq2:
        return rq2
    if rq2 is None:
        return rq1
    if op_is_sync(rq1.cmd_flags) != op_is_sync(rq2.cmd_flags):
        return rq1 if op_is_sync(rq1.cmd_flags) else rq2
    if (rq1.cmd_flags ^ rq2.cmd_flags) & REQ_META:
        return rq1 if rq1.cmd_flags & REQ_META else rq2
    distances: list[int | None] = []
    for sector in (rq1.sector, rq2.sector):
        if sector >= last:
            distances.append(sector - last)
        elif sector + bfqd.bfq_back_max * 2 >= last:
            distances.append((last - sector) * bfqd.bfq_back_penalty)
        else:
            distances.append(None)             # behind the head by more than back_seek_max: a wrap
    d1, d2 = distances
    if d1 is not None and d2 is not None:
        if d1 != d2:
            return rq1 if d1 < d2 else rq2
        return rq1 if rq1.sector >= rq2.sector else rq2
    if d1 is None and d2 is None:
        return rq1 if rq1.sector <= rq2.sector else rq2
    return rq1 if d2 is None else rq2


def bfq_find_next_rq(bfqd: BfqData, bfqq: BfqQueue, last: Request) -> Request | None:
    """What follows `last`, which is about to leave."""
    rq = bfq_check_fifo(bfqq, last)
    if rq is not None:
        return rq
    end = last.sector + (last.data_len >> 9)
    after = elv_rb_neighbour(bfqq.sort_list, last, 1)
    before = elv_rb_neighbour(bfqq.sort_list, last, -1)
    if after is None and before is not None:
        first = elv_rb_from(bfqq.sort_list, 0)
        after = first if first is not last else None
    return bfq_choose_req(bfqd, after, before, end)


def bfq_check_fifo(bfqq: BfqQueue, last: Request) -> Request | None:
    """The oldest request, once in a slot, if it has waited too long."""
    if bfqq.fifo_expire or not bfqq.fifo:
        return None
    bfqq.fifo_expire = True
    rq = bfqq.fifo[0]
    return None if rq is last or ktime_get() < rq.fifo_time else rq


# ---- queues of tasks --------------------------------------------------------------------------------------------
def bfq_get_queue(bfqd: BfqData, ioprio: int, is_sync: bool) -> BfqQueue:
    """A new queue for a process, or the one for asynchronous requests of a priority."""
    ioprio_class, level = ioprio >> 13, ioprio & 0x1FFF
    if not ioprio_class:
        nice = (register.task.static_prio - 120 + 20) // 5             # task_nice_ioprio()
        ioprio_class, level = IOPRIO_CLASS_BE, nice
    if ioprio_class == IOPRIO_CLASS_IDLE:
        level = 7
    if not is_sync:
        existing = bfqd.async_bfqq.get((ioprio_class, level))
        if existing is not None:
            return existing
    bfqq = bfq_init_bfqq(bfqd, ioprio_class, level, is_sync)
    if not is_sync:
        bfqd.async_bfqq[(ioprio_class, level)] = bfqq
    return bfqq


def bfq_init_bfqq(bfqd: BfqData, ioprio_class: int, ioprio: int, is_sync: bool) -> BfqQueue:
    task = register.task
    bfqq = BfqQueue(task.pid if is_sync else 0, is_sync, ioprio, ioprio_class,
                    bfq_entity_service_tree(bfqd.trees, ioprio_class))
    bfqq.weight = bfqq.orig_weight = bfq_ioprio_to_weight(ioprio)
    bfqq.max_budget = 2 * bfqd.bfq_max_budget // 3
    bfqq.seek_history = 1
    bfqq.ttime_last_end = ktime_get()
    bfqq.last_idle = jiffies()
    return bfqq


def bfq_check_ioprio_change(bfqd: BfqData, icq: IoCq) -> None:
    """ioprio_set(2) since the last request: another weight, perhaps another class."""
    queues: dict[bool, BfqQueue] = icq.data
    for is_sync, bfqq in list(queues.items()):
        wanted_class = icq.ioc.ioprio >> 13
        if not wanted_class or (bfqq.ioprio_class == wanted_class and bfqq.ioprio == icq.ioc.ioprio & 0x1FFF):
            continue
        if is_sync and bfqq.on_st != "active" and bfqq is not bfqd.in_service_queue:
            if bfqq.on_st == "idle":
                bfqq.st.idle.remove(bfqq)
                bfqq.on_st = ""
            bfqq.ioprio_class, bfqq.ioprio = (
                wanted_class,
                7 if wanted_class == IOPRIO_CLASS_IDLE else icq.ioc.ioprio & 0x1FFF,
            )
            bfqq.st = bfq_entity_service_tree(bfqd.trees, wanted_class)
            bfqq.orig_weight = bfq_ioprio_to_weight(bfqq.ioprio)
        elif not is_sync:
            del queues[False]


def bfq_init_rq(rq: Request) -> BfqQueue:
    """The queue that a request belongs to."""
    if rq.elv_priv is not None:
        return _bfqq(rq)
    bfqd = _bfqd(rq.q)
    icq: IoCq = rq.elv_icq
    if icq.data is None:
        icq.data = {}
    bfq_check_ioprio_change(bfqd, icq)
    is_sync = op_is_sync(rq.cmd_flags)
    bfqq: BfqQueue | None = icq.data.get(is_sync)
    if bfqq is None:
        bfqq = icq.data[is_sync] = bfq_get_queue(bfqd, icq.ioc.ioprio, is_sync)
    bfqq.ref += 1
    rq.elv_priv = bfqq
    return bfqq


# ---- inserting ----------------------------------------------------------------------------------------------------
def bfq_bio_merge(hctx: BlkMqHwCtx, bio: Bio, nr_segs: int) -> bool:
    merged, free = blk_mq_sched_try_merge(hctx.queue, bio, nr_segs)
    if free is not None:
        blk_mq_free_request(free)
    return merged


def bfq_request_merge(q: RequestQueue, bio: Bio) -> tuple[int, Request | None]:
    """Does the bio end where a request of this task begins?"""
    ioc = register.task.io_context
    icq = ioc.icqs.get(q) if ioc is not None else None
    bfqq = icq.data.get(op_is_sync(bio.bi_opf)) if icq is not None and icq.data else None
    if bfqq is not None:
        rq = elv_rb_find(bfqq.sort_list, bio.bi_sector + (bio.bi_size >> 9))
        if rq is not None and elv_bio_merge_ok(rq, bio):
            return ELEVATOR_FRONT_MERGE, rq
    return ELEVATOR_NO_MERGE, None


def bfq_allow_bio_merge(q: RequestQueue, rq: Request, bio: Bio) -> bool:
    """Only into requests of the same queue: others pay for their own."""
    if op_is_sync(bio.bi_opf) and not op_is_sync(rq.cmd_flags):
        return False
    ioc = register.task.io_context
    icq = ioc.icqs.get(q) if ioc is not None else None
    if icq is None or not icq.data:
        return False
    return icq.data.get(op_is_sync(bio.bi_opf)) is rq.elv_priv


def bfq_request_merged(q: RequestQueue, req: Request, type_: int) -> None:
    if type_ == ELEVATOR_FRONT_MERGE and req.elv_rb_key is not None:
        bfqq = _bfqq(req)
        elv_rb_del(bfqq.sort_list, req)
        elv_rb_add(bfqq.sort_list, req)
        bfqq.next_rq = bfq_choose_req(_bfqd(q), bfqq.next_rq, req, _bfqd(q).last_position)


def bfq_requests_merged(q: RequestQueue, rq: Request, next_: Request) -> None:
    if next_.elv_rb_key is None:
        return                                 # it was on its way in, and never got here
    bfqq, other = _bfqq(rq), _bfqq(next_)
    if bfqq is other and next_.fifo_time < rq.fifo_time and rq in bfqq.fifo and next_ in bfqq.fifo:
        bfqq.fifo.remove(rq)
        bfqq.fifo[bfqq.fifo.index(next_)] = rq
        rq.fifo_time = next_.fifo_time
    if other.next_rq is next_:
        other.next_rq = rq if bfqq is other else bfq_find_next_rq(_bfqd(q), other, next_)
    bfq_remove_request(q, next_)


def bfq_insert_requests(hctx: BlkMqHwCtx, requests: list[Request], at_head: bool) -> None:
    while requests:
        bfq_insert_request(hctx, requests.pop(0), at_head)


def bfq_insert_request(hctx: BlkMqHwCtx, rq: Request, at_head: bool) -> None:
    q = hctx.queue
    bfqd = _bfqd(q)
    if blk_mq_sched_try_insert_merge(q, rq):
        return
    probe = q.kernel.tp.block_rq_insert
    if probe is not None:
        probe(q, rq)
    if at_head or rq.elv_icq is None:
        if at_head:
            bfqd.dispatch.insert(0, rq)
        else:
            bfqd.dispatch.append(rq)
        return
    __bfq_insert_request(bfqd, rq)
    if rq_mergeable(rq):
        elv_rqhash_add(q, rq)
        if q.last_merge is None:
            q.last_merge = rq


def __bfq_insert_request(bfqd: BfqData, rq: Request) -> None:
    bfqq = bfq_init_rq(rq)
    bfq_update_io_thinktime(bfqd, bfqq)
    bfq_update_has_short_ttime(bfqd, bfqq)
    bfq_update_io_seektime(bfqq, rq)
    bfq_add_request(bfqd, bfqq, rq)
    rq.fifo_time = ktime_get() + bfqd.bfq_fifo_expire[bfqq.sync] * (1_000_000_000 // HZ)
    bfqq.fifo.append(rq)
    bfq_rq_enqueued(bfqd, bfqq, rq)


def bfq_add_request(bfqd: BfqData, bfqq: BfqQueue, rq: Request) -> None:
    bfqq.queued[op_is_sync(rq.cmd_flags)] += 1
    bfqd.queued += 1
    elv_rb_add(bfqq.sort_list, rq)
    bfqq.next_rq = bfq_choose_req(bfqd, bfqq.next_rq, rq, bfqd.last_position)
    if bfqq.on_st != "active" and bfqq is not bfqd.in_service_queue:
        bfq_bfqq_handle_idle_busy_switch(bfqd, bfqq)


def bfq_bfqq_handle_idle_busy_switch(bfqd: BfqData, bfqq: BfqQueue) -> None:
    """The queue was empty. A process that rarely reads, or has just begun, is interactive: it weighs more for a
    while.
    """
    now = jiffies()
    idle_for_long_time = now > bfqq.last_idle + bfqd.bfq_wr_min_idle_time
    interactive = bfqd.low_latency and bfqq.sync and (idle_for_long_time or bfqq.just_created)
    if interactive and bfqq.ioprio_class == IOPRIO_CLASS_BE:
        bfqq.wr_coeff = bfqd.bfq_wr_coeff
        bfqq.wr_cur_max_time = bfqd.bfq_wr_max_time
        bfqq.wr_start = now
    bfqq.just_created = False
    bfqq.budget = max(min(bfqq.max_budget, bfqd.bfq_max_budget), bfq_serv_to_charge(bfqq.next_rq))
    bfq_add_bfqq_busy(bfqd, bfqq)


def bfq_add_bfqq_busy(bfqd: BfqData, bfqq: BfqQueue) -> None:
    bfq_activate_entity(bfqq, bfqq.non_blocking_wait_rq)
    bfqq.non_blocking_wait_rq = False
    bfqd.busy_queues += 1


def bfq_del_bfqq_busy(bfqd: BfqData, bfqq: BfqQueue) -> None:
    bfq_deactivate_entity(bfqq)
    bfqd.busy_queues -= 1
    bfqq.last_idle = jiffies()


def bfq_rq_enqueued(bfqd: BfqData, bfqq: BfqQueue, rq: Request) -> None:
    """If the device was kept idle for this queue: was the request worth it?"""
    bfqq.last_request_pos = rq.sector + (rq.data_len >> 9)
    if bfqq is bfqd.in_service_queue and bfqq.wait_request:
        small_req = sum(bfqq.queued) == 1 and rq.data_len < 32 << 10
        budget_timeout = bfq_bfqq_budget_timeout(bfqq)
        if small_req and not budget_timeout and bfqd.rq_in_driver:
            return                             # it may grow
        bfqq.wait_request = False
        bfqq.non_blocking_wait_rq = True
        hrtimer_try_to_cancel(bfqd.idle_slice_timer)
        if budget_timeout:
            bfq_bfqq_expire(bfqd, bfqq, False, BFQQE_BUDGET_TIMEOUT)


# ---- habits ---------------------------------------------------------------------------------------------------------
def bfq_update_io_thinktime(bfqd: BfqData, bfqq: BfqQueue) -> None:
    elapsed = min(ktime_get() - bfqq.ttime_last_end, 2 * bfqd.bfq_slice_idle)
    bfqq.ttime_samples = (7 * bfqq.ttime_samples + 256) // 8
    bfqq.ttime_total = (7 * bfqq.ttime_total + 256 * elapsed) // 8


def bfq_update_has_short_ttime(bfqd: BfqData, bfqq: BfqQueue) -> None:
    """Will its next request come soon?"""
    if not bfqq.sync or bfqq.ioprio_class == IOPRIO_CLASS_IDLE or not bfqd.bfq_slice_idle:
        return
    mean = (bfqq.ttime_total + 128) // bfqq.ttime_samples if bfqq.ttime_samples else 0
    bfqq.has_short_ttime = not (bfqq.ttime_samples > 80 and mean > bfqd.bfq_slice_idle)


def bfq_update_io_seektime(bfqq: BfqQueue, rq: Request) -> None:
    distance = abs(rq.sector - bfqq.last_request_pos) if bfqq.last_request_pos else 0
    bfqq.seek_history = (bfqq.seek_history << 1 | (distance > BFQQ_SEEK_THR)) & 0xFFFFFFFF


# ---- leaving --------------------------------------------------------------------------------------------------------
def bfq_remove_request(q: RequestQueue, rq: Request) -> None:
    bfqd = _bfqd(q)
    bfqq = _bfqq(rq)
    if bfqq.next_rq is rq:
        bfqq.next_rq = bfq_find_next_rq(bfqd, bfqq, rq)
    if rq in bfqq.fifo:
        bfqq.fifo.remove(rq)
    bfqq.queued[op_is_sync(rq.cmd_flags)] -= 1
    bfqd.queued -= 1
    elv_rb_del(bfqq.sort_list, rq)
    elv_rqhash_del(q, rq)
    if q.last_merge is rq:
        q.last_merge = None
    if not bfqq.sort_list:
        bfqq.next_rq = None
        if bfqq.on_st == "active" and bfqq is not bfqd.in_service_queue:
            bfq_del_bfqq_busy(bfqd, bfqq)


def bfq_serv_to_charge(rq: Request | None) -> int:
    """Sectors that a request takes from the budget."""
    return rq.data_len >> 9 if rq is not None else 0


@notrace
def bfq_bfqq_budget_left(bfqq: BfqQueue) -> int:
    return bfqq.budget - bfqq.service


def bfq_bfqq_budget_timeout(bfqq: BfqQueue) -> bool:
    return bool(bfqq.budget_timeout) and jiffies() >= bfqq.budget_timeout


def bfq_set_budget_timeout(bfqd: BfqData, bfqq: BfqQueue) -> None:
    coeff = bfqq.weight // bfqq.orig_weight
    bfqq.budget_timeout = jiffies() + bfqd.bfq_timeout * coeff


def __bfq_set_in_service_queue(bfqd: BfqData, bfqq: BfqQueue) -> None:
    bfqq.fifo_expire = False
    bfqq.entity_start_ns = ktime_get()
    bfq_set_budget_timeout(bfqd, bfqq)
    bfqd.in_service_queue = bfqq


def bfq_set_in_service_queue(bfqd: BfqData) -> BfqQueue | None:
    bfqq = bfq_get_next_queue(bfqd.trees)
    if bfqq is not None:
        __bfq_set_in_service_queue(bfqd, bfqq)
    return bfqq


def bfq_update_wr_data(bfqd: BfqData, bfqq: BfqQueue) -> None:
    """The time of a raised weight is over."""
    if bfqq.wr_coeff > 1 and jiffies() > bfqq.wr_start + bfqq.wr_cur_max_time:
        bfqq.wr_coeff = 1


def __bfq_bfqq_recalc_budget(bfqd: BfqData, bfqq: BfqQueue, reason: int) -> None:
    """The next budget: larger for those who use it up quickly, smaller for those who leave the device idle."""
    budget = bfqq.max_budget
    min_budget = bfqd.bfq_max_budget // BFQ_RATE_MIN_BUDGET
    if bfqq.sync and bfqq.wr_coeff == 1:
        if reason == BFQQE_TOO_IDLE:
            budget = (
                min(budget * 2, bfqd.bfq_max_budget) if bfqq.dispatched else max(budget - 4 * min_budget, min_budget)
            )
        elif reason == BFQQE_BUDGET_TIMEOUT:
            budget = min(budget * 2, bfqd.bfq_max_budget)
        elif reason == BFQQE_BUDGET_EXHAUSTED:
            budget = min(budget * 4, bfqd.bfq_max_budget)
        elif reason == BFQQE_NO_MORE_REQUESTS:
            budget = max(bfqq.service, min_budget)
        else:
            return
    elif not bfqq.sync:
        budget = bfqd.bfq_max_budget           # asynchronous queues are fast
    bfqq.max_budget = budget
    next_rq = bfqq.next_rq
    bfqq.budget = max(budget, bfq_serv_to_charge(next_rq)) if next_rq is not None else budget


def bfq_bfqq_expire(bfqd: BfqData, bfqq: BfqQueue, compensate: bool, reason: int) -> None:
    """The slot of the queue in service is over."""
    elapsed_ms = (ktime_get() - bfqq.entity_start_ns) // 1_000_000
    timeout_ms = bfqd.bfq_timeout * 1000 // HZ
    slow = bfq_bfqq_seeky(bfqq) and elapsed_ms > 20
    if bfqq.wr_coeff == 1 and (
        slow or (reason == BFQQE_BUDGET_TIMEOUT and bfq_bfqq_budget_left(bfqq) >= bfqq.budget // 3)
    ):
        bfq_bfqq_charge_time(bfqq, bfqd.bfq_max_budget, elapsed_ms, timeout_ms)
    if reason == BFQQE_TOO_IDLE and bfqq.service <= 2 * bfqq.budget // 10:
        bfqq.IO_bound = False
    __bfq_bfqq_recalc_budget(bfqd, bfqq, reason)
    __bfq_bfqq_expire(bfqd, bfqq)


def __bfq_bfqq_expire(bfqd: BfqData, bfqq: BfqQueue) -> None:
    """Back into the trees, or out of them if it has no requests."""
    bfqq.wait_request = False
    bfqd.in_service_queue = None
    bfq_update_wr_data(bfqd, bfqq)
    if not bfqq.sort_list:
        if not bfqq.dispatched:
            bfqq.budget_timeout = jiffies()
        bfq_del_bfqq_busy(bfqd, bfqq)
    else:
        bfq_requeue_entity(bfqq)


# ---- idling ---------------------------------------------------------------------------------------------------------
def bfq_better_to_idle(bfqd: BfqData, bfqq: BfqQueue) -> bool:
    """Is it good to keep the device idle until this queue's next request?"""
    if bfqd.strict_guarantees:
        return True
    if not bfqd.bfq_slice_idle or not bfqq.sync or bfqq.ioprio_class == IOPRIO_CLASS_IDLE or not bfqq.has_short_ttime:
        return False
    if bfqq.wr_coeff > 1:
        return True
    rotational = not bfqd.queue.queue_flags & QUEUE_FLAG_NONROT
    if rotational:
        return not bfq_bfqq_seeky(bfqq) or bfq_asymmetric_scenario(bfqd)
    return bfq_asymmetric_scenario(bfqd)


def bfq_asymmetric_scenario(bfqd: BfqData) -> bool:
    """Queues of different weights or classes compete: only idling gives each its share."""
    weights = {e.weight for st in bfqd.trees for e in st.active}
    serving = bfqd.in_service_queue
    if serving is not None:
        weights.add(serving.weight)
    return len(weights) > 1 or sum(bool(st.active) for st in bfqd.trees) > 1


def bfq_bfqq_must_idle(bfqd: BfqData, bfqq: BfqQueue) -> bool:
    return not bfqq.sort_list and bfq_better_to_idle(bfqd, bfqq)


def bfq_arm_slice_timer(bfqd: BfqData, bfqq: BfqQueue) -> None:
    bfqq.wait_request = True
    sl = bfqd.bfq_slice_idle
    if bfq_bfqq_seeky(bfqq) and bfqq.wr_coeff == 1 and not bfq_asymmetric_scenario(bfqd):
        sl = min(sl, BFQ_MIN_TT)
    hrtimer_start(bfqd.idle_slice_timer, sl, HRTIMER_MODE_REL)


def bfq_idle_slice_timer(timer: Hrtimer) -> int:
    """The wait was in vain."""
    bfqd: BfqData = timer.data
    if bfqd.in_service_queue is not None:
        bfq_idle_slice_timer_body(bfqd, bfqd.in_service_queue)
    return HRTIMER_NORESTART


def bfq_idle_slice_timer_body(bfqd: BfqData, bfqq: BfqQueue) -> None:
    bfqq.wait_request = False
    if bfq_bfqq_budget_timeout(bfqq):
        bfq_bfqq_expire(bfqd, bfqq, True, BFQQE_BUDGET_TIMEOUT)
    elif not bfqq.queued[0] and not bfqq.queued[1]:
        bfq_bfqq_expire(bfqd, bfqq, True, BFQQE_TOO_IDLE)
    bfq_schedule_dispatch(bfqd)


def bfq_schedule_dispatch(bfqd: BfqData) -> None:
    if bfqd.queued:
        blk_mq_run_hw_queues(bfqd.queue, True)


# ---- dispatching ----------------------------------------------------------------------------------------------------
def bfq_select_queue(bfqd: BfqData) -> BfqQueue | None:
    """The queue to serve now; None: nothing, or the device waits for the queue in service."""
    bfqq = bfqd.in_service_queue
    if bfqq is not None:
        reason = BFQQE_BUDGET_TIMEOUT
        if not (bfq_bfqq_budget_timeout(bfqq) and not bfqq.wait_request and not bfq_bfqq_must_idle(bfqd, bfqq)):
            next_rq = bfqq.next_rq
            if next_rq is not None:
                if bfq_serv_to_charge(next_rq) <= bfq_bfqq_budget_left(bfqq):
                    if bfqq.wait_request:
                        bfqq.wait_request = False
                        hrtimer_try_to_cancel(bfqd.idle_slice_timer)
                    return bfqq
                reason = BFQQE_BUDGET_EXHAUSTED
            elif bfqq.wait_request or (bfqq.dispatched and bfq_better_to_idle(bfqd, bfqq)):
                return None
            else:
                reason = BFQQE_NO_MORE_REQUESTS
        bfq_bfqq_expire(bfqd, bfqq, False, reason)
    return bfq_set_in_service_queue(bfqd)


def bfq_dispatch_rq_from_bfqq(bfqd: BfqData, bfqq: BfqQueue) -> Request:
    rq = bfqq.next_rq
    assert rq is not None
    bfq_bfqq_served(bfqq, bfq_serv_to_charge(rq))
    bfqq.dispatched += 1
    bfq_remove_request(rq.q, rq)
    bfqd.last_position = rq.sector + (rq.data_len >> 9)
    bfq_update_wr_data(bfqd, bfqq)
    if bfqd.busy_queues > 1 and bfqq.ioprio_class == IOPRIO_CLASS_IDLE:
        bfq_bfqq_expire(bfqd, bfqq, False, BFQQE_BUDGET_EXHAUSTED)
    return rq


def bfq_has_work(hctx: BlkMqHwCtx) -> bool:
    bfqd = _bfqd(hctx.queue)
    return bool(bfqd.dispatch or bfqd.queued)


def __bfq_dispatch_request(bfqd: BfqData) -> Request | None:
    if bfqd.dispatch:
        return bfqd.dispatch.pop(0)
    if not bfqd.queued:
        return None
    if bfqd.strict_guarantees and bfqd.rq_in_driver > 0:
        return None
    bfqq = bfq_select_queue(bfqd)
    if bfqq is None:
        return None
    rq = bfq_dispatch_rq_from_bfqq(bfqd, bfqq)
    bfqd.rq_in_driver += 1
    rq.rq_flags |= RQF_STARTED
    return rq


def bfq_dispatch_request(hctx: BlkMqHwCtx) -> Request | None:
    """->dispatch_request()"""
    return __bfq_dispatch_request(_bfqd(hctx.queue))


# ---- completion -----------------------------------------------------------------------------------------------------
def bfq_prepare_request(rq: Request, bio: Bio | None) -> None:
    rq.elv_priv = None                         # which queue is decided when it is inserted


def bfq_completed_request(bfqq: BfqQueue, bfqd: BfqData) -> None:
    """One less under way. The queue in service is empty now: wait for its next request?"""
    bfqd.rq_in_driver -= 1
    bfqq.dispatched -= 1
    bfqq.ttime_last_end = ktime_get()
    if bfqd.in_service_queue is bfqq:
        if bfq_bfqq_must_idle(bfqd, bfqq):
            if not bfqq.dispatched and not bfqq.wait_request:
                bfq_arm_slice_timer(bfqd, bfqq)
            return
        if bfq_bfqq_budget_timeout(bfqq):
            bfq_bfqq_expire(bfqd, bfqq, False, BFQQE_BUDGET_TIMEOUT)
        elif not bfqq.sort_list and not bfqq.dispatched:
            bfq_bfqq_expire(bfqd, bfqq, False, BFQQE_NO_MORE_REQUESTS)
    if not bfqd.rq_in_driver:
        bfq_schedule_dispatch(bfqd)


def bfq_finish_requeue_request(rq: Request) -> None:
    """->finish_request(), ->requeue_request()"""
    if rq.elv_icq is None or rq.elv_priv is None:
        return
    bfqq = _bfqq(rq)
    bfqd = _bfqd(rq.q)
    if rq.elv_rb_key is not None:
        bfq_remove_request(rq.q, rq)           # merged into another request
    elif rq.rq_flags & RQF_STARTED:
        rq.rq_flags &= ~RQF_STARTED
        bfq_completed_request(bfqq, bfqd)
    bfqq.ref -= 1
    rq.elv_priv = None


def bfq_former_request(q: RequestQueue, rq: Request) -> Request | None:
    return elv_rb_neighbour(_bfqq(rq).sort_list, rq, -1) if rq.elv_priv is not None else None


def bfq_next_request(q: RequestQueue, rq: Request) -> Request | None:
    return elv_rb_neighbour(_bfqq(rq).sort_list, rq, 1) if rq.elv_priv is not None else None


# ---- setting up -----------------------------------------------------------------------------------------------------
def bfq_init_queue(q: RequestQueue, eq: ElevatorQueue) -> None:
    bfqd = eq.elevator_data = BfqData(q)
    hrtimer_init(bfqd.idle_slice_timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL)
    bfqd.idle_slice_timer.function = bfq_idle_slice_timer
    bfqd.idle_slice_timer.data = bfqd


def bfq_exit_queue(e: ElevatorQueue) -> None:
    hrtimer_try_to_cancel(e.elevator_data.idle_slice_timer)


def bfq_exit_icq(icq: IoCq) -> None:
    icq.data = None


@notrace
def _tunable(name: bytes, get: Callable[[BfqData], int], put: Callable[[BfqData, int], None], low: int = 0,
             high: int = (1 << 31) - 1) -> ElvFsEntry:
    return ElvFsEntry(name, lambda e: b"%d\n" % get(e.elevator_data),
                      lambda e, text: put(e.elevator_data, parse_int(text, low, high)))


@notrace
def _set_max_budget(d: BfqData, value: int) -> None:
    d.bfq_user_max_budget = value
    d.bfq_max_budget = value or BFQ_DEFAULT_MAX_BUDGET


@notrace
def _set_low_latency(d: BfqData, value: int) -> None:
    if d.low_latency and not value:            # bfq_end_wr()
        for st in d.trees:
            for bfqq in (*st.active, *st.idle):
                bfqq.wr_coeff = 1
        if d.in_service_queue is not None:
            d.in_service_queue.wr_coeff = 1
    d.low_latency = bool(value)


_MS = 1000 // HZ
bfq_attrs = (
    _tunable(
        b"fifo_expire_sync",
        lambda d: d.bfq_fifo_expire[1] * _MS,
        lambda d, v: d.bfq_fifo_expire.__setitem__(1, v // _MS),
    ),
    _tunable(
        b"fifo_expire_async",
        lambda d: d.bfq_fifo_expire[0] * _MS,
        lambda d, v: d.bfq_fifo_expire.__setitem__(0, v // _MS),
    ),
    _tunable(b"back_seek_max", lambda d: d.bfq_back_max, lambda d, v: setattr(d, "bfq_back_max", v)),
    _tunable(b"back_seek_penalty", lambda d: d.bfq_back_penalty, lambda d, v: setattr(d, "bfq_back_penalty", v), 1),
    _tunable(
        b"slice_idle", lambda d: d.bfq_slice_idle // 1_000_000, lambda d, v: setattr(d, "bfq_slice_idle", v * 1_000_000)
    ),
    _tunable(
        b"slice_idle_us", lambda d: d.bfq_slice_idle // 1_000, lambda d, v: setattr(d, "bfq_slice_idle", v * 1_000)
    ),
    _tunable(b"max_budget", lambda d: d.bfq_user_max_budget, _set_max_budget),
    _tunable(
        b"timeout_sync", lambda d: d.bfq_timeout * _MS, lambda d, v: setattr(d, "bfq_timeout", max(v // _MS, 1)), 1
    ),
    _tunable(
        b"strict_guarantees",
        lambda d: int(d.strict_guarantees),
        lambda d, v: setattr(d, "strict_guarantees", bool(v)),
        0,
        1,
    ),
    _tunable(b"low_latency", lambda d: int(d.low_latency), _set_low_latency, 0, 1),
)

iosched_bfq_mq = ElevatorType(
    b"bfq", bfq_init_queue, bfq_insert_requests, bfq_dispatch_request, bfq_has_work, exit_sched=bfq_exit_queue,
    allow_merge=bfq_allow_bio_merge, bio_merge=bfq_bio_merge, request_merge=bfq_request_merge,
    request_merged=bfq_request_merged, requests_merged=bfq_requests_merged, prepare_request=bfq_prepare_request,
    finish_request=bfq_finish_requeue_request, requeue_request=bfq_finish_requeue_request,
    former_request=bfq_former_request, next_request=bfq_next_request, exit_icq=bfq_exit_icq, uses_icq=True,
    elevator_attrs=bfq_attrs,
)
