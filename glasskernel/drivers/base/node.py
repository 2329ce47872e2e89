"""Memory nodes in /sys: /sys/devices/system/node.

Linux: drivers/base/node.c (5.3). Same: files and formats that numactl(8), numastat(8) and lscpu(1) read.
Owns: nothing. Gaps: hot plugging, memory sections, compact, node0/hugepages (mm/hugetlb.py), HMAT's access classes.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.drivers.base.core import Device, device_add, subsys_system_register
from glasskernel.fs.sysfs.kobject import Attribute, Kobject, sysfs_create_file, sysfs_create_link
from glasskernel.lib.types import notrace
from glasskernel.lib.vsprintf import cpumask_hex, cpumask_list

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.page_alloc import PglistData


@notrace
def _pgdat(kobj: Kobject) -> PglistData:
    nid: int = kobj.data.data
    return kobj.kernel.mem.node_data[nid]


def node_read_meminfo(kobj: Kobject) -> bytes:
    """The node's part of /proc/meminfo, in kB."""
    from glasskernel.fs.proc.meminfo import lru_sizes  # late: start-up time
    from glasskernel.mm import page_alloc as pg
    from glasskernel.mm.vmstat import node_free_pages, node_page_state

    mem, pgdat = kobj.kernel.mem, _pgdat(kobj)
    stat = node_page_state(mem, pgdat)
    inactive_anon, active_anon, inactive_file, active_file, unevictable = lru_sizes(mem, pgdat.node_zones)
    total = sum([zone.managed_pages for zone in pgdat.node_zones])
    free = node_free_pages(pgdat)
    reclaimable, unreclaimable = stat[pg.NR_SLAB_RECLAIMABLE], stat[pg.NR_SLAB_UNRECLAIMABLE]
    rows = (
        (b"MemTotal:", total), (b"MemFree:", free), (b"MemUsed:", total - free),
        (b"Active:", active_anon + active_file), (b"Inactive:", inactive_anon + inactive_file),
        (b"Active(anon):", active_anon), (b"Inactive(anon):", inactive_anon), (b"Active(file):", active_file),
        (b"Inactive(file):", inactive_file), (b"Unevictable:", unevictable), (b"Mlocked:", stat[pg.NR_MLOCK]),
        (b"Dirty:", stat[pg.NR_FILE_DIRTY]), (b"Writeback:", stat[pg.NR_WRITEBACK]),
        (b"FilePages:", stat[pg.NR_FILE_PAGES]), (b"Mapped:", stat[pg.NR_FILE_MAPPED]),
        (b"AnonPages:", stat[pg.NR_ANON_MAPPED]), (b"Shmem:", stat[pg.NR_SHMEM]),
        (b"KernelStack:", stat[pg.NR_KERNEL_STACK_KB] >> 2), (b"PageTables:", stat[pg.NR_PAGETABLE]),
        (b"NFS_Unstable:", 0), (b"Bounce:", 0), (b"WritebackTmp:", 0), (b"KReclaimable:", reclaimable),
        (b"Slab:", reclaimable + unreclaimable), (b"SReclaimable:", reclaimable), (b"SUnreclaim:", unreclaimable),
    )
    return b"".join([b"Node %d %-15b %8d kB\n" % (pgdat.node_id, name, pages << 2) for name, pages in rows])


def node_read_numastat(kobj: Kobject) -> bytes:
    """Allocations: here as wanted, here instead of elsewhere, elsewhere instead of here ..."""
    from glasskernel.mm.vmstat import sum_zone_numa_state  # late: start-up time

    names = (b"numa_hit", b"numa_miss", b"numa_foreign", b"interleave_hit", b"local_node", b"other_node")
    counts = sum_zone_numa_state(kobj.kernel.mem, _pgdat(kobj).node_zones)
    return b"".join([b"%b %d\n" % line for line in zip(names, counts, strict=True)])


def node_read_vmstat(kobj: Kobject) -> bytes:
    """The node's part of /proc/vmstat, without events."""
    from glasskernel.fs.proc.meminfo import lru_sizes, node_stats, numa_stats, zone_stats  # late: start-up time
    from glasskernel.mm.vmstat import node_free_pages, node_page_state, sum_zone_numa_state

    mem, pgdat = kobj.kernel.mem, _pgdat(kobj)
    stat, sizes = node_page_state(mem, pgdat), lru_sizes(mem, pgdat.node_zones)
    lines = zone_stats(stat, node_free_pages(pgdat), sizes) + numa_stats(sum_zone_numa_state(mem, pgdat.node_zones))
    return b"".join([b"%b %d\n" % line for line in lines + node_stats(stat, sizes)])


@notrace
def _node_cpus(kobj: Kobject) -> int:
    """cpumask_of_node(), the CPUs that are online."""
    nid: int = kobj.data.data
    return kobj.kernel.mem.node_to_cpumask[nid] & kobj.kernel.sched.cpu_online_mask


def node_read_cpumap(kobj: Kobject) -> bytes:
    return cpumask_hex(_node_cpus(kobj), len(kobj.kernel.machine.cpus)) + b"\n"


def node_read_cpulist(kobj: Kobject) -> bytes:
    return cpumask_list(_node_cpus(kobj)) + b"\n"


def node_read_distance(kobj: Kobject) -> bytes:
    """To each node, 10 to itself."""
    return b" ".join([b"%d" % distance for distance in kobj.kernel.mem.node_distance[kobj.data.data]]) + b"\n"


def print_nodes_state(kobj: Kobject) -> bytes:
    """possible, online, has_memory: all nodes there are."""
    return cpumask_list(kobj.kernel.mem.nodes_online) + b"\n"


def print_has_cpu(kobj: Kobject) -> bytes:
    online = kobj.kernel.sched.cpu_online_mask
    nodes = 0
    for cpu in kobj.kernel.machine.cpus:
        if online >> cpu.id & 1:
            nodes |= 1 << cpu.node
    return cpumask_list(nodes) + b"\n"


_STATES = (b"possible", b"online", b"has_normal_memory", b"has_memory")
_ATTRS = (
    Attribute(b"cpumap", node_read_cpumap), Attribute(b"cpulist", node_read_cpulist),
    Attribute(b"meminfo", node_read_meminfo), Attribute(b"numastat", node_read_numastat),
    Attribute(b"distance", node_read_distance), Attribute(b"vmstat", node_read_vmstat),
)


def node_dev_init(kernel: Kernel, cpus: list[Device]) -> None:
    """Every node, with links to and from its CPUs."""
    attrs = [*[Attribute(state, print_nodes_state) for state in _STATES], Attribute(b"has_cpu", print_has_cpu)]
    bus = subsys_system_register(kernel, b"node", attrs)
    for nid in range(len(kernel.mem.node_data)):
        name = b"node%d" % nid
        node = Device(Kobject(kernel, name, bus.dev_root), name, bus=bus, data=nid)
        device_add(node)
        for attr in _ATTRS:
            sysfs_create_file(node.kobj, attr)
        for cpu in cpus:
            if kernel.machine.cpus[cpu.data].node == nid:
                sysfs_create_link(node.kobj, cpu.kobj, cpu.name)
                sysfs_create_link(cpu.kobj, node.kobj, name)
