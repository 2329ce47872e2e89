"""Loop devices: a file as a disk. /dev/loop0 ..., /dev/loop-control.

Linux: drivers/block/loop.c (5.3). Same: requests are served by a kernel thread loopN in order, discards punch holes, a
    flush is fsync of the file; offset, size limit, read-only, autoclear and partition scan; sysfs loop/*.
Differs: the thread takes works from a list of its own, there is no kthread_worker; block numbers and encryption of the
    old interface are not there.
Gaps: direct I/O (LOOP_SET_DIRECT_IO answers EINVAL), LOOP_CHANGE_FD, transfer functions, stacking loops into a cycle is
    refused only one level deep.
Owns: LoopDevice (disk.private_data), kernel.block.loop_devices. Invariant: lo_backing_file is None exactly in
    Lo_unbound.
"""
from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user
from glasskernel.block.bio import bio_for_each_segment
from glasskernel.block.blk_core import blk_queue_logical_block_size, blk_queue_max_hw_sectors, blk_queue_write_cache
from glasskernel.block.blk_merge import rq_for_each_bio
from glasskernel.block.blk_mq import blk_cleanup_queue, blk_mq_alloc_tag_set, blk_mq_init_queue
from glasskernel.block.blk_mq_dispatch import (
    blk_mq_complete_request,
    blk_mq_end_request,
    blk_mq_start_request,
)
from glasskernel.block.blk_types import (
    BLK_STS_IOERR,
    BLK_STS_OK,
    GENHD_FL_EXT_DEVT,
    GENHD_FL_NO_PART_SCAN,
    LOOP_MAJOR,
    LOOP_MIN_COUNT,
    QUEUE_FLAG_DISCARD,
    QUEUE_FLAG_NONROT,
    REQ_NOUNMAP,
    REQ_OP_DISCARD,
    REQ_OP_FLUSH,
    REQ_OP_MASK,
    REQ_OP_WRITE,
    REQ_OP_WRITE_ZEROES,
    BlkMqHwCtx,
    BlkMqOps,
    BlkMqTagSet,
    BlockDevice,
    BlockDeviceOperations,
    Gendisk,
    Request,
    errno_to_blk_status,
)
from glasskernel.block.elevator import blk_mq_freeze_queue, blk_mq_unfreeze_queue
from glasskernel.block.genhd import (
    alloc_disk,
    blk_register_region,
    register_blkdev,
    set_capacity,
)
from glasskernel.block.genhd_register import add_disk, blkdev_reread_part, del_gendisk
from glasskernel.fs.block_dev import I_BDEV, bd_set_size, bdgrab, bdput, kill_bdev, sync_blockdev
from glasskernel.fs.d_path import d_path
from glasskernel.fs.file import fdget
from glasskernel.fs.file_table import fput
from glasskernel.fs.open import vfs_fallocate
from glasskernel.fs.read_write import kernel_read, kernel_write, noop_llseek
from glasskernel.fs.stat import vfs_getattr_nosec
from glasskernel.fs.sync import vfs_fsync
from glasskernel.fs.sysfs.kobject import Attribute, Kobject, kobject_uevent, sysfs_create_group, sysfs_remove_file
from glasskernel.fs.types import FMODE_WRITE, S_IFBLK, S_IFMT, S_IFREG, File, FileOperations
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable
from glasskernel.kernel.current import current
from glasskernel.kernel.kthread import kthread_run, kthread_should_stop, kthread_stop
from glasskernel.kernel.locking.mutex import Mutex, mutex_lock, mutex_unlock
from glasskernel.kernel.sched.wait import WaitQueueHead, wait_event, wake_up
from glasskernel.lib.errno import (
    EBADF,
    EBUSY,
    EEXIST,
    EINVAL,
    ENODEV,
    ENOSPC,
    ENOSYS,
    ENXIO,
    EOPNOTSUPP,
    EPERM,
    KernelError,
)
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct

(LOOP_SET_FD, LOOP_CLR_FD, LOOP_SET_STATUS, LOOP_GET_STATUS, LOOP_SET_STATUS64, LOOP_GET_STATUS64, LOOP_CHANGE_FD,
 LOOP_SET_CAPACITY, LOOP_SET_DIRECT_IO, LOOP_SET_BLOCK_SIZE) = range(0x4C00, 0x4C0A)
LOOP_CTL_ADD, LOOP_CTL_REMOVE, LOOP_CTL_GET_FREE = 0x4C80, 0x4C81, 0x4C82
LO_FLAGS_READ_ONLY, LO_FLAGS_AUTOCLEAR, LO_FLAGS_PARTSCAN = 1, 4, 8
Lo_unbound, Lo_bound, Lo_rundown = range(3)
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE = 1, 2, 16
_INFO64 = struct.Struct("<QQQQQIIII64s64s32s16s")
_INFO = struct.Struct("<i4xQQQiiii64s32sQQ4s4x")


@slotted
class LoopDevice:
    """struct loop_device"""

    lo_number: int
    lo_disk: Gendisk
    tag_set: BlkMqTagSet
    lo_refcnt: int = 0
    lo_state: int = Lo_unbound
    lo_flags: int = 0
    lo_offset: int = 0
    lo_sizelimit: int = 0
    lo_file_name: bytes = b""
    lo_backing_file: File | None = None
    lo_device: BlockDevice | None = None
    worker_task: TaskStruct | None = None
    works: list[Request] = field(default_factory=list)
    wait: WaitQueueHead = field(default_factory=WaitQueueHead)
    status: int = 0


@notrace
def _lo(disk: Gendisk) -> LoopDevice:
    lo: LoopDevice = disk.private_data
    return lo


# ---- requests -------------------------------------------------------------------------------------------------
def loop_queue_rq(hctx: BlkMqHwCtx, rq: Request, last: bool) -> int:
    """->queue_rq(): hands it to the thread."""
    lo: LoopDevice = rq.q.queuedata
    blk_mq_start_request(rq)
    if lo.lo_state != Lo_bound:
        return BLK_STS_IOERR
    lo.works.append(rq)
    wake_up(lo.wait)
    return BLK_STS_OK


@may_sleep
def loop_kthread_worker_fn(lo: LoopDevice) -> int:
    """loopN: one request after the other."""
    while True:
        wait_event(lo.wait, lambda: bool(lo.works) or kthread_should_stop())
        if not lo.works:
            return 0
        loop_queue_work(lo, lo.works.pop(0))


@may_sleep
def loop_queue_work(lo: LoopDevice, rq: Request) -> None:
    loop_handle_cmd(lo, rq)


@may_sleep
def loop_handle_cmd(lo: LoopDevice, rq: Request) -> None:
    """Does it, and completes it."""
    status = BLK_STS_OK
    try:
        if rq.cmd_flags & 1 and lo.lo_flags & LO_FLAGS_READ_ONLY:
            status = BLK_STS_IOERR
        else:
            do_req_filebacked(lo, rq)
    except KernelError as error:
        status = errno_to_blk_status(error.errno)
    rq.special = status
    blk_mq_complete_request(rq)


@may_sleep
def do_req_filebacked(lo: LoopDevice, rq: Request) -> None:
    """The request as an operation on the file. Raises what the file raises."""
    pos = (rq.sector << 9) + lo.lo_offset
    op = rq.cmd_flags & REQ_OP_MASK
    if op == REQ_OP_FLUSH:
        lo_req_flush(lo, rq)
    elif op == REQ_OP_WRITE_ZEROES:
        lo_fallocate(lo, rq, pos, FALLOC_FL_ZERO_RANGE if rq.cmd_flags & REQ_NOUNMAP else FALLOC_FL_PUNCH_HOLE)
    elif op == REQ_OP_DISCARD:
        lo_fallocate(lo, rq, pos, FALLOC_FL_PUNCH_HOLE)
    elif op == REQ_OP_WRITE:
        lo_write_simple(lo, rq, pos)
    else:
        lo_read_simple(lo, rq, pos)


@may_sleep
def lo_req_flush(lo: LoopDevice, rq: Request) -> None:
    assert lo.lo_backing_file is not None
    with suppress(KernelError):                # EINVAL: the file cannot, and need not
        vfs_fsync(lo.lo_backing_file, 0)


@may_sleep
def lo_fallocate(lo: LoopDevice, rq: Request, pos: int, mode: int) -> None:
    assert lo.lo_backing_file is not None
    try:
        vfs_fallocate(lo.lo_backing_file, mode | FALLOC_FL_KEEP_SIZE, pos, rq.data_len)
    except KernelError as error:
        if error.errno != EOPNOTSUPP or rq.cmd_flags & REQ_OP_MASK != REQ_OP_WRITE_ZEROES:
            raise
        kernel_write(lo.lo_backing_file, bytes(rq.data_len), pos)


@may_sleep
def lo_write_simple(lo: LoopDevice, rq: Request, pos: int) -> None:
    for bio in rq_for_each_bio(rq):
        for pfn, offset, length in bio_for_each_segment(bio):
            pos = lo_write_bvec(lo, pfn, offset, length, pos)


@may_sleep
def lo_write_bvec(lo: LoopDevice, pfn: int, offset: int, length: int, pos: int) -> int:
    """Answers the position behind it. Raises EIO for a short write."""
    assert lo.lo_backing_file is not None
    start = (pfn << 12) + offset
    ram = lo.lo_disk.queue.kernel.machine.ram
    if kernel_write(lo.lo_backing_file, bytes(ram[start : start + length]), pos) != length:
        raise KernelError(ENOSPC)
    return pos + length


@may_sleep
def lo_read_simple(lo: LoopDevice, rq: Request, pos: int) -> None:
    assert lo.lo_backing_file is not None
    kernel = lo.lo_disk.queue.kernel
    ram = kernel.machine.ram
    for bio in rq_for_each_bio(rq):
        for pfn, offset, length in bio_for_each_segment(bio):
            data = kernel_read(lo.lo_backing_file, length, pos)
            start = (pfn << 12) + offset
            kernel.mem.note_kernel_write(pfn)
            ram[start : start + len(data)] = data
            if len(data) < length:             # behind the end of the file
                ram[start + len(data) : start + length] = bytes(length - len(data))
            pos += length


def lo_complete_rq(rq: Request) -> None:
    """->complete()"""
    blk_mq_end_request(rq, rq.special or BLK_STS_OK)


loop_mq_ops = BlkMqOps(queue_rq=loop_queue_rq, complete=lo_complete_rq)


# ---- binding ------------------------------------------------------------------------------------------------------
@may_sleep
def get_loop_size(lo: LoopDevice, file: File) -> int:
    """Sectors of the device: the file's size, without the offset, at most the limit."""
    inode = file.f_mapping.host if file.f_mapping is not None else file.f_inode
    assert inode is not None
    size = inode.i_size - lo.lo_offset
    if size < 0:
        return 0
    if 0 < lo.lo_sizelimit < size:
        size = lo.lo_sizelimit
    return size >> 9


@may_sleep
def figure_loop_size(lo: LoopDevice) -> None:
    assert lo.lo_backing_file is not None
    size = get_loop_size(lo, lo.lo_backing_file)
    set_capacity(lo.lo_disk, size)
    if lo.lo_device is not None:
        bd_set_size(lo.lo_device, size << 9)
    kobject_uevent(lo.lo_disk.part0.device.kobj, b"change")


@may_sleep
def loop_validate_file(file: File, bdev: BlockDevice) -> None:
    """A regular file or another device. Raises EINVAL, EBADF (itself)."""
    host = file.f_mapping.host if file.f_mapping is not None else file.f_inode
    assert host is not None
    if host.i_mode & S_IFMT not in (S_IFREG, S_IFBLK):
        raise KernelError(EINVAL)
    if host.i_mode & S_IFMT == S_IFBLK:
        other = I_BDEV(host)
        if other is bdev:
            raise KernelError(EBADF)
        if (
            other.bd_disk is not None
            and other.bd_disk.major == LOOP_MAJOR
            and _lo(other.bd_disk).lo_state == Lo_unbound
        ):
            raise KernelError(EINVAL)


@may_sleep
def loop_set_fd(lo: LoopDevice, mode: int, bdev: BlockDevice, fd: int) -> None:
    """LOOP_SET_FD. Raises EBADF, EBUSY, EINVAL."""
    file = fdget(fd)
    file.f_count += 1
    try:
        if lo.lo_state != Lo_unbound:
            raise KernelError(EBUSY)
        loop_validate_file(file, bdev)
    except KernelError:
        fput(file)
        raise
    lo.lo_flags = 0
    if not file.f_mode & FMODE_WRITE or not mode & FMODE_WRITE:
        lo.lo_flags |= LO_FLAGS_READ_ONLY
    lo.lo_disk.part0.policy = int(bool(lo.lo_flags & LO_FLAGS_READ_ONLY))
    lo.lo_device = bdev
    lo.lo_backing_file = file
    lo.lo_offset = lo.lo_sizelimit = 0
    lo.lo_file_name = b""
    lo.worker_task = kthread_run(loop_kthread_worker_fn, lo, f"loop{lo.lo_number}")
    q = lo.lo_disk.queue
    blk_queue_write_cache(q, not lo.lo_flags & LO_FLAGS_READ_ONLY, False)
    loop_config_discard(lo)
    lo.lo_state = Lo_bound
    figure_loop_size(lo)
    loop_sysfs_init(lo, lo.lo_disk.part0.device.kobj)
    bdgrab(bdev)


def loop_config_discard(lo: LoopDevice) -> None:
    """Discards are holes in the file: whatever file systems can."""
    q = lo.lo_disk.queue
    q.queue_flags |= QUEUE_FLAG_DISCARD
    q.limits.discard_granularity = 4096
    q.limits.max_discard_sectors = q.limits.max_hw_discard_sectors = 0xFFFFFFFF >> 9
    q.limits.max_write_zeroes_sectors = 0xFFFFFFFF >> 9


@may_sleep
def loop_clr_fd(lo: LoopDevice) -> None:
    """LOOP_CLR_FD: at once, or (others have it open) at the last close. Raises ENXIO."""
    if lo.lo_state != Lo_bound:
        raise KernelError(ENXIO)
    if lo.lo_refcnt > 1:
        lo.lo_flags |= LO_FLAGS_AUTOCLEAR
        return
    __loop_clr_fd(lo, False)


@may_sleep
def __loop_clr_fd(lo: LoopDevice, release: bool) -> None:
    bdev, filp = lo.lo_device, lo.lo_backing_file
    assert bdev is not None and filp is not None and lo.worker_task is not None
    q = lo.lo_disk.queue
    if not release:
        with suppress(KernelError):
            sync_blockdev(bdev)
        kill_bdev(bdev)
    blk_mq_freeze_queue(q)
    lo.lo_state = Lo_rundown
    kthread_stop(lo.worker_task)
    lo.worker_task = None
    partscan = lo.lo_flags & LO_FLAGS_PARTSCAN
    lo.lo_offset = lo.lo_sizelimit = lo.lo_flags = 0
    lo.lo_device = None
    lo.lo_file_name = b""
    set_capacity(lo.lo_disk, 0)
    bd_set_size(bdev, 0)
    sysfs_remove_file(lo.lo_disk.part0.device.kobj, b"loop")       # loop_sysfs_exit()
    lo.lo_disk.part0.policy = 0
    blk_queue_write_cache(q, False, False)
    kobject_uevent(lo.lo_disk.part0.device.kobj, b"change")
    blk_mq_unfreeze_queue(q)
    lo.lo_backing_file = None
    if partscan:
        with suppress(KernelError):
            blkdev_reread_part(bdev)
    lo.lo_disk.flags |= GENHD_FL_NO_PART_SCAN
    lo.lo_state = Lo_unbound
    bdput(bdev)
    fput(filp)


# ---- status ---------------------------------------------------------------------------------------------------------
@may_sleep
def loop_set_status(lo: LoopDevice, offset: int, sizelimit: int, flags: int, name: bytes) -> None:
    """Raises ENXIO, EAGAIN ..."""
    if lo.lo_state != Lo_bound or lo.lo_device is None:
        raise KernelError(ENXIO)
    changed = (offset, sizelimit) != (lo.lo_offset, lo.lo_sizelimit)
    if changed:
        sync_blockdev(lo.lo_device)
        kill_bdev(lo.lo_device)
    blk_mq_freeze_queue(lo.lo_disk.queue)
    lo.lo_offset, lo.lo_sizelimit = offset, sizelimit
    lo.lo_file_name = name
    if changed:
        figure_loop_size(lo)
    if (lo.lo_flags ^ flags) & LO_FLAGS_AUTOCLEAR:
        lo.lo_flags ^= LO_FLAGS_AUTOCLEAR
    blk_mq_unfreeze_queue(lo.lo_disk.queue)
    if flags & LO_FLAGS_PARTSCAN and not lo.lo_flags & LO_FLAGS_PARTSCAN:
        lo.lo_flags |= LO_FLAGS_PARTSCAN
        lo.lo_disk.flags &= ~GENHD_FL_NO_PART_SCAN
        mutex_lock(lo.lo_device.bd_mutex)
        try:
            with suppress(KernelError):
                blkdev_reread_part(lo.lo_device)
        finally:
            mutex_unlock(lo.lo_device.bd_mutex)


@notrace
def _info(lo: LoopDevice) -> tuple[int, int]:
    """(device, inode) of the file. Raises ENXIO."""
    if lo.lo_state != Lo_bound or lo.lo_backing_file is None:
        raise KernelError(ENXIO)
    stat = vfs_getattr_nosec(lo.lo_backing_file.f_path)
    return stat.dev, stat.ino


@notrace
def _encode_dev(dev: int) -> int:
    major, minor = dev >> 20, dev & 0xFFFFF
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


@may_sleep
def loop_get_status64(lo: LoopDevice, arg: int) -> None:
    dev, ino = _info(lo)
    copy_to_user(
        arg,
        _INFO64.pack(
            _encode_dev(dev),
            ino,
            0,
            lo.lo_offset,
            lo.lo_sizelimit,
            lo.lo_number,
            0,
            0,
            lo.lo_flags,
            lo.lo_file_name,
            b"",
            b"",
            b"",
        ),
    )


@may_sleep
def loop_set_status64(lo: LoopDevice, arg: int) -> None:
    fields = _INFO64.unpack(copy_from_user(arg, _INFO64.size))
    if fields[6] or fields[7]:
        raise KernelError(EINVAL)              # encryption
    loop_set_status(lo, fields[3], fields[4], fields[8], fields[9].split(b"\0", 1)[0])


@may_sleep
def loop_get_status_old(lo: LoopDevice, arg: int) -> None:
    dev, ino = _info(lo)
    copy_to_user(arg, _INFO.pack(lo.lo_number, _encode_dev(dev), ino, 0, lo.lo_offset & 0x7FFFFFFF, 0, 0, lo.lo_flags,
                                 lo.lo_file_name, b"", 0, 0, b""))


@may_sleep
def loop_set_status_old(lo: LoopDevice, arg: int) -> None:
    fields = _INFO.unpack(copy_from_user(arg, _INFO.size))
    loop_set_status(lo, fields[4], 0, fields[7], fields[8].split(b"\0", 1)[0])


@may_sleep
def loop_set_block_size(lo: LoopDevice, size: int) -> None:
    """LOOP_SET_BLOCK_SIZE"""
    if lo.lo_state != Lo_bound or lo.lo_device is None:
        raise KernelError(ENXIO)
    if not 512 <= size <= 4096 or size & (size - 1):
        raise KernelError(EINVAL)
    sync_blockdev(lo.lo_device)
    kill_bdev(lo.lo_device)
    blk_mq_freeze_queue(lo.lo_disk.queue)
    limits = lo.lo_disk.queue.limits
    limits.logical_block_size = limits.physical_block_size = limits.io_min = size
    blk_mq_unfreeze_queue(lo.lo_disk.queue)


@may_sleep
def lo_ioctl(bdev: BlockDevice, mode: int, cmd: int, arg: int) -> int:
    """->ioctl(). Raises EINVAL for an unknown number."""
    lo = _lo(bdev.bd_disk)
    loop_ctl_mutex = bdev.bd_inode.i_sb.kernel.block.loop_ctl_mutex
    if cmd in (LOOP_SET_STATUS, LOOP_SET_STATUS64, LOOP_CHANGE_FD, LOOP_SET_CAPACITY, LOOP_SET_BLOCK_SIZE) \
            and not mode & FMODE_WRITE and not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    mutex_lock(loop_ctl_mutex)
    try:
        if cmd == LOOP_SET_FD:
            loop_set_fd(lo, mode, bdev, arg)
        elif cmd == LOOP_CLR_FD:
            loop_clr_fd(lo)
        elif cmd == LOOP_SET_STATUS64:
            loop_set_status64(lo, arg)
        elif cmd == LOOP_GET_STATUS64:
            loop_get_status64(lo, arg)
        elif cmd == LOOP_SET_STATUS:
            loop_set_status_old(lo, arg)
        elif cmd == LOOP_GET_STATUS:
            loop_get_status_old(lo, arg)
        elif cmd == LOOP_SET_CAPACITY:
            if lo.lo_state != Lo_bound:
                raise KernelError(ENXIO)
            figure_loop_size(lo)
        elif cmd == LOOP_SET_BLOCK_SIZE:
            loop_set_block_size(lo, arg)
        elif lo.lo_state != Lo_bound and cmd in (LOOP_CHANGE_FD, LOOP_SET_DIRECT_IO):
            raise KernelError(ENXIO)
        else:
            raise KernelError(EINVAL)
    finally:
        mutex_unlock(loop_ctl_mutex)
    return 0


# ---- opening and closing --------------------------------------------------------------------------------------------
@may_sleep
def lo_open(bdev: BlockDevice, mode: int) -> None:
    """->open()"""
    _lo(bdev.bd_disk).lo_refcnt += 1


@may_sleep
def lo_release(disk: Gendisk, mode: int) -> None:
    """->release(): the last close clears a device that wants it."""
    lo = _lo(disk)
    lo.lo_refcnt -= 1
    if not lo.lo_refcnt and lo.lo_flags & LO_FLAGS_AUTOCLEAR and lo.lo_state == Lo_bound:
        __loop_clr_fd(lo, True)


lo_fops = BlockDeviceOperations(open=lo_open, release=lo_release, ioctl=lo_ioctl)


# ---- devices --------------------------------------------------------------------------------------------------------
@notrace
def _attribute(name: bytes, lo: LoopDevice, show: object) -> Attribute:
    return Attribute(name, lambda _k: show(lo))  # type: ignore[operator]


@notrace
def loop_attr_backing_file_show(lo: LoopDevice) -> bytes:
    return d_path(lo.lo_backing_file.f_path) + b"\n" if lo.lo_backing_file is not None else b""


def loop_sysfs_init(lo: LoopDevice, kobj: Kobject) -> None:
    """/sys/block/loopN/loop"""
    sysfs_create_group(kobj, (
        _attribute(b"backing_file", lo, loop_attr_backing_file_show),
        _attribute(b"offset", lo, lambda lo: b"%d\n" % lo.lo_offset),
        _attribute(b"sizelimit", lo, lambda lo: b"%d\n" % lo.lo_sizelimit),
        _attribute(b"autoclear", lo, lambda lo: b"%d\n" % bool(lo.lo_flags & LO_FLAGS_AUTOCLEAR)),
        _attribute(b"partscan", lo, lambda lo: b"%d\n" % bool(lo.lo_flags & LO_FLAGS_PARTSCAN)),
        _attribute(b"dio", lo, lambda lo: b"0\n"),
    ), b"loop")


@may_sleep
def loop_add(kernel: Kernel, number: int) -> LoopDevice:
    """/dev/loopN; -1: the next number. Raises EEXIST."""
    devices = kernel.block.loop_devices
    if number < 0:
        number = next(n for n in range(1 << 20) if n not in devices)
    if number in devices:
        raise KernelError(EEXIST)
    tag_set = BlkMqTagSet(loop_mq_ops, 1, 128, no_sched=False)
    blk_mq_alloc_tag_set(kernel, tag_set)
    q = blk_mq_init_queue(kernel, tag_set)
    disk = alloc_disk(1, q)
    lo = LoopDevice(number, disk, tag_set)
    q.queuedata = disk.private_data = lo
    blk_queue_max_hw_sectors(q, 2560)
    blk_queue_logical_block_size(q, 512)
    q.queue_flags |= QUEUE_FLAG_NONROT
    disk.flags |= GENHD_FL_EXT_DEVT | GENHD_FL_NO_PART_SCAN
    disk.major, disk.first_minor = LOOP_MAJOR, number
    disk.disk_name = b"loop%d" % number
    disk.fops = lo_fops
    devices[number] = lo
    add_disk(kernel, disk)
    return lo


@may_sleep
def loop_remove(kernel: Kernel, lo: LoopDevice) -> None:
    del kernel.block.loop_devices[lo.lo_number]
    del_gendisk(lo.lo_disk)
    blk_cleanup_queue(lo.lo_disk.queue)


@may_sleep
def loop_probe(kernel: Kernel, dev: int) -> tuple[Gendisk, int] | None:
    """Somebody opens a number that there is not yet."""
    mutex_lock(kernel.block.loop_ctl_mutex)
    try:
        if dev & 0xFFFFF not in kernel.block.loop_devices:
            loop_add(kernel, dev & 0xFFFFF)
    finally:
        mutex_unlock(kernel.block.loop_ctl_mutex)
    return kernel.block.bdev_map.get(dev)


@may_sleep
def loop_control_ioctl(file: File, cmd: int, parm: int) -> int:
    """/dev/loop-control. Raises EEXIST, ENODEV, EBUSY, ENOSYS."""
    kernel = current().kernel
    devices = kernel.block.loop_devices
    number = parm & 0x7FFFFFFF if parm < 1 << 31 else -1
    mutex_lock(kernel.block.loop_ctl_mutex)
    try:
        if cmd == LOOP_CTL_ADD:
            return loop_add(kernel, number).lo_number
        if cmd == LOOP_CTL_REMOVE:
            lo = devices.get(number)
            if lo is None:
                raise KernelError(ENODEV)
            if lo.lo_state != Lo_unbound or lo.lo_refcnt:
                raise KernelError(EBUSY)
            loop_remove(kernel, lo)
            return number
        if cmd == LOOP_CTL_GET_FREE:
            free = next((lo for lo in devices.values() if lo.lo_state == Lo_unbound), None)
            return (free or loop_add(kernel, -1)).lo_number
    finally:
        mutex_unlock(kernel.block.loop_ctl_mutex)
    raise KernelError(ENOSYS)


loop_ctl_fops = FileOperations(unlocked_ioctl=loop_control_ioctl, llseek=noop_llseek)


@may_sleep
def loop_init(kernel: Kernel) -> None:
    """modprobe loop: registers the major and the first devices. Who opens one meanwhile waits for the mutex."""
    kernel.block.loop_ctl_mutex = Mutex()
    mutex_lock(kernel.block.loop_ctl_mutex)
    register_blkdev(kernel, LOOP_MAJOR, b"loop")
    blk_register_region(kernel, LOOP_MAJOR, lambda dev: loop_probe(kernel, dev))
    for number in range(LOOP_MIN_COUNT):
        loop_add(kernel, number)
    mutex_unlock(kernel.block.loop_ctl_mutex)
    kernel.printk("loop: module loaded")
