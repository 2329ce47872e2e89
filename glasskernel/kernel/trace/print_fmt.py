r"""The print fmt of a trace event, compiled to Python.

    "prev_comm=%s prev_pid=%d", REC->prev_comm, REC->prev_pid

The text of the format file is the only source of an event's text: the arguments are C expressions with the helpers of
include/trace/trace_events.h (__print_flags, __print_symbolic, __get_str ...), the string is printk's.
Linux: include/trace/trace_events.h, kernel/trace/trace_output.c trace_print_*_seq(), lib/vsprintf.c (5.3).
Same: widths, flags and cutting of numbers to their type; %pS, %ps, %p (hashed), %pI4, %pI6c, %pM, %pU, %*ph.
Owns: nothing. Gaps: arithmetic wraps at casts and in the string only; %pV, %pd.
"""
from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.kallsyms import sprint_symbol, sprint_symbol_no_offset
from glasskernel.kernel.trace.tracepoint_strings import tracepoint_string_at
from glasskernel.lib.types import U64_MAX, notrace
from glasskernel.lib.vsprintf import hash_pointer

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.trace.trace_events import TraceEventCall

Printer = Callable[["Kernel", "TraceEventCall", bytes | memoryview], str]

_TOKEN = re.compile(r'''\s*(?:(?P<string>"(?:\\.|[^"\\])*")|(?P<char>'(?:\\.|[^'\\])')'''
                    r"|(?P<number>0[xX][0-9a-fA-F]+|\d+)[uUlL]*"
                    r"|(?P<name>[A-Za-z_]\w*)|(?P<op>->|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%&|^~!<>?:(){}\[\],.]))")
_SIZES = {"char": 1, "bool": 1, "u8": 1, "__u8": 1, "s8": 1, "__s8": 1, "short": 2, "u16": 2, "__u16": 2, "s16": 2,
          "__le16": 2, "__be16": 2, "int": 4, "u32": 4, "__u32": 4, "s32": 4, "__s32": 4, "dev_t": 4, "gfp_t": 4,
          "pid_t": 4,
          "long": 8, "u64": 8, "__u64": 8, "s64": 8, "__s64": 8, "size_t": 8, "ssize_t": 8, "loff_t": 8, "ino_t": 8,
          "sector_t": 8, "ktime_t": 8, "umode_t": 2, "uint32_t": 4, "uint64_t": 8, "uintptr_t": 8, "uid_t": 4,
          "gid_t": 4,
          "__be32": 4, "__le32": 4, "isolate_mode_t": 4, "vm_fault_t": 4, "fmode_t": 4, "slab_flags_t": 4, "pgoff_t": 8,
          "uint8_t": 1, "uint16_t": 2, "clockid_t": 4, "__kernel_pid_t": 4, "mode_t": 4, "ext4_group_t": 4}
_SIGNED = {"char", "s8", "__s8", "short", "s16", "int", "s32", "__s32", "pid_t", "long", "s64", "__s64", "ssize_t",
           "loff_t",
           "ktime_t", "clockid_t", "__kernel_pid_t"}
_TYPE_WORDS = {*_SIZES, "unsigned", "signed", "const", "void", "struct", "enum", "volatile", "__force"}
_LEVELS: tuple[tuple[str, ...], ...] = (("||",), ("&&",), ("|",), ("^",), ("&",), ("==", "!="), ("<", ">", "<=",
                                                                                                 ">="), ("<<",
                                                                                                         ">>"), ("+",
                                                                                                                 "-"),
           ("*", "/", "%"))
_SPEC = re.compile(r"%(?P<flags>[-+ 0#]*)(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d+))?(?P<length>hh|h|ll|l|L|q|z|t|Z)?"
                   r"(?P<conversion>[diouxXcsp%])")
_POINTER = re.compile(r"[A-Za-z0-9]*")
_LENGTH_BITS = {"hh": 8, "h": 16, "": 32}
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", '"': '"', "0": "\0", "'": "'", "r": "\r", "a": "\a"}


# ---- what the compiled text calls --------------------------------------------------------------------------------
@notrace
def trace_print_flags_seq(flags: int, delim: str, *table: tuple[int, str]) -> str:
    found = []
    for mask, name in table:
        if not flags:
            break
        if flags & mask == mask:
            found.append(name)
            flags &= ~mask
    if flags:
        found.append(f"0x{flags & U64_MAX:x}")
    return delim.join(found)


@notrace
def trace_print_symbols_seq(value: int, *table: tuple[int, str]) -> str:
    for number, name in table:
        if number == value:
            return name
    return f"0x{value & U64_MAX:x}"


@notrace
def trace_print_hex_seq(data: bytes | Sequence[int], length: int, separator: str = " ") -> str:
    return separator.join(f"{b & 0xFF:02x}" for b in list(data)[:length])


@notrace
def trace_print_array_seq(data: bytes | Sequence[int], count: int, size: int) -> str:
    mask = (1 << 8 * size) - 1
    return "{" + ",".join(f"0x{v & mask:x}" for v in list(data)[:count]) + "}"


@notrace
def trace_print_bitmask_seq(words: Sequence[int]) -> str:
    text = "".join(f"{w:016x}" for w in reversed(words))
    groups = [text[i : i + 8] for i in range(0, len(text), 8)]
    return ",".join(groups)


@notrace
def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).partition(b"\0")[0].decode("latin-1")
    if value == 0:
        return "(null)"
    return tracepoint_string_at(value) or str(value)


@notrace
def _signed(value: int, bits: int) -> int:
    half = 1 << bits - 1
    return (int(value) + half & 2 * half - 1) - half


@notrace
def _divide(a: int, b: int) -> int:
    quotient = abs(a) // abs(b) if b else 0
    return quotient if (a < 0) == (b < 0) else -quotient


@notrace
def _pointer(kernel: Kernel, extension: str, value: Any, width: int) -> str:
    """lib/vsprintf.c pointer()"""
    if extension[:1] in ("S", "B", "F"):
        return sprint_symbol(kernel, value) if value else "0x0"
    if extension[:1] in ("s", "f"):
        return sprint_symbol_no_offset(kernel, value) if value else "0x0"
    if extension[:1] == "x":
        return f"{value & U64_MAX:x}"
    if extension[:1] in ("I", "i"):
        raw = bytes(value)
        if extension[1:2] == "4":
            return ".".join(str(b) for b in raw[:4])
        if extension[1:2] == "6":
            address = ipaddress.IPv6Address(raw[:16])
            return address.compressed if "c" in extension else address.exploded
        if extension[1:2] == "S":                 # struct sockaddr
            if int.from_bytes(raw[:2], "little") == 2:
                text = ".".join(str(b) for b in raw[4:8])
                return text + (f":{int.from_bytes(raw[2:4], 'big')}" if "p" in extension else "")
            address = ipaddress.IPv6Address(raw[8:24])
            port = f":{int.from_bytes(raw[2:4], 'big')}"
            return f"[{address.compressed}]{port}" if "p" in extension else address.compressed
    if extension[:1] == "M":
        return ":".join(f"{b:02x}" for b in bytes(value)[:6])
    if extension[:1] == "h":
        return trace_print_hex_seq(value, width)
    if extension[:1] == "U":
        raw = bytes(value)[:16]
        if "l" in extension or "L" in extension:
            raw = raw[3::-1] + raw[5:3:-1] + raw[7:5:-1] + raw[8:]
        text = raw.hex()
        return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
    number = int(value) & U64_MAX
    return f"{hash_pointer(number):016x}"


# ---- the parser --------------------------------------------------------------------------------------------------
class _Parser:
    """Turns the C text into Python source. `r`: the fields, `h`: helpers, `k`: the kernel."""

    def __init__(self, text: str, helpers: dict[str, Any]) -> None:
        self.tokens: list[tuple[str, str]] = []
        self.helpers = helpers
        position = 0
        text = text.strip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise ValueError(f"print fmt: cannot read {text[position:position + 20]!r}")
            assert match.lastgroup is not None
            self.tokens.append((match.lastgroup, match[match.lastgroup]))
            position = match.end()
        self.tokens.append(("end", ""))
        self.at = 0

    def peek(self, ahead: int = 0) -> str:
        kind, text = self.tokens[min(self.at + ahead, len(self.tokens) - 1)]
        return text if kind in ("op", "name") else kind

    def take(self, wanted: str | None = None) -> tuple[str, str]:
        token = self.tokens[self.at]
        if wanted is not None and token[1] != wanted:
            raise ValueError(f"print fmt: {wanted!r} expected, not {token[1]!r}")
        self.at += 1
        return token

    def string(self) -> str:
        parts = []
        while self.peek() == "string":
            raw = self.take()[1][1:-1]
            parts.append(re.sub(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", _unescape, raw))
        return "".join(parts)

    def type_name(self) -> str | None:
        """A type in parentheses, from behind "("; None (and nothing taken): an expression stands there."""
        start, words = self.at, []
        if self.peek() not in _TYPE_WORDS:
            return None
        while self.tokens[self.at][0] == "name":
            word = self.take()[1]
            words.append(word)
            if word in ("struct", "enum"):
                words.append(self.take()[1])
        while self.peek() == "*":
            self.take()
            words.append("*")
        if self.peek() != ")" or any(w not in _TYPE_WORDS and w != "*" for i, w in enumerate(words)
                                     if i == 0 or words[i - 1] not in ("struct", "enum")):
            self.at = start
            return None
        self.take()
        return " ".join(words)

    def expression(self) -> str:
        condition = self.binary(0)
        if self.peek() != "?":
            return condition
        self.take()
        yes = self.expression()
        self.take(":")
        no = self.expression()
        return f"({yes} if {condition} else {no})"

    def binary(self, level: int) -> str:
        if level == len(_LEVELS):
            return self.unary()
        left = self.binary(level + 1)
        while self.peek() in _LEVELS[level] and self.tokens[self.at][0] == "op":
            op = self.take()[1]
            right = self.binary(level + 1)
            if op in ("||", "&&"):
                left = f"int(bool({left} {'or' if op == '||' else 'and'} {right}))"
            elif level in (5, 6):
                left = f"int({left} {op} {right})"
            elif op == "/":
                left = f"_divide({left}, {right})"
            elif op == "%":
                left = f"({left} - _divide({left}, {right}) * {right})"
            else:
                left = f"({left} {op} {right})"
        return left

    def unary(self) -> str:
        op = self.peek()
        if self.tokens[self.at][0] == "op" and op in ("!", "~", "-", "+", "&", "*"):
            self.take()
            operand = self.unary()
            return f"int(not {operand})" if op == "!" else operand if op in "&*+" else f"({op}{operand})"
        if op == "sizeof":
            self.take()
            self.take("(")
            name = self.type_name()
            if name is not None:
                return str(_size_of(name)[0])
            size = f"_size({self.expression()})"
            self.take(")")
            return size
        if op == "(":
            self.take()
            name = self.type_name()
            if name is not None:
                return _cast(name, self.unary())
            inner = self.expression()
            self.take(")")
            return self.postfix(f"({inner})")
        return self.primary()

    def primary(self) -> str:
        kind, text = self.tokens[self.at]
        if kind == "string":
            return repr(self.string())
        self.take()
        if kind == "number":
            return str(int(text, 16) if text[:2] in ("0x", "0X") else int(text, 8) if text[0] == "0"
                       and len(text) > 1 else int(text))
        if kind == "char":
            return str(ord(re.sub(r"\\(.)", _unescape, text[1:-1])))
        if kind != "name":
            raise ValueError(f"print fmt: unexpected {text!r}")
        if text in ("REC", "__entry") and self.peek() == "->":
            self.take()
            return self.postfix(f"r[{self.take()[1]!r}]")
        if self.peek() == "(":
            return self.postfix(self.call(text))
        if text in self.helpers:
            return f"h[{text!r}](k)" if callable(self.helpers[text]) else f"h[{text!r}]"
        if text == "vmemmap_base":
            return str(0xFFFF_EA00_0000_0000)
        if text in ("NULL", "false", "true"):
            return "1" if text == "true" else "0"
        raise ValueError(f"print fmt: unknown name {text!r}")

    def postfix(self, value: str) -> str:
        while self.peek() in ("[", ".") and self.tokens[self.at][0] == "op":
            if self.take()[1] == "[":
                value = f"{value}[{self.expression()}]"
                self.take("]")
            else:
                self.take()                       # kuid_t's .val
        return value

    def arguments(self) -> list[str]:
        found = []
        self.take("(")
        while self.peek() != ")":
            if self.peek() == "{":
                self.take()
                number = self.expression()
                self.take(",")
                name = self.expression()
                self.take("}")
                found.append(f"({number}, {name})")
            else:
                found.append(self.expression())
            if self.peek() == ",":
                self.take()
        self.take(")")
        return found

    def call(self, name: str) -> str:
        if name in ("__get_str", "__get_dynamic_array", "__get_bitmask", "__get_dynamic_array_len"):
            self.take("(")
            field = self.take()[1]
            self.take(")")
            if name == "__get_bitmask":
                return f"trace_print_bitmask_seq(r[{field!r}])"
            return f"_size(r[{field!r}])" if name.endswith("_len") else f"r[{field!r}]"
        arguments = self.arguments()
        if name in ("__print_flags", "__print_flags_u64"):
            return f"trace_print_flags_seq({', '.join(arguments)})"
        if name in ("__print_symbolic", "__print_symbolic_u64"):
            return f"trace_print_symbols_seq({', '.join(arguments)})"
        if name in ("__print_hex", "__print_hex_str"):
            return f"trace_print_hex_seq({', '.join(arguments)}{', str()' if name.endswith('_str') else ''})"
        if name == "__print_array":
            return f"trace_print_array_seq({', '.join(arguments)})"
        if name == "__builtin_constant_p":
            return "0"
        if name in self.helpers:
            return f"h[{name!r}]({', '.join(arguments)})"
        raise ValueError(f"print fmt: unknown function {name!r}")


@notrace
def _unescape(match: re.Match[str]) -> str:
    text = match[1]
    if text[0] == "x" and len(text) > 1:
        return chr(int(text[1:], 16))
    if text[0] in "01234567":
        return chr(int(text, 8) & 0xFF)
    return _ESCAPES.get(text, text)


@notrace
def _size_of(name: str) -> tuple[int, bool]:
    """(bytes, signed) of a type's name."""
    words = name.split()
    if "*" in words or "void" in words:
        return 8, False
    if "enum" in words:
        return 4, False
    sizes = [w for w in words if w in _SIZES]
    size = max((_SIZES[w] for w in sizes), default=4)
    if "short" in words:
        size = 2
    return size, "unsigned" not in words and (not sizes or sizes[0] in _SIGNED)


@notrace
def _cast(name: str, value: str) -> str:
    if "*" in name or "struct" in name or "void" in name:
        return value
    size, signed = _size_of(name)
    return f"_signed({value}, {8 * size})" if signed else f"({value} & {(1 << 8 * size) - 1})"


@notrace
def _size(value: Any) -> int:
    return len(value) if isinstance(value, bytes | tuple) else 8


@notrace
def convert_format(text: str, arguments: list[str]) -> str:
    """Python source of the string that printk would make."""
    python, values, left = "", [], list(arguments)
    position = 0
    for match in _SPEC.finditer(text):
        if match.start() < position:
            continue
        python += text[position : match.start()].replace("%", "%%")
        position = match.end()
        flags, width, precision = match["flags"], match["width"] or "", match["precision"]
        conversion = match["conversion"]
        if conversion == "%":
            python += "%%"
            continue
        star = "0"
        if width == "*":
            star = left.pop(0)
        if precision == "*":
            limit = left.pop(0)
        value = left.pop(0) if left else "0"
        spec = "%" + flags
        if conversion == "p":
            extension = _POINTER.match(text, position)
            assert extension is not None
            name = extension[0] if extension[0][:1] in tuple("SsFfBxIiMhUKaR") and extension[0] else ""
            position += len(name)
            if width == "*":
                width = ""
            python += "%" + flags.replace("0", "").replace("#", "") + width + "s"
            values.append(f"_pointer(k, {name!r}, {value}, {star})")
            continue
        if width == "*":
            values.append(star)
        spec += width
        if precision is not None:
            spec += "." + precision
            if precision == "*":
                values.append(limit)
        if conversion == "s":
            values.append(f"_text({value})")
            python += spec.replace("0", "", 1) + "s" if flags.startswith("0") else spec + "s"
        elif conversion == "c":
            values.append(f"chr({value} & 255)")
            python += spec + "s"
        else:
            bits = _LENGTH_BITS.get(match["length"] or "", 64)
            if conversion in "di":
                values.append(f"_signed({value}, {bits})")
                python += spec + "d"
            else:
                values.append(f"(int({value}) & {(1 << bits) - 1})")
                python += spec + ("d" if conversion == "u" else conversion)
    python += text[position:].replace("%", "%%")
    return f"{python!r} % ({''.join(v + ', ' for v in values)})"


@notrace
def compile_print_fmt(text: str, helpers: dict[str, Any]) -> Printer:
    """A function (kernel, call, payload) -> text. Raises ValueError for C that is not understood.

    helpers: functions that the text calls, and names that it uses: numbers, or functions of the kernel (jiffies).
    """
    parser = _Parser(text, helpers)
    fmt = parser.string()
    arguments = []
    while parser.peek() == ",":
        parser.take()
        arguments.append(parser.expression())
    if parser.peek() != "end":
        raise ValueError(f"print fmt: {parser.tokens[parser.at][1]!r} left over")
    source = f"lambda k, r, h: {convert_format(fmt, arguments)}"
    space = {f.__name__: f for f in (trace_print_flags_seq, trace_print_symbols_seq, trace_print_hex_seq,
                                     trace_print_array_seq,
                                     trace_print_bitmask_seq, _text, _signed, _divide, _pointer, _size)}
    function = eval(source, {"__builtins__": {"int": int, "bool": bool, "str": str, "chr": chr}, **space})

    def print_event(kernel: Kernel, call: TraceEventCall, payload: bytes | memoryview) -> str:
        return str(function(kernel, call.unpack(payload), helpers))

    return print_event
