"""The function profiler: how often each function was called on each CPU, and how long that took.

Linux: kernel/trace/ftrace.c under CONFIG_FUNCTION_PROFILER, trace_stat.c (5.3). Same: function_profile_enabled, the
    tables in trace_stat/functionN, sorted by time. Differs: times are virtual: see trace_clock.py.
Owns: FtraceProfile (FtraceState.profile). Context: the hooks run in any, the files in a task's.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.libfs import simple_read_from_buffer
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.seq_file import SeqFile, seq_lseek, seq_puts, seq_read, single_open, single_release
from glasskernel.fs.types import FileOperations
from glasskernel.kernel.current import register
from glasskernel.kernel.kallsyms import sprint_symbol_no_offset
from glasskernel.kernel.trace.fgraph import (
    FgraphOps,
    FtraceGraphEnt,
    FtraceGraphRet,
    register_ftrace_graph,
    unregister_ftrace_graph,
)
from glasskernel.kernel.trace.ftrace import ftrace_init
from glasskernel.kernel.trace.trace_graph_output import trace_print_graph_duration
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, Kiocb
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter


@slotted
class FtraceProfileRecord:
    """struct ftrace_profile"""

    ip: int
    counter: int = 0
    time: int = 0                                 # ns
    time_squared: int = 0


class FtraceProfile:
    """The tables of all CPUs. graph_time: whether a function's time holds that of those it called."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.enabled = False
        self.graph_time = True
        self.stats: list[dict[int, FtraceProfileRecord]] = [{} for _ in kernel.machine.cpus]
        self.ops = FgraphOps(self.profile_graph_entry, self.profile_graph_return)

    @notrace
    def set(self, enable: bool) -> None:
        """Errors: EBUSY, the graph tracer is on."""
        if enable == self.enabled:
            return
        if enable:
            register_ftrace_graph(self.kernel, self.ops)
            self.stats = [{} for _ in self.kernel.machine.cpus]
        else:
            unregister_ftrace_graph(self.kernel, self.ops)
        self.enabled = enable

    @notrace
    def profile_graph_entry(self, trace: FtraceGraphEnt) -> bool:
        stat = self.stats[register.task.cpu]
        record = stat.get(trace.func)
        if record is None:
            record = stat[trace.func] = FtraceProfileRecord(trace.func)
        record.counter += 1
        return True

    @notrace
    def profile_graph_return(self, trace: FtraceGraphRet) -> None:
        record = self.stats[register.task.cpu].get(trace.func)
        took = trace.rettime - trace.calltime
        if not self.graph_time:
            calls = register.task.ret_stack.calls
            if calls:
                calls[-1].subtime += took
            took = max(took - trace.subtime, 0)
        if record is not None:                     # it may have begun on another CPU
            record.time += took
            record.time_squared += took * took


@notrace
def ftrace_profile(kernel: Kernel) -> FtraceProfile:
    """The profiler, made at first use."""
    state = ftrace_init(kernel)
    if state.profile is None:
        state.profile = FtraceProfile(kernel)
    profile: FtraceProfile = state.profile
    return profile


# ---- files ----------------------------------------------------------------------------------------------------------
def ftrace_profile_read(iocb: Kiocb, to: IovIter) -> int:
    """function_profile_enabled"""
    profile = ftrace_profile(register.task.kernel)
    return simple_read_from_buffer(to, iocb, b"%d\n" % profile.enabled)


def ftrace_profile_write(iocb: Kiocb, source: IovIter) -> int:
    """Errors: EINVAL, no number; EBUSY, the graph tracer is on."""
    text = source.copy_from_iter(min(source.count, 64))
    try:
        value = int(text.strip(b" \n\0") or b"x", 0)
    except ValueError:
        raise KernelError(EINVAL) from None
    ftrace_profile(register.task.kernel).set(bool(value))
    iocb.ki_pos += len(text)
    return len(text)


ftrace_profile_fops = FileOperations(read_iter=ftrace_profile_read, write_iter=ftrace_profile_write,
                                     llseek=generic_file_llseek)


def function_stat_show(m: SeqFile, v: Any) -> int | None:
    """trace_stat/functionN: one line for each function, the longest first."""
    kernel = register.task.kernel
    seq_puts(m, b"  Function                               Hit    Time            Avg             s^2\n"
                b"  --------                               ---    ----            ---             ---\n")
    stat = ftrace_profile(kernel).stats[m.private]
    for record in sorted(stat.values(), key=lambda r: (-r.time, r.ip)):
        counter = record.counter
        spread = counter * record.time_squared - record.time * record.time
        # divided by 1000 once here and once in the column: ns^2 to us^2
        deviation = spread // (counter * (counter - 1) * 1000) if counter > 1 else 0
        columns = "    ".join(trace_print_graph_duration(ns) for ns in (record.time, record.time // counter, deviation))
        name = sprint_symbol_no_offset(kernel, record.ip)
        seq_puts(m, f"  {name:<30.30}  {counter:10d}    {columns}\n".encode())
    return None


def tracing_stat_open(inode: Inode, file: File) -> None:
    single_open(file, function_stat_show, inode.i_private)


tracing_stat_fops = FileOperations(open=tracing_stat_open, read_iter=seq_read, llseek=seq_lseek, release=single_release)
