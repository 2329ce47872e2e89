"""Commands of set_ftrace_filter: what shall happen when a function is called.

Linux: the function probes of kernel/trace/ftrace.c, trace_functions.c, trace.c, trace_events.c (5.3). Same:
    `vfs_read:traceoff:3`, `!vfs_read:traceoff`, the lines that set_ftrace_filter shows, counts for each function.
Differs: what a command does is given by whoever registers it (trace_functions.py).
Owns: FtraceFuncProbe (FtraceInstance.probes). Context: the hooks run in any, the commands in a task's.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING

from glasskernel.kernel.kallsyms import sprint_symbol_no_offset
from glasskernel.kernel.trace.ftrace import (
    FtraceHash,
    FtraceOps,
    register_ftrace_command,
    register_ftrace_function,
    unregister_ftrace_function,
)
from glasskernel.kernel.trace.ftrace_filter import (
    FtraceInstance,
    ftrace_pid_follow_fork,
    ftrace_pid_reset,
    matching,
)
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.trace.trace import TraceArray

UNLIMITED = -1


@dataclass(slots=True, eq=False, repr=False)
class FtraceProbeOps:
    """struct ftrace_probe_ops. func(instance, ip, frame) -> whether it did something, which uses up the count.

    name: as set_ftrace_filter shows it. only_once: the command takes no count and happens once (dump).
    """

    name: str
    func: Callable[[FtraceInstance, int, FrameType], bool]
    only_once: bool = False


@dataclass(slots=True, eq=False, repr=False)
class FtraceFuncProbe:
    """struct ftrace_func_probe: one command of one instance. counts: how often it may still happen, by function."""

    instance: FtraceInstance
    probe_ops: FtraceProbeOps
    counts: dict[int, int] = field(default_factory=dict)
    ops: FtraceOps = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.ops = FtraceOps(self.function_trace_probe_call, self, needs_parent=False)

    @notrace
    def function_trace_probe_call(self, ip: int, parent_ip: int, ops: FtraceOps, frame: FrameType) -> None:
        left = self.counts.get(ip, 0)
        if left and self.probe_ops.func(self.instance, ip, frame) and left > 0:
            self.counts[ip] = left - 1

    @notrace
    def lines(self) -> list[str]:
        """What set_ftrace_filter shows."""
        kernel = self.instance.state.kernel
        return [f"{sprint_symbol_no_offset(kernel, ip)}:{self.probe_ops.name}"
                + (":unlimited" if count == UNLIMITED else f":count={count}") for ip, count in self.counts.items()]


def register_ftrace_function_probe(instance: FtraceInstance, glob: str, ops: FtraceProbeOps, count: int) -> None:
    """ops.func is called by the functions that match. Errors: EINVAL, none does."""
    found = matching(instance.state, glob)
    if not found:
        raise KernelError(EINVAL)
    probe = next((p for p in instance.probes if p.probe_ops.name == ops.name), None)
    if probe is None:
        probe = FtraceFuncProbe(instance, ops)
        instance.probes.append(probe)
    for ip in found:
        if ip not in probe.counts:
            probe.counts[ip] = count
    _apply(instance, probe)


def unregister_ftrace_function_probe_func(instance: FtraceInstance, glob: str, ops: FtraceProbeOps) -> None:
    """The contrary. Errors: EINVAL, nothing like that is set."""
    probe = next((p for p in instance.probes if p.probe_ops.name == ops.name), None)
    gone = [ip for ip in matching(instance.state, glob) if ip in probe.counts] if probe is not None else []
    if probe is None or not gone:
        raise KernelError(EINVAL)
    for ip in gone:
        del probe.counts[ip]
    _apply(instance, probe)
    if not probe.counts:
        instance.probes.remove(probe)


@notrace
def clear_ftrace_function_probes(instance: FtraceInstance) -> None:
    """An instance goes."""
    for probe in instance.probes:
        probe.counts.clear()
        _apply(instance, probe)
    instance.probes.clear()


@notrace
def ftrace_destroy_function_files(tr: TraceArray) -> None:
    """A trace array goes, and with it its commands, its pids and its filter."""
    state = tr.kernel.ftrace
    instance = state.instances.get(tr) if state is not None else None
    if state is None or instance is None:
        return
    clear_ftrace_function_probes(instance)
    ftrace_pid_follow_fork(tr, False)
    ftrace_pid_reset(instance)
    del state.instances[tr]


@notrace
def _apply(instance: FtraceInstance, probe: FtraceFuncProbe) -> None:
    kernel = instance.state.kernel
    if probe.ops.flags:
        unregister_ftrace_function(kernel, probe.ops)
    probe.ops.filter_hash = dict.fromkeys(probe.counts)
    if probe.counts:
        register_ftrace_function(kernel, probe.ops)


def ftrace_trace_probe_callback(instance: FtraceInstance, ops: FtraceProbeOps, glob: str, param: str | None,
                                enable: bool) -> None:
    """`glob:command[:count]`, or with `!` before it. Errors: EINVAL."""
    if not enable:
        raise KernelError(EINVAL)
    if glob.startswith("!"):
        unregister_ftrace_function_probe_func(instance, glob[1:], ops)
        return
    count = UNLIMITED
    if ops.only_once:
        count = 1
    elif param and param.partition(":")[0]:
        try:
            count = int(param.partition(":")[0], 0)
        except ValueError:
            raise KernelError(EINVAL) from None
        if count < 0:
            raise KernelError(EINVAL)
    register_ftrace_function_probe(instance, glob, ops, count)


@notrace
def register_probe_command(kernel: Kernel, ops: FtraceProbeOps) -> None:
    """A command that has the same action whatever its parameter."""
    def command(instance: FtraceInstance, functions: FtraceHash, glob: str, name: str, param: str | None,
                enable: bool) -> None:
        ftrace_trace_probe_callback(instance, ops, glob, param, enable)

    register_ftrace_command(kernel, ops.name, command)
