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
    kernel, cpu = task.kernel, task.cpu
    rcu_cpu_starting(kernel, cpu)
    if kernel.cpuhp is None:                       # at boot all come at once
        tick_setup_sched_timer(kernel, cpu)
    else:
        from glasskernel.kernel.cpu import cpuhp_online_idle, notify_cpu_starting, set_cpu_online  # late: start-up time

        notify_cpu_starting(kernel, cpu)
        set_cpu_online(kernel, cpu, True)
        tick_setup_sched_timer(kernel, cpu)
        cpuhp_online_idle(kernel, cpu)
    cpu_startup_entry()


def smp_init(kernel: Kernel) -> None:
    """Wakes every CPU but the first: those that maxcpus= lets come."""
    sched = kernel.sched
    if sched.cpu_online_mask.bit_length() > kernel.setup_max_cpus:
        sched.cpu_online_mask = sched.cpu_active_mask = (1 << max(kernel.setup_max_cpus, 1)) - 1
    for vcpu in kernel.machine.cpus[1:]:
        if kernel.sched.cpu_online_mask >> vcpu.id & 1:
            kernel.machine.kick(vcpu.id)
        else:
            vcpu.stack = None
