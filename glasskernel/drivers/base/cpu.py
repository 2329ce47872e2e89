"""CPUs in /sys: /sys/devices/system/cpu. What is in cpuN, cpu_device.py makes for the first who looks.

Linux: drivers/base/cpu.c, the smt/ and hotplug/ directories of kernel/cpu.c (5.3). Same: files and formats that
    lscpu(1) and glibc read.
Owns: nothing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.base.core import Bus, Device, device_add, subsys_system_register
from glasskernel.fs.proc.cpuinfo import CPU_FAMILY, CPU_MODEL
from glasskernel.fs.sysfs.kobject import (
    Attribute,
    Kobject,
    kobject_create_and_add,
    sysfs_create_file,
    sysfs_create_group,
)
from glasskernel.lib.errno import EINVAL, ENODEV, KernelError
from glasskernel.lib.types import notrace
from glasskernel.lib.vsprintf import cpumask_list

if TYPE_CHECKING:
    from glasskernel.fs.kernfs import KernfsNode
    from glasskernel.init.kernel import Kernel


@notrace
def _mask(kobj: Kobject) -> int:
    return (1 << len(kobj.kernel.machine.cpus)) - 1


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


@notrace
def populate_hotplug(kn: KernfsNode) -> None:
    """hotplug/states"""
    from glasskernel.drivers.base.cpu_device import show_cpuhp_states  # late: few look, and it imports the hotplug code

    sysfs_create_file(kn.priv, Attribute(b"states", show_cpuhp_states))


def show_smt_control(kobj: Kobject) -> bytes:
    """No core has a second thread."""
    return b"notsupported\n"


def store_smt_control(kobj: Kobject, text: bytes) -> None:
    """Errors: EINVAL for an unknown word, ENODEV."""
    if text.removesuffix(b"\n") not in (b"on", b"off", b"forceoff"):
        raise KernelError(EINVAL)
    raise KernelError(ENODEV)


_SMT_ATTRS = (Attribute(b"control", show_smt_control, store_smt_control, 0o644), Attribute(b"active", lambda k: b"0\n"))


# ---- cpuN ----------------------------------------------------------------------------------------
def cpu_uevent(device: Device) -> list[bytes]:
    return [b"MODALIAS=cpu:type:x86,ven0000fam%04Xmod%04X:feature:" % (CPU_FAMILY, CPU_MODEL)]


@notrace
def populate_cpu(kn: KernfsNode) -> None:
    from glasskernel.drivers.base.cpu_device import populate_cpu  # late: start-up time

    populate_cpu(kn)


def register_cpu(kernel: Kernel, bus: Bus, number: int) -> Device:
    """/sys/devices/system/cpu/cpuN and its link in /sys/bus/cpu/devices."""
    device = Device(Kobject(kernel, b"cpu%d" % number, bus.dev_root), b"cpu%d" % number, bus=bus, data=number)
    device.uevent = cpu_uevent
    device_add(device)
    device.kobj.sd.populate = populate_cpu
    return device


def cpu_dev_init(kernel: Kernel) -> list[Device]:
    """All CPUs. Answers their devices."""
    bus = subsys_system_register(kernel, b"cpu", _ROOT_ATTRS)
    assert bus.dev_root is not None
    kobject_create_and_add(b"hotplug", bus.dev_root).sd.populate = populate_hotplug
    sysfs_create_group(bus.dev_root, _SMT_ATTRS, b"smt")
    return [register_cpu(kernel, bus, number) for number in range(len(kernel.machine.cpus))]
