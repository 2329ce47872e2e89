"""Moving pages: the bytes go to another frame, and everybody who maps the old one maps the new one.

Linux: mm/migrate.c, fs/buffer.c's part of it (5.3). Same: a page is isolated, locked, unmapped with migration entries,
    copied, and mapped again; ten passes, no waiting in the first three; whoever else holds a reference makes it fail.
Differs: nothing sleeps while migration entries stand in page tables, so nobody ever meets one
    (migration_entry_wait()): a page whose buffers are locked is tried again in the next pass. Which ->migratepage() a
    file system has follows from the page: buffers, memory only, or what ->writepage() must store first.
Owns: nothing for long. Imported by the first who moves one. Locks: the page's, and the new one's.
Gaps: huge pages (transparent ones are split, those of hugetlbfs stay), device memory, balloons and zsmalloc (movable
    pages of drivers), compaction, KSM.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.arch.x86.pgtable import (
    PTE_ACCESSED,
    PTE_DIRTY,
    PTE_MASK,
    PTE_NX,
    PTE_PRESENT,
    PTE_PROTNONE,
    PTE_SPECIAL,
    PTE_WRITE,
    lookup_pte,
    swp_entry_to_pte,
)
from glasskernel.fs.buffer_head import BH_Lock, BufferHead
from glasskernel.fs.types import S_IFBLK, S_IFMT
from glasskernel.kernel.sched.core import cond_resched
from glasskernel.lib.errno import EAGAIN, EBUSY, EFAULT, EINVAL, EIO, ENOMEM, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.machine.costs import COPY_PAGE
from glasskernel.mm.memory import note_executable, pte_ranges
from glasskernel.mm.page_alloc import (
    __GFP_THISNODE,
    GFP_HIGHUSER_MOVABLE,
    NR_ISOLATED_ANON,
    PGMIGRATE_FAIL,
    PGMIGRATE_SUCCESS,
    PG_active,
    PG_anon,
    PG_checked,
    PG_dirty,
    PG_error,
    PG_exec,
    PG_locked,
    PG_private,
    PG_readahead,
    PG_referenced,
    PG_swapbacked,
    PG_swapcache,
    PG_unevictable,
    PG_uptodate,
    PG_writeback,
    alloc_pages_node,
    put_page,
)
from glasskernel.mm.page_writeback import LLONG_MAX, clear_page_dirty_for_io
from glasskernel.mm.pagemap import (
    lock_page,
    trylock_page,
    unlock_page,
    wait_on_page_writeback,
)
from glasskernel.mm.rmap import (
    TTU_IGNORE_ACCESS,
    TTU_IGNORE_MLOCK,
    TTU_MIGRATION,
    RmapWalkControl,
    do_page_add_anon_rmap,
    make_migration_entry,
    page_add_file_rmap,
    rmap_walk,
    try_to_unmap,
)
from glasskernel.mm.swap import isolate_lru_page, mlock_vma_page, page_is_file_cache, putback_lru_page
from glasskernel.mm.swap_types import swp_offset
from glasskernel.mm.types import (
    AOP_WRITEPAGE_ACTIVATE,
    VM_LOCKED,
    WB_SYNC_NONE,
    AddressSpace,
    MmStruct,
    VmAreaStruct,
    WritebackControl,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

MIGRATE_ASYNC, MIGRATE_SYNC_LIGHT, MIGRATE_SYNC = range(3)             # enum migrate_mode
(MR_COMPACTION, MR_MEMORY_FAILURE, MR_MEMORY_HOTPLUG, MR_SYSCALL, MR_MEMPOLICY_MBIND, MR_NUMA_MISPLACED,
 MR_CONTIG_RANGE) = range(7)                                           # enum migrate_reason
_PASSES = 10
# What a page keeps when it moves; the lists' flags apart (migrate_page_states()).
_STATES = PG_error | PG_referenced | PG_uptodate | PG_active | PG_unevictable | PG_checked | PG_dirty | PG_readahead


@may_sleep
def migrate_pages(kernel: Kernel, pages: list[int], get_new_page: Callable[[int], int], mode: int, reason: int) -> int:
    """Moves isolated pages; answers how many could not be moved. Raises ENOMEM if there is no frame for one.

    get_new_page(pfn) -> a frame for it; raises ENOMEM. mode: MIGRATE_*. reason: MR_*. Afterwards `pages` has those that
    the caller must put back: putback_movable_pages().
    """
    nr_succeeded = nr_failed = retry = 0
    no_memory = False
    for attempt in range(_PASSES):
        retry = 0
        for pfn in pages[:]:
            cond_resched()
            try:
                error = unmap_and_move(kernel, get_new_page, pfn, attempt > 2, mode)
            except KernelError:                            # no frame: it would be no better with the others
                no_memory = True
                break
            if error == EAGAIN:
                retry += 1
                continue
            pages.remove(pfn)
            if error:
                nr_failed += 1
            else:
                nr_succeeded += 1
        if no_memory or not retry:
            break
    nr_failed += retry + no_memory
    kernel.mem.vm_event[PGMIGRATE_SUCCESS] += nr_succeeded
    kernel.mem.vm_event[PGMIGRATE_FAIL] += nr_failed
    probe = kernel.tp.mm_migrate_pages
    if probe is not None:
        probe(nr_succeeded, nr_failed, mode, reason)
    if no_memory:
        raise KernelError(ENOMEM)
    return nr_failed


def putback_movable_pages(kernel: Kernel, pages: list[int]) -> None:
    """Isolated pages that did not move go back to their lists."""
    for pfn in pages:
        kernel.mem.vm_stat[NR_ISOLATED_ANON + page_is_file_cache(kernel.mem.flags[pfn])] -= 1
        putback_lru_page(kernel, pfn)
    pages.clear()


@notrace
def queue_page(kernel: Kernel, pfn: int, pages: list[int]) -> None:
    """Takes a page off its list, for migrate_pages(). Raises EBUSY."""
    isolate_lru_page(kernel, pfn)
    pages.append(pfn)
    kernel.mem.vm_stat[NR_ISOLATED_ANON + page_is_file_cache(kernel.mem.flags[pfn])] += 1


@notrace
def page_to_move(mm: MmStruct, address: int) -> int:
    """The frame at an address, if it can move at all; 0: none is mapped. A huge page is split. Raises EFAULT."""
    address &= ~0xFFF
    entry = 0
    for _address, slot, _count in pte_ranges(mm, address, address + 4096):
        entry = mm.kernel.mem.ram64[slot]
    if not entry & (PTE_PRESENT | PTE_PROTNONE):
        return 0
    if entry & PTE_SPECIAL:                                # the zero page, or a device's
        raise KernelError(EFAULT)
    return (entry & PTE_MASK) >> 12


def alloc_new_node_page(kernel: Kernel, node: int) -> int:
    """A frame of that node only (mm/mempolicy.c). Raises ENOMEM."""
    return alloc_pages_node(kernel, node, GFP_HIGHUSER_MOVABLE | __GFP_THISNODE, 0)


# ---- one page ---------------------------------------------------------------------------------------------------
@may_sleep
def unmap_and_move(kernel: Kernel, get_new_page: Callable[[int], int], pfn: int, force: bool, mode: int) -> int:
    """0, or the errno why not; EAGAIN leaves it isolated. Raises ENOMEM, which does too."""
    mem = kernel.mem
    isolated = NR_ISOLATED_ANON + page_is_file_cache(mem.flags[pfn])
    if mem.refcount[pfn] == 1:                             # its last user left
        mem.flags[pfn] &= ~(PG_active | PG_unevictable)
        mem.vm_stat[isolated] -= 1
        put_page(kernel, pfn)
        return 0
    new = get_new_page(pfn)
    error = __unmap_and_move(kernel, pfn, new, force, mode)
    if error:
        put_page(kernel, new)
    if error == EAGAIN:
        return error
    mem.vm_stat[isolated] -= 1
    if error:
        putback_lru_page(kernel, pfn)
    else:
        put_page(kernel, pfn)                              # the reference of isolation was the last one
    return error


@may_sleep
def __unmap_and_move(kernel: Kernel, pfn: int, new: int, force: bool, mode: int) -> int:
    """0, or an errno. On success the new page is on its list."""
    mem = kernel.mem
    if not trylock_page(kernel, pfn):
        if not force or mode == MIGRATE_ASYNC:
            return EAGAIN
        lock_page(kernel, pfn)
    try:
        if mem.flags[pfn] & PG_writeback:
            if mode != MIGRATE_SYNC:
                return EBUSY
            if not force:
                return EAGAIN
            wait_on_page_writeback(kernel, pfn)
        if pfn not in mem.mapping and mem.flags[pfn] & PG_private:         # truncated while somebody used its buffers
            kernel.filemap.try_to_free_buffers(pfn)
            return EAGAIN
        if must_be_stored(kernel, pfn):
            return fallback_migrate_page(kernel, pfn, mode)
        mem.flags[new] |= PG_locked
        page_was_mapped = mem.mapcount[pfn] != 0
        if page_was_mapped:
            try_to_unmap(kernel, pfn, TTU_MIGRATION | TTU_IGNORE_MLOCK | TTU_IGNORE_ACCESS)
        error = EAGAIN if mem.mapcount[pfn] else move_to_new_page(kernel, new, pfn)
        if page_was_mapped:
            remove_migration_ptes(kernel, pfn, pfn if error else new)
        unlock_page(kernel, new)
    finally:
        unlock_page(kernel, pfn)
    if not error:
        putback_lru_page(kernel, new)
    return error


def move_to_new_page(kernel: Kernel, new: int, pfn: int) -> int:
    """Contents and place in the cache go over to a frame that nobody knows yet. 0, or EAGAIN. Locks: both pages."""
    if kernel.mem.flags[pfn] & PG_private:
        return buffer_migrate_page(kernel, new, pfn)
    return migrate_page(kernel, new, pfn)


def migrate_page(kernel: Kernel, new: int, pfn: int) -> int:
    """Of anonymous memory, tmpfs, the swap cache, and clean pages without buffers."""
    error = migrate_page_move_mapping(kernel, new, pfn)
    if not error:
        migrate_page_copy(kernel, new, pfn)
    return error


def buffer_migrate_page(kernel: Kernel, new: int, pfn: int) -> int:
    """Buffers go along, if nobody uses them just now. (->migratepage() of block devices asks for b_count, too.)"""
    mem = kernel.mem
    head: BufferHead = mem.private[pfn]
    buffers = [head]
    while buffers[-1].b_this_page is not head:
        buffers.append(buffers[-1].b_this_page)
    host = mem.mapping[pfn].host
    metadata = host is not None and host.i_mode & S_IFMT == S_IFBLK
    if any(bh.b_state & BH_Lock or (metadata and bh.b_count) for bh in buffers):
        return EAGAIN
    error = migrate_page_move_mapping(kernel, new, pfn)
    if error:
        return error
    mem.flags[pfn] &= ~PG_private
    del mem.private[pfn]
    mem.refcount[pfn] -= 1
    mem.flags[new] |= PG_private
    mem.private[new] = head
    mem.refcount[new] += 1
    for bh in buffers:
        bh.b_pfn = new
    migrate_page_copy(kernel, new, pfn)
    return 0


@notrace
def expected_page_refs(kernel: Kernel, pfn: int) -> int:
    """References of a page that nobody else uses: isolation's, the cache's, that of its buffers."""
    return 1 + (pfn in kernel.mem.mapping) + (kernel.mem.flags[pfn] & PG_private != 0)


def migrate_page_move_mapping(kernel: Kernel, new: int, pfn: int) -> int:
    """The cache has the new page instead of the old one. 0, or EAGAIN: somebody holds the old one."""
    mem = kernel.mem
    if mem.refcount[pfn] != expected_page_refs(kernel, pfn):
        return EAGAIN
    state = mem.flags[pfn]
    mem.index[new] = mem.index[pfn]
    mem.anon_vma[new] = mem.anon_vma[pfn]
    mem.flags[new] |= state & (PG_anon | PG_swapbacked | PG_swapcache)
    mapping = mem.mapping.pop(pfn, None)
    if mapping is None:
        return 0
    index = mem.index[pfn]
    if state & PG_swapcache:
        swap = kernel.swap
        assert swap is not None
        entry = swap.private[new] = swap.private.pop(pfn)
        index = swp_offset(entry)
        mem.flags[pfn] &= ~PG_swapcache
    mapping.pages[index] = new
    mem.mapping[new] = mapping
    mem.refcount[new] += 1
    mem.refcount[pfn] -= 1
    return 0


def migrate_page_copy(kernel: Kernel, new: int, pfn: int) -> None:
    mem = kernel.mem
    kernel.machine.charge(COPY_PAGE)
    mem.ram[new << 12 : (new + 1) << 12] = mem.ram[pfn << 12 : (pfn + 1) << 12]
    migrate_page_states(kernel, new, pfn)


def migrate_page_states(kernel: Kernel, new: int, pfn: int) -> None:
    """The new page is as dirty, as active ... as the old one was; the old one is nothing any more."""
    flags = kernel.mem.flags
    flags[new] |= flags[pfn] & _STATES
    flags[pfn] &= ~(PG_active | PG_unevictable | PG_dirty)


@notrace
def must_be_stored(kernel: Kernel, pfn: int) -> bool:
    """Does its file system know its frame by other means than the cache, so that only a clean page may move?"""
    state = kernel.mem.flags[pfn]
    mapping = kernel.mem.mapping.get(pfn)
    return (mapping is not None and bool(state & PG_dirty) and not state & (PG_private | PG_swapcache)
            and not mapping.unevictable)


@may_sleep
def fallback_migrate_page(kernel: Kernel, pfn: int, mode: int) -> int:
    """No ->migratepage(): stores a dirty page, so that a later pass can move it. EAGAIN, or why not. Locks: page."""
    return writeout(kernel, pfn) if mode == MIGRATE_SYNC else EBUSY


@may_sleep
def writeout(kernel: Kernel, pfn: int) -> int:
    """Begins to store a page. Locks: page, also afterwards."""
    mapping: AddressSpace = kernel.mem.mapping[pfn]
    if mapping.a_ops.writepage is None:
        return EINVAL
    if not clear_page_dirty_for_io(kernel, pfn):
        return EAGAIN
    wbc = WritebackControl(sync_mode=WB_SYNC_NONE, nr_to_write=1, range_end=LLONG_MAX, for_reclaim=True)
    try:
        rc = mapping.a_ops.writepage(mapping, kernel.mem.index[pfn], pfn, wbc)
    except KernelError:
        rc = -1
    if rc != AOP_WRITEPAGE_ACTIVATE:                       # unlocked: in order to lock it again
        lock_page(kernel, pfn)
    return EIO if rc < 0 else EAGAIN


# ---- page tables ------------------------------------------------------------------------------------------------
def remove_migration_ptes(kernel: Kernel, old: int, new: int) -> None:
    """Where a migration entry of the old page stands, the new one is mapped. Locks: both pages."""
    rmap_walk(kernel, new, RmapWalkControl(remove_migration_pte, old, anon_lock=False))


def remove_migration_pte(pfn: int, vma: VmAreaStruct, address: int, old: int) -> bool:
    mm = vma.vm_mm
    kernel = mm.kernel
    mem = kernel.mem
    slot = lookup_pte(mem.ram64, mm.pgd, address)
    if not slot:
        return True
    write = mem.ram64[slot] == swp_entry_to_pte(make_migration_entry(old, True))
    if not write and mem.ram64[slot] != swp_entry_to_pte(make_migration_entry(old, False)):
        return True
    mem.refcount[pfn] += 1
    prot = vma.vm_page_prot & ~PTE_WRITE
    if not prot & PTE_NX and not mem.flags[pfn] & PG_exec:
        note_executable(kernel, pfn)
    mem.ram64[slot] = pfn << 12 | prot | PTE_ACCESSED | (PTE_WRITE | PTE_DIRTY if write else 0)
    if mem.flags[pfn] & PG_anon:
        do_page_add_anon_rmap(vma, address, pfn, False)
    else:
        page_add_file_rmap(vma, pfn)
    if vma.vm_flags & VM_LOCKED:
        mlock_vma_page(kernel, pfn)
    return True
