"""Who handles which interrupt.

Linux: kernel/irq/manage.c (5.3). Same: sharing rules, nested disable, threads for threaded handlers.
Owns: desc.actions. Gaps: affinity is stored, but the machine's lines all go to CPU 0.
Context: task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.kernel.irq.chip import (
    handle_edge_irq,
    handle_fasteoi_irq,
    handle_level_irq,
    i8259A_chip,
    ioapic_chip,
)
from glasskernel.kernel.irq.irqdesc import (
    IRQ_WAKE_THREAD,
    IRQF_SHARED,
    NR_IRQS,
    IrqAction,
    IrqDesc,
    IrqHandler,
)
from glasskernel.kernel.kthread import kthread_create, kthread_should_stop, kthread_stop
from glasskernel.kernel.sched.core import schedule, set_current_state, wake_up_process
from glasskernel.kernel.task import TASK_INTERRUPTIBLE, TASK_RUNNING
from glasskernel.lib.errno import EBUSY, EINVAL, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


@notrace
def request_irq(kernel: Kernel, irq: int, handler: IrqHandler, flags: int, name: str, dev: Any) -> None:
    """Registers handler(irq, dev) -> IRQ_HANDLED or IRQ_NONE, and enables the line.

    Raises EINVAL (no such line), EBUSY (taken, and not shared by both).
    """
    request_threaded_irq(kernel, irq, handler, None, flags, name, dev)


def request_threaded_irq(kernel: Kernel, irq: int, handler: IrqHandler | None, thread_fn: IrqHandler | None,
                         flags: int, name: str, dev: Any) -> None:
    """As request_irq(); what handler answers with IRQ_WAKE_THREAD, thread_fn does in a thread.

    handler None: always.
    """
    if not 0 <= irq < NR_IRQS or (handler is None and thread_fn is None):
        raise KernelError(EINVAL)
    if flags & IRQF_SHARED and dev is None:
        raise KernelError(EINVAL)
    action = IrqAction(handler or irq_default_primary_handler, flags, name, dev, thread_fn)
    __setup_irq(irq_desc_get(kernel, irq), action)


@notrace
def irq_desc_get(kernel: Kernel, irq: int) -> IrqDesc:
    """The descriptor; made at the first request. Line 9 (ACPI) and those of PCI are level-triggered, as on a PC."""
    desc = kernel.irq.descs.get(irq)
    if desc is None:
        counts = [0] * len(kernel.machine.cpus)
        if kernel.machine.legacy_pic:
            desc = IrqDesc(irq, kernel, i8259A_chip, handle_level_irq, "", -1, counts)
        else:
            level = irq == 9 or irq >= 16
            desc = IrqDesc(irq, kernel, ioapic_chip, handle_fasteoi_irq if level else handle_edge_irq,
                           "fasteoi" if level else "edge", irq, counts)
        desc.affinity = kernel.irq.default_affinity
        kernel.irq.descs[irq] = desc
        kernel.irq.descs = dict(sorted(kernel.irq.descs.items()))
        if kernel.irq.register_irq_proc is not None:
            kernel.irq.register_irq_proc(desc)
    return desc


def irq_default_primary_handler(irq: int, dev_id: Any) -> int:
    return IRQ_WAKE_THREAD


def __setup_irq(desc: IrqDesc, new: IrqAction) -> None:
    if desc.actions and not desc.actions[0].flags & new.flags & IRQF_SHARED:
        raise KernelError(EBUSY)
    if new.thread_fn is not None:
        setup_irq_thread(desc, new)
    desc.actions.append(new)
    if len(desc.actions) == 1:
        irq_startup(desc)
    if new.thread is not None:
        wake_up_process(new.thread)


def setup_irq_thread(desc: IrqDesc, action: IrqAction) -> None:
    action.thread = kthread_create(irq_thread, (desc, action), f"irq/{desc.irq}-{action.name}")


def irq_thread(data: Any) -> int:
    """The thread of a threaded handler."""
    desc, action = data
    while True:
        set_current_state(TASK_INTERRUPTIBLE)
        if action.thread_pending:
            set_current_state(TASK_RUNNING)
            action.thread_pending = False
            action.thread_fn(desc.irq, action.dev_id)
            continue
        if kthread_should_stop():
            set_current_state(TASK_RUNNING)
            return 0
        schedule()


def irq_startup(desc: IrqDesc) -> None:
    desc.depth = 0


def free_irq(kernel: Kernel, irq: int, dev_id: Any) -> None:
    """Takes the handler that was registered with this dev_id away."""
    desc = kernel.irq.descs[irq]
    action = next(a for a in desc.actions if a.dev_id is dev_id)
    desc.actions.remove(action)
    if not desc.actions:
        desc.depth = 1
    if action.thread is not None:
        kthread_stop(action.thread)


def disable_irq_nosync(kernel: Kernel, irq: int) -> None:
    """Masks the line; nests."""
    kernel.irq.descs[irq].depth += 1


def disable_irq(kernel: Kernel, irq: int) -> None:
    """disable_irq_nosync(), and no handler runs any more."""
    disable_irq_nosync(kernel, irq)


def enable_irq(kernel: Kernel, irq: int) -> None:
    """Undoes one disable; an edge that came meanwhile is delivered."""
    desc = kernel.irq.descs[irq]
    assert desc.depth > 0
    desc.depth -= 1
    if not desc.depth and desc.pending:
        desc.pending = False
        kernel.machine.post_irq(irq)


