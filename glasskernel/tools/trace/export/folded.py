"""Stacks and how long each was on top: folded text lines, and speedscope's file.

Sources: the input of flamegraph.pl ("a;b;c number"), and speedscope's file-format-spec.ts.
Times are nanoseconds of virtual time.
"""
from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from glasskernel.tools.trace.model import ENTER, KERNEL, LEAVE, Trace


def folded(trace: Trace) -> Counter[tuple[str, ...]]:
    """Stack, the task's name first -> ns in which its last function itself ran. Kernel functions end in _[k]."""
    weights: Counter[tuple[str, ...]] = Counter()
    stacks: dict[int, list[str]] = {}
    since: dict[int, int] = {}
    for record in trace.records:
        stack = stacks.get(record.tid)
        if stack is None:
            task = trace.tasks.get(record.tid)
            stack = stacks[record.tid] = [task.comm if task is not None else str(record.tid)]
        elif len(stack) > 1 and record.time_ns > since[record.tid]:
            weights[tuple(stack)] += record.time_ns - since[record.tid]
        since[record.tid] = record.time_ns
        if record.kind == ENTER:
            stack.append(record.name + "_[k]" * (record.side == KERNEL))
        elif record.kind == LEAVE and len(stack) > 1:
            stack.pop()
    return weights


def write_folded(trace: Trace, path: Path) -> None:
    """Raises OSError."""
    weights = sorted(folded(trace).items())
    lines = (f"{';'.join(name.replace(';', ':') for name in stack)} {ns}\n" for stack, ns in weights)
    path.write_text("".join(lines), encoding="utf-8")


def write_speedscope(trace: Trace, path: Path) -> None:
    """One evented profile a task. Raises OSError."""
    frames: dict[str, int] = {}
    profiles: dict[int, list[dict[str, object]]] = {}
    stacks: dict[int, list[int]] = {}
    last: dict[int, int] = {}
    for record in trace.records:
        if record.kind == ENTER:
            index = frames.setdefault(record.name, len(frames))
            stacks.setdefault(record.tid, []).append(index)
            profiles.setdefault(record.tid, []).append({"type": "O", "frame": index, "at": record.time_ns})
        elif record.kind == LEAVE and stacks.get(record.tid):
            index = stacks[record.tid].pop()
            profiles[record.tid].append({"type": "C", "frame": index, "at": record.time_ns})
        last[record.tid] = record.time_ns
    for tid, stack in stacks.items():
        profiles[tid] += [{"type": "C", "frame": index, "at": last[tid]} for index in reversed(stack)]
    document = {
        "$schema": "https://www.speedscope.app/file-format-schema.json",
        "name": " ".join(trace.command),
        "exporter": "glasskernel",
        "shared": {"frames": [{"name": name, "file": trace.origin[name]} if name in trace.origin else {"name": name}
                              for name in frames]},
        "profiles": [
            {"type": "evented", "name": f"{trace.tasks[tid].comm if tid in trace.tasks else '?'} ({tid})",
             "unit": "nanoseconds", "startValue": events[0]["at"], "endValue": last[tid], "events": events}
            for tid, events in profiles.items()
        ],
    }
    path.write_text(json.dumps(document), encoding="utf-8")
