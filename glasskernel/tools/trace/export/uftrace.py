"""A uftrace data directory: `uftrace replay|report|graph|tui|dump -d DIR` read it.

Source: uftrace's format (its utils/data-file.c and doc/), version 4, as versions 0.13 to 0.19 read it. User functions
are 16-byte records by task; kernel functions are ftrace's binary ring-buffer pages by CPU, so that filters such as
`-F do_sys_open@kernel` work.

User functions get addresses of this file's making: one segment a program file, 16 bytes a function. Kernel functions
have those of kallsyms.
"""
from __future__ import annotations

import os
import struct
from pathlib import Path

from glasskernel.kernel.kallsyms import kallsyms_table
from glasskernel.kernel.trace.events.ftrace import funcgraph_entry, funcgraph_exit
from glasskernel.kernel.trace.ring_buffer import PAGE_SIZE, ring_buffer_alloc, ring_buffer_read_page, ring_buffer_write
from glasskernel.kernel.trace.trace_events_files import HEADER_PAGE
from glasskernel.tools.trace.model import ENTER, KERNEL, LEAVE, Record, Trace

_VERSION, _HEADER_SIZE = 4, 40
_TASK_SESSION, _KERNEL, _SYM_REL_ADDR, _MAX_STACK = 1 << 1, 1 << 2, 1 << 5, 1 << 6      # features
_EXE_NAME, _CMDLINE, _TASKINFO = 1 << 0, 1 << 3, 1 << 7                                  # parts of info
_MAX_DEPTH = 1023
_FIRST_SEGMENT, _SEGMENT, _PAGE, _FUNCTION = 0x400000, 0x10_0000, 0x1000, 16
_STACK_START = 0x7FFF_FFFD_E000
_MAGIC = 5
_COMMON = struct.Struct("<HBBi")
_SESSION = "0123456789abcdef"


class _Files:
    """Addresses for the functions of every program file."""

    def __init__(self, trace: Trace) -> None:
        self.files: dict[str, dict[str, int]] = {}
        for record in trace.records:
            if record.kind == ENTER and record.side != KERNEL:
                functions = self.files.setdefault(trace.origin.get(record.name, "unknown"), {})
                functions.setdefault(record.name, len(functions))
        self.base = {file: _FIRST_SEGMENT + i * _SEGMENT for i, file in enumerate(self.files)}
        self.address = {
            name: self.base[file] + _PAGE + number * _FUNCTION
            for file, functions in self.files.items() for name, number in functions.items()
        }


def write_uftrace(trace: Trace, path: Path) -> None:
    """Makes the directory. Raises OSError."""
    path.mkdir(parents=True, exist_ok=True)
    files = _Files(trace)
    program = next(iter(files.files), trace.command[0] if trace.command else "unknown")
    _write_info(trace, path, program)
    _write_tasks(trace, path, program)
    _write_maps(files, path)
    _write_user(trace, path, files)
    _write_kernel(trace, path)


def _write_info(trace: Trace, path: Path, program: str) -> None:
    features = _TASK_SESSION | _KERNEL | _SYM_REL_ADDR | _MAX_STACK
    header = struct.pack("<8sIHBBQQHHI", b"Ftrace!\0", _VERSION, _HEADER_SIZE, 1, 2, features,
                         _EXE_NAME | _CMDLINE | _TASKINFO, _MAX_DEPTH, 0, 0)
    tids = ",".join(str(tid) for tid in trace.tasks)
    text = (f"exename:{program}\ncmdline:glasskernel trace {' '.join(trace.command)}\n"
            f"taskinfo:lines=2\ntaskinfo:nr_tid={len(trace.tasks)}\ntaskinfo:tids={tids}\n")
    (path / "info").write_bytes(header + text.encode(errors="surrogateescape"))


def _stamp(ns: int) -> str:
    return f"{ns // 10**9}.{ns % 10**9:09}"


def _write_tasks(trace: Trace, path: Path, program: str) -> None:
    first: dict[int, int] = {}
    for record in trace.records:
        first.setdefault(record.tid, record.time_ns)
    lines: list[str] = []
    for task in trace.tasks.values():
        at = _stamp(first.get(task.tid, 0))
        if not lines:
            lines.append(f'SESS timestamp={at} pid={task.pid} sid={_SESSION} exename="{program}"')
            lines.append(f"TASK timestamp={at} tid={task.tid} pid={task.pid}")
        elif task.tid == task.pid:
            parent = next(iter(trace.tasks))
            lines.append(f"FORK timestamp={at} pid={task.pid} ppid={parent}")
        else:
            lines.append(f"TASK timestamp={at} tid={task.tid} pid={task.pid}")
    (path / "task.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_maps(files: _Files, path: Path) -> None:
    lines = []
    for number, (file, functions) in enumerate(files.files.items()):
        base = files.base[file]
        lines.append(f"{base:08x}-{base + _SEGMENT:08x} r-xp 00000000 00:00 {number + 1:<8} {file}")
        symbols = [f"{_PAGE + at * _FUNCTION:016x} T {name}" for name, at in functions.items()]
        symbols.append(f"{_PAGE + len(functions) * _FUNCTION:016x} ? __sym_end")
        text = f"# symbols: {len(symbols)}\n# path name: {file}\n# build-id:\n" + "\n".join(symbols) + "\n"
        (path / f"{os.path.basename(file)}.sym").write_text(text, encoding="utf-8")
    lines.append(f"{_STACK_START:x}-{_STACK_START + 0x21000:x} rw-p 00000000 00:00 0        [stack]")
    (path / f"sid-{_SESSION}.map").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_user(trace: Trace, path: Path, files: _Files) -> None:
    out: dict[int, bytearray] = {tid: bytearray() for tid in trace.tasks}
    stacks: dict[int, list[str]] = {}
    for record in trace.records:
        if record.side == KERNEL or record.kind not in (ENTER, LEAVE):
            continue
        stack = stacks.setdefault(record.tid, [])
        if record.kind == ENTER:
            word = _word(0, len(stack), files.address[record.name])
            stack.append(record.name)
        elif stack:
            name = stack.pop()
            word = _word(1, len(stack), files.address[name])
        else:
            continue
        out[record.tid] += struct.pack("<QQ", record.time_ns, word)
    for tid, data in out.items():
        (path / f"{tid}.dat").write_bytes(data)


def _word(kind: int, depth: int, address: int) -> int:
    return kind | _MAGIC << 3 | min(depth, _MAX_DEPTH) << 6 | address << 16


def _write_kernel(trace: Trace, path: Path) -> None:
    formats = (("events/header_page", HEADER_PAGE),
               ("events/ftrace/funcgraph_entry/format", funcgraph_entry.format_text()),
               ("events/ftrace/funcgraph_exit/format", funcgraph_exit.format_text()))
    header = "PAGE_SIZE: 4096\nLONG_SIZE: 8\nENDIAN: LE\n"
    header += "".join(f"TRACEFS: {name}: {len(text.encode())}\n{text}" for name, text in formats)
    (path / "kernel_header").write_text(header, encoding="utf-8")
    table = kallsyms_table()
    addresses = {s.name: s.address for s in reversed(table.symbols)}
    for record in trace.records:                         # a trace of another version may know other functions
        if record.side == KERNEL and record.kind == ENTER and record.name not in addresses:
            addresses[record.name] = table.end + _FUNCTION * len(addresses)
    symbols = sorted((address, name) for name, address in addresses.items())
    (path / "kallsyms").write_text("".join(f"{at:016x} T {name}\n" for at, name in symbols), encoding="utf-8")
    records: dict[int, list[tuple[int, bytes]]] = {cpu: [] for cpu in range(trace.cpus)}
    stacks: dict[int, list[Record]] = {}
    for record in trace.records:
        if record.side != KERNEL or record.kind not in (ENTER, LEAVE):
            continue
        stack = stacks.setdefault(record.tid, [])
        if record.kind == ENTER:
            data = _entry(funcgraph_entry.id, record.tid, funcgraph_entry.pack((addresses[record.name], len(stack))))
            stack.append(record)
        elif stack:
            call = stack.pop()
            values = (addresses[call.name], 0, call.time_ns, record.time_ns, len(stack))
            data = _entry(funcgraph_exit.id, record.tid, funcgraph_exit.pack(values))
        else:
            continue
        records[record.cpu].append((record.time_ns, data))
    for cpu, entries in records.items():
        buffer = ring_buffer_alloc(1, (len(entries) + 100) * 64, 0)
        ring = buffer.buffers[0]
        last_ns = 0
        for time_ns, data in entries:
            last_ns = max(last_ns, time_ns)
            ring_buffer_write(ring, last_ns, data)
        with open(path / f"kernel-cpu{cpu}.dat", "wb") as out:
            while (page := ring_buffer_read_page(ring, PAGE_SIZE, False)) is not None:
                out.write(page.ljust(PAGE_SIZE, b"\0"))


def _entry(number: int, tid: int, payload: bytes) -> bytes:
    return _COMMON.pack(number, 0, 0, tid) + payload
