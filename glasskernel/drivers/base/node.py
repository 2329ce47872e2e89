"""Memory nodes in /sys: /sys/devices/system/node. There is one.

Linux: drivers/base/node.c (5.3). Same: files and formats that numactl(8) and lscpu(1) read.
Owns: nothing. Gaps: more than one node.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.base.core import Device, device_add, subsys_system_register
from glasskernel.fs.sysfs.kobject import Attribute, Kobject, sysfs_create_file, sysfs_create_link
from glasskernel.lib.vsprintf import cpumask_hex, cpumask_list
from glasskernel.mm.page_alloc import (
    NR_ANON_MAPPED,
    NR_FILE_DIRTY,
    NR_FILE_MAPPED,
    NR_FILE_PAGES,
    NR_PAGETABLE,
    NR_SHMEM,
    NR_WRITEBACK,
    nr_free_pages,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


def node_read_meminfo(kobj: Kobject) -> bytes:
    mem = kobj.kernel.mem
    stat = mem.vm_stat
    free = nr_free_pages(mem)
    rows = (
        (b"MemTotal: ", mem.totalram_pages), (b"MemFree:  ", free), (b"MemUsed:  ", mem.totalram_pages - free),
        (b"Dirty:    ", stat[NR_FILE_DIRTY]), (b"Writeback: ", stat[NR_WRITEBACK]),
        (b"FilePages: ", stat[NR_FILE_PAGES]), (b"Mapped:   ", stat[NR_FILE_MAPPED]),
        (b"AnonPages: ", stat[NR_ANON_MAPPED]), (b"Shmem:    ", stat[NR_SHMEM]),
        (b"PageTables: ", stat[NR_PAGETABLE]),
    )
    return b"".join(b"Node 0 %-14b %8d kB\n" % (name.strip(), pages << 2) for name, pages in rows)


def node_read_cpumap(kobj: Kobject) -> bytes:
    cpus = len(kobj.kernel.machine.cpus)
    return cpumask_hex((1 << cpus) - 1, cpus) + b"\n"


def node_read_cpulist(kobj: Kobject) -> bytes:
    return cpumask_list((1 << len(kobj.kernel.machine.cpus)) - 1) + b"\n"


def node_read_distance(kobj: Kobject) -> bytes:
    return b"10\n"


def print_nodes_state(kobj: Kobject) -> bytes:
    return b"0\n"


_STATES = (b"possible", b"online", b"has_normal_memory", b"has_memory", b"has_cpu")
_ATTRS = (
    Attribute(b"cpumap", node_read_cpumap), Attribute(b"cpulist", node_read_cpulist),
    Attribute(b"meminfo", node_read_meminfo), Attribute(b"distance", node_read_distance),
)


def node_dev_init(kernel: Kernel, cpus: list[Device]) -> None:
    """node0, with links to and from its CPUs."""
    bus = subsys_system_register(kernel, b"node", [Attribute(state, print_nodes_state) for state in _STATES])
    node = Device(Kobject(kernel, b"node0", bus.dev_root), b"node0", bus=bus)
    device_add(node)
    for attr in _ATTRS:
        sysfs_create_file(node.kobj, attr)
    for cpu in cpus:
        sysfs_create_link(node.kobj, cpu.kobj, cpu.name)
        sysfs_create_link(cpu.kobj, node.kobj, b"node0")
