"""bios, requests, plugs, flushes and schedulers, driven from kernel threads."""
import random

import pytest

from glasskernel.block.bio import bio_add_page, bio_alloc, bio_put
from glasskernel.block.blk_core import submit_bio, submit_bio_wait
from glasskernel.block.blk_lib import blkdev_issue_zeroout
from glasskernel.block.blk_mq import blk_finish_plug, blk_start_plug
from glasskernel.block.blk_types import (
    BLK_STS_MEDIUM,
    BLK_STS_NOSPC,
    BLK_STS_OK,
    BLK_STS_TIMEOUT,
    REQ_FUA,
    REQ_OP_FLUSH,
    REQ_OP_READ,
    REQ_OP_WRITE,
    REQ_PREFLUSH,
    REQ_SYNC,
    BlkPlug,
)
from glasskernel.block.elevator import elv_iosched_show, elv_iosched_store
from glasskernel.kernel.sched.core import msleep
from glasskernel.kernel.tracepoint import tracepoint_probe_register
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.machine.disk import FLUSH, Disk, DiskFaults
from glasskernel.mm.page_alloc import alloc_page, put_page


class Io:
    """One bio under way: its pages are released with free()."""

    def __init__(self, kernel, sector, data=None, length=0, op=None):
        self.kernel, self.status, self.data = kernel, None, None
        bio = self.bio = bio_alloc(kernel, 256)
        bio.bi_disk = kernel.block.disks[-1]
        bio.bi_sector = sector
        bio.bi_opf = (REQ_OP_READ if data is None else REQ_OP_WRITE) if op is None else op
        bio.bi_end_io = self.end
        ram = kernel.machine.ram
        length = length if data is None else len(data)
        for start in range(0, length, 4096):
            pfn, size = alloc_page(kernel, 0), min(4096, length - start)
            if data is not None:
                ram[pfn << 12 : (pfn << 12) + size] = data[start : start + size]
            assert bio_add_page(bio, pfn, size, 0) == size

    def end(self, bio):
        ram = self.kernel.machine.ram
        self.status = bio.bi_status
        self.data = b"".join(bytes(ram[(p << 12) + o : (p << 12) + o + n]) for p, o, n in bio.bi_io_vec)

    def submit(self):
        submit_bio(self.bio)
        return self

    def wait(self):
        while self.status is None:
            msleep(1)
        for pfn, _, _ in self.bio.bi_io_vec:
            put_page(self.kernel, pfn)
        bio_put(self.bio)
        return self


def events_of(kernel, *names):
    """Records of tracepoints: (name, sector, sectors)."""
    seen = []
    for name in names:
        def probe(*args, name=name):
            bio = next((a for a in args if hasattr(a, "bi_size")), None)
            rq = next((a for a in args if hasattr(a, "data_len")), None)
            where = (bio.bi_sector, bio.bi_size >> 9) if bio is not None else (rq.sector, rq.data_len >> 9)
            seen.append((name.removeprefix("block_"), *where))
        tracepoint_probe_register(kernel, name, probe)
    return seen


def only_disk(kernel):
    kernel.block.disks.reverse()                     # Io takes the last one: sda, not loop7
    kernel.block.disks.sort(key=lambda disk: disk.disk_name.startswith(b"sd"))
    return kernel.block.disks[-1]


@pytest.mark.parametrize("model", ["ssd", "hdd", "nvme"])
@pytest.mark.parametrize("scheduler", [b"none", b"mq-deadline", b"kyber", b"bfq", b"all in turn"])
def test_nothing_is_lost_or_mixed_up(boot, in_kernel, memory_disk, model, scheduler):
    """Six threads with plugs, flushes, FUA, merges and cuts; meanwhile the scheduler changes."""
    disk = memory_disk(12, model=model)
    kernel = boot(disks=[disk])
    q = only_disk(kernel).queue
    shadow = bytearray(disk.size)
    running = [6]

    def worker(number):
        dice = random.Random(number)
        first = number * 4096
        for _ in range(12):
            plug = BlkPlug()
            if dice.random() < 0.7:
                blk_start_plug(plug)
            ios, taken, sector = [], [], first + dice.randrange(3000)
            write = dice.random() < 0.6
            for _ in range(dice.randrange(1, 14)):
                if dice.random() < 0.3:
                    sector = first + dice.randrange(3000)
                count = dice.choice((1, 2, 8, 8, 16, 30))
                if any(a < sector + count and sector < b for a, b in taken):
                    continue
                taken.append((sector, sector + count))
                op = (REQ_OP_WRITE if write else REQ_OP_READ) | dice.choice((0, REQ_SYNC))
                if write:
                    op |= dice.choice((0,) * 8 + (REQ_FUA, REQ_PREFLUSH))
                    data = dice.randbytes(count * 512)
                    shadow[sector * 512 : (sector + count) * 512] = data
                    ios.append((Io(kernel, sector, data, op=op).submit(), None))
                else:
                    expected = bytes(shadow[sector * 512 : (sector + count) * 512])
                    ios.append((Io(kernel, sector, length=count * 512, op=op).submit(), expected))
                sector += count
            blk_finish_plug(plug)
            for io, expected in ios:
                assert io.wait().status == BLK_STS_OK
                assert expected is None or io.data == expected
        running[0] -= 1

    def switcher():
        dice = random.Random(1)
        names = [b"none", b"mq-deadline", b"kyber", b"bfq"]
        elv_iosched_store(q, names[0] if scheduler == b"all in turn" else scheduler)
        while running[0]:
            msleep(dice.randrange(1, 20))
            if scheduler == b"all in turn":
                elv_iosched_store(q, dice.choice(names))

    in_kernel(kernel, switcher, *(lambda n=n: worker(n) for n in range(6)))
    assert disk.read_bytes(0, disk.size) == bytes(shadow)


def test_neighbours_in_a_plug_become_one_request(boot, in_kernel, memory_disk):
    """Back merges and front merges; the request is issued when the plug ends."""
    kernel = boot(disks=[memory_disk()])
    only_disk(kernel)
    seen = events_of(kernel, "block_bio_queue", "block_getrq", "block_bio_backmerge", "block_bio_frontmerge", "block_rq_insert",
                     "block_rq_issue", "block_rq_complete")

    def thread():
        plug = BlkPlug()
        blk_start_plug(plug)
        ios = [Io(kernel, sector, bytes(4096)).submit() for sector in (108, 116, 100)]
        assert not any(name == "rq_issue" for name, _, _ in seen)
        blk_finish_plug(plug)
        for io in ios:
            io.wait()

    seen.clear()
    in_kernel(kernel, thread)
    names = [name for name, _, _ in seen if name != "bio_queue"]
    assert [name for name in names if name == "getrq"] == ["getrq"]
    assert names[1:3] == ["bio_backmerge", "bio_frontmerge"] and seen[-2:] == [("rq_issue", 100, 24), ("rq_complete", 100, 24)]


def test_a_bio_that_is_too_large_is_cut(boot, in_kernel, memory_disk):
    disk = memory_disk()
    kernel = boot(disks=[disk])
    limits = only_disk(kernel).queue.limits
    limits.max_sectors = 64
    seen = events_of(kernel, "block_split", "block_rq_issue")
    data = random.Random(5).randbytes(100 * 1024)
    in_kernel(kernel, lambda: Io(kernel, 8, data).submit().wait())
    assert disk.read_bytes(4096, len(data)) == data
    assert [n for name, _, n in seen if name == "rq_issue"] == [64, 64, 64, 8]
    assert sum(name == "split" for name, _, _ in seen) == 3


def test_a_write_with_preflush_and_fua_is_flush_and_data(boot, in_kernel, memory_disk):
    disk = memory_disk()
    kernel = boot(disks=[disk])
    ops = []
    submit = disk.submit
    disk.submit = lambda command: (ops.append((command.op, command.fua)), submit(command))
    only_disk(kernel)
    in_kernel(kernel, lambda: Io(kernel, 0, bytes(512), op=REQ_OP_WRITE | REQ_PREFLUSH | REQ_FUA).submit().wait())
    assert ops == [(FLUSH, False), (1, True)]
    ops.clear()
    kernel.block.disks[-1].queue.queue_flags &= ~(1 << 18)           # a device without FUA: another flush instead
    in_kernel(kernel, lambda: Io(kernel, 0, bytes(512), op=REQ_OP_WRITE | REQ_PREFLUSH | REQ_FUA).submit().wait())
    assert ops == [(FLUSH, False), (1, False), (FLUSH, False)]
    assert REQ_OP_FLUSH == 2


def test_many_flushes_share_one(boot, in_kernel, memory_disk):
    disk = memory_disk(model="ssd")
    kernel = boot(disks=[disk])
    only_disk(kernel)
    before = disk.commands

    def thread():
        ios = [Io(kernel, n * 64, bytes(512), op=REQ_OP_WRITE | REQ_PREFLUSH).submit() for n in range(10)]
        for io in ios:
            io.wait()

    in_kernel(kernel, thread)
    assert 12 <= disk.commands - before <= 14        # ten writes, and far fewer than ten flushes


@pytest.mark.parametrize(("faults", "status"), [
    (DiskFaults(bad_sectors=[(50, 60)]), BLK_STS_MEDIUM), (DiskFaults(full_after=0), BLK_STS_NOSPC)])
def test_what_the_device_reports_reaches_the_bio(boot, in_kernel, faults, status):
    kernel = boot(disks=[Disk(size=1 << 20, faults=faults)])
    only_disk(kernel)
    got = []
    in_kernel(kernel, lambda: got.append(Io(kernel, 48, bytes(4096)).submit().wait().status))
    assert got == [status]
    assert "blk_update_request: critical" in kernel.dmesg() and "dev sda, sector 48" in kernel.dmesg()


def test_a_command_that_never_ends_times_out(boot, in_kernel, memory_disk):
    kernel = boot(disks=[memory_disk(faults=DiskFaults(hang=[3]))])
    only_disk(kernel)
    got = []

    def thread():
        for n in range(4):
            got.append(Io(kernel, n * 8, bytes(512)).submit().wait().status)

    in_kernel(kernel, thread)
    assert got.count(BLK_STS_TIMEOUT) == 1 and got[-1] == BLK_STS_OK
    assert kernel.now_ns > 30_000_000_000


def test_a_reader_of_a_bad_sector_gets_eio(sh):
    out, _ = sh([Disk(size=1 << 20, faults=DiskFaults(bad_sectors=[(800, 800)]))],
                "dd if=/dev/sda bs=4k skip=100 count=1 2>&1 | grep -o 'Input/output error'; dd if=/dev/sda bs=4k count=1 2>/dev/null | wc -c")
    assert out == "Input/output error\n4096\n"


def test_zeroes_beyond_the_end_are_an_error(boot, in_kernel, memory_disk):
    kernel = boot(disks=[memory_disk(1)])
    disk = only_disk(kernel)
    got = []

    def thread():
        bio = bio_alloc(kernel, 1)
        bio.bi_disk, bio.bi_sector, bio.bi_size, bio.bi_opf = disk, 2040, 16 << 9, 9
        try:
            submit_bio_wait(bio)
        except KernelError as error:
            got.append(error.errno)

    in_kernel(kernel, thread)
    assert got == [5] and "attempt to access beyond end of device" in kernel.dmesg()
    assert blkdev_issue_zeroout is not None


def test_old_schedulers_are_gone(boot, memory_disk, in_kernel):
    """cfq and noop left Linux with 5.0; "deadline" still means mq-deadline."""
    kernel = boot(disks=[memory_disk()])
    q = only_disk(kernel).queue
    assert elv_iosched_show(q) == b"[mq-deadline] kyber bfq none \n"

    def thread():
        for name in (b"cfq", b"noop", b"x" * 20):
            with pytest.raises(KernelError) as error:
                elv_iosched_store(q, name)
            assert error.value.errno == EINVAL
        elv_iosched_store(q, b"bfq\n")
        assert elv_iosched_show(q) == b"mq-deadline kyber [bfq] none \n"
        elv_iosched_store(q, b"deadline")
        elv_iosched_store(q, b"none")
        assert elv_iosched_show(q) == b"[none] mq-deadline kyber bfq \n"

    in_kernel(kernel, thread)
