"""Histograms of events: `echo 'hist:keys=call_site.sym:vals=bytes_req:sort=bytes_req.descending' > .../trigger`.

Linux: kernel/trace/trace_events_hist.c, tracing_map.c (5.3). Same: keys (three at most), values, modifiers, sort, size,
    pause, continue and clear, filters, the text of the hist file, entries that find no room are dropped and counted,
    enable_hist and disable_hist, opening a trigger file with O_TRUNC removes its histograms.
Differs: entries that sort alike keep the order in which they came. A common field's value is the running task's.
Owns: HistTriggerData (TraceEventFile.triggers). Context: writing and reading in a task's, triggers in any.
Gaps: variables, expressions, onmatch() and its like, common_timestamp, clock=, name=: EINVAL; synthetic events.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from functools import cmp_to_key
from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.syscalls_64 import SYSCALL_NAMES
from glasskernel.kernel.current import register
from glasskernel.kernel.kallsyms import sprint_symbol, sprint_symbol_no_offset, syscall_source_name
from glasskernel.kernel.trace.stacktrace import stack_trace_save
from glasskernel.kernel.trace.trace_events_filter import (
    FilterParseError,
    _field_reader,
    _integer,
    _is_string,
    _string_reader,
    create_event_filter,
    kstrtoull,
    tracing_log_err,
)
from glasskernel.kernel.trace.trace_events_trigger import (
    TRIGGER_COMMANDS,
    EventCommand,
    EventTriggerData,
    trace_event_trigger_enable_disable,
)
from glasskernel.lib.errno import EEXIST, EINVAL, ENOENT, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import U64_MAX, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.trace.trace import TraceEventFile, TraceState
    from glasskernel.kernel.trace.trace_events_filter import Predicate

FIELD_NOT_FOUND = "Couldn't find field"
BAD_FIELD_MODIFIER = "Invalid field modifier"
TRIGGER_EEXIST = "Hist trigger already exists"
TRIGGER_ENOENT_CLEAR = "Can't clear or continue a nonexistent hist trigger"

TRACING_MAP_KEYS_MAX, TRACING_MAP_VALS_MAX, TRACING_MAP_SORT_KEYS_MAX = 3, 3, 2
TRACING_MAP_BITS_DEFAULT, TRACING_MAP_BITS_MIN, TRACING_MAP_BITS_MAX = 11, 7, 17
HIST_STACKTRACE_DEPTH = 16
_MODIFIERS = ("hex", "sym", "sym-offset", "execname", "syscall", "log2")
_CONDITION = re.compile(r"^(.*?)[ \t]+if[ \t]+(.*)$", re.S)


@slotted
class HistField:
    """struct hist_field. read(payload): its value in a record. spec: as it was written; modifier: "" or a word."""

    name: str
    modifier: str
    read: Callable[[bytes], Any]
    is_string: bool = False
    is_signed: bool = False

    @property
    def spec(self) -> str:
        return f"{self.name}.{self.modifier}" if self.modifier else self.name


@slotted
class HistEntry:
    """struct tracing_map_elt. sums[0] is the hit count."""

    key: tuple[Any, ...]
    sums: list[int]
    comm: bytes = b""                             # of the task that came first, for .execname


@slotted
class HistTriggerData:
    """struct hist_trigger_data, and the event_trigger_data around it."""

    cmd: EventCommand
    keys: list[HistField]
    vals: list[HistField]                         # without hitcount
    sort: list[tuple[str, bool]]                  # (field, descending)
    map_bits: int
    filter: Predicate | None = None
    filter_str: str = ""
    paused: bool = False
    target: TraceEventFile | None = None          # as event_trigger_data has one: never set
    map: dict[tuple[Any, ...], HistEntry] = field(default_factory=dict)
    hits: int = 0
    drops: int = 0

    @notrace
    def before(self, file: TraceEventFile, payload: bytes) -> None:
        """event_hist_trigger()"""
        if self.paused or (self.filter is not None and not self.filter(payload)):
            return
        key = tuple([f.read(payload) for f in self.keys])
        entry = self.map.get(key)
        if entry is None:
            if len(self.map) >= 1 << self.map_bits:
                self.drops += 1
                return
            entry = self.map[key] = HistEntry(key, [0] * (len(self.vals) + 1), register.task.comm)
        self.hits += 1
        sums = entry.sums
        sums[0] += 1
        for index, value in enumerate(self.vals, 1):
            sums[index] = sums[index] + value.read(payload) & U64_MAX

    @notrace
    def after(self, file: TraceEventFile, payload: bytes) -> None:
        return None

    @notrace
    def clear(self) -> None:
        self.map.clear()
        self.hits = self.drops = 0

    @notrace
    def line(self) -> str:
        """event_hist_trigger_print()"""
        sort = ",".join(name + (".descending" if descending else "") for name, descending in self.sort)
        keys = ",".join(f.spec for f in self.keys)
        vals = ",".join(["hitcount", *[f.spec for f in self.vals]])
        condition = f" if {self.filter_str}" if self.filter_str else ""
        return (f"hist:keys={keys}:vals={vals}:sort={sort}:size={1 << self.map_bits}{condition}"
                f" [{'paused' if self.paused else 'active'}]\n")

    @notrace
    def matches(self, other: HistTriggerData) -> bool:
        """hist_trigger_match()"""
        return ([f.spec for f in self.keys] == [f.spec for f in other.keys] and self.sort == other.sort
                and [f.spec for f in self.vals] == [f.spec for f in other.vals] and self.filter_str == other.filter_str)


# ---- fields ------------------------------------------------------------------------------------------------------
@notrace
def hist_err(file: TraceEventFile, command: str, error: str, what: str) -> KernelError:
    """Notes in the error log what is wrong, and where."""
    call = file.call
    tracing_log_err(file.tr.state, f"hist:{call.system}:{call.name}", f"hist:{command}", error,
                    max(f"hist:{command}".find(what), 0))
    return KernelError(EINVAL)


@notrace
def _log2(read: Callable[[bytes], int]) -> Callable[[bytes], int]:
    """hist_field_log2(): of the next power of two."""
    return lambda payload: max((read(payload) & U64_MAX) - 1, 0).bit_length()


@notrace
def create_hist_field(file: TraceEventFile, command: str, text: str, is_key: bool) -> HistField:
    """NAME[.modifier]. Errors: EINVAL."""
    name, dot, modifier = text.partition(".")
    kernel = file.tr.kernel
    if is_key and text == "stacktrace":
        return HistField(name, "", lambda _payload: tuple(stack_trace_save(kernel, 1)[:HIST_STACKTRACE_DEPTH]))
    if dot and (modifier not in _MODIFIERS or (modifier == "execname" and name != "common_pid")):
        raise hist_err(file, command, BAD_FIELD_MODIFIER, modifier)
    found = next((f for f in file.call.fields if f.name == name), None)
    if found is None:
        other = _integer(file.call, name)
        if other is None:
            raise hist_err(file, command, FIELD_NOT_FOUND, text)
        read, _, signed = other
    elif _is_string(found):
        if not is_key or modifier:
            raise KernelError(EINVAL)
        return HistField(name, "", _string_reader(found), is_string=True)
    elif found.kind != "int":
        raise KernelError(EINVAL)
    else:
        read, signed = _field_reader(found), found.is_signed
    if modifier == "log2":
        read, signed = _log2(read), False
    return HistField(name, modifier, read, is_signed=signed)


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


# ---- parsing -----------------------------------------------------------------------------------------------------
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
def parse_hist_trigger(file: TraceEventFile, text: str) -> tuple[HistTriggerData, dict[str, bool]]:
    """(the histogram, which of pause, cont, clear was said). Errors: EINVAL."""
    match = _CONDITION.match(text)
    command, condition = (match[1].strip(), match[2].strip()) if match is not None else (text, "")
    keys: list[HistField] = []
    vals: list[HistField] = []
    sort, bits, said = "hitcount", TRACING_MAP_BITS_DEFAULT, {"pause": False, "cont": False, "clear": False}
    for part in command.split(":"):
        name, equals, value = part.partition("=")
        if equals and name in ("key", "keys"):
            keys = [create_hist_field(file, command, word, True) for word in value.split(",")]
        elif equals and name in ("val", "vals", "values"):
            vals = [create_hist_field(file, command, word, False) for word in value.split(",") if word != "hitcount"]
        elif equals and name == "sort":
            sort = value
        elif equals and name == "size":
            bits = _map_bits(value)
        elif part in ("pause", "cont", "continue", "clear"):
            said["cont" if part == "continue" else part] = True
        else:
            raise KernelError(EINVAL)
    if not keys or len(keys) > TRACING_MAP_KEYS_MAX or len(vals) >= TRACING_MAP_VALS_MAX:
        raise KernelError(EINVAL)
    data = HistTriggerData(TRIGGER_COMMANDS["hist"], keys, vals, _sort_keys(sort, keys, vals), bits,
                           paused=said["pause"])
    if condition:
        try:
            data.filter, data.filter_str = create_event_filter(file.call, condition), condition
        except FilterParseError:
            raise KernelError(EINVAL) from None
    return data, said


@notrace
def hist_triggers(file: TraceEventFile) -> list[HistTriggerData]:
    return [data for data in file.triggers if isinstance(data, HistTriggerData)]


@notrace
def _remove(file: TraceEventFile, data: HistTriggerData) -> None:
    file.triggers.remove(data)
    trace_event_trigger_enable_disable(file, False)


def event_hist_trigger_func(file: TraceEventFile, remove: bool, text: str) -> None:
    """What follows `hist:` in a line. Errors: EINVAL, EEXIST, ENOENT."""
    data, said = parse_hist_trigger(file, text)
    other = next((d for d in hist_triggers(file) if d.matches(data)), None)
    if remove:
        if other is not None:
            _remove(file, other)
        return
    if other is not None:
        if not any(said.values()):
            hist_err(file, text, TRIGGER_EEXIST, "")
            raise KernelError(EEXIST)
        if said["pause"]:
            other.paused = True
        elif said["cont"]:
            other.paused = False
        else:
            other.clear()
        return
    if said["cont"] or said["clear"]:
        hist_err(file, text, TRIGGER_ENOENT_CLEAR, "")
        raise KernelError(ENOENT)
    file.triggers.insert(0, data)
    trace_event_trigger_enable_disable(file, True)


def hist_unreg_all(file: TraceEventFile) -> None:
    """The trigger file is opened with O_TRUNC."""
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
    keys = ", ".join(_key_text(kernel, k, v, entry) for k, v in zip(data.keys, entry.key, strict=True))
    text = f"{{ {keys}{'' if keys.endswith(chr(10)) else ' '}}} hitcount: {entry.sums[0]:10}"
    for value, total in zip(data.vals, entry.sums[1:], strict=True):
        text += f"  {value.name}: {f'{total:x}' if value.modifier == 'hex' else total:>10}"
    return text + "\n"


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

    return sorted(data.map.values(), key=cmp_to_key(compare))


@notrace
def hist_show(file: TraceEventFile) -> str:
    """events/S/E/hist"""
    texts = []
    for data in reversed(hist_triggers(file)):
        entries = "".join(_entry_text(file.tr.kernel, data, entry) for entry in _sorted(data))
        texts.append(f"# event histogram\n#\n# trigger info: {data.line()}#\n\n{entries}\nTotals:\n"
                     f"    Hits: {data.hits}\n    Entries: {len(data.map)}\n    Dropped: {data.drops}\n")
    return "\n\n".join(texts)


@notrace
def init_hist_triggers(state: TraceState) -> None:
    state.filter_ops |= {"hist": event_hist_trigger_func, "hist_show": hist_show, "hist_enable": hist_enable_trigger,
                         "trigger_clear": hist_unreg_all}
