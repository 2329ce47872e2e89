"""The host adapter for the machine's disks: one SCSI host with one target per disk.

Linux has no such driver; it is what drivers/ata/libahci.c is to a PC's SATA disks, and its functions are traced like
those of any driver. It decodes command blocks for machine.disk.Disk, and turns the disk's interrupt into scsi_done().
Owns: the interrupt line MDISK_IRQ. Context: mdisk_queuecommand(): any; mdisk_interrupt(): irq.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.base.core import Bus, Device, bus_register, device_add
from glasskernel.drivers.scsi.scsi_lib import scsi_mq_setup_tags
from glasskernel.drivers.scsi.scsi_types import (
    CHECK_CONDITION,
    DATA_PROTECT,
    HARDWARE_ERROR,
    ILLEGAL_REQUEST,
    MEDIUM_ERROR,
    READ_10,
    READ_16,
    SYNCHRONIZE_CACHE,
    UNMAP,
    WRITE_10,
    WRITE_16,
    WRITE_SAME_16,
    ScsiCmnd,
    ScsiDevice,
    ScsiHost,
    ScsiHostTemplate,
)
from glasskernel.drivers.scsi.sd import sd_init_command, sd_probe
from glasskernel.fs.sysfs.kobject import Attribute, Kobject, sysfs_create_file
from glasskernel.kernel.irq.irqdesc import IRQ_HANDLED, IRQ_NONE, IRQF_SHARED
from glasskernel.kernel.irq.manage import request_irq
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.machine import disk as hardware

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

MDISK_IRQ = 14
MDISK_CAN_QUEUE = 32                           # of the adapter; a disk may take fewer at once
# What the disk answers -> sense key, additional code, qualifier.
_SENSE = {hardware.MEDIUM_ERROR: (MEDIUM_ERROR, 0x11, 0), hardware.HARDWARE_ERROR: (HARDWARE_ERROR, 0x44, 0),
          hardware.NO_SPACE: (DATA_PROTECT, 0x27, 7), hardware.ABORTED: (DATA_PROTECT, 0x27, 0)}


@slotted
class Mdisk:
    """The adapter's half of a disk."""

    disk: hardware.Disk
    shost: ScsiHost


def mdisk_queuecommand(shost: ScsiHost, cmd: ScsiCmnd) -> int:
    """->queuecommand()"""
    mdisk: Mdisk = shost.hostdata
    if cmd.req is not None and mdisk_passthrough(cmd, mdisk.disk):
        return 0
    command = mdisk_decode(cmd)
    if command is None:
        cmd.result = CHECK_CONDITION
        cmd.sense_buffer = (ILLEGAL_REQUEST, 0x20, 0)
        cmd.scsi_done(cmd)
        return 0
    mdisk.disk.submit(command)
    return 0


@notrace
def mdisk_passthrough(cmd: ScsiCmnd, disk: hardware.Disk) -> bool:
    """A program's own command: True if it is over. What moves blocks must fit the medium and the memory."""
    from glasskernel.drivers.scsi.mdisk_target import INVALID_FIELD, LBA_OUT_OF_RANGE, mdisk_execute, refuse

    length = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}.get(cmd.cmnd[0] >> 5, 6)
    cmd.cmnd = cmd.cmnd.ljust(length, b"\0")
    if mdisk_execute(cmd, disk):
        return True
    if cmd.cmnd[0] == UNMAP:                       # its ranges are data
        ram = cmd.device.host.kernel.machine.ram
        data = b"".join([bytes(ram[address : address + size]) for address, size in cmd.sdb])
        if int.from_bytes(data[2:4], "big") != 16 or len(data) < 24:
            refuse(cmd, INVALID_FIELD)
            return True
        cmd.cmnd = cmd.cmnd[:10] + data[8:20]
        cmd.sdb = []
    command = mdisk_decode(cmd)
    if command is None or command.op == hardware.FLUSH:
        return False
    if command.sector + command.nr_sectors > disk.nr_sectors:
        refuse(cmd, LBA_OUT_OF_RANGE)
        return True
    room = sum(size for _, size in cmd.sdb)
    if command.op in (hardware.READ, hardware.WRITE):
        if room != command.nr_sectors << 9 or bool(cmd.request.cmd_flags & 1) != (command.op == hardware.WRITE):
            refuse(cmd, INVALID_FIELD)
            return True
    elif command.op == hardware.WRITE_ZEROES:
        ram = cmd.device.host.kernel.machine.ram
        zeros = all(not any(ram[address : address + size]) for address, size in cmd.sdb)
        if room != 512 or not zeros or not command.nr_sectors:       # this disk repeats nothing but zeros
            refuse(cmd, INVALID_FIELD)
            return True
        cmd.sdb = []
    if not command.nr_sectors:                     # nothing to do
        cmd.scsi_done(cmd)
        return True
    return False


@notrace
def mdisk_decode(cmd: ScsiCmnd) -> hardware.DiskCommand | None:
    """The disk's command for a command block; None for one it does not know."""
    cdb = cmd.cmnd
    opcode = cdb[0]
    if opcode in (READ_10, WRITE_10):
        lba, count = int.from_bytes(cdb[2:6], "big"), int.from_bytes(cdb[7:9], "big")
        op = hardware.READ if opcode == READ_10 else hardware.WRITE
    elif opcode in (READ_16, WRITE_16, WRITE_SAME_16):
        lba, count = int.from_bytes(cdb[2:10], "big"), int.from_bytes(cdb[10:14], "big")
        op = {READ_16: hardware.READ, WRITE_16: hardware.WRITE}.get(opcode, hardware.WRITE_ZEROES)
    elif opcode == SYNCHRONIZE_CACHE:
        return hardware.DiskCommand(hardware.FLUSH, tag=cmd.tag, cookie=cmd)
    elif opcode == UNMAP:
        lba, count = int.from_bytes(cdb[10:18], "big"), int.from_bytes(cdb[18:22], "big")
        op = hardware.DISCARD
    else:
        return None
    fua = op == hardware.WRITE and bool(cdb[1] & 0x8)
    return hardware.DiskCommand(op, lba, count, cmd.sdb, fua, cmd.tag, cmd)


def mdisk_interrupt(irq: int, dev: Mdisk) -> int:
    """Commands are done."""
    done = dev.disk.done
    if not done:
        return IRQ_NONE
    dev.disk.done = []
    mem = dev.shost.kernel.mem
    for command in done:
        cmd: ScsiCmnd = command.cookie
        if command.status:
            cmd.result = CHECK_CONDITION
            cmd.sense_buffer = _SENSE[command.status]
        elif command.op == hardware.READ:
            for address, length in command.segments:       # code may have been run from these frames
                for pfn in range(address >> 12, (address + length - 1 >> 12) + 1):
                    mem.note_kernel_write(pfn)
        cmd.scsi_done(cmd)
    return IRQ_HANDLED


def mdisk_abort(cmd: ScsiCmnd) -> bool:
    """->eh_abort_handler(): an answer that comes later finds nobody."""
    cmd.scsi_done = mdisk_forget
    return True


@notrace
def mdisk_forget(cmd: ScsiCmnd) -> None:
    """scsi_done of an aborted command."""


@may_sleep
def mdisk_init(kernel: Kernel) -> None:
    """Finds the machine's disks. Context: PID 1, at boot."""
    for number, disk in enumerate(kernel.params.disks):
        mdisk_add(kernel, number, disk)


@may_sleep
def mdisk_add(kernel: Kernel, number: int, disk: hardware.Disk) -> None:
    depth = max(disk.queue_depth, MDISK_CAN_QUEUE)
    template = ScsiHostTemplate("mdisk", "mdisk", mdisk_queuecommand, depth, eh_abort_handler=mdisk_abort)
    shost = ScsiHost(kernel, number, template, can_queue=template.can_queue)
    mdisk = shost.hostdata = Mdisk(disk, shost)
    scsi_mq_setup_tags(shost, len(kernel.machine.cpus) if disk.model == "nvme" else 1)
    disk.attach(kernel.machine, lambda: kernel.machine.post_irq(MDISK_IRQ))
    request_irq(kernel, MDISK_IRQ, mdisk_interrupt, IRQF_SHARED, "mdisk", mdisk)
    host = scsi_device_add(kernel, b"host%d" % number, None)
    target = scsi_device_add(kernel, b"target%d:0:0" % number, host)
    sdev = ScsiDevice(shost, 0, 0, disk.queue_depth, b"MDISK   ", disk.model.encode().ljust(16), b"1.0 ")
    shost.shost_gendev = host
    kernel.printk(f"scsi host{number}: mdisk", 6)
    kernel.printk(
        f"scsi {sdev.address}: Direct-Access     {sdev.vendor.decode()} {sdev.model.decode()} {sdev.rev.decode()} "
        "PQ: 0 ANSI: 5",
        5,
    )
    sdev.sdev_gendev = scsi_device_add(kernel, sdev.address.encode(), target)
    sdev.sdev_gendev.data = sd_init_command
    scsi_sysfs_add_sdev(sdev, sdev.sdev_gendev.kobj)
    sd_probe(sdev, disk.nr_sectors, index=number, rotational=disk.model == "hdd", write_cache=disk.write_cache,
             read_only=disk.read_only)


@notrace
def scsi_device_add(kernel: Kernel, name: bytes, parent: Device | None) -> Device:
    """/sys/devices/hostN/targetN:0:0/N:0:0:0, all on the bus "scsi"."""
    buses: dict[bytes, Bus] = kernel.sysfs.buses
    bus = buses.get(b"scsi") or bus_register(kernel, b"scsi")
    device = Device(Kobject(kernel, name, parent.kobj if parent is not None else kernel.sysfs.devices), name, bus=bus)
    device_add(device)
    return device


def scsi_sysfs_add_sdev(sdev: ScsiDevice, kobj: Kobject) -> None:
    """vendor, model, rev, ... in /sys/block/sdX/device (drivers/scsi/scsi_sysfs.c)."""
    for name, show in (
        (b"vendor", lambda _k: sdev.vendor + b"\n"),
        (b"model", lambda _k: sdev.model + b"\n"),
        (b"rev", lambda _k: sdev.rev + b"\n"),
        (b"type", lambda _k: b"%d\n" % sdev.type),
        (b"queue_depth", lambda _k: b"%d\n" % sdev.queue_depth),
        (b"state", lambda _k: b"running\n"),
        (b"timeout", lambda _k: b"%d\n" % (sdev.timeout // 250)),
        (b"device_busy", lambda _k: b"%d\n" % sdev.device_busy),
        (b"iorequest_cnt", lambda _k: b"%#x\n" % sdev.iorequest_cnt),
        (b"iodone_cnt", lambda _k: b"%#x\n" % sdev.iodone_cnt),
        (b"ioerr_cnt", lambda _k: b"%#x\n" % sdev.ioerr_cnt),
    ):
        sysfs_create_file(kobj, Attribute(name, show))


