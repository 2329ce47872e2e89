"""What is measured: one line for each row of the table."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "programs"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One row. argv: the program and its arguments; the count is appended."""

    name: str
    argv: tuple[str, ...]
    start: int = 64  # the first count that is tried


SUITE = (
    Benchmark("null syscall", ("{dir}/null_syscall",), 1000),
    Benchmark("read 1 B, /dev/zero", ("{dir}/io", "read", "/dev/zero", "1"), 1000),
    Benchmark("read 64 KB, /dev/zero", ("{dir}/io", "read", "/dev/zero", "65536"), 100),
    Benchmark("write 1 B, /dev/null", ("{dir}/io", "write", "/dev/null", "1"), 1000),
    Benchmark("write 64 KB, /dev/null", ("{dir}/io", "write", "/dev/null", "65536"), 1000),
    Benchmark("read 1 B, tmpfs file", ("{dir}/io", "read", "{tmp}/gk-bench", "1"), 1000),
    Benchmark("read 64 KB, tmpfs file", ("{dir}/io", "read", "{tmp}/gk-bench", "65536"), 100),
    Benchmark("write 1 B, tmpfs file", ("{dir}/io", "write", "{tmp}/gk-bench", "1"), 1000),
    Benchmark("write 64 KB, tmpfs file", ("{dir}/io", "write", "{tmp}/gk-bench", "65536"), 100),
    Benchmark("pipe ping-pong, 2 processes", ("{dir}/pipe_pingpong",), 100),
    Benchmark("fork + exit + wait", ("{dir}/spawn", "fork"), 8),
    Benchmark("fork + exec + wait, static", ("{dir}/spawn", "{emulator}", "{dir}/empty_static"), 4),
    Benchmark("fork + exec + wait, dynamic", ("{dir}/spawn", "{emulator}", "{dir}/empty_dynamic"), 4),
    Benchmark("thread create + join", ("{dir}/thread_create",), 16),
    Benchmark("page fault", ("{dir}/page_fault",), 512),
    Benchmark("mmap + munmap", ("{dir}/mmap_munmap",), 200),
    Benchmark("stat", ("{dir}/stat_file", "/etc/passwd"), 200),
    Benchmark("compute (sieve, matrix, hash, qsort)", ("{dir}/compute",), 1),
)
FIRST = ("{dir}/first",)
BOOT = "boot: start to first byte out"

_STATIC = ("-static", "-pthread")
_BUILDS = {
    "first": ("first.c", ("-nostdlib", "-static")),
    "empty_static": ("empty.c", ("-static",)),
    "empty_dynamic": ("empty.c", ()),
}


def build_programs(folder: Path) -> None:
    """Compiles what is missing or older than its source. Raises CalledProcessError."""
    folder.mkdir(parents=True, exist_ok=True)
    builds = {source.stem: (source.name, _STATIC) for source in SOURCES.glob("*.c")} | _BUILDS
    newest = max(source.stat().st_mtime for source in SOURCES.iterdir())
    for name, (source, options) in sorted(builds.items()):
        target = folder / name
        if name in ("empty",) or (target.exists() and target.stat().st_mtime > newest):
            continue
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-o", str(target), str(SOURCES / source), *options]
        subprocess.run(command, check=True)
