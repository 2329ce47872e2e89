"""The machine's disk: what it stores, how long it takes, what goes wrong on demand."""
import heapq
from types import SimpleNamespace

import pytest

from glasskernel.machine.disk import (
    DISCARD,
    FLUSH,
    HARDWARE_ERROR,
    MEDIUM_ERROR,
    NO_SPACE,
    OK,
    READ,
    TURN_NS,
    WRITE,
    Disk,
    DiskCommand,
    DiskFaults,
)


class Board:
    """The least machine that a disk needs: RAM, a clock, events."""

    def __init__(self):
        self.ram = memoryview(bytearray(1 << 20))
        self.this_cpu = SimpleNamespace(clock_ns=0)
        self.events = []

    def at(self, when, action):
        heapq.heappush(self.events, (when, len(self.events), action))

    def settle(self):
        while self.events:
            when, _, action = heapq.heappop(self.events)
            self.this_cpu.clock_ns = max(when, self.this_cpu.clock_ns)
            action()


def plug(disk):
    board = Board()
    disk.attach(board, lambda: None)
    return board


def do(board, disk, op, sector=0, data=b"", count=None, fua=False):
    """One command; (status, duration in ns, data)."""
    count = len(data) // 512 if count is None else count
    board.ram[: len(data)] = data
    command = DiskCommand(op, sector, count, [(0, count * 512)] if op in (READ, WRITE) else [], fua)
    start = board.this_cpu.clock_ns
    disk.submit(command)
    board.settle()
    return command.status, board.this_cpu.clock_ns - start, bytes(board.ram[: count * 512])


@pytest.mark.parametrize("model", ["ideal", "ssd", "nvme", "hdd"])
def test_what_was_written_is_read(model):
    disk = Disk(size=1 << 20, model=model)
    board = plug(disk)
    assert do(board, disk, WRITE, 7, b"x" * 5120)[0] == OK
    assert do(board, disk, READ, 8, count=2)[2] == b"x" * 1024
    assert do(board, disk, READ, 6, count=2)[2] == bytes(512) + b"x" * 512
    assert do(board, disk, DISCARD, 8, count=3)[0] == OK
    assert disk.read_bytes(7 * 512, 2560) == b"x" * 512 + bytes(1536) + b"x" * 512


def test_an_image_file_keeps_its_contents(tmp_path):
    path = str(tmp_path / "image")
    disk = Disk(path, 1 << 20)
    board = plug(disk)
    do(board, disk, WRITE, 100, b"kept" * 128)
    disk.close()
    again = Disk(path)
    assert again.size == 1 << 20 and again.read_bytes(51200, 4) == b"kept"
    again.close()


def test_changes_over_a_base_leave_the_base_alone(tmp_path):
    path = tmp_path / "base"
    path.write_bytes(b"b" * 8192)
    disk = Disk(base=str(path), size=16384)
    board = plug(disk)
    do(board, disk, WRITE, 3, b"n" * 512)
    assert do(board, disk, READ, 2, count=3)[2] == b"b" * 512 + b"n" * 512 + b"b" * 512
    assert disk.read_bytes(8192, 16) == bytes(16)
    assert path.read_bytes() == b"b" * 8192
    disk.close()


def test_the_arm_of_a_hard_disk_takes_longer_for_long_ways():
    disk = Disk(size=1 << 30, model="hdd")
    board = plug(disk)
    do(board, disk, READ, 0, count=8)
    near = do(board, disk, READ, 20_000, count=8)[1]
    far = do(board, disk, READ, 2_000_000, count=8)[1]
    assert 800_000 < near < 1_500_000 + TURN_NS and far > 6_000_000
    following = do(board, disk, READ, 2_000_008, count=8)[1]
    assert following < 200_000                       # the drive has read on meanwhile


def test_a_hard_disk_acknowledges_writes_before_they_are_on_the_medium():
    disk = Disk(size=1 << 30, model="hdd")
    board = plug(disk)
    assert do(board, disk, WRITE, 1_000_000, bytes(4096))[1] < 200_000
    assert do(board, disk, FLUSH)[1] > 1_000_000
    assert do(board, disk, WRITE, 5_000, bytes(4096), fua=True)[1] > 1_000_000


def test_commands_of_an_ssd_overlap():
    disk = Disk(size=1 << 20, model="ssd")
    board = plug(disk)
    for number in range(4):
        disk.submit(DiskCommand(READ, number * 8, 8, [(0, 4096)]))
    board.settle()
    assert 80_000 < board.this_cpu.clock_ns < 130_000


def test_without_a_flush_a_power_cut_loses_writes():
    lost = 0
    for seed in range(20):
        disk = Disk(size=1 << 20, seed=seed)
        board = plug(disk)
        do(board, disk, WRITE, 0, b"s" * 512)
        do(board, disk, FLUSH)
        do(board, disk, WRITE, 1, b"f" * 512, fua=True)
        do(board, disk, WRITE, 2, b"u" * 512)
        disk.cut_power()
        assert disk.read_bytes(0, 1024) == b"s" * 512 + b"f" * 512
        assert disk.read_bytes(1024, 512) in (b"u" * 512, bytes(512))
        lost += disk.read_bytes(1024, 1) == b"\0"
    assert 3 < lost < 17


def test_faults_come_when_they_are_asked_for():
    faults = DiskFaults(bad_sectors=[(10, 12)], fail={3: HARDWARE_ERROR}, slow={4: 5_000_000}, torn={5: 1}, full_after=8192,
                        power_cut=9)
    disk = Disk(size=1 << 20, faults=faults)
    board = plug(disk)
    assert do(board, disk, READ, 8, count=4)[0] == MEDIUM_ERROR
    assert do(board, disk, READ, 13, count=4)[0] == OK
    assert do(board, disk, READ, 0, count=1)[0] == HARDWARE_ERROR
    assert do(board, disk, READ, 0, count=1)[1] > 5_000_000
    assert do(board, disk, WRITE, 100, b"t" * 1024)[0] == OK
    assert disk.read_bytes(51200, 1024) == b"t" * 512 + bytes(512)
    assert do(board, disk, WRITE, 100, bytes(7168))[0] == OK
    assert do(board, disk, WRITE, 100, bytes(512))[0] == NO_SPACE
    assert do(board, disk, READ, 0, count=1)[0] == OK
    done = len(disk.done)
    do(board, disk, READ, 0, count=1)
    assert len(disk.done) == done and not disk.powered


def test_the_same_commands_take_the_same_time():
    def run():
        disk = Disk(size=64 << 20, model="hdd", seed=4, faults=DiskFaults(slow_every=3, slow_ns=1_000_000))
        board = plug(disk)
        return [do(board, disk, READ, sector * 7919 % 100_000, count=8)[1] for sector in range(30)]

    assert run() == run()


@pytest.mark.parametrize("options", [{}, {"size": 1000}, {"size": 4096, "model": "tape"}, {"size": 0},
                                     {"path": "x", "base": "y"}])
def test_a_disk_that_cannot_be_is_refused(options):
    with pytest.raises(ValueError):
        Disk(**options)
