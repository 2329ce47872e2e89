"""What must hold for the slab allocator at rest; for tests.

Invariants: every frame of SlabState.pages belongs to one slab of a cache, the slabs are nr_slabs, their objects
    total_objects; an object is free in one place at most; inuse says how many are not in the slab's own freelist;
    a CPU's objects at hand are of its slab; the node's partial slabs have free objects and belong to no CPU.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.types import notrace
from glasskernel.mm.slab_types import PAGE_OFFSET

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.slab_types import KmemCache, SlabPage


@notrace
def slab_frames(kernel: Kernel) -> set[int]:
    """The frames that the slab allocator owns."""
    state = kernel.slab
    large = {frame for pfn, order in state.large.items() for frame in range(pfn, pfn + (1 << order))}
    return large | set(state.pages)


@notrace
def slabs_of(s: KmemCache) -> list[SlabPage]:
    """Every slab of a cache."""
    return list(dict.fromkeys(page for page in s.pages.values() if page.slab_cache is s))


@notrace
def free_objects(s: KmemCache, slabs: list[SlabPage]) -> list[int]:
    """Every slot without an object: in slabs, and at the CPUs' hands."""
    free = [x for page in slabs for x in page.freelist]
    for c in s.cpu_slab:
        free += c.freelist
    return free


@notrace
def objects_of(s: KmemCache) -> set[int]:
    """The slots that have an object."""
    slabs = slabs_of(s)
    objects = {PAGE_OFFSET + (page.pfn << 12) + i * s.size for page in slabs for i in range(page.objects)}
    return objects - set(free_objects(s, slabs))


@notrace
def check_cache(s: KmemCache, slabs: list[SlabPage]) -> list[str]:
    """One cache; what is wrong, in words."""
    name, wrong, n = s.name.decode(), [], s.node
    if (len(slabs), sum(page.objects for page in slabs)) != (n.nr_slabs, n.total_objects):
        wrong.append(f"{name}: {len(slabs)} slabs, but the node counts {n.nr_slabs} with {n.total_objects} objects")
    free = free_objects(s, slabs)
    if len(free) != len(set(free)):
        wrong.append(f"{name}: an object is free twice")
    cpus = {page for c in s.cpu_slab for page in (*c.partial, *([c.page] if c.page is not None else []))}
    for c in s.cpu_slab:
        if any(s.pages.get((x - PAGE_OFFSET) >> 12) is not c.page for x in c.freelist):
            wrong.append(f"{name}: a CPU has an object of another slab at hand")
    for page in slabs:
        start = PAGE_OFFSET + (page.pfn << 12)
        if page.inuse + len(page.freelist) != page.objects:
            wrong.append(f"{name}: slab {page.pfn:#x} has {page.inuse} of {page.objects} objects in use, "
                         f"{len(page.freelist)} free")
        if any((x - start) % s.size or not start <= x < start + page.objects * s.size for x in page.freelist):
            wrong.append(f"{name}: slab {page.pfn:#x} holds an address that is no object of it")
        if page.frozen != (page in cpus) or (not page.frozen and bool(page.freelist) != (page in n.partial)):
            wrong.append(f"{name}: slab {page.pfn:#x} is in the wrong list")
    return wrong


@notrace
def check_slab(kernel: Kernel) -> list[str]:
    """Every cache, and the objects that the rooms own against the slots in use."""
    slabs: dict[KmemCache, list[SlabPage]] = {s: [] for s in kernel.slab.caches.values()}
    wrong = []
    for page in dict.fromkeys(kernel.slab.pages.values()):
        slabs[page.slab_cache].append(page)
    for s, pages in slabs.items():
        wrong += check_cache(s, pages)
    return wrong


@notrace
def count_objects(s: KmemCache) -> int:
    """How many slots have an object."""
    slabs = slabs_of(s)
    return s.node.total_objects - len(free_objects(s, slabs))
