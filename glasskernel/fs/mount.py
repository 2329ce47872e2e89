"""References on mounts and paths, and the way from a mountpoint to what is mounted there.

Linux: fs/mount.h, include/linux/mount.h, and the part of fs/namespace.c and fs/namei.c that path walks need
(mntget, mntput, lookup_mnt, path_get, path_put). A file of its own because namespace.py stands above namei.py.
Owns: Mount.mnt_count, kernel.vfs.mount_hash.
Invariants: mount_hash[(m.mnt_parent, m.mnt_mountpoint)] is m for every attached mount but a namespace's root;
    a mount in the tree has mnt_count >= 1 for being there.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.dcache import dput
from glasskernel.fs.super import deactivate_super
from glasskernel.fs.types import DCACHE_MOUNTED, MNT_DOOMED, MNT_INTERNAL
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Mount, Path


def mntget(mnt: Mount) -> Mount:
    """One more reference; answers the mount."""
    mnt.mnt_count += 1
    return mnt


@may_sleep
def mntput(mnt: Mount | None) -> None:
    """Drops a reference; the last one of a detached mount lets its file system go."""
    if mnt is not None:
        if mnt.mnt_count > 1:
            mnt.mnt_count -= 1
        else:
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
    cleanup_mnt(mnt)


@may_sleep
def cleanup_mnt(mnt: Mount) -> None:
    """Frees a mount without references: its number, its root dentry, its hold on the super block."""
    sb = mnt.mnt_sb
    vfs = sb.kernel.vfs
    assert not mnt.mnt_writers, f"{mnt!r} goes away with writers"
    vfs.mounts.pop(mnt.mnt_id, None)
    dput(mnt.mnt_root)
    deactivate_super(sb)


def path_get(path: Path) -> None:
    """One more reference on both halves."""
    path.mnt.mnt_count += 1
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
    return mnt.mnt_sb.kernel.vfs.mount_hash.get((mnt, dentry))


def lookup_mnt(path: Path) -> Mount | None:
    """What is mounted at `path`, with a reference."""
    child = __lookup_mnt(path.mnt, path.dentry)
    if child is not None:
        child.mnt_count += 1
    return child


@notrace
def mnt_has_parent(mnt: Mount) -> bool:
    return mnt.mnt_parent is not mnt


@notrace
def d_mountpoint(dentry: Dentry) -> bool:
    return bool(dentry.d_flags & DCACHE_MOUNTED)


def is_local_mountpoint(dentry: Dentry, mounts: dict[int, Mount]) -> bool:
    """True if something of this namespace is mounted on the dentry."""
    if not dentry.d_flags & DCACHE_MOUNTED:
        return False
    return any(m.mnt_mountpoint is dentry and m.mnt_parent is not m for m in mounts.values())


@notrace
def mnt_is_internal(mnt: Mount) -> bool:
    return bool(mnt.mnt_flags & MNT_INTERNAL)
