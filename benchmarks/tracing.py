"""What tracing costs: `python -m benchmarks.tracing [--markdown]` makes benchmarks/TRACING.md.

Host time of the same work with and without tracing: of a system call, of `ls -R`, of reading the records. Glasskernel
is measured inside one process, in CPU time (start-up drops out, and two kernels can take turns, so that a busy host
slows both); strace, ltrace and uftrace as whole commands on the host.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks.__main__ import cache_folder, host_line
from benchmarks.suite import build_programs
from benchmarks.table import Budget, Report, Row, print_markdown, print_table
from glasskernel import Kernel, Share

INTRODUCTION = """# Speed of tracing

Made by `python -m benchmarks.tracing --markdown`. Host time: Glasskernel's is CPU time inside one process, the least of
some runs; the others' is wall time of the host's own program under that tool (uftrace: calls of library functions; ls
is not built with -pg), on a busy host not the same from run to run. *traced call*: what one call and return of a traced
kernel function costs, above the same work without tracing. Reading: of one record.

Host: {host}.
"""
TRACEFS = "/sys/kernel/tracing"
GUEST_DIR = "/mnt"
LS = "ls -R /usr/share/doc > /dev/null"
OFF = ("echo 0 > tracing_on; echo nop > current_tracer; echo > set_ftrace_filter; echo 0 > events/enable; "
       "echo > trace; echo 1 > tracing_on")
ALL = "echo function_graph > current_tracer"
FUNCTIONS = "echo function > current_tracer"
ONE = "echo ksys_lseek > set_ftrace_filter; echo function_graph > current_tracer"
KINDS = (("function_graph of one other function", ONE), ("function, all", FUNCTIONS), ("function_graph, all", ALL))
EVENT = "echo 1 > events/raw_syscalls/sys_enter/enable"


class Lab:
    """A machine, and how long things take in it."""

    def __init__(self, programs: Path) -> None:
        self.kernel = Kernel(cpus=1, shares=[Share(str(programs), GUEST_DIR)])

    def shell(self, script: str) -> bytes:
        done = self.kernel.run(["/bin/bash", "-c", script], cwd=TRACEFS, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"})
        if done.stderr:
            raise click.ClickException(done.stderr.decode(errors="replace").strip())
        return done.stdout

    def seconds(self, *argv: str) -> float:
        start = time.process_time()
        self.kernel.run(list(argv))
        return time.process_time() - start

    def per_call(self, count: int) -> float:
        """Host seconds of one getppid(): of N and of 2N, the difference."""
        program = f"{GUEST_DIR}/null_syscall"
        once, twice = self.seconds(program, str(count)), self.seconds(program, str(2 * count))
        return (twice - once) / count

    def stats(self) -> dict[str, float]:
        lines = self.shell("cat per_cpu/cpu0/stats").decode().splitlines()
        return {name: float(value) for name, _, value in (line.partition(": ") for line in lines)}

    def records(self) -> int:
        """Records made since the buffer was emptied."""
        stats = self.stats()
        return int(stats["entries"] + stats["overrun"])


def least(repeats: int, measure: Callable[[], float]) -> float:
    return min(measure() for _ in range(repeats))


def null_syscalls(programs: Path, repeats: int, rows: list[Row], budgets: list[Budget]) -> None:
    """One system call; and what having traced costs those who no longer do."""
    program, count = f"{GUEST_DIR}/null_syscall", 50_000
    labs = [Lab(programs) for _ in range(4)]     # two and two: where a machine's objects lie matters by a percent, too
    for lab in labs[1::2]:
        lab.shell(f"{ALL}; cat /etc/hostname > /dev/null; {OFF}; {EVENT}; {OFF}")
    times: dict[tuple[Lab, int], list[float]] = {(lab, n): [] for n in (1, count) for lab in labs}
    for _ in range(10 * repeats):                # in turns: what disturbs the host disturbs all
        for (lab, n), found in times.items():
            found.append(lab.seconds(program, str(n)))
    each = [(min(times[lab, count]) - min(times[lab, 1])) / count for lab in labs]
    plain, after = (each[0] + each[2]) / 2, (each[1] + each[3]) / 2
    rows.append(Row("null syscall, tracing never used", {"glasskernel": plain}))
    rows.append(Row("null syscall, tracing used and off", {"glasskernel": after}))
    more, noise = after / plain - 1, abs(each[0] - each[2]) / plain
    budgets.append(Budget("null syscall, tracing used and off, over never used", "1 %",
                          f"{100 * more:+.1f} % (two machines that never traced differ by {100 * noise:.1f} %)",
                          more <= 0.01))
    used = labs[1]
    for name, script in (("one event", EVENT), *KINDS):
        used.shell(f"{script}; echo > trace")
        rows.append(Row(f"null syscall, {name}", {"glasskernel": least(repeats, lambda: used.per_call(2_000))}))
        used.shell(OFF)


def listing(programs: Path, repeats: int, rows: list[Row]) -> None:
    """ls -R /usr/share/doc, and what a traced call costs in it."""
    lab = Lab(programs)
    lab.seconds("/bin/sh", "-c", LS)             # the page cache is warm
    times = {}
    for name, script in (("not traced", OFF), *KINDS):
        lab.shell(f"{OFF}; {script}; echo > trace")
        before = lab.records()
        times[name] = least(repeats, lambda: lab.seconds("/bin/sh", "-c", LS))
        if name == "function_graph, all":
            calls = (lab.records() - before) / repeats / 2
            each = (times[name] - times["not traced"]) / calls
            rows.append(Row("traced call, function_graph", {"glasskernel": each}))
        lab.shell(OFF)
        rows.append(Row(f"ls -R /usr/share/doc, {name}", {"glasskernel": times[name]}))


def reading(programs: Path, rows: list[Row]) -> None:
    """Records of a full buffer, as text and as pages."""
    lab = Lab(programs)
    for name, path, size in (("trace_pipe, text", "trace_pipe", 65536),
                             ("trace_pipe_raw, pages", "per_cpu/cpu0/trace_pipe_raw", 4096)):
        lab.shell(f"{OFF}; {EVENT}; {GUEST_DIR}/null_syscall 20000 > /dev/null; echo 0 > events/enable")
        before = lab.stats()["entries"]
        took = lab.seconds("/bin/sh", "-c",
                           f"dd if={TRACEFS}/{path} of=/dev/null bs={size} iflag=nonblock 2> /dev/null")
        rows.append(Row(f"reading a record, {name}", {"glasskernel": took / max(before - lab.stats()["entries"], 1)}))


def host_tools(programs: Path, repeats: int, rows: list[Row], notes: list[str]) -> None:
    """The same program under the host's tracers."""
    null, count = str(programs / "null_syscall"), 20_000
    with tempfile.TemporaryDirectory() as folder:
        for tool, prefix, some in (("native", [], count), ("strace", ["strace", "-o", "/dev/null"], 2_000),
                                   ("uftrace", ["uftrace", "record", "--force", "-d", f"{folder}/data"], 0),
                                   ("ltrace", ["ltrace", "-f", "-o", "/dev/null"], 0)):
            if prefix and not shutil.which(prefix[0]):
                notes.append(f"{tool} is not installed")
                continue
            if some:
                each = (least(repeats, lambda p=prefix, n=some: command([*p, null, str(2 * n)]))  # type: ignore[misc]
                        - least(repeats, lambda p=prefix, n=some: command([*p, null, str(n)]))) / some  # type: ignore[misc]
                row(rows, "null syscall, tracing never used").seconds[tool] = max(each, 0.0)
            took = least(repeats, lambda p=prefix: command([*p, "ls", "-R", "/usr/share/doc"]))  # type: ignore[misc]
            row(rows, "ls -R /usr/share/doc, not traced").seconds[tool] = took


def row(rows: list[Row], name: str) -> Row:
    return next(row for row in rows if row.name == name)


def command(argv: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, env=os.environ)
    return time.perf_counter() - start


@click.command()
@click.option("--quick", is_flag=True, help="One run of each: shows the order of magnitude.")
@click.option("--markdown", is_flag=True, help="Print Markdown, as committed in benchmarks/TRACING.md.")
@click.option("--only", type=click.Choice(["syscall", "ls", "read"]), help="One part.")
def main(quick: bool, markdown: bool, only: str | None) -> None:
    """What tracing costs, beside strace, ltrace and uftrace."""
    programs = cache_folder() / "programs"
    build_programs(programs)
    repeats = 1 if quick else 2
    rows: list[Row] = []
    budgets: list[Budget] = []
    notes: list[str] = []
    if only in (None, "syscall"):
        null_syscalls(programs, repeats, rows, budgets)
    if only in (None, "ls"):
        listing(programs, repeats, rows)
    if only in (None, "read"):
        reading(programs, rows)
    if only is None:
        host_tools(programs, repeats, rows, notes)
    peers = ["native", "strace", "ltrace", "uftrace", "glasskernel"] if only is None else ["glasskernel"]
    for one in rows:
        for peer in peers:
            one.seconds.setdefault(peer, None)
    report = Report(host_line(), peers, rows, budgets, notes)
    if markdown:
        print_markdown(report, INTRODUCTION)
    else:
        print_table(report)


if __name__ == "__main__":
    main()
