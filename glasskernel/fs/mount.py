"""Making mounts, references on mounts and paths, and the way from a mountpoint to what is mounted there.

Linux: fs/mount.h, include/linux/mount.h, and the part of fs/namespace.c and fs/namei.c that path walks need
(vfs_kern_mount, mntget, mntput, lookup_mnt, path_get, path_put). A file of its own because namespace.py stands
above namei.py.
Owns: Mount.mnt_count, kernel.vfs.mount_hash.
Invariants: mount_hash[(m.mnt_parent, m.mnt_mountpoint)] is m for every attached mount but a namespace's root;
    a mount in the tree has mnt_count >= 1 for being there.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.dcache import dput
from glasskernel.fs.super import deactivate_super, vfs_get_tree
from glasskernel.fs.types import MNT_DOOMED, MNT_INTERNAL, MNT_ON_DEMAND, SB_KERNMOUNT, Mount, VfsState
from glasskernel.kernel.current import register
from glasskernel.kernel.task import PF_KTHREAD
from glasskernel.kernel.task_work import CallbackHead, task_work_add
from glasskernel.lib.types import may_sleep, notrace

__all__ = [
    "VfsState", "__lookup_mnt", "alloc_vfsmnt", "cleanup_mnt", "kern_mount", "kern_unmount", "lookup_mnt", "mntget",
    "mntput", "mntput_no_expire", "path_equal", "path_get", "path_put", "vfs_create_mount", "vfs_kern_mount",
]

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, FileSystemType, Path
    from glasskernel.init.kernel import Kernel


def mntget(mnt: Mount) -> Mount:
    """One more reference; answers the mount."""
    mnt.mnt_count += 1
    return mnt


@may_sleep
def mntput(mnt: Mount | None) -> None:
    """Drops a reference; the last one of a detached mount lets its file system go."""
    if mnt is not None:
        mntput_no_expire(mnt)


@may_sleep
def mntput_no_expire(mnt: Mount) -> None:
    """mntput() of what may be the last reference."""
    mnt.mnt_count -= 1
    assert mnt.mnt_count >= 0, f"mntput() of {mnt!r}"
    if mnt.mnt_count or mnt.mnt_flags & MNT_DOOMED:
        return
    if mnt.mnt_ns is not None:          # still in a tree: the tree's own reference was dropped by mistake
        mnt.mnt_count = 1
        raise AssertionError(f"mntput() of mounted {mnt!r}")
    mnt.mnt_flags |= MNT_DOOMED
    task = register.task
    if task.flags & PF_KTHREAD or not task.pid or not task_work_add(task, CallbackHead(__cleanup_mnt, mnt), True):
        cleanup_mnt(mnt)                # delayed_mntput() in Linux


def __cleanup_mnt(mnt: Mount) -> None:
    cleanup_mnt(mnt)


@may_sleep
def cleanup_mnt(mnt: Mount) -> None:
    """Frees a mount without references: its number, its root dentry, its hold on the super block."""
    sb = mnt.mnt_sb
    vfs = sb.kernel.vfs
    assert not mnt.mnt_writers, f"{mnt!r} goes away with writers"
    if mnt.mnt_pin is not None:
        mnt.mnt_pin(mnt)                           # mnt_pin_kill()
    vfs.mounts.pop(mnt.mnt_id, None)
    dput(mnt.mnt_root)
    deactivate_super(sb)


def path_get(path: Path) -> None:
    """One more reference on both halves."""
    mntget(path.mnt)
    path.dentry.d_count += 1


@may_sleep
def path_put(path: Path) -> None:
    """Drops a reference on both halves."""
    dput(path.dentry)
    mntput(path.mnt)


@notrace
def path_equal(a: Path, b: Path) -> bool:
    return a.mnt is b.mnt and a.dentry is b.dentry


def __lookup_mnt(mnt: Mount, dentry: Dentry) -> Mount | None:
    """What is mounted at this dentry of this mount, without a reference."""
    vfs = mnt.mnt_sb.kernel.vfs
    child = vfs.mount_hash.get((mnt, dentry))
    if child is not None and child.mnt_flags & MNT_ON_DEMAND:
        vfs.mount_now(child)
    return child


def lookup_mnt(path: Path) -> Mount | None:
    """What is mounted at `path`, with a reference."""
    child = __lookup_mnt(path.mnt, path.dentry)
    if child is not None:
        child.mnt_count += 1
    return child


# ---- making ------------------------------------------------------------------------------------------------
def alloc_vfsmnt(kernel: Kernel, root: Dentry, devname: bytes) -> Mount:
    """A mount of the tree below `root`, attached nowhere. Takes over one reference on `root` and one s_active."""
    mounts = kernel.vfs.mounts
    mnt_id = 0
    while mnt_id in mounts:
        mnt_id += 1
    mnt = Mount(root.d_sb, root, mnt_id, devname)
    mnt.mnt_parent = mnt
    mnt.mnt_mountpoint = root
    mounts[mnt_id] = mnt
    return mnt


@may_sleep
def vfs_create_mount(kernel: Kernel, root: Dentry, devname: bytes) -> Mount:
    """A mount for what vfs_get_tree() answered."""
    return alloc_vfsmnt(kernel, root, devname or b"none")


@may_sleep
def vfs_kern_mount(kernel: Kernel, fs_type: FileSystemType, flags: int, name: bytes, data: bytes) -> Mount:
    """Mounts a file system nowhere. flags: SB_*. Raises what the file system raises."""
    mnt = vfs_create_mount(kernel, vfs_get_tree(kernel, fs_type, flags, name, data), name)
    if flags & SB_KERNMOUNT:
        mnt.mnt_flags = MNT_INTERNAL
    return mnt


@may_sleep
def kern_mount(kernel: Kernel, fs_type: FileSystemType) -> Mount:
    """A mount that only the kernel uses and that stays (pipefs, tmpfs for shared memory ...)."""
    return vfs_kern_mount(kernel, fs_type, SB_KERNMOUNT, fs_type.name, b"")


@may_sleep
def kern_unmount(mnt: Mount) -> None:
    """Ends kern_mount()."""
    mntput(mnt)
