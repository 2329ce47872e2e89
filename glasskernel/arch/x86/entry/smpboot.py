"""Bringing up the other CPUs.

Linux: arch/x86/kernel/smpboot.c, head_64.S, kernel/smp.c (5.3). Differs: a CPU begins on its idle task's
stack at once, so there is no trampoline; the startup interrupt is the machine's wakeup.
Context: the CPU's idle task; smp_init(): PID 1.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.rcu.tree import rcu_cpu_starting
from glasskernel.kernel.sched.idle import cpu_startup_entry
from glasskernel.kernel.time.tick import tick_setup_sched_timer

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


def secondary_startup_64() -> None:
    """The first code of a CPU."""
    start_secondary()


def start_secondary() -> None:
    """Starts this CPU's local timer, and idles until there is work."""
    task = register.task
    rcu_cpu_starting(task.kernel, task.cpu)
    tick_setup_sched_timer(task.kernel, task.cpu)
    cpu_startup_entry()


def smp_init(kernel: Kernel) -> None:
    """Wakes every CPU but the first."""
    for vcpu in kernel.machine.cpus[1:]:
        kernel.machine.kick(vcpu.id)
