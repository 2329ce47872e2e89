"""The task that executes now.

Linux: arch/x86/include/asm/current.h. This register is the one mutable module global of the project
(DESIGN 3): it is what the hardware's "which CPU am I" would be. switch_to() writes it; everything else
reads it through current(). `current().kernel` is the Kernel, `current().cpu` the CPU number.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct


class CurrentRegister:
    """One slot. Only arch.x86.process.switch_to() and the machine's main loop write it."""

    __slots__ = ("preempt_points", "task")
    preempt_points: int                # of the kernel that has the turn: kernel/sched/preempt.py
    task: TaskStruct


register = CurrentRegister()
register.preempt_points = 0


@notrace
def current() -> TaskStruct:
    """The running task. Context: any, once the boot CPU's idle task exists."""
    return register.task
