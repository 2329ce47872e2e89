"""RAM disks: /dev/ram0 ... /dev/ram15.

Linux: drivers/block/brd.c (5.3). Same: pages are allocated when they are first written and stay; bios are served at
    once.
Differs: a module in any case (drivers/block/module.py); brd.rd_size=KB is the size of its disks.
Owns: BrdDevice (disk.private_data): its frames. Gaps: BLKFLSBUF does not free the pages (nor does it in 5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.bio import bio_endio, bio_for_each_segment, bio_io_error
from glasskernel.block.blk_core import blk_alloc_queue, blk_queue_make_request
from glasskernel.block.blk_merge import blk_queue_split
from glasskernel.block.blk_types import (
    BLK_STS_RESOURCE,
    GENHD_FL_EXT_DEVT,
    QUEUE_FLAG_IO_STAT,
    QUEUE_FLAG_NONROT,
    RAMDISK_MAJOR,
    REQ_OP_MASK,
    REQ_OP_READ,
    REQ_OP_WRITE,
    Bio,
    BlockDeviceOperations,
    Gendisk,
    RequestQueue,
)
from glasskernel.block.genhd import (
    alloc_disk,
    generic_end_io_acct,
    generic_start_io_acct,
    get_capacity,
    register_blkdev,
    set_capacity,
)
from glasskernel.block.genhd_register import add_disk
from glasskernel.kernel.time.timekeeping import ktime_get
from glasskernel.lib.errno import KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import alloc_page

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

RD_NR, RD_SIZE_KB = 16, 16384                  # CONFIG_BLK_DEV_RAM_COUNT, CONFIG_BLK_DEV_RAM_SIZE


@slotted
class BrdDevice:
    """struct brd_device. brd_pages: page number on the disk -> pfn."""

    brd_number: int
    brd_disk: Gendisk
    brd_pages: dict[int, int] = field(default_factory=dict)


def brd_lookup_page(brd: BrdDevice, sector: int) -> int | None:
    """The frame that holds a sector, if it was ever written."""
    return brd.brd_pages.get(sector >> 3)


def brd_insert_page(brd: BrdDevice, sector: int) -> int:
    """The frame for a sector, allocated now if need be. Raises ENOMEM."""
    pfn = brd_lookup_page(brd, sector)
    if pfn is None:
        kernel = brd.brd_disk.queue.kernel
        pfn = brd.brd_pages[sector >> 3] = alloc_page(kernel, 0)
        kernel.machine.ram[pfn << 12 : pfn + 1 << 12] = bytes(4096)
    return pfn


def copy_to_brd(brd: BrdDevice, source: int, sector: int, n: int) -> None:
    ram = brd.brd_disk.queue.kernel.machine.ram
    while n:
        offset = (sector & 7) << 9
        copy = min(n, 4096 - offset)
        target = (brd_insert_page(brd, sector) << 12) + offset
        ram[target : target + copy] = ram[source : source + copy]
        source += copy
        sector += copy >> 9
        n -= copy


def copy_from_brd(target: int, brd: BrdDevice, sector: int, n: int) -> None:
    ram = brd.brd_disk.queue.kernel.machine.ram
    while n:
        offset = (sector & 7) << 9
        copy = min(n, 4096 - offset)
        pfn = brd_lookup_page(brd, sector)
        source = (pfn << 12) + offset if pfn is not None else 0
        ram[target : target + copy] = ram[source : source + copy] if pfn is not None else bytes(copy)
        target += copy
        sector += copy >> 9
        n -= copy


def brd_do_bvec(brd: BrdDevice, pfn: int, offset: int, length: int, op: int, sector: int) -> None:
    """One segment. Raises ENOMEM."""
    address = (pfn << 12) + offset
    if op & 1:
        copy_to_brd(brd, address, sector, length)
    else:
        brd.brd_disk.queue.kernel.mem.note_kernel_write(pfn)
        copy_from_brd(address, brd, sector, length)


def brd_make_request(q: RequestQueue, bio: Bio) -> None:
    """->make_request_fn()"""
    disk = bio.bi_disk
    assert disk is not None
    brd: BrdDevice = disk.private_data
    bio = blk_queue_split(q, bio)
    sector, op, size = bio.bi_sector, bio.bi_opf, bio.bi_size
    if bio.bi_opf & REQ_OP_MASK not in (REQ_OP_READ, REQ_OP_WRITE) or sector + (size >> 9) > get_capacity(disk):
        bio_io_error(bio)
        return
    start = ktime_get()
    generic_start_io_acct(op, size >> 9, disk.part0)
    try:
        for pfn, offset, length in bio_for_each_segment(bio):
            brd_do_bvec(brd, pfn, offset, length, op, sector)
            sector += length >> 9
        bio.bi_size = 0
    except KernelError:
        bio.bi_status = BLK_STS_RESOURCE
    generic_end_io_acct(op, disk.part0, ktime_get() - start)
    bio_endio(bio)


brd_fops = BlockDeviceOperations()


@may_sleep
def brd_alloc(kernel: Kernel, number: int, size_kb: int) -> BrdDevice:
    """/dev/ramN"""
    q = blk_alloc_queue(kernel)
    blk_queue_make_request(q, brd_make_request)
    q.limits.physical_block_size = q.limits.io_min = 4096
    q.queue_flags |= QUEUE_FLAG_NONROT | QUEUE_FLAG_IO_STAT
    disk = alloc_disk(1, q)
    brd = BrdDevice(number, disk)
    disk.private_data = brd
    disk.major, disk.first_minor = RAMDISK_MAJOR, number
    disk.disk_name = b"ram%d" % number
    disk.flags = GENHD_FL_EXT_DEVT
    disk.fops = brd_fops
    set_capacity(disk, size_kb * 2)
    add_disk(kernel, disk)
    return brd


@notrace
def _option(kernel: Kernel, name: str, default: int) -> int:
    for word in kernel.params.cmdline.split():
        if word.startswith(f"brd.{name}=") and word.split("=", 1)[1].isdigit():
            return int(word.split("=", 1)[1])
    return default


@may_sleep
def brd_init(kernel: Kernel) -> None:
    """modprobe brd"""
    del kernel.block.bdev_probe[RAMDISK_MAJOR]
    register_blkdev(kernel, RAMDISK_MAJOR, b"ramdisk")
    for number in range(_option(kernel, "rd_nr", RD_NR)):
        brd_alloc(kernel, number, _option(kernel, "rd_size", RD_SIZE_KB))
    kernel.printk("brd: module loaded")
