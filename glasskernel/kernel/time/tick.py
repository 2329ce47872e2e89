"""What happens at each tick of a CPU.

Linux: tick_sched_timer() and tick_setup_sched_timer() of kernel/time/tick-sched.c, update_process_times() and
run_local_timers() of kernel/time/timer.c (5.3); a file of its own because imports run downwards only.
Context: irq.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.irq.irqdesc import SCHED_SOFTIRQ, TIMER_SOFTIRQ
from glasskernel.kernel.rcu.tree import rcu_sched_clock_irq, tick_in_no_reader
from glasskernel.kernel.sched.cputime import vtime_flush
from glasskernel.kernel.sched.tick import run_rebalance_domains, scheduler_tick
from glasskernel.kernel.softirq import open_softirq, raise_softirq
from glasskernel.kernel.time.dl_timer import dl_timer_init
from glasskernel.kernel.time.hrtimer import hrtimer_forward, hrtimer_init, hrtimer_start
from glasskernel.kernel.time.posix_cpu_timers import run_posix_cpu_timers
from glasskernel.kernel.time.tick_sched import tick_sched_do_timer
from glasskernel.kernel.time.timekeeping import ktime_get
from glasskernel.kernel.time.timer import run_timer_softirq
from glasskernel.kernel.time.types import (
    CLOCK_MONOTONIC,
    HRTIMER_MODE_ABS,
    HRTIMER_NORESTART,
    HRTIMER_RESTART,
    TICK_NSEC,
    Hrtimer,
    TickSched,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


def tick_sched_timer(timer: Hrtimer) -> int:
    """The tick of this CPU."""
    ts: TickSched = timer.data
    if ts.inidle:
        ts.got_idle_tick = True
    cpu = register.task.cpu
    kernel = register.task.kernel
    now = ktime_get()
    tick_sched_do_timer(kernel, cpu, now)
    tick_sched_handle(ts)
    if ts.tick_stopped:
        return HRTIMER_NORESTART
    hrtimer_forward(timer, now, TICK_NSEC)
    return HRTIMER_RESTART


def tick_sched_handle(ts: TickSched) -> None:
    if ts.tick_stopped:
        ts.next_tick = 0                           # it fired: must be set anew
    update_process_times()


def update_process_times() -> None:
    """The running task has seen another tick."""
    p = register.task
    vtime_flush(p.kernel.sched.rqs[p.cpu])         # account_process_tick()
    run_local_timers(p.kernel, p.cpu)
    rcu_sched_clock_irq(tick_in_no_reader())
    scheduler_tick()
    run_posix_cpu_timers(p)


def run_local_timers(kernel: Kernel, cpu: int) -> None:
    """Lets TIMER_SOFTIRQ look at the wheel, if a jiffy has passed that it has not seen."""
    time = kernel.time
    std, deferrable = time.wheel[cpu]
    if time.jiffies >= std.clk or time.jiffies >= deferrable.clk:
        raise_softirq(TIMER_SOFTIRQ)


def tick_setup_sched_timer(kernel: Kernel, cpu: int) -> None:
    """Starts the running CPU's tick."""
    timer = kernel.time.tick_sched[cpu].sched_timer
    hrtimer_init(timer, CLOCK_MONOTONIC, HRTIMER_MODE_ABS)
    hrtimer_start(timer, (ktime_get() // TICK_NSEC + 1) * TICK_NSEC, HRTIMER_MODE_ABS)


def tick_init(kernel: Kernel) -> None:
    """Opens the softirqs of the tick, and starts it on the boot CPU. Needs kernel.irq and kernel.sched."""
    open_softirq(kernel, TIMER_SOFTIRQ, run_timer_softirq)
    open_softirq(kernel, SCHED_SOFTIRQ, run_rebalance_domains)
    dl_timer_init(kernel)
    kernel.time.last_jiffies_update = kernel.machine.now() // TICK_NSEC * TICK_NSEC
    for _ in kernel.machine.cpus:
        ts = TickSched(Hrtimer(tick_sched_timer))
        ts.sched_timer.data = ts
        kernel.time.tick_sched.append(ts)
    tick_setup_sched_timer(kernel, register.task.cpu)
