"""The load average: a damped count of tasks that run or wait uninterruptibly.

Linux: kernel/sched/loadavg.c, include/linux/sched/loadavg.h (5.3). Same: fixed point, sampling each 5 s + 1
tick, catching up after the ticks were stopped.
Differs: CPUs fold their idle deltas into calc_load_tasks directly: nothing runs in parallel here.
Owns: SchedState.avenrun, calc_load_tasks, calc_load_update.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.sched.types import HZ

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.sched.types import Rq

FSHIFT = 11
FIXED_1 = 1 << FSHIFT
LOAD_FREQ = 5 * HZ + 1
EXP_1, EXP_5, EXP_15 = 1884, 2014, 2037


def get_avenrun(kernel: Kernel, offset: int, shift: int) -> tuple[int, int, int]:
    """The three averages, `(avenrun + offset) << shift`."""
    one, five, fifteen = kernel.sched.avenrun
    return (one + offset) << shift, (five + offset) << shift, (fifteen + offset) << shift


def calc_load(load: int, exp: int, active: int) -> int:
    """One step: load * exp + active * (1 - exp), rounded up while it rises. active is fixed point."""
    newload = load * exp + active * (FIXED_1 - exp)
    if active >= load:
        newload += FIXED_1 - 1
    return newload // FIXED_1


def calc_load_n(load: int, exp: int, active: int, n: int) -> int:
    """n steps at once: with exp to the power of n."""
    result = FIXED_1
    x = exp
    while n:
        if n & 1:
            result = (result * x + (1 << FSHIFT - 1)) >> FSHIFT
        n >>= 1
        if n:
            x = (x * x + (1 << FSHIFT - 1)) >> FSHIFT
    return calc_load(load, result, active)


def calc_load_fold_active(this_rq: Rq, adjust: int) -> int:
    """How much this CPU's share of active tasks changed since it was last asked.

    adjust: leave so many out.
    """
    nr_active = this_rq.nr_running - adjust + this_rq.nr_uninterruptible
    delta = nr_active - this_rq.calc_load_active
    this_rq.calc_load_active = nr_active
    return delta


def calc_global_load_tick(this_rq: Rq) -> None:
    """Called from scheduler_tick(): this CPU reports once a period."""
    if this_rq.kernel.time.jiffies < this_rq.calc_load_update:
        return
    delta = calc_load_fold_active(this_rq, 0)
    if delta:
        this_rq.kernel.sched.calc_load_tasks += delta
    this_rq.calc_load_update += LOAD_FREQ


def calc_load_nohz_start(this_rq: Rq) -> None:
    """The tick of an idle CPU stops: what it has to report, it reports now."""
    delta = calc_load_fold_active(this_rq, 0)
    if delta:
        this_rq.kernel.sched.calc_load_tasks += delta


def calc_load_nohz_stop(this_rq: Rq) -> None:
    """The tick starts again: the next report is due with the current period."""
    this_rq.calc_load_update = this_rq.kernel.sched.calc_load_update
    if this_rq.kernel.time.jiffies < this_rq.calc_load_update:
        return
    if this_rq.kernel.time.jiffies < this_rq.calc_load_update + 10:
        this_rq.calc_load_update += LOAD_FREQ


def calc_global_load(kernel: Kernel) -> None:
    """Updates the averages, 10 ticks after the CPUs reported. Called from do_timer()."""
    sched = kernel.sched
    now = kernel.time.jiffies
    if now < sched.calc_load_update + 10:
        return
    active = sched.calc_load_tasks
    active = active * FIXED_1 if active > 0 else 0
    one, five, fifteen = sched.avenrun
    sched.avenrun[:] = (calc_load(one, EXP_1, active), calc_load(five, EXP_5, active),
                        calc_load(fifteen, EXP_15, active))
    sched.calc_load_update += LOAD_FREQ
    calc_global_nohz(kernel)


def calc_global_nohz(kernel: Kernel) -> None:
    """After a sleep of all CPUs over several periods: the missed steps, at once."""
    sched = kernel.sched
    late = kernel.time.jiffies - sched.calc_load_update - 10
    if late < 0:
        return
    n = 1 + late // LOAD_FREQ
    active = sched.calc_load_tasks
    active = active * FIXED_1 if active > 0 else 0
    one, five, fifteen = sched.avenrun
    sched.avenrun[:] = (calc_load_n(one, EXP_1, active, n), calc_load_n(five, EXP_5, active, n),
                        calc_load_n(fifteen, EXP_15, active, n))
    sched.calc_load_update += n * LOAD_FREQ
