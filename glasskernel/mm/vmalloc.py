"""vmalloc: a range of kernel addresses for frames that do not lie in a row.

Linux: mm/vmalloc.c (5.3). Same: the area of addresses, one guard page behind each range, the lowest gap that fits,
    who calls whom, real page tables below init_mm's top table (kernel/`swapper_pg_dir`), VM_* flags.
Differs: a range's gap is found in a sorted list instead of an augmented tree; a freed range may be used again at once,
    since no CPU has kernel addresses in its TLB: the kernel is Python and walks these tables itself (mm/maccess.py).
Gaps: ioremap, vm_map_ram, lazy purging, huge pages, memory hot-plug.
Owns: VmallocState (kernel.vmalloc): the areas, the top table and the tables below it (never freed, as in Linux).
Invariants: areas are sorted and do not overlap; exactly the pages of an area are mapped in it, each with one reference.
Context: task; vfree_atomic() from anywhere.
"""
from __future__ import annotations

import sys
from bisect import bisect_left, insort
from types import CodeType
from typing import TYPE_CHECKING, NamedTuple

from glasskernel.arch.x86.pgtable import PTE_ACCESSED, PTE_DIRTY, PTE_GLOBAL, PTE_MASK, PTE_NX, PTE_PRESENT, PTE_WRITE
from glasskernel.kernel.workqueue import WorkStruct, schedule_work
from glasskernel.lib.errno import EBUSY, ENOMEM, KernelError
from glasskernel.lib.slotted import field, slotted
from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import (
    __GFP_HIGHMEM,
    __GFP_NOWARN,
    __GFP_ZERO,
    GFP_KERNEL,
    NUMA_NO_NODE,
    __free_pages,
    alloc_pages,
)
from glasskernel.mm.slab_common import __kmalloc_node, kfree, kmalloc_node, kmem_cache_create
from glasskernel.mm.slub import kmem_cache_alloc_node, kmem_cache_free

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

VMALLOC_START, VMALLOC_END = 0xFFFF_C900_0000_0000, 0xFFFF_E8FF_FFFF_FFFF
VM_IOREMAP, VM_ALLOC, VM_MAP, VM_USERMAP = 0x1, 0x2, 0x4, 0x8
VM_UNINITIALIZED, VM_NO_GUARD = 0x20, 0x40
PAGE_KERNEL = PTE_PRESENT | PTE_WRITE | PTE_ACCESSED | PTE_DIRTY | PTE_GLOBAL | PTE_NX
KERNPG_TABLE = PTE_PRESENT | PTE_WRITE | PTE_ACCESSED | PTE_DIRTY
_PAGE = 4096
_SIZEOF_VM_STRUCT, _SIZEOF_VMAP_AREA, _SIZEOF_POINTER = 64, 64, 8


class ReturnAddress(NamedTuple):
    """A place in kernel code: __builtin_return_address() in C. kernel/kallsyms.py makes an address of it."""

    code: CodeType
    line: int


@notrace
def return_address(depth: int = 1) -> ReturnAddress:
    """Where the caller of the function that asks was called: depth + 1 frames up."""
    frame = sys._getframe(depth + 1)
    return ReturnAddress(frame.f_code, frame.f_lineno)


@slotted
class VmStruct:
    """struct vm_struct: what a range is for. size: with the guard page. pages: frames. caller: who asked for it."""

    addr: int
    size: int
    flags: int
    caller: ReturnAddress
    pages: list[int] = field(default_factory=list)
    pages_address: int = 0                         # of the array of page pointers: kmalloc'ed, or vmalloc'ed if large
    slab_address: int = 0


@slotted
class VmapArea:
    """struct vmap_area: addresses in use."""

    va_start: int
    va_end: int
    vm: VmStruct | None = None
    slab_address: int = 0


class VmallocState:
    """kernel.vmalloc. pgd: init_mm's top table; tables: pfns of it and of those below. areas: by va_start."""

    __slots__ = ("areas", "cached_hole_size", "deferred", "free_vmap_cache", "nr_vmalloc_pages", "pgd", "starts",
                 "tables", "vmap_area_cachep", "wq")

    def __init__(self, kernel: Kernel, pgd_pfn: int) -> None:
        self.areas: dict[int, VmapArea] = {}
        self.starts: list[int] = []
        self.nr_vmalloc_pages = 0
        self.deferred: list[int] = []              # vfree_atomic()'s, for `wq`
        self.wq = WorkStruct(free_work, kernel)
        self.pgd = pgd_pfn << 12
        self.tables = [pgd_pfn]
        self.free_vmap_cache = VMALLOC_START       # below it no gap is larger than cached_hole_size
        self.cached_hole_size = 0
        self.vmap_area_cachep = kmem_cache_create(kernel, b"vmap_area", _SIZEOF_VMAP_AREA)


def vmalloc_init(kernel: Kernel) -> None:
    """Makes kernel.vmalloc. After kmem_cache_init()."""
    kernel.vmalloc = VmallocState(kernel, alloc_pages(kernel, GFP_KERNEL | __GFP_ZERO, 0))


# ---- areas of addresses ------------------------------------------------------------------------------------------
@notrace
def is_vmalloc_addr(address: int) -> bool:
    return VMALLOC_START <= address <= VMALLOC_END


def alloc_vmap_area(kernel: Kernel, size: int, align: int, vstart: int, vend: int, node: int,
                    gfp_mask: int) -> VmapArea:
    """The lowest free range of that size in [vstart, vend). Raises EBUSY if there is none, ENOMEM."""
    state = kernel.vmalloc
    address = kmem_cache_alloc_node(state.vmap_area_cachep, gfp_mask & GFP_KERNEL, node)
    starts, areas = state.starts, state.areas
    if size <= state.cached_hole_size:
        state.free_vmap_cache, state.cached_hole_size = VMALLOC_START, 0
    low = max(vstart, state.free_vmap_cache)
    index = bisect_left(starts, low)
    while True:
        if index:
            low = max(low, areas[starts[index - 1]].va_end)
        at = (low + align - 1) & -align
        if index == len(starts) or at + size <= starts[index]:
            break
        state.cached_hole_size = max(state.cached_hole_size, starts[index] - low)
        index += 1
    if at + size > vend:
        kmem_cache_free(state.vmap_area_cachep, address)
        raise KernelError(EBUSY)
    if vstart == VMALLOC_START:
        state.cached_hole_size = max(state.cached_hole_size, at - low)
        state.free_vmap_cache = at + size
    va = VmapArea(at, at + size, None, address)
    insert_vmap_area(state, va)
    return va


def insert_vmap_area(state: VmallocState, va: VmapArea) -> None:
    insort(state.starts, va.va_start)
    state.areas[va.va_start] = va


@notrace
def find_vmap_area(kernel: Kernel, address: int) -> VmapArea | None:
    """The area that begins at an address."""
    return kernel.vmalloc.areas.get(address)


def free_vmap_area(kernel: Kernel, va: VmapArea) -> None:
    """The addresses may be used again."""
    state = kernel.vmalloc
    del state.areas[va.va_start]
    index = bisect_left(state.starts, va.va_start)
    del state.starts[index]
    if va.va_start < state.free_vmap_cache:
        state.free_vmap_cache = state.areas[state.starts[index - 1]].va_end if index else VMALLOC_START
    kmem_cache_free(state.vmap_area_cachep, va.slab_address)


@notrace
def get_vm_area_size(area: VmStruct) -> int:
    """Without the guard page."""
    return area.size if area.flags & VM_NO_GUARD else area.size - _PAGE


def __get_vm_area_node(kernel: Kernel, size: int, align: int, flags: int, start: int, end: int, node: int,
                       gfp_mask: int, caller: ReturnAddress) -> VmStruct:
    """A range and its description. Raises ENOMEM."""
    size = (size + _PAGE - 1) & -_PAGE
    if not size:
        raise KernelError(ENOMEM)
    address = kmalloc_node(kernel, _SIZEOF_VM_STRUCT, gfp_mask & GFP_KERNEL | __GFP_ZERO, node)
    if not flags & VM_NO_GUARD:
        size += _PAGE
    try:
        va = alloc_vmap_area(kernel, size, align, start, end, node, gfp_mask)
    except KernelError:
        kfree(kernel, address)
        raise KernelError(ENOMEM) from None
    area = VmStruct(va.va_start, size, flags, caller)
    area.slab_address = address
    setup_vmalloc_vm(area, va)
    return area


@notrace
def setup_vmalloc_vm(area: VmStruct, va: VmapArea) -> None:
    va.vm = area


def get_vm_area_caller(kernel: Kernel, size: int, flags: int, caller: ReturnAddress) -> VmStruct:
    """A range with nothing in it yet. Raises ENOMEM."""
    return __get_vm_area_node(kernel, size, 1, flags, VMALLOC_START, VMALLOC_END, NUMA_NO_NODE, GFP_KERNEL, caller)


# ---- page tables -------------------------------------------------------------------------------------------------
@notrace
def kernel_pte(kernel: Kernel, address: int, make: bool) -> int:
    """The slot in ram64 of an address's entry in init_mm's tables; missing tables are made, or 0. Raises ENOMEM."""
    ram64, state = kernel.mem.ram64, kernel.vmalloc
    slot = (state.pgd >> 3) + (address >> 39 & 511)
    for shift in (30, 21, 12):
        entry = ram64[slot]
        if not entry & PTE_PRESENT:
            if not make:
                return 0
            pfn = alloc_pages(kernel, GFP_KERNEL | __GFP_ZERO, 0)     # pud_alloc(), pmd_alloc(), pte_alloc_kernel()
            state.tables.append(pfn)
            entry = ram64[slot] = pfn << 12 | KERNPG_TABLE
        slot = ((entry & PTE_MASK) >> 3) + (address >> shift & 511)
    return slot


def vmap_page_range_noflush(kernel: Kernel, start: int, end: int, prot: int, pages: list[int]) -> int:
    """Writes the entries of [start, end); answers how many. Raises ENOMEM."""
    ram64 = kernel.mem.ram64
    slot = 0
    for number, address in enumerate(range(start, end, _PAGE)):
        slot = slot + 1 if slot and slot & 511 != 511 else kernel_pte(kernel, address, True)
        assert not ram64[slot] & PTE_PRESENT, f"{address:#x} is mapped already"
        ram64[slot] = pages[number] << 12 | prot
    return (end - start) >> 12


def vmap_page_range(kernel: Kernel, start: int, end: int, prot: int, pages: list[int]) -> int:
    """vmap_page_range_noflush(); flush_cache_vmap() has nothing to do on x86."""
    return vmap_page_range_noflush(kernel, start, end, prot, pages)


def map_vm_area(kernel: Kernel, area: VmStruct, prot: int, pages: list[int]) -> None:
    """Maps the pages of an area. Raises ENOMEM."""
    vmap_page_range(kernel, area.addr, area.addr + get_vm_area_size(area), prot, pages)


def unmap_kernel_range_noflush(kernel: Kernel, address: int, size: int) -> None:
    """Clears the entries of a range."""
    vunmap_page_range(kernel, address, address + size)


def vunmap_page_range(kernel: Kernel, address: int, end: int) -> None:
    ram64 = kernel.mem.ram64
    for page in range(address, end, _PAGE):
        slot = kernel_pte(kernel, page, False)
        if slot:
            ram64[slot] = 0


def vmalloc_to_page(kernel: Kernel, address: int) -> int | None:
    """The pfn behind a vmalloc address; None if nothing is mapped there."""
    slot = kernel_pte(kernel, address, False)
    entry = kernel.mem.ram64[slot] if slot else 0
    return (entry & PTE_MASK) >> 12 if entry & PTE_PRESENT else None


# ---- vmalloc -----------------------------------------------------------------------------------------------------
def __vmalloc_area_node(kernel: Kernel, area: VmStruct, gfp_mask: int, prot: int, node: int) -> int:
    """Frames for an area, one by one, and their mapping; the area's address. Raises ENOMEM: the area is gone."""
    nr_pages = get_vm_area_size(area) >> 12
    array_size = nr_pages * _SIZEOF_POINTER
    nested_gfp = gfp_mask & GFP_KERNEL | __GFP_ZERO
    try:
        if array_size > _PAGE:
            area.pages_address = __vmalloc_node(kernel, array_size, 1, nested_gfp | __GFP_HIGHMEM, PAGE_KERNEL, node,
                                                area.caller)
        else:
            area.pages_address = __kmalloc_node(kernel, array_size, nested_gfp, node)
        for _ in range(nr_pages):
            area.pages.append(alloc_pages(kernel, gfp_mask | __GFP_NOWARN | __GFP_HIGHMEM, 0))
            kernel.vmalloc.nr_vmalloc_pages += 1
        map_vm_area(kernel, area, prot, area.pages)
    except KernelError:
        vfree(kernel, area.addr)
        raise
    return area.addr


def __vmalloc_node_range(kernel: Kernel, size: int, align: int, start: int, end: int, gfp_mask: int, prot: int,
                         vm_flags: int, node: int, caller: ReturnAddress) -> int:
    """`size` bytes, rounded up to pages, at kernel addresses of [start, end) in a row; the first. Raises ENOMEM."""
    size = (size + _PAGE - 1) & -_PAGE
    if not size or size >> 12 > kernel.mem.totalram_pages:
        raise KernelError(ENOMEM)
    area = __get_vm_area_node(kernel, size, align, VM_ALLOC | vm_flags, start, end, node, gfp_mask, caller)
    return __vmalloc_area_node(kernel, area, gfp_mask, prot, node)


def __vmalloc_node(kernel: Kernel, size: int, align: int, gfp_mask: int, prot: int, node: int,
                   caller: ReturnAddress) -> int:
    return __vmalloc_node_range(kernel, size, align, VMALLOC_START, VMALLOC_END, gfp_mask, prot, 0, node, caller)


def __vmalloc_node_flags(kernel: Kernel, size: int, node: int, flags: int, caller: ReturnAddress) -> int:
    return __vmalloc_node(kernel, size, 1, flags, PAGE_KERNEL, node, caller)


def vmalloc(kernel: Kernel, size: int) -> int:
    """Virtually contiguous memory; its address. Raises ENOMEM."""
    return __vmalloc_node_flags(kernel, size, NUMA_NO_NODE, GFP_KERNEL, return_address())


def vzalloc(kernel: Kernel, size: int) -> int:
    """vmalloc() of zeros. Raises ENOMEM."""
    return __vmalloc_node_flags(kernel, size, NUMA_NO_NODE, GFP_KERNEL | __GFP_ZERO, return_address())


# ---- freeing, mapping what is there ------------------------------------------------------------------------------
def remove_vm_area(kernel: Kernel, address: int) -> VmStruct | None:
    """Unmaps a range and frees its addresses; answers what it was for."""
    va = find_vmap_area(kernel, address)
    if va is None or va.vm is None:
        return None
    vm, va.vm = va.vm, None
    free_unmap_vmap_area(kernel, va, get_vm_area_size(vm))
    return vm


def free_unmap_vmap_area(kernel: Kernel, va: VmapArea, size: int) -> None:
    unmap_kernel_range_noflush(kernel, va.va_start, size)
    free_vmap_area(kernel, va)


def __vunmap(kernel: Kernel, address: int, deallocate_pages: bool) -> None:
    """The range goes, with its frames if they are its own."""
    if not address:
        return
    area = remove_vm_area(kernel, address)
    assert area is not None, f"trying to vfree() nonexistent vm area ({address:#x})"
    if deallocate_pages:
        for pfn in area.pages:
            __free_pages(kernel, pfn, 0)
        kernel.vmalloc.nr_vmalloc_pages -= len(area.pages)
        kvfree(kernel, area.pages_address)
    kfree(kernel, area.slab_address)


def vfree(kernel: Kernel, address: int) -> None:
    """Gives back what vmalloc() answered."""
    __vunmap(kernel, address, True)


def vfree_atomic(kernel: Kernel, address: int) -> None:
    """vfree() by a kworker, for those who must not sleep. Context: any."""
    if address:
        __vfree_deferred(kernel, address)


@notrace
def __vfree_deferred(kernel: Kernel, address: int) -> None:
    state = kernel.vmalloc
    state.deferred.append(address)
    if len(state.deferred) == 1:
        schedule_work(state.wq)


def free_work(work: WorkStruct) -> None:
    """Frees what vfree_atomic() left. Context: kworker."""
    kernel: Kernel = work.data
    state = kernel.vmalloc
    addresses, state.deferred = state.deferred, []
    for address in addresses:
        __vunmap(kernel, address, True)


def vunmap(kernel: Kernel, address: int) -> None:
    """Ends a vmap(): the frames stay."""
    __vunmap(kernel, address, False)


def vmap(kernel: Kernel, pages: list[int], flags: int, prot: int) -> int:
    """Maps frames that the caller has at addresses in a row; the first. Raises ENOMEM."""
    area = get_vm_area_caller(kernel, len(pages) << 12, flags, return_address())
    try:
        map_vm_area(kernel, area, prot, pages)
    except KernelError:
        vunmap(kernel, area.addr)
        raise
    return area.addr


# ---- kvmalloc (mm/util.c) ----------------------------------------------------------------------------------------
def kvmalloc_node(kernel: Kernel, size: int, flags: int, node: int) -> int:
    """kmalloc if that works without effort, otherwise vmalloc. Raises ENOMEM."""
    if size <= _PAGE:
        return __kmalloc_node(kernel, size, flags, node)
    try:
        return __kmalloc_node(kernel, size, flags | __GFP_NOWARN | 0x10000, node)       # __GFP_NORETRY
    except KernelError:
        return __vmalloc_node_flags(kernel, size, node, flags, return_address())


def kvfree(kernel: Kernel, address: int) -> None:
    """Gives back what kvmalloc_node() answered; 0 is fine."""
    if is_vmalloc_addr(address):
        vfree(kernel, address)
    else:
        kfree(kernel, address)


# ---- checks ------------------------------------------------------------------------------------------------------
@notrace
def vmalloc_frames(kernel: Kernel) -> set[int]:
    """Frames of page tables and of vmalloc()'s ranges."""
    state = kernel.vmalloc
    frames = set(state.tables)
    for va in state.areas.values():
        if va.vm is not None and va.vm.flags & VM_ALLOC:
            frames.update(va.vm.pages)
    return frames


@notrace
def check_vmalloc(kernel: Kernel) -> list[str]:
    """Invariants for tests; what is wrong, in words."""
    state, wrong, end = kernel.vmalloc, [], VMALLOC_START
    if state.starts != sorted(state.areas):
        wrong.append("vmalloc: the list of areas is not what the areas are")
    for start in state.starts:
        va = state.areas[start]
        if start < end:
            wrong.append(f"vmalloc: area {start:#x} overlaps the one before it")
        end = va.va_end
        pages = va.vm.pages if va.vm is not None else []
        for number, address in enumerate(range(start, end, _PAGE)):
            if va.vm is not None and va.vm.flags & VM_ALLOC:
                expected = pages[number] if number < len(pages) else None
                if vmalloc_to_page(kernel, address) != expected:
                    wrong.append(f"vmalloc: {address:#x} does not map its frame")
    own = [va.vm for va in state.areas.values() if va.vm is not None and va.vm.flags & VM_ALLOC]
    if sum(len(vm.pages) for vm in own) != state.nr_vmalloc_pages:
        wrong.append(f"vmalloc: nr_vmalloc_pages is {state.nr_vmalloc_pages}")
    return wrong
