"""call_rcu(): what is freed when nobody can be looking at it any more.

Linux: call_rcu() of kernel/rcu/tree.c, kfree_rcu() (5.3). Same: it only queues; a flood of callbacks makes the grace
period hurry. A file of its own: the lowest rooms (kernel/pid.py) free this way.
Differs: __call_rcu() is call_rcu(). Context: any.
"""
from __future__ import annotations

from typing import Any

from glasskernel.kernel.current import register
from glasskernel.kernel.rcu.grace import (
    force_quiescent_state,
    note_gp_changes,
    rcu_accelerate_cbs,
    rcu_gp_in_progress,
    rcu_gp_kthread_wake,
)
from glasskernel.kernel.rcu.rcu import (
    QHIMARK,
    RcuCallback,
    RcuData,
    RcuState,
    rcu_segcblist_enqueue,
    rcu_segcblist_n_cbs,
)
from glasskernel.lib.types import notrace

NO_LIMIT = 1 << 62


def call_rcu(head: Any, func: RcuCallback) -> None:
    """func(head) is called after a grace period: when nobody can be looking at it any more. Context: any."""
    task = register.task
    rdp = task.kernel.rcu.data[task.cpu]
    cblist = rdp.cblist
    rcu_segcblist_enqueue(cblist, func, head)
    if len(cblist.next) > QHIMARK:
        __call_rcu_core(task.kernel.rcu, rdp)


@notrace
def __call_rcu_core(state: RcuState, rdp: RcuData) -> None:
    """A flood of callbacks: no limit to what one softirq calls, and the grace period shall hurry."""
    if rcu_segcblist_n_cbs(rdp.cblist) <= rdp.qlen_last_fqs_check + QHIMARK:
        return
    note_gp_changes(state, rdp)
    if not rcu_gp_in_progress(state):
        rcu_accelerate_cbs_unlocked(state, rdp)
        return
    rdp.blimit = NO_LIMIT
    rdp.qlen_last_fqs_check = rcu_segcblist_n_cbs(rdp.cblist)
    force_quiescent_state(state)


@notrace
def rcu_accelerate_cbs_unlocked(state: RcuState, rdp: RcuData) -> None:
    if rcu_accelerate_cbs(state, rdp.mynode, rdp):
        rcu_gp_kthread_wake(state)
