"""A bug of ours: the oops. It is reported, it kills one task, and the kernel goes on.

Linux: arch/x86/kernel/dumpstack.c, kernel/panic.c. Same: the report's form, panic_on_oops. Differs: the kernel
backtrace is Python's.
"""
from __future__ import annotations

import traceback
from typing import NoReturn

from glasskernel.arch.x86.ptrace import AX, BP, BX, CX, DI, DX, IP, R8, R9, R10, R11, R12, R13, R14, R15, SI, SP
from glasskernel.kernel.current import current
from glasskernel.kernel.exit import do_exit
from glasskernel.kernel.signal_types import SIGSEGV
from glasskernel.kernel.task import TaskStruct
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import notrace
from glasskernel.mm.memory import access_process_vm


class KernelPanic(Exception):
    """The kernel cannot go on; ends Machine.run()."""


@notrace
def oops(bug: Exception) -> NoReturn:
    """Reports an exception that kernel code let out, and ends the current task. Context: task."""
    task = current()
    kernel = task.kernel
    kernel.oops_count += 1
    kernel.printk("\n".join(report(task, bug, kernel.oops_count)), 0)
    kernel.oopses.append("".join(traceback.format_exception(bug)))
    if kernel.sysctl.panic_on_oops or task.pid <= 1 or task.oops_in_progress:
        raise KernelPanic(f"{type(bug).__name__}: {bug}") from bug
    task.oops_in_progress = True
    do_exit(SIGSEGV)
    raise AssertionError("do_exit() came back")


@notrace
def report(task: TaskStruct, bug: Exception, number: int) -> list[str]:
    """The lines of an oops."""
    name = task.comm.decode(errors="replace")
    lines = [f"BUG: {type(bug).__name__}: {bug}", f"Oops: {number:04d} [#{number}] SMP",
             f"CPU: {task.cpu} PID: {task.pid} Comm: {name} 5.3.0-glasskernel"]
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
    for frame in reversed(frames):
        lines.append(f" {frame.name} ({frame.filename.rpartition('glasskernel/')[2]}:{frame.lineno})")
    if regs is not None and task.mm is not None:
        lines.append("User backtrace:")
        lines += [f" {address:#018x}" for address in user_backtrace(task)]
    return lines


@notrace
def user_backtrace(task: TaskStruct, limit: int = 16) -> list[int]:
    """Return addresses along the chain of frame pointers (code built without them gives a short list)."""
    regs = task.thread.regs
    found, frame = [regs[IP]], regs[BP]
    try:
        while len(found) < limit and frame and not frame & 7:
            words = access_process_vm(task, frame, 16)
            if len(words) < 16:
                break
            following, address = int.from_bytes(words[:8], "little"), int.from_bytes(words[8:], "little")
            if not address or following <= frame:
                break
            found.append(address)
            frame = following
    except KernelError:
        pass
    return found
