"""The border between user mode and the kernel: one loop per task.

Linux: arch/x86/entry/entry_64.S, common.c (5.3). Same: do_syscall_64, exit_to_usermode_loop, ret_from_fork.
Differs: the loop replaces the assembly: it lets user code run, and the trap's number comes back as a value.
Context: task, on its own stack. Invariant: every way back to user mode passes exit_to_usermode_loop() while
    work is left in ti_flags.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.entry.fault import do_page_fault
from glasskernel.arch.x86.entry.oops import oops
from glasskernel.arch.x86.entry.signal import do_signal
from glasskernel.arch.x86.entry.traps import do_int80_syscall_32, do_trap
from glasskernel.arch.x86.ptrace import AX, CX, IP, R11
from glasskernel.kernel.current import current
from glasskernel.kernel.exit import do_exit
from glasskernel.kernel.sched.core import schedule, schedule_tail
from glasskernel.kernel.sched.cputime import vtime_user
from glasskernel.kernel.task import TIF_NEED_RESCHED, TIF_NOTIFY_RESUME, TIF_SIGPENDING
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import U64_MAX, notrace
from glasskernel.machine.costs import SYSCALL, TRAP
from glasskernel.machine.cpu import VECTOR_BUDGET, VECTOR_SYSCALL

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct

EXIT_TO_USERMODE_LOOP_FLAGS = TIF_SIGPENDING | TIF_NEED_RESCHED | TIF_NOTIFY_RESUME
_PAGE_FAULT = 14
_INT80 = 0x80


@notrace
def ret_from_fork(function: Callable[[Any], int] | None, argument: Any) -> None:
    """Where a new task's stack begins. A kernel thread calls its function; if that answers, it has exec'd or ends."""
    task = current()
    try:
        schedule_tail(task)
        if function is not None:
            status = function(argument)
            if task.mm is None:
                do_exit(status)
    except Exception as bug:
        oops(bug)
    while True:
        try:
            user_mode_loop(task)
        except Exception as bug:
            oops(bug)


@notrace
def user_mode_loop(task: TaskStruct) -> None:
    """Runs the task's user code, and its traps, until the task exits."""
    machine = task.kernel.machine
    thread = task.thread
    context, regs = thread.context, thread.regs
    run_user = machine.run_user
    while True:
        if task.ti_flags & EXIT_TO_USERMODE_LOOP_FLAGS:
            exit_to_usermode_loop(task)
        mm = task.mm
        assert mm is not None
        tables = mm.pgd
        if thread.tables != tables:
            context.set_page_table(tables)
            thread.tables = tables
        cpu = machine.this_cpu
        before = cpu.clock_ns
        vector = run_user(context, tables)
        entry = cpu.entry_ns = cpu.clock_ns
        if entry != before:
            vtime_user(task, entry - before)
        if vector == VECTOR_SYSCALL:
            cpu.clock_ns += SYSCALL
            do_syscall_64(regs[AX], task)
            if cpu.clock_ns >= cpu.turn_end_ns:
                machine.border()
        elif vector == _PAGE_FAULT:
            context.clear_exception()
            cpu.clock_ns += TRAP
            thread.orig_ax = -1
            do_page_fault(task, context.error_code, context.fault_address)
        elif vector == VECTOR_BUDGET:
            thread.orig_ax = -1
            machine.border()
        elif vector == _INT80:
            cpu.clock_ns += SYSCALL
            do_int80_syscall_32(task)
        else:
            context.clear_exception()
            cpu.clock_ns += TRAP
            thread.orig_ax = -1
            do_trap(task, vector)


def do_syscall_64(nr: int, task: TaskStruct) -> None:
    """One system call. SYSCALL itself has left the return address in RCX and the flags in R11."""
    thread = task.thread
    regs = thread.regs
    kernel = task.kernel
    regs[CX] = regs[IP]
    regs[R11] = kernel.machine.engine.eflags
    thread.orig_ax = nr
    if nr >= 512:
        kernel.enosys[nr & 0xFFFFFFFF] = kernel.enosys.get(nr & 0xFFFFFFFF, 0) + 1
        regs[AX] = -38 & U64_MAX
        return
    kernel.syscall_counts[nr] += 1
    observer = kernel.syscall_observer
    if observer is not None:
        observer.enter(task, nr)
    try:
        result = kernel.sys_call_table[nr](regs)
    except KernelError as error:
        result = -error.errno
    regs[AX] = result & U64_MAX
    if observer is not None:
        observer.exit(task, nr, result)


def exit_to_usermode_loop(task: TaskStruct) -> None:
    """What must be done first: reschedule, deliver signals."""
    while True:
        flags = task.ti_flags
        if flags & TIF_NEED_RESCHED:
            schedule()
        if flags & TIF_SIGPENDING:
            do_signal(task)
        if flags & TIF_NOTIFY_RESUME:
            task.ti_flags &= ~TIF_NOTIFY_RESUME
            task.kernel.notify_resume(task)
        if not task.ti_flags & EXIT_TO_USERMODE_LOOP_FLAGS:
            return
