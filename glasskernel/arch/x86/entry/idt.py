"""The external half of the IDT: which function an interrupt vector enters.

Linux: arch/x86/kernel/idt.c, arch/x86/include/asm/irq_vectors.h.
"""
from __future__ import annotations

from glasskernel.arch.x86.entry.apic import (
    smp_apic_timer_interrupt,
    smp_call_function_interrupt,
    smp_call_function_single_interrupt,
    smp_irq_work_interrupt,
    smp_reschedule_interrupt,
)
from glasskernel.arch.x86.entry.irq import do_IRQ
from glasskernel.kernel.current import current
from glasskernel.lib.types import notrace
from glasskernel.machine.costs import INTERRUPT
from glasskernel.machine.machine import (
    CALL_FUNCTION_SINGLE_VECTOR,
    CALL_FUNCTION_VECTOR,
    FIRST_EXTERNAL_VECTOR,
    IRQ_WORK_VECTOR,
    LOCAL_TIMER_VECTOR,
    RESCHEDULE_VECTOR,
)


@notrace
def vector(number: int) -> None:
    """Takes one interrupt on the running CPU, on the current task's stack."""
    cpu = current().kernel.machine.this_cpu
    cpu.entry_ns = cpu.clock_ns
    cpu.clock_ns += INTERRUPT
    if number == LOCAL_TIMER_VECTOR:
        smp_apic_timer_interrupt()
    elif number == RESCHEDULE_VECTOR:
        smp_reschedule_interrupt()
    elif number == IRQ_WORK_VECTOR:
        smp_irq_work_interrupt()
    elif number == CALL_FUNCTION_SINGLE_VECTOR:
        smp_call_function_single_interrupt()
    elif number == CALL_FUNCTION_VECTOR:
        smp_call_function_interrupt()
    else:
        do_IRQ(number - FIRST_EXTERNAL_VECTOR - 0x10)
