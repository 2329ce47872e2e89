"""Interrupt descriptors, and the counters that /proc/interrupts and /proc/softirqs show.

Linux: kernel/irq/irqdesc.c, include/linux/irqdesc.h, arch/x86/include/asm/hardirq.h (5.3).
Owns: IrqState, reached as kernel.irq.
Invariants: desc.kstat_irqs and every row of `cpu_stat` and `softirqs` have one number per CPU; a descriptor
    without actions is masked.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.irq.chip import IrqChip
    from glasskernel.kernel.softirq import TaskletStruct
    from glasskernel.kernel.task import TaskStruct

IRQ_NONE, IRQ_HANDLED, IRQ_WAKE_THREAD = 0, 1, 2
IRQF_SHARED, IRQF_ONESHOT, IRQF_NO_SUSPEND = 0x80, 0x2000, 0x4000
IRQF_TRIGGER_RISING, IRQF_TRIGGER_HIGH = 0x1, 0x4
NR_IRQS = 64

# Softirq vectors, in the order of their priority (include/linux/interrupt.h).
(HI_SOFTIRQ, TIMER_SOFTIRQ, NET_TX_SOFTIRQ, NET_RX_SOFTIRQ, BLOCK_SOFTIRQ, IRQ_POLL_SOFTIRQ, TASKLET_SOFTIRQ,
 SCHED_SOFTIRQ, HRTIMER_SOFTIRQ, RCU_SOFTIRQ) = range(10)
NR_SOFTIRQS = 10
softirq_to_name = ("HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER",
                   "RCU")

# Rows of /proc/interrupts without a number: (label, text behind the counts), in Linux's order.
arch_interrupts = (
    ("NMI", "Non-maskable interrupts"), ("LOC", "Local timer interrupts"), ("SPU", "Spurious interrupts"),
    ("PMI", "Performance monitoring interrupts"), ("IWI", "IRQ work interrupts"),
    ("RTR", "APIC ICR read retries"),
    ("RES", "Rescheduling interrupts"), ("CAL", "Function call interrupts"), ("TLB", "TLB shootdowns"),
    ("TRM", "Thermal event interrupts"), ("THR", "Threshold APIC interrupts"),
    ("DFR", "Deferred Error APIC interrupts"), ("MCE", "Machine check exceptions"),
    ("MCP", "Machine check polls"),
)

IrqHandler = Callable[[int, Any], int]


@slotted
class IrqAction:
    """struct irqaction. handler(irq, dev_id) -> IRQ_HANDLED or IRQ_NONE. Context of the handler: irq."""

    handler: IrqHandler
    flags: int
    name: str
    dev_id: Any
    thread_fn: IrqHandler | None = None
    thread: TaskStruct | None = None
    thread_pending: bool = False


@slotted
class IrqDesc:
    """struct irq_desc. handle_irq(desc): the flow handler. depth: 0 enabled, else nested disable_irq()."""

    irq: int
    kernel: Kernel
    chip: IrqChip
    handle_irq: Callable[[IrqDesc], None]
    name: str                                # "edge", "fasteoi"; "": the i8259s do not say
    hwirq: int                               # the controller's input; -1: it has no domain
    kstat_irqs: list[int]
    actions: list[IrqAction] = field(default_factory=list)
    depth: int = 1
    pending: bool = False                    # raised while disabled
    affinity: int = 0                        # mask of CPUs
    tot_count: int = 0


@slotted
class IrqState:
    """kernel.irq."""

    descs: dict[int, IrqDesc] = field(default_factory=dict)           # by number, in order of their number
    cpu_stat: dict[str, list[int]] = field(default_factory=dict)      # by label of arch_interrupts
    err_count: int = 0
    mis_count: int = 0
    # softirqs: by CPU
    softirq_pending: list[int] = field(default_factory=list)
    softirqs: list[list[int]] = field(default_factory=list)           # [vector][CPU]
    softirq_vec: list[Callable[[Kernel], None] | None] = field(default_factory=lambda: [None] * NR_SOFTIRQS)
    tasklet_vec: list[list[TaskletStruct]] = field(default_factory=list)
    tasklet_hi_vec: list[list[TaskletStruct]] = field(default_factory=list)
    irq_count: list[int] = field(default_factory=list)                # device interrupts by CPU
    default_affinity: int = 0                                         # of lines that are requested from now on
    register_irq_proc: Callable[[IrqDesc], None] | None = None        # fs/proc/irq.py, once somebody looked into /proc
    call_single_queue: list[list[tuple[Callable[[Any], None], Any]]] = field(default_factory=list)    # by CPU


@notrace
def irq_init(kernel: Kernel) -> None:
    """Makes kernel.irq. Called by init_IRQ()."""
    cpus = len(kernel.machine.cpus)
    kernel.irq = IrqState(
        cpu_stat={label: [0] * cpus for label, _ in arch_interrupts},
        softirq_pending=[0] * cpus,
        softirqs=[[0] * cpus for _ in range(NR_SOFTIRQS)],
        tasklet_vec=[[] for _ in range(cpus)],
        tasklet_hi_vec=[[] for _ in range(cpus)],
        irq_count=[0] * cpus,
        default_affinity=(1 << cpus) - 1,
        call_single_queue=[[] for _ in range(cpus)],
    )


def irq_to_desc(kernel: Kernel, irq: int) -> IrqDesc | None:
    """The descriptor of an interrupt number, or None."""
    return kernel.irq.descs.get(irq)


def generic_handle_irq(kernel: Kernel, irq: int) -> int:
    """Calls the flow handler. Returns 0; EINVAL's negative for a number without descriptor."""
    desc = kernel.irq.descs.get(irq)
    if desc is None:
        return -22
    generic_handle_irq_desc(desc)
    return 0


@notrace
def generic_handle_irq_desc(desc: IrqDesc) -> None:
    desc.handle_irq(desc)


def kstat_irqs(kernel: Kernel, irq: int) -> int:
    """How often an interrupt came, on all CPUs (the `intr` line of /proc/stat)."""
    desc = kernel.irq.descs.get(irq)
    return desc.tot_count if desc is not None else 0


def arch_irq_stat_cpu(kernel: Kernel, cpu: int) -> int:
    """Interrupts without a number on one CPU."""
    return sum(row[cpu] for row in kernel.irq.cpu_stat.values())
