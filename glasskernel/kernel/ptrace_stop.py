"""The tracee's side of ptrace: it stops, tells its tracer, and goes on as the tracer says.

Linux: ptrace_stop(), ptrace_notify() and do_jobctl_trap() of kernel/signal.c, the inline functions of
    include/linux/ptrace.h and tracehook.h (5.3). Same: what the tracer sees in siginfo, exit_code and ptrace_message;
    a stop takes part in a group stop.
A file of its own because fork, exec and exit, which stand below kernel/signal_delivery.py, have events to tell.
Context: the current task; all of these may sleep in TASK_TRACED.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Final

from glasskernel.arch.x86.ptrace import IP
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import PIDTYPE_PID, Pid, pid_vnr
from glasskernel.kernel.sched.core import fatal_signal_pending, schedule
from glasskernel.kernel.signal import (
    JOBCTL_LISTENING,
    JOBCTL_STOP_DEQUEUED,
    JOBCTL_STOP_PENDING,
    JOBCTL_STOP_SIGMASK,
    JOBCTL_TRAP_NOTIFY,
    JOBCTL_TRAP_STOP,
    PT_SEIZED,
    SIGNAL_STOP_STOPPED,
    do_notify_parent_cldstop,
    force_sig_fault,
    recalc_sigpending_tsk,
    send_sig,
    send_signal,
    task_clear_jobctl_pending,
    task_clear_jobctl_trapping,
    task_participate_group_stop,
)
from glasskernel.kernel.signal_types import CLD_STOPPED, CLD_TRAPPED, SI_USER, SIGTRAP, TRAP_BRKPT, KernelSiginfo
from glasskernel.kernel.task import TASK_RUNNING, TASK_TRACED
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct

PTRACE_EVENT_FORK, PTRACE_EVENT_VFORK, PTRACE_EVENT_CLONE, PTRACE_EVENT_EXEC = 1, 2, 3, 4
PTRACE_EVENT_VFORK_DONE, PTRACE_EVENT_EXIT, PTRACE_EVENT_SECCOMP = 5, 6, 7
PTRACE_EVENT_STOP: Final = 128
PTRACE_EVENTMSG_SYSCALL_ENTRY, PTRACE_EVENTMSG_SYSCALL_EXIT = 1, 2

# task.ptrace
PT_PTRACED: Final = 0x1
PT_OPT_FLAG_SHIFT: Final = 3
PT_TRACESYSGOOD: Final = 1 << PT_OPT_FLAG_SHIFT
PT_EXITKILL: Final = 0x100000 << PT_OPT_FLAG_SHIFT


@notrace
def ptrace_event_enabled(task: TaskStruct, event: int) -> bool:
    return bool(task.ptrace & 1 << PT_OPT_FLAG_SHIFT + event)


@notrace
def ptrace_reparented(child: TaskStruct) -> bool:
    """True if the tracer is another process than the parent."""
    return child.real_parent.signal is not child.parent.signal


@may_sleep
def ptrace_stop(exit_code: int, why: int, clear_code: bool, info: KernelSiginfo | None) -> None:
    """Stops until the tracer (or SIGKILL) says otherwise. Without a tracer nothing happens.

    exit_code: what wait(2) shows, and what the tracer replaces by the signal to go on with. why: CLD_TRAPPED, or
    CLD_STOPPED for a group stop.
    """
    task = current()
    gstop_done = False
    task.state = TASK_TRACED
    task.last_siginfo = info
    task.exit_code = exit_code
    if why == CLD_STOPPED and task.jobctl & JOBCTL_STOP_PENDING:
        gstop_done = task_participate_group_stop(task)
    task_clear_jobctl_pending(task, JOBCTL_TRAP_STOP)
    if info is not None and info.si_code >> 8 == PTRACE_EVENT_STOP:
        task_clear_jobctl_pending(task, JOBCTL_TRAP_NOTIFY)
    task_clear_jobctl_trapping(task)
    if task.ptrace:
        do_notify_parent_cldstop(task, True, why)
        if gstop_done and ptrace_reparented(task):
            do_notify_parent_cldstop(task, False, why)
        schedule()
    else:                                        # the tracer is gone meanwhile
        if gstop_done:
            do_notify_parent_cldstop(task, False, why)
        task.state = TASK_RUNNING
        if clear_code:
            task.exit_code = 0
    task.last_siginfo = None
    task.jobctl &= ~JOBCTL_LISTENING             # LISTENING is over with the trap
    recalc_sigpending_tsk(task)


@may_sleep
def ptrace_do_notify(signr: int, exit_code: int, why: int) -> None:
    task = current()
    info = KernelSiginfo(signr, exit_code, si_pid=task.pid, si_uid=task.cred.uid)
    ptrace_stop(exit_code, why, True, info)


@may_sleep
def ptrace_notify(exit_code: int) -> None:
    """A trap that is no signal: SIGTRAP, with the event in the second byte."""
    ptrace_do_notify(SIGTRAP, exit_code, CLD_TRAPPED)


@may_sleep
@notrace
def ptrace_event(event: int, message: int) -> None:
    """PTRACE_EVENT_*: stops if the tracer asked for it. An exec that it did not ask for sends SIGTRAP."""
    task = current()
    if ptrace_event_enabled(task, event):
        task.ptrace_message = message
        ptrace_notify(event << 8 | SIGTRAP)
    elif event == PTRACE_EVENT_EXEC and task.ptrace & (PT_PTRACED | PT_SEIZED) == PT_PTRACED:
        send_sig(SIGTRAP, task, 0)


@may_sleep
@notrace
def ptrace_event_pid(event: int, pid: Pid | None) -> None:
    ptrace_event(event, pid_vnr(pid))


@may_sleep
def ptrace_signal(signr: int, info: KernelSiginfo) -> tuple[int, KernelSiginfo]:
    """Shows a signal to the tracer before it is delivered. Answers what is to be delivered; 0: nothing."""
    task = current()
    # The tracer may make a stop signal of it: then this counts as one that was dequeued.
    task.jobctl |= JOBCTL_STOP_DEQUEUED
    ptrace_stop(signr, CLD_TRAPPED, False, info)
    signr = task.exit_code
    if signr == 0:
        return 0, info
    task.exit_code = 0
    if signr != info.si_signo:
        tracer = task.parent
        info = KernelSiginfo(signr, SI_USER, si_pid=tracer.pid, si_uid=tracer.real_cred.uid)
    if task.blocked >> signr - 1 & 1:
        send_signal(signr, info, task, PIDTYPE_PID)
        return 0, info
    return signr, info


@may_sleep
def do_jobctl_trap() -> None:
    """A stop for job control: the group stops (or, seized, changes its mind), or PTRACE_INTERRUPT."""
    task = current()
    signal = task.signal
    signr = task.jobctl & JOBCTL_STOP_SIGMASK
    if task.ptrace & PT_SEIZED:
        if not signal.group_stop_count and not signal.flags & SIGNAL_STOP_STOPPED:
            signr = SIGTRAP
        ptrace_do_notify(signr, signr | PTRACE_EVENT_STOP << 8, CLD_STOPPED)
    else:
        ptrace_stop(signr, CLD_STOPPED, False, None)
        task.exit_code = 0


# ---- system calls ------------------------------------------------------------------------------------------
@may_sleep
@notrace
def ptrace_report_syscall(message: int) -> bool:
    """A stop at the entry or exit of a system call. True: the task is being killed."""
    task = current()
    ptrace = task.ptrace
    if not ptrace & PT_PTRACED:
        return False
    task.ptrace_message = message
    ptrace_notify(SIGTRAP | (0x80 if ptrace & PT_TRACESYSGOOD else 0))
    if task.exit_code:                           # the tracer went on with a signal
        send_sig(task.exit_code, task, 1)
        task.exit_code = 0
    task.ptrace_message = 0
    return fatal_signal_pending(task)


@may_sleep
@notrace
def tracehook_report_syscall_entry() -> bool:
    """True: the call is not to be made."""
    return ptrace_report_syscall(PTRACE_EVENTMSG_SYSCALL_ENTRY)


@may_sleep
@notrace
def tracehook_report_syscall_exit(step: bool) -> None:
    if step:
        user_single_step_report()
    else:
        ptrace_report_syscall(PTRACE_EVENTMSG_SYSCALL_EXIT)


def user_single_step_report() -> None:
    """A step over a system call is over when the call is (arch/x86/kernel/ptrace.c)."""
    thread = current().thread
    thread.trap_nr, thread.error_code = 1, 0
    force_sig_fault(SIGTRAP, TRAP_BRKPT, thread.regs[IP])
