"""Records what a kernel and its programs do, as it happens, for the host.

The kernel's functions come from its own ftrace (an ftrace_ops, and a return hook for each call), user functions from
the CPU, events from tracepoints. All three are stamped with virtual time.

Invariants: recording changes nothing: the run is the same without it. Kernel threads, PID 1 and what it does before the
first execve are left out: a trace shows the programs. A task's records nest: see Depths.
"""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from glasskernel.fs.d_path import d_path
from glasskernel.fs.types import Dentry, File, Inode, Path
from glasskernel.kernel.current import register
from glasskernel.kernel.kallsyms import kallsyms_table, sprint_symbol_no_offset
from glasskernel.kernel.task import PF_KTHREAD, TaskStruct
from glasskernel.kernel.trace.events import event_calls
from glasskernel.kernel.trace.fgraph import ftrace_push_return
from glasskernel.kernel.trace.ftrace import FtraceOps, register_ftrace_function, unregister_ftrace_function
from glasskernel.kernel.trace.stacktrace import stack_trace_save
from glasskernel.kernel.trace.trace_clock import trace_clock_local
from glasskernel.kernel.tracepoint import tracepoint_probe_register, tracepoint_probe_unregister
from glasskernel.tools.trace.model import (
    ENTER,
    EVENT,
    KERNEL,
    LEAVE,
    USER,
    Call,
    Record,
    Task,
    Trace,
    TraceError,
    calls_of,
)
from glasskernel.tools.user_calls import UserCalls

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.trace.fgraph import FtraceRetStack
    from glasskernel.kernel.trace.trace_events import TraceEventCall
    from glasskernel.tools.symbols import Symbol

MAX_TEXT = 48


@dataclass(slots=True, frozen=True)
class What:
    """What to record.

    only, never: patterns (*, ?, [...]) of functions, kernel and user alike. depth: how many calls deep, 0: all.
    kernel, user: which side. arguments: with what functions were called, and what they answered.
    events: patterns of trace events, `sched` or `sched:sched_switch`; stacks: the same, with the kernel's call stack.
    """

    only: Sequence[str] = ()
    never: Sequence[str] = ()
    depth: int = 0
    kernel: bool = True
    user: bool = True
    arguments: bool = False
    events: Sequence[str] = ()
    stacks: Sequence[str] = ()

    def wants(self, name: str) -> bool:
        """Whether a function is to be recorded."""
        if self.only and not any(fnmatchcase(name, pattern) for pattern in self.only):
            return False
        return not any(fnmatchcase(name, pattern) for pattern in self.never)


class Recorder:
    """Hands every record to `sink`, from now until stop(). Raises TraceError when no function matches."""

    def __init__(self, kernel: Kernel, what: What, sink: Callable[[Record], None]) -> None:
        self._kernel = kernel
        self._what = what
        self._sink = sink
        self._depths: dict[int, int] = {}
        self._last_ns: dict[int, int] = {}
        self._init_mm = kernel.tasks[0].mm
        self.tasks: dict[int, Task] = {}
        self.origin: dict[str, str] = {}
        self._ops: FtraceOps | None = None
        self._calls: UserCalls | None = None
        if what.kernel:
            self._ops = self._kernel_functions()
        self._probes: list[tuple[str, Callable[..., None]]] = []
        self._record_events()
        if what.user:
            self._calls = UserCalls(kernel, self._user_enter, self._user_leave, lambda f: what.wants(f.name))

    def _kernel_functions(self) -> FtraceOps | None:
        self._symbols = {s.address: s for s in kallsyms_table().symbols if s.traceable and self._what.wants(s.name)}
        if not self._symbols:
            if self._what.user:
                return None
            raise TraceError(f"no kernel function matches {' '.join(self._what.only)}")
        ops = FtraceOps(self._kernel_enter, filter_hash=dict.fromkeys(self._symbols), needs_parent=False)
        register_ftrace_function(self._kernel, ops)
        return ops

    def _record_events(self) -> None:
        for pattern in (*self._what.events, *self._what.stacks):
            stack = pattern in self._what.stacks
            calls = [
                call for call in event_calls() if call.tracepoint and call.system != "syscalls" and (
                    call.name == pattern
                    or fnmatchcase(f"{call.system}:{call.name}" if ":" in pattern else call.system, pattern))
            ]
            if not calls:
                raise TraceError(f"no event matches {pattern} (see /sys/kernel/tracing/available_events)")
            for call in calls:
                probe = self._event_probe(call, stack)
                tracepoint_probe_register(self._kernel, call.tracepoint, probe)
                self._probes.append((call.tracepoint, probe))

    def _event_probe(self, call: TraceEventCall, stack: bool) -> Callable[..., None]:
        kernel, name = self._kernel, f"{call.system}:{call.name}"

        def probe(*arguments: object) -> None:
            task = register.task
            if not self._shown(task):
                return
            values = call.assign(*arguments)
            if values is None:
                return
            payload = call.pack(values)
            text = call.print(kernel, payload)
            if stack:
                frames = (sprint_symbol_no_offset(kernel, address) for address in stack_trace_save(kernel, 1))
                text += " <- " + " <- ".join(frames)
            now_ns = trace_clock_local(kernel, task.cpu)
            self._emit(task, now_ns, EVENT, KERNEL, name, text, call.unpack(payload))

        return probe

    def stop(self) -> None:
        """No more records, but the last leaves of user functions."""
        for name, probe in self._probes:
            tracepoint_probe_unregister(self._kernel, name, probe)
        if self._ops is not None:
            unregister_ftrace_function(self._kernel, self._ops)
        if self._calls is not None:
            self._calls.stop()

    def trace(self, records: list[Record], command: Sequence[str]) -> Trace:
        """What was recorded as one object."""
        release = os.fsdecode(self._kernel.tasks[0].nsproxy.uts_ns.release)
        return Trace(list(command), release, len(self._kernel.machine.cpus), self.tasks, records, self.origin)

    # ---- the three sources --------------------------------------------------------------------------------------
    def _shown(self, task: TaskStruct) -> bool:
        return not task.flags & PF_KTHREAD and task.mm is not self._init_mm and task.pid > 1

    def _kernel_enter(self, ip: int, parent_ip: int, ops: FtraceOps, frame: FrameType) -> None:
        task = register.task
        if not self._shown(task):
            return
        depth = self._depths.get(task.pid, 0)
        if self._what.depth and depth >= self._what.depth:
            return
        self._depths[task.pid] = depth + 1
        text = call_text(frame) if self._what.arguments else ""
        self._emit(task, trace_clock_local(self._kernel, task.cpu), ENTER, KERNEL, self._symbols[ip].name, text)
        ftrace_push_return(frame, ip, self._kernel_leave)

    def _kernel_leave(self, call: FtraceRetStack, value: Any) -> None:
        task = register.task
        if not self._depths.get(task.pid):
            return                                       # stop() came in between
        self._depths[task.pid] -= 1
        text = describe(value) if self._what.arguments and value is not None else ""
        self._emit(task, trace_clock_local(self._kernel, task.cpu), LEAVE, KERNEL, self._symbols[call.func].name, text)

    def _user_enter(self, task: TaskStruct, now_ns: int, function: Symbol) -> None:
        depth = self._depths[task.pid] = self._depths.get(task.pid, 0) + 1
        if not self._what.depth or depth <= self._what.depth:
            self.origin.setdefault(function.name, function.file)
            self._emit(task, now_ns, ENTER, USER, function.name)

    def _user_leave(self, task: TaskStruct, now_ns: int, function: Symbol) -> None:
        depth = self._depths.get(task.pid, 1)
        self._depths[task.pid] = depth - 1
        if not self._what.depth or depth <= self._what.depth:
            self._emit(task, now_ns, LEAVE, USER, function.name)

    def _emit(
        self, task: TaskStruct, now_ns: int, kind: str, side: str, name: str, text: str = "",
        fields: dict[str, Any] | None = None,
    ) -> None:
        pid = task.pid
        known = self.tasks.get(pid)
        comm = os.fsdecode(task.comm)
        if known is None:
            self.tasks[pid] = Task(pid, task.tgid, comm)
        elif known.comm != comm:
            known.comm = comm                            # the last name counts: that of the program, not of its shell
        # A function that an exec or an exit ended is left when the next record of its task says so.
        last = self._last_ns.get(pid, 0)
        self._last_ns[pid] = now_ns = max(now_ns, last)
        self._sink(Record(now_ns, task.cpu, pid, kind, side, name, text, fields))


class Recording(Trace):
    """A trace that grows while it is open: `with kernel.trace(functions="vfs_*") as t:`.

    t.records, t.calls(pattern), t.events(pattern), t.save(path); iterating goes over the records so far.
    """

    def __init__(self, kernel: Kernel, what: What, listener: Callable[[Record], None] | None = None) -> None:
        super().__init__()
        self._kernel, self._what, self._listener = kernel, what, listener
        self._recorder: Recorder | None = None

    def __enter__(self) -> Self:
        self._recorder = Recorder(self._kernel, self._what, self._add)
        self.tasks, self.origin = self._recorder.tasks, self._recorder.origin
        self.release = os.fsdecode(self._kernel.tasks[0].nsproxy.uts_ns.release)
        self.cpus = len(self._kernel.machine.cpus)
        return self

    def __exit__(self, *_exception: object) -> None:
        assert self._recorder is not None
        self._recorder.stop()

    def _add(self, record: Record) -> None:
        self.records.append(record)
        if self._listener is not None:
            self._listener(record)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def calls(self, pattern: str = "*") -> list[Call]:
        """Calls of functions that match: name, start_ns, end_ns, text (arguments), children."""
        return list(calls_of(self, pattern))

    def events(self, pattern: str = "*") -> list[Record]:
        """Events `system:name` that match, with their fields by name."""
        return [record for record in self.records if record.kind == EVENT and fnmatchcase(record.name, pattern)]


# ---- arguments -----------------------------------------------------------------------------------------------------
def call_text(frame: FrameType) -> str:
    """name=value of a kernel function's arguments."""
    code = frame.f_code
    values = frame.f_locals
    return ", ".join(
        f"{name}={describe(values[name])}" for name in code.co_varnames[: code.co_argcount] if name in values)


def describe(value: object) -> str:
    """A kernel object in a few letters: a path for a file, a number for a task."""
    try:
        return _describe(value)
    except Exception:                                    # half made, or half gone
        return type(value).__name__


def _describe(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "NULL"
    if isinstance(value, int):
        return str(value) if -4096 < value < 65536 else hex(value & 0xFFFF_FFFF_FFFF_FFFF)
    if isinstance(value, (bytes, str)):
        text = os.fsdecode(value) if isinstance(value, bytes) else value
        shown = "".join(c if c.isprintable() else "." for c in text[:MAX_TEXT])
        return f'"{shown}"' + "..." * (len(text) > MAX_TEXT)
    if isinstance(value, File):
        return os.fsdecode(d_path(value.f_path))
    if isinstance(value, Path):
        return os.fsdecode(d_path(value))
    if isinstance(value, Dentry):
        return os.fsdecode(value.d_name) or "/"
    if isinstance(value, Inode):
        return f"{os.fsdecode(value.i_sb.s_type.name)}:{value.i_ino}"
    if isinstance(value, TaskStruct):
        return f"{os.fsdecode(value.comm)}-{value.pid}"
    if isinstance(value, (list, tuple, dict)):
        return f"[{len(value)}]"
    return type(value).__name__
