"""The idle loop.

Linux: kernel/sched/idle.c, arch/x86/kernel/process.c (5.3). Same: the tick stops before the CPU halts,
need_resched ends the loop. Owns: nothing. Context: a CPU's idle task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.rcu.dynticks import rcu_idle_enter, rcu_idle_exit
from glasskernel.kernel.sched.core import schedule_idle
from glasskernel.kernel.task import TIF_NEED_RESCHED
from glasskernel.kernel.time.tick_sched import (
    tick_nohz_idle_enter,
    tick_nohz_idle_exit,
    tick_nohz_idle_got_tick,
    tick_nohz_idle_retain_tick,
    tick_nohz_idle_stop_tick,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

# CPUs that are idle for less than this, on average, keep their tick: the guess of Linux's cpuidle governors.
SHORT_IDLE_NS = 250_000
PWR_EVENT_EXIT = 0xFFFF_FFFF


def cpu_startup_entry() -> None:
    """What a CPU's idle task does for ever."""
    while True:
        do_idle()


def do_idle() -> None:
    """Halts until there is something to run, then runs it."""
    task = register.task
    kernel = task.kernel
    cpu = task.cpu
    if not kernel.sched.cpu_online_mask >> cpu & 1:
        kernel.cpuhp.smp_ops.play_dead()           # arch_cpu_idle_dead()
    tick_nohz_idle_enter(kernel, cpu)
    short = kernel.sched.rqs[cpu].avg_idle < SHORT_IDLE_NS
    while not task.ti_flags & TIF_NEED_RESCHED:
        if short and not tick_nohz_idle_got_tick(kernel, cpu):
            tick_nohz_idle_retain_tick(kernel, cpu)
        else:
            tick_nohz_idle_stop_tick(kernel, cpu)
        rcu_idle_enter()
        default_idle_call(kernel)
        rcu_idle_exit()
    tick_nohz_idle_exit(kernel, cpu)
    schedule_idle()


def default_idle_call(kernel: Kernel) -> None:
    arch_cpu_idle(kernel)


def arch_cpu_idle(kernel: Kernel) -> None:
    default_idle(kernel)


def default_idle(kernel: Kernel) -> None:
    cpu = register.task.cpu
    probe = kernel.tp.cpu_idle
    if probe is not None:
        probe(1, cpu)
    native_safe_halt(kernel)
    probe = kernel.tp.cpu_idle
    if probe is not None:
        probe(PWR_EVENT_EXIT, cpu)


def native_safe_halt(kernel: Kernel) -> None:
    """STI; HLT: comes back when an interrupt was handled."""
    kernel.machine.halt()
