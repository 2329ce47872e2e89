"""securityfs: /sys/kernel/security, where security modules have files. `lsm` says which are on.

Linux: security/inode.c (5.3). Same: one file system wherever it is mounted, modes, the file. Owns: nothing.
Gaps: securityfs_create_*() for modules: SELinux has a file system of its own.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.filesystems import register_filesystem
from glasskernel.fs.libfs import simple_fill_super, simple_read_from_buffer
from glasskernel.fs.read_write import generic_file_llseek
from glasskernel.fs.super import kill_litter_super, mount_single
from glasskernel.fs.sysfs.kobject import kobject_create_and_add
from glasskernel.fs.types import FileOperations, FileSystemType

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Kiocb, SuperBlock
    from glasskernel.init.kernel import Kernel
    from glasskernel.mm.iov_iter import IovIter

SECURITYFS_MAGIC = 0x73636673


def lsm_read(iocb: Kiocb, to: IovIter) -> int:
    """The names, with commas between and no newline."""
    names = iocb.ki_filp.f_inode.i_sb.kernel.lsm.modules
    return simple_read_from_buffer(to, iocb, ",".join(names).encode())


lsm_ops = FileOperations(read_iter=lsm_read, llseek=generic_file_llseek)


def securityfs_fill_super(sb: SuperBlock, data: bytes, silent: bool) -> None:
    simple_fill_super(sb, SECURITYFS_MAGIC, {b"lsm": (lsm_ops, 0o444)})


def securityfs_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    return mount_single(kernel, fs_type, flags, data, securityfs_fill_super)


fs_type = FileSystemType(b"securityfs", securityfs_mount, kill_litter_super)


def securityfs_init(kernel: Kernel) -> None:
    """Registers the file system, and makes the directory to mount it on."""
    kobject_create_and_add(b"security", kernel.sysfs.kernel_kobj)
    register_filesystem(kernel, fs_type)
