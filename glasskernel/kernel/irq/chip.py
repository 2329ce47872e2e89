"""Interrupt controllers and flow handlers.

Linux: kernel/irq/chip.c, arch/x86/kernel/apic/io_apic.c, i8259.c (5.3). Owns: the chips' tables.
Context of every function: irq, or task while an interrupt is set up.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.irq.handle import handle_irq_event
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.irq.irqdesc import IrqDesc


@notrace
def ack_nothing(desc: IrqDesc) -> None:
    """The machine's controllers need no acknowledgement."""


@slotted(frozen=True)
class IrqChip:
    """struct irq_chip. name: the column of /proc/interrupts."""

    name: str
    irq_ack: Callable[[IrqDesc], None] = ack_nothing
    irq_eoi: Callable[[IrqDesc], None] = ack_nothing


@notrace
def kstat_incr_irqs_this_cpu(desc: IrqDesc) -> None:
    """Counts one interrupt."""
    cpu = register.task.cpu
    desc.kstat_irqs[cpu] += 1
    desc.tot_count += 1
    desc.kernel.irq.irq_count[cpu] += 1


@notrace
def _ack_and_handle(desc: IrqDesc) -> None:
    """It is remembered if nobody may handle it now. Nothing interrupts a handler here: no line has to be masked."""
    kstat_incr_irqs_this_cpu(desc)
    desc.chip.irq_ack(desc)
    if desc.depth or not desc.actions:
        desc.pending = True
        return
    handle_irq_event(desc)


def handle_edge_irq(desc: IrqDesc) -> None:
    """An edge came."""
    _ack_and_handle(desc)


def handle_level_irq(desc: IrqDesc) -> None:
    """A line of the i8259s is up."""
    _ack_and_handle(desc)


def handle_fasteoi_irq(desc: IrqDesc) -> None:
    """A level-triggered line behind a controller that wants one end-of-interrupt."""
    kstat_incr_irqs_this_cpu(desc)
    if desc.depth or not desc.actions:
        desc.pending = True
    else:
        handle_irq_event(desc)
    desc.chip.irq_eoi(desc)


ioapic_chip = IrqChip("IO-APIC")
i8259A_chip = IrqChip("XT-PIC")
pci_msi_controller = IrqChip("PCI-MSI")
