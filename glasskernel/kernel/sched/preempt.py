"""Where kernel code lets others run: the boot option preempt=none|voluntary|full.

Linux: include/linux/preempt.h, might_resched() of include/linux/kernel.h (5.3: CONFIG_PREEMPT_NONE, _VOLUNTARY,
CONFIG_PREEMPT); as a boot option kernel/sched/core.c of 5.12 (CONFIG_PREEMPT_DYNAMIC). Same: what each model does at
cond_resched(), might_sleep() and preempt_enable(); nothing happens while preempt_count is not 0.
Differs: Linux takes interrupts anywhere in the kernel. Here kernel code is atomic between points, and every room relies
    on it; a point is where Linux could sleep (taking a mutex or rw_semaphore) or lets a lock go. At a point, interrupts
    that are due are taken (do_IRQ, softirqs), other CPUs may catch up, and then the scheduler is asked:

        none        cond_resched()
        voluntary   cond_resched(), and before a lock is taken
        full        the same, and after a lock was given back, or bottom halves are enabled

    The points of a model that is not chosen cost a test of register.preempt_points. Default: none.
Owns: register.preempt_points: the model of the kernel whose CPU has the turn (SchedState.preempt_dynamic_mode).
Context: task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.core import cond_resched, preempt_schedule_common
from glasskernel.kernel.sched.types import preempt_dynamic_full, preempt_dynamic_none, preempt_dynamic_voluntary
from glasskernel.kernel.task import TIF_NEED_RESCHED
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

_MODES = {"none": preempt_dynamic_none, "voluntary": preempt_dynamic_voluntary, "full": preempt_dynamic_full}


@notrace
def setup_preempt_mode(kernel: Kernel, cmdline: str) -> None:
    """preempt=MODE of the command line; the last one counts, an unknown one is warned about."""
    for word in cmdline.split():
        name, _, value = word.partition("=")
        if name == "preempt":
            mode = _MODES.get(value)
            if mode is None:
                kernel.printk(f"Dynamic Preempt: unsupported mode: {value}", 4)
            else:
                kernel.sched.preempt_dynamic_mode = mode
                kernel.printk(f"Dynamic Preempt: {value}")


@notrace
def might_resched() -> None:
    """A voluntary point: the caller is about to take a lock that it might have to sleep for."""
    task = register.task
    if not task.preempt_count and task.pid and task.stack is not None and task.kernel.machine.running:
        cond_resched()


@notrace
def preempt_check_resched() -> None:
    """The end of preempt_enable(): a lock was given back. What is due comes now, and who was woken may run."""
    task = register.task
    if task.preempt_count or not task.pid or task.stack is None:
        return
    machine = task.kernel.machine
    if not machine.running:
        return
    vcpu = machine.this_cpu
    clock = vcpu.clock_ns
    deadline = vcpu.timer_deadline_ns
    if clock >= vcpu.turn_end_ns or vcpu.pending or (deadline is not None and clock >= deadline):
        machine.border()
    if task.ti_flags & TIF_NEED_RESCHED:
        preempt_schedule()


@notrace
def preempt_schedule() -> None:
    """The running task is preempted in the kernel, whatever its state says. (notrace in Linux, too.)"""
    preempt_schedule_common()


@notrace
def busy_for(ns: int) -> None:
    """The time of a long copy passes; interrupts come when they are due, as in Linux's loops over pages, each of
    which has a cond_resched()."""
    task = register.task
    machine = task.kernel.machine
    if task.preempt_count or not task.pid or not machine.running:
        machine.charge(ns)                         # interrupts are off
        return
    while True:
        vcpu = machine.this_cpu
        due = vcpu.turn_end_ns
        if vcpu.timer_deadline_ns is not None and vcpu.timer_deadline_ns < due:
            due = vcpu.timer_deadline_ns
        step = due - vcpu.clock_ns
        if step >= ns:
            vcpu.clock_ns += ns
            return
        if step > 0:
            vcpu.clock_ns += step
            ns -= step
        cond_resched()
