"""msync(2): what was stored through a shared mapping reaches the file.

Linux: mm/msync.c (5.3). Same: only MS_SYNC does something; holes are skipped and reported with ENOMEM at
    the end.
Owns: nothing. Lock: mmap_sem for reading, dropped around ->fsync.
"""
from __future__ import annotations

from glasskernel.kernel.current import current
from glasskernel.kernel.locking.rwsem import down_read, up_read
from glasskernel.lib.errno import EBUSY, EINVAL, ENOMEM, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import may_sleep, size_t, ulong
from glasskernel.mm.mmap import find_vma
from glasskernel.mm.types import VM_LOCKED, VM_SHARED

MS_ASYNC, MS_INVALIDATE, MS_SYNC = 1, 2, 4


@syscall
@may_sleep
def sys_msync(start: ulong, len: size_t, flags: int) -> int:
    """msync(2)"""
    if flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC) or start & 0xFFF:
        raise KernelError(EINVAL)
    if flags & MS_ASYNC and flags & MS_SYNC:
        raise KernelError(EINVAL)
    end = start + (len + 0xFFF & ~0xFFF)
    if end >> 64:
        raise KernelError(ENOMEM)
    if end == start:
        return 0
    mm = current().mm
    assert mm is not None
    unmapped = False
    down_read(mm.mmap_sem)
    try:
        while start < end:
            vma = find_vma(mm, start)
            if vma is None:
                raise KernelError(ENOMEM)
            if start < vma.vm_start:
                unmapped = True
                start = vma.vm_start
                if start >= end:
                    break
            if flags & MS_INVALIDATE and vma.vm_flags & VM_LOCKED:
                raise KernelError(EBUSY)
            file = vma.vm_file
            first = start - vma.vm_start + (vma.vm_pgoff << 12)
            last = first + min(end, vma.vm_end) - start - 1
            start = vma.vm_end
            if flags & MS_SYNC and file is not None and vma.vm_flags & VM_SHARED:
                file.f_count += 1
                up_read(mm.mmap_sem)
                try:
                    file.f_op.fsync(file, first, last, 1)          # vfs_fsync_range()
                finally:
                    mm.kernel.fput(file)
                    down_read(mm.mmap_sem)
    finally:
        up_read(mm.mmap_sem)
    if unmapped:
        raise KernelError(ENOMEM)
    return 0
