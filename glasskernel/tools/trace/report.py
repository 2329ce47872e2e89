"""Who called what, how often, and where the time went; and how two runs differ."""
from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from glasskernel.tools.trace.model import ENTER, EVENT, LEAVE, Call, Trace, call_trees


@dataclass(slots=True)
class Function:
    """What all calls of one function sum up to. Times in ns; a recursive call counts once in total_ns."""

    name: str
    side: str
    calls: int = 0
    total_ns: int = 0
    self_ns: int = 0
    callers: Counter[str] = field(default_factory=Counter)
    callees: Counter[str] = field(default_factory=Counter)


def summary(trace: Trace) -> list[Function]:
    """Every function, the one with the most time of its own first. What had not returned lasts until the end."""
    functions: dict[tuple[str, str], Function] = {}
    stacks: dict[int, list[_Open]] = {}
    last_ns: dict[int, int] = {}
    for record in trace.records:
        stack = stacks.setdefault(record.tid, [])
        last_ns[record.tid] = record.time_ns
        if record.kind == ENTER:
            key = record.name, record.side
            function = functions.get(key)
            if function is None:
                function = functions[key] = Function(record.name, record.side)
            function.calls += 1
            function.callers[stack[-1].function.name if stack else ""] += 1
            if stack:
                stack[-1].function.callees[record.name] += 1
            stack.append(_Open(function, record.time_ns))
        elif record.kind == LEAVE and stack:
            _close(stack, record.time_ns)
    for tid, stack in stacks.items():
        while stack:
            _close(stack, last_ns[tid])
    return sorted(functions.values(), key=lambda f: (-f.self_ns, -f.calls, f.name))


@dataclass(slots=True)
class _Open:
    function: Function
    start_ns: int
    inner_ns: int = 0


def _close(stack: list[_Open], now_ns: int) -> None:
    call = stack.pop()
    duration = now_ns - call.start_ns
    call.function.self_ns += duration - call.inner_ns
    if all(outer.function is not call.function for outer in stack):
        call.function.total_ns += duration
    if stack:
        stack[-1].inner_ns += duration


@dataclass(slots=True)
class Difference:
    """One line of two call graphs side by side. change: "=" both, "-" only the first, "+" only the second.

    depth: of the call. left, right: how many calls in a row this line stands for.
    """

    change: str
    depth: int
    name: str
    left: int
    right: int
    left_ns: int = 0
    right_ns: int = 0


@dataclass(slots=True)
class _Group:
    """Calls of the same function in a row, with the same calls inside."""

    name: str
    count: int
    total_ns: int
    shape: tuple[object, ...]
    inner: list[_Group]


def _groups(call: Call, end_ns: int) -> list[_Group]:
    groups: list[_Group] = []
    for child in call.calls():
        inner = _groups(child, end_ns)
        shape = (child.name, tuple(group.shape for group in inner))
        duration = (child.end_ns if child.end_ns is not None else end_ns) - child.start_ns
        if groups and groups[-1].shape == shape:
            groups[-1].count += 1
            groups[-1].total_ns += duration
        else:
            groups.append(_Group(child.name, 1, duration, shape, inner))
    return groups


def compare(first: Trace, second: Trace) -> Iterator[Difference]:
    """Two call graphs side by side: the tasks in the order in which they appear, their calls in order."""
    left, right = list(call_trees(first).values()), list(call_trees(second).values())
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 4 * max(depth_of(first), depth_of(second)) + 1000))
    for i in range(max(len(left), len(right))):
        a = _groups(left[i], left[i].end_ns or 0) if i < len(left) else []
        b = _groups(right[i], right[i].end_ns or 0) if i < len(right) else []
        yield from _compare(a, b, 0)


def depth_of(trace: Trace) -> int:
    """How deep the calls of a task nest at most."""
    deepest = 0
    depth: Counter[int] = Counter()
    for record in trace.records:
        if record.kind == ENTER:
            depth[record.tid] += 1
            deepest = max(deepest, depth[record.tid])
        elif record.kind == LEAVE and depth[record.tid]:
            depth[record.tid] -= 1
    return deepest


def _compare(a: list[_Group], b: list[_Group], depth: int) -> Iterator[Difference]:
    matcher = SequenceMatcher(None, [g.name for g in a], [g.name for g in b], autojunk=False)
    for tag, a1, a2, b1, b2 in matcher.get_opcodes():
        if tag == "equal":
            for x, y in zip(a[a1:a2], b[b1:b2], strict=True):
                yield Difference("=", depth, x.name, x.count, y.count, x.total_ns, y.total_ns)
                yield from _compare(x.inner, y.inner, depth + 1)
            continue
        for group in a[a1:a2]:
            yield from _only("-", group, depth)
        for group in b[b1:b2]:
            yield from _only("+", group, depth)


def _only(change: str, group: _Group, depth: int) -> Iterator[Difference]:
    count, time = (group.count, group.total_ns), (0, 0)
    left, right = (count, time) if change == "-" else (time, count)
    yield Difference(change, depth, group.name, left[0], right[0], left[1], right[1])
    for inner in group.inner:
        yield from _only(change, inner, depth + 1)


def changed(lines: list[Difference], context: int = 0) -> list[Difference | None]:
    """Only what differs, with its callers; None stands where lines were left out."""
    keep = [False] * len(lines)
    for i, line in enumerate(lines):
        if line.change == "=" and line.left == line.right:
            continue
        for near in range(max(0, i - context), min(len(lines), i + context + 1)):
            keep[near] = True
        depth = line.depth
        for j in range(i - 1, -1, -1):                   # the callers
            if lines[j].depth < depth:
                depth = lines[j].depth
                if keep[j]:
                    break
                keep[j] = True
            if not depth:
                break
    out: list[Difference | None] = []
    for line, kept in zip(lines, keep, strict=True):
        if kept:
            out.append(line)
        elif out and out[-1] is not None:
            out.append(None)
    return out


def events(trace: Trace) -> Counter[str]:
    """How often each event happened."""
    return Counter(record.name for record in trace.records if record.kind == EVENT)
