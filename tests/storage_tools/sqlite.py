"""sqlite3 on a disk whose power is cut: every committed transaction is there, and the database is whole."""
from __future__ import annotations

import pathlib
import subprocess

from glasskernel import Kernel, Share
from glasskernel.machine.console import MemoryStream
from glasskernel.machine.disk import Disk
from glasskernel.tools.powercut import MarkStream, RecordingDisk, WriteLog, choosers

MEMORY = 128 << 20
# Commits one row after the other, and says so. (With less than synchronous=extra an unlinked journal may come back.)
# Each row is as long as its number says; row 3k replaces row k.
WORK = """
import os, sqlite3, sys
db = sqlite3.connect("/mnt/db", isolation_level=None)
db.execute("pragma journal_mode=" + sys.argv[1]); db.execute("pragma synchronous=extra")
db.execute("create table if not exists t (n integer primary key, v text)")
first = (db.execute("select max(n) from t").fetchone()[0] or 0) + 1
for n in range(first, first + int(sys.argv[2])):
    db.execute("begin")
    db.execute("insert into t values (?, ?)", (n, str(n) * (n % 50 * 20 + 1)))
    db.execute("update t set v = v || '+' where n = ?", (n // 3,))
    db.execute("commit")
    os.write(1, b"%d\\n" % n)
"""
# Whole, and without holes: row n is as it was written, with a + behind it if one of rows 3n to 3n + 2 is there.
LOOK = """
import sqlite3
db = sqlite3.connect("/mnt/db")
assert db.execute("pragma integrity_check").fetchall() == [("ok",)], "damaged"
rows = []
if db.execute("select count(*) from sqlite_master").fetchone()[0]:
    rows = db.execute("select n, v from t order by n").fetchall()
last = len(rows)
for n, v in rows:
    assert v == str(n) * (n % 50 * 20 + 1) + "+" * sum(m <= last for m in (3 * n, 3 * n + 1, 3 * n + 2)), (n, v[:99])
assert [n for n, _ in rows] == list(range(1, last + 1)), "holes"
print(last)
"""


def boot(directory: pathlib.Path, disk: Disk) -> Kernel:
    """A machine with the disk mounted on /mnt and the two programs in /programs."""
    (directory / "work.py").write_text(WORK)
    (directory / "look.py").write_text(LOOK)
    kernel = Kernel(cmdline="oops=panic", cpus=2, memory=MEMORY, disks=[disk], home=False,
                    shares=[Share(str(directory), "/programs")])
    mounted = kernel.run(["/bin/sh", "-c", "mkdir -p /mnt && mount -t ext4 /dev/sda /mnt"])
    assert mounted.status == 0, mounted.stderr
    return kernel


def rows(kernel: Kernel) -> int:
    """How many rows there are; the database must be whole."""
    seen = kernel.run(["/usr/bin/python3", "-S", "/programs/look.py"])
    assert seen.status == 0, seen.stderr
    return int(seen.stdout)


def make_image(path: pathlib.Path) -> None:
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(path), "16M"],
                   check=True)


def record(directory: pathlib.Path, mode: str, count: int) -> WriteLog:
    """One run to its end; the marks are the rows that were committed."""
    image = directory / "base.img"
    make_image(image)
    disk = RecordingDisk(str(image))
    kernel = boot(directory, disk)
    streams = (MemoryStream(), MarkStream(disk.log), MemoryStream())
    result = kernel.run(["/usr/bin/python3", "-S", "/programs/work.py", mode, str(count)], streams=streams)
    assert result.status == 0, streams[2].getvalue()
    kernel.close()
    return disk.log


def sweep(directory: pathlib.Path, mode: str, count: int, points: int) -> list[str]:
    """Cuts the power at up to `points` moments, spread evenly; what went wrong."""
    log = record(directory, mode, count)
    cuts = log.cuts()
    begin = next(number for number, moment in enumerate(log.moments) if moment.text)
    cuts = [cut for cut in cuts if cut >= begin]
    step = max(len(cuts) / points, 1)
    wrong = []
    for number in range(min(points, len(cuts))):
        cut = cuts[int(number * step)]
        name, keep = choosers(number, 2)[number % 4]
        path = directory / "cut.img"
        path.write_bytes(log.image_at(cut, keep))
        disk = Disk(str(path))
        kernel = boot(directory, disk)
        promised = int((log.marks_before(cut) or [b"0"])[-1])
        try:
            there = rows(kernel)
        except AssertionError as problem:
            wrong.append(f"cut {cut}, {name}: {problem}")
        else:
            if there not in (promised, promised + 1):
                wrong.append(f"cut {cut}, {name}: {there} rows, {promised} were committed")
        assert kernel.run(["/bin/umount", "/mnt"]).status == 0
        wrong += kernel.oopses
        kernel.close()
        disk.close()
        checked = subprocess.run(["e2fsck", "-fn", str(path)], capture_output=True, check=False)
        if checked.returncode:
            wrong.append(f"cut {cut}, {name}: e2fsck: {checked.stdout.decode()}")
    return wrong
