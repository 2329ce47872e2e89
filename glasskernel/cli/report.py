"""`--report`: what a run did, on stderr. A table on a terminal, `name value` lines in a pipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TextIO


@dataclass(slots=True)
class RunReport:
    """virtual_ns: the guest's clock at the end. syscalls: calls by name; enosys: those not implemented."""

    host_seconds: float
    virtual_ns: int
    syscalls: Mapping[str, int] = field(default_factory=dict)
    enosys: Mapping[str, int] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)  # faults, switches, ..., in the order to show


def by_count(calls: Mapping[str, int]) -> list[tuple[str, int]]:
    """Most frequent first; then by name."""
    return sorted(calls.items(), key=lambda item: (-item[1], item[0]))


def show_report(report: RunReport, out: TextIO) -> None:
    if out.isatty():
        _show_tables(report, out)
    else:
        _show_lines(report, out)


def _show_lines(report: RunReport, out: TextIO) -> None:
    lines = [f"host-time {report.host_seconds:.3f} s", f"virtual-time {report.virtual_ns / 1e9:.6f} s"]
    lines += [f"{name.replace(' ', '-')} {number}" for name, number in report.counts.items()]
    lines.append(f"syscalls {sum(report.syscalls.values())}")
    lines += [f"syscall {name} {number}" for name, number in by_count(report.syscalls)]
    lines += [f"enosys {name} {number}" for name, number in by_count(report.enosys)]
    out.write("\n".join(lines) + "\n")


def _show_tables(report: RunReport, out: TextIO) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.columns import Columns
    from rich.console import Console
    from rich.table import Table

    console = Console(file=out, highlight=False)
    summary = Table(box=SIMPLE_HEAD, title="Run", show_header=False)
    summary.add_column()
    summary.add_column(justify="right")
    summary.add_row("host time", f"{report.host_seconds:.3f} s")
    summary.add_row("virtual time", f"{report.virtual_ns / 1e9:.6f} s")
    for name, number in report.counts.items():
        summary.add_row(name, f"{number:,}")
    calls = Table(box=SIMPLE_HEAD, title="System calls")
    calls.add_column("call")
    calls.add_column("count", justify="right")
    for name, number in by_count(report.syscalls):
        calls.add_row(name, f"{number:,}")
    tables = [summary, calls]
    if report.enosys:
        missing = Table(box=SIMPLE_HEAD, title="Not implemented (ENOSYS)")
        missing.add_column("call")
        missing.add_column("count", justify="right")
        for name, number in by_count(report.enosys):
            missing.add_row(name, f"{number:,}")
        tables.append(missing)
    console.print(Columns(tables))
