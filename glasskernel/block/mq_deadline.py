"""mq-deadline: in the order of sectors, but nobody waits longer than a deadline.

Linux: block/mq-deadline.c (5.3). Same: a sorted tree and a FIFO for each direction; batches of fifo_batch requests that
    go up the sectors; reads go first, but after writes_starved batches of them writes have their turn.
Owns: DeadlineData (e.elevator_data). Gaps: zoned devices.
Invariant: a request is in its tree and its FIFO from insertion to dispatch.
"""
from __future__ import annotations

from glasskernel.block.blk_merge import ELEVATOR_FRONT_MERGE, ELEVATOR_NO_MERGE, rq_mergeable
from glasskernel.block.blk_mq_dispatch import blk_mq_free_request
from glasskernel.block.blk_mq_sched import blk_mq_sched_try_insert_merge, blk_mq_sched_try_merge
from glasskernel.block.blk_types import (
    Bio,
    BlkMqHwCtx,
    ElevatorQueue,
    ElevatorType,
    ElvFsEntry,
    Request,
    RequestQueue,
)
from glasskernel.block.elevator import (
    RbRoot,
    elv_bio_merge_ok,
    elv_rb_add,
    elv_rb_del,
    elv_rb_find,
    elv_rb_neighbour,
    elv_rqhash_add,
    elv_rqhash_del,
)
from glasskernel.kernel.time.timekeeping import jiffies
from glasskernel.kernel.time.types import HZ
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

READ, WRITE = 0, 1


@slotted
class DeadlineData:
    """struct deadline_data. Index: READ, WRITE. Times in jiffies."""

    queue: RequestQueue
    sort_list: tuple[RbRoot, RbRoot] = field(default_factory=lambda: (RbRoot(), RbRoot()))
    fifo_list: tuple[list[Request], list[Request]] = field(default_factory=lambda: ([], []))
    next_rq: list[Request | None] = field(default_factory=lambda: [None, None])
    batching: int = 0                          # requests of the running batch
    starved: int = 0                           # batches of reads that writes have waited for
    dispatch: list[Request] = field(default_factory=list)
    # tunables
    fifo_expire: list[int] = field(default_factory=lambda: [HZ // 2, 5 * HZ])
    fifo_batch: int = 16
    writes_starved: int = 2
    front_merges: int = 1


@notrace
def _dd(q: RequestQueue) -> DeadlineData:
    assert q.elevator is not None
    dd: DeadlineData = q.elevator.elevator_data
    return dd


def dd_init_queue(q: RequestQueue, eq: ElevatorQueue) -> None:
    eq.elevator_data = DeadlineData(q)


# ---- the tree and the FIFO -------------------------------------------------------------------------------------
def deadline_remove_request(q: RequestQueue, rq: Request) -> None:
    dd = _dd(q)
    direction = rq.cmd_flags & 1
    if rq in dd.fifo_list[direction]:
        dd.fifo_list[direction].remove(rq)
    if rq.elv_rb_key is not None:
        deadline_del_rq_rb(dd, rq)
    elv_rqhash_del(q, rq)
    if q.last_merge is rq:
        q.last_merge = None


@notrace
def deadline_del_rq_rb(dd: DeadlineData, rq: Request) -> None:
    direction = rq.cmd_flags & 1
    if dd.next_rq[direction] is rq:
        dd.next_rq[direction] = elv_rb_neighbour(dd.sort_list[direction], rq, 1)
    elv_rb_del(dd.sort_list[direction], rq)


def dd_request_merged(q: RequestQueue, req: Request, type_: int) -> None:
    """Grown at its front: it belongs elsewhere in the tree."""
    if type_ == ELEVATOR_FRONT_MERGE:
        root = _dd(q).sort_list[req.cmd_flags & 1]
        elv_rb_del(root, req)
        elv_rb_add(root, req)


def dd_merged_requests(q: RequestQueue, req: Request, next_: Request) -> None:
    """`next_` is a part of req now: req takes over its deadline, if that is earlier."""
    if next_.fifo_time < req.fifo_time:
        fifo = _dd(q).fifo_list[req.cmd_flags & 1]
        if req in fifo and next_ in fifo:
            fifo.remove(req)
            fifo[fifo.index(next_)] = req
            req.fifo_time = next_.fifo_time
    deadline_remove_request(q, next_)


# ---- dispatching -------------------------------------------------------------------------------------------------
@notrace
def deadline_move_request(dd: DeadlineData, rq: Request) -> None:
    """The request goes out; the next one by sector is remembered."""
    direction = rq.cmd_flags & 1
    dd.next_rq = [None, None]
    dd.next_rq[direction] = elv_rb_neighbour(dd.sort_list[direction], rq, 1)
    deadline_remove_request(rq.q, rq)


@notrace
def deadline_check_fifo(dd: DeadlineData, direction: int) -> bool:
    """True if the oldest request has waited too long."""
    return jiffies() >= dd.fifo_list[direction][0].fifo_time


def deadline_fifo_request(dd: DeadlineData, direction: int) -> Request | None:
    return dd.fifo_list[direction][0] if dd.fifo_list[direction] else None


def deadline_next_request(dd: DeadlineData, direction: int) -> Request | None:
    return dd.next_rq[direction]


@notrace
def __dd_dispatch_request(dd: DeadlineData) -> Request | None:
    if dd.dispatch:
        return dd.dispatch.pop(0)
    reads, writes = bool(dd.fifo_list[READ]), bool(dd.fifo_list[WRITE])
    rq = deadline_next_request(dd, WRITE) or deadline_next_request(dd, READ)
    if rq is None or dd.batching >= dd.fifo_batch:
        if reads:
            if writes and dd.starved >= dd.writes_starved:
                dd.starved = 0
                direction = WRITE
            else:
                dd.starved += writes
                direction = READ
        elif writes:
            dd.starved = 0
            direction = WRITE
        else:
            return None
        next_rq = deadline_next_request(dd, direction)
        if deadline_check_fifo(dd, direction) or next_rq is None:
            rq = deadline_fifo_request(dd, direction)
        else:
            rq = next_rq
        dd.batching = 0
    assert rq is not None
    dd.batching += 1
    deadline_move_request(dd, rq)
    return rq


def dd_dispatch_request(hctx: BlkMqHwCtx) -> Request | None:
    """->dispatch_request()"""
    return __dd_dispatch_request(_dd(hctx.queue))


def dd_has_work(hctx: BlkMqHwCtx) -> bool:
    dd = _dd(hctx.queue)
    return bool(dd.dispatch or dd.fifo_list[READ] or dd.fifo_list[WRITE])


# ---- inserting -----------------------------------------------------------------------------------------------------
def dd_request_merge(q: RequestQueue, bio: Bio) -> tuple[int, Request | None]:
    """Does the bio end where a request begins?"""
    dd = _dd(q)
    if dd.front_merges:
        rq = elv_rb_find(dd.sort_list[bio.bi_opf & 1], bio.bi_sector + (bio.bi_size >> 9))
        if rq is not None and elv_bio_merge_ok(rq, bio):
            return ELEVATOR_FRONT_MERGE, rq
    return ELEVATOR_NO_MERGE, None


def dd_bio_merge(hctx: BlkMqHwCtx, bio: Bio, nr_segs: int) -> bool:
    merged, free = blk_mq_sched_try_merge(hctx.queue, bio, nr_segs)
    if free is not None:
        blk_mq_free_request(free)
    return merged


@notrace
def dd_insert_request(hctx: BlkMqHwCtx, rq: Request, at_head: bool) -> None:
    q = hctx.queue
    dd = _dd(q)
    if blk_mq_sched_try_insert_merge(q, rq):
        return
    probe = q.kernel.tp.block_rq_insert        # blk_mq_sched_request_inserted()
    if probe is not None:
        probe(q, rq)
    if at_head:
        dd.dispatch.insert(0, rq)
        return
    direction = rq.cmd_flags & 1
    elv_rb_add(dd.sort_list[direction], rq)
    if rq_mergeable(rq):
        elv_rqhash_add(q, rq)
        if q.last_merge is None:
            q.last_merge = rq
    rq.fifo_time = jiffies() + dd.fifo_expire[direction]
    dd.fifo_list[direction].append(rq)


def dd_insert_requests(hctx: BlkMqHwCtx, requests: list[Request], at_head: bool) -> None:
    while requests:
        dd_insert_request(hctx, requests.pop(0), at_head)


def dd_prepare_request(rq: Request, bio: Bio | None) -> None:
    """Nothing of its own; the request counts as the scheduler's (RQF_ELVPRIV)."""


def elv_rb_latter_request(q: RequestQueue, rq: Request) -> Request | None:
    return elv_rb_neighbour(_dd(q).sort_list[rq.cmd_flags & 1], rq, 1)


def elv_rb_former_request(q: RequestQueue, rq: Request) -> Request | None:
    return elv_rb_neighbour(_dd(q).sort_list[rq.cmd_flags & 1], rq, -1)


# ---- tunables -------------------------------------------------------------------------------------------------------
@notrace
def parse_int(text: bytes, low: int, high: int) -> int:
    """A number, clamped. Raises EINVAL."""
    try:
        value = int(text.strip())
    except ValueError:
        raise KernelError(EINVAL) from None
    return min(max(value, low), high)


@notrace
def _expire(name: bytes, direction: int) -> ElvFsEntry:
    def show(e: ElevatorQueue) -> bytes:
        return b"%d\n" % (e.elevator_data.fifo_expire[direction] * (1000 // HZ))

    def store(e: ElevatorQueue, text: bytes) -> None:
        e.elevator_data.fifo_expire[direction] = parse_int(text, 0, (1 << 31) - 1) * HZ // 1000

    return ElvFsEntry(name, show, store)


@notrace
def _number(name: bytes, low: int, high: int) -> ElvFsEntry:
    def show(e: ElevatorQueue) -> bytes:
        return b"%d\n" % getattr(e.elevator_data, name.decode())

    def store(e: ElevatorQueue, text: bytes) -> None:
        setattr(e.elevator_data, name.decode(), parse_int(text, low, high))

    return ElvFsEntry(name, show, store)


INT_MIN, INT_MAX = -(1 << 31), (1 << 31) - 1
deadline_attrs = (
    _expire(b"read_expire", READ),
    _expire(b"write_expire", WRITE),
    _number(b"writes_starved", INT_MIN, INT_MAX),
    _number(b"front_merges", 0, 1),
    _number(b"fifo_batch", 0, INT_MAX),
)

mq_deadline = ElevatorType(
    b"mq-deadline", dd_init_queue, dd_insert_requests, dd_dispatch_request, dd_has_work, bio_merge=dd_bio_merge,
    request_merge=dd_request_merge, request_merged=dd_request_merged, requests_merged=dd_merged_requests,
    prepare_request=dd_prepare_request, former_request=elv_rb_former_request, next_request=elv_rb_latter_request,
    elevator_attrs=deadline_attrs, elevator_alias=b"deadline",
)
