"""B-WF2Q+: which of the busy queues is served next.

Linux: block/bfq-wf2q.c, block/bfq-iosched.h (5.3). Same: every queue has a budget of sectors; its virtual finish time
    is start + budget / weight; served is the queue with the smallest finish time among those whose start time has come;
    a queue that comes back soon continues where it left, one that was away starts at the present.
Differs: one level (no cgroups); the trees are lists, as there are few queues.
Owns: BfqEntity's timestamps, BfqServiceTree. Units: budgets in sectors, virtual time in sectors << 22 / weight.
Invariant: wsum of a service tree is the sum of the weights of its active entities and the one in service.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.block.elevator import RbRoot
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.block.blk_types import Request

WFQ_SERVICE_SHIFT = 22
BFQ_IOPRIO_CLASSES = 3
BFQ_WEIGHT_CONVERSION_COEFF = 10
IOPRIO_BE_NR = 8


@slotted
class BfqServiceTree:
    """struct bfq_service_tree: the queues of one I/O class."""

    active: list[BfqQueue] = field(default_factory=list)
    idle: list[BfqQueue] = field(default_factory=list)
    vtime: int = 0
    wsum: int = 0


@slotted
class BfqQueue:
    """struct bfq_queue and its bfq_entity: the requests of a process, or the asynchronous ones of a priority."""

    pid: int
    sync: bool
    ioprio: int
    ioprio_class: int                          # IOPRIO_CLASS_RT 1, BE 2, IDLE 3
    st: BfqServiceTree
    # the entity
    start: int = 0
    finish: int = 0
    budget: int = 0
    service: int = 0                           # sectors in this slot
    weight: int = 0
    orig_weight: int = 0
    on_st: str = ""                            # "", "active", "idle"
    # requests
    sort_list: RbRoot = field(default_factory=RbRoot)
    fifo: list[Request] = field(default_factory=list)
    next_rq: Request | None = None
    queued: list[int] = field(default_factory=lambda: [0, 0])       # async, sync
    dispatched: int = 0
    ref: int = 0
    # the slot
    max_budget: int = 0
    budget_timeout: int = 0                    # jiffies; 0: no slot yet
    entity_start_ns: int = 0
    wait_request: bool = False                 # idled for
    non_blocking_wait_rq: bool = False         # a request came while it was idled for
    has_short_ttime: bool = True
    IO_bound: bool = False
    just_created: bool = True
    fifo_expire: bool = False
    # habits
    last_request_pos: int = 0
    seek_history: int = 0                      # a bit for each of the last 32 requests: it was far away
    ttime_last_end: int = 0
    ttime_total: int = 0
    ttime_samples: int = 0
    # weight raising
    wr_coeff: int = 1
    wr_start: int = 0                          # jiffies
    wr_cur_max_time: int = 0
    last_idle: int = 0                         # jiffies
    data: Any = None


def bfq_ioprio_to_weight(ioprio: int) -> int:
    return (IOPRIO_BE_NR - ioprio) * BFQ_WEIGHT_CONVERSION_COEFF


@notrace
def bfq_delta(service: int, weight: int) -> int:
    """Service in virtual time."""
    return (service << WFQ_SERVICE_SHIFT) // weight


def bfq_calc_finish(entity: BfqQueue, service: int) -> None:
    entity.finish = entity.start + bfq_delta(service, entity.weight)


@notrace
def bfq_entity_service_tree(trees: list[BfqServiceTree], ioprio_class: int) -> BfqServiceTree:
    return trees[max(ioprio_class, 1) - 1]


def __bfq_entity_update_weight_prio(entity: BfqQueue) -> None:
    """A raised (or no longer raised) weight counts from now on."""
    new_weight = entity.orig_weight * entity.wr_coeff
    if entity.on_st == "active":
        entity.st.wsum += new_weight - entity.weight
    entity.weight = new_weight


def bfq_activate_entity(entity: BfqQueue, backshift: bool) -> None:
    """The queue has requests (again). backshift: it was away only because the device kept it waiting."""
    st = entity.st
    __bfq_entity_update_weight_prio(entity)
    if entity.on_st == "idle":
        st.idle.remove(entity)
        min_start = entity.finish if backshift and st.vtime > entity.finish else st.vtime
        entity.start = max(min_start, entity.finish)
    else:
        entity.start = st.vtime
    entity.on_st = "active"
    st.active.append(entity)
    st.wsum += entity.weight
    entity.service = 0
    bfq_calc_finish(entity, entity.budget)


def bfq_requeue_entity(entity: BfqQueue) -> None:
    """Its slot is over and it has more: it pays for what it got, and queues up with a new budget."""
    st = entity.st
    bfq_calc_finish(entity, entity.service)
    entity.start = entity.finish
    entity.service = 0
    st.wsum -= entity.weight
    entity.on_st = ""
    __bfq_entity_update_weight_prio(entity)
    st.active.append(entity)
    entity.on_st = "active"
    st.wsum += entity.weight
    bfq_calc_finish(entity, entity.budget)


def bfq_deactivate_entity(entity: BfqQueue) -> None:
    """It has no requests: what it got is remembered as long as its finish time lies in the future."""
    st = entity.st
    if entity.on_st != "active":
        return
    bfq_calc_finish(entity, entity.service)
    entity.service = 0
    if entity in st.active:
        st.active.remove(entity)
    st.wsum -= entity.weight
    if entity.finish > st.vtime:
        entity.on_st = "idle"
        st.idle.append(entity)
    else:
        entity.on_st = ""
    bfq_forget_idle(st)


def bfq_forget_idle(st: BfqServiceTree) -> None:
    """Queues whose debt is paid start afresh."""
    if not st.active:
        st.vtime = max([st.vtime, *(e.finish for e in st.idle)])      # nobody competes: time passes
    for entity in [e for e in st.idle if e.finish <= st.vtime]:
        st.idle.remove(entity)
        entity.on_st = ""


def bfq_lookup_next_entity(trees: list[BfqServiceTree]) -> BfqQueue | None:
    """The queue that is to be served next: of the best class, the smallest finish time among the eligible ones."""
    for st in trees:
        if st.active:
            return __bfq_lookup_next_entity(st)
    return None


def __bfq_lookup_next_entity(st: BfqServiceTree) -> BfqQueue:
    earliest = min(entity.start for entity in st.active)
    if earliest > st.vtime:
        st.vtime = earliest                    # bfq_update_vtime(): nobody is eligible yet
    return min((e for e in st.active if e.start <= st.vtime), key=lambda e: e.finish)


def bfq_get_next_queue(trees: list[BfqServiceTree]) -> BfqQueue | None:
    """The same, and it is taken into service."""
    entity = bfq_lookup_next_entity(trees)
    if entity is not None:
        entity.st.active.remove(entity)
        entity.service = 0
    return entity


def bfq_bfqq_served(bfqq: BfqQueue, served: int) -> None:
    """The queue got so many sectors; virtual time passes."""
    bfqq.service += served
    st = bfqq.st
    st.vtime += bfq_delta(served, max(st.wsum, 1))
    bfq_forget_idle(st)


def bfq_bfqq_charge_time(bfqq: BfqQueue, max_budget: int, time_ms: int, timeout_ms: int) -> None:
    """A slow queue pays for the time it had, not for the little it transferred."""
    bounded = min(time_ms, timeout_ms)
    bfqq.service = max(max_budget * bounded // timeout_ms, bfqq.service)
