"""Stack traces: the kernel's from Python's frames, the user's by frame pointers.

Linux: kernel/stacktrace.c, arch/x86/kernel/stacktrace.c (5.3). Same: innermost first; entry code stands at the bottom.
Differs: a kernel stack is a greenlet's, its frames are Python's; frames of helpers that Linux has not are skipped.
    The return address inside a function is the function's + 16 * (line - first line).
Owns: nothing. Context: any; reading a user stack: the task itself.
"""
from __future__ import annotations

import sys
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

from glasskernel.arch.x86.ptrace import BP, IP
from glasskernel.kernel.current import register
from glasskernel.kernel.kallsyms import LINE_SIZE, Symbol, kallsyms_table
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import notrace
from glasskernel.mm.memory import access_process_vm

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

# What lies between user mode and the first C function, by that function.
_ENTRIES = {
    "do_syscall_64": "entry_SYSCALL_64_after_hwframe", "do_int80_syscall_32": "entry_INT80_compat",
    "do_page_fault": "page_fault", "smp_apic_timer_interrupt": "apic_timer_interrupt",
    "smp_reschedule_interrupt": "reschedule_interrupt", "do_IRQ": "common_interrupt",
}


@notrace
def return_address(symbol: Symbol, frame: FrameType) -> int:
    """Where in a function its frame stands."""
    return symbol.address + LINE_SIZE * max(frame.f_lineno - symbol.first_line, 0)


@notrace
def entry_address(frame: FrameType, callee: str) -> int:
    """The address in the entry code that called `callee`; 0: none that Linux has."""
    name = "ret_from_fork" if frame.f_code.co_name == "ret_from_fork" else _ENTRIES.get(callee)
    if name is None:
        return 0
    symbol = kallsyms_table().by_name[name]
    return symbol.address + symbol.call_offset


@notrace
def walk_frames(frame: FrameType | None) -> list[int]:
    """The addresses from a frame outwards, innermost first."""
    table = kallsyms_table()
    by_code, entries = table.by_code, table.entries
    found = []
    callee = ""
    while frame is not None:
        key = id(frame.f_code)
        symbol = by_code.get(key)
        if symbol is not None:
            found.append(return_address(symbol, frame))
            callee = symbol.name
        elif key in entries:
            address = entry_address(frame, callee)
            if address:
                found.append(address)
            if frame.f_code.co_name == "user_mode_loop":
                break                             # what lies below it runs in user mode
            callee = ""
        frame = frame.f_back
    return found


@notrace
def caller_address(frame: FrameType | None, callee: str) -> int:
    """parent_ip: where the function `callee` was called from. frame: its caller's. 0: nowhere that Linux has."""
    table = kallsyms_table()
    by_code, entries = table.by_code, table.entries
    while frame is not None:
        key = id(frame.f_code)
        symbol = by_code.get(key)
        if symbol is not None:
            return return_address(symbol, frame)
        if key in entries:
            return entry_address(frame, callee)
        frame = frame.f_back
    return 0


def stack_trace_save(kernel: Kernel, skip: int = 0) -> list[int]:
    """The addresses on the running kernel stack, innermost first, without the first `skip` of them."""
    return walk_frames(sys._getframe(1))[skip:]


def stack_trace_save_tsk(task: TaskStruct) -> list[int]:
    """The same of a task that does not run."""
    if task is register.task:
        return walk_frames(sys._getframe(1))
    return walk_frames(task.stack.gr_frame) if task.stack is not None else []


def stack_trace_save_user(task: TaskStruct, limit: int = 32) -> list[int]:
    """The user addresses of a task: its instruction pointer, then along the frame pointers, while they lead upwards."""
    if task.mm is None:
        return []
    regs = task.thread.regs
    found, frame = [regs[IP]], regs[BP]
    with suppress(KernelError):
        while len(found) < limit and frame and not frame & 7:
            words = access_process_vm(task, frame, 16)
            following, address = int.from_bytes(words[:8], "little"), int.from_bytes(words[8:16], "little")
            if len(words) < 16 or not address or following <= frame:
                break
            found.append(address)
            frame = following
    return found
