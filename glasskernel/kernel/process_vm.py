"""process_vm_readv(2), process_vm_writev(2): copies between the memory of two processes.

Linux: mm/process_vm_access.c (5.3). Same: permission (ptrace's), partial transfers end at the first bad
    remote page.
Differs: lives with process life because it asks for tasks. Context: task; may sleep.
"""
from __future__ import annotations

import struct

from glasskernel.arch.x86.uaccess import copy_from_user
from glasskernel.kernel.pid import find_task_by_vpid
from glasskernel.kernel.ptrace_access import PTRACE_MODE_ATTACH_REALCREDS, ptrace_may_access
from glasskernel.kernel.task import TaskStruct
from glasskernel.lib.errno import EFAULT, EINVAL, EPERM, ESRCH, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, ulong
from glasskernel.mm.iov_iter import UserIter, import_iovec
from glasskernel.mm.memory import get_user_page
from glasskernel.mm.page_alloc import get_page, put_page
from glasskernel.mm.pagemap import set_page_dirty

UIO_MAXIOV = 1024
MAX_RW_COUNT = 0x7FFF_F000


@notrace
def _read_iovec(address: int, count: int) -> list[tuple[int, int]]:
    """An array of struct iovec. Raises EINVAL, EFAULT."""
    if count > UIO_MAXIOV:
        raise KernelError(EINVAL)
    if not count:
        return []
    words = struct.unpack(f"<{2 * count}Q", copy_from_user(address, 16 * count))
    entries = list(zip(words[::2], words[1::2]))
    if any(length >= 1 << 63 for _, length in entries):
        raise KernelError(EINVAL)
    return entries


@may_sleep
def process_vm_rw_core(task: TaskStruct, local: UserIter, remote: list[tuple[int, int]], write: bool) -> int:
    """Copies page by page; answers how many bytes went. Raises EFAULT if none did."""
    mm = task.mm
    if mm is None:
        raise KernelError(EINVAL)
    ram = mm.kernel.machine.ram
    done = 0
    for address, length in remote:
        while length and local.count:
            offset = address & 0xFFF
            chunk = min(4096 - offset, length, local.count)
            pfn = 0
            try:
                pfn = get_user_page(mm, address & ~0xFFF, write)
                get_page(mm.kernel, pfn)                 # our own side may fault, and sleep
                start = (pfn << 12) + offset
                frame = ram[start : start + chunk]
                moved = local.copy_from_iter_into(frame) if write else local.copy_to_iter(frame)
            except KernelError:
                if done:
                    return done
                raise KernelError(EFAULT) from None
            finally:
                if pfn:
                    if write:
                        set_page_dirty(mm.kernel, pfn)
                    put_page(mm.kernel, pfn)
            done += moved
            if moved < chunk:
                return done
            address += chunk
            length -= chunk
    return done


def process_vm_rw(pid: int, lvec: int, liovcnt: int, rvec: int, riovcnt: int, flags: int, write: bool) -> int:
    if flags:
        raise KernelError(EINVAL)
    local_entries = _read_iovec(lvec, liovcnt)
    local = import_iovec(local_entries)
    if not local.count:
        return 0
    local.count = min(local.count, MAX_RW_COUNT)
    remote = _read_iovec(rvec, riovcnt)
    task = find_task_by_vpid(pid)
    if task is None:
        raise KernelError(ESRCH)
    if not ptrace_may_access(task, PTRACE_MODE_ATTACH_REALCREDS):
        raise KernelError(EPERM)
    return process_vm_rw_core(task, local, remote, write)


@syscall
def sys_process_vm_readv(
    pid: int, lvec: UserPtr, liovcnt: ulong, rvec: UserPtr, riovcnt: ulong, flags: ulong
) -> int:
    """process_vm_readv(2). Errors: EINVAL, EFAULT, ESRCH, EPERM."""
    return process_vm_rw(pid, lvec, liovcnt, rvec, riovcnt, flags, False)


@syscall
def sys_process_vm_writev(
    pid: int, lvec: UserPtr, liovcnt: ulong, rvec: UserPtr, riovcnt: ulong, flags: ulong
) -> int:
    """process_vm_writev(2). Errors: EINVAL, EFAULT, ESRCH, EPERM."""
    return process_vm_rw(pid, lvec, liovcnt, rvec, riovcnt, flags, True)


