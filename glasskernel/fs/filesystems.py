"""The list of file system types.

Linux: fs/filesystems.c. Owns: kernel.vfs.file_systems. Gaps: sysfs(2) (ENOSYS), module loading on demand.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.types import FS_REQUIRES_DEV
from glasskernel.lib.errno import EBUSY, EINVAL, KernelError

if TYPE_CHECKING:
    from glasskernel.fs.types import FileSystemType
    from glasskernel.init.kernel import Kernel


def register_filesystem(kernel: Kernel, fs: FileSystemType) -> None:
    """Makes the type known to mount(2). Raises EBUSY if the name is taken."""
    table = kernel.vfs.file_systems
    if fs.name in table:
        raise KernelError(EBUSY)
    table[fs.name] = fs


def unregister_filesystem(kernel: Kernel, fs: FileSystemType) -> None:
    """Forgets the type. Raises EINVAL if it is not known."""
    table = kernel.vfs.file_systems
    if table.get(fs.name) is not fs:
        raise KernelError(EINVAL)
    del table[fs.name]


def get_fs_type(kernel: Kernel, name: bytes) -> FileSystemType | None:
    """The type called `name` ("fuse.sshfs": the part before the dot), or None."""
    return kernel.vfs.file_systems.get(name.partition(b".")[0])


def filesystems_proc_show(kernel: Kernel) -> bytes:
    """The text of /proc/filesystems."""
    return b"".join(
        b"%s\t%s\n" % (b"" if fs.fs_flags & FS_REQUIRES_DEV else b"nodev", fs.name)
        for fs in kernel.vfs.file_systems.values())
