"""SG_IO: programs send SCSI commands to a disk, and believe what it answers."""
import re

import pytest

from glasskernel.machine.disk import Disk
from tests.conftest import PROGRAMS, need


def machine(boot, model="ssd", **options):
    return boot(disks=[Disk(size=64 << 20, model=model, **options)])


def test_smartctl_says_what_it_says_of_a_plain_scsi_disk(boot):
    """Lab B04: the identity, and that there is no SMART; behind a RAID controller there is nothing."""
    need("smartctl", "smartmontools")
    kernel = machine(boot)
    seen = kernel.run(["/bin/sh", "-c", "smartctl -a /dev/sda"])
    assert seen.status == 4                        # a SMART command failed
    text = re.sub(r"  +", " ", seen.stdout.decode())
    for line in ("Vendor: MDISK", "Product: ssd", "Compliance: SPC-3", "User Capacity: 67,108,864 bytes [67.1 MB]",
                 "Logical block size: 512 bytes", "Physical block size: 4096 bytes", "Rotation Rate: Solid State Device",
                 "Serial number: 00000000", "Device type: disk",
                 "SMART support is: Unavailable - device lacks SMART capability."):
        assert line in text, text
    raid = kernel.run(["/bin/sh", "-c", "smartctl -a /dev/sda -d cciss,0"])
    assert raid.status == 2 and b"Smartctl open device: /dev/sda [cciss_disk_00] [SCSI/SAT] failed" in raid.stdout
    assert b"unsupported scsi opcode" in kernel.run(["/bin/sh", "-c", "smartctl -i -d sat /dev/sda"]).stdout
    assert b"Rotation Rate:        7200 rpm" in machine(boot, "hdd").run(["/bin/sh", "-c", "smartctl -i /dev/sda"]).stdout


def test_sg3_utils(boot):
    """Inquiry, capacity, mode pages, logical units; reading; errors with their sense data."""
    need("sg_inq", "sg3-utils")
    kernel = machine(boot)

    def sh(script, status=0):
        result = kernel.run(["/bin/sh", "-c", script])
        assert result.status == status, result
        return (result.stdout + result.stderr).decode()

    assert "Product identification: ssd" in sh("sg_inq /dev/sda")
    assert "Last LBA=131071" in sh("sg_readcap --16 /dev/sda") and "Last LBA=131071" in sh("sg_readcap /dev/sda")
    assert "Caching, page_control: current" in sh("sg_modes /dev/sda") and "1 lun entry" in sh("sg_luns /dev/sda")
    sh("sg_turs /dev/sda && sg_sync /dev/sda")
    sh("seq 9999 | dd of=/dev/sda bs=512 count=8 iflag=fullblock 2>/dev/null; sync; "
       "sg_dd if=/dev/sda of=/tmp/x bs=512 count=8 blk_sgio=1 && cmp -n 4096 /tmp/x /dev/sda")
    assert "Logical block address out of range" in sh("sg_raw -r 512 /dev/sda 28 00 7f ff ff ff 00 00 01 00", 22)
    assert "ATA PASS-THROUGH (16) not supported" in sh("sg_sat_identify /dev/sda", 9)
    assert "Illegal request, Invalid opcode" in sh("sg_logs /dev/sda", 9)


def test_hdparm_finds_no_ata_disk(boot):
    """-I: ATA PASS-THROUGH is refused, the identity stays empty; -i and -g: the ioctls that there are."""
    need("hdparm", "hdparm")
    kernel = machine(boot)
    identify = kernel.run(["/bin/sh", "-c", "hdparm -I /dev/sda"]).stdout
    assert b"Model Number" not in identify and b"1024*1024:           0 MBytes" in identify
    assert b"HDIO_GET_IDENTITY failed: Inappropriate ioctl for device" in kernel.run(["/bin/sh", "-c", "hdparm -i /dev/sda"]).stderr
    assert b"8/255/63, sectors = 131072, start = 0" in kernel.run(["/bin/sh", "-c", "hdparm -g /dev/sda"]).stdout


@pytest.mark.parametrize("scheduler", ["none", "mq-deadline", "bfq"])
def test_commands_from_a_program(boot, build_c, scheduler):
    """Headers, lengths that do not fit, who may send what; under every scheduler."""
    from glasskernel import Share
    program = build_c(PROGRAMS / "sg_io.c")
    kernel = boot(disks=[Disk(size=8 << 20, model="ssd")], shares=[Share(str(program.parent), "/programs")])
    kernel.run(["/bin/sh", "-c", f"echo {scheduler} > /sys/block/sda/queue/scheduler; chmod 666 /dev/sda"])
    result = kernel.run([f"/programs/{program.name}", "/dev/sda"])
    assert result.status == 0, result.stdout.decode()
    user = kernel.run([f"/programs/{program.name}", "/dev/sda", "user"], uid=1000, gid=1000, cwd="/")
    assert user.status == 0, user.stdout.decode()
