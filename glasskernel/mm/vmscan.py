"""Giving page cache back when frames run out.

Linux: mm/vmscan.c. Same: clean pages that nobody maps go, oldest first; a referenced page gets a second
    round.
Differs: direct reclaim only, over kernel.mem.mapping in the order of last use.
Gaps: anonymous memory and swap, dirty pages, mapped pages, kswapd, slab shrinkers.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import (
    PGSCAN,
    PGSTEAL,
    PG_dirty,
    PG_locked,
    PG_private,
    PG_referenced,
    PG_writeback,
)
from glasskernel.mm.pagemap import delete_from_page_cache, try_to_release_page, unlock_page

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel


@notrace
def shrink_page_cache(kernel: Kernel, nr_to_reclaim: int) -> int:
    """Frees up to nr_to_reclaim frames of clean, unmapped page cache; answers how many. Does not sleep."""
    mem = kernel.mem
    flags = mem.flags
    reclaimed = 0
    scanned = 0
    for keep_referenced in (True, False):
        for pfn, mapping in list(mem.mapping.items()):
            if mapping.unevictable:
                continue
            scanned += 1
            state = flags[pfn]
            if state & (PG_dirty | PG_locked | PG_writeback) or mem.mapcount[pfn]:
                continue
            if mem.refcount[pfn] != (2 if state & PG_private else 1):
                continue
            if state & PG_referenced and keep_referenced:
                flags[pfn] = state & ~PG_referenced
                continue
            if state & PG_private:
                flags[pfn] |= PG_locked
                released = try_to_release_page(kernel, pfn, 0)
                unlock_page(kernel, pfn)
                if not released:
                    continue
            delete_from_page_cache(kernel, pfn)
            reclaimed += 1
            if reclaimed >= nr_to_reclaim:
                break
        if reclaimed >= nr_to_reclaim:
            break
    mem.vm_event[PGSCAN] += scanned
    mem.vm_event[PGSTEAL] += reclaimed
    return reclaimed
