"""The result: seconds per operation, the ratios that say something, and the budgets; as rich or Markdown."""

from __future__ import annotations

from dataclasses import dataclass

VERDICTS = {True: "kept", False: "MISSED", None: "not measured"}
INTRODUCTION = """# Speed

Made by `python -m benchmarks --markdown`. Host time of one operation; *vs*: how many times faster
Glasskernel is, so below 1 it is slower. Every program runs with N and with 2N operations and the
difference counts, so start-up drops out; *boot* is the start-up itself, from the host's `execve` of the
command to the first byte of a program without a C library.

Host: {host}.
"""
BASES = ("native", "qemu-user", "strace", "qiling")


@dataclass(frozen=True, slots=True)
class Row:
    """seconds: of one operation by peer; None: the peer cannot run it."""

    name: str
    seconds: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Budget:
    """What DESIGN allows and what it is. kept: None when it could not be measured."""

    name: str
    allowed: str
    measured: str
    kept: bool | None


@dataclass(frozen=True, slots=True)
class Report:
    host: str
    peers: list[str]
    rows: list[Row]
    budgets: list[Budget]
    notes: list[str]


def duration(seconds: float | None) -> str:
    """Three digits with a unit."""
    if seconds is None:
        return "-"
    if seconds < 0.9995e-6:
        return f"{max(seconds, 0.0) * 1e9:.0f} ns"
    for unit, scale in (("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)):
        if seconds < 999.5 * scale or unit == "s":
            break
    value = seconds / scale
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f} {unit}"


def ratio(row: Row, base: str) -> str:
    """How Glasskernel compares: above 1 it is faster than `base`."""
    ours, theirs = row.seconds.get("glasskernel"), row.seconds.get(base)
    if not ours or not theirs or ours <= 0 or theirs <= 0:
        return "-"
    times = theirs / ours
    return f"{times:.2g}x" if times < 10 else f"{times:.0f}x"


def _cells(report: Report) -> tuple[list[str], list[list[str]]]:
    others = [peer for peer in report.peers if peer in BASES]
    header = ["operation", *report.peers, *(f"vs {peer}" for peer in others)]
    body = []
    for row in report.rows:
        times = (duration(row.seconds[peer]) for peer in report.peers)
        body.append([row.name, *times, *(ratio(row, peer) for peer in others)])
    return header, body


def print_table(report: Report) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200
    header, body = _cells(report)
    table = Table(box=SIMPLE, title="Host time of one operation", caption=report.host)
    for i, name in enumerate(header):
        style = "bold" if name == "glasskernel" else None
        table.add_column(name, justify="left" if i == 0 else "right", style=style, no_wrap=True)
    for cells in body:
        table.add_row(*cells)
    console.print(table)
    console.print("vs: how many times faster Glasskernel is; below 1 it is slower.")
    if report.budgets:
        table = Table("budget", "allowed", "measured", "", box=SIMPLE)
        for budget in report.budgets:
            table.add_row(budget.name, budget.allowed, budget.measured, VERDICTS[budget.kept])
        console.print(table)
    for note in report.notes:
        console.print(f"* {note}")


def print_markdown(report: Report, introduction: str = INTRODUCTION) -> None:
    header, body = _cells(report)
    print(introduction.format(host=report.host))
    print("| " + " | ".join(header) + " |")
    print("|---" + "|---:" * (len(header) - 1) + "|")
    for cells in body:
        print("| " + " | ".join(cells) + " |")
    if report.budgets:
        print("\n| budget | allowed | measured | |\n|---|---:|---:|---|")
        for b in report.budgets:
            print(f"| {b.name} | {b.allowed} | {b.measured} | {VERDICTS[b.kept]} |")
    if report.notes:
        print("\nNot measured:\n")
        for note in report.notes:
            print(f"* {note}")
