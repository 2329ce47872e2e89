"""The tie between a tracer and its tracees: made, cut, and inherited by children.

Linux: kernel/ptrace.c (5.3). Same: what happens when either side exits. The requests are kernel/ptrace_request.py, the
    tracee's side is kernel/ptrace_stop.py.
Owns: TaskStruct.ptraced, .ptracer_cred.
Invariants: a task is in exactly one `ptraced` list while task.ptrace is set, that of task.parent, and in none
    otherwise.
Context of every function: task.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.kernel.pid import thread_group_empty, thread_group_leader
from glasskernel.kernel.ptrace_stop import PT_EXITKILL
from glasskernel.kernel.signal import (
    JOBCTL_STOP_PENDING,
    JOBCTL_STOP_SIGMASK,
    JOBCTL_TRAP_MASK,
    JOBCTL_TRAP_STOP,
    PT_SEIZED,
    SIGNAL_STOP_STOPPED,
    __wake_up_parent,
    do_notify_parent,
    ptrace_signal_wake_up,
    send_sig_info,
    task_clear_jobctl_pending,
    task_clear_jobctl_trapping,
    task_set_jobctl_pending,
)
from glasskernel.kernel.signal_types import (
    SA_NOCLDWAIT,
    SEND_SIG_PRIV,
    SIG_IGN,
    SIGCHLD,
    SIGKILL,
    SIGSTOP,
)
from glasskernel.kernel.task import (
    EXIT_DEAD,
    EXIT_ZOMBIE,
    PF_EXITING,
    TASK_TRACED_BIT,
    TIF_SIGPENDING,
    TIF_SYSCALL_EMU,
    TIF_SYSCALL_TRACE,
    SighandStruct,
    TaskStruct,
)
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.task import Cred


def __ptrace_link(child: TaskStruct, new_parent: TaskStruct, ptracer_cred: Cred) -> None:
    assert child not in new_parent.ptraced
    new_parent.ptraced.insert(0, child)
    child.parent = new_parent
    child.ptracer_cred = ptracer_cred


@notrace
def ptrace_link(child: TaskStruct, new_parent: TaskStruct) -> None:
    __ptrace_link(child, new_parent, current().cred)


def __ptrace_unlink(child: TaskStruct) -> None:
    """The tie is cut: a tracee that is stopped goes on, or stays stopped if its group is."""
    assert child.ptrace
    child.ti_flags &= ~(TIF_SYSCALL_TRACE | TIF_SYSCALL_EMU)
    tracer = child.parent
    child.parent = child.real_parent
    tracer.ptraced.remove(child)
    child.ptracer_cred = None
    child.ptrace = 0
    task_clear_jobctl_pending(child, JOBCTL_TRAP_MASK)
    task_clear_jobctl_trapping(child, tracer)
    signal = child.signal
    if not child.flags & PF_EXITING and (signal.flags & SIGNAL_STOP_STOPPED or signal.group_stop_count):
        child.jobctl |= JOBCTL_STOP_PENDING
        if not child.jobctl & JOBCTL_STOP_SIGMASK:
            child.jobctl |= SIGSTOP              # it was traced when the others stopped
    if child.jobctl & JOBCTL_STOP_PENDING or child.state & TASK_TRACED_BIT:
        ptrace_signal_wake_up(child, True)


@notrace
def ptrace_unlink(child: TaskStruct) -> None:
    if child.ptrace:
        __ptrace_unlink(child)


@notrace
def ptrace_init_task(child: TaskStruct, ptrace: bool) -> None:
    """A new task is traced too, by its parent's tracer, if that asked for it."""
    task = current()
    child.jobctl = child.ptrace = 0
    child.parent = child.real_parent
    if ptrace and task.ptrace:
        assert task.ptracer_cred is not None
        child.ptrace = task.ptrace
        __ptrace_link(child, task.parent, task.ptracer_cred)
        if child.ptrace & PT_SEIZED:
            task_set_jobctl_pending(child, JOBCTL_TRAP_STOP)
        else:
            child.pending.signal |= 1 << SIGSTOP - 1
        child.ti_flags |= TIF_SIGPENDING


@notrace
def ignoring_children(sighand: SighandStruct) -> bool:
    action = sighand.action[SIGCHLD - 1]
    return action.handler == SIG_IGN or bool(action.flags & SA_NOCLDWAIT)


def __ptrace_detach(tracer: TaskStruct, p: TaskStruct) -> bool:
    """True: p is a zombie that nobody waits for any more, marked EXIT_DEAD; the caller releases it."""
    __ptrace_unlink(p)
    if p.exit_state != EXIT_ZOMBIE:
        return False
    dead = not thread_group_leader(p)
    if not dead and thread_group_empty(p):
        if p.real_parent.signal is not tracer.signal:
            dead = do_notify_parent(p, p.exit_signal)
        elif ignoring_children(tracer.sighand):
            __wake_up_parent(p, tracer)
            dead = True
    if dead:
        p.exit_state = EXIT_DEAD
    return dead


def exit_ptrace(tracer: TaskStruct, dead: list[TaskStruct]) -> None:
    """The tracer ends: its tracees go free, or die too (PTRACE_O_EXITKILL)."""
    for p in list(tracer.ptraced):
        if p.ptrace & PT_EXITKILL:
            send_sig_info(SIGKILL, SEND_SIG_PRIV, p)
        if __ptrace_detach(tracer, p):
            dead.append(p)
