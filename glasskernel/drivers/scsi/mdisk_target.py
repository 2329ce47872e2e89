"""What a disk of the machine answers to commands that move no blocks: who it is, how large, how it behaves.

The firmware of a plain SCSI disk (SPC-3, SBC-3). A command that it lacks (ATA PASS-THROUGH, LOG SENSE ...) ends with
ILLEGAL REQUEST, as on a real one. Context: any.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.scsi.scsi_types import CHECK_CONDITION, GOOD, ILLEGAL_REQUEST, ScsiCmnd
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.machine.disk import Disk

TEST_UNIT_READY, REQUEST_SENSE, INQUIRY, MODE_SENSE, START_STOP = 0x00, 0x03, 0x12, 0x1A, 0x1B
READ_CAPACITY, MODE_SENSE_10, SERVICE_ACTION_IN_16, REPORT_LUNS = 0x25, 0x5A, 0x9E, 0xA0
SAI_READ_CAPACITY_16 = 0x10
INVALID_COMMAND, LBA_OUT_OF_RANGE, INVALID_FIELD = (0x20, 0), (0x21, 0), (0x24, 0)
UNMAP_GRANULARITY = 8                          # blocks


@notrace
def refuse(cmd: ScsiCmnd, why: tuple[int, int]) -> None:
    """ILLEGAL REQUEST."""
    cmd.result = CHECK_CONDITION
    cmd.sense_buffer = (ILLEGAL_REQUEST, *why)
    cmd.resid = sum(length for _, length in cmd.sdb)
    cmd.scsi_done(cmd)


@notrace
def answer(cmd: ScsiCmnd, data: bytes, allocated: int) -> None:
    """Data for the initiator: at most what its command block allows, and what it has memory for."""
    ram = cmd.device.host.kernel.machine.ram
    data = data[:allocated]
    rest = data
    room = 0
    for address, length in cmd.sdb:
        piece = rest[:length]
        ram[address : address + len(piece)] = piece
        rest = rest[length:]
        room += length
    cmd.result = GOOD
    cmd.resid = room - min(len(data), room)
    cmd.scsi_done(cmd)


@notrace
def _serial(cmd: ScsiCmnd) -> bytes:
    return b"%08d" % cmd.device.host.host_no


@notrace
def _page(code: int, data: bytes) -> bytes:
    return bytes((0, code)) + len(data).to_bytes(2, "big") + data


@notrace
def inquiry(cmd: ScsiCmnd, disk: Disk) -> None:
    """Standard data, or a page of vital product data."""
    cdb = cmd.cmnd
    sdev = cmd.device
    allocated = int.from_bytes(cdb[3:5], "big")
    page = cdb[2]
    if not cdb[1] & 1:
        if page:
            refuse(cmd, INVALID_FIELD)
            return
        # A disk, SPC-3, response format 2, command queueing; versions: SAM-3, SPC-3, SBC-3.
        answer(cmd, bytes((0, 0, 5, 2, 61, 0, 0, 2)) + sdev.vendor + sdev.model + sdev.rev + bytes(22)
               + bytes.fromhex("0060 0300 04c0") + bytes(2), allocated)
        return
    if page == 0x00:
        data = bytes((0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2))
    elif page == 0x80:
        data = _serial(cmd)
    elif page == 0x83:
        identity = sdev.vendor + sdev.model + _serial(cmd)          # ASCII, of the vendor's making, for the unit
        data = bytes((2, 1, 0, len(identity))) + identity
    elif page == 0xB0:                                              # limits of UNMAP: one range, any length
        data = (bytes(16) + (0xFFFFFFFF).to_bytes(4, "big") + (1).to_bytes(4, "big")
                + UNMAP_GRANULARITY.to_bytes(4, "big") + bytes(32))
    elif page == 0xB1:
        data = (7200 if disk.model == "hdd" else 1).to_bytes(2, "big") + bytes(58)
    elif page == 0xB2:
        data = bytes((0, 0xC0, 0, 0))                               # UNMAP and WRITE SAME (16) unmap
    else:
        refuse(cmd, INVALID_FIELD)
        return
    answer(cmd, _page(page, data), allocated)


@notrace
def mode_sense(cmd: ScsiCmnd, disk: Disk) -> None:
    """The caching and control pages, of six or ten bytes' commands."""
    cdb = cmd.cmnd
    ten = cdb[0] == MODE_SENSE_10
    allocated = int.from_bytes(cdb[7:9], "big") if ten else cdb[4]
    control, code = cdb[2] >> 6, cdb[2] & 0x3F
    changeable = control == 1
    caching = bytearray((0x08, 18)) + bytes(18)
    if not changeable and disk.write_cache:
        caching[2] = 0x04                                           # WCE
    ctl = bytearray((0x0A, 10)) + bytes(10)
    if not changeable:
        ctl[3] = 0x10                                               # commands are reordered as we like
    pages = {0x08: bytes(caching), 0x0A: bytes(ctl)}
    if control == 3 or cdb[3] not in (0, 0xFF) or (code != 0x3F and code not in pages):
        refuse(cmd, INVALID_FIELD)
        return
    body = b"".join(pages.values()) if code == 0x3F else pages[code]
    descriptor = b"" if cdb[1] & 8 else min(disk.nr_sectors, 0xFFFFFFFF).to_bytes(4, "big") + (512).to_bytes(4, "big")
    specific = (0x80 if disk.read_only else 0) | 0x10               # write protected; DPO and FUA
    if ten:
        head = bytes((0, specific, 0, 0)) + len(descriptor).to_bytes(2, "big")
        body = (len(head) + len(descriptor) + len(body)).to_bytes(2, "big") + head + descriptor + body
    else:
        head = bytes((0, specific, len(descriptor)))
        body = bytes((len(head) + len(descriptor) + len(body),)) + head + descriptor + body
    answer(cmd, body, allocated)


@notrace
def read_capacity(cmd: ScsiCmnd, disk: Disk) -> None:
    last = disk.nr_sectors - 1
    if cmd.cmnd[0] == READ_CAPACITY:
        answer(cmd, min(last, 0xFFFFFFFF).to_bytes(4, "big") + (512).to_bytes(4, "big"), 8)
        return
    if cmd.cmnd[1] & 0x1F != SAI_READ_CAPACITY_16:
        refuse(cmd, INVALID_FIELD)
        return
    exponent = 0 if disk.model == "hdd" else 3                      # 8 logical blocks in a physical one
    answer(cmd, last.to_bytes(8, "big") + (512).to_bytes(4, "big") + bytes((0, exponent, 0x80, 0)) + bytes(16),
           int.from_bytes(cmd.cmnd[10:14], "big"))


@notrace
def mdisk_execute(cmd: ScsiCmnd, disk: Disk) -> bool:
    """Runs a command that needs no medium. False: it may be one that does."""
    opcode = cmd.cmnd[0]
    if opcode == INQUIRY:
        inquiry(cmd, disk)
    elif opcode in (MODE_SENSE, MODE_SENSE_10):
        mode_sense(cmd, disk)
    elif opcode in (READ_CAPACITY, SERVICE_ACTION_IN_16):
        read_capacity(cmd, disk)
    elif opcode in (TEST_UNIT_READY, START_STOP):
        answer(cmd, b"", 0)
    elif opcode == REQUEST_SENSE:
        answer(cmd, bytes((0x70, 0, 0, 0, 0, 0, 0, 10)) + bytes(10), cmd.cmnd[4])
    elif opcode == REPORT_LUNS:
        answer(cmd, (8).to_bytes(4, "big") + bytes(12), int.from_bytes(cmd.cmnd[6:10], "big"))
    else:
        return False
    return True
