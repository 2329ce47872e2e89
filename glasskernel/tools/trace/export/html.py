"""One HTML file with the whole trace: a timeline of every task, to zoom and search, and a table of functions.

Nothing is loaded from anywhere: it opens from disk.
"""
from __future__ import annotations

import json
from html import escape
from pathlib import Path

from glasskernel.tools.trace.model import ENTER, KERNEL, LEAVE, Trace
from glasskernel.tools.trace.report import summary


def write_html(trace: Trace, path: Path) -> None:
    """Raises OSError."""
    names: dict[tuple[str, str], int] = {}
    tasks: dict[int, dict[str, object]] = {}
    calls: dict[int, list[list[object]]] = {}
    events: dict[int, list[list[object]]] = {}
    stacks: dict[int, list[list[object]]] = {}
    deepest: dict[int, int] = {}
    last: dict[int, int] = {}
    for r in trace.records:
        stack = stacks.setdefault(r.tid, [])
        last[r.tid] = r.time_ns
        if r.kind == ENTER:
            call: list[object] = [r.time_ns, r.time_ns, len(stack), names.setdefault((r.name, r.side), len(names))]
            if r.text:
                call.append(r.text)
            calls.setdefault(r.tid, []).append(call)
            stack.append(call)
            deepest[r.tid] = max(deepest.get(r.tid, 0), len(stack))
        elif r.kind == LEAVE:
            if stack:
                stack.pop()[1] = r.time_ns
        else:
            events.setdefault(r.tid, []).append([r.time_ns, r.name, r.text])
    for tid, stack in stacks.items():
        for call in stack:
            call[1] = last[tid]
        task = trace.tasks.get(tid)
        tasks[tid] = {
            "name": f"{task.comm if task is not None else '?'} {tid}", "depth": deepest.get(tid, 0),
            "calls": calls.get(tid, []), "events": events.get(tid, []),
        }
    times = [r.time_ns for r in trace.records] or [0]
    document = {
        "start": min(times), "end": max(times), "names": [name for name, _ in names],
        "kernel": [int(side == KERNEL) for _, side in names], "tasks": list(tasks.values()),
        "table": [[f.calls, f.total_ns, f.self_ns, f.name] for f in summary(trace)],
    }
    # "</script>" in a string would end the element.
    data = json.dumps(document, separators=(",", ":")).replace("<", "\\u003c")
    page = Path(__file__).with_name("timeline.html").read_text(encoding="utf-8")
    title, release = escape(" ".join(trace.command)), escape(trace.release)
    for mark, text in (("@TITLE@", title), ("@RELEASE@", release), ("@DATA@", data)):
        page = page.replace(mark, text)
    path.write_text(page, encoding="utf-8")
