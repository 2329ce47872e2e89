"""Timers of a CPU that goes: the others take them over.

Linux: timers_prepare_cpu(), timers_dead_cpu() of kernel/time/timer.c, hrtimers_*_cpu() of hrtimer.c, tick_offline_cpu()
and tick_cancel_sched_timer() of tick-*.c (5.3). Same: what is pending stays pending, with its time, on the CPU that has
asked for the hotplug. Context: named at each function.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.time.clockevents import tick_program_event
from glasskernel.kernel.time.hrtimer import (
    __remove_hrtimer,
    enqueue_hrtimer,
    hrtimer_cancel,
    hrtimer_force_reprogram,
    hrtimer_is_queued,
)
from glasskernel.kernel.time.timer import detach_timer, forward_timer_base, internal_add_timer
from glasskernel.kernel.time.types import HRTIMER_MODE_ABS, KTIME_MAX
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.time.types import HrtimerClockBase, TimerBase


# ---- the wheel -----------------------------------------------------------------------------------------------------
def timers_prepare_cpu(kernel: Kernel, cpu: int) -> None:
    """Before a CPU comes: its wheel, which is empty, starts now."""
    for base in kernel.time.wheel[cpu]:
        base.clk = kernel.time.jiffies
        base.is_idle = False


def timers_dead_cpu(kernel: Kernel, cpu: int) -> None:
    """A CPU is gone: its timers become ours."""
    for old_base, new_base in zip(kernel.time.wheel[cpu], kernel.time.wheel[register.task.cpu]):
        forward_timer_base(kernel, new_base)
        assert old_base.running_timer is None
        old_base.is_idle = False
        migrate_timer_list(kernel, old_base, new_base)


@notrace
def migrate_timer_list(kernel: Kernel, old_base: TimerBase, new_base: TimerBase) -> None:
    timers = [timer for bucket in old_base.vectors for timer in bucket or ()]
    for timer in (*old_base.expiring, *timers):
        detach_timer(timer)
        internal_add_timer(kernel, new_base, timer)


# ---- high resolution -----------------------------------------------------------------------------------------------
def hrtimers_prepare_cpu(kernel: Kernel, cpu: int) -> None:
    """Before a CPU comes: nothing is programmed there."""
    cpu_base = kernel.time.hrtimer_bases[cpu]
    cpu_base.expires_next = KTIME_MAX
    cpu_base.in_hrtirq = False


def hrtimers_dead_cpu(kernel: Kernel, scpu: int) -> None:
    """A CPU is gone: its timers become ours, but for its tick."""
    assert not kernel.sched.cpu_online_mask >> scpu & 1
    tick_cancel_sched_timer(kernel, scpu)
    old_base = kernel.time.hrtimer_bases[scpu]
    new_base = kernel.time.hrtimer_bases[register.task.cpu]
    for old_clock, new_clock in zip(old_base.clock_base, new_base.clock_base):
        migrate_hrtimer_list(old_clock, new_clock)
    hrtimer_force_reprogram(new_base)              # __hrtimer_peek_ahead_timers(): what is due comes at once


def migrate_hrtimer_list(old_base: HrtimerClockBase, new_base: HrtimerClockBase) -> None:
    while old_base.active:
        timer = old_base.active[0][2]
        __remove_hrtimer(timer)
        timer.base = new_base
        enqueue_hrtimer(timer, new_base, HRTIMER_MODE_ABS)


# ---- the tick ------------------------------------------------------------------------------------------------------
def tick_handover_do_timer(kernel: Kernel, cpu: int) -> None:
    """A CPU is about to go: if it counts jiffies, another one shall. Context: that CPU, interrupts off."""
    time = kernel.time
    if time.tick_do_timer_cpu == cpu:
        online = kernel.sched.cpu_online_mask
        time.tick_do_timer_cpu = (online & -online).bit_length() - 1


def tick_offline_cpu(kernel: Kernel, cpu: int) -> None:
    """Its device stops. Context: that CPU, interrupts off."""
    tick_program_event(kernel, cpu, KTIME_MAX)


def tick_cancel_sched_timer(kernel: Kernel, cpu: int) -> None:
    """The tick of a CPU that is gone."""
    ts = kernel.time.tick_sched[cpu]
    if ts.sched_timer.base is not None and hrtimer_is_queued(ts.sched_timer):
        hrtimer_cancel(ts.sched_timer)
    ts.tick_stopped = ts.inidle = ts.idle_active = ts.got_idle_tick = False
    ts.next_tick = 0
