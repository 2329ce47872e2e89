"""cpuN/cache: a directory for each cache. They go with the CPU.

Linux: drivers/base/cacheinfo.c, arch/x86/kernel/cpu/cacheinfo.c (5.3).
Owns: nothing: the figures are fs.proc.cpuinfo's, which are CPUID's. No cache is shared.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.base.topology import cpu_device, cpu_number, cpumap, remove_directory
from glasskernel.fs.proc.cpuinfo import CPU_CACHES
from glasskernel.fs.sysfs.kobject import Attribute, kobject_create_and_add, sysfs_create_group
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.drivers.base.core import Device
    from glasskernel.init.kernel import Kernel


@notrace
def _constant(name: bytes, text: bytes) -> Attribute:
    return Attribute(name, lambda _kobj: text + b"\n")


@notrace
def _cache_attributes(index: int) -> tuple[Attribute, ...]:
    level, kind, size, ways, line, sets = CPU_CACHES[index]
    texts = ((b"level", b"%d" % level), (b"type", kind), (b"size", b"%dK" % size),
             (b"ways_of_associativity", b"%d" % ways), (b"coherency_line_size", b"%d" % line),
             (b"number_of_sets", b"%d" % sets), (b"physical_line_partition", b"1"))
    shared = (Attribute(b"id", lambda k: b"%d\n" % cpu_number(k)),
              Attribute(b"shared_cpu_map", lambda k: cpumap(k, 1 << cpu_number(k))),
              Attribute(b"shared_cpu_list", lambda k: b"%d\n" % cpu_number(k)))
    return tuple(_constant(name, text) for name, text in texts) + shared


def cache_add_dev(device: Device) -> None:
    cache = kobject_create_and_add(b"cache", device.kobj)
    for index in range(len(CPU_CACHES)):
        leaf = kobject_create_and_add(b"index%d" % index, cache)
        leaf.data = device
        sysfs_create_group(leaf, _cache_attributes(index))


def cacheinfo_cpu_online(kernel: Kernel, cpu: int) -> None:
    """A CPU is there. Context: cpuhp/N."""
    device = cpu_device(kernel, cpu)
    if device.kobj.sd.populate is None:
        cache_add_dev(device)


def cacheinfo_cpu_pre_down(kernel: Kernel, cpu: int) -> None:
    """A CPU goes. Context: cpuhp/N."""
    cpu_cache_sysfs_exit(kernel, cpu)


def cpu_cache_sysfs_exit(kernel: Kernel, cpu: int) -> None:
    remove_directory(cpu_device(kernel, cpu), b"cache")
