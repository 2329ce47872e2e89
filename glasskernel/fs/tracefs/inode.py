"""tracefs: the files of tracing.

Linux: fs/tracefs/inode.c (5.3). Same: one file system wherever it is mounted; only root may enter (mode 0700); one
    directory, `instances`, in which mkdir and rmdir make and remove trace arrays.
Differs: the files come when somebody first looks (kernel.tracer_init_tracefs): booting does not pay for tracing.
Owns: Kernel.tracefs, the tree.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from glasskernel.fs.filesystems import register_filesystem
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
from glasskernel.fs.types import FileSystemType
from glasskernel.lib.errno import EEXIST, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, FileOperations, SuperBlock
    from glasskernel.init.kernel import Kernel

TRACEFS_MAGIC = 0x74726163


def trace_fill_super(sb: SuperBlock, data: bytes, silent: bool) -> None:
    tree_fill_super(sb, sb.kernel.tracefs, data)


def trace_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, dev_name: bytes, data: bytes) -> Dentry:
    return mount_single(kernel, fs_type, flags, data, trace_fill_super)


trace_fs_type = FileSystemType(b"tracefs", trace_mount)


@notrace
def _fill(root: TreeNode) -> None:
    root.tree.kernel.tracer_init_tracefs()


def tracefs_init(kernel: Kernel) -> None:
    """Registers the file system, and makes /sys/kernel/tracing to mount it on."""
    kernel.tracefs = simple_tree(kernel, TRACEFS_MAGIC, 0o700)
    kernel.tracefs.root.fill = _fill
    register_filesystem(kernel, trace_fs_type)
    kobject_create_and_add(b"tracing", kernel.sysfs.kernel_kobj)


def tracefs_create_file(name: str, mode: int, parent: TreeNode, data: Any, fops: FileOperations) -> TreeNode:
    """A file; data is its inode's i_private. Errors: EEXIST."""
    return tree_create_file(parent, name.encode(), mode, data, fops)


def tracefs_create_dir(name: str, parent: TreeNode, fill: Callable[[TreeNode], None] | None = None) -> TreeNode:
    """A directory; fill(node) makes its files when somebody first looks into it. Errors: EEXIST."""
    return tree_create_dir(parent, name.encode(), 0o755, fill)


def tracefs_create_instance_dir(name: str, parent: TreeNode, mkdir: Callable[[str], None],
                                rmdir: Callable[[str], None]) -> TreeNode:
    """The directory in which users may make directories. Errors: EEXIST (there is one already)."""
    node = tree_create_dir(parent, name.encode(), 0o755)
    if node.mkdir is not None:
        raise KernelError(EEXIST)
    node.mkdir = lambda new: mkdir(new.decode(errors="surrogateescape"))
    node.rmdir = lambda old: rmdir(old.decode(errors="surrogateescape"))
    return node


def tracefs_remove_recursive(node: TreeNode) -> None:
    """Takes a file or a directory with all in it away."""
    tree_remove(node)
