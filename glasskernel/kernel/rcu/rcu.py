"""What RCU keeps: sequence numbers, segmented lists of callbacks, the tree of CPUs that owe a quiescent state.

Linux: kernel/rcu/rcu.h, kernel/rcu/rcu_segcblist.c, kernel/rcu/tree.h (5.3). Same: a sequence number counts grace
periods and holds the state in its two low bits; a CPU's callbacks lie in four segments (done, waiting for the
running grace period, for the next, not assigned yet); leaves of the tree have 16 CPUs.
Differs: a segment is a list of (function, argument) instead of a chain through the freed object; no locks.
Owns: RcuState (kernel.rcu), one RcuData per CPU.
Invariants: a callback is in one segment; the grace periods of WAIT and NEXT_READY do not decrease; a bit in a
    node's qsmask is a CPU (or node below) that the running grace period still waits for.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.sched.types import HZ
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct

RcuCallback = Callable[[Any], None]

RCU_SEQ_STATE_MASK = 3
RCU_FANOUT_LEAF = 16
RCU_GP_FLAG_INIT, RCU_GP_FLAG_FQS = 1, 2
(RCU_GP_IDLE, RCU_GP_WAIT_GPS, RCU_GP_DONE_GPS, RCU_GP_ONOFF, RCU_GP_INIT, RCU_GP_WAIT_FQS, RCU_GP_DOING_FQS,
 RCU_GP_CLEANUP, RCU_GP_CLEANED) = range(9)
RCU_JIFFIES_TILL_FORCE_QS = 1 + (HZ > 250) + (HZ > 500)
RCU_INITIAL_GP_SEQ = 0 - 300 << 2
BLIMIT, QHIMARK = 10, 10_000                       # callbacks a softirq; from how many waiting on there is no limit


# ---- sequence numbers: rcu_seq_*() -------------------------------------------------------------------------
@notrace
def rcu_seq_state(s: int) -> int:
    """Nonzero while a grace period runs."""
    return s & RCU_SEQ_STATE_MASK


@notrace
def rcu_seq_end(s: int) -> int:
    """The number after the running grace period."""
    return (s | RCU_SEQ_STATE_MASK) + 1


@notrace
def rcu_seq_snap(s: int) -> int:
    """The number that means: a full grace period has passed since now."""
    return s + 2 * RCU_SEQ_STATE_MASK + 1 & ~RCU_SEQ_STATE_MASK


@notrace
def rcu_seq_started(s: int, wanted: int) -> bool:
    """True if the grace period that ends with `wanted` has begun."""
    return wanted - 1 & ~RCU_SEQ_STATE_MASK < s


@notrace
def rcu_seq_completed_gp(old: int, new: int) -> bool:
    """True if a grace period ended between two looks."""
    return old < new & ~RCU_SEQ_STATE_MASK


@notrace
def rcu_seq_new_gp(old: int, new: int) -> bool:
    """True if a grace period began between two looks."""
    return old + RCU_SEQ_STATE_MASK & ~RCU_SEQ_STATE_MASK < new


# ---- callbacks ---------------------------------------------------------------------------------------------
@slotted
class RcuSegcblist:
    """struct rcu_segcblist. wait_seq, next_ready_seq: the grace period after which the segment is done."""

    done: list[tuple[RcuCallback, Any]] = field(default_factory=list)
    wait: list[tuple[RcuCallback, Any]] = field(default_factory=list)
    next_ready: list[tuple[RcuCallback, Any]] = field(default_factory=list)
    next: list[tuple[RcuCallback, Any]] = field(default_factory=list)
    wait_seq: int = 0
    next_ready_seq: int = 0


def rcu_segcblist_enqueue(rsclp: RcuSegcblist, func: RcuCallback, argument: Any) -> None:
    """A callback comes in at the end."""
    rsclp.next.append((func, argument))


@notrace
def rcu_segcblist_n_cbs(rsclp: RcuSegcblist) -> int:
    return len(rsclp.done) + len(rsclp.wait) + len(rsclp.next_ready) + len(rsclp.next)


@notrace
def rcu_segcblist_empty(rsclp: RcuSegcblist) -> bool:
    return not (rsclp.next or rsclp.wait or rsclp.done or rsclp.next_ready)


def rcu_segcblist_ready_cbs(rsclp: RcuSegcblist) -> bool:
    """True if callbacks can be called now."""
    return bool(rsclp.done)


def rcu_segcblist_pend_cbs(rsclp: RcuSegcblist) -> bool:
    """True if callbacks wait for a grace period."""
    return bool(rsclp.next or rsclp.wait or rsclp.next_ready)


def rcu_segcblist_advance(rsclp: RcuSegcblist, seq: int) -> None:
    """Grace periods up to `seq` have ended: their callbacks are done."""
    if rsclp.wait and rsclp.wait_seq <= seq:
        rsclp.done += rsclp.wait
        rsclp.wait = []
    if not rsclp.wait and rsclp.next_ready:
        if rsclp.next_ready_seq <= seq:
            rsclp.done += rsclp.next_ready
        else:
            rsclp.wait, rsclp.wait_seq = rsclp.next_ready, rsclp.next_ready_seq
        rsclp.next_ready = []


def rcu_segcblist_accelerate(rsclp: RcuSegcblist, seq: int) -> bool:
    """Assigns the new callbacks to the grace period `seq`. True: somebody must see that it comes."""
    if rsclp.wait and rsclp.wait_seq >= seq:       # they can wait with the rest
        rsclp.wait += rsclp.next
    elif rsclp.next_ready or (rsclp.wait and rsclp.next):
        rsclp.next_ready += rsclp.next
        rsclp.next_ready_seq = seq
    elif rsclp.next:
        rsclp.wait, rsclp.wait_seq = rsclp.next, seq
    else:
        return False
    rsclp.next = []
    return True


# ---- the tree ----------------------------------------------------------------------------------------------
@slotted
class RcuNode:
    """struct rcu_node. qsmask: bit = a child that owes a quiescent state; grpmask: this node's bit in its parent."""

    grplo: int                                    # first CPU below
    grphi: int
    grpmask: int
    parent: RcuNode | None
    qsmaskinit: int = 0
    qsmask: int = 0
    gp_seq: int = RCU_INITIAL_GP_SEQ
    gp_seq_needed: int = RCU_INITIAL_GP_SEQ


@slotted
class RcuData:
    """struct rcu_data: one CPU. dynticks: odd while the CPU watches (5.3: the bit RCU_DYNTICK_CTRL_CTR)."""

    cpu: int
    mynode: RcuNode
    grpmask: int
    # quiescent states
    gp_seq: int = RCU_INITIAL_GP_SEQ
    gp_seq_needed: int = RCU_INITIAL_GP_SEQ
    cpu_no_qs: bool = False                       # none seen yet in this grace period
    core_needs_qs: bool = False                   # the core waits for one
    ticks_this_gp: int = 0
    # callbacks
    cblist: RcuSegcblist = field(default_factory=RcuSegcblist)
    blimit: int = BLIMIT
    qlen_last_fqs_check: int = 0
    # idle
    dynticks: int = 1
    dynticks_nesting: int = 1                     # 0: idle
    dynticks_nmi_nesting: int = 1 << 40           # interrupts; DYNTICK_IRQ_NONIDLE outside idle
    dynticks_snap: int = 0
    rcu_urgent_qs: bool = False


@slotted
class RcuState:
    """struct rcu_state, reached as kernel.rcu. node[0] is the root; leaves come last."""

    node: list[RcuNode]
    leaves: list[RcuNode]
    data: list[RcuData] = field(default_factory=list)
    gp_seq: int = RCU_INITIAL_GP_SEQ
    gp_kthread: TaskStruct | None = None
    gp_wq: Any = None                             # kernel.sched.swait.SwaitQueueHead
    gp_flags: int = 0
    gp_state: int = RCU_GP_IDLE
    gp_start: int = 0                             # jiffies
    jiffies_force_qs: int = 0
    jiffies_till_first_fqs: int = RCU_JIFFIES_TILL_FORCE_QS
    jiffies_till_next_fqs: int = RCU_JIFFIES_TILL_FORCE_QS
    jiffies_to_sched_qs: int = HZ // 10
    n_force_qs: int = 0
    invoked: int = 0                              # callbacks that were called, for tests
    barrier_cpu_count: int = 0
    barrier_completion: Any = None
    barrier_mutex: Any = None
