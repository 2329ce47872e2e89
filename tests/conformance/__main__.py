"""make conformance: python -m tests.conformance [-j JOBS] [NAME...]

Runs everything, or what is named (test_os, pipe, fuzz ...), and brings docs/conformance.md up to date: rows of what did
not run stay. Status 1 if anything differs from the host without a reason that is written down.
"""
from __future__ import annotations

import argparse
import datetime
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

from tests.conformance import cpython, damaged, powercut, storage, stress, sweep

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TABLE = ROOT / "docs" / "conformance.md"
PATIENCE = {"cpython": 600, "stress": 120, "sweep": 600, "powercut": 3600, "damaged": 1800, "storage": 3600}          # seconds of the host

SECTIONS = {
    "cpython": ("CPython's regression tests", "module",
                "Debian's python3.11 runs its own tests (libpython3.11-testsuite). *Host*: how many pass on the host's "
                "Linux; *inside*: how many of these pass in Glasskernel."),
    "stress": ("stress-ng", "stressor",
               "One worker, `--verify`, a few operations (`tests/conformance/stress.py`). The figures are exit codes: 0 is "
               "fine, 2 a failed check, 3 no resources, 4 not implemented."),
    "sweep": ("Schedules", "program",
              "The programs of `tests/programs` with 20 seeds, each on 1, 2, 4 and 8 CPUs; `fuzz N`: 3000 random system "
              "calls with each of 25 seeds from N on. After each, frames, address spaces and tables are checked."),
    "damaged": ("Damaged images", "seeds from",
                "Images of six formats, damaged by `tests/ext4/mutate.py` (random bytes; absurd fields under fresh checksums; an "
                "image that ends too early), 50 seeds from this number on: mounted, read through, written to. No oops, no leak, "
                "no endless loop."),
    "powercut": ("Power cuts", "file system, seed, part",
                 "A program writes, renames, syncs (`tests/powercut/work.c`); the power is cut before every command that "
                 "reaches the disk, three times: its cache keeps nothing, everything, or what the dice say. Then the file "
                 "system mounts, all that was promised is there, and e2fsck finds nothing."),
    "storage": ("Programs on ext4", "program",
                "What `tests/storage_tools` and `tests/storage_limits` do quickly, in its whole size: fio verifies 16 MB with every "
                "engine, git has 2,000 files, tar all of Python's library, stress-ng four workers on the disk; sqlite3 loses the "
                "power before every command of the disk; 65,000 links, 100,000 files in a directory. Afterwards e2fsck finds "
                "nothing."),
}
HEAD = """# Conformance

Other people's tests, run on the host's Linux and inside Glasskernel. Written by `make conformance`; to run some of it:
`.venv/bin/python -m tests.conformance test_os pipe fuzz`.
"""


def run_inside(kind: str, name: str, directory: pathlib.Path) -> dict[str, object]:
    """The part that runs in a process of its own, so that it can be stopped."""
    if kind == "cpython":
        return cpython.inside(name, directory / "log")
    if kind == "powercut":
        return powercut.inside(name, directory)
    if kind == "damaged":
        return damaged.inside(name, directory)
    if kind == "storage":
        return storage.inside(name, directory)
    return stress.inside(name) if kind == "stress" else sweep.inside(name, directory)


def in_a_process(kind: str, name: str, directory: pathlib.Path) -> dict[str, object]:
    argv = [sys.executable, "-m", "tests.conformance", "--inside", kind, name, str(directory)]
    try:
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=PATIENCE[kind], check=False)
    except subprocess.TimeoutExpired:
        return {"status": "timeout", "oopses": 0, "invariants": [], "why": f"took more than {PATIENCE[kind]} s"}
    if done.returncode:
        return {"status": "crash", "oopses": 1, "invariants": [], "why": "".join(done.stderr.decode().splitlines()[-1:])}
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def check(kind: str, name: str) -> tuple[str, str, str, bool]:
    """(on the host, inside, note, is it as it should be?)"""
    with tempfile.TemporaryDirectory() as text:
        directory = pathlib.Path(text)
        notes: list[str] = []
        ok = True
        if kind == "cpython":
            expected = cpython.on_host(name)
            answer = in_a_process(kind, name, directory)
            found = cpython.read_log(directory / "log")[0]
            passed, good, reasons, bad = cpython.differences(expected, found)
            host, inside = str(passed), str(good)
            notes = [f"{number}: {reason}" if number > 1 else reason for reason, number in reasons.items()]
            if bad:
                notes.append(f"**{len(bad)} differ**: {', '.join(bad[:3])}")
                ok = False
        elif kind == "stress":
            with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
                try:
                    code = subprocess.run(stress.command(name), cwd=scratch, env=cpython.ENV, capture_output=True,
                                          timeout=60, check=False, stdin=subprocess.DEVNULL).returncode
                    host = str(code)
                except subprocess.TimeoutExpired:
                    host = "timeout"
            answer = in_a_process(kind, name, directory)
            inside = str(answer["status"])
            reason = stress.REASONS.get(name, "")
            if inside != host:
                notes.append(reason or f"**differs** {answer['why']}")
                ok = bool(reason)
        else:
            answer = in_a_process(kind, name, directory)
            host, inside = "", f"{answer.get('good', 0)}/{answer.get('runs', '?')}"
            if answer["status"]:
                ok = False
                notes.append(f"**{answer['why']}**")
        if answer["status"] in ("timeout", "crash") and kind != "stress":
            under_way = (directory / "log").read_text() if kind == "damaged" and (directory / "log").exists() else ""
            notes.append(f"**{answer['status']}** {answer.get('why', '')} {under_way}".rstrip())
            ok = False
        if answer["oopses"] or answer["invariants"]:
            notes.append(f"**{answer['oopses']} oopses**, {answer['invariants']}")
            ok = False
        return host, inside, "; ".join(notes), ok


def write_table(rows: dict[str, dict[str, str]]) -> None:
    parts = [HEAD]
    for kind, (title, column, text) in SECTIONS.items():
        parts.append(f"## {title}\n\n{text}\n\n| {column} | host | inside | note | date |\n|---|---|---|---|---|\n"
                     + "".join(rows[kind][name] + "\n" for name in names_of(kind) if name in rows[kind]))
    TABLE.write_text("\n".join(parts))


def read_table() -> dict[str, dict[str, str]]:
    rows: dict[str, dict[str, str]] = {kind: {} for kind in SECTIONS}
    kind = ""
    titles = {title: kind for kind, (title, _, _) in SECTIONS.items()}
    for line in TABLE.read_text().splitlines() if TABLE.exists() else ():
        if line.startswith("## "):
            kind = titles.get(line[3:], "")
        elif kind and line.startswith("| ") and not line.startswith(f"| {SECTIONS[kind][1]} |"):
            rows[kind][line.split("|")[1].strip()] = line
    return rows


def names_of(kind: str) -> list[str]:
    return {"cpython": list(cpython.MODULES), "stress": sorted(stress.STRESSORS),
            "sweep": [*sweep.CHECKING, *sweep.FUZZ], "damaged": damaged.CASES,
            "powercut": powercut.CASES, "storage": storage.CASES}[kind]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__.splitlines()[0])
    parser.add_argument("-j", type=int, default=1, metavar="JOBS")
    parser.add_argument("--inside", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", metavar="NAME", help="cpython, stress, sweep, powercut, or one row of the table")
    options = parser.parse_args()
    if options.inside:
        kind, name, directory = options.inside
        print("\n" + json.dumps(run_inside(kind, name, pathlib.Path(directory))))
        return 0
    wanted = [(kind, name) for kind in SECTIONS for name in names_of(kind)
              if not options.names or {kind, name, name.split()[0]} & set(options.names)]
    bad = 0
    today = datetime.date.today().isoformat()

    def one(job: tuple[str, str]) -> tuple[str, str, tuple[str, str, str, bool], float]:
        begin = time.monotonic()
        return *job, check(*job), time.monotonic() - begin

    with ThreadPoolExecutor(options.j) as pool:
        for done in as_completed([pool.submit(one, job) for job in wanted]):
            kind, name, (host, inside, note, ok), seconds = done.result()
            rows = read_table()                  # again: somebody else may run another part
            rows[kind][name] = f"| {name} | {host} | {inside} | {note} | {today} |"
            print(f"{'ok  ' if ok else 'BAD '} {name}: {host} {inside} {note} ({seconds:.0f} s)", flush=True)
            bad += not ok
            write_table(rows)
    print(f"{len(wanted)} run, {bad} differ; see {TABLE.relative_to(ROOT)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
