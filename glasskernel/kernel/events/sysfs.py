"""/sys/bus/event_source: which kinds of events there are, and their numbers.

Linux: perf_event_sysfs_init(), pmu_dev_alloc() of kernel/events/core.c (5.3). Differs: a file of its own, because the
    rest of perf is imported by the first perf_event_open(2) only.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.base.core import Bus, Device, bus_register, device_add
from glasskernel.fs.sysfs.kobject import Attribute, Kobject, sysfs_create_file
from glasskernel.lib.errno import EINVAL, KernelError

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

_PMUS = ((b"breakpoint", 5), (b"software", 1), (b"tracepoint", 2))


def type_show(kobj: Kobject) -> bytes:
    return b"%d\n" % kobj.data.data[0]


def perf_event_mux_interval_ms_show(kobj: Kobject) -> bytes:
    return b"%d\n" % kobj.data.data[1]


def perf_event_mux_interval_ms_store(kobj: Kobject, text: bytes) -> None:
    """Raises EINVAL. Nothing is ever multiplexed: all PMUs have room."""
    if not text.strip().isdigit() or not int(text):
        raise KernelError(EINVAL)
    kobj.data.data = (kobj.data.data[0], int(text))


pmu_dev_attrs = (
    Attribute(b"type", type_show),
    Attribute(b"perf_event_mux_interval_ms", perf_event_mux_interval_ms_show, perf_event_mux_interval_ms_store, 0o644),
)


def perf_event_sysfs_init(kernel: Kernel) -> None:
    """Boot: the bus and its PMUs. After driver_init()."""
    bus = bus_register(kernel, b"event_source")
    for name, number in _PMUS:
        pmu_dev_alloc(kernel, bus, name, number)


def pmu_dev_alloc(kernel: Kernel, bus: Bus, name: bytes, number: int) -> None:
    device = Device(Kobject(kernel, name, kernel.sysfs.devices), name, bus=bus, data=(number, 4))
    device_add(device)
    for attr in pmu_dev_attrs:
        sysfs_create_file(device.kobj, attr)
