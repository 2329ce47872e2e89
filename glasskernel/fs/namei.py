"""Making, removing and renaming names.

Linux: the second half of fs/namei.c (5.3). The path walk is path_walk.py, open's half namei_open.py; both are
re-exported here. Same: who may (vfs_*), locking order, EROFS after EEXIST, trailing slashes, sticky and SGID
directories, rename's rules and flags.
Gaps: delegations.
Lock order: two directories: s_vfs_rename_mutex, then ancestor before descendant; then files by inode number.
Invariant: vfs_* are called with the directory's i_rwsem held and mnt_want_write() done.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.arch.x86.uaccess import copy_to_user
from glasskernel.fs.d_path import d_path
from glasskernel.fs.dcache import d_ancestor, d_delete, d_exchange, d_move, dget, dput, shrink_dcache_parent
from glasskernel.fs.fsnotify import (
    IN_CREATE,
    IN_DELETE,
    fsnotify_dirent,
    fsnotify_link_count,
    fsnotify_move,
)
from glasskernel.fs.inode import (
    inode_lock,
    inode_owner_or_capable,
    inode_unlock,
    iput,
    lock_two_nondirectories,
    unlock_two_nondirectories,
)
from glasskernel.fs.mnt_writers import mnt_drop_write, mnt_want_write
from glasskernel.fs.mount import path_put
from glasskernel.fs.namei_open import OpenFlags, do_file_open_root, do_filp_open, may_open, vfs_tmpfile
from glasskernel.fs.path_walk import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_REMOVEDIR,
    AT_SYMLINK_FOLLOW,
    AT_SYMLINK_NOFOLLOW,
    LAST_DOT,
    LAST_DOTDOT,
    LAST_NORM,
    LOOKUP_AUTOMOUNT,
    LOOKUP_CREATE,
    LOOKUP_DIRECTORY,
    LOOKUP_DOWN,
    LOOKUP_EMPTY,
    LOOKUP_EXCL,
    LOOKUP_FOLLOW,
    LOOKUP_OPEN,
    LOOKUP_PARENT,
    LOOKUP_RENAME_TARGET,
    LOOKUP_REVAL,
    NAME_MAX,
    PATH_MAX,
    __lookup_hash,
    filename_lookup,
    filename_parentat,
    follow_down,
    follow_up,
    getname,
    getname_flags,
    is_dir,
    kern_path,
    lookup_one_len,
    lookup_one_len_unlocked,
    lookup_slow,
    user_path_at,
    user_path_at_empty,
    vfs_path_lookup,
)
from glasskernel.fs.permission import generic_permission, inode_permission, may_create, may_delete
from glasskernel.fs.types import (
    DCACHE_CANT_MOUNT,
    DCACHE_MOUNTED,
    FS_RENAME_DOES_D_MOVE,
    I_LINKABLE,
    MAY_READ,
    MAY_WRITE,
    S_APPEND,
    S_DEAD,
    S_IFBLK,
    S_IFCHR,
    S_IFDIR,
    S_IFIFO,
    S_IFMT,
    S_IFREG,
    S_IFSOCK,
    S_IMMUTABLE,
    S_IRWXUGO,
    S_ISGID,
    S_ISUID,
    S_ISVTX,
    S_IXGRP,
    SB_POSIXACL,
    Path,
)
from glasskernel.kernel.capability import CAP_DAC_READ_SEARCH, CAP_MKNOD, capable
from glasskernel.kernel.current import register
from glasskernel.kernel.locking.mutex import Mutex, mutex_lock, mutex_unlock
from glasskernel.lib.errno import (
    EBUSY,
    EEXIST,
    EINVAL,
    EISDIR,
    EMLINK,
    ENOENT,
    ENOTDIR,
    ENOTEMPTY,
    EPERM,
    EXDEV,
    KernelError,
)
from glasskernel.lib.syscalls import syscall
from glasskernel.lib.types import UserPtr, may_sleep, notrace, u32

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Inode
    from glasskernel.init.kernel import Kernel

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
WHITEOUT_MODE, WHITEOUT_DEV = 0, 0

__all__ = [
    "AT_EMPTY_PATH", "AT_FDCWD", "AT_REMOVEDIR", "AT_SYMLINK_FOLLOW", "AT_SYMLINK_NOFOLLOW", "do_file_open_root",
    "do_filp_open", "do_mkdirat_kernel", "done_path_create", "filename_create", "filename_lookup", "follow_down",
    "follow_up", "generic_permission", "getname", "getname_flags", "inode_permission", "is_dir", "kern_path",
    "kern_path_create", "kern_path_locked", "lock_rename", "LOOKUP_AUTOMOUNT", "LOOKUP_CREATE",
    "LOOKUP_DIRECTORY", "LOOKUP_DOWN", "LOOKUP_EMPTY", "LOOKUP_EXCL", "LOOKUP_FOLLOW", "lookup_one_len",
    "lookup_one_len_unlocked", "LOOKUP_OPEN", "LOOKUP_PARENT", "LOOKUP_RENAME_TARGET", "LOOKUP_REVAL",
    "lookup_slow", "may_open", "NAME_MAX", "OpenFlags", "PATH_MAX", "RENAME_EXCHANGE", "RENAME_NOREPLACE",
    "RENAME_WHITEOUT", "unlock_rename", "user_path_at", "user_path_at_empty", "user_path_create", "vfs_create",
    "vfs_get_link", "vfs_link", "vfs_mkdir", "vfs_mknod", "vfs_mkobj", "vfs_path_lookup", "vfs_readlink",
    "vfs_rename", "vfs_rmdir", "vfs_symlink", "vfs_tmpfile", "vfs_unlink", "vfs_whiteout",
]


# ---- a place for a new name --------------------------------------------------------------------------------
@may_sleep
def filename_create(dfd: int, name: bytes, lookup_flags: int) -> tuple[Path, Dentry]:
    """(parent, negative dentry) for a new name, with references; the parent is locked and the mount counts a writer.

    The caller ends it with done_path_create(). Raises EEXIST, ENOENT ("a/" that is no directory), EROFS, EACCES ...
    """
    want_dir = lookup_flags & LOOKUP_DIRECTORY
    parent, last, last_type, last_slash = filename_parentat(dfd, name, lookup_flags & ~LOOKUP_DIRECTORY)
    try:
        if last_type != LAST_NORM:
            raise KernelError(EEXIST)                    # "/", "." or ".."
        error: KernelError | None = None
        try:
            mnt_want_write(parent.mnt)
        except KernelError as e:
            error = e                                    # EEXIST goes first
        try:
            dir = parent.dentry.d_inode
            assert dir is not None
            inode_lock(dir)
            try:
                dentry = __lookup_hash(last, parent.dentry)
                try:
                    if dentry.d_inode is not None:
                        raise KernelError(EEXIST)
                    if last_slash and not want_dir:
                        raise KernelError(ENOENT)
                    if error is not None:
                        raise KernelError(error.errno)
                except BaseException:
                    dput(dentry)
                    raise
            except BaseException:
                inode_unlock(dir)
                raise
        except BaseException:
            if error is None:
                mnt_drop_write(parent.mnt)
            raise
    except BaseException:
        path_put(parent)
        raise
    return parent, dentry


@may_sleep
def done_path_create(path: Path, dentry: Dentry) -> None:
    """Ends filename_create()."""
    dput(dentry)
    dir = path.dentry.d_inode
    assert dir is not None
    inode_unlock(dir)
    mnt_drop_write(path.mnt)
    path_put(path)


@may_sleep
def kern_path_create(_kernel: Kernel, dfd: int, pathname: bytes, lookup_flags: int = 0) -> tuple[Path, Dentry]:
    """filename_create() with a name of the kernel's."""
    return filename_create(dfd, pathname, lookup_flags)


@may_sleep
def user_path_create(dfd: int, pathname: UserPtr, lookup_flags: int) -> tuple[Path, Dentry]:
    """filename_create() with a name in user memory."""
    return filename_create(dfd, getname(pathname), lookup_flags)


@may_sleep
def kern_path_locked(_kernel: Kernel, name: bytes) -> tuple[Path, Dentry]:
    """(parent, dentry) of an existing or new name, the parent locked; references are the caller's."""
    parent, last, last_type, _ = filename_parentat(AT_FDCWD, name, 0)
    if last_type != LAST_NORM:
        path_put(parent)
        raise KernelError(EINVAL)
    dir = parent.dentry.d_inode
    assert dir is not None
    inode_lock(dir)
    try:
        return parent, __lookup_hash(last, parent.dentry)
    except BaseException:
        inode_unlock(dir)
        path_put(parent)
        raise


# ---- making ------------------------------------------------------------------------------------------------
@may_sleep
def vfs_create(dir: Inode, dentry: Dentry, mode: int) -> None:
    """Makes a regular file. Raises EEXIST, EACCES ..."""
    may_create(dir, dentry)
    if dir.i_security is not None:
        dir.i_sb.kernel.lsm.security_inode_create(dir, dentry)
    dir.i_op.create(dir, dentry, mode & 0o7777 | S_IFREG)
    fsnotify_dirent(dir, IN_CREATE, dentry, False)


vfs_mkobj = vfs_create


@may_sleep
def vfs_mknod(dir: Inode, dentry: Dentry, mode: int, dev: int) -> None:
    """Makes a device, FIFO or socket. Raises EPERM (a device without CAP_MKNOD), EEXIST ..."""
    may_create(dir, dentry)
    kind = mode & S_IFMT
    if ((kind == S_IFCHR and not (mode == S_IFCHR | WHITEOUT_MODE and dev == WHITEOUT_DEV)) or kind == S_IFBLK) \
            and not capable(CAP_MKNOD):
        raise KernelError(EPERM)
    if dir.i_security is not None:
        dir.i_sb.kernel.lsm.security_inode_mknod(dir, dentry, mode)
    dir.i_op.mknod(dir, dentry, mode, dev)
    fsnotify_dirent(dir, IN_CREATE, dentry, False)


@may_sleep
def vfs_mkdir(dir: Inode, dentry: Dentry, mode: int) -> None:
    """Makes a directory. Raises EEXIST, EMLINK ..."""
    may_create(dir, dentry)
    if dir.i_security is not None:
        dir.i_sb.kernel.lsm.security_inode_mkdir(dir, dentry)
    dir.i_op.mkdir(dir, dentry, mode & (S_IRWXUGO | S_ISVTX))
    fsnotify_dirent(dir, IN_CREATE, dentry, True)


@may_sleep
def vfs_symlink(dir: Inode, dentry: Dentry, oldname: bytes) -> None:
    """Makes a symlink with the text `oldname`."""
    may_create(dir, dentry)
    if dir.i_security is not None:
        dir.i_sb.kernel.lsm.security_inode_symlink(dir, dentry)
    dir.i_op.symlink(dir, dentry, oldname)
    fsnotify_dirent(dir, IN_CREATE, dentry, False)


@may_sleep
def vfs_whiteout(dir: Inode, dentry: Dentry) -> None:
    """A whiteout of overlayfs: the character device 0:0."""
    vfs_mknod(dir, dentry, S_IFCHR | WHITEOUT_MODE, WHITEOUT_DEV)


@may_sleep
def vfs_link(old_dentry: Dentry, dir: Inode, new_dentry: Dentry) -> None:
    """Gives a file one more name. Raises EXDEV, EPERM (directory), ENOENT (no name left), EMLINK, EEXIST."""
    inode = old_dentry.d_inode
    if inode is None:
        raise KernelError(ENOENT)
    may_create(dir, new_dentry)
    if dir.i_sb is not inode.i_sb:
        raise KernelError(EXDEV)
    if inode.i_flags & (S_APPEND | S_IMMUTABLE):
        raise KernelError(EPERM)
    if inode.i_mode & S_IFMT == S_IFDIR:
        raise KernelError(EPERM)
    if dir.i_security is not None:
        dir.i_sb.kernel.lsm.security_inode_link(old_dentry, dir)
    inode_lock(inode)
    try:
        if not inode.i_nlink and not inode.i_state & I_LINKABLE:
            raise KernelError(ENOENT)
        max_links = inode.i_sb.s_max_links
        if max_links and inode.i_nlink >= max_links:
            raise KernelError(EMLINK)
        dir.i_op.link(old_dentry, dir, new_dentry)
        inode.i_state &= ~I_LINKABLE
    finally:
        inode_unlock(inode)
    if inode.i_sb.kernel.vfs.nr_marks:
        fsnotify_link_count(inode)
        fsnotify_dirent(dir, IN_CREATE, new_dentry, False)


# ---- removing ----------------------------------------------------------------------------------------------
@notrace
def is_local_mountpoint(dentry: Dentry) -> bool:
    """True if something is mounted on the dentry in the caller's namespace."""
    if not dentry.d_flags & DCACHE_MOUNTED:
        return False
    ns = register.task.nsproxy.mnt_ns
    return any(mnt.mnt_mountpoint is dentry and mnt.mnt_parent is not mnt for mnt in ns.mounts.values())


@may_sleep
@notrace
def detach_mounts(dentry: Dentry) -> None:
    """Mounts that other namespaces have on a removed name go away."""
    if dentry.d_flags & DCACHE_MOUNTED:
        detach = dentry.d_sb.kernel.vfs.detach_mounts
        assert detach is not None
        detach(dentry)


@may_sleep
def vfs_rmdir(dir: Inode, dentry: Dentry) -> None:
    """Removes an empty directory. Raises ENOTEMPTY, EBUSY (mountpoint), ENOTDIR, EACCES, EPERM."""
    may_delete(dir, dentry, True)
    inode = dentry.d_inode
    assert inode is not None
    dget(dentry)
    inode_lock(inode)
    try:
        if is_local_mountpoint(dentry):
            raise KernelError(EBUSY)
        if dir.i_security is not None:
            dir.i_sb.kernel.lsm.security_inode_rmdir(dir, dentry)
        dir.i_op.rmdir(dir, dentry)
        shrink_dcache_parent(dentry)
        inode.i_flags |= S_DEAD
        dentry.d_flags |= DCACHE_CANT_MOUNT              # dont_mount()
        detach_mounts(dentry)
        if inode.i_sb.kernel.vfs.nr_marks:
            fsnotify_dirent(dir, IN_DELETE, dentry, True)
    finally:
        inode_unlock(inode)
        dput(dentry)
    d_delete(dentry)


@may_sleep
def vfs_unlink(dir: Inode, dentry: Dentry) -> None:
    """Removes a name of a file. Raises EISDIR, EBUSY (mountpoint), EACCES, EPERM."""
    may_delete(dir, dentry, False)
    target = dentry.d_inode
    assert target is not None
    inode_lock(target)
    try:
        if is_local_mountpoint(dentry):
            raise KernelError(EBUSY)
        if dir.i_security is not None:
            dir.i_sb.kernel.lsm.security_inode_unlink(dir, dentry)
        dir.i_op.unlink(dir, dentry)
        dentry.d_flags |= DCACHE_CANT_MOUNT
        detach_mounts(dentry)
        if target.i_sb.kernel.vfs.nr_marks:
            fsnotify_dirent(dir, IN_DELETE, dentry, False)
            fsnotify_link_count(target)
    finally:
        inode_unlock(target)
    d_delete(dentry)


# ---- renaming ----------------------------------------------------------------------------------------------
@may_sleep
def lock_rename(p1: Dentry, p2: Dentry) -> Dentry | None:
    """Locks both directories. Answers the child of one that is the other or above it ("trap"), or None."""
    i1, i2 = p1.d_inode, p2.d_inode
    assert i1 is not None and i2 is not None
    if p1 is p2:
        inode_lock(i1)
        return None
    sb = p1.d_sb
    if sb.s_rename_mutex is None:
        sb.s_rename_mutex = Mutex()
    mutex_lock(sb.s_rename_mutex)
    trap = d_ancestor(p2, p1)
    if trap is not None:
        inode_lock(i2)
        inode_lock(i1)
        return trap
    trap = d_ancestor(p1, p2)
    inode_lock(i1)
    inode_lock(i2)
    return trap


def unlock_rename(p1: Dentry, p2: Dentry) -> None:
    """Ends lock_rename()."""
    assert p1.d_inode is not None and p2.d_inode is not None
    inode_unlock(p1.d_inode)
    if p1 is not p2:
        inode_unlock(p2.d_inode)
        mutex_unlock(p1.d_sb.s_rename_mutex)


@may_sleep
def vfs_rename(old_dir: Inode, old_dentry: Dentry, new_dir: Inode, new_dentry: Dentry, flags: int) -> None:
    """Renames. Locks: lock_rename(). Raises EACCES, EPERM, ENOTDIR, EISDIR, EBUSY, EXDEV, EMLINK, ENOTEMPTY ..."""
    source, target = old_dentry.d_inode, new_dentry.d_inode
    if source is not None and source is target:
        return                                           # two names of one file
    may_delete(old_dir, old_dentry, is_dir(old_dentry))
    assert source is not None
    is_directory = source.i_mode & S_IFMT == S_IFDIR
    if target is None:
        may_create(new_dir, new_dentry)
    elif not flags & RENAME_EXCHANGE:
        may_delete(new_dir, new_dentry, is_directory)
    else:
        may_delete(new_dir, new_dentry, is_dir(new_dentry))
    if new_dir is not old_dir:
        # ".." changes: that is a write to the directory
        if is_directory:
            inode_permission(source, MAY_WRITE)
        if flags & RENAME_EXCHANGE and is_dir(new_dentry):
            assert target is not None
            inode_permission(target, MAY_WRITE)
    if old_dir.i_security is not None:
        exchange = bool(flags & RENAME_EXCHANGE)
        old_dir.i_sb.kernel.lsm.security_inode_rename(old_dir, old_dentry, new_dir, new_dentry, exchange)
    old_name = old_dentry.d_name
    dget(new_dentry)
    new_is_dir = is_dir(new_dentry)
    lock_target = not is_directory or flags & RENAME_EXCHANGE
    if lock_target:
        lock_two_nondirectories(source, target)
    elif target is not None:
        inode_lock(target)
    try:
        if is_local_mountpoint(old_dentry) or is_local_mountpoint(new_dentry):
            raise KernelError(EBUSY)
        max_links = new_dir.i_sb.s_max_links
        if max_links and new_dir is not old_dir:
            if is_directory and not new_is_dir and new_dir.i_nlink >= max_links:
                raise KernelError(EMLINK)
            if flags & RENAME_EXCHANGE and not is_directory and new_is_dir and old_dir.i_nlink >= max_links:
                raise KernelError(EMLINK)
        old_dir.i_op.rename(old_dir, old_dentry, new_dir, new_dentry, flags)
        if not flags & RENAME_EXCHANGE and target is not None:
            if is_directory:
                shrink_dcache_parent(new_dentry)
                target.i_flags |= S_DEAD
            new_dentry.d_flags |= DCACHE_CANT_MOUNT
            detach_mounts(new_dentry)
        if not old_dir.i_sb.s_type.fs_flags & FS_RENAME_DOES_D_MOVE:
            if flags & RENAME_EXCHANGE:
                d_exchange(old_dentry, new_dentry)
            else:
                d_move(old_dentry, new_dentry)
    finally:
        if lock_target:
            unlock_two_nondirectories(source, target)
        elif target is not None:
            inode_unlock(target)
        dput(new_dentry)
    if source.i_sb.kernel.vfs.nr_marks:
        fsnotify_move(old_dir, new_dir, old_name, old_dentry, None if flags & RENAME_EXCHANGE else target)
        if flags & RENAME_EXCHANGE:
            fsnotify_move(new_dir, old_dir, old_dentry.d_name, new_dentry, None)


@may_sleep
def do_renameat2(olddfd: int, oldname: UserPtr, newdfd: int, newname: UserPtr, flags: int) -> int:
    """renameat2(2). Errors: EINVAL, EXDEV, EBUSY, ENOENT, EEXIST, ENOTEMPTY, ENOTDIR, EPERM, EROFS ..."""
    if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT):
        raise KernelError(EINVAL)
    if flags & (RENAME_NOREPLACE | RENAME_WHITEOUT) and flags & RENAME_EXCHANGE:
        raise KernelError(EINVAL)
    if flags & RENAME_WHITEOUT and not capable(CAP_MKNOD):
        raise KernelError(EPERM)
    old_path, old_last, old_type, old_slash = filename_parentat(olddfd, getname(oldname), 0)
    try:
        new_path, new_last, new_type, new_slash = filename_parentat(newdfd, getname(newname), 0)
    except BaseException:
        path_put(old_path)
        raise
    try:
        if old_path.mnt is not new_path.mnt:
            raise KernelError(EXDEV)
        if old_type != LAST_NORM:
            raise KernelError(EBUSY)
        if new_type != LAST_NORM:
            raise KernelError(EEXIST if flags & RENAME_NOREPLACE else EBUSY)
        mnt_want_write(old_path.mnt)
        try:
            rename_names(old_path, old_last, old_slash, new_path, new_last, new_slash, flags)
        finally:
            mnt_drop_write(old_path.mnt)
    finally:
        path_put(new_path)
        path_put(old_path)
    return 0


@notrace
def rename_names(old_path: Path, old_last: bytes, old_slash: bool, new_path: Path, new_last: bytes,
                 new_slash: bool, flags: int) -> None:
    """do_renameat2() between its locks: looks both names up and checks what needs both."""
    trap = lock_rename(new_path.dentry, old_path.dentry)
    old_dentry = new_dentry = None
    try:
        old_dentry = __lookup_hash(old_last, old_path.dentry)
        if old_dentry.d_inode is None:
            raise KernelError(ENOENT)
        new_dentry = __lookup_hash(new_last, new_path.dentry)
        if flags & RENAME_NOREPLACE and new_dentry.d_inode is not None:
            raise KernelError(EEXIST)
        if flags & RENAME_EXCHANGE:
            if new_dentry.d_inode is None:
                raise KernelError(ENOENT)
            if not is_dir(new_dentry) and new_slash:
                raise KernelError(ENOTDIR)
        if not is_dir(old_dentry) and (old_slash or (not flags & RENAME_EXCHANGE and new_slash)):
            raise KernelError(ENOTDIR)
        if old_dentry is trap:
            raise KernelError(EINVAL)                    # into itself
        if new_dentry is trap:
            raise KernelError(EINVAL if flags & RENAME_EXCHANGE else ENOTEMPTY)
        old_dir, new_dir = old_path.dentry.d_inode, new_path.dentry.d_inode
        assert old_dir is not None and new_dir is not None
        vfs_rename(old_dir, old_dentry, new_dir, new_dentry, flags)
    finally:
        if new_dentry is not None:
            dput(new_dentry)
        if old_dentry is not None:
            dput(old_dentry)
        unlock_rename(new_path.dentry, old_path.dentry)


@syscall
def sys_renameat2(olddfd: int, oldname: UserPtr, newdfd: int, newname: UserPtr, flags: u32) -> int:
    """renameat2(2)."""
    return do_renameat2(olddfd, oldname, newdfd, newname, flags)


@syscall
def sys_renameat(olddfd: int, oldname: UserPtr, newdfd: int, newname: UserPtr) -> int:
    """renameat(2)."""
    return do_renameat2(olddfd, oldname, newdfd, newname, 0)


@syscall
def sys_rename(oldname: UserPtr, newname: UserPtr) -> int:
    """rename(2)."""
    return do_renameat2(AT_FDCWD, oldname, AT_FDCWD, newname, 0)


# ---- symlinks ----------------------------------------------------------------------------------------------
@may_sleep
def vfs_readlink(dentry: Dentry, buffer: UserPtr, buflen: int) -> int:
    """Copies a symlink's text; a magic link's is the path it leads to. Raises EINVAL if it is no link."""
    inode = dentry.d_inode
    assert inode is not None
    readlink = inode.i_op.readlink
    if readlink is not None:
        return readlink_copy(buffer, buflen, readlink(dentry))
    link = inode.i_link
    if link is None:
        get_link = inode.i_op.get_link
        if get_link is None:
            raise KernelError(EINVAL)
        text = get_link(dentry, inode)
        link = d_path(text) if isinstance(text, Path) else text
    return readlink_copy(buffer, buflen, link)


@may_sleep
def vfs_get_link(dentry: Dentry) -> bytes:
    """A symlink's text. Raises EINVAL if it is none, or a magic link without text."""
    inode = dentry.d_inode
    assert inode is not None
    if inode.i_security is not None and inode.i_op.get_link is not None:
        inode.i_sb.kernel.lsm.security_inode_readlink(dentry)
    if inode.i_link is not None:
        return inode.i_link
    get_link = inode.i_op.get_link
    if get_link is None:
        raise KernelError(EINVAL)
    text = get_link(dentry, inode)
    if isinstance(text, Path):
        raise KernelError(EINVAL)
    return text


@may_sleep
def readlink_copy(buffer: UserPtr, buflen: int, link: bytes) -> int:
    """Copies a link's text, cut to buflen, without a NUL."""
    link = link[:buflen]
    copy_to_user(buffer, link)
    return len(link)


@may_sleep
def do_symlinkat(oldname: UserPtr, newdfd: int, newname: UserPtr) -> int:
    """symlinkat(2). Errors: ENOENT (empty text), EEXIST, EROFS ..."""
    text = getname(oldname)
    path, dentry = filename_create(newdfd, getname(newname), 0)
    try:
        dir = path.dentry.d_inode
        assert dir is not None
        vfs_symlink(dir, dentry, text)
    finally:
        done_path_create(path, dentry)
    return 0


@syscall
def sys_symlinkat(oldname: UserPtr, newdfd: int, newname: UserPtr) -> int:
    """symlinkat(2)."""
    return do_symlinkat(oldname, newdfd, newname)


@syscall
def sys_symlink(oldname: UserPtr, newname: UserPtr) -> int:
    """symlink(2)."""
    return do_symlinkat(oldname, AT_FDCWD, newname)


# ---- link, unlink, mkdir, rmdir, mknod ---------------------------------------------------------------------
@may_sleep
def do_linkat(olddfd: int, oldname: UserPtr, newdfd: int, newname: UserPtr, flags: int) -> int:
    """linkat(2). Errors: EINVAL, ENOENT, EXDEV, EPERM, EEXIST, EMLINK ..."""
    if flags & ~(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH):
        raise KernelError(EINVAL)
    how = 0
    if flags & AT_EMPTY_PATH:
        if not capable(CAP_DAC_READ_SEARCH):
            raise KernelError(ENOENT)
        how = LOOKUP_EMPTY
    if flags & AT_SYMLINK_FOLLOW:
        how |= LOOKUP_FOLLOW
    old_path = user_path_at(olddfd, oldname, how)
    try:
        new_path, new_dentry = user_path_create(newdfd, newname, 0)
        try:
            if old_path.mnt is not new_path.mnt:
                raise KernelError(EXDEV)
            dir = new_path.dentry.d_inode
            assert dir is not None
            may_linkat(old_path)
            vfs_link(old_path.dentry, dir, new_dentry)
        finally:
            done_path_create(new_path, new_dentry)
    finally:
        path_put(old_path)
    return 0


@notrace
def safe_hardlink_source(inode: Inode) -> bool:
    """True for a plain file that the caller can read and write."""
    mode = inode.i_mode
    if mode & S_IFMT != S_IFREG or mode & S_ISUID or mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP:
        return False
    try:
        inode_permission(inode, MAY_READ | MAY_WRITE)
    except KernelError:
        return False
    return True


def may_linkat(link: Path) -> None:
    """sysctl fs.protected_hardlinks. Raises EPERM."""
    inode = link.dentry.d_inode
    assert inode is not None
    if inode.i_sb.kernel.vfs.protected_hardlinks and not safe_hardlink_source(inode) \
            and not inode_owner_or_capable(inode):
        raise KernelError(EPERM)


@syscall
def sys_linkat(olddfd: int, oldname: UserPtr, newdfd: int, newname: UserPtr, flags: int) -> int:
    """linkat(2)."""
    return do_linkat(olddfd, oldname, newdfd, newname, flags)


@syscall
def sys_link(oldname: UserPtr, newname: UserPtr) -> int:
    """link(2)."""
    return do_linkat(AT_FDCWD, oldname, AT_FDCWD, newname, 0)


@may_sleep
def do_unlinkat(dfd: int, name: bytes) -> int:
    """unlinkat(2) without AT_REMOVEDIR. Errors: EISDIR, ENOTDIR ("file/"), ENOENT, EBUSY, EROFS ..."""
    parent, last, last_type, slash = filename_parentat(dfd, name, 0)
    inode: Inode | None = None
    try:
        if last_type != LAST_NORM:
            raise KernelError(EISDIR)
        mnt_want_write(parent.mnt)
        try:
            dir = parent.dentry.d_inode
            assert dir is not None
            inode_lock(dir)
            try:
                dentry = __lookup_hash(last, parent.dentry)
                try:
                    victim = dentry.d_inode
                    if victim is None:
                        raise KernelError(ENOENT)
                    if slash:
                        raise KernelError(EISDIR if is_dir(dentry) else ENOTDIR)
                    victim.i_count += 1                  # ihold(): its data goes after the locks
                    inode = victim
                    vfs_unlink(dir, dentry)
                finally:
                    dput(dentry)
            finally:
                inode_unlock(dir)
            iput(inode)
            inode = None
        finally:
            if inode is not None:
                iput(inode)
            mnt_drop_write(parent.mnt)
    finally:
        path_put(parent)
    return 0


@may_sleep
def do_rmdir(dfd: int, name: bytes) -> int:
    """rmdir(2). Errors: ENOTEMPTY ("..", not empty), EINVAL ("."), EBUSY ("/", mountpoint), ENOTDIR, ENOENT ..."""
    parent, last, last_type, _ = filename_parentat(dfd, name, 0)
    try:
        if last_type != LAST_NORM:
            raise KernelError(ENOTEMPTY if last_type == LAST_DOTDOT else EINVAL if last_type == LAST_DOT else EBUSY)
        mnt_want_write(parent.mnt)
        try:
            dir = parent.dentry.d_inode
            assert dir is not None
            inode_lock(dir)
            try:
                dentry = __lookup_hash(last, parent.dentry)
                try:
                    if dentry.d_inode is None:
                        raise KernelError(ENOENT)
                    vfs_rmdir(dir, dentry)
                finally:
                    dput(dentry)
            finally:
                inode_unlock(dir)
        finally:
            mnt_drop_write(parent.mnt)
    finally:
        path_put(parent)
    return 0


@syscall
def sys_unlinkat(dfd: int, pathname: UserPtr, flag: int) -> int:
    """unlinkat(2). Errors: EINVAL (flags) and those of unlink and rmdir."""
    if flag & ~AT_REMOVEDIR:
        raise KernelError(EINVAL)
    if flag & AT_REMOVEDIR:
        return do_rmdir(dfd, getname(pathname))
    return do_unlinkat(dfd, getname(pathname))


@syscall
def sys_unlink(pathname: UserPtr) -> int:
    """unlink(2)."""
    return do_unlinkat(AT_FDCWD, getname(pathname))


@syscall
def sys_rmdir(pathname: UserPtr) -> int:
    """rmdir(2)."""
    return do_rmdir(AT_FDCWD, getname(pathname))


@may_sleep
def do_mkdirat(dfd: int, pathname: UserPtr, mode: int) -> int:
    """mkdirat(2)."""
    path, dentry = user_path_create(dfd, pathname, LOOKUP_DIRECTORY)
    try:
        dir = path.dentry.d_inode
        assert dir is not None
        if not dir.i_sb.s_flags & SB_POSIXACL:
            mode &= ~register.task.fs.umask
        vfs_mkdir(dir, dentry, mode)
    finally:
        done_path_create(path, dentry)
    return 0


@may_sleep
@notrace
def do_mkdirat_kernel(pathname: bytes, mode: int) -> None:
    """mkdir(2) with a name of the kernel's: what init scripts would do. The umask does not count."""
    path, dentry = filename_create(AT_FDCWD, pathname, LOOKUP_DIRECTORY)
    try:
        dir = path.dentry.d_inode
        assert dir is not None
        vfs_mkdir(dir, dentry, mode)
    finally:
        done_path_create(path, dentry)


@syscall
def sys_mkdirat(dfd: int, pathname: UserPtr, mode: u32) -> int:
    """mkdirat(2). Errors: EEXIST, ENOENT, ENOTDIR, EACCES, EROFS, EMLINK, ENOSPC."""
    return do_mkdirat(dfd, pathname, mode)


@syscall
def sys_mkdir(pathname: UserPtr, mode: u32) -> int:
    """mkdir(2)."""
    return do_mkdirat(AT_FDCWD, pathname, mode)


@notrace
def new_decode_dev(dev: int) -> int:
    """A dev_t of user space as the kernel keeps it."""
    return (dev & 0xFFF00) >> 8 << 20 | dev & 0xFF | dev >> 12 & 0xFFF00


@may_sleep
def do_mknodat(dfd: int, filename: UserPtr, mode: int, dev: int) -> int:
    """mknodat(2). Errors: EPERM (directory; device without CAP_MKNOD), EINVAL (type), EEXIST ..."""
    kind = mode & S_IFMT
    if kind not in (S_IFREG, S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK, 0):
        raise KernelError(EPERM if kind == S_IFDIR else EINVAL)
    path, dentry = user_path_create(dfd, filename, 0)
    try:
        dir = path.dentry.d_inode
        assert dir is not None
        if not dir.i_sb.s_flags & SB_POSIXACL:
            mode &= ~register.task.fs.umask
        if kind == 0 or kind == S_IFREG:
            vfs_create(dir, dentry, mode)
        elif kind in (S_IFCHR, S_IFBLK):
            vfs_mknod(dir, dentry, mode, new_decode_dev(dev))
        else:
            vfs_mknod(dir, dentry, mode, 0)
    finally:
        done_path_create(path, dentry)
    return 0


@syscall
def sys_mknodat(dfd: int, filename: UserPtr, mode: u32, dev: u32) -> int:
    """mknodat(2)."""
    return do_mknodat(dfd, filename, mode & 0xFFFF, dev)


@syscall
def sys_mknod(filename: UserPtr, mode: u32, dev: u32) -> int:
    """mknod(2)."""
    return do_mknodat(AT_FDCWD, filename, mode & 0xFFFF, dev)
