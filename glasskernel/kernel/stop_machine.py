"""migration/N: work that must run on a certain CPU, above every task there.

Linux: kernel/stop_machine.c (5.3). Same: stop_one_cpu() waits for its work. Gaps: stop_machine() itself is
not needed (nothing runs in parallel). Owns: kernel.sched.stoppers, stop_works.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.completion import Completion, complete, wait_for_completion
from glasskernel.kernel.sched.core import wake_q_add, wake_up_q
from glasskernel.kernel.sched.rq import update_rq_clock
from glasskernel.kernel.sched.stop_class import stop_sched_class
from glasskernel.kernel.sched.types import SCHED_FIFO
from glasskernel.kernel.smpboot import SmpHotplugThread, smpboot_register_percpu_thread
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct


class CpuStopWork:
    """struct cpu_stop_work."""

    __slots__ = ("fn", "arg", "ret", "completion")

    def __init__(self, fn: Callable[[Any], int], arg: Any) -> None:
        self.fn = fn
        self.arg = arg
        self.ret = 0
        self.completion = Completion()


@may_sleep
def stop_one_cpu(cpu: int, fn: Callable[[Any], int], arg: Any) -> int:
    """Runs fn(arg) on migration/<cpu>, and returns what it returns. Context: task."""
    work = CpuStopWork(fn, arg)
    cpu_stop_queue_work(cpu, work)
    wait_for_completion(work.completion)
    return work.ret


def cpu_stop_queue_work(cpu: int, work: CpuStopWork) -> None:
    wakeq: list[TaskStruct] = []
    __cpu_stop_queue_work(cpu, work, wakeq)
    wake_up_q(wakeq)


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
    thread_fn=cpu_stopper_thread, thread_comm="migration/%u", create=cpu_stop_create,
)


def cpu_stop_init(kernel: Kernel) -> None:
    """Starts the threads. Context: task (PID 1)."""
    cpus = len(kernel.machine.cpus)
    kernel.sched.stoppers = [None] * cpus
    kernel.sched.stop_works = [deque() for _ in range(cpus)]
    smpboot_register_percpu_thread(kernel, cpu_stop_threads)
    kernel.sched.stop_one_cpu = stop_one_cpu
