"""The clock's device: what exists from boot on. The driver itself is imported by the first who uses it.

Linux: rtc_init() of drivers/rtc/class.c, devm_rtc_register_device(), cmos_init() of rtc-cmos.c (5.3). Same: platform
device rtc_cmos, class rtc, /dev/rtc0, /proc/driver/rtc, line 8. Differs: where Linux loads a module at boot, start-up
time counts here.
Owns: Kernel.rtc. Context: boot; then those of dev.py and rtc_cmos.py.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.drivers.base.core import Device, class_create, device_create
from glasskernel.fs.char_dev import Cdev, alloc_chrdev_region, cdev_add
from glasskernel.fs.proc.generic import proc_create_single_data
from glasskernel.fs.seq_file import SeqFile, seq_puts
from glasskernel.fs.sysfs.kobject import Attribute, Kobject, kobject_create_and_add, sysfs_create_file
from glasskernel.fs.types import FileOperations
from glasskernel.kernel.current import register
from glasskernel.kernel.irq.irqdesc import IRQ_NONE
from glasskernel.kernel.irq.manage import request_irq
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.drivers.rtc.types import RtcDevice
    from glasskernel.fs.types import File, Inode
    from glasskernel.init.kernel import Kernel

RTC_IRQ = 8
NAME = b"rtc0"
_READABLE = (b"date", b"time", b"since_epoch", b"hctosys")


@notrace
def rtc_device(kernel: Kernel) -> RtcDevice:
    """The clock, probed if nobody has looked at it yet."""
    if kernel.rtc is None:
        from glasskernel.drivers.rtc.register import rtc_register_device

        kernel.rtc = rtc_register_device(kernel)
    return kernel.rtc


@notrace
def _open(inode: Inode, file: File) -> None:
    from glasskernel.drivers.rtc.dev import rtc_dev_fops

    file.private_data = rtc_device(inode.i_sb.kernel)
    file.f_op = rtc_dev_fops
    rtc_dev_fops.open(inode, file)


@notrace
def _interrupt(irq: int, kernel: Kernel) -> int:
    if kernel.rtc is None:
        return IRQ_NONE                            # nobody has turned an interrupt on
    from glasskernel.drivers.rtc.rtc_cmos import cmos_interrupt

    return cmos_interrupt(irq, kernel.rtc)


@notrace
def _proc_show(m: SeqFile, v: Any) -> int | None:
    from glasskernel.drivers.rtc.dev import rtc_proc_show

    seq_puts(m, rtc_proc_show(rtc_device(register.task.kernel)))
    return None


@notrace
def _attribute(name: bytes) -> Attribute:
    def show(kobj: Kobject) -> bytes:
        from glasskernel.drivers.rtc.dev import rtc_attribute_show

        return rtc_attribute_show(rtc_device(kobj.kernel), name)

    def store(kobj: Kobject, text: bytes) -> None:
        from glasskernel.drivers.rtc.dev import max_user_freq_store, wakealarm_store

        (wakealarm_store if name == b"wakealarm" else max_user_freq_store)(rtc_device(kobj.kernel), text)

    if name in _READABLE:
        return Attribute(name, notrace(show))
    return Attribute(name, notrace(show), notrace(store), 0o644)


_name_attribute = Attribute(b"name", notrace(lambda kobj: b"rtc_cmos rtc_cmos\n"))


def cmos_init(kernel: Kernel) -> None:
    """Makes the device and takes its line."""
    platform = kobject_create_and_add(b"platform", kernel.sysfs.devices)
    parent = Device(kobject_create_and_add(b"rtc_cmos", platform), b"rtc_cmos")
    dev = alloc_chrdev_region(kernel, 0, 16, b"rtc")
    cdev_add(kernel, Cdev(FileOperations(open=_open)), dev, 1)
    device = device_create(kernel, class_create(kernel, b"rtc"), parent, dev, NAME)
    sysfs_create_file(device.kobj, _name_attribute)
    for name in (*_READABLE, b"max_user_freq", b"wakealarm"):
        sysfs_create_file(device.kobj, _attribute(name))
    proc_create_single_data(kernel, b"driver/rtc", 0, None, _proc_show)
    request_irq(kernel, RTC_IRQ, _interrupt, 0, "rtc0", kernel)
