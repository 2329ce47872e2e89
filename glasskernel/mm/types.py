"""The objects of the memory map: address spaces of processes, their areas, and page caches of files.

Linux: include/linux/mm_types.h, mm.h, fs.h (address_space). Only data and defaults.
A page frame is its number (pfn); what Linux keeps in struct page lies in arrays of mm.page_alloc.Frames,
indexed by pfn, so that boot time does not grow with memory.
"""
from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Inode, Kiocb
    from glasskernel.init.kernel import Kernel
    from glasskernel.kernel.locking.rwsem import RwSemaphore
    from glasskernel.mm.iov_iter import IovIter
    from glasskernel.mm.rmap import AnonVma

PAGE_SHIFT, PAGE_SIZE, PAGE_MASK = 12, 4096, ~4095
TASK_SIZE = 0x7FFF_FFFF_F000
VSYSCALL_ADDR = 0xFFFF_FFFF_FF60_0000

VM_READ, VM_WRITE, VM_EXEC, VM_SHARED = 0x1, 0x2, 0x4, 0x8
VM_MAYREAD, VM_MAYWRITE, VM_MAYEXEC, VM_MAYSHARE = 0x10, 0x20, 0x40, 0x80
VM_GROWSDOWN, VM_PFNMAP, VM_DENYWRITE, VM_LOCKED, VM_IO = 0x100, 0x400, 0x800, 0x2000, 0x4000
VM_SEQ_READ, VM_RAND_READ, VM_DONTCOPY, VM_DONTEXPAND = 0x8000, 0x10000, 0x20000, 0x40000
VM_LOCKONFAULT, VM_ACCOUNT, VM_NORESERVE, VM_WIPEONFORK, VM_DONTDUMP = 0x80000, 0x100000, 0x200000, 0x2000000, 0x4000000
VM_MIXEDMAP, VM_MERGEABLE = 0x10000000, 0x80000000
VM_HUGETLB, VM_HUGEPAGE, VM_NOHUGEPAGE = 0x400000, 0x20000000, 0x40000000
VM_SPECIAL = VM_IO | VM_DONTEXPAND | VM_PFNMAP | VM_MIXEDMAP

# What a fault handler answers (include/linux/mm_types.h, vm_fault_t).
VM_FAULT_OOM, VM_FAULT_SIGBUS, VM_FAULT_MAJOR, VM_FAULT_WRITE = 0x1, 0x2, 0x4, 0x8
VM_FAULT_SIGSEGV, VM_FAULT_NOPAGE, VM_FAULT_LOCKED, VM_FAULT_RETRY = 0x40, 0x100, 0x200, 0x400
VM_FAULT_ERROR = VM_FAULT_OOM | VM_FAULT_SIGBUS | VM_FAULT_SIGSEGV

MM_FILEPAGES, MM_ANONPAGES, MM_SWAPENTS, MM_SHMEMPAGES = range(4)


@notrace
def _einval(*_args: Any) -> Any:
    raise KernelError(EINVAL)


@notrace
def _set_page_dirty_no_writeback(_mapping: AddressSpace, _pfn: int) -> bool:
    return False


WB_SYNC_NONE, WB_SYNC_ALL = 0, 1
AOP_WRITEPAGE_ACTIVATE = 0x80000         # ->writepage answers it: the page stays locked and dirty, ask later

# mm_struct.flags (include/linux/sched/coredump.h)
MMF_VM_HUGEPAGE, MMF_OOM_SKIP, MMF_OOM_VICTIM = 1 << 17, 1 << 21, 1 << 25

# address_space.flags
AS_EIO, AS_ENOSPC, AS_UNEVICTABLE, AS_EXITING, AS_NO_WRITEBACK_TAGS = 1, 2, 8, 16, 32


@slotted
class WritebackControl:
    """struct writeback_control: one call for storing dirty pages, and how far it got."""

    nr_to_write: int                     # pages left to be stored
    pages_skipped: int = 0               # pages that were not stored, though dirty
    range_start: int = 0                 # in bytes; range_end is inclusive
    range_end: int = 0
    sync_mode: int = WB_SYNC_NONE
    for_kupdate: bool = False
    for_background: bool = False
    tagged_writepages: bool = False
    for_reclaim: bool = False
    range_cyclic: bool = False           # start where the last call stopped
    for_sync: bool = False               # sync(2)
    inode: Inode | None = None
    wb: Any = None                       # mm.backing_dev.BdiWriteback


@slotted(frozen=True)
class AddressSpaceOperations:
    """struct address_space_operations. May sleep.

    readpage(file, mapping, index, pfn): starts to fill the frame, which is in the cache and locked. When it is filled,
        PG_uptodate is set and the page unlocked, perhaps later and in another context. A failure unlocks it too: it
        is raised, or leaves the page not up to date with PG_error. Bytes behind i_size must be zero.
    readpages(file, mapping, pages): starts to fill new frames, pages being (index, pfn), ascending, each with the
        caller's reference, none in the cache yet: add_to_page_cache_lru() each, as readpage then. Errors are not told:
        the reader will meet them. None: one by one.
    write_begin(file, mapping, pos, length) -> pfn: the frame to copy to, locked, with a reference, up to date outside
        the copied part.
    write_end(file, mapping, pos, length, copied, pfn) -> copied: marks dirty, moves i_size, unlocks, drops it.
    writepage(mapping, index, pfn, wbc) -> 0 or AOP_WRITEPAGE_ACTIVATE: stores a frame that is locked and was cleaned by
        clear_page_dirty_for_io(): set_page_writeback(), unlock, and end_page_writeback() when it is stored. Raises EIO.
    writepages(mapping, wbc): stores dirty pages in wbc's range; None: generic_writepages().
    set_page_dirty(mapping, pfn) -> True if it was clean. direct_IO(iocb, iter) -> bytes: a write if
        iocb.ki_flags has IOCB_WRITE; None where O_DIRECT is EINVAL.
    bmap(mapping, block) -> block of the device, 0: a hole (FIBMAP, swap, an external journal).
    invalidatepage(pfn, offset, length): the bytes are being truncated; None: block_invalidatepage() for pages with
        buffers. releasepage(pfn, gfp) -> True if what hangs off page->private is gone; None: try_to_free_buffers().
    is_partially_uptodate(pfn, offset, count) -> True if these bytes may be read though the page is not up to date.
    """

    readpage: Callable[[File | None, AddressSpace, int, int], None] = _einval
    write_begin: Callable[[File | None, AddressSpace, int, int], int] = _einval
    write_end: Callable[[File | None, AddressSpace, int, int, int, int], int] = _einval
    writepage: Callable[[AddressSpace, int, int, WritebackControl], int] | None = None
    set_page_dirty: Callable[[AddressSpace, int], bool] = _set_page_dirty_no_writeback
    direct_IO: Callable[[Kiocb, IovIter], int] | None = None
    readpages: Callable[[File | None, AddressSpace, list[tuple[int, int]]], None] | None = None
    writepages: Callable[[AddressSpace, WritebackControl], None] | None = None
    bmap: Callable[[AddressSpace, int], int] | None = None
    invalidatepage: Callable[[int, int, int], None] | None = None
    releasepage: Callable[[int, int], bool] | None = None
    is_partially_uptodate: Callable[[int, int, int], bool] | None = None
    error_remove_page: Callable[[AddressSpace, int], None] | None = None


@slotted
class AddressSpace:
    """struct address_space: the page cache of one file. pages: page index -> pfn (each holds one reference).

    i_mmap: the areas that map this file, in the order they were made (a dict used as an ordered set).
    """

    host: Inode | None
    a_ops: AddressSpaceOperations = field(default_factory=AddressSpaceOperations)
    pages: dict[int, int] = field(default_factory=dict)
    dirty: dict[int, None] = field(default_factory=dict)     # PAGECACHE_TAG_DIRTY, by index
    writeback: dict[int, None] = field(default_factory=dict)         # PAGECACHE_TAG_WRITEBACK, by index
    writeback_index: int = 0                                 # where range_cyclic goes on
    wb_err: int = 0                                          # errseq_t (lib.errseq): errors of writes
    flags: int = 0                                           # AS_*
    gfp_mask: int = 0x100CCA                                 # GFP_HIGHUSER_MOVABLE
    private_list: dict[Any, None] | None = None              # dirty BufferHeads that fsync must write
    i_mmap: dict[VmAreaStruct, None] = field(default_factory=dict)
    unevictable: bool = False                                # tmpfs: these frames are the data
    private: Any = None


@slotted(frozen=True)
class VmOperations:
    """struct vm_operations_struct. None where Linux tests for the entry.

    fault(vma, vmf) -> VM_FAULT_*: sets vmf.pfn with a reference held.
    map_pages(vma, vmf, start_index, end_index): fault-around. page_mkwrite(vma, vmf) -> VM_FAULT_*.
    """

    fault: Callable[[VmAreaStruct, VmFault], int] | None = None
    map_pages: Callable[[VmAreaStruct, VmFault, int, int], None] | None = None
    page_mkwrite: Callable[[VmAreaStruct, VmFault], int] | None = None
    open: Callable[[VmAreaStruct], None] | None = None
    close: Callable[[VmAreaStruct], None] | None = None
    split: Callable[[VmAreaStruct, int], None] | None = None             # may raise: not there
    name: Callable[[VmAreaStruct], bytes] | None = None
    set_policy: Callable[[VmAreaStruct, Any], None] | None = None        # of shared memory: mm.mempolicy
    get_policy: Callable[[VmAreaStruct, int], Any] | None = None


@slotted
class VmAreaStruct:
    """struct vm_area_struct: [vm_start, vm_end) with one set of rights and one backing."""

    vm_mm: MmStruct
    vm_start: int
    vm_end: int
    vm_flags: int
    vm_page_prot: int = 0                # PTE bits
    vm_pgoff: int = 0                    # in pages
    vm_file: File | None = None
    vm_ops: VmOperations | None = None   # None: anonymous
    anon_vma: AnonVma | None = None      # set at the first anonymous page: where its new ones go
    vm_private_data: Any = None
    vm_policy: Any = None                # mm.mempolicy.Mempolicy of mbind(2)
    slab_address: int = 0                # its slot of the cache vm_area_struct
    anon_vma_chain: tuple[AnonVma, ...] = ()         # all whose pages it may map


class VmaTree:
    """The areas of one mm in the order of their addresses; they never overlap (Linux 5.3: mm_rb and mmap list).

    Two parallel lists: a search is one bisect in C, and no process has so many areas that inserting hurts.

    free_area_cache, cached_hole_size: what vm_unmapped_area() learned: above the former, no gap is larger than the
        latter. (Linux before 3.8 had these; 5.3 keeps the largest gap of each subtree instead.)
    """

    __slots__ = ("_areas", "_starts", "cached_hole_size", "free_area_cache")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._areas: list[VmAreaStruct] = []
        self.free_area_cache = 0         # 0: nothing learned
        self.cached_hole_size = 0

    def __len__(self) -> int:
        return len(self._areas)

    def __iter__(self) -> Iterator[VmAreaStruct]:
        return iter(self._areas)

    def values(self) -> list[VmAreaStruct]:
        """A copy, for loops that change the tree."""
        return self._areas[:]

    def first_ending_after(self, address: int) -> VmAreaStruct | None:
        """The lowest area with vm_end > address."""
        i = bisect_right(self._starts, address)
        areas = self._areas
        if i and areas[i - 1].vm_end > address:
            return areas[i - 1]
        return areas[i] if i < len(areas) else None

    def before(self, address: int) -> VmAreaStruct | None:
        """The highest area with vm_start < address."""
        i = bisect_left(self._starts, address)
        return self._areas[i - 1] if i else None

    def after(self, vma: VmAreaStruct) -> VmAreaStruct | None:
        """vma->vm_next"""
        i = bisect_right(self._starts, vma.vm_start)
        return self._areas[i] if i < len(self._areas) else None

    def overlapping(self, start: int, end: int) -> list[VmAreaStruct]:
        """Every area that has a byte in [start, end)."""
        i = bisect_right(self._starts, start)
        if i and self._areas[i - 1].vm_end > start:
            i -= 1
        return self._areas[i : bisect_left(self._starts, end)]

    def insert(self, vma: VmAreaStruct) -> None:
        i = bisect_left(self._starts, vma.vm_start)
        self._starts.insert(i, vma.vm_start)
        self._areas.insert(i, vma)

    def remove(self, vma: VmAreaStruct) -> None:
        i = bisect_left(self._starts, vma.vm_start)
        assert self._areas[i] is vma
        del self._starts[i], self._areas[i]
        self.note_gap_at(vma.vm_end)

    def note_gap_at(self, address: int) -> None:
        """What ended at `address` got shorter or vanished: the gap there reaches up to the next area."""
        if self.free_area_cache:
            following = self.first_ending_after(address)
            top = following.vm_start if following is not None else TASK_SIZE
            if top > self.free_area_cache:
                self.free_area_cache = top


@slotted
class VmFault:
    """struct vm_fault: one fault being handled."""

    vma: VmAreaStruct
    flags: int                           # FAULT_FLAG_*
    address: int                         # page aligned
    pgoff: int
    pfn: int = 0                         # answer of ->fault, 0 is never a user frame
    cow_pfn: int = 0


@slotted
class MmStruct:
    """struct mm_struct: the user half of an address space.

    tlb_read/tlb_write: what uaccess may touch without a walk: page number -> physical address. They are a TLB:
        flush_tlb_*() empties them whenever an entry of the page tables loses a right or moves.
    """

    kernel: Kernel
    pgd: int                             # physical address of the top table
    mmap_sem: RwSemaphore = None  # type: ignore[assignment]
    vmas: VmaTree = field(default_factory=VmaTree)
    mm_users: int = 1                    # tasks
    slab_address: int = 0                # its slot of the cache mm_struct
    mm_count: int = 1                    # mm_users count as one, lazy users one each
    tlb_read: dict[int, int] = field(default_factory=dict)
    tlb_write: dict[int, int] = field(default_factory=dict)
    mmap_base: int = 0
    mmap_legacy: bool = False            # mappings grow upwards from mmap_base
    mmap_rnd: int = 0                    # this program's random shift, in bytes
    vmacache_seqnum: int = 0             # grows when the areas that tasks remember may be wrong
    total_vm: int = 0                    # pages, like the next ones
    locked_vm: int = 0
    pinned_vm: int = 0
    data_vm: int = 0
    exec_vm: int = 0
    stack_vm: int = 0
    hiwater_rss: int = 0
    hiwater_vm: int = 0
    rss_stat: list[int] = field(default_factory=lambda: [0, 0, 0, 0])     # by MM_*PAGES
    pgtables_bytes: int = 0
    tables: list[list[int]] = field(default_factory=lambda: [[], [], []])        # pfns of the page tables, by level
    flags: int = 0                       # MMF_*
    def_flags: int = 0
    start_code: int = 0
    end_code: int = 0
    start_data: int = 0
    end_data: int = 0
    start_brk: int = 0
    brk: int = 0
    start_stack: int = 0
    arg_start: int = 0
    arg_end: int = 0
    env_start: int = 0
    env_end: int = 0
    saved_auxv: bytes = b""
    exe_file: File | None = None
    vdso: int = 0
    dumpable: int = 1
    binfmt: Any = None
    core_state: Any = None
    membarrier_state: int = 0            # what membarrier(2) registered
    ioctx_table: list[Any] | None = None             # fs.aio Kioctx by number
    uprobes_state: Any = None            # kernel.events.uprobes.UprobesMm: has, or had, breakpoints
    thp_disabled: bool = False           # prctl(PR_SET_THP_DISABLE)
    hugetlb_usage: int = 0               # 4096-byte pages of hugetlbfs that are mapped
