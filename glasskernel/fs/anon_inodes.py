"""Anonymous files: one inode for everything that is a file only to have a descriptor (epoll, eventfd ...).

Linux: fs/anon_inodes.c (5.3). Same: one shared inode; names are "anon_inode:[eventpoll]".
Owns: kernel.vfs.anon_inode_mnt, anon_inode_inode.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from glasskernel.fs.file import fd_install, get_unused_fd_flags, put_unused_fd
from glasskernel.fs.file_table import alloc_file_pseudo
from glasskernel.fs.libfs import alloc_anon_inode, simple_super_operations
from glasskernel.fs.mount import kern_mount
from glasskernel.fs.super import init_pseudo, kill_anon_super
from glasskernel.fs.types import O_ACCMODE, O_NONBLOCK, DentryOperations, FileSystemType
from glasskernel.kernel.current import current
from glasskernel.lib.errno import KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, File, FileOperations
    from glasskernel.init.kernel import Kernel

ANON_INODE_FS_MAGIC = 0x09041934


def anon_inodefs_dname(dentry: Dentry) -> bytes:
    """->d_dname()"""
    return b"anon_inode:" + dentry.d_name


anon_inodefs_dentry_operations = DentryOperations(d_dname=anon_inodefs_dname)


def anon_inodefs_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    """->mount()"""
    return init_pseudo(kernel, fs_type, ANON_INODE_FS_MAGIC, simple_super_operations, anon_inodefs_dentry_operations)


anon_inode_fs_type = FileSystemType(b"anon_inodefs", anon_inodefs_mount, kill_anon_super)


def anon_inode_getfile(name: bytes, fops: FileOperations, priv: Any, flags: int) -> File:
    """A file "anon_inode:NAME" with private_data `priv`. flags: O_RDWR, O_NONBLOCK. Raises ENFILE."""
    vfs = current().kernel.vfs
    inode = vfs.anon_inode_inode
    inode.i_count += 1
    try:
        file = alloc_file_pseudo(inode, vfs.anon_inode_mnt, name, flags & (O_ACCMODE | O_NONBLOCK), fops)
    except KernelError:
        inode.i_count -= 1
        raise
    file.private_data = priv
    return file


def anon_inode_getfd(name: bytes, fops: FileOperations, priv: Any, flags: int) -> int:
    """A new descriptor for anon_inode_getfile(). Raises EMFILE, ENFILE."""
    fd = get_unused_fd_flags(flags)
    try:
        file = anon_inode_getfile(name, fops, priv, flags)
    except KernelError:
        put_unused_fd(fd)
        raise
    fd_install(fd, file)
    return fd


@notrace
def anon_inode_init(kernel: Kernel) -> None:
    """Boot: mounts the file system and makes the inode."""
    mnt = kern_mount(kernel, anon_inode_fs_type)
    kernel.vfs.anon_inode_mnt = mnt
    kernel.vfs.anon_inode_inode = alloc_anon_inode(mnt.mnt_sb)
