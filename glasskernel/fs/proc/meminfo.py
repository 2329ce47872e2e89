"""/proc/meminfo, vmstat, zoneinfo, buddyinfo and swaps.

Linux: fs/proc/meminfo.c, si_mem_available() of mm/page_alloc.c, mm/vmstat.c, mm/swapfile.c (5.3). Same:
    lines, their order and widths. Counters of what this kernel has not (working sets) are there
    and 0.
Owns: nothing.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.proc.generic import proc_create_seq_data, proc_create_single_data
from glasskernel.fs.seq_file import SeqFile, SeqOperations, seq_file_path, seq_printf, seq_puts
from glasskernel.fs.types import S_IFBLK, S_IFMT
from glasskernel.kernel.current import current
from glasskernel.lib.types import notrace
from glasskernel.mm.dirty_limits import global_dirty_limits
from glasskernel.mm.huge_types import HPAGE_PMD_ORDER, THP_EVENTS, hugetlb_report_meminfo
from glasskernel.mm.kswapd import MAX_RECLAIM_RETRIES, zone_lru_size
from glasskernel.mm.page_alloc import (
    ALLOCSTALL_DMA,
    DROP_PAGECACHE,
    DROP_SLAB,
    KSWAPD_HIGH_WMARK_HIT_QUICKLY,
    KSWAPD_INODESTEAL,
    KSWAPD_LOW_WMARK_HIT_QUICKLY,
    NR_ANON_MAPPED,
    NR_DIRTIED,
    NR_FILE_DIRTY,
    NR_FILE_MAPPED,
    NR_FILE_PAGES,
    NR_ISOLATED_ANON,
    NR_ISOLATED_FILE,
    NR_KERNEL_STACK_KB,
    NR_MLOCK,
    NR_PAGETABLE,
    NR_SHMEM,
    NR_SLAB_RECLAIMABLE,
    NR_SLAB_UNRECLAIMABLE,
    NR_VMSCAN_IMMEDIATE,
    NR_VMSCAN_WRITE,
    NR_WRITEBACK,
    NR_WRITTEN,
    OOM_KILL,
    PAGEOUTRUN,
    PGACTIVATE,
    PGALLOC,
    PGDEACTIVATE,
    PGFAULT,
    PGFREE,
    PGINODESTEAL,
    PGMAJFAULT,
    PGMIGRATE_FAIL,
    PGMIGRATE_SUCCESS,
    PGPGIN,
    PGPGOUT,
    PGREFILL,
    PGROTATED,
    PGSCAN_DIRECT,
    PGSCAN_DIRECT_THROTTLE,
    PGSCAN_KSWAPD,
    PGSTEAL_DIRECT,
    PGSTEAL_KSWAPD,
    PSWPIN,
    PSWPOUT,
    SLABS_SCANNED,
    UNEVICTABLE_PGCLEARED,
    UNEVICTABLE_PGCULLED,
    UNEVICTABLE_PGMLOCKED,
    UNEVICTABLE_PGMUNLOCKED,
    UNEVICTABLE_PGRESCUED,
    UNEVICTABLE_PGSTRANDED,
    nr_free_pages,
)
from glasskernel.mm.util import si_swapinfo, vm_commit_limit
from glasskernel.mm.vmstat import node_page_state, sum_zone_numa_state, zone_numa_state

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.page_alloc import MemState, PglistData, Zone

MAX_ORDER = 11
_ZONE_NAMES = ("DMA", "DMA32", "Normal", "Movable", "Device")
_LRU_NAMES = (b"inactive_anon", b"active_anon", b"inactive_file", b"active_file", b"unevictable")
# -1: what happens nowhere here
_VM_EVENTS = (
    (b"pgactivate", PGACTIVATE), (b"pgdeactivate", PGDEACTIVATE), (b"pglazyfree", -1), (b"pgfault", PGFAULT),
    (b"pgmajfault", PGMAJFAULT), (b"pglazyfreed", -1), (b"pgrefill", PGREFILL),
    (b"pgsteal_kswapd", PGSTEAL_KSWAPD), (b"pgsteal_direct", PGSTEAL_DIRECT), (b"pgscan_kswapd", PGSCAN_KSWAPD),
    (b"pgscan_direct", PGSCAN_DIRECT), (b"pgscan_direct_throttle", PGSCAN_DIRECT_THROTTLE),
    (b"pginodesteal", PGINODESTEAL), (b"slabs_scanned", SLABS_SCANNED), (b"kswapd_inodesteal", KSWAPD_INODESTEAL),
    (b"kswapd_low_wmark_hit_quickly", KSWAPD_LOW_WMARK_HIT_QUICKLY),
    (b"kswapd_high_wmark_hit_quickly", KSWAPD_HIGH_WMARK_HIT_QUICKLY), (b"pageoutrun", PAGEOUTRUN),
    (b"pgrotated", PGROTATED), (b"drop_pagecache", DROP_PAGECACHE), (b"drop_slab", DROP_SLAB), (b"oom_kill", OOM_KILL),
    (b"pgmigrate_success", PGMIGRATE_SUCCESS), (b"pgmigrate_fail", PGMIGRATE_FAIL),
    (b"unevictable_pgs_culled", UNEVICTABLE_PGCULLED), (b"unevictable_pgs_scanned", -1),
    (b"unevictable_pgs_rescued", UNEVICTABLE_PGRESCUED), (b"unevictable_pgs_mlocked", UNEVICTABLE_PGMLOCKED),
    (b"unevictable_pgs_munlocked", UNEVICTABLE_PGMUNLOCKED), (b"unevictable_pgs_cleared", UNEVICTABLE_PGCLEARED),
    (b"unevictable_pgs_stranded", UNEVICTABLE_PGSTRANDED),
)


def si_mem_available(mem: MemState) -> int:
    """Pages that programs could have without swapping: free ones above the reserves, and most of the page cache."""
    reserve = mem.totalreserve_pages
    wmark_low = sum(z.watermark[1] for z in mem.zones)
    cache = mem.vm_stat[NR_FILE_PAGES] - mem.vm_stat[NR_SHMEM]
    slab = mem.vm_stat[NR_SLAB_RECLAIMABLE]
    return max(nr_free_pages(mem) - reserve + cache - min(cache // 2, wmark_low) + slab - min(slab // 2, wmark_low), 0)


@notrace
def anon_huge_pages(kernel: Kernel) -> int:
    """NR_ANON_THPS"""
    return len(kernel.thp.compound_mapcount) if kernel.thp is not None else 0


def nr_blockdev_pages(kernel: Kernel) -> int:
    """Pages in the caches of block devices. (fs/block_dev.c)"""
    sb = kernel.vfs.blockdev_superblock
    return sum(len(inode.i_data.pages) for inode in sb.s_inode_list) if sb is not None else 0


def meminfo_proc_show(m: SeqFile, v: Any) -> int | None:
    """All in kB."""
    kernel = current().kernel
    mem = kernel.mem
    stat = mem.vm_stat
    file_pages = stat[NR_FILE_PAGES]
    shmem = stat[NR_SHMEM]
    anon = stat[NR_ANON_MAPPED]
    buffers = nr_blockdev_pages(kernel)
    swap_cached = len(kernel.swap.private) if kernel.swap is not None else 0
    swap_free, swap_total = si_swapinfo(kernel)
    inactive_anon, active_anon, inactive_file, active_file, unevictable = [len(pages) for pages in mem.lru]
    reclaimable, unreclaimable = stat[NR_SLAB_RECLAIMABLE], stat[NR_SLAB_UNRECLAIMABLE]
    values = (
        (b"MemTotal:       ", mem.totalram_pages), (b"MemFree:        ", nr_free_pages(mem)),
        (b"MemAvailable:   ", si_mem_available(mem)), (b"Buffers:        ", buffers),
        (b"Cached:         ", file_pages - buffers - swap_cached),
        (b"SwapCached:     ", swap_cached), (b"Active:         ", active_anon + active_file),
        (b"Inactive:       ", inactive_anon + inactive_file),
        (b"Active(anon):   ", active_anon), (b"Inactive(anon): ", inactive_anon), (b"Active(file):   ", active_file),
        (b"Inactive(file): ", inactive_file), (b"Unevictable:    ", unevictable),
        (b"Mlocked:        ", stat[NR_MLOCK]), (b"SwapTotal:      ", swap_total),
        (b"SwapFree:       ", swap_free),
        (b"Dirty:          ", stat[NR_FILE_DIRTY]), (b"Writeback:      ", stat[NR_WRITEBACK]),
        (b"AnonPages:      ", anon), (b"Mapped:         ", stat[NR_FILE_MAPPED]), (b"Shmem:          ", shmem),
        (b"KReclaimable:   ", reclaimable), (b"Slab:           ", reclaimable + unreclaimable),
        (b"SReclaimable:   ", reclaimable), (b"SUnreclaim:     ", unreclaimable),
        (b"KernelStack:    ", stat[NR_KERNEL_STACK_KB] >> 2), (b"PageTables:     ", stat[NR_PAGETABLE]),
        (b"NFS_Unstable:   ", 0),
        (b"Bounce:         ", 0), (b"WritebackTmp:   ", 0), (b"CommitLimit:    ", vm_commit_limit(kernel)),
        (b"Committed_AS:   ", mem.vm_committed), (b"VmallocTotal:   ", 34359738367 >> 2),
        (b"VmallocUsed:    ", kernel.vmalloc.nr_vmalloc_pages), (b"VmallocChunk:   ", 0), (b"Percpu:         ", 0),
        (b"HardwareCorrupted: ", 0), (b"AnonHugePages:  ", anon_huge_pages(kernel) << HPAGE_PMD_ORDER),
        (b"ShmemHugePages: ", 0), (b"ShmemPmdMapped: ", 0),
    )
    text = [b"%b%8d kB\n" % (name, pages << 2) for name, pages in values]
    text[32] = b"VmallocTotal:   34359738367 kB\n"
    text[36] = b"HardwareCorrupted: %5d kB\n" % 0
    seq_puts(m, b"".join(text))
    seq_puts(m, hugetlb_report_meminfo(kernel.hugetlb))
    seq_puts(m, b"DirectMap4k:    %8d kB\nDirectMap2M:    %8d kB\nDirectMap1G:    %8d kB\n" % (0, 0, 0))
    return None


# ---- vmstat --------------------------------------------------------------------------------------
@notrace
def node_stats(stat: list[int], lru_sizes: list[int]) -> list[tuple[bytes, int]]:
    """enum node_stat_item, of a node or of all."""
    shmem = stat[NR_SHMEM]
    return [
        *[(b"nr_" + name, size) for name, size in zip(_LRU_NAMES, lru_sizes, strict=True)],
        (b"nr_slab_reclaimable", stat[NR_SLAB_RECLAIMABLE]),
        (b"nr_slab_unreclaimable", stat[NR_SLAB_UNRECLAIMABLE]),
        (b"nr_isolated_anon", stat[NR_ISOLATED_ANON]), (b"nr_isolated_file", stat[NR_ISOLATED_FILE]),
        (b"workingset_nodes", 0), (b"workingset_refault", 0),
        (b"workingset_activate", 0), (b"workingset_restore", 0), (b"workingset_nodereclaim", 0),
        (b"nr_anon_pages", stat[NR_ANON_MAPPED]), (b"nr_mapped", stat[NR_FILE_MAPPED]),
        (b"nr_file_pages", stat[NR_FILE_PAGES]), (b"nr_dirty", stat[NR_FILE_DIRTY]),
        (b"nr_writeback", stat[NR_WRITEBACK]), (b"nr_writeback_temp", 0), (b"nr_shmem", shmem),
        (b"nr_shmem_hugepages", 0), (b"nr_shmem_pmdmapped", 0),
        (b"nr_anon_transparent_hugepages", anon_huge_pages(current().kernel)),
        (b"nr_unstable", 0), (b"nr_vmscan_write", stat[NR_VMSCAN_WRITE]),
        (b"nr_vmscan_immediate_reclaim", stat[NR_VMSCAN_IMMEDIATE]),
        (b"nr_dirtied", stat[NR_DIRTIED]), (b"nr_written", stat[NR_WRITTEN]), (b"nr_kernel_misc_reclaimable", 0),
    ]


@notrace
def zone_stats(stat: list[int], free: int, lru_sizes: list[int]) -> list[tuple[bytes, int]]:
    """enum zone_stat_item, of some zones."""
    return [(b"nr_free_pages", free)] + [
        (b"nr_zone_" + name, size) for name, size in zip(_LRU_NAMES, lru_sizes, strict=True)] + [
        (b"nr_zone_write_pending", stat[NR_FILE_DIRTY] + stat[NR_WRITEBACK]), (b"nr_mlock", stat[NR_MLOCK]),
        (b"nr_page_table_pages", stat[NR_PAGETABLE]), (b"nr_kernel_stack", stat[NR_KERNEL_STACK_KB]),
        (b"nr_bounce", 0), (b"nr_free_cma", 0)]


@notrace
def numa_stats(counts: list[int]) -> list[tuple[bytes, int]]:
    """enum numa_stat_item"""
    names = (b"numa_hit", b"numa_miss", b"numa_foreign", b"numa_interleave", b"numa_local", b"numa_other")
    return list(zip(names, counts, strict=True))


@notrace
def lru_sizes(mem: MemState, zones: list[Zone]) -> list[int]:
    """How many pages of some zones are on each list."""
    return [sum([zone_lru_size(mem, zone, lru) for zone in zones]) for lru in range(len(mem.lru))]


@notrace
def vmstat_show_all(kernel: Kernel) -> list[tuple[bytes, int]]:
    """Every line of /proc/vmstat: zone and node counters, thresholds, events since boot."""
    mem = kernel.mem
    events = mem.vm_event
    zones = (b"dma", b"dma32", b"normal", b"movable")
    top = mem.zones[-1].idx
    sizes = [len(pages) for pages in mem.lru]
    lines = zone_stats(mem.vm_stat, nr_free_pages(mem), sizes) + numa_stats(sum_zone_numa_state(mem, mem.zones))
    lines += node_stats(mem.vm_stat, sizes)
    background, dirty = global_dirty_limits(kernel)
    lines += [(b"nr_dirty_threshold", dirty), (b"nr_dirty_background_threshold", background),
              (b"pgpgin", events[PGPGIN] // 2), (b"pgpgout", events[PGPGOUT] // 2), (b"pswpin", events[PSWPIN]),
              (b"pswpout", events[PSWPOUT])]
    lines += [(b"pgalloc_" + z, events[PGALLOC] if i == top else 0) for i, z in enumerate(zones)]
    lines += [(b"allocstall_" + z, events[ALLOCSTALL_DMA + i] if i < 3 else 0) for i, z in enumerate(zones)]
    lines += [(b"pgskip_" + z, 0) for z in zones]
    lines += [(b"pgfree", events[PGFREE])]
    alloc, fail = kernel.hugetlb.buddy_alloc if kernel.hugetlb is not None else (0, 0)
    for name, item in _VM_EVENTS:
        if name == b"unevictable_pgs_culled":
            lines += [(b"htlb_buddy_alloc_success", alloc), (b"htlb_buddy_alloc_fail", fail)]
        lines.append((name, events[item] if item >= 0 else 0))
    thp_events = kernel.thp.events if kernel.thp is not None else dict.fromkeys(THP_EVENTS, 0)
    return lines + list(thp_events.items())


def vmstat_start(m: SeqFile) -> Any:
    if m.index == 0:
        m.private = vmstat_show_all(current().kernel)
    lines = m.private or []
    return lines[m.index] if m.index < len(lines) else None


def vmstat_next(m: SeqFile, v: Any) -> Any:
    m.index += 1
    return m.private[m.index] if m.index < len(m.private) else None


def vmstat_show(m: SeqFile, v: Any) -> int | None:
    seq_puts(m, b"%b %d\n" % v)
    return None


vmstat_op = SeqOperations(vmstat_start, vmstat_next, vmstat_show)


# ---- zones ---------------------------------------------------------------------------------------
def frag_start(m: SeqFile) -> Any:
    """Node by node."""
    nodes = current().kernel.mem.node_data
    return nodes[m.index] if m.index < len(nodes) else None


def frag_next(m: SeqFile, v: Any) -> Any:
    m.index += 1
    return frag_start(m)


def frag_show(m: SeqFile, v: Any) -> int | None:
    """Free blocks of each order by zone."""
    for zone in v.node_zones:
        seq_puts(m, b"Node %d, zone %8b %b\n" % (
            v.node_id, zone.name.encode(), b"".join(b"%6d " % len(area) for area in zone.free_area)))
    return None


fragmentation_op = SeqOperations(frag_start, frag_next, frag_show)


@notrace
def zoneinfo_show_print(m: SeqFile, pgdat: PglistData, name: str, zone: Zone | None, first: bool) -> None:
    """One zone; empty ones too."""
    mem = current().kernel.mem
    stat = node_page_state(mem, pgdat)
    out = [b"Node %d, zone %8b" % (pgdat.node_id, name.encode())]
    if first:
        out.append(b"\n  per-node stats")
        out += [b"\n      %-12b %d" % line for line in node_stats(stat, lru_sizes(mem, pgdat.node_zones))]
    spanned = zone.end_pfn - zone.start_pfn if zone else 0
    low, mid, high = zone.watermark if zone else (0, 0, 0)
    free = zone.nr_free + sum(len(p) for p in zone.pcp) if zone else 0
    managed = zone.managed_pages if zone else 0
    protection = list(zone.lowmem_reserve) if zone else [0]
    protection += protection[-1:] * (5 - len(protection))      # Normal, Movable and Device are empty
    out.append(b"\n  pages free     %d\n        min      %d\n        low      %d\n        high     %d"
               b"\n        spanned  %d\n        present  %d\n        managed  %d\n        protection: (%b)" % (
                   free, low, mid, high, spanned, spanned, managed, b", ".join([b"%d" % kept for kept in protection])))
    if zone is not None:
        if zone is not pgdat.node_zones[-1]:               # not counted by zone: the top one has all of the node
            stat = [0] * len(stat)
        out += [b"\n      %-12b %d" % line for line in (
            zone_stats(stat, free, lru_sizes(mem, [zone])) + numa_stats(zone_numa_state(mem, zone)))]
        out.append(b"\n  pagesets")
        out += [b"\n    cpu: %d\n              count: %d\n              high:  %d\n              batch: %d"
                b"\n  vm stats threshold: 0" % (cpu, len(pcp), zone.pcp_high, zone.pcp_batch)
                for cpu, pcp in enumerate(zone.pcp)]
        out.append(b"\n  node_unreclaimable:  %d\n  start_pfn:           %d" % (
            pgdat.kswapd_failures >= MAX_RECLAIM_RETRIES, zone.start_pfn))
    seq_puts(m, b"".join(out) + b"\n")


def zoneinfo_show(m: SeqFile, v: Any) -> int | None:
    zones = {zone.name: zone for zone in v.node_zones}
    first = True
    for name in _ZONE_NAMES:
        zoneinfo_show_print(m, v, name, zones.get(name), first and name in zones)
        first = first and name not in zones
    return None


zoneinfo_op = SeqOperations(frag_start, frag_next, zoneinfo_show)


def swap_show(m: SeqFile, v: Any) -> int | None:
    """A line for each swap area."""
    seq_puts(m, b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")
    swap = current().kernel.swap
    for si in swap.info if swap is not None else ():
        if si.swap_file is None:
            continue
        line = len(m.buf)
        seq_file_path(m, si.swap_file, b" \t\n\\")
        size, used = si.pages << 2, si.inuse_pages << 2
        seq_printf(m, b"%b%b\t%d\t%b%d\t%b%d\n", b" " * max(40 - (len(m.buf) - line), 1),
                   b"partition" if si.swap_file.f_inode.i_mode & S_IFMT == S_IFBLK else b"file\t",
                   size, b"\t" if size < 10000000 else b"", used, b"\t" if used < 10000000 else b"", si.prio)
    return None


@notrace
def proc_meminfo_init(kernel: Kernel) -> None:
    proc_create_single_data(kernel, b"meminfo", 0, None, meminfo_proc_show)
    proc_create_seq_data(kernel, b"buddyinfo", 0o444, None, fragmentation_op)
    proc_create_seq_data(kernel, b"vmstat", 0o444, None, vmstat_op)
    proc_create_seq_data(kernel, b"zoneinfo", 0o444, None, zoneinfo_op)
    proc_create_single_data(kernel, b"swaps", 0, None, swap_show)
