"""Translations that are forgotten.

Linux: include/trace/events/tlb.h (5.3).
"""
from __future__ import annotations

from glasskernel.kernel.trace.trace_events import Values, trace_system

tlb = trace_system("tlb")


@tlb.event(
    fields="int reason; unsigned long pages",
    print_fmt=(
        '"pages:%ld reason:%s (%d)", REC->pages, __print_symbolic(REC->reason, { 0, "flush on task switch" }, '
        '{ 1, "remote shootdown" }, { 2, "local shootdown" }, { 3, "local mm shootdown" }, { 4, '
        '"remote ipi send" }), REC->reason'),
    irqs_off=True,
)
def tlb_flush(reason: int, pages: int) -> Values:
    return (reason, pages)
