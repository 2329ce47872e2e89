"""Printing the trace buffer to the kernel's log: `echo do_coredump:dump > set_ftrace_filter`.

Linux: ftrace_dump() of kernel/trace/trace.c, dump and cpudump of trace_functions.c (5.3). Same: tracing stops, the
    frame around the records, every line at the level of an emergency; what was printed is gone from the buffer; a
    command happens once for each function.
Gaps: ftrace_dump_on_oops, sysrq-z.
Owns: nothing. Context: any.
"""
from __future__ import annotations

from types import FrameType
from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.printk import printk
from glasskernel.kernel.trace.ftrace_filter import FtraceInstance
from glasskernel.kernel.trace.ftrace_probes import FtraceProbeOps, register_probe_command
from glasskernel.kernel.trace.ring_buffer import RING_BUFFER_ALL_CPUS
from glasskernel.kernel.trace.trace import trace_state, tracer_tracing_off
from glasskernel.kernel.trace.trace_iter import trace_consume, trace_find_next_entry_inc, trace_iterator
from glasskernel.kernel.trace.trace_output import print_trace_line

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

KERN_TRACE = 0                                    # KERN_EMERG
_RULE = "---------------------------------"


def ftrace_dump(kernel: Kernel, cpu: int) -> None:
    """The records of a CPU, or of all (RING_BUFFER_ALL_CPUS)."""
    tr = trace_state(kernel).global_trace
    tracer_tracing_off(tr)
    iterator = trace_iterator(tr, cpu)
    printk(kernel, "Dumping ftrace buffer:", KERN_TRACE)
    count = 0
    while trace_find_next_entry_inc(iterator) is not None:
        if not count:
            printk(kernel, _RULE, KERN_TRACE)
        count += 1
        text = print_trace_line(iterator)
        if text:
            printk(kernel, text, KERN_TRACE)
        trace_consume(iterator)
    printk(kernel, _RULE if count else "   (ftrace buffer empty)", KERN_TRACE)


def ftrace_dump_probe(instance: FtraceInstance, ip: int, frame: FrameType) -> bool:
    ftrace_dump(instance.state.kernel, RING_BUFFER_ALL_CPUS)
    return True


def ftrace_cpudump_probe(instance: FtraceInstance, ip: int, frame: FrameType) -> bool:
    """Only the CPU on which the function runs."""
    ftrace_dump(instance.state.kernel, register.task.cpu)
    return True


def init_dump_commands(kernel: Kernel) -> None:
    for name, function in (("dump", ftrace_dump_probe), ("cpudump", ftrace_cpudump_probe)):
        register_probe_command(kernel, FtraceProbeOps(name, function, only_once=True))
