"""SCSI disks: sda, sdb, ...

Linux: drivers/scsi/sd.c (5.3). Same: names and numbers (major 8, sixteen minors a disk, then 65...), command blocks of
    10 or 16 bytes, SYNCHRONIZE CACHE for flushes, FUA, UNMAP for discards, WRITE SAME with UNMAP for zeroes.
Owns: ScsiDisk. Context: sd_probe(): task (PID 1, at boot).
Gaps: removal, suspend, protection information, thin provisioning messages.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.block.blk_core import blk_queue_logical_block_size, blk_queue_write_cache
from glasskernel.block.blk_types import (
    BLK_STS_NOTSUPP,
    BLK_STS_OK,
    GENHD_FL_EXT_DEVT,
    QUEUE_FLAG_ADD_RANDOM,
    QUEUE_FLAG_DISCARD,
    QUEUE_FLAG_NONROT,
    REQ_FUA,
    REQ_OP_DISCARD,
    REQ_OP_FLUSH,
    REQ_OP_MASK,
    REQ_OP_READ,
    REQ_OP_WRITE,
    REQ_OP_WRITE_ZEROES,
    BlockDevice,
    BlockDeviceOperations,
    Gendisk,
)
from glasskernel.block.genhd import alloc_disk, get_capacity, register_blkdev, set_capacity
from glasskernel.block.genhd_register import device_add_disk
from glasskernel.drivers.scsi.scsi_lib import scsi_init_io, scsi_mq_alloc_queue
from glasskernel.drivers.scsi.scsi_types import (
    READ_10,
    READ_16,
    SYNCHRONIZE_CACHE,
    UNMAP,
    WRITE_10,
    WRITE_16,
    WRITE_SAME_16,
    ScsiCmnd,
    ScsiDevice,
    ScsiDisk,
)
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

SD_MINORS = 16
SCSI_DISK0_MAJOR = 8
SCSI_DISK_MAJORS = (8, 65, 66, 67, 68, 69, 70, 71, 128, 129, 130, 131, 132, 133, 134, 135)


@notrace
def sd_major(index: int) -> tuple[int, int]:
    """(major, first minor) of the n-th disk."""
    return SCSI_DISK_MAJORS[index >> 4 & 15], (index & 15) << 4


def sd_format_disk_name(index: int) -> bytes:
    """b"sda" ... b"sdz", b"sdaa" ..."""
    name = b""
    index += 1
    while index:
        index, letter = divmod(index - 1, 26)
        name = bytes([97 + letter]) + name
    return b"sd" + name


# ---- commands --------------------------------------------------------------------------------------------------
def sd_init_command(sdkp: ScsiDisk, cmd: ScsiCmnd) -> int:
    """Writes the command block of a request. BLK_STS_*."""
    op = cmd.request.cmd_flags & REQ_OP_MASK
    if op in (REQ_OP_READ, REQ_OP_WRITE):
        return sd_setup_read_write_cmnd(sdkp, cmd)
    if op == REQ_OP_FLUSH:
        return sd_setup_flush_cmnd(sdkp, cmd)
    if op == REQ_OP_DISCARD:
        return sd_setup_unmap_cmnd(sdkp, cmd)
    if op == REQ_OP_WRITE_ZEROES:
        return sd_setup_write_zeroes_cmnd(sdkp, cmd)
    return BLK_STS_NOTSUPP


def sd_setup_read_write_cmnd(sdkp: ScsiDisk, cmd: ScsiCmnd) -> int:
    rq = cmd.request
    lba, nr_blocks = rq.sector, rq.data_len >> 9
    ret = scsi_init_io(cmd)
    if ret != BLK_STS_OK:
        return ret
    if lba + nr_blocks > get_capacity(sdkp.disk):
        return 10                              # BLK_STS_IOERR: access beyond the end
    write = bool(rq.cmd_flags & 1)
    flags = 0x8 if rq.cmd_flags & REQ_FUA else 0
    if lba > 0xFFFFFFFF or nr_blocks > 0xFFFF:
        return sd_setup_rw16_cmnd(cmd, write, lba, nr_blocks, flags)
    return sd_setup_rw10_cmnd(cmd, write, lba, nr_blocks, flags)


def sd_setup_rw10_cmnd(cmd: ScsiCmnd, write: bool, lba: int, nr_blocks: int, flags: int) -> int:
    cmd.cmnd = (bytes((WRITE_10 if write else READ_10, flags)) + lba.to_bytes(4, "big") + b"\0"
                + nr_blocks.to_bytes(2, "big") + b"\0")
    return BLK_STS_OK


def sd_setup_rw16_cmnd(cmd: ScsiCmnd, write: bool, lba: int, nr_blocks: int, flags: int) -> int:
    cmd.cmnd = (bytes((WRITE_16 if write else READ_16, flags)) + lba.to_bytes(8, "big") + nr_blocks.to_bytes(4, "big")
                + b"\0\0")
    return BLK_STS_OK


def sd_setup_flush_cmnd(sdkp: ScsiDisk, cmd: ScsiCmnd) -> int:
    cmd.cmnd = bytes((SYNCHRONIZE_CACHE,)) + bytes(9)
    return BLK_STS_OK


def sd_setup_unmap_cmnd(sdkp: ScsiDisk, cmd: ScsiCmnd) -> int:
    """One range; its descriptor travels behind the command block instead of in a page of its own."""
    rq = cmd.request
    cmd.cmnd = (bytes((UNMAP, 0)) + bytes(6) + (24).to_bytes(2, "big") + rq.sector.to_bytes(8, "big")
                + (rq.data_len >> 9).to_bytes(4, "big"))
    return BLK_STS_OK


def sd_setup_write_zeroes_cmnd(sdkp: ScsiDisk, cmd: ScsiCmnd) -> int:
    rq = cmd.request
    cmd.cmnd = (bytes((WRITE_SAME_16, 0x8)) + rq.sector.to_bytes(8, "big") + (rq.data_len >> 9).to_bytes(4, "big")
                + b"\0\0")
    return BLK_STS_OK


# ---- block device operations ---------------------------------------------------------------------------------------
def sd_open(bdev: BlockDevice, mode: int) -> None:
    """->open()"""
    sdkp: ScsiDisk = bdev.bd_disk.private_data
    sdkp.openers += 1


def sd_release(disk: Gendisk, mode: int) -> None:
    """->release()"""
    sdkp: ScsiDisk = disk.private_data
    sdkp.openers -= 1


def sd_getgeo(bdev: BlockDevice) -> tuple[int, int, int]:
    """HDIO_GETGEO: heads, sectors, cylinders that people made up for large disks."""
    heads, sectors = 255, 63
    return heads, sectors, get_capacity(bdev.bd_disk) // (heads * sectors)


def sd_ioctl(bdev: BlockDevice, mode: int, cmd: int, arg: int) -> int:
    """->ioctl(): pass-through commands, and where the disk is on its bus."""
    # Imported by the first program that asks: most never do.
    from glasskernel.block.scsi_ioctl import scsi_cmd_blk_ioctl, scsi_verify_blk_ioctl
    from glasskernel.drivers.scsi.scsi_ioctl import SCSI_IOCTL_COMMANDS, scsi_ioctl

    if cmd in SCSI_IOCTL_COMMANDS:
        scsi_verify_blk_ioctl(bdev)
        sdkp: ScsiDisk = bdev.bd_disk.private_data
        return scsi_ioctl(sdkp.device, cmd, arg)
    return scsi_cmd_blk_ioctl(bdev, mode, cmd, arg)


sd_fops = BlockDeviceOperations(open=sd_open, release=sd_release, getgeo=sd_getgeo, ioctl=sd_ioctl)


# ---- finding disks ---------------------------------------------------------------------------------------------------
def sd_revalidate_disk(sdkp: ScsiDisk, rotational: bool) -> None:
    """Asks the device what it can, and sets the queue's limits."""
    q = sdkp.disk.queue
    set_capacity(sdkp.disk, sdkp.capacity)
    if not rotational:
        q.queue_flags |= QUEUE_FLAG_NONROT
        q.queue_flags &= ~QUEUE_FLAG_ADD_RANDOM
    else:
        q.queue_flags |= QUEUE_FLAG_ADD_RANDOM
    blk_queue_logical_block_size(q, 512)
    q.limits.physical_block_size = q.limits.io_min = 4096 if not rotational else 512
    q.limits.max_write_zeroes_sectors = 65535
    if sdkp.lbpme:
        q.queue_flags |= QUEUE_FLAG_DISCARD
        q.limits.discard_granularity = 4096
        q.limits.max_discard_sectors = q.limits.max_hw_discard_sectors = 4194303
    blk_queue_write_cache(q, sdkp.WCE, sdkp.WCE and sdkp.DPOFUA)


def sd_print_capacity(kernel: Kernel, prefix: str, sdkp: ScsiDisk) -> None:
    size = sdkp.capacity * 512
    kernel.printk(f"{prefix}{sdkp.capacity} 512-byte logical blocks: ({_human(size, 1000)}/{_human(size, 1024)})", 5)


@notrace
def _human(size: int, base: int) -> str:
    """string_get_size(): three significant digits."""
    units = ("B", "kB", "MB", "GB", "TB", "PB") if base == 1000 else ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    value = float(size)
    index = 0
    while value >= base and index < len(units) - 1:
        value /= base
        index += 1
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} {units[index]}"


@may_sleep
def sd_probe(
    sdev: ScsiDevice, capacity: int, *, index: int, rotational: bool, write_cache: bool, read_only: bool
) -> Gendisk:
    """A disk was found: makes sdX, and looks for partitions. Context: task."""
    kernel = sdev.host.kernel
    if SCSI_DISK0_MAJOR not in kernel.block.major_names:
        for major in SCSI_DISK_MAJORS:         # init_sd()
            register_blkdev(kernel, major, b"sd")
    disk = alloc_disk(SD_MINORS)
    sdkp = ScsiDisk(sdev, disk, index, capacity, WCE=write_cache, DPOFUA=True, write_prot=read_only)
    disk.private_data = sdkp
    disk.queue = scsi_mq_alloc_queue(sdev)
    disk.queue.disk = disk
    disk.major, disk.first_minor = sd_major(index)
    disk.disk_name = sd_format_disk_name(index)
    disk.fops = sd_fops
    disk.flags = GENHD_FL_EXT_DEVT
    disk.parent = sdev.sdev_gendev
    sd_revalidate_disk(sdkp, rotational)
    prefix = f"sd {sdev.address}: [{disk.disk_name.decode()}] "
    sd_print_capacity(kernel, prefix, sdkp)
    kernel.printk(f"{prefix}Write Protect is {'on' if read_only else 'off'}", 5)
    kernel.printk(
        f"{prefix}Write cache: {'enabled' if write_cache else 'disabled'}, read cache: enabled, supports DPO and FUA", 5
    )
    device_add_disk(sdev.sdev_gendev, disk)
    if read_only:
        disk.part0.policy = 1
    kernel.printk(f"{prefix}Attached SCSI disk", 5)
    return disk
