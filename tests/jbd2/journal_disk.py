"""tests/pagecache/fakedisk.py with a device number of its own, 240:0, and a write cache that flushes show up in."""
from glasskernel.block.blk_core import blk_alloc_queue, blk_queue_make_request, blk_queue_write_cache
from glasskernel.block.genhd import alloc_disk, set_capacity
from glasskernel.kernel.irq.manage import request_irq
from glasskernel.mm.backing_dev import bdi_register_owner
from tests.pagecache.fakedisk import FakeDisk


class JournalDisk(FakeDisk):
    def __init__(self, kernel, megabytes):
        self.kernel = kernel
        self.data = bytearray(megabytes << 20)
        self.latency_ns = 100_000
        self.bad, self.log, self.times, self.done = set(), [], [], []
        self.dev = 240 << 20
        queue = blk_alloc_queue(kernel)
        blk_queue_make_request(queue, self.make_request)
        blk_queue_write_cache(queue, True, True)
        bdi_register_owner(queue.backing_dev_info, None, self.dev)
        self.disk = alloc_disk(1, queue)
        self.disk.disk_name, self.disk.major = b"fake", 240
        set_capacity(self.disk, len(self.data) >> 9)
        kernel.block.bdev_map[self.dev] = (self.disk, 0)
        request_irq(kernel, 11, self.interrupt, 0, "fakedisk", self)
