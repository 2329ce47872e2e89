"""Reverse maps: which page-table entries map a frame.

Linux: mm/rmap.c (5.3). Same: a frame of a file is found through its mapping's i_mmap, an anonymous one through its
    anon_vma, which holds the areas that may map its pages: fork() gives a child's area all of its parent's anon_vmas
    and one of its own, split and merged areas share them, an anon_vma with one user is taken again (degree).
Differs: an interval tree is a dict of areas, which are asked for their range; an anon_vma_chain is a tuple. No walk
    sleeps: anon_vma->rwsem and i_mmap_rwsem need no code.
Owns: AnonVma, VmAreaStruct.anon_vma and .anon_vma_chain, MemState.anon_vma (page->mapping of anonymous frames: the
    number of an AnonVma) and .anon_vmas (by number), mem.index of anonymous frames, mem.mapcount.
Invariants: an area is in rb_root of exactly the anon_vmas of its chain, and its anon_vma is one of them; an anonymous
    frame that is mapped is mapped only by areas of its anon_vma, at page mem.index[pfn].
Gaps: huge pages as a whole (an entry of 2 MB is split when a page of it is looked for), memory failure, batched TLB
    flushes (try_to_unmap() flushes one page at a time).
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from glasskernel.arch.x86.pgtable import (
    HUGE,
    PTE_ACCESSED,
    PTE_DIRTY,
    PTE_MASK,
    PTE_PRESENT,
    PTE_PROTNONE,
    PTE_SPECIAL,
    PTE_WRITE,
    SWP_TYPE_SHIFT,
    lookup_pte,
    swp_entry_to_pte,
)
from glasskernel.lib.slotted import slotted
from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import (
    NR_ANON_MAPPED,
    NR_FILE_MAPPED,
    PG_anon,
    PG_mlocked,
    PG_swapbacked,
    PG_swapcache,
    put_page,
)
from glasskernel.mm.pagemap import set_page_dirty, trylock_page, unlock_page
from glasskernel.mm.swap import clear_page_mlock, mlock_vma_page
from glasskernel.mm.tlb import flush_tlb_page, ptep_clear_flush
from glasskernel.mm.types import (
    MM_ANONPAGES,
    MM_FILEPAGES,
    MM_SHMEMPAGES,
    MM_SWAPENTS,
    VM_EXEC,
    VM_LOCKED,
    VM_READ,
    VM_SEQ_READ,
    VM_SHARED,
    VM_WRITE,
    AddressSpace,
    VmAreaStruct,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.page_alloc import MemState

TTU_MIGRATION, TTU_IGNORE_MLOCK, TTU_IGNORE_ACCESS, TTU_BATCH_FLUSH = 0x1, 0x8, 0x10, 0x40       # enum ttu_flags
SWP_MIGRATION_READ, SWP_MIGRATION_WRITE = 30, 31                 # types of swap entries behind those of areas
_MAPPED = PTE_PRESENT | PTE_PROTNONE


class AnonVma:
    """struct anon_vma: the areas that may map one family of anonymous pages.

    number: what mem.anon_vma has for each of its frames (page->mapping).
    degree: areas that allocate their pages here, and anon_vmas whose parent this is (a root is its own parent).
    rb_root: the areas, in the order they came.
    """

    __slots__ = ("degree", "number", "parent", "rb_root", "root")

    def __init__(self, mem: MemState, parent: AnonVma | None = None) -> None:
        self.number = mem.nr_anon_vmas = mem.nr_anon_vmas + 1
        mem.anon_vmas[self.number] = self
        self.root: AnonVma = self if parent is None else parent.root
        self.parent: AnonVma = self if parent is None else parent
        self.degree = 1
        self.rb_root: dict[VmAreaStruct, None] = {}


# ---- areas and their anon_vmas ----------------------------------------------------------------------------------
@notrace
def anon_vma_prepare(vma: VmAreaStruct) -> None:
    """The area is about to get an anonymous page."""
    if vma.anon_vma is None:
        __anon_vma_prepare(vma)


def __anon_vma_prepare(vma: VmAreaStruct) -> None:
    """The first one: a neighbour that could be merged with it later has an anon_vma for both, or there is a new one."""
    anon_vma = find_mergeable_anon_vma(vma)
    if anon_vma is None:
        anon_vma = AnonVma(vma.vm_mm.kernel.mem)
    vma.anon_vma = anon_vma
    anon_vma_chain_link(vma, anon_vma)
    anon_vma.degree += 1


def find_mergeable_anon_vma(vma: VmAreaStruct) -> AnonVma | None:
    """Sharing it keeps the two mergeable (mm/mmap.c)."""
    tree = vma.vm_mm.vmas
    near = tree.after(vma)
    if near is not None:
        anon_vma = reusable_anon_vma(near, vma, near)
        if anon_vma is not None:
            return anon_vma
    near = tree.before(vma.vm_start)
    return reusable_anon_vma(near, near, vma) if near is not None else None


@notrace
def reusable_anon_vma(old: VmAreaStruct, a: VmAreaStruct, b: VmAreaStruct) -> AnonVma | None:
    """That of `old`, one of the two areas a and b, if these could be one but for their rights."""
    if len(old.anon_vma_chain) != 1 or not anon_vma_compatible(a, b):
        return None
    return old.anon_vma


@notrace
def anon_vma_compatible(a: VmAreaStruct, b: VmAreaStruct) -> bool:
    return (a.vm_end == b.vm_start and a.vm_policy is b.vm_policy and a.vm_file is b.vm_file
            and not (a.vm_flags ^ b.vm_flags) & ~(VM_READ | VM_WRITE | VM_EXEC)
            and b.vm_pgoff == a.vm_pgoff + ((b.vm_start - a.vm_start) >> 12))


@notrace
def anon_vma_chain_link(vma: VmAreaStruct, anon_vma: AnonVma) -> None:
    """The area may map pages of this anon_vma from now on."""
    vma.anon_vma_chain += (anon_vma,)
    anon_vma.rb_root[vma] = None


def anon_vma_clone(dst: VmAreaStruct, src: VmAreaStruct) -> None:
    """An area that may map whatever another maps: a part of it, or its copy in a child."""
    dst.anon_vma_chain = src.anon_vma_chain
    own = dst.anon_vma
    for anon_vma in src.anon_vma_chain:
        anon_vma.rb_root[dst] = None
        # One that only a child has left (its areas are gone) is taken again: a daemon that forks from each child of
        # its own would get a longer chain every time.
        if own is None and anon_vma.degree < 2 and anon_vma is not src.anon_vma:
            own = anon_vma
    if own is not None:
        dst.anon_vma = own
        own.degree += 1


def anon_vma_fork(vma: VmAreaStruct, pvma: VmAreaStruct) -> None:
    """A child's area: it has the pages of its parent's anon_vmas, and allocates new ones in one of its own."""
    parent = pvma.anon_vma
    if parent is None:
        return
    vma.anon_vma = None                                  # vm_area_dup() copied it
    anon_vma_clone(vma, pvma)
    if vma.anon_vma is not None:
        return
    anon_vma = AnonVma(vma.vm_mm.kernel.mem, parent)
    vma.anon_vma = anon_vma
    anon_vma_chain_link(vma, anon_vma)
    parent.degree += 1


def unlink_anon_vmas(vma: VmAreaStruct) -> None:
    """The area maps nothing any more."""
    for anon_vma in vma.anon_vma_chain:
        del anon_vma.rb_root[vma]
        if not anon_vma.rb_root:                         # nobody can map a page of it any more
            anon_vma.parent.degree -= 1
            del vma.vm_mm.kernel.mem.anon_vmas[anon_vma.number]
    vma.anon_vma_chain = ()
    if vma.anon_vma is not None:
        vma.anon_vma.degree -= 1
        vma.anon_vma = None


# ---- entries come and go ----------------------------------------------------------------------------------------
def page_mapped(kernel: Kernel, pfn: int) -> bool:
    """Does any page-table entry map the frame?"""
    return kernel.mem.mapcount[pfn] != 0


@notrace
def mm_counter(mem_flags: int) -> int:
    """mm_counter(): which rss counter a frame belongs to."""
    if mem_flags & PG_anon:
        return MM_ANONPAGES
    return MM_SHMEMPAGES if mem_flags & PG_swapbacked else MM_FILEPAGES


def page_add_new_anon_rmap(vma: VmAreaStruct, address: int, pfn: int) -> None:
    """The first PTE of a frame that becomes anonymous memory. The area has an anon_vma."""
    mm = vma.vm_mm
    mem = mm.kernel.mem
    mem.mapcount[pfn] = 1
    mem.vm_stat[NR_ANON_MAPPED] += 1
    __page_set_anon_rmap(mem, vma, address, pfn, True)
    mm.rss_stat[MM_ANONPAGES] += 1


def __page_set_anon_rmap(mem: MemState, vma: VmAreaStruct, address: int, pfn: int, exclusive: bool) -> None:
    """The frame belongs to anonymous memory from now on. Not exclusive: a child may have it too, or its parent."""
    flags = mem.flags[pfn]
    if flags & PG_anon:
        return
    mem.flags[pfn] = flags | PG_anon | PG_swapbacked
    anon_vma = vma.anon_vma
    assert anon_vma is not None
    mem.anon_vma[pfn] = anon_vma.number if exclusive else anon_vma.root.number
    mem.index[pfn] = vma.vm_pgoff + ((address - vma.vm_start) >> 12)


def do_page_add_anon_rmap(vma: VmAreaStruct, address: int, pfn: int, exclusive: bool) -> None:
    """One PTE more maps a frame that is, or was, anonymous memory: it comes back from the swap cache. Locks: page."""
    mm = vma.vm_mm
    mem = mm.kernel.mem
    count = mem.mapcount[pfn]
    mem.mapcount[pfn] = count + 1
    if not count:
        mem.vm_stat[NR_ANON_MAPPED] += 1
        __page_set_anon_rmap(mem, vma, address, pfn, exclusive)
    mm.rss_stat[MM_ANONPAGES] += 1


@notrace
def page_move_anon_rmap(vma: VmAreaStruct, pfn: int) -> None:
    """Nobody else can have the frame any more: later walks need not look at the parent's areas."""
    assert vma.anon_vma is not None
    vma.vm_mm.kernel.mem.anon_vma[pfn] = vma.anon_vma.number


def page_add_file_rmap(vma: VmAreaStruct, pfn: int) -> None:
    """One PTE more maps a frame of a file."""
    mm = vma.vm_mm
    mem = mm.kernel.mem
    if not mem.mapcount[pfn]:
        mem.vm_stat[NR_FILE_MAPPED] += 1
    mem.mapcount[pfn] += 1
    mm.rss_stat[mm_counter(mem.flags[pfn])] += 1


def page_remove_rmap(kernel: Kernel, pfn: int) -> None:
    """One PTE less maps the frame."""
    mem = kernel.mem
    count = mem.mapcount[pfn] - 1
    mem.mapcount[pfn] = count
    if not count:
        state = mem.flags[pfn]
        mem.vm_stat[NR_ANON_MAPPED if state & PG_anon else NR_FILE_MAPPED] -= 1
        if state & PG_mlocked:
            clear_page_mlock(kernel, pfn)


# ---- walking ----------------------------------------------------------------------------------------------------
@slotted
class RmapWalkControl:
    """struct rmap_walk_control.

    rmap_one(pfn, vma, address, arg): looks at one area; False ends the walk. done(kernel, pfn): True ends it, too.
    invalid_vma(vma): True passes an area by. anon_lock: an anonymous page that nobody maps has no areas
    (page_lock_anon_vma_read()); without it, it has those that may map it again.
    """

    rmap_one: Callable[[int, VmAreaStruct, int, Any], bool]
    arg: Any = None
    done: Callable[[Kernel, int], bool] | None = None
    invalid_vma: Callable[[VmAreaStruct], bool] | None = None
    anon_lock: bool = True


def rmap_walk(kernel: Kernel, pfn: int, rwc: RmapWalkControl) -> None:
    """Shows rwc each area that may map the frame. Locks: page, or it is anonymous and mapped."""
    if kernel.mem.flags[pfn] & PG_anon:
        rmap_walk_anon(kernel, pfn, rwc)
    else:
        rmap_walk_file(kernel, pfn, rwc)


def rmap_walk_anon(kernel: Kernel, pfn: int, rwc: RmapWalkControl) -> None:
    anon_vma = page_lock_anon_vma_read(kernel, pfn) if rwc.anon_lock else page_anon_vma(kernel, pfn)
    if anon_vma is not None:
        index = kernel.mem.index[pfn]
        walk_areas(kernel, pfn, index, anon_vma_interval_tree_iter_first(anon_vma, index), rwc)


def rmap_walk_file(kernel: Kernel, pfn: int, rwc: RmapWalkControl) -> None:
    mapping = kernel.mem.mapping.get(pfn)
    if mapping is not None:
        index = kernel.mem.index[pfn]
        walk_areas(kernel, pfn, index, vma_interval_tree_iter_first(mapping, index), rwc)


def page_lock_anon_vma_read(kernel: Kernel, pfn: int) -> AnonVma | None:
    """The frame's anon_vma; None if nobody maps it."""
    return kernel.mem.anon_vmas[kernel.mem.anon_vma[pfn]] if page_mapped(kernel, pfn) else None


@notrace
def page_anon_vma(kernel: Kernel, pfn: int) -> AnonVma | None:
    """The frame's anon_vma; None if that is gone."""
    return kernel.mem.anon_vmas.get(kernel.mem.anon_vma[pfn])


def anon_vma_interval_tree_iter_first(anon_vma: AnonVma, index: int) -> list[VmAreaStruct]:
    """The areas that have this page (Linux: the first; _iter_next() for the others)."""
    return areas_of_page(anon_vma.rb_root, index)


def vma_interval_tree_iter_first(mapping: AddressSpace, index: int) -> list[VmAreaStruct]:
    """The areas that map this page of a file."""
    return areas_of_page(mapping.i_mmap, index)


@notrace
def areas_of_page(areas: Iterable[VmAreaStruct], index: int) -> list[VmAreaStruct]:
    return [vma for vma in areas
            if vma.vm_pgoff <= index < vma.vm_pgoff + ((vma.vm_end - vma.vm_start) >> 12)]


@notrace
def walk_areas(kernel: Kernel, pfn: int, index: int, areas: list[VmAreaStruct], rwc: RmapWalkControl) -> None:
    """What both walks do with the areas they found."""
    for vma in areas:
        if rwc.invalid_vma is not None and rwc.invalid_vma(vma):
            continue
        if not rwc.rmap_one(pfn, vma, vma.vm_start + ((index - vma.vm_pgoff) << 12), rwc.arg):
            return
        if rwc.done is not None and rwc.done(kernel, pfn):
            return


def page_vma_mapped_walk(vma: VmAreaStruct, pfn: int, address: int) -> int:
    """The slot of the PTE by which an area maps the frame at an address; 0 if it does not (mm/page_vma_mapped.c)."""
    ram64 = vma.vm_mm.kernel.mem.ram64
    slot = lookup_pte(ram64, vma.vm_mm.pgd, address)
    if slot and ram64[slot] & HUGE == HUGE:              # Linux splits it later, to unmap one page of it
        thp = vma.vm_mm.kernel.thp
        assert thp is not None
        thp.split_huge_pmd(vma.vm_mm, slot, address)
        slot = lookup_pte(ram64, vma.vm_mm.pgd, address)
    return slot if slot and check_pte(ram64[slot], pfn) else 0


def check_pte(entry: int, pfn: int) -> bool:
    return bool(entry & _MAPPED) and (entry & PTE_MASK) >> 12 == pfn and not entry & PTE_SPECIAL


# ---- is it used? ------------------------------------------------------------------------------------------------
@slotted
class PageReferencedArg:
    """struct page_referenced_arg"""

    mapcount: int
    referenced: int = 0
    vm_flags: int = 0


def page_referenced(kernel: Kernel, pfn: int, is_locked: bool) -> tuple[int, int]:
    """(how many areas used the frame since the last call, their vm_flags). Clears the Accessed bits.

    VM_LOCKED in the flags: one area is mlock()ed, the others were not asked. Locks: the page's if is_locked; else the
    caller has a reference, and one answer is made up when the lock cannot be had.
    """
    mem = kernel.mem
    pra = PageReferencedArg(mem.mapcount[pfn])
    if not pra.mapcount:
        return 0, 0
    we_locked = False
    if not is_locked and not mem.flags[pfn] & PG_anon:
        we_locked = trylock_page(kernel, pfn)
        if not we_locked:
            return 1, 0
    rmap_walk(kernel, pfn, RmapWalkControl(page_referenced_one, pra))
    if we_locked:
        unlock_page(kernel, pfn)
    return pra.referenced, pra.vm_flags


def page_referenced_one(pfn: int, vma: VmAreaStruct, address: int, pra: PageReferencedArg) -> bool:
    referenced = False
    slot = page_vma_mapped_walk(vma, pfn, address)
    if slot:
        if vma.vm_flags & VM_LOCKED:
            pra.vm_flags |= VM_LOCKED
            return False
        # A page read once on the way through a file is not in use because of that.
        if ptep_clear_flush_young(vma, slot) and not vma.vm_flags & VM_SEQ_READ:
            referenced = True
        pra.mapcount -= 1
    if referenced:
        pra.referenced += 1
        pra.vm_flags |= vma.vm_flags
    return pra.mapcount != 0


def ptep_clear_flush_young(vma: VmAreaStruct, slot: int) -> bool:
    """Clears the Accessed bit; what it was. The TLB is not flushed: a bit set late only costs a mistake in aging."""
    ram64 = vma.vm_mm.kernel.mem.ram64
    entry = ram64[slot]
    if not entry & PTE_ACCESSED:
        return False
    ram64[slot] = entry & ~PTE_ACCESSED
    return True


# ---- taking it away ---------------------------------------------------------------------------------------------
def try_to_unmap(kernel: Kernel, pfn: int, flags: int) -> bool:
    """Removes every PTE of the frame: anonymous ones become swap entries. flags: TTU_*. True: nobody maps it now.

    Locks: page; the caller has a reference, an anonymous page is in the swap cache.
    """
    rmap_walk(kernel, pfn, RmapWalkControl(try_to_unmap_one, flags, page_mapcount_is_zero))
    return not page_mapped(kernel, pfn)


def page_mapcount_is_zero(kernel: Kernel, pfn: int) -> bool:
    return not kernel.mem.mapcount[pfn]


def try_to_unmap_one(pfn: int, vma: VmAreaStruct, address: int, flags: int) -> bool:
    slot = page_vma_mapped_walk(vma, pfn, address)
    if not slot:
        return True
    mm = vma.vm_mm
    kernel = mm.kernel
    mem = kernel.mem
    if not flags & TTU_IGNORE_MLOCK and vma.vm_flags & VM_LOCKED:
        mlock_vma_page(kernel, pfn)                      # reclaim found it; it goes to the unevictable list
        return False
    if not flags & TTU_IGNORE_ACCESS and ptep_clear_flush_young(vma, slot):
        return False
    entry = ptep_clear_flush(vma, address, slot)
    if entry & PTE_DIRTY:
        set_page_dirty(kernel, pfn)
    rss = mm.rss_stat
    mm.hiwater_rss = max(mm.hiwater_rss, rss[MM_FILEPAGES] + rss[MM_ANONPAGES] + rss[MM_SHMEMPAGES])
    if flags & TTU_MIGRATION:
        rss[mm_counter(mem.flags[pfn])] -= 1
        mem.ram64[slot] = swp_entry_to_pte(make_migration_entry(pfn, bool(entry & PTE_WRITE)))
    elif mem.flags[pfn] & PG_anon:
        swap = kernel.swap
        assert mem.flags[pfn] & PG_swapcache and swap is not None, "an anonymous page without a swap entry"
        swp_entry = swap.private[pfn]
        swap.swap_duplicate(kernel, swp_entry)
        rss[MM_ANONPAGES] -= 1
        rss[MM_SWAPENTS] += 1
        mem.ram64[slot] = swp_entry_to_pte(swp_entry)
    else:
        rss[mm_counter(mem.flags[pfn])] -= 1
    page_remove_rmap(kernel, pfn)
    put_page(kernel, pfn)
    return True


@notrace
def make_migration_entry(pfn: int, write: bool) -> int:
    """What stands in a PTE while its page moves (include/linux/swapops.h)."""
    return (SWP_MIGRATION_WRITE if write else SWP_MIGRATION_READ) << SWP_TYPE_SHIFT | pfn


# ---- storing it -------------------------------------------------------------------------------------------------
def page_mkclean(kernel: Kernel, pfn: int) -> int:
    """Write-protects and cleans every shared mapping of a page; answers how many entries needed it. Locks: page."""
    if not kernel.mem.mapcount[pfn]:
        return 0
    cleaned = [0]
    rmap_walk(kernel, pfn, RmapWalkControl(page_mkclean_one, cleaned, invalid_vma=invalid_mkclean_vma))
    return cleaned[0]


def invalid_mkclean_vma(vma: VmAreaStruct) -> bool:
    return not vma.vm_flags & VM_SHARED


def page_mkclean_one(pfn: int, vma: VmAreaStruct, address: int, cleaned: list[int]) -> bool:
    slot = page_vma_mapped_walk(vma, pfn, address)
    if slot:
        ram64 = vma.vm_mm.kernel.mem.ram64
        entry = ram64[slot]
        if entry & (PTE_DIRTY | PTE_WRITE):
            ram64[slot] = entry & ~(PTE_DIRTY | PTE_WRITE)
            flush_tlb_page(vma, address)
            cleaned[0] += 1
    return True
