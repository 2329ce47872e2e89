"""The tick, and stopping it on idle CPUs (NO_HZ).

Linux: kernel/time/tick-sched.c (5.3). Same: the tick is an hrtimer; one CPU counts jiffies; an idle CPU
sleeps until its next timer, and jiffies catch up when it wakes. Differs: what a tick does is in tick.py
(imports run
downwards).
Owns: kernel.time.tick_sched, tick_do_timer_cpu, last_jiffies_update.
Invariants: a CPU that is not idle ticks; jiffies are never ahead of the clock.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.rcu.dynticks import rcu_needs_cpu
from glasskernel.kernel.sched.loadavg import calc_load_nohz_start, calc_load_nohz_stop
from glasskernel.kernel.time.hrtimer import (
    hrtimer_cancel,
    hrtimer_forward,
    hrtimer_start,
    hrtimer_start_expires,
)
from glasskernel.kernel.time.timekeeping import do_timer, ktime_get
from glasskernel.kernel.time.timer import get_next_timer_interrupt, timer_clear_idle
from glasskernel.kernel.time.types import HRTIMER_MODE_ABS, KTIME_MAX, TICK_NSEC
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.time.types import TickSched

TICK_DO_TIMER_NONE = -1
TICK_DEP_MASK_NONE = 0


def tick_do_update_jiffies64(kernel: Kernel, now: int) -> None:
    """Counts the jiffies that passed until `now`."""
    time = kernel.time
    delta = now - time.last_jiffies_update
    if delta < TICK_NSEC:
        return
    ticks = delta // TICK_NSEC
    time.last_jiffies_update += ticks * TICK_NSEC
    do_timer(kernel, ticks)


@notrace
def tick_sched_do_timer(kernel: Kernel, cpu: int, now: int) -> None:
    """Takes over the duty to count jiffies if nobody has it, and does it."""
    time = kernel.time
    if time.tick_do_timer_cpu == TICK_DO_TIMER_NONE:
        time.tick_do_timer_cpu = cpu
    if time.tick_do_timer_cpu == cpu:
        tick_do_update_jiffies64(kernel, now)


# ---- idle -------------------------------------------------------------------------------------------------
def tick_nohz_idle_enter(kernel: Kernel, cpu: int) -> None:
    """The idle loop begins."""
    ts = kernel.time.tick_sched[cpu]
    ts.inidle = True
    tick_nohz_start_idle(ts)


@notrace
def tick_nohz_start_idle(ts: TickSched) -> None:
    ts.idle_entrytime = ktime_get()
    ts.idle_active = True


@notrace
def tick_nohz_stop_idle(ts: TickSched) -> None:
    ts.idle_active = False


def tick_nohz_idle_stop_tick(kernel: Kernel, cpu: int) -> None:
    """Before the CPU halts: no tick until the next timer, if that is more than a tick away."""
    ts = kernel.time.tick_sched[cpu]
    ts.idle_calls += 1
    ts.got_idle_tick = False
    expires = tick_nohz_next_event(kernel, ts, cpu)
    if expires:
        ts.idle_sleeps += 1
        tick_nohz_stop_tick(kernel, ts, cpu, expires)


def tick_nohz_idle_retain_tick(kernel: Kernel, cpu: int) -> None:
    """The idle period will be short: let it tick. A tick that comes shows that it was not."""
    timer_clear_idle(kernel, cpu)


@notrace
def tick_nohz_idle_got_tick(kernel: Kernel, cpu: int) -> bool:
    """True if the tick came while the CPU was idle."""
    return kernel.time.tick_sched[cpu].got_idle_tick


@notrace
def tick_nohz_next_event(kernel: Kernel, ts: TickSched, cpu: int) -> int:
    """When this idle CPU needs its next tick; 0: keep ticking."""
    time = kernel.time
    basemono = time.last_jiffies_update
    if rcu_needs_cpu(kernel, cpu):
        next_tick = basemono + TICK_NSEC
    else:
        next_tick = get_next_timer_interrupt(kernel, cpu, time.jiffies, basemono)
    if next_tick - basemono <= TICK_NSEC:
        timer_clear_idle(kernel, cpu)
        if not ts.tick_stopped:
            return 0
    return next_tick


@notrace
def tick_nohz_stop_tick(kernel: Kernel, ts: TickSched, cpu: int, tick: int) -> None:
    time = kernel.time
    if time.tick_do_timer_cpu == cpu:
        time.tick_do_timer_cpu = TICK_DO_TIMER_NONE
    if ts.tick_stopped:
        if tick == ts.next_tick:
            return
    else:
        calc_load_nohz_start(kernel.sched.rqs[cpu])
        ts.last_tick = ts.sched_timer.expires
        ts.tick_stopped = True
        probe = kernel.tp.tick_stop
        if probe is not None:
            probe(1, TICK_DEP_MASK_NONE)
    ts.next_tick = tick
    if tick >= KTIME_MAX:
        hrtimer_cancel(ts.sched_timer)
    else:
        hrtimer_start(ts.sched_timer, tick, HRTIMER_MODE_ABS)


def tick_nohz_idle_exit(kernel: Kernel, cpu: int) -> None:
    """The idle loop ends: the CPU ticks again."""
    ts = kernel.time.tick_sched[cpu]
    ts.inidle = False
    tick_nohz_stop_idle(ts)
    if ts.tick_stopped:
        tick_nohz_restart_sched_tick(kernel, ts, cpu)


def tick_nohz_restart_sched_tick(kernel: Kernel, ts: TickSched, cpu: int) -> None:
    now = ktime_get()
    tick_do_update_jiffies64(kernel, now)
    calc_load_nohz_stop(kernel.sched.rqs[cpu])
    timer_clear_idle(kernel, cpu)
    ts.tick_stopped = False
    tick_nohz_restart(ts, now)


@notrace
def tick_nohz_restart(ts: TickSched, now: int) -> None:
    timer = ts.sched_timer
    hrtimer_cancel(timer)
    timer.expires = timer.softexpires = ts.last_tick
    hrtimer_forward(timer, now, TICK_NSEC)
    hrtimer_start_expires(timer, HRTIMER_MODE_ABS)
    ts.next_tick = 0


def tick_irq_enter(kernel: Kernel, cpu: int) -> None:
    """An interrupt woke an idle CPU: its handlers shall see the right jiffies."""
    ts = kernel.time.tick_sched[cpu]
    if ts.tick_stopped:
        tick_nohz_update_jiffies(kernel)


def tick_nohz_update_jiffies(kernel: Kernel) -> None:
    tick_do_update_jiffies64(kernel, kernel.machine.now())


@notrace
def tick_irq_exit(kernel: Kernel, cpu: int) -> None:
    """Back to idle after an interrupt."""
    ts = kernel.time.tick_sched[cpu]
    if ts.inidle and not ts.idle_active:
        tick_nohz_start_idle(ts)
