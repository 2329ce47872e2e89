"""Making and dropping slab caches; kmalloc and kfree; the figures of /proc/slabinfo.

Linux: mm/slab_common.c, and kmem_cache_open() and kmalloc() of mm/slub.c, include/linux/slab.h (5.3). Same: alignment,
    the kmalloc caches with their names and which one serves a size, large requests straight from the buddies.
Differs: no cache is merged with another (slab_nomerge); kmalloc() is the function that inlines of Linux choose between.
Owns: SlabState.caches, large. Invariants: a cache is in SlabState.caches from its making to its destruction; each has a
    slot of the cache "kmem_cache" and one of "kmem_cache_node".
Context: any.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import __GFP_DMA, __GFP_RECLAIMABLE, GFP_KERNEL, __free_pages, alloc_pages
from glasskernel.mm.slab_types import (
    PAGE_OFFSET,
    SLAB_CACHE_DMA,
    SLAB_HWCACHE_ALIGN,
    SLAB_RECLAIM_ACCOUNT,
    SLAB_TYPESAFE_BY_RCU,
    KmemCache,
    KmemCacheCpu,
    SlabState,
)
from glasskernel.mm.slub import (
    __kmem_cache_shrink,
    __slab_alloc,
    calculate_order,
    get_order,
    kmem_cache_alloc,
    kmem_cache_alloc_node_trace,
    kmem_cache_alloc_trace,
    kmem_cache_free,
    order_objects,
    slab_free,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

__GFP_COMP = 0x40000
KMALLOC_MAX_CACHE_SIZE = 8192
_CACHE_LINE = 64
_KMALLOC_SIZES = (96, 192, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)     # by index - 1: kmalloc_info
_SIZEOF_KMEM_CACHE, _SIZEOF_KMEM_CACHE_NODE = 256, 64


# ---- caches ------------------------------------------------------------------------------------------------------
@notrace
def calculate_alignment(flags: int, align: int, size: int) -> int:
    """At least what was asked for and 8; with SLAB_HWCACHE_ALIGN so much that few objects share a cache line."""
    if flags & SLAB_HWCACHE_ALIGN:
        ralign = _CACHE_LINE
        while size <= ralign // 2:
            ralign //= 2
        align = max(align, ralign)
    return (max(align, 8) + 7) & ~7


def kmem_cache_create(kernel: Kernel, name: bytes, size: int, align: int = 0, flags: int = 0, *,
                      ctor: bool = False) -> KmemCache:
    """A cache for objects of `size` bytes. ctor: its objects keep what they hold while they are free.

    Raises EINVAL for a size that no slab can hold, and for a name in use.
    """
    if not 8 <= size <= 1 << 22 or name in kernel.slab.caches:
        raise KernelError(EINVAL)
    s = create_cache(kernel, name, size, calculate_alignment(flags, align, size), flags, ctor)
    state = kernel.slab
    s.slab_address = kmem_cache_alloc(state.caches[b"kmem_cache"], GFP_KERNEL)
    s.node_address = kmem_cache_alloc(state.caches[b"kmem_cache_node"], GFP_KERNEL)
    return s


def create_cache(kernel: Kernel, name: bytes, size: int, align: int, flags: int, ctor: bool) -> KmemCache:
    """kmem_cache_open(): the layout of an object and of a slab, and how many free objects are kept where."""
    machine, state = kernel.machine, kernel.slab
    inuse = (size + 7) & ~7
    total = inuse
    if ctor or flags & SLAB_TYPESAFE_BY_RCU:
        total += 8                                 # the link to the next free object must not overwrite the object
    total = (total + align - 1) & -align
    order = calculate_order(total, len(machine.cpus))
    if order < 0:
        raise KernelError(EINVAL)
    allocflags = ((__GFP_COMP if order else 0) | (__GFP_DMA if flags & SLAB_CACHE_DMA else 0)
                  | (__GFP_RECLAIMABLE if flags & SLAB_RECLAIM_ACCOUNT else 0))
    cpu_partial = 2 if total >= 4096 else 6 if total >= 1024 else 13 if total >= 256 else 30
    nothing = KmemCacheCpu([], None)
    s = KmemCache(kernel, machine, kernel.tp, state.pages, name, size, total, align, flags, ctor, order,
                  order_objects(order, total), get_order(total), allocflags,
                  min(max((total.bit_length() - 1) // 2, 5), 10), cpu_partial, [nothing] * len(machine.cpus), nothing)
    s.inuse = inuse
    state.caches[name] = s
    return s


def kmem_cache_shrink(s: KmemCache) -> bool:
    """Gives the cache's empty slabs back. True: some slabs are left."""
    return __kmem_cache_shrink(s)


def kmem_cache_destroy(s: KmemCache) -> None:
    """The cache goes. Objects that are still in use are a bug: a line in the log, and the cache stays, as in Linux."""
    kernel = s.kernel
    if __kmem_cache_shrink(s):
        kernel.printk(f"kmem_cache_destroy {s.name.decode()}: Slab cache still has objects", 3)
        return
    state = kernel.slab
    del state.caches[s.name]
    kmem_cache_free(state.caches[b"kmem_cache_node"], s.node_address)
    kmem_cache_free(state.caches[b"kmem_cache"], s.slab_address)


def kmem_cache_init(kernel: Kernel) -> None:
    """Makes kernel.slab, the caches of the caches' own structures, and those of kmalloc(). After mem_init()."""
    state = kernel.slab = SlabState()
    boot = [create_cache(kernel, name, size, _CACHE_LINE, SLAB_HWCACHE_ALIGN, False)
            for name, size in ((b"kmem_cache_node", _SIZEOF_KMEM_CACHE_NODE), (b"kmem_cache", _SIZEOF_KMEM_CACHE))]
    for s in boot:
        s.slab_address = kmem_cache_alloc(boot[1], GFP_KERNEL)
        s.node_address = kmem_cache_alloc(boot[0], GFP_KERNEL)
    for prefix, flags in ((b"kmalloc-", 0), (b"kmalloc-rcl-", SLAB_RECLAIM_ACCOUNT), (b"dma-kmalloc-", SLAB_CACHE_DMA)):
        state.kmalloc_caches.append([create_kmalloc_cache(kernel, prefix, size, flags) for size in _KMALLOC_SIZES])


def create_kmalloc_cache(kernel: Kernel, prefix: bytes, size: int, flags: int) -> KmemCache:
    name = prefix + (b"%dk" % (size >> 10) if size >= 1024 else b"%d" % size)
    align = 8 if size & (size - 1) else size       # a power of two is aligned to itself
    return kmem_cache_create(kernel, name, size, align, flags)


# ---- kmalloc -----------------------------------------------------------------------------------------------------
@notrace
def kmalloc_index(size: int) -> int:
    """Which of _KMALLOC_SIZES serves a size from 1 to KMALLOC_MAX_CACHE_SIZE."""
    if size <= 192:
        if size > 128:
            return 1
        if 64 < size <= 96:
            return 0
    return max((size - 1).bit_length() - 1, 2) if size > 4 else 2


def kmalloc_slab(kernel: Kernel, size: int, flags: int) -> KmemCache:
    """The cache that serves a request."""
    kind = 2 if flags & __GFP_DMA else 1 if flags & __GFP_RECLAIMABLE else 0
    return kernel.slab.kmalloc_caches[kind][kmalloc_index(size)]


@notrace
def kmalloc(kernel: Kernel, size: int, flags: int) -> int:
    """Memory of a size that the source knows (a structure's); its address, 0 for nothing. Raises ENOMEM."""
    if size > KMALLOC_MAX_CACHE_SIZE:
        return kmalloc_order(kernel, size, flags)
    if not size:
        return 0
    kind = 2 if flags & __GFP_DMA else 1 if flags & __GFP_RECLAIMABLE else 0
    return kmem_cache_alloc_trace(kernel.slab.kmalloc_caches[kind][kmalloc_index(size)], flags, size)


@notrace
def kmalloc_node(kernel: Kernel, size: int, flags: int, node: int) -> int:
    """kmalloc() from the memory of a node."""
    if size > KMALLOC_MAX_CACHE_SIZE:
        return kmalloc_order(kernel, size, flags)
    return kmem_cache_alloc_node_trace(kernel.slab.kmalloc_caches[0][kmalloc_index(size)], flags, node, size)


def __kmalloc(kernel: Kernel, size: int, flags: int) -> int:
    """kmalloc() of a size that is only known now. Raises ENOMEM."""
    if size > KMALLOC_MAX_CACHE_SIZE:
        return kmalloc_order(kernel, size, flags)
    if not size:
        return 0                                   # ZERO_SIZE_PTR
    s = kmalloc_slab(kernel, size, flags)
    freelist = s.cpu_slab[s.machine.this_cpu.id].freelist
    x = freelist.pop() if freelist else __slab_alloc(s, flags)
    probe = s.tp.kmalloc
    if probe is not None:
        probe(x, size, s.size, flags)
    return x


def __kmalloc_node(kernel: Kernel, size: int, flags: int, node: int) -> int:
    """__kmalloc() from the memory of a node. Raises ENOMEM."""
    if size > KMALLOC_MAX_CACHE_SIZE:
        return kmalloc_order(kernel, size, flags)
    if not size:
        return 0
    s = kmalloc_slab(kernel, size, flags)
    freelist = s.cpu_slab[s.machine.this_cpu.id].freelist
    x = freelist.pop() if freelist else __slab_alloc(s, flags)
    probe = s.tp.kmalloc_node
    if probe is not None:
        probe(x, size, s.size, flags, node)
    return x


def kmalloc_order(kernel: Kernel, size: int, flags: int) -> int:
    """More than a slab holds: frames from the buddies. Raises ENOMEM."""
    order = get_order(size)
    pfn = alloc_pages(kernel, flags | __GFP_COMP, order)
    kernel.slab.large[pfn] = order
    x = PAGE_OFFSET + (pfn << 12)
    probe = kernel.tp.kmalloc
    if probe is not None:
        probe(x, size, 4096 << order, flags)
    return x


def kfree(kernel: Kernel, x: int) -> None:
    """Gives back what kmalloc() or kmem_cache_alloc() answered; 0 is fine."""
    probe = kernel.tp.kfree
    if probe is not None:
        probe(x)
    if not x:
        return
    state = kernel.slab
    pfn = (x - PAGE_OFFSET) >> 12
    page = state.pages.get(pfn)
    if page is None:
        __free_pages(kernel, pfn, state.large.pop(pfn))
    else:
        slab_free(page.slab_cache, page, x)


# ---- what /proc tells ---------------------------------------------------------------------------------------------
class Slabinfo(NamedTuple):
    """struct slabinfo"""

    active_objs: int
    num_objs: int
    active_slabs: int
    num_slabs: int
    objects_per_slab: int
    cache_order: int


def get_slabinfo(s: KmemCache) -> Slabinfo:
    """What a CPU has at hand counts as in use, as in Linux: only the node's partial slabs are looked through."""
    n = s.node
    free = sum(len(page.freelist) for page in n.partial)
    return Slabinfo(n.total_objects - free, n.total_objects, n.nr_slabs, n.nr_slabs, s.oo_objects, s.oo_order)


@notrace
def object_address(thing: object) -> int:
    """Where a kernel object lies: the slot that it owns. 0: it has none."""
    address: int = getattr(thing, "slab_address", 0)
    return address
