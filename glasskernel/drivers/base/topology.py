"""cpuN/topology: which CPUs are threads of one core, cores of one package. They go with the CPU.

Linux: drivers/base/topology.c, arch/x86/include/asm/topology.h (5.3). Same: files, masks of online CPUs only.
Owns: nothing. All CPUs are cores of one package.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.kernfs import kernfs_find_and_get, kernfs_remove
from glasskernel.fs.sysfs.kobject import Attribute, Kobject, sysfs_create_group
from glasskernel.lib.types import notrace
from glasskernel.lib.vsprintf import cpumask_hex, cpumask_list

if TYPE_CHECKING:
    from glasskernel.drivers.base.core import Device
    from glasskernel.init.kernel import Kernel


@notrace
def cpu_number(kobj: Kobject) -> int:
    number: int = kobj.data.data
    return number


@notrace
def cpumap(kobj: Kobject, mask: int) -> bytes:
    return cpumask_hex(mask, len(kobj.kernel.machine.cpus)) + b"\n"


@notrace
def _core_map(kobj: Kobject) -> int:
    """cpu_core_mask()"""
    return kobj.kernel.sched.cpu_online_mask


_ATTRS = (
    Attribute(b"physical_package_id", lambda k: b"0\n"),
    Attribute(b"die_id", lambda k: b"0\n"),
    Attribute(b"core_id", lambda k: b"%d\n" % cpu_number(k)),
    *(Attribute(name, lambda k: cpumap(k, 1 << cpu_number(k))) for name in (b"thread_siblings", b"core_cpus")),
    *(Attribute(name + b"_list", lambda k: b"%d\n" % cpu_number(k)) for name in (b"thread_siblings", b"core_cpus")),
    *(Attribute(name, lambda k: cpumap(k, _core_map(k))) for name in (b"core_siblings", b"die_cpus", b"package_cpus")),
    *(Attribute(name + b"_list", lambda k: cpumask_list(_core_map(k)) + b"\n")
      for name in (b"core_siblings", b"die_cpus", b"package_cpus")),
)


@notrace
def cpu_device(kernel: Kernel, cpu: int) -> Device:
    """get_cpu_device()"""
    device: Device = kernel.sysfs.buses[b"cpu"].devices[b"cpu%d" % cpu]
    return device


@notrace
def add_topology(device: Device) -> None:
    sysfs_create_group(device.kobj, _ATTRS, b"topology")


def topology_add_dev(kernel: Kernel, cpu: int) -> None:
    """A CPU comes. Context: task."""
    device = cpu_device(kernel, cpu)
    if device.kobj.sd.populate is None:            # else whoever looks first finds it
        add_topology(device)


def topology_remove_dev(kernel: Kernel, cpu: int) -> None:
    """A CPU is gone."""
    remove_directory(cpu_device(kernel, cpu), b"topology")


@notrace
def remove_directory(device: Device, name: bytes) -> None:
    """sysfs_remove_group() of a group with a name."""
    kn = None if device.kobj.sd.populate is not None else kernfs_find_and_get(device.kobj.sd, name)
    if kn is not None:
        kernfs_remove(kn)
