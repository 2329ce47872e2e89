"""Reclaim: how many pages of each list a round looks at.

Linux: get_scan_count() and what it asks, of mm/vmscan.c (5.3). Same: file pages first, as long as there are enough that
    were used once; then anonymous and file pages by swappiness and by how many of each kind turned out to be in use.
Differs: mem.lru has the pages of all nodes; those of one are counted.
Owns: nothing; it halves recent_scanned and recent_rotated of mm/vmscan.py. Imported by the first shortage.
Gaps: memory cgroups, refaults.
"""
from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace
from glasskernel.mm.kswapd import zone_lru_size
from glasskernel.mm.page_alloc import (
    LRU_ACTIVE_FILE,
    LRU_INACTIVE_ANON,
    LRU_INACTIVE_FILE,
    WMARK_HIGH,
)
from glasskernel.mm.swap_types import get_nr_swap_pages

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.page_alloc import MemState, PglistData
    from glasskernel.mm.vmscan_pages import ScanControl

SCAN_EQUAL, SCAN_FRACT, SCAN_ANON, SCAN_FILE = range(4)      # enum scan_balance
EVICTABLE_LRUS = range(LRU_ACTIVE_FILE + 1)


def lruvec_lru_size(mem: MemState, pgdat: PglistData, lru: int, zone_idx: int) -> int:
    """Pages on a list that lie in the node's zones up to zone_idx."""
    if zone_idx == mem.nr_zones - 1 and not mem.numa:
        return len(mem.lru[lru])
    return sum([zone_lru_size(mem, zone, lru) for zone in pgdat.node_zones if zone.idx <= zone_idx])


def inactive_list_is_low(kernel: Kernel, pgdat: PglistData, file: bool, sc: ScanControl, trace: bool) -> bool:
    """Is the inactive list too short against the active one to tell which pages are used? 1:1 below a gigabyte."""
    mem = kernel.mem
    if not file and (kernel.swap is None or not kernel.swap.total_swap_pages):
        return False
    lru = LRU_INACTIVE_FILE if file else LRU_INACTIVE_ANON
    inactive = lruvec_lru_size(mem, pgdat, lru, sc.reclaim_idx)
    active = lruvec_lru_size(mem, pgdat, lru + 1, sc.reclaim_idx)
    gb = (inactive + active) >> 18
    inactive_ratio = isqrt(10 * gb) if gb else 1
    probe = kernel.tp.mm_vmscan_inactive_list_is_low
    if probe is not None and trace:
        probe(pgdat.node_id, sc.reclaim_idx, len(mem.lru[lru]), inactive, len(mem.lru[lru + 1]), active,
              inactive_ratio, file)
    return inactive * inactive_ratio < active


def get_scan_count(kernel: Kernel, pgdat: PglistData, sc: ScanControl) -> list[int]:
    """How many pages of each list this round looks at: by priority, and by what scanning paid off lately."""
    mem = kernel.mem
    sizes = [lruvec_lru_size(mem, pgdat, lru, sc.reclaim_idx) for lru in EVICTABLE_LRUS]
    fraction, denominator = [1, 1], 1
    if get_nr_swap_pages(kernel) <= 0:
        scan_balance = SCAN_FILE
    elif not sc.priority and mem.vm_swappiness:            # close to the OOM killer: everything
        scan_balance = SCAN_EQUAL
    else:
        scan_balance = SCAN_FRACT
        free = sum([zone.nr_free for zone in pgdat.node_zones])
        top = mem.nr_zones - 1
        files = lruvec_lru_size(mem, pgdat, LRU_ACTIVE_FILE, top) + lruvec_lru_size(mem, pgdat, LRU_INACTIVE_FILE, top)
        if files + free <= sum([zone.watermark[WMARK_HIGH] for zone in pgdat.node_zones]):
            # Next to no file pages: scanning these harder would only throw out programs' code.
            if (not inactive_list_is_low(kernel, pgdat, False, sc, False)
                    and sizes[LRU_INACTIVE_ANON] >> sc.priority):
                scan_balance = SCAN_ANON
        if (scan_balance == SCAN_FRACT and not inactive_list_is_low(kernel, pgdat, True, sc, False)
                and sizes[LRU_INACTIVE_FILE] >> sc.priority):
            scan_balance = SCAN_FILE                       # enough that are used once
        if scan_balance == SCAN_FRACT:
            fraction, denominator = scan_fractions(mem, sizes)
    nr = [size >> sc.priority for size in sizes]
    for lru in EVICTABLE_LRUS:
        file = lru >= LRU_INACTIVE_FILE
        if scan_balance == SCAN_FRACT:
            nr[lru] = nr[lru] * fraction[file] // denominator
        elif scan_balance != SCAN_EQUAL and (scan_balance == SCAN_FILE) != file:
            nr[lru] = 0
    return nr


@notrace
def scan_fractions(mem: MemState, sizes: list[int]) -> tuple[list[int], int]:
    """(parts of anonymous and file pages, of how many): a kind that turns out to be used is scanned less."""
    pgdat = mem.pgdat
    priorities = (mem.vm_swappiness, 200 - mem.vm_swappiness)
    parts = []
    for file in (0, 1):
        if pgdat.recent_scanned[file] > (sizes[2 * file] + sizes[2 * file + 1]) // 4:
            pgdat.recent_scanned[file] //= 2
            pgdat.recent_rotated[file] //= 2
        parts.append(priorities[file] * (pgdat.recent_scanned[file] + 1) // (pgdat.recent_rotated[file] + 1))
    return parts, sum(parts) + 1
