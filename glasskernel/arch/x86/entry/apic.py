"""The local APIC's interrupts: the timer, and rescheduling.

Linux: arch/x86/kernel/apic/apic.c, arch/x86/kernel/smp.c (5.3). Context: the interrupted task's stack.
"""
from __future__ import annotations

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.tick import scheduler_ipi
from glasskernel.kernel.softirq import irq_enter, irq_exit
from glasskernel.kernel.time.hrtimer import hrtimer_interrupt


def smp_apic_timer_interrupt() -> None:
    """LOCAL_TIMER_VECTOR"""
    task = register.task
    kernel = task.kernel
    irq_enter()
    kernel.irq.cpu_stat["LOC"][task.cpu] += 1      # local_apic_timer_interrupt()
    hrtimer_interrupt(kernel, task.cpu)
    irq_exit()                                     # exiting_irq()


def smp_reschedule_interrupt() -> None:
    """RESCHEDULE_VECTOR: need_resched is acted on where the interrupt returns to."""
    task = register.task
    kernel = task.kernel
    kernel.irq.cpu_stat["RES"][task.cpu] += 1
    scheduler_ipi()
