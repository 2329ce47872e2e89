"""The border between user mode and the kernel: one loop per task.

Linux: arch/x86/entry/entry_64.S, common.c (5.3). Same: do_syscall_64, exit_to_usermode_loop, ret_from_fork; whoever
    watches a task's system calls (tracer, tracepoints) sets a flag in ti_flags, which is all that a call tests.
Differs: the loop replaces the assembly: it lets user code run, and the trap's number comes back as a value. rax holds
    -ENOSYS during a call only when somebody watches.
Context: task, on its own stack. Invariant: every way back to user mode passes exit_to_usermode_loop() while
    work is left in ti_flags.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.entry.fault import do_page_fault
from glasskernel.arch.x86.entry.oops import oops
from glasskernel.arch.x86.entry.signal import do_signal
from glasskernel.arch.x86.entry.syscall_costs import SYSCALL_COST
from glasskernel.arch.x86.entry.traps import do_trap, emulate_tsc
from glasskernel.arch.x86.ptrace import AX, BP, BX, CX, DI, DX, IP, R8, R9, R10, R11, SI
from glasskernel.kernel.current import current
from glasskernel.kernel.exit import do_exit
from glasskernel.kernel.ptrace_stop import tracehook_report_syscall_entry, tracehook_report_syscall_exit
from glasskernel.kernel.sched.core import schedule, schedule_tail
from glasskernel.kernel.sched.cputime import vtime_user
from glasskernel.kernel.seccomp import __secure_computing
from glasskernel.kernel.task import (
    SYSCALL_EXIT_WORK_FLAGS,
    TIF_NEED_RESCHED,
    TIF_NOTIFY_RESUME,
    TIF_SECCOMP,
    TIF_SIGPENDING,
    TIF_SINGLESTEP,
    TIF_SYSCALL_EMU,
    TIF_SYSCALL_TRACE,
    TIF_SYSCALL_TRACEPOINT,
    TIF_UPROBE,
    TIF_WORK_SYSCALL_ENTRY,
)
from glasskernel.kernel.task_work import task_work_run
from glasskernel.lib.errno import ENOSYS, KernelError
from glasskernel.lib.syscalls import find_syscall
from glasskernel.lib.types import U64_MAX, notrace
from glasskernel.machine.costs import SYSCALL, TRAP
from glasskernel.machine.cpu import VECTOR_BUDGET, VECTOR_SYSCALL

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.lib.syscalls import Registers

EXIT_TO_USERMODE_LOOP_FLAGS = TIF_SIGPENDING | TIF_NEED_RESCHED | TIF_NOTIFY_RESUME | TIF_UPROBE
_SYSCALL_RETURN_WORK = SYSCALL_EXIT_WORK_FLAGS | EXIT_TO_USERMODE_LOOP_FLAGS
_GENERAL_PROTECTION, _PAGE_FAULT = 13, 14
_INT80 = 0x80
_NR_SYSCALLS = 512
_NO_SUCH_CALL = -ENOSYS & U64_MAX
_ARGUMENTS_64, _ARGUMENTS_32 = (DI, SI, DX, R10, R8, R9), (BX, CX, DX, SI, DI, BP)


@notrace
def ret_from_fork(function: Callable[[Any], int] | None, argument: Any) -> None:
    """Where a new task's stack begins. A kernel thread calls its function; if that answers, it has exec'd or ends."""
    task = current()
    try:
        schedule_tail()
        if function is not None:
            status = function(argument)
            if task.mm is None:
                do_exit(status)
        if task.ti_flags & SYSCALL_EXIT_WORK_FLAGS:
            syscall_slow_exit_work(task.thread.regs, task)    # its clone(), or the exec of a kernel thread
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
            nr = regs[AX]
            cpu.clock_ns += SYSCALL_COST[nr] if nr < _NR_SYSCALLS else SYSCALL
            do_syscall_64(nr, task)
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
            if vector == _GENERAL_PROTECTION and emulate_tsc(task, regs[IP]):
                continue
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
    if task.ti_flags & TIF_WORK_SYSCALL_ENTRY:
        nr = syscall_trace_enter(regs, task)
    if nr < _NR_SYSCALLS:
        kernel.syscall_counts[nr] += 1
        try:
            result = kernel.sys_call_table[nr](regs)
        except KernelError as error:
            result = -error.errno
        regs[AX] = result & U64_MAX
    elif not task.ti_flags & TIF_WORK_SYSCALL_ENTRY:
        kernel.enosys[nr & 0xFFFFFFFF] = kernel.enosys.get(nr & 0xFFFFFFFF, 0) + 1
        regs[AX] = _NO_SUCH_CALL
    if task.ti_flags & _SYSCALL_RETURN_WORK:      # syscall_return_slowpath()
        if task.ti_flags & SYSCALL_EXIT_WORK_FLAGS:
            syscall_slow_exit_work(regs, task)
        if task.ti_flags & EXIT_TO_USERMODE_LOOP_FLAGS:
            exit_to_usermode_loop(task)


def do_int80_syscall_32(task: TaskStruct) -> None:
    """int $0x80: i386's numbers and registers; every argument is 32 bits wide."""
    thread = task.thread
    regs = thread.regs
    nr = thread.orig_ax = regs[AX] & 0xFFFF_FFFF
    thread.ts_compat = True
    if task.ti_flags & TIF_WORK_SYSCALL_ENTRY:
        nr = syscall_trace_enter(regs, task)
    call = task.kernel.ia32_sys_call_table.get(nr)
    if call is not None:
        saved = [regs[i] for i in _ARGUMENTS_64]
        arguments = [regs[i] & 0xFFFF_FFFF for i in _ARGUMENTS_32]
        for i, argument in zip(_ARGUMENTS_64, arguments, strict=True):
            regs[i] = argument
        try:
            result = find_syscall(call).entry(regs)
        except KernelError as error:
            result = -error.errno
        for i, value in zip(_ARGUMENTS_64, saved, strict=True):
            regs[i] = value
        regs[AX] = result & U64_MAX
    elif not task.ti_flags & TIF_WORK_SYSCALL_ENTRY:
        regs[AX] = _NO_SUCH_CALL
    if task.ti_flags & SYSCALL_EXIT_WORK_FLAGS:
        syscall_slow_exit_work(regs, task)
    thread.ts_compat = False


def syscall_trace_enter(regs: Registers, task: TaskStruct) -> int:
    """Shows a call that begins to those who watch the task. Answers the number to call; U64_MAX: none."""
    regs[AX] = _NO_SUCH_CALL
    thread = task.thread
    emulated = task.ti_flags & TIF_SYSCALL_EMU
    if task.ti_flags & (TIF_SYSCALL_TRACE | TIF_SYSCALL_EMU) and tracehook_report_syscall_entry():
        return U64_MAX
    if emulated:
        return U64_MAX
    if task.ti_flags & TIF_SECCOMP and not __secure_computing(regs, task):
        return U64_MAX
    if task.ti_flags & TIF_SYSCALL_TRACEPOINT:
        probe = task.kernel.tp.sys_enter
        if probe is not None:
            probe(regs, thread.orig_ax)
    return thread.orig_ax & U64_MAX


def syscall_slow_exit_work(regs: Registers, task: TaskStruct) -> None:
    """Shows them how it ended."""
    if task.ti_flags & TIF_SYSCALL_TRACEPOINT:
        probe = task.kernel.tp.sys_exit
        if probe is not None:
            result = regs[AX]
            probe(regs, result - (1 << 64) if result >> 63 else result)
    step = task.ti_flags & (TIF_SINGLESTEP | TIF_SYSCALL_EMU) == TIF_SINGLESTEP
    if step or task.ti_flags & TIF_SYSCALL_TRACE:
        tracehook_report_syscall_exit(step)


def exit_to_usermode_loop(task: TaskStruct) -> None:
    """What must be done first: reschedule, deliver signals."""
    while True:
        flags = task.ti_flags
        if flags & TIF_NEED_RESCHED:
            schedule()
        if flags & TIF_UPROBE:
            assert task.kernel.uprobes is not None
            task.kernel.uprobes.notify_resume(task)
        if flags & TIF_SIGPENDING:
            do_signal(task)
        if flags & TIF_NOTIFY_RESUME:
            task.ti_flags &= ~TIF_NOTIFY_RESUME
            if task.task_works:                  # tracehook_notify_resume()
                task_work_run()
            if task.rseq:
                task.kernel.notify_resume(task)
        if not task.ti_flags & EXIT_TO_USERMODE_LOOP_FLAGS:
            return
