"""Disks and partitions in the device model: /sys/block, /sys/class/block, nodes in /dev.

Linux: block/genhd.c (add_disk, del_gendisk, the disk's attributes), block/partition-generic.c (5.3). In a file of its
    own, because it needs the device model and the page cache of devices, which lie above the block layer.
Same: names and formats of the attributes; a disk's partitions are looked for when it is added.
Differs: nodes are root:disk 0660 at once, which udev does elsewhere.
Owns: HdStruct.device, disk.part_tbl beyond part0. Context: task.
"""
from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.block.blk_core import blkdev_issue_flush
from glasskernel.block.blk_lib import blkdev_issue_discard, blkdev_issue_zeroout
from glasskernel.block.blk_mq import blk_finish_plug, blk_schedule_flush_plug, start_plug
from glasskernel.block.blk_mq_dispatch import blk_softirq_init
from glasskernel.block.blk_sysfs import (
    blk_register_queue,
    blk_unregister_queue,
    elv_register_queue,
    elv_unregister_queue,
)
from glasskernel.block.blk_types import (
    GENHD_FL_NO_PART_SCAN,
    GENHD_FL_REMOVABLE,
    GENHD_FL_UP,
    BlockDevice,
    Gendisk,
    HdStruct,
)
from glasskernel.block.elevator import MODULES, elv_register
from glasskernel.block.genhd import (
    blk_alloc_devt,
    blk_free_devt,
    disk_devt,
    disk_max_parts,
    disk_name,
    disk_part_iter,
    diskstats_line,
    get_capacity,
)
from glasskernel.block.mq_deadline import mq_deadline
from glasskernel.block.partitions.check import check_partition
from glasskernel.drivers.base.core import Class, Device, class_create, device_add, device_del, get_device_parent
from glasskernel.fs.block_dev import (
    bdget,
    bdput,
    blkdev_get,
    blkdev_put,
    invalidate_bdev,
    kill_bdev,
    sync_blockdev,
)
from glasskernel.fs.devtmpfs import devtmpfs_create_node
from glasskernel.fs.sysfs.kobject import (
    Attribute,
    Kobject,
    kobject_create_and_add,
    kobject_uevent,
    sysfs_create_file,
    sysfs_create_link,
    sysfs_remove_link,
)
from glasskernel.lib.errno import EBUSY, ENXIO, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.backing_dev import bdi_register_owner, bdi_unregister

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

FMODE_READ = 1
DISK_GROUP = 6


def genhd_device_init(kernel: Kernel) -> None:
    """/sys/class/block and /sys/block, the schedulers, the BLOCK softirq. Context: boot."""
    block_connect(kernel)
    blk_softirq_init(kernel)
    elv_register(kernel, b"mq-deadline", mq_deadline)
    for name in MODULES:
        elv_register(kernel, name, None)
    kernel.block.block_class = class_create(kernel, b"block", block=True)
    kernel.block.block_depr = kobject_create_and_add(b"block", kernel.sysfs.top)


@notrace
def block_connect(kernel: Kernel) -> None:
    """What lower rooms, and the page cache of devices, call of the block layer. Context: boot."""
    kernel.blk_flush_plug = blk_schedule_flush_plug
    kernel.filemap.blk_start_plug = lambda: start_plug(kernel)
    kernel.filemap.blk_finish_plug = blk_finish_plug
    kernel.vfs.blkdev_issue_flush = blkdev_issue_flush
    kernel.vfs.blkdev_issue_zeroout = blkdev_issue_zeroout
    kernel.vfs.blkdev_issue_discard = blkdev_issue_discard
    kernel.rescan_partitions = rescan_partitions
    kernel.block.elv_register_queue = elv_register_queue
    kernel.block.elv_unregister_queue = elv_unregister_queue


# ---- attributes --------------------------------------------------------------------------------------------
@notrace
def _part(kobj: Kobject) -> HdStruct:
    part: HdStruct = kobj.data.data
    return part


@notrace
def _disk(kobj: Kobject) -> Gendisk:
    disk = _part(kobj).disk
    assert disk is not None
    return disk


def part_size_show(kobj: Kobject) -> bytes:
    return b"%d\n" % _part(kobj).nr_sects


def part_stat_show(kobj: Kobject) -> bytes:
    return b" ".join(b"%8d" % int(column) for column in diskstats_line(_part(kobj)).split()) + b"\n"


def part_inflight_show(kobj: Kobject) -> bytes:
    return b"%8d %8d\n" % tuple(_part(kobj).in_flight)


def part_start_show(kobj: Kobject) -> bytes:
    return b"%d\n" % _part(kobj).start_sect


def part_partition_show(kobj: Kobject) -> bytes:
    return b"%d\n" % _part(kobj).partno


def part_ro_show(kobj: Kobject) -> bytes:
    return b"%d\n" % bool(_part(kobj).policy)


def disk_range_show(kobj: Kobject) -> bytes:
    return b"%d\n" % _disk(kobj).minors


def disk_ext_range_show(kobj: Kobject) -> bytes:
    return b"%d\n" % disk_max_parts(_disk(kobj))


def disk_removable_show(kobj: Kobject) -> bytes:
    return b"%d\n" % bool(_disk(kobj).flags & GENHD_FL_REMOVABLE)


def disk_hidden_show(kobj: Kobject) -> bytes:
    return b"0\n"


def disk_capability_show(kobj: Kobject) -> bytes:
    return b"%x\n" % _disk(kobj).flags


def disk_alignment_offset_show(kobj: Kobject) -> bytes:
    return b"%d\n" % _disk(kobj).queue.limits.alignment_offset


def disk_discard_alignment_show(kobj: Kobject) -> bytes:
    return b"%d\n" % _disk(kobj).queue.limits.discard_alignment


_DISK_ATTRS = (
    Attribute(b"range", disk_range_show), Attribute(b"ext_range", disk_ext_range_show),
    Attribute(b"removable", disk_removable_show), Attribute(b"hidden", disk_hidden_show),
    Attribute(b"ro", part_ro_show), Attribute(b"size", part_size_show),
    Attribute(b"alignment_offset", disk_alignment_offset_show),
    Attribute(b"discard_alignment", disk_discard_alignment_show), Attribute(b"capability", disk_capability_show),
    Attribute(b"stat", part_stat_show), Attribute(b"inflight", part_inflight_show),
)
_PART_ATTRS = (
    Attribute(b"partition", part_partition_show), Attribute(b"start", part_start_show),
    Attribute(b"size", part_size_show), Attribute(b"ro", part_ro_show),
    Attribute(b"alignment_offset", disk_alignment_offset_show),
    Attribute(b"discard_alignment", disk_discard_alignment_show), Attribute(b"stat", part_stat_show),
    Attribute(b"inflight", part_inflight_show),
)


@notrace
def blk_trace_init_sysfs(device: Device) -> None:
    """/sys/block/NAME/trace. The attributes are the tracer's (kernel/trace/blk_tracer.py)."""
    part, directory = device.data, kobject_create_and_add(b"trace", device.kobj)
    for name in ("enable", "act_mask", "pid", "start_lba", "end_lba"):
        sysfs_create_file(directory, _trace_attribute(part, name))


@notrace
def _trace_attribute(part: HdStruct, name: str) -> Attribute:
    @notrace
    def show(kobj: Kobject) -> bytes:
        call = kobj.kernel.block.blk_trace_attr
        assert call is not None
        return call(part, name, None)

    @notrace
    def store(kobj: Kobject, text: bytes) -> None:
        call = kobj.kernel.block.blk_trace_attr
        assert call is not None
        call(part, name, text)

    return Attribute(name.encode(), show, store, 0o644)


@notrace
def _disk_uevent(device: Device) -> list[bytes]:
    part: HdStruct = device.data
    if not part.partno:
        return [b"DEVTYPE=disk"]
    lines = [b"DEVTYPE=partition", b"PARTN=%d" % part.partno]
    return lines + [b"PARTNAME=%b" % part.volname] if part.volname else lines


@notrace
def _block_device(kernel: Kernel, part: HdStruct, name: bytes, parent: Kobject) -> Device:
    """The device of a disk or a partition, registered."""
    cls: Class = kernel.block.block_class
    nodename = name
    name = name.replace(b"/", b"!")
    device = Device(Kobject(kernel, name, parent), name, part.devt, cls, None, 0o600, nodename, part)
    device.uevent = _disk_uevent
    devtmpfs_create_node(kernel, nodename, 0o660, part.devt, True, 0, DISK_GROUP)
    device_add(device)
    part.device = device
    return device


# ---- disks -----------------------------------------------------------------------------------------------------
@may_sleep
def add_disk(kernel: Kernel, disk: Gendisk) -> None:
    device_add_disk(None, disk)


@may_sleep
def device_add_disk(parent: Device | None, disk: Gendisk) -> None:
    """From now on the disk can be opened; its partitions are looked for."""
    kernel = disk.queue.kernel
    disk.flags |= GENHD_FL_UP
    disk.queue.disk = disk
    disk.part0.devt = devt = disk_devt(disk)
    blk_register_region_of(kernel, disk)
    bdi_register_owner(disk.queue.backing_dev_info, None, devt)
    register_disk(kernel, parent, disk)
    blk_register_queue(disk)


@notrace
def blk_register_region_of(kernel: Kernel, disk: Gendisk) -> None:
    """get_gendisk() finds the disk; its partitions follow when they are known."""
    kernel.block.bdev_map[disk_devt(disk)] = (disk, 0)
    kernel.block.disks.append(disk)


@may_sleep
def register_disk(kernel: Kernel, parent: Device | None, disk: Gendisk) -> None:
    cls: Class = kernel.block.block_class
    device = _block_device(kernel, disk.part0, disk.disk_name, get_device_parent(kernel, cls, parent))
    for attr in _DISK_ATTRS:
        sysfs_create_file(device.kobj, attr)
    blk_trace_init_sysfs(device)
    if parent is not None:
        sysfs_create_link(device.kobj, parent.kobj, b"device")
    sysfs_create_link(kernel.block.block_depr, device.kobj, device.name)
    disk.part0.holder_dir = kobject_create_and_add(b"holders", device.kobj)
    disk.slave_dir = kobject_create_and_add(b"slaves", device.kobj)
    if disk_max_parts(disk) <= 1 or disk.flags & GENHD_FL_NO_PART_SCAN or not get_capacity(disk):
        return
    bdev = bdget(kernel, disk_devt(disk))
    bdev.bd_invalidated = 1
    blkdev_get(bdev, FMODE_READ, None)         # reads the partition table: rescan_partitions()
    blkdev_put(bdev, FMODE_READ)


@may_sleep
def del_gendisk(disk: Gendisk) -> None:
    """The disk is gone."""
    kernel = disk.queue.kernel
    for part in list(disk_part_iter(disk, False, True)):
        invalidate_partition(disk, part.partno)
        delete_partition(disk, part.partno)
    invalidate_partition(disk, 0)
    disk.flags &= ~GENHD_FL_UP
    blk_unregister_queue(disk)
    bdi_unregister(disk.queue.backing_dev_info)
    del kernel.block.bdev_map[disk_devt(disk)]
    kernel.block.disks.remove(disk)
    device: Device = disk.part0.device
    sysfs_remove_link(kernel.block.block_depr, device.name)
    device_del(device)


@may_sleep
def invalidate_partition(disk: Gendisk, partno: int) -> None:
    """Nothing of it stays in the page cache."""
    part = disk.part_tbl.get(partno)
    if part is None:
        return
    bdev = bdget(disk.queue.kernel, part.devt)
    try:
        with suppress(KernelError):
            sync_blockdev(bdev)
        kill_bdev(bdev)
    finally:
        bdput(bdev)


# ---- partitions ----------------------------------------------------------------------------------------------------
def add_partition(
    disk: Gendisk, partno: int, start: int, length: int, *, uuid: bytes = b"", volname: bytes = b""
) -> HdStruct:
    """A partition: its numbers, its directory, its node. Raises EBUSY."""
    if partno in disk.part_tbl:
        raise KernelError(EBUSY)
    kernel = disk.queue.kernel
    part = HdStruct(start, length, partno, policy=disk.part0.policy, uuid=uuid, volname=volname, disk=disk)
    part.devt = blk_alloc_devt(kernel, part)
    device = _block_device(kernel, part, disk_name(disk, partno), disk.part0.device.kobj)
    for attr in _PART_ATTRS:
        sysfs_create_file(device.kobj, attr)
    blk_trace_init_sysfs(device)
    part.holder_dir = kobject_create_and_add(b"holders", device.kobj)
    disk.part_tbl[partno] = part
    kernel.block.bdev_map[part.devt] = (disk, partno)
    return part


def delete_partition(disk: Gendisk, partno: int) -> None:
    kernel = disk.queue.kernel
    part = disk.part_tbl.pop(partno, None)
    if part is None:
        return
    kernel.block.bdev_map.pop(part.devt, None)
    blk_free_devt(kernel, part.devt)
    device_del(part.device)


@may_sleep
def drop_partitions(disk: Gendisk, bdev: BlockDevice) -> None:
    """All partitions go. Raises EBUSY if one is open."""
    if bdev.bd_part_count:
        raise KernelError(EBUSY)
    for part in list(disk_part_iter(disk, False, True)):
        invalidate_partition(disk, part.partno)
        delete_partition(disk, part.partno)


@may_sleep
def rescan_partitions(disk: Gendisk, bdev: BlockDevice) -> None:
    """Reads the partition table (again). Raises EBUSY. Context: bdev.bd_mutex held."""
    bdev.bd_invalidated = 0
    drop_partitions(disk, bdev)
    if not get_capacity(disk) or disk.flags & GENHD_FL_NO_PART_SCAN:
        return
    kernel = disk.queue.kernel
    if disk.fops.revalidate_disk is not None:
        disk.fops.revalidate_disk(disk)
    table = check_partition(disk, bdev)
    if table is None:
        return
    name = disk.disk_name.decode()
    kernel.printk(f" {name}:{table.text}", 6)
    for number, found in sorted(table.parts.items()):
        length = found.size
        if not length or number >= disk_max_parts(disk):
            continue
        if found.start >= get_capacity(disk):
            kernel.printk(f"{name}: p{number} start {found.start} is beyond EOD, truncated", 4)
            continue
        if found.start + length > get_capacity(disk):
            kernel.printk(f"{name}: p{number} size {length} extends beyond EOD, truncated", 4)
            length = get_capacity(disk) - found.start
        add_partition(disk, number, found.start, length, uuid=found.uuid, volname=found.volname)


@may_sleep
def blkdev_reread_part(bdev: BlockDevice) -> None:
    """BLKRRPART. Raises EINVAL, EACCES, EBUSY. Context: bd_mutex held."""
    disk = bdev.bd_disk
    if disk is None:
        raise KernelError(ENXIO)
    invalidate_bdev(bdev)
    rescan_partitions(disk, bdev)
    kobject_uevent(disk.part0.device.kobj, b"change")
