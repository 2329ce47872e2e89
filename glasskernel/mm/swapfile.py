"""Swap slots: finding free ones, counting their users, giving them back.

Linux: mm/swapfile.c (5.3), and delete_from_swap_cache() of mm/swap_state.c, which needs and is needed here. Same: areas
    in the order of priority, in turns where it is equal; slots in clusters of 256 in a row; a slot lives as long as a
    page-table entry or the swap cache holds it; half full, areas take back slots whose pages are in memory.
Differs: solid-state disks are filled in the same order as others, without a cluster for each CPU.
Owns: SwapInfoStruct.swap_map and its bounds, SwapState.nr_swap_pages.
Invariants: nr_swap_pages is the sum of pages of the areas that can be written, less the inuse_pages of all; a slot with
    SWAP_HAS_CACHE has a frame in the area's swap cache, but for the moment between taking it and adding the frame.
Gaps: caches of free slots for each CPU (mm/swap_slots.c), huge pages, discard of clusters, frontswap, cgroups.
"""
from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import NR_FILE_PAGES, PG_dirty, PG_swapcache, PG_writeback, put_page
from glasskernel.mm.pagemap import trylock_page, unlock_page
from glasskernel.mm.swap_types import (
    COUNT_CONTINUED,
    SWAP_HAS_CACHE,
    SWAP_MAP_BAD,
    SWAP_MAP_MAX,
    SWP_STABLE_WRITES,
    SWP_WRITEOK,
    SwapExtent,
    SwapInfoStruct,
    SwapState,
    swp_entry,
    swp_offset,
    swp_type,
    vm_swap_full,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

SWAPFILE_CLUSTER: Final = 256
_EMPTY_CLUSTER: Final = bytes(SWAPFILE_CLUSTER)
TTRS_ANYWAY, TTRS_UNMAPPED, TTRS_FULL = 0x1, 0x2, 0x4       # when __try_to_reclaim_swap() takes a slot back


@notrace
def swap_state(kernel: Kernel) -> SwapState:
    """kernel.swap, for who knows that there is one."""
    swap = kernel.swap
    assert swap is not None
    return swap


@notrace
def swp_swap_info(kernel: Kernel, entry: int) -> SwapInfoStruct:
    """The area of an entry that somebody holds."""
    return swap_state(kernel).info[swp_type(entry)]


def _swap_info_get(kernel: Kernel, entry: int) -> SwapInfoStruct:
    """swp_swap_info(), and the slot is one that is in use."""
    si = swp_swap_info(kernel, entry)
    assert swp_offset(entry) < si.max and si.swap_map[swp_offset(entry)], f"bad swap entry {entry:#x}"
    return si


# ---- taking slots -----------------------------------------------------------------------------------------------
def get_swap_page(kernel: Kernel) -> int:
    """A free slot for the swap cache, as an entry; 0: there is none. (mm/swap_slots.c)"""
    if not kernel.swap or kernel.swap.nr_swap_pages <= 0:
        return 0
    return get_swap_pages(kernel)


def get_swap_pages(kernel: Kernel) -> int:
    """The same; the area that gave it comes last among those of its priority. Linux takes several at once."""
    swap = swap_state(kernel)
    for si in tuple(swap.active):
        if not si.highest_bit:
            continue
        entry = scan_swap_map_slots(kernel, si, SWAP_HAS_CACHE)
        if entry:
            swap.nr_swap_pages -= 1
            if len(swap.active) > 1:
                swap.active.remove(si)
                plist_add(swap.active, si)
            return entry
    return 0


@notrace
def plist_add(active: list[SwapInfoStruct], si: SwapInfoStruct) -> None:
    """Behind those of the same priority."""
    active.insert(bisect_right(active, -si.prio, key=lambda other: -other.prio), si)


def scan_swap_map_slots(kernel: Kernel, si: SwapInfoStruct, usage: int) -> int:
    """A free slot of one area, marked with `usage`; 0: there is none. Looks on where it stopped: disks like that."""
    swap = swap_state(kernel)
    swap_map = si.swap_map
    offset = si.cluster_next
    if not si.cluster_nr:
        si.cluster_nr = SWAPFILE_CLUSTER
        if si.pages - si.inuse_pages >= SWAPFILE_CLUSTER:
            found = swap_map.find(_EMPTY_CLUSTER, si.lowest_bit, si.highest_bit + 1)
            if found >= 0:
                offset = found
    si.cluster_nr -= 1
    if not si.flags & SWP_WRITEOK or not si.highest_bit:
        return 0
    if not si.lowest_bit <= offset <= si.highest_bit:
        offset = si.lowest_bit
    start = offset
    while True:
        if swap_map[offset] == SWAP_HAS_CACHE and vm_swap_full(swap):
            __try_to_reclaim_swap(kernel, si, offset, TTRS_ANYWAY)
        if not swap_map[offset]:
            break
        following = swap_map.find(0, offset + 1, si.highest_bit + 1)
        if vm_swap_full(swap):
            reusable = swap_map.find(SWAP_HAS_CACHE, offset + 1, si.highest_bit + 1)
            if reusable >= 0 and (following < 0 or reusable < following):
                following = reusable
        if following < 0:                                # once around
            if start == si.lowest_bit:
                return 0
            start = following = si.lowest_bit
        offset = following
    swap_map[offset] = usage
    swap_range_alloc(si, offset)
    si.cluster_next = offset + 1
    return swp_entry(si.type, offset)


def swap_range_alloc(si: SwapInfoStruct, offset: int) -> None:
    """The slot is free no longer."""
    if offset == si.lowest_bit:
        si.lowest_bit += 1
    if offset == si.highest_bit:
        si.highest_bit -= 1
    si.inuse_pages += 1
    if si.inuse_pages == si.pages:
        si.lowest_bit = si.max
        si.highest_bit = 0


# ---- giving them back -------------------------------------------------------------------------------------------
def swap_range_free(kernel: Kernel, si: SwapInfoStruct, offset: int) -> None:
    """The slot is free."""
    si.lowest_bit = min(si.lowest_bit, offset)
    si.highest_bit = max(si.highest_bit, offset)
    si.inuse_pages -= 1
    swap_state(kernel).nr_swap_pages += 1


def __swap_entry_free(kernel: Kernel, si: SwapInfoStruct, entry: int, usage: int) -> int:
    """One user less: a page-table entry (usage 1), or the swap cache (SWAP_HAS_CACHE). What is left of the count."""
    left = __swap_entry_free_locked(si, swp_offset(entry), usage)
    if not left:
        swap_range_free(kernel, si, swp_offset(entry))
    return left


def __swap_entry_free_locked(si: SwapInfoStruct, offset: int, usage: int) -> int:
    count = si.swap_map[offset]
    has_cache = count & SWAP_HAS_CACHE
    count &= ~SWAP_HAS_CACHE
    if usage == SWAP_HAS_CACHE:
        assert has_cache, "the swap cache gives up a slot that it has not"
        has_cache = 0
    elif count & COUNT_CONTINUED:
        si.continuations[offset] -= 1
        if not si.continuations[offset]:
            del si.continuations[offset]
            count = SWAP_MAP_MAX
    else:
        assert count, "a swap slot is given up once too often"
        count -= 1
    si.swap_map[offset] = count | has_cache
    return count | has_cache


def swap_free(kernel: Kernel, entry: int) -> None:
    """A page-table entry does not hold the slot any more."""
    __swap_entry_free(kernel, _swap_info_get(kernel, entry), entry, 1)


def put_swap_page(kernel: Kernel, entry: int) -> None:
    """The swap cache does not hold the slot any more."""
    __swap_entry_free(kernel, _swap_info_get(kernel, entry), entry, SWAP_HAS_CACHE)


def free_swap_and_cache(kernel: Kernel, entry: int) -> None:
    """An entry is unmapped: the slot has one user less. If only the cache is left, its page goes, too."""
    si = _swap_info_get(kernel, entry)
    if __swap_entry_free(kernel, si, entry, 1) == SWAP_HAS_CACHE:
        __try_to_reclaim_swap(kernel, si, swp_offset(entry), TTRS_UNMAPPED | TTRS_FULL)


# ---- counting ---------------------------------------------------------------------------------------------------
def swap_duplicate(kernel: Kernel, entry: int) -> None:
    """One page-table entry more holds the slot."""
    __swap_duplicate(kernel, entry, 1)


def swap_shmem_alloc(kernel: Kernel, entry: int) -> None:
    """A page of tmpfs holds the slot, and will be the only one (Linux: SWAP_MAP_SHMEM)."""
    __swap_duplicate(kernel, entry, 1)


def swapcache_prepare(kernel: Kernel, entry: int) -> bool:
    """The swap cache is about to hold the slot. False: it does already, or nobody has the slot any more."""
    si = swp_swap_info(kernel, entry)
    count = si.swap_map[swp_offset(entry)]
    if not count or count & SWAP_HAS_CACHE:
        return False
    __swap_duplicate(kernel, entry, SWAP_HAS_CACHE)
    return True


def __swap_duplicate(kernel: Kernel, entry: int, usage: int) -> None:
    si = swp_swap_info(kernel, entry)
    offset = swp_offset(entry)
    count = si.swap_map[offset]
    assert count and count != SWAP_MAP_BAD, f"bad swap entry {entry:#x}"
    if usage == SWAP_HAS_CACHE:
        si.swap_map[offset] = count | SWAP_HAS_CACHE
    elif count & COUNT_CONTINUED:
        si.continuations[offset] += 1
    elif count & ~SWAP_HAS_CACHE == SWAP_MAP_MAX:
        si.continuations[offset] = 1
        si.swap_map[offset] = count | COUNT_CONTINUED
    else:
        si.swap_map[offset] = count + 1


def swap_count(si: SwapInfoStruct, offset: int) -> int:
    """Page-table entries (and pages of tmpfs) that hold a slot."""
    count = si.swap_map[offset] & ~SWAP_HAS_CACHE
    return SWAP_MAP_MAX + si.continuations[offset] if count & COUNT_CONTINUED else count


def page_swapcount(kernel: Kernel, pfn: int) -> int:
    """The same for the slot of a frame in the swap cache. Locks: page."""
    entry = swap_state(kernel).private[pfn]
    return swap_count(_swap_info_get(kernel, entry), swp_offset(entry))


def reuse_swap_page(kernel: Kernel, pfn: int) -> bool:
    """May the only one who maps the page write to it? Then it leaves the swap cache. Locks: page."""
    mem = kernel.mem
    count = mem.mapcount[pfn]
    if mem.flags[pfn] & PG_swapcache:
        count += page_swapcount(kernel, pfn)
        if count == 1:
            if not mem.flags[pfn] & PG_writeback:
                delete_from_swap_cache(kernel, pfn)
                mem.flags[pfn] |= PG_dirty
            elif page_swap_info(kernel, pfn).flags & SWP_STABLE_WRITES:
                return False                             # the device may not see it change
    return count <= 1


def try_to_free_swap(kernel: Kernel, pfn: int) -> bool:
    """Takes a page whose slot nobody else holds out of the swap cache. Locks: page. False: it has to stay."""
    mem = kernel.mem
    if not mem.flags[pfn] & PG_swapcache or mem.flags[pfn] & PG_writeback or page_swapcount(kernel, pfn):
        return False
    delete_from_swap_cache(kernel, pfn)
    mem.flags[pfn] |= PG_dirty
    return True


def __try_to_reclaim_swap(kernel: Kernel, si: SwapInfoStruct, offset: int, flags: int) -> bool:
    """try_to_free_swap() of a slot that only the cache holds, if that can be done at once and TTRS_* allow it."""
    swap = swap_state(kernel)
    pfn = swap.spaces[si.type].pages.get(offset, 0)
    if not pfn:
        return False
    mem = kernel.mem
    mem.refcount[pfn] += 1
    freed = False
    if trylock_page(kernel, pfn):
        if (flags & TTRS_ANYWAY or (flags & TTRS_UNMAPPED and not mem.mapcount[pfn])
                or (flags & TTRS_FULL and vm_swap_full(swap))):
            freed = try_to_free_swap(kernel, pfn)
        unlock_page(kernel, pfn)
    put_page(kernel, pfn)
    return freed


# ---- out of the cache (mm/swap_state.c) -------------------------------------------------------------------------
def __delete_from_swap_cache(kernel: Kernel, pfn: int, entry: int) -> None:
    """Takes the frame out of the tree; the caller drops the cache's reference and the slot. Locks: page."""
    mem = kernel.mem
    swap = swap_state(kernel)
    del swap.spaces[swp_type(entry)].pages[swp_offset(entry)]
    del swap.private[pfn]
    del mem.mapping[pfn]
    mem.flags[pfn] &= ~PG_swapcache
    mem.vm_stat[NR_FILE_PAGES] -= 1
    swap.del_total += 1


def delete_from_swap_cache(kernel: Kernel, pfn: int) -> None:
    """The frame is not in the swap cache any more, and the cache does not hold the slot. Locks: page."""
    entry = swap_state(kernel).private[pfn]
    __delete_from_swap_cache(kernel, pfn, entry)
    put_swap_page(kernel, entry)
    put_page(kernel, pfn)


# ---- where a slot lies ------------------------------------------------------------------------------------------
def page_swap_info(kernel: Kernel, pfn: int) -> SwapInfoStruct:
    """The area of a frame in the swap cache."""
    return swp_swap_info(kernel, swap_state(kernel).private[pfn])


def offset_to_swap_extent(si: SwapInfoStruct, offset: int) -> SwapExtent:
    extents = si.swap_extents
    return extents[bisect_right(extents, offset, key=lambda extent: extent.start_page) - 1]


def map_swap_page(kernel: Kernel, pfn: int) -> tuple[SwapInfoStruct, int]:
    """The area, and the page of its device, that belong to a frame in the swap cache."""
    entry = swap_state(kernel).private[pfn]
    si = swp_swap_info(kernel, entry)
    extent = offset_to_swap_extent(si, swp_offset(entry))
    return si, extent.start_block + swp_offset(entry) - extent.start_page


def add_swap_extent(si: SwapInfoStruct, start_page: int, nr_pages: int, start_block: int) -> int:
    """Pages of the area in a row on the device, ascending. Answers how many extents that made."""
    if si.swap_extents:
        last = si.swap_extents[-1]
        if last.start_block + last.nr_pages == start_block:
            last.nr_pages += nr_pages
            return 0
    si.swap_extents.append(SwapExtent(start_page, nr_pages, start_block))
    return 1
