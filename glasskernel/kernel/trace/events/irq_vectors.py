"""Interrupts without a descriptor: the local timer, rescheduling, function calls.

Linux: arch/x86/include/asm/trace/irq_vectors.h (5.3).
Gaps: vectors that this machine never raises; vector_* (there are no vector domains).
"""
from __future__ import annotations

from glasskernel.kernel.trace.trace_events import Values, trace_system

irq_vectors = trace_system("irq_vectors")


@irq_vectors.event_class(
    fields="int vector",
    print_fmt='"vector=%d", REC->vector',
    irqs_off=True,
)
def x86_irq_vector(vector: int) -> Values:
    return (vector,)


local_timer_entry = x86_irq_vector.define("local_timer_entry")
local_timer_exit = x86_irq_vector.define("local_timer_exit")
irq_work_entry = x86_irq_vector.define("irq_work_entry")
irq_work_exit = x86_irq_vector.define("irq_work_exit")
call_function_entry = x86_irq_vector.define("call_function_entry")
call_function_exit = x86_irq_vector.define("call_function_exit")
call_function_single_entry = x86_irq_vector.define("call_function_single_entry")
call_function_single_exit = x86_irq_vector.define("call_function_single_exit")
reschedule_entry = x86_irq_vector.define("reschedule_entry")
reschedule_exit = x86_irq_vector.define("reschedule_exit")
