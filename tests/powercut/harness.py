"""Cuts the power of a machine while a program writes to ext4, at every command of the disk, and looks at what is left.

After each cut: the file system mounts (which replays the journal), whatever fsync() and friends had promised is there,
nothing is there that was never written, and after umount e2fsck has nothing to say.
"""
from __future__ import annotations

import pathlib
import subprocess
from dataclasses import dataclass, field

from glasskernel import Kernel, Share
from glasskernel.machine.console import MemoryStream
from glasskernel.machine.disk import Disk
from glasskernel.tools.invariants import check_kernel
from glasskernel.tools.powercut import MarkStream, RecordingDisk, WriteLog, choosers

HERE = pathlib.Path(__file__).parent
RECORD = 64
MEMORY = 64 << 20
# name -> (arguments of mke2fs, mount options, arguments of RecordingDisk)
KINDS: dict[str, tuple[list[str], str, dict[str, object]]] = {
    "ext4": (["-t", "ext4", "-b", "4096"], "", {}),
    "ext4-1k": (["-t", "ext4", "-b", "1024"], "", {"atom": 1024}),
    "ext4-nodelalloc": (["-t", "ext4", "-b", "4096"], "nodelalloc", {}),
    "ext4-journal": (["-t", "ext4", "-b", "4096"], "data=journal", {}),
    "ext4-async-commit": (["-t", "ext4", "-b", "4096"], "journal_async_commit,data=writeback", {}),
    "ext3": (["-t", "ext3", "-b", "1024"], "", {"atom": 1024}),
    "ext4-hdd": (["-t", "ext4", "-b", "4096"], "", {"model": "hdd"}),
}


def build(directory: pathlib.Path) -> None:
    for name in ("work", "look"):
        subprocess.run(["gcc", "-O1", "-static", "-o", directory / name, HERE / f"{name}.c"], check=True)


def make_image(path: pathlib.Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    subprocess.run(["mke2fs", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,hash_seed=" + "-".join(
        ("00000000", "0000", "4000", "8000", "000000000001")), "-U", "00000000-0000-4000-8000-000000000002",
        *KINDS[kind][0], str(path), "16M"], check=True, capture_output=True)


def _mount_options(kind: str, extra: str = "") -> str:
    return ",".join(filter(None, (KINDS[kind][1], extra)))


def record(directory: pathlib.Path, kind: str, seed: int, steps: int, options: str = "") -> WriteLog:
    """One run of work.c, to its end; then the machine stands still."""
    image = directory / f"{kind}.img"
    make_image(image, kind)
    disk = RecordingDisk(str(image), seed=seed, **KINDS[kind][2])
    kernel = Kernel(cmdline="oops=panic", cpus=2, memory=MEMORY, seed=seed, disks=[disk],
                    shares=[Share(str(directory), "/programs")])
    streams = (MemoryStream(), MarkStream(disk.log), MemoryStream())
    flags = _mount_options(kind, options)
    command = ["/bin/sh", "-c", f"mkdir /mnt/t; mount -t {kind.split('-')[0]} {f'-o {flags}' if flags else ''} /dev/sda /mnt/t"
                                f" && exec /programs/work /mnt/t {seed} {steps}"]
    result = kernel.run(command, streams=streams)
    assert result.status == 0, (streams[1].getvalue()[-300:], streams[2].getvalue())
    assert streams[1].getvalue().endswith(b"end\n")
    assert not kernel.oopses, kernel.oopses[0]
    kernel.close()
    return disk.log


@dataclass
class Promises:
    """What the marks before a cut say."""

    must: dict[str, tuple[str, ...]] = field(default_factory=dict)      # path -> (kind, arguments)
    attributes: dict[str, int] = field(default_factory=dict)
    sizes: dict[tuple[str, int], int] = field(default_factory=dict)     # path, version -> records
    newest: dict[str, int] = field(default_factory=dict)                # path -> version that is being written

    def __post_init__(self) -> None:
        self.must = {}

    def add(self, text: str) -> None:
        kind, path, *rest = text.split()
        if kind == "will":
            version, records = int(rest[1]), int(rest[2])
            self.sizes[path, version] = records
            self.newest[path] = version
        elif kind == "may":
            self.must.pop(path, None)
        elif kind == "attr":
            self.attributes[path] = int(rest[0])
        else:
            self.must[path] = (kind, *rest)

    def broken(self, seen: dict[str, list[str]]) -> list[str]:
        """What is not as promised. seen: path -> what look.c says of it."""
        wrong = []
        for path, (kind, *rest) in self.must.items():
            found = seen.get(path)
            if kind == "gone":
                if found is not None:
                    wrong.append(f"{path} is there again")
            elif found is None:
                wrong.append(f"{path} is lost")
            elif kind == "dir":
                wrong += [] if found[0] == "d" else [f"{path} is no directory"]
            elif kind == "link":
                wrong += [] if found == ["l", *rest] else [f"{path} is {found}"]
            elif found[0] != "f":
                wrong.append(f"{path} is {found}")
            else:
                problem = self._of_file(path, kind, [int(n) for n in rest], found)
                wrong += [f"{path}: {problem}: promised {kind} {' '.join(rest)}, found {' '.join(found)}"] if problem else []
        for path, value in self.attributes.items():
            found = seen.get(path, ["", *["-"] * 7])
            if found[7] == "-" or int(found[7]) < value:
                wrong.append(f"{path}: attribute {value} is lost: {found}")
        wrong += [f"{path}: something that nobody wrote: {found}" for path, found in seen.items()
                  if found[0] == "unreadable" or (found[0] == "f" and found[6] == "bad")]
        return wrong

    def _of_file(self, path: str, kind: str, promised: list[int], found: list[str]) -> str:
        size, number, oldest, newest, good = (int(n) for n in found[1:6])
        if kind == "grow":
            if good < promised[1] or (good and number != promised[0]):
                return "records are lost"
            return ""
        if number != promised[0]:
            return "another file's contents"
        if oldest < promised[1]:
            return "an older version"
        if newest > self.newest.get(path, promised[1]):
            return "a version that was never written"
        if kind == "have" and (oldest != newest or found[6] != "-" or size != self.sizes[path, newest] * RECORD):
            return "not one whole version"
        if good < promised[2] and (kind == "place" or newest == promised[1]):
            return "records are lost"
        return ""


def promises_at(log: WriteLog, cut: int) -> Promises:
    promises = Promises()
    for mark in log.marks_before(cut):
        if mark != b"end":
            promises.add(mark.decode())
    return promises


def recovers(directory: pathlib.Path, log: WriteLog, kind: str, cut: int, image: bytes) -> list[str]:
    """What is wrong after a cut: nothing, one hopes."""
    path = directory / f"{kind}.cut"
    path.write_bytes(image)
    disk = Disk(str(path))
    kernel = Kernel(cmdline="oops=panic", cpus=1, memory=MEMORY, disks=[disk], shares=[Share(str(directory), "/programs")])
    flags = _mount_options(kind)
    wrong = []
    result = kernel.run(["/bin/sh", "-c", f"mkdir /mnt/t; mount -t {kind.split('-')[0]} {f'-o {flags}' if flags else ''} "
                                          "/dev/sda /mnt/t && /programs/look /mnt/t && umount /mnt/t"])
    lines = result.stdout.decode().splitlines()
    if result.status or lines[-1:] != ["end"]:
        log_lines = [line for line in kernel.dmesg().splitlines() if "EXT4" in line or "JBD2" in line]
        wrong.append(f"status {result.status}: {result.stderr.decode()} {log_lines[-5:]}")
    wrong += kernel.oopses
    wrong += check_kernel(kernel)
    kernel.close()
    disk.close()
    if not wrong:
        seen = {}
        for line in lines[:-1]:
            name, *rest = line.split()
            seen[name] = rest
        wrong += promises_at(log, cut).broken(seen)
    checked = subprocess.run(["e2fsck", "-fn", str(path)], capture_output=True, check=False)
    if checked.returncode:
        wrong.append("e2fsck: " + checked.stdout.decode())
    return wrong


def some(cuts: list[int], count: int) -> list[int]:
    """At most so many of them, evenly, the last one included."""
    if len(cuts) <= count:
        return cuts
    return sorted({cuts[n * (len(cuts) - 1) // (count - 1)] for n in range(count)})


def sweep(directory: pathlib.Path, kind: str, seed: int, steps: int, points: int, dice: int = 1) -> tuple[int, list[str]]:
    """(number of cuts, the first ones that went wrong): every way in turn that the cache may keep, at `points` moments."""
    build(directory)
    log = record(directory, kind, seed, steps)
    ways = choosers(seed, dice)
    wrong: list[str] = []
    cuts = some(log.cuts(), points)
    for number, cut in enumerate(cuts):
        name, keep = ways[number % len(ways)]
        problems = recovers(directory, log, kind, cut, log.image_at(cut, keep))
        if problems:
            wrong.append(f"{kind} seed {seed} steps {steps}: cut before moment {cut}, the cache keeps {name}: {problems}")
            if len(wrong) == 3:
                break
    return len(cuts), wrong
