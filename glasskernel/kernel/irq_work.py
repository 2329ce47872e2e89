"""Work for the next interrupt: for callers that must not wake anybody themselves.

Linux: kernel/irq_work.c (5.3). Same: the work runs in an interrupt that the CPU sends itself.
Owns: kernel.irq_work, functions that wait. Context: queueing in any, the work itself in a hard interrupt.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.machine.machine import IRQ_WORK_VECTOR

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


def irq_work_queue(kernel: Kernel, work: Callable[[], None]) -> None:
    """work() runs at this CPU's next interrupt."""
    kernel.irq_work.append(work)
    kernel.machine.interrupt(kernel.machine.this_cpu, IRQ_WORK_VECTOR)


def irq_work_run(kernel: Kernel) -> None:
    """Runs what waits."""
    waiting = kernel.irq_work
    kernel.irq_work = []
    for work in waiting:
        work()
