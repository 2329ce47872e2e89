"""What the kernel says on the console.

Linux: include/trace/events/printk.h (5.3).
"""
from __future__ import annotations

from glasskernel.kernel.trace.trace_events import Values, trace_system

printk = trace_system("printk")


@printk.event(
    fields="__data_loc char[] msg",
    print_fmt='"%s", __get_str(msg)',
)
def console(text: bytes) -> Values:
    return (text.removesuffix(b"\n"),)
