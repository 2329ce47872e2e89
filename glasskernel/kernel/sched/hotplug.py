"""The scheduler's part when a CPU comes or goes: who runs there moves away first.

Linux: sched_cpu_activate() ... sched_cpu_dying(), migrate_tasks() of kernel/sched/core.c, set_rq_offline() of fair.c
and rt.c (5.3). Same: nobody is placed on a CPU from "not active" on; what is left on its queue is moved when it dies,
to a CPU that the task may use, or with its affinity broken.
Owns: sched.cpu_active_mask. Context: named at each function.
Gaps: scheduling domains need no rebuild: there is one, of all active CPUs.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.rcu.update import synchronize_rcu
from glasskernel.kernel.sched.bandwidth import RUNTIME_INF, unthrottle_cfs_rq
from glasskernel.kernel.sched.core import __migrate_task, init_idle, select_fallback_rq
from glasskernel.kernel.sched.cputime import vtime_flush
from glasskernel.kernel.sched.deadline import to_ratio
from glasskernel.kernel.sched.loadavg import calc_load_fold_active
from glasskernel.kernel.sched.rq import update_rq_clock
from glasskernel.kernel.sched.stop_class import stop_sched_class
from glasskernel.lib.errno import EBUSY, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.sched.types import Rq, SchedClass
    from glasskernel.kernel.task import TaskStruct


@notrace
def set_cpu_active(kernel: Kernel, cpu: int, active: bool) -> None:
    sched = kernel.sched
    sched.cpu_active_mask = sched.cpu_active_mask | 1 << cpu if active else sched.cpu_active_mask & ~(1 << cpu)


# ---- up ----------------------------------------------------------------------------------------------------------
def idle_thread_get(kernel: Kernel, cpu: int) -> TaskStruct:
    """The idle task of a CPU that comes, as new."""
    idle: TaskStruct = kernel.pids.idle_tasks[cpu]
    idle.ti_flags = 0
    init_idle(idle, cpu)
    return idle


def sched_cpu_starting(kernel: Kernel, cpu: int) -> None:
    """The first that a CPU does. Context: its idle task, interrupts off."""
    sched_rq_cpu_starting(kernel, cpu)


def sched_rq_cpu_starting(kernel: Kernel, cpu: int) -> None:
    rq = kernel.sched.rqs[cpu]
    rq.calc_load_update = kernel.sched.calc_load_update
    rq.vtime_stamp = rq.vcpu.clock_ns              # while it was off line it was not idle, either
    update_rq_clock(rq)
    rq.idle_stamp = 0
    rq.nohz_kick = False


def sched_cpu_activate(kernel: Kernel, cpu: int) -> None:
    """Tasks may come from now on. Context: cpuhp/N."""
    set_cpu_active(kernel, cpu, True)
    cpuset_cpu_active(kernel)
    set_rq_online(kernel.sched.rqs[cpu])


@notrace
def set_rq_online(rq: Rq) -> None:
    rq.next_balance = rq.kernel.time.jiffies
    for tg in rq.kernel.sched.task_groups:         # update_runtime_enabled()
        cfs_b = tg.cfs_bandwidth
        if cfs_b is not None:
            tg.cfs_rq[rq.cpu].runtime_enabled = cfs_b.quota != RUNTIME_INF


@notrace
def cpuset_cpu_active(kernel: Kernel) -> None:
    update = kernel.sched.cpuset_update_active_cpus
    if update is not None:
        update()


# ---- down --------------------------------------------------------------------------------------------------------
@may_sleep
def sched_cpu_deactivate(kernel: Kernel, cpu: int) -> None:
    """No task may come from now on. Raises EBUSY: the others cannot keep what SCHED_DEADLINE tasks were promised.

    Context: cpuhp/N.
    """
    set_cpu_active(kernel, cpu, False)
    synchronize_rcu()                              # whoever has looked at the mask has woken its task by now
    try:
        cpuset_cpu_inactive(kernel)
    except KernelError:
        set_cpu_active(kernel, cpu, True)
        raise


@notrace
def cpuset_cpu_inactive(kernel: Kernel) -> None:
    if dl_cpu_busy(kernel):
        raise KernelError(EBUSY)
    cpuset_cpu_active(kernel)


@notrace
def dl_cpu_busy(kernel: Kernel) -> bool:
    sched = kernel.sched
    if sched.sysctl_sched_rt_runtime < 0 or not sched.dl_total_bw:
        return False
    bw = to_ratio(sched.sysctl_sched_rt_period, sched.sysctl_sched_rt_runtime)
    return sched.dl_total_bw > bw * sched.cpu_active_mask.bit_count()


def sched_cpu_dying(kernel: Kernel, cpu: int) -> None:
    """Everybody leaves. Context: migration/N, interrupts off, all other CPUs spin."""
    rq = kernel.sched.rqs[cpu]
    update_rq_clock(rq)
    set_rq_offline(rq)
    migrate_tasks(rq)
    assert rq.nr_running == 1, "the stopper is not alone on its CPU"
    calc_load_migrate(rq)
    vtime_flush(rq)


@notrace
def set_rq_offline(rq: Rq) -> None:
    """What is throttled here must move, too."""
    unthrottle_offline_cfs_rqs(rq)
    rq.rt.rt_throttled = False                     # rq_offline_rt()


def unthrottle_offline_cfs_rqs(rq: Rq) -> None:
    for tg in rq.kernel.sched.task_groups:
        cfs_rq = tg.cfs_rq[rq.cpu]
        if not cfs_rq.runtime_enabled:
            continue
        cfs_rq.runtime_remaining = 1
        cfs_rq.runtime_enabled = False
        if cfs_rq.throttled:
            unthrottle_cfs_rq(cfs_rq)


def migrate_tasks(dead_rq: Rq) -> None:
    """All but the stopper, which runs this, go elsewhere."""
    stop, dead_rq.stop = dead_rq.stop, None        # or it would be picked
    while dead_rq.nr_running > 1:
        p = __pick_migrate_task(dead_rq)
        dest_cpu = select_fallback_rq(dead_rq.cpu, p)
        __migrate_task(dead_rq, p, dest_cpu)
    dead_rq.stop = stop


@notrace
def __pick_migrate_task(rq: Rq) -> TaskStruct:
    """A task that waits there, put back at once."""
    curr = rq.curr
    cls: SchedClass | None = stop_sched_class
    while cls is not None:
        p = cls.pick_next_task(rq, curr)
        if p is not None:
            p.sched_class.put_prev_task(rq, p)
            return p
        cls = cls.next
    raise AssertionError("the idle class always has a task")


def calc_load_migrate(rq: Rq) -> None:
    """Its share of the load average is the others' now. The stopper does not count."""
    delta = calc_load_fold_active(rq, 1)
    if delta:
        rq.kernel.sched.calc_load_tasks += delta


@notrace
def idle_task_exit() -> None:
    """The idle task of a CPU that goes lets the address space go that it had borrowed."""
    task = register.task
    mm, task.active_mm = task.active_mm, None
    if mm is not None:
        mmdrop = task.kernel.sched.mmdrop
        assert mmdrop is not None
        mmdrop(mm)
