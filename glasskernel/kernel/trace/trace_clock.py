"""The clock that stamps trace records.

Linux: kernel/trace/trace_clock.c (5.3). Same: local, global.
Differs: the clock is the virtual one, so that observing does not change the run. A CPU's clock is charged at kernel
    entry for all that the entry will do; the records made since then are spread over what was charged, 10 ns apart.
Owns: Vcpu.trace_ns, the last stamp of each CPU. Context: any. (The counter clock is trace.py's.)
Invariants: stamps of one CPU never go back, and are never ahead of the CPU's clock.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

RECORD_NS = 10


def trace_clock_local(kernel: Kernel, cpu: int) -> int:
    """The stamp of the next record on a CPU."""
    vcpu = kernel.machine.cpus[cpu]
    ts = vcpu.trace_ns
    if ts < vcpu.entry_ns:
        ts = vcpu.entry_ns
    ts += RECORD_NS
    if ts > vcpu.clock_ns:
        ts = vcpu.clock_ns
    vcpu.trace_ns = ts
    return ts


def trace_clock_global(kernel: Kernel, cpu: int) -> int:
    """The same: the clocks of our CPUs are one clock, read at different points."""
    return trace_clock_local(kernel, cpu)


@notrace
def trace_clock_peek(kernel: Kernel, cpu: int) -> int:
    """What the last record of a CPU was stamped with, or when the kernel was entered: where a function call begins."""
    vcpu = kernel.machine.cpus[cpu]
    return max(vcpu.trace_ns, vcpu.entry_ns)
