"""What a probe fetches: `NAME=FETCHARG:TYPE`.

Linux: kernel/trace/trace_probe.c (5.3). Same: names arg1, arg2 where none is given, types u8..x64 and string, what
    format files and lines show of them.
Differs: $argN and %di %si %dx %cx %r8 %r9 are the function's Python arguments; so is a bare NAME, an argument by its
    name. An argument that is an object has no address: it reads as 0, as memory that cannot be read does.
Gaps: memory (@ADDR, +OFFS(...), $stack), bit fields, arrays, symbol and ustring types: EINVAL.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from glasskernel.kernel.current import register
from glasskernel.lib.types import notrace

BAD_FETCH_ARG = "Unknown fetch method"
BAD_VAR = "Invalid $-variable specified"
BAD_TYPE = "Unknown type is specified"
BAD_REG_NAME = "Invalid register name"
BAD_ARG_NAME = "Argument name must follow the same rules as C identifiers"
NO_ARG_NAME = "Argument name is not specified"
USED_ARG_NAME = "This argument name is already used"
RETVAL_ON_PROBE = "$retval is not available on probe"

_REGISTERS = ("di", "si", "dx", "cx", "r8", "r9")
_TYPE = re.compile(r"([usx])(8|16|32|64)$")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*$")


class ProbeError(Exception):
    """trace_probe_log_err(): pos in the command."""

    def __init__(self, error: str, pos: int) -> None:
        self.error, self.pos = error, pos


@dataclass(slots=True, eq=False, repr=False)
class ProbeArg:
    """struct probe_arg. comm: as it was written. fetch(frame, returned): its value."""

    name: str
    comm: str
    type: str
    fetch: Callable[[FrameType, Any], Any]

    @property
    def declaration(self) -> str:
        if self.type == "string":
            return f"__data_loc char[] {self.name}"
        return f"{'s' if self.type[0] == 's' else 'u'}{self.type[1:]} {self.name}"

    @property
    def format(self) -> str:
        if self.type == "string":
            return '\\"%s\\"'
        long = "L" if self.type.endswith("64") else ""
        return f"0x%{long}x" if self.type[0] == "x" else f"%{long}{'d' if self.type[0] == 's' else 'u'}"

    @property
    def reference(self) -> str:
        return f"__get_str({self.name})" if self.type == "string" else f"REC->{self.name}"

    @notrace
    def value(self, frame: FrameType, returned: Any) -> int | bytes:
        value = self.fetch(frame, returned)
        if self.type == "string":
            return value if isinstance(value, bytes) else b"(fault)"
        return int(value) if isinstance(value, int) else 0

    @notrace
    def text(self, value: Any) -> str:
        """print_type_*()"""
        if self.type == "string":
            return f'"{value.decode("latin-1")}"'
        return f"{value:#x}" if self.type[0] == "x" else str(value)


@notrace
def _argument(code: CodeType, index: int) -> Callable[[FrameType, Any], Any]:
    """Argument number `index`, from 0. One that the function has not holds nothing."""
    if index >= code.co_argcount:
        return lambda _frame, _returned: 0
    name = code.co_varnames[index]
    return lambda frame, _returned: frame.f_locals.get(name)


@notrace
def _fetcher(text: str, code: CodeType, is_return: bool, pos: int) -> Callable[[FrameType, Any], Any]:
    if text == "$retval":
        if not is_return:
            raise ProbeError(RETVAL_ON_PROBE, pos)
        return lambda _frame, returned: returned
    if text == "$comm":
        return lambda _frame, _returned: register.task.comm
    if text.startswith("$arg") and text[4:].isdigit() and int(text[4:]) > 0 and not is_return:
        return _argument(code, int(text[4:]) - 1)
    if text.startswith("$"):
        raise ProbeError(BAD_VAR, pos)
    if text.startswith("%"):
        if text[1:] not in _REGISTERS:
            raise ProbeError(BAD_REG_NAME, pos)
        return _argument(code, _REGISTERS.index(text[1:]))
    names = code.co_varnames[: code.co_argcount]
    if text in names:
        return _argument(code, names.index(text))
    raise ProbeError(BAD_FETCH_ARG, pos)


def traceprobe_parse_probe_arg(text: str, pos: int, code: CodeType, is_return: bool, args: list[ProbeArg]) -> ProbeArg:
    """One argument of a probe, behind `args`. pos: where it begins in the command. Raises ProbeError."""
    name, equals, body = text.partition("=")
    at = pos + len(name) + 1
    if not equals:
        name, body, at = f"arg{len(args) + 1}", text, pos
    elif not name:
        raise ProbeError(NO_ARG_NAME, pos)
    if not _IDENTIFIER.match(name):
        raise ProbeError(BAD_ARG_NAME, pos)
    if any(arg.name == name for arg in args):
        raise ProbeError(USED_ARG_NAME, pos)
    what, colon, kind = body.partition(":")
    if not colon:
        kind = "string" if what == "$comm" else "x64"
    if kind != "string" and not _TYPE.match(kind):
        raise ProbeError(BAD_TYPE, at + len(what) + 1)
    return ProbeArg(name, body, kind, _fetcher(what, code, is_return, at))
