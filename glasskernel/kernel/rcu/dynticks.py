"""Quiescent states: where a CPU cannot be inside an RCU reader.

Linux: rcu_qs(), rcu_note_context_switch(), rcu_all_qs() of kernel/rcu/tree_plugin.h and tree.c, and the extended
quiescent state of idle CPUs in tree.c (5.3); a file of its own, below the scheduler that calls it.
Same: a context switch, the tick that finds user mode or idle, and being idle are quiescent states.
Differs: rcu_read_lock() and rcu_read_unlock() do not exist at run time. Between two calls of schedule() (or
    cond_resched(), or a preemption point with preempt_count 0) nobody else runs kernel code, so a reader
    is whatever does not sleep, as in Linux without CONFIG_PREEMPT_RCU, where they compile to nothing too.
Context: any.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.rcu.rcu import RcuData

DYNTICK_IRQ_NONIDLE = 1 << 40


def rcu_qs(rdp: RcuData) -> None:
    """Notes a quiescent state of this CPU; the core reports it later."""
    rdp.cpu_no_qs = False


def rcu_note_context_switch(preempt: bool) -> None:
    """schedule() begins."""
    task = register.task
    kernel = task.kernel
    probe = kernel.tp.rcu_utilization
    if probe is not None:
        probe("Start context switch")
    rdp = kernel.rcu.data[task.cpu]
    if rdp.cpu_no_qs:
        rcu_qs(rdp)
    rdp.rcu_urgent_qs = False
    probe = kernel.tp.rcu_utilization
    if probe is not None:
        probe("End context switch")


def rcu_all_qs() -> None:
    """cond_resched() that found nobody to run: all that a CPU tells for which a grace period has waited too long."""
    task = register.task
    rdp = task.kernel.rcu.data[task.cpu]
    if rdp.rcu_urgent_qs:
        rdp.rcu_urgent_qs = False
        rcu_qs(rdp)


# ---- idle CPUs ---------------------------------------------------------------------------------------------
def rcu_idle_enter() -> None:
    """The idle loop is about to halt: grace periods need not wait for this CPU."""
    task = register.task
    rdp = task.kernel.rcu.data[task.cpu]
    rdp.dynticks_nesting = rdp.dynticks_nmi_nesting = 0
    rdp.dynticks += 1                              # rcu_dynticks_eqs_enter()


def rcu_idle_exit() -> None:
    """Back from it."""
    task = register.task
    rdp = task.kernel.rcu.data[task.cpu]
    rdp.dynticks += 1                              # rcu_dynticks_eqs_exit()
    rdp.dynticks_nesting = 1
    rdp.dynticks_nmi_nesting = DYNTICK_IRQ_NONIDLE


def rcu_irq_enter() -> None:
    """An interrupt begins: an idle CPU watches again."""
    task = register.task
    rdp = task.kernel.rcu.data[task.cpu]
    if not rdp.dynticks & 1:
        rdp.dynticks += 1
        rdp.dynticks_nmi_nesting += 1
    else:
        rdp.dynticks_nmi_nesting += 2


def rcu_irq_exit() -> None:
    """It ends."""
    task = register.task
    rdp = task.kernel.rcu.data[task.cpu]
    if rdp.dynticks_nmi_nesting != 1:
        rdp.dynticks_nmi_nesting -= 2
        return
    rdp.dynticks_nmi_nesting = 0
    rdp.dynticks += 1


@notrace
def rcu_is_cpu_rrupt_from_idle(rdp: RcuData) -> bool:
    """True if the running interrupt came to an idle CPU, and is the only one."""
    return not rdp.dynticks_nesting and rdp.dynticks_nmi_nesting <= 1


@notrace
def rcu_dynticks_in_eqs(snap: int) -> bool:
    """True if a CPU with this counter is idle."""
    return not snap & 1


def rcu_needs_cpu(kernel: Kernel, cpu: int) -> bool:
    """True if an idle CPU must go on ticking: its callbacks wait."""
    cblist = kernel.rcu.data[cpu].cblist
    return bool(cblist.next or cblist.wait or cblist.done or cblist.next_ready)
