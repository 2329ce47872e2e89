"""Histograms of events: `echo 'hist:keys=call_site.sym:vals=bytes_req:sort=bytes_req.descending' > .../trigger`.

Linux: kernel/trace/trace_events_hist.c, tracing_map.c (5.3). Same: keys (three at most), values, modifiers, sort, size,
    pause, continue and clear, filters, the text of the hist file, entries that find no room are dropped and counted,
    enable_hist and disable_hist, histograms that several events share by a name, variables (one value in each entry,
    found by the key), clock=, actions; opening a trigger file with O_TRUNC removes its histograms unless somebody uses
    their variables.
Differs: entries that sort alike keep the order in which they came. A common field's value is the running task's.
Owns: HistTriggerData (TraceEventFile.triggers). Context: writing and reading in a task's, triggers in any.
Fields and expressions: trace_events_hist_fields.py; actions: trace_events_hist_actions.py.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from functools import cmp_to_key
from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.syscalls_64 import SYSCALL_NAMES
from glasskernel.kernel.current import register
from glasskernel.kernel.kallsyms import sprint_symbol, sprint_symbol_no_offset, syscall_source_name
from glasskernel.kernel.trace.trace import TRACE_CLOCKS, tracing_set_clock
from glasskernel.kernel.trace.trace_events_files import files_of
from glasskernel.kernel.trace.trace_events_filter import FilterParseError, create_event_filter, kstrtoull
from glasskernel.kernel.trace.trace_events_hist_actions import ActionData, action_create, is_action, parse_action
from glasskernel.kernel.trace.trace_events_hist_fields import (
    HistField,
    HistScope,
    HistVar,
    hist_err,
    hist_vars,
    parse_expr,
)
from glasskernel.kernel.trace.trace_events_trigger import (
    TRIGGER_COMMANDS,
    EventCommand,
    EventTriggerData,
    trace_event_trigger_enable_disable,
)
from glasskernel.lib.errno import EBUSY, EEXIST, EINVAL, ENOENT, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import U64_MAX, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.trace.trace import TraceEventFile, TraceState
    from glasskernel.kernel.trace.trace_events_filter import Predicate

INVALID_REF_KEY = "Using variable references in keys not supported"
DUPLICATE_VAR = "Variable already defined"
TOO_MANY_VARS = "Too many variables defined"
MALFORMED_ASSIGNMENT = "Malformed assignment"
NAMED_MISMATCH = "Named hist trigger doesn't match existing named trigger (includes variables)"
TRIGGER_EEXIST = "Hist trigger already exists"
TRIGGER_ENOENT_CLEAR = "Can't clear or continue a nonexistent hist trigger"

TRACING_MAP_KEYS_MAX, TRACING_MAP_VALS_MAX, TRACING_MAP_SORT_KEYS_MAX = 3, 3, 2
TRACING_MAP_VARS_MAX, HIST_ACTIONS_MAX = 16, 8
TRACING_MAP_BITS_DEFAULT, TRACING_MAP_BITS_MIN, TRACING_MAP_BITS_MAX = 11, 7, 17
_CONDITION = re.compile(r"^(.*?)[ \t]+if[ \t]+(.*)$", re.S)


@slotted
class HistEntry:
    """struct tracing_map_elt. sums[0] is the hit count."""

    key: tuple[Any, ...]
    sums: list[int]
    comm: bytes = b""                             # of the task that came first, for .execname
    vars: list[Any] = field(default_factory=list)                    # None: not set
    tracks: dict[int, Any] = field(default_factory=dict)             # by the action's number: TrackState


@slotted
class HistMap:
    """struct tracing_map, and its counters. Triggers of one name share it."""

    entries: dict[tuple[Any, ...], HistEntry] = field(default_factory=dict)
    hits: int = 0
    drops: int = 0


@slotted
class HistTriggerData:
    """struct hist_trigger_data, and the event_trigger_data around it."""

    cmd: EventCommand
    keys: list[HistField]
    vals: list[HistField]                         # without hitcount
    sort: list[tuple[str, bool]]                  # (field, descending)
    map_bits: int
    file: TraceEventFile
    scope: HistScope
    vars: list[HistVar] = field(default_factory=list)
    actions: list[ActionData] = field(default_factory=list)
    clock: str = "global"
    filter: Predicate | None = None
    filter_str: str = ""
    paused: bool = False
    target: TraceEventFile | None = None          # as event_trigger_data has one: never set
    map: HistMap = field(default_factory=HistMap)
    name: str = ""

    @notrace
    def before(self, file: TraceEventFile, payload: bytes) -> None:
        """event_hist_trigger()"""
        if self.paused or (self.filter is not None and not self.filter(payload)):
            return
        scope = self.scope
        if scope.uses_time:
            scope.ts = file.tr.clock(file.tr.kernel, register.task.cpu)
        key = tuple([f.read(payload) for f in self.keys])
        if scope.refs and not self.resolve_var_refs(key, False):
            return
        table = self.map
        entry = table.entries.get(key)
        if entry is None:
            if len(table.entries) >= 1 << self.map_bits:
                table.drops += 1
                return
            entry = table.entries[key] = HistEntry(key, [0] * (len(self.vals) + 1), register.task.comm,
                                                   [None] * len(self.vars))
        table.hits += 1
        sums = entry.sums
        sums[0] += 1
        for index, value in enumerate(self.vals, 1):
            sums[index] = sums[index] + value.read(payload) & U64_MAX
        for index, variable in enumerate(self.vars):
            entry.vars[index] = variable.value.read(payload)
        if self.actions and self.resolve_var_refs(key, True):
            for number, action in enumerate(self.actions):
                action.run(number, file, entry, payload)

    @notrace
    def resolve_var_refs(self, key: tuple[Any, ...], own: bool) -> bool:
        """The variables of this histogram, or of others, under this key. False: one has no value."""
        values = self.scope.values
        for index, ref in enumerate(self.scope.refs):
            owner: HistTriggerData = ref.owner
            if (owner is self) != own:
                continue
            entry = owner.map.entries.get(key)
            if entry is None or entry.vars[ref.index] is None:
                return False
            values[index] = entry.vars[ref.index]
            if ref.read_once and not own:
                entry.vars[ref.index] = None
        return True

    @notrace
    def after(self, file: TraceEventFile, payload: bytes) -> None:
        return None

    @notrace
    def clear(self) -> None:
        self.map.entries.clear()
        self.map.hits = self.map.drops = 0

    @notrace
    def line(self) -> str:
        """event_hist_trigger_print()"""
        sort = ",".join(name + (".descending" if descending else "") for name, descending in self.sort)
        keys = ",".join(f.spec for f in self.keys)
        vals = ",".join(["hitcount", *[f.spec for f in self.vals]])
        variables = ":" + ",".join(f"{v.name}={v.value.spec}" for v in self.vars) if self.vars else ""
        clock = f":clock={self.clock}" if self.scope.uses_time else ""
        actions = "".join(action.line() for action in self.actions)
        condition = f" if {self.filter_str}" if self.filter_str else ""
        name = f"{self.name}:" if self.name else ""
        return (f"hist:{name}keys={keys}:vals={vals}{variables}:sort={sort}"
                f":size={1 << self.map_bits}{clock}{actions}"
                f"{condition} [{'paused' if self.paused else 'active'}]\n")

    @notrace
    def matches(self, other: HistTriggerData, ignore_filter: bool = False) -> bool:
        """hist_trigger_match()"""
        return (self.name == other.name and self.sort == other.sort
                and [f.spec for f in self.keys] == [f.spec for f in other.keys]
                and [f.spec for f in self.vals] == [f.spec for f in other.vals]
                and (ignore_filter or self.filter_str == other.filter_str)
                and [(v.name, v.value.spec) for v in self.vars] == [(v.name, v.value.spec) for v in other.vars]
                and [a.line() for a in self.actions] == [a.line() for a in other.actions])

    @property
    def is_used(self) -> bool:
        """check_var_refs(): somebody else reads its variables."""
        return any(ref.owner is self for data in hist_vars(self.file.tr) if data is not self for ref in data.scope.refs)

    @notrace
    def forget(self) -> None:
        """destroy_hist_data()"""
        for action in self.actions:
            if action.synth is not None:
                action.synth.ref -= 1
        known = hist_vars(self.file.tr)
        if self in known:
            known.remove(self)


# ---- parsing -----------------------------------------------------------------------------------------------------
@notrace
def _sort_keys(text: str, keys: list[HistField], vals: list[HistField]) -> list[tuple[str, bool]]:
    """create_sort_keys(). Errors: EINVAL."""
    known = {"hitcount": "hitcount"} | {f.name: f.spec for f in (*vals, *keys)}
    found = []
    for word in text.split(","):
        name, _, order = word.partition(".")
        if name not in known or order not in ("", "ascending", "descending"):
            raise KernelError(EINVAL)
        found.append((known[name], order == "descending"))
    if len(found) > TRACING_MAP_SORT_KEYS_MAX:
        raise KernelError(EINVAL)
    return found


@notrace
def _map_bits(text: str) -> int:
    """parse_map_size(). Errors: EINVAL."""
    try:
        size = kstrtoull(text)
    except ValueError:
        raise KernelError(EINVAL) from None
    bits = max(size - 1, 0).bit_length()
    if not TRACING_MAP_BITS_MIN <= bits <= TRACING_MAP_BITS_MAX:
        raise KernelError(EINVAL)
    return bits


@notrace
def _key(scope: HistScope, text: str) -> HistField:
    """create_key_field(). Errors: EINVAL."""
    key = parse_expr(scope, text, True)
    if key.kind == "var_ref":
        raise hist_err(scope.file, scope.command, INVALID_REF_KEY, text)
    return key


@notrace
def _val(scope: HistScope, text: str) -> HistField:
    """create_val_field(). Errors: EINVAL."""
    value = parse_expr(scope, text)
    if value.is_string:
        raise KernelError(EINVAL)
    return value


def create_var_fields(data: HistTriggerData, definitions: list[str], remove: bool) -> None:
    """`ts0=common_timestamp.usecs,prio=next_prio`. Errors: EINVAL."""
    scope = data.scope
    others = [other for other in hist_vars(scope.file.tr) if other.file is scope.file]
    for text in definitions:
        name, equals, expression = text.partition("=")
        if not equals or not name or not expression:
            raise hist_err(scope.file, scope.command, MALFORMED_ASSIGNMENT, text)
        if not remove and any(v.name == name for other in (data, *others) for v in other.vars):
            raise hist_err(scope.file, scope.command, DUPLICATE_VAR, name)
        if len(data.vars) >= TRACING_MAP_VARS_MAX:
            raise hist_err(scope.file, scope.command, TOO_MANY_VARS, name)
        data.vars.append(HistVar(name, parse_expr(scope, expression)))


@notrace
def parse_hist_trigger(file: TraceEventFile, text: str, remove: bool) -> tuple[HistTriggerData, dict[str, bool]]:
    """(the histogram, which of pause, cont, clear was said). Errors: EINVAL."""
    match = _CONDITION.match(text)
    command, condition = (match[1].strip(), match[2].strip()) if match is not None else (text, "")
    scope = HistScope(file, command)
    data = HistTriggerData(TRIGGER_COMMANDS["hist"], [], [], [], TRACING_MAP_BITS_DEFAULT, file, scope)
    scope.owner = data
    sort, said = "hitcount", {"pause": False, "cont": False, "clear": False}
    keys, vals, definitions, actions = "", "", [], []
    for part in command.split(":"):
        name, equals, value = part.partition("=")
        if equals and name in ("key", "keys"):
            keys = value
        elif equals and name in ("val", "vals", "values"):
            vals = value
        elif equals and name == "sort":
            sort = value
        elif equals and name == "size":
            data.map_bits = _map_bits(value)
        elif equals and name == "clock":
            data.clock = value
        elif is_action(part):
            actions.append(part)
        elif part in ("pause", "cont", "continue", "clear"):
            said["cont" if part == "continue" else part] = True
        elif equals and name == "name":
            if not value.isidentifier():
                raise KernelError(EINVAL)
            data.name = value
        elif equals and name:
            definitions += value_list(part)
        else:
            raise KernelError(EINVAL)
    data.keys = [_key(scope, word) for word in keys.split(",")] if keys else []
    data.vals = [_val(scope, word) for word in vals.split(",") if word != "hitcount"] if vals else []
    if not data.keys or len(data.keys) > TRACING_MAP_KEYS_MAX or len(data.vals) >= TRACING_MAP_VALS_MAX:
        raise KernelError(EINVAL)
    create_var_fields(data, definitions, remove)
    data.sort = _sort_keys(sort, data.keys, data.vals)
    if len(actions) > HIST_ACTIONS_MAX:
        raise KernelError(EINVAL)
    data.actions = [parse_action(data, action) for action in actions]
    data.paused = said["pause"]
    if condition:
        try:
            data.filter, data.filter_str = create_event_filter(file.call, condition), condition
        except FilterParseError:
            raise KernelError(EINVAL) from None
    return data, said


@notrace
def value_list(text: str) -> list[str]:
    """parse_var_defs(): several variables may be defined at once."""
    return [word for word in text.split(",") if word]


@notrace
def hist_triggers(file: TraceEventFile) -> list[HistTriggerData]:
    return [data for data in file.triggers if isinstance(data, HistTriggerData)]


@notrace
def named_triggers(file: TraceEventFile, data: HistTriggerData) -> list[HistTriggerData]:
    """All histograms of this name, of any event and trace array."""
    return [other for tr in file.tr.state.trace_arrays for each in files_of(tr) for other in hist_triggers(each)
            if other.name == data.name]


@notrace
def find_named_trigger(file: TraceEventFile, data: HistTriggerData) -> HistTriggerData | None:
    found = named_triggers(file, data)
    return found[0] if found else None


@notrace
def _remove(file: TraceEventFile, data: HistTriggerData) -> None:
    data.forget()
    file.triggers.remove(data)
    trace_event_trigger_enable_disable(file, False)


def event_hist_trigger_func(file: TraceEventFile, remove: bool, text: str) -> None:
    """What follows `hist:` in a line. Errors: EINVAL, EEXIST, ENOENT, EBUSY."""
    data, said = parse_hist_trigger(file, text, remove)
    named = find_named_trigger(file, data) if data.name else None
    if named is not None and not named.matches(data, True):
        raise hist_err(file, data.scope.command, NAMED_MISMATCH, data.name)
    other = next((d for d in hist_triggers(file) if d.matches(data)), None)
    if remove:
        if other is not None:
            if other.is_used:
                raise KernelError(EBUSY)
            _remove(file, other)
        return
    if other is not None:
        if not any(said.values()):
            hist_err(file, text, TRIGGER_EEXIST, "")
            raise KernelError(EEXIST)
        if said["pause"] or said["cont"]:
            for each in named_triggers(file, other) if other.name else [other]:
                each.paused = said["pause"]
        else:
            other.clear()
        return
    if said["cont"] or said["clear"]:
        hist_err(file, text, TRIGGER_ENOENT_CLEAR, "")
        raise KernelError(ENOENT)
    if named is not None:
        data.map, data.map_bits = named.map, named.map_bits
    try:
        for action in data.actions:
            action_create(data, action)
        if data.scope.uses_time and TRACE_CLOCKS[file.tr.clock_id][0] != data.clock:
            tracing_set_clock(file.tr, data.clock)
    except KernelError:
        data.forget()
        raise
    if data.vars or data.scope.refs:
        hist_vars(file.tr).append(data)
    file.triggers.insert(0, data)
    trace_event_trigger_enable_disable(file, True)


def hist_unreg_all(file: TraceEventFile) -> None:
    """The trigger file is opened with O_TRUNC."""
    if any(data.is_used for data in hist_triggers(file)):
        return
    for data in hist_triggers(file):
        _remove(file, data)


def hist_forget_all(file: TraceEventFile) -> None:
    """Its trace array goes."""
    for data in hist_triggers(file):
        _remove(file, data)


def hist_enable_trigger(file: TraceEventFile, data: EventTriggerData) -> bool:
    """enable_hist, disable_hist: the histograms of another event."""
    assert data.target is not None
    for other in hist_triggers(data.target):
        other.paused = data.cmd.name == "disable_hist"
    return True


# ---- the hist file -----------------------------------------------------------------------------------------------
@notrace
def _key_text(kernel: Kernel, key: HistField, value: Any, entry: HistEntry) -> str:
    name, modifier = key.name, key.modifier
    if name == "stacktrace" and isinstance(value, tuple):
        return "stacktrace:\n" + "".join(f"{'':9}{sprint_symbol(kernel, address)}\n" for address in value)
    if key.is_string:
        return f"{name}: {value.decode('latin-1'):<50}"
    number = value & U64_MAX
    if modifier == "hex":
        return f"{name}: {number:x}"
    if modifier == "sym":
        return f"{name}: [{number:x}] {sprint_symbol_no_offset(kernel, number):<45}"
    if modifier == "sym-offset":
        return f"{name}: [{number:x}] {sprint_symbol(kernel, number):<55}"
    if modifier == "execname":
        return f"{name}: {entry.comm.decode('latin-1'):<16}[{number:10}]"
    if modifier == "syscall":
        known = SYSCALL_NAMES.get(number)
        return f"{name}: {'sys_' + syscall_source_name(known) if known else 'unknown_syscall':<30}[{number:3}]"
    if modifier == "log2":
        return f"{name}: ~ 2^{number:<2}"
    return f"{name}: {number:10}"


@notrace
def _entry_text(kernel: Kernel, data: HistTriggerData, entry: HistEntry) -> str:
    text = f"{_keys_text(kernel, data, entry)} hitcount: {entry.sums[0]:10}"
    for value, total in zip(data.vals, entry.sums[1:], strict=True):
        if value.kind == "expr":
            continue
        text += f"  {value.name}: {f'{total:x}' if value.modifier == 'hex' else total:>10}"
    return text + "".join(action.text(number, entry) for number, action in enumerate(data.actions)) + "\n"


@notrace
def _keys_text(kernel: Kernel, data: HistTriggerData, entry: HistEntry) -> str:
    """hist_trigger_print_key()"""
    keys = ", ".join(_key_text(kernel, k, v, entry) for k, v in zip(data.keys, entry.key, strict=True))
    return f"{{ {keys}{'' if keys.endswith(chr(10)) else ' '}}}"


@notrace
def _snapshot_text(kernel: Kernel, data: HistTriggerData) -> str:
    """track_data_snapshot_print()"""
    action = next((a for a in data.actions if a.snapshot_key is not None), None)
    if action is None:
        return ""
    return ("\nSnapshot taken (see tracing/snapshot).  Details:\n"
            f"\ttriggering value {{ {action.handler}({action.subject}) }}: {action.snapshot_value:10}"
            f"\ttriggered by event with key: {_keys_text(kernel, data, action.snapshot_entry)}\n")


@notrace
def _sorted(data: HistTriggerData) -> list[HistEntry]:
    """tracing_map_sort_entries()"""
    readers: list[tuple[Callable[[HistEntry], Any], bool]] = []
    names = ["hitcount", *[f.spec for f in data.vals]]
    for name, descending in data.sort:
        if name in names:
            index = names.index(name)
            readers.append((lambda entry, index=index: entry.sums[index], descending))  # type: ignore[misc]
        else:
            index = [f.spec for f in data.keys].index(name)
            readers.append((lambda entry, index=index: entry.key[index], descending))  # type: ignore[misc]

    def compare(a: HistEntry, b: HistEntry) -> int:
        for read, descending in readers:
            left, right = read(a), read(b)
            if left != right:
                return -1 if (left < right) != descending else 1
        return 0

    return sorted(data.map.entries.values(), key=cmp_to_key(compare))


@notrace
def hist_show(file: TraceEventFile) -> str:
    """events/S/E/hist"""
    texts = []
    for data in reversed(hist_triggers(file)):
        entries = "".join(_entry_text(file.tr.kernel, data, entry) for entry in _sorted(data))
        texts.append(f"# event histogram\n#\n# trigger info: {data.line()}#\n\n{entries}"
                     f"{_snapshot_text(file.tr.kernel, data)}\nTotals:\n"
                     f"    Hits: {data.map.hits}\n    Entries: {len(data.map.entries)}\n"
                     f"    Dropped: {data.map.drops}\n")
    return "\n\n".join(texts)


@notrace
def init_hist_triggers(state: TraceState) -> None:
    state.filter_ops |= {"hist": event_hist_trigger_func, "hist_show": hist_show, "hist_enable": hist_enable_trigger,
                         "trigger_clear": hist_unreg_all, "hist_forget": hist_forget_all}
