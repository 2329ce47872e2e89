"""/sys/class/net and /sys/devices/virtual/net before anybody looked into them.

Linux: the class_register() of netdev_kobject_init() in net/core/net-sysfs.c (5.3). Differs: what is in the class is
    made for the first who looks (kernel.netdev_kobject_init): a boot starts no network.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.base.core import class_create
from glasskernel.fs.sysfs.kobject import kobject_create_and_add
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.kernfs import KernfsNode
    from glasskernel.init.kernel import Kernel


@notrace
def populate_net(kn: KernfsNode) -> None:
    kn.root.kernel.netdev_kobject_init()


def net_class_init(kernel: Kernel) -> None:
    """After driver_init()'s other classes."""
    cls = class_create(kernel, b"net")
    cls.virtual = kobject_create_and_add(b"net", kernel.sysfs.virtual)
    cls.kobj.sd.populate = cls.virtual.sd.populate = populate_net
