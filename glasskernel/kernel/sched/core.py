"""The scheduler core: schedule(), wakeups, forks, and what a context switch needs.

Linux: kernel/sched/core.c (5.3), and schedule_timeout(), msleep() of kernel/time/timer.c. Same: names, call
structure, the order of classes (stop, RT, fair, idle), the wakeup path.
Differs: no preemption inside the kernel and no parallel execution, so no locks, memory barriers or on_cpu
    loops: between two calls of schedule() nobody else runs kernel code. The stack of a dead task is a
    suspended greenlet; finish_task_switch() unwinds it with GreenletExit.
Owns: every Rq; task.state, on_rq, on_cpu, cpu, prio, policy, sched_class.
Invariants: rq.curr is the task whose greenlet runs when that CPU has the turn; a task is queued on at most
    one rq, that of task.cpu; TASK_RUNNING tasks are queued (except while they are being woken).
Gaps: uclamp, core scheduling, priority inheritance.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from greenlet import GreenletExit, getcurrent

from glasskernel.arch.x86.process import switch_to
from glasskernel.arch.x86.uaccess import put_user_u32
from glasskernel.kernel.current import current, register
from glasskernel.kernel.rcu.dynticks import rcu_all_qs, rcu_note_context_switch
from glasskernel.kernel.sched.cputime import vtime_flush
from glasskernel.kernel.sched.deadline import dl_sched_class, task_dead_dl
from glasskernel.kernel.sched.fair import fair_sched_class, pick_next_task_fair
from glasskernel.kernel.sched.idle_class import idle_sched_class, pick_next_task_idle
from glasskernel.kernel.sched.loadavg import LOAD_FREQ
from glasskernel.kernel.sched.rq import (
    __set_task_cpu,
    activate_task,
    check_preempt_curr,
    deactivate_task,
    dequeue_task,
    enqueue_task,
    idle_cpu,
    resched_curr,
    set_task_cpu,
    smp_send_reschedule,
    task_contributes_to_load,
    this_rq,
    update_rq_clock,
)
from glasskernel.kernel.sched.rt import rt_sched_class, task_woken_rt
from glasskernel.kernel.sched.stop_class import stop_sched_class
from glasskernel.kernel.sched.types import (
    DEFAULT_PRIO,
    DEQUEUE_NOCLOCK,
    DEQUEUE_SAVE,
    DEQUEUE_SLEEP,
    ENQUEUE_MIGRATED,
    ENQUEUE_NOCLOCK,
    ENQUEUE_RESTORE,
    ENQUEUE_WAKEUP,
    MAX_DL_PRIO,
    MAX_RT_PRIO,
    PREEMPT_OFFSET,
    SCHED_DEADLINE,
    SCHED_FIFO,
    SCHED_FIXEDPOINT_SHIFT,
    SCHED_IDLE,
    SCHED_NORMAL,
    SCHED_RR,
    SD_BALANCE_EXEC,
    SD_BALANCE_FORK,
    SD_BALANCE_WAKE,
    TASK_ON_RQ_MIGRATING,
    WEIGHT_IDLEPRIO,
    WF_FORK,
    WF_MIGRATED,
    WF_SYNC,
    WMULT_IDLEPRIO,
    Rq,
    SchedClass,
    SchedEntity,
    SchedRtEntity,
    SchedState,
    sched_prio_to_weight,
    sched_prio_to_wmult,
)
from glasskernel.kernel.task import (
    PF_IDLE,
    PF_KTHREAD,
    PF_WQ_WORKER,
    TASK_DEAD,
    TASK_IDLE,
    TASK_INTERRUPTIBLE,
    TASK_KILLABLE,
    TASK_NEW,
    TASK_NORMAL,
    TASK_RUNNING,
    TASK_UNINTERRUPTIBLE,
    TASK_WAKEKILL,
    TASK_WAKING,
    TIF_NEED_RESCHED,
    TIF_NOTIFY_RESUME,
    TIF_SIGPENDING,
)
from glasskernel.kernel.time.timer import (
    del_timer_sync,
    jiffies,
    jiffies_to_msecs,
    mod_timer,
    msecs_to_jiffies,
)
from glasskernel.kernel.time.types import INITIAL_JIFFIES, MAX_SCHEDULE_TIMEOUT, TimerList
from glasskernel.lib.errno import EAGAIN, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

__all__ = [
    "MAX_SCHEDULE_TIMEOUT", "WF_SYNC", "cond_resched", "current", "fatal_signal_pending", "idle_cpu",
    "init_idle", "io_schedule", "io_schedule_timeout", "jiffies", "msleep", "msleep_interruptible",
    "need_resched", "nr_context_switches", "nr_iowait", "nr_running", "nr_uninterruptible",
    "resched_curr", "schedule", "schedule_tail", "schedule_timeout", "schedule_timeout_interruptible",
    "schedule_timeout_killable", "schedule_timeout_uninterruptible", "sched_fork", "sched_init",
    "set_current_state", "set_user_nice", "signal_pending", "signal_pending_state", "task_nice",
    "this_rq", "try_to_wake_up", "wake_up_new_task", "wake_up_process", "wake_up_state", "yield_",
]

CONTEXT_SWITCH_NS = 1_200          # what one switch costs in virtual time
_SIGKILL_BIT = 1 << 8


# ---- state of the running task ----------------------------------------------------------------------------
@notrace
def set_current_state(state: int) -> None:
    """Announces a sleep: test the condition after this, then schedule()."""
    register.task.state = state


@notrace
def signal_pending(task: TaskStruct) -> bool:
    """True if the task has a signal to handle."""
    return bool(task.ti_flags & TIF_SIGPENDING)


@notrace
def fatal_signal_pending(task: TaskStruct) -> bool:
    """True if the task is about to die."""
    return bool(task.ti_flags & TIF_SIGPENDING and task.pending.signal & _SIGKILL_BIT)


@notrace
def signal_pending_state(state: int, task: TaskStruct) -> bool:
    """True if a signal forbids sleeping in this state."""
    if not state & (TASK_INTERRUPTIBLE | TASK_WAKEKILL) or not task.ti_flags & TIF_SIGPENDING:
        return False
    return bool(state & TASK_INTERRUPTIBLE or task.pending.signal & _SIGKILL_BIT)


@notrace
def need_resched() -> bool:
    """True if the running task should call schedule()."""
    return bool(register.task.ti_flags & TIF_NEED_RESCHED)


# ---- schedule ---------------------------------------------------------------------------------------------
@may_sleep
def schedule() -> None:
    """Gives up the CPU: to sleep if task.state says so, else to let others run.

    Context: task, no spinlock held. Returns when the task runs again, perhaps on another CPU.
    """
    tsk = register.task
    if tsk.flags & PF_WQ_WORKER or tsk.plug is not None:
        sched_submit_work(tsk)
        __schedule(False)
        while tsk.ti_flags & TIF_NEED_RESCHED:
            __schedule(False)
        sched_update_worker(tsk)
        return
    __schedule(False)
    while tsk.ti_flags & TIF_NEED_RESCHED:
        __schedule(False)


def sched_submit_work(tsk: TaskStruct) -> None:
    """A worker goes to sleep: its pool may need another one."""
    if not tsk.state:
        return
    if tsk.flags & PF_WQ_WORKER:
        sleeping = tsk.kernel.sched.wq_worker_sleeping
        if sleeping is not None:
            sleeping(tsk)
    if tsk.plug is not None:                       # nobody may wait for I/O that was never submitted
        tsk.kernel.blk_flush_plug(tsk)


def sched_update_worker(tsk: TaskStruct) -> None:
    if not tsk.flags & PF_WQ_WORKER:
        return
    running = tsk.kernel.sched.wq_worker_running
    if running is not None:
        running(tsk)


@notrace
def __schedule(preempt: bool) -> None:
    prev = register.task
    kernel = prev.kernel
    rq = kernel.sched.rqs[prev.cpu]
    if prev.preempt_count:
        __schedule_bug(prev)
    if register.preempt_points > 1:              # preempt_disable() of schedule(): only counted where it can matter
        prev.preempt_count += PREEMPT_OFFSET
    rcu_note_context_switch(preempt)
    update_rq_clock(rq)
    voluntary = False
    if prev.state and not preempt:
        if prev.stack is None:                   # a finally clause of a dead task wants to sleep
            raise GreenletExit
        if prev.ti_flags & TIF_SIGPENDING and signal_pending_state(prev.state, prev):
            prev.state = TASK_RUNNING
        else:
            if task_contributes_to_load(prev):
                rq.nr_uninterruptible += 1
            deactivate_task(rq, prev, DEQUEUE_SLEEP | DEQUEUE_NOCLOCK)
            if prev.in_iowait:
                rq.nr_iowait += 1
        voluntary = True
    next_ = pick_next_task(rq, prev)
    prev.ti_flags &= ~TIF_NEED_RESCHED
    rq.sched_count += 1
    if prev is not next_:
        rq.nr_switches += 1
        if voluntary:
            prev.nvcsw += 1
        else:
            prev.nivcsw += 1
        probe = kernel.tp.sched_switch
        if probe is not None:
            probe(preempt, prev, next_)
        context_switch(rq, prev, next_)
    if register.preempt_points > 1:
        prev.preempt_count -= PREEMPT_OFFSET     # sched_preempt_enable_no_resched()


def __schedule_bug(prev: TaskStruct) -> None:
    """A task sleeps with a spinlock held, or in an interrupt: an oops, as it has to end without it."""
    count = prev.preempt_count
    prev.preempt_count = 0
    raise AssertionError(f"BUG: scheduling while atomic: {prev.comm.decode()}/{prev.pid}/{count:#010x}")


def pick_next_task(rq: Rq, prev: TaskStruct) -> TaskStruct:
    """Asks the classes from the top. Usually all tasks are fair ones: then only that class."""
    cls = prev.sched_class
    if rq.nr_running == rq.cfs.h_nr_running and (cls is fair_sched_class or cls is idle_sched_class):
        p = pick_next_task_fair(rq, prev)
        if p is None:
            p = pick_next_task_idle(rq, prev)
        assert p is not None
        return p
    above: SchedClass | None = stop_sched_class
    while above is not None:
        p = above.pick_next_task(rq, prev)
        if p is not None:
            return p
        above = above.next
    raise AssertionError("the idle class always has a task")


def context_switch(rq: Rq, prev: TaskStruct, next_: TaskStruct) -> None:
    """Makes `next_` the running task of this CPU. Returns when prev runs again, wherever that is."""
    kernel = rq.kernel
    vtime_flush(rq)
    if kernel.perf is not None:                  # perf_event_task_sched_out()
        kernel.perf.task_sched_out(prev, next_)
    if prev.rseq:                                # rseq_preempt()
        prev.ti_flags |= TIF_NOTIFY_RESUME
    rq.curr = next_
    next_.on_cpu = True
    se = next_.se                                # sched_info_switch()
    if se.last_queued:
        delay = rq.clock - se.last_queued
        if delay > 0:
            se.run_delay += delay
            rq.run_delay += delay
        se.last_queued = 0
    se.pcount += 1
    if prev.on_rq:
        prev.se.last_queued = rq.clock
    mm = prev.active_mm
    if next_.mm is None:                         # a kernel thread borrows the address space that is loaded
        next_.active_mm = mm
        if mm is not None:
            mm.mm_count += 1
    if prev.mm is None:
        prev.active_mm = None
        rq.prev_mm = mm
    kernel.machine.charge(CONTEXT_SWITCH_NS)
    rq.switch_prev = prev
    switch_to(prev, next_)
    finish_task_switch(kernel.sched.rqs[prev.cpu].switch_prev)


def finish_task_switch(prev: TaskStruct) -> None:
    """First thing on the new stack: lets go of what the task before held."""
    kernel = prev.kernel
    rq = kernel.sched.rqs[register.task.cpu]
    mm = rq.prev_mm
    rq.prev_mm = None
    if kernel.perf is not None:                  # perf_event_task_sched_in()
        kernel.perf.task_sched_in(prev, register.task)
    prev.on_cpu = False
    if mm is not None:
        if kernel.sched.mmdrop is not None:
            kernel.sched.mmdrop(mm)
        else:
            mm.mm_count -= 1
    if prev.state == TASK_DEAD:
        if prev.sched_class is dl_sched_class:
            task_dead_dl(prev)
        put_task_stack(prev)
        put = kernel.sched.put_task_struct
        if put is not None:
            put(prev)


@notrace
def put_task_stack(p: TaskStruct) -> None:
    """Frees the kernel stack of a task that never runs again.

    Its greenlet hangs in switch_to(). GreenletExit unwinds it: a BaseException, so that no `except Exception`
    takes it for an oops; its finally clauses see the dead task as current() and must not sleep.
    """
    stack = p.stack
    p.stack = None
    p.kernel.sched.release_task_stack(p)
    if stack is None or stack.dead:
        return
    task = register.task
    register.task = p
    stack.parent = getcurrent()                  # where it ends
    try:
        stack.throw()
    finally:
        register.task = task


@notrace
def release_stacks(tasks: list[TaskStruct]) -> None:
    """Power is off: unwinds all these kernel stacks, idle tasks' included. Called by the host, on no task's
    stack.

    A greenlet that still hangs in switch_to() is never collected, and with it the whole Kernel.
    """
    previous = getattr(register, "task", None)
    try:
        for p in tasks:
            p.ti_flags = 0
            register.task = p
            put_task_stack(p)
    finally:
        if previous is not None:
            register.task = previous


def schedule_tail(prev: TaskStruct | None = None) -> None:
    """First thing that a new task does; prev is who ran before (None: ask the run queue)."""
    task = register.task
    finish_task_switch(prev or task.kernel.sched.rqs[task.cpu].switch_prev)
    if task.set_child_tid and task.mm is not None:
        with suppress(KernelError):
            numbers = task.thread_pid.numbers            # task_pid_vnr(): the innermost is its own namespace's
            put_user_u32(task.set_child_tid, numbers[-1][1] if numbers else task.pid)
    calculate = task.kernel.sched.calculate_sigpending
    if calculate is not None:
        calculate()


def do_task_dead() -> None:
    """The last thing that a task does. Never returns."""
    register.task.state = TASK_DEAD
    __schedule(False)
    raise AssertionError("a dead task was scheduled")


def schedule_idle() -> None:
    """schedule() of the idle loop: the idle task is always TASK_RUNNING."""
    task = register.task
    __schedule(False)
    while task.ti_flags & TIF_NEED_RESCHED:
        __schedule(False)


def preempt_schedule_common() -> None:
    """Lets others run although the task did not ask to sleep, whatever its state says."""
    task = register.task
    __schedule(True)
    while task.ti_flags & TIF_NEED_RESCHED:
        __schedule(True)


def _cond_resched() -> int:
    """cond_resched(), a macro there. In long loops: lets others run if they should. Returns 1 if it did.

    Beside the border to user mode the place where interrupts come (preempt.py has more, if asked for): without it,
    a kernel thread that never sleeps would never see its tick.
    """
    task = register.task
    machine = task.kernel.machine
    vcpu = machine.this_cpu
    clock = vcpu.clock_ns
    deadline = vcpu.timer_deadline_ns
    due = clock >= vcpu.turn_end_ns or vcpu.pending or (deadline is not None and clock >= deadline)
    if due and not task.preempt_count and task.pid:
        machine.border()
        if not task.ti_flags & TIF_NEED_RESCHED:
            rcu_all_qs()
    if task.ti_flags & TIF_NEED_RESCHED and not task.preempt_count:
        preempt_schedule_common()
        return 1
    return 0


cond_resched = _cond_resched


@may_sleep
def yield_() -> None:
    """Linux's yield(): stays runnable, lets others run."""
    register.task.state = TASK_RUNNING
    do_sched_yield()


def do_sched_yield() -> None:
    rq = this_rq()
    rq.yld_count += 1
    rq.curr.sched_class.yield_task(rq)
    schedule()


def io_schedule_prepare() -> bool:
    """The sleep that follows counts as waiting for I/O; what waits in the task's plug is submitted first."""
    task = register.task
    old = task.in_iowait
    task.in_iowait = True
    if task.plug is not None:
        task.kernel.blk_flush_plug(task)           # blk_schedule_flush_plug()
    return old


def io_schedule_finish(token: bool) -> None:
    """Ends io_schedule_prepare()."""
    register.task.in_iowait = token


@may_sleep
def io_schedule() -> None:
    """schedule(), and the time counts as waiting for I/O."""
    token = io_schedule_prepare()
    try:
        schedule()
    finally:
        io_schedule_finish(token)


@may_sleep
def io_schedule_timeout(timeout: int) -> int:
    """schedule_timeout(), and the time counts as waiting for I/O."""
    token = io_schedule_prepare()
    try:
        return schedule_timeout(timeout)
    finally:
        io_schedule_finish(token)


# ---- sleeping for a time ----------------------------------------------------------------------------------
def process_timeout(timer: TimerList) -> None:
    wake_up_process(timer.data)


@may_sleep
def schedule_timeout(timeout: int) -> int:
    """schedule() for at most so many jiffies; set task.state first.

    Returns the jiffies that were left, 0 at the end.
    """
    if timeout >= MAX_SCHEDULE_TIMEOUT:
        schedule()
        return timeout
    task = register.task
    if timeout < 0:
        task.state = TASK_RUNNING
        return 0
    expire = timeout + task.kernel.time.jiffies
    timer = TimerList(process_timeout, task)
    probe = task.kernel.tp.timer_init
    if probe is not None:
        probe(timer)
    mod_timer(timer, expire)
    try:
        schedule()
    finally:
        del_timer_sync(timer)
    timeout = expire - task.kernel.time.jiffies
    return timeout if timeout > 0 else 0


@may_sleep
def schedule_timeout_interruptible(timeout: int) -> int:
    register.task.state = TASK_INTERRUPTIBLE
    return schedule_timeout(timeout)


@may_sleep
def schedule_timeout_killable(timeout: int) -> int:
    register.task.state = TASK_KILLABLE
    return schedule_timeout(timeout)


@may_sleep
def schedule_timeout_uninterruptible(timeout: int) -> int:
    register.task.state = TASK_UNINTERRUPTIBLE
    return schedule_timeout(timeout)


@may_sleep
def schedule_timeout_idle(timeout: int) -> int:
    """As schedule_timeout_uninterruptible(), but no load."""
    register.task.state = TASK_IDLE
    return schedule_timeout(timeout)


@may_sleep
def msleep(msecs: int) -> None:
    """Sleeps at least so long, signals or not."""
    timeout = msecs_to_jiffies(msecs) + 1
    while timeout:
        timeout = schedule_timeout_uninterruptible(timeout)


@may_sleep
def msleep_interruptible(msecs: int) -> int:
    """Sleeps until a signal comes. Returns the ms that were left."""
    timeout = msecs_to_jiffies(msecs) + 1
    while timeout and not signal_pending(register.task):
        timeout = schedule_timeout_interruptible(timeout)
    return jiffies_to_msecs(timeout)


# ---- wakeups ----------------------------------------------------------------------------------------------
def try_to_wake_up(p: TaskStruct, state: int, wake_flags: int) -> int:
    """Makes a task runnable if it sleeps in one of the states. Returns 1 if it did. Context: any."""
    if not p.state & state:
        return 0
    kernel = p.kernel
    probe = kernel.tp.sched_waking
    if probe is not None:
        probe(p)
    if p.on_rq:                                  # it announced a sleep, but has not slept yet: ttwu_remote()
        p.state = TASK_RUNNING
        rq = kernel.sched.rqs[p.cpu]
        rq.ttwu_count += 1
        if rq.curr is not p:
            update_rq_clock(rq)
            check_preempt_curr(rq, p, wake_flags)
        probe = kernel.tp.sched_wakeup
        if probe is not None:
            probe(p)
        return 1
    contributes = task_contributes_to_load(p)
    p.state = TASK_WAKING
    old_rq = kernel.sched.rqs[p.cpu]
    if contributes:
        old_rq.nr_uninterruptible -= 1
    if p.in_iowait:
        vtime_flush(old_rq)                      # up to now its CPU waited for this I/O
        old_rq.nr_iowait -= 1
    cpu = select_task_rq(p, p.wake_cpu, SD_BALANCE_WAKE, wake_flags)
    if cpu != p.cpu:
        wake_flags |= WF_MIGRATED
        set_task_cpu(p, cpu)
    rq = kernel.sched.rqs[cpu]
    rq.ttwu_count += 1
    if cpu == register.task.cpu:
        rq.ttwu_local += 1
    ttwu_queue(p, rq, wake_flags)
    return 1


def select_task_rq(p: TaskStruct, cpu: int, sd_flags: int, wake_flags: int) -> int:
    """The CPU that p should run on."""
    allowed = p.cpus_allowed
    if allowed & (allowed - 1):
        cpu = p.sched_class.select_task_rq(p, cpu, sd_flags, wake_flags)
    else:
        cpu = allowed.bit_length() - 1
    if (allowed & p.kernel.sched.cpu_active_mask) >> cpu & 1:     # is_cpu_allowed(), for most
        return cpu
    return cpu if is_cpu_allowed(p, cpu) else select_fallback_rq(p.cpu, p)


@notrace
def is_cpu_allowed(p: TaskStruct, cpu: int) -> bool:
    """p may run there now. A CPU that comes or goes is for its own kernel threads only."""
    allowed = p.cpus_allowed
    sched = p.kernel.sched
    if not allowed >> cpu & 1:
        return False
    if p.flags & PF_KTHREAD and not allowed & (allowed - 1):      # is_per_cpu_kthread()
        return bool(sched.cpu_online_mask >> cpu & 1)
    return bool(sched.cpu_active_mask >> cpu & 1)


def select_fallback_rq(cpu: int, p: TaskStruct) -> int:
    """The class's choice cannot be: any CPU that p may use, and if there is none, any CPU at all from now on."""
    sched = p.kernel.sched
    usable = p.cpus_allowed & sched.cpu_active_mask
    if not usable:
        do_set_cpus_allowed(p, sched.cpu_possible_mask)      # cpuset_cpus_allowed_fallback(), of version 1
        usable = sched.cpu_active_mask
        if p.mm is not None:
            p.kernel.printk(f"process {p.pid} ({p.comm.decode(errors='replace')}) no longer affine to cpu{cpu}", 4)
    return (usable & -usable).bit_length() - 1


def ttwu_queue(p: TaskStruct, rq: Rq, wake_flags: int) -> None:
    update_rq_clock(rq)
    ttwu_do_activate(rq, p, wake_flags)


def ttwu_do_activate(rq: Rq, p: TaskStruct, wake_flags: int) -> None:
    """Queues a woken task and looks whether it should run at once."""
    flags = ENQUEUE_WAKEUP | ENQUEUE_NOCLOCK
    if wake_flags & WF_MIGRATED:
        flags |= ENQUEUE_MIGRATED
    activate_task(rq, p, flags)
    ttwu_do_wakeup(rq, p, wake_flags)


def ttwu_do_wakeup(rq: Rq, p: TaskStruct, wake_flags: int) -> None:
    check_preempt_curr(rq, p, wake_flags)
    p.state = TASK_RUNNING
    probe = rq.kernel.tp.sched_wakeup
    if probe is not None:
        probe(p)
    if p.sched_class is rt_sched_class:
        task_woken_rt(rq, p)
    if rq.idle_stamp:                            # how long CPUs are idle: a running average over 8
        delta = rq.clock - rq.idle_stamp
        rq.avg_idle += (min(delta, 1_000_000) - rq.avg_idle) // 8
        rq.idle_stamp = 0


def wake_up_process(p: TaskStruct) -> int:
    """Wakes a task that sleeps, interruptibly or not. Returns 1 if it slept. Context: any."""
    return try_to_wake_up(p, TASK_NORMAL, 0)


def wake_q_add(head: list[TaskStruct], task: TaskStruct) -> None:
    """The task is to be woken by wake_up_q(), when the caller has let its locks go."""
    if task not in head:
        head.append(task)


def wake_q_add_safe(head: list[TaskStruct], task: TaskStruct) -> None:
    """wake_q_add() by a caller who gives a reference of the task away."""
    if task not in head:
        head.append(task)


def wake_up_q(head: list[TaskStruct]) -> None:
    """Wakes who was put there."""
    for task in head:
        wake_up_process(task)


def wake_up_state(p: TaskStruct, state: int) -> int:
    """Wakes a task that sleeps in one of the states."""
    return try_to_wake_up(p, state, 0)


def kick_process(p: TaskStruct) -> None:
    """Makes the CPU on which p runs in user mode enter the kernel (to see a signal)."""
    if p.cpu != register.task.cpu and p.kernel.sched.rqs[p.cpu].curr is p:
        smp_send_reschedule(p.kernel, p.cpu)


# ---- new tasks --------------------------------------------------------------------------------------------
def sched_fork(clone_flags: int, p: TaskStruct) -> int:
    """Sets up the scheduling side of a task that copy_process() makes; it may have the parent's fields
    copied.

    SCHED_RESET_ON_FORK takes a raised priority away; without it, SCHED_DEADLINE is EAGAIN. Returns 0.
    Context: task (the parent is current).
    """
    __sched_fork(clone_flags, p)
    p.state = TASK_NEW
    parent = register.task
    p.prio = parent.normal_prio
    p.dl = None  # type: ignore[assignment]
    if p.sched_reset_on_fork:
        if p.policy in (SCHED_FIFO, SCHED_RR, SCHED_DEADLINE):
            p.policy = SCHED_NORMAL
            p.static_prio = DEFAULT_PRIO
            p.rt_priority = 0
        elif p.static_prio < DEFAULT_PRIO:
            p.static_prio = DEFAULT_PRIO
        p.prio = p.normal_prio = p.static_prio
        p.sched_reset_on_fork = False
    if p.prio < 0:
        raise KernelError(EAGAIN)                # a reservation cannot be shared
    set_load_weight(p)
    if p.prio < MAX_RT_PRIO:
        p.sched_class = rt_sched_class
    else:
        p.sched_class = fair_sched_class
    forked_task_group = p.kernel.sched.forked_task_group
    p.sched_task_group = parent.sched_task_group if forked_task_group is None else forked_task_group(p)
    __set_task_cpu(p, parent.cpu)
    p.on_cpu = False
    p.preempt_count = 0
    p.sched_class.task_fork(p)
    return 0


def __sched_fork(clone_flags: int, p: TaskStruct) -> None:
    p.on_rq = 0
    p.se = SchedEntity(p)
    p.rt = SchedRtEntity()
    p.rt.time_slice = p.kernel.sched.sched_rr_timeslice
    p.ti_flags &= ~TIF_NEED_RESCHED
    p.in_iowait = False


def set_load_weight(p: TaskStruct) -> None:
    """The entity's weight from the nice level. Call it while the task is not queued."""
    se = p.se
    if p.policy == SCHED_IDLE:
        se.weight, se.inv_weight = WEIGHT_IDLEPRIO << SCHED_FIXEDPOINT_SHIFT, WMULT_IDLEPRIO
    else:
        se.weight = sched_prio_to_weight[p.static_prio - 100] << SCHED_FIXEDPOINT_SHIFT
        se.inv_weight = sched_prio_to_wmult[p.static_prio - 100]


def wake_up_new_task(p: TaskStruct) -> None:
    """A forked task runs for the first time. Context: task (the parent is current)."""
    kernel = p.kernel
    p.state = TASK_RUNNING
    if p.rseq:                                   # rseq_migrate(): struct rseq still says the parent's CPU
        p.ti_flags |= TIF_NOTIFY_RESUME
    __set_task_cpu(p, select_task_rq(p, p.cpu, SD_BALANCE_FORK, 0))
    rq = kernel.sched.rqs[p.cpu]
    update_rq_clock(rq)
    activate_task(rq, p, ENQUEUE_NOCLOCK)
    probe = kernel.tp.sched_wakeup_new
    if probe is not None:
        probe(p)
    check_preempt_curr(rq, p, WF_FORK)
    if p.sched_class is rt_sched_class:
        task_woken_rt(rq, p)
    kernel.sched.total_forks += 1


@may_sleep
def sched_exec() -> None:
    """execve() is the cheapest moment to move a task: it has no cache to lose. Context: task."""
    p = register.task
    cpu = p.cpu
    dest = select_task_rq(p, cpu, SD_BALANCE_EXEC, 0)
    stop_one_cpu = p.kernel.sched.stop_one_cpu
    if dest != cpu and stop_one_cpu is not None and p.kernel.sched.rqs[cpu].nr_running > 1:
        stop_one_cpu(cpu, migration_cpu_stop, (p, dest))


def migration_cpu_stop(arg: tuple[TaskStruct, int]) -> int:
    """On migration/N, above every other task: moves a task that was running here. Returns 0."""
    p, dest = arg
    rq = p.kernel.sched.rqs[p.cpu]
    if p.cpu == register.task.cpu and is_cpu_allowed(p, dest):
        if p.on_rq:
            __migrate_task(rq, p, dest)
        else:
            p.wake_cpu = dest
    return 0


def __migrate_task(rq: Rq, p: TaskStruct, dest_cpu: int) -> None:
    """move_queued_task(): from one run queue to another."""
    p.on_rq = TASK_ON_RQ_MIGRATING
    update_rq_clock(rq)
    dequeue_task(rq, p, DEQUEUE_NOCLOCK)
    set_task_cpu(p, dest_cpu)
    rq = p.kernel.sched.rqs[dest_cpu]
    update_rq_clock(rq)
    activate_task(rq, p, ENQUEUE_NOCLOCK)
    check_preempt_curr(rq, p, 0)


# ---- priorities -------------------------------------------------------------------------------------------
@notrace
def task_nice(p: TaskStruct) -> int:
    """-20..19"""
    return p.static_prio - DEFAULT_PRIO


@notrace
def normal_prio(p: TaskStruct) -> int:
    if p.policy == SCHED_DEADLINE:
        return MAX_DL_PRIO - 1
    if p.policy in (SCHED_FIFO, SCHED_RR):
        return MAX_RT_PRIO - 1 - p.rt_priority
    return p.static_prio


def set_user_nice(p: TaskStruct, nice: int) -> None:
    """Sets the nice level, -20..19. Real-time tasks remember it for later."""
    if task_nice(p) == nice or nice < -20 or nice > 19:
        return
    rq = p.kernel.sched.rqs[p.cpu]
    update_rq_clock(rq)
    if p.prio < MAX_RT_PRIO:
        p.static_prio = DEFAULT_PRIO + nice
        return
    queued = p.on_rq
    running = rq.curr is p
    if queued:
        dequeue_task(rq, p, DEQUEUE_SAVE | DEQUEUE_NOCLOCK)
    if running:
        p.sched_class.put_prev_task(rq, p)
    p.static_prio = DEFAULT_PRIO + nice
    set_load_weight(p)
    old_prio = p.prio
    p.prio = p.normal_prio = normal_prio(p)
    delta = p.prio - old_prio
    if queued:
        enqueue_task(rq, p, ENQUEUE_RESTORE | ENQUEUE_NOCLOCK)
        if delta < 0 or (delta > 0 and running):
            resched_curr(rq)
    if running:
        p.sched_class.set_next_task(rq, p)


def do_set_cpus_allowed(p: TaskStruct, mask: int) -> None:
    """Sets the CPU mask; where the task has to move, the caller moves it."""
    p.cpus_allowed = mask
    if not p.on_rq and rq_of(p).curr is not p and not mask >> p.cpu & 1:
        p.wake_cpu = (mask & -mask).bit_length() - 1


@notrace
def rq_of(p: TaskStruct) -> Rq:
    return p.kernel.sched.rqs[p.cpu]


# ---- numbers for /proc ------------------------------------------------------------------------------------
def nr_running(kernel: Kernel) -> int:
    """Runnable tasks of all CPUs, the running ones included."""
    return sum(rq.nr_running for rq in kernel.sched.rqs)


def nr_context_switches(kernel: Kernel) -> int:
    return sum(rq.nr_switches for rq in kernel.sched.rqs)


def nr_iowait(kernel: Kernel) -> int:
    """Tasks that sleep in io_schedule()."""
    return sum(rq.nr_iowait for rq in kernel.sched.rqs)


@notrace
def nr_uninterruptible(kernel: Kernel) -> int:
    return sum(rq.nr_uninterruptible for rq in kernel.sched.rqs)


# ---- boot -------------------------------------------------------------------------------------------------
def sched_init(kernel: Kernel) -> None:
    """Makes kernel.sched with one run queue per CPU. Needs kernel.machine and kernel.time."""
    sched = kernel.sched = SchedState()
    cpus = len(kernel.machine.cpus)
    sched.rqs = [Rq(kernel, cpu) for cpu in range(cpus)]
    sched.cpu_possible_mask = sched.cpu_online_mask = sched.cpu_active_mask = (1 << cpus) - 1
    sched.ksoftirqd = [None] * cpus
    factor = 1 + (min(cpus, 8).bit_length() - 1)         # SCHED_TUNABLESCALING_LOG
    sched.sysctl_sched_latency *= factor
    sched.sysctl_sched_min_granularity *= factor
    sched.sysctl_sched_wakeup_granularity *= factor
    sched.calc_load_update = INITIAL_JIFFIES + LOAD_FREQ
    root = sched.root_task_group
    root.cfs_rq = [rq.cfs for rq in sched.rqs]
    root.se = [None] * cpus
    sched.task_groups.append(root)
    for rq in sched.rqs:
        rq.calc_load_update = sched.calc_load_update
        rq.cfs.tg = root


def sched_init_smp(kernel: Kernel) -> None:
    """PID 1 may run anywhere from now on, and so may its children. Context: PID 1."""
    if kernel.mem.numa:
        sched_init_numa(kernel)
    do_set_cpus_allowed(register.task, kernel.sched.cpu_possible_mask)


def sched_init_numa(kernel: Kernel) -> None:
    """Each node is a domain, and all of them are another one (kernel/sched/topology.c)."""
    rqs = kernel.sched.rqs
    masks = [kernel.mem.node_to_cpumask[rq.vcpu.node] for rq in rqs]
    kernel.sched.numa_rqs = [[other for other in rqs if mask >> other.cpu & 1] for mask in masks]


def init_idle(idle: TaskStruct, cpu: int) -> None:
    """Makes a task the idle task of a CPU: it runs there, and is never queued."""
    rq = idle.kernel.sched.rqs[cpu]
    idle.se = SchedEntity(idle)
    idle.rt = SchedRtEntity()
    idle.state = TASK_RUNNING
    idle.flags |= PF_IDLE
    idle.sched_task_group = idle.kernel.sched.root_task_group
    __set_task_cpu(idle, cpu)
    idle.cpus_allowed = 1 << cpu
    idle.sched_class = idle_sched_class
    idle.on_rq = 0
    idle.on_cpu = True
    idle.preempt_count = 0
    idle.comm = b"swapper/%d" % cpu
    rq.idle = rq.curr = rq.switch_prev = idle
    vcpu = rq.vcpu
    vcpu.task = idle
