"""A CPU goes, and is started again.

Linux: native_cpu_up(), native_cpu_disable(), native_cpu_die(), native_play_dead() of arch/x86/kernel/smpboot.c,
fixup_irqs() of irq.c (5.3). Same: a dead CPU halts with interrupts off in its idle task, and begins anew at the startup
interrupt.
Differs: the stack it has halted on is thrown away when it is declared dead.
Gaps: the boot CPU does not go.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from greenlet import getcurrent

from glasskernel.arch.x86.entry.smpboot import secondary_startup_64
from glasskernel.kernel.cpu import SmpOps, cpuhp_report_idle_dead, set_cpu_online
from glasskernel.kernel.current import register
from glasskernel.kernel.irq.affinity import irq_migrate_all_off_this_cpu
from glasskernel.kernel.sched.hotplug import idle_task_exit, idle_thread_get
from glasskernel.lib.errno import EBUSY
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


@may_sleep
def native_cpu_up(kernel: Kernel, cpu: int) -> None:
    """Starts a CPU: it runs start_secondary(). Context: task."""
    idle = idle_thread_get(kernel, cpu)
    if idle.stack is None:
        idle.stack = kernel.machine.new_stack(secondary_startup_64)
    node = kernel.machine.cpus[cpu].node
    kernel.printk(f"smpboot: Booting Node {node} Processor {cpu} APIC 0x{cpu:x}")
    do_boot_cpu(kernel, cpu)


def do_boot_cpu(kernel: Kernel, cpu: int) -> None:
    machine = kernel.machine
    vcpu = machine.cpus[cpu]
    vcpu.task = kernel.pids.idle_tasks[cpu]
    machine.start(vcpu, vcpu.task.stack)


def native_cpu_disable() -> int:
    """On the CPU that goes, interrupts off: it is off line now. Returns 0; EBUSY's negative: the boot CPU."""
    task = register.task
    kernel, cpu = task.kernel, task.cpu
    if not cpu:
        return -EBUSY
    set_cpu_online(kernel, cpu, False)             # cpu_disable_common()
    fixup_irqs()
    return 0


def fixup_irqs() -> None:
    irq_migrate_all_off_this_cpu()


@may_sleep
def native_cpu_die(kernel: Kernel, cpu: int) -> None:
    """The CPU stands still: its stack goes. Context: another CPU."""
    idle = kernel.pids.idle_tasks[cpu]
    stack, idle.stack = idle.stack, None
    assert stack is not None
    stack.parent = getcurrent()
    stack.throw()
    kernel.machine.cpus[cpu].stack = None
    kernel.printk(f"smpboot: CPU {cpu} is now offline")


def native_play_dead() -> None:
    """The idle task's end. Context: the CPU that goes."""
    kernel = register.task.kernel
    cpuhp_report_idle_dead()
    play_dead_common()
    hlt_play_dead(kernel)


@notrace
def play_dead_common() -> None:
    idle_task_exit()


def hlt_play_dead(kernel: Kernel) -> None:
    kernel.machine.park()


smp_ops = SmpOps(native_cpu_up, native_cpu_disable, native_cpu_die, native_play_dead)
