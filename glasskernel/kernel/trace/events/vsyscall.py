"""Jumps into the vsyscall page.

Linux: arch/x86/entry/vsyscall/vsyscall_trace.h (5.3).
"""
from __future__ import annotations

from glasskernel.kernel.trace.trace_events import Values, trace_system

vsyscall = trace_system("vsyscall")


@vsyscall.event(
    fields="int nr",
    print_fmt='"nr = %d", REC->nr',
)
def emulate_vsyscall(nr: int) -> Values:
    return (nr,)
