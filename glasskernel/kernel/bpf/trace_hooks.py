"""What BPF has only where the kernel can be traced.

Linux: the weak functions bpf_get_trace_printk_proto() and bpf_event_output() of kernel/bpf/core.c (5.3). Differs: these
import the tracing half (kernel/trace/bpf_trace.py, a higher layer) when the first program wants it.
"""
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from glasskernel.kernel.bpf.types import BpfFuncProto, BpfMap, BpfRun

_MODULE = "glasskernel.kernel.trace.bpf_trace"


def bpf_get_trace_printk_proto() -> BpfFuncProto:
    """bpf_trace_printk()"""
    return cast("BpfFuncProto", import_module(_MODULE).bpf_trace_printk_proto)


def bpf_event_output(run: BpfRun, map: BpfMap, flags: int, data: bytes) -> int:
    """A record for the perf event that a map has for this CPU, or at the index in flags: 0 or a negative errno."""
    return cast(int, import_module(_MODULE).bpf_event_output(run, map, flags, data))
