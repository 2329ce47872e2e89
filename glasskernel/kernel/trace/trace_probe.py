"""What a probe fetches: `NAME=FETCHARG:TYPE`.

Linux: kernel/trace/trace_probe.c (5.3). Same: the grammar ($comm, $retval, $stackN, $argN, %REG, @ADDR, @SYM,
    +|-[u]OFFS(...), types with bit fields and arrays), errors and where they point, names arg1, arg2 where none is
    given, what format files and lines show.
Differs: a bare NAME is an argument of a kernel function by its name, and NAME->FIELD a field of the object that it is
    (Linux has both since 6.x). What registers and $-variables are is the probe's business: ProbeTarget.
Gaps: arrays of strings. See trace_probe_fetch.py for what memory there is.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from glasskernel.kernel.kallsyms import sprint_symbol
from glasskernel.kernel.trace.trace_events import TraceEventCall, parse_fields
from glasskernel.kernel.trace.trace_probe_fetch import (
    Fetch,
    Read,
    array,
    bitfield,
    dereference,
    field_named,
    store_memory,
    store_raw,
    store_string,
)
from glasskernel.lib.errno import E2BIG, EINVAL, ENOSPC
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace

BAD_REG_NAME = "Invalid register name"
BAD_MEM_ADDR = "Invalid memory address"
TOO_MANY_OPS = "Dereference is too much nested"
DEREF_NEED_BRACE = "Dereference needs a brace"
BAD_DEREF_OFFS = "Invalid dereference offset"
DEREF_OPEN_BRACE = "Dereference brace is not closed"
COMM_CANT_DEREF = "$comm can not be dereferenced"
BAD_FETCH_ARG = "Invalid fetch argument"
BAD_VAR = "Invalid $-valiable specified"              # Linux spells it so
ARRAY_NO_CLOSE = "Array is not closed"
BAD_ARRAY_SUFFIX = "Array has wrong suffix"
BAD_ARRAY_NUM = "Invalid array size"
ARRAY_TOO_BIG = "Array number is too big"
BAD_TYPE = "Unknown type is specified"
BAD_STRING = "String accepts only memory argument"
BAD_BITFIELD = "Invalid bitfield"
ARG_NAME_TOO_LONG = "Argument name is too long"
NO_ARG_NAME = "Argument name is not specified"
BAD_ARG_NAME = "Argument name must follow the same rules as C identifiers"
USED_ARG_NAME = "This argument name is already used"
ARG_TOO_LONG = "Argument expression is too long"
NO_ARG_BODY = "No argument expression"
RETVAL_ON_PROBE = "$retval is not available on probe"
BAD_STACK_NUM = "Invalid stack number"
BAD_ARG_NUM = "Invalid argument number"
FILE_ON_KPROBE = "File offset is not available with kprobe"

MAX_ARG_NAME_LEN, MAX_ARGSTR_LEN, MAX_ARRAY_LEN, PARAM_MAX_STACK = 32, 63, 64, 2048
FETCH_INSN_MAX = 16

_TYPE = re.compile(r"([usx])(8|16|32|64)$")
_BITS = re.compile(r"b(\d+)@(\d+)/(8|16|32|64)$")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*$")
_NAMED = re.compile(r"([A-Za-z_]\w*)((?:->[A-Za-z_]\w*)*)$")


class ProbeError(Exception):
    """trace_probe_log_err(): pos in the command."""

    def __init__(self, error: str, pos: int, errno: int = EINVAL) -> None:
        self.error, self.pos, self.errno = error, pos, errno


@slotted
class ProbeTarget:
    """Where a probe sits. variable("stack1", pos), register("di", pos), memory("@...", pos), name("count"): how to
    fetch one, or ProbeError; name answers None for what is unknown. read, read_user: its memory."""

    variable: Callable[[str, int], Fetch]
    register: Callable[[str, int], Fetch]
    memory: Callable[[str, int], Fetch]
    name: Callable[[str], Fetch | None]
    read: Read
    read_user: Read
    comm: Fetch


@slotted
class ProbeArg:
    """struct probe_arg. comm: as it was written. fetch(context): its value. count: of an array; 0: none."""

    name: str
    comm: str
    type: str
    fetch: Fetch
    count: int = 0
    sprint: Callable[[int], str] = str

    @property
    def is_string(self) -> bool:
        return self.type in ("string", "ustring")

    @property
    def declaration(self) -> str:
        if self.is_string:
            return f"__data_loc char[] {self.name}"
        kind = "u64" if self.type == "symbol" else f"{'s' if self.type[0] == 's' else 'u'}{self.type[1:]}"
        return f"{kind} {self.name}" + (f"[{self.count}]" if self.count else "")

    @property
    def format(self) -> str:
        if self.is_string:
            return '\\"%s\\"'
        if self.type == "symbol":
            one = "%pS"
        else:
            long = "L" if self.type.endswith("64") else ""
            one = f"0x%{long}x" if self.type[0] == "x" else f"%{long}{'d' if self.type[0] == 's' else 'u'}"
        return "{" + ",".join([one] * self.count) + "}" if self.count else one

    @property
    def references(self) -> list[str]:
        if self.is_string:
            return [f"__get_str({self.name})"]
        if self.count:
            return [f"REC->{self.name}[{n}]" for n in range(self.count)]
        return [f"REC->{self.name}"]

    @notrace
    def value(self, context: Any) -> Any:
        """What is recorded. A string that cannot be read has no bytes, not even its 0."""
        value = self.fetch(context)
        if self.is_string:
            return value if isinstance(value, bytes) else ()
        if self.count and self.type[0] == "s":
            sign = 1 << int(self.type[1:]) - 1
            return [(item ^ sign) - sign for item in value]
        return value

    @notrace
    def text(self, value: Any) -> str:
        """print_type_*()"""
        if self.count:
            return "{" + ",".join(self.one(item) for item in value) + "}"
        return self.one(value)

    @notrace
    def one(self, value: Any) -> str:
        if self.is_string:
            return f'"{value.decode("latin-1")}"' if value is not None else "(fault)"
        if self.type == "symbol":
            return self.sprint(value)
        return f"{value:#x}" if self.type[0] == "x" else str(value)


# ---- fetch methods -----------------------------------------------------------------------------------------------
@slotted
class _Method:
    """A parsed argument: base, and if it lies in memory the last offset and how to read there."""

    base: Fetch
    offset: int | None = None
    read: Read | None = None
    is_comm: bool = False
    named: bool = False                           # a Python value: a string may be one


@notrace
def _kstrtol(text: str) -> int:
    """Raises ValueError."""
    digits = text.lstrip("-")
    if not digits[:1].isdigit() or "_" in digits:
        raise ValueError(text)
    sign = -1 if text.startswith("-") else 1
    return sign * (int(digits, 8) if len(digits) > 1 and digits[0] == "0" and digits.isdigit() else int(digits, 0))


@notrace
def parse_probe_arg(text: str, target: ProbeTarget, pos: int, depth: int = 0) -> _Method:
    """A fetch argument without its type. Raises ProbeError."""
    if depth >= FETCH_INSN_MAX - 1:
        raise ProbeError(TOO_MANY_OPS, pos, E2BIG)
    first = text[:1]
    if text == "$comm":
        return _Method(target.comm, is_comm=True)
    if first == "$":
        return _Method(target.variable(text[1:], pos))
    if first == "%":
        return _Method(target.register(text[1:], pos))
    if first == "@":
        return _Method(target.memory(text[1:], pos), 0, target.read)
    if first and first in "+-":
        return _parse_dereference(text, target, pos, depth)
    match = _NAMED.match(text)
    base = target.name(match[1]) if match is not None else None
    if match is None or base is None:
        raise ProbeError(BAD_FETCH_ARG, pos)
    for name in match[2].split("->")[1:]:
        base = field_named(base, name)
    return _Method(base, named=True)


@notrace
def _parse_dereference(text: str, target: ProbeTarget, pos: int, depth: int) -> _Method:
    """+|-[u]OFFS(FETCHARG)"""
    user = text[1:2] == "u"
    number = text[0] + text[2:] if user else text
    if number[0] == "+":
        number = number[1:]
    head, brace, rest = number.partition("(")
    if not brace:
        raise ProbeError(DEREF_NEED_BRACE, pos)
    try:
        offset = _kstrtol(head)
    except ValueError:
        raise ProbeError(BAD_DEREF_OFFS, pos) from None
    pos += len(head) + 1 + (0 if head.startswith("-") else 1)
    inner, close, _ = rest.rpartition(")")
    if not close:
        raise ProbeError(DEREF_OPEN_BRACE, pos + len(rest))
    method = parse_probe_arg(inner, target, pos, depth + 1)
    if method.is_comm:
        raise ProbeError(COMM_CANT_DEREF, pos)
    base = method.base
    if method.offset is not None:
        assert method.read is not None
        base = dereference(base, method.offset, method.read)
    return _Method(base, offset, target.read_user if user else target.read)


# ---- types -------------------------------------------------------------------------------------------------------
@notrace
def _parse_type(text: str, colon: bool, pos: int) -> tuple[str, int]:
    """(type, number of elements) of what follows the colon."""
    kind, bracket, inside = text.partition("[")
    if not bracket:
        return text, 0
    number, close, suffix = inside.partition("]")
    at = pos + len(kind) + 1
    if not close:
        raise ProbeError(ARRAY_NO_CLOSE, at + len(inside))
    if suffix:
        raise ProbeError(BAD_ARRAY_SUFFIX, at + len(number) + 1)
    try:
        count = _kstrtol(number)
    except ValueError:
        count = 0
    if count <= 0:
        raise ProbeError(BAD_ARRAY_NUM, at)
    if count > MAX_ARRAY_LEN:
        raise ProbeError(ARRAY_TOO_BIG, at)
    return kind, count


@notrace
def _parse_body(body: str, target: ProbeTarget, pos: int) -> tuple[str, int, Fetch]:
    """traceprobe_parse_probe_arg_body(): (type, count, how to fetch it)."""
    if len(body) > MAX_ARGSTR_LEN:
        raise ProbeError(ARG_TOO_LONG, pos, ENOSPC)
    if not body:
        raise ProbeError(NO_ARG_BODY, pos)
    what, colon, kind = body.partition(":")
    type_pos = pos + len(what) + 1 if colon else pos
    kind, count = _parse_type(kind, bool(colon), type_pos)
    if what == "$comm":
        if count or (colon and kind != "string"):
            raise ProbeError(BAD_TYPE, type_pos)
        return "string", 0, target.comm
    kind = kind if colon else "x64"
    bits = _BITS.match(kind)
    if bits is None and kind not in ("string", "ustring", "symbol") and not _TYPE.match(kind):
        raise ProbeError(BAD_BITFIELD if kind[:1] == "b" else BAD_TYPE, type_pos)
    method = parse_probe_arg(what, target, pos)
    if kind in ("string", "ustring"):
        read = target.read_user if kind == "ustring" else method.read or target.read
        if (method.offset is None and not method.named) or count:
            raise ProbeError(BAD_STRING, type_pos)
        return kind, 0, store_string(method.base, method.offset or 0, read)
    size = int(bits[3]) if bits is not None else 64 if kind == "symbol" else int(kind[1:])
    if count:
        if method.offset is None:
            raise ProbeError(BAD_STRING, type_pos)
        assert method.read is not None
        return kind, count, array([store_memory(method.base, method.offset + n * size // 8, size // 8, method.read)
                                   for n in range(count)])
    if method.offset is None:
        fetch = store_raw(method.base)
    else:
        assert method.read is not None
        fetch = store_memory(method.base, method.offset, size // 8, method.read)
    if bits is not None:
        width, offset = int(bits[1]), int(bits[2])
        if not width or width + offset > size:
            raise ProbeError(BAD_BITFIELD, type_pos)
        return f"u{size}", 0, bitfield(fetch, width, offset)
    return kind, 0, fetch


def traceprobe_parse_probe_arg(text: str, pos: int, target: ProbeTarget, args: list[ProbeArg],
                               kernel: Any) -> ProbeArg:
    """One argument of a probe, behind `args`. pos: where it begins in the command. Raises ProbeError."""
    name, equals, body = text.partition("=")
    at = pos + len(name) + 1
    if not equals:
        name, body, at = f"arg{len(args) + 1}", text, pos
    elif not name:
        raise ProbeError(NO_ARG_NAME, pos)
    elif len(name) > MAX_ARG_NAME_LEN:
        raise ProbeError(ARG_NAME_TOO_LONG, pos)
    if not _IDENTIFIER.match(name):
        raise ProbeError(BAD_ARG_NAME, pos)
    if any(arg.name == name for arg in args):
        raise ProbeError(USED_ARG_NAME, pos)
    kind, count, fetch = _parse_body(body, target, at)
    return ProbeArg(name, body, kind, fetch, count, partial(sprint_symbol, kernel))


# ---- events ------------------------------------------------------------------------------------------------------
class ProbeEvent(TraceEventCall):
    """The event of a probe, which is its data: one whose text Linux draws without its print fmt."""

    __slots__ = ()

    def where(self, kernel: Any, record: dict[str, Any]) -> str:
        """The place in the line's parentheses."""
        raise NotImplementedError

    def trace(self, kernel: Any, payload: bytes | memoryview) -> str:
        """print_kprobe_event(), print_uprobe_event() and those of returns"""
        record = self.unpack(payload)
        for f in self.fields:                     # a string without even its 0 could not be read
            if f.kind == "data_loc" and not int.from_bytes(payload[f.offset - 6 : f.offset - 4], "little"):
                record[f.name] = None
        args = "".join(f" {arg.name}={arg.text(record[arg.name])}" for arg in self.data.args)
        return f"{self.name}: ({self.where(kernel, record)}){args}"


@notrace
def probe_event(kind: type[ProbeEvent], group: str, name: str, probe: Any, register: Callable[..., None]) -> ProbeEvent:
    """Its event, with fields and print fmt (traceprobe_set_print_fmt()). probe: has is_return and args."""
    if probe.is_return:
        fields, text = ["unsigned long __probe_func", "unsigned long __probe_ret_ip"], "(%lx <- %lx)"
    else:
        fields, text = ["unsigned long __probe_ip"], "(%lx)"
    references = ["REC->" + f.split()[-1] for f in fields] + [r for arg in probe.args for r in arg.references]
    text += "".join(f" {arg.name}={arg.format}" for arg in probe.args)
    return kind(group, name, parse_fields("; ".join(fields + [arg.declaration for arg in probe.args])),
                f'"{text}", {", ".join(references)}', lambda *values: values, register=register, data=probe)


@notrace
def probe_definition(probe: Any, place: str) -> str:
    """Its line in kprobe_events, uprobe_events and dynamic_events."""
    args = "".join(f" {arg.name}={arg.comm}" for arg in probe.args)
    return f"{'r' if probe.is_return else 'p'}:{probe.call.system}/{probe.call.name} {place}{args}\n"
