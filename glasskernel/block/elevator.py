"""I/O schedulers: what they share, joining requests, and changing a queue's scheduler.

Linux: block/elevator.c, and of block/blk-merge.c what joins two requests (5.3).
Same: mergeable requests are hashed by the sector behind them, and sorted by their first sector for front merges; a
    queue is frozen and drained while its scheduler changes; the default is mq-deadline for queues with one hardware
    queue.
Owns: kernel.block.elv_list, q.elevator, q.last_merge, ElevatorQueue.hash.
Invariant: a request is in the hash exactly while RQF_HASHED is set.
"""
from __future__ import annotations

from bisect import bisect_left, insort
from importlib import import_module
from typing import TYPE_CHECKING, Final

from glasskernel.block.blk_merge import (
    ELEVATOR_BACK_MERGE,
    ELEVATOR_NO_MERGE,
    blk_queue_nomerges,
    blk_rq_get_max_sectors,
    blk_rq_merge_ok,
    blk_try_merge,
    rq_end_sector,
    rq_mergeable,
)
from glasskernel.block.blk_mq_dispatch import blk_mq_run_hw_queues
from glasskernel.block.blk_mq_tag import blk_mq_init_tags
from glasskernel.block.blk_types import (
    QUEUE_FLAG_NOXMERGES,
    QUEUE_FLAG_QUIESCED,
    REQ_NOMERGE,
    REQ_OP_MASK,
    RQF_HASHED,
    RQF_IO_STAT,
    Bio,
    ElevatorQueue,
    ElevatorType,
    Request,
    RequestQueue,
    op_stat_group,
)
from glasskernel.block.genhd import part_dec_in_flight
from glasskernel.kernel.locking.mutex import mutex_lock, mutex_unlock
from glasskernel.kernel.sched.wait import wait_event, wake_up_all
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

BLKDEV_MAX_RQ = 128
MODULES: Final = {b"kyber": ("kyber_iosched", "kyber_sched"), b"bfq": ("bfq_iosched", "iosched_bfq_mq")}


# ---- kinds ---------------------------------------------------------------------------------------------------
def elv_register(kernel: Kernel, name: bytes, e: ElevatorType | None) -> None:
    """A scheduler is there to be chosen. None: its file is imported when somebody does (MODULES)."""
    kernel.block.elv_list[name] = e
    kernel.printk(f"io scheduler {name.decode()} registered")


def elevator_find(kernel: Kernel, name: bytes) -> ElevatorType | None:
    """A scheduler by its name or its alias. (Linux's elevator_get() asks for a module, too.)"""
    elv_list = kernel.block.elv_list
    if elv_list.get(name, name) is None:
        module, of_file = MODULES[name]
        elv_list[name] = getattr(import_module(f"glasskernel.block.{module}"), of_file)
    for known, e in elv_list.items():
        if e is not None and name in (known, e.elevator_alias) and name:
            return e
    return None


# ---- the hash and the tree of a scheduler ------------------------------------------------------------------------
def elv_rqhash_add(q: RequestQueue, rq: Request) -> None:
    assert q.elevator is not None
    q.elevator.hash.setdefault(rq_end_sector(rq), []).append(rq)
    rq.rq_flags |= RQF_HASHED
    rq.elv_hash_key = rq_end_sector(rq)


def elv_rqhash_del(q: RequestQueue, rq: Request) -> None:
    if rq.rq_flags & RQF_HASHED:
        assert q.elevator is not None
        bucket = q.elevator.hash[rq.elv_hash_key]
        bucket.remove(rq)
        if not bucket:
            del q.elevator.hash[rq.elv_hash_key]
        rq.rq_flags &= ~RQF_HASHED


def elv_rqhash_reposition(q: RequestQueue, rq: Request) -> None:
    elv_rqhash_del(q, rq)
    elv_rqhash_add(q, rq)


def elv_rqhash_find(q: RequestQueue, offset: int) -> Request | None:
    """A request that ends where the sector is."""
    assert q.elevator is not None
    for rq in tuple(q.elevator.hash.get(offset, ())):
        if not rq_mergeable(rq):
            elv_rqhash_del(q, rq)
            continue
        return rq
    return None


class RbRoot:
    """Requests sorted by their first sector (struct rb_root and elevator.c's elv_rb_*)."""

    __slots__ = ("keys", "requests", "sequence")

    def __init__(self) -> None:
        self.keys: list[tuple[int, int]] = []              # (sector, order of arrival)
        self.requests: dict[tuple[int, int], Request] = {}
        self.sequence = 0

    def __bool__(self) -> bool:
        return bool(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


def elv_rb_add(root: RbRoot, rq: Request) -> None:
    root.sequence += 1
    rq.elv_rb_key = key = (rq.sector, root.sequence)
    insort(root.keys, key)
    root.requests[key] = rq


def elv_rb_del(root: RbRoot, rq: Request) -> None:
    key = rq.elv_rb_key
    assert key is not None
    del root.keys[bisect_left(root.keys, key)]
    del root.requests[key]
    rq.elv_rb_key = None


def elv_rb_find(root: RbRoot, sector: int) -> Request | None:
    """The request that begins at a sector."""
    index = bisect_left(root.keys, (sector, 0))
    if index < len(root.keys) and root.keys[index][0] == sector:
        return root.requests[root.keys[index]]
    return None


@notrace
def elv_rb_from(root: RbRoot, sector: int) -> Request | None:
    """The first request that begins at or behind a sector."""
    index = bisect_left(root.keys, (sector, 0))
    return root.requests[root.keys[index]] if index < len(root.keys) else None


@notrace
def elv_rb_neighbour(root: RbRoot, rq: Request, step: int) -> Request | None:
    if rq.elv_rb_key is None:
        return None
    index = bisect_left(root.keys, rq.elv_rb_key) + step
    return root.requests[root.keys[index]] if 0 <= index < len(root.keys) else None


# ---- merging ---------------------------------------------------------------------------------------------------
def elv_bio_merge_ok(rq: Request, bio: Bio) -> bool:
    if not blk_rq_merge_ok(rq, bio):
        return False
    e = rq.q.elevator
    return e is None or e.type.allow_merge is None or e.type.allow_merge(rq.q, rq, bio)


def elv_merge(q: RequestQueue, bio: Bio) -> tuple[int, Request | None]:
    """(ELEVATOR_*, the request a bio could join)"""
    e = q.elevator
    assert e is not None
    if blk_queue_nomerges(q) or bio.bi_opf & REQ_NOMERGE:
        return ELEVATOR_NO_MERGE, None
    last = q.last_merge
    if last is not None and elv_bio_merge_ok(last, bio):
        ret = blk_try_merge(last, bio)
        if ret != ELEVATOR_NO_MERGE:
            return ret, last
    if q.queue_flags & QUEUE_FLAG_NOXMERGES:
        return ELEVATOR_NO_MERGE, None
    rq = elv_rqhash_find(q, bio.bi_sector)
    if rq is not None and elv_bio_merge_ok(rq, bio):
        return ELEVATOR_BACK_MERGE, rq
    if e.type.request_merge is not None:
        return e.type.request_merge(q, bio)
    return ELEVATOR_NO_MERGE, None


def elv_merged_request(q: RequestQueue, rq: Request, type_: int) -> None:
    """A request grew."""
    e = q.elevator
    assert e is not None
    if e.type.request_merged is not None:
        e.type.request_merged(q, rq, type_)
    if type_ == ELEVATOR_BACK_MERGE:
        elv_rqhash_reposition(q, rq)
    q.last_merge = rq


def elv_merge_requests(q: RequestQueue, rq: Request, next_: Request) -> None:
    """`next_` is a part of `rq` now."""
    e = q.elevator
    assert e is not None
    if e.type.requests_merged is not None:
        e.type.requests_merged(q, rq, next_)
    elv_rqhash_reposition(q, rq)
    q.last_merge = rq


def elv_attempt_insert_merge(q: RequestQueue, rq: Request) -> Request | None:
    """A whole request that is about to be inserted continues another one: it joins that. Returns what to free."""
    if blk_queue_nomerges(q):
        return None
    if q.last_merge is not None and blk_attempt_req_merge(q, q.last_merge, rq):
        return rq
    if q.queue_flags & QUEUE_FLAG_NOXMERGES:
        return None
    other = elv_rqhash_find(q, rq.sector)
    return rq if other is not None and blk_attempt_req_merge(q, other, rq) else None


def elv_latter_request(q: RequestQueue, rq: Request) -> Request | None:
    e = q.elevator
    return e.type.next_request(q, rq) if e is not None and e.type.next_request is not None else None


def elv_former_request(q: RequestQueue, rq: Request) -> Request | None:
    e = q.elevator
    return e.type.former_request(q, rq) if e is not None and e.type.former_request is not None else None


@notrace
def ll_merge_requests_fn(q: RequestQueue, req: Request, next_: Request) -> bool:
    """False if the two would be too large together."""
    if (req.data_len + next_.data_len) >> 9 > blk_rq_get_max_sectors(req, req.sector):
        return False
    total = req.nr_phys_segments + next_.nr_phys_segments
    if total > q.limits.max_segments:
        return False
    req.nr_phys_segments = total
    return True


@notrace
def blk_account_io_merge(req: Request) -> None:
    """The statistics see one request less under way."""
    if req.rq_flags & RQF_IO_STAT and req.part is not None:
        part_dec_in_flight(req.part, req.cmd_flags & 1)
        req.part.merges[op_stat_group(req.cmd_flags)] += 1


def attempt_merge(q: RequestQueue, req: Request, next_: Request) -> Request | None:
    """Joins `next_` to `req` if it continues it. Returns next_, which the caller frees, or None."""
    if not rq_mergeable(req) or not rq_mergeable(next_):
        return None
    if (
        (req.cmd_flags ^ next_.cmd_flags) & REQ_OP_MASK
        or req.rq_disk is not next_.rq_disk
        or req.ioprio != next_.ioprio
    ):
        return None
    if rq_end_sector(req) != next_.sector or not ll_merge_requests_fn(q, req, next_):
        return None
    req.start_time_ns = min(req.start_time_ns, next_.start_time_ns)
    assert req.biotail is not None
    req.biotail.bi_next = next_.bio
    req.biotail = next_.biotail
    req.data_len += next_.data_len
    elv_merge_requests(q, req, next_)
    blk_account_io_merge(next_)
    next_.bio = None
    return next_


def attempt_back_merge(q: RequestQueue, rq: Request) -> Request | None:
    """The request grew at its end: does it reach the next one now?"""
    next_ = elv_latter_request(q, rq)
    return attempt_merge(q, rq, next_) if next_ is not None else None


def attempt_front_merge(q: RequestQueue, rq: Request) -> Request | None:
    prev = elv_former_request(q, rq)
    return attempt_merge(q, prev, rq) if prev is not None else None


def blk_attempt_req_merge(q: RequestQueue, rq: Request, next_: Request) -> bool:
    return attempt_merge(q, rq, next_) is not None


# ---- freezing ------------------------------------------------------------------------------------------------------
def blk_freeze_queue_start(q: RequestQueue) -> None:
    """No bio gets in any more; what is queued is dispatched."""
    q.mq_freeze_depth += 1
    if q.mq_freeze_depth == 1 and q.mq_ops is not None:
        blk_mq_run_hw_queues(q, False)


@may_sleep
def blk_mq_freeze_queue_wait(q: RequestQueue) -> None:
    wait_event(q.mq_freeze_wq, lambda: not q.q_usage_counter)


@may_sleep
def blk_mq_freeze_queue(q: RequestQueue) -> None:
    """Afterwards the queue is empty, and bios wait. Nests."""
    blk_freeze_queue_start(q)
    blk_mq_freeze_queue_wait(q)


def blk_mq_unfreeze_queue(q: RequestQueue) -> None:
    q.mq_freeze_depth -= 1
    if not q.mq_freeze_depth:
        wake_up_all(q.mq_freeze_wq)


def blk_mq_quiesce_queue(q: RequestQueue) -> None:
    """Nothing is dispatched until blk_mq_unquiesce_queue()."""
    q.queue_flags |= QUEUE_FLAG_QUIESCED


def blk_mq_unquiesce_queue(q: RequestQueue) -> None:
    q.queue_flags &= ~QUEUE_FLAG_QUIESCED
    blk_mq_run_hw_queues(q, True)


# ---- switching -----------------------------------------------------------------------------------------------------
def blk_mq_init_sched(q: RequestQueue, e: ElevatorType | None) -> None:
    """The queue gets a scheduler, or none. The queue is empty."""
    assert q.tag_set is not None
    if e is None:
        q.elevator = None
        q.nr_requests = q.tag_set.queue_depth
        return
    q.nr_requests = 2 * min(q.tag_set.queue_depth, BLKDEV_MAX_RQ)
    for hctx in q.queue_hw_ctx:
        hctx.sched_tags = blk_mq_init_tags(q.nr_requests)      # blk_mq_sched_alloc_tags()
    q.elevator = eq = ElevatorQueue(e)
    e.init_sched(q, eq)
    if e.init_hctx is not None:
        for hctx in q.queue_hw_ctx:
            e.init_hctx(hctx, hctx.queue_num)


def blk_mq_exit_sched(q: RequestQueue, e: ElevatorQueue) -> None:
    for hctx in q.queue_hw_ctx:
        if e.type.exit_hctx is not None:
            e.type.exit_hctx(hctx, hctx.queue_num)
        hctx.sched_data = None
        hctx.sched_tags = None
    if e.type.exit_sched is not None:
        e.type.exit_sched(e)
    q.elevator = None


@notrace
def elevator_exit(q: RequestQueue, e: ElevatorQueue) -> None:
    blk_mq_exit_sched(q, e)


def elevator_init_mq(q: RequestQueue) -> None:
    """The scheduler of a new queue: mq-deadline, for one hardware queue."""
    if q.nr_hw_queues != 1 or q.tag_set is None or q.tag_set.no_sched:
        return
    mutex_lock(q.sysfs_lock)
    try:
        if q.elevator is None:
            e = elevator_find(q.kernel, b"mq-deadline")
            if e is not None:
                blk_mq_init_sched(q, e)
    finally:
        mutex_unlock(q.sysfs_lock)


def ioc_clear_queue(q: RequestQueue, e: ElevatorQueue) -> None:
    """No task keeps what the old scheduler knew of it (block/blk-ioc.c)."""
    for task in q.kernel.tasks:
        icq = task.io_context.icqs.pop(q, None) if task.io_context is not None else None
        if icq is not None and e.type.exit_icq is not None:
            e.type.exit_icq(icq)


@notrace
@may_sleep
def elevator_switch_mq(q: RequestQueue, new_e: ElevatorType | None) -> None:
    state = q.kernel.block
    if q.elevator is not None:
        if q.elevator.registered and state.elv_unregister_queue is not None:
            state.elv_unregister_queue(q)
        ioc_clear_queue(q, q.elevator)
        elevator_exit(q, q.elevator)
    q.last_merge = None
    blk_mq_init_sched(q, new_e)
    if new_e is not None and q.kobj is not None and state.elv_register_queue is not None:
        state.elv_register_queue(q)


@may_sleep
def elevator_switch(q: RequestQueue, new_e: ElevatorType | None) -> None:
    """Another scheduler, or None: the queue is drained first. Context: task; q.sysfs_lock held."""
    blk_mq_freeze_queue(q)
    blk_mq_quiesce_queue(q)
    try:
        elevator_switch_mq(q, new_e)
    finally:
        blk_mq_unquiesce_queue(q)
        blk_mq_unfreeze_queue(q)


@may_sleep
def __elevator_change(q: RequestQueue, name: bytes) -> None:
    """Raises EINVAL for a scheduler that there is not."""
    if name == b"none":
        if q.elevator is not None:
            elevator_switch(q, None)
        return
    e = elevator_find(q.kernel, name)
    if e is None:
        raise KernelError(EINVAL)
    if q.elevator is None or q.elevator.type is not e:
        elevator_switch(q, e)


@may_sleep
def elv_iosched_store(q: RequestQueue, text: bytes) -> None:
    """A write to queue/scheduler."""
    if q.mq_ops is None or q.tag_set is None or q.tag_set.no_sched:
        return
    name = text.strip()
    if len(name) > 15:
        raise KernelError(EINVAL)
    __elevator_change(q, name)


def elv_iosched_show(q: RequestQueue) -> bytes:
    """[mq-deadline] kyber bfq none"""
    if q.mq_ops is None:
        return b"none\n"
    if q.tag_set is None or q.tag_set.no_sched:
        return b"[none]\n"
    text = b"" if q.elevator is not None else b"[none] "
    active = q.elevator.type.elevator_name if q.elevator is not None else b""
    for name in q.kernel.block.elv_list:
        text += b"[%b] " % name if name == active else b"%b " % name
    return text + (b"none " if q.elevator is not None else b"") + b"\n"
