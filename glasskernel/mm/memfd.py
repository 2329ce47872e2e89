"""memfd_create(2).

Linux: mm/memfd.c (5.3). Same: names of at most 249 bytes shown as "/memfd:NAME (deleted)", MFD_ALLOW_SEALING.
Gaps: sealing of huge pages.
"""
from __future__ import annotations

from glasskernel.arch.x86.uaccess import strncpy_from_user
from glasskernel.fs.file import anon_fd
from glasskernel.fs.types import FMODE_LSEEK, FMODE_PREAD, FMODE_PWRITE, O_CLOEXEC, O_LARGEFILE
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EINVAL, KernelError
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, u32
from glasskernel.mm.mmap import HUGETLB_ANONHUGE_INODE
from glasskernel.mm.shmem import F_SEAL_SEAL, SHMEM_I, shmem_file_setup
from glasskernel.mm.types import VM_NORESERVE

MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_HUGETLB = 1, 2, 4
MFD_HUGE_SHIFT, MFD_HUGE_MASK = 26, 0x3F
MFD_NAME_MAX_LEN = 249


@syscall
def sys_memfd_create(uname: UserPtr, flags: u32) -> int:
    """memfd_create(2). Errors: EINVAL (flags, name too long), EFAULT, EMFILE, ENFILE."""
    if flags & MFD_HUGETLB:
        known = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_HUGE_MASK << MFD_HUGE_SHIFT
        if flags & MFD_ALLOW_SEALING:
            raise KernelError(EINVAL)
    else:
        known = MFD_CLOEXEC | MFD_ALLOW_SEALING
    if flags & ~known:
        raise KernelError(EINVAL)
    name = strncpy_from_user(uname, MFD_NAME_MAX_LEN + 1)
    if name is None:
        raise KernelError(EINVAL)
    kernel = current().kernel
    if flags & MFD_HUGETLB:
        file = kernel.hugetlb_file_setup(b"memfd:" + name, 0, VM_NORESERVE, HUGETLB_ANONHUGE_INODE,
                                         flags >> MFD_HUGE_SHIFT & MFD_HUGE_MASK)
    else:
        file = shmem_file_setup(kernel, b"memfd:" + name, 0, 0)
    file.f_mode |= FMODE_LSEEK | FMODE_PREAD | FMODE_PWRITE
    file.f_flags |= O_LARGEFILE
    if flags & MFD_ALLOW_SEALING:
        SHMEM_I(file.f_inode).seals &= ~F_SEAL_SEAL
    return anon_fd(file, O_CLOEXEC if flags & MFD_CLOEXEC else 0)
