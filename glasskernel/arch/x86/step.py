"""Single-stepping a task: the trap flag, and who set it.

Linux: arch/x86/kernel/step.c; flush_ptrace_hw_breakpoint() is hw_breakpoint.c's (5.3). Same: TIF_SINGLESTEP says
    that the tracer wants a stop after the next instruction or system call; TIF_FORCED_TF that the trap flag is the
    tracer's and hidden from it.
Gaps: an instruction that itself sets the trap flag (POPF, IRET) is not looked at; no block steps (BTF).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.hw_breakpoint import X86_EFLAGS_TF, update_trap_flag
from glasskernel.kernel.task import TIF_FORCED_TF, TIF_SINGLESTEP

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct

__all__ = ["X86_EFLAGS_TF", "flush_ptrace_hw_breakpoint", "user_disable_single_step", "user_enable_single_step"]


def user_enable_single_step(child: TaskStruct) -> None:
    """The task traps after its next instruction."""
    thread = child.thread
    child.ti_flags |= TIF_SINGLESTEP
    flags = thread.get_eflags()
    if flags & X86_EFLAGS_TF and not child.ti_flags & TIF_FORCED_TF:
        return                                   # the program's own: it stays when the tracer lets go
    thread.set_eflags(flags | X86_EFLAGS_TF)
    child.ti_flags |= TIF_FORCED_TF


def flush_ptrace_hw_breakpoint(task: TaskStruct) -> None:
    """exec and exit: the debug registers that a tracer set (arch/x86/entry/ptrace.py) are gone."""
    thread = task.thread
    debug = thread.debugreg
    if debug is not None:
        debug.dr7, debug.execute, debug.watched = 0, {}, []
        update_trap_flag(task, debug)
        if thread.debug is None:                 # perf events' stay
            thread.debugreg = None


def user_disable_single_step(child: TaskStruct) -> None:
    child.ti_flags &= ~TIF_SINGLESTEP
    if child.ti_flags & TIF_FORCED_TF:
        child.ti_flags &= ~TIF_FORCED_TF
        thread = child.thread
        if thread.debug is None:                 # hardware breakpoints need it on
            thread.set_eflags(thread.get_eflags() & ~X86_EFLAGS_TF)
