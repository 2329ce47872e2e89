"""The pool of huge pages: 2 MB each, taken from the buddies for good, and promised before they are used.

Linux: mm/hugetlb.c, the half that counts (5.3): hstate, surplus pages, reservations, subpools of mounts. Same: who
    gets a page when, what ENOMEM and SIGBUS follow, the figures of /proc/meminfo. The other half is hugetlb_fault.py.
Differs: one size (2 MB); see ResvMap. Direct I/O under way does not keep an unmapped page from being used again.
Owns: HugetlbState, every frame of a page in its `pages`.
Invariants: 0 <= resv <= free <= nr; nr - surplus is the pool's own size; a free page has no page_count.
Locks: none is needed (hugetlb_lock: nothing here sleeps between reading and writing a counter).
Gaps: 1 GB pages, pools for each node, gigantic allocation from CMA, cgroup, memory failure, compaction.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.lib.errno import ENOMEM, ENOSPC, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.huge_types import (
    HPAGE_PMD_NR,
    HPAGE_PMD_ORDER,
    HPAGE_PMD_SHIFT,
    HPAGE_RESV_OWNER,
    HugepageSubpool,
    HugetlbState,
    HugetlbVma,
    ResvMap,
)
from glasskernel.mm.page_alloc import (
    __GFP_NORETRY,
    __GFP_NOWARN,
    GFP_HIGHUSER_MOVABLE,
    __free_pages,
    alloc_pages,
    alloc_pages_vma,
)
from glasskernel.mm.types import VM_MAYSHARE, VM_NORESERVE

if TYPE_CHECKING:
    from glasskernel.fs.types import Inode
    from glasskernel.mm.types import VmAreaStruct

_GFP = GFP_HIGHUSER_MOVABLE | __GFP_NOWARN
HTLB_BUDDY_PGALLOC, HTLB_BUDDY_PGALLOC_FAIL = range(2)


# ---- the reservations of a file or an area ---------------------------------------------------------------------
@notrace
def resv_map_alloc() -> ResvMap:
    return ResvMap()


@notrace
def region_chg(resv: ResvMap, f: int, t: int) -> int:
    """How many of the pages [f, t) the map has not."""
    return sum(1 for index in range(f, t) if index not in resv.regions)


@notrace
def region_add(resv: ResvMap, f: int, t: int) -> int:
    """Now it has them all; how many are new."""
    before = len(resv.regions)
    for index in range(f, t):
        resv.regions[index] = None
    return len(resv.regions) - before


@notrace
def region_del(resv: ResvMap, f: int, t: int | None) -> int:
    """Takes [f, t) out, or all from f on; how many there were."""
    gone = [index for index in resv.regions if f <= index and (t is None or index < t)]
    for index in gone:
        del resv.regions[index]
    return len(gone)


@notrace
def region_count(resv: ResvMap, f: int, t: int) -> int:
    return (t - f) - region_chg(resv, f, t)


@notrace
def inode_resv_map(inode: Inode) -> ResvMap:
    """Of a file of hugetlbfs, where shared areas reserve."""
    resv: ResvMap = inode.i_data.private
    return resv


@notrace
def vma_resv_map(vma: VmAreaStruct) -> ResvMap | None:
    if vma.vm_flags & VM_MAYSHARE:
        assert vma.vm_file is not None
        return inode_resv_map(vma.vm_file.f_inode)
    private: HugetlbVma | None = vma.vm_private_data
    return None if private is None else private.resv


@notrace
def is_vma_resv_set(vma: VmAreaStruct, flag: int) -> bool:
    if vma.vm_flags & VM_MAYSHARE or vma.vm_private_data is None:
        return False
    private: HugetlbVma = vma.vm_private_data
    return bool(private.flags & flag)


def reset_vma_resv_huge_pages(vma: VmAreaStruct) -> None:
    """A child's private area: the reservation is its parent's."""
    if not vma.vm_flags & VM_MAYSHARE:
        vma.vm_private_data = None


@notrace
def vma_hugecache_offset(vma: VmAreaStruct, address: int) -> int:
    """linear_hugepage_index() too: an address in huge pages of the file."""
    return (address - vma.vm_start >> HPAGE_PMD_SHIFT) + (vma.vm_pgoff >> HPAGE_PMD_ORDER)


def vma_has_reserves(vma: VmAreaStruct, chg: int) -> bool:
    """Is a page of the pool kept for this fault? chg: the map did not have it."""
    if vma.vm_flags & VM_NORESERVE:
        return bool(vma.vm_flags & VM_MAYSHARE) and not chg
    if vma.vm_flags & VM_MAYSHARE or is_vma_resv_set(vma, HPAGE_RESV_OWNER):
        return not chg
    return False


@notrace
def vma_needs_reservation(vma: VmAreaStruct, address: int) -> int:
    """1 if nothing was reserved for the page at an address. A private map has what was used already."""
    resv = vma_resv_map(vma)
    if resv is None:
        return 1
    index = vma_hugecache_offset(vma, address)
    missing = region_chg(resv, index, index + 1)
    if not vma.vm_flags & VM_MAYSHARE and is_vma_resv_set(vma, HPAGE_RESV_OWNER):
        return 0 if missing else 1
    return missing


@notrace
def vma_commit_reservation(vma: VmAreaStruct, address: int) -> None:
    """The page at an address is there now."""
    resv = vma_resv_map(vma)
    if resv is not None:
        index = vma_hugecache_offset(vma, address)
        region_add(resv, index, index + 1)


# ---- subpools ---------------------------------------------------------------------------------------------------
def hugepage_subpool_get_pages(spool: HugepageSubpool | None, delta: int) -> int:
    """Takes `delta` pages of a mount; how many of them the pool must still promise. Raises ENOMEM."""
    if spool is None:
        return delta
    if spool.max_hpages != -1:
        if spool.used_hpages + delta > spool.max_hpages:
            raise KernelError(ENOMEM)
        spool.used_hpages += delta
    if spool.min_hpages != -1 and spool.rsv_hpages:
        promised = min(delta, spool.rsv_hpages)
        spool.rsv_hpages -= promised
        return delta - promised
    return delta


def hugepage_subpool_put_pages(spool: HugepageSubpool | None, delta: int) -> int:
    """Gives them back; how many promises of the pool are not needed any more."""
    if spool is None:
        return delta
    if spool.max_hpages != -1:
        spool.used_hpages -= delta
    ret = delta
    if spool.min_hpages != -1 and spool.used_hpages < spool.min_hpages:
        ret = max(spool.rsv_hpages + delta - spool.min_hpages, 0)
        spool.rsv_hpages = min(spool.rsv_hpages + delta, spool.min_hpages)
    return ret


# ---- pages ------------------------------------------------------------------------------------------------------
@notrace
def subpool_inode(inode: Inode) -> HugepageSubpool | None:
    """What the mount of a file may take."""
    spool: HugepageSubpool | None = inode.i_sb.s_fs_info.spool
    return spool


@may_sleep
def alloc_fresh_huge_page(h: HugetlbState, vma: VmAreaStruct | None, address: int) -> int | None:
    """A page from the buddies, in the pool but on no list; None if there is none."""
    try:
        if vma is None:
            pfn = alloc_pages(h.kernel, _GFP | __GFP_NORETRY, HPAGE_PMD_ORDER)
        else:
            pfn = alloc_pages_vma(h.kernel, _GFP | __GFP_NORETRY, HPAGE_PMD_ORDER, vma, address)
    except KernelError:
        htlb_count(h, False)
        return None
    htlb_count(h, True)
    prep_new_huge_page(h, pfn)
    return pfn


@notrace
def htlb_count(h: HugetlbState, success: bool) -> None:
    """htlb_buddy_alloc_success, htlb_buddy_alloc_fail of /proc/vmstat."""
    h.buddy_alloc[HTLB_BUDDY_PGALLOC if success else HTLB_BUDDY_PGALLOC_FAIL] += 1


def prep_new_huge_page(h: HugetlbState, pfn: int) -> None:
    """512 frames become one page."""
    refcount = h.kernel.mem.refcount
    for frame in range(pfn, pfn + HPAGE_PMD_NR):
        refcount[frame] = 1
    h.nr_huge_pages += 1
    h.pages[pfn] = None


def update_and_free_page(h: HugetlbState, pfn: int) -> None:
    """The page becomes 512 frames of the buddies again."""
    mem = h.kernel.mem
    h.nr_huge_pages -= 1
    del h.pages[pfn]
    for frame in range(pfn + 1, pfn + HPAGE_PMD_NR):
        mem.refcount[frame] = 0
    __free_pages(h.kernel, pfn, HPAGE_PMD_ORDER)


def enqueue_huge_page(h: HugetlbState, pfn: int) -> None:
    h.hugepage_freelists[pfn] = None
    h.free_huge_pages += 1


def dequeue_huge_page_vma(h: HugetlbState, vma: VmAreaStruct, avoid_reserve: bool, chg: int) -> int | None:
    """A free page, if the fault may have one: those that were promised to others stay."""
    reserved = vma_has_reserves(vma, chg)
    if (not reserved or avoid_reserve) and h.free_huge_pages - h.resv_huge_pages <= 0:
        return None
    if not h.hugepage_freelists:
        return None
    pfn, _ = h.hugepage_freelists.popitem()
    h.free_huge_pages -= 1
    if not avoid_reserve and reserved:
        h.page_reserve[pfn] = None
        h.resv_huge_pages -= 1
    return pfn


@may_sleep
def alloc_huge_page(vma: VmAreaStruct, address: int, avoid_reserve: bool) -> int:
    """A page for a fault, with one reference. avoid_reserve: not one that was reserved. Raises ENOSPC (SIGBUS)."""
    h = vma.vm_mm.kernel.hugetlb
    assert h is not None and vma.vm_file is not None
    spool = subpool_inode(vma.vm_file.f_inode)
    map_chg = gbl_chg = vma_needs_reservation(vma, address)
    if map_chg or avoid_reserve:
        try:
            gbl_chg = hugepage_subpool_get_pages(spool, 1)
        except KernelError:
            raise KernelError(ENOSPC) from None
        if avoid_reserve:
            gbl_chg = 1
    pfn = dequeue_huge_page_vma(h, vma, avoid_reserve, gbl_chg)
    if pfn is None:
        pfn = alloc_surplus_huge_page(h, vma, address)
        if pfn is None:
            if map_chg or avoid_reserve:
                hugepage_subpool_put_pages(spool, 1)
            raise KernelError(ENOSPC)
        if not avoid_reserve and vma_has_reserves(vma, gbl_chg):
            h.page_reserve[pfn] = None
            h.resv_huge_pages -= 1
    h.page_count[pfn] = 1
    if spool is not None:
        h.page_private[pfn] = spool
    vma_commit_reservation(vma, address)
    return pfn


def free_huge_page(h: HugetlbState, pfn: int) -> None:
    """Nobody has the page any more."""
    assert not h.kernel.mem.mapcount[pfn], f"huge page {pfn:#x} is freed while it is mapped"
    spool = h.page_private.pop(pfn, None)
    restore_reserve = pfn in h.page_reserve
    if restore_reserve:
        del h.page_reserve[pfn]
    elif hugepage_subpool_put_pages(spool, 1) == 0:
        restore_reserve = True                           # it was one of the mount's own
    if restore_reserve:
        h.resv_huge_pages += 1
    mem = h.kernel.mem
    for frame in range(pfn, pfn + HPAGE_PMD_NR):
        mem.note_kernel_write(frame)                     # whoever gets the page next has other code in it
        mem.flags[frame] = 0
    if h.surplus_huge_pages and not restore_reserve:
        update_and_free_page(h, pfn)
        h.surplus_huge_pages -= 1
    else:
        enqueue_huge_page(h, pfn)


@notrace
def get_huge_page(h: HugetlbState, pfn: int) -> None:
    """get_page()"""
    h.page_count[pfn] += 1


@notrace
def put_huge_page(h: HugetlbState, pfn: int) -> None:
    """put_page()"""
    h.page_count[pfn] -= 1
    if not h.page_count[pfn]:
        del h.page_count[pfn]
        free_huge_page(h, pfn)


# ---- surplus: more than the pool has ----------------------------------------------------------------------------
@may_sleep
def alloc_surplus_huge_page(h: HugetlbState, vma: VmAreaStruct | None, address: int) -> int | None:
    """A page beyond the pool's size, as far as vm.nr_overcommit_hugepages allows."""
    if h.surplus_huge_pages >= h.nr_overcommit_huge_pages:
        return None
    pfn = alloc_fresh_huge_page(h, vma, address)
    if pfn is None:
        return None
    if h.surplus_huge_pages >= h.nr_overcommit_huge_pages:         # the allocation slept
        update_and_free_page(h, pfn)
        return None
    h.surplus_huge_pages += 1
    return pfn


@may_sleep
def gather_surplus_pages(h: HugetlbState, delta: int) -> None:
    """Promises `delta` pages: takes surplus pages for what is not free. Raises ENOMEM."""
    gathered: list[int] = []
    while (h.resv_huge_pages + delta) - (h.free_huge_pages + len(gathered)) > 0:
        pfn = alloc_surplus_huge_page(h, None, 0)
        if pfn is None:
            for page in gathered:
                update_and_free_page(h, page)
                h.surplus_huge_pages -= 1
            raise KernelError(ENOMEM)
        gathered.append(pfn)
    h.resv_huge_pages += delta
    for page in gathered:
        enqueue_huge_page(h, page)


def return_unused_surplus_pages(h: HugetlbState, unused: int) -> None:
    """Promises that nobody needs any more, and the surplus pages that were taken for them."""
    h.resv_huge_pages -= unused
    for _ in range(min(unused, h.surplus_huge_pages)):
        if not free_pool_huge_page(h, True):
            break


def free_pool_huge_page(h: HugetlbState, acct_surplus: bool) -> bool:
    """One free page goes back to the buddies."""
    if not h.hugepage_freelists:
        return False
    pfn, _ = h.hugepage_freelists.popitem()
    h.free_huge_pages -= 1
    if acct_surplus:
        h.surplus_huge_pages -= 1
    update_and_free_page(h, pfn)
    return True


@may_sleep
def hugetlb_acct_memory(h: HugetlbState, delta: int) -> None:
    """Promises more pages, or fewer. Raises ENOMEM."""
    if delta > 0:
        gather_surplus_pages(h, delta)
    elif delta < 0:
        return_unused_surplus_pages(h, -delta)


@may_sleep
def hugetlb_reserve_pages(h: HugetlbState, inode: Inode, start: int, end: int, vma: VmAreaStruct | None,
                          vm_flags: int) -> None:
    """mmap(2), shmget(2): the pages [start, end) of a file will be there when they are touched. Raises ENOMEM."""
    if vm_flags & VM_NORESERVE:
        return
    spool = subpool_inode(inode)
    if vma is None or vma.vm_flags & VM_MAYSHARE:
        resv = inode_resv_map(inode)
        chg = region_chg(resv, start, end)
    else:
        resv, chg = resv_map_alloc(), end - start
    gbl_reserve = hugepage_subpool_get_pages(spool, chg)
    try:
        hugetlb_acct_memory(h, gbl_reserve)
    except KernelError:
        hugepage_subpool_put_pages(spool, chg)
        raise
    if vma is None or vma.vm_flags & VM_MAYSHARE:
        region_add(resv, start, end)
    else:
        vma.vm_private_data = HugetlbVma(resv, HPAGE_RESV_OWNER)


def hugetlb_unreserve_pages(h: HugetlbState, inode: Inode, start: int, end: int | None, freed: int) -> None:
    """A file loses [start, end), `freed` of which were there."""
    chg = region_del(inode_resv_map(inode), start, end)
    inode.i_blocks -= freed << HPAGE_PMD_ORDER + 3
    hugetlb_acct_memory(h, -hugepage_subpool_put_pages(subpool_inode(inode), chg - freed))


def hugetlb_vm_op_open(vma: VmAreaStruct) -> None:
    """A private area was split: both halves share the map."""
    if is_vma_resv_set(vma, HPAGE_RESV_OWNER):
        vma.vm_private_data.resv.refs += 1


def hugetlb_vm_op_close(vma: VmAreaStruct) -> None:
    """What a private area reserved and never used is free again."""
    if not is_vma_resv_set(vma, HPAGE_RESV_OWNER):
        return
    h = vma.vm_mm.kernel.hugetlb
    assert h is not None and vma.vm_file is not None
    resv: ResvMap = vma.vm_private_data.resv
    start, end = vma_hugecache_offset(vma, vma.vm_start), vma_hugecache_offset(vma, vma.vm_end)
    reserve = (end - start) - region_count(resv, start, end)
    resv.refs -= 1
    if reserve:
        hugetlb_acct_memory(h, -hugepage_subpool_put_pages(subpool_inode(vma.vm_file.f_inode), reserve))


# ---- the size of the pool ---------------------------------------------------------------------------------------
@notrace
def persistent_huge_pages(h: HugetlbState) -> int:
    return h.nr_huge_pages - h.surplus_huge_pages


@may_sleep
def set_max_huge_pages(h: HugetlbState, count: int) -> None:
    """vm.nr_hugepages: the pool grows as far as memory in 2 MB blocks reaches, and shrinks as far as pages are free."""
    while h.surplus_huge_pages and count > persistent_huge_pages(h):
        h.surplus_huge_pages -= 1                        # what was taken beyond the size is within it now
    while count > persistent_huge_pages(h):
        pfn = alloc_fresh_huge_page(h, None, 0)
        if pfn is None:
            break
        enqueue_huge_page(h, pfn)
    min_count = max(h.resv_huge_pages + h.nr_huge_pages - h.free_huge_pages, count)
    while min_count < persistent_huge_pages(h) and free_pool_huge_page(h, False):
        pass
    while count < persistent_huge_pages(h):              # the others go when they are given back
        h.surplus_huge_pages += 1
    h.max_huge_pages = persistent_huge_pages(h)


@notrace
def check_hugetlb(h: HugetlbState) -> list[str]:
    """Invariants for tests, when no program is left."""
    wrong = []
    if len(h.pages) != h.nr_huge_pages or len(h.hugepage_freelists) != h.free_huge_pages:
        wrong.append(f"hugetlb: {len(h.pages)} pages, {len(h.hugepage_freelists)} free; the counters say "
                     f"{h.nr_huge_pages} and {h.free_huge_pages}")
    if set(h.page_count) | set(h.hugepage_freelists) != set(h.pages) or set(h.page_count) & set(h.hugepage_freelists):
        wrong.append("hugetlb: a page is neither free nor in use, or both")
    if not 0 <= h.resv_huge_pages <= h.free_huge_pages:
        wrong.append(f"hugetlb: {h.resv_huge_pages} pages are reserved, {h.free_huge_pages} free")
    return wrong + [f"hugetlb: page {pfn:#x} is mapped {h.kernel.mem.mapcount[pfn]} times" for pfn in h.pages
                    if h.kernel.mem.mapcount[pfn]]

