"""Trace events: their declaration, their bytes, their format files.

Linux: include/trace/trace_events.h (the macros), kernel/trace/trace_events.c (5.3). Same: the text of a format
    file, field by field; the layout that C gives the fields behind the eight bytes all events begin with;
    __data_loc arrays at the end.
Differs: TRACE_EVENT is a decorator; TP_fast_assign is its function, which answers one value per field.

    sched = trace_system("sched")

    @sched.event(fields="char comm[16]; pid_t pid; int prio; int target_cpu;",
                 print_fmt='"comm=%s pid=%d prio=%d target_cpu=%03d", REC->comm, REC->pid, REC->prio, REC->target_cpu')
    def sched_wakeup(p: TaskStruct) -> tuple[object, ...]:
        return (p.comm, p.pid, p.prio, p.cpu)

Owns: TraceEventCall, TraceSystem: declarations, shared by all kernels and never changed once they have their
    number.
Invariants: pack() makes what unpack() reads; numbers follow from the order of events/__init__.py alone.
"""
from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from glasskernel.kernel.trace.print_fmt import Printer, compile_print_fmt
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.bpf.types import BpfProg
    from glasskernel.kernel.trace.trace import TraceEventFile

# unsigned short common_type; unsigned char common_flags, common_preempt_count; int common_pid
COMMON_SIZE = 8
FIRST_EVENT_ID = 17                # behind ftrace's own entries: __TRACE_LAST_TYPE

Values = Sequence[Any]
Assign = Callable[..., Values | None]

# C types, by (size, signed)
_SIZES = {
    (1, 0): (
        "unsigned char, bool, u8, __u8, uint8_t"),
    (1, 1): (
        "char, signed char, s8, __s8"),
    (2, 0): (
        "unsigned short, u16, __u16, umode_t, uint16_t, __le16, __be16, old_uid_t, old_gid_t"),
    (2, 1): (
        "short, s16"),
    (4, 0): (
        "uint32_t, unsigned int, unsigned, u32, __u32, __be32, dev_t, uid_t, gid_t, gfp_t, vm_fault_t, "
        "isolate_mode_t, projid_t, qid_t, ext4_lblk_t, tid_t, ext4_group_t, errseq_t"),
    (4, 1): (
        "int, s32, __s32, pid_t, clockid_t, ext4_grpblk_t, key_serial_t, __kernel_pid_t, mqd_t, timer_t, rwf_t, "
        "key_t"),
    (8, 0): (
        "uint64_t, fl_owner_t, aio_context_t, unsigned long, unsigned long long, u64, __u64, size_t, ino_t, "
        "sector_t, pgoff_t, dma_addr_t, phys_addr_t, resource_size_t, ext4_fsblk_t, cputime_t, blkcnt_t, "
        "xfs_ino_t, cap_user_header_t, cap_user_data_t, __sighandler_t, old_sigset_t"),
    (8, 1): (
        "int64_t, long, long long, s64, __s64, ssize_t, loff_t, off_t, ktime_t, time64_t, local_t"),
    (16, 0): (
        "uuid_t"),
}
_TYPES = {name: key for key, names in _SIZES.items() for name in names.split(", ")}
_CODES = {(1, 0): "B", (1, 1): "b", (2, 0): "H", (2, 1): "h", (4, 0): "I", (4, 1): "i", (8, 0): "Q", (8, 1): "q"}
_FIELD = re.compile(r"(?P<loc>__data_loc\s+)?(?P<type>[^;\[\]]*?)(?P<open>\[\])?\s*\b(?P<name>\w+)\s*"
                    r"(?:\[(?P<count>[^\]]*)\])?$")


@dataclass(slots=True, eq=False, repr=False)
class FtraceEventField:
    """struct ftrace_event_field. type, name: as the format file shows them. count: elements; 0: one value, no array.

    kind: "int"; "string": char[N]; "array": numbers; "data_loc": string or numbers at the end; "tail": name[] at the
    very end.
    """

    type: str
    name: str
    offset: int
    size: int
    is_signed: bool
    kind: str = "int"
    element: tuple[int, int] = (0, 0)             # of an array: (size, signed)
    declaration: str = ""                         # what stands between "field:" and ";"


@notrace
def _c_type(text: str) -> tuple[int, int]:
    """(size, signed) of a C type."""
    name = " ".join(text.replace("const ", "").replace("volatile ", "").replace("__user ", "").split())
    if name.endswith("*"):
        return 8, 0
    if name.startswith("enum "):
        return 4, 0
    if name not in _TYPES:
        raise ValueError(f"unknown C type {text!r}")
    return _TYPES[name]


@notrace
def parse_fields(text: str) -> list[FtraceEventField]:
    """Fields from their C text, laid out behind the common ones. Raises ValueError."""
    fields: list[FtraceEventField] = []
    offset = COMMON_SIZE
    for declaration in (" ".join(part.split()) for part in text.split(";")):
        if not declaration:
            continue
        match = _FIELD.match(declaration)
        if match is None:
            raise ValueError(f"cannot read the field {declaration!r}")
        c_type, name, count = match["type"].strip(), match["name"], match["count"]
        if match["loc"]:
            element = _c_type(c_type)
            align, size, signed, kind = 4, 4, element[1], "data_loc"
            full = f"__data_loc {c_type}[]"
        elif c_type.startswith("struct ") and not c_type.endswith("*"):
            raise ValueError(f"a struct as a field: {declaration!r}")
        else:
            element = _c_type(c_type)
            align, size, signed, kind, full = element[0], element[0], element[1], "int", c_type
            if size == 16:                        # uuid_t
                align, kind, element = 1, "string", (1, 0)
            if count is not None:
                number = sum(28 if "sockaddr_in6" in n else int(n) for n in count.split("+")) if count.strip() else 0
                size = element[0] * number
                kind = "tail" if not count.strip() else "string" if c_type == "char" else "array"
                full = f"{c_type}[{count}]"
        offset = -(-offset // align) * align
        shown = declaration if not match["loc"] else f"__data_loc {c_type}[] {name}"
        fields.append(FtraceEventField(full, name, offset, size, bool(signed), kind, element, shown))
        offset += size
    return fields


@notrace
def field_at(c_type: str, name: str, offset: int, size: int, is_signed: bool) -> FtraceEventField:
    """A field whose place is given (system calls: eight bytes for each argument, whatever its type)."""
    return FtraceEventField(c_type, name, offset, size, is_signed, "int", (size, int(is_signed)), f"{c_type} {name}")


@dataclass(slots=True, eq=False, repr=False)
class TraceEventCall:
    """struct trace_event_call and its class. tracepoint: the attribute of kernel.tp that raises it.

    assign: the tracepoint's arguments -> one value for each field (bytes for strings), or None: nothing to record.
    irqs_off: Linux raises it where interrupts are off (irqs-off column). register: how to switch it on and off where
    that is not the tracepoint's business. print_line: draws the text itself (ftrace's own entries).
    """

    system: str
    name: str
    fields: list[FtraceEventField]
    print_fmt: str
    assign: Assign
    tracepoint: str = ""
    irqs_off: bool = False
    id: int = 0
    ignore_enable: bool = False                   # TRACE_EVENT_FL_IGNORE_ENABLE: ftrace's own entries
    helpers: dict[str, Any] = field(default_factory=dict)
    register: Callable[[TraceEventFile, bool], None] | None = None
    data: Any = None                              # the owner's
    prog_array: tuple[BpfProg, ...] = ()          # each with a reference
    call_bpf: Callable[[Kernel, Any, Any], int] | None = None    # runs them, while there are some (kernel.events.bpf)
    pack: Callable[[Values], bytes] = None  # type: ignore[assignment]
    _printer: Printer | None = None

    def __post_init__(self) -> None:
        self.pack = _packer(self.fields)

    def unpack(self, payload: bytes | memoryview) -> dict[str, Any]:
        """Field values of a record, from behind its common fields: int, bytes (strings end at their first 0), tuple."""
        return {f.name: _value_of(f, payload) for f in self.fields}

    def print(self, kernel: Kernel, payload: bytes | memoryview) -> str:
        """The text that its print fmt makes of a record."""
        printer = self._printer
        if printer is None:
            printer = self._printer = compile_print_fmt(self.print_fmt, self.helpers)
        return printer(kernel, self, payload)

    def trace(self, kernel: Kernel, payload: bytes | memoryview) -> str:
        """trace_event_functions.trace: what stands in a line behind the time stamp. System calls show no name."""
        return f"{self.name}: {self.print(kernel, payload)}"

    def format_text(self) -> str:
        """The format file."""
        lines = [f"name: {self.name}\nID: {self.id}\nformat:\n"]
        lines += [_format_line(f) for f in COMMON_FIELDS]
        lines.append("\n")
        lines += [_format_line(f) for f in self.fields]
        return "".join(lines) + f"\nprint fmt: {self.print_fmt}\n"


@notrace
def _format_line(f: FtraceEventField) -> str:
    return f"\tfield:{f.declaration};\toffset:{f.offset};\tsize:{f.size};\tsigned:{int(f.is_signed)};\n"


COMMON_FIELDS = (
    field_at("unsigned short", "common_type", 0, 2, False), field_at("unsigned char", "common_flags", 2, 1, False),
    field_at("unsigned char", "common_preempt_count", 3, 1, False), field_at("int", "common_pid", 4, 4, True),
)


# ---- bytes -------------------------------------------------------------------------------------------------------
@notrace
def _layout(fields: list[FtraceEventField]) -> tuple[struct.Struct, int, int]:
    """(Struct of the fixed part, its end, the size of the C struct), counted from behind the common fields."""
    text, at, align = "<", COMMON_SIZE, 4
    for f in fields:
        if f.offset > at:
            text += f"{f.offset - at}x"
        size, signed = f.element
        if f.kind == "data_loc":
            text += "I"
        elif f.kind == "string":
            text += f"{f.size}s"
            size = 1
        elif f.kind == "array":
            text += f"{f.size // size}{_CODES[f.element]}"
        elif f.kind == "int":
            text += _CODES[f.element]
        if f.kind != "data_loc":
            align = max(align, size)
        at = f.offset + f.size
    return struct.Struct(text), at - COMMON_SIZE, -(-at // align) * align - COMMON_SIZE


@notrace
def _packer(fields: list[FtraceEventField]) -> Callable[[Values], bytes]:
    """pack(values): a record from behind its common fields."""
    layout, end, size = _layout(fields)
    kinds = [f.kind for f in fields]
    plain, padding = layout.pack, b"\0" * (size - end)
    tail = kinds[-1:] == ["tail"]
    if not tail and "data_loc" not in kinds:
        masks = [(1 << 8 * f.size) - 1 if f.kind == "int" and not f.is_signed else 0 for f in fields]

        def pack_slowly(values: Values) -> bytes:
            flat: list[Any] = []
            for f, value, mask in zip(fields, values, masks, strict=True):
                if f.kind == "array":
                    width, signed = f.element
                    flat.extend(_wrap(v, width) if signed else v & (1 << 8 * width) - 1 for v in value)
                elif mask:
                    flat.append(int(value) & mask)
                else:
                    flat.append(_wrap(int(value), f.size) if f.kind == "int" else value)
            return plain(*flat) + padding

        if "array" in kinds:
            return pack_slowly

        def pack(values: Values) -> bytes:
            try:
                return plain(*values) + padding
            except struct.error:                  # a value that C would cut to its type
                return pack_slowly(values)

        return pack

    def pack_dynamic(values: Values) -> bytes:
        flat: list[Any] = []
        extra = bytearray()
        for f, value in zip(fields, values, strict=True):
            if f.kind in ("data_loc", "tail"):
                if isinstance(value, bytes | bytearray | memoryview):
                    data = bytes(value) + b"\0" if f.kind == "data_loc" and f.element == (1, 1) else bytes(value)
                else:
                    data = b"".join((v & (1 << 8 * f.element[0]) - 1).to_bytes(f.element[0], "little") for v in value)
                if f.kind == "data_loc":
                    flat.append(len(data) << 16 | COMMON_SIZE + end + len(extra))
                extra += data
            elif f.kind == "array":
                flat.extend(value)
            elif f.kind == "int":
                flat.append(_wrap(int(value), f.size) if f.is_signed else int(value) & (1 << 8 * f.size) - 1)
            else:
                flat.append(value)
        return plain(*flat) + bytes(extra) + (b"" if tail else padding)

    return pack_dynamic


@notrace
def _wrap(value: int, size: int) -> int:
    half = 1 << 8 * size - 1
    return (value + half & 2 * half - 1) - half


@notrace
def _value_of(f: FtraceEventField, payload: bytes | memoryview) -> Any:
    start = f.offset - COMMON_SIZE
    if f.kind == "int":
        return int.from_bytes(payload[start : start + f.size], "little", signed=f.is_signed)
    if f.kind == "string":
        raw = bytes(payload[start : start + f.size])
        return raw if f.element == (1, 0) else raw.partition(b"\0")[0]
    if f.kind == "tail":
        raw, size = bytes(payload[start:]), f.element[0]
    elif f.kind == "data_loc":
        word = int.from_bytes(payload[start : start + 4], "little")
        where = (word & 0xFFFF) - COMMON_SIZE
        raw, size = bytes(payload[where : where + (word >> 16)]), f.element[0]
        if f.element == (1, 1):
            return raw.partition(b"\0")[0]
    else:
        raw, size = bytes(payload[start : start + f.size]), f.element[0]
    if size == 1:
        return raw
    signed = bool(f.element[1])
    starts = range(0, len(raw) - size + 1, size)
    return tuple(int.from_bytes(raw[i : i + size], "little", signed=signed) for i in starts)


# ---- declarations ------------------------------------------------------------------------------------------------
class EventClass:
    """DECLARE_EVENT_CLASS: fields, text and assignment that several events share."""

    def __init__(self, system: TraceSystem, fields: str, print_fmt: str, assign: Assign, helpers: dict[str, Any],
                 irqs_off: bool) -> None:
        self.system, self.fields, self.print_fmt, self.assign = system, fields, print_fmt, assign
        self.helpers, self.irqs_off = helpers, irqs_off

    def define(self, name: str, *, print_fmt: str | None = None, irqs_off: bool | None = None,
               assign: Assign | None = None) -> TraceEventCall:
        """DEFINE_EVENT, or with print_fmt DEFINE_EVENT_PRINT."""
        call = TraceEventCall(
            self.system.name, name, parse_fields(self.fields), print_fmt or self.print_fmt, assign or self.assign, name,
            self.irqs_off if irqs_off is None else irqs_off, helpers=self.helpers)
        return self.system.add(call)


class TraceSystem:
    """TRACE_SYSTEM: the events of one directory, in the order in which they were declared."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: list[TraceEventCall] = []

    def add(self, call: TraceEventCall) -> TraceEventCall:
        self.calls.append(call)
        return call

    def event(self, *, fields: str, print_fmt: str, irqs_off: bool = False,
              helpers: dict[str, Any] | None = None, name: str | None = None) -> Callable[[Assign], TraceEventCall]:
        """TRACE_EVENT: the decorated function, whose name is the event's, is its TP_fast_assign."""

        def declare(assign: Assign) -> TraceEventCall:
            event_name = name or assign.__name__
            return self.add(TraceEventCall(self.name, event_name, parse_fields(fields), print_fmt, assign,
                                           event_name, irqs_off,
                                           helpers=helpers or {}))

        return declare

    def event_class(self, *, fields: str, print_fmt: str, irqs_off: bool = False,
                    helpers: dict[str, Any] | None = None) -> Callable[[Assign], EventClass]:
        """DECLARE_EVENT_CLASS; events come from .define() of what it answers."""

        def declare(assign: Assign) -> EventClass:
            return EventClass(self, fields, print_fmt, assign, helpers or {}, irqs_off)

        return declare


@notrace
def trace_system(name: str) -> TraceSystem:
    return TraceSystem(name)
