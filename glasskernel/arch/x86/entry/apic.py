"""The local APIC's interrupts: the timer, rescheduling, function calls.

Linux: arch/x86/kernel/apic/apic.c, arch/x86/kernel/smp.c (5.3). Context: the interrupted task's stack.
"""
from __future__ import annotations

from glasskernel.kernel.current import register
from glasskernel.kernel.irq_work import irq_work_run
from glasskernel.kernel.sched.tick import scheduler_ipi
from glasskernel.kernel.smp import generic_smp_call_function_interrupt, generic_smp_call_function_single_interrupt
from glasskernel.kernel.softirq import irq_enter, irq_exit
from glasskernel.kernel.time.hrtimer import hrtimer_interrupt
from glasskernel.machine.machine import CALL_FUNCTION_SINGLE_VECTOR, CALL_FUNCTION_VECTOR, IRQ_WORK_VECTOR

LOCAL_TIMER_VECTOR, RESCHEDULE_VECTOR = 0xEC, 0xFD


def smp_apic_timer_interrupt() -> None:
    """LOCAL_TIMER_VECTOR"""
    task = register.task
    kernel = task.kernel
    irq_enter()
    probe = kernel.tp.local_timer_entry
    if probe is not None:
        probe(LOCAL_TIMER_VECTOR)
    kernel.irq.cpu_stat["LOC"][task.cpu] += 1      # local_apic_timer_interrupt()
    hrtimer_interrupt(kernel, task.cpu)
    probe = kernel.tp.local_timer_exit
    if probe is not None:
        probe(LOCAL_TIMER_VECTOR)
    irq_exit()                                     # exiting_irq()


def smp_irq_work_interrupt() -> None:
    """IRQ_WORK_VECTOR"""
    kernel = register.task.kernel
    irq_enter()
    probe = kernel.tp.irq_work_entry
    if probe is not None:
        probe(IRQ_WORK_VECTOR)
    kernel.irq.cpu_stat["IWI"][register.task.cpu] += 1
    irq_work_run(kernel)
    probe = kernel.tp.irq_work_exit
    if probe is not None:
        probe(IRQ_WORK_VECTOR)
    irq_exit()


def smp_call_function_interrupt() -> None:
    """CALL_FUNCTION_VECTOR"""
    task = register.task
    kernel = task.kernel
    irq_enter()
    probe = kernel.tp.call_function_entry
    if probe is not None:
        probe(CALL_FUNCTION_VECTOR)
    kernel.irq.cpu_stat["CAL"][task.cpu] += 1
    generic_smp_call_function_interrupt()
    probe = kernel.tp.call_function_exit
    if probe is not None:
        probe(CALL_FUNCTION_VECTOR)
    irq_exit()


def smp_call_function_single_interrupt() -> None:
    """CALL_FUNCTION_SINGLE_VECTOR"""
    task = register.task
    kernel = task.kernel
    irq_enter()
    probe = kernel.tp.call_function_single_entry
    if probe is not None:
        probe(CALL_FUNCTION_SINGLE_VECTOR)
    kernel.irq.cpu_stat["CAL"][task.cpu] += 1
    generic_smp_call_function_single_interrupt()
    probe = kernel.tp.call_function_single_exit
    if probe is not None:
        probe(CALL_FUNCTION_SINGLE_VECTOR)
    irq_exit()


def smp_reschedule_interrupt() -> None:
    """RESCHEDULE_VECTOR: need_resched is acted on where the interrupt returns to."""
    task = register.task
    kernel = task.kernel
    kernel.irq.cpu_stat["RES"][task.cpu] += 1
    if kernel.tp.reschedule_entry is not None or kernel.tp.reschedule_exit is not None:
        irq_enter()                                # somebody listens: the events belong to an interrupt
        probe = kernel.tp.reschedule_entry
        if probe is not None:
            probe(RESCHEDULE_VECTOR)
        scheduler_ipi()
        probe = kernel.tp.reschedule_exit
        if probe is not None:
            probe(RESCHEDULE_VECTOR)
        irq_exit()
        return
    scheduler_ipi()
