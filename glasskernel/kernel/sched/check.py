"""What must hold for run queues, timers and softirqs while no CPU runs. For tests and tools/invariants.py."""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.sched.fair import fair_sched_class
from glasskernel.kernel.task import TASK_RUNNING
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.sched.types import CfsRq, Rq
    from glasskernel.kernel.task import TaskStruct


@notrace
def check_sched(kernel: Kernel, tasks: Iterable[TaskStruct]) -> list[str]:
    """Everything that is wrong, in words. tasks: all but the idle ones."""
    wrong: list[str] = []
    queued: dict[TaskStruct, int] = {}
    for rq in kernel.sched.rqs:
        wrong += check_rq(rq, queued)
    for p in tasks:
        if p.exit_state:
            continue
        if p.state == TASK_RUNNING and p not in queued and not (p.dl is not None and p.dl.dl_throttled):
            wrong.append(f"{p} is running, but on no run queue")
        if p.preempt_count and p.preempt_count != int(kernel.sched.preempt_dynamic_mode > 1):      # it is in schedule()
            wrong.append(f"{p} has preempt_count {p.preempt_count:#x}")
        if p in queued and queued[p] != p.cpu:
            wrong.append(f"{p} is on CPU {p.cpu}, but queued on {queued[p]}")
    wrong += check_timers(kernel)
    if sum(rq.nr_iowait for rq in kernel.sched.rqs) < 0:
        wrong.append("nr_iowait is negative")
    return wrong


@notrace
def check_rq(rq: Rq, queued: dict[TaskStruct, int]) -> list[str]:
    wrong: list[str] = []
    cfs = rq.cfs
    tasks = check_cfs_rq(cfs, wrong)
    for tg in rq.kernel.sched.task_groups:
        throttled = tg.cfs_rq[rq.cpu]
        if throttled.throttled:                        # queued, but not counted
            hidden = check_cfs_rq(throttled, wrong)
            queued.update((p, rq.cpu) for p in hidden)
    tasks += [p for queue in rq.rt.queue for p in queue]
    tasks += [key[2] for key in rq.dl.timeline]
    if rq.stop is not None and rq.stop.on_rq:
        tasks.append(rq.stop)
    for p in tasks:
        if p in queued:
            wrong.append(f"{p} is queued twice")
        queued[p] = rq.cpu
        if not p.on_rq:
            wrong.append(f"{p} is queued, but on_rq is 0")
        if not p.cpus_allowed >> rq.cpu & 1 and rq.curr is not p:
            wrong.append(f"{p} waits on CPU {rq.cpu}, where it may not run")
    if rq.nr_running != len(tasks):
        wrong.append(f"CPU {rq.cpu}: nr_running is {rq.nr_running}, but {len(tasks)} tasks are queued")
    if rq.curr is not rq.idle and rq.curr.on_rq and rq.curr not in queued and not rq.curr.dl:
        wrong.append(f"CPU {rq.cpu} runs {rq.curr}, which is not queued")
    if cfs.curr is not None and rq.curr.sched_class is not fair_sched_class:
        wrong.append(f"CPU {rq.cpu}: cfs_rq.curr is set while {rq.curr} runs")
    return wrong


@notrace
def check_cfs_rq(cfs: CfsRq, wrong: list[str]) -> list[TaskStruct]:
    """The tasks in a queue and below; throttled groups are not in it."""
    where = f"CPU {cfs.rq.cpu}, group {cfs.rq.kernel.sched.task_groups.index(cfs.tg)}"
    entities = [key[2] for key in cfs.timeline]
    if cfs.curr is not None and cfs.curr.on_rq:
        entities.append(cfs.curr)
    if cfs.timeline != sorted(cfs.timeline, key=lambda key: key[:2]):
        wrong.append(f"{where}: the timeline is out of order")
    if (cfs.nr_running, cfs.load) != (len(entities), sum(se.weight for se in entities)):
        wrong.append(f"{where}: nr_running {cfs.nr_running} or load {cfs.load} is not its entities'")
    tasks = []
    for se in entities:
        if se.cfs_rq is not cfs:
            wrong.append(f"{where}: an entity believes to be elsewhere")
        if se.my_q is None:
            tasks.append(se.task)
        elif se.my_q.throttled or not se.my_q.nr_running:
            wrong.append(f"{where}: a group is queued that is throttled or empty")
        else:
            tasks += check_cfs_rq(se.my_q, wrong)
    if cfs.h_nr_running != len(tasks):
        wrong.append(f"{where}: h_nr_running is {cfs.h_nr_running}, but it has {len(tasks)} tasks")
    return tasks


@notrace
def check_timers(kernel: Kernel) -> list[str]:
    wrong = []
    for bases in kernel.time.wheel:
        for base in bases:
            used = sum(1 << i for i, bucket in enumerate(base.vectors) if bucket)
            if used != base.pending_map:
                wrong.append(f"the timer wheel of CPU {base.cpu} has a wrong pending_map")
            for i, bucket in enumerate(base.vectors):
                for timer in bucket or ():
                    if timer.base is not base or timer.idx != i:
                        wrong.append(f"a timer of CPU {base.cpu} does not know its bucket")
    for cpu_base in kernel.time.hrtimer_bases:
        for clock in cpu_base.clock_base:
            keys = [key[:2] for key in clock.active]
            if keys != sorted(keys) or any(key[2].key is not key for key in clock.active):
                wrong.append(f"hrtimers of CPU {cpu_base.cpu} are out of order")
    return wrong
