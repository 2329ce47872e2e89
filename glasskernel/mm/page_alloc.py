"""Page frames: the buddy allocator, zones, per-CPU lists, and what Linux keeps in struct page.

Linux: mm/page_alloc.c, include/linux/mmzone.h, page-flags.h. Same: zones DMA, DMA32 and Normal, eleven orders,
split and merge of buddies, per-CPU lists of single frames, watermarks. Differs: one array per field of struct
page, indexed by pfn and backed by memory that the host only fills when it is touched, so that boot takes the
same time with 16 GB as with 512 MB. The slow path is in mm/page_alloc_slow.py. Gaps: migrate types (and with them
boosted watermarks and the reserve for GFP_ATOMIC blocks), compaction, hot-plugged memory.
More than one node (MemState.numa): each has zones of its own, and a zonelist, which has its own zones first; they are
made by arch/x86/mm/numa.py. All have the same lruvec: reclaim passes over the others' pages (mm/vmscan.py).
Owns: MemState (kernel.mem). Invariants: a free frame has refcount 0 and lies in exactly one free list or per-CPU
    list; free blocks are aligned to their order and never overlap; the sum of free blocks is nr_free; a frame with
    PG_lru lies in the list that its flags tell (mm/swap.py), any other in none.
"""
from __future__ import annotations

import mmap
from collections import OrderedDict
from collections.abc import Callable
from math import isqrt
from typing import TYPE_CHECKING, Any, Literal

from glasskernel.kernel.current import register
from glasskernel.kernel.sched.wait import WaitQueueHead
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.machine.costs import CLEAR_PAGE
from glasskernel.mm.mempolicy import (
    MPOL_INTERLEAVE,
    get_task_policy,
    get_vma_policy,
    interleave_nid,
    interleave_nodes,
    policy_node,
    policy_nodemask,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.task import TaskStruct
    from glasskernel.mm.rmap import AnonVma
    from glasskernel.mm.types import AddressSpace, VmAreaStruct

MAX_ORDER = 11
PAGE_SIZE = 4096
ZERO_PAGE = bytes(PAGE_SIZE)

# gfp flags (include/linux/gfp.h)
__GFP_DMA, __GFP_HIGHMEM, __GFP_DMA32, __GFP_MOVABLE, __GFP_RECLAIMABLE = 0x1, 0x2, 0x4, 0x8, 0x10
__GFP_HIGH, __GFP_IO, __GFP_FS, __GFP_ZERO, __GFP_ATOMIC = 0x20, 0x40, 0x80, 0x100, 0x200
__GFP_DIRECT_RECLAIM, __GFP_KSWAPD_RECLAIM, __GFP_NOWARN = 0x400, 0x800, 0x2000
__GFP_RETRY_MAYFAIL, __GFP_NOFAIL, __GFP_NORETRY, __GFP_MEMALLOC = 0x4000, 0x8000, 0x10000, 0x20000
__GFP_NOMEMALLOC, __GFP_HARDWALL, __GFP_ACCOUNT = 0x80000, 0x100000, 0x400000
__GFP_THISNODE = 0x200000
_LOW_ZONES = __GFP_DMA | __GFP_DMA32
GFP_NOWAIT = __GFP_KSWAPD_RECLAIM
GFP_ATOMIC = __GFP_HIGH | __GFP_ATOMIC | __GFP_KSWAPD_RECLAIM
GFP_KERNEL = 0xCC0
GFP_KERNEL_ACCOUNT = GFP_KERNEL | __GFP_ACCOUNT
GFP_HIGHUSER_MOVABLE = GFP_KERNEL | __GFP_HARDWALL | __GFP_HIGHMEM | __GFP_MOVABLE

# frame flags: Linux's page flags, and PG_exec of our own
PG_locked, PG_referenced, PG_uptodate, PG_dirty, PG_lru, PG_active = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20
PG_writeback, PG_readahead, PG_swapbacked = 0x40, 0x80, 0x100
PG_unevictable, PG_mlocked, PG_reserved = 0x200, 0x400, 0x800
PG_table = 0x1000
PG_anon = 0x2000
PG_exec = 0x4000               # the engine may hold translated code of this frame
PG_error, PG_private, PG_checked, PG_reclaim = 0x8000, 0x10000, 0x20000, 0x40000     # PG_private: mem.private has it
PG_swapcache = 0x80000

# counters (include/linux/mmzone.h, enum node_stat_item and zone_stat_item): MemState.vm_stat
(NR_ANON_MAPPED, NR_FILE_MAPPED, NR_FILE_PAGES, NR_FILE_DIRTY, NR_WRITEBACK, NR_SHMEM, NR_PAGETABLE,
 NR_MLOCK, NR_DIRTIED, NR_WRITTEN, NR_SLAB_RECLAIMABLE, NR_SLAB_UNRECLAIMABLE,
 NR_KERNEL_STACK_KB, NR_ISOLATED_ANON, NR_ISOLATED_FILE, NR_VMSCAN_WRITE, NR_VMSCAN_IMMEDIATE) = range(17)
NR_VM_STAT_ITEMS = 17
# events (include/linux/vm_event_item.h): MemState.vm_event
(PGALLOC, PGFREE, PGFAULT, PGMAJFAULT, PGPGIN, PGPGOUT, PSWPIN, PSWPOUT, DROP_PAGECACHE, DROP_SLAB, OOM_KILL,
 ALLOCSTALL_DMA, ALLOCSTALL_DMA32, ALLOCSTALL_NORMAL, PGACTIVATE, PGDEACTIVATE, PGREFILL,
 PGSTEAL_KSWAPD, PGSTEAL_DIRECT, PGSCAN_KSWAPD, PGSCAN_DIRECT, PGSCAN_DIRECT_THROTTLE, PGINODESTEAL, SLABS_SCANNED,
 KSWAPD_INODESTEAL, KSWAPD_LOW_WMARK_HIT_QUICKLY, KSWAPD_HIGH_WMARK_HIT_QUICKLY, PAGEOUTRUN, PGROTATED,
 UNEVICTABLE_PGCULLED, UNEVICTABLE_PGRESCUED, UNEVICTABLE_PGMLOCKED, UNEVICTABLE_PGMUNLOCKED,
 UNEVICTABLE_PGCLEARED, UNEVICTABLE_PGSTRANDED, PGMIGRATE_SUCCESS, PGMIGRATE_FAIL) = range(37)
NR_VM_EVENT_ITEMS = 37

# enum numa_stat_item: Zone.vm_numa_stat
NUMA_HIT, NUMA_MISS, NUMA_FOREIGN, NUMA_INTERLEAVE_HIT, NUMA_LOCAL, NUMA_OTHER = range(6)

# enum lru_list: MemState.lru
LRU_INACTIVE_ANON, LRU_ACTIVE_ANON, LRU_INACTIVE_FILE, LRU_ACTIVE_FILE, LRU_UNEVICTABLE = range(5)

WMARK_MIN, WMARK_LOW, WMARK_HIGH = range(3)
# alloc_flags (mm/internal.h): the first two bits are a WMARK_*
ALLOC_WMARK_MIN, ALLOC_WMARK_LOW, ALLOC_WMARK_HIGH, ALLOC_NO_WATERMARKS = WMARK_MIN, WMARK_LOW, WMARK_HIGH, 0x4
ALLOC_WMARK_MASK, ALLOC_OOM, ALLOC_HARDER, ALLOC_HIGH = 0x3, 0x8, 0x10, 0x20

_BUDDY_NONE = 0xFF
ZONE_DMA, ZONE_DMA32, ZONE_NORMAL = range(3)               # enum zone_type
_ZONES = ("DMA", 0x100, 0x1000), ("DMA32", 0x1000, 0x100000), ("Normal", 0x100000, 1 << 52)
NUMA_NO_NODE = -1
PAGES_PER_SECTION = 1 << 12                                # no zone, and no node, begins within a section


@slotted
class Zone:
    """struct zone: a range of frames. free_area[order]: first pfn of each free block, newest last."""

    name: str
    start_pfn: int
    end_pfn: int
    idx: int                                               # zone_idx(): ZONE_*
    managed_pages: int = 0
    nr_free: int = 0                                       # frames in free_area, without the per-CPU lists
    watermark: tuple[int, int, int] = (0, 0, 0)            # min, low, high
    lowmem_reserve: list[int] = field(default_factory=list)            # kept from who could have zone N as well
    low_marks: list[int] = field(default_factory=list)     # watermark[WMARK_LOW] + lowmem_reserve[N]
    node: int = 0
    pcp_batch: int = 1
    pcp_high: int = 0
    free_area: list[dict[int, None]] = field(default_factory=lambda: [{} for _ in range(MAX_ORDER)])
    pcp: list[list[int]] = field(default_factory=list)     # per CPU
    vm_numa_stat: list[int] = field(default_factory=lambda: [0] * 6)       # NUMA_*, if there is more than one node


@slotted
class PglistData:
    """struct pglist_data: the node, as far as its zones do not have it: kswapd, and what reclaim learned.

    recent_rotated, recent_scanned: of struct zone_reclaim_stat, for anonymous and for file pages; node 0's are for all.
    node_zonelist: where an allocation that prefers this node looks: its zones from the highest down, then those of the
        other nodes, the nearest one's first.
    """

    node_id: int = 0
    node_start_pfn: int = 0
    node_end_pfn: int = 0
    node_zones: list[Zone] = field(default_factory=list)
    node_zonelist: list[Zone] = field(default_factory=list)
    kswapd: TaskStruct | None = None
    kswapd_wait: WaitQueueHead = field(default_factory=WaitQueueHead)
    pfmemalloc_wait: WaitQueueHead = field(default_factory=WaitQueueHead)
    kswapd_order: int = 0
    kswapd_classzone_idx: int = -1                         # MAX_NR_ZONES in Linux: nobody asked
    kswapd_failures: int = 0                               # runs that reclaimed nothing
    flags: int = 0                                         # PGDAT_*
    totalreserve_pages: int = 0
    recent_rotated: list[int] = field(default_factory=lambda: [0, 0])
    recent_scanned: list[int] = field(default_factory=lambda: [0, 0])


@notrace
def _sparse(count: int, code: Literal["B", "I", "Q"], width: int) -> memoryview:
    """An array of zeros that costs nothing until it is touched."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
    return memoryview(mmap.mmap(-1, max(count * width, 4096), flags=flags)).cast(code)


class MemState:
    """kernel.mem: every frame's fields and the zones.

    refcount, mapcount (how many page-table entries), flags (PG_*), index (page index in `mapping`): by pfn.
    mapping: the page cache that holds a frame, by pfn, in the order they were added (that is the LRU's order).
    private: page->private of frames with PG_private: the first BufferHead of a page with buffers.
    lru: the lists of struct lruvec by LRU_*, each from its tail (reclaimed first) to its head. A list's length is its
        counter NR_INACTIVE_ANON ... The inactive ones are OrderedDicts: a page may move to their tail.
    lru_by_flags: lru[page_lru(flags)] by flags >> 5 & 31: PG_active, PG_swapbacked and PG_unevictable are there.
    """

    __slots__ = ("_buddy_order", "anon_vma", "anon_vmas", "engine", "flags", "index", "kernel", "lru", "lru_by_flags",
                 "machine", "mapcount", "mapping", "max_pfn", "min_free_kbytes", "node_data", "node_distance",
                 "node_to_cpumask", "nodes_online", "nr_anon_vmas", "nr_blocks", "nr_cpus", "nr_zones", "numa",
                 "numa_stat_since", "oom_lock", "pgdat", "private", "ram", "ram64", "refcount", "section_zone",
                 "sysctl_lowmem_reserve_ratio",
                 "totalram_pages", "totalreserve_pages", "user_min_free_kbytes", "vm_committed", "vm_event",
                 "vm_stat", "vm_swappiness", "watermark_scale_factor", "zero_pfn", "zonelist", "zones")

    def __init__(self, kernel: Kernel) -> None:
        machine = kernel.machine
        frames = machine.memory >> 12
        self.kernel = kernel
        self.machine = machine
        self.ram = machine.ram
        self.ram64 = machine.ram64
        self.engine = machine.engine
        self.max_pfn = frames
        self.refcount = _sparse(frames, "I", 4)
        self.mapcount = _sparse(frames, "I", 4)
        self.flags = _sparse(frames, "I", 4)
        self.index = _sparse(frames, "Q", 8)
        self._buddy_order = _sparse(frames, "B", 1)        # order + 1 of the free block here; the largest need none
        self.mapping: dict[int, AddressSpace] = {}
        self.private: dict[int, Any] = {}
        self.anon_vma = _sparse(frames, "I", 4)            # page->mapping of anonymous frames, as a number
        self.anon_vmas: dict[int, AnonVma] = {}
        self.nr_anon_vmas = 0                              # since boot
        self.vm_stat = [0] * NR_VM_STAT_ITEMS
        self.vm_event = [0] * NR_VM_EVENT_ITEMS
        self.lru: tuple[dict[int, None], ...] = (OrderedDict(), {}, OrderedDict(), {}, {})
        self.lru_by_flags = tuple([self.lru[page_lru(bits << 5)] for bits in range(32)])
        self.pgdat = PglistData()                          # node 0's
        self.node_data = [self.pgdat]                      # NODE_DATA()
        self.node_distance = [[10]]
        self.node_to_cpumask = [(1 << len(machine.cpus)) - 1]
        self.nodes_online = 1                              # mask
        self.numa = False                                  # more than one node
        self.numa_stat_since: int | None = 0               # vm.numa_stat: counted from this allocation on; None: off
        self.nr_zones = 1                                  # 1 + the highest ZONE_* there is
        self.nr_blocks = 0                                 # frames of larger blocks handed out, but for the first ones
        self.zonelist: list[Zone] = []                     # the only node's, or node 0's
        self.section_zone: list[Zone] = []                 # page_zone() by pfn // PAGES_PER_SECTION
        self.min_free_kbytes: int = 0
        self.user_min_free_kbytes = -1                     # what was written to the sysctl
        self.watermark_scale_factor: int = 10                   # of 10,000
        self.sysctl_lowmem_reserve_ratio = [256, 256, 32, 0, 0]            # DMA, DMA32, Normal, Movable, Device
        self.vm_swappiness = 60
        self.totalreserve_pages = 0
        self.oom_lock = False                              # somebody calls the OOM killer
        self.vm_committed = 0
        self.zones: list[Zone] = []
        self.totalram_pages = 0
        self.nr_cpus = len(machine.cpus)
        self.zero_pfn = 0

    def note_kernel_write(self, pfn: int) -> bool:
        """To be called before Python changes a frame that user code may have run from. False: it had been."""
        if self.flags[pfn] & PG_exec:
            self.engine.forget_code(pfn)
            return False
        return True


def mem_init(kernel: Kernel, initmem_init: Callable[[Kernel], None] | None = None) -> None:
    """Makes kernel.mem and gives all frames above 1 MB to the buddy allocator (free_area_init_nodes, memblock).

    initmem_init: makes the nodes, if there may be several.
    """
    mem = kernel.mem = MemState(kernel)
    if initmem_init is not None:
        initmem_init(kernel)
    else:
        free_area_init_node(mem, mem.pgdat, 0, mem.max_pfn)
        mem.zonelist = mem.pgdat.node_zonelist = mem.zones[::-1]
    mem.totalram_pages = sum(z.managed_pages for z in mem.zones)
    init_per_zone_wmark_min(mem)
    # There is no task yet, whose policy could say where.
    zero = get_page_from_freelist(mem, GFP_KERNEL | __GFP_ZERO, 0, ALLOC_WMARK_LOW, mem.zonelist)
    assert zero is not None
    mem.vm_event[PGALLOC] += 1
    mem.zero_pfn = zero
    mem.flags[mem.zero_pfn] |= PG_reserved


def free_area_init_node(mem: MemState, pgdat: PglistData, start_pfn: int, end_pfn: int) -> None:
    """The zones of a node. Their frames are free, but for the first megabyte, the firmware's and the engine's."""
    pgdat.node_start_pfn, pgdat.node_end_pfn = start_pfn, end_pfn
    for idx, (name, low, high) in enumerate(_ZONES):
        low, high = max(low, start_pfn), min(high, end_pfn)
        if low < high:
            zone = Zone(name, low if idx else 1, high, idx, node=pgdat.node_id)
            zone.pcp = [[] for _ in range(mem.nr_cpus)]
            mem.zones.append(zone)
            pgdat.node_zones.append(zone)
            mem.nr_zones = max(mem.nr_zones, idx + 1)
            mem.section_zone += [zone] * (-(-high // PAGES_PER_SECTION) - len(mem.section_zone))
            _free_range(mem, zone, low, high)
            zone.managed_pages = zone.nr_free
            batch = zone_batchsize(zone)
            zone.pcp_batch, zone.pcp_high = max(1, batch), 6 * batch           # pageset_set_batch()


@notrace
def zone_batchsize(zone: Zone) -> int:
    """How many frames move at once between a zone's free lists and a per-CPU list: a thousandth, at most 512 KB."""
    batch = min(zone.managed_pages // 1024, 512 * 1024 // PAGE_SIZE) // 4 or 1
    return (1 << (batch + batch // 2).bit_length() - 1) - 1


# ---- watermarks -------------------------------------------------------------------------------------------------
def init_per_zone_wmark_min(mem: MemState) -> None:
    """vm.min_free_kbytes after the size of memory, unless somebody wrote more to it, and all that follows from it."""
    new_min_free_kbytes = isqrt(nr_free_buffer_pages(mem) * (PAGE_SIZE >> 10) * 16)
    if new_min_free_kbytes > mem.user_min_free_kbytes:
        mem.min_free_kbytes = min(max(new_min_free_kbytes, 128), 65536)
    setup_per_zone_wmarks(mem)
    setup_per_zone_lowmem_reserve(mem)


def nr_free_buffer_pages(mem: MemState) -> int:
    """Frames beyond the high watermarks."""
    return sum(max(zone.managed_pages - zone.watermark[WMARK_HIGH], 0) for zone in mem.zones)


def setup_per_zone_wmarks(mem: MemState) -> None:
    """After min_free_kbytes or watermark_scale_factor changed."""
    __setup_per_zone_wmarks(mem)


def __setup_per_zone_wmarks(mem: MemState) -> None:
    """min: the zone's share of min_free_kbytes; low and high: steps of a quarter of that above, or of the factor."""
    pages_min = mem.min_free_kbytes // (PAGE_SIZE >> 10)
    for zone in mem.zones:
        low = pages_min * zone.managed_pages // mem.totalram_pages
        step = max(low // 4, zone.managed_pages * mem.watermark_scale_factor // 10000)
        zone.watermark = (low, low + step, low + 2 * step)
    calculate_totalreserve_pages(mem)


def setup_per_zone_lowmem_reserve(mem: MemState) -> None:
    """What each zone keeps from allocations that could have higher zones: a part of their size."""
    for pgdat in mem.node_data:
        for zone in pgdat.node_zones:
            ratio = mem.sysctl_lowmem_reserve_ratio[zone.idx]
            zone.lowmem_reserve = [sum(z.managed_pages for z in pgdat.node_zones if zone.idx < z.idx <= j) // ratio
                                   if ratio else 0 for j in range(mem.nr_zones)]
    calculate_totalreserve_pages(mem)


def calculate_totalreserve_pages(mem: MemState) -> None:
    """Frames that nobody can count on: below the high watermarks, and lowmem_reserve."""
    mem.totalreserve_pages = 0
    for pgdat in mem.node_data:
        pgdat.totalreserve_pages = 0
        for zone in pgdat.node_zones:
            low = zone.watermark[WMARK_LOW]
            zone.low_marks = [low + kept for kept in zone.lowmem_reserve]
            pgdat.totalreserve_pages += min(max(zone.lowmem_reserve, default=0) + zone.watermark[WMARK_HIGH],
                                            zone.managed_pages)
        mem.totalreserve_pages += pgdat.totalreserve_pages


@notrace
def _free_range(mem: MemState, zone: Zone, pfn: int, end: int) -> None:
    orders = mem._buddy_order
    while pfn < end:
        order = min((pfn & -pfn).bit_length() - 1, MAX_ORDER - 1)
        if order == MAX_ORDER - 1:                         # all the largest blocks at once: boot is the same for 16 GB
            size = 1 << order
            blocks = (end - pfn) // size
            zone.free_area[order].update(dict.fromkeys(range(pfn, pfn + blocks * size, size)))
            zone.nr_free += blocks * size
            pfn += blocks * size
            if pfn == end:
                return
        while pfn + (1 << order) > end:
            order -= 1
        zone.free_area[order][pfn] = None
        orders[pfn] = order + 1
        zone.nr_free += 1 << order
        pfn += 1 << order


# ---- allocation -------------------------------------------------------------------------------------------------
@notrace
def alloc_page(kernel: Kernel, gfp: int) -> int:
    """One frame with refcount 1; zero-filled with __GFP_ZERO. Raises ENOMEM."""
    return alloc_pages_current(kernel, gfp, 0)


@notrace
def alloc_pages(kernel: Kernel, gfp: int, order: int) -> int:
    """The first pfn of 2**order frames in a row; the first one's refcount is 1. Raises ENOMEM."""
    return alloc_pages_current(kernel, gfp, order)


def alloc_pages_current(kernel: Kernel, gfp: int, order: int) -> int:
    """Frames as the task's policy says (mm/mempolicy.c). Raises ENOMEM."""
    policy = get_task_policy(register.task)
    if policy.mode == MPOL_INTERLEAVE:
        return alloc_page_interleave(kernel, gfp, order, interleave_nodes(register.task, policy))
    return __alloc_pages_nodemask(kernel, gfp, order, policy_node(policy, NUMA_NO_NODE), policy_nodemask(policy))


def alloc_pages_vma(kernel: Kernel, gfp: int, order: int, vma: VmAreaStruct, addr: int) -> int:
    """Frames for user memory at an address, as the area's policy says (mm/mempolicy.c). Raises ENOMEM."""
    policy = get_vma_policy(vma, register.task)
    if policy.mode == MPOL_INTERLEAVE:
        return alloc_page_interleave(kernel, gfp, order, interleave_nid(policy, vma, addr))
    return __alloc_pages_nodemask(kernel, gfp, order, policy_node(policy, NUMA_NO_NODE), policy_nodemask(policy))


def alloc_page_interleave(kernel: Kernel, gfp: int, order: int, nid: int) -> int:
    """Frames of the node whose turn it is (mm/mempolicy.c). Raises ENOMEM."""
    pfn = __alloc_pages_nodemask(kernel, gfp, order, nid, None)
    mem = kernel.mem
    zone = mem.section_zone[pfn >> 12]
    if zone.node == nid:
        __inc_numa_state(zone, NUMA_INTERLEAVE_HIT)
    return pfn


@notrace
def alloc_pages_node(kernel: Kernel, nid: int, gfp: int, order: int) -> int:
    """Frames of a node, or with __GFP_THISNODE only of that one, whatever the task's policy is. Raises ENOMEM."""
    return __alloc_pages_nodemask(kernel, gfp, order, nid, 1 << nid if gfp & __GFP_THISNODE else None)


def __get_free_pages(kernel: Kernel, gfp: int, order: int) -> int:
    return alloc_pages(kernel, gfp & ~__GFP_HIGHMEM, order)


def get_zeroed_page(kernel: Kernel, gfp: int) -> int:
    """A frame of zeros that only the kernel uses. Raises ENOMEM."""
    return __get_free_pages(kernel, gfp | __GFP_ZERO, 0)


def __alloc_pages_nodemask(kernel: Kernel, gfp: int, order: int, preferred_nid: int, nodemask: int | None) -> int:
    mem = kernel.mem
    zonelist = prepare_alloc_pages(mem, preferred_nid, nodemask, True) if mem.numa else mem.zonelist
    pfn = get_page_from_freelist(mem, gfp, order, ALLOC_WMARK_LOW, zonelist)
    if pfn is None:
        pfn = kernel.alloc_pages_slowpath(kernel, gfp, order, preferred_nid, nodemask)
    mem.vm_event[PGALLOC] += 1 << order
    probe = kernel.tp.mm_page_alloc
    if probe is not None:
        probe(pfn, order, gfp, gfpflags_to_migratetype(gfp))
    return pfn


def prep_new_page(mem: MemState, pfn: int, order: int, gfp: int) -> int:
    """A frame fresh from the free lists gets its first reference, and zeros if wanted."""
    mem.refcount[pfn] = 1
    if gfp & __GFP_ZERO:
        start = pfn << 12
        if not order:
            mem.machine.charge(CLEAR_PAGE)
            mem.ram[start : start + 4096] = ZERO_PAGE
        else:
            mem.machine.charge(CLEAR_PAGE << order)
            mem.ram[start : start + (PAGE_SIZE << order)] = bytes(PAGE_SIZE << order)
    return pfn


@notrace
def gfpflags_to_migratetype(gfp: int) -> int:
    """MIGRATE_UNMOVABLE, MOVABLE or RECLAIMABLE. The free lists do not tell them apart."""
    return (gfp & (__GFP_MOVABLE | __GFP_RECLAIMABLE)) >> 3


@notrace
def gfp_zone(mem: MemState, gfp: int) -> int:
    """The highest zone that an allocation may use: ZONE_*."""
    top = mem.nr_zones - 1
    return 0 if gfp & __GFP_DMA else min(1, top) if gfp & __GFP_DMA32 else top


@notrace
def prepare_alloc_pages(mem: MemState, preferred_nid: int, nodemask: int | None, hardwall: bool) -> list[Zone]:
    """The zones for an allocation in their order: those of a node's list that lie in the nodes of a mask.

    NUMA_NO_NODE: the node of this CPU. hardwall: they shall be of the task's cpuset, too. (Linux looks at a zone's node
    when it comes to it.)
    """
    nid = mem.machine.this_cpu.node if preferred_nid == NUMA_NO_NODE else preferred_nid
    zonelist = mem.node_data[nid].node_zonelist
    if hardwall and register.task.mems_allowed != -1:
        allowed = register.task.mems_allowed
        nodemask = allowed if nodemask is None else nodemask & allowed or nodemask
    return zonelist if nodemask is None else [zone for zone in zonelist if nodemask >> zone.node & 1]


def get_page_from_freelist(mem: MemState, gfp: int, order: int, alloc_flags: int, zonelist: list[Zone]) -> int | None:
    """Tries the zones in the order of node_zonelist(); None if all are at their mark."""
    if alloc_flags == 1 and not order and not mem.numa and not gfp & _LOW_ZONES:
        zone = zonelist[0]                                 # nearly always: the loop's first turn, which it saves
        if zone.nr_free > zone.low_marks[-1]:              # zone_watermark_fast(), inline
            pfn = rmqueue(mem, zone, 0)
            if pfn is not None:
                return prep_new_page(mem, pfn, 0, gfp)
    top = gfp_zone(mem, gfp)
    preferred_zone = None
    for zone in zonelist:
        if zone.idx > top:
            continue
        if preferred_zone is None:
            preferred_zone = zone
        if not alloc_flags & ALLOC_NO_WATERMARKS and not __zone_watermark_ok(
                zone, order, zone.watermark[alloc_flags & ALLOC_WMARK_MASK], preferred_zone.idx, alloc_flags,
                zone.nr_free):
            continue
        pfn = rmqueue(mem, zone, order)
        if pfn is not None:
            if mem.numa:
                zone_statistics(mem, preferred_zone, zone)
            return prep_new_page(mem, pfn, order, gfp)
    return None


@notrace
def zone_statistics(mem: MemState, preferred_zone: Zone, zone: Zone) -> None:
    """Counts whether an allocation got what it wanted, and whether that is near the CPU."""
    if mem.numa_stat_since is None:
        return
    local_node = mem.machine.this_cpu.node
    if zone.node == preferred_zone.node:
        __inc_numa_state(zone, NUMA_HIT)
    else:
        __inc_numa_state(zone, NUMA_MISS)
        __inc_numa_state(preferred_zone, NUMA_FOREIGN)
    __inc_numa_state(zone, NUMA_LOCAL if zone.node == local_node else NUMA_OTHER)


def __inc_numa_state(zone: Zone, item: int) -> None:
    """One allocation more (mm/vmstat.c)."""
    zone.vm_numa_stat[item] += 1


def __zone_watermark_ok(zone: Zone, order: int, mark: int, classzone_idx: int, alloc_flags: int,
                        free_pages: int) -> bool:
    """May a block of this order be taken, so that `mark` frames stay? Some allocations may go further down."""
    if alloc_flags & ALLOC_HIGH:
        mark -= mark // 2
    if alloc_flags & (ALLOC_HARDER | ALLOC_OOM):
        mark -= mark // 2 if alloc_flags & ALLOC_OOM else mark // 4
    if free_pages - ((1 << order) - 1) <= mark + zone.lowmem_reserve[classzone_idx]:
        return False
    return not order or any(zone.free_area[order:])


def zone_watermark_ok_safe(zone: Zone, order: int, mark: int, classzone_idx: int) -> bool:
    """The same with the free frames of now, for kswapd. (Linux adds what the CPUs' counters have not told yet.)"""
    return __zone_watermark_ok(zone, order, mark, classzone_idx, 0, zone.nr_free)


def rmqueue(mem: MemState, zone: Zone, order: int) -> int | None:
    """Takes a block from a zone: single frames from this CPU's list."""
    if order:
        block = __rmqueue_smallest(mem, zone, order)
        if block is not None:
            mem.nr_blocks += (1 << order) - 1
        return block
    pcp = zone.pcp[mem.machine.this_cpu.id]
    if not pcp:
        rmqueue_bulk(mem, zone, pcp)
        if not pcp:
            return None
    return pcp.pop()


def rmqueue_bulk(mem: MemState, zone: Zone, pcp: list[int]) -> None:
    """Fills a per-CPU list with up to one batch."""
    area, orders = zone.free_area[0], mem._buddy_order
    for _ in range(zone.pcp_batch):
        if area:                                           # __rmqueue_smallest(), inline: every second time
            pfn = next(iter(area))
            del area[pfn]
            orders[pfn] = 0
            zone.nr_free -= 1
            pcp.append(pfn)
            continue
        block = __rmqueue_smallest(mem, zone, 0)
        if block is None:
            break
        pcp.append(block)
    pcp.reverse()                                          # the first one taken is the lowest


def __rmqueue_smallest(mem: MemState, zone: Zone, order: int) -> int | None:
    for high in range(order, MAX_ORDER):
        area = zone.free_area[high]
        if area:
            pfn = next(iter(area))
            del area[pfn]
            mem._buddy_order[pfn] = 0
            expand(mem, zone, pfn, order, high)
            zone.nr_free -= 1 << order
            return pfn
    return None


def expand(mem: MemState, zone: Zone, pfn: int, low: int, high: int) -> None:
    """Gives the upper halves of a block that is too big back."""
    while high > low:
        high -= 1
        buddy = pfn + (1 << high)
        zone.free_area[high][buddy] = None
        mem._buddy_order[buddy] = high + 1


# ---- freeing ----------------------------------------------------------------------------------------------------
@notrace
def get_page(kernel: Kernel, pfn: int) -> None:
    """One more reference."""
    kernel.mem.refcount[pfn] += 1


@notrace
def put_page(kernel: Kernel, pfn: int) -> None:
    """One reference less; the last one frees the frame."""
    mem = kernel.mem
    count = mem.refcount[pfn] - 1
    mem.refcount[pfn] = count
    if not count:
        __put_page(mem, pfn)


def __put_page(mem: MemState, pfn: int) -> None:
    """Nobody holds the frame any more. (mm/swap.c)"""
    if mem.flags[pfn] & PG_lru:
        __page_cache_release(mem, pfn)
    free_unref_page(mem, pfn)


def __page_cache_release(mem: MemState, pfn: int) -> None:
    """Off its LRU list. (mm/swap.c)"""
    state = mem.flags[pfn]
    del mem.lru[page_lru(state)][pfn]
    mem.flags[pfn] = state & ~(PG_lru | PG_active | PG_unevictable)


@notrace
def page_lru(flags: int) -> int:
    """The list that a page with these flags is on, or belongs on (include/linux/mm_inline.h). See lru_by_flags, too."""
    if flags & PG_unevictable:
        return LRU_UNEVICTABLE
    return (LRU_INACTIVE_ANON if flags & PG_swapbacked else LRU_INACTIVE_FILE) + bool(flags & PG_active)


free_page = put_page


@notrace
def zone_of(mem: MemState, pfn: int) -> Zone:
    """page_zone()"""
    return mem.section_zone[pfn >> 12]


@notrace
def page_to_nid(mem: MemState, pfn: int) -> int:
    """The node that a frame lies in."""
    return mem.section_zone[pfn >> 12].node


def free_unref_page(mem: MemState, pfn: int) -> None:
    """A frame without references goes to this CPU's list, or back to the buddies when that is full."""
    free_pcp_prepare(mem, pfn)
    free_unref_page_commit(mem, pfn)
    mem.vm_event[PGFREE] += 1


def free_unref_page_list(mem: MemState, pages: list[int]) -> None:
    """free_unref_page() for many."""
    mem.vm_event[PGFREE] += len(pages)
    for pfn in pages:
        free_pcp_prepare(mem, pfn)
    for pfn in pages:
        free_unref_page_commit(mem, pfn)


def free_pcp_prepare(mem: MemState, pfn: int) -> None:
    """Takes what a frame was used for off it."""
    if mem.flags[pfn] & PG_exec:
        mem.engine.forget_code(pfn)
    assert not mem.mapcount[pfn], f"frame {pfn:#x} is freed while it is mapped"
    probe = mem.kernel.tp.mm_page_free
    if probe is not None:
        probe(pfn, 0)
    mem.flags[pfn] = 0


def free_unref_page_commit(mem: MemState, pfn: int) -> None:
    """Onto the per-CPU list."""
    zone = mem.section_zone[pfn >> 12]                     # zone_of(), inline
    pcp = zone.pcp[mem.machine.this_cpu.id]
    pcp.append(pfn)
    if len(pcp) >= zone.pcp_high:
        free_pcppages_bulk(mem, zone, pcp, zone.pcp_batch)


def page_alloc_cpu_dead(kernel: Kernel, cpu: int) -> None:
    """A CPU is gone: what it kept goes back to the buddies (drain_pages())."""
    for zone in kernel.mem.zones:
        pcp = zone.pcp[cpu]
        free_pcppages_bulk(kernel.mem, zone, pcp, len(pcp))


def free_pcppages_bulk(mem: MemState, zone: Zone, pcp: list[int], count: int) -> None:
    """The frames that have been on a per-CPU list for longest go back to the buddies."""
    for victim in pcp[:count]:
        __free_one_page(mem, zone, victim, 0)
    del pcp[:count]


def free_pages(kernel: Kernel, pfn: int, order: int) -> None:
    """Gives a block of __get_free_pages() back."""
    __free_pages(kernel, pfn, order)


def __free_pages(kernel: Kernel, pfn: int, order: int) -> None:
    """One reference less on a block of alloc_pages(); the last one frees it."""
    mem = kernel.mem
    count = mem.refcount[pfn] - 1
    mem.refcount[pfn] = count
    if count:
        return
    if not order:
        free_unref_page(mem, pfn)
    else:
        __free_pages_ok(mem, pfn, order)


def __free_pages_ok(mem: MemState, pfn: int, order: int) -> None:
    """A block goes back to the buddies at once."""
    probe = mem.kernel.tp.mm_page_free
    if probe is not None:
        probe(pfn, order)
    for frame in range(pfn, pfn + (1 << order)):
        if mem.flags[frame] & PG_exec:
            mem.engine.forget_code(frame)
        mem.flags[frame] = 0
        mem.refcount[frame] = 0
    mem.vm_event[PGFREE] += 1 << order
    free_one_page(mem, zone_of(mem, pfn), pfn, order)


def free_one_page(mem: MemState, zone: Zone, pfn: int, order: int) -> None:
    __free_one_page(mem, zone, pfn, order)


def __free_one_page(mem: MemState, zone: Zone, pfn: int, order: int) -> None:
    """Merges a block with its free buddies as far as it goes."""
    zone.nr_free += 1 << order
    orders = mem._buddy_order
    while order < MAX_ORDER - 1:
        buddy = pfn ^ (1 << order)
        if not zone.start_pfn <= buddy < zone.end_pfn or orders[buddy] != order + 1:
            break
        del zone.free_area[order][buddy]
        orders[buddy] = 0
        pfn &= buddy
        order += 1
    zone.free_area[order][pfn] = None
    orders[pfn] = order + 1


def drain_all_pages(mem: MemState) -> None:
    """Empties every per-CPU list into the buddy lists."""
    for zone in mem.zones:
        for pcp in zone.pcp:
            for pfn in pcp:
                __free_one_page(mem, zone, pfn, 0)
            pcp.clear()


# ---- figures ----------------------------------------------------------------------------------------------------
@notrace
def nr_free_pages(mem: MemState) -> int:
    """Free frames, per-CPU lists included (global_zone_page_state(NR_FREE_PAGES) and what /proc calls MemFree)."""
    return sum(z.nr_free + sum(len(p) for p in z.pcp) for z in mem.zones)


@notrace
def check_frames(kernel: Kernel) -> list[str]:
    """Invariants for tests: what is wrong with the free lists, in words; [] if nothing is."""
    mem, wrong, seen = kernel.mem, [], 0
    for zone in mem.zones:
        total = 0
        for order, area in enumerate(zone.free_area):
            for pfn in area:
                total += 1 << order
                if pfn & ((1 << order) - 1):
                    wrong.append(f"free block {pfn:#x} is not aligned to order {order}")
                if mem.refcount[pfn]:
                    wrong.append(f"free frame {pfn:#x} has references")
                if order < MAX_ORDER - 1 and mem._buddy_order[pfn] != order + 1:   # the largest have no buddy
                    wrong.append(f"free frame {pfn:#x} does not know its order")
        if total != zone.nr_free:
            wrong.append(f"zone {zone.name}: {total} free frames in lists, nr_free {zone.nr_free}")
        seen += total
    return wrong
