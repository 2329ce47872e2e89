"""The slab allocator's structures.

Linux: include/linux/slub_def.h, slab.h, mm/slab.h (5.3). Same: fields and flags.
Differs: a freelist is a list of addresses, the next one to hand out last, where Linux threads it through the free
    objects; struct page's slab fields are an object of their own, because only few frames are slabs.
Owns: SlabState (kernel.slab): every cache, and which frames are slabs.
Invariants: see mm/slub_check.py.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.slotted import field, slotted

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.tracepoint import Tracepoints
    from glasskernel.machine.machine import Machine

PAGE_OFFSET = 0xFFFF_8880_0000_0000               # the direct map: where physical address 0 lies

# slab_flags_t (include/linux/slab.h)
SLAB_HWCACHE_ALIGN, SLAB_CACHE_DMA, SLAB_PANIC = 0x2000, 0x4000, 0x40000
SLAB_RECLAIM_ACCOUNT, SLAB_TYPESAFE_BY_RCU, SLAB_MEM_SPREAD, SLAB_ACCOUNT = 0x20000, 0x80000, 0x100000, 0x4000000


@slotted
class SlabPage:
    """A slab: struct page's fields for one. freelist: its free objects, but not those that a CPU has taken.

    inuse: objects that are not in freelist. frozen: a CPU has it (as its slab or in its partial list); otherwise it is
    in the node's partial list if it has free objects, and in no list if it is full.
    """

    slab_cache: KmemCache
    pfn: int
    order: int
    objects: int
    freelist: list[int]
    inuse: int = 0
    frozen: bool = False


@slotted
class KmemCacheCpu:
    """struct kmem_cache_cpu: one CPU's objects at hand, the slab they are of, and further slabs with free objects."""

    freelist: list[int]
    page: SlabPage | None
    partial: list[SlabPage] = field(default_factory=list)
    pobjects: int = 0                              # free objects of `partial` when each was put there


@slotted
class KmemCacheNode:
    """struct kmem_cache_node. partial: the slabs with free objects that no CPU has, in Linux's list order."""

    partial: dict[SlabPage, None] = field(default_factory=dict)
    nr_slabs: int = 0
    total_objects: int = 0

    @property
    def nr_partial(self) -> int:
        return len(self.partial)


@slotted
class KmemCache:
    """struct kmem_cache: a kind of objects.

    object_size: what the caller asked for; size: with alignment and what SLUB adds; inuse: where its own data would
    begin. pages: SlabState.pages. ctor: has one.
    """

    kernel: Kernel
    machine: Machine
    tp: Tracepoints
    pages: dict[int, SlabPage]
    name: bytes
    object_size: int
    size: int
    align: int
    flags: int
    ctor: bool
    oo_order: int
    oo_objects: int
    min_order: int
    allocflags: int
    min_partial: int
    cpu_partial: int
    cpu_slab: list[KmemCacheCpu]
    no_cpu_slab: KmemCacheCpu                      # what stands in cpu_slab for a CPU that has not allocated yet
    node: KmemCacheNode = field(default_factory=KmemCacheNode)
    inuse: int = 0
    refcount: int = 1
    slab_address: int = 0                          # of struct kmem_cache itself
    node_address: int = 0                          # of its struct kmem_cache_node


class SlabState:
    """kernel.slab. caches: in the order they were made (slab_caches). pages: the slab that a frame is part of, by pfn.

    kmalloc_caches[type][index]: for kmalloc(); large: order of the blocks that kmalloc() took from the buddies.
    The named caches are made by the rooms whose objects they hold.
    """

    # kernel/fork.c, kernel/pid.c, kernel/cred.c
    task_struct_cachep: KmemCache
    signal_cachep: KmemCache
    sighand_cachep: KmemCache
    files_cachep: KmemCache
    fs_cachep: KmemCache
    mm_cachep: KmemCache
    vm_area_cachep: KmemCache
    pid_cachep: KmemCache
    cred_jar: KmemCache
    # mm/
    vmap_area_cachep: KmemCache
    # fs/
    names_cachep: KmemCache
    dentry_cache: KmemCache
    inode_cachep: KmemCache                        # of file systems without one of their own
    shmem_inode_cachep: KmemCache
    proc_inode_cachep: KmemCache
    bdev_cachep: KmemCache
    ext4_inode_cachep: KmemCache
    ovl_inode_cachep: KmemCache
    filp_cachep: KmemCache

    def __init__(self) -> None:
        self.caches: dict[bytes, KmemCache] = {}
        self.pages: dict[int, SlabPage] = {}
        self.large: dict[int, int] = {}
        self.kmalloc_caches: list[list[KmemCache]] = []
