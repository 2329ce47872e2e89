"""A disk: sectors in an image, a command queue, a model of how long commands take, and faults on demand.

Knows nothing of Linux. The driver puts a DiskCommand into the disk (`submit`); when it is done the disk moves the data
between RAM and the image, puts the command into `done` and raises its interrupt line.

Models (all times in ns of the machine's clock; n = bytes of the command):
  ideal  1,000 for every command, all at once
  nvme   16 channels; read 15,000, write 8,000, + n / 3.2 GB/s on the one link
  ssd    4 channels; read 80,000, write 40,000, + n / 540 MB/s on the one link
  hdd    one arm, one command after the other, in the order they came:
           seek      0 on the same track, else 800,000 + 1,500 * sqrt(distance in sectors of the disk / total * 25e6)
                     (about 0.8 ms to a neighbour, 5.1 ms for a third of the disk, 8.3 ms from end to end)
           rotation  until the sector is under the head: 7200/min, the angle is the time modulo 8,333,333
           transfer  at the speed of the rotation: SECTORS_PER_TRACK sectors a turn (180 MB/s)
           reading on: after a read the drive goes on reading into its buffer (READ_AHEAD sectors); what lies there
                     costs no seek, only the time until the medium has passed the head
           writing back: a write is acknowledged after 100,000 + n / 250 MB/s if less than WRITE_BACK_NS of work waits
                     for the arm, else when enough of it is done; a flush waits until all of it is done
  A flush costs 100,000 on ssd and nvme if there is something to flush.
Write cache (unless write_cache=False): what was written and not flushed is lost, or kept, write by write, by the seeded
dice, when the power is cut. A write with `fua` is safe at once.
Faults (DiskFaults): sectors that cannot be read or written, the n-th command failing or hanging, slow commands, a write
of which only the first sectors arrive, a backing store that is full, the power cut at the n-th command.
Owns: the image file. Invariants: commands of one disk end in the order of their due times; the same commands at the
    same times end at the same times.
"""
from __future__ import annotations

import mmap
import os
import random
from collections.abc import Callable
from math import isqrt
from typing import TYPE_CHECKING, Any

from glasskernel.lib.slotted import field, slotted

if TYPE_CHECKING:
    from glasskernel.machine.machine import Machine

SECTOR = 512
PAGE = 4096
READ, WRITE, FLUSH, DISCARD, WRITE_ZEROES = range(5)
OK, MEDIUM_ERROR, HARDWARE_ERROR, NO_SPACE, ABORTED = range(5)          # DiskCommand.status
MODELS = ("ideal", "ssd", "nvme", "hdd")
QUEUE_DEPTH = {"ideal": 32, "ssd": 32, "nvme": 128, "hdd": 1}
TURN_NS = 60_000_000_000 // 7200
SECTORS_PER_TRACK = 2930
READ_AHEAD = 1024                              # sectors
WRITE_BACK_NS = 60_000_000                     # how much work the arm may owe
CACHE_BYTES = 8 << 20                          # unflushed writes that are remembered
_CHANNELS = {"ssd": (4, 80_000, 40_000, 540), "nvme": (16, 15_000, 8_000, 3200)}     # count, read, write, bytes a us


@slotted
class DiskCommand:
    """One command. segments: (physical address, length) in RAM. done(command) is the driver's; status: see above."""

    op: int
    sector: int = 0
    nr_sectors: int = 0
    segments: list[tuple[int, int]] = field(default_factory=list)
    fua: bool = False
    tag: int = 0
    cookie: Any = None
    status: int = OK


@slotted
class DiskFaults:
    """What goes wrong. Commands are counted from 1, in the order they reach the disk. Nothing by default."""

    bad_sectors: list[tuple[int, int]] = field(default_factory=list)    # (first, last): MEDIUM_ERROR
    fail: dict[int, int] = field(default_factory=dict)                  # command number -> status
    hang: list[int] = field(default_factory=list)                       # commands that never end
    slow: dict[int, int] = field(default_factory=dict)  # command number -> additional ns
    slow_every: int = 0  # one in so many (by the dice) takes slow_ns longer
    slow_ns: int = 0
    torn: dict[int, int] = field(default_factory=dict)                  # command number -> sectors that arrive, then OK
    full_after: int | None = None                                       # bytes after which writes end with NO_SPACE
    power_cut: int = 0                                                  # the command that does not arrive any more


def _pages(offset: int, length: int) -> range:
    """The numbers of the pages that hold these bytes."""
    return range(offset // PAGE, -(-(offset + length) // PAGE))


class _Memory:
    """An image in memory: a sparse mapping. touched: the pages that were written, the others are zeros."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.touched: dict[int, None] = {}
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        self._memory = mmap.mmap(-1, size, flags=flags)

    def is_blank(self, offset: int, length: int) -> bool:
        """Was nothing ever written there?"""
        return self.touched.keys().isdisjoint(_pages(offset, length))

    def read(self, offset: int, length: int) -> bytes:
        data = self._memory[offset : offset + length]
        return data if len(data) == length else data + bytes(length - len(data))

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._memory[offset : offset + len(data)] = data
        self.touched.update(dict.fromkeys(_pages(offset, len(data))))

    def discard(self, offset: int, length: int) -> None:
        end = offset + length
        first, last = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
        if last <= first:
            self._memory[offset:end] = bytes(length)
            return
        self._memory[offset:first] = bytes(first - offset)
        self._memory[last:end] = bytes(end - last)
        self._memory.madvise(mmap.MADV_DONTNEED, first, last - first)
        whole = range(-(-first // PAGE), last // PAGE)
        for number in [n for n in self.touched if n in whole] if len(whole) > len(self.touched) else whole:
            self.touched.pop(number, None)

    def is_empty(self) -> bool:
        return not any(any(self.read(number * PAGE, PAGE)) for number in self.touched)

    def close(self) -> None:
        self._memory.close()


class _File:
    """An image in a (sparse) file."""

    def __init__(self, path: str, size: int | None, read_only: bool) -> None:
        flags = os.O_RDONLY if read_only else os.O_RDWR | (os.O_CREAT if size is not None else 0)
        self.fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
        self.size = os.fstat(self.fd).st_size
        if size is not None and size != self.size and not read_only:
            os.ftruncate(self.fd, size)
            self.size = size

    def is_blank(self, offset: int, length: int) -> bool:
        return False

    def read(self, offset: int, length: int) -> bytes:
        data = os.pread(self.fd, length, offset)
        return data if len(data) == length else data + bytes(length - len(data))

    def write(self, offset: int, data: bytes | memoryview) -> None:
        written = os.pwrite(self.fd, data, offset)
        while written < len(data):
            written += os.pwrite(self.fd, data[written:], offset + written)

    def discard(self, offset: int, length: int) -> None:
        zeros = bytes(min(length, 1 << 20))
        while length:
            take = min(length, len(zeros))
            self.write(offset, zeros[:take])
            offset += take
            length -= take

    def is_empty(self) -> bool:
        """Nothing but zeros? Holes are not read."""
        at = 0
        while at < self.size:
            try:
                at = os.lseek(self.fd, at, os.SEEK_DATA)
            except OSError:                            # a hole up to the end
                return True
            part = os.pread(self.fd, 1 << 20, at)
            if part.count(0) != len(part):
                return False
            at += len(part)
        return True

    def close(self) -> None:
        os.close(self.fd)


class _Overlay:
    """Changes in memory over a base that is only read."""

    def __init__(self, base: _File, size: int) -> None:
        self.base = base
        self.top = _Memory(size)
        self.size = size

    def is_blank(self, offset: int, length: int) -> bool:
        return False

    def read(self, offset: int, length: int) -> bytes:
        old = self.base.read(offset, length)
        if self.top.is_blank(offset, length):
            return old
        data = bytearray(old)
        for number in _pages(offset, length):
            if number in self.top.touched:
                start, end = max(number * PAGE, offset), min((number + 1) * PAGE, offset + length)
                data[start - offset : end - offset] = self.top.read(start, end - start)
        return bytes(data)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        for number in {offset // PAGE, (offset + len(data) - 1) // PAGE}:
            if number not in self.top.touched:
                page = number * PAGE
                self.top.write(page, self.base.read(page, min(PAGE, self.size - page)))
        self.top.write(offset, data)

    def discard(self, offset: int, length: int) -> None:
        zeros = bytes(min(length, 1 << 20))
        while length:
            take = min(length, len(zeros))
            self.write(offset, zeros[:take])
            offset += take
            length -= take

    def is_empty(self) -> bool:
        return self.base.is_empty() and self.top.is_empty()

    def close(self) -> None:
        self.base.close()
        self.top.close()


class Disk:
    """A disk. path: an image file, made if it is missing and `size` (bytes) is given; None: in memory.

    base: an image that the disk begins with and does not change. model: how fast it is. seed: of its dice.
    Raises ValueError, OSError.
    """

    def __init__(
        self,
        path: str | None = None,
        size: int | None = None,
        *,
        model: str = "ideal",
        base: str | None = None,
        read_only: bool = False,
        write_cache: bool = True,
        queue_depth: int | None = None,
        faults: DiskFaults | None = None,
        seed: int = 0,
        serial: str = "",
        name: str = "",
    ) -> None:
        if model not in MODELS:
            raise ValueError(f"model must be one of {', '.join(MODELS)}, not {model!r}")
        if size is not None and (size <= 0 or size % SECTOR):
            raise ValueError("the size of a disk is a positive multiple of 512")
        self.image: _Memory | _File | _Overlay
        if base is not None:
            if path is not None:
                raise ValueError("a disk has a path or a base: changes over a base stay in memory")
            lower = _File(base, None, True)
            self.image = _Overlay(lower, size or lower.size - lower.size % SECTOR)
        elif path is not None:
            self.image = _File(path, size, read_only)
        elif size is not None:
            self.image = _Memory(size)
        else:
            raise ValueError("a disk in memory needs a size")
        self.nr_sectors = self.image.size // SECTOR
        if not self.nr_sectors:
            raise ValueError("the image is empty")
        self.model = model
        self.path = path
        self.name = name or path or base or ""
        self.serial = serial
        self.read_only = read_only
        self.write_cache = write_cache
        self.queue_depth = queue_depth or QUEUE_DEPTH[model]
        self.faults = faults or DiskFaults()
        self._dice = random.Random(f"disk {seed}")
        self.machine: Machine = None  # type: ignore[assignment]      # attach()
        self._raise_irq: Callable[[], None] = lambda: None
        self.done: list[DiskCommand] = []
        self.commands = 0                          # how many came
        self.written = 0                           # bytes
        self.powered = True
        # what a power cut may take back: (sector, before (b"": nothing), after), the oldest first
        self._unsafe: list[tuple[int, bytes, bytes]] = []
        self._unsafe_bytes = 0
        # the mechanics
        self._busy_until = 0
        self._link_until = 0
        self._channels = [0] * _CHANNELS.get(model, (1,))[0]
        self._head = 0                             # sector
        self._ahead: tuple[int, int] | None = None          # sector and time at which the last read-ahead began

    # ---- the host's view ----------------------------------------------------------------------------------------
    def read_bytes(self, offset: int, length: int) -> bytes:
        """What is on the disk now."""
        return self.image.read(offset, length)

    def write_bytes(self, offset: int, data: bytes) -> None:
        """Changes the disk behind the machine's back."""
        self.image.write(offset, data)

    @property
    def size(self) -> int:
        return self.nr_sectors * SECTOR

    @property
    def keeps(self) -> bool:
        """Is what is written to it kept in a file of the host?"""
        return self.path is not None and not self.read_only

    def attach(self, machine: Machine, raise_irq: Callable[[], None]) -> None:
        """Plugs the disk in. raise_irq() tells the driver that `done` has grown."""
        self.machine = machine
        self._raise_irq = raise_irq

    def detach(self) -> None:
        """The machine is switched off in good order: what is in the write cache is stored."""
        self._unsafe.clear()
        self._raise_irq = lambda: None
        self.done = []

    def cut_power(self) -> None:
        """From now on nothing is stored and nothing is answered; of what was not flushed the dice keep some."""
        if not self.powered:
            return
        self.powered = False
        for sector, before, after in reversed(self._unsafe):
            if before:
                self.image.write(sector * SECTOR, before)
            else:
                self.image.discard(sector * SECTOR, len(after))
        for sector, _, after in self._unsafe:
            if self._dice.random() < 0.5:
                self.image.write(sector * SECTOR, after)
        self._unsafe.clear()

    def close(self) -> None:
        """An orderly end: what is in the write cache is stored."""
        self.powered = False
        self.image.close()

    # ---- commands -------------------------------------------------------------------------------------------------
    def submit(self, command: DiskCommand) -> None:
        """Takes a command; it comes back in `done`. Called on the machine's running CPU."""
        if not self.powered:
            return
        self.commands += 1
        number = self.commands
        faults = self.faults
        if number == faults.power_cut:
            self.cut_power()
            return
        now = self.machine.this_cpu.clock_ns
        due = self._service(command, now)
        due += faults.slow.get(number, 0)
        if faults.slow_every and self._dice.randrange(faults.slow_every) == 0:
            due += faults.slow_ns
        if number not in faults.hang:
            self.machine.at(due, lambda: self._finish(command, number))

    def _finish(self, command: DiskCommand, number: int) -> None:
        if not self.powered:
            return
        command.status = self._verdict(command, number)
        if command.status == OK:
            self._move(command, self.faults.torn.get(number))
        self.done.append(command)
        self._raise_irq()

    def _verdict(self, command: DiskCommand, number: int) -> int:
        faults = self.faults
        status = faults.fail.get(number, OK)
        if status != OK or command.op == FLUSH:
            return status
        first, end = command.sector, command.sector + command.nr_sectors
        if end > self.nr_sectors:
            return HARDWARE_ERROR
        if any(first <= last and begin < end for begin, last in faults.bad_sectors):
            return MEDIUM_ERROR
        if command.op != READ:
            if self.read_only:
                return ABORTED
            self.written += command.nr_sectors * SECTOR
            if faults.full_after is not None and self.written > faults.full_after:
                return NO_SPACE
        return OK

    def _move(self, command: DiskCommand, torn: int | None) -> None:
        """The transfer itself."""
        ram = self.machine.ram
        offset = command.sector * SECTOR
        length = command.nr_sectors * SECTOR
        if command.op == READ:
            data = self.image.read(offset, length)
            position = 0
            for address, size in command.segments:
                ram[address : address + size] = data[position : position + size]
                position += size
        elif command.op == WRITE:
            segments = command.segments
            if len(segments) == 1:
                data = bytes(ram[segments[0][0] : segments[0][0] + length])
            else:
                data = b"".join([ram[address : address + size] for address, size in segments])
            if torn is not None:
                data = data[: torn * SECTOR]
            if self.write_cache and not command.fua:
                blank = self.image.is_blank(offset, len(data))
                self._remember(command.sector, b"" if blank else self.image.read(offset, len(data)), data)
            if data:
                self.image.write(offset, data)
        elif command.op == FLUSH:
            self._unsafe.clear()
            self._unsafe_bytes = 0
        else:
            self.image.discard(offset, length)

    def _remember(self, sector: int, before: bytes, after: bytes) -> None:
        unsafe = self._unsafe
        unsafe.append((sector, before, after))
        self._unsafe_bytes += len(after)
        while self._unsafe_bytes > CACHE_BYTES:        # the oldest have reached the medium meanwhile
            self._unsafe_bytes -= len(unsafe.pop(0)[2])

    # ---- time -------------------------------------------------------------------------------------------------------
    def _service(self, command: DiskCommand, now: int) -> int:
        """When the command is done."""
        if self.model == "hdd":
            return self._arm(command, now)
        if self.model == "ideal":
            return now + 1_000
        _, read_ns, write_ns, speed = _CHANNELS[self.model]
        if command.op == FLUSH:
            return max(now, *self._channels) + (100_000 if self._unsafe else 5_000)
        channels = self._channels
        number = channels.index(min(channels))
        ready = max(now, channels[number]) + (read_ns if command.op == READ else write_ns)
        moved = sum(size for _, size in command.segments)
        self._link_until = max(ready, self._link_until) + moved * 1_000 // speed
        channels[number] = ready
        return self._link_until

    def _seek_ns(self, target: int) -> int:
        distance = abs(target - self._head)
        if distance < SECTORS_PER_TRACK:
            return 0
        return 800_000 + 1_500 * isqrt(distance * 25_000_000 // self.nr_sectors)

    def _arm(self, command: DiskCommand, now: int) -> int:
        """The hard disk: one thing after the other."""
        if command.op == FLUSH:
            return max(now, self._busy_until) + 50_000
        if command.op in (DISCARD, WRITE_ZEROES):
            return max(now, self._busy_until) + 100_000
        transfer = command.nr_sectors * TURN_NS // SECTORS_PER_TRACK
        end = command.sector + command.nr_sectors
        if command.op == READ and self._ahead is not None:
            first, since = self._ahead
            if first <= command.sector and end <= first + READ_AHEAD + command.nr_sectors and self._busy_until <= now:
                passed = since + (end - first) * TURN_NS // SECTORS_PER_TRACK
                done = max(now, passed) + 50_000
                if end - first > READ_AHEAD // 2:          # the buffer's window moves on
                    self._ahead = (end, max(passed, since))
                self._head = end
                return done
        start = max(now, self._busy_until)
        at_track = start + self._seek_ns(command.sector)
        angle = command.sector % SECTORS_PER_TRACK * TURN_NS // SECTORS_PER_TRACK
        under_head = at_track + (angle - at_track) % TURN_NS
        done = under_head + transfer
        self._busy_until = done
        self._head = end
        if command.op == READ:
            self._ahead = (end, done)
            return done + 50_000
        self._ahead = None
        if not self.write_cache or command.fua:
            return done + 50_000
        accepted = now + 100_000 + command.nr_sectors * SECTOR * 4
        return max(accepted, done - WRITE_BACK_NS)
