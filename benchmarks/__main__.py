"""python -m benchmarks: builds the programs, measures every peer, prints one table."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

import click

from benchmarks.budgets import check_budgets
from benchmarks.measure import (
    FULL,
    QUICK,
    CannotRun,
    output_of_one,
    seconds_per_operation,
    seconds_to_first_output,
)
from benchmarks.peers import Peer, find_peers
from benchmarks.suite import BOOT, SUITE, build_programs
from benchmarks.table import Report, Row, print_markdown, print_table

OTHERS = ("qemu-user", "strace", "qiling")


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "glasskernel-bench"


@click.command()
@click.option("--quick", is_flag=True, help="One short run of each: shows the order of magnitude.")
@click.option("--markdown", is_flag=True, help="Print Markdown, as committed in benchmarks/RESULTS.md.")
@click.option("--only", metavar="TEXT", multiple=True, help="Only rows whose name contains TEXT. Repeatable.")
@click.option("--peers", default=",".join(OTHERS), show_default=True, help="Whom to measure besides native.")
def main(quick: bool, markdown: bool, only: tuple[str, ...], peers: str) -> None:
    """Host time of one operation, natively and under each peer."""
    if not shutil.which("gcc"):
        raise click.ClickException("gcc is needed to build the programs")
    wanted = {name for name in peers.split(",") if name}
    if unknown := wanted - {*OTHERS}:
        raise click.UsageError(f"unknown peer {sorted(unknown)[0]!r}: there are {', '.join(OTHERS)}")
    cache = cache_folder()
    programs = cache / "programs"
    build_programs(programs)
    found, notes = find_peers(programs, cache, wanted)
    effort = QUICK if quick else FULL
    rows = []
    failures: dict[tuple[str, str], list[str]] = {}

    def chosen(name: str) -> bool:
        return not only or any(text in name for text in only)

    def measure(name: str, peer: Peer) -> float | None:
        if sys.stderr.isatty():
            print(f"\r\033[K{name}: {peer.name}", end="", file=sys.stderr, flush=True)
        try:
            if name == BOOT:
                return seconds_to_first_output(peer, 3 * effort.repeats)
            benchmark = next(b for b in SUITE if b.name == name)
            expected = output_of_one(found[0], benchmark)
            return seconds_per_operation(peer, benchmark, effort, expected)
        except CannotRun as e:
            failures.setdefault((peer.name, str(e)), []).append(name)
            return None

    for name in (BOOT, *(benchmark.name for benchmark in SUITE)):
        if chosen(name):
            rows.append(Row(name, {peer.name: measure(name, peer) for peer in found}))
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    notes += [f"{peer}: {reason} ({'; '.join(names)})" for (peer, reason), names in failures.items()]
    budgets = [] if only else check_budgets(rows, programs, effort)
    report = Report(host_line(), [peer.name for peer in found], rows, budgets, notes)
    if markdown:
        print_markdown(report)
    else:
        print_table(report)


def host_line() -> str:
    return f"{cpu_model()}, Linux {platform.release()}, Python {platform.python_version()}"


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
