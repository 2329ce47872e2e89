"""Calling the handlers of an interrupt.

Linux: kernel/irq/handle.c (5.3). Context: irq.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.irq.irqdesc import IRQ_NONE, IRQ_WAKE_THREAD
from glasskernel.kernel.sched.core import wake_up_process

if TYPE_CHECKING:
    from glasskernel.kernel.irq.irqdesc import IrqAction, IrqDesc


def handle_irq_event(desc: IrqDesc) -> int:
    """Runs every action. Returns the or of what they returned."""
    desc.pending = False
    return handle_irq_event_percpu(desc)


def handle_irq_event_percpu(desc: IrqDesc) -> int:
    return __handle_irq_event_percpu(desc)


def __handle_irq_event_percpu(desc: IrqDesc) -> int:
    retval = IRQ_NONE
    for action in tuple(desc.actions):
        probe = desc.kernel.tp.irq_handler_entry
        if probe is not None:
            probe(desc.irq, action)
        res = action.handler(desc.irq, action.dev_id)
        probe = desc.kernel.tp.irq_handler_exit
        if probe is not None:
            probe(desc.irq, action, res)
        if res == IRQ_WAKE_THREAD:
            __irq_wake_thread(desc, action)
        retval |= res
    return retval


def __irq_wake_thread(desc: IrqDesc, action: IrqAction) -> None:
    """The handler leaves the work to its thread, irq/N-name."""
    action.thread_pending = True
    if action.thread is not None:
        wake_up_process(action.thread)
