"""What every scheduling class needs of the core: the clock, need_resched, and moving tasks on and off run
queues.

Linux: kernel/sched/sched.h and parts of kernel/sched/core.c (5.3). A file of its own because imports run
downwards
only: core.py imports the classes, and the classes import this.
Owns: nothing. Context of every function: any. Locks: none: no other CPU runs kernel code meanwhile.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.types import (
    DEQUEUE_NOCLOCK,
    ENQUEUE_NOCLOCK,
    TASK_ON_RQ_QUEUED,
)
from glasskernel.kernel.task import TASK_NOLOAD, TASK_UNINTERRUPTIBLE, TIF_NEED_RESCHED, TIF_NOTIFY_RESUME
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.sched.types import Rq, SchedClass
    from glasskernel.kernel.task import TaskStruct


@notrace
def this_rq() -> Rq:
    task = register.task
    return task.kernel.sched.rqs[task.cpu]


def update_rq_clock(rq: Rq) -> None:
    """rq.clock becomes the time of that CPU; of a halted one: ours."""
    vcpu = rq.vcpu
    clock: int = rq.kernel.machine.now() if vcpu.halted else vcpu.clock_ns
    if clock > rq.clock:
        rq.clock = clock


def resched_curr(rq: Rq) -> None:
    """Asks the CPU to call schedule() soon: on its way to user mode, or out of idle."""
    curr = rq.curr
    if curr.ti_flags & TIF_NEED_RESCHED:
        return
    curr.ti_flags |= TIF_NEED_RESCHED
    if rq.cpu != register.task.cpu or rq.vcpu.halted:      # halted: woken by the host, between two runs
        smp_send_reschedule(rq.kernel, rq.cpu)


@notrace
def smp_send_reschedule(kernel: Kernel, cpu: int) -> None:
    """The reschedule IPI."""
    kernel.machine.kick(cpu)


def idle_cpu(kernel: Kernel, cpu: int) -> int:
    """1 if nothing runs there and nothing waits."""
    rq = kernel.sched.rqs[cpu]
    return int(rq.curr is rq.idle and not rq.nr_running)


@notrace
def task_contributes_to_load(p: TaskStruct) -> bool:
    """Sleeps in a way that the load average counts."""
    return p.state & (TASK_UNINTERRUPTIBLE | TASK_NOLOAD) == TASK_UNINTERRUPTIBLE


@notrace
def enqueue_task(rq: Rq, p: TaskStruct, flags: int) -> None:
    if not flags & ENQUEUE_NOCLOCK:
        update_rq_clock(rq)
    se = p.se
    if not se.last_queued:
        se.last_queued = rq.clock
    p.sched_class.enqueue_task(rq, p, flags)


@notrace
def dequeue_task(rq: Rq, p: TaskStruct, flags: int) -> None:
    if not flags & DEQUEUE_NOCLOCK:
        update_rq_clock(rq)
    se = p.se
    if se.last_queued:
        if rq.clock > se.last_queued:
            se.run_delay += rq.clock - se.last_queued
        se.last_queued = 0
    p.sched_class.dequeue_task(rq, p, flags)


def activate_task(rq: Rq, p: TaskStruct, flags: int) -> None:
    """Puts the task on the run queue."""
    enqueue_task(rq, p, flags)
    p.on_rq = TASK_ON_RQ_QUEUED


def deactivate_task(rq: Rq, p: TaskStruct, flags: int) -> None:
    """Takes the task off the run queue."""
    p.on_rq = 0
    dequeue_task(rq, p, flags)


def check_preempt_curr(rq: Rq, p: TaskStruct, flags: int) -> None:
    """p became runnable: must the running task make way?"""
    curr = rq.curr
    if p.sched_class is curr.sched_class:
        p.sched_class.check_preempt_curr(rq, p, flags)
        return
    cls: SchedClass | None = p.sched_class
    while cls is not None:                       # a class above the running one wins
        if cls is curr.sched_class:
            resched_curr(rq)
            return
        cls = cls.next


def set_task_cpu(p: TaskStruct, new_cpu: int) -> None:
    """Moves a task that is on no run queue to another CPU."""
    probe = p.kernel.tp.sched_migrate_task
    if probe is not None:
        probe(p, new_cpu)
    if p.cpu != new_cpu:
        p.sched_class.migrate_task_rq(p, new_cpu)
        p.se.nr_migrations += 1
        if p.kernel.perf is not None:            # perf_event_task_migrate()
            p.kernel.perf.migrated[p] = None
        if p.rseq:                               # rseq_migrate()
            p.ti_flags |= TIF_NOTIFY_RESUME
    __set_task_cpu(p, new_cpu)


@notrace
def __set_task_cpu(p: TaskStruct, cpu: int) -> None:
    p.cpu = p.wake_cpu = cpu
    set_task_rq(p, cpu)


@notrace
def set_task_rq(p: TaskStruct, cpu: int) -> None:
    """Its queue is its group's on that CPU."""
    tg = p.sched_task_group
    se = p.se
    se.cfs_rq = tg.cfs_rq[cpu]
    parent = se.parent = tg.se[cpu]
    se.depth = 0 if parent is None else parent.depth + 1
