"""The scheduler's tick, and periodic load balancing.

Linux: scheduler_tick() and scheduler_ipi() of kernel/sched/core.c, trigger_load_balance(), nohz balancing of
kernel/sched/fair.c (5.3); a file of its own because imports run downwards only. Context: irq and softirq.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.irq.irqdesc import SCHED_SOFTIRQ
from glasskernel.kernel.sched.balance import CPU_IDLE, CPU_NOT_IDLE, find_new_ilb, rebalance_domains
from glasskernel.kernel.sched.loadavg import calc_global_load_tick
from glasskernel.kernel.sched.rq import idle_cpu, smp_send_reschedule, update_rq_clock
from glasskernel.kernel.sched.rt import sched_rt_period_timer
from glasskernel.kernel.softirq import irq_enter, irq_exit, raise_softirq, raise_softirq_irqoff

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.sched.types import Rq


def scheduler_tick() -> None:
    """Charges the running task, and ends its turn if it is over."""
    task = register.task
    rq = task.kernel.sched.rqs[task.cpu]
    curr = rq.curr
    update_rq_clock(rq)
    curr.sched_class.task_tick(rq, curr, 0)
    calc_global_load_tick(rq)
    if rq.rt.rt_time:
        sched_rt_period_timer(rq)
    if rq.kernel.perf is not None:
        rq.kernel.perf.task_tick(rq.cpu)
    trigger_load_balance(rq)


def trigger_load_balance(rq: Rq) -> None:
    """Raises SCHED_SOFTIRQ when it is time to balance; wakes an idle CPU that can take work from a busy one.
    """
    if rq.kernel.time.jiffies >= rq.next_balance:
        raise_softirq(SCHED_SOFTIRQ)
    nohz_balancer_kick(rq)


def nohz_balancer_kick(rq: Rq) -> None:
    if rq.nr_running < 2:
        return
    target = find_new_ilb(rq)
    if target >= 0:
        kick_ilb(rq.kernel, target)


def kick_ilb(kernel: Kernel, ilb_cpu: int) -> None:
    kernel.sched.rqs[ilb_cpu].nohz_kick = True
    smp_send_reschedule(kernel, ilb_cpu)


def run_rebalance_domains(kernel: Kernel) -> None:
    """SCHED_SOFTIRQ"""
    cpu = register.task.cpu
    this_rq = kernel.sched.rqs[cpu]
    idle = CPU_IDLE if idle_cpu(kernel, cpu) else CPU_NOT_IDLE
    if nohz_idle_balance(this_rq, idle):
        return
    rebalance_domains(this_rq, idle)


def nohz_idle_balance(this_rq: Rq, idle: int) -> bool:
    """This idle CPU was asked to balance: takes work itself."""
    if not this_rq.nohz_kick:
        return False
    this_rq.nohz_kick = False
    if idle != CPU_IDLE:
        return False
    this_rq.next_balance = this_rq.kernel.time.jiffies
    rebalance_domains(this_rq, CPU_IDLE)
    return True


def scheduler_ipi() -> None:
    """The reschedule interrupt. need_resched is seen on the way out; a kick asks for balancing."""
    task = register.task
    if not task.kernel.sched.rqs[task.cpu].nohz_kick:
        return
    irq_enter()
    raise_softirq_irqoff(SCHED_SOFTIRQ)
    irq_exit()
