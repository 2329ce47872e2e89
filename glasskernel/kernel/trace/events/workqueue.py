"""Works: queued, activated, run.

Linux: include/trace/events/workqueue.h (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.trace.events.values import function_address, kaddr_of
from glasskernel.kernel.trace.trace_events import Values, trace_system
from glasskernel.kernel.workqueue import WORK_CPU_UNBOUND
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.workqueue import PoolWorkqueue, WorkStruct

_NR_CPUS = 64                                    # WORK_CPU_UNBOUND of Linux


@notrace
def _cpu(cpu: int) -> int:
    return _NR_CPUS if cpu in (WORK_CPU_UNBOUND, -1) else cpu


workqueue = trace_system("workqueue")


@workqueue.event(
    fields="void * work; void * function; void * workqueue; unsigned int req_cpu; unsigned int cpu",
    print_fmt=(
        '"work struct=%p function=%ps workqueue=%p req_cpu=%u cpu=%u", REC->work, REC->function, REC->workqueue, '
        'REC->req_cpu, REC->cpu'),
    irqs_off=True,
)
def workqueue_queue_work(req_cpu: int, pwq: PoolWorkqueue, work: WorkStruct) -> Values:
    return (kaddr_of(work), function_address(work.func), kaddr_of(pwq.wq), _cpu(req_cpu), _cpu(pwq.pool.cpu))


@workqueue.event_class(
    fields="void * work",
    print_fmt='"work struct %p", REC->work',
)
def workqueue_work(work: WorkStruct) -> Values:
    return (kaddr_of(work),)


workqueue_activate_work = workqueue_work.define("workqueue_activate_work", irqs_off=True)


@workqueue.event(
    fields="void * work; void * function",
    print_fmt='"work struct %p: function %ps", REC->work, REC->function',
)
def workqueue_execute_start(work: WorkStruct) -> Values:
    return (kaddr_of(work), function_address(work.func))


workqueue_execute_end = workqueue_work.define("workqueue_execute_end")
