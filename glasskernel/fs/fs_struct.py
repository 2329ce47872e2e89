"""Root directory, working directory and umask of a task.

Linux: fs/fs_struct.c, and chdir(2), fchdir(2), chroot(2) of fs/open.c live in open.py. Owns: FsStruct.
Invariant: root and pwd each hold one reference on their mount and dentry.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.mount import path_get, path_put
from glasskernel.fs.types import Path
from glasskernel.kernel.current import register
from glasskernel.kernel.task import FsStruct
from glasskernel.lib.types import may_sleep, notrace
from glasskernel.mm.page_alloc import GFP_KERNEL
from glasskernel.mm.slub import kmem_cache_alloc, kmem_cache_free

if TYPE_CHECKING:
    from glasskernel.kernel.task import TaskStruct


@may_sleep
def set_fs_root(fs: FsStruct, path: Path) -> None:
    """Changes the root directory; takes references of its own."""
    path_get(path)
    old = fs.root
    fs.root = Path(path.mnt, path.dentry)
    if old is not None:
        path_put(old)


@may_sleep
def set_fs_pwd(fs: FsStruct, path: Path) -> None:
    """Changes the working directory; takes references of its own."""
    path_get(path)
    old = fs.pwd
    fs.pwd = Path(path.mnt, path.dentry)
    if old is not None:
        path_put(old)


def copy_fs_struct(old: FsStruct) -> FsStruct:
    """A copy for fork(2) without CLONE_FS, or unshare(CLONE_FS)."""
    address = kmem_cache_alloc(register.task.kernel.slab.fs_cachep, GFP_KERNEL)
    path_get(old.root)
    path_get(old.pwd)
    fs = FsStruct(Path(old.root.mnt, old.root.dentry), Path(old.pwd.mnt, old.pwd.dentry), old.umask)
    fs.slab_address = address
    return fs


def copy_fs(clone_fs: bool, task: TaskStruct) -> FsStruct:
    """The fs_struct of a new task: shared (CLONE_FS) or copied."""
    fs = task.fs
    if clone_fs:
        fs.users += 1
        return fs
    return copy_fs_struct(fs)


@may_sleep
def free_fs_struct(fs: FsStruct) -> None:
    """Drops the references of an fs_struct without users."""
    path_put(fs.root)
    path_put(fs.pwd)
    kmem_cache_free(register.task.kernel.slab.fs_cachep, fs.slab_address)


@may_sleep
def exit_fs(task: TaskStruct) -> None:
    """exit(2): the task gives its fs_struct up."""
    fs = task.fs
    if fs is not None:
        task.fs = None  # type: ignore[assignment]
        fs.users -= 1
        if not fs.users:
            free_fs_struct(fs)


@may_sleep
def unshare_fs_struct(task: TaskStruct) -> None:
    """Gives the task an fs_struct of its own (exec of a set-id program, unshare(2), kernel threads)."""
    fs = task.fs
    if fs.users > 1:
        task.fs = copy_fs_struct(fs)
        fs.users -= 1


@may_sleep
def chroot_fs_refs(tasks: list[TaskStruct], old_root: Path, new_root: Path) -> None:
    """pivot_root(2): whoever had `old_root` as root or working directory gets `new_root`."""
    seen: list[FsStruct] = []
    for task in tasks:
        fs = task.fs
        if fs is None or fs in seen:
            continue
        seen.append(fs)
        if fs.root.mnt is old_root.mnt and fs.root.dentry is old_root.dentry:
            set_fs_root(fs, new_root)
        if fs.pwd.mnt is old_root.mnt and fs.pwd.dentry is old_root.dentry:
            set_fs_pwd(fs, new_root)


@notrace
def current_chrooted(fs: FsStruct, ns_root: Path) -> bool:
    """True if the root directory is not the namespace's."""
    return fs.root.mnt is not ns_root.mnt or fs.root.dentry is not ns_root.dentry


def current_umask() -> int:
    """The caller's umask."""
    return register.task.fs.umask
