"""Filters of trace events: `prev_pid == 1 && prev_comm ~ "ba*"`.

Linux: kernel/trace/trace_events_filter.c (5.3). Same: the grammar, its errors and where the caret points, fields of
    the event before the generic (CPU, comm) and the common ones, a filter that cannot be read replaces the last one,
    filters of a whole subsystem.
Differs: a predicate is a Python closure over a record's bytes instead of a program for a small machine; a filter looks
    at common fields before the record has them, so it asks the running task.
Owns: TraceEventFile.filter, .filter_string. Context: writing in a task's, filters in any.
Gaps: ip of the function event, fields that point to a string, cpumasks.
"""
from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from glasskernel.kernel.current import register
from glasskernel.kernel.trace.trace import TraceArray, TraceEventFile, TraceState, tracing_gen_ctx
from glasskernel.kernel.trace.trace_clock import trace_clock_peek
from glasskernel.kernel.trace.trace_events import COMMON_SIZE, FtraceEventField, TraceEventCall
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct

INVALID_OP = "Invalid operator"
TOO_MANY_OPEN = "Too many '('"
TOO_MANY_CLOSE = "Too few '('"
MISSING_QUOTE = "Missing matching quote"
EXPECT_STRING = "Expecting string field"
EXPECT_DIGIT = "Expecting numeric field"
ILLEGAL_FIELD_OP = "Illegal operation for field type"
FIELD_NOT_FOUND = "Field not found"
ILLEGAL_INTVAL = "Illegal integer value"
BAD_SUBSYS_FILTER = "Couldn't find or set field in one of a subsystem's events"
TOO_MANY_PREDS = "Too many terms in predicate expression"
INVALID_VALUE = "Invalid value (did you forget quotes)?"
NO_FILTER = "No filter found"

TRACING_LOG_ERRS_MAX = 8
MAX_FILTER_STR_VAL = 256
_OPERATORS = ("==", "!=", "~", "<=", "<", ">=", ">", "&")
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "==": lambda a, b: a == b, "!=": lambda a, b: a != b, "<": lambda a, b: a < b, "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b, ">=": lambda a, b: a >= b, "&": lambda a, b: bool(a & b),
}

Predicate = Callable[[bytes], bool]


# ---- the error log -----------------------------------------------------------------------------------------------
@slotted
class TracingLogErr:
    """struct tracing_log_err. pos: where the caret points in cmd. ts_ns: the trace clock."""

    loc: str
    error: str
    cmd: str
    pos: int
    ts_ns: int

    def __str__(self) -> str:
        return (f"[{self.ts_ns // 1_000_000_000:5}.{self.ts_ns // 1000 % 1_000_000:06}] {self.loc}: error: "
                f"{self.error}\n  Command: {self.cmd}\n{' ' * (len('  Command: ') + self.pos)}^\n")


def tracing_log_err(state: TraceState, loc: str, cmd: str, error: str, pos: int) -> None:
    """Remembers why a command was refused; the oldest one goes when there are eight."""
    now = trace_clock_peek(state.kernel, register.task.cpu)
    state.error_log.append(TracingLogErr(loc, error, cmd[: MAX_FILTER_STR_VAL - 1], pos, now))
    del state.error_log[:-TRACING_LOG_ERRS_MAX]


# ---- parsing -----------------------------------------------------------------------------------------------------
class FilterParseError(Exception):
    """struct filter_parse_error"""

    def __init__(self, error: str, pos: int) -> None:
        self.error, self.pos = error, pos


@notrace
def _from_task(read: Callable[[TaskStruct], int]) -> Callable[[bytes], int]:
    return lambda _payload: read(register.task)


@notrace
def _integer(call: TraceEventCall, name: str) -> tuple[Callable[[bytes], int], int, bool] | None:
    """(how to read it, size, signed) of a field that no event declares itself."""
    if name in ("CPU", "cpu"):
        return _from_task(lambda task: task.cpu), 4, True
    if name == "common_pid":
        return _from_task(lambda task: task.pid), 4, True
    if name == "common_type":
        return _from_task(lambda _task: call.id), 2, False
    if name == "common_flags":
        return _from_task(lambda task: tracing_gen_ctx(task, call.irqs_off)), 1, False
    if name == "common_preempt_count":
        return _from_task(lambda task: task.preempt_count & 0xFF), 1, False
    return None


@notrace
def _field_reader(field: FtraceEventField) -> Callable[[bytes], int]:
    start, end, signed = field.offset - COMMON_SIZE, field.offset - COMMON_SIZE + field.size, field.is_signed
    return lambda payload: int.from_bytes(payload[start:end], "little", signed=signed)


@notrace
def _string_reader(field: FtraceEventField) -> Callable[[bytes], bytes]:
    start, size = field.offset - COMMON_SIZE, field.size
    if field.kind == "string":
        return lambda payload: payload[start : start + size].partition(b"\0")[0]

    def filter_pred_strloc(payload: bytes) -> bytes:
        word = int.from_bytes(payload[start : start + 4], "little")
        where = (word & 0xFFFF) - COMMON_SIZE
        return payload[where : where + (word >> 16)].partition(b"\0")[0]

    return filter_pred_strloc


@notrace
def _is_string(field: FtraceEventField) -> bool:
    return field.kind in ("string", "data_loc") and field.element[0] == 1 and "char" in field.type


class PredicateParser:
    """predicate_parse(): a filter's text into a function. Positions count as Linux's do: from one inside a term."""

    def __init__(self, call: TraceEventCall, text: str) -> None:
        self.call, self.text, self.at = call, text, 0
        self.nesting = 0

    @notrace
    def parse(self) -> Predicate:
        predicate = self.either()
        if self.peek() == ")":
            raise FilterParseError(TOO_MANY_CLOSE, self.at + 1)
        if self.peek():
            raise FilterParseError(TOO_MANY_PREDS, self.at)
        return predicate

    @notrace
    def peek(self) -> str:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    @notrace
    def either(self) -> Predicate:
        left = self.both()
        while self.peek() == "|" and self.text.startswith("||", self.at):
            self.at += 2
            left = _or(left, self.both())
        return left

    @notrace
    def both(self) -> Predicate:
        left = self.inverted()
        while self.peek() == "&" and self.text.startswith("&&", self.at):
            self.at += 2
            left = _and(left, self.inverted())
        return left

    @notrace
    def inverted(self) -> Predicate:
        invert = False
        while self.peek() == "!":
            self.at += 1
            invert = not invert
        if self.peek() == "(":
            self.at += 1
            inner = self.either()
            if self.peek() != ")":
                raise FilterParseError(TOO_MANY_PREDS if self.peek() else TOO_MANY_OPEN, self.at)
            self.at += 1
        else:
            if not self.peek():
                raise FilterParseError(NO_FILTER, self.at)
            inner = self.term()
        return _not(inner) if invert else inner

    @notrace
    def fail(self, error: str, at: int) -> FilterParseError:
        return FilterParseError(error, at + 1)

    @notrace
    def term(self) -> Predicate:
        """parse_pred(): field operator value."""
        text, start = self.text, self.at
        while self.at < len(text) and (text[self.at].isalnum() or text[self.at] == "_"):
            self.at += 1
        name = text[start : self.at]
        field = next((f for f in self.call.fields if f.name == name), None)
        other = _integer(self.call, name) if field is None else None
        generic_comm = field is None and name in ("COMM", "comm")
        if field is None and other is None and not generic_comm:
            raise self.fail(FIELD_NOT_FOUND, self.at)
        self.peek()
        op_at = self.at
        op = next((o for o in _OPERATORS if text.startswith(o, self.at)), None)
        if op is None:
            raise self.fail(INVALID_OP, self.at)
        self.at += len(op)
        first = self.peek()
        is_string = generic_comm or (field is not None and _is_string(field))
        if first and first in "\"'":
            if not is_string:
                raise self.fail(EXPECT_DIGIT, self.at)
            if op not in ("==", "!=", "~"):
                raise self.fail(ILLEGAL_FIELD_OP, op_at)
            return self.string_term(field, op, first)
        if first.isdigit() or first == "-":
            if is_string:
                raise self.fail(EXPECT_STRING, self.at)
            if op == "~" or (field is not None and field.kind != "int"):
                raise self.fail(ILLEGAL_FIELD_OP, op_at)
            if other is None:
                assert field is not None
                other = _field_reader(field), field.size, field.is_signed
            return self.integer_term(other, op)
        raise self.fail(INVALID_VALUE, self.at)

    @notrace
    def string_term(self, field: FtraceEventField | None, op: str, quote: str) -> Predicate:
        start = self.at + 1
        end = self.text.find(quote, start)
        if end < 0:
            raise self.fail(MISSING_QUOTE, self.at)
        value = self.text[start:end]
        self.at = end + 1
        read = (lambda _payload: register.task.comm) if field is None else _string_reader(field)
        if op == "~":
            return lambda payload: fnmatchcase(read(payload).decode("latin-1"), value)
        wanted, equal = value.encode("latin-1"), op == "=="
        return lambda payload: (read(payload) == wanted) is equal

    @notrace
    def integer_term(self, source: tuple[Callable[[bytes], int], int, bool], op: str) -> Predicate:
        start = self.at
        self.at += 1                              # a sign or the first digit
        while self.at < len(self.text) and self.text[self.at].isalnum():
            self.at += 1
        try:
            value = kstrtoull(self.text[start : self.at])
        except ValueError:
            raise self.fail(ILLEGAL_INTVAL, start) from None
        read, size, signed = source
        value &= (1 << 8 * size) - 1
        if signed and value >> 8 * size - 1:
            value -= 1 << 8 * size
        compare = _COMPARE[op]
        return lambda payload: compare(read(payload), value)


@notrace
def kstrtoull(text: str) -> int:
    """A number as C writes it: 0x.. and 0.. too. Raises ValueError."""
    digits = text.lstrip("-")
    if len(digits) > 1 and digits[0] == "0" and digits.isdigit():
        return int(text, 8)
    return int(text, 0)


@notrace
def _or(left: Predicate, right: Predicate) -> Predicate:
    return lambda payload: left(payload) or right(payload)


@notrace
def _and(left: Predicate, right: Predicate) -> Predicate:
    return lambda payload: left(payload) and right(payload)


@notrace
def _not(inner: Predicate) -> Predicate:
    return lambda payload: not inner(payload)


# ---- for the files -----------------------------------------------------------------------------------------------
def create_event_filter(call: TraceEventCall, text: str) -> Predicate:
    """A filter of one event. Raises FilterParseError."""
    return PredicateParser(call, text).parse()


@notrace
def append_filter_err(state: TraceState, text: str, error: FilterParseError) -> str:
    """What the filter file shows of a filter that cannot be read; the error log keeps it too."""
    pos = min(error.pos, len(text))
    tracing_log_err(state, "event filter parse error", text, error.error, error.pos)
    return f"{text}\n{'^':>{pos + 1 if pos else 0}}\nparse_error: {error.error}\n"


def apply_event_filter(file: TraceEventFile, text: str) -> None:
    """events/S/E/filter. A bad filter leaves the event without one. Errors: EINVAL."""
    try:
        file.filter = create_event_filter(file.call, text)
    except FilterParseError as error:
        file.filter, file.filter_string = None, append_filter_err(file.tr.state, text, error)
        raise KernelError(EINVAL) from None
    file.filter_string = text


def apply_subsystem_event_filter(tr: TraceArray, system: str, text: str) -> None:
    """events/S/filter: for every event of it; those it does not fit show so. Errors: EINVAL, it has no events."""
    files = [file for file in tr.events.get(system, {}).values() if not file.call.ignore_enable]
    if not files:
        raise KernelError(EINVAL)
    for file in files:
        if text == "0":
            file.filter, file.filter_string = None, ""
            continue
        try:
            file.filter, file.filter_string = create_event_filter(file.call, text), text
        except FilterParseError:
            file.filter = None
            file.filter_string = append_filter_err(tr.state, text, FilterParseError(BAD_SUBSYS_FILTER, 0))


@notrace
def init_event_filters(state: TraceState) -> None:
    state.filter_ops["filter"] = apply_event_filter
    state.filter_ops["subsystem_filter"] = apply_subsystem_event_filter
