"""A trace as the host's tools see it: who was in which function when, and what happened meanwhile.

Owns: Trace, its records, and the reader and writer of the project's own file format (`.gkt`: one JSON value a line,
compressed with gzip): a header, then the tasks, then the records.
Invariants: records stand in the order in which they were made, and the times of one task never go back. A function that
was entered before the trace began is never left in it; one that was not left before the end has no LEAVE.
"""
from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

ENTER, LEAVE, EVENT = "<", ">", "!"
KERNEL, USER = "k", "u"
FORMAT = "glasskernel trace"
VERSION = 1


class TraceError(Exception):
    """A file that cannot be read as a trace; the text says why."""


class Record(NamedTuple):
    """One thing that happened.

    time_ns: virtual time since boot. kind: ENTER, LEAVE, EVENT. side: KERNEL or USER.
    name: of the function, or system:event. text: arguments, or the event's fields as Linux prints them.
    fields: of an event that was recorded just now, by name; a saved trace has the text only.
    """

    time_ns: int
    cpu: int
    tid: int
    kind: str
    side: str
    name: str
    text: str = ""
    fields: dict[str, Any] | None = None


@dataclass(slots=True)
class Task:
    """tid: the thread's number in the first PID namespace. pid: that of its process."""

    tid: int
    pid: int
    comm: str


@dataclass(slots=True)
class Trace:
    """A whole recording. origin: where a user function comes from: name -> file."""

    command: list[str] = field(default_factory=list)
    release: str = ""
    cpus: int = 1
    tasks: dict[int, Task] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    origin: dict[str, str] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Writes a .gkt file. Raises OSError."""
        header = {
            "format": FORMAT, "version": VERSION, "command": self.command, "release": self.release, "cpus": self.cpus,
            "tasks": [[t.tid, t.pid, t.comm] for t in self.tasks.values()], "origin": self.origin,
        }
        # No name and no time in the gzip header: the same run gives the same file.
        with open(path, "wb") as raw, gzip.GzipFile("", "wb", 6, raw, 0) as out:
            out.write(json.dumps(header).encode() + b"\n")
            for record in self.records:
                out.write(json.dumps(record[:7]).encode() + b"\n")


def load(path: str | Path) -> Trace:
    """Reads a .gkt file. Raises OSError, TraceError."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            header = json.loads(next(lines))
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise TraceError(f"{path} is not a Glasskernel trace")
            if header["version"] > VERSION:
                raise TraceError(f"{path} was written by a newer Glasskernel (format {header['version']})")
            trace = Trace(header["command"], header["release"], header["cpus"], origin=header["origin"])
            for tid, pid, comm in header["tasks"]:
                trace.tasks[tid] = Task(tid, pid, comm)
            trace.records = [Record(*json.loads(line)) for line in lines]
            return trace
    except (gzip.BadGzipFile, UnicodeDecodeError, json.JSONDecodeError, StopIteration):
        raise TraceError(f"{path} is not a Glasskernel trace (save one with: glasskernel trace -o FILE.gkt)") from None
    except (EOFError, TypeError, ValueError, KeyError) as e:
        raise TraceError(f"{path} is damaged: {e}") from None


@dataclass(slots=True)
class Call:
    """A call and what happened inside it. end_ns: None if it was not over when the trace ended.

    children: calls and events, in order.
    """

    name: str
    side: str
    tid: int
    cpu: int
    start_ns: int
    end_ns: int | None
    text: str = ""
    children: list[Call | Record] = field(default_factory=list)

    def calls(self) -> Iterator[Call]:
        return (child for child in self.children if isinstance(child, Call))


def calls_of(trace: Trace, pattern: str = "*") -> Iterator[Call]:
    """Every call of a function that matches, outermost first, task by task."""
    pending: list[Call | Record] = list(reversed(call_trees(trace).values()))
    while pending:
        node = pending.pop()
        if isinstance(node, Call):
            if node.name and fnmatchcase(node.name, pattern):
                yield node
            pending.extend(reversed(node.children))


def call_trees(trace: Trace) -> dict[int, Call]:
    """tid -> a root whose children are that task's outermost calls and events."""
    roots: dict[int, Call] = {}
    stacks: dict[int, list[Call]] = {}
    last_ns: dict[int, int] = {}
    for record in trace.records:
        tid = record.tid
        stack = stacks.get(tid)
        if stack is None:
            roots[tid] = Call("", "", tid, record.cpu, record.time_ns, None)
            stack = stacks[tid] = [roots[tid]]
        last_ns[tid] = record.time_ns
        if record.kind == ENTER:
            call = Call(record.name, record.side, tid, record.cpu, record.time_ns, None, record.text)
            stack[-1].children.append(call)
            stack.append(call)
        elif record.kind == LEAVE:
            if len(stack) > 1:
                stack.pop().end_ns = record.time_ns
        else:
            stack[-1].children.append(record)
    for tid, root in roots.items():
        root.end_ns = last_ns[tid]
    return roots
