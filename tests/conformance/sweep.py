"""Our own guest programs under other seeds and numbers of CPUs: other schedules, other random numbers."""
from __future__ import annotations

import pathlib
import subprocess

PROGRAMS = pathlib.Path(__file__).parent.parent / "programs"
TALKERS = {"fork_exec", "fuzz", "hogs", "hello_mmap", "pty_talk", "segfault", "signal_loop", "wild_pointers"}    # no PASS, no FAIL
CHECKING = sorted(path.stem for path in PROGRAMS.glob("*.c") if path.stem not in TALKERS)
FUZZ = [f"fuzz {first}" for first in range(100, 300, 25)]
SEEDS, FUZZ_SEEDS = 20, 25
CPUS = (1, 2, 4, 8)


def build(name: str, directory: pathlib.Path) -> pathlib.Path:
    program = directory / name
    subprocess.run(["gcc", "-O1", "-static", "-pthread", f"-I{PROGRAMS}", "-o", program, PROGRAMS / f"{name}.c"], check=True,
                   capture_output=True)
    return program


def inside(name: str, directory: pathlib.Path) -> dict[str, object]:
    """All seeds of one program. why: the first that went wrong, with what replays it."""
    from glasskernel import Kernel, Share
    from glasskernel.tools.invariants import check_kernel

    program, _, first = name.partition(" ")
    path = build(program, directory)
    if first:
        seeds = range(int(first), int(first) + FUZZ_SEEDS)
        schedules = [(seed, CPUS[seed % 4]) for seed in seeds]
    else:
        schedules = [(seed, cpus) for seed in range(1, SEEDS + 1) for cpus in CPUS]
    good, why, oopses, broken = 0, "", 0, []
    for seed, cpus in schedules:
        kernel = Kernel(cpus=cpus, seed=seed, memory=256 << 20, shares=[Share(str(path.parent), "/programs")])
        argv = [f"/programs/{program}", *([str(seed), "3000"] if first else [])]
        result = kernel.run(argv, cwd="/root")
        output = result.stdout.decode(errors="replace")
        failed = [line for line in output.splitlines() if line.startswith("FAIL")]
        broken += check_kernel(kernel)
        oopses += len(kernel.oopses)
        if result.status == 0 and not failed and ("alive" if first else "PASS") in output:
            good += 1
        elif not why:
            why = f"seed {seed}, {cpus} CPUs: status {result.status} {' '.join(failed[:1])}"
        kernel.close()
    return {"status": 0 if good == len(schedules) else 1, "good": good, "runs": len(schedules), "why": why,
            "oopses": oopses, "invariants": broken}
