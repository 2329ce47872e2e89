"""Counters by node and by zone: what one global counter of MemState means for a part of memory.

Linux: mm/vmstat.c (5.3). Same: names, order and units of node_page_state(), zone_page_state() and
    sum_zone_numa_state().
Differs: a machine with one node counts for the whole only, so that page faults do not count three times; a node's share
    is counted when somebody asks, by looking at its pages. With one node each allocation is a hit, so numa_hit follows
    from how many there were. Events (dirtied, written, isolated) and kernel stacks, which are no frames, are node 0's.
Owns: nothing; Zone.vm_numa_stat is mm/page_alloc.py's. Imported by who shows counters.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import (
    NR_ANON_MAPPED,
    NR_FILE_DIRTY,
    NR_FILE_MAPPED,
    NR_FILE_PAGES,
    NR_MLOCK,
    NR_PAGETABLE,
    NR_SHMEM,
    NR_SLAB_RECLAIMABLE,
    NR_SLAB_UNRECLAIMABLE,
    NR_WRITEBACK,
    NUMA_HIT,
    NUMA_LOCAL,
    PGALLOC,
    PG_anon,
    PG_mlocked,
    PG_swapbacked,
    PG_swapcache,
    PG_writeback,
)
from glasskernel.mm.slab_types import SLAB_RECLAIM_ACCOUNT

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.page_alloc import MemState, PglistData, Zone

_BY_PAGE = (NR_ANON_MAPPED, NR_FILE_MAPPED, NR_FILE_PAGES, NR_FILE_DIRTY, NR_WRITEBACK, NR_SHMEM, NR_PAGETABLE,
            NR_MLOCK, NR_SLAB_RECLAIMABLE, NR_SLAB_UNRECLAIMABLE)


def node_page_state(mem: MemState, pgdat: PglistData) -> list[int]:
    """The node's share of each MemState.vm_stat."""
    if not mem.numa:
        return mem.vm_stat
    stat = [0] * len(mem.vm_stat) if pgdat.node_id else mem.vm_stat[:]
    for item in _BY_PAGE:
        stat[item] = 0
    inside = range(pgdat.node_start_pfn, pgdat.node_end_pfn)
    flags, mapcount, index = mem.flags, mem.mapcount, mem.index
    for pfn, mapping in mem.mapping.items():
        if pfn in inside:
            state = flags[pfn]
            stat[NR_FILE_PAGES] += 1
            stat[NR_WRITEBACK] += state & PG_writeback != 0
            if not state & PG_swapcache:
                stat[NR_SHMEM] += state & PG_swapbacked != 0
                stat[NR_FILE_DIRTY] += index[pfn] in mapping.dirty
                stat[NR_FILE_MAPPED] += mapcount[pfn] != 0
    for pages in mem.lru:
        for pfn in pages:
            if pfn in inside:
                stat[NR_ANON_MAPPED] += flags[pfn] & PG_anon and mapcount[pfn] != 0
                stat[NR_MLOCK] += flags[pfn] & PG_mlocked != 0
    for mm in mem.kernel.mm_list:
        tables = [mm.pgd >> 12, *mm.tables[0], *mm.tables[1], *mm.tables[2]]
        stat[NR_PAGETABLE] += sum(map(inside.__contains__, tables))
    for pfn, slab in mem.kernel.slab.pages.items():
        if pfn in inside:
            cache = slab.slab_cache
            stat[NR_SLAB_RECLAIMABLE if cache.flags & SLAB_RECLAIM_ACCOUNT else NR_SLAB_UNRECLAIMABLE] += 1
    return stat


@notrace
def node_free_pages(pgdat: PglistData) -> int:
    """sum_zone_node_page_state(NR_FREE_PAGES), the per-CPU lists included as in nr_free_pages()."""
    return sum(zone.nr_free + sum(map(len, zone.pcp)) for zone in pgdat.node_zones)


def zone_numa_state(mem: MemState, zone: Zone) -> list[int]:
    """A zone's NUMA_*."""
    if mem.numa:
        return zone.vm_numa_stat
    stat = zone.vm_numa_stat[:]
    if zone is mem.zones[-1] and mem.numa_stat_since is not None:          # nearly always
        stat[NUMA_HIT] = stat[NUMA_LOCAL] = nr_allocations(mem) - mem.numa_stat_since
    return stat


@notrace
def nr_allocations(mem: MemState) -> int:
    """How many there were: of single frames, and of blocks."""
    return mem.vm_event[PGALLOC] - mem.nr_blocks


def sysctl_vm_numa_stat_handler(kernel: Kernel, text: bytes) -> None:
    """vm.numa_stat: 0 forgets what was counted, and stops. Errors: EINVAL but for 0 and 1."""
    mem = kernel.mem
    value = text.strip()
    if value not in (b"0", b"1"):
        raise KernelError(EINVAL)
    if value == b"1" and mem.numa_stat_since is None:
        mem.numa_stat_since = nr_allocations(mem)
        kernel.printk("enable numa statistics")
    elif value == b"0" and mem.numa_stat_since is not None:
        mem.numa_stat_since = None
        for zone in mem.zones:
            zone.vm_numa_stat[:] = [0] * len(zone.vm_numa_stat)
        kernel.printk("disable numa statistics, and clear numa counters")


def sum_zone_numa_state(mem: MemState, zones: list[Zone]) -> list[int]:
    """Those of all zones of a node, or of the machine."""
    return [sum(column) for column in zip(*[zone_numa_state(mem, zone) for zone in zones], strict=True)]
