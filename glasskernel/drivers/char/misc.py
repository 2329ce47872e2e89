"""Miscellaneous character devices: drivers that need one device number share major 10.

Linux: drivers/char/misc.c (5.3). Same: dynamic minors from 63 down, /proc/misc.
Owns: Kernel.misc.  Invariant: two devices never have the same minor.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.base.core import Class, class_create, device_create, device_destroy
from glasskernel.fs.char_dev import register_chrdev
from glasskernel.fs.read_write import noop_llseek
from glasskernel.fs.types import MINOR, MKDEV, FileOperations
from glasskernel.lib.errno import EBUSY, ENODEV, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode
    from glasskernel.init.kernel import Kernel

MISC_MAJOR = 10
MISC_DYNAMIC_MINOR = 255
DYNAMIC_MINORS = 64


@slotted
class Miscdevice:
    """struct miscdevice. nodename: path below /dev, when it is not the name."""

    minor: int
    name: bytes
    fops: FileOperations
    mode: int = 0o600
    nodename: bytes = b""


@slotted
class MiscState:
    """Kernel.misc. devices: in the order of registration."""

    devices: dict[int, Miscdevice] = field(default_factory=dict)
    misc_class: Class = None  # type: ignore[assignment]


def misc_register(kernel: Kernel, misc: Miscdevice) -> None:
    """Gives the device its number (minor 255: a free one) and its node. Errors: EBUSY."""
    devices = kernel.misc.devices
    if misc.minor == MISC_DYNAMIC_MINOR:
        for minor in range(DYNAMIC_MINORS - 1, -1, -1):
            if minor not in devices:
                misc.minor = minor
                break
        else:
            raise KernelError(EBUSY)
    elif misc.minor in devices:
        raise KernelError(EBUSY)
    devices[misc.minor] = misc
    device_create(kernel, kernel.misc.misc_class, None, MKDEV(MISC_MAJOR, misc.minor), misc.name, misc.mode,
                  misc.nodename)


def misc_deregister(kernel: Kernel, misc: Miscdevice) -> None:
    """The opposite."""
    del kernel.misc.devices[misc.minor]
    device_destroy(kernel, kernel.misc.misc_class, MKDEV(MISC_MAJOR, misc.minor))


def misc_open(inode: Inode, file: File) -> None:
    """Errors: ENODEV if nobody has the minor."""
    misc = inode.i_sb.kernel.misc.devices.get(MINOR(inode.i_rdev))
    if misc is None:
        raise KernelError(ENODEV)
    file.private_data = misc
    file.f_op = misc.fops
    misc.fops.open(inode, file)


@notrace
def misc_list(kernel: Kernel) -> list[tuple[int, bytes]]:
    """(minor, name), the youngest first, as /proc/misc has them."""
    return [(m.minor, m.name) for m in reversed(kernel.misc.devices.values())]


misc_fops = FileOperations(open=misc_open, llseek=noop_llseek)


def misc_init(kernel: Kernel) -> None:
    """Registers the major."""
    kernel.misc = MiscState()
    kernel.misc.misc_class = class_create(kernel, b"misc")
    register_chrdev(kernel, MISC_MAJOR, b"misc", misc_fops)
