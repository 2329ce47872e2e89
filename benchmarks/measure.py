"""How it is measured: host time of whole processes, from outside.

Time inside Glasskernel is virtual, so no program can time itself. A program is run with N and with 2N
operations; the difference of the two host times, divided by N, is the cost of one operation: starting the
process, the interpreter or the kernel drops out. The same is done for every peer. Each time is the least of
several runs.
Owns: the search for an N whose difference stands clear of the noise.
Invariants: an answer counts only if the program left with status 0, wrote nothing to stderr and printed what
    it prints natively.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import Peer
from benchmarks.suite import FIRST, Benchmark

ROOT = Path(__file__).resolve().parent.parent  # so that `python -m glasskernel` is this tree's
TIMEOUT_S = 60


class CannotRun(Exception):
    """The peer does not run this program. The text says what happened."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to look: `target_s` is the difference of times that is enough, `repeats` the runs of each."""

    target_s: float
    repeats: int


QUICK = Effort(0.05, 1)
FULL = Effort(0.4, 3)


def environment() -> dict[str, str]:
    """The same for every run: nothing of the caller's, such as an order to write no compiled modules."""
    return {"PATH": os.environ["PATH"], "HOME": "/", "PYTHONHASHSEED": "0"}


def run_once(command: list[str]) -> tuple[float, bytes]:
    """Seconds from start to end, and the output."""
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, env=environment(), timeout=TIMEOUT_S, cwd=ROOT)
    except subprocess.TimeoutExpired:
        raise CannotRun(f"did not finish in {TIMEOUT_S} s") from None
    took = time.perf_counter() - start
    if done.returncode or done.stderr:
        raise CannotRun(complaint(done.stderr, done.returncode))
    return took, done.stdout


def complaint(stderr: bytes, status: int) -> str:
    """The line of an error output that says most: our own first one, a Python traceback's last one."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    own = [line.removeprefix("glasskernel: ") for line in lines if line.startswith("glasskernel: ")]
    return (own or lines[-1:] or [f"exit status {status}"])[0][:120]


def output_of_one(peer: Peer, benchmark: Benchmark) -> bytes:
    """What the program prints after one operation. Raises CannotRun."""
    return run_once(peer.command((*benchmark.argv, "1")))[1]


def seconds_per_operation(peer: Peer, benchmark: Benchmark, effort: Effort, expected: bytes) -> float:
    """The cost of one operation. expected: output_of_one(native). Raises CannotRun."""

    def run(count: int, repeats: int = 1) -> float:
        argv = (*benchmark.argv, str(count))
        times = []
        for _ in range(repeats):
            took, output = run_once(peer.command(argv))
            if (output if count == 1 else output[-1:]) != (expected if count == 1 else expected[-1:]):
                raise CannotRun("left with status 0 but did not do its work")
            times.append(took)
        return min(times)

    count = benchmark.start
    base = run(1, 2)
    while True:
        extra = run(count) - base
        if extra >= effort.target_s:
            break
        # Aim a little above the target; a difference lost in noise grows the count tenfold.
        factor = 1.2 * effort.target_s / extra if extra > effort.target_s / 10 else 10
        count = max(count + 1, int(count * min(factor, 10)))
    for attempt in (1, 2, 4):
        extra = run(2 * count, attempt * effort.repeats) - run(count, attempt * effort.repeats)
        if extra > effort.target_s / 4:
            return extra / count
    raise CannotRun("lost in the noise of a busy host")


def seconds_to_first_output(peer: Peer, repeats: int) -> float:
    """From starting the command to the first byte of a program that does nothing else. Raises CannotRun."""
    return min(_first_output(peer)[0] for _ in range(repeats))


def peak_memory(peer: Peer) -> int:
    """The most bytes of host memory that the command held while it ran that program. Raises CannotRun."""
    return _first_output(peer)[1]


def _first_output(peer: Peer) -> tuple[float, int]:
    start = time.perf_counter()
    command, pipe = peer.command(FIRST), subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment(), cwd=ROOT)
    with process:
        assert process.stdout is not None and process.stderr is not None
        byte = os.read(process.stdout.fileno(), 1)
        took = time.perf_counter() - start
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if byte != b"x":
        raise CannotRun(complaint(errors, process.returncode))
    return took, usage.ru_maxrss * 1024
