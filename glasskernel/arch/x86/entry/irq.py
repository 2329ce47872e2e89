"""Device interrupts: from the vector to the descriptor.

Linux: arch/x86/kernel/irq.c, irqinit.c (5.3). Context: the interrupted task's stack.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.irq.irqdesc import IrqDesc, generic_handle_irq_desc, irq_init
from glasskernel.kernel.softirq import irq_enter, irq_exit

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


def do_IRQ(irq: int) -> None:
    """One interrupt of a device."""
    kernel = register.task.kernel
    irq_enter()
    desc = kernel.irq.descs.get(irq)
    if desc is not None:
        handle_irq(desc)
    else:
        kernel.irq.cpu_stat["SPU"][register.task.cpu] += 1
    irq_exit()


def handle_irq(desc: IrqDesc) -> None:
    generic_handle_irq_desc(desc)


def init_IRQ(kernel: Kernel) -> None:
    """Makes kernel.irq. tick_init() then starts the local timers."""
    irq_init(kernel)
