"""Files, page cache, ext4 and its disk: `python -m benchmarks.storage [--markdown]` makes benchmarks/STORAGE.md.

Host time, as in `python -m benchmarks`, of the host's own kernel and file system, of qemu-user on these, and of
Glasskernel with its ext4 disk of the default machine. And what becomes of ten times the work: at most eleven times
the time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click

from benchmarks.__main__ import cache_folder, host_line
from benchmarks.measure import CannotRun, Effort, output_of_one, run_once, seconds_per_operation
from benchmarks.peers import GUEST_DIR, Peer, find_peers, glasskernel_prefix
from benchmarks.suite import Benchmark, build_programs
from benchmarks.table import Budget, Report, Row, print_markdown, print_table

INTRODUCTION = """# Speed of storage

Made by `python -m benchmarks.storage --markdown`. Host time of one operation on an ext4 disk; *native* and
*qemu-user* work on the host's own disk. *vs*: how many times faster Glasskernel is, so below 1 it is slower. *growth*:
Glasskernel's time for ten times the work, without its start, over that for the work.

Host: {host}.
"""
QUICK, FULL = Effort(0.05, 1), Effort(0.25, 2)
PROGRAM = "{dir}/storage"
SUITE = (
    Benchmark("write 64 KB at the end, cached", (PROGRAM, "append", "{tmp}"), 64),
    Benchmark("write 4 KB anywhere, cached", (PROGRAM, "write", "{tmp}", "4096"), 256),
    Benchmark("read 64 KB in turn, cached", (PROGRAM, "seqread", "{tmp}"), 256),
    Benchmark("read 4 KB anywhere, cached", (PROGRAM, "read", "{tmp}", "4096"), 256),
    Benchmark("read 64 KB in turn, from disk", (PROGRAM, "cold", "{tmp}"), 256),
    Benchmark("read 4 KB anywhere, O_DIRECT", (PROGRAM, "dread", "{tmp}"), 64),
    Benchmark("write 4 KB anywhere, O_DIRECT", (PROGRAM, "dwrite", "{tmp}"), 64),
    Benchmark("write 4 KB at the end and fsync", (PROGRAM, "fsync", "{tmp}"), 16),
)
FILES, TAR = 10_000, "tar x of the standard library"
CREATE, STAT_UNLINK, MOUNT = "create a file, of 10,000", "stat and unlink it", "mount and umount, 10 GB image"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run measures: the peers, with `{tmp}` a folder on a disk; images by size in GB."""

    programs: Path
    disk: Path
    images: dict[int, Path]


def took(peer: Peer, argv: tuple[str, ...], effort: Effort) -> float:
    """The least host time of this command. Raises CannotRun."""
    times = []
    for _ in range(effort.repeats):
        times.append(run_once(peer.command(argv))[0])
        if not peer.name.startswith("glasskernel"):
            clear(Path(peer.tmp))
    return min(times)


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def make_tar(path: Path) -> int:
    """The standard library without its tests. Returns the number of files."""
    source = Path(sysconfig.get_path("stdlib"))
    names = [str(found.relative_to(source)) for found in sorted(source.rglob("*.py"))
             if not {"test", "tests", "site-packages", "dist-packages"} & set(found.parts)]
    subprocess.run(["tar", "-cf", path, "-C", source, "-T", "-"], input="\n".join(names), text=True, check=True)
    return len(names)


def glasskernel_with_disk(place: Place, size: int) -> Peer:
    prefix = glasskernel_prefix(place.programs, "--no-disk", "--disk", f"{place.images[size]},cow")
    return Peer("glasskernel", prefix, GUEST_DIR, "/tmp")


@contextmanager
def mounter(peer: Peer, place: Place, size: int) -> Iterator[tuple[Peer, str]]:
    """A peer that can mount an image of so many GB, and the device's name. Raises CannotRun."""
    if peer.name == "glasskernel":
        yield glasskernel_with_disk(place, size), "/dev/sda"
        return
    done = subprocess.run(["losetup", "--find", "--show", place.images[size]], capture_output=True, text=True)
    if done.returncode:
        raise CannotRun(f"losetup: {done.stderr.strip().rpartition(': ')[2]}")
    try:
        yield peer, done.stdout.strip()
    finally:
        subprocess.run(["losetup", "--detach", done.stdout.strip()], check=True)


def mount_seconds(peer: Peer, place: Place, size: int, effort: Effort) -> float:
    with mounter(peer, place, size) as (there, device):
        benchmark = Benchmark(MOUNT, (PROGRAM, "mount", "{tmp}", device, "ext4"), 2)
        return seconds_per_operation(there, benchmark, effort, b"done\n")


def file_seconds(peer: Peer, what: str, effort: Effort) -> float:
    """One of ten thousand files in one directory."""
    start = took(peer, (PROGRAM, "create", "{tmp}", "0"), effort)
    create = took(peer, (PROGRAM, "create", "{tmp}", str(FILES)), effort)
    if what == CREATE:
        return (create - start) / FILES
    return (took(peer, (PROGRAM, "files", "{tmp}", str(FILES)), effort) - create) / FILES


def tar_seconds(peer: Peer, effort: Effort) -> float:
    start = took(peer, ("/bin/tar", "--version"), effort)
    return took(peer, ("/bin/tar", "-xmf", "{dir}/stdlib.tar", "-C", "{tmp}"), effort) - start


def measure(peer: Peer, name: str, place: Place, effort: Effort) -> float:
    """Seconds of one operation. Raises CannotRun."""
    if name == TAR:
        return tar_seconds(peer, effort)
    if name == MOUNT:
        return mount_seconds(peer, place, 10, effort)
    if name in (CREATE, STAT_UNLINK):
        return file_seconds(peer, name, effort)
    benchmark = next(b for b in SUITE if b.name == name)
    return seconds_per_operation(peer, benchmark, effort, output_of_one(peer, benchmark))


def growth(place: Place, peer: Peer, effort: Effort) -> list[tuple[str, Callable[[], tuple[float, float]]]]:
    """By name: what measures (time for some work, time for ten times as much)."""

    def of(mode: str, count: int) -> Callable[[], tuple[float, float]]:
        def both() -> tuple[float, float]:
            start, once, ten = (took(peer, (PROGRAM, mode, "{tmp}", str(n)), effort) for n in (0, count, 10 * count))
            return once - start, ten - start

        return both

    def of_mount() -> tuple[float, float]:
        once, ten = (mount_seconds(peer, place, size, effort) for size in (1, 10))
        return once, ten

    return [
        ("a file of 10 MB, of 100 MB: written, fsync, read from disk", of("grow", 160)),
        ("1,000 files, 10,000: created", of("create", 1_000)),
        ("1,000 files, 10,000: created, stat, unlinked", of("files", 1_000)),
        ("200 writes with fsync, 2,000", of("fsync", 200)),
        ("mount of 1 GB, of 10 GB", of_mount),
    ]


@contextmanager
def prepared(cache: Path) -> Iterator[Place]:
    """Programs, a tar file, images; the images are sparse."""
    programs = cache / "programs"
    build_programs(programs)
    make_tar(programs / "stdlib.tar")
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        disk = Path(folder) / "disk"
        disk.mkdir()
        images = {size: Path(folder) / f"{size}g.img" for size in (1, 10)}
        for size, path in images.items():
            subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", path, f"{size}G"], check=True, capture_output=True)
        yield Place(programs, disk, images)


@click.command()
@click.option("--quick", is_flag=True, help="One short run of each: shows the order of magnitude.")
@click.option("--markdown", is_flag=True, help="Print Markdown, as committed in benchmarks/STORAGE.md.")
@click.option("--only", metavar="TEXT", multiple=True, help="Only rows whose name contains TEXT. Repeatable.")
@click.option("--peers", default="native,qemu-user", show_default=True, help="Whom to measure besides Glasskernel.")
def main(quick: bool, markdown: bool, only: tuple[str, ...], peers: str) -> None:
    """Host time of work on files, natively, in qemu-user and in Glasskernel; and how it grows."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    for program in ("gcc", "mke2fs", "tar"):
        if not shutil.which(program):
            raise click.ClickException(f"{program} is needed")
    effort = QUICK if quick else FULL
    rows, budgets, notes = [], [], []
    names = [name for name in (*(b.name for b in SUITE), CREATE, STAT_UNLINK, TAR, MOUNT)
             if not only or any(text in name for text in only)]
    cache = cache_folder()
    with prepared(cache) as place:
        found, missing = find_peers(place.programs, cache, {"qemu-user"} & set(peers.split(",")))
        found = [replace(peer, tmp="/root" if peer.name == "glasskernel" else str(place.disk)) for peer in found
                 if peer.name == "glasskernel" or peer.name in peers.split(",")]
        notes += missing
        for name in names:
            seconds: dict[str, float | None] = {}
            for peer in found:
                tell(f"{name}: {peer.name}")
                try:
                    seconds[peer.name] = measure(peer, name, place, effort)
                except CannotRun as e:
                    seconds[peer.name] = None
                    notes.append(f"{peer.name}: {e} ({name})")
                clear(place.disk)
            rows.append(Row(name, seconds))
        for name, both in growth(place, found[-1], effort):
            if not only or any(text in name for text in only):
                tell(f"growth: {name}")
                try:
                    once, ten = both()
                    budgets.append(Budget(f"growth: {name}", "11x", f"{ten / once:.1f}x", ten <= 11 * once))
                except CannotRun as e:
                    budgets.append(Budget(f"growth: {name}", "11x", str(e), None))
    tell("")
    report = Report(host_line(), [peer.name for peer in found], rows, budgets, notes)
    if markdown:
        print_markdown(report, INTRODUCTION)
    else:
        print_table(report)


def tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
