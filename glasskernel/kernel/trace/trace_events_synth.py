"""Events that histograms make: `echo 'wakeup_latency u64 lat; pid_t pid; int prio' > synthetic_events`.

Linux: the synthetic events of kernel/trace/trace_events_hist.c (5.3). Same: the file's grammar and text,
    events/synthetic/, fields eight bytes apart, strings of 32 bytes, the text of a line.
Owns: SynthEvent (state.calls[...].data). Context: definitions in a task's, trace_synth() in any.
Gaps: the flags' names of a gfp_t field.
"""
from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from glasskernel.fs.tracefs.inode import tracefs_create_file
from glasskernel.kernel.trace.trace_dynevent import (
    DynEventOperations,
    dyn_event_register,
    dyn_events_release_all,
    trace_parse_run_command,
)
from glasskernel.kernel.trace.trace_events import COMMON_SIZE, FtraceEventField, TraceEventCall, field_at
from glasskernel.kernel.trace.trace_events_files import trace_add_event_call, trace_remove_event_call
from glasskernel.kernel.trace.trace_text import text_file
from glasskernel.lib.errno import EBUSY, ECANCELED, EEXIST, EINVAL, ENOENT, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.simple_tree import TreeNode
    from glasskernel.kernel.trace.trace import TraceArray, TraceEventFile, TraceState

SYNTH_SYSTEM = "synthetic"
SYNTH_FIELDS_MAX = 16
STR_VAR_LEN_MAX = 32

# type -> (size, signed, format)
_TYPES = {
    "s64": (8, True, "%lld"), "u64": (8, False, "%llu"), "s32": (4, True, "%d"), "u32": (4, False, "%u"),
    "s16": (2, True, "%d"), "u16": (2, False, "%u"), "s8": (1, True, "%d"), "u8": (1, False, "%u"),
    "char": (1, True, "%d"), "unsigned char": (1, False, "%u"),
    "int": (4, True, "%d"), "unsigned int": (4, False, "%u"),
    "long": (8, True, "%ld"), "unsigned long": (8, False, "%lu"), "pid_t": (4, True, "%d"), "gfp_t": (4, False, "%x"),
}
_STRING = re.compile(r"char\[(\d+)\]$")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*$")


@slotted
class SynthField:
    """struct synth_field"""

    type: str
    name: str
    is_string: bool

    @property
    def format(self) -> str:
        return "%s" if self.is_string else _TYPES[self.type][2]


@slotted
class SynthEvent:
    """struct synth_event. ref: histograms that raise it. files: the trace arrays in which it is on."""

    name: str
    fields: list[SynthField]
    call: TraceEventCall = None  # type: ignore[assignment]
    ref: int = 0
    files: list[TraceEventFile] = field(default_factory=list)


class SynthEventCall(TraceEventCall):
    """An event whose text Linux draws without its print fmt."""

    __slots__ = ()

    def trace(self, kernel: Any, payload: bytes | memoryview) -> str:
        """print_synth_event()"""
        record = self.unpack(payload)
        words = []
        for f in self.data.fields:
            value = record[f.name]
            shown = value.decode("latin-1") if f.is_string else f"{value:x}" if f.type == "gfp_t" else str(value)
            words.append(f"{f.name}={shown}")
        return f"{self.name}: {' '.join(words)}"


def trace_synth(event: SynthEvent, values: list[Any]) -> None:
    """Raises it."""
    for file in tuple(event.files):
        if file.probe is not None:
            file.probe(*values)


@notrace
def _assign(*values: Any) -> tuple[Any, ...]:
    return tuple(value[: STR_VAR_LEN_MAX - 1] if isinstance(value, bytes) else value for value in values)


@notrace
def synth_register(file: TraceEventFile, on: bool) -> None:
    """The event goes on or off in one trace array."""
    event: SynthEvent = file.call.data
    if on:
        event.files.append(file)
    else:
        event.files.remove(file)


# ---- definitions -------------------------------------------------------------------------------------------------
@notrace
def synth_events(state: TraceState) -> list[SynthEvent]:
    """All of them, in the order in which they were defined."""
    return [call.data for call in state.calls.values() if isinstance(call, SynthEventCall)]


@notrace
def find_synth_event(state: TraceState, name: str) -> SynthEvent | None:
    return next((event for event in synth_events(state) if event.name == name), None)


@notrace
def parse_synth_field(text: str) -> SynthField:
    """`TYPE NAME` or `char NAME[16]`. Errors: EINVAL."""
    words = text.split()
    if len(words) == 3 and words[0] == "unsigned":
        words = [f"unsigned {words[1]}", words[2]]
    if len(words) != 2:
        raise KernelError(EINVAL)
    kind, name = words
    name, bracket, size = name.partition("[")
    if bracket:
        kind += "[" + size
    string = _STRING.match(kind)
    if (string is None and kind not in _TYPES) or not _IDENTIFIER.match(name):
        raise KernelError(EINVAL)
    if string is not None and not 0 < int(string[1]) <= STR_VAR_LEN_MAX:
        raise KernelError(EINVAL)
    return SynthField(kind, name, string is not None)


def register_synth_event(state: TraceState, event: SynthEvent) -> None:
    """Its event, in events/synthetic/."""
    fields: list[FtraceEventField] = []
    offset = COMMON_SIZE
    for f in event.fields:
        if f.is_string:
            fields.append(FtraceEventField(f.type, f.name, offset, STR_VAR_LEN_MAX, True, "string", (1, 1),
                                           f"{f.type} {f.name}"))
            offset += STR_VAR_LEN_MAX
        else:
            size, signed, _ = _TYPES[f.type]
            fields.append(field_at(f.type, f.name, offset, size, signed))
            offset += 8
    text = ", ".join(f"{f.name}={f.format}" for f in event.fields)
    print_fmt = f'"{text}"' + "".join(f", REC->{f.name}" for f in event.fields)
    event.call = SynthEventCall(SYNTH_SYSTEM, event.name, fields, print_fmt, _assign, register=synth_register,
                                data=event)
    end = fields[-1].offset + fields[-1].size
    pack = event.call.pack
    event.call.pack = lambda values: pack(values).ljust(offset - COMMON_SIZE, b"\0") if end < offset else pack(values)
    trace_add_event_call(state, event.call)


def unregister_synth_event(state: TraceState, event: SynthEvent) -> None:
    """Errors: EBUSY, it is on or a histogram raises it."""
    if event.ref or event.files:
        raise KernelError(EBUSY)
    trace_remove_event_call(state, event.call)


def create_or_delete_synth_event(state: TraceState, command: str) -> None:
    """`NAME TYPE FIELD[; TYPE FIELD...]`, or `!NAME`. Errors: EINVAL, EEXIST, ENOENT, EBUSY."""
    name, _, rest = " ".join(command.split()).partition(" ")
    if name.startswith("!"):
        event = find_synth_event(state, name[1:])
        if event is None:
            raise KernelError(ENOENT)
        unregister_synth_event(state, event)
        return
    __create_synth_event(state, name, rest)


@notrace
def __create_synth_event(state: TraceState, name: str, rest: str) -> None:
    """Errors: EEXIST, EINVAL."""
    if find_synth_event(state, name) is not None:
        raise KernelError(EEXIST)
    texts = [text for text in rest.split(";") if text.strip()]
    if not texts or len(texts) > SYNTH_FIELDS_MAX or not _IDENTIFIER.match(name):
        raise KernelError(EINVAL)
    fields = [parse_synth_field(text) for text in texts]
    register_synth_event(state, SynthEvent(name, fields))


def synth_event_create(state: TraceState, command: str) -> None:
    """`s:[synthetic/]NAME ...` of dynamic_events. Errors: ECANCELED (it is none of ours), EINVAL, EEXIST."""
    if not command.startswith("s:"):
        raise KernelError(ECANCELED)
    name, _, rest = " ".join(command[2:].split()).partition(" ")
    name = name.removeprefix(f"{SYNTH_SYSTEM}/")
    if "/" in name:
        raise KernelError(EINVAL)
    __create_synth_event(state, name, rest)


# ---- the file ----------------------------------------------------------------------------------------------------
@notrace
def synth_event_show(event: SynthEvent) -> str:
    return f"{event.name}\t" + "; ".join(f"{f.type} {f.name}" for f in event.fields) + "\n"


synth_event_ops = DynEventOperations(
    SynthEventCall, synth_event_create, lambda event: f"s:{SYNTH_SYSTEM}/{synth_event_show(event)}",
    lambda event: bool(event.ref or event.files), unregister_synth_event)


@notrace
def _definitions(tr: TraceArray) -> str:
    return "".join(synth_event_show(event) for event in synth_events(tr.state))


@notrace
def init_synth_events(tr: TraceArray, node: TreeNode) -> None:
    dyn_event_register(tr.state, synth_event_ops)

    def write(tr: TraceArray, data: bytes) -> None:
        trace_parse_run_command(data, lambda command: create_or_delete_synth_event(tr.state, command))

    tracefs_create_file("synthetic_events", 0o644, node, tr,
                        text_file(_definitions, write, lambda tr: dyn_events_release_all(tr.state, synth_event_ops)))
