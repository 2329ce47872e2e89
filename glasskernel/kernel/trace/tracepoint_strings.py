"""Strings that events record by their address, and printk_formats, which tells readers of the raw buffer what they say.

Linux: __tracepoint_string, kernel/trace/trace_printk.c (5.3). Differs: the addresses are made up, the same in every
kernel: the strings follow each other in the order of the table.
"""
from __future__ import annotations

from itertools import accumulate

from glasskernel.lib.types import notrace

STRINGS_START = 0xFFFF_FFFF_8240_0000
_RCU = ("Start context switch", "End context switch", "Start scheduler-tick", "End scheduler-tick", "Start RCU core",
        "End RCU core")

_ENDS = accumulate((len(text) + 1 for text in _RCU), initial=STRINGS_START)
tracepoint_strings = dict(zip(_RCU, _ENDS, strict=False))
_TEXTS = {address: text for text, address in tracepoint_strings.items()}


@notrace
def tracepoint_string_at(address: int) -> str | None:
    """The string at an address, or None."""
    return _TEXTS.get(address)


@notrace
def printk_formats() -> str:
    """/sys/kernel/tracing/printk_formats"""
    return "".join(f'{address:#x} : "{text}"\n' for text, address in tracepoint_strings.items())
