"""The stop class: migration/N, above every other task.

Linux: kernel/sched/stop_task.c (5.3). Owns: rq.stop, when it is queued. The work itself:
kernel/stop_machine.py.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.sched.deadline import dl_sched_class
from glasskernel.kernel.sched.idle_class import (
    no_fork,
    no_migrate,
    no_op_task,
    no_prio_changed,
    no_rr_interval,
)
from glasskernel.kernel.sched.types import SchedClass
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.sched.types import Rq
    from glasskernel.kernel.task import TaskStruct


def select_task_rq_stop(p: TaskStruct, cpu: int, sd_flag: int, flags: int) -> int:
    return p.cpu


def check_preempt_curr_stop(rq: Rq, p: TaskStruct, flags: int) -> None:
    """Nothing preempts a stop task."""


def pick_next_task_stop(rq: Rq, prev: TaskStruct) -> TaskStruct | None:
    stop = rq.stop
    if stop is None or not stop.on_rq:
        return None
    prev.sched_class.put_prev_task(rq, prev)
    stop.se.exec_start = rq.clock
    return stop


def enqueue_task_stop(rq: Rq, p: TaskStruct, flags: int) -> None:
    rq.nr_running += 1


def dequeue_task_stop(rq: Rq, p: TaskStruct, flags: int) -> None:
    rq.nr_running -= 1


@notrace
def yield_task_stop(rq: Rq) -> None:
    raise AssertionError("the stop task must not yield")


def put_prev_task_stop(rq: Rq, prev: TaskStruct) -> None:
    update_curr_stop(rq)


def update_curr_stop(rq: Rq) -> None:
    curr = rq.curr
    delta = rq.clock - curr.se.exec_start
    if delta > 0:
        curr.se.sum_exec_runtime += delta
        curr.se.exec_start = rq.clock
        charge = rq.kernel.sched.cpuacct_charge  # cgroup_account_cputime()
        if charge is not None:
            charge(curr, delta)


def set_next_task_stop(rq: Rq, p: TaskStruct) -> None:
    p.se.exec_start = rq.clock


def task_tick_stop(rq: Rq, curr: TaskStruct, queued: int) -> None:
    return None


stop_sched_class = SchedClass(
    name="stop", next=dl_sched_class, enqueue_task=enqueue_task_stop, dequeue_task=dequeue_task_stop,
    yield_task=yield_task_stop, check_preempt_curr=check_preempt_curr_stop,
    pick_next_task=pick_next_task_stop, put_prev_task=put_prev_task_stop, set_next_task=set_next_task_stop,
    select_task_rq=select_task_rq_stop, migrate_task_rq=no_migrate, task_tick=task_tick_stop,
    task_fork=no_fork, prio_changed=no_prio_changed, switched_from=no_op_task, switched_to=no_op_task,
    get_rr_interval=no_rr_interval, update_curr=update_curr_stop,
)
