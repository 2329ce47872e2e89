"""`glasskernel report` and `glasskernel diff`: saved traces as tables."""
from __future__ import annotations

import sys
from pathlib import Path
from typing import TextIO

import click

from glasskernel.tools.trace.export import writer_for
from glasskernel.tools.trace.model import Trace, TraceError, load
from glasskernel.tools.trace.report import Difference, Function, changed, compare, events, summary
from glasskernel.tools.trace.text import duration

_ORDER = {
    "self": lambda f: (-f.self_ns, -f.calls, f.name), "total": lambda f: (-f.total_ns, -f.calls, f.name),
    "calls": lambda f: (-f.calls, -f.self_ns, f.name), "name": lambda f: (f.name, f.side),
}


def open_trace(path: str) -> Trace:
    """A saved trace. Raises click.UsageError."""
    try:
        return load(path)
    except OSError as e:
        raise click.UsageError(f"{path}: {e.strerror or e}") from None
    except TraceError as e:
        raise click.UsageError(str(e)) from None


def show_summary(file: str, limit: int, sort: str, output: str | None) -> int:
    """Prints the functions of a trace, or converts it."""
    trace = open_trace(file)
    if output is not None:
        try:
            writer_for(output)(trace, Path(output))
        except TraceError as e:
            raise click.UsageError(f"-o {e}") from None
        except OSError as e:
            raise click.UsageError(f"-o {output}: {e.strerror}") from None
        return 0
    functions = sorted(summary(trace), key=_ORDER[sort])
    _header(trace, sys.stdout)
    print(f"{'self':>10} {'total':>10} {'calls':>7}  {'function':<40} called by")
    for function in functions[: limit or None]:
        print(f"{duration(function.self_ns)} {duration(function.total_ns)} {function.calls:7}  "
              f"{function.name:<40} {_callers(function)}".rstrip())
    for name, count in sorted(events(trace).items(), key=lambda item: (-item[1], item[0])):
        print(f"{'':21} {count:7}  {name}")
    return 0


def _header(trace: Trace, out: TextIO) -> None:
    calls = sum(record.kind == "<" for record in trace.records)
    out.write(f"# {' '.join(trace.command)}: {calls} calls, {len(trace.tasks)} tasks, Linux {trace.release}\n")


def _callers(function: Function) -> str:
    common = function.callers.most_common(4)
    text = ", ".join(f"{name or '(outside)'} {count}" for name, count in common[:3])
    return text + ", ..." * (len(common) > 3)


def show_difference(first: str, second: str, everything: bool) -> int:
    """Prints two call graphs side by side; 1 if they differ."""
    lines = list(compare(open_trace(first), open_trace(second)))
    shown = list(lines) if everything else changed(lines)
    differs = any(line.change != "=" or line.left != line.right for line in lines)
    if not differs and not everything:
        print("The same calls in the same order.")
        return 0
    print(f"  {'calls':>7} {'time':>10} {'calls':>7} {'time':>10}  function")
    for line in shown:
        print(_difference(line) if line is not None else f"  {'':37}  ...")
    return int(differs)


def _difference(line: Difference) -> str:
    left = f"{line.left:7} {duration(line.left_ns)}" if line.left else " " * 18
    right = f"{line.right:7} {duration(line.right_ns)}" if line.right else " " * 18
    mark = line.change if line.change != "=" else "*" if line.left != line.right else " "
    text = f"{mark} {left} {right}  {'  ' * line.depth}{line.name}"
    if not sys.stdout.isatty() or mark == " ":
        return text
    return f"\x1b[{ {'-': 31, '+': 32, '*': 33}[mark] }m{text}\x1b[0m"
