"""A grace period from its start to its end, and the thread that runs it.

Linux: rcu_gp_kthread() and what it calls, rcu_start_this_gp(), rcu_accelerate_cbs(), note_gp_changes(),
rcu_report_qs_rnp() of kernel/rcu/tree.c (5.3). Same: names, order, the quick first look at idle CPUs.
Differs: no locks. Owns: RcuState.gp_*, RcuNode.*.
Context: the thread, unless said otherwise.
"""
from __future__ import annotations

from collections.abc import Callable

from glasskernel.kernel.current import register
from glasskernel.kernel.rcu.dynticks import rcu_dynticks_in_eqs
from glasskernel.kernel.rcu.rcu import (
    RCU_GP_CLEANED,
    RCU_GP_CLEANUP,
    RCU_GP_DOING_FQS,
    RCU_GP_DONE_GPS,
    RCU_GP_FLAG_FQS,
    RCU_GP_FLAG_INIT,
    RCU_GP_IDLE,
    RCU_GP_INIT,
    RCU_GP_WAIT_FQS,
    RCU_GP_WAIT_GPS,
    RcuData,
    RcuNode,
    RcuState,
    rcu_segcblist_accelerate,
    rcu_segcblist_advance,
    rcu_segcblist_pend_cbs,
    rcu_seq_completed_gp,
    rcu_seq_end,
    rcu_seq_new_gp,
    rcu_seq_snap,
    rcu_seq_started,
    rcu_seq_state,
)
from glasskernel.kernel.sched.core import cond_resched
from glasskernel.kernel.sched.swait import (
    swait_event_idle_exclusive,
    swait_event_idle_timeout_exclusive,
    swake_up_one,
)
from glasskernel.kernel.time.timer import jiffies
from glasskernel.lib.types import may_sleep, notrace


@notrace
def rcu_gp_in_progress(state: RcuState) -> bool:
    return bool(rcu_seq_state(state.gp_seq))


# ---- asking for one: any context ---------------------------------------------------------------------------
def rcu_gp_kthread_wake(state: RcuState) -> None:
    """Wakes the thread if it has orders."""
    if state.gp_flags and state.gp_kthread is not None and register.task is not state.gp_kthread:
        swake_up_one(state.gp_wq)


@notrace
def rcu_start_this_gp(state: RcuState, rnp_start: RcuNode, rdp: RcuData, gp_seq_req: int) -> bool:
    """Notes up the tree that this grace period is wanted. True: the caller must wake the thread."""
    rnp = rnp_start
    wake = False
    while True:
        if (rnp.gp_seq_needed >= gp_seq_req or rcu_seq_started(rnp.gp_seq, gp_seq_req)
                or (rnp is not rnp_start and rcu_seq_state(rnp.gp_seq))):
            break                                  # somebody asked before
        rnp.gp_seq_needed = gp_seq_req
        if rcu_seq_state(rnp.gp_seq):
            break                                  # the end of the running one will see it
        if rnp.parent is None:
            if not rcu_gp_in_progress(state):
                state.gp_flags |= RCU_GP_FLAG_INIT
                wake = state.gp_kthread is not None
            break
        rnp = rnp.parent
    if gp_seq_req < rnp.gp_seq_needed:
        rnp_start.gp_seq_needed = rnp.gp_seq_needed
        rdp.gp_seq_needed = rnp.gp_seq_needed
    return wake


def rcu_accelerate_cbs(state: RcuState, rnp: RcuNode, rdp: RcuData) -> bool:
    """Assigns this CPU's new callbacks to the next full grace period. True: wake the thread."""
    if not rcu_segcblist_pend_cbs(rdp.cblist):
        return False
    gp_seq_req = rcu_seq_snap(state.gp_seq)
    if rcu_segcblist_accelerate(rdp.cblist, gp_seq_req):
        return rcu_start_this_gp(state, rnp, rdp, gp_seq_req)
    return False


@notrace
def rcu_advance_cbs(state: RcuState, rnp: RcuNode, rdp: RcuData) -> bool:
    """A grace period ended: what waited for it is done."""
    if not rcu_segcblist_pend_cbs(rdp.cblist):
        return False
    rcu_segcblist_advance(rdp.cblist, rnp.gp_seq)
    return rcu_accelerate_cbs(state, rnp, rdp)


def __note_gp_changes(state: RcuState, rnp: RcuNode, rdp: RcuData) -> bool:
    """This CPU learns of the beginnings and ends that its node has seen. True: wake the thread."""
    if rdp.gp_seq == rnp.gp_seq:
        return False
    if rcu_seq_completed_gp(rdp.gp_seq, rnp.gp_seq):
        wake = rcu_advance_cbs(state, rnp, rdp)
    else:
        wake = rcu_accelerate_cbs(state, rnp, rdp)
    if rcu_seq_new_gp(rdp.gp_seq, rnp.gp_seq):
        need = bool(rnp.qsmask & rdp.grpmask)
        rdp.cpu_no_qs = rdp.core_needs_qs = need
        rdp.ticks_this_gp = 0
    rdp.gp_seq = rnp.gp_seq
    if rdp.gp_seq_needed < rnp.gp_seq_needed:
        rdp.gp_seq_needed = rnp.gp_seq_needed
    return wake


def note_gp_changes(state: RcuState, rdp: RcuData) -> None:
    if rdp.gp_seq != rdp.mynode.gp_seq and __note_gp_changes(state, rdp.mynode, rdp):
        rcu_gp_kthread_wake(state)


def rcu_report_qs_rnp(state: RcuState, mask: int, rnp: RcuNode, gps: int) -> None:
    """These children owe nothing any more; a node without debts reports to its parent, the root to the thread."""
    while True:
        if not rnp.qsmask & mask or rnp.gp_seq != gps:
            return
        rnp.qsmask &= ~mask
        if rnp.qsmask:
            return
        if rnp.parent is None:
            break
        mask, rnp = rnp.grpmask, rnp.parent
    state.gp_flags |= RCU_GP_FLAG_FQS              # rcu_report_qs_rsp()
    rcu_gp_kthread_wake(state)


def force_quiescent_state(state: RcuState) -> None:
    """The thread shall look at the idle CPUs now."""
    state.gp_flags |= RCU_GP_FLAG_FQS
    rcu_gp_kthread_wake(state)


# ---- the thread --------------------------------------------------------------------------------------------
@may_sleep
def rcu_gp_kthread(state: RcuState) -> int:
    """rcu_sched: one grace period after the other, when somebody wants one."""
    while True:
        while True:
            state.gp_state = RCU_GP_WAIT_GPS
            swait_event_idle_exclusive(state.gp_wq, lambda: state.gp_flags & RCU_GP_FLAG_INIT)
            state.gp_state = RCU_GP_DONE_GPS
            if rcu_gp_init(state):
                break
        rcu_gp_fqs_loop(state)
        state.gp_state = RCU_GP_CLEANUP
        rcu_gp_cleanup(state)
        state.gp_state = RCU_GP_CLEANED


def rcu_gp_init(state: RcuState) -> bool:
    """Begins a grace period: every CPU owes a quiescent state. False: a false alarm."""
    if not state.gp_flags or rcu_gp_in_progress(state):
        state.gp_flags = 0
        return False
    state.gp_flags = 0
    state.gp_start = jiffies()
    state.gp_seq += 1                              # rcu_seq_start()
    state.gp_state = RCU_GP_INIT
    rdp = state.data[register.task.cpu]
    for rnp in state.node:
        rnp.qsmask = rnp.qsmaskinit
        rnp.gp_seq = state.gp_seq
        if rnp is rdp.mynode:
            __note_gp_changes(state, rnp, rdp)
    return True


@may_sleep
def rcu_gp_fqs_loop(state: RcuState) -> None:
    """Waits until nobody owes anything; looks for idle CPUs after a jiffy, and then again and again."""
    root = state.node[0]
    first = True
    left = 0
    j = state.jiffies_till_first_fqs
    while True:
        if not left:
            state.jiffies_force_qs = jiffies() + j
        state.gp_state = RCU_GP_WAIT_FQS
        swait_event_idle_timeout_exclusive(
            state.gp_wq, lambda: state.gp_flags & RCU_GP_FLAG_FQS or not root.qsmask, j)
        state.gp_state = RCU_GP_DOING_FQS
        if not root.qsmask:
            return
        if jiffies() >= state.jiffies_force_qs or state.gp_flags & RCU_GP_FLAG_FQS:
            rcu_gp_fqs(state, first)
            first = False
            left = 0
            j = state.jiffies_till_next_fqs
        else:
            left = 1
            j = max(1, state.jiffies_force_qs - jiffies())
        cond_resched()


def rcu_gp_fqs(state: RcuState, first_time: bool) -> None:
    """Finds quiescent states that CPUs cannot report themselves."""
    state.n_force_qs += 1
    force_qs_rnp(state, dyntick_save_progress_counter if first_time else rcu_implicit_dynticks_qs)
    state.gp_flags &= ~RCU_GP_FLAG_FQS


def force_qs_rnp(state: RcuState, look: Callable[[RcuState, RcuData], bool]) -> None:
    for rnp in state.leaves:
        mask = 0
        for cpu in range(rnp.grplo, rnp.grphi + 1):
            bit = 1 << cpu - rnp.grplo
            if rnp.qsmask & bit and look(state, state.data[cpu]):
                mask |= bit
        if mask:
            rcu_report_qs_rnp(state, mask, rnp, rnp.gp_seq)


def dyntick_save_progress_counter(state: RcuState, rdp: RcuData) -> bool:
    """True if the CPU is idle now; where it is not, remembers its counter."""
    rdp.dynticks_snap = rdp.dynticks
    return rcu_dynticks_in_eqs(rdp.dynticks_snap)


def rcu_implicit_dynticks_qs(state: RcuState, rdp: RcuData) -> bool:
    """True if it was idle since then. One that holds up everybody for long must call schedule()."""
    if rcu_dynticks_in_eqs(rdp.dynticks) or rdp.dynticks != rdp.dynticks_snap:
        return True
    if jiffies() > state.gp_start + state.jiffies_to_sched_qs:
        rdp.rcu_urgent_qs = True
    return False


def rcu_gp_cleanup(state: RcuState) -> None:
    """Ends the grace period; begins the next if somebody wants it."""
    new_gp_seq = rcu_seq_end(state.gp_seq)
    rdp = state.data[register.task.cpu]
    needgp = False
    for rnp in state.node:
        assert not rnp.qsmask
        rnp.gp_seq = new_gp_seq
        if rnp is rdp.mynode:
            needgp = __note_gp_changes(state, rnp, rdp) or needgp
        needgp = rnp.gp_seq_needed > new_gp_seq or needgp      # rcu_future_gp_cleanup()
    state.gp_seq = new_gp_seq
    state.gp_state = RCU_GP_IDLE
    if not needgp and state.node[0].gp_seq < rdp.gp_seq_needed:
        needgp = True
    if rcu_accelerate_cbs(state, state.node[0], rdp) or needgp:
        state.gp_flags = RCU_GP_FLAG_INIT
    else:
        state.gp_flags &= RCU_GP_FLAG_INIT
