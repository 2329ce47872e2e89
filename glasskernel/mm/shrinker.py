"""Shrinkers: caches of objects that can give memory back when it runs short.

Linux: struct shrinker and shrink_slab() of mm/vmscan.c (5.3), which are in mm/shrinker.c since 6.7. Same: how much of a
    cache one call looks at follows from the priority of reclaim and from seeks; what was too little for a batch is
    deferred; SHRINK_STOP ends a round.
Differs: one node, no memory cgroups; who unregisters while its cache is scanned is met by the list's copy.
Owns: kernel.filemap.shrinkers, Shrinker.nr_deferred.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.kernel.sched.core import cond_resched
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import may_sleep
from glasskernel.machine.costs import SCAN_OBJECT
from glasskernel.mm.page_alloc import SLABS_SCANNED

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

SHRINK_BATCH = 128
DEFAULT_SEEKS = 2
SHRINK_STOP = -1                       # scan_objects(): not now, a lock cannot be had


@slotted
class ShrinkControl:
    """struct shrink_control: one request. nr_scanned: what scan_objects() looked at in truth, if it tells."""

    gfp_mask: int
    nid: int = 0
    nr_to_scan: int = 0
    nr_scanned: int = 0


@slotted
class Shrinker:
    """struct shrinker. Both functions may sleep if sc.gfp_mask has __GFP_DIRECT_RECLAIM, which it has nearly always.

    count_objects(sc): how many objects could go. scan_objects(sc): looks at sc.nr_to_scan of them; how many went, or
    SHRINK_STOP. seeks: how dear it is to make an object again, in disk seeks; 0: a cache that should not be big.
    """

    count_objects: Callable[[ShrinkControl], int]
    scan_objects: Callable[[ShrinkControl], int]
    batch: int = SHRINK_BATCH
    seeks: int = DEFAULT_SEEKS
    nr_deferred: int = 0
    kaddr: int = 0                     # for traces


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
def do_shrink_slab(kernel: Kernel, shrinkctl: ShrinkControl, shrinker: Shrinker, priority: int) -> int:
    """Asks one cache: for freeable / 2 ** priority objects and what is left from before. Answers how many went."""
    freeable = shrinker.count_objects(shrinkctl)
    if not freeable:
        return 0
    nr, shrinker.nr_deferred = shrinker.nr_deferred, 0
    delta = (freeable >> priority) * 4 // shrinker.seeks if shrinker.seeks else freeable // 2
    total_scan = next_deferred = nr + delta
    if delta < freeable // 4:              # nobody is in need: what was deferred must not empty the cache at once
        total_scan = min(total_scan, freeable // 2)
    total_scan = min(total_scan, freeable * 2)
    probe = kernel.tp.mm_shrink_slab_start
    if probe is not None:
        probe(shrinker, shrinkctl, nr, freeable, delta, total_scan, priority)
    freed = scanned = ret = 0
    batch_size = shrinker.batch
    while total_scan >= batch_size or total_scan >= freeable:
        shrinkctl.nr_to_scan = shrinkctl.nr_scanned = min(batch_size, total_scan)
        ret = shrinker.scan_objects(shrinkctl)
        kernel.machine.charge(SCAN_OBJECT * shrinkctl.nr_scanned)
        if ret == SHRINK_STOP:
            break
        freed += ret
        kernel.mem.vm_event[SLABS_SCANNED] += shrinkctl.nr_scanned
        total_scan -= shrinkctl.nr_scanned
        scanned += shrinkctl.nr_scanned
        cond_resched()
    shrinker.nr_deferred += max(next_deferred - scanned, 0)
    probe = kernel.tp.mm_shrink_slab_end
    if probe is not None:
        probe(shrinker, shrinkctl.nid, ret, nr, shrinker.nr_deferred, total_scan)
    return freed


@may_sleep
def shrink_slab(kernel: Kernel, gfp_mask: int, nid: int, priority: int) -> int:
    """Asks every cache. priority: 12 gently ... 0 for all. Answers how many objects went."""
    freed = 0
    for shrinker in tuple(kernel.filemap.shrinkers):
        if shrinker in kernel.filemap.shrinkers:           # it may have gone while an earlier one slept
            freed += do_shrink_slab(kernel, ShrinkControl(gfp_mask, nid), shrinker, priority)
        cond_resched()
    return freed
