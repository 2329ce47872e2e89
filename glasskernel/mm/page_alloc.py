"""Page frames: the buddy allocator, zones, per-CPU lists, and what Linux keeps in struct page.

Linux: mm/page_alloc.c, include/linux/mmzone.h, page-flags.h. Same: zones DMA, DMA32 and Normal, eleven orders,
split and merge of buddies, per-CPU lists of single frames, watermarks. Differs: one array per field of struct
page, indexed by pfn and backed by memory that the host only fills when it is touched, so that boot takes the
same time with 16 GB as with 512 MB. Gaps: migrate types, a second node, compaction, reclaim beyond clean page cache.
Owns: MemState (kernel.mem). Invariants: a free frame has refcount 0 and lies in exactly one free list or per-CPU
    list; free blocks are aligned to their order and never overlap; the sum of free blocks is nr_free.
"""
from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any, Literal

from glasskernel.kernel.current import register
from glasskernel.lib.errno import ENOMEM, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.machine.costs import CLEAR_PAGE
from glasskernel.mm.mempolicy import get_task_policy, get_vma_policy, policy_node, policy_nodemask

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.types import AddressSpace, VmAreaStruct

MAX_ORDER = 11
PAGE_SIZE = 4096
ZERO_PAGE = bytes(PAGE_SIZE)

# gfp flags (include/linux/gfp.h)
__GFP_DMA, __GFP_HIGHMEM, __GFP_DMA32, __GFP_MOVABLE, __GFP_RECLAIMABLE = 0x1, 0x2, 0x4, 0x8, 0x10
__GFP_IO, __GFP_FS, __GFP_ZERO, __GFP_ATOMIC, __GFP_DIRECT_RECLAIM = 0x40, 0x80, 0x100, 0x200, 0x400
__GFP_NOWARN, __GFP_NORETRY, __GFP_HARDWALL, __GFP_ACCOUNT = 0x2000, 0x10000, 0x100000, 0x400000
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

# counters (include/linux/mmzone.h, enum node_stat_item and zone_stat_item): MemState.vm_stat
(NR_ANON_MAPPED, NR_FILE_MAPPED, NR_FILE_PAGES, NR_FILE_DIRTY, NR_WRITEBACK, NR_SHMEM, NR_PAGETABLE,
 NR_MLOCK, NR_UNEVICTABLE, NR_DIRTIED, NR_WRITTEN, NR_SLAB_RECLAIMABLE, NR_SLAB_UNRECLAIMABLE,
 NR_KERNEL_STACK_KB) = range(14)
# events (include/linux/vm_event_item.h): MemState.vm_event
(PGALLOC, PGFREE, PGFAULT, PGMAJFAULT, PGSTEAL, PGSCAN, PGPGIN, PGPGOUT, DROP_PAGECACHE, DROP_SLAB) = range(10)

_PCP_BATCH, _PCP_HIGH = 31, 186
_BUDDY_NONE = 0xFF


@slotted
class Zone:
    """struct zone: a range of frames. free_area[order]: first pfn of each free block, newest last."""

    name: str
    start_pfn: int
    end_pfn: int
    managed_pages: int = 0
    nr_free: int = 0                                       # frames in free_area, without the per-CPU lists
    watermark: tuple[int, int, int] = (0, 0, 0)            # min, low, high
    node: int = 0
    free_area: list[dict[int, None]] = field(default_factory=lambda: [{} for _ in range(MAX_ORDER)])
    pcp: list[list[int]] = field(default_factory=list)     # per CPU


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
    """

    __slots__ = ("_buddy_order", "engine", "flags", "index", "kernel", "machine", "mapcount", "mapping", "max_pfn",
                 "nr_cpus", "private", "ram", "ram64", "refcount", "totalram_pages", "vm_committed", "vm_event",
                 "vm_stat", "zero_pfn", "zones")

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
        self.vm_stat = [0] * 14
        self.vm_event = [0] * 10
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


def mem_init(kernel: Kernel) -> None:
    """Makes kernel.mem and gives all frames above 1 MB to the buddy allocator (free_area_init_nodes, memblock)."""
    mem = kernel.mem = MemState(kernel)
    top = mem.max_pfn
    start = 0x100                                          # the first megabyte is the firmware's and the engine's
    for name, low, high in (("DMA", start, 0x1000), ("DMA32", 0x1000, 0x100000), ("Normal", 0x100000, top)):
        if low < min(high, top):
            zone = Zone(name, 1 if name == "DMA" else low, min(high, top))
            zone.pcp = [[] for _ in range(mem.nr_cpus)]
            mem.zones.append(zone)
            _free_range(mem, zone, low, min(high, top))
            zone.managed_pages = zone.nr_free
    mem.totalram_pages = sum(z.managed_pages for z in mem.zones)
    # __setup_per_zone_wmarks(): sqrt(lowmem_kbytes * 16) pages, split by size
    min_free_kbytes = min(max(int((mem.totalram_pages * 4 * 16) ** 0.5), 128), 65536)
    for zone in mem.zones:
        low = min_free_kbytes // 4 * zone.managed_pages // mem.totalram_pages
        step = max(low // 4, zone.managed_pages * 10 // 10000)
        zone.watermark = (low, low + step, low + 2 * step)
    mem.zero_pfn = __alloc_pages_nodemask(kernel, GFP_KERNEL | __GFP_ZERO, 0, 0, None)
    mem.flags[mem.zero_pfn] |= PG_reserved


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
    return __alloc_pages_nodemask(kernel, gfp, order, policy_node(policy, 0), policy_nodemask(policy))


def alloc_pages_vma(kernel: Kernel, gfp: int, order: int, vma: VmAreaStruct) -> int:
    """Frames for user memory, as the area's policy says (mm/mempolicy.c). Raises ENOMEM."""
    policy = get_vma_policy(vma, register.task)
    return __alloc_pages_nodemask(kernel, gfp, order, policy_node(policy, 0), policy_nodemask(policy))


def __get_free_pages(kernel: Kernel, gfp: int, order: int) -> int:
    return alloc_pages(kernel, gfp & ~__GFP_HIGHMEM, order)


def get_zeroed_page(kernel: Kernel, gfp: int) -> int:
    """A frame of zeros that only the kernel uses. Raises ENOMEM."""
    return __get_free_pages(kernel, gfp | __GFP_ZERO, 0)


def __alloc_pages_nodemask(kernel: Kernel, gfp: int, order: int, preferred_nid: int, nodemask: int | None) -> int:
    mem = kernel.mem
    pfn = get_page_from_freelist(mem, gfp, order, nodemask)
    if pfn is None:
        pfn = __alloc_pages_slowpath(kernel, gfp, order, nodemask)
    mem.vm_event[PGALLOC] += 1 << order
    probe = kernel.tp.mm_page_alloc
    if probe is not None:
        probe(pfn, order, gfp, gfpflags_to_migratetype(gfp))
    return pfn


def prep_new_page(mem: MemState, pfn: int, order: int, gfp: int) -> int:
    """A frame fresh from the free lists gets its first reference, and zeros if wanted."""
    mem.refcount[pfn] = 1
    if gfp & __GFP_ZERO:
        mem.machine.charge(CLEAR_PAGE << order)
        mem.ram[pfn << 12 : (pfn + (1 << order)) << 12] = ZERO_PAGE if not order else bytes(PAGE_SIZE << order)
    return pfn


@notrace
def gfpflags_to_migratetype(gfp: int) -> int:
    """MIGRATE_UNMOVABLE, MOVABLE or RECLAIMABLE. The free lists do not tell them apart."""
    return (gfp & (__GFP_MOVABLE | __GFP_RECLAIMABLE)) >> 3


def get_page_from_freelist(mem: MemState, gfp: int, order: int, nodemask: int | None) -> int | None:
    """Tries the zones from the highest one down, as node_zonelist() orders them; None if all are at their mark."""
    zones = mem.zones
    top = 0 if gfp & __GFP_DMA else min(1, len(zones) - 1) if gfp & __GFP_DMA32 else len(zones) - 1
    for i in range(top, -1, -1):
        zone = zones[i]
        if zone.nr_free - (1 << order) < zone.watermark[0] or (nodemask is not None and not nodemask >> zone.node & 1):
            continue
        pfn = rmqueue(mem, zone, order)
        if pfn is not None:
            return prep_new_page(mem, pfn, order, gfp)
    return None


def __alloc_pages_slowpath(kernel: Kernel, gfp: int, order: int, nodemask: int | None) -> int:
    """Frees clean page cache, then tries again, at last below the watermark."""
    mem = kernel.mem
    drain_all_pages(mem)
    pfn = get_page_from_freelist(mem, gfp, order, nodemask)
    if pfn is None and kernel.shrink_page_cache(256 << order):
        pfn = get_page_from_freelist(mem, gfp, order, nodemask)
    if pfn is None and gfp & __GFP_ATOMIC:
        for zone in reversed(mem.zones):
            pfn = rmqueue(mem, zone, order)
            if pfn is not None:
                return prep_new_page(mem, pfn, order, gfp)
    if pfn is None:
        raise KernelError(ENOMEM)
    return pfn


def rmqueue(mem: MemState, zone: Zone, order: int) -> int | None:
    """Takes a block from a zone: single frames from this CPU's list."""
    if order:
        return __rmqueue_smallest(mem, zone, order)
    pcp = zone.pcp[mem.machine.this_cpu.id]
    if not pcp:
        rmqueue_bulk(mem, zone, pcp)
        if not pcp:
            return None
    return pcp.pop()


def rmqueue_bulk(mem: MemState, zone: Zone, pcp: list[int]) -> None:
    """Fills a per-CPU list with up to one batch."""
    for _ in range(_PCP_BATCH):
        pfn = __rmqueue_smallest(mem, zone, 0)
        if pfn is None:
            break
        pcp.append(pfn)
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
    """Nobody holds the frame any more."""
    free_unref_page(mem, pfn)


free_page = put_page


@notrace
def zone_of(mem: MemState, pfn: int) -> Zone:
    """page_zone()"""
    if pfn >= 0x100000:
        return mem.zones[2]
    return mem.zones[1] if pfn >= 0x1000 else mem.zones[0]


def free_unref_page(mem: MemState, pfn: int) -> None:
    """A frame without references goes to this CPU's list, or back to the buddies when that is full."""
    free_pcp_prepare(mem, pfn)
    free_unref_page_commit(mem, pfn)


def free_unref_page_list(mem: MemState, pages: list[int]) -> None:
    """free_unref_page() for many."""
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
    mem.vm_event[PGFREE] += 1


def free_unref_page_commit(mem: MemState, pfn: int) -> None:
    """Onto the per-CPU list."""
    zone = zone_of(mem, pfn)
    pcp = zone.pcp[mem.machine.this_cpu.id]
    pcp.append(pfn)
    if len(pcp) >= _PCP_HIGH:
        free_pcppages_bulk(mem, zone, pcp, _PCP_BATCH)


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
