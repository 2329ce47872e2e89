"""Per-CPU kernel threads: ksoftirqd/N, migration/N.

Linux: kernel/smpboot.c, include/linux/smpboot.h (5.3). Differs: no CPU hotplug, so no parking.
"""
from __future__ import annotations

from collections.abc import Callable, MutableSequence
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import register
from glasskernel.kernel.kthread import kthread_create_on_cpu, kthread_should_stop
from glasskernel.kernel.sched.core import schedule, set_current_state, wake_up_process
from glasskernel.kernel.task import TASK_INTERRUPTIBLE, TASK_RUNNING
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct


@slotted(frozen=True)
class SmpHotplugThread:
    """struct smp_hotplug_thread. store(kernel): where the threads are noted, by CPU.

    thread_should_run(cpu), thread_fn(cpu): called in turns on the thread. create(task, cpu): before it runs
    first.
    """

    store: Callable[[Kernel], MutableSequence[TaskStruct | None]]
    thread_should_run: Callable[[int], int]
    thread_fn: Callable[[int], None]
    thread_comm: str
    create: Callable[[TaskStruct, int], None] | None = None


def smpboot_thread_fn(data: Any) -> int:
    """The loop of such a thread."""
    ht, cpu = data
    while True:
        set_current_state(TASK_INTERRUPTIBLE)
        if kthread_should_stop():
            set_current_state(TASK_RUNNING)
            return 0
        assert register.task.cpu == cpu
        if not ht.thread_should_run(cpu):
            schedule()
        else:
            set_current_state(TASK_RUNNING)
            ht.thread_fn(cpu)


@may_sleep
def smpboot_register_percpu_thread(kernel: Kernel, plug_thread: SmpHotplugThread) -> None:
    """Makes and starts one thread per CPU. Context: task."""
    for vcpu in kernel.machine.cpus:
        data = (plug_thread, vcpu.id)
        tsk = kthread_create_on_cpu(smpboot_thread_fn, data, vcpu.id, plug_thread.thread_comm)
        plug_thread.store(kernel)[vcpu.id] = tsk
        if plug_thread.create is not None:
            plug_thread.create(tsk, vcpu.id)
        wake_up_process(tsk)
