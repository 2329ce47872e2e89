"""The timer that gives a throttled SCHED_DEADLINE task its next period.

Linux: start_dl_timer() and dl_task_timer() of kernel/sched/deadline.c (5.3); a file of its own because
imports run downwards only.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.sched.deadline import dl_task_timer
from glasskernel.kernel.time.hrtimer import hrtimer_init, hrtimer_start
from glasskernel.kernel.time.types import CLOCK_MONOTONIC, HRTIMER_MODE_ABS, HRTIMER_NORESTART, Hrtimer
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct


@notrace
def fire(timer: Hrtimer) -> int:
    dl_task_timer(timer.data)
    return HRTIMER_NORESTART


def start_dl_timer(p: TaskStruct, when: int) -> int:
    """Wakes the task's server at `when` (ns). Returns 0 if that is past."""
    if when <= p.kernel.machine.now():
        return 0
    timer = p.dl.timer
    if timer is None:
        timer = p.dl.timer = Hrtimer(fire, p)
        hrtimer_init(timer, CLOCK_MONOTONIC, HRTIMER_MODE_ABS)
    if not timer.state:
        hrtimer_start(timer, when, HRTIMER_MODE_ABS)
    return 1


@notrace
def dl_timer_init(kernel: Kernel) -> None:
    kernel.sched.start_dl_timer = start_dl_timer
