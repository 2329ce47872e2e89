"""How much memory may be promised.

Linux: mm/util.c and cap_vm_enough_memory() of security/commoncap.c (5.3). Same: the three overcommit policies, the
reserves for root and for the biggest process; the heuristic only refuses what exceeds RAM and swap, as since 5.2.
Gaps: huge pages.
Owns: MemState.vm_committed.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.capability import CAP_SYS_ADMIN, cap_capable
from glasskernel.kernel.current import current
from glasskernel.lib.errno import ENOMEM, KernelError
from glasskernel.lib.types import notrace
from glasskernel.mm.page_alloc import nr_free_pages

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.types import MmStruct

OVERCOMMIT_GUESS, OVERCOMMIT_ALWAYS, OVERCOMMIT_NEVER = range(3)


def init_user_reserve(kernel: Kernel) -> None:
    """What the biggest process leaves to others (mm/mmap.c). Context: boot, nothing is allocated yet."""
    kernel.sysctl.user_reserve_kbytes = min(nr_free_pages(kernel.mem) * 4 // 32, 1 << 17)


def init_admin_reserve(kernel: Kernel) -> None:
    """What is kept so that root can log in (mm/mmap.c)."""
    kernel.sysctl.admin_reserve_kbytes = min(nr_free_pages(kernel.mem) * 4 // 32, 1 << 13)


def security_vm_enough_memory_mm(mm: MmStruct, pages: int) -> None:
    """Accounts pages that may all be written one day. Raises ENOMEM."""
    cap_sys_admin = cap_vm_enough_memory()
    lsm = mm.kernel.lsm
    if lsm is not None and cap_sys_admin:
        cap_sys_admin = lsm.security_vm_enough_memory_mm()
    __vm_enough_memory(mm, pages, cap_sys_admin)


def cap_vm_enough_memory() -> bool:
    """May the caller have the last pages?"""
    return cap_capable(current().cred, CAP_SYS_ADMIN)


def __vm_enough_memory(mm: MmStruct, pages: int, cap_sys_admin: bool) -> None:
    """Says yes or ENOMEM, as vm.overcommit_memory wants it (proc(5))."""
    kernel = mm.kernel
    mem = kernel.mem
    vm_acct_memory(kernel, pages)
    mode = kernel.sysctl.overcommit_memory
    if mode == OVERCOMMIT_ALWAYS:
        return
    if mode == OVERCOMMIT_GUESS:
        if pages <= mem.totalram_pages + (kernel.swap.total_swap_pages if kernel.swap is not None else 0):
            return
    else:
        allowed = vm_commit_limit(kernel)
        if not cap_sys_admin:
            allowed -= kernel.sysctl.admin_reserve_kbytes >> 2
        allowed -= min(mm.total_vm // 32, kernel.sysctl.user_reserve_kbytes >> 2)
        if mem.vm_committed < allowed:
            return
    vm_unacct_memory(kernel, pages)
    raise KernelError(ENOMEM)


def vm_commit_limit(kernel: Kernel) -> int:
    """Under OVERCOMMIT_NEVER, so many pages may be promised (CommitLimit in /proc/meminfo)."""
    total_swap_pages = kernel.swap.total_swap_pages if kernel.swap is not None else 0
    sysctl = kernel.sysctl
    if sysctl.overcommit_kbytes:
        return (sysctl.overcommit_kbytes >> 2) + total_swap_pages
    return kernel.mem.totalram_pages * sysctl.overcommit_ratio // 100 + total_swap_pages


def si_swapinfo(kernel: Kernel) -> tuple[int, int]:
    """(free, all) pages of swap areas; one that swapoff(2) empties counts for what it still holds (mm/swapfile.c)."""
    swap = kernel.swap
    if swap is None:
        return 0, 0
    to_be_unused = sum(si.inuse_pages for si in swap.info if si.flags and si not in swap.active)
    return swap.nr_swap_pages + to_be_unused, swap.total_swap_pages + to_be_unused


@notrace
def vm_acct_memory(kernel: Kernel, pages: int) -> None:
    kernel.mem.vm_committed += pages


@notrace
def vm_unacct_memory(kernel: Kernel, pages: int) -> None:
    kernel.mem.vm_committed -= pages
