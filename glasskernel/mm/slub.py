"""The slab allocator: memory for the kernel's own objects, many to a block of frames.

Linux: mm/slub.c (5.3). Same: sizes, orders and objects of a slab; each CPU's slab and partial slabs, the node's partial
    list, when slabs move between them and when one goes back to the buddies; the tracepoints and what they say.
Differs: kernel objects are Python's, so nothing lies in a slab: an object owns a slot of one, its address in the direct
    map, for as long as it lives (attribute `slab_address`). That accounts for its memory and gives it an address.
    One node; caches are never merged (as with slab_nomerge).
Gaps: red zones and the other debugging, SLUB_STATS, random freelists, fault injection, memory cgroups.
Owns: every SlabPage, KmemCacheCpu, KmemCacheNode. Invariants: mm/slub_check.py.
Context: any (an allocation may free page cache). Hot: kmem_cache_alloc() and kmem_cache_free() take 0.2 us each.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import (
    __GFP_DIRECT_RECLAIM,
    NR_SLAB_RECLAIMABLE,
    NR_SLAB_UNRECLAIMABLE,
    MemState,
    __free_pages,
    alloc_pages,
)
from glasskernel.mm.slab_types import PAGE_OFFSET, SLAB_RECLAIM_ACCOUNT, KmemCache, KmemCacheCpu, SlabPage

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.slab_types import KmemCacheNode

__GFP_KSWAPD_RECLAIM = 0x800
__GFP_NOWARN, __GFP_NOFAIL, __GFP_NORETRY, __GFP_NOMEMALLOC = 0x2000, 0x8000, 0x10000, 0x80000
_RECLAIM = __GFP_DIRECT_RECLAIM | __GFP_KSWAPD_RECLAIM


# ---- the interface ----------------------------------------------------------------------------------------------
def kmem_cache_alloc(s: KmemCache, gfpflags: int) -> int:
    """A slot for one object of this cache; its address. Raises ENOMEM."""
    c = s.cpu_slab[s.machine.this_cpu.id]
    freelist = c.freelist
    x = freelist.pop() if freelist else __slab_alloc(s, gfpflags)
    probe = s.tp.kmem_cache_alloc
    if probe is not None:
        probe(x, s.object_size, s.size, gfpflags)
    return x


def kmem_cache_alloc_node(s: KmemCache, gfpflags: int, node: int) -> int:
    """kmem_cache_alloc() from the memory of a node (there is one; -1 is any)."""
    c = s.cpu_slab[s.machine.this_cpu.id]
    freelist = c.freelist
    x = freelist.pop() if freelist else __slab_alloc(s, gfpflags)
    probe = s.tp.kmem_cache_alloc_node
    if probe is not None:
        probe(x, s.object_size, s.size, gfpflags, node)
    return x


def kmem_cache_alloc_trace(s: KmemCache, gfpflags: int, size: int) -> int:
    """What kmalloc() of a constant size calls: the event says which size. Raises ENOMEM."""
    c = s.cpu_slab[s.machine.this_cpu.id]
    freelist = c.freelist
    x = freelist.pop() if freelist else __slab_alloc(s, gfpflags)
    probe = s.tp.kmalloc
    if probe is not None:
        probe(x, size, s.size, gfpflags)
    return x


def kmem_cache_alloc_node_trace(s: KmemCache, gfpflags: int, node: int, size: int) -> int:
    """What kmalloc_node() of a constant size calls. Raises ENOMEM."""
    c = s.cpu_slab[s.machine.this_cpu.id]
    freelist = c.freelist
    x = freelist.pop() if freelist else __slab_alloc(s, gfpflags)
    probe = s.tp.kmalloc_node
    if probe is not None:
        probe(x, size, s.size, gfpflags, node)
    return x


def kmem_cache_free(s: KmemCache, x: int) -> None:
    """Gives a slot back."""
    page = s.pages[(x - PAGE_OFFSET) >> 12]
    c = s.cpu_slab[s.machine.this_cpu.id]
    if page is c.page:
        c.freelist.append(x)
    else:
        __slab_free(s, page, x)
    probe = s.tp.kmem_cache_free
    if probe is not None:
        probe(x)


@notrace
def slab_free(s: KmemCache, page: SlabPage, x: int) -> None:
    """kmem_cache_free() without its event: for kfree()."""
    c = s.cpu_slab[s.machine.this_cpu.id]
    if page is c.page:
        c.freelist.append(x)
    else:
        __slab_free(s, page, x)


# ---- slow paths: allocation --------------------------------------------------------------------------------------
def __slab_alloc(s: KmemCache, gfpflags: int) -> int:
    """The CPU has no object at hand."""
    return ___slab_alloc(s, gfpflags, this_cpu_slab(s))


@notrace
def this_cpu_slab(s: KmemCache) -> KmemCacheCpu:
    """This CPU's structure, made when it is first needed."""
    cpu = s.machine.this_cpu.id
    c = s.cpu_slab[cpu]
    if c is s.no_cpu_slab:
        c = s.cpu_slab[cpu] = KmemCacheCpu([], None)
    return c


def ___slab_alloc(s: KmemCache, gfpflags: int, c: KmemCacheCpu) -> int:
    """First what others freed in this CPU's slab, then its partial slabs, the node's, at last a new one."""
    while True:
        page = c.page
        if page is not None:
            freelist = get_freelist(page)
            if freelist:
                c.freelist = freelist
                return freelist.pop()
            c.page = None                          # full: nobody keeps track of it until something is freed
        if c.partial:
            c.page = c.partial.pop()
            continue
        c.pobjects = 0
        page = get_partial_node(s, s.node, c)
        if page is None:
            page = new_slab(s, gfpflags)
            c = this_cpu_slab(s)                   # freeing memory may have slept: another CPU, and it may have a slab
            if c.page is not None:
                deactivate_slab(s, c.page, c.freelist)
        c.page = page
        c.freelist = take_freelist(page)
        return c.freelist.pop()


@notrace
def take_freelist(page: SlabPage) -> list[int]:
    """acquire_slab(): all free objects of a slab go to a CPU, and count as used."""
    freelist, page.freelist = page.freelist, []
    page.inuse = page.objects
    page.frozen = True
    return freelist


@notrace
def get_freelist(page: SlabPage) -> list[int]:
    """The objects that were freed in a CPU's slab meanwhile; if there are none, the slab is not the CPU's any more."""
    freelist = take_freelist(page)
    page.frozen = bool(freelist)
    return freelist


def get_partial_node(s: KmemCache, n: KmemCacheNode, c: KmemCacheCpu) -> SlabPage | None:
    """The first of the node's partial slabs, and some more for the CPU's partial list."""
    first = None
    available = 0
    for page in list(n.partial):
        del n.partial[page]
        page.frozen = True
        available += len(page.freelist)
        if first is None:
            first = page
        else:
            put_cpu_partial(s, page, False)
        if available > s.cpu_partial // 2:
            break
    return first


def new_slab(s: KmemCache, flags: int) -> SlabPage:
    """A slab with nothing in it. Raises ENOMEM."""
    page = allocate_slab(s, flags)
    s.node.nr_slabs += 1                           # inc_slabs_node()
    s.node.total_objects += page.objects
    return page


def allocate_slab(s: KmemCache, flags: int) -> SlabPage:
    """Frames from the buddies: as many as run best, or as few as hold one object. Raises ENOMEM."""
    flags |= s.allocflags
    alloc_gfp = (flags | __GFP_NOWARN | __GFP_NORETRY) & ~__GFP_NOFAIL
    order = s.oo_order
    if alloc_gfp & __GFP_DIRECT_RECLAIM and order > s.min_order:
        alloc_gfp = (alloc_gfp | __GFP_NOMEMALLOC) & ~(_RECLAIM | __GFP_NOFAIL)
    kernel = s.kernel
    objects = s.oo_objects
    if order == s.min_order:
        pfn = alloc_pages(kernel, flags, order)
    else:
        try:
            pfn = alloc_pages(kernel, alloc_gfp, order)
        except KernelError:                        # no block of that size: a small one, and this time with all means
            order = s.min_order
            objects = order_objects(order, s.size)
            pfn = alloc_pages(kernel, flags, order)
    start = PAGE_OFFSET + (pfn << 12)
    size = s.size
    page = SlabPage(s, pfn, order, objects, list(range(start + (objects - 1) * size, start - 1, -size)))
    for frame in range(pfn, pfn + (1 << order)):
        s.pages[frame] = page
    account_slab_page(kernel.mem, s, 1 << order)
    return page


@notrace
def account_slab_page(mem: MemState, s: KmemCache, nr_pages: int) -> None:
    mem.vm_stat[NR_SLAB_RECLAIMABLE if s.flags & SLAB_RECLAIM_ACCOUNT else NR_SLAB_UNRECLAIMABLE] += nr_pages


# ---- slow paths: freeing -----------------------------------------------------------------------------------------
def __slab_free(s: KmemCache, page: SlabPage, x: int) -> None:
    """An object of a slab that is not this CPU's."""
    assert page.slab_cache is s, f"an object of {page.slab_cache.name!r} is freed as one of {s.name!r}"
    prior = bool(page.freelist)
    page.freelist.append(x)
    page.inuse -= 1
    if page.frozen:                                # some CPU has it
        return
    if not prior:                                  # it was full, and so in no list
        page.frozen = True
        put_cpu_partial(s, page, True)
    elif not page.inuse and s.node.nr_partial >= s.min_partial:
        del s.node.partial[page]
        discard_slab(s, page)


def put_cpu_partial(s: KmemCache, page: SlabPage, drain: bool) -> None:
    """Into this CPU's partial list; with drain, a list that is too long goes to the node first."""
    c = this_cpu_slab(s)
    if drain and c.partial and c.pobjects > s.cpu_partial:
        unfreeze_partials(s, c)
    c.pobjects += page.objects - page.inuse
    c.partial.append(page)


def unfreeze_partials(s: KmemCache, c: KmemCacheCpu) -> None:
    """The CPU's partial slabs become the node's; empty ones are given back when the node has enough."""
    n = s.node
    while c.partial:
        release_slab(s, n, c.partial.pop())
    c.pobjects = 0


@notrace
def release_slab(s: KmemCache, n: KmemCacheNode, page: SlabPage) -> None:
    """No CPU has this slab any more: it goes to the node's partial list, to the buddies, or, if it is full, nowhere."""
    page.frozen = False
    if not page.inuse and n.nr_partial >= s.min_partial:
        discard_slab(s, page)
    elif page.freelist:
        n.partial[page] = None


def deactivate_slab(s: KmemCache, page: SlabPage, freelist: list[int]) -> None:
    """Takes a CPU's slab off it: what the CPU had at hand goes back into the slab."""
    page.freelist += freelist
    page.inuse -= len(freelist)
    release_slab(s, s.node, page)


def discard_slab(s: KmemCache, page: SlabPage) -> None:
    s.node.nr_slabs -= 1                           # dec_slabs_node()
    s.node.total_objects -= page.objects
    __free_slab(s, page)


def __free_slab(s: KmemCache, page: SlabPage) -> None:
    """The frames go back to the buddies."""
    assert not page.inuse, f"slab of {s.name!r} is freed with objects in it"
    for frame in range(page.pfn, page.pfn + (1 << page.order)):
        del s.pages[frame]
    account_slab_page(s.kernel.mem, s, -(1 << page.order))
    __free_pages(s.kernel, page.pfn, page.order)


# ---- emptying ----------------------------------------------------------------------------------------------------
def flush_all(s: KmemCache) -> None:
    """Every CPU lets its slabs go."""
    for cpu in range(len(s.cpu_slab)):
        __flush_cpu_slab(s, cpu)


def __flush_cpu_slab(s: KmemCache, cpu: int) -> None:
    c = s.cpu_slab[cpu]
    if c.page is not None:
        deactivate_slab(s, c.page, c.freelist)
        c.page, c.freelist = None, []
    if c.partial:
        unfreeze_partials(s, c)


def slub_cpu_dead(kernel: Kernel, cpu: int) -> None:
    """A CPU is gone: its slabs go back to the lists."""
    for s in kernel.slab.caches.values():
        __flush_cpu_slab(s, cpu)


def __kmem_cache_shrink(s: KmemCache) -> bool:
    """Gives every empty slab back; the fullest come first in the partial list. True: some slabs are left."""
    flush_all(s)
    n = s.node
    for page in [page for page in n.partial if not page.inuse]:
        del n.partial[page]
        discard_slab(s, page)
    n.partial = dict.fromkeys(sorted(n.partial, key=lambda page: len(page.freelist)))
    return n.nr_slabs > 0


# ---- how large a slab is ------------------------------------------------------------------------------------------
SLUB_MAX_ORDER = 3                                 # PAGE_ALLOC_COSTLY_ORDER
_MAX_ORDER, _MAX_OBJS_PER_PAGE = 11, 32767


@notrace
def order_objects(order: int, size: int) -> int:
    return (4096 << order) // size


@notrace
def get_order(size: int) -> int:
    """The order of the smallest block that holds `size` bytes."""
    return ((size - 1) >> 12).bit_length()


@notrace
def slab_order(size: int, min_objects: int, max_order: int, fract_leftover: int) -> int:
    """The smallest order for min_objects that wastes at most 1/fract_leftover; max_order + 1 if there is none."""
    if order_objects(0, size) > _MAX_OBJS_PER_PAGE:
        return get_order(size * _MAX_OBJS_PER_PAGE) - 1
    order = get_order(min_objects * size)
    while order <= max_order:
        slab_size = 4096 << order
        if slab_size % size <= slab_size // fract_leftover:
            break
        order += 1
    return order


@notrace
def calculate_order(size: int, nr_cpus: int) -> int:
    """Enough objects for the number of CPUs, little waste, and not too large a block. -1: nothing is that large."""
    min_objects = min(4 * (nr_cpus.bit_length() + 1), order_objects(SLUB_MAX_ORDER, size))
    while min_objects > 1:
        fraction = 16
        while fraction >= 4:
            order = slab_order(size, min_objects, SLUB_MAX_ORDER, fraction)
            if order <= SLUB_MAX_ORDER:
                return order
            fraction //= 2
        min_objects -= 1
    order = slab_order(size, 1, SLUB_MAX_ORDER, 1)
    if order <= SLUB_MAX_ORDER:
        return order
    order = slab_order(size, 1, _MAX_ORDER, 1)
    return order if order < _MAX_ORDER else -1
