"""The LRU lists: which pages reclaim looks at, and in what order.

Linux: mm/swap.c, include/linux/mm_inline.h; page_evictable(), isolate_lru_page() and putback_lru_page() of mm/vmscan.c,
    mlock_vma_page() and clear_page_mlock() of mm/mlock.c, which lower files need (5.3). Same: five lists a node; a page
    of a file starts inactive, one of anonymous memory active; the second use of an inactive page activates it; what
    cannot be reclaimed is on the unevictable list.
Differs: pages go to their list at once. Linux collects 15 on each CPU first, for the sake of a lock that is not needed
    here: such a batch would cost a reference and a list more, and hide pages from reclaim. lru_add_drain() is empty, so
    it does not exist.
Owns: mem.lru, PG_lru, PG_active, PG_unevictable, PG_referenced.
Invariants: see mm/page_alloc.py; who changes PG_active, PG_unevictable or PG_swapbacked of a page takes it off its list
    first. An isolated page (PG_lru clear, a reference held) is on no list.
Gaps: workingset (refaults), memory cgroups, lazily freed pages.
"""
from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from glasskernel.lib.errno import EBUSY, KernelError
from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import (
    NR_ISOLATED_ANON,
    NR_ISOLATED_FILE,
    NR_MLOCK,
    PGACTIVATE,
    PGROTATED,
    UNEVICTABLE_PGCLEARED,
    UNEVICTABLE_PGCULLED,
    UNEVICTABLE_PGMLOCKED,
    UNEVICTABLE_PGRESCUED,
    UNEVICTABLE_PGSTRANDED,
    PG_active,
    PG_anon,
    PG_dirty,
    PG_locked,
    PG_lru,
    PG_mlocked,
    PG_reclaim,
    PG_referenced,
    PG_swapbacked,
    PG_unevictable,
    PG_writeback,
    __page_cache_release,
    page_lru,
    put_page,
)
from glasskernel.mm.types import AS_UNEVICTABLE, VM_LOCKED, VM_SPECIAL

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.page_alloc import MemState
    from glasskernel.mm.types import VmAreaStruct

_ACTIVE_ON_LRU = PG_active | PG_lru


@notrace
def page_is_file_cache(flags: int) -> bool:
    """Of which pair of lists is a page with these flags?"""
    return not flags & PG_swapbacked


@notrace
def page_evictable(kernel: Kernel, pfn: int) -> bool:
    """May reclaim take it at all? (mm/vmscan.c)"""
    if kernel.mem.flags[pfn] & PG_mlocked:
        return False
    mapping = kernel.mem.mapping.get(pfn)
    return mapping is None or not mapping.flags & AS_UNEVICTABLE


# ---- onto the lists ---------------------------------------------------------------------------------------------
@notrace
def add_page_to_lru_list(mem: MemState, pfn: int) -> int:
    """To the head of the list that its flags tell, which it answers."""
    state = mem.flags[pfn] | PG_lru
    mem.flags[pfn] = state
    lru = page_lru(state)
    mem.lru[lru][pfn] = None
    return lru


def lru_cache_add(kernel: Kernel, pfn: int) -> None:
    """A new page can be reclaimed from now on. Its flags say from which list; the caller has a reference."""
    mem = kernel.mem
    state = mem.flags[pfn]
    mapping = mem.mapping.get(pfn)
    if state & PG_mlocked or (mapping is not None and mapping.flags & AS_UNEVICTABLE):
        state = state & ~PG_active | PG_unevictable
        mem.vm_event[UNEVICTABLE_PGCULLED] += 1
    mem.flags[pfn] = state | PG_lru
    mem.lru[page_lru(state)][pfn] = None


def lru_cache_add_active_or_unevictable(kernel: Kernel, pfn: int, vma: VmAreaStruct) -> None:
    """A new page of anonymous memory, just mapped: it is in use, and if the area is locked it stays."""
    mem = kernel.mem
    if vma.vm_flags & VM_LOCKED and not vma.vm_flags & VM_SPECIAL:
        test_set_page_mlocked(mem, pfn)
        lru_cache_add(kernel, pfn)
        return
    mem.flags[pfn] |= _ACTIVE_ON_LRU                   # lru_cache_add(), inline: each page fault comes here
    mem.lru[1][pfn] = None                             # LRU_ACTIVE_ANON


# ---- use --------------------------------------------------------------------------------------------------------
def activate_page(kernel: Kernel, pfn: int) -> None:
    """An inactive page is wanted again: to the active list."""
    if kernel.mem.flags[pfn] & (PG_lru | PG_active | PG_unevictable) == PG_lru:
        __activate_page(kernel.mem, pfn)


def __activate_page(mem: MemState, pfn: int) -> None:
    file = page_is_file_cache(mem.flags[pfn])
    __page_cache_release(mem, pfn)
    mem.flags[pfn] |= PG_active
    add_page_to_lru_list(mem, pfn)
    mem.vm_event[PGACTIVATE] += 1
    update_page_reclaim_stat(mem, file, True)


@notrace
def update_page_reclaim_stat(mem: MemState, file: bool, rotated: bool) -> None:
    """Reclaim should know how many pages of each kind turn out to be in use."""
    mem.pgdat.recent_scanned[file] += 1
    if rotated:
        mem.pgdat.recent_rotated[file] += 1


def mark_page_accessed(kernel: Kernel, pfn: int) -> None:
    """A page is used: unreferenced becomes referenced, inactive and referenced becomes active."""
    state = kernel.mem.flags[pfn]
    if not state & PG_referenced:
        kernel.mem.flags[pfn] = state | PG_referenced
    elif not state & (PG_active | PG_unevictable):
        if state & PG_lru:
            activate_page(kernel, pfn)
        else:                                          # isolated: who has it puts it back to the active list
            kernel.mem.flags[pfn] |= PG_active
        kernel.mem.flags[pfn] &= ~PG_referenced


# ---- to the tail ------------------------------------------------------------------------------------------------
@notrace
def move_to_tail(mem: MemState, pfn: int) -> None:
    """A page on an inactive list is the next to be reclaimed."""
    pages = mem.lru[page_lru(mem.flags[pfn])]
    assert isinstance(pages, OrderedDict)
    pages.move_to_end(pfn, last=False)


def rotate_reclaimable_page(kernel: Kernel, pfn: int) -> None:
    """It was written for reclaim, and is clean now: the next to go. Context: any."""
    mem = kernel.mem
    if mem.flags[pfn] & (PG_locked | PG_dirty | PG_unevictable | PG_lru) == PG_lru:
        pagevec_move_tail_fn(mem, pfn)


def pagevec_move_tail_fn(mem: MemState, pfn: int) -> None:
    """shrink_page_list() had activated it, to have it out of the way meanwhile."""
    __page_cache_release(mem, pfn)
    add_page_to_lru_list(mem, pfn)
    move_to_tail(mem, pfn)
    mem.vm_event[PGROTATED] += 1


def deactivate_file_page(kernel: Kernel, pfn: int) -> None:
    """A page could not be invalidated at once: reclaim shall take it soon."""
    mem = kernel.mem
    if mem.flags[pfn] & (PG_lru | PG_unevictable) == PG_lru and not mem.mapcount[pfn]:
        lru_deactivate_file_fn(mem, pfn)


def lru_deactivate_file_fn(mem: MemState, pfn: int) -> None:
    """Off the active list; a clean page is the next to go, any other when it is written."""
    file = page_is_file_cache(mem.flags[pfn])
    __page_cache_release(mem, pfn)
    mem.flags[pfn] &= ~PG_referenced
    add_page_to_lru_list(mem, pfn)
    if mem.flags[pfn] & (PG_writeback | PG_dirty):
        mem.flags[pfn] |= PG_reclaim
    else:
        move_to_tail(mem, pfn)
        mem.vm_event[PGROTATED] += 1
    update_page_reclaim_stat(mem, file, False)


# ---- off and back (mm/vmscan.c) ---------------------------------------------------------------------------------
def isolate_lru_page(kernel: Kernel, pfn: int) -> None:
    """Takes a page off its list, with a reference; PG_active and PG_unevictable stay. Raises EBUSY if it is on none."""
    mem = kernel.mem
    state = mem.flags[pfn]
    if not state & PG_lru:
        raise KernelError(EBUSY)
    mem.refcount[pfn] += 1
    mem.flags[pfn] = state & ~PG_lru
    del mem.lru[page_lru(state)][pfn]


def putback_lru_page(kernel: Kernel, pfn: int) -> None:
    """Gives an isolated page back: to the list where it belongs now. Drops the reference."""
    mem = kernel.mem
    state = mem.flags[pfn]
    if state & PG_unevictable:
        mem.flags[pfn] = state & ~PG_unevictable
        if page_evictable(kernel, pfn):
            mem.vm_event[UNEVICTABLE_PGRESCUED] += 1
    lru_cache_add(kernel, pfn)
    put_page(kernel, pfn)


# ---- mlock(2) (mm/mlock.c) --------------------------------------------------------------------------------------
@notrace
def test_set_page_mlocked(mem: MemState, pfn: int) -> bool:
    """Sets PG_mlocked; answers what it was."""
    if mem.flags[pfn] & PG_mlocked:
        return True
    mem.flags[pfn] |= PG_mlocked
    mem.vm_stat[NR_MLOCK] += 1
    mem.vm_event[UNEVICTABLE_PGMLOCKED] += 1
    return False


def mlock_vma_page(kernel: Kernel, pfn: int) -> None:
    """A locked area maps the page: to the unevictable list. Locks: page."""
    mem = kernel.mem
    if not test_set_page_mlocked(mem, pfn) and mem.flags[pfn] & PG_lru:
        isolate_lru_page(kernel, pfn)
        putback_lru_page(kernel, pfn)


def clear_page_mlock(kernel: Kernel, pfn: int) -> None:
    """Nobody maps the page any more, though nobody unlocked it: it was truncated, or replaced."""
    mem = kernel.mem
    mem.flags[pfn] &= ~PG_mlocked
    mem.vm_stat[NR_MLOCK] -= 1
    mem.vm_event[UNEVICTABLE_PGCLEARED] += 1
    if mem.flags[pfn] & PG_lru:
        isolate_lru_page(kernel, pfn)
        putback_lru_page(kernel, pfn)
    elif mem.flags[pfn] & PG_unevictable:
        mem.vm_event[UNEVICTABLE_PGSTRANDED] += 1


@notrace
def check_lru(kernel: Kernel) -> list[str]:
    """Invariants for tests, while nothing is isolated: what is wrong with the lists, in words."""
    mem = kernel.mem
    flags, listed = mem.flags, [pfn for pages in mem.lru for pfn in pages]
    wrong = [f"page {pfn:#x} (flags {flags[pfn]:#x}) is on list {lru}" for lru, pages in enumerate(mem.lru)
             for pfn in pages if not flags[pfn] & PG_lru or page_lru(flags[pfn]) != lru or not mem.refcount[pfn]]
    wrong += [f"page {pfn:#x} (flags {flags[pfn]:#x}) is on no list" for pfn, state in enumerate(flags.tolist())
              if state & PG_anon and not state & PG_lru]
    wrong += [f"page {pfn:#x} of the page cache is on no list" for pfn in mem.mapping if not flags[pfn] & PG_lru]
    mlocked = sum([flags[pfn] & PG_mlocked != 0 for pfn in listed])
    if mlocked != mem.vm_stat[NR_MLOCK]:
        wrong.append(f"NR_MLOCK is {mem.vm_stat[NR_MLOCK]}, {mlocked} pages are locked")
    return wrong + [f"isolated pages: {n}" for n in mem.vm_stat[NR_ISOLATED_ANON : NR_ISOLATED_FILE + 1] if n]
