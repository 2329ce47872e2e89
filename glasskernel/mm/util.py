"""How much memory may be promised.

Linux: mm/util.c and cap_vm_enough_memory() of security/commoncap.c (5.3). Same: the three overcommit policies, the
reserves for root and for the biggest process. Differs: the amount free under the heuristic is all of RAM, as since 5.2.
Gaps: huge pages, swap, admin_reserve_kbytes and user_reserve_kbytes have their default values only.
Owns: MemState.vm_committed.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.kernel.capability import CAP_SYS_ADMIN, cap_capable
from glasskernel.kernel.current import current
from glasskernel.lib.errno import ENOMEM, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.types import MmStruct

OVERCOMMIT_GUESS, OVERCOMMIT_ALWAYS, OVERCOMMIT_NEVER = range(3)
ADMIN_RESERVE_PAGES, USER_RESERVE_PAGES = 8192 >> 2, 131072 >> 2     # sysctl_admin_reserve_kbytes and _user_


def security_vm_enough_memory_mm(mm: MmStruct, pages: int) -> None:
    """Accounts pages that may all be written one day. Raises ENOMEM."""
    __vm_enough_memory(mm, pages, cap_vm_enough_memory())


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
        if pages <= mem.totalram_pages:
            return
    else:
        allowed = vm_commit_limit(kernel)
        if not cap_sys_admin:
            allowed -= min(ADMIN_RESERVE_PAGES, mem.totalram_pages * 3 // 100)
        allowed -= min(mm.total_vm // 32, USER_RESERVE_PAGES)
        if mem.vm_committed < allowed:
            return
    vm_unacct_memory(kernel, pages)
    raise KernelError(ENOMEM)


def vm_commit_limit(kernel: Kernel) -> int:
    """Under OVERCOMMIT_NEVER, so many pages may be promised (CommitLimit in /proc/meminfo)."""
    return kernel.mem.totalram_pages * kernel.sysctl.overcommit_ratio // 100


@notrace
def vm_acct_memory(kernel: Kernel, pages: int) -> None:
    kernel.mem.vm_committed += pages


@notrace
def vm_unacct_memory(kernel: Kernel, pages: int) -> None:
    kernel.mem.vm_committed -= pages
