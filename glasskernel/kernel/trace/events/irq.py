"""Device interrupts and softirqs.

Linux: include/trace/events/irq.h (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.trace.trace_events import Values, trace_system

if TYPE_CHECKING:
    from glasskernel.kernel.irq.irqdesc import IrqAction


irq = trace_system("irq")


@irq.event(
    fields="int irq; __data_loc char[] name",
    print_fmt='"irq=%d name=%s", REC->irq, __get_str(name)',
    irqs_off=True,
)
def irq_handler_entry(irq: int, action: IrqAction) -> Values:
    return (irq, action.name.encode())


@irq.event(
    fields="int irq; int ret",
    print_fmt='"irq=%d ret=%s", REC->irq, REC->ret ? "handled" : "unhandled"',
    irqs_off=True,
)
def irq_handler_exit(irq: int, action: IrqAction, ret: int) -> Values:
    return (irq, ret)


@irq.event_class(
    fields="unsigned int vec",
    print_fmt=(
        '"vec=%u [action=%s]", REC->vec, __print_symbolic(REC->vec, { 0, "HI" }, { 1, "TIMER" }, { 2, "NET_TX" }, '
        '{ 3, "NET_RX" }, { 4, "BLOCK" }, { 5, "IRQ_POLL" }, { 6, "TASKLET" }, { 7, "SCHED" }, { 8, "HRTIMER" }, '
        '{ 9, "RCU" })'),
)
def softirq(vec_nr: int) -> Values:
    return (vec_nr,)


softirq_entry = softirq.define("softirq_entry")
softirq_exit = softirq.define("softirq_exit")
softirq_raise = softirq.define("softirq_raise", irqs_off=True)
