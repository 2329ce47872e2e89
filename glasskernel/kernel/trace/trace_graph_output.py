"""The text of the function_graph tracer.

Linux: the printing half of kernel/trace/trace_functions_graph.c (5.3). Same: every column, byte for byte. Differs: a
    printer gets records and answers text; whoever reads the buffer is in trace_functions_graph.py.
Owns: GraphPrinter (one for each reader). Context: task.
"""
from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from glasskernel.kernel.kallsyms import kallsyms_table, sprint_symbol_no_offset
from glasskernel.kernel.trace.fgraph import FTRACE_RETFUNC_DEPTH
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.trace.trace import TraceEntry

(TRACE_GRAPH_PRINT_OVERRUN, TRACE_GRAPH_PRINT_CPU, TRACE_GRAPH_PRINT_OVERHEAD, TRACE_GRAPH_PRINT_PROC,
 TRACE_GRAPH_PRINT_DURATION, TRACE_GRAPH_PRINT_ABS_TIME, TRACE_GRAPH_PRINT_IRQS, TRACE_GRAPH_PRINT_TAIL,
 TRACE_GRAPH_SLEEP_TIME, TRACE_GRAPH_GRAPH_TIME) = (1 << bit for bit in range(10))
GRAPH_OPTIONS = {
    "funcgraph-overrun": TRACE_GRAPH_PRINT_OVERRUN, "funcgraph-cpu": TRACE_GRAPH_PRINT_CPU,
    "funcgraph-overhead": TRACE_GRAPH_PRINT_OVERHEAD, "funcgraph-proc": TRACE_GRAPH_PRINT_PROC,
    "funcgraph-duration": TRACE_GRAPH_PRINT_DURATION, "funcgraph-abstime": TRACE_GRAPH_PRINT_ABS_TIME,
    "funcgraph-irqs": TRACE_GRAPH_PRINT_IRQS, "funcgraph-tail": TRACE_GRAPH_PRINT_TAIL,
    "sleep-time": TRACE_GRAPH_SLEEP_TIME, "graph-time": TRACE_GRAPH_GRAPH_TIME,
}
GRAPH_DEFAULT = (TRACE_GRAPH_PRINT_CPU | TRACE_GRAPH_PRINT_OVERHEAD | TRACE_GRAPH_PRINT_DURATION
                 | TRACE_GRAPH_PRINT_IRQS | TRACE_GRAPH_SLEEP_TIME | TRACE_GRAPH_GRAPH_TIME)
# __irq_entry: the functions of .irqentry.text
IRQ_ENTRIES = ("do_IRQ", "smp_apic_timer_interrupt", "smp_reschedule_interrupt", "smp_call_function_interrupt",
               "smp_call_function_single_interrupt", "smp_spurious_interrupt", "smp_error_interrupt",
               "smp_x86_platform_ipi", "smp_irq_work_interrupt")
_MARKS = ((1_000_000_000, "$"), (100_000_000, "@"), (10_000_000, "*"), (1_000_000, "#"), (100_000, "!"), (10_000, "+"))
_INDENT = "  "
ENT = struct.Struct("<Qi")                        # funcgraph_entry: func, depth
RET = struct.Struct("<QQQQi")                     # funcgraph_exit: func, overrun, calltime, rettime, depth


@notrace
def irq_entries() -> dict[int, None]:
    """The addresses of the functions that interrupts enter."""
    by_name = kallsyms_table().by_name
    return {by_name[name].address: None for name in IRQ_ENTRIES if name in by_name}


class GraphRecord(Protocol):
    """One record of a buffer, as a reader sees it. payload: without the common fields."""

    @property
    def cpu(self) -> int: ...
    @property
    def ts(self) -> int: ...
    @property
    def pid(self) -> int: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def entry(self) -> TraceEntry | None: ...


@slotted
class FgraphCpuData:
    """struct fgraph_cpu_data"""

    last_pid: int = -1
    depth: int = 0
    depth_irq: int = -1
    enter_funcs: list[int] = field(default_factory=lambda: [0] * FTRACE_RETFUNC_DEPTH)


class GraphPrinter:
    """Turns records into text. comm(pid) -> name; lat(entry) -> the four letters of latency-format; None: not in it.

    context_info: off with nocontext-info: no columns at all.
    """

    def __init__(self, kernel: Kernel, comm: Callable[[int], str]) -> None:
        self.kernel = kernel
        self.comm = comm
        self.flags = GRAPH_DEFAULT
        self.context_info = True
        self.lat: Callable[[TraceEntry], str] | None = None
        self.cpus = [FgraphCpuData() for _ in kernel.machine.cpus]
        self.cpu_width = len(str(len(kernel.machine.cpus) - 1))
        self.irq_entries = irq_entries()
        self.names: dict[int, str] = {}

    @notrace
    def headers(self) -> str:
        """print_graph_headers_flags(): the two lines, and latency-format's before them."""
        if not self.context_info:
            return ""
        flags = self.flags
        lines = ""
        if self.lat is not None:
            pad = " " * (16 * bool(flags & TRACE_GRAPH_PRINT_ABS_TIME) + 4 * bool(flags & TRACE_GRAPH_PRINT_CPU)
                         + 17 * bool(flags & TRACE_GRAPH_PRINT_PROC))
            for text in ("  _-----=> irqs-off        ", " / _----=> need-resched    ", "| / _---=> hardirq/softirq ",
                         "|| / _--=> preempt-depth   ", "||| /                      "):
                lines += f"#{pad}{text}\n"
        columns = (
            (flags & TRACE_GRAPH_PRINT_ABS_TIME, "     TIME       ", "      |         "),
            (flags & TRACE_GRAPH_PRINT_CPU, " CPU", " |  "),
            (flags & TRACE_GRAPH_PRINT_PROC, "  TASK/PID       ", "   |    |        "),
            (self.lat is not None, "||||   ", "||||   "),
            (flags & TRACE_GRAPH_PRINT_DURATION, "  DURATION   ", "   |   |      "),
            (True, "               FUNCTION CALLS\n", "               |   |   |   |\n"),
        )
        return (lines + "#" + "".join(first for on, first, _ in columns if on)
                + "#" + "".join(second for on, _, second in columns if on))

    @notrace
    def name(self, address: int) -> str:
        if address not in self.names:
            self.names[address] = sprint_symbol_no_offset(self.kernel, address)
        name: str = self.names[address]
        return name

    @notrace
    def entry(self, record: GraphRecord, leaf: GraphRecord | None) -> str:
        """print_graph_entry(). leaf: the return that follows at once (see is_leaf()), which this prints, too."""
        func, depth = ENT.unpack_from(record.payload)
        if self.check_irq_entry(record.cpu, func, depth):
            return ""
        text = self.prologue(record, func, True)
        data = self.cpus[record.cpu]
        if leaf is None:
            data.depth = depth
            if 0 <= depth < FTRACE_RETFUNC_DEPTH:
                data.enter_funcs[depth] = func
            return f"{text}{self.fill('              |  ')}{_INDENT * depth}{self.name(func)}() {{\n"
        _, _, calltime, rettime, _ = RET.unpack_from(leaf.payload)
        data.depth = depth - 1
        if 0 <= depth < FTRACE_RETFUNC_DEPTH:
            data.enter_funcs[depth] = 0
        return (f"{text}{self.duration(rettime - calltime)}{_INDENT * depth}{self.name(func)}();\n"
                + self.irq(record, func, False))

    @notrace
    def is_leaf(self, record: GraphRecord, following: GraphRecord) -> bool:
        """get_return_for_leaf(): whether the next record of the same CPU, a return, is that of this call."""
        same: bool = ENT.unpack_from(record.payload)[0] == RET.unpack_from(following.payload)[0]
        return same and record.pid == following.pid

    @notrace
    def exit(self, record: GraphRecord) -> str:
        """print_graph_return()"""
        func, overrun, calltime, rettime, depth = RET.unpack_from(record.payload)
        if self.check_irq_return(record.cpu, depth):
            return ""
        data = self.cpus[record.cpu]
        data.depth = depth - 1
        matches = True
        if 0 <= depth < FTRACE_RETFUNC_DEPTH:
            matches = data.enter_funcs[depth] == func
            data.enter_funcs[depth] = 0
        indent: str = _INDENT * depth
        text = self.prologue(record, 0, False) + self.duration(rettime - calltime) + indent
        if matches and not self.flags & TRACE_GRAPH_PRINT_TAIL:
            text += "}\n"
        else:
            text += f"}} /* {self.name(func)} */\n"
        if self.flags & TRACE_GRAPH_PRINT_OVERRUN:
            text += f" (Overruns: {overrun})\n"
        return text + self.irq(record, func, False)

    @notrace
    def comment(self, record: GraphRecord, message: str) -> str:
        """print_graph_comment(): any other record. message: `name: its fields`, or the text of a print."""
        depth = self.cpus[record.cpu].depth
        indent = _INDENT * (depth + 1) if depth > 0 else ""
        text = self.prologue(record, 0, False) + self.fill("              |  ") + indent
        return f"{text}/* {message.removesuffix(chr(10))} */\n"

    # ---- columns --------------------------------------------------------------------------------------------------
    @notrace
    def check_irq_entry(self, cpu: int, func: int, depth: int) -> bool:
        """With nofuncgraph-irqs: whether the call is an interrupt, or lies inside one."""
        data = self.cpus[cpu]
        if self.flags & TRACE_GRAPH_PRINT_IRQS:
            return False
        if data.depth_irq < 0:
            if func not in self.irq_entries:
                return False
            data.depth_irq = depth
        return True

    @notrace
    def check_irq_return(self, cpu: int, depth: int) -> bool:
        data = self.cpus[cpu]
        if self.flags & TRACE_GRAPH_PRINT_IRQS or data.depth_irq == -1:
            return False
        if data.depth_irq >= depth:
            data.depth_irq = -1
        return True

    @notrace
    def prologue(self, record: GraphRecord, func: int, is_entry: bool) -> str:
        """print_graph_prologue(): a change of task, the arrow of an interrupt, and the columns."""
        text = self.verif_pid(record.cpu, record.pid)
        if is_entry:
            text += self.irq(record, func, True)
        return text + self.columns(record)

    @notrace
    def columns(self, record: GraphRecord) -> str:
        if not self.context_info:
            return ""
        flags = self.flags
        text = ""
        if flags & TRACE_GRAPH_PRINT_ABS_TIME:
            text += f"{record.ts // 1_000_000_000:5d}.{record.ts % 1_000_000_000 // 1000:06d} |  "
        if flags & TRACE_GRAPH_PRINT_CPU:
            text += self.cpu(record.cpu)
        if flags & TRACE_GRAPH_PRINT_PROC:
            text += self.proc(record.pid) + " | "
        if self.lat is not None and record.entry is not None:
            text += f" {self.lat(record.entry)} | "
        return text

    @notrace
    def cpu(self, cpu: int) -> str:
        return f" {cpu:{self.cpu_width}d}) "

    @notrace
    def proc(self, pid: int) -> str:
        """print_graph_proc(): comm-pid in the middle of 14 columns."""
        text = f"{self.comm(pid)[:7]}-{pid}"
        spaces = max(14 - len(text), 0)
        return " " * (spaces // 2) + text + " " * (spaces - spaces // 2)

    @notrace
    def verif_pid(self, cpu: int, pid: int) -> str:
        """The lines of a context switch, when another task than before runs on the CPU."""
        data = self.cpus[cpu]
        before, data.last_pid = data.last_pid, pid
        if before in (pid, -1):
            return ""
        line = " " + "-" * 42 + "\n"
        return f"{line}{self.cpu(cpu)}{self.proc(before)} => {self.proc(pid)}\n{line}\n"

    @notrace
    def irq(self, record: GraphRecord, func: int, is_entry: bool) -> str:
        """print_graph_irq(): the arrow before and behind what an interrupt does."""
        if func not in self.irq_entries:
            return ""
        arrow = "==========>" if is_entry else "<=========="
        return f"{self.columns(record)}{self.fill('  ')}{arrow}{self.fill(' |')}\n"

    @notrace
    def fill(self, spaces: str) -> str:
        return spaces if self.flags & TRACE_GRAPH_PRINT_DURATION and self.context_info else ""

    @notrace
    def duration(self, ns: int) -> str:
        """print_graph_duration()"""
        if not (self.flags & TRACE_GRAPH_PRINT_DURATION and self.context_info):
            return ""
        mark = trace_find_mark(ns) if self.flags & TRACE_GRAPH_PRINT_OVERHEAD else " "
        return f"{mark} {trace_print_graph_duration(ns)}|  "


def trace_find_mark(ns: int) -> str:
    """How long is long: + over 10 us, ! over 100 us, # over 1 ms, * over 10 ms, @ over 100 ms, $ over 1 s."""
    for limit, mark in _MARKS:
        if ns > limit:
            return mark
    return " "


def trace_print_graph_duration(ns: int) -> str:
    """`12.345 us `, at most seven digits, in eleven columns at least."""
    us, rest = divmod(max(ns, 0), 1000)
    text = str(us)
    if len(text) < 7:
        text += "." + f"{rest:03d}"[:max(min(5, 8 - len(text)) - 1, 0)]
    return f"{text} us " + " " * (8 - len(text))
