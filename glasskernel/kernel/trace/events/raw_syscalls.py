"""Every system call, by number.

Linux: include/trace/events/syscalls.h (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.ptrace import BP, BX, CX, DI, DX, R8, R9, R10, SI
from glasskernel.kernel.current import current
from glasskernel.kernel.trace.trace_events import Values, trace_system

if TYPE_CHECKING:
    from glasskernel.lib.syscalls import Registers

_ARGUMENTS, _IA32_ARGUMENTS = (DI, SI, DX, R10, R8, R9), (BX, CX, DX, SI, DI, BP)

raw_syscalls = trace_system("raw_syscalls")


@raw_syscalls.event(
    fields="long id; unsigned long args[6]",
    print_fmt=(
        '"NR %ld (%lx, %lx, %lx, %lx, %lx, %lx)", REC->id, REC->args[0], REC->args[1], REC->args[2], '
        'REC->args[3], REC->args[4], REC->args[5]'),
)
def sys_enter(regs: Registers, nr: int) -> Values:
    registers = _IA32_ARGUMENTS if current().thread.ts_compat else _ARGUMENTS
    return (nr, [regs[r] for r in registers])


@raw_syscalls.event(
    fields="long id; long ret",
    print_fmt='"NR %ld = %ld", REC->id, REC->ret',
)
def sys_exit(regs: Registers, ret: int) -> Values:
    return (current().thread.orig_ax, ret)
