"""Where CPU time goes: user, system, interrupts, idle; of tasks and of CPUs.

Linux: kernel/sched/cputime.c (5.3). Same: the ten kcpustat fields, iowait, nice.
Differs: exact instead of sampled by the tick. The entry code reports time in user mode (vtime_user); whatever
else passed on a CPU's clock since rq.vtime_stamp is system, interrupt or idle time and is booked when the CPU
switches tasks, takes an interrupt, ticks, or is asked.
Owns: rq.cpustat, rq.vtime_stamp, task.utime, task.stime. All in ns.
Gaps: steal and guest time are always 0.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.types import (
    CPUTIME_IDLE,
    CPUTIME_IOWAIT,
    CPUTIME_IRQ,
    CPUTIME_NICE,
    CPUTIME_SOFTIRQ,
    CPUTIME_SYSTEM,
    CPUTIME_USER,
    HARDIRQ_MASK,
    SOFTIRQ_OFFSET,
)
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.sched.types import Rq
    from glasskernel.kernel.task import TaskStruct


@notrace
def vtime_user(task: TaskStruct, delta_ns: int) -> None:
    """The task spent so long in user mode, just now. Called by the entry code when user mode was left."""
    rq = task.kernel.sched.rqs[task.cpu]
    rq.vtime_stamp += delta_ns
    task.utime += delta_ns
    rq.cpustat[CPUTIME_NICE if task.static_prio > 120 else CPUTIME_USER] += delta_ns


@notrace
def vtime_flush(rq: Rq) -> None:
    """Books the time since the last call for whatever this CPU does."""
    vcpu = rq.vcpu
    clock: int = rq.kernel.machine.now() if vcpu.halted else vcpu.clock_ns
    delta = clock - rq.vtime_stamp
    if delta <= 0:
        return
    rq.vtime_stamp = clock
    curr = rq.curr
    count = curr.preempt_count
    if count & HARDIRQ_MASK:
        rq.cpustat[CPUTIME_IRQ] += delta
    elif count & SOFTIRQ_OFFSET:
        rq.cpustat[CPUTIME_SOFTIRQ] += delta
        if curr is rq.kernel.sched.ksoftirqd[rq.cpu]:      # its work, not what interrupted it
            curr.stime += delta
    elif curr is rq.idle:
        rq.cpustat[CPUTIME_IOWAIT if rq.nr_iowait else CPUTIME_IDLE] += delta
    else:
        rq.cpustat[CPUTIME_SYSTEM] += delta
        curr.stime += delta


@notrace
def kcpustat_cpu(kernel: Kernel, cpu: int) -> list[int]:
    """The ten kcpustat fields of one CPU, up to date, in ns (/proc/stat)."""
    rq = kernel.sched.rqs[cpu]
    vtime_flush(rq)
    return rq.cpustat


@notrace
def task_cputime(p: TaskStruct) -> tuple[int, int]:
    """(utime, stime) of one thread, up to date."""
    rq = p.kernel.sched.rqs[p.cpu]
    if rq.curr is p:
        vtime_flush(rq)
    return p.utime, p.stime


def task_cputime_adjusted(p: TaskStruct) -> tuple[int, int]:
    """(utime, stime) of one thread for getrusage() and /proc: exact, nothing to adjust."""
    return task_cputime(p)


def thread_group_cputime(p: TaskStruct) -> tuple[int, int, int]:
    """(utime, stime, sum_exec_runtime) of a process, threads that are gone included."""
    sig = p.signal
    utime, stime = sig.utime, sig.stime
    exec_runtime = sig.utime + sig.stime
    if register.task.signal is sig:                  # what the caller has run since the last tick
        task_sched_runtime(register.task)
    for t in sig.threads:
        user, system = task_cputime(t)
        utime += user
        stime += system
        exec_runtime += t.se.sum_exec_runtime
    return utime, stime, exec_runtime


def thread_group_cputime_adjusted(p: TaskStruct) -> tuple[int, int]:
    """(utime, stime) of a process."""
    utime, stime, _ = thread_group_cputime(p)
    return utime, stime


def task_sched_runtime(p: TaskStruct) -> int:
    """How long the thread has run, as the scheduler sees it (CLOCK_THREAD_CPUTIME_ID)."""
    rq = p.kernel.sched.rqs[p.cpu]
    if rq.curr is p and p.on_rq:
        vcpu = rq.vcpu
        clock: int = vcpu.clock_ns
        if clock > rq.clock:
            rq.clock = clock
        p.sched_class.update_curr(rq)
    return p.se.sum_exec_runtime
