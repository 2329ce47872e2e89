"""Timers on CPU time: ITIMER_VIRTUAL and ITIMER_PROF, RLIMIT_CPU and RLIMIT_RTTIME, timer_create() on CPU
clocks.

Linux: kernel/time/posix-cpu-timers.c (5.3). Same: looked at in each tick of the running task, so a signal
comes up to a tick late. Differs: CPU time is exact.
Owns: signal.it; signal.cpu_timers and task's in kernel.time.cpu_timers.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.sched.cputime import task_cputime, task_sched_runtime, thread_group_cputime
from glasskernel.kernel.signal import __group_send_sig_info
from glasskernel.kernel.signal_types import SIGKILL, SIGPROF, SIGVTALRM, SIGXCPU
from glasskernel.kernel.task import RLIM_INFINITY, RLIMIT_CPU, RLIMIT_RTTIME
from glasskernel.kernel.time.types import HZ, NSEC_PER_SEC
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.task import SignalStruct, TaskStruct

CPUCLOCK_PROF, CPUCLOCK_VIRT, CPUCLOCK_SCHED = 0, 1, 2
_SEND_SIG_PRIV = 1


@notrace
def cpu_clock_sample(which: int, p: TaskStruct) -> int:
    """A thread's CPU clock, in ns."""
    if which == CPUCLOCK_SCHED:
        return task_sched_runtime(p)
    utime, stime = task_cputime(p)
    return utime if which == CPUCLOCK_VIRT else utime + stime


@notrace
def cpu_clock_sample_group(which: int, p: TaskStruct) -> int:
    """A process's CPU clock, in ns."""
    utime, stime, runtime = thread_group_cputime(p)
    if which == CPUCLOCK_SCHED:
        return runtime
    return utime if which == CPUCLOCK_VIRT else utime + stime


def run_posix_cpu_timers(tsk: TaskStruct) -> None:
    """Looks whether a CPU timer of the running task is due. Context: irq (the tick)."""
    if not fastpath_timer_check(tsk):
        return
    check_thread_timers(tsk)
    check_process_timers(tsk)


@notrace
def fastpath_timer_check(tsk: TaskStruct) -> bool:
    """True if anything could be due: one look at what is armed."""
    sig = tsk.signal
    if sig is None or tsk.exit_state or tsk.mm is None:
        return False
    it = sig.it
    rlim = sig.rlim
    return bool(it[0][0] or it[1][0] or tsk.kernel.time.cpu_timers
                or (rlim and (rlim[RLIMIT_CPU][0] != RLIM_INFINITY or tsk.rt.timeout)))


def check_thread_timers(tsk: TaskStruct) -> None:
    """RLIMIT_RTTIME."""
    timeout = tsk.rt.timeout
    if not timeout or not tsk.signal.rlim:
        return
    soft, hard = tsk.signal.rlim[RLIMIT_RTTIME]
    if soft == RLIM_INFINITY:
        return
    used_us = timeout * (1_000_000 // HZ)
    if hard != RLIM_INFINITY and used_us > hard:
        __group_send_sig_info(SIGKILL, _SEND_SIG_PRIV, tsk)
    elif used_us > soft:
        tsk.signal.rlim[RLIMIT_RTTIME] = (soft + 1_000_000, hard)
        __group_send_sig_info(SIGXCPU, _SEND_SIG_PRIV, tsk)


def check_process_timers(tsk: TaskStruct) -> None:
    sig = tsk.signal
    utime, stime, _ = thread_group_cputime(tsk)
    check_cpu_itimer(tsk, sig, 0, utime, SIGVTALRM)
    check_cpu_itimer(tsk, sig, 1, utime + stime, SIGPROF)
    for timer in tuple(tsk.kernel.time.cpu_timers):
        timer.check(timer, tsk)
    check_rlimit_cpu(tsk, sig, utime + stime)


@notrace
def check_cpu_itimer(tsk: TaskStruct, sig: SignalStruct, which: int, cur_time: int, signo: int) -> None:
    expires, incr = sig.it[which]
    if not expires or cur_time < expires:
        return
    sig.it[which] = (expires + incr if incr else 0, incr)
    __group_send_sig_info(signo, _SEND_SIG_PRIV, tsk)


@notrace
def check_rlimit_cpu(tsk: TaskStruct, sig: SignalStruct, ptime: int) -> None:
    """RLIMIT_CPU: SIGXCPU at the soft limit and each second after it, SIGKILL at the hard one."""
    if not sig.rlim:
        return
    soft, hard = sig.rlim[RLIMIT_CPU]
    if soft == RLIM_INFINITY:
        return
    psecs = ptime // NSEC_PER_SEC
    if hard != RLIM_INFINITY and psecs >= hard:
        __group_send_sig_info(SIGKILL, _SEND_SIG_PRIV, tsk)
    elif psecs >= soft:
        __group_send_sig_info(SIGXCPU, _SEND_SIG_PRIV, tsk)
        sig.rlim[RLIMIT_CPU] = (soft + 1, hard)


