"""debugfs: files for those who look for bugs.

Linux: fs/debugfs/inode.c (5.3). Same: one file system wherever it is mounted, only root may enter; `tracing` in it
    mounts tracefs when somebody walks into it. Gaps: debugfs_create_u32() and its like, the proxy that guards
    removed files.
Owns: Kernel.debugfs, the tree.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.filesystems import register_filesystem
from glasskernel.fs.mount import vfs_kern_mount
from glasskernel.fs.namespace import finish_automount
from glasskernel.fs.simple_tree import (
    TreeNode,
    simple_tree,
    tree_create_dir,
    tree_create_file,
    tree_fill_super,
    tree_remove,
)
from glasskernel.fs.super import mount_single
from glasskernel.fs.sysfs.kobject import kobject_create_and_add
from glasskernel.fs.tracefs.inode import trace_fs_type
from glasskernel.fs.types import FileSystemType
from glasskernel.lib.types import may_sleep

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, FileOperations, Mount, Path, SuperBlock
    from glasskernel.init.kernel import Kernel

DEBUGFS_MAGIC = 0x64626720


def debug_fill_super(sb: SuperBlock, data: bytes, silent: bool) -> None:
    tree_fill_super(sb, sb.kernel.debugfs, data)


def debug_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    return mount_single(kernel, fs_type, flags, data, debug_fill_super)


debug_fs_type = FileSystemType(b"debugfs", debug_mount)


def debugfs_init(kernel: Kernel) -> None:
    """Registers the file system, and makes /sys/kernel/debug to mount it on."""
    kernel.debugfs = simple_tree(kernel, DEBUGFS_MAGIC, 0o700)
    register_filesystem(kernel, debug_fs_type)
    kobject_create_and_add(b"debug", kernel.sysfs.kernel_kobj)
    debugfs_create_automount(kernel, "tracing", None, trace_automount)


def debugfs_create_dir(kernel: Kernel, name: str, parent: TreeNode | None = None) -> TreeNode:
    """A directory; parent None: at the top. Errors: EEXIST."""
    return tree_create_dir(parent or kernel.debugfs.root, name.encode(), 0o755)


def debugfs_create_file(kernel: Kernel, name: str, mode: int, parent: TreeNode | None, data: Any,
                        fops: FileOperations) -> TreeNode:
    """A file; data is its inode's i_private. Errors: EEXIST."""
    return tree_create_file(parent or kernel.debugfs.root, name.encode(), mode, data, fops)


def debugfs_create_automount(kernel: Kernel, name: str, parent: TreeNode | None,
                             automount: Callable[[Path], Mount]) -> TreeNode:
    """A directory on which automount(path) mounts something when it is entered. Errors: EEXIST."""
    node = tree_create_dir(parent or kernel.debugfs.root, name.encode(), 0o755)
    node.automount = automount
    return node


def debugfs_remove_recursive(node: TreeNode) -> None:
    """Takes a file or a directory with all in it away."""
    tree_remove(node)


@may_sleep
def trace_automount(path: Path) -> Mount:
    """For those who look for tracing where it used to be (kernel/trace/trace.c)."""
    kernel = path.dentry.d_sb.kernel
    mnt = vfs_kern_mount(kernel, trace_fs_type, 0, b"tracefs", b"")      # vfs_submount()
    finish_automount(mnt, path)
    return mnt
