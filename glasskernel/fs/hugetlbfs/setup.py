"""kernel.hugetlb's making, and files of huge pages without a name: MAP_HUGETLB, SHM_HUGETLB, MFD_HUGETLB.

Linux: init_hugetlbfs_fs() and hugetlb_file_setup() of fs/hugetlbfs/inode.c, hugetlb_init() of mm/hugetlb.c (5.3).
Imported by the first who wants a huge page, or looks at the pool.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.file_table import alloc_file_pseudo
from glasskernel.fs.filesystems import get_fs_type
from glasskernel.fs.hugetlbfs.inode import hugetlbfs_aops, hugetlbfs_file_operations, hugetlbfs_get_inode
from glasskernel.fs.inode import clear_nlink, in_group_p, iput
from glasskernel.fs.mount import kern_mount
from glasskernel.fs.types import S_IFREG
from glasskernel.kernel.capability import CAP_IPC_LOCK, capable
from glasskernel.lib.errno import EINVAL, ENOENT, EPERM, KernelError
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.huge_types import HPAGE_PMD_SHIFT, HugetlbState
from glasskernel.mm.hugetlb import hugetlb_reserve_pages, put_huge_page, reset_vma_resv_huge_pages
from glasskernel.mm.hugetlb_fault import (
    copy_hugetlb_page_range,
    hugetlb_change_protection,
    hugetlb_fault,
    unmap_hugepage_range_final,
)

if TYPE_CHECKING:
    from glasskernel.fs.types import File
    from glasskernel.init.kernel import Kernel

O_RDWR = 2
HUGETLB_SHMFS_INODE, HUGETLB_ANONHUGE_INODE = 1, 2


@notrace
def is_file_hugepages(file: File) -> bool:
    """A file of hugetlbfs, or a segment of shared memory in one."""
    return file.f_mapping is not None and file.f_mapping.a_ops is hugetlbfs_aops


@notrace
def hugetlb_init(kernel: Kernel) -> HugetlbState:
    """Somebody is interested in huge pages for the first time. The pool is empty, as after a plain boot."""
    if kernel.hugetlb is None:
        kernel.hugetlb = HugetlbState(
            kernel, hugetlb_fault, unmap_hugepage_range_final, copy_hugetlb_page_range, hugetlb_change_protection,
            reset_vma_resv_huge_pages, put_huge_page, is_file_hugepages)
    return kernel.hugetlb


def can_do_hugetlb_shm(h: HugetlbState) -> bool:
    """CAP_IPC_LOCK, or the group of vm.hugetlb_shm_group."""
    return capable(CAP_IPC_LOCK) or in_group_p(h.sysctl_hugetlb_shm_group)


@may_sleep
def hugetlb_file_setup(kernel: Kernel, name: bytes, size: int, acctflag: int, creat_flags: int,
                       page_size_log: int) -> File:
    """An unlinked file of huge pages, shown as "/NAME (deleted)".

    page_size_log: 0 (the default size) or 21. acctflag: VM_NORESERVE: areas reserve, not the file.
    Raises EINVAL (no such size), EPERM, ENOMEM (the pool is too small), ENFILE.
    """
    h = hugetlb_init(kernel)
    if page_size_log not in (0, HPAGE_PMD_SHIFT):
        raise KernelError(EINVAL)
    if creat_flags == HUGETLB_SHMFS_INODE and not can_do_hugetlb_shm(h):
        raise KernelError(EPERM)
    if h.vfsmount is None:
        fs_type = get_fs_type(kernel, b"hugetlbfs")
        if fs_type is None:
            raise KernelError(ENOENT)
        h.vfsmount = kern_mount(kernel, fs_type)
    inode = hugetlbfs_get_inode(h.vfsmount.mnt_sb, None, S_IFREG | 0o777, 0)
    inode.i_size = size
    clear_nlink(inode)
    try:
        hugetlb_reserve_pages(h, inode, 0, size >> HPAGE_PMD_SHIFT, None, acctflag)
        return alloc_file_pseudo(inode, h.vfsmount, name, O_RDWR, hugetlbfs_file_operations)
    except KernelError:
        iput(inode)
        raise
