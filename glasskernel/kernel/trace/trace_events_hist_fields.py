"""What a histogram reads of an event: fields, time stamps, variables, sums of them.

Linux: the hist_field half of kernel/trace/trace_events_hist.c (5.3). Same: modifiers, common_timestamp, cpu, `$var` of
    the same or of another event's histogram, + and - (three levels, what follows an operator is read first), a variable
    that an expression reads is used up, errors and where they point.
Owns: HistField, HistVar, VarRef, HistScope. Context: parsing in a task's, reading in any.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.trace.stacktrace import stack_trace_save
from glasskernel.kernel.trace.trace_events_filter import (
    _field_reader,
    _integer,
    _is_string,
    _string_reader,
    tracing_log_err,
)
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import U64_MAX, notrace

if TYPE_CHECKING:
    from glasskernel.kernel.trace.trace import TraceArray, TraceEventFile

FIELD_NOT_FOUND = "Couldn't find field"
BAD_FIELD_MODIFIER = "Invalid field modifier"
VAR_NOT_FOUND = "Couldn't find variable"
VAR_NOT_UNIQUE = "Variable name not unique, need to use fully qualified name (subsys.event.var) for variable"
TOO_MANY_SUBEXPR = "Too many subexpressions (3 max)"
TIMEUNIT_MISMATCH = "Time units in expression don't match"
UNARY_MINUS_SUBEXPR = "Invalid unary minus"       # Linux has no text for it

HIST_STACKTRACE_DEPTH = 16
SUBEXPR_MAX = 3
_MODIFIERS = ("hex", "sym", "sym-offset", "execname", "syscall", "log2", "usecs")


@slotted
class HistField:
    """struct hist_field. read(payload): its value in a record. spec: as a trigger line shows it.

    kind: field, stacktrace, cpu, timestamp, var_ref or expr. usecs: 1 or 0 for a time, None for what is none.
    """

    name: str
    modifier: str
    read: Callable[[bytes], Any]
    is_string: bool = False
    is_signed: bool = False
    kind: str = "field"
    type: str = "u64"
    usecs: int | None = None
    ref: VarRef | None = None

    @property
    def spec(self) -> str:
        if self.kind == "var_ref":
            return f"${self.name}"
        return f"{self.name}.{self.modifier}" if self.modifier else self.name


@slotted
class HistVar:
    """A variable of a histogram: each of its entries has a value of it, or none yet."""

    name: str
    value: HistField


@slotted
class VarRef:
    """A use of a variable. owner: the HistTriggerData that sets it. read_once: to be set again before the next use."""

    owner: Any
    index: int
    name: str
    read_once: bool = False


@slotted
class HistScope:
    """What the fields of one histogram share while an event is looked at: its time, the values of the variables."""

    file: TraceEventFile
    command: str                                  # what is being parsed
    ts: int = 0
    refs: list[VarRef] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    uses_time: bool = False
    owner: Any = None


@notrace
def hist_vars(tr: TraceArray) -> list[Any]:
    """The histograms of a trace array that have variables, in the order in which they were made."""
    found: list[Any] = tr.data.setdefault("hist_vars", [])
    return found


# ---- errors ------------------------------------------------------------------------------------------------------
@notrace
def hist_err(file: TraceEventFile, command: str, error: str, what: str) -> KernelError:
    """Notes in the error log what is wrong, and where."""
    call = file.call
    tracing_log_err(file.tr.state, f"hist:{call.system}:{call.name}", f"hist:{command}", error,
                    max(f"hist:{command}".find(what), 0))
    return KernelError(EINVAL)


# ---- fields ------------------------------------------------------------------------------------------------------
@notrace
def _log2(read: Callable[[bytes], int]) -> Callable[[bytes], int]:
    """hist_field_log2(): of the next power of two."""
    return lambda payload: max((read(payload) & U64_MAX) - 1, 0).bit_length()


@notrace
def create_hist_field(scope: HistScope, text: str, is_key: bool, strings: bool = False) -> HistField:
    """NAME[.modifier]. strings: one is welcome though it is no key. Errors: EINVAL."""
    file, command = scope.file, scope.command
    name, dot, modifier = text.partition(".")
    kernel = file.tr.kernel
    if is_key and text == "stacktrace":
        return HistField(name, "", lambda _payload: tuple(stack_trace_save(kernel, 1)[:HIST_STACKTRACE_DEPTH]),
                         kind="stacktrace")
    if dot and (modifier not in _MODIFIERS or (modifier == "execname" and name != "common_pid")):
        raise hist_err(file, command, BAD_FIELD_MODIFIER, modifier)
    if name == "common_timestamp":
        scope.uses_time = True
        if modifier == "usecs":
            return HistField(name, modifier, lambda _payload: scope.ts // 1000, kind="timestamp", usecs=1)
        return HistField(name, modifier, lambda _payload: scope.ts, kind="timestamp", usecs=0)
    found = next((f for f in file.call.fields if f.name == name), None)
    kind, c_type = "field", found.type if found is not None else "int"
    if found is None:
        other = _integer(file.call, name)
        if other is None:
            raise hist_err(file, command, FIELD_NOT_FOUND, text)
        read, size, signed = other
        if name == "cpu":
            kind, c_type = "cpu", "unsigned int"
        elif name != "common_pid":
            c_type = {2: "unsigned short", 1: "unsigned char"}.get(size, "int")
    elif _is_string(found):
        if (not is_key and not strings) or modifier:
            raise KernelError(EINVAL)
        return HistField(name, "", _string_reader(found), is_string=True, type=c_type)
    elif found.kind != "int":
        raise KernelError(EINVAL)
    else:
        read, signed = _field_reader(found), found.is_signed
    if modifier == "log2":
        read, signed = _log2(read), False
    return HistField(name, modifier, read, is_signed=signed, kind=kind, type=c_type)


# ---- variables ---------------------------------------------------------------------------------------------------
@notrace
def find_event_var(scope: HistScope, system: str, event: str, name: str) -> tuple[Any, int] | None:
    """(the histogram that sets it, its number): one of this histogram first. Errors: EINVAL, several have it."""
    own = scope.owner
    if own is not None and not system:
        for index, variable in enumerate(own.vars):
            if variable.name == name:
                return own, index
    found = [(data, index) for data in hist_vars(scope.file.tr) for index, variable in enumerate(data.vars)
             if variable.name == name and system in ("", data.file.call.system) and event in ("", data.file.call.name)]
    if len(found) > 1:
        raise hist_err(scope.file, scope.command, VAR_NOT_UNIQUE, name)
    return found[0] if found else None


@notrace
def create_var_ref(scope: HistScope, owner: Any, index: int) -> HistField:
    """A use of a variable."""
    variable: HistVar = owner.vars[index]
    ref = next((r for r in scope.refs if r.owner is owner and r.index == index), None)
    if ref is None:
        ref = VarRef(owner, index, variable.name)
        scope.refs.append(ref)
        scope.values.append(0)
    number = scope.refs.index(ref)
    value = variable.value
    return HistField(variable.name, "", lambda _payload: scope.values[number], value.is_string, value.is_signed,
                     "var_ref", value.type, value.usecs, ref)


@notrace
def parse_var_ref(scope: HistScope, text: str) -> HistField:
    """`$var`, `$system.event.var`. Errors: EINVAL."""
    words = text[1:].split(".")
    if len(words) not in (1, 3):
        raise hist_err(scope.file, scope.command, VAR_NOT_FOUND, text)
    system, event, name = words if len(words) == 3 else ("", "", words[0])
    found = find_event_var(scope, system, event, name)
    if found is None:
        raise hist_err(scope.file, scope.command, VAR_NOT_FOUND, text)
    return create_var_ref(scope, *found)


# ---- expressions -------------------------------------------------------------------------------------------------
@notrace
def _operator(text: str) -> int:
    """Where the first + or - is that is an operator; -1: none is. `.sym-offset` has none."""
    at = next((i for i, c in enumerate(text) if c in "+-"), -1)
    return -1 if at >= 4 and text[at - 4 :].startswith(".sym-offset") else at


@notrace
def parse_expr(scope: HistScope, text: str, is_key: bool = False, level: int = 0) -> HistField:
    """A field, a variable, or a sum or difference. Errors: EINVAL."""
    if level > SUBEXPR_MAX:
        raise hist_err(scope.file, scope.command, TOO_MANY_SUBEXPR, text)
    at = _operator(text)
    if at < 0:
        if text.startswith("$"):
            return parse_var_ref(scope, text)
        return create_hist_field(scope, text, is_key, level == 0)
    if at == 0:
        return _parse_unary(scope, text, level)
    left, right = parse_expr(scope, text[:at], False, level + 1), parse_expr(scope, text[at + 1 :], False, level + 1)
    if left.is_string or right.is_string:
        raise KernelError(EINVAL)
    if left.usecs is not None and right.usecs is not None and left.usecs != right.usecs:
        raise hist_err(scope.file, scope.command, TIMEUNIT_MISMATCH, text)
    for operand in (left, right):
        if operand.ref is not None:
            operand.ref.read_once = True
    read_left, read_right = left.read, right.read
    name = f"{left.spec}{text[at]}{right.spec}"
    usecs = left.usecs if left.usecs is not None else right.usecs
    if text[at] == "+":
        return HistField(name, "", lambda payload: read_left(payload) + read_right(payload) & U64_MAX, kind="expr",
                         usecs=usecs)
    return HistField(name, "", lambda payload: read_left(payload) - read_right(payload) & U64_MAX, kind="expr",
                     usecs=usecs)


@notrace
def _parse_unary(scope: HistScope, text: str, level: int) -> HistField:
    """-(EXPRESSION)"""
    inner = text[1:]
    if text[0] != "-" or not (inner.startswith("(") and inner.endswith(")")):
        raise hist_err(scope.file, scope.command, UNARY_MINUS_SUBEXPR, text)
    operand = parse_expr(scope, inner[1:-1], False, level + 1)
    if operand.is_string:
        raise KernelError(EINVAL)
    if operand.ref is not None:
        operand.ref.read_once = True
    read = operand.read
    return HistField(f"-({operand.spec})", "", lambda payload: -read(payload) & U64_MAX, kind="expr",
                     usecs=operand.usecs)
