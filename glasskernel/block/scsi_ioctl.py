"""SG_IO: a program's own SCSI commands to a block device.

Linux: block/scsi_ioctl.c (5.3). Same: version 3 headers, who may send which command, whole disks only.
Differs: data is always copied through frames of the kernel. Gaps: CDROM_SEND_PACKET, SCSI_IOCTL_SEND_COMMAND.
Context: task.
"""
from __future__ import annotations

import struct

from glasskernel.arch.x86.uaccess import copy_from_user, copy_to_user, get_user_u32, put_user_u32
from glasskernel.block.blk_exec import (
    REQ_OP_SCSI_IN,
    REQ_OP_SCSI_OUT,
    ScsiRequest,
    blk_execute_rq,
    blk_get_request,
    blk_put_request,
    blk_rq_map_data,
    blk_rq_unmap_data,
)
from glasskernel.block.blk_types import BlockDevice, Gendisk, RequestQueue
from glasskernel.kernel.capability import CAP_SYS_RAWIO, capable
from glasskernel.kernel.time.timekeeping import ktime_get
from glasskernel.lib.errno import EINVAL, EIO, EMSGSIZE, ENOTTY, EPERM, KernelError
from glasskernel.lib.types import may_sleep, notrace, s32, u8, u16, u32, u64
from glasskernel.lib.uapi import Layout, uapi

FMODE_WRITE = 2
SG_SET_TIMEOUT, SG_GET_TIMEOUT = 0x2201, 0x2202
SG_EMULATED_HOST, SG_SET_RESERVED_SIZE, SG_GET_RESERVED_SIZE = 0x2203, 0x2275, 0x2272
SG_GET_VERSION_NUM, SG_IO = 0x2282, 0x2285
SCSI_IOCTL_GET_IDLUN, SCSI_IOCTL_GET_BUS_NUMBER = 0x5382, 0x5386
SG_VERSION = 30527
SG_DXFER_NONE, SG_DXFER_TO_DEV, SG_DXFER_FROM_DEV, SG_DXFER_TO_FROM_DEV = -1, -2, -3, -4
SG_INFO_CHECK = 1
DRIVER_SENSE = 8
DID_TARGET_FAILURE = 0x10
# What may be sent by who may read the device, and by who may write it (blk_set_cmd_filter_defaults).
_READ_OK = bytes.fromhex("00 03 08 28 a8 88 3c 37 25 3e 12 1a 5a 4d 1b 2f 8f a0 9e 1c a3 5c bc 45 47 48 4b be b9 "
                         "51 ad 44 52 42 43 a4 ba 46 23 4a ac 2b 4e 95")
_WRITE_OK = bytes.fromhex("0a 2a 2e aa ae 8a 3f ea 41 93 19 15 4c 55 a1 5b 35 04 58 53 bf a2 54 a6 bb 1e 5d a7 b6 94")


@uapi("include/scsi/sg.h", size=88)
class SgIoHdr(Layout):
    """struct sg_io_hdr"""

    interface_id: s32
    dxfer_direction: s32
    cmd_len: u8
    mx_sb_len: u8
    iovec_count: u16
    dxfer_len: u32
    dxferp: u64
    cmdp: u64
    sbp: u64
    timeout: u32
    flags: u32
    pack_id: s32
    pad0: u32
    usr_ptr: u64
    status: u8
    masked_status: u8
    msg_status: u8
    sb_len_wr: u8
    host_status: u16
    driver_status: u16
    resid: s32
    duration: u32
    info: u32
    pad1: u32


def blk_verify_command(cmd: bytes, mode: int) -> None:
    """Raises EPERM: the caller may not send that."""
    if capable(CAP_SYS_RAWIO) or cmd[0] in _READ_OK or (cmd[0] in _WRITE_OK and mode & FMODE_WRITE):
        return
    raise KernelError(EPERM)


@notrace
def sense_bytes(sense: tuple[int, int, int]) -> bytes:
    """Fixed format, current error."""
    key, asc, ascq = sense
    return bytes((0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0))


def blk_complete_sghdr_rq(req: ScsiRequest, hdr: SgIoHdr) -> None:
    """What the program learns; sense data goes to its buffer. Raises EFAULT."""
    hdr.status = req.result & 0xFF
    hdr.masked_status = hdr.status >> 1 & 0x1F
    hdr.msg_status = 0
    hdr.host_status = req.result >> 16 & 0xFF
    if hdr.host_status == DID_TARGET_FAILURE:
        hdr.host_status = 0                        # __scsi_error_from_host_byte(): the sense data says it
    hdr.driver_status = DRIVER_SENSE if req.sense is not None else 0
    hdr.info = SG_INFO_CHECK if hdr.masked_status or hdr.host_status or hdr.driver_status else 0
    hdr.resid = req.resid_len
    hdr.sb_len_wr = 0
    if req.sense is not None and hdr.sbp:
        sense = sense_bytes(req.sense)[: hdr.mx_sb_len]
        copy_to_user(hdr.sbp, sense)
        hdr.sb_len_wr = len(sense)


@notrace
def _buffers(hdr: SgIoHdr) -> list[tuple[int, int]]:
    """(address, length) of the program's memory. Raises EFAULT, EINVAL."""
    if not hdr.iovec_count:
        return [(hdr.dxferp, hdr.dxfer_len)]
    if hdr.iovec_count > 1024:
        raise KernelError(EINVAL)
    words = struct.unpack(f"<{hdr.iovec_count * 2}Q", copy_from_user(hdr.dxferp, hdr.iovec_count * 16))
    left = hdr.dxfer_len                           # the shorter of both counts
    buffers = []
    for address, length in zip(words[::2], words[1::2], strict=True):
        buffers.append((address, min(length, left)))
        left -= buffers[-1][1]
    hdr.dxfer_len -= left
    return buffers


@may_sleep
def sg_io(q: RequestQueue, bd_disk: Gendisk, hdr: SgIoHdr, mode: int) -> None:
    """One command. Raises EINVAL, EIO (too long), EMSGSIZE, EPERM, EFAULT, ENOMEM."""
    if hdr.interface_id != ord("S"):
        raise KernelError(EINVAL)
    if hdr.dxfer_len > q.limits.max_hw_sectors << 9:
        raise KernelError(EIO)
    writing = False
    if hdr.dxfer_len:
        if hdr.dxfer_direction not in (SG_DXFER_TO_DEV, SG_DXFER_FROM_DEV, SG_DXFER_TO_FROM_DEV):
            raise KernelError(EINVAL)
        writing = hdr.dxfer_direction == SG_DXFER_TO_DEV
    if not hdr.cmd_len or hdr.cmd_len > 32:
        raise KernelError(EMSGSIZE if hdr.cmd_len else EINVAL)
    cmd = copy_from_user(hdr.cmdp, hdr.cmd_len)
    blk_verify_command(cmd, mode)
    buffers = _buffers(hdr) if hdr.dxfer_len else []
    data = b"".join([copy_from_user(address, length) for address, length in buffers]) if writing else b""
    req = ScsiRequest(cmd)
    if hdr.timeout:
        req.timeout = max(hdr.timeout * 250 // 1000, 7 * 250)      # BLK_MIN_SG_TIMEOUT
    rq = blk_get_request(q, REQ_OP_SCSI_OUT if writing else REQ_OP_SCSI_IN)
    rq.special = req
    rq.timeout = req.timeout
    kernel = q.kernel
    try:
        pages = blk_rq_map_data(kernel, rq, data, hdr.dxfer_len)
    except KernelError:
        blk_put_request(rq)
        raise
    start = ktime_get()
    blk_execute_rq(q, bd_disk, rq)
    hdr.duration = (ktime_get() - start) // 1_000_000
    blk_put_request(rq)
    answer = blk_rq_unmap_data(kernel, pages, hdr.dxfer_len)
    blk_complete_sghdr_rq(req, hdr)
    if not writing:
        for address, length in buffers:
            copy_to_user(address, answer[:length])
            answer = answer[length:]


@notrace
def scsi_verify_blk_ioctl(bdev: BlockDevice) -> None:
    """A partition is not the device: only who may do everything. Raises ENOTTY."""
    if bdev is not bdev.bd_contains and not capable(CAP_SYS_RAWIO):
        raise KernelError(ENOTTY)


@may_sleep
def scsi_cmd_ioctl(q: RequestQueue, bd_disk: Gendisk, mode: int, cmd: int, arg: int) -> int:
    """Raises ENOTTY for what is not here."""
    if cmd == SG_IO:
        hdr = SgIoHdr.unpack(copy_from_user(arg, SgIoHdr.SIZE))
        sg_io(q, bd_disk, hdr, mode)
        copy_to_user(arg, hdr.pack())
    elif cmd == SG_GET_VERSION_NUM:
        put_user_u32(arg, SG_VERSION)
    elif cmd == SG_GET_TIMEOUT:
        return q.sg_timeout * 100 // 250           # jiffies_to_clock_t()
    elif cmd == SG_SET_TIMEOUT:
        q.sg_timeout = get_user_u32(arg) * 250 // 100
    elif cmd == SG_GET_RESERVED_SIZE:
        put_user_u32(arg, min(q.sg_reserved_size, q.limits.max_sectors << 9))
    elif cmd == SG_SET_RESERVED_SIZE:
        size = get_user_u32(arg)
        if size >> 31:
            raise KernelError(EINVAL)
        q.sg_reserved_size = min(size, q.limits.max_sectors << 9)
    elif cmd == SG_EMULATED_HOST:
        put_user_u32(arg, 1)
    else:
        raise KernelError(ENOTTY)
    return 0


@may_sleep
def scsi_cmd_blk_ioctl(bdev: BlockDevice, mode: int, cmd: int, arg: int) -> int:
    """->ioctl() of SCSI disks, the part that is the block layer's."""
    scsi_verify_blk_ioctl(bdev)
    return scsi_cmd_ioctl(bdev.bd_disk.queue, bdev.bd_disk, mode, cmd, arg)
