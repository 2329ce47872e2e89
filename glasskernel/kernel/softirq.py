"""Softirqs and tasklets: the bottom halves.

Linux: kernel/softirq.c (5.3). Same: ten vectors in order of priority, run when an interrupt ends or bottom
halves are enabled again; after 10 rounds or 2 ms ksoftirqd/N takes over; tasklets run once per schedule.
Owns: kernel.irq.softirq_pending, softirqs, softirq_vec, tasklet lists; task.preempt_count's irq and softirq
parts.
Invariants: no softirq runs inside another, or inside a hard interrupt; what is pending runs before its CPU
    returns to user mode or idles, or ksoftirqd of that CPU is awake.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import register
from glasskernel.kernel.irq.irqdesc import HI_SOFTIRQ, TASKLET_SOFTIRQ
from glasskernel.kernel.rcu.dynticks import rcu_irq_enter, rcu_irq_exit
from glasskernel.kernel.sched.core import cond_resched, wake_up_process
from glasskernel.kernel.sched.cputime import vtime_flush
from glasskernel.kernel.sched.preempt import preempt_check_resched
from glasskernel.kernel.sched.types import (
    HARDIRQ_MASK,
    HARDIRQ_OFFSET,
    HZ,
    SOFTIRQ_DISABLE_OFFSET,
    SOFTIRQ_MASK,
    SOFTIRQ_OFFSET,
)
from glasskernel.kernel.smpboot import SmpHotplugThread, smpboot_register_percpu_thread
from glasskernel.kernel.task import TASK_RUNNING, TIF_NEED_RESCHED
from glasskernel.kernel.time.tick_sched import tick_irq_enter, tick_irq_exit
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

MAX_SOFTIRQ_TIME = (2 * HZ + 999) // 1000          # jiffies
MAX_SOFTIRQ_RESTART = 10
SOFTIRQ_NS = 150                                   # what starting one vector costs in virtual time


@notrace
def in_interrupt() -> int:
    """Nonzero in hard interrupts, softirqs, and with bottom halves disabled."""
    return register.task.preempt_count & (HARDIRQ_MASK | SOFTIRQ_MASK)


@notrace
def in_irq() -> int:
    """Nonzero in hard interrupts."""
    return register.task.preempt_count & HARDIRQ_MASK


@notrace
def in_serving_softirq() -> int:
    return register.task.preempt_count & SOFTIRQ_OFFSET


@notrace
def local_softirq_pending() -> int:
    """The bits of the vectors that wait on this CPU."""
    task = register.task
    return task.kernel.irq.softirq_pending[task.cpu]


def open_softirq(kernel: Kernel, nr: int, action: Callable[[Kernel], None]) -> None:
    """Sets what a vector does: action(kernel), on the CPU that raised it. Context of action: softirq."""
    kernel.irq.softirq_vec[nr] = action


def raise_softirq(nr: int) -> None:
    """Marks a vector on this CPU; outside interrupts, wakes ksoftirqd for it. Context: any."""
    raise_softirq_irqoff(nr)


def raise_softirq_irqoff(nr: int) -> None:
    __raise_softirq_irqoff(nr)
    if not in_interrupt():
        wakeup_softirqd()


def __raise_softirq_irqoff(nr: int) -> None:
    task = register.task
    kernel = task.kernel
    probe = kernel.tp.softirq_raise
    if probe is not None:
        probe(nr)
    kernel.irq.softirq_pending[task.cpu] |= 1 << nr


def wakeup_softirqd() -> None:
    """Wakes ksoftirqd of this CPU, if there is one yet."""
    task = register.task
    tsk = task.kernel.sched.ksoftirqd[task.cpu]
    if tsk is not None and tsk.state != TASK_RUNNING:
        wake_up_process(tsk)


@notrace
def ksoftirqd_running() -> bool:
    """True if ksoftirqd of this CPU is about to run anyway."""
    task = register.task
    tsk = task.kernel.sched.ksoftirqd[task.cpu]
    return tsk is not None and tsk.state == TASK_RUNNING and tsk is not task


# ---- bottom halves off and on -----------------------------------------------------------------------------
@notrace
def local_bh_disable() -> None:
    """No softirq runs on this CPU until local_bh_enable(). Nests."""
    register.task.preempt_count += SOFTIRQ_DISABLE_OFFSET


@notrace
def local_bh_enable() -> None:
    """Undoes local_bh_disable(), and runs what was raised meanwhile."""
    __local_bh_enable_ip()


def __local_bh_enable_ip() -> None:
    task = register.task
    task.preempt_count -= SOFTIRQ_DISABLE_OFFSET
    if not task.preempt_count & (HARDIRQ_MASK | SOFTIRQ_MASK) and task.kernel.irq.softirq_pending[task.cpu]:
        do_softirq()
    if register.preempt_points > 1:
        preempt_check_resched()


def do_softirq() -> None:
    """Runs pending softirqs outside interrupts."""
    if not in_interrupt() and local_softirq_pending() and not ksoftirqd_running():
        __do_softirq()


# ---- running ----------------------------------------------------------------------------------------------
def __do_softirq() -> None:
    """Runs the pending vectors, lowest number first. Context: the end of an interrupt, or task."""
    task = register.task
    kernel = task.kernel
    cpu = task.cpu
    irq = kernel.irq
    rq = kernel.sched.rqs[cpu]
    vec = irq.softirq_vec
    end = kernel.time.jiffies + MAX_SOFTIRQ_TIME
    max_restart = MAX_SOFTIRQ_RESTART
    vtime_flush(rq)                                # account_irq_enter_time()
    task.preempt_count += SOFTIRQ_OFFSET
    while True:
        pending = irq.softirq_pending[cpu]
        irq.softirq_pending[cpu] = 0
        while pending:
            bit = pending & -pending
            pending ^= bit
            nr = bit.bit_length() - 1
            irq.softirqs[nr][cpu] += 1
            kernel.machine.charge(SOFTIRQ_NS)
            action = vec[nr]
            assert action is not None, f"softirq {nr} has no action"
            probe = kernel.tp.softirq_entry
            if probe is not None:
                probe(nr)
            action(kernel)
            probe = kernel.tp.softirq_exit
            if probe is not None:
                probe(nr)
        if not irq.softirq_pending[cpu]:
            break
        max_restart -= 1
        if kernel.time.jiffies < end and not task.ti_flags & TIF_NEED_RESCHED and max_restart:
            continue
        wakeup_softirqd()
        break
    vtime_flush(rq)                                # account_irq_exit_time()
    task.preempt_count -= SOFTIRQ_OFFSET


def irq_enter() -> None:
    """A hard interrupt begins; if it woke an idle CPU, time is brought up to date first."""
    task = register.task
    kernel = task.kernel
    rq = kernel.sched.rqs[task.cpu]
    rcu_irq_enter()
    if rq.curr is rq.idle and not task.preempt_count & (HARDIRQ_MASK | SOFTIRQ_MASK):
        tick_irq_enter(kernel, task.cpu)
    vtime_flush(rq)
    task.preempt_count += HARDIRQ_OFFSET


def irq_exit() -> None:
    """A hard interrupt ends: the softirqs that it raised run now."""
    task = register.task
    kernel = task.kernel
    rq = kernel.sched.rqs[task.cpu]
    vtime_flush(rq)
    task.preempt_count -= HARDIRQ_OFFSET
    if not task.preempt_count & (HARDIRQ_MASK | SOFTIRQ_MASK):
        if kernel.irq.softirq_pending[task.cpu]:
            invoke_softirq()
        if rq.curr is rq.idle:
            tick_irq_exit(kernel, task.cpu)
    rcu_irq_exit()


@notrace
def invoke_softirq() -> None:
    if not ksoftirqd_running():
        __do_softirq()


# ---- ksoftirqd --------------------------------------------------------------------------------------------
def ksoftirqd_should_run(cpu: int) -> int:
    return local_softirq_pending()


def run_ksoftirqd(cpu: int) -> None:
    """ksoftirqd/N: what was left over."""
    if local_softirq_pending():
        __do_softirq()
        cond_resched()


softirq_threads = SmpHotplugThread(
    store=lambda kernel: kernel.sched.ksoftirqd, thread_should_run=ksoftirqd_should_run,
    thread_fn=run_ksoftirqd, thread_comm="ksoftirqd/%u",
)


def spawn_ksoftirqd(kernel: Kernel) -> None:
    """Starts the threads. Context: task (PID 1)."""
    smpboot_register_percpu_thread(kernel, softirq_threads)


# ---- tasklets ---------------------------------------------------------------------------------------------
class TaskletStruct:
    """struct tasklet_struct.

    func(data) runs in softirq context. count: 0 enabled, else nested tasklet_disable().
    """

    __slots__ = ("func", "data", "scheduled", "count")

    def __init__(self, func: Callable[[Any], None], data: Any = None) -> None:
        self.func = func
        self.data = data
        self.scheduled = False
        self.count = 0


@notrace
def tasklet_init(t: TaskletStruct, func: Callable[[Any], None], data: Any) -> None:
    t.func = func
    t.data = data
    t.scheduled = False
    t.count = 0


@notrace
def tasklet_schedule(t: TaskletStruct) -> None:
    """Runs the tasklet soon on this CPU, once, however often it is scheduled before it runs. Context: any."""
    if not t.scheduled:
        t.scheduled = True
        __tasklet_schedule(t)


@notrace
def tasklet_hi_schedule(t: TaskletStruct) -> None:
    """tasklet_schedule(), before all other softirqs."""
    if not t.scheduled:
        t.scheduled = True
        __tasklet_hi_schedule(t)


def __tasklet_schedule(t: TaskletStruct) -> None:
    task = register.task
    __tasklet_schedule_common(t, task.kernel.irq.tasklet_vec[task.cpu], TASKLET_SOFTIRQ)


def __tasklet_hi_schedule(t: TaskletStruct) -> None:
    task = register.task
    __tasklet_schedule_common(t, task.kernel.irq.tasklet_hi_vec[task.cpu], HI_SOFTIRQ)


def __tasklet_schedule_common(t: TaskletStruct, head: list[TaskletStruct], softirq_nr: int) -> None:
    head.append(t)
    raise_softirq_irqoff(softirq_nr)


def tasklet_action_common(head: list[TaskletStruct], softirq_nr: int) -> None:
    tasklets = head[:]
    head.clear()
    for t in tasklets:
        if t.count:                                # disabled: stays for another time
            head.append(t)
            __raise_softirq_irqoff(softirq_nr)
            continue
        t.scheduled = False
        t.func(t.data)


def tasklet_action(kernel: Kernel) -> None:
    """TASKLET_SOFTIRQ"""
    tasklet_action_common(kernel.irq.tasklet_vec[register.task.cpu], TASKLET_SOFTIRQ)


def tasklet_hi_action(kernel: Kernel) -> None:
    """HI_SOFTIRQ"""
    tasklet_action_common(kernel.irq.tasklet_hi_vec[register.task.cpu], HI_SOFTIRQ)


@notrace
def tasklet_disable(t: TaskletStruct) -> None:
    t.count += 1


@notrace
def tasklet_enable(t: TaskletStruct) -> None:
    assert t.count > 0
    t.count -= 1


def tasklet_kill(t: TaskletStruct) -> None:
    """It shall not run any more: taken off wherever it is scheduled."""
    irq = register.task.kernel.irq
    for head in (*irq.tasklet_vec, *irq.tasklet_hi_vec):
        if t in head:
            head.remove(t)
    t.scheduled = False


def takeover_tasklets(kernel: Kernel, cpu: int) -> None:
    """A CPU is gone: its tasklets run here. Context: task, on another CPU."""
    irq = kernel.irq
    this_cpu = register.task.cpu
    for vec, softirq_nr in ((irq.tasklet_vec, TASKLET_SOFTIRQ), (irq.tasklet_hi_vec, HI_SOFTIRQ)):
        if vec[cpu]:
            vec[this_cpu] += vec[cpu]
            vec[cpu].clear()
            raise_softirq_irqoff(softirq_nr)
    irq.softirq_pending[cpu] = 0                   # what it stood for has moved, each with its own room


def softirq_init(kernel: Kernel) -> None:
    """Opens the tasklets' vectors. Needs kernel.irq."""
    open_softirq(kernel, TASKLET_SOFTIRQ, tasklet_action)
    open_softirq(kernel, HI_SOFTIRQ, tasklet_hi_action)
