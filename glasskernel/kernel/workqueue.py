"""Workqueues: functions that run later, in a kernel thread, where they may sleep.

Linux: kernel/workqueue.c (5.3). Same: worker pools per CPU (normal and high priority) and unbound ones, names
of the kworkers, concurrency management (a pool runs one work at a time and wakes another worker when that one
sleeps), max_active, no work runs twice at once.
Differs: a flush waits on completions of the work itself, not on barrier works.
Gaps: rescuers (WQ_MEM_RECLAIM has no effect), freezing, ordered queues beyond max_active 1, idle workers
stay.
Owns: kernel.workqueues.
Invariants: work.pending is true from queueing until its function is about to be called; a pool with a non-
    empty worklist has a worker running, or one was woken.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import current, register
from glasskernel.kernel.kthread import kthread_bind_mask, kthread_create
from glasskernel.kernel.sched.completion import Completion, complete_all, wait_for_completion
from glasskernel.kernel.sched.core import (
    cond_resched,
    schedule,
    set_current_state,
    set_user_nice,
    wake_up_process,
)
from glasskernel.kernel.task import PF_WQ_WORKER, TASK_IDLE
from glasskernel.kernel.time.timer import add_timer, del_timer, jiffies, timer_pending
from glasskernel.kernel.time.types import TIMER_DEFERRABLE, TIMER_IRQSAFE, TimerList
from glasskernel.lib.errno import KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

WQ_UNBOUND, WQ_FREEZABLE, WQ_MEM_RECLAIM, WQ_HIGHPRI = 1 << 1, 1 << 2, 1 << 3, 1 << 4
WQ_CPU_INTENSIVE, WQ_SYSFS, WQ_POWER_EFFICIENT = 1 << 5, 1 << 6, 1 << 7
WQ_MAX_ACTIVE, WQ_DFL_ACTIVE = 512, 256
WORK_CPU_UNBOUND = -1
HIGHPRI_NICE_LEVEL = -20

WORKER_IDLE, WORKER_PREP, WORKER_CPU_INTENSIVE, WORKER_UNBOUND, WORKER_REBOUND = 0x04, 0x08, 0x40, 0x80, 0x100
WORKER_NOT_RUNNING = WORKER_PREP | WORKER_CPU_INTENSIVE | WORKER_UNBOUND | WORKER_REBOUND

WorkFunc = Callable[[Any], None]


class WorkStruct:
    """struct work_struct.

    func(work) runs in a worker. data: what the function wants to find (container_of).
    """

    __slots__ = ("func", "data", "pending", "pwq", "last_pool", "barriers", "kaddr")

    def __init__(self, func: WorkFunc, data: Any = None) -> None:
        self.func = func
        self.data = data
        self.pending = False
        self.pwq: PoolWorkqueue | None = None       # while it is queued
        self.last_pool: WorkerPool | None = None
        self.barriers: list[Completion] = []        # who waits for this queueing to be done


class DelayedWork:
    """struct delayed_work: `work`, queued when `timer` fires."""

    __slots__ = ("work", "timer", "wq", "cpu")

    def __init__(self, func: WorkFunc, data: Any = None, deferrable: bool = False) -> None:
        self.work = WorkStruct(func, data)
        flags = TIMER_IRQSAFE | TIMER_DEFERRABLE if deferrable else TIMER_IRQSAFE
        self.timer = TimerList(delayed_work_timer_fn, self, flags)
        self.wq: WorkqueueStruct | None = None
        self.cpu = WORK_CPU_UNBOUND


class Worker:
    """struct worker: one kworker."""

    __slots__ = (
        "pool", "id", "task", "flags", "current_work", "current_func", "current_pwq", "current_barriers",
        "sleeping", "desc", "scheduled",
    )

    def __init__(self, pool: WorkerPool, number: int) -> None:
        self.pool = pool
        self.id = number
        self.task: TaskStruct = None  # type: ignore[assignment]
        self.flags = WORKER_PREP
        self.current_work: WorkStruct | None = None
        self.current_func: WorkFunc | None = None
        self.current_pwq: PoolWorkqueue | None = None
        self.current_barriers: list[Completion] = []
        self.sleeping = False
        self.desc = ""
        self.scheduled: deque[WorkStruct] = deque()


class WorkerPool:
    """struct worker_pool. cpu: -1 for an unbound pool. disassociated: that CPU is off line (POOL_DISASSOCIATED)."""

    __slots__ = (
        "kernel", "cpu", "id", "nice", "worklist", "nr_running", "workers", "idle_list", "next_worker_id",
        "manager", "disassociated",
    )

    def __init__(self, kernel: Kernel, cpu: int, number: int, nice: int) -> None:
        self.kernel = kernel
        self.cpu = cpu
        self.id = number
        self.nice = nice
        self.worklist: deque[WorkStruct] = deque()
        self.nr_running = 0
        self.workers: list[Worker] = []
        self.idle_list: list[Worker] = []
        self.next_worker_id = 0
        self.manager: Worker | None = None
        self.disassociated = False


class PoolWorkqueue:
    """struct pool_workqueue: one workqueue's share of one pool."""

    __slots__ = ("pool", "wq", "nr_active", "max_active", "delayed_works")

    def __init__(self, pool: WorkerPool, wq: WorkqueueStruct) -> None:
        self.pool = pool
        self.wq = wq
        self.nr_active = 0
        self.max_active = wq.max_active
        self.delayed_works: deque[WorkStruct] = deque()


class WorkqueueStruct:
    """struct workqueue_struct. pwqs: by CPU, or one for an unbound queue."""

    __slots__ = ("kernel", "name", "flags", "max_active", "pwqs", "kaddr")

    def __init__(self, kernel: Kernel, name: str, flags: int, max_active: int) -> None:
        self.kernel = kernel
        self.name = name
        self.flags = flags
        self.max_active = max_active
        self.pwqs: list[PoolWorkqueue] = []


@slotted
class WorkqueueState:
    """kernel.workqueues"""

    cpu_pools: list[tuple[WorkerPool, WorkerPool]] = field(default_factory=list)      # (normal, highpri)
    unbound_pools: list[WorkerPool] = field(default_factory=list)                     # normal, high priority
    workqueues: list[WorkqueueStruct] = field(default_factory=list)
    online: bool = False                                                              # workers exist
    system_wq: WorkqueueStruct = None  # type: ignore[assignment]
    system_highpri_wq: WorkqueueStruct = None  # type: ignore[assignment]
    system_long_wq: WorkqueueStruct = None  # type: ignore[assignment]
    system_unbound_wq: WorkqueueStruct = None  # type: ignore[assignment]
    system_power_efficient_wq: WorkqueueStruct = None  # type: ignore[assignment]


# ---- queueing ---------------------------------------------------------------------------------------------
@notrace
def queue_work(wq: WorkqueueStruct, work: WorkStruct) -> bool:
    """Queues a work on this CPU; False if it is queued already. Context: any."""
    return queue_work_on(WORK_CPU_UNBOUND, wq, work)


@notrace
def schedule_work(work: WorkStruct) -> bool:
    """queue_work() on the system's queue, "events"."""
    return queue_work_on(WORK_CPU_UNBOUND, register.task.kernel.workqueues.system_wq, work)


@notrace
def schedule_work_on(cpu: int, work: WorkStruct) -> bool:
    return queue_work_on(cpu, register.task.kernel.workqueues.system_wq, work)


def queue_work_on(cpu: int, wq: WorkqueueStruct, work: WorkStruct) -> bool:
    """Queues a work on a CPU (WORK_CPU_UNBOUND: this one); False if it is queued already. Context: any."""
    if work.pending:
        return False
    work.pending = True
    __queue_work(cpu, wq, work)
    return True


def __queue_work(cpu: int, wq: WorkqueueStruct, work: WorkStruct) -> None:
    if wq.flags & WQ_UNBOUND:
        pwq = wq.pwqs[0]
    else:
        pwq = wq.pwqs[register.task.cpu if cpu == WORK_CPU_UNBOUND else cpu]
    last_pool = work.last_pool
    if last_pool is not None and last_pool is not pwq.pool:
        worker = find_worker_executing_work(last_pool, work)
        if worker is not None and worker.current_pwq is not None and worker.current_pwq.wq is wq:
            pwq = worker.current_pwq               # runs there now: must not run twice at once
    work.pwq = pwq
    probe = wq.kernel.tp.workqueue_queue_work
    if probe is not None:
        probe(cpu, pwq, work)
    if pwq.nr_active < pwq.max_active:
        probe = wq.kernel.tp.workqueue_activate_work
        if probe is not None:
            probe(work)
        pwq.nr_active += 1
        insert_work(pwq, work)
    else:
        pwq.delayed_works.append(work)


def insert_work(pwq: PoolWorkqueue, work: WorkStruct) -> None:
    pool = pwq.pool
    pool.worklist.append(work)
    if not pool.nr_running:                        # __need_more_worker()
        wake_up_worker(pool)


def wake_up_worker(pool: WorkerPool) -> None:
    if pool.idle_list:
        wake_up_process(pool.idle_list[-1].task)


@notrace
def find_worker_executing_work(pool: WorkerPool, work: WorkStruct) -> Worker | None:
    for worker in pool.workers:
        if worker.current_work is work and worker.current_func is work.func:
            return worker
    return None


# ---- delayed ----------------------------------------------------------------------------------------------
def delayed_work_timer_fn(timer: TimerList) -> None:
    dwork: DelayedWork = timer.data
    assert dwork.wq is not None
    __queue_work(dwork.cpu, dwork.wq, dwork.work)


@notrace
def queue_delayed_work(wq: WorkqueueStruct, dwork: DelayedWork, delay: int) -> bool:
    """Queues a work after `delay` jiffies; False if it is queued, or waiting, already."""
    return queue_delayed_work_on(WORK_CPU_UNBOUND, wq, dwork, delay)


@notrace
def schedule_delayed_work(dwork: DelayedWork, delay: int) -> bool:
    return queue_delayed_work_on(WORK_CPU_UNBOUND, register.task.kernel.workqueues.system_wq, dwork, delay)


def queue_delayed_work_on(cpu: int, wq: WorkqueueStruct, dwork: DelayedWork, delay: int) -> bool:
    if dwork.work.pending:
        return False
    dwork.work.pending = True
    __queue_delayed_work(cpu, wq, dwork, delay)
    return True


def __queue_delayed_work(cpu: int, wq: WorkqueueStruct, dwork: DelayedWork, delay: int) -> None:
    if not delay:
        __queue_work(cpu, wq, dwork.work)
        return
    dwork.wq = wq
    dwork.cpu = cpu
    dwork.timer.expires = jiffies() + delay
    add_timer(dwork.timer)


@notrace
def mod_delayed_work(wq: WorkqueueStruct, dwork: DelayedWork, delay: int) -> bool:
    """Queues it after `delay` jiffies from now, whatever was planned before. True if something was."""
    return mod_delayed_work_on(WORK_CPU_UNBOUND, wq, dwork, delay)


def mod_delayed_work_on(cpu: int, wq: WorkqueueStruct, dwork: DelayedWork, delay: int) -> bool:
    was = try_to_grab_pending(dwork.work, dwork)
    dwork.work.pending = True
    __queue_delayed_work(cpu, wq, dwork, delay)
    return was


@notrace
def delayed_work_pending(dwork: DelayedWork) -> bool:
    return dwork.work.pending


@notrace
def work_pending(work: WorkStruct) -> bool:
    return work.pending


# ---- taking back, and waiting -----------------------------------------------------------------------------
def try_to_grab_pending(work: WorkStruct, dwork: DelayedWork | None) -> bool:
    """Takes a queued work off again. True if it was queued; its waiters are let go."""
    if not work.pending:
        return False
    work.pending = False
    if dwork is not None and timer_pending(dwork.timer):
        del_timer(dwork.timer)
        return True
    pwq = work.pwq
    assert pwq is not None
    work.pwq = None
    if work in pwq.delayed_works:
        pwq.delayed_works.remove(work)
    else:
        if work in pwq.pool.worklist:
            pwq.pool.worklist.remove(work)
        else:                                      # moved to a worker that runs it at this moment
            for worker in pwq.pool.workers:
                if work in worker.scheduled:
                    worker.scheduled.remove(work)
        pwq_dec_nr_in_flight(pwq)
    barriers, work.barriers = work.barriers, []
    for done in barriers:
        complete_all(done)
    return True


@may_sleep
def flush_work(work: WorkStruct) -> bool:
    """Waits until the last queueing of the work is done.

    False if there was nothing to wait for. Context: task.
    """
    done = Completion()
    if work.pending:
        work.barriers.append(done)
    else:
        pool = work.last_pool
        worker = find_worker_executing_work(pool, work) if pool is not None else None
        if worker is None:
            return False
        worker.current_barriers.append(done)
    wait_for_completion(done)
    return True


@notrace
def cancel_work(work: WorkStruct) -> bool:
    """Takes it off the queue; it may still be running. True if it was queued."""
    return try_to_grab_pending(work, None)


@may_sleep
def cancel_work_sync(work: WorkStruct) -> bool:
    """Takes it off the queue, and waits if it runs. True if it was queued. Context: task."""
    return __cancel_work_timer(work, None)


@may_sleep
def __cancel_work_timer(work: WorkStruct, dwork: DelayedWork | None) -> bool:
    was = try_to_grab_pending(work, dwork)
    flush_work(work)
    return was


@notrace
def cancel_delayed_work(dwork: DelayedWork) -> bool:
    return try_to_grab_pending(dwork.work, dwork)


@may_sleep
def cancel_delayed_work_sync(dwork: DelayedWork) -> bool:
    return __cancel_work_timer(dwork.work, dwork)


@may_sleep
def flush_delayed_work(dwork: DelayedWork) -> bool:
    """Runs it now if it waits for its time, and waits until it is done."""
    if timer_pending(dwork.timer):
        del_timer(dwork.timer)
        assert dwork.wq is not None
        __queue_work(dwork.cpu, dwork.wq, dwork.work)
    return flush_work(dwork.work)


@may_sleep
def flush_workqueue(wq: WorkqueueStruct) -> None:
    """Waits until everything that is queued now is done. Context: task."""
    waits = []
    for pwq in wq.pwqs:
        for work in (*pwq.pool.worklist, *pwq.delayed_works):
            if work.pwq is pwq:
                waits.append(Completion())
                work.barriers.append(waits[-1])
        for worker in pwq.pool.workers:
            if worker.current_pwq is pwq:
                waits.append(Completion())
                worker.current_barriers.append(waits[-1])
    for done in waits:
        wait_for_completion(done)


@may_sleep
def drain_workqueue(wq: WorkqueueStruct) -> None:
    """flush_workqueue() until works do not queue new ones any more."""
    while any(pwq.nr_active or pwq.delayed_works for pwq in wq.pwqs):
        flush_workqueue(wq)


# ---- workers ----------------------------------------------------------------------------------------------
def worker_enter_idle(worker: Worker) -> None:
    worker.flags |= WORKER_IDLE
    worker.pool.idle_list.append(worker)


def worker_leave_idle(worker: Worker) -> None:
    worker.flags &= ~WORKER_IDLE
    worker.pool.idle_list.remove(worker)


@notrace
def worker_set_flags(worker: Worker, flags: int) -> None:
    if flags & WORKER_NOT_RUNNING and not worker.flags & WORKER_NOT_RUNNING:
        worker.pool.nr_running -= 1
    worker.flags |= flags


@notrace
def worker_clr_flags(worker: Worker, flags: int) -> None:
    before = worker.flags
    worker.flags &= ~flags
    if flags & WORKER_NOT_RUNNING and before & WORKER_NOT_RUNNING and not worker.flags & WORKER_NOT_RUNNING:
        worker.pool.nr_running += 1


def worker_thread(worker: Worker) -> int:
    """A kworker."""
    pool = worker.pool
    current().flags |= PF_WQ_WORKER
    while True:
        worker_leave_idle(worker)
        while pool.worklist and not pool.nr_running:           # need_more_worker()
            if not pool.idle_list and manage_workers(worker):
                continue
            if not pool.worklist:                              # somebody did it while we looked for a reserve
                break
            worker_clr_flags(worker, WORKER_PREP | WORKER_REBOUND)
            while True:
                process_one_work(worker, pool.worklist.popleft())
                while worker.scheduled:
                    process_one_work(worker, worker.scheduled.popleft())
                if not pool.worklist or pool.nr_running > 1:   # keep_working()
                    break
            worker_set_flags(worker, WORKER_PREP)
            break
        worker_enter_idle(worker)
        set_current_state(TASK_IDLE)
        schedule()


def process_one_work(worker: Worker, work: WorkStruct) -> None:
    """Runs one work."""
    pool = worker.pool
    collision = find_worker_executing_work(pool, work)
    if collision is not None and collision is not worker:
        collision.scheduled.append(work)           # runs after what runs now
        return
    pwq = work.pwq
    assert pwq is not None
    worker.current_work = work
    worker.current_func = func = work.func
    worker.current_pwq = pwq
    worker.desc = pwq.wq.name
    worker.current_barriers, work.barriers = work.barriers, []
    cpu_intensive = pwq.wq.flags & WQ_CPU_INTENSIVE
    if cpu_intensive:
        worker_set_flags(worker, WORKER_CPU_INTENSIVE)
    if pool.worklist and not pool.nr_running:
        wake_up_worker(pool)
    work.last_pool = pool
    work.pwq = None
    work.pending = False
    kernel = pool.kernel
    probe = kernel.tp.workqueue_execute_start
    if probe is not None:
        probe(work)
    try:
        func(work)
    finally:
        probe = kernel.tp.workqueue_execute_end
        if probe is not None:
            probe(work)
        if cpu_intensive:
            worker_clr_flags(worker, WORKER_CPU_INTENSIVE)
        worker.current_work = None
        worker.current_func = None
        worker.current_pwq = None
        barriers, worker.current_barriers = worker.current_barriers, []
        for done in barriers:
            complete_all(done)
        pwq_dec_nr_in_flight(pwq)
    cond_resched()                                 # works may queue works for ever


def pwq_dec_nr_in_flight(pwq: PoolWorkqueue) -> None:
    """A work is done: the next of its queue may become active."""
    pwq.nr_active -= 1
    if pwq.delayed_works and pwq.nr_active < pwq.max_active:
        pwq_activate_delayed_work(pwq)


def pwq_activate_delayed_work(pwq: PoolWorkqueue) -> None:
    work = pwq.delayed_works.popleft()
    probe = pwq.pool.kernel.tp.workqueue_activate_work
    if probe is not None:
        probe(work)
    pwq.nr_active += 1
    insert_work(pwq, work)


@may_sleep
def manage_workers(worker: Worker) -> bool:
    """Keeps an idle worker in reserve. True if it slept, so that things may have changed. When no thread can be made
    (RLIMIT, pid_max), the worker goes on without a reserve; where Linux tries again and again, with a rescuer's help.
    """
    pool = worker.pool
    if pool.manager is not None:
        return False
    pool.manager = worker
    try:
        return create_worker(pool) is not None
    finally:
        pool.manager = None


@may_sleep
def create_worker(pool: WorkerPool) -> Worker | None:
    """Starts another kworker for a pool; None if no thread could be made. Context: task."""
    worker = Worker(pool, pool.next_worker_id)
    pool.next_worker_id += 1
    if pool.cpu >= 0:
        name = f"kworker/{pool.cpu}:{worker.id}{'H' if pool.nice < 0 else ''}"
    else:
        name = f"kworker/u{pool.id}:{worker.id}"
        worker.flags |= WORKER_UNBOUND
    try:
        worker.task = kthread_create(worker_thread, worker, name)
    except KernelError:
        pool.next_worker_id -= 1
        return None
    set_user_nice(worker.task, pool.nice)
    if pool.cpu >= 0:
        kthread_bind_mask(worker.task, 1 << pool.cpu)
        if pool.disassociated:                     # worker_attach_to_pool()
            worker.flags |= WORKER_UNBOUND
    pool.workers.append(worker)
    worker_enter_idle(worker)
    wake_up_process(worker.task)
    return worker


def wq_worker_sleeping(task: TaskStruct) -> None:
    """A worker blocks inside a work: another one takes the next work. Called by schedule()."""
    worker: Worker = task.kthread.data
    if worker.flags & WORKER_NOT_RUNNING or worker.sleeping:
        return
    worker.sleeping = True
    pool = worker.pool
    pool.nr_running -= 1
    if not pool.nr_running and pool.worklist and pool.idle_list:
        wake_up_process(pool.idle_list[-1].task)


def wq_worker_running(task: TaskStruct) -> None:
    """It runs again. Called by schedule()."""
    worker: Worker = task.kthread.data
    if worker.sleeping:
        worker.sleeping = False
        if not worker.flags & WORKER_NOT_RUNNING:
            worker.pool.nr_running += 1


def set_worker_desc(desc: str) -> None:
    """What the work at hand is about: shown behind the kworker's name until the next work. Context: a work."""
    task = current()
    if task.flags & PF_WQ_WORKER:
        worker: Worker = task.kthread.data
        worker.desc = desc


def wq_worker_comm(task: TaskStruct) -> bytes:
    """The full name of a kworker: kworker/0:1-events, with + while it works (/proc/PID/comm, ps)."""
    worker: Worker = task.kthread.data
    if not worker.desc:
        return task.comm
    return task.comm + (b"+" if worker.current_work is not None else b"-") + worker.desc.encode()


# ---- queues -----------------------------------------------------------------------------------------------
def alloc_workqueue(kernel: Kernel, name: str, flags: int, max_active: int = 0) -> WorkqueueStruct:
    """Makes a queue. max_active: how many of its works may be active per CPU at once; 0: WQ_DFL_ACTIVE."""
    wq = WorkqueueStruct(kernel, name, flags, min(max_active or WQ_DFL_ACTIVE, WQ_MAX_ACTIVE))
    state = kernel.workqueues
    highpri = 1 if flags & WQ_HIGHPRI else 0
    if flags & WQ_UNBOUND:
        wq.pwqs.append(PoolWorkqueue(state.unbound_pools[highpri], wq))
    else:
        wq.pwqs.extend(PoolWorkqueue(pools[highpri], wq) for pools in state.cpu_pools)
    state.workqueues.append(wq)
    return wq


@notrace
def alloc_ordered_workqueue(kernel: Kernel, name: str, flags: int) -> WorkqueueStruct:
    """One work at a time, in the order of queueing."""
    return alloc_workqueue(kernel, name, WQ_UNBOUND | flags, 1)


@may_sleep
def destroy_workqueue(wq: WorkqueueStruct) -> None:
    """Waits until it is empty, and forgets it."""
    drain_workqueue(wq)
    wq.kernel.workqueues.workqueues.remove(wq)


def workqueue_init_early(kernel: Kernel) -> None:
    """Makes kernel.workqueues: works can be queued, but nobody runs them yet."""
    state = kernel.workqueues = WorkqueueState()
    number = 0
    for vcpu in kernel.machine.cpus:
        state.cpu_pools.append((WorkerPool(kernel, vcpu.id, number, 0),
                                WorkerPool(kernel, vcpu.id, number + 1, HIGHPRI_NICE_LEVEL)))
        number += 2
    state.unbound_pools = [WorkerPool(kernel, -1, number, 0),
                           WorkerPool(kernel, -1, number + 1, HIGHPRI_NICE_LEVEL)]
    state.system_wq = alloc_workqueue(kernel, "events", 0)
    state.system_highpri_wq = alloc_workqueue(kernel, "events_highpri", WQ_HIGHPRI)
    state.system_long_wq = alloc_workqueue(kernel, "events_long", 0)
    state.system_unbound_wq = alloc_workqueue(kernel, "events_unbound", WQ_UNBOUND, WQ_MAX_ACTIVE)
    state.system_power_efficient_wq = alloc_workqueue(kernel, "events_power_efficient", WQ_POWER_EFFICIENT)
    kernel.sched.wq_worker_sleeping = wq_worker_sleeping
    kernel.sched.wq_worker_running = wq_worker_running


def workqueue_init(kernel: Kernel) -> None:
    """Starts the first worker of each pool. Context: task (PID 1)."""
    if getattr(kernel, "workqueues", None) is None:
        workqueue_init_early(kernel)
    state = kernel.workqueues
    for cpu, pools in enumerate(state.cpu_pools):
        online = kernel.sched.cpu_online_mask >> cpu & 1
        for pool in pools:
            if online:
                create_worker(pool)
            else:
                pool.disassociated = True
    create_worker(state.unbound_pools[0])
    state.online = True


