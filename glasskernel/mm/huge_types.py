"""The objects of huge pages: the pool, reservations, and what lower files ask of this room.

Linux: struct hstate, resv_map, hugepage_subpool (include/linux/hugetlb.h, mm/hugetlb.c), mm/huge_memory.c (5.3).
    Only data.
Owns: HugetlbState (kernel.hugetlb), made by the first who wants a page of the pool or looks at it, and ThpState
    (kernel.thp), made by the first madvise(MADV_HUGEPAGE) or "always". Until then both are None, and no 2 MB are
    mapped at once.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.mm.types import VM_HUGEPAGE, VM_LOCKED, VM_NOHUGEPAGE, VM_SHARED

if TYPE_CHECKING:
    from glasskernel.fs.types import File, Mount
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.mmu_gather import MmuGather
    from glasskernel.mm.types import MmStruct, VmAreaStruct

HPAGE_PMD_ORDER: Final = 9
HPAGE_PMD_NR: Final = 1 << HPAGE_PMD_ORDER           # frames of a huge page
HPAGE_PMD_SHIFT: Final = 21
HPAGE_PMD_SIZE: Final = 1 << HPAGE_PMD_SHIFT
HPAGE_PMD_MASK: Final = -HPAGE_PMD_SIZE

HPAGE_RESV_OWNER, HPAGE_RESV_UNMAPPED = 1, 2         # of a private area: it made the reservation; a page was taken away


@slotted
class ResvMap:
    """struct resv_map: huge pages (by index) that were reserved for a file; of a private area, those that were used.

    Differs: a dict of indices, where Linux has a list of ranges. refs: areas.
    """

    refs: int = 1
    regions: dict[int, None] = field(default_factory=dict)


@slotted
class HugetlbVma:
    """vm_private_data of a private area of hugetlbfs: the map and HPAGE_RESV_* (two low bits of a pointer in Linux)."""

    resv: ResvMap | None
    flags: int = 0


@slotted
class HugepageSubpool:
    """struct hugepage_subpool: what a mount may take (max_hpages, -1: all), and has for sure (min_hpages)."""

    max_hpages: int = -1
    used_hpages: int = 0
    min_hpages: int = -1
    rsv_hpages: int = 0


@slotted
class HugetlbState:
    """kernel.hugetlb: the only size's struct hstate. The callables are what lower files ask.

    hugepage_freelists: first frames of free pages. pages: first frames of all. page_count: references of those in use.
    page_private: the subpool that those count in. page_reserve: those with PagePrivate, whose reservation comes back if
    they are given back unused. (mem.refcount of each frame is 1 while the pool has it: nobody else can free it.)
    """

    kernel: Kernel
    hugetlb_fault: Callable[[VmAreaStruct, int, int], int]
    unmap_hugepage_range_final: Callable[[MmuGather, VmAreaStruct, int, int], None]
    copy_hugetlb_page_range: Callable[[VmAreaStruct, VmAreaStruct], None]
    hugetlb_change_protection: Callable[[VmAreaStruct, int, int], int]
    reset_vma_resv_huge_pages: Callable[[VmAreaStruct], None]
    put_huge_page: Callable[[HugetlbState, int], None]
    is_file_hugepages: Callable[[File], bool]
    max_huge_pages: int = 0
    nr_huge_pages: int = 0
    free_huge_pages: int = 0
    resv_huge_pages: int = 0
    surplus_huge_pages: int = 0
    nr_overcommit_huge_pages: int = 0
    hugepage_freelists: dict[int, None] = field(default_factory=dict)
    pages: dict[int, None] = field(default_factory=dict)
    page_count: dict[int, int] = field(default_factory=dict)
    page_private: dict[int, HugepageSubpool] = field(default_factory=dict)
    page_reserve: dict[int, None] = field(default_factory=dict)
    buddy_alloc: list[int] = field(default_factory=lambda: [0, 0])         # how often it succeeded, and failed
    sysctl_hugetlb_shm_group: int = 0
    vfsmount: Mount | None = None                    # hugetlbfs_vfsmount: of files without a name


@notrace
def hugetlb_total_pages(h: HugetlbState | None) -> int:
    """Frames of the whole pool."""
    return 0 if h is None else h.nr_huge_pages << HPAGE_PMD_ORDER


@notrace
def hugetlb_report_meminfo(h: HugetlbState | None) -> bytes:
    """The lines of /proc/meminfo."""
    figures = (0, 0, 0, 0) if h is None else (
        h.nr_huge_pages, h.free_huge_pages, h.resv_huge_pages, h.surplus_huge_pages)
    return (b"HugePages_Total:   %5d\nHugePages_Free:    %5d\nHugePages_Rsvd:    %5d\nHugePages_Surp:    %5d\n"
            b"Hugepagesize:       2048 kB\nHugetlb:        %8d kB\n") % (*figures, hugetlb_total_pages(h) << 2)


# enabled, and defrag (bits of transparent_hugepage_flags)
(TRANSPARENT_HUGEPAGE_FLAG, TRANSPARENT_HUGEPAGE_REQ_MADV_FLAG, TRANSPARENT_HUGEPAGE_DEFRAG_DIRECT_FLAG,
 TRANSPARENT_HUGEPAGE_DEFRAG_KSWAPD_FLAG, TRANSPARENT_HUGEPAGE_DEFRAG_KSWAPD_OR_MADV_FLAG,
 TRANSPARENT_HUGEPAGE_DEFRAG_REQ_MADV_FLAG, TRANSPARENT_HUGEPAGE_DEFRAG_KHUGEPAGED_FLAG,
 TRANSPARENT_HUGEPAGE_USE_ZERO_PAGE_FLAG) = (1 << n for n in range(8))

THP_DEFAULT_FLAGS: Final = (
    TRANSPARENT_HUGEPAGE_REQ_MADV_FLAG | TRANSPARENT_HUGEPAGE_DEFRAG_REQ_MADV_FLAG
    | TRANSPARENT_HUGEPAGE_DEFRAG_KHUGEPAGED_FLAG | TRANSPARENT_HUGEPAGE_USE_ZERO_PAGE_FLAG)

# ThpState.events, in the order of /proc/vmstat
THP_EVENTS: Final = (
    b"thp_fault_alloc", b"thp_fault_fallback", b"thp_collapse_alloc", b"thp_collapse_alloc_failed", b"thp_file_alloc",
    b"thp_file_mapped", b"thp_split_page", b"thp_split_page_failed", b"thp_deferred_split_page", b"thp_split_pmd",
    b"thp_split_pud", b"thp_zero_page_alloc", b"thp_zero_page_alloc_failed", b"thp_swpout", b"thp_swpout_fallback",
)
HugePmd = Callable[[int, int, int], bool]            # (slot, address, end): see mm.memory.pte_ranges()


@slotted
class ThpState:
    """kernel.thp. compound_mapcount: entries that map a huge page as one, by its first frame. deposits: by the slot of
    such an entry: the table it will need when it is split, which is a table of the process already.
    """

    handle_huge_pmd: Callable[[VmAreaStruct, int, int], int | None]
    split_huge_pmd: Callable[[MmStruct, int, int], int]
    zap_huge_pmd: Callable[[MmuGather, VmAreaStruct], HugePmd]
    copy_huge_pmd: Callable[[VmAreaStruct, VmAreaStruct], HugePmd]
    change_huge_pmd: Callable[[VmAreaStruct], HugePmd]
    free_huge_frames: Callable[[Kernel, int], None]
    free_pmd_range: Callable[[MmStruct, int, int], None]
    khugepaged_enter: Callable[[MmStruct], None]
    khugepaged_exit: Callable[[MmStruct], None]
    flags: int                                       # TRANSPARENT_HUGEPAGE_*_FLAG
    huge_zero_page: int = 0
    khugepaged: Any = None                           # mm.khugepaged.Khugepaged
    compound_mapcount: dict[int, int] = field(default_factory=dict)
    deposits: dict[int, int] = field(default_factory=dict)
    events: dict[bytes, int] = field(default_factory=lambda: dict.fromkeys(THP_EVENTS, 0))


def transparent_hugepage_enabled(vma: VmAreaStruct) -> bool:
    """May the area have transparent huge pages? (mm/huge_memory.c)"""
    mm = vma.vm_mm
    if vma.vm_flags & (VM_NOHUGEPAGE | VM_LOCKED | VM_SHARED) or mm.thp_disabled or vma.vm_ops is not None:
        return False
    flags = mm.kernel.thp.flags if mm.kernel.thp is not None else THP_DEFAULT_FLAGS
    if flags & TRANSPARENT_HUGEPAGE_FLAG:
        return True
    return bool(flags & TRANSPARENT_HUGEPAGE_REQ_MADV_FLAG and vma.vm_flags & VM_HUGEPAGE)
