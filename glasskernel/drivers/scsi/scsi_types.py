"""The objects of the SCSI layer.

Linux: include/scsi/{scsi_host,scsi_device,scsi_cmnd}.h, drivers/scsi/sd.h (5.3). Only data.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.lib.slotted import field, slotted

if TYPE_CHECKING:
    from glasskernel.block.blk_exec import ScsiRequest
    from glasskernel.block.blk_types import BlkMqTagSet, Gendisk, Request, RequestQueue
    from glasskernel.drivers.base.core import Device
    from glasskernel.init.kernel import Kernel

READ_10, WRITE_10, SYNCHRONIZE_CACHE, UNMAP, READ_16, WRITE_16, WRITE_SAME_16 = 0x28, 0x2A, 0x35, 0x42, 0x88, 0x8A, 0x93
GOOD, CHECK_CONDITION = 0, 2
DID_OK, DID_NO_CONNECT, DID_TIME_OUT, DID_TARGET_FAILURE, DID_ALLOC_FAILURE, DID_MEDIUM_ERROR = (
    0,
    1,
    3,
    0x10,
    0x12,
    0x13,
)
NO_SENSE, MEDIUM_ERROR, HARDWARE_ERROR, ILLEGAL_REQUEST, DATA_PROTECT = 0, 3, 4, 5, 7


@slotted(frozen=True)
class ScsiHostTemplate:
    """struct scsi_host_template. queuecommand(host, cmd) -> 0 or SCSI_MLQUEUE_*_BUSY; ends with cmd.scsi_done(cmd)."""

    name: str
    proc_name: str
    queuecommand: Callable[[ScsiHost, ScsiCmnd], int]
    can_queue: int = 32
    sg_tablesize: int = 168
    max_sectors: int = 65535
    eh_abort_handler: Callable[[ScsiCmnd], bool] | None = None


@slotted
class ScsiHost:
    """struct Scsi_Host"""

    kernel: Kernel
    host_no: int
    hostt: ScsiHostTemplate
    tag_set: BlkMqTagSet = None  # type: ignore[assignment]
    can_queue: int = 32
    host_busy: int = 0
    hostdata: Any = None
    shost_gendev: Device = None  # type: ignore[assignment]


@slotted
class ScsiDevice:
    """struct scsi_device"""

    host: ScsiHost
    id: int
    lun: int
    queue_depth: int
    vendor: bytes
    model: bytes
    rev: bytes
    type: int = 0                              # TYPE_DISK
    channel: int = 0
    request_queue: RequestQueue = None  # type: ignore[assignment]
    device_busy: int = 0
    iorequest_cnt: int = 0
    iodone_cnt: int = 0
    ioerr_cnt: int = 0
    timeout: int = 30 * 250                    # jiffies
    sdev_gendev: Device = None  # type: ignore[assignment]

    @property
    def address(self) -> str:
        """0:0:0:0"""
        return f"{self.host.host_no}:{self.channel}:{self.id}:{self.lun}"


@slotted
class ScsiCmnd:
    """struct scsi_cmnd. sdb: (physical address, length) of its data. result: status byte | host byte << 16."""

    device: ScsiDevice
    request: Request
    cmnd: bytes = b""
    sdb: list[tuple[int, int]] = field(default_factory=list)
    transfersize: int = 512
    underflow: int = 0
    sense_buffer: tuple[int, int, int] = (0, 0, 0)                   # key, asc, ascq
    result: int = 0
    retries: int = 0
    allowed: int = 5
    scsi_done: Callable[[ScsiCmnd], None] = None  # type: ignore[assignment]
    tag: int = -1
    jiffies_at_alloc: int = 0
    req: ScsiRequest | None = None             # a pass-through command (scsi_req)
    resid: int = 0                             # bytes that the device did not want or give


@slotted
class ScsiDisk:
    """struct scsi_disk"""

    device: ScsiDevice
    disk: Gendisk
    index: int
    capacity: int                              # logical blocks
    openers: int = 0
    WCE: bool = True                           # the write cache is on
    DPOFUA: bool = True
    write_prot: bool = False
    lbpme: bool = True                         # can unmap
    removed: bool = False
