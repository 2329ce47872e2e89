"""Calling functions on other CPUs, through interrupts.

Linux: kernel/smp.c, arch/x86/kernel/smp.c (5.3). Same: a queue per CPU, one interrupt for all that is queued, the
caller's own CPU left out. Differs: nobody waits for the others (wait): memory is the same for all CPUs at every
moment, so what a caller does before the interrupt is seen there; what the function itself does happens when that CPU
takes the interrupt, before it runs user code again.
Owns: IrqState.call_single_queue. Context: queueing in any; functions run in a hard interrupt.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import register
from glasskernel.kernel.irq_work import irq_work_run
from glasskernel.lib.types import notrace
from glasskernel.machine.machine import CALL_FUNCTION_SINGLE_VECTOR, CALL_FUNCTION_VECTOR

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

SmpCallFunc = Callable[[Any], None]


def smp_call_function_many(cpus: list[int], func: SmpCallFunc, info: Any) -> None:
    """func(info) on these CPUs, but not on this one. One of them only: by the vector for one."""
    kernel = register.task.kernel
    this_cpu = register.task.cpu
    others = [cpu for cpu in cpus if cpu != this_cpu]
    if len(others) == 1:
        smp_call_function_single(others[0], func, info)
        return
    for cpu in others:
        kernel.irq.call_single_queue[cpu].append((func, info))
        kernel.machine.interrupt(kernel.machine.cpus[cpu], CALL_FUNCTION_VECTOR)


def smp_call_function_single(cpu: int, func: SmpCallFunc, info: Any) -> None:
    """func(info) on one CPU; at once if it is this one."""
    task = register.task
    if cpu == task.cpu:
        func(info)
    else:
        generic_exec_single(task.kernel, cpu, func, info)


def generic_exec_single(kernel: Kernel, cpu: int, func: SmpCallFunc, info: Any) -> None:
    kernel.irq.call_single_queue[cpu].append((func, info))
    kernel.machine.interrupt(kernel.machine.cpus[cpu], CALL_FUNCTION_SINGLE_VECTOR)


def smpcfd_dying_cpu(kernel: Kernel, cpu: int) -> None:
    """A CPU goes: what waits for its interrupt, it does now. Context: that CPU, interrupts off."""
    flush_smp_call_function_queue()
    irq_work_run(kernel)


@notrace
def generic_smp_call_function_interrupt() -> None:
    generic_smp_call_function_single_interrupt()


def generic_smp_call_function_single_interrupt() -> None:
    flush_smp_call_function_queue()


def flush_smp_call_function_queue() -> None:
    """Everything that was queued for this CPU, oldest first."""
    task = register.task
    queue = task.kernel.irq.call_single_queue[task.cpu]
    while queue:
        func, info = queue.pop(0)
        func(info)
