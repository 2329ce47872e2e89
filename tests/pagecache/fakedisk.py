"""A disk for tests of the page cache: bios are stored in a bytearray and end after `latency_ns`, in interrupt context."""
from glasskernel.block.bio import bio_endio
from glasskernel.block.blk_core import blk_alloc_queue, blk_queue_make_request
from glasskernel.block.blk_types import REQ_OP_WRITE
from glasskernel.block.genhd import alloc_disk, set_capacity
from glasskernel.kernel.irq.manage import request_irq
from glasskernel.mm.backing_dev import bdi_register_owner


class FakeDisk:
    """name: b"fake"; device number 240:0. bad: sectors that fail. log: ("R"|"W", sector, bytes) of every bio; times: when."""

    def __init__(self, kernel, megabytes=8, latency_ns=100_000):
        self.kernel = kernel
        self.data = bytearray(megabytes << 20)
        self.latency_ns = latency_ns
        self.bad = set()
        self.log = []
        self.times = []
        self.dev = 240 << 20
        queue = blk_alloc_queue(kernel)
        blk_queue_make_request(queue, self.make_request)
        bdi = queue.backing_dev_info
        bdi_register_owner(bdi, None, self.dev)
        self.disk = alloc_disk(1, queue)
        self.disk.disk_name, self.disk.major = b"fake", 240
        set_capacity(self.disk, len(self.data) >> 9)
        self.bdi = bdi
        self.done = []
        self.flushes = 0
        kernel.vfs.blkdev_issue_flush = self.flush
        kernel.block.bdev_map[self.dev] = (self.disk, 0)
        request_irq(kernel, 11, self.interrupt, 0, "fakedisk", self)

    def flush(self, bdev):
        self.flushes += 1

    def make_request(self, queue, bio):
        write = bio.bi_opf & 0xFF == REQ_OP_WRITE
        self.log.append(("W" if write else "R", bio.bi_sector, bio.bi_size))
        machine = self.kernel.machine
        self.times.append(machine.this_cpu.clock_ns)
        machine.at(machine.this_cpu.clock_ns + self.latency_ns, lambda: self.finish(bio, write))

    def finish(self, bio, write):
        self.done.append((bio, write))
        self.kernel.machine.post_irq(11)

    def interrupt(self, irq, dev):
        done, self.done = self.done, []
        for bio, write in done:
            self.end(bio, write)
        return 1

    def end(self, bio, write):
        ram = self.kernel.machine.ram
        position = bio.bi_sector << 9
        for pfn, offset, length in bio.bi_io_vec:
            start = (pfn << 12) + offset
            if self.bad & set(range(position >> 9, position + length >> 9)):
                bio.bi_status = 10
            elif write:
                self.data[position : position + length] = ram[start : start + length]
            else:
                ram[start : start + length] = self.data[position : position + length]
            position += length
        bio_endio(bio)
