"""The file system type sysfs.

Linux: fs/sysfs/mount.c (5.3). Owns: nothing; the tree is Kernel.sysfs.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.filesystems import register_filesystem
from glasskernel.fs.kernfs import kernfs_fill_super
from glasskernel.fs.super import mount_single
from glasskernel.fs.types import FileSystemType

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, SuperBlock
    from glasskernel.init.kernel import Kernel

SYSFS_MAGIC = 0x62656572


def sysfs_fill_super(sb: SuperBlock, data: bytes, silent: bool) -> None:
    kernfs_fill_super(sb, sb.kernel.sysfs.root, SYSFS_MAGIC)


def sysfs_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    return mount_single(kernel, fs_type, flags, data, sysfs_fill_super)


sysfs_fs_type = FileSystemType(b"sysfs", sysfs_mount)


def sysfs_init(kernel: Kernel) -> None:
    """Registers the file system type. sysfs_tree_init() has made the tree."""
    register_filesystem(kernel, sysfs_fs_type)
