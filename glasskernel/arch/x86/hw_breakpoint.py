"""Hardware breakpoints without hardware: the trap flag, and a look at what each instruction did.

Linux: arch/x86/kernel/hw_breakpoint.c (5.3). Same: four breakpoints; executing one address, or writing to 1, 2, 4 or 8
    bytes.
Differs: the engine has no debug registers. A task that has some enabled runs one instruction at a time, and after each
    the bytes they watch are compared: a write that changes nothing is no hit, and one by the kernel is seen an
    instruction later. ThreadStruct.debug has both those of a tracer (entry/ptrace.py) and those of perf events.
Owns: ThreadStruct.debug. Invariants: debug is set exactly while one is enabled, and then the trap flag is.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.kernel.task import TIF_FORCED_TF
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct

X86_EFLAGS_TF = 0x100
HBP_NUM = 4


class ArchHwBreakpoint:
    """struct arch_hw_breakpoint. length: bytes that are watched, 0: executing `address`. before: what they were.
    hit(): a perf event's overflow handler."""

    __slots__ = ("address", "before", "hit", "length")

    def __init__(self, address: int, length: int, before: bytes, hit: Callable[[], None]) -> None:
        self.address, self.length, self.before, self.hit = address, length, before, hit


class DebugRegisters:
    """What the tracer wrote; watched: for each enabled data breakpoint its number, address, length and last bytes.
    bp_per_reg: those of perf events."""

    __slots__ = ("address", "bp_per_reg", "dr6", "dr7", "execute", "watched")

    def __init__(self) -> None:
        self.address = [0, 0, 0, 0]
        self.dr6 = self.dr7 = 0
        self.execute: dict[int, int] = {}
        self.watched: list[tuple[int, int, int, bytes]] = []
        self.bp_per_reg: list[ArchHwBreakpoint] = []


@notrace
def update_trap_flag(task: TaskStruct, debug: DebugRegisters) -> None:
    """One was added or taken away: does the task still run step by step?"""
    thread = task.thread
    if debug.execute or debug.watched or debug.bp_per_reg:
        thread.debug = debug
        thread.set_eflags(thread.get_eflags() | X86_EFLAGS_TF)
    elif thread.debug is not None:
        thread.debug = None
        if not task.ti_flags & TIF_FORCED_TF:
            thread.set_eflags(thread.get_eflags() & ~X86_EFLAGS_TF)


def arch_install_hw_breakpoint(task: TaskStruct, bp: ArchHwBreakpoint) -> None:
    """It is watched for from now on."""
    thread = task.thread
    debug = thread.debugreg
    if debug is None:
        debug = thread.debugreg = DebugRegisters()
    debug.bp_per_reg.append(bp)
    update_trap_flag(task, debug)


def arch_uninstall_hw_breakpoint(task: TaskStruct, bp: ArchHwBreakpoint) -> None:
    debug = task.thread.debugreg
    if debug is not None and bp in debug.bp_per_reg:
        debug.bp_per_reg.remove(bp)
        update_trap_flag(task, debug)
