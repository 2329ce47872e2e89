"""The clock that stamps trace records.

Linux: kernel/trace/trace_clock.c (5.3). Same: local, global.
Differs: the clock is the virtual one, so that observing does not change the run. A CPU's clock is charged at kernel
    entry for what the entry usually does, and where more is done (machine.charge); the records made since then are
    spread over what was charged, 10 ns apart. On Linux making a record takes time, which the durations of all callers
    contain; here only with `trace_cost_ns=N` on the kernel's command line: then a record takes N ns of virtual time,
    and the run is no longer what it is without the trace. "host" is a clock of ours: when the host made the record;
    as on Linux, function_graph's durations are the local clock's whatever the clock.
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


@notrace
def trace_clock_local_costly(kernel: Kernel, cpu: int) -> int:
    """The local clock with trace_cost_ns: a record takes time."""
    state = kernel.tracing
    vcpu = kernel.machine.cpus[cpu]
    if state is not None:
        vcpu.clock_ns += state.cost_ns
        vcpu.trace_ns = max(vcpu.trace_ns, vcpu.entry_ns) + state.cost_ns
    return trace_clock_local(kernel, cpu)


def trace_clock_global(kernel: Kernel, cpu: int) -> int:
    """The same: the clocks of our CPUs are one clock, read at different points."""
    return trace_clock_local(kernel, cpu)


@notrace
def trace_clock_host(kernel: Kernel, _cpu: int) -> int:
    """Host time on request: what our own work costs. Not the same in any two runs."""
    return kernel.machine.host_ns()


@notrace
def trace_cost(cmdline: str) -> int:
    """trace_cost_ns=N of a command line; 0: records are for free."""
    for word in cmdline.split():
        name, _, value = word.partition("=")
        if name == "trace_cost_ns" and value.isdecimal():
            return min(int(value), 1_000_000)
    return 0


@notrace
def trace_clock_peek(kernel: Kernel, cpu: int) -> int:
    """What the last record of a CPU was stamped with, or when the kernel was entered: where a function call begins."""
    vcpu = kernel.machine.cpus[cpu]
    return max(vcpu.trace_ns, vcpu.entry_ns)
