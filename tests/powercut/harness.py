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
from glasskernel.machine.disk import MEDIUM_ERROR, Disk, DiskFaults
from glasskernel.tools.invariants import check_kernel
from glasskernel.tools.powercut import MarkStream, RecordingDisk, WriteLog, choosers

HERE = pathlib.Path(__file__).parent
RECORD = 64
MEMORY = 64 << 20


@dataclass(frozen=True)
class Kind:
    """A file system to be hurt."""

    mke2fs: str
    options: str = ""                          # of mount
    atom: int = 4096                           # the disk writes so much at once, or not at all
    model: str = "ssd"
    processes: int = 1

    @property
    def stale_data(self) -> bool:
        """ext4(5), data=writeback: a file that was not synced may show after a crash what its blocks held before."""
        return "data=writeback" in self.options


KINDS = {
    "ext4": Kind("-t ext4 -b 4096"),
    "ext4-1k": Kind("-t ext4 -b 1024", atom=1024),
    "ext4-nodelalloc": Kind("-t ext4 -b 4096", "nodelalloc"),
    "ext4-journal": Kind("-t ext4 -b 4096", "data=journal"),
    "ext4-async-commit": Kind("-t ext4 -b 4096", "journal_async_commit,data=writeback"),
    "ext4-indirect": Kind("-t ext4 -b 1024 -O ^extent,^64bit,^metadata_csum", atom=1024),
    "ext3": Kind("-t ext3 -b 1024", atom=1024),
    "ext4-hdd": Kind("-t ext4 -b 4096", model="hdd"),
    "ext4-processes": Kind("-t ext4 -b 4096", processes=3),
}


def build(directory: pathlib.Path) -> None:
    for name in ("work", "look"):
        subprocess.run(["gcc", "-O1", "-static", "-o", directory / name, HERE / f"{name}.c"], check=True)


def make_image(path: pathlib.Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    subprocess.run(["mke2fs", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,hash_seed=" + "-".join(
        ("00000000", "0000", "4000", "8000", "000000000001")), "-U", "00000000-0000-4000-8000-000000000002",
        *KINDS[kind].mke2fs.split(), str(path), "16M"], check=True, capture_output=True,
        env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "E2FSPROGS_FAKE_TIME": "1568577600"})


def _mount_options(kind: str, extra: str = "") -> str:
    return ",".join(filter(None, (KINDS[kind].options, extra)))


def _work(kind: str, seed: int, steps: int, options: str = "") -> list[str]:
    """Mounts /dev/sda and runs work.c there, perhaps several times at once."""
    flags = _mount_options(kind, options)
    workers = [f"mkdir /mnt/t/p{n}; /programs/work /mnt/t/p{n} {seed + 100 * n} {steps} p{n}/"
               for n in range(KINDS[kind].processes)]
    return ["/bin/sh", "-c", f"mkdir /mnt/t; mount -t {kind.split('-')[0]} {f'-o {flags}' if flags else ''} /dev/sda /mnt/t"
                             f" || exit 9; {''.join(f'({worker}) & ' for worker in workers)} wait"]


def record(directory: pathlib.Path, kind: str, seed: int, steps: int, options: str = "") -> WriteLog:
    """One run of work.c, to its end; then the machine stands still."""
    image = directory / f"{kind}.img"
    make_image(image, kind)
    disk = RecordingDisk(str(image), seed=seed, model=KINDS[kind].model, atom=KINDS[kind].atom)
    kernel = Kernel(cmdline="oops=panic", cpus=2, memory=MEMORY, seed=seed, disks=[disk], home=False,
                    shares=[Share(str(directory), "/programs")])
    streams = (MemoryStream(), MarkStream(disk.log), MemoryStream())
    result = kernel.run(_work(kind, seed, steps, options), streams=streams)
    assert result.status == 0 and not streams[2].getvalue(), (streams[1].getvalue()[-300:], streams[2].getvalue())
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

    def broken(self, seen: dict[str, list[str]], kind: Kind) -> list[str]:
        """What is not as promised, nor as this kind of file system promises. seen: path -> what look.c says of it."""
        wrong = []
        for path, (what, *rest) in self.must.items():
            found = seen.get(path)
            if what == "gone":
                if found is not None:
                    wrong.append(f"{path} is there again")
            elif found is None:
                wrong.append(f"{path} is lost")
            elif what == "dir":
                wrong += [] if found[0] == "d" else [f"{path} is no directory"]
            elif what == "link":
                wrong += [] if found == ["l", *rest] else [f"{path} is {found}"]
            elif found[0] != "f":
                wrong.append(f"{path} is {found}")
            else:
                problem = self._of_file(path, what, [int(n) for n in rest], found)
                wrong += [f"{path}: {problem}: promised {what} {' '.join(rest)}, found {' '.join(found)}"] if problem else []
        for path, value in self.attributes.items():
            found = seen.get(path, ["", *["-"] * 7])
            if found[7] == "-" or int(found[7]) < value:
                wrong.append(f"{path}: attribute {value} is lost: {found}")
        wrong += [f"{path}: something that nobody wrote: {found}" for path, found in seen.items()
                  if found[0] == "unreadable" or (found[0] == "f" and found[6] == "bad" and not kind.stale_data)]
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
        promises.add(mark.decode())
    return promises


def _mount(directory: pathlib.Path, kind: str, disk: Disk, then: str) -> tuple[list[str], list[str]]:
    """Mounts a disk and does something there: what that said, and what is wrong."""
    kernel = Kernel(cmdline="oops=panic", cpus=1, memory=MEMORY, disks=[disk], home=False, shares=[Share(str(directory), "/programs")])
    flags = _mount_options(kind)
    wrong = []
    result = kernel.run(["/bin/sh", "-c", f"mkdir /mnt/t; mount -t {kind.split('-')[0]} {f'-o {flags}' if flags else ''} "
                                          f"/dev/sda /mnt/t && {then} umount /mnt/t"])
    if result.status:
        lines = [line for line in kernel.dmesg().splitlines() if "EXT4" in line or "JBD2" in line]
        wrong.append(f"status {result.status}: {result.stderr.decode()} {lines[-5:]}")
    wrong += kernel.oopses
    wrong += check_kernel(kernel)
    kernel.close()
    return result.stdout.decode().splitlines(), wrong


def tree(directory: pathlib.Path, kind: str, path: pathlib.Path) -> tuple[dict[str, list[str]], list[str]]:
    """What look.c sees on an image, and what is wrong. The image is mounted: its journal is replayed."""
    disk = Disk(str(path))
    lines, wrong = _mount(directory, kind, disk, "/programs/look /mnt/t &&")
    disk.close()
    if not wrong and lines[-1:] != ["end"]:
        wrong.append(f"look.c stopped: {lines[-3:]}")
    return {name: rest for name, *rest in (line.split() for line in lines[:-1])}, wrong


def recovers(directory: pathlib.Path, log: WriteLog, kind: str, cut: int, image: bytes) -> list[str]:
    """What is wrong after a cut: nothing, one hopes."""
    path = directory / f"{kind}.cut"
    path.write_bytes(image)
    seen, wrong = tree(directory, kind, path)
    if not wrong:
        wrong += promises_at(log, cut).broken(seen, KINDS[kind])
    checked = subprocess.run(["e2fsck", "-fn", str(path)], capture_output=True, check=False)
    if checked.returncode:
        wrong.append("e2fsck: " + checked.stdout.decode())
    return wrong


def record_recovery(directory: pathlib.Path, kind: str, image: bytes) -> WriteLog:
    """What a mount after a cut writes."""
    path = directory / f"{kind}.first"
    path.write_bytes(image)
    disk = RecordingDisk(str(path), model=KINDS[kind].model, atom=KINDS[kind].atom)
    _, wrong = _mount(directory, kind, disk, "")
    assert not wrong, wrong
    return disk.log


def differs_from_e2fsck(directory: pathlib.Path, kind: str, image: bytes) -> list[str]:
    """e2fsck has a journal replay and an orphan cleanup of its own: both have to leave the same files."""
    path = directory / f"{kind}.ours"
    path.write_bytes(image)
    ours, wrong = tree(directory, kind, path)
    path = directory / f"{kind}.theirs"
    path.write_bytes(image)
    checked = subprocess.run(["e2fsck", "-fp", str(path)], capture_output=True, check=False)
    if checked.returncode > 1:
        wrong.append("e2fsck -p: " + checked.stdout.decode())
    theirs, more = tree(directory, kind, path)
    wrong += more
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            wrong.append(f"{name}: after our recovery {ours.get(name)}, after e2fsck {theirs.get(name)}")
    return wrong


def with_an_error(directory: pathlib.Path, kind: str, seed: int, steps: int, number: int) -> tuple[list[str], str]:
    """One command of the disk fails. What is wrong after the program, umount and e2fsck -y; what the program said."""
    path = directory / f"{kind}.error"
    make_image(path, kind)
    disk = Disk(str(path), model=KINDS[kind].model, faults=DiskFaults(fail={number: MEDIUM_ERROR}))
    kernel = Kernel(cmdline="oops=panic", cpus=2, memory=MEMORY, seed=seed, disks=[disk], home=False,
                    shares=[Share(str(directory), "/programs")])
    log = WriteLog(b"")
    streams = (MemoryStream(), MarkStream(log), MemoryStream())
    kernel.run(_work(kind, seed, steps), streams=streams)
    kernel.run(["/bin/umount", "/mnt/t"])
    wrong = [*kernel.oopses, *check_kernel(kernel)]
    kernel.close()
    disk.close()
    repaired = subprocess.run(["e2fsck", "-fy", str(path)], capture_output=True, check=False)
    if repaired.returncode > 1:
        wrong.append("e2fsck -y: " + repaired.stdout.decode())
    seen, more = tree(directory, kind, path)
    wrong += more or promises_at(log, len(log.moments)).broken(seen, KINDS[kind])
    return wrong, streams[2].getvalue().decode()


def some(cuts: list[int], count: int) -> list[int]:
    """At most so many of them, evenly, the last one included."""
    if len(cuts) <= count:
        return cuts
    return sorted({cuts[n * (len(cuts) - 1) // (count - 1)] for n in range(count)})


def sweep(directory: pathlib.Path, kind: str, seed: int, steps: int, points: int, *, dice: int = 1,
          every_way: bool = False, part: tuple[int, int] = (0, 1), options: str = "") -> tuple[int, list[str]]:
    """(number of cuts, the first ones that went wrong). Each cut with the next way, or every way, the cache may keep.

    part: (2, 5) takes every fifth cut, from the third on.
    """
    build(directory)
    log = record(directory, kind, seed, steps, options)
    ways = choosers(seed, dice)
    wrong: list[str] = []
    done = 0
    for number, cut in list(enumerate(some(log.cuts(), points)))[part[0]::part[1]]:
        for name, keep in ways if every_way else [ways[number % len(ways)]]:
            done += 1
            problems = recovers(directory, log, kind, cut, log.image_at(cut, keep))
            if problems:
                wrong.append(f"{kind} seed {seed} steps {steps}: cut before moment {cut}, the cache keeps {name}: {problems}")
        if len(wrong) >= 3:
            break
    return done, wrong
