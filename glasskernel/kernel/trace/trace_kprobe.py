"""Events at kernel functions: `echo 'p:myprobe vfs_read count=$arg3:u64' > kprobe_events`.

Linux: kernel/trace/trace_kprobe.c, trace_dynevent.c (5.3). Same: definitions of kprobe_events, events/kprobes/, the
    lines, kprobe_profile, the error log; a name that is defined again replaces its event; no change while it is on.
Differs: a kprobe is an ftrace hook (as Linux's on an ftrace location), so it can stand at the entry of a function only.
    A function left by an exception returns nothing: $retval is 0.
Owns: TraceKprobe (state.calls[...].data). Context: definitions in a task's, hooks in any.
Gaps: offsets, addresses and MAXACTIVE; kprobe_events with other separators than newlines; see trace_probe.py.
"""
from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any

from glasskernel.fs.tracefs.inode import tracefs_create_file
from glasskernel.kernel.kallsyms import kallsyms_lookup_name, sprint_symbol, sprint_symbol_no_offset
from glasskernel.kernel.trace.fgraph import FtraceRetStack, ftrace_push_return
from glasskernel.kernel.trace.ftrace import (
    FtraceOps,
    ftrace_init,
    ftrace_set_filter_ip,
    register_ftrace_function,
    unregister_ftrace_function,
)
from glasskernel.kernel.trace.stacktrace import caller_address
from glasskernel.kernel.trace.trace import TraceArray, TraceEventFile, TraceState
from glasskernel.kernel.trace.trace_events import TraceEventCall, parse_fields
from glasskernel.kernel.trace.trace_events_files import trace_add_event_call, trace_remove_event_call
from glasskernel.kernel.trace.trace_events_filter import tracing_log_err
from glasskernel.kernel.trace.trace_probe import ProbeArg, ProbeError, traceprobe_parse_probe_arg
from glasskernel.kernel.trace.trace_text import text_file
from glasskernel.lib.errno import EBUSY, EILSEQ, EINVAL, ENOENT, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.simple_tree import TreeNode
    from glasskernel.init.kernel import Kernel

BAD_PROBE_ADDR = "Invalid probed address or symbol"
BAD_RETPROBE = "Retprobe address must be an function entry"
BAD_INSN_BNDRY = "Probe point is not an instruction boundary"
BAD_GROUP_NAME = "Group name must follow the same rules as C identifiers"
BAD_EVENT_NAME = "Event name must follow the same rules as C identifiers"
KPROBE_EVENT_SYSTEM = "kprobes"

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*$")
_WORD = re.compile(r"\S+")


@dataclass(slots=True, eq=False, repr=False)
class TraceKprobe:
    """struct trace_kprobe. files: the trace arrays in which it is on."""

    state: TraceState
    symbol: str
    ip: int
    is_return: bool
    args: list[ProbeArg]
    call: TraceEventCall = None  # type: ignore[assignment]
    ops: FtraceOps = None  # type: ignore[assignment]
    files: list[TraceEventFile] = field(default_factory=list)
    nhit: int = 0

    @notrace
    def kprobe_dispatcher(self, ip: int, parent_ip: int, ops: FtraceOps, frame: FrameType) -> None:
        if self.is_return:
            ftrace_push_return(frame, ip, self.kretprobe_dispatcher)
            return
        self.record([self.ip], frame, None)

    @notrace
    def kretprobe_dispatcher(self, call: FtraceRetStack, value: Any) -> None:
        if self.files:                            # else it was switched off meanwhile
            self.record([self.ip, caller_address(call.frame.f_back, self.symbol)], call.frame, value)

    @notrace
    def record(self, head: list[int], frame: FrameType, value: Any) -> None:
        self.nhit += 1
        values = (*head, *[arg.value(frame, value) for arg in self.args])
        for file in tuple(self.files):
            if file.probe is not None:
                file.probe(*values)

    @notrace
    def definition(self) -> str:
        args = "".join(f" {arg.name}={arg.comm}" for arg in self.args)
        return f"{'r' if self.is_return else 'p'}:{self.call.system}/{self.call.name} {self.symbol}{args}\n"


@dataclass(slots=True, eq=False, repr=False)
class KprobeEvent(TraceEventCall):
    """An event whose text Linux draws without its print fmt."""

    def trace(self, kernel: Kernel, payload: bytes | memoryview) -> str:
        """print_kprobe_event(), print_kretprobe_event()"""
        probe: TraceKprobe = self.data
        record = self.unpack(payload)
        args = "".join(f" {arg.name}={arg.text(record[arg.name])}" for arg in probe.args)
        if probe.is_return:
            where = (f"{sprint_symbol(kernel, record['__probe_ret_ip'])} <- "
                     f"{sprint_symbol_no_offset(kernel, record['__probe_func'])}")
        else:
            where = sprint_symbol(kernel, record["__probe_ip"])
        return f"{self.name}: ({where}){args}"


@notrace
def _assign(*values: Any) -> tuple[Any, ...]:
    return values


@notrace
def _event_of(probe: TraceKprobe, group: str, name: str) -> KprobeEvent:
    """The event: its fields and its print fmt."""
    if probe.is_return:
        fields, text = ["unsigned long __probe_func", "unsigned long __probe_ret_ip"], "(%lx <- %lx)"
    else:
        fields, text = ["unsigned long __probe_ip"], "(%lx)"
    references = ["REC->" + f.split()[-1] for f in fields] + [arg.reference for arg in probe.args]
    text += "".join(f" {arg.name}={arg.format}" for arg in probe.args)
    return KprobeEvent(
        group, name, parse_fields("; ".join(fields + [arg.declaration for arg in probe.args])),
        f'"{text}", {", ".join(references)}', _assign, register=kprobe_register, data=probe)


def kprobe_register(file: TraceEventFile, on: bool) -> None:
    """The event goes on or off in one trace array."""
    probe: TraceKprobe = file.call.data
    kernel = probe.state.kernel
    if on:
        probe.files.append(file)
        if len(probe.files) == 1:
            register_ftrace_function(kernel, probe.ops)
        return
    probe.files.remove(file)
    if not probe.files:
        unregister_ftrace_function(kernel, probe.ops)


# ---- definitions -------------------------------------------------------------------------------------------------
@notrace
def trace_kprobes(state: TraceState) -> list[TraceKprobe]:
    """All of them, in the order in which they were defined."""
    return [call.data for call in state.calls.values() if isinstance(call, KprobeEvent)]


@notrace
def _find(state: TraceState, group: str, name: str) -> TraceKprobe | None:
    return next((p for p in trace_kprobes(state) if p.call.name == name and group in ("", p.call.system)), None)


def unregister_trace_kprobe(state: TraceState, probe: TraceKprobe) -> None:
    """Errors: EBUSY, it is on somewhere."""
    if probe.files:
        raise KernelError(EBUSY)
    trace_remove_event_call(state, probe.call)


@notrace
def _names(head: str, default_group: str) -> tuple[str, str]:
    """(group, event) of `p:group/event`; the event is "" where none is given. Raises ProbeError."""
    text = head.partition(":")[2]
    group, slash, event = text.partition("/")
    if not slash:
        group, event = default_group, text
    elif not _IDENTIFIER.match(group):
        raise ProbeError(BAD_GROUP_NAME, 2)
    if event and not _IDENTIFIER.match(event):
        raise ProbeError(BAD_EVENT_NAME, 2 + (len(group) + 1 if slash else 0))
    return group, event


def trace_kprobe_create(state: TraceState, command: str) -> None:
    """One definition, or `-:[GROUP/]EVENT`. Errors: EINVAL, ENOENT, EBUSY, EILSEQ."""
    words = [(m.start(), m.group()) for m in _WORD.finditer(command)]
    head = words[0][1]
    try:
        if head.startswith("-:"):
            group, event = _names(head, "")
            probe = _find(state, group, event)
            if probe is None:
                raise KernelError(ENOENT)
            unregister_trace_kprobe(state, probe)
            return
        if head[0] not in "pr" or head[1:2] not in ("", ":") or len(words) < 2:
            raise KernelError(EINVAL)
        __trace_kprobe_create(state, words)
    except ProbeError as error:
        tracing_log_err(state, "trace_kprobe", command, error.error, error.pos)
        code = ENOENT if error.error == BAD_PROBE_ADDR else EILSEQ if error.error == BAD_INSN_BNDRY else EINVAL
        raise KernelError(code) from None


@notrace
def __trace_kprobe_create(state: TraceState, words: list[tuple[int, str]]) -> None:
    head, (at, place) = words[0][1], words[1]
    is_return = head[0] == "r"
    group, event = _names(head, KPROBE_EVENT_SYSTEM)
    symbol, plus, offset = place.partition("+")
    ip = kallsyms_lookup_name(state.kernel, symbol)
    if not ip:
        raise ProbeError(BAD_PROBE_ADDR, at)
    if plus and offset not in ("0", "0x0"):
        raise ProbeError(BAD_RETPROBE if is_return else BAD_INSN_BNDRY, at)
    record = ftrace_init(state.kernel).by_ip.get(ip)
    if record is None or record.symbol.code is None:
        raise KernelError(EINVAL)                 # notrace: on Linux's list of functions not to be probed
    args: list[ProbeArg] = []
    for pos, text in words[2:]:
        args.append(traceprobe_parse_probe_arg(text, pos, record.symbol.code, is_return, args))
    event = event or f"{head[0]}_{symbol}_0"
    old = _find(state, group, event)
    if old is not None:
        unregister_trace_kprobe(state, old)
    probe = TraceKprobe(state, symbol, ip, is_return, args)
    probe.ops = FtraceOps(probe.kprobe_dispatcher, probe, needs_parent=False)
    ftrace_set_filter_ip(state.kernel, probe.ops, ip, 0, 0)
    probe.call = _event_of(probe, group, event)
    trace_add_event_call(state, probe.call)


# ---- files -------------------------------------------------------------------------------------------------------
def probes_write(tr: TraceArray, data: bytes) -> None:
    """Commands, one a line; # begins a comment. Those before a bad one hold."""
    for line in data.decode("latin-1").splitlines():
        command = line.partition("#")[0].strip()
        if command:
            trace_kprobe_create(tr.state, command)


def dyn_events_release_all(tr: TraceArray) -> None:
    """The file is opened with O_TRUNC: all go, or none. Errors: EBUSY."""
    probes = trace_kprobes(tr.state)
    if any(probe.files for probe in probes):
        raise KernelError(EBUSY)
    for probe in probes:
        unregister_trace_kprobe(tr.state, probe)


@notrace
def _definitions(tr: TraceArray) -> str:
    return "".join(probe.definition() for probe in trace_kprobes(tr.state))


@notrace
def _profile(tr: TraceArray) -> str:
    return "".join(f"  {p.call.name:<44} {p.nhit:15} {0:15}\n" for p in trace_kprobes(tr.state))


@notrace
def init_kprobe_trace(tr: TraceArray, node: TreeNode) -> None:
    """kprobe_events, dynamic_events, kprobe_profile"""
    events = text_file(_definitions, probes_write, dyn_events_release_all)
    tracefs_create_file("kprobe_events", 0o644, node, tr, events)
    tracefs_create_file("dynamic_events", 0o644, node, tr, events)
    tracefs_create_file("kprobe_profile", 0o444, node, tr, text_file(_profile))
