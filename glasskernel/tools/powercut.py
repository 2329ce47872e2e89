"""Power cuts: one run is recorded at the disk; afterwards the power can be cut at any of its moments.

A RecordingDisk keeps what reaches it, in order: commands that come and end, and marks (what the program under test was
promised by then). `image_at()` then makes the image that a cut at one of these moments would have left:

  surely there    writes with FUA that had ended, and writes that had ended before a flush began that has ended
  surely not      writes that had not come yet
  perhaps         all others: a chooser says which. A write that had not ended may be there in part, atom by atom.

So a whole sweep costs one run and a mount for each moment, and is the same on every host. The method is that of Linux's
dm-log-writes. Blind spots: what is on the disk is what the run wrote at its pace; other schedules need other seeds.
Owns: the log. Invariant: the base image is never changed.
"""
from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from glasskernel.machine.console import MemoryStream
from glasskernel.machine.disk import FLUSH, OK, READ, SECTOR, WRITE, Disk, DiskCommand

CAME, ENDED, MARK = "came", "ended", "mark"
Chooser = Callable[[], bool]                   # asked for each part that may be there or not


@dataclass(slots=True, eq=False)
class Written:
    """A command that changes the disk, or a flush (data is b"" then)."""

    op: int
    sector: int
    data: bytes
    fua: bool


@dataclass(slots=True)
class Moment:
    """Something that happened at the disk, or a mark."""

    kind: str
    command: Written | None = None
    text: bytes = b""


@dataclass(slots=True, eq=False)
class WriteLog:
    """What a run did to a disk that began as `base`. atom: bytes that a cut never tears."""

    base: bytes
    atom: int = 4096
    moments: list[Moment] = field(default_factory=list)

    def mark(self, text: bytes) -> None:
        """The program has reached a point: what holds from now on."""
        self.moments.append(Moment(MARK, text=text))

    def cuts(self) -> list[int]:
        """Every moment that is worth a cut: before each command that comes, and after the last one."""
        came = [number for number, moment in enumerate(self.moments) if moment.kind == CAME]
        return [*came, len(self.moments)]

    def marks_before(self, cut: int) -> list[bytes]:
        return [moment.text for moment in self.moments[:cut] if moment.kind == MARK]

    def image_at(self, cut: int, keep: Chooser) -> bytearray:
        """The disk after the power was cut before moments[cut]."""
        cached: dict[Written, None] = {}               # ended, not flushed; in this order
        order: list[Written] = []
        coming: dict[Written, None] = {}
        covers: dict[Written, list[Written]] = {}      # flush -> writes that it makes safe
        safe: set[Written] = set()
        for moment in self.moments[:cut]:
            command = moment.command
            if command is None:
                continue
            if moment.kind == CAME:
                coming[command] = None
                if command.op == FLUSH:
                    covers[command] = list(cached)
                continue
            coming.pop(command, None)
            if command.op == FLUSH:
                for write in covers.pop(command, ()):
                    safe.add(write)
                    cached.pop(write, None)
                continue
            order.append(command)
            if command.fua:
                safe.add(command)
            else:
                cached[command] = None
        image = bytearray(self.base)
        for write in order:
            if write in safe or keep():
                image[write.sector * SECTOR : write.sector * SECTOR + len(write.data)] = write.data
        for write in coming:
            for offset in range(0, len(write.data), self.atom):
                if keep():
                    start = write.sector * SECTOR + offset
                    part = write.data[offset : offset + self.atom]
                    image[start : start + len(part)] = part
        return image


def choosers(seed: int, dice: int) -> list[tuple[str, Chooser]]:
    """Named ways to decide what an unflushed cache keeps: nothing, everything, and `dice` times at random."""
    def rolled(number: int) -> Chooser:
        rng = random.Random(f"power cut {seed} {number}")
        return lambda: rng.random() < 0.5

    return [("nothing", lambda: False), ("everything", lambda: True),
            *((f"dice {number}", rolled(number)) for number in range(dice))]


class RecordingDisk(Disk):
    """A disk in memory that writes a WriteLog."""

    def __init__(self, base: str, *, model: str = "ssd", atom: int = 4096, seed: int = 0) -> None:
        super().__init__(base=base, model=model, seed=seed)
        self.log = WriteLog(self.read_bytes(0, self.size), atom)
        self._open: dict[DiskCommand, Written] = {}

    def submit(self, command: DiskCommand) -> None:
        if command.op != READ:
            data = b""
            if command.op == WRITE:
                ram = self.machine.ram
                data = b"".join([bytes(ram[address : address + size]) for address, size in command.segments])
            elif command.op != FLUSH:
                data = bytes(command.nr_sectors * SECTOR)          # discarded, or zeroed
            written = Written(command.op, command.sector, data, command.fua)
            self._open[command] = written
            self.log.moments.append(Moment(CAME, written))
        super().submit(command)

    def _finish(self, command: DiskCommand, number: int) -> None:
        super()._finish(command, number)
        written = self._open.pop(command, None)
        if written is not None and command.status == OK:
            self.log.moments.append(Moment(ENDED, written))


class MarkStream(MemoryStream):
    """Standard output: every line becomes a mark."""

    __slots__ = ("_log", "_rest")

    def __init__(self, log: WriteLog) -> None:
        super().__init__()
        self._log = log
        self._rest = b""

    def write(self, data: bytes) -> int | None:
        *lines, self._rest = (self._rest + bytes(data)).split(b"\n")
        for line in lines:
            self._log.mark(line)
        return super().write(data)
