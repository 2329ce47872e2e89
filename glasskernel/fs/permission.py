"""Who may do what with an inode.

Linux: fs/namei.c (generic_permission ... may_create) (5.3). Same: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH rules,
sticky directories, EROFS before EACCES. Gaps: POSIX ACLs.
"""
from __future__ import annotations

from typing import TYPE_CHECKING

from glasskernel.fs.types import (
    MAY_EXEC,
    MAY_READ,
    MAY_WRITE,
    S_APPEND,
    S_DEAD,
    S_IFDIR,
    S_IFLNK,
    S_IFMT,
    S_IFREG,
    S_IMMUTABLE,
    S_ISVTX,
    S_IXUGO,
    S_SWAPFILE,
    SB_RDONLY,
)
from glasskernel.kernel.capability import (
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    CAP_FOWNER,
    capable_wrt_inode_uidgid,
)
from glasskernel.kernel.current import register
from glasskernel.lib.errno import EACCES, EBUSY, EEXIST, EISDIR, ENOENT, ENOTDIR, EPERM, EROFS, KernelError
from glasskernel.lib.types import notrace

if TYPE_CHECKING:
    from glasskernel.fs.types import Dentry, Inode


def generic_permission(inode: Inode, mask: int) -> None:
    """Checks MAY_* bits against the mode, then capabilities. Raises EACCES."""
    # acl_permission_check()
    mode = inode.i_mode
    cred = register.task.cred
    bits = mode
    if cred.fsuid == inode.i_uid:
        bits >>= 6
    elif (mask & 7) & ~(mode >> 3 & mode):      # the class matters only where group and others differ
        gid = inode.i_gid
        if gid == cred.fsgid or gid in cred.groups:
            bits >>= 3
    if not mask & ~bits & 7:
        return
    if mode & S_IFMT == S_IFDIR:
        if not mask & MAY_WRITE and capable_wrt_inode_uidgid(inode, CAP_DAC_READ_SEARCH):
            return
        if capable_wrt_inode_uidgid(inode, CAP_DAC_OVERRIDE):
            return
        raise KernelError(EACCES)
    if mask & 7 == MAY_READ and capable_wrt_inode_uidgid(inode, CAP_DAC_READ_SEARCH):
        return
    if (not mask & MAY_EXEC or mode & S_IXUGO) and capable_wrt_inode_uidgid(inode, CAP_DAC_OVERRIDE):
        return
    raise KernelError(EACCES)


def inode_permission(inode: Inode, mask: int) -> None:
    """May the caller do MAY_* to the inode? Raises EACCES, EROFS (writing), EPERM (immutable). Context: task."""
    if mask & MAY_WRITE:
        if inode.i_sb.s_flags & SB_RDONLY and inode.i_mode & S_IFMT in (S_IFREG, S_IFDIR, S_IFLNK):
            raise KernelError(EROFS)
        if inode.i_flags & S_IMMUTABLE:
            raise KernelError(EPERM)
    permission = inode.i_op.permission
    if permission is None:
        generic_permission(inode, mask)
    else:
        permission(inode, mask)
    if inode.i_security is not None:
        inode.i_sb.kernel.lsm.security_inode_permission(inode, mask)


def __check_sticky(dir: Inode, inode: Inode) -> bool:
    """True if a sticky directory forbids the caller to remove or rename the inode."""
    fsuid = register.task.cred.fsuid
    if inode.i_uid == fsuid or dir.i_uid == fsuid:
        return False
    return not capable_wrt_inode_uidgid(inode, CAP_FOWNER)


def may_delete(dir: Inode, victim: Dentry, isdir: bool) -> None:
    """May `victim` be removed from `dir`? Raises ENOENT, EACCES, EPERM, ENOTDIR, EISDIR, EBUSY."""
    inode = victim.d_inode
    if inode is None:
        raise KernelError(ENOENT)
    inode_permission(dir, MAY_WRITE | MAY_EXEC)
    if dir.i_flags & S_APPEND:
        raise KernelError(EPERM)
    if ((dir.i_mode & S_ISVTX and __check_sticky(dir, inode))
            or inode.i_flags & (S_APPEND | S_IMMUTABLE | S_SWAPFILE)):
        raise KernelError(EPERM)
    if isdir:
        if inode.i_mode & S_IFMT != S_IFDIR:
            raise KernelError(ENOTDIR)
        if victim.d_parent is victim:
            raise KernelError(EBUSY)
    elif inode.i_mode & S_IFMT == S_IFDIR:
        raise KernelError(EISDIR)
    if dir.i_flags & S_DEAD:
        raise KernelError(ENOENT)


def may_create(dir: Inode, child: Dentry) -> None:
    """May `child` be made in `dir`? Raises EEXIST, ENOENT (the directory was removed), EACCES."""
    if child.d_inode is not None:
        raise KernelError(EEXIST)
    if dir.i_flags & S_DEAD:
        raise KernelError(ENOENT)
    inode_permission(dir, MAY_WRITE | MAY_EXEC)


@notrace
def may_o_create(dir_inode: Inode, dentry: Dentry) -> None:
    """may_create() for open(O_CREAT)."""
    inode_permission(dir_inode, MAY_WRITE | MAY_EXEC)
    if dir_inode.i_security is not None:
        dir_inode.i_sb.kernel.lsm.security_inode_create(dir_inode, dentry)
