"""CPUs in /sys: /sys/devices/system/cpu, and cpuN with topology and caches.

Linux: drivers/base/cpu.c, topology.c, cacheinfo.c (5.3). Same: files and formats that lscpu(1) and glibc
    read.
Owns: nothing; the figures are fs.proc.cpuinfo's, which are CPUID's. All CPUs are cores of one socket.
Gaps: hotplug (`online` cannot be written).
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.base.core import Bus, Device, device_add, subsys_system_register
from glasskernel.fs.proc.cpuinfo import CPU_CACHES, CPU_FAMILY, CPU_MODEL
from glasskernel.fs.sysfs.kobject import (
    Attribute,
    Kobject,
    kobject_create_and_add,
    sysfs_create_file,
    sysfs_create_group,
)
from glasskernel.lib.types import notrace
from glasskernel.lib.vsprintf import cpumask_hex, cpumask_list

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


@notrace
def _mask(kobj: Kobject) -> int:
    return (1 << len(kobj.kernel.machine.cpus)) - 1


@notrace
def _cpu(kobj: Kobject) -> int:
    number: int = kobj.data.data
    return number


@notrace
def _hex(kobj: Kobject, mask: int) -> bytes:
    return cpumask_hex(mask, len(kobj.kernel.machine.cpus)) + b"\n"


# ---- /sys/devices/system/cpu ---------------------------------------------------------------------
def show_cpus_attr(kobj: Kobject) -> bytes:
    """possible and present"""
    return cpumask_list(_mask(kobj)) + b"\n"


def show_online(kobj: Kobject) -> bytes:
    return cpumask_list(kobj.kernel.sched.cpu_online_mask & _mask(kobj)) + b"\n"


def print_cpus_offline(kobj: Kobject) -> bytes:
    return cpumask_list(_mask(kobj) & ~kobj.kernel.sched.cpu_online_mask) + b"\n"


def print_cpus_kernel_max(kobj: Kobject) -> bytes:
    """The greatest number the kernel was built for, less one."""
    return b"63\n"


def print_cpu_modalias(kobj: Kobject) -> bytes:
    return b"cpu:type:x86,ven0000fam%04Xmod%04X:feature:\n" % (CPU_FAMILY, CPU_MODEL)


_ROOT_ATTRS = (
    Attribute(b"online", show_online), Attribute(b"possible", show_cpus_attr), Attribute(b"present", show_cpus_attr),
    Attribute(b"kernel_max", print_cpus_kernel_max), Attribute(b"offline", print_cpus_offline),
    Attribute(b"modalias", print_cpu_modalias),
)


# ---- cpuN ----------------------------------------------------------------------------------------
def cpu_subsys_online_show(kobj: Kobject) -> bytes:
    return b"%d\n" % (kobj.kernel.sched.cpu_online_mask >> _cpu(kobj) & 1)


def cpu_uevent(device: Device) -> list[bytes]:
    return [b"MODALIAS=cpu:type:x86,ven0000fam%04Xmod%04X:feature:" % (CPU_FAMILY, CPU_MODEL)]


_TOPOLOGY_ATTRS = (
    Attribute(b"physical_package_id", lambda k: b"0\n"),
    Attribute(b"die_id", lambda k: b"0\n"),
    Attribute(b"core_id", lambda k: b"%d\n" % _cpu(k)),
    Attribute(b"thread_siblings", lambda k: _hex(k, 1 << _cpu(k))),
    Attribute(b"thread_siblings_list", lambda k: b"%d\n" % _cpu(k)),
    Attribute(b"core_cpus", lambda k: _hex(k, 1 << _cpu(k))),
    Attribute(b"core_cpus_list", lambda k: b"%d\n" % _cpu(k)),
    Attribute(b"core_siblings", lambda k: _hex(k, _mask(k))),
    Attribute(b"core_siblings_list", lambda k: cpumask_list(_mask(k)) + b"\n"),
    Attribute(b"die_cpus", lambda k: _hex(k, _mask(k))),
    Attribute(b"die_cpus_list", lambda k: cpumask_list(_mask(k)) + b"\n"),
    Attribute(b"package_cpus", lambda k: _hex(k, _mask(k))),
    Attribute(b"package_cpus_list", lambda k: cpumask_list(_mask(k)) + b"\n"),
)


@notrace
def _constant(name: bytes, text: bytes) -> Attribute:
    return Attribute(name, lambda _kobj: text + b"\n")


@notrace
def _cache_attributes(index: int) -> tuple[Attribute, ...]:
    level, kind, size, ways, line, sets = CPU_CACHES[index]
    texts = ((b"level", b"%d" % level), (b"type", kind), (b"size", b"%dK" % size),
             (b"ways_of_associativity", b"%d" % ways), (b"coherency_line_size", b"%d" % line),
             (b"number_of_sets", b"%d" % sets), (b"physical_line_partition", b"1"))
    shared = (Attribute(b"id", lambda k: b"%d\n" % _cpu(k)),
              Attribute(b"shared_cpu_map", lambda k: _hex(k, 1 << _cpu(k))),
              Attribute(b"shared_cpu_list", lambda k: b"%d\n" % _cpu(k)))
    return tuple(_constant(name, text) for name, text in texts) + shared


def register_cpu(kernel: Kernel, bus: Bus, number: int) -> Device:
    """/sys/devices/system/cpu/cpuN and its link in /sys/bus/cpu/devices."""
    device = Device(Kobject(kernel, b"cpu%d" % number, bus.dev_root), b"cpu%d" % number, bus=bus, data=number)
    device.uevent = cpu_uevent
    device_add(device)
    kobj = device.kobj
    if number:
        sysfs_create_file(kobj, Attribute(b"online", cpu_subsys_online_show))
    sysfs_create_group(kobj, _TOPOLOGY_ATTRS, b"topology")
    cache = kobject_create_and_add(b"cache", kobj)
    for index in range(len(CPU_CACHES)):
        leaf = kobject_create_and_add(b"index%d" % index, cache)
        leaf.data = device
        sysfs_create_group(leaf, _cache_attributes(index))
    return device


def cpu_dev_init(kernel: Kernel) -> list[Device]:
    """All CPUs. Answers their devices."""
    bus = subsys_system_register(kernel, b"cpu", _ROOT_ATTRS)
    return [register_cpu(kernel, bus, number) for number in range(len(kernel.machine.cpus))]
