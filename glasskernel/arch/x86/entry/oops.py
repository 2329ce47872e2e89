"""A bug of ours: the oops. It is reported, it kills one task, and the kernel goes on.

Linux: arch/x86/kernel/dumpstack.c, kernel/panic.c. Same: the report's form, panic_on_oops. Differs: the kernel
backtrace is Python's.
"""
from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, NoReturn

from glasskernel.arch.x86.ptrace import AX, BP, BX, CX, DI, DX, IP, R8, R9, R10, R11, R12, R13, R14, R15, SI, SP
from glasskernel.kernel.current import current
from glasskernel.kernel.exit import do_exit
from glasskernel.kernel.signal_types import SIGSEGV
from glasskernel.kernel.task import TaskStruct
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


class KernelPanic(Exception):
    """The kernel cannot go on; ends Machine.run()."""


def panic(kernel: Kernel, text: str) -> NoReturn:
    """Nothing can be done any more (kernel/panic.c)."""
    kernel.printk(f"Kernel panic - not syncing: {text}", 0)
    dump_stack(kernel)
    raise KernelPanic(text)


def dump_stack(kernel: Kernel) -> None:
    """Where the kernel is, in the log (lib/dump_stack.c)."""
    from glasskernel.kernel.panic import print_tainted

    task = current()
    lines = [f"CPU: {task.cpu} PID: {task.pid} Comm: {task.comm.decode(errors='replace')} {print_tainted(kernel)} "
             "5.3.0-glasskernel", "Call Trace:"]
    for frame in reversed(traceback.extract_stack(sys._getframe())):
        lines.append(call_line(frame))
        if frame.name in ("user_mode_loop", "ret_from_fork"):
            break
    kernel.printk("\n".join(lines), 4)


@notrace
def call_line(frame: traceback.FrameSummary) -> str:
    """A function on the stack, as both reports show it."""
    return f" {frame.name} ({frame.filename.rpartition('glasskernel/')[2]}:{frame.lineno})"


@notrace
def oops(bug: Exception) -> NoReturn:
    """Reports an exception that kernel code let out, and ends the current task. Context: task."""
    if isinstance(bug, KernelPanic):
        raise bug
    from glasskernel.kernel.panic import TAINT_DIE, add_taint  # late: start-up time

    task = current()
    kernel = task.kernel
    kernel.oops_count += 1
    kernel.printk("\n".join(report(task, bug, kernel.oops_count)), 0)
    add_taint(kernel, TAINT_DIE)
    kernel.oopses.append("".join(traceback.format_exception(bug)))
    if kernel.sysctl.panic_on_oops or task.pid <= 1 or task.oops_in_progress:
        raise KernelPanic(f"{type(bug).__name__}: {bug}") from bug
    task.oops_in_progress = True
    do_exit(SIGSEGV)
    raise AssertionError("do_exit() came back")


@notrace
def report(task: TaskStruct, bug: Exception, number: int) -> list[str]:
    """The lines of an oops."""
    from glasskernel.kernel.panic import print_tainted
    from glasskernel.kernel.trace.stacktrace import stack_trace_save_user

    name = task.comm.decode(errors="replace")
    lines = [f"BUG: {type(bug).__name__}: {bug}", f"Oops: {number:04d} [#{number}] SMP",
             f"CPU: {task.cpu} PID: {task.pid} Comm: {name} {print_tainted(task.kernel)} 5.3.0-glasskernel"]
    regs = task.thread.regs if task.thread is not None else None
    if regs is not None:
        lines.append(f"RIP: 0033:{regs[IP]:#x}")
        lines.append(f"RSP: 002b:{regs[SP]:016x} ORIG_RAX: {task.thread.orig_ax & 0xFFFFFFFFFFFFFFFF:016x}")
        for row in ((("RAX", AX), ("RBX", BX), ("RCX", CX)), (("RDX", DX), ("RSI", SI), ("RDI", DI)),
                    (("RBP", BP), ("R08", R8), ("R09", R9)), (("R10", R10), ("R11", R11), ("R12", R12)),
                    (("R13", R13), ("R14", R14), ("R15", R15))):
            lines.append(" ".join(f"{name}: {regs[index]:016x}" for name, index in row))
    lines.append("Call Trace:")
    frames = traceback.extract_tb(bug.__traceback__)
    lines += [call_line(frame) for frame in reversed(frames)]
    if regs is not None and task.mm is not None:
        lines.append("User backtrace:")
        lines += [f" {address:#018x}" for address in stack_trace_save_user(task, 16)]
    return lines
