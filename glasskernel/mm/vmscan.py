"""Giving page cache back when frames run out.

Linux: mm/vmscan.c. Same: clean pages that nobody maps go, oldest first; a referenced page gets a second
    round.
Differs: direct reclaim only, over kernel.mem.mapping in the order of last use; only drop_caches calls shrinkers.
Gaps: anonymous memory and swap, dirty pages, mapped pages, kswapd.
Owns: kernel.filemap.shrinkers.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.kernel.sched.core import cond_resched
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep, notrace
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


SHRINK_BATCH = 128


@slotted
class Shrinker:
    """struct shrinker: a cache that can give objects back. Both functions may sleep.

    count_objects() answers how many objects could go; scan_objects(nr_to_scan) looks at so many, and answers how
    many went.
    """

    count_objects: Callable[[], int]
    scan_objects: Callable[[int], int]
    batch: int = SHRINK_BATCH


def register_shrinker_prepared(kernel: Kernel, shrinker: Shrinker) -> None:
    """From now on the cache is asked to shrink."""
    kernel.filemap.shrinkers.append(shrinker)


def register_shrinker(kernel: Kernel, shrinker: Shrinker) -> None:
    """The same (there is nothing to prepare, as in Linux counters of each NUMA node)."""
    register_shrinker_prepared(kernel, shrinker)


def unregister_shrinker(kernel: Kernel, shrinker: Shrinker) -> None:
    """The cache goes away."""
    kernel.filemap.shrinkers.remove(shrinker)


@may_sleep
def do_shrink_slab(shrinker: Shrinker) -> int:
    """Asks one cache to look at all that it could give back. Answers how many objects went."""
    freeable = total_scan = shrinker.count_objects()
    freed = 0
    while total_scan > 0:
        nr_to_scan = min(shrinker.batch, total_scan, freeable)
        freed += shrinker.scan_objects(nr_to_scan)
        total_scan -= nr_to_scan
        cond_resched()
    return freed


@may_sleep
def shrink_slab(kernel: Kernel) -> int:
    """Asks every cache, with the highest priority. Answers how many objects went."""
    return sum([do_shrink_slab(shrinker) for shrinker in tuple(kernel.filemap.shrinkers)])


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
