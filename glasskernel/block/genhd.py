"""Disks by number, partitions of a disk, and their statistics.

Linux: block/genhd.c, include/linux/{genhd,part_stat}.h (5.3). Same: majors 254 down to 1 are given out, partitions
    beyond `minors` get numbers of major 259; the statistics of a partition count for its disk as well.
Differs: a dictionary by device number instead of kobj_map; counters are not per CPU. What the device model does of
    add_disk() is in genhd_register.py, which lies above the file systems.
Owns: kernel.block.bdev_map, major_names, disks; HdStruct's counters.
Context: any; registration: task.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from glasskernel.block.blk_types import BLOCK_EXT_MAJOR, BlockDeviceOperations, Gendisk, HdStruct
from glasskernel.kernel.time.timekeeping import jiffies
from glasskernel.lib.errno import EBUSY, EINVAL, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.block.blk_types import RequestQueue
    from glasskernel.init.kernel import Kernel

BLKDEV_MAJOR_MAX = 512
BLKDEV_MAJOR_DYN = 254
Probe = Callable[[int], tuple[Gendisk, int] | None]


# ---- majors ------------------------------------------------------------------------------------------
def register_blkdev(kernel: Kernel, major: int, name: bytes) -> int:
    """Takes a major for a driver; 0: any free one. Returns it. Raises EBUSY, EINVAL."""
    names = kernel.block.major_names
    if major == 0:
        major = next((m for m in range(BLKDEV_MAJOR_DYN, 0, -1) if m not in names), 0)
        if not major:
            raise KernelError(EBUSY)
    elif not 0 < major < BLKDEV_MAJOR_MAX:
        raise KernelError(EINVAL)
    if major in names:
        raise KernelError(EBUSY)
    names[major] = name
    return major


@notrace
def blkdev_show(kernel: Kernel) -> list[tuple[int, bytes]]:
    """(major, name) as /proc/devices lists them."""
    return sorted(kernel.block.major_names.items())


def blk_register_region(kernel: Kernel, major: int, probe: Probe) -> None:
    """probe(dev) is asked for numbers of this major that nobody has registered: it may make the disk."""
    kernel.block.bdev_probe[major] = probe


# ---- disks and partitions -----------------------------------------------------------------------------
def alloc_disk(minors: int, queue: RequestQueue | None = None) -> Gendisk:
    """A disk that nobody knows yet; its partitions have device numbers first_minor + 1 ... first_minor + minors - 1."""
    disk = Gendisk(minors=minors, fops=BlockDeviceOperations())
    disk.part0.disk = disk
    disk.part_tbl[0] = disk.part0
    if queue is not None:
        disk.queue = queue
    return disk


@notrace
def disk_devt(disk: Gendisk) -> int:
    return disk.major << 20 | disk.first_minor


@notrace
def disk_max_parts(disk: Gendisk) -> int:
    return 256 if disk.flags & 64 else disk.minors             # GENHD_FL_EXT_DEVT


def __disk_get_part(disk: Gendisk, partno: int) -> HdStruct | None:
    """The partition of that number, for who holds no reference on it: under RCU."""
    return disk.part_tbl.get(partno)


def disk_get_part(disk: Gendisk, partno: int) -> HdStruct | None:
    """The partition of that number, 0 for the whole disk; None if there is none."""
    return __disk_get_part(disk, partno)


def get_gendisk(kernel: Kernel, dev: int) -> tuple[Gendisk, int] | None:
    """(disk, partition number) of a device number; asks the driver of the major if nobody has it yet."""
    state = kernel.block
    found = state.bdev_map.get(dev)
    if found is None:
        probe = state.bdev_probe.get(dev >> 20)
        if probe is not None:
            found = probe(dev)
    return found


def blk_alloc_devt(kernel: Kernel, part: HdStruct) -> int:
    """The device number for a partition. Raises EBUSY."""
    disk = part.disk
    assert disk is not None
    if part.partno < disk.minors:
        return disk.major << 20 | disk.first_minor + part.partno
    taken = kernel.block.ext_devt
    minor = next((m for m in range(1 << 20) if m not in taken), -1)
    if minor < 0:
        raise KernelError(EBUSY)
    taken[minor] = part
    return BLOCK_EXT_MAJOR << 20 | minor


def blk_free_devt(kernel: Kernel, devt: int) -> None:
    if devt >> 20 == BLOCK_EXT_MAJOR:
        kernel.block.ext_devt.pop(devt & 0xFFFFF, None)


def disk_map_sector_rcu(disk: Gendisk, sector: int) -> HdStruct:
    """The partition that a sector of the disk lies in; part0 if in none."""
    for part in disk.part_tbl.values():
        if part.partno and part.start_sect <= sector < part.start_sect + part.nr_sects:
            return part
    return disk.part0


@notrace
def disk_part_iter(disk: Gendisk, part0: bool, empty: bool = False) -> Iterator[HdStruct]:
    """Partitions in the order of their numbers."""
    for partno in sorted(disk.part_tbl):
        part = disk.part_tbl[partno]
        if partno == 0 and not part0:
            continue
        if partno and not part.nr_sects and not empty:
            continue
        yield part


@notrace
def get_capacity(disk: Gendisk) -> int:
    """In sectors."""
    return disk.part0.nr_sects


@notrace
def set_capacity(disk: Gendisk, size: int) -> None:
    disk.part0.nr_sects = size


def set_device_ro(part: HdStruct, flag: int) -> None:
    """Read-only or not: one partition, or the disk."""
    part.policy = flag


def disk_name(disk: Gendisk, partno: int) -> bytes:
    """b"sda2", b"loop0p1": a p goes between, if the disk's name ends in a digit."""
    name = disk.disk_name
    if not partno:
        return name
    return name + (b"p%d" if name[-1:].isdigit() else b"%d") % partno


# ---- statistics -----------------------------------------------------------------------------------------
@notrace
def update_io_ticks(part: HdStruct, now: int) -> None:
    """One more jiffy in which the device had something to do."""
    disk = part.disk
    if part.stamp != now:
        part.stamp = now
        part.io_ticks += 1
    if part.partno and disk is not None and disk.part0.stamp != now:
        disk.part0.stamp = now
        disk.part0.io_ticks += 1


@notrace
def with_disk(part: HdStruct) -> tuple[HdStruct, ...]:
    """Whose counters change (part_stat_add): the partition's and the disk's."""
    disk = part.disk
    return (part,) if not part.partno or disk is None else (part, disk.part0)


def part_inc_in_flight(part: HdStruct, rw: int) -> None:
    for p in with_disk(part):
        p.in_flight[rw] += 1


def part_dec_in_flight(part: HdStruct, rw: int) -> None:
    for p in with_disk(part):
        p.in_flight[rw] -= 1


def generic_start_io_acct(op: int, sectors: int, part: HdStruct) -> None:
    """Statistics of drivers that take bios: one begins."""
    update_io_ticks(part, jiffies())
    sgrp = 2 if op & 0xFF == 3 else op & 1
    for p in with_disk(part):
        p.ios[sgrp] += 1
        p.sectors[sgrp] += sectors
    part_inc_in_flight(part, op & 1)


def generic_end_io_acct(op: int, part: HdStruct, duration_ns: int) -> None:
    update_io_ticks(part, jiffies())
    sgrp = 2 if op & 0xFF == 3 else op & 1
    for p in with_disk(part):
        p.nsecs[sgrp] += duration_ns
        p.time_in_queue += duration_ns // 4_000_000
    part_dec_in_flight(part, op & 1)


@notrace
def diskstats_line(part: HdStruct) -> bytes:
    """The 15 columns behind the name in /proc/diskstats; /sys/block/*/stat has the same numbers."""
    columns: list[int] = []
    for group in (0, 1):
        columns += [part.ios[group], part.merges[group], part.sectors[group], part.nsecs[group] // 1_000_000]
    columns += [sum(part.in_flight), part.io_ticks * 4, part.time_in_queue * 4]
    columns += [part.ios[2], part.merges[2], part.sectors[2], part.nsecs[2] // 1_000_000]
    return b" ".join(b"%d" % column for column in columns)
