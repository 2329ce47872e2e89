"""Kernel threads.

Linux: kernel/kthread.c (5.3). Same: kthreadd (PID 2) makes them, a new thread sleeps until it is woken first,
stop and park. Differs: f-strings instead of a printf format.
Owns: task.kthread; kernel.sched.kthread_create_list.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.current import current, register
from glasskernel.kernel.sched.completion import Completion, complete, reinit_completion, wait_for_completion
from glasskernel.kernel.sched.core import (
    do_set_cpus_allowed,
    schedule,
    set_current_state,
    wake_up_process,
    wake_up_state,
)
from glasskernel.kernel.signal import ignore_signals
from glasskernel.kernel.task import (
    PF_NO_SETAFFINITY,
    TASK_INTERRUPTIBLE,
    TASK_PARKED,
    TASK_RUNNING,
    TASK_UNINTERRUPTIBLE,
)
from glasskernel.lib.errno import EINTR, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

CLONE_FS, CLONE_FILES, SIGCHLD = 0x200, 0x400, 17


class Kthread:
    """struct kthread."""

    __slots__ = ("should_stop", "should_park", "data", "parked", "exited", "result", "threadfn", "cpu")

    def __init__(self) -> None:
        self.cpu = -1                              # KTHREAD_IS_PER_CPU: bound again when it is unparked
        self.should_stop = False
        self.should_park = False
        self.data: Any = None
        self.parked = Completion()
        self.exited = Completion()
        self.result = 0
        self.threadfn: Callable[[Any], int] | None = None


class KthreadCreateInfo:
    """struct kthread_create_info: an order for kthreadd."""

    __slots__ = ("threadfn", "data", "name", "result", "error", "done")

    def __init__(self, threadfn: Callable[[Any], int], data: Any, name: str) -> None:
        self.threadfn = threadfn
        self.data = data
        self.name = name
        self.result: TaskStruct | None = None
        self.error = 0
        self.done = Completion()


@notrace
@may_sleep
def kthread_create(threadfn: Callable[[Any], int], data: Any, name: str) -> TaskStruct:
    """Makes a thread that will run threadfn(data); wake_up_process() starts it. name: at most 15 bytes show.

    Raises EAGAIN or ENOMEM. Context: task.
    """
    return __kthread_create_on_node(threadfn, data, name)


def __kthread_create_on_node(threadfn: Callable[[Any], int], data: Any, name: str) -> TaskStruct:
    kernel = register.task.kernel
    create = KthreadCreateInfo(threadfn, data, name)
    kernel.sched.kthread_create_list.append(create)
    kthreadd_task = kernel.sched.kthreadd_task
    assert kthreadd_task is not None, "kthreadd does not run yet"
    wake_up_process(kthreadd_task)
    wait_for_completion(create.done)
    if create.result is None:
        raise KernelError(create.error)
    probe = kernel.tp.task_rename
    if probe is not None:
        probe(create.result, name.encode())
    create.result.comm = name.encode()[:15]
    do_set_cpus_allowed(create.result, kernel.sched.cpu_possible_mask)
    return create.result


@notrace
@may_sleep
def kthread_run(threadfn: Callable[[Any], int], data: Any, name: str) -> TaskStruct:
    """kthread_create() and wake_up_process()."""
    p = kthread_create(threadfn, data, name)
    wake_up_process(p)
    return p


@may_sleep
def kthread_create_on_cpu(threadfn: Callable[[Any], int], data: Any, cpu: int, namefmt: str) -> TaskStruct:
    """A thread bound to one CPU; "%u" in the name becomes its number."""
    p = kthread_create(threadfn, data, namefmt.replace("%u", str(cpu)))
    kthread_bind(p, cpu)
    p.kthread.cpu = cpu
    return p


def kthread_bind(p: TaskStruct, cpu: int) -> None:
    """Binds a thread that was not woken yet to a CPU, for good."""
    kthread_bind_mask(p, 1 << cpu)


def kthread_bind_mask(p: TaskStruct, mask: int) -> None:
    do_set_cpus_allowed(p, mask)
    p.flags |= PF_NO_SETAFFINITY


def kthread(create: KthreadCreateInfo) -> int:
    """Where every kernel thread begins: reports itself, sleeps until it is wanted, runs its function."""
    task = current()
    self = Kthread()
    self.threadfn = create.threadfn
    self.data = create.data
    task.kthread = self
    create.result = task
    set_current_state(TASK_UNINTERRUPTIBLE)
    complete(create.done)
    schedule()
    ret = -EINTR
    if not self.should_stop:
        __kthread_parkme(self)
        ret = create.threadfn(create.data)
    self.result = ret
    complete(self.exited)
    return 0


@notrace
def kthread_should_stop() -> bool:
    """Asked by a thread: shall I return?"""
    return bool(register.task.kthread.should_stop)


@notrace
def kthread_should_park() -> bool:
    return bool(register.task.kthread.should_park)


@notrace
def kthread_data(task: TaskStruct) -> Any:
    return task.kthread.data


@may_sleep
def kthread_stop(k: TaskStruct) -> int:
    """Asks a thread to return, and waits for its result."""
    self: Kthread = k.kthread
    probe = k.kernel.tp.sched_kthread_stop
    if probe is not None:
        probe(k)
    self.should_stop = True
    kthread_unpark(k)
    wake_up_process(k)
    wait_for_completion(self.exited)
    probe = k.kernel.tp.sched_kthread_stop_ret
    if probe is not None:
        probe(self.result)
    return self.result


@may_sleep
def kthread_park(k: TaskStruct) -> None:
    """Lets a thread pause at its next kthread_parkme(), and waits for that."""
    self: Kthread = k.kthread
    self.should_park = True
    if k is not register.task:
        wake_up_process(k)
        wait_for_completion(self.parked)


def kthread_unpark(k: TaskStruct) -> None:
    """Lets a parked thread go on. One whose CPU was off line has lost its binding: it gets it again."""
    self: Kthread = k.kthread
    if self.cpu >= 0:
        do_set_cpus_allowed(k, 1 << self.cpu)      # __kthread_bind()
    reinit_completion(self.parked)                 # of a stopper nobody waited for
    self.should_park = False
    wake_up_state(k, TASK_PARKED)


@may_sleep
def kthread_parkme() -> None:
    __kthread_parkme(register.task.kthread)


@notrace
@may_sleep
def __kthread_parkme(self: Kthread) -> None:
    while True:
        set_current_state(TASK_PARKED)
        if not self.should_park:
            break
        complete(self.parked)
        schedule()
    set_current_state(TASK_RUNNING)


def kthreadd(unused: Any) -> int:
    """PID 2: makes every other kernel thread."""
    task = current()
    task.comm = b"kthreadd"
    ignore_signals(task)                         # and so do the threads that it makes
    do_set_cpus_allowed(task, task.kernel.sched.cpu_possible_mask)
    orders = task.kernel.sched.kthread_create_list
    while True:
        set_current_state(TASK_INTERRUPTIBLE)
        if not orders:
            schedule()
        set_current_state(TASK_RUNNING)
        while orders:
            create_kthread(task.kernel, orders.pop(0))


def create_kthread(kernel: Kernel, create: KthreadCreateInfo) -> None:
    make = kernel.sched.kernel_thread
    assert make is not None
    try:
        make(kthread, create, CLONE_FS | CLONE_FILES | SIGCHLD)
    except KernelError as error:
        create.error = error.errno
        complete(create.done)


