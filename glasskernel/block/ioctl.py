"""ioctl(2) of block devices.

Linux: block/ioctl.c (5.3). Same: numbers, permissions (CAP_SYS_ADMIN, a writable descriptor), what goes to the driver.
Gaps: persistent reservations, zones, compat numbers, BLKSECDISCARD (no device here can).
Context: task.
"""
from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import (
    copy_from_user,
    copy_to_user,
    get_user_u32,
    put_user_u32,
    put_user_u64,
)
from glasskernel.block.blk_lib import BLKDEV_ZERO_NOUNMAP, blkdev_issue_discard, blkdev_issue_zeroout
from glasskernel.block.blk_types import QUEUE_FLAG_NONROT, BlockDevice
from glasskernel.block.genhd import disk_max_parts, set_device_ro
from glasskernel.block.genhd_register import add_partition, blkdev_reread_part, delete_partition, invalidate_partition
from glasskernel.fs.block_dev import fsync_bdev, invalidate_bdev, set_blocksize
from glasskernel.fs.types import FMODE_EXCL, FMODE_WRITE
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.locking.mutex import mutex_lock, mutex_unlock
from glasskernel.lib.errno import EACCES, EBADF, EBUSY, EFBIG, EINVAL, ENOTTY, ENXIO, EOPNOTSUPP, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.truncate import truncate_inode_pages_range

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

(BLKROSET, BLKROGET, BLKRRPART, BLKGETSIZE, BLKFLSBUF, BLKRASET, BLKRAGET, BLKFRASET, BLKFRAGET) = range(0x125D, 0x1266)
BLKSECTGET, BLKSSZGET, BLKPG = 0x1267, 0x1268, 0x1269
BLKBSZGET, BLKBSZSET, BLKGETSIZE64 = 0x80081270, 0x40081271, 0x80081272
BLKTRACESETUP, BLKTRACESTART, BLKTRACESTOP, BLKTRACETEARDOWN = 0xC0481273, 0x1274, 0x1275, 0x1276
(
    BLKDISCARD,
    BLKIOMIN,
    BLKIOOPT,
    BLKALIGNOFF,
    BLKPBSZGET,
    BLKDISCARDZEROES,
    BLKSECDISCARD,
    BLKROTATIONAL,
    BLKZEROOUT,
) = range(0x1277, 0x1280)
HDIO_GETGEO = 0x0301
BLKPG_ADD_PARTITION, BLKPG_DEL_PARTITION, BLKPG_RESIZE_PARTITION = 1, 2, 3


@notrace
def _need_admin() -> None:
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EACCES)


@may_sleep
def blkpg_ioctl(bdev: BlockDevice, arg: int) -> int:
    """BLKPG: partx(8), and fdisk(8) for tables that are in use. Raises EBUSY, ENXIO, EINVAL."""
    _need_admin()
    op, _, _, data = struct.unpack("<iiixxxxQ", copy_from_user(arg, 24))
    start, length, pno = struct.unpack("<qqi", copy_from_user(data, 20))
    disk = bdev.bd_disk
    if bdev is not bdev.bd_contains or not 0 < pno < disk_max_parts(disk):
        raise KernelError(EINVAL)
    start >>= 9
    length >>= 9
    mutex_lock(bdev.bd_mutex)
    try:
        part = disk.part_tbl.get(pno)
        others = [p for n, p in disk.part_tbl.items() if n not in (0, pno)]
        if op == BLKPG_ADD_PARTITION:
            if start < 0 or length <= 0:
                raise KernelError(EINVAL)
            if part is not None or any(
                p.start_sect < start + length and start < p.start_sect + p.nr_sects for p in others
            ):
                raise KernelError(EBUSY)
            add_partition(disk, pno, start, length)
        elif part is None:
            raise KernelError(ENXIO)
        elif op == BLKPG_DEL_PARTITION:
            if bdev.bd_part_count and _partition_is_open(bdev.bd_inode.i_sb.kernel, part.devt):
                raise KernelError(EBUSY)
            invalidate_partition(disk, pno)
            delete_partition(disk, pno)
        elif op == BLKPG_RESIZE_PARTITION:
            if start != part.start_sect:
                raise KernelError(EINVAL)
            if any(p.start_sect < start + length and start < p.start_sect + p.nr_sects for p in others):
                raise KernelError(EBUSY)
            part.nr_sects = length
        else:
            raise KernelError(EINVAL)
    finally:
        mutex_unlock(bdev.bd_mutex)
    return 0


@notrace
def _partition_is_open(kernel: Kernel, devt: int) -> bool:
    sb = kernel.vfs.blockdev_superblock
    inode = sb.s_inodes.get(devt) if sb is not None else None
    return inode is not None and bool(inode.i_bdev.bd_openers)


@may_sleep
def blkdev_reread_part_ioctl(bdev: BlockDevice) -> int:
    """BLKRRPART"""
    if bdev is not bdev.bd_contains or disk_max_parts(bdev.bd_disk) <= 1:
        raise KernelError(EINVAL)
    _need_admin()
    mutex_lock(bdev.bd_mutex)
    try:
        blkdev_reread_part(bdev)
    finally:
        mutex_unlock(bdev.bd_mutex)
    return 0


@notrace
def _range(bdev: BlockDevice, mode: int, arg: int) -> tuple[int, int]:
    """(start, length) in bytes of a range inside the device. Raises EBADF, EINVAL."""
    if not mode & FMODE_WRITE:
        raise KernelError(EBADF)
    start, length = struct.unpack("<QQ", copy_from_user(arg, 16))
    if (start | length) & 511 or start + length > bdev.bd_inode.i_size or start + length >= 1 << 64:
        raise KernelError(EINVAL)
    return start, length


@may_sleep
def blk_ioctl_discard(bdev: BlockDevice, mode: int, arg: int) -> int:
    """BLKDISCARD"""
    start, length = _range(bdev, mode, arg)
    if not bdev.bd_disk.queue.queue_flags & 1 << 8:        # QUEUE_FLAG_DISCARD
        raise KernelError(EOPNOTSUPP)
    truncate_inode_pages_range(bdev.bd_inode.i_mapping, start, start + length - 1)
    blkdev_issue_discard(bdev, start >> 9, length >> 9)
    return 0


@may_sleep
def blk_ioctl_zeroout(bdev: BlockDevice, mode: int, arg: int) -> int:
    """BLKZEROOUT"""
    start, length = _range(bdev, mode, arg)
    truncate_inode_pages_range(bdev.bd_inode.i_mapping, start, start + length - 1)
    blkdev_issue_zeroout(bdev, start >> 9, length >> 9, BLKDEV_ZERO_NOUNMAP)
    return 0


@may_sleep
def blkdev_flushbuf(bdev: BlockDevice) -> int:
    """BLKFLSBUF: writes everything and forgets what is clean."""
    _need_admin()
    with suppress(KernelError):
        fsync_bdev(bdev)
    invalidate_bdev(bdev)
    return 0


@may_sleep
def blkdev_roset(bdev: BlockDevice, arg: int) -> int:
    """BLKROSET"""
    _need_admin()
    flag = get_user_u32(arg)
    if bdev.bd_part is None:
        raise KernelError(ENXIO)
    set_device_ro(bdev.bd_part, int(bool(flag)))
    return 0


@may_sleep
def blkdev_getgeo(bdev: BlockDevice, arg: int) -> int:
    """HDIO_GETGEO"""
    getgeo = bdev.bd_disk.fops.getgeo
    if getgeo is None:
        raise KernelError(ENOTTY)
    heads, sectors, cylinders = getgeo(bdev)
    start = bdev.bd_part.start_sect if bdev.bd_part is not None else 0
    copy_to_user(arg, struct.pack("<BBHxxxxQ", heads & 0xFF, sectors & 0xFF, cylinders & 0xFFFF, start))
    return 0


@may_sleep
def blkdev_bszset(bdev: BlockDevice, mode: int, arg: int) -> int:
    """BLKBSZSET: the block size of the page cache. Raises EINVAL, EBUSY (somebody has claimed the device)."""
    _need_admin()
    size = get_user_u32(arg)
    if not mode & FMODE_EXCL and bdev.bd_holder is not None:
        raise KernelError(EBUSY)
    set_blocksize(bdev, size)
    return 0


@notrace
def _int_value(bdev: BlockDevice, cmd: int) -> int | None:
    """The answer of the commands that answer an int."""
    q = bdev.bd_disk.queue
    if cmd == BLKROGET:
        return int(bool(bdev.bd_part is not None and bdev.bd_part.policy))
    if cmd == BLKSSZGET:
        return q.limits.logical_block_size
    if cmd == BLKPBSZGET:
        return q.limits.physical_block_size
    if cmd == BLKIOMIN:
        return q.limits.io_min
    if cmd == BLKIOOPT:
        return q.limits.io_opt
    if cmd == BLKALIGNOFF:
        return q.limits.alignment_offset
    if cmd == BLKDISCARDZEROES:
        return 0
    if cmd == BLKBSZGET:
        return bdev.bd_block_size
    return None


@may_sleep
def blkdev_ioctl(bdev: BlockDevice, mode: int, cmd: int, arg: int) -> int:
    """Raises ENOTTY for what neither we nor the driver know."""
    kernel = bdev.bd_inode.i_sb.kernel
    q = bdev.bd_disk.queue
    value = _int_value(bdev, cmd)
    if value is not None:
        put_user_u32(arg, value)
        return 0
    if cmd == BLKGETSIZE64:
        put_user_u64(arg, bdev.bd_inode.i_size)
    elif cmd == BLKGETSIZE:
        if bdev.bd_inode.i_size >> 9 >= 1 << 64:
            raise KernelError(EFBIG)
        put_user_u64(arg, bdev.bd_inode.i_size >> 9)
    elif cmd in (BLKRAGET, BLKFRAGET):
        put_user_u64(arg, q.backing_dev_info.ra_pages << 3)
    elif cmd in (BLKRASET, BLKFRASET):
        _need_admin()
        q.backing_dev_info.ra_pages = arg >> 3
    elif cmd == BLKSECTGET:
        copy_to_user(arg, struct.pack("<H", min(q.limits.max_sectors, 0xFFFF)))
    elif cmd == BLKROTATIONAL:
        copy_to_user(arg, struct.pack("<H", not q.queue_flags & QUEUE_FLAG_NONROT))
    elif cmd == BLKFLSBUF:
        return blkdev_flushbuf(bdev)
    elif cmd == BLKROSET:
        return blkdev_roset(bdev, arg)
    elif cmd == BLKDISCARD:
        return blk_ioctl_discard(bdev, mode, arg)
    elif cmd == BLKZEROOUT:
        return blk_ioctl_zeroout(bdev, mode, arg)
    elif cmd == BLKSECDISCARD:
        _range(bdev, mode, arg)
        raise KernelError(EOPNOTSUPP)
    elif cmd == HDIO_GETGEO:
        return blkdev_getgeo(bdev, arg)
    elif cmd == BLKBSZSET:
        return blkdev_bszset(bdev, mode, arg)
    elif cmd == BLKPG:
        return blkpg_ioctl(bdev, arg)
    elif cmd == BLKRRPART:
        return blkdev_reread_part_ioctl(bdev)
    elif cmd in (BLKTRACESETUP, BLKTRACESTART, BLKTRACESTOP, BLKTRACETEARDOWN):
        if kernel.block.blk_trace_ioctl is None:
            raise KernelError(ENOTTY)
        _need_admin()
        return kernel.block.blk_trace_ioctl(bdev, cmd, arg)
    elif bdev.bd_disk.fops.ioctl is not None:              # __blkdev_driver_ioctl()
        return bdev.bd_disk.fops.ioctl(bdev, mode, cmd, arg)
    else:
        raise KernelError(ENOTTY)
    return 0
