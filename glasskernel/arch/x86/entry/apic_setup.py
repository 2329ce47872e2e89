"""Which CPUs and interrupt controllers the kernel uses, when the command line says something of them.

Linux: kernel/smp.c (nosmp, maxcpus=, nr_cpus=), arch/x86/kernel/apic/apic.c and io_apic.c (nolapic, noapic), smpboot.c
(prefill_possible_map(), disable_smp()), time.c (5.3). Same: without I/O APIC the interrupt lines end at the two i8259s
(XT-PIC); without local APIC, or with nosmp, there is one CPU; without local APIC line 0 is the clock.
Differs: without local APIC the machine's deadline timer stands for counter 0 of the i8254. Messages come at the begin.
Imported when the command line names one of these words. Context: start_kernel(), before memory is set up.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.entry.idt import vector
from glasskernel.arch.x86.entry.irq import do_IRQ
from glasskernel.kernel.current import register
from glasskernel.kernel.irq.irqdesc import IRQ_HANDLED
from glasskernel.kernel.time.hrtimer import hrtimer_interrupt
from glasskernel.lib.types import notrace
from glasskernel.machine.costs import INTERRUPT
from glasskernel.machine.machine import LOCAL_TIMER_VECTOR

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

TIMER_IRQ = 0


@notrace
def early_smp_params(kernel: Kernel) -> None:
    """Reads the words. What is no number counts as 0, as get_option() has it."""
    nr_cpu_ids = len(kernel.machine.cpus)
    skip_ioapic_setup = False
    for word in kernel.params.cmdline.split():
        name, _, value = word.partition("=")
        number = int(value) if value.isdigit() else 0
        if name == "nosmp":
            kernel.setup_max_cpus = 0
        elif name == "maxcpus":
            kernel.setup_max_cpus = number
        elif name == "nr_cpus" and number > 0:
            nr_cpu_ids = min(number, nr_cpu_ids)
        elif name == "noapic":
            skip_ioapic_setup = True
        elif name in ("nolapic", "disableapic"):
            kernel.disable_apic = True
    prefill_possible_map(kernel, nr_cpu_ids)
    apic_intr_mode_select(kernel, skip_ioapic_setup)


def prefill_possible_map(kernel: Kernel, nr_cpu_ids: int) -> None:
    """The CPUs that there may ever be."""
    possible = len(kernel.machine.cpus)
    if possible > nr_cpu_ids:
        kernel.printk(f"smpboot: {possible} Processors exceeds NR_CPUS limit of {nr_cpu_ids}", 4)
        possible = nr_cpu_ids
    if kernel.disable_apic:                        # the MADT's local APICs are not looked at
        possible = 1
    elif not kernel.setup_max_cpus and possible > 1:
        kernel.printk(f"smpboot: {possible} Processors exceeds max_cpus limit of {kernel.setup_max_cpus}", 4)
        possible = 1
    kernel.machine.leave_in_reset(possible)


def apic_intr_mode_select(kernel: Kernel, skip_ioapic_setup: bool) -> None:
    """How interrupts come: through the I/O APIC, or through the i8259s; to all CPUs or to one."""
    if kernel.disable_apic:
        kernel.printk("APIC: APIC disabled via kernel command line")
        kernel.machine.vector = vector_without_apic
    elif not kernel.setup_max_cpus:
        kernel.printk("APIC: SMP mode deactivated")
    if skip_ioapic_setup:
        kernel.printk("ACPI: Skipping IOAPIC probe due to 'noapic' option.")
    if skip_ioapic_setup or kernel.disable_apic or not kernel.setup_max_cpus:
        kernel.machine.legacy_pic = True           # disable_ioapic_support()
    if kernel.disable_apic or not kernel.setup_max_cpus:
        disable_smp(kernel)


def disable_smp(kernel: Kernel) -> None:
    kernel.printk("smpboot: SMP disabled")


# ---- a PC without local APIC ------------------------------------------------------------------------------------
@notrace
def vector_without_apic(number: int) -> None:
    """The external half of the IDT: the clock is a line as others are."""
    if number != LOCAL_TIMER_VECTOR:
        vector(number)
        return
    cpu = register.task.kernel.machine.this_cpu
    cpu.entry_ns = cpu.clock_ns
    cpu.clock_ns += INTERRUPT
    do_IRQ(TIMER_IRQ)


def timer_interrupt(irq: int, dev_id: object) -> int:
    """Line 0: global_clock_event's handler."""
    task = register.task
    hrtimer_interrupt(task.kernel, task.cpu)
    return IRQ_HANDLED


@notrace
def setup_default_timer_irq(kernel: Kernel) -> None:
    """The action of line 0 becomes the clock's. After pnp_init() has taken the line."""
    kernel.irq.descs[TIMER_IRQ].actions[0].handler = timer_interrupt
