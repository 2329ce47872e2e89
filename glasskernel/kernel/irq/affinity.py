"""Which CPU takes an interrupt line: affinity masks, and the I/O APIC's redirection table.

Linux: irq_set_affinity() of kernel/irq/manage.c, irq_migrate_all_off_this_cpu() of cpuhotplug.c, apic_set_affinity()
and vector allocation of arch/x86/kernel/apic/vector.c (5.3). Same: of the CPUs in the mask one is chosen, that with the
fewest lines; lines of a CPU that goes are sent to another, with their affinity broken if need be. Imported by the first
who asks.
Differs: at boot all lines go to CPU 0 (irqbalance or an administrator spreads them).
Owns: IrqDesc.affinity, machine.redirection. Context: task, or (migration) interrupts off.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.irq.chip import ioapic_chip
from glasskernel.lib.errno import EINVAL, EIO, KernelError
from glasskernel.lib.types import notrace
from glasskernel.machine.machine import FIRST_EXTERNAL_VECTOR

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.irq.irqdesc import IrqDesc

TIMER_IRQ = 0
ISA_VECTOR_BASE = FIRST_EXTERNAL_VECTOR + 0x10


@notrace
def effective_cpu(desc: IrqDesc) -> int:
    """Where the line goes."""
    return desc.kernel.machine.redirection.get(desc.irq, 0)


@notrace
def irq_can_set_affinity_usr(desc: IrqDesc) -> bool:
    """The clock stays; the i8259s know one CPU only."""
    return desc.irq != TIMER_IRQ and desc.chip is ioapic_chip


def irq_set_affinity(desc: IrqDesc, mask: int) -> None:
    """Sends the line to one of these CPUs. Raises EINVAL: none is online."""
    irq_do_set_affinity(desc, mask)
    desc.affinity = mask


def irq_do_set_affinity(desc: IrqDesc, mask: int) -> None:
    kernel = desc.kernel
    usable = mask & kernel.sched.cpu_online_mask
    if not usable:
        raise KernelError(EINVAL)
    if not usable >> effective_cpu(desc) & 1:
        kernel.machine.redirection[desc.irq] = irq_matrix_alloc(kernel, usable)


def irq_matrix_alloc(kernel: Kernel, usable: int) -> int:
    """The CPU with the fewest lines; of several the lowest."""
    lines = [0] * usable.bit_length()
    for desc in kernel.irq.descs.values():
        cpu = effective_cpu(desc)
        if cpu < len(lines):
            lines[cpu] += 1
    return min((count, cpu) for cpu, count in enumerate(lines) if usable >> cpu & 1)[1]


def irq_select_affinity_usr(desc: IrqDesc) -> None:
    """A mask without online CPUs was written: the default. Raises EIO."""
    if not irq_can_set_affinity_usr(desc):
        raise KernelError(EIO)
    irq_set_affinity(desc, desc.kernel.irq.default_affinity)


# ---- a CPU goes ----------------------------------------------------------------------------------------------------
def irq_migrate_all_off_this_cpu() -> None:
    """The CPU is off line: its lines, and what has come in on them, go elsewhere. Context: that CPU, interrupts off."""
    task = register.task
    kernel, cpu = task.kernel, task.cpu
    for desc in kernel.irq.descs.values():
        if effective_cpu(desc) == cpu and migrate_one_irq(desc):
            kernel.printk(f"IRQ {desc.irq}: no longer affine to CPU{cpu}", 4)
    pending = kernel.machine.cpus[cpu].pending
    for vector in [v for v in pending if ISA_VECTOR_BASE <= v < ISA_VECTOR_BASE + 64]:      # in the IRR: sent again
        pending.remove(vector)
        kernel.machine.post_irq(vector - ISA_VECTOR_BASE)


def migrate_one_irq(desc: IrqDesc) -> bool:
    """True: its affinity had to be broken."""
    online = desc.kernel.sched.cpu_online_mask
    broken = not desc.affinity & online
    if broken:
        desc.affinity = online
    irq_do_set_affinity(desc, desc.affinity)
    return broken
