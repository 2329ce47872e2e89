"""Grace periods do not wait for CPUs that are off line, and their callbacks become others'.

Linux: rcutree_prepare_cpu() ... rcutree_dead_cpu(), rcu_report_dead(), rcutree_migrate_callbacks() of kernel/rcu/tree.c
(5.3). Same: a CPU leaves the tree in its idle task; who has asked for the hotplug adopts its callbacks.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.rcu.grace import rcu_accelerate_cbs, rcu_advance_cbs, rcu_gp_kthread_wake, rcu_report_qs_rnp
from glasskernel.kernel.rcu.rcu import RcuNode, RcuSegcblist, rcu_segcblist_empty
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


def rcutree_prepare_cpu(kernel: Kernel, cpu: int) -> None:
    """Before a CPU comes: it owes nothing, and watches."""
    rdp = kernel.rcu.data[cpu]
    rdp.qlen_last_fqs_check = 0
    rdp.dynticks |= 1                              # rcu_dynticks_eqs_online()
    rdp.dynticks_nesting, rdp.dynticks_nmi_nesting = 1, 1 << 40
    rdp.cpu_no_qs = rdp.core_needs_qs = False
    rdp.rcu_urgent_qs = False


def rcu_report_dead(kernel: Kernel, cpu: int) -> None:
    """A CPU goes: the running grace period need not wait for it, later ones do not know it. Context: its idle task."""
    state = kernel.rcu
    rdp = state.data[cpu]
    rnp: RcuNode | None = rdp.mynode
    assert rnp is not None
    if rnp.qsmask & rdp.grpmask:
        rcu_report_qs_rnp(state, rdp.grpmask, rnp, rnp.gp_seq)
    mask = rdp.grpmask
    while rnp is not None:                         # rcu_cleanup_dead_rnp(): a leaf without CPUs leaves, too
        rnp.qsmaskinit &= ~mask
        if rnp.qsmaskinit:
            break
        mask, rnp = rnp.grpmask, rnp.parent
    rdp.cpu_no_qs = rdp.core_needs_qs = False


def rcutree_migrate_callbacks(kernel: Kernel, cpu: int) -> None:
    """A CPU is gone: its callbacks become ours."""
    state = kernel.rcu
    old, mine = state.data[cpu], state.data[register.task.cpu]
    if rcu_segcblist_empty(old.cblist):
        return
    needwake = rcu_advance_cbs(state, old.mynode, old)
    needwake = rcu_advance_cbs(state, mine.mynode, mine) or needwake
    rcu_segcblist_merge(old.cblist, mine.cblist)
    needwake = rcu_accelerate_cbs(state, mine.mynode, mine) or needwake
    if needwake:
        rcu_gp_kthread_wake(state)


@notrace
def rcu_segcblist_merge(source: RcuSegcblist, target: RcuSegcblist) -> None:
    """What is done is done; the others wait for a new grace period."""
    target.done += source.done
    target.next += source.wait + source.next_ready + source.next
    source.done, source.wait, source.next_ready, source.next = [], [], [], []
