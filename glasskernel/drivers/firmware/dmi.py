"""/sys/firmware/dmi/tables: the firmware's description of the machine, which dmidecode(8) reads.

Linux: drivers/firmware/dmi_scan.c (5.3). Same: two binary files for root.
Owns: nothing.  Gaps: /sys/class/dmi/id.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.proc.cpuinfo import CPU_FAMILY, CPU_KHZ, CPU_MODEL, CPU_MODEL_NAME, CPU_STEPPING
from glasskernel.fs.sysfs.kobject import Attribute, kobject_create_and_add, sysfs_create_bin_file
from glasskernel.lib.types import notrace
from glasskernel.machine.smbios import smbios_tables

if TYPE_CHECKING:
    from glasskernel.fs.sysfs.kobject import Kobject
    from glasskernel.init.kernel import Kernel

_CPUID_1_EDX = 0x078BFBFD          # fpu ... sse2: what /proc/cpuinfo's first flags say


@notrace
def _tables(kernel: Kernel) -> tuple[bytes, bytes]:
    machine = kernel.machine
    signature = CPU_MODEL >> 4 << 16 | CPU_FAMILY << 8 | (CPU_MODEL & 15) << 4 | CPU_STEPPING
    return smbios_tables(machine.nr_cpus, len(machine.ram), CPU_KHZ // 1000, (signature, _CPUID_1_EDX),
                         CPU_MODEL_NAME.decode(), machine.seed)


def raw_entry_read(kobj: Kobject) -> bytes:
    return _tables(kobj.kernel)[0]


def raw_table_read(kobj: Kobject) -> bytes:
    return _tables(kobj.kernel)[1]


def dmi_init(kernel: Kernel) -> None:
    """Makes /sys/firmware/dmi/tables. After sysfs_init()."""
    entry, table = _tables(kernel)
    firmware = kobject_create_and_add(b"firmware", kernel.sysfs.top)
    tables = kobject_create_and_add(b"tables", kobject_create_and_add(b"dmi", firmware))
    sysfs_create_bin_file(tables, Attribute(b"smbios_entry_point", raw_entry_read, mode=0o400), len(entry))
    sysfs_create_bin_file(tables, Attribute(b"DMI", raw_table_read, mode=0o400), len(table))
