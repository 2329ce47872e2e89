"""Making, removing and renaming names in overlayfs.

Linux: fs/overlayfs/dir.c (5.3). Same: whiteouts, opaque directories; a directory with a lower part cannot
    be renamed (EXDEV, as without redirect_dir). Differs: changes are made in place in the upper layer,
    without workdir.
Owns: nothing. Locks: the caller holds i_rwsem of the overlay directories; the upper ones are taken here.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from glasskernel.fs.dcache import d_delete, d_instantiate, dget, dput
from glasskernel.fs.inode import inode_lock, inode_unlock
from glasskernel.fs.namei import lock_rename, unlock_rename, vfs_rename
from glasskernel.fs.overlayfs.copy_up import ovl_copy_up, upper_of
from glasskernel.fs.overlayfs.readdir import ovl_check_empty_dir
from glasskernel.fs.overlayfs.util import (
    OVL_I,
    lookup_real,
    override_creds,
    ovl_copyattr,
    ovl_get_inode,
    ovl_is_whiteout,
    ovl_set_opaque,
    revert_creds,
)
from glasskernel.fs.types import S_IFCHR, S_IFDIR, S_IFMT, S_ISGID
from glasskernel.kernel.current import current
from glasskernel.lib.errno import EEXIST, EINVAL, ENOTDIR, EPERM, EXDEV, KernelError
from glasskernel.lib.types import may_sleep, notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Inode

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2


@notrace
def _dir_changed(dir: Inode) -> None:
    """Link count and times of a directory follow the upper one."""
    upper = OVL_I(dir).upper
    if upper is not None and upper.d_inode is not None:
        ovl_copyattr(upper.d_inode, dir)


def ovl_lower_positive(dentry: Dentry) -> bool:
    """Is there something of this name below the upper layer?"""
    parent = dentry.d_parent.d_inode
    assert parent is not None
    for _, lowerdir in OVL_I(parent).lower:
        child = lookup_real(lowerdir, dentry.d_name)
        found = child.d_inode is not None
        dput(child)
        if found:
            return True
    return False


@notrace
def _remove_upper(dir: Inode, upper: Dentry) -> None:
    """unlink or rmdir in the upper layer. Locks: dir."""
    inode = upper.d_inode
    assert inode is not None
    if inode.i_mode & S_IFMT == S_IFDIR:
        dir.i_op.rmdir(dir, upper)
    else:
        dir.i_op.unlink(dir, upper)
    dget(upper)
    d_delete(upper)
    dput(upper)


def ovl_whiteout(dir: Inode, upperdir: Dentry, name: bytes) -> None:
    """Puts a whiteout into an upper directory. Locks: dir. Errors: ENOSPC ..."""
    dentry = lookup_real(upperdir, name)
    try:
        dir.i_op.mknod(dir, dentry, S_IFCHR, 0)
    finally:
        dput(dentry)


# ---- making --------------------------------------------------------------------------------------
@may_sleep
def ovl_create_object(dir: Inode, dentry: Dentry, mode: int,
                      make: Callable[[Inode, Dentry], None], hardlink: Inode | None) -> None:
    """A new name in the upper layer, over a whiteout if there is one. Errors: EROFS, ENOSPC ..."""
    parent = dentry.d_parent
    ovl_copy_up(parent)
    upperdir = upper_of(parent)
    updir = upperdir.d_inode
    assert updir is not None
    cred = current().cred
    uid, gid = cred.fsuid, cred.fsgid
    if updir.i_mode & S_ISGID:
        gid = updir.i_gid
    old = override_creds(dir.i_sb, uid, gid)
    lsm = dir.i_sb.kernel.lsm
    if lsm is not None and hardlink is None:
        try:
            lsm.security_dentry_create_files_as(dentry, mode, old, current().cred)
        except KernelError:
            revert_creds(old)
            raise
    inode_lock(updir)
    try:
        upper = lookup_real(upperdir, dentry.d_name)
        over_whiteout = ovl_is_whiteout(upper)
        if over_whiteout:
            _remove_upper(updir, upper)
            dput(upper)
            upper = lookup_real(upperdir, dentry.d_name)
        if upper.d_inode is not None:
            dput(upper)
            raise KernelError(EEXIST)
        try:
            make(updir, upper)
            if mode & S_IFMT == S_IFDIR and over_whiteout:
                ovl_set_opaque(upper)
        except KernelError:
            dput(upper)
            raise
        ovl_instantiate(dentry, upper, hardlink)
        _dir_changed(dir)
    finally:
        inode_unlock(updir)
        revert_creds(old)


def ovl_instantiate(dentry: Dentry, upper: Dentry, hardlink: Inode | None) -> None:
    """Gives the overlay's dentry its inode. Takes over the reference on upper."""
    if hardlink is not None:
        dput(upper)
        hardlink.i_count += 1
        hardlink.i_nlink += 1
        d_instantiate(dentry, hardlink)
        return
    d_instantiate(dentry, ovl_get_inode(dentry.d_sb, upper, [], False))


def ovl_create(dir: Inode, dentry: Dentry, mode: int) -> None:
    ovl_create_object(dir, dentry, mode, lambda d, u: d.i_op.create(d, u, mode), None)


def ovl_mkdir(dir: Inode, dentry: Dentry, mode: int) -> None:
    ovl_create_object(dir, dentry, S_IFDIR | mode, lambda d, u: d.i_op.mkdir(d, u, mode), None)


def ovl_mknod(dir: Inode, dentry: Dentry, mode: int, rdev: int) -> None:
    """Errors: EPERM for what would be a whiteout."""
    if mode & S_IFMT == S_IFCHR and rdev == 0:
        raise KernelError(EPERM)
    ovl_create_object(dir, dentry, mode, lambda d, u: d.i_op.mknod(d, u, mode, rdev), None)


def ovl_symlink(dir: Inode, dentry: Dentry, link: bytes) -> None:
    ovl_create_object(dir, dentry, 0o120777, lambda d, u: d.i_op.symlink(d, u, link), None)


def ovl_link(old: Dentry, newdir: Inode, new: Dentry) -> None:
    """The file is copied up first: links never cross layers."""
    ovl_copy_up(old)
    inode = old.d_inode
    assert inode is not None
    source = upper_of(old)
    ovl_create_object(newdir, new, inode.i_mode, lambda d, u: d.i_op.link(source, d, u), inode)


# ---- removing ------------------------------------------------------------------------------------
@may_sleep
def ovl_do_remove(dentry: Dentry, is_dir: bool) -> None:
    """Errors: ENOTEMPTY, EROFS, ENOSPC (a whiteout takes space) ..."""
    inode = dentry.d_inode
    parent = dentry.d_parent
    dir = parent.d_inode
    assert inode is not None and dir is not None
    whiteouts = ovl_check_empty_dir(dentry) if is_dir else []
    ovl_copy_up(parent)
    upperdir = upper_of(parent)
    updir = upperdir.d_inode
    assert updir is not None
    old = override_creds(dir.i_sb)
    inode_lock(updir)
    try:
        lower = ovl_lower_positive(dentry)
        upper = lookup_real(upperdir, dentry.d_name)
        try:
            if upper.d_inode is not None:
                ovl_clear_whiteouts(upper, whiteouts)
                _remove_upper(updir, upper)
        finally:
            dput(upper)
        if lower:
            ovl_whiteout(updir, upperdir, dentry.d_name)
        _dir_changed(dir)
    finally:
        inode_unlock(updir)
        revert_creds(old)
    if is_dir:
        inode.i_nlink = 0
    elif inode.i_nlink:
        inode.i_nlink -= 1


@notrace
def ovl_clear_whiteouts(upper: Dentry, whiteouts: list[bytes]) -> None:
    """Empties an upper directory that is empty for everybody else (ovl_cleanup_whiteouts)."""
    dir = upper.d_inode
    assert dir is not None
    if not whiteouts:
        return
    inode_lock(dir)
    try:
        for name in whiteouts:
            child = lookup_real(upper, name)
            if child.d_inode is not None:
                _remove_upper(dir, child)
            dput(child)
    finally:
        inode_unlock(dir)


def ovl_unlink(dir: Inode, dentry: Dentry) -> None:
    ovl_do_remove(dentry, False)


def ovl_rmdir(dir: Inode, dentry: Dentry) -> None:
    ovl_do_remove(dentry, True)


# ---- renaming ------------------------------------------------------------------------------------
@notrace
def _can_move(dentry: Dentry) -> None:
    """Errors: EXDEV for a directory with a lower part: its contents would stay behind."""
    inode = dentry.d_inode
    assert inode is not None
    if inode.i_mode & S_IFMT == S_IFDIR and (OVL_I(inode).upper is None or OVL_I(inode).lower):
        raise KernelError(EXDEV)


@may_sleep
def ovl_rename(olddir: Inode, old: Dentry, newdir: Inode, new: Dentry, flags: int) -> None:
    """Errors: EINVAL for other flags than NOREPLACE and EXCHANGE, EXDEV, ENOTEMPTY, ENOSPC ..."""
    if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
        raise KernelError(EINVAL)
    exchange = bool(flags & RENAME_EXCHANGE)
    if flags & RENAME_NOREPLACE and new.d_inode is not None:
        raise KernelError(EEXIST)
    is_dir = old.d_inode is not None and old.d_inode.i_mode & S_IFMT == S_IFDIR
    _can_move(old)
    if exchange:
        _can_move(new)
    whiteouts: list[bytes] = []
    if not exchange and new.d_inode is not None and new.d_inode.i_mode & S_IFMT == S_IFDIR:
        if not is_dir:
            raise KernelError(ENOTDIR)
        whiteouts = ovl_check_empty_dir(new)
    ovl_copy_up(old)
    ovl_copy_up(new.d_parent)
    if exchange:
        ovl_copy_up(new)
    old_upperdir, new_upperdir = upper_of(old.d_parent), upper_of(new.d_parent)
    cred = override_creds(olddir.i_sb)
    lock_rename(new_upperdir, old_upperdir)
    try:
        _rename_upper(old, new, old_upperdir, new_upperdir, exchange, is_dir, whiteouts)
        _dir_changed(olddir)
        _dir_changed(newdir)
    finally:
        unlock_rename(new_upperdir, old_upperdir)
        revert_creds(cred)
    target = new.d_inode
    if not exchange and target is not None and target.i_nlink:
        target.i_nlink -= 1


@notrace
def _rename_upper(old: Dentry, new: Dentry, old_upperdir: Dentry, new_upperdir: Dentry, exchange: bool,
                  is_dir: bool, whiteouts: list[bytes]) -> None:
    """The rename in the upper layer; whiteouts and opacity so that no lower name shines through."""
    olddir, newdir = old_upperdir.d_inode, new_upperdir.d_inode
    assert olddir is not None and newdir is not None
    old_lower = ovl_lower_positive(old)
    new_lower = ovl_lower_positive(new)
    source = lookup_real(old_upperdir, old.d_name)
    target = lookup_real(new_upperdir, new.d_name)
    try:
        if not exchange and target.d_inode is not None and (ovl_is_whiteout(target) or whiteouts):
            ovl_clear_whiteouts(target, whiteouts)
            if ovl_is_whiteout(target):
                _remove_upper(newdir, target)
                dput(target)
                target = lookup_real(new_upperdir, new.d_name)
        if is_dir and new_lower and not OVL_I(old.d_inode).opaque:  # type: ignore[arg-type]
            ovl_set_opaque(source)
            OVL_I(old.d_inode).opaque = True  # type: ignore[arg-type]
        if exchange and old_lower and target.d_inode is not None \
                and target.d_inode.i_mode & S_IFMT == S_IFDIR:
            ovl_set_opaque(target)
        name = old.d_name
        vfs_rename(olddir, source, newdir, target, RENAME_EXCHANGE if exchange else 0)
        if old_lower and not exchange:
            ovl_whiteout(olddir, old_upperdir, name)
    finally:
        dput(source)
        dput(target)


