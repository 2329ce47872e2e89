"""Mounting: the tree of mounts of a namespace, mount(2), umount(2), pivot_root(2).

Linux: fs/namespace.c (5.3). References and lookups of mounts are mount.py, propagation is pnode.py.
Same: the order of checks, bind, move, remount, lazy umount, propagation types, mount namespaces.
Gaps: MNT_EXPIRE, the mount API with file descriptors (fsopen ...: ENOSYS), locked mounts of user namespaces,
    freezing. Lock order: nothing here sleeps between its check and its change.
Owns: MntNamespace, Mount.mnt_parent, mnt_mountpoint, mnt_children, mnt_ns, kernel.vfs.mount_hash.
Invariants: a child holds one reference on its parent mount and one on its mountpoint; DCACHE_MOUNTED is set
    exactly while something is mounted on the dentry.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_from_user, strncpy_from_user
from glasskernel.fs.anon_inodes import anon_inode_init
from glasskernel.fs.attr import file_remove_privs
from glasskernel.fs.char_dev import def_chr_fops
from glasskernel.fs.dcache import dget, dput
from glasskernel.fs.file_table import files_init
from glasskernel.fs.filesystems import get_fs_type, register_filesystem
from glasskernel.fs.fs_struct import chroot_fs_refs, set_fs_pwd, set_fs_root
from glasskernel.fs.inode import file_update_time, touch_atime
from glasskernel.fs.mount import (
    __lookup_mnt,
    alloc_vfsmnt,
    kern_mount,
    mntput,
    path_get,
    path_put,
    vfs_create_mount,
    vfs_kern_mount,
)
from glasskernel.fs.path_walk import (
    AT_FDCWD,
    LOOKUP_DIRECTORY,
    LOOKUP_FOLLOW,
    PATH_MAX,
    filename_lookup,
    is_dir,
    user_path_at,
    user_path_at_empty,
)
from glasskernel.fs.pipe import init_pipe_fs
from glasskernel.fs.pnode import (
    MS_PRIVATE,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
    change_mnt_propagation,
    is_shared,
    mnt_alloc_group_id,
    propagate_mount_busy,
    propagated_children,
    propagation_targets,
    set_mnt_shared,
)
from glasskernel.fs.ramfs import ramfs_fs_type, rootfs_fs_type
from glasskernel.fs.super import reconfigure_super, vfs_get_tree
from glasskernel.fs.types import (
    DCACHE_CANT_MOUNT,
    DCACHE_MOUNTED,
    MNT_INTERNAL,
    MNT_LOCKED,
    MNT_NOATIME,
    MNT_NODEV,
    MNT_NODIRATIME,
    MNT_NOEXEC,
    MNT_NOSUID,
    MNT_ON_DEMAND,
    MNT_READONLY,
    MNT_RELATIME,
    MNT_SHARED,
    MNT_SHRINKABLE,
    MNT_UMOUNT,
    MNT_UNBINDABLE,
    NSFS_MAGIC,
    S_DEAD,
    S_IFCHR,
    S_IFLNK,
    S_IFMT,
    SB_DIRSYNC,
    SB_I_VERSION,
    SB_LAZYTIME,
    SB_MANDLOCK,
    SB_NOUSER,
    SB_POSIXACL,
    SB_RDONLY,
    SB_SILENT,
    SB_SYNCHRONOUS,
    MntNamespace,
    Nsproxy,
    Path,
    UtsNamespace,
    VfsState,
)
from glasskernel.kernel.capability import CAP_SYS_ADMIN, capable, ns_capable
from glasskernel.kernel.current import current
from glasskernel.kernel.pid import for_each_thread
from glasskernel.kernel.sched.wait import WaitQueueHead, wake_up_interruptible
from glasskernel.kernel.task import FsStruct
from glasskernel.lib.errno import (
    EBUSY,
    EFAULT,
    EINVAL,
    ELOOP,
    ENODEV,
    ENOENT,
    ENOTDIR,
    EPERM,
    KernelError,
)
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, ulong
from glasskernel.mm.slab_common import kmem_cache_create
from glasskernel.mm.slab_types import SLAB_HWCACHE_ALIGN, SLAB_MEM_SPREAD, SLAB_RECLAIM_ACCOUNT

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Mount
    from glasskernel.init.kernel import Kernel

__all__ = ["MS_BIND", "MS_MOVE", "MS_NODEV", "MS_NOEXEC", "MS_NOSUID", "MS_RDONLY", "MS_REC", "MS_REMOUNT",
           "copy_mnt_ns", "do_add_mount", "do_mount", "kern_mount", "put_mnt_ns", "vfs_caches_init",
           "vfs_kern_mount"]

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS, MS_REMOUNT = 1, 2, 4, 8, 16, 32
MS_MANDLOCK, MS_DIRSYNC, MS_NOATIME, MS_NODIRATIME = 64, 128, 1024, 2048
MS_BIND, MS_MOVE, MS_REC, MS_SILENT = 4096, 8192, 16384, 32768
MS_RELATIME, MS_STRICTATIME, MS_NOUSER = 1 << 21, 1 << 24, 1 << 31
MNT_FORCE, MNT_DETACH, MNT_EXPIRE, UMOUNT_NOFOLLOW = 1, 2, 4, 8
MNT_ATIME_MASK = MNT_NOATIME | MNT_NODIRATIME | MNT_RELATIME
MNT_USER_SETTABLE_MASK = MNT_NOSUID | MNT_NODEV | MNT_NOEXEC | MNT_ATIME_MASK | MNT_READONLY
CL_COPY_UNBINDABLE, CL_MAKE_SHARED, CL_PRIVATE, CL_SLAVE, CL_SHARED_TO_SLAVE = 0x04, 0x08, 0x10, 0x02, 0x20
PROC_MNT_INIT_INO = 0xF0000000                # 4026531840


# ---- the tree ----------------------------------------------------------------------------------------------
@notrace
def check_mnt(mnt: Mount) -> bool:
    """True if the mount is in the caller's namespace."""
    return mnt.mnt_ns is current().nsproxy.mnt_ns


@notrace
def may_mount() -> bool:
    return ns_capable(None, CAP_SYS_ADMIN)


def touch_mnt_namespace(ns: MntNamespace | None) -> None:
    """Tells who polls /proc/PID/mounts that something changed."""
    if ns is not None:
        ns.event += 1
        if ns.poll is not None:
            wake_up_interruptible(ns.poll)


def mnt_set_mountpoint(mnt: Mount, mountpoint: Dentry, child: Mount) -> None:
    """Gives a mount its place; takes the references that a child holds."""
    mnt.mnt_count += 1
    child.mnt_mountpoint = dget(mountpoint)
    child.mnt_parent = mnt
    mountpoint.d_flags |= DCACHE_MOUNTED


@notrace
def __attach_mnt(child: Mount, parent: Mount) -> None:
    parent.mnt_sb.kernel.vfs.mount_hash[(parent, child.mnt_mountpoint)] = child
    parent.mnt_children.append(child)


def attach_mnt(child: Mount, parent: Mount, mountpoint: Dentry) -> None:
    """Puts a mount at its place in the tree. Something that was there is mounted on top of it."""
    hidden = __lookup_mnt(parent, mountpoint)
    if hidden is not None:
        detach_from_parent(hidden)
        mnt_set_mountpoint(parent, mountpoint, child)
        __attach_mnt(child, parent)
        mnt_set_mountpoint(child, child.mnt_root, hidden)
        __attach_mnt(hidden, child)
        return
    mnt_set_mountpoint(parent, mountpoint, child)
    __attach_mnt(child, parent)


@notrace
@may_sleep
def detach_from_parent(mnt: Mount) -> None:
    """umount_mnt(): takes a mount out of its place and drops the references it held there."""
    parent, mountpoint = mnt.mnt_parent, mnt.mnt_mountpoint
    vfs = mnt.mnt_sb.kernel.vfs
    if vfs.mount_hash.get((parent, mountpoint)) is mnt:
        del vfs.mount_hash[(parent, mountpoint)]
    parent.mnt_children.remove(mnt)
    mnt.mnt_parent = mnt
    mnt.mnt_mountpoint = mnt.mnt_root
    if not any(key[1] is mountpoint for key in vfs.mount_hash):
        mountpoint.d_flags &= ~DCACHE_MOUNTED
    dput(mountpoint)
    mntput(parent)


@notrace
def tree_of(mnt: Mount) -> list[Mount]:
    """The mount and all below it, parents first."""
    found = [mnt]
    for m in found:
        found.extend(m.mnt_children)
    return found


@notrace
def commit_tree(mnt: Mount, ns: MntNamespace) -> None:
    """Makes a tree of mounts part of a namespace."""
    for m in tree_of(mnt):
        m.mnt_ns = ns
        ns.mounts[m.mnt_id] = m


def clone_mnt(old: Mount, root: Dentry, flag: int) -> Mount:
    """A mount of `root` that is like `old`, attached nowhere. flag: CL_*."""
    if old.mnt_flags & MNT_ON_DEMAND:
        old.mnt_sb.kernel.vfs.mount_now(old)
        root = old.mnt_root
    old.mnt_sb.s_active += 1
    mnt = alloc_vfsmnt(old.mnt_sb.kernel, dget(root), old.mnt_devname)
    if not flag & (CL_SLAVE | CL_PRIVATE | CL_SHARED_TO_SLAVE):
        mnt.mnt_group_id = old.mnt_group_id
    if flag & CL_MAKE_SHARED and not mnt.mnt_group_id:
        mnt_alloc_group_id(mnt)
    mnt.mnt_flags = old.mnt_flags & ~MNT_INTERNAL
    if flag & CL_SLAVE or (flag & CL_SHARED_TO_SLAVE and is_shared(old)):
        mnt.mnt_master = old
        mnt.mnt_flags &= ~MNT_SHARED
    elif not flag & CL_PRIVATE:
        if not (flag & CL_MAKE_SHARED or is_shared(old)):
            mnt.mnt_flags &= ~MNT_SHARED
        mnt.mnt_master = old.mnt_master
    else:
        mnt.mnt_flags &= ~MNT_SHARED
    if flag & CL_MAKE_SHARED:
        set_mnt_shared(mnt)
    return mnt


@may_sleep
def mnt_clone_internal(path: Path) -> Mount:
    """A mount that only the kernel has: who uses a file through it does not keep the original busy."""
    mnt = clone_mnt(path.mnt, path.dentry, CL_PRIVATE)
    mnt.mnt_flags |= MNT_INTERNAL
    return mnt


def copy_tree(mnt: Mount, dentry: Dentry, flag: int) -> Mount:
    """clone_mnt() of a mount and of everything mounted below `dentry`. Raises EINVAL (unbindable)."""
    if not flag & CL_COPY_UNBINDABLE and mnt.mnt_flags & MNT_UNBINDABLE:
        raise KernelError(EINVAL)
    result = clone_mnt(mnt, dentry, flag)
    copies = {mnt: result}
    for old in tree_of(mnt)[1:]:
        parent = copies.get(old.mnt_parent)
        if parent is None or (old.mnt_parent is mnt and not _is_below(old.mnt_mountpoint, dentry)):
            continue
        if not flag & CL_COPY_UNBINDABLE and old.mnt_flags & MNT_UNBINDABLE:
            continue
        if flag & CL_COPY_UNBINDABLE and mnt_ns_of_file(old.mnt_root) is not None:
            continue                                        # a namespace would keep another one, or itself
        copy = clone_mnt(old, old.mnt_root, flag)
        copies[old] = copy
        attach_mnt(copy, parent, old.mnt_mountpoint)
    return result


@notrace
def _is_below(dentry: Dentry, top: Dentry) -> bool:
    while dentry is not top:
        if dentry.d_parent is dentry:
            return False
        dentry = dentry.d_parent
    return True


@notrace
@may_sleep
def drop_tree(mnt: Mount) -> None:
    """Frees a tree of mounts that never became part of a namespace, or no longer is."""
    for m in reversed(tree_of(mnt)):
        change_mnt_propagation(m, MS_PRIVATE)
        if m.mnt_parent is not m:
            detach_from_parent(m)
        m.mnt_ns = None
        mntput(m)


@may_sleep
def umount_tree(mnt: Mount, propagate: bool) -> None:
    """Takes a mount and all below it out of the namespace; what is in use lives on without a place."""
    doomed = tree_of(mnt)
    for m in doomed:
        m.mnt_flags |= MNT_UMOUNT
    if propagate:
        for m in list(doomed):
            for copy in propagated_children(m):
                if not [child for child in copy.mnt_children if not child.mnt_flags & MNT_UMOUNT]:
                    copy.mnt_flags |= MNT_UMOUNT
                    doomed.append(copy)
    for m in reversed(doomed):
        ns = m.mnt_ns
        if ns is not None:
            ns.mounts.pop(m.mnt_id, None)
            touch_mnt_namespace(ns)
        change_mnt_propagation(m, MS_PRIVATE)
        for child in list(m.mnt_children):           # mounted on a propagated copy's root: moves up
            parent, mountpoint = m.mnt_parent, m.mnt_mountpoint
            detach_from_parent(child)
            if parent is not m:
                attach_mnt(child, parent, mountpoint)
        if m.mnt_parent is not m:
            detach_from_parent(m)
        m.mnt_ns = None
    for m in reversed(doomed):
        mntput(m)


@may_sleep
def __detach_mounts(dentry: Dentry) -> None:
    """A name that was removed: whatever other namespaces mounted on it goes."""
    vfs = dentry.d_sb.kernel.vfs
    for key, mnt in list(vfs.mount_hash.items()):
        if key[1] is dentry and not mnt.mnt_flags & MNT_UMOUNT:
            umount_tree(mnt, False)


# ---- attaching ---------------------------------------------------------------------------------------------
def invent_group_ids(mnt: Mount, recurse: bool) -> None:
    """Peer group numbers for mounts that have none."""
    for m in tree_of(mnt) if recurse else [mnt]:
        if not m.mnt_group_id:
            mnt_alloc_group_id(m)


@may_sleep
def attach_recursive_mnt(source: Mount, dest_mnt: Mount, dest_mp: Dentry, moving: bool) -> None:
    """Puts a tree of mounts at its place, and copies of it below the peers and slaves of the destination."""
    targets = []
    ns = dest_mnt.mnt_ns
    assert ns is not None
    if is_shared(dest_mnt):
        invent_group_ids(source, True)
        for m in tree_of(source):
            set_mnt_shared(m)
        for receiver, as_slave in propagation_targets(dest_mnt, dest_mp):
            flag = CL_SLAVE | (CL_MAKE_SHARED if is_shared(receiver) else 0) if as_slave else CL_MAKE_SHARED
            targets.append((receiver, copy_tree(source, source.mnt_root, CL_COPY_UNBINDABLE | flag)))
    if moving:
        detach_from_parent(source)
        attach_mnt(source, dest_mnt, dest_mp)
        touch_mnt_namespace(ns)
    else:
        attach_mnt(source, dest_mnt, dest_mp)
        commit_tree(source, ns)
        touch_mnt_namespace(ns)
    for receiver, copy in targets:
        attach_mnt(copy, receiver, dest_mp)
        commit_tree(copy, receiver.mnt_ns)
        touch_mnt_namespace(receiver.mnt_ns)


@notrace
def lock_mount(path: Path) -> tuple[Mount, Dentry]:
    """Where a mount at `path` goes: on top of what is there. Raises ENOENT (removed), EINVAL (another namespace)."""
    mnt, dentry = path.mnt, path.dentry
    while dentry.d_flags & DCACHE_MOUNTED:
        upper = __lookup_mnt(mnt, dentry)
        if upper is None:
            break
        mnt, dentry = upper, upper.mnt_root
    inode = dentry.d_inode
    if dentry.d_flags & DCACHE_CANT_MOUNT or inode is None or inode.i_flags & S_DEAD or (
            not dentry.d_hashed and dentry.d_parent is not dentry):
        raise KernelError(ENOENT)
    return mnt, dentry


@may_sleep
def graft_tree(mnt: Mount, parent: Mount, mountpoint: Dentry) -> None:
    """Attaches a new tree. Raises EINVAL (an internal file system), ENOTDIR (directory on file or the reverse)."""
    if mnt.mnt_sb.s_flags & SB_NOUSER:
        raise KernelError(EINVAL)
    if is_dir(mountpoint) != is_dir(mnt.mnt_root):
        raise KernelError(ENOTDIR)
    attach_recursive_mnt(mnt, parent, mountpoint, False)


@may_sleep
def do_add_mount(newmnt: Mount, path: Path, mnt_flags: int) -> None:
    """Attaches a new mount at `path`. Raises EBUSY (the same file system is there), EINVAL, ENOTDIR, ENOENT."""
    parent, mountpoint = lock_mount(path)
    if not check_mnt(parent):
        raise KernelError(EINVAL)
    if parent.mnt_sb is newmnt.mnt_sb and parent.mnt_root is mountpoint:
        raise KernelError(EBUSY)
    root = newmnt.mnt_root.d_inode
    assert root is not None
    if root.i_mode & S_IFMT == S_IFLNK:
        raise KernelError(EINVAL)
    newmnt.mnt_flags = mnt_flags
    graft_tree(newmnt, parent, mountpoint)


@may_sleep
def finish_automount(m: Mount, path: Path) -> None:
    """Attaches what an automount made. Raises what do_add_mount() raises."""
    try:
        do_add_mount(m, path, path.mnt.mnt_flags | MNT_SHRINKABLE)
    except KernelError:
        mntput(m)
        raise


@may_sleep
def do_new_mount(path: Path, fstype: bytes, sb_flags: int, mnt_flags: int, name: bytes, data: bytes) -> None:
    """Mounts a file system. Raises EINVAL (no type), ENODEV (unknown type), and what the file system raises."""
    if not fstype:
        raise KernelError(EINVAL)
    kernel = current().kernel
    fs_type = get_fs_type(kernel, fstype)
    if fs_type is None:
        raise KernelError(ENODEV)
    root = vfs_get_tree(kernel, fs_type, sb_flags, name, data)
    if b"." in fstype:
        root.d_sb.s_subtype = fstype.partition(b".")[2]
    mnt = vfs_create_mount(kernel, root, name)
    try:
        if kernel.lsm is not None:
            kernel.lsm.security_sb_kern_mount(root.d_sb)
        do_add_mount(mnt, path, mnt_flags)
    except KernelError:
        mntput(mnt)
        raise


@notrace
def mnt_ns_of_file(dentry: Dentry) -> MntNamespace | None:
    """is_mnt_ns_file(): the mount namespace whose file it is."""
    if dentry.d_sb.s_magic != NSFS_MAGIC or dentry.d_inode is None:
        return None
    ns = dentry.d_inode.i_private.ns
    return ns if isinstance(ns, MntNamespace) else None


@notrace
def mnt_ns_loop(dentry: Dentry) -> bool:
    """Whether a mount of it would keep its own namespace, or an older one, for ever."""
    ns = mnt_ns_of_file(dentry)
    return ns is not None and current().nsproxy.mnt_ns.seq >= ns.seq


@may_sleep
def do_loopback(path: Path, old_name: bytes, recurse: bool) -> None:
    """mount(MS_BIND). Raises EINVAL, ENOENT, ENOTDIR ..."""
    if not old_name:
        raise KernelError(EINVAL)
    old_path = filename_lookup(AT_FDCWD, old_name, LOOKUP_FOLLOW)
    try:
        parent, mountpoint = lock_mount(path)
        old = old_path.mnt
        if mnt_ns_loop(old_path.dentry) or old.mnt_flags & MNT_UNBINDABLE or not check_mnt(parent):
            raise KernelError(EINVAL)
        if not check_mnt(old) and old.mnt_sb.s_magic != NSFS_MAGIC:
            raise KernelError(EINVAL)
        if recurse:
            mnt = copy_tree(old, old_path.dentry, 0)
        else:
            mnt = clone_mnt(old, old_path.dentry, 0)
        try:
            graft_tree(mnt, parent, mountpoint)
        except KernelError:
            drop_tree(mnt)
            raise
    finally:
        path_put(old_path)


@may_sleep
def do_move_mount(old_path: Path, new_path: Path) -> None:
    """mount(MS_MOVE). Raises EINVAL, ELOOP, ENOENT."""
    parent, mountpoint = lock_mount(new_path)
    old = old_path.mnt
    if not check_mnt(parent) or not check_mnt(old):
        raise KernelError(EINVAL)
    if old_path.dentry is not old.mnt_root or old.mnt_parent is old or old.mnt_flags & MNT_LOCKED:
        raise KernelError(EINVAL)
    if is_dir(mountpoint) != is_dir(old_path.dentry):
        raise KernelError(EINVAL)
    if is_shared(old.mnt_parent):
        raise KernelError(EINVAL)
    if is_shared(parent) and any(m.mnt_flags & MNT_UNBINDABLE for m in tree_of(old)):
        raise KernelError(EINVAL)
    p = parent
    while True:
        if p is old:
            raise KernelError(ELOOP)
        if p.mnt_parent is p:
            break
        p = p.mnt_parent
    attach_recursive_mnt(old, parent, mountpoint, True)


@may_sleep
def do_move_mount_old(path: Path, old_name: bytes) -> None:
    """mount(MS_MOVE) with a name."""
    if not old_name:
        raise KernelError(EINVAL)
    old_path = filename_lookup(AT_FDCWD, old_name, LOOKUP_FOLLOW)
    try:
        do_move_mount(old_path, path)
    finally:
        path_put(old_path)


def do_change_type(path: Path, ms_flags: int) -> None:
    """mount --make-shared and the like. Raises EINVAL."""
    if path.dentry is not path.mnt.mnt_root:
        raise KernelError(EINVAL)
    type = ms_flags & ~(MS_REC | MS_SILENT)
    if type not in (MS_SHARED, MS_PRIVATE, MS_SLAVE, MS_UNBINDABLE):
        raise KernelError(EINVAL)
    recurse = bool(ms_flags & MS_REC)
    if type == MS_SHARED:
        invent_group_ids(path.mnt, recurse)
    for m in tree_of(path.mnt) if recurse else [path.mnt]:
        change_mnt_propagation(m, type)


# ---- remounting --------------------------------------------------------------------------------------------
def mnt_make_readonly(mnt: Mount) -> None:
    """Raises EBUSY while somebody writes through the mount."""
    if mnt.mnt_writers:
        raise KernelError(EBUSY)
    mnt.mnt_flags |= MNT_READONLY


def change_mount_ro_state(mnt: Mount, mnt_flags: int) -> None:
    """The read-only half of a remount."""
    readonly = mnt_flags & MNT_READONLY
    if readonly == mnt.mnt_flags & MNT_READONLY:
        return
    if readonly:
        mnt_make_readonly(mnt)
    else:
        mnt.mnt_flags &= ~MNT_READONLY


def set_mount_attributes(mnt: Mount, mnt_flags: int) -> None:
    """Stores the flags a user may set."""
    mnt.mnt_flags = mnt_flags | mnt.mnt_flags & ~MNT_USER_SETTABLE_MASK
    touch_mnt_namespace(mnt.mnt_ns)


def do_reconfigure_mnt(path: Path, mnt_flags: int) -> None:
    """mount(MS_REMOUNT | MS_BIND): one mount's own flags. Raises EINVAL, EBUSY."""
    mnt = path.mnt
    if not check_mnt(mnt) or path.dentry is not mnt.mnt_root:
        raise KernelError(EINVAL)
    change_mount_ro_state(mnt, mnt_flags)
    set_mount_attributes(mnt, mnt_flags)


@may_sleep
def do_remount(path: Path, sb_flags: int, mnt_flags: int, data: bytes) -> None:
    """mount(MS_REMOUNT): the file system's options and the mount's flags. Raises EINVAL, EPERM, EBUSY."""
    mnt = path.mnt
    if not check_mnt(mnt) or path.dentry is not mnt.mnt_root:
        raise KernelError(EINVAL)
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    reconfigure_super(mnt.mnt_sb, sb_flags, data)
    set_mount_attributes(mnt, mnt_flags)


# ---- mount(2) ----------------------------------------------------------------------------------------------
@may_sleep
def do_mount(dev_name: bytes, dir_name: UserPtr, type_page: bytes, flags: int, data_page: bytes) -> int:
    """mount(2) with most of its strings in the kernel. flags: MS_*. Raises as path_mount()."""
    return path_mount(dev_name, user_path_at_empty(AT_FDCWD, dir_name, LOOKUP_FOLLOW), type_page, flags, data_page)


@may_sleep
@notrace
def kernel_mount(dev_name: bytes, dir_name: bytes, type_page: bytes, flags: int, data_page: bytes) -> int:
    """mount(2) at boot."""
    return path_mount(dev_name, filename_lookup(AT_FDCWD, dir_name, LOOKUP_FOLLOW), type_page, flags, data_page)


@may_sleep
@notrace
def path_mount(dev_name: bytes, path: Path, type_page: bytes, flags: int, data_page: bytes) -> int:
    """Mounts on, or changes, what is at a path, whose references it takes.

    Raises EPERM, EINVAL, ENODEV, ENOENT, ENOTDIR, EBUSY.
    """
    if flags & 0xFFFF0000 == 0xC0ED0000:                 # MS_MGC_VAL
        flags &= 0xFFFF
    try:
        if flags & MS_NOUSER:
            raise KernelError(EINVAL)
        lsm = path.dentry.d_sb.kernel.lsm
        if lsm is not None:
            lsm.security_sb_mount(path, flags)
        if not may_mount():
            raise KernelError(EPERM)
        mnt_flags = 0
        if not flags & MS_NOATIME:
            mnt_flags |= MNT_RELATIME
        if flags & MS_NOSUID:
            mnt_flags |= MNT_NOSUID
        if flags & MS_NODEV:
            mnt_flags |= MNT_NODEV
        if flags & MS_NOEXEC:
            mnt_flags |= MNT_NOEXEC
        if flags & MS_NOATIME:
            mnt_flags |= MNT_NOATIME
        if flags & MS_NODIRATIME:
            mnt_flags |= MNT_NODIRATIME
        if flags & MS_STRICTATIME:
            mnt_flags &= ~(MNT_RELATIME | MNT_NOATIME)
        if flags & MS_RDONLY:
            mnt_flags |= MNT_READONLY
        if flags & MS_REMOUNT and not flags & (MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME):
            mnt_flags = mnt_flags & ~MNT_ATIME_MASK | path.mnt.mnt_flags & MNT_ATIME_MASK
        sb_flags = flags & (SB_RDONLY | SB_SYNCHRONOUS | SB_MANDLOCK | SB_DIRSYNC | SB_SILENT | SB_POSIXACL
                            | SB_LAZYTIME | SB_I_VERSION)
        if flags & (MS_REMOUNT | MS_BIND) == MS_REMOUNT | MS_BIND:
            do_reconfigure_mnt(path, mnt_flags)
        elif flags & MS_REMOUNT:
            do_remount(path, sb_flags, mnt_flags, data_page)
        elif flags & MS_BIND:
            do_loopback(path, dev_name, bool(flags & MS_REC))
        elif flags & (MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE):
            do_change_type(path, flags)
        elif flags & MS_MOVE:
            do_move_mount_old(path, dev_name)
        else:
            do_new_mount(path, type_page, sb_flags, mnt_flags, dev_name, data_page)
    finally:
        path_put(path)
    return 0


@notrace
def copy_mount_string(data: UserPtr) -> bytes:
    """A string argument of mount(2); NULL is empty. Raises EFAULT, EINVAL (too long)."""
    if not data:
        return b""
    text = strncpy_from_user(data, PATH_MAX)
    if text is None:
        raise KernelError(EINVAL)
    return text


def copy_mount_options(data: UserPtr) -> bytes:
    """The page of options, up to its NUL. Raises EFAULT if not one byte can be read."""
    if not data:
        return b""
    size = 4096
    head = 4096 - (data & 0xFFF)
    try:
        page = copy_from_user(data, size)
    except KernelError:
        if head == 4096:
            raise KernelError(EFAULT) from None
        page = copy_from_user(data, head)
    return page.split(b"\0", 1)[0]


@may_sleep
def ksys_mount(dev_name: UserPtr, dir_name: UserPtr, type: UserPtr, flags: int, data: UserPtr) -> int:
    """mount(2)."""
    kernel_type = copy_mount_string(type)
    kernel_dev = copy_mount_string(dev_name)
    options = copy_mount_options(data)
    return do_mount(kernel_dev, dir_name, kernel_type, flags, options)


@syscall(gaps="MS_NOUSER; fs options of types not built in")
def sys_mount(dev_name: UserPtr, dir_name: UserPtr, type: UserPtr, flags: ulong, data: UserPtr) -> int:
    """mount(2). Errors: EPERM, EINVAL, ENODEV, ENOENT, ENOTDIR, EBUSY, ELOOP, EFAULT, ENOTBLK."""
    return ksys_mount(dev_name, dir_name, type, flags, data)


# ---- umount(2) ---------------------------------------------------------------------------------------------
@may_sleep
def do_umount(mnt: Mount, flags: int) -> None:
    """umount2(2) of one mount, the caller's reference included. Raises EBUSY, EINVAL, EPERM."""
    sb = mnt.mnt_sb
    if sb.kernel.lsm is not None:
        sb.kernel.lsm.security_sb_umount(mnt)
    if flags & MNT_EXPIRE:
        raise KernelError(EINVAL)
    if flags & MNT_FORCE and sb.s_op.umount_begin is not None:
        sb.s_op.umount_begin(sb)
    if mnt is current().fs.root.mnt and not flags & MNT_DETACH:
        do_umount_root(mnt)
        return
    if flags & MNT_DETACH:
        umount_tree(mnt, True)
        return
    if propagate_mount_busy(mnt, 2):
        raise KernelError(EBUSY)
    umount_tree(mnt, True)


@may_sleep
def do_umount_root(mnt: Mount) -> None:
    """The root is not unmounted but made read-only."""
    sb = mnt.mnt_sb
    if not capable(CAP_SYS_ADMIN):
        raise KernelError(EPERM)
    if not sb.s_flags & SB_RDONLY:
        reconfigure_super(sb, SB_RDONLY, b"")


@may_sleep
def ksys_umount(name: UserPtr, flags: int) -> int:
    """umount2(2)."""
    if flags & ~(MNT_FORCE | MNT_DETACH | MNT_EXPIRE | UMOUNT_NOFOLLOW):
        raise KernelError(EINVAL)
    if not may_mount():
        raise KernelError(EPERM)
    path = user_path_at(AT_FDCWD, name, 0 if flags & UMOUNT_NOFOLLOW else LOOKUP_FOLLOW)
    mnt = path.mnt
    try:
        if path.dentry is not mnt.mnt_root or not check_mnt(mnt) or mnt.mnt_flags & MNT_LOCKED:
            raise KernelError(EINVAL)
        do_umount(mnt, flags)
    finally:
        dput(path.dentry)
        mntput(mnt)
    return 0


@syscall(gaps="MNT_EXPIRE")
def sys_umount2(name: UserPtr, flags: int) -> int:
    """umount2(2). Errors: EPERM, EINVAL (no mountpoint), EBUSY, ENOENT, EFAULT."""
    return ksys_umount(name, flags)


# ---- pivot_root(2) -----------------------------------------------------------------------------------------
@syscall
def sys_pivot_root(new_root: UserPtr, put_old: UserPtr) -> int:
    """pivot_root(2). Errors: EPERM, EBUSY, EINVAL, ENOTDIR, ENOENT."""
    if not may_mount():
        raise KernelError(EPERM)
    new = user_path_at(AT_FDCWD, new_root, LOOKUP_FOLLOW | LOOKUP_DIRECTORY)
    try:
        old = user_path_at(AT_FDCWD, put_old, LOOKUP_FOLLOW | LOOKUP_DIRECTORY)
        try:
            _pivot_root(new, old)
        finally:
            path_put(old)
    finally:
        path_put(new)
    return 0


@notrace
def _pivot_root(new: Path, old: Path) -> None:
    task = current()
    root = task.fs.root
    path_get(root)
    root = Path(root.mnt, root.dentry)
    try:
        old_mnt, old_mp = lock_mount(old)
        new_mnt, root_mnt = new.mnt, root.mnt
        if is_shared(old_mnt) or is_shared(new_mnt.mnt_parent) or is_shared(root_mnt.mnt_parent):
            raise KernelError(EINVAL)
        if not check_mnt(root_mnt) or not check_mnt(new_mnt) or new_mnt.mnt_flags & MNT_LOCKED:
            raise KernelError(EINVAL)
        if not new.dentry.d_hashed:
            raise KernelError(ENOENT)
        if new_mnt is root_mnt or old_mnt is root_mnt:
            raise KernelError(EBUSY)
        if root.dentry is not root_mnt.mnt_root or root_mnt.mnt_parent is root_mnt:
            raise KernelError(EINVAL)
        if new.dentry is not new_mnt.mnt_root or new_mnt.mnt_parent is new_mnt:
            raise KernelError(EINVAL)
        if not is_path_reachable(old_mnt, old_mp, new) or not is_path_reachable(new_mnt, new.dentry, root):
            raise KernelError(EINVAL)
        parent, mountpoint = root_mnt.mnt_parent, root_mnt.mnt_mountpoint
        detach_from_parent(new_mnt)
        dget(mountpoint)
        detach_from_parent(root_mnt)
        attach_mnt(root_mnt, old_mnt, old_mp)
        attach_mnt(new_mnt, parent, mountpoint)
        dput(mountpoint)
        touch_mnt_namespace(task.nsproxy.mnt_ns)
        chroot_fs_refs(list(for_each_thread(task.kernel)), root, new)
    finally:
        path_put(root)


def is_path_reachable(mnt: Mount, dentry: Dentry, root: Path) -> bool:
    """True if (mnt, dentry) lies at or below `root`."""
    while mnt is not root.mnt and mnt.mnt_parent is not mnt:
        dentry = mnt.mnt_mountpoint
        mnt = mnt.mnt_parent
    return mnt is root.mnt and _is_below(dentry, root.dentry)


# ---- namespaces --------------------------------------------------------------------------------------------
def alloc_mnt_ns(kernel: Kernel) -> MntNamespace:
    """An empty mount namespace."""
    ns = MntNamespace(kernel)
    ns.poll = WaitQueueHead()
    kernel.vfs.last_ns_inum += 1
    ns.inum = ns.seq = kernel.vfs.last_ns_inum
    return ns


@may_sleep
def copy_mnt_ns(clone: bool, ns: MntNamespace, new_fs: FsStruct | None) -> MntNamespace:
    """The namespace of a new task: shared, or (CLONE_NEWNS) a copy of the tree that new_fs then points into."""
    if not clone:
        ns.count += 1
        return ns
    new_ns = alloc_mnt_ns(ns.kernel)
    old_root = ns.root
    new_root = copy_tree(old_root, old_root.mnt_root, CL_COPY_UNBINDABLE)
    new_ns.root = new_root
    commit_tree(new_root, new_ns)
    if new_fs is not None:
        root, pwd = new_fs.root, new_fs.pwd
        for old, new in zip(tree_of(old_root), tree_of(new_root), strict=True):
            if root.mnt is old:
                set_fs_root(new_fs, Path(new, root.dentry))
            if pwd.mnt is old:
                set_fs_pwd(new_fs, Path(new, pwd.dentry))
    return new_ns


@may_sleep
def put_mnt_ns(ns: MntNamespace) -> None:
    """Drops a user of a namespace; the last one unmounts everything in it."""
    ns.count -= 1
    if not ns.count:
        umount_tree(ns.root, False)


# ---- boot --------------------------------------------------------------------------------------------------
def init_mount_tree(kernel: Kernel) -> None:
    """Mounts rootfs, makes the first namespace and gives the boot tasks their root directory."""
    mnt = vfs_kern_mount(kernel, rootfs_fs_type, 0, b"rootfs", b"")
    ns = MntNamespace(kernel, mnt, inum=PROC_MNT_INIT_INO, poll=WaitQueueHead())
    commit_tree(mnt, ns)
    kernel.vfs.init_mnt_ns = ns
    nsproxy = Nsproxy(UtsNamespace(), ns)
    root = Path(mnt, mnt.mnt_root)
    fs = FsStruct(None, None)  # type: ignore[arg-type]
    set_fs_root(fs, root)
    set_fs_pwd(fs, root)
    boot_tasks = kernel.pids.idle_tasks
    fs.users = nsproxy.count = len(boot_tasks)
    for idle in boot_tasks:
        idle.nsproxy = nsproxy
        idle.fs = fs


def mnt_init(kernel: Kernel) -> None:
    """The first file systems and the root of the tree."""
    register_filesystem(kernel, ramfs_fs_type)
    init_mount_tree(kernel)


def vfs_caches_init(kernel: Kernel) -> None:
    """Makes kernel.vfs. Context: boot, after pagecache_init(); current() is the boot task."""
    kernel.vfs = VfsState(kernel)
    slab = kernel.slab
    slab.names_cachep = kmem_cache_create(kernel, b"names_cache", PATH_MAX, 0, SLAB_HWCACHE_ALIGN)
    slab.dentry_cache = kmem_cache_create(kernel, b"dentry", 192, 0, SLAB_RECLAIM_ACCOUNT | SLAB_MEM_SPREAD)
    slab.inode_cachep = kmem_cache_create(kernel, b"inode_cache", 600, 0, SLAB_RECLAIM_ACCOUNT | SLAB_MEM_SPREAD,
                                          ctor=True)
    kernel.vfs.special_fops[S_IFCHR] = def_chr_fops
    kernel.vfs.detach_mounts = __detach_mounts
    filemap = kernel.filemap
    filemap.touch_atime = touch_atime
    filemap.file_update_time = file_update_time
    filemap.file_remove_privs = file_remove_privs
    files_init(kernel)
    mnt_init(kernel)
    init_pipe_fs(kernel)
    anon_inode_init(kernel)
