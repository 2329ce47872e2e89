"""migration/N: work that must run on a certain CPU, above every task there; and stopping all of them.

Linux: kernel/stop_machine.c (5.3). Same: stop_one_cpu() waits for its work; stop_machine() takes every online CPU
through the same states, and runs its function while they all spin.
Owns: kernel.sched.stoppers, stop_works, stopper_enabled.
Gaps: stop_two_cpus().
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import register
from glasskernel.kernel.kthread import kthread_park, kthread_unpark
from glasskernel.kernel.sched.completion import Completion, complete, wait_for_completion
from glasskernel.kernel.sched.core import wake_q_add, wake_up_q
from glasskernel.kernel.sched.rq import update_rq_clock
from glasskernel.kernel.sched.stop_class import stop_sched_class
from glasskernel.kernel.sched.types import SCHED_FIFO
from glasskernel.kernel.smpboot import SmpHotplugThread, smpboot_register_percpu_thread
from glasskernel.lib.errno import ENOENT
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

MULTI_STOP_NONE, MULTI_STOP_PREPARE, MULTI_STOP_DISABLE_IRQ, MULTI_STOP_RUN, MULTI_STOP_EXIT = range(5)


class CpuStopWork:
    """struct cpu_stop_work."""

    __slots__ = ("fn", "arg", "ret", "completion")

    def __init__(self, fn: Callable[[Any], int], arg: Any) -> None:
        self.fn = fn
        self.arg = arg
        self.ret = -ENOENT                         # until it ran
        self.completion = Completion()


@may_sleep
def stop_one_cpu(cpu: int, fn: Callable[[Any], int], arg: Any) -> int:
    """Runs fn(arg) on migration/<cpu>, and returns what it returns; -ENOENT: the CPU is off line. Context: task."""
    work = CpuStopWork(fn, arg)
    if cpu_stop_queue_work(cpu, work):
        wait_for_completion(work.completion)
    return work.ret


def cpu_stop_queue_work(cpu: int, work: CpuStopWork) -> bool:
    """False: nobody is there who could do it."""
    if not register.task.kernel.sched.stopper_enabled >> cpu & 1:
        return False
    wakeq: list[TaskStruct] = []
    __cpu_stop_queue_work(cpu, work, wakeq)
    wake_up_q(wakeq)
    return True


@notrace
def __cpu_stop_queue_work(cpu: int, work: CpuStopWork, wakeq: list[TaskStruct]) -> None:
    kernel = register.task.kernel
    kernel.sched.stop_works[cpu].append(work)
    stopper = kernel.sched.stoppers[cpu]
    assert stopper is not None
    wake_q_add(wakeq, stopper)


def cpu_stop_should_run(cpu: int) -> int:
    return int(bool(register.task.kernel.sched.stop_works[cpu]))


def cpu_stopper_thread(cpu: int) -> None:
    """Does what is queued."""
    works = register.task.kernel.sched.stop_works[cpu]
    while works:
        work = works.popleft()
        work.ret = work.fn(work.arg)
        complete(work.completion)


def cpu_stop_create(stop: TaskStruct, cpu: int) -> None:
    sched_set_stop_task(cpu, stop)


def sched_set_stop_task(cpu: int, stop: TaskStruct) -> None:
    """Puts the thread into the class above all others. To user space it looks like SCHED_FIFO 99."""
    rq = stop.kernel.sched.rqs[cpu]
    update_rq_clock(rq)
    stop.policy = SCHED_FIFO
    stop.rt_priority = 99
    stop.prio = stop.normal_prio = 0
    stop.sched_class = stop_sched_class
    rq.stop = stop


cpu_stop_threads = SmpHotplugThread(
    store=lambda kernel: kernel.sched.stoppers, thread_should_run=cpu_stop_should_run,
    thread_fn=cpu_stopper_thread, thread_comm="migration/%u", create=cpu_stop_create, selfparking=True,
)


def stop_machine_park(kernel: Kernel, cpu: int) -> None:
    """migration/N of a CPU that goes takes no work any more, and parks when it is done with what it does."""
    kernel.sched.stopper_enabled &= ~(1 << cpu)
    stopper = kernel.sched.stoppers[cpu]
    assert stopper is not None
    kthread_park(stopper)


def stop_machine_unpark(kernel: Kernel, cpu: int) -> None:
    """The CPU came: its migration/N works."""
    kernel.sched.stopper_enabled |= 1 << cpu
    stopper = kernel.sched.stoppers[cpu]
    assert stopper is not None
    kthread_unpark(stopper)


# ---- stop_machine ----------------------------------------------------------------------------------------------
class MultiStopData:
    """struct multi_stop_data. active_cpus: mask of those that run fn(arg)."""

    __slots__ = ("fn", "arg", "num_threads", "active_cpus", "state", "thread_ack")

    def __init__(self, fn: Callable[[Any], int], arg: Any, num_threads: int, active_cpus: int) -> None:
        self.fn = fn
        self.arg = arg
        self.num_threads = num_threads
        self.active_cpus = active_cpus
        self.state = MULTI_STOP_PREPARE
        self.thread_ack = num_threads


def set_state(msdata: MultiStopData, newstate: int) -> None:
    msdata.thread_ack = msdata.num_threads
    msdata.state = newstate


def ack_state(msdata: MultiStopData) -> None:
    """The last one to arrive opens the next state."""
    msdata.thread_ack -= 1
    if not msdata.thread_ack:
        set_state(msdata, msdata.state + 1)


def multi_cpu_stop(msdata: MultiStopData) -> int:
    """Each CPU's part: goes from state to state with all others. Context: migration/N; takes no interrupt meanwhile."""
    task = register.task
    curstate, err = MULTI_STOP_NONE, 0
    while curstate != MULTI_STOP_EXIT:
        if msdata.state != curstate:
            curstate = msdata.state
            if curstate == MULTI_STOP_RUN and msdata.active_cpus >> task.cpu & 1:
                err = msdata.fn(msdata.arg)
            ack_state(msdata)
        else:
            task.kernel.machine.relax()            # stop_machine_yield()
    return err


@may_sleep
def stop_machine_cpuslocked(fn: Callable[[Any], int], data: Any, cpus: int) -> int:
    """Runs fn(data) on these CPUs (a mask) while no online CPU does anything else. Returns what fn returned, or 0."""
    kernel = register.task.kernel
    online = kernel.sched.cpu_online_mask
    msdata = MultiStopData(fn, data, online.bit_count(), cpus)
    return stop_cpus(online, multi_cpu_stop, msdata)


@may_sleep
def stop_cpus(cpumask: int, fn: Callable[[Any], int], arg: Any) -> int:
    """The same work for several CPUs at once. Returns what failed, or 0."""
    kernel = register.task.kernel
    works = [(cpu, CpuStopWork(fn, arg)) for cpu in range(cpumask.bit_length()) if cpumask >> cpu & 1]
    wakeq: list[TaskStruct] = []
    for cpu, work in works:                        # queue_stop_cpus_work()
        assert kernel.sched.stopper_enabled >> cpu & 1
        __cpu_stop_queue_work(cpu, work, wakeq)
    wake_up_q(wakeq)
    for _cpu, work in works:
        wait_for_completion(work.completion)
    return next((work.ret for _cpu, work in works if work.ret), 0)


def cpu_stop_init(kernel: Kernel) -> None:
    """Starts the threads. Context: task (PID 1)."""
    cpus = len(kernel.machine.cpus)
    kernel.sched.stoppers = [None] * cpus
    kernel.sched.stop_works = [deque() for _ in range(cpus)]
    kernel.sched.stopper_enabled = kernel.sched.cpu_online_mask
    smpboot_register_percpu_thread(kernel, cpu_stop_threads)
    kernel.sched.stop_one_cpu = stop_one_cpu
