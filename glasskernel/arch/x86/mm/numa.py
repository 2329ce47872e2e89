"""Nodes of memory: what the firmware tells about them, or what `numa=fake=N` makes up.

Linux: arch/x86/mm/numa.c, numa_emulation.c; build_all_zonelists() and what it needs, of mm/page_alloc.c (5.3). Same:
    numa=off, numa=fake=N and fake=SIZE; a node's zonelist has its own zones first, then those of the others by
    distance, where nodes with CPUs count a little further away, and those that are next for many are not always first;
    CPUs that no firmware assigns are spread over the nodes in turns, and belong to every emulated one.
Differs: the machine's topology is Machine.nodes, equal parts with equally many CPUs, 10 from themselves and 20 from
    each other, instead of the tables SRAT and SLIT.
Owns: MemState.node_data, node_distance, node_to_cpumask, nodes_online, Vcpu.node. Imported by machines with more than
    one node, or with numa= on the command line.
Gaps: nodes without memory, hot-plugged nodes, numa=noacpi, fake=NU, distances on the command line; numa=fake= takes a
    machine with several nodes for one.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import PAGES_PER_SECTION, PglistData, free_area_init_node

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.page_alloc import MemState

LOCAL_DISTANCE, REMOTE_DISTANCE = 10, 20
FAKE_NODE_MIN_SIZE = 32 << 20
MAX_NODES = 64                     # of this machine; 1 << CONFIG_NODES_SHIFT for masks of system calls
PENALTY_FOR_NODE_WITH_CPUS = 1
MAX_NODE_LOAD = 1024


def initmem_init(kernel: Kernel) -> None:
    """Makes the nodes and gives their frames to the buddy allocator. Context: boot, from mem_init()."""
    mem = kernel.mem
    machine = mem.machine
    off, fake = numa_setup(kernel.params.cmdline)
    nodes = 1 if off else machine.nodes
    if off:
        kernel.printk("NUMA turned off")
    parts = numa_emulation(kernel, fake) if fake else []
    if parts:
        mem.node_distance = [[LOCAL_DISTANCE] * len(parts) for _ in parts]       # one node in truth
        mem.node_to_cpumask *= len(parts)
        for cpu in machine.cpus:
            cpu.node = cpu.id % len(parts)
    else:
        parts = equal_parts(nodes, mem.max_pfn)
        mem.node_distance = [[LOCAL_DISTANCE if i == j else REMOTE_DISTANCE for j in range(nodes)]
                             for i in range(nodes)]
        mem.node_to_cpumask = [0] * nodes
        for cpu in machine.cpus:
            cpu.node = cpu.id * nodes // len(machine.cpus)
            mem.node_to_cpumask[cpu.node] |= 1 << cpu.id
    mem.node_data = [PglistData(nid) for nid in range(len(parts))]
    mem.pgdat = mem.node_data[0]
    mem.nodes_online = (1 << len(parts)) - 1
    mem.numa = len(parts) > 1
    for pgdat, (start_pfn, end_pfn) in zip(mem.node_data, parts, strict=True):
        kernel.printk(f"Initmem setup node {pgdat.node_id} [mem {start_pfn << 12:#018x}-{(end_pfn << 12) - 1:#018x}]")
        free_area_init_node(mem, pgdat, start_pfn, end_pfn)
    build_all_zonelists(mem)
    mem.zonelist = mem.pgdat.node_zonelist


@notrace
def equal_parts(nodes: int, max_pfn: int) -> list[tuple[int, int]]:
    """(first, behind the last frame) of equal parts that end where sections do; the last one has the rest."""
    size = max_pfn // nodes // PAGES_PER_SECTION * PAGES_PER_SECTION
    return [(nid * size, (nid + 1) * size if nid < nodes - 1 else max_pfn) for nid in range(nodes)]


# ---- the command line -------------------------------------------------------------------------------------------
def numa_setup(cmdline: str) -> tuple[bool, str]:
    """(numa=off was given, what came with numa=fake=)."""
    options = [word[5:] for word in cmdline.split() if word.startswith("numa=")]
    fake = [option[5:] for option in options if option.startswith("fake=")]
    return "off" in options, fake[-1] if fake else ""


def numa_emulation(kernel: Kernel, text: str) -> list[tuple[int, int]]:
    """Nodes as numa=fake= wants them, as (first, behind the last frame); [] if it makes no sense (numa_emulation.c)."""
    max_pfn = kernel.mem.max_pfn
    unit = {"M": 1 << 20, "G": 1 << 30}.get(text[-1:].upper(), 0)
    number = text[:-1] if unit else text
    if not number.isdecimal() or not int(number):
        return []
    if unit:
        parts = split_nodes_size(int(number) * unit, max_pfn)
    else:
        nodes = int(number)
        if nodes > MAX_NODES:
            kernel.printk(f"numa=fake={nodes} too large, reducing to {MAX_NODES}")
            nodes = MAX_NODES
        if (max_pfn << 12) // nodes < FAKE_NODE_MIN_SIZE:
            kernel.printk("Not enough memory for each node.  NUMA emulation disabled.", 3)
            return []
        parts = equal_parts(nodes, max_pfn)
    for nid, (start_pfn, end_pfn) in enumerate(parts):
        kernel.printk(f"Faking node {nid} at [mem {start_pfn << 12:#018x}-{(end_pfn << 12) - 1:#018x}] "
                      f"({end_pfn - start_pfn >> 8}MB)")
    return parts


@notrace
def split_nodes_size(size: int, max_pfn: int) -> list[tuple[int, int]]:
    """Nodes of that many bytes (at least FAKE_NODE_MIN_SIZE, and no more than MAX_NODES); a small rest is the
    last one's."""
    size = max(size, FAKE_NODE_MIN_SIZE, (max_pfn << 12) // MAX_NODES)
    step = -(-(size >> 12) // PAGES_PER_SECTION) * PAGES_PER_SECTION
    starts = list(range(0, max_pfn, step))
    if len(starts) > 1 and max_pfn - starts[-1] < FAKE_NODE_MIN_SIZE >> 12:
        starts.pop()
    return list(zip(starts, [*starts[1:], max_pfn], strict=True))


# ---- in which order zones are looked at (mm/page_alloc.c) -------------------------------------------------------
def build_all_zonelists(mem: MemState) -> None:
    """For every node."""
    node_load = [0] * len(mem.node_data)
    for pgdat in mem.node_data:
        build_zonelists(mem, pgdat, node_load)


def build_zonelists(mem: MemState, pgdat: PglistData, node_load: list[int]) -> None:
    """A node's: by nodes, and within each from the highest zone down."""
    load = len(mem.node_data)
    prev_node = pgdat.node_id
    used: list[int] = []
    while (node := find_next_best_node(mem, pgdat.node_id, used, node_load)) >= 0:
        used.append(node)
        # One of several that are equally far: the next list shall begin with another of them.
        distance = mem.node_distance[pgdat.node_id]
        if distance[node] != distance[prev_node]:
            node_load[node] = load
        prev_node = node
        load -= 1
    pgdat.node_zonelist = [zone for node in used for zone in reversed(mem.node_data[node].node_zones)]


def find_next_best_node(mem: MemState, node: int, used: list[int], node_load: list[int]) -> int:
    """The nearest node that is not in the list yet: this one itself, then by penalties. -1: all are."""
    if node not in used:
        return node
    best_node, min_val = -1, 1 << 62
    for n in range(len(mem.node_data)):
        if n in used:
            continue
        val = mem.node_distance[node][n]
        val += n < node                                    # the ones behind first
        if mem.node_to_cpumask[n]:
            val += PENALTY_FOR_NODE_WITH_CPUS
        val = val * MAX_NODE_LOAD * MAX_NODES + node_load[n]
        if val < min_val:
            best_node, min_val = n, val
    return best_node
