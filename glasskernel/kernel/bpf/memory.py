"""The memory that programs reach: kernel addresses, and the areas that maps lie in.

Linux: kernel/bpf/syscall.c: bpf_map_area_*() and charging; mm/maccess.c for the rest (5.3). Same: an area is kmalloc'ed
    if that is cheap, otherwise vmalloc'ed; its pages count for the user's RLIMIT_MEMLOCK.
Differs: a program's stack lies at numbers that no memory has (STACK_BASE); the verifier keeps programs inside.
Owns: BpfState.pages, a translation cache of vmalloc addresses: an area's pages are in it from its first use until
    bpf_map_area_free(). Context: task to make and free areas; the rest any.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.current import current
from glasskernel.kernel.resource import rlimit
from glasskernel.kernel.task import RLIMIT_MEMLOCK
from glasskernel.lib.errno import E2BIG, ENOMEM, EPERM, KernelError
from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import GFP_KERNEL
from glasskernel.mm.slab_common import __kmalloc_node, kfree
from glasskernel.mm.slab_types import PAGE_OFFSET
from glasskernel.mm.vmalloc import (
    __vmalloc_node_flags,
    is_vmalloc_addr,
    return_address,
    vfree,
    vmalloc_to_page,
)

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel

STACK_BASE, STACK_END = 0xFFFF_FE00_0000_0000, 0xFFFF_FE00_0000_1000       # up to eight frames of 512 bytes
_GFP_USER, _GFP_NOWARN, _GFP_NORETRY = 0x1CC0, 0x200, 0x1000
_LARGEST_KMALLOC = 4096 << 3                       # PAGE_ALLOC_COSTLY_ORDER
U32_MAX_PAGES = 0xFFFF_FFFF - 4096


# ---- reading and writing -----------------------------------------------------------------------------------------
@notrace
def physical(kernel: Kernel, address: int) -> int:
    """Where in RAM a kernel address lies."""
    if is_vmalloc_addr(address):
        state = kernel.bpf
        assert state is not None
        page = state.pages.get(address >> 12)
        if page is None:
            pfn = vmalloc_to_page(kernel, address)
            assert pfn is not None, f"BPF: {address:#x} is not mapped"
            page = state.pages[address >> 12] = pfn << 12
        return page | address & 0xFFF
    assert 0 <= address - PAGE_OFFSET < len(kernel.mem.ram), f"BPF: {address:#x} is no memory"
    return address - PAGE_OFFSET


@notrace
def read_kernel(kernel: Kernel, address: int, size: int) -> bytes:
    at = physical(kernel, address)
    chunk = 4096 - (address & 0xFFF)
    data = bytes(kernel.mem.ram[at : at + min(size, chunk)])
    return data if size <= chunk else data + read_kernel(kernel, address + chunk, size - chunk)


@notrace
def write_kernel(kernel: Kernel, address: int, data: bytes) -> None:
    at = physical(kernel, address)
    chunk = 4096 - (address & 0xFFF)
    if len(data) <= chunk:
        kernel.mem.ram[at : at + len(data)] = data
    else:
        kernel.mem.ram[at : at + chunk] = data[:chunk]
        write_kernel(kernel, address + chunk, data[chunk:])


# ---- areas -------------------------------------------------------------------------------------------------------
def bpf_map_area_alloc(kernel: Kernel, size: int) -> int:
    """Zeroed memory for a map; its address. Raises ENOMEM."""
    if size > kernel.mem.totalram_pages << 12:
        raise KernelError(ENOMEM)
    address = 0
    if size <= _LARGEST_KMALLOC:
        try:
            address = __kmalloc_node(kernel, size, _GFP_USER | _GFP_NOWARN | _GFP_NORETRY, -1)
        except KernelError:
            address = 0
    if not address:
        address = __vmalloc_node_flags(kernel, size, -1, GFP_KERNEL, return_address())
    for at in range(0, size, 4096):
        write_kernel(kernel, address + at, bytes(min(4096, size - at)))
    return address


def bpf_map_area_free(kernel: Kernel, area: int) -> None:
    """kvfree()"""
    if not is_vmalloc_addr(area):
        kfree(kernel, area)
        return
    forget_pages(kernel, area)
    vfree(kernel, area)


@notrace
def forget_pages(kernel: Kernel, area: int) -> None:
    """Before a vmalloc area is freed."""
    vm = kernel.vmalloc.areas[area].vm
    assert vm is not None and kernel.bpf is not None
    for page in range(area >> 12, area + vm.size >> 12):
        kernel.bpf.pages.pop(page, None)


# ---- charging ----------------------------------------------------------------------------------------------------
def bpf_charge_memlock(kernel: Kernel, user: int, pages: int) -> None:
    """Counts pages for a user. Raises EPERM beyond RLIMIT_MEMLOCK."""
    state = kernel.bpf
    assert state is not None
    locked = state.locked_vm.get(user, 0) + pages
    if locked > rlimit(RLIMIT_MEMLOCK) >> 12:
        raise KernelError(EPERM)
    state.locked_vm[user] = locked


def bpf_uncharge_memlock(kernel: Kernel, user: int, pages: int) -> None:
    state = kernel.bpf
    assert state is not None
    state.locked_vm[user] -= pages
    if not state.locked_vm[user]:
        del state.locked_vm[user]


def bpf_map_charge_init(kernel: Kernel, size: int) -> tuple[int, int]:
    """Charges the running user for a map of so many bytes: (pages, uid). Raises E2BIG, EPERM."""
    pages = (size + 4095) >> 12
    if size >= U32_MAX_PAGES:
        raise KernelError(E2BIG)
    user = current().cred.uid
    bpf_charge_memlock(kernel, user, pages)
    return pages, user
