"""/sys/class/bdi: the backing devices and their tunables.

Linux: the sysfs half of mm/backing-dev.c (5.3). Same: /sys/class/bdi/MAJOR:MINOR with read_ahead_kb, min_ratio,
    max_ratio and stable_pages_required. Differs: it stands here because the device model lies above the memory layer.
Owns: BackingDevInfo.device. Gaps: /sys/kernel/debug/bdi.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.base.core import Class, class_create, device_create, device_del
from glasskernel.fs.sysfs.kobject import Attribute, Kobject, sysfs_create_file
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace
from glasskernel.mm.backing_dev import BDI_CAP_STABLE_WRITES, BackingDevInfo

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


@notrace
def _bdi(kobj: Kobject) -> BackingDevInfo:
    bdi: BackingDevInfo = kobj.data.data
    return bdi


@notrace
def _number(text: bytes) -> int:
    try:
        value = int(text.strip(), 0)
    except ValueError:
        raise KernelError(EINVAL) from None
    if value < 0:
        raise KernelError(EINVAL)
    return value


def read_ahead_kb_show(kobj: Kobject) -> bytes:
    return b"%d\n" % (_bdi(kobj).ra_pages * 4)


def read_ahead_kb_store(kobj: Kobject, text: bytes) -> None:
    """Files that are open keep their window."""
    _bdi(kobj).ra_pages = _number(text) >> 2


def min_ratio_show(kobj: Kobject) -> bytes:
    return b"%d\n" % _bdi(kobj).min_ratio


def min_ratio_store(kobj: Kobject, text: bytes) -> None:
    """bdi_set_min_ratio(). Errors: EINVAL above max_ratio, or if all devices together ask for 100 % and more."""
    bdi = _bdi(kobj)
    value = _number(text)
    others = sum(other.min_ratio for other in bdi.kernel.writeback.bdi_list if other is not bdi)
    if value > bdi.max_ratio or value + others >= 100:
        raise KernelError(EINVAL)
    bdi.min_ratio = value


def max_ratio_show(kobj: Kobject) -> bytes:
    return b"%d\n" % _bdi(kobj).max_ratio


def max_ratio_store(kobj: Kobject, text: bytes) -> None:
    """bdi_set_max_ratio(). Errors: EINVAL."""
    bdi = _bdi(kobj)
    value = _number(text)
    if value > 100 or bdi.min_ratio > value:
        raise KernelError(EINVAL)
    bdi.max_ratio = value


def stable_pages_required_show(kobj: Kobject) -> bytes:
    return b"%d\n" % bool(_bdi(kobj).capabilities & BDI_CAP_STABLE_WRITES)


bdi_dev_attrs = (
    Attribute(b"read_ahead_kb", read_ahead_kb_show, read_ahead_kb_store, 0o644),
    Attribute(b"min_ratio", min_ratio_show, min_ratio_store, 0o644),
    Attribute(b"max_ratio", max_ratio_show, max_ratio_store, 0o644),
    Attribute(b"stable_pages_required", stable_pages_required_show),
)


@notrace
def _device_add(bdi: BackingDevInfo) -> None:
    kernel = bdi.kernel
    cls: Class = kernel.sysfs.classes[b"bdi"]
    assert bdi.dev_name is not None
    bdi.device = device_create(kernel, cls, None, 0, bdi.dev_name, data=bdi)
    for attr in bdi_dev_attrs:
        sysfs_create_file(bdi.device.kobj, attr)


@notrace
def _device_del(bdi: BackingDevInfo) -> None:
    if bdi.device is not None:
        device_del(bdi.device)
        bdi.device = None


def bdi_class_init(kernel: Kernel) -> None:
    """/sys/class/bdi. Before the first disk."""
    class_create(kernel, b"bdi")
    kernel.writeback.bdi_device_add = _device_add
    kernel.writeback.bdi_device_del = _device_del
