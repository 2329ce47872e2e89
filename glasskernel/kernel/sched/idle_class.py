"""The idle class: what a CPU runs when nothing else can run, and the defaults that other classes share.

Linux: kernel/sched/idle.c (its second half). Owns: idle_sched_class. The idle loop: idle.py.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.sched.rq import resched_curr
from glasskernel.kernel.sched.types import SchedClass
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.sched.types import Rq
    from glasskernel.kernel.task import TaskStruct


@notrace
def no_enqueue(rq: Rq, p: TaskStruct, flags: int) -> None:
    raise AssertionError("the idle task is never queued")


def dequeue_task_idle(rq: Rq, p: TaskStruct, flags: int) -> None:
    """The idle task must never sleep."""
    raise AssertionError("scheduling from the idle thread")


@notrace
def no_op_rq(rq: Rq) -> None:
    return None


@notrace
def no_op_task(rq: Rq, p: TaskStruct) -> None:
    return None


@notrace
def no_migrate(p: TaskStruct, new_cpu: int) -> None:
    return None


@notrace
def no_fork(p: TaskStruct) -> None:
    return None


@notrace
def no_rr_interval(rq: Rq, p: TaskStruct) -> int:
    return 0


@notrace
def no_prio_changed(rq: Rq, p: TaskStruct, oldprio: int) -> None:
    return None


def select_task_rq_idle(p: TaskStruct, cpu: int, sd_flag: int, wake_flags: int) -> int:
    return p.cpu


def check_preempt_curr_idle(rq: Rq, p: TaskStruct, flags: int) -> None:
    resched_curr(rq)


def pick_next_task_idle(rq: Rq, prev: TaskStruct) -> TaskStruct | None:
    prev.sched_class.put_prev_task(rq, prev)
    rq.sched_goidle += 1
    return rq.idle


def put_prev_task_idle(rq: Rq, prev: TaskStruct) -> None:
    return None


def task_tick_idle(rq: Rq, curr: TaskStruct, queued: int) -> None:
    return None


idle_sched_class = SchedClass(
    name="idle", next=None, enqueue_task=no_enqueue, dequeue_task=dequeue_task_idle, yield_task=no_op_rq,
    check_preempt_curr=check_preempt_curr_idle, pick_next_task=pick_next_task_idle,
    put_prev_task=put_prev_task_idle, set_next_task=no_op_task, select_task_rq=select_task_rq_idle,
    migrate_task_rq=no_migrate, task_tick=task_tick_idle, task_fork=no_fork, prio_changed=no_prio_changed,
    switched_from=no_op_task, switched_to=no_op_task, get_rr_interval=no_rr_interval, update_curr=no_op_rq,
)
