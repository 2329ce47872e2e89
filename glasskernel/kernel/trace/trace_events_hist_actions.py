"""What histograms do: `onmatch(sched.sched_waking).wakeup_latency($lat,next_pid)`, `onmax($lat).save(next_comm)`.

Linux: the actions of kernel/trace/trace_events_hist.c (5.3). Same: onmatch, onmax, onchange; trace() and the name of a
    synthetic event, save(), snapshot(); a parameter that the event has not is taken from the matching event, by a
    histogram there that is made for it; parameters have exactly the types of the synthetic event's fields.
Owns: ActionData, TrackState. Context: parsing in a task's, run() in any.
"""
from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.trace.trace import tracing_alloc_snapshot_instance, tracing_snapshot_instance
from glasskernel.kernel.trace.trace_events_hist_fields import (
    HistField,
    create_hist_field,
    create_var_ref,
    find_event_var,
    hist_err,
    hist_vars,
)
from glasskernel.kernel.trace.trace_events_synth import SynthEvent, find_synth_event, trace_synth
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import U64_MAX, notrace

if TYPE_CHECKING:
    from glasskernel.kernel.trace.trace import TraceEventFile

ACTION_NOT_FOUND = "No action following handler"
NO_SAVE_PARAMS = "No params found for save()"
NO_CLOSING_PAREN = "No closing paren found"
SUBSYS_NOT_FOUND = "Missing subsystem"
INVALID_SUBSYS_EVENT = "Invalid subsystem or event name"
ACTION_MISMATCH = "Handler doesn't support action"
SYNTH_EVENT_NOT_FOUND = "Couldn't find synthetic event"
PARAM_NOT_FOUND = "Couldn't find param"
SYNTH_COUNT_MISMATCH = "Param count doesn't match synthetic event field count"
SYNTH_TYPE_MISMATCH = "Param type doesn't match synthetic event field type"
ONX_NOT_VAR = "Not an onmax or onchange variable"
ONX_VAR_NOT_FOUND = "Couldn't find onmax or onchange variable"
EVENT_FILE_NOT_FOUND = "Event file not found"
HIST_NOT_FOUND = "Matching event histogram not found"

_ACTION = re.compile(r"(onmatch|onmax|onchange)\(([^()]*)\)(.*)$", re.S)


@slotted
class TrackState:
    """What onmax and onchange remember of one entry. saved: by save()."""

    value: int = 0
    saved: list[Any] = field(default_factory=list)


@slotted
class ActionData:
    """struct action_data. handler: onmatch, onmax or onchange; action: trace, save or snapshot.

    subject: what stands between the handler's parentheses. reads: the parameters. track: the variable that is watched.
    """

    handler: str
    subject: str
    action: str
    action_name: str
    params: list[str]
    synth: SynthEvent | None = None
    reads: list[HistField] = field(default_factory=list)
    track: HistField | None = None
    snapshot_value: int = 0                       # of snapshot(): of all entries
    snapshot_key: tuple[Any, ...] | None = None
    snapshot_entry: Any = None

    @notrace
    def line(self) -> str:
        """print_actions_spec()"""
        return f":{self.handler}({self.subject}).{self.action_name}({','.join(self.params)})"

    @notrace
    def changed(self, old: int, new: int) -> bool:
        """check_track_val_max(), check_track_val_changed()"""
        return new > old if self.handler == "onmax" else new != old

    @notrace
    def run(self, number: int, file: TraceEventFile, entry: Any, payload: bytes) -> None:
        """Its entry has been updated."""
        if self.track is None:
            action_trace(self, payload)
            return
        state: TrackState | None = entry.tracks.get(number)
        value = self.track.read(payload) & U64_MAX
        if not self.changed(state.value if state is not None else 0, value):
            return                                # ontrack_action()
        if state is None:
            state = entry.tracks[number] = TrackState()
        state.value = value
        if self.action == "save":
            state.saved = [f.read(payload) for f in self.reads]
        elif self.action == "snapshot":
            save_track_data_snapshot(self, file, entry, value)
        else:
            action_trace(self, payload)

    @notrace
    def text(self, number: int, entry: Any) -> str:
        """track_data_print()"""
        if self.track is None or self.action == "snapshot":
            return ""
        state: TrackState = entry.tracks.get(number, TrackState())
        text = f"\n\t{'max' if self.handler == 'onmax' else 'changed'}: {state.value:10}"
        if self.action == "save":
            saved = state.saved or [b"" if f.is_string else 0 for f in self.reads]
            for f, value in zip(self.reads, saved, strict=True):
                text += (f"  {f.name}: {value.decode('latin-1'):<32}" if f.is_string
                         else f"  {f.name}: {value & U64_MAX:10}")
        return text


def action_trace(action: ActionData, payload: bytes) -> None:
    assert action.synth is not None
    trace_synth(action.synth, [f.read(payload) for f in action.reads])


def save_track_data_snapshot(action: ActionData, file: TraceEventFile, entry: Any, value: int) -> None:
    """A snapshot is taken if no other entry has seen more."""
    if action.snapshot_key is None or action.changed(action.snapshot_value, value):
        action.snapshot_value, action.snapshot_key, action.snapshot_entry = value, entry.key, entry
        tracing_snapshot_instance(file.tr)


# ---- parsing -----------------------------------------------------------------------------------------------------
@notrace
def is_action(text: str) -> bool:
    return text.startswith(("onmatch(", "onmax(", "onchange("))


@notrace
def parse_action(data: Any, text: str) -> ActionData:
    """HANDLER(SUBJECT).ACTION(PARAMETERS) of a histogram whose keys and variables are known. Errors: EINVAL."""
    scope = data.scope
    match = _ACTION.match(text)
    if match is None:
        raise hist_err(scope.file, scope.command, NO_CLOSING_PAREN, text)
    handler, subject, rest = match[1], match[2].strip(), match[3]
    if not rest.startswith("."):
        raise hist_err(scope.file, scope.command, ACTION_NOT_FOUND, rest)
    name, paren, params = rest[1:].partition("(")
    name = name.strip()
    if not name or not paren:
        raise hist_err(scope.file, scope.command, ACTION_NOT_FOUND, rest)
    inside, close, _ = params.partition(")")
    if not close:
        raise hist_err(scope.file, scope.command, NO_CLOSING_PAREN, params)
    words = [word.strip() for word in inside.split(",") if word.strip()]
    kind = name if name in ("save", "snapshot") else "trace"
    action = ActionData(handler, subject, kind, name, words)
    if kind == "save" and not words:
        raise hist_err(scope.file, scope.command, NO_SAVE_PARAMS, name)
    if kind != "trace" and handler == "onmatch":
        raise hist_err(scope.file, scope.command, ACTION_MISMATCH, name)
    return action


def action_create(data: Any, action: ActionData) -> None:
    """Finds what an action refers to. Errors: EINVAL."""
    scope = data.scope
    system = event = ""
    if action.handler == "onmatch":
        system, _, event = action.subject.partition(".")
        if not event:
            raise hist_err(scope.file, scope.command, SUBSYS_NOT_FOUND, action.subject)
        if event not in scope.file.tr.events.get(system, {}):
            raise hist_err(scope.file, scope.command, INVALID_SUBSYS_EVENT, action.subject)
    else:
        track_data_create(data, action)
    if action.action == "trace":
        trace_action_create(data, action, system, event)
    elif action.action == "save":
        action.reads = [create_hist_field(scope, word, False, True) for word in action.params]
    else:
        tracing_alloc_snapshot_instance(scope.file.tr)


def track_data_create(data: Any, action: ActionData) -> None:
    """The variable of onmax($var), onchange($var): one of this histogram. Errors: EINVAL."""
    scope = data.scope
    if not action.subject.startswith("$"):
        raise hist_err(scope.file, scope.command, ONX_NOT_VAR, action.subject)
    index = next((i for i, v in enumerate(data.vars) if v.name == action.subject[1:]), -1)
    if index < 0:
        raise hist_err(scope.file, scope.command, ONX_VAR_NOT_FOUND, action.subject)
    action.track = create_var_ref(scope, data, index)


def trace_action_create(data: Any, action: ActionData, system: str, event: str) -> None:
    """Errors: EINVAL."""
    scope = data.scope
    params = list(action.params)
    name = action.action_name
    shown = f"{name}("                            # what an error points at
    if name == "trace":                           # the first parameter names the event
        shown = name = params.pop(0) if params else ""
    synth = find_synth_event(scope.file.tr.state, name)
    if synth is None:
        raise hist_err(scope.file, scope.command, SYNTH_EVENT_NOT_FOUND, shown)
    for number, word in enumerate(params):
        if word.startswith("$"):
            value = trace_action_find_var(data, system, event, word)
        else:
            value = trace_action_create_field_var(data, system, event, word)
        if number < len(synth.fields):
            check_synth_field(data, synth, number, value, word)
        action.reads.append(value)
    if len(params) != len(synth.fields):
        raise hist_err(scope.file, scope.command, SYNTH_COUNT_MISMATCH, shown)
    action.synth = synth
    synth.ref += 1


@notrace
def check_synth_field(data: Any, synth: SynthEvent, number: int, value: HistField, word: str) -> None:
    """Errors: EINVAL."""
    wanted = synth.fields[number]
    if wanted.type != value.type and not (wanted.is_string and value.is_string):
        raise hist_err(data.scope.file, data.scope.command, SYNTH_TYPE_MISMATCH, word)


def trace_action_find_var(data: Any, system: str, event: str, word: str) -> HistField:
    """$var: of this histogram, else of one of the matching event. Errors: EINVAL."""
    scope = data.scope
    index = next((i for i, v in enumerate(data.vars) if v.name == word[1:]), -1)
    if index >= 0:
        return create_var_ref(scope, data, index)
    words = word[1:].split(".")
    if len(words) == 3:
        system, event = words[0], words[1]
    found = find_event_var(scope, system, event, words[-1])
    if found is None:
        raise hist_err(scope.file, scope.command, PARAM_NOT_FOUND, word)
    return create_var_ref(scope, *found)


def trace_action_create_field_var(data: Any, system: str, event: str, word: str) -> HistField:
    """A field of this event, else of the matching one. Errors: EINVAL."""
    scope = data.scope
    if word.partition(".")[0] == "common_timestamp" or any(f.name == word for f in scope.file.call.fields):
        return create_hist_field(scope, word, False, True)
    if not event:
        raise hist_err(scope.file, scope.command, PARAM_NOT_FOUND, word)
    return create_field_var_hist(data, system, event, word)


def create_field_var_hist(data: Any, system: str, event: str, word: str) -> HistField:
    """A histogram of the matching event that remembers one of its fields, with the keys of the one that is there."""
    scope = data.scope
    tr = scope.file.tr
    file = tr.events.get(system, {}).get(event)
    if file is None:
        raise hist_err(scope.file, scope.command, EVENT_FILE_NOT_FOUND, event)
    name = f"synthetic_{word}"
    found = find_event_var(scope, system, event, name)
    if found is None:
        other = find_compatible_hist(data, file)
        if other is None:
            raise hist_err(scope.file, scope.command, HIST_NOT_FOUND, word)
        keys = ",".join(f.spec for f in other.keys)
        condition = f" if {other.filter_str}" if other.filter_str else ""
        try:
            tr.state.filter_ops["hist"](file, False, f"keys={keys}:{name}={word}{condition}")
        except KernelError:
            raise hist_err(scope.file, scope.command, PARAM_NOT_FOUND, word) from None
        found = find_event_var(scope, system, event, name)
    if found is None:
        raise KernelError(EINVAL)
    return create_var_ref(scope, *found)


@notrace
def find_compatible_hist(data: Any, file: TraceEventFile) -> Any:
    """A histogram with variables whose keys are like those of `data`."""
    for other in hist_vars(file.tr):
        if (other.file is file and [(k.is_string, k.modifier) for k in other.keys]
                == [(k.is_string, k.modifier) for k in data.keys]):
            return other
    return None
