"""Per-CPU kernel threads: ksoftirqd/N, migration/N, cpuhp/N.

Linux: kernel/smpboot.c, include/linux/smpboot.h (5.3). Same: the threads of a CPU park while it is off line, those
of a CPU that comes for the first time are made then.
Owns: kernel.sched.hotplug_threads.
"""
from __future__ import annotations

from collections.abc import Callable, MutableSequence
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import register
from glasskernel.kernel.kthread import (
    kthread_create_on_cpu,
    kthread_park,
    kthread_parkme,
    kthread_should_park,
    kthread_should_stop,
    kthread_unpark,
)
from glasskernel.kernel.sched.core import schedule, set_current_state, wake_up_process
from glasskernel.kernel.task import TASK_INTERRUPTIBLE, TASK_RUNNING
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct


@slotted(frozen=True)
class SmpHotplugThread:
    """struct smp_hotplug_thread. store(kernel): where the threads are noted, by CPU.

    thread_should_run(cpu), thread_fn(cpu): called in turns on the thread. create(task, cpu): before it runs
    first. selfparking: smpboot_park_threads() leaves it alone.
    """

    store: Callable[[Kernel], MutableSequence[TaskStruct | None]]
    thread_should_run: Callable[[int], int]
    thread_fn: Callable[[int], None]
    thread_comm: str
    create: Callable[[TaskStruct, int], None] | None = None
    selfparking: bool = False


def smpboot_thread_fn(data: Any) -> int:
    """The loop of such a thread."""
    ht, cpu = data
    while True:
        set_current_state(TASK_INTERRUPTIBLE)
        if kthread_should_stop():
            set_current_state(TASK_RUNNING)
            return 0
        if kthread_should_park():
            set_current_state(TASK_RUNNING)
            kthread_parkme()
            continue
        assert register.task.cpu == cpu
        if not ht.thread_should_run(cpu):
            schedule()
        else:
            set_current_state(TASK_RUNNING)
            ht.thread_fn(cpu)


@may_sleep
def __smpboot_create_thread(kernel: Kernel, ht: SmpHotplugThread, cpu: int, online: bool) -> TaskStruct:
    """Makes the thread of one CPU. It has not run yet, or (off line) it is parked. Raises EAGAIN, ENOMEM."""
    tsk = kthread_create_on_cpu(smpboot_thread_fn, (ht, cpu), cpu, ht.thread_comm)
    if not online:
        kthread_park(tsk)
    ht.store(kernel)[cpu] = tsk
    if ht.create is not None:
        ht.create(tsk, cpu)
    return tsk


@may_sleep
def smpboot_register_percpu_thread(kernel: Kernel, plug_thread: SmpHotplugThread) -> None:
    """Makes and starts one thread per online CPU. Context: task."""
    threads = plug_thread.store(kernel)
    for vcpu in kernel.machine.cpus:
        if kernel.sched.cpu_online_mask >> vcpu.id & 1 and threads[vcpu.id] is None:
            wake_up_process(__smpboot_create_thread(kernel, plug_thread, vcpu.id, True))
    kernel.sched.hotplug_threads.append(plug_thread)


# ---- hotplug -------------------------------------------------------------------------------------------------
@may_sleep
def smpboot_create_threads(kernel: Kernel, cpu: int) -> None:
    """A CPU is about to come: the threads that it has not yet are made, and wait parked. Raises EAGAIN, ENOMEM."""
    for ht in kernel.sched.hotplug_threads:
        if ht.store(kernel)[cpu] is None:
            __smpboot_create_thread(kernel, ht, cpu, False)


def smpboot_unpark_threads(kernel: Kernel, cpu: int) -> None:
    """The CPU is there. Context: cpuhp/N."""
    for ht in kernel.sched.hotplug_threads:
        smpboot_unpark_thread(kernel, ht, cpu)


@notrace
def smpboot_unpark_thread(kernel: Kernel, ht: SmpHotplugThread, cpu: int) -> None:
    tsk = ht.store(kernel)[cpu]
    if tsk is not None and not ht.selfparking:
        kthread_unpark(tsk)


@may_sleep
def smpboot_park_threads(kernel: Kernel, cpu: int) -> None:
    """The CPU is about to go. Context: cpuhp/N."""
    for ht in reversed(kernel.sched.hotplug_threads):
        tsk = ht.store(kernel)[cpu]
        if tsk is not None and not ht.selfparking:
            kthread_park(tsk)
