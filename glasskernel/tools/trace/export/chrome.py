"""Chrome's JSON trace format, which the Perfetto UI reads too.

Source: "Trace Event Format" (Chromium project): B and E events nest strictly on one thread, times in microseconds.
"""
from __future__ import annotations

import json
from pathlib import Path

from glasskernel.tools.trace.model import ENTER, LEAVE, USER, Trace


def write_chrome(trace: Trace, path: Path) -> None:
    """Raises OSError."""
    depth: dict[int, int] = {}
    last_us: dict[int, float] = {}
    pids = {tid: task.pid for tid, task in trace.tasks.items()}
    events: list[dict[str, object]] = []
    for task in trace.tasks.values():
        for name in ("thread_name", "process_name")[: 2 if task.pid == task.tid else 1]:
            events.append({"ph": "M", "name": name, "pid": task.pid, "tid": task.tid, "args": {"name": task.comm}})
    for r in trace.records:
        event: dict[str, object] = {"pid": pids.get(r.tid, r.tid), "tid": r.tid, "ts": r.time_ns / 1000}
        last_us[r.tid] = r.time_ns / 1000
        if r.kind == ENTER:
            depth[r.tid] = depth.get(r.tid, 0) + 1
            event |= {"ph": "B", "name": r.name, "cat": "user" if r.side == USER else "kernel"}
            if r.text:
                event["args"] = {"arguments": r.text}
        elif r.kind == LEAVE:
            if not depth.get(r.tid):
                continue
            depth[r.tid] -= 1
            event |= {"ph": "E", "name": r.name}
        else:
            event |= {"ph": "i", "s": "t", "name": r.name, "cat": "event", "args": {"fields": r.text, "cpu": r.cpu}}
        events.append(event)
    for tid, left in depth.items():
        events += [{"ph": "E", "pid": pids.get(tid, tid), "tid": tid, "ts": last_us[tid]}] * left
    with open(path, "w", encoding="utf-8") as out:
        out.write('{"displayTimeUnit": "ns", "otherData": ')
        json.dump({"command": trace.command, "release": trace.release}, out)
        out.write(', "traceEvents": [\n')
        out.write(",\n".join(json.dumps(event) for event in events))
        out.write("\n]}\n")
