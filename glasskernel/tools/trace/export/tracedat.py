"""trace.dat, version 6: what trace-cmd and KernelShark read.

Source: trace-cmd's trace.dat(5). Function calls are events of the function_graph tracer, events are in the kernel's own
binary formats, both in ftrace's ring-buffer pages, one section a CPU.

User functions get addresses below the kernel's and stand in the kallsyms section, with their program file as the
module. Events of a saved trace, whose fields are text only, become lines of trace_marker.
"""
from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from glasskernel.kernel.kallsyms import kallsyms_table
from glasskernel.kernel.trace.events import event_calls
from glasskernel.kernel.trace.events.ftrace import ftrace, funcgraph_entry, funcgraph_exit, print_
from glasskernel.kernel.trace.ring_buffer import PAGE_SIZE, ring_buffer_alloc, ring_buffer_read_page, ring_buffer_write
from glasskernel.kernel.trace.trace_events import TraceEventCall
from glasskernel.kernel.trace.trace_events_files import HEADER_EVENT, HEADER_PAGE
from glasskernel.tools.trace.model import ENTER, EVENT, KERNEL, LEAVE, Record, Trace

_MAGIC = b"\x17\x08\x44tracing6\0"
_LITTLE_ENDIAN, _LONG_SIZE = 0, 8
_OPTION_DONE, _OPTION_TRACECLOCK, _OPTION_UNAME = 0, 4, 5
_COMMON = struct.Struct("<HBBi")
_FIRST_USER, _FUNCTION = 0x40_0000, 16
_CLOCK = "[local] global counter uptime perf mono mono_raw boot x86-tsc\n"


def write_tracedat(trace: Trace, path: Path) -> None:
    """Makes the file. Raises OSError."""
    used = {r.name for r in trace.records if r.kind == EVENT and r.fields is not None}
    calls = {f"{call.system}:{call.name}": call for call in event_calls()}
    addresses = _addresses(trace)
    out = bytearray(_MAGIC + struct.pack("<BBI", _LITTLE_ENDIAN, _LONG_SIZE, PAGE_SIZE))
    for name, text in (("header_page", HEADER_PAGE), ("header_event", HEADER_EVENT)):
        out += name.encode() + b"\0" + _sized("<Q", text.encode())
    out += _formats(ftrace.calls)
    out += _systems([calls[name] for name in sorted(used)])
    out += _sized("<I", _kallsyms(trace, addresses))
    out += _sized("<I", b"")                              # printk formats
    names = "".join(f"{task.tid} {task.comm}\n" for task in trace.tasks.values())
    out += _sized("<Q", names.encode(errors="surrogateescape"))
    out += struct.pack("<I", trace.cpus)
    out += _options(trace)
    out += b"flyrecord\0"
    _write_cpus(path, bytes(out), [_pages(entries) for entries in _entries(trace, calls, addresses)])


def _sized(code: str, data: bytes) -> bytes:
    return struct.pack(code, len(data)) + data


def _formats(calls: Iterable[TraceEventCall]) -> bytes:
    texts = [_sized("<Q", call.format_text().encode()) for call in calls]
    return struct.pack("<I", len(texts)) + b"".join(texts)


def _systems(calls: list[TraceEventCall]) -> bytes:
    systems: dict[str, list[TraceEventCall]] = {}
    for call in calls:
        systems.setdefault(call.system, []).append(call)
    parts = [system.encode() + b"\0" + _formats(members) for system, members in systems.items()]
    return struct.pack("<I", len(parts)) + b"".join(parts)


def _options(trace: Trace) -> bytes:
    uname = f"Linux localhost {trace.release} x86_64"
    out = b"options  \0"
    for number, text in ((_OPTION_TRACECLOCK, _CLOCK), (_OPTION_UNAME, uname)):
        out += struct.pack("<H", number) + _sized("<I", text.encode() + b"\0")
    return out + struct.pack("<H", _OPTION_DONE)


def _addresses(trace: Trace) -> dict[tuple[str, str], int]:
    """(side, name) -> address of every function in the trace."""
    table = kallsyms_table()
    kernel = {s.name: s.address for s in reversed(table.symbols)}
    found: dict[tuple[str, str], int] = {}
    users = unknown = 0
    for record in trace.records:
        key = record.side, record.name
        if record.kind != ENTER or key in found:
            continue
        if record.side != KERNEL:
            found[key] = _FIRST_USER + users * _FUNCTION
            users += 1
        elif record.name in kernel:
            found[key] = kernel[record.name]
        else:                                             # a trace of another version may know other functions
            found[key] = table.end + unknown * _FUNCTION
            unknown += 1
    return found


def _kallsyms(trace: Trace, addresses: dict[tuple[str, str], int]) -> bytes:
    lines = {s.address: f"{s.address:016x} T {s.name}\n" for s in kallsyms_table().symbols}
    for (side, name), address in addresses.items():
        module = "" if side == KERNEL else f"\t[{os.path.basename(trace.origin.get(name, 'unknown'))}]"
        lines.setdefault(address, f"{address:016x} T {name}{module}\n")
    return "".join(lines[address] for address in sorted(lines)).encode(errors="surrogateescape")


def _entries(trace: Trace, calls: dict[str, TraceEventCall],
             addresses: dict[tuple[str, str], int]) -> Iterator[list[tuple[int, bytes]]]:
    """(time, record) of each CPU."""
    entries: list[list[tuple[int, bytes]]] = [[] for _ in range(trace.cpus)]
    stacks: dict[int, list[Record]] = {}
    for record in trace.records:
        stack = stacks.setdefault(record.tid, [])
        if record.kind == ENTER:
            call, payload = funcgraph_entry, funcgraph_entry.pack((addresses[record.side, record.name], len(stack)))
            stack.append(record)
        elif record.kind == LEAVE:
            if not stack:
                continue
            begun = stack.pop()
            call = funcgraph_exit
            payload = call.pack((addresses[begun.side, begun.name], 0, begun.time_ns, record.time_ns, len(stack)))
        elif record.fields is not None:
            call = calls[record.name]
            fields = record.fields
            payload = call.pack([fields[f.name] for f in call.fields])
        else:
            call, payload = print_, print_.pack((0, f"{record.name}: {record.text}\n".encode() + b"\0"))
        entries[record.cpu].append((record.time_ns, _COMMON.pack(call.id, 0, 0, record.tid) + payload))
    yield from entries


def _pages(entries: list[tuple[int, bytes]]) -> bytes:
    """Records as ring-buffer pages."""
    size = sum(len(data) + 16 for _, data in entries)
    ring = ring_buffer_alloc(1, 2 * size + 100 * PAGE_SIZE, 0).buffers[0]
    last_ns = 0
    for time_ns, data in entries:
        last_ns = max(last_ns, time_ns)
        ring_buffer_write(ring, last_ns, data)
    pages = []
    while (page := ring_buffer_read_page(ring, PAGE_SIZE, False)) is not None:
        pages.append(bytes(page).ljust(PAGE_SIZE, b"\0"))
    return b"".join(pages)


def _write_cpus(path: Path, head: bytes, sections: list[bytes]) -> None:
    """The table of the CPUs' sections, and these, at page borders."""
    at = -(-(len(head) + 16 * len(sections)) // PAGE_SIZE) * PAGE_SIZE
    first, table = at, b""
    for section in sections:
        table += struct.pack("<QQ", at, len(section))
        at += len(section)
    with open(path, "wb") as out:
        out.write((head + table).ljust(first, b"\0"))
        for section in sections:
            out.write(section)
