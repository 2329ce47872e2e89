"""Workqueues when a CPU comes or goes: its workers serve on, anywhere, and return.

Linux: workqueue_prepare_cpu() ... workqueue_offline_cpu(), unbind_workers(), rebind_workers() of kernel/workqueue.c
(5.3).
Same: the pool of a CPU that is off line is served as an unbound one is: works queued there run on other CPUs.
Context: named at each function.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.sched.core import wake_up_process
from glasskernel.kernel.sched.policy import set_cpus_allowed_ptr
from glasskernel.kernel.workqueue import (
    WORKER_IDLE,
    WORKER_REBOUND,
    WORKER_UNBOUND,
    create_worker,
    wake_up_worker,
)
from glasskernel.lib.errno import ENOMEM, KernelError
from glasskernel.lib.types import may_sleep

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.workqueue import WorkerPool


@may_sleep
def workqueue_prepare_cpu(kernel: Kernel, cpu: int) -> None:
    """A CPU that comes for the first time gets its workers. Raises ENOMEM. Context: task."""
    for pool in kernel.workqueues.cpu_pools[cpu]:
        if not pool.workers and create_worker(pool) is None:
            raise KernelError(ENOMEM)


@may_sleep
def workqueue_online_cpu(kernel: Kernel, cpu: int) -> None:
    """The workers return. Context: cpuhp/N."""
    for pool in kernel.workqueues.cpu_pools[cpu]:
        rebind_workers(pool)


@may_sleep
def rebind_workers(pool: WorkerPool) -> None:
    for worker in pool.workers:
        set_cpus_allowed_ptr(worker.task, 1 << pool.cpu)
    pool.disassociated = False
    for worker in pool.workers:
        if worker.flags & WORKER_IDLE:             # it moves when it wakes up
            wake_up_process(worker.task)
        if worker.flags & WORKER_UNBOUND:          # it counts as running again after the work at hand
            worker.flags = worker.flags & ~WORKER_UNBOUND | WORKER_REBOUND


def workqueue_offline_cpu(kernel: Kernel, cpu: int) -> None:
    """The workers are set free. Context: cpuhp/N."""
    unbind_workers(kernel, cpu)


def unbind_workers(kernel: Kernel, cpu: int) -> None:
    for pool in kernel.workqueues.cpu_pools[cpu]:
        for worker in pool.workers:
            worker.flags |= WORKER_UNBOUND
        pool.disassociated = True
        pool.nr_running = 0                        # no concurrency management any more: works need not wait
        wake_up_worker(pool)
