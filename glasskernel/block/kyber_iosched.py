"""kyber: keeps the device's queue short enough that latencies stay below a target.

Linux: block/kyber-iosched.c (5.3). Same: four domains (reads, writes, discards, the rest) with tokens; requests of a
    domain go out in batches, domains in turns; ten times a second the latencies of reads and writes say how many tokens
    there are.
Owns: KyberQueueData (e.elevator_data), KyberHctxData (hctx.sched_data).
Invariant: a domain's `used` is the number of its dispatched requests that are not freed.
"""
from __future__ import annotations

from glasskernel.block.blk_merge import (
    ELEVATOR_BACK_MERGE,
    ELEVATOR_FRONT_MERGE,
    bio_attempt_back_merge,
    bio_attempt_front_merge,
    blk_rq_merge_ok,
    blk_try_merge,
)
from glasskernel.block.blk_mq_dispatch import blk_mq_run_hw_queue
from glasskernel.block.blk_types import (
    REQ_OP_DISCARD,
    REQ_OP_MASK,
    REQ_OP_READ,
    REQ_OP_WRITE,
    Bio,
    BlkMqHwCtx,
    ElevatorQueue,
    ElevatorType,
    ElvFsEntry,
    Request,
    RequestQueue,
    op_is_sync,
)
from glasskernel.kernel.current import register
from glasskernel.kernel.time.timekeeping import jiffies
from glasskernel.kernel.time.timer import del_timer, timer_reduce
from glasskernel.kernel.time.types import HZ, TimerList
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

KYBER_READ, KYBER_WRITE, KYBER_DISCARD, KYBER_OTHER, KYBER_NUM_DOMAINS = range(5)
kyber_depth = (256, 128, 64, 16)
kyber_latency_targets = (2_000_000, 10_000_000, 5_000_000_000)        # ns
kyber_batch_size = (16, 8, 1, 1)
KYBER_ASYNC_PERCENT = 75
KYBER_LATENCY_SHIFT = 2
KYBER_GOOD_BUCKETS = 1 << KYBER_LATENCY_SHIFT
KYBER_LATENCY_BUCKETS = 2 << KYBER_LATENCY_SHIFT
KYBER_TOTAL_LATENCY, KYBER_IO_LATENCY = 0, 1


@slotted
class KyberDomain:
    """One domain's tokens and what was measured. buckets: [total, I/O] latencies in quarters of the target."""

    depth: int
    used: int = 0
    waiting: list[BlkMqHwCtx] = field(default_factory=list)
    buckets: tuple[list[int], list[int]] = field(
        default_factory=lambda: ([0] * KYBER_LATENCY_BUCKETS, [0] * KYBER_LATENCY_BUCKETS))
    latency_timeout: int = 0                   # jiffies: until then at least 500 samples are needed
    p99: int = -1
    latency_target: int = 0                    # ns


@slotted
class KyberQueueData:
    """struct kyber_queue_data"""

    q: RequestQueue
    domains: list[KyberDomain]
    async_depth: int = 0
    timer: TimerList = field(default_factory=TimerList)


@slotted
class KyberHctxData:
    """struct kyber_hctx_data. kcqs: by software queue, by domain. rqs: by domain, taken from the kcqs."""

    kcqs: list[list[list[Request]]]
    rqs: list[list[Request]]
    cur_domain: int = 0
    batching: int = 0


@notrace
def kyber_sched_domain(op: int) -> int:
    return {REQ_OP_READ: KYBER_READ, REQ_OP_WRITE: KYBER_WRITE, REQ_OP_DISCARD: KYBER_DISCARD}.get(
        op & REQ_OP_MASK, KYBER_OTHER)


@notrace
def _kqd(q: RequestQueue) -> KyberQueueData:
    assert q.elevator is not None
    kqd: KyberQueueData = q.elevator.elevator_data
    return kqd


# ---- latencies ------------------------------------------------------------------------------------------------
def calculate_percentile(domain: KyberDomain, kind: int, percentile: int) -> int:
    """The bucket below which so many percent lie; -1: too few samples."""
    buckets = domain.buckets[kind]
    samples = sum(buckets)
    if not samples:
        return -1
    if not domain.latency_timeout:
        domain.latency_timeout = jiffies() + HZ
    if samples < 500 and jiffies() < domain.latency_timeout:
        return -1
    domain.latency_timeout = 0
    left = -(-samples * percentile // 100)
    bucket = 0
    while bucket < KYBER_LATENCY_BUCKETS - 1 and buckets[bucket] < left:
        left -= buckets[bucket]
        bucket += 1
    buckets[:] = [0] * KYBER_LATENCY_BUCKETS
    return bucket


def kyber_resize_domain(domain: KyberDomain, number: int, depth: int) -> None:
    domain.depth = min(max(depth, 1), kyber_depth[number])


def kyber_timer_fn(t: TimerList) -> None:
    """Ten times a second while there is I/O: fewer tokens where latencies are bad, more where they are good."""
    kqd: KyberQueueData = t.data
    bad = False
    for domain in kqd.domains[:KYBER_OTHER]:
        if calculate_percentile(domain, KYBER_IO_LATENCY, 90) >= KYBER_GOOD_BUCKETS:
            bad = True                         # the device is congested
    for number, domain in enumerate(kqd.domains[:KYBER_OTHER]):
        p99 = calculate_percentile(domain, KYBER_TOTAL_LATENCY, 99)
        if bad:
            if p99 < 0:
                p99 = domain.p99
            domain.p99 = -1
        elif p99 >= 0:
            domain.p99 = p99
        if p99 < 0:
            continue
        if bad or p99 >= KYBER_GOOD_BUCKETS:
            kyber_resize_domain(domain, number, domain.depth * (p99 + 1) >> KYBER_LATENCY_SHIFT)


def add_latency_sample(domain: KyberDomain, kind: int, target: int, latency: int) -> None:
    bucket = (latency - 1) // (target >> KYBER_LATENCY_SHIFT) if latency > 0 else 0
    domain.buckets[kind][min(bucket, KYBER_LATENCY_BUCKETS - 1)] += 1


def kyber_completed_request(rq: Request, now: int) -> None:
    kqd = _kqd(rq.q)
    number = kyber_sched_domain(rq.cmd_flags)
    if number == KYBER_OTHER:
        return
    domain = kqd.domains[number]
    target = domain.latency_target
    add_latency_sample(domain, KYBER_TOTAL_LATENCY, target, now - rq.start_time_ns)
    add_latency_sample(domain, KYBER_IO_LATENCY, target, now - rq.io_start_time_ns)
    timer_reduce(kqd.timer, jiffies() + HZ // 10)


# ---- tokens ------------------------------------------------------------------------------------------------------
def kyber_get_domain_token(kqd: KyberQueueData, number: int, hctx: BlkMqHwCtx) -> bool:
    """True: one request of the domain may go out. False: the queue is run when a token is free."""
    domain = kqd.domains[number]
    if domain.used < domain.depth:
        domain.used += 1
        return True
    if hctx not in domain.waiting:
        domain.waiting.append(hctx)
    return False


def rq_clear_domain_token(kqd: KyberQueueData, rq: Request) -> None:
    if rq.elv_priv is None:
        return
    domain = kqd.domains[rq.elv_priv]
    rq.elv_priv = None
    domain.used -= 1
    if domain.waiting:
        kyber_domain_wake(domain.waiting.pop(0))


def kyber_domain_wake(hctx: BlkMqHwCtx) -> None:
    blk_mq_run_hw_queue(hctx, True)


def kyber_limit_depth(op: int, hctx: BlkMqHwCtx) -> int:
    """Asynchronous writes get three quarters of the tags."""
    return 0 if op_is_sync(op) else _kqd(hctx.queue).async_depth


def kyber_prepare_request(rq: Request, bio: Bio | None) -> None:
    rq.elv_priv = None                         # no token yet


def kyber_finish_request(rq: Request) -> None:
    rq_clear_domain_token(_kqd(rq.q), rq)


# ---- inserting and dispatching --------------------------------------------------------------------------------------
def kyber_bio_merge(hctx: BlkMqHwCtx, bio: Bio, nr_segs: int) -> bool:
    khd: KyberHctxData = hctx.sched_data
    ctx = hctx.queue.queue_ctx[register.task.cpu]
    for checked, rq in enumerate(reversed(khd.kcqs[ctx.index_hw][kyber_sched_domain(bio.bi_opf)])):
        if checked == 8:
            break
        if blk_rq_merge_ok(rq, bio):
            side = blk_try_merge(rq, bio)
            if side == ELEVATOR_BACK_MERGE:
                return bio_attempt_back_merge(rq, bio, nr_segs)
            if side == ELEVATOR_FRONT_MERGE:
                return bio_attempt_front_merge(rq, bio, nr_segs)
    return False


def kyber_insert_requests(hctx: BlkMqHwCtx, rq_list: list[Request], at_head: bool) -> None:
    khd: KyberHctxData = hctx.sched_data
    probe = hctx.queue.kernel.tp.block_rq_insert
    while rq_list:
        rq = rq_list.pop(0)
        queue = khd.kcqs[rq.mq_ctx.index_hw][kyber_sched_domain(rq.cmd_flags)]
        if at_head:
            queue.insert(0, rq)
        else:
            queue.append(rq)
        if probe is not None:
            probe(hctx.queue, rq)


def kyber_flush_busy_kcqs(khd: KyberHctxData, domain: int) -> None:
    for kcq in khd.kcqs:
        khd.rqs[domain] += kcq[domain]
        kcq[domain].clear()


def kyber_dispatch_cur_domain(kqd: KyberQueueData, khd: KyberHctxData, hctx: BlkMqHwCtx) -> Request | None:
    domain = khd.cur_domain
    rqs = khd.rqs[domain]
    if not rqs and not any(kcq[domain] for kcq in khd.kcqs):
        return None
    if not kyber_get_domain_token(kqd, domain, hctx):
        return None
    if not rqs:
        kyber_flush_busy_kcqs(khd, domain)
    khd.batching += 1
    rq = rqs.pop(0)
    rq.elv_priv = domain                       # rq_set_domain_token()
    return rq


def kyber_dispatch_request(hctx: BlkMqHwCtx) -> Request | None:
    """->dispatch_request()"""
    kqd = _kqd(hctx.queue)
    khd: KyberHctxData = hctx.sched_data
    if khd.batching < kyber_batch_size[khd.cur_domain]:
        rq = kyber_dispatch_cur_domain(kqd, khd, hctx)
        if rq is not None:
            return rq
    khd.batching = 0
    for _ in range(KYBER_NUM_DOMAINS):
        khd.cur_domain = (khd.cur_domain + 1) % KYBER_NUM_DOMAINS
        rq = kyber_dispatch_cur_domain(kqd, khd, hctx)
        if rq is not None:
            return rq
    return None


def kyber_has_work(hctx: BlkMqHwCtx) -> bool:
    khd: KyberHctxData = hctx.sched_data
    return any(khd.rqs) or any(queue for kcq in khd.kcqs for queue in kcq)


# ---- setting up -----------------------------------------------------------------------------------------------------
def kyber_init_sched(q: RequestQueue, e: ElevatorQueue) -> None:
    kqd = KyberQueueData(q, [KyberDomain(depth) for depth in kyber_depth])
    for domain, target in zip(kqd.domains, kyber_latency_targets, strict=False):
        domain.latency_target = target
    kqd.timer = TimerList(kyber_timer_fn, kqd)
    e.elevator_data = kqd


def kyber_exit_sched(e: ElevatorQueue) -> None:
    kqd: KyberQueueData = e.elevator_data
    if kqd.timer.base is not None:
        del_timer(kqd.timer)


def kyber_init_hctx(hctx: BlkMqHwCtx, number: int) -> None:
    hctx.sched_data = KyberHctxData([[[] for _ in kyber_depth] for _ in hctx.ctxs], [[] for _ in kyber_depth])
    kyber_depth_updated(hctx)


def kyber_depth_updated(hctx: BlkMqHwCtx) -> None:
    assert hctx.sched_tags is not None
    _kqd(hctx.queue).async_depth = max(hctx.sched_tags.depth * KYBER_ASYNC_PERCENT // 100, 1)


@notrace
def _latency(name: bytes, number: int) -> ElvFsEntry:
    def show(e: ElevatorQueue) -> bytes:
        return b"%d\n" % e.elevator_data.domains[number].latency_target

    def store(e: ElevatorQueue, text: bytes) -> None:
        if not text.strip().isdigit():
            raise KernelError(EINVAL)
        e.elevator_data.domains[number].latency_target = max(int(text), 4)

    return ElvFsEntry(name, show, store)


kyber_sched = ElevatorType(
    b"kyber",
    kyber_init_sched,
    kyber_insert_requests,
    kyber_dispatch_request,
    kyber_has_work,
    exit_sched=kyber_exit_sched,
    init_hctx=kyber_init_hctx,
    depth_updated=kyber_depth_updated,
    bio_merge=kyber_bio_merge,
    limit_depth=kyber_limit_depth,
    prepare_request=kyber_prepare_request,
    finish_request=kyber_finish_request,
    requeue_request=kyber_finish_request,
    completed_request=kyber_completed_request,
    elevator_attrs=(_latency(b"read_lat_nsec", KYBER_READ), _latency(b"write_lat_nsec", KYBER_WRITE)),
)
