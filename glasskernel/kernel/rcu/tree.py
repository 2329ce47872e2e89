"""Tree RCU: the core that runs on every CPU.

Linux: kernel/rcu/tree.c (5.3). Same: the tick raises RCU_SOFTIRQ when this CPU has something
to tell or to call; rcu_sched (rcu_preempt with CONFIG_PREEMPT) runs one grace period at a time: it marks every CPU,
waits until each has passed through a quiescent state, forces the idle ones, and cleans up.
Differs: no locks; readers are what cannot be interrupted (dynticks.py).
Owns: kernel.rcu. Context: named at each function.
Gaps: expedited grace periods, stall warnings, callback offloading.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.irq.irqdesc import RCU_SOFTIRQ
from glasskernel.kernel.kthread import kthread_create
from glasskernel.kernel.rcu.callbacks import NO_LIMIT, rcu_accelerate_cbs_unlocked
from glasskernel.kernel.rcu.dynticks import rcu_is_cpu_rrupt_from_idle, rcu_qs
from glasskernel.kernel.rcu.grace import (
    note_gp_changes,
    rcu_accelerate_cbs,
    rcu_gp_in_progress,
    rcu_gp_kthread,
    rcu_gp_kthread_wake,
    rcu_report_qs_rnp,
)
from glasskernel.kernel.rcu.rcu import (
    BLIMIT,
    QHIMARK,
    RCU_FANOUT_LEAF,
    RcuData,
    RcuNode,
    RcuState,
    rcu_segcblist_n_cbs,
    rcu_segcblist_ready_cbs,
)
from glasskernel.kernel.sched.core import wake_up_process
from glasskernel.kernel.sched.swait import SwaitQueueHead
from glasskernel.kernel.sched.types import HARDIRQ_MASK, preempt_dynamic_full
from glasskernel.kernel.softirq import open_softirq, raise_softirq
from glasskernel.kernel.task import PF_IDLE, TIF_NEED_RESCHED
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


# ---- callbacks ---------------------------------------------------------------------------------------------
def rcu_do_batch(state: RcuState, rdp: RcuData) -> None:
    """Calls what is ready, at most blimit if others want the CPU. Context: softirq."""
    task = register.task
    done = rdp.cblist.done
    if not done:
        return
    rdp.cblist.done = []
    limit = rdp.blimit
    count = 0
    for func, argument in done:
        func(argument)
        count += 1
        if count >= limit and (task.ti_flags & TIF_NEED_RESCHED or not task.flags & PF_IDLE):
            break
    del done[:count]
    if done:
        rdp.cblist.done[:0] = done                 # rcu_segcblist_insert_done_cbs()
    state.invoked += count
    left = rcu_segcblist_n_cbs(rdp.cblist)
    if rdp.blimit == NO_LIMIT and left <= BLIMIT:
        rdp.blimit = BLIMIT
    if left < rdp.qlen_last_fqs_check - QHIMARK or not left:
        rdp.qlen_last_fqs_check = left
    if rcu_segcblist_ready_cbs(rdp.cblist):
        invoke_rcu_core()


# ---- the core: what RCU_SOFTIRQ does -----------------------------------------------------------------------
def invoke_rcu_core() -> None:
    """Asks for rcu_core() on this CPU."""
    raise_softirq(RCU_SOFTIRQ)


def rcu_core_si(kernel: Kernel) -> None:
    """RCU_SOFTIRQ"""
    rcu_core(kernel)


def rcu_core(kernel: Kernel) -> None:
    """Reports this CPU's quiescent state, asks for grace periods, calls callbacks. Context: softirq."""
    probe = kernel.tp.rcu_utilization
    if probe is not None:
        probe("Start RCU core")
    state = kernel.rcu
    rdp = state.data[register.task.cpu]
    rcu_check_quiescent_state(state, rdp)
    cblist = rdp.cblist
    if cblist.next and not rcu_gp_in_progress(state):
        rcu_accelerate_cbs_unlocked(state, rdp)
    if rcu_segcblist_ready_cbs(cblist):
        rcu_do_batch(state, rdp)
    probe = kernel.tp.rcu_utilization
    if probe is not None:
        probe("End RCU core")


@notrace
def rcu_check_quiescent_state(state: RcuState, rdp: RcuData) -> None:
    note_gp_changes(state, rdp)
    if rdp.core_needs_qs and not rdp.cpu_no_qs:
        rcu_report_qs_rdp(state, rdp)


def rcu_report_qs_rdp(state: RcuState, rdp: RcuData) -> None:
    """This CPU has passed through a quiescent state: off its bit."""
    rnp = rdp.mynode
    if rdp.gp_seq != rnp.gp_seq:                   # of a grace period that is over
        rdp.cpu_no_qs = True
        return
    rdp.core_needs_qs = False
    if rnp.qsmask & rdp.grpmask:
        needwake = rcu_accelerate_cbs(state, rnp, rdp)
        rcu_report_qs_rnp(state, rdp.grpmask, rnp, rnp.gp_seq)
        if needwake:
            rcu_gp_kthread_wake(state)


# ---- the tick ----------------------------------------------------------------------------------------------
def rcu_sched_clock_irq(user: bool) -> None:
    """Each tick. user: it interrupted no reader. Context: irq."""
    task = register.task
    kernel = task.kernel
    state = kernel.rcu
    probe = kernel.tp.rcu_utilization
    if probe is not None:
        probe("Start scheduler-tick")
    rdp = state.data[task.cpu]
    rdp.ticks_this_gp += 1
    if rdp.rcu_urgent_qs:
        if not user and not rcu_is_cpu_rrupt_from_idle(rdp):
            task.ti_flags |= TIF_NEED_RESCHED
        rdp.rcu_urgent_qs = False
    if user or rcu_is_cpu_rrupt_from_idle(rdp):    # rcu_flavor_sched_clock_irq()
        rcu_qs(rdp)
    if rcu_pending(state, rdp):
        invoke_rcu_core()
    probe = kernel.tp.rcu_utilization
    if probe is not None:
        probe("End scheduler-tick")


@notrace
def tick_in_no_reader() -> bool:
    """user_mode(get_irq_regs()): interrupts come where nothing is being read, unless preemption is off there."""
    return not register.task.preempt_count & ~HARDIRQ_MASK


@notrace
def rcu_pending(state: RcuState, rdp: RcuData) -> bool:
    """True if rcu_core() has something to do on this CPU."""
    if rdp.core_needs_qs and not rdp.cpu_no_qs:
        return True
    if rdp.cblist.done:
        return True
    if rdp.cblist.next and not rcu_gp_in_progress(state):
        return True
    return rdp.mynode.gp_seq != rdp.gp_seq


# ---- boot --------------------------------------------------------------------------------------------------
def rcu_init(kernel: Kernel) -> None:
    """Makes kernel.rcu: the tree and each CPU's part; the boot CPU takes part. Needs kernel.irq."""
    cpus = len(kernel.machine.cpus)
    root = RcuNode(0, cpus - 1, 0, None)
    leaves = [root]
    if cpus > RCU_FANOUT_LEAF:
        leaves = [RcuNode(lo, min(lo + RCU_FANOUT_LEAF, cpus) - 1, 1 << number, root)
                  for number, lo in enumerate(range(0, cpus, RCU_FANOUT_LEAF))]
    node = [root] if leaves == [root] else [root, *leaves]
    state = kernel.rcu = RcuState(node, leaves, gp_wq=SwaitQueueHead())
    for cpu in range(cpus):
        leaf = leaves[cpu // RCU_FANOUT_LEAF]
        state.data.append(RcuData(cpu, leaf, 1 << cpu - leaf.grplo))
    open_softirq(kernel, RCU_SOFTIRQ, rcu_core_si)
    rcu_cpu_starting(kernel, 0)


def rcu_cpu_starting(kernel: Kernel, cpu: int) -> None:
    """A CPU comes up: grace periods that begin from now on wait for it."""
    rdp = kernel.rcu.data[cpu]
    rnp: RcuNode | None = rdp.mynode
    assert rnp is not None
    mask = rdp.grpmask
    rdp.gp_seq = rdp.gp_seq_needed = rnp.gp_seq
    while rnp is not None:
        rnp.qsmaskinit |= mask
        mask = rnp.grpmask
        rnp = rnp.parent


def rcu_spawn_gp_kthread(kernel: Kernel) -> None:
    """Starts the grace periods' thread. Context: PID 1."""
    preemptible = kernel.sched.preempt_dynamic_mode == preempt_dynamic_full
    t = kthread_create(rcu_gp_kthread, kernel.rcu, "rcu_preempt" if preemptible else "rcu_sched")
    kernel.rcu.gp_kthread = t
    wake_up_process(t)
