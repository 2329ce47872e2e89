"""The device model begins.

Linux: drivers/base/init.c (5.3).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.base.bdi import bdi_class_init
from glasskernel.drivers.base.cpu import cpu_dev_init
from glasskernel.drivers.base.net import net_class_init
from glasskernel.drivers.base.node import node_dev_init
from glasskernel.drivers.firmware.dmi import dmi_init

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


def driver_init(kernel: Kernel) -> None:
    """Registers CPUs and memory nodes. After sysfs_init() and devtmpfs_init()."""
    bdi_class_init(kernel)
    node_dev_init(kernel, cpu_dev_init(kernel))
    dmi_init(kernel)
    net_class_init(kernel)
