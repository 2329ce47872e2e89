"""ioctl(2) of every SCSI device: where it is on its bus.

Linux: drivers/scsi/scsi_ioctl.c (5.3). Gaps: SCSI_IOCTL_SEND_COMMAND, DOORLOCK, PROBE_HOST's text.
"""
from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_to_user, put_user_u32
from glasskernel.lib.errno import EFAULT, KernelError
from glasskernel.lib.types import may_sleep

if TYPE_CHECKING:
    from glasskernel.drivers.scsi.scsi_types import ScsiDevice

SCSI_IOCTL_GET_IDLUN, SCSI_IOCTL_GET_BUS_NUMBER = 0x5382, 0x5386
SCSI_IOCTL_COMMANDS = (SCSI_IOCTL_GET_IDLUN, SCSI_IOCTL_GET_BUS_NUMBER)


@may_sleep
def scsi_ioctl(sdev: ScsiDevice, cmd: int, arg: int) -> int:
    """Raises EFAULT."""
    if not arg:
        raise KernelError(EFAULT)
    if cmd == SCSI_IOCTL_GET_IDLUN:
        where = sdev.id & 0xFF | (sdev.lun & 0xFF) << 8 | (sdev.channel & 0xFF) << 16 | (sdev.host.host_no & 0xFF) << 24
        copy_to_user(arg, struct.pack("<II", where, sdev.host.host_no))
    else:
        put_user_u32(arg, sdev.host.host_no)
    return 0
